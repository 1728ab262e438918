/*
 * bench_loader.c: how fast does the loader serve tokens that are in the page cache, and how fast do 1,000
 * shards open?
 *
 * Prints one JSON line per batch size. Writes 1,000 shards of 32,000 tokens (64 MB) into a temporary
 * directory and removes them. Shuffled, so that every window is in another file than the one before: the
 * worst case. Usage: bench_loader [SECONDS per line, default 0.5]
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../src/data/loader.h"
#include "../src/data/shard.h"

enum { SHARDS = 1000, TOKENS = 32000, T = 1024, VOCAB = 50257, MAX_B = 64 };

static char directory[] = "/tmp/bench_loader.XXXXXX";

static void shard_path(char path[64], int shard) {
    snprintf(path, 64, "%s/%04d.bin", directory, shard);
}

static void remove_shards(void) {
    char path[64];
    for (int s = 0; s < SHARDS; s++) {
        shard_path(path, s);
        unlink(path);
    }
    rmdir(directory);
}

static void write_shards(void) {
    const uint32_t header[SHARD_HEADER_BYTES / 4] = {20240520, 1, TOKENS};
    static uint16_t tokens[TOKENS];
    char path[64];
    require(mkdtemp(directory), "cannot make %s", directory);
    atexit(remove_shards);
    for (int s = 0; s < SHARDS; s++) {
        for (int i = 0; i < TOKENS; i++) tokens[i] = (uint16_t)((i * 2654435761u + (unsigned)s) % VOCAB);
        shard_path(path, s);
        FILE *file = fopen(path, "wb");
        require(file && fwrite(header, 1, sizeof header, file) == sizeof header &&
                    fwrite(tokens, 1, sizeof tokens, file) == sizeof tokens && fclose(file) == 0,
                "cannot write %s", path);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    static uint32_t tokens[MAX_B * T], targets[MAX_B * T];
    const double seconds = argc > 1 ? atof(argv[1]) : 0.5;
    char pattern[64];
    ShardSet set;
    Error error;
    write_shards();
    snprintf(pattern, sizeof pattern, "%s/*.bin", directory);
    const double opening = now();
    require(shard_set_open(&set, pattern, &error), "%s", error.text);
    const double open_s = now() - opening;
    for (size_t B = 4; B <= MAX_B; B *= 4) {
        Loader *loader = loader_create(
            &(LoaderConfig){
                .set = &set, .B = B, .T = T, .micro_steps = 1, .n_ranks = 1, .vocab = VOCAB, .shuffle = true},
            &error);
        require(loader, "%s", error.text);
        const double start = now();
        while (now() - start < seconds)
            require(loader_next(loader, &(Batch){.tokens = tokens, .targets = targets}, &error), "%s",
                    error.text);
        printf(
            "{\"bench\":\"loader\",\"B\":%zu,\"T\":%d,\"tokens_per_s\":%.0f,\"open_1000_shards_s\":%.4f}\n",
            B, T, (double)loader_tokens_served(loader) / (now() - start), open_s);
        loader_destroy(loader);
    }
    shard_set_close(&set);
    return 0;
}
