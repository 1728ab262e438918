/* vector.h: the widest vector that the processor has which the program is built for, for loops that `omp simd` does not get right. */
#ifndef VECTOR_H
#define VECTOR_H

#include "cpu.h"

#if defined(__AVX512F__)
enum { VECTOR_BYTES = 64 };
#elif defined(__AVX__)
enum { VECTOR_BYTES = 32 };
#else
enum { VECTOR_BYTES = 16 };
#endif
enum { LANES = VECTOR_BYTES / sizeof(real) };

typedef real Vector __attribute__((vector_size(VECTOR_BYTES), may_alias));

#define INLINE static inline __attribute__((always_inline))

#endif
