/*
 * fuzz_manifest.c: is an accepted manifest the one text for what it says? (src/checkpoint/manifest.h)
 *
 * The input is tried as it is, and again with the checksum in its last line put right, as no fuzzer finds one.
 */
#define _GNU_SOURCE
#include "fuzz.h"
#include "../../src/checkpoint/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CRC-64/XZ, bit by bit: src/base/checksum.c uses tables. */
static uint64_t crc64(const uint8_t *bytes, size_t size) {
    uint64_t crc = ~UINT64_C(0);
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? UINT64_C(0xc96c5795d7870f42) : 0);
    }
    return ~crc;
}

static void check_manifest(const Manifest *manifest, const uint8_t *data, size_t size) {
    char *text = manifest_text(manifest);
    PROMISE(strlen(text) == size && memcmp(text, data, size) == 0);
    free(text);
    PROMISE(fuzz_is_json(data, size, NULL));
    PROMISE(manifest->step >= 0 && manifest->count >= 0 && manifest->count <= MANIFEST_FILES_MOST);
    for (int i = 0; i < manifest->count; i++) {
        const char *name = manifest->files[i].name;
        PROMISE(name[0] && name[0] != '.' && strnlen(name, NAME_SIZE) < NAME_SIZE && !strchr(name, '/'));
        for (int j = 0; j < i && i < 200; j++) PROMISE(strcmp(name, manifest->files[j].name));
        PROMISE(manifest->files[i].bytes <= UINT64_C(1) << 53 && manifest_lists(manifest, name));
    }
}

static bool parse(const uint8_t *data, size_t size) {
    Manifest manifest;
    Error error = {0};
    const bool good = manifest_parse(fuzz_edge(data, size), size, &manifest, &error);
    if (good) check_manifest(&manifest, data, size);
    if (good) manifest_free(&manifest);
    else fuzz_check_error(&error);
    return good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char END[] = " \"crc64\": \"0123456789abcdef\"\n}\n";
    enum { LENGTH = sizeof END - 1 };
    if (parse(data, size) || size < LENGTH) return 0;
    uint8_t *copy = memcpy(malloc(size), data, size);
    char last[LENGTH + 1];
    snprintf(last, sizeof last, " \"crc64\": \"%016llx\"\n}\n", (unsigned long long)crc64(copy, size - LENGTH));
    memcpy(copy + size - LENGTH, last, LENGTH);
    parse(copy, size);
    free(copy);
    return 0;
}
