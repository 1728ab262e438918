/*
 * deadline.h: an end for what might never return.
 *
 * A rank that waits for another one ends when that takes too long, with a line of its own: each of the ranks says where it
 * waits, and the one that says nothing is the one to look at. So a rank that has said its line gives the others a moment
 * for theirs, before whoever started them ends all.
 */
#ifndef DEADLINE_H
#define DEADLINE_H

#include "check.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For a call that cannot be asked whether it is done (MPI_Init): unless deadline_lift() comes within so many seconds, the
 * program ends with this line and, a moment later, EXIT_RANKS. One at a time. */
void deadline_set(double seconds, const char *format, ...) CHECK_PRINTF(2, 3);
void deadline_lift(void);

/* Ends the program, past its exit handlers (MPI's and CUDA's wait for the rank that is gone), with EXIT_RANKS: this line,
 * then let_go() (NULL: nothing), which may hang. Where the others wait too, a moment before it for them to say theirs; none
 * where one is gone: whoever started the ranks ends them now. */
void deadline_end(bool others_wait, void (*let_go)(void), const char *format, ...) CHECK_PRINTF(3, 4) CHECK_NORETURN;

/* Seconds of a clock that nobody sets. */
double deadline_clock(void);

#ifdef __cplusplus
}
#endif
#endif
