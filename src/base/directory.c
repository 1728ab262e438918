/* directory.c: see directory.h. */
#define _GNU_SOURCE
#include "directory.h"
#include "at_work.h"
#include "file.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

bool path_join(char path[PATH_SIZE], const char *directory, const char *name, Error *error) {
    const size_t length = strlen(directory);
    const char *slash = length && directory[length - 1] == '/' ? "" : "/";
    int n = snprintf(path, PATH_SIZE, "%s%s%s", directory, slash, name);
    return (n > 0 && n < PATH_SIZE) || error_set(error, "%.200s…: the path is too long", directory);
}

bool paths_are_one(const char *a, const char *b) {
    struct stat one, other;
    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

bool name_is_plain(const char *name) {
    size_t length = strlen(name);
    return length > 0 && length < NAME_SIZE && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == length;
}

int inner_file_open(const char *path, uint64_t *size, Error *error) {
    struct stat status;
    if (lstat(path, &status) == 0 && S_ISLNK(status.st_mode)) {
        error_set(error, "%s: a symbolic link; no link inside a directory is followed", path);
        errno = ELOOP;
        return -1;
    }
    return file_open(path, size, error);
}

char *inner_file_read(const char *path, size_t most, size_t *size, Error *error) {
    uint64_t file_size;
    int fd = inner_file_open(path, &file_size, error);
    if (fd < 0) return NULL;
    char *bytes = NULL;
    if (file_size > most) {
        error_set(error, "%s: %llu bytes, more than such a file can have", path,
                  (unsigned long long)file_size);
        errno = EFBIG;
    } else {
        *size = (size_t)file_size;
        bytes = must_calloc(*size + 1, 1, path);
        ssize_t n = file_read(fd, bytes, *size, 0);
        if (n != (ssize_t)*size) {
            error_set(error, "%s: cannot read: %s", path, n < 0 ? strerror(errno) : "it became shorter");
            free(bytes);
            bytes = NULL;
            errno = EIO;
        }
    }
    const int reason = errno;
    close(fd);
    errno = reason;
    return bytes;
}

typedef struct Syncing {
    int fd, reason; /* reason: errno, or 0 */
} Syncing;

static void sync_now(void *syncing) {
    Syncing *s = syncing;
    int status;
    while ((status = fsync(s->fd)) != 0 && errno == EINTR) continue;
    s->reason = status ? errno : 0;
}

bool descriptor_sync(int fd) {
    Syncing s = {.fd = fd};
    at_work_during(sync_now, &s);
    if (s.reason) errno = s.reason;
    return s.reason == 0;
}

bool durable_write(const char *path, const void *bytes, size_t size, Error *error) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0) return error_set(error, "%s: cannot create: %s", path, strerror(errno));
    bool good = file_write(fd, bytes, size, 0);
    if (!good) error_set(error, "%s: cannot write: %s", path, strerror(errno));
    if (good && !descriptor_sync(fd)) good = error_set(error, "%s: cannot fsync: %s", path, strerror(errno));
    if (close(fd) && good) good = error_set(error, "%s: cannot close: %s", path, strerror(errno));
    return good;
}

/* One component, whose parent is there. *made: it was not there before. */
static bool make_one(const char *path, bool *made, Error *error) {
    struct stat status;
    *made = false;
    if (stat(path, &status) == 0) return S_ISDIR(status.st_mode) || error_set(error, "%s: not a directory", path);
    if (errno == ENOENT && lstat(path, &status) == 0)
        return error_set(error, "%s: a symbolic link to a place that is not there", path);
    if (mkdir(path, 0777) == 0) return *made = true;
    /* Another run may have been faster. */
    return (errno == EEXIST && stat(path, &status) == 0 && S_ISDIR(status.st_mode)) ||
           error_set(error, "%s: cannot be made: %s", path, strerror(errno));
}

bool directory_make(const char *path, Error *error) {
    char part[PATH_SIZE], parent[PATH_SIZE];
    const size_t length = strlen(path);
    if (length >= sizeof part) return error_set(error, "%.200s…: the path is too long", path);
    for (size_t end = 1; end <= length; end++) {
        if ((path[end] && path[end] != '/') || path[end - 1] == '/') continue;
        bool made;
        Error reason, ignored; /* a parent that may not be read is no reason not to go on */
        memcpy(part, path, end);
        part[end] = '\0';
        if (!make_one(part, &made, &reason)) {
            const bool names_both = path[end] && length + strlen(reason.text) + 3 <= sizeof error->text;
            return error_set(error, "%s%s%s", names_both ? path : "", names_both ? ": " : "", reason.text);
        }
        if (made && path_join(parent, part, "..", &ignored)) (void)directory_sync(parent, &ignored);
    }
    return true;
}

bool directory_sync(const char *path, Error *error) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return error_set(error, "%s: cannot open: %s", path, strerror(errno));
    bool good = descriptor_sync(fd) || error_set(error, "%s: cannot fsync: %s", path, strerror(errno));
    close(fd);
    return good;
}

void directory_remove(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (!entries) {
        if (fd >= 0) close(fd);
        unlink(path); /* a link or a file; of a directory it does nothing */
        return;
    }
    for (struct dirent *entry; (entry = readdir(entries));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) unlinkat(fd, entry->d_name, 0);
    closedir(entries);
    rmdir(path);
}
