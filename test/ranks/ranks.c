/* ranks.c: see ranks.h. */
#include "ranks.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The first of the launchers' variables that is set: Open MPI's, MPICH's and Slurm's, a person's. */
static int from_launcher(const char *const *names, int otherwise) {
    for (; *names; names++)
        if (getenv(*names)) return atoi(getenv(*names));
    return otherwise;
}

static const char *const RANK[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "RANK", NULL};
static const char *const RANK_COUNT[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "RANKS", NULL};

#ifdef RANKS_CPU
const Kernels *const ranks_tables[2] = {&kernels_cpu_f32, &kernels_cpu_f64};
#else
const Kernels *const ranks_tables[2] = {&kernels_cuda_f32, &kernels_cuda_bf16};
#endif

bool ranks_take_device(Ranks *r, char *text, size_t size) {
    *r = (Ranks){from_launcher(RANK, 0), from_launcher(RANK_COUNT, 1), ranks_tables[0]};
    return r->k->open(r->rank, text, size) || r->k->open(0, text, size);
}

enum { ID_MOST = 1024, ID_WAIT_S = 60 };

static void write_id(const char *path, const void *id, size_t size) {
    char partial[300];
    snprintf(partial, sizeof partial, "%s.partial", path);
    FILE *file = fopen(partial, "wb");
    if (!file || fwrite(id, 1, size, file) != size || fclose(file) || rename(partial, path)) {
        perror(path);
        exit(1);
    }
}

static bool read_id(const char *path, void *id, size_t size) {
    for (int tries = 0; tries < ID_WAIT_S * 100; tries++) {
        FILE *file = fopen(path, "rb");
        size_t got = file ? fread(id, 1, size, file) : 0;
        if (file) fclose(file);
        if (got == size) return true;
        usleep(10000);
    }
    return false;
}

bool ranks_join(const Ranks *r, int rank, int ranks, const void *id, char *text, size_t size) {
    static const int64_t step = 17;
    const char *timeout = getenv("RANKS_TIMEOUT");
    const CollectiveSetup setup = {.rank = rank, .ranks = ranks, .unique_id = id, .step = &step,
                                   .timeout_s = timeout ? atof(timeout) : 600, .meets_at = getenv("NCCL_COMM_ID")};
    return r->k->collective_open(&setup, text, size);
}

bool ranks_meet(const Ranks *r, char *text, size_t size) {
    char path[256];
    const char *given = getenv("RANKS_ID_FILE"), *folder = getenv("TMPDIR");
    if (given)
        snprintf(path, sizeof path, "%s", given);
    else
        snprintf(path, sizeof path, "%s/train_gpt_id_%d", folder ? folder : "/tmp", (int)getppid());
    unsigned char id[ID_MOST];
    const size_t bytes = r->k->collective_unique_id(NULL, NULL, 0);
    if (bytes == 0) return ranks_join(r, r->rank, r->ranks, NULL, text, size);
    if (r->rank == 0) r->k->collective_unique_id(NULL, id, bytes);
    if (r->rank == 0 && r->ranks > 1) write_id(path, id, bytes);
    if (r->rank > 0 && !read_id(path, id, bytes)) {
        snprintf(text, size, "rank 0 wrote no unique id to %s in %d s", path, ID_WAIT_S);
        return false;
    }
    const bool opened = ranks_join(r, r->rank, r->ranks, id, text, size);
    if (r->rank == 0 && r->ranks > 1) remove(path); /* all have read it: opening waits for all */
    return opened;
}
