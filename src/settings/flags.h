/*
 * flags.h: every flag of train_gpt: its field in struct Config, and its row, in src/settings/flags.c: name, type,
 * default, range, help. Adding a flag is adding both.
 */
#ifndef FLAGS_H
#define FLAGS_H

#include "../base/check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The words of --norm and --placement; norms after "auto" and placements are the rows of variant.c's tables in order. */
#define NORM_CHOICES      "auto|layernorm|rmsnorm|dyt|bhyt-exact|bhyt|derf"
#define PLACEMENT_CHOICES "pre|post|sandwich|deepnorm|mix|lns|res-post|keel|hybrid|hybrid-first"

/* Choices: the values are the positions in the row's list of names. */
enum { ARCH_GPT2, ARCH_LLAMA };
enum { POSITIONS_AUTO, POSITIONS_LEARNED, POSITIONS_ROPE };
enum { ROPE_UNSCALED, ROPE_LINEAR, ROPE_LLAMA3 };
enum { ACTIVATION_FLAG_AUTO, ACTIVATION_FLAG_GELU, ACTIVATION_FLAG_SWIGLU, ACTIVATION_FLAG_GELU_EXACT };
enum { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF };
enum { BIAS_QKV = SWITCH_OFF + 1 }; /* --bias alone */
enum { QK_NORM_OFF, QK_NORM_HEAD, QK_NORM_PROJECTION };
enum { FLAG_OFF, FLAG_ON };
enum { GPAS_OFF, GPAS_LAYER, GPAS_SUBLAYER };
enum { SDD_OFF, SDD_PAPER, SDD_RELEASED };
enum {
    SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_WSD, SCHEDULE_CONSTANT, SCHEDULE_COSINE_RESTARTS, SCHEDULE_INVERSE_SQRT
};
enum {
    DECAY_ON_MATRICES, DECAY_ON_NO_EMBEDDINGS, DECAY_ON_ALL, DECAY_ON_EMBEDDINGS, DECAY_ON_HEAD, DECAY_ON_NORMS,
    DECAY_ON_BIASES, DECAY_ON_ALPHAS
};
enum { OPTIMIZER_FLAG_ADAMW, OPTIMIZER_FLAG_MUON };
enum { MUON_SPLIT_PARTS, MUON_SPLIT_HEADS, MUON_SPLIT_OFF };
enum { DTYPE_FLAG_AUTO, DTYPE_FLAG_FP32, DTYPE_FLAG_BF16, DTYPE_FLAG_FP64 };
enum { PACK_STREAM, PACK_DOCUMENTS };
enum { PACK_LONG_CUT, PACK_LONG_SPLIT };
enum { RESIDUAL_STORAGE, RESIDUAL_FP32 };
enum { RECOMPUTE_NONE, RECOMPUTE_ACT, RECOMPUTE_BLOCK };
enum { ZERO_AUTO, ZERO_0, ZERO_1 };
enum { REDUCE_AUTO, REDUCE_FP32, REDUCE_BF16 };
enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

enum { FLAGS_MOST = 256 }; /* rows in flags.c */

#define AUTO_INT INT64_MIN /* an integer flag left at "auto" (real flags: NaN) until config_resolve(), or for good */

typedef struct Config {
    /* model */
    const char *preset;
    int64_t arch, n_layer, n_head, n_kv_head, head_size, n_embd, n_ffn, seq_len, vocab_size;
    int64_t positions, activation, bias, tie_embeddings;
    double rope_base;
    int64_t rope_scaling, rope_original_seq_len;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    double init_std, init_std_embed;
    const char *init_from;
    /* variant */
    int64_t norm, placement; /* rows of the tables in src/settings/variant.c */
    double norm_eps, final_norm_eps;
    int64_t final_norm, embed_norm, embed_scale, qk_norm;
    int64_t mix_post_layers, lns_init, deepnorm_init;
    int64_t gpas, gpas_act;
    double gpas_init, gpas_clip;
    int64_t sdd;
    double sdd_eps, sdd_init_scale;
    double dyt_alpha_attn, dyt_alpha_other, derf_alpha_attn, derf_alpha_other;
    double bhyt_lambda_attn, bhyt_lambda_mlp, bhyt_lambda_final, bhyt_kappa;
    int64_t bhyt_gamma_var, bhyt_refresh;
    /* data */
    const char *train_data, *val_data;
    int64_t seed, pack, pack_long, doc_mask, end_of_document;
    /* train */
    int64_t batch_size, total_batch_tokens, steps;
    double max_minutes, lr;
    int64_t lr_schedule, schedule_steps, warmup_steps, lr_from_zero, restart_steps, wsd_decay_steps;
    double lr_final_frac, wsd_decay_frac, weight_decay;
    int64_t decay_on;
    int64_t optimizer, muon_split;
    double muon_momentum;
    double beta1, beta2, adam_eps, grad_clip, clip_eps, skip_sigma, z_loss;
    int64_t dtype, residual_dtype, recompute;
    /* run */
    const char *out, *resume;
    int64_t save_every, keep, val_every, val_batches, val_tokens, sample_every, stats_every, log_every, device, threads;
    int64_t cuda_graph, gemm_tune;
    int64_t zero, bucket_mb, reduce_dtype, check_sync;
    const char *rendezvous;
    double timeout;
    /* modes and what goes with them */
    const char *generate, *generate_tokens, *generate_file, *probe, *config;
    const char *eval, *eval_out;
    int64_t max_new_tokens, top_k, stop_at_end;
    int64_t plan_ranks; /* of --dry-run; 0: as many as there are */
    double temperature, top_p;
    int64_t dry_run, eval_only, smoke, version, help, list_variants, allow_change;

    /* worked out by config_resolve() */
    int64_t micro_steps; /* gradient accumulation: total_batch_tokens / (batch_size · seq_len · ranks) */
    int64_t rank, ranks; /* which of how many processes of the run this is; rank is set by who starts it */
    int64_t local_rank, local_ranks; /* which of how many on its machine, set likewise; local_ranks is 0 where nobody tells */

    /* By flag_number(): set to "auto", whatever number or word the field has come to since. */
    bool automatic[FLAGS_MOST];
} Config;

typedef enum FlagType {
    FLAG_INT,    /* int64_t in [min, max] */
    FLAG_REAL,   /* double in [min, max]; never NaN or infinite */
    FLAG_TEXT,   /* const char *, NULL while not given */
    FLAG_CHOICE, /* int64_t: position in `choices` */
    FLAG_SET,    /* int64_t: bit i for word i of `choices`; one or more, with commas between */
    FLAG_MODE,   /* int64_t: 1 if given; takes no value */
} FlagType;

typedef struct Flag {
    const char *name;     /* without the dashes */
    FlagType type;
    size_t offset;        /* of the field in Config */
    const char *fallback; /* default as text; "auto" for a number that is worked out; NULL for no text */
    double min, max;      /* of numbers; of a text's length in bytes */
    const char *choices;  /* words separated by '|', at most 63 in a set */
    const char *help;
} Flag;

typedef struct Preset {
    const char *name;
    const char *settings; /* "n-layer=12 n-embd=768 …" */
    const char *help;
} Preset;

typedef struct FlagGroup {
    const char *title;
    const Flag *flags;
    int count;
} FlagGroup;

extern const FlagGroup FLAG_GROUPS[];
extern const int FLAG_GROUP_COUNT;
extern const Preset PRESETS[];
extern const int PRESET_COUNT;

/* The row of this name, or NULL; an underscore in it is read as a dash. */
const Flag *flag_find(const char *name);

/* A row's place among all of them, counted from 0. */
int flag_number(const Flag *flag);

/* Whether a text is as long as its flag allows. */
bool flag_text_fits(const Flag *flag, const char *value, Error *error);

#endif
