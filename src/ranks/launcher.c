/* launcher.c: see launcher.h. */
#include "launcher.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

const Launcher LAUNCHERS[] = {
    {"Open MPI", "mpirun -n 8 ./train_gpt …", {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, "OMPI_COMM_WORLD_RANK",
     "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", NULL, false},
    /* Slurm's srun --mpi=pmi2 sets PMI_RANK too; these marks are Hydra's alone. */
    {"MPICH", "mpiexec -n 8 ./train_gpt …", {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"}, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID",
     "MPI_LOCALNRANKS", NULL, false},
    {"torchrun", "torchrun --nproc_per_node 8 --no_python ./train_gpt …", {"LOCAL_RANK", "LOCAL_WORLD_SIZE"}, "RANK",
     "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "mpirun", false},
    {"Kubernetes", "PyTorchJob", {"WORLD_SIZE", "RANK"}, "RANK", "WORLD_SIZE", NULL, NULL, "mpirun", false},
    /* Inside a job, but outside a step, Slurm sets SLURM_PROCID too; only srun makes steps. */
    {"Slurm + PMIx", "srun --mpi=pmix ./train_gpt …", {"PMIX_RANK", NULL}, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS",
     "SLURM_LOCALID", NULL, NULL, true},
    {"Slurm", "srun ./train_gpt …", {"SLURM_STEP_NUM_TASKS", NULL}, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID",
     NULL, "srun --mpi=pmix", true},
};
const int LAUNCHER_COUNT = sizeof LAUNCHERS / sizeof *LAUNCHERS;

/* The one of its marks that is set, or NULL. */
static const char *mark_of(const Launcher *launcher) {
    for (int i = 0; i < 2; i++)
        if (launcher->marks[i] && getenv(launcher->marks[i])) return launcher->marks[i];
    return NULL;
}

/* The variable's value, a whole number in [least, most]. */
static bool read_number(const Launcher *launcher, const char *variable, long least, long most, int *number, Error *error) {
    const char *text = getenv(variable);
    if (!text)
        return error_set(error, "%s is set, as %s does, but %s is not: set both, or neither", mark_of(launcher), launcher->name,
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

/* Whether what another launcher says too can be true beside it. MPI's daemons are tasks of Slurm, however many; any other
 * launcher inside a step has at least a rank a task. */
static bool agrees(const Ranks *ranks, const Launcher *other, Error *error) {
    const Launcher *l = ranks->launcher;
    Ranks said;
    Error ignored = {0};
    if (!mark_of(other) || (!l->by_mpi && other->may_hold)) return true;
    if (!read_launcher(other, &said, other->may_hold ? &ignored : error)) return other->may_hold;
    if (other->may_hold && ranks->count < said.count)
        return error_set(error, "%s says %d (%s) and %s %d (%s): each of %s's tasks would be a run of its own; unset what does not count",
                         l->count, ranks->count, l->name, other->count, said.count, other->name, other->name);
    if (other->may_hold || (ranks->count == said.count && ranks->rank == said.rank)) return true;
    return error_set(error, "%s and %s say rank %d of %d (%s), but %s and %s rank %d of %d (%s): both cannot be; unset what does "
                     "not count", l->rank, l->count, ranks->rank, ranks->count, l->name, other->rank, other->count, said.rank,
                     said.count, other->name);
}

bool ranks_from_environment(Ranks *ranks, Error *error) {
    for (int i = 0; i < LAUNCHER_COUNT; i++) {
        if (!mark_of(&LAUNCHERS[i])) continue;
        if (!read_launcher(&LAUNCHERS[i], ranks, error)) return false;
        while (++i < LAUNCHER_COUNT)
            if (!agrees(ranks, &LAUNCHERS[i], error)) return false;
        return true;
    }
    *ranks = (Ranks){.count = 1, .local_count = 1};
    return true;
}

void ranks_describe(const Ranks *ranks, char *text, size_t size) {
    const Launcher *l = ranks->launcher;
    if (!l) snprintf(text, size, "1 rank");
    else
        snprintf(text, size, "%d rank%s, started by %s (%s, %s)", ranks->count, ranks->count == 1 ? "" : "s", l->name, l->rank,
                 l->count);
}

void ranks_print_launchers(void) {
    printf("ranks are taken from the first of these that is set:\n");
    for (int i = 0; i < LAUNCHER_COUNT; i++)
        printf("  %-13s %s, %s (%s)\n", LAUNCHERS[i].name, LAUNCHERS[i].rank, LAUNCHERS[i].count, LAUNCHERS[i].starts_with);
}
