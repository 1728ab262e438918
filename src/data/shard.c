/* shard.c: see shard.h. */
#define _GNU_SOURCE
#include "shard.h"

#include <glob.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "../base/file.h"
#include "../base/file_kind.h"

static const struct {
    uint32_t magic, version, token_bytes;
} formats[] = {{20240520, 1, 2}, {20240801, 7, 4}};

enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* False for a file that seems to be something else, with what to do about it. */
static bool refuse_kind(const void *bytes, size_t size, uint64_t file_size, Error *error) {
    static const char *const ADVICE[] = {
        [FILE_HOLDS_TEXT] = "data/prepare.py FILE makes shards of it",
        [FILE_HOLDS_TOKENS] = "data/prepare.py makes shards of the text it came from",
        [FILE_HOLDS_WEIGHTS] = "shards of tokens are wanted; weights go to --init-from or --resume",
        [FILE_HOLDS_OTHER] = "shards are what data/prepare.py writes",
    };
    const FileKind kind = file_kind(bytes, size, file_size);
    if (file_size == 0 || !kind.name || !ADVICE[kind.holds]) return true;
    return error_set(error, "no shard: it seems to be %s; %s", kind.name, ADVICE[kind.holds]);
}

bool shard_parse_header(const void *bytes, size_t size, uint64_t file_size, ShardHeader *out, Error *error) {
    if (!refuse_kind(bytes, size, file_size, error)) return false;
    if (size < SHARD_HEADER_BYTES || file_size < SHARD_HEADER_BYTES)
        return error_set(error, "%" PRIu64 " bytes long, shorter than a shard's header of %d bytes",
                         size < file_size ? (uint64_t)size : file_size, SHARD_HEADER_BYTES);
    uint32_t words[3];
    memcpy(words, bytes, sizeof words);
    size_t f = 0;
    while (f < N_FORMATS && formats[f].magic != words[0]) f++;
    if (f == N_FORMATS)
        return error_set(
            error, "byte 0: magic %" PRIu32 ", a shard has %" PRIu32 " (uint16) or %" PRIu32 " (uint32)",
            words[0], formats[0].magic, formats[1].magic);
    if (words[1] != formats[f].version)
        return error_set(error, "byte 4: version %" PRIu32 ", magic %" PRIu32 " goes with version %" PRIu32,
                         words[1], words[0], formats[f].version);
    if (words[2] > INT32_MAX)
        return error_set(error, "byte 8: token count %" PRId64 " is negative",
                         (int64_t)words[2] - (INT64_C(1) << 32));
    /* At most 2^31 tokens of 4 bytes: no overflow in 64 bits. */
    const uint64_t expected = SHARD_HEADER_BYTES + (uint64_t)words[2] * formats[f].token_bytes;
    if (expected != file_size)
        return error_set(error,
                         "byte 8: the header counts %" PRIu32 " tokens of %" PRIu32
                         " bytes, so the file should be %" PRIu64 " bytes long; it is %" PRIu64,
                         words[2], formats[f].token_bytes, expected, file_size);
    *out = (ShardHeader){.token_bytes = formats[f].token_bytes, .n_tokens = words[2]};
    return true;
}

static bool refuse_directory(const char *path, Error *error) {
    const size_t length = strlen(path);
    const char *slash = length && path[length - 1] == '/' ? "" : "/";
    return error_set(error, "%s: a directory; name the shards in it: '%s%s*_train_*.bin', '%s%s*_val_*.bin'", path, path,
                     slash, path, slash);
}

static bool read_shard_header(Shard *shard, Error *error) {
    unsigned char bytes[SHARD_HEADER_BYTES];
    uint64_t file_size;
    struct stat status;
    Error reason;
    if (stat(shard->path, &status) == 0 && S_ISDIR(status.st_mode)) return refuse_directory(shard->path, error);
    const int fd = file_open(shard->path, &file_size, error);
    if (fd < 0) return false;
    const ssize_t n = file_read(fd, bytes, sizeof bytes, 0);
    const int read_error = errno;
    close(fd);
    if (n < 0) return error_set(error, "%s: cannot read: %s", shard->path, strerror(read_error));
    if (!shard_parse_header(bytes, (size_t)n, file_size, &shard->header, &reason))
        return error_set(error, "%s: %s", shard->path, reason.text);
    return true;
}

static int compare_paths(const void *a, const void *b) {
    return strcmp(((const Shard *)a)->path, ((const Shard *)b)->path);
}

/* What a name or a pattern under which nothing lies may have been meant to be. */
static bool refuse_no_match(const char *pattern, Error *error) {
    const char *hint = strchr(pattern, '{')   ? "; braces are the shell's, a pattern has * ? [ ]"
                       : strchr(pattern, '[') ? "; a bracket that is part of a name is written [[]"
                                              : "";
    if (!strpbrk(pattern, "*?[")) return error_set(error, "%s: no such file%s", pattern, hint);
    return error_set(error, "no file matches '%s'%s", pattern, hint);
}

/* The pattern with the wildcards of its directory taken for letters, where a directory of that very name is there: the
 * rest is still a pattern. The caller frees it. */
static char *with_plain_directory(const char *pattern) {
    const char *slash = strrchr(pattern, '/');
    const size_t length = slash ? (size_t)(slash - pattern) : 0;
    char *plain = must_malloc(2 * strlen(pattern) + 1, "a pattern"), *end = plain;
    struct stat status;
    strcpy(plain, pattern);
    plain[length] = '\0';
    const bool is_there = length && stat(plain, &status) == 0 && S_ISDIR(status.st_mode);
    for (const char *at = pattern; *at; at++) {
        if (is_there && at < slash && strchr("*?[\\", *at)) *end++ = '\\';
        *end++ = *at;
    }
    *end = '\0';
    return plain;
}

static void add_path(ShardSet *set, const char *path) {
    const size_t bytes = strlen(path) + 1;
    set->shards[set->n_shards++].path = memcpy(must_malloc(bytes, "a shard's path"), path, bytes);
}

/* Turns the pattern into set->shards, sorted, headers not read yet. What is there under this very name is that file:
 * names may hold brackets, those of directories too. */
static bool expand_pattern(ShardSet *set, const char *pattern, Error *error) {
    struct stat status;
    if (lstat(pattern, &status) == 0) {
        set->shards = must_calloc(1, sizeof set->shards[0], "the list of shards");
        add_path(set, pattern);
        return true;
    }
    glob_t found;
    char *plain = with_plain_directory(pattern);
    const int result = glob(plain, GLOB_ERR | GLOB_NOSORT | GLOB_TILDE, NULL, &found);
    const int reason = errno;
    free(plain);
    if (result != 0) {
        globfree(&found);
        if (result == GLOB_NOMATCH) return refuse_no_match(pattern, error);
        if (result == GLOB_NOSPACE) return error_set(error, "'%s': out of memory", pattern);
        return error_set(error, "'%s': cannot read a directory: %s", pattern, strerror(reason));
    }
    set->shards = must_calloc(found.gl_pathc, sizeof set->shards[0], "the list of shards");
    for (size_t i = 0; i < found.gl_pathc; i++) add_path(set, found.gl_pathv[i]);
    globfree(&found);
    qsort(set->shards, set->n_shards, sizeof set->shards[0], compare_paths);
    return true;
}

bool shard_set_open(ShardSet *set, const char *pattern, Error *error) {
    *set = (ShardSet){0};
    if (!expand_pattern(set, pattern, error)) return false;
    for (size_t i = 0; i < set->n_shards; i++) {
        if (!read_shard_header(&set->shards[i], error)) {
            shard_set_close(set);
            return false;
        }
        set->n_tokens += set->shards[i].header.n_tokens;
    }
    return true;
}

void shard_set_close(ShardSet *set) {
    for (size_t i = 0; i < set->n_shards; i++) free(set->shards[i].path);
    free(set->shards);
    *set = (ShardSet){0};
}

/* ---- the reader ---- */

struct ShardReader {
    const ShardSet *set;
    int *fd;      /* per shard, -1 while closed */
    size_t *ring; /* the shards that are open, oldest at `oldest` */
    size_t limit, n_open, oldest;
};

static size_t open_files_allowed(size_t n_shards) {
    struct rlimit files;
    size_t limit = 64;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        limit = files.rlim_cur > 4096 ? 1024 : (size_t)files.rlim_cur / 4;
    if (limit > n_shards) limit = n_shards;
    return limit ? limit : 1;
}

ShardReader *shard_reader_create(const ShardSet *set) {
    ShardReader *reader = must_calloc(1, sizeof *reader, "a shard reader");
    reader->set = set;
    reader->limit = open_files_allowed(set->n_shards);
    reader->fd = must_calloc(set->n_shards, sizeof reader->fd[0], "a shard reader");
    reader->ring = must_calloc(reader->limit, sizeof reader->ring[0], "a shard reader");
    for (size_t i = 0; i < set->n_shards; i++) reader->fd[i] = -1;
    return reader;
}

static void close_oldest(ShardReader *reader) {
    const size_t shard = reader->ring[reader->oldest];
    close(reader->fd[shard]);
    reader->fd[shard] = -1;
    reader->oldest = (reader->oldest + 1) % reader->limit;
    reader->n_open--;
}

void shard_reader_destroy(ShardReader *reader) {
    if (!reader) return;
    while (reader->n_open) close_oldest(reader);
    free(reader->fd);
    free(reader->ring);
    free(reader);
}

size_t shard_reader_n_open(const ShardReader *reader) {
    return reader->n_open;
}

size_t shard_reader_max_open(const ShardReader *reader) {
    return reader->limit;
}

static bool open_shard(ShardReader *reader, size_t index, Error *error) {
    const Shard *shard = &reader->set->shards[index];
    const uint64_t expected = SHARD_HEADER_BYTES + shard->header.n_tokens * shard->header.token_bytes;
    uint64_t file_size;
    int fd;
    if (reader->fd[index] >= 0) return true;
    if (reader->n_open == reader->limit) close_oldest(reader);
    while ((fd = file_open(shard->path, &file_size, error)) < 0) {
        if ((errno != EMFILE && errno != ENFILE) || reader->n_open == 0) return false;
        close_oldest(reader);
    }
    if (file_size != expected) {
        close(fd);
        return error_set(
            error, "%s: its size changed from %" PRIu64 " to %" PRIu64 " bytes since it was opened first",
            shard->path, expected, file_size);
    }
    reader->fd[index] = fd;
    reader->ring[(reader->oldest + reader->n_open++) % reader->limit] = index;
    return true;
}

/* Both return the largest token, so that the usual case needs no look at each. */
static uint32_t widen16(const uint16_t *tokens, size_t count, uint32_t *out) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        out[i] = tokens[i];
        largest = out[i] > largest ? out[i] : largest;
    }
    return largest;
}

static uint32_t largest32(const uint32_t *tokens, size_t count) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) largest = tokens[i] > largest ? tokens[i] : largest;
    return largest;
}

enum { CHUNK_TOKENS = 8192 };

/* At most CHUNK_TOKENS: through a buffer that stays in cache. */
static bool read_chunk(int fd, const Shard *shard, uint64_t first, size_t count, uint32_t vocab,
                       uint32_t *out, Error *error) {
    uint16_t narrow[CHUNK_TOKENS];
    const uint32_t width = shard->header.token_bytes;
    const uint64_t offset = SHARD_HEADER_BYTES + first * width;
    const ssize_t n = file_read(fd, width == 2 ? (void *)narrow : (void *)out, count * width, offset);
    if (n < 0)
        return error_set(error, "%s: byte %" PRIu64 ": cannot read: %s", shard->path, offset,
                         strerror(errno));
    if ((size_t)n != count * width)
        return error_set(error, "%s: byte %" PRIu64 ": the file ends here; it was truncated while in use",
                         shard->path, offset + (uint64_t)n);
    if ((width == 2 ? widen16(narrow, count, out) : largest32(out, count)) < vocab) return true;
    size_t bad = 0;
    while (out[bad] < vocab) bad++;
    return error_set(error, "%s: byte %" PRIu64 ": token %" PRIu32 ", the vocabulary has %" PRIu32,
                     shard->path, offset + bad * width, out[bad], vocab);
}

bool shard_read(ShardReader *reader, size_t index, uint64_t first, size_t count, uint32_t vocab,
                uint32_t *out, Error *error) {
    if (index >= reader->set->n_shards)
        return error_set(error, "shard %zu of a set that has %zu", index, reader->set->n_shards);
    const Shard *shard = &reader->set->shards[index];
    if (first > shard->header.n_tokens || count > shard->header.n_tokens - first)
        return error_set(error, "%s: %zu tokens at token %" PRIu64 ", the shard has %" PRIu64, shard->path,
                         count, first, shard->header.n_tokens);
    if (!open_shard(reader, index, error)) return false;
    for (size_t done = 0; done < count; done += CHUNK_TOKENS) {
        const size_t n = count - done < CHUNK_TOKENS ? count - done : CHUNK_TOKENS;
        if (!read_chunk(reader->fd[index], shard, first + done, n, vocab, out + done, error)) return false;
    }
    return true;
}

void shard_advise(ShardReader *reader, size_t index, uint64_t first, size_t count) {
    Error ignored;
    if (index >= reader->set->n_shards || !open_shard(reader, index, &ignored)) return;
    const uint64_t width = reader->set->shards[index].header.token_bytes;
    (void)posix_fadvise(reader->fd[index], (off_t)(SHARD_HEADER_BYTES + first * width),
                        (off_t)(count * width), POSIX_FADV_WILLNEED);
}
