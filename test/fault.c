/*
 * fault.c: a machine that fails on demand: a library for LD_PRELOAD between the program and the C library.
 *
 * Calls on files are counted, from 1 on; at the one that is asked for, something happens. What counts:
 *
 *   FAULT_PATH=TEXT     calls on a path (a descriptor's too) that contains TEXT; default: all
 *   FAULT_CALLS=A,B     these of open mkdir write pwrite read pread fsync rename symlink unlink rmdir close ftruncate; default: all
 *   FAULT_TRACE=FILE    every counted call is appended to FILE as "NUMBER CALL PATH"
 *
 * and what happens:
 *
 *   FAULT_AT=N FAULT_TIMES=M    to calls N … N + M − 1 (M default 1; 0: for ever)
 *   FAULT_DO=kill       SIGKILL before the call
 *            stop       SIGSTOP before the call
 *            hang       the calling thread never comes back
 *            slow:MS     MS thousandths of a second before the call
 *            fail:ERR   the call fails with errno ERR, a number
 *            short      half of the bytes go through (at least one), without an error
 *            tear       half of the bytes go through, then SIGKILL
 *            flip       reads: one bit of what was read is another
 *
 *   FAULT_NAN_AT=N FAULT_NAN_TIMES=M    the results of those calls of dnnl_sgemm hold a NaN (after the canary's, which
 *                                       are the first three of a process)
 *   FAULT_FLIP_AT=N                     one bit of that call's second operand, a weight in a forward pass, is another afterwards
 *   FAULT_CLOCK=S                       the clocks of the day jump S seconds to and fro at every look; the monotonic do not
 *   FAULT_MONOTONIC=S                   these do, too (as under a library that fakes the time)
 *   FAULT_STILL=1                       these stand still
 *
 * A test's tool: single-threaded tests of x86-64 Linux; its own errors end the process with 97.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef enum Deed { NOTHING, KILL, STOP, FAIL, SHORT, TEAR, FLIP } Deed;

static atomic_long counted, products, looks;

enum { CANARY = 3 }; /* products that kernels/cpu/canary.c takes first */

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static void *next(const char *name) {
    void *symbol = dlsym(RTLD_NEXT, name);
    if (!symbol) _exit(97);
    return symbol;
}

/* real: the C library's own. */
#define NEXT(name)                    \
    static __typeof__(name) *real;    \
    if (!real) real = (__typeof__(real))next(#name)

static int within(long number, const char *at, const char *times) {
    long first = setting(at, 0), count = setting(times, 1);
    return first > 0 && number >= first && (count == 0 || number < first + count);
}

static int listed(const char *call) {
    const char *list = getenv("FAULT_CALLS");
    size_t length = strlen(call);
    for (const char *at = list; at && *at;) {
        size_t span = strcspn(at, ",");
        if (span == length && strncmp(at, call, span) == 0) return 1;
        at += span + (at[span] == ',');
    }
    return !list || !*list;
}

static void trace(long number, const char *call, const char *path) {
    const char *file = getenv("FAULT_TRACE");
    char line[4352];
    if (!file) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND, 0666);
    int n = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
    if (fd < 0 || syscall(SYS_write, fd, line, (size_t)n) != n) _exit(97);
    syscall(SYS_close, fd);
}

/* What is to happen at this call; errno is set for FAIL. */
static Deed meet(const char *call, const char *path) {
    const char *part = getenv("FAULT_PATH"), *deed = getenv("FAULT_DO");
    if ((part && !strstr(path, part)) || !listed(call)) return NOTHING;
    long number = atomic_fetch_add(&counted, 1) + 1;
    trace(number, call, path);
    if (!deed || !within(number, "FAULT_AT", "FAULT_TIMES")) return NOTHING;
    if (strcmp(deed, "kill") == 0) raise(SIGKILL);
    if (strcmp(deed, "stop") == 0) raise(SIGSTOP);
    while (strcmp(deed, "hang") == 0) sleep(1);
    if (strncmp(deed, "slow:", 5) == 0) usleep((useconds_t)atoi(deed + 5) * 1000);
    if (strcmp(deed, "short") == 0) return SHORT;
    if (strcmp(deed, "tear") == 0) return TEAR;
    if (strcmp(deed, "flip") == 0) return FLIP;
    if (strncmp(deed, "fail:", 5)) return NOTHING;
    errno = atoi(deed + 5);
    return FAIL;
}

static Deed meet_descriptor(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int saved = errno;
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = saved;
    path[n < 0 ? 0 : n] = '\0';
    return meet(call, path);
}

static size_t half(size_t count) { return count > 1 ? count / 2 : count; }

static void flip_bit(void *bytes, ssize_t n) {
    if (n > 0) ((unsigned char *)bytes)[n / 2] ^= 4;
}

static int opened(const char *path, int flags, mode_t mode) {
    NEXT(open);
    return meet("open", path) == FAIL ? -1 : real(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return opened(path, flags | O_LARGEFILE, mode);
}

/* One transfer of bytes; `deed` was met. */
#define TRANSFER(deed, call)                                       \
    switch (deed) {                                                \
    case FAIL: return -1;                                          \
    case SHORT: count = half(count); return call;                  \
    case TEAR: count = half(count), (void)!call, raise(SIGKILL); __attribute__((fallthrough)); \
    default: return call;                                          \
    }

ssize_t write(int fd, const void *bytes, size_t count) {
    NEXT(write);
    TRANSFER(meet_descriptor("write", fd), real(fd, bytes, count))
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
    NEXT(pwrite);
    TRANSFER(meet_descriptor("pwrite", fd), real(fd, bytes, count, offset))
}

ssize_t read(int fd, void *bytes, size_t count) {
    NEXT(read);
    Deed deed = meet_descriptor("read", fd);
    if (deed == FAIL) return -1;
    ssize_t n = real(fd, bytes, deed == SHORT ? half(count) : count);
    if (deed == FLIP) flip_bit(bytes, n);
    return n;
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset) {
    NEXT(pread);
    Deed deed = meet_descriptor("pread", fd);
    if (deed == FAIL) return -1;
    ssize_t n = real(fd, bytes, deed == SHORT ? half(count) : count, offset);
    if (deed == FLIP) flip_bit(bytes, n);
    return n;
}

ssize_t pwrite64(int, const void *, size_t, off_t) __attribute__((alias("pwrite")));
ssize_t pread64(int, void *, size_t, off_t) __attribute__((alias("pread")));

#define PATH_CALL(name, parameters, path, call)       \
    int name parameters {                             \
        NEXT(name);                                   \
        return meet(#name, path) == FAIL ? -1 : call; \
    }

PATH_CALL(mkdir, (const char *path, mode_t mode), path, real(path, mode))
PATH_CALL(rename, (const char *from, const char *to), from, real(from, to))
PATH_CALL(symlink, (const char *target, const char *path), path, real(target, path))
PATH_CALL(unlink, (const char *path), path, real(path))
PATH_CALL(rmdir, (const char *path), path, real(path))

int unlinkat(int directory, const char *name, int flags) {
    NEXT(unlinkat);
    return meet_descriptor("unlink", directory) == FAIL ? -1 : real(directory, name, flags);
}

int fsync(int fd) {
    NEXT(fsync);
    return meet_descriptor("fsync", fd) == FAIL ? -1 : real(fd);
}

int ftruncate(int fd, off_t length) {
    NEXT(ftruncate);
    return meet_descriptor("ftruncate", fd) == FAIL ? -1 : real(fd, length);
}

/* A close that fails has closed nevertheless, as Linux does it. */
int close(int fd) {
    NEXT(close);
    Deed deed = meet_descriptor("close", fd);
    int reason = errno, status = real(fd);
    if (deed != FAIL) return status;
    errno = reason;
    return -1;
}

/* ---- arithmetic ---- */

int dnnl_sgemm(char ta, char tb, int64_t M, int64_t N, int64_t K, float alpha, const float *A, int64_t lda, const float *B,
               int64_t ldb, float beta, float *C, int64_t ldc) {
    NEXT(dnnl_sgemm);
    int status = real(ta, tb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc);
    long number = atomic_fetch_add(&products, 1) + 1 - CANARY;
    if (within(number, "FAULT_NAN_AT", "FAULT_NAN_TIMES")) C[0] = NAN;
    if (within(number, "FAULT_FLIP_AT", "FAULT_FLIP_TIMES")) *(uint32_t *)(uintptr_t)B ^= 1u << 12;
    return status;
}

/* ---- clocks ---- */

/* Seconds to add at this look: to and fro. */
static long jump(const char *name) {
    long seconds = setting(name, 0);
    return atomic_fetch_add(&looks, 1) % 2 ? seconds : -seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    NEXT(clock_gettime);
    int status = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += jump("FAULT_CLOCK");
    else if (clock == CLOCK_MONOTONIC && setting("FAULT_STILL", 0)) *now = (struct timespec){.tv_sec = 1000};
    else if (clock == CLOCK_MONOTONIC) now->tv_sec += jump("FAULT_MONOTONIC");
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    NEXT(gettimeofday);
    int status = real(now, zone);
    now->tv_sec += jump("FAULT_CLOCK");
    return status;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
