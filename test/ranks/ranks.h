/*
 * ranks.h: how a test program that is started several times learns which rank it is, and opens the collectives.
 *
 *     mpirun -n 2 build/test_collective           or, without MPI:
 *     for r in 0 1; do RANK=$r RANKS=2 build/test_collective_cuda & done; wait
 *
 * All ranks run on one machine. The unique id goes through a file: RANKS_ID_FILE of the environment, or one in TMPDIR
 * (or /tmp) with the number of the process that started them all in its name.
 */
#ifndef RANKS_H
#define RANKS_H

#include "../../kernels/kernels.h"

typedef struct Ranks {
    int rank, ranks;
    const Kernels *k; /* cuda/f32, or cpu/f32 with -DRANKS_CPU; a device's other types have the same functions */
} Ranks;

extern const Kernels *const ranks_tables[2]; /* all that have these collectives */

/* Takes this rank's device: that of its number, or else the first. False, with one line, where there is none. */
bool ranks_take_device(Ranks *r, char *text, size_t size);

/* Opens the communicator, as this rank of so many with this id; no wait is longer than RANKS_TIMEOUT seconds of the
 * environment (600). After step 17, say the messages. */
bool ranks_join(const Ranks *r, int rank, int ranks, const void *id, char *text, size_t size);

/* Makes and passes on the unique id, and opens the communicator. */
bool ranks_meet(const Ranks *r, char *text, size_t size);

#endif
