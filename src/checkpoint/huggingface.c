/* huggingface.c: which class of transformers computes a model, and its config.json. See huggingface.h. */
#include "huggingface.h"
#include "../settings/variant.h"
#include "huggingface_code.h"

#include <stdio.h>
#include <string.h>

#define NO_VARIANT "final-norm=on embed-norm=off embed-scale=off gpas=off sdd=off "
#define LLAMA_LIKE "arch=llama positions=rope activation=swiglu norm=rmsnorm " NO_VARIANT

/* `implied` is both the rule of who may carry the name and what a file of that name says beyond its keys. */
const HuggingfaceRow HUGGINGFACE_ROWS[CLASS_COUNT] = {
    [CLASS_GPT2] = {"gpt2", "GPT2LMHeadModel|GPT2Model",
                    "arch=gpt2 positions=learned bias=on norm=layernorm placement=pre qk-norm=off " NO_VARIANT, 50257},
    [CLASS_LLAMA] = {"llama", "LlamaForCausalLM|LlamaModel", LLAMA_LIKE "placement=pre qk-norm=off", 32000},
    [CLASS_MISTRAL] = {"mistral", "MistralForCausalLM|MistralModel", LLAMA_LIKE "placement=pre qk-norm=off bias=off", 32000},
    [CLASS_QWEN2] = {"qwen2", "Qwen2ForCausalLM|Qwen2Model", LLAMA_LIKE "placement=pre qk-norm=off bias=qkv", 151936},
    [CLASS_QWEN3] = {"qwen3", "Qwen3ForCausalLM|Qwen3Model", LLAMA_LIKE "placement=pre qk-norm=head bias=off", 151936},
    [CLASS_OLMO2] = {"olmo2", "Olmo2ForCausalLM|Olmo2Model", LLAMA_LIKE "placement=res-post qk-norm=projection bias=off", 50304},
    [CLASS_OWN] = {"train_gpt", "TrainGptForCausalLM", "", 0},
};

/* Not what is a step's business: --gpas-clip, … */
const char *const HUGGINGFACE_OWN_FLAGS[] = {
    "arch", "n-layer", "n-head", "n-kv-head", "n-embd", "head-dim", "n-ffn", "seq-len", "vocab-size", "positions",
    "rope-base", "rope-scaling", "rope-factor", "rope-low-freq-factor", "rope-high-freq-factor", "rope-original-seq-len",
    "activation", "bias", "tie-embeddings", "norm", "placement", "norm-eps", "final-norm", "embed-norm", "embed-scale",
    "qk-norm", "mix-post-layers", "lns-init", "gpas", "gpas-act", "sdd", "sdd-eps", "bhyt-lambda-final", "bhyt-gamma-var",
    "bhyt-kappa", "final-norm-eps",
};
const int HUGGINGFACE_OWN_COUNT = sizeof HUGGINGFACE_OWN_FLAGS / sizeof *HUGGINGFACE_OWN_FLAGS;

const char *const HUGGINGFACE_INITIAL_FLAGS[] = {
    "init-std", "init-std-embed", "deepnorm-init", "gpas-init", "sdd-init-scale", "dyt-alpha-attn", "dyt-alpha-other",
    "bhyt-lambda-attn", "bhyt-lambda-mlp", "derf-alpha-attn", "derf-alpha-other",
};
const int HUGGINGFACE_INITIAL_COUNT = sizeof HUGGINGFACE_INITIAL_FLAGS / sizeof *HUGGINGFACE_INITIAL_FLAGS;

/* What they had no flag for, they computed as its default is. */
static const char NEWER[] =
    "head-dim|qk-norm|rope-scaling|rope-factor|rope-low-freq-factor|rope-high-freq-factor|rope-original-seq-len";
bool huggingface_is_newer(const char *flag) { return hf_listed(NEWER, flag); }

void huggingface_own_key(char key[64], const char *flag) {
    /* transformers takes rope_scaling for its own, with other values, in any config. */
    snprintf(key, 64, "%s", strcmp(flag, "rope-scaling") ? flag : "rope_type");
    for (char *at = key; *at; at++)
        if (*at == '-') *at = '_';
}

/* ------------------------------------------------------------------------------------------------------
 * Which class
 * ---------------------------------------------------------------------------------------------------- */

/* The placements that are no other than pre here: mixing in no layer; scaling that is learned, or of one layer. */
static bool is_pre(const Config *c) {
    const PlacementRow *row = variant_placement(c);
    bool pre = row->type == PLACE_PRE || (row->type == PLACE_MIX && c->mix_post_layers == 0);
    return pre && row->norms == NORM_BEFORE && (!row->by_depth || c->lns_init == FLAG_ON || c->n_layer == 1);
}

static bool has_what_is_implied(const Config *c, const char *implied) {
    char copy[256], *state = NULL;
    snprintf(copy, sizeof copy, "%s", implied);
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        const Flag *flag = flag_find(word);
        bool same = strcmp(word, "placement") == 0 && strcmp(value, "pre") == 0
                        ? is_pre(c)
                        : strcmp(config_choice(word, *(const int64_t *)((const char *)c + flag->offset)), value) == 0;
        if (!same) return false;
    }
    return true;
}

/* What a class has of its own beside that: its shapes, and what it leaves open. */
static bool fits(const Config *c, HuggingfaceClass class) {
    bool gelu = c->activation == ACTIVATION_FLAG_GELU || c->activation == ACTIVATION_FLAG_GELU_EXACT;
    switch (class) {
    case CLASS_GPT2: return gelu && c->n_kv_head == c->n_head && c->head_size * c->n_head == c->n_embd;
    case CLASS_LLAMA: return c->bias != BIAS_QKV && c->n_embd % c->n_head == 0; /* its config demands it, whatever head_dim is */
    default: return true;
    }
}

/* Without a window Mistral is LLaMA; its name is for widths that LLaMA's refuses. */
HuggingfaceClass huggingface_class(const Config *c) {
    if (c->final_norm_eps != c->norm_eps) return CLASS_OWN; /* theirs have one */
    int class = CLASS_GPT2;
    while (class < CLASS_OWN && !(has_what_is_implied(c, HUGGINGFACE_ROWS[class].implied) && fits(c, class))) class++;
    return (HuggingfaceClass)class;
}

/* ------------------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------------------- */

void hf_write_real(cJSON *o, const char *key, const Config *c, const char *flag) {
    char text[48];
    config_value(c, flag_find(flag), text, 32);
    if (!strpbrk(text, ".e")) strcat(text, ".0");
    cJSON_AddRawToObject(o, key, text);
}

static void add_integers(cJSON *o, const char *const *names, const int64_t *values, size_t count) {
    for (size_t i = 0; i < count; i++) cJSON_AddNumberToObject(o, names[i], (double)values[i]);
}

static void add_gpt2(cJSON *o, const Config *c) {
    static const char *const NAMES[] = {"n_layer", "n_head", "n_embd", "n_inner", "n_positions"};
    static const char *const DROPOUTS[] = {"resid_pdrop", "embd_pdrop", "attn_pdrop"}; /* there 0.1 by default */
    add_integers(o, NAMES, (int64_t[]){c->n_layer, c->n_head, c->n_embd, c->n_ffn, c->seq_len}, 5);
    hf_write_real(o, "layer_norm_epsilon", c, "norm-eps");
    cJSON_AddStringToObject(o, "activation_function", c->activation == ACTIVATION_FLAG_GELU ? "gelu_new" : "gelu");
    for (size_t i = 0; i < sizeof DROPOUTS / sizeof *DROPOUTS; i++) cJSON_AddRawToObject(o, DROPOUTS[i], "0.0");
}

static void add_llama(cJSON *o, const Config *c, HuggingfaceClass class) {
    static const char *const NAMES[] = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
                                        "intermediate_size", "max_position_embeddings", "head_dim"};
    const int64_t values[] = {c->n_layer, c->n_head, c->n_kv_head, c->n_embd, c->n_ffn, c->seq_len, c->head_size};
    bool as_usual = (class == CLASS_QWEN2 || class == CLASS_OLMO2) && c->head_size * c->n_head == c->n_embd; /* no key of theirs */
    add_integers(o, NAMES, values, sizeof values / sizeof *values - as_usual);
    hf_write_real(o, "rms_norm_eps", c, "norm-eps");
    hf_write_rope(o, c);
    cJSON_AddStringToObject(o, "hidden_act", "silu");
    if (class == CLASS_MISTRAL) cJSON_AddNullToObject(o, "sliding_window"); /* there 4096 by default */
    if (class == CLASS_QWEN2 || class == CLASS_QWEN3) cJSON_AddBoolToObject(o, "use_sliding_window", false);
    if (class == CLASS_LLAMA || class == CLASS_QWEN3 || class == CLASS_OLMO2)
        cJSON_AddBoolToObject(o, "attention_bias", c->bias == SWITCH_ON);
    if (class == CLASS_LLAMA) cJSON_AddBoolToObject(o, "mlp_bias", c->bias == SWITCH_ON);
}

static void add_flags(cJSON *o, const Config *c, const char *const *flags, int count) {
    for (int i = 0; i < count; i++) {
        const Flag *flag = flag_find(flags[i]);
        char key[64], text[32];
        huggingface_own_key(key, flag->name);
        const char *value = config_value(c, flag, text, sizeof text);
        if (flag->type == FLAG_CHOICE) cJSON_AddStringToObject(o, key, value);
        else if (flag->type == FLAG_REAL) hf_write_real(o, key, c, flag->name);
        else cJSON_AddRawToObject(o, key, value);
    }
}

cJSON *huggingface_config(const Config *c) {
    HuggingfaceClass class = huggingface_class(c);
    const HuggingfaceRow *row = &HUGGINGFACE_ROWS[class];
    cJSON *o = cJSON_CreateObject(), *architectures = cJSON_AddArrayToObject(o, "architectures");
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)strcspn(row->architectures, "|"), row->architectures);
    cJSON_AddItemToArray(architectures, cJSON_CreateString(name));
    cJSON_AddStringToObject(o, "model_type", row->model_type);
    cJSON_AddStringToObject(o, "torch_dtype", c->dtype == DTYPE_FLAG_FP64 ? "float64" : "float32");
    cJSON_AddBoolToObject(o, "tie_word_embeddings", c->tie_embeddings == SWITCH_ON);
    if (class == CLASS_OWN) {
        huggingface_code_map(o);
        add_flags(o, c, HUGGINGFACE_OWN_FLAGS, HUGGINGFACE_OWN_COUNT);
        add_flags(o, c, HUGGINGFACE_INITIAL_FLAGS, HUGGINGFACE_INITIAL_COUNT);
        return o;
    }
    cJSON_AddNumberToObject(o, "vocab_size", (double)c->vocab_size);
    /* By default a text there ends with the last of GPT-2's 50,257 tokens, with the third of LLaMA's 32,000, and so on. */
    if (c->vocab_size != row->vocab_size) {
        cJSON_AddNullToObject(o, "bos_token_id");
        cJSON_AddNullToObject(o, "eos_token_id");
        if (class == CLASS_OLMO2) cJSON_AddNullToObject(o, "pad_token_id");
    }
    if (class == CLASS_GPT2) add_gpt2(o, c);
    else add_llama(o, c, class);
    return o;
}
