/*
 * safetensors_write.c: how a safetensors file is written, whole or not at all. See safetensors.h.
 *
 * The header is made first, and read back by our own parser before a byte reaches the disk: whatever it would
 * refuse in a file, we do not write.
 */
#define _GNU_SOURCE
#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "../base/at_work.h"
#include "../base/directory.h"
#include "../base/file.h"
#include "safetensors.h"

struct SafetensorsWriter {
    char *path, *partial;
    int fd;
    SafetensorsHeader header; /* as parsed back */
    size_t n_entries;
    const SafetensorsTensor **tensor; /* per entry, into header */
    uint64_t *written;                /* bytes, per entry */
    bool failed;
    Error error; /* the first, once failed */
};

/* Widest elements first, else in the caller's order: so every tensor is aligned to its element. */
static void sort_entries(const SafetensorsEntry *entries, size_t n, size_t *order) {
    size_t k = 0;
    for (size_t bytes = 8; bytes; bytes /= 2)
        for (size_t i = 0; i < n; i++)
            if (safetensors_dtype_bytes(entries[i].dtype) == bytes) order[k++] = i;
}

static bool entry_bytes(const SafetensorsEntry *entry, uint64_t *bytes, Error *error) {
    *bytes = safetensors_dtype_bytes(entry->dtype);
    if (entry->n_dims > SAFETENSORS_MAX_DIMS)
        return error_set(error, "tensor '%s': %zu dimensions, at most %d", entry->name, entry->n_dims,
                         SAFETENSORS_MAX_DIMS);
    for (size_t d = 0; d < entry->n_dims; d++)
        if (__builtin_mul_overflow(*bytes, entry->shape[d], bytes))
            return error_set(error, "tensor '%s': its shape has more than 2^64 bytes", entry->name);
    return true;
}

/* The parent owns the item afterwards, or nobody does: what is missing for want of memory, plan() sees. */
static cJSON *attach(cJSON *parent, const char *name, cJSON *item) {
    const bool good = name ? cJSON_AddItemToObject(parent, name, item) : cJSON_AddItemToArray(parent, item);
    if (good) return item;
    cJSON_Delete(item);
    return NULL;
}

/* Numbers go in as text: cJSON would print a double. */
static cJSON *json_integers(const uint64_t *values, size_t n) {
    cJSON *list = cJSON_CreateArray();
    char text[24];
    for (size_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "%" PRIu64, values[i]);
        attach(list, NULL, cJSON_CreateRaw(text));
    }
    return list;
}

static void add_tensor(cJSON *root, const SafetensorsEntry *entry, uint64_t begin, uint64_t end) {
    cJSON *tensor = attach(root, entry->name, cJSON_CreateObject());
    attach(tensor, "dtype", cJSON_CreateString(safetensors_dtype_name(entry->dtype)));
    attach(tensor, "shape", json_integers(entry->shape, entry->n_dims));
    attach(tensor, "data_offsets", json_integers((uint64_t[]){begin, end}, 2));
}

/* The header as JSON text, to be released by cJSON_free. */
static char *header_text(const SafetensorsEntry *entries, size_t n_entries, const SafetensorsPair *metadata,
                         size_t n_metadata, uint64_t *data_bytes, Error *error) {
    cJSON *root = cJSON_CreateObject();
    size_t *order = must_calloc(n_entries, sizeof *order, "a safetensors header");
    uint64_t bytes, end = 0;
    bool good = true;
    if (n_metadata) {
        cJSON *map = cJSON_AddObjectToObject(root, "__metadata__");
        for (size_t i = 0; i < n_metadata; i++)
            cJSON_AddStringToObject(map, metadata[i].key, metadata[i].value);
    }
    sort_entries(entries, n_entries, order);
    for (size_t i = 0; i < n_entries && good; i++) {
        const SafetensorsEntry *entry = &entries[order[i]];
        const uint64_t begin = end;
        good = entry_bytes(entry, &bytes, error);
        if (good && __builtin_add_overflow(end, bytes, &end)) good = error_set(error, "more than 2^64 bytes");
        if (good) add_tensor(root, entry, begin, end);
    }
    char *text = good ? cJSON_PrintUnformatted(root) : NULL;
    if (good && !text) error_set(error, "out of memory");
    cJSON_Delete(root);
    free(order);
    *data_bytes = end;
    return text;
}

/* Length, JSON and padding as they stand in the file; *size of them. To be released by free. */
static unsigned char *header_bytes(const char *text, size_t *size) {
    const size_t length = strlen(text), padded = (length + 7) / 8 * 8;
    const uint64_t stored = padded;
    unsigned char *bytes = must_malloc(8 + padded, "a safetensors header");
    memcpy(bytes, &stored, 8);
    memcpy(bytes + 8, text, length);
    memset(bytes + 8 + length, ' ', padded - length);
    *size = 8 + padded;
    return bytes;
}

static bool create_file(SafetensorsWriter *writer, const unsigned char *bytes, size_t size, Error *error) {
    writer->fd = open(writer->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (writer->fd < 0) return error_set(error, "%s: cannot create: %s", writer->partial, strerror(errno));
    if (!file_write(writer->fd, bytes, size, 0))
        return error_set(error, "%s: cannot write: %s", writer->partial, strerror(errno));
    return true;
}

/* Fills the writer from its header's bytes. */
static bool plan(SafetensorsWriter *writer, const unsigned char *bytes, size_t size, uint64_t data_bytes,
                 const SafetensorsEntry *entries, size_t n_entries, size_t n_metadata, Error *error) {
    Error reason;
    uint64_t file_size;
    if (__builtin_add_overflow(size, data_bytes, &file_size) || file_size > INT64_MAX)
        return error_set(error, "%s: more than 2^63 bytes", writer->path);
    if (!safetensors_parse(bytes, size, file_size, &writer->header, &reason))
        return error_set(error, "%s: not a valid file: %s", writer->path, reason.text);
    if (writer->header.n_tensors != n_entries || writer->header.n_metadata != n_metadata)
        return error_set(error, "%s: out of memory, or a tensor named __metadata__", writer->path);
    writer->n_entries = n_entries;
    writer->tensor = must_calloc(n_entries, sizeof writer->tensor[0], "a safetensors writer");
    writer->written = must_calloc(n_entries, sizeof writer->written[0], "a safetensors writer");
    for (size_t i = 0; i < n_entries; i++) {
        writer->tensor[i] = safetensors_find(&writer->header, entries[i].name);
        if (!writer->tensor[i])
            return error_set(error, "%s: '%s' cannot be the name of a tensor", writer->path, entries[i].name);
    }
    return true;
}

SafetensorsWriter *safetensors_writer_begin(const char *path, const SafetensorsEntry *entries,
                                            size_t n_entries, const SafetensorsPair *metadata,
                                            size_t n_metadata, Error *error) {
    uint64_t data_bytes;
    size_t size;
    Error reason;
    char *text = header_text(entries, n_entries, metadata, n_metadata, &data_bytes, &reason);
    if (!text) {
        error_set(error, "%s: %s", path, reason.text);
        return NULL;
    }
    unsigned char *bytes = header_bytes(text, &size);
    cJSON_free(text);
    SafetensorsWriter *writer = must_calloc(1, sizeof *writer, "a safetensors writer");
    writer->fd = -1;
    writer->path = strcpy(must_malloc(strlen(path) + 1, "a path"), path);
    writer->partial = must_malloc(strlen(path) + sizeof ".partial", "a path");
    sprintf(writer->partial, "%s.partial", path);
    const bool good = plan(writer, bytes, size, data_bytes, entries, n_entries, n_metadata, error) &&
                      create_file(writer, bytes, size, error);
    free(bytes);
    if (good) return writer;
    safetensors_writer_abort(writer);
    return NULL;
}

static void remove_partial(SafetensorsWriter *writer) {
    if (writer->fd < 0) return;
    close(writer->fd);
    writer->fd = -1;
    unlink(writer->partial);
}

typedef struct Piece {
    int fd, reason; /* reason: errno, or 0 */
    const void *bytes;
    size_t count;
    uint64_t at;
} Piece;

static void write_piece(void *piece) {
    Piece *p = piece;
    p->reason = file_write(p->fd, p->bytes, p->count, p->at) ? 0 : errno;
}

static bool append(SafetensorsWriter *writer, size_t entry, const void *data, size_t bytes, Error *error) {
    if (entry >= writer->n_entries)
        return error_set(error, "%s: tensor %zu of %zu", writer->path, entry, writer->n_entries);
    const SafetensorsTensor *tensor = writer->tensor[entry];
    const uint64_t left = tensor->end - tensor->begin - writer->written[entry];
    const uint64_t at = writer->header.data_start + tensor->begin + writer->written[entry];
    if (bytes > left)
        return error_set(error, "%s: tensor '%s': %zu bytes more, only %" PRIu64 " are left", writer->path,
                         tensor->name, bytes, left);
    Piece piece = {.fd = writer->fd, .bytes = data, .count = bytes, .at = at};
    at_work_during(write_piece, &piece);
    if (piece.reason)
        return error_set(error, "%s: tensor '%s': byte %" PRIu64 ": cannot write: %s", writer->path,
                         tensor->name, at, strerror(piece.reason));
    writer->written[entry] += bytes;
    return true;
}

bool safetensors_writer_append(SafetensorsWriter *writer, size_t entry, const void *data, size_t bytes,
                               Error *error) {
    if (!writer->failed && append(writer, entry, data, bytes, &writer->error)) return true;
    writer->failed = true;
    remove_partial(writer);
    *error = writer->error;
    return false;
}

/* Everything that makes the file whole and durable under its name. */
static bool commit(SafetensorsWriter *writer, Error *error) {
    for (size_t i = 0; i < writer->n_entries; i++) {
        const uint64_t bytes = writer->tensor[i]->end - writer->tensor[i]->begin;
        if (writer->written[i] != bytes)
            return error_set(error, "%s: tensor '%s': %" PRIu64 " of %" PRIu64 " bytes written", writer->path,
                             writer->tensor[i]->name, writer->written[i], bytes);
    }
    if (!descriptor_sync(writer->fd)) return error_set(error, "%s: cannot fsync: %s", writer->partial, strerror(errno));
    /* From here on remove_partial has no descriptor to go by. */
    int status = close(writer->fd);
    writer->fd = -1;
    if (status != 0 || rename(writer->partial, writer->path) != 0) {
        error_set(error, "%s: cannot %s: %s", writer->partial, status ? "close" : "rename", strerror(errno));
        unlink(writer->partial);
        return false;
    }
    return true;
}

bool safetensors_writer_finish(SafetensorsWriter *writer, Error *error) {
    const bool good = !writer->failed && commit(writer, error);
    if (writer->failed) *error = writer->error;
    safetensors_writer_abort(writer);
    return good;
}

void safetensors_writer_abort(SafetensorsWriter *writer) {
    if (!writer) return;
    remove_partial(writer);
    safetensors_header_free(&writer->header);
    free(writer->tensor);
    free(writer->written);
    free(writer->path);
    free(writer->partial);
    free(writer);
}
