/*
 * huggingface.h: config.json, Hugging Face's way of saying which model a folder's weights belong to.
 *
 * Written: what transformers' GPT2LMHeadModel, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM or Olmo2ForCausalLM
 * computes, to the last term, carries their names and keys. (MistralForCausalLM is LlamaForCausalLM here, as it has no window;
 * it is written where LLaMA's refuses the shape.) Every other model carries names of its own (model_type train_gpt,
 * TrainGptForCausalLM), whose classes auto_map finds in files beside it (huggingface_code.h), so that transformers computes it
 * or refuses it, and never another one from the same tensors; its keys are the flags that make the model, with _ for -, all of
 * them, choices as their words:
 *
 *     {"model_type": "train_gpt", "architectures": ["TrainGptForCausalLM"], "auto_map": {…}, "arch": "llama",
 *      "n_layer": 12, … "norm": "bhyt", "placement": "lns", …, "tie_embeddings": "off", "tie_word_embeddings": false,
 *      "init_std": 0.02, …, "bhyt_c": […]}
 *
 * MATH.md's constants follow from them: DeepNorm's α from n_layer, LayerNorm scaling's from the layer, BHyT's T is
 * seq_len; bhyt_c are its products ‖W_O·W_V‖² / (T·C) a layer as training last used them. init_std and the like are of
 * initial values alone: with them transformers begins another training as this one began.
 *
 * Read (--init-from): all of these, in the spellings of transformers 4 and 5, a key that is missing as transformers
 * has it. The shape and each constant become settings that lie under the command line; a value that this program
 * does not compute is refused by key and value, a flag that contradicts a setting by both.
 */
#ifndef HUGGINGFACE_H
#define HUGGINGFACE_H

#include "../base/check.h"
#include "../settings/config.h"

#include <cjson/cJSON.h>

typedef enum HuggingfaceClass {
    CLASS_GPT2, CLASS_LLAMA, CLASS_MISTRAL, CLASS_QWEN2, CLASS_QWEN3, CLASS_OLMO2,
    CLASS_OWN,
    CLASS_COUNT
} HuggingfaceClass;

/* Which class computes exactly what a resolved config says. */
HuggingfaceClass huggingface_class(const Config *config);

/* The config.json of a resolved config; the caller cJSON_Delete()s. */
cJSON *huggingface_config(const Config *config);

/* A flag that a config.json sets, and how that says so. */
typedef struct HuggingfaceSetting {
    const char *flag;
    char value[48];  /* as the command line would have it */
    char said[112];  /* "rope_theta 10000", for messages */
} HuggingfaceSetting;

enum { HUGGINGFACE_SETTINGS_MOST = 80 };

typedef struct HuggingfaceModel {
    HuggingfaceClass class;
    HuggingfaceSetting settings[HUGGINGFACE_SETTINGS_MOST];
    int count;
    char unknown[160]; /* keys that neither transformers nor this program has a use for; "": none */
} HuggingfaceModel;

/* What the bytes of a config.json say; a pure function. Errors name key and value. */
bool huggingface_parse(const char *bytes, size_t size, HuggingfaceModel *model, Error *error);

/* Sets its flags. */
void huggingface_apply(const HuggingfaceModel *model, Config *config);

/* Whether flags that were given on top of that leave the model as it is; what they left to "auto" follows it. A
 * shorter --seq-len does, unless the norm is bhyt, whose estimate holds T. `file` is for the error. */
bool huggingface_agrees(const HuggingfaceModel *model, const char *file, Config *config, Error *error);

/* ---- among the files of huggingface*.c ---- */

typedef struct HuggingfaceRow {
    const char *model_type;
    const char *architectures; /* words separated by '|'; the first is written */
    const char *implied;       /* settings that all its models have */
    int64_t vocab_size;        /* its default, which the ids of special tokens that are its defaults belong to */
} HuggingfaceRow;

extern const HuggingfaceRow HUGGINGFACE_ROWS[CLASS_COUNT];

/* The flags that make the model: what CLASS_OWN's keys are. */
extern const char *const HUGGINGFACE_OWN_FLAGS[];
extern const int HUGGINGFACE_OWN_COUNT;

/* Those of initial values: keys of CLASS_OWN too, written and not read. */
extern const char *const HUGGINGFACE_INITIAL_FLAGS[];
extern const int HUGGINGFACE_INITIAL_COUNT;

#define HUGGINGFACE_OLD_VARIANT "train_gpt_variant" /* a key of builds that gave transformers' names to everything */

/* Whether builds that wrote no key of this flag may have written the file: their models had its default. */
bool huggingface_is_newer(const char *flag);

/* The key of a flag: "n_kv_head" of "n-kv-head"; "rope_type" of "rope-scaling". */
void huggingface_own_key(char key[64], const char *flag);

/* Whether a text stands among others, separated by '|'. */
bool hf_listed(const char *list, const char *text);

/* NULL where it is missing or null. */
const cJSON *hf_field(const cJSON *object, const char *name);

/* A key and its value for messages: a text without its quotes, anything else as JSON, cut. */
void hf_say(char *text, size_t size, const char *name, const cJSON *item);

/* The error "name value" and why; false. */
bool hf_refuse(const char *name, const cJSON *item, const char *why, Error *error);

/* A new setting of this flag. */
HuggingfaceSetting *hf_add(HuggingfaceModel *model, const char *flag);

/* The setting of a flag, or NULL; its value ("": none), as a whole number, whether it is this one; how it was said. */
const HuggingfaceSetting *hf_setting(const HuggingfaceModel *model, const char *flag);
const char *hf_value(const HuggingfaceModel *model, const char *flag);
int64_t hf_whole(const HuggingfaceModel *model, const char *flag);
bool hf_is(const HuggingfaceModel *model, const char *flag, const char *value);
const char *hf_said(const HuggingfaceModel *model, const char *flag);

/* A value of JSON as the flag has it on the command line. */
bool hf_read_value(const Flag *flag, const char *name, const cJSON *item, char value[48], Error *error);

/* What a file says of RoPE, in either of its two places. */
bool hf_read_rope(const cJSON *object, HuggingfaceModel *model, Error *error);

/* Adds what config.json says of it. */
void hf_write_rope(cJSON *object, const Config *config);

/* Adds a number as its flag has it, with a point, as transformers takes some numbers by their type. */
void hf_write_real(cJSON *object, const char *key, const Config *config, const char *flag);

#endif
