/*
 * rendezvous.h: how the ranks of a run find each other, and agree.
 *
 * On CPUs they talk by MPI, which knows them. GPUs talk by NCCL, whose id rank 0 makes; MPI passes it on. So several
 * ranks want a launcher that speaks MPI, and a build that found it.
 */
#ifndef RENDEZVOUS_H
#define RENDEZVOUS_H

#include "../../kernels/kernels.h"
#include "launcher.h"

/* Opens the collectives on the device that is open; waits for all ranks. Nothing for one rank. False, with *error set,
 * where they cannot be had. */
bool ranks_open(const Ranks *ranks, const Kernels *k, Error *error);

/* Whether every rank says yes; all of them call it, at the same place. */
bool ranks_agree(const Ranks *ranks, const Kernels *k, bool yes);

/* Rank 0's number, on every rank. */
double ranks_tell(const Ranks *ranks, const Kernels *k, double number);

/* The first rank whose text differs from rank 0's, or −1; on every rank the same answer. */
int ranks_find_difference(const Ranks *ranks, const Kernels *k, const char *text);

#endif
