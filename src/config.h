/*
 * config.h: every flag of train_gpt, and the values that a run has.
 *
 * The table in src/flags.c has one row a flag: name, type, default, range, help. It is the parser of the command
 * line and of --config files, --help, and config.ini. Values are set in this order, later ones win: default,
 * the checkpoint that is resumed, preset, config file, command line. What a flag calls "auto" is worked out from the others by
 * config_resolve(), which also refuses what does not fit together.
 */
#ifndef CONFIG_H
#define CONFIG_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Choices: the values are the positions in the row's list of names. */
enum { ARCH_GPT2, ARCH_LLAMA };
enum { POSITIONS_AUTO, POSITIONS_LEARNED, POSITIONS_ROPE };
enum { ACTIVATION_FLAG_AUTO, ACTIVATION_FLAG_GELU, ACTIVATION_FLAG_SWIGLU };
enum { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF };
enum { FLAG_OFF, FLAG_ON };
enum { GPAS_OFF, GPAS_LAYER, GPAS_SUBLAYER };
enum { SDD_OFF, SDD_PAPER, SDD_RELEASED };
enum { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_WSD, SCHEDULE_CONSTANT };
enum { DECAY_ON_MATRICES, DECAY_ON_NO_EMBEDDINGS, DECAY_ON_ALL };
enum { DTYPE_FLAG_AUTO, DTYPE_FLAG_FP32, DTYPE_FLAG_BF16, DTYPE_FLAG_FP64 };
enum { RESIDUAL_STORAGE, RESIDUAL_FP32 };
enum { RECOMPUTE_NONE, RECOMPUTE_ACT, RECOMPUTE_BLOCK };
enum { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };

#define AUTO_INT INT64_MIN /* an integer flag left at "auto" (real flags: NaN) until config_resolve() */

typedef struct Config {
    /* model */
    const char *preset;
    int64_t arch, n_layer, n_head, n_kv_head, n_embd, n_ffn, seq_len, vocab_size;
    int64_t positions, activation, bias, tie_embeddings;
    double rope_base, init_std, init_std_embed;
    const char *init_from;
    /* variant */
    int64_t norm, placement; /* rows of the tables in src/variant.c */
    double norm_eps;
    int64_t final_norm, embed_norm, embed_scale;
    int64_t mix_post_layers, lns_init, deepnorm_init;
    int64_t gpas, gpas_act;
    double gpas_init, gpas_clip;
    int64_t sdd;
    double sdd_eps, sdd_init_scale;
    double dyt_alpha_attn, dyt_alpha_other;
    double bhyt_lambda_attn, bhyt_lambda_mlp, bhyt_lambda_final;
    int64_t bhyt_gamma_var, bhyt_refresh;
    /* data */
    const char *train_data, *val_data;
    int64_t seed;
    /* train */
    int64_t batch_size, total_batch_tokens, steps;
    double max_minutes, lr;
    int64_t lr_schedule, warmup_steps;
    double lr_final_frac, wsd_decay_frac, weight_decay;
    int64_t decay_on;
    double beta1, beta2, adam_eps, grad_clip, skip_sigma, z_loss;
    int64_t dtype, residual_dtype, recompute;
    /* run */
    const char *out, *resume;
    int64_t save_every, keep, val_every, val_batches, sample_every, stats_every, log_every, device, threads;
    int64_t cuda_graph, gemm_tune;
    /* modes and what goes with them */
    const char *generate, *probe, *config;
    int64_t max_new_tokens, top_k;
    double temperature;
    int64_t dry_run, eval_only, smoke, version, help, list_variants;

    /* worked out by config_resolve() */
    int64_t micro_steps; /* gradient accumulation: total_batch_tokens / (batch_size · seq_len · ranks) */
    int64_t head_size;   /* n_embd / n_head */
} Config;

/* Fills in defaults, `base` (the config.ini of a checkpoint to go on from, or NULL), the preset, the config
 * file and the command line. Exits 2 on anything wrong, 0 after --help, --version or --list-variants, which it
 * prints. The texts in it live as long as the program. */
void config_parse(Config *config, int argc, char **argv, const char *base);

/* The same, but false with *error set where that exits 2, and --help, --version and --list-variants only set. */
bool config_parse_arguments(Config *config, int argc, char **argv, const char *base, Error *error);

/* The value of one text flag of the command line or else its --config file, or NULL; before config_parse(), to find
 * that checkpoint. Exits as config_parse() does. */
const char *config_peek(int argc, char **argv, const char *name);

/* Works out "auto" values for a run on so many ranks and checks that the whole fits together (exit 2). */
void config_resolve(Config *config, int ranks);

/* Parses `name = value` lines (# starts a comment) of a config file into *config: a pure function over the
 * bytes. A value with a # or blanks at its ends stands in double quotes (\" \\ \xHH inside). Errors name the line. */
bool config_parse_lines(Config *config, const char *bytes, size_t size, Error *error);

/* Every flag with its present value, as `name = value` lines that --config reads back (config.ini). Modes are left out. */
void config_write(const Config *config, FILE *file);

/* Calls visit(name, value-as-text, is_number, context) for every flag that config_write writes. */
typedef void ConfigVisitor(const char *name, const char *value, bool is_number, void *context);
void config_visit(const Config *config, ConfigVisitor *visit, void *context);

/* The word for a choice: config_choice("dtype", config->dtype) is "fp32". */
const char *config_choice(const char *flag, int64_t value);

/* The version that this build was made from, as git describes it. */
const char *config_version(void);

/* Defaults only; for tests and for config_parse. */
void config_defaults(Config *config);

/* Frees the texts of every Config there has been: they are undefined afterwards. For tests that parse without end. */
void config_forget_texts(void);

/* Sets one flag from text, as the command line does. */
bool config_set(Config *config, const char *name, const char *value, Error *error);

/* Sets flags from "name=value name=value …", the way presets are written: no blank in a value. */
bool config_set_all(Config *config, const char *settings, Error *error);

#endif
