/*
 * shared.cpp: a block's shared memory, the loads of matrices from it, and asynchronous copies into it.
 *
 * Each array is an allocation of its own between two guard bands: AddressSanitizer reports a touch of a band
 * as it happens; without it the bands' contents are compared when the block ends. Every block starts with
 * poison.
 */
#include "emu.h"
#include "race.h"

#include <stdlib.h>
#include <string.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes)   ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

namespace emu {

namespace {

/* The front band leaves the array aligned to 16 bytes and to no more, which is what SHARED_ARRAY promises. */
const size_t FRONT = 80, BACK = 64;
const unsigned char BAND = 0xb5;

struct Array {
    const void *key; /* null for the dynamic array */
    const char *name;
    size_t bytes;
    char *memory; /* FRONT bytes behind the allocation's start */
};

struct AsyncCopy {
    char *shared;
    const char *global; /* null: zeros */
    size_t bytes;
    unsigned group;
    const void *code; /* that started it */
};

struct ThreadCopies {
    std::vector<AsyncCopy> copies;
    unsigned groups = 0; /* committed so far; copies with this number are not committed yet */
};

std::vector<Array> arrays; /* of the running kernel; [0] is the dynamic one */
ThreadCopies thread_copies[MAX_THREADS];

Array allocate(const void *key, const char *name, size_t bytes) {
    void *start = race::allocate_shared(FRONT + bytes + BACK);
    if (!start && posix_memalign(&start, 128, FRONT + bytes + BACK))
        fault("no memory for %zu bytes of shared memory", bytes);
    char *memory = static_cast<char *>(start) + FRONT;
    memset(start, BAND, FRONT);
    memset(memory + bytes, BAND, BACK);
    poison_fill(memory, bytes);
    ASAN_POISON_MEMORY_REGION(start, FRONT);
    ASAN_POISON_MEMORY_REGION(memory + bytes, BACK);
    return {key, name, bytes, memory};
}

void check_bands(const Array &array) {
    for (size_t i = 0; i < FRONT; i++)
        if ((unsigned char)array.memory[(ptrdiff_t)i - (ptrdiff_t)FRONT] != BAND)
            fault("shared array %s: written %zu bytes before its start", array.name, FRONT - i);
    for (size_t i = 0; i < BACK; i++)
        if ((unsigned char)array.memory[array.bytes + i] != BAND)
            fault("shared array %s of %zu bytes: written at byte %zu", array.name, array.bytes,
                  array.bytes + i);
}

void apply(const AsyncCopy &copy) {
    race::async_ends(copy.shared, copy.bytes);
    if (copy.global) race::touch(copy.global, copy.bytes, false, current, copy.code);
    if (copy.global)
        memcpy(copy.shared, copy.global, copy.bytes);
    else
        memset(copy.shared, 0, copy.bytes);
}

} // namespace

void shared_begin(const Grid &grid) {
    arrays.push_back(allocate(nullptr, "dynamic", grid.dynamic_shared));
}

void shared_block_begin() {
    for (Array &array : arrays) poison_fill(array.memory, array.bytes);
}

void shared_block_end() {
#if !defined(__SANITIZE_ADDRESS__)
    for (Array &array : arrays) check_bands(array);
#else
    (void)check_bands;
#endif
}

void shared_end() {
    for (Array &array : arrays) {
        ASAN_UNPOISON_MEMORY_REGION(array.memory - FRONT, FRONT + array.bytes + BACK);
        if (!race::ON) free(array.memory - FRONT);
    }
    race::release_all_shared();
    arrays.clear();
}

void *dynamic_shared() {
    if (!current) fault("SHARED_MEMORY outside a kernel");
    return arrays[0].memory;
}

void *static_shared(const void *key, const char *name, size_t bytes) {
    if (!current) fault("SHARED_ARRAY %s outside a kernel", name);
    size_t total = running->dynamic_shared + bytes, statics = bytes;
    for (size_t i = 1; i < arrays.size(); i++) {
        if (arrays[i].key == key) return arrays[i].memory;
        total += arrays[i].bytes;
        statics += arrays[i].bytes;
    }
    if (statics > SHARED_DEFAULT || total > running->shared_limit)
        fault("shared array %s: %zu static and %zu dynamic bytes of shared memory exceed the limit of %zu",
              name, statics, running->dynamic_shared,
              statics > SHARED_DEFAULT ? (size_t)SHARED_DEFAULT : running->shared_limit);
    arrays.push_back(allocate(key, name, bytes));
    return arrays.back().memory;
}

uint32_t shared_offset(const void *pointer, size_t bytes, const char *operation) {
    size_t offset = 0;
    const char *at = static_cast<const char *>(pointer);
    for (const Array &array : arrays) {
        if (at >= array.memory && at + bytes <= array.memory + array.bytes)
            return (uint32_t)(offset + (size_t)(at - array.memory));
        offset += (array.bytes + 15) / 16 * 16;
    }
    fault("%s: %p is not %zu bytes inside the block's shared memory", operation, pointer, bytes);
}

void require_aligned(const void *pointer, size_t alignment, const char *operation) {
    if (reinterpret_cast<uintptr_t>(pointer) % alignment)
        fault("%s: misaligned address %p, which is no multiple of %zu", operation, pointer, alignment);
}

/* ---- cp.async ---------------------------------------------------------------------------------------- */

void async_copy_start(void *shared, const void *global, size_t bytes, bool copy) {
    if (!current) fault("cp.async outside a kernel");
    require_aligned(shared, bytes, "cp.async to shared");
    require_aligned(global, bytes, "cp.async from global");
    shared_offset(shared, bytes, "cp.async to shared");
    require_device_range(global, bytes, copy ? "cp.async from global" : "cp.async of nothing from global");
    const void *code = __builtin_return_address(0);
    race::async_begins(shared, bytes, code);
    if (copy) race::touch(global, bytes, false, current, code);
    poison_fill(shared, bytes);
    ThreadCopies &mine = thread_copies[current->linear];
    mine.copies.push_back({static_cast<char *>(shared), copy ? static_cast<const char *>(global) : nullptr,
                           bytes, mine.groups, code});
}

void async_copy_commit() {
    thread_copies[current->linear].groups++;
}

void async_copy_wait(int pending) {
    ThreadCopies &mine = thread_copies[current->linear];
    size_t done = 0;
    while (done < mine.copies.size() && (uint64_t)mine.copies[done].group + (unsigned)pending < mine.groups)
        apply(mine.copies[done++]);
    mine.copies.erase(mine.copies.begin(), mine.copies.begin() + (ptrdiff_t)done);
}

size_t async_copies_pending(unsigned linear) {
    size_t bytes = 0;
    for (const AsyncCopy &copy : thread_copies[linear].copies) bytes += copy.bytes;
    return bytes;
}

void async_copies_reset(unsigned linear) {
    thread_copies[linear].copies.clear();
    thread_copies[linear].groups = 0;
}

/* ---- ldmatrix ---------------------------------------------------------------------------------------- */

namespace {

struct LoadLane {
    const void *row;
    uint32_t *registers;
};

template <int matrices, bool transpose> void load_complete(void *const *payloads, unsigned) {
    uint16_t rows[matrices * 8][8];
    for (int i = 0; i < matrices * 8; i++) memcpy(rows[i], static_cast<LoadLane *>(payloads[i])->row, 16);
    for (int lane = 0; lane < WARP; lane++)
        for (int m = 0; m < matrices; m++) {
            uint16_t low =
                transpose ? rows[m * 8 + lane % 4 * 2][lane / 4] : rows[m * 8 + lane / 4][lane % 4 * 2];
            uint16_t high = transpose ? rows[m * 8 + lane % 4 * 2 + 1][lane / 4]
                                      : rows[m * 8 + lane / 4][lane % 4 * 2 + 1];
            static_cast<LoadLane *>(payloads[lane])->registers[m] = (uint32_t)high << 16 | low;
        }
}

} // namespace

void ldmatrix(uint32_t *registers, const void *shared_row, int matrices, bool transpose, Site site) {
    require_aligned(shared_row, 16, "ldmatrix");
    shared_offset(shared_row, 16, "ldmatrix");
    race::touch(shared_row, 16, false, current, __builtin_return_address(0));
    LoadLane lane = {shared_row, registers};
    Complete complete = matrices == 4 ? (transpose ? load_complete<4, true> : load_complete<4, false>)
                                      : (transpose ? load_complete<2, true> : load_complete<2, false>);
    warp_collective("ldmatrix", 0xffffffffu, &lane, complete, site);
}

} // namespace emu
