/* rows.c: see rows.h. */
#define _GNU_SOURCE
#include "rows.h"
#include "megatron.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

/* What goes on while a set is read. */
typedef struct Search {
    Rows *rows;
    size_t T;
    bool split;
    uint64_t at; /* in the shard: the first token that belongs to no document yet */
} Search;

static void add_row(Rows *rows, uint64_t first, uint64_t tokens) {
    if (rows->n_rows == rows->capacity) {
        rows->capacity = rows->capacity ? rows->capacity + rows->capacity / 2 : 1 << 16;
        uint64_t *more = realloc(rows->row, rows->capacity * sizeof *more);
        require(more, "out of memory: %" PRIu64 " bytes for the index of documents", rows->capacity * (uint64_t)sizeof *more);
        rows->row = more;
    }
    rows->row[rows->n_rows++] = first << 24 | tokens;
    rows->targets += tokens - 1;
}

/* The next n tokens of the shard are a document. */
static bool add_document(void *context, uint64_t n) {
    Search *s = context;
    Rows *rows = s->rows;
    const uint64_t most = s->T + 1;
    uint64_t first = s->at, left = n;
    s->at += n;
    rows->documents++;
    if (n < 2) {
        rows->too_short++;
        return true;
    }
    for (; s->split && left > most; first += s->T, left -= s->T) add_row(rows, first, most);
    if (left > most) {
        rows->cut++;
        rows->cut_tokens += left - most;
        left = most;
    }
    add_row(rows, first, left);
    return true;
}

enum { CHUNK = 1 << 16, EVERY_S = 5 };

typedef struct Clock {
    bool tells;
    time_t told;
    uint64_t tokens, of;
} Clock;

static time_t seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

static void tell(Clock *clock, uint64_t more) {
    clock->tokens += more;
    if (!clock->tells || seconds() < clock->told + EVERY_S) return;
    clock->told = seconds();
    warn("looking for the ends of documents: %.0f %% of %" PRIu64 " tokens", 100 * (double)clock->tokens / (double)clock->of, clock->of);
}

/* Documents of a shard of which only the tokens tell. */
static bool read_shard(Search *s, ShardReader *reader, size_t shard, uint64_t n_tokens, uint32_t end, uint32_t vocab, Clock *clock,
                       Error *error) {
    uint32_t *tokens = must_malloc(CHUNK * sizeof *tokens, "looking for the ends of documents");
    bool good = true;
    for (uint64_t first = 0; good && first < n_tokens; first += CHUNK) {
        const size_t count = n_tokens - first < CHUNK ? (size_t)(n_tokens - first) : CHUNK;
        good = shard_read(reader, shard, first, count, vocab, tokens, error);
        for (size_t i = 0; good && i < count; i++)
            if (tokens[i] == end) add_document(s, first + i + 1 - s->at);
        tell(clock, count);
    }
    free(tokens);
    if (good && s->at < n_tokens) add_document(s, n_tokens - s->at);
    return good;
}

static bool find_in_shards(Search *s, const ShardSet *set, const Documents *documents, uint32_t vocab, bool tells, Error *error) {
    ShardReader *reader = shard_reader_create(set);
    Clock clock = {tells, seconds(), 0, set->n_tokens};
    bool good = true;
    for (size_t i = 0; good && i < set->n_shards; i++) {
        const Shard *shard = &set->shards[i];
        s->at = 0;
        if (shard->index_path) good = megatron_documents(shard->index_path, &shard->index, add_document, s, error);
        else good = read_shard(s, reader, i, shard->header.n_tokens, documents->end, vocab, &clock, error);
        s->rows->first_row[i + 1] = s->rows->n_rows;
    }
    shard_reader_destroy(reader);
    return good;
}

bool rows_find(Rows *rows, const ShardSet *set, size_t T, const Documents *documents, uint32_t vocab, bool tells, Error *error) {
    Search search = {.rows = rows, .T = T, .split = documents->split};
    *rows = (Rows){.n_shards = set->n_shards};
    if (T == 0 || T >= ROWS_TOKENS_MOST)
        return error_set(error, "rows of %zu tokens; one document a row is at most %d long", T, ROWS_TOKENS_MOST - 1);
    rows->first_row = must_calloc(set->n_shards + 1, sizeof *rows->first_row, "the index of documents");
    bool good = find_in_shards(&search, set, documents, vocab, tells, error);
    if (good && !rows->n_rows)
        good = error_set(error, "no document of two tokens or more among %" PRIu64 " in %zu shards", rows->documents, set->n_shards);
    if (!good) rows_free(rows);
    return good;
}

void rows_free(Rows *rows) {
    free(rows->row);
    free(rows->first_row);
    *rows = (Rows){0};
}
