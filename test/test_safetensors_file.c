/*
 * test_safetensors.c: does the parser refuse what the format refuses, and do reader and writer agree to the
 * bit?
 *
 * Also the other side of test_safetensors_python.py:
 *   test_safetensors_file write FILE    writes the sample file
 *   test_safetensors_file print FILE    prints "NAME DTYPE VALUE VALUE …" per tensor, read as F64, and
 * "KEY=VALUE" per metadata pair
 */
#define _GNU_SOURCE
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "../src/base/philox.h"
#include "../src/checkpoint/safetensors.h"

#include <cmocka.h> /* last: it makes fail() of check.h a macro */

/* ---- helpers ---- */

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
    strcpy(directory, "/tmp/test_safetensors.XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    return system(command);
}

static void assert_says(const Error *error, const char *part) {
    if (!strstr(error->text, part)) fail_msg("'%s' does not say '%s'", error->text, part);
}

/* ---- conversion ---- */

/* The nearest of the two bf16 that enclose a value, and of two equally near the even one; by exact
 * differences. */
static uint16_t nearest_bf16(double value) {
    const float f = (float)value;
    uint32_t word, best = 0;
    memcpy(&word, &f, 4);
    double best_distance = INFINITY;
    for (int64_t candidate = (int64_t)(word >> 16) - 1; candidate <= (word >> 16) + 1; candidate++) {
        const uint32_t bits = (uint32_t)candidate << 16;
        float g;
        memcpy(&g, &bits, 4);
        const double distance = fabs((double)g - value);
        if (distance < best_distance || (distance == best_distance && candidate % 2 == 0))
            best_distance = distance, best = (uint32_t)candidate;
    }
    return (uint16_t)best;
}

static void bf16_is_rounded_once_to_the_nearest_even(void **state) {
    (void)state;
    for (uint64_t k = 0; k < 200000; k++) {
        uint64_t r[2];
        philox_bits(3, 0, k, r);
        /* near the middle between two bf16, at distances from far below a float's ulp to none */
        const uint32_t bits = ((uint32_t)r[0] & 0x80ff0000) + 0x3f008000;
        float middle;
        memcpy(&middle, &bits, 4);
        const double value =
            (double)middle * (1 + ((int)(r[1] % 3) - 1) * ldexp(1, -(int)(20 + r[1] / 3 % 32)));
        assert_int_equal(safetensors_bf16(value), nearest_bf16(value));
    }
    assert_int_equal(safetensors_bf16(0.0), 0);
    assert_int_equal(safetensors_bf16(-0.0), 0x8000);
    assert_int_equal(safetensors_bf16(1e300), 0x7f80);
    assert_int_equal(safetensors_bf16(-INFINITY), 0xff80);
    assert_int_equal(safetensors_bf16(3.38e38), 0x7f7e);
    assert_int_equal(safetensors_bf16(FLT_MAX), 0x7f80);
    assert_int_equal(safetensors_bf16(NAN) & 0x7fff, 0x7fc0);
    assert_int_equal(safetensors_bf16(0x1p-133), 1); /* the least subnormal */
    assert_int_equal(safetensors_bf16(0x1.8p-134), 1);
    assert_int_equal(safetensors_bf16(0x1p-134), 0);
}

/* ---- files ---- */

enum { N_SAMPLE = 12, SAMPLE_ROWS = 3, SAMPLE_COLUMNS = 5 };

static const SafetensorsEntry sample[N_SAMPLE] = {
    {"u8", SAFETENSORS_U8, 2, {3, 5}},   {"f32", SAFETENSORS_F32, 2, {3, 5}},
    {"f64", SAFETENSORS_F64, 2, {3, 5}}, {"bf16", SAFETENSORS_BF16, 2, {3, 5}},
    {"f16", SAFETENSORS_F16, 2, {3, 5}}, {"i64", SAFETENSORS_I64, 2, {3, 5}},
    {"i32", SAFETENSORS_I32, 2, {3, 5}}, {"u32", SAFETENSORS_U32, 2, {3, 5}},
    {"u16", SAFETENSORS_U16, 2, {3, 5}}, {"i8 \"quoted\"\n\xc3\xa9", SAFETENSORS_I8, 2, {3, 5}},
    {"scalar", SAFETENSORS_F64, 0, {0}}, {"empty", SAFETENSORS_F32, 2, {0, 7}},
};

/* Element i of sample tensor e: (i − 4)·0.25 for the floating-point ones, i·3 for unsigned, i − 4 for signed.
 */
static double sample_value(size_t e, size_t i) {
    switch (sample[e].dtype) {
    case SAFETENSORS_U8:
    case SAFETENSORS_U16:
    case SAFETENSORS_U32:
        return (double)i * 3;
    case SAFETENSORS_I8:
    case SAFETENSORS_I32:
    case SAFETENSORS_I64:
        return (double)i - 4;
    default:
        return ((double)i - 4) * 0.25;
    }
}

static size_t sample_count(size_t e) {
    return sample[e].n_dims == 0 ? 1 : (size_t)(sample[e].shape[0] * sample[e].shape[1]);
}

/* The bits of (i − 4)/4 in half precision, |i − 4| ≤ 10, put together by hand. */
static uint16_t sample_f16(double value) {
    int exponent;
    if (value == 0) return 0;
    const double fraction = frexp(fabs(value), &exponent); /* in [½, 1) */
    return (uint16_t)((value < 0 ? 0x8000 : 0) | (exponent + 14) << 10 | (int)((fraction * 2 - 1) * 1024));
}

static size_t sample_bytes(size_t e, unsigned char out[8 * 15]) {
    const size_t width = safetensors_dtype_bytes(sample[e].dtype), n = sample_count(e);
    for (size_t i = 0; i < n; i++) {
        const double value = sample_value(e, i);
        const float f = (float)value;
        const int64_t integer = (int64_t)value;
        const uint16_t half =
            sample[e].dtype == SAFETENSORS_F16 ? sample_f16(value) : safetensors_bf16(value);
        const void *from = sample[e].dtype == SAFETENSORS_F64   ? (const void *)&value
                           : sample[e].dtype == SAFETENSORS_F32 ? (const void *)&f
                           : sample[e].dtype <= SAFETENSORS_F16 ? (const void *)&half
                                                                : (const void *)&integer;
        memcpy(out + i * width, from, width);
    }
    return n * width;
}

static bool write_sample(const char *path, Error *error) {
    static const SafetensorsPair metadata[] = {{"format", "pt"}, {"quote", "a \"b\" \xc3\xa9\n"}};
    unsigned char bytes[8 * 15];
    SafetensorsWriter *writer = safetensors_writer_begin(path, sample, N_SAMPLE, metadata, 2, error);
    if (!writer) return false;
    for (size_t e = N_SAMPLE; e-- > 0;) { /* backwards, and in two pieces */
        const size_t n = sample_bytes(e, bytes), half = n / 3;
        if (!safetensors_writer_append(writer, e, bytes, half, error) ||
            !safetensors_writer_append(writer, e, bytes + half, n - half, error)) {
            safetensors_writer_abort(writer);
            return false;
        }
    }
    return safetensors_writer_finish(writer, error);
}

static void must_open(SafetensorsFile *file, const char *name) {
    Error error;
    if (!safetensors_open(file, in_directory(name), &error)) fail_msg("%s", error.text);
}

static void what_is_written_is_read_in_every_type(void **state) {
    (void)state;
    SafetensorsFile file;
    Error error;
    if (!write_sample(in_directory("sample"), &error)) fail_msg("%s", error.text);
    must_open(&file, "sample");
    assert_int_equal(file.header.n_tensors, N_SAMPLE);
    assert_int_equal(file.header.data_start % 8, 0);
    assert_string_equal(safetensors_metadata(&file.header, "quote"), "a \"b\" \xc3\xa9\n");
    for (size_t e = 0; e < N_SAMPLE; e++) {
        const SafetensorsTensor *tensor = safetensors_find(&file.header, sample[e].name);
        assert_non_null(tensor);
        assert_int_equal(tensor->begin % safetensors_dtype_bytes(tensor->dtype), 0);
        assert_memory_equal(tensor->shape, sample[e].shape, sizeof tensor->shape);
        for (uint64_t first = 0; first < tensor->n_elements; first += 4) {
            const uint64_t left = tensor->n_elements - first, n = left < 7 ? left : 7;
            double f64[7];
            float f32[7];
            uint16_t bf16[7];
            uint32_t u32[7];
            assert_true(safetensors_read(&file, tensor, first, n, SAFETENSORS_F64, f64, &error));
            assert_true(safetensors_read(&file, tensor, first, n, SAFETENSORS_F32, f32, &error));
            assert_true(safetensors_read(&file, tensor, first, n, SAFETENSORS_BF16, bf16, &error));
            const bool is_integer = tensor->dtype > SAFETENSORS_F16;
            const bool positive = is_integer && sample_value(e, first) >= 0;
            assert_int_equal(safetensors_read(&file, tensor, first, n, SAFETENSORS_U32, u32, &error),
                             positive);
            if (!positive)
                assert_says(&error, is_integer ? "is -4, which is no U32" : "cannot be read as U32");
            for (uint64_t i = 0; i < n; i++) {
                const double value = sample_value(e, first + i);
                assert_true(f64[i] == value && f32[i] == (float)value && bf16[i] == safetensors_bf16(value));
                if (positive) assert_true(u32[i] == value);
            }
        }
        assert_false(
            safetensors_read(&file, tensor, tensor->n_elements, 1, SAFETENSORS_F64, &(double){0}, &error));
        assert_false(safetensors_read(&file, tensor, UINT64_MAX, 2, SAFETENSORS_F64, &(double){0}, &error));
    }
    safetensors_close(&file);
    assert_int_not_equal(access(in_directory("sample.partial"), F_OK), 0);
}

static void integers_beyond_32_bits_are_no_tokens(void **state) {
    (void)state;
    static const int64_t values[] = {0, UINT32_MAX, INT64_C(1) << 32, -1};
    const SafetensorsEntry entry = {"t", SAFETENSORS_I64, 1, {4}};
    SafetensorsFile file;
    Error error;
    uint32_t tokens[2];
    SafetensorsWriter *writer = safetensors_writer_begin(in_directory("tokens"), &entry, 1, NULL, 0, &error);
    assert_true(safetensors_writer_append(writer, 0, values, sizeof values, &error));
    assert_true(safetensors_writer_finish(writer, &error));
    must_open(&file, "tokens");
    assert_true(safetensors_read(&file, file.header.tensors, 0, 2, SAFETENSORS_U32, tokens, &error));
    assert_true(tokens[0] == 0 && tokens[1] == UINT32_MAX);
    assert_false(safetensors_read(&file, file.header.tensors, 1, 2, SAFETENSORS_U32, tokens, &error));
    assert_says(&error, "tokens: tensor 't': element 2 is 4294967296, which is no U32");
    assert_false(safetensors_read(&file, file.header.tensors, 3, 1, SAFETENSORS_U32, tokens, &error));
    safetensors_close(&file);
}

static void file_that_is_none_is_refused_by_name(void **state) {
    (void)state;
    SafetensorsFile file;
    Error error;
    FILE *stream = fopen(in_directory("short"), "w");
    fwrite("\3\0\0\0\0\0\0\0{}", 1, 10, stream);
    fclose(stream);
    assert_false(safetensors_open(&file, in_directory("short"), &error));
    assert_says(&error, "short: a header of 3 bytes, the file ends before");
    assert_int_equal(truncate(in_directory("short"), 5), 0);
    assert_false(safetensors_open(&file, in_directory("short"), &error));
    assert_false(safetensors_open(&file, in_directory("absent"), &error));
    assert_says(&error, "absent: cannot open");
    assert_false(safetensors_open(&file, directory, &error));
    assert_says(&error, "not a regular file");
    assert_int_equal(mkfifo(in_directory("fifo"), 0600), 0);
    assert_false(safetensors_open(&file, in_directory("fifo"), &error));
    assert_says(&error, "not a regular file");
}

static void file_truncated_while_open_is_named_with_its_byte(void **state) {
    (void)state;
    SafetensorsFile file;
    Error error;
    double values[15];
    float floats[15];
    assert_true(write_sample(in_directory("cut"), &error));
    must_open(&file, "cut");
    const SafetensorsTensor *tensor = safetensors_find(&file.header, "f64");
    assert_int_equal(truncate(in_directory("cut"), (off_t)(file.header.data_start + tensor->begin + 17)), 0);
    assert_false(safetensors_read(&file, tensor, 0, 15, SAFETENSORS_F64, values, &error));
    assert_says(&error, "cut: tensor 'f64': byte ");
    assert_says(&error, "the file ends here");
    assert_false(safetensors_read(&file, tensor, 0, 15, SAFETENSORS_F32, floats, &error));
    safetensors_close(&file);
}

/* 5 GiB that take no room: only the two ends are written. */
static void files_beyond_4_GiB_are_read_and_written(void **state) {
    (void)state;
    const uint64_t large = UINT64_C(5) << 30;
    const SafetensorsEntry entries[] = {{"large", SAFETENSORS_U8, 1, {large}},
                                        {"after", SAFETENSORS_U8, 1, {3}}};
    SafetensorsFile file;
    Error error;
    double values[3];
    SafetensorsWriter *writer = safetensors_writer_begin(in_directory("large"), entries, 2, NULL, 0, &error);
    assert_non_null(writer);
    assert_true(safetensors_writer_append(writer, 1, "abc", 3, &error));
    assert_int_equal(rename(in_directory("large.partial"), in_directory("large")), 0);
    safetensors_writer_abort(writer);
    must_open(&file, "large");
    assert_true(safetensors_read(&file, safetensors_find(&file.header, "after"), 0, 3, SAFETENSORS_F64,
                                 values, &error));
    assert_true(values[0] == 'a' && values[1] == 'b' && values[2] == 'c');
    assert_true(safetensors_read(&file, safetensors_find(&file.header, "large"), large - 3, 3,
                                 SAFETENSORS_F64, values, &error));
    assert_true(values[0] == 0 && values[2] == 0);
    safetensors_close(&file);
    unlink(in_directory("large"));
}

/* A limit on file size stands for a full disk: write fails in the same way, with another errno. */
static void failed_write_is_reported_and_leaves_the_old_file_alone(void **state) {
    (void)state;
    const SafetensorsEntry entry = {"w", SAFETENSORS_F32, 1, {100000}};
    static float data[100000];
    struct rlimit before, low;
    Error error;
    SafetensorsFile file;
    assert_true(write_sample(in_directory("kept"), &error));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    low = before, low.rlim_cur = 200000;
    for (int where = 0; where < 2; where++) {
        if (where == 1) low.rlim_cur = 10; /* not even the header */
        setrlimit(RLIMIT_FSIZE, &low);
        SafetensorsWriter *writer =
            safetensors_writer_begin(in_directory("kept"), &entry, 1, NULL, 0, &error);
        if (where == 0) {
            assert_non_null(writer);
            assert_false(safetensors_writer_append(writer, 0, data, sizeof data, &error));
            assert_says(&error, "kept: tensor 'w': byte ");
            assert_false(safetensors_writer_append(writer, 0, data, 4, &error));
            assert_false(safetensors_writer_finish(writer, &error));
        } else {
            assert_null(writer);
        }
        setrlimit(RLIMIT_FSIZE, &before);
        assert_says(&error, "cannot write: File too large");
        assert_int_not_equal(access(in_directory("kept.partial"), F_OK), 0);
    }
    must_open(&file, "kept");
    assert_int_equal(file.header.n_tensors, N_SAMPLE);
    safetensors_close(&file);
}

static void writer_refuses_what_makes_no_valid_file(void **state) {
    (void)state;
    static const struct {
        SafetensorsEntry entries[2];
        const char *says;
    } cases[] = {
        {{{"a", SAFETENSORS_F32, 1, {1}}, {"a", SAFETENSORS_F32, 1, {1}}}, "given twice"},
        {{{"a", SAFETENSORS_F32, 1, {1}}, {"\xff", SAFETENSORS_F32, 1, {1}}}, "not UTF-8"},
        {{{"a", SAFETENSORS_F32, 1, {1}}, {"__metadata__", SAFETENSORS_F32, 1, {1}}}, "is not a string"},
        {{{"a", SAFETENSORS_F32, 9, {1}}, {"b", SAFETENSORS_F32, 1, {1}}}, "9 dimensions"},
        {{{"a", SAFETENSORS_F32, 2, {1ull << 40, 1ull << 40}}, {"b", SAFETENSORS_F32, 1, {1}}},
         "more than 2^64"},
        {{{"a", SAFETENSORS_U8, 1, {1ull << 60}}, {"b", SAFETENSORS_F32, 1, {1}}}, "below 2^53"},
    };
    Error error;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_null(safetensors_writer_begin(in_directory("refused"), cases[i].entries, 2, NULL, 0, &error));
        assert_says(&error, cases[i].says);
        assert_int_not_equal(access(in_directory("refused.partial"), F_OK), 0);
    }
    assert_null(safetensors_writer_begin(in_directory("no/such/folder"), sample, 1, NULL, 0, &error));
    assert_says(&error, "cannot create");
    for (int how = 0; how < 3; how++) {
        SafetensorsWriter *writer =
            safetensors_writer_begin(in_directory("refused"), sample, 1, NULL, 0, &error);
        assert_non_null(writer);
        if (how == 0) assert_false(safetensors_writer_append(writer, 0, "0123456789abcdef", 16, &error));
        if (how == 1) assert_false(safetensors_writer_append(writer, 1, "0", 1, &error));
        if (how == 2) assert_true(safetensors_writer_append(writer, 0, "0123456789", 10, &error));
        assert_false(safetensors_writer_finish(writer, &error));
        assert_says(&error, how == 0   ? "only 15 are left"
                            : how == 1 ? "tensor 1 of 1"
                                       : "10 of 15 bytes written");
        assert_int_not_equal(access(in_directory("refused"), F_OK), 0);
        assert_int_not_equal(access(in_directory("refused.partial"), F_OK), 0);
    }
}

/* cJSON's allocation number `failing` fails, and only that: an error, no file, and nothing lost (under a
 * sanitizer). */
static long allocations, failing;
static void *failing_malloc(size_t size) {
    return allocations++ == failing ? NULL : malloc(size);
}

static void writer_that_runs_out_of_memory_leaves_nothing(void **state) {
    (void)state;
    cJSON_Hooks hooks = {failing_malloc, free};
    SafetensorsFile file;
    Error error;
    cJSON_InitHooks(&hooks);
    failing = 0;
    for (bool good = false; !good; failing++) {
        allocations = 0;
        good = write_sample(in_directory("starved"), &error);
        if (!good) assert_int_not_equal(access(in_directory("starved"), F_OK), 0);
    }
    cJSON_InitHooks(NULL);
    assert_true(failing > 100);
    must_open(&file, "starved");
    assert_true(file.header.n_tensors == N_SAMPLE && file.header.n_metadata == 2);
    safetensors_close(&file);
}

/* ---- the other side of test_safetensors_python.py ---- */

static int print_file(const char *path, Error *error) {
    SafetensorsFile file;
    bool good = safetensors_open(&file, path, error);
    for (size_t t = 0; good && t < file.header.n_tensors; t++) {
        const SafetensorsTensor *tensor = &file.header.tensors[t];
        double *values = must_malloc(tensor->n_elements * 8, tensor->name);
        good = safetensors_read(&file, tensor, 0, tensor->n_elements, SAFETENSORS_F64, values, error);
        printf("%s %s", tensor->name, safetensors_dtype_name(tensor->dtype));
        for (uint64_t i = 0; good && i < tensor->n_elements; i++) printf(" %.17g", values[i]);
        printf("\n");
        free(values);
    }
    for (size_t i = 0; good && i < file.header.n_metadata; i++)
        printf("%s=%s\n", file.header.metadata[i].key, file.header.metadata[i].value);
    safetensors_close(&file);
    return good;
}

static int serve_python(const char *command, const char *path) {
    Error error = {.text = "usage: test_safetensors_file [write|print FILE]"};
    const bool good = strcmp(command, "print") == 0   ? print_file(path, &error)
                      : strcmp(command, "write") == 0 ? write_sample(path, &error)
                                                      : false;
    if (!good) fprintf(stderr, "%s\n", error.text);
    return !good;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_is_rounded_once_to_the_nearest_even),
        cmocka_unit_test(what_is_written_is_read_in_every_type),
        cmocka_unit_test(integers_beyond_32_bits_are_no_tokens),
        cmocka_unit_test(file_that_is_none_is_refused_by_name),
        cmocka_unit_test(file_truncated_while_open_is_named_with_its_byte),
        cmocka_unit_test(files_beyond_4_GiB_are_read_and_written),
        cmocka_unit_test(failed_write_is_reported_and_leaves_the_old_file_alone),
        cmocka_unit_test(writer_refuses_what_makes_no_valid_file),
        cmocka_unit_test(writer_that_runs_out_of_memory_leaves_nothing),
    };
    if (argc == 3) return serve_python(argv[1], argv[2]);
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
