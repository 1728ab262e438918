/*
 * order.h: which window of tokens comes when.
 *
 * A window is T+1 tokens inside one shard: T inputs, and the same shifted by one as targets. Windows lie at
 * stride T, so that every token but a shard's first is a target once: a shard of n tokens has ⌊(n−1)/T⌋ of
 * them. What a shard has left over is dropped, and counted. Windows are numbered through the set: shard after
 * shard, from the front. With one document a row (rows.h) a window is such a row, and may be shorter.
 *
 * Training reads an endless sequence of positions 0, 1, 2, …; every n_windows of them are an epoch. Within
 * epoch e, position i holds window permutation(i), a keyed bijection of [0, n_windows) that is computed and
 * never stored: any position is found in O(log shards), so a resume needs the position and nothing else.
 * Validation takes the natural order (shuffle = false).
 *
 * Of a mixture each source is such a sequence by itself, with its own epochs and its own permutations, and turns.h says whose
 * turn a position is.
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
#include "rows.h"
#include "shard.h"
#include "turns.h"

/* The image of index under the permutation of [0, n) that (seed, epoch) chooses. index < n, n ≤ 2^62. */
uint64_t order_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t index);

/* Windows that are drawn from by themselves: all there are, or a source's. */
typedef struct WindowSource {
    uint64_t first_window, n_windows; /* at least 1 */
    uint64_t seed;
} WindowSource;

typedef struct WindowOrder {
    size_t T;
    bool shuffle;
    const Rows *rows;          /* one document a row; NULL: windows at stride T */
    uint64_t n_windows;        /* in all sources; at least 1 */
    uint64_t n_dropped_tokens; /* tokens that no window holds, per epoch */
    size_t n_shards;
    uint64_t *first_window; /* n_shards + 1: shard i has the windows [first_window[i], first_window[i + 1]) */
    size_t n_sources;
    WindowSource *sources;
    uint32_t *parts;        /* [n_sources] of a mixture */
    Turns turns;            /* where there is more than one source */
} WindowOrder;

typedef struct WindowPlace {
    size_t source;
    uint64_t epoch, window; /* the epoch of this source */
    size_t shard;
    uint64_t first_token; /* in the shard; so many tokens from here: */
    size_t tokens;        /* T + 1, or fewer with one document a row */
} WindowPlace;

/* False if T is 0 or a source holds no window; the message names what is needed and what there is. rows are the set's, or NULL;
 * they must outlive the order. */
bool order_create(WindowOrder *order, const ShardSet *set, size_t T, uint64_t seed, bool shuffle, const Rows *rows,
                  Error *error);
void order_destroy(WindowOrder *order);

/* Where the window at a position of the endless sequence lies. */
WindowPlace order_at(const WindowOrder *order, uint64_t position);

/* Targets in the windows of count positions from first on. */
uint64_t order_targets(const WindowOrder *order, uint64_t first, uint64_t count);

#endif
