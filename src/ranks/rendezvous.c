/* rendezvous.c: see rendezvous.h. */
#include "rendezvous.h"
#include "address.h"
#include "../base/at_work.h"
#include "../base/checksum.h"
#include "../base/deadline.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef WITH_MPI
#include <mpi.h>
enum { HAS_MPI = 1 };
#else
enum { HAS_MPI = 0 };
#endif

enum { ID_MOST = 1024 };
_Static_assert(sizeof(Error) % 8 == 0, "as ranks_gather() wants it");

static bool ours_to_finalize; /* MPI */
static double finalize_s;     /* at most */

/* Rank 0's id becomes everybody's. */
static bool pass_on(const Ranks *ranks, double timeout_s, void *id, size_t size, Error *error) {
#ifdef WITH_MPI
    int initialized = 0, level = 0, count = 0;
    deadline_set(timeout_s, "rank %d of %d waited %.0f s for the id that rank 0 passes on by MPI: another rank did not come", ranks->rank,
                 ranks->count, timeout_s);
    MPI_Initialized(&initialized);
    bool good = initialized || MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) == MPI_SUCCESS;
    ours_to_finalize = good && !initialized;
    finalize_s = timeout_s;
    good = good && MPI_Comm_size(MPI_COMM_WORLD, &count) == MPI_SUCCESS && count == ranks->count;
    good = good && MPI_Bcast(id, (int)size, MPI_BYTE, 0, MPI_COMM_WORLD) == MPI_SUCCESS;
    deadline_lift();
    return good || error_set(error, "MPI cannot pass on the ranks' id: it knows %d of %d ranks (was the program started by an mpirun "
                             "of the MPI that it was built with?)", count, ranks->count);
#else
    (void)ranks, (void)timeout_s, (void)id, (void)size;
    return error_set(error, "this build has no MPI");
#endif
}

void ranks_close(void) {
#ifdef WITH_MPI
    if (ours_to_finalize) {
        deadline_set(finalize_s, "waited %.0f s in MPI_Finalize, all work done: another rank did not come to it", finalize_s);
        MPI_Finalize();
        deadline_lift();
    }
#endif
    ours_to_finalize = false, finalize_s = 0;
}

/* Several ranks on a device whose own collectives go by MPI, or not at all. What was found out of them is said, too: it may
 * be what somebody wants to know. */
static bool check_device(const Ranks *ranks, const Kernels *k, const Meeting *meeting, Error *error) {
    const bool cpu = strcmp(k->device, "cpu") == 0;
    const char *name = ranks->launcher->name;
    char address[ADDRESS_SIZE], where[ADDRESS_SIZE + 32] = "";
    Error unknown = {0};
    if (cpu && ranks->launcher->by_mpi) {
        if (address_find(meeting->rendezvous, address, &unknown)) snprintf(where, sizeof where, ", to meet at %.240s", address);
        return error_set(error, "%s started %d ranks (this is rank %d, the machine's %d%s), but on CPUs they talk by MPI: start them "
                         "with %s -n %d, or one alone", name, ranks->count, ranks->rank, ranks->local_rank, where, ranks->launcher->by_mpi,
                         ranks->count);
    }
    if (!k->collective_open)
        return error_set(error, "%s started %d ranks, but %s has no collectives in this build: %s", name, ranks->count, k->name,
                         cpu ? "it found no MPI (Debian: libopenmpi-dev; make MPI=1)" : "it found no NCCL (Debian: libnccl-dev)");
    return true;
}

bool ranks_open(const Ranks *ranks, const Kernels *k, const Meeting *meeting, Error *error) {
    if (ranks->count == 1) return true;
    if (!check_device(ranks, k, meeting, error)) return false;
    unsigned char id[ID_MOST];
    char text[384] = "", address[ADDRESS_SIZE] = "";
    size_t size = k->collective_unique_id(NULL, NULL, 0);
    if (size > sizeof id) return error_set(error, "an id of %zu bytes is too long", size);
    bool introduced = HAS_MPI && !ranks->launcher->by_mpi && !meeting->rendezvous && !getenv("NCCL_COMM_ID");
    if (size && !introduced && !address_find(meeting->rendezvous, address, error)) return false;
    if (size && (ranks->rank == 0 || !introduced)) k->collective_unique_id(address[0] ? address : NULL, id, size);
    if (size && introduced && !pass_on(ranks, meeting->timeout_s, id, size, error)) return false;
    const CollectiveSetup setup = {.rank = ranks->rank, .ranks = ranks->count, .unique_id = id, .timeout_s = meeting->timeout_s,
                                   .meets_at = address[0] ? address : NULL, .step = meeting->step};
    return k->collective_open(&setup, text, sizeof text) || error_set(error, "%s", text);
}

/* By way of the device. (Bits are moved, whatever the type.) */
void ranks_gather(const Ranks *ranks, const Kernels *k, void *all, size_t bytes) {
    const size_t total = (size_t)ranks->count * bytes;
    if (ranks->count == 1) return;
    Queue *queue = k->queue_create(0);
    void *device = k->alloc(total);
    require(queue && device, "out of memory for what the ranks tell each other");
    k->copy(queue, device, all, total, COPY_TO_DEVICE);
    k->all_gather(queue, &(Collective){.type = DTYPE_F64, .count = (int64_t)(total / sizeof(double)), .buffer = device});
    k->copy(queue, all, device, total, COPY_TO_HOST);
    k->queue_wait(queue);
    k->release(device);
    k->queue_destroy(queue);
}

/* Every rank's number; the caller frees. */
static double *all_numbers(const Ranks *ranks, const Kernels *k, double own) {
    double *numbers = must_calloc((size_t)ranks->count, sizeof *numbers, "what the ranks say");
    numbers[ranks->rank] = own;
    ranks_gather(ranks, k, numbers, sizeof *numbers);
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

/* ---- work that others wait for ---- */

static struct {
    const Ranks *ranks;
    const Kernels *k;
} work;

/* All ranks tell each other whether they are done, those that are again at once. */
static bool all_done(bool done) { return ranks_agree(work.ranks, work.k, done); }

static void tell(void *unused) {
    (void)unused;
    (void)all_done(false);
}

/* So often that a piece of work between two looks at the clock may take most of the time that others wait. */
void ranks_work_begin(const Ranks *ranks, const Kernels *k, double timeout_s) {
    work.ranks = ranks, work.k = k;
    if (ranks->count > 1) at_work_tell(timeout_s / 4, tell, NULL);
}

void ranks_work_end(void) {
    at_work_tell(0, NULL, NULL);
    while (!all_done(true)) continue;
}

bool ranks_well(const Ranks *ranks, const Kernels *k, bool well, Error *error) {
    Error *all = must_calloc((size_t)ranks->count, sizeof *all, "what the ranks say");
    int first = -1, alike = 0;
    if (!well) all[ranks->rank] = *error;
    ranks_gather(ranks, k, all, sizeof *all);
    for (int r = ranks->count - 1; r >= 0; r--)
        if (all[r].text[0]) first = r;
    for (int r = 0; first >= 0 && r < ranks->count; r++) alike += strcmp(all[r].text, all[first].text) == 0;
    if (first >= 0 && alike == ranks->count) *error = all[first];
    else if (first >= 0) error_set(error, "rank %d: %s", first, all[first].text);
    free(all);
    return first < 0;
}

void ranks_end(const Ranks *ranks, const Kernels *k, int code, const char *format, ...) {
    char text[sizeof(Error)];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (ranks->rank == 0) warn("%s", text);
    ranks_tell(ranks, k, 0);
    exit(code);
}
