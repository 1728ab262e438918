/*
 * collective.c: sums and copies over the ranks of a run, by MPI.
 *
 * A sum's order must not hang on which algorithm a library picks for a size. So MPI moves the bytes and the sums are
 * taken here: each rank is given the others' values of its own piece (an all-to-all) and adds them up in the order of
 * the ranks; an all-reduce then gathers the pieces. That sends as much as the best of MPI's own all-reduces does,
 * 2·(R − 1)/R of the buffer from each rank, and every rank holds the same bits, whatever the library, its version and
 * the placement of the ranks. An all-reduce has the bits of a reduce-scatter and a gather. bf16 is summed in fp32 and
 * rounded once.
 *
 * Buffers go through in stretches, so that what is received needs little room, taken when the communicator opens.
 * A queue runs its work at once, so a collective returns when it is done. One that takes longer than the setup's timeout_s
 * ends the program: the ranks that wait tell each other so, and name those that say nothing.
 */
#ifdef WITH_MPI
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cpu.h"
#include "../../src/base/deadline.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STRETCH_BYTES = 4 << 20 }; /* of a buffer: one round of messages */
static const double ROLL_CALL_S = 3;

static int rank_here, rank_count; /* rank_count 0: no communicator is open */
static double timeout_s;
static const int64_t *steps_done; /* NULL: there are no steps */
static bool ours_to_finalize;
static int *counts, *places;      /* [rank_count] of one exchange, in elements */
static int *own_counts, *own_places;
static unsigned char *received;   /* [rank_count] pieces of a stretch */

/* --- Waiting ------------------------------------------------------------------------------------------ */

static void abort_all(void) { MPI_Abort(MPI_COMM_WORLD, EXIT_RANKS); }

/* "all_reduce_sum, after step 17": what a rank is in. */
static const char *place(const char *operation, char text[80]) {
    if (steps_done) snprintf(text, 80, "%s, after step %lld", operation, (long long)*steps_done);
    else snprintf(text, 80, "%s", operation);
    return text;
}

static void must(int status, const char *call, const char *operation) {
    if (status == MPI_SUCCESS) return;
    char reason[MPI_MAX_ERROR_STRING], where[80];
    int length = 0;
    MPI_Error_string(status, reason, &length);
    deadline_end(false, abort_all, "rank %d of %d, in %s: %s: %.*s", rank_here, rank_count, place(operation, where), call, length, reason);
}

/* Each rank that has waited too long tells the others, and listens for a moment: so many say nothing. Fills in the first of
 * those. The request is left as it is: nobody comes back from here. */
static int call_the_roll(int *silent) {
    enum { TAG = 4 };
    static const char here = 1;
    char *said = must_calloc((size_t)rank_count, 1, "a roll call");
    MPI_Request *requests = must_calloc(2 * (size_t)rank_count, sizeof *requests, "a roll call");
    for (int r = 0; r < rank_count; r++) {
        if (r == rank_here) continue;
        MPI_Irecv(&said[r], 1, MPI_BYTE, r, TAG, MPI_COMM_WORLD, &requests[r]);
        MPI_Isend(&here, 1, MPI_BYTE, r, TAG, MPI_COMM_WORLD, &requests[rank_count + r]);
    }
    int missing = rank_count - 1;
    for (double begun = deadline_clock(); missing && deadline_clock() - begun < ROLL_CALL_S; usleep(1000)) {
        missing = 0;
        for (int r = rank_count - 1, done; r >= 0; r--) {
            if (r == rank_here) continue;
            MPI_Test(&requests[r], &done, MPI_STATUS_IGNORE); /* a request that was done is MPI_REQUEST_NULL: done again */
            if (!done) missing++, *silent = r;
        }
    }
    return missing;
}

CHECK_NORETURN static void end_waiting(const char *operation, double waited) {
    char where[80], whom[96] = "all wait like this one: do they do the same?";
    int silent = -1, missing;
    warn("rank %d of %d waited %.0f s in %s, longer than --timeout: another rank hangs or is gone", rank_here, rank_count,
         waited, place(operation, where));
    missing = call_the_roll(&silent);
    if (missing == 1) snprintf(whom, sizeof whom, "rank %d says nothing: it hangs, is slow, or is gone", silent);
    if (missing > 1) snprintf(whom, sizeof whom, "%d ranks say nothing, the first of them rank %d", missing, silent);
    deadline_end(true, abort_all, "rank %d of %d: %s", rank_here, rank_count, whom);
}

/* Until the request is done. Ranks are apart by less than a step, as a rule: so first by asking again and again. */
static void await(MPI_Request *request, const char *operation) {
    double begun = deadline_clock();
    for (int done = 0;;) {
        must(MPI_Test(request, &done, MPI_STATUS_IGNORE), "MPI_Test", operation);
        if (done) return;
        double waited = deadline_clock() - begun;
        if (waited > timeout_s) end_waiting(operation, waited);
        if (waited < 1e-3) sched_yield();
        else usleep(50);
    }
}

/* --- Sums --------------------------------------------------------------------------------------------- */

static float widen(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static uint16_t round_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* a NaN stays one */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* sum[i] = Σ over the ranks, in their order, of the n elements that each sent. */
#define SUM(name, type, wide, read, write)                                                                   \
    static void name(void *sum, int64_t n) {                                                                 \
        type *out = sum;                                                                                     \
        const type *in = (const type *)received;                                                             \
        _Pragma("omp parallel for simd schedule(static) if (n > 65536)")                                     \
        for (int64_t i = 0; i < n; i++) {                                                                    \
            wide total = read(in[i]);                                                                        \
            for (int r = 1; r < rank_count; r++) total += read(in[r * n + i]);                               \
            out[i] = write(total);                                                                           \
        }                                                                                                    \
    }
#define AS_IT_IS(value) (value)
SUM(sum_f32, float, float, AS_IT_IS, AS_IT_IS)
SUM(sum_f64, double, double, AS_IT_IS, AS_IT_IS)
SUM(sum_bf16, uint16_t, float, widen, round_to_bf16)

static void (*const SUMS[DTYPE_COUNT])(void *, int64_t) = {
    [DTYPE_F32] = sum_f32, [DTYPE_F64] = sum_f64, [DTYPE_BF16] = sum_bf16};

/* --- The operations ----------------------------------------------------------------------------------- */

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* What a caller can get wrong. Returns the bytes of an element. */
static size_t check_call(const char *operation, const Collective *c, bool in_pieces) {
    static const char *const TYPES[DTYPE_COUNT] = {[DTYPE_F32] = "fp32", [DTYPE_F64] = "fp64", [DTYPE_BF16] = "bf16"};
    require(rank_count, "%s: collective_open has opened no communicator", operation);
    require(c->type >= 0 && c->type < DTYPE_COUNT, "%s: %d is no type", operation, (int)c->type);
    require(c->count >= 0, "%s: a count of %lld", operation, (long long)c->count);
    require(c->buffer || c->count == 0, "%s: %lld elements at NULL", operation, (long long)c->count);
    require(!in_pieces || c->count % rank_count == 0, "%s: %lld %s cannot be cut into pieces for %d ranks", operation,
            (long long)c->count, TYPES[c->type], rank_count);
    require(!in_pieces || c->count <= INT_MAX, "%s: %lld %s are more than MPI's int counts; call it by parts", operation,
            (long long)c->count, TYPES[c->type]);
    return dtype_size(c->type);
}

/* The ranks' pieces of a stretch: rank r has n[r] elements, from element first + r·apart on. */
typedef struct Pieces {
    int64_t first, apart, most; /* most: elements of all but the last pieces */
    int64_t end;                /* no piece goes beyond */
} Pieces;

static int64_t piece_start(const Pieces *p, int r) {
    return least(p->first + r * p->apart, p->end);
}

static int64_t piece_size(const Pieces *p, int r) {
    return least(p->most, p->end - piece_start(p, r));
}

static void lay_out(const Pieces *p) {
    for (int r = 0; r < rank_count; r++) {
        places[r] = (int)(piece_start(p, r) - p->first);
        counts[r] = (int)piece_size(p, r);
        own_counts[r] = (int)piece_size(p, rank_here);
        own_places[r] = r * own_counts[r];
    }
}

/* This rank's piece becomes the sum. */
static void sum_pieces(const Collective *c, const Pieces *p, size_t element, const char *operation) {
    unsigned char *start = (unsigned char *)c->buffer + (size_t)p->first * element;
    MPI_Datatype type = element == 8 ? MPI_UINT64_T : element == 4 ? MPI_UINT32_T : MPI_UINT16_T;
    MPI_Request request;
    lay_out(p);
    must(MPI_Ialltoallv(start, counts, places, type, received, own_counts, own_places, type, MPI_COMM_WORLD, &request), "MPI_Ialltoallv", operation);
    await(&request, operation);
    SUMS[c->type](start + (size_t)places[rank_here] * element, piece_size(p, rank_here));
}

/* Every piece becomes that of its rank. */
static void gather_pieces(const Collective *c, const Pieces *p, size_t element, const char *operation) {
    unsigned char *start = (unsigned char *)c->buffer + (size_t)p->first * element;
    MPI_Datatype type = element == 8 ? MPI_UINT64_T : element == 4 ? MPI_UINT32_T : MPI_UINT16_T;
    MPI_Request request;
    lay_out(p);
    must(MPI_Iallgatherv(MPI_IN_PLACE, 0, type, start, counts, places, type, MPI_COMM_WORLD, &request),
         "MPI_Iallgatherv", operation);
    await(&request, operation);
}

/* Elements of one rank's piece in a stretch. */
static int64_t stretch_of(size_t element) {
    int64_t n = (int64_t)(STRETCH_BYTES / element) / rank_count;
    return n ? n : 1;
}

void NAME(all_reduce_sum)(Queue *queue, const Collective *c) {
    (void)queue;
    size_t element = check_call("all_reduce_sum", c, false);
    for (int64_t at = 0, stretch = stretch_of(element) * rank_count; at < c->count; at += stretch) {
        int64_t end = least(at + stretch, c->count), piece = (end - at + rank_count - 1) / rank_count;
        Pieces pieces = {.first = at, .apart = piece, .most = piece, .end = end};
        sum_pieces(c, &pieces, element, "all_reduce_sum");
        gather_pieces(c, &pieces, element, "all_reduce_sum");
    }
}

/* Each stretch of a buffer in pieces: the same part of every rank's. */
static void by_stretches(const Collective *c, const char *operation,
                         void (*exchange)(const Collective *, const Pieces *, size_t, const char *)) {
    size_t element = check_call(operation, c, true);
    int64_t piece = c->count / rank_count, stretch = stretch_of(element);
    for (int64_t at = 0; at < piece; at += stretch)
        exchange(c, &(Pieces){.first = at, .apart = piece, .most = least(stretch, piece - at), .end = c->count}, element,
                 operation);
}

void NAME(reduce_scatter_sum)(Queue *queue, const Collective *c) {
    (void)queue;
    by_stretches(c, "reduce_scatter_sum", sum_pieces);
}

void NAME(all_gather)(Queue *queue, const Collective *c) {
    (void)queue;
    by_stretches(c, "all_gather", gather_pieces);
}

void NAME(broadcast)(Queue *queue, const Collective *c) {
    (void)queue;
    size_t bytes = check_call("broadcast", c, false) * (size_t)c->count;
    for (size_t at = 0; at < bytes; at += STRETCH_BYTES) {
        size_t part = bytes - at < STRETCH_BYTES ? bytes - at : STRETCH_BYTES;
        MPI_Request request;
        must(MPI_Ibcast((char *)c->buffer + at, (int)part, MPI_BYTE, 0, MPI_COMM_WORLD, &request), "MPI_Ibcast",
             "broadcast");
        await(&request, "broadcast");
    }
}

/* --- The communicator --------------------------------------------------------------------------------- */

/* MPI knows who its ranks are. */
size_t NAME(collective_unique_id)(const char *address, void *id, size_t size) {
    (void)address, (void)id;
    require(!id || size == 0, "collective_unique_id: MPI's ranks need no id, not one of %zu bytes", size);
    return 0;
}

/* MPI starts when every rank is there, and knows no deadline. */
static bool start_mpi(const CollectiveSetup *setup, char *text, size_t size) {
    int initialized = 0, level = 0;
    MPI_Initialized(&initialized);
    if (initialized) return true;
    deadline_set(setup->timeout_s, "rank %d of %d waited %.0f s in MPI_Init: another rank did not come", setup->rank, setup->ranks,
                 setup->timeout_s);
    int status = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    deadline_lift();
    if (status != MPI_SUCCESS || level < MPI_THREAD_FUNNELED) {
        snprintf(text, size, "MPI cannot be initialised beside OpenMP's threads");
        return false;
    }
    ours_to_finalize = true;
    return true;
}

bool NAME(collective_open)(const CollectiveSetup *setup, char *text, size_t size) {
    const int rank = setup->rank, ranks = setup->ranks;
    if (rank_count) {
        snprintf(text, size, "a communicator is open already, as rank %d of %d: one a process", rank_here, rank_count);
        return false;
    }
    if (ranks < 1 || rank < 0 || rank >= ranks) {
        snprintf(text, size, "there is no rank %d of %d: ranks are counted from 0", rank, ranks);
        return false;
    }
    if (!start_mpi(setup, text, size)) return false;
    int there = 0, here = 0;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_size(MPI_COMM_WORLD, &there);
    MPI_Comm_rank(MPI_COMM_WORLD, &here);
    if (there != ranks || here != rank) {
        snprintf(text, size, "MPI calls this rank %d of %d, not %d of %d: was it started by an mpirun of the MPI that it was "
                 "built with?", here, there, rank, ranks);
        return false;
    }
    counts = must_calloc(4 * (size_t)ranks, sizeof *counts, "the ranks' pieces");
    places = counts + ranks, own_counts = places + ranks, own_places = own_counts + ranks;
    received = must_malloc((size_t)ranks * 8 + STRETCH_BYTES, "what ranks send");
    rank_here = rank;
    rank_count = ranks;
    timeout_s = setup->timeout_s;
    steps_done = setup->step;
    return true;
}

void NAME(collective_close)(void) {
    if (!rank_count) return;
    free(counts);
    free(received);
    if (ours_to_finalize) {
        deadline_set(timeout_s, "rank %d of %d waited %.0f s in MPI_Finalize, its work done: another rank did not come to it",
                     rank_here, rank_count, timeout_s);
        MPI_Finalize();
        deadline_lift();
    }
    rank_count = 0;
    ours_to_finalize = false;
}

#else

typedef int collective_needs_mpi; /* a file holds something */

#endif
