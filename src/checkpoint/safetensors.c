/*
 * safetensors.c: see safetensors.h.
 *
 * JSON is cJSON's business, but cJSON is laxer than the format and holds numbers as doubles. So a scan goes
 * over the bytes first and lets through only what a header can consist of; what cJSON then sees, it reads
 * exactly.
 */
#define _GNU_SOURCE
#include "safetensors.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "../base/at_work.h"
#include "../base/file.h"
#include "../base/json_scan.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[SAFETENSORS_N_DTYPES] = {
    [SAFETENSORS_F64] = {"F64", 8},         [SAFETENSORS_F32] = {"F32", 4},
    [SAFETENSORS_BF16] = {"BF16", 2},       [SAFETENSORS_F16] = {"F16", 2},
    [SAFETENSORS_I64] = {"I64", 8},         [SAFETENSORS_U64] = {"U64", 8},
    [SAFETENSORS_I32] = {"I32", 4},         [SAFETENSORS_U32] = {"U32", 4},
    [SAFETENSORS_I16] = {"I16", 2},         [SAFETENSORS_U16] = {"U16", 2},
    [SAFETENSORS_I8] = {"I8", 1},           [SAFETENSORS_U8] = {"U8", 1},
    [SAFETENSORS_BOOL] = {"BOOL", 1},       [SAFETENSORS_F8_E5M2] = {"F8_E5M2", 1},
    [SAFETENSORS_F8_E4M3] = {"F8_E4M3", 1}, [SAFETENSORS_C64] = {"C64", 8},
};

const char *safetensors_dtype_name(SafetensorsDtype dtype) {
    return dtypes[dtype].name;
}
size_t safetensors_dtype_bytes(SafetensorsDtype dtype) {
    return dtypes[dtype].bytes;
}

/* A name fit for one line of a message: names come from files. */
typedef struct Printable {
    char text[100];
} Printable;

static Printable printable(const char *name) {
    Printable result;
    size_t n = 0;
    for (; name[n] && n < sizeof result.text - 1; n++) {
        const unsigned char c = (unsigned char)name[n];
        result.text[n] = c < 0x20 || c > 0x7e ? '?' : (char)c;
    }
    result.text[n] = 0;
    return result;
}

/* ---- the scan ---- */

/* Outside of strings a header has braces, brackets, colons, commas and plain digits, three levels deep.
   Sixteen digits hold 2^53. */
static bool scan_json(const unsigned char *text, size_t n, Error *error) {
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned char c = text[i];
        if (c == '"') {
            const char *wrong = json_scan_string(text, n, &i);
            if (wrong) return error_set(error, "byte %zu: %s", i + 8, wrong);
        } else if (c == '{' || c == '[') {
            if (++depth > 3)
                return error_set(error, "byte %zu: the header is nested more than 3 deep", i + 8);
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c >= '0' && c <= '9') {
            const size_t first = i;
            while (i + 1 < n && text[i + 1] >= '0' && text[i + 1] <= '9') i++;
            if (i - first >= 16 || (c == '0' && i > first))
                return error_set(error, "byte %zu: not a number below 2^53 in plain digits", first + 8);
        } else if (c == 0 || !strchr(" \t\r\n:,", c)) {
            return error_set(error, "byte %zu: character 0x%02x has no place in a header", i + 8, c);
        }
    }
    return true;
}

/* ---- the parser ---- */

/* Only after scan_json. Below 2^53 the double is the number that stands in the file. */
static bool get_integer(const cJSON *item, uint64_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble < 0x1p53)) return false;
    *out = (uint64_t)item->valuedouble;
    return true;
}

static bool parse_dtype(const cJSON *field, SafetensorsTensor *tensor, Error *error) {
    if (!cJSON_IsString(field)) return error_set(error, "dtype is not a string");
    for (int d = 0; d < SAFETENSORS_N_DTYPES; d++)
        if (strcmp(dtypes[d].name, field->valuestring) == 0) {
            tensor->dtype = (SafetensorsDtype)d;
            return true;
        }
    return error_set(error, "unknown dtype '%s'", printable(field->valuestring).text);
}

static bool parse_shape(const cJSON *field, SafetensorsTensor *tensor, Error *error) {
    const cJSON *item;
    if (!cJSON_IsArray(field)) return error_set(error, "shape is not a list");
    tensor->n_elements = 1;
    cJSON_ArrayForEach(item, field) {
        if (tensor->n_dims == SAFETENSORS_MAX_DIMS)
            return error_set(error, "more than %d dimensions", SAFETENSORS_MAX_DIMS);
        uint64_t *size = &tensor->shape[tensor->n_dims++];
        if (!get_integer(item, size)) return error_set(error, "a size in shape is not an integer below 2^53");
        if (__builtin_mul_overflow(tensor->n_elements, *size, &tensor->n_elements))
            return error_set(error, "its shape has more than 2^64 elements");
    }
    return true;
}

static bool parse_offsets(const cJSON *field, SafetensorsTensor *tensor, Error *error) {
    if (!cJSON_IsArray(field) || cJSON_GetArraySize(field) != 2 ||
        !get_integer(field->child, &tensor->begin) || !get_integer(field->child->next, &tensor->end) ||
        tensor->begin > tensor->end)
        return error_set(error, "data_offsets is not [begin, end] with 0 ≤ begin ≤ end < 2^53");
    return true;
}

static bool parse_tensor(const cJSON *item, SafetensorsTensor *tensor, Error *error) {
    static const struct {
        const char *name;
        bool (*parse)(const cJSON *, SafetensorsTensor *, Error *);
    } fields[] = {{"dtype", parse_dtype}, {"shape", parse_shape}, {"data_offsets", parse_offsets}};
    const cJSON *field;
    unsigned seen = 0;
    uint64_t bytes;
    *tensor = (SafetensorsTensor){.name = item->string};
    if (!cJSON_IsObject(item)) return error_set(error, "not an object");
    cJSON_ArrayForEach(field, item) {
        size_t f = 0;
        while (f < 3 && strcmp(fields[f].name, field->string) != 0) f++;
        if (f == 3) return error_set(error, "unknown field '%s'", printable(field->string).text);
        if (seen & 1u << f) return error_set(error, "%s given twice", fields[f].name);
        seen |= 1u << f;
        if (!fields[f].parse(field, tensor, error)) return false;
    }
    for (size_t f = 0; f < 3; f++)
        if (!(seen & 1u << f)) return error_set(error, "no %s", fields[f].name);
    if (__builtin_mul_overflow(tensor->n_elements, dtypes[tensor->dtype].bytes, &bytes) ||
        bytes != tensor->end - tensor->begin)
        return error_set(error, "%" PRIu64 " elements of %s, but data_offsets give %" PRIu64 " bytes",
                         tensor->n_elements, dtypes[tensor->dtype].name, tensor->end - tensor->begin);
    return true;
}

static bool parse_metadata(const cJSON *item, SafetensorsHeader *out, Error *error) {
    const cJSON *pair;
    if (out->metadata) return error_set(error, "__metadata__ given twice");
    if (!cJSON_IsObject(item)) return error_set(error, "__metadata__ is not an object");
    out->metadata = calloc((size_t)cJSON_GetArraySize(item) + 1, sizeof out->metadata[0]);
    if (!out->metadata) return error_set(error, "out of memory");
    cJSON_ArrayForEach(pair, item) {
        if (!cJSON_IsString(pair))
            return error_set(error, "__metadata__ '%s' is not a string", printable(pair->string).text);
        out->metadata[out->n_metadata++] = (SafetensorsPair){pair->string, pair->valuestring};
    }
    return true;
}

static int compare_keys(const void *a, const void *b) {
    return strcmp(((const SafetensorsPair *)a)->key, ((const SafetensorsPair *)b)->key);
}

static int compare_names(const void *a, const void *b) {
    const SafetensorsTensor *const *p = a, *const *q = b;
    return strcmp((*p)->name, (*q)->name);
}

static int compare_offsets(const void *a, const void *b) {
    const SafetensorsTensor *p = a, *q = b;
    if (p->begin != q->begin) return p->begin < q->begin ? -1 : 1;
    if (p->end != q->end) return p->end < q->end ? -1 : 1;
    return strcmp(p->name, q->name);
}

/* Each name once; the data one after the other from 0 to data_bytes. Leaves the tensors in that order, and by_name. */
static bool check_layout(SafetensorsHeader *header, uint64_t data_bytes, Error *error) {
    SafetensorsTensor *t = header->tensors;
    const SafetensorsTensor **names = header->by_name;
    uint64_t end = 0;
    if (header->n_metadata)
        qsort(header->metadata, header->n_metadata, sizeof header->metadata[0], compare_keys);
    for (size_t i = 1; i < header->n_metadata; i++)
        if (compare_keys(&header->metadata[i - 1], &header->metadata[i]) == 0)
            return error_set(error, "__metadata__ '%s' given twice", printable(header->metadata[i].key).text);
    qsort(t, header->n_tensors, sizeof *t, compare_offsets);
    for (size_t i = 0; i < header->n_tensors; i++) names[i] = &t[i];
    qsort(names, header->n_tensors, sizeof *names, compare_names);
    for (size_t i = 1; i < header->n_tensors; i++)
        if (strcmp(names[i - 1]->name, names[i]->name) == 0)
            return error_set(error, "tensor '%s' given twice", printable(names[i]->name).text);
    for (size_t i = 0; i < header->n_tensors; i++) {
        if (t[i].begin != end)
            return error_set(
                error, "tensor '%s' begins at byte %" PRIu64 " of the data, the one before ends at %" PRIu64,
                printable(t[i].name).text, t[i].begin, end);
        end = t[i].end;
    }
    if (end != data_bytes)
        return error_set(error,
                         "the tensors take %" PRIu64 " bytes, the file has %" PRIu64 " after its header", end,
                         data_bytes);
    return true;
}

/* The children of the root become tensors and metadata. */
static bool parse_root(SafetensorsHeader *out, uint64_t data_bytes, Error *error) {
    const cJSON *item, *root = out->json;
    if (!cJSON_IsObject(root)) return error_set(error, "the header is not a JSON object");
    const size_t most = (size_t)cJSON_GetArraySize(root) + 1;
    out->tensors = calloc(most, sizeof out->tensors[0]);
    out->by_name = calloc(most, sizeof out->by_name[0]);
    if (!out->tensors || !out->by_name) return error_set(error, "out of memory");
    cJSON_ArrayForEach(item, root) {
        Error reason;
        if (strcmp(item->string, "__metadata__") == 0) {
            if (!parse_metadata(item, out, error)) return false;
        } else if (!parse_tensor(item, &out->tensors[out->n_tensors++], &reason)) {
            return error_set(error, "tensor '%s': %s", printable(item->string).text, reason.text);
        }
    }
    return check_layout(out, data_bytes, error);
}

bool safetensors_parse(const void *bytes, size_t size, uint64_t file_size, SafetensorsHeader *out,
                       Error *error) {
    uint64_t length;
    const char *end = NULL;
    *out = (SafetensorsHeader){0};
    if (size < 8 || file_size < 8) return error_set(error, "shorter than the 8 bytes of a header's length");
    memcpy(&length, bytes, 8);
    if (length > SAFETENSORS_MAX_HEADER)
        return error_set(error, "a header of %" PRIu64 " bytes, at most %d are allowed", length,
                         SAFETENSORS_MAX_HEADER);
    if (length > size - 8 || length > file_size - 8)
        return error_set(error, "a header of %" PRIu64 " bytes, the file ends before", length);
    const unsigned char *text = (const unsigned char *)bytes + 8;
    if (length < 2 || text[0] != '{') return error_set(error, "byte 8: the header does not start with '{'");
    if (!scan_json(text, length, error)) return false;
    char *copy = malloc(length + 1); /* with an end that no parser runs over */
    if (!copy) return error_set(error, "out of memory");
    memcpy(copy, text, length);
    copy[length] = 0;
    out->json = cJSON_ParseWithLengthOpts(copy, length + 1, &end, 0);
    const size_t parsed = (size_t)(end - copy);
    const bool whole = out->json && parsed + strspn(end, " \t\r\n") == length;
    free(copy);
    out->data_start = 8 + length;
    if (!whole) error_set(error, "byte %zu: the header is not valid JSON", parsed + 8);
    if (whole && parse_root(out, file_size - out->data_start, error)) return true;
    safetensors_header_free(out);
    return false;
}

void safetensors_header_free(SafetensorsHeader *header) {
    free(header->tensors);
    free(header->by_name);
    free(header->metadata);
    cJSON_Delete(header->json);
    *header = (SafetensorsHeader){0};
}

const SafetensorsTensor *safetensors_find(const SafetensorsHeader *header, const char *name) {
    const SafetensorsTensor wanted = {.name = name}, *key = &wanted;
    const SafetensorsTensor **found =
        bsearch(&key, header->by_name, header->n_tensors, sizeof *header->by_name, compare_names);
    return found ? *found : NULL;
}

const char *safetensors_metadata(const SafetensorsHeader *header, const char *key) {
    for (size_t i = 0; i < header->n_metadata; i++)
        if (strcmp(header->metadata[i].key, key) == 0) return header->metadata[i].value;
    return NULL;
}

/* ---- reading ---- */

static bool read_header(SafetensorsFile *file, uint64_t file_size, Error *error) {
    uint64_t length = 0;
    Error reason;
    ssize_t n = file_read(file->fd, &length, 8, 0);
    if (n < 0) return error_set(error, "%s: cannot read: %s", file->path, strerror(errno));
    /* What is too long goes to the parser with 8 bytes, for it to say so. */
    const size_t size =
        length <= SAFETENSORS_MAX_HEADER && file_size >= 8 && length <= file_size - 8 ? 8 + length : 8;
    unsigned char *bytes = malloc(size);
    if (!bytes) return error_set(error, "%s: out of memory", file->path);
    n = file_read(file->fd, bytes, size, 0);
    const bool good = n >= 0 && safetensors_parse(bytes, (size_t)n, file_size, &file->header, &reason);
    if (n < 0)
        error_set(error, "%s: cannot read: %s", file->path, strerror(errno));
    else if (!good)
        error_set(error, "%s: %s", file->path, reason.text);
    free(bytes);
    return good;
}

bool safetensors_open(SafetensorsFile *file, const char *path, Error *error) {
    uint64_t file_size;
    *file = (SafetensorsFile){.fd = file_open(path, &file_size, error)};
    if (file->fd < 0) return false;
    file->path = strcpy(must_malloc(strlen(path) + 1, "a path"), path);
    if (read_header(file, file_size, error)) return true;
    safetensors_close(file);
    return false;
}

void safetensors_close(SafetensorsFile *file) {
    if (file->fd >= 0) close(file->fd);
    free(file->path);
    safetensors_header_free(&file->header);
    file->fd = -1;
    file->path = NULL;
}

/* ---- conversion ---- */

uint16_t safetensors_bf16(double value) {
    float f = (float)value;
    uint32_t word;
    memcpy(&word, &f, 4);
    if (isnan(f)) return (uint16_t)(word >> 16 | 0x40);
    /* Halfway between two bf16 by an earlier rounding: let the double say on which side it was. */
    if ((word & 0xffff) == 0x8000 && !isinf(f) && (double)f != value)
        word += fabs(value) > fabs((double)f) ? 1 : (uint32_t)-1;
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

static double from_bf16(uint16_t half) {
    const uint32_t word = (uint32_t)half << 16;
    float f;
    memcpy(&f, &word, 4);
    return f;
}

static double from_f16(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    double value;
    if (exponent == 31)
        value = fraction ? (double)NAN : (double)INFINITY;
    else if (exponent == 0)
        value = fraction * 0x1p-24;
    else
        value = ldexp(1024 + fraction, exponent - 25);
    return half & 0x8000 ? -value : value;
}

enum { CONVERT_ELEMENTS = 4096 };

#define DECODE(type, expression)                                                                             \
    for (size_t i = 0; i < n; i++) {                                                                         \
        type x;                                                                                              \
        memcpy(&x, raw + i * sizeof x, sizeof x);                                                            \
        values[i] = (expression);                                                                            \
    }                                                                                                        \
    return true

/* False for a dtype that is not a number that we know. */
static bool decode(SafetensorsDtype dtype, const unsigned char *raw, size_t n, double *values) {
    switch (dtype) {
    case SAFETENSORS_F64:
        DECODE(double, x);
    case SAFETENSORS_F32:
        DECODE(float, x);
    case SAFETENSORS_BF16:
        DECODE(uint16_t, from_bf16(x));
    case SAFETENSORS_F16:
        DECODE(uint16_t, from_f16(x));
    case SAFETENSORS_I64:
        DECODE(int64_t, (double)x);
    case SAFETENSORS_U64:
        DECODE(uint64_t, (double)x);
    case SAFETENSORS_I32:
        DECODE(int32_t, x);
    case SAFETENSORS_U32:
        DECODE(uint32_t, x);
    case SAFETENSORS_I16:
        DECODE(int16_t, x);
    case SAFETENSORS_U16:
        DECODE(uint16_t, x);
    case SAFETENSORS_I8:
        DECODE(int8_t, x);
    case SAFETENSORS_U8:
        DECODE(uint8_t, x);
    default:
        return false;
    }
}

/* Returns the index of the first value that cannot be represented, n if there is none. */
static size_t encode(SafetensorsDtype as, const double *values, size_t n, unsigned char *out) {
    size_t i = 0;
    switch (as) {
    case SAFETENSORS_F64:
        memcpy(out, values, n * sizeof(double));
        return n;
    case SAFETENSORS_F32:
        for (; i < n; i++) ((float *)out)[i] = (float)values[i];
        return n;
    case SAFETENSORS_BF16:
        for (; i < n; i++) ((uint16_t *)out)[i] = safetensors_bf16(values[i]);
        return n;
    default: /* U32, as convertible() has it */
        for (; i < n && values[i] >= 0 && values[i] <= UINT32_MAX; i++)
            ((uint32_t *)out)[i] = (uint32_t)values[i];
        return i;
    }
}

static bool convertible(SafetensorsDtype from, SafetensorsDtype as) {
    if (from == as) return true;
    if (from >= SAFETENSORS_BOOL) return false;
    if (as == SAFETENSORS_U32) return from >= SAFETENSORS_I64;
    return as == SAFETENSORS_F64 || as == SAFETENSORS_F32 || as == SAFETENSORS_BF16;
}

/* ---- reading data ---- */

static bool read_raw(const SafetensorsFile *file, const SafetensorsTensor *tensor, uint64_t element,
                     size_t count, void *out, Error *error) {
    const size_t bytes = count * dtypes[tensor->dtype].bytes;
    const uint64_t offset = file->header.data_start + tensor->begin + element * dtypes[tensor->dtype].bytes;
    const ssize_t n = file_read(file->fd, out, bytes, offset);
    if (n < 0)
        return error_set(error, "%s: tensor '%s': byte %" PRIu64 ": cannot read: %s", file->path,
                         printable(tensor->name).text, offset, strerror(errno));
    if ((size_t)n != bytes)
        return error_set(
            error, "%s: tensor '%s': byte %" PRIu64 ": the file ends here; it was truncated while in use",
            file->path, printable(tensor->name).text, offset + (uint64_t)n);
    return true;
}

static bool read_converted(const SafetensorsFile *file, const SafetensorsTensor *tensor, uint64_t element,
                           size_t count, SafetensorsDtype as, unsigned char *out, Error *error) {
    unsigned char raw[CONVERT_ELEMENTS * 8];
    double values[CONVERT_ELEMENTS];
    if (!read_raw(file, tensor, element, count, raw, error)) return false;
    decode(tensor->dtype, raw, count, values);
    const size_t good = encode(as, values, count, out);
    if (good == count) return true;
    return error_set(error, "%s: tensor '%s': element %" PRIu64 " is %.17g, which is no %s", file->path,
                     printable(tensor->name).text, element + good, values[good], dtypes[as].name);
}

bool safetensors_read(const SafetensorsFile *file, const SafetensorsTensor *tensor, uint64_t first,
                      uint64_t count, SafetensorsDtype as, void *out, Error *error) {
    const size_t out_bytes = dtypes[as].bytes;
    at_work();
    if (first > tensor->n_elements || count > tensor->n_elements - first)
        return error_set(error, "%s: tensor '%s': %" PRIu64 " elements from %" PRIu64 " on, it has %" PRIu64,
                         file->path, printable(tensor->name).text, count, first, tensor->n_elements);
    if (!convertible(tensor->dtype, as))
        return error_set(error, "%s: tensor '%s': %s cannot be read as %s", file->path,
                         printable(tensor->name).text, dtypes[tensor->dtype].name, dtypes[as].name);
    if (tensor->dtype == as) return read_raw(file, tensor, first, count, out, error);
    for (uint64_t done = 0; done < count; done += CONVERT_ELEMENTS) {
        const size_t n = count - done < CONVERT_ELEMENTS ? (size_t)(count - done) : CONVERT_ELEMENTS;
        if (!read_converted(file, tensor, first + done, n, as, (unsigned char *)out + done * out_bytes,
                            error))
            return false;
    }
    return true;
}
