/* rendezvous.c: see rendezvous.h. */
#include "rendezvous.h"
#include "../base/checksum.h"

#include <stdlib.h>
#include <string.h>
#ifdef WITH_MPI
#include <mpi.h>
#endif

enum { ID_MOST = 1024 };

/* Rank 0's id becomes everybody's. */
static bool pass_on(void *id, size_t size, Error *error) {
#ifdef WITH_MPI
    int initialized = 0, level = 0;
    MPI_Initialized(&initialized);
    if (!initialized && MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return error_set(error, "MPI cannot be initialised");
    return MPI_Bcast(id, (int)size, MPI_BYTE, 0, MPI_COMM_WORLD) == MPI_SUCCESS ||
           error_set(error, "MPI cannot pass on the ranks' id");
#else
    (void)id, (void)size;
    return error_set(error, "this build has no MPI");
#endif
}

static bool check_launcher(const Ranks *ranks, const Kernels *k, Error *error) {
    const char *name = ranks->launcher->name;
    if (!ranks->launcher->mpi)
        return error_set(error, "%s started %d ranks, which find each other by MPI so far: start them with mpirun -n %d, or "
                         "one alone", name, ranks->count, ranks->count);
    if (!k->collective_open)
        return error_set(error, "%s started %d ranks, but %s has no collectives in this build: %s", name, ranks->count, k->name,
                         strcmp(k->device, "cpu") ? "it found no NCCL" : "it found no MPI (Debian: libopenmpi-dev; make MPI=1)");
    return true;
}

bool ranks_open(const Ranks *ranks, const Kernels *k, Error *error) {
    if (ranks->count == 1) return true;
    if (!check_launcher(ranks, k, error)) return false;
    unsigned char id[ID_MOST];
    char text[384] = "";
    size_t size = k->collective_unique_id(NULL, 0);
    if (size > sizeof id) return error_set(error, "an id of %zu bytes is too long", size);
    if (size && ranks->rank == 0) k->collective_unique_id(id, size);
    if (size && !pass_on(id, size, error)) return false;
    return k->collective_open(ranks->rank, ranks->count, id, text, sizeof text) || error_set(error, "%s", text);
}

/* One number a rank, in and out of the device; [count]. */
static void exchange(const Ranks *ranks, const Kernels *k, double *numbers) {
    size_t bytes = (size_t)ranks->count * sizeof *numbers;
    Queue *queue = k->queue_create(0);
    double *device = k->alloc(bytes);
    require(queue && device, "out of memory for what the ranks tell each other");
    k->copy(queue, device, numbers, bytes, COPY_TO_DEVICE);
    k->all_gather(queue, &(Collective){.type = DTYPE_F64, .count = ranks->count, .buffer = device});
    k->copy(queue, numbers, device, bytes, COPY_TO_HOST);
    k->queue_wait(queue);
    k->release(device);
    k->queue_destroy(queue);
}

/* Every rank's number; the caller frees. */
static double *all_numbers(const Ranks *ranks, const Kernels *k, double own) {
    double *numbers = must_calloc((size_t)ranks->count, sizeof *numbers, "what the ranks say");
    numbers[ranks->rank] = own;
    if (ranks->count > 1) exchange(ranks, k, numbers);
    return numbers;
}

bool ranks_agree(const Ranks *ranks, const Kernels *k, bool yes) {
    double *numbers = all_numbers(ranks, k, yes);
    bool all = true;
    for (int r = 0; r < ranks->count; r++) all = all && numbers[r] == 1;
    free(numbers);
    return all;
}

double ranks_tell(const Ranks *ranks, const Kernels *k, double number) {
    double *numbers = all_numbers(ranks, k, number), told = numbers[0];
    free(numbers);
    return told;
}

int ranks_find_difference(const Ranks *ranks, const Kernels *k, const char *text) {
    /* 52 bits of the checksum are a whole number that a double holds. */
    double *numbers = all_numbers(ranks, k, (double)(checksum(0, text, strlen(text)) >> 12));
    int other = -1;
    for (int r = ranks->count - 1; r > 0; r--)
        if (numbers[r] != numbers[0]) other = r;
    free(numbers);
    return other;
}
