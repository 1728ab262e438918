/*
 * shard.h: token shards on disk: what is in a set of them, and how tokens are read from it.
 *
 * A shard is llm.c's, or Megatron's (megatron.h): NAME.bin with an index NAME.idx beside it, which is then found by the name of
 * either or by NAME alone. llm.c's is a header of 256 little-endian int32, then the tokens, and nothing after them.
 *
 *     word 0  magic     20240520: uint16 tokens, version 1      20240801: uint32 tokens, version 7
 *     word 1  version
 *     word 2  number of tokens
 *     the other words are not looked at
 *
 * A set is one file, or every file that a glob matches, sorted by path in byte order (not by locale). Files of all kinds and
 * widths may stand in one set: a reader always delivers uint32.
 *
 * Nothing here maps files into memory: a file truncated under a map is a signal, and its pages would count as
 * this process's memory. Errors come back as one line in *error that names the file and, where there is one,
 * the byte offset.
 */
#ifndef SHARD_H
#define SHARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/check.h"
#include "megatron.h"

#define SHARD_HEADER_BYTES 1024

typedef struct ShardHeader {
    uint32_t token_bytes; /* 2 or 4; Megatron's 1 and 8 as well */
    uint64_t n_tokens;    /* may be 0 */
    uint64_t first_byte;  /* of the file that is a token's */
    bool is_signed;       /* a negative token is none */
} ShardHeader;

/* Reads a header from the first `size` bytes of a file of `file_size` bytes; size ≥ 1024 is enough. Pure: it
   looks at nothing but its arguments. False, with *error set and *out untouched, unless magic, version and
   count are right and file_size is exactly what they make. */
bool shard_parse_header(const void *bytes, size_t size, uint64_t file_size, ShardHeader *out, Error *error);

typedef struct Shard {
    char *path;
    ShardHeader header;
    char *index_path; /* Megatron's NAME.idx, or NULL */
    MegatronIndex index;
} Shard;

/* One of the sources of a mixture (mixture.h): which shards are its own, and how many parts of all are its share. */
typedef struct ShardSource {
    char *pattern;
    size_t first_shard, n_shards;
    uint64_t n_tokens;
    uint32_t parts;
} ShardSource;

/* Immutable once open: any number of readers in any threads may share it. */
typedef struct ShardSet {
    Shard *shards;
    size_t n_shards;
    uint64_t n_tokens; /* in all shards */
    ShardSource *sources; /* n_sources of them; 0: the set is no mixture */
    size_t n_sources;
} ShardSet;

/* Opens the file of this name or, where there is none, the files that match (glob(7), and a leading ~; no braces),
   checks every header and size, and closes them again. False if none matches, or for the first that is not a regular file, cannot be read, or is no shard;
   then *set is empty and needs no close. */
bool shard_set_open(ShardSet *set, const char *pattern, Error *error);
void shard_set_close(ShardSet *set);

/* Whether any file does, readable or not. */
bool shard_set_matches(const char *pattern);

/*
 * A reader keeps files open between reads: at most a quarter of RLIMIT_NOFILE and at most 1024, and fewer if
 * the process runs out; the one opened first goes first. One reader belongs to one thread at a time. The set
 * must outlive it.
 */
typedef struct ShardReader ShardReader;

ShardReader *shard_reader_create(const ShardSet *set);
void shard_reader_destroy(ShardReader *reader); /* NULL is fine */
size_t shard_reader_n_open(const ShardReader *reader);
size_t shard_reader_max_open(const ShardReader *reader);

/* Reads tokens [first, first + count) of a shard into out. False if the range is not inside the shard, the
   file cannot be read, has another size than when the set was opened, or ends early, or if a token is ≥
   vocab; out is then undefined. */
bool shard_read(ShardReader *reader, size_t shard, uint64_t first, size_t count, uint32_t vocab,
                uint32_t *out, Error *error);

/* Asks the kernel to have these tokens in the page cache soon (posix_fadvise). A hint: what fails here will
   fail again, with a message, in shard_read. */
void shard_advise(ShardReader *reader, size_t shard, uint64_t first, size_t count);

#endif
