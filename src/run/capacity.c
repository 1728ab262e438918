/* capacity.c: see capacity.h. */
#include "capacity.h"
#include "telemetry.h"
#include "../base/limits.h"
#include "../model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Measured beside the arenas, gpt2-124m on two threads: libraries and code, and oneDNN's packing buffers for each
 * thread. */
static const double PROCESS_BYTES = 45e6, THREAD_BYTES = 12e6;
/* With Open MPI 4, two ranks on a machine: the library, what it shares with the other, and collective.c's stretch. */
static const double MPI_BYTES = 13e6;

double capacity_process_bytes(const Config *c) {
    return PROCESS_BYTES + THREAD_BYTES * (double)c->threads + (c->ranks > 1 ? MPI_BYTES : 0);
}

static bool on_the_host(const Kernels *k) { return strcmp(k->device, "cpu") == 0; }

/* The limit that leaves least: the device's own memory or, on a CPU, what this process may still take. */
static MemoryLimit hard_limit(const Kernels *k) {
    MemoryLimit limit = {.free = INFINITY, .limit = INFINITY, .hard = true};
    DeviceInfo info = {0};
    k->describe(&info);
    if (on_the_host(k)) limits_memory("", true, &limit);
    if (info.memory_total && (double)info.memory_total <= limit.free) {
        limit.free = limit.limit = (double)info.memory_total;
        snprintf(limit.name, sizeof limit.name, "%s", info.name);
    }
    return limit;
}

/* "X has 24 GB", "ulimit -v (address space) has 2 GB, of which 1.6 are left". */
static void describe(const MemoryLimit *limit, char *text, size_t size) {
    int used = snprintf(text, size, "%s has %.4g GB", limit->name, limit->limit * 1e-9);
    if (limit->free < limit->limit && used > 0 && (size_t)used < size)
        snprintf(text + used, size - (size_t)used, ", of which %.4g are left", limit->free * 1e-9);
}

static double run_bytes(const Config *c, const Kernels *k, bool train) {
    MemoryPlan plan;
    model_plan(c, k, train, &plan);
    double bytes = (double)plan.weights + (double)plan.gradients + (double)plan.moments + (double)plan.activations +
                   (double)plan.workspace;
    return bytes + (train && c->stats_every ? (double)telemetry_bytes(c, k) : 0);
}

void capacity_check(const Config *c, const Kernels *k, bool train) {
    char there[256];
    double bytes = run_bytes(c, k, train);
    MemoryLimit limit = hard_limit(k), soft;
    describe(&limit, there, sizeof there);
    require(bytes <= limit.free,
            "out of memory: this run takes %.4g GB, %s; a lower --batch-size%s takes less; --dry-run says what takes how "
            "much", bytes * 1e-9, there, train && c->recompute != RECOMPUTE_BLOCK ? ", or --recompute block," : "");
    if (!on_the_host(k)) return;
    limits_memory("", false, &soft);
    describe(&soft, there, sizeof there);
    if (bytes > soft.free)
        warn("this run takes %.4g GB, %s: it may be slowed down, or killed", bytes * 1e-9, there);
}

void capacity_describe(const Kernels *k, double bytes, char *text, size_t size) {
    MemoryLimit limit = hard_limit(k), soft = {.free = INFINITY};
    char there[256];
    *text = '\0';
    if (on_the_host(k)) limits_memory("", false, &soft);
    bool fits = bytes <= limit.free;
    describe(fits ? &soft : &limit, there, sizeof there);
    if (!fits) snprintf(text, size, "this does not fit: %s", there);
    else if (bytes > soft.free) snprintf(text, size, "this may not fit: %s", there);
}
