/* schedule.c: see schedule.h. */
#include "schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

/* Each shape: progress in [0, 1] after the warmup → factor from 1 down to 0 between peak and final. */
static double cosine(double progress, double decay_frac) {
    (void)decay_frac;
    return 0.5 * (1 + cos(PI * progress));
}

static double linear(double progress, double decay_frac) {
    (void)decay_frac;
    return 1 - progress;
}

static double wsd(double progress, double decay_frac) {
    double into = decay_frac > 0 ? (progress - (1 - decay_frac)) / decay_frac : 0;
    return into <= 0 ? 1 : 1 - sqrt(into < 1 ? into : 1);
}

static double constant(double progress, double decay_frac) {
    (void)progress, (void)decay_frac;
    return 1;
}

static double (*const SHAPES[])(double, double) = {
    [SCHEDULE_COSINE] = cosine, [SCHEDULE_LINEAR] = linear, [SCHEDULE_WSD] = wsd, [SCHEDULE_CONSTANT] = constant};

double schedule_lr(const Config *config, int64_t step) {
    if (step < config->warmup_steps) return config->lr * (double)(step + 1) / (double)config->warmup_steps;
    int64_t after = config->steps - 1 - config->warmup_steps;
    /* One step after the warmup is its first as well as its last: the peak, as where nothing decays. */
    double progress = after > 0 ? (double)(step - config->warmup_steps) / (double)after : 0;
    /* The flag's share is of all steps, the shapes' of those after the warmup. */
    double decay_frac = after > 0 ? config->wsd_decay_frac * (double)config->steps / (double)after : 1;
    double factor = SHAPES[config->lr_schedule](progress < 1 ? progress : 1, decay_frac < 1 ? decay_frac : 1);
    return config->lr * (config->lr_final_frac + (1 - config->lr_final_frac) * factor);
}
