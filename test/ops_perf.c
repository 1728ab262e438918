/* ops_perf.c: how fast is an operation? One JSON line per measured case (ops_harness.h: measure). */
#include "ops_harness.h"

#include <stdio.h>

enum { FEWEST_RUNS = 7, MOST_RUNS = 200 };
static const double SECONDS_PER_CASE = 0.3;

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of one run: the median, after one that warms caches and libraries up. */
static double median_seconds(Image *image, const Case *c) {
    const Kernels *k = image->k;
    Event *from = k->event_create(EVENT_INTERNAL), *to = k->event_create(EVENT_INTERNAL);
    double seconds[MOST_RUNS], sum = 0;
    int n = 0;
    image_run(image, c->main);
    while (n < MOST_RUNS && (n < FEWEST_RUNS || sum < SECONDS_PER_CASE)) {
        k->event_record(image->queue, from);
        operation_run(k, image->queue, c->main);
        k->event_record(image->queue, to);
        k->queue_wait(image->queue);
        seconds[n] = k->event_elapsed(from, to);
        sum += seconds[n++];
    }
    k->event_destroy(from);
    k->event_destroy(to);
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    return n % 2 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
}

/* Bytes that the operation has to move: each operand once, what is added to or rewritten in place twice. */
static double bytes_moved(const Image *image, const Case *c) {
    double bytes = 0;
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        bool twice = t->role == ADDED || t->role == INOUT;
        if (image->block[i] && !t->unread) bytes += (double)image->bytes[i] * (twice ? 2 : 1);
    }
    return bytes;
}

void measure(const Implementation *implementation, Operation operation, uint64_t seed) {
    const Family *family;
    for (int i = 0; (family = family_at(i)); i++) {
        if (family->operation != operation || !family->perf ||
            !operation_present(implementation->kernels, operation))
            continue;
        for (int pair = 0; pair < family->n_shapes * family->n_variants; pair++) {
            Case c;
            Image image;
            case_open(&c, family, pair / family->n_variants, pair % family->n_variants, seed, 0);
            if (c.impossible) {
                case_close(&c);
                continue;
            }
            case_prepare(&c, implementation);
            image_open(&image, implementation, implementation->kernels, &c);
            image_upload(&image, false);
            double seconds = median_seconds(&image, &c);
            printf("{\"bench\":\"op\",\"implementation\":\"%s\",\"operation\":\"%s\",\"shape\":\"%s\",\"ms\":"
                   "%.4f,"
                   "\"gb_per_s\":%.2f,\"gflop_per_s\":%.2f}\n",
                   implementation->kernels->name, operation_name(operation), c.title, seconds * 1e3,
                   bytes_moved(&image, &c) / seconds * 1e-9, c.flops / seconds * 1e-9);
            fflush(stdout);
            image_close(&image);
            case_close(&c);
        }
    }
}
