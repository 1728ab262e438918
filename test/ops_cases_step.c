/* ops_cases_step.c: cases of the loss, the optimizer's step, telemetry and conversion (how to write one:
 * ops_harness.h). */
#include "ops_harness.h"

#include <stddef.h>

/* --------------------------------------------------------------------------------------- cross-entropy */

typedef struct LossShape {
    int64_t N;
    int V;
} LossShape;
typedef struct LossVariant {
    bool gradient;
    double z_loss;
    enum { IGNORE_NONE, IGNORE_SOME, IGNORE_ALL } ignore;
    double size;
    bool nan;  /* the last logit of every other row is none */
    bool rest; /* gradients at targets are left out: beside them an error of the others would be too small to see */
} LossVariant;

static const LossShape loss_shapes[] = {{1, 1},   {3, 7},   {7, 65},  {31, 257},
                                        {5, 130}, {64, 31}, {96, 64}, {2, 5003}};
static const LossVariant loss_variants[] = {
    {.gradient = true, .size = 2},
    {.gradient = false, .size = 2},
    {.gradient = true, .ignore = IGNORE_SOME, .size = 2},
    {.gradient = false, .ignore = IGNORE_SOME, .size = 2},
    {.gradient = true, .ignore = IGNORE_ALL, .size = 2},
    {.gradient = true, .z_loss = 1e-2, .ignore = IGNORE_SOME, .size = 2},
    {.gradient = false, .z_loss = 1e-2, .size = 2},
    {.gradient = true, .size = 0},
    {.gradient = true, .size = 1e4},
    {.gradient = true, .ignore = IGNORE_SOME, .size = 2, .nan = true},
    {.gradient = true, .size = 2, .rest = true}};
/* Rows that fill the 48 KB of shared memory that a GPU's block has unasked, in fp32 and in bf16; and those that
 * do not fit at all: llama 3's vocabulary, and one logit more than whole packs. */
static const LossShape loss_long_shapes[] = {{1, 12288}, {1, 24576}, {2, 128257}};
static const LossVariant loss_long[] = {{.gradient = true, .z_loss = 1e-2, .size = 2},
                                        {.gradient = true, .size = 2, .rest = true},
                                        {.gradient = false, .size = 2}};
static const LossShape loss_measured_shapes[] = {{128, 50257}};
static const LossVariant loss_measured[] = {{.gradient = true, .size = 2}, {.gradient = false, .size = 2}};

static void declare_cross_entropy(Case *c, const void *shape, const void *variant) {
    const LossShape *s = shape;
    const LossVariant *v = variant;
    CrossEntropy *e = arguments(c, sizeof *e), *forward = arguments(c, sizeof *forward);
    StepState state = {.in = {.lr = 1e-3, .loss_scale = 1.0 / 17, .step = 3}, .loss_sum = 5};
    *e = (CrossEntropy){.N = s->N, .V = s->V, .z_loss = v->z_loss, .gradient = v->gradient};
    *forward = (CrossEntropy){.N = s->N, .V = s->V, .z_loss = v->z_loss};
    c->limits = (Limits){.N = s->N, .V = s->V, .head_chunk = s->N};
    describe(c, "N=%lld V=%d size=%g z=%g%s%s%s%s", (long long)s->N, s->V, v->size, v->z_loss,
             v->gradient ? " gradient" : "", v->nan ? " NaN" : "", v->rest ? " beside targets" : "",
             v->ignore == IGNORE_ALL ? " all ignored"
             : v->ignore             ? " some ignored"
                                     : "");
    Tensor *logits = matrix(c, TO(e->logits), STORAGE, v->gradient ? INOUT : IN, s->N, s->V);
    ALSO(spread(c, logits, 0, v->size), forward->logits);
    for (int64_t n = 0; v->nan && n < s->N; n += 2) logits->value[(n + 1) * s->V - 1] = NAN;
    logits->only_finite = s->V == 1 || v->size > 100; /* a gradient of 1 − 1, or all in one element */
    Tensor *targets = indices(c, TO(e->targets), s->N, s->V);
    if (v->rest) logits->ignored = arguments(c, (size_t)tensor_count(logits));
    for (int64_t n = 0; v->rest && n < s->N; n++) logits->ignored[n * s->V + (int64_t)targets->value[n]] = true;
    Tensor *counts = flat(c, NULL, "counts", ACCUM, IN, 1, s->N);
    for (int64_t n = 0; n < s->N; n++) {
        bool ignored = v->ignore == IGNORE_ALL || (v->ignore == IGNORE_SOME && (n % 3 == 1 || s->N == 1));
        if (ignored) targets->value[n] = TARGET_IGNORED;
        counts->value[n] = ignored ? 0 : state.in.loss_scale;
    }
    ALSO(targets, forward->targets);
    Tensor *losses = flat(c, TO(e->losses), ACCUM, OUT, 1, s->N);
    if (v->gradient) structure(c, TO(e->state), IN, &state, sizeof state);
    call(c, OP_cross_entropy, e);
    /* The losses leave the z term out; of one loss over 5003, or of 1e4, differences resolve too little. */
    if (!v->gradient || v->z_loss != 0 || v->size > 100 || s->V > 1000 || v->nan) return;
    Tensor *before = flat(c, TO(forward->losses), ACCUM, MADE, 1, s->N);
    (void)losses;
    prepare(c, OP_cross_entropy, forward);
    upstream(c, before, counts, NULL);
    derivative(logits, logits, 1);
}

/* ------------------------------------------------------------------------------------- the step's sums */

typedef struct CountShape {
    int64_t n;
} CountShape;
static const CountShape count_shapes[] = {{1}, {3}, {31}, {64}, {257}, {1000}, {20000}};
static const bool no_variant[] = {false};

#define MEMBER(c, state, name, role, n) inside(c, state, #name, role, offsetof(StepState, name), n)

/* The count of lost elements: exact, and 3 before the call. */
static void count_lost(Case *c, Tensor *state, Role role) {
    Tensor *count = constant(MEMBER(c, state, non_finite, role, 1), 3);
    count->integer = count->exact = true;
}

static StepState some_state(void) {
    return (StepState){.in = {.lr = 1e-3, .loss_scale = 1.0 / 17, .step = 4},
                       .loss_sum = 2.5,
                       .sum_squares = {0.75, 0.25},
                       .clip_scale = {0.6, 0.35},
                       .bias_correction = {1 - 0.9 * 0.9 * 0.9, 1 - 0.95 * 0.95 * 0.95},
                       .applied = 3};
}

static void declare_loss_reduce(Case *c, const void *shape, const void *variant) {
    const CountShape *s = shape;
    LossReduce *a = arguments(c, sizeof *a);
    StepState state = some_state();
    (void)variant;
    *a = (LossReduce){.N = s->n};
    describe(c, "N=%lld", (long long)s->n);
    c->limits = (Limits){.N = s->n, .head_chunk = s->n};
    spread(c, flat(c, TO(a->losses), ACCUM, IN, 1, s->n), 4, 1);
    Tensor *t = structure(c, TO(a->state), IN, &state, sizeof state);
    constant(MEMBER(c, t, loss_sum, ADDED, 1), state.loss_sum);
    call(c, OP_loss_reduce, a);
}

static void declare_step_begin(Case *c, const void *shape, const void *variant) {
    StepBegin *a = arguments(c, sizeof *a);
    StepState state = some_state();
    (void)shape, (void)variant;
    describe(c, "state");
    Tensor *t = structure(c, TO(a->state), IN, &state, sizeof state);
    MEMBER(c, t, loss_sum, OUT, 1);
    MEMBER(c, t, sum_squares, OUT, CLIP_GROUPS);
    count_lost(c, t, OUT);
    call(c, OP_step_begin, a);
}

/* ------------------------------------------------------------------------------------------ the arenas */

typedef struct ArenaShape {
    int n_slots;
    struct {
        int rows, cols, clip_group;
        double weight_decay, lr_scale;
    } slot[6];
    int begin_slot, skip; /* the range starts `skip` elements into that slot … */
    int cut;              /* … and ends so many before the arena's end */
} ArenaShape;

static const ArenaShape arena_shapes[] = {
    {.n_slots = 1, .slot = {{1, 1, CLIP_ALL, 0, 1}}},
    {.n_slots = 2, .slot = {{3, 65, CLIP_ALL, 0.1, 1}, {1, 1, CLIP_GATES, 0, 1}}},
    {.n_slots = 4,
     .slot = {{7, 31, CLIP_ALL, 0.1, 1},
              {1, 257, CLIP_ALL, 0, 0.5},
              {1, 5, CLIP_GATES, 0, 2},
              {130, 64, CLIP_ALL, 0.01, 1}}},
    {.n_slots = 4,
     .slot = {{7, 31, CLIP_ALL, 0.1, 1},
              {1, 257, CLIP_ALL, 0, 0.5},
              {1, 5, CLIP_GATES, 0, 2},
              {64, 65, CLIP_ALL, 0.01, 1}},
     .begin_slot = 1,
     .skip = 64,
     .cut = 128},
    {.n_slots = 3,
     .slot = {{1, 3, CLIP_GATES, 0, 1}, {257, 130, CLIP_ALL, 0.1, 1}, {1, 96, CLIP_ALL, 0, 1}},
     .begin_slot = 1},
};
static const ArenaShape arena_measured[] = {{.n_slots = 1, .slot = {{3072, 768, CLIP_ALL, 0.1, 1}}}};

typedef struct Arena {
    ParamSlot slots[6];
    int64_t begin, end, count;
} Arena;

/* A matrix's padding: padded(rows) rows of padded(cols); a vector's: padded(cols). */
static Arena arena(Case *c, const ArenaShape *s) {
    Arena a = {{{0}}, 0, 0, 0};
    for (int i = 0; i < s->n_slots; i++) {
        int64_t rows = s->slot[i].rows == 1 ? 1 : padded(s->slot[i].rows),
                count = rows * padded(s->slot[i].cols);
        a.slots[i] = (ParamSlot){.offset = a.count,
                                 .count = count,
                                 .rows = s->slot[i].rows,
                                 .cols = s->slot[i].cols,
                                 .clip_group = s->slot[i].clip_group,
                                 .weight_decay = s->slot[i].weight_decay,
                                 .lr_scale = s->slot[i].lr_scale};
        a.count += count;
    }
    a.begin = a.slots[s->begin_slot].offset + s->skip;
    a.end = a.count - s->cut;
    describe(c, "%d slots, %lld to %lld of %lld", s->n_slots, (long long)a.begin, (long long)a.end,
             (long long)a.count);
    c->limits = (Limits){.parameters = a.count, .slots = s->n_slots};
    return a;
}

/* An arena's numbers: of that size in the true elements, zero in the padding. */
static Tensor *fill_arena(Case *c, Tensor *t, const ArenaShape *s, const Arena *a, double size,
                          bool positive) {
    constant(t, 0);
    for (int i = 0; i < s->n_slots; i++) {
        for (int row = 0; row < a->slots[i].rows; row++) {
            for (int col = 0; col < a->slots[i].cols; col++) {
                double x = size * centred(c);
                t->value[a->slots[i].offset + row * padded(a->slots[i].cols) + col] =
                    positive ? fabs(x) + size / 3 : x;
            }
        }
    }
    return t;
}

/* Sizes whose squares are beyond fp32 either way, and one where only some are. */
static const double gradient_sizes[] = {1, 1e25, 1e-25, 1.5e19};

static void declare_sum_squares(Case *c, const void *shape, const void *variant) {
    const ArenaShape *s = shape;
    const double size = *(const double *)variant;
    SumSquares *a = arguments(c, sizeof *a);
    StepState state = some_state();
    Arena all = arena(c, s);
    describe(c, " size=%g", size);
    *a = (SumSquares){.begin = all.begin, .end = all.end, .n_slots = s->n_slots};
    fill_arena(c, flat(c, TO(a->grad), ACCUM, IN, 1, all.count), s, &all, size, false);
    structure(c, TO(a->slots), IN, all.slots, (size_t)s->n_slots * sizeof(ParamSlot));
    Tensor *t = structure(c, TO(a->state), IN, &state, sizeof state);
    Tensor *squares = MEMBER(c, t, sum_squares, ADDED, CLIP_GROUPS);
    squares->value[0] = 0.75 * size * size, squares->value[1] = 0.25 * size * size;
    call(c, OP_sum_squares, a);
}

typedef struct AdamVariant {
    double eps;
    bool first;   /* moments are zero */
    bool skipped; /* the step is: a gradient is not finite, and nothing may change */
    bool lost;    /* some weights and moments are no finite numbers; how they become so: ops_sequence.c */
} AdamVariant;
static const AdamVariant adam_variants[] = {{.eps = 1e-8},
                                            {.eps = 1e-8, .first = true},
                                            {.eps = 1e-3},
                                            {.eps = 1e-8, .skipped = true}};
static const AdamVariant adam_lost[] = {{.eps = 1e-8, .lost = true},
                                        {.eps = 1e-8, .lost = true, .skipped = true}};
static const double size_measured[] = {1};
static const AdamVariant adam_measured[] = {{.eps = 1e-8}};

/* In the range's first, last and middle element, and in one that the range leaves out. */
static void lose_numbers(const Arena *all, Tensor *master, Tensor *m, Tensor *v) {
    m->value[all->begin] = -INFINITY;
    v->value[all->end - 1] = INFINITY;
    master->value[(all->begin + all->end) / 2] = NAN;
    if (all->begin > 0) m->value[all->begin - 1] = NAN;
}

static void declare_adamw(Case *c, const void *shape, const void *variant) {
    const ArenaShape *s = shape;
    const AdamVariant *v = variant;
    AdamW *a = arguments(c, sizeof *a);
    StepState state = some_state();
    Arena all = arena(c, s);
    Role changes = v->skipped ? IN : INOUT;
    describe(c, " eps=%g%s%s%s", v->eps, v->first ? " first" : "", v->skipped ? " skipped" : "",
             v->lost ? " lost numbers" : "");
    *a = (AdamW){.begin = all.begin,
                 .end = all.end,
                 .n_slots = s->n_slots,
                 .beta1 = 0.9,
                 .beta2 = 0.95,
                 .eps = v->eps};
    if (v->first) state.applied = 1, state.bias_correction[0] = 1 - 0.9, state.bias_correction[1] = 1 - 0.95;
    if (v->skipped) state.skip = SKIP_NON_FINITE, state.skips_in_a_row = 1;
    Tensor *grad = fill_arena(c, flat(c, TO(a->grad), ACCUM, IN, 1, all.count), s, &all, 0.1, false);
    if (v->skipped) grad->value[all.begin] = NAN;
    Tensor *master = fill_arena(c, flat(c, TO(a->master), ACCUM, changes, 1, all.count), s, &all, 1, false);
    Tensor *storage =
        fill_arena(c, flat(c, TO(a->storage), STORAGE, changes, 1, all.count), s, &all, 0, false);
    storage->copy_of = master;
    Tensor *first =
        fill_arena(c, flat(c, TO(a->m), ACCUM, changes, 1, all.count), s, &all, v->first ? 0 : 0.05, false);
    Tensor *second =
        fill_arena(c, flat(c, TO(a->v), ACCUM, changes, 1, all.count), s, &all, v->first ? 0 : 0.01, true);
    if (v->lost) lose_numbers(&all, master, first, second);
    memcpy(storage->value, master->value, (size_t)all.count * sizeof(double));
    structure(c, TO(a->slots), IN, all.slots, (size_t)s->n_slots * sizeof(ParamSlot));
    count_lost(c, structure(c, TO(a->state), IN, &state, sizeof state), v->skipped ? IN : ADDED);
    call(c, OP_adamw, a);
}

/* ------------------------------------------------------------------------------- telemetry, conversion */

typedef struct StatsShape {
    int64_t N;
    int C;
} StatsShape;
typedef struct StatsVariant {
    TypeClass type;
    bool s, b, gain, row_gain, zero;
} StatsVariant;
static const StatsShape stats_shapes[] = {{1, 1}, {3, 7}, {31, 64}, {65, 65}, {7, 257}, {130, 96}};
static const StatsVariant stats_variants[] = {
    {.type = STORAGE},
    {.type = STORAGE, .s = true, .b = true},
    {.type = ACCUM, .b = true, .gain = true},
    {.type = STORAGE, .s = true, .b = true, .gain = true, .row_gain = true},
    {.type = STORAGE, .b = true, .zero = true},
    {.type = FIXED_F64, .s = true, .b = true, .gain = true}};

static void declare_tensor_stats(Case *c, const void *shape, const void *variant) {
    const StatsShape *s = shape;
    const StatsVariant *v = variant;
    TensorStats *t = arguments(c, sizeof *t);
    *t = (TensorStats){.N = s->N, .C = s->C, .gain_factor = 0.5};
    dtype_of(c, &t->type, v->type);
    describe(c, "N=%lld C=%d%s%s%s%s%s%s", (long long)s->N, s->C,
             v->type == ACCUM       ? " accum"
             : v->type == FIXED_F64 ? " f64"
                                    : "",
             v->s ? " s" : "", v->b ? " b" : "", v->gain ? " gain" : "", v->row_gain ? " row_gain" : "",
             v->zero ? " zero" : "");
    c->limits = (Limits){.N = s->N, .C = s->C};
    Tensor *a = matrix(c, TO(t->a), v->type, IN, s->N, s->C);
    if (v->zero) constant(a, 0);
    if (v->s) constant(flat(c, TO(t->s), ACCUM, IN, 1, 1), -0.75);
    if (v->b) matrix(c, TO(t->b), v->type, IN, s->N, s->C);
    if (v->gain) constant(flat(c, TO(t->gain), ACCUM, IN, 1, 1), 4);
    if (v->row_gain) constant(flat(c, TO(t->row_gain), ACCUM, IN, 1, s->N), 1.25);
    /* |tanh| > 0.99 counts from 2.6467 on: no number so near that rounding would decide. */
    double gain = 2 * (v->s ? 0.75 : 1) * (v->row_gain ? 1.25 : 1);
    for (int64_t i = 0; i < tensor_count(a); i++)
        if (fabs(gain * fabs(a->value[i]) - 2.6467) < 0.05) a->value[i] = 0.25;
    static const char *const names[STAT_COUNT] = {"sum_squares", "max_abs", "dot", "other_sum_squares",
                                                  "saturated"};
    double zeros[STAT_COUNT] = {0};
    Tensor *out = structure(c, TO(t->out), IN, zeros, sizeof zeros);
    for (int i = 0; i < STAT_COUNT; i++)
        inside(c, out, names[i], OUT, (size_t)i * sizeof(double), 1)->exact = i == STAT_SATURATED;
    call(c, OP_tensor_stats, t);
}

typedef struct CastVariant {
    DType from, to;
} CastVariant;
static const CastVariant cast_variants[] = {
    {DTYPE_F32, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F32}, {DTYPE_F32, DTYPE_F32}, {DTYPE_F32, DTYPE_F64},
    {DTYPE_F64, DTYPE_F32},  {DTYPE_F64, DTYPE_BF16}, {DTYPE_BF16, DTYPE_F64}, {DTYPE_F64, DTYPE_F64},
    {DTYPE_BF16, DTYPE_BF16}};

/* What rounding to nearest even has to get right: ties both ways, subnormals, infinities, overflow, signed
 * zero. */
static const double cast_values[] = {0,
                                     -0.0,
                                     1 + 0x1p-8,
                                     1 + 3 * 0x1p-8,
                                     -(1 + 0x1p-8),
                                     1 + 0x1p-8 + 0x1p-20,
                                     0x1.fffffep127,
                                     -0x1.fffffep127,
                                     0x1p-149,
                                     0x1p-133,
                                     3e-39,
                                     INFINITY,
                                     -INFINITY,
                                     1 + 0x1p-24,
                                     1 + 3 * 0x1p-24,
                                     1 + 0x1p-8 + 0x1p-40};

static void declare_cast(Case *c, const void *shape, const void *variant) {
    static const TypeClass fixed[] = {
        [DTYPE_F32] = FIXED_F32, [DTYPE_F64] = FIXED_F64, [DTYPE_BF16] = FIXED_BF16};
    const CountShape *s = shape;
    const CastVariant *v = variant;
    Cast *a = arguments(c, sizeof *a);
    *a = (Cast){.n = s->n, .from = v->from, .to = v->to};
    describe(c, "n=%lld from=%d to=%d", (long long)s->n, (int)v->from, (int)v->to);
    Tensor *src = flat(c, TO(a->src), fixed[v->from], IN, 1, s->n);
    for (size_t i = 0; i < sizeof cast_values / sizeof cast_values[0] && (int64_t)i < s->n; i++)
        src->value[s->n - 1 - (int64_t)i] = cast_values[i];
    flat(c, TO(a->dst), fixed[v->to], OUT, 1, s->n)->exact = true;
    call(c, OP_cast, a);
}

/* The sum is compared as a double: 53 of its 64 bits. (0x1p-149 and others are words with few bits.) */
static void declare_hash(Case *c, const void *shape, const void *variant) {
    const CountShape *s = shape;
    Hash *h = arguments(c, sizeof *h);
    uint64_t zero = 0;
    (void)variant;
    *h = (Hash){.n = s->n};
    describe(c, "n=%lld", (long long)s->n);
    Tensor *words = flat(c, TO(h->words), FIXED_F32, IN, 1, s->n);
    for (size_t i = 0; i < sizeof cast_values / sizeof cast_values[0] && (int64_t)i < s->n; i++)
        words->value[i] = (double)(float)cast_values[i];
    Tensor *out = structure(c, TO(h->out), IN, &zero, sizeof zero);
    Tensor *sum = inside(c, out, "sum", OUT, 0, 1);
    sum->integer = sum->exact = true;
    call(c, OP_hash, h);
}

const Family families_step[] = {
    FAMILY(cross_entropy, declare_cross_entropy, loss_shapes, loss_variants),
    FAMILY(cross_entropy, declare_cross_entropy, loss_long_shapes, loss_long),
    FAMILY(loss_reduce, declare_loss_reduce, count_shapes, no_variant),
    FAMILY(step_begin, declare_step_begin, no_variant, no_variant),
    FAMILY(sum_squares, declare_sum_squares, arena_shapes, gradient_sizes),
    FAMILY(adamw, declare_adamw, arena_shapes, adam_variants),
    FAMILY(adamw, declare_adamw, arena_shapes, adam_lost),
    FAMILY(tensor_stats, declare_tensor_stats, stats_shapes, stats_variants),
    FAMILY(cast, declare_cast, count_shapes, cast_variants),
    FAMILY(hash, declare_hash, count_shapes, no_variant),
    FAMILY(cross_entropy, declare_cross_entropy, loss_measured_shapes, loss_measured, .perf = true),
    FAMILY(sum_squares, declare_sum_squares, arena_measured, size_measured, .perf = true),
    FAMILY(adamw, declare_adamw, arena_measured, adam_measured, .perf = true),
};
const int n_families_step = sizeof families_step / sizeof families_step[0];
