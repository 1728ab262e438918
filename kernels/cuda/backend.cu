/*
 * backend.cu: the CUDA device behind the contract: opening it, its memory, queues, events and graphs, and the
 * two tables kernels_cuda_f32 and kernels_cuda_bf16.
 *
 * One device a process. A queue is a stream of its own, which does not wait for the legacy default stream;
 * the functions here are called from one host thread.
 */
#include "collective.cuh"
#include "gemm.cuh"
#include "shapes.cuh"

#include <stdarg.h>
#include <string.h>

struct Event {
    cudaEvent_t event;
    bool external;
};

struct Graph {
    cudaGraphExec_t exec;
    int64_t operations;
};

/* --------------------------------------------------------------------------------------------------------
 * The device
 * ------------------------------------------------------------------------------------------------------ */

namespace {

bool is_open = false;
int device_index = 0;

/* Says why there is no device, and forgets the error, so that a caller can go on without one. */
CHECK_PRINTF(3, 4) bool no_device(char *text, size_t size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(text, size, format, args);
    va_end(args);
    cudaGetLastError();
    return false;
}

bool failed_to(char *text, size_t size, const char *what, cudaError_t status) {
    return no_device(text, size, "%s: %s (%s)", what, cudaGetErrorString(status), cudaGetErrorName(status));
}

/* CUDA says "insufficient driver" both of an old one and of none. */
bool no_driver(char *text, size_t size) {
    int driver = 0, runtime = CUDART_VERSION;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
        return no_device(text, size, "no NVIDIA driver on this machine");
    return no_device(text, size, "the NVIDIA driver is too old: it serves CUDA %d.%d, this program needs %d.%d",
                     driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
}

bool count_devices(int *count, char *text, size_t size) {
    cudaError_t status = cudaGetDeviceCount(count);
    if (status == cudaErrorInsufficientDriver) return no_driver(text, size);
    if (status == cudaErrorNoDevice || (status == cudaSuccess && *count == 0))
        return no_device(text, size, "the NVIDIA driver sees no GPU (CUDA_VISIBLE_DEVICES may hide it)");
    return status == cudaSuccess || failed_to(text, size, "asking for GPUs", status);
}

__global__ void nothing() {}

/* Whether this build holds machine code (or PTX) that the device can run. */
bool has_code(const cudaDeviceProp &device, char *text, size_t size) {
    if (device.major < 8)
        return no_device(text, size, "%s has compute capability %d.%d; 8.0 or newer is needed", device.name,
                         device.major, device.minor);
    cudaFuncAttributes attributes;
    cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(nothing));
    if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction)
        return no_device(text, size, "this build has no code for %s (compute capability %d.%d); "
                         "make CUDA_ARCHS=%d%d builds it", device.name, device.major, device.minor, device.major,
                         device.minor);
    return status == cudaSuccess || failed_to(text, size, "looking for code for the GPU", status);
}

bool device_open(int index, char *text, size_t size) {
    int count = 0;
    if (!count_devices(&count, text, size)) return false;
    if (index < 0 || index >= count)
        return no_device(text, size, "no GPU %d: this machine has %d", index, count);
    if (is_open && index != device_index)
        return no_device(text, size, "GPU %d is open already: one a process", device_index);
    cudaDeviceProp properties;
    cudaError_t status = cudaGetDeviceProperties(&properties, index);
    if (status != cudaSuccess) return failed_to(text, size, "asking for the GPU's properties", status);
    status = cudaSetDevice(index);
    if (status != cudaSuccess) return failed_to(text, size, "taking the GPU", status);
    if (!has_code(properties, text, size) || !cublaslt_load(text, size)) return false;
    if (!is_open) linear_open();
    is_open = true;
    device_index = index;
    return true;
}

void device_close() {
    if (!is_open) return;
    collective_close();
    linear_close();
    is_open = false;
}

/* Dense rates by the data sheets, in FLOP/s, for the names that the driver gives. The first match counts. */
struct Peak {
    const char *name;
    double bf16_flops, f32_flops;
};

const Peak peaks[] = {
    {"B200", 2250e12, 75e12},      {"H200", 989.4e12, 66.9e12},     {"H100 PCIe", 756.5e12, 51.2e12},
    {"H100 NVL", 835.5e12, 60e12}, {"H100", 989.4e12, 66.9e12},     {"H800", 989.4e12, 66.9e12},
    {"GH200", 989.4e12, 66.9e12},  {"A100", 312e12, 19.5e12},       {"A800", 312e12, 19.5e12},
    {"L40S", 362e12, 91.6e12},     {"RTX 4090", 165.2e12, 82.6e12}, {"RTX 3090", 71e12, 35.6e12},
};

template <typename S> void device_describe(DeviceInfo *info) {
    memset(info, 0, sizeof *info);
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device_index), "describing device %d", device_index);
    snprintf(info->name, sizeof info->name, "%.127s", properties.name);
    size_t free_bytes = 0, total_bytes = 0;
    CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes), "describing device %d", device_index);
    info->memory_total = total_bytes;
    info->memory_free = free_bytes;
    info->units = properties.multiProcessorCount;
    CUDA_CHECK(cudaGetDeviceCount(&info->devices), "counting GPUs");
    for (const Peak &peak : peaks) {
        if (!strstr(properties.name, peak.name)) continue;
        info->peak_flops = sizeof(S) == sizeof(bf16) ? peak.bf16_flops : peak.f32_flops;
        break;
    }
}

/* --------------------------------------------------------------------------------------------------------
 * Memory
 * ------------------------------------------------------------------------------------------------------ */

/* Turns "not enough memory" into NULL; anything else is fatal. */
void *null_if_exhausted(cudaError_t status, void *memory, size_t bytes, const char *what) {
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    CUDA_CHECK(status, "taking %zu bytes of %s", bytes, what);
    return memory;
}

void *device_alloc(size_t bytes) {
    if (bytes == 0) bytes = 1;
    void *memory = NULL;
    cudaError_t status = cudaMalloc(&memory, bytes);
    memory = null_if_exhausted(status, memory, bytes, "device memory");
    if (!memory) return NULL;
    CUDA_CHECK(cudaMemset(memory, 0, bytes), "zeroing %zu bytes", bytes);
    CUDA_CHECK(cudaDeviceSynchronize(), "zeroing %zu bytes", bytes); /* streams do not wait for the memset */
    return memory;
}

void device_release(void *memory) {
    CUDA_CHECK(cudaFree(memory), "giving back device memory");
}

void *pinned_alloc(size_t bytes) {
    if (bytes == 0) bytes = 1;
    void *memory = NULL;
    cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
    return null_if_exhausted(status, memory, bytes, "pinned host memory");
}

void pinned_release(void *memory) {
    if (memory) CUDA_CHECK(cudaFreeHost(memory), "giving back pinned host memory");
}

/* --------------------------------------------------------------------------------------------------------
 * Queues, copies, events, graphs
 * ------------------------------------------------------------------------------------------------------ */

Queue *queue_create(size_t scratch_bytes) {
    if (scratch_bytes == 0) scratch_bytes = 256;
    void *scratch = NULL;
    cudaError_t status = cudaMalloc(&scratch, scratch_bytes);
    scratch = null_if_exhausted(status, scratch, scratch_bytes, "device memory for a queue's scratch area");
    if (!scratch) return NULL;
    Queue *queue = static_cast<Queue *>(must_calloc(1, sizeof(Queue), "a queue"));
    CUDA_CHECK(cudaStreamCreateWithFlags(&queue->stream, cudaStreamNonBlocking), "making a stream");
    queue->scratch = scratch;
    queue->scratch_bytes = scratch_bytes;
    return queue;
}

/* What a kernel did wrong while it ran is told by whoever waits, without its name: any that was queued may be meant. */
#define LATER " (CUDA_LAUNCH_BLOCKING=1 and --cuda-graph off name the kernel that failed)"

void queue_wait(Queue *queue) {
    collective_wait([queue] { return cudaStreamQuery(queue->stream); });
    CUDA_CHECK(cudaStreamSynchronize(queue->stream), "waiting for a queue" LATER);
}

void queue_destroy(Queue *queue) {
    if (!queue) return;
    queue_wait(queue);
    CUDA_CHECK(cudaStreamDestroy(queue->stream), "giving back a stream");
    CUDA_CHECK(cudaFree(queue->scratch), "giving back a queue's scratch area");
    free(queue);
}

void queue_copy(Queue *queue, void *dst, const void *src, size_t bytes, CopyKind kind) {
    static const cudaMemcpyKind kinds[] = {cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost,
                                           cudaMemcpyDeviceToDevice};
    CUDA_CHECK(cudaMemcpyAsync(dst, src, bytes, kinds[kind], queue->stream), "copying %zu bytes", bytes);
}

void queue_zero(Queue *queue, void *dst, size_t bytes) {
    CUDA_CHECK(cudaMemsetAsync(dst, 0, bytes, queue->stream), "zeroing %zu bytes", bytes);
}

Event *event_create(EventScope scope) {
    Event *event = static_cast<Event *>(must_calloc(1, sizeof(Event), "an event"));
    event->external = scope == EVENT_EXTERNAL;
    CUDA_CHECK(cudaEventCreate(&event->event), "making an event");
    return event;
}

void event_destroy(Event *event) {
    if (!event) return;
    CUDA_CHECK(cudaEventDestroy(event->event), "giving back an event");
    free(event);
}

/* Whether this is to be a node of its own in a graph: CUDA takes the flags that make it one in a capture alone. */
bool is_node(const Queue *queue, const Event *event) {
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    CUDA_CHECK(cudaStreamIsCapturing(queue->stream, &capture), "asking whether a stream is captured");
    return event->external && capture != cudaStreamCaptureStatusNone;
}

void event_record(Queue *queue, Event *event) {
    const unsigned flags = is_node(queue, event) ? cudaEventRecordExternal : cudaEventRecordDefault;
    CUDA_CHECK(cudaEventRecordWithFlags(event->event, queue->stream, flags), "recording an event");
}

void event_wait(Queue *queue, Event *event) {
    const unsigned flags = is_node(queue, event) ? cudaEventWaitExternal : cudaEventWaitDefault;
    CUDA_CHECK(cudaStreamWaitEvent(queue->stream, event->event, flags), "making a queue wait for an event");
}

void event_host_wait(Event *event) {
    collective_wait([event] { return cudaEventQuery(event->event); });
    CUDA_CHECK(cudaEventSynchronize(event->event), "waiting for an event" LATER);
}

double event_elapsed(Event *from, Event *to) {
    float milliseconds = 0;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, from->event, to->event), "timing between two events");
    return milliseconds * 1e-3;
}

int64_t count_before_capture;

void capture_begin(Queue *queue) {
    count_before_capture = launch_log.count;
    CUDA_CHECK(cudaStreamBeginCapture(queue->stream, cudaStreamCaptureModeThreadLocal),
               "beginning a capture");
}

Graph *capture_end(Queue *queue) {
    cudaGraph_t graph;
    CUDA_CHECK(cudaStreamEndCapture(queue->stream, &graph), "ending a capture");
    Graph *result = static_cast<Graph *>(must_calloc(1, sizeof(Graph), "a graph"));
    CUDA_CHECK(cudaGraphInstantiate(&result->exec, graph, 0),
               "making a graph of a step (--cuda-graph off takes no memory for one)");
    CUDA_CHECK(cudaGraphDestroy(graph), "giving back a graph's template");
    result->operations = launch_log.count - count_before_capture;
    return result;
}

void graph_launch(Queue *queue, Graph *graph) {
    launch_log.begin("a captured graph", {{{"operations", graph->operations}}});
    CUDA_CHECK(cudaGraphLaunch(graph->exec, queue->stream), "launching a graph");
    launch_log.end();
}

void graph_destroy(Graph *graph) {
    if (!graph) return;
    CUDA_CHECK(cudaGraphExecDestroy(graph->exec), "giving back a graph");
    free(graph);
}

/* --------------------------------------------------------------------------------------------------------
 * Scratch
 * ------------------------------------------------------------------------------------------------------ */

size_t scratch_bytes(const Limits *limits) {
    const size_t needs[] = {embedding_scratch(limits), linear_scratch(limits),     qkv_scratch(limits),
                            attention_scratch(limits), activation_scratch(limits), junction_scratch(limits),
                            variant_scratch(limits),   step_scratch(limits),       stats_scratch(limits)};
    size_t most = 256;
    for (size_t need : needs) most = need > most ? need : most;
    return most;
}

} // namespace

void *cuda_scratch(Queue *queue, size_t bytes, const char *operation) {
    require(queue->scratch_bytes >= bytes, "%s needs %zu bytes of scratch memory; its queue has %zu",
            operation, bytes, queue->scratch_bytes);
    return queue->scratch;
}

/* --------------------------------------------------------------------------------------------------------
 * The tables. What is not assigned is NULL: not there yet.
 * ------------------------------------------------------------------------------------------------------ */

/* The function of the table: logs the call, and makes it. */
#define OPERATION(name, function)                                                                            \
    k.name = [](Queue *queue, const auto *args) {                                                            \
        launch_log.begin(#name, shape_of(args));                                                             \
        function(queue, args);                                                                               \
        launch_log.end();                                                                                    \
    }

template <typename S> static constexpr Kernels make_table(const char *name, DType storage) {
    Kernels k = {};
    k.name = name;
    k.device = "cuda";
    k.storage = storage;
    k.accum = DTYPE_F32;

    k.open = device_open;
    k.close = device_close;
    k.describe = device_describe<S>;
    k.scratch_bytes = scratch_bytes;
    k.alloc = device_alloc;
    k.release = device_release;
    k.host_alloc = pinned_alloc;
    k.host_release = pinned_release;

    k.queue_create = queue_create;
    k.queue_destroy = queue_destroy;
    k.queue_wait = queue_wait;
    k.copy = queue_copy;
    k.zero = queue_zero;
    k.event_create = event_create;
    k.event_destroy = event_destroy;
    k.event_record = event_record;
    k.event_wait = event_wait;
    k.event_host_wait = event_host_wait;
    k.event_elapsed = event_elapsed;
    k.capture_begin = capture_begin;
    k.capture_end = capture_end;
    k.graph_launch = graph_launch;
    k.graph_destroy = graph_destroy;

    k.gemm_tune = linear_tune;
    k.gemm_choices_load = gemm_choices_load;
    k.gemm_choices_save = gemm_choices_save;

    OPERATION(embedding_forward, embedding_forward<S>);
    OPERATION(embedding_backward, embedding_backward<S>);
    OPERATION(linear_forward, linear_forward<S>);
    OPERATION(linear_backward_input, linear_backward_input<S>);
    OPERATION(linear_backward_weight, linear_backward_weight<S>);
    OPERATION(qkv_forward, qkv_forward<S>);
    OPERATION(qkv_backward, qkv_backward<S>);
    OPERATION(attention_forward, attention_forward<S>);
    OPERATION(attention_backward, attention_backward<S>);
    OPERATION(attention_decode, attention_decode<S>);
    OPERATION(activation_forward, activation_forward<S>);
    OPERATION(activation_backward, activation_backward<S>);
    OPERATION(junction_forward, junction_forward<S>);
    OPERATION(junction_backward, junction_backward<S>);
    OPERATION(gpas_scales, gpas_scales);
    OPERATION(product_norm, product_norm<S>);
    OPERATION(bhyt_terms, bhyt_terms);
    OPERATION(cross_entropy, cross_entropy<S>);
    OPERATION(step_begin, step_begin);
    OPERATION(loss_reduce, loss_reduce);
    OPERATION(sum_squares, sum_squares);
    OPERATION(step_decide, step_decide);
    OPERATION(adamw, adamw);
    OPERATION(muon_momentum, muon_momentum);
    OPERATION(scaled_copy, scaled_copy<S>);
    OPERATION(axpby, axpby<S>);
    OPERATION(muon_update, muon_update);
    OPERATION(tensor_stats, tensor_stats);
    OPERATION(cast, cast);
    OPERATION(halves, halves<S>);
    OPERATION(hash, hash);

#ifdef WITH_NCCL
    k.collective_open = collective_open;
    k.collective_unique_id = collective_unique_id;
    OPERATION(all_reduce_sum, all_reduce_sum);
    OPERATION(reduce_scatter_sum, reduce_scatter_sum);
    OPERATION(all_gather, all_gather);
    OPERATION(broadcast, broadcast);
#endif
    return k;
}

extern "C" {
const Kernels kernels_cuda_f32 = make_table<float>("cuda/f32", DTYPE_F32);
const Kernels kernels_cuda_bf16 = make_table<bf16>("cuda/bf16", DTYPE_BF16);
}
