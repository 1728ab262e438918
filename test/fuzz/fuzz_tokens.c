/*
 * fuzz_tokens.c: does a table of tokens' bytes that is accepted hold together? (src/checkpoint/token_bytes.h)
 *
 * Input: a byte, the vocabulary of the model less one, then the file.
 */
#include "fuzz.h"
#include "../../src/checkpoint/token_bytes.h"

#include <string.h>

static void check_table(const TokenBytes *table, int64_t vocab) {
    uint64_t all = 0;
    PROMISE(0 < table->count && table->count <= vocab);
    PROMISE(-1 <= table->end_of_document && table->end_of_document < table->count);
    for (uint32_t token = 0; token < vocab; token++) {
        uint64_t length;
        unsigned char copy[64];
        const unsigned char *bytes = token_bytes_of(table, token, &length);
        memcpy(copy, bytes, length < sizeof copy ? length : sizeof copy); /* they are there */
        if (token < table->count) {
            PROMISE(bytes == table->bytes + all);
            all += length;
        }
        PROMISE(!table->is_bytes || length <= 1 || token >= table->count);
    }
    for (int byte = 0; table->is_bytes && byte < 256; byte++) {
        uint64_t length;
        const uint32_t id = table->id_of[byte];
        if (id < table->count) PROMISE(*token_bytes_of(table, id, &length) == byte && length == 1);
        else PROMISE(id == UINT32_MAX);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    TokenBytes table;
    Error error = {0};
    if (size == 0) return 0;
    const int64_t vocab = data[0] + 1 + (data[0] == 255); /* 257: bytes and an end */
    if (token_bytes_load(&table, fuzz_file(data + 1, size - 1, size - 1), vocab, &error)) check_table(&table, vocab);
    else fuzz_check_error(&error), PROMISE(!table.count && !table.bytes);
    token_bytes_free(&table);
    return 0;
}
