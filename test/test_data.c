/* test_data.c: do shards, window order and loader deliver the right tokens, once, in an order that can be
 * entered anywhere? */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../src/data/loader.h"
#include "../src/data/order.h"
#include "../src/base/philox.h"
#include "../src/data/shard.h"

#include <cmocka.h> /* last: it makes fail() of check.h a macro */

enum { MAGIC16 = 20240520, MAGIC32 = 20240801 };

/* ---- helpers ---- */

/* The program's own pread, so that a test can make it short or interrupted. */
static bool pread_stutters;

ssize_t pread(int fd, void *out, size_t count, off_t offset) {
    static _Atomic unsigned calls;
    if (pread_stutters) {
        if (++calls % 3 == 0) {
            errno = EINTR;
            return -1;
        }
        if (count > 7) count = 7;
    }
    return syscall(SYS_pread64, fd, out, count, offset);
}

static char directory[64], path_buffer[4][128];

/* Up to four at a time. */
static const char *in_directory(const char *name) {
    static int next;
    next = (next + 1) % 4;
    snprintf(path_buffer[next], sizeof path_buffer[next], "%s/%s", directory, name);
    return path_buffer[next];
}

static int make_directory(void **state) {
    (void)state;
    strcpy(directory, "/tmp/test_data.XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

/* Token i of shard number s, all below 60000. */
static uint32_t token_of(uint32_t s, uint64_t i) {
    return (uint32_t)((i * 2654435761u + s * 40503u + 12345) % 60000);
}

static void write_file(const char *name, uint32_t magic, uint32_t version, uint32_t count, uint32_t s,
                       uint64_t n) {
    uint32_t header[256] = {magic, version, count};
    FILE *file = fopen(in_directory(name), "wb");
    assert_non_null(file);
    fwrite(header, 1, sizeof header, file);
    for (uint64_t i = 0; i < n; i++) {
        const uint32_t token = token_of(s, i);
        fwrite(&token, magic == MAGIC32 ? 4 : 2, 1, file);
    }
    assert_int_equal(fclose(file), 0);
}

static void write_shard(const char *name, uint32_t magic, uint32_t s, uint32_t n) {
    write_file(name, magic, magic == MAGIC16 ? 1 : 7, n, s, n);
}

static void poke(const char *name, off_t offset, const void *bytes, size_t n) {
    const int fd = open(in_directory(name), O_WRONLY);
    assert_int_equal(pwrite(fd, bytes, n, offset), n);
    close(fd);
}

/* Four shards of both widths, one without a window at T = 16. */
static const uint32_t standard_sizes[] = {1000, 33, 5, 2001};

static void standard_set(ShardSet *set) {
    Error error;
    write_shard("std_0.bin", MAGIC16, 0, standard_sizes[0]);
    write_shard("std_1.bin", MAGIC32, 1, standard_sizes[1]);
    write_shard("std_2.bin", MAGIC16, 2, standard_sizes[2]);
    write_shard("std_3.bin", MAGIC16, 3, standard_sizes[3]);
    assert_true(shard_set_open(set, in_directory("std_*.bin"), &error));
}

#define assert_says(error, ...) assert_says_all((error), (const char *[]){__VA_ARGS__, NULL})

static void assert_says_all(const Error *error, const char **parts) {
    for (; *parts; parts++)
        if (!strstr(error->text, *parts)) fail_msg("'%s' does not say '%s'", error->text, *parts);
    assert_null(strchr(error->text, '\n'));
}

/* ---- shards ---- */

static void header_of_both_formats_is_read(void **state) {
    (void)state;
    uint32_t words[256] = {MAGIC16, 1, 100};
    ShardHeader header;
    Error error;
    assert_true(shard_parse_header(words, 1024, 1224, &header, &error));
    assert_true(header.token_bytes == 2 && header.n_tokens == 100);
    words[0] = MAGIC32, words[1] = 7, words[2] = 0x7fffffff;
    assert_true(shard_parse_header(words, 1024, 1024 + 4 * UINT64_C(0x7fffffff), &header, &error));
    assert_true(header.token_bytes == 4 && header.n_tokens == 0x7fffffff);
}

static void header_that_is_wrong_is_refused_with_its_byte(void **state) {
    (void)state;
    static const struct {
        uint32_t magic, version, count;
        uint64_t file_size;
        const char *says;
    } cases[] = {
        {20240521, 1, 10, 1044, "byte 0: magic 20240521"},
        {MAGIC16, 7, 10, 1044, "byte 4: version 7"},
        {MAGIC32, 1, 10, 1064, "byte 4: version 1"},
        {MAGIC16, 1, 10, 1043, "should be 1044 bytes long; it is 1043"},
        {MAGIC16, 1, 10, 1046, "should be 1044 bytes long; it is 1046"},
        {MAGIC32, 7, 10, 1044, "should be 1064 bytes long; it is 1044"},
        {MAGIC16, 1, 0xffffffff, 1044, "byte 8: token count -1 is negative"},
        {MAGIC16, 1, 0x80000000, 1024, "byte 8: token count -2147483648 is negative"},
        {MAGIC16, 1, 0, 1023, "1023 bytes long"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const uint32_t words[256] = {cases[i].magic, cases[i].version, cases[i].count};
        ShardHeader header;
        Error error;
        assert_false(shard_parse_header(words, 1024, cases[i].file_size, &header, &error));
        assert_says(&error, cases[i].says);
    }
}

/* What is accepted must be right in every respect; the mutations are few enough that some are. */
static void header_parser_survives_100000_mutations(void **state) {
    (void)state;
    int accepted = 0;
    for (uint64_t k = 0; k < 100000; k++) {
        uint32_t words[256] = {k % 2 ? MAGIC16 : MAGIC32, k % 2 ? 1 : 7, 100};
        uint64_t r[2], file_size = k % 2 ? 1224 : 1424;
        philox_bits(5, 0, k, r);
        for (uint64_t m = 0; m < r[0] % 4; m++)
            ((uint8_t *)words)[(r[1] >> 16 * m) % 14] ^= (uint8_t)(1 << (r[0] >> 8 * (m + 1)) % 8);
        if (r[0] >> 60 == 0) file_size = r[1] >> r[0] % 64;
        uint8_t *exact = malloc(1024); /* where a sanitizer sees an access beyond it */
        memcpy(exact, words, 1024);
        ShardHeader header;
        Error error = {.text = ""};
        if (shard_parse_header(exact, 1024, file_size, &header, &error)) {
            accepted++;
            assert_true((words[0] == MAGIC16 && words[1] == 1 && header.token_bytes == 2) ||
                        (words[0] == MAGIC32 && words[1] == 7 && header.token_bytes == 4));
            assert_true(header.n_tokens == words[2] &&
                        file_size == 1024 + header.token_bytes * header.n_tokens);
        } else {
            assert_true(error.text[0]);
        }
        assert_false(shard_parse_header(exact, r[1] % 1024, file_size, &header, &error));
        free(exact);
    }
    assert_true(accepted > 10000 && accepted < 90000);
}

static void set_is_sorted_and_errors_name_the_file(void **state) {
    (void)state;
    ShardSet set;
    Error error;
    write_shard("s_b.bin", MAGIC32, 1, 20);
    write_shard("s_a.bin", MAGIC16, 0, 10);
    write_shard("s_C.bin", MAGIC16, 2, 0);
    assert_true(shard_set_open(&set, in_directory("s_?.bin"), &error));
    assert_true(set.n_shards == 3 && set.n_tokens == 30);
    assert_string_equal(set.shards[0].path, in_directory("s_C.bin"));
    assert_string_equal(set.shards[2].path, in_directory("s_b.bin"));
    shard_set_close(&set);

    assert_false(shard_set_open(&set, in_directory("absent_*.bin"), &error));
    assert_says(&error, "no file matches", "absent_*.bin");
    write_file("s_d.bin", MAGIC16, 2, 10, 0, 10);
    assert_false(shard_set_open(&set, in_directory("s_*.bin"), &error));
    assert_says(&error, "s_d.bin: byte 4: version 2");
    assert_int_equal(mkdir(in_directory("folder.bin"), 0700), 0);
    assert_false(shard_set_open(&set, in_directory("folder.bin"), &error));
    assert_says(&error, "folder.bin: a directory; name the shards in it");
    assert_int_equal(mkfifo(in_directory("fifo.bin"), 0600), 0);
    assert_false(shard_set_open(&set, in_directory("fifo.bin"), &error));
    assert_says(&error, "fifo.bin: not a regular file");
    assert_int_equal(symlink("nowhere", in_directory("dangling.bin")), 0);
    assert_false(shard_set_open(&set, in_directory("dangling.bin"), &error));
    assert_says(&error, "dangling.bin: cannot open: No such file");
    FILE *empty = fopen(in_directory("empty.bin"), "w");
    fclose(empty);
    assert_false(shard_set_open(&set, in_directory("empty.bin"), &error));
    assert_says(&error, "empty.bin: 0 bytes long");
}

/* Three times over all shards, in an order that never meets one twice in a row. */
static void read_all_over(ShardReader *reader, size_t most_open) {
    Error error;
    uint32_t token;
    for (uint32_t k = 0; k < 3000; k++) {
        const uint32_t s = k * 7 % 1000;
        shard_advise(reader, s, 0, 3);
        if (!shard_read(reader, s, 2, 1, 60000, &token, &error)) fail_msg("%s", error.text);
        assert_int_equal(token, token_of(s, 2));
        assert_true(shard_reader_n_open(reader) <= most_open);
    }
}

static void a_thousand_shards_open_in_a_second_and_within_the_descriptor_limit(void **state) {
    (void)state;
    struct rlimit before, low;
    struct timespec t0, t1;
    char name[32];
    ShardSet set;
    Error error;
    for (uint32_t s = 0; s < 1000; s++) {
        snprintf(name, sizeof name, "k_%04u.bin", s);
        write_shard(name, MAGIC16, s, 3);
    }
    getrlimit(RLIMIT_NOFILE, &before);
    low = before, low.rlim_cur = 64;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    assert_true(shard_set_open(&set, in_directory("k_*.bin"), &error));
    clock_gettime(CLOCK_MONOTONIC, &t1);
    assert_true((double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec) < 1);
    ShardReader *reader = shard_reader_create(&set);
    assert_int_equal(shard_reader_max_open(reader), 16);
    read_all_over(reader, 16);
    shard_reader_destroy(reader);
    /* Now six more than are open, which is fewer than the reader reckoned with: it must close some and go on.
     */
    reader = shard_reader_create(&set);
    const int lowest_free = dup(0);
    close(lowest_free);
    low.rlim_cur = (rlim_t)lowest_free + 6;
    setrlimit(RLIMIT_NOFILE, &low);
    read_all_over(reader, 6);
    shard_reader_destroy(reader);
    shard_set_close(&set);
    setrlimit(RLIMIT_NOFILE, &before);
}

static void tokens_of_both_widths_are_read_whatever_pread_does(void **state) {
    (void)state;
    ShardSet set;
    Error error;
    uint32_t *tokens = malloc(20000 * sizeof *tokens);
    write_shard("w_0.bin", MAGIC16, 0, 20000);
    write_shard("w_1.bin", MAGIC32, 1, 20000);
    assert_true(shard_set_open(&set, in_directory("w_*.bin"), &error));
    ShardReader *reader = shard_reader_create(&set);
    for (int stutter = 0; stutter < 2; stutter++) {
        pread_stutters = stutter;
        for (uint32_t s = 0; s < 2; s++) {
            memset(tokens, 0xff, 20000 * sizeof *tokens);
            assert_true(shard_read(reader, s, 3, 19997, 60000, tokens, &error));
            for (uint64_t i = 0; i < 19997; i++) assert_int_equal(tokens[i], token_of(s, i + 3));
        }
    }
    pread_stutters = false;
    assert_false(shard_read(reader, 0, 19999, 2, 60000, tokens, &error));
    assert_false(shard_read(reader, 0, UINT64_MAX, 2, 60000, tokens, &error));
    assert_false(shard_read(reader, 2, 0, 1, 60000, tokens, &error));
    shard_reader_destroy(reader);
    shard_set_close(&set);
    free(tokens);
}

static void token_beyond_the_vocabulary_is_named_with_file_and_byte(void **state) {
    (void)state;
    ShardSet set;
    Error error;
    uint32_t tokens[100];
    const uint32_t bad = 60000, worse = 0xffffffff;
    write_shard("v_0.bin", MAGIC16, 0, 100);
    write_shard("v_1.bin", MAGIC32, 1, 100);
    poke("v_0.bin", 1024 + 2 * 57, &bad, 2);
    poke("v_1.bin", 1024 + 4 * 31, &worse, 4);
    assert_true(shard_set_open(&set, in_directory("v_*.bin"), &error));
    ShardReader *reader = shard_reader_create(&set);
    assert_true(shard_read(reader, 0, 0, 57, 60000, tokens, &error));
    assert_false(shard_read(reader, 0, 10, 90, 60000, tokens, &error));
    assert_says(&error, "v_0.bin: byte 1138: token 60000, the vocabulary has 60000");
    assert_true(shard_read(reader, 0, 0, 100, 60001, tokens, &error));
    assert_false(shard_read(reader, 1, 0, 100, 60000, tokens, &error));
    assert_says(&error, "v_1.bin: byte 1148: token 4294967295");
    shard_reader_destroy(reader);
    shard_set_close(&set);
}

static void file_truncated_while_in_use_is_named_with_its_byte(void **state) {
    (void)state;
    ShardSet set;
    Error error;
    uint32_t tokens[100];
    write_shard("t_0.bin", MAGIC16, 0, 100);
    write_shard("t_1.bin", MAGIC16, 1, 100);
    assert_true(shard_set_open(&set, in_directory("t_*.bin"), &error));
    ShardReader *reader = shard_reader_create(&set);
    assert_true(shard_read(reader, 0, 0, 100, 60000, tokens, &error));
    assert_int_equal(truncate(in_directory("t_0.bin"), 1101), 0);
    assert_int_equal(truncate(in_directory("t_1.bin"), 1101), 0);
    assert_false(shard_read(reader, 0, 0, 100, 60000, tokens, &error));
    assert_says(&error, "t_0.bin: byte 1101: the file ends here");
    assert_false(shard_read(reader, 1, 0, 100, 60000, tokens, &error)); /* was not open yet */
    assert_says(&error, "t_1.bin: its size changed from 1224 to 1101");
    shard_reader_destroy(reader);
    shard_set_close(&set);
}

/* ---- the order ---- */

static void windows_cover_every_shard_at_stride_T_and_leftovers_are_counted(void **state) {
    (void)state;
    ShardSet set;
    WindowOrder order;
    Error error;
    standard_set(&set);
    assert_true(order_create(&order, &set, 16, 0, false, NULL, &error));
    /* 1000 = 62·16 + 1 + 7;  33 = 2·16 + 1;  5: none;  2001 = 125·16 + 1 */
    assert_int_equal(order.n_windows, 62 + 2 + 0 + 125);
    assert_int_equal(order.n_dropped_tokens, 7 + 0 + 5 + 0);
    uint64_t position = 0;
    for (uint64_t epoch = 0; epoch < 2; epoch++)
        for (size_t s = 0; s < 4; s++)
            for (uint64_t first = 0; first + 17 <= standard_sizes[s]; first += 16, position++) {
                const WindowPlace place = order_at(&order, position);
                assert_true(place.epoch == epoch && place.shard == s && place.first_token == first);
            }
    order_destroy(&order);
    assert_true(order_create(&order, &set, 2000, 0, true, NULL, &error));
    assert_int_equal(order.n_windows, 1);
    order_destroy(&order);
    assert_false(order_create(&order, &set, 2001, 0, true, NULL, &error));
    assert_says(&error, "needs 2002 tokens", "std_3.bin, has 2001");
    assert_false(order_create(&order, &set, 0, 0, true, NULL, &error));
    shard_set_close(&set);
}

/* ---- the loader ---- */

static LoaderConfig standard_config(const ShardSet *set) {
    return (LoaderConfig){.set = set,
                          .B = 3,
                          .T = 16,
                          .micro_steps = 4,
                          .n_ranks = 1,
                          .seed = 17,
                          .vocab = 60000,
                          .shuffle = true};
}

static Loader *must_create(const LoaderConfig *config) {
    Error error;
    Loader *loader = loader_create(config, &error);
    if (!loader) fail_msg("%s", error.text);
    return loader;
}

static void must_next(Loader *loader, Batch *batch) {
    Error error;
    if (!loader_next(loader, batch, &error)) fail_msg("%s", error.text);
}

static void batches_hold_the_windows_of_the_order_and_targets_are_shifted_by_one(void **state) {
    (void)state;
    uint32_t tokens[48], targets[48];
    ShardSet set;
    WindowOrder order;
    Error error;
    standard_set(&set);
    for (int shuffle = 0; shuffle < 2; shuffle++) {
        LoaderConfig config = standard_config(&set);
        config.shuffle = shuffle, config.depth = shuffle ? 1 : 5;
        Loader *loader = must_create(&config);
        assert_true(order_create(&order, &set, 16, 17, shuffle, NULL, &error));
        Batch batch = {.tokens = tokens, .targets = targets};
        for (uint64_t k = 0; k < 300; k++) {
            must_next(loader, &batch);
            assert_true(batch.step == k / 4 && batch.micro_step == k % 4 && batch.first_position == 3 * k);
            for (uint64_t b = 0; b < 3; b++) {
                const WindowPlace place = order_at(&order, 3 * k + b);
                for (uint64_t t = 0; t < 16; t++) {
                    assert_int_equal(tokens[b * 16 + t],
                                     token_of((uint32_t)place.shard, place.first_token + t));
                    assert_int_equal(targets[b * 16 + t],
                                     token_of((uint32_t)place.shard, place.first_token + t + 1));
                }
            }
        }
        assert_int_equal(loader_tokens_served(loader), 300 * 48);
        assert_int_equal(loader_windows_per_epoch(loader), 189);
        assert_int_equal(loader_tokens_dropped(loader), 12);
        order_destroy(&order);
        loader_destroy(loader);
    }
    shard_set_close(&set);
}

/* The first STEPS global batches of 24 windows of 16, as ranks × micro-steps × B deliver them, in the order
 * of positions. */
enum { STEPS = 20, GLOBAL = 24 };

static uint32_t *global_batches(const ShardSet *set, uint64_t n_ranks, uint64_t micro_steps,
                                uint64_t first_step) {
    uint32_t *all = malloc(STEPS * GLOBAL * 16 * sizeof *all), targets[GLOBAL * 16];
    LoaderConfig config = standard_config(set);
    config.n_ranks = n_ranks, config.micro_steps = micro_steps, config.first_step = first_step;
    config.B = GLOBAL / (n_ranks * micro_steps);
    for (config.rank = 0; config.rank < n_ranks; config.rank++) {
        Loader *loader = must_create(&config);
        for (uint64_t k = 0; k < STEPS * micro_steps; k++) {
            uint32_t tokens[GLOBAL * 16];
            Batch batch = {.tokens = tokens, .targets = targets};
            must_next(loader, &batch);
            memcpy(all + (batch.first_position - first_step * GLOBAL) * 16, tokens,
                   config.B * 16 * sizeof *all);
        }
        loader_destroy(loader);
    }
    return all;
}

static void global_batches_do_not_depend_on_ranks_and_micro_steps(void **state) {
    (void)state;
    static const uint64_t splits[][2] = {{1, 24}, {2, 1}, {2, 4}, {3, 2}, {4, 3}, {8, 1}, {24, 1}};
    ShardSet set;
    standard_set(&set);
    uint32_t *reference = global_batches(&set, 1, 1, 7);
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        uint32_t *other = global_batches(&set, splits[i][0], splits[i][1], 7);
        assert_memory_equal(reference, other, STEPS * GLOBAL * 16 * sizeof *other);
        free(other);
    }
    free(reference);
    shard_set_close(&set);
}

static void any_step_can_be_entered_at_once(void **state) {
    (void)state;
    uint32_t tokens[48], targets[48], *all = malloc(100 * sizeof tokens);
    ShardSet set;
    Error error;
    standard_set(&set);
    LoaderConfig config = standard_config(&set);
    Loader *loader = must_create(&config);
    for (size_t k = 0; k < 100; k++) must_next(loader, &(Batch){.tokens = all + 48 * k, .targets = targets});
    for (uint64_t step = 0; step < 25; step += 6) {
        config.first_step = step;
        Loader *resumed = must_create(&config);
        assert_true(loader_seek(loader, step, &error));
        for (uint64_t k = 4 * step; k < 100; k++) {
            must_next(resumed, &(Batch){.tokens = tokens, .targets = targets});
            assert_memory_equal(tokens, all + 48 * k, sizeof tokens);
            must_next(loader, &(Batch){.tokens = tokens, .targets = targets});
            assert_memory_equal(tokens, all + 48 * k, sizeof tokens);
        }
        loader_destroy(resumed);
    }
    assert_true(loader_seek(loader, UINT64_C(1) << 50, &error)); /* a million years of training */
    must_next(loader, &(Batch){.tokens = tokens, .targets = targets});
    assert_false(loader_seek(loader, UINT64_MAX / 2, &error));
    assert_false(loader_next(loader, &(Batch){.tokens = tokens, .targets = targets}, &error));
    loader_destroy(loader);
    shard_set_close(&set);
    free(all);
}

static void error_in_the_thread_comes_after_the_batches_before_it(void **state) {
    (void)state;
    uint32_t tokens[48], targets[48];
    const uint16_t bad = 60001;
    ShardSet set;
    Error error;
    standard_set(&set);
    poke("std_0.bin", 1024 + 2 * 500, &bad, 2); /* window 31 (and only it: 500 = 31·16 + 4), so batch 10 */
    LoaderConfig config = standard_config(&set);
    config.shuffle = false;
    Loader *loader = must_create(&config);
    for (int k = 0; k < 10; k++) must_next(loader, &(Batch){.tokens = tokens, .targets = targets});
    for (int again = 0; again < 3; again++) {
        assert_false(loader_next(loader, &(Batch){.tokens = tokens, .targets = targets}, &error));
        assert_says(&error, "std_0.bin: byte 2024: token 60001, the vocabulary has 60000");
    }
    assert_int_equal(loader_tokens_served(loader), 480);
    assert_true(loader_seek(loader, 0, &error));
    must_next(loader, &(Batch){.tokens = tokens, .targets = targets});
    loader_destroy(loader);

    loader = must_create(&config);
    assert_int_equal(truncate(in_directory("std_0.bin"), 1024 + 2 * 400), 0);
    int served = 0;
    while (loader_next(loader, &(Batch){.tokens = tokens, .targets = targets}, &error)) served++;
    assert_true(served <= 10); /* where exactly depends on how far it had read */
    assert_says(&error, "std_0.bin: ");
    loader_destroy(loader);
    shard_set_close(&set);
}

static void loader_ends_cleanly_at_any_moment(void **state) {
    (void)state;
    uint32_t tokens[48], targets[48];
    ShardSet set;
    standard_set(&set);
    LoaderConfig config = standard_config(&set);
    for (int i = 0; i < 200; i++) {
        config.depth = (size_t)(i % 5);
        Loader *loader = must_create(&config);
        for (int k = 0; k < i % 7; k++) must_next(loader, &(Batch){.tokens = tokens, .targets = targets});
        if (i % 3 == 0) usleep(50);
        loader_destroy(loader);
    }
    loader_destroy(NULL);
    shard_set_close(&set);
}

static void loader_refuses_what_makes_no_sense(void **state) {
    (void)state;
    uint32_t tokens[48], targets[48];
    ShardSet set;
    Error error;
    standard_set(&set);
    const LoaderConfig good = standard_config(&set);
    LoaderConfig bad;
    assert_null(loader_create((bad = good, bad.B = 0, &bad), &error));
    assert_null(loader_create((bad = good, bad.T = 0, &bad), &error));
    assert_null(loader_create((bad = good, bad.T = SIZE_MAX, &bad), &error));
    assert_null(loader_create((bad = good, bad.B = SIZE_MAX / 64, &bad), &error));
    assert_says(&error, "beyond memory");
    assert_null(loader_create((bad = good, bad.vocab = 0, &bad), &error));
    assert_null(loader_create((bad = good, bad.micro_steps = 0, &bad), &error));
    assert_null(loader_create((bad = good, bad.rank = 1, &bad), &error));
    assert_says(&error, "rank 1 of 1");
    assert_null(loader_create((bad = good, bad.first_step = UINT64_MAX, &bad), &error));
    assert_null(loader_create((bad = good, bad.T = 5000, &bad), &error));
    assert_says(&error, "needs 5001 tokens", "std_3.bin, has 2001");
    Loader *loader = must_create(&good);
    assert_false(loader_next(loader, &(Batch){.tokens = tokens, .targets = targets, .document_start = tokens},
                             &error));
    loader_destroy(loader);
    shard_set_close(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_of_both_formats_is_read),
        cmocka_unit_test(header_that_is_wrong_is_refused_with_its_byte),
        cmocka_unit_test(header_parser_survives_100000_mutations),
        cmocka_unit_test(set_is_sorted_and_errors_name_the_file),
        cmocka_unit_test(a_thousand_shards_open_in_a_second_and_within_the_descriptor_limit),
        cmocka_unit_test(tokens_of_both_widths_are_read_whatever_pread_does),
        cmocka_unit_test(token_beyond_the_vocabulary_is_named_with_file_and_byte),
        cmocka_unit_test(file_truncated_while_in_use_is_named_with_its_byte),
        cmocka_unit_test(windows_cover_every_shard_at_stride_T_and_leftovers_are_counted),
        cmocka_unit_test(batches_hold_the_windows_of_the_order_and_targets_are_shifted_by_one),
        cmocka_unit_test(global_batches_do_not_depend_on_ranks_and_micro_steps),
        cmocka_unit_test(any_step_can_be_entered_at_once),
        cmocka_unit_test(error_in_the_thread_comes_after_the_batches_before_it),
        cmocka_unit_test(loader_ends_cleanly_at_any_moment),
        cmocka_unit_test(loader_refuses_what_makes_no_sense),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
