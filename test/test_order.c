/* test_order.c: is the window order a permutation, a different one each epoch, and as good as a random one?
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "../src/data/order.h"

#include <cmocka.h> /* last: it makes fail() of check.h a macro */

static void permutation_is_a_bijection_for_every_size(void **state) {
    (void)state;
    for (int bits = 0; bits <= 17; bits++) {
        for (int64_t delta = -2; delta <= 3; delta++) {
            const int64_t n = (INT64_C(1) << bits) + delta;
            if (n < 1) continue;
            uint8_t *seen = calloc((size_t)n, 1);
            for (uint64_t i = 0; i < (uint64_t)n; i++) {
                const uint64_t image = order_permute((uint64_t)n, 1234, (uint64_t)bits, i);
                assert_true(image < (uint64_t)n && !seen[image]);
                seen[image] = 1;
            }
            free(seen);
        }
    }
    static const uint64_t primes[] = {7, 11, 13, 97, 251, 1009, 7919, 104729};
    for (size_t p = 0; p < sizeof primes / sizeof primes[0]; p++) {
        uint8_t *seen = calloc(primes[p], 1);
        for (uint64_t i = 0; i < primes[p]; i++) seen[order_permute(primes[p], 9, 3, i)]++;
        for (uint64_t i = 0; i < primes[p]; i++) assert_int_equal(seen[i], 1);
        free(seen);
    }
    const uint64_t huge = (UINT64_C(1) << 62) - 57;
    for (uint64_t i = 0; i < 1000; i++) assert_true(order_permute(huge, 1, 1, huge - 1 - i) < huge);
}

/* Two random permutations of n agree in 1 ± 1 places (Poisson); so do a permutation and its shift: π(i+1) =
 * π(i)+1. */
static void epochs_and_seeds_give_unrelated_permutations(void **state) {
    (void)state;
    enum { SIZE = 1000, EPOCHS = 400 };
    double epochs = 0, seeds = 0, runs = 0, fixed = 0;
    for (uint64_t e = 0; e < EPOCHS; e++) {
        for (uint64_t i = 0; i < SIZE; i++) {
            const uint64_t here = order_permute(SIZE, 5, e, i);
            epochs += here == order_permute(SIZE, 5, e + 1, i);
            seeds += here == order_permute(SIZE, 5 + EPOCHS + e, e, i);
            fixed += here == i;
            if (i + 1 < SIZE) runs += order_permute(SIZE, 5, e, i + 1) == here + 1;
        }
    }
    const double bound = 5 * sqrt(EPOCHS);
    assert_true(fabs(epochs - EPOCHS) < bound && fabs(seeds - EPOCHS) < bound);
    assert_true(fabs(fixed - EPOCHS) < bound && fabs(runs - EPOCHS) < bound);
}

/* χ² over k cells has mean k − 1 and variance 2(k − 1): within 5 standard deviations. */
static void assert_uniform(const int *count, int k, double total) {
    double chi2 = 0;
    for (int i = 0; i < k; i++) chi2 += (count[i] - total / k) * (count[i] - total / k) * k / total;
    assert_true(fabs(chi2 - (k - 1)) < 5 * sqrt(2.0 * (k - 1)));
}

static void every_place_and_every_small_permutation_is_equally_likely(void **state) {
    (void)state;
    enum { EPOCHS = 20000 };
    int first[97] = {0}, last[97] = {0}, middle[97] = {0}, all4[256] = {0}, cells[24], n_cells = 0;
    for (uint64_t e = 0; e < EPOCHS; e++) {
        first[order_permute(97, 1, e, 0)]++;
        middle[order_permute(97, 1, e, 48)]++;
        last[order_permute(97, 1, e, 96)]++;
        uint64_t code = 0;
        for (uint64_t i = 0; i < 4; i++) code = code << 2 | order_permute(4, 1, e, i);
        all4[code]++;
    }
    assert_uniform(first, 97, EPOCHS);
    assert_uniform(middle, 97, EPOCHS);
    assert_uniform(last, 97, EPOCHS);
    for (int code = 0; code < 256; code++)
        if (all4[code]) cells[n_cells++ % 24] = all4[code];
    assert_int_equal(n_cells, 24);
    assert_uniform(cells, 24, EPOCHS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permutation_is_a_bijection_for_every_size),
        cmocka_unit_test(epochs_and_seeds_give_unrelated_permutations),
        cmocka_unit_test(every_place_and_every_small_permutation_is_equally_likely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
