/*
 * test_moments.c: moments that any number of ranks have written come back on any other to the bit, and each element stands in
 * one file.
 *
 * Ranks without a wire: a rank's files need none, and each is played in turn. What is refused: test_bad_checkpoints.py.
 */
#include "checkpoint_fixture.h"

#include "../src/checkpoint/checkpoint.h"
#include "../src/checkpoint/moments.h"

/* The model as one of several ranks sees it. */
static void setup_rank(Fixture *f, const Kernels *k, const char *settings, int rank, int ranks) {
    char all[512];
    memset(f, 0, sizeof *f);
    snprintf(all, sizeof all, "n-layer=2 n-embd=24 n-head=2 seq-len=4 batch-size=1 vocab-size=37 threads=1 bucket-mb=0 %s", settings);
    configure_raw(&f->config, all);
    config_resolve(&f->config, ranks);
    f->config.rank = rank;
    model_create(&f->model, &f->config, k, true);
    optimizer_create(&f->optimizer, &f->model);
}

/* Values that hang on nothing but which moment, which tensor and which element of it, over the padding of this many ranks. */
static char *whole_arena(const Fixture *f, int which) {
    const Params *params = &f->model.params;
    char *arena = calloc(1, arena_bytes(f));
    assert_non_null(arena);
    for (int i = 0; i < params->count; i++) {
        const Param *p = &params->list[i];
        for (int j = 0; j < p->pieces; j++)
            for (int64_t r = 0; r < p->piece[j].rows; r++)
                for (int64_t c = 0; c < p->cols; c++) {
                    int64_t at = p->offset + (p->piece[j].row0 + r) * params_row_stride(p) + c;
                    double value = (double)(philox_name_hash(p->piece[j].key) % 1000) + 1e-3 * (double)(which + 2 * (r * p->cols + c));
                    if (f->model.k->accum == DTYPE_F64) ((double *)arena)[at] = value;
                    else ((float *)arena)[at] = (float)value;
                }
    }
    return arena;
}

/* Elements [first, last) of the arenas, which this rank holds from `mine` on. */
static void at_share(char *mine, char *there, int64_t first, int64_t last, size_t size, bool compare) {
    if (last <= first) return;
    if (compare) assert_memory_equal(mine, there + (size_t)first * size, (size_t)(last - first) * size);
    else memcpy(mine, there + (size_t)first * size, (size_t)(last - first) * size);
}

/* Fills this rank's moments with those, or compares. First moments lie share behind share; so do second ones, but what is
 * Muon's is left out. */
static void for_each_share(Fixture *f, bool compare) {
    const Params *params = &f->model.params;
    const size_t size = dtype_size(f->model.k->accum);
    char *first_arena = whole_arena(f, 0), *second_arena = whole_arena(f, 1);
    int64_t held = 0;
    for (int b = 0; b < params->buckets; b++) {
        const Share *s = &f->optimizer.share[b];
        at_share((char *)f->optimizer.m + (size_t)s->moments * size, first_arena, s->begin, s->end, size, compare);
        for (int i = 0; i < params->count; i++) {
            const Param *p = &params->list[i];
            if (p->optimizer != OPTIMIZER_ADAMW || p->offset < params->bucket[b].begin || p->offset >= params->bucket[b].end) continue;
            const int64_t end = p->offset + p->count, first = p->offset > s->begin ? p->offset : s->begin;
            const int64_t last = end < s->end ? end : s->end;
            at_share((char *)f->optimizer.v + (size_t)held * size, second_arena, first, last, size, compare);
            if (last > first) held += last - first;
        }
    }
    assert_int_equal(f->optimizer.second_moments, held);
    free(first_arena);
    free(second_arena);
}

static void write_as(const Kernels *k, const char *settings, int ranks, const char *directory) {
    assert_int_equal(mkdir(directory, 0777), 0);
    for (int r = 0, files = 1; r < files; r++) {
        Fixture f;
        Error error = {0};
        setup_rank(&f, k, settings, r, ranks);
        files = moments_files(&f.optimizer);
        for_each_share(&f, false);
        assert_int_equal(moments_find_not_finite(&f.optimizer), -1);
        if (!moments_write(directory, &f.optimizer, &error)) fail_msg("%s", error.text);
        teardown(&f);
    }
}

static void read_as(const Kernels *k, const char *settings, int ranks, const char *directory, int files) {
    for (int r = 0; r < ranks; r++) {
        Fixture f;
        Error error = {0};
        setup_rank(&f, k, settings, r, ranks);
        if (!moments_read(directory, files, &f.optimizer, &error)) fail_msg("%s, %d files on %d: %s", settings, files, ranks, error.text);
        for_each_share(&f, true);
        teardown(&f);
    }
}

static void all_to_all(const Kernels *k, const char *settings, const int *counts, int n) {
    for (int i = 0; i < n; i++) {
        char name[32];
        snprintf(name, sizeof name, "of%d", counts[i]);
        char directory[PATH_SIZE];
        strcpy(directory, at(name));
        write_as(k, settings, counts[i], directory);
        for (int j = 0; j < n; j++) read_as(k, settings, counts[j], directory, counts[i]);
        directory_remove(directory);
    }
}

static void any_number_of_ranks_reads_what_any_other_wrote(void **state) {
    (void)state;
    static const int COUNTS[] = {1, 2, 3, 4, 8};
    static const char *const SETTINGS[] = {
        "", "arch=llama n-ffn=50 n-kv-head=1", "arch=llama sdd=released placement=post n-ffn=50 gpas=layer", "activation=swiglu n-ffn=50 norm=bhyt",
        "bucket-mb=25 tie-embeddings=off", "n-embd=144 vocab-size=61", "arch=llama n-embd=144 n-ffn=200",
        "optimizer=muon n-ffn=50", "arch=llama optimizer=muon muon-split=heads n-embd=144 n-ffn=200 bucket-mb=25"}; /* pieces end within rows */
    for (size_t s = 0; s < sizeof SETTINGS / sizeof *SETTINGS; s++)
        all_to_all(s % 2 ? &kernels_cpu_f64 : &kernels_cpu_f32, SETTINGS[s], COUNTS, 5);
}

/* Some hold nothing but padding: their files have no tensor. */
static void so_do_more_ranks_than_there_is_to_share(void **state) {
    (void)state;
    static const int COUNTS[] = {1, 40};
    static const char SETTINGS[] = "n-layer=1 n-embd=8 vocab-size=5 seq-len=2";
    int empty = 0;
    all_to_all(&kernels_cpu_f32, SETTINGS, COUNTS, 2);
    write_as(&kernels_cpu_f32, SETTINGS, 40, at("of40"));
    for (int i = 0; i < 40; i++) {
        char name[NAME_SIZE], path[PATH_SIZE];
        SafetensorsFile file;
        Error error = {0};
        moments_name(name, i, 40);
        snprintf(path, sizeof path, "%s/of40/%s", folder, name);
        assert_true(safetensors_open(&file, path, &error));
        empty += file.header.n_tensors == 0;
        safetensors_close(&file);
    }
    assert_true(empty > 0);
}

/* More elements than are moved at once, of a matrix that files hold transposed and of one that they do not. */
static void so_do_large_tensors(void **state) {
    (void)state;
    static const int COUNTS[] = {1, 3};
    all_to_all(&kernels_cpu_f32, "n-layer=1 n-ffn=17001 vocab-size=17001", COUNTS, 2);
}

static void a_share_holds_whole_tensors_under_their_names_and_parts_with_their_range(void **state) {
    (void)state;
    SafetensorsFile file;
    Error error = {0};
    char directory[PATH_SIZE], path[PATH_SIZE + 64];
    strcpy(directory, at("of2"));
    write_as(&kernels_cpu_f32, "", 2, directory);
    snprintf(path, sizeof path, "%s/optimizer-1-of-2.safetensors", directory);
    assert_true(safetensors_open(&file, path, &error));
    /* The [24, 96] of files are 96 rows of 24 here: 32 of them are rank 0's. */
    const SafetensorsTensor *part = safetensors_find(&file.header, "m.transformer.h.0.mlp.c_fc.weight.T[768:2304]");
    assert_true(part && part->n_dims == 1 && part->shape[0] == 1536);
    const SafetensorsTensor *whole = safetensors_find(&file.header, "v.transformer.h.1.mlp.c_proj.weight");
    assert_true(whole && whole->n_dims == 2 && whole->shape[0] == 96 && whole->shape[1] == 24);
    assert_null(safetensors_find(&file.header, "m.transformer.ln_f.weight")); /* rank 0's */
    safetensors_close(&file);
    snprintf(path, sizeof path, "%s/optimizer-0-of-2.safetensors", directory);
    assert_true(safetensors_open(&file, path, &error));
    assert_non_null(safetensors_find(&file.header, "m.transformer.ln_f.weight"));
    assert_non_null(safetensors_find(&file.header, "m.transformer.h.0.mlp.c_fc.weight.T[0:768]"));
    assert_non_null(safetensors_find(&file.header, "m.transformer.wte.weight")); /* rank 1 has wpe */
    safetensors_close(&file);
}

/* With --zero 0 every rank holds everything, and one writes. */
static void what_every_rank_holds_one_writes(void **state) {
    (void)state;
    char directory[PATH_SIZE];
    strcpy(directory, at("zero"));
    write_as(&kernels_cpu_f32, "zero=0", 3, directory);
    read_as(&kernels_cpu_f32, "zero=0", 3, directory, 1);
    read_as(&kernels_cpu_f32, "zero=1", 3, directory, 1);
    read_as(&kernels_cpu_f32, "zero=1", 1, directory, 1);
}

static void a_number_that_is_not_finite_is_found_on_its_rank_and_not_written(void **state) {
    (void)state;
    static const char *const SETTINGS[] = {"", "arch=llama"};
    for (int i = 0; i < 2; i++) {
        Fixture f;
        Error error = {0};
        int count;
        setup_rank(&f, &kernels_cpu_f32, SETTINGS[i], 1, 2);
        FileTensor *tensors = params_file_tensors(&f.model.params, &count);
        const Param *last = params_find(&f.model.params, PARAM_MLP_OUT, 1);
        for (int b = 0; b < f.model.params.buckets; b++) {
            const Share *s = &f.optimizer.share[b];
            if (last->offset < s->begin || last->offset >= s->end) continue;
            ((float *)f.optimizer.v)[s->moments + last->offset - s->begin] = NAN;
        }
        const int found = moments_find_not_finite(&f.optimizer);
        assert_true(found >= count && tensors[found % count].param == last);
        assert_false(moments_write(folder, &f.optimizer, &error));
        assert_says(&error, tensors[found % count].name);
        assert_false(exists(at("optimizer-1-of-2.safetensors")));
        free(tensors);
        teardown(&f);
    }
}

static void a_manifest_lists_each_file_of_as_many(void **state) {
    (void)state;
    static const struct {
        const char *names[4], *says; /* NULL: good */
        int files;
    } CASES[] = {
        {{"optimizer-0-of-1.safetensors"}, NULL, 1},
        {{"state.json", "optimizer-1-of-2.safetensors", "optimizer-0-of-2.safetensors"}, NULL, 2},
        {{"state.json"}, "does not list optimizer-0-of-1.safetensors", 0},
        {{"optimizer-0-of-3.safetensors", "optimizer-2-of-3.safetensors"}, "does not list optimizer-1-of-3.safetensors", 0},
        {{"optimizer-0-of-1.safetensors", "optimizer-1-of-2.safetensors"}, "only one can be", 0},
        {{"optimizer-0-of-2.safetensors", "optimizer-1-of-2.safetensors", "optimizer-0-of-1.safetensors"}, "only one can be", 0},
        {{"optimizer-0-of-1.safetensors", "optimizer-1-of-1.safetensors"}, "no file of a rank's", 0},
        {{"optimizer-00-of-1.safetensors"}, "no file of a rank's", 0},
        {{"optimizer-0-of-0.safetensors"}, "no file of a rank's", 0},
        {{"optimizer--1-of-1.safetensors"}, "no file of a rank's", 0},
        {{"optimizer-0-of-1.safetensors.partial"}, "no file of a rank's", 0},
        {{"optimizer-0-of-999999999.safetensors"}, "does not list optimizer-1-of-999999999.safetensors", 0},
        {{"optimizer-0-of-99999999999999999999.safetensors"}, "no file of a rank's", 0},
    };
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        ManifestFile files[4] = {0};
        Manifest manifest = {.files = files};
        Error error = {0};
        int count;
        for (int j = 0; j < 4 && CASES[i].names[j]; j++) strcpy(files[manifest.count++].name, CASES[i].names[j]);
        const bool good = moments_listed(&manifest, &count, &error);
        if (good != !CASES[i].says) fail_msg("case %zu: %s", i, error.text);
        if (good) assert_int_equal(count, CASES[i].files);
        else assert_says(&error, CASES[i].says);
    }
}

static void more_ranks_than_a_checkpoint_has_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *settings;
        int ranks;
        bool good;
    } CASES[] = {{"", 4083, true}, {"", 4084, false}, {"zero=0", 4084, true}};
    for (int i = 0; i < 3; i++) {
        Fixture f;
        Error error = {0};
        setup_rank(&f, &kernels_cpu_f32, CASES[i].settings, 7, CASES[i].ranks);
        assert_int_equal(checkpoint_can_hold(&f.optimizer, &error), CASES[i].good);
        if (!CASES[i].good) assert_says(&error, "4084 ranks would write a file of moments each, and a checkpoint has at most 4083");
        teardown(&f);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(any_number_of_ranks_reads_what_any_other_wrote, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(so_do_more_ranks_than_there_is_to_share, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(so_do_large_tensors, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_share_holds_whole_tensors_under_their_names_and_parts_with_their_range, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(what_every_rank_holds_one_writes, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_number_that_is_not_finite_is_found_on_its_rank_and_not_written, make_folder, remove_folder),
        cmocka_unit_test(a_manifest_lists_each_file_of_as_many),
        cmocka_unit_test(more_ranks_than_a_checkpoint_has_files_are_refused),
    };
    char text[256] = "";
    if (!kernels_cpu_f32.open(0, text, sizeof text)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
