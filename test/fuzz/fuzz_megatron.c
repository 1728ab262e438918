/*
 * fuzz_megatron.c: is an index of Megatron's taken only if every number in it fits the others and the tokens? (src/data/megatron.h)
 *
 * Input: the bytes of the .bin (uint32), then the index.
 */
#include "fuzz.h"
#include "../../src/data/megatron.h"

#include <stdlib.h>
#include <string.h>

static int64_t number(const uint8_t *at, uint32_t bytes) {
    int32_t narrow;
    int64_t wide;
    if (bytes == 4) return memcpy(&narrow, at, 4), narrow;
    return memcpy(&wide, at, 8), wide;
}

/* All that the header of megatron.h says, from the bytes alone. */
static void check_index(const MegatronIndex *index, const uint8_t *file, size_t size, uint64_t bin_size) {
    static const uint32_t WIDTHS[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
    const uint64_t S = index->n_sequences, D = index->n_documents;
    PROMISE(size >= 34 && memcmp(file, "MMIDIDX\0", 9) == 0 && number(file + 9, 8) == 1);
    PROMISE(file[17] < 9 && WIDTHS[file[17]] == index->token_bytes && index->token_bytes);
    PROMISE(index->is_signed == (file[17] >= 2 && file[17] <= 5));
    PROMISE((uint64_t)number(file + 18, 8) == S && (uint64_t)number(file + 26, 8) == D + 1);
    PROMISE(size == 34 + 12 * S + 8 * (D + 1));
    uint64_t tokens = 0;
    for (uint64_t s = 0; s < S; s++) {
        const int64_t length = number(file + 34 + 4 * s, 4);
        PROMISE(length >= 0 && (uint64_t)number(file + 34 + 4 * S + 8 * s, 8) == tokens * index->token_bytes);
        tokens += (uint64_t)length;
    }
    PROMISE(tokens == index->n_tokens && tokens * index->token_bytes == bin_size);
    const uint8_t *documents = file + 34 + 12 * S;
    PROMISE(number(documents, 8) == 0 && (uint64_t)number(documents + 8 * D, 8) == S);
    for (uint64_t d = 0; d < D; d++) PROMISE(number(documents + 8 * d, 8) <= number(documents + 8 * (d + 1), 8));
}

typedef struct Count {
    uint64_t documents, tokens;
} Count;

static bool add(void *context, uint64_t n) {
    Count *count = context;
    count->documents++, count->tokens += n;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint32_t bin_size;
    MegatronIndex index, header;
    Count count = {0};
    Error error = {0}, other = {0};
    if (size < sizeof bin_size) return 0;
    memcpy(&bin_size, data, sizeof bin_size);
    data += sizeof bin_size, size -= sizeof bin_size;
    const size_t most = size < MEGATRON_HEADER_BYTES ? size : MEGATRON_HEADER_BYTES;
    const bool parsed = megatron_parse_header(fuzz_edge(data, most), most, size, &header, &other);
    if (!parsed) fuzz_check_error(&other);
    const char *path = fuzz_file(data, size, 0);
    if (!megatron_open(path, bin_size, &index, &error)) {
        fuzz_check_error(&error);
        return 0;
    }
    PROMISE(parsed && megatron_is_index(path));
    check_index(&index, data, size, bin_size);
    PROMISE(megatron_documents(path, &index, add, &count, &error));
    PROMISE(count.documents == index.n_documents && count.tokens == index.n_tokens);
    return 0;
}
