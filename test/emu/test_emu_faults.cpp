/*
 * test_emu_faults.cpp: every strictness that the emulation promises has a planted fault; the test that
 * catches them.
 *
 * A fault is a function that breaks one rule. It runs in a child process, which must end with the exit code
 * that the table says and must have named the kernel, the block, the thread and the rule on stderr. Here:
 * memory, launches, the runtime; test_emu_faults_threads.cpp: what threads do to each other.
 */
#include "test_emu.h"

#include "cublaslt.cuh"
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <string>

namespace {

/* ---- memory ------------------------------------------------------------------------------------------ */

__global__ void adds_one(float *out, const float *in) {
    out[threadIdx.x] = in[threadIdx.x] + 1.0f;
}
__global__ void adds_memory(float *out, const float *in, float x) {
    out[threadIdx.x] = x + in[threadIdx.x];
}
__global__ void compares(int *out, const float *in) {
    out[threadIdx.x] = in[threadIdx.x] > 0.0f;
}
__global__ void maximum(float *out, const float *in) {
    out[threadIdx.x] = fmaxf(in[threadIdx.x], 0.0f);
}
__global__ void square_root(float *out, const float *in) {
    out[threadIdx.x] = sqrtf(in[threadIdx.x]);
}
typedef float Four __attribute__((vector_size(16)));
__global__ void adds_four(Four *out, const float *in, Four x) {
    Four last = {x[0], x[1], x[2], in[threadIdx.x]};
    out[threadIdx.x] = x + last;
}
__global__ void adds_four_of_memory(Four *out, const Four *in, Four x) {
    out[threadIdx.x] = x + in[threadIdx.x];
}
__global__ void exponential(float *out, const float *in) {
    out[threadIdx.x] = __expf(in[threadIdx.x]);
}
__global__ void converts(float *out, const __nv_bfloat16 *in) {
    out[threadIdx.x] = __bfloat162float(in[threadIdx.x]);
}
__global__ void rounds(__nv_bfloat16 *out, const float *in) {
    out[threadIdx.x] = __float2bfloat16(in[threadIdx.x]);
}
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
struct Argument {
    int64_t sizes[2];
    const void *source;
};
__global__ void copies_from_struct(Argument args) {
    copies_from(args.source);
}
__global__ void copies_nothing_from(const void *source) {
    SHARED_ARRAY(float, place, 4);
    cp_async_16(place, source, false);
    cp_async_commit();
    cp_async_wait<0>();
}
__global__ void copies_into(void *place, const void *source) {
    cp_async_16(place, source);
}
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
__global__ void divides(int *out, int by) {
    out[0] = 100 / by;
}
__global__ void traps() {
    if (threadIdx.x == 4) __trap();
}
__global__ void recurses(int *out, int depth) {
    volatile char frame[4096];
    frame[0] = (char)depth;
    if (depth) recurses(out, depth - 1);
    out[0] = frame[0];
}
[[maybe_unused]] __global__ void device_overrun(float *out) {
    out[threadIdx.x + 1] = 1;
}
[[maybe_unused]] __global__ void device_overread(float *out, const float *in) {
    out[threadIdx.x] = in[threadIdx.x + 1];
}
[[maybe_unused]] __global__ void shared_overread(float *out) {
    SHARED_ARRAY(float, row, 32);
    row[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = row[threadIdx.x + 1];
}

/* ---- the faults ------------------------------------------------------------------------------------- */

float host_array[64];

void *pinned() {
    void *memory;
    CUDA_CHECK(cudaMallocHost(&memory, 16), "test");
    return memory;
}

const Fault faults[] = {
#if defined(__x86_64__)
    {"poison in a sum",
     [] {
         Fresh<float> d;
         RUN(adds_one, 32, 0, d.at, d.at);
     },
     EMU,
     {"kernel adds_one, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison as a memory operand",
     [] {
         Fresh<float> d;
         RUN(adds_memory, 32, 0, d.at, d.at, 1.0f);
     },
     EMU,
     {"kernel adds_memory, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a comparison",
     [] {
         Fresh<float> d;
         Fresh<int> e;
         RUN(compares, 32, 0, e.at, d.at);
     },
     EMU,
     {"kernel compares, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a maximum",
     [] {
         Fresh<float> d;
         RUN(maximum, 32, 0, d.at, d.at);
     },
     EMU,
     {"kernel maximum, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a square root",
     [] {
         Fresh<float> d;
         RUN(square_root, 32, 0, d.at, d.at);
     },
     EMU,
     {"kernel square_root, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison as the last of four",
     [] {
         Fresh<float> d;
         Fresh<Four> e;
         RUN(adds_four, 32, 0, e.at, d.at, Four{1, 2, 3, 4});
     },
     EMU,
     {"kernel adds_four, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison as the last of four in memory",
     [] {
         Device<float> d(std::vector<float>{1, 2, 3});
         Fresh<Four> e;
         CUDA_CHECK(cudaMemcpy(e.at, d.at, 12, cudaMemcpyDeviceToDevice), "test");
         RUN(adds_four_of_memory, 1, 0, e.at, e.at, Four{1, 2, 3, 4});
     },
     EMU,
     {"kernel adds_four_of_memory, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"poison in a function",
     [] {
         Fresh<float> d;
         RUN(exponential, 32, 0, d.at, d.at);
     },
     EMU,
     {"kernel exponential, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"the last block's shared memory",
     [] {
         Fresh<float> d;
         RUN(reads_last_blocks_shared, 32, 0, d.at);
     },
     EMU,
     {"kernel reads_last_blocks_shared, block (1, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
    {"cp.async read before its wait",
     [] {
         Device<float> in(std::vector<float>(4, 1));
         Fresh<float> d;
         RUN(reads_before_wait, 1, 0, d.at, in.at);
     },
     EMU,
     {"kernel reads_before_wait, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised"}},
#endif
    {"poison as bf16",
     [] {
         Fresh<__nv_bfloat16> e;
         Fresh<float> d;
         RUN(converts, 32, 0, d.at, e.at);
     },
     EMU,
     {"kernel converts, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised memory (bf16"}},
    {"poison rounded to bf16",
     [] {
         Fresh<__nv_bfloat16> e;
         Fresh<float> d;
         RUN(rounds, 32, 0, e.at, d.at);
     },
     EMU,
     {"kernel rounds, block (0, 0, 0), thread (0, 0, 0): ", "uninitialised memory (float"}},
    {"cp.async without a wait",
     [] {
         Fresh<float> d;
         RUN(never_waits, 1, 0, d.at);
     },
     EMU,
     {"kernel never_waits, block (0, 0, 0), thread (0, 0, 0): ", "16 bytes of cp.async"}},
    {"cp.async without a commit",
     [] {
         Fresh<float> d;
         RUN(waits_without_commit, 1, 0, d.at);
     },
     EMU,
     {"kernel waits_without_commit, block (0, 0, 0), thread (0, 0, 0): ", "16 bytes of cp.async"}},
    {"cp.async off alignment",
     [] {
         Fresh<float> d;
         RUN(copies_from, 1, 0, d.at + 1);
     },
     EMU,
     {"kernel copies_from, block (0, 0, 0), thread (0, 0, 0): ", "misaligned"}},
    {"cp.async past an allocation",
     [] {
         Fresh<float> d;
         RUN(copies_from, 1, 0, d.at + 64);
     },
     EMU,
     {"kernel copies_from, block (0, 0, 0), thread (0, 0, 0): ", "cp.async from global"}},
    {"cp.async of nothing past an allocation",
     [] {
         Fresh<float> d;
         RUN(copies_nothing_from, 1, 0, d.at + 64);
     },
     EMU,
     {"kernel copies_nothing_from, block (0, 0, 0), thread (0, 0, 0): ", "cp.async of nothing"}},
    {"cp.async from host memory",
     [] {
         Argument here = {{}, pinned()};
         RUN(copies_from_struct, 1, 0, here);
     },
     EMU,
     {"kernel copies_from_struct, block (0, 0, 0), thread (0, 0, 0): ", "is no device memory"}},
    {"a host pointer as an argument",
     [] { RUN(copies_from, 1, 0, host_array); },
     EMU,
     {"copies_from: argument 1, byte 0: ", "points to "}},
    {"a freed pointer as an argument",
     [] {
         float *gone;
         {
             Fresh<float> d;
             gone = d.at;
         }
         RUN(copies_from, 1, 0, gone);
     },
     EMU,
     {"copies_from: argument 1, byte 0: ", "points to "}},
    {"cp.async into global memory",
     [] {
         Fresh<float> d;
         RUN(copies_into, 1, 0, d.at, d.at + 4);
     },
     EMU,
     {"kernel copies_into, block (0, 0, 0), thread (0, 0, 0): ", "inside the block's shared memory"}},

    {"a misaligned float4",
     [] {
         Fresh<float> d;
         Fresh<float4> e;
         RUN(loads_float4, 2, 0, e.at, d.at);
     },
     1,
     {"misaligned address", "kernel loads_float4, block (0, 0, 0), thread (1, 0, 0): "}},
#if defined(__SANITIZE_ADDRESS__)
    {"past a static shared array",
     [] { RUN(static_overrun, 32, 0); },
     1,
     {"AddressSanitizer", "kernel static_overrun, block (0, 0, 0), thread (31, 0, 0): "}},
    {"past the dynamic shared array",
     [] { RUN(dynamic_overrun, 32, 128); },
     1,
     {"AddressSanitizer", "kernel dynamic_overrun, block (0, 0, 0), thread (31, 0, 0): "}},
    {"a host pointer in a struct",
     [] {
         Argument here = {{}, host_array};
         RUN(copies_from_struct, 1, 0, here);
     },
     EMU,
     {"copies_from_struct: argument 1, byte 16: ", "points to the host's global"}},
    {"past device memory",
     [] {
         Fresh<float> d;
         RUN(device_overrun, 64, 0, d.at);
     },
     1,
     {"AddressSanitizer", "kernel device_overrun, block (0, 0, 0), thread (63, 0, 0): "}},
    {"a read past device memory",
     [] {
         Fresh<float> d;
         Device<float> in(std::vector<float>(64, 1));
         RUN(device_overread, 64, 0, d.at, in.at);
     },
     1,
     {"AddressSanitizer", "kernel device_overread, block (0, 0, 0), thread (63, 0, 0): "}},
    {"a read past shared memory",
     [] {
         Fresh<float> d;
         RUN(shared_overread, 32, 0, d.at);
     },
     1,
     {"AddressSanitizer", "kernel shared_overread, block (0, 0, 0), thread (31, 0, 0): "}},
    {"device memory on the host",
     [] {
         Fresh<float> d;
         host_array[0] = d.at[0];
     },
     1,
     {"AddressSanitizer"}},
    {"a division by zero",
     [] {
         Fresh<int> d;
         RUN(divides, 1, 0, d.at, 0);
     },
     1,
     {"kernel divides, block (0, 0, 0), thread (0, 0, 0): ", "division by zero"}},
#else
    {"a division by zero",
     [] {
         Fresh<int> d;
         RUN(divides, 1, 0, d.at, 0);
     },
     EMU,
     {"kernel divides, block (0, 0, 0), thread (0, 0, 0): ", "division by zero"}},
    {"past a static shared array",
     [] { RUN(static_overrun, 32, 0); },
     EMU,
     {"kernel static_overrun, block (0, 0, 0), ", "shared array row of 132 bytes: written at byte 132"}},
    {"past the dynamic shared array",
     [] { RUN(dynamic_overrun, 32, 128); },
     EMU,
     {"kernel dynamic_overrun, block (0, 0, 0), ", "written at byte 128"}},
#endif
    {"a stack that is too deep",
     [] {
         Fresh<int> d;
         RUN(recurses, 32, 0, d.at, 1000);
     },
     EMU,
     {"kernel recurses, block (0, 0, 0), thread (0, 0, 0): ", "the thread's stack"}},
    {"a trap", [] { RUN(traps, 32, 0); }, EMU, {"kernel traps, block (0, 0, 0), thread (4, 0, 0): __trap"}},

    {"too much static shared memory",
     [] { RUN(much_static, 32, 0); },
     EMU,
     {"kernel much_static, block (0, 0, 0), thread (0, 0, 0): ", "49600 static",
      "exceed the limit of 49152"}},
    {"static and dynamic together",
     [] { RUN(some_static, 32, 47000); },
     EMU,
     {"kernel some_static, block (0, 0, 0), thread (0, 0, 0): ", "4000 static and 47000 dynamic"}},
    {"too much dynamic shared memory",
     [] { RUN(traps, 32, 50000); },
     EXIT_RUNTIME,
     {"launching traps", "50000 bytes", "cudaErrorInvalidValue"}},
    {"more than the device has",
     [] { ALLOW_SHARED_MEMORY(traps, 228 * 1024); },
     EXIT_RUNTIME,
     {"cudaErrorInvalidValue"}},
    {"too many threads",
     [] { RUN(traps, 1056, 0); },
     EXIT_RUNTIME,
     {"launching traps", "block (1056, 1, 1)", "cudaErrorInvalidConfiguration"}},
    {"too deep a block",
     [] { RUN(traps, dim3(1, 1, 65), 0); },
     EXIT_RUNTIME,
     {"cudaErrorInvalidConfiguration"}},
    {"too tall a grid",
     [] { LAUNCH(traps, dim3(1, 65536), 32, 0, 0); },
     EXIT_RUNTIME,
     {"launching traps with grid (1, 65536, 1)", "cudaErrorInvalidConfiguration"}},
    {"an empty grid", [] { LAUNCH(traps, 0, 32, 0, 0); }, EXIT_RUNTIME, {"cudaErrorInvalidConfiguration"}},

    {"a launch over an unchecked error",
     [] {
         if (cudaSetDevice(8) == cudaSuccess) return;
         LAUNCH(traps, 1, 32, 0, 0);
     },
     EMU,
     {"traps: an earlier error was never checked: cudaErrorInvalidDevice"}},
    {"a copy of the wrong kind",
     [] {
         Fresh<float> d;
         CUDA_CHECK(cudaMemcpy(d.at, host_array, 4, cudaMemcpyDeviceToHost), "test");
     },
     EMU,
     {"cudaMemcpyAsync: kind 2, but the destination is device memory"}},
    {"a copy that is too long",
     [] {
         Fresh<float> d;
         CUDA_CHECK(cudaMemcpy(d.at + 1, host_array, 256, cudaMemcpyHostToDevice), "test");
     },
     EMU,
     {"256 bytes from byte 4 of a device allocation of 256 bytes"}},
    {"a fill that is too long",
     [] {
         Fresh<float> d;
         CUDA_CHECK(cudaMemset(d.at, 0, 257), "test");
     },
     EMU,
     {"cudaMemsetAsync: 257 bytes"}},
    {"memory freed twice",
     [] {
         float *at;
         CUDA_CHECK(cudaMalloc(&at, 4), "test");
         CUDA_CHECK(cudaFree(at), "test");
         CUDA_CHECK(cudaFree(at), "test");
     },
     EMU,
     {"cudaFree", "freed twice"}},
    {"a stream that is gone",
     [] {
         cudaStream_t stream;
         CUDA_CHECK(cudaStreamCreate(&stream), "test");
         CUDA_CHECK(cudaStreamDestroy(stream), "test");
         CUDA_CHECK(cudaStreamSynchronize(stream), "test");
     },
     EMU,
     {"a stream that does not exist"}},
    {"a synchronisation in a capture",
     [] {
         cudaStream_t stream;
         CUDA_CHECK(cudaStreamCreate(&stream), "test");
         CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "test");
         CUDA_CHECK(cudaStreamSynchronize(stream), "test");
     },
     EMU,
     {"cudaStreamSynchronize while a stream is being captured"}},
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
         CUBLASLT_CHECK(cublasLtMatmul(handle, desc, &one, a.at, square, a.at, square, &zero, d.at, square,
                                       d.at, square, nullptr, nullptr, 0, 0),
                        "test");
         synchronize();
     },
     EMU,
     {"cublasLtMatmul: A[row 0, column 0] of batch 0 is uninitialised"}},
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

/* How many of the faults, under this seed, did not end as they should; says which. */
int count_missed(const Fault *table, size_t count, uint64_t seed, bool check_words) {
    int missed = 0;
    emu::set_seed(seed);
    for (size_t i = 0; i < count; i++) {
        std::string said;
        int exit_code = run_in_child(table[i].break_rule, &said);
        bool good = exit_code == table[i].exit_code;
        for (const char *part : table[i].said) good &= !check_words || said.find(part) != std::string::npos;
        if (good) continue;
        printf("missed with seed %d: %s: exit code %d, said: %s\n", (int)seed, table[i].name, exit_code,
               said.c_str());
        missed++;
    }
    emu::set_seed(0);
    return missed;
}

const size_t FAULTS = sizeof faults / sizeof faults[0];

void every_planted_fault_is_caught_and_named(void **) {
    int missed = count_missed(faults, FAULTS, 0, true);
    assert_int_equal(missed + count_missed(thread_faults, thread_fault_count, 0, true), 0);
}

/* Each fault again under seeds: found whatever the order (the thread that is named may differ). */
void planted_faults_are_caught_under_every_seed(void **) {
    int missed = 0;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        missed += count_missed(faults, FAULTS, seed, false);
        missed += count_missed(thread_faults, thread_fault_count, seed, false);
    }
    assert_int_equal(missed, 0);
}

} // namespace

const struct CMUnitTest fault_tests[] = {
    cmocka_unit_test(every_planted_fault_is_caught_and_named),
    cmocka_unit_test(planted_faults_are_caught_under_every_seed),
};
const size_t fault_test_count = sizeof fault_tests / sizeof fault_tests[0];
