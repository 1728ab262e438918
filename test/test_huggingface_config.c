/*
 * test_huggingface_config.c: config.json names a class of transformers where that computes the model, and nowhere else.
 *
 * Whether transformers thinks the same is test_huggingface.py's.
 */
#include "../src/checkpoint/huggingface.h"
#include "../src/model/params.h"
#include "../src/settings/variant.h"
#include "settings.h"

#include <stdlib.h>

static const char SHAPE[] = "n-layer=2 n-head=4 n-embd=32 n-ffn=48 seq-len=8 batch-size=1 vocab-size=19 ";

/* One step away from a plain model each; two of them together are every pair. */
static const char *const STEPS[] = {
    "arch=gpt2", "arch=llama", "positions=learned", "positions=rope", "activation=gelu", "activation=swiglu", "bias=on",
    "bias=off", "tie-embeddings=on", "tie-embeddings=off", "n-kv-head=2", "norm=layernorm", "norm=rmsnorm", "norm=dyt",
    "norm=bhyt-exact", "norm=bhyt", "placement=post", "placement=sandwich", "placement=deepnorm", "placement=mix",
    "placement=mix mix-post-layers=0", "placement=mix mix-post-layers=1", "placement=lns", "placement=lns lns-init=on",
    "final-norm=on", "final-norm=off", "embed-norm=on", "embed-scale=on", "gpas=layer", "gpas=sublayer", "sdd=paper",
    "sdd=released", "norm-eps=0.1", "norm-eps=0", "rope-base=500", "seq-len=9", "n-ffn=40", "n-head=2", "n-head=1",
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

/* Whether the wiring is x ← x + F(N(x)) and one norm at the end, and every norm of this kind, unscaled. */
static bool is_wired_plainly(const Config *c, NormKind kind) {
    JunctionPlan plans[2 * (2 * 2 + 1)];
    bool plain = true;
    variant_plan(c, plans);
    for (int j = 0; j <= 2 * c->n_layer; j++) {
        const JunctionPlan *p = &plans[2 * j];
        plain = plain && !plans[2 * j + 1].there && p->there && !p->post && p->alpha == 1 && p->norm.kind == kind &&
                p->norm.output_scale == 1 && p->inner.kind == NORM_NONE && p->sdd == PARAM_COUNT && p->gate < 0 &&
                p->gate_in < 0 && !p->takes_mean_square;
    }
    return plain;
}

/* Which class has these tensors and this wiring, by other means than the table of huggingface.c. */
static HuggingfaceClass class_by_parts(const Config *c) {
    char names[2048];
    names_of(c, names, sizeof names);
    if (strcmp(names, GPT2_TENSORS) == 0 && is_wired_plainly(c, NORM_LAYERNORM) && c->n_kv_head == c->n_head)
        return CLASS_GPT2;
    bool llama = strcmp(names, LLAMA_TENSORS) == 0 || strcmp(names, LLAMA_BIASED_TENSORS) == 0;
    return llama && is_wired_plainly(c, NORM_RMSNORM) ? CLASS_LLAMA : CLASS_OWN;
}

static const char *text_of(const cJSON *o, const char *key) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
    return text ? text : "";
}

static void check_written(const Config *config, HuggingfaceClass class, const char *settings) {
    static const char *const TYPES[] = {"gpt2", "llama", "train_gpt"};
    static const char *const NAMES[] = {"GPT2LMHeadModel", "LlamaForCausalLM", "TrainGptForCausalLM"};
    cJSON *o = huggingface_config(config);
    const cJSON *architectures = cJSON_GetObjectItemCaseSensitive(o, "architectures");
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(architectures, 0));
    if (strcmp(text_of(o, "model_type"), TYPES[class]) || cJSON_GetArraySize(architectures) != 1 || !name ||
        strcmp(name, NAMES[class]))
        fail_msg("%s: written as %s", settings, text_of(o, "model_type"));
    assert_string_equal(text_of(o, "torch_dtype"), config->dtype == DTYPE_FLAG_FP64 ? "float64" : "float32");
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
}

/* Each alone, so that a rule that is gone shows as the flag that it was about. */
static void one_flag_makes_a_model_of_our_own(void **state) {
    (void)state;
    static const char *const OWN[] = {
        "arch=gpt2 positions=rope", "arch=gpt2 activation=swiglu", "arch=gpt2 norm=rmsnorm", "arch=gpt2 bias=off",
        "arch=gpt2 n-kv-head=2", "arch=llama norm=layernorm", "arch=llama activation=gelu", "arch=llama positions=learned",
        "arch=gpt2 placement=post", "arch=gpt2 placement=post final-norm=on", "arch=llama placement=deepnorm final-norm=on",
        "arch=llama placement=lns", "arch=llama placement=mix mix-post-layers=1", "arch=llama placement=sandwich",
        "arch=llama final-norm=off", "arch=llama embed-norm=on", "arch=llama embed-scale=on", "arch=gpt2 gpas=layer",
        "arch=llama sdd=paper", "arch=llama norm=dyt", "arch=llama norm=bhyt", "arch=llama norm=bhyt-exact",
    };
    for (size_t i = 0; i < sizeof OWN / sizeof *OWN; i++) {
        Config config;
        assert_true(configure(&config, OWN[i]));
        if (huggingface_class(&config) != CLASS_OWN) fail_msg("%s is no model of transformers'", OWN[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_of_transformers_name_only_what_they_compute),
        cmocka_unit_test(one_flag_makes_a_model_of_our_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
