/*
 * stream.h: what stream.cpp, which runs queued work, and graph.cpp, which captures it, share.
 */
#ifndef EMU_STREAM_H
#define EMU_STREAM_H

#include "race.h"
#include "runtime.h"

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

/* One record of an event: done once the operation that records it has run. */
struct Record {
    bool done = false;
    CUstream_st *stream = nullptr;
    std::chrono::steady_clock::time_point when;
    emu::race::Clock clock; /* what is before it */
};

struct CUevent_st {
    std::shared_ptr<Record> record; /* the latest that no capture kept; null before the first */
    uint64_t captured_in = 0;       /* the capture that it was last recorded in; 0: none, or as an external event */
    size_t point = 0;               /* which of that capture's */
    bool timing = true;
};

struct Operation {
    uint64_t number; /* in the order of queueing */
    std::string name;
    std::function<void()> run; /* empty for a wait */
    std::shared_ptr<Record> wait;
    emu::race::Clock queued; /* what the host knew to be done */
    std::function<bool(uint64_t number)> ready; /* empty for always */
};

/* An operation of a graph, and what each launch makes anew: the points in the graph that it records or waits for, or the
   external events. */
struct Captured {
    Operation operation;
    size_t member; /* which of the capture's streams it is in */
    enum { WORK, RECORD, WAIT, RECORD_EXTERNAL, WAIT_EXTERNAL } kind;
    size_t point;
    cudaEvent_t event;
};

/* How many nodes of each stream of a capture are before a point. */
typedef std::vector<size_t> Reach;

struct CUgraph_st {
    uint64_t capture;
    std::vector<Captured> operations;
    std::vector<CUstream_st *> streams; /* the first is the one whose capture it is */
    std::vector<Reach> reach;           /* of each of them */
    std::vector<Reach> points;          /* recorded by internal events */
    bool broken = false;                /* by an error: nothing will come of it */
};

struct CUstream_st {
    std::deque<Operation> queue;
    bool blocking = true; /* ordered with the legacy default stream */
    CUgraph_st *capture = nullptr;
    emu::race::Timeline timeline;
};

namespace emu {

extern std::vector<CUstream_st *> streams; /* all; a graph's branches as well */
extern int captures;                       /* under way */

CUstream_st *resolve(cudaStream_t stream); /* a fault where there is no such stream */

/* Puts it at the end of the stream, or into the stream's capture. */
void append(CUstream_st *stream, Operation operation);

/* An operation of the stream that makes a record of its own, which what waits for it is given. */
Operation recording(std::shared_ptr<Record> &record, CUstream_st *stream);

/* What a stream that is captured does in place of queueing. */
void capture_work(CUstream_st *stream, Operation operation);
cudaError_t capture_record(CUstream_st *stream, cudaEvent_t event, bool external);
/* The same of a wait; also for a stream that is not captured, where the event is a capture's. */
cudaError_t capture_wait(CUstream_st *stream, cudaEvent_t event, bool external);

} // namespace emu

#endif
