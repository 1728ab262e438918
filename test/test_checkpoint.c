/*
 * test_checkpoint.c: a checkpoint comes back bit for bit or is refused by name, and so do weights that others wrote.
 *
 * What happens when the machine fails on the way is test_faults.py's.
 */
#include "../src/checkpoint.h"
#include "../src/checksum.h"
#include "../src/json.h"
#include "../src/manifest.h"
#include "../src/philox.h"
#include "../src/pretrained.h"
#include "../src/weights.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* ------------------------------------------------------------------------------------------------------ files */

static char folder[64]; /* of this test */

static int make_folder(void **state) {
    (void)state;
    strcpy(folder, "/tmp/test_checkpoint_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* folder/name in one of a few buffers that take turns. */
static const char *at(const char *name) {
    static char paths[8][PATH_SIZE];
    static int turn;
    char *path = paths[turn++ % 8];
    snprintf(path, PATH_SIZE, "%s/%s", folder, name);
    return path;
}

static void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void write_words(const char *path, const char *text) { write_file(path, text, strlen(text)); }

static void flip_byte(const char *path, size_t position, int change) {
    int fd = open(path, O_RDWR);
    unsigned char byte;
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, (off_t)position), 1);
    byte ^= (unsigned char)change;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)position), 1);
    close(fd);
}

static bool exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

static void assert_says(const Error *error, const char *word) {
    if (!strstr(error->text, word)) fail_msg("'%s' is not in: %s", word, error->text);
}

/* ---------------------------------------------------------------------------------------------------- checksum */

static uint64_t bit_by_bit(const unsigned char *bytes, size_t size) {
    uint64_t crc = UINT64_MAX;
    for (size_t i = 0; i < size; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? UINT64_C(0xc96c5795d7870f42) : 0);
    }
    return ~crc;
}

static void checksum_is_the_crc_of_xz_files(void **state) {
    (void)state;
    unsigned char bytes[100];
    assert_true(checksum(0, "123456789", 9) == UINT64_C(0x995dc9bbdf1939fa));
    assert_true(checksum(0, "", 0) == 0);
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * i + 7);
    for (size_t first = 0; first < 9; first++)
        for (size_t size = 0; first + size <= sizeof bytes; size++)
            assert_true(checksum(0, bytes + first, size) == bit_by_bit(bytes + first, size));
    for (size_t split = 0; split <= sizeof bytes; split++)
        assert_true(checksum(checksum(0, bytes, split), bytes + split, sizeof bytes - split) ==
                    bit_by_bit(bytes, sizeof bytes));
}

/* ---------------------------------------------------------------------------------------------------- manifest */

static char *example_manifest(void) {
    ManifestFile files[] = {{"model.safetensors", 472656, UINT64_C(0x0123456789abcdef)},
                            {"state.json", 0, 0},
                            {"a_b-C.9", UINT64_C(1) << 53, UINT64_MAX}};
    return manifest_text(&(Manifest){.step = 123456789, .files = files, .count = 3});
}

static void a_manifest_comes_back(void **state) {
    (void)state;
    char *text = example_manifest();
    Manifest manifest;
    Error error = {0};
    assert_true(manifest_parse(text, strlen(text), &manifest, &error));
    assert_int_equal(manifest.step, 123456789);
    assert_int_equal(manifest.count, 3);
    assert_string_equal(manifest.files[2].name, "a_b-C.9");
    assert_true(manifest.files[2].bytes == UINT64_C(1) << 53 && manifest.files[2].checksum == UINT64_MAX);
    assert_true(manifest_lists(&manifest, "state.json") && !manifest_lists(&manifest, "config.json"));
    manifest_free(&manifest);
    free(text);
}

static void no_changed_byte_of_a_manifest_goes_unseen(void **state) {
    (void)state;
    char *text = example_manifest();
    size_t size = strlen(text);
    Manifest manifest;
    Error error;
    for (size_t i = 0; i < size; i++)
        for (int change = 1; change < 256; change++) {
            text[i] ^= (char)change;
            error = (Error){0};
            if (manifest_parse(text, size, &manifest, &error)) fail_msg("byte %zu changed by %d", i, change);
            assert_true(error.text[0] && !strchr(error.text, '\n'));
            text[i] ^= (char)change;
        }
    for (size_t length = 0; length < size; length++) assert_false(manifest_parse(text, length, &manifest, &error));
    for (size_t from = 1; from < size; from++) assert_false(manifest_parse(text + from, size - from, &manifest, &error));
    char *longer = malloc(size + 2);
    for (const char *extra = " \n\r}x"; *extra; extra++) {
        sprintf(longer, "%s%c", text, *extra);
        assert_false(manifest_parse(longer, size + 1, &manifest, &error));
    }
    free(longer);
    free(text);
}

static void manifests_that_make_no_sense_are_refused_by_field(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } CASES[] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{}", "'format'"},
        {"{\"format\": 1}", "format 1"},
        {"{\"format\": 3}", "format 3"},
        {"{\"format\": 2.5}", "'format'"},
        {"{\"format\": 2, \"format\": 2}", "twice"},
        {"{\"format\": 2}", "'step'"},
        {"{\"format\": 2, \"step\": -1}", "'step'"},
        {"{\"format\": 2, \"step\": 1e300}", "'step'"},
        {"{\"format\": 2, \"step\": 1, \"files\": {}}", "'files'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [1]}", "'name'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [{\"name\": \"a\", \"bytes\": 1}]}", "'crc64'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [{\"name\": \"a\", \"bytes\": 1, \"crc64\": \"1\"}]}", "'crc64'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [{\"name\": \"a\", \"bytes\": -1, \"crc64\": \"0\"}]}", "'bytes'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [{\"name\": \"..\", \"bytes\": 1, \"crc64\": \"0\"}]}", "'..'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [{\"name\": \"/a\", \"bytes\": 1, \"crc64\": \"0\"}]}", "'/a'"},
        {"{\"format\": 2, \"step\": 1, \"files\": [], \"crc64\": \"0\"}", "checksum"},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Manifest manifest;
        Error error = {0};
        assert_false(manifest_parse(CASES[i].text, strlen(CASES[i].text), &manifest, &error));
        assert_says(&error, CASES[i].says);
        assert_null(manifest.files);
    }
    /* A list longer than any checkpoint's is refused before its quadratic check for doubles. */
    size_t count = MANIFEST_FILES_MOST + 1, used = 0;
    char *text = malloc(count * 64 + 100);
    used += (size_t)sprintf(text, "{\"format\": 2, \"step\": 1, \"files\": [");
    for (size_t i = 0; i < count; i++) used += (size_t)sprintf(text + used, "%s{\"name\": \"f%zu\"}", i ? "," : "", i);
    used += (size_t)sprintf(text + used, "]}");
    Manifest manifest;
    Error error = {0};
    assert_false(manifest_parse(text, used, &manifest, &error));
    assert_says(&error, "4096");
    free(text);
}

static void names_that_leave_a_directory_are_not_plain(void **state) {
    (void)state;
    char longest[NAME_SIZE + 1];
    memset(longest, 'a', sizeof longest);
    longest[NAME_SIZE] = '\0';
    static const char *const BAD[] = {"", ".", "..", "../a", "a/b", "/a", ".hidden", "a b", "a\n", "\xc3\xa4", "a\\b", "~"};
    static const char *const GOOD[] = {"a", "model-00001-of-00002.safetensors", "A_b.c", "-", "a..b"};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) assert_false(name_is_plain(BAD[i]));
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) assert_true(name_is_plain(GOOD[i]));
    assert_false(name_is_plain(longest));
    longest[NAME_SIZE - 1] = '\0';
    assert_true(name_is_plain(longest));
}

/* ------------------------------------------------------------------------------------------------------- a run */

typedef struct Fixture {
    Config config;
    Model model;
    Optimizer optimizer;
} Fixture;

static void setup(Fixture *f, const Kernels *k, const char *settings) {
    char all[512], *state = NULL;
    memset(f, 0, sizeof *f);
    snprintf(all, sizeof all, "n-layer=2 n-embd=8 n-head=2 seq-len=4 batch-size=2 vocab-size=19 keep=2 threads=1 %s", settings);
    config_defaults(&f->config);
    for (char *word = strtok_r(all, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        Error error = {0};
        *equals = '\0';
        if (!config_set(&f->config, word, equals + 1, &error)) fail_msg("%s", error.text);
    }
    config_resolve(&f->config, 1);
    f->config.out = folder;
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
}

static void teardown(Fixture *f) {
    optimizer_destroy(&f->optimizer);
    model_destroy(&f->model);
}

static size_t arena_bytes(const Fixture *f) { return (size_t)f->model.params.elements * dtype_size(f->model.k->accum); }

/* Random numbers where an arena has parameters, zero in its padding. */
static void randomize(const Fixture *f, void *arena, const char *what) {
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

static void fill_run(Fixture *f, StepState *state) {
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

static Progress progress_of(int64_t step) { return (Progress){.step = step, .windows = 2 * step, .epoch_windows = 77}; }

static void save(Fixture *f, int64_t step) {
    char path[CHECKPOINT_PATH];
    Error error = {0};
    Progress progress = progress_of(step);
    if (!checkpoint_save(&f->config, &f->model, &f->optimizer, &progress, path, &error)) fail_msg("%s", error.text);
}

static const char *in_step(int64_t step, const char *name) {
    char text[NAME_SIZE + 64];
    checkpoint_name(text, step);
    snprintf(text + strlen(text), NAME_SIZE, "/%s", name);
    return at(text);
}

static void a_run_comes_back_bit_for_bit(void **state) {
    (void)state;
    static const Kernels *const ALL[] = {&kernels_cpu_f32, &kernels_cpu_f64};
    static const char *const SETTINGS[] = {"", "arch=llama n-kv-head=1 tie-embeddings=on", "arch=llama vocab-size=33"};
    for (size_t i = 0; i < 6; i++) {
        Fixture written, read;
        StepState before;
        Progress progress;
        Error error = {0};
        char path[CHECKPOINT_PATH];
        setup(&written, ALL[i % 2], SETTINGS[i / 2]);
        setup(&read, ALL[i % 2], SETTINGS[i / 2]);
        fill_run(&written, &before);
        save(&written, 40 + (int64_t)i);
        assert_true(checkpoint_find("auto", folder, path, &error));
        if (!checkpoint_load(path, &read.config, &read.model, &read.optimizer, &progress, &error)) fail_msg("%s", error.text);
        Progress want = progress_of(40 + (int64_t)i);
        assert_memory_equal(&progress, &want, sizeof want);
        assert_memory_equal(read.model.master, written.model.master, arena_bytes(&read));
        assert_memory_equal(read.optimizer.m, written.optimizer.m, arena_bytes(&read));
        assert_memory_equal(read.optimizer.v, written.optimizer.v, arena_bytes(&read));
        const StepState *after = optimizer_read(&read.optimizer);
        assert_int_equal(after->applied, 39);
        assert_int_equal(after->skips_in_a_row, 1);
        assert_int_equal(after->window_count, SKIP_WINDOW);
        assert_int_equal(after->window_next, 17);
        assert_memory_equal(after->loss_window, before.loss_window, sizeof before.loss_window);
        assert_memory_equal(after->norm_window, before.norm_window, sizeof before.norm_window);
        teardown(&written);
        teardown(&read);
    }
}

static void the_newest_are_kept_and_leftovers_go(void **state) {
    (void)state;
    Fixture f;
    StepState step_state;
    struct stat first, again;
    setup(&f, &kernels_cpu_f32, "");
    fill_run(&f, &step_state);
    mkdir(at(".step_00000001.partial"), 0777);
    write_words(at(".step_00000001.partial/model.safetensors"), "half a file");
    write_words(at(".step_00000001.old"), "a file");
    assert_int_equal(symlink("/nowhere", at(".step_00000002.partial")), 0);
    for (int64_t step = 40; step < 50; step += 3) save(&f, step);
    assert_true(!exists(at(".step_00000001.partial")) && !exists(at(".step_00000001.old")));
    assert_false(exists(at(".step_00000002.partial")));
    assert_true(!exists(in_step(40, "")) && !exists(in_step(43, "")) && exists(in_step(46, "")) && exists(in_step(49, "")));
    assert_int_equal(checkpoint_newest_step(folder), 49);
    /* What is there and complete is let be; what is not is replaced. */
    assert_int_equal(stat(in_step(49, CHECKPOINT_MODEL), &first), 0);
    save(&f, 49);
    assert_int_equal(stat(in_step(49, CHECKPOINT_MODEL), &again), 0);
    assert_true(first.st_ino == again.st_ino && first.st_mtim.tv_nsec == again.st_mtim.tv_nsec);
    flip_byte(in_step(49, CHECKPOINT_MODEL), 3000, 1);
    save(&f, 49);
    Error error = {0};
    assert_true(checkpoint_is_complete(in_step(49, ""), 49, true, &error));
    teardown(&f);
}

static void the_newest_complete_one_is_found(void **state) {
    (void)state;
    Fixture f;
    StepState step_state;
    char path[CHECKPOINT_PATH];
    Error error = {0};
    setup(&f, &kernels_cpu_f32, "keep=9");
    fill_run(&f, &step_state);
    assert_false(checkpoint_find("auto", folder, path, &error));
    assert_string_equal(error.text, "");
    assert_false(checkpoint_find("auto", at("nowhere"), path, &error));
    assert_string_equal(error.text, "");
    assert_false(checkpoint_find(folder, NULL, path, &error));
    assert_says(&error, folder);
    for (int64_t step = 40; step < 43; step++) save(&f, step);
    mkdir(in_step(50, ""), 0777);
    flip_byte(in_step(42, CHECKPOINT_STATE), 30, 16);
    assert_true(checkpoint_find("auto", folder, path, &error) && strcmp(path, in_step(41, "") ) < 0);
    assert_true(strstr(path, "step_00000041"));
    assert_true(checkpoint_find(folder, NULL, path, &error) && strstr(path, "step_00000041"));
    assert_int_equal(checkpoint_newest_step(folder), 42); /* by size alone */
    flip_byte(in_step(41, CHECKPOINT_STATE), 30, 16);
    assert_int_equal(unlink(in_step(40, CHECKPOINT_SHAPE)), 0);
    assert_false(checkpoint_find("auto", folder, path, &error));
    assert_says(&error, "none of the 4");
    assert_says(&error, "step_00000050: no manifest.json");
    assert_false(checkpoint_find(in_step(40, ""), NULL, path, &error));
    assert_says(&error, CHECKPOINT_SHAPE);
    /* A copy under another step's name is not that step. */
    flip_byte(in_step(41, CHECKPOINT_STATE), 30, 16);
    assert_int_equal(rename(in_step(41, ""), in_step(60, "")), 0);
    assert_false(checkpoint_find("auto", folder, path, &error));
    assert_says(&error, "step 41");
    teardown(&f);
}

static void no_flipped_bit_of_a_checkpoint_goes_unseen(void **state) {
    (void)state;
    static const char *const NAMES[] = {CHECKPOINT_MODEL, CHECKPOINT_MOMENTS, CHECKPOINT_SHAPE, CHECKPOINT_FLAGS,
                                        CHECKPOINT_STATE, MANIFEST_NAME};
    Fixture f;
    StepState step_state;
    Error error;
    setup(&f, &kernels_cpu_f32, "");
    fill_run(&f, &step_state);
    save(&f, 40);
    char path[CHECKPOINT_PATH], found[CHECKPOINT_PATH];
    for (int i = 0; i < 6; i++) {
        struct stat status;
        strcpy(path, in_step(40, NAMES[i]));
        assert_int_equal(stat(path, &status), 0);
        int64_t size = (int64_t)status.st_size;
        /* Every byte of the manifest; 1,000 positions elsewhere. */
        int64_t count = strcmp(NAMES[i], MANIFEST_NAME) ? 200 : size;
        for (int64_t n = 0; n < count; n++) {
            double draw = philox_uniform(9, (uint64_t)i, (uint64_t)n);
            size_t position = (size_t)(count == size ? n : (int64_t)(draw * (double)size));
            int change = 1 << (n % 8);
            flip_byte(path, position, change);
            error = (Error){0};
            if (checkpoint_find(in_step(40, ""), NULL, found, &error)) fail_msg("%s: byte %zu", NAMES[i], position);
            assert_says(&error, NAMES[i]);
            flip_byte(path, position, change);
        }
    }
    assert_true(checkpoint_find(in_step(40, ""), NULL, found, &error));
    teardown(&f);
}

static void what_is_not_finite_is_not_saved(void **state) {
    (void)state;
    Fixture f;
    StepState step_state;
    char path[CHECKPOINT_PATH];
    Progress progress = progress_of(40);
    Error error = {0};
    setup(&f, &kernels_cpu_f32, "");
    fill_run(&f, &step_state);
    step_state.norm_window[5] = INFINITY;
    optimizer_write(&f.optimizer, &step_state);
    assert_false(checkpoint_save(&f.config, &f.model, &f.optimizer, &progress, path, &error));
    assert_says(&error, "skip window");
    fill_run(&f, &step_state);
    ((float *)f.optimizer.v)[params_find(&f.model.params, PARAM_MLP_IN, 1)->offset] = NAN;
    assert_false(checkpoint_save(&f.config, &f.model, &f.optimizer, &progress, path, &error));
    assert_says(&error, "transformer.h.1.mlp.c_fc.weight");
    assert_int_equal(rmdir(folder), 0); /* nothing was left behind */
    assert_int_equal(mkdir(folder, 0777), 0);
    teardown(&f);
}

/* ------------------------------------------------------------------------------------------- choices of GEMMs */

static char given[64];

static char *some_choices(void) { return strcpy(malloc(64), "{\"gpu\": \"none\"}"); }

static bool take_choices(const char *json, char *text, size_t size) {
    snprintf(given, sizeof given, "%s", json);
    snprintf(text, size, "measured on another GPU");
    return false; /* said, and gone on with */
}

static void gemm_choices_are_kept_and_given_back(void **state) {
    (void)state;
    Kernels kernels = kernels_cpu_f32;
    kernels.gemm_choices_save = some_choices;
    kernels.gemm_choices_load = take_choices;
    Fixture f;
    StepState step_state;
    Progress progress;
    Error error = {0};
    char path[CHECKPOINT_PATH];
    setup(&f, &kernels, "");
    fill_run(&f, &step_state);
    save(&f, 40);
    assert_true(exists(in_step(40, CHECKPOINT_GEMM)));
    assert_true(checkpoint_find("auto", folder, path, &error));
    assert_true(checkpoint_load(path, &f.config, &f.model, &f.optimizer, &progress, &error));
    assert_string_equal(given, "{\"gpu\": \"none\"}");
    flip_byte(in_step(40, CHECKPOINT_GEMM), 3, 1);
    assert_false(checkpoint_find("auto", folder, path, &error));
    assert_says(&error, CHECKPOINT_GEMM);
    teardown(&f);
}

/* ------------------------------------------------------------------------------------------ weights of others */

/* A file of a model's parameters [first, last), named by `rename`, and one tensor more if extra is given. */
static void write_shard(const Fixture *f, const char *path, int first, int last, const char *cut, const char *extra,
                        double extra_factor) {
    int count;
    FileTensor *tensors = params_file_tensors(&f->model.params, &count);
    SafetensorsEntry *entries = calloc((size_t)count + 1, sizeof *entries);
    size_t n = 0, embedding = 0;
    if (last > count) last = count;
    for (int i = first; i < last; i++) {
        const char *name = tensors[i].name;
        if (strncmp(name, cut, strlen(cut)) == 0) name += strlen(cut);
        entries[n] = (SafetensorsEntry){.name = name, .dtype = SAFETENSORS_F64, .n_dims = (size_t)tensors[i].dims};
        for (int d = 0; d < tensors[i].dims; d++) entries[n].shape[d] = (uint64_t)tensors[i].shape[d];
        n++;
    }
    while (tensors[embedding].param->id != PARAM_TOKENS) embedding++;
    bool is_head = extra && strcmp(extra, "lm_head.weight") == 0;
    if (extra) {
        entries[n] = (SafetensorsEntry){.name = extra, .dtype = SAFETENSORS_F64, .n_dims = 2};
        entries[n].shape[0] = is_head ? (uint64_t)tensors[embedding].shape[0] : 1;
        entries[n].shape[1] = is_head ? (uint64_t)tensors[embedding].shape[1] : 1;
    }
    Error error = {0};
    SafetensorsWriter *writer = safetensors_writer_begin(path, entries, n + (extra != NULL), NULL, 0, &error);
    if (!writer) fail_msg("%s", error.text);
    for (size_t e = 0; e < n + (extra != NULL); e++) {
        const FileTensor *t = &tensors[e < n ? (size_t)first + e : embedding];
        int64_t rows = t->rows, cols = t->param->cols, numbers = e == n && !is_head ? 1 : rows * cols;
        double *values = calloc((size_t)(rows * cols), sizeof *values);
        const double *arena = f->model.master;
        params_pack(t, DTYPE_F64, rows, arena + t->param->offset + t->row0 * params_row_stride(t->param), values);
        for (int64_t i = 0; e == n && i < numbers; i++) values[i] *= extra_factor;
        assert_true(safetensors_writer_append(writer, e, values, (size_t)numbers * sizeof *values, &error));
        free(values);
    }
    assert_true(safetensors_writer_finish(writer, &error));
    free(entries);
    free(tensors);
}

/* The index over two shards that were cut at `split`. */
static void write_index(const Fixture *f, const char *path, int split, const char *cut, const char *second) {
    int count;
    FileTensor *tensors = params_file_tensors(&f->model.params, &count);
    FILE *file = fopen(path, "w");
    fprintf(file, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
    for (int i = 0; i < count; i++) {
        const char *name = tensors[i].name;
        if (strncmp(name, cut, strlen(cut)) == 0) name += strlen(cut);
        fprintf(file, "%s\"%s\": \"%s\"", i ? ", " : "", name, i < split ? "model-1.safetensors" : second);
    }
    fprintf(file, "}}\n");
    fclose(file);
    free(tensors);
}

static void loads(const Fixture *f, const char *path) {
    Fixture read;
    Error error = {0};
    setup(&read, &kernels_cpu_f64, f->config.arch == ARCH_LLAMA ? "arch=llama" : "");
    if (!pretrained_load(&read.model, path, &error)) fail_msg("%s", error.text);
    assert_memory_equal(read.model.master, f->model.master, arena_bytes(f));
    teardown(&read);
}

static void does_not_load(Fixture *f, const char *path, const char *word, const char *another) {
    Error error = {0};
    assert_false(pretrained_load(&f->model, path, &error));
    assert_says(&error, word);
    assert_says(&error, another);
}

static void weights_of_others_are_read(void **state) {
    (void)state;
    static const char *const CUT[] = {"", "transformer.", "", "model."};
    for (int i = 0; i < 4; i++) {
        Fixture f;
        StepState step_state;
        setup(&f, &kernels_cpu_f64, i < 2 ? "" : "arch=llama");
        fill_run(&f, &step_state);
        write_shard(&f, at("model.safetensors"), 0, 1000, CUT[i], NULL, 1);
        loads(&f, at("model.safetensors"));
        loads(&f, folder);
        assert_int_equal(symlink(at("model.safetensors"), at("link")), 0);
        loads(&f, at("link")); /* what the user names may be a link */
        /* llama's frequencies, gpt2's masks and tied head: beside the parameters, and nothing new. */
        write_shard(&f, at("extra"), 0, 1000, CUT[i], i < 2 ? "h.1.attn.bias" : "layers.0.self_attn.rotary_emb.inv_freq", 1);
        loads(&f, at("extra"));
        if (i < 2) write_shard(&f, at("extra"), 0, 1000, CUT[i], "transformer.h.0.attn.masked_bias", 1);
        loads(&f, at("extra"));
        if (i < 2) write_shard(&f, at("extra"), 0, 1000, CUT[i], "lm_head.weight", 1);
        loads(&f, at("extra"));
        if (i < 2) {
            write_shard(&f, at("extra"), 0, 1000, CUT[i], "lm_head.weight", 1.0000001);
            does_not_load(&f, at("extra"), "lm_head.weight", "ties");
        }
        unlink(at("model.safetensors"));
        unlink(at("link"));
        write_shard(&f, at("model-1.safetensors"), 0, 5, CUT[i], NULL, 1);
        write_shard(&f, at("model-2.safetensors"), 5, 1000, CUT[i], NULL, 1);
        write_index(&f, at("model.safetensors.index.json"), 5, CUT[i], "model-2.safetensors");
        loads(&f, folder);
        loads(&f, at("model.safetensors.index.json"));
        unlink(at("model.safetensors.index.json"));
        teardown(&f);
    }
}

static void weights_that_do_not_fit_are_refused_by_tensor(void **state) {
    (void)state;
    Fixture f;
    StepState step_state;
    setup(&f, &kernels_cpu_f64, "");
    fill_run(&f, &step_state);
    const char *index = "model.safetensors.index.json";
    does_not_load(&f, folder, folder, "neither");
    write_shard(&f, at("m"), 0, 1000, "", "other", 1);
    does_not_load(&f, at("m"), "tensor other", "does not have");
    write_shard(&f, at("m"), 0, 1000, "", "wte.weight", 1); /* with the prefix and without it */
    does_not_load(&f, at("m"), "tensor wte.weight", "does not have");
    write_shard(&f, at("m"), 0, 1000, "", "model.layers.0.self_attn.rotary_emb.inv_freq", 1);
    does_not_load(&f, at("m"), "inv_freq", "does not have");
    write_shard(&f, at("m"), 1, 1000, "", NULL, 1);
    does_not_load(&f, at("m"), "no tensor transformer.wte.weight", at("m"));
    write_shard(&f, at("model-1.safetensors"), 0, 5, "", NULL, 1);
    write_shard(&f, at("model-2.safetensors"), 5, 1000, "", NULL, 1);

    write_index(&f, at(index), 4, "", "model-2.safetensors");
    does_not_load(&f, folder, "model-2.safetensors", "the index says");
    write_index(&f, at(index), 5, "", "model-3.safetensors");
    does_not_load(&f, folder, "model-3.safetensors", "No such file");
    write_index(&f, at(index), 5, "", "../model-2.safetensors");
    does_not_load(&f, folder, index, "'../model-2.safetensors'");
    write_index(&f, at(index), 5, "", "/etc/passwd");
    does_not_load(&f, folder, index, "'/etc/passwd'");
    write_index(&f, at(index), 5, "", "link");
    assert_int_equal(symlink("model-2.safetensors", at("link")), 0);
    does_not_load(&f, folder, at("link"), "symbolic link");
    write_shard(&f, at("model-2.safetensors"), 5, 1000, "", "lm_head.weight", 1);
    write_index(&f, at(index), 5, "", "model-2.safetensors");
    does_not_load(&f, folder, "29 tensors", "the index names 28");
    write_shard(&f, at("model-2.safetensors"), 6, 1000, "", NULL, 1);
    does_not_load(&f, folder, "model-2.safetensors", "the index says");
    unlink(at(index));
    assert_int_equal(symlink(at("m"), at("model.safetensors")), 0);
    does_not_load(&f, folder, at("model.safetensors"), "symbolic link");
    teardown(&f);
}

static void indexes_that_make_no_sense_are_refused_by_field(void **state) {
    (void)state;
    static const struct {
        const char *text, *says;
    } CASES[] = {
        {"", "JSON"},
        {"{", "JSON"},
        {"[]", "object"},
        {"{}", "'weight_map'"},
        {"{\"weight_map\": []}", "'weight_map'"},
        {"{\"weight_map\": {}}", "empty"},
        {"{\"weight_map\": {\"a\": 1}}", "tensor a"},
        {"{\"weight_map\": {\"a\": \"b\", \"c\": null}}", "tensor c"},
        {"{\"weight_map\": {\"a\": \"b\", \"a\": \"b\"}}", "twice"},
        {"{\"weight_map\": {\"a\": \"b/c\"}}", "'b/c'"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "'..'"},
        {"{\"weight_map\": {\"a\": \"\"}}", "''"},
        {"{\"weight_map\": {\"a\": \"b\"}} x", "byte"},
    };
    ShardedTensor *list;
    int count;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        Error error = {0};
        assert_false(pretrained_index_parse(CASES[i].text, strlen(CASES[i].text), &list, &count, &error));
        assert_says(&error, CASES[i].says);
    }
    const char *good = "{\"weight_map\": {\"a\": \"b\", \"c\": \"d\"}}\n";
    Error error = {0};
    assert_true(pretrained_index_parse(good, strlen(good), &list, &count, &error));
    assert_int_equal(count, 2);
    assert_string_equal(list[1].name, "c");
    assert_string_equal(list[1].file, "d");
    pretrained_index_free(list, count);
    /* 100,000 names: what is quadratic shows. */
    size_t size = 3000000, used;
    char *text = malloc(size);
    used = (size_t)sprintf(text, "{\"weight_map\": {");
    for (int i = 0; i < 100000; i++) used += (size_t)sprintf(text + used, "%s\"%d\": \"f\"", i ? "," : "", i);
    used += (size_t)sprintf(text + used, "}}");
    assert_true(pretrained_index_parse(text, used, &list, &count, &error));
    assert_int_equal(count, 100000);
    pretrained_index_free(list, count);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksum_is_the_crc_of_xz_files),
        cmocka_unit_test(a_manifest_comes_back),
        cmocka_unit_test(no_changed_byte_of_a_manifest_goes_unseen),
        cmocka_unit_test(manifests_that_make_no_sense_are_refused_by_field),
        cmocka_unit_test(names_that_leave_a_directory_are_not_plain),
        cmocka_unit_test_setup_teardown(a_run_comes_back_bit_for_bit, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_newest_are_kept_and_leftovers_go, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(the_newest_complete_one_is_found, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(no_flipped_bit_of_a_checkpoint_goes_unseen, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_is_not_finite_is_not_saved, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(gemm_choices_are_kept_and_given_back, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(weights_of_others_are_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(weights_that_do_not_fit_are_refused_by_tensor, make_folder, remove_folder),
        cmocka_unit_test(indexes_that_make_no_sense_are_refused_by_field),
    };
    char text[256] = "";
    if (!kernels_cpu_f32.open(0, text, sizeof text)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
