/* sampler.c: see sampler.h. */
#include "sampler.h"
#include "../base/philox.h"

#include <math.h>
#include <stdbool.h>

typedef struct Candidate {
    double logit;
    uint32_t token;
} Candidate;

typedef struct Room {
    double *weights;    /* [V] */
    Candidate *heap;    /* [V] */
} Room;

size_t sampler_room_bytes(int V) { return (size_t)V * (sizeof(double) + sizeof(Candidate)); }

static Room room_in(void *memory, int V) {
    return (Room){.weights = memory, .heap = (Candidate *)((double *)memory + V)};
}

static uint32_t likeliest(const double *logits, int V) {
    int best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    return (uint32_t)best;
}

/* ------------------------------------------------------------------------------------------------------
 * The likeliest few, from a heap: V steps to build it and log V a token, where sorting would take V·log V
 * ---------------------------------------------------------------------------------------------------- */

static bool is_likelier(const Candidate *a, const Candidate *b) {
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

static void sift_down(Candidate *heap, int count, int at) {
    const Candidate moving = heap[at];
    for (int child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && is_likelier(&heap[child + 1], &heap[child])) child++;
        if (!is_likelier(&heap[child], &moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

/* Takes the likeliest off the heap. */
static Candidate pop(Candidate *heap, int *count) {
    const Candidate top = heap[0];
    heap[0] = heap[--*count];
    if (*count) sift_down(heap, *count, 0);
    return top;
}

/* The least likely token that may be drawn. The heap is used up twice where both bounds are given: top_p is a share of
 * what top_k leaves. */
static Candidate last_candidate(const Sampler *s, const double *logits, const double *weights, int V, Candidate *heap) {
    const int most = s->top_k > 0 && s->top_k < V ? (int)s->top_k : V;
    double share = 0;
    for (int i = 0; i < V; i++) heap[i] = (Candidate){logits[i], (uint32_t)i};
    for (int i = V / 2 - 1; i >= 0; i--) sift_down(heap, V, i);
    int left = V;
    if (most == V) {
        for (int i = 0; i < V; i++) share += weights[i];
    } else { /* what has been taken off stands behind the heap, the likeliest last */
        for (int i = 0; i < most; i++) {
            const Candidate top = pop(heap, &left);
            share += weights[top.token];
            heap[left] = top;
        }
        if (s->top_p >= 1) return heap[left];
    }
    share *= s->top_p;
    Candidate last = {0};
    for (int i = 0; i < most; i++) {
        last = most == V ? pop(heap, &left) : heap[V - 1 - i];
        share -= weights[last.token];
        if (share <= 0) break;
    }
    return last;
}

uint32_t sampler_draw(const Sampler *s, const double *logits, int V, uint64_t seed, uint64_t index, void *memory) {
    const uint32_t best = likeliest(logits, V);
    if (s->temperature == 0) return best;
    const Room room = room_in(memory, V);
    for (int i = 0; i < V; i++) room.weights[i] = exp((logits[i] - logits[best]) / s->temperature);
    if ((s->top_k > 0 && s->top_k < V) || s->top_p < 1) {
        const Candidate last = last_candidate(s, logits, room.weights, V, room.heap);
        for (int i = 0; i < V; i++)
            if (is_likelier(&last, &(Candidate){logits[i], (uint32_t)i})) room.weights[i] = 0;
    }
    double total = 0;
    for (int i = 0; i < V; i++) total += room.weights[i];
    double left = philox_uniform(seed, philox_name_hash("sample"), index) * total;
    for (int i = 0; i < V; i++) {
        left -= room.weights[i];
        if (left < 0) return (uint32_t)i;
    }
    return best;
}
