/*
 * eval.h: the loss on validation shards.
 *
 * Windows are taken in their natural order from the first, the same ones every time; the last batch is filled
 * up with rows that do not count. Nothing of the training state is touched.
 */
#ifndef EVAL_H
#define EVAL_H

#include "feed.h"
#include "loader.h"
#include "model.h"

typedef struct Validator {
    Model *model;
    ShardSet set;
    Loader *loader;
    int64_t windows;  /* that count in one validation */
    int64_t batches;
    StepState *state; /* device: sums this validation's losses */
    Feed feed;
} Validator;

/* Opens the shards of config->val_data. Exit 2 if they cannot serve. */
void validator_create(Validator *validator, Model *model);
void validator_destroy(Validator *validator);

/* Mean loss in nats per token; *tokens is set to how many counted. Exit 2 if a shard cannot be read any more. */
double validator_run(Validator *validator, int64_t *tokens);

#endif
