/*
 * sampler.h: which token comes next, by its model's logits?
 *
 * A token is drawn from softmax(logits / temperature), over the top_k likeliest tokens (0: all), and of these over the
 * fewest of the likeliest that have top_p of their probability together (1: all); temperature 0 takes the likeliest. Of two
 * tokens that are alike the one with the lower id counts as likelier. The draw is Philox's: a pure function of the seed and of
 * how many tokens of this text have been drawn before it.
 */
#ifndef SAMPLER_H
#define SAMPLER_H

#include <stddef.h>
#include <stdint.h>

typedef struct Sampler {
    double temperature, top_p;
    int64_t top_k;
} Sampler;

/* Room that sampler_draw() wants for V logits. */
size_t sampler_room_bytes(int V);

/* The token drawn as number `index` of a text; room is sampler_room_bytes(V) of memory, whose contents do not matter.
 * The logits are finite. */
uint32_t sampler_draw(const Sampler *sampler, const double *logits, int V, uint64_t seed, uint64_t index, void *room);

#endif
