/*
 * test_mixture.c: is every share of a mixture exact at every position, each source's order its own, all of it the same however
 * ranks share it; and is a text that is no mixture refused? (src/data/turns.h, mixture.h, order.h)
 */
#define _GNU_SOURCE
#include "data_fixture.h"
#include "../src/data/mixture.h"

/* ---- turns ---- */

static void assert_exact(const uint32_t *parts, size_t sources, uint64_t positions) {
    Turns turns;
    uint64_t taken[TURNS_SOURCES_MOST] = {0}, W = 0;
    for (size_t i = 0; i < sources; i++) W += parts[i];
    turns_create(&turns, parts, sources);
    assert_int_equal(turns.period, W);
    for (uint64_t n = 0; n < positions; n++) {
        const SourcePlace place = turns_at(&turns, n);
        assert_true(place.source < sources);
        assert_true(place.position == taken[place.source]); /* a source's rows come in their order, none twice, none left out */
        taken[place.source]++;
        for (size_t i = 0; i < sources; i++) { /* ⌊(n+1)·p/W⌋ or ⌈(n+1)·p/W⌉ */
            const uint64_t ideal = (n + 1) * parts[i];
            if (taken[i] * W >= ideal + W || taken[i] * W + W <= ideal)
                fail_msg("source %zu of %zu has %llu of %llu", i, sources, (unsigned long long)taken[i], (unsigned long long)n + 1);
        }
        if (n % 97 == 0)
            for (size_t i = 0; i < sources; i++) assert_true(turns_taken(&turns, i, n + 1) == taken[i]);
    }
    turns_destroy(&turns);
}

static void no_share_is_ever_off_by_a_whole_row(void **state) {
    (void)state;
    static const uint32_t some[][4] = {{7, 3}, {1}, {1, 1, 1}, {1, 999}, {50, 49, 1}, {333, 333, 334}, {1, 2, 4, 8}, {97, 1, 1, 1}};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        size_t sources = 4;
        while (!some[i][sources - 1]) sources--;
        assert_exact(some[i], sources, 3000);
    }
    for (uint64_t trial = 0; trial < 60; trial++) {
        uint32_t parts[40];
        const size_t sources = 1 + drawn(1, trial, 40);
        for (size_t i = 0; i < sources; i++) parts[i] = 1 + drawn(trial + 2, i, trial % 3 ? 30 : 3);
        uint64_t W = 0;
        for (size_t i = 0; i < sources; i++) W += parts[i];
        assert_exact(parts, sources, 2 * W + 5);
    }
}

static void the_longest_period_and_the_farthest_position_are_found(void **state) {
    (void)state;
    static const uint32_t parts[] = {TURNS_MOST - 3, 2, 1};
    Turns turns;
    turns_create(&turns, parts, 3);
    const uint64_t far = (UINT64_C(1) << 60) / TURNS_MOST * TURNS_MOST;
    uint64_t found[3] = {0};
    for (uint64_t i = 0; i < TURNS_MOST; i++) {
        const SourcePlace here = turns_at(&turns, i), there = turns_at(&turns, far + i);
        assert_true(here.source == there.source && there.position == here.position + far / TURNS_MOST * parts[here.source]);
        found[here.source]++;
    }
    for (size_t i = 0; i < 3; i++) assert_true(found[i] == parts[i]);
    turns_destroy(&turns);
}

/* ---- the text ---- */

static void a_text_names_sources_and_shares(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t sources;
        const char *pattern[3];
        uint32_t parts[3];
    } cases[] = {
        {"web/*.bin:0.7,books/*.bin:0.3", 2, {"web/*.bin", "books/*.bin"}, {7, 3}},
        {"a:1", 1, {"a"}, {1}},
        {"a:2,b:4,c:6", 3, {"a", "b", "c"}, {1, 2, 3}},
        {"a:0.5,b:.25,c:0.250", 3, {"a", "b", "c"}, {2, 1, 1}},
        {"a,b:1.,c:3", 2, {"a,b", "c"}, {1, 3}},
        {"C:x:2,y:1", 2, {"C:x", "y"}, {2, 1}},
        {"s3:1.bin:2,y:1", 2, {"s3:1.bin", "y"}, {2, 1}},
        {"a:123456,b:876544", 2, {"a", "b"}, {1929, 13696}},
        {"data/*.bin", 0, {NULL}, {0}},
        {"data/a:b.bin", 0, {NULL}, {0}},
        {"a,b", 0, {NULL}, {0}},
        {"12:30 pm", 0, {NULL}, {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MixtureText m;
        Error error = {0};
        if (!mixture_parse(cases[i].text, &m, &error)) fail_msg("%s: %s", cases[i].text, error.text);
        assert_int_equal(m.sources, cases[i].sources);
        for (size_t s = 0; s < m.sources; s++) {
            assert_string_equal(m.pattern[s], cases[i].pattern[s]);
            assert_int_equal(m.parts[s], cases[i].parts[s]);
        }
        mixture_text_free(&m);
    }
}

static void a_mixture_that_is_none_is_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a:0.7,b", "'b' has no weight"},    {"a:0.7,b:x", "weight 'x' of 'b:x' is no positive"},
        {"a:0", "weight '0' is not above 0"},      {"a:-1,b:2", "weight '-1' is no positive"},
        {"a:1e3,b:2", "weight '1e3' is no"}, {"a:1,:2", "a weight without a source"},   {"a:1,", "ends with a comma"},
        {"a:1.2.3,b:1", "weight '1.2.3'"},   {"a:1,b:0.0000000001", "or 9 behind"},     {"a:1234567890123456,b:1", "more than 15 digits"},
        {"a:123456789012345,b:0.000000001", "differ too much"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        MixtureText m;
        Error error = {0};
        if (mixture_parse(cases[i][0], &m, &error)) fail_msg("%s is let in", cases[i][0]);
        assert_says(&error, cases[i][1]);
        assert_int_equal(m.sources, 0);
    }
    char text[8 * TURNS_SOURCES_MOST + 8] = "";
    for (int i = 0; i <= TURNS_SOURCES_MOST; i++) strcat(text, i ? ",a:1" : "a:1");
    MixtureText m;
    Error error = {0};
    assert_false(mixture_parse(text, &m, &error));
    assert_says(&error, "more than 256 sources");
    text[strlen(text) - 4] = '\0';
    assert_true(mixture_parse(text, &m, &error) && m.sources == TURNS_SOURCES_MOST);
    mixture_text_free(&m);
}

/* Weights whose ratio takes more parts than there are: the nearest of 2^20, none of them 0. */
static void weights_of_many_digits_come_as_near_as_a_millionth(void **state) {
    (void)state;
    MixtureText m;
    Error error = {0};
    assert_true(mixture_parse("a:0.333333333,b:0.666666666,c:0.000000001", &m, &error));
    assert_int_equal(m.parts[0] + m.parts[1] + m.parts[2], TURNS_MOST);
    assert_int_equal(m.parts[2], 1);
    assert_true(m.parts[0] - TURNS_MOST / 3 <= 1 && TURNS_MOST / 3 * 2 + 1 - m.parts[1] <= 2);
    mixture_text_free(&m);
    assert_true(mixture_parse("a:99999999999,b:1,c:1,d:1", &m, &error));
    assert_true(m.parts[0] == TURNS_MOST - 3 && m.parts[1] == 1 && m.parts[2] == 1 && m.parts[3] == 1);
    mixture_text_free(&m);
}

/* ---- the set and its order ---- */

enum { T = 8 };

/* Two sources of three shards, whose tokens say where they stand: source · 1000 + window. */
static void write_sources(void) {
    static const uint32_t windows[] = {20, 11, 7};
    static const char *const names[] = {"web_0.bin", "web_1.bin", "books.bin"};
    for (uint32_t s = 0; s < 3; s++) {
        uint32_t tokens[256];
        for (uint32_t i = 0; i <= windows[s] * T; i++) tokens[i] = (s == 2) * 1000 + (s == 1) * 20 + i / T;
        write_shard(names[s], tokens, windows[s] * T + 1);
    }
}

static void open_mixture(ShardSet *set, const char *weights) {
    char text[256];
    double a, b;
    Error error = {0};
    assert_int_equal(sscanf(weights, "%lf %lf", &a, &b), 2);
    snprintf(text, sizeof text, "%s/web_*.bin:%g,%s/books.bin:%g", folder, a, folder, b);
    if (!mixture_open(set, text, &error)) fail_msg("%s", error.text);
}

static LoaderConfig config_of(const ShardSet *set) {
    return (LoaderConfig){.set = set, .B = 4, .T = T, .micro_steps = 3, .n_ranks = 1, .seed = 5, .vocab = 2000, .shuffle = true};
}

/* The first token of each of `count` rows, in the order of positions, as so many ranks and micro-steps deliver them. */
static void firsts(const ShardSet *set, uint64_t n_ranks, uint64_t micro_steps, uint64_t count, uint32_t *out) {
    uint32_t tokens[24 * T], targets[24 * T];
    LoaderConfig config = config_of(set);
    config.n_ranks = n_ranks, config.micro_steps = micro_steps, config.B = 24 / (n_ranks * micro_steps);
    for (config.rank = 0; config.rank < n_ranks; config.rank++) {
        Loader *loader = must_open(&config);
        for (uint64_t k = 0; k < count / 24 * micro_steps; k++) {
            Batch batch = {.tokens = tokens, .targets = targets};
            must_next(loader, &batch);
            for (size_t b = 0; b < config.B; b++) out[batch.first_position + b] = tokens[b * T];
        }
        loader_destroy(loader);
    }
}

static void each_source_has_its_own_epochs_whoever_reads(void **state) {
    (void)state;
    enum { COUNT = 240 };
    uint32_t all[COUNT], again[COUNT];
    ShardSet set;
    write_sources();
    open_mixture(&set, "0.7 0.3");
    assert_true(set.n_sources == 2 && set.n_shards == 3 && set.sources[1].first_shard == 2 && set.sources[0].parts == 7);
    firsts(&set, 1, 1, COUNT, all);
    static const uint64_t splits[][2] = {{2, 1}, {1, 24}, {4, 3}, {8, 1}};
    for (size_t i = 0; i < sizeof splits / sizeof *splits; i++) {
        firsts(&set, splits[i][0], splits[i][1], COUNT, again);
        assert_memory_equal(all, again, sizeof all);
    }
    /* 168 of web: five epochs of 31 and 13 more; 72 of books: ten of 7 and two. Each epoch holds every window once. */
    uint32_t from[2] = {0}, windows[] = {31, 7};
    uint64_t seen[2] = {0};
    for (int i = 0; i < COUNT; i++) {
        const int source = all[i] >= 1000;
        const uint64_t bit = UINT64_C(1) << (all[i] % 1000);
        if (from[source]++ % windows[source] == 0) seen[source] = 0;
        assert_false(seen[source] & bit);
        seen[source] |= bit;
    }
    assert_true(from[0] == 168 && from[1] == 72);
    shard_set_close(&set);
}

/* The first source comes in the order that it has alone, and the second in another than the first's. */
static void a_sources_order_is_the_one_that_it_has_alone(void **state) {
    (void)state;
    ShardSet set, web, twins;
    WindowOrder mixed, alone;
    Error error = {0};
    write_sources();
    open_mixture(&set, "2 1");
    assert_true(shard_set_open(&web, in_folder("web_*.bin"), &error));
    assert_true(order_create(&mixed, &set, T, 5, true, NULL, &error) && order_create(&alone, &web, T, 5, true, NULL, &error));
    assert_true(mixed.n_windows == 38 && alone.n_windows == 31);
    uint64_t at = 0;
    for (uint64_t i = 0; i < 300; i++) {
        const WindowPlace place = order_at(&mixed, i);
        if (place.source) continue;
        const WindowPlace same = order_at(&alone, at++);
        assert_true(place.window == same.window && place.epoch == same.epoch && place.shard == same.shard);
    }
    assert_int_equal(at, 200);
    order_destroy(&mixed), order_destroy(&alone);
    shard_set_close(&set), shard_set_close(&web);

    char text[256];
    snprintf(text, sizeof text, "%s/web_0.bin:1,%s/web_0.bin:1", folder, folder);
    assert_true(mixture_open(&twins, text, &error));
    assert_true(order_create(&mixed, &twins, T, 5, true, NULL, &error));
    int same = 0;
    for (uint64_t i = 0; i < 20; i++) same += order_at(&mixed, 2 * i).first_token == order_at(&mixed, 2 * i + 1).first_token;
    assert_true(same < 10);
    order_destroy(&mixed);
    shard_set_close(&twins);
}

static void a_source_without_a_window_is_named(void **state) {
    (void)state;
    const uint32_t few[T] = {0};
    ShardSet set;
    WindowOrder order;
    Error error = {0};
    char text[256];
    write_sources();
    write_shard("few.bin", few, T);
    snprintf(text, sizeof text, "%s/web_*.bin:1,%s/few.bin:1", folder, folder);
    assert_true(mixture_open(&set, text, &error));
    assert_false(order_create(&order, &set, T, 5, true, NULL, &error));
    assert_says(&error, "the largest of 1, ");
    assert_says(&error, "few.bin, has 8");
    shard_set_close(&set);
    snprintf(text, sizeof text, "%s/web_*.bin:1,%s/absent_*.bin:1", folder, folder);
    assert_false(mixture_open(&set, text, &error));
    assert_says(&error, "absent_*.bin'");
    assert_true(set.n_shards == 0 && !set.sources);
}

static void what_exists_under_that_name_is_no_mixture(void **state) {
    (void)state;
    const uint32_t tokens[20] = {0};
    ShardSet set;
    Error error = {0};
    write_shard("web:0.7,books:0.3", tokens, 20);
    assert_true(mixture_open(&set, in_folder("web:0.7,books:0.3"), &error));
    assert_true(set.n_shards == 1 && set.n_sources == 0);
    shard_set_close(&set);
}

#define SHA "012345678901234567890123456789012345678901234567890123456789012"

static void sources_of_two_tokenizers_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *a, *b, *says; /* NULL: nothing */
    } cases[] = {
        {"{\"tokenizer\": \"bytes\", \"vocab_size\": 256}", "{\"tokenizer\": \"bytes\", \"vocab_size\": 256}", NULL},
        {"{\"tokenizer\": \"t\", \"tokenizer_sha256\": \"" SHA "a\"}", "{\"tokenizer\": \"t\", \"tokenizer_sha256\": \"" SHA "b\"}",
         "are of different tokenizers"},
        {"{\"vocab_size\": 256}", "{\"vocab_size\": 512}", "are of different tokenizers"},
        {"{\"tokenizer\": \"t\"}", "{\"tokenizer\": \"t\", \"tokenizer_sha256\": \"" SHA "b\"}", NULL}, /* an older set */
        {"{\"tokenizer\": \"t\"}", "no JSON", NULL},
    };
    const uint32_t tokens[20] = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ShardSet set;
        Error error = {0};
        char text[256];
        write_shard("a_train_000000.bin", tokens, 20), write_shard("b_train_000000.bin", tokens, 20);
        write_bytes("a.json", cases[i].a, strlen(cases[i].a)), write_bytes("b.json", cases[i].b, strlen(cases[i].b));
        snprintf(text, sizeof text, "%s/a_train_*.bin:1,%s/b_train_*.bin:1", folder, folder);
        const bool good = mixture_open(&set, text, &error);
        if (good != !cases[i].says) fail_msg("%s, %s: %s", cases[i].a, cases[i].b, error.text);
        if (good) shard_set_close(&set);
        else assert_says(&error, cases[i].says);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_share_is_ever_off_by_a_whole_row),
        cmocka_unit_test(the_longest_period_and_the_farthest_position_are_found),
        cmocka_unit_test(a_text_names_sources_and_shares),
        cmocka_unit_test(a_mixture_that_is_none_is_refused),
        cmocka_unit_test(weights_of_many_digits_come_as_near_as_a_millionth),
        cmocka_unit_test(each_source_has_its_own_epochs_whoever_reads),
        cmocka_unit_test(a_sources_order_is_the_one_that_it_has_alone),
        cmocka_unit_test(a_source_without_a_window_is_named),
        cmocka_unit_test(what_exists_under_that_name_is_no_mixture),
        cmocka_unit_test(sources_of_two_tokenizers_are_refused),
    };
    return cmocka_run_group_tests_name("mixture", tests, make_folder, remove_folder);
}
