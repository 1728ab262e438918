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

/* The limit that leaves least to each of so many processes: the device's own memory or, on a CPU, what they may still take. */
static MemoryLimit hard_limit(const Kernels *k, int processes) {
    MemoryLimit limit = {.free = INFINITY, .limit = INFINITY, .hard = true, .sharers = 1};
    DeviceInfo info = {0};
    const int sharers = on_the_host(k) ? processes : 1; /* a GPU is one rank's */
    k->describe(&info);
    if (on_the_host(k)) limits_memory("", true, processes, &limit);
    if (info.memory_total && (double)info.memory_total / sharers <= limit.free / limit.sharers) {
        limit.free = limit.limit = (double)info.memory_total;
        limit.sharers = sharers;
        snprintf(limit.name, sizeof limit.name, "%s", info.name);
    }
    return limit;
}

static MemoryLimit soft_limit(const Kernels *k, int processes) {
    MemoryLimit limit = {.free = INFINITY, .limit = INFINITY, .sharers = 1};
    if (on_the_host(k)) limits_memory("", false, processes, &limit);
    return limit;
}

static bool fits(double bytes, const MemoryLimit *limit) { return bytes * limit->sharers <= limit->free; }

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

/* "this run takes 2 GB", "this machine's 4 ranks take 8 GB". */
static const char *describe_need(double bytes, const MemoryLimit *limit, char *text, size_t size) {
    if (limit->sharers == 1) snprintf(text, size, "this run takes %.4g GB", bytes * 1e-9);
    else snprintf(text, size, "the %d ranks of this machine take %.4g GB", limit->sharers, bytes * limit->sharers * 1e-9);
    return text;
}

void capacity_check(const Config *c, const Kernels *k, const Ranks *ranks, bool train) {
    char need[96], there[256];
    Error refusal, doubt;
    const int local = c->local_ranks > 1 ? (int)c->local_ranks : 1;
    const double bytes = run_bytes(c, k, train);
    const MemoryLimit hard = hard_limit(k, local), soft = soft_limit(k, local);
    describe(&hard, there, sizeof there);
    const bool possible = fits(bytes, &hard) ||
        error_set(&refusal, "out of memory: %s, %s; a lower --batch-size%s takes less; --dry-run says what takes how much",
                  describe_need(bytes, &hard, need, sizeof need), there,
                  train && c->recompute != RECOMPUTE_BLOCK ? ", or --recompute block," : "");
    describe(&soft, there, sizeof there);
    const bool easy = fits(bytes, &soft) ||
        error_set(&doubt, "%s, %s: %s may be slowed down, or killed", describe_need(bytes, &soft, need, sizeof need), there,
                  soft.sharers == 1 ? "it" : "they");
    /* Nobody has taken any of it yet: each has seen what all of a machine share. */
    if (!ranks_well(ranks, k, possible, &refusal)) ranks_end(ranks, k, EXIT_RUNTIME, "%s", refusal.text);
    if (!ranks_well(ranks, k, easy, &doubt)) warn_for_all("%s", doubt.text);
}

void capacity_describe(const Config *c, const Kernels *k, double bytes, char *text, size_t size) {
    char there[256];
    const int ranks = on_the_host(k) ? (int)c->ranks : 1;
    const MemoryLimit hard = hard_limit(k, 1), soft = soft_limit(k, 1), together = hard_limit(k, ranks);
    *text = '\0';
    if (!fits(bytes, &hard)) {
        describe(&hard, there, sizeof there);
        snprintf(text, size, "this does not fit: %s", there);
    } else if (!fits(bytes, &together)) {
        describe(&together, there, sizeof there);
        snprintf(text, size, "all %d ranks do not fit on this machine together, with %.4g GB: %s", ranks, bytes * ranks * 1e-9, there);
    } else if (!fits(bytes, &soft)) {
        describe(&soft, there, sizeof there);
        snprintf(text, size, "this may not fit: %s", there);
    }
}
