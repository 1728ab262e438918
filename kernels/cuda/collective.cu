/*
 * collective.cu: sums and copies over the ranks of a run, by NCCL.
 *
 * One communicator a process, over the device that is open. A collective is work of its queue like a kernel, and
 * may be captured. NCCL is opened when a collective is first asked for (library.cuh), so that a machine without
 * it trains on one GPU.
 *
 * The same bits, run after run: what a sum's order hangs on. For every call NCCL chooses an algorithm, a protocol
 * and a number of channels, from the operation, type and count, the number of ranks, its version and the topology
 * that it found; the order of the GPUs in a ring comes from the topology as well. So the same machine, library,
 * ranks and calls give the same order. Not so with
 *   - sums inside the NVLink switch (NVLS): they differed from call to call (NVIDIA/nccl issue 1497, driver), and
 *     with what other communicators hold (issue 2360);
 *   - buffers that NCCL registers while a graph is captured: a captured call then takes another path than the
 *     same call outside, and --cuda-graph may change no bit.
 * Hence NCCL_SETTINGS below, unless the environment has them already. Rings cost latency where ranks are on many
 * machines; no other algorithm does all four operations. bf16 is rounded after each addition: R − 1 times for R
 * ranks. Another number of ranks, another placement of ranks on GPUs, another NCCL: other bits.
 *
 * The communicator does not block: what NCCL would wait in, it is asked about instead, so that no wait for another rank,
 * from the first on, is without an end. Where nobody passes on an id, NCCL_COMM_ID does: set before NCCL's first call, it
 * makes every rank's id that of an address, where rank 0 listens inside ncclCommInitRankConfig. (NCCL then takes the
 * network interface whose subnet the address is in, and fails where there is none.)
 *
 * A ring sends 2·(R − 1)/R of the buffer from each rank in an all-reduce, half of that in the others.
 */
#include "collective.cuh"

#ifdef WITH_NCCL

#include "library.cuh"
#include "../../src/base/deadline.h"

#include <nccl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

#define NCCL_FUNCTIONS(X)                                                                                    \
    X(GetUniqueId)                                                                                           \
    X(CommInitRankConfig)                                                                                    \
    X(CommFinalize)                                                                                          \
    X(CommDestroy)                                                                                           \
    X(CommAbort)                                                                                             \
    X(CommGetAsyncError)                                                                                     \
    X(GetErrorString)                                                                                        \
    X(GetLastError)                                                                                          \
    X(AllReduce)                                                                                             \
    X(ReduceScatter)                                                                                         \
    X(AllGather)                                                                                             \
    X(Broadcast)

struct Nccl {
#define MEMBER(name) LIBRARY_FUNCTION(nccl, name)
    NCCL_FUNCTIONS(MEMBER)
} nccl;

const char *const NCCL_SETTINGS[][2] = {
    {"NCCL_ALGO", "Ring"}, {"NCCL_NVLS_ENABLE", "0"}, {"NCCL_GRAPH_REGISTER", "0"}};

ncclComm_t communicator; /* NULL: none is open, or being opened */
int rank_here, rank_count;
double timeout_s;
const int64_t *steps_done; /* NULL: there are no steps */

/* The collectives that were put into queues last, and an event behind each: which one does a rank wait in? */
enum { CALLS_KEPT = 64 };
struct Call {
    const char *operation, *type;
    long long count;
    cudaEvent_t done;
    bool captured; /* an event in a graph cannot be asked */
} calls[CALLS_KEPT];
int64_t calls_made;
bool some_captured; /* there are graphs with collectives, or were */

bool nccl_load(char *text, size_t size) {
    if (nccl.GetUniqueId) return true;
    for (const auto &setting : NCCL_SETTINGS)
        setenv(setting[0], setting[1], 0); /* read at NCCL's first call */
    Library library = {LIBRARY_FILE("libnccl", NCCL_MAJOR), text, size, NULL};
    Nccl found = {};
#define FIND(name) &&library.find("nccl" #name, &found.name)
    if (!(library.open() NCCL_FUNCTIONS(FIND))) return false;
    nccl = found;
    return true;
}

/* Asks again at once for a while: ranks are apart by much less than a step, as a rule. */
void back_off(double waited) {
    if (waited < 1e-3)
        sched_yield();
    else
        usleep(50);
}

/* ncclCommAbort ends kernels that wait for a rank that is gone; without it CUDA might wait for them at the end. */
void let_go() {
    if (communicator) nccl.CommAbort(communicator);
}

/* ", after step 17" */
const char *progress(char (&text)[64]) {
    text[0] = '\0';
    if (steps_done) snprintf(text, sizeof text, ", after step %lld", (long long)*steps_done);
    return text;
}

CHECK_NORETURN void end_waiting(const char *where, double waited) {
    char step[64];
    deadline_end(true, let_go,
                 "rank %d of %d%s, waited %.0f s in %s, longer than --timeout: another rank hangs or is gone; it is the one "
                 "that says nothing",
                 rank_here, rank_count, progress(step), waited, where);
}

/* NCCL has found that a rank is gone, or something else that no wait will mend. */
CHECK_NORETURN void end_failed(const char *where, ncclResult_t status) {
    char step[64];
    deadline_end(false, let_go, "rank %d of %d%s, in %s: NCCL: %s (%s)%s", rank_here, rank_count, progress(step), where,
                 nccl.GetErrorString(status), nccl.GetLastError(communicator),
                 status == ncclRemoteError ? "" : "; NCCL_DEBUG=INFO says more");
}

/* Until NCCL has done what it was asked for in the background. */
ncclResult_t settle(ncclResult_t status, const char *where) {
    for (const double begun = deadline_clock(); status == ncclInProgress;) {
        const ncclResult_t asked = nccl.CommGetAsyncError(communicator, &status);
        if (asked != ncclSuccess) return asked;
        const double waited = deadline_clock() - begun;
        if (status == ncclInProgress && waited > timeout_s) end_waiting(where, waited);
        if (status == ncclInProgress) back_off(waited);
    }
    return status;
}

/* The first of the collectives that is not done. */
const char *find_place(char (&text)[160]) {
    for (int64_t i = calls_made > CALLS_KEPT ? calls_made - CALLS_KEPT : 0; i < calls_made; i++) {
        const Call &call = calls[i % CALLS_KEPT];
        if (call.captured || cudaEventQuery(call.done) != cudaErrorNotReady) continue;
        snprintf(text, sizeof text, "%s of %lld %s", call.operation, call.count, call.type);
        return text;
    }
    snprintf(text, sizeof text, some_captured ? "a captured graph with collectives" : "its device");
    return text;
}

/* A collective was put into the queue. */
void note_call(Queue *queue, const char *operation, const Collective *c, const char *type) {
    Call &call = calls[calls_made++ % CALLS_KEPT];
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_CHECK(cudaStreamIsCapturing(queue->stream, &capture), "asking whether a stream is captured");
    call.operation = operation, call.type = type, call.count = (long long)c->count;
    call.captured = capture != cudaStreamCaptureStatusNone;
    some_captured = some_captured || call.captured;
    if (call.captured) return;
    if (!call.done) CUDA_CHECK(cudaEventCreate(&call.done), "making an event");
    CUDA_CHECK(cudaEventRecord(call.done, queue->stream), "recording an event");
}

void forget_calls() {
    for (Call &call : calls) {
        if (call.done) CUDA_CHECK(cudaEventDestroy(call.done), "giving back an event");
        call = Call();
    }
    calls_made = 0;
    some_captured = false;
}

const struct {
    const char *name;
    ncclDataType_t nccl;
} types[DTYPE_COUNT] = {{"fp32", ncclFloat32}, {"fp64", ncclFloat64}, {"bf16", ncclBfloat16}};

/* What a caller can get wrong. Returns NCCL's type. */
ncclDataType_t check_call(const char *operation, const Collective *c, bool in_pieces) {
    require(communicator, "%s: collective_open has opened no communicator", operation);
    require(c->type >= 0 && c->type < DTYPE_COUNT, "%s: %d is no type", operation, (int)c->type);
    require(c->count >= 0, "%s: a count of %lld", operation, (long long)c->count);
    require(c->buffer || c->count == 0, "%s: %lld elements at NULL", operation, (long long)c->count);
    require(!in_pieces || c->count % rank_count == 0,
            "%s: %lld elements cannot be cut into pieces for %d ranks", operation, (long long)c->count,
            rank_count);
    return types[c->type].nccl;
}

void check_done(ncclResult_t status, Queue *queue, const char *call, const char *operation, const Collective *c) {
    status = settle(status, call);
    if (status == ncclSuccess) return note_call(queue, operation, c, types[c->type].name);
    if (status == ncclRemoteError) end_failed(call, status);
    cuda_fail("NCCL", nccl.GetErrorString(status), nccl.GetLastError(communicator), call,
              "%s of %lld %s, rank %d of %d", operation, (long long)c->count, types[c->type].name, rank_here,
              rank_count);
}

/* This rank's piece of a buffer that is cut among the ranks. */
void *own_piece(const Collective *c, size_t *elements) {
    *elements = (size_t)(c->count / rank_count);
    return static_cast<char *>(c->buffer) + (size_t)rank_here * *elements * dtype_size(c->type);
}

bool misuse(const CollectiveSetup *setup, char *text, size_t size) {
    const int rank = setup->rank, ranks = setup->ranks;
    if (communicator)
        snprintf(text, size, "a communicator is open already, as rank %d of %d: one a process", rank_here,
                 rank_count);
    else if (ranks < 1 || rank < 0 || rank >= ranks)
        snprintf(text, size, "there is no rank %d of %d: ranks are counted from 0", rank, ranks);
    else if (!setup->unique_id)
        snprintf(text, size, "rank %d of %d was given no unique id", rank, ranks);
    else
        return false;
    return true;
}

/* Whom this rank waits for while it opens, and where. */
void describe_meeting(const CollectiveSetup *setup, char *text, size_t size) {
    char whom[64];
    const bool two = setup->ranks == 2;
    if (setup->rank && setup->meets_at)
        snprintf(whom, sizeof whom, "rank 0 to listen, and for all others");
    else if (two)
        snprintf(whom, sizeof whom, "rank %d", !setup->rank);
    else
        snprintf(whom, sizeof whom, "all of the other %d ranks", setup->ranks - 1);
    snprintf(text, size, "ncclCommInitRankConfig for %s%s%s", whom, setup->meets_at ? " at " : "",
             setup->meets_at ? setup->meets_at : "");
}

} // namespace

size_t collective_unique_id(const char *address, void *id, size_t size) {
    if (!id) return sizeof(ncclUniqueId);
    require(size == sizeof(ncclUniqueId), "collective_unique_id: an id has %zu bytes, not %zu",
            sizeof(ncclUniqueId), size);
    char text[384];
    require(!address || setenv("NCCL_COMM_ID", address, 1) == 0, "no room in the environment for NCCL_COMM_ID");
    require(nccl_load(text, sizeof text), "collective_unique_id: %s", text);
    ncclUniqueId made;
    const ncclResult_t status = nccl.GetUniqueId(&made);
    check(status == ncclSuccess || !address,
          "the ranks cannot meet at %s: NCCL says: %s (%s); NCCL_DEBUG=INFO says more", address,
          nccl.GetErrorString(status), nccl.GetLastError(NULL));
    if (status != ncclSuccess)
        cuda_fail("NCCL", nccl.GetErrorString(status), nccl.GetLastError(NULL), "ncclGetUniqueId",
                  "making a unique id");
    memcpy(id, &made, sizeof made);
    return sizeof made;
}

bool collective_open(const CollectiveSetup *setup, char *text, size_t size) {
    if (misuse(setup, text, size) || !nccl_load(text, size)) return false;
    char where[400];
    ncclUniqueId id;
    memcpy(&id, setup->unique_id, sizeof id);
    rank_here = setup->rank, rank_count = setup->ranks;
    timeout_s = setup->timeout_s, steps_done = setup->step;
    describe_meeting(setup, where, sizeof where);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t status = nccl.CommInitRankConfig(&communicator, rank_count, id, rank_here, &config);
    if (status == ncclSuccess || status == ncclInProgress) status = settle(ncclInProgress, where);
    if (status == ncclSuccess) return true;
    snprintf(text, size, "NCCL: opening rank %d of %d: %s (%s); NCCL_DEBUG=INFO says more", rank_here, rank_count,
             nccl.GetErrorString(status), nccl.GetLastError(NULL));
    let_go();
    communicator = NULL;
    return false;
}

bool collective_is_open(void) {
    return communicator != NULL;
}

void collective_close(void) {
    if (!communicator) return;
    ncclResult_t state = ncclSuccess, status = nccl.CommGetAsyncError(communicator, &state);
    forget_calls();
    if (status == ncclSuccess) status = state;
    if (status == ncclSuccess) status = settle(nccl.CommFinalize(communicator), "ncclCommFinalize");
    if (status == ncclSuccess)
        status = nccl.CommDestroy(communicator);
    else
        nccl.CommAbort(communicator);
    communicator = NULL;
    if (status != ncclSuccess) warn("NCCL: closing the communicator: %s", nccl.GetErrorString(status));
}

void CollectivePause::pause() {
    const double now = deadline_clock();
    if (!begun) begun = now;
    if (now - asked > 0.01) {
        char place[160];
        asked = now;
        ncclResult_t state = ncclSuccess;
        const ncclResult_t status = nccl.CommGetAsyncError(communicator, &state);
        if (status != ncclSuccess) state = status;
        if (state != ncclSuccess && state != ncclInProgress)
            end_failed(find_place(place), state);
        if (now - begun > timeout_s) end_waiting(find_place(place), now - begun);
    }
    back_off(now - begun);
}

void all_reduce_sum(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("all_reduce_sum", c, false);
    check_done(
        nccl.AllReduce(c->buffer, c->buffer, (size_t)c->count, type, ncclSum, communicator, queue->stream),
        queue, "ncclAllReduce", "all_reduce_sum", c);
}

void reduce_scatter_sum(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("reduce_scatter_sum", c, true);
    size_t elements;
    void *own = own_piece(c, &elements);
    check_done(nccl.ReduceScatter(c->buffer, own, elements, type, ncclSum, communicator, queue->stream),
               queue, "ncclReduceScatter", "reduce_scatter_sum", c);
}

void all_gather(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("all_gather", c, true);
    size_t elements;
    void *own = own_piece(c, &elements);
    check_done(nccl.AllGather(own, c->buffer, elements, type, communicator, queue->stream), queue, "ncclAllGather",
               "all_gather", c);
}

void broadcast(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("broadcast", c, false);
    check_done(nccl.Broadcast(c->buffer, c->buffer, (size_t)c->count, type, 0, communicator, queue->stream),
               queue, "ncclBroadcast", "broadcast", c);
}

#endif
