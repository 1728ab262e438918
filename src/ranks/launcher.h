/*
 * launcher.h: which rank is this process, and how many are there?
 *
 * Whoever starts the processes tells each of them in its environment. Every launcher is a row of LAUNCHERS; the first
 * one that has left a mark speaks, in this order: MPI's own first (it may run inside a Slurm job), then torchrun (which
 * srun may start once a machine), then Slurm. None: one rank. A launcher that says half of it, or what cannot be, and two
 * that cannot both be right, are refused by the variables' names: a run that takes itself for the only one, or for
 * another rank, would write over the others.
 */
#ifndef LAUNCHER_H
#define LAUNCHER_H

#include "../base/check.h"

typedef struct Launcher {
    const char *name;        /* "Open MPI" */
    const char *starts_with; /* "mpirun -n 8", for messages */
    const char *marks[2];    /* one of these variables is set: it is this launcher; NULL: no second one */
    const char *rank, *count, *local_rank, *local_count; /* variables; NULL: not told */
    const char *by_mpi;      /* "mpirun": what would start processes that can talk by MPI; NULL: its own can */
    bool may_hold;           /* what it starts may itself start ranks: others may speak of more than it */
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

/* "2 ranks, started by torchrun (RANK, WORLD_SIZE)"; "1 rank" where nobody started several. */
void ranks_describe(const Ranks *ranks, char *text, size_t size);

/* The table, for --version: a line a launcher. */
void ranks_print_launchers(void);

#endif
