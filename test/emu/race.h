/*
 * race.h: what the engine tells the race checker (race.cpp). In every build but the race checker's (`make
 * race`, -DEMU_RACE) all of it is empty.
 *
 * The compiler's -fsanitize=thread puts a call before each access to memory; race.cpp answers those calls
 * itself, with CUDA's own order of events in place of pthreads'. Two accesses to the same bytes, one of them
 * a write, race unless one is before the other by
 *
 *   within a thread    its own order
 *   within a block     a __syncthreads between them
 *   within a warp      a __syncwarp whose mask names both lanes (a shuffle, a vote, an mma order no memory)
 *   between blocks     nothing: the blocks of a launch are unordered
 *   within a stream    its order
 *   between streams    an event recorded and waited for, the legacy default stream's rules, or the host waiting
 *                      for the one before it queues the other
 *
 * A cp.async writes from its start to the wait that covers it, as its thread: nobody may touch the bytes
 * meanwhile.
 */
#ifndef EMU_RACE_H
#define EMU_RACE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <vector>

#include "emu.h"

namespace emu {
namespace race {

#ifdef EMU_RACE

const bool ON = true;

/* How far each stream's work is known to be done: Clock[stream's number] = how many of its operations. Number
   0 is the host. */
typedef std::vector<uint32_t> Clock;

/* A stream's number and what is before its next operation. */
struct Timeline {
    uint32_t number;
    Clock clock;
    Timeline();
};

/* Memory whose accesses are checked. */
void *allocate(size_t bytes);
void release(void *memory, size_t bytes);
/* The same for a kernel's shared memory, whose addresses are used again by the next kernel. */
void *allocate_shared(size_t bytes);
void release_all_shared();

/* Between operations. queued: what the host knew when it queued it. */
Clock host_now();
void join(Clock &into, const Clock &from);
void host_joins(const Clock &clock);
void operation_begin(const char *name, Timeline &stream, const Clock &queued);
void operation_end();

/* Within a kernel. */
void block_begin();
void block_synchronised();
void warp_synchronised(unsigned warp, unsigned mask);

/* Accesses that no instrumented code makes. by: the thread, or null for the operation as a whole; at: the
   address of the code behind it, or null. */
void touch(const void *memory, size_t bytes, bool write, const Thread *by, const void *at);
void async_begins(const void *shared, size_t bytes, const void *at);
void async_ends(const void *shared, size_t bytes);

/* Notes the kernel's launch for the list of kernels that ran (EMU_KERNELS names the file that gets it at
 * exit). */
void note_kernel(const char *name, const void *function);

#else

const bool ON = false;
struct Clock {};
struct Timeline {
    Clock clock;
};
inline void *allocate(size_t) {
    return nullptr;
}
inline void release(void *, size_t) {}
inline void *allocate_shared(size_t) {
    return nullptr;
}
inline void release_all_shared() {}
inline Clock host_now() {
    return {};
}
inline void join(Clock &, const Clock &) {}
inline void host_joins(const Clock &) {}
inline void operation_begin(const char *, Timeline &, const Clock &) {}
inline void operation_end() {}
inline void block_begin() {}
inline void block_synchronised() {}
inline void warp_synchronised(unsigned, unsigned) {}
inline void touch(const void *, size_t, bool, const Thread *, const void *) {}
inline void async_begins(const void *, size_t, const void *) {}
inline void async_ends(const void *, size_t) {}
inline void note_kernel(const char *, const void *) {}

#endif

} // namespace race
} // namespace emu

#endif
