/*
 * test_vmath: does kernels/cpu/vmath.h keep its promises on error and special values, in the vector loop and
 * in its tail, in float and in double?
 *
 * The yardstick is the C library's long double (64 bits of mantissa on x86, at least 11 more than double). An
 * error is counted in ulp of the exact result in the tested type.
 */
#include "../kernels/cpu/vmath.h"

#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* libmvec documents at most 4 ulp. The measure itself adds under 0.01 ulp in double. */
static const double LIBRARY_ULP = 4.01;
/* exp brings 4 ulp, the sum and the division half an ulp each: 5 where all stand just above a power of two,
 * twice that where the result stands just below one. */
static const double SIGMOID_ULP = 10.01;

enum { BLOCK = 1024 };

static long double sigmoid_exact(long double x) {
    long double e = expl(-fabsl(x));
    return (x < 0 ? e : 1) / (1 + e);
}

/* Results below the smallest normal number are held to its ulp, as libmvec may flush them. */
static double ulp_error(long double got, long double exact, int mantissa_digits, int min_exponent) {
    int exponent;
    frexpl(exact, &exponent);
    if (exponent < min_exponent) exponent = min_exponent;
    return (double)(fabsl(got - exact) / ldexpl(1, exponent - mantissa_digits));
}

typedef struct Function {
    const char *name;
    void (*f32)(int n, const float *x, float *y);
    void (*f64)(int n, const double *x, double *y);
    long double (*exact)(long double);
    const double *bound;
    double low_f32, high_f32, low_f64, high_f64;
} Function;

#define LOOPS(function)                                                                                      \
    __attribute__((noinline)) static void function##_loop_f32(int n, const float *x, float *y) {             \
        _Pragma("omp simd") for (int i = 0; i < n; i++) y[i] = vm_##function##_f32(x[i]);                    \
    }                                                                                                        \
    __attribute__((noinline)) static void function##_loop_f64(int n, const double *x, double *y) {           \
        _Pragma("omp simd") for (int i = 0; i < n; i++) y[i] = vm_##function##_f64(x[i]);                    \
    }
LOOPS(exp)
LOOPS(tanh)
LOOPS(sigmoid)
LOOPS(erfc)
LOOPS(erf)

/* The sweeps end where results leave the normal numbers; what lies beyond is test_beyond_the_sweep's. */
static const Function functions[] = {
    {"exp", exp_loop_f32, exp_loop_f64, expl, &LIBRARY_ULP, -87, 88, -708, 709},
    {"tanh", tanh_loop_f32, tanh_loop_f64, tanhl, &LIBRARY_ULP, -12, 12, -24, 24},
    {"sigmoid", sigmoid_loop_f32, sigmoid_loop_f64, sigmoid_exact, &SIGMOID_ULP, -87, 40, -708, 80},
    {"erfc", erfc_loop_f32, erfc_loop_f64, erfcl, &LIBRARY_ULP, -6, 9, -8, 26},
    {"erf", erf_loop_f32, erf_loop_f64, erfl, &LIBRARY_ULP, -5, 5, -7, 7},
};
enum { FUNCTION_COUNT = sizeof functions / sizeof functions[0] };

/* The worst error over a block, in a loop of n: the vector body, and a tail where n is no multiple of it. */
static double worst_f32(const Function *f, int n, const float *x) {
    float y[BLOCK];
    f->f32(n, x, y);
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double error = ulp_error(y[i], f->exact(x[i]), FLT_MANT_DIG, FLT_MIN_EXP);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

static double worst_f64(const Function *f, int n, const double *x) {
    double y[BLOCK];
    f->f64(n, x, y);
    double worst = 0;
    for (int i = 0; i < n; i++) {
        double error = ulp_error(y[i], f->exact(x[i]), DBL_MANT_DIG, DBL_MIN_EXP);
        if (!(error <= worst)) worst = error;
    }
    return worst;
}

/* Evenly over [low, high], then, with both signs, over the binary orders of magnitude down to 2⁻³⁰. */
static double sweep_point(int64_t i, int64_t count, double low, double high) {
    double part = (double)i / (double)count;
    if (i % 4 != 0) return low + (high - low) * part;
    double magnitude = exp2(-30 + part * (log2(high) + 30));
    return i % 8 == 0 ? magnitude : -magnitude;
}

static void test_error_over_a_dense_sweep(void **state) {
    (void)state;
    const int64_t count = 1 << 20;
    for (int k = 0; k < FUNCTION_COUNT; k++) {
        const Function *f = &functions[k];
        double worst32 = 0, worst64 = 0;
        for (int64_t first = 0; first < count; first += BLOCK) {
            float x32[BLOCK];
            double x64[BLOCK];
            for (int i = 0; i < BLOCK; i++) {
                x32[i] = (float)sweep_point(first + i, count, f->low_f32, f->high_f32);
                x64[i] = sweep_point(first + i, count, f->low_f64, f->high_f64);
            }
            int n = BLOCK - (int)(first / BLOCK % 16); /* tails of every length */
            double error32 = worst_f32(f, n, x32), error64 = worst_f64(f, n, x64);
            if (!(error32 <= worst32)) worst32 = error32;
            if (!(error64 <= worst64)) worst64 = error64;
        }
        print_message("%s: worst error %.3f ulp in float, %.3f ulp in double\n", f->name, worst32, worst64);
        assert_true(worst32 <= *f->bound);
        assert_true(worst64 <= *f->bound);
    }
}

__attribute__((noinline)) static void falling_loop(int n, const float *x, float *y) {
#pragma omp simd
    for (int i = 0; i < n; i++) y[i] = vm_exp_falling_f32(x[i]);
}

static void test_the_short_exp(void **state) {
    (void)state;
    const int64_t count = 1 << 20;
    double worst = 0;
    for (int64_t first = 0; first < count; first += BLOCK) {
        float x[BLOCK], y[BLOCK];
        int n = BLOCK - (int)(first / BLOCK % 16); /* tails of every length */
        for (int i = 0; i < n; i++) x[i] = -fabsf((float)sweep_point(first + i, count, 0, 87));
        falling_loop(n, x, y);
        for (int i = 0; i < n; i++) { /* relative: what 2^f and log2(e) are off by, and an ulp for the products */
            long double exact = expl(x[i]), error = fabsl(y[i] / exact - 1);
            double share = (double)(error / (1.1e-7L + 2e-8L * fabsl(x[i]) + 0x1p-23L));
            if (!(share <= worst)) worst = share;
        }
    }
    print_message("the short exp: worst error %.3f of what is documented\n", worst);
    assert_true(worst > 0.1 && worst <= 1);
    float x[3] = {0, -0.0f, NAN}, y[3];
    falling_loop(3, x, y);
    assert_true(y[0] == 1 && y[1] == 1 && isnan(y[2]));
}

/* One value at every place of a loop that has a vector body and a tail. */
static void expect_everywhere(const Function *f, double x, double low, double high) {
    enum { N = 77 };
    float x32[N], y32[N];
    double x64[N], y64[N];
    for (int i = 0; i < N; i++) x32[i] = (float)x, x64[i] = x;
    f->f32(N, x32, y32);
    f->f64(N, x64, y64);
    for (int i = 0; i < N; i++) {
        bool right32 = isnan(low) ? isnan(y32[i]) : y32[i] >= low && y32[i] <= high;
        bool right64 = isnan(low) ? isnan(y64[i]) : y64[i] >= low && y64[i] <= high;
        if (!right32 || !right64)
            fail_msg("%s(%g) at place %d: %g in float, %g in double; expected %g to %g", f->name, x, i,
                     (double)y32[i], y64[i], low, high);
    }
}

static void test_special_values(void **state) {
    (void)state;
    const Function *f_exp = &functions[0], *f_tanh = &functions[1], *f_sigmoid = &functions[2], *f_erfc = &functions[3];
    for (int k = 0; k < FUNCTION_COUNT; k++) expect_everywhere(&functions[k], NAN, NAN, NAN);
    expect_everywhere(f_exp, -INFINITY, 0, 0);
    expect_everywhere(f_exp, INFINITY, INFINITY, INFINITY);
    expect_everywhere(f_exp, 0, 1, 1);
    expect_everywhere(f_tanh, -INFINITY, -1, -1);
    expect_everywhere(f_tanh, INFINITY, 1, 1);
    expect_everywhere(f_tanh, 0, 0, 0);
    expect_everywhere(f_sigmoid, -INFINITY, 0, 0);
    expect_everywhere(f_sigmoid, INFINITY, 1, 1);
    expect_everywhere(f_sigmoid, 0, 0.5, 0.5);
    expect_everywhere(f_erfc, -INFINITY, 2, 2);
    expect_everywhere(f_erfc, INFINITY, 0, 0);
    expect_everywhere(f_erfc, 0, 1, 1);
    expect_everywhere(&functions[4], -INFINITY, -1, -1);
    expect_everywhere(&functions[4], INFINITY, 1, 1);
    expect_everywhere(&functions[4], 0, 0, 0);
}

/* Large arguments overflow and underflow quietly, and no result leaves the function's range. */
static void test_beyond_the_sweep(void **state) {
    (void)state;
    const double large[] = {750, 1e3, 1e10, 1e38};
    for (int i = 0; i < 4; i++) {
        expect_everywhere(&functions[0], large[i], INFINITY, INFINITY);
        expect_everywhere(&functions[0], -large[i], 0, 0);
        expect_everywhere(&functions[1], large[i], 1, 1);
        expect_everywhere(&functions[1], -large[i], -1, -1);
        expect_everywhere(&functions[2], large[i], 1, 1);
        expect_everywhere(&functions[2], -large[i], 0, 0);
        expect_everywhere(&functions[3], large[i], 0, 0);
        expect_everywhere(&functions[3], -large[i], 2, 2);
        expect_everywhere(&functions[4], large[i], 1, 1);
        expect_everywhere(&functions[4], -large[i], -1, -1);
    }
    for (double x = -120; x < -80; x += 0.37) {
        expect_everywhere(&functions[0], x, 0, 1e-34); /* into the subnormal floats */
        expect_everywhere(&functions[2], x, 0, 1e-34);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_over_a_dense_sweep),
        cmocka_unit_test(test_the_short_exp),
        cmocka_unit_test(test_special_values),
        cmocka_unit_test(test_beyond_the_sweep),
    };
    return cmocka_run_group_tests_name("vmath", tests, NULL, NULL);
}
