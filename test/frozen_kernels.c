/* frozen_kernels.c: see frozen_kernels.h. */
#include "frozen_kernels.h"
#include "../src/base/check.h"

#include <stdlib.h>
#include <string.h>

typedef struct Operand {
    double *values;
    size_t count;
} Operand;

static struct {
    FrozenMode mode;
    Operand *list;
    int count, room, next;
} frozen;

static double *copy_of(const double *values, size_t count) {
    double *copy = must_malloc(count * sizeof *copy, "a frozen operand");
    memcpy(copy, values, count * sizeof *copy);
    return copy;
}

static void record(const double *values, size_t count) {
    if (frozen.count == frozen.room) {
        frozen.room = 2 * frozen.room + 16;
        frozen.list = realloc(frozen.list, (size_t)frozen.room * sizeof *frozen.list);
        require(frozen.list, "out of memory for frozen operands");
    }
    frozen.list[frozen.count++] = (Operand){copy_of(values, count), count};
}

/* The values times a scale, or as they are. */
static void record_scaled(const double *values, const double *scale, size_t count) {
    record(values, count);
    for (size_t i = 0; scale && i < count; i++) frozen.list[frozen.count - 1].values[i] *= *scale;
}

static const double *replay(size_t count) {
    require(frozen.next < frozen.count && frozen.list[frozen.next].count == count,
            "frozen operand %d of %d is not the one that was recorded", frozen.next, frozen.count);
    return frozen.list[frozen.next++].values;
}

/* x − act(g)·sg(x), from the scale 1 − act(g). Caller frees. */
static double *gated(const double *x, const double *scale, size_t count) {
    const double *recorded = replay(count);
    double *r = copy_of(x, count), act = 1 - *scale;
    for (size_t i = 0; i < count; i++) r[i] -= act * recorded[i];
    return r;
}

static void replay_junction(Queue *queue, const Junction *args, size_t count) {
    Junction sum = *args;
    double *x = NULL, *ridden = NULL, *r = NULL;
    if (args->s_ride) sum.x = ridden = gated(args->x, args->s_ride, count);
    if (args->s_in) sum.x = x = gated(sum.x, args->s_in, count);
    sum.s_in = sum.s_ride = NULL;
    if (!args->s_out) {
        kernels_cpu_f64.junction_forward(queue, &sum);
    } else {
        Junction norm = sum;
        sum.s_out = NULL;
        sum.norm = (Norm){0};
        sum.y = sum.y_residual = NULL;
        sum.mean_square_in = NULL;
        sum.mean_square_out = NULL;
        if (args->f) kernels_cpu_f64.junction_forward(queue, &sum);

        norm.x = r = gated(args->f ? args->u : sum.x, args->s_out, count);
        norm.s_out = NULL;
        norm.alpha = 0;
        norm.f = norm.bias = NULL;
        norm.sdd = norm.inner = (Norm){0};
        norm.u = NULL;
        kernels_cpu_f64.junction_forward(queue, &norm);
    }
    free(x);
    free(ridden);
    free(r);
}

static void junction_forward(Queue *queue, const Junction *args) {
    size_t count = (size_t)args->N * (size_t)padded(args->C);
    if (frozen.mode == FROZEN_REPLAY) {
        replay_junction(queue, args, count);
        return;
    }
    bool noting = frozen.mode == FROZEN_RECORD;
    if (noting && args->s_ride) record(args->x, count);
    if (noting && args->s_in) record_scaled(args->x, args->s_ride, count);
    kernels_cpu_f64.junction_forward(queue, args);
    if (noting && args->s_out) record(args->f ? args->u : args->x, count);
}

static void bhyt_terms(Queue *queue, const BhytTerms *args) {
    if (frozen.mode == FROZEN_REPLAY) {
        memcpy(args->vhat, replay(2), 2 * sizeof(double));
        return;
    }
    kernels_cpu_f64.bhyt_terms(queue, args);
    if (frozen.mode == FROZEN_RECORD) record(args->vhat, 2);
}

const Kernels *frozen_kernels(void) {
    static Kernels table;
    table = kernels_cpu_f64;
    table.name = "cpu/f64, stop-gradients frozen";
    table.junction_forward = junction_forward;
    table.bhyt_terms = bhyt_terms;
    return &table;
}

int frozen_count(void) {
    return frozen.count;
}

void frozen_forget(void) {
    for (int i = 0; i < frozen.count; i++) free(frozen.list[i].values);
    free(frozen.list);
    frozen.list = NULL;
    frozen.count = frozen.room = frozen.next = 0;
}

void frozen_mode(FrozenMode mode) {
    if (mode == FROZEN_RECORD) frozen_forget();
    frozen.mode = mode;
    frozen.next = 0;
}
