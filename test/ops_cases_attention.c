/* ops_cases_attention.c: cases of Q/K/V, attention and cached decoding (how to write one: ops_harness.h). */
#include "ops_harness.h"

typedef struct HeadShape {
    int B, T, H, Hkv, D;
} HeadShape;

/* Head sizes that are no multiple of 8 are the CPU's only. */
static const HeadShape head_shapes[] = {
    {1, 1, 1, 1, 8},    {2, 7, 2, 1, 16},   {1, 65, 3, 1, 32}, {2, 31, 4, 2, 48},
    {1, 130, 6, 2, 64}, {1, 200, 2, 2, 64}, {2, 96, 2, 1, 96}, {1, 64, 1, 1, 128},
    {1, 33, 2, 1, 256}, {3, 3, 3, 3, 8},    {2, 64, 3, 3, 40}, {1, 129, 2, 1, 24},
    {2, 5, 2, 1, 5},    {1, 4, 1, 1, 1},    {1, 70, 3, 1, 7},  {1, 257, 1, 1, 64}};

/* Every variant of a sample meets this one: each is a kernel of its own. */
static const HeadShape head_small[] = {{2, 7, 2, 1, 16}};
/* Rows enough for several to each partial sum. */
static const HeadShape qkv_long_shapes[] = {{2, 650, 2, 1, 8}};

static int64_t head_width(const HeadShape *s) {
    return (int64_t)(s->H + 2 * s->Hkv) * s->D;
}

static void head_title(Case *c, const HeadShape *s) {
    describe(c, "B=%d T=%d H=%d Hkv=%d D=%d", s->B, s->T, s->H, s->Hkv, s->D);
    c->limits = (Limits){.N = (int64_t)s->B * s->T,
                         .B = s->B,
                         .T = s->T,
                         .H = s->H,
                         .Hkv = s->Hkv,
                         .D = s->D,
                         .C = s->H * s->D};
    c->cpu_only = s->D % 8 != 0;
}

/* ------------------------------------------------------------------------------------------------- qkv */

typedef struct QkvVariant {
    QkvNorm norm;
    bool alpha_v, rope, position, bias, in_place, extreme;
} QkvVariant;

static const QkvVariant qkv_variants[] = {
    {.rope = true},
    {.rope = true, .position = true, .bias = true},
    {.rope = true, .in_place = true},
    {.bias = true},
    {.bias = true, .in_place = true},
    {.norm = QKV_NORM_HEAD},
    {.norm = QKV_NORM_HEAD, .rope = true},
    {.norm = QKV_NORM_HEAD, .alpha_v = true, .rope = true, .position = true},
    {.norm = QKV_NORM_HEAD, .rope = true, .extreme = true, .in_place = true},
    {.norm = QKV_NORM_PROJECTION},
    {.norm = QKV_NORM_PROJECTION, .alpha_v = true},
    {.norm = QKV_NORM_PROJECTION, .alpha_v = true, .rope = true, .bias = true},
    {.norm = QKV_NORM_PROJECTION, .rope = true, .extreme = true}};

typedef struct QkvTensors {
    Tensor *raw, *qkv, *alpha[3];
} QkvTensors;

static Tensor *rope_table(Case *c, Qkv *q, const HeadShape *s) {
    Tensor *t = flat(c, TO(q->rope), ACCUM, IN, (int64_t)(s->T + 5) * (s->D / 2), 2);
    for (int64_t i = 0; i < tensor_count(t); i += 2) {
        double angle = 6.283185307179586 * uniform(c);
        t->value[i] = cos(angle);
        t->value[i + 1] = sin(angle);
    }
    return t;
}

/* With norm HEAD and no α for v, v's places among the row statistics are left open. */
static void ignore_value_heads(Tensor *rstd, const HeadShape *s, Case *c) {
    int heads = s->H + 2 * s->Hkv;
    rstd->ignored = arguments(c, (size_t)tensor_count(rstd));
    for (int64_t i = 0; i < tensor_count(rstd); i++)
        rstd->ignored[i] = rstd->cols == 3 ? i % 3 == 2 : i % heads >= s->H + s->Hkv;
}

static Qkv *qkv(Case *c, const HeadShape *s, const QkvVariant *v, bool backward, QkvTensors *t) {
    Qkv *q = arguments(c, sizeof *q);
    int64_t N = (int64_t)s->B * s->T, lengths[3] = {s->D, s->D, s->D};
    bool norm = v->norm != QKV_NORM_NONE, forward_in_place = !backward && v->in_place && !norm;
    *q = (Qkv){.B = s->B, .T = s->T, .H = s->H, .Hkv = s->Hkv, .D = s->D, .norm = v->norm, .eps = 1e-6};
    head_title(c, s);
    c->impossible = v->rope && s->D % 2 != 0;
    describe(c, "%s%s%s%s%s%s%s",
             v->norm == QKV_NORM_HEAD ? " head"
             : norm                   ? " projection"
                                      : "",
             v->alpha_v ? " alpha_v" : "", v->rope ? " rope" : "", v->position ? " position" : "",
             v->bias ? " bias" : "", v->in_place ? " in place" : "", v->extreme ? " extreme" : "");
    if (v->norm == QKV_NORM_PROJECTION)
        lengths[0] = (int64_t)s->H * s->D, lengths[1] = lengths[2] = (int64_t)s->Hkv * s->D;
    t->raw = matrix(c, TO(q->raw), STORAGE, forward_in_place ? INOUT : IN, N, head_width(s));
    t->raw->unread = backward && !norm;
    if (v->extreme) extreme_rows(t->raw);
    t->qkv = forward_in_place ? ALSO(t->raw, q->qkv)
                              : matrix(c, TO(q->qkv), STORAGE, backward ? MADE : OUT, N, head_width(s));
    if (backward) t->qkv->unread = true;
    if (norm) {
        t->alpha[0] = spread(c, vector(c, TO(q->alpha_q), ACCUM, IN, lengths[0]), 1, 0.3);
        t->alpha[1] = spread(c, vector(c, TO(q->alpha_k), ACCUM, IN, lengths[1]), 1, 0.3);
        if (v->alpha_v) t->alpha[2] = spread(c, vector(c, TO(q->alpha_v), ACCUM, IN, lengths[2]), 1, 0.3);
        Tensor *rstd = flat(c, TO(q->rstd), ACCUM, backward ? MADE : OUT, N,
                            v->norm == QKV_NORM_HEAD ? s->H + 2 * s->Hkv : 3);
        if (!v->alpha_v) ignore_value_heads(rstd, s, c);
    }
    if (v->rope) rope_table(c, q, s);
    if (v->position) indices(c, TO(q->position), N, s->T + 5);
    return q;
}

/* The rms of one number leaves rounding noise, times up to 1/√ε: nothing to compare or resolve. */
static bool degenerate(Case *c, const HeadShape *s, const QkvVariant *v) {
    bool is = s->D == 1 && v->norm != QKV_NORM_NONE;
    for (int i = 0; is && i < c->n_tensors; i++) c->tensor[i].only_finite = true;
    return is;
}

static void declare_qkv_forward(Case *c, const void *shape, const void *variant) {
    QkvTensors unused = {0};
    call(c, OP_qkv_forward, qkv(c, shape, variant, false, &unused));
}

static void declare_qkv_backward(Case *c, const void *shape, const void *variant) {
    const HeadShape *s = shape;
    const QkvVariant *v = variant;
    QkvTensors t = {0};
    QkvBackward *b = arguments(c, sizeof *b);
    b->forward = qkv(c, s, v, true, &t);
    int64_t N = (int64_t)s->B * s->T;
    Tensor *dqkv = matrix(c, TO(b->dqkv), STORAGE, v->in_place ? INOUT : IN, N, head_width(s)), *draw;
    draw = v->in_place ? ALSO(dqkv, b->draw) : matrix(c, TO(b->draw), STORAGE, OUT, N, head_width(s));
    if (t.alpha[0]) derivative(vector(c, TO(b->dalpha_q), ACCUM, ADDED, t.alpha[0]->cols), t.alpha[0], 1);
    if (t.alpha[1]) derivative(vector(c, TO(b->dalpha_k), ACCUM, ADDED, t.alpha[1]->cols), t.alpha[1], 1);
    if (t.alpha[2]) derivative(vector(c, TO(b->dalpha_v), ACCUM, ADDED, t.alpha[2]->cols), t.alpha[2], 1);
    if (v->bias) vector(c, TO(b->dbias), ACCUM, ADDED, head_width(s));
    derivative(draw, t.raw, 1);
    if (!degenerate(c, s, v) && !v->extreme)
        upstream(c, t.qkv, dqkv, NULL); /* differences cannot resolve a row of 1e-20 */
    prepare(c, OP_qkv_forward, b->forward);
    call(c, OP_qkv_backward, b);
}

/* ------------------------------------------------------------------------------------------- attention */

typedef enum Documents { ONE_DOCUMENT, SHORT_DOCUMENTS, DOCUMENTS_OF_64, DOCUMENTS_OF_100 } Documents;

typedef struct AttentionVariant {
    Documents documents;
    double size; /* of q, k and v */
    bool bias;   /* whose gradient backward sums */
} AttentionVariant;

/* At size 1 a rare score stands so far out that its rounding alone is the largest error; at 0.7 none does,
 * and at 2 nearly every row has one. */
static const AttentionVariant attention_variants[] = {
    {.size = 0.7}, {.documents = SHORT_DOCUMENTS, .size = 0.7, .bias = true}, {.size = 2}};

/* Kernels go by tiles of 64 and blocks of 64 or 128 rows: sequences that end anywhere in them, every head
 * size that has a kernel of its own, groups of 1, 3 and 8; documents that start at a tile's border and
 * inside, some of them so late that whole tiles lie in another document. */
static const HeadShape tile_shapes[] = {
    {1, 1, 3, 1, 32},   {2, 1, 8, 1, 64},   {1, 2, 1, 1, 128},  {1, 190, 8, 1, 32}, {1, 300, 1, 1, 32},
    {2, 129, 3, 1, 48}, {1, 257, 1, 1, 48}, {1, 63, 8, 1, 64},  {1, 321, 3, 3, 64}, {1, 192, 3, 1, 96},
    {1, 301, 1, 1, 96}, {2, 65, 8, 8, 128}, {1, 250, 3, 1, 128}};
static const AttentionVariant tile_variants[] = {{.size = 0.7, .bias = true},
                                                 {.documents = SHORT_DOCUMENTS, .size = 0.7},
                                                 {.documents = DOCUMENTS_OF_64, .size = 0.7},
                                                 {.documents = DOCUMENTS_OF_100, .size = 0.7, .bias = true}};
static const QkvVariant qkv_measured[] = {{.rope = true, .in_place = true},
                                          {.norm = QKV_NORM_HEAD, .rope = true}};
static const HeadShape attention_measured_shapes[] = {{4, 256, 12, 12, 64}, {1, 1024, 12, 4, 64}};
static const AttentionVariant attention_measured[] = {{.size = 1}};

/* Whether a document starts at time step t > 0. Short ones: about one token in nine. */
static bool document_starts(Case *c, Documents documents, int64_t t) {
    return documents == SHORT_DOCUMENTS ? uniform(c) < 1.0 / 9
                                        : t % (documents == DOCUMENTS_OF_64 ? 64 : 100) == 0;
}

static Attention *attention(Case *c, const HeadShape *s, const AttentionVariant *v, Role made, Tensor **qkv_,
                            Tensor **out) {
    Attention *a = arguments(c, sizeof *a);
    int64_t N = (int64_t)s->B * s->T;
    *a = (Attention){.B = s->B, .T = s->T, .H = s->H, .Hkv = s->Hkv, .D = s->D};
    head_title(c, s);
    static const char *const names[] = {"", " short documents", " documents of 64", " documents of 100"};
    describe(c, "%s size=%g", names[v->documents], v->size);
    c->flops = 2.0 * s->B * s->H * s->T * (s->T + 1.0) * s->D; /* forward: the causal half of two products */
    *qkv_ = spread(c, matrix(c, TO(a->qkv), STORAGE, IN, N, head_width(s)), 0, v->size);
    if (v->documents) {
        Tensor *starts = indices(c, TO(a->doc_start), N, 1);
        for (int64_t n = 1; n < N; n++)
            if (n % s->T)
                starts->value[n] =
                    document_starts(c, v->documents, n % s->T) ? (double)(n % s->T) : starts->value[n - 1];
    }
    *out = matrix(c, TO(a->out), STORAGE, made, N, (int64_t)s->H * s->D);
    flat(c, TO(a->lse), ACCUM, made, (int64_t)s->B * s->H, s->T);
    return a;
}

static void declare_attention_forward(Case *c, const void *shape, const void *variant) {
    Tensor *unused[2];
    call(c, OP_attention_forward, attention(c, shape, variant, OUT, &unused[0], &unused[1]));
}

static void declare_attention_backward(Case *c, const void *shape, const void *variant) {
    const HeadShape *s = shape;
    const AttentionVariant *v = variant;
    Tensor *qkv_, *out;
    AttentionBackward *b = arguments(c, sizeof *b);
    b->forward = attention(c, s, v, MADE, &qkv_, &out);
    describe(c, "%s", v->bias ? " bias" : "");
    c->flops *= 2.5;
    upstream(c, out, matrix(c, TO(b->dout), STORAGE, IN, out->rows, out->cols), NULL);
    derivative(matrix(c, TO(b->dqkv), STORAGE, OUT, qkv_->rows, qkv_->cols), qkv_, 1);
    if (v->bias) vector(c, TO(b->dbias), ACCUM, ADDED, head_width(s));
    prepare(c, OP_attention_forward, b->forward);
    call(c, OP_attention_backward, b);
}

typedef struct DecodeVariant {
    bool prompt; /* T of the shape; else one token */
    int before;  /* at most so many time steps are in the cache */
    int spare;   /* time steps left after the call */
} DecodeVariant;

static const DecodeVariant decode_variants[] = {{.prompt = true, .before = 0, .spare = 0},
                                                {.prompt = true, .before = 9, .spare = 3},
                                                {.prompt = false, .before = 0, .spare = 1},
                                                {.prompt = false, .before = 100, .spare = 0},
                                                {.prompt = false, .before = 65, .spare = 64},
                                                /* caches that are cut into pieces, which are merged */
                                                {.prompt = false, .before = 300, .spare = 0},
                                                {.prompt = false, .before = 523, .spare = 77}};
/* A prompt that goes on: a warp of the GPU takes keys more than once. */
static const DecodeVariant decode_going_on[] = {{.prompt = true, .before = 260, .spare = 3}};
static const HeadShape decode_measured_shapes[] = {{8, 1, 12, 12, 64}};
static const DecodeVariant decode_measured[] = {{.before = 1023, .spare = 0}};

static void declare_attention_decode(Case *c, const void *shape, const void *variant) {
    HeadShape s = *(const HeadShape *)shape;
    const DecodeVariant *v = variant;
    if (!v->prompt) s.T = 1;
    AttentionDecode *a = arguments(c, sizeof *a);
    int capacity = v->before + s.T + v->spare;
    int64_t N = (int64_t)s.B * s.T, kv = (int64_t)s.Hkv * s.D;
    *a = (AttentionDecode){.B = s.B, .T = s.T, .H = s.H, .Hkv = s.Hkv, .D = s.D, .capacity = capacity};
    head_title(c, &s);
    c->limits.T = capacity;
    c->limits.N = (int64_t)s.B * capacity;
    describe(c, " before<=%d capacity=%d", v->before, capacity);
    Tensor *length = indices(c, TO(a->length), s.B, v->before + 1);
    length->value[0] = v->before;
    spread(c, matrix(c, TO(a->qkv), STORAGE, IN, N, head_width(&s)), 0, 0.7);
    Tensor *k = spread(c, matrix(c, TO(a->k_cache), STORAGE, INOUT, (int64_t)s.B * capacity, kv), 0, 0.7);
    Tensor *value = matrix(c, TO(a->v_cache), STORAGE, INOUT, (int64_t)s.B * capacity, kv);
    for (int64_t i = 0; i < tensor_count(k); i++) /* what lies past the new tokens must not count */
        if (i / kv % capacity >= (int64_t)length->value[i / kv / capacity])
            k->value[i] = value->value[i] = 50;
    k->exact = value->exact = true; /* a copy */
    matrix(c, TO(a->out), STORAGE, OUT, N, (int64_t)s.H * s.D);
    call(c, OP_attention_decode, a);
}

const Family families_attention[] = {
    FAMILY(qkv_forward, declare_qkv_forward, head_shapes, qkv_variants),
    FAMILY(qkv_backward, declare_qkv_backward, head_shapes, qkv_variants),
    FAMILY(qkv_backward, declare_qkv_backward, head_small, qkv_variants, .whole = true),
    FAMILY(qkv_backward, declare_qkv_backward, qkv_long_shapes, qkv_variants),
    FAMILY(attention_forward, declare_attention_forward, head_shapes, attention_variants),
    FAMILY(attention_backward, declare_attention_backward, head_shapes, attention_variants),
    FAMILY(attention_forward, declare_attention_forward, tile_shapes, tile_variants),
    FAMILY(attention_backward, declare_attention_backward, tile_shapes, tile_variants),
    FAMILY(attention_decode, declare_attention_decode, head_shapes, decode_variants),
    FAMILY(attention_decode, declare_attention_decode, head_small, decode_going_on),
    FAMILY(attention_forward, declare_attention_forward, attention_measured_shapes, attention_measured,
           .perf = true),
    FAMILY(attention_backward, declare_attention_backward, attention_measured_shapes, attention_measured,
           .perf = true),
    FAMILY(attention_decode, declare_attention_decode, decode_measured_shapes, decode_measured, .perf = true),
    FAMILY(qkv_forward, declare_qkv_forward, attention_measured_shapes, qkv_measured, .perf = true),
    FAMILY(qkv_backward, declare_qkv_backward, attention_measured_shapes, qkv_measured, .perf = true),
};
const int n_families_attention = sizeof families_attention / sizeof families_attention[0];
