/*
 * threads.h: how many threads work here, and how do they wait?
 *
 * oneDNN, OpenBLAS and our own loops cut their work into as many parts as OpenMP says there are threads. A team that
 * turns out smaller (OMP_THREAD_LIMIT, OMP_DYNAMIC, a limit on processes, …) would leave parts undone without a word, or
 * be waited for without end. So the size of a team that has really come together is what omp_get_max_threads() says from
 * here on, and what everything goes by.
 */
#ifndef THREADS_H
#define THREADS_H

#include <stdbool.h>
#include <stdint.h>

/* Makes waiting brief; call it first in main(). libgomp's threads spin for milliseconds before they sleep, on a shared
 * machine in the way of those they wait for; it reads how long from the environment while it is being loaded, so the
 * program starts itself once more with GOMP_SPINCOUNT set. OMP_WAIT_POLICY or GOMP_SPINCOUNT of the user's wins: then,
 * as wherever the second start is not possible, nothing happens. */
void threads_wait_briefly(char **argv);

/* CPUs that this process may keep busy, at least one: of its affinity mask, bounded by a quota's, rounded up. */
int threads_cpus(void);

/* Bit i % 64 of word i / 64: this process may use CPU i, for all that its mask and OMP_PLACES say. No bit: that is not known. */
void threads_mask(uint64_t *words, int count);

/* Whether OMP_NUM_THREADS says a number. */
bool threads_environment_asks(void);

/* The number that nobody's --threads changes: OMP_NUM_THREADS's, or threads_cpus(). */
int threads_default(void);

/* Settles the number of threads and returns it: `asked` (of --threads) or, if that is 0, threads_default(); less
 * where the machine or the environment gives no team of that size. A line says so if it was asked
 * for, and also if it is more than there are CPUs. Exit 2 where threads have too small a stack to compute anything. */
int threads_settle(int asked);

/* The number that was settled; settles it if nobody has. */
int threads_team(void);

#endif
