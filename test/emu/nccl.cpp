/*
 * nccl.cpp: the emulated NCCL over MPI, a library of its own (libnccl.so.2) that kernels/cuda/collective.cu opens like
 * the real one: a program that asks for no collective needs no MPI.
 *
 * A call is work of its stream. At the head of the stream its rank tells all others what it is about to do (Header),
 * and runs when all have said the same. Then every rank sends every other what that one needs, and sums for itself in
 * the order of the ranks: the same bits everywhere, and in every run. bf16 is rounded after each addition, as between
 * two GPUs of NCCL's ring.
 */
#include "nccl.h"

#include <mpi.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cuda_bf16.h"
#include "race.h"
#include "runtime.h"

using namespace emu;

namespace {

enum { TAG_HEADER = 1, TAG_DATA = 2 };
enum Kind { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST };
const char *const KIND_NAMES[] = {"ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast"};

/* What a rank is about to do. */
struct Header {
    Kind kind;
    ncclDataType_t type;
    int root;
    uint64_t count; /* NCCL's argument */

    bool operator==(const Header &other) const {
        return kind == other.kind && type == other.type && root == other.root && count == other.count;
    }
    size_t element_bytes() const { return type == ncclFloat64 ? 8 : type == ncclFloat32 ? 4 : 2; }
    size_t bytes() const { return count * element_bytes(); }
    std::string text() const {
        const char *type_name = type == ncclFloat64   ? "ncclFloat64"
                                : type == ncclFloat32 ? "ncclFloat32"
                                                      : "ncclBfloat16";
        std::string from = kind == BROADCAST ? " from rank " + std::to_string(root) : "";
        return std::string(KIND_NAMES[kind]) + " of " + std::to_string(count) + " " + type_name + from;
    }
};

struct Call {
    Header header;
    const char *send;
    char *receive;
};

/* The seconds since it was made. */
struct Stopwatch {
    std::chrono::steady_clock::time_point begun = std::chrono::steady_clock::now();
    double seconds() const {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    }
    bool is_late() const {
        static const char *text = getenv("EMU_NCCL_TIMEOUT");
        return seconds() > (text ? strtod(text, nullptr) : 60);
    }
};

bool is_gone(pid_t process) {
    return kill(process, 0) != 0 && errno == ESRCH;
}

/* Whether all of the requests are done. */
bool are_done(std::vector<MPI_Request> &requests, const Stopwatch &since, const char *what) {
    int done = 0;
    MPI_Testall((int)requests.size(), requests.data(), &done, MPI_STATUSES_IGNORE);
    if (!done && since.is_late()) fault("%s: another rank stopped in the middle of it", what);
    return done;
}

/* A communicator's ranks. Calls that are queued or captured hold on to it. */
class Group {
  public:
    const int rank, ranks;
    std::vector<pid_t> processes; /* by rank */

    Group(int rank, int ranks)
        : rank(rank), ranks(ranks), theirs((size_t)ranks), requests(2 * (size_t)ranks) {}
    bool meet(uint64_t number, const Call &call);
    void run(const Call &call) const;
    /* The first rank whose process is gone, or −1. */
    int find_gone() const;

  private:
    bool waiting = false; /* a header is out */
    bool agreed = false;  /* and all ranks' are the same: data are out as well */
    bool called = false;  /* ever */
    uint64_t queued_as;   /* the latest call's place in the order of queueing */
    Header mine;          /* its header */
    std::vector<Header> theirs;
    std::vector<MPI_Request> requests; /* receiving from each rank, then sending to each */
    std::vector<std::vector<char>> parts; /* of each rank, for the call that all have agreed on */
    Stopwatch since;

    void exchange(const Call &call);
    void call_out(uint64_t number, const Header &header);
    bool hears_from(int other);
};

/* ---- the ranks agree on what comes next ------------------------------------------------------------------ */

void Group::call_out(uint64_t number, const Header &header) {
    if (called && number < queued_as)
        fault("%s was queued before %s of the same communicator and runs after it: nothing orders their "
              "streams",
              header.text().c_str(), mine.text().c_str());
    called = waiting = true;
    queued_as = number;
    mine = header;
    since = Stopwatch();
    requests.assign(2 * (size_t)ranks, MPI_REQUEST_NULL);
    for (int other = 0; other < ranks; other++) {
        if (other == rank) continue;
        MPI_Irecv(&theirs[(size_t)other], sizeof mine, MPI_BYTE, other, TAG_HEADER, MPI_COMM_WORLD,
                  &requests[(size_t)other]);
        MPI_Isend(&mine, sizeof mine, MPI_BYTE, other, TAG_HEADER, MPI_COMM_WORLD,
                  &requests[(size_t)(ranks + other)]);
    }
}

bool Group::hears_from(int other) {
    int arrived = 0;
    MPI_Test(&requests[(size_t)other], &arrived, MPI_STATUS_IGNORE);
    const Header &its = theirs[(size_t)other];
    if (arrived && !(its == mine))
        fault("%s on rank %d meets %s on rank %d", mine.text().c_str(), rank, its.text().c_str(), other);
    if (!arrived && since.is_late())
        fault("%s on rank %d: rank %d %s within %.0f s", mine.text().c_str(), rank, other,
              is_gone(processes[(size_t)other]) ? "is gone; it did not come" : "did not come",
              since.seconds());
    return arrived;
}

/* True once all ranks do the same and have sent what it takes; asked again until then, and after it where another stream goes
 * first. It never waits: a rank may stop in the middle of it, and it is the host's to find that. */
bool Group::meet(uint64_t number, const Call &call) {
    const Header &header = call.header;
    if (called && !waiting && number == queued_as) return true;
    if (waiting && number != queued_as)
        fault("%s and %s of one communicator are both next in their streams: nothing orders these",
              mine.text().c_str(), header.text().c_str());
    if (!waiting) call_out(number, header);
    for (int other = 0; other < ranks && !agreed; other++)
        if (other != rank && !hears_from(other)) return false;
    if (!agreed) exchange(call);
    if (ranks > 1 && !are_done(requests, since, KIND_NAMES[header.kind])) return false;
    waiting = agreed = false;
    return true;
}

int Group::find_gone() const {
    for (int other = 0; other < ranks && ranks > 1; other++)
        if (other != rank && is_gone(processes[(size_t)other])) return other;
    return -1;
}

/* ---- what they then do ------------------------------------------------------------------------------------ */

template <typename T> bool is_poison(const T &value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    return word == POISON;
}
template <> bool is_poison(const __nv_bfloat16 &value) {
    return value.__x == POISON_BF16;
}

float add(float a, float b) {
    return a + b;
}
double add(double a, double b) {
    return a + b;
}
__nv_bfloat16 add(__nv_bfloat16 a, __nv_bfloat16 b) {
    return __float2bfloat16(__bfloat162float(a) + __bfloat162float(b));
}

/* What a rank gives to a sum must have been written. */
template <typename T> void require_written(const Header &header, const char *at, size_t elements) {
    for (size_t i = 0; i < elements; i++)
        if (is_poison(reinterpret_cast<const T *>(at)[i]))
            fault("%s: element %zu was never written", header.text().c_str(), i);
}

template <typename T>
void sum_in_order(const std::vector<std::vector<char>> &parts, char *receive, size_t count) {
    T *out = reinterpret_cast<T *>(receive);
    for (size_t i = 0; i < count; i++) {
        T sum = reinterpret_cast<const T *>(parts[0].data())[i];
        for (size_t r = 1; r < parts.size(); r++)
            sum = add(sum, reinterpret_cast<const T *>(parts[r].data())[i]);
        out[i] = sum;
    }
}

template <typename Function> void with_type(ncclDataType_t type, Function function) {
    if (type == ncclFloat32) function(float());
    if (type == ncclFloat64) function(double());
    if (type == ncclBfloat16) function(__nv_bfloat16());
}

size_t send_pieces(const Header &header, int ranks) {
    return header.kind == REDUCE_SCATTER ? (size_t)ranks : 1;
}
size_t receive_pieces(const Header &header, int ranks) {
    return header.kind == ALL_GATHER ? (size_t)ranks : 1;
}
bool sends(const Header &header, int rank) {
    return header.kind != BROADCAST || rank == header.root;
}

void Group::exchange(const Call &call) {
    const Header &header = call.header;
    const size_t bytes = header.bytes();
    if (bytes > INT_MAX) fault("%s: the emulation sends less than 2 GiB to a rank", header.text().c_str());
    agreed = true;
    parts.assign((size_t)ranks, std::vector<char>());
    for (int other = 0; other < ranks; other++) {
        const char *part = call.send + (header.kind == REDUCE_SCATTER ? (size_t)other * bytes : 0);
        if (sends(header, other)) parts[(size_t)other].resize(bytes);
        if (other == rank && sends(header, rank)) memcpy(parts[(size_t)rank].data(), part, bytes);
        if (other == rank) continue;
        requests.resize(4 * (size_t)ranks, MPI_REQUEST_NULL);
        if (sends(header, other))
            MPI_Irecv(parts[(size_t)other].data(), (int)bytes, MPI_BYTE, other, TAG_DATA, MPI_COMM_WORLD,
                      &requests[(size_t)(2 * ranks + other)]);
        if (sends(header, rank))
            MPI_Isend(part, (int)bytes, MPI_BYTE, other, TAG_DATA, MPI_COMM_WORLD,
                      &requests[(size_t)(3 * ranks + other)]);
    }
}

void Group::run(const Call &call) const {
    const Header &header = call.header;
    const size_t bytes = header.bytes();
    const bool sum = header.kind == ALL_REDUCE || header.kind == REDUCE_SCATTER;
    if (sends(header, rank))
        race::touch(call.send, bytes * send_pieces(header, ranks), false, nullptr, nullptr);
    race::touch(call.receive, bytes * receive_pieces(header, ranks), true, nullptr, nullptr);
    if (sum)
        with_type(header.type, [&](auto zero) {
            require_written<decltype(zero)>(header, call.send, header.count * send_pieces(header, ranks));
        });
    if (sum)
        with_type(header.type,
                  [&](auto zero) { sum_in_order<decltype(zero)>(parts, call.receive, header.count); });
    for (int from = 0; from < ranks && !sum; from++)
        if (sends(header, from))
            memcpy(call.receive + (header.kind == ALL_GATHER ? (size_t)from * bytes : 0),
                   parts[(size_t)from].data(), bytes);
}

} // namespace

/* ---- where ranks meet that know an address ------------------------------------------------------------------- */

namespace {

/* NCCL_COMM_ID at NCCL's first call; what comes later NCCL may or may not see. */
std::string address_at_first_call() {
    static const std::string first = getenv("NCCL_COMM_ID") ? getenv("NCCL_COMM_ID") : "";
    const char *now = getenv("NCCL_COMM_ID");
    if (first != (now ? now : ""))
        fault("NCCL_COMM_ID was \"%s\" at NCCL's first call and is \"%s\" now", first.c_str(), now ? now : "");
    return first;
}

/* The resolved HOST:PORT or [HOST]:PORT; the caller frees. NULL: it is none. */
addrinfo *resolve(const std::string &address) {
    const size_t colon = address.rfind(':');
    if (colon == std::string::npos || colon == 0) return nullptr;
    std::string host = address.substr(0, colon), port = address.substr(colon + 1);
    if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
    addrinfo hints = {}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV;
    return getaddrinfo(host.c_str(), port.c_str(), &hints, &found) ? nullptr : found;
}

/* Rank 0: listens until all others have come. Returns what went wrong, or "". */
std::string listen_for(int others, const addrinfo *at, const std::atomic<bool> &aborted) {
    const int on = 1, door = socket(at->ai_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (door < 0 || bind(door, at->ai_addr, at->ai_addrlen) || listen(door, 4096))
        return std::string("listening: ") + strerror(errno);
    while (others && !aborted) {
        const int guest = accept(door, nullptr, nullptr);
        if (guest < 0) usleep(1000);
        if (guest >= 0) close(guest), others--;
    }
    close(door);
    return "";
}

/* Any other rank: until rank 0 listens. */
void come_to(const addrinfo *at, const std::atomic<bool> &aborted) {
    while (!aborted) {
        const int door = socket(at->ai_family, SOCK_STREAM, 0);
        const bool open = connect(door, at->ai_addr, at->ai_addrlen) == 0;
        close(door);
        if (open) return;
        usleep(1000);
    }
}

} // namespace

/* ---- communicators ------------------------------------------------------------------------------------------ */

struct ncclComm {
    std::shared_ptr<Group> group;
    bool blocks = true;
    std::thread opening; /* of one that does not block; it alone uses MPI then */
    std::atomic<int> opened{ncclInProgress};
    std::atomic<bool> aborted{false};
    bool busy = false; /* one that does not block is at something: the next question is answered so */
    bool finalized = false;
};

namespace {

const char ID_BEGIN[] = "emulated NCCL: ", ADDRESS_BEGIN[] = "emulated NCCL: address ";
std::string last_error;
std::set<std::string> used_ids;
int open_communicators;
bool mpi_is_ours;

ncclResult_t refuse(ncclResult_t result, const std::string &why) {
    last_error = why;
    return result;
}

/* MPI_Finalize waits for all ranks: not where a communicator was left open, since one may be gone. */
void end_mpi() {
    if (mpi_is_ours && !open_communicators) MPI_Finalize();
}

void begin_mpi() {
    int there = 0, level = 0;
    MPI_Initialized(&there);
    if (there) return;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
    mpi_is_ours = true;
    atexit(end_mpi);
}

/* What each rank says of itself when a communicator is made. */
struct Introduction {
    ncclUniqueId id;
    int rank, ranks;
    pid_t process;
};

/* Waits until all ranks have introduced themselves. */
ncclResult_t introduce(Group &group, const ncclUniqueId &id, bool blocks, const std::atomic<bool> &aborted) {
    begin_mpi();
    int rank = 0, ranks = 0, done = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != group.ranks || rank != group.rank)
        return refuse(ncclInvalidUsage,
                      "MPI calls this rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    Introduction mine = {id, group.rank, group.ranks, getpid()};
    std::vector<Introduction> all((size_t)ranks);
    MPI_Request request;
    MPI_Iallgather(&mine, sizeof mine, MPI_BYTE, all.data(), sizeof mine, MPI_BYTE, MPI_COMM_WORLD, &request);
    for (Stopwatch watch; !done; sched_yield()) {
        MPI_Test(&request, &done, MPI_STATUS_IGNORE);
        if (!done && blocks && watch.is_late())
            fault("ncclCommInitRank on rank %d: not all of %d ranks came", rank, ranks);
        if (aborted) return refuse(ncclSystemError, "aborted");
    }
    for (const Introduction &other : all) {
        if (memcmp(&other.id, &id, sizeof id))
            fault("ncclCommInitRank: ranks %d and %d have different unique ids", rank, other.rank);
        group.processes.push_back(other.process);
    }
    return ncclSuccess;
}

/* What NCCL does when a communicator opens, in the background where that does not block. */
ncclResult_t meet_others(Group &group, const ncclUniqueId &id, bool blocks, const std::atomic<bool> &aborted) {
    if (!strncmp(id.internal, ADDRESS_BEGIN, sizeof ADDRESS_BEGIN - 1)) {
        addrinfo *at = resolve(id.internal + sizeof ADDRESS_BEGIN - 1);
        if (!at) return refuse(ncclInvalidArgument, "NCCL_COMM_ID does not resolve");
        std::string wrong;
        if (group.rank == 0)
            wrong = listen_for(group.ranks - 1, at, aborted);
        else
            come_to(at, aborted);
        freeaddrinfo(at);
        if (aborted) return refuse(ncclSystemError, "aborted");
        if (!wrong.empty()) return refuse(ncclSystemError, wrong);
    }
    return group.ranks > 1 ? introduce(group, id, blocks, aborted) : ncclSuccess;
}

/* One that is at something takes no other call. */
void require_idle(const ncclComm *comm, const char *call) {
    if (comm->opened == ncclInProgress || comm->busy)
        fault("%s: the communicator is still at what it was asked before: ncclCommGetAsyncError says when it is done", call);
}

/* A call to a communicator that does not block returns at once; it is done when the next question has been asked. */
ncclResult_t done_in_background(ncclComm *comm) {
    comm->busy = !comm->blocks;
    return comm->blocks ? ncclSuccess : ncclInProgress;
}

/* In place as NCCL has it, or apart. */
void check_overlap(const Call &call, const Group &group, const std::string &name) {
    const Header &header = call.header;
    const size_t bytes = header.bytes();
    const char *send_end = call.send + bytes * send_pieces(header, group.ranks);
    const char *receive_end = call.receive + bytes * receive_pieces(header, group.ranks);
    const size_t own = (size_t)group.rank * bytes;
    const char *in_place = header.kind == ALL_GATHER ? call.receive + own : call.receive;
    const char *from = header.kind == REDUCE_SCATTER ? call.send + own : call.send;
    if (from != in_place && call.send < receive_end && call.receive < send_end)
        fault("%s: the ranges overlap, but not as NCCL's in-place form", name.c_str());
}

ncclResult_t enqueue(const Call &call, ncclComm_t comm, ncclRedOp_t reduction, cudaStream_t stream) {
    Lock lock;
    const Header &header = call.header;
    if (!comm) return refuse(ncclInvalidArgument, "the communicator is NULL");
    if (header.type != ncclFloat32 && header.type != ncclFloat64 && header.type != ncclBfloat16)
        return refuse(ncclInvalidArgument, "data type " + std::to_string((int)header.type));
    if (reduction != ncclSum)
        return refuse(ncclInvalidArgument, "reduction " + std::to_string((int)reduction));
    require_idle(comm, KIND_NAMES[header.kind]);
    Group &group = *comm->group;
    if (header.root < 0 || header.root >= group.ranks)
        return refuse(ncclInvalidArgument, "root " + std::to_string(header.root));
    const std::string name = header.text();
    if (header.count) {
        if (sends(header, group.rank)) {
            require_device_range(call.send, header.bytes() * send_pieces(header, group.ranks), name.c_str());
            require_aligned(call.send, header.element_bytes(), name.c_str());
            check_overlap(call, group, name);
        }
        require_device_range(call.receive, header.bytes() * receive_pieces(header, group.ranks),
                             name.c_str());
        require_aligned(call.receive, header.element_bytes(), name.c_str());
    }
    std::shared_ptr<Group> held = comm->group;
    queue_work(
        KIND_NAMES[header.kind], stream, [held, call] { held->run(call); },
        [held, call](uint64_t number) { return held->meet(number, call); });
    return done_in_background(comm);
}

} // namespace

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int made;
    if (!id) return refuse(ncclInvalidArgument, "the id is NULL");
    const std::string address = address_at_first_call();
    memset(id, 0, sizeof *id);
    if (!address.empty()) {
        addrinfo *at = resolve(address);
        if (!at) return refuse(ncclInvalidArgument, "NCCL_COMM_ID " + address + " is no <host>:<port>");
        freeaddrinfo(at);
        snprintf(id->internal, sizeof id->internal, "%s%s", ADDRESS_BEGIN, address.c_str());
        return ncclSuccess;
    }
    snprintf(id->internal, sizeof id->internal, "%sprocess %d, %lld, %d", ID_BEGIN, (int)getpid(),
             (long long)std::chrono::system_clock::now().time_since_epoch().count(), made++);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    address_at_first_call();
    if (!comm || ranks < 1 || rank < 0 || rank >= ranks)
        return refuse(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    if (memcmp(id.internal, ID_BEGIN, sizeof ID_BEGIN - 1))
        return refuse(ncclInvalidArgument, "the unique id is not from ncclGetUniqueId");
    const bool of_address = !strncmp(id.internal, ADDRESS_BEGIN, sizeof ADDRESS_BEGIN - 1);
    if (!used_ids.insert(id.internal).second && !of_address)
        fault("ncclCommInitRank: a second communicator with one unique id");
    ncclComm_t made = new ncclComm;
    made->group = std::make_shared<Group>(rank, ranks);
    made->blocks = !config || config->blocking != 0;
    open_communicators++;
    *comm = made;
    const auto open = [made, id] {
        made->opened = meet_others(*made->group, id, made->blocks, made->aborted);
    };
    if (!made->blocks) {
        made->opening = std::thread(open);
        return ncclInProgress;
    }
    open();
    const ncclResult_t result = (ncclResult_t)made->opened.load();
    if (result == ncclSuccess) return result;
    *comm = nullptr;
    ncclCommAbort(made);
    return result;
}

ncclResult_t ncclCommInitRank(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank) {
    return ncclCommInitRankConfig(comm, ranks, id, rank, nullptr);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    Lock lock;
    if (!comm) return refuse(ncclInvalidArgument, "the communicator is NULL");
    require_idle(comm, "ncclCommFinalize");
    if (comm->group.use_count() > 1)
        fault("%s: a stream or a graph still holds a call of this communicator: NCCL would wait without end",
              "ncclCommFinalize");
    comm->finalized = true;
    return done_in_background(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) return refuse(ncclInvalidArgument, "the communicator is NULL");
    require_idle(comm, "ncclCommDestroy");
    if (!comm->finalized && ncclCommFinalize(comm) > ncclInProgress) return ncclInternalError;
    return ncclCommAbort(comm);
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    comm->aborted = true;
    if (comm->opening.joinable()) comm->opening.join();
    delete comm;
    open_communicators--;
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm || !error) return refuse(ncclInvalidArgument, "an argument is NULL");
    *error = (ncclResult_t)comm->opened.load();
    if (*error != ncclSuccess) return ncclSuccess;
    if (comm->opening.joinable()) comm->opening.join();
    if (comm->busy) {
        comm->busy = false;
        *error = ncclInProgress;
        return ncclSuccess;
    }
    int gone = comm->group->find_gone();
    if (gone >= 0) *error = refuse(ncclRemoteError, "the process of rank " + std::to_string(gone) + " is gone");
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    const char *const texts[] = {"no error",
                                 "unhandled cuda error",
                                 "unhandled system error",
                                 "internal error",
                                 "invalid argument",
                                 "invalid usage",
                                 "remote process exited or there was a network error",
                                 "NCCL operation in progress"};
    return result >= ncclSuccess && result <= ncclInProgress ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t) {
    return last_error.c_str();
}

/* ---- the collectives ------------------------------------------------------------------------------------------ */

namespace {
Call call_of(Kind kind, const void *send, void *receive, size_t count, ncclDataType_t type, int root = 0) {
    return {{kind, type, root, count}, static_cast<const char *>(send), static_cast<char *>(receive)};
}
} // namespace

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t sum, ncclComm_t comm, cudaStream_t stream) {
    return enqueue(call_of(ALL_REDUCE, send, receive, count, type), comm, sum, stream);
}

ncclResult_t ncclReduceScatter(const void *send, void *receive, size_t count, ncclDataType_t type,
                               ncclRedOp_t sum, ncclComm_t comm, cudaStream_t stream) {
    return enqueue(call_of(REDUCE_SCATTER, send, receive, count, type), comm, sum, stream);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
    return enqueue(call_of(ALL_GATHER, send, receive, count, type), comm, ncclSum, stream);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return enqueue(call_of(BROADCAST, send, receive, count, type, root), comm, ncclSum, stream);
}
