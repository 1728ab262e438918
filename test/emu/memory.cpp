/*
 * memory.cpp: the device's memory, properties and errors.
 *
 * Each cudaMalloc is a malloc of exactly its size, so AddressSanitizer sees an access past its end; it also
 * sees host code touch device memory, which is poisoned for it except while device work runs. Fresh memory
 * holds emu::POISON.
 */
#include "race.h"
#include "runtime.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <map>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes)   ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

namespace emu {

namespace {

/* What the device says it has: 141 GiB, or EMU_MEMORY; and what others hold of it, EMU_MEMORY_TAKEN. In bytes. */
size_t bytes_from_environment(const char *name, size_t otherwise) {
    const char *text = getenv(name);
    return text ? strtoull(text, nullptr, 10) : otherwise;
}
const size_t DEVICE_BYTES = bytes_from_environment("EMU_MEMORY", (size_t)141 << 30);
const size_t ALIGNMENT = 256;

struct Allocation {
    size_t bytes;
    bool device;
};
std::map<uintptr_t, Allocation> allocations; /* device and pinned host memory, by address */
size_t device_used = std::min(DEVICE_BYTES, bytes_from_environment("EMU_MEMORY_TAKEN", 0));
cudaError_t last_error = cudaSuccess;

/* Large blocks are kept for the next caller: each test takes the same tens of megabytes of scratch memory again, and
   fresh pages from the system were four fifths of the operation suite's time. */
struct KeepLargeBlocks {
    KeepLargeBlocks() {
        mallopt(M_MMAP_THRESHOLD, 1 << 30);
        mallopt(M_TRIM_THRESHOLD, 1 << 30);
        mallopt(M_TOP_PAD, 64 << 20);
    }
} keep_large_blocks;

/* The allocation that holds the address, or end(). */
std::map<uintptr_t, Allocation>::iterator find(const void *pointer) {
    uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
    auto next = allocations.upper_bound(address);
    if (next == allocations.begin()) return allocations.end();
    auto at = std::prev(next);
    return address < at->first + at->second.bytes || (!at->second.bytes && address == at->first)
               ? at
               : allocations.end();
}

cudaError_t allocate(void **pointer, size_t bytes, bool device) {
    if (!pointer) return raise(cudaErrorInvalidValue);
    *pointer = nullptr;
    if (!bytes) return cudaSuccess;
    if (device && bytes > DEVICE_BYTES - device_used) return raise(cudaErrorMemoryAllocation);
    void *memory = race::allocate(bytes);
    if (!memory && posix_memalign(&memory, ALIGNMENT, bytes)) return raise(cudaErrorMemoryAllocation);
    poison_fill(memory, bytes);
    allocations[reinterpret_cast<uintptr_t>(memory)] = {bytes, device};
    if (device) {
        device_used += bytes;
        ASAN_POISON_MEMORY_REGION(memory, bytes);
    }
    *pointer = memory;
    return cudaSuccess;
}

cudaError_t release(void *pointer, bool device, const char *call) {
    if (!pointer) return cudaSuccess;
    auto at = allocations.find(reinterpret_cast<uintptr_t>(pointer));
    if (at == allocations.end() || at->second.device != device)
        fault("%s: %p is not the start of an allocation of this kind (freed twice?)", call, pointer);
    if (device) device_used -= at->second.bytes;
    ASAN_UNPOISON_MEMORY_REGION(pointer, at->second.bytes);
    race::release(pointer, at->second.bytes);
    allocations.erase(at);
    if (!race::ON) free(pointer);
    return cudaSuccess;
}

} // namespace

cudaError_t raise(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
    return error;
}

void require_no_error(const char *operation) {
    if (last_error != cudaSuccess)
        fault("%s: an earlier error was never checked: %s (%s)", operation, cudaGetErrorName(last_error),
              cudaGetErrorString(last_error));
}

bool on_device(const void *pointer) {
    auto at = find(pointer);
    return at != allocations.end() && at->second.device;
}

void require_device_range(const void *pointer, size_t bytes, const char *operation) {
    auto at = find(pointer);
    if (at == allocations.end() || !at->second.device)
        fault("%s: %p is no device memory", operation, pointer);
    size_t offset = (size_t)(reinterpret_cast<uintptr_t>(pointer) - at->first);
    if (bytes > at->second.bytes - offset)
        fault("%s: %zu bytes from byte %zu of a device allocation of %zu bytes", operation, bytes, offset,
              at->second.bytes);
}

namespace {

/* In an allocation or just behind its last byte. */
bool reachable(const void *pointer) {
    return find(pointer) != allocations.end() ||
           find(static_cast<const char *>(pointer) - 1) != allocations.end();
}

/* What of the host's starts at the address, as far as AddressSanitizer knows; null for nothing. Only a start counts: two
   ints of a struct may together point anywhere. */
const char *host_region(const void *pointer) {
#if defined(__SANITIZE_ADDRESS__)
    char name[128];
    void *start = nullptr;
    size_t bytes = 0;
    const char *kind = __asan_locate_address(const_cast<void *>(pointer), name, sizeof name, &start, &bytes);
    for (const char *host : {"heap", "stack", "global"})
        if (!strcmp(kind, host) && start == pointer) return kind;
#else
    (void)pointer;
#endif
    return nullptr;
}

} // namespace

void check_argument(const char *kernel, size_t index, const void *argument, size_t bytes, bool is_pointer) {
    Lock lock;
    for (size_t offset = 0; offset + sizeof(void *) <= bytes; offset += sizeof(void *)) {
        const void *word;
        memcpy(&word, static_cast<const char *>(argument) + offset, sizeof word);
        if (!word || reachable(word)) continue;
        const char *region = host_region(word);
        if (is_pointer || region)
            fault("%s: argument %zu, byte %zu: %p points to %s%s", kernel, index + 1, offset, word,
                  region ? "the host's " : "no live device memory", region ? region : "");
    }
}

void device_visible(bool visible) {
#if defined(__SANITIZE_ADDRESS__)
    for (auto &[address, allocation] : allocations) {
        if (!allocation.device) continue;
        if (visible)
            ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<void *>(address), allocation.bytes);
        else
            ASAN_POISON_MEMORY_REGION(reinterpret_cast<void *>(address), allocation.bytes);
    }
#else
    (void)visible;
#endif
}

} // namespace emu

using namespace emu;

cudaError_t cudaMalloc(void **pointer, size_t bytes) {
    Lock lock;
    return allocate(pointer, bytes, true);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes) {
    Lock lock;
    return allocate(pointer, bytes, false);
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned) {
    return cudaMallocHost(pointer, bytes);
}

cudaError_t cudaFree(void *pointer) {
    Lock lock;
    run_everything("cudaFree");
    return release(pointer, true, "cudaFree");
}

cudaError_t cudaFreeHost(void *pointer) {
    Lock lock;
    run_everything("cudaFreeHost");
    return release(pointer, false, "cudaFreeHost");
}

cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    Lock lock;
    *total = DEVICE_BYTES;
    *free = DEVICE_BYTES - device_used;
    return cudaSuccess;
}

/* ---- errors ------------------------------------------------------------------------------------------ */

cudaError_t cudaGetLastError() {
    Lock lock;
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() {
    Lock lock;
    return last_error;
}

namespace {
const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalState, "cudaErrorIllegalState",
     "the operation cannot be performed in the present state"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "the capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
};
} // namespace

const char *cudaGetErrorName(cudaError_t error) {
    for (const auto &row : errors)
        if (row.error == error) return row.name;
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error) {
    for (const auto &row : errors)
        if (row.error == error) return row.text;
    return "unknown error";
}

/* ---- the device -------------------------------------------------------------------------------------- */

namespace {
/* EMU_DEVICE makes this a machine that cannot serve: no-driver, old-driver, none. */
bool machine_has(const char *what) {
    const char *device = getenv("EMU_DEVICE");
    return device && !strcmp(device, what);
}

/* Devices are alike and separate: what a process does is on the one that it has set. EMU_DEVICES of them; 8. */
int device_count() {
    const char *asked = getenv("EMU_DEVICES");
    return asked ? atoi(asked) : 8;
}

thread_local int device_here;
} // namespace

cudaError_t cudaGetDeviceCount(int *count) {
    *count = 0;
    if (machine_has("no-driver") || machine_has("old-driver")) return raise(cudaErrorInsufficientDriver);
    if (machine_has("none")) return raise(cudaErrorNoDevice);
    *count = device_count();
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return raise(cudaErrorInvalidDevice);
    device_here = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device) {
    *device = device_here;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
    if (device < 0 || device >= device_count()) return raise(cudaErrorInvalidDevice);
    *properties = cudaDeviceProp();
    strcpy(properties->name, "CUDA on the host (emulation)");
    properties->totalGlobalMem = DEVICE_BYTES;
    properties->sharedMemPerBlock = SHARED_DEFAULT;
    properties->sharedMemPerBlockOptin = SHARED_OPTIN;
    properties->sharedMemPerMultiprocessor = 228 * 1024;
    properties->reservedSharedMemPerBlock = 1024;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->warpSize = WARP;
    properties->maxThreadsPerBlock = MAX_THREADS;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = MAX_THREADS;
    properties->maxThreadsDim[2] = MAX_BLOCK_Z;
    properties->maxGridSize[0] = MAX_GRID_X;
    properties->maxGridSize[1] = properties->maxGridSize[2] = MAX_GRID_YZ;
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxBlocksPerMultiProcessor = 32;
    properties->l2CacheSize = 50 << 20;
    properties->memoryBusWidth = 6144;
    properties->ECCEnabled = 1;
    properties->concurrentKernels = 1;
    properties->asyncEngineCount = 3;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= device_count()) return raise(cudaErrorInvalidDevice);
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = MAX_THREADS;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = SHARED_DEFAULT;
        break;
    case cudaDevAttrWarpSize:
        *value = WARP;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = 132;
        break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = 2048;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = 9;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = 0;
        break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = 228 * 1024;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = SHARED_OPTIN;
        break;
    default:
        return raise(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = machine_has("no-driver") ? 0 : machine_has("old-driver") ? 11080 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
