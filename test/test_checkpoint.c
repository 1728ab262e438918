/*
 * test_checkpoint.c: a checkpoint comes back bit for bit or is refused by name.
 *
 * What happens when the machine fails on the way is test_faults.py's.
 */
#include "checkpoint_fixture.h"

#include "../src/checkpoint/checkpoint.h"
#include "../src/base/checksum.h"
#include "../src/checkpoint/shared_check.h"
#include "../src/checkpoint/manifest.h"

#define MOMENTS "optimizer-0-of-1.safetensors"

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

static void checksums_of_pieces_make_that_of_the_whole(void **state) {
    (void)state;
    unsigned char bytes[64];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (unsigned char)(i * i + 7);
    const uint64_t whole = checksum(0, bytes, sizeof bytes);
    for (size_t a = 0; a <= sizeof bytes; a++)
        for (size_t b = a; b <= sizeof bytes; b++) {
            const uint64_t first = checksum_ahead(checksum(0, bytes, a), sizeof bytes - a);
            const uint64_t second = checksum_ahead(checksum(0, bytes + a, b - a), sizeof bytes - b);
            assert_true((first ^ second ^ checksum(0, bytes + b, sizeof bytes - b)) == whole);
        }
    /* Gigabytes behind are as so many zeros, taken away again. */
    static unsigned char zeros[1 << 20];
    const uint64_t of_zeros = checksum(0, zeros, sizeof zeros), piece = checksum(0, bytes, 5);
    assert_true((checksum_ahead(piece, sizeof zeros) ^ of_zeros) == checksum(piece, zeros, sizeof zeros));
    const uint64_t half = checksum_ahead(piece, UINT64_C(1) << 40);
    assert_true(checksum_ahead(half, UINT64_C(1) << 40) == checksum_ahead(piece, UINT64_C(1) << 41));
}

static void a_rank_has_its_part_and_all_have_everything(void **state) {
    (void)state;
    static const uint64_t TOTALS[] = {0, 1, 7, 100, UINT64_C(1) << 53};
    for (size_t i = 0; i < sizeof TOTALS / sizeof *TOTALS; i++)
        for (int ranks = 1; ranks < 12; ranks++) {
            assert_true(shared_part(TOTALS[i], 0, ranks) == 0 && shared_part(TOTALS[i], ranks, ranks) == TOTALS[i]);
            for (int r = 0; r < ranks; r++) {
                const uint64_t size = shared_part(TOTALS[i], r + 1, ranks) - shared_part(TOTALS[i], r, ranks);
                assert_true(size <= TOTALS[i] / (uint64_t)ranks + 1);
            }
        }
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
    /* A save that was cut before it came to remove the older ones is made good by the next. */
    f.config.keep = 1;
    /* A doubtful one takes no other's place, be it there already or new. */
    char path[CHECKPOINT_PATH];
    Error reason = {0};
    for (int64_t step = 49; step < 51; step++) {
        Progress doubtful = progress_of(step);
        doubtful.doubtful = true;
        assert_true(checkpoint_save(&f.config, &f.model, &f.optimizer, &doubtful, path, &reason));
        assert_true(exists(in_step(46, "")) && exists(in_step(step, "")));
    }
    directory_remove(in_step(50, ""));
    save(&f, 49);
    assert_true(!exists(in_step(46, "")) && exists(in_step(49, "")));
    flip_byte(in_step(49, CHECKPOINT_MODEL), 3000, 1);
    save(&f, 49);
    Error error = {0};
    assert_true(checkpoint_is_complete(in_step(49, ""), 49, MANIFEST_CONTENTS, &error));
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
    static const char *const NAMES[] = {CHECKPOINT_MODEL, MOMENTS, CHECKPOINT_SHAPE, CHECKPOINT_FLAGS,
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksum_is_the_crc_of_xz_files), cmocka_unit_test(checksums_of_pieces_make_that_of_the_whole),
        cmocka_unit_test(a_rank_has_its_part_and_all_have_everything),
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
    };
    char text[256] = "";
    if (!kernels_cpu_f32.open(0, text, sizeof text)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
