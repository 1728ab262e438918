/*
 * variant.h: which normalizations there are, and what they mean for the model's wiring.
 *
 * A norm is a row in NORMS, a placement a row in PLACEMENTS. variant_plan() turns the flags into constants: one
 * JunctionPlan for each place where the residual stream meets a norm. The model reads plans, never names.
 * Formulas and sources: MATH.md §1 to §5; `train_gpt --list-variants` prints the tables.
 */
#ifndef VARIANT_H
#define VARIANT_H

#include "../../kernels/kernels.h"
#include "config.h"
#include "param_ids.h"

typedef struct NormRow {
    const char *name;
    NormKind kind;
    bool approximates; /* a block's second norm takes the first one's statistic (bhyt) */
    double eps;        /* default of --norm-eps */
    const char *formula, *source;
} NormRow;

/* HYBRID: attention is post-type and reads the raw stream, its heads' q, k and v normed; the MLP is pre-type and fed by
 * attention's norm. HYBRID_FIRST: the first block is pre. */
typedef enum PlacementType { PLACE_PRE, PLACE_POST, PLACE_MIX, PLACE_HYBRID, PLACE_HYBRID_FIRST } PlacementType;

/* Where a sublayer's own norms are: before it, or in post-type after the addition; on its output; both, where post-type has
 * the second one after the addition. */
typedef enum PlacedNorms { NORM_BEFORE, NORM_AFTER, NORM_BOTH } PlacedNorms;

typedef struct PlacementRow {
    const char *name;
    PlacementType type;
    PlacedNorms norms;
    double power;    /* post-type: α = (2L)^power on the shortcut */
    bool deep;       /* DeepNorm's initial values */
    bool by_depth;   /* norm outputs times 1/√layer */
    bool final_norm; /* --final-norm auto */
    const char *formula, *source;
} PlacementRow;

extern const NormRow NORMS[];
extern const int NORM_COUNT;
extern const PlacementRow PLACEMENTS[];
extern const int PLACEMENT_COUNT;

/* The rows that a resolved config names. */
const NormRow *variant_norm(const Config *config);
const PlacementRow *variant_placement(const Config *config);

/* Whether norms of this run have a β; whether sublayer i (0: attention of layer 0, 1: its MLP, …) is post-type; whether a norm
 * comes before attention of layer l; whether q, k and v are normed head by head; the final norm's kind (NONE: off). */
bool variant_has_beta(const Config *config);
bool variant_is_post(const Config *config, int sublayer);
bool variant_norms_before_attention(const Config *config, int layer);
bool variant_norms_qkv(const Config *config);
NormKind variant_final_kind(const Config *config);


/* A norm with its parameters: family names γ; β and the scalar (DyT's α, BHyT's λ) follow it in ParamId. */
typedef struct NormPlan {
    NormKind kind; /* NORM_NONE: there is none */
    ParamId family;
    int layer;
    double eps, output_scale;
} NormPlan;

/*
 * One junction. Junction j of 0 … 2L follows sublayer j − 1 (0: the embedding) and feeds sublayer j (2L: the
 * head). Where two norms meet (after a post-type block: a pre-type one, or the final norm; after --embed-norm) it
 * has a second stage, of a norm alone. Stage s of junction j is plan 2j + s.
 */
typedef struct JunctionPlan {
    bool there;
    bool post;       /* Junction.post */
    int sublayer;    /* whose output is added; −1: none */
    double alpha;    /* on the shortcut */
    NormPlan norm, inner;
    ParamId sdd;     /* α of the sublayer's last product; PARAM_COUNT: none */
    int gate;        /* this junction's gate: s_out (pre) or s_in (post); −1: none */
    int gate_in;     /* gate whose scale rides on x; −1: none */
    bool gives_mean_square, takes_mean_square; /* bhyt */
} JunctionPlan;

/* Fills plans[2·(2·L + 1)]. */
void variant_plan(const Config *config, JunctionPlan *plans);

/* α of post-type's shortcut; 1 where there is none. */
double variant_shortcut(const Config *config);

/* Standard deviation of SDD's initial matrices, and of the released code's embedding (MATH.md §4). */
double variant_sdd_std(const Config *config);

/* Gates a layer. */
int variant_gates_per_layer(const Config *config);

/* Refuses what MATH.md refuses (exit 2) and works out the variant's "auto" values. */
void variant_resolve(Config *config);

/* Words that name the variant, for checkpoints and logs: "pre layernorm gpas-layer". */
void variant_describe(const Config *config, char *text, size_t size);

/* --list-variants */
void variant_print_table(void);

#endif
