/* manifest.c: see manifest.h. */
#define _GNU_SOURCE
#include "manifest.h"
#include "../base/at_work.h"
#include "../base/checksum.h"
#include "../base/file.h"
#include "../base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

char *manifest_text(const Manifest *manifest) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    require(out, "out of memory for a manifest");
    fprintf(out, "{\n \"format\": %d,\n \"step\": %" PRId64 ",\n \"files\": [\n", MANIFEST_FORMAT,
            manifest->step);
    for (int i = 0; i < manifest->count; i++) {
        const ManifestFile *file = &manifest->files[i];
        fprintf(out, "  {\"name\": \"%s\", \"bytes\": %" PRIu64 ", \"crc64\": \"%016" PRIx64 "\"}%s\n",
                file->name, file->bytes, file->checksum, i + 1 < manifest->count ? "," : "");
    }
    fprintf(out, " ],\n");
    require(fflush(out) == 0, "out of memory for a manifest");
    fprintf(out, " \"crc64\": \"%016" PRIx64 "\"\n}\n", checksum(0, text, size));
    require(fclose(out) == 0, "out of memory for a manifest");
    return text;
}

static bool parse_checksum(const char *text, uint64_t *value, Error *error) {
    if (strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return error_set(error, "field 'crc64' must be 16 hexadecimal digits");
    *value = strtoull(text, NULL, 16);
    return true;
}

static bool parse_file(const cJSON *item, ManifestFile *file, Error *error) {
    const char *name = json_text(item, "name", error), *sum = name ? json_text(item, "crc64", error) : NULL;
    int64_t bytes;
    if (!sum || !json_integer(item, "bytes", 0, INT64_C(1) << 53, &bytes, error)) return false;
    if (!name_is_plain(name))
        return error_set(error, "'%.100s' cannot be the name of a checkpoint's file", name);
    *file = (ManifestFile){.bytes = (uint64_t)bytes};
    strcpy(file->name, name);
    return parse_checksum(sum, &file->checksum, error);
}

static bool parse_object(const cJSON *object, Manifest *manifest, Error *error) {
    int64_t format;
    if (!json_integer(object, "format", 0, 1000000, &format, error)) return false;
    if (format != MANIFEST_FORMAT)
        return error_set(error, "a checkpoint of format %d; this build reads format %d", (int)format,
                         MANIFEST_FORMAT);
    const cJSON *files = cJSON_GetObjectItemCaseSensitive(object, "files"), *item;
    if (!json_integer(object, "step", 0, INT64_C(1000000000000000), &manifest->step, error)) return false;
    if (!cJSON_IsArray(files)) return error_set(error, "field 'files' must be a list");
    int count = cJSON_GetArraySize(files);
    if (count > MANIFEST_FILES_MOST)
        return error_set(error, "%d files; the most is %d", count, MANIFEST_FILES_MOST);
    manifest->files = must_calloc((size_t)count, sizeof *manifest->files, "a manifest");
    cJSON_ArrayForEach(item, files) {
        ManifestFile *file = &manifest->files[manifest->count];
        if (!parse_file(item, file, error)) return false;
        if (manifest_lists(manifest, file->name))
            return error_set(error, "file %s is listed twice", file->name);
        manifest->count++;
    }
    return true;
}

bool manifest_parse(const char *bytes, size_t size, Manifest *manifest, Error *error) {
    *manifest = (Manifest){0};
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != '\n' && (bytes[i] < ' ' || bytes[i] > '~'))
            return error_set(error, "byte %zu is none that a manifest has", i);
    cJSON *object = json_parse(bytes, size, error);
    if (!object) return false;
    bool good = parse_object(object, manifest, error);
    cJSON_Delete(object);
    char *text = good ? manifest_text(manifest) : NULL;
    if (good && (strlen(text) != size || memcmp(text, bytes, size)))
        good = error_set(error, "it is not as it was written: its own checksum does not fit");
    free(text);
    if (!good) manifest_free(manifest);
    return good;
}

void manifest_free(Manifest *manifest) {
    free(manifest->files);
    *manifest = (Manifest){0};
}

bool manifest_lists(const Manifest *manifest, const char *name) {
    for (int i = 0; i < manifest->count; i++)
        if (strcmp(manifest->files[i].name, name) == 0) return true;
    return false;
}

bool manifest_read(const char *directory, Manifest *manifest, Error *error) {
    char path[PATH_SIZE];
    size_t size;
    Error reason = {0};
    if (!path_join(path, directory, MANIFEST_NAME, error)) return false;
    char *bytes = inner_file_read(path, MANIFEST_LARGEST, &size, &reason);
    if (!bytes && errno == ENOENT)
        return error_set(error, "%s: no %s: not a checkpoint, one of an older version, or a damaged one",
                         directory, MANIFEST_NAME);
    if (!bytes) return error_set(error, "%s", reason.text);
    bool good =
        manifest_parse(bytes, size, manifest, &reason) || error_set(error, "%s: %s", path, reason.text);
    free(bytes);
    return good;
}

/* What has been asked of a file. */
typedef struct Reading {
    const char *path;
    int fd;
    uint64_t begin, end, checksum;
    bool good;
    Error *error;
} Reading;

static void read_through(void *reading) {
    enum { PIECE = 1 << 20 };
    Reading *r = reading;
    char *piece = must_malloc(PIECE, "checking a file");
    r->good = true;
    for (uint64_t at = r->begin; r->good && at < r->end;) {
        ssize_t n = file_read(r->fd, piece, r->end - at < PIECE ? (size_t)(r->end - at) : PIECE, at);
        if (n <= 0)
            r->good = error_set(r->error, "%s: byte %" PRIu64 ": cannot read: %s", r->path, at,
                                n < 0 ? strerror(errno) : "the file ends here");
        else
            r->checksum = checksum(r->checksum, piece, (size_t)n), at += (uint64_t)n;
    }
    free(piece);
}

/* The size of an inner file and the checksum of its bytes [begin, end), as far as it has them. */
static bool measure(const char *directory, const char *name, ManifestCheck how, uint64_t begin, uint64_t end, ManifestFile *file,
                    Error *error) {
    char path[PATH_SIZE];
    if (!path_join(path, directory, name, error)) return false;
    int fd = inner_file_open(path, &file->bytes, error);
    if (fd < 0) return false;
    /* What fsync has written can be dropped: then the next read is one of the disk. */
    if (how == MANIFEST_MEDIUM) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    if (how == MANIFEST_SIZES || (how == MANIFEST_SMALL && file->bytes > MANIFEST_LARGEST)) end = begin;
    Reading reading = {.path = path, .fd = fd, .begin = begin, .end = end < file->bytes ? end : file->bytes, .error = error};
    at_work_during(read_through, &reading);
    close(fd);
    file->checksum = reading.checksum;
    return reading.good;
}

bool manifest_measure(const char *directory, const char *name, ManifestFile *file, Error *error) {
    *file = (ManifestFile){0};
    snprintf(file->name, NAME_SIZE, "%s", name);
    return measure(directory, name, MANIFEST_CONTENTS, 0, UINT64_MAX, file, error);
}

bool manifest_measure_part(const char *directory, const char *name, uint64_t begin, uint64_t end, uint64_t *sum, Error *error) {
    ManifestFile file;
    if (!measure(directory, name, MANIFEST_CONTENTS, begin, end, &file, error)) return false;
    *sum = file.checksum;
    return true;
}

bool manifest_write(const char *directory, const Manifest *manifest, Error *error) {
    char path[PATH_SIZE];
    if (!path_join(path, directory, MANIFEST_NAME, error)) return false;
    char *text = manifest_text(manifest);
    const bool good = durable_write(path, text, strlen(text), error);
    free(text);
    return good;
}

bool manifest_check_file(const char *directory, const ManifestFile *want, ManifestCheck how, Error *error) {
    ManifestFile have;
    if (!measure(directory, want->name, how, 0, UINT64_MAX, &have, error)) return false;
    if (have.bytes != want->bytes)
        return error_set(error, "%s/%s: %" PRIu64 " bytes long; its manifest says %" PRIu64, directory, want->name, have.bytes,
                         want->bytes);
    if (how == MANIFEST_SIZES || (how == MANIFEST_SMALL && have.bytes > MANIFEST_LARGEST)) return true;
    return manifest_has_checksum(directory, want, have.checksum, error);
}

bool manifest_has_checksum(const char *directory, const ManifestFile *want, uint64_t sum, Error *error) {
    return sum == want->checksum ||
           error_set(error, "%s/%s: damaged: its checksum is %016" PRIx64 ", its manifest says %016" PRIx64, directory,
                     want->name, sum, want->checksum);
}

bool manifest_check(const char *directory, const Manifest *manifest, ManifestCheck how, Error *error) {
    for (int i = 0; i < manifest->count; i++)
        if (!manifest_check_file(directory, &manifest->files[i], how, error)) return false;
    return true;
}
