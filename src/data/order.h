/*
 * order.h: which window of tokens comes when.
 *
 * A window is T+1 tokens inside one shard: T inputs, and the same shifted by one as targets. Windows lie at
 * stride T, so that every token but a shard's first is a target once: a shard of n tokens has ⌊(n−1)/T⌋ of
 * them. What a shard has left over is dropped, and counted. Windows are numbered through the set: shard after
 * shard, from the front.
 *
 * Training reads an endless sequence of positions 0, 1, 2, …; every n_windows of them are an epoch. Within
 * epoch e, position i holds window permutation(i), a keyed bijection of [0, n_windows) that is computed and
 * never stored: any position is found in O(log shards), so a resume needs the position and nothing else.
 * Validation takes the natural order (shuffle = false).
 *
 * The permutation is a Feistel network over the next power of two, with Philox as its round function, walked
 * until it falls inside [0, n) (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
 */
#ifndef ORDER_H
#define ORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../base/check.h"
#include "shard.h"

/* The image of index under the permutation of [0, n) that (seed, epoch) chooses. index < n, n ≤ 2^62. */
uint64_t order_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t index);

typedef struct WindowOrder {
    size_t T;
    uint64_t seed;
    bool shuffle;
    uint64_t n_windows;        /* in one epoch; at least 1 */
    uint64_t n_dropped_tokens; /* tokens that no window holds, per epoch */
    size_t n_shards;
    uint64_t *first_window; /* n_shards + 1: shard i has the windows [first_window[i], first_window[i + 1]) */
} WindowOrder;

typedef struct WindowPlace {
    uint64_t epoch, window;
    size_t shard;
    uint64_t first_token; /* in the shard; T + 1 tokens from here */
} WindowPlace;

/* False if T is 0 or no shard holds a single window; the message names what is needed and what there is. */
bool order_create(WindowOrder *order, const ShardSet *set, size_t T, uint64_t seed, bool shuffle,
                  Error *error);
void order_destroy(WindowOrder *order);

/* Where the window at a position of the endless sequence lies. */
WindowPlace order_at(const WindowOrder *order, uint64_t position);

#endif
