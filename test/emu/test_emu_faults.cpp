/*
 * test_emu_faults.cpp: every strictness that the emulation promises, each with a planted fault.
 *
 * A fault is a function that breaks one rule. It runs in a child process, which must end with the exit code that the
 * table says and must have named the kernel, the block, the thread and the rule on stderr.
 */
#include "test_emu.h"

#include <cublasLt.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <string>

namespace {

/* ---- barriers ------------------------------------------------------------------------------------------------ */

__global__ void exits_early() {
    if (threadIdx.x == 5) return;
    __syncthreads();
}
__global__ void two_lines() {
    if (threadIdx.x < 32) __syncthreads();
    else
        __syncthreads();
}
__global__ void half_elsewhere(int *out) {
    if (threadIdx.x % 32 < 16) __syncthreads();
    else out[0] = __shfl_sync(FULL, 1, 0);
}
__global__ void later_barrier_missing(int *out) {
    for (unsigned i = 0; i < 2 + threadIdx.x / 63; i++) {
        __syncthreads();
        out[0] = 1;
    }
}

/* ---- exchanges ------------------------------------------------------------------------------------------------- */

__global__ void lane_exited(int *out) {
    if (threadIdx.x == 7) return;
    out[threadIdx.x] = __shfl_xor_sync(FULL, 1, 1);
}
__global__ void lane_absent(int *out) { out[threadIdx.x] = __shfl_down_sync(FULL, 1, 1); }
__global__ void mask_without_caller(int *out) { out[threadIdx.x] = __shfl_sync(0xfffffffeu, 1, 1); }
__global__ void masks_differ(int *out) {
    unsigned mask = threadIdx.x < 16 ? 0xffffu : FULL;
    out[threadIdx.x] = __shfl_sync(mask, 1, 0);
}
__global__ void lines_differ(int *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(FULL, 1, 0);
    else
        out[threadIdx.x] = __shfl_sync(FULL, 1, 0);
}
__global__ void source_outside_mask(int *out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffffu, 1, 20);
}
__global__ void bad_width(int *out) { out[threadIdx.x] = __shfl_sync(FULL, 1, 0, 12); }
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

/* ---- memory ------------------------------------------------------------------------------------------------------ */

__global__ void adds_one(float *out, const float *in) { out[threadIdx.x] = in[threadIdx.x] + 1.0f; }
__global__ void adds_memory(float *out, const float *in, float x) { out[threadIdx.x] = x + in[threadIdx.x]; }
__global__ void compares(int *out, const float *in) { out[threadIdx.x] = in[threadIdx.x] > 0.0f; }
__global__ void maximum(float *out, const float *in) { out[threadIdx.x] = fmaxf(in[threadIdx.x], 0.0f); }
__global__ void exponential(float *out, const float *in) { out[threadIdx.x] = __expf(in[threadIdx.x]); }
__global__ void converts(float *out, const __nv_bfloat16 *in) { out[threadIdx.x] = __bfloat162float(in[threadIdx.x]); }
__global__ void rounds(__nv_bfloat16 *out, const float *in) { out[threadIdx.x] = __float2bfloat16(in[threadIdx.x]); }
__global__ void reads_last_blocks_shared(float *out) {
    SHARED_ARRAY(float, value, 32);
    if (blockIdx.x == 0) value[threadIdx.x] = 1;
    out[threadIdx.x] = value[threadIdx.x] * 2.0f;
}
__global__ void reads_before_wait(float *out, const float *in) {
    SHARED_ARRAY(float, place, 4);
    cp_async_16(place, in);
    cp_async_commit();
    out[0] = place[0] + 1.0f;
    cp_async_wait<0>();
}
__global__ void never_waits(const float *in) {
    SHARED_ARRAY(float, place, 4);
    cp_async_16(place, in);
    cp_async_commit();
}
__global__ void waits_without_commit(const float *in) {
    SHARED_ARRAY(float, place, 4);
    cp_async_16(place, in);
    cp_async_wait<0>();
}
__global__ void copies_from(const void *source) {
    SHARED_ARRAY(float, place, 4);
    cp_async_16(place, source);
    cp_async_commit();
    cp_async_wait<0>();
}
__global__ void copies_into(void *place, const void *source) { cp_async_16(place, source); }
__global__ void loads_float4(float4 *out, const float *in) {
    out[threadIdx.x] = *reinterpret_cast<const float4 *>(in + threadIdx.x);
}
__global__ void static_overrun() {
    SHARED_ARRAY(float, row, 33);
    row[threadIdx.x + 2] = 1;
}
__global__ void dynamic_overrun() {
    SHARED_MEMORY(float, row);
    row[threadIdx.x + 1] = 1;
}
__global__ void much_static() {
    SHARED_ARRAY(float, first, 6000);
    SHARED_ARRAY(float, second, 6400);
    first[0] = second[0] = 1;
}
__global__ void some_static() {
    SHARED_ARRAY(float, first, 1000);
    first[0] = 1;
}
__global__ void divides(int *out, int by) { out[0] = 100 / by; }
__global__ void traps() {
    if (threadIdx.x == 4) __trap();
}
__global__ void recurses(int *out, int depth) {
    volatile char frame[4096];
    frame[0] = (char)depth;
    if (depth) recurses(out, depth - 1);
    out[0] = frame[0];
}
[[maybe_unused]] __global__ void device_overrun(float *out) { out[threadIdx.x + 1] = 1; }

/* ---- the faults --------------------------------------------------------------------------------------------------- */

template <typename T> struct Fresh : Device<T> {
    Fresh() : Device<T>(64) {}
};

#define RUN(kernel, block, shared, ...)                                                                                \
    do {                                                                                                               \
        LAUNCH(kernel, 2, block, shared, 0, ##__VA_ARGS__);                                                            \
        synchronize();                                                                                                 \
    } while (0)

struct Fault {
    const char *name;
    void (*break_rule)();
    int exit_code;
    std::vector<const char *> said;
};

const int EMU = emu::EMU_EXIT;
float host_array[64];

const Fault faults[] = {
    {"an exit before a barrier", [] { RUN(exits_early, 64, 0); }, EMU,
     {"kernel exits_early, block (0, 0, 0), thread (5, 0, 0): ", "divergent __syncthreads"}},
    {"two barriers at once", [] { RUN(two_lines, 64, 0); }, EMU,
     {"kernel two_lines, block (0, 0, 0), thread (32, 0, 0): ", "divergent __syncthreads"}},
    {"a barrier against a shuffle", [] { Fresh<int> d; RUN(half_elsewhere, 64, 0, d.at); }, EMU,
     {"kernel half_elsewhere, block (0, 0, 0), thread (0, 0, 0): ", "divergent __syncthreads", "__shfl_sync"}},
    {"one barrier more", [] { Fresh<int> d; RUN(later_barrier_missing, 64, 0, d.at); }, EMU,
     {"kernel later_barrier_missing, block (0, 0, 0), thread (", "divergent __syncthreads", "exit"}},

    {"a shuffle with an exited lane", [] { Fresh<int> d; RUN(lane_exited, 32, 0, d.at); }, EMU,
     {"kernel lane_exited, block (0, 0, 0), thread (0, 0, 0): ", "names lane 7, which has exited"}},
    {"a shuffle with lanes that the block lacks", [] { Fresh<int> d; RUN(lane_absent, 48, 0, d.at); }, EMU,
     {"kernel lane_absent, block (0, 0, 0), thread (32, 0, 0): ", "names lane 16, which the block does not have"}},
    {"a mask without the caller", [] { Fresh<int> d; RUN(mask_without_caller, 32, 0, d.at); }, EMU,
     {"kernel mask_without_caller, block (0, 0, 0), thread (0, 0, 0): ", "leaves out the calling lane 0"}},
    {"masks that differ", [] { Fresh<int> d; RUN(masks_differ, 32, 0, d.at); }, EMU,
     {"kernel masks_differ, block (0, 0, 0), thread (", "__shfl_sync", "mask 0xffffffff"}},
    {"shuffles at different lines", [] { Fresh<int> d; RUN(lines_differ, 32, 0, d.at); }, EMU,
     {"kernel lines_differ, block (0, 0, 0), thread (31, 0, 0): ", "is in __shfl_sync"}},
    {"a shuffle from outside the mask", [] { Fresh<int> d; RUN(source_outside_mask, 32, 0, d.at); }, EMU,
     {"kernel source_outside_mask, block (0, 0, 0), thread (0, 0, 0): ", "reads lane 20"}},
    {"a shuffle's width", [] { Fresh<int> d; RUN(bad_width, 32, 0, d.at); }, EMU,
     {"kernel bad_width, block (0, 0, 0), thread (0, 0, 0): ", "width 12"}},
    {"a vote of exited lanes", [] { Fresh<unsigned> d; RUN(vote_of_the_absent, 32, 0, d.at); }, EMU,
     {"kernel vote_of_the_absent, block (0, 0, 0), thread (4, 0, 0): ", "__ballot_sync", "has exited"}},
    {"mma without a lane", [] { Fresh<float> d; RUN(mma_alone, 32, 0, d.at); }, EMU,
     {"kernel mma_alone, block (0, 0, 0), thread (", "mma", "lane 3, which has exited"}},
    {"mma on poison", [] { Fresh<float> d; Fresh<uint32_t> in; RUN(mma_poison, 32, 0, d.at, in.at); }, EMU,
     {"kernel mma_poison, block (0, 0, 0), thread (9, 0, 0): ", "uninitialised memory in A"}},
    {"ldmatrix off alignment", [] { Fresh<uint32_t> d; RUN(ldmatrix_misaligned, 32, 0, d.at); }, EMU,
     {"kernel ldmatrix_misaligned, block (0, 0, 0), thread (2, 0, 0): ", "misaligned"}},
    {"ldmatrix from global memory", [] { Fresh<uint32_t> d; RUN(ldmatrix_global, 32, 0, d.at); }, EMU,
     {"kernel ldmatrix_global, block (0, 0, 0), thread (0, 0, 0): ", "inside the block's shared memory"}},

#if defined(__x86_64__)
    {"poison in a sum", [] { Fresh<float> d; RUN(adds_one, 32, 0, d.at, d.at); }, EMU,
     {"kernel adds_one, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison as a memory operand", [] { Fresh<float> d; RUN(adds_memory, 32, 0, d.at, d.at, 1.0f); }, EMU,
     {"kernel adds_memory, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a comparison", [] { Fresh<float> d; Fresh<int> e; RUN(compares, 32, 0, e.at, d.at); }, EMU,
     {"kernel compares, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a maximum", [] { Fresh<float> d; RUN(maximum, 32, 0, d.at, d.at); }, EMU,
     {"kernel maximum, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a function", [] { Fresh<float> d; RUN(exponential, 32, 0, d.at, d.at); }, EMU,
     {"kernel exponential, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"the last block's shared memory", [] { Fresh<float> d; RUN(reads_last_blocks_shared, 32, 0, d.at); }, EMU,
     {"kernel reads_last_blocks_shared, block (1, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"cp.async read before its wait",
     [] { Device<float> in(std::vector<float>(4, 1)); Fresh<float> d; RUN(reads_before_wait, 1, 0, d.at, in.at); }, EMU,
     {"kernel reads_before_wait, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
#endif
    {"poison as bf16", [] { Fresh<__nv_bfloat16> e; Fresh<float> d; RUN(converts, 32, 0, d.at, e.at); }, EMU,
     {"kernel converts, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised memory (bf16"}},
    {"poison rounded to bf16", [] { Fresh<__nv_bfloat16> e; Fresh<float> d; RUN(rounds, 32, 0, e.at, d.at); }, EMU,
     {"kernel rounds, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised memory (float"}},
    {"cp.async without a wait", [] { Fresh<float> d; RUN(never_waits, 1, 0, d.at); }, EMU,
     {"kernel never_waits, block (0, 0, 0), thread (0, 0, 0): ", "16 bytes of cp.async"}},
    {"cp.async without a commit", [] { Fresh<float> d; RUN(waits_without_commit, 1, 0, d.at); }, EMU,
     {"kernel waits_without_commit, block (0, 0, 0), thread (0, 0, 0): ", "16 bytes of cp.async"}},
    {"cp.async off alignment", [] { Fresh<float> d; RUN(copies_from, 1, 0, d.at + 1); }, EMU,
     {"kernel copies_from, block (0, 0, 0), thread (0, 0, 0): ", "misaligned"}},
    {"cp.async past an allocation", [] { Fresh<float> d; RUN(copies_from, 1, 0, d.at + 64); }, EMU,
     {"kernel copies_from, block (0, 0, 0), thread (0, 0, 0): ", "cp.async from global"}},
    {"cp.async from host memory",
     [] { alignas(16) static float here[4]; RUN(copies_from, 1, 0, here); }, EMU,
     {"kernel copies_from, block (0, 0, 0), thread (0, 0, 0): ", "is no device memory"}},
    {"cp.async into global memory", [] { Fresh<float> d; RUN(copies_into, 1, 0, d.at, d.at + 4); }, EMU,
     {"kernel copies_into, block (0, 0, 0), thread (0, 0, 0): ", "inside the block's shared memory"}},

    {"a misaligned float4", [] { Fresh<float> d; Fresh<float4> e; RUN(loads_float4, 2, 0, e.at, d.at); }, 1,
     {"misaligned address", "kernel loads_float4, block (0, 0, 0), thread (1, 0, 0): "}},
#if defined(__SANITIZE_ADDRESS__)
    {"past a static shared array", [] { RUN(static_overrun, 32, 0); }, 1,
     {"AddressSanitizer", "kernel static_overrun, block (0, 0, 0), thread (31, 0, 0): "}},
    {"past the dynamic shared array", [] { RUN(dynamic_overrun, 32, 128); }, 1,
     {"AddressSanitizer", "kernel dynamic_overrun, block (0, 0, 0), thread (31, 0, 0): "}},
    {"past device memory", [] { Fresh<float> d; RUN(device_overrun, 64, 0, d.at); }, 1,
     {"AddressSanitizer", "kernel device_overrun, block (0, 0, 0), thread (63, 0, 0): "}},
    {"device memory on the host", [] { Fresh<float> d; host_array[0] = d.at[0]; }, 1, {"AddressSanitizer"}},
    {"a division by zero", [] { Fresh<int> d; RUN(divides, 1, 0, d.at, 0); }, 1,
     {"kernel divides, block (0, 0, 0), thread (0, 0, 0): ", "division by zero"}},
#else
    {"a division by zero", [] { Fresh<int> d; RUN(divides, 1, 0, d.at, 0); }, EMU,
     {"kernel divides, block (0, 0, 0), thread (0, 0, 0): ", "division by zero"}},
    {"past a static shared array", [] { RUN(static_overrun, 32, 0); }, EMU,
     {"kernel static_overrun, block (0, 0, 0), ", "shared array row of 132 bytes: written at byte 132"}},
    {"past the dynamic shared array", [] { RUN(dynamic_overrun, 32, 128); }, EMU,
     {"kernel dynamic_overrun, block (0, 0, 0), ", "written at byte 128"}},
#endif
    {"a stack that is too deep", [] { Fresh<int> d; RUN(recurses, 32, 0, d.at, 1000); }, EMU,
     {"kernel recurses, block (0, 0, 0), thread (0, 0, 0): ", "the thread's stack"}},
    {"a trap", [] { RUN(traps, 32, 0); }, EMU, {"kernel traps, block (0, 0, 0), thread (4, 0, 0): __trap"}},

    {"too much static shared memory", [] { RUN(much_static, 32, 0); }, EMU,
     {"kernel much_static, block (0, 0, 0), thread (0, 0, 0): ", "49600 static", "exceed the limit of 49152"}},
    {"static and dynamic together", [] { RUN(some_static, 32, 47000); }, EMU,
     {"kernel some_static, block (0, 0, 0), thread (0, 0, 0): ", "4000 static and 47000 dynamic"}},
    {"too much dynamic shared memory", [] { RUN(traps, 32, 50000); }, EXIT_RUNTIME,
     {"launching traps", "50000 bytes", "cudaErrorInvalidValue"}},
    {"more than the device has", [] { ALLOW_SHARED_MEMORY(traps, 228 * 1024); }, EXIT_RUNTIME,
     {"cudaErrorInvalidValue"}},
    {"too many threads", [] { RUN(traps, 1056, 0); }, EXIT_RUNTIME,
     {"launching traps", "block (1056, 1, 1)", "cudaErrorInvalidConfiguration"}},
    {"too deep a block", [] { RUN(traps, dim3(1, 1, 65), 0); }, EXIT_RUNTIME, {"cudaErrorInvalidConfiguration"}},
    {"too tall a grid", [] { LAUNCH(traps, dim3(1, 65536), 32, 0, 0); }, EXIT_RUNTIME,
     {"launching traps with grid (1, 65536, 1)", "cudaErrorInvalidConfiguration"}},
    {"an empty grid", [] { LAUNCH(traps, 0, 32, 0, 0); }, EXIT_RUNTIME, {"cudaErrorInvalidConfiguration"}},

    {"a launch over an unchecked error",
     [] {
         if (cudaSetDevice(3) == cudaSuccess) return;
         LAUNCH(traps, 1, 32, 0, 0);
     },
     EMU, {"traps: an earlier error was never checked: cudaErrorInvalidDevice"}},
    {"a copy of the wrong kind",
     [] { Fresh<float> d; CUDA_CHECK(cudaMemcpy(d.at, host_array, 4, cudaMemcpyDeviceToHost), "test"); }, EMU,
     {"cudaMemcpyAsync: kind 2, but the destination is device memory"}},
    {"a copy that is too long",
     [] { Fresh<float> d; CUDA_CHECK(cudaMemcpy(d.at + 1, host_array, 256, cudaMemcpyHostToDevice), "test"); }, EMU,
     {"256 bytes from byte 4 of a device allocation of 256 bytes"}},
    {"a fill that is too long", [] { Fresh<float> d; CUDA_CHECK(cudaMemset(d.at, 0, 257), "test"); }, EMU,
     {"cudaMemsetAsync: 257 bytes"}},
    {"memory freed twice",
     [] {
         float *at;
         CUDA_CHECK(cudaMalloc(&at, 4), "test");
         CUDA_CHECK(cudaFree(at), "test");
         CUDA_CHECK(cudaFree(at), "test");
     },
     EMU, {"cudaFree", "freed twice"}},
    {"a stream that is gone",
     [] {
         cudaStream_t stream;
         CUDA_CHECK(cudaStreamCreate(&stream), "test");
         CUDA_CHECK(cudaStreamDestroy(stream), "test");
         CUDA_CHECK(cudaStreamSynchronize(stream), "test");
     },
     EMU, {"a stream that does not exist"}},
    {"a synchronisation in a capture",
     [] {
         cudaStream_t stream;
         CUDA_CHECK(cudaStreamCreate(&stream), "test");
         CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "test");
         CUDA_CHECK(cudaStreamSynchronize(stream), "test");
     },
     EMU, {"cudaStreamSynchronize while a stream is being captured"}},
    {"a product of poison",
     [] {
         cublasLtHandle_t handle;
         cublasLtMatmulDesc_t desc;
         cublasLtMatrixLayout_t square;
         Fresh<float> a, d;
         float one = 1, zero = 0;
         CUBLASLT_CHECK(cublasLtCreate(&handle), "test");
         CUBLASLT_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "test");
         CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8), "test");
         CUBLASLT_CHECK(cublasLtMatmul(handle, desc, &one, a.at, square, a.at, square, &zero, d.at, square, d.at, square,
                                       nullptr, nullptr, 0, 0),
                        "test");
         synchronize();
     },
     EMU, {"cublasLtMatmul: A[row 0, column 0] of batch 0 is uninitialised"}},
};

/* The child's stderr and exit code (−1 if a signal ended it). */
int run_in_child(void (*break_rule)(), std::string *said) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        alarm(60); /* a hang is a failure, not a wait */
        break_rule();
        _exit(0);
    }
    close(ends[1]);
    char buffer[4096];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) said->append(buffer, (size_t)got);
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void every_planted_fault_is_caught_and_named(void **) {
    emu::set_seed(0);
    int missed = 0;
    for (const Fault &fault : faults) {
        std::string said;
        int exit_code = run_in_child(fault.break_rule, &said);
        bool good = exit_code == fault.exit_code;
        for (const char *part : fault.said) good &= said.find(part) != std::string::npos;
        if (!good) {
            printf("missed: %s: exit code %d, said: %s\n", fault.name, exit_code, said.c_str());
            missed++;
        }
    }
    assert_int_equal(missed, 0);
}

/* Each fault again under seeds: found whatever the order (the thread that is named may differ). */
void planted_faults_are_caught_under_every_seed(void **) {
    int missed = 0;
    for (const Fault &fault : faults)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            std::string said;
            emu::set_seed(seed);
            if (run_in_child(fault.break_rule, &said) == fault.exit_code) continue;
            printf("missed with seed %d: %s: %s\n", (int)seed, fault.name, said.c_str());
            missed++;
        }
    emu::set_seed(0);
    assert_int_equal(missed, 0);
}

} // namespace

const struct CMUnitTest fault_tests[] = {
    cmocka_unit_test(every_planted_fault_is_caught_and_named),
    cmocka_unit_test(planted_faults_are_caught_under_every_seed),
};
const size_t fault_test_count = sizeof fault_tests / sizeof fault_tests[0];
