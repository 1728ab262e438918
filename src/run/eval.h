/*
 * eval.h: the loss on validation shards.
 *
 * Windows are drawn from the whole set, not from its beginning, which may be one book; the draw hangs on the
 * shards alone, so every validation of every run over them, whatever its --seed, takes the same ones. The last batch
 * is filled up with rows that do not count. Nothing of the training state is touched.
 */
#ifndef EVAL_H
#define EVAL_H

#include "../data/feed.h"
#include "../data/loader.h"
#include "../model/model.h"

typedef struct Validator {
    Model *model;
    ShardSet set;
    Loader *loader;
    int64_t windows;  /* that count in one validation */
    int64_t batches, all_batches; /* of one validation; of the whole set */
    StepState *state; /* device: sums this validation's losses */
    Feed feed;
} Validator;

/* Opens the shards of config->val_data. Exit 2 if they cannot serve. */
void validator_create(Validator *validator, Model *model);
void validator_destroy(Validator *validator);

/* Mean loss in nats per token, and over how many. False with *error set if a shard cannot be read any more. */
bool validator_run(Validator *validator, double *loss, int64_t *tokens, Error *error);

#endif
