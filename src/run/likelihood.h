/*
 * likelihood.h: how likely does a model find what items let follow their contexts?
 *
 * Context and continuation, without its last token, are one row of a pass, as long as it needs to be: rows are sorted
 * by their lengths, and a pass takes as many as --batch-size × --seq-len tokens have room for. What is longer than
 * --seq-len + 1 tokens loses the beginning of its context, as in lm_eval. The same flags give the same bits; another
 * --batch-size or number of threads makes other products of the same numbers, so the same to rounding.
 */
#ifndef LIKELIHOOD_H
#define LIKELIHOOD_H

#include "../data/items.h"
#include "../model/model.h"

typedef struct Answer {
    Item item;
    int64_t row;        /* of its file */
    double *likelihood; /* [choices] of each continuation, log, in nats */
    bool likeliest;     /* of a last word: each of its tokens was the likeliest */
    int cropped;        /* continuations that lost something of their context */
} Answer;

typedef struct Likelihood Likelihood;

/* Exit 1 where there is no memory. The model must outlive it. */
Likelihood *likelihood_create(Model *model);
void likelihood_destroy(Likelihood *likelihood);

/* Tokens that all continuations of an item have the model read, cropped as they are. */
int64_t likelihood_tokens(const Item *item, int seq_len);

/* Fills in what answers[0, count) have besides their items. Calls go_on(context, tokens) after each pass with what it
 * has read; false, with the answers incomplete, where that returns false. */
bool likelihood_of(Likelihood *likelihood, Answer *answers, int count, bool (*go_on)(void *, int64_t), void *context);

#endif
