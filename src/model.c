/* model.c: forward and backward of the transformer, as a sequence of contract operations. See model.h. */
#include "model.h"
#include "variant.h"

#include <math.h>
#include <stdlib.h>

/* One run through the blocks: how many tokens, which buffers, where keys and values are. */
typedef struct Pass {
    int B, T;
    const Buffers *buffers;
    Cache *cache;             /* generation, else NULL */
    const uint32_t *position; /* [B·T], or NULL: the time step */
} Pass;

static int64_t tokens_of(const Pass *pass) { return (int64_t)pass->B * pass->T; }

static void *at(void *arena, DType type, const Param *p) {
    return p ? (char *)arena + (size_t)p->offset * dtype_size(type) : NULL;
}

/* Matrices and biases are read in the storage type, vectors in the accumulate type; NULL where there is none. */
static const Storage *weight(const Model *m, ParamId id, int layer) {
    return at(m->storage, m->k->storage, params_find(&m->params, id, layer));
}

static const Accum *vector(const Model *m, ParamId id, int layer) {
    return at(m->master, m->k->accum, params_find(&m->params, id, layer));
}

static Accum *gradient(const Model *m, ParamId id, int layer) {
    return at(m->grad, m->k->accum, params_find(&m->params, id, layer));
}

static ParamId head_id(const Model *m) {
    return params_find(&m->params, PARAM_HEAD, -1) ? PARAM_HEAD : PARAM_TOKENS;
}

/* ------------------------------------------------------------------------------------------------------
 * Junctions
 * ---------------------------------------------------------------------------------------------------- */

/* Which parameters the norm of junction j has, and in which layer: the next sublayer's, or the final ones. */
typedef struct NormIds {
    ParamId gamma, beta;
    int layer;
} NormIds;

static NormIds norm_ids(const Model *m, int j) {
    if (j == 2 * m->L) return (NormIds){PARAM_FINAL_GAMMA, PARAM_FINAL_BETA, -1};
    if (j % 2 == 0) return (NormIds){PARAM_NORM1_GAMMA, PARAM_NORM1_BETA, j / 2};
    return (NormIds){PARAM_NORM2_GAMMA, PARAM_NORM2_BETA, j / 2};
}

static Junction junction(const Model *m, const Pass *pass, int j) {
    const Site *site = &pass->buffers->site[j];
    NormIds ids = norm_ids(m, j);
    Junction args = {
        .N = tokens_of(pass),
        .C = m->C,
        .residual_is_accum = m->residual_is_accum,
        .post = variant_placement(m->config)->post,
        .norm = {.kind = variant_norm(m->config)->kind,
                 .eps = m->config->norm_eps,
                 .gamma = vector(m, ids.gamma, ids.layer),
                 .beta = vector(m, ids.beta, ids.layer),
                 .mean = site->mean,
                 .rstd = site->rstd},
        .y = site->y,
    };
    if (j == 0) {
        args.x = site->residual;
    } else {
        args.x = pass->buffers->site[j - 1].residual;
        args.f = m->narrow;
        args.bias = weight(m, j % 2 ? PARAM_ATTN_OUT_BIAS : PARAM_MLP_OUT_BIAS, (j - 1) / 2);
        args.u = site->residual;
    }
    return args;
}

static void junction_forward(Model *m, const Pass *pass, int j) {
    Junction args = junction(m, pass, j);
    m->k->junction_forward(m->queue, &args);
}

/* The norm's output once more, from the stored stream. */
static void junction_again(Model *m, const Pass *pass, int j) {
    Junction args = junction(m, pass, j);
    args.x = pass->buffers->site[j].residual;
    args.f = args.bias = NULL;
    args.u = NULL;
    m->k->junction_forward(m->queue, &args);
}

/* From the gradient at the norm's output (narrow) and of the stream (dresidual) to the stream before. */
static void junction_backward(Model *m, const Pass *pass, int j) {
    Junction forward = junction(m, pass, j);
    NormIds ids = norm_ids(m, j);
    JunctionBackward args = {
        .forward = &forward,
        .dy = m->narrow,
        .dresidual_in = j == 2 * m->L ? NULL : m->dresidual,
        .dresidual_out = m->dresidual,
        .df = j ? m->df : NULL,
        .norm = {.dgamma = gradient(m, ids.gamma, ids.layer), .dbeta = gradient(m, ids.beta, ids.layer)},
    };
    if (j) args.dbias = gradient(m, j % 2 ? PARAM_ATTN_OUT_BIAS : PARAM_MLP_OUT_BIAS, (j - 1) / 2);
    m->k->junction_backward(m->queue, &args);
}

/* ------------------------------------------------------------------------------------------------------
 * Linear layers
 * ---------------------------------------------------------------------------------------------------- */

typedef struct LinearIds {
    ParamId w, bias; /* PARAM_COUNT: the junction adds the bias, or there is none */
    int layer, in, out;
} LinearIds;

static LinearIds qkv_ids(const Model *m, int l) {
    return (LinearIds){PARAM_QKV, PARAM_QKV_BIAS, l, m->C, m->QKV};
}
static LinearIds attn_out_ids(const Model *m, int l) {
    return (LinearIds){PARAM_ATTN_OUT, PARAM_COUNT, l, m->H * m->D, m->C};
}
static LinearIds mlp_in_ids(const Model *m, int l) {
    return (LinearIds){PARAM_MLP_IN, PARAM_MLP_IN_BIAS, l, m->C, m->F_in};
}
static LinearIds mlp_out_ids(const Model *m, int l) {
    return (LinearIds){PARAM_MLP_OUT, PARAM_COUNT, l, m->F, m->C};
}

static void linear(Model *m, LinearIds ids, int64_t N, const Storage *x, Storage *y) {
    m->k->linear_forward(m->queue, &(Linear){
        .N = N,
        .in = ids.in,
        .out = ids.out,
        .x = x,
        .w = weight(m, ids.w, ids.layer),
        .bias = ids.bias == PARAM_COUNT ? NULL : weight(m, ids.bias, ids.layer),
        .y = y,
    });
}

/* dW += dyᵀ·x; dx = dy·W. */
static void linear_backward(Model *m, LinearIds ids, const Storage *dy, const Storage *x, Storage *dx) {
    LinearBackward args = {
        .N = m->N,
        .in = ids.in,
        .out = ids.out,
        .dy = dy,
        .x = x,
        .w = weight(m, ids.w, ids.layer),
        .dx = dx,
        .dw = gradient(m, ids.w, ids.layer),
    };
    m->k->linear_backward_weight(m->queue, &args);
    m->k->linear_backward_input(m->queue, &args);
}

/* ------------------------------------------------------------------------------------------------------
 * Sublayers
 * ---------------------------------------------------------------------------------------------------- */

static Qkv qkv_args(const Model *m, const Pass *pass, int l) {
    Storage *qkv = pass->buffers->block[l].qkv;
    return (Qkv){.B = pass->B, .T = pass->T, .H = m->H, .Hkv = m->Hkv, .D = m->D, .raw = qkv, .qkv = qkv,
                 .rope = m->rope, .position = pass->position};
}

static Attention attention_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    return (Attention){.B = pass->B, .T = pass->T, .H = m->H, .Hkv = m->Hkv, .D = m->D, .qkv = block->qkv,
                       .out = block->context, .lse = block->lse};
}

static void attend_cached(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    m->k->attention_decode(m->queue, &(AttentionDecode){
        .B = pass->B,
        .T = pass->T,
        .H = m->H,
        .Hkv = m->Hkv,
        .D = m->D,
        .capacity = pass->cache->capacity,
        .length = pass->cache->length,
        .qkv = block->qkv,
        .k_cache = pass->cache->k[l],
        .v_cache = pass->cache->v[l],
        .out = block->context,
    });
}

/* Attention of block l, from the norm's output to the raw output in `narrow`. */
static void attention_forward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    linear(m, qkv_ids(m, l), tokens_of(pass), pass->buffers->site[2 * l].y, block->qkv);
    if (m->rope) {
        Qkv args = qkv_args(m, pass, l);
        m->k->qkv_forward(m->queue, &args);
    }
    if (pass->cache) {
        attend_cached(m, pass, l);
    } else {
        Attention args = attention_args(m, pass, l);
        m->k->attention_forward(m->queue, &args);
    }
    linear(m, attn_out_ids(m, l), tokens_of(pass), block->context, m->narrow);
}

static Activation activation_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    return (Activation){
        .N = tokens_of(pass),
        .F = m->F,
        .kind = m->config->activation == ACTIVATION_FLAG_SWIGLU ? ACTIVATION_SWIGLU : ACTIVATION_GELU,
        .h = block->h,
        .y = block->act,
    };
}

static void activate(Model *m, const Pass *pass, int l) {
    Activation args = activation_args(m, pass, l);
    m->k->activation_forward(m->queue, &args);
}

/* The MLP of block l up to its activation; its last product is mlp_out_ids. */
static void mlp_in_forward(Model *m, const Pass *pass, int l) {
    linear(m, mlp_in_ids(m, l), tokens_of(pass), pass->buffers->site[2 * l + 1].y, pass->buffers->block[l].h);
    activate(m, pass, l);
}

static void mlp_backward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    const Storage *df = m->df ? m->df : m->dresidual;
    linear_backward(m, mlp_out_ids(m, l), df, block->act, m->wide);
    Activation forward = activation_args(m, pass, l);
    m->k->activation_backward(m->queue, &(ActivationBackward){
        .forward = &forward,
        .dy = m->wide,
        .dh = block->h,
        .dbias = gradient(m, PARAM_MLP_IN_BIAS, l),
    });
    if (m->config->recompute == RECOMPUTE_ACT) junction_again(m, pass, 2 * l + 1);
    linear_backward(m, mlp_in_ids(m, l), block->h, pass->buffers->site[2 * l + 1].y, m->narrow);
}

static void attention_backward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    const Storage *df = m->df ? m->df : m->dresidual;
    linear_backward(m, attn_out_ids(m, l), df, block->context, m->narrow);
    Attention forward = attention_args(m, pass, l);
    m->k->attention_backward(m->queue,
                             &(AttentionBackward){.forward = &forward, .dout = m->narrow, .dqkv = m->wide});
    Accum *dbias = gradient(m, PARAM_QKV_BIAS, l);
    if (m->rope || dbias) {
        Qkv qkv = qkv_args(m, pass, l);
        m->k->qkv_backward(m->queue,
                           &(QkvBackward){.forward = &qkv, .dqkv = m->wide, .draw = m->wide, .dbias = dbias});
    }
    if (m->config->recompute == RECOMPUTE_ACT) junction_again(m, pass, 2 * l);
    linear_backward(m, qkv_ids(m, l), m->wide, pass->buffers->site[2 * l].y, m->narrow);
}

/* What backward of block l reads and forward did not keep. */
static void recompute(Model *m, const Pass *pass, int l) {
    if (m->config->recompute == RECOMPUTE_ACT) activate(m, pass, l);
    if (m->config->recompute != RECOMPUTE_BLOCK) return;
    junction_again(m, pass, 2 * l);
    attention_forward(m, pass, l);
    junction_forward(m, pass, 2 * l + 1);
    mlp_in_forward(m, pass, l);
}

/* ------------------------------------------------------------------------------------------------------
 * The whole
 * ---------------------------------------------------------------------------------------------------- */

static Embedding embedding_args(const Model *m, const Pass *pass) {
    return (Embedding){
        .B = pass->B,
        .T = pass->T,
        .C = m->C,
        .V = m->V,
        .residual_is_accum = m->residual_is_accum,
        .tokens = m->tokens,
        .position = pass->position,
        .token_table = weight(m, PARAM_TOKENS, -1),
        .position_table = weight(m, PARAM_POSITIONS, -1),
        .x = pass->buffers->site[0].residual,
    };
}

static void run_forward(Model *m, const Pass *pass) {
    Embedding embedding = embedding_args(m, pass);
    m->k->embedding_forward(m->queue, &embedding);
    junction_forward(m, pass, 0);
    for (int l = 0; l < m->L; l++) {
        attention_forward(m, pass, l);
        junction_forward(m, pass, 2 * l + 1);
        mlp_in_forward(m, pass, l);
        linear(m, mlp_out_ids(m, l), tokens_of(pass), pass->buffers->block[l].act, m->narrow);
        junction_forward(m, pass, 2 * l + 2);
    }
}

static Pass training_pass(const Model *m, bool keep) {
    return (Pass){.B = m->B, .T = m->T, .buffers = keep ? &m->kept : &m->passing};
}

void model_forward(Model *m, bool keep) {
    Pass pass = training_pass(m, keep);
    run_forward(m, &pass);
}

/* Rows of the last norm's output; training and passing tables share that buffer. */
static Storage *head_input(const Model *m, int64_t first) {
    size_t row = (size_t)padded(m->C) * dtype_size(m->k->storage);
    return (char *)m->kept.site[2 * m->L].y + (size_t)first * row;
}

static LinearIds head_ids(const Model *m) { return (LinearIds){head_id(m), PARAM_COUNT, -1, m->C, m->V}; }

void model_logits(Model *m, int64_t first, int64_t count) {
    linear(m, head_ids(m), count, head_input(m, first), m->logits);
}

void model_head(Model *m, StepState *state, bool want_gradient) {
    size_t row = (size_t)padded(m->C) * dtype_size(m->k->storage);
    for (int64_t first = 0; first < m->N; first += m->head_chunk) {
        int64_t count = m->N - first < m->head_chunk ? m->N - first : m->head_chunk;
        model_logits(m, first, count);
        m->k->cross_entropy(m->queue, &(CrossEntropy){
            .N = count,
            .V = m->V,
            .logits = m->logits,
            .targets = m->targets + first,
            .losses = (char *)m->losses + (size_t)first * dtype_size(m->k->accum),
            .z_loss = m->config->z_loss,
            .gradient = want_gradient,
            .state = state,
        });
        if (!want_gradient) continue;
        LinearBackward args = {
            .N = count,
            .in = m->C,
            .out = m->V,
            .dy = m->logits,
            .x = head_input(m, first),
            .w = weight(m, head_id(m), -1),
            .dx = (char *)m->narrow + (size_t)first * row,
            .dw = gradient(m, head_id(m), -1),
        };
        m->k->linear_backward_weight(m->queue, &args);
        m->k->linear_backward_input(m->queue, &args);
    }
    m->k->loss_reduce(m->queue, &(LossReduce){.N = m->N, .losses = m->losses, .state = state});
}

void model_backward(Model *m) {
    Pass pass = training_pass(m, true);
    for (int l = m->L - 1; l >= 0; l--) {
        junction_backward(m, &pass, 2 * l + 2);
        recompute(m, &pass, l);
        mlp_backward(m, &pass, l);
        junction_backward(m, &pass, 2 * l + 1);
        attention_backward(m, &pass, l);
    }
    junction_backward(m, &pass, 0);
    Embedding forward = embedding_args(m, &pass);
    m->k->embedding_backward(m->queue, &(EmbeddingBackward){
        .forward = &forward,
        .dx = m->dresidual,
        .dtoken_table = gradient(m, PARAM_TOKENS, -1),
        .dposition_table = gradient(m, PARAM_POSITIONS, -1),
    });
}

void model_decode(Model *m, const uint32_t *tokens, int count, uint32_t length) {
    const Kernels *k = m->k;
    uint32_t *position = must_malloc((size_t)count * sizeof *position, "positions");
    for (int i = 0; i < count; i++) position[i] = length + (uint32_t)i;
    /* The targets' buffer is free in generation: it holds the positions. */
    k->copy(m->queue, m->tokens, tokens, (size_t)count * sizeof *tokens, COPY_TO_DEVICE);
    k->copy(m->queue, m->targets, position, (size_t)count * sizeof *position, COPY_TO_DEVICE);
    k->copy(m->queue, m->cache.length, &length, sizeof length, COPY_TO_DEVICE);
    Pass pass = {.B = 1, .T = count, .buffers = &m->passing, .cache = &m->cache, .position = m->targets};
    run_forward(m, &pass);
    model_logits(m, count - 1, 1);
    k->queue_wait(m->queue);
    free(position);
}

void model_feed(Model *m, const uint32_t *tokens, const uint32_t *targets) {
    m->k->copy(m->queue, m->tokens, tokens, (size_t)m->N * sizeof *tokens, COPY_TO_DEVICE);
    m->k->copy(m->queue, m->targets, targets, (size_t)m->N * sizeof *targets, COPY_TO_DEVICE);
}

double model_flops_per_token(const Config *config, const Params *params) {
    double matrices = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        bool head = p->id == PARAM_HEAD || (p->id == PARAM_TOKENS && config->tie_embeddings == SWITCH_ON);
        if (p->kind != PARAM_MATRIX && !head) continue;
        for (int j = 0; j < p->pieces; j++) matrices += (double)p->piece[j].rows * p->cols;
    }
    return 6 * matrices + 6.0 * (double)(config->n_layer * config->n_embd * config->seq_len);
}
