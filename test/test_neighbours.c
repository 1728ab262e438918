/*
 * test_neighbours.c: are the CPUs of a machine shared out among the ranks that work there, whatever each of them may use?
 */
#include "../src/ranks/neighbours.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { RANKS_MOST = 8 };

/* A rank on each machine that a letter names: "aab". CPUs [first, first + count) of each rank. */
static void place(RankPlace *places, const char *machines, const int (*cpus)[2]) {
    memset(places, 0, RANKS_MOST * sizeof *places);
    for (int r = 0; machines[r]; r++) {
        places[r].machine = (uint64_t)machines[r];
        for (int i = 0; i < cpus[r][1]; i++) {
            const int cpu = cpus[r][0] + i;
            places[r].cpus[cpu / 64] |= UINT64_C(1) << cpu % 64;
        }
    }
}

static void cpus_that_several_may_use_are_shared_out(void **state) {
    (void)state;
    static const struct {
        const char *machines;
        int cpus[RANKS_MOST][2];
        int rank, count, first, share;
    } CASES[] = {
        {"a", {{0, 8}}, 0, 1, 0, 8},
        {"aa", {{0, 8}, {0, 8}}, 1, 2, 0, 4},
        {"aaa", {{0, 8}, {0, 8}, {0, 8}}, 2, 3, 0, 2},
        {"aaa", {{0, 3}, {0, 3}, {0, 3}}, 0, 3, 0, 1}, /* three thirds */
        {"aaaa", {{0, 2}, {0, 2}, {0, 2}, {0, 2}}, 3, 4, 0, 1}, /* half of one is one */
        {"aa", {{0, 4}, {4, 4}}, 0, 2, 0, 4},          /* bound to their own */
        {"aa", {{0, 4}, {2, 4}}, 1, 2, 0, 3},          /* two of four are both's */
        {"aab", {{0, 2}, {0, 2}, {0, 2}}, 2, 1, 2, 2}, /* alone on the other machine */
        {"abab", {{0, 2}, {0, 6}, {0, 2}, {0, 6}}, 3, 2, 1, 3},
        {"aa", {{1000, 24}, {1000, 24}}, 0, 2, 0, 12},
        {"aa", {{0, 0}, {0, 4}}, 0, 2, 0, 0},          /* nothing known */
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        RankPlace places[RANKS_MOST];
        place(places, CASES[i].machines, CASES[i].cpus);
        const Neighbours n = neighbours_of(places, (int)strlen(CASES[i].machines), CASES[i].rank);
        if (n.count != CASES[i].count || n.first != CASES[i].first || n.cpus != CASES[i].share)
            fail_msg("case %zu: %d ranks, the first %d, %d CPUs", i, n.count, n.first, n.cpus);
    }
}

/* What is shared out is never more than there is, unless each has its one. */
static void shares_are_no_more_than_there_is(void **state) {
    (void)state;
    for (int cpus = 1; cpus <= 16; cpus++)
        for (int ranks = 1; ranks <= RANKS_MOST; ranks++) {
            RankPlace places[RANKS_MOST];
            int all[RANKS_MOST][2], total = 0;
            for (int r = 0; r < ranks; r++) all[r][0] = 0, all[r][1] = cpus;
            place(places, &"aaaaaaaa"[RANKS_MOST - ranks], (const int (*)[2])all);
            for (int r = 0; r < ranks; r++) total += neighbours_of(places, ranks, r).cpus;
            assert_true(total <= (cpus > ranks ? cpus : ranks));
            assert_true(total > cpus - ranks);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cpus_that_several_may_use_are_shared_out),
        cmocka_unit_test(shares_are_no_more_than_there_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
