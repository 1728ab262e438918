/*
 * documents.h: where does a document end, and what follows from it for the tokens of a row?
 *
 * A document is what stands between two end-of-document tokens, with the one that ends it; the first begins with its shard.
 * The token is the one that --end-of-document names, or else the one that the NAME.json of the shards (sidecar.h) does.
 */
#ifndef DOCUMENTS_H
#define DOCUMENTS_H

#include "../settings/config.h"
#include "shard.h"

/* How a set is read. All zero: documents are nothing to anybody. */
typedef struct Documents {
    bool has_end; /* it is known */
    uint32_t end; /* the token */
    bool apart;   /* one document a row (rows.h) */
    bool split;   /* what is longer than a row makes more of them, instead of being cut */
} Documents;

/* What a config makes of a set. False where a flag needs to know the token and nobody tells, where two lists tell two, or for
 * one beyond the vocabulary. */
bool documents_of(Documents *documents, const Config *config, const ShardSet *set, Error *error);

/* Whether a document ends among the first tokens of the first shards: 2^16 of each of 16. *looked counts them. What cannot be read
 * is passed over: it will be met again. */
bool documents_end_somewhere(const ShardSet *set, const Documents *documents, uint32_t vocab, uint64_t *looked);

/* For each of the T tokens of a row: the place in the row at which its document starts, and how far behind that it is. What
 * stands before the first end belongs to a document that starts with the row. */
void documents_mark(const uint32_t *tokens, size_t T, uint32_t end, uint32_t *document_start, uint32_t *position);

#endif
