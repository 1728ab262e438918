/* fuzz.c: see fuzz.h. */
#define _GNU_SOURCE
#include "fuzz.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void fuzz_broken(const char *promise, const char *file, int line) {
    fprintf(stderr, "%s:%d: broken promise: %s\n", file, line, promise);
    abort();
}

const void *fuzz_edge(const void *bytes, size_t size) {
    enum { ROOM = 1 << 22 };
    static char *room;
    if (!room) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE);
        room = mmap(NULL, ROOM + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        PROMISE(room != MAP_FAILED && mprotect(room + ROOM, page, PROT_NONE) == 0);
    }
    PROMISE(size <= ROOM);
    return size ? memcpy(room + ROOM - size, bytes, size) : room + ROOM;
}

const char *fuzz_file(const void *bytes, size_t held, uint64_t size) {
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    PROMISE(fd >= 0 && ftruncate(fd, 0) == 0);
    PROMISE(pwrite(fd, bytes, held, 0) == (ssize_t)held);
    PROMISE(size <= held || ftruncate(fd, (off_t)size) == 0);
    return path;
}

static char output[64];

static void remove_output(void) {
    unlink(output);
}

const char *fuzz_output(void) {
    if (!output[0]) {
        snprintf(output, sizeof output, "/dev/shm/fuzz-%ld", (long)getpid());
        atexit(remove_output);
    }
    return output;
}

void fuzz_check_error(const Error *error) {
    const size_t length = strnlen(error->text, sizeof error->text);
    PROMISE(length > 0 && length < sizeof error->text);
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)error->text[i], next = (unsigned char)error->text[i + 1];
        PROMISE(c >= ' ' && c != 0x7f);
        PROMISE(c != 0xc2 || next < 0x80 || next > 0x9f); /* U+0080 to U+009F are control characters too */
    }
}

/* ---- what exits ---- */

static sigjmp_buf *refused; /* where to go on; NULL: nobody waits for a refusal */
static Error refusal;

void __wrap_fail(int exit_code, const char *format, ...) CHECK_PRINTF(2, 3) CHECK_NORETURN;
void __wrap_fail(int exit_code, const char *format, ...) {
    char text[sizeof refusal.text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    error_set(&refusal, "%s", text);
    if (!refused || exit_code != EXIT_USAGE) fprintf(stderr, "exit %d: %s\n", exit_code, text);
    PROMISE(refused && exit_code == EXIT_USAGE);
    siglongjmp(*refused, 1);
}

bool fuzz_refuses(void (*call)(void *), void *context, Error *error) {
    sigjmp_buf here;
    refused = &here;
    const bool ended = sigsetjmp(here, 0) != 0;
    if (!ended) call(context);
    refused = NULL;
    if (ended) *error = refusal;
    return ended;
}
