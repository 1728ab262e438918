/* ops_cases_junction.c: cases of the residual junction and of what feeds it (how to write one:
 * ops_harness.h). */
#include "ops_harness.h"

#include <stdio.h>

typedef struct RowShape {
    int64_t N;
    int C;
} RowShape;

typedef enum Scale { SCALE_NONE, SCALE_USUAL, SCALE_ZERO, SCALE_NEGATIVE } Scale;

typedef struct JunctionVariant {
    NormKind norm, inner;
    bool sdd, post;
    bool first; /* f = NULL: the first junction, or the second of two norms that meet */
    bool wide;  /* residual_is_accum */
    bool bias;
    Scale s_in, s_out, s_ride;
    double alpha, output_scale;
    double scalar;            /* DyT's and DERF's α, BHyT's λ; 0: a usual one */
    bool zero_scalar;
    bool no_gamma, no_beta;   /* NULL */
    bool frozen;              /* parameters without gradients */
    bool in_place;            /* u = x; dresidual_out = dresidual_in */
    bool vhat, mean_square;   /* BHyT: v from an earlier junction; v for a later one */
    bool only_residual, both; /* y_residual instead of y; both */
    bool no_dy, no_dresidual; /* NULL */
    bool df_is_dresidual;     /* df = NULL */
    bool extreme;
} JunctionVariant;

static const RowShape junction_shapes[] = {{1, 1},   {3, 1},    {1, 7},   {7, 3},    {3, 31},   {2, 65},
                                           {31, 96}, {130, 64}, {5, 257}, {65, 130}, {200, 31}, {4, 768},
                                           {1100, 8}}; /* rows enough for several to each partial sum */

static const JunctionVariant junction_variants[] = {
    /* pre: the two norms of the plain architectures, with everything that may be left out */
    {.norm = NORM_LAYERNORM, .first = true},
    {.norm = NORM_LAYERNORM, .bias = true},
    {.norm = NORM_LAYERNORM, .bias = true, .in_place = true},
    {.norm = NORM_LAYERNORM, .bias = true, .df_is_dresidual = true, .in_place = true},
    {.norm = NORM_LAYERNORM, .no_beta = true},
    {.norm = NORM_LAYERNORM, .no_gamma = true, .no_beta = true, .wide = true, .bias = true},
    {.norm = NORM_LAYERNORM, .frozen = true, .no_dresidual = true},
    {.norm = NORM_LAYERNORM, .extreme = true, .bias = true},
    {.norm = NORM_LAYERNORM, .no_dy = true, .bias = true},
    {.norm = NORM_RMSNORM, .first = true, .wide = true},
    {.norm = NORM_RMSNORM},
    {.norm = NORM_RMSNORM, .in_place = true, .df_is_dresidual = true},
    {.norm = NORM_RMSNORM, .wide = true, .in_place = true, .mean_square = true},
    {.norm = NORM_RMSNORM, .no_gamma = true, .bias = true},
    {.norm = NORM_RMSNORM, .extreme = true},
    {.norm = NORM_RMSNORM, .first = true, .extreme = true, .no_dresidual = true},
    {.norm = NORM_NONE, .bias = true},
    {.norm = NORM_NONE, .first = true, .s_out = SCALE_USUAL},
    {.norm = NORM_NONE, .wide = true, .bias = true, .in_place = true},
    {.norm = NORM_NONE, .sdd = true, .s_out = SCALE_NEGATIVE},
    {.norm = NORM_NONE, .inner = NORM_RMSNORM, .wide = true},
    /* lns, the other norms */
    {.norm = NORM_RMSNORM, .output_scale = 0.57735026918962576},
    {.norm = NORM_LAYERNORM, .output_scale = 0.5, .bias = true, .s_out = SCALE_USUAL},
    {.norm = NORM_DYT, .bias = true},
    {.norm = NORM_DYT, .no_beta = true, .wide = true, .s_out = SCALE_NEGATIVE},
    {.norm = NORM_DYT, .first = true, .extreme = true, .output_scale = 0.5},
    {.norm = NORM_BHYT, .mean_square = true},
    {.norm = NORM_BHYT, .wide = true, .first = true, .output_scale = 0.70710678118654752},
    {.norm = NORM_BHYT, .extreme = true},
    {.norm = NORM_BHYT, .no_gamma = true, .s_in = SCALE_USUAL, .s_out = SCALE_NEGATIVE, .mean_square = true},
    {.norm = NORM_DYT, .scalar = -0.8, .s_out = SCALE_USUAL},
    {.norm = NORM_DYT, .zero_scalar = true, .bias = true},
    {.norm = NORM_BHYT, .scalar = -3},
    {.norm = NORM_BHYT, .zero_scalar = true, .mean_square = true},
    {.norm = NORM_BHYT, .vhat = true, .scalar = -1.5, .s_out = SCALE_NEGATIVE},
    {.norm = NORM_BHYT, .s_out = SCALE_ZERO, .s_in = SCALE_USUAL},
    {.norm = NORM_DYT, .post = true, .s_in = SCALE_ZERO, .scalar = -0.5},
    {.norm = NORM_DERF, .bias = true},
    {.norm = NORM_DERF, .no_beta = true, .wide = true, .s_out = SCALE_NEGATIVE, .mean_square = true},
    {.norm = NORM_DERF, .first = true, .extreme = true, .output_scale = 0.5},
    {.norm = NORM_DERF, .scalar = -0.8, .s_out = SCALE_USUAL, .frozen = true},
    {.norm = NORM_DERF, .zero_scalar = true, .bias = true},
    {.norm = NORM_DERF, .post = true, .s_in = SCALE_ZERO, .scalar = -0.5},
    {.norm = NORM_BHYT, .vhat = true},
    {.norm = NORM_BHYT, .vhat = true, .s_out = SCALE_USUAL, .s_in = SCALE_USUAL, .in_place = true},
    {.norm = NORM_BHYT, .vhat = true, .wide = true, .mean_square = true, .sdd = true},
    /* GPAS at pre */
    {.norm = NORM_RMSNORM, .s_in = SCALE_USUAL, .s_out = SCALE_USUAL},
    {.norm = NORM_LAYERNORM, .s_in = SCALE_NEGATIVE, .s_out = SCALE_USUAL, .bias = true, .in_place = true},
    {.norm = NORM_RMSNORM, .s_in = SCALE_USUAL, .s_out = SCALE_ZERO, .wide = true},
    {.norm = NORM_RMSNORM, .s_in = SCALE_ZERO, .s_out = SCALE_NEGATIVE, .mean_square = true},
    {.norm = NORM_LAYERNORM, .s_out = SCALE_ZERO, .bias = true},
    {.norm = NORM_RMSNORM, .alpha = 1.5, .s_in = SCALE_USUAL, .s_out = SCALE_USUAL, .bias = true},
    /* sandwich and SDD */
    {.norm = NORM_RMSNORM, .inner = NORM_RMSNORM},
    {.norm = NORM_LAYERNORM,
     .inner = NORM_LAYERNORM,
     .bias = true,
     .s_in = SCALE_USUAL,
     .s_out = SCALE_USUAL},
    {.norm = NORM_DYT, .inner = NORM_DYT, .wide = true, .in_place = true},
    {.norm = NORM_DYT, .inner = NORM_DYT, .post = true, .bias = true},
    {.norm = NORM_DERF, .inner = NORM_DERF, .wide = true, .in_place = true},
    {.norm = NORM_RMSNORM, .inner = NORM_DERF, .sdd = true, .post = true, .bias = true},
    {.norm = NORM_BHYT, .inner = NORM_BHYT, .mean_square = true},
    {.norm = NORM_RMSNORM, .sdd = true},
    {.norm = NORM_RMSNORM, .sdd = true, .inner = NORM_RMSNORM, .wide = true, .s_out = SCALE_USUAL},
    {.norm = NORM_LAYERNORM, .sdd = true, .inner = NORM_LAYERNORM, .in_place = true, .extreme = true},
    {.norm = NORM_RMSNORM, .sdd = true, .frozen = true},
    /* post and DeepNorm */
    {.norm = NORM_LAYERNORM, .post = true, .bias = true},
    {.norm = NORM_RMSNORM, .post = true, .first = true},
    {.norm = NORM_RMSNORM, .post = true, .df_is_dresidual = true, .in_place = true},
    {.norm = NORM_RMSNORM, .post = true, .no_dy = true, .mean_square = true},
    {.norm = NORM_LAYERNORM, .post = true, .alpha = 2.2133638394006434, .bias = true, .s_in = SCALE_USUAL},
    {.norm = NORM_RMSNORM, .post = true, .s_in = SCALE_NEGATIVE, .wide = true, .both = true},
    {.norm = NORM_RMSNORM, .post = true, .s_in = SCALE_ZERO, .alpha = 1.5},
    {.norm = NORM_LAYERNORM, .post = true, .wide = true, .only_residual = true, .sdd = true},
    {.norm = NORM_DYT, .post = true, .s_in = SCALE_USUAL, .bias = true},
    {.norm = NORM_BHYT, .post = true, .alpha = 1.7, .inner = NORM_RMSNORM},
    /* post after pre, whose scale rides on x: hybrid */
    {.norm = NORM_RMSNORM, .post = true, .s_in = SCALE_USUAL, .s_ride = SCALE_NEGATIVE},
    {.norm = NORM_LAYERNORM, .post = true, .alpha = 1.5, .s_in = SCALE_NEGATIVE, .s_ride = SCALE_USUAL, .wide = true, .bias = true},
    {.norm = NORM_RMSNORM, .post = true, .s_in = SCALE_USUAL, .s_ride = SCALE_ZERO},
};

/* What nearly every layer has: rows that fill warps, and rows that do not. */
static const RowShape junction_usual_shapes[] = {{1100, 8}, {1030, 512}, {6, 1600}};
static const JunctionVariant junction_usual[] = {
    {.norm = NORM_LAYERNORM, .bias = true, .df_is_dresidual = true, .in_place = true},
    {.norm = NORM_LAYERNORM, .frozen = true, .df_is_dresidual = true},
    {.norm = NORM_RMSNORM, .first = true, .df_is_dresidual = true},
    {.norm = NORM_RMSNORM, .bias = true, .df_is_dresidual = true, .in_place = true}};

/* Rows so wide that a GPU gives each a block of threads, and its registers or shared memory run out: over 1,024, 2,048
 * and 4,096 channels, and nearly the most that the CUDA backend takes. Few rows, and of the variants the four of every
 * norm that are kernels of their own: without and with an inner norm (SDD's is one), the residual in each type. Narrow rows meet
 * them all as well, whatever is sampled. */
static const RowShape junction_narrow_shapes[] = {{3, 31}};
static const RowShape junction_wide_shapes[] = {{2, 1030}, {1, 2052}, {2, 4099}, {2, 8190}};
static const JunctionVariant junction_wide[] = {
    {.norm = NORM_NONE, .bias = true, .s_out = SCALE_USUAL},
    {.norm = NORM_NONE, .wide = true, .in_place = true, .s_in = SCALE_NEGATIVE},
    {.norm = NORM_NONE, .sdd = true, .bias = true},
    {.norm = NORM_NONE, .inner = NORM_LAYERNORM, .wide = true},
    {.norm = NORM_LAYERNORM, .bias = true, .in_place = true},
    {.norm = NORM_LAYERNORM, .wide = true, .post = true, .alpha = 1.5, .s_in = SCALE_USUAL},
    {.norm = NORM_LAYERNORM, .sdd = true, .mean_square = true, .output_scale = 0.5},
    {.norm = NORM_LAYERNORM, .inner = NORM_LAYERNORM, .post = true, .wide = true, .both = true},
    {.norm = NORM_RMSNORM, .first = true, .extreme = true},
    {.norm = NORM_RMSNORM, .s_in = SCALE_USUAL, .s_out = SCALE_NEGATIVE, .wide = true},
    {.norm = NORM_RMSNORM, .inner = NORM_RMSNORM, .sdd = true},
    {.norm = NORM_RMSNORM, .inner = NORM_DYT, .wide = true, .in_place = true},
    {.norm = NORM_DYT, .post = true, .alpha = 1.5, .s_in = SCALE_USUAL, .bias = true},
    {.norm = NORM_DYT, .wide = true, .no_beta = true, .s_out = SCALE_USUAL},
    {.norm = NORM_DYT, .inner = NORM_DYT, .bias = true},
    {.norm = NORM_DERF, .post = true, .alpha = 1.5, .s_in = SCALE_USUAL, .bias = true},
    {.norm = NORM_DERF, .wide = true, .no_beta = true, .s_out = SCALE_USUAL},
    {.norm = NORM_DERF, .inner = NORM_DERF, .bias = true},
    {.norm = NORM_DERF, .inner = NORM_DERF, .sdd = true, .wide = true, .post = true},
    {.norm = NORM_DYT, .inner = NORM_BHYT, .sdd = true, .wide = true, .post = true},
    {.norm = NORM_BHYT, .mean_square = true, .output_scale = 0.5},
    {.norm = NORM_BHYT, .wide = true, .vhat = true, .in_place = true},
    {.norm = NORM_BHYT, .vhat = true, .sdd = true},
    {.norm = NORM_BHYT, .inner = NORM_BHYT, .wide = true, .mean_square = true, .s_out = SCALE_USUAL},
};

static const RowShape junction_measured_shapes[] = {{1024, 768}};
static const JunctionVariant junction_measured[] = {
    {.norm = NORM_LAYERNORM, .bias = true, .in_place = true},
    {.norm = NORM_RMSNORM, .in_place = true},
    {.norm = NORM_RMSNORM, .in_place = true, .s_in = SCALE_USUAL, .s_out = SCALE_USUAL},
    {.norm = NORM_RMSNORM, .in_place = true, .sdd = true},
    {.norm = NORM_BHYT, .in_place = true},
    {.norm = NORM_DERF, .in_place = true},
};

/* The operands of one norm; each may be absent. */
typedef struct NormTensors {
    const char *name;
    Tensor *gamma, *beta, *scalar;
} NormTensors;

/* "norm" and "dgamma" to "norm.dgamma". */
static const char *member(Case *c, const char *norm, const char *name) {
    char *text = arguments(c, 32);
    snprintf(text, 32, "%s.%s", norm, name);
    return text;
}

static NormTensors norm_operands(Case *c, Norm *norm, const char *name, NormKind kind, const RowShape *s,
                                 const JunctionVariant *v, Role made) {
    NormTensors t = {.name = name};
    bool statistics = kind == NORM_LAYERNORM || kind == NORM_RMSNORM || kind == NORM_BHYT;
    *norm =
        (Norm){.kind = kind, .eps = kind == NORM_LAYERNORM ? 1e-5 : 1e-6, .kappa = kind == NORM_BHYT ? 3 : 0};
    if (kind == NORM_NONE) return t;
    if (!v->no_gamma) t.gamma = spread(c, vector(c, TO(norm->gamma), ACCUM, IN, s->C), 1, 0.3);
    if (!v->no_beta && (kind == NORM_LAYERNORM || kind == NORM_DYT || kind == NORM_DERF))
        t.beta = vector(c, TO(norm->beta), ACCUM, IN, s->C);
    if (kind == NORM_DYT || kind == NORM_BHYT || kind == NORM_DERF) {
        double usual = kind == NORM_BHYT ? 2 : 0.5;
        t.scalar = constant(flat(c, TO(norm->scalar), ACCUM, IN, 1, kind == NORM_DERF ? 2 : 1),
                            v->zero_scalar ? 0 : v->scalar != 0 ? v->scalar : usual);
        if (kind == NORM_DERF) t.scalar->value[1] = -0.35; /* its shift */
    }
    if (kind == NORM_LAYERNORM) flat(c, &norm->mean, member(c, name, "mean"), ACCUM, made, 1, s->N);
    if (statistics) flat(c, &norm->rstd, member(c, name, "rstd"), ACCUM, made, 1, s->N);
    return t;
}

static void norm_gradients(Case *c, NormGradient *gradient, const NormTensors *t, double factor) {
    if (t->gamma)
        derivative(vector(c, &gradient->dgamma, member(c, t->name, "dgamma"), ACCUM, ADDED, t->gamma->cols),
                   t->gamma, factor);
    if (t->beta)
        derivative(vector(c, &gradient->dbeta, member(c, t->name, "dbeta"), ACCUM, ADDED, t->beta->cols),
                   t->beta, factor);
    if (t->scalar)
        derivative(flat(c, &gradient->dscalar, member(c, t->name, "dscalar"), ACCUM, ADDED, 1, t->scalar->cols),
                   t->scalar, factor);
}

static Tensor *scale_operand(Case *c, void *field, const char *name, Scale scale) {
    if (scale == SCALE_NONE) return NULL;
    Tensor *t = flat(c, field, name, ACCUM, IN, 1, 1);
    return constant(t, scale == SCALE_USUAL ? 0.5 + 0.4 * uniform(c) : scale == SCALE_ZERO ? 0 : -0.7);
}

/* Rows of few numbers get a ramp: of two that nearly agree, rounding noise alone would be normalized. */
static void ramp(Tensor *t, double step) {
    for (int64_t i = 0; t->cols < 7 && i < tensor_count(t); i++)
        t->value[i] += step * (double)(i % t->cols + 1);
}

typedef struct JunctionTensors {
    Tensor *x, *s_in, *s_ride, *f, *bias, *s_out, *u, *mean_square_in, *vhat, *mean_square_out, *y;
    NormTensors norm, sdd, inner;
} JunctionTensors;

static bool has_zero_scale(const JunctionVariant *v) {
    return v->s_in == SCALE_ZERO || v->s_out == SCALE_ZERO || v->s_ride == SCALE_ZERO;
}

static void junction_title(Case *c, const RowShape *s, const JunctionVariant *v) {
    static const char *const names[] = {"none", "layernorm", "rmsnorm", "dyt", "bhyt", "derf"};
    describe(c, "N=%lld C=%d %s", (long long)s->N, s->C, names[v->norm]);
    if (v->inner) describe(c, " inner=%s", names[v->inner]);
    const struct {
        bool on;
        const char *name;
    } words[] = {{v->sdd, "sdd"},
                 {v->post, "post"},
                 {v->first, "f=NULL"},
                 {v->wide, "wide"},
                 {v->bias, "bias"},
                 {v->s_in, "s_in"},
                 {v->s_out, "s_out"},
                 {v->s_ride, "s_ride"},
                 {v->alpha != 0, "alpha"},
                 {v->output_scale != 0, "scaled"},
                 {v->no_gamma, "gamma=NULL"},
                 {v->no_beta, "beta=NULL"},
                 {v->frozen, "frozen"},
                 {v->in_place, "in-place"},
                 {v->vhat, "vhat"},
                 {v->mean_square, "mean-square"},
                 {v->only_residual, "y=NULL"},
                 {v->both, "y-twice"},
                 {v->no_dy, "dy=NULL"},
                 {v->no_dresidual, "dresidual=NULL"},
                 {v->df_is_dresidual, "df=NULL"},
                 {v->scalar != 0, "scalar"},
                 {v->zero_scalar, "zero-scalar"},
                 {v->extreme, "extreme"}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (words[i].on) describe(c, " %s", words[i].name);
    if (has_zero_scale(v)) describe(c, " zero-scale");
}

/* The forward call. For backward, what the contract says it does not read is made unreadable. */
static Junction *junction(Case *c, const RowShape *s, const JunctionVariant *v, bool backward,
                          JunctionTensors *t) {
    Junction *j = arguments(c, sizeof *j);
    Role made = backward ? MADE : OUT;
    bool gate = v->post && v->s_in != SCALE_NONE, in_place = !backward && v->in_place && !v->first;
    *j = (Junction){.N = s->N, .C = s->C, .residual_is_accum = v->wide, .post = v->post, .alpha = v->alpha};
    *t = (JunctionTensors){0};
    c->residual_is_accum = v->wide;
    c->limits = (Limits){.N = s->N, .C = s->C};
    junction_title(c, s, v);
    t->x = matrix(c, TO(j->x), RESIDUAL, in_place ? INOUT : IN, s->N, s->C);
    t->x->unread = backward && !v->first && !gate;
    ramp(t->x, 3);
    if (v->extreme) extreme_rows(t->x);
    if (!v->first) {
        t->s_in = scale_operand(c, TO(j->s_in), v->s_in);
        t->s_ride = scale_operand(c, TO(j->s_ride), v->s_ride);
        t->f = matrix(c, TO(j->f), STORAGE, IN, s->N, s->C);
        t->f->unread = backward && !v->sdd && v->inner == NORM_NONE;
        ramp(t->f, 12);
        if (v->extreme) extreme_rows(t->f);
        if (v->bias) t->bias = vector(c, TO(j->bias), STORAGE, IN, s->C);
        t->sdd = norm_operands(c, &j->sdd, "sdd", v->sdd ? NORM_RMSNORM : NORM_NONE, s, v, made);
        t->inner = norm_operands(c, &j->inner, "inner", v->inner, s, v, made);
        t->u = in_place ? ALSO(t->x, j->u) : matrix(c, TO(j->u), RESIDUAL, made, s->N, s->C);
    }
    t->s_out = scale_operand(c, TO(j->s_out), v->s_out);
    t->norm = norm_operands(c, &j->norm, "norm", v->norm, s, v, made);
    j->norm.output_scale = v->output_scale;
    if (v->vhat) {
        t->mean_square_in = flat(c, TO(j->mean_square_in), ACCUM, IN, 1, s->N);
        for (int64_t n = 0; n < s->N; n++) t->mean_square_in->value[n] = 0.5 + uniform(c);
        t->vhat = flat(c, TO(j->vhat), ACCUM, IN, 1, 2);
        t->vhat->value[0] = 0.8, t->vhat->value[1] = 0.1;
    }
    if (v->mean_square) t->mean_square_out = flat(c, TO(j->mean_square_out), ACCUM, made, 1, s->N);
    if (!v->only_residual || backward) t->y = matrix(c, TO(j->y), STORAGE, made, s->N, s->C);
    if (backward) t->y->unread = true;
    if ((v->only_residual || v->both) && !backward) matrix(c, TO(j->y_residual), RESIDUAL, OUT, s->N, s->C);
    return j;
}

static bool has_no_statistic(NormKind kind) { return kind == NORM_NONE || kind == NORM_DYT || kind == NORM_DERF; }

/* The statistics of one number leave rounding noise, times up to 1/√ε, of what they normalize: nothing to
 * compare. */
static bool degenerate(Case *c, const RowShape *s, const JunctionVariant *v) {
    for (int i = 0; has_no_statistic(v->norm) && v->norm != NORM_NONE && v->extreme && i < c->n_tensors;
         i++) /* the slope of a squash near 1 is noise too */
        if (strcmp(c->tensor[i].name, "norm.dscalar") == 0) c->tensor[i].only_finite = true;
    bool statistics = v->sdd || !has_no_statistic(v->norm) || !has_no_statistic(v->inner);
    bool is = s->C == 1 && statistics;
    for (int i = 0; is && i < c->n_tensors; i++) c->tensor[i].only_finite = true;
    return is;
}

static void declare_junction_forward(Case *c, const void *shape, const void *variant) {
    JunctionTensors unused;
    call(c, OP_junction_forward, junction(c, shape, variant, false, &unused));
    degenerate(c, shape, variant);
}

/*
 * How the contract's gradients follow from true derivatives. A GPAS scale is a stop-gradient: the gradient
 * crosses it unchanged, so a true derivative, which takes the scale as a factor, is divided by the scales
 * between (pre: s_out and, for x, s_in; post: s_in and s_ride for x). A gate's gradient is −slope times the derivative
 * by its scale.
 */
static void junction_derivatives(Case *c, JunctionBackward *b, const JunctionVariant *v,
                                 const JunctionTensors *t, Tensor *dresidual_out) {
    double s_in = t->s_in ? t->s_in->value[0] : 1, s_out = t->s_out ? t->s_out->value[0] : 1;
    Tensor *scale = v->post ? t->s_in : t->s_out;
    if (!v->frozen) {
        norm_gradients(c, &b->norm, &t->norm, 1);
        norm_gradients(c, &b->sdd, &t->sdd, 1 / s_out);
        norm_gradients(c, &b->inner, &t->inner, 1 / s_out);
    }
    if (t->bias) derivative(vector(c, TO(b->dbias), ACCUM, ADDED, t->bias->cols), t->bias, 1 / s_out);
    if (t->f && !v->df_is_dresidual)
        derivative(matrix(c, TO(b->df), STORAGE, OUT, t->f->rows, t->f->cols), t->f, 1 / s_out);
    double s_ride = t->s_ride ? t->s_ride->value[0] : 1;
    derivative(dresidual_out, t->x, 1 / (s_in * s_ride * s_out));
    if (scale) {
        Tensor *slope = constant(flat(c, TO(b->gate_slope), ACCUM, IN, 1, 1), 0.55);
        derivative(flat(c, TO(b->dgate), ACCUM, ADDED, 1, 1), scale, -slope->value[0]);
    }
    if (t->mean_square_in)
        derivative(flat(c, TO(b->dmean_square_out), ACCUM, OUT, 1, t->x->rows), t->mean_square_in, 1);
}

static void declare_junction_backward(Case *c, const void *shape, const void *variant) {
    const RowShape *s = shape;
    const JunctionVariant *v = variant;
    JunctionTensors t;
    JunctionBackward *b = arguments(c, sizeof *b);
    b->forward = junction(c, s, v, true, &t);
    c->impossible = v->df_is_dresidual && v->wide; /* df = NULL needs one type for both */
    Tensor *dy = v->no_dy ? NULL : matrix(c, TO(b->dy), STORAGE, IN, s->N, s->C);
    Tensor *dresidual_in = NULL, *dresidual_out, *dmean_square = NULL;
    if (!v->no_dresidual)
        dresidual_in = matrix(c, TO(b->dresidual_in), RESIDUAL, v->in_place ? INOUT : IN, s->N, s->C);
    dresidual_out = dresidual_in && v->in_place ? ALSO(dresidual_in, b->dresidual_out)
                                                : matrix(c, TO(b->dresidual_out), RESIDUAL, OUT, s->N, s->C);
    if (v->mean_square) dmean_square = flat(c, TO(b->dmean_square_in), ACCUM, IN, 1, s->N);
    junction_derivatives(c, b, v, &t, dresidual_out);
    /* Differences need a scale to divide by and rows that they resolve. */
    if (!degenerate(c, s, v) && !has_zero_scale(v) && !v->extreme) {
        Tensor *stream = v->post ? t.y : v->first ? t.x : t.u;
        if (dy) upstream(c, t.y, dy, NULL);
        if (dresidual_in) upstream(c, stream, dresidual_in, v->post ? NULL : t.s_out);
        if (dmean_square) upstream(c, t.mean_square_out, dmean_square, NULL);
    }
    prepare(c, OP_junction_forward, b->forward);
    call(c, OP_junction_backward, b);
}

/* -------------------------------------------------------------------------- what feeds the junction: GPAS,
 * BHyT */

typedef struct GpasShape {
    int n;
} GpasShape;
static const GpasShape gpas_shapes[] = {{1}, {3}, {31}, {64}, {130}};
static const GpasActivation gpas_variants[] = {GPAS_SILU, GPAS_IDENTITY, GPAS_RELU, GPAS_TANH,
                                               GPAS_LEAKY_RELU};

static void declare_gpas_scales(Case *c, const void *shape, const void *variant) {
    const GpasShape *s = shape;
    GpasScales *a = arguments(c, sizeof *a);
    *a = (GpasScales){.n = s->n, .activation = *(const GpasActivation *)variant};
    describe(c, "n=%d activation=%d", s->n, (int)a->activation);
    Tensor *gate = spread(c, flat(c, TO(a->gate), ACCUM, IN, 1, s->n), 0, 2);
    if (s->n > 1 && a->activation != GPAS_RELU && a->activation != GPAS_LEAKY_RELU) gate->value[0] = 0;
    if (s->n > 3) gate->value[1] = -60, gate->value[2] = 60;
    flat(c, TO(a->scale), ACCUM, OUT, 1, s->n);
    flat(c, TO(a->slope), ACCUM, OUT, 1, s->n);
    call(c, OP_gpas_scales, a);
}

typedef struct ProductShape {
    int C, H, Hkv, D, T;
} ProductShape;
static const ProductShape product_shapes[] = {{1, 1, 1, 8, 1},     {8, 1, 1, 8, 31},  {31, 2, 1, 16, 64},
                                              {64, 4, 2, 16, 128}, {96, 3, 1, 32, 7}, {130, 2, 2, 64, 256}};
static const bool no_variant[] = {false};

static void declare_product_norm(Case *c, const void *shape, const void *variant) {
    const ProductShape *s = shape;
    ProductNorm *a = arguments(c, sizeof *a);
    (void)variant;
    *a = (ProductNorm){.C = s->C, .H = s->H, .Hkv = s->Hkv, .D = s->D, .T = s->T};
    describe(c, "C=%d H=%d Hkv=%d D=%d T=%d", s->C, s->H, s->Hkv, s->D, s->T);
    c->limits = (Limits){.C = s->C, .H = s->H, .Hkv = s->Hkv, .D = s->D, .T = s->T};
    weight(c, TO(a->w_o), STORAGE, IN, s->C, (int64_t)s->H * s->D);
    weight(c, TO(a->w_qkv), STORAGE, IN, (int64_t)(s->H + 2 * s->Hkv) * s->D, s->C);
    flat(c, TO(a->out), ACCUM, OUT, 1, 1);
    call(c, OP_product_norm, a);
}

typedef struct BhytVariant {
    bool gamma, alpha_o, s;
    double factor;
} BhytVariant;
static const RowShape bhyt_shapes[] = {{1, 1}, {1, 7}, {1, 64}, {1, 257}, {1, 768}};
static const BhytVariant bhyt_variants[] = {{.factor = 1},
                                            {.factor = 1, .gamma = true},
                                            {.factor = 1, .alpha_o = true, .s = true},
                                            {.factor = 1.0 / 3, .gamma = true, .s = true},
                                            {.factor = 0.5, .gamma = true, .alpha_o = true}};

static void declare_bhyt_terms(Case *c, const void *shape, const void *variant) {
    const RowShape *s = shape;
    const BhytVariant *v = variant;
    BhytTerms *a = arguments(c, sizeof *a);
    *a = (BhytTerms){.C = s->C, .kappa = 10, .factor = v->factor};
    describe(c, "C=%d factor=%g%s%s%s", s->C, v->factor, v->gamma ? " gamma" : "",
             v->alpha_o ? " alpha_o" : "", v->s ? " s" : "");
    c->limits = (Limits){.C = s->C};
    constant(flat(c, TO(a->c), ACCUM, IN, 1, 1), 0.3 + uniform(c));
    constant(flat(c, TO(a->lambda), ACCUM, IN, 1, 1), 1.5 + uniform(c));
    if (v->gamma) spread(c, vector(c, TO(a->gamma), ACCUM, IN, s->C), 1, 0.3);
    if (v->alpha_o) spread(c, vector(c, TO(a->alpha_o), ACCUM, IN, s->C), 1, 0.3);
    if (v->s) constant(flat(c, TO(a->s), ACCUM, IN, 1, 1), 0.7);
    flat(c, TO(a->vhat), ACCUM, OUT, 1, 2);
    call(c, OP_bhyt_terms, a);
}

const Family families_junction[] = {
    FAMILY(junction_forward, declare_junction_forward, junction_shapes, junction_variants),
    FAMILY(junction_backward, declare_junction_backward, junction_shapes, junction_variants),
    FAMILY(junction_forward, declare_junction_forward, junction_narrow_shapes, junction_wide, .whole = true),
    FAMILY(junction_backward, declare_junction_backward, junction_narrow_shapes, junction_wide, .whole = true),
    FAMILY(junction_forward, declare_junction_forward, junction_wide_shapes, junction_wide, .whole = true),
    FAMILY(junction_backward, declare_junction_backward, junction_wide_shapes, junction_wide, .whole = true),
    FAMILY(junction_backward, declare_junction_backward, junction_usual_shapes, junction_usual, .whole = true),
    FAMILY(gpas_scales, declare_gpas_scales, gpas_shapes, gpas_variants),
    FAMILY(product_norm, declare_product_norm, product_shapes, no_variant, .no_bits = true),
    FAMILY(bhyt_terms, declare_bhyt_terms, bhyt_shapes, bhyt_variants),
    FAMILY(junction_forward, declare_junction_forward, junction_measured_shapes, junction_measured,
           .perf = true),
    FAMILY(junction_backward, declare_junction_backward, junction_measured_shapes, junction_measured,
           .perf = true),
};
const int n_families_junction = sizeof families_junction / sizeof families_junction[0];
