/* schedule.c: see schedule.h. */
#include "schedule.h"

#include <math.h>

static const double PI = 3.14159265358979323846;

/* A shape: the factor between final rate (0) and peak (1), `into` steps after the warmup, of which the last is `last`. */
typedef double Shape(const Config *c, int64_t into, int64_t last);

/* One step after the warmup is its first as well as its last: the peak, as where nothing decays. */
static double progress(int64_t into, int64_t last) {
    if (into > last) return 1;
    return last > 0 ? (double)into / (double)last : 0;
}

static double cosine(const Config *c, int64_t into, int64_t last) {
    (void)c;
    return 0.5 * (1 + cos(PI * progress(into, last)));
}

/* By itself quarters, which may differ by a step so that the last one ends with the schedule; of few steps fewer parts: one of a
 * single step would be a peak. */
static double cosine_restarts(const Config *c, int64_t into, int64_t last) {
    if (c->restart_steps != AUTO_INT) return cosine(c, (into < last ? into : last) % c->restart_steps, c->restart_steps - 1);
    if (into > last) return 0;
    const int64_t steps = last + 1, parts = steps >= 8 ? 4 : steps >= 4 ? steps / 2 : 1;
    const int64_t part = (parts * (into + 1) - 1) / steps, first = part * steps / parts, next = (part + 1) * steps / parts;
    return cosine(c, into - first, next - first - 1);
}

static double linear(const Config *c, int64_t into, int64_t last) {
    (void)c;
    return 1 - progress(into, last);
}

/* The flag's share is of the whole schedule, the shape's of what comes after the warmup. */
static double wsd(const Config *c, int64_t into, int64_t last) {
    double decay = c->wsd_decay_steps == AUTO_INT ? c->wsd_decay_frac * (double)schedule_end(c) : (double)c->wsd_decay_steps;
    double share = last > 0 ? fmin(decay / (double)last, 1) : decay > 0;
    double done = share > 0 ? (progress(into, last) - (1 - share)) / share : 0;
    return done <= 0 ? 1 : 1 - sqrt(fmin(done, 1));
}

static double constant(const Config *c, int64_t into, int64_t last) {
    (void)c, (void)into, (void)last;
    return 1;
}

/* The final rate is where it ends to fall, not where it ends. */
static double inverse_sqrt(const Config *c, int64_t into, int64_t last) {
    if (into > last) into = last > 0 ? last : 0;
    double warmup = c->warmup_steps > 0 ? (double)c->warmup_steps : 1, least = c->lr_final_frac;
    double share = sqrt(warmup / (warmup + (double)into));
    return share > least && least < 1 ? (share - least) / (1 - least) : 0;
}

static Shape *const SHAPES[] = {
    [SCHEDULE_COSINE] = cosine, [SCHEDULE_LINEAR] = linear, [SCHEDULE_WSD] = wsd, [SCHEDULE_CONSTANT] = constant,
    [SCHEDULE_COSINE_RESTARTS] = cosine_restarts, [SCHEDULE_INVERSE_SQRT] = inverse_sqrt,
};

int64_t schedule_end(const Config *c) { return c->schedule_steps == AUTO_INT ? c->steps : c->schedule_steps; }

double schedule_lr(const Config *c, int64_t step) {
    if (step < c->warmup_steps) return c->lr * (double)(step + !c->lr_from_zero) / (double)c->warmup_steps;
    double factor = SHAPES[c->lr_schedule](c, step - c->warmup_steps, schedule_end(c) - 1 - c->warmup_steps);
    return c->lr * (c->lr_final_frac + (1 - c->lr_final_frac) * factor);
}
