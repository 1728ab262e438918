/* model.c: forward and backward of the transformer, as a sequence of contract operations. See model.h. */
#include "model.h"
#include "../settings/variant.h"

#include <math.h>
#include <stdlib.h>

/* One run through the blocks: how many tokens, which buffers, where keys and values are. */
typedef struct Pass {
    int B, T;
    const Buffers *buffers;
    Cache *cache;             /* generation, else NULL */
    int place;                /* of the first sequence, in the cache */
    const uint32_t *position; /* [B·T], or NULL: the time step */
    const uint32_t *document_start; /* [B·T], or NULL: 0 */
    StageHook *hook;          /* telemetry, or NULL */
    void *context;
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
    const Param *p = params_find(&m->params, id, layer);
    return p ? model_master(m, p->offset) : NULL;
}

static Accum *gradient(const Model *m, ParamId id, int layer) {
    return at(m->grad, m->k->accum, params_find(&m->params, id, layer));
}

static ParamId head_id(const Model *m) {
    return params_find(&m->params, PARAM_HEAD, -1) ? PARAM_HEAD : PARAM_TOKENS;
}

/* Whether each element of its gradient is one of a product: not of embeddings alone, whose rows are looked up. */
static bool product_writes(const Model *m, const Param *p) { return p->kind == PARAM_MATRIX || p->id == head_id(m); }

void model_forget_gradients(Model *m) {
    const Param *list = m->params.list;
    for (int i = 0; i < m->params.count; i++) {
        if (product_writes(m, &list[i])) continue;
        const int first = i;
        while (i + 1 < m->params.count && !product_writes(m, &list[i + 1])) i++;
        size_t bytes = (size_t)(list[i].offset + list[i].count - list[first].offset) * dtype_size(m->k->accum);
        m->k->zero(m->queue, at(m->grad, m->k->accum, &list[first]), bytes);
    }
    m->grad_is_fresh = true;
}

/* What reads the weights of a layer (−1: the embedding's, L: the head's) comes after them. */
static void await_layer(const Model *m, int layer) {
    for (int b = 0; m->arrived && b < m->params.buckets; b++)
        if (m->arrived[b] && m->params.bucket[b].ready == layer) m->k->event_wait(m->queue, m->arrived[b]);
}

void model_await(const Model *m) {
    if (m->exchanged) m->k->event_wait(m->queue, m->exchanged);
}

void model_settle(const Model *m) {
    model_await(m);
    m->k->queue_wait(m->queue);
}

/* ------------------------------------------------------------------------------------------------------
 * Junctions: stage i of the plan (variant.h), 2j for junction j, 2j + 1 for its second stage
 * ---------------------------------------------------------------------------------------------------- */

static int last_stage(const Model *m, int j) { return m->plan[2 * j + 1].there ? 2 * j + 1 : 2 * j; }

/* What feeds sublayer j; 2L: the head. */
static Storage *input_of(const Model *m, const Pass *pass, int j) {
    return pass->buffers->site[last_stage(m, j)].y;
}

/* Where sublayer i's raw output goes: junction i + 1 may keep it. */
static Storage *output_of(const Model *m, const Pass *pass, int i) {
    Storage *kept = pass->buffers->site[2 * (i + 1)].f;
    return kept ? kept : m->narrow;
}

static Residual *stream_before(const Model *m, const Pass *pass, int i) {
    while (--i >= 0)
        if (m->plan[i].there) return pass->buffers->site[i].stream;
    return pass->buffers->embedded;
}

/* The stage whose norm feeds attention of block l: the one with the block's exact mean square. */
static int block_start(const Model *m, int l) { return last_stage(m, 2 * l); }

static void *offset(void *base, const Model *m, int64_t elements) {
    return (char *)base + (size_t)elements * dtype_size(m->k->accum);
}

static const Accum *scale_of(const Model *m, int gate) { return gate < 0 ? NULL : offset(m->gate_scale, m, gate); }

static Norm norm_of(const Model *m, const NormPlan *plan, Accum *mean, Accum *rstd) {
    if (plan->kind == NORM_NONE) return (Norm){0};
    return (Norm){
        .kind = plan->kind,
        .eps = plan->eps,
        .kappa = m->config->bhyt_kappa,
        .output_scale = plan->output_scale,
        .gamma = vector(m, plan->family, plan->layer),
        .beta = vector(m, plan->family + 1, plan->layer),
        .scalar = vector(m, plan->family + 2, plan->layer),
        .mean = mean,
        .rstd = rstd,
    };
}

static NormGradient norm_gradient(const Model *m, const NormPlan *plan) {
    if (plan->kind == NORM_NONE) return (NormGradient){0};
    return (NormGradient){
        .dgamma = gradient(m, plan->family, plan->layer),
        .dbeta = gradient(m, plan->family + 1, plan->layer),
        .dscalar = gradient(m, plan->family + 2, plan->layer),
    };
}

static ParamId output_bias(int sublayer) { return sublayer % 2 ? PARAM_MLP_OUT_BIAS : PARAM_ATTN_OUT_BIAS; }

static Junction junction(const Model *m, const Pass *pass, int i) {
    const JunctionPlan *plan = &m->plan[i];
    const Site *site = &pass->buffers->site[i];
    int layer = plan->sublayer / 2;
    Junction args = {
        .N = tokens_of(pass),
        .C = m->C,
        .residual_is_accum = m->residual_is_accum,
        .post = plan->post,
        .x = stream_before(m, pass, i),
        .alpha = plan->alpha,
        .norm = norm_of(m, &plan->norm, site->mean, site->rstd),
        .y = site->y,
        .y_residual = plan->post ? site->y_residual : NULL,
    };
    if (plan->gives_mean_square) args.mean_square_out = site->mean_square;
    if (plan->takes_mean_square) {
        args.mean_square_in = pass->buffers->site[block_start(m, layer)].mean_square;
        args.vhat = offset(m->vhat, m, 2 * layer);
    }
    if (plan->sublayer < 0) return args;
    args.s_in = scale_of(m, plan->post ? plan->gate : plan->gate_in);
    args.s_ride = plan->post ? scale_of(m, plan->gate_in) : NULL;
    args.s_out = plan->post ? NULL : scale_of(m, plan->gate);
    args.f = output_of(m, pass, plan->sublayer);
    args.bias = weight(m, output_bias(plan->sublayer), layer);
    args.inner = norm_of(m, &plan->inner, site->inner_mean, site->inner_rstd);
    if (plan->sdd != PARAM_COUNT)
        args.sdd = (Norm){.kind = NORM_RMSNORM, .eps = m->config->sdd_eps, .gamma = vector(m, plan->sdd, layer),
                          .rstd = site->sdd_rstd};
    args.u = site->u;
    return args;
}

static void stage_forward(Model *m, const Pass *pass, int i) {
    Junction args = junction(m, pass, i);
    m->k->junction_forward(m->queue, &args);
    if (pass->hook) pass->hook(pass->context, m, i, &args);
}

static void junction_forward(Model *m, const Pass *pass, int j) {
    stage_forward(m, pass, 2 * j);
    if (m->plan[2 * j + 1].there) stage_forward(m, pass, 2 * j + 1);
}

/* What feeds sublayer j once more, from the stored stream. Post-type outputs are kept: they are the stream. */
static void junction_again(Model *m, const Pass *pass, int j) {
    int i = last_stage(m, j);
    if (m->plan[i].post) return;
    Junction args = junction(m, pass, i);
    args.x = pass->buffers->site[i].u;
    args.s_in = args.s_ride = NULL;
    args.f = args.bias = NULL;
    args.sdd = args.inner = (Norm){0};
    args.u = NULL;
    m->k->junction_forward(m->queue, &args);
}

/* Where a stage leaves the gradient of its sublayer's output: apart from the stream's only where they differ. */
static Storage *df_of(const Model *m, const JunctionPlan *plan) {
    bool same = plan->alpha == 1 && plan->inner.kind == NORM_NONE && plan->sdd == PARAM_COUNT &&
                (!m->residual_is_accum || m->k->storage == m->k->accum);
    return same ? NULL : m->df;
}

static const Storage *output_gradient(const Model *m, int sublayer) {
    Storage *df = df_of(m, &m->plan[2 * (sublayer + 1)]);
    return df ? df : m->dresidual;
}

/* From the gradients at the norm's output (dy, or NULL) and of the stream (dresidual, unless this is the last
 * stage) to the stream before. */
static void stage_backward(Model *m, const Pass *pass, int i, const Storage *dy) {
    const JunctionPlan *plan = &m->plan[i];
    Junction forward = junction(m, pass, i);
    JunctionBackward args = {
        .forward = &forward,
        .dy = dy,
        .dresidual_in = i == last_stage(m, 2 * m->L) ? NULL : m->dresidual,
        .dresidual_out = m->dresidual,
        .norm = norm_gradient(m, &plan->norm),
        .dmean_square_in = plan->gives_mean_square ? m->dmean_square : NULL,
        .dmean_square_out = plan->takes_mean_square ? m->dmean_square : NULL,
    };
    if (plan->sublayer >= 0) {
        args.df = df_of(m, plan);
        args.dbias = gradient(m, output_bias(plan->sublayer), plan->sublayer / 2);
        args.inner = norm_gradient(m, &plan->inner);
        if (plan->sdd != PARAM_COUNT) args.sdd.dgamma = gradient(m, plan->sdd, plan->sublayer / 2);
    }
    if (plan->gate >= 0) {
        int per_layer = m->gates / m->L;
        args.dgate = offset(gradient(m, PARAM_GATE, plan->gate / per_layer), m, plan->gate % per_layer);
        args.gate_slope = offset(m->gate_slope, m, plan->gate);
    }
    m->k->junction_backward(m->queue, &args);
}

/* The gradient at what fed sublayer j is in `narrow`. */
static void junction_backward(Model *m, const Pass *pass, int j) {
    bool second = m->plan[2 * j + 1].there;
    if (second) stage_backward(m, pass, 2 * j + 1, m->narrow);
    stage_backward(m, pass, 2 * j, second ? NULL : m->narrow);
}

/* The small numbers that the junctions read: GPAS scales, BHyT's v̂ terms. */
static void update_scalars(Model *m) {
    const Config *c = m->config;
    int per_layer = m->gates / m->L;
    for (int l = 0; per_layer && l < m->L; l++)
        m->k->gpas_scales(m->queue, &(GpasScales){.n = per_layer,
                                                  .activation = (GpasActivation)c->gpas_act,
                                                  .gate = vector(m, PARAM_GATE, l),
                                                  .scale = offset(m->gate_scale, m, l * per_layer),
                                                  .slope = offset(m->gate_slope, m, l * per_layer)});
    if (!variant_norm(c)->approximates) return;
    bool by_depth = variant_placement(c)->by_depth;
    /* SDD's rms takes out whatever scale the norm before attention had: α_O alone is what attention adds. */
    bool scaled = by_depth && !c->lns_init && c->sdd == SDD_OFF;
    for (int l = 0; l < m->L; l++)
        m->k->bhyt_terms(m->queue, &(BhytTerms){
            .C = m->C,
            .kappa = m->config->bhyt_kappa,
            .factor = scaled ? 1 / (l + 1.0) : 1,
            .c = offset(m->bhyt_c, m, l),
            .lambda = vector(m, PARAM_NORM1_SCALAR, l),
            .gamma = by_depth || c->bhyt_gamma_var ? vector(m, PARAM_NORM1, l) : NULL,
            .alpha_o = vector(m, PARAM_SDD_ATTN_OUT, l),
            .s = scale_of(m, m->plan[2 * (2 * l + 1)].gate),
            .vhat = offset(m->vhat, m, 2 * l),
        });
}

void model_refresh(Model *m) {
    if (!variant_norm(m->config)->approximates) return;
    await_layer(m, -1); /* whose bucket may hold layers as well */
    for (int l = 0; l < m->L; l++) {
        await_layer(m, l);
        m->k->product_norm(m->queue, &(ProductNorm){.C = m->C,
                                                    .H = m->H,
                                                    .Hkv = m->Hkv,
                                                    .D = m->D,
                                                    .T = m->T,
                                                    .w_o = weight(m, PARAM_ATTN_OUT, l),
                                                    .w_qkv = weight(m, PARAM_QKV, l),
                                                    .out = offset(m->bhyt_c, m, l)});
    }
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

/* dW += dyᵀ·x, the first of them dW = dyᵀ·x; dx = dy·W. */
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
        .overwrite = m->grad_is_fresh,
    };
    m->k->linear_backward_weight(m->queue, &args);
    m->k->linear_backward_input(m->queue, &args);
}

/* ------------------------------------------------------------------------------------------------------
 * Sublayers
 * ---------------------------------------------------------------------------------------------------- */

static QkvNorm qkv_norm(const Config *c) {
    if (c->sdd == SDD_PAPER || c->qk_norm == QK_NORM_PROJECTION) return QKV_NORM_PROJECTION;
    bool heads = c->sdd == SDD_RELEASED || c->qk_norm == QK_NORM_HEAD || variant_norms_qkv(c);
    return heads ? QKV_NORM_HEAD : QKV_NORM_NONE;
}

static Qkv qkv_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    return (Qkv){
        .B = pass->B,
        .T = pass->T,
        .H = m->H,
        .Hkv = m->Hkv,
        .D = m->D,
        .raw = block->raw,
        .qkv = block->qkv,
        .norm = qkv_norm(m->config),
        .eps = m->config->sdd ? m->config->sdd_eps : m->config->norm_eps,
        .alpha_q = vector(m, PARAM_Q_ALPHA, l),
        .alpha_k = vector(m, PARAM_K_ALPHA, l),
        .alpha_v = vector(m, PARAM_V_ALPHA, l),
        .rstd = block->qkv_rstd,
        .rope = m->rope,
        .position = pass->position,
    };
}

static Attention attention_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    return (Attention){.B = pass->B, .T = pass->T, .H = m->H, .Hkv = m->Hkv, .D = m->D, .qkv = block->qkv,
                       .doc_start = pass->document_start, .out = block->context, .lse = block->lse};
}

/* SDD as released norms the context before the output product: a junction that adds nothing. */
static Junction context_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    return (Junction){.N = tokens_of(pass),
                      .C = m->H * m->D,
                      .x = block->context,
                      .norm = {.kind = NORM_RMSNORM, .eps = m->config->sdd_eps,
                               .gamma = vector(m, PARAM_SDD_CONTEXT, l), .rstd = block->context_rstd},
                      .y = block->normed};
}

/* What the cache holds for the pass's sequences. */
static Storage *cached(const Model *m, const Pass *pass, Storage *whole) {
    int64_t row = padded((int64_t)m->Hkv * m->D) * (int64_t)dtype_size(m->k->storage);
    return (char *)whole + pass->place * pass->cache->capacity * row;
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
        .k_cache = cached(m, pass, pass->cache->k[l]),
        .v_cache = cached(m, pass, pass->cache->v[l]),
        .out = block->context,
    });
}

/* Attention of block l, from what feeds it to its raw output. */
static void attention_forward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    linear(m, qkv_ids(m, l), tokens_of(pass), input_of(m, pass, 2 * l), block->raw);
    if (m->rope || block->raw != block->qkv) {
        Qkv args = qkv_args(m, pass, l);
        m->k->qkv_forward(m->queue, &args);
    }
    if (pass->cache) {
        attend_cached(m, pass, l);
    } else {
        Attention args = attention_args(m, pass, l);
        m->k->attention_forward(m->queue, &args);
    }
    if (block->normed != block->context) {
        Junction args = context_args(m, pass, l);
        m->k->junction_forward(m->queue, &args);
    }
    linear(m, attn_out_ids(m, l), tokens_of(pass), block->normed, output_of(m, pass, 2 * l));
}

static ActivationKind activation_kind(const Config *c) {
    switch (c->activation) {
    case ACTIVATION_FLAG_SWIGLU: return ACTIVATION_SWIGLU;
    case ACTIVATION_FLAG_GELU_EXACT: return ACTIVATION_GELU_EXACT;
    default: return ACTIVATION_GELU;
    }
}

static Activation activation_args(const Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    int64_t sdd = m->config->sdd;
    return (Activation){
        .N = tokens_of(pass),
        .F = m->F,
        .kind = activation_kind(m->config),
        .h = block->h,
        .y = block->act,
        .norm = sdd == SDD_PAPER      ? ACTIVATION_NORM_EACH
                : sdd == SDD_RELEASED ? ACTIVATION_NORM_JOINT
                                      : ACTIVATION_NORM_NONE,
        .eps = m->config->sdd_eps,
        .alpha = vector(m, PARAM_SDD_MLP_IN, l),
        .rstd = block->h_rstd,
    };
}

static void activate(Model *m, const Pass *pass, int l) {
    Activation args = activation_args(m, pass, l);
    m->k->activation_forward(m->queue, &args);
}

/* The MLP of block l up to its activation; its last product is mlp_out_ids. */
static void mlp_in_forward(Model *m, const Pass *pass, int l) {
    linear(m, mlp_in_ids(m, l), tokens_of(pass), input_of(m, pass, 2 * l + 1), pass->buffers->block[l].h);
    activate(m, pass, l);
}

static void mlp_backward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    linear_backward(m, mlp_out_ids(m, l), output_gradient(m, 2 * l + 1), block->act, m->wide);
    Activation forward = activation_args(m, pass, l);
    m->k->activation_backward(m->queue, &(ActivationBackward){
        .forward = &forward,
        .dy = m->wide,
        .dh = block->h,
        .dalpha = gradient(m, PARAM_SDD_MLP_IN, l),
        .dbias = gradient(m, PARAM_MLP_IN_BIAS, l),
    });
    if (m->config->recompute == RECOMPUTE_ACT) junction_again(m, pass, 2 * l + 1);
    linear_backward(m, mlp_in_ids(m, l), block->h, input_of(m, pass, 2 * l + 1), m->narrow);
}

/* From the gradient at the output product's input (dheads) to the one at attention's context, which is returned. */
static const Storage *context_backward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    if (block->normed == block->context) return m->dheads;
    Junction forward = context_args(m, pass, l);
    m->k->junction_backward(m->queue, &(JunctionBackward){
        .forward = &forward,
        .dy = m->dheads,
        .dresidual_out = m->dcontext,
        .norm = {.dgamma = gradient(m, PARAM_SDD_CONTEXT, l)},
    });
    return m->dcontext;
}

static void attention_backward(Model *m, const Pass *pass, int l) {
    const Block *block = &pass->buffers->block[l];
    linear_backward(m, attn_out_ids(m, l), output_gradient(m, 2 * l), block->normed, m->dheads);
    const Storage *dcontext = context_backward(m, pass, l);
    Attention forward = attention_args(m, pass, l);
    const bool between = m->rope || block->raw != block->qkv;
    Accum *dbias = gradient(m, PARAM_QKV_BIAS, l);
    m->k->attention_backward(m->queue, &(AttentionBackward){
        .forward = &forward,
        .dout = dcontext,
        .dqkv = m->dqkv,
        .dbias = between ? NULL : dbias,
    });
    if (between) {
        Qkv qkv = qkv_args(m, pass, l);
        m->k->qkv_backward(m->queue, &(QkvBackward){
            .forward = &qkv,
            .dqkv = m->dqkv,
            .draw = m->dqkv,
            .dalpha_q = gradient(m, PARAM_Q_ALPHA, l),
            .dalpha_k = gradient(m, PARAM_K_ALPHA, l),
            .dalpha_v = gradient(m, PARAM_V_ALPHA, l),
            .dbias = dbias,
        });
    }
    if (m->config->recompute == RECOMPUTE_ACT) junction_again(m, pass, 2 * l);
    linear_backward(m, qkv_ids(m, l), m->dqkv, input_of(m, pass, 2 * l), m->narrow);
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
        .scale = vector(m, PARAM_EMBED_SCALE, -1),
        .x = pass->buffers->embedded,
    };
}

static void run_forward(Model *m, const Pass *pass) {
    update_scalars(m);
    await_layer(m, -1);
    Embedding embedding = embedding_args(m, pass);
    m->k->embedding_forward(m->queue, &embedding);
    junction_forward(m, pass, 0);
    for (int l = 0; l < m->L; l++) {
        await_layer(m, l);
        attention_forward(m, pass, l);
        junction_forward(m, pass, 2 * l + 1);
        mlp_in_forward(m, pass, l);
        linear(m, mlp_out_ids(m, l), tokens_of(pass), pass->buffers->block[l].act,
               output_of(m, pass, 2 * l + 1));
        junction_forward(m, pass, 2 * l + 2);
    }
    await_layer(m, m->L);
    m->head_rows = input_of(m, pass, 2 * m->L);
}

static Pass training_pass(const Model *m, bool keep) {
    return (Pass){.B = m->B, .T = m->T, .buffers = keep ? &m->kept : &m->passing,
                  .position = m->has_documents ? m->position : NULL,
                  .document_start = m->has_documents ? m->document_start : NULL};
}

void model_forward(Model *m, bool keep) {
    Pass pass = training_pass(m, keep);
    run_forward(m, &pass);
}

void model_forward_rows(Model *m, int B, int T) {
    Pass pass = {.B = B, .T = T, .buffers = &m->passing};
    run_forward(m, &pass);
}

void model_observe(Model *m, StageHook *hook, void *context) {
    Pass pass = training_pass(m, false);
    pass.hook = hook;
    pass.context = context;
    run_forward(m, &pass);
}

const Residual *model_stream(const Model *m, int l, const Accum **scale) {
    const JunctionPlan *plan = &m->plan[4 * l];
    *scale = plan->post ? NULL : scale_of(m, plan->gate);
    return m->kept.site[4 * l].stream;
}

/* Rows of what the last pass left for the head. */
static Storage *head_input(const Model *m, int64_t first) {
    size_t row = (size_t)padded(m->C) * dtype_size(m->k->storage);
    return (char *)m->head_rows + (size_t)first * row;
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
            .overwrite = m->grad_is_fresh && first == 0,
        };
        m->k->linear_backward_weight(m->queue, &args);
        m->k->linear_backward_input(m->queue, &args);
    }
    m->k->loss_reduce(m->queue, &(LossReduce){.N = m->N, .losses = m->losses, .state = state});
}

void model_backward(Model *m, LayerHook *hook, void *context) {
    Pass pass = training_pass(m, true);
    if (hook) hook(context, m->L);
    for (int l = m->L - 1; l >= 0; l--) {
        junction_backward(m, &pass, 2 * l + 2);
        recompute(m, &pass, l);
        mlp_backward(m, &pass, l);
        junction_backward(m, &pass, 2 * l + 1);
        attention_backward(m, &pass, l);
        if (hook) hook(context, l);
    }
    junction_backward(m, &pass, 0);
    Embedding forward = embedding_args(m, &pass);
    m->k->embedding_backward(m->queue, &(EmbeddingBackward){
        .forward = &forward,
        .dx = m->dresidual,
        .dtoken_table = gradient(m, PARAM_TOKENS, -1),
        .dposition_table = gradient(m, PARAM_POSITIONS, -1),
        .dscale = gradient(m, PARAM_EMBED_SCALE, -1),
    });
    m->grad_is_fresh = false;
    if (hook) hook(context, -1);
}

/* New tokens [pass.B, pass.T] at time steps length[b] … and logits of `count` of them from `first` on. The buffer of targets is
 * free in generation: it holds the positions. */
static void run_cached(Model *m, Pass pass, const uint32_t *tokens, const uint32_t *length, int64_t first, int64_t count) {
    const Kernels *k = m->k;
    const int64_t N = tokens_of(&pass);
    uint32_t *position = must_malloc((size_t)N * sizeof *position, "positions");
    for (int64_t n = 0; n < N; n++) position[n] = length[n / pass.T] + (uint32_t)(n % pass.T);
    k->copy(m->queue, m->tokens, tokens, (size_t)N * sizeof *tokens, COPY_TO_DEVICE);
    k->copy(m->queue, m->targets, position, (size_t)N * sizeof *position, COPY_TO_DEVICE);
    k->copy(m->queue, m->cache.length, length, (size_t)pass.B * sizeof *length, COPY_TO_DEVICE);
    pass.buffers = &m->passing;
    pass.cache = &m->cache;
    pass.position = m->targets;
    run_forward(m, &pass);
    model_logits(m, first, count);
    k->queue_wait(m->queue);
    free(position);
}

void model_prefill(Model *m, int place, const uint32_t *tokens, int count, uint32_t length) {
    run_cached(m, (Pass){.B = 1, .T = count, .place = place}, tokens, &length, count - 1, 1);
}

void model_decode(Model *m, int B, const uint32_t *tokens, const uint32_t *length) {
    run_cached(m, (Pass){.B = B, .T = 1}, tokens, length, 0, B);
}

void model_feed(Model *m, const uint32_t *tokens, const uint32_t *targets) {
    m->k->copy(m->queue, m->tokens, tokens, (size_t)m->N * sizeof *tokens, COPY_TO_DEVICE);
    m->k->copy(m->queue, m->targets, targets, (size_t)m->N * sizeof *targets, COPY_TO_DEVICE);
    m->has_documents = false;
}

void model_feed_documents(Model *m, const uint32_t *document_start, const uint32_t *position) {
    const size_t bytes = (size_t)m->N * sizeof *position;
    m->k->copy(m->queue, m->document_start, document_start, bytes, COPY_TO_DEVICE);
    m->k->copy(m->queue, m->position, position, bytes, COPY_TO_DEVICE);
    m->has_documents = true;
}

double model_flops_per_token(const Config *config, const Params *params) {
    double matrices = 0;
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        bool head = p->id == PARAM_HEAD || (p->id == PARAM_TOKENS && config->tie_embeddings == SWITCH_ON);
        if (p->kind != PARAM_MATRIX && !head) continue;
        for (int j = 0; j < p->pieces; j++) matrices += (double)p->piece[j].rows * p->cols;
    }
    return 6 * matrices + 6.0 * (double)(config->n_layer * config->n_head * config->head_size * config->seq_len);
}
