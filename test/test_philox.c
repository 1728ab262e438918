/* test_philox.c: do the random numbers have the right bits, the right distribution, and no memory of who
 * asks? */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../src/base/philox.h"

enum { N = 1 << 20 };

static void generator_gives_random123s_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0}, {0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        uint32_t out[4];
        uint64_t wide[2];
        philox4x32_10(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
        const uint32_t *c = known[i].counter;
        philox_bits((uint64_t)known[i].key[1] << 32 | known[i].key[0], (uint64_t)c[3] << 32 | c[2],
                    (uint64_t)c[1] << 32 | c[0], wide);
        assert_int_equal(wide[0], (uint64_t)out[1] << 32 | out[0]);
        assert_int_equal(wide[1], (uint64_t)out[3] << 32 | out[2]);
    }
}

static void name_hash_is_fnv1a(void **state) {
    (void)state; /* vectors from the authors' page on FNV */
    assert_int_equal(philox_name_hash(""), 0xcbf29ce484222325u);
    assert_int_equal(philox_name_hash("a"), 0xaf63dc4c8601ec8cu);
    assert_int_equal(philox_name_hash("foobar"), 0x85944171f73967e8u);
}

/* In units of what is allowed: 2.5 ulp of the value (1 of the logarithm, halved by the root, ½ of the root, 1
   of the sine, ½ of the product), and what the reference itself may err: its angle, below 2π, is rounded to
   64 bits. */
static double error_share(double got, long double expected, long double radius) {
    return (double)(fabsl(got - expected) / (2.5L * 0x1p-52L * fabsl(expected) + 8 * 0x1p-63L * radius));
}

static void normals_agree_with_the_mathematical_library_to_a_few_ulp(void **state) {
    (void)state;
    const long double pi2 = 6.28318530717958647692528676655900577L;
    double worst = 0;
    for (uint64_t i = 0; i < N; i += 2) {
        uint64_t word[2];
        philox_bits(7, 11, i / 2, word);
        const long double radius = sqrtl(-2 * logl((long double)((word[0] >> 11) + 1) * 0x1p-53L));
        const long double angle = pi2 * (long double)(word[1] >> 11) * 0x1p-53L;
        worst = fmax(worst, error_share(philox_normal(7, 11, i), radius * cosl(angle), radius));
        worst = fmax(worst, error_share(philox_normal(7, 11, i + 1), radius * sinl(angle), radius));
    }
    assert_true(worst < 1);
}

static double *draw_normals(uint64_t seed, const char *name) {
    double *x = malloc(N * sizeof *x);
    philox_fill_normal_f64(x, &(PhiloxFill){.seed = seed,
                                            .name_hash = philox_name_hash(name),
                                            .rows = 1,
                                            .columns = N,
                                            .stride = N,
                                            .std = 1});
    return x;
}

/* Each bound is 5 standard deviations of the estimate under the normal law: Var x = 1, Var x² = 2, Var x⁴
 * = 96. */
static void normals_have_the_moments_of_the_normal_law(void **state) {
    (void)state;
    double *x = draw_normals(1, "moments");
    double m1 = 0, m2 = 0, m4 = 0;
    for (size_t i = 0; i < N; i++) m1 += x[i], m2 += x[i] * x[i], m4 += x[i] * x[i] * x[i] * x[i];
    assert_true(fabs(m1 / N) < 5 * sqrt(1.0 / N));
    assert_true(fabs(m2 / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(m4 / N - 3) < 5 * sqrt(96.0 / N));
    free(x);
}

/* χ² over k equally likely bins has mean k − 1 and variance 2(k − 1). */
static void assert_uniform(const uint64_t *count, size_t k, double total) {
    double chi2 = 0;
    for (size_t i = 0; i < k; i++) {
        const double difference = (double)count[i] - total / (double)k;
        chi2 += difference * difference * (double)k / total;
    }
    assert_true(fabs(chi2 - (double)(k - 1)) < 5 * sqrt(2.0 * (double)(k - 1)));
}

static void normals_and_uniforms_have_the_right_distribution(void **state) {
    (void)state;
    double *x = draw_normals(2, "histogram");
    uint64_t normal[256] = {0}, uniform[256] = {0};
    for (size_t i = 0; i < N; i++) {
        const double u = philox_uniform(3, 4, i);
        assert_true(u >= 0 && u < 1);
        uniform[(int)(u * 256)]++;
        normal[(int)(0.5 * erfc(-x[i] * sqrt(0.5)) * 256)]++;
    }
    assert_uniform(normal, 256, N);
    assert_uniform(uniform, 256, N);
    free(x);
}

/* A sum of products of independent standard normals has variance N. */
static void neighbours_names_and_seeds_are_uncorrelated(void **state) {
    (void)state;
    double *x = draw_normals(1, "a"), *y = draw_normals(1, "b"), *z = draw_normals(2, "a");
    double next = 0, names = 0, seeds = 0, pairs = 0;
    for (size_t i = 0; i + 1 < N; i++) {
        next += x[i] * x[i + 1], names += x[i] * y[i], seeds += x[i] * z[i];
        if (i % 2 == 0) pairs += (x[i] * x[i] - 1) * (x[i + 1] * x[i + 1] - 1) / 2;
    }
    assert_true(fabs(next) < 5 * sqrt(N) && fabs(names) < 5 * sqrt(N) && fabs(seeds) < 5 * sqrt(N));
    assert_true(fabs(pairs) < 5 * sqrt(N / 2));
    free(x), free(y), free(z);
}

static void fill_equals_single_draws_for_any_number_of_threads(void **state) {
    (void)state;
    static const struct {
        uint64_t first;
        size_t rows, columns, stride;
    } shapes[] = {{0, 1, 1, 1},
                  {1, 1, 1, 64},
                  {5, 3, 7, 64},
                  {0, 1, 100001, 100001},
                  {3, 40, 1025, 1088},
                  {1, 33, 1024, 1024},
                  {UINT64_C(1) << 40, 2, 50000, 50048}};
    const int threads = omp_get_max_threads();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const PhiloxFill fill = {.seed = 42,
                                 .name_hash = philox_name_hash("w"),
                                 .first_index = shapes[s].first,
                                 .rows = shapes[s].rows,
                                 .columns = shapes[s].columns,
                                 .stride = shapes[s].stride,
                                 .mean = 0.125,
                                 .std = 0.02};
        const size_t n = fill.rows * fill.stride;
        double *wide = malloc(n * sizeof *wide);
        float *narrow = malloc(n * sizeof *narrow);
        for (int t = 1; t <= 7; t += 2) {
            omp_set_num_threads(t);
            for (size_t i = 0; i < n; i++) wide[i] = 99, narrow[i] = 99;
            philox_fill_normal_f64(wide, &fill);
            philox_fill_normal_f32(narrow, &fill);
            for (size_t i = 0; i < n; i++) {
                const size_t row = i / fill.stride, column = i % fill.stride;
                const uint64_t index = fill.first_index + row * fill.columns + column;
                const double expected =
                    column < fill.columns ? fma(fill.std, philox_normal(42, fill.name_hash, index), fill.mean)
                                          : 99;
                assert_true(wide[i] == expected && narrow[i] == (float)expected);
            }
        }
        free(wide), free(narrow);
    }
    omp_set_num_threads(threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generator_gives_random123s_known_answers),
        cmocka_unit_test(name_hash_is_fnv1a),
        cmocka_unit_test(normals_agree_with_the_mathematical_library_to_a_few_ulp),
        cmocka_unit_test(normals_have_the_moments_of_the_normal_law),
        cmocka_unit_test(normals_and_uniforms_have_the_right_distribution),
        cmocka_unit_test(neighbours_names_and_seeds_are_uncorrelated),
        cmocka_unit_test(fill_equals_single_draws_for_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
