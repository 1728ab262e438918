/*
 * neighbours.h: which ranks work on this one's machine, and how many of its CPUs are this one's?
 *
 * What starts the ranks does not always say, and may give each of them all CPUs (mpirun binds no rank where there are more
 * than CPUs; --bind-to none). So they tell each other: each its machine, which is its name and the kernel's boot_id, so that
 * containers with limits of their own are machines of their own; and the CPUs of its affinity mask. A CPU that several masks
 * have is shared out evenly.
 */
#ifndef NEIGHBOURS_H
#define NEIGHBOURS_H

#include "rendezvous.h"

#include <stdint.h>

enum { NEIGHBOURS_CPUS = 1024 };

/* Where a rank is. */
typedef struct RankPlace {
    uint64_t machine;
    uint64_t cpus[NEIGHBOURS_CPUS / 64]; /* bit i % 64 of word i / 64: it may use CPU i; none: that is not known */
} RankPlace;

typedef struct Neighbours {
    int count; /* ranks of this machine, this one too */
    int first; /* the first of them, who speaks for them */
    int cpus;  /* whole ones that are this rank's, 1 at least; 0: not known */
} Neighbours;

/* A pure function. */
Neighbours neighbours_of(const RankPlace *places, int ranks, int rank);

/* Asks the others; all ranks call it. */
Neighbours neighbours_find(const Ranks *ranks, const Kernels *k);

#endif
