/*
 * launcher.h: which rank is this process, and how many are there?
 *
 * Whoever starts the processes tells each of them in its environment. Every launcher is a row of LAUNCHERS; the first
 * one whose mark is set speaks, in this order: MPI's own first (it may run inside a Slurm job), then torchrun (which
 * srun may start once a machine), then Slurm. None: one rank. A launcher that says half of it, or what cannot be, is
 * refused by the variable's name: a run that takes itself for the only one would write over the others.
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "../base/check.h"

typedef struct Launcher {
    const char *name;        /* "Open MPI" */
    const char *starts_with; /* "mpirun -n 8", for messages */
    const char *mark;        /* this variable is set: it is this launcher */
    const char *rank, *count, *local_rank, *local_count; /* variables; NULL: not told */
    bool mpi;                /* its processes can talk by MPI */
} Launcher;

typedef struct Ranks {
    int rank, count;             /* 0 ≤ rank < count */
    int local_rank, local_count; /* on this machine; local_count is 0 where the launcher does not tell */
    const Launcher *launcher;    /* NULL: nobody started several */
} Ranks;

extern const Launcher LAUNCHERS[];
extern const int LAUNCHER_COUNT;

/* From the environment. False with *error set, naming the variable and its value. */
bool ranks_from_environment(Ranks *ranks, Error *error);

/* The table, for --version: a line a launcher. */
void ranks_print_launchers(void);

#endif
