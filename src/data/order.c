/* order.c: see order.h. */
#include "order.h"

#include <inttypes.h>
#include <stdlib.h>

#include "../base/philox.h"

/* Four rounds of a strong round function make a pseudorandom permutation (Luby and Rackoff) of large domains;
   halves of one or two bits need more to come near every permutation. */
enum { FEISTEL_ROUNDS = 8 };

uint64_t order_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t index) {
    if (n < 2) return 0;
    const int total_bits = 64 - __builtin_clzll(n - 1), low_bits = total_bits / 2,
              high_bits = total_bits - low_bits;
    const uint64_t low_mask = (UINT64_C(1) << low_bits) - 1, high_mask = (UINT64_C(1) << high_bits) - 1;
    /* A key per seed and epoch: the hash keeps it away from every other use of the seed. */
    uint64_t key[2], noise[2];
    philox_bits(seed, philox_name_hash("window order"), epoch, key);
    do { /* at most half of the domain lies outside [0, n): two turns on average */
        uint64_t low = index & low_mask, high = index >> low_bits;
        for (int round = 0; round < FEISTEL_ROUNDS; round += 2) {
            philox_bits(key[0], (uint64_t)round, high, noise);
            low ^= noise[0] & low_mask;
            philox_bits(key[0], (uint64_t)round + 1, low, noise);
            high ^= noise[0] & high_mask;
        }
        index = high << low_bits | low;
    } while (index >= n);
    return index;
}

static bool too_small(const ShardSet *set, size_t T, Error *error) {
    size_t largest = 0;
    for (size_t i = 0; i < set->n_shards; i++)
        if (set->shards[i].header.n_tokens > set->shards[largest].header.n_tokens) largest = i;
    return error_set(
        error,
        "a window needs %" PRIu64 " tokens in one shard (sequence length %zu, and one target more); "
        "the largest of %zu, %s, has %" PRIu64,
        (uint64_t)T + 1, T, set->n_shards, set->shards[largest].path, set->shards[largest].header.n_tokens);
}

bool order_create(WindowOrder *order, const ShardSet *set, size_t T, uint64_t seed, bool shuffle,
                  Error *error) {
    *order = (WindowOrder){.T = T, .seed = seed, .shuffle = shuffle, .n_shards = set->n_shards};
    if (T == 0 || T == SIZE_MAX || set->n_shards == 0)
        return error_set(error, "no windows of sequence length %zu in %zu shards", T, set->n_shards);
    order->first_window = must_calloc(set->n_shards + 1, sizeof order->first_window[0], "the window order");
    for (size_t i = 0; i < set->n_shards; i++) {
        const uint64_t n = set->shards[i].header.n_tokens, windows = n ? (n - 1) / T : 0;
        order->first_window[i + 1] = order->first_window[i] + windows;
        order->n_dropped_tokens += windows ? n - (windows * T + 1) : n;
    }
    order->n_windows = order->first_window[set->n_shards];
    if (order->n_windows) return true;
    order_destroy(order);
    return too_small(set, T, error);
}

void order_destroy(WindowOrder *order) {
    free(order->first_window);
    *order = (WindowOrder){0};
}

/* The shard i with first_window[i] ≤ window < first_window[i + 1]; shards without a window are passed over.
 */
static size_t shard_of(const WindowOrder *order, uint64_t window) {
    size_t low = 0, high = order->n_shards;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (order->first_window[middle] <= window)
            low = middle;
        else
            high = middle;
    }
    return low;
}

WindowPlace order_at(const WindowOrder *order, uint64_t position) {
    WindowPlace place = {.epoch = position / order->n_windows};
    const uint64_t index = position % order->n_windows;
    place.window = order->shuffle ? order_permute(order->n_windows, order->seed, place.epoch, index) : index;
    place.shard = shard_of(order, place.window);
    place.first_token = (place.window - order->first_window[place.shard]) * order->T;
    return place;
}
