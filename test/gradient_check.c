/* gradient_check.c: see gradient_check.h. */
#include "gradient_check.h"

#include <float.h>

/* The step is 1e-4 where MATH.md says 1e-6: truncation is h⁴ times a fifth derivative, rounding 1e-16 of the
 * loss over h, and with 1e-6 rounding alone is over 1e-6 of small gradients. Where 1e-4 does not do, the
 * others are tried: small ones where a norm of few numbers happens to meet a short row, and bends within less
 * than 1e-4 (3e-5 where it bends so while rounding is over 1e-6 at 1e-5 already); large ones where the gradient is small. A wrong gradient agrees at none. With the large
 * ones what the last bit of the loss makes of a difference does not count, 4e-12 and less: pointwise norms under keel leave
 * gradients of 1e-7. */
static const double STEPS[] = {1e-4, 1e-3, 1e-5, 3e-5, 1e-6, 1e-7};

static double loss_now(Fixture *f, FrozenMode mode) {
    Model *m = &f->model;
    m->k->step_begin(m->queue, &(StepBegin){.state = f->optimizer.state});
    frozen_mode(mode);
    model_forward(m, false);
    model_head(m, f->optimizer.state, false);
    frozen_mode(FROZEN_OFF);
    return f->optimizer.state->loss_sum /
           (double)m->N; /* the CPU's memory is the host's, and its work is done */
}

double *gradient_analytic(Fixture *f) {
    Model *m = &f->model;
    begin(f, 0);
    frozen_mode(FROZEN_RECORD);
    model_forward(m, true);
    frozen_mode(FROZEN_OFF);
    model_head(m, f->optimizer.state, true);
    model_backward(m, NULL, NULL);
    size_t bytes = (size_t)m->params.elements * sizeof(double);
    double *analytic = must_malloc(bytes, "gradients");
    memcpy(analytic, m->grad, bytes);
    return analytic;
}

static void move(Fixture *f, const Param *p, const double *direction, const double *saved, double by) {
    double *weights = f->model.master;
    int64_t i = 0;
    for (Elements e = {.p = p}; element_next(&e); i++)
        weights[e.at] = saved[e.at - p->offset] + by * direction[i];
}

double gradient_along(Fixture *f, const Param *p, const double *direction, double h, FrozenMode mode) {
    static const double AT[] = {-2, -1, 1, 2}, FACTOR[] = {1, -8, 8, -1};
    size_t bytes = (size_t)p->count * sizeof(double);
    double *saved = must_malloc(bytes, "weights"), sum = 0;
    memcpy(saved, (double *)f->model.master + p->offset, bytes);
    for (int i = 0; i < 4; i++) {
        move(f, p, direction, saved, AT[i] * h);
        sum += FACTOR[i] * loss_now(f, mode);
    }
    memcpy((double *)f->model.master + p->offset, saved, bytes);
    free(saved);
    return sum / (12 * h);
}

/* One parameter: its numbers in a row. */
typedef struct Tensor {
    const Param *p;
    int64_t count;
    double *gradient, *direction;
    double scale; /* that errors are relative to */
} Tensor;

static void look(Fixture *f, const Tensor *t, GradientReport *report) {
    double along = 0, best = INFINITY;
    for (int64_t i = 0; i < t->count; i++) along += t->gradient[i] * t->direction[i];
    for (size_t s = 0; s < sizeof STEPS / sizeof *STEPS && !(best < GRADIENT_TOLERANCE / 2); s++) {
        double found = gradient_along(f, t->p, t->direction, STEPS[s], FROZEN_REPLAY), error = fabs(found - along);
        if (STEPS[s] >= 1e-4) error -= DBL_EPSILON * loss_now(f, FROZEN_REPLAY) / STEPS[s];
        best = fmin(best, fmax(error, 0) / t->scale);
        report->differences++;
    }
    if (best <= report->worst) return;
    report->worst = best;
    snprintf(report->tensor, sizeof report->tensor, "%s", t->p->piece[0].key);
}

static int64_t largest(const Tensor *t) {
    int64_t at = 0;
    for (int64_t i = 0; i < t->count; i++)
        if (fabs(t->gradient[i]) > fabs(t->gradient[at])) at = i;
    return at;
}

static void check_tensor(Fixture *f, const Tensor *t, int samples, GradientReport *report) {
    uint64_t key = philox_name_hash(t->p->piece[0].key);
    double norm = 0;
    for (int64_t i = 0; i < t->count; i++) {
        t->direction[i] = philox_normal(11, key, (uint64_t)i);
        norm += t->direction[i] * t->direction[i];
    }
    for (int64_t i = 0; i < t->count; i++) t->direction[i] /= sqrt(norm);
    look(f, t, report);
    if (t->count == 1) return; /* that was the only direction */
    for (int s = 0; s < samples && s < t->count; s++) {
        int64_t at = samples >= t->count ? s
                     : s == 0            ? largest(t)
                                         : (int64_t)(philox_uniform(13, key, (uint64_t)s) * (double)t->count);
        memset(t->direction, 0, (size_t)t->count * sizeof *t->direction);
        t->direction[at] = 1;
        look(f, t, report);
    }
}

GradientReport gradient_check(Fixture *f, int samples) {
    const Params *params = &f->model.params;
    GradientReport report = {.worst = -1, .tensors = params->count};
    double *analytic = gradient_analytic(f), all = 0;
    double *gradient = must_calloc((size_t)params->elements, sizeof *gradient, "gradients");
    double *direction = must_calloc((size_t)params->elements, sizeof *direction, "a direction");
    for (int64_t i = 0; i < params->elements; i++) all += analytic[i] * analytic[i];
    for (int i = 0; i < params->count; i++) {
        Tensor t = {.p = &params->list[i], .gradient = gradient, .direction = direction};
        double norm = 0;
        for (Elements e = {.p = t.p}; element_next(&e);) {
            gradient[t.count++] = analytic[e.at];
            norm += analytic[e.at] * analytic[e.at];
        }
        t.scale = fmax(sqrt(norm), 1e-6 * sqrt(all));
        check_tensor(f, &t, samples, &report);
    }
    if (!isfinite(all)) report.worst = INFINITY;
    free(analytic);
    free(gradient);
    free(direction);
    return report;
}
