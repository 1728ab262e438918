/*
 * step.c: how do a step's losses and gradients become an update of the weights, or a skipped step?
 * (kernels.h)
 *
 * Everything that is one number is double arithmetic. The norm is summed over fixed chunks of the arena, each
 * by one thread, added in order; AdamW is elementwise. Both are bound by memory: the norm reads 4 bytes an
 * element (cpu/f32), AdamW reads 16 and writes 12 in one pass, with masters in halves too.
 */
#include "slots.h"

#include <math.h>

size_t NAME(step_scratch)(const Limits *limits) {
    size_t sums = (size_t)chunk_count(limits->parameters) * CLIP_GROUPS;
    size_t stats = (size_t)PIECES_MAX * STAT_COUNT; /* of parameters, too, whose rows may be more than a call has tokens */
    return (sums > stats ? sums : stats) * sizeof(double);
}

void NAME(step_begin)(Queue *queue, const StepBegin *args) {
    (void)queue;
    args->state->loss_sum = 0;
    args->state->non_finite = 0;
    for (int i = 0; i < CLIP_GROUPS; i++) args->state->sum_squares[i] = 0;
}

void NAME(loss_reduce)(Queue *queue, const LossReduce *args) {
    (void)queue;
    const real *losses = args->losses;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t n = 0; n < args->N; n++) sum += (double)losses[n];
    args->state->loss_sum += sum;
}

/* --- Norm -------------------------------------------------------------------------------------------- */

/* In double: the squares of floats are exact there, and can neither overflow nor vanish. */
static double sum_squares_of(const real *grad, int64_t n) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)grad[i] * (double)grad[i];
    return sum;
}

static void sum_squares_chunk(const SumSquares *args, int64_t begin, int64_t end, double *sums) {
    for (int g = 0; g < CLIP_GROUPS; g++) sums[g] = 0;
    for (int i = slot_find(args->slots, args->n_slots, begin); i < args->n_slots; i++) {
        const ParamSlot *slot = &args->slots[i];
        if (slot->offset >= end) break;
        int64_t first = slot->offset > begin ? slot->offset : begin;
        double sum =
            sum_squares_of((const real *)args->grad + first, least(slot->offset + slot->count, end) - first);
        sums[CLIP_ALL] += sum;
        if (slot->clip_group == CLIP_GATES) sums[CLIP_GATES] += sum;
    }
}

void NAME(sum_squares)(Queue *queue, const SumSquares *args) {
    int64_t chunks = chunk_count(args->end - args->begin);
    double *sums = NAME(cpu_scratch)(queue, (size_t)chunks * CLIP_GROUPS * sizeof(double), "sum_squares");
#pragma omp parallel for schedule(static) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t begin = args->begin + i * CHUNK;
        sum_squares_chunk(args, begin, least(begin + CHUNK, args->end), sums + i * CLIP_GROUPS);
    }
    double total[CLIP_GROUPS] = {0};
    for (int64_t i = 0; i < chunks; i++)
        for (int g = 0; g < CLIP_GROUPS; g++) total[g] += sums[i * CLIP_GROUPS + g];
    for (int g = 0; g < CLIP_GROUPS; g++) args->state->sum_squares[g] += total[g];
}

/* --- Decision ---------------------------------------------------------------------------------------- */

/* Whether value is more than sigma population standard deviations above the mean of the full window.
 * Everything is taken relative to the window's first entry: a window of equal values then has a mean that is
 * exactly that value and a deviation of exactly 0. */
static bool is_spike(const double window[SKIP_WINDOW], double value, double sigma) {
    double mean = 0, squares = 0;
    for (int i = 0; i < SKIP_WINDOW; i++) mean += (window[i] - window[0]) / SKIP_WINDOW;
    for (int i = 0; i < SKIP_WINDOW; i++) {
        double d = window[i] - window[0] - mean;
        squares += d * d;
    }
    return value - window[0] - mean > sigma * sqrt(squares / SKIP_WINDOW);
}

/* The window decides once it is full; the loss is asked first. */
static SkipReason skip_reason(const StepState *s, double loss, double skip_sigma) {
    if (!isfinite(loss) || !isfinite(s->grad_norm)) return SKIP_NON_FINITE;
    if (skip_sigma <= 0 || s->window_count < SKIP_WINDOW) return SKIP_NONE;
    if (is_spike(s->loss_window, loss, skip_sigma)) return SKIP_LOSS_SPIKE;
    if (is_spike(s->norm_window, s->grad_norm, skip_sigma)) return SKIP_NORM_SPIKE;
    return SKIP_NONE;
}

static double clip_factor(double norm, double limit, double eps) {
    return limit > 0 && norm + eps > limit ? limit / (norm + eps) : 1;
}

/* The gates' own clip comes on top of the global one: clip_scale[CLIP_GATES] is the product. The norm that
 * enters the window is the one before clipping. */
static void decide_clip(StepState *s, const StepDecide *args) {
    s->grad_norm = sqrt(s->sum_squares[CLIP_ALL]);
    double clip = clip_factor(s->grad_norm, args->grad_clip, args->clip_eps);
    s->gate_norm = sqrt(s->sum_squares[CLIP_GATES]) * clip;
    s->clip_scale[CLIP_ALL] = clip;
    s->clip_scale[CLIP_GATES] = clip * clip_factor(s->gate_norm, args->gate_clip, args->clip_eps);
}

void NAME(step_decide)(Queue *queue, const StepDecide *args) {
    (void)queue;
    StepState *s = args->state;
    double loss = s->loss_sum * s->in.loss_scale;
    decide_clip(s, args);
    s->skip = skip_reason(s, loss, args->skip_sigma);
    if (s->skip != SKIP_NONE) {
        /* A spike is finite: it ends a row of steps that are not. */
        s->skips_in_a_row = s->skip == SKIP_NON_FINITE ? s->skips_in_a_row + 1 : 0;
        return;
    }
    s->skips_in_a_row = 0;
    s->applied++;
    s->bias_correction[0] = 1 - pow(args->beta1, (double)s->applied);
    s->bias_correction[1] = 1 - pow(args->beta2, (double)s->applied);
    s->loss_window[s->window_next] = loss;
    s->norm_window[s->window_next] = s->grad_norm;
    s->window_next = (s->window_next + 1) % SKIP_WINDOW;
    if (s->window_count < SKIP_WINDOW) s->window_count++;
}

/* --- AdamW ------------------------------------------------------------------------------------------- */

typedef struct AdamWFactors {
    real clip, beta1, beta2, rest1, rest2; /* rest: 1 − β */
    real unbias1, unbias2;                 /* 1/bc */
    real eps, lr, weight_decay;
} AdamWFactors;

static AdamWFactors adamw_factors(const AdamW *a, const ParamSlot *slot) {
    const StepState *s = a->state;
    return (AdamWFactors){
        .clip = (real)s->clip_scale[slot->clip_group],
        .beta1 = (real)a->beta1,
        .beta2 = (real)a->beta2,
        .rest1 = (real)(1 - a->beta1),
        .rest2 = (real)(1 - a->beta2),
        .unbias1 = (real)(1 / s->bias_correction[0]),
        .unbias2 = (real)(1 / s->bias_correction[1]),
        .eps = (real)a->eps,
        .lr = (real)(s->in.lr * slot->lr_scale),
        .weight_decay = (real)slot->weight_decay,
    };
}

/* With eps = 0 a moment of zero over a root of zero is no update: padding stays zero. Returns how many elements are no
 * finite numbers now: x − x is 0 for those that are. */
static int adamw_stretch(const AdamWFactors k, real *master, const real *grad, real *m, real *v, int64_t n) {
    int lost = 0;
#pragma omp simd reduction(+ : lost)
    for (int64_t i = 0; i < n; i++) {
        real g = k.clip * grad[i];
        real m_new = k.beta1 * m[i] + k.rest1 * g;
        real v_new = k.beta2 * v[i] + k.rest2 * (g * g);
        real root = (real)sqrt(v_new * k.unbias2) + k.eps;
        real update = root > 0 ? m_new * k.unbias1 / root : 0;
        m[i] = m_new;
        v[i] = v_new;
        real w = master[i] - k.lr * (update + k.weight_decay * master[i]);
        master[i] = w;
        real none = (m_new - m_new) + (v_new - v_new) + (w - w);
        lost += none != 0;
    }
    return lost;
}

static int adamw_masters(const AdamW *a, const ParamSlot *slot, int64_t first, int64_t n) {
    const Masters masters = {a->master, a->storage, a->lower};
    real buffer[MASTERS], *w = masters_read(masters, first, buffer, n);
    const int lost = adamw_stretch(adamw_factors(a, slot), w, (const real *)a->grad + first, (real *)a->m + first,
                                   (real *)a->v + first, n);
    return lost + masters_write(masters, first, w, n);
}

static int adamw_chunk(const AdamW *a, int64_t begin, int64_t end) {
    int lost = 0;
    for (int i = slot_find(a->slots, a->n_slots, begin); i < a->n_slots; i++) {
        const ParamSlot *slot = &a->slots[i];
        if (slot->offset >= end) break;
        const int64_t first = slot->offset > begin ? slot->offset : begin, last = least(slot->offset + slot->count, end);
        for (int64_t at = first; at < last; at += MASTERS) lost += adamw_masters(a, slot, at, least(MASTERS, last - at));
    }
    return lost;
}

void NAME(adamw)(Queue *queue, const AdamW *a) {
    (void)queue;
    if (a->state->skip != SKIP_NONE) return;
    for (int i = slot_find(a->slots, a->n_slots, a->begin); i < a->n_slots && a->slots[i].offset < a->end; i++)
        check(a->slots[i].optimizer == OPTIMIZER_ADAMW, "adamw: slot %d is of optimizer %d", i, a->slots[i].optimizer);
    int64_t chunks = chunk_count(a->end - a->begin), lost = 0;
#pragma omp parallel for schedule(static) reduction(+ : lost) if (chunks > 1)
    for (int64_t i = 0; i < chunks; i++) {
        int64_t begin = a->begin + i * CHUNK;
        lost += adamw_chunk(a, begin, least(begin + CHUNK, a->end));
    }
    a->state->non_finite += (uint64_t)lost;
}
