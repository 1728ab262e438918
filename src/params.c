/* params.c: the table of parameters, and what follows from it. params.h is the manual. */
#include "params.h"
#include "philox.h"
#include "variant.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum Dim { DIM_ONE, DIM_V, DIM_T, DIM_C, DIM_HD, DIM_KD, DIM_F } Dim;

typedef enum Initial {
    INIT_ZERO,
    INIT_ONE,
    INIT_NORMAL,   /* std --init-std */
    INIT_EMBED,    /* std --init-std-embed */
    INIT_RESIDUAL, /* gpt2: --init-std / √(2L), as GPT-2's residual projections; llama: --init-std */
} Initial;

typedef enum When { ALWAYS, LEARNED_POSITIONS, NORM_BETA, BIASES, FINAL_NORM, FINAL_BETA, UNTIED } When;

/* A piece of a row that is there only for SwiGLU (gate) starts at row 0, the next one at a padded row. */
typedef struct PieceRow {
    const char *key;
    Dim rows;
    const char *gpt2, *llama; /* "": inside the piece before it */
} PieceRow;

typedef struct Row {
    ParamId id;
    bool per_layer;
    ParamKind kind;
    Dim cols; /* DIM_ONE for vectors */
    Initial initial;
    When when;
    PieceRow piece[PIECES_MOST];
} Row;

/* clang-format off */
static const Row ROWS[] = {
    {PARAM_TOKENS, false, PARAM_EMBEDDING, DIM_C, INIT_EMBED, ALWAYS,
     {{"tokens", DIM_V, "transformer.wte.weight", "model.embed_tokens.weight"}}},
    {PARAM_POSITIONS, false, PARAM_EMBEDDING, DIM_C, INIT_NORMAL, LEARNED_POSITIONS,
     {{"positions", DIM_T, "transformer.wpe.weight", "model.embed_positions.weight"}}},

    {PARAM_NORM1_GAMMA, true, PARAM_VECTOR, DIM_ONE, INIT_ONE, ALWAYS,
     {{"norm1.gamma", DIM_C, "ln_1.weight", "input_layernorm.weight"}}},
    {PARAM_NORM1_BETA, true, PARAM_VECTOR, DIM_ONE, INIT_ZERO, NORM_BETA,
     {{"norm1.beta", DIM_C, "ln_1.bias", "input_layernorm.bias"}}},
    {PARAM_QKV, true, PARAM_MATRIX, DIM_C, INIT_NORMAL, ALWAYS,
     {{"q", DIM_HD, "attn.c_attn.weight", "self_attn.q_proj.weight"},
      {"k", DIM_KD, "", "self_attn.k_proj.weight"},
      {"v", DIM_KD, "", "self_attn.v_proj.weight"}}},
    {PARAM_QKV_BIAS, true, PARAM_BIAS, DIM_ONE, INIT_ZERO, BIASES,
     {{"q.bias", DIM_HD, "attn.c_attn.bias", "self_attn.q_proj.bias"},
      {"k.bias", DIM_KD, "", "self_attn.k_proj.bias"},
      {"v.bias", DIM_KD, "", "self_attn.v_proj.bias"}}},
    {PARAM_ATTN_OUT, true, PARAM_MATRIX, DIM_HD, INIT_RESIDUAL, ALWAYS,
     {{"o", DIM_C, "attn.c_proj.weight", "self_attn.o_proj.weight"}}},
    {PARAM_ATTN_OUT_BIAS, true, PARAM_BIAS, DIM_ONE, INIT_ZERO, BIASES,
     {{"o.bias", DIM_C, "attn.c_proj.bias", "self_attn.o_proj.bias"}}},
    {PARAM_NORM2_GAMMA, true, PARAM_VECTOR, DIM_ONE, INIT_ONE, ALWAYS,
     {{"norm2.gamma", DIM_C, "ln_2.weight", "post_attention_layernorm.weight"}}},
    {PARAM_NORM2_BETA, true, PARAM_VECTOR, DIM_ONE, INIT_ZERO, NORM_BETA,
     {{"norm2.beta", DIM_C, "ln_2.bias", "post_attention_layernorm.bias"}}},
    /* Without SwiGLU the gate is left out and "up" is the MLP's one input matrix. */
    {PARAM_MLP_IN, true, PARAM_MATRIX, DIM_C, INIT_NORMAL, ALWAYS,
     {{"gate", DIM_F, "mlp.c_gate.weight", "mlp.gate_proj.weight"},
      {"up", DIM_F, "mlp.c_fc.weight", "mlp.up_proj.weight"}}},
    {PARAM_MLP_IN_BIAS, true, PARAM_BIAS, DIM_ONE, INIT_ZERO, BIASES,
     {{"gate.bias", DIM_F, "mlp.c_gate.bias", "mlp.gate_proj.bias"},
      {"up.bias", DIM_F, "mlp.c_fc.bias", "mlp.up_proj.bias"}}},
    {PARAM_MLP_OUT, true, PARAM_MATRIX, DIM_F, INIT_RESIDUAL, ALWAYS,
     {{"down", DIM_C, "mlp.c_proj.weight", "mlp.down_proj.weight"}}},
    {PARAM_MLP_OUT_BIAS, true, PARAM_BIAS, DIM_ONE, INIT_ZERO, BIASES,
     {{"down.bias", DIM_C, "mlp.c_proj.bias", "mlp.down_proj.bias"}}},

    {PARAM_FINAL_GAMMA, false, PARAM_VECTOR, DIM_ONE, INIT_ONE, FINAL_NORM,
     {{"final.gamma", DIM_C, "transformer.ln_f.weight", "model.norm.weight"}}},
    {PARAM_FINAL_BETA, false, PARAM_VECTOR, DIM_ONE, INIT_ZERO, FINAL_BETA,
     {{"final.beta", DIM_C, "transformer.ln_f.bias", "model.norm.bias"}}},
    {PARAM_HEAD, false, PARAM_EMBEDDING, DIM_C, INIT_NORMAL, UNTIED,
     {{"head", DIM_V, "lm_head.weight", "lm_head.weight"}}},
};
/* clang-format on */
enum { ROW_COUNT = sizeof ROWS / sizeof *ROWS };

static int dim(const Config *c, Dim which) {
    switch (which) {
    case DIM_ONE: return 1;
    case DIM_V: return (int)c->vocab_size;
    case DIM_T: return (int)c->seq_len;
    case DIM_C: return (int)c->n_embd;
    case DIM_HD: return (int)(c->n_head * c->head_size);
    case DIM_KD: return (int)(c->n_kv_head * c->head_size);
    case DIM_F: return (int)c->n_ffn;
    }
    return 0;
}

static bool is_there(const Config *c, When when) {
    switch (when) {
    case ALWAYS: return true;
    case LEARNED_POSITIONS: return c->positions == POSITIONS_LEARNED;
    case NORM_BETA: return variant_norm(c)->has_beta;
    case BIASES: return c->bias == SWITCH_ON;
    case FINAL_NORM: return variant_placement(c)->final_norm;
    case FINAL_BETA: return variant_placement(c)->final_norm && variant_norm(c)->has_beta;
    case UNTIED: return c->tie_embeddings == SWITCH_OFF;
    }
    return false;
}

static bool is_matrix(const Param *p) { return p->kind == PARAM_MATRIX || p->kind == PARAM_EMBEDDING; }

int64_t params_row_stride(const Param *p) { return is_matrix(p) ? padded(p->cols) : 1; }

static double initial_std(const Config *c, Initial initial) {
    switch (initial) {
    case INIT_ZERO:
    case INIT_ONE: return 0;
    case INIT_NORMAL: return c->init_std;
    case INIT_EMBED: return c->init_std_embed;
    case INIT_RESIDUAL: return c->arch == ARCH_GPT2 ? c->init_std / sqrt(2.0 * (double)c->n_layer) : c->init_std;
    }
    return 0;
}

static bool decays(const Config *c, ParamKind kind) {
    switch (c->decay_on) {
    case DECAY_ON_MATRICES: return kind == PARAM_MATRIX || kind == PARAM_EMBEDDING;
    case DECAY_ON_NO_EMBEDDINGS: return kind == PARAM_MATRIX;
    default: return true;
    }
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
    piece->init_std = initial_std(c, row->initial);
    piece->init_mean = row->initial == INIT_ONE ? 1 : 0;
    snprintf(piece->key, sizeof piece->key, "%s%s", key_prefix, from->key);
    if (*name) snprintf(piece->name, sizeof piece->name, "%s%s", prefix, name);
}

static void add_param(Params *params, const Config *c, const Row *row, int layer) {
    Param *p = &params->list[params->count];
    *p = (Param){.id = row->id, .layer = layer, .kind = row->kind, .cols = dim(c, row->cols)};
    p->transposed = c->arch == ARCH_GPT2 && row->kind == PARAM_MATRIX; /* Conv1D keeps [in, out] */
    p->decay = decays(c, row->kind);

    bool gated = row->id == PARAM_MLP_IN || row->id == PARAM_MLP_IN_BIAS;
    bool swiglu = c->activation == ACTIVATION_FLAG_SWIGLU;
    int next = 0;
    for (int i = 0; i < PIECES_MOST && row->piece[i].key; i++) {
        if (gated && i == 0 && !swiglu) continue;
        add_piece(p, c, row, &row->piece[i], next);
        next += p->piece[p->pieces - 1].rows;
        if (gated && swiglu) next = (int)padded(next);
    }
    p->rows = next;
    p->offset = params->elements;
    p->count = is_matrix(p) ? padded(p->rows) * padded(p->cols) : padded(p->rows);
    params->elements += p->count;
    for (int i = 0; i < p->pieces; i++) {
        int64_t numbers = (int64_t)p->piece[i].rows * p->cols;
        params->true_elements += numbers;
        if (p->kind != PARAM_EMBEDDING) params->true_elements_no_embeddings += numbers;
    }
    params->index[(layer + 1) * PARAM_COUNT + row->id] = params->count++;
}

void params_build(Params *params, const Config *config) {
    *params = (Params){.layers = (int)config->n_layer};
    size_t slots = ((size_t)params->layers + 1) * PARAM_COUNT;
    params->list = must_calloc(slots, sizeof *params->list, "the parameter table");
    params->index = must_calloc(slots, sizeof *params->index, "the parameter table");
    for (size_t i = 0; i < slots; i++) params->index[i] = -1;

    int r = 0;
    for (; r < ROW_COUNT && !ROWS[r].per_layer; r++)
        if (is_there(config, ROWS[r].when)) add_param(params, config, &ROWS[r], -1);
    int first = r;
    for (int layer = 0; layer < params->layers; layer++)
        for (r = first; r < ROW_COUNT && ROWS[r].per_layer; r++)
            if (is_there(config, ROWS[r].when)) add_param(params, config, &ROWS[r], layer);
    for (; r < ROW_COUNT; r++)
        if (is_there(config, ROWS[r].when)) add_param(params, config, &ROWS[r], -1);
}

void params_free(Params *params) {
    free(params->list);
    free(params->index);
    *params = (Params){0};
}

const Param *params_find(const Params *params, ParamId id, int layer) {
    int at = params->index[(layer + 1) * PARAM_COUNT + id];
    return at < 0 ? NULL : &params->list[at];
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
                               .optimizer = OPTIMIZER_ADAMW,
                               .clip_group = CLIP_ALL,
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
            if (!piece->name[0]) {
                list[n - 1].rows += piece->rows;
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

void params_pack(const FileTensor *t, DType type, int64_t rows, const void *arena_rows, void *file_values) {
    int64_t stride = params_row_stride(t->param);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < t->param->cols; c++) {
            int64_t from = r * stride + c, to = file_index(t, r, c);
            if (type == DTYPE_F64) ((double *)file_values)[to] = ((const double *)arena_rows)[from];
            else ((float *)file_values)[to] = ((const float *)arena_rows)[from];
        }
}

void params_unpack(const FileTensor *t, DType type, int64_t rows, void *arena_rows, const void *file_values) {
    int64_t stride = params_row_stride(t->param);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < t->param->cols; c++) {
            int64_t from = file_index(t, r, c), to = r * stride + c;
            if (type == DTYPE_F64) ((double *)arena_rows)[to] = ((const double *)file_values)[from];
            else ((float *)arena_rows)[to] = ((const float *)file_values)[from];
        }
}
