/*
 * emu_math.h: device intrinsics that need no other thread, those that the kernels use: bits, fast mathematics, min and
 * max. The fast functions are the host's accurate ones: never ask the emulation for a GPU's bits.
 */
#ifndef EMU_MATH_H
#define EMU_MATH_H

#define EMU_CAST(name, from, to)                                                                             \
    static inline to name(from value) {                                                                      \
        to result;                                                                                           \
        static_assert(sizeof result == sizeof value, "");                                                    \
        memcpy(&result, &value, sizeof result);                                                              \
        return result;                                                                                       \
    }
EMU_CAST(__float_as_uint, float, unsigned)
EMU_CAST(__uint_as_float, unsigned, float)
#undef EMU_CAST

static inline float __fmul_rn(float a, float b) {
    return a * b;
}

/* The C library declares a function of this name, so it is a macro here. */
#define __expf(x) expf(x)

/* CUDA has min and max for every pair of arithmetic types; on floats they ignore a NaN. */
template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value)
        return fmin((T)a, (T)b);
    else
        return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point<T>::value)
        return fmax((T)a, (T)b);
    else
        return (T)a < (T)b ? (T)b : (T)a;
}

#endif
