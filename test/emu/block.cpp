/*
 * block.cpp: how the threads of a block run: one fiber each, switched only at barriers and exchanges.
 *
 * Blocks run one after another in a seeded order. Within a block the next fiber is chosen among the ready
 * ones: either warp by warp, each as far as it can go (so that a missing __syncthreads shows), or at random,
 * drawn for each block. With seed 0 everything is in natural order. Fibers persist: a fiber is a loop that
 * runs one thread of one block per round. Stacks have a guard page below.
 */
#include "emu.h"
#include "race.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <boost/context/detail/fcontext.hpp>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define START_SWITCH(save, bottom, size)  __sanitizer_start_switch_fiber(save, bottom, size)
#define FINISH_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define START_SWITCH(save, bottom, size)  ((void)(save), (void)(bottom), (void)(size))
#define FINISH_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

namespace emu {

using boost::context::detail::fcontext_t;
using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

Thread *current;
uint3 block_index;
dim3 block_size, grid_size;
const Grid *running;

namespace {

const size_t STACK_BYTES = 256 * 1024;

enum class State : unsigned char { READY, BARRIER, COLLECTIVE, EXITED };

struct Fiber : Thread {
    fcontext_t context = nullptr;
    void *stack = nullptr;        /* lowest usable address; the guard page is below */
    const void *bottom = nullptr; /* of the stack, as the sanitizer wants it */
    size_t stack_bytes = 0;
    void *sanitizer_save = nullptr;
    State state = State::EXITED;
    const char *operation = nullptr; /* what it waits for, where, and with whom */
    Site site = {nullptr, 0};
    unsigned mask = 0;
    void *payload = nullptr;
    Complete complete = nullptr;
};

struct Warp {
    unsigned present, ready, waiting, exited; /* bits of lanes */
    unsigned slot;                            /* its place in the block's order of warps */
};

struct Block {
    unsigned threads, warps, alive;
    Warp warp[MAX_THREADS / WARP];
    unsigned char slot_warp[MAX_THREADS / WARP];
    unsigned ready_slots;
    bool warp_by_warp;
    unsigned arrived; /* at the barrier */
    unsigned first_arrived;
    Vote vote;
    int vote_or, vote_and, vote_count, vote_result;
    Site barrier_site;
};

Fiber fibers[MAX_THREADS];
Fiber host;
Fiber *active = &host;
Block block;
uint32_t order_state = 1;

inline unsigned order_random() { /* xorshift32: cheap, for choosing among ready fibers */
    order_state ^= order_state << 13;
    order_state ^= order_state >> 17;
    order_state ^= order_state << 5;
    return order_state;
}

/* A set bit of bits: the lowest, or one by chance. */
inline unsigned pick_bit(unsigned bits, bool by_chance) {
    if (!by_chance) return (unsigned)__builtin_ctz(bits);
    unsigned turn = order_random() >> 27;
    unsigned turned = bits >> turn | (turn ? bits << (32 - turn) : 0);
    return ((unsigned)__builtin_ctz(turned) + turn) & 31;
}

inline void make_ready(Fiber &fiber) {
    Warp &warp = block.warp[fiber.warp];
    fiber.state = State::READY;
    warp.ready |= 1u << fiber.lane;
    block.ready_slots |= 1u << warp.slot;
}

Fiber *pick() {
    if (!block.ready_slots) return nullptr;
    unsigned slot = pick_bit(block.ready_slots, seed && !block.warp_by_warp);
    Warp &warp = block.warp[block.slot_warp[slot]];
    unsigned lane = pick_bit(warp.ready, seed != 0);
    warp.ready &= ~(1u << lane);
    if (!warp.ready) block.ready_slots &= ~(1u << slot);
    return &fibers[block.slot_warp[slot] * WARP + lane];
}

/* The first thing in a fiber after it was switched to: the one that jumped here can be resumed from where it
 * is. */
inline void arrived(transfer_t transfer) {
    Fiber *from = static_cast<Fiber *>(transfer.data);
    from->context = transfer.fctx;
    const void *bottom = nullptr;
    size_t size = 0;
    FINISH_SWITCH(active->sanitizer_save, &bottom, &size);
    if (from == &host) host.bottom = bottom, host.stack_bytes = size;
}

void switch_to(Fiber *to) {
    Fiber *from = active;
    active = to;
    current = to == &host ? nullptr : to;
    START_SWITCH(&from->sanitizer_save, to->bottom, to->stack_bytes);
    arrived(jump_fcontext(to->context, from));
}

[[noreturn]] void divergence();

void leave(Fiber *next) {
    switch_to(next ? next : (divergence(), nullptr));
}

void thread_exit(Fiber &self) {
    Warp &warp = block.warp[self.warp];
    if (size_t bytes = async_copies_pending(self.linear))
        fault("exits with %zu bytes of cp.async that no cp_async_wait waited for", bytes);
    self.state = State::EXITED;
    warp.exited |= 1u << self.lane;
    if (block.arrived)
        fault("divergent __syncthreads: this thread exits while thread %u waits at %s:%d",
              block.first_arrived, block.barrier_site.file, block.barrier_site.line);
    for (unsigned waiting = warp.waiting; waiting; waiting &= waiting - 1) {
        const Fiber &other = fibers[self.warp * WARP + (unsigned)__builtin_ctz(waiting)];
        if (other.mask >> self.lane & 1)
            fault_at(&other, "%s at %s:%d with mask 0x%08x names lane %u, which has exited", other.operation,
                     other.site.file, other.site.line, other.mask, self.lane);
    }
    Fiber *next = pick();
    if (--block.alive == 0) next = &host;
    leave(next);
}

void fiber_main(transfer_t transfer) {
    arrived(transfer);
    for (;;) {
        traps_on();
        (*running->body)();
        thread_exit(*active);
    }
}

void create_fiber(Fiber &fiber) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *memory = mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (memory == MAP_FAILED) fault("no memory for the stack of a thread");
    if (mprotect(memory, page, PROT_NONE)) fault("cannot guard the stack of a thread");
    fiber.stack = static_cast<char *>(memory) + page;
    fiber.bottom = fiber.stack;
    fiber.stack_bytes = STACK_BYTES;
    /* Tops at different offsets in a page, or all fibers' frames would fight for the same sets of the cache.
     */
    size_t colour = (size_t)(&fiber - fibers) * 5 % 32 * 128, usable = STACK_BYTES - colour;
    fiber.context = make_fcontext(static_cast<char *>(fiber.stack) + usable, usable, fiber_main);
}

void describe(const Fiber &fiber, char *text, size_t size) {
    if (fiber.state == State::EXITED)
        snprintf(text, size, "thread %u has exited", fiber.linear);
    else if (fiber.state == State::COLLECTIVE)
        snprintf(text, size, "thread %u waits in %s with mask 0x%08x at %s:%d", fiber.linear, fiber.operation,
                 fiber.mask, fiber.site.file, fiber.site.line);
    else
        snprintf(text, size, "thread %u waits in %s at %s:%d", fiber.linear, fiber.operation, fiber.site.file,
                 fiber.site.line);
}

/* Nobody can go on: names one waiting thread, what it waits for, and one that will not come. */
void divergence() {
    const Fiber *waiting = nullptr, *other = nullptr;
    for (unsigned i = 0; i < block.threads; i++)
        if (fibers[i].state != State::EXITED && (!waiting || waiting->state == State::COLLECTIVE))
            waiting = &fibers[i];
    for (unsigned i = 0; i < block.threads && !other; i++) {
        const Fiber &f = fibers[i];
        if (waiting->state == State::BARRIER ? f.state != State::BARRIER
                                             : f.warp == waiting->warp && waiting->mask >> f.lane & 1 &&
                                                   (f.state != State::COLLECTIVE || f.mask != waiting->mask ||
                                                    f.site.line != waiting->site.line))
            other = &f;
    }
    char here[256], there[256] = "";
    describe(*waiting, here, sizeof here);
    if (other) describe(*other, there, sizeof there);
    fault_at(waiting, "divergent %s: %s, but %s", waiting->operation, here, there);
}

bool same_site(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || !strcmp(a.file, b.file));
}

void begin_block(const Grid &grid) {
    memset(&block, 0, sizeof block);
    block.threads = block.alive = grid.block.x * grid.block.y * grid.block.z;
    block.warps = (block.threads + WARP - 1) / WARP;
    block.warp_by_warp = !seed || (order_random() & 1);
    for (unsigned w = 0; w < block.warps; w++) block.slot_warp[w] = (unsigned char)w;
    for (unsigned w = block.warps; seed && w > 1; w--) {
        unsigned other = order_random() % w;
        std::swap(block.slot_warp[w - 1], block.slot_warp[other]);
    }
    for (unsigned slot = 0; slot < block.warps; slot++) block.warp[block.slot_warp[slot]].slot = slot;
    uint3 index = {0, 0, 0};
    for (unsigned i = 0; i < block.threads; i++) {
        Fiber &fiber = fibers[i];
        if (!fiber.context) create_fiber(fiber);
        fiber.index = index;
        fiber.linear = i;
        fiber.lane = i % WARP;
        fiber.warp = i / WARP;
        async_copies_reset(i);
        block.warp[fiber.warp].present |= 1u << fiber.lane;
        make_ready(fiber);
        if (++index.x == grid.block.x) {
            index.x = 0;
            if (++index.y == grid.block.y) index.y = 0, index.z++;
        }
    }
}

uint64_t common_divisor(uint64_t a, uint64_t b) {
    return b ? common_divisor(b, a % b) : a;
}

} // namespace

void run_grid(const Grid &grid) {
    running = &grid;
    block_size = grid.block;
    grid_size = grid.grid;
    /* The seeded order of blocks: i → (first + i·step) mod count with a step that shares no divisor with it.
     */
    uint64_t count = (uint64_t)grid.grid.x * grid.grid.y * grid.grid.z, first = 0, step = 1;
    if (seed && count > 1) {
        first = random_below((unsigned)std::min<uint64_t>(count, 0xffffffffu));
        do step = 1 + random_below((unsigned)std::min<uint64_t>(count, 0xffffffffu));
        while (common_divisor(step, count) != 1);
    }
    order_state = seed ? random_below(0xffffffffu) | 1 : 1;
    shared_begin(grid);
    for (uint64_t i = 0, at = first % count; i < count; i++, at = (at + step) % count) {
        block_index.x = (unsigned)(at % grid.grid.x);
        block_index.y = (unsigned)(at / grid.grid.x % grid.grid.y);
        block_index.z = (unsigned)(at / grid.grid.x / grid.grid.y);
        shared_block_begin();
        begin_block(grid);
        race::block_begin();
        switch_to(pick());
        shared_block_end();
    }
    shared_end();
    running = nullptr;
}

int block_barrier(Vote vote, int value, Site site) {
    static const char *const names[] = {"__syncthreads", "__syncthreads_or", "__syncthreads_and",
                                        "__syncthreads_count"};
    if (!current) fault("__syncthreads outside a kernel");
    Fiber &self = *active;
    self.operation = names[(int)vote];
    self.site = site;
    if (!block.arrived) {
        block.vote = vote;
        block.barrier_site = site;
        block.first_arrived = self.linear;
        block.vote_or = block.vote_count = 0;
        block.vote_and = 1;
    } else if (vote != block.vote || !same_site(site, block.barrier_site)) {
        fault("divergent __syncthreads: this thread is at %s:%d, thread %u at %s:%d", site.file, site.line,
              block.first_arrived, block.barrier_site.file, block.barrier_site.line);
    }
    block.vote_or |= value != 0;
    block.vote_and &= value != 0;
    block.vote_count += value != 0;
    if (block.alive < block.threads)
        for (unsigned i = 0; i < block.threads; i++)
            if (fibers[i].state == State::EXITED)
                fault("divergent __syncthreads at %s:%d: thread %u has exited", site.file, site.line, i);
    if (++block.arrived < block.threads) {
        self.state = State::BARRIER;
        leave(pick());
        return block.vote_result;
    }
    block.arrived = 0;
    race::block_synchronised();
    block.vote_result = vote == Vote::OR    ? block.vote_or
                        : vote == Vote::AND ? block.vote_and
                                            : block.vote_count;
    for (unsigned i = 0; i < block.threads; i++)
        if (i != self.linear) make_ready(fibers[i]);
    /* Let another thread be the first behind the barrier. */
    make_ready(self);
    Fiber *next = pick();
    if (next != &self) switch_to(next);
    return block.vote_result;
}

void warp_collective(const char *operation, unsigned mask, void *payload, Complete complete, Site site) {
    if (!current) fault("%s outside a kernel", operation);
    Fiber &self = *active;
    Warp &warp = block.warp[self.warp];
    unsigned bit = 1u << self.lane;
    if (!(mask & bit))
        fault("%s at %s:%d: mask 0x%08x leaves out the calling lane %u", operation, site.file, site.line,
              mask, self.lane);
    if (mask & (~warp.present | warp.exited))
        fault("%s at %s:%d: mask 0x%08x names lane %d, which %s", operation, site.file, site.line, mask,
              __builtin_ctz(mask & (~warp.present | warp.exited)),
              mask & ~warp.present ? "the block does not have" : "has exited");
    self.operation = operation;
    self.site = site;
    self.mask = mask;
    self.payload = payload;
    self.complete = complete;
    warp.waiting |= bit;
    Fiber *lanes = &fibers[self.warp * WARP];
    if ((warp.waiting & mask) != mask) {
        self.state = State::COLLECTIVE;
        leave(pick());
        return;
    }
    void *payloads[WARP] = {};
    for (unsigned rest = mask; rest; rest &= rest - 1) {
        unsigned lane = (unsigned)__builtin_ctz(rest);
        const Fiber &other = lanes[lane];
        if (other.mask != mask || other.complete != complete || !same_site(other.site, site)) {
            fault("%s at %s:%d with mask 0x%08x: lane %u is in %s at %s:%d with mask 0x%08x", operation,
                  site.file, site.line, mask, lane, other.operation, other.site.file, other.site.line,
                  other.mask);
        }
        payloads[lane] = other.payload;
    }
    /* Only __syncwarp orders memory (CUDA's manual: shuffles and votes do not). */
    if (complete)
        complete(payloads, mask);
    else
        race::warp_synchronised(self.warp, mask);
    warp.waiting &= ~mask;
    for (unsigned rest = mask & ~bit; rest; rest &= rest - 1) lanes[__builtin_ctz(rest)].state = State::READY;
    warp.ready |= mask & ~bit;
    if (warp.ready) block.ready_slots |= 1u << warp.slot;
}

void fault_lane(unsigned lane, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fault_at(&fibers[active->warp * WARP + lane], "%s", text);
}

} // namespace emu
