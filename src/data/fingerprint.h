/*
 * fingerprint.h: are these the tokens that those were?
 *
 * Of each shard, in the set's order: how many tokens, how wide, and a checksum (checksum.h) of samples: all of it up to
 * 64 KiB, else 512 bytes at its beginning, its end, and at two places between. So a set of 100 GB costs thousands of
 * small reads, not a pass over it; what was tokenized otherwise, shuffled, cut or grown at one place is seen; a few
 * tokens exchanged in the middle of a large shard may not be. Where the files lie, and what they are called, is no part
 * of it, but for their order.
 *
 * As text, which a checkpoint keeps (one line, and exactly one for each fingerprint):
 *
 *     tokenizer=bytes sha256=01…ef shards=2 tokens=180 crc64=0123456789abcdef 100x2:0123456789abcdef 80x2:0123456789abcdef
 *
 * and, of a mixture of two shards to 7 parts and one to 3 parts, `mixture=7x2,3x1` behind the crc64.
 *
 * crc64 is that of all shards together; beyond FINGERPRINT_LISTED of them it stands alone. The tokenizer is the one that
 * the set's NAME.json names (sidecar.h), "?" where there is none: what says why tokens differ, and is not compared by
 * itself. sha256 is that of its tokenizer.json, left out where it is not known, and compared where both have it.
 */
#ifndef FINGERPRINT_H
#define FINGERPRINT_H

#include "shard.h"
#include "sidecar.h"
#include "turns.h"

enum { FINGERPRINT_LISTED = 4096 };

typedef struct ShardPrint {
    uint64_t n_tokens, token_bytes, checksum;
} ShardPrint;

/* One of the sources of a mixture. */
typedef struct SourcePrint {
    uint64_t parts, n_shards;
} SourcePrint;

typedef struct Fingerprint {
    char tokenizer[TOKENIZER_NAME], tokenizer_sha256[SHA256_HEX];
    uint64_t n_shards, n_tokens, checksum;
    SourcePrint *sources; /* n_sources of them; 0: no mixture */
    size_t n_sources;
    ShardPrint *shards; /* n_shards of them; NULL for more than FINGERPRINT_LISTED */
} Fingerprint;

/* Reads the samples. False for a shard that cannot be read, and for one that is not as its set's NAME.json lists it, under
 * "shard_prints" by its name, as in the text: "100x2:0123456789abcdef". On success fingerprint_free(). */
bool fingerprint_take(const ShardSet *set, Fingerprint *fingerprint, Error *error);
void fingerprint_free(Fingerprint *fingerprint);

/* The text; the caller frees. */
char *fingerprint_text(const Fingerprint *fingerprint);

/* What a text says; a pure function. Any text but the one that fingerprint_text() writes is refused. On success
 * fingerprint_free(). */
bool fingerprint_parse(const char *text, Fingerprint *fingerprint, Error *error);

/* Whether they differ; then `text` says in what, naming the first shard of the set `now` was taken from. */
bool fingerprint_differs(const Fingerprint *then, const Fingerprint *now, const ShardSet *set, char *text, size_t size);

#endif
