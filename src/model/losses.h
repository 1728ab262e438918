/*
 * losses.h: what is the loss of some tokens of some texts? For evaluation: other shapes than training's, and a product
 * with the head for those tokens alone.
 */
#ifndef LOSSES_H
#define LOSSES_H

#include "model.h"

/* Rows of a call that follow one another. */
typedef struct Span {
    int64_t first;
    int count; /* at least 1 */
} Span;

typedef struct Losses {
    int B, T;                /* T ≤ --seq-len, B·T ≤ the model's N */
    const uint32_t *tokens;  /* [B·T] < V */
    int spans;
    const Span *span;        /* whose losses are asked: rows of [B·T], in order, not overlapping; R of them together */
    const uint32_t *targets; /* [R] < V: what stands behind each */
    double *losses;          /* [R] out: nats */
    bool *likeliest;         /* [R] out: whether the target is the first of the likeliest tokens, by the logits that it
                                fetches for that; or NULL */
} Losses;

/* All pointers are the host's. Waits for the queue. */
void model_losses(Model *model, const Losses *args);

#endif
