/* checkpoint.c: which checkpoints are there, and which one is meant? See checkpoint.h. */
#define _GNU_SOURCE
#include "checkpoint.h"
#include "manifest.h"
#include "moments.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

void checkpoint_name(char name[64], int64_t step) {
    snprintf(name, 64, "step_%08" PRId64, step);
}

/* The step of a directory's name, or −1. */
static int64_t step_of(const char *name) {
    char again[64];
    long long step;
    if (sscanf(name, "step_%lld", &step) != 1 || step < 0) return -1;
    checkpoint_name(again, step);
    return strcmp(again, name) ? -1 : step;
}

static int newest_first(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

int checkpoint_list(const char *directory, int64_t **steps, Error *error) {
    DIR *entries = opendir(directory);
    *steps = NULL;
    if (!entries) {
        int reason = errno;
        error_set(error, "%s: %s", directory, strerror(reason));
        errno = reason;
        return -1;
    }
    int count = 0, room = 0;
    for (struct dirent *entry; (entry = readdir(entries));) {
        int64_t step = step_of(entry->d_name);
        if (step < 0) continue;
        if (count == room) {
            room = 2 * room + 16;
            int64_t *more = realloc(*steps, (size_t)room * sizeof *more);
            require(more, "out of memory for a list of checkpoints");
            *steps = more;
        }
        (*steps)[count++] = step;
    }
    closedir(entries);
    if (count) qsort(*steps, (size_t)count, sizeof **steps, newest_first);
    return count;
}

bool checkpoint_is_complete(const char *path, int64_t step, ManifestCheck how, Error *error) {
    static const char *const NEEDED[] = {CHECKPOINT_MODEL, CHECKPOINT_SHAPE, CHECKPOINT_FLAGS, CHECKPOINT_STATE};
    Manifest manifest;
    Error reason = {0};
    int files;
    struct stat status;
    if (step >= 0 && lstat(path, &status) == 0 && S_ISLNK(status.st_mode))
        return error_set(error, "%s: a symbolic link; none inside a run's directory is followed", path);
    if (!manifest_read(path, &manifest, error)) return false;
    bool good = step < 0 || manifest.step == step ||
                error_set(error, "%s: its %s is one of step %" PRId64, path, MANIFEST_NAME, manifest.step);
    for (size_t i = 0; good && i < sizeof NEEDED / sizeof *NEEDED; i++)
        if (!manifest_lists(&manifest, NEEDED[i]))
            good = error_set(error, "%s/%s: does not list %s", path, MANIFEST_NAME, NEEDED[i]);
    good = good && (moments_listed(&manifest, &files, &reason) ||
                    error_set(error, "%s/%s: %s", path, MANIFEST_NAME, reason.text));
    good = good && manifest_check(path, &manifest, how, error);
    manifest_free(&manifest);
    return good;
}

/* The newest complete one before a step in a run's directory. false with an empty error: there is none at all, complete or
 * not. */
static bool find_newest(const char *directory, int64_t before, ManifestCheck how, char path[CHECKPOINT_PATH], Error *error) {
    int64_t *steps;
    int count = checkpoint_list(directory, &steps, error), passed = 0;
    if (count < 0) {
        if (errno == ENOENT) *error = (Error){0};
        return false;
    }
    int later = 0;
    while (later < count && steps[later] >= before) later++;
    count -= later;
    if (count > 0) memmove(steps, steps + later, (size_t)count * sizeof *steps);
    Error *reasons = must_calloc((size_t)count, sizeof *reasons, "a list of checkpoints");
    bool found = false;
    for (; !found && passed < count; passed += !found) {
        char name[64];
        checkpoint_name(name, steps[passed]);
        found = path_join(path, directory, name, &reasons[passed]) &&
                checkpoint_is_complete(path, steps[passed], how, &reasons[passed]);
    }
    for (int i = 0; found && i < passed; i++)
        warn_for_all("passing over an incomplete checkpoint: %s", reasons[i].text);
    *error = (Error){0};
    if (!found && count)
        error_set(
            error,
            "none of the %d checkpoints in %.200s is complete (remove them to start afresh); the newest: %s",
            count, directory, reasons[0].text);
    free(reasons);
    free(steps);
    return found;
}

static bool holds(const char *directory, const char *name) {
    char path[CHECKPOINT_PATH];
    struct stat status;
    Error ignored;
    return path_join(path, directory, name, &ignored) && lstat(path, &status) == 0;
}

bool checkpoint_find(const char *resume, const char *out, char path[CHECKPOINT_PATH], Error *error) {
    return checkpoint_find_before(resume, out, INT64_MAX, MANIFEST_CONTENTS, path, error);
}

bool checkpoint_find_before(const char *resume, const char *out, int64_t step, ManifestCheck how, char path[CHECKPOINT_PATH],
                            Error *error) {
    Error reason = {0};
    const bool all = step == INT64_MAX;
    *error = (Error){0};
    if (strcmp(resume, "auto") == 0) {
        return find_newest(out, step, how, path, &reason) ||
               (reason.text[0] && error_set(error, "--resume auto: %s", reason.text));
    }
    if (holds(resume, MANIFEST_NAME) || holds(resume, CHECKPOINT_STATE) || holds(resume, CHECKPOINT_MODEL)) {
        if (snprintf(path, CHECKPOINT_PATH, "%s", resume) >= CHECKPOINT_PATH)
            return error_set(error, "--resume: the path is too long");
        return all && (checkpoint_is_complete(path, -1, how, &reason) || error_set(error, "--resume %s", reason.text));
    }
    if (find_newest(resume, step, how, path, &reason)) return true;
    if (reason.text[0]) return error_set(error, "--resume %s", reason.text);
    return all && error_set(error, "--resume %s: no checkpoint there", resume);
}

char *checkpoint_identity(const char *path, int64_t *step) {
    Manifest manifest;
    Error ignored;
    if (!manifest_read(path, &manifest, &ignored)) return NULL;
    char *text = manifest_text(&manifest);
    *step = manifest.step;
    manifest_free(&manifest);
    return text;
}

bool checkpoint_parent(const char *path, char parent[CHECKPOINT_PATH], Error *error) {
    char *real = realpath(path, NULL);
    if (!real) return error_set(error, "%s: %s", path, strerror(errno));
    char *slash = strrchr(real, '/');
    slash[slash == real] = '\0';
    const bool fits = snprintf(parent, CHECKPOINT_PATH, "%s", real) < CHECKPOINT_PATH;
    free(real);
    return fits || error_set(error, "%.200s…: the path is too long", path);
}

bool checkpoint_stands_in(const char *path, const char *directory) {
    char parent[CHECKPOINT_PATH];
    Error ignored;
    return checkpoint_parent(path, parent, &ignored) && paths_are_one(parent, directory);
}

int64_t checkpoint_newest_step(const char *out) {
    int64_t *steps, newest = -1;
    Error ignored;
    int count = checkpoint_list(out, &steps, &ignored);
    for (int i = 0; newest < 0 && i < count; i++) {
        char name[64], path[CHECKPOINT_PATH];
        checkpoint_name(name, steps[i]);
        if (path_join(path, out, name, &ignored) && checkpoint_is_complete(path, steps[i], MANIFEST_SIZES, &ignored))
            newest = steps[i];
    }
    free(steps);
    return newest;
}

bool checkpoint_claim(const char *out, Error *error) {
    char trial[CHECKPOINT_PATH], parent[CHECKPOINT_PATH];
    if (!directory_make(out, error)) return false;
    Error ignored; /* a parent that may not be read is no reason not to run */
    if (path_join(parent, out, "..", &ignored)) (void)directory_sync(parent, &ignored);
    int fd = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* stays open: the lock goes with the process */
    if (fd < 0) return error_set(error, "%s: %s", out, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) /* other errors: a file system without locks */
        return error_set(error, "%s: another run is writing there", out);
    if (!path_join(trial, out, ".trial", error)) return false;
    if (mkdir(trial, 0777) && errno != EEXIST)
        return error_set(error, "%s: cannot write there: %s", out, strerror(errno));
    rmdir(trial);
    return true;
}
