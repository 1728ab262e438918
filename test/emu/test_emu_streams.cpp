/* test_emu_streams.cpp: queued work runs at a synchronisation and not before, in any order that events allow.
 */
#include "test_emu.h"

#include <string>

namespace {

struct Pair {
    int first, second;
};

__global__ void store(int *out, Pair value) {
    out[0] = value.first;
    out[1] = value.second;
}

__global__ void append(int *log, int value) {
    log[atomicAdd(&log[0], 1) + 1] = value;
}

/* A log on the device, in which every operation leaves its number when it runs. */
struct Log {
    Device<int> device{std::vector<int>(32, 0)};
    void add(int value, cudaStream_t stream) { LAUNCH(append, 1, 1, 0, stream, device.at, value); }
    std::string read() {
        std::vector<int> log = device.host();
        std::string text;
        for (int i = 0; i < log[0]; i++) text += (char)('0' + log[i + 1]);
        return text;
    }
};

cudaStream_t new_stream(unsigned flags = cudaStreamNonBlocking) {
    cudaStream_t stream;
    CUDA_CHECK(cudaStreamCreateWithFlags(&stream, flags), "test");
    return stream;
}

void sync(cudaStream_t stream) {
    CUDA_CHECK(cudaStreamSynchronize(stream), "test");
}
void drop(cudaStream_t stream) {
    CUDA_CHECK(cudaStreamDestroy(stream), "test");
}

void arguments_are_frozen_at_the_launch(void **) {
    Device<int> out(2);
    Pair value = {1, 2};
    cudaStream_t stream = new_stream();
    LAUNCH(store, 1, 1, 0, stream, out.at, value);
    value = {3, 4};
    sync(stream);
    assert_int_equal(out.host()[0], 1);
    assert_int_equal(out.host()[1], 2);
    drop(stream);
}

void copies_touch_host_memory_only_at_the_synchronisation(void **) {
    int *pinned;
    CUDA_CHECK(cudaMallocHost(&pinned, 8), "test");
    Device<int> device(2);
    cudaStream_t stream = new_stream();
    pinned[0] = 1, pinned[1] = 0;
    CUDA_CHECK(cudaMemcpyAsync(device.at, pinned, 4, cudaMemcpyHostToDevice, stream), "test");
    CUDA_CHECK(cudaMemcpyAsync(pinned + 1, device.at, 4, cudaMemcpyDeviceToHost, stream), "test");
    pinned[0] = 7; /* a reused buffer: the copy takes the new value */
    assert_int_equal(pinned[1], 0);
    sync(stream);
    assert_int_equal(pinned[1], 7);
    drop(stream);
    CUDA_CHECK(cudaFreeHost(pinned), "test");
}

void a_stream_keeps_its_order(void **) {
    for_seeds(5, [](int) {
        Log log;
        cudaStream_t stream = new_stream();
        for (int i = 0; i < 8; i++) log.add(i, stream);
        sync(stream);
        assert_string_equal(log.read().c_str(), "01234567");
        drop(stream);
    });
}

void streams_without_events_run_in_several_orders(void **) {
    bool ab = false, ba = false;
    for_seeds(20, [&](int) {
        Log log;
        cudaStream_t a = new_stream(), b = new_stream();
        log.add(0, a);
        log.add(1, b);
        synchronize();
        (log.read() == "01" ? ab : ba) = true;
        drop(a);
        drop(b);
    });
    assert_true(ab && ba);
}

void a_wait_for_an_event_holds_under_every_seed(void **) {
    for_seeds(20, [](int) {
        Log log;
        cudaStream_t a = new_stream(), b = new_stream();
        cudaEvent_t event;
        CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "test");
        log.add(0, a);
        log.add(1, a);
        CUDA_CHECK(cudaEventRecord(event, a), "test");
        CUDA_CHECK(cudaStreamWaitEvent(b, event), "test");
        log.add(2, b);
        CUDA_CHECK(cudaEventRecord(event, b), "test"); /* the wait above is for the first record */
        sync(b);
        assert_string_equal(log.read().substr(0, 3).c_str(), "012");
        CUDA_CHECK(cudaEventDestroy(event), "test");
        drop(a);
        drop(b);
    });
}

void a_synchronisation_runs_no_more_than_it_must_without_a_seed(void **) {
    emu::set_seed(0);
    Log log;
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreate(&event), "test");
    log.add(0, a);
    CUDA_CHECK(cudaEventRecord(event, a), "test");
    log.add(1, a);
    log.add(2, b);
    CUDA_CHECK(cudaEventSynchronize(event), "test");
    /* Reading the log is a copy in the default stream, for which these streams do not wait. */
    assert_string_equal(log.read().c_str(), "0");
    synchronize();
    assert_string_equal(log.read().c_str(), "012");
    CUDA_CHECK(cudaEventDestroy(event), "test");
    drop(a);
    drop(b);
}

void the_default_stream_is_ordered_with_blocking_streams(void **) {
    for_seeds(20, [](int) {
        Log log;
        cudaStream_t a = new_stream(cudaStreamDefault), b = new_stream(cudaStreamDefault);
        log.add(0, a);
        log.add(1, 0);
        log.add(2, b);
        log.add(3, 0);
        sync(b);
        assert_string_equal(log.read().c_str(), "0123");
        drop(a);
        drop(b);
    });
}

void queries_end_and_events_have_times(void **) {
    Log log;
    cudaStream_t stream = new_stream();
    cudaEvent_t start, end;
    CUDA_CHECK(cudaEventCreate(&start), "test");
    CUDA_CHECK(cudaEventCreate(&end), "test");
    CUDA_CHECK(cudaEventRecord(start, stream), "test");
    log.add(0, stream);
    CUDA_CHECK(cudaEventRecord(end, stream), "test");
    assert_int_equal(cudaEventQuery(end), cudaErrorNotReady);
    float milliseconds = -1;
    assert_int_equal(cudaEventElapsedTime(&milliseconds, start, end), cudaErrorNotReady);
    while (cudaEventQuery(end) == cudaErrorNotReady) continue;
    while (cudaStreamQuery(stream) == cudaErrorNotReady) continue;
    CUDA_CHECK(cudaEventElapsedTime(&milliseconds, start, end), "test");
    assert_true(milliseconds >= 0);
    CUDA_CHECK(cudaEventDestroy(start), "test");
    CUDA_CHECK(cudaEventDestroy(end), "test");
    drop(stream);
}

void a_graph_replays_what_was_captured(void **) {
    for_seeds(5, [](int) {
        Log log;
        cudaStream_t a = new_stream(), b = new_stream();
        cudaEvent_t fork, join;
        CUDA_CHECK(cudaEventCreate(&fork), "test");
        CUDA_CHECK(cudaEventCreate(&join), "test");
        CUDA_CHECK(cudaStreamBeginCapture(a, cudaStreamCaptureModeGlobal), "test");
        int value = 1;
        log.add(value, a);
        CUDA_CHECK(cudaEventRecord(fork, a), "test");
        CUDA_CHECK(cudaStreamWaitEvent(b, fork), "test");
        log.add(2, b);
        CUDA_CHECK(cudaEventRecord(join, b), "test");
        CUDA_CHECK(cudaStreamWaitEvent(a, join), "test");
        log.add(3, a);
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        CUDA_CHECK(cudaStreamEndCapture(a, &graph), "test");
        CUDA_CHECK(cudaGraphInstantiate(&executable, graph), "test");
        CUDA_CHECK(cudaGraphDestroy(graph), "test");
        value = 9;
        synchronize();
        assert_string_equal(log.read().c_str(), ""); /* capturing runs nothing */
        CUDA_CHECK(cudaGraphLaunch(executable, b), "test");
        log.add(4, b);
        CUDA_CHECK(cudaGraphLaunch(executable, b), "test");
        sync(b);
        assert_string_equal(log.read().c_str(), "1234123");
        CUDA_CHECK(cudaGraphExecDestroy(executable), "test");
        CUDA_CHECK(cudaEventDestroy(fork), "test");
        CUDA_CHECK(cudaEventDestroy(join), "test");
        drop(a);
        drop(b);
    });
}

cudaEvent_t new_event() {
    cudaEvent_t event;
    CUDA_CHECK(cudaEventCreate(&event), "test");
    return event;
}
void drop(cudaEvent_t event) {
    CUDA_CHECK(cudaEventDestroy(event), "test");
}

void begin(cudaStream_t stream) {
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "test");
}
cudaGraphExec_t end(cudaStream_t stream) {
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph), "test");
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph), "test");
    CUDA_CHECK(cudaGraphDestroy(graph), "test");
    return executable;
}

/* What two launches log of a graph: 1 in stream a; then 2 in b beside 3 in a; then 4 in a. */
std::string logged_by_branches() {
    Log log;
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t fork = new_event(), join = new_event();
    begin(a);
    log.add(1, a);
    CUDA_CHECK(cudaEventRecord(fork, a), "test");
    CUDA_CHECK(cudaStreamWaitEvent(b, fork), "test");
    log.add(2, b);
    CUDA_CHECK(cudaEventRecord(join, b), "test");
    log.add(3, a);
    CUDA_CHECK(cudaStreamWaitEvent(a, join), "test");
    log.add(4, a);
    cudaGraphExec_t executable = end(a);
    for (int i = 0; i < 2; i++) CUDA_CHECK(cudaGraphLaunch(executable, a), "test");
    sync(a);
    std::string found = log.read();
    CUDA_CHECK(cudaGraphExecDestroy(executable), "test");
    drop(fork);
    drop(join);
    drop(a);
    drop(b);
    return found;
}

void branches_of_a_graph_run_in_any_order_that_its_events_leave(void **) {
    bool early = false, late = false;
    for_seeds(20, [&](int) {
        const std::string found = logged_by_branches();
        for (int launch = 0; launch < 2; launch++) {
            const std::string part = found.substr(4 * (size_t)launch, 4);
            assert_true(part == "1234" || part == "1324");
            (part == "1234" ? early : late) = true;
        }
    });
    assert_true(early && late);
}

/* 1, 2 by one graph, 3 by another in its own stream, which waits for what is between those, or does not. */
std::string logged_across_graphs(bool waits) {
    Log log;
    cudaStream_t a = new_stream(), b = new_stream();
    cudaEvent_t between = new_event();
    begin(a);
    log.add(1, a);
    CUDA_CHECK(cudaEventRecordWithFlags(between, a, cudaEventRecordExternal), "test");
    log.add(2, a);
    cudaGraphExec_t first = end(a);
    begin(b);
    if (waits) CUDA_CHECK(cudaStreamWaitEvent(b, between, cudaEventWaitExternal), "test");
    log.add(3, b);
    cudaGraphExec_t second = end(b);
    std::string found;
    for (int i = 0; i < 2; i++) { /* the second time the event has an older record, which does not serve */
        CUDA_CHECK(cudaGraphLaunch(first, a), "test");
        CUDA_CHECK(cudaGraphLaunch(second, b), "test");
        synchronize();
        found = log.read().substr(3 * (size_t)i);
    }
    CUDA_CHECK(cudaGraphExecDestroy(first), "test");
    CUDA_CHECK(cudaGraphExecDestroy(second), "test");
    drop(between);
    drop(a);
    drop(b);
    return found;
}

void external_events_order_graphs_of_two_streams(void **) {
    bool beside = false, behind = false, before = false;
    for_seeds(40, [&](int) {
        const std::string found = logged_across_graphs(true);
        assert_true(found == "132" || found == "123");
        (found == "132" ? beside : behind) = true;
        before |= logged_across_graphs(false) == "312";
    });
    assert_true(beside && behind && before);
}

/* The error of a call, or of the end of the capture, in each way in which a capture goes wrong. */
cudaError_t forgotten_join(cudaStream_t a, cudaStream_t b, cudaEvent_t event, Log &log) {
    cudaGraph_t graph;
    CUDA_CHECK(cudaEventRecord(event, a), "test");
    CUDA_CHECK(cudaStreamWaitEvent(b, event), "test");
    CUDA_CHECK(cudaEventRecord(event, b), "test");
    log.add(1, b);
    CUDA_CHECK(cudaStreamWaitEvent(a, event), "test"); /* for what was there before */
    return cudaStreamEndCapture(a, &graph);
}
cudaError_t event_from_outside(cudaStream_t a, cudaStream_t b, cudaEvent_t event, Log &) {
    CUDA_CHECK(cudaEventRecord(event, b), "test");
    return cudaStreamWaitEvent(a, event);
}
cudaError_t event_of_another_capture(cudaStream_t a, cudaStream_t b, cudaEvent_t event, Log &) {
    cudaGraph_t graph;
    begin(b);
    CUDA_CHECK(cudaEventRecord(event, b), "test");
    const cudaError_t error = cudaStreamWaitEvent(a, event);
    (void)cudaStreamEndCapture(b, &graph);
    return error;
}
cudaError_t event_of_an_ended_capture(cudaStream_t a, cudaStream_t b, cudaEvent_t event, Log &) {
    begin(b);
    CUDA_CHECK(cudaEventRecord(event, b), "test");
    CUDA_CHECK(cudaGraphExecDestroy(end(b)), "test");
    return cudaStreamWaitEvent(a, event);
}
cudaError_t a_captured_event_waited_for_outside(cudaStream_t, cudaStream_t b, cudaEvent_t event, Log &log) {
    (void)event_of_an_ended_capture(b, b, event, log);
    return cudaStreamWaitEvent(b, event);
}
cudaError_t a_captured_event_asked(cudaStream_t a, cudaStream_t, cudaEvent_t event, Log &) {
    CUDA_CHECK(cudaEventRecord(event, a), "test");
    return cudaEventQuery(event);
}
cudaError_t external_outside(cudaStream_t, cudaStream_t b, cudaEvent_t event, Log &) {
    return cudaEventRecordWithFlags(event, b, cudaEventRecordExternal);
}
cudaError_t external_wait_outside(cudaStream_t, cudaStream_t b, cudaEvent_t event, Log &) {
    return cudaStreamWaitEvent(b, event, cudaEventWaitExternal);
}
cudaError_t end_after_an_error(cudaStream_t a, cudaStream_t b, cudaEvent_t event, Log &log) {
    cudaGraph_t graph;
    (void)event_from_outside(a, b, event, log);
    (void)cudaGetLastError();
    return cudaStreamEndCapture(a, &graph);
}

void what_a_capture_cannot_hold_is_the_error_that_cuda_gives(void **) {
    const struct {
        cudaError_t (*act)(cudaStream_t capturing, cudaStream_t other, cudaEvent_t event, Log &log);
        cudaError_t expected;
    } cases[] = {
        {forgotten_join, cudaErrorStreamCaptureUnjoined},
        {event_from_outside, cudaErrorStreamCaptureIsolation},
        {event_of_another_capture, cudaErrorStreamCaptureMerge},
        {event_of_an_ended_capture, cudaErrorStreamCaptureIsolation},
        {a_captured_event_waited_for_outside, cudaErrorCapturedEvent},
        {a_captured_event_asked, cudaErrorCapturedEvent},
        {external_outside, cudaErrorInvalidValue},
        {external_wait_outside, cudaErrorInvalidValue},
        {end_after_an_error, cudaErrorStreamCaptureInvalidated},
    };
    for (const auto &row : cases) {
        Log log;
        cudaStream_t a = new_stream(), b = new_stream();
        cudaEvent_t event = new_event();
        cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
        cudaGraph_t graph;
        begin(a);
        assert_int_equal(row.act(a, b, event, log), row.expected);
        (void)cudaGetLastError();
        CUDA_CHECK(cudaStreamIsCapturing(a, &capture), "test");
        if (capture != cudaStreamCaptureStatusNone && cudaStreamEndCapture(a, &graph) == cudaSuccess)
            CUDA_CHECK(cudaGraphDestroy(graph), "test");
        (void)cudaGetLastError();
        drop(event);
        drop(a);
        drop(b);
    }
}

__global__ void descend(float *weight, float rate) {
    weight[0] -= rate;
}
__global__ void descend_by_state(float *weight, const float *rate) {
    weight[0] -= rate[0];
}

/* Two steps of a captured graph, the learning rate 1 in the first and 2 in the second; the weight after them. */
float weight_after_two_replays(bool baked_in) {
    Device<float> weight(std::vector<float>(1, 10)), rate(1);
    cudaStream_t stream = new_stream();
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    float now = 1;
    CUDA_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "test");
    if (baked_in)
        LAUNCH(descend, 1, 1, 0, stream, weight.at, now);
    else
        LAUNCH(descend_by_state, 1, 1, 0, stream, weight.at, rate.at);
    CUDA_CHECK(cudaStreamEndCapture(stream, &graph), "test");
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph), "test");
    CUDA_CHECK(cudaGraphDestroy(graph), "test");
    for (; now <= 2; now++) {
        CUDA_CHECK(cudaMemcpy(rate.at, &now, sizeof now, cudaMemcpyHostToDevice), "test");
        CUDA_CHECK(cudaGraphLaunch(executable, stream), "test");
        sync(stream);
    }
    CUDA_CHECK(cudaGraphExecDestroy(executable), "test");
    drop(stream);
    return weight.host()[0];
}

void a_learning_rate_baked_into_a_graph_shows(void **) {
    assert_true(weight_after_two_replays(false) == 10 - 1 - 2);
    assert_true(weight_after_two_replays(true) == 10 - 1 - 1);
}

/* What a missing wait does: the reader sees what was there before, under some seed; with the wait, under none. */
bool reader_is_ever_early(bool wait) {
    bool early = false;
    for_seeds(20, [&](int) {
        Device<int> value(std::vector<int>(2, 0)), seen(2);
        cudaStream_t writer = new_stream(), reader = new_stream();
        cudaEvent_t event;
        CUDA_CHECK(cudaEventCreate(&event), "test");
        LAUNCH(store, 1, 1, 0, writer, value.at, Pair{1, 1});
        CUDA_CHECK(cudaEventRecord(event, writer), "test");
        if (wait) CUDA_CHECK(cudaStreamWaitEvent(reader, event), "test");
        CUDA_CHECK(cudaMemcpyAsync(seen.at, value.at, 8, cudaMemcpyDeviceToDevice, reader), "test");
        synchronize();
        early |= seen.host()[0] == 0;
        CUDA_CHECK(cudaEventDestroy(event), "test");
        drop(writer);
        drop(reader);
    });
    return early;
}

void a_missing_event_wait_shows_under_some_seed(void **) {
    assert_true(reader_is_ever_early(false));
    assert_false(reader_is_ever_early(true));
}

} // namespace

const struct CMUnitTest stream_tests[] = {
    cmocka_unit_test(arguments_are_frozen_at_the_launch),
    cmocka_unit_test(copies_touch_host_memory_only_at_the_synchronisation),
    cmocka_unit_test(a_stream_keeps_its_order),
    cmocka_unit_test(streams_without_events_run_in_several_orders),
    cmocka_unit_test(a_wait_for_an_event_holds_under_every_seed),
    cmocka_unit_test(a_synchronisation_runs_no_more_than_it_must_without_a_seed),
    cmocka_unit_test(the_default_stream_is_ordered_with_blocking_streams),
    cmocka_unit_test(queries_end_and_events_have_times),
    cmocka_unit_test(a_graph_replays_what_was_captured),
    cmocka_unit_test(branches_of_a_graph_run_in_any_order_that_its_events_leave),
    cmocka_unit_test(external_events_order_graphs_of_two_streams),
    cmocka_unit_test(what_a_capture_cannot_hold_is_the_error_that_cuda_gives),
    cmocka_unit_test(a_learning_rate_baked_into_a_graph_shows),
    cmocka_unit_test(a_missing_event_wait_shows_under_some_seed),
};
const size_t stream_test_count = sizeof stream_tests / sizeof stream_tests[0];
