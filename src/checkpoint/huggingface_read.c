/* huggingface_read.c: what a config.json says, and whether this program computes it. See huggingface.h. */
#include "huggingface.h"
#include "../base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A key that becomes a flag. */
typedef struct Key {
    const char *name, *also; /* GPT-2's classes know a second name of some */
    const char *flag;
    const char *fallback;    /* where it is missing; NULL: as another setting, worked out below */
} Key;

static const Key GPT2_KEYS[] = {
    {"n_layer", "num_hidden_layers", "n-layer", "12"},
    {"n_head", "num_attention_heads", "n-head", "12"},
    {"n_embd", "hidden_size", "n-embd", "768"},
    {"n_inner", NULL, "n-ffn", NULL},
    {"n_positions", "max_position_embeddings", "seq-len", "1024"},
    {"vocab_size", NULL, "vocab-size", "50257"},
    {"layer_norm_epsilon", NULL, "norm-eps", "1e-05"},
    {"tie_word_embeddings", NULL, "tie-embeddings", "on"},
};
static const Key LLAMA_KEYS[] = {
    {"num_hidden_layers", NULL, "n-layer", "32"},
    {"num_attention_heads", NULL, "n-head", "32"},
    {"num_key_value_heads", NULL, "n-kv-head", NULL},
    {"hidden_size", NULL, "n-embd", "4096"},
    {"head_dim", NULL, "head-dim", NULL},
    {"intermediate_size", NULL, "n-ffn", "11008"},
    {"max_position_embeddings", NULL, "seq-len", "2048"},
    {"vocab_size", NULL, "vocab-size", "32000"},
    {"rms_norm_eps", NULL, "norm-eps", "1e-06"},
    {"tie_word_embeddings", NULL, "tie-embeddings", "off"},
};
static const Key LLAMA_BIAS = {"attention_bias", NULL, "bias", "off"};

/* What the other classes with LLaMA's keys have where one is missing. */
static const struct {
    HuggingfaceClass class;
    const char *name, *fallback;
} OTHER_FALLBACKS[] = {
    {CLASS_MISTRAL, "num_key_value_heads", "8"},      {CLASS_MISTRAL, "intermediate_size", "14336"},
    {CLASS_MISTRAL, "max_position_embeddings", "131072"},
    {CLASS_QWEN2, "num_key_value_heads", "32"},       {CLASS_QWEN2, "intermediate_size", "22016"},
    {CLASS_QWEN2, "max_position_embeddings", "32768"}, {CLASS_QWEN2, "vocab_size", "151936"},
    {CLASS_QWEN3, "num_key_value_heads", "32"},       {CLASS_QWEN3, "intermediate_size", "22016"},
    {CLASS_QWEN3, "max_position_embeddings", "32768"}, {CLASS_QWEN3, "vocab_size", "151936"},
    {CLASS_QWEN3, "head_dim", "128"},
    {CLASS_OLMO2, "rms_norm_eps", "1e-05"},           {CLASS_OLMO2, "vocab_size", "50304"},
};

enum {
    GPT2 = 1 << CLASS_GPT2, LLAMA = 1 << CLASS_LLAMA, MISTRAL = 1 << CLASS_MISTRAL, QWEN = 1 << CLASS_QWEN2 | 1 << CLASS_QWEN3,
    OLMO2 = 1 << CLASS_OLMO2, OWN = 1 << CLASS_OWN, LIKE_LLAMA = LLAMA | MISTRAL | QWEN | OLMO2, THEIRS = GPT2 | LIKE_LLAMA
};

/* Keys of which only these values are computed here, as JSON has them, between '|'. Those of other models stand here
 * too: transformers' classes pass over them, but who wrote such a key meant another model. null is as good as
 * not there. */
static const struct {
    int classes;
    const char *name, *values;
} MUSTS[] = {
    {GPT2, "activation_function", "\"gelu_new\"|\"gelu_pytorch_tanh\"|\"gelu\""},
    {GPT2, "scale_attn_weights", "true"},
    {GPT2, "scale_attn_by_inverse_layer_idx", "false"},
    {GPT2, "add_cross_attention", "false"},
    {LIKE_LLAMA, "hidden_act", "\"silu\"|\"swish\""},
    {LIKE_LLAMA, "rope_interleaved", "false"},
    {LIKE_LLAMA, "partial_rotary_factor", "1"},
    {LIKE_LLAMA, "use_mrope", "false"},
    {LIKE_LLAMA & ~LLAMA, "mlp_bias", "false"},
    {MISTRAL | OLMO2 | 1 << CLASS_QWEN3, "attention_bias", "false"},
    {GPT2, HUGGINGFACE_OLD_VARIANT, "\"pre layernorm\""},
    {LIKE_LLAMA, HUGGINGFACE_OLD_VARIANT, "\"pre rmsnorm\""},
    {THEIRS, "auto_map", ""}, /* code of its own */
    {THEIRS | OWN, "quantization_config", ""},
    {THEIRS | OWN, "compression_config", ""},
    {THEIRS, "is_encoder_decoder", "false"},
    {THEIRS, "is_causal", "true"},
    {THEIRS, "use_bidirectional_attention", "false"},
    {THEIRS, "pruned_heads", "{}"},
    {THEIRS, "per_layer_config", "{}"},
    {THEIRS & ~(MISTRAL | QWEN), "sliding_window", ""}, /* Mistral's: check_window(); Qwen's is none without the next one */
    {THEIRS, "use_sliding_window", "false"},
    {THEIRS, "attention_chunk_size", ""},
    {THEIRS, "no_rope_layers", "[]"},
    {THEIRS, "attn_logit_softcapping", ""},
    {THEIRS, "final_logit_softcapping", ""},
    {THEIRS, "query_pre_attn_scalar", ""},
    {THEIRS, "attention_multiplier", "1"},
    {THEIRS, "residual_multiplier", "1"},
    {THEIRS, "embedding_multiplier", "1"},
    {THEIRS, "logits_scaling", "1"},
    {THEIRS, "logit_scale", "1"},
    {THEIRS, "scale_emb", "1"},
    {THEIRS, "mup_width_scale", "1"},
    {THEIRS, "logits_mup_width_multiplier", "1"},
    {THEIRS, "clip_qkv", ""},
    {THEIRS, "qk_norm", "false"},
    {THEIRS, "use_qk_norm", "false"},
    {THEIRS, "qk_layernorm", "false"},
    {THEIRS, "alibi", "false"},
    {THEIRS, "parallel_attn", "false"},
    {THEIRS, "use_parallel_residual", "false"},
    {THEIRS, "rotary_pct", "1"},
    {THEIRS, "rotary_dim", ""},
    {THEIRS, "original_max_position_embeddings", ""}, /* beside rope_scaling; inside it is read */
    {THEIRS, "num_experts", "0|1"},
    {THEIRS, "num_local_experts", "0|1"},
    {THEIRS, "n_routed_experts", "0|1"},
    {THEIRS, "vision_config", ""},
    {THEIRS, "text_config", ""},
    {THEIRS, "audio_config", ""},
};

/* What has no part in the logits: names, tokens, dropout, initial values, how to generate, how to run. */
static const char FREE[] =
    "model_type|architectures|transformers_version|_name_or_path|name_or_path|_commit_hash|torch_dtype|dtype|use_cache|"
    "bos_token_id|eos_token_id|pad_token_id|sep_token_id|unk_token_id|mask_token_id|cls_token_id|decoder_start_token_id|"
    "resid_pdrop|embd_pdrop|attn_pdrop|attention_dropout|hidden_dropout|classifier_dropout|initializer_range|"
    "reorder_and_upcast_attn|pretraining_tp|summary_type|summary_use_proj|summary_activation|summary_proj_to_labels|"
    "summary_first_dropout|summary_last_dropout|task_specific_params|n_ctx|gradient_checkpointing|is_decoder|"
    "cross_attention_hidden_size|tie_encoder_decoder|chunk_size_feed_forward|output_attentions|output_hidden_states|"
    "output_past|output_scores|return_dict|return_dict_in_generate|torchscript|use_bfloat16|tf_legacy_loss|id2label|"
    "label2id|num_labels|_num_labels|finetuning_task|problem_type|tokenizer_class|prefix|attn_implementation|"
    "_attn_implementation_autoset|_flash_attn_2_enabled|max_length|min_length|do_sample|early_stopping|num_beams|"
    "num_beam_groups|diversity_penalty|temperature|top_k|top_p|typical_p|repetition_penalty|length_penalty|"
    "no_repeat_ngram_size|encoder_no_repeat_ngram_size|bad_words_ids|num_return_sequences|forced_bos_token_id|"
    "forced_eos_token_id|remove_invalid_values|exponential_decay_length_penalty|suppress_tokens|begin_suppress_tokens|"
    "max_new_tokens|max_sequence_length|is_llama_config|transformers.js_config|unsloth_version|unsloth_fixed|"
    /* read below */
    "head_dim|attention_bias|mlp_bias|sliding_window|max_window_layers|rope_theta|rope_scaling|rope_parameters|layer_types|bhyt_c";

/* Where the key is missing; where it is null, the classes work it out as LLaMA does. */
static const char *fallback_of(const cJSON *o, const Key *key, HuggingfaceClass class) {
    if (cJSON_GetObjectItemCaseSensitive(o, key->name)) return key->fallback;
    for (size_t i = 0; i < sizeof OTHER_FALLBACKS / sizeof *OTHER_FALLBACKS; i++)
        if (OTHER_FALLBACKS[i].class == class && strcmp(OTHER_FALLBACKS[i].name, key->name) == 0)
            return OTHER_FALLBACKS[i].fallback;
    return key->fallback;
}

/* Only a JSON boolean is a switch in these classes' keys: "false" is true in Python. */
static bool read_key(const cJSON *o, const Key *key, HuggingfaceModel *m, Error *error) {
    const Flag *flag = flag_find(key->flag);
    const char *fallback = fallback_of(o, key, m->class);
    const cJSON *item = hf_field(o, key->name), *also = key->also ? hf_field(o, key->also) : NULL;
    const char *name = item ? key->name : key->also;
    if (item && also && !cJSON_Compare(item, also, true)) {
        char said[112];
        hf_say(said, sizeof said, key->also, also);
        strncat(said, " contradicts ", sizeof said - strlen(said) - 1);
        return hf_refuse(strncat(said, key->name, sizeof said - strlen(said) - 1), item, "", error);
    }
    if (!item) item = also;
    if (!item && !fallback) return true;
    HuggingfaceSetting *s = hf_add(m, key->flag);
    if (!item) {
        snprintf(s->value, sizeof s->value, "%s", fallback);
        snprintf(s->said, sizeof s->said, "%s, by default %s", key->name, fallback);
        return true;
    }
    hf_say(s->said, sizeof s->said, name, item);
    if (flag->type == FLAG_CHOICE && !cJSON_IsBool(item)) return hf_refuse(name, item, " is neither true nor false", error);
    return hf_read_value(flag, name, item, s->value, error);
}

static bool check_musts(const cJSON *o, HuggingfaceClass class, Error *error) {
    for (size_t i = 0; i < sizeof MUSTS / sizeof *MUSTS; i++) {
        const cJSON *item = hf_field(o, MUSTS[i].name);
        if (!item || !(MUSTS[i].classes >> class & 1)) continue;
        char *json = cJSON_PrintUnformatted(item);
        bool good = json && hf_listed(MUSTS[i].values, json);
        cJSON_free(json);
        if (good) continue;
        if (strcmp(MUSTS[i].name, HUGGINGFACE_OLD_VARIANT) == 0)
            return hf_refuse(MUSTS[i].name, item, ": an older build called it by another model's name (--resume reads it)",
                          error);
        return hf_refuse(MUSTS[i].name, item, ", which this program does not compute", error);
    }
    return true;
}

static void note_unknown(const cJSON *o, const Key *keys, int count, HuggingfaceModel *m) {
    const cJSON *item;
    cJSON_ArrayForEach(item, o) {
        bool known = cJSON_IsNull(item) || hf_listed(FREE, item->string);
        for (int i = 0; !known && i < count; i++)
            known = strcmp(keys[i].name, item->string) == 0 || (keys[i].also && strcmp(keys[i].also, item->string) == 0);
        for (size_t i = 0; !known && i < sizeof MUSTS / sizeof *MUSTS; i++)
            known = MUSTS[i].classes >> m->class & 1 && strcmp(MUSTS[i].name, item->string) == 0;
        size_t used = strlen(m->unknown);
        if (!known) snprintf(m->unknown + used, sizeof m->unknown - used, "%s%.40s", used ? ", " : "", item->string);
    }
}

/* ------------------------------------------------------------------------------------------------------
 * The classes
 * ---------------------------------------------------------------------------------------------------- */

static void add_implied(HuggingfaceModel *m) {
    static const char *const FLAGS[] = {"arch", "positions", "activation", "bias", "norm", "placement", "final-norm",
                                        "embed-norm", "embed-scale", "gpas", "sdd", "qk-norm"};
    const HuggingfaceRow *row = &HUGGINGFACE_ROWS[m->class];
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s=", FLAGS[i]);
        const char *at = strstr(row->implied, key);
        while (at && at > row->implied && at[-1] != ' ') at = strstr(at + 1, key);
        if (!at) continue;
        HuggingfaceSetting *s = hf_add(m, FLAGS[i]);
        const char *value = at + strlen(key);
        int length = (int)strcspn(value, " ");
        snprintf(s->value, sizeof s->value, "%.*s", length, value);
        snprintf(s->said, sizeof s->said, "model_type %s, which is --%s %.*s", row->model_type, FLAGS[i], length, value);
    }
}

/* A setting that follows from another where the file has no key for it. */
static void add_worked_out(HuggingfaceModel *m, const char *flag, int64_t value, const char *said) {
    if (hf_setting(m, flag)) return;
    HuggingfaceSetting *s = hf_add(m, flag);
    snprintf(s->value, sizeof s->value, "%lld", (long long)value);
    snprintf(s->said, sizeof s->said, "%s %lld", said, (long long)value);
}

/* layer_types: every layer attends to all. */
static bool check_layer_types(const cJSON *o, Error *error) {
    const cJSON *types = hf_field(o, "layer_types"), *item;
    cJSON_ArrayForEach(item, types)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, "full_attention"))
            return hf_refuse("layer_types", item, ", which this program does not compute", error);
    return true;
}

/* As long as it divides; check_shape() says what is wrong. */
static void work_out_head_size(HuggingfaceModel *m) {
    const int64_t C = hf_whole(m, "n-embd"), H = hf_whole(m, "n-head");
    char said[96];
    snprintf(said, sizeof said, "%.40s / %.40s, which is", hf_said(m, "n-embd"), hf_said(m, "n-head"));
    if (H && C % H == 0) add_worked_out(m, "head-dim", C / H, said);
}

static bool read_gelu(const cJSON *o, HuggingfaceModel *m) {
    const cJSON *item = hf_field(o, "activation_function");
    HuggingfaceSetting *s = hf_add(m, "activation");
    bool exact = item && strcmp(item->valuestring, "gelu") == 0; /* check_musts() has seen it */
    strcpy(s->value, exact ? "gelu-exact" : "gelu");
    if (item) hf_say(s->said, sizeof s->said, "activation_function", item);
    else strcpy(s->said, "activation_function, by default gelu_new");
    return true;
}

/* LLaMA's two switches; the other classes have theirs implied. */
static bool read_biases(const cJSON *o, HuggingfaceModel *m, Error *error) {
    const cJSON *bias = hf_field(o, "mlp_bias");
    if (m->class != CLASS_LLAMA) return true;
    if (!read_key(o, &LLAMA_BIAS, m, error)) return false;
    if (bias && !cJSON_IsBool(bias)) return hf_refuse("mlp_bias", bias, " is neither true nor false", error);
    return cJSON_IsTrue(bias) == hf_is(m, "bias", "on") ||
           error_set(error, "mlp_bias %s with %s: this program has both or neither", cJSON_IsTrue(bias) ? "true" : "false",
                     hf_said(m, "bias"));
}

/* A window that no sequence is longer than is none. */
static bool check_window(const cJSON *o, const HuggingfaceModel *m, Error *error) {
    enum { BY_DEFAULT = 4096 };
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, "sliding_window");
    const double longest = (double)hf_whole(m, "seq-len");
    if (m->class != CLASS_MISTRAL || cJSON_IsNull(item)) return true;
    if (!item)
        return BY_DEFAULT >= longest || error_set(error, "sliding_window, by default %d, which this program does not compute "
                                                  "(with null there is none)", BY_DEFAULT);
    return (cJSON_IsNumber(item) && item->valuedouble >= longest) ||
           hf_refuse("sliding_window", item, ", which this program does not compute", error);
}

static bool read_theirs(const cJSON *o, HuggingfaceModel *m, Error *error) {
    const bool gpt2 = m->class == CLASS_GPT2;
    const Key *keys = gpt2 ? GPT2_KEYS : LLAMA_KEYS;
    const int count = gpt2 ? sizeof GPT2_KEYS / sizeof *GPT2_KEYS : sizeof LLAMA_KEYS / sizeof *LLAMA_KEYS;
    if (!check_musts(o, m->class, error) || !check_layer_types(o, error)) return false;
    for (int i = 0; i < count; i++)
        if (!read_key(o, &keys[i], m, error)) return false;
    note_unknown(o, keys, count, m);
    add_worked_out(m, "n-kv-head", hf_whole(m, "n-head"), gpt2 ? "n_head" : "num_attention_heads");
    add_worked_out(m, "n-ffn", 4 * hf_whole(m, "n-embd"), "n_inner, by default 4 · n_embd,");
    if (hf_whole(m, "n-ffn") > flag_find("n-ffn")->max)
        return error_set(error, "%s is more than this program's %.0f", hf_said(m, "n-ffn"), flag_find("n-ffn")->max);
    work_out_head_size(m);
    if (gpt2) return read_gelu(o, m);
    return read_biases(o, m, error) && check_window(o, m, error) && hf_read_rope(o, m, error);
}

/* Every flag must be there: what is missing would become its default, and another model. */
static bool read_own(const cJSON *o, HuggingfaceModel *m, Error *error) {
    Key keys[HUGGINGFACE_SETTINGS_MOST] = {0};
    char names[HUGGINGFACE_SETTINGS_MOST][64];
    if (!check_musts(o, m->class, error)) return false;
    for (int i = 0; i < HUGGINGFACE_OWN_COUNT; i++) {
        const char *flag = HUGGINGFACE_OWN_FLAGS[i];
        huggingface_own_key(names[i], flag);
        keys[i].name = names[i];
        const cJSON *item = hf_field(o, names[i]);
        if (!item && !huggingface_is_newer(flag))
            return error_set(error, "no key %s, which is part of a model of model_type train_gpt", names[i]);
        if (!item && strcmp(flag, "head-dim") == 0) continue;
        HuggingfaceSetting *s = hf_add(m, flag);
        if (!item) {
            snprintf(s->value, sizeof s->value, "%s", flag_find(flag)->fallback);
            snprintf(s->said, sizeof s->said, "%s, by default %s", names[i], s->value);
            continue;
        }
        hf_say(s->said, sizeof s->said, names[i], item);
        if (!hf_read_value(flag_find(flag), names[i], item, s->value, error)) return false;
    }
    const cJSON *tied = hf_field(o, "tie_word_embeddings");
    if (tied && (!cJSON_IsBool(tied) || cJSON_IsTrue(tied) != hf_is(m, "tie-embeddings", "on")))
        return hf_refuse("tie_word_embeddings", tied, " contradicts tie_embeddings", error);
    work_out_head_size(m);
    int count = HUGGINGFACE_OWN_COUNT;
    keys[count++].name = "tie_word_embeddings";
    keys[count++].name = "auto_map";
    for (int i = 0; i < HUGGINGFACE_INITIAL_COUNT; i++, count++) {
        huggingface_own_key(names[count], HUGGINGFACE_INITIAL_FLAGS[i]);
        keys[count].name = names[count];
    }
    note_unknown(o, keys, count, m);
    return true;
}

/* What config_resolve() would refuse by flags that nobody gave. */
static bool check_shape(const HuggingfaceModel *m, Error *error) {
    const char *width = hf_said(m, "n-embd"), *heads = hf_said(m, "n-head");
    const int64_t H = hf_whole(m, "n-head"), K = hf_whole(m, "n-kv-head"), D = hf_whole(m, "head-dim");
    if (!D) return error_set(error, "%s is not a multiple of %s", width, heads);
    if (!K || H % K) return error_set(error, "%s is not a multiple of %s", heads, hf_said(m, "n-kv-head"));
    if (D > 256)
        return error_set(error, "%s: heads of 256 are the largest here", hf_said(m, "head-dim"));
    if (hf_is(m, "rope-scaling", "llama3") &&
        !(strtod(hf_value(m, "rope-low-freq-factor"), NULL) < strtod(hf_value(m, "rope-high-freq-factor"), NULL)))
        return error_set(error, "%s is not below %s", hf_said(m, "rope-low-freq-factor"), hf_said(m, "rope-high-freq-factor"));
    return D % 2 == 0 || !hf_is(m, "positions", "rope") ||
           error_set(error, "%s: RoPE needs an even number", hf_said(m, "head-dim"));
}

/* By model_type, or else by the one architecture, as files of 2019 have it. */
static bool find_class(const cJSON *o, HuggingfaceClass *class, Error *error) {
    const cJSON *type = hf_field(o, "model_type"), *architectures = hf_field(o, "architectures"), *item;
    const cJSON *first = cJSON_GetArrayItem(architectures, 0);
    if (!type && !first)
        return error_set(error, "neither model_type nor architectures, so it says of no model what computes it");
    int found = CLASS_COUNT;
    for (int i = 0; i < CLASS_COUNT; i++) {
        const HuggingfaceRow *row = &HUGGINGFACE_ROWS[i];
        if (type ? cJSON_IsString(type) && strcmp(type->valuestring, row->model_type) == 0
                 : cJSON_IsString(first) && hf_listed(row->architectures, first->valuestring))
            found = i;
    }
    const char *const only = ", which this program does not compute: it knows gpt2, llama, mistral, qwen2, qwen3, "
                             "olmo2, and its own train_gpt";
    if (found == CLASS_COUNT) return hf_refuse(type ? "model_type" : "architectures", type ? type : first, only, error);
    *class = (HuggingfaceClass)found;
    cJSON_ArrayForEach(item, architectures)
        if (!cJSON_IsString(item) || !hf_listed(HUGGINGFACE_ROWS[found].architectures, item->valuestring))
            return hf_refuse("architectures", item, ", which this program does not compute", error);
    return !architectures || cJSON_IsArray(architectures) || hf_refuse("architectures", architectures, " is no list", error);
}

bool huggingface_parse(const char *bytes, size_t size, HuggingfaceModel *model, Error *error) {
    *model = (HuggingfaceModel){0};
    cJSON *o = json_parse(bytes, size, error);
    if (!o) return false;
    bool good = find_class(o, &model->class, error);
    if (good) add_implied(model);
    good = good && (model->class == CLASS_OWN ? read_own(o, model, error) : read_theirs(o, model, error)) &&
           check_shape(model, error);
    cJSON_Delete(o);
    return good;
}
