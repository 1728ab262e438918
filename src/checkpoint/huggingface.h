/*
 * huggingface.h: config.json, Hugging Face's way of saying which model a folder's weights belong to.
 *
 * Written: what transformers' GPT2LMHeadModel or LlamaForCausalLM computes, to the last term, carries their names
 * and keys. Every other model carries names of its own (model_type train_gpt, TrainGptForCausalLM), whose classes
 * auto_map finds in files beside it (huggingface_code.h), so that transformers computes it or refuses it, and never
 * another one from the same tensors; its keys are the flags that make the model, with _ for -, all of them, choices as
 * their words:
 *
 *     {"model_type": "train_gpt", "architectures": ["TrainGptForCausalLM"], "auto_map": {…}, "arch": "llama",
 *      "n_layer": 12, … "norm": "bhyt", "placement": "lns", …, "tie_embeddings": "off", "tie_word_embeddings": false,
 *      "init_std": 0.02, …, "bhyt_c": […]}
 *
 * MATH.md's constants follow from them: DeepNorm's α from n_layer, LayerNorm scaling's from the layer, BHyT's T is
 * seq_len; bhyt_c are its products ‖W_O·W_V‖² / (T·C) a layer as training last used them. init_std and the like are of
 * initial values alone: with them transformers begins another training as this one began.
 *
 * Read (--init-from): all three, in the spellings of transformers 4 and 5, a key that is missing as transformers
 * has it. The shape and each constant become settings that lie under the command line; a value that this program
 * does not compute is refused by key and value, a flag that contradicts a setting by both.
 */
#ifndef HUGGINGFACE_H
#define HUGGINGFACE_H

#include "../base/check.h"
#include "../settings/config.h"

#include <cjson/cJSON.h>

typedef enum HuggingfaceClass { CLASS_GPT2, CLASS_LLAMA, CLASS_OWN, CLASS_COUNT } HuggingfaceClass;

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

enum { HUGGINGFACE_SETTINGS_MOST = 64 };

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

/* ---- between huggingface.c and huggingface_read.c ---- */

typedef struct HuggingfaceRow {
    const char *model_type;
    const char *architectures; /* words separated by '|'; the first is written */
    const char *implied;       /* settings that all its models have */
} HuggingfaceRow;

extern const HuggingfaceRow HUGGINGFACE_ROWS[CLASS_COUNT];

/* The flags that make the model: what CLASS_OWN's keys are. */
extern const char *const HUGGINGFACE_OWN_FLAGS[];
extern const int HUGGINGFACE_OWN_COUNT;

/* Those of initial values: keys of CLASS_OWN too, written and not read. */
extern const char *const HUGGINGFACE_INITIAL_FLAGS[];
extern const int HUGGINGFACE_INITIAL_COUNT;

#define HUGGINGFACE_OLD_VARIANT "train_gpt_variant" /* a key of builds that gave transformers' names to everything */

/* The key of a flag: "n_kv_head" of "n-kv-head". */
void huggingface_own_key(char key[64], const char *flag);

#endif
