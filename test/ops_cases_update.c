/* ops_cases_update.c: cases of the gradient's norm and of the optimizers (how to write one: ops_harness.h). */
#include "ops_state.h"

/* ------------------------------------------------------------------------------------------ the arenas */

typedef struct ArenaShape {
    int n_slots;
    struct {
        int rows, cols, clip_group;
        double weight_decay, lr_scale;
        OptimizerKind optimizer;
    } slot[6];
    int begin_slot, skip; /* the range starts `skip` elements into that slot … */
    int cut;              /* … and ends so many before the arena's end */
} ArenaShape;

static const ArenaShape arena_shapes[] = {
    {.n_slots = 1, .slot = {{1, 1, CLIP_ALL, 0, 1, OPTIMIZER_ADAMW}}},
    {.n_slots = 2, .slot = {{3, 65, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW}, {1, 1, CLIP_GATES, 0, 1, OPTIMIZER_ADAMW}}},
    {.n_slots = 4,
     .slot = {{7, 31, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW},
              {1, 257, CLIP_ALL, 0, 0.5, OPTIMIZER_ADAMW},
              {1, 5, CLIP_GATES, 0, 2, OPTIMIZER_ADAMW},
              {130, 64, CLIP_ALL, 0.01, 1, OPTIMIZER_ADAMW}}},
    {.n_slots = 4,
     .slot = {{7, 31, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW},
              {1, 257, CLIP_ALL, 0, 0.5, OPTIMIZER_ADAMW},
              {1, 5, CLIP_GATES, 0, 2, OPTIMIZER_ADAMW},
              {64, 65, CLIP_ALL, 0.01, 1, OPTIMIZER_ADAMW}},
     .begin_slot = 1,
     .skip = 64,
     .cut = 128},
    {.n_slots = 3,
     .slot = {{1, 3, CLIP_GATES, 0, 1, OPTIMIZER_ADAMW},
              {257, 130, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW},
              {1, 96, CLIP_ALL, 0, 1, OPTIMIZER_ADAMW}},
     .begin_slot = 1},
};
/* Slots of both optimizers: Muon leaves the other's alone. */
static const ArenaShape mixed_shapes[] = {
    {.n_slots = 4,
     .slot = {{7, 31, CLIP_ALL, 0.1, 1, OPTIMIZER_MUON},
              {1, 5, CLIP_GATES, 0, 2, OPTIMIZER_ADAMW},
              {130, 64, CLIP_ALL, 0, 0.5, OPTIMIZER_MUON},
              {1, 257, CLIP_ALL, 0.01, 1, OPTIMIZER_ADAMW}}},
    {.n_slots = 1, .slot = {{3, 65, CLIP_ALL, 0.1, 1, OPTIMIZER_MUON}}},
    {.n_slots = 5,
     .slot = {{1, 257, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW},
              {64, 65, CLIP_ALL, 0.1, 2, OPTIMIZER_MUON},
              {1, 3, CLIP_GATES, 0, 1, OPTIMIZER_ADAMW},
              {257, 130, CLIP_ALL, 0.01, 1, OPTIMIZER_MUON},
              {7, 96, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW}},
     .begin_slot = 1,
     .skip = 64,
     .cut = 128},
};
static const ArenaShape arena_measured[] = {{.n_slots = 1, .slot = {{3072, 768, CLIP_ALL, 0.1, 1, OPTIMIZER_ADAMW}}}};
static const ArenaShape muon_measured[] = {{.n_slots = 1, .slot = {{3072, 768, CLIP_ALL, 0.1, 1, OPTIMIZER_MUON}}}};

typedef struct Arena {
    ParamSlot slots[6];
    int64_t begin, end, count;
} Arena;

/* A matrix's padding: padded(rows) rows of padded(cols); a vector's: padded(cols). */
static Arena arena(Case *c, const ArenaShape *s) {
    Arena a = {0};
    for (int i = 0; i < s->n_slots; i++) {
        int64_t rows = s->slot[i].rows == 1 ? 1 : padded(s->slot[i].rows),
                count = rows * padded(s->slot[i].cols);
        a.slots[i] = (ParamSlot){.offset = a.count,
                                 .count = count,
                                 .rows = s->slot[i].rows,
                                 .cols = s->slot[i].cols,
                                 .optimizer = (int)s->slot[i].optimizer,
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
    bool whole;   /* masters are, as vectors' */
    bool lost;    /* some weights and moments are no finite numbers; how they become so: ops_sequence.c */
} AdamVariant;
static const AdamVariant adam_variants[] = {{.eps = 1e-8},
                                            {.eps = 1e-8, .first = true},
                                            {.eps = 1e-3},
                                            {.eps = 1e-8, .whole = true},
                                            {.eps = 1e-8, .skipped = true}};
static const AdamVariant adam_lost[] = {{.eps = 1e-8, .lost = true},
                                        {.eps = 1e-8, .lost = true, .whole = true},
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
    describe(c, " eps=%g%s%s%s%s", v->eps, v->first ? " first" : "", v->skipped ? " skipped" : "", v->whole ? " whole" : "",
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
    Tensor *master = fill_arena(c, v->whole ? flat(c, TO(a->master), ACCUM, changes, 1, all.count)
                                            : halves(c, TO(a->storage), &a->lower, TO(a->master), changes, all.count),
                                s, &all, 1, false);
    Tensor *first =
        fill_arena(c, flat(c, TO(a->m), ACCUM, changes, 1, all.count), s, &all, v->first ? 0 : 0.05, false);
    Tensor *second =
        fill_arena(c, flat(c, TO(a->v), ACCUM, changes, 1, all.count), s, &all, v->first ? 0 : 0.01, true);
    if (v->lost) lose_numbers(&all, master, first, second);
    structure(c, TO(a->slots), IN, all.slots, (size_t)s->n_slots * sizeof(ParamSlot));
    count_lost(c, structure(c, TO(a->state), IN, &state, sizeof state), v->skipped ? IN : ADDED);
    call(c, OP_adamw, a);
}

/* ------------------------------------------------------------------------------------------------ Muon */

typedef struct MuonVariant {
    double momentum;
    bool first, skipped, whole, lost; /* as AdamVariant's */
} MuonVariant;
static const MuonVariant muon_variants[] = {{.momentum = 0.95},
                                            {.momentum = 0.95, .first = true},
                                            {.momentum = 0},
                                            {.momentum = 0.95, .lost = true},
                                            {.momentum = 0.95, .skipped = true},
                                            {.momentum = 0.95, .lost = true, .skipped = true}};
static const MuonVariant update_variants[] = {{0}, {.whole = true}, {.lost = true}, {.skipped = true}, {.lost = true, .skipped = true}};
static const MuonVariant one_muon[] = {{.momentum = 0.95}};

static StepState state_of(const MuonVariant *v) {
    StepState state = some_state();
    if (v->skipped) state.skip = SKIP_NON_FINITE, state.skips_in_a_row = 1;
    return state;
}

static void declare_muon_momentum(Case *c, const void *shape, const void *variant) {
    const ArenaShape *s = shape;
    const MuonVariant *v = variant;
    MuonMomentum *a = arguments(c, sizeof *a);
    StepState state = state_of(v);
    Arena all = arena(c, s);
    Role changes = v->skipped ? IN : INOUT;
    describe(c, " momentum=%g%s%s%s", v->momentum, v->first ? " first" : "", v->skipped ? " skipped" : "",
             v->lost ? " lost numbers" : "");
    *a = (MuonMomentum){.begin = all.begin, .end = all.end, .n_slots = s->n_slots, .momentum = v->momentum};
    Tensor *grad = fill_arena(c, flat(c, TO(a->grad), ACCUM, IN, 1, all.count), s, &all, 0.1, false);
    if (v->skipped) grad->value[all.begin] = NAN;
    Tensor *m = fill_arena(c, flat(c, TO(a->m), ACCUM, changes, 1, all.count), s, &all, v->first ? 0 : 0.05, false);
    if (v->lost) m->value[all.begin] = -INFINITY, m->value[(all.begin + all.end) / 2] = NAN;
    if (v->lost && all.begin > 0) m->value[all.begin - 1] = NAN;
    flat(c, TO(a->out), ACCUM, changes, 1, all.count); /* what lies there is no number of this step's */
    structure(c, TO(a->slots), IN, all.slots, (size_t)s->n_slots * sizeof(ParamSlot));
    count_lost(c, structure(c, TO(a->state), IN, &state, sizeof state), v->skipped ? IN : ADDED);
    call(c, OP_muon_momentum, a);
}

static void declare_muon_update(Case *c, const void *shape, const void *variant) {
    const ArenaShape *s = shape;
    const MuonVariant *v = variant;
    MuonUpdate *a = arguments(c, sizeof *a);
    StepState state = state_of(v);
    Arena all = arena(c, s);
    Role changes = v->skipped ? IN : INOUT;
    describe(c, "%s%s%s", v->skipped ? " skipped" : "", v->whole ? " whole" : "", v->lost ? " lost numbers" : "");
    *a = (MuonUpdate){.begin = all.begin, .end = all.end, .n_slots = s->n_slots};
    fill_arena(c, flat(c, TO(a->direction), ACCUM, IN, 1, all.count), s, &all, 0.2, false);
    Tensor *master = fill_arena(c, v->whole ? flat(c, TO(a->master), ACCUM, changes, 1, all.count)
                                            : halves(c, TO(a->storage), &a->lower, TO(a->master), changes, all.count),
                                s, &all, 1, false);
    if (v->lost) master->value[all.end - 1] = INFINITY, master->value[(all.begin + all.end) / 2] = NAN;
    structure(c, TO(a->slots), IN, all.slots, (size_t)s->n_slots * sizeof(ParamSlot));
    count_lost(c, structure(c, TO(a->state), IN, &state, sizeof state), v->skipped ? IN : ADDED);
    call(c, OP_muon_update, a);
}

typedef struct MatrixShape {
    int rows, cols;
} MatrixShape;
static const MatrixShape matrix_shapes[] = {{1, 1}, {3, 7}, {64, 64}, {31, 65}, {130, 96}, {7, 257}, {257, 33}, {1, 130}};
static const MatrixShape matrix_measured[] = {{3072, 768}};

typedef struct CopyVariant {
    bool transpose, widen; /* from Storage to Accum */
    double scale, sum_squares; /* 0: none is given */
} CopyVariant;
static const CopyVariant copy_variants[] = {
    {.scale = 1, .sum_squares = 17},
    {.transpose = true, .scale = 1, .sum_squares = 17},
    {.scale = 0.2, .sum_squares = 1e-30}, /* its root is below eps */
    {.transpose = true, .scale = -0.75},
    {.widen = true, .scale = 5.5},
    {.widen = true, .transpose = true, .scale = 5.5},
};
static const CopyVariant copy_measured[] = {{.scale = 1, .sum_squares = 17}, {.transpose = true, .scale = 1, .sum_squares = 17}};

static void declare_scaled_copy(Case *c, const void *shape, const void *variant) {
    const MatrixShape *s = shape;
    const CopyVariant *v = variant;
    ScaledCopy *a = arguments(c, sizeof *a);
    *a = (ScaledCopy){.rows = s->rows, .cols = s->cols, .transpose = v->transpose, .narrow = !v->widen, .scale = v->scale,
                      .eps = 1e-7};
    describe(c, "%d×%d scale=%g squares=%g%s%s", s->rows, s->cols, v->scale, v->sum_squares, v->transpose ? " transpose" : "",
             v->widen ? " widen" : "");
    matrix(c, TO(a->src), v->widen ? STORAGE : ACCUM, IN, s->rows, s->cols);
    matrix(c, TO(a->dst), v->widen ? ACCUM : STORAGE, OUT, v->transpose ? s->cols : s->rows, v->transpose ? s->rows : s->cols);
    if (v->sum_squares > 0) constant(flat(c, TO(a->sum_squares), FIXED_F64, IN, 1, 1), v->sum_squares);
    call(c, OP_scaled_copy, a);
}

typedef struct AxpbyVariant {
    double a, b;
} AxpbyVariant;
static const AxpbyVariant axpby_variants[] = {{2.0315, -4.775}, {1, 3.4445}, {-0.5, 0}};
static const int64_t axpby_sizes[] = {64, 192, 4096, 64 * 257};
static const int64_t axpby_measured[] = {768 * 768};

static void declare_axpby(Case *c, const void *shape, const void *variant) {
    const int64_t n = *(const int64_t *)shape;
    const AxpbyVariant *v = variant;
    Axpby *a = arguments(c, sizeof *a);
    *a = (Axpby){.n = n, .a = v->a, .b = v->b};
    describe(c, "n=%lld a=%g b=%g", (long long)n, v->a, v->b);
    flat(c, TO(a->x), STORAGE, IN, 1, n);
    flat(c, TO(a->y), STORAGE, INOUT, 1, n);
    call(c, OP_axpby, a);
}

const Family families_update[] = {
    FAMILY(sum_squares, declare_sum_squares, arena_shapes, gradient_sizes),
    FAMILY(adamw, declare_adamw, arena_shapes, adam_variants),
    FAMILY(adamw, declare_adamw, arena_shapes, adam_lost),
    FAMILY(muon_momentum, declare_muon_momentum, mixed_shapes, muon_variants),
    FAMILY(muon_update, declare_muon_update, mixed_shapes, update_variants),
    FAMILY(scaled_copy, declare_scaled_copy, matrix_shapes, copy_variants, .whole = true),
    FAMILY(axpby, declare_axpby, axpby_sizes, axpby_variants),
    FAMILY(sum_squares, declare_sum_squares, arena_measured, size_measured, .perf = true),
    FAMILY(adamw, declare_adamw, arena_measured, adam_measured, .perf = true),
    FAMILY(muon_momentum, declare_muon_momentum, muon_measured, one_muon, .perf = true),
    FAMILY(muon_update, declare_muon_update, muon_measured, one_muon, .perf = true),
    FAMILY(scaled_copy, declare_scaled_copy, matrix_measured, copy_measured, .perf = true),
    FAMILY(axpby, declare_axpby, axpby_measured, axpby_variants, .perf = true),
};
const int n_families_update = sizeof families_update / sizeof families_update[0];
