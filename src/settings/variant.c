/* variant.c: see variant.h. */
#include "variant.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const NormRow NORMS[] = {
    {"layernorm", NORM_LAYERNORM, false, 1e-5, "γ ⊙ (x−μ)/√(var+ε) + β", "arXiv 1607.06450"},
    {"rmsnorm", NORM_RMSNORM, false, 1e-6, "γ ⊙ x/√(mean(x²)+ε)", "arXiv 1910.07467"},
    {"dyt", NORM_DYT, false, 1e-6, "γ ⊙ tanh(α·x) + β", "arXiv 2503.10622"},
    {"bhyt-exact", NORM_BHYT, false, 1e-6, "γ ⊙ tanh(λ·x/(κ·√(mean(x²)+ε)))", "arXiv 2601.09719"},
    {"bhyt", NORM_BHYT, true, 1e-6, "the same, a block's second mean(x²) approximated", "arXiv 2601.09719"},
    {"derf", NORM_DERF, false, 1e-6, "γ ⊙ erf(α·x + s) + β", "arXiv 2512.10938"},
};
const int NORM_COUNT = sizeof NORMS / sizeof *NORMS;

/* keel: equation, a = number of sublayers and the absence of an initial scheme as others report them of arXiv 2601.19895, whose
 * text was not at hand. Whether its first layer is another, whether a norm precedes its head, and its learning rates were found
 * in no source: here all sublayers are alike, and the last N₂ is what the head reads. */
const PlacementRow PLACEMENTS[] = {
    {"pre", PLACE_PRE, NORM_BEFORE, 0, false, false, true, "x ← x + F(N(x))", "arXiv 2002.04745"},
    {"post", PLACE_POST, NORM_BEFORE, 0, false, false, false, "x ← N(x + F(x))", "arXiv 1706.03762"},
    {"sandwich", PLACE_PRE, NORM_BOTH, 0, false, false, true, "x ← x + N₂(F(N₁(x)))", "arXiv 2502.02732"},
    {"deepnorm", PLACE_POST, NORM_BEFORE, 0.25, true, false, false, "x ← N(α·x + F(x)), α = (2L)^¼", "arXiv 2203.00555"},
    {"mix", PLACE_MIX, NORM_BEFORE, 0, false, false, true, "post in the first layers, pre above", "arXiv 2412.13795"},
    {"lns", PLACE_PRE, NORM_BEFORE, 0, false, true, true, "pre, norm outputs times 1/√layer", "arXiv 2502.05795"},
    {"res-post", PLACE_PRE, NORM_AFTER, 0, false, false, true, "x ← x + N(F(x)), no norm before F", "arXiv 2111.09883"},
    {"keel", PLACE_POST, NORM_BOTH, 1, false, false, false, "x ← N₂(2L·x + F(N₁(x)))", "arXiv 2601.19895"},
    {"hybrid", PLACE_HYBRID, NORM_BEFORE, 0, false, false, true, "z ← N(x + A(x)), q, k, v normed by head; x ← z + M(z)",
     "arXiv 2503.04598"},
    {"hybrid-first", PLACE_HYBRID_FIRST, NORM_BEFORE, 0, false, false, true, "hybrid, the first block pre (HybridNorm*)",
     "arXiv 2503.04598"},
};
const int PLACEMENT_COUNT = sizeof PLACEMENTS / sizeof *PLACEMENTS;

/* --norm's first word is "auto", which config_resolve() has replaced. */
const NormRow *variant_norm(const Config *config) { return &NORMS[config->norm - 1]; }

const PlacementRow *variant_placement(const Config *config) { return &PLACEMENTS[config->placement]; }

bool variant_has_beta(const Config *config) {
    NormKind kind = variant_norm(config)->kind;
    return kind == NORM_LAYERNORM || ((kind == NORM_DYT || kind == NORM_DERF) && config->arch == ARCH_GPT2);
}

bool variant_is_post(const Config *config, int sublayer) {
    switch (variant_placement(config)->type) {
    case PLACE_PRE: return false;
    case PLACE_POST: return true;
    case PLACE_MIX: return sublayer / 2 < config->mix_post_layers;
    case PLACE_HYBRID:
    case PLACE_HYBRID_FIRST: return sublayer % 2 == 0 && !variant_norms_before_attention(config, sublayer / 2);
    }
    return false;
}

bool variant_norms_qkv(const Config *config) {
    PlacementType type = variant_placement(config)->type;
    return type == PLACE_HYBRID || type == PLACE_HYBRID_FIRST;
}

bool variant_norms_before_attention(const Config *config, int layer) {
    const PlacementRow *row = variant_placement(config);
    return row->norms != NORM_AFTER && (!variant_norms_qkv(config) || (row->type == PLACE_HYBRID_FIRST && layer == 0));
}

NormKind variant_final_kind(const Config *config) {
    if (config->final_norm != SWITCH_ON) return NORM_NONE;
    NormKind kind = variant_norm(config)->kind;
    return kind == NORM_BHYT && config->bhyt_lambda_final <= 0 ? NORM_RMSNORM : kind;
}

double variant_shortcut(const Config *config) {
    return pow(2.0 * (double)config->n_layer, variant_placement(config)->power);
}

double variant_sdd_std(const Config *config) { return config->sdd_init_scale / sqrt(2.5 * (double)config->n_embd); }

int variant_gates_per_layer(const Config *config) {
    return config->gpas == GPAS_SUBLAYER ? 2 : config->gpas == GPAS_LAYER ? 1 : 0;
}

/* ------------------------------------------------------------------------------------------------------ */

static NormPlan norm_plan(const Config *c, NormKind kind, ParamId family, int layer) {
    bool scaled = variant_placement(c)->by_depth && c->lns_init == FLAG_OFF && layer >= 0;
    return (NormPlan){.kind = kind, .family = family, .layer = layer, .eps = family == PARAM_FINAL ? c->final_norm_eps : c->norm_eps,
                      .output_scale = scaled ? 1 / sqrt(layer + 1.0) : 1};
}

/* N of sublayer i (0: attention of layer 0, 1: its MLP, …). */
static NormPlan sublayer_norm(const Config *c, int i) {
    return norm_plan(c, variant_norm(c)->kind, i % 2 ? PARAM_NORM2 : PARAM_NORM1, i / 2);
}

/* Its second norm: on its output, or of post-type after the addition. */
static NormPlan second_norm(const Config *c, int i) {
    return norm_plan(c, variant_norm(c)->kind, i % 2 ? PARAM_INNER2 : PARAM_INNER1, i / 2);
}

/* The norm that feeds sublayer i from a stream that no norm of its own has passed; NONE before a post block whose only norm is
 * after the addition, and where the only norm is on the sublayer's output. */
static NormPlan feeding_norm(const Config *c, int i) {
    if (i == 2 * c->n_layer) return norm_plan(c, variant_final_kind(c), PARAM_FINAL, -1);
    PlacedNorms norms = variant_placement(c)->norms;
    bool fed = variant_norms_qkv(c) && i % 2 && variant_is_post(c, i - 1); /* by the norm after attention */
    bool raw = norms == NORM_AFTER || fed || (variant_is_post(c, i) && norms == NORM_BEFORE);
    return raw ? (NormPlan){0} : sublayer_norm(c, i);
}

/* The norm after a post-type sublayer's addition: its own, the second where it has two; hybrid's is the MLP's. */
static NormPlan added_norm(const Config *c, int i) {
    if (variant_placement(c)->norms == NORM_BOTH) return second_norm(c, i);
    return sublayer_norm(c, variant_norms_qkv(c) ? i + 1 : i);
}

static int gate_of(const Config *c, int sublayer) {
    int per_layer = variant_gates_per_layer(c);
    return per_layer ? sublayer / 2 * per_layer + (per_layer == 2 ? sublayer % 2 : 0) : -1;
}

/* What sublayer i's output meets. */
static JunctionPlan after_sublayer(const Config *c, int i) {
    const PlacementRow *row = variant_placement(c);
    bool post = variant_is_post(c, i), scaled = i > 0 && !variant_is_post(c, i - 1); /* what it adds to */
    JunctionPlan plan = {
        .there = true,
        .post = post,
        .sublayer = i,
        .alpha = variant_shortcut(c),
        .norm = post ? added_norm(c, i) : feeding_norm(c, i + 1),
        .sdd = c->sdd == SDD_OFF ? PARAM_COUNT : i % 2 ? PARAM_SDD_MLP_OUT : PARAM_SDD_ATTN_OUT,
        .gate = gate_of(c, i),
        .gate_in = scaled ? gate_of(c, i - 1) : -1,
    };
    if (row->norms != NORM_BEFORE && !post) plan.inner = second_norm(c, i);
    return plan;
}

static JunctionPlan norm_alone(NormPlan norm) {
    return (JunctionPlan){.there = true, .sublayer = -1, .alpha = 1, .norm = norm, .sdd = PARAM_COUNT, .gate = -1,
                          .gate_in = -1};
}

static void plan_bhyt(const Config *c, JunctionPlan *plans) {
    if (!variant_norm(c)->approximates) return;
    for (int i = 0; i < 2 * (2 * (int)c->n_layer + 1); i++) {
        plans[i].gives_mean_square = plans[i].there && plans[i].norm.family == PARAM_NORM1;
        plans[i].takes_mean_square = plans[i].there && plans[i].norm.family == PARAM_NORM2;
    }
}

void variant_plan(const Config *c, JunctionPlan *plans) {
    int last = 2 * (int)c->n_layer;
    for (int j = 0; j <= last; j++) {
        JunctionPlan *main = &plans[2 * j], *second = main + 1;
        *second = (JunctionPlan){0};
        if (j > 0) *main = after_sublayer(c, j - 1);
        else if (c->embed_norm) *main = norm_alone(norm_plan(c, variant_norm(c)->kind, PARAM_EMBED_NORM, -1));
        else *main = norm_alone(feeding_norm(c, 0));
        if (j == 0) main->post = c->embed_norm;
        NormPlan feeding = feeding_norm(c, j);
        if (main->post && feeding.kind != NORM_NONE) *second = norm_alone(feeding);
    }
    plan_bhyt(c, plans);
}

/* ------------------------------------------------------------------------------------------------------ */

void variant_resolve(Config *c) {
    const PlacementRow *row = variant_placement(c);
    const bool released = c->sdd == SDD_RELEASED; /* one ε everywhere, the embedding as the matrices: MATH.md §4 */
    if (isnan(c->norm_eps)) c->norm_eps = released ? 1e-5 : variant_norm(c)->eps;
    if (isnan(c->final_norm_eps)) c->final_norm_eps = c->norm_eps;
    if (isnan(c->init_std_embed)) c->init_std_embed = released ? variant_sdd_std(c) : c->init_std;
    if (c->final_norm == SWITCH_AUTO) c->final_norm = row->final_norm ? SWITCH_ON : SWITCH_OFF;
    if (c->mix_post_layers == AUTO_INT) c->mix_post_layers = c->n_layer / 4;
    /* Their released GPT-2 has 1 everywhere; of LLaMA there is none: their module's own default. */
    if (isnan(c->derf_alpha_attn)) c->derf_alpha_attn = c->arch == ARCH_GPT2 ? 1 : 0.5;
    if (isnan(c->derf_alpha_other)) c->derf_alpha_other = c->arch == ARCH_GPT2 ? 1 : 0.5;
    if (isnan(c->sdd_eps)) c->sdd_eps = released ? 1e-5 : 1e-6;
    if (released && strcmp(row->name, "post") == 0) c->embed_norm = FLAG_ON;
    check(row->type != PLACE_MIX || c->mix_post_layers <= c->n_layer,
          "--mix-post-layers %lld is more than --n-layer %lld: with --placement mix it is 0 to that many",
          (long long)c->mix_post_layers, (long long)c->n_layer);
    check(!variant_norm(c)->approximates || (row->type == PLACE_PRE && row->norms == NORM_BEFORE),
          "--norm bhyt approximates within a pre-norm block: --placement must be pre or lns, not %s "
          "(--norm bhyt-exact goes with all)", row->name);
    check(!c->qk_norm || !c->sdd, "--qk-norm %s with --sdd: SDD norms q and k already; one of the two must be off",
          config_choice("qk-norm", c->qk_norm));
    const char *twice = c->sdd ? "sdd" : c->qk_norm ? "qk-norm" : NULL;
    check(!variant_norms_qkv(c) || !twice, "--placement %s with --%s %s: it norms q, k and v already; one of the two must be off",
          row->name, twice, config_choice(twice, c->sdd ? c->sdd : c->qk_norm));
    bool starts_here = !c->init_from && !c->resume;
    check(!c->gpas || !starts_here || strcmp(config_choice("gpas-act", c->gpas_act), "relu") || c->gpas_init != 0,
          "--gpas-act relu has derivative 0 at --gpas-init 0, so such gates never move: give --gpas-init another value, "
          "or --gpas-act silu, identity, tanh or leaky-relu");
}

void variant_describe(const Config *c, char *text, size_t size) {
    int n = snprintf(text, size, "%s %s", variant_placement(c)->name, variant_norm(c)->name);
    if (c->gpas && (size_t)n < size) {
        n += snprintf(text + n, size - (size_t)n, " gpas-%s", config_choice("gpas", c->gpas));
        if ((size_t)n < size) n += snprintf(text + n, size - (size_t)n, "-%s", config_choice("gpas-act", c->gpas_act));
    }
    if (c->sdd && (size_t)n < size) snprintf(text + n, size - (size_t)n, " sdd-%s", config_choice("sdd", c->sdd));
    if (c->qk_norm && (size_t)n < size) snprintf(text + n, size - (size_t)n, " qk-norm-%s", config_choice("qk-norm", c->qk_norm));
}

/* The words of the other switches: what each means, and where it is from. */
typedef struct Word {
    const char *name, *formula, *source;
} Word;

static const Word GPAS_WORDS[] = {
    {"layer", "y = x − act(g)·sg(x) on the residual; one gate g a layer", "arXiv 2506.22049"},
    {"sublayer", "the same, a gate for attention and one for the MLP", "after arXiv 2506.22049"},
    {"with post-type", "on the shortcut alone: x ← N(α·y + F(x))", "deepnorm: arXiv 2506.22049; others after it"},
};
static const Word GPAS_ACT_WORDS[] = {
    {"silu", "act(g) = g·σ(g)", "arXiv 2506.22049"},
    {"identity", "act(g) = g", ""},
    {"relu", "act(g) = max(g, 0)", ""},
    {"tanh", "act(g) = tanh(g)", ""},
    {"leaky-relu", "act(g) = g, or 0.01·g below 0", ""},
};
static const Word SDD_WORDS[] = {
    {"paper", "Wx becomes α ⊙ rms(Wx) in every linear layer of a block", "arXiv 2502.15499"},
    {"released", "q, k by head, context, o, gate and up as one row, down", "its authors' code"},
};
static const Word OPTION_WORDS[] = {
    {"--final-norm", "a norm before the head; auto: not for post, deepnorm, keel", ""},
    {"--embed-norm", "norm the embedding; on by itself for sdd released + post", "arXiv 2502.15499"},
    {"--embed-scale", "dyt's and derf's learned scalar on the embedding, at first √C", "arXiv 2503.10622"},
    {"--qk-norm", "rms of q and k before RoPE: by head, or projection", "arXiv 2302.05442"},
    {"--mix-post-layers", "mix: how many layers are post", "arXiv 2412.13795"},
    {"--lns-init", "lns: γ starts at 1/√layer and is learned on", "arXiv 2506.22049"},
    {"--deepnorm-init", "deepnorm: Xavier gains (8L)^−¼; off: plain init", "arXiv 2203.00555"},
    {"--final-norm-eps", "that norm's own ε", ""},
    {"--bhyt-kappa", "bhyt: κ", "arXiv 2601.09719"},
    {"--bhyt-gamma-var", "bhyt: mean γ² in pre's estimate too, as lns has it", "arXiv 2601.09719"},
    {"--bhyt-lambda-final", "bhyt: the final norm is bhyt-exact; 0: an rmsnorm", "arXiv 2601.09719"},
};

static void print_row(const char *name, const char *formula, const char *source) {
    int width = 0; /* characters, where printf counts bytes */
    for (const char *at = formula; *at; at++) width += (*at & 0xc0) != 0x80;
    printf("  %-20s %s", name, formula);
    if (*source) printf("%*s  %s", width < 56 ? 56 - width : 0, "", source);
    printf("\n");
}

static void print_words(const char *title, const Word *words, size_t count) {
    printf("%s\n", title);
    for (size_t i = 0; i < count; i++) print_row(words[i].name, words[i].formula, words[i].source);
}

#define PRINT_WORDS(title, words) print_words(title, words, sizeof words / sizeof *words)

void variant_print_table(void) {
    printf("--norm\n");
    for (int i = 0; i < NORM_COUNT; i++) print_row(NORMS[i].name, NORMS[i].formula, NORMS[i].source);
    printf("--placement (F: a sublayer, N: the norm)\n");
    for (int i = 0; i < PLACEMENT_COUNT; i++) print_row(PLACEMENTS[i].name, PLACEMENTS[i].formula, PLACEMENTS[i].source);
    PRINT_WORDS("--gpas (off, or)", GPAS_WORDS);
    PRINT_WORDS("--gpas-act", GPAS_ACT_WORDS);
    PRINT_WORDS("--sdd (off, or)", SDD_WORDS);
    PRINT_WORDS("options", OPTION_WORDS);
    printf("refused\n"
           "  --norm bhyt with --placement post, sandwich, deepnorm, mix, res-post, keel, hybrid, hybrid-first: it estimates a "
           "pre-norm block's statistic; --norm bhyt-exact goes there\n"
           "  --gpas-act relu with --gpas-init 0: its derivative there is 0, the gates would never move\n"
           "  --placement mix with --mix-post-layers over --n-layer\n"
           "  --qk-norm with --sdd, which norms q and k already; --placement hybrid, hybrid-first with either\n"
           "Everything else goes with everything else.\n");
}
