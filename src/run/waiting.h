/*
 * waiting.h: does the team of threads wait longer than it works?
 *
 * On a machine that others use too, or with more threads than a quota or a mask gives CPUs, each parallel loop waits for
 * the thread that has no CPU just then, and fewer threads would be faster. What shows it is not idleness, which small
 * models have anywhere, but time in which threads were ready and had no CPU: the kernel counts it for each.
 */
#ifndef WAITING_H
#define WAITING_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Waiting {
    int threads;                  /* of the team; below two nothing is looked at, nor once it has been said */
    double since, worked, queued; /* seconds: when this window began, and what the process had used and queued by then */
    double window;                /* its length: from 2 s, doubled each time up to a minute */
    int steps;                    /* in it */
} Waiting;

/* A first window begins with the next look: what comes before is building kernels and touching memory. */
void waiting_begin(Waiting *waiting, int threads);

/* To be called after each step, which costs a look at the clock. True once at most: then the line that says so is in
 * `text`. */
bool waiting_look(Waiting *waiting, char *text, size_t size);

/* The rule, for so many seconds of a team's time: it worked less than half of it, and for a quarter it was queued. */
bool waiting_is_too_much(double seconds, int threads, double worked, double queued);

#endif
