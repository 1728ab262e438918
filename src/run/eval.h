/*
 * eval.h: the loss on validation shards.
 *
 * Windows are drawn from the whole set, not from its beginning, which may be one book; the draw hangs on the
 * shards alone, so every validation of every run over them, whatever its --seed, takes the same ones. The last batch
 * is filled up with rows that do not count. Nothing of the training state is touched.
 */
#ifndef EVAL_H
#define EVAL_H

#include "../checkpoint/token_bytes.h"
#include "../data/feed.h"
#include "../data/loader.h"
#include "../model/model.h"

#include <math.h>

typedef struct Validator {
    Model *model;
    ShardSet set;
    Loader *loader;
    int64_t windows;  /* that count in one validation */
    int64_t batches, all_batches; /* of one validation; of the whole set */
    StepState *state; /* device: sums this validation's losses */
    double *bytes;    /* device: and the bytes that the targets stand for */
    double *length;   /* [V] bytes of each token, NaN where the table does not know it; NULL: there is no table */
    Feed feed;
} Validator;

/* Opens the shards of config->val_data. Exit 2 if they cannot serve. */
void validator_create(Validator *validator, Model *model);
/* From now on validations tell what they cost a byte. Nothing for an empty table. */
void validator_know_bytes(Validator *validator, const TokenBytes *table);
void validator_destroy(Validator *validator);

/* What came of one. */
typedef struct Validation {
    double loss;    /* mean, nats per token */
    int64_t tokens; /* over so many */
    double bytes;   /* of text that they stand for; 0 or NaN: not known */
} Validation;

/* False with *error set if a shard cannot be read any more. */
bool validator_run(Validator *validator, Validation *validation, Error *error);

static inline double validation_perplexity(const Validation *v) { return exp(v->loss); }
/* Losses of all tokens, of those too that stand for no text, over the bytes of text. NaN where those are not known. */
static inline double validation_bits_per_byte(const Validation *v) {
    return v->bytes > 0 ? v->loss * (double)v->tokens / v->bytes / log(2) : (double)NAN;
}

#endif
