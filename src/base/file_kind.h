/*
 * file_kind.h: what does a file seem to be that is not what was expected?
 *
 * For messages only: a guess from the first bytes, never a reason to read a file some other way.
 *
 *     FileKind kind = file_kind(bytes, size, file_size);
 *     error_set(error, "%s: %s; …", path, kind.name ? kind.name : "no known kind of file");
 */
#ifndef FILE_KIND_H
#define FILE_KIND_H

#include <stddef.h>
#include <stdint.h>

typedef enum FileHolds {
    FILE_HOLDS_UNKNOWN,
    FILE_HOLDS_TEXT,       /* text, JSON lines, or either compressed: what data/prepare.py reads */
    FILE_HOLDS_SHARD,      /* one of our token shards, by its magic */
    FILE_HOLDS_TOKENS,     /* token ids in another form */
    FILE_HOLDS_WEIGHTS,    /* a model, or a training state */
    FILE_HOLDS_OTHER,      /* known, and none of those */
} FileHolds;

enum { FILE_KIND_BYTES = 1024 }; /* from the front: so many are enough */

typedef struct FileKind {
    const char *name; /* a noun phrase without a verb, "a gzip file"; NULL where it looks like nothing we know */
    FileHolds holds;
} FileKind;

/* From the first `size` bytes of a file of `file_size` bytes. Pure: it looks at nothing but its arguments. */
FileKind file_kind(const void *bytes, size_t size, uint64_t file_size);

/* Of the file with this path; {0} where it cannot be read. A directory is "a directory". */
FileKind file_kind_at(const char *path);

#endif
