/*
 * test_documents.c: with one document a row, does each document come once an epoch, whole, cut or split as asked, filled up with
 * what does not count; and do all ranks count the same targets? (src/data/rows.h, loader.h)
 */
#define _GNU_SOURCE
#include "data_fixture.h"
#include "../kernels/kernels.h"
#include "../src/data/order.h"

enum { END = 3, MOST = 3000 };

/* A shard's tokens, numbered through but for the ends, which come with odds of one in `apart`. */
static size_t draw_shard(uint64_t key, uint32_t apart, uint32_t tokens[MOST]) {
    const size_t n = 1 + drawn(key, 0, MOST);
    for (size_t i = 0; i < n; i++) tokens[i] = drawn(key, 2 * i + 1, apart) == 0 ? END : 4 + drawn(key, 2 * i + 2, 50000);
    return n;
}

/* What a set should give: rows of an epoch, in the order of the shards, told the plain way. */
typedef struct Expected {
    uint32_t (*row)[64];
    uint32_t *tokens;
    size_t count, documents, too_short, cut, cut_tokens, targets;
} Expected;

static void expect_row(Expected *e, const uint32_t *tokens, size_t n) {
    memcpy(e->row[e->count], tokens, n * sizeof *tokens);
    e->tokens[e->count++] = (uint32_t)n;
    e->targets += n - 1;
}

static void expect_document(Expected *e, const uint32_t *d, size_t n, size_t T, bool split) {
    e->documents++;
    e->too_short += n < 2;
    if (n < 2) return;
    if (!split) {
        const size_t used = n < T + 1 ? n : T + 1;
        e->cut += n > used, e->cut_tokens += n - used;
        expect_row(e, d, used);
        return;
    }
    for (size_t at = 0; at + 1 < n; at += T) expect_row(e, d + at, n - at < T + 1 ? n - at : T + 1);
}

static void expect_shard(Expected *e, const uint32_t *tokens, size_t n, size_t T, bool split) {
    size_t begin = 0;
    for (size_t i = 0; i < n; i++)
        if (tokens[i] == END || i + 1 == n) {
            expect_document(e, tokens + begin, i + 1 - begin, T, split);
            begin = i + 1;
        }
}

static Expected new_expected(void) {
    return (Expected){.row = calloc(4 * MOST, sizeof(uint32_t[64])), .tokens = calloc(4 * MOST, sizeof(uint32_t))};
}

/* A row of a batch is this one, then padding. */
static void assert_row(const uint32_t *tokens, const uint32_t *targets, size_t T, const uint32_t *row, size_t n) {
    for (size_t t = 0; t < T; t++) {
        assert_int_equal(tokens[t], t < n ? row[t] : END);
        assert_true(targets[t] == (t + 1 < n ? row[t + 1] : TARGET_IGNORED));
    }
}

static void check_set(const ShardSet *set, const Expected *e, size_t T, bool split, bool shuffle) {
    enum { B = 3 };
    uint32_t tokens[B * 64], targets[B * 64];
    uint8_t *seen = calloc(e->count, 1);
    LoaderConfig config = {.set = set, .B = B, .T = T, .micro_steps = 2, .n_ranks = 1, .seed = 9, .vocab = 60000, .shuffle = shuffle,
                           .documents = {.has_end = true, .end = END, .apart = true, .split = split}};
    Loader *loader = must_open(&config);
    const Rows *rows = loader_rows(loader);
    assert_true(rows->documents == e->documents && rows->n_rows == e->count && rows->too_short == e->too_short &&
                rows->cut == e->cut && rows->cut_tokens == e->cut_tokens && rows->targets == e->targets);
    assert_true(loader_windows_per_epoch(loader) == e->count);
    assert_true(loader_tokens_dropped(loader) == e->cut_tokens + e->too_short);
    uint64_t counted = 0;
    for (uint64_t position = 0; position < e->count; position += B) {
        Batch batch = {.tokens = tokens, .targets = targets};
        must_next(loader, &batch);
        for (size_t b = 0; b < B && position + b < e->count; b++) {
            const size_t window = (size_t)order_at(loader_order(loader), position + b).window;
            assert_true(shuffle || window == position + b);
            assert_false(seen[window]++);
            assert_row(tokens + b * T, targets + b * T, T, e->row[window], e->tokens[window]);
            for (size_t t = 0; t < T; t++) counted += targets[b * T + t] != TARGET_IGNORED;
        }
    }
    assert_true(counted == e->targets && loader_targets(loader, 0, e->count) == counted);
    assert_true(loader_targets(loader, 5 * e->count, 2 * e->count) == 2 * counted);
    loader_destroy(loader);
    free(seen);
}

static void every_document_is_a_row_once_an_epoch(void **state) {
    (void)state;
    static const size_t lengths[] = {1, 2, 7, 16, 63};
    static const uint32_t apart[] = {2, 5, 20, 400, 5000};
    for (size_t trial = 0; trial < 25; trial++)
        for (int split = 0; split < 2; split++) {
            const size_t T = lengths[trial % 5];
            Expected e = new_expected();
            for (uint32_t s = 0; s < 3; s++) {
                uint32_t tokens[MOST];
                char name[16];
                const size_t n = draw_shard(trial * 3 + s, apart[trial / 5], tokens);
                snprintf(name, sizeof name, "d_%u.bin", s);
                write_shard(name, tokens, n);
                expect_shard(&e, tokens, n, T, split);
            }
            ShardSet set;
            Error error = {0};
            assert_true(shard_set_open(&set, in_folder("d_*.bin"), &error));
            check_set(&set, &e, T, split, trial % 2);
            shard_set_close(&set);
            free(e.row), free(e.tokens);
        }
}

/* Ends at a chunk's border, and documents over many chunks, of what the search reads at once. */
static void a_document_may_be_longer_than_what_is_read_at_once(void **state) {
    (void)state;
    enum { N = 200000 };
    static const uint32_t ends[] = {65535, 65536, 65537, 196607, N - 1};
    uint32_t *tokens = malloc(N * sizeof *tokens);
    for (uint32_t i = 0; i < N; i++) tokens[i] = 4 + i % 1000;
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) tokens[ends[i]] = END;
    write_shard("long.bin", tokens, N);
    ShardSet set;
    Rows rows;
    Error error = {0};
    const Documents documents = {.has_end = true, .end = END, .apart = true};
    assert_true(shard_set_open(&set, in_folder("long.bin"), &error));
    assert_true(rows_find(&rows, &set, N, &documents, 60000, false, &error));
    static const uint32_t lengths[] = {65536, 1, 1, 131070, 3392};
    assert_true(rows.documents == 5 && rows.too_short == 2 && rows.n_rows == 3 && rows.cut == 0);
    for (size_t i = 0, row = 0, at = 0; i < 5; at += lengths[i++])
        if (lengths[i] > 1) {
            assert_true(row_first_token(rows.row[row]) == at && row_tokens(rows.row[row]) == lengths[i]);
            row++;
        }
    rows_free(&rows);
    shard_set_close(&set);
    free(tokens);
}

static void ranks_and_micro_steps_share_the_same_rows_and_count_alike(void **state) {
    (void)state;
    enum { T = 16, GLOBAL = 24, STEPS = 7 };
    static const uint64_t splits[][2] = {{1, 1}, {2, 1}, {4, 3}, {1, 24}, {8, 3}};
    uint32_t tokens[MOST], first[STEPS * GLOBAL * T], all[STEPS * GLOBAL * T], targets[GLOBAL * T], inputs[GLOBAL * T];
    write_shard("r.bin", tokens, draw_shard(77, 9, tokens));
    ShardSet set;
    Error error = {0};
    assert_true(shard_set_open(&set, in_folder("r.bin"), &error));
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        LoaderConfig config = {.set = &set, .T = T, .n_ranks = splits[i][0], .micro_steps = splits[i][1], .seed = 1, .vocab = 60000,
                               .B = GLOBAL / (splits[i][0] * splits[i][1]), .shuffle = true, .first_step = 3,
                               .documents = {.has_end = true, .end = END, .apart = true}};
        uint64_t counted[STEPS] = {0};
        for (config.rank = 0; config.rank < config.n_ranks; config.rank++) {
            Loader *loader = must_open(&config);
            for (uint64_t k = 0; k < STEPS * config.micro_steps; k++) {
                Batch batch = {.tokens = inputs, .targets = targets};
                must_next(loader, &batch);
                memcpy(all + (batch.first_position - 3 * GLOBAL) * T, targets, config.B * T * sizeof *all);
                for (size_t t = 0; t < config.B * T; t++) counted[batch.step - 3] += targets[t] != TARGET_IGNORED;
            }
            if (config.rank + 1 == config.n_ranks)
                for (uint64_t s = 0; s < STEPS; s++) assert_true(loader_targets(loader, (s + 3) * GLOBAL, GLOBAL) == counted[s]);
            loader_destroy(loader);
        }
        if (i == 0) memcpy(first, all, sizeof first);
        assert_memory_equal(first, all, sizeof first);
    }
    shard_set_close(&set);
}

static void padding_is_marked_as_documents_of_its_own(void **state) {
    (void)state;
    const uint32_t text[] = {9, 8, END};
    uint32_t tokens[6], targets[6], start[6], position[6];
    const uint32_t starts[] = {0, 0, 0, 3, 4, 5};
    write_shard("p.bin", text, 3);
    ShardSet set;
    Error error = {0};
    assert_true(shard_set_open(&set, in_folder("p.bin"), &error));
    LoaderConfig config = {.set = &set, .B = 1, .T = 6, .micro_steps = 1, .n_ranks = 1, .vocab = 10,
                           .documents = {.has_end = true, .end = END, .apart = true}};
    Loader *loader = must_open(&config);
    must_next(loader, &(Batch){.tokens = tokens, .targets = targets, .document_start = start, .position = position});
    assert_memory_equal(start, starts, sizeof start);
    loader_destroy(loader);
    shard_set_close(&set);
}

static void what_makes_no_row_is_refused(void **state) {
    (void)state;
    const uint32_t ends[] = {END, END, END, 5}, bad[] = {5, 6, 60, END};
    ShardSet set;
    Rows rows;
    Error error = {0};
    const Documents documents = {.has_end = true, .end = END, .apart = true};
    write_shard("e.bin", ends, 4), write_shard("b.bin", bad, 4);
    assert_true(shard_set_open(&set, in_folder("e.bin"), &error));
    assert_false(rows_find(&rows, &set, 8, &documents, 100, false, &error));
    assert_says(&error, "no document of two tokens or more among 4 in 1 shards");
    assert_false(rows_find(&rows, &set, ROWS_TOKENS_MOST, &documents, 100, false, &error));
    assert_says(&error, "one document a row is at most 16777214 long");
    shard_set_close(&set);
    assert_true(shard_set_open(&set, in_folder("b.bin"), &error));
    assert_false(rows_find(&rows, &set, 8, &documents, 50, false, &error));
    assert_says(&error, "b.bin: byte 1028: token 60, the vocabulary has 50");
    shard_set_close(&set);
}

static void an_end_that_never_comes_is_noticed(void **state) {
    (void)state;
    const uint32_t with[] = {5, END, 6}, without[] = {5, 6, 7, 8};
    ShardSet set;
    uint64_t looked;
    Error error = {0};
    const Documents documents = {.has_end = true, .end = END};
    write_shard("w_1.bin", without, 4);
    assert_true(shard_set_open(&set, in_folder("w_*.bin"), &error));
    assert_false(documents_end_somewhere(&set, &documents, 100, &looked));
    assert_int_equal(looked, 4);
    shard_set_close(&set);
    write_shard("w_2.bin", with, 3);
    assert_true(shard_set_open(&set, in_folder("w_*.bin"), &error));
    assert_true(documents_end_somewhere(&set, &documents, 100, &looked));
    shard_set_close(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_document_is_a_row_once_an_epoch),
        cmocka_unit_test(a_document_may_be_longer_than_what_is_read_at_once),
        cmocka_unit_test(ranks_and_micro_steps_share_the_same_rows_and_count_alike),
        cmocka_unit_test(padding_is_marked_as_documents_of_its_own),
        cmocka_unit_test(what_makes_no_row_is_refused),
        cmocka_unit_test(an_end_that_never_comes_is_noticed),
    };
    return cmocka_run_group_tests_name("documents", tests, make_folder, remove_folder);
}
