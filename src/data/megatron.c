/* megatron.c: see megatron.h. */
#include "megatron.h"
#include "../base/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char MAGIC[9] = "MMIDIDX\0"; /* and the zero that ends it */

static const struct {
    uint8_t bytes;
    bool is_signed;
} TYPES[] = {[1] = {1, false}, [2] = {1, true}, [3] = {2, true}, [4] = {4, true}, [5] = {8, true}, [8] = {2, false}};

static uint64_t word(const unsigned char *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

bool megatron_is_index(const char *path) {
    char start[sizeof MAGIC];
    uint64_t size;
    Error ignored;
    const int fd = file_open(path, &size, &ignored);
    if (fd < 0) return false;
    const bool is = file_read(fd, start, sizeof start, 0) == (ssize_t)sizeof start && memcmp(start, MAGIC, sizeof start) == 0;
    close(fd);
    return is;
}

bool megatron_parse_header(const void *header, size_t size, uint64_t file_size, MegatronIndex *out, Error *error) {
    enum { ENTRY_BYTES = 12, MOST_BITS = 44 }; /* of a sequence; 2^44 sequences are beyond any file */
    const unsigned char *bytes = header;
    if (size < MEGATRON_HEADER_BYTES || file_size < MEGATRON_HEADER_BYTES)
        return error_set(error, "%" PRIu64 " bytes long, shorter than the header of Megatron's index of %d bytes",
                         size < file_size ? (uint64_t)size : file_size, MEGATRON_HEADER_BYTES);
    if (memcmp(bytes, MAGIC, sizeof MAGIC)) return error_set(error, "byte 0: no index of Megatron's, which begins with MMIDIDX");
    if (word(bytes + 9) != 1)
        return error_set(error, "byte 9: version %" PRIu64 " of Megatron's index; 1 is read", word(bytes + 9));
    const uint8_t type = bytes[17];
    if (type == 6 || type == 7) return error_set(error, "byte 17: the tokens are floating-point numbers");
    if (type >= sizeof TYPES / sizeof *TYPES || !TYPES[type].bytes)
        return error_set(error, "byte 17: type %u of tokens; 1 to 5 and 8 are integers of Megatron's", (unsigned)type);
    const uint64_t sequences = word(bytes + 18), indices = word(bytes + 26);
    if (sequences >> MOST_BITS || indices >> MOST_BITS || indices == 0)
        return error_set(error, "byte 18: %" PRIu64 " sequences and %" PRIu64 " document indices", sequences, indices);
    const uint64_t expected = MEGATRON_HEADER_BYTES + sequences * ENTRY_BYTES + indices * 8;
    if (file_size == expected + sequences && sequences)
        return error_set(error, "byte %" PRIu64 ": modes of sequences: a multimodal set, which is not read", expected);
    if (file_size != expected)
        return error_set(error, "byte 18: %" PRIu64 " sequences and %" PRIu64 " document indices make %" PRIu64
                         " bytes; the file has %" PRIu64, sequences, indices, expected, file_size);
    *out = (MegatronIndex){.token_bytes = TYPES[type].bytes, .is_signed = TYPES[type].is_signed, .n_sequences = sequences,
                           .n_documents = indices - 1};
    return true;
}

/* ------------------------------------------------------------------------------------------------------
 * Columns: the three lists, each read from its front through a block of its own
 * ---------------------------------------------------------------------------------------------------- */

enum { BLOCK = 8192 };

typedef struct Column {
    int fd;
    uint64_t begin, count, at; /* byte of the first element; elements; the next one */
    size_t width;              /* 4 or 8 bytes an element */
    unsigned char block[BLOCK * 8];
} Column;

static uint64_t byte_of(const Column *column) { return column->begin + column->at * column->width; }

static bool next(Column *column, const char *path, int64_t *value, Error *error) {
    const size_t within = column->at % BLOCK;
    if (within == 0) {
        const uint64_t left = column->count - column->at;
        const size_t bytes = (left < BLOCK ? (size_t)left : BLOCK) * column->width;
        const ssize_t n = file_read(column->fd, column->block, bytes, byte_of(column));
        if (n != (ssize_t)bytes)
            return error_set(error, "%s: byte %" PRIu64 ": cannot read: %s", path, byte_of(column),
                             n < 0 ? strerror(errno) : "the file ends here");
    }
    int32_t narrow;
    if (column->width == 4) memcpy(&narrow, column->block + within * 4, 4), *value = narrow;
    else memcpy(value, column->block + within * 8, 8);
    column->at++;
    return true;
}

typedef struct Columns {
    int fd;
    Column lengths, pointers, documents;
} Columns;

static Columns *open_columns(int fd, const MegatronIndex *index) {
    Columns *c = must_calloc(1, sizeof *c, "Megatron's index");
    const uint64_t S = index->n_sequences, lengths = MEGATRON_HEADER_BYTES, pointers = lengths + 4 * S, documents = pointers + 8 * S;
    c->fd = fd;
    c->lengths.fd = c->pointers.fd = c->documents.fd = fd;
    c->lengths.begin = lengths, c->lengths.count = S, c->lengths.width = 4;
    c->pointers.begin = pointers, c->pointers.count = S, c->pointers.width = 8;
    c->documents.begin = documents, c->documents.count = index->n_documents + 1, c->documents.width = 8;
    return c;
}

static void close_columns(Columns *c) {
    close(c->fd);
    free(c);
}

/* ------------------------------------------------------------------------------------------------------ */

/* Every sequence lies behind the one before it, inside NAME.bin. */
static bool check_sequences(Columns *c, const char *path, uint64_t bin_size, MegatronIndex *index, Error *error) {
    const uint64_t most = bin_size / index->token_bytes;
    int64_t length, pointer;
    for (uint64_t s = 0; s < index->n_sequences; s++) {
        const uint64_t at_length = byte_of(&c->lengths), at_pointer = byte_of(&c->pointers);
        if (!next(&c->lengths, path, &length, error) || !next(&c->pointers, path, &pointer, error)) return false;
        if (length < 0 || (uint64_t)length > most - index->n_tokens)
            return error_set(error, "%s: byte %" PRIu64 ": sequence %" PRIu64 " has %" PRId64 " tokens, %" PRIu64
                             " of its .bin are left", path, at_length, s, length, most - index->n_tokens);
        if (pointer < 0 || (uint64_t)pointer != index->n_tokens * index->token_bytes)
            return error_set(error, "%s: byte %" PRIu64 ": sequence %" PRIu64 " begins at byte %" PRId64
                             " of its .bin; behind the one before it is byte %" PRIu64, path, at_pointer, s, pointer,
                             index->n_tokens * index->token_bytes);
        index->n_tokens += (uint64_t)length;
    }
    if (index->n_tokens * index->token_bytes == bin_size) return true;
    return error_set(error, "%s: its sequences fill %" PRIu64 " bytes, its .bin has %" PRIu64, path,
                     index->n_tokens * index->token_bytes, bin_size);
}

static bool check_documents(Columns *c, const char *path, const MegatronIndex *index, Error *error) {
    int64_t before = 0, value;
    for (uint64_t d = 0; d <= index->n_documents; d++) {
        const uint64_t at = byte_of(&c->documents);
        if (!next(&c->documents, path, &value, error)) return false;
        const bool first = d == 0, last = d == index->n_documents;
        if (value < before || (uint64_t)value > index->n_sequences || (first && value) ||
            (last && (uint64_t)value != index->n_sequences))
            return error_set(error, "%s: byte %" PRIu64 ": document index %" PRIu64 " is %" PRId64
                             "; they rise from 0 to the number of sequences, %" PRIu64, path, at, d, value, index->n_sequences);
        before = value;
    }
    return true;
}

static Columns *open_index(const char *path, MegatronIndex *index, Error *error) {
    unsigned char header[MEGATRON_HEADER_BYTES];
    uint64_t size;
    Error reason;
    const int fd = file_open(path, &size, error);
    if (fd < 0) return NULL;
    const ssize_t n = file_read(fd, header, sizeof header, 0);
    if (n < 0) error_set(error, "%s: cannot read: %s", path, strerror(errno));
    else if (!megatron_parse_header(header, (size_t)n, size, index, &reason)) error_set(error, "%s: %s", path, reason.text);
    else return open_columns(fd, index);
    close(fd);
    return NULL;
}

bool megatron_open(const char *path, uint64_t bin_size, MegatronIndex *out, Error *error) {
    MegatronIndex index;
    Columns *c = open_index(path, &index, error);
    if (!c) return false;
    const bool good = check_sequences(c, path, bin_size, &index, error) && check_documents(c, path, &index, error);
    close_columns(c);
    if (good) *out = index;
    return good;
}

/* Tokens of the next `count` sequences. */
static bool add_lengths(Columns *c, const char *path, int64_t count, uint64_t *tokens, Error *error) {
    int64_t length;
    *tokens = 0;
    for (int64_t i = 0; i < count; i++) {
        if (c->lengths.at == c->lengths.count) return error_set(error, "%s: it changed since it was opened first", path);
        if (!next(&c->lengths, path, &length, error)) return false;
        *tokens += length > 0 ? (uint64_t)length : 0;
    }
    return true;
}

bool megatron_documents(const char *path, const MegatronIndex *index, MegatronDocument *document, void *context, Error *error) {
    MegatronIndex now;
    Columns *c = open_index(path, &now, error);
    if (!c) return false;
    bool good = now.n_sequences == index->n_sequences && now.n_documents == index->n_documents;
    if (!good) error_set(error, "%s: it changed since it was opened first", path);
    int64_t from, to;
    uint64_t tokens, total = 0;
    good = good && next(&c->documents, path, &from, error);
    for (uint64_t d = 0; good && d < index->n_documents; d++, from = to) {
        good = next(&c->documents, path, &to, error) && add_lengths(c, path, to - from, &tokens, error);
        if (good && tokens > index->n_tokens - total) good = error_set(error, "%s: it changed since it was opened first", path);
        if (!good) break;
        total += tokens;
        if (!document(context, tokens)) break;
    }
    close_columns(c);
    return good;
}
