/*
 * collective_faults.cpp: one misuse of the collectives, or one rank that fails: collective_faults NAME. How each must
 * end stands in test/test_collective.py. On the emulation alone: a GPU would hang, or sum what lies there.
 */
#include "../../kernels/cuda/library.cuh"
#include "../../kernels/cuda/types.cuh"

extern "C" {
#include "ranks.h"
}

#include <nccl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace {

Ranks here;
const Kernels *k;
Queue *queue;
float *buffer; /* 1024 elements, on the device */

void say_and_leave(const char *text) {
    fprintf(stderr, "%s\n", text);
    exit(1);
}

void take_device() {
    char text[512];
    if (!ranks_take_device(&here, text, sizeof text)) say_and_leave(text);
    k = here.k;
    queue = k->queue_create(256);
    buffer = static_cast<float *>(k->alloc(4096));
}

void open_all() {
    char text[512];
    take_device();
    if (!ranks_meet(&here, text, sizeof text)) say_and_leave(text);
}

Collective floats(int64_t count, void *at = NULL) {
    return {DTYPE_F32, count, at ? at : buffer};
}

void sum(int64_t count, void *at = NULL, Queue *on = NULL) {
    const Collective args = floats(count, at);
    k->all_reduce_sum(on ? on : queue, &args);
}

void sum_and_wait(int64_t count, void *at = NULL) {
    sum(count, at);
    k->queue_wait(queue);
}

/* ---- refused on the host ----------------------------------------------------------------------------------- */

void not_opened() {
    take_device();
    sum(4);
}

void negative_count() {
    open_all();
    sum(-4);
}

void null_buffer() {
    open_all();
    Collective args = {DTYPE_F32, 4, NULL};
    k->broadcast(queue, &args);
}

void no_type() {
    open_all();
    Collective args = {DTYPE_COUNT, 4, buffer};
    k->all_reduce_sum(queue, &args);
}

void uneven_pieces() {
    open_all();
    const Collective args = floats(7);
    k->reduce_scatter_sum(queue, &args);
}

void id_of_another_size() {
    take_device();
    char id[100];
    k->collective_unique_id(NULL, id, sizeof id);
}

void foreign_id() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES] = "from nowhere", text[512];
    if (!ranks_join(&here, 0, 1, id, text, sizeof text)) say_and_leave(text);
}

void function_missing() {
    char text[512] = "";
    Library library = {"libm.so.6", text, sizeof text, NULL};
    double (*cosine)(double) = NULL;
    if (!library.open() || !library.find("cos", &cosine) || cosine(0) != 1) return;
    if (!library.find("ncclAllReduce", &cosine)) say_and_leave(text);
}

/* ---- faults of the emulation --------------------------------------------------------------------------------- */

void host_memory() {
    open_all();
    sum(4, k->host_alloc(64));
}

void past_the_end() {
    open_all();
    sum(1025);
}

void off_an_element() {
    open_all();
    sum(4, reinterpret_cast<char *>(buffer) + 2);
}

void unwritten() {
    open_all();
    void *fresh = NULL;
    CUDA_CHECK(cudaMalloc(&fresh, 64), "test");
    sum_and_wait(4, fresh);
}

void unwritten_bf16() {
    open_all();
    void *fresh = NULL;
    CUDA_CHECK(cudaMalloc(&fresh, 64), "test");
    const Collective args = {DTYPE_BF16, 4, fresh};
    k->all_reduce_sum(queue, &args);
    k->queue_wait(queue);
}

/* Two queues, no event: the second is waited for first. */
void streams_out_of_order() {
    open_all();
    Queue *other = k->queue_create(256);
    sum(4);
    sum(5, NULL, other);
    k->queue_wait(other);
    k->queue_wait(queue);
}

void graph_outlives_communicator() {
    open_all();
    k->capture_begin(queue);
    sum(4);
    k->capture_end(queue);
    k->close();
}

void call_outlives_communicator() {
    open_all();
    sum(4);
    k->close();
}

void id_used_twice() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES], text[512];
    k->collective_unique_id(NULL, id, sizeof id);
    for (int i = 0; i < 2; i++) {
        if (!ranks_join(&here, 0, 1, id, text, sizeof text)) say_and_leave(text);
        k->close();
        if (!k->open(0, text, sizeof text)) say_and_leave(text);
    }
}

/* Below the contract, whose calls are all in place: this program's own communicator. */
void ranges_overlap() {
    open_all();
    char text[512];
    Library library = {"libnccl.so.2", text, sizeof text, NULL};
    decltype(&::ncclCommInitRank) init = NULL;
    decltype(&::ncclGetUniqueId) make_id = NULL;
    decltype(&::ncclAllReduce) reduce = NULL;
    if (!library.open() || !library.find("ncclCommInitRank", &init) ||
        !library.find("ncclGetUniqueId", &make_id) || !library.find("ncclAllReduce", &reduce))
        say_and_leave(text);
    ncclUniqueId id;
    ncclComm_t comm;
    if (make_id(&id) || init(&comm, 1, id, 0)) return;
    if (reduce(buffer, buffer + 4, 8, ncclFloat32, ncclSum, comm, queue->stream)) return;
}

/* ---- ranks that differ, or fail -------------------------------------------------------------------------------- */

void counts_differ() {
    open_all();
    sum_and_wait(5 + here.rank);
}

void types_differ() {
    open_all();
    const Collective args = {here.rank ? DTYPE_BF16 : DTYPE_F32, 4, buffer};
    k->all_gather(queue, &args);
    k->queue_wait(queue);
}

void operations_differ() {
    open_all();
    const Collective args = floats(4);
    if (here.rank)
        k->broadcast(queue, &args);
    else
        k->all_reduce_sum(queue, &args);
    k->queue_wait(queue);
}

void ids_differ() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES], text[512];
    k->collective_unique_id(NULL, id, sizeof id);
    ranks_join(&here, here.rank, here.ranks, id, text, sizeof text);
}

void ranks_miscounted() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES], text[512];
    k->collective_unique_id(NULL, id, sizeof id);
    if (!ranks_join(&here, here.rank, 3, id, text, sizeof text)) say_and_leave(text);
}

/* Below the contract, which asks whether NCCL is done. */
void busy_communicator() {
    take_device();
    char text[512];
    Library library = {"libnccl.so.2", text, sizeof text, NULL};
    decltype(&::ncclCommInitRankConfig) init = NULL;
    decltype(&::ncclGetUniqueId) make_id = NULL;
    decltype(&::ncclCommFinalize) finalize = NULL;
    if (!library.open() || !library.find("ncclCommInitRankConfig", &init) ||
        !library.find("ncclGetUniqueId", &make_id) || !library.find("ncclCommFinalize", &finalize))
        say_and_leave(text);
    ncclUniqueId id;
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (make_id(&id) || init(&comm, 2, id, 0, &config) != ncclInProgress || finalize(comm)) return;
}

void address_comes_too_late() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES];
    k->collective_unique_id(NULL, id, sizeof id);
    k->collective_unique_id("127.0.0.1:28417", id, sizeof id);
}

/* The others have an id of their own, and go elsewhere. */
void address_on_one_rank_alone() {
    take_device();
    char id[NCCL_UNIQUE_ID_BYTES], text[512];
    if (here.rank) unsetenv("NCCL_COMM_ID");
    k->collective_unique_id(NULL, id, sizeof id);
    if (!ranks_join(&here, here.rank, here.ranks, id, text, sizeof text)) say_and_leave(text);
}

void rank_stays_away() {
    open_all();
    sum_and_wait(4);
    if (here.rank) sleep(30);
    sum_and_wait(8);
}

void rank_dies() {
    open_all();
    sum_and_wait(4);
    if (here.rank) raise(SIGKILL);
    sum_and_wait(8);
}

/* The same where the host waits for an event. */
void rank_dies_before_an_event() {
    open_all();
    sum_and_wait(4); /* so that the other one has opened, too */
    Event *event = k->event_create(EVENT_INTERNAL);
    if (here.rank) raise(SIGKILL);
    sum(8);
    k->event_record(queue, event);
    k->event_host_wait(event);
}

#define ROW(name)                                                                                            \
    { #name, name }
const struct {
    const char *name;
    void (*misuse)();
} table[] = {
    ROW(not_opened),
    ROW(negative_count),
    ROW(null_buffer),
    ROW(no_type),
    ROW(uneven_pieces),
    ROW(id_of_another_size),
    ROW(foreign_id),
    ROW(function_missing),
    ROW(host_memory),
    ROW(past_the_end),
    ROW(off_an_element),
    ROW(unwritten),
    ROW(unwritten_bf16),
    ROW(streams_out_of_order),
    ROW(graph_outlives_communicator),
    ROW(call_outlives_communicator),
    ROW(id_used_twice),
    ROW(ranges_overlap),
    ROW(counts_differ),
    ROW(types_differ),
    ROW(operations_differ),
    ROW(ids_differ),
    ROW(ranks_miscounted),
    ROW(busy_communicator),
    ROW(address_comes_too_late),
    ROW(address_on_one_rank_alone),
    ROW(rank_stays_away),
    ROW(rank_dies),
    ROW(rank_dies_before_an_event),
};

} // namespace

/* Exits with 0 if nothing stopped it. Without a name: lists them. */
int main(int argc, char **argv) {
    for (const auto &row : table) {
        if (argc < 2) puts(row.name);
        if (argc > 1 && !strcmp(argv[1], row.name)) row.misuse();
    }
    return 0;
}
