/*
 * race_calls.cpp: the calls that gcc's -fsanitize=thread puts before each access, answered for the race
 * checker; and how an instruction's address becomes a file and a line. Compiled only with -DEMU_RACE; the
 * program is linked without the sanitizer's own library.
 */
#include "race.h"

#ifdef EMU_RACE

#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <map>

#include "race_cell.h"

namespace emu {
namespace race {

namespace {

uintptr_t load_address() {
    static uintptr_t address = UINTPTR_MAX;
    if (address == UINTPTR_MAX)
        dl_iterate_phdr(
            [](dl_phdr_info *info, size_t, void *found) {
                *static_cast<uintptr_t *>(found) = info->dlpi_addr;
                return 1; /* the first is the program itself */
            },
            &address);
    return address;
}

std::map<const void *, std::string> kernels; /* those launched, by their function */

/* At exit: "address<tab>name" for each kernel that ran, for test/race.py. */
struct WriteKernels {
    ~WriteKernels() {
        const char *path = getenv("EMU_KERNELS");
        FILE *file = path ? fopen(path, "w") : nullptr;
        if (!file) return;
        for (const auto &[function, name] : kernels)
            fprintf(file, "%lx\t%s\n", (unsigned long)code_offset(function), name.c_str());
        fclose(file);
    }
} write_kernels;

} // namespace

void note_kernel(const char *name, const void *function) {
    kernels.emplace(function, name);
}

uint32_t code_offset(const void *code) {
    return code ? (uint32_t)(reinterpret_cast<uintptr_t>(code) - load_address()) : 0;
}

const void *code_address(uint32_t offset) {
    return offset ? reinterpret_cast<const void *>(load_address() + offset) : nullptr;
}

std::string code_place(uint32_t offset) {
    if (!offset) return "(a copy or a fill)";
    char program[512], command[700], line[1024];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length < 0) return "?";
    program[length] = 0;
    /* One before the address to return to is inside the call. */
    snprintf(command, sizeof command, "addr2line -i -s -e '%s' %x 2>/dev/null", program, offset - 1);
    FILE *answer = popen(command, "r");
    std::string place;
    while (answer && fgets(line, sizeof line, answer)) {
        line[strcspn(line, "\n")] = 0;
        if (char *more = strstr(line, " (discriminator")) *more = 0;
        if (!strncmp(line, "emu_", 4)) continue; /* the emulation's own headers */
        place += (place.empty() ? "" : " < ") + std::string(line);
    }
    if (answer) pclose(answer);
    return place.empty() ? "?" : place;
}

} // namespace race
} // namespace emu

namespace emu {
void race_atomic(const void *memory, size_t bytes, const void *code) {
    race::access(memory, bytes, race::Kind::ATOMIC, current, code);
}
} // namespace emu

using emu::race::access;
using emu::race::Kind;

#define CODE __builtin_return_address(0)

extern "C" {

#define EMU_CALLS(bytes)                                                                                     \
    void __tsan_read##bytes(void *memory) {                                                                  \
        access(memory, bytes, Kind::READ, emu::current, CODE);                                               \
    }                                                                                                        \
    void __tsan_write##bytes(void *memory) {                                                                 \
        access(memory, bytes, Kind::WRITE, emu::current, CODE);                                              \
    }                                                                                                        \
    void __tsan_unaligned_read##bytes(void *memory) {                                                        \
        access(memory, bytes, Kind::READ, emu::current, CODE);                                               \
    }                                                                                                        \
    void __tsan_unaligned_write##bytes(void *memory) {                                                       \
        access(memory, bytes, Kind::WRITE, emu::current, CODE);                                              \
    }
EMU_CALLS(1)
EMU_CALLS(2)
EMU_CALLS(4)
EMU_CALLS(8)
EMU_CALLS(16)

void __tsan_read_range(void *memory, unsigned long bytes) {
    access(memory, bytes, Kind::READ, emu::current, CODE);
}
void __tsan_write_range(void *memory, unsigned long bytes) {
    access(memory, bytes, Kind::WRITE, emu::current, CODE);
}
void __tsan_vptr_update(void *, void *) {}
void __tsan_init() {}

/* race_host.h's. */
void *emu_race_memcpy(void *to, const void *from, size_t bytes) {
    access(from, bytes, Kind::READ, nullptr, CODE);
    access(to, bytes, Kind::WRITE, nullptr, CODE);
    return memcpy(to, from, bytes);
}
void *emu_race_memmove(void *to, const void *from, size_t bytes) {
    access(from, bytes, Kind::READ, nullptr, CODE);
    access(to, bytes, Kind::WRITE, nullptr, CODE);
    return memmove(to, from, bytes);
}
void *emu_race_memset(void *to, int value, size_t bytes) {
    access(to, bytes, Kind::WRITE, nullptr, CODE);
    return memset(to, value, bytes);
}
ssize_t emu_race_pread(int file, void *to, size_t bytes, off_t offset) {
    access(to, bytes, Kind::WRITE, nullptr, CODE);
    return pread(file, to, bytes, offset);
}

/* Host code only: the guards of static locals, the counts of shared_ptr, the signal that was caught. They order the
   host's threads, which are one to the checker. */
#define EMU_ATOMICS(bits, type)                                                                              \
    type __tsan_atomic##bits##_load(const volatile type *address, int) {                                     \
        return __atomic_load_n(address, __ATOMIC_SEQ_CST);                                                   \
    }                                                                                                        \
    void __tsan_atomic##bits##_store(volatile type *address, type value, int) {                              \
        __atomic_store_n(address, value, __ATOMIC_SEQ_CST);                                                  \
    }                                                                                                        \
    type __tsan_atomic##bits##_fetch_add(volatile type *address, type value, int) {                          \
        return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);                                         \
    }
EMU_ATOMICS(8, char)
EMU_ATOMICS(32, int)
EMU_ATOMICS(64, long)

} // extern "C"

#endif
