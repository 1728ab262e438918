/*
 * rendezvous.h: how the ranks of a run find each other, and agree.
 *
 * On CPUs they talk by MPI, which knows them. GPUs talk by NCCL, whose ranks need an id: under a launcher that speaks MPI,
 * in a build that found it, rank 0's is broadcast; elsewhere NCCL makes the same one on every rank, of an address
 * (address.h).
 */
#ifndef RENDEZVOUS_H
#define RENDEZVOUS_H

#include "../../kernels/kernels.h"
#include "launcher.h"

typedef struct Meeting {
    const char *rendezvous; /* --rendezvous, or NULL: an address that is wanted in any case */
    double timeout_s;       /* no wait of a rank for others is longer, now or later: the program ends then (EXIT_RANKS) */
    const int64_t *step;    /* finished steps, to be read at any time, for the line that is said then */
} Meeting;

/* Opens the collectives on the device that is open; waits for all ranks. Nothing for one rank. False, with *error set,
 * where they cannot be had. */
bool ranks_open(const Ranks *ranks, const Kernels *k, const Meeting *meeting, Error *error);

/* After the device is closed, at the end of a run that all ranks have done. */
void ranks_close(void);

/* Work of a rank may take longer than the others are ready to wait, as that of a disk: between these two calls, which all ranks
 * make, it counts for nothing. Whoever works tells the others by at_work.h that it does, and calls none of the below. The
 * second returns when every rank has come to it. */
void ranks_work_begin(const Ranks *ranks, const Kernels *k, double timeout_s);
void ranks_work_end(void);

/* Whether all ranks are well. If one is not, *error is what the first such has said, with its number unless all have
 * said the same. */
bool ranks_well(const Ranks *ranks, const Kernels *k, bool well, Error *error);

/* Ends all ranks by what all have found alike, with this code; rank 0 says it, before any is gone, for whoever started them
 * ends the others then. */
void ranks_end(const Ranks *ranks, const Kernels *k, int code, const char *format, ...) CHECK_PRINTF(4, 5) CHECK_NORETURN;

/* Whether every rank says yes; all of them call it, at the same place. */
bool ranks_agree(const Ranks *ranks, const Kernels *k, bool yes);

/* Rank 0's number, on every rank. */
double ranks_tell(const Ranks *ranks, const Kernels *k, double number);

/* Every rank's part on every rank: all[count], of so many bytes each, a multiple of 8; a rank's own is in its place. Nothing for
 * one rank. */
void ranks_gather(const Ranks *ranks, const Kernels *k, void *all, size_t bytes);

/* The first rank whose text differs from rank 0's, or −1; on every rank the same answer. */
int ranks_find_difference(const Ranks *ranks, const Kernels *k, const char *text);

#endif
