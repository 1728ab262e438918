/*
 * collective.cuh: the contract's collectives (kernels.h, Collective), and how the host waits while ranks depend
 * on each other. A build without <nccl.h> has none: their pointers in the tables stay NULL.
 */
#ifndef COLLECTIVE_CUH
#define COLLECTIVE_CUH

#include "types.cuh"

#if __has_include(<nccl.h>)

#define WITH_NCCL

bool collective_open(const CollectiveSetup *setup, char *text, size_t size);
size_t collective_unique_id(const char *address, void *id, size_t size);
void all_reduce_sum(Queue *queue, const Collective *args);
void reduce_scatter_sum(Queue *queue, const Collective *args);
void all_gather(Queue *queue, const Collective *args);
void broadcast(Queue *queue, const Collective *args);

bool collective_is_open(void);

/* Gives the communicator back, with the device. All queues are idle and all graphs that hold a collective are
   destroyed before: NCCL waits for those without end. */
void collective_close(void);

/* One pause in a wait for the device. A rank that is gone would let cudaStreamSynchronize wait without end; so NCCL
   is asked for errors meanwhile, and no wait is longer than the setup's timeout_s. Either ends the program with one line
   and EXIT_RANKS. */
struct CollectivePause {
    double begun = 0, asked = 0; /* seconds */
    void pause();
};

#else

static inline bool collective_is_open(void) {
    return false;
}
static inline void collective_close(void) {}
struct CollectivePause {
    void pause() {}
};

#endif

/* Returns when the query (of a stream or an event) says something else than "not ready"; at once where no
   communicator is open, since nothing then waits for another rank. */
template <typename Query> void collective_wait(Query query) {
    if (!collective_is_open()) return;
    CollectivePause pauses;
    while (query() == cudaErrorNotReady) pauses.pause();
    if (cudaPeekAtLastError() == cudaErrorNotReady)
        cudaGetLastError(); /* it is kept like an error, and is none */
}

#endif
