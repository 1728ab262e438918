/* companions.c: see companions.h. */
#define _GNU_SOURCE
#include "companions.h"
#include "../base/json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *const COMPANION_NAMES[COMPANION_COUNT] = {
    [COMPANION_TOKENIZER] = "tokenizer.json",
    [COMPANION_TOKENIZER_CONFIG] = "tokenizer_config.json",
    [COMPANION_GENERATION] = "generation_config.json",
    [COMPANION_TOKEN_BYTES] = "token_bytes.safetensors",
};

/* Bytes; the largest tokenizers that are known have 2^25. */
static const size_t LARGEST[COMPANION_COUNT] = {
    [COMPANION_TOKENIZER] = 1 << 28,
    [COMPANION_TOKENIZER_CONFIG] = 1 << 24,
    [COMPANION_GENERATION] = 1 << 20,
    [COMPANION_TOKEN_BYTES] = 1 << 28,
};

static bool read_one(Companion *file, const char *directory, int which, bool follow, Error *error) {
    char path[PATH_SIZE];
    if (!path_join(path, directory, COMPANION_NAMES[which], error)) return false;
    char *real = follow ? realpath(path, NULL) : NULL;
    Error reason = {0};
    file->bytes = inner_file_read(real ? real : path, LARGEST[which], &file->size, &reason);
    const bool absent = !file->bytes && (errno == ENOENT || errno == ENOTDIR);
    free(real);
    return file->bytes || absent || error_set(error, "%s", reason.text);
}

bool companions_read(Companions *companions, const char *directory, bool follow, Error *error) {
    *companions = (Companions){0};
    for (int i = 0; i < COMPANION_COUNT; i++)
        if (!read_one(&companions->files[i], directory, i, follow, error)) {
            companions_free(companions);
            return false;
        }
    return true;
}

void companions_free(Companions *companions) {
    for (int i = 0; i < COMPANION_COUNT; i++) free(companions->files[i].bytes);
    *companions = (Companions){0};
}

static void drop(cJSON *o, const char *key) {
    cJSON *item = cJSON_GetObjectItemCaseSensitive(o, key);
    if (item) cJSON_Delete(cJSON_DetachItemViaPointer(o, item));
}

bool companions_set_generation(Companions *companions, const Config *config, int64_t end_of_document, Error *error) {
    static const char *const ANEW[] = {"do_sample", "top_k", "top_p", "temperature", "_from_model_config"};
    const bool samples = config->temperature > 0; /* where not, transformers warns of how */
    Companion *file = &companions->files[COMPANION_GENERATION];
    Error reason = {0};
    if (!companions->files[COMPANION_TOKENIZER].bytes) return true;
    cJSON *o = file->bytes ? json_parse(file->bytes, file->size, &reason) : cJSON_CreateObject();
    if (!o) return error_set(error, "%s: %s", COMPANION_NAMES[COMPANION_GENERATION], reason.text);
    const cJSON *end = cJSON_GetObjectItemCaseSensitive(o, "eos_token_id");
    if (end_of_document >= 0 && (!end || cJSON_IsNull(end))) {
        drop(o, "eos_token_id");
        cJSON_AddNumberToObject(o, "eos_token_id", (double)end_of_document);
    }
    for (size_t i = 0; i < sizeof ANEW / sizeof *ANEW; i++) drop(o, ANEW[i]);
    cJSON_AddBoolToObject(o, "do_sample", samples);
    if (samples) cJSON_AddNumberToObject(o, "temperature", config->temperature);
    if (samples) cJSON_AddNumberToObject(o, "top_k", (double)config->top_k); /* 0: all, there as here; without the key 50 */
    if (samples && config->top_p < 1) cJSON_AddNumberToObject(o, "top_p", config->top_p);
    free(file->bytes);
    file->bytes = cJSON_Print(o);
    require(file->bytes, "out of memory for %s", COMPANION_NAMES[COMPANION_GENERATION]);
    file->size = strlen(file->bytes);
    cJSON_Delete(o);
    return true;
}

bool companions_write(const Companions *companions, const char *directory, Error *error) {
    for (int i = 0; i < COMPANION_COUNT; i++) {
        const Companion *file = &companions->files[i];
        char path[PATH_SIZE];
        if (!file->bytes) continue;
        if (!path_join(path, directory, COMPANION_NAMES[i], error) || !durable_write(path, file->bytes, file->size, error))
            return false;
    }
    return true;
}
