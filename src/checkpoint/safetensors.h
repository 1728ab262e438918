/*
 * safetensors.h: tensors in files: weights, checkpoints, probes.
 *
 * The format (github.com/huggingface/safetensors): 8 bytes of little-endian header length N, N bytes of JSON,
 * then the tensors' data, row-major, little-endian:
 *
 *     {"__metadata__":{"key":"value"},"name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}
 *
 * Offsets count from the first byte after the header. All sizes are 64-bit, up to 2^53.
 *
 * Errors come back as one line in *error that names the file and the tensor. Nothing leaks after one.
 */
#ifndef SAFETENSORS_H
#define SAFETENSORS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/check.h"

#define SAFETENSORS_MAX_DIMS   8
#define SAFETENSORS_MAX_HEADER 100000000 /* the format's own limit */

typedef enum SafetensorsDtype {
    SAFETENSORS_F64,
    SAFETENSORS_F32,
    SAFETENSORS_BF16,
    SAFETENSORS_F16,
    SAFETENSORS_I64,
    SAFETENSORS_U64,
    SAFETENSORS_I32,
    SAFETENSORS_U32,
    SAFETENSORS_I16,
    SAFETENSORS_U16,
    SAFETENSORS_I8,
    SAFETENSORS_U8,
    SAFETENSORS_BOOL,
    SAFETENSORS_F8_E5M2, /* this and what follows can be listed and written, not converted */
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_C64,
    SAFETENSORS_N_DTYPES
} SafetensorsDtype;

const char *safetensors_dtype_name(SafetensorsDtype dtype); /* "F32" */
size_t safetensors_dtype_bytes(SafetensorsDtype dtype);

/* ---- the header ---- */

typedef struct SafetensorsTensor {
    const char *name;
    SafetensorsDtype dtype;
    size_t n_dims; /* 0 for a scalar */
    uint64_t shape[SAFETENSORS_MAX_DIMS];
    uint64_t n_elements; /* the product of shape */
    uint64_t begin, end; /* bytes, from data_start */
} SafetensorsTensor;

typedef struct SafetensorsPair {
    const char *key, *value;
} SafetensorsPair;

typedef struct SafetensorsHeader {
    SafetensorsTensor *tensors; /* in the order of their data */
    size_t n_tensors;
    const SafetensorsTensor **by_name; /* the same in strcmp()'s order, for safetensors_find() */
    SafetensorsPair *metadata;
    size_t n_metadata;
    uint64_t data_start; /* in the file: 8 + header length */
    void *json;          /* owns the names */
} SafetensorsHeader;

/*
 * Reads a header from the first `size` bytes of a file of `file_size` bytes: size must reach the end of the
 * header. Pure. Refuses whatever the format's own library refuses: a header over 100 MB or not starting with
 * '{', bad JSON or UTF-8, sizes that are not shape × dtype, data that overlaps, leaves holes, or does not end
 * where the file does; and also a name or field given twice, fields that the format does not have, more than
 * 8 dimensions, a NUL in a name, and a number that is anything but plain digits or not below 2^53. On success
 * *out owns memory, about 20 times the header's length at worst: safetensors_header_free.
 */
bool safetensors_parse(const void *bytes, size_t size, uint64_t file_size, SafetensorsHeader *out,
                       Error *error);
void safetensors_header_free(SafetensorsHeader *header);

const SafetensorsTensor *safetensors_find(const SafetensorsHeader *header, const char *name); /* or NULL */
const char *safetensors_metadata(const SafetensorsHeader *header, const char *key);           /* or NULL */

/* ---- reading ---- */

typedef struct SafetensorsFile {
    SafetensorsHeader header;
    char *path;
    int fd;
} SafetensorsFile;

/* Opens and checks a file. After false there is nothing to close. */
bool safetensors_open(SafetensorsFile *file, const char *path, Error *error);
void safetensors_close(SafetensorsFile *file);

/*
 * Reads elements [first, first + count) of a tensor, in row-major order, into out as F64, F32, BF16 (uint16_t
 * holding the bits) or U32.
 *
 * - to F64, F32, BF16: from F64, F32, BF16, F16 and every integer, rounded to nearest even once (64-bit
 * integers by way of a double); beyond the range becomes infinity;
 * - to U32: from integers; one that is negative or above 2^32 − 1 is an error.
 *
 * Any dtype may be read as itself.
 */
bool safetensors_read(const SafetensorsFile *file, const SafetensorsTensor *tensor, uint64_t first,
                      uint64_t count, SafetensorsDtype as, void *out, Error *error);

/* A double as bf16 bits, rounded to nearest even, once. */
uint16_t safetensors_bf16(double value);

/* ---- writing ---- */

typedef struct SafetensorsEntry {
    const char *name;
    SafetensorsDtype dtype;
    size_t n_dims;
    uint64_t shape[SAFETENSORS_MAX_DIMS];
} SafetensorsEntry;

/*
 * begin, then append until every tensor is whole, then finish. Tensors may be appended in any order and in
 * chunks of any size, interleaved too. The data lie sorted by element size, widest first, as the format's
 * library sorts them, from a multiple of 8 bytes on (the header is padded with spaces), so every tensor is
 * aligned to its type.
 *
 * Until finish the bytes are in PATH.partial: at PATH there is the whole file or what was there before. After
 * a failure (disk full, say) PATH.partial is gone.
 */
typedef struct SafetensorsWriter SafetensorsWriter;

/* Names and strings need not outlive the call. NULL with *error set if the entries make no valid file (a name
   twice, not UTF-8, too many dimensions) or it cannot be created. */
SafetensorsWriter *safetensors_writer_begin(const char *path, const SafetensorsEntry *entries,
                                            size_t n_entries, const SafetensorsPair *metadata,
                                            size_t n_metadata, Error *error);

/* The next `bytes` bytes of entries[entry], in that entry's dtype. After false, only abort or finish remain.
 */
bool safetensors_writer_append(SafetensorsWriter *writer, size_t entry, const void *data, size_t bytes,
                               Error *error);

/* fsync, rename, and the end of the writer, whatever it returns. False if a tensor is not whole, or append
   has failed before. The directory is not fsynced: that is for who knows what else belongs in it. */
bool safetensors_writer_finish(SafetensorsWriter *writer, Error *error);

/* Gives up: removes PATH.partial and frees the writer. NULL is fine. */
void safetensors_writer_abort(SafetensorsWriter *writer);

#endif
