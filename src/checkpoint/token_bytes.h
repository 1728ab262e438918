/*
 * token_bytes.h: which bytes does each token stand for?
 *
 * A tokenizer's own file says how text becomes tokens, by rules that only its library knows. The way back is a table, and
 * data/token_bytes.py makes it: token_bytes.safetensors, beside the tokenizer, with the tensors
 *
 *     offsets  I64 [count + 1]          token i is bytes[offsets[i] … offsets[i + 1])
 *     bytes    U8  [offsets[count]]     control tokens are empty
 *
 * and the metadata `format: token_bytes`, `end_of_document: "50256"` (absent where there is none) and
 * `strip_leading_space: "true"`: one space at the very start of a text is dropped, as SentencePiece does.
 *
 * The file is anybody's: what does not hold together is refused. A vocabulary may be larger than its table, as many are
 * padded to a round number: such a token is shown as U+FFFD.
 */
#ifndef TOKEN_BYTES_H
#define TOKEN_BYTES_H

#include "../base/check.h"

#include <stdint.h>

#define TOKEN_BYTES_FILE "token_bytes.safetensors"

typedef struct TokenBytes {
    int64_t count;           /* tokens that it tells of; 0: there is no table */
    uint64_t *offsets;       /* [count + 1] */
    unsigned char *bytes;
    int64_t end_of_document; /* −1: none */
    bool strip_leading_space;
    bool is_bytes;           /* no token is longer than a byte, and every byte but that of the end has one */
    uint32_t id_of[256];     /* then: the token of a byte; one beyond the vocabulary where it has none */
} TokenBytes;

/* Reads the table of a model with so many tokens. False with *error set, which names the file, where it is none. */
bool token_bytes_load(TokenBytes *table, const char *path, int64_t vocab, Error *error);

/* The same of DIRECTORY/token_bytes.safetensors, which must be no symbolic link. Where there is none, true, and count is 0. */
bool token_bytes_find(TokenBytes *table, const char *directory, int64_t vocab, Error *error);

/* The table of a model of at most 256 tokens that are bytes. */
void token_bytes_identity(TokenBytes *table, int64_t vocab);

/* The bytes of a token below the model's vocabulary, and how many. */
const unsigned char *token_bytes_of(const TokenBytes *table, uint32_t token, uint64_t *length);

void token_bytes_free(TokenBytes *table);

#endif
