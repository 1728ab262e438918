/*
 * param_ids.h: the parameters that a model may have. Rows, names and initial values: params.c.
 */
#ifndef PARAM_IDS_H
#define PARAM_IDS_H

/* A norm's three, in this order everywhere: γ [C], β [C], the scalar of DyT (α) or BHyT (λ) [1], or Derf's two (α, s) [2]. */
#define NORM_PARAMS(family) family, family##_BETA, family##_SCALAR

typedef enum ParamId {
    PARAM_TOKENS,               /* [V, C] */
    PARAM_POSITIONS,            /* [T, C] */
    PARAM_EMBED_SCALE,          /* [1] */
    NORM_PARAMS(PARAM_EMBED_NORM),
    NORM_PARAMS(PARAM_NORM1),   /* attention's; per layer, as all down to … */
    PARAM_QKV,                  /* [(H + 2·Hkv)·D, C] */
    PARAM_QKV_BIAS,
    PARAM_Q_ALPHA,              /* SDD's, --qk-norm's or hybrid's: [H·D], or [D] per head */
    PARAM_K_ALPHA,
    PARAM_V_ALPHA,
    PARAM_SDD_CONTEXT,          /* [H·D] */
    PARAM_ATTN_OUT,             /* [C, H·D] */
    PARAM_ATTN_OUT_BIAS,
    PARAM_SDD_ATTN_OUT,         /* [C] */
    NORM_PARAMS(PARAM_INNER1),  /* sandwich's and res-post's, on attention's output; keel's, after its addition */
    NORM_PARAMS(PARAM_NORM2),   /* the MLP's */
    PARAM_MLP_IN,               /* [F, C], or [2·padded(F), C] for SwiGLU */
    PARAM_MLP_IN_BIAS,
    PARAM_SDD_MLP_IN,           /* as a row of the MLP's input product */
    PARAM_MLP_OUT,              /* [C, F] */
    PARAM_MLP_OUT_BIAS,
    PARAM_SDD_MLP_OUT,          /* [C] */
    NORM_PARAMS(PARAM_INNER2),  /* the same of the MLP */
    PARAM_GATE,                 /* [1] or [2] GPAS; … here */
    NORM_PARAMS(PARAM_FINAL),   /* before the head */
    PARAM_HEAD,                 /* [V, C] where not tied */
    PARAM_COUNT
} ParamId;

#endif
