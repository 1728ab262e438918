/*
 * schedule.h: the learning rate of each step.
 *
 * Linear warmup over warmup_steps (step 0 already moves, lr·1/warmup, unless lr_from_zero: lr·0/warmup, which is
 * transformers'), then one of
 *   cosine           half a cosine from the peak down to final_frac · peak at the last step
 *   linear           a straight line to the same
 *   wsd              the peak held, then 1 − √x down to the same over the last decay_frac of all steps, or the last
 *                    wsd_decay_steps (at most: of those after the warmup)
 *                    (warmup-stable-decay, arXiv 2404.06395; the shape of the decay: arXiv 2405.18392)
 *   constant         the peak
 *   cosine-restarts  half a cosine every restart_steps, each from the peak (arXiv 1608.03983 with equal periods); by itself
 *                    four, of which the last ends with the schedule
 *   inverse-sqrt     peak · √(warmup / step), not below final_frac · peak (arXiv 1706.03762)
 *
 * "The last step" is schedule_end() − 1, counted from 0: its update is made with the final rate. (nanoGPT, llm.c and
 * transformers divide by one more, and reach the final rate at the step that is not taken any more.) Where the warmup
 * leaves one step, it is the peak's, as is a run's single step in all of them. Steps beyond the last keep the final rate.
 */
#ifndef SCHEDULE_H
#define SCHEDULE_H

#include "config.h"

/* Steps of the schedule: --schedule-steps, or the run's. */
int64_t schedule_end(const Config *config);

/* Learning rate of a step counted from 0; steps beyond the last keep the last one's. */
double schedule_lr(const Config *config, int64_t step);

#endif
