/*
 * attention.cuh: what the scalar kernels of attention share, training's (attention.cu) and generation's
 * (attention_decode.cu): a warp's view of one head, any head size that is a multiple of 8 up to 256.
 */
#ifndef ATTENTION_CUH
#define ATTENTION_CUH

#include "types.cuh"

constexpr int MAX_D = 256;              /* largest head */
constexpr int HEAD_DIMS = MAX_D / WARP; /* dimensions of a head that a lane owns at most */
constexpr int HEAD_WARPS = 4, HEAD_THREADS = HEAD_WARPS * WARP; /* of a block */

typedef float Head[MAX_D];
typedef float Lanes[WARP];

/* Σ query[d]·row[d] over D dimensions, by one thread; row is 16-byte aligned. Eight sums side by side, then a
 * tree: shorter chains of rounding, and of waiting. */
template <typename S> __device__ __forceinline__ float dot(const float *query, const S *row, int D) {
    float sum[PACK] = {0};
    for (int d = 0; d < D; d += PACK) {
        float pack[PACK];
        load_pack(pack, row + d);
#pragma unroll
        for (int i = 0; i < PACK; i++) sum[i] += query[d + i] * pack[i];
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* Exit 2 where the kernels here cannot take the shape: B sequences of T (new) tokens. */
static inline void check_heads(const char *operation, int B, int T, int H, int Hkv, int D) {
    check(D >= 8 && D <= MAX_D && D % 8 == 0, "%s on cuda: head sizes are multiples of 8 up to %d, not %d",
          operation, MAX_D, D);
    check(Hkv >= 1 && H % Hkv == 0, "%s on cuda: %d heads are not a multiple of %d key-value heads",
          operation, H, Hkv);
    check((int64_t)B * T <= (int64_t)INT32_MAX / H,
          "%s on cuda: %d sequences of %d tokens and %d heads are more than a launch can hold", operation, B,
          T, H);
    check((int64_t)H + 2 * (int64_t)Hkv <= INT32_MAX / MAX_D,
          "%s on cuda: rows of %d and 2 · %d heads are too wide", operation, H, Hkv);
}

#endif
