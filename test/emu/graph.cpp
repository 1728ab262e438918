/*
 * graph.cpp: captures, and the graphs that come of them.
 *
 * A stream joins a capture by waiting for an event that was recorded in it. A graph keeps the order of each of its streams
 * and what its events order, and nothing else: a launch puts the first stream's part into the stream that it is launched
 * in, the others' into branches, streams of the graph's own, which run as late and in as many orders as any stream.
 *
 * External events are of no capture. They are recorded, and looked up, when the graph is launched.
 */
#include "stream.h"

#include <algorithm>
#include <map>

struct CUgraphExec_st {
    std::vector<Captured> operations;
    size_t points;
    std::vector<CUstream_st *> branches; /* of the capture's streams but the first */
};

namespace emu {

int captures;

namespace {

uint64_t captures_begun;
std::map<uint64_t, CUgraph_st *> under_way;

/* An error that leaves nothing of the capture. */
cudaError_t break_capture(CUgraph_st *graph, cudaError_t error) {
    graph->broken = true;
    return raise(error);
}

size_t member_of(const CUgraph_st *graph, const CUstream_st *stream) {
    return (size_t)(std::find(graph->streams.begin(), graph->streams.end(), stream) - graph->streams.begin());
}

size_t reached(const Reach &reach, size_t member) {
    return member < reach.size() ? reach[member] : 0;
}

void merge(Reach &into, const Reach &from) {
    into.resize(std::max(into.size(), from.size()));
    for (size_t i = 0; i < from.size(); i++) into[i] = std::max(into[i], from[i]);
}

/* Waits and records that order streams of the capture are edges of the graph; all else are nodes. */
void add(CUstream_st *stream, Captured captured) {
    CUgraph_st *graph = stream->capture;
    captured.member = member_of(graph, stream);
    Reach &reach = graph->reach[captured.member];
    reach.resize(std::max(reach.size(), captured.member + 1));
    if (captured.kind != Captured::RECORD && captured.kind != Captured::WAIT) reach[captured.member]++;
    graph->operations.push_back(std::move(captured));
}

Operation named(const char *name) {
    return {0, name, nullptr, nullptr, {}, nullptr};
}

void join_capture(CUstream_st *stream, CUgraph_st *graph) {
    stream->capture = graph;
    graph->streams.push_back(stream);
    graph->reach.push_back({});
}

/* Whether the first stream has waited for all that was put into the others. */
bool is_joined(const CUgraph_st *graph) {
    for (size_t i = 1; i < graph->streams.size(); i++)
        if (reached(graph->reach[0], i) < reached(graph->reach[i], i)) return false;
    return true;
}

} // namespace

void capture_work(CUstream_st *stream, Operation operation) {
    add(stream, {std::move(operation), 0, Captured::WORK, 0, nullptr});
}

cudaError_t capture_record(CUstream_st *stream, cudaEvent_t event, bool external) {
    CUgraph_st *graph = stream->capture;
    if (external) {
        if (event->captured_in) return break_capture(graph, cudaErrorStreamCaptureIsolation);
        add(stream, {named("cudaEventRecord"), 0, Captured::RECORD_EXTERNAL, 0, event});
        return cudaSuccess;
    }
    event->captured_in = graph->capture;
    event->point = graph->points.size();
    add(stream, {named("cudaEventRecord"), 0, Captured::RECORD, event->point, nullptr});
    graph->points.push_back(graph->reach[member_of(graph, stream)]);
    return cudaSuccess;
}

cudaError_t capture_wait(CUstream_st *stream, cudaEvent_t event, bool external) {
    if (external) {
        if (event->captured_in) return break_capture(stream->capture, cudaErrorStreamCaptureIsolation);
        add(stream, {named("cudaStreamWaitEvent"), 0, Captured::WAIT_EXTERNAL, 0, event});
        return cudaSuccess;
    }
    if (!event->captured_in) return break_capture(stream->capture, cudaErrorStreamCaptureIsolation);
    const auto of = under_way.find(event->captured_in);
    if (of == under_way.end())
        return stream->capture ? break_capture(stream->capture, cudaErrorStreamCaptureIsolation) : raise(cudaErrorCapturedEvent);
    CUgraph_st *graph = of->second;
    if (stream->capture && stream->capture != graph) {
        graph->broken = true;
        return break_capture(stream->capture, cudaErrorStreamCaptureMerge);
    }
    if (!stream->capture) join_capture(stream, graph);
    add(stream, {named("cudaStreamWaitEvent"), 0, Captured::WAIT, event->point, nullptr});
    merge(graph->reach[member_of(graph, stream)], graph->points[event->point]);
    return cudaSuccess;
}

} // namespace emu

using namespace emu;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    Lock lock;
    if (!stream) return raise(cudaErrorStreamCaptureUnsupported);
    CUstream_st *target = resolve(stream);
    if (target->capture) return raise(cudaErrorIllegalState);
    CUgraph_st *graph = new CUgraph_st;
    graph->capture = ++captures_begun;
    under_way[graph->capture] = graph;
    join_capture(target, graph);
    captures++;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    Lock lock;
    CUstream_st *target = resolve(stream);
    if (!target->capture || target->capture->streams[0] != target) return raise(cudaErrorStreamCaptureUnmatched);
    CUgraph_st *made = target->capture;
    const bool broken = made->broken, joined = is_joined(made);
    for (CUstream_st *member : made->streams) member->capture = nullptr;
    under_way.erase(made->capture);
    captures--;
    *graph = broken || !joined ? nullptr : made;
    if (!*graph) delete made;
    return broken ? raise(cudaErrorStreamCaptureInvalidated) : joined ? cudaSuccess : raise(cudaErrorStreamCaptureUnjoined);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus *status) {
    Lock lock;
    const CUgraph_st *graph = resolve(stream)->capture;
    *status = !graph          ? cudaStreamCaptureStatusNone
              : graph->broken ? cudaStreamCaptureStatusInvalidated
                              : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long) {
    Lock lock;
    *executable = new CUgraphExec_st{graph->operations, graph->points.size(), {}};
    for (size_t i = 1; i < graph->streams.size(); i++) {
        CUstream_st *branch = new CUstream_st;
        branch->blocking = false; /* it begins behind a fork and ends before a join */
        (*executable)->branches.push_back(branch);
        streams.push_back(branch);
    }
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    Lock lock;
    require_no_error("cudaGraphLaunch");
    CUstream_st *first = resolve(stream);
    if (first->capture) fault("cudaGraphLaunch into a stream that is being captured: not emulated");
    std::vector<std::shared_ptr<Record>> made(executable->points); /* by this launch */
    for (const Captured &captured : executable->operations) {
        CUstream_st *where = captured.member ? executable->branches[captured.member - 1] : first;
        Operation operation = captured.operation;
        switch (captured.kind) {
        case Captured::WORK: break;
        case Captured::WAIT: operation.wait = made[captured.point]; break;
        case Captured::WAIT_EXTERNAL: operation.wait = captured.event->record; break;
        case Captured::RECORD: operation = recording(made[captured.point], where); break;
        case Captured::RECORD_EXTERNAL: operation = recording(captured.event->record, where); break;
        }
        append(where, std::move(operation));
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    Lock lock;
    for (CUstream_st *branch : executable->branches) {
        if (!branch->queue.empty()) fault("cudaGraphExecDestroy of a graph that is still at work");
        streams.erase(std::find(streams.begin(), streams.end(), branch));
        delete branch;
    }
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
