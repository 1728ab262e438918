/*
 * huggingface_code.h: what makes transformers compute a model that is none of its own classes'?
 *
 * Two Python files, scripts/hf/ as it was at build time, inside the executable. A checkpoint of model_type train_gpt holds
 * them, and its config.json's auto_map names their classes, so that
 * AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True) needs nothing but the directory. This program never
 * reads them back.
 */
#ifndef HUGGINGFACE_CODE_H
#define HUGGINGFACE_CODE_H

#include <cjson/cJSON.h>
#include <stddef.h>

enum { HUGGINGFACE_CODE_FILES = 2 };

typedef struct HuggingfaceCode {
    const char *name;       /* "modeling_train_gpt.py" */
    const char *text, *end; /* without a 0 behind it */
} HuggingfaceCode;

extern const HuggingfaceCode HUGGINGFACE_CODE[HUGGINGFACE_CODE_FILES];

/* Adds auto_map: which of transformers' Auto classes finds which class in which file. */
void huggingface_code_map(cJSON *config);

#endif
