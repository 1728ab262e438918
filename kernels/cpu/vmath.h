/*
 * vmath.h: exp, tanh, erf, erfc and the logistic function for loops that the compiler turns into vector code.
 *
 *     #pragma omp simd
 *     for (int c = 0; c < C; c++)
 *         y[c] = vm_tanh(x[c]);
 *
 * vm_exp, vm_tanh, vm_erf, vm_erfc and vm_sigmoid take and return `real`; with _f32 or _f64 behind the name, float or double.
 * The library is glibc's libmvec (link -lmvec -lm): its functions are declared here under names of our own
 * with gcc's attribute simd, so that gcc calls _ZGVeN16v_expf and its like without -ffast-math, which is the
 * only way that <math.h> offers. Where there is no libmvec (clang, another processor, another C library, an
 * older glibc) and in the tail of a vector loop the same functions are called one element at a time.
 *
 * Error: libmvec documents at most 4 ulp; vm_sigmoid adds a sum and a division: at most 10. Special values
 * are those of C: exp(−∞) = 0, exp(∞) = ∞, tanh(±∞) = ±1, NaN stays NaN; vm_sigmoid(−∞) = 0, vm_sigmoid(∞) =
 * 1 and never NaN or overflow between. test/test_vmath holds this header to all of it.
 *
 * The same input may give a result that differs in the last bits between the vector loop and its tail: what
 * must be the same bits twice has to stand at the same place of a loop of the same length.
 *
 * A result that is used under a condition only (c ? vm_exp(x) : 0) makes gcc 12 move the call into a branch,
 * and the loop stays scalar: multiply by 0 or 1 instead, or use the result on both sides.
 *
 * Where exp underflows or overflows (|x| > 87 in float) libmvec leaves the vector path, at some 20 ns an
 * element: a loop that expects many such values should clamp them first.
 */
#ifndef VMATH_H
#define VMATH_H

#include "cpu.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__)
#if __GLIBC_PREREQ(2, 35) /* the first with tanh in libmvec */
#define VM_LIBMVEC 1
#endif
#endif

/* clang cannot vectorise these calls, and says so at every loop that asks for it. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed"
#endif

#ifdef VM_LIBMVEC
#define VM_DECLARE(type, name, symbol)                                                                       \
    type name(type x) __asm__(symbol) __attribute__((simd("notinbranch"), const))
VM_DECLARE(float, vm_library_expf, "expf");
VM_DECLARE(float, vm_library_tanhf, "tanhf");
VM_DECLARE(float, vm_library_erff, "erff");
VM_DECLARE(float, vm_library_erfcf, "erfcf");
VM_DECLARE(double, vm_library_exp, "exp");
VM_DECLARE(double, vm_library_tanh, "tanh");
VM_DECLARE(double, vm_library_erf, "erf");
VM_DECLARE(double, vm_library_erfc, "erfc");
#undef VM_DECLARE
#else
#define vm_library_expf  expf
#define vm_library_tanhf tanhf
#define vm_library_erff  erff
#define vm_library_erfcf erfcf
#define vm_library_exp   exp
#define vm_library_tanh  tanh
#define vm_library_erf   erf
#define vm_library_erfc  erfc
#endif

static inline float vm_exp_f32(float x) {
    return vm_library_expf(x);
}
static inline double vm_exp_f64(double x) {
    return vm_library_exp(x);
}

static inline float vm_tanh_f32(float x) {
    return vm_library_tanhf(x);
}
static inline double vm_tanh_f64(double x) {
    return vm_library_tanh(x);
}

static inline float vm_erf_f32(float x) {
    return vm_library_erff(x);
}
static inline double vm_erf_f64(double x) {
    return vm_library_erf(x);
}

/* 1 − erf(x), whose small values for large x are exact to the last bits. */
static inline float vm_erfc_f32(float x) {
    return vm_library_erfcf(x);
}
static inline double vm_erfc_f64(double x) {
    return vm_library_erfc(x);
}

/* 1/(1+exp(−x)). exp(−|x|) cannot overflow, and keeps the small results of large −x to full precision. */
static inline float vm_sigmoid_f32(float x) {
    float e = vm_exp_f32(-fabsf(x));
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

static inline double vm_sigmoid_f64(double x) {
    double e = vm_exp_f64(-fabs(x));
    return (x < 0 ? e : 1.0) / (1.0 + e);
}

/* exp of x from −87 to 0 without a call, for loops where that, and the registers it takes, is what they wait for: 2^n·2^f with
 * |f| ≤ ½. Error 1.1e-7 of the result for 2^f, a polynomial made for the least such error, and |x|·2e-8 for the rounded log2(e);
 * exp(0) is 1, NaN stays NaN. A processor that has no fused multiplication is slow here. */
static inline float vm_exp_falling_f32(float x) {
    const float log2e = 1.44269504f, shifter = 0x1.8p23f; /* a sum with it has no room for a fraction */
    float shifted = fmaf(x, log2e, shifter), f = fmaf(x, log2e, shifter - shifted);
    float p = 1.326472731e-3f;
    p = fmaf(p, f, 9.671512991e-3f);
    p = fmaf(p, f, 5.550733581e-2f);
    p = fmaf(p, f, 2.402224243e-1f);
    p = fmaf(p, f, 6.931470037e-1f);
    p = fmaf(p, f, 1);
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23; /* 2^n */
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

#ifdef CPU_F64
#define VM_REAL(symbol) symbol##_f64
#else
#define VM_REAL(symbol) symbol##_f32
#endif
#define vm_exp     VM_REAL(vm_exp)
#define vm_tanh    VM_REAL(vm_tanh)
#define vm_erf     VM_REAL(vm_erf)
#define vm_erfc    VM_REAL(vm_erfc)
#define vm_sigmoid VM_REAL(vm_sigmoid)

/* exp of x from EXP_LOWEST, below which it is subnormal, slow, and far below rounding, to what rounding leaves above 0. In bf16,
 * whose products are fast and whose results are rounded far shorter, it is the short one. */
#ifdef CPU_F64
#define EXP_LOWEST (-708)
#else
#define EXP_LOWEST (-87)
#endif
#ifdef CPU_BF16
#define vm_exp_falling vm_exp_falling_f32
#else
#define vm_exp_falling vm_exp
#endif

/* The same of x however low: in bf16 0 below EXP_LOWEST. */
static inline real exp_falling(real x) {
#ifdef CPU_BF16
    return x < EXP_LOWEST ? 0 : vm_exp_falling(x);
#else
    return vm_exp(x);
#endif
}

#endif
