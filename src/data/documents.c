/* documents.c: see documents.h. */
#include "documents.h"
#include "../base/json.h"
#include "sidecar.h"

#include <inttypes.h>
#include <string.h>

/* What one list says; false for one that is there and names no token. */
static bool end_in(const cJSON *facts, uint32_t *end) {
    const cJSON *token = cJSON_GetObjectItemCaseSensitive(facts, "end_of_document");
    const char *separator = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(facts, "separator"));
    if (!token && separator && strcmp(separator, "eot") == 0) token = cJSON_GetObjectItemCaseSensitive(facts, "eot_token");
    if (!cJSON_IsNumber(token) || !(token->valuedouble >= 0 && token->valuedouble < INT32_MAX)) return false;
    *end = (uint32_t)token->valuedouble;
    return (double)*end == token->valuedouble;
}

/* The token that the lists of a set name, `count` of them. False where they name more than one. */
static bool find_end(const ShardSet *set, size_t *count, uint32_t *end, Error *error) {
    enum { LARGEST = 1 << 24 };
    char path[PATH_SIZE], first[PATH_SIZE] = "", before[PATH_SIZE] = "";
    SetPart part;
    *count = 0;
    for (size_t i = 0; i < set->n_shards; i++) {
        uint32_t found;
        Error ignored = {0};
        if (!sidecar_part(set->shards[i].path, &part) || !sidecar_path(&part, path) || !strcmp(path, before)) continue;
        memcpy(before, path, sizeof before); /* shards of one part stand together */
        cJSON *facts = json_read(path, LARGEST, &ignored);
        const bool there = facts && end_in(facts, &found);
        cJSON_Delete(facts);
        if (!there) continue;
        if (*count && found != *end)
            return error_set(error, "%.200s ends documents with token %" PRIu32 ", %.200s with %" PRIu32, first, *end, path, found);
        if (!(*count)++) memcpy(first, path, sizeof first);
        *end = found;
    }
    return true;
}

bool documents_of(Documents *documents, const Config *config, const ShardSet *set, Error *error) {
    size_t count = 0;
    uint32_t end = 0;
    *documents = (Documents){0};
    if (config->end_of_document != AUTO_INT) end = (uint32_t)config->end_of_document, count = 1;
    else if (!find_end(set, &count, &end, error)) return false;
    const char *asks = config->doc_mask == FLAG_ON ? "--doc-mask on" : NULL;
    if (asks && !count)
        return error_set(error, "%s: no NAME.json beside %.200s says which token ends a document; --end-of-document ID does", asks,
                         set->shards[0].path);
    if (asks && end >= config->vocab_size)
        return error_set(error, "%s: token %" PRIu32 " ends documents, the vocabulary has %lld", asks, end,
                         (long long)config->vocab_size);
    *documents = (Documents){.has_end = count > 0, .end = end};
    return true;
}

void documents_mark(const uint32_t *tokens, size_t T, uint32_t end, uint32_t *document_start, uint32_t *position) {
    uint32_t start = 0;
    for (uint32_t t = 0; t < T; t++) {
        document_start[t] = start;
        position[t] = t - start;
        if (tokens[t] == end) start = t + 1;
    }
}
