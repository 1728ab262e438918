/*
 * schedule.h: the learning rate of each step.
 *
 * Linear warmup over warmup_steps (step 0 already moves: lr·1/warmup), then one of
 *   cosine    half a cosine from the peak down to final_frac · peak at the last step
 *   linear    a straight line to the same
 *   wsd       the peak held, then 1 − √x down to the same over the last decay_frac of all steps (at most: of
 *             those after the warmup)
 *             (warmup-stable-decay, arXiv 2404.06395; the shape of the decay: arXiv 2405.18392)
 *   constant  the peak
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include "config.h"

/* Learning rate of a step counted from 0; steps beyond the last keep the last one's. */
double schedule_lr(const Config *config, int64_t step);

#endif
