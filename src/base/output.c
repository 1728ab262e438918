/* output.c: see output.h. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool stdout_was_closed;
static int reason; /* errno of the first failure, 0 while there is none */

/* What --help and the like print goes out in one piece, by output_flush(), which then hears why it cannot: of a piece that
 * printf() has sent before, only that it has failed is left. */
static char pieces[64 << 10];

void output_open(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        if (fd == STDOUT_FILENO) stdout_was_closed = true;
        /* The lowest free descriptor is this one: those below it are there. Not O_CLOEXEC, as 0 to 2 never are. */
        int opened = open("/dev/null", O_RDWR);
        require(opened == fd, "descriptor %d is closed, and /dev/null cannot be put there: %s", fd, strerror(errno));
    }
    if (!isatty(STDOUT_FILENO)) setvbuf(stdout, pieces, _IOFBF, sizeof pieces);
}

static bool good(Error *error) {
    if (reason) return error_set(error, "stdout: %s", strerror(reason));
    return !stdout_was_closed || error_set(error, "stdout is closed");
}

bool output_flush(Error *error) {
    errno = 0;
    const bool failed = fflush(stdout) || ferror(stdout);
    if (failed && !reason) reason = errno ? errno : EIO;
    return good(error);
}

void output_end(void) {
    Error error;
    bool written = output_flush(&error);
    if (written) { /* network file systems and quotas speak at close; a copy's close is asked as well */
        int copy = dup(STDOUT_FILENO);
        if (copy >= 0 && close(copy)) reason = errno;
        written = good(&error);
    }
    require(written, "%s; not all of the output arrived", error.text);
}
