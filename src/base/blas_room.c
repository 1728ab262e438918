/* blas_room.c: see blas_room.h. */
#define _GNU_SOURCE
#include "blas_room.h"
#include "check.h"

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

/* What OpenBLAS maps for a thread. */
static const size_t BUFFER = (size_t)128 << 20;

static bool limited(void) {
    struct rlimit space, data;
    return (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) ||
           (getrlimit(RLIMIT_DATA, &data) == 0 && data.rlim_cur != RLIM_INFINITY);
}

static bool can_map(size_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory != MAP_FAILED && munmap(memory, bytes) == 0;
}

void blas_room_require(int more, int threads) {
    require(more < 1 || !limited() || can_map((size_t)more * BUFFER),
            "out of memory: OpenBLAS takes %zu MB of address space for each of %d threads, and ulimit -v or -d forbids that; "
            "fewer --threads take less", BUFFER >> 20, threads);
}

/* A sanitizer's own address space is larger than any such limit, and its checks are not there yet when this runs. */
#ifdef __has_feature
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#if !SANITIZED
/* What the thread itself (its stack, oneDNN's code) takes beside it: with less than about 20 MB of that, loading was done
 * but the first step aborted. */
static const size_t BESIDE = (size_t)28 << 20;

/* As OpenBLAS counts when it is loaded: OMP_NUM_THREADS' first number, up to the CPUs of the affinity mask. */
static int threads_at_load(char **environment) {
    static const char NAME[] = "OMP_NUM_THREADS=";
    cpu_set_t mask;
    int cpus = sched_getaffinity(0, sizeof mask, &mask) ? 1 : CPU_COUNT(&mask), asked = 0;
    for (; *environment; environment++)
        if (strncmp(*environment, NAME, sizeof NAME - 1) == 0) asked = atoi(*environment + sizeof NAME - 1);
    return asked > 0 && asked < cpus ? asked : cpus;
}

/* Before every constructor: nothing of the C library that is more than a system call may be used. */
static void before_libraries(int argc, char **argv, char **environment) {
    static const char LINE[] = "train_gpt: out of memory: ulimit -v or -d leaves too little to start: OpenBLAS alone takes "
                               "128 MB of address space a thread; OMP_NUM_THREADS=1 takes least\n";
    (void)argc;
    (void)argv;
    if (!limited() || can_map((size_t)threads_at_load(environment) * (BUFFER + BESIDE))) return;
    ssize_t written = write(STDERR_FILENO, LINE, sizeof LINE - 1);
    (void)written; /* without stderr the exit status says it alone */
    _exit(1);
}

__attribute__((section(".preinit_array"), used)) static void (*const first)(int, char **, char **) = before_libraries;
#endif
