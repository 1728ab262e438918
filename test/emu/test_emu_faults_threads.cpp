/* test_emu_faults_threads.cpp: planted faults among threads: barriers, exchanges, tensor-core twins. */
#include "test_emu.h"

namespace {

/* ---- barriers ---------------------------------------------------------------------------------------- */

__global__ void exits_early() {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
__global__ void two_lines() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
__global__ void half_elsewhere(int *out) {
    if (threadIdx.x % 32 < 16)
        __syncthreads();
    else
        out[0] = __shfl_sync(FULL, 1, 0);
}
__global__ void later_barrier_missing(int *out) {
    for (unsigned i = 0; i < 2 + threadIdx.x / 63; i++) {
        __syncthreads();
        out[0] = 1;
    }
}

/* ---- exchanges --------------------------------------------------------------------------------------- */

__global__ void lane_exited(int *out) {
    if (threadIdx.x == 7) return;
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1, 1);
}
__global__ void lane_absent(int *out) {
    out[threadIdx.x] = __shfl_down_sync(FULL, 1, 1);
}
__global__ void mask_without_caller(int *out) {
    out[threadIdx.x] = __shfl_sync(0xfffffffeu, 1, 1);
}
__global__ void masks_differ(int *out) {
    unsigned mask = threadIdx.x < 16 ? 0xffffu : FULL;
    out[threadIdx.x] = __shfl_sync(mask, 1, 0);
}
__global__ void lines_differ(int *out) {
    if (threadIdx.x < 16)
        out[threadIdx.x] = __shfl_sync(FULL, 1, 0);
    else
        out[threadIdx.x] = __shfl_sync(FULL, 1, 0);
}
__global__ void source_outside_mask(int *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}
__global__ void bad_width(int *out) {
    out[threadIdx.x] = __shfl_sync(FULL, 1, 0, 12);
}
__global__ void vote_of_the_absent(unsigned *out) {
    if (threadIdx.x > 3) out[threadIdx.x] = __ballot_sync(FULL, 1);
}
__global__ void mma_alone(float *out) {
    float c[4] = {0, 0, 0, 0};
    uint32_t a[4] = {0, 0, 0, 0}, b[2] = {0, 0};
    if (threadIdx.x != 3) mma_m16n8k16_bf16(c, a, b, c);
    out[0] = c[0];
}
__global__ void mma_poison(float *out, const uint32_t *in) {
    float c[4] = {0, 0, 0, 0};
    uint32_t a[4] = {0, 0, threadIdx.x == 9 ? in[0] : 0u, 0}, b[2] = {0, 0};
    mma_m16n8k16_bf16(c, a, b, c);
    out[0] = c[0];
}
__global__ void ldmatrix_misaligned(uint32_t *out) {
    SHARED_ARRAY(uint16_t, tile, 512);
    uint32_t r[4];
    ldmatrix_x4(r, &tile[threadIdx.x * 8 + (threadIdx.x == 2)]);
    out[threadIdx.x] = r[0];
}
__global__ void ldmatrix_global(uint32_t *out) {
    uint32_t r[4];
    ldmatrix_x4(r, out);
    out[threadIdx.x] = r[0];
}

} // namespace

const Fault thread_faults[] = {
    {"an exit before a barrier",
     [] { RUN(exits_early, 64, 0); },
     EMU,
     {"kernel exits_early, block (0, 0, 0), thread (5, 0, 0): ", "divergent __syncthreads"}},
    {"two barriers at once",
     [] { RUN(two_lines, 64, 0); },
     EMU,
     {"kernel two_lines, block (0, 0, 0), thread (32, 0, 0): ", "divergent __syncthreads"}},
    {"a barrier against a shuffle",
     [] {
         Fresh<int> d;
         RUN(half_elsewhere, 64, 0, d.at);
     },
     EMU,
     {"kernel half_elsewhere, block (0, 0, 0), thread (0, 0, 0): ", "divergent __syncthreads",
      "__shfl_sync"}},
    {"one barrier more",
     [] {
         Fresh<int> d;
         RUN(later_barrier_missing, 64, 0, d.at);
     },
     EMU,
     {"kernel later_barrier_missing, block (0, 0, 0), thread (", "divergent __syncthreads", "exit"}},

    {"a shuffle with an exited lane",
     [] {
         Fresh<int> d;
         RUN(lane_exited, 32, 0, d.at);
     },
     EMU,
     {"kernel lane_exited, block (0, 0, 0), thread (0, 0, 0): ", "names lane 7, which has exited"}},
    {"a shuffle with lanes that the block lacks",
     [] {
         Fresh<int> d;
         RUN(lane_absent, 48, 0, d.at);
     },
     EMU,
     {"kernel lane_absent, block (0, 0, 0), thread (32, 0, 0): ",
      "names lane 16, which the block does not have"}},
    {"a mask without the caller",
     [] {
         Fresh<int> d;
         RUN(mask_without_caller, 32, 0, d.at);
     },
     EMU,
     {"kernel mask_without_caller, block (0, 0, 0), thread (0, 0, 0): ", "leaves out the calling lane 0"}},
    {"masks that differ",
     [] {
         Fresh<int> d;
         RUN(masks_differ, 32, 0, d.at);
     },
     EMU,
     {"kernel masks_differ, block (0, 0, 0), thread (", "__shfl_sync", "mask 0xffffffff"}},
    {"shuffles at different lines",
     [] {
         Fresh<int> d;
         RUN(lines_differ, 32, 0, d.at);
     },
     EMU,
     {"kernel lines_differ, block (0, 0, 0), thread (31, 0, 0): ", "is in __shfl_sync"}},
    {"a shuffle from outside the mask",
     [] {
         Fresh<int> d;
         RUN(source_outside_mask, 32, 0, d.at);
     },
     EMU,
     {"kernel source_outside_mask, block (0, 0, 0), thread (0, 0, 0): ", "reads lane 20"}},
    {"a shuffle's width",
     [] {
         Fresh<int> d;
         RUN(bad_width, 32, 0, d.at);
     },
     EMU,
     {"kernel bad_width, block (0, 0, 0), thread (0, 0, 0): ", "width 12"}},
    {"a vote of exited lanes",
     [] {
         Fresh<unsigned> d;
         RUN(vote_of_the_absent, 32, 0, d.at);
     },
     EMU,
     {"kernel vote_of_the_absent, block (0, 0, 0), thread (4, 0, 0): ", "__ballot_sync", "has exited"}},
    {"mma without a lane",
     [] {
         Fresh<float> d;
         RUN(mma_alone, 32, 0, d.at);
     },
     EMU,
     {"kernel mma_alone, block (0, 0, 0), thread (", "mma", "lane 3, which has exited"}},
    {"mma on poison",
     [] {
         Fresh<float> d;
         Fresh<uint32_t> in;
         RUN(mma_poison, 32, 0, d.at, in.at);
     },
     EMU,
     {"kernel mma_poison, block (0, 0, 0), thread (9, 0, 0): ", "uninitialised memory in A"}},
    {"ldmatrix off alignment",
     [] {
         Fresh<uint32_t> d;
         RUN(ldmatrix_misaligned, 32, 0, d.at);
     },
     EMU,
     {"kernel ldmatrix_misaligned, block (0, 0, 0), thread (2, 0, 0): ", "misaligned"}},
    {"ldmatrix from global memory",
     [] {
         Fresh<uint32_t> d;
         RUN(ldmatrix_global, 32, 0, d.at);
     },
     EMU,
     {"kernel ldmatrix_global, block (0, 0, 0), thread (0, 0, 0): ", "inside the block's shared memory"}},
};
const size_t thread_fault_count = sizeof thread_faults / sizeof thread_faults[0];
