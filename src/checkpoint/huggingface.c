/* huggingface.c: which class of transformers computes a model, and its config.json. See huggingface.h. */
#include "huggingface.h"
#include "../settings/variant.h"
#include "huggingface_code.h"

#include <stdio.h>
#include <string.h>

#define NO_VARIANT "placement=pre final-norm=on embed-norm=off embed-scale=off gpas=off sdd=off"

/* `implied` is both the rule of who may carry the name and what a file of that name says beyond its keys. */
const HuggingfaceRow HUGGINGFACE_ROWS[CLASS_COUNT] = {
    [CLASS_GPT2] = {"gpt2", "GPT2LMHeadModel|GPT2Model",
                    "arch=gpt2 positions=learned activation=gelu bias=on norm=layernorm " NO_VARIANT},
    [CLASS_LLAMA] = {"llama", "LlamaForCausalLM|LlamaModel",
                     "arch=llama positions=rope activation=swiglu norm=rmsnorm " NO_VARIANT},
    [CLASS_OWN] = {"train_gpt", "TrainGptForCausalLM", ""},
};

/* Not what is a step's business: --gpas-clip, … */
const char *const HUGGINGFACE_OWN_FLAGS[] = {
    "arch", "n-layer", "n-head", "n-kv-head", "n-embd", "n-ffn", "seq-len", "vocab-size", "positions", "rope-base",
    "activation", "bias", "tie-embeddings", "norm", "placement", "norm-eps", "final-norm", "embed-norm",
    "embed-scale", "mix-post-layers", "lns-init", "gpas", "gpas-act", "sdd", "sdd-eps", "bhyt-lambda-final",
    "bhyt-gamma-var",
};
const int HUGGINGFACE_OWN_COUNT = sizeof HUGGINGFACE_OWN_FLAGS / sizeof *HUGGINGFACE_OWN_FLAGS;

const char *const HUGGINGFACE_INITIAL_FLAGS[] = {
    "init-std", "init-std-embed", "deepnorm-init", "gpas-init", "sdd-init-scale", "dyt-alpha-attn", "dyt-alpha-other",
    "bhyt-lambda-attn", "bhyt-lambda-mlp",
};
const int HUGGINGFACE_INITIAL_COUNT = sizeof HUGGINGFACE_INITIAL_FLAGS / sizeof *HUGGINGFACE_INITIAL_FLAGS;

void huggingface_own_key(char key[64], const char *flag) {
    snprintf(key, 64, "%s", flag);
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
    return pre && !row->inner && (!row->by_depth || c->lns_init == FLAG_ON || c->n_layer == 1);
}

static bool has_what_is_implied(const Config *c, const char *implied) {
    char copy[256], *state = NULL;
    snprintf(copy, sizeof copy, "%s", implied);
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *value = strchr(word, '=');
        *value++ = '\0';
        const Flag *flag = flag_find(word);
        bool same = strcmp(word, "placement") == 0
                        ? is_pre(c)
                        : strcmp(config_choice(word, *(const int64_t *)((const char *)c + flag->offset)), value) == 0;
        if (!same) return false;
    }
    return true;
}

HuggingfaceClass huggingface_class(const Config *c) {
    if (has_what_is_implied(c, HUGGINGFACE_ROWS[CLASS_LLAMA].implied)) return CLASS_LLAMA;
    if (has_what_is_implied(c, HUGGINGFACE_ROWS[CLASS_GPT2].implied) && c->n_kv_head == c->n_head) return CLASS_GPT2;
    return CLASS_OWN;
}

/* ------------------------------------------------------------------------------------------------------
 * Writing
 * ---------------------------------------------------------------------------------------------------- */

/* With a point, as transformers takes some numbers by their type. */
static void add_real(cJSON *o, const char *key, const Config *c, const char *flag) {
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
    add_real(o, "layer_norm_epsilon", c, "norm-eps");
    cJSON_AddStringToObject(o, "activation_function", "gelu_new");
    for (size_t i = 0; i < sizeof DROPOUTS / sizeof *DROPOUTS; i++) cJSON_AddRawToObject(o, DROPOUTS[i], "0.0");
}

static void add_llama(cJSON *o, const Config *c) {
    static const char *const NAMES[] = {"num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_size",
                                        "intermediate_size", "max_position_embeddings", "head_dim"};
    const int64_t values[] = {c->n_layer, c->n_head, c->n_kv_head, c->n_embd, c->n_ffn, c->seq_len, c->head_size};
    add_integers(o, NAMES, values, sizeof values / sizeof *values);
    add_real(o, "rms_norm_eps", c, "norm-eps");
    add_real(o, "rope_theta", c, "rope-base");
    cJSON_AddStringToObject(o, "hidden_act", "silu");
    cJSON_AddBoolToObject(o, "attention_bias", c->bias == SWITCH_ON);
    cJSON_AddBoolToObject(o, "mlp_bias", c->bias == SWITCH_ON);
}

static void add_flags(cJSON *o, const Config *c, const char *const *flags, int count) {
    for (int i = 0; i < count; i++) {
        const Flag *flag = flag_find(flags[i]);
        char key[64], text[32];
        huggingface_own_key(key, flag->name);
        const char *value = config_value(c, flag, text, sizeof text);
        if (flag->type == FLAG_CHOICE) cJSON_AddStringToObject(o, key, value);
        else if (flag->type == FLAG_REAL) add_real(o, key, c, flag->name);
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
    /* By default a text there ends with the last of GPT-2's 50,257 tokens, with the third of LLaMA's 32,000. */
    if (c->vocab_size != (class == CLASS_GPT2 ? 50257 : 32000)) {
        cJSON_AddNullToObject(o, "bos_token_id");
        cJSON_AddNullToObject(o, "eos_token_id");
    }
    if (class == CLASS_GPT2) add_gpt2(o, c);
    else add_llama(o, c);
    return o;
}
