/*
 * test_launcher.c: does a process find out from its environment which rank it is, whoever started it, and is what cannot
 * be refused by the variable's name?
 */
#include "../src/ranks/address.h"
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
        const char *names[] = {l->marks[0], l->marks[1], l->rank, l->count, l->local_rank, l->local_count};
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
        {"PMI_RANK=3 PMI_SIZE=4 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=2", "MPICH", 3, 4, 1, 2},
        {"RANK=1 WORLD_SIZE=2 MASTER_ADDR=job-master-0 MASTER_PORT=23456", "Kubernetes", 1, 2, 0, 0},
        {"SLURM_PROCID=3 SLURM_NTASKS=4 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1", "Slurm", 3, 4, 1, 0},
        {"SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 PMIX_RANK=3", "Slurm + PMIx", 3, 4, 1, 0},
        /* a batch script itself is no step: what it starts without srun is alone */
        {"SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_LOCALID=0", NULL, 0, 1, 0, 1},
        /* mpirun inside a step, torchrun inside a step */
        {"SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1",
         "Open MPI", 1, 2, 1, 0},
        /* mpirun's daemons are a step of a task a machine */
        {"SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=0",
         "Open MPI", 1, 2, 0, 0},
        /* a script that passes one launcher's numbers on in another's variables */
        {"OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 RANK=1 WORLD_SIZE=2 LOCAL_RANK=1", "Open MPI",
         1, 2, 1, 0},
        {"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=1 RANK=1 WORLD_SIZE=2", "Kubernetes", 1, 2, 0, 0},
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

#define OMPI_1_OF_2 "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 "

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
        {"RANK=0", "WORLD_SIZE is not", "RANK is set"},
        {"OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK is not", "OMPI_COMM_WORLD_SIZE is set"},
        {"LOCAL_WORLD_SIZE=2 WORLD_SIZE=2 RANK=0", "LOCAL_RANK is not", "LOCAL_WORLD_SIZE is set"},
        {"PMI_RANK=0 MPI_LOCALRANKID=0", "PMI_SIZE is not", "MPI_LOCALRANKID"},
        /* two that cannot both be right */
        {OMPI_1_OF_2 "WORLD_SIZE=8 RANK=1", "OMPI_COMM_WORLD_SIZE say rank 1 of 2", "WORLD_SIZE rank 1 of 8"},
        {OMPI_1_OF_2 "WORLD_SIZE=2 RANK=0", "OMPI_COMM_WORLD_SIZE say rank 1 of 2", "WORLD_SIZE rank 0 of 2"},
        {OMPI_1_OF_2 "WORLD_SIZE=16 RANK=9 LOCAL_RANK=1 LOCAL_WORLD_SIZE=8", "OMPI_COMM_WORLD_SIZE", "(torchrun)"},
        {OMPI_1_OF_2 "WORLD_SIZE=2", "RANK is not", "WORLD_SIZE is set"},
        {OMPI_1_OF_2 "PMI_RANK=0 PMI_SIZE=4 MPI_LOCALRANKID=0", "PMI_SIZE rank 0 of 4", "(MPICH)"},
        {"SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1 RANK=0 WORLD_SIZE=2 LOCAL_RANK=0", "WORLD_SIZE says 2",
         "SLURM_STEP_NUM_TASKS 4"},
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

static const char *const OF_ADDRESSES[] = {"NCCL_COMM_ID",  "MASTER_ADDR",   "MASTER_PORT",        "SLURM_STEP_NODELIST",
                                           "SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID"};

static bool find_address(const char *environment, const char *flag, char address[ADDRESS_SIZE], Error *error) {
    for (size_t i = 0; i < sizeof OF_ADDRESSES / sizeof *OF_ADDRESSES; i++) unsetenv(OF_ADDRESSES[i]);
    surroundings(environment);
    *error = (Error){0};
    return address_find(flag, address, error);
}

static void ranks_meet_at_the_address_that_all_of_them_find(void **state) {
    (void)state;
    static const char *const CASES[][3] = { /* environment, --rendezvous, address */
        {"MASTER_ADDR=node0 MASTER_PORT=29500", NULL, "node0:29501"},
        {"MASTER_ADDR=fd00::1 MASTER_PORT=29500", NULL, "[fd00::1]:29501"},
        {"MASTER_ADDR=node0 MASTER_PORT=29500", "other.example:7", "other.example:7"},
        {"", "[fd00::2]:65535", "[fd00::2]:65535"},
        {"NCCL_COMM_ID=10.0.0.1:77 MASTER_ADDR=node0 MASTER_PORT=29500", NULL, "10.0.0.1:77"},
        {"MASTER_ADDR=node0 MASTER_PORT=65534", NULL, "node0:65535"},
        {"SLURM_STEP_NODELIST=node7 MASTER_PORT=1000", NULL, "node7:1001"},
        {"SLURM_STEP_NODELIST=node7 MASTER_ADDR=node8 MASTER_PORT=1000", NULL, "node8:1001"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char address[ADDRESS_SIZE];
        Error error;
        if (!find_address(CASES[i][0], CASES[i][1], address, &error)) fail_msg("%s: %s", CASES[i][0], error.text);
        assert_string_equal(address, CASES[i][2]);
    }
}

static void a_job_without_a_port_has_one_of_its_own(void **state) {
    (void)state;
    char first[ADDRESS_SIZE], again[ADDRESS_SIZE], other[ADDRESS_SIZE], step[ADDRESS_SIZE];
    Error error;
    assert_true(find_address("SLURM_STEP_NODELIST=node7 SLURM_JOB_ID=4711 SLURM_STEP_ID=0", NULL, first, &error));
    assert_true(find_address("SLURM_STEP_NODELIST=node7 SLURM_JOB_ID=4711 SLURM_STEP_ID=0", NULL, again, &error));
    assert_true(find_address("SLURM_STEP_NODELIST=node7 SLURM_JOB_ID=4712 SLURM_STEP_ID=0", NULL, other, &error));
    assert_true(find_address("SLURM_STEP_NODELIST=node7 SLURM_JOB_ID=4711 SLURM_STEP_ID=1", NULL, step, &error));
    assert_string_equal(first, again);
    assert_string_not_equal(first, other);
    assert_string_not_equal(first, step);
    int port = atoi(first + strlen("node7:"));
    assert_in_range(port, 10000, 29999);
}

static void what_is_no_address_is_refused_and_what_would_give_one_is_named(void **state) {
    (void)state;
    static const char *const CASES[][3] = { /* environment, --rendezvous, a part of the message */
        {"", NULL, "give --rendezvous HOST:PORT"},
        {"MASTER_ADDR=node0", NULL, "set MASTER_PORT"},
        {"MASTER_PORT=29500", NULL, "set MASTER_ADDR"},
        {"MASTER_ADDR= MASTER_PORT=29500", NULL, "MASTER_ADDR is \"\""},
        {"MASTER_ADDR=node0 MASTER_PORT=65535", NULL, "MASTER_PORT is \"65535\""},
        {"MASTER_ADDR=node0 MASTER_PORT=0", NULL, "MASTER_PORT is \"0\""},
        {"MASTER_ADDR=node0 MASTER_PORT=29500x", NULL, "MASTER_PORT is \"29500x\""},
        {"", "node0", "--rendezvous node0"},
        {"", "node0:", "HOST:PORT is wanted"},
        {"", ":29500", "HOST:PORT is wanted"},
        {"", "node0:65536", "HOST:PORT is wanted"},
        {"", "fd00::1:29500", "[fd00::1]:29501"},
        {"", "no de:1", "HOST:PORT is wanted"},
        {"NCCL_COMM_ID=node0", NULL, "NCCL_COMM_ID node0"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        char address[ADDRESS_SIZE];
        Error error;
        if (find_address(CASES[i][0], CASES[i][1], address, &error)) fail_msg("taken: %s %s", CASES[i][0], address);
        if (!strstr(error.text, CASES[i][2])) fail_msg("%s: no '%s' in: %s", CASES[i][0], CASES[i][2], error.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_launcher_is_understood),
        cmocka_unit_test(what_is_half_said_or_cannot_be_is_refused_by_name),
        cmocka_unit_test(ranks_meet_at_the_address_that_all_of_them_find),
        cmocka_unit_test(a_job_without_a_port_has_one_of_its_own),
        cmocka_unit_test(what_is_no_address_is_refused_and_what_would_give_one_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
