/*
 * rows.h: which rows do the documents of a set make, one document a row?
 *
 * With --pack documents a row begins where a document does. One of n tokens, its end among them, makes n − 1 targets; what a
 * row of T tokens and the target of the last of them cannot hold, of more than T + 1 tokens, is cut off, or, with --pack-long
 * split, makes rows of its own, the first token of each the last one of the row before. What is shorter than two tokens makes
 * no row. A document lies in one shard: what a shard's end cuts is two.
 *
 * Where documents end stands in the tokens (documents.h), all of which are read once, or in Megatron's index. What is kept is
 * 8 bytes a row.
 */
#ifndef ROWS_H
#define ROWS_H

#include "documents.h"
#include "shard.h"

enum { ROWS_TOKENS_MOST = (1 << 24) - 1 }; /* T + 1; a row knows its tokens in 24 bits and its place in 40 */

typedef struct Rows {
    uint64_t *row;       /* [n_rows] its first token in the shard, times 2^24, plus how many it has: 2 … T + 1 */
    uint64_t *first_row; /* [n_shards + 1] shard i has the rows [first_row[i], first_row[i + 1]) */
    size_t n_shards;
    uint64_t n_rows, capacity;
    uint64_t documents;  /* in the set, with those that make no row */
    uint64_t too_short;  /* of those, the ones that make none */
    uint64_t cut;        /* of those, the ones that are longer than a row, and were cut */
    uint64_t cut_tokens; /* what was cut off them */
    uint64_t targets;    /* of all rows */
} Rows;

/* False if a shard cannot be read, or holds a token ≥ vocab, or no document of two tokens is there. On success rows_free().
 * With `tells`, where it takes more than some seconds, stderr hears how far it is. */
bool rows_find(Rows *rows, const ShardSet *set, size_t T, const Documents *documents, uint32_t vocab, bool tells, Error *error);
void rows_free(Rows *rows);

static inline uint64_t row_first_token(uint64_t row) { return row >> 24; }
static inline uint32_t row_tokens(uint64_t row) { return (uint32_t)(row & ROWS_TOKENS_MOST); }

#endif
