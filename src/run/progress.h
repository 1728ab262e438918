/*
 * progress.h: the line of a step, in as many columns as there are.
 *
 * On a terminal the line is rewritten in place, which works only while it is one row: a row too many would stay behind
 * at every step. So it holds what fits, by a table of what matters more, and leaves the last column free. All of it is
 * ASCII: a byte is a column.
 */
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

enum { PROGRESS_SIZE = 256 };

typedef struct ProgressStep {
    int64_t step, steps;
    double loss, val, lr, grad_norm, ms, tokens_per_s; /* val: NaN before the first */
    double flops, peak_flops;                          /* of a second; peak 0: not known */
    double seconds_left;
} ProgressStep;

/* The whole line. */
void progress_whole(const ProgressStep *s, char text[PROGRESS_SIZE]);

/* What fits into a row of this many columns. */
void progress_fit(const ProgressStep *s, int columns, char text[PROGRESS_SIZE]);

/* Whether stdout is a terminal whose lines can be rewritten: TERM=dumb, or none, says that it cannot. Open MPI's mpirun
 * gives a rank a terminal of its own, wherever its own output goes: that is none. */
bool terminal_rewrites(void);

/* The columns of the terminal that stdout is, at this moment; where it does not say, COLUMNS or 80. */
int terminal_columns(void);

#endif
