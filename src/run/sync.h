/*
 * sync.h: do all ranks hold the same weights?
 *
 * They are updated alike or gathered from one, so they are the same to the bit, unless a bit of memory, a link or a library
 * has failed: then the ranks train apart, and nothing else would say so. What forward reads is hashed on each device:
 * matrices as they are stored, and the masters of vectors.
 */
#ifndef SYNC_H
#define SYNC_H

#include "../model/model.h"
#include "../ranks/launcher.h"

typedef struct Sync {
    const Model *model;
    const Ranks *ranks;
    uint64_t *hashes; /* device [ranks][params.count] */
    uint64_t *seen;   /* the same on the host */
} Sync;

/* Nothing for one rank. Exit 1 if memory is short. */
void sync_create(Sync *sync, const Model *model, const Ranks *ranks);
void sync_destroy(Sync *sync);

/* Compares, between two steps; all ranks call it and hear the same. False with *error naming the first tensor that is not
 * everywhere the same, and a rank that holds another than most do (of two ranks: than rank 0). */
bool sync_check(Sync *sync, Error *error);

#endif
