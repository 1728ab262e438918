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
    {"intermediate_size", NULL, "n-ffn", "11008"},
    {"max_position_embeddings", NULL, "seq-len", "2048"},
    {"vocab_size", NULL, "vocab-size", "32000"},
    {"rms_norm_eps", NULL, "norm-eps", "1e-06"},
    {"attention_bias", NULL, "bias", "off"},
    {"tie_word_embeddings", NULL, "tie-embeddings", "off"},
};

enum { GPT2 = 1 << CLASS_GPT2, LLAMA = 1 << CLASS_LLAMA, OWN = 1 << CLASS_OWN, THEIRS = GPT2 | LLAMA };

/* Keys of which only these values are computed here, as JSON has them, between '|'. Those of other models stand here
 * too: transformers' two classes pass over them, but who wrote such a key meant another model. null is as good as
 * not there. */
static const struct {
    int classes;
    const char *name, *values;
} MUSTS[] = {
    {GPT2, "activation_function", "\"gelu_new\"|\"gelu_pytorch_tanh\""},
    {GPT2, "scale_attn_weights", "true"},
    {GPT2, "scale_attn_by_inverse_layer_idx", "false"},
    {GPT2, "add_cross_attention", "false"},
    {LLAMA, "hidden_act", "\"silu\"|\"swish\""},
    {LLAMA, "rope_interleaved", "false"},
    {LLAMA, "partial_rotary_factor", "1"},
    {GPT2, HUGGINGFACE_OLD_VARIANT, "\"pre layernorm\""},
    {LLAMA, HUGGINGFACE_OLD_VARIANT, "\"pre rmsnorm\""},
    {THEIRS, "auto_map", ""}, /* code of its own */
    {THEIRS | OWN, "quantization_config", ""},
    {THEIRS | OWN, "compression_config", ""},
    {THEIRS, "is_encoder_decoder", "false"},
    {THEIRS, "is_causal", "true"},
    {THEIRS, "use_bidirectional_attention", "false"},
    {THEIRS, "pruned_heads", "{}"},
    {THEIRS, "per_layer_config", "{}"},
    {THEIRS, "sliding_window", ""},
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
    "head_dim|mlp_bias|rope_theta|rope_scaling|rope_parameters|layer_types|bhyt_c";

/* ------------------------------------------------------------------------------------------------------
 * Small helpers
 * ---------------------------------------------------------------------------------------------------- */

/* Whether a text stands among others, separated by '|'. */
static bool listed(const char *list, const char *text) {
    size_t length = strlen(text);
    for (const char *at = list; length && *at; at += strcspn(at, "|"), at += *at == '|')
        if (strcspn(at, "|") == length && memcmp(at, text, length) == 0) return true;
    return false;
}

static const cJSON *field(const cJSON *o, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(o, name);
    return cJSON_IsNull(item) ? NULL : item;
}

/* A value for messages: a text without its quotes, anything else as JSON, cut. */
static void say(char *text, size_t size, const char *name, const cJSON *item) {
    char *json = cJSON_IsString(item) ? NULL : cJSON_PrintUnformatted(item);
    snprintf(text, size, "%.40s %.60s", name, cJSON_IsString(item) ? item->valuestring : json ? json : "");
    cJSON_free(json);
}

static bool refuse(const char *name, const cJSON *item, const char *why, Error *error) {
    char said[112];
    say(said, sizeof said, name, item);
    return error_set(error, "%s%s", said, why);
}

static HuggingfaceSetting *add(HuggingfaceModel *m, const char *flag) {
    HuggingfaceSetting *s = &m->settings[m->count];
    if (m->count < HUGGINGFACE_SETTINGS_MOST - 1) m->count++; /* more than the tables hold there are not */
    *s = (HuggingfaceSetting){.flag = flag};
    return s;
}

static const HuggingfaceSetting *setting(const HuggingfaceModel *m, const char *flag) {
    for (int i = 0; i < m->count; i++)
        if (strcmp(m->settings[i].flag, flag) == 0) return &m->settings[i];
    return NULL;
}

static const char *value_of(const HuggingfaceModel *m, const char *flag) {
    const HuggingfaceSetting *s = setting(m, flag);
    return s ? s->value : "";
}

static const char *said_of(const HuggingfaceModel *m, const char *flag) {
    const HuggingfaceSetting *s = setting(m, flag);
    return s ? s->said : flag;
}

static int64_t whole(const HuggingfaceModel *m, const char *flag) { return strtoll(value_of(m, flag), NULL, 10); }

static bool is(const HuggingfaceModel *m, const char *flag, const char *value) {
    return strcmp(value_of(m, flag), value) == 0;
}

/* ------------------------------------------------------------------------------------------------------
 * Values
 * ---------------------------------------------------------------------------------------------------- */

/* A value of JSON as the flag has it on the command line. */
static bool read_value(const Flag *flag, const char *name, const cJSON *item, char value[48], Error *error) {
    if (flag->type == FLAG_CHOICE) {
        const char *word = cJSON_IsBool(item) ? (cJSON_IsTrue(item) ? "on" : "off") : cJSON_GetStringValue(item);
        if (!word || strlen(word) >= 48 || strcmp(word, "auto") == 0 || !listed(flag->choices, word))
            return refuse(name, item, " is nothing that it can be", error);
        strcpy(value, word);
        return true;
    }
    double number = cJSON_IsNumber(item) ? item->valuedouble : NAN;
    if (!(number >= flag->min && number <= flag->max) || (flag->type == FLAG_INT && number != floor(number))) {
        char why[96];
        snprintf(why, sizeof why, ": it is a %s from %.15g to %.15g here",
                 flag->type == FLAG_INT ? "whole number" : "number", flag->min, flag->max);
        return refuse(name, item, why, error);
    }
    snprintf(value, 48, flag->type == FLAG_INT ? "%.0f" : "%.17g", number);
    return true;
}

/* Only a JSON boolean is a switch in these two classes' keys: "false" is true in Python. */
static bool read_key(const cJSON *o, const Key *key, HuggingfaceModel *m, Error *error) {
    const Flag *flag = flag_find(key->flag);
    const cJSON *item = field(o, key->name), *also = key->also ? field(o, key->also) : NULL;
    const char *name = item ? key->name : key->also;
    if (item && also && !cJSON_Compare(item, also, true)) {
        char said[112];
        say(said, sizeof said, key->also, also);
        strncat(said, " contradicts ", sizeof said - strlen(said) - 1);
        return refuse(strncat(said, key->name, sizeof said - strlen(said) - 1), item, "", error);
    }
    if (!item) item = also;
    if (!item && !key->fallback) return true;
    HuggingfaceSetting *s = add(m, key->flag);
    if (!item) {
        snprintf(s->value, sizeof s->value, "%s", key->fallback);
        snprintf(s->said, sizeof s->said, "%s, by default %s", key->name, key->fallback);
        return true;
    }
    say(s->said, sizeof s->said, name, item);
    if (flag->type == FLAG_CHOICE && !cJSON_IsBool(item)) return refuse(name, item, " is neither true nor false", error);
    return read_value(flag, name, item, s->value, error);
}

static bool check_musts(const cJSON *o, HuggingfaceClass class, Error *error) {
    for (size_t i = 0; i < sizeof MUSTS / sizeof *MUSTS; i++) {
        const cJSON *item = field(o, MUSTS[i].name);
        if (!item || !(MUSTS[i].classes >> class & 1)) continue;
        char *json = cJSON_PrintUnformatted(item);
        bool good = json && listed(MUSTS[i].values, json);
        cJSON_free(json);
        if (good) continue;
        if (strcmp(MUSTS[i].name, HUGGINGFACE_OLD_VARIANT) == 0)
            return refuse(MUSTS[i].name, item, ": an older build called it by another model's name (--resume reads it)",
                          error);
        return refuse(MUSTS[i].name, item, ", which this program does not compute", error);
    }
    return true;
}

static void note_unknown(const cJSON *o, const Key *keys, int count, HuggingfaceModel *m) {
    const cJSON *item;
    cJSON_ArrayForEach(item, o) {
        bool known = cJSON_IsNull(item) || listed(FREE, item->string);
        for (int i = 0; !known && i < count; i++)
            known = strcmp(keys[i].name, item->string) == 0 || (keys[i].also && strcmp(keys[i].also, item->string) == 0);
        for (size_t i = 0; !known && i < sizeof MUSTS / sizeof *MUSTS; i++)
            known = MUSTS[i].classes >> m->class & 1 && strcmp(MUSTS[i].name, item->string) == 0;
        size_t used = strlen(m->unknown);
        if (!known) snprintf(m->unknown + used, sizeof m->unknown - used, "%s%.40s", used ? ", " : "", item->string);
    }
}

/* ------------------------------------------------------------------------------------------------------
 * RoPE: transformers 4 has rope_theta and rope_scaling, 5 has rope_parameters with both
 * ---------------------------------------------------------------------------------------------------- */

static bool read_theta(const char *name, const cJSON *item, HuggingfaceModel *m, Error *error) {
    const HuggingfaceSetting *before = setting(m, "rope-base");
    HuggingfaceSetting s = {.flag = "rope-base"};
    if (!item) return true;
    say(s.said, sizeof s.said, name, item);
    if (!read_value(flag_find("rope-base"), name, item, s.value, error)) return false;
    if (!before) *add(m, "rope-base") = s;
    return !before || strcmp(before->value, s.value) == 0 ||
           error_set(error, "%s contradicts %s", s.said, before->said);
}

static bool read_rope_object(const cJSON *o, const char *name, HuggingfaceModel *m, Error *error) {
    const cJSON *object = field(o, name), *item;
    if (!object) return true;
    if (!cJSON_IsObject(object)) return refuse(name, object, " is no object", error);
    const cJSON *type = field(object, "rope_type") ? field(object, "rope_type") : field(object, "type");
    if (type && (!cJSON_IsString(type) || strcmp(type->valuestring, "default")))
        return refuse(name, type, ", which this program does not compute", error);
    cJSON_ArrayForEach(item, object) {
        char inner[64];
        snprintf(inner, sizeof inner, "%s.%.30s", name, item->string);
        bool whole_head =
            strcmp(item->string, "partial_rotary_factor") == 0 && cJSON_IsNumber(item) && item->valuedouble == 1;
        if (!cJSON_IsNull(item) && !whole_head && !listed("rope_type|type|rope_theta", item->string))
            return refuse(inner, item, ", which this program does not compute", error);
        if (strcmp(item->string, "rope_theta") == 0 && !cJSON_IsNull(item) && !read_theta(inner, item, m, error))
            return false;
    }
    return true;
}

static bool read_rope(const cJSON *o, HuggingfaceModel *m, Error *error) {
    if (!read_theta("rope_theta", field(o, "rope_theta"), m, error) || !read_rope_object(o, "rope_scaling", m, error) ||
        !read_rope_object(o, "rope_parameters", m, error))
        return false;
    if (!setting(m, "rope-base"))
        *add(m, "rope-base") = (HuggingfaceSetting){"rope-base", "10000", "rope_theta, by default 10000"};
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * The three classes
 * ---------------------------------------------------------------------------------------------------- */

static void add_implied(HuggingfaceModel *m) {
    static const char *const FLAGS[] = {"arch", "positions", "activation", "bias", "norm", "placement", "final-norm",
                                        "embed-norm", "embed-scale", "gpas", "sdd"};
    const HuggingfaceRow *row = &HUGGINGFACE_ROWS[m->class];
    for (size_t i = 0; i < sizeof FLAGS / sizeof *FLAGS; i++) {
        char key[32];
        snprintf(key, sizeof key, "%s=", FLAGS[i]);
        const char *at = strstr(row->implied, key);
        while (at && at > row->implied && at[-1] != ' ') at = strstr(at + 1, key);
        if (!at) continue;
        HuggingfaceSetting *s = add(m, FLAGS[i]);
        const char *value = at + strlen(key);
        int length = (int)strcspn(value, " ");
        snprintf(s->value, sizeof s->value, "%.*s", length, value);
        snprintf(s->said, sizeof s->said, "model_type %s, which is --%s %.*s", row->model_type, FLAGS[i], length, value);
    }
}

/* A setting that follows from another where the file has no key for it. */
static void add_worked_out(HuggingfaceModel *m, const char *flag, int64_t value, const char *said) {
    if (setting(m, flag)) return;
    HuggingfaceSetting *s = add(m, flag);
    snprintf(s->value, sizeof s->value, "%lld", (long long)value);
    snprintf(s->said, sizeof s->said, "%s %lld", said, (long long)value);
}

/* layer_types: every layer attends to all. */
static bool check_layer_types(const cJSON *o, Error *error) {
    const cJSON *types = field(o, "layer_types"), *item;
    cJSON_ArrayForEach(item, types)
        if (!cJSON_IsString(item) || strcmp(item->valuestring, "full_attention"))
            return refuse("layer_types", item, ", which this program does not compute", error);
    return true;
}

static bool read_theirs(const cJSON *o, HuggingfaceModel *m, Error *error) {
    const bool gpt2 = m->class == CLASS_GPT2;
    const Key *keys = gpt2 ? GPT2_KEYS : LLAMA_KEYS;
    const int count = gpt2 ? sizeof GPT2_KEYS / sizeof *GPT2_KEYS : sizeof LLAMA_KEYS / sizeof *LLAMA_KEYS;
    if (!check_musts(o, m->class, error) || !check_layer_types(o, error)) return false;
    for (int i = 0; i < count; i++)
        if (!read_key(o, &keys[i], m, error)) return false;
    note_unknown(o, keys, count, m);
    add_worked_out(m, "n-kv-head", whole(m, "n-head"), gpt2 ? "n_head" : "num_attention_heads");
    add_worked_out(m, "n-ffn", 4 * whole(m, "n-embd"), "n_inner, by default 4 · n_embd,");
    if (whole(m, "n-ffn") > flag_find("n-ffn")->max)
        return error_set(error, "%s is more than this program's %.0f", said_of(m, "n-ffn"), flag_find("n-ffn")->max);
    if (gpt2) return true;
    const cJSON *bias = field(o, "mlp_bias"), *head = field(o, "head_dim");
    if (bias && !cJSON_IsBool(bias)) return refuse("mlp_bias", bias, " is neither true nor false", error);
    if (cJSON_IsTrue(bias) != is(m, "bias", "on"))
        return error_set(error, "mlp_bias %s with %s: this program has both or neither",
                         cJSON_IsTrue(bias) ? "true" : "false", said_of(m, "bias"));
    int64_t heads = whole(m, "n-head"), width = whole(m, "n-embd");
    if (head && (!cJSON_IsNumber(head) || width % heads || head->valuedouble != (double)(width / heads)))
        return refuse("head_dim", head, ": this program's is hidden_size / num_attention_heads", error);
    return read_rope(o, m, error);
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
        const cJSON *item = field(o, names[i]);
        if (!item) return error_set(error, "no key %s, which is part of a model of model_type train_gpt", names[i]);
        HuggingfaceSetting *s = add(m, flag);
        say(s->said, sizeof s->said, names[i], item);
        if (!read_value(flag_find(flag), names[i], item, s->value, error)) return false;
    }
    const cJSON *tied = field(o, "tie_word_embeddings");
    if (tied && (!cJSON_IsBool(tied) || cJSON_IsTrue(tied) != is(m, "tie-embeddings", "on")))
        return refuse("tie_word_embeddings", tied, " contradicts tie_embeddings", error);
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
    const char *width = said_of(m, "n-embd"), *heads = said_of(m, "n-head");
    const int64_t C = whole(m, "n-embd"), H = whole(m, "n-head"), K = whole(m, "n-kv-head"), D = H ? C / H : 0;
    if (!H || C % H) return error_set(error, "%s is not a multiple of %s", width, heads);
    if (!K || H % K) return error_set(error, "%s is not a multiple of %s", heads, said_of(m, "n-kv-head"));
    if (D > 256)
        return error_set(error, "%s / %s makes heads of %lld; 256 is the largest here", width, heads, (long long)D);
    return D % 2 == 0 || !is(m, "positions", "rope") ||
           error_set(error, "%s / %s makes heads of %lld; RoPE needs an even number", width, heads, (long long)D);
}

/* By model_type, or else by the one architecture, as files of 2019 have it. */
static bool find_class(const cJSON *o, HuggingfaceClass *class, Error *error) {
    const cJSON *type = field(o, "model_type"), *architectures = field(o, "architectures"), *item;
    const cJSON *first = cJSON_GetArrayItem(architectures, 0);
    if (!type && !first)
        return error_set(error, "neither model_type nor architectures, so it says of no model what computes it");
    int found = CLASS_COUNT;
    for (int i = 0; i < CLASS_COUNT; i++) {
        const HuggingfaceRow *row = &HUGGINGFACE_ROWS[i];
        if (type ? cJSON_IsString(type) && strcmp(type->valuestring, row->model_type) == 0
                 : cJSON_IsString(first) && listed(row->architectures, first->valuestring))
            found = i;
    }
    const char *const only = ", which this program does not compute: it knows gpt2, llama, and its own train_gpt";
    if (found == CLASS_COUNT) return refuse(type ? "model_type" : "architectures", type ? type : first, only, error);
    *class = (HuggingfaceClass)found;
    cJSON_ArrayForEach(item, architectures)
        if (!cJSON_IsString(item) || !listed(HUGGINGFACE_ROWS[found].architectures, item->valuestring))
            return refuse("architectures", item, ", which this program does not compute", error);
    return !architectures || cJSON_IsArray(architectures) || refuse("architectures", architectures, " is no list", error);
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
