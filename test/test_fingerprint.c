/*
 * test_fingerprint.c: does a fingerprint tell a set of shards from every other, say in what, and survive as text?
 * (src/data/fingerprint.h)
 */
#include "../src/data/fingerprint.h"
#include "../src/data/mixture.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, access("/dev/shm", W_OK) ? "/tmp/test_fingerprint_XXXXXX" : "/dev/shm/test_fingerprint_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* A shard of n tokens first, first + step, …, as uint16 or uint32. */
static void write_shard(const char *name, uint32_t n, uint32_t first, uint32_t step, bool wide) {
    char path[128];
    int32_t header[256] = {wide ? 20240801 : 20240520, wide ? 7 : 1, (int32_t)n};
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fwrite(header, sizeof header, 1, file);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = (first + i * step) % 50000;
        fwrite(&token, wide ? 4 : 2, 1, file);
    }
    assert_int_equal(fclose(file), 0);
}

static void open_set(ShardSet *set, const char *pattern) {
    char path[128];
    Error error = {0};
    snprintf(path, sizeof path, "%s/%s", folder, pattern);
    if (!shard_set_open(set, path, &error)) fail_msg("%s", error.text);
}

static Fingerprint print_of(const char *pattern) {
    ShardSet set;
    Fingerprint print;
    Error error = {0};
    open_set(&set, pattern);
    if (!fingerprint_take(&set, &print, &error)) fail_msg("%s", error.text);
    shard_set_close(&set);
    return print;
}

/* How the sets of two patterns differ: "" not at all. */
static const char *difference(const char *then, const char *now) {
    static char text[1024];
    Fingerprint before = print_of(then), after = print_of(now);
    ShardSet set;
    open_set(&set, now);
    if (!fingerprint_differs(&before, &after, &set, text, sizeof text)) text[0] = '\0';
    shard_set_close(&set);
    fingerprint_free(&before);
    fingerprint_free(&after);
    return text;
}

static void assert_differs(const char *then, const char *now, const char *says) {
    const char *text = difference(then, now);
    if (!strstr(text, says)) fail_msg("'%s' is not in: %s", says, text);
}

static void what_differs_is_named(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "a%u.bin", i), write_shard(name, 100 + i, i, 1, false);
        snprintf(name, sizeof name, "b%u.bin", i), write_shard(name, 100 + i, i, 1, false); /* the same, called otherwise */
        snprintf(name, sizeof name, "c%u.bin", i), write_shard(name, 100 + i, i + (i == 1), 1, false); /* one other */
        snprintf(name, sizeof name, "d%u.bin", i), write_shard(name, 100 + i + (i == 2), i, 1, false); /* one longer */
        snprintf(name, sizeof name, "e%u.bin", i), write_shard(name, 100 + i, i, 1, i == 0);       /* one wide */
        snprintf(name, sizeof name, "f%u.bin", i), write_shard(name, 102 - i, 2 - i, 1, false);    /* another order */
    }
    assert_string_equal(difference("a*.bin", "b*.bin"), "");
    assert_differs("a*.bin", "c*.bin", "shard 2 of 3, ");
    assert_differs("a*.bin", "c*.bin", "/c1.bin, holds other tokens");
    assert_differs("a*.bin", "d*.bin", "d2.bin, has 103 tokens of 2 bytes; it had 102 of 2");
    assert_differs("a*.bin", "e*.bin", "e0.bin, has 100 tokens of 4 bytes; it had 100 of 2");
    assert_differs("a*.bin", "f*.bin", "shard 1 of 3");
    assert_differs("a[01].bin", "a*.bin", "1 of 3 shards are new, at the end, the first of them ");
    assert_differs("a[12].bin", "a*.bin", "1 of 3 shards are new, the first of them ");
    assert_differs("a[12].bin", "a*.bin", "/a0.bin");
    assert_differs("a*.bin", "a[02].bin", "1 of 3 shards are missing, the first of them number 2, of 101 tokens");
    assert_differs("a[01].bin", "c*.bin", "shard 2 of 3");
}

static void one_token_of_a_small_shard_is_seen_and_of_a_large_one_those_at_its_samples(void **state) {
    (void)state;
    const uint32_t small = 32768, large = 1000000; /* 64 KiB, and 2 MB */
    write_shard("s.bin", small, 0, 3, false);
    write_shard("l.bin", large, 0, 3, false);
    Fingerprint before = print_of("s.bin"), large_before = print_of("l.bin");
    char path[128];
    for (uint32_t i = 0; i < 16; i++) {
        const uint32_t places[2] = {i * (small - 1) / 15, i < 8 ? i * 32 : large - 1 - (i - 8) * 32};
        for (int f = 0; f < 2; f++) {
            uint16_t token, other;
            snprintf(path, sizeof path, "%s/%s", folder, f ? "l.bin" : "s.bin");
            int fd = open(path, O_RDWR);
            assert_int_equal(pread(fd, &token, 2, 1024 + 2 * places[f]), 2);
            other = token ^ 1;
            assert_int_equal(pwrite(fd, &other, 2, 1024 + 2 * places[f]), 2);
            Fingerprint after = print_of(f ? "l.bin" : "s.bin");
            assert_true(after.checksum != (f ? large_before : before).checksum);
            fingerprint_free(&after);
            assert_int_equal(pwrite(fd, &token, 2, 1024 + 2 * places[f]), 2);
            close(fd);
        }
    }
    fingerprint_free(&before);
    fingerprint_free(&large_before);
}

static void as_text_it_comes_back_and_any_other_text_is_refused(void **state) {
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        char name[32];
        snprintf(name, sizeof name, "t%u.bin", i), write_shard(name, 90 * i, i, 1, i == 1); /* one of no tokens */
    }
    Fingerprint print = print_of("t*.bin"), again;
    Error error = {0};
    char *text = fingerprint_text(&print);
    assert_true(strstr(text, "tokenizer=? shards=3 tokens=270 crc64=") == text);
    if (!fingerprint_parse(text, &again, &error)) fail_msg("%s", error.text);
    assert_true(again.n_shards == 3 && again.checksum == print.checksum && again.shards[1].token_bytes == 4);
    fingerprint_free(&again);
    for (size_t i = 10; text[i]; i++) { /* the tokenizer's name is anybody's word */
        for (const char *c = "0 x=A\n"; *c; c++) {
            const char before = text[i];
            if (before == *c || (i == 10 && *c != ' ')) continue;
            text[i] = *c;
            if (fingerprint_parse(text, &again, &error)) fail_msg("taken: %s", text);
            text[i] = before;
        }
        char *cut = strndup(text, i), *longer = malloc(strlen(text) + 2);
        assert_false(fingerprint_parse(cut, &again, &error));
        snprintf(longer, strlen(text) + 2, "%.*s %s", (int)i, text, text + i);
        assert_false(fingerprint_parse(longer, &again, &error));
        free(cut), free(longer);
    }
    free(text);
    fingerprint_free(&print);
}

static Fingerprint print_of_mixture(const char *weights) {
    char text[512];
    uint32_t a, b;
    ShardSet set = {0};
    Fingerprint print = {0};
    Error error = {0};
    assert_int_equal(sscanf(weights, "%u %u", &a, &b), 2);
    snprintf(text, sizeof text, "%s/x*.bin:%u,%s/y0.bin:%u", folder, a, folder, b);
    if (!mixture_open(&set, text, &error) || !fingerprint_take(&set, &print, &error)) fail_msg("%s", error.text);
    shard_set_close(&set);
    return print;
}

static void the_shares_of_a_mixture_are_part_of_it(void **state) {
    (void)state;
    static const char *const WRONG[] = {"7x2,3x2",  "7x2",     "7x2,3x1,", "07x2,3x1", "0x2,3x1", "7x0,3x3", "7x2,,3x1",
                                        "7x2 ,3x1", "7x2,3x1,1x1", "-7x2,3x1", "7X2,3x1", "", "7x2;3x1", "99999999x2,3x1"};
    write_shard("x0.bin", 90, 0, 1, false), write_shard("x1.bin", 80, 1, 1, false), write_shard("y0.bin", 70, 2, 1, false);
    Fingerprint print = print_of_mixture("70 30"), same = print_of_mixture("7 3"), other = print_of_mixture("1 1"), again;
    ShardSet set;
    Error error = {0};
    char *text = fingerprint_text(&print), wrong[512], said[256];
    char *at = strstr(text, " mixture=7x2,3x1 90x2:");
    assert_non_null(at);
    if (!fingerprint_parse(text, &again, &error)) fail_msg("%s", error.text);
    assert_true(again.n_sources == 2 && again.sources[0].parts == 7 && again.sources[1].n_shards == 1);
    fingerprint_free(&again);
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++) {
        snprintf(wrong, sizeof wrong, "%.*s mixture=%s%s", (int)(at - text), text, WRONG[i], strstr(text, " 90x2:"));
        if (fingerprint_parse(wrong, &again, &error)) fail_msg("taken: %s", wrong);
    }
    open_set(&set, "[xy]*.bin");
    assert_false(fingerprint_differs(&print, &same, &set, said, sizeof said));
    assert_true(fingerprint_differs(&print, &other, &set, said, sizeof said));
    assert_string_equal(said, "the shares are 0.5 of 2 shards, 0.5 of 1 shard; they were 0.7 of 2 shards, 0.3 of 1 shard");
    for (size_t size = 1; size < 120; size++) { /* never more than there is room for */
        memset(said, '#', sizeof said);
        assert_true(fingerprint_differs(&print, &other, &set, said, size) && strlen(said) < size && said[size] == '#');
    }
    Fingerprint plain = print_of("[xy]*.bin");
    assert_true(fingerprint_differs(&print, &plain, &set, said, sizeof said));
    assert_non_null(strstr(said, "the shares are no mixture; they were 0.7"));
    shard_set_close(&set);
    free(text);
    fingerprint_free(&print), fingerprint_free(&same), fingerprint_free(&other), fingerprint_free(&plain);
}

/* What a set is of stands beside it, and says why its tokens are others. */
static void the_tokenizer_is_the_one_of_the_sets_json(void **state) {
    (void)state;
    char path[128];
    static const char *const NAMES[][3] = {{"bytes", "\"bytes\"", "one"}, {"a_b_c.json", "\"a b=c.json\"", "two"}, {"?", "3", "no"}};
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s_train_000000.bin", NAMES[i][2]);
        write_shard(path, 50 + (uint32_t)i, 1, 1, false);
        snprintf(path, sizeof path, "%s/%s.json", folder, NAMES[i][2]);
        FILE *file = fopen(path, "w");
        fprintf(file, "{\"tokenizer\": %s}\n", NAMES[i][1]);
        fclose(file);
        snprintf(path, sizeof path, "%s_train_*.bin", NAMES[i][2]);
        Fingerprint print = print_of(path);
        assert_string_equal(print.tokenizer, NAMES[i][0]);
        fingerprint_free(&print);
    }
    assert_differs("one_train_*.bin", "two_train_*.bin", "tokenizer bytes there, a_b_c.json here; shard 1 of 1");
}

static void beyond_its_list_it_tells_as_much_by_one_checksum(void **state) {
    (void)state;
    char name[32];
    for (uint32_t i = 0; i <= FINGERPRINT_LISTED; i++) snprintf(name, sizeof name, "m%04u.bin", i), write_shard(name, 2, i, 1, false);
    Fingerprint all = print_of("m*.bin"), again;
    Error error = {0};
    char *text = fingerprint_text(&all);
    assert_true(!all.shards && strlen(text) < 100);
    if (!fingerprint_parse(text, &again, &error)) fail_msg("%s", error.text);
    assert_true(again.checksum == all.checksum && again.n_shards == FINGERPRINT_LISTED + 1);
    free(text);
    write_shard("m0007.bin", 2, 9, 1, false);
    Fingerprint other = print_of("m*.bin");
    ShardSet set;
    char said[256];
    open_set(&set, "m*.bin");
    assert_true(fingerprint_differs(&all, &other, &set, said, sizeof said));
    assert_non_null(strstr(said, "4097 shards of 8194 tokens there, 4097 of 8194 here"));
    assert_false(fingerprint_differs(&other, &other, &set, said, sizeof said));
    shard_set_close(&set);
}

static void a_shard_that_cannot_be_read_is_named(void **state) {
    (void)state;
    char path[128];
    ShardSet set;
    Fingerprint print;
    Error error = {0};
    write_shard("gone.bin", 100, 0, 1, false);
    open_set(&set, "gone.bin");
    snprintf(path, sizeof path, "%s/gone.bin", folder);
    assert_int_equal(truncate(path, 1100), 0);
    assert_false(fingerprint_take(&set, &print, &error));
    assert_non_null(strstr(error.text, "gone.bin: byte 1024: cannot read: the file ends here"));
    assert_int_equal(unlink(path), 0);
    assert_false(fingerprint_take(&set, &print, &error));
    assert_non_null(strstr(error.text, "gone.bin: cannot open"));
    shard_set_close(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_differs_is_named),
        cmocka_unit_test(one_token_of_a_small_shard_is_seen_and_of_a_large_one_those_at_its_samples),
        cmocka_unit_test(as_text_it_comes_back_and_any_other_text_is_refused),
        cmocka_unit_test(the_shares_of_a_mixture_are_part_of_it),
        cmocka_unit_test(the_tokenizer_is_the_one_of_the_sets_json),
        cmocka_unit_test(beyond_its_list_it_tells_as_much_by_one_checksum),
        cmocka_unit_test(a_shard_that_cannot_be_read_is_named),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
