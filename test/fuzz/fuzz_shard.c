/*
 * fuzz_shard.c: does a shard deliver exactly the tokens that stand in it, or a reason why not? (src/data/shard.h)
 *
 * Input: what to do (struct Deed), then the file. `compact` leaves out the 1,012 bytes of the header that nobody
 * looks at.
 */
#include "fuzz.h"
#include "../../src/data/shard.h"

#include <stdlib.h>
#include <string.h>

enum { COMPACT = 1, CUT_WHILE_OPEN = 2, HEADER_OFFSET = 12 };

typedef struct Deed {
    uint32_t mode, vocab, first, count;
} Deed;

static uint32_t word(const uint8_t *file, uint64_t at, uint32_t bytes) {
    uint32_t value = 0;
    memcpy(&value, file + at, bytes);
    return value;
}

static void check_header(const ShardHeader *header, const uint8_t *file, uint64_t size) {
    const bool wide = word(file, 0, 4) == 20240801;
    PROMISE(wide || word(file, 0, 4) == 20240520);
    PROMISE(word(file, 4, 4) == (wide ? 7 : 1));
    PROMISE(header->token_bytes == (wide ? 4 : 2) && header->n_tokens == word(file, 8, 4));
    PROMISE((size - 1024) % header->token_bytes == 0);
    PROMISE((size - 1024) / header->token_bytes == header->n_tokens);
}

/* Accepted if and only if the range is there and every token is in the vocabulary. */
static void check_read(const ShardSet *set, const uint8_t *file, uint64_t size, const Deed *deed) {
    const ShardHeader *header = &set->shards[0].header;
    const uint64_t n = header->n_tokens, first = deed->first, count = deed->count;
    const bool inside = first <= n && count <= n - first;
    bool good = inside;
    Error error = {0};
    uint32_t *out = malloc(inside && count ? count * sizeof *out : 1);
    ShardReader *reader = shard_reader_create(set);
    if (deed->mode & CUT_WHILE_OPEN) {
        shard_advise(reader, 0, 0, 1); /* opens it */
        fuzz_file(file, (size_t)size - 1, 0);
        good = good && (count == 0 || first + count < n);
    }
    for (uint64_t i = 0; good && i < count; i++)
        good = word(file, 1024 + (first + i) * header->token_bytes, header->token_bytes) < deed->vocab;
    PROMISE(shard_read(reader, 0, first, deed->count, deed->vocab, out, &error) == good);
    if (!good) fuzz_check_error(&error);
    for (uint64_t i = 0; good && i < count; i++)
        PROMISE(out[i] == word(file, 1024 + (first + i) * header->token_bytes, header->token_bytes));
    shard_reader_destroy(reader);
    free(out);
}

static void run(const uint8_t *file, size_t size, const Deed *deed) {
    ShardSet set;
    ShardHeader header;
    Error error = {0};
    /* A header alone, of a file of any size. */
    const uint64_t claimed = (uint64_t)deed->first << 32 | deed->count;
    if (!shard_parse_header(fuzz_edge(file, size < 1024 ? size : 1024), size, claimed, &header, &error))
        fuzz_check_error(&error);
    else
        check_header(&header, file, claimed);
    if (!shard_set_open(&set, fuzz_file(file, size, 0), &error)) {
        fuzz_check_error(&error);
        return;
    }
    PROMISE(set.n_shards == 1 && set.n_tokens == set.shards[0].header.n_tokens);
    check_header(&set.shards[0].header, file, size);
    if (size > 1024) check_read(&set, file, size, deed);
    shard_set_close(&set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Deed deed;
    if (size < sizeof deed) return 0;
    memcpy(&deed, data, sizeof deed);
    data += sizeof deed, size -= sizeof deed;
    const bool compact = deed.mode & COMPACT && size >= HEADER_OFFSET;
    const size_t gap = compact ? 1024 - HEADER_OFFSET : 0;
    uint8_t *file = calloc(size + gap + 1, 1);
    memcpy(file, data, compact ? HEADER_OFFSET : size);
    if (compact) memcpy(file + 1024, data + HEADER_OFFSET, size - HEADER_OFFSET);
    run(file, size + gap, &deed);
    free(file);
    return 0;
}
