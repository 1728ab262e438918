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
    *out = (ShardHeader){.token_bytes = formats[f].token_bytes, .n_tokens = words[2], .first_byte = SHARD_HEADER_BYTES};
    return true;
}

static bool refuse_directory(const char *path, Error *error) {
    const size_t length = strlen(path);
    const char *slash = length && path[length - 1] == '/' ? "" : "/";
    return error_set(error, "%s: a directory; name the shards in it: '%s%s*_train_*.bin', '%s%s*_val_*.bin'", path, path,
                     slash, path, slash);
}

/* The index says it all; its tokens are not looked at. */
static bool read_index(Shard *shard, Error *error) {
    uint64_t file_size;
    Error reason;
    const int fd = file_open(shard->path, &file_size, &reason);
    if (fd < 0) return error_set(error, "%s: the index of a Megatron data set, whose tokens are beside it: %s", shard->index_path, reason.text);
    close(fd);
    if (!megatron_open(shard->index_path, file_size, &shard->index, error)) return false;
    shard->header = (ShardHeader){.token_bytes = shard->index.token_bytes, .n_tokens = shard->index.n_tokens,
                                  .is_signed = shard->index.is_signed};
    return true;
}

static bool read_shard_header(Shard *shard, Error *error) {
    unsigned char bytes[SHARD_HEADER_BYTES];
    uint64_t file_size;
    struct stat status;
    Error reason;
    if (shard->index_path) return read_index(shard, error);
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
                       : strchr(pattern, ',') ? "; several files are named by a pattern with * ? [ ], not by a list"
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

/* The path with another ending; the caller frees. */
static char *with_ending(const char *path, size_t length, const char *ending) {
    char *other = must_malloc(length + strlen(ending) + 1, "a shard's path");
    memcpy(other, path, length);
    strcpy(other + length, ending);
    return other;
}

/* Whether the path is one of the two files of a Megatron set, or their common name; then it becomes that of the tokens. */
static void find_index(Shard *shard) {
    const size_t length = strlen(shard->path), stem = length > 4 ? length - 4 : length;
    const char *ending = shard->path + stem;
    struct stat status;
    const bool is_part = strcmp(ending, ".bin") == 0 || strcmp(ending, ".idx") == 0;
    if (!is_part && lstat(shard->path, &status) == 0) return;
    char *index = with_ending(shard->path, is_part ? stem : length, ".idx");
    if (!megatron_is_index(index)) {
        free(index);
        return;
    }
    char *tokens = with_ending(shard->path, is_part ? stem : length, ".bin");
    free(shard->path);
    shard->path = tokens;
    shard->index_path = index;
}

/* A pattern may have matched both files of one. */
static void drop_doubles(ShardSet *set) {
    size_t kept = 0;
    for (size_t i = 0; i < set->n_shards; i++) {
        Shard *shard = &set->shards[i];
        if (kept && shard->index_path && strcmp(set->shards[kept - 1].path, shard->path) == 0) free(shard->path), free(shard->index_path);
        else set->shards[kept++] = *shard;
    }
    set->n_shards = kept;
}

/* Turns the pattern into set->shards, sorted, headers not read yet. What is there under this very name is that file:
 * names may hold brackets, those of directories too. */
static bool expand_pattern(ShardSet *set, const char *pattern, Error *error) {
    struct stat status;
    set->shards = must_calloc(1, sizeof set->shards[0], "the list of shards");
    add_path(set, pattern);
    find_index(&set->shards[0]);
    if (set->shards[0].index_path || lstat(pattern, &status) == 0) return true;
    shard_set_close(set);
    glob_t found;
    char *plain = with_plain_directory(pattern);
    const int result = glob(plain, GLOB_ERR | GLOB_NOSORT | GLOB_TILDE, NULL, &found);
    const int reason = errno;
    free(plain);
    if (result != 0) {
        globfree(&found);
        const bool absent = result == GLOB_ABORTED && (reason == ENOENT || reason == ENOTDIR); /* a pattern in a directory that is not there */
        if (result == GLOB_NOMATCH || absent) return refuse_no_match(pattern, error);
        if (result == GLOB_NOSPACE) return error_set(error, "'%s': out of memory", pattern);
        return error_set(error, "'%s': cannot read a directory: %s", pattern, strerror(reason));
    }
    set->shards = must_calloc(found.gl_pathc, sizeof set->shards[0], "the list of shards");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        add_path(set, found.gl_pathv[i]);
        find_index(&set->shards[i]);
    }
    globfree(&found);
    qsort(set->shards, set->n_shards, sizeof set->shards[0], compare_paths);
    drop_doubles(set);
    return true;
}

bool shard_set_matches(const char *pattern) {
    ShardSet set = {0};
    Error ignored;
    const bool matches = expand_pattern(&set, pattern, &ignored);
    shard_set_close(&set);
    return matches;
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
    for (size_t i = 0; i < set->n_shards; i++) free(set->shards[i].path), free(set->shards[i].index_path);
    for (size_t i = 0; i < set->n_sources; i++) free(set->sources[i].pattern);
    free(set->shards);
    free(set->sources);
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
    const uint64_t expected = shard->header.first_byte + shard->header.n_tokens * shard->header.token_bytes;
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

/* All return the largest token, so that the usual case needs no look at each. What no uint32 can hold becomes UINT32_MAX, which
 * is no token of any vocabulary. */
static uint32_t widen16(const unsigned char *bytes, size_t count, uint32_t *out) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t token;
        memcpy(&token, bytes + 2 * i, sizeof token);
        out[i] = token;
        largest = out[i] > largest ? out[i] : largest;
    }
    return largest;
}

static uint32_t largest32(const uint32_t *tokens, size_t count) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) largest = tokens[i] > largest ? tokens[i] : largest;
    return largest;
}

/* One token as it stands there. */
static int64_t token_at(const unsigned char *bytes, const ShardHeader *header) {
    uint64_t value = 0;
    memcpy(&value, bytes, header->token_bytes);
    const int unused = 64 - 8 * (int)header->token_bytes;
    return header->is_signed ? (int64_t)(value << unused) >> unused : (int64_t)value;
}

static uint32_t widen(const unsigned char *bytes, const ShardHeader *header, size_t count, uint32_t *out) {
    uint32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        const int64_t token = token_at(bytes + i * header->token_bytes, header);
        out[i] = token < 0 || token > UINT32_MAX ? UINT32_MAX : (uint32_t)token;
        largest = out[i] > largest ? out[i] : largest;
    }
    return largest;
}

enum { CHUNK_TOKENS = 8192 };

/* At most CHUNK_TOKENS: through a buffer that stays in cache. */
static bool read_chunk(int fd, const Shard *shard, uint64_t first, size_t count, uint32_t vocab,
                       uint32_t *out, Error *error) {
    unsigned char narrow[8 * CHUNK_TOKENS];
    const ShardHeader *header = &shard->header;
    const uint32_t width = header->token_bytes;
    const bool as_it_is = width == 4; /* what is negative there is too large as well */
    const uint64_t offset = header->first_byte + first * width;
    const ssize_t n = file_read(fd, as_it_is ? (void *)out : (void *)narrow, count * width, offset);
    if (n < 0)
        return error_set(error, "%s: byte %" PRIu64 ": cannot read: %s", shard->path, offset,
                         strerror(errno));
    if ((size_t)n != count * width)
        return error_set(error, "%s: byte %" PRIu64 ": the file ends here; it was truncated while in use",
                         shard->path, offset + (uint64_t)n);
    const uint32_t largest = as_it_is                         ? largest32(out, count)
                             : width == 2 && !header->is_signed ? widen16(narrow, count, out)
                                                                : widen(narrow, header, count, out);
    if (largest < vocab) return true;
    size_t bad = 0;
    while (out[bad] < vocab) bad++;
    const unsigned char *at = as_it_is ? (const unsigned char *)&out[bad] : narrow + bad * width;
    return error_set(error, "%s: byte %" PRIu64 ": token %" PRId64 ", the vocabulary has %" PRIu32,
                     shard->path, offset + bad * width, token_at(at, header), vocab);
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
    const ShardHeader *header = &reader->set->shards[index].header;
    (void)posix_fadvise(reader->fd[index], (off_t)(header->first_byte + first * header->token_bytes),
                        (off_t)(count * header->token_bytes), POSIX_FADV_WILLNEED);
}
