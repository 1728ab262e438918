/*
 * generate.h: text from a model of bytes, with a cache of keys and values.
 *
 * Sampling: softmax(logits / temperature) over the top_k likeliest tokens; temperature 0 takes the likeliest.
 * The draws are Philox's, keyed by the seed: the same weights, prompt and flags give the same text. Where the
 * text outgrows --seq-len, the second half of the window becomes the new prompt.
 */
#ifndef GENERATE_H
#define GENERATE_H

#include "../model/model.h"

/* Whether tokens are bytes, so that text can go in and out. */
bool generate_can(const Model *model);

/* Prints the prompt and config->max_new_tokens bytes after it to stdout: to a terminal with control bytes escaped
 * (printable.h), elsewhere as they are. Ends early where nothing more can be written (output.h). False, with
 * *error set, where the model's logits are no finite numbers. Takes memory for the cache on the first call. */
bool generate(Model *model, const char *prompt, Error *error);

#endif
