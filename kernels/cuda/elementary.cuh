/*
 * elementary.cuh: e^x, a/b, tanh x and erf x as exactly as the type T keeps them that a result is rounded to.
 *
 * expf, a division and tanhf, good to the last bits of fp32, are some 8, 10 and 20 instructions (sm_90, nvcc 13.0): with
 * them a kernel that moves 4 bytes an element would wait for instructions, not for memory. bf16 keeps 2^-9 of a value:
 * there the hardware's own approximations serve, with errors of 2^-17 and less. For float it is CUDA's functions.
 */
#ifndef ELEMENTARY_CUH
#define ELEMENTARY_CUH

#include "types.cuh"
#include "ptx.cuh"

#include <math.h>

constexpr float LOG2_E = 1.4426950408889634f;

template <typename T> constexpr bool is_coarse = sizeof(T) == sizeof(bf16);

/* e^x. Coarse: within (5 + 2|x|)·2^-24 of it; 0 where it would be denormal. */
template <typename T> __device__ __forceinline__ float exponential(float x) {
    return is_coarse<T> ? exp2_approx(x * LOG2_E) : expf(x);
}

/* a/b. Coarse: within 2^-22 of it, for 2^-126 ≤ |b| ≤ 2^126; above, 0. */
template <typename T> __device__ __forceinline__ float quotient(float a, float b) {
    return is_coarse<T> ? a * reciprocal_approx(b) : a / b;
}

/* 1/(1 + e^−x) */
template <typename T> __device__ __forceinline__ float sigmoid(float x) {
    return quotient<T>(1, 1 + exponential<T>(-x));
}

/* tanh x and its slope, 1 − tanh² x. Coarse: of ρ = 1/(1 + e^2|x|) = (1 − tanh |x|)/2 the value is 1 − 2ρ, whose error of
 * at most 2^-21 is 2^-17 of the smallest that it is used for; below, two terms of the series, of which the third is
 * 2^-19. The slope is 4ρ(1 − ρ), which does not cancel where it is small as 1 − tanh² would: within (10 + 4|x|)·2^-24. */
struct Squash {
    float value, slope;
};
template <typename T> __device__ __forceinline__ Squash hyperbolic_tangent(float x) {
    if constexpr (!is_coarse<T>) {
        const float value = tanhf(x);
        return {value, (1 - value) * (1 + value)};
    }
    const float rest = reciprocal_approx(1 + exponential<T>(2 * fabsf(x)));
    const float series = x * fmaf(x * x, -1.0f / 3, 1);
    return {fabsf(x) < 0.0625f ? series : copysignf(fmaf(-2, rest, 1), x), 4 * rest * (1 - rest)};
}

/* erf x and its slope, 2/√π·e^−x². The value is CUDA's for both types: some 24 instructions (sm_90, nvcc 13.0), for which a
 * junction's 8 bytes an element leave slots. Coarse: the slope is within (8 + 3x²)·2^-24. */
template <typename T> __device__ __forceinline__ Squash error_function(float x) {
    return {erff(x), 1.1283791670955126f * exponential<T>(-x * x)};
}

#endif
