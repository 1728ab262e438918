/* ops_cases_block.c: cases of the embedding, linear and the MLP's activation (how to write one:
 * ops_harness.h). */
#include "ops_harness.h"

/* ------------------------------------------------------------------------------------------- embedding */

typedef struct EmbeddingShape {
    int B, T, C, V;
} EmbeddingShape;
typedef struct EmbeddingVariant {
    bool wide, scale, positions, position;
    bool fixed_positions; /* no gradient for the position table */
} EmbeddingVariant;

static const EmbeddingShape embedding_shapes[] = {{1, 1, 1, 1},      {2, 3, 7, 3},    {1, 31, 64, 257},
                                                  {3, 7, 65, 11},    {2, 65, 96, 31}, {1, 130, 130, 7},
                                                  {2, 96, 257, 130}, {1, 7, 768, 31},
                                                  /* more keys than one digit of a sort by key holds, and more tokens
                                                   * than one block of it; more tokens of a key than a block's threads */
                                                  {2, 650, 9, 1500}, {1, 300, 9, 1}};
static const EmbeddingVariant embedding_variants[] = {{0},
                                                      {.positions = true},
                                                      {.positions = true, .position = true},
                                                      {.scale = true},
                                                      {.scale = true, .positions = true, .wide = true},
                                                      {.position = true, .wide = true},
                                                      {.positions = true, .fixed_positions = true}};

/* Every variant of a sample meets this one: each is a kernel of its own. */
static const EmbeddingShape embedding_small[] = {{2, 3, 7, 3}};

static Embedding *embedding(Case *c, const EmbeddingShape *s, const EmbeddingVariant *v, bool backward,
                            Tensor **table, Tensor **positions, Tensor **scale, Tensor **x) {
    Embedding *e = arguments(c, sizeof *e);
    int64_t N = (int64_t)s->B * s->T;
    c->limits = (Limits){.N = N, .B = s->B, .T = s->T, .C = s->C, .V = s->V};
    c->residual_is_accum = v->wide;
    *e = (Embedding){.B = s->B, .T = s->T, .C = s->C, .V = s->V, .residual_is_accum = v->wide};
    describe(c, "B=%d T=%d C=%d V=%d%s%s%s%s", s->B, s->T, s->C, s->V, v->wide ? " wide" : "",
             v->scale ? " scale" : "", v->positions ? " positions" : "", v->position ? " given" : "");
    indices(c, TO(e->tokens), N, s->V);
    if (v->position) indices(c, TO(e->position), N, s->T + 5);
    *table = weight(c, TO(e->token_table), STORAGE, IN, s->V, s->C);
    *positions = v->positions ? weight(c, TO(e->position_table), STORAGE, IN, s->T + 5, s->C) : NULL;
    *scale = v->scale ? flat(c, TO(e->scale), ACCUM, IN, 1, 1) : NULL;
    *x = matrix(c, TO(e->x), RESIDUAL, backward ? MADE : OUT, N, s->C);
    (*x)->unread = backward;
    return e;
}

static void declare_embedding_forward(Case *c, const void *shape, const void *variant) {
    Tensor *unused[4];
    call(c, OP_embedding_forward,
         embedding(c, shape, variant, false, &unused[0], &unused[1], &unused[2], &unused[3]));
}

static void declare_embedding_backward(Case *c, const void *shape, const void *variant) {
    const EmbeddingShape *s = shape;
    const EmbeddingVariant *v = variant;
    Tensor *table, *positions, *scale, *x;
    EmbeddingBackward *b = arguments(c, sizeof *b);
    b->forward = embedding(c, s, v, true, &table, &positions, &scale, &x);
    Tensor *dx = matrix(c, TO(b->dx), RESIDUAL, IN, (int64_t)s->B * s->T, s->C);
    derivative(weight(c, TO(b->dtoken_table), ACCUM, ADDED, s->V, s->C), table, 1);
    if (positions && !v->fixed_positions)
        derivative(weight(c, TO(b->dposition_table), ACCUM, ADDED, s->T + 5, s->C), positions, 1);
    if (scale) derivative(flat(c, TO(b->dscale), ACCUM, ADDED, 1, 1), scale, 1);
    upstream(c, x, dx, NULL);
    prepare(c, OP_embedding_forward, b->forward);
    call(c, OP_embedding_backward, b);
}

/* ---------------------------------------------------------------------------------------------- linear */

typedef struct LinearShape {
    int64_t N;
    int in, out;
} LinearShape;
typedef struct LinearVariant {
    bool bias;
    bool overwrites; /* the gradient of the weights */
    bool cancels; /* the sums' second half takes back what the first has brought: pieces of a sum that are rounded to Storage show */
} LinearVariant;

static const LinearShape linear_shapes[] = {{1, 1, 1},     {3, 7, 31},    {31, 64, 64},  {65, 65, 96},
                                            {7, 130, 257}, {96, 257, 3},  {1, 768, 130}, {64, 1, 65},
                                            {200, 96, 1},  {130, 31, 192}};
static const LinearVariant linear_variants[] = {{.bias = false}, {.bias = true}, {.cancels = true}};
static const LinearVariant linear_backward_input_variants[] = {{.bias = false}, {.cancels = true}};
static const LinearVariant linear_backward_weight_variants[] = {{.bias = false}, {.overwrites = true}};
static const LinearVariant linear_measured_variants[] = {{.bias = false}};
static const LinearShape linear_measured[] = {{1024, 768, 2304}, {1024, 768, 3072}, {1024, 3072, 768}};

static void linear_title(Case *c, const LinearShape *s) {
    describe(c, "N=%lld in=%d out=%d", (long long)s->N, s->in, s->out);
    c->limits = (Limits){.N = s->N, .C = s->in, .F = s->out};
    c->flops = 2.0 * (double)s->N * s->in * s->out;
}

static Linear *linear(Case *c, const LinearShape *s, Role y_role, Tensor **x, Tensor **w, Tensor **y) {
    Linear *a = arguments(c, sizeof *a);
    *a = (Linear){.N = s->N, .in = s->in, .out = s->out};
    linear_title(c, s);
    *x = matrix(c, TO(a->x), STORAGE, IN, s->N, s->in);
    *w = weight(c, TO(a->w), STORAGE, IN, s->out, s->in);
    *y = matrix(c, TO(a->y), STORAGE, y_role, s->N, s->out);
    return a;
}

/* a's sums [rows, terms] over b, whose term i is at b[i·step], i·step + 1, …: `others` of them. All but the last or the last two
 * terms are 32 times as large, and those of the second half are the first half's with the other sign. */
static void cancel(Case *c, Tensor *a, int64_t rows, Tensor *b, int64_t others, int terms, int64_t step, int64_t stride) {
    const int64_t half = (terms - 1) / 2;
    c->impossible = terms < 96; /* few terms make the error a matter of luck */
    describe(c, " cancels");
    for (int64_t row = 0; row < rows; row++)
        for (int64_t i = 0; i < half; i++) {
            a->value[row * terms + i] *= 32;
            a->value[row * terms + half + i] = -a->value[row * terms + i];
        }
    for (int64_t other = 0; other < others; other++)
        for (int64_t i = 0; i < half; i++) b->value[other * stride + (half + i) * step] = b->value[other * stride + i * step];
}

static void declare_linear_forward(Case *c, const void *shape, const void *variant) {
    const LinearShape *s = shape;
    const LinearVariant *v = variant;
    Tensor *x, *w, *y;
    Linear *a = linear(c, s, OUT, &x, &w, &y);
    if (v->bias) vector(c, TO(a->bias), STORAGE, IN, s->out);
    describe(c, "%s", v->bias ? " bias" : "");
    if (v->cancels) cancel(c, x, s->N, w, s->out, s->in, 1, s->in);
    call(c, OP_linear_forward, a);
}

static LinearBackward *linear_backward(Case *c, const LinearShape *s, Tensor **x, Tensor **w, Tensor **dy) {
    LinearBackward *b = arguments(c, sizeof *b);
    Tensor *y;
    const Linear *forward = linear(c, s, MADE, x, w, &y);
    *b = (LinearBackward){.N = s->N, .in = s->in, .out = s->out};
    y->unread = true;
    *dy = matrix(c, TO(b->dy), STORAGE, IN, s->N, s->out);
    upstream(c, y, *dy, NULL);
    prepare(c, OP_linear_forward, forward);
    return b;
}

static void declare_linear_backward_input(Case *c, const void *shape, const void *variant) {
    const LinearShape *s = shape;
    const LinearVariant *v = variant;
    Tensor *x, *w, *dy;
    LinearBackward *b = linear_backward(c, s, &x, &w, &dy);
    if (v->cancels) cancel(c, dy, s->N, w, s->in, s->out, s->in, 1);
    x->unread = true;
    ALSO(w, b->w);
    derivative(matrix(c, TO(b->dx), STORAGE, OUT, s->N, s->in), x, 1);
    call(c, OP_linear_backward_input, b);
}

static void declare_linear_backward_weight(Case *c, const void *shape, const void *variant) {
    const LinearShape *s = shape;
    const LinearVariant *v = variant;
    Tensor *x, *w, *dy;
    LinearBackward *b = linear_backward(c, s, &x, &w, &dy);
    b->overwrite = v->overwrites;
    describe(c, "%s", v->overwrites ? " overwrites" : "");
    w->unread = true;
    ALSO(x, b->x);
    derivative(weight(c, TO(b->dw), ACCUM, v->overwrites ? OUT : ADDED, s->out, s->in), w, 1);
    call(c, OP_linear_backward_weight, b);
}

/* ------------------------------------------------------------------------------------------ activation */

typedef struct ActivationShape {
    int64_t N;
    int F;
} ActivationShape;
typedef struct ActivationVariant {
    ActivationKind kind;
    ActivationNorm norm;
    bool bias, in_place, extreme;
} ActivationVariant;

static const ActivationShape activation_shapes[] = {{1, 1},   {3, 7},    {7, 64},    {31, 65}, {65, 31},
                                                    {2, 257}, {130, 96}, {200, 130}, {5, 768}, {1, 3072},
                                                    {1300, 9}}; /* rows enough for several to each partial sum */
static const ActivationVariant activation_variants[] = {
    {.kind = ACTIVATION_GELU},
    {.kind = ACTIVATION_GELU, .bias = true},
    {.kind = ACTIVATION_GELU, .in_place = true, .bias = true},
    {.kind = ACTIVATION_GELU, .extreme = true},
    {.kind = ACTIVATION_GELU, .norm = ACTIVATION_NORM_EACH},
    {.kind = ACTIVATION_GELU, .norm = ACTIVATION_NORM_JOINT, .in_place = true},
    {.kind = ACTIVATION_GELU, .norm = ACTIVATION_NORM_EACH, .extreme = true},
    {.kind = ACTIVATION_GELU_EXACT},
    {.kind = ACTIVATION_GELU_EXACT, .in_place = true, .bias = true},
    {.kind = ACTIVATION_GELU_EXACT, .extreme = true},
    {.kind = ACTIVATION_GELU_EXACT, .norm = ACTIVATION_NORM_EACH},
    {.kind = ACTIVATION_SWIGLU},
    {.kind = ACTIVATION_SWIGLU, .bias = true},
    {.kind = ACTIVATION_SWIGLU, .in_place = true},
    {.kind = ACTIVATION_SWIGLU, .extreme = true},
    {.kind = ACTIVATION_SWIGLU, .norm = ACTIVATION_NORM_EACH},
    {.kind = ACTIVATION_SWIGLU, .norm = ACTIVATION_NORM_EACH, .in_place = true},
    {.kind = ACTIVATION_SWIGLU, .norm = ACTIVATION_NORM_JOINT},
    {.kind = ACTIVATION_SWIGLU, .norm = ACTIVATION_NORM_JOINT, .in_place = true, .extreme = true}};
static const ActivationShape activation_measured_shapes[] = {{1024, 3072}};
static const ActivationVariant activation_measured[] = {{.kind = ACTIVATION_GELU},
                                                        {.kind = ACTIVATION_SWIGLU}};

typedef struct ActivationTensors {
    Tensor *h, *alpha, *y;
} ActivationTensors;

static Activation *activation(Case *c, const ActivationShape *s, const ActivationVariant *v, bool backward,
                              ActivationTensors *t) {
    Activation *a = arguments(c, sizeof *a);
    int parts = v->kind == ACTIVATION_SWIGLU ? 2 : 1, groups = v->norm == ACTIVATION_NORM_EACH ? parts : 1;
    *a = (Activation){.N = s->N, .F = s->F, .kind = v->kind, .norm = v->norm, .eps = 1e-6};
    static const char *const names[] = {"gelu", "swiglu", "gelu-exact"};
    c->limits = (Limits){.N = s->N, .F = parts * (int)padded(s->F)};
    describe(c, "N=%lld F=%d %s%s%s%s%s", (long long)s->N, s->F, names[v->kind],
             v->norm == ACTIVATION_NORM_EACH    ? " each"
             : v->norm == ACTIVATION_NORM_JOINT ? " joint"
                                                : "",
             v->bias ? " bias" : "", v->in_place ? " in place" : "", v->extreme ? " extreme" : "");
    bool in_place = backward && v->in_place;
    t->h = parted(c, TO(a->h), STORAGE, in_place ? INOUT : IN, s->N, parts, s->F);
    spread(c, t->h, 0, 2);
    if (v->extreme) extreme_rows(t->h);
    t->y = matrix(c, TO(a->y), STORAGE, backward ? MADE : OUT, s->N, s->F);
    t->y->unread = backward;
    t->y->only_finite = s->F == 1 && v->norm != ACTIVATION_NORM_NONE; /* see degenerate() of the junction */
    t->alpha = NULL;
    if (v->norm != ACTIVATION_NORM_NONE) {
        t->alpha = spread(c, parted(c, TO(a->alpha), ACCUM, IN, 1, parts, s->F), 1, 0.3);
        flat(c, TO(a->rstd), ACCUM, backward ? MADE : OUT, s->N, groups);
    }
    return a;
}

static void declare_activation_forward(Case *c, const void *shape, const void *variant) {
    ActivationTensors unused;
    call(c, OP_activation_forward, activation(c, shape, variant, false, &unused));
}

static void declare_activation_backward(Case *c, const void *shape, const void *variant) {
    const ActivationShape *s = shape;
    const ActivationVariant *v = variant;
    ActivationTensors t;
    ActivationBackward *b = arguments(c, sizeof *b);
    b->forward = activation(c, s, v, true, &t);
    Tensor *dy = matrix(c, TO(b->dy), STORAGE, IN, s->N, s->F);
    Tensor *dh = v->in_place ? ALSO(t.h, b->dh) : parted(c, TO(b->dh), STORAGE, OUT, s->N, t.h->parts, s->F);
    if (t.alpha) derivative(parted(c, TO(b->dalpha), ACCUM, ADDED, 1, t.h->parts, s->F), t.alpha, 1);
    if (v->bias) parted(c, TO(b->dbias), ACCUM, ADDED, 1, t.h->parts, s->F);
    derivative(dh, t.h, 1);
    for (int i = 0; t.y->only_finite && i < c->n_tensors; i++) c->tensor[i].only_finite = true;
    if (!v->extreme) upstream(c, t.y, dy, NULL); /* differences cannot resolve a row of 1e-20 */
    prepare(c, OP_activation_forward, b->forward);
    call(c, OP_activation_backward, b);
}

const Family families_block[] = {
    FAMILY(embedding_forward, declare_embedding_forward, embedding_shapes, embedding_variants),
    FAMILY(embedding_backward, declare_embedding_backward, embedding_shapes, embedding_variants),
    FAMILY(embedding_backward, declare_embedding_backward, embedding_small, embedding_variants, .whole = true),
    FAMILY(linear_forward, declare_linear_forward, linear_shapes, linear_variants, .no_bits = true),
    FAMILY(linear_backward_input, declare_linear_backward_input, linear_shapes, linear_backward_input_variants,
           .no_bits = true),
    FAMILY(linear_backward_weight, declare_linear_backward_weight, linear_shapes, linear_backward_weight_variants,
           .no_bits = true),
    FAMILY(activation_forward, declare_activation_forward, activation_shapes, activation_variants),
    FAMILY(activation_backward, declare_activation_backward, activation_shapes, activation_variants),
    FAMILY(linear_forward, declare_linear_forward, linear_measured, linear_measured_variants, .perf = true),
    FAMILY(linear_backward_input, declare_linear_backward_input, linear_measured, linear_measured_variants,
           .perf = true),
    FAMILY(linear_backward_weight, declare_linear_backward_weight, linear_measured, linear_measured_variants,
           .perf = true),
    FAMILY(activation_forward, declare_activation_forward, activation_measured_shapes, activation_measured,
           .perf = true),
    FAMILY(activation_backward, declare_activation_backward, activation_measured_shapes, activation_measured,
           .perf = true),
};
const int n_families_block = sizeof families_block / sizeof families_block[0];
