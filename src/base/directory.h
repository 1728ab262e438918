/*
 * directory.h: the directories that this program writes and reads: durable writes, small files, removal.
 *
 * All are flat: files, no folders in them. What stands inside one is never followed out of it: a name that
 * comes from a file must be plain, and a symbolic link is not opened.
 */
#ifndef DIRECTORY_H
#define DIRECTORY_H

#include "check.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PATH_SIZE = 4096, NAME_SIZE = 256 };

/* path = directory/name. False if that is too long. */
bool path_join(char path[PATH_SIZE], const char *directory, const char *name, Error *error);

/* Whether a name that came from a file can be that of a file in a directory of ours: letters, digits, '.',
 * '_', '-', the first not a '.', shorter than NAME_SIZE. */
bool name_is_plain(const char *name);

/* Whether two names are of the same file or directory, which is there. */
bool paths_are_one(const char *a, const char *b);

/* A descriptor for reading a regular file that is no symbolic link, and its size; −1 with *error set, and
 * errno (ENOENT where it is not there). */
int inner_file_open(const char *path, uint64_t *size, Error *error);

/* All of such a file of at most `most` bytes, with a terminating zero; the caller frees. NULL with *error
 * set. */
char *inner_file_read(const char *path, size_t most, size_t *size, Error *error);

/* Writes a new file, fsynced. False, and maybe a part of it there, if anything fails. */
bool durable_write(const char *path, const void *bytes, size_t size, Error *error);

/* fsync, whatever interrupts it; false with errno. It takes as long as the disk does: at_work.h. */
bool descriptor_sync(int fd);

/* Makes a directory, and those above it that are not there, with the rights that the umask leaves. One that is there is
 * good. The error names the component that could not be made or is no directory. What was made is durable. */
bool directory_make(const char *path, Error *error);

/* Makes what was created, renamed or removed in a directory durable. */
bool directory_sync(const char *path, Error *error);

/* Removes a directory with the files in it; of a symbolic link, the link. What cannot be removed stays,
 * silently. */
void directory_remove(const char *path);

#endif
