/* flags_file.c: see flags_file.h. */
#define _GNU_SOURCE
#include "flags_file.h"
#include "../base/directory.h"
#include "../settings/usage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME "config.ini"

/* The first line tells our file from one that a person has written. */
static const char MARK[] = "# Every flag of this run, written by train_gpt ";

static bool is_ours(const char *path, size_t *size) {
    enum { MOST = 1 << 20 };
    Error ignored;
    char *bytes = inner_file_read(path, MOST, size, &ignored);
    bool ours = bytes && *size >= sizeof MARK - 1 && memcmp(bytes, MARK, sizeof MARK - 1) == 0;
    free(bytes);
    return ours;
}

static bool replace(const char *path, const char *partial, const char *text, size_t size, Error *error) {
    unlink(partial); /* of a run that was killed here */
    if (!durable_write(partial, text, size, error)) {
        unlink(partial);
        return false;
    }
    if (rename(partial, path) == 0) return true;
    error_set(error, "%s: cannot rename to it: %s", path, strerror(errno));
    unlink(partial);
    return false;
}

static bool write_there(const Config *config, Error *error) {
    char path[PATH_SIZE], partial[PATH_SIZE], *text = NULL;
    size_t size;
    struct stat status;
    if (!path_join(path, config->out, NAME, error) || !path_join(partial, config->out, "." NAME ".partial", error))
        return false;
    if (lstat(path, &status) == 0 && !is_ours(path, &size))
        return error_set(error, "%s: not written by an earlier run, so it stays as it is", path);
    FILE *file = open_memstream(&text, &size);
    require(file, "out of memory for " NAME);
    fprintf(file, "%s%s: --config %s --out OTHER repeats it\n", MARK, program_version(), NAME);
    config_write(config, file);
    require(fclose(file) == 0, "out of memory for " NAME);
    bool good = replace(path, partial, text, size, error);
    free(text);
    return good;
}

void flags_file_write(const Config *config) {
    Error error = {0};
    if (config->out && config->rank == 0 && !write_there(config, &error)) warn("%s; the run's flags are in its checkpoints alone", error.text);
}
