/*
 * file.h: how a file's bytes are opened, read and written whole: what shards and safetensors share.
 *
 * Header only. Retries after EINTR and after short transfers.
 */
#ifndef FILE_H
#define FILE_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

/* Shards and safetensors are little-endian, and are copied to and from memory as they are. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "this program's files need a little-endian machine");
_Static_assert(sizeof(off_t) == 8, "checkpoints are larger than 2 GiB");

/* A descriptor for reading a regular file, and its size in bytes. -1 with *error set otherwise, and errno 0
   unless open itself failed. O_NONBLOCK: opening a pipe must not wait for a writer. */
static inline int file_open(const char *path, uint64_t *size, Error *error) {
    struct stat status;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        const int reason = errno;
        error_set(error, "%s: cannot open: %s", path, strerror(reason));
        errno = reason;
        return -1;
    }
    if (fstat(fd, &status) != 0)
        error_set(error, "%s: cannot read its size: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode))
        error_set(error, "%s: not a regular file", path);
    else {
        *size = (uint64_t)status.st_size;
        return fd;
    }
    close(fd);
    errno = 0;
    return -1;
}

/* Reads `count` bytes at `offset`. Returns how many there were: fewer only at the end of the file; -1 with
   errno on an error. */
static inline ssize_t file_read(int fd, void *out, size_t count, uint64_t offset) {
    size_t done = 0;
    while (done < count) {
        const ssize_t n = pread(fd, (char *)out + done, count - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* Writes all `count` bytes at `offset`; false with errno otherwise. */
static inline bool file_write(int fd, const void *bytes, size_t count, uint64_t offset) {
    size_t done = 0;
    while (done < count) {
        const ssize_t n = pwrite(fd, (const char *)bytes + done, count - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return false;
        done += (size_t)n;
    }
    return true;
}

#endif
