/*
 * occupancy.cpp: what CUDA's own header says of an H200: a line "threads registers shared blocks" for each shape
 * on stdin. test_sass.py compares occupancy.py with it. Compiled by g++, needs no GPU.
 */
#include <cstddef>
#include <cstdio>

#include <cuda_occupancy.h>

int main() {
    cudaOccDeviceProp gpu;
    gpu.computeMajor = 9, gpu.computeMinor = 0, gpu.warpSize = 32, gpu.numSms = 132;
    gpu.maxThreadsPerBlock = 1024, gpu.maxThreadsPerMultiprocessor = 2048;
    gpu.regsPerBlock = gpu.regsPerMultiprocessor = 65536;
    gpu.sharedMemPerBlock = 48 * 1024, gpu.sharedMemPerBlockOptin = 227 * 1024;
    gpu.sharedMemPerMultiprocessor = 228 * 1024, gpu.reservedSharedMemPerBlock = 1024;

    int threads, registers, shared;
    while (scanf("%d %d %d", &threads, &registers, &shared) == 3) {
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers, kernel.numBlockBarriers = 1;
        kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
        kernel.maxDynamicSharedSizeBytes = (size_t)shared;
        cudaOccDeviceState state;
        cudaOccResult result;
        cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &gpu, &kernel, &state, threads,
                                                                     (size_t)shared);
        printf("%d %d %d %d\n", threads, registers, shared,
               error == CUDA_OCC_SUCCESS ? result.activeBlocksPerMultiprocessor : -1);
    }
    return 0;
}
