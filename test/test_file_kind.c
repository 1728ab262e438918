/* test_file_kind.c: is a file that is none of ours called what it is, and does the guess read only what it was given? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../src/base/file_kind.h"
#include "../src/base/philox.h"

#include <cmocka.h>

#define BYTES(literal) literal, sizeof literal - 1

static const struct {
    const char *bytes;
    size_t size;
    const char *name; /* part of it; NULL: unknown */
    FileHolds holds;
} ROWS[] = {
    {BYTES("First Citizen:\nBefore we proceed any further, hear me speak.\n"), "text", FILE_HOLDS_TEXT},
    {BYTES("\xef\xbb\xbf" "Caf\xc3\xa9"), "text", FILE_HOLDS_TEXT},
    {BYTES("h\xe9llo, this is Latin-1"), "text that is not UTF-8", FILE_HOLDS_TEXT},
    {BYTES("\xff\xfeh\0i\0"), "UTF-16", FILE_HOLDS_OTHER},
    {BYTES("{\"text\": \"a\"}\n{\"text\": \"b\"}\n"), "JSON", FILE_HOLDS_TEXT},
    {BYTES("[\n  {\"text\": \"a\"}]"), "JSON", FILE_HOLDS_TEXT},
    {BYTES("[1] A footnote."), "text", FILE_HOLDS_TEXT},
    {BYTES("<!DOCTYPE html><html>"), "HTML", FILE_HOLDS_TEXT},
    {BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:00"), "Git LFS pointer", FILE_HOLDS_OTHER},
    {BYTES("\x1f\x8b\x08\0\0\0"), "gzip", FILE_HOLDS_TEXT},
    {BYTES("\xfd" "7zXZ\0\0\4"), "xz", FILE_HOLDS_TEXT},
    {BYTES("BZh91AY&SY"), "bzip2", FILE_HOLDS_TEXT},
    {BYTES("\x28\xb5\x2f\xfd\x04"), "zstd", FILE_HOLDS_TEXT},
    {BYTES("PAR1\x15\x04"), "Parquet", FILE_HOLDS_OTHER},
    {BYTES("\x93NUMPY\x01\0v\0{'descr'"), "numpy", FILE_HOLDS_OTHER},
    {BYTES("MMIDIDX\0\0\1\0\0\0"), "Megatron", FILE_HOLDS_OTHER},
    {BYTES("\x88\xd8\x34\x01\1\0\0\0"), "token shard (uint16)", FILE_HOLDS_SHARD},
    {BYTES("\xa1\xd9\x34\x01\7\0\0\0"), "token shard (uint32)", FILE_HOLDS_SHARD},
    {BYTES("\x01\x34\xd8\x88\0\0\0\1"), "other byte order", FILE_HOLDS_TOKENS},
    {BYTES("\xc6\xd7\x34\x01\3\0\0\0"), "GPT-2 model of llm.c", FILE_HOLDS_WEIGHTS},
    {BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x10\0\0\0archive/data.pkl"), "PyTorch", FILE_HOLDS_WEIGHTS},
    {BYTES("PK\3\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0a.npy"), "npz", FILE_HOLDS_OTHER},
    {BYTES("\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\2"), "PyTorch", FILE_HOLDS_WEIGHTS},
    {BYTES("\x80\4\x95\x0b\0\0\0\0\0\0\0}\x94"), "pickle", FILE_HOLDS_OTHER},
    {BYTES("GGUF\3\0\0\0"), "GGUF", FILE_HOLDS_WEIGHTS},
    {BYTES("\x12\0\0\0\0\0\0\0{\"a\":{\"dtype\":\"F32\""), "safetensors", FILE_HOLDS_WEIGHTS},
    {BYTES("\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), "nothing but zeros", FILE_HOLDS_OTHER},
    {BYTES("\x97\x1a\xfe\x93\xd2\xf1\x81\xee\x0f\xfa\x31\xc8\xb3\xe7\x99\xd5\x01\xf8\xe3\xf0\x88\xdd\x02\xe1"
           "\x97\x1a\xfe\x93\xd2\xf1\x81\xee\x0f\xfa\x31\xc8\xb3\xe7\x99\xd5\x01\xf8\xe3\xf0\x88\xdd\x02\xe1"),
     NULL, FILE_HOLDS_UNKNOWN},
    {BYTES(""), "empty", FILE_HOLDS_OTHER},
};
enum { N_ROWS = sizeof ROWS / sizeof *ROWS };

static void files_are_called_what_they_are(void **state) {
    (void)state;
    for (size_t i = 0; i < N_ROWS; i++) {
        FileKind kind = file_kind(ROWS[i].bytes, ROWS[i].size, ROWS[i].size);
        if (!kind.name != !ROWS[i].name || (kind.name && !strstr(kind.name, ROWS[i].name)) || kind.holds != ROWS[i].holds)
            fail_msg("row %zu: '%s', not '%s'", i, kind.name, ROWS[i].name);
    }
}

static void headerless_tokens_are_seen_in_both_widths(void **state) {
    (void)state;
    uint16_t narrow[512];
    uint32_t wide[256];
    for (uint32_t i = 0; i < 512; i++) narrow[i] = (uint16_t)(i * 7919 % 50257);
    for (uint32_t i = 0; i < 256; i++) wide[i] = i * 7919 % 128256;
    assert_non_null(strstr(file_kind(narrow, sizeof narrow, 1 << 20).name, "uint16, as of nanoGPT"));
    assert_non_null(strstr(file_kind(wide, sizeof wide, 1 << 20).name, "uint32"));
    narrow[100] = 65535; /* no vocabulary of 16 bits is as large */
    assert_null(file_kind(narrow, sizeof narrow, 1 << 20).name);
}

/* Prefixes and mutations of the rows in memory that ends with them (a sanitizer sees an access beyond). */
static void any_bytes_have_a_kind_or_none(void **state) {
    (void)state;
    for (uint64_t k = 0; k < 20000; k++) {
        uint64_t r[2];
        philox_bits(19, 0, k, r);
        size_t row = r[0] % N_ROWS, size = r[1] % (ROWS[row].size + 1);
        unsigned char *bytes = malloc(size + !size);
        memcpy(bytes, ROWS[row].bytes, size);
        if (size && r[0] >> 63) bytes[(r[0] >> 16) % size] ^= (unsigned char)(r[0] >> 40);
        FileKind kind = file_kind(bytes, size, r[0] >> 62 ? size : r[1]);
        assert_true(!kind.name == (kind.holds == FILE_HOLDS_UNKNOWN));
        free(bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_are_called_what_they_are),
        cmocka_unit_test(headerless_tokens_are_seen_in_both_widths),
        cmocka_unit_test(any_bytes_have_a_kind_or_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
