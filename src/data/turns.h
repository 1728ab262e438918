/*
 * turns.h: which source of a mixture gives the row at a position?
 *
 * Source i has parts[i] of all W = Σ parts. Of any first n positions it has given ⌊n·parts[i]/W⌋ or ⌈n·parts[i]/W⌉: at no point
 * is a share off by a whole row, and after every W positions it is exact. There is such an order for any shares, and "of those
 * whose turn may have come, the one that must go first" finds it: row j of a source may come from position ⌊j·W/parts[i]⌋ on,
 * and must before ⌈(j+1)·W/parts[i]⌉ (Baruah, Cohen, Plaxton and Varvel, "Proportionate progress", Algorithmica 15, 1996, for
 * one processor; equal deadlines: the source named first).
 *
 * The order repeats after W positions, so one period of it is kept, 8 bytes a position, and any position is found at once.
 */
#ifndef TURNS_H
#define TURNS_H

#include <stddef.h>
#include <stdint.h>

enum { TURNS_MOST = 1 << 20, TURNS_SOURCES_MOST = 256 }; /* W; sources */

typedef struct Turns {
    uint32_t period;       /* W */
    const uint32_t *parts; /* the caller's; outlive this */
    struct Turn {
        uint32_t source, before; /* whose it is; how many of the period that source had before */
    } *turn; /* [period] */
} Turns;

typedef struct SourcePlace {
    uint32_t source;
    uint64_t position; /* in the sequence of that source alone */
} SourcePlace;

/* 1 to TURNS_SOURCES_MOST sources, each of 1 part or more, at most TURNS_MOST in all. */
void turns_create(Turns *turns, const uint32_t *parts, size_t sources);
void turns_destroy(Turns *turns);

SourcePlace turns_at(const Turns *turns, uint64_t position);

/* How many of the first n positions are that source's. */
uint64_t turns_taken(const Turns *turns, size_t source, uint64_t n);

#endif
