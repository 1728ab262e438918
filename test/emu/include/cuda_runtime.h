/*
 * cuda_runtime.h: the part of the CUDA runtime that this project uses, on the host.
 *
 * Same names, types and meaning as NVIDIA's header (CUDA 13), plus what NVIDIA leaves undefined made a fault
 * (emu.h). A result that is not used does not compile with -Werror, but for cudaGetLastError. Not thread-safe
 * beyond one lock around each call. Device code's built-ins are in emu_device.h.
 */
#ifndef EMU_CUDA_RUNTIME_H
#define EMU_CUDA_RUNTIME_H

#include "emu.h"
#include "emu_device.h"
#include "library_types.h"

#define CUDART_VERSION 13000

enum cudaError {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidMemcpyDirection = 21,
    cudaErrorInsufficientDriver = 35,
    cudaErrorInvalidDeviceFunction = 98,
    cudaErrorNoDevice = 100,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorInvalidResourceHandle = 400,
    cudaErrorIllegalState = 401,
    cudaErrorNotReady = 600,
    cudaErrorNotSupported = 801,
    cudaErrorStreamCaptureUnsupported = 900,
    cudaErrorStreamCaptureInvalidated = 901,
    cudaErrorStreamCaptureMerge = 902,
    cudaErrorStreamCaptureUnmatched = 903,
    cudaErrorStreamCaptureUnjoined = 904,
    cudaErrorStreamCaptureIsolation = 905,
    cudaErrorCapturedEvent = 907,
    cudaErrorUnknown = 999
};
typedef cudaError cudaError_t;

typedef struct CUstream_st *cudaStream_t;
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUgraph_st *cudaGraph_t;
typedef struct CUgraphExec_st *cudaGraphExec_t;

enum cudaMemcpyKind {
    cudaMemcpyHostToHost = 0,
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4
};
enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};
enum cudaSharedCarveout {
    cudaSharedmemCarveoutDefault = -1,
    cudaSharedmemCarveoutMaxL1 = 0,
    cudaSharedmemCarveoutMaxShared = 100
};
enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal = 0,
    cudaStreamCaptureModeThreadLocal = 1,
    cudaStreamCaptureModeRelaxed = 2
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone = 0,
    cudaStreamCaptureStatusActive = 1,
    cudaStreamCaptureStatusInvalidated = 2
};

#define cudaStreamDefault      0x00
#define cudaStreamNonBlocking  0x01
#define cudaEventDefault       0x00
#define cudaEventBlockingSync  0x01
#define cudaEventDisableTiming 0x02

#define cudaEventRecordDefault  0x00
#define cudaEventRecordExternal 0x01
#define cudaEventWaitDefault    0x00
#define cudaEventWaitExternal   0x01
#define cudaHostAllocDefault   0x00
#define cudaHostAllocPortable  0x01
#define cudaDeviceScheduleAuto 0x00

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem, sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    size_t reservedSharedMemPerBlock;
    int regsPerBlock, regsPerMultiprocessor, warpSize, maxThreadsPerBlock, maxThreadsDim[3], maxGridSize[3];
    int major, minor, multiProcessorCount, maxThreadsPerMultiProcessor, maxBlocksPerMultiProcessor;
    int l2CacheSize, memoryBusWidth, ECCEnabled, integrated, concurrentKernels, asyncEngineCount;
    int pciBusID, pciDeviceID, pciDomainID;
};

/* device */
[[nodiscard]] cudaError_t cudaGetDeviceCount(int *count);
[[nodiscard]] cudaError_t cudaSetDevice(int device);
[[nodiscard]] cudaError_t cudaGetDevice(int *device);
[[nodiscard]] cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device);
[[nodiscard]] cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device);
[[nodiscard]] cudaError_t cudaDeviceSynchronize();
[[nodiscard]] cudaError_t cudaDriverGetVersion(int *version);
[[nodiscard]] cudaError_t cudaRuntimeGetVersion(int *version);
[[nodiscard]] cudaError_t cudaMemGetInfo(size_t *free, size_t *total);

/* errors: the last one is kept until cudaGetLastError takes it; launching over a kept error is a fault */
cudaError_t cudaGetLastError();
[[nodiscard]] cudaError_t cudaPeekAtLastError();
const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);

/* functions */
struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, ptxVersion, binaryVersion, maxDynamicSharedSizeBytes;
};
[[nodiscard]] cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function);

/* memory: fresh memory is poison */
[[nodiscard]] cudaError_t cudaMalloc(void **pointer, size_t bytes);
[[nodiscard]] cudaError_t cudaFree(void *pointer);
[[nodiscard]] cudaError_t cudaMallocHost(void **pointer, size_t bytes);
[[nodiscard]] cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned flags);
[[nodiscard]] cudaError_t cudaFreeHost(void *pointer);
[[nodiscard]] cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
[[nodiscard]] cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                                          cudaStream_t stream = 0);
[[nodiscard]] cudaError_t cudaMemset(void *to, int value, size_t bytes);
[[nodiscard]] cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream = 0);

/* streams and events */
[[nodiscard]] cudaError_t cudaStreamCreate(cudaStream_t *stream);
[[nodiscard]] cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
[[nodiscard]] cudaError_t cudaStreamDestroy(cudaStream_t stream);
[[nodiscard]] cudaError_t cudaStreamSynchronize(cudaStream_t stream);
[[nodiscard]] cudaError_t cudaStreamQuery(cudaStream_t stream);
[[nodiscard]] cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
[[nodiscard]] cudaError_t cudaEventCreate(cudaEvent_t *event);
[[nodiscard]] cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
[[nodiscard]] cudaError_t cudaEventDestroy(cudaEvent_t event);
[[nodiscard]] cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = 0);
[[nodiscard]] cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream = 0, unsigned flags = 0);
[[nodiscard]] cudaError_t cudaEventQuery(cudaEvent_t event);
[[nodiscard]] cudaError_t cudaEventSynchronize(cudaEvent_t event);
[[nodiscard]] cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end);

/* graphs: recorded operations with frozen arguments, replayed in any order that the capture's events leave */
[[nodiscard]] cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
[[nodiscard]] cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
[[nodiscard]] cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status);
[[nodiscard]] cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                               unsigned long long flags = 0);
[[nodiscard]] cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
[[nodiscard]] cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
[[nodiscard]] cudaError_t cudaGraphDestroy(cudaGraph_t graph);

namespace emu {
cudaError_t set_function_attribute(const void *function, cudaFuncAttribute attribute, int value);
cudaError_t raise(cudaError_t error); /* makes it the last error */
} // namespace emu

template <typename Kernel>
[[nodiscard]] static inline cudaError_t cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute,
                                                             int value) {
    return emu::set_function_attribute(reinterpret_cast<const void *>(kernel), attribute, value);
}
template <typename T> [[nodiscard]] static inline cudaError_t cudaMalloc(T **pointer, size_t bytes) {
    return cudaMalloc(reinterpret_cast<void **>(pointer), bytes);
}
template <typename T> [[nodiscard]] static inline cudaError_t cudaMallocHost(T **pointer, size_t bytes) {
    return cudaMallocHost(reinterpret_cast<void **>(pointer), bytes);
}

#endif
