/* neighbours.c: see neighbours.h. */
#define _GNU_SOURCE
#include "neighbours.h"
#include "../base/checksum.h"
#include "../base/threads.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(RankPlace) % 8 == 0, "as ranks_gather() wants it");

static bool may_use(const RankPlace *place, int cpu) { return place->cpus[cpu / 64] >> cpu % 64 & 1; }

/* How many of a machine's ranks may use a CPU. */
static int users(const RankPlace *places, int ranks, uint64_t machine, int cpu) {
    int count = 0;
    for (int r = 0; r < ranks; r++) count += places[r].machine == machine && may_use(&places[r], cpu);
    return count;
}

Neighbours neighbours_of(const RankPlace *places, int ranks, int rank) {
    const RankPlace *own = &places[rank];
    Neighbours n = {.first = -1};
    double share = 0;
    for (int r = 0; r < ranks; r++) {
        if (places[r].machine != own->machine) continue;
        n.count++;
        if (n.first < 0) n.first = r;
    }
    for (int cpu = 0; cpu < NEIGHBOURS_CPUS; cpu++)
        if (may_use(own, cpu)) share += 1.0 / users(places, ranks, own->machine, cpu);
    if (share > 0) n.cpus = share < 1 ? 1 : (int)(share + 1e-9); /* thirds add up to a little less than 1 */
    return n;
}

static uint64_t machine_here(void) {
    char text[512] = "";
    gethostname(text, 256);
    text[255] = '\0';
    const size_t length = strlen(text);
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file && !fgets(text + length, 64, file)) text[length] = '\0';
    if (file) fclose(file);
    return checksum(0, text, strlen(text));
}

Neighbours neighbours_find(const Ranks *ranks, const Kernels *k) {
    RankPlace *places = must_calloc((size_t)ranks->count, sizeof *places, "where the ranks are");
    places[ranks->rank].machine = machine_here();
    threads_mask(places[ranks->rank].cpus, NEIGHBOURS_CPUS / 64);
    ranks_gather(ranks, k, places, sizeof *places);
    const Neighbours found = neighbours_of(places, ranks->count, ranks->rank);
    free(places);
    return found;
}
