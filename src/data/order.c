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

static bool too_small(const ShardSet *set, const ShardSource *source, size_t T, Error *error) {
    size_t largest = source->first_shard;
    for (size_t i = largest; i < source->first_shard + source->n_shards; i++)
        if (set->shards[i].header.n_tokens > set->shards[largest].header.n_tokens) largest = i;
    return error_set(
        error,
        "a window needs %" PRIu64 " tokens in one shard (sequence length %zu, and one target more); "
        "the largest of %zu, %s, has %" PRIu64,
        (uint64_t)T + 1, T, source->n_shards, set->shards[largest].path, set->shards[largest].header.n_tokens);
}

/* What of each shard is a window. */
static void count_windows(WindowOrder *order, const ShardSet *set) {
    const size_t T = order->T;
    for (size_t i = 0; i < set->n_shards; i++) {
        const uint64_t n = set->shards[i].header.n_tokens, windows = n ? (n - 1) / T : 0;
        order->first_window[i + 1] = order->rows ? order->rows->first_row[i + 1] : order->first_window[i] + windows;
        if (!order->rows) order->n_dropped_tokens += windows ? n - (windows * T + 1) : n;
    }
    if (order->rows) order->n_dropped_tokens = order->rows->cut_tokens + order->rows->too_short;
    order->n_windows = order->first_window[set->n_shards];
}

/* Each source has an order of its own; the first, or only one, that of the seed as it is. */
static uint64_t seed_of(uint64_t seed, size_t source) {
    uint64_t bits[2] = {seed};
    if (source) philox_bits(seed, philox_name_hash("source order"), source, bits);
    return bits[0];
}

static bool set_source(WindowOrder *order, const ShardSet *set, size_t i, const ShardSource *source, uint64_t seed, Error *error) {
    const uint64_t first = order->first_window[source->first_shard];
    const uint64_t windows = order->first_window[source->first_shard + source->n_shards] - first;
    order->sources[i] = (WindowSource){first, windows, seed_of(seed, i)};
    order->parts[i] = source->parts;
    if (windows) return true;
    if (order->rows) return error_set(error, "%s: no document of two tokens or more", source->pattern);
    return too_small(set, source, order->T, error);
}

bool order_create(WindowOrder *order, const ShardSet *set, size_t T, uint64_t seed, bool shuffle, const Rows *rows,
                  Error *error) {
    const ShardSource all = {.pattern = "the set", .n_shards = set->n_shards, .parts = 1};
    *order = (WindowOrder){.T = T, .shuffle = shuffle, .rows = rows, .n_shards = set->n_shards};
    if (T == 0 || T == SIZE_MAX || set->n_shards == 0)
        return error_set(error, "no windows of sequence length %zu in %zu shards", T, set->n_shards);
    order->n_sources = set->n_sources ? set->n_sources : 1;
    order->first_window = must_calloc(set->n_shards + 1, sizeof order->first_window[0], "the window order");
    order->sources = must_calloc(order->n_sources, sizeof order->sources[0], "the window order");
    order->parts = must_calloc(order->n_sources, sizeof order->parts[0], "the window order");
    count_windows(order, set);
    for (size_t i = 0; i < order->n_sources; i++)
        if (!set_source(order, set, i, set->n_sources ? &set->sources[i] : &all, seed, error)) {
            order_destroy(order);
            return false;
        }
    if (order->n_sources > 1) turns_create(&order->turns, order->parts, order->n_sources);
    return true;
}

void order_destroy(WindowOrder *order) {
    turns_destroy(&order->turns);
    free(order->first_window);
    free(order->sources);
    free(order->parts);
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
    const SourcePlace turn = order->n_sources > 1 ? turns_at(&order->turns, position) : (SourcePlace){0, position};
    const WindowSource *source = &order->sources[turn.source];
    WindowPlace place = {.source = turn.source, .epoch = turn.position / source->n_windows};
    const uint64_t index = turn.position % source->n_windows;
    place.window = source->first_window +
                   (order->shuffle ? order_permute(source->n_windows, source->seed, place.epoch, index) : index);
    place.shard = shard_of(order, place.window);
    place.first_token = order->rows ? row_first_token(order->rows->row[place.window])
                                    : (place.window - order->first_window[place.shard]) * order->T;
    place.tokens = order->rows ? row_tokens(order->rows->row[place.window]) : order->T + 1;
    return place;
}

uint64_t order_targets(const WindowOrder *order, uint64_t first, uint64_t count) {
    uint64_t targets = 0;
    if (!order->rows) return count * order->T;
    for (uint64_t i = 0; i < count; i++) targets += order_at(order, first + i).tokens - 1;
    return targets;
}
