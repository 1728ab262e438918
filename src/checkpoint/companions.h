/*
 * companions.h: which files go with a model's weights that are none of this program's?
 *
 * tokenizer.json, tokenizer_config.json, generation_config.json and token_bytes.safetensors (data/token_bytes.py): with
 * them transformers' AutoTokenizer and pipelines take a checkpoint as it is, and samples are text. A run keeps them in
 * memory from its start, so that its checkpoints have them whatever becomes of the data; they are copied as they are, but for
 * generation_config.json, which says how this run's flags sample.
 */
#ifndef COMPANIONS_H
#define COMPANIONS_H

#include "../base/directory.h"
#include "../settings/config.h"

enum { COMPANION_TOKENIZER, COMPANION_TOKENIZER_CONFIG, COMPANION_GENERATION, COMPANION_TOKEN_BYTES, COMPANION_COUNT };

extern const char *const COMPANION_NAMES[COMPANION_COUNT];

typedef struct Companion {
    char *bytes; /* NULL: there is none */
    size_t size;
} Companion;

typedef struct Companions {
    Companion files[COMPANION_COUNT];
} Companions;

/* Those that a directory has; none is no error. A symbolic link is refused unless `follow`. On success companions_free(). */
bool companions_read(Companions *companions, const char *directory, bool follow, Error *error);
void companions_free(Companions *companions);

/* Makes generation_config.json, from the one that is there if any: the sampling of the flags; end_of_document (−1: not known)
 * as what ends a text, unless it says another. Nothing where there is no tokenizer. False where the one there is no JSON. */
bool companions_set_generation(Companions *companions, const Config *config, int64_t end_of_document, Error *error);

/* Writes all of them, fsynced, into a directory that has none. */
bool companions_write(const Companions *companions, const char *directory, Error *error);

#endif
