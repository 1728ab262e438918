/*
 * checkpoint_fixture.h: what the tests of checkpoints and of foreign weights share: a folder of their own, and a model
 * with a random state.
 */
#ifndef CHECKPOINT_FIXTURE_H
#define CHECKPOINT_FIXTURE_H

#include "../src/base/directory.h"
#include "../src/model/optim.h"
#include "../src/base/philox.h"
#include "../src/settings/resolve.h"
#include "settings.h"

#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <sys/stat.h>

/* ------------------------------------------------------------------------------------------------------ files */

static char folder[64]; /* of this test */

static inline int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_checkpoint_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* folder/name in one of a few buffers that take turns. */
static inline const char *at(const char *name) {
    static char paths[8][PATH_SIZE];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, PATH_SIZE, "%s/%s", folder, name);
    return path;
}

static inline void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void write_words(const char *path, const char *text) { write_file(path, text, strlen(text)); }

static inline void flip_byte(const char *path, size_t position, int change) {
    int fd = open(path, O_RDWR);
    unsigned char byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)position), 1);
    byte ^= (unsigned char)change;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)position), 1);
    close(fd);
}

static inline bool exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

static inline void assert_says(const Error *error, const char *word) {
    if (!strstr(error->text, word)) fail_msg("'%s' is not in: %s", word, error->text);
}

/* ------------------------------------------------------------------------------------------------------- a run */

typedef struct Fixture {
    Config config;
    Model model;
    Optimizer optimizer;
} Fixture;

static inline void setup(Fixture *f, const Kernels *k, const char *settings) {
    char all[512];
    memset(f, 0, sizeof *f);
    snprintf(all, sizeof all, "n-layer=2 n-embd=8 n-head=2 seq-len=4 batch-size=2 vocab-size=19 keep=2 threads=1 %s", settings);
    configure_raw(&f->config, all);
    config_resolve(&f->config, 1);
    f->config.out = folder;
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
}

static inline void teardown(Fixture *f) {
    optimizer_destroy(&f->optimizer);
    model_destroy(&f->model);
}

static inline size_t arena_bytes(const Fixture *f) { return (size_t)f->model.params.elements * dtype_size(f->model.k->accum); }

/* Random numbers where an arena has parameters, zero in its padding. */
static inline void randomize(const Fixture *f, void *arena, const char *what) {
    const Params *params = &f->model.params;
    memset(arena, 0, arena_bytes(f));
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++) {
                    int64_t element = p->offset + (p->piece[j].row0 + r) * params_row_stride(p) + c;
                    double value = philox_normal(5, philox_name_hash(what), (uint64_t)element);
                    if (f->model.k->accum == DTYPE_F64) ((double *)arena)[element] = value;
                    else ((float *)arena)[element] = (float)value;
                }
    }
}

static inline void fill_run(Fixture *f, StepState *state) {
    randomize(f, f->model.master, "master");
    randomize(f, f->optimizer.m, "m");
    randomize(f, f->optimizer.v, "v");
    *state = (StepState){.applied = 39, .skips_in_a_row = 1, .window_count = SKIP_WINDOW, .window_next = 17};
    for (int i = 0; i < SKIP_WINDOW; i++) {
        state->loss_window[i] = philox_uniform(1, 2, (uint64_t)i) * 3;
        state->norm_window[i] = exp(100 * philox_normal(1, 3, (uint64_t)i)); /* every digit, far from 1 too */
    }
    optimizer_write(&f->optimizer, state);
}

#endif
