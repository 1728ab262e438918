/*
 * test_huggingface_config.c: config.json names a class of transformers where that computes the model, and nowhere else.
 *
 * Whether transformers thinks the same is hf/test_plain.py's.
 */
#define _GNU_SOURCE
#include "../src/checkpoint/huggingface.h"
#include "../src/checkpoint/huggingface_code.h"
#include "../src/model/params.h"
#include "../src/settings/variant.h"
#include "settings.h"

#include <stdlib.h>

static const char SHAPE[] = "n-layer=2 n-head=4 n-embd=32 n-ffn=48 seq-len=8 batch-size=1 vocab-size=19 ";

/* One step away from a plain model each; two of them together are every pair. */
static const char *const STEPS[] = {
    "arch=gpt2", "arch=llama", "positions=learned", "positions=rope", "activation=gelu", "activation=swiglu", "bias=on",
    "bias=off", "tie-embeddings=on", "tie-embeddings=off", "n-kv-head=2", "norm=layernorm", "norm=rmsnorm", "norm=dyt",
    "norm=bhyt-exact", "norm=bhyt", "norm=derf", "placement=post", "placement=sandwich", "placement=deepnorm", "placement=mix",
    "placement=mix mix-post-layers=0", "placement=mix mix-post-layers=1", "placement=lns", "placement=lns lns-init=on",
    "final-norm=on", "final-norm=off", "embed-norm=on", "embed-scale=on", "gpas=layer", "gpas=sublayer", "sdd=paper",
    "sdd=released", "norm-eps=0.1", "final-norm-eps=0.2", "bhyt-kappa=3", "norm-eps=0", "rope-base=500", "rope-scaling=linear rope-factor=2.5",
    "rope-scaling=llama3 rope-original-seq-len=4", "bias=qkv", "qk-norm=head", "qk-norm=projection",
    "placement=res-post", "placement=res-post qk-norm=projection", "placement=keel",
    "placement=hybrid", "placement=hybrid-first", "head-dim=6", "n-embd=34 head-dim=8",
    "activation=gelu-exact", "seq-len=9", "n-ffn=40", "n-head=2", "n-head=1",
    "n-layer=1", "bhyt-lambda-final=2", "gpas-act=tanh", "sdd-eps=1e-3", "lns-init=on", "dtype=fp64",
};
enum { STEP_COUNT = sizeof STEPS / sizeof *STEPS };

/* False where config_resolve() would end the process. */
static bool configure(Config *config, const char *settings) {
    char all[512];
    snprintf(all, sizeof all, "%s%s", SHAPE, settings);
    configure_raw(config, all);
    bool bhyt = config->norm > 0 && NORMS[config->norm - 1].approximates;
    if (bhyt && config->placement != 0 && strcmp(PLACEMENTS[config->placement].name, "lns")) return false;
    if (config->n_kv_head != AUTO_INT && config->n_head % config->n_kv_head) return false;
    if (config->qk_norm && config->sdd) return false;
    if ((config->qk_norm || config->sdd) && strncmp(PLACEMENTS[config->placement].name, "hybrid", 6) == 0) return false;
    if (config->head_size == AUTO_INT && config->n_embd % config->n_head) return false;
    config_resolve(config, 1);
    return true;
}

/* ------------------------------------------------------------------------------------------------------- writing */

/* What each class holds, without the numbers of layers; in order of the files. */
static const char *const GPT2_TENSORS =
    "wte.weight wpe.weight ln_1.weight ln_1.bias attn.c_attn.weight attn.c_attn.bias attn.c_proj.weight attn.c_proj.bias "
    "ln_2.weight ln_2.bias mlp.c_fc.weight mlp.c_fc.bias mlp.c_proj.weight mlp.c_proj.bias ln_f.weight ln_f.bias ";
static const char *const LLAMA_TENSORS =
    "embed_tokens.weight input_layernorm.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.o_proj.weight post_attention_layernorm.weight mlp.gate_proj.weight mlp.up_proj.weight "
    "mlp.down_proj.weight norm.weight ";
static const char *const LLAMA_BIASED_TENSORS =
    "embed_tokens.weight input_layernorm.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias self_attn.o_proj.weight self_attn.o_proj.bias "
    "post_attention_layernorm.weight mlp.gate_proj.weight mlp.up_proj.weight mlp.gate_proj.bias mlp.up_proj.bias "
    "mlp.down_proj.weight mlp.down_proj.bias norm.weight ";

static const char *const QWEN2_TENSORS =
    "embed_tokens.weight input_layernorm.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.q_proj.bias self_attn.k_proj.bias self_attn.v_proj.bias self_attn.o_proj.weight "
    "post_attention_layernorm.weight mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight norm.weight ";
static const char *const QWEN3_TENSORS =
    "embed_tokens.weight input_layernorm.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.q_norm.weight self_attn.k_norm.weight self_attn.o_proj.weight "
    "post_attention_layernorm.weight mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight norm.weight ";
static const char *const OLMO2_TENSORS =
    "embed_tokens.weight self_attn.q_proj.weight self_attn.k_proj.weight self_attn.v_proj.weight "
    "self_attn.q_norm.weight self_attn.k_norm.weight self_attn.o_proj.weight post_attention_layernorm.weight "
    "mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight post_feedforward_layernorm.weight norm.weight ";

/* The names of what is not the head, the first layer's alone, each behind its last prefix. */
static void names_of(const Config *config, char *text, size_t size) {
    static const char *const PREFIXES[] = {"transformer.h.0.", "model.layers.0.", "transformer.", "model."};
    Params params;
    int count;
    params_build(&params, config);
    FileTensor *tensors = params_file_tensors(&params, &count);
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < count; i++) {
        const char *name = tensors[i].name;
        if (tensors[i].param->layer > 0 || tensors[i].param->id == PARAM_HEAD) continue;
        for (size_t p = 0; p < sizeof PREFIXES / sizeof *PREFIXES; p++)
            if (strncmp(name, PREFIXES[p], strlen(PREFIXES[p])) == 0) {
                name += strlen(PREFIXES[p]);
                break;
            }
        used += (size_t)snprintf(text + used, size - used, "%s ", name);
        assert_true(used < size);
    }
    free(tensors);
    params_free(&params);
}

/* Whether the wiring is x ← x + F(N(x)), or x ← x + N(F(x)) with `after`, and one norm at the end, and every norm of this
 * kind, unscaled. */
static bool is_wired(const Config *c, NormKind kind, bool after) {
    JunctionPlan plans[2 * (2 * 2 + 1)];
    bool plain = true;
    variant_plan(c, plans);
    for (int j = 0; j <= 2 * c->n_layer; j++) {
        const JunctionPlan *p = &plans[2 * j];
        NormKind feeding = after && j < 2 * c->n_layer ? NORM_NONE : kind, inner = after && j > 0 ? kind : NORM_NONE;
        plain = plain && !plans[2 * j + 1].there && p->there && !p->post && p->alpha == 1 && p->norm.kind == feeding &&
                (feeding == NORM_NONE || p->norm.output_scale == 1) && p->inner.kind == inner && p->sdd == PARAM_COUNT &&
                p->gate < 0 && p->gate_in < 0 && !p->takes_mean_square;
    }
    return plain;
}

/* Whether two texts hold the same words, each with a blank behind it, in any order. */
static bool same_words(const char *a, const char *b) {
    if (strlen(a) != strlen(b)) return false;
    for (const char *word = a; *word; word += strcspn(word, " ") + 1) {
        size_t length = strcspn(word, " ") + 1;
        const char *at = b;
        while (*at && strncmp(at, word, length)) at += strcspn(at, " ") + 1;
        if (!*at) return false;
    }
    return true;
}

/* Which class has these tensors and this wiring, by other means than the table of huggingface.c. */
static HuggingfaceClass class_by_parts(const Config *c) {
    char names[2048];
    names_of(c, names, sizeof names);
    if (c->final_norm_eps != c->norm_eps) return CLASS_OWN;
    bool whole = c->head_size * c->n_head == c->n_embd, divides = c->n_embd % c->n_head == 0;
    if (same_words(names, GPT2_TENSORS) && is_wired(c, NORM_LAYERNORM, false) && c->n_kv_head == c->n_head && whole)
        return CLASS_GPT2;
    bool projection = c->qk_norm == QK_NORM_PROJECTION; /* α's length says it, but of a single head */
    if (same_words(names, OLMO2_TENSORS)) return is_wired(c, NORM_RMSNORM, true) && projection ? CLASS_OLMO2 : CLASS_OWN;
    if (!is_wired(c, NORM_RMSNORM, false)) return CLASS_OWN;
    if (same_words(names, LLAMA_TENSORS)) return divides ? CLASS_LLAMA : CLASS_MISTRAL;
    if (same_words(names, LLAMA_BIASED_TENSORS)) return divides ? CLASS_LLAMA : CLASS_OWN;
    if (same_words(names, QWEN2_TENSORS)) return CLASS_QWEN2;
    return same_words(names, QWEN3_TENSORS) && !projection ? CLASS_QWEN3 : CLASS_OWN;
}

static const char *text_of(const cJSON *o, const char *key) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
    return text ? text : "";
}

/* What is written is read as the same model: it would be written so again. */
static void check_read_back(const cJSON *written, const Config *config, const char *settings) {
    HuggingfaceModel model;
    Config read;
    Error error = {0};
    char *text = cJSON_Print(written);
    if (!huggingface_parse(text, strlen(text), &model, &error)) fail_msg("%s: %s", settings, error.text);
    assert_string_equal(model.unknown, "");
    configure_raw(&read, "batch-size=1");
    huggingface_apply(&model, &read);
    if (!huggingface_agrees(&model, "config.json", &read, &error)) fail_msg("%s: %s", settings, error.text);
    read.dtype = config->dtype;
    config_resolve(&read, 1);
    cJSON *again = huggingface_config(&read);
    char *text_again = cJSON_Print(again);
    if (strcmp(text, text_again)) fail_msg("%s: %s, then %s", settings, text, text_again);
    cJSON_Delete(again);
    cJSON_free(text_again);
    cJSON_free(text);
}

/* auto_map and the keys of initial values are there for a model of our own, and for no other. */
static void check_own_keys(const cJSON *o, HuggingfaceClass class, const char *settings) {
    const cJSON *map = cJSON_GetObjectItemCaseSensitive(o, "auto_map"), *item;
    int keys = 0;
    for (int i = 0; i < HUGGINGFACE_INITIAL_COUNT; i++) {
        char key[64];
        huggingface_own_key(key, HUGGINGFACE_INITIAL_FLAGS[i]);
        keys += cJSON_HasObjectItem(o, key);
    }
    if (class != CLASS_OWN) {
        if (map || keys) fail_msg("%s: a plain model with auto_map, or %d keys of ours", settings, keys);
        return;
    }
    if (cJSON_GetArraySize(map) != 3 || keys != HUGGINGFACE_INITIAL_COUNT)
        fail_msg("%s: no auto_map, or %d keys", settings, keys);
    cJSON_ArrayForEach(item, map) { /* file.Class, of a file that the checkpoint holds, which has the class */
        char class_line[96];
        bool found = false;
        const char *dot = strchr(item->valuestring, '.');
        snprintf(class_line, sizeof class_line, "\nclass %s(", dot + 1);
        for (int i = 0; i < HUGGINGFACE_CODE_FILES; i++) {
            const HuggingfaceCode *code = &HUGGINGFACE_CODE[i];
            size_t length = strlen(code->name) - strlen(".py");
            found |= strncmp(code->name, item->valuestring, length) == 0 && length == (size_t)(dot - item->valuestring) &&
                     memmem(code->text, (size_t)(code->end - code->text), class_line, strlen(class_line));
        }
        if (!found) fail_msg("%s: auto_map: %s is nowhere", settings, item->valuestring);
    }
}

static void check_written(const Config *config, HuggingfaceClass class, const char *settings) {
    static const char *const TYPES[] = {"gpt2", "llama", "mistral", "qwen2", "qwen3", "olmo2", "train_gpt"};
    static const char *const NAMES[] = {"GPT2LMHeadModel", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                                        "Qwen3ForCausalLM", "Olmo2ForCausalLM", "TrainGptForCausalLM"};
    cJSON *o = huggingface_config(config);
    const cJSON *architectures = cJSON_GetObjectItemCaseSensitive(o, "architectures");
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(architectures, 0));
    if (strcmp(text_of(o, "model_type"), TYPES[class]) || cJSON_GetArraySize(architectures) != 1 || !name ||
        strcmp(name, NAMES[class]))
        fail_msg("%s: written as %s", settings, text_of(o, "model_type"));
    assert_string_equal(text_of(o, "torch_dtype"), config->dtype == DTYPE_FLAG_FP64 ? "float64" : "float32");
    check_own_keys(o, class, settings);
    check_read_back(o, config, settings);
    cJSON_Delete(o);
}

static void classes_of_transformers_name_only_what_they_compute(void **state) {
    (void)state;
    int counts[CLASS_COUNT] = {0};
    for (int arch = 0; arch < 2; arch++)
        for (int i = 0; i < STEP_COUNT; i++)
            for (int j = i; j < STEP_COUNT; j++) {
                char settings[256];
                Config config;
                snprintf(settings, sizeof settings, "arch=%s %s %s", arch ? "llama" : "gpt2", STEPS[i], STEPS[j]);
                if (!configure(&config, settings)) continue;
                HuggingfaceClass want = class_by_parts(&config), have = huggingface_class(&config);
                if (have != want) fail_msg("%s: class %d, not %d", settings, have, want);
                check_written(&config, want, settings);
                counts[want]++;
            }
    /* Most are a model of our own; the rest is there as well. */
    assert_true(counts[CLASS_GPT2] > 50 && counts[CLASS_LLAMA] > 50 && counts[CLASS_OWN] > 1000);
    assert_true(counts[CLASS_MISTRAL] > 10 && counts[CLASS_QWEN2] > 10 && counts[CLASS_QWEN3] > 10 && counts[CLASS_OLMO2] > 10);
}

/* Each alone, so that a rule that is gone shows as the flag that it was about. */
static void one_flag_makes_a_model_of_our_own(void **state) {
    (void)state;
    static const char *const OWN[] = {
        "arch=gpt2 positions=rope", "arch=gpt2 activation=swiglu", "arch=gpt2 norm=rmsnorm", "arch=gpt2 bias=off",
        "arch=gpt2 n-kv-head=2", "arch=llama norm=layernorm", "arch=llama activation=gelu", "arch=llama positions=learned",
        "arch=gpt2 placement=post", "arch=gpt2 placement=post final-norm=on", "arch=llama placement=deepnorm final-norm=on",
        "arch=llama placement=lns", "arch=llama placement=mix mix-post-layers=1", "arch=llama placement=sandwich",
        "arch=llama final-norm=off", "arch=llama final-norm-eps=0.2", "arch=llama embed-norm=on", "arch=llama embed-scale=on", "arch=gpt2 gpas=layer",
        "arch=gpt2 bias=qkv", "arch=gpt2 qk-norm=head", "arch=gpt2 head-dim=6", "arch=llama qk-norm=projection",
        "arch=llama placement=res-post", "arch=llama placement=res-post qk-norm=head", "arch=llama qk-norm=head bias=on",
        "arch=llama qk-norm=head bias=qkv", "arch=llama placement=res-post qk-norm=projection bias=on",
        "arch=llama placement=res-post qk-norm=projection norm=layernorm", "arch=llama activation=gelu-exact",
        "arch=llama sdd=paper", "arch=llama norm=dyt", "arch=llama norm=bhyt", "arch=llama norm=bhyt-exact",
        "arch=llama norm=derf", "arch=llama placement=keel", "arch=gpt2 placement=keel final-norm=on",
        "arch=llama placement=hybrid", "arch=llama placement=hybrid-first n-layer=1",
    };
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++) {
        Config config;
        assert_true(configure(&config, OWN[i]));
        if (huggingface_class(&config) != CLASS_OWN) fail_msg("%s is no model of transformers'", OWN[i]);
    }
}

/* ------------------------------------------------------------------------------------------------------- reading */

#define GPT2  "\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_head\": 4, \"n_embd\": 32, \"n_positions\": 8, \"vocab_size\": 19"
#define LLAMA "\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"hidden_size\": 32, " \
              "\"intermediate_size\": 48, \"max_position_embeddings\": 8, \"vocab_size\": 19"

#define LLAMA3 "'rope_type': 'llama3', 'factor': 32.0, 'low_freq_factor': 1.5, 'high_freq_factor': 4.0, " \
               "'original_max_position_embeddings': 4"

#define OTHER(type) "\"model_type\": \"" type "\", \"num_hidden_layers\": 2, \"num_attention_heads\": 4, " \
                    "\"num_key_value_heads\": 2, \"hidden_size\": 32, \"intermediate_size\": 48, " \
                    "\"max_position_embeddings\": 8, \"vocab_size\": 19"
#define MISTRAL OTHER("mistral")
#define QWEN2   OTHER("qwen2")
#define QWEN3   OTHER("qwen3")
#define OLMO2   OTHER("olmo2")

/* Parses {base, more}, where `more` has ' for ". */
static bool parse(const char *base, const char *more, HuggingfaceModel *model, Error *error) {
    char text[2048];
    snprintf(text, sizeof text, "{%s%s%s}", base, *base && *more ? ", " : "", more);
    for (char *at = text; *at; at++)
        if (*at == '\'') *at = '"';
    char *exact = malloc(strlen(text)); /* no byte beyond it: sanitizers know */
    memcpy(exact, text, strlen(text));
    *error = (Error){0};
    bool good = huggingface_parse(exact, strlen(text), model, error);
    free(exact);
    return good;
}

static void assert_reads(const char *base, const char *more, const char *flag, const char *value) {
    HuggingfaceModel model;
    Config config;
    Error error;
    char text[32];
    if (!parse(base, more, &model, &error)) fail_msg("%s: %s", more, error.text);
    config_defaults(&config);
    huggingface_apply(&model, &config);
    const char *have = config_value(&config, flag_find(flag), text, sizeof text);
    if (strcmp(have, value)) fail_msg("%s: --%s %s, not %s", more, flag, have, value);
}

static void shape_and_constants_are_read(void **state) {
    (void)state;
    static const struct {
        const char *base, *more, *flag, *value;
    } CASES[] = {
        {GPT2, "", "arch", "gpt2"}, {GPT2, "", "n-layer", "2"}, {GPT2, "", "n-head", "4"}, {GPT2, "", "n-kv-head", "4"},
        {GPT2, "", "n-embd", "32"}, {GPT2, "", "n-ffn", "128"}, {GPT2, "'n_inner': null", "n-ffn", "128"},
        {GPT2, "'n_inner': 40", "n-ffn", "40"}, {GPT2, "", "seq-len", "8"}, {GPT2, "", "vocab-size", "19"},
        {GPT2, "", "norm-eps", "1e-05"}, {GPT2, "'layer_norm_epsilon': 0.1", "norm-eps", "0.1"},
        {GPT2, "", "tie-embeddings", "on"}, {GPT2, "'tie_word_embeddings': false", "tie-embeddings", "off"},
        {GPT2, "", "norm", "layernorm"}, {GPT2, "", "bias", "on"}, {GPT2, "", "placement", "pre"},
        {GPT2, "", "positions", "learned"}, {GPT2, "", "activation", "gelu"}, {GPT2, "", "final-norm", "on"},
        {GPT2, "'hidden_size': 32", "n-embd", "32"},
        {"\"model_type\": \"gpt2\"", "'num_hidden_layers': 3", "n-layer", "3"}, /* the second name alone */
        {"\"model_type\": \"gpt2\"", "", "n-embd", "768"}, {"\"model_type\": \"gpt2\"", "", "vocab-size", "50257"},
        {"\"architectures\": [\"GPT2LMHeadModel\"]", "'n_ctx': 1024", "seq-len", "1024"}, /* as of 2019 */
        {GPT2, "'architectures': ['GPT2Model']", "arch", "gpt2"},
        {LLAMA, "", "arch", "llama"}, {LLAMA, "", "n-layer", "2"}, {LLAMA, "", "n-kv-head", "4"},
        {LLAMA, "'num_key_value_heads': 2", "n-kv-head", "2"}, {LLAMA, "'num_key_value_heads': null", "n-kv-head", "4"},
        {LLAMA, "", "n-ffn", "48"}, {LLAMA, "", "seq-len", "8"}, {LLAMA, "", "norm-eps", "1e-06"},
        {LLAMA, "'rms_norm_eps': 1e-5", "norm-eps", "1e-05"}, {LLAMA, "", "rope-base", "10000"},
        {LLAMA, "'rope_theta': 500000.0", "rope-base", "500000"},
        {LLAMA, "'rope_parameters': {'rope_theta': 123.456, 'rope_type': 'default'}", "rope-base", "123.456"},
        {LLAMA, "'rope_scaling': null, 'rope_theta': 7", "rope-base", "7"},
        {LLAMA, "'rope_scaling': {'type': 'default'}, 'rope_theta': 7", "rope-base", "7"},
        {LLAMA, "'rope_parameters': {'rope_theta': 7, 'partial_rotary_factor': 1.0}, 'rope_theta': 7", "rope-base", "7"},
        {LLAMA, "", "rope-scaling", "none"}, {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 2}", "rope-scaling", "linear"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 2}", "rope-factor", "2"},
        {LLAMA, "'rope_scaling': {" LLAMA3 "}", "rope-scaling", "llama3"},
        {LLAMA, "'rope_scaling': {" LLAMA3 "}", "rope-factor", "32"},
        {LLAMA, "'rope_scaling': {" LLAMA3 "}", "rope-low-freq-factor", "1.5"},
        {LLAMA, "'rope_scaling': {" LLAMA3 "}", "rope-high-freq-factor", "4"},
        {LLAMA, "'rope_scaling': {" LLAMA3 "}", "rope-original-seq-len", "4"},
        {LLAMA, "'rope_parameters': {'rope_theta': 5, " LLAMA3 "}, 'rope_scaling': {" LLAMA3 "}", "rope-base", "5"},
        {LLAMA, "'rope_scaling': {'rope_type': 'llama3', 'factor': 2, 'low_freq_factor': 1, 'high_freq_factor': 4}",
         "rope-original-seq-len", "8"}, /* max_position_embeddings */
        {LLAMA, "", "tie-embeddings", "off"}, {LLAMA, "'tie_word_embeddings': true", "tie-embeddings", "on"},
        {LLAMA, "", "bias", "off"}, {LLAMA, "'attention_bias': true, 'mlp_bias': true", "bias", "on"},
        {GPT2, "'activation_function': 'gelu'", "activation", "gelu-exact"},
        {GPT2, "'activation_function': 'gelu_pytorch_tanh'", "activation", "gelu"}, {GPT2, "", "head-dim", "8"},
        {LLAMA, "", "head-dim", "8"}, {LLAMA, "'head_dim': 16", "head-dim", "16"}, {LLAMA, "'head_dim': null", "head-dim", "8"},
        {MISTRAL, "'sliding_window': null", "arch", "llama"}, {MISTRAL, "'sliding_window': null", "n-kv-head", "2"},
        {MISTRAL, "'sliding_window': 8", "bias", "off"}, {MISTRAL, "", "placement", "pre"}, /* 4096 is more than 8 */
        {"\"model_type\": \"mistral\"", "'sliding_window': null, 'num_key_value_heads': null", "n-kv-head", "32"},
        {"\"model_type\": \"mistral\"", "'sliding_window': null", "n-kv-head", "8"},
        {"\"model_type\": \"mistral\"", "'sliding_window': null", "n-ffn", "14336"},
        {"\"model_type\": \"mistral\"", "'sliding_window': null", "seq-len", "131072"},
        {QWEN2, "", "bias", "qkv"}, {QWEN2, "", "qk-norm", "off"}, {QWEN2, "'sliding_window': 4, 'max_window_layers': 1", "n-head", "4"},
        {QWEN2, "'use_sliding_window': false, 'use_mrope': false", "norm", "rmsnorm"}, {QWEN2, "", "head-dim", "8"},
        {"\"model_type\": \"qwen2\"", "", "vocab-size", "151936"}, {"\"model_type\": \"qwen2\"", "", "n-kv-head", "32"},
        {QWEN3, "", "bias", "off"}, {QWEN3, "", "qk-norm", "head"}, {QWEN3, "", "head-dim", "128"},
        {QWEN3, "'head_dim': 6, 'attention_bias': false", "head-dim", "6"}, {"\"model_type\": \"qwen3\"", "", "n-ffn", "22016"},
        {OLMO2, "", "bias", "off"}, {OLMO2, "", "qk-norm", "projection"}, {OLMO2, "", "placement", "res-post"},
        {OLMO2, "", "norm-eps", "1e-05"}, {"\"model_type\": \"olmo2\"", "", "vocab-size", "50304"},
        {"\"architectures\": [\"Olmo2ForCausalLM\"]", "", "qk-norm", "projection"},
        {LLAMA, "", "norm", "rmsnorm"}, {LLAMA, "", "positions", "rope"}, {LLAMA, "", "activation", "swiglu"},
        {LLAMA, "'head_dim': 8, 'hidden_act': 'silu', 'pretraining_tp': 2, 'sliding_window': null", "n-head", "4"},
        {LLAMA, "'layer_types': ['full_attention', 'full_attention']", "n-layer", "2"},
        {LLAMA, "'torch_dtype': 'float16', 'dtype': 'bfloat16', 'attention_dropout': 0.1", "n-layer", "2"},
        {"\"model_type\": \"llama\"", "", "n-ffn", "11008"}, {"\"model_type\": \"llama\"", "", "seq-len", "2048"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_reads(CASES[i].base, CASES[i].more, CASES[i].flag, CASES[i].value);
}

static void assert_refuses(const char *base, const char *more, const char *word, const char *another) {
    HuggingfaceModel model;
    Error error;
    if (parse(base, more, &model, &error)) fail_msg("%s was read", more);
    if (!strstr(error.text, word) || !strstr(error.text, another))
        fail_msg("'%s' and '%s' are not in: %s", word, another, error.text);
}

static void what_is_not_computed_is_refused_by_key_and_value(void **state) {
    (void)state;
    static const struct {
        const char *base, *more, *key, *value;
    } CASES[] = {
        {"", "'model_type': 'gemma'", "model_type", "gemma"},
        {"", "'model_type': 'GPT2'", "model_type", "GPT2"},
        {"", "'model_type': 3", "model_type", "3"},
        {"", "'n_layer': 2", "model_type", "architectures"},
        {"", "'architectures': ['GemmaForCausalLM']", "architectures", "GemmaForCausalLM"},
        {MISTRAL, "'architectures': ['Qwen2ForCausalLM']", "architectures", "Qwen2ForCausalLM"},
        {"\"model_type\": \"mistral\"", "", "sliding_window, by default 4096", "does not compute"},
        {MISTRAL, "'sliding_window': 7", "sliding_window 7", "does not compute"},
        {MISTRAL, "'sliding_window': '9'", "sliding_window 9", "does not compute"},
        {MISTRAL, "'sliding_window': null, 'attention_bias': true", "attention_bias", "true"},
        {QWEN2, "'use_sliding_window': true", "use_sliding_window", "true"},
        {QWEN2, "'use_mrope': true", "use_mrope", "true"},
        {QWEN2, "'rope_scaling': {'type': 'mrope', 'mrope_section': [1]}", "rope_scaling", "mrope"},
        {QWEN2, "'layer_types': ['full_attention', 'sliding_attention']", "layer_types", "sliding_attention"},
        {QWEN2, "'head_dim': 7", "head_dim 7", "even"}, {QWEN2, "'head_dim': 0", "head_dim 0", "from 1 to 256"},
        {QWEN3, "'attention_bias': true", "attention_bias", "true"}, {QWEN3, "'mlp_bias': true", "mlp_bias", "true"},
        {QWEN3, "'num_experts': 128", "num_experts", "128"}, {QWEN3, "'head_dim': 512", "head_dim 512", "256"},
        {OLMO2, "'attention_bias': true", "attention_bias", "true"}, {OLMO2, "'clip_qkv': 8.0", "clip_qkv", "8"},
        {OLMO2, "'sliding_window': 4096", "sliding_window", "4096"}, {OLMO2, "'hidden_act': 'gelu'", "hidden_act", "gelu"},
        {"", "'model_type': 'qwen3_moe'", "model_type", "qwen3_moe"}, {"", "'model_type': 'olmo3'", "model_type", "olmo3"},
        {"", "'architectures': []", "model_type", "architectures"},
        {GPT2, "'architectures': ['GPT2ForSequenceClassification']", "architectures", "GPT2ForSequenceClassification"},
        {GPT2, "'architectures': 'GPT2LMHeadModel'", "architectures", "no list"},
        {LLAMA, "'architectures': ['LlamaForCausalLM', 'GemmaForCausalLM']", "architectures", "GemmaForCausalLM"},
        {GPT2, "'activation_function': 'relu'", "activation_function", "relu"},
        {GPT2, "'scale_attn_weights': false", "scale_attn_weights", "false"},
        {GPT2, "'scale_attn_by_inverse_layer_idx': true", "scale_attn_by_inverse_layer_idx", "true"},
        {GPT2, "'scale_attn_by_inverse_layer_idx': 'false'", "scale_attn_by_inverse_layer_idx", "false"}, /* true in Python */
        {GPT2, "'add_cross_attention': true", "add_cross_attention", "true"},
        {GPT2, "'pruned_heads': {'0': [1]}", "pruned_heads", "{\"0\":[1]}"},
        {GPT2, "'hidden_size': 33", "hidden_size 33", "n_embd 32"},
        {GPT2, "'tie_word_embeddings': 1", "tie_word_embeddings", "1"},
        {GPT2, "'train_gpt_variant': 'lns layernorm'", "train_gpt_variant", "lns layernorm"},
        {LLAMA, "'train_gpt_variant': 'mix rmsnorm'", "mix rmsnorm", "--resume"},
        {LLAMA, "'hidden_act': 'gelu'", "hidden_act", "gelu"},
        {LLAMA, "'rope_scaling': {'rope_type': 'llama3', 'factor': 8.0}", "rope_scaling llama3", "low_freq_factor"},
        {LLAMA, "'rope_scaling': {'type': 'linear'}", "rope_scaling linear", "factor"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 0.5}", "rope_scaling.factor 0.5", "from 1"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 1e300}", "rope_scaling.factor", "1000000"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': '2'}", "rope_scaling.factor 2", "number"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 2, 'low_freq_factor': 1}", "rope_scaling.low_freq_factor", "1"},
        {LLAMA, "'rope_scaling': {'type': 'dynamic', 'factor': 2}", "rope_scaling", "dynamic"},
        {LLAMA, "'rope_scaling': {'rope_type': 'longrope', 'factor': 2}", "rope_scaling", "longrope"},
        {LLAMA, "'rope_scaling': {'rope_type': 3}", "rope_scaling", "3"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 2}, 'rope_parameters': {'rope_type': 'default'}",
         "rope_parameters default", "rope_scaling linear"},
        {LLAMA, "'rope_scaling': {'type': 'linear', 'factor': 2}, 'rope_parameters': {'rope_type': 'linear', 'factor': 3}",
         "rope_parameters.factor 3", "rope_scaling.factor 2"},
        {LLAMA, "'rope_scaling': {'rope_type': 'llama3', 'factor': 8, 'low_freq_factor': 4, 'high_freq_factor': 4}",
         "rope_scaling.low_freq_factor 4", "rope_scaling.high_freq_factor 4"},
        {LLAMA, "'original_max_position_embeddings': 4096", "original_max_position_embeddings", "4096"},
        {LLAMA, "'rope_scaling': {'factor': 2}", "rope_scaling.factor", "2"},
        {LLAMA, "'rope_scaling': 'llama3'", "rope_scaling", "llama3"},
        {LLAMA, "'rope_parameters': {'rope_type': 'yarn', 'rope_theta': 1e4}", "rope_parameters", "yarn"},
        {LLAMA, "'rope_parameters': {'full_attention': {'rope_type': 'default'}}", "rope_parameters", "full_attention"},
        {LLAMA, "'rope_parameters': {'rope_theta': 100}, 'rope_theta': 200", "rope_theta 100", "rope_theta 200"},
        {LLAMA, "'rope_parameters': {'partial_rotary_factor': 0.5}", "partial_rotary_factor", "0.5"},
        {LLAMA, "'rope_theta': '10000'", "rope_theta", "10000"},
        {LLAMA, "'rope_theta': 0", "rope_theta 0", "from 1"},
        {LLAMA, "'head_dim': 1e9", "head_dim", "from 1 to 256"}, {LLAMA, "'head_dim': '8'", "head_dim 8", "whole number"},
        {LLAMA, "'attention_bias': true", "attention_bias true", "mlp_bias false"},
        {LLAMA, "'mlp_bias': true", "mlp_bias true", "attention_bias"},
        {LLAMA, "'mlp_bias': 'yes'", "mlp_bias", "yes"},
        {LLAMA, "'sliding_window': 4096", "sliding_window", "4096"},
        {LLAMA, "'layer_types': ['full_attention', 'sliding_attention']", "layer_types", "sliding_attention"},
        {LLAMA, "'attn_logit_softcapping': 50.0", "attn_logit_softcapping", "50"},
        {LLAMA, "'final_logit_softcapping': 30.0", "final_logit_softcapping", "30"},
        {LLAMA, "'logits_scaling': 8.0", "logits_scaling", "8"},
        {LLAMA, "'quantization_config': {'bits': 4}", "quantization_config", "bits"},
        {LLAMA, "'num_local_experts': 8", "num_local_experts", "8"},
        {LLAMA, "'auto_map': {'AutoModelForCausalLM': 'm.M'}", "auto_map", "m.M"},
        {LLAMA, "'is_causal': false", "is_causal", "false"},
        {LLAMA, "'num_key_value_heads': 3", "num_attention_heads 4", "num_key_value_heads 3"},
        {LLAMA, "'num_key_value_heads': 0", "num_key_value_heads 0", "from 1"},
        {LLAMA, "'num_key_value_heads': 2.5", "num_key_value_heads 2.5", "whole"},
        {LLAMA, "'rms_norm_eps': -1e-6", "rms_norm_eps", "-1e-06"},
        {LLAMA, "'rms_norm_eps': 1e999", "rms_norm_eps", "from 0 to 1"},
        {"\"model_type\": \"llama\"", "'num_attention_heads': 3", "hidden_size, by default 4096", "num_attention_heads 3"},
        {"\"model_type\": \"llama\"", "'hidden_size': 12, 'num_attention_heads': 4", "hidden_size 12", "even"},
        {"\"model_type\": \"llama\"", "'num_attention_heads': 8", "which is 512", "256"},
        {"\"model_type\": \"gpt2\"", "'n_embd': 65540", "n_embd 65540", "65536"},
        {"\"model_type\": \"gpt2\"", "'n_layer': 1e18", "n_layer", "1000"},
        {"\"model_type\": \"gpt2\"", "'n_layer': '12'", "n_layer 12", "whole number"},
        {"\"model_type\": \"gpt2\"", "'n_layer': [12]", "n_layer [12]", "whole number"},
        {"\"model_type\": \"gpt2\"", "'vocab_size': 1", "vocab_size 1", "from 2"},
        {"\"model_type\": \"train_gpt\"", "", "arch", "train_gpt"},
        {GPT2, "'n_layer': 3", "n_layer", "twice"},
        {"", "'model_type': 'gpt2'}{", "JSON", "byte"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++)
        assert_refuses(CASES[i].base, CASES[i].more, CASES[i].key, CASES[i].value);
}

static void unknown_keys_are_named(void **state) {
    (void)state;
    HuggingfaceModel model;
    Error error;
    assert_true(parse(LLAMA, "'foo': 1, 'use_cache': true, 'bar': null, 'hub': 'x', 'n_embd': 3", &model, &error));
    assert_string_equal(model.unknown, "foo, hub, n_embd");
    assert_true(parse(GPT2, "'rope_scalings': {}", &model, &error));
    assert_string_equal(model.unknown, "rope_scalings");
}

/* A file of ours with one flag taken out, or made nonsense. */
static void a_model_of_our_own_is_whole_or_refused(void **state) {
    (void)state;
    Config config;
    HuggingfaceModel model;
    Error error = {0};
    assert_true(configure(&config, "arch=llama placement=lns norm=bhyt gpas=layer"));
    for (int i = 0; i < HUGGINGFACE_OWN_COUNT; i++)
        for (int how = 0; how < 3; how++) {
            char key[64];
            huggingface_own_key(key, HUGGINGFACE_OWN_FLAGS[i]);
            cJSON *o = huggingface_config(&config);
            cJSON_DeleteItemFromObjectCaseSensitive(o, key);
            if (how == 1) cJSON_AddStringToObject(o, key, "auto");
            if (how == 2) cJSON_AddBoolToObject(o, key, true);
            char *text = cJSON_PrintUnformatted(o);
            bool a_switch = how == 2 && flag_find(HUGGINGFACE_OWN_FLAGS[i])->choices &&
                            strstr(flag_find(HUGGINGFACE_OWN_FLAGS[i])->choices, "on");
            if (how == 0 && huggingface_is_newer(HUGGINGFACE_OWN_FLAGS[i])) { /* as older builds wrote it: not there */
                if (!huggingface_parse(text, strlen(text), &model, &error)) fail_msg("without %s: %s", key, error.text);
                a_switch = true;
            }
            if (!a_switch && huggingface_parse(text, strlen(text), &model, &error)) fail_msg("without %s it was read", key);
            if (!a_switch && !strstr(error.text, key)) fail_msg("%s is not in: %s", key, error.text);
            cJSON_free(text);
            cJSON_Delete(o);
        }
}

/* Flags on top of a file: the error, or "" where they agree. */
static const char *on_top(const char *base, const char *settings, Config *config) {
    static Error error;
    HuggingfaceModel model;
    error = (Error){0};
    if (!parse(base, "", &model, &error)) fail_msg("%s", error.text);
    config_defaults(config);
    huggingface_apply(&model, config);
    if (!config_set_all(config, settings, &error)) fail_msg("%s", error.text);
    error = (Error){0};
    bool good = huggingface_agrees(&model, "DIR/config.json", config, &error);
    assert_true(good == !error.text[0]);
    return error.text;
}

static void a_flag_that_contradicts_is_refused_by_both(void **state) {
    (void)state;
    Config c;
    static const struct {
        const char *base, *settings, *says;
    } CASES[] = {
        {LLAMA, "rope-base=500000", "--rope-base 500000 contradicts DIR/config.json's rope_theta, by default 10000"},
        {LLAMA, "n-layer=3", "--n-layer 3 contradicts DIR/config.json's num_hidden_layers 2"},
        {LLAMA, "norm-eps=1e-5", "--norm-eps 1e-05 contradicts DIR/config.json's rms_norm_eps, by default 1e-06"},
        {LLAMA, "placement=post", "--placement post contradicts DIR/config.json's model_type llama, which is --placement pre"},
        {LLAMA, "arch=gpt2", "--arch gpt2 contradicts"}, {LLAMA, "gpas=layer", "--gpas layer contradicts"},
        {LLAMA, "sdd=paper", "--sdd paper contradicts"}, {LLAMA, "embed-norm=on", "--embed-norm on contradicts"},
        {LLAMA, "seq-len=9", "--seq-len 9 contradicts DIR/config.json's max_position_embeddings 8"},
        {GPT2, "n-kv-head=2", "--n-kv-head 2 contradicts DIR/config.json's n_head 4"},
        {GPT2, "bias=off", "--bias off contradicts DIR/config.json's model_type gpt2"},
        {GPT2, "preset=tiny n-layer=4", "--preset tiny's --n-layer 4 contradicts DIR/config.json's n_layer 2"},
        {LLAMA, "n-layer=2 n-head=4 arch=llama norm=rmsnorm norm-eps=0.000001 rope-base=1e4", ""},
        {LLAMA, "n-layer=2 lr=0.1 init-std=3 gpas-init=1 gpas-act=tanh mix-post-layers=1 bhyt-lambda-attn=3", ""},
        {GPT2, "seq-len=4", ""},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const char *said = on_top(CASES[i].base, CASES[i].settings, &c);
        if (*CASES[i].says ? !strstr(said, CASES[i].says) : *said) fail_msg("%s: %s", CASES[i].settings, said);
    }
    assert_string_equal(on_top(LLAMA, "n-kv-head=auto norm=auto norm-eps=auto vocab-size=auto n-ffn=auto", &c), "");
    assert_true(c.n_kv_head == 4 && c.norm_eps == 1e-6 && c.vocab_size == 19 && c.n_ffn == 48 && c.norm == 2);
}

/* BHyT's estimate divides by T. */
static void a_shorter_sequence_is_the_same_model_but_not_for_bhyt(void **state) {
    (void)state;
    static const char *const NORMS_HERE[] = {"bhyt-exact", "bhyt"};
    for (int bhyt = 0; bhyt < 2; bhyt++) {
        Config config;
        HuggingfaceModel model;
        Error error = {0};
        char settings[64];
        snprintf(settings, sizeof settings, "arch=llama norm=%s", NORMS_HERE[bhyt]);
        assert_true(configure(&config, settings));
        cJSON *o = huggingface_config(&config);
        char *text = cJSON_PrintUnformatted(o);
        assert_true(huggingface_parse(text, strlen(text), &model, &error));
        config.seq_len = 4;
        assert_int_equal(huggingface_agrees(&model, "config.json", &config, &error), !bhyt);
        cJSON_free(text);
        cJSON_Delete(o);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shape_and_constants_are_read),
        cmocka_unit_test(what_is_not_computed_is_refused_by_key_and_value),
        cmocka_unit_test(unknown_keys_are_named),
        cmocka_unit_test(a_model_of_our_own_is_whole_or_refused),
        cmocka_unit_test(a_flag_that_contradicts_is_refused_by_both),
        cmocka_unit_test(a_shorter_sequence_is_the_same_model_but_not_for_bhyt),
        cmocka_unit_test(classes_of_transformers_name_only_what_they_compute),
        cmocka_unit_test(one_flag_makes_a_model_of_our_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
