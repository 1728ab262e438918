/* ops_cases_step.c: cases of the loss, telemetry and conversion (how to write one: ops_harness.h). */
#include "ops_state.h"

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

/* ------------------------------------------------------------------------------- telemetry, conversion */

typedef struct StatsShape {
    int64_t N;
    int C;
} StatsShape;
typedef struct StatsVariant {
    TypeClass type;
    bool s, b, gain, row_gain, shift, zero;
} StatsVariant;
static const StatsShape stats_shapes[] = {{1, 1}, {3, 7}, {31, 64}, {65, 65}, {7, 257}, {130, 96}};
static const StatsVariant stats_variants[] = {
    {.type = STORAGE},
    {.type = STORAGE, .s = true, .b = true},
    {.type = ACCUM, .b = true, .gain = true},
    {.type = STORAGE, .s = true, .b = true, .gain = true, .row_gain = true},
    {.type = STORAGE, .s = true, .gain = true, .shift = true},
    {.type = ACCUM, .gain = true, .shift = true},
    {.type = STORAGE, .b = true, .zero = true},
    {.type = FIXED_F64, .s = true, .b = true, .gain = true}};

static void declare_tensor_stats(Case *c, const void *shape, const void *variant) {
    const StatsShape *s = shape;
    const StatsVariant *v = variant;
    TensorStats *t = arguments(c, sizeof *t);
    *t = (TensorStats){.N = s->N, .C = s->C, .gain_factor = 0.5};
    dtype_of(c, &t->type, v->type);
    describe(c, "N=%lld C=%d%s%s%s%s%s%s%s", (long long)s->N, s->C,
             v->type == ACCUM       ? " accum"
             : v->type == FIXED_F64 ? " f64"
                                    : "",
             v->s ? " s" : "", v->b ? " b" : "", v->gain ? " gain" : "", v->row_gain ? " row_gain" : "",
             v->shift ? " shift" : "",
             v->zero ? " zero" : "");
    c->limits = (Limits){.N = s->N, .C = s->C};
    Tensor *a = matrix(c, TO(t->a), v->type, IN, s->N, s->C);
    if (v->zero) constant(a, 0);
    if (v->s) constant(flat(c, TO(t->s), ACCUM, IN, 1, 1), -0.75);
    if (v->b) matrix(c, TO(t->b), v->type, IN, s->N, s->C);
    if (v->gain) constant(flat(c, TO(t->gain), ACCUM, IN, 1, 1), 4);
    if (v->row_gain) constant(flat(c, TO(t->row_gain), ACCUM, IN, 1, s->N), 1.25);
    const double shift = v->shift ? constant(flat(c, TO(t->shift), ACCUM, IN, 1, 1), -0.4)->value[0] : 0;
    /* |tanh| > 0.99 counts from 2.6467 on, |erf| from 1.8214: no number so near that rounding would decide. */
    double gain = 2 * (v->s ? -0.75 : 1) * (v->row_gain ? 1.25 : 1);
    for (int64_t i = 0; i < tensor_count(a); i++)
        if (fabs(fabs(gain * a->value[i] + shift) - (v->shift ? 1.8214 : 2.6467)) < 0.05) a->value[i] = 0.25;
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

typedef struct HalvesVariant {
    bool join, alone; /* alone: without lower halves */
} HalvesVariant;
static const HalvesVariant halves_variants[] = {{0}, {.join = true}, {.alone = true}};

/* The values of cast's cases, a tie of the smallest, and a NaN. */
static Tensor *put_special(Tensor *t) {
    enum { VALUES = sizeof cast_values / sizeof cast_values[0] };
    const double more[] = {0x1p-134, NAN};
    const int64_t n = tensor_count(t);
    for (int64_t i = 0; i < VALUES + 2 && i < n; i++)
        t->value[n - 1 - i] = (double)(float)(i < VALUES ? cast_values[i] : more[i - VALUES]);
    return t;
}

/* Upper halves of the largest numbers are infinite, which is no error. */
static void ignore_infinite(Case *c, Tensor *upper, const Tensor *master) {
    upper->ignored = arguments(c, (size_t)tensor_count(upper));
    for (int64_t i = 0; i < tensor_count(upper); i++) upper->ignored[i] = fabs(master->value[i]) > 3.3e38;
}

static void declare_halves(Case *c, const void *shape, const void *variant) {
    const CountShape *s = shape;
    const HalvesVariant *v = variant;
    Halves *h = arguments(c, sizeof *h);
    *h = (Halves){.n = s->n, .join = v->join};
    describe(c, "n=%lld%s%s", (long long)s->n, v->join ? " join" : "", v->alone ? " alone" : "");
    if (v->join) {
        put_special(halves(c, TO(h->storage), &h->lower, &h->storage, "lower", IN, s->n));
        flat(c, TO(h->master), ACCUM, OUT, 1, s->n)->exact = true;
    } else {
        const Tensor *master = put_special(flat(c, TO(h->master), ACCUM, IN, 1, s->n));
        Tensor *lower = v->alone ? NULL : halves(c, TO(h->storage), &h->lower, &h->storage, "lower", OUT, s->n);
        if (lower) lower->exact = true;
        ignore_infinite(c, lower ? lower->upper : flat(c, TO(h->storage), STORAGE, OUT, 1, s->n), master);
    }
    call(c, OP_halves, h);
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
    FAMILY(tensor_stats, declare_tensor_stats, stats_shapes, stats_variants),
    FAMILY(cast, declare_cast, count_shapes, cast_variants),
    FAMILY(halves, declare_halves, count_shapes, halves_variants),
    FAMILY(hash, declare_hash, count_shapes, no_variant),
    FAMILY(cross_entropy, declare_cross_entropy, loss_measured_shapes, loss_measured, .perf = true),
};
const int n_families_step = sizeof families_step / sizeof families_step[0];
