/*
 * stream.cpp: streams and events as lazy queues, and launches into them. (Captures: graph.cpp.)
 *
 * Nothing runs when it is queued. A synchronisation runs what it must wait for and, with a seed, whatever
 * else chance picks among the streams whose next operation is allowed: behind the events it waits for, and in
 * CUDA's order with the legacy default stream. Work therefore happens as late as CUDA allows, and in any
 * order that it allows.
 */
#include "stream.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <algorithm>
#include <map>

using std::shared_ptr;

namespace emu {

uint64_t seed;

namespace {

uint64_t random_state;
uint64_t next_number;
CUstream_st default_stream;
std::map<const void *, size_t> dynamic_limits;

struct SeedFromEnvironment {
    SeedFromEnvironment() {
        const char *text = getenv("EMU_SEED");
        set_seed(text ? strtoull(text, nullptr, 10) : 0);
    }
} seed_from_environment;

} // namespace

std::vector<CUstream_st *> streams = {&default_stream};

CUstream_st *resolve(cudaStream_t stream) {
    if (!stream) return &default_stream;
    if (std::find(streams.begin(), streams.end(), stream) == streams.end())
        fault("a stream that does not exist: %p", (void *)stream);
    return stream;
}

void append(CUstream_st *stream, Operation operation) {
    operation.number = next_number++;
    operation.queued = race::host_now();
    if (stream->capture)
        capture_work(stream, std::move(operation));
    else
        stream->queue.push_back(std::move(operation));
}

Operation recording(shared_ptr<Record> &record, CUstream_st *stream) {
    record = std::make_shared<Record>();
    record->stream = stream;
    return {0,
            "cudaEventRecord",
            [made = record, stream] {
                made->done = true;
                made->when = std::chrono::steady_clock::now();
                made->clock = stream->timeline.clock;
            },
            nullptr,
            {},
            nullptr};
}

namespace {

/* Another stream whose head must run before this one's, by the rules of the legacy default stream; or null.
 */
CUstream_st *held_by_default(const CUstream_st *stream) {
    uint64_t number = stream->queue.front().number;
    if (stream != &default_stream) {
        bool held =
            stream->blocking && !default_stream.queue.empty() && default_stream.queue.front().number < number;
        return held ? &default_stream : nullptr;
    }
    for (CUstream_st *other : streams)
        if (other != stream && other->blocking && !other->queue.empty() &&
            other->queue.front().number < number)
            return other;
    return nullptr;
}

/* The stream that must advance first for this one's head to run: itself if that is allowed now. */
CUstream_st *needed(CUstream_st *stream) {
    for (;;) {
        if (CUstream_st *holder = held_by_default(stream)) {
            stream = holder;
            continue;
        }
        const Operation &head = stream->queue.front();
        if (!head.wait || head.wait->done) return stream;
        stream = head.wait->stream;
    }
}

void step(CUstream_st *stream) {
    Operation operation = std::move(stream->queue.front());
    stream->queue.pop_front();
    race::Timeline &timeline = stream->timeline;
    if (operation.wait) race::join(timeline.clock, operation.wait->clock);
    for (CUstream_st *other : streams)
        if (race::ON && other != stream && other->blocking && stream->blocking &&
            (other == &default_stream || stream == &default_stream))
            race::join(timeline.clock, other->timeline.clock);
    race::operation_begin(operation.name.c_str(), timeline, operation.queued);
    if (operation.run) operation.run();
    race::operation_end();
}

/* While one lives, device work runs. */
struct DeviceTime {
    DeviceTime() {
        device_visible(true);
        traps_begin();
    }
    ~DeviceTime() {
        traps_end();
        device_visible(false);
    }
};

/* Whether the stream's next operation waits for nothing outside this process. */
bool ready(CUstream_st *stream) {
    const Operation &head = stream->queue.front();
    return !head.ready || head.ready(head.number);
}

/* Runs one operation: one that leads to progress in the stream, or, by chance, any that is allowed. None if that one
   is not ready. */
void advance(CUstream_st *stream) {
    std::vector<CUstream_st *> allowed;
    if (seed && random_below(2))
        for (CUstream_st *other : streams)
            if (!other->queue.empty() && needed(other) == other && ready(other)) allowed.push_back(other);
    CUstream_st *chosen = allowed.empty() ? needed(stream) : allowed[random_below((unsigned)allowed.size())];
    if (!allowed.empty() || ready(chosen))
        step(chosen);
    else
        sched_yield();
}

/* Runs until the goal is reached, to which progress in the stream leads. */
template <typename Goal> void run_until(Goal reached, CUstream_st *stream) {
    if (reached()) return;
    DeviceTime time;
    while (!reached()) advance(stream);
}

void run_stream(CUstream_st *stream) {
    run_until([stream] { return stream->queue.empty(); }, stream);
    race::host_joins(stream->timeline.clock);
}

size_t dynamic_limit(const void *function) {
    auto limit = dynamic_limits.find(function);
    return limit == dynamic_limits.end() ? (size_t)SHARED_DEFAULT : limit->second;
}

cudaError_t launch_error(const void *function, size_t argument_bytes, dim3 grid, dim3 block, size_t shared) {
    if (!grid.x || !grid.y || !grid.z || grid.x > MAX_GRID_X || grid.y > MAX_GRID_YZ || grid.z > MAX_GRID_YZ)
        return cudaErrorInvalidConfiguration;
    if (!block.x || !block.y || !block.z || block.x > MAX_THREADS || block.y > MAX_THREADS ||
        block.z > MAX_BLOCK_Z || (uint64_t)block.x * block.y * block.z > MAX_THREADS)
        return cudaErrorInvalidConfiguration;
    if (shared > dynamic_limit(function)) return cudaErrorInvalidValue;
    return argument_bytes > MAX_ARGUMENTS ? cudaErrorInvalidValue : cudaSuccess;
}

} // namespace

std::recursive_mutex &runtime_mutex() {
    static std::recursive_mutex mutex;
    return mutex;
}

void set_seed(uint64_t value) {
    seed = value;
    random_state = value;
}

unsigned random_below(unsigned bound) {
    if (!seed || !bound) return 0;
    uint64_t z = random_state += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (unsigned)((z ^ z >> 31) % bound);
}

void queue_work(const char *name, CUstream_st *stream, std::function<void()> work,
                std::function<bool(uint64_t number)> ready) {
    Lock lock;
    require_no_error(name);
    append(resolve(stream), {0, name, std::move(work), nullptr, {}, std::move(ready)});
}

void queue_kernel(const char *name, const void *function, size_t argument_bytes, dim3 grid, dim3 block,
                  size_t shared, CUstream_st *stream, std::function<void()> body) {
    Lock lock;
    require_no_error(name);
    cudaError_t error = launch_error(function, argument_bytes, grid, block, shared);
    if (error != cudaSuccess) {
        (void)raise(error);
        return;
    }
    /* Whoever has asked for dynamic memory, however little, may have static arrays beside it. */
    size_t shared_limit = dynamic_limits.count(function) ? SHARED_OPTIN : SHARED_DEFAULT;
    queue_work(name, stream, [=, kernel = std::string(name), body = std::move(body)] {
        race::note_kernel(kernel.c_str(), function);
        run_grid({kernel.c_str(), grid, block, shared, shared_limit, &body});
    });
}

cudaError_t set_function_attribute(const void *function, cudaFuncAttribute attribute, int value) {
    Lock lock;
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) /* of speed alone; a share in percent, or −1 */
        return value < cudaSharedmemCarveoutDefault || value > cudaSharedmemCarveoutMaxShared ? raise(cudaErrorInvalidValue)
                                                                                             : cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || value > SHARED_OPTIN)
        return raise(cudaErrorInvalidValue);
    dynamic_limits[function] = (size_t)value;
    return cudaSuccess;
}

void run_everything(const char *operation) {
    if (captures) fault("%s while a stream is being captured", operation);
    for (size_t i = 0; i < streams.size(); i++) run_stream(streams[i]);
}

namespace {

/* What a copy's two ends must be; checked when queued, so that the caller is named. */
cudaError_t check_copy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, const char *call) {
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return raise(cudaErrorInvalidMemcpyDirection);
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault) to_device = on_device(to), from_device = on_device(from);
    if (on_device(to) != to_device || on_device(from) != from_device)
        fault("%s: kind %d, but the destination is %s memory and the source %s memory", call, (int)kind,
              on_device(to) ? "device" : "host", on_device(from) ? "device" : "host");
    if (to_device) require_device_range(to, bytes, call);
    if (from_device) require_device_range(from, bytes, call);
    return cudaSuccess;
}

} // namespace

} // namespace emu

using namespace emu;

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *attributes, const void *function) {
    Lock lock;
    const char *device = getenv("EMU_DEVICE");
    if (device && !strcmp(device, "no-code")) return raise(cudaErrorNoKernelImageForDevice);
    *attributes = cudaFuncAttributes();
    attributes->maxThreadsPerBlock = MAX_THREADS;
    attributes->numRegs = 32;
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->maxDynamicSharedSizeBytes = (int)dynamic_limit(function);
    return cudaSuccess;
}

/* ---- copies ------------------------------------------------------------------------------------------ */

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    Lock lock;
    if (!bytes) return cudaSuccess;
    cudaError_t error = check_copy(to, from, bytes, kind, "cudaMemcpyAsync");
    if (error == cudaSuccess) queue_work("cudaMemcpyAsync", stream, [=] {
            race::touch(from, bytes, false, nullptr, nullptr);
            race::touch(to, bytes, true, nullptr, nullptr);
            memmove(to, from, bytes);
        });
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    Lock lock;
    if (captures) fault("cudaMemcpy while a stream is being captured");
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    if (error == cudaSuccess) run_stream(&default_stream);
    return error;
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream) {
    Lock lock;
    if (!bytes) return cudaSuccess;
    require_device_range(to, bytes, "cudaMemsetAsync");
    queue_work("cudaMemsetAsync", stream, [=] {
        race::touch(to, bytes, true, nullptr, nullptr);
        memset(to, value, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaMemset(void *to, int value, size_t bytes) {
    return cudaMemsetAsync(to, value, bytes, nullptr);
}

/* ---- streams ----------------------------------------------------------------------------------------- */

cudaError_t cudaDeviceSynchronize() {
    Lock lock;
    run_everything("cudaDeviceSynchronize");
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags) {
    Lock lock;
    if (!stream || flags > cudaStreamNonBlocking) return raise(cudaErrorInvalidValue);
    *stream = new CUstream_st;
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    Lock lock;
    if (!stream) return raise(cudaErrorInvalidResourceHandle);
    resolve(stream);
    if (stream->capture) fault("cudaStreamDestroy of a stream that is being captured");
    run_stream(stream);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    Lock lock;
    CUstream_st *target = resolve(stream);
    if (captures) fault("cudaStreamSynchronize while a stream is being captured");
    run_stream(target);
    return cudaSuccess;
}

/* A query advances the stream by one operation, so that a loop of queries ends. */
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    Lock lock;
    CUstream_st *target = resolve(stream);
    if (target->queue.empty()) {
        race::host_joins(target->timeline.clock);
        return cudaSuccess;
    }
    DeviceTime time;
    advance(target);
    return cudaErrorNotReady;
}

/* ---- events ------------------------------------------------------------------------------------------ */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = new CUevent_st;
    (*event)->timing = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
    Lock lock;
    CUstream_st *target = resolve(stream);
    if (flags > cudaEventRecordExternal || (flags && !target->capture)) return raise(cudaErrorInvalidValue);
    if (target->capture) return capture_record(target, event, flags == cudaEventRecordExternal);
    event->captured_in = 0;
    append(target, recording(event->record, target));
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
    Lock lock;
    CUstream_st *target = resolve(stream);
    if (flags > cudaEventWaitExternal || (flags && !target->capture)) return raise(cudaErrorInvalidValue);
    if (target->capture || event->captured_in) return capture_wait(target, event, flags == cudaEventWaitExternal);
    if (event->record) append(target, {0, "cudaStreamWaitEvent", nullptr, event->record, {}, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    Lock lock;
    if (captures) fault("cudaEventSynchronize while a stream is being captured");
    if (event->captured_in) return raise(cudaErrorCapturedEvent);
    if (shared_ptr<Record> record = event->record) {
        run_until([&] { return record->done; }, record->stream);
        race::host_joins(record->clock);
    }
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    Lock lock;
    if (event->captured_in) return raise(cudaErrorCapturedEvent);
    shared_ptr<Record> record = event->record;
    if (record && record->done) race::host_joins(record->clock);
    if (!record || record->done) return cudaSuccess;
    DeviceTime time;
    advance(record->stream);
    return cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
    Lock lock;
    if (!start->record || !end->record || !start->timing || !end->timing)
        return raise(cudaErrorInvalidResourceHandle);
    if (start->captured_in || end->captured_in) return raise(cudaErrorCapturedEvent);
    if (!start->record->done || !end->record->done) return raise(cudaErrorNotReady);
    *milliseconds = std::chrono::duration<float, std::milli>(end->record->when - start->record->when).count();
    return cudaSuccess;
}
