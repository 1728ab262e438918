/* ops_plain_junction.c: the residual junction and the terms that feed it, as plain loops (MATH.md §1, §3,
 * §5). */
#include "ops_plain.h"

static real output_scale(const Norm *norm) {
    return norm->output_scale == 0 ? (real)1 : (real)norm->output_scale;
}
static real gamma_at(const Norm *norm, int c) {
    return norm->gamma ? get_a(norm->gamma, c) : (real)1;
}
static real beta_at(const Norm *norm, int c) {
    return norm->beta ? get_a(norm->beta, c) : (real)0;
}

static real mean_square(int C, const real *r) {
    real sum = 0;
    for (int c = 0; c < C; c++) sum += r[c] * r[c];
    return sum / (real)C;
}

/* y = norm(r), one row, statistics kept at n; v is BHyT's mean square, taken from r where v is NULL. */
static void norm_forward(const Norm *norm, int64_t n, int C, const real *r, const real *v, real *y) {
    real mean = 0, rstd = 0, a = 0, shift = 0;
    if (norm->kind == NORM_LAYERNORM) {
        real var = 0;
        for (int c = 0; c < C; c++) mean += r[c];
        mean /= (real)C;
        for (int c = 0; c < C; c++) var += (r[c] - mean) * (r[c] - mean);
        rstd = 1 / sqrt(var / (real)C + (real)norm->eps);
        put_a(norm->mean, n, mean);
    } else if (norm->kind == NORM_RMSNORM || norm->kind == NORM_BHYT) {
        rstd = 1 / sqrt((v ? *v : mean_square(C, r)) + (real)norm->eps);
    }
    if (norm->kind == NORM_LAYERNORM || norm->kind == NORM_RMSNORM || norm->kind == NORM_BHYT)
        put_a(norm->rstd, n, rstd);
    if (norm->kind == NORM_DYT || norm->kind == NORM_DERF) a = get_a(norm->scalar, 0);
    if (norm->kind == NORM_DERF) shift = get_a(norm->scalar, 1);
    if (norm->kind == NORM_BHYT) a = get_a(norm->scalar, 0) * rstd / (real)norm->kappa;
    for (int c = 0; c < C; c++) {
        real value;
        switch (norm->kind) {
        case NORM_LAYERNORM:
            value = gamma_at(norm, c) * ((r[c] - mean) * rstd) + beta_at(norm, c);
            break;
        case NORM_RMSNORM:
            value = gamma_at(norm, c) * (r[c] * rstd);
            break;
        case NORM_DYT:
            value = gamma_at(norm, c) * tanh(a * r[c]) + beta_at(norm, c);
            break;
        case NORM_BHYT:
            value = gamma_at(norm, c) * tanh(a * r[c]);
            break;
        case NORM_DERF:
            value = gamma_at(norm, c) * erf(a * r[c] + shift) + beta_at(norm, c);
            break;
        default:
            value = r[c];
            break;
        }
        y[c] = output_scale(norm) * value;
    }
}

typedef struct NormSums {
    real *dgamma, *dbeta, dscalar, dshift;
} NormSums;

static void sums_take(NormSums *sums, int C) {
    sums->dgamma = plain_array(C);
    sums->dbeta = plain_array(C);
    sums->dscalar = sums->dshift = 0;
}

static void sums_add(NormSums *sums, int C, const Norm *norm, const NormGradient *to) {
    for (int c = 0; to->dgamma && c < C; c++) add_a(to->dgamma, c, sums->dgamma[c]);
    for (int c = 0; to->dbeta && c < C; c++) add_a(to->dbeta, c, sums->dbeta[c]);
    if (to->dscalar) add_a(to->dscalar, 0, sums->dscalar);
    if (to->dscalar && norm->kind == NORM_DERF) add_a(to->dscalar, 1, sums->dshift);
    free(sums->dgamma);
    free(sums->dbeta);
}

/* dr = norm'(g), one row. Where v̂ was given (dv not NULL), *dv is its gradient and none goes through r. */
static void norm_backward(const Norm *norm, NormSums *sums, int64_t n, int C, const real *r, const real *g,
                          real *dr, real *dv) {
    bool keeps_mean = norm->kind == NORM_LAYERNORM,
         keeps_rstd = keeps_mean || norm->kind == NORM_RMSNORM || norm->kind == NORM_BHYT;
    real mean = keeps_mean ? get_a(norm->mean, n) : 0, rstd = keeps_rstd ? get_a(norm->rstd, n) : 0;
    real scalar = norm->scalar ? get_a(norm->scalar, 0) : 0, kappa = (real)norm->kappa;
    real a = norm->kind == NORM_BHYT ? scalar * rstd / kappa : scalar;
    real shift = norm->kind == NORM_DERF ? get_a(norm->scalar, 1) : 0;
    real sum = 0, dot = 0;
    for (int c = 0; c < C; c++) { /* dr[c] = gradient at the normalized (or squashed) value */
        real gc = output_scale(norm) * g[c], w = gc * gamma_at(norm, c), hat = 0;
        switch (norm->kind) {
        case NORM_LAYERNORM:
            hat = (r[c] - mean) * rstd;
            dr[c] = w;
            break;
        case NORM_RMSNORM:
            hat = r[c] * rstd;
            dr[c] = w;
            break;
        case NORM_DYT:
        case NORM_BHYT:
            hat = tanh(a * r[c]);
            dr[c] = w * (1 - hat * hat);
            break;
        case NORM_DERF:
            hat = erf(a * r[c] + shift);
            dr[c] = w * (real)1.1283791670955125738961589L * exp(-(a * r[c] + shift) * (a * r[c] + shift)); /* 2/√π */
            break;
        default:
            dr[c] = gc;
            break;
        }
        sums->dgamma[c] += gc * hat;
        sums->dbeta[c] += gc;
        sum += dr[c];
        dot += dr[c] * (keeps_mean ? (r[c] - mean) * rstd : r[c]);
    }
    if (norm->kind == NORM_DYT || norm->kind == NORM_DERF) sums->dscalar += dot;
    sums->dshift += sum;
    if (norm->kind == NORM_BHYT) sums->dscalar += dot * rstd / kappa;
    if (dv) *dv = -rstd * rstd * rstd / 2 * scalar / kappa * dot;
    for (int c = 0; c < C; c++) {
        switch (norm->kind) {
        case NORM_LAYERNORM:
            dr[c] = rstd * (dr[c] - sum / (real)C - (r[c] - mean) * rstd * dot / (real)C);
            break;
        case NORM_RMSNORM:
            dr[c] = rstd * (dr[c] - r[c] * rstd * rstd * dot / (real)C);
            break;
        case NORM_DYT:
        case NORM_DERF:
            dr[c] = a * dr[c];
            break;
        case NORM_BHYT:
            dr[c] = a * dr[c] - (dv ? 0 : r[c] * a * rstd * rstd / (real)C * dot);
            break;
        default:
            break;
        }
    }
}

/* f̃ of one row; z keeps f + bias and sdd(f + bias), which backward needs. */
static void inner_forward(const Junction *j, int64_t n, real *z, real *after_sdd, real *out) {
    int64_t ld = padded(j->C);
    for (int c = 0; c < j->C; c++) z[c] = get_s(j->f, n * ld + c) + (j->bias ? get_s(j->bias, c) : 0);
    if (j->sdd.kind != NORM_NONE)
        norm_forward(&j->sdd, n, j->C, z, NULL, after_sdd);
    else
        memcpy(after_sdd, z, (size_t)j->C * sizeof(real));
    if (j->inner.kind != NORM_NONE)
        norm_forward(&j->inner, n, j->C, after_sdd, NULL, out);
    else
        memcpy(out, after_sdd, (size_t)j->C * sizeof(real));
}

void PLAIN(junction_forward)(Queue *queue, const Junction *j) {
    (void)queue;
    int64_t ld = padded(j->C);
    real alpha = j->alpha == 0 ? (real)1 : (real)j->alpha, s_in = scalar_or_one(j->s_in),
         s_out = scalar_or_one(j->s_out), s_ride = scalar_or_one(j->s_ride);
    real *z = plain_array(j->C), *w = plain_array(j->C), *f = plain_array(j->C), *r = plain_array(j->C);
    for (int64_t n = 0; n < j->N; n++) {
        if (j->f) {
            inner_forward(j, n, z, w, f);
            for (int c = 0; c < j->C; c++)
                put_r(j->residual_is_accum, j->u, n * ld + c,
                      alpha * s_in * s_ride * get_r(j->residual_is_accum, j->x, n * ld + c) + f[c]);
        }
        const Residual *u = j->f ? j->u : j->x;
        for (int c = 0; c < j->C; c++) r[c] = s_out * get_r(j->residual_is_accum, u, n * ld + c);
        if (j->mean_square_out) put_a(j->mean_square_out, n, mean_square(j->C, r));
        real v = j->mean_square_in ? get_a(j->vhat, 0) * get_a(j->mean_square_in, n) + get_a(j->vhat, 1) : 0;
        norm_forward(&j->norm, n, j->C, r, j->mean_square_in ? &v : NULL, w);
        for (int c = 0; j->y && c < j->C; c++) put_s(j->y, n * ld + c, w[c]);
        for (int c = 0; j->y_residual && c < j->C; c++)
            put_r(j->residual_is_accum, j->y_residual, n * ld + c, w[c]);
    }
    free(z), free(w), free(f), free(r);
}

void PLAIN(junction_backward)(Queue *queue, const JunctionBackward *b) {
    (void)queue;
    const Junction *j = b->forward;
    int C = j->C;
    int64_t ld = padded(C);
    bool accum = j->residual_is_accum;
    real alpha = j->alpha == 0 ? (real)1 : (real)j->alpha, s_out = scalar_or_one(j->s_out), gate = 0;
    real *u = plain_array(C), *r = plain_array(C), *g = plain_array(C), *du = plain_array(C),
         *df = plain_array(C);
    real *z = plain_array(C), *w = plain_array(C), *unused = plain_array(C), *dbias = plain_array(C);
    NormSums norm, sdd, inner;
    sums_take(&norm, C), sums_take(&sdd, C), sums_take(&inner, C);
    for (int64_t n = 0; n < j->N; n++) {
        for (int c = 0; c < C; c++) {
            int64_t i = n * ld + c;
            u[c] = get_r(accum, j->f ? j->u : j->x, i);
            r[c] = s_out * u[c];
            g[c] = (b->dy ? get_s(b->dy, i) : 0) +
                   (j->post && b->dresidual_in ? get_r(accum, b->dresidual_in, i) : 0);
        }
        real dv = 0;
        norm_backward(&j->norm, &norm, n, C, r, g, du, j->mean_square_in ? &dv : NULL);
        if (b->dmean_square_out) put_a(b->dmean_square_out, n, get_a(j->vhat, 0) * dv);
        for (int c = 0; c < C; c++) {
            int64_t i = n * ld + c;
            if (!j->post && b->dresidual_in) du[c] += get_r(accum, b->dresidual_in, i);
            if (b->dmean_square_in) du[c] += get_a(b->dmean_square_in, n) * 2 * r[c] / (real)C;
            if (b->dgate) gate += du[c] * (j->post ? get_r(accum, j->x, i) : u[c]);
            put_r(accum, b->dresidual_out, i, alpha * du[c]);
        }
        memcpy(df, du, (size_t)C * sizeof(real));
        if (j->f && (j->sdd.kind != NORM_NONE || j->inner.kind != NORM_NONE)) {
            for (int c = 0; c < C; c++)
                z[c] = w[c] = get_s(j->f, n * ld + c) + (j->bias ? get_s(j->bias, c) : 0);
            if (j->sdd.kind != NORM_NONE)
                for (int c = 0; c < C; c++)
                    w[c] = output_scale(&j->sdd) * gamma_at(&j->sdd, c) * (z[c] * get_a(j->sdd.rstd, n));
            if (j->inner.kind != NORM_NONE) norm_backward(&j->inner, &inner, n, C, w, du, df, NULL);
            if (j->sdd.kind != NORM_NONE) {
                norm_backward(&j->sdd, &sdd, n, C, z, df, unused, NULL);
                memcpy(df, unused, (size_t)C * sizeof(real));
            }
        }
        for (int c = 0; c < C; c++) {
            dbias[c] += df[c];
            if (b->df) put_s(b->df, n * ld + c, df[c]);
        }
    }
    for (int c = 0; b->dbias && c < C; c++) add_a(b->dbias, c, dbias[c]);
    if (b->dgate) add_a(b->dgate, 0, -get_a(b->gate_slope, 0) * (j->post ? alpha * scalar_or_one(j->s_ride) : 1) * gate);
    sums_add(&norm, C, &j->norm, &b->norm), sums_add(&sdd, C, &j->sdd, &b->sdd), sums_add(&inner, C, &j->inner, &b->inner);
    free(u), free(r), free(g), free(du), free(df), free(z), free(w), free(unused), free(dbias);
}

void PLAIN(gpas_scales)(Queue *queue, const GpasScales *s) {
    (void)queue;
    for (int i = 0; i < s->n; i++) {
        real g = get_a(s->gate, i), act = 0, slope = 0, sigmoid = 1 / (1 + exp(-g));
        switch (s->activation) {
        case GPAS_SILU:
            act = g * sigmoid;
            slope = sigmoid * (1 + g * (1 - sigmoid));
            break;
        case GPAS_IDENTITY:
            act = g;
            slope = 1;
            break;
        case GPAS_RELU:
            act = g > 0 ? g : 0;
            slope = g > 0;
            break;
        case GPAS_TANH:
            act = tanh(g);
            slope = 1 - act * act;
            break;
        case GPAS_LEAKY_RELU:
            slope = g > 0 ? (real)1 : (real)0.01;
            act = slope * g;
            break;
        }
        put_a(s->scale, i, 1 - act);
        put_a(s->slope, i, slope);
    }
}

void PLAIN(product_norm)(Queue *queue, const ProductNorm *p) {
    (void)queue;
    int64_t ld_o = padded((int64_t)p->H * p->D), ld_qkv = padded(p->C);
    real sum = 0;
    for (int i = 0; i < p->C; i++) {
        for (int k = 0; k < p->C; k++) {
            real product = 0;
            for (int h = 0; h < p->H; h++) {
                int64_t row = (int64_t)(p->H + p->Hkv + h * p->Hkv / p->H) * p->D;
                for (int d = 0; d < p->D; d++)
                    product +=
                        get_s(p->w_o, i * ld_o + h * p->D + d) * get_s(p->w_qkv, (row + d) * ld_qkv + k);
            }
            sum += product * product;
        }
    }
    put_a(p->out, 0, sum / ((real)p->T * (real)p->C));
}

void PLAIN(bhyt_terms)(Queue *queue, const BhytTerms *t) {
    (void)queue;
    const Accum *weights = t->alpha_o ? t->alpha_o : t->gamma;
    real s = scalar_or_one(t->s), e = 0, lambda = get_a(t->lambda, 0), kappa = (real)t->kappa;
    for (int c = 0; weights && c < t->C; c++) e += get_a(weights, c) * get_a(weights, c);
    e = weights ? e / (real)t->C : 1;
    if (!t->alpha_o) e *= get_a(t->c, 0) * lambda * lambda / (kappa * kappa);
    put_a(t->vhat, 0, s * s);
    put_a(t->vhat, 1, s * s * (real)t->factor * e);
}
