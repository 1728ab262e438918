/* params.c: the table of parameters, and what follows from it. params.h is the manual. */
#include "params.h"
#include "../base/philox.h"
#include "../settings/variant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Dim { DIM_ONE, DIM_V, DIM_T, DIM_C, DIM_HD, DIM_KD, DIM_F, DIM_Q_ALPHA, DIM_K_ALPHA, DIM_GATES } Dim;

typedef enum Initial {
    INIT_ZERO,
    INIT_ONE,
    INIT_GAMMA,     /* 1, or 1/√layer with --lns-init */
    INIT_WEIGHT,    /* std --init-std; SDD's and DeepNorm's own */
    INIT_VALUE,     /* as INIT_WEIGHT; DeepNorm: with its gain */
    INIT_RESIDUAL,  /* as INIT_VALUE; gpt2: std / √(2L), as GPT-2's residual projections, but not with lns */
    INIT_PLAIN,     /* std --init-std: positions, head */
    INIT_EMBED,     /* std --init-std-embed */
    INIT_SCALE,     /* √C: DyT's scalar on the embedding */
    INIT_ALPHA_OUT, /* SDD's α of a sublayer's output: 1/√L, released 1/√(2L) */
    INIT_GATE,      /* --gpas-init */
    INIT_ATTN, INIT_MLP, INIT_FINAL, INIT_OTHER, /* a norm's scalar, by where it sits */
} Initial;

typedef enum When {
    ALWAYS, LEARNED_POSITIONS, BIASES, QKV_BIASES, UNTIED, EMBED_SCALE, EMBED_NORM, BEFORE_ATTENTION, BEFORE, INNER, AFTER, ADDED, FINAL, GATES,
    SDD, SDD_V, SDD_CONTEXT, QK_NORM, QKV_NORM,
} When;

/* A piece of a row that is there only for SwiGLU (gate) starts at row 0, the next one at a padded row. */
typedef struct PieceRow {
    const char *key;
    Dim rows;
    const char *gpt2, *llama; /* "": inside the piece before it */
} PieceRow;

/* Which of a norm's three parameters a row is; the norm decides whether it is there. */
typedef enum NormPart { NO_NORM, NORM_GAMMA, NORM_BETA, NORM_ALPHA, NORM_LAMBDA, NORM_ALPHA_AND_SHIFT } NormPart;

typedef struct Row {
    ParamId id;
    bool per_layer;
    ParamKind kind;
    Dim cols; /* DIM_ONE for vectors */
    Initial initial;
    When when;
    NormPart part;
    PieceRow piece[PIECES_MOST];
} Row;

#define VECTOR_ROW(id, per_layer, kind, initial, when, part, ...) \
    {id, per_layer, kind, DIM_ONE, initial, when, part, {__VA_ARGS__}}
#define MATRIX_ROW(id, per_layer, kind, cols, initial, when, ...) \
    {id, per_layer, kind, cols, initial, when, NO_NORM, {__VA_ARGS__}}
/* A norm: γ, β, and the scalar of DyT or of BHyT, or the two of Derf. */
#define NORM_ROWS(id, per_layer, when, scalar, key, gpt2, llama)                                                    \
    VECTOR_ROW(id, per_layer, PARAM_VECTOR, INIT_GAMMA, when, NORM_GAMMA,                                           \
               {key ".gamma", DIM_C, gpt2 ".weight", llama ".weight"}),                                             \
    VECTOR_ROW(id##_BETA, per_layer, PARAM_VECTOR, INIT_ZERO, when, NORM_BETA,                                      \
               {key ".beta", DIM_C, gpt2 ".bias", llama ".bias"}),                                                  \
    VECTOR_ROW(id##_SCALAR, per_layer, PARAM_VECTOR, scalar, when, NORM_ALPHA,                                      \
               {key ".alpha", DIM_ONE, gpt2 ".alpha", llama ".alpha"}),                                             \
    VECTOR_ROW(id##_SCALAR, per_layer, PARAM_VECTOR, scalar, when, NORM_ALPHA_AND_SHIFT,                            \
               {key ".alpha", DIM_ONE, gpt2 ".alpha", llama ".alpha"},                                              \
               {key ".shift", DIM_ONE, gpt2 ".shift", llama ".shift"}),                                             \
    VECTOR_ROW(id##_SCALAR, per_layer, PARAM_FREE, scalar, when, NORM_LAMBDA,                                       \
               {key ".lambda", DIM_ONE, gpt2 ".lambda", llama ".lambda"})

/* clang-format off */
static const Row ROWS[] = {
    MATRIX_ROW(PARAM_TOKENS, false, PARAM_EMBEDDING, DIM_C, INIT_EMBED, ALWAYS,
        {"tokens", DIM_V, "transformer.wte.weight", "model.embed_tokens.weight"}),
    MATRIX_ROW(PARAM_POSITIONS, false, PARAM_EMBEDDING, DIM_C, INIT_PLAIN, LEARNED_POSITIONS,
        {"positions", DIM_T, "transformer.wpe.weight", "model.embed_positions.weight"}),
    VECTOR_ROW(PARAM_EMBED_SCALE, false, PARAM_VECTOR, INIT_SCALE, EMBED_SCALE, NO_NORM,
        {"embed.scale", DIM_ONE, "transformer.embed_scale", "model.embed_scale"}),
    NORM_ROWS(PARAM_EMBED_NORM, false, EMBED_NORM, INIT_OTHER, "embed.norm", "transformer.embed_norm", "model.embed_norm"),

    NORM_ROWS(PARAM_NORM1, true, BEFORE_ATTENTION, INIT_ATTN, "norm1", "ln_1", "input_layernorm"),
    MATRIX_ROW(PARAM_QKV, true, PARAM_MATRIX, DIM_C, INIT_WEIGHT, ALWAYS,
        {"q", DIM_HD, "attn.c_attn.weight", "self_attn.q_proj.weight"},
        {"k", DIM_KD, "", "self_attn.k_proj.weight"},
        {"v", DIM_KD, "", "self_attn.v_proj.weight"}),
    VECTOR_ROW(PARAM_QKV_BIAS, true, PARAM_BIAS, INIT_ZERO, QKV_BIASES, NO_NORM,
        {"q.bias", DIM_HD, "attn.c_attn.bias", "self_attn.q_proj.bias"},
        {"k.bias", DIM_KD, "", "self_attn.k_proj.bias"},
        {"v.bias", DIM_KD, "", "self_attn.v_proj.bias"}),
    VECTOR_ROW(PARAM_Q_ALPHA, true, PARAM_VECTOR, INIT_ONE, SDD, NO_NORM,
        {"q.alpha", DIM_Q_ALPHA, "attn.sdd.alpha_q", "self_attn.sdd.alpha_q"}),
    VECTOR_ROW(PARAM_K_ALPHA, true, PARAM_VECTOR, INIT_ONE, SDD, NO_NORM,
        {"k.alpha", DIM_K_ALPHA, "attn.sdd.alpha_k", "self_attn.sdd.alpha_k"}),
    VECTOR_ROW(PARAM_Q_ALPHA, true, PARAM_VECTOR, INIT_ONE, QK_NORM, NO_NORM,
        {"q.alpha", DIM_Q_ALPHA, "attn.q_norm.weight", "self_attn.q_norm.weight"}),
    VECTOR_ROW(PARAM_K_ALPHA, true, PARAM_VECTOR, INIT_ONE, QK_NORM, NO_NORM,
        {"k.alpha", DIM_K_ALPHA, "attn.k_norm.weight", "self_attn.k_norm.weight"}),
    VECTOR_ROW(PARAM_V_ALPHA, true, PARAM_VECTOR, INIT_ONE, SDD_V, NO_NORM,
        {"v.alpha", DIM_KD, "attn.sdd.alpha_v", "self_attn.sdd.alpha_v"}),
    VECTOR_ROW(PARAM_V_ALPHA, true, PARAM_VECTOR, INIT_ONE, QKV_NORM, NO_NORM,
        {"v.alpha", DIM_K_ALPHA, "attn.v_norm.weight", "self_attn.v_norm.weight"}),
    VECTOR_ROW(PARAM_SDD_CONTEXT, true, PARAM_VECTOR, INIT_ONE, SDD_CONTEXT, NO_NORM,
        {"context.alpha", DIM_HD, "attn.sdd.alpha_context", "self_attn.sdd.alpha_context"}),
    MATRIX_ROW(PARAM_ATTN_OUT, true, PARAM_MATRIX, DIM_HD, INIT_RESIDUAL, ALWAYS,
        {"o", DIM_C, "attn.c_proj.weight", "self_attn.o_proj.weight"}),
    VECTOR_ROW(PARAM_ATTN_OUT_BIAS, true, PARAM_BIAS, INIT_ZERO, BIASES, NO_NORM,
        {"o.bias", DIM_C, "attn.c_proj.bias", "self_attn.o_proj.bias"}),
    VECTOR_ROW(PARAM_SDD_ATTN_OUT, true, PARAM_VECTOR, INIT_ALPHA_OUT, SDD, NO_NORM,
        {"o.alpha", DIM_C, "attn.sdd.alpha_o", "self_attn.sdd.alpha_o"}),
    NORM_ROWS(PARAM_INNER1, true, INNER, INIT_ATTN, "inner1", "attn.output_norm", "self_attn.output_norm"),
    NORM_ROWS(PARAM_INNER1, true, AFTER, INIT_ATTN, "inner1", "attn.output_norm", "post_attention_layernorm"),
    NORM_ROWS(PARAM_INNER1, true, ADDED, INIT_ATTN, "inner1", "attn_residual_norm", "attn_residual_norm"),
    NORM_ROWS(PARAM_NORM2, true, BEFORE, INIT_MLP, "norm2", "ln_2", "post_attention_layernorm"),
    /* Without SwiGLU the gate is left out and "up" is the MLP's one input matrix. */
    MATRIX_ROW(PARAM_MLP_IN, true, PARAM_MATRIX, DIM_C, INIT_VALUE, ALWAYS,
        {"gate", DIM_F, "mlp.c_gate.weight", "mlp.gate_proj.weight"},
        {"up", DIM_F, "mlp.c_fc.weight", "mlp.up_proj.weight"}),
    VECTOR_ROW(PARAM_MLP_IN_BIAS, true, PARAM_BIAS, INIT_ZERO, BIASES, NO_NORM,
        {"gate.bias", DIM_F, "mlp.c_gate.bias", "mlp.gate_proj.bias"},
        {"up.bias", DIM_F, "mlp.c_fc.bias", "mlp.up_proj.bias"}),
    VECTOR_ROW(PARAM_SDD_MLP_IN, true, PARAM_VECTOR, INIT_ONE, SDD, NO_NORM,
        {"gate.alpha", DIM_F, "mlp.sdd.alpha_gate", "mlp.sdd.alpha_gate"},
        {"up.alpha", DIM_F, "mlp.sdd.alpha_up", "mlp.sdd.alpha_up"}),
    MATRIX_ROW(PARAM_MLP_OUT, true, PARAM_MATRIX, DIM_F, INIT_RESIDUAL, ALWAYS,
        {"down", DIM_C, "mlp.c_proj.weight", "mlp.down_proj.weight"}),
    VECTOR_ROW(PARAM_MLP_OUT_BIAS, true, PARAM_BIAS, INIT_ZERO, BIASES, NO_NORM,
        {"down.bias", DIM_C, "mlp.c_proj.bias", "mlp.down_proj.bias"}),
    VECTOR_ROW(PARAM_SDD_MLP_OUT, true, PARAM_VECTOR, INIT_ALPHA_OUT, SDD, NO_NORM,
        {"down.alpha", DIM_C, "mlp.sdd.alpha_down", "mlp.sdd.alpha_down"}),
    NORM_ROWS(PARAM_INNER2, true, INNER, INIT_MLP, "inner2", "mlp.output_norm", "mlp.output_norm"),
    NORM_ROWS(PARAM_INNER2, true, AFTER, INIT_MLP, "inner2", "mlp.output_norm", "post_feedforward_layernorm"),
    NORM_ROWS(PARAM_INNER2, true, ADDED, INIT_MLP, "inner2", "mlp_residual_norm", "mlp_residual_norm"),
    VECTOR_ROW(PARAM_GATE, true, PARAM_FREE, INIT_GATE, GATES, NO_NORM,
        {"gpas.gate", DIM_GATES, "gpas.gate", "gpas.gate"}),

    NORM_ROWS(PARAM_FINAL, false, FINAL, INIT_FINAL, "final", "transformer.ln_f", "model.norm"),
    MATRIX_ROW(PARAM_HEAD, false, PARAM_EMBEDDING, DIM_C, INIT_PLAIN, UNTIED,
        {"head", DIM_V, "lm_head.weight", "lm_head.weight"}),
};
/* clang-format on */
enum { ROW_COUNT = sizeof ROWS / sizeof *ROWS };

/* Whether q and k are normed head by head, where they are at all. */
static bool norms_heads(const Config *c) {
    return c->sdd == SDD_RELEASED || c->qk_norm == QK_NORM_HEAD || variant_norms_qkv(c);
}

static int dim(const Config *c, Dim which) {
    switch (which) {
    case DIM_ONE: return 1;
    case DIM_V: return (int)c->vocab_size;
    case DIM_T: return (int)c->seq_len;
    case DIM_C: return (int)c->n_embd;
    case DIM_HD: return (int)(c->n_head * c->head_size);
    case DIM_KD: return (int)(c->n_kv_head * c->head_size);
    case DIM_F: return (int)c->n_ffn;
    case DIM_Q_ALPHA: return (int)(norms_heads(c) ? c->head_size : c->n_head * c->head_size);
    case DIM_K_ALPHA: return (int)(norms_heads(c) ? c->head_size : c->n_kv_head * c->head_size);
    case DIM_GATES: return variant_gates_per_layer(c);
    }
    return 0;
}

/* Whether a norm of this kind has the part. */
static bool has_part(const Config *c, NormKind kind, NormPart part) {
    switch (part) {
    case NO_NORM:
    case NORM_GAMMA: return true;
    case NORM_BETA: return kind == variant_norm(c)->kind && variant_has_beta(c);
    case NORM_ALPHA: return kind == NORM_DYT;
    case NORM_ALPHA_AND_SHIFT: return kind == NORM_DERF;
    case NORM_LAMBDA: return kind == NORM_BHYT;
    }
    return false;
}

static bool is_there(const Config *c, const Row *row, int layer) {
    NormKind kind = row->when == FINAL ? variant_final_kind(c) : variant_norm(c)->kind;
    if (!has_part(c, kind, row->part)) return false;
    switch (row->when) {
    case ALWAYS: return true;
    case LEARNED_POSITIONS: return c->positions == POSITIONS_LEARNED;
    case BIASES: return c->bias == SWITCH_ON && c->sdd == SDD_OFF;
    case QKV_BIASES: return (c->bias == SWITCH_ON || c->bias == BIAS_QKV) && c->sdd == SDD_OFF;
    case UNTIED: return c->tie_embeddings == SWITCH_OFF;
    case EMBED_SCALE: return c->embed_scale == FLAG_ON;
    case EMBED_NORM: return c->embed_norm == FLAG_ON;
    case BEFORE_ATTENTION: return variant_norms_before_attention(c, layer);
    case BEFORE: return variant_placement(c)->norms != NORM_AFTER;
    case INNER: return variant_placement(c)->norms == NORM_BOTH && variant_placement(c)->type == PLACE_PRE;
    case AFTER: return variant_placement(c)->norms == NORM_AFTER;
    case ADDED: return variant_placement(c)->norms == NORM_BOTH && variant_placement(c)->type == PLACE_POST;
    case FINAL: return kind != NORM_NONE;
    case GATES: return c->gpas != GPAS_OFF;
    case SDD: return c->sdd != SDD_OFF;
    case SDD_V: return c->sdd == SDD_PAPER;
    case SDD_CONTEXT: return c->sdd == SDD_RELEASED;
    case QK_NORM: return c->qk_norm != QK_NORM_OFF || variant_norms_qkv(c);
    case QKV_NORM: return variant_norms_qkv(c);
    }
    return false;
}

static bool is_matrix(const Param *p) { return p->kind == PARAM_MATRIX || p->kind == PARAM_EMBEDDING; }

int64_t params_row_stride(const Param *p) { return is_matrix(p) ? padded(p->cols) : 1; }

/* DeepNorm's Xavier-normal of one matrix by itself: V, O and the MLP's with its gain, Q and K with 1. */
static double deepnorm_std(const Config *c, Initial initial, const ParamPiece *piece, int cols) {
    bool gained = initial != INIT_WEIGHT || piece->key[strlen(piece->key) - 1] == 'v';
    double gain = gained ? pow(8.0 * (double)c->n_layer, -0.25) : 1;
    return gain * sqrt(2.0 / (piece->rows + cols));
}

static void set_weight(const Config *c, Initial initial, ParamPiece *piece, int cols) {
    piece->init_std = c->init_std;
    if (c->sdd != SDD_OFF) {
        piece->init_std = variant_sdd_std(c);
        piece->init_cut = c->sdd == SDD_RELEASED ? 3 : 0;
    } else if (variant_placement(c)->deep && c->deepnorm_init) {
        piece->init_std = deepnorm_std(c, initial, piece, cols);
    } else if (initial == INIT_RESIDUAL && c->arch == ARCH_GPT2 && !variant_placement(c)->by_depth) {
        piece->init_std /= sqrt(2.0 * (double)c->n_layer);
    }
}

/* The scalar of DyT, BHyT or Derf, by where the norm sits. */
static double initial_scalar(const Config *c, Initial where) {
    NormKind kind = variant_norm(c)->kind;
    if (kind == NORM_DYT) return where == INIT_ATTN ? c->dyt_alpha_attn : c->dyt_alpha_other;
    if (kind == NORM_DERF) return where == INIT_ATTN ? c->derf_alpha_attn : c->derf_alpha_other;
    switch (where) {
    case INIT_FINAL: return c->bhyt_lambda_final;
    case INIT_MLP: return c->bhyt_lambda_mlp;
    default: return c->bhyt_lambda_attn; /* --embed-norm feeds the first attention */
    }
}

static void set_initial(const Config *c, Initial initial, ParamPiece *piece, int layer, int cols) {
    double L = (double)c->n_layer;
    switch (initial) {
    case INIT_ZERO: break;
    case INIT_ONE: piece->init_mean = 1; break;
    case INIT_GAMMA: piece->init_mean = c->lns_init && variant_placement(c)->by_depth && layer >= 0 ? 1 / sqrt(layer + 1.0) : 1; break;
    case INIT_WEIGHT:
    case INIT_VALUE:
    case INIT_RESIDUAL: set_weight(c, initial, piece, cols); break;
    case INIT_PLAIN: piece->init_std = c->init_std; break;
    case INIT_EMBED:
        piece->init_std = c->init_std_embed;
        piece->init_cut = c->sdd == SDD_RELEASED ? 3 : 0;
        break;
    case INIT_SCALE: piece->init_mean = sqrt((double)c->n_embd); break;
    case INIT_ALPHA_OUT: piece->init_mean = 1 / sqrt(c->sdd == SDD_RELEASED ? 2 * L : L); break;
    case INIT_GATE: piece->init_mean = c->gpas_init; break;
    case INIT_ATTN:
    case INIT_MLP:
    case INIT_FINAL:
    case INIT_OTHER: piece->init_mean = piece->row0 ? 0 : initial_scalar(c, initial); break; /* behind Derf's α: its shift */
    }
}

/* The words of --decay-on that reach a parameter. */
static int64_t decay_words(const Row *row) {
    enum { MATRICES = 1 << DECAY_ON_MATRICES, INSIDE = 1 << DECAY_ON_NO_EMBEDDINGS, ALL = 1 << DECAY_ON_ALL };
    switch (row->kind) {
    case PARAM_MATRIX: return ALL | MATRICES | INSIDE;
    case PARAM_EMBEDDING:
        if (row->id == PARAM_HEAD) return ALL | MATRICES | INSIDE | 1 << DECAY_ON_HEAD;
        return ALL | MATRICES | 1 << DECAY_ON_EMBEDDINGS;
    case PARAM_BIAS: return ALL | 1 << DECAY_ON_BIASES;
    case PARAM_VECTOR:
        if (row->when == SDD || row->when == SDD_V || row->when == SDD_CONTEXT) return ALL | 1 << DECAY_ON_ALPHAS;
        return ALL | 1 << DECAY_ON_NORMS;
    case PARAM_FREE: break;
    }
    return 0;
}

static void add_piece(Param *p, const Config *c, const Row *row, const PieceRow *from, int row0) {
    ParamPiece *piece = &p->piece[p->pieces++];
    bool gpt2 = c->arch == ARCH_GPT2;
    const char *name = gpt2 ? from->gpt2 : from->llama;
    char key_prefix[32] = "", prefix[48] = "";
    if (p->layer >= 0) {
        snprintf(key_prefix, sizeof key_prefix, "layer.%d.", p->layer);
        snprintf(prefix, sizeof prefix, gpt2 ? "transformer.h.%d." : "model.layers.%d.", p->layer);
    }
    *piece = (ParamPiece){.row0 = row0, .rows = dim(c, from->rows)};
    snprintf(piece->key, sizeof piece->key, "%s%s", key_prefix, from->key);
    if (*name) snprintf(piece->name, sizeof piece->name, "%s%s", prefix, name);
    set_initial(c, row->initial, piece, p->layer, p->cols);
}

/* The authors' SDD keeps α of gate and up as one row. */
static void join_gate_and_up(Param *p) {
    char *end = strstr(p->piece[0].name, "alpha_gate");
    snprintf(end, PARAM_NAME_SIZE - (size_t)(end - p->piece[0].name), "alpha_gate_up");
    p->piece[1].name[0] = '\0';
}

/* Every tensor starts at 256 bytes in the narrowest type, bf16. */
enum { ALIGNED = 128 };

static void add_param(Params *params, const Config *c, const Row *row, int layer) {
    Param *p = &params->list[params->count];
    *p = (Param){.id = row->id, .layer = layer, .kind = row->kind, .cols = dim(c, row->cols)};
    p->transposed = c->arch == ARCH_GPT2 && row->kind == PARAM_MATRIX; /* Conv1D keeps [in, out] */
    p->decay = (c->decay_on & decay_words(row)) != 0;
    if (c->optimizer == OPTIMIZER_FLAG_MUON && row->kind == PARAM_MATRIX) p->optimizer = OPTIMIZER_MUON;

    bool gated = row->id == PARAM_MLP_IN || row->id == PARAM_MLP_IN_BIAS || row->id == PARAM_SDD_MLP_IN;
    bool swiglu = c->activation == ACTIVATION_FLAG_SWIGLU;
    int next = 0;
    for (int i = 0; i < PIECES_MOST && row->piece[i].key; i++) {
        if (gated && i == 0 && !swiglu) continue;
        add_piece(p, c, row, &row->piece[i], next);
        next += p->piece[p->pieces - 1].rows;
        if (gated && swiglu) next = (int)padded(next);
    }
    if (row->id == PARAM_SDD_MLP_IN && swiglu && c->sdd == SDD_RELEASED) join_gate_and_up(p);
    p->rows = next;
    p->offset = params->elements;
    p->count = is_matrix(p) ? padded(p->rows) * padded(p->cols) : padded(p->rows);
    p->count = (p->count + ALIGNED - 1) / ALIGNED * ALIGNED;
    params->elements += p->count;
    for (int i = 0; i < p->pieces; i++) {
        int64_t numbers = (int64_t)p->piece[i].rows * p->cols;
        params->true_elements += numbers;
        if (p->kind != PARAM_EMBEDDING) params->true_elements_no_embeddings += numbers;
    }
    params->index[(layer + 1) * PARAM_COUNT + row->id] = params->count++;
}

/* Whether a row is of this stretch of the arenas: what is read in the storage type first, vectors after all of it. */
static bool is_of_stretch(const Config *c, const Row *row, int layer, bool vectors) {
    bool vector = row->kind == PARAM_VECTOR || row->kind == PARAM_FREE;
    return vector == vectors && is_there(c, row, layer);
}

/* Ends the bucket that is open, if it holds anything, with room for as many pieces as there are ranks. */
static void close_bucket(Params *params, const Config *c, int ready) {
    Bucket *bucket = &params->bucket[params->buckets];
    int64_t unit = ALIGNED * c->ranks, used = params->elements - bucket->begin;
    if (used == 0) return;
    int64_t gap = (unit - used % unit) % unit;
    params->list[params->count - 1].count += gap;
    params->elements += gap;
    bucket->end = params->elements;
    bucket->ready = ready;
    params->bucket[++params->buckets].begin = params->elements;
}

/* The rows of one layer, or those outside; `first` is where they start among ROWS. Returns the row after them. */
static int add_rows(Params *params, const Config *c, int first, int layer, bool vectors) {
    int r = first;
    for (; r < ROW_COUNT && ROWS[r].per_layer == (layer >= 0); r++)
        if (is_of_stretch(c, &ROWS[r], layer, vectors)) add_param(params, c, &ROWS[r], layer);
    return r;
}

/* Backward goes from the arena's end to its start, so a bucket is ready when its first layer is. */
static void add_stretch(Params *params, const Config *c, bool vectors) {
    int64_t least = vectors ? INT64_MAX : c->bucket_mb * 1000000 / 4; /* elements of a gradient in fp32 */
    int first = add_rows(params, c, 0, -1, vectors), last = first, ready = -1;
    for (int layer = 0; layer < params->layers; layer++) {
        int64_t used = params->elements - params->bucket[params->buckets].begin;
        if (used >= least) close_bucket(params, c, ready);
        if (params->elements == params->bucket[params->buckets].begin) ready = layer;
        last = add_rows(params, c, first, layer, vectors);
    }
    if (params->elements - params->bucket[params->buckets].begin >= least) close_bucket(params, c, ready), ready = params->layers;
    add_rows(params, c, last, -1, vectors);
    close_bucket(params, c, vectors ? -1 : ready);
}

void params_build(Params *params, const Config *config) {
    *params = (Params){.layers = (int)config->n_layer};
    size_t slots = ((size_t)params->layers + 1) * PARAM_COUNT;
    params->list = must_calloc(slots, sizeof *params->list, "the parameter table");
    params->index = must_calloc(slots, sizeof *params->index, "the parameter table");
    params->bucket = must_calloc((size_t)params->layers + 4, sizeof *params->bucket, "the parameter table");
    for (size_t i = 0; i < slots; i++) params->index[i] = -1;
    add_stretch(params, config, false);
    params->vectors = params->elements;
    add_stretch(params, config, true);
}

void params_free(Params *params) {
    free(params->list);
    free(params->index);
    free(params->bucket);
    *params = (Params){0};
}

/* This rank's share of bucket b, which starts at `moments` where shares alone are held. */
static Share share_of(const Config *c, const Params *params, int b, int64_t moments) {
    const Bucket *bucket = &params->bucket[b];
    int64_t piece = (bucket->end - bucket->begin) / c->ranks;
    Share share = {.piece_begin = bucket->begin + c->rank * piece, .begin = bucket->begin, .end = bucket->end,
                   .moments = moments};
    share.piece_end = share.piece_begin + piece;
    bool sharded = c->zero == ZERO_1 && bucket->begin < params->vectors;
    if (sharded) share.begin = share.piece_begin, share.end = share.piece_end;
    return share;
}

int64_t params_shares(const Params *params, const Config *c, Share *shares) {
    int64_t moments = 0;
    for (int b = 0; b < params->buckets; b++) {
        Share share = share_of(c, params, b, moments);
        moments += share.end - share.begin;
        if (shares) shares[b] = share;
    }
    return moments;
}

int64_t params_second_moments(const Params *params, const Config *c, int64_t *shift) {
    int64_t taken = 0;
    for (int i = 0, b = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        while (params->bucket[b].end <= p->offset) b++;
        const Share share = share_of(c, params, b, 0);
        int64_t first = p->offset > share.begin ? p->offset : share.begin, last = p->offset + p->count;
        if (last > share.end) last = share.end;
        if (shift) shift[i] = taken - first;
        if (p->optimizer == OPTIMIZER_ADAMW && last > first) taken += last - first;
    }
    return taken;
}

const Param *params_find(const Params *params, ParamId id, int layer) {
    int at = params->index[(layer + 1) * PARAM_COUNT + id];
    return at < 0 ? NULL : &params->list[at];
}

/* Draws again what lies beyond `cut` standard deviations, from indices far beyond any element's. */
static void cut_tails(const PhiloxFill *fill, double cut, DType type, void *arena, int64_t at) {
    for (uint64_t r = 0; r < fill->rows; r++)
        for (uint64_t c = 0; c < fill->columns; c++) {
            uint64_t index = r * fill->columns + c, again = index;
            double z = philox_normal(fill->seed, fill->name_hash, index);
            if (fabs(z) <= cut) continue;
            while (fabs(z) > cut) z = philox_normal(fill->seed, fill->name_hash, again += (uint64_t)1 << 40);
            int64_t to = at + (int64_t)(r * fill->stride + c);
            if (type == DTYPE_F64) ((double *)arena)[to] = fill->mean + fill->std * z;
            else ((float *)arena)[to] = (float)(fill->mean + fill->std * z);
        }
}

void params_init(const Params *params, const Config *config, DType type, void *arena) {
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++) {
            const ParamPiece *piece = &p->piece[j];
            PhiloxFill fill = {.seed = (uint64_t)config->seed,
                               .name_hash = philox_name_hash(piece->key),
                               .rows = is_matrix(p) ? (size_t)piece->rows : 1,
                               .columns = is_matrix(p) ? (size_t)p->cols : (size_t)piece->rows,
                               .mean = piece->init_mean,
                               .std = piece->init_std};
            fill.stride = is_matrix(p) ? (size_t)padded(p->cols) : fill.columns;
            int64_t at = p->offset + piece->row0 * params_row_stride(p);
            if (type == DTYPE_F64) philox_fill_normal_f64((double *)arena + at, &fill);
            else philox_fill_normal_f32((float *)arena + at, &fill);
            if (piece->init_cut > 0) cut_tails(&fill, piece->init_cut, type, arena, at);
        }
    }
}

ParamSlot *params_slots(const Params *params, const Config *config) {
    ParamSlot *slots = must_calloc((size_t)params->count, sizeof *slots, "the optimizer's table");
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        slots[i] = (ParamSlot){.offset = p->offset,
                               .count = p->count,
                               .rows = is_matrix(p) ? p->rows : 1,
                               .cols = is_matrix(p) ? p->cols : p->rows,
                               .optimizer = (int)p->optimizer,
                               .clip_group = p->id == PARAM_GATE ? CLIP_GATES : CLIP_ALL,
                               .weight_decay = p->decay ? config->weight_decay : 0,
                               .lr_scale = 1};
    }
    return slots;
}

FileTensor *params_file_tensors(const Params *params, int *count) {
    FileTensor *list = must_calloc((size_t)params->count * PIECES_MOST, sizeof *list, "the list of tensors");
    int n = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++) {
            const ParamPiece *piece = &p->piece[j];
            if (!piece->name[0]) { /* goes on with the tensor before it */
                FileTensor *last = &list[n - 1];
                last->split = last->rows;
                last->gap = piece->row0 - last->row0 - last->rows;
                last->rows += piece->rows;
                continue;
            }
            list[n++] = (FileTensor){.name = piece->name, .param = p, .row0 = piece->row0, .rows = piece->rows};
        }
    }
    for (int i = 0; i < n; i++) {
        const Param *p = list[i].param;
        list[i].dims = is_matrix(p) ? 2 : 1;
        list[i].shape[0] = p->transposed ? p->cols : list[i].rows;
        list[i].shape[1] = !is_matrix(p) ? 1 : p->transposed ? list[i].rows : p->cols;
    }
    *count = n;
    return list;
}

/* Where row r, column c of a file tensor lies in the file. */
static int64_t file_index(const FileTensor *t, int64_t r, int64_t c) {
    return t->param->transposed ? c * t->rows + r : r * t->param->cols + c;
}

static int64_t arena_row(const FileTensor *t, int64_t r) { return t->gap && r >= t->split ? r + t->gap : r; }

void params_pack(const FileTensor *t, DType type, int64_t rows, const void *arena_rows, void *file_values) {
    int64_t stride = params_row_stride(t->param);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < t->param->cols; c++) {
            int64_t from = arena_row(t, r) * stride + c, to = file_index(t, r, c);
            if (type == DTYPE_F64) ((double *)file_values)[to] = ((const double *)arena_rows)[from];
            else ((float *)file_values)[to] = ((const float *)arena_rows)[from];
        }
}

void params_unpack(const FileTensor *t, DType type, int64_t rows, void *arena_rows, const void *file_values) {
    int64_t stride = params_row_stride(t->param);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < t->param->cols; c++) {
            int64_t from = file_index(t, r, c), to = arena_row(t, r) * stride + c;
            if (type == DTYPE_F64) ((double *)arena_rows)[to] = ((const double *)file_values)[from];
            else ((float *)arena_rows)[to] = ((const float *)file_values)[from];
        }
}
