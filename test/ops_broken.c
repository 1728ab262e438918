/*
 * ops_broken.c: operations broken on purpose, each in one way that has happened in some program; the suite
 * must notice every one. A wrapper calls the good operation of cpu/f32 (or cpu/f64, or cpu/bf16) and spoils what
 * it was given or made.
 */
#include "ops_harness.h"

#include <stdio.h>

static const Kernels *good;
typedef float real_; /* cpu/f32; Accum of cpu/bf16 */

#define REPLACE(operation_, function)                                                                        \
    static Kernels wrap_##function(const Kernels *k) {                                                       \
        good = k;                                                                                            \
        Kernels wrapped = *k;                                                                                \
        wrapped.operation_ = function;                                                                       \
        return wrapped;                                                                                      \
    }

/* -------------------------------------------------------------------------------------------- junction */

static void no_epsilon(Queue *queue, const Junction *j) {
    Junction wrong = *j;
    wrong.norm.eps = 0;
    good->junction_forward(queue, &wrong);
}
REPLACE(junction_forward, no_epsilon)

/* As a reciprocal square root of too few bits would do. */
static void imprecise(Queue *queue, const Junction *j) {
    good->junction_forward(queue, j);
    for (int64_t i = 0; j->y && i < j->N * padded(j->C); i++) ((real_ *)j->y)[i] *= 1.00001f;
}
REPLACE(junction_forward, imprecise)

static int calls;
static void other_bits(Queue *queue, const Junction *j) {
    good->junction_forward(queue, j);
    if (j->y && calls++ % 2) ((real_ *)j->y)[0] += 1e-7f;
}
REPLACE(junction_forward, other_bits)

/* Recompute (f = NULL) goes another way than the first call. */
static void other_recompute(Queue *queue, const Junction *j) {
    good->junction_forward(queue, j);
    if (j->y && !j->f) ((real_ *)j->y)[0] *= 1.000001f;
}
REPLACE(junction_forward, other_recompute)

static void dgamma_one_percent(Queue *queue, const JunctionBackward *b) {
    real_ before[4096], *dgamma = b->norm.dgamma;
    int C = b->forward->C;
    for (int c = 0; dgamma && c < C; c++) before[c] = dgamma[c];
    good->junction_backward(queue, b);
    for (int c = 0; dgamma && c < C; c++) dgamma[c] += 0.01f * (dgamma[c] - before[c]);
}
REPLACE(junction_backward, dgamma_one_percent)

static void overwritten_dbias(Queue *queue, const JunctionBackward *b) {
    for (int c = 0; b->dbias && c < b->forward->C; c++) ((real_ *)b->dbias)[c] = 0;
    good->junction_backward(queue, b);
}
REPLACE(junction_backward, overwritten_dbias)

/* MATH.md §5: taken over u in the place of x, the gate of a post-type junction never trains. */
static void gate_of_u(Queue *queue, const JunctionBackward *b) {
    Junction forward = *b->forward;
    JunctionBackward wrong = *b;
    if (forward.post && forward.u) forward.x = forward.u;
    wrong.forward = &forward;
    good->junction_backward(queue, &wrong);
}
REPLACE(junction_backward, gate_of_u)

/* The gradient that crosses a GPAS scale is multiplied by it, as a plain product's would be. In fp64. */
static void scaled_upstream(Queue *queue, const JunctionBackward *b) {
    good->junction_backward(queue, b);
    double s = b->forward->s_out ? *(const double *)b->forward->s_out : 1;
    for (int64_t i = 0; i < b->forward->N * padded(b->forward->C); i++) ((double *)b->dresidual_out)[i] *= s;
}
REPLACE(junction_backward, scaled_upstream)

/* Normalized input without its mean taken off, in layernorm's backward: wrong by little where means are
 * small. */
static void wrong_mean(Queue *queue, const JunctionBackward *b) {
    double zeros[4096] = {0};
    Junction forward = *b->forward;
    JunctionBackward wrong = *b;
    if (forward.norm.kind == NORM_LAYERNORM) forward.norm.mean = zeros;
    wrong.forward = &forward;
    good->junction_backward(queue, &wrong);
}
REPLACE(junction_backward, wrong_mean)

/* ------------------------------------------------------------------ linear, activation, embedding */

static void row_not_written(Queue *queue, const Linear *l) {
    Linear wrong = *l;
    if (wrong.N > 1) wrong.N--;
    good->linear_forward(queue, &wrong);
}
REPLACE(linear_forward, row_not_written)

static void overwritten_dw(Queue *queue, const LinearBackward *l) {
    memset(l->dw, 0, (size_t)(padded(l->out) * padded(l->in)) * sizeof(real_));
    good->linear_backward_weight(queue, l);
}
REPLACE(linear_backward_weight, overwritten_dw)

static void added_dw(Queue *queue, const LinearBackward *l) {
    LinearBackward adds = *l;
    adds.overwrite = false;
    good->linear_backward_weight(queue, &adds);
}
REPLACE(linear_backward_weight, added_dw)

static void changed_input(Queue *queue, const LinearBackward *l) {
    good->linear_backward_input(queue, l);
    real_ *dy = (real_ *)(uintptr_t)l->dy;
    dy[0] = -dy[0];
}
REPLACE(linear_backward_input, changed_input)

static void dirty_padding(Queue *queue, const Activation *a) {
    good->activation_forward(queue, a);
    if (a->F < padded(a->F)) ((real_ *)a->y)[a->F] = 1e-30f;
}
REPLACE(activation_forward, dirty_padding)

static void exact_gelu(Queue *queue, const Activation *a) {
    good->activation_forward(queue, a);
    if (a->kind != ACTIVATION_GELU || a->norm != ACTIVATION_NORM_NONE) return;
    for (int64_t i = 0; i < a->N * padded(a->F); i++) {
        double z = ((const real_ *)a->h)[i];
        ((real_ *)a->y)[i] = (real_)(0.5 * z * (1 + erf(z * 0.70710678118654752)));
    }
}
REPLACE(activation_forward, exact_gelu)

/* A token that comes twice counts once. */
static void lost_duplicates(Queue *queue, const EmbeddingBackward *b) {
    const Embedding *e = b->forward;
    int64_t ld = padded(e->C), last = (int64_t)e->B * e->T - 1;
    good->embedding_backward(queue, b);
    for (int64_t n = 0; n < last; n++) {
        if (e->tokens[n] != e->tokens[last]) continue;
        for (int c = 0; c < e->C; c++)
            ((real_ *)b->dtoken_table)[e->tokens[n] * ld + c] -= ((const real_ *)b->dx)[n * ld + c];
        return;
    }
}
REPLACE(embedding_backward, lost_duplicates)

/* ------------------------------------------------------------------------------------------- attention */

/* Token t sees t + 1 too. */
static void mask_off_by_one(Queue *queue, const Attention *a) {
    int64_t ld = padded((int64_t)(a->H + 2 * a->Hkv) * a->D), ld_out = padded((int64_t)a->H * a->D);
    good->attention_forward(queue, a);
    for (int64_t n = 0; n + 1 < (int64_t)a->B * a->T; n++) {
        if (n % a->T == a->T - 1) continue;
        const real_ *q = (const real_ *)a->qkv + n * ld,
                    *k = (const real_ *)a->qkv + (n + 1) * ld + a->H * a->D;
        real_ *out = (real_ *)a->out + n * ld_out, *lse = (real_ *)a->lse + n / a->T * a->H * a->T + n % a->T;
        double score = 0;
        for (int d = 0; d < a->D; d++) score += (double)q[d] * (double)k[d];
        double p = 1 / (1 + exp((double)*lse - score / sqrt((double)a->D)));
        for (int d = 0; d < a->D; d++) out[d] += (real_)p * (k[a->Hkv * a->D + d] - out[d]);
    }
}
REPLACE(attention_forward, mask_off_by_one)

static void no_documents(Queue *queue, const AttentionBackward *b) {
    Attention forward = *b->forward;
    forward.doc_start = NULL;
    good->attention_backward(queue,
                             &(AttentionBackward){.forward = &forward, .dout = b->dout, .dqkv = b->dqkv, .dbias = b->dbias});
}
REPLACE(attention_backward, no_documents)

static void rotated_again(Queue *queue, const QkvBackward *b) {
    if (!b->forward->rope || b->forward->norm != QKV_NORM_NONE || b->dbias) {
        good->qkv_backward(queue, b);
        return;
    }
    Qkv forward = *b->forward;
    forward.raw = b->dqkv;
    forward.qkv = b->draw;
    good->qkv_forward(queue, &forward);
}
REPLACE(qkv_backward, rotated_again)

static void one_key_short(Queue *queue, const AttentionDecode *a) {
    uint32_t length[64];
    for (int b = 0; b < a->B; b++) length[b] = a->length[b] > 0 ? a->length[b] - 1 : 0;
    AttentionDecode wrong = *a;
    wrong.length = length;
    good->attention_decode(queue, &wrong);
}
REPLACE(attention_decode, one_key_short)

/* --------------------------------------------------------------------------------------- loss and step */

static void ignored_counted(Queue *queue, const CrossEntropy *e) {
    uint32_t targets[256];
    for (int64_t n = 0; n < e->N; n++) targets[n] = e->targets[n] == TARGET_IGNORED ? 0 : e->targets[n];
    CrossEntropy wrong = *e;
    wrong.targets = targets;
    good->cross_entropy(queue, &wrong);
}
REPLACE(cross_entropy, ignored_counted)

static void no_z_loss(Queue *queue, const CrossEntropy *e) {
    CrossEntropy wrong = *e;
    wrong.z_loss = 0;
    good->cross_entropy(queue, &wrong);
}
REPLACE(cross_entropy, no_z_loss)

static void past_the_end(Queue *queue, const LossReduce *l) {
    good->loss_reduce(queue, l);
    l->state->norm_window[0] = 1;
}
REPLACE(loss_reduce, past_the_end)

static void never_skips(Queue *queue, const AdamW *a) {
    StepState state = *a->state;
    AdamW wrong = *a;
    state.skip = SKIP_NONE;
    wrong.state = &state;
    good->adamw(queue, &wrong);
}
REPLACE(adamw, never_skips)

static void no_bias_correction(Queue *queue, const AdamW *a) {
    StepState state = *a->state;
    AdamW wrong = *a;
    state.bias_correction[0] = state.bias_correction[1] = 1;
    wrong.state = &state;
    good->adamw(queue, &wrong);
}
REPLACE(adamw, no_bias_correction)

static void never_counts(Queue *queue, const AdamW *a) {
    uint64_t before = a->state->non_finite;
    good->adamw(queue, a);
    a->state->non_finite = before;
}
REPLACE(adamw, never_counts)

/* Heavy-ball momentum for Nesterov's. */
static void no_look_ahead(Queue *queue, const MuonMomentum *a) {
    good->muon_momentum(queue, a);
    for (int64_t i = a->begin; i < a->end; i++) ((real_ *)a->out)[i] = ((const real_ *)a->m)[i];
}
REPLACE(muon_momentum, no_look_ahead)

/* A matrix whose norm is next to nothing is blown up. */
static void no_least_norm(Queue *queue, const ScaledCopy *s) {
    ScaledCopy wrong = *s;
    wrong.eps = 0;
    good->scaled_copy(queue, &wrong);
}
REPLACE(scaled_copy, no_least_norm)

static void not_transposed(Queue *queue, const ScaledCopy *s) {
    ScaledCopy wrong = *s;
    wrong.transpose = s->transpose && s->rows != s->cols;
    good->scaled_copy(queue, &wrong);
}
REPLACE(scaled_copy, not_transposed)

static void decays_all_alike(Queue *queue, const MuonUpdate *a) {
    ParamSlot slots[8];
    for (int i = 0; i < a->n_slots; i++) slots[i] = a->slots[i], slots[i].weight_decay = 0.1;
    MuonUpdate wrong = *a;
    wrong.slots = slots;
    good->muon_update(queue, &wrong);
}
REPLACE(muon_update, decays_all_alike)

/* Muon on what is AdamW's. */
static void muon_everywhere(Queue *queue, const MuonUpdate *a) {
    ParamSlot slots[8];
    for (int i = 0; i < a->n_slots; i++) slots[i] = a->slots[i], slots[i].optimizer = OPTIMIZER_MUON;
    MuonUpdate wrong = *a;
    wrong.slots = slots;
    good->muon_update(queue, &wrong);
}
REPLACE(muon_update, muon_everywhere)

/* Masters that keep their rounding alone. */
static void rounds_masters(Queue *queue, const AdamW *a) {
    good->adamw(queue, a);
    for (int64_t i = a->begin; a->lower && i < a->end; i++) a->lower[i] = 0;
}
REPLACE(adamw, rounds_masters)

/* Ties to even, as cast has them. */
static void ties_to_even(Queue *queue, const Halves *h) {
    good->halves(queue, h);
    for (int64_t i = 0; h->lower && !h->join && i < h->n; i++)
        ((uint16_t *)h->storage)[i] = float_to_bf16(((const float *)h->master)[i]);
}
REPLACE(halves, ties_to_even)

/* Squares taken in fp32. */
static void squares_overflow(Queue *queue, const SumSquares *s) {
    float sum = 0;
    for (int64_t i = s->begin; i < s->end; i++) sum += ((const real_ *)s->grad)[i] * ((const real_ *)s->grad)[i];
    good->sum_squares(queue, s);
    if (!isfinite(sum)) s->state->sum_squares[CLIP_ALL] = (double)sum;
}
REPLACE(sum_squares, squares_overflow)

static void no_gate_group(Queue *queue, const SumSquares *s) {
    good->sum_squares(queue, s);
    s->state->sum_squares[CLIP_GATES] = s->state->sum_squares[CLIP_ALL];
}
REPLACE(sum_squares, no_gate_group)

static void truncates(Queue *queue, const Cast *c) {
    good->cast(queue, c);
    for (int64_t i = 0; c->from == DTYPE_F32 && c->to == DTYPE_BF16 && i < c->n; i++) {
        uint32_t bits;
        memcpy(&bits, (const float *)c->src + i, sizeof bits);
        ((uint16_t *)c->dst)[i] = (uint16_t)(bits >> 16);
    }
}
REPLACE(cast, truncates)

/* Words that have changed places. */
static void forgets_places(Queue *queue, const Hash *h) {
    (void)queue;
    *h->out = 0;
    for (int64_t i = 0; i < h->n; i++) *h->out += ((const uint32_t *)h->words)[i] * UINT64_C(0xbf58476d1ce4e5b9);
}
REPLACE(hash, forgets_places)

/* ---------------------------------------------------------------------------- bf16, rounded elsewhere */

static float rounded(float value) {
    return bf16_to_float(float_to_bf16(value));
}

static float bf16_at(const void *p, int64_t i) {
    return bf16_to_float(((const uint16_t *)p)[i]);
}

/* A number in Accum that is read as if it were in Storage. */
static void rounded_scale(Queue *queue, const Embedding *e) {
    static _Alignas(256) float scale;
    Embedding wrong = *e;
    if (e->scale) scale = rounded(*(const float *)e->scale), wrong.scale = &scale;
    good->embedding_forward(queue, &wrong);
}
REPLACE(embedding_forward, rounded_scale)

/* A statistic of u as it was before it was stored. */
static void rstd_of_unrounded(Queue *queue, const Junction *j) {
    static float rstd[2048];
    bool simple = j->f && j->norm.kind == NORM_RMSNORM && !j->residual_is_accum && !j->bias && !j->sdd.kind &&
                  !j->inner.kind && !j->s_in && !j->s_out && !j->s_ride && !j->alpha;
    for (int64_t n = 0; simple && n < j->N; n++) {
        double squares = 0;
        for (int64_t i = n * padded(j->C); i < n * padded(j->C) + j->C; i++) {
            double u = (double)bf16_at(j->x, i) + (double)bf16_at(j->f, i);
            squares += u * u;
        }
        rstd[n] = (float)(1 / sqrt(squares / j->C + j->norm.eps));
    }
    good->junction_forward(queue, j);
    if (simple) memcpy(j->norm.rstd, rstd, (size_t)j->N * sizeof *rstd);
}
REPLACE(junction_forward, rstd_of_unrounded)

/* x·Wᵀ as another sees it: the element's sum, and its bias or 0. */
static void each_product(Queue *queue, const Linear *l, uint16_t (*stored)(float sum, float bias)) {
    good->linear_forward(queue, l);
    for (int64_t n = 0; n < l->N; n++)
        for (int64_t o = 0; o < l->out; o++) {
            float sum = 0;
            for (int64_t i = 0; i < l->in; i++)
                sum += bf16_at(l->x, n * padded(l->in) + i) * bf16_at(l->w, o * padded(l->in) + i);
            ((uint16_t *)l->y)[n * padded(l->out) + o] = stored(sum, l->bias ? bf16_at(l->bias, o) : 0);
        }
}

static uint16_t biased_late(float sum, float bias) {
    return float_to_bf16(rounded(sum) + bias);
}
static void product_rounded(Queue *queue, const Linear *l) {
    each_product(queue, l, biased_late);
}
REPLACE(linear_forward, product_rounded)

static uint16_t cut_off(float sum, float bias) {
    float value = sum + bias;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}
static void product_cut(Queue *queue, const Linear *l) {
    each_product(queue, l, cut_off);
}
REPLACE(linear_forward, product_cut)

/* dbias summed over dh as it is stored. */
static void dbias_of_rounded(Queue *queue, const ActivationBackward *b) {
    static float before[8192];
    int64_t width = padded(b->forward->F) * (b->forward->kind == ACTIVATION_SWIGLU ? 2 : 1);
    float *dbias = b->dbias;
    if (dbias) memcpy(before, dbias, (size_t)width * sizeof *before);
    good->activation_backward(queue, b);
    for (int64_t i = 0; dbias && i < width; i++) {
        dbias[i] = before[i];
        for (int64_t n = 0; n < b->forward->N; n++) dbias[i] += bf16_at(b->dh, n * width + i);
    }
}
REPLACE(activation_backward, dbias_of_rounded)

const Broken broken_operations[] = {
    {"layernorm without ε", "rstd: error", OP_junction_forward, BROKEN_VALUES, wrap_no_epsilon},
    {"a norm 1e-5 off", " y: error", OP_junction_forward, BROKEN_VALUES, wrap_imprecise},
    {"other bits at every second call", "y: a second run", OP_junction_forward, BROKEN_BITS, wrap_other_bits},
    {"other bits when recomputing", "y: the recomputing call", OP_junction_forward, BROKEN_BITS,
     wrap_other_recompute},
    {"dγ one percent off", "norm.dgamma: error", OP_junction_backward, BROKEN_VALUES,
     wrap_dgamma_one_percent},
    {"dbias overwritten, not added to", "dbias: error", OP_junction_backward, BROKEN_VALUES,
     wrap_overwritten_dbias},
    {"a post-type gate's gradient taken over u", "dgate: error", OP_junction_backward, BROKEN_VALUES,
     wrap_gate_of_u},
    {"GPAS scaling the gradient", "dresidual_out: error", OP_junction_backward, BROKEN_GRADIENTS,
     wrap_scaled_upstream},
    {"layernorm's backward without the mean", "dresidual_out: error", OP_junction_backward, BROKEN_GRADIENTS,
     wrap_wrong_mean},
    {"a row not written", " y: error", OP_linear_forward, BROKEN_VALUES, wrap_row_not_written},
    {"dW overwritten, not added to", " dw: error", OP_linear_backward_weight, BROKEN_VALUES,
     wrap_overwritten_dw},
    {"dW added to, not overwritten", " overwrites]: dw: ", OP_linear_backward_weight, BROKEN_VALUES, wrap_added_dw},
    {"an input changed", "changed an input", OP_linear_backward_input, BROKEN_VALUES, wrap_changed_input},
    {"padding dirtied", "padding is not zero", OP_activation_forward, BROKEN_VALUES, wrap_dirty_padding},
    {"the other GELU", "y: error", OP_activation_forward, BROKEN_VALUES, wrap_exact_gelu},
    {"a repeated token's gradient lost", "dtoken_table: error", OP_embedding_backward, BROKEN_VALUES,
     wrap_lost_duplicates},
    {"a causal mask off by one", " out: error", OP_attention_forward, BROKEN_VALUES, wrap_mask_off_by_one},
    {"documents not masked in backward", "documents size=0.7 bias]: dqkv: error", OP_attention_backward,
     BROKEN_VALUES, wrap_no_documents},
    {"RoPE not rotated back", "draw: error", OP_qkv_backward, BROKEN_VALUES, wrap_rotated_again},
    {"a cache one time step short", " out: error", OP_attention_decode, BROKEN_VALUES, wrap_one_key_short},
    {"an ignored target counted", "losses: error", OP_cross_entropy, BROKEN_VALUES, wrap_ignored_counted},
    {"z-loss left out", "z=0.01 gradient some ignored]: logits: error", OP_cross_entropy, BROKEN_VALUES,
     wrap_no_z_loss},
    {"a write to another member of the state", "changed members", OP_loss_reduce, BROKEN_VALUES,
     wrap_past_the_end},
    {"a skipped step that updates", "changed an input", OP_adamw, BROKEN_VALUES, wrap_never_skips},
    {"AdamW without bias correction", "master: error", OP_adamw, BROKEN_VALUES, wrap_no_bias_correction},
    {"masters that keep their rounding alone", "master", OP_adamw, BROKEN_TWINS, wrap_rounds_masters},
    {"a tie to even", "lower", OP_halves, BROKEN_TWINS, wrap_ties_to_even},
    {"lost numbers that are not counted", "non_finite: error", OP_adamw, BROKEN_VALUES, wrap_never_counts},
    {"momentum without Nesterov's look ahead", "out: error", OP_muon_momentum, BROKEN_VALUES,
     wrap_no_look_ahead},
    {"a norm that may be nothing", "dst: error", OP_scaled_copy, BROKEN_VALUES, wrap_no_least_norm},
    {"a square matrix not transposed", "dst: error", OP_scaled_copy, BROKEN_VALUES, wrap_not_transposed},
    {"decay where there is none", "master: error", OP_muon_update, BROKEN_VALUES, wrap_decays_all_alike},
    {"Muon in AdamW's parameters", "master: error", OP_muon_update, BROKEN_VALUES, wrap_muon_everywhere},
    {"squares that overflow", "sum_squares: error", OP_sum_squares, BROKEN_VALUES, wrap_squares_overflow},
    {"gates not told apart in the norm", "sum_squares: error", OP_sum_squares, BROKEN_VALUES,
     wrap_no_gate_group},
    {"truncation for rounding", "dst: error", OP_cast, BROKEN_VALUES, wrap_truncates},
    {"a hash without places", "sum: error", OP_hash, BROKEN_VALUES, wrap_forgets_places},
    {"a scale rounded to bf16", "]: x: error", OP_embedding_forward, BROKEN_TWINS, wrap_rounded_scale},
    {"the rstd of a u that was not stored", "norm.rstd: error", OP_junction_forward, BROKEN_TWINS,
     wrap_rstd_of_unrounded},
    {"a product rounded before its bias", "bias]: y: error", OP_linear_forward, BROKEN_TWINS,
     wrap_product_rounded},
    {"a product cut off to bf16", "]: y: error", OP_linear_forward, BROKEN_TWINS, wrap_product_cut},
    {"dbias summed over what is stored", "]: dbias: error", OP_activation_backward, BROKEN_TWINS,
     wrap_dbias_of_rounded},
};
const int n_broken_operations = sizeof broken_operations / sizeof broken_operations[0];
