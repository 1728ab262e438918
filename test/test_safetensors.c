/* test_safetensors.c: does the parser of safetensors headers refuse what the format refuses, and survive
 * anything? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "../src/base/philox.h"
#include "../src/checkpoint/safetensors.h"

#include <cmocka.h> /* last: it makes fail() of check.h a macro */

/* Parses header text as if `data_bytes` followed, from memory of exactly its size. */
static bool parse_text_n(const char *text, size_t n, uint64_t data_bytes, SafetensorsHeader *header,
                         Error *error) {
    const uint64_t length = n;
    unsigned char *bytes = malloc(8 + n);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, text, n);
    error->text[0] = 0;
    const bool good = safetensors_parse(bytes, 8 + n, 8 + n + data_bytes, header, error);
    free(bytes);
    if (!good) {
        assert_true(error->text[0] && !strchr(error->text, '\n'));
        assert_true(header->tensors == NULL && header->json == NULL);
    }
    return good;
}

static bool parse_text(const char *text, uint64_t data_bytes, SafetensorsHeader *header, Error *error) {
    return parse_text_n(text, strlen(text), data_bytes, header, error);
}

static void assert_says(const Error *error, const char *part) {
    if (!strstr(error->text, part)) fail_msg("'%s' does not say '%s'", error->text, part);
}

#define TENSOR(name, dtype, shape, begin, end)                                                               \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static void header_is_read_in_the_order_of_its_data(void **state) {
    (void)state;
    SafetensorsHeader header;
    Error error;
    const char *text =
        "{" TENSOR("b", "F32", "[2,3]", 8, 32) ", "
                                               "\"__metadata__\":{\"format\":\"pt\",\"\\u00e9\":\"x\"},"
                                               "\n" TENSOR("a", "F64", "[]", 0, 8) "," TENSOR(
                                                   "none", "U16", "[5,0]", 32,
                                                   32) "," TENSOR("h\xc3\xa9", "BF16", "[1]", 32, 34) "}   ";
    if (!parse_text(text, 34, &header, &error)) fail_msg("%s", error.text);
    assert_int_equal(header.n_tensors, 4);
    assert_string_equal(header.tensors[0].name, "a");
    assert_true(header.tensors[0].n_dims == 0 && header.tensors[0].n_elements == 1);
    const SafetensorsTensor *b = safetensors_find(&header, "b");
    assert_true(b && b->dtype == SAFETENSORS_F32 && b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3);
    assert_true(b->n_elements == 6 && b->begin == 8 && b->end == 32);
    assert_int_equal(safetensors_find(&header, "none")->n_elements, 0);
    assert_non_null(safetensors_find(&header, "h\xc3\xa9"));
    assert_null(safetensors_find(&header, "c"));
    assert_string_equal(safetensors_metadata(&header, "format"), "pt");
    assert_string_equal(safetensors_metadata(&header, "\xc3\xa9"), "x");
    assert_null(safetensors_metadata(&header, "absent"));
    assert_int_equal(header.data_start, 8 + strlen(text));
    safetensors_header_free(&header);
    assert_true(parse_text("{}", 0, &header, &error));
    safetensors_header_free(&header);
    /* the largest numbers that are allowed: 2^53 − 1 bytes */
    assert_true(parse_text("{" TENSOR("w", "U8", "[9007199254740991]", 0, 9007199254740991) "}",
                           9007199254740991, &header, &error));
    assert_int_equal(header.tensors[0].end, 9007199254740991);
    safetensors_header_free(&header);
}

static void header_that_breaks_a_rule_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t data_bytes;
        const char *says;
    } cases[] = {
        {"", 0, "does not start with '{'"},
        {" {}", 0, "does not start with '{'"},
        {"[]", 0, "does not start with '{'"},
        {"{ ", 0, "not valid JSON"},
        {"{}}", 0, "not valid JSON"},
        {"{}{}", 0, "not valid JSON"},
        {"{} x", 0, "no place in a header"},
        {"{\"a\"}", 0, "not valid JSON"},
        {"{\"a\":3}", 0, "tensor 'a': not an object"},
        {"{\"a\":[]}", 0, "tensor 'a': not an object"},
        {"{\"a\":null}", 0, "no place in a header"},
        {"{\"a\":{}}", 0, "tensor 'a': no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "no data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "unknown field 'x'"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"dtype\":\"F32\"}}", 4,
         "dtype given twice"},
        {"{\"a\":{\"Dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "unknown field 'Dtype'"},
        {"{" TENSOR("a", "F33", "[1]", 0, 4) "}", 4, "unknown dtype 'F33'"},
        {"{" TENSOR("a", "f32", "[1]", 0, 4) "}", 4, "unknown dtype 'f32'"},
        {"{" TENSOR("a", "F32", "3", 0, 4) "}", 4, "shape is not a list"},
        {"{" TENSOR("a", "F32", "[[1]]", 0, 4) "}", 4, "nested more than 3 deep"},
        {"{" TENSOR("a", "F32", "[\"1\"]", 0, 4) "}", 4, "not an integer"},
        {"{" TENSOR("a", "F32", "[-1]", 0, 4) "}", 4, "no place in a header"},
        {"{" TENSOR("a", "F32", "[1.0]", 0, 4) "}", 4, "no place in a header"},
        {"{" TENSOR("a", "F32", "[1e0]", 0, 4) "}", 4, "no place in a header"},
        {"{" TENSOR("a", "F32", "[01]", 0, 4) "}", 4, "plain digits"},
        {"{" TENSOR("a", "F32", "[1,]", 0, 4) "}", 4, "not valid JSON"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) ",}", 4, "not valid JSON"},
        {"{" TENSOR("a", "U8", "[9007199254740992]", 0, 4) "}", 4, "not an integer below 2^53"},
        {"{" TENSOR("a", "U8", "[9007199254740993]", 0, 4) "}", 4, "not an integer below 2^53"},
        {"{" TENSOR("a", "U8", "[18446744073709551617]", 0, 4) "}", 4, "below 2^53"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296]", 0, 0) "}", 0, "more than 2^64 elements"},
        {"{" TENSOR("a", "F64", "[2147483648,1073741824]", 0, 0) "}", 0, "elements of F64"},
        {"{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1, "more than 8 dimensions"},
        {"{" TENSOR("a", "F32", "[2]", 0, 4) "}", 4, "2 elements of F32"},
        {"{" TENSOR("a", "F32", "[0]", 4, 0) "}", 4, "begin ≤ end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "begin ≤ end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "begin ≤ end"},
        {"{" TENSOR("a", "F32", "[1]", 4, 8) "}", 8,
         "'a' begins at byte 4 of the data, the one before ends at 0"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("b", "F32", "[1]", 8, 12) "}", 12,
         "'b' begins at byte 8"},
        {"{" TENSOR("a", "F32", "[2]", 0, 8) "," TENSOR("b", "F32", "[1]", 4, 8) "}", 8,
         "'b' begins at byte 4"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 5, "the tensors take 4 bytes, the file has 5"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "}", 3, "the tensors take 4 bytes, the file has 3"},
        {"{}", 1, "the file has 1"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("a", "F32", "[1]", 4, 8) "}", 8, "'a' given twice"},
        {"{" TENSOR("a", "F32", "[1]", 0, 4) "," TENSOR("\\u0061", "F32", "[1]", 4, 8) "}", 8,
         "'a' given twice"},
        {"{" TENSOR("a\\u0000b", "F32", "[1]", 0, 4) "}", 4, "a NUL in a string"},
        {"{" TENSOR("a\nb", "F32", "[1]", 0, 4) "}", 4, "control character"},
        {"{" TENSOR("a\\nb", "F33", "[1]", 0, 4) "}", 4, "tensor 'a?b'"},
        {"{" TENSOR("a\\x", "F32", "[1]", 0, 4) "}", 4, "not valid JSON"},
        {"{" TENSOR("\\ud800", "F32", "[1]", 0, 4) "}", 4, "not valid JSON"},
        {"{" TENSOR("\xff", "F32", "[1]", 0, 4) "}", 4, "not UTF-8"},
        {"{" TENSOR("\xc0\x80", "F32", "[1]", 0, 4) "}", 4, "not UTF-8"},
        {"{" TENSOR("\xed\xa0\x80", "F32", "[1]", 0, 4) "}", 4, "not UTF-8"},
        {"{" TENSOR("\xf4\x90\x80\x80", "F32", "[1]", 0, 4) "}", 4, "not UTF-8"},
        {"{\"a\xe2\x82", 0, "not UTF-8"},
        {"{\"a", 0, "without an end"},
        {"{\"a\\", 0, "without an end"},
        {"{\"__metadata__\":3}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"a\":3}}", 0, "__metadata__ 'a' is not a string"},
        {"{\"__metadata__\":{\"a\":{}}}", 0, "__metadata__ 'a' is not a string"},
        {"{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "__metadata__ 'a' given twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ given twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        SafetensorsHeader header;
        Error error;
        if (parse_text(cases[i].text, cases[i].data_bytes, &header, &error))
            fail_msg("accepted: %s", cases[i].text);
        assert_says(&error, cases[i].says);
    }
}

static void length_of_the_header_is_checked_before_it_is_believed(void **state) {
    (void)state;
    static const uint64_t lengths[] = {3, 100000001, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    SafetensorsHeader header;
    Error error;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        unsigned char bytes[10] = "\0\0\0\0\0\0\0\0{}";
        memcpy(bytes, &lengths[i], 8);
        assert_false(safetensors_parse(bytes, 10, 10, &header, &error));
    }
    for (size_t size = 0; size < 8; size++)
        assert_false(safetensors_parse("\2\0\0\0\0\0\0\0{}", size, size, &header, &error));
    assert_false(safetensors_parse("\2\0\0\0\0\0\0\0{}", 10, 9, &header, &error));
    /* A header that the file has, but the bytes at hand do not. */
    unsigned char *cut = memcpy(malloc(10), "\200\0\0\0\0\0\0\0{}", 10);
    assert_false(safetensors_parse(cut, 10, 1000, &header, &error));
    assert_says(&error, "the file ends before");
    free(cut);
    char *deep = malloc(2000000);
    memset(deep, '[', 2000000);
    memcpy(deep, "{\"a\":", 5);
    assert_false(parse_text_n(deep, 2000000, 0, &header, &error));
    assert_says(&error, "nested");
    free(deep);
}

/* Bytes flipped, replaced by JSON's own, cut out or doubled. What is accepted must be consistent. */
static void header_parser_survives_100000_mutations(void **state) {
    (void)state;
    static const char text[] =
        "{\"__metadata__\":{\"format\":\"pt\"}," TENSOR("wte", "F32", "[2,3]", 0, 24) "," TENSOR(
            "h.0.b", "BF16", "[4]", 24, 32) "," TENSOR("s\\u00e9", "I64", "[]", 32, 40) "} ";
    static const char favourites[] = "{}[]\",:0123456789\\ \0-.eu";
    int accepted = 0;
    for (uint64_t k = 0; k < 100000; k++) {
        char mutant[sizeof text + 64];
        size_t n = sizeof text - 1;
        uint64_t r[2];
        memcpy(mutant, text, n);
        philox_bits(99, 0, k, r);
        const int rounds = 1 + (int)(r[0] % 3);
        for (int m = 0; m < rounds; m++) {
            philox_bits(99, 1 + (uint64_t)m, k, r);
            const size_t at = r[0] % n, span = 1 + r[1] % 16;
            switch (r[0] >> 60 & 3) {
            case 0:
                mutant[at] ^= (char)(1 << (r[1] >> 32) % 8);
                break;
            case 1:
                mutant[at] = favourites[(r[1] >> 32) % (sizeof favourites - 1)];
                break;
            case 2:
                if (at + span < n) memmove(mutant + at, mutant + at + span, n - at - span), n -= span;
                break;
            default:
                if (at + span < n) memmove(mutant + at + span, mutant + at, n - at), n += span;
            }
        }
        SafetensorsHeader header;
        Error error;
        if (!parse_text_n(mutant, n, 40, &header, &error)) continue;
        accepted++;
        uint64_t end = 0;
        for (size_t i = 0; i < header.n_tensors; i++) {
            assert_int_equal(header.tensors[i].begin, end);
            end = header.tensors[i].end;
            assert_int_equal(end - header.tensors[i].begin,
                             header.tensors[i].n_elements * safetensors_dtype_bytes(header.tensors[i].dtype));
        }
        assert_int_equal(end, 40);
        safetensors_header_free(&header);
    }
    assert_true(accepted > 1000 && accepted < 90000);
}

/* cJSON's allocation number `failing` fails, and only that: an error, and nothing lost (under a sanitizer).
 */
static long allocations, failing;
static void *failing_malloc(size_t size) {
    return allocations++ == failing ? NULL : malloc(size);
}

static void memory_that_runs_out_is_an_error(void **state) {
    (void)state;
    cJSON_Hooks hooks = {failing_malloc, free};
    SafetensorsHeader header;
    Error error;
    cJSON_InitHooks(&hooks);
    failing = 0;
    for (bool good = false; !good; failing++) {
        allocations = 0;
        good = parse_text("{\"__metadata__\":{\"k\":\"v\"}," TENSOR("a", "F64", "[1]", 0, 8) "}", 8, &header,
                          &error);
        if (good) safetensors_header_free(&header);
    }
    cJSON_InitHooks(NULL);
    assert_true(failing > 10);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(header_is_read_in_the_order_of_its_data),
        cmocka_unit_test(header_that_breaks_a_rule_is_refused),
        cmocka_unit_test(length_of_the_header_is_checked_before_it_is_believed),
        cmocka_unit_test(header_parser_survives_100000_mutations),
        cmocka_unit_test(memory_that_runs_out_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
