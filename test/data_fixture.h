/*
 * data_fixture.h: what the tests of data share: a folder, and shards of given tokens in it.
 */
#ifndef DATA_FIXTURE_H
#define DATA_FIXTURE_H

#include "../src/base/philox.h"
#include "../src/data/loader.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h> /* last: it makes fail() of check.h a macro */

static char folder[64];

static inline int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_rows.XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    char command[96];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* Up to four at a time. */
static inline const char *in_folder(const char *name) {
    static char paths[4][256];
    static int turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static inline void write_bytes(const char *name, const void *bytes, size_t size) {
    FILE *file = fopen(in_folder(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* llm.c's, of 16 bits a token. */
static inline void write_shard(const char *name, const uint32_t *tokens, size_t n) {
    unsigned char *bytes = calloc(1024 + 2 * n + 1, 1);
    const int32_t header[3] = {20240520, 1, (int32_t)n};
    memcpy(bytes, header, sizeof header);
    for (size_t i = 0; i < n; i++) memcpy(bytes + 1024 + 2 * i, &tokens[i], 2);
    write_bytes(name, bytes, 1024 + 2 * n);
    free(bytes);
}

/* A number below `below` that (key, i) chooses. */
static inline uint32_t drawn(uint64_t key, uint64_t i, uint32_t below) {
    return (uint32_t)(philox_uniform(11, key, i) * below);
}

static inline void assert_says(const Error *error, const char *part) {
    if (!strstr(error->text, part)) fail_msg("'%s' does not say '%s'", error->text, part);
    assert_null(strchr(error->text, '\n'));
}

static inline Loader *must_open(const LoaderConfig *config) {
    Error error = {0};
    Loader *loader = loader_create(config, &error);
    if (!loader) fail_msg("%s", error.text);
    return loader;
}

static inline void must_next(Loader *loader, Batch *batch) {
    Error error = {0};
    if (!loader_next(loader, batch, &error)) fail_msg("%s", error.text);
}

#endif
