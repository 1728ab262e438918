/* token_bytes.c: see token_bytes.h. */
#include "token_bytes.h"
#include "../base/directory.h"
#include "safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BYTES_MOST = 1 << 30 }; /* of all tokens together: a thousand times what any vocabulary has */

static const SafetensorsTensor *vector(const SafetensorsFile *file, const char *name, SafetensorsDtype dtype, Error *error) {
    const SafetensorsTensor *tensor = safetensors_find(&file->header, name);
    if (!tensor) error_set(error, "%s: holds no tensor '%s'", file->path, name);
    else if (tensor->dtype != dtype || tensor->n_dims != 1)
        error_set(error, "%s: '%s' must be a vector of %s", file->path, name, safetensors_dtype_name(dtype));
    else return tensor;
    return NULL;
}

static bool check_offsets(const TokenBytes *t, uint64_t bytes, const char *path, Error *error) {
    if (t->offsets[0] != 0) return error_set(error, "%s: offsets begin with %lld, not with 0", path, (long long)t->offsets[0]);
    for (int64_t i = 0; i < t->count; i++)
        if (t->offsets[i + 1] < t->offsets[i] || t->offsets[i + 1] > bytes)
            return error_set(error, "%s: token %lld ends at byte %lld, and begins at %lld of %llu", path, (long long)i,
                             (long long)t->offsets[i + 1], (long long)t->offsets[i], (unsigned long long)bytes);
    return t->offsets[t->count] == bytes || error_set(error, "%s: %llu bytes, of which the tokens have %llu", path,
                                                      (unsigned long long)bytes, (unsigned long long)t->offsets[t->count]);
}

static bool read_metadata(TokenBytes *t, const SafetensorsFile *file, Error *error) {
    const char *format = safetensors_metadata(&file->header, "format");
    const char *end = safetensors_metadata(&file->header, "end_of_document");
    const char *strip = safetensors_metadata(&file->header, "strip_leading_space");
    if (!format || strcmp(format, "token_bytes"))
        return error_set(error, "%s: its metadata do not say format: token_bytes", file->path);
    t->strip_leading_space = strip && strcmp(strip, "true") == 0;
    if (strip && !t->strip_leading_space && strcmp(strip, "false"))
        return error_set(error, "%s: strip_leading_space is '%.40s'; true or false", file->path, strip);
    t->end_of_document = -1;
    if (!end) return true;
    const size_t digits = strlen(end);
    t->end_of_document = strtoll(end, NULL, 10);
    return (digits && digits <= 10 && strspn(end, "0123456789") == digits && t->end_of_document < t->count) ||
           error_set(error, "%s: end_of_document is '%.40s', and no token below %lld", file->path, end, (long long)t->count);
}

/* How text of bytes becomes tokens needs no more than this table. */
static void find_bytes(TokenBytes *t) {
    int missing = 256;
    t->is_bytes = true;
    for (int byte = 0; byte < 256; byte++) t->id_of[byte] = UINT32_MAX;
    for (int64_t i = 0; i < t->count && t->is_bytes; i++) {
        const uint64_t length = t->offsets[i + 1] - t->offsets[i];
        t->is_bytes = length <= 1;
        uint32_t *id = length == 1 ? &t->id_of[t->bytes[t->offsets[i]]] : NULL;
        if (!id || *id != UINT32_MAX) continue;
        *id = (uint32_t)i;
        missing--;
    }
    t->is_bytes = t->is_bytes && (missing == 0 || (missing == 1 && t->end_of_document >= 0));
}

static bool read_table(TokenBytes *t, const SafetensorsFile *file, int64_t vocab, Error *error) {
    const SafetensorsTensor *offsets = vector(file, "offsets", SAFETENSORS_I64, error);
    const SafetensorsTensor *bytes = offsets ? vector(file, "bytes", SAFETENSORS_U8, error) : NULL;
    if (!bytes) return false;
    if (offsets->n_elements < 2 || offsets->n_elements - 1 > (uint64_t)vocab)
        return error_set(error, "%s: tells of %lld tokens, and the model has %lld", file->path,
                         (long long)offsets->n_elements - 1, (long long)vocab);
    if (bytes->n_elements > BYTES_MOST)
        return error_set(error, "%s: %llu bytes of tokens; the most is %d", file->path,
                         (unsigned long long)bytes->n_elements, BYTES_MOST);
    t->count = (int64_t)offsets->n_elements - 1;
    t->offsets = must_malloc((size_t)offsets->n_elements * sizeof *t->offsets, "the bytes of tokens");
    t->bytes = must_malloc((size_t)bytes->n_elements + 1, "the bytes of tokens");
    if (!safetensors_read(file, offsets, 0, offsets->n_elements, SAFETENSORS_I64, t->offsets, error) ||
        !safetensors_read(file, bytes, 0, bytes->n_elements, SAFETENSORS_U8, t->bytes, error) ||
        !check_offsets(t, bytes->n_elements, file->path, error) || !read_metadata(t, file, error))
        return false;
    find_bytes(t);
    return true;
}

bool token_bytes_load(TokenBytes *table, const char *path, int64_t vocab, Error *error) {
    SafetensorsFile file;
    *table = (TokenBytes){.end_of_document = -1};
    if (!safetensors_open(&file, path, error)) return false;
    const bool good = read_table(table, &file, vocab, error);
    safetensors_close(&file);
    if (!good) token_bytes_free(table);
    return good;
}

bool token_bytes_find(TokenBytes *table, const char *directory, int64_t vocab, Error *error) {
    char path[PATH_SIZE];
    struct stat status;
    *table = (TokenBytes){.end_of_document = -1};
    if (!path_join(path, directory, TOKEN_BYTES_FILE, error)) return false;
    if (lstat(path, &status))
        return errno == ENOENT || errno == ENOTDIR || error_set(error, "%s: %s", path, strerror(errno));
    if (S_ISLNK(status.st_mode)) return error_set(error, "%s: a symbolic link, which is not followed", path);
    return token_bytes_load(table, path, vocab, error);
}

void token_bytes_identity(TokenBytes *table, int64_t vocab) {
    *table = (TokenBytes){.count = vocab, .end_of_document = -1, .is_bytes = true};
    table->offsets = must_malloc((size_t)(vocab + 1) * sizeof *table->offsets, "the bytes of tokens");
    table->bytes = must_malloc((size_t)vocab, "the bytes of tokens");
    for (int64_t i = 0; i <= vocab; i++) table->offsets[i] = (uint64_t)i;
    for (int64_t i = 0; i < vocab; i++) table->bytes[i] = (unsigned char)i;
    for (uint32_t i = 0; i < 256; i++) table->id_of[i] = i; /* whoever asks compares with the vocabulary */
}

const unsigned char *token_bytes_of(const TokenBytes *t, uint32_t token, uint64_t *length) {
    static const unsigned char UNKNOWN[] = "\xef\xbf\xbd";
    const bool known = token < t->count;
    *length = known ? t->offsets[token + 1] - t->offsets[token] : sizeof UNKNOWN - 1;
    return known ? t->bytes + t->offsets[token] : UNKNOWN;
}

void token_bytes_free(TokenBytes *table) {
    free(table->offsets);
    free(table->bytes);
    *table = (TokenBytes){.end_of_document = -1};
}
