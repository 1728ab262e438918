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
 * A ring sends 2·(R − 1)/R of the buffer from each rank in an all-reduce, half of that in the others. Nothing has
 * been measured.
 */
#include "collective.cuh"

#ifdef WITH_NCCL

#include "library.cuh"

#include <nccl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

namespace {

#define NCCL_FUNCTIONS(X)                                                                                    \
    X(GetUniqueId)                                                                                           \
    X(CommInitRank)                                                                                          \
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

ncclComm_t communicator; /* NULL: none is open */
int rank_here, rank_count;

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

double seconds_now() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* How long the host waits: a checkpoint that one rank writes keeps the others waiting, so half an hour. */
double timeout_s = 1800;

/* False, with the reason in text, where the environment asks for what is no length of time. */
bool read_timeout(char *text, size_t size) {
    const char *asked = getenv("COLLECTIVE_TIMEOUT");
    if (!asked) return true;
    char *end;
    const double seconds = strtod(asked, &end);
    if (end == asked || *end || !(seconds > 0 && seconds <= 1e9)) {
        snprintf(text, size, "COLLECTIVE_TIMEOUT is \"%s\": a number of seconds above 0 is wanted", asked);
        return false;
    }
    timeout_s = seconds;
    return true;
}

/* Ends the program past its exit handlers: CUDA's may wait for a kernel that waits for a rank that is gone, and the
   kernel ends with the process. */
CHECK_PRINTF(1, 2) CHECK_NORETURN void end_at_once(const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    warn("%s", line);
    _exit(EXIT_RUNTIME);
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

void check_done(ncclResult_t status, const char *call, const char *operation, const Collective *c) {
    if (status == ncclSuccess) return;
    cuda_fail("NCCL", nccl.GetErrorString(status), nccl.GetLastError(communicator), call,
              "%s of %lld %s, rank %d of %d", operation, (long long)c->count, types[c->type].name, rank_here,
              rank_count);
}

/* This rank's piece of a buffer that is cut among the ranks. */
void *own_piece(const Collective *c, size_t *elements) {
    *elements = (size_t)(c->count / rank_count);
    return static_cast<char *>(c->buffer) + (size_t)rank_here * *elements * dtype_size(c->type);
}

bool misuse(int rank, int ranks, const void *unique_id, char *text, size_t size) {
    if (communicator)
        snprintf(text, size, "a communicator is open already, as rank %d of %d: one a process", rank_here,
                 rank_count);
    else if (ranks < 1 || rank < 0 || rank >= ranks)
        snprintf(text, size, "there is no rank %d of %d: ranks are counted from 0", rank, ranks);
    else if (!unique_id)
        snprintf(text, size, "rank %d of %d was given no unique id", rank, ranks);
    else
        return false;
    return true;
}

} // namespace

size_t collective_unique_id(void *id, size_t size) {
    if (!id) return sizeof(ncclUniqueId);
    require(size == sizeof(ncclUniqueId), "collective_unique_id: an id has %zu bytes, not %zu",
            sizeof(ncclUniqueId), size);
    char text[384];
    require(nccl_load(text, sizeof text), "collective_unique_id: %s", text);
    ncclUniqueId made;
    const ncclResult_t status = nccl.GetUniqueId(&made);
    if (status != ncclSuccess)
        cuda_fail("NCCL", nccl.GetErrorString(status), nccl.GetLastError(NULL), "ncclGetUniqueId",
                  "making a unique id");
    memcpy(id, &made, sizeof made);
    return sizeof made;
}

bool collective_open(int rank, int ranks, const void *unique_id, char *text, size_t size) {
    if (misuse(rank, ranks, unique_id, text, size) || !read_timeout(text, size) || !nccl_load(text, size))
        return false;
    ncclUniqueId id;
    memcpy(&id, unique_id, sizeof id);
    ncclComm_t made = NULL;
    const ncclResult_t status = nccl.CommInitRank(&made, ranks, id, rank);
    if (status != ncclSuccess) {
        snprintf(text, size, "NCCL: opening rank %d of %d: %s (%s)", rank, ranks, nccl.GetErrorString(status),
                 nccl.GetLastError(NULL));
        return false;
    }
    communicator = made;
    rank_here = rank;
    rank_count = ranks;
    return true;
}

bool collective_is_open(void) {
    return communicator != NULL;
}

void collective_close(void) {
    if (!communicator) return;
    ncclResult_t state = ncclSuccess, status = nccl.CommGetAsyncError(communicator, &state);
    if (status != ncclSuccess || state != ncclSuccess)
        status = nccl.CommAbort(communicator);
    else
        status = nccl.CommDestroy(communicator);
    communicator = NULL;
    if (status != ncclSuccess) warn("NCCL: closing the communicator: %s", nccl.GetErrorString(status));
}

void CollectivePause::pause() {
    const double now = seconds_now();
    if (!begun) begun = now;
    if (now - asked > 0.01) {
        asked = now;
        ncclResult_t state = ncclSuccess;
        const ncclResult_t status = nccl.CommGetAsyncError(communicator, &state);
        if (status != ncclSuccess) state = status;
        if (state != ncclSuccess && state != ncclInProgress)
            end_at_once("NCCL: rank %d of %d: %s (%s)", rank_here, rank_count, nccl.GetErrorString(state),
                        nccl.GetLastError(communicator));
        if (now - begun > timeout_s)
            end_at_once(
                "rank %d of %d waited %.0f s for its device: another rank is gone, hangs, or takes longer "
                "than COLLECTIVE_TIMEOUT seconds",
                rank_here, rank_count, now - begun);
    }
    if (now - begun < 1e-3)
        sched_yield();
    else
        usleep(50); /* a step takes tens of milliseconds */
}

void all_reduce_sum(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("all_reduce_sum", c, false);
    check_done(
        nccl.AllReduce(c->buffer, c->buffer, (size_t)c->count, type, ncclSum, communicator, queue->stream),
        "ncclAllReduce", "all_reduce_sum", c);
}

void reduce_scatter_sum(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("reduce_scatter_sum", c, true);
    size_t elements;
    void *own = own_piece(c, &elements);
    check_done(nccl.ReduceScatter(c->buffer, own, elements, type, ncclSum, communicator, queue->stream),
               "ncclReduceScatter", "reduce_scatter_sum", c);
}

void all_gather(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("all_gather", c, true);
    size_t elements;
    void *own = own_piece(c, &elements);
    check_done(nccl.AllGather(own, c->buffer, elements, type, communicator, queue->stream), "ncclAllGather",
               "all_gather", c);
}

void broadcast(Queue *queue, const Collective *c) {
    const ncclDataType_t type = check_call("broadcast", c, false);
    check_done(nccl.Broadcast(c->buffer, c->buffer, (size_t)c->count, type, 0, communicator, queue->stream),
               "ncclBroadcast", "broadcast", c);
}

#endif
