/* ops_plain_step.c: the loss, the optimizer's step, telemetry and conversion as plain loops. */
#include "ops_plain.h"

void PLAIN(cross_entropy)(Queue *queue, const CrossEntropy *e) {
    (void)queue;
    int64_t ld = padded(e->V);
    for (int64_t n = 0; n < e->N; n++) {
        uint32_t target = e->targets[n];
        bool counts = target != TARGET_IGNORED;
        real max = get_s(e->logits, n * ld), sum = 0;
        for (int v = 1; v < e->V; v++)
            if (get_s(e->logits, n * ld + v) > max) max = get_s(e->logits, n * ld + v);
        for (int v = 0; v < e->V; v++) sum += exp(get_s(e->logits, n * ld + v) - max);
        real lse = max + log(sum);
        put_a(e->losses, n, counts ? lse - get_s(e->logits, n * ld + target) : 0);
        for (int v = 0; e->gradient && v < e->V; v++) {
            real p = exp(get_s(e->logits, n * ld + v) - lse);
            real g = p - ((uint32_t)v == target) + 2 * (real)e->z_loss * lse * p;
            put_s(e->logits, n * ld + v, counts ? (real)e->state->in.loss_scale * g : 0);
        }
    }
}

void PLAIN(step_begin)(Queue *queue, const StepBegin *s) {
    (void)queue;
    s->state->loss_sum = 0;
    s->state->non_finite = 0;
    for (int g = 0; g < CLIP_GROUPS; g++) s->state->sum_squares[g] = 0;
}

void PLAIN(loss_reduce)(Queue *queue, const LossReduce *l) {
    (void)queue;
    real sum = 0;
    for (int64_t n = 0; n < l->N; n++) sum += get_a(l->losses, n);
    l->state->loss_sum = (double)(l->state->loss_sum + (wide)sum);
}

/* The slot that holds element i. */
static const ParamSlot *slot_of(const ParamSlot *slots, int n_slots, int64_t i) {
    for (int s = 0; s < n_slots; s++)
        if (i >= slots[s].offset && i < slots[s].offset + slots[s].count) return &slots[s];
    abort();
}

void PLAIN(sum_squares)(Queue *queue, const SumSquares *s) {
    (void)queue;
    real all = 0, gates = 0, unit = 0; /* a power of two near the largest: squares neither overflow nor vanish */
    for (int64_t i = s->begin; i < s->end; i++)
        if (fabs(get_a(s->grad, i)) > unit) unit = fabs(get_a(s->grad, i));
    unit = unit > 0 && isfinite(unit) ? ldexp((real)1, ilogb(unit)) : 1;
    for (int64_t i = s->begin; i < s->end; i++) {
        real g = get_a(s->grad, i) / unit;
        all += g * g;
        if (slot_of(s->slots, s->n_slots, i)->clip_group == CLIP_GATES) gates += g * g;
    }
    wide square = (wide)unit * (wide)unit;
    s->state->sum_squares[CLIP_ALL] = (double)(s->state->sum_squares[CLIP_ALL] + square * (wide)all);
    s->state->sum_squares[CLIP_GATES] = (double)(s->state->sum_squares[CLIP_GATES] + square * (wide)gates);
}

/* Whether value is more than sigma standard deviations above the mean of a full window. */
static bool spikes(const double *window, double value, double sigma) {
    wide mean = 0, var = 0;
    for (int i = 0; i < SKIP_WINDOW; i++) mean += window[i];
    mean /= SKIP_WINDOW;
    for (int i = 0; i < SKIP_WINDOW; i++) var += (window[i] - mean) * (window[i] - mean);
    return value > mean + sigma * sqrt(var / SKIP_WINDOW);
}

void PLAIN(step_decide)(Queue *queue, const StepDecide *d) {
    (void)queue;
    StepState *s = d->state;
    wide loss = (wide)s->loss_sum * s->in.loss_scale, norm = sqrt((wide)s->sum_squares[CLIP_ALL]);
    wide clip = d->grad_clip > 0 ? fmin(1, d->grad_clip / (norm + d->clip_eps)) : 1;
    wide gate_norm = clip * sqrt((wide)s->sum_squares[CLIP_GATES]);
    wide gate_clip = d->gate_clip > 0 ? fmin(1, d->gate_clip / (gate_norm + d->clip_eps)) : 1;
    s->grad_norm = (double)norm;
    s->gate_norm = (double)gate_norm;
    s->clip_scale[CLIP_ALL] = (double)clip;
    s->clip_scale[CLIP_GATES] = (double)(clip * gate_clip);
    s->skip = SKIP_NONE;
    bool full = d->skip_sigma > 0 && s->window_count == SKIP_WINDOW;
    if (!isfinite(loss) || !isfinite(norm))
        s->skip = SKIP_NON_FINITE;
    else if (full && spikes(s->loss_window, (double)loss, d->skip_sigma))
        s->skip = SKIP_LOSS_SPIKE;
    else if (full && spikes(s->norm_window, (double)norm, d->skip_sigma))
        s->skip = SKIP_NORM_SPIKE;
    s->skips_in_a_row = s->skip == SKIP_NON_FINITE ? s->skips_in_a_row + 1 : 0;
    if (s->skip != SKIP_NONE) return;
    s->loss_window[s->window_next] = (double)loss;
    s->norm_window[s->window_next] = (double)norm;
    s->window_next = (s->window_next + 1) % SKIP_WINDOW;
    if (s->window_count < SKIP_WINDOW) s->window_count++;
    s->applied++;
    s->bias_correction[0] = (double)(1 - pow((wide)d->beta1, (wide)s->applied));
    s->bias_correction[1] = (double)(1 - pow((wide)d->beta2, (wide)s->applied));
}

void PLAIN(adamw)(Queue *queue, const AdamW *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    real beta1 = (real)a->beta1, beta2 = (real)a->beta2, eps = (real)a->eps;
    real bc1 = (real)a->state->bias_correction[0], bc2 = (real)a->state->bias_correction[1];
    for (int64_t i = a->begin; i < a->end; i++) {
        const ParamSlot *slot = slot_of(a->slots, a->n_slots, i);
        real w = get_master(a->master, a->storage, a->lower, i), g = (real)a->state->clip_scale[slot->clip_group] * get_a(a->grad, i);
        real m = beta1 * get_a(a->m, i) + (real)(1 - a->beta1) * g;
        real v = beta2 * get_a(a->v, i) + (real)(1 - a->beta2) * (g * g);
        real rate = (real)(a->state->in.lr * slot->lr_scale);
        w -= rate * ((m / bc1) / (sqrt(v / bc2) + eps) + (real)slot->weight_decay * w);
        put_a(a->m, i, m);
        put_a(a->v, i, v);
        bool finite = put_master(a->master, a->storage, a->lower, i, w);
        if (!finite || !isfinite(get_a(a->m, i)) || !isfinite(get_a(a->v, i))) a->state->non_finite++;
    }
}

void PLAIN(tensor_stats)(Queue *queue, const TensorStats *t) {
    (void)queue;
    int64_t ld = padded(t->C);
    real s = scalar_or_one(t->s), squares = 0, max = 0, dot = 0, other = 0;
    double saturated = 0;
    for (int64_t n = 0; n < t->N; n++) {
        for (int c = 0; c < t->C; c++) {
            real a = s * plain_get(t->type, t->a, n * ld + c),
                 b = t->b ? plain_get(t->type, t->b, n * ld + c) : 0;
            squares += a * a;
            if (fabs(a) > max) max = fabs(a);
            dot += a * b;
            other += b * b;
            real gain =
                t->gain ? (real)t->gain_factor * get_a(t->gain, 0) * (t->row_gain ? get_a(t->row_gain, n) : 1)
                        : 0;
            real squashed = t->shift ? erf(gain * a + get_a(t->shift, 0)) : tanh(gain * a);
            if (fabs(squashed) > (real)0.99) saturated++;
        }
    }
    t->out[STAT_SUM_SQUARES] = (double)squares;
    t->out[STAT_MAX_ABS] = (double)max;
    t->out[STAT_DOT] = (double)dot;
    t->out[STAT_OTHER_SUM_SQUARES] = (double)other;
    t->out[STAT_SATURATED] = saturated;
}

/* Infinity stands where the next number would: what lies nearer to that than to the largest one overflows. */
static double bf16_place(uint16_t half) {
    double value = (double)bf16_to_float(half);
    return isinf(value) ? copysign(0x1p128, value) : value;
}

/* One rounding: the float's neighbours in bf16 are compared as doubles, an even one wins a tie. */
static uint16_t double_to_bf16(double value) {
    uint16_t nearest = float_to_bf16((float)value);
    for (int step = -1; isfinite(value) && step <= 1; step += 2) {
        uint16_t other = (uint16_t)(nearest + step);
        if (isnan(bf16_to_float(other))) continue;
        double distance = fabs(bf16_place(nearest) - value), its = fabs(bf16_place(other) - value);
        if (its < distance || (its == distance && other % 2 == 0)) nearest = other;
    }
    return nearest;
}

void PLAIN(cast)(Queue *queue, const Cast *c) {
    (void)queue;
    for (int64_t i = 0; i < c->n; i++) {
        double value = c->from == DTYPE_F64   ? ((const double *)c->src)[i]
                       : c->from == DTYPE_F32 ? ((const float *)c->src)[i]
                                              : bf16_to_float(((const uint16_t *)c->src)[i]);
        if (c->to == DTYPE_F64) ((double *)c->dst)[i] = value;
        if (c->to == DTYPE_F32) ((float *)c->dst)[i] = (float)value;
        if (c->to == DTYPE_BF16) ((uint16_t *)c->dst)[i] = double_to_bf16(value);
    }
}

void PLAIN(halves)(Queue *queue, const Halves *h) {
    (void)queue;
    for (int64_t i = 0; i < h->n; i++) {
        if (PLAIN_STORAGE == PLAIN_ACCUM) {
            if (h->join) put_a(h->master, i, get_s(h->storage, i));
            else put_s(h->storage, i, get_a(h->master, i));
        } else if (h->join) {
            put_a(h->master, i, get_master(NULL, h->storage, h->lower, i));
        } else {
            uint16_t unwanted = 0;
            put_master(NULL, (uint16_t *)h->storage + i, h->lower ? h->lower + i : &unwanted, 0, get_a(h->master, i));
        }
    }
}

/* As it is written down: each word's part from its own 64 bits. */
void PLAIN(hash)(Queue *queue, const Hash *h) {
    (void)queue;
    const uint32_t *words = h->words;
    *h->out = 0;
    for (int64_t i = 0; i < h->n; i++) {
        uint64_t x = (uint64_t)i * (UINT64_C(1) << 32) + words[i];
        x ^= x >> 30;
        x *= UINT64_C(0xbf58476d1ce4e5b9);
        x ^= x >> 27;
        x *= UINT64_C(0x94d049bb133111eb);
        *h->out += x ^ x >> 31;
    }
}
