/* turns.c: see turns.h. */
#include "turns.h"
#include "../base/check.h"

#include <stdlib.h>

/* The one to go at a position: its next row may come, and no other's must come sooner. */
static uint32_t next_source(const uint32_t *parts, const uint32_t *taken, size_t sources, uint64_t W, uint64_t position) {
    uint32_t best = 0;
    uint64_t soonest = UINT64_MAX;
    for (uint32_t i = 0; i < sources; i++) {
        const uint64_t first = taken[i] * W / parts[i], deadline = ((taken[i] + 1) * W + parts[i] - 1) / parts[i];
        if (taken[i] < parts[i] && first <= position && deadline < soonest) soonest = deadline, best = i;
    }
    return best;
}

void turns_create(Turns *turns, const uint32_t *parts, size_t sources) {
    uint32_t taken[TURNS_SOURCES_MOST] = {0};
    *turns = (Turns){.parts = parts};
    for (size_t i = 0; i < sources; i++) turns->period += parts[i];
    turns->turn = must_malloc(turns->period * sizeof *turns->turn, "the order of a mixture");
    for (uint32_t position = 0; position < turns->period; position++) {
        const uint32_t source = next_source(parts, taken, sources, turns->period, position);
        turns->turn[position] = (struct Turn){source, taken[source]++};
    }
}

void turns_destroy(Turns *turns) {
    free(turns->turn);
    *turns = (Turns){0};
}

SourcePlace turns_at(const Turns *turns, uint64_t position) {
    const struct Turn turn = turns->turn[position % turns->period];
    return (SourcePlace){turn.source, position / turns->period * turns->parts[turn.source] + turn.before};
}

uint64_t turns_taken(const Turns *turns, size_t source, uint64_t n) {
    const uint64_t whole = n / turns->period * turns->parts[source];
    for (uint64_t at = n % turns->period; at-- > 0;)
        if (turns->turn[at].source == source) return whole + turns->turn[at].before + 1;
    return whole;
}
