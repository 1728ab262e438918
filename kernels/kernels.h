/*
 * kernels.h: the contract between the model and the machine.
 *
 * Everything that touches a tensor is an operation declared here, once, with its shapes, types and meaning.
 * struct Kernels is one implementation of all of them: a device, its types, its memory, queues and events, and
 * one function pointer an operation. Its values: cpu/f32, cpu/f64, cpu/bf16, cuda/f32, cuda/bf16, and, for tests, the
 * two CUDA ones on the host emulation. The model calls nothing else; test/test_ops holds every implementation to
 * what is written here.
 *
 * HOW TO READ THE DECLARATIONS
 *
 *   An operation takes the queue, then one pointer to a struct of named arguments (read before it returns):
 *       k->junction_forward(queue, &(Junction){.N = B * T, .C = C, .x = x, .f = f, …});
 *   It enqueues work and returns; it never synchronises and never allocates. All pointers are device memory of
 *   this implementation, 256-byte aligned at the start of a tensor, unless a comment says host. NULL is allowed
 *   only where the comment says "or NULL". What an operation cannot do (a shape, a flag) it says through
 *   fail(); a valid call does not fail.
 *
 *   Letters: B sequences, T time steps, N = B·T tokens, C channels (model width), H query heads, Hkv key-value
 *   heads (H a multiple of it), D head size (a multiple of 8 up to 256; 1 to 256 on the CPU), F width of the
 *   MLP, V vocabulary.
 *
 * TYPES (pointer types below; each is void, the name says what lies there)
 *
 *   Storage    matrices, biases, activations:                            fp32 | bf16 | fp64 in cpu/f64
 *   Accum      vectors and scalars of norms and variants (γ, β, α, λ, gates), row statistics, per-token losses,
 *              gradients of parameters, optimizer moments, master weights: fp32      | fp64 in cpu/f64
 *   Residual   the residual stream and its gradient: Storage, or Accum where the argument residual_is_accum is 1
 *   All sums over a row, a column or a tile are taken in Accum at least.
 *
 * ROWS ARE PADDED
 *
 *   A matrix or activation with rows of n elements is stored with leading dimension padded(n), n rounded up to
 *   64; a weight [out, in] has padded(out) rows of padded(in); a vector of n has padded(n) elements. Padding is
 *   zero and stays zero: an operation that is given zeros there leaves zeros there. Means use the true n. Fused
 *   rows: Q, K and V stand side by side without inner padding, [H·D | Hkv·D | Hkv·D]; SwiGLU's gate and up are
 *   padded each, [gate, padded(F) | up, padded(F)]. Scalars and row statistics are not padded.
 *
 * GRADIENTS
 *
 *   Gradients of activations are overwritten, gradients of parameters (marked +=) are added to. The order of
 *   every sum is fixed by the shapes alone (GEMMs: by shapes, library, and threads): no floating-point atomics.
 *   What backward may recompute (forward called again on the same arguments) gives the same bits as before.
 *
 * SCRATCH
 *
 *   A queue owns one scratch area, which the operation that runs on it may use. scratch_bytes() tells, for the
 *   largest shapes of a run, how much any operation needs; it is a pure function of them and, on the CPU, of the
 *   OpenMP thread count, so --dry-run can call it. A CPU queue holds for the thread count at its creation:
 *   attention never takes more threads than it has room for, the others count on no more being there.
 *
 * Compiles as C11 and as C++17.
 */
#ifndef KERNELS_H
#define KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void Storage;
typedef void Accum;
typedef void Residual;

typedef enum DType { DTYPE_F32, DTYPE_F64, DTYPE_BF16, DTYPE_COUNT } DType;

static inline size_t dtype_size(DType type) { return type == DTYPE_F64 ? 8 : type == DTYPE_BF16 ? 2 : 4; }

/* Leading dimension of rows of n elements. */
static inline int64_t padded(int64_t n) { return (n + 63) / 64 * 64; }

/* --------------------------------------------------------------------------------------------------------
 * Device, memory, queues
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Queue Queue; /* work in order, and its scratch (a CUDA stream; on the CPU: at once) */
typedef struct Event Event; /* a point in a queue that another queue, or the host, can wait for */
typedef struct Graph Graph; /* a captured piece of a queue's work */

/* Where an event is seen. An internal one is recorded and waited for in one capture, where it is a fork or a join of queues, or
 * outside of all. An external one belongs to no capture: one that is captured is recorded, or waited for, by each launch of
 * the graph; it orders a graph with other queues while both run. */
typedef enum EventScope { EVENT_INTERNAL, EVENT_EXTERNAL } EventScope;

typedef enum CopyKind { COPY_TO_DEVICE, COPY_TO_HOST, COPY_ON_DEVICE } CopyKind;

typedef struct DeviceInfo {
    char name[128];        /* "NVIDIA H200", or the processor's name */
    uint64_t memory_total; /* bytes */
    uint64_t memory_free;  /* bytes, now */
    int units;             /* multiprocessors, or OpenMP threads */
    int devices;           /* of this kind, that this process sees; 0: as many as one likes */
    double peak_flops;     /* dense FLOP/s of GEMMs in the storage type by the data sheet; 0: not known */
} DeviceInfo;

/* The largest shapes that any call of a run will have (training, validation, generation). */
typedef struct Limits {
    int64_t N;               /* tokens a call */
    int B, T;                /* sequences a call, longest sequence */
    int C, H, Hkv, D, F, V;  /* as above; F counts gate and up together for SwiGLU: 2·padded(F) */
    int64_t head_chunk;      /* tokens a cross_entropy call */
    int64_t parameters;      /* elements in an arena, padding included */
    int slots;               /* ParamSlot entries */
    bool residual_is_accum;
} Limits;

/* --------------------------------------------------------------------------------------------------------
 * Norms (MATH.md §1)
 * ------------------------------------------------------------------------------------------------------ */

typedef enum NormKind {
    NORM_NONE,      /* y = r */
    NORM_LAYERNORM, /* γ ⊙ (r−μ)/√(var+ε) + β */
    NORM_RMSNORM,   /* γ ⊙ r/√(mean(r²)+ε) */
    NORM_DYT,       /* γ ⊙ tanh(α·r) + β, α = *scalar */
    NORM_BHYT,      /* γ ⊙ tanh(λ·r/(κ·√(v+ε))), λ = *scalar; v = mean(r²), or v̂ where Junction gives it */
    NORM_DERF,      /* γ ⊙ erf(α·r + s) + β, α = scalar[0], s = scalar[1] (arXiv 2512.10938, eq. 10) */
    NORM_KIND_COUNT
} NormKind;

/* One norm: its constants, parameters, and what it keeps for backward. All zero is "no norm". */
typedef struct Norm {
    NormKind kind;
    double eps;
    double kappa;         /* BHYT */
    double output_scale;  /* the whole output times this constant (lns: 1/√l); 0 is read as 1 */
    const Accum *gamma;   /* [C], or NULL for ones */
    const Accum *beta;    /* [C], or NULL for zeros; LAYERNORM, DYT and DERF */
    const Accum *scalar;  /* [1] DYT's α, BHYT's λ; [2] DERF's α and s */
    Accum *mean;          /* [N] kept: LAYERNORM's μ of r */
    Accum *rstd;          /* [N] kept: LAYERNORM 1/√(var+ε), RMSNORM and BHYT 1/√(v+ε), of r */
} Norm;

typedef struct NormGradient {
    Accum *dgamma;  /* [C] +=, or NULL */
    Accum *dbeta;   /* [C] +=, or NULL */
    Accum *dscalar; /* as scalar, +=, or NULL */
} NormGradient;

/* --------------------------------------------------------------------------------------------------------
 * The residual junction (MATH.md §5)
 *
 *     f̃ = inner(sdd(f + bias))
 *     u = alpha·s_in·s_ride·x + f̃ stored
 *     r = s_out·u                  never stored
 *     y = norm(r)                  the next sublayer's input; post-type: the new residual too
 *
 * Statistics and y are those of u as stored, that is, after rounding to the Residual type, so that a second
 * call with f = NULL and x = u gives the same y (recompute). The scales may be zero or negative.
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Junction {
    int64_t N;
    int C;
    bool residual_is_accum;  /* type of x, u, y_residual (and of the gradients dresidual_*) */
    bool post;               /* post-type: the gate's scale is s_in (shortcut only), and y is the new residual */

    const Residual *x;       /* [N,C] the stored residual */
    const Accum *s_in;       /* [1] scale that rides on x, or NULL for 1; post-type: this junction's gate's */
    const Accum *s_ride;     /* [1] post-type with a gate: the scale that rides on x, or NULL for 1 */
    double alpha;            /* DeepNorm's constant; 0 is read as 1 */
    const Storage *f;        /* [N,C] the sublayer's raw output, or NULL: u = x, s_in and s_ride must be NULL, alpha 1 */
    const Storage *bias;     /* [C] added to f, or NULL */
    Norm sdd;                /* RMSNORM with γ = SDD's α, or NONE */
    Norm inner;              /* sandwich's second norm, or NONE */
    const Accum *s_out;      /* [1] GPAS after the addition (pre-type), or NULL for 1 */
    Residual *u;             /* [N,C] out; may be x itself; NULL where f is NULL (it would be a copy of x) */

    Norm norm;
    const Accum *mean_square_in; /* [N] v of an earlier junction: BHYT takes v̂ = vhat[0]·v + vhat[1] and no
                                    statistic of its own; or NULL */
    const Accum *vhat;           /* [2] with mean_square_in */
    Accum *mean_square_out;      /* [N] mean(r²) for a later junction and for telemetry, or NULL */
    Storage *y;                  /* [N,C] out, or NULL when only y_residual is wanted */
    Residual *y_residual;        /* [N,C] out, post-type with residual_is_accum in a narrower Storage; or NULL */
} Junction;

/*
 * Backward. With g_y = dy (+ dresidual_in if post):
 *   pre-type:   dr = norm'(g_y) + dresidual_in (+ dmean_square_in·2r/C);  du = dr;  dgate += −slope·Σ dr⊙u
 *   post-type:  du = norm'(g_y) (+ dmean_square_in·2u/C);                 dgate += −slope·alpha·s_ride·Σ du⊙x
 * dresidual_out = alpha·du in both: a GPAS scale passes the gradient unchanged, the constant alpha multiplies it.
 * norm' uses r = s_out·u. df = sdd'(inner'(du)); dbias = column sums of df as it is before it is rounded to Storage.
 * With f = NULL, x stands for u.
 */
typedef struct JunctionBackward {
    const Junction *forward; /* the arguments of the forward call, tensors and kept statistics still there;
                                y is not read; x only by post-type with dgate; f only by inner norms */
    const Storage *dy;               /* [N,C] gradient at y, or NULL for none */
    const Residual *dresidual_in;    /* [N,C] gradient of the stream after this junction, or NULL for none */
    Residual *dresidual_out;         /* [N,C] gradient of the stream before it; may be dresidual_in itself */
    Storage *df;                     /* [N,C] gradient at f, or NULL where it equals dresidual_out bit for bit
                                        (same type, no inner norm, alpha 1), which is then read in its place */
    Accum *dbias;                    /* [C] +=, or NULL */
    NormGradient norm, sdd, inner;   /* sdd.dgamma is dα */
    const Accum *gate_slope;         /* [1] act'(g), with dgate */
    Accum *dgate;                    /* [1] +=, or NULL */
    const Accum *dmean_square_in;    /* [N] gradient at mean_square_out, or NULL */
    Accum *dmean_square_out;         /* [N] gradient at mean_square_in (overwritten), or NULL */
} JunctionBackward;

/* GPAS scales at the start of a step: scale[i] = 1 − act(gate[i]), slope[i] = act'(gate[i])  (MATH.md §3). */
typedef enum GpasActivation { GPAS_SILU, GPAS_IDENTITY, GPAS_RELU, GPAS_TANH, GPAS_LEAKY_RELU } GpasActivation;
typedef struct GpasScales {
    int n;
    GpasActivation activation;
    const Accum *gate; /* [n] */
    Accum *scale;      /* [n] out */
    Accum *slope;      /* [n] out */
} GpasScales;

/* BHyT's constant of one layer: *out = ‖W_O·W_V‖²_F / (T·C), W_V's rows repeated for grouped queries (§1.2). */
typedef struct ProductNorm {
    int C, H, Hkv, D, T;
    const Storage *w_o;   /* [C, H·D] */
    const Storage *w_qkv; /* [(H+2·Hkv)·D, C]; W_V is its last Hkv·D rows */
    Accum *out;           /* [1] */
} ProductNorm;

/* BHyT's v̂ = vhat[0]·v + vhat[1] of one layer (§1.2): vhat[0] = s²; vhat[1] = s²·factor·e, where
 * e = mean(alpha_o²) if alpha_o, else c·λ₁²/κ²·(mean(gamma²) if gamma, else 1). No gradient. */
typedef struct BhytTerms {
    int C;
    double kappa, factor;  /* factor: 1/l for lns with the fixed scale, else 1 */
    const Accum *c;        /* [1] from ProductNorm */
    const Accum *lambda;   /* [1] λ of the block's first norm */
    const Accum *gamma;    /* [C] γ of the block's first norm, or NULL */
    const Accum *alpha_o;  /* [C] SDD's α of O, or NULL */
    const Accum *s;        /* [1] GPAS scale after attention, or NULL for 1 */
    Accum *vhat;           /* [2] out */
} BhytTerms;

/* --------------------------------------------------------------------------------------------------------
 * Embedding: x[n] = scale·token_table[tokens[n]] + position_table[position of n]
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Embedding {
    int B, T, C, V;
    bool residual_is_accum;
    const uint32_t *tokens;      /* [N], each < V */
    const uint32_t *position;    /* [N] position of each token in its document, or NULL: its time step */
    const Storage *token_table;  /* [V,C] */
    const Storage *position_table; /* [positions,C], or NULL */
    const Accum *scale;          /* [1] DyT's learned scale on the token's row, or NULL for 1 */
    Residual *x;                 /* [N,C] out */
} Embedding;

typedef struct EmbeddingBackward {
    const Embedding *forward;
    const Residual *dx;     /* [N,C] */
    Accum *dtoken_table;    /* [V,C] += */
    Accum *dposition_table; /* [positions,C] +=, or NULL */
    Accum *dscale;          /* [1] +=, or NULL */
} EmbeddingBackward;

/* --------------------------------------------------------------------------------------------------------
 * Linear: y = x·Wᵀ + bias. Bias gradients are column sums taken by whoever writes dy: junction_backward,
 * qkv_backward, attention_backward where nothing lies between it and the product, activation_backward.
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Linear {
    int64_t N;
    int in, out;
    const Storage *x;    /* [N,in] */
    const Storage *w;    /* [out,in] */
    const Storage *bias; /* [out], or NULL */
    Storage *y;          /* [N,out] */
} Linear;

typedef struct LinearBackward {
    int64_t N;
    int in, out;
    const Storage *dy; /* [N,out] */
    const Storage *x;  /* [N,in]   backward_weight */
    const Storage *w;  /* [out,in] backward_input */
    Storage *dx;       /* [N,in]   backward_input: dx = dy·W, overwritten */
    Accum *dw;         /* [out,in] backward_weight: dW += dyᵀ·x */
    bool overwrite;    /* backward_weight: dW = dyᵀ·x, whatever lies there; padding, which is zero, stays so. N ≥ 1 then */
} LinearBackward;

/* --------------------------------------------------------------------------------------------------------
 * Q, K and V between the product and attention: QK-norm (SDD's, MATH.md §4, or by itself, §9), then RoPE (§6).
 * A model with neither skips the forward call; backward then still sums the bias gradient.
 * ------------------------------------------------------------------------------------------------------ */

typedef enum QkvNorm {
    QKV_NORM_NONE,
    QKV_NORM_HEAD,       /* rms over each head, α of D shared by the heads */
    QKV_NORM_PROJECTION, /* rms over the whole of q, of k, of v; α of H·D, Hkv·D, Hkv·D */
} QkvNorm;

typedef struct Qkv {
    int B, T, H, Hkv, D;
    const Storage *raw;       /* [N, (H+2·Hkv)·D] */
    Storage *qkv;             /* same shape, out; may be raw itself where norm is NONE */
    QkvNorm norm;
    double eps;
    const Accum *alpha_q, *alpha_k; /* with norm */
    const Accum *alpha_v;     /* with norm, or NULL: v is copied */
    Accum *rstd;              /* kept with norm: HEAD [N, H+2·Hkv], PROJECTION [N, 3] */
    const Accum *rope;        /* [positions, D/2, 2] cos and sin, not padded, or NULL; half-split rotation */
    const uint32_t *position; /* [N], or NULL: the time step */
} Qkv;

typedef struct QkvBackward {
    const Qkv *forward;       /* raw is read only with norm */
    const Storage *dqkv;      /* [N, (H+2·Hkv)·D] */
    Storage *draw;            /* same shape, out; may be dqkv itself */
    Accum *dalpha_q, *dalpha_k, *dalpha_v; /* +=, with norm (dalpha_v or NULL) */
    Accum *dbias;             /* [(H+2·Hkv)·D] += column sums of draw before its rounding to Storage, or NULL */
} QkvBackward;

/* --------------------------------------------------------------------------------------------------------
 * Attention: causal, grouped-query, scale 1/√D. Query head j reads key-value head ⌊j·Hkv/H⌋. Token t of a
 * sequence sees tokens max(0, doc_start[t]) … t. Only the log-sum-exp of each row is kept.
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Attention {
    int B, T, H, Hkv, D;
    const Storage *qkv;        /* [N, (H+2·Hkv)·D] */
    const uint32_t *doc_start; /* [B,T] time step at which the token's document starts, or NULL for 0 */
    Storage *out;              /* [N, H·D] out (backward: in) */
    Accum *lse;                /* [B,H,T] natural log-sum-exp of the scaled scores, out (backward: in) */
} Attention;

typedef struct AttentionBackward {
    const Attention *forward;
    const Storage *dout; /* [N, H·D] */
    Storage *dqkv;       /* [N, (H+2·Hkv)·D] out */
    Accum *dbias;        /* [(H+2·Hkv)·D] += column sums of dqkv, before or after its rounding to Storage; or NULL */
} AttentionBackward;

/* Generation: T new tokens of each of B sequences, at time steps length … length+T−1. Writes their keys and
 * values into the cache, then attends over it. T = the prompt fills the cache, T = 1 decodes. */
typedef struct AttentionDecode {
    int B, T, H, Hkv, D;
    int capacity;           /* time steps that the cache holds; length + T ≤ capacity */
    const uint32_t *length; /* [B] time steps in the cache before this call */
    const Storage *qkv;     /* [B·T, (H+2·Hkv)·D], positions applied */
    Storage *k_cache;       /* [B, capacity, Hkv·D], rows of padded(Hkv·D) */
    Storage *v_cache;
    Storage *out;           /* [B·T, H·D] out */
} AttentionDecode;

/* --------------------------------------------------------------------------------------------------------
 * Activation of the MLP: GELU (tanh approximation) y = gelu(h), SwiGLU y = silu(gate) ⊙ up (MATH.md §6), or GELU as it
 * is defined, y = h·Φ(h) with the normal distribution's Φ(h) = ½·erfc(−h/√2) (arXiv 1606.08415);
 * with SDD (§4) the rows are α ⊙ rms(·) first: EACH, gate and up (or h) each over its own F; JOINT, gate and
 * up as one row of 2F.
 * ------------------------------------------------------------------------------------------------------ */

typedef enum ActivationKind { ACTIVATION_GELU, ACTIVATION_SWIGLU, ACTIVATION_GELU_EXACT } ActivationKind;
typedef enum ActivationNorm { ACTIVATION_NORM_NONE, ACTIVATION_NORM_EACH, ACTIVATION_NORM_JOINT } ActivationNorm;

typedef struct Activation {
    int64_t N;
    int F;
    ActivationKind kind;
    const Storage *h;    /* GELUs [N,F]; SwiGLU [N, 2·padded(F)] */
    Storage *y;          /* [N,F] out */
    ActivationNorm norm;
    double eps;
    const Accum *alpha;  /* laid out as a row of h, with norm */
    Accum *rstd;         /* kept with norm: [N,1] GELUs or JOINT, [N,2] SwiGLU EACH */
} Activation;

typedef struct ActivationBackward {
    const Activation *forward; /* h is read, y is not */
    const Storage *dy;         /* [N,F] */
    Storage *dh;               /* as h, out; may be h itself */
    Accum *dalpha;             /* as alpha, +=, with norm */
    Accum *dbias;              /* as a row of h, += column sums of dh before its rounding to Storage, or NULL */
} ActivationBackward;

/* --------------------------------------------------------------------------------------------------------
 * Cross-entropy on one chunk of tokens, in place: logits become their gradient.
 * losses[n] = lse − logit[target]; gradient = scale·(softmax − onehot + 2·z_loss·lse·softmax).
 * An ignored target (TARGET_IGNORED) gives loss 0 and a zero gradient row.
 * ------------------------------------------------------------------------------------------------------ */

#define TARGET_IGNORED UINT32_MAX

typedef struct StepState StepState;

typedef struct CrossEntropy {
    int64_t N;               /* tokens in this chunk */
    int V;
    Storage *logits;         /* [N,V] in; out: the gradient, if gradient is set, else untouched */
    const uint32_t *targets; /* [N], each < V or TARGET_IGNORED */
    Accum *losses;           /* [N] out: nats, without the z-loss term */
    double z_loss;           /* coefficient of lse² a token; 0 is off */
    bool gradient;
    const StepState *state;  /* with gradient: scale = state->in.loss_scale */
} CrossEntropy;

/* --------------------------------------------------------------------------------------------------------
 * The step: what changes from one step to the next lives on the device, so that a step can be captured once
 * and never stalls to ask. The host copies a StepInputs to the start of the StepState, and reads the rest.
 * ------------------------------------------------------------------------------------------------------ */

enum { CLIP_GROUPS = 2, SKIP_WINDOW = 128 };
enum { CLIP_ALL = 0, CLIP_GATES = 1 }; /* slot.clip_group: gates are in the global norm too, and have their own */

typedef enum SkipReason { SKIP_NONE, SKIP_NON_FINITE, SKIP_LOSS_SPIKE, SKIP_NORM_SPIKE } SkipReason;

typedef struct StepInputs {
    double lr;         /* learning rate of this step */
    double loss_scale; /* 1 / (targets that count in the global batch) */
    uint64_t step;     /* counted from 0 */
    double stop;       /* 1: this rank's host wants the run to end; Σ over the ranks after the reduction */
} StepInputs;

struct StepState {
    StepInputs in;                  /* written by the host before the step */
    /* in.stop, loss_sum and sum_squares stand together: ranks reduce them in one. */
    double loss_sum;                /* Σ losses over this step's micro-steps (and ranks, after the reduction) */
    double sum_squares[CLIP_GROUPS];/* of the gradient: all parameters, gates only */
    double grad_norm;               /* before clipping */
    double gate_norm;               /* after the global clip, before the gates' own */
    double clip_scale[CLIP_GROUPS]; /* factor on gradients of slots of each clip group */
    double bias_correction[2];      /* 1 − β₁ᵗ, 1 − β₂ᵗ with t = applied */
    uint64_t applied;               /* updates that reached the weights */
    uint64_t non_finite;            /* elements that this step's update left with a number that is none */
    uint32_t skip;                  /* SkipReason of this step; the update changes nothing when it is not SKIP_NONE */
    uint32_t skips_in_a_row;        /* non-finite steps since the last finite one */
    uint32_t window_count;          /* entries that the window holds, ≤ SKIP_WINDOW */
    uint32_t window_next;           /* next entry to overwrite */
    double loss_window[SKIP_WINDOW];/* mean losses and gradient norms of applied steps: finite values only */
    double norm_window[SKIP_WINDOW];
};

/* Zeroes loss_sum, sum_squares and non_finite. */
typedef struct StepBegin {
    StepState *state;
} StepBegin;

/* state->loss_sum += Σ losses[n], in fixed order. */
typedef struct LossReduce {
    int64_t N;
    const Accum *losses;
    StepState *state;
} LossReduce;

/* One parameter in the arenas. All arenas (weights, their lower halves, gradients, first moments) use the same offsets. */
typedef enum OptimizerKind { OPTIMIZER_ADAMW, OPTIMIZER_MUON } OptimizerKind;
typedef struct ParamSlot {
    int64_t offset, count; /* elements, padding included; multiples of 128, slots in order, no holes */
    int rows, cols;        /* true 2-D shape [out,in]; a vector has rows 1 */
    int optimizer;         /* OptimizerKind */
    int clip_group;        /* CLIP_… */
    double weight_decay;   /* decoupled; 0 where this parameter has none */
    double lr_scale;       /* factor on the learning rate */
} ParamSlot;

/* state->sum_squares[g] += Σ grad², over fixed chunks; [CLIP_ALL] takes every slot, [CLIP_GATES] gates only. Squares of
 * floats neither overflow nor vanish: as long as every gradient is finite, the sum is, and clipping works. */
typedef struct SumSquares {
    const Accum *grad;      /* the arena */
    int64_t begin, end;     /* elements of it: this rank's share, multiples of 64 */
    const ParamSlot *slots; /* [n_slots], device */
    int n_slots;
    StepState *state;
} SumSquares;

/* From loss_sum and sum_squares: norms, clip scales, the skip decision, the window, bias corrections.
 * Non-finite loss or norm: skip. skip_sigma > 0 and a full window: skip if loss or norm is more than
 * skip_sigma standard deviations above its window's mean. A skipped step enters no window. skips_in_a_row grows
 * with a non-finite step, and is 0 after a finite one, be it applied or skipped as a spike: it counts towards a
 * model that has lost its numbers. */
typedef struct StepDecide {
    StepState *state;
    double beta1, beta2;
    double grad_clip;  /* factor min(1, grad_clip / (norm + clip_eps)); 0: none */
    double gate_clip;  /* the same of the gates' norm after that; 0: none */
    double clip_eps;   /* ≥ 0; PyTorch's clip_grad_norm_ has 1e-6 */
    double skip_sigma; /* 0: non-finite only */
} StepDecide;

/* Where Storage is bf16, masters of what products read are held in two halves, 4 bytes in all: storage[i], which is the master
 * rounded, and lower[i], the last 16 bits of its pattern. The master's pattern is
 *   storage[i]·2¹⁶ + lower[i], taken as a signed number, modulo 2³²
 * and nothing is lost. Rounded is to nearest, and a tie away from zero: to even, two masters would have the same halves. NaN stays
 * NaN. (D. Kalamkar et al., arXiv 2005.04680, §VII: there the upper half is cut off, not rounded.) Where Storage is Accum, and
 * for vectors, which are read in Accum, master holds them whole. */

/* AdamW, decoupled and bias-corrected, over a range of the arenas, whose slots are all its own; a no-op if state->skip:
 *   g = clip·grad;  m = β₁m + (1−β₁)g;  v = β₂v + (1−β₂)g²
 *   w −= lr·lr_scale·( (m/bc₁)/(√(v/bc₂)+ε) + weight_decay·w )
 * state->non_finite += elements whose w, m, v or upper half is no finite number afterwards. (A v that has overflowed
 * would show nowhere else: its updates are 0, for ever.) */
typedef struct AdamW {
    Accum *master;          /* NULL where they are in halves */
    Storage *storage;       /* NULL where they are whole, as lower */
    uint16_t *lower;
    const Accum *grad;
    Accum *m, *v;
    int64_t begin, end;     /* elements, multiples of 64 */
    const ParamSlot *slots; /* [n_slots], device */
    int n_slots;
    StepState *state;
    double beta1, beta2, eps;
} AdamW;

/* --------------------------------------------------------------------------------------------------------
 * Muon (MATH.md §10; K. Jordan et al., "Muon", 2024; J. Liu et al., arXiv 2502.16982) in four operations around the
 * products of Linear: the momentum of a range, a matrix into and out of Newton–Schulz, its polynomial's sums, the update.
 * ------------------------------------------------------------------------------------------------------ */

/* Nesterov's momentum over a range of the arenas, in Muon's slots; a no-op if state->skip:
 *   g = clip·grad;  m += (1−μ)(g − m);  out = g + μ(m − g)
 * out = 0 in the range's other slots. state->non_finite += elements whose m is no finite number afterwards. */
typedef struct MuonMomentum {
    const Accum *grad;
    Accum *m;
    Accum *out;             /* laid out as the arenas are */
    int64_t begin, end;     /* elements, multiples of 64 */
    const ParamSlot *slots; /* [n_slots], device */
    int n_slots;
    StepState *state;
    double momentum;        /* μ */
} MuonMomentum;

/* dst = factor·src, or factor·srcᵀ, with factor = scale, or scale / max(√*sum_squares, eps). */
typedef struct ScaledCopy {
    int rows, cols;            /* of src */
    bool transpose;
    bool narrow;               /* src is Accum and dst Storage; else the other way */
    const void *src;           /* [rows,cols] */
    void *dst;                 /* [rows,cols], or [cols,rows] */
    double scale;
    const double *sum_squares; /* [1], or NULL */
    double eps;
} ScaledCopy;

/* y = a·x + b·y */
typedef struct Axpby {
    int64_t n; /* elements, a multiple of 64 */
    double a, b;
    const Storage *x;
    Storage *y;
} Axpby;

/* The decoupled update by directions that are there, over a range of the arenas, in Muon's slots; a no-op if state->skip:
 *   w −= lr·lr_scale·(direction + weight_decay·w)
 * state->non_finite += elements whose w or upper half is no finite number afterwards. */
typedef struct MuonUpdate {
    Accum *master;          /* as in AdamW */
    Storage *storage;
    uint16_t *lower;
    const Accum *direction; /* laid out as the arenas are */
    int64_t begin, end;     /* elements, multiples of 64 */
    const ParamSlot *slots; /* [n_slots], device */
    int n_slots;
    StepState *state;
} MuonUpdate;

/* --------------------------------------------------------------------------------------------------------
 * Telemetry, conversion, comparison
 * ------------------------------------------------------------------------------------------------------ */

enum { STAT_SUM_SQUARES, STAT_MAX_ABS, STAT_DOT, STAT_OTHER_SUM_SQUARES, STAT_SATURATED, STAT_COUNT };

/* out[STAT_…] over all N·C of s·a (and of b): Σ(sa)², max|sa|, Σ sa·b, Σ b², and how many
 * |tanh(gain·row_gain[n]·s·a)| > 0.99, or, with a shift, |erf(gain·s·a + shift)| > 0.99. Overwrites out. */
typedef struct TensorStats {
    int64_t N;
    int C;
    DType type;            /* of a and b */
    const void *a;         /* [N,C] */
    const Accum *s;        /* [1], or NULL for 1 */
    const void *b;         /* [N,C], or NULL: DOT and OTHER_SUM_SQUARES are 0 */
    const Accum *gain;     /* [1], or NULL: SATURATED is 0 */
    double gain_factor;    /* constant times *gain (BHyT: 1/κ; DyT, DERF: 1) */
    const Accum *shift;    /* [1] DERF's s, or NULL: the squash is a tanh */
    const Accum *row_gain; /* [N] (BHyT: rstd), or NULL for 1 */
    double *out;           /* [STAT_COUNT] */
} TensorStats;

/* dst[i] = src[i], rounded to nearest even. */
typedef struct Cast {
    int64_t n;
    DType from, to;
    const void *src;
    void *dst;
} Cast;

/* Masters of what products read, from whole ones into how they are held, or back: storage[i] and lower[i] of master[i] or, with
 * join, master[i] of them. Where Storage is Accum both are the same numbers, and there is no lower. */
typedef struct Halves {
    int64_t n;
    bool join;
    Accum *master;
    Storage *storage;
    uint16_t *lower; /* NULL: storage alone is wanted */
} Halves;

/* *out = Σ of mix(i, words[i]) modulo 2^64, where mix is a bijection: the same on every device, in any order; two tensors of
 * which one word differs never have the same. */
typedef struct Hash {
    int64_t n;         /* words of 32 bits, fewer than 2^32 */
    const void *words; /* aligned to a word */
    uint64_t *out;     /* [1], overwritten */
} Hash;

/* Collectives over the ranks of a run, in place on device memory; NULL where the build has none. All ranks call the same
 * operations with the same types and counts in the same order, on queues that events keep in that order. Sums are in a
 * fixed order; every rank gets the same bits.
 *   all_reduce_sum      every element becomes its sum over the ranks
 *   reduce_scatter_sum  the same for piece `rank` of the buffer, count / ranks elements; the other pieces keep their bits
 *   all_gather          every piece becomes that of the rank with its number
 *   broadcast           the buffer becomes rank 0's */
typedef struct Collective {
    DType type;
    int64_t count; /* elements of the whole buffer; a multiple of the number of ranks for scatter and gather */
    void *buffer;  /* aligned to an element: it may lie inside a struct, such as StepState */
} Collective;

/* How a rank joins the others. */
typedef struct CollectiveSetup {
    int rank, ranks;
    const void *unique_id; /* rank 0's; or each rank's own, all of one address (collective_unique_id()) */
    double timeout_s;      /* of every wait for other ranks, from here on */
    const char *meets_at;  /* for messages: where the ranks meet, "node0:29501"; NULL: where they know */
    const int64_t *step;   /* for messages: finished steps, at any time until close(); NULL: there are none */
} CollectiveSetup;

/* --------------------------------------------------------------------------------------------------------
 * One implementation
 * ------------------------------------------------------------------------------------------------------ */

typedef struct Kernels {
    const char *name;    /* "cpu/f32" */
    const char *device;  /* "cpu" or "cuda" */
    DType storage, accum;

    /* Takes a device for this process. false, with one line in text[size], where there is none or it cannot
     * serve (driver, architecture): the caller decides whether that is an error. true: the line may name what of it is used. */
    bool (*open)(int index, char *text, size_t size);
    void (*close)(void);
    void (*describe)(DeviceInfo *info);
    size_t (*scratch_bytes)(const Limits *limits);

    void *(*alloc)(size_t bytes);      /* zeroed, 256-byte aligned; NULL where there is not enough */
    void (*release)(void *memory);
    void *(*host_alloc)(size_t bytes); /* host memory that copies can run from asynchronously; NULL likewise */
    void (*host_release)(void *memory);

    Queue *(*queue_create)(size_t scratch_bytes); /* NULL where there is not enough memory */
    void (*queue_destroy)(Queue *queue);
    void (*queue_wait)(Queue *queue);             /* the host waits until all work in it is done */
    void (*copy)(Queue *queue, void *dst, const void *src, size_t bytes, CopyKind kind);
    void (*zero)(Queue *queue, void *dst, size_t bytes);

    Event *(*event_create)(EventScope scope);
    void (*event_destroy)(Event *event);
    void (*event_record)(Queue *queue, Event *event);
    /* Work put into queue from now on waits for the event as it was recorded last (a launch records, and waits, when it is
     * called), and for nothing where it never was. */
    void (*event_wait)(Queue *queue, Event *event);
    void (*event_host_wait)(Event *event);
    double (*event_elapsed)(Event *from, Event *to); /* seconds between two recorded events that are done */

    /* Capture: work put into the queue is recorded, not run. NULL where the device has no graphs. Another queue joins when it
     * waits for an internal event of the capture; the queue must have waited for all that was put into the other before the
     * capture ends, and leaves it then. A launch is work of the one queue, all of it: what follows there waits for the other
     * queues' part as well; those queues themselves know nothing of it. */
    void (*capture_begin)(Queue *queue);
    Graph *(*capture_end)(Queue *queue);
    void (*graph_launch)(Queue *queue, Graph *graph);
    void (*graph_destroy)(Graph *graph);

    /* The choice of GEMM algorithms, as JSON (GPU and library version inside): measured where tune is set,
     * loaded from a checkpoint, saved into it (malloc'd; the caller frees). NULL where there is no choice. */
    void (*gemm_tune)(bool tune);
    bool (*gemm_choices_load)(const char *json, char *text, size_t size);
    char *(*gemm_choices_save)(void);

    /* Operations. */
    void (*embedding_forward)(Queue *, const Embedding *);
    void (*embedding_backward)(Queue *, const EmbeddingBackward *);
    void (*linear_forward)(Queue *, const Linear *);
    void (*linear_backward_input)(Queue *, const LinearBackward *);
    void (*linear_backward_weight)(Queue *, const LinearBackward *);
    void (*qkv_forward)(Queue *, const Qkv *);
    void (*qkv_backward)(Queue *, const QkvBackward *);
    void (*attention_forward)(Queue *, const Attention *);
    void (*attention_backward)(Queue *, const AttentionBackward *);
    void (*attention_decode)(Queue *, const AttentionDecode *);
    void (*activation_forward)(Queue *, const Activation *);
    void (*activation_backward)(Queue *, const ActivationBackward *);
    void (*junction_forward)(Queue *, const Junction *);
    void (*junction_backward)(Queue *, const JunctionBackward *);
    void (*gpas_scales)(Queue *, const GpasScales *);
    void (*product_norm)(Queue *, const ProductNorm *);
    void (*bhyt_terms)(Queue *, const BhytTerms *);
    void (*cross_entropy)(Queue *, const CrossEntropy *);
    void (*step_begin)(Queue *, const StepBegin *);
    void (*loss_reduce)(Queue *, const LossReduce *);
    void (*sum_squares)(Queue *, const SumSquares *);
    void (*step_decide)(Queue *, const StepDecide *);
    void (*adamw)(Queue *, const AdamW *);
    void (*muon_momentum)(Queue *, const MuonMomentum *);
    void (*scaled_copy)(Queue *, const ScaledCopy *);
    void (*axpby)(Queue *, const Axpby *);
    void (*muon_update)(Queue *, const MuonUpdate *);
    void (*tensor_stats)(Queue *, const TensorStats *);
    void (*cast)(Queue *, const Cast *);
    void (*halves)(Queue *, const Halves *);
    void (*hash)(Queue *, const Hash *);

    /* One communicator a process, on the device that is open, until close(), before which every graph that holds a
     * collective is destroyed. false, with one line in text[size], where it cannot be had: a library is missing, a rank
     * is none of 0 … ranks−1, one is open already. Returns when all ranks have called it. A wait for other ranks, here or
     * whenever the host waits for the device from then on, that takes longer than timeout_s ends the program (EXIT_RANKS)
     * with a line that says who waits where; so does a rank that is gone. */
    bool (*collective_open)(const CollectiveSetup *setup, char *text, size_t size);
    /* Rank 0 makes the id, new for every run, and tells the others. Or, with an address HOST:PORT, which all ranks give
     * alike, before any other call: every rank makes the id of that address, where rank 0 then listens; nobody need be
     * told. Returns its size in bytes, which size must be; with a NULL id only that. The size is 0 where ranks know each
     * other without (MPI, on the CPU). Exits where there is no id: 2 for an address that is none. */
    size_t (*collective_unique_id)(const char *address, void *id, size_t size);
    void (*all_reduce_sum)(Queue *, const Collective *);
    void (*reduce_scatter_sum)(Queue *, const Collective *);
    void (*all_gather)(Queue *, const Collective *);
    void (*broadcast)(Queue *, const Collective *);
} Kernels;

/* The implementations. One that a build does not hold is not defined there: the program knows them through the
 * table in src/run/device.c, the tests through test/implementations.c. A NULL operation is one that an
 * implementation does not have yet; the program refuses such a device with the operation's name. */
extern const Kernels kernels_cpu_f32;
extern const Kernels kernels_cpu_f64;
extern const Kernels kernels_cpu_bf16;
extern const Kernels kernels_cuda_f32;
extern const Kernels kernels_cuda_bf16;

#ifdef __cplusplus
}
#endif
#endif
