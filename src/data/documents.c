/* documents.c: see documents.h. */
#include "documents.h"
#include "sidecar.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* What the NAME.json of one set says: −1 where it names no token, or is not there. */
static bool end_in(const char *path, int64_t *end, Error *error) {
    SetFacts facts = {0};
    bool there;
    Error reason = {0};
    *end = -1;
    cJSON *object = sidecar_json(path, &there, &reason);
    if (!object) return true; /* inventory.h tells of one that cannot be read */
    const bool good = sidecar_parse(object, &facts, &reason) || error_set(error, "%s: %s", path, reason.text);
    cJSON_Delete(object);
    if (good) *end = facts.end_of_document;
    return good;
}

/* The token that the lists of a set name, `count` of them. False where they name more than one. */
static bool find_end(const ShardSet *set, size_t *count, uint32_t *end, Error *error) {
    char path[PATH_SIZE], first[PATH_SIZE] = "", before[PATH_SIZE] = "";
    SetPart part;
    *count = 0;
    for (size_t i = 0; i < set->n_shards; i++) {
        int64_t found;
        if (!sidecar_part(set->shards[i].path, &part) || !sidecar_path(&part, path) || !strcmp(path, before)) continue;
        memcpy(before, path, sizeof before); /* shards of one part stand together */
        if (!end_in(path, &found, error)) return false;
        if (found < 0) continue;
        if (*count && found != *end)
            return error_set(error, "%.200s ends documents with token %" PRIu32 ", %.200s with %" PRId64, first, *end, path, found);
        if (!(*count)++) memcpy(first, path, sizeof first);
        *end = (uint32_t)found;
    }
    return true;
}

/* Whether an index says where documents end, so that no token need. */
static bool all_indexed(const ShardSet *set) {
    for (size_t i = 0; i < set->n_shards; i++)
        if (!set->shards[i].index_path) return false;
    return true;
}

bool documents_of(Documents *documents, const Config *config, const ShardSet *set, Error *error) {
    size_t count = 0;
    uint32_t end = 0;
    *documents = (Documents){0};
    if (config->end_of_document != AUTO_INT) end = (uint32_t)config->end_of_document, count = 1;
    else if (!find_end(set, &count, &end, error)) return false;
    const char *asks = config->doc_mask == FLAG_ON                           ? "--doc-mask on"
                       : config->pack == PACK_DOCUMENTS && !all_indexed(set) ? "--pack documents"
                                                                             : NULL;
    if (asks && !count)
        return error_set(error, "%s: no NAME.json beside %.200s says which token ends a document; --end-of-document ID does", asks,
                         set->shards[0].path);
    if (asks && end >= config->vocab_size)
        return error_set(error, "%s: token %" PRIu32 " ends documents, the vocabulary has %lld", asks, end,
                         (long long)config->vocab_size);
    *documents = (Documents){.has_end = count > 0, .end = end, .apart = config->pack == PACK_DOCUMENTS,
                             .split = config->pack_long == PACK_LONG_SPLIT};
    return true;
}

bool documents_end_somewhere(const ShardSet *set, const Documents *documents, uint32_t vocab, uint64_t *looked) {
    enum { TOKENS = 1 << 16, SHARDS = 16 };
    uint32_t *tokens = must_malloc(TOKENS * sizeof *tokens, "a look at the data");
    ShardReader *reader = shard_reader_create(set);
    bool ends = false;
    *looked = 0;
    for (size_t i = 0; !ends && i < set->n_shards && i < SHARDS; i++) {
        Error ignored;
        const uint64_t n = set->shards[i].header.n_tokens, count = n < TOKENS ? n : TOKENS;
        if (!shard_read(reader, i, 0, (size_t)count, vocab, tokens, &ignored)) continue;
        *looked += count;
        for (size_t t = 0; !ends && t < count; t++) ends = tokens[t] == documents->end;
    }
    shard_reader_destroy(reader);
    free(tokens);
    return ends;
}

void documents_mark(const uint32_t *tokens, size_t T, uint32_t end, uint32_t *document_start, uint32_t *position) {
    uint32_t start = 0;
    for (uint32_t t = 0; t < T; t++) {
        document_start[t] = start;
        position[t] = t - start;
        if (tokens[t] == end) start = t + 1;
    }
}
