/*
 * rope.h: at which rate does each pair of a head turn?
 *
 * RoPE turns dimensions i and i + D/2 of a head by an angle of (time step)·rate(i), rate(i) = base^(−2i/D). A model that
 * was trained on shorter sequences than it is used on turns more slowly (--rope-scaling), by the factor f (--rope-factor):
 *
 *   linear  rate/f: a position counts as position/f (arXiv 2306.15595)
 *   llama3  rate where a turn (2π/rate time steps) is shorter than T₀/high, rate/f where it is longer than T₀/low, and
 *           between them a mixture s·rate + (1 − s)·rate/f, s = (T₀·rate/2π − low)/(high − low); T₀ is
 *           --rope-original-seq-len (LLaMA 3.1's released code)
 */
#ifndef ROPE_H
#define ROPE_H

#include "../settings/config.h"

/* Radians a time step, of pair i of D/2. */
double rope_rate(const Config *config, int i);

#endif
