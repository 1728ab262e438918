/*
 * model.h: the transformer: which operations run in which order, forward and backward.
 *
 * A model of L blocks has 2L sublayers (attention, MLP, attention, …) and 2L + 1 junctions around them
 * (kernels.h): junction 0 norms the embedding, junction j ≥ 1 adds sublayer j's output to the residual stream
 * and norms for the next one; junction 2L norms for the head.
 *
 *     tokens ─ embedding ─ J0 ─ attention ─ J1 ─ MLP ─ J2 ─ attention ─ … ─ MLP ─ J2L ─ head ─ loss
 *
 * src/settings/variant.c says what each junction computes; nothing here knows a norm or a placement by name.
 *
 * Memory: everything is taken at creation, nothing in the loop. --recompute says what backward computes
 * again: `act` the norms' outputs and the MLP's activation, `block` all of a block from the residual at its
 * start. The kernels promise the same bits both times, so the loss does not change by a bit.
 *
 * GPAS never writes a scaled residual: the scale rides on the stored stream, and each reader applies it.
 */
#ifndef MODEL_H
#define MODEL_H

#include "../../kernels/kernels.h"
#include "../base/arena.h"
#include "../settings/config.h"
#include "params.h"
#include "../settings/variant.h"

/* What one stage of a junction reads and keeps (variant.h: JunctionPlan). */
typedef struct Site {
    Residual *u;        /* [N, C] what it stores; its x itself where it adds nothing */
    Residual *stream;   /* [N, C] the residual that later ones read: u, or the norm's output (post-type) */
    Storage *y;         /* [N, C] the norm's output */
    Residual *y_residual; /* [N, C] the same in the residual's type (post-type); NULL where y serves */
    Storage *f;         /* [N, C] the sublayer's raw output; NULL where the shared `narrow` serves */
    Accum *mean, *rstd, *inner_mean, *inner_rstd, *sdd_rstd; /* [N] */
    Accum *mean_square; /* [N] bhyt */
} Site;

/* What block l keeps. */
typedef struct Block {
    Storage *raw;       /* [N, (H + 2·Hkv)·D] the product, where a norm follows; else qkv itself */
    Storage *qkv;       /* same shape, after norms and RoPE */
    Accum *qkv_rstd;
    Storage *context;   /* [N, H·D] attention's output */
    Storage *normed;    /* the same after SDD's norm, or context itself */
    Accum *context_rstd;
    Accum *lse;         /* [B, H, T] */
    Storage *h;         /* [N, F or 2·padded(F)] before the activation; its gradient in backward */
    Accum *h_rstd;
    Storage *act;       /* [N, F] after it */
} Block;

/* A table of buffers for one way of running: for training each stage and block has its own where backward
 * reads it; validation and generation go through a few of the same. */
typedef struct Buffers {
    Residual *embedded; /* [N, C] */
    Site *site;         /* [2·(2L + 1)], as JunctionPlan */
    Block *block;       /* [L] */
} Buffers;

/* Keys and values of past tokens, for generation: some sequences, each in a place of its own. */
typedef struct Cache {
    int capacity;      /* time steps of each */
    uint32_t *length;  /* [sequences] device */
    Storage **k, **v;  /* [L] of [sequences, capacity, Hkv·D] */
} Cache;

/* Bytes of each part, for --dry-run; filled by model_plan(). */
typedef struct MemoryPlan {
    size_t weights;     /* masters; where they are in halves, a model that is only read has no lower ones, a rank those of its shares */
    size_t gradients, moments;
    size_t activations; /* what forward keeps for backward */
    size_t workspace;   /* gradients of activations, logits, kernels' scratch, tokens, gradients that travel (optim.h) */
} MemoryPlan;

typedef struct Model Model;
struct Model {
    const Kernels *k;
    const Config *config;
    Queue *queue;
    Params params;
    int B, T, L, C, H, Hkv, D, F, V;
    int F_in, QKV;    /* widths of the MLP's and attention's input products */
    int64_t N;        /* B·T */
    int64_t head_chunk;
    bool train;
    bool residual_is_accum;
    size_t scratch_bytes;
    JunctionPlan *plan; /* [2·(2L + 1)] */
    int gates;          /* in the whole model */

    Share *share;     /* [params.buckets] this rank's */
    int64_t owned;    /* elements of all shares */
    bool in_halves;   /* masters of what is read in the storage type (kernels.h, before AdamW); else those are master itself */
    void *master;     /* [elements], in halves [elements − vectors] those of vectors; accumulate type */
    void *storage;    /* [vectors] the upper halves, or [elements] master itself; storage type */
    uint16_t *lower;  /* [owned] the lower halves of this rank's shares, share behind share; training only */
    void *room;       /* some elements of the accumulate type, through which whole masters pass; NULL where they stay whole */
    void *grad;       /* [elements] accumulate type; training only */
    bool grad_is_fresh; /* it holds nothing yet: model_forget_gradients() */

    Buffers kept, passing;
    uint32_t *tokens, *targets; /* [N] device */
    uint32_t *document_start, *position; /* [N] device, per token; NULL without --doc-mask */
    bool has_documents; /* what was fed last came with them */
    Accum *rope;      /* [T, D/2, 2], or NULL */
    Storage *logits;  /* [head_chunk, V] */
    Accum *losses;    /* [N] */
    Storage *head_rows; /* [N, C] what the last pass left for the head */
    Storage *narrow;  /* [N, C] a sublayer's raw output; gradients at norm outputs */
    Storage *dheads;  /* [N, H·D] gradients at what the output product reads: narrow, or one of its own where H·D is not C */
    Storage *wide;    /* [N, max(F, QKV)] gradients at activations and at QKV */
    Storage *dqkv;    /* [N, QKV]: wide, or one of its own where rows of QKV have padding, which must stay zero */
    Residual *dresidual; /* [N, C] */
    Storage *df;      /* [N, C], or NULL where dresidual serves */
    Storage *dcontext; /* [N, H·D] with SDD's norm on the context */
    Accum *dmean_square; /* [N] bhyt */
    Accum *gate_scale, *gate_slope; /* [gates] */
    Accum *bhyt_c;    /* [L]; and its v̂ terms [L, 2] */
    Accum *vhat;
    Cache cache;      /* capacity 0 unless model_open_cache() was called */
    Event **arrived;  /* [params.buckets] a bucket's weights are gathered (optim.h); NULL: they are always there */
    Event *exchanged; /* all that ranks were to gather is; NULL likewise */
    void *memory[4];  /* the allocations */
};

/* What a run of this config takes, without taking it. `train` is false for evaluation and generation. */
void model_plan(const Config *config, const Kernels *k, bool train, MemoryPlan *plan);

/* Takes all memory on an opened device. Weights are zero until model_load(). Exit 1 if memory is short. */
void model_create(Model *model, const Config *config, const Kernels *k, bool train);
void model_destroy(Model *model);

/* Sends an arena of host memory in the accumulate type [params.elements] to the device as weights. */
void model_load(Model *model, const void *host_arena);

/* The same in parts: `count` masters from element `at` on (enqueued: host memory must stay until the queue is waited for). */
void model_put(const Model *model, int64_t at, const void *host, int64_t count);

/* Where element `at` of the whole masters lies: a vector's; any where none are in halves. */
Accum *model_master(const Model *model, int64_t at);

/* Where element 0 of the arenas would lie, were the share's lower halves part of a whole arena; NULL where there are none. */
uint16_t *model_lower(const Model *model, const Share *share);

/* Has the queue wait for all weights, and for whatever else the ranks are at. Before anything but forward and
 * model_refresh(), which wait for each layer's as they come to it, reads weights, and before collectives in the queue. */
void model_await(const Model *model);

/* The same for the host: waits until all that is in the queue, and whatever the ranks are at, is done. Before collectives in
 * another queue. */
void model_settle(const Model *model);

/* Copies B·T tokens and targets to the device (enqueued; host memory must stay until the queue is waited for). Each row is one
 * document, unless model_feed_documents() follows. */
void model_feed(Model *model, const uint32_t *tokens, const uint32_t *targets);

/* With --doc-mask, after model_feed() and likewise: for each token of it the time step at which its document starts, and its
 * position in that. Attention and positions then restart there. */
void model_feed_documents(Model *model, const uint32_t *document_start, const uint32_t *position);

/* BHyT: computes ‖W_O·W_V‖²_F/(T·C) of every layer from the present weights; nothing for other norms. To be called
 * when weights were loaded, and every --bhyt-refresh steps. */
void model_refresh(Model *model);

/* Forward on what was fed, up to the last norm. With `keep`, everything that backward reads is kept. */
void model_forward(Model *model, bool keep);

/* The same on the first B·T tokens that were fed, as B sequences of T: T ≤ config->seq_len, B·T ≤ N. Nothing is kept. */
void model_forward_rows(Model *model, int B, int T);

/* Forward as validation does it, calling hook(context, model, i, args) after each stage i of the plan, with the
 * arguments that its junction had: everything they point to is still there then. For telemetry. */
typedef void StageHook(void *context, const Model *model, int i, const Junction *args);
void model_observe(Model *model, StageHook *hook, void *context);

/* Head and loss of what model_forward() left, in chunks: model->losses [N], and state->loss_sum += their sum. With
 * `gradient` (after keep) the gradient at the last norm's output follows, scaled by state->in.loss_scale. */
void model_head(Model *model, StepState *state, bool gradient);

/* From here on model->grad counts as zero, up to the next model_backward(): what products write is left as it is, since the first
 * of them overwrites it; all else becomes zero. */
void model_forget_gradients(Model *model);

/* Backward of all else: parameter gradients are added to model->grad. After model_head(gradient). Where there is a hook,
 * hook(context, layer) is called when the gradients of this layer, but its vectors', and of all above are complete: for
 * L (the head's), L − 1, …, 0, and −1, when all are. */
typedef void LayerHook(void *context, int layer);
void model_backward(Model *model, LayerHook *hook, void *context);

/* The stream after block l (0: what enters the first one), as stored: [N, C] in the residual's type, after
 * model_forward(keep); *scale is set to the GPAS scale [1] that rides on it, or NULL. */
const Residual *model_stream(const Model *model, int l, const Accum **scale);

/* Logits [count, V] of the last norm's outputs of tokens first … first + count − 1, into model->logits;
 * count ≤ head_chunk. */
void model_logits(Model *model, int64_t first, int64_t count);

/* Generation: makes room for config->seq_len time steps of so many sequences; at most the batch size, and head_chunk. */
void model_open_cache(Model *model, int sequences);
/* Runs `count` new tokens of the sequence at this place at time steps length … against the cache, and leaves the last one's
 * logits in model->logits [1, V]. length + count ≤ cache.capacity. Waits for the queue. */
void model_prefill(Model *model, int place, const uint32_t *tokens, int count, uint32_t length);
/* The same of one new token of each of the first B sequences, sequence b's at time step length[b]: logits [B, V]. */
void model_decode(Model *model, int B, const uint32_t *tokens, const uint32_t *length);

/* Multiply-add operations × 2 of one token, forward and backward: 6 · (matrix elements that a token meets) +
 * 6·L·H·D·T (causal attention: scores and values, half of them masked). The formula that MFU is quoted with. */
double model_flops_per_token(const Config *config, const Params *params);

#endif
