/*
 * state.h: what a checkpoint's state.json says.
 *
 * Pure functions over what json.h has read, so that they can be fed with anything.
 */
#ifndef STATE_H
#define STATE_H

#include "checkpoint.h"
#include "../base/json.h"

/* What state.json says beside what training needs: what the same bits need. */
typedef struct Written {
    int64_t threads, head_chunk;
    int64_t ranks; /* 0 in what an older build wrote */
    char kernels[64], variant[128];
    char version[128], device[256]; /* "" in what an older build wrote */
} Written;

/* All of it but BHyT's products; on success the texts of *progress are the caller's to free. Errors name the field. */
bool state_parse(const cJSON *object, StepState *state, Progress *progress, Written *written, Error *error);

/* A list of at most `most` finite numbers, for which `values` has room; *count is set. Errors name the field. */
bool state_values(const cJSON *object, const char *name, int most, double *values, uint32_t *count, Error *error);

#endif
