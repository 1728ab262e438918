/*
 * megatron.h: what does the index of a Megatron data set say?
 *
 * Megatron-LM keeps tokens in NAME.bin, one after the other and nothing else, and in NAME.idx, all little-endian:
 *
 *     byte 0   "MMIDIDX", two zero bytes
 *     byte 9   version, uint64: 1
 *     byte 17  type of a token, uint8: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 8 uint16 (6 and 7 are floats)
 *     byte 18  S, uint64: how many sequences
 *     byte 26  E, uint64: how many document indices
 *     byte 34  S × int32: tokens of each sequence
 *     then     S × int64: the byte of NAME.bin at which each begins: here as everywhere one behind the other
 *     then     E × int64: document d is sequences [index d, index d + 1), so the first is 0 and the last S
 *     and no more; what has S bytes of modes behind it (multimodal sets) is refused
 *
 * (Megatron-Core, megatron/core/datasets/indexed_dataset.py: the format, none of the code.) Every number is checked before
 * anything uses it. Memory: two blocks, whatever the size.
 */
#ifndef MEGATRON_H
#define MEGATRON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/check.h"

enum { MEGATRON_HEADER_BYTES = 34 };

typedef struct MegatronIndex {
    uint32_t token_bytes; /* 1, 2, 4 or 8 */
    bool is_signed;
    uint64_t n_sequences, n_documents; /* E − 1 */
    uint64_t n_tokens;                 /* in NAME.bin; megatron_open() sets it */
} MegatronIndex;

/* Whether a file begins as an index does. */
bool megatron_is_index(const char *path);

/* Reads the header from the first `size` bytes of an index of file_size bytes; a pure function. False, with *error set, unless
 * all of it is right and file_size is what it makes. */
bool megatron_parse_header(const void *bytes, size_t size, uint64_t file_size, MegatronIndex *out, Error *error);

/* Reads all of an index of tokens that fill bin_size bytes. Errors name it, and the byte. */
bool megatron_open(const char *path, uint64_t bin_size, MegatronIndex *out, Error *error);

/* Calls document(context, n) with the number of tokens of each document, in order, until one call returns false, which ends it
 * well. False if the index cannot be read any more, or is another than megatron_open() saw. */
typedef bool MegatronDocument(void *context, uint64_t n_tokens);
bool megatron_documents(const char *path, const MegatronIndex *index, MegatronDocument *document, void *context, Error *error);

#endif
