/*
 * race.cpp: which two accesses to memory are unordered (race.h has the rules). Compiled only with -DEMU_RACE.
 *
 * All of device, pinned and shared memory lies in one range of addresses; behind it lies a cell for every two
 * bytes. A cell knows its last write and the reads since: by which operation, block and thread, after how
 * many barriers of the block and of the warp, and from which instruction. That is enough to decide every
 * access exactly, whatever the number of threads: fibers run one at a time, so a later access is compared
 * with all that was unordered before. Two approximations: reads of more than two unordered streams (the third
 * replaces the second); reads by several lanes of one warp that partial masks have synchronised at different
 * times (may be called a race though they are not; kernels here use full masks).
 */
#include "race.h"
#include "runtime.h"

#ifdef EMU_RACE

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <map>
#include <set>
#include <string>

#include "race_cell.h"

namespace emu {
namespace race {

namespace {

const size_t ARENA_BYTES = (size_t)256 << 30, SHARED_BYTES = (size_t)64 << 20, PAGE = 4096;
const size_t GRANULE = 2;

char *arena;
Cell *cells;
size_t arena_used = SHARED_BYTES, shared_used;
std::map<size_t, std::vector<void *>> freed; /* by size */

struct Work { /* an operation of a stream; [0] is nothing, and the host gets one for each time it queues
                 something */
    uint32_t stream, number;
    const char *name;
};
std::vector<Work> works(1);
std::vector<uint64_t> run_block(1); /* the block of each run, in linear order */
Clock host_clock(1, 1);
uint32_t timelines = 1;
uint32_t host_work; /* the host's entry in works for its present time; 0: none yet */

thread_local const Clock *now_clock = nullptr; /* of the operation that this thread of the host runs */
uint32_t now_work, now_run;
uint32_t epoch, warp_time[MAX_THREADS / WARP];
uint32_t known[MAX_THREADS / WARP][WARP]
              [WARP]; /* [warp][lane][other]: other's past up to that time of the warp */

void map_arena() {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, access = PROT_READ | PROT_WRITE;
    void *memory = mmap(nullptr, ARENA_BYTES, access, flags, -1, 0);
    void *behind = mmap(nullptr, ARENA_BYTES / GRANULE * sizeof(Cell), access, flags, -1, 0);
    if (memory == MAP_FAILED || behind == MAP_FAILED) fault("no address space for the race checker");
    arena = static_cast<char *>(memory);
    cells = static_cast<Cell *>(behind);
}

size_t rounded_up(size_t bytes) { /* with a gap behind */
    return (bytes / PAGE + 1) * PAGE;
}

bool in_shared(const void *memory) {
    return (size_t)(static_cast<const char *>(memory) - arena) < SHARED_BYTES;
}

const char *interned(const char *name) {
    static std::set<std::string> names;
    return names.insert(name).first->c_str();
}

uint32_t at(const Clock &clock, uint32_t stream) {
    return stream < clock.size() ? clock[stream] : 0;
}

Stamp stamp_of(const Thread *thread, const void *code) {
    Stamp stamp = {};
    stamp.code = code_offset(code);
    if (!now_clock) {
        if (!host_work) {
            works.push_back({0, host_clock[0], "the host"});
            host_work = (uint32_t)works.size() - 1;
        }
        stamp.work = host_work;
        stamp.thread = NO_THREAD;
        return stamp;
    }
    stamp.work = now_work;
    stamp.run = now_run;
    stamp.thread = thread ? thread->linear : NO_THREAD;
    stamp.epoch = thread ? epoch : 0;
    stamp.time = thread ? warp_time[thread->warp] : 0;
    return stamp;
}

bool known_to(const Stamp &now, uint32_t lane, uint32_t time) {
    return known[now.thread / WARP][now.thread % WARP][lane] >= time;
}

bool work_done(const Stamp &before) {
    const Work &work = works[before.work];
    return at(now_clock ? *now_clock : host_clock, work.stream) >= work.number;
}

/* Whether an access is before the present one. */
bool ordered(const Stamp &before, const Stamp &now, bool shared) {
    if (!before.work) return true;
    if (shared && before.run != now.run) return true; /* another block's, or another kernel's: other memory */
    if (before.work != now.work) return work_done(before);
    if (before.run != now.run) return false;
    if (before.thread == now.thread || before.epoch != now.epoch) return true;
    return before.thread / WARP == now.thread / WARP && known_to(now, before.thread % WARP, before.time);
}

/* Whether all reads since the last write are before the present write. */
bool reads_ordered(const Cell &cell, const Stamp &now, bool shared) {
    const Stamp &read = cell.read;
    if (cell.other_read.work && !ordered(cell.other_read, now, shared)) return false;
    if (!read.work || (shared && read.run != now.run)) return true;
    if (read.work != now.work) return work_done(read);
    if (cell.readers == Readers::BLOCKS || read.run != now.run) return false;
    if (read.epoch != now.epoch) return true;
    if (cell.readers == Readers::ONE) return ordered(read, now, shared);
    if (cell.readers == Readers::WARPS || read.thread / WARP != now.thread / WARP) return false;
    for (uint32_t lanes = cell.lanes & ~(1u << now.thread % WARP); lanes; lanes &= lanes - 1)
        if (!known_to(now, (uint32_t)__builtin_ctz(lanes), read.time)) return false;
    return true;
}

void start_reads(Cell &cell, const Stamp &now) {
    cell.read = now;
    cell.readers = Readers::ONE;
    cell.lanes = 1u << now.thread % WARP;
}

void add_read(Cell &cell, const Stamp &now, bool shared) {
    Stamp &read = cell.read;
    if (!read.work || (shared && read.run != now.run)) return start_reads(cell, now);
    if (read.work != now.work) {
        if (cell.other_read.work && work_done(cell.other_read)) cell.other_read = Stamp{};
        if (!work_done(read)) cell.other_read = read;
        return start_reads(cell, now);
    }
    if (cell.readers == Readers::BLOCKS) return;
    if (read.run != now.run) {
        read = now;
        cell.readers = Readers::BLOCKS;
        return;
    }
    if (read.epoch != now.epoch) return start_reads(cell, now);
    if (cell.readers == Readers::ONE && read.thread == now.thread) {
        read = now;
        return;
    }
    if (cell.readers == Readers::WARPS) return;
    if (read.thread / WARP != now.thread / WARP) {
        read = now;
        cell.readers = Readers::WARPS;
        return;
    }
    uint32_t kept = 0;
    for (uint32_t lanes = cell.lanes; lanes; lanes &= lanes - 1) {
        uint32_t lane = (uint32_t)__builtin_ctz(lanes);
        if (!known_to(now, lane, read.time)) kept |= 1u << lane;
    }
    cell.lanes = kept | 1u << now.thread % WARP;
    cell.readers = cell.lanes & (cell.lanes - 1) ? Readers::LANES : Readers::ONE;
    read = now;
}

/* ---- what is said ------------------------------------------------------------------------------------ */

std::string who(const Stamp &stamp, const Stamp &now) {
    char text[200];
    const Work &work = works[stamp.work];
    if (stamp.work != now.work)
        snprintf(text, sizeof text, "%s%s", work.name, work.stream ? " in another stream" : "");
    else if (stamp.run != now.run)
        snprintf(text, sizeof text, "thread %u of block %llu", stamp.thread,
                 (unsigned long long)run_block[stamp.run]);
    else
        snprintf(text, sizeof text, "thread %u", stamp.thread);
    return text;
}

const char *what_is_missing(const Stamp &before, const Stamp &now) {
    if (before.work != now.work)
        return !now_clock || !works[before.work].stream ? "the host waits for nothing between"
                                                        : "no event orders them";
    if (before.run != now.run) return "blocks of one launch are unordered";
    if (before.thread / WARP != now.thread / WARP) return "no __syncthreads between";
    return "no __syncwarp or __syncthreads between";
}

[[noreturn]] void report(const char *memory, const Stamp &now, const char *verb, size_t bytes,
                         const Stamp &before, const char *before_verb, const char *missing) {
    bool shared = in_shared(memory);
    std::string here = code_place(now.code), there = code_place(before.code), other = who(before, now);
    const char *operation = now_clock && !running ? works[now.work].name : "";
    fault("race: %s%s%s %zu bytes of %s memory at %s; %s %s at %s; %s", operation, *operation ? " " : "",
          verb, bytes, shared ? "shared" : "global", here.c_str(), other.c_str(), before_verb, there.c_str(),
          missing);
}

/* ---- one access -------------------------------------------------------------------------------------- */

struct Access {
    const char *memory;
    size_t bytes;
    Kind kind;
    bool shared;
};

const char *const verbs[] = {"reads", "writes", "updates atomically"};
const char *const before_verbs[] = {"read it", "wrote it", "updated it atomically"};

void check_async(const Cell &cell, const Access &access, const Stamp &now) {
    if (!cell.filling || cell.fill.run != now.run) return;
    report(access.memory, now, verbs[(int)access.kind], access.bytes, cell.fill,
           "fills it by cp.async, started", "no cp_async_wait between");
}

void access_cell(Cell &cell, const Access &access, const Stamp &now) {
    bool both_atomic = access.kind == Kind::ATOMIC && cell.atomic;
    check_async(cell, access, now);
    bool many_writers = cell.atomic == Atomic::BLOCKS && cell.write.work == now.work;
    if (!both_atomic && (many_writers || !ordered(cell.write, now, access.shared)))
        report(access.memory, now, verbs[(int)access.kind], access.bytes, cell.write,
               before_verbs[cell.atomic ? 2 : 1], what_is_missing(cell.write, now));
    if (access.kind == Kind::READ) return add_read(cell, now, access.shared);
    if (!reads_ordered(cell, now, access.shared)) {
        bool other = cell.other_read.work && !ordered(cell.other_read, now, access.shared);
        const Stamp &read = other ? cell.other_read : cell.read;
        report(access.memory, now, verbs[(int)access.kind], access.bytes, read, before_verbs[0],
               what_is_missing(read, now));
    }
    Atomic atomic = access.kind != Kind::ATOMIC ? Atomic::NO
                    : both_atomic && (cell.atomic == Atomic::BLOCKS || cell.write.run != now.run)
                        ? Atomic::BLOCKS
                        : Atomic::BLOCK;
    cell = Cell{};
    cell.write = now;
    cell.atomic = atomic;
}

template <typename Function> void for_cells(const void *memory, size_t bytes, Function function) {
    size_t offset = (size_t)(static_cast<const char *>(memory) - arena);
    if (!bytes) return;
    for (size_t i = offset / GRANULE; i <= (offset + bytes - 1) / GRANULE; i++) function(cells[i]);
}

void access_range(const void *memory, size_t bytes, Kind kind, const Thread *by, const void *code) {
    Stamp now = stamp_of(by, code);
    Access self = {static_cast<const char *>(memory), bytes, kind, in_shared(memory)};
    for_cells(memory, bytes, [&](Cell &cell) {
        /* The same again changes nothing. */
        if (kind == Kind::READ && cell.readers == Readers::ONE && !cell.filling && same_place(cell.read, now))
            return;
        if (kind == Kind::WRITE && same_place(cell.write, now) && !cell.read.work && !cell.filling &&
            !cell.atomic)
            return;
        access_cell(cell, self, now);
    });
}

} // namespace

void access(const void *memory, size_t bytes, Kind kind, const Thread *by, const void *code) {
    size_t offset = (size_t)(static_cast<const char *>(memory) - arena);
    if (offset >= ARENA_BYTES || !arena) return;
    if (now_clock) return access_range(memory, bytes, kind, by, code);
    if (in_shared(memory)) return;
    Lock lock; /* the host's threads are one to the checker, but not to its tables */
    access_range(memory, bytes, kind, nullptr, code);
}

void touch(const void *memory, size_t bytes, bool write, const Thread *by, const void *at_code) {
    access(memory, bytes, write ? Kind::WRITE : Kind::READ, by, at_code);
}

void async_begins(const void *shared, size_t bytes, const void *code) {
    access(shared, bytes, Kind::WRITE, current, code);
    Stamp now = stamp_of(current, code);
    for_cells(shared, bytes, [&](Cell &cell) {
        cell.filling = true;
        cell.fill = now;
    });
}

void async_ends(const void *shared, size_t bytes) {
    uint32_t code = 0;
    for_cells(shared, bytes, [&](Cell &cell) {
        cell.filling = false;
        code = cell.fill.code;
    });
    access(shared, bytes, Kind::WRITE, current, code_address(code));
}

/* ---- memory ------------------------------------------------------------------------------------------ */

void *allocate(size_t bytes) {
    if (!arena) map_arena();
    size_t rounded = rounded_up(bytes);
    std::vector<void *> &again = freed[rounded];
    if (!again.empty()) {
        void *memory = again.back();
        again.pop_back();
        return memory;
    }
    if (rounded > ARENA_BYTES - arena_used)
        fault("the race checker's %zu GiB are used up", ARENA_BYTES >> 30);
    void *memory = arena + arena_used;
    arena_used += rounded;
    return memory;
}

/* Whoever gets the addresses next finds no trace of earlier accesses. */
void release(void *memory, size_t bytes) {
    size_t rounded = rounded_up(bytes), offset = (size_t)(static_cast<char *>(memory) - arena);
    freed[rounded].push_back(memory);
    madvise(cells + offset / GRANULE, rounded / GRANULE * sizeof(Cell), MADV_DONTNEED);
}

void *allocate_shared(size_t bytes) {
    if (!arena) map_arena();
    size_t rounded = (bytes + 127) / 128 * 128;
    if (rounded > SHARED_BYTES - shared_used) fault("more than %zu bytes of shared memory", SHARED_BYTES);
    void *memory = arena + shared_used;
    shared_used += rounded;
    return memory;
}

void release_all_shared() {
    shared_used = 0;
}

/* ---- streams ----------------------------------------------------------------------------------------- */

Timeline::Timeline() : number(timelines++) {}

void join(Clock &into, const Clock &from) {
    if (into.size() < from.size()) into.resize(from.size(), 0);
    for (size_t i = 0; i < from.size(); i++)
        if (from[i] > into[i]) into[i] = from[i];
}

/* What the host did up to here is before what it queues now; what it does from here on is not. */
Clock host_now() {
    Clock snapshot = host_clock;
    host_clock[0]++;
    host_work = 0;
    return snapshot;
}

void host_joins(const Clock &clock) {
    uint32_t own = host_clock[0];
    join(host_clock, clock);
    host_clock[0] = own;
}

void operation_begin(const char *name, Timeline &stream, const Clock &queued) {
    join(stream.clock, queued);
    if (stream.clock.size() <= stream.number) stream.clock.resize(stream.number + 1, 0);
    works.push_back({stream.number, ++stream.clock[stream.number], interned(name)});
    now_work = (uint32_t)works.size() - 1;
    now_run = (uint32_t)run_block.size();
    run_block.push_back(0);
    now_clock = &stream.clock;
}

void operation_end() {
    now_clock = nullptr;
}

/* ---- within a kernel --------------------------------------------------------------------------------- */

void block_begin() {
    now_run = (uint32_t)run_block.size();
    run_block.push_back(block_index.x +
                        (uint64_t)grid_size.x * (block_index.y + (uint64_t)grid_size.y * block_index.z));
    epoch = 1;
    for (size_t i = 0; i < MAX_THREADS / WARP; i++) {
        if (warp_time[i] > 1) memset(known[i], 0, sizeof known[i]);
        warp_time[i] = 1;
    }
}

void block_synchronised() {
    epoch++;
}

void warp_synchronised(unsigned warp, unsigned mask) {
    uint32_t time = warp_time[warp]++, joined[WARP] = {};
    for (unsigned lanes = mask; lanes; lanes &= lanes - 1) {
        unsigned lane = (unsigned)__builtin_ctz(lanes);
        for (unsigned i = 0; i < WARP; i++)
            if (known[warp][lane][i] > joined[i]) joined[i] = known[warp][lane][i];
    }
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1) joined[i] = time;
    for (unsigned i = 0; i < WARP; i++)
        if (mask >> i & 1) memcpy(known[warp][i], joined, sizeof joined);
}

} // namespace race
} // namespace emu

#endif
