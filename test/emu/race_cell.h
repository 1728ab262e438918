/* race_cell.h: what the race checker remembers of two bytes of memory, and how it names code; race.cpp's own.
 */
#ifndef EMU_RACE_CELL_H
#define EMU_RACE_CELL_H

#include <stdint.h>
#include <string>

#include "emu.h"

namespace emu {
namespace race {

const uint32_t NO_THREAD = 0xffffffffu; /* the operation as a whole, or the host */

/* One access. Plain zeros: none. */
struct Stamp {
    uint32_t work;   /* the operation of a stream, or the host's doings between two queueings */
    uint32_t run;    /* one block of one launch, counted over the whole process */
    uint32_t thread; /* in the block */
    uint32_t epoch;  /* how many barriers the block had passed */
    uint32_t time;   /* how many barriers the warp had passed */
    uint32_t code;   /* the instruction behind the access, from the program's start */
};

inline bool same_place(const Stamp &a, const Stamp &b) {
    return a.work == b.work && a.run == b.run && a.thread == b.thread && a.epoch == b.epoch &&
           a.time == b.time;
}

enum class Kind : unsigned char { READ, WRITE, ATOMIC };

/* Who has read since the last write, in the latest epoch: one thread, lanes of one warp, several warps,
   several blocks. */
enum class Readers : unsigned char { ONE, LANES, WARPS, BLOCKS };

/* The last write was atomic: by threads of one block, of several. */
enum Atomic : unsigned char { NO, BLOCK, BLOCKS };

struct Cell {
    Stamp write, read;
    Stamp other_read; /* by an operation that is unordered with read's */
    Stamp fill;       /* the cp.async that fills it */
    uint32_t lanes;   /* Readers::LANES: of read.thread's warp */
    Readers readers;
    Atomic atomic;
    bool filling;
};

/* race_calls.cpp */
uint32_t code_offset(const void *code);
const void *code_address(uint32_t offset);
std::string code_place(uint32_t offset); /* file:line, with the functions that were inlined there */

/* race.cpp: one access by a thread (null: the operation as a whole). */
void access(const void *memory, size_t bytes, Kind kind, const Thread *by, const void *code);

} // namespace race
} // namespace emu

#endif
