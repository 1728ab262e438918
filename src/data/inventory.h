/*
 * inventory.h: what of a set of shards a run will use, what it will not, and what should not be among it.
 *
 * For the lines that a run begins with (report.h): nothing here refuses anything, and nothing changes what is read.
 */
#ifndef INVENTORY_H
#define INVENTORY_H

#include "../base/directory.h"
#include "shard.h"

typedef struct Inventory {
    size_t shards;
    uint64_t tokens, windows;
    size_t short_shards;      /* hold no window of T + 1 tokens */
    uint64_t short_tokens;    /* all of theirs */
    uint64_t leftover_tokens; /* behind the last window of the other shards */

    /* The same file under two names, or content that is equal in all samples: used twice. */
    size_t twice;                        /* shards that an earlier one equals */
    size_t twice_first, twice_second;    /* the first such pair */

    /* What data/prepare.py's NAME.json beside NAME_train_000000.bin says of that split, where there is one. */
    size_t listed, missing;              /* shards; those of them that are not there */
    char missing_path[PATH_SIZE];        /* the first */
    char list_path[PATH_SIZE];           /* the last list that was read, or "" */
    char list_trouble[192];              /* why it, or one before it, could not be read or is contradicted; or "" */
} Inventory;

/* Of a set that is read in windows of T + 1 tokens. Reads one block a shard where lengths are equal, and the lists. */
void inventory_take(Inventory *inventory, const ShardSet *set, size_t T);

/* Validation shards among those to train on. */
typedef struct Overlap {
    size_t shared;            /* shards of val that train holds, by file or by content */
    size_t train, val;        /* the first such pair; valid where shared > 0 */
    size_t named;             /* shards of train that are called …_val_… */
    size_t named_first;
} Overlap;

/* val may be NULL: names alone then. */
void inventory_overlap(Overlap *overlap, const ShardSet *train, const ShardSet *val);

#endif
