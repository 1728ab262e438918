/* clang-format off
 * ptx.cuh: the tensor-core and asynchronous-copy instructions that CUDA C++ has no name for, as functions.
 *
 * Under nvcc each is its PTX instruction (sm_80 and newer); in the emulation each is a twin with the
 * documented fragment layout (PTX ISA: matrix fragments for mma.m16n8k16, ldmatrix, cp.async), made from an
 * exchange among the warp's fibers. All 32 lanes of a warp execute ldmatrix_* and mma_* together.
 *
 * Layout, with lane = 0…31, g = lane / 4, t = lane % 4; a 32-bit register holds two bf16, the lower column
 * (for B: the lower k) in its lower half:
 *   A, 16×16:             a[0] = A[g][2t, 2t+1]     a[1] = A[g+8][2t, 2t+1]
 *                         a[2] = A[g][2t+8, 2t+9]   a[3] = A[g+8][2t+8, 2t+9]
 *   B, 16×8 (k by n):     b[0] = B[2t, 2t+1][g]     b[1] = B[2t+8, 2t+9][g]
 *   C, D, 16×8, float:    c[0], c[1] = C[g][2t, 2t+1]    c[2], c[3] = C[g+8][2t, 2t+1]
 * clang-format on */
#ifndef PTX_CUH
#define PTX_CUH

#include "cuda.cuh"

#ifdef EMULATION
#include "emu_ptx.h"
#else

/* The address of shared memory as 32 bits in the shared window, for instructions that ask for one. */
__device__ __forceinline__ uint32_t shared_address(const void *shared) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

/* Loads four 8×8 matrices of 16-bit elements. Lane l gives the address of row l%8 of matrix l/8 (16 bytes,
   16-byte aligned); r[i] receives elements [g][2t, 2t+1] of matrix i. So A's fragment of a row-major 16×16
   tile is ldmatrix_x4(a, &tile[lane % 16][lane / 16 * 8]). */
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* As ldmatrix_x4, but r[i] receives elements [2t, 2t+1][g] of matrix i: its transpose. For B stored as k rows
 * of n. */
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* Two matrices: lanes 0…15 give the addresses; the others' must still be valid. */
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t (&r)[2], const void *shared_row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(shared_row))
                 : "memory");
}

/* d = A·B + c with fp32 accumulation; d and c may be the same array. */
__device__ __forceinline__ void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4],
                                                  const uint32_t (&b)[2], const float (&c)[4]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]),
          "f"(c[3]));
}

/* Starts a copy of 16 bytes from global to shared memory, both 16-byte aligned. With copy false nothing is
   read and the 16 bytes become zero (for rows past an edge; the source is some address of the tensor even then). Visible to
   this thread after cp_async_wait, to others after a __syncthreads() behind that. */
__device__ __forceinline__ void cp_async_16(void *shared, const void *global, bool copy = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(copy ? 16 : 0)
                 : "memory");
}

/* The same for 4 bytes, 4-byte aligned, always copied. */
__device__ __forceinline__ void cp_async_4(void *shared, const void *global) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global)
                 : "memory");
}

/* Closes a group of the copies started since the last commit (it may be empty). */
__device__ __forceinline__ void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most `pending` of the newest groups are unfinished: cp_async_wait<0>() waits for all. */
template <int pending> __device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/* 2^x in one instruction: within 2 ulp, 0 for −∞ and where the result would be denormal. (exp2f scales its
   argument around that instruction to keep denormals: three instructions more.) */
__device__ __forceinline__ float exp2_approx(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

/* 1/x in one instruction: within 1 ulp; 0 where it or x's reciprocal would be denormal, infinite for a denormal x. */
__device__ __forceinline__ float reciprocal_approx(float x) {
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

#endif
#endif
