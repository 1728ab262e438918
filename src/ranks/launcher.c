/* launcher.c: see launcher.h. */
#include "launcher.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

const Launcher LAUNCHERS[] = {
    {"Open MPI", "mpirun -n 8 ./train_gpt …", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
     "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", true},
    {"torchrun", "torchrun --nproc-per-node 8 --no-python ./train_gpt …", "LOCAL_RANK", "RANK", "WORLD_SIZE", "LOCAL_RANK",
     "LOCAL_WORLD_SIZE", false},
    {"Kubernetes", "PyTorchJob", "WORLD_SIZE", "RANK", "WORLD_SIZE", NULL, NULL, false},
    /* Inside a job, but outside a step, Slurm sets SLURM_PROCID too; only srun makes steps. */
    {"Slurm + PMIx", "srun --mpi=pmix ./train_gpt …", "PMIX_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
     NULL, true},
    {"Slurm", "srun ./train_gpt …", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", NULL,
     false},
};
const int LAUNCHER_COUNT = sizeof LAUNCHERS / sizeof *LAUNCHERS;

/* The variable's value, a whole number in [least, most]. */
static bool read_number(const Launcher *launcher, const char *variable, long least, long most, int *number, Error *error) {
    const char *text = getenv(variable);
    if (!text)
        return error_set(error, "%s is set, as %s does, but %s is not: set both, or neither", launcher->mark, launcher->name,
                         variable);
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end || errno || value < least || value > most)
        return error_set(error, "%s is \"%s\" (%s sets it): a whole number from %ld to %ld is wanted", variable, text,
                         launcher->name, least, most);
    *number = (int)value;
    return true;
}

static bool read_launcher(const Launcher *l, Ranks *ranks, Error *error) {
    *ranks = (Ranks){.launcher = l, .count = 1};
    if (!read_number(l, l->count, 1, INT_MAX, &ranks->count, error) ||
        !read_number(l, l->rank, 0, ranks->count - 1, &ranks->rank, error))
        return false;
    if (l->local_count && getenv(l->local_count) &&
        !read_number(l, l->local_count, 1, ranks->count, &ranks->local_count, error))
        return false;
    if (!l->local_rank) return true;
    int most = ranks->local_count ? ranks->local_count - 1 : ranks->count - 1;
    if (most > ranks->rank) most = ranks->rank; /* ranks of a machine are counted up */
    return read_number(l, l->local_rank, 0, most, &ranks->local_rank, error);
}

bool ranks_from_environment(Ranks *ranks, Error *error) {
    for (int i = 0; i < LAUNCHER_COUNT; i++)
        if (getenv(LAUNCHERS[i].mark)) return read_launcher(&LAUNCHERS[i], ranks, error);
    *ranks = (Ranks){.count = 1, .local_count = 1};
    return true;
}

void ranks_print_launchers(void) {
    printf("ranks are taken from the first of these that is set:\n");
    for (int i = 0; i < LAUNCHER_COUNT; i++)
        printf("  %-13s %s, %s (%s)\n", LAUNCHERS[i].name, LAUNCHERS[i].rank, LAUNCHERS[i].count, LAUNCHERS[i].starts_with);
}
