/*
 * gradient_check.h: are a model's gradients the derivatives of its loss? (MATH.md §7)
 *
 * Four-point central differences of the fp64 loss, stop-gradients frozen (frozen_kernels.h). Of every
 * parameter: the derivative along a random direction, which all of its elements enter, and of some elements
 * by themselves (the one with the largest gradient among them). An error is relative to max(‖g of the
 * tensor‖, 1e-6·‖g of all‖), as some true gradients are 0.
 */
#ifndef GRADIENT_CHECK_H
#define GRADIENT_CHECK_H

#include "frozen_kernels.h"
#include "model_fixture.h"

enum { GRADIENT_ALL_ELEMENTS = 1 << 30 };

/* What MATH.md §7 asks for. */
#define GRADIENT_TOLERANCE 1e-6

typedef struct GradientReport {
    double worst; /* relative error */
    char tensor[PARAM_NAME_SIZE];
    int tensors;
    int64_t differences; /* that were taken */
} GradientReport;

/* Checks a fixture on frozen_kernels() or a table made from it, `samples` elements of each parameter by
 * themselves. */
GradientReport gradient_check(Fixture *f, int samples);

/* One pass of both: the analytic gradients [elements] (caller frees); operands are recorded. */
double *gradient_analytic(Fixture *f);

/* The difference quotient along weights += h·direction, direction [p's true elements in order]; mode as in
 * frozen_kernels.h. */
double gradient_along(Fixture *f, const Param *p, const double *direction, double h, FrozenMode mode);

#endif
