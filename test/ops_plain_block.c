/* ops_plain_block.c: embedding, linear, Q/K/V, attention and the MLP's activation as plain loops. */
#include "ops_plain.h"

void PLAIN(embedding_forward)(Queue *queue, const Embedding *e) {
    (void)queue;
    int64_t ld = padded(e->C);
    for (int64_t n = 0; n < (int64_t)e->B * e->T; n++) {
        int64_t token = e->tokens[n], position = e->position ? e->position[n] : n % e->T;
        for (int c = 0; c < e->C; c++) {
            real x = scalar_or_one(e->scale) * get_s(e->token_table, token * ld + c);
            if (e->position_table) x += get_s(e->position_table, position * ld + c);
            put_r(e->residual_is_accum, e->x, n * ld + c, x);
        }
    }
}

void PLAIN(embedding_backward)(Queue *queue, const EmbeddingBackward *b) {
    (void)queue;
    const Embedding *e = b->forward;
    int64_t ld = padded(e->C), N = (int64_t)e->B * e->T, positions = 0;
    for (int64_t n = 0; n < N; n++) {
        int64_t position = e->position ? e->position[n] : n % e->T;
        if (position >= positions) positions = position + 1;
    }
    real *dtoken = plain_array(e->V * ld), *dposition = plain_array(positions * ld), dscale = 0;
    for (int64_t n = 0; n < N; n++) {
        int64_t token = e->tokens[n], position = e->position ? e->position[n] : n % e->T;
        for (int c = 0; c < e->C; c++) {
            real dx = get_r(e->residual_is_accum, b->dx, n * ld + c);
            dtoken[token * ld + c] += dx;
            dposition[position * ld + c] += dx;
            dscale += dx * get_s(e->token_table, token * ld + c);
        }
    }
    for (int64_t i = 0; i < e->V * ld; i++) add_a(b->dtoken_table, i, scalar_or_one(e->scale) * dtoken[i]);
    for (int64_t i = 0; b->dposition_table && i < positions * ld; i++)
        add_a(b->dposition_table, i, dposition[i]);
    if (b->dscale) add_a(b->dscale, 0, dscale);
    free(dtoken), free(dposition);
}

void PLAIN(linear_forward)(Queue *queue, const Linear *l) {
    (void)queue;
    int64_t ld_in = padded(l->in), ld_out = padded(l->out);
    for (int64_t n = 0; n < l->N; n++) {
        for (int64_t o = 0; o < l->out; o++) {
            real sum = 0;
            for (int64_t i = 0; i < l->in; i++)
                sum += get_s(l->x, n * ld_in + i) * get_s(l->w, o * ld_in + i);
            put_s(l->y, n * ld_out + o, sum + (l->bias ? get_s(l->bias, o) : 0));
        }
    }
}

void PLAIN(linear_backward_input)(Queue *queue, const LinearBackward *l) {
    (void)queue;
    int64_t ld_in = padded(l->in), ld_out = padded(l->out);
    for (int64_t n = 0; n < l->N; n++) {
        for (int64_t i = 0; i < l->in; i++) {
            real sum = 0;
            for (int64_t o = 0; o < l->out; o++)
                sum += get_s(l->dy, n * ld_out + o) * get_s(l->w, o * ld_in + i);
            put_s(l->dx, n * ld_in + i, sum);
        }
    }
}

void PLAIN(linear_backward_weight)(Queue *queue, const LinearBackward *l) {
    (void)queue;
    int64_t ld_in = padded(l->in), ld_out = padded(l->out);
    for (int64_t o = 0; o < l->out; o++) {
        for (int64_t i = 0; i < l->in; i++) {
            real sum = 0;
            for (int64_t n = 0; n < l->N; n++)
                sum += get_s(l->dy, n * ld_out + o) * get_s(l->x, n * ld_in + i);
            if (l->overwrite) put_a(l->dw, o * ld_in + i, sum);
            else add_a(l->dw, o * ld_in + i, sum);
        }
    }
}

/* One normalized group of a token's Q, K and V: where it starts, how long, its weights, where its rstd is
 * kept. */
typedef struct QkvGroup {
    int64_t start, length, rstd;
    const Accum *alpha;
    Accum *dalpha;
} QkvGroup;

static int qkv_groups(const Qkv *q, const QkvBackward *b, int64_t n, QkvGroup *groups) {
    const Accum *alphas[3] = {q->alpha_q, q->alpha_k, q->alpha_v};
    Accum *dalphas[3] = {b ? b->dalpha_q : NULL, b ? b->dalpha_k : NULL, b ? b->dalpha_v : NULL};
    int heads[3] = {q->H, q->Hkv, q->Hkv}, count = 0, all = q->H + 2 * q->Hkv;
    for (int part = 0, head = 0; part < 3; head += heads[part++]) {
        if (!alphas[part]) continue;
        if (q->norm == QKV_NORM_PROJECTION)
            groups[count++] = (QkvGroup){(int64_t)head * q->D, (int64_t)heads[part] * q->D, n * 3 + part,
                                         alphas[part], dalphas[part]};
        for (int h = 0; q->norm == QKV_NORM_HEAD && h < heads[part]; h++)
            groups[count++] =
                (QkvGroup){(int64_t)(head + h) * q->D, q->D, n * all + head + h, alphas[part], dalphas[part]};
    }
    return count;
}

/* Rotates q and k of one row by the position's angles; sign −1 rotates back. */
static void rotate_row(const Qkv *q, int64_t n, real *row, real sign) {
    int64_t position = q->position ? q->position[n] : n % q->T;
    int half = q->D / 2;
    for (int h = 0; h < q->H + q->Hkv; h++) {
        for (int i = 0; i < half; i++) {
            real cosine = get_a(q->rope, (position * half + i) * 2),
                 sine = sign * get_a(q->rope, (position * half + i) * 2 + 1);
            real *a = &row[h * q->D + i], *b = &row[h * q->D + half + i], first = *a;
            *a = first * cosine - *b * sine;
            *b = *b * cosine + first * sine;
        }
    }
}

void PLAIN(qkv_forward)(Queue *queue, const Qkv *q) {
    (void)queue;
    int64_t width = (int64_t)(q->H + 2 * q->Hkv) * q->D, ld = padded(width);
    real *row = plain_array(width);
    QkvGroup *groups = malloc(sizeof(QkvGroup) * (size_t)(q->H + 2 * q->Hkv));
    for (int64_t n = 0; n < (int64_t)q->B * q->T; n++) {
        for (int64_t i = 0; i < width; i++) row[i] = get_s(q->raw, n * ld + i);
        int count = q->norm == QKV_NORM_NONE ? 0 : qkv_groups(q, NULL, n, groups);
        for (int g = 0; g < count; g++) {
            real *z = row + groups[g].start;
            put_a(q->rstd, groups[g].rstd, rms_row(groups[g].length, z, q->eps, z));
            for (int64_t i = 0; i < groups[g].length; i++) z[i] *= get_a(groups[g].alpha, i);
        }
        if (q->rope) rotate_row(q, n, row, 1);
        for (int64_t i = 0; i < width; i++) put_s(q->qkv, n * ld + i, row[i]);
    }
    free(row), free(groups);
}

void PLAIN(qkv_backward)(Queue *queue, const QkvBackward *b) {
    (void)queue;
    const Qkv *q = b->forward;
    int64_t width = (int64_t)(q->H + 2 * q->Hkv) * q->D, ld = padded(width);
    real *row = plain_array(width), *z = plain_array(width), *dbias = plain_array(width);
    real *dalpha =
        plain_array(width); /* at each group's own place; heads are added up at the end, in order */
    QkvGroup *groups = malloc(sizeof(QkvGroup) * (size_t)(q->H + 2 * q->Hkv));
    int count = 0;
    for (int64_t n = 0; n < (int64_t)q->B * q->T; n++) {
        for (int64_t i = 0; i < width; i++) row[i] = get_s(b->dqkv, n * ld + i);
        if (q->rope) rotate_row(q, n, row, -1);
        count = q->norm == QKV_NORM_NONE ? 0 : qkv_groups(q, b, n, groups);
        for (int g = 0; g < count; g++) {
            int64_t start = groups[g].start, length = groups[g].length;
            real rstd = get_a(q->rstd, groups[g].rstd);
            for (int64_t i = 0; i < length; i++) {
                z[i] = get_s(q->raw, n * ld + start + i);
                dalpha[start + i] += row[start + i] * z[i] * rstd;
                row[start + i] *= get_a(groups[g].alpha, i);
            }
            rms_row_backward(length, z, rstd, row + start, row + start);
        }
        for (int64_t i = 0; i < width; i++) {
            dbias[i] += row[i];
            put_s(b->draw, n * ld + i, row[i]);
        }
    }
    for (int g = 0; g < count; g++) { /* the first group of each vector adds up all that share it */
        if (g > 0 && groups[g].dalpha == groups[g - 1].dalpha) continue;
        for (int64_t i = 0; groups[g].dalpha && i < groups[g].length; i++) {
            real sum = 0;
            for (int k = g; k < count && groups[k].dalpha == groups[g].dalpha; k++)
                sum += dalpha[groups[k].start + i];
            add_a(groups[g].dalpha, i, sum);
        }
    }
    for (int64_t i = 0; b->dbias && i < width; i++) add_a(b->dbias, i, dbias[i]);
    free(row), free(z), free(dbias), free(dalpha), free(groups);
}

/* Scaled score of query t with key s (row numbers in qkv), head h. */
static real score(const Attention *a, int64_t ld, int64_t t, int64_t s, int h) {
    int64_t q = t * ld + (int64_t)h * a->D, k = s * ld + (int64_t)(a->H + h * a->Hkv / a->H) * a->D;
    real dot = 0;
    for (int d = 0; d < a->D; d++) dot += get_s(a->qkv, q + d) * get_s(a->qkv, k + d);
    return dot / sqrt((real)a->D);
}

static int64_t first_seen(const Attention *a, int64_t n) {
    return a->doc_start ? a->doc_start[n] : 0;
}

void PLAIN(attention_forward)(Queue *queue, const Attention *a) {
    (void)queue;
    int64_t ld = padded((int64_t)(a->H + 2 * a->Hkv) * a->D), ld_out = padded((int64_t)a->H * a->D);
    real *p = plain_array(a->T);
    for (int b = 0; b < a->B; b++) {
        for (int h = 0; h < a->H; h++) {
            int64_t v = (int64_t)(a->H + a->Hkv + h * a->Hkv / a->H) * a->D;
            for (int64_t t = 0; t < a->T; t++) {
                int64_t n = (int64_t)b * a->T + t, first = first_seen(a, n);
                real max = 0, sum = 0;
                for (int64_t s = first; s <= t; s++) {
                    p[s] = score(a, ld, n, (int64_t)b * a->T + s, h);
                    if (s == first || p[s] > max) max = p[s];
                }
                for (int64_t s = first; s <= t; s++) sum += p[s] = exp(p[s] - max);
                for (int d = 0; d < a->D; d++) {
                    real out = 0;
                    for (int64_t s = first; s <= t; s++)
                        out += p[s] / sum * get_s(a->qkv, ((int64_t)b * a->T + s) * ld + v + d);
                    put_s(a->out, n * ld_out + (int64_t)h * a->D + d, out);
                }
                put_a(a->lse, ((int64_t)b * a->H + h) * a->T + t, max + log(sum));
            }
        }
    }
    free(p);
}

void PLAIN(attention_backward)(Queue *queue, const AttentionBackward *b) {
    (void)queue;
    const Attention *a = b->forward;
    int64_t width = (int64_t)(a->H + 2 * a->Hkv) * a->D, ld = padded(width),
            ld_out = padded((int64_t)a->H * a->D);
    int64_t N = (int64_t)a->B * a->T;
    real *sum = plain_array(N * width), scale = 1 / sqrt((real)a->D);
    for (int64_t n = 0; n < N; n++) {
        int64_t row = n / a->T * a->T, t = n % a->T;
        for (int h = 0; h < a->H; h++) {
            int kv = h * a->Hkv / a->H;
            int64_t q = (int64_t)h * a->D, k = (int64_t)(a->H + kv) * a->D, v = k + (int64_t)a->Hkv * a->D;
            real lse = get_a(a->lse, ((int64_t)(n / a->T) * a->H + h) * a->T + t), delta = 0;
            for (int d = 0; d < a->D; d++)
                delta += get_s(b->dout, n * ld_out + q + d) * get_s(a->out, n * ld_out + q + d);
            for (int64_t s = first_seen(a, n); s <= t; s++) {
                int64_t m = row + s;
                real p = exp(score(a, ld, n, m, h) - lse), dp = 0;
                for (int d = 0; d < a->D; d++)
                    dp += get_s(b->dout, n * ld_out + q + d) * get_s(a->qkv, m * ld + v + d);
                real ds = p * (dp - delta) * scale;
                for (int d = 0; d < a->D; d++) {
                    sum[m * width + v + d] += p * get_s(b->dout, n * ld_out + q + d);
                    sum[m * width + k + d] += ds * get_s(a->qkv, n * ld + q + d);
                    sum[n * width + q + d] += ds * get_s(a->qkv, m * ld + k + d);
                }
            }
        }
    }
    for (int64_t i = 0; i < N * width; i++) put_s(b->dqkv, i / width * ld + i % width, sum[i]);
    for (int64_t i = 0; b->dbias && i < width; i++) {
        real column = 0;
        for (int64_t n = 0; n < N; n++) column += get_s(b->dqkv, n * ld + i);
        add_a(b->dbias, i, column);
    }
    free(sum);
}

void PLAIN(attention_decode)(Queue *queue, const AttentionDecode *a) {
    (void)queue;
    int64_t ld = padded((int64_t)(a->H + 2 * a->Hkv) * a->D), ld_kv = padded((int64_t)a->Hkv * a->D);
    int64_t ld_out = padded((int64_t)a->H * a->D), kv_width = (int64_t)a->Hkv * a->D;
    real *p = plain_array(a->capacity);
    for (int64_t n = 0; n < (int64_t)a->B * a->T; n++) {
        int64_t cache = n / a->T * a->capacity, t = a->length[n / a->T] + n % a->T;
        for (int64_t i = 0; i < kv_width; i++) {
            put_s(a->k_cache, (cache + t) * ld_kv + i, get_s(a->qkv, n * ld + (int64_t)a->H * a->D + i));
            put_s(a->v_cache, (cache + t) * ld_kv + i,
                  get_s(a->qkv, n * ld + (int64_t)a->H * a->D + kv_width + i));
        }
        for (int h = 0; h < a->H; h++) {
            int64_t q = (int64_t)h * a->D, kv = (int64_t)(h * a->Hkv / a->H) * a->D;
            real max = 0, sum = 0;
            for (int64_t s = 0; s <= t; s++) {
                real dot = 0;
                for (int d = 0; d < a->D; d++)
                    dot += get_s(a->qkv, n * ld + q + d) * get_s(a->k_cache, (cache + s) * ld_kv + kv + d);
                p[s] = dot / sqrt((real)a->D);
                if (s == 0 || p[s] > max) max = p[s];
            }
            for (int64_t s = 0; s <= t; s++) sum += p[s] = exp(p[s] - max);
            for (int d = 0; d < a->D; d++) {
                real out = 0;
                for (int64_t s = 0; s <= t; s++)
                    out += p[s] / sum * get_s(a->v_cache, (cache + s) * ld_kv + kv + d);
                put_s(a->out, n * ld_out + q + d, out);
            }
        }
    }
    free(p);
}

static real gelu(real z) {
    return (real)0.5 * z * (1 + tanh((real)0.79788456080286535588L * (z + (real)0.044715L * z * z * z)));
}
static real gelu_slope(real z) {
    real k = (real)0.79788456080286535588L, t = tanh(k * (z + (real)0.044715L * z * z * z));
    return (real)0.5 * (1 + t) + (real)0.5 * z * (1 - t * t) * k * (1 + 3 * (real)0.044715L * z * z);
}

static real gelu_exact(real z) {
    return (real)0.5 * z * (1 + erf(z * (real)0.70710678118654752440L));
}
static real gelu_exact_slope(real z) {
    real density = (real)0.39894228040143267794L * exp((real)-0.5 * z * z);
    return (real)0.5 * (1 + erf(z * (real)0.70710678118654752440L)) + z * density;
}

/* A row of h: parts of F elements at stride padded(F); after α ⊙ rms(·) packed in z, normalized in hat. */
typedef struct ActivationRow {
    int parts, groups; /* groups: how many rms there are in a row */
    real *h, *hat, *z;
} ActivationRow;

static int64_t activation_at(const Activation *a, int64_t i) {
    return i / a->F * padded(a->F) + i % a->F;
}

static ActivationRow activation_row(const Activation *a) {
    int parts = a->kind == ACTIVATION_SWIGLU ? 2 : 1;
    int groups = a->norm == ACTIVATION_NORM_NONE ? 0 : a->norm == ACTIVATION_NORM_JOINT ? 1 : parts;
    int64_t n = (int64_t)parts * a->F;
    return (ActivationRow){parts, groups, plain_array(n), plain_array(n), plain_array(n)};
}

static void activation_row_read(const Activation *a, int64_t n, ActivationRow *row) {
    int64_t width = (int64_t)row->parts * a->F, ld = row->parts * padded(a->F);
    for (int64_t i = 0; i < width; i++) row->h[i] = row->z[i] = get_s(a->h, n * ld + activation_at(a, i));
}

void PLAIN(activation_forward)(Queue *queue, const Activation *a) {
    (void)queue;
    ActivationRow row = activation_row(a);
    int64_t width = (int64_t)row.parts * a->F;
    for (int64_t n = 0; n < a->N; n++) {
        activation_row_read(a, n, &row);
        for (int g = 0; g < row.groups; g++) {
            int64_t length = width / row.groups;
            put_a(a->rstd, n * row.groups + g,
                  rms_row(length, row.h + g * length, a->eps, row.z + g * length));
        }
        for (int64_t i = 0; row.groups && i < width; i++) row.z[i] *= get_a(a->alpha, activation_at(a, i));
        for (int64_t i = 0; i < a->F; i++) {
            real z = row.z[i], y;
            if (a->kind == ACTIVATION_GELU) y = gelu(z);
            else if (a->kind == ACTIVATION_GELU_EXACT) y = gelu_exact(z);
            else y = z / (1 + exp(-z)) * row.z[a->F + i];
            put_s(a->y, n * padded(a->F) + i, y);
        }
    }
    free(row.h), free(row.hat), free(row.z);
}

void PLAIN(activation_backward)(Queue *queue, const ActivationBackward *b) {
    (void)queue;
    const Activation *a = b->forward;
    ActivationRow row = activation_row(a);
    int64_t width = (int64_t)row.parts * a->F, ld = row.parts * padded(a->F);
    real *dz = plain_array(width), *dh = plain_array(width), *dalpha = plain_array(width),
         *dbias = plain_array(width);
    for (int64_t n = 0; n < a->N; n++) {
        activation_row_read(a, n, &row);
        for (int64_t i = 0; row.groups && i < width; i++) {
            row.hat[i] = row.h[i] * get_a(a->rstd, n * row.groups + i / (width / row.groups));
            row.z[i] = row.hat[i] * get_a(a->alpha, activation_at(a, i));
        }
        for (int64_t i = 0; i < a->F; i++) {
            real dy = get_s(b->dy, n * padded(a->F) + i), z = row.z[i], sigmoid = 1 / (1 + exp(-z));
            if (a->kind == ACTIVATION_GELU) {
                dz[i] = dy * gelu_slope(z);
            } else if (a->kind == ACTIVATION_GELU_EXACT) {
                dz[i] = dy * gelu_exact_slope(z);
            } else {
                dz[i] = dy * row.z[a->F + i] * sigmoid * (1 + z * (1 - sigmoid));
                dz[a->F + i] = dy * z * sigmoid;
            }
        }
        for (int64_t i = 0; row.groups && i < width; i++) {
            dalpha[i] += dz[i] * row.hat[i];
            dz[i] *= get_a(a->alpha, activation_at(a, i));
        }
        memcpy(dh, dz, (size_t)width * sizeof(real));
        for (int g = 0; g < row.groups; g++) {
            int64_t length = width / row.groups;
            rms_row_backward(length, row.h + g * length, get_a(a->rstd, n * row.groups + g), dz + g * length,
                             dh + g * length);
        }
        for (int64_t i = 0; i < width; i++) {
            dbias[i] += dh[i];
            put_s(b->dh, n * ld + activation_at(a, i), dh[i]);
        }
    }
    for (int64_t i = 0; b->dalpha && row.groups && i < width; i++)
        add_a(b->dalpha, activation_at(a, i), dalpha[i]);
    for (int64_t i = 0; b->dbias && i < width; i++) add_a(b->dbias, activation_at(a, i), dbias[i]);
    free(row.h), free(row.hat), free(row.z), free(dz), free(dh), free(dalpha), free(dbias);
}
