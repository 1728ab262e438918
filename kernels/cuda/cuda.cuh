/*
 * cuda.cuh: what every .cu file of this folder starts from: launches, checks, shared memory.
 *
 * One source, two compilers. nvcc builds it for a GPU; g++ builds the very same file with -DEMULATION against
 * the headers of test/emu/include, where a block's threads are fibers (test/emu/README.md). So device code
 * uses CUDA C++ except for a few things, which go through the macros below and through ptx.cuh:
 *
 *   LAUNCH(kernel, grid, block, shared_bytes, stream, arguments…)
 *       kernel<<<grid, block, shared_bytes, stream>>>(arguments…), then asks for the launch error and fails with the
 *       kernel's name, the configuration, and the operation and its shape. A kernel with a comma in its template
 *       arguments goes in parentheses: LAUNCH((softmax<float, 128>), rows, 128, 0, stream, out, in, rows).
 *   ALLOW_SHARED_MEMORY(kernel, bytes)
 *       before a launch with so much dynamic shared memory that it and the kernel's static arrays may pass 48 KB
 *       together; asks the device once, so it may stand before every launch.
 *   PREFER_SHARED_MEMORY(kernel)
 *       before a launch of which several blocks shall fit into a multiprocessor's shared memory; asks once as well.
 *   SHARED_MEMORY(type, name)
 *       `type *name`: the launch's dynamic shared memory, 16-byte aligned. Carve several arrays out of it by hand.
 *   SHARED_ARRAY(type, name, count)
 *       `type name[count]`: a static shared array, 16-byte aligned, one per block. For two dimensions make the row a
 *       type (typedef float Row[33]; SHARED_ARRAY(Row, tile, 32)). Plain __shared__ does not compile in the emulation.
 *       Treat name as a pointer: sizeof name differs between the two compilers.
 *
 * Both shared declarations stand at block scope, at the top of the function that uses them, and work in
 * templates.
 *
 * The emulation refuses what a GPU may or may not forgive. Write for it: block sizes are multiples of 32; a
 * mask names exactly the lanes that call; every thread reaches the same __syncthreads(), or none does; float
 * atomics and bf16 arithmetic do not compile (convert to float first).
 */
#ifndef CUDA_CUH
#define CUDA_CUH

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "../../src/base/check.h"
#include "launch_log.cuh"

/* CUDA_CHECK(call, "format", …): fails with what was tried, as formatted, the error's name and text, and the operations
 * that were put into queues last with their shapes. */
#define CUDA_CHECK(call, ...) cuda_check((call), #call, __VA_ARGS__)

#define ALLOW_SHARED_MEMORY(kernel, bytes)                                                                   \
    do {                                                                                                     \
        static size_t allowed_ = 0; /* not 48 KB: static arrays are counted beside it */                     \
        if (!cuda_raise(&allowed_, (bytes))) break;                                                          \
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)allowed_), \
                   "allowing %s %zu bytes of shared memory", #kernel, allowed_);                             \
    } while (0)

/* As much of a multiprocessor's memory as can be shared is: where several blocks want to be there that no cache serves. The driver by
 * itself need only see to one. */
#define PREFER_SHARED_MEMORY(kernel)                                                                         \
    do {                                                                                                     \
        static size_t asked_ = 0;                                                                            \
        if (!cuda_raise(&asked_, 1)) break;                                                                  \
        CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,              \
                                        (int)cudaSharedmemCarveoutMaxShared),                                \
                   "preferring shared memory for %s", #kernel);                                              \
    } while (0)

/* Raises the limit to what is wanted; false where it is as high already. */
static inline bool cuda_raise(size_t *limit, size_t wanted) {
    if (wanted <= *limit) return false;
    *limit = wanted;
    return true;
}

#ifdef EMULATION
#define CUDA_START_KERNEL(kernel, grid, block, shared, stream, ...)                                          \
    emu::launch(#kernel, kernel, grid, block, shared, stream, ##__VA_ARGS__)
#define SHARED_MEMORY(type, name) type *const name = static_cast<type *>(emu::dynamic_shared())
#define SHARED_ARRAY(type, name, count)                                                                      \
    static char name##_key_;                                                                                 \
    type *const name = static_cast<type *>(emu::static_shared(&name##_key_, #name, sizeof(type) * (count)))
#else
#define CUDA_START_KERNEL(kernel, grid, block, shared, stream, ...)                                          \
    kernel<<<grid, block, shared, stream>>>(__VA_ARGS__)
#define SHARED_MEMORY(type, name)                                                                            \
    extern __shared__ __align__(16) unsigned char cuda_dynamic_shared_[];                                    \
    type *const name = reinterpret_cast<type *>(cuda_dynamic_shared_)
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#endif

#define LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                               \
    do {                                                                                                     \
        const dim3 launch_grid_(grid), launch_block_(block);                                                 \
        const size_t launch_shared_ = (shared_bytes);                                                        \
        CUDA_START_KERNEL(kernel, launch_grid_, launch_block_, launch_shared_, stream, ##__VA_ARGS__);       \
        launch_check(#kernel, launch_grid_, launch_block_, launch_shared_);                                  \
    } while (0)

/* Formats what was tried and stops the program: LIBRARY: WHAT: NAME (TEXT) in CALL; operations (launch_log.cuh). */
static inline void cuda_fail_list(const char *library, const char *name, const char *text, const char *call,
                                  const char *format, va_list args) {
    char what[512], operations[768];
    vsnprintf(what, sizeof what, format, args);
    launch_log.describe(operations, sizeof operations);
    fail(EXIT_RUNTIME, "%s: %s: %s (%s) in %s%s", library, what, name, text, call, operations);
}

CHECK_PRINTF(5, 6)
static inline void cuda_fail(const char *library, const char *name, const char *text, const char *call,
                             const char *format, ...) {
    va_list args;
    va_start(args, format);
    cuda_fail_list(library, name, text, call, format, args);
    va_end(args);
}

CHECK_PRINTF(3, 4)
static inline void cuda_check(cudaError_t status, const char *call, const char *format, ...) {
    if (status == cudaSuccess) return;
    va_list args;
    va_start(args, format);
    cuda_fail_list("CUDA", cudaGetErrorName(status), cudaGetErrorString(status), call, format, args);
    va_end(args);
}

/* Asks for the launch error, which CUDA reports nowhere else. */
static inline void launch_check(const char *kernel, dim3 grid, dim3 block, size_t shared) {
    cudaError_t status = cudaGetLastError();
    if (status != cudaSuccess)
        cuda_fail(
            "CUDA", cudaGetErrorName(status), cudaGetErrorString(status), "LAUNCH",
            "launching %s with grid (%u, %u, %u), block (%u, %u, %u), %zu bytes of dynamic shared memory",
            kernel, grid.x, grid.y, grid.z, block.x, block.y, block.z, shared);
}

#endif
