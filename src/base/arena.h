/*
 * arena.h: one allocation, cut into pieces.
 *
 * A layout function takes its tensors from an arena, twice: first from an empty one, which only counts, then
 * from one with memory behind it. So what --dry-run prints is what a run takes, by construction.
 */
#ifndef ARENA_H
#define ARENA_H

#include "../../kernels/kernels.h"
#include "check.h"

typedef struct Arena {
    char *base;  /* NULL while counting */
    size_t used; /* bytes, a multiple of 256 */
} Arena;

/* The next piece, 256-byte aligned; NULL while counting. */
static inline void *arena_take(Arena *arena, size_t bytes) {
    void *piece = arena->base ? arena->base + arena->used : NULL;
    check(bytes <= SIZE_MAX / 2 && arena->used <= SIZE_MAX / 2, "this model's buffers are beyond 2^63 bytes; "
                                                                "--batch-size, --n-layer, --n-embd make them smaller");
    arena->used += (bytes + 255) / 256 * 256;
    return piece;
}

/* Device memory of so many bytes, zeroed, or exit 1 saying what it was for and what would lower it. */
static inline void *arena_memory(const Kernels *k, size_t bytes, const char *purpose, const char *remedy) {
    void *memory = k->alloc(bytes);
    if (!memory) {
        DeviceInfo info = {0};
        k->describe(&info);
        fail(EXIT_RUNTIME, "out of memory on %s: %.4g GB for %s, %.4g GB are free; %s", info.name, (double)bytes / 1e9,
             purpose, (double)info.memory_free / 1e9, remedy);
    }
    return memory;
}

#endif
