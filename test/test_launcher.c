/*
 * test_launcher.c: does a process find out from its environment which rank it is, whoever started it, and is what cannot
 * be refused by the variable's name?
 */
#include "../src/ranks/launcher.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The environment that some launchers leave, as "NAME=value NAME=value"; all of the table's variables are gone before. */
static void surroundings(const char *settings) {
    char copy[1024], *state = NULL;
    for (int i = 0; i < LAUNCHER_COUNT; i++) {
        const Launcher *l = &LAUNCHERS[i];
        const char *names[] = {l->mark, l->rank, l->count, l->local_rank, l->local_count};
        for (size_t j = 0; j < sizeof names / sizeof *names; j++)
            if (names[j]) unsetenv(names[j]);
    }
    snprintf(copy, sizeof copy, "%s", settings);
    for (char *word = strtok_r(copy, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        *equals = '\0';
        setenv(word, equals + 1, 1);
    }
}

/* Each as the launcher itself sets it: Open MPI 4.1's and PyTorch's documentation, Slurm's srun(1). */
static void every_launcher_is_understood(void **state) {
    (void)state;
    static const struct {
        const char *environment, *launcher;
        int rank, count, local_rank, local_count;
    } CASES[] = {
        {"", NULL, 0, 1, 0, 1},
        {"OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=4", "Open MPI",
         5, 8, 1, 4},
        {"RANK=9 WORLD_SIZE=16 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8 MASTER_ADDR=node0 MASTER_PORT=29500", "torchrun", 9, 16, 1, 8},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-master-0 MASTER_PORT=23456", "Kubernetes", 1, 2, 0, 0},
        {"SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1", "Slurm", 3, 4, 1, 0},
        {"SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 PMIX_RANK=3", "Slurm + PMIx", 3, 4, 1, 0},
        /* a batch script itself is no step: what it starts without srun is alone */
        {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", NULL, 0, 1, 0, 1},
        /* mpirun inside a step, torchrun inside a step */
        {"SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1",
         "Open MPI", 1, 2, 1, 0},
        {"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 RANK=12 WORLD_SIZE=16 LOCAL_RANK=4 LOCAL_WORLD_SIZE=8", "torchrun", 12, 16, 4, 8},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Ranks ranks;
        Error error = {0};
        surroundings(CASES[i].environment);
        if (!ranks_from_environment(&ranks, &error)) fail_msg("%s: %s", CASES[i].environment, error.text);
        assert_int_equal(ranks.rank, CASES[i].rank);
        assert_int_equal(ranks.count, CASES[i].count);
        assert_int_equal(ranks.local_rank, CASES[i].local_rank);
        assert_int_equal(ranks.local_count, CASES[i].local_count);
        if (CASES[i].launcher) assert_string_equal(ranks.launcher->name, CASES[i].launcher);
        else assert_null(ranks.launcher);
    }
}

static void what_is_half_said_or_cannot_be_is_refused_by_name(void **state) {
    (void)state;
    static const char *const CASES[][3] = {
        {"OMPI_COMM_WORLD_RANK=0", "OMPI_COMM_WORLD_SIZE", "is not"},
        {"OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0", "OMPI_COMM_WORLD_RANK", "from 0 to 1"},
        {"WORLD_SIZE=2", "RANK", "is not"},
        {"WORLD_SIZE=0 RANK=0", "WORLD_SIZE", "from 1"},
        {"WORLD_SIZE=two RANK=0", "WORLD_SIZE", "\"two\""},
        {"WORLD_SIZE= RANK=0", "WORLD_SIZE", "\"\""},
        {"WORLD_SIZE=99999999999 RANK=0", "WORLD_SIZE", "99999999999"},
        {"WORLD_SIZE=2 RANK=-1", "RANK", "\"-1\""},
        {"WORLD_SIZE=2 RANK=1x", "RANK", "\"1x\""},
        {"WORLD_SIZE=4 RANK=1 LOCAL_RANK=2", "LOCAL_RANK", "from 0 to 1"},
        {"WORLD_SIZE=4 RANK=3 LOCAL_RANK=2 LOCAL_WORLD_SIZE=2", "LOCAL_RANK", "from 0 to 1"},
        {"WORLD_SIZE=4 RANK=3 LOCAL_RANK=2 LOCAL_WORLD_SIZE=5", "LOCAL_WORLD_SIZE", "from 1 to 4"},
        {"SLURM_STEP_NUM_TASKS=2", "SLURM_PROCID", "is not"},
        {"SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=1", "SLURM_LOCALID", "is not"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Ranks ranks;
        Error error = {0};
        surroundings(CASES[i][0]);
        if (ranks_from_environment(&ranks, &error)) fail_msg("taken: %s", CASES[i][0]);
        for (int word = 1; word < 3; word++)
            if (!strstr(error.text, CASES[i][word])) fail_msg("%s: no '%s' in: %s", CASES[i][0], CASES[i][word], error.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_launcher_is_understood),
        cmocka_unit_test(what_is_half_said_or_cannot_be_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
