/*
 * test_pretrained.c: weights that others wrote come in whole, under any of their names, or are refused by tensor.
 *
 * Whether transformers means the same by them is hf/test_plain.py's.
 */
#include "checkpoint_fixture.h"

#include "../src/checkpoint/pretrained.h"
#include "../src/checkpoint/weights.h"

#include <time.h>

/* A file of a model's parameters [first, last), their names cut, and one tensor more if extra is given. */
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
    if (!pretrained_load(&read.model, path, "", &error)) fail_msg("%s", error.text);
    assert_memory_equal(read.model.master, f->model.master, arena_bytes(f));
    teardown(&read);
}

static void does_not_load(Fixture *f, const char *path, const char *word, const char *another) {
    Error error = {0};
    assert_false(pretrained_load(&f->model, path, "", &error));
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
}

/* An index of so many empty tensors, and the one shard that has them all. */
static void write_crowd(int count) {
    size_t room = (size_t)count * 80 + 64, used = 0;
    char *text = malloc(room);
    FILE *index = fopen(at("model.safetensors.index.json"), "w"), *shard = fopen(at("shard"), "w");
    fprintf(index, "{\"weight_map\": {");
    for (int i = 0; i < count; i++) {
        fprintf(index, "%s\"%d\": \"shard\"", i ? "," : "", i);
        used += (size_t)sprintf(text + used, "%s\"%d\": {\"dtype\": \"F32\", \"shape\": [0], \"data_offsets\": [0, 0]}",
                                i ? "," : "{", i);
    }
    used += (size_t)sprintf(text + used, "}");
    fprintf(index, "}}");
    assert_int_equal(fwrite(&(uint64_t){used}, 8, 1, shard), 1);
    assert_int_equal(fwrite(text, 1, used, shard), used);
    assert_int_equal(fclose(shard) | fclose(index), 0);
    free(text);
}

static double seconds_of_a_crowd(Fixture *f, int count) {
    double least = INFINITY;
    write_crowd(count);
    for (int i = 0; i < 3; i++) {
        clock_t begin = clock();
        does_not_load(f, folder, "no tensor transformer.wte.weight", "shard");
        least = fmin(least, (double)(clock() - begin) / CLOCKS_PER_SEC);
    }
    return least;
}

/* Four times the tensors take 4.5 times as long where they are sorted, and 16 times where each is compared with
 * each: the bound lies between the two, by the same factor from either. */
static void an_index_takes_time_as_its_length_not_as_its_square(void **state) {
    (void)state;
    Fixture f;
    setup(&f, &kernels_cpu_f64, "");
    double few = seconds_of_a_crowd(&f, 15000), many = seconds_of_a_crowd(&f, 60000);
    if (many > sqrt(4.5 * 16) * few) fail_msg("15,000 tensors: %g s; 60,000: %g s", few, many);
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(weights_of_others_are_read, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(weights_that_do_not_fit_are_refused_by_tensor, make_folder, remove_folder),
        cmocka_unit_test(indexes_that_make_no_sense_are_refused_by_field),
        cmocka_unit_test_setup_teardown(an_index_takes_time_as_its_length_not_as_its_square, make_folder, remove_folder),
    };
    char text[256] = "";
    if (!kernels_cpu_f64.open(0, text, sizeof text)) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
