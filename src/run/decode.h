/*
 * decode.h: how do several texts go on at once, each at a length of its own?
 *
 * A batch has places; a text that ends leaves its place to the next one that waits. A prompt goes through the model alone,
 * then each step adds a token to every text in the batch: the weights are read once for all of them. Where a text outgrows
 * the window (--seq-len), the second half of it becomes its new prompt.
 *
 * A text hangs on its prompt, its seed and the sampler alone, not on the others in the batch. To the bit that holds on a CPU
 * where at most 8 go on at once (kernels/cpu/linear.c); elsewhere another number of rows may be another algorithm of the GEMM
 * library, and round otherwise.
 */
#ifndef DECODE_H
#define DECODE_H

#include "../model/model.h"
#include "prompts.h"
#include "sampler.h"

typedef enum TextEnd { TEXT_GOES_ON, TEXT_LENGTH, TEXT_DOCUMENT } TextEnd;

typedef struct Decoding {
    Model *model;
    Sampler sampler;
    int batch;           /* texts at once, at most */
    int64_t most;        /* new tokens of a text, at most */
    int64_t end_token;   /* ends a text, and is no part of it; −1: none does */
    /* Called with each new token of prompts->list[i], and once with how it ended (then the token means nothing). False: that
     * is enough, decode_all() returns. */
    bool (*take)(void *context, size_t i, uint32_t token, TextEnd end);
    void *context;
} Decoding;

/* What it took. */
typedef struct DecodeCost {
    int64_t prompt_tokens, new_tokens; /* that went through the model as prompts; that were drawn */
    double prompt_seconds, new_seconds;
} DecodeCost;

/* Continues all prompts, in their order as places come free. False, with *error set, where the logits are no finite numbers.
 * Takes memory for the cache on the first call. */
bool decode_all(const Decoding *decoding, const Prompts *prompts, DecodeCost *cost, Error *error);

#endif
