/*
 * capacity.h: does a run fit into the memory that this process may take?
 *
 * Memory is taken lazily on a CPU: without a look beforehand a run that cannot fit would be killed in its first step.
 */
#ifndef CAPACITY_H
#define CAPACITY_H

#include "../../kernels/kernels.h"
#include "../ranks/rendezvous.h"
#include "../settings/config.h"

/* Exit 1 with the numbers and the limit's name where the run takes more than the device has or, on a CPU, more than a
 * container, ulimit or the machine lets this process take, or config->local_ranks of them together; a warning where it takes
 * more than is left at present. All ranks call it, before any has taken memory, and end alike, with one line. */
void capacity_check(const Config *config, const Kernels *k, const Ranks *ranks, bool train);

/* What a plan of so many bytes a rank would meet there: a line for people, or "". */
void capacity_describe(const Config *config, const Kernels *k, double bytes, char *text, size_t size);

/* Resident memory of a rank beside the arenas, an estimate. */
double capacity_process_bytes(const Config *config);

#endif
