/*
 * test_megatron.c: is a Megatron data set read as its index says, by whatever name, in every type of token, and refused where
 * the index does not fit? (src/data/megatron.h, shard.h, rows.h)
 */
#define _GNU_SOURCE
#include "data_fixture.h"
#include "../src/data/megatron.h"

#include <sys/stat.h>

/* An index as it is written. */
typedef struct Written {
    uint8_t type;
    uint64_t sequences, indices, version;
    int32_t length[16];
    int64_t pointer[16], document[16];
} Written;

static const uint32_t WIDTH[] = {[1] = 1, [2] = 1, [3] = 2, [4] = 4, [5] = 8, [8] = 2};

/* Three documents of 2, 1 and 1 sequences; of 5 + 0, 4 and 3 tokens. */
static Written standard(uint8_t type) {
    Written w = {.type = type, .sequences = 4, .indices = 4, .version = 1, .length = {5, 0, 4, 3}, .document = {0, 2, 3, 4}};
    for (int s = 1; s < 4; s++) w.pointer[s] = w.pointer[s - 1] + w.length[s - 1] * (int64_t)WIDTH[type];
    return w;
}

static size_t put_index(const Written *w, unsigned char *bytes) {
    unsigned char *at = bytes;
    memset(at, 0, 34);
    memcpy(at, "MMIDIDX", 7), memcpy(at + 9, &w->version, 8), at[17] = w->type;
    memcpy(at + 18, &w->sequences, 8), memcpy(at + 26, &w->indices, 8);
    at += 34;
    memcpy(at, w->length, 4 * w->sequences), at += 4 * w->sequences;
    memcpy(at, w->pointer, 8 * w->sequences), at += 8 * w->sequences;
    memcpy(at, w->document, 8 * w->indices), at += 8 * w->indices;
    return (size_t)(at - bytes);
}

static void write_index(const char *name, const Written *w) {
    unsigned char bytes[1024];
    write_bytes(name, bytes, put_index(w, bytes));
}

static void write_tokens(const char *name, uint8_t type, const int64_t *tokens, size_t n) {
    unsigned char bytes[1024];
    for (size_t i = 0; i < n; i++) memcpy(bytes + i * WIDTH[type], &tokens[i], WIDTH[type]);
    write_bytes(name, bytes, n * WIDTH[type]);
}

static const int64_t TOKENS[12] = {10, 11, 12, 13, 14, 20, 21, 22, 127, 30, 31, 32};

static void write_set(uint8_t type) {
    const Written w = standard(type);
    write_index("x_text_document.idx", &w);
    write_tokens("x_text_document.bin", type, TOKENS, 12);
}

static void it_is_read_by_either_name_and_by_both_in_every_type(void **state) {
    (void)state;
    static const char *const NAMES[] = {"x_text_document", "x_text_document.idx", "x_text_document.bin", "x_*.idx", "x_*.bin", "x_*"};
    static const uint8_t types[] = {1, 2, 3, 4, 5, 8};
    for (size_t i = 0; i < sizeof types; i++) {
        write_set(types[i]);
        for (size_t n = 0; n < sizeof NAMES / sizeof *NAMES; n++) {
            ShardSet set;
            Error error = {0};
            uint32_t read[12];
            if (!shard_set_open(&set, in_folder(NAMES[n]), &error)) fail_msg("%s: %s", NAMES[n], error.text);
            assert_true(set.n_shards == 1 && set.n_tokens == 12 && set.shards[0].index.n_documents == 3);
            assert_string_equal(set.shards[0].path, in_folder("x_text_document.bin"));
            ShardReader *reader = shard_reader_create(&set);
            assert_true(shard_read(reader, 0, 2, 10, 128, read, &error));
            for (int t = 0; t < 10; t++) assert_int_equal(read[t], TOKENS[t + 2]);
            assert_false(shard_read(reader, 0, 2, 10, 127, read, &error));
            assert_says(&error, "x_text_document.bin: byte ");
            assert_says(&error, "token 127, the vocabulary has 127");
            assert_false(shard_read(reader, 0, 2, 11, 128, read, &error));
            shard_reader_destroy(reader);
            shard_set_close(&set);
        }
    }
}

static void what_is_no_token_is_none_in_any_type(void **state) {
    (void)state;
    static const struct {
        uint8_t type;
        int64_t token;
        const char *says;
    } cases[] = {{2, -1, "token -1,"}, {3, -32768, "token -32768,"}, {4, -5, "token -5,"}, {5, -5, "token -5,"},
                 {5, INT64_C(1) << 32, "token 4294967296,"}, {8, 65535, "token 65535,"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t tokens[12];
        ShardSet set;
        Error error = {0};
        uint32_t read[12];
        memcpy(tokens, TOKENS, sizeof tokens);
        tokens[7] = cases[i].token;
        write_set(cases[i].type);
        write_tokens("x_text_document.bin", cases[i].type, tokens, 12);
        assert_true(shard_set_open(&set, in_folder("x_text_document"), &error));
        ShardReader *reader = shard_reader_create(&set);
        assert_true(shard_read(reader, 0, 0, 7, 60000, read, &error));
        assert_false(shard_read(reader, 0, 0, 12, 60000, read, &error));
        assert_says(&error, cases[i].says);
        shard_reader_destroy(reader);
        shard_set_close(&set);
    }
}

static void its_documents_are_rows_without_a_token_that_ends_them(void **state) {
    (void)state;
    ShardSet set;
    Rows rows;
    Error error = {0};
    const Documents apart = {.apart = true};
    write_set(8);
    assert_true(shard_set_open(&set, in_folder("x_text_document"), &error));
    assert_true(rows_find(&rows, &set, 4, &apart, 128, false, &error));
    static const uint32_t first[] = {0, 5, 9}, tokens[] = {5, 4, 3};
    assert_true(rows.documents == 3 && rows.n_rows == 3 && rows.targets == 9);
    for (int i = 0; i < 3; i++) assert_true(row_first_token(rows.row[i]) == first[i] && row_tokens(rows.row[i]) == tokens[i]);
    rows_free(&rows);
    /* One that has become shorter meanwhile. */
    Written w = standard(8);
    w.indices = 3, w.document[2] = 4;
    write_index("x_text_document.idx", &w);
    assert_false(rows_find(&rows, &set, 4, &apart, 128, false, &error));
    assert_says(&error, "x_text_document.idx: it changed since it was opened first");
    shard_set_close(&set);
}

static void it_stands_in_a_set_with_shards(void **state) {
    (void)state;
    const uint32_t tokens[] = {1, 2, 3};
    ShardSet set;
    Error error = {0};
    write_set(4);
    write_shard("x_also.bin", tokens, 3);
    assert_true(shard_set_open(&set, in_folder("x_*.bin"), &error));
    assert_true(set.n_shards == 2 && set.n_tokens == 15 && !set.shards[0].index_path && set.shards[1].index_path);
    shard_set_close(&set);
    unlink(in_folder("x_also.bin"));
}

static void assert_refused(const Written *w, const char *says) {
    ShardSet set;
    Error error = {0};
    write_index("x_text_document.idx", w);
    if (shard_set_open(&set, in_folder("x_text_document"), &error)) fail_msg("let in: %s", says);
    assert_says(&error, says);
    assert_says(&error, "x_text_document.idx");
    assert_true(set.n_shards == 0);
}

#define REFUSED(change, says) do { Written w = standard(8); change; assert_refused(&w, says); } while (0)

static void an_index_that_does_not_fit_is_refused_with_its_byte(void **state) {
    (void)state;
    write_set(8);
    REFUSED(w.version = 2, "byte 9: version 2");
    REFUSED(w.type = 6, "byte 17: the tokens are floating-point");
    REFUSED(w.type = 9, "byte 17: type 9");
    REFUSED(w.type = 0, "byte 17: type 0");
    REFUSED(w.length[3] = 4, "byte 46: sequence 3 has 4 tokens, 3 of its .bin are left");
    REFUSED(w.length[3] = 2, "its sequences fill 22 bytes, its .bin has 24");
    REFUSED(w.length[0] = -1, "byte 34: sequence 0 has -1 tokens");
    REFUSED(w.length[0] = INT32_MAX, "byte 34: sequence 0 has 2147483647");
    REFUSED(w.pointer[2] = 11, "byte 66: sequence 2 begins at byte 11 of its .bin; behind the one before it is byte 10");
    REFUSED(w.pointer[0] = -2, "byte 50: sequence 0 begins at byte -2");
    REFUSED(w.document[0] = 1, "byte 82: document index 0 is 1");
    REFUSED(w.document[2] = 1, "byte 98: document index 2 is 1");
    REFUSED(w.document[3] = 3, "byte 106: document index 3 is 3");
    REFUSED(w.document[1] = 5, "byte 90: document index 1 is 5");
    REFUSED(w.document[1] = INT64_MIN, "byte 90: document index 1 is -9223372036854775808");
    unsigned char bytes[1024];
    const Written w = standard(8);
    const size_t size = put_index(&w, bytes);
    static const struct {
        size_t at;
        uint64_t value;
        const char *says;
    } counts[] = {{18, 5, "the file has 114"}, {18, UINT64_MAX, "byte 18: 18446744073709551615 sequences"},
                  {26, 0, "and 0 document indices"}, {26, UINT64_C(1) << 61, "document indices"}, {26, 5, "the file has 114"}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        unsigned char changed[1024];
        MegatronIndex index;
        Error error = {0};
        memcpy(changed, bytes, size);
        memcpy(changed + counts[i].at, &counts[i].value, 8);
        assert_false(megatron_parse_header(changed, size, size, &index, &error));
        assert_says(&error, counts[i].says);
    }
    MegatronIndex index;
    Error error = {0};
    assert_true(megatron_parse_header(bytes, size, size, &index, &error));
    assert_false(megatron_parse_header(bytes, size, size + 4, &index, &error));
    assert_says(&error, "byte 114: modes of sequences: a multimodal set");
    assert_false(megatron_parse_header(bytes, size, size - 1, &index, &error));
    assert_false(megatron_parse_header(bytes, 33, size, &index, &error));
    assert_says(&error, "shorter than the header");
    unlink(in_folder("x_text_document.bin"));
    ShardSet set;
    write_index("x_text_document.idx", &w);
    assert_false(shard_set_open(&set, in_folder("x_text_document"), &error));
    assert_says(&error, "x_text_document.bin: cannot open");
}

/* More sequences than what is read at once, in documents of three. */
static void a_long_index_is_read_in_pieces(void **state) {
    (void)state;
    enum { S = 20001, DOCUMENTS = 6667 };
    const size_t size = 34 + 12 * S + 8 * (DOCUMENTS + 1);
    unsigned char *bytes = calloc(size, 1), *at = bytes + 34;
    const uint64_t sequences = S, indices = DOCUMENTS + 1, one = 1;
    memcpy(bytes, "MMIDIDX", 7), memcpy(bytes + 9, &one, 8), bytes[17] = 1;
    memcpy(bytes + 18, &sequences, 8), memcpy(bytes + 26, &indices, 8);
    int64_t total = 0;
    for (int32_t s = 0; s < S; s++) {
        const int32_t length = 1 + s % 7;
        memcpy(at + 4 * s, &length, 4), memcpy(at + 4 * S + 8 * s, &total, 8);
        total += length;
    }
    for (int64_t d = 0; d <= DOCUMENTS; d++) {
        const int64_t sequence = 3 * d;
        memcpy(at + 12 * S + 8 * d, &sequence, 8);
    }
    write_bytes("l.idx", bytes, size);
    unsigned char *tokens = calloc((size_t)total, 1);
    write_bytes("l.bin", tokens, (size_t)total);
    ShardSet set;
    Rows rows;
    Error error = {0};
    if (!shard_set_open(&set, in_folder("l"), &error)) fail_msg("%s", error.text);
    assert_true(rows_find(&rows, &set, 100, &(Documents){.apart = true}, 2, false, &error));
    assert_true(rows.documents == DOCUMENTS && rows.targets == (uint64_t)total - DOCUMENTS);
    rows_free(&rows);
    shard_set_close(&set);
    free(bytes), free(tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_read_by_either_name_and_by_both_in_every_type),
        cmocka_unit_test(what_is_no_token_is_none_in_any_type),
        cmocka_unit_test(its_documents_are_rows_without_a_token_that_ends_them),
        cmocka_unit_test(it_stands_in_a_set_with_shards),
        cmocka_unit_test(an_index_that_does_not_fit_is_refused_with_its_byte),
        cmocka_unit_test(a_long_index_is_read_in_pieces),
    };
    return cmocka_run_group_tests_name("megatron", tests, make_folder, remove_folder);
}
