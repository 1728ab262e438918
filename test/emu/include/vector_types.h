/* vector_types.h: CUDA's vector types with CUDA's alignments, dim3, and the make_ functions. */
#ifndef EMU_VECTOR_TYPES_H
#define EMU_VECTOR_TYPES_H

#define EMU_VECTOR(base, name, align1, align2, align4)                                                       \
    struct alignas(align1) name##1 {                                                                         \
        base x;                                                                                              \
    };                                                                                                       \
    struct alignas(align2) name##2 {                                                                         \
        base x, y;                                                                                           \
    };                                                                                                       \
    struct alignas(align1) name##3 {                                                                         \
        base x, y, z;                                                                                        \
    };                                                                                                       \
    struct alignas(align4) name##4 {                                                                         \
        base x, y, z, w;                                                                                     \
    };                                                                                                       \
    static inline name##1 make_##name##1(base x) {                                                           \
        return {x};                                                                                          \
    }                                                                                                        \
    static inline name##2 make_##name##2(base x, base y) {                                                   \
        return {x, y};                                                                                       \
    }                                                                                                        \
    static inline name##3 make_##name##3(base x, base y, base z) {                                           \
        return {x, y, z};                                                                                    \
    }                                                                                                        \
    static inline name##4 make_##name##4(base x, base y, base z, base w) {                                   \
        return {x, y, z, w};                                                                                 \
    }

EMU_VECTOR(signed char, char, 1, 2, 4)
EMU_VECTOR(unsigned char, uchar, 1, 2, 4)
EMU_VECTOR(short, short, 2, 4, 8)
EMU_VECTOR(unsigned short, ushort, 2, 4, 8)
EMU_VECTOR(int, int, 4, 8, 16)
EMU_VECTOR(unsigned int, uint, 4, 8, 16)
EMU_VECTOR(long long, longlong, 8, 16, 16)
EMU_VECTOR(unsigned long long, ulonglong, 8, 16, 16)
EMU_VECTOR(float, float, 4, 8, 16)
EMU_VECTOR(double, double, 8, 16, 16)
#undef EMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};

#endif
