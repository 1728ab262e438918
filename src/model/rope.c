/* rope.c: see rope.h. */
#include "rope.h"

#include <math.h>

static double llama3_rate(const Config *c, double rate) {
    const double turns = (double)c->rope_original_seq_len * rate / 6.283185307179586476925; /* within T₀ */
    const double low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
    if (turns > high) return rate;
    if (turns < low) return rate / c->rope_factor;
    const double share = (turns - low) / (high - low);
    return (1 - share) * rate / c->rope_factor + share * rate;
}

double rope_rate(const Config *c, int i) {
    const double rate = pow(c->rope_base, -2.0 * i / (double)c->head_size);
    switch (c->rope_scaling) {
    case ROPE_LINEAR: return rate / c->rope_factor;
    case ROPE_LLAMA3: return llama3_rate(c, rate);
    default: return rate;
    }
}
