/* sidecar.c: see sidecar.h. */
#define _GNU_SOURCE
#include "sidecar.h"
#include "../base/file.h"
#include "../base/json.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

bool sidecar_part(const char *shard, SetPart *part) {
    static const char *const SPLITS[] = {"_train", "_val"};
    const char *slash = strrchr(shard, '/'), *name = slash ? slash + 1 : shard;
    const size_t length = strlen(shard), tail = strlen("_000000.bin"), directory = (size_t)(name - shard);
    if (length >= PATH_SIZE || length - directory <= tail || strcmp(shard + length - 4, ".bin")) return false;
    const size_t end = length - tail;
    if (shard[end] != '_' || strspn(shard + end + 1, "0123456789") != 6) return false;
    for (size_t s = 0; s < 2; s++) {
        const size_t word = strlen(SPLITS[s]);
        if (end - directory <= word || memcmp(shard + end - word, SPLITS[s], word)) continue;
        snprintf(part->stem, sizeof part->stem, "%.*s", (int)(end - word), shard);
        snprintf(part->split, sizeof part->split, "%s", SPLITS[s] + 1);
        return true;
    }
    return false;
}

bool sidecar_path(const SetPart *part, char path[PATH_SIZE]) {
    return snprintf(path, PATH_SIZE, "%s.json", part->stem) < PATH_SIZE;
}

bool sidecar_tokenizer_path(const SetPart *part, char path[PATH_SIZE]) {
    return snprintf(path, PATH_SIZE, "%s.tokenizer", part->stem) < PATH_SIZE;
}

cJSON *sidecar_json(const char *path, bool *there, Error *error) {
    enum { LARGEST = 1 << 24 };
    uint64_t size;
    cJSON *object = NULL;
    const int fd = file_open(path, &size, error);
    *there = fd >= 0 || errno != ENOENT;
    if (fd < 0) return NULL;
    if (size <= LARGEST) {
        char *bytes = must_malloc((size_t)size + 1, "a set's list");
        const ssize_t n = file_read(fd, bytes, (size_t)size, 0);
        if (n == (ssize_t)size) object = json_parse(bytes, (size_t)size, error);
        else error_set(error, "%s", n < 0 ? strerror(errno) : "it became shorter");
        free(bytes);
    } else
        error_set(error, "%" PRIu64 " bytes, more than such a list has", size);
    close(fd);
    return object;
}

static bool said(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return item && !cJSON_IsNull(item);
}

static bool parse_sha256(const cJSON *object, char sha256[SHA256_HEX], Error *error) {
    if (!said(object, "tokenizer_sha256")) return true;
    const char *text = json_text(object, "tokenizer_sha256", error);
    if (!text) return false;
    if (strlen(text) != SHA256_HEX - 1 || strspn(text, "0123456789abcdef") != SHA256_HEX - 1)
        return error_set(error, "field 'tokenizer_sha256' must be 64 hexadecimal digits");
    memcpy(sha256, text, SHA256_HEX);
    return true;
}

/* Older versions wrote eot_token, the tokenizer's, whether or not it separates documents. */
static bool parse_end(const cJSON *object, SetFacts *facts, Error *error) {
    const char *separator = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, "separator"));
    const bool older = !cJSON_GetObjectItemCaseSensitive(object, "end_of_document") && separator && !strcmp(separator, "eot");
    const char *key = older ? "eot_token" : "end_of_document";
    const int64_t last = facts->vocab_size ? facts->vocab_size - 1 : INT64_C(2147483583);
    return !said(object, key) || json_integer(object, key, 0, last, &facts->end_of_document, error);
}

bool sidecar_parse(const cJSON *object, SetFacts *facts, Error *error) {
    const double largest = 2147483584.0; /* --vocab-size's */
    const cJSON *name = cJSON_GetObjectItemCaseSensitive(object, "tokenizer");
    const char *word = cJSON_IsString(name) && *name->valuestring ? name->valuestring : "?";
    facts->vocab_size = 0, facts->end_of_document = -1, facts->tokenizer_sha256[0] = '\0';
    snprintf(facts->tokenizer, TOKENIZER_NAME, "%s", word);
    for (char *at = facts->tokenizer; *at; at++)
        if (!isalnum((unsigned char)*at) && !strchr("?._+-/:", *at)) *at = '_';
    if (said(object, "vocab_size") && !json_integer(object, "vocab_size", 1, (int64_t)largest, &facts->vocab_size, error))
        return false;
    return parse_sha256(object, facts->tokenizer_sha256, error) && parse_end(object, facts, error);
}

bool sidecar_differ(const SetFacts *a, const SetFacts *b) {
    if (a->tokenizer_sha256[0] && b->tokenizer_sha256[0]) return strcmp(a->tokenizer_sha256, b->tokenizer_sha256) != 0;
    return a->vocab_size && b->vocab_size && a->vocab_size != b->vocab_size;
}

/* Of one set; without a NAME.json that can be read, *facts says nothing. */
static bool read_facts(const SetPart *part, SetFacts *facts, Error *error) {
    bool there;
    Error reason = {0};
    *facts = (SetFacts){.tokenizer = "?", .end_of_document = -1};
    if (!sidecar_path(part, facts->path) || !sidecar_tokenizer_path(part, facts->tokenizer_directory)) {
        facts->path[0] = facts->tokenizer_directory[0] = '\0';
        return true;
    }
    cJSON *object = sidecar_json(facts->path, &there, &reason);
    if (!object) {
        facts->path[0] = facts->tokenizer_directory[0] = '\0';
        return true;
    }
    const bool good = sidecar_parse(object, facts, &reason) || error_set(error, "%s: %s", facts->path, reason.text);
    cJSON_Delete(object);
    return good;
}

/* Shards are sorted by path: those of one set stand together. */
bool sidecar_facts(const ShardSet *set, SetFacts *facts, Error *error) {
    SetPart part, before = {0};
    SetFacts own;
    *facts = (SetFacts){.tokenizer = "?", .end_of_document = -1};
    for (size_t i = 0; i < set->n_shards; i++) {
        if (!sidecar_part(set->shards[i].path, &part) || strcmp(part.stem, before.stem) == 0) continue;
        before = part;
        if (!read_facts(&part, &own, error)) return false;
        if (!own.path[0]) continue;
        if (sidecar_differ(facts, &own))
            return error_set(error, "%s and %s are of different tokenizers: %s, %s", facts->path, own.path, facts->tokenizer,
                             own.tokenizer);
        if (!facts->path[0]) *facts = own;
        if (facts->end_of_document < 0) facts->end_of_document = own.end_of_document;
    }
    return true;
}
