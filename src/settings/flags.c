/* flags.c: which flags are there, what they default to, and what the presets set. */
#include "flags.h"

#include <float.h>
#include <string.h>

#define INT(flag, field, fallback, min, max, help) \
    { flag, FLAG_INT, offsetof(Config, field), fallback, min, max, NULL, help }
#define REAL(flag, field, fallback, min, max, help) \
    { flag, FLAG_REAL, offsetof(Config, field), fallback, min, max, NULL, help }
#define TEXT(flag, field, help) \
    { flag, FLAG_TEXT, offsetof(Config, field), NULL, 1, 4095, NULL, help }
#define PROMPT(flag, field, help) \
    { flag, FLAG_TEXT, offsetof(Config, field), NULL, 0, 1e6, NULL, help }
#define CHOICE(flag, field, fallback, choices, help) \
    { flag, FLAG_CHOICE, offsetof(Config, field), fallback, 0, 0, choices, help }
#define SET(flag, field, fallback, choices, help) \
    { flag, FLAG_SET, offsetof(Config, field), fallback, 0, 0, choices, help }
#define MODE(flag, field, help) \
    { flag, FLAG_MODE, offsetof(Config, field), NULL, 0, 0, NULL, help }

#define BIG 1e15

static const Flag MODEL[] = {
    TEXT("preset", preset, "a named shape, listed below; every other flag overrides it"),
    CHOICE("arch", arch, "gpt2", "gpt2|llama", "sets the defaults of the parts marked auto below"),
    INT("n-layer", n_layer, "12", 1, 1000, "blocks"),
    INT("n-head", n_head, "12", 1, 1024, "query heads"),
    INT("n-kv-head", n_kv_head, "auto", 1, 1024, "key-value heads; fewer than n-head: grouped-query (auto: n-head)"),
    INT("head-dim", head_size, "auto", 1, 256, "channels of a head (auto: n-embd / n-head)"),
    INT("n-embd", n_embd, "768", 1, 65536, "width of the residual stream"),
    INT("n-ffn", n_ffn, "auto", 1, 262144, "width of the MLP (auto: 4·n-embd; swiglu: 8/3·n-embd, up to 64s)"),
    INT("seq-len", seq_len, "1024", 1, 1048576, "tokens in a training sequence"),
    INT("vocab-size", vocab_size, "auto", 2, 2147483584.0, "token ids (auto: as many as the data's tokenizer has, by their NAME.json; without one gpt2 50257, llama 32000)"),
    CHOICE("positions", positions, "auto", "auto|learned|rope", "auto: gpt2 learned, llama rope"),
    REAL("rope-base", rope_base, "10000", 1, 1e9, "base of RoPE's wavelengths"),
    CHOICE("rope-scaling", rope_scaling, "none", "none|linear|llama3",
           "RoPE turns more slowly, for sequences longer than those trained on: linear: all of it; llama3: its long waves"),
    REAL("rope-factor", rope_factor, "8", 1, 1e6, "rope-scaling: so many times more slowly"),
    REAL("rope-low-freq-factor", rope_low_freq_factor, "1", 1e-6, 1e6,
         "llama3: waves that fit into rope-original-seq-len less often than this are long"),
    REAL("rope-high-freq-factor", rope_high_freq_factor, "4", 1e-6, 1e6, "llama3: those that fit more often than this are left alone"),
    INT("rope-original-seq-len", rope_original_seq_len, "8192", 1, 1e9, "llama3: the sequence length that was trained on at first"),
    CHOICE("activation", activation, "auto", "auto|gelu|swiglu|gelu-exact", "gelu: its tanh form (auto: gpt2 gelu, llama swiglu)"),
    CHOICE("bias", bias, "auto", "auto|on|off|qkv", "biases in linear layers; qkv: of those alone (auto: gpt2 on, llama off)"),
    CHOICE("tie-embeddings", tie_embeddings, "auto", "auto|on|off",
           "the head shares the token embedding (auto: gpt2 on, llama off)"),
    REAL("init-std", init_std, "0.02", 0, 10, "standard deviation of initial weights"),
    REAL("init-std-embed", init_std_embed, "auto", 0, 10, "the same for the token embedding (auto: init-std; sdd released: its matrices')"),
    TEXT("init-from", init_from, "start from these weights: a directory whose config.json says the model, a run, or a safetensors file"),
};

static const Flag VARIANT[] = {
    CHOICE("norm", norm, "auto", NORM_CHOICES, "which norm (auto: gpt2 layernorm, llama rmsnorm)"),
    CHOICE("placement", placement, "pre", PLACEMENT_CHOICES, "where it sits"),
    REAL("norm-eps", norm_eps, "auto", 0, 1, "epsilon under the root (auto: 1e-5 layernorm and sdd released, 1e-6 else)"),
    REAL("final-norm-eps", final_norm_eps, "auto", 0, 1, "the same of the norm before the head (auto: norm-eps)"),
    CHOICE("final-norm", final_norm, "auto", "auto|on|off", "a norm before the head (auto: off for post, deepnorm, keel)"),
    CHOICE("embed-norm", embed_norm, "off", "off|on", "norm the embedding before the first layer"),
    CHOICE("embed-scale", embed_scale, "off", "off|on", "one learned scalar, at first √n-embd, on the embedding"),
    CHOICE("qk-norm", qk_norm, "off", "off|head|projection", "rmsnorm q and k before RoPE: each head, or all of q and all of k"),
    INT("mix-post-layers", mix_post_layers, "auto", 0, 1000, "mix: layers that are post (auto: a quarter)"),
    CHOICE("lns-init", lns_init, "off", "off|on", "lns: 1/√layer as γ's initial value instead of a constant"),
    CHOICE("deepnorm-init", deepnorm_init, "on", "off|on", "deepnorm: its Xavier gains (off: plain init)"),
    CHOICE("gpas", gpas, "off", "off|layer|sublayer", "gates on the residual stream: one or two a layer"),
    CHOICE("gpas-act", gpas_act, "silu", "silu|identity|relu|tanh|leaky-relu", "GPAS: the gates' activation"),
    REAL("gpas-init", gpas_init, "0", -100, 100, "GPAS: the gates' initial value"),
    REAL("gpas-clip", gpas_clip, "0", 0, 1e9, "GPAS: the gates' gradient norm is clipped to this as well (0: not)"),
    CHOICE("sdd", sdd, "off", "off|paper|released", "linear layers as α ⊙ rms(Wx), at the sites of paper or code"),
    REAL("sdd-eps", sdd_eps, "auto", 0, 1, "SDD: epsilon (auto: paper 1e-6, released 1e-5, there of every norm)"),
    REAL("sdd-init-scale", sdd_init_scale, "1", 0, 1000, "SDD: factor on the initial 1/√(2.5·n-embd)"),
    REAL("dyt-alpha-attn", dyt_alpha_attn, "0.5", -100, 100, "dyt: initial α before attention"),
    REAL("dyt-alpha-other", dyt_alpha_other, "0.5", -100, 100, "dyt: initial α elsewhere"),
    REAL("derf-alpha-attn", derf_alpha_attn, "auto", -100, 100, "derf: initial α before attention (auto: 1 gpt2, 0.5 llama)"),
    REAL("derf-alpha-other", derf_alpha_other, "auto", -100, 100, "derf: initial α elsewhere (auto: the same)"),
    REAL("bhyt-lambda-attn", bhyt_lambda_attn, "2", -1000, 1000, "bhyt: initial λ before attention"),
    REAL("bhyt-lambda-mlp", bhyt_lambda_mlp, "1", -1000, 1000, "bhyt: initial λ before the MLP"),
    REAL("bhyt-lambda-final", bhyt_lambda_final, "0", 0, 1000, "bhyt: λ of the final norm (0: it is an rmsnorm)"),
    REAL("bhyt-kappa", bhyt_kappa, "10", 1e-6, 1e6, "bhyt: κ, by which the row's root mean square is multiplied"),
    CHOICE("bhyt-gamma-var", bhyt_gamma_var, "off", "off|on", "bhyt: mean γ² in the estimate with pre as well"),
    INT("bhyt-refresh", bhyt_refresh, "1", 0, 1e9, "bhyt: steps between computing ‖W_O·W_V‖² anew (0: once)"),
    MODE("list-variants", list_variants, "print norms, placements, methods, their sources and what is refused; stop"),
};

static const Flag DATA[] = {
    TEXT("train-data", train_data, "shards to train on: a file or a quoted glob, e.g. 'data/books_train_*.bin'"),
    TEXT("val-data", val_data, "shards to validate on"),
    INT("seed", seed, "1337", 0, 9007199254740991.0, "of the initial weights and of the order of the data"),
    CHOICE("pack", pack, "stream", "stream|documents",
           "stream: rows of the tokens as they come; documents: one document a row, padded, and the padding counts for nothing"),
    CHOICE("pack-long", pack_long, "cut", "cut|split", "--pack documents: what is longer than a row is cut off, or makes rows of its own"),
    CHOICE("doc-mask", doc_mask, "off", "off|on", "attention and positions restart after each end-of-document token"),
    INT("end-of-document", end_of_document, "auto", 0, 2147483583.0,
        "the token that ends a document (auto: what NAME.json beside the shards says)"),
};

static const Flag TRAIN[] = {
    INT("batch-size", batch_size, "8", 1, 1048576, "sequences per rank and micro-step"),
    INT("total-batch-tokens", total_batch_tokens, "auto", 1, BIG,
        "tokens an update, by gradient accumulation (auto: one micro-step)"),
    INT("steps", steps, "1000", 1, 1e12, "updates in the whole run; the schedule ends there"),
    REAL("max-minutes", max_minutes, "0", 0, 1e9, "stop cleanly after so long, with a checkpoint (0: no limit)"),
    REAL("lr", lr, "6e-4", 0, 100, "peak learning rate"),
    CHOICE("lr-schedule", lr_schedule, "cosine", "cosine|linear|wsd|constant|cosine-restarts|inverse-sqrt",
           "shape after the warmup"),
    INT("schedule-steps", schedule_steps, "auto", 1, 1e12, "where the schedule ends, if not with the run (auto: steps)"),
    INT("warmup-steps", warmup_steps, "auto", 0, 1e12, "linear warmup (auto: 1 % of schedule-steps, at most 700)"),
    CHOICE("lr-from-zero", lr_from_zero, "off", "off|on", "the first step's learning rate is 0, as in transformers"),
    INT("restart-steps", restart_steps, "auto", 2, 1e12, "cosine-restarts: from one peak to the next (auto: a quarter)"),
    REAL("lr-final-frac", lr_final_frac, "0.1", 0, 1, "learning rate at the end, as a share of the peak"),
    REAL("wsd-decay-frac", wsd_decay_frac, "0.2", 0, 1, "share of schedule-steps over which wsd decays at the end"),
    INT("wsd-decay-steps", wsd_decay_steps, "auto", 0, 1e12, "the same in steps (auto: by wsd-decay-frac)"),
    REAL("weight-decay", weight_decay, "0.1", 0, 10, "decoupled weight decay"),
    SET("decay-on", decay_on, "matrices", "matrices|no-embeddings|all|embeddings|head|norms|biases|alphas",
        "which parameters decay, as no-embeddings,norms,alphas: alphas are SDD's, an untied head is a matrix"),
    CHOICE("optimizer", optimizer, "adamw", "adamw|muon", "muon: of the blocks' matrices; the embeddings, the head and all vectors are AdamW's"),
    REAL("muon-momentum", muon_momentum, "0.95", 0, 0.999999999, "muon: Nesterov's momentum"),
    CHOICE("muon-split", muon_split, "parts", "parts|heads|off",
           "muon: what is one matrix: q, k, v, gate and up each; each head of q, k and v; off: what one product computes"),
    REAL("beta1", beta1, "0.9", 0, 0.999999999, "AdamW"),
    REAL("beta2", beta2, "0.95", 0, 0.999999999, "AdamW"),
    REAL("adam-eps", adam_eps, "1e-8", 0, 1, "AdamW"),
    REAL("grad-clip", grad_clip, "1", 0, 1e9, "global gradient norm is clipped to this (0: not)"),
    REAL("clip-eps", clip_eps, "0", 0, 1, "a clip's factor is min(1, clip / (norm + this)), of --gpas-clip too; PyTorch's clip_grad_norm_ has 1e-6"),
    REAL("skip-sigma", skip_sigma, "0", 0, 1e6,
         "skip a step whose loss or gradient norm is so many deviations above the last 128 (0: only non-finite)"),
    REAL("z-loss", z_loss, "0", 0, 1, "coefficient of the squared log-sum-exp of the logits"),
    CHOICE("dtype", dtype, "auto", "auto|fp32|bf16|fp64", "type of matrices and activations (auto: bf16 on a GPU, fp32 on a CPU; --version says whether bf16 is fast on this one)"),
    CHOICE("residual-dtype", residual_dtype, "storage", "storage|fp32", "type of the residual stream"),
    CHOICE("recompute", recompute, "none", "none|act|block",
           "save memory: norms and activations, or whole blocks, are computed again in backward"),
};

static const Flag RUN[] = {
    TEXT("out", out, "directory of checkpoints, metrics.jsonl, and config.ini, for --config (none: nothing is written)"),
    TEXT("resume", resume, "auto: the newest checkpoint in --out if there is one; or a checkpoint's directory"),
    INT("save-every", save_every, "0", 0, 1e12, "checkpoint every so many steps (0: at the end only)"),
    INT("keep", keep, "2", 1, 1e6, "checkpoints kept"),
    INT("val-every", val_every, "100", 0, 1e12, "validate every so many steps and at the end (0: at the end)"),
    INT("val-batches", val_batches, "auto", 1, 1e12, "batches a validation, drawn once from all of it (auto: all, at most 40)"),
    INT("val-tokens", val_tokens, "0", 0, BIG, "tokens a validation, up to whole windows, in the place of --val-batches (0: by that)"),
    INT("sample-every", sample_every, "0", 0, 1e12, "print a sample every so many steps"),
    INT("stats-every", stats_every, "0", 0, 1e12, "telemetry of every layer into metrics.jsonl every so many steps (0: none)"),
    INT("log-every", log_every, "1", 1, 1e12, "steps between progress lines where there is no terminal"),
    CHOICE("device", device, "auto", "auto|cpu|cuda", "auto: a GPU if this build and machine have one"),
    CHOICE("cuda-graph", cuda_graph, "auto", "auto|on|off",
           "launch a step as captured graphs; changes no bit (auto: for models whose kernels are short)"),
    CHOICE("gemm-tune", gemm_tune, "off", "off|on",
           "measure eight algorithms for each matrix product in the first step; gemm.json in the checkpoint keeps them"),
    CHOICE("zero", zero, "auto", "auto|0|1",
           "several ranks: 1: each updates, and holds the moments of, its own share of the weights (auto: 1)"),
    INT("bucket-mb", bucket_mb, "25", 0, 100000, "several ranks: gradients are reduced in pieces of at least so many MB; 0: a layer at a time"),
    CHOICE("reduce-dtype", reduce_dtype, "auto", "auto|fp32|bf16",
           "several ranks: bf16 sends half the bytes of the gradients that are summed, but those of norms and gates; the sums are "
           "rounded once on a CPU, after each addition on GPUs; what is beyond bf16's largest number skips the step (auto: fp32; fp64 with --dtype fp64)"),
    INT("check-sync", check_sync, "1000", 0, 1e12,
        "several ranks: compare their weights, to the bit, at the start, every so many steps and at the end (0: never)"),
    TEXT("rendezvous", rendezvous, "several ranks on GPUs without MPI: HOST:PORT where they meet, of rank 0's machine (none: MASTER_ADDR and MASTER_PORT + 1; Slurm's first host)"),
    REAL("timeout", timeout, "1800", 1, 1e9, "several ranks: seconds that one waits for the others before all end with code 4; a save may take longer"),
    INT("threads", threads, "0", 0, 4096, "OpenMP threads (0: OMP_NUM_THREADS, or a rank's share of the CPUs that the affinity mask and a container's quota leave)"),
};

static const Flag MODES[] = {
    TEXT("config", config, "read flags from this file, `name = value` a line; the command line wins; of several files the later"),
    MODE("allow-change", allow_change, "let --resume go on with other training data, another seed, or in another run's --out"),
    MODE("dry-run", dry_run, "print the parameters and the memory that the run would take, and stop"),
    INT("ranks", plan_ranks, "0", 0, 65536, "--dry-run: plan one of so many ranks, without starting them (0: as many as were started)"),
    MODE("eval-only", eval_only, "validate the weights of --resume or --init-from, and stop"),
    TEXT("eval", eval, "ask the weights of --resume or --init-from what FILE[,FILE…] asks (multiple choice, last words; data/README.md), and stop"),
    TEXT("eval-out", eval_out, "--eval: write what each item was answered into this file, as JSON lines"),
    PROMPT("generate", generate, "continue this text with the weights of --resume or --init-from, and stop"),
    PROMPT("generate-tokens", generate_tokens, "the same of token ids, 1,2,3, for models whose tokens are no bytes (scripts/generate.py encodes text)"),
    TEXT("generate-file", generate_file, "continue each line of a file, --batch-size (8) at once, and print a line of JSON for each; "
         "FILE.jsonl holds objects with \"ids\" or \"prompt\", and maybe \"seed\""),
    INT("max-new-tokens", max_new_tokens, "256", 1, 1e6, "length of a sample"),
    REAL("temperature", temperature, "0.8", 0, 100, "of sampling (0: the likeliest token always)"),
    INT("top-k", top_k, "0", 0, 1e9, "sample among the k likeliest tokens (0: all)"),
    REAL("top-p", top_p, "1", 0, 1, "of these, among the fewest that have this share of the probability (1: all)"),
    CHOICE("stop-at-end", stop_at_end, "on", "off|on", "a sample ends where the end of a document is drawn, if the tokenizer has one"),
    TEXT("probe", probe, "write one batch's tokens, logits, residuals and gradients as safetensors, and stop"),
    MODE("smoke", smoke,
         "train a tiny shape on built-in data for a few seconds; exit 0 if the loss falls; shape, data, batch-size, "
         "steps, lr, warmup-steps, log-every are its own, all other flags are obeyed"),
    MODE("version", version, "print version and build, and stop"),
    MODE("help", help, "print this, and stop"),
};

#define GROUP(title, flags) { title, flags, sizeof flags / sizeof *flags }
const FlagGroup FLAG_GROUPS[] = {
    GROUP("model", MODEL), GROUP("variant", VARIANT), GROUP("data", DATA),
    GROUP("train", TRAIN), GROUP("run", RUN),         GROUP("modes", MODES),
};
const int FLAG_GROUP_COUNT = sizeof FLAG_GROUPS / sizeof *FLAG_GROUPS;

#define GPT2  "arch=gpt2 seq-len=1024 vocab-size=50257 "
#define LLAMA "arch=llama seq-len=256 vocab-size=32000 "
#define SDD   "arch=llama seq-len=4096 vocab-size=100278 n-embd=2048 n-ffn=8192 n-head=32 n-kv-head=8 " \
              "tie-embeddings=on rope-base=500000 lr-final-frac=0.1 decay-on=no-embeddings,norms,alphas "

const Preset PRESETS[] = {
    {"micro", "n-layer=2 n-embd=64 n-head=2 seq-len=64 vocab-size=256", "0.1 M parameters: for tests"},
    {"tiny", "n-layer=4 n-embd=128 n-head=4 seq-len=128 vocab-size=256", "0.8 M, bytes: the demo, CI"},
    {"gpt2-124m", GPT2 "n-layer=12 n-embd=768 n-head=12", "GPT-2 small"},
    {"gpt2-350m", GPT2 "n-layer=24 n-embd=1024 n-head=16", "GPT-2 medium"},
    {"gpt2-774m", GPT2 "n-layer=36 n-embd=1280 n-head=20", "GPT-2 large"},
    {"gpt2-1558m", GPT2 "n-layer=48 n-embd=1600 n-head=25", "GPT-2 XL"},
    {"llama-71m", LLAMA "n-layer=12 n-embd=512 n-head=8 n-ffn=1368", "arXiv 2506.22049 (GPAS)"},
    {"llama-130m", LLAMA "n-layer=12 n-embd=768 n-head=12 n-ffn=2048", "arXiv 2506.22049 (GPAS)"},
    {"llama-250m", LLAMA "n-layer=24 n-embd=768 n-head=16 n-ffn=2560", "arXiv 2506.22049 (GPAS)"},
    {"llama-350m", LLAMA "n-layer=24 n-embd=1024 n-head=16 n-ffn=2736", "arXiv 2506.22049 (GPAS)"},
    {"llama-1b", LLAMA "n-layer=24 n-embd=2048 n-head=32 n-ffn=5461", "arXiv 2506.22049 (GPAS)"},
    {"llama-374m",
     "arch=llama seq-len=1024 vocab-size=128256 n-layer=16 n-embd=1024 n-head=16 n-kv-head=4 n-ffn=4096 "
     "tie-embeddings=on rope-base=500000 rope-scaling=llama3 rope-factor=32",
     "arXiv 2601.09719 (BHyT)"},
    {"sdd-581m", SDD "n-layer=8", "arXiv 2502.15499 (SDD)"},
    {"sdd-1b", SDD "n-layer=16", "arXiv 2502.15499 (SDD)"},
};
const int PRESET_COUNT = sizeof PRESETS / sizeof *PRESETS;

/* n_layer is n-layer. */
static bool same_name(const char *ours, const char *name) {
    while (*ours && (*ours == *name || (*ours == '-' && *name == '_'))) ours++, name++;
    return !*ours && !*name;
}

const Flag *flag_find(const char *name) {
    for (int g = 0; g < FLAG_GROUP_COUNT; g++)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++)
            if (same_name(FLAG_GROUPS[g].flags[i].name, name)) return &FLAG_GROUPS[g].flags[i];
    return NULL;
}

int flag_number(const Flag *flag) {
    int before = 0;
    for (int g = 0; g < FLAG_GROUP_COUNT; before += FLAG_GROUPS[g++].count)
        for (int i = 0; i < FLAG_GROUPS[g].count; i++)
            if (&FLAG_GROUPS[g].flags[i] == flag) return before + i;
    fail(EXIT_RUNTIME, "--%s is no row of the table of flags", flag->name);
}

bool flag_text_fits(const Flag *flag, const char *value, Error *error) {
    size_t length = strlen(value);
    if (length < flag->min) return error_set(error, "--%s: the value is empty", flag->name);
    return length <= flag->max ||
           error_set(error, "--%s: %zu bytes are too long; the most is %.0f", flag->name, length, flag->max);
}
