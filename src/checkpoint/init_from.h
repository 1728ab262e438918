/*
 * init_from.h: what does --init-from name, and which model is that?
 *
 * It names a safetensors file, an index of several, a directory with either, or a run: the directory whose `latest`
 * links to a checkpoint. A config.json beside the weights says which model they are (huggingface.h); where there is
 * none, the flags do, as of a bare file.
 *
 * Anything else is refused by what it seems to be, with what to do about it.
 */
#ifndef INIT_FROM_H
#define INIT_FROM_H

#include "../base/directory.h"
#include "huggingface.h"

typedef struct InitFrom {
    char weights[PATH_SIZE]; /* for pretrained_load() */
    char config[PATH_SIZE];  /* their config.json; "": there is none, and `model` is empty */
    HuggingfaceModel model;
} InitFrom;

/* Finds both and reads the config.json. No weight has been read yet. */
bool init_from_open(InitFrom *from, const char *path, Error *error);

/* What a run should say of it in one line: that no config.json says the model, or which of its keys are unknown.
 * False: nothing. */
bool init_from_notice(const InitFrom *from, char *text, size_t size);

/* What to do where the weights do not fit, to be put behind the reason: "" where a config.json says their model. */
const char *init_from_hint(const InitFrom *from);

/* Whether a file may be safetensors, or else what it seems to be and how its weights become safetensors. */
bool init_from_is_safetensors(const char *path, Error *error);

#endif
