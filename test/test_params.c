/*
 * test_params.c: does the table of parameters give every tensor its place, its name, its initial values and
 * its decay, and do they depend on nothing else than params.h says?
 */
#include "../src/params.h"
#include "../src/philox.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const SHAPES[] = {
    "arch=gpt2 n-layer=3 n-embd=72 n-head=3 n-ffn=100 vocab-size=131 seq-len=9",
    "arch=llama n-layer=2 n-embd=72 n-head=6 n-kv-head=2 n-ffn=100 vocab-size=131 seq-len=9",
    "arch=gpt2 n-layer=1 n-embd=1 n-head=1 n-ffn=1 vocab-size=2 seq-len=1",
    "arch=gpt2 activation=swiglu n-layer=2 n-embd=64 n-head=2 n-kv-head=1 n-ffn=65 vocab-size=64 bias=on "
    "tie-embeddings=off",
    "arch=llama activation=gelu positions=learned n-layer=2 n-embd=64 n-head=2 norm=layernorm bias=on "
    "vocab-size=70",
    "arch=gpt2 positions=rope bias=off norm=rmsnorm n-layer=2 n-embd=64 n-head=2 vocab-size=70",
    "arch=llama sdd=released placement=post gpas=layer n-layer=2 n-embd=64 n-head=2 n-ffn=70 vocab-size=70",
    "arch=llama sdd=paper placement=sandwich gpas=sublayer n-layer=3 n-embd=72 n-head=6 n-kv-head=2 "
    "n-ffn=100 "
    "vocab-size=70",
    "arch=gpt2 norm=dyt embed-scale=on embed-norm=on placement=deepnorm n-layer=2 n-embd=64 n-head=2 "
    "vocab-size=70",
    "arch=llama norm=bhyt placement=lns bhyt-lambda-final=1 n-layer=2 n-embd=64 n-head=2 vocab-size=70",
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

static void configure(Config *config, const char *shape, const char *more) {
    char all[512], *state = NULL;
    snprintf(all, sizeof all, "%s %s", shape, more);
    config_defaults(config);
    for (char *word = strtok_r(all, " ", &state); word; word = strtok_r(NULL, " ", &state)) {
        char *equals = strchr(word, '=');
        Error error = {0};
        assert_non_null(equals);
        *equals = '\0';
        if (!config_set(config, word, equals + 1, &error)) fail_msg("%s", error.text);
    }
    config_resolve(config, 1);
}

static double *initial(Params *params, Config *config, const char *shape, const char *more) {
    configure(config, shape, more);
    params_build(params, config);
    double *arena = calloc((size_t)params->elements, sizeof *arena);
    params_init(params, config, DTYPE_F64, arena);
    return arena;
}

/* The first element of a piece's row r. */
static const double *row_of(const double *arena, const Param *p, int piece, int r) {
    return arena + p->offset + (p->piece[piece].row0 + r) * params_row_stride(p);
}

static void parameters_lie_one_after_the_other_on_padded_places(void **state) {
    (void)state;
    for (int s = 0; s < SHAPE_COUNT; s++) {
        Config config;
        Params params;
        configure(&config, SHAPES[s], "");
        params_build(&params, &config);
        int64_t end = 0;
        for (int i = 0; i < params.count; i++) {
            const Param *p = &params.list[i];
            assert_true(p->offset == end && p->offset % 128 == 0 && p->count % 128 == 0);
            assert_true(p->count >= (p->rows - 1) * params_row_stride(p) + p->cols);
            assert_ptr_equal(params_find(&params, p->id, p->layer), p);
            for (int j = 1; j < p->pieces; j++)
                assert_true(p->piece[j].row0 >= p->piece[j - 1].row0 + p->piece[j - 1].rows);
            assert_true(p->piece[p->pieces - 1].row0 + p->piece[p->pieces - 1].rows <= p->rows);
            end += p->count;
        }
        assert_true(end == params.elements);
        params_free(&params);
    }
}

static void a_file_holds_every_number_once_under_a_name_of_its_own(void **state) {
    (void)state;
    for (int s = 0; s < SHAPE_COUNT; s++) {
        Config config;
        Params params;
        int count;
        int64_t numbers = 0;
        configure(&config, SHAPES[s], "");
        params_build(&params, &config);
        FileTensor *tensors = params_file_tensors(&params, &count);
        for (int i = 0; i < count; i++) {
            numbers += tensors[i].shape[0] * (tensors[i].dims == 2 ? tensors[i].shape[1] : 1);
            for (int j = 0; j < i; j++) assert_string_not_equal(tensors[i].name, tensors[j].name);
        }
        assert_true(numbers == params.true_elements);
        free(tensors);
        params_free(&params);
    }
}

static void tensors_have_hugging_faces_names_and_shapes(void **state) {
    (void)state;
    static const struct {
        int shape;
        const char *name;
        int64_t dims[2]; /* 0: a vector */
    } WANT[] = {
        {0, "transformer.wte.weight", {131, 72}},
        {0, "transformer.wpe.weight", {9, 72}},
        {0, "transformer.h.2.ln_1.bias", {72, 0}},
        {0, "transformer.h.0.attn.c_attn.weight", {72, 216}},
        {0, "transformer.h.1.attn.c_attn.bias", {216, 0}},
        {0, "transformer.h.1.attn.c_proj.weight", {72, 72}},
        {0, "transformer.h.1.mlp.c_fc.weight", {72, 100}},
        {0, "transformer.h.1.mlp.c_proj.weight", {100, 72}},
        {0, "transformer.ln_f.weight", {72, 0}},
        {1, "model.embed_tokens.weight", {131, 72}},
        {1, "model.layers.1.input_layernorm.weight", {72, 0}},
        {1, "model.layers.0.self_attn.q_proj.weight", {72, 72}},
        {1, "model.layers.0.self_attn.k_proj.weight", {24, 72}},
        {1, "model.layers.1.self_attn.v_proj.weight", {24, 72}},
        {1, "model.layers.1.self_attn.o_proj.weight", {72, 72}},
        {1, "model.layers.1.post_attention_layernorm.weight", {72, 0}},
        {1, "model.layers.1.mlp.gate_proj.weight", {100, 72}},
        {1, "model.layers.1.mlp.up_proj.weight", {100, 72}},
        {1, "model.layers.1.mlp.down_proj.weight", {72, 100}},
        {1, "model.norm.weight", {72, 0}},
        {1, "lm_head.weight", {131, 72}},
    };
    for (size_t w = 0; w < sizeof WANT / sizeof *WANT; w++) {
        Config config;
        Params params;
        int count, found = 0;
        configure(&config, SHAPES[WANT[w].shape], "");
        params_build(&params, &config);
        FileTensor *tensors = params_file_tensors(&params, &count);
        for (int i = 0; i < count; i++) {
            if (strcmp(tensors[i].name, WANT[w].name)) continue;
            found++;
            assert_int_equal(tensors[i].dims, WANT[w].dims[1] ? 2 : 1);
            assert_true(tensors[i].shape[0] == WANT[w].dims[0]);
            if (WANT[w].dims[1]) assert_true(tensors[i].shape[1] == WANT[w].dims[1]);
        }
        if (found != 1) fail_msg("%s is there %d times", WANT[w].name, found);
        free(tensors);
        params_free(&params);
    }
}

/* Arena → file → an empty arena: every number comes back, and none where there is none. */
static void packing_and_unpacking_loses_and_adds_nothing(void **state) {
    (void)state;
    for (int s = 0; s < SHAPE_COUNT; s++)
        for (int type = 0; type < 2; type++) {
            Config config;
            Params params;
            int count;
            configure(&config, SHAPES[s], "");
            params_build(&params, &config);
            DType dtype = type ? DTYPE_F64 : DTYPE_F32;
            size_t element = dtype_size(dtype), bytes = (size_t)params.elements * element;
            char *arena = malloc(bytes), *back = calloc(1, bytes), *again = calloc(1, bytes),
                 *file = malloc(bytes);
            for (int64_t i = 0; i < params.elements; i++) {
                if (type)
                    ((double *)arena)[i] = (double)(i + 1);
                else
                    ((float *)arena)[i] = (float)(i + 1);
            }
            FileTensor *tensors = params_file_tensors(&params, &count);
            int64_t written = 0;
            for (int i = 0; i < count; i++) {
                const Param *p = tensors[i].param;
                size_t at = (size_t)(p->offset + tensors[i].row0 * params_row_stride(p)) * element;
                params_pack(&tensors[i], dtype, tensors[i].rows, arena + at, file);
                params_unpack(&tensors[i], dtype, tensors[i].rows, back + at, file);
                params_pack(&tensors[i], dtype, tensors[i].rows, back + at, file);
                params_unpack(&tensors[i], dtype, tensors[i].rows, again + at, file);
            }
            assert_memory_equal(back, again, bytes);
            for (int64_t i = 0; i < params.elements; i++) {
                double value = type ? ((double *)back)[i] : (double)((float *)back)[i];
                assert_true(value == 0 || value == (double)(i + 1));
                written += value != 0;
            }
            assert_true(written == params.true_elements);
            free(tensors), free(arena), free(back), free(again), free(file);
            params_free(&params);
        }
}

/* gpt2's files hold y = xW: element [in][out] is row `out` of the arena. */
static void a_transposed_tensor_is_written_input_first(void **state) {
    (void)state;
    Config config;
    Params params;
    int count;
    double *arena = initial(&params, &config, SHAPES[0], "");
    FileTensor *tensors = params_file_tensors(&params, &count);
    for (int i = 0; i < count; i++) {
        if (strcmp(tensors[i].name, "transformer.h.1.mlp.c_fc.weight")) continue;
        const Param *p = tensors[i].param;
        double *file = malloc(sizeof *file * 72 * 100);
        params_pack(&tensors[i], DTYPE_F64, 100, arena + p->offset, file);
        for (int in = 0; in < 72; in++)
            for (int out = 0; out < 100; out++)
                assert_true(file[in * 100 + out] == row_of(arena, p, 0, out)[in]);
        free(file);
    }
    free(tensors);
    free(arena);
    params_free(&params);
}

/* Mean and deviation of n normal numbers lie within 5 of their own deviations: one failure in a million. */
static void assert_distributed(const double *arena, const Param *p, int piece, double mean, double std) {
    double sum = 0, squares = 0, n = (double)p->piece[piece].rows * p->cols;
    for (int r = 0; r < p->piece[piece].rows; r++)
        for (int c = 0; c < p->cols; c++) {
            double d = row_of(arena, p, piece, r)[c] - mean;
            sum += d, squares += d * d;
        }
    assert_true(fabs(sum / n) <= 5 * std / sqrt(n));
    assert_true(fabs(sqrt(squares / n) - std) <= 5 * std / sqrt(2 * n));
}

static void initial_values_have_the_deviation_of_their_kind(void **state) {
    (void)state;
    for (int s = 0; s < 2; s++) {
        Config config;
        Params params;
        double *arena =
            initial(&params, &config, SHAPES[s], "init-std=0.05 init-std-embed=0.7 tie-embeddings=off");
        double residual = s == 0 ? 0.05 / sqrt(2.0 * 3) : 0.05; /* GPT-2's projections into the stream */
        for (int i = 0; i < params.count; i++) {
            const Param *p = &params.list[i];
            bool into_stream = p->id == PARAM_ATTN_OUT || p->id == PARAM_MLP_OUT;
            bool gamma = p->id == PARAM_NORM1 || p->id == PARAM_NORM2 || p->id == PARAM_FINAL;
            bool matrix = p->kind == PARAM_MATRIX || p->kind == PARAM_EMBEDDING;
            double std = !matrix ? 0 : p->id == PARAM_TOKENS ? 0.7 : into_stream ? residual : 0.05;
            for (int j = 0; j < p->pieces; j++) assert_distributed(arena, p, j, gamma ? 1 : 0, std);
        }
        free(arena);
        params_free(&params);
    }
}

static void padding_is_zero_and_both_types_start_alike(void **state) {
    (void)state;
    for (int s = 0; s < SHAPE_COUNT; s++) {
        Config config;
        Params params;
        double *arena = initial(&params, &config, SHAPES[s], "");
        float *narrow = calloc((size_t)params.elements, sizeof *narrow);
        char *is_number = calloc((size_t)params.elements, 1);
        params_init(&params, &config, DTYPE_F32, narrow);
        for (int i = 0; i < params.count; i++)
            for (int j = 0; j < params.list[i].pieces; j++)
                for (int r = 0; r < params.list[i].piece[j].rows; r++)
                    memset(is_number + (row_of(arena, &params.list[i], j, r) - arena), 1,
                           (size_t)params.list[i].cols);
        for (int64_t i = 0; i < params.elements; i++) {
            assert_true(is_number[i] || (arena[i] == 0 && narrow[i] == 0));
            /* One rounding of the same number, and one more of its scaling. */
            assert_true(fabs(narrow[i] - arena[i]) <= 0x1p-23 * fabs(arena[i]));
        }
        free(arena), free(narrow), free(is_number);
        params_free(&params);
    }
}

/* Rows of one piece in two models. */
static bool same_rows(const double *a, const Param *p, const double *b, const Param *q, int piece, int rows) {
    for (int r = 0; r < rows; r++)
        if (memcmp(row_of(a, p, piece, r), row_of(b, q, piece, r), (size_t)p->cols * sizeof *a)) return false;
    return true;
}

static void initial_values_depend_on_name_and_seed_alone(void **state) {
    (void)state;
    const char *small = "arch=gpt2 n-layer=2 n-embd=72 n-head=6 n-ffn=100 vocab-size=131 seq-len=9";
    const char *other =
        "arch=llama n-layer=3 n-embd=72 n-head=6 n-kv-head=2 n-ffn=200 vocab-size=140 seq-len=19";
    Config config;
    Params a, b, c;
    double *from_small = initial(&a, &config, small, ""), *from_other = initial(&b, &config, other, "");
    double *from_seed = initial(&c, &config, small, "seed=7");
    assert_true(same_rows(from_small, params_find(&a, PARAM_TOKENS, -1), from_other,
                          params_find(&b, PARAM_TOKENS, -1), 0, 131));
    for (int layer = 0; layer < 2; layer++) {
        const Param *p = params_find(&a, PARAM_QKV, layer), *q = params_find(&b, PARAM_QKV, layer);
        assert_true(same_rows(from_small, p, from_other, q, 0, 72));
        assert_true(same_rows(from_small, p, from_other, q, 1, 24));
        assert_false(same_rows(from_small, p, from_seed, params_find(&c, PARAM_QKV, layer), 0, 1));
        assert_false(same_rows(from_small, p, from_small, params_find(&a, PARAM_QKV, 1 - layer), 0, 1));
        assert_true(memcmp(row_of(from_small, p, 0, 0), row_of(from_small, p, 1, 0), 72 * sizeof(double)) !=
                    0);
    }
    free(from_small), free(from_other), free(from_seed);
    params_free(&a), params_free(&b), params_free(&c);
}

static void decay_goes_where_decay_on_says(void **state) {
    (void)state;
    static const char *const WHERE[] = {"decay-on=matrices", "decay-on=no-embeddings", "decay-on=all"};
    for (int s = 0; s < SHAPE_COUNT; s++)
        for (int w = 0; w < 3; w++) {
            Config config;
            Params params;
            char more[64];
            snprintf(more, sizeof more, "weight-decay=0.3 %s", WHERE[w]);
            configure(&config, SHAPES[s], more);
            params_build(&params, &config);
            ParamSlot *slots = params_slots(&params, &config);
            for (int i = 0; i < params.count; i++) {
                const Param *p = &params.list[i];
                bool embedding = p->id == PARAM_TOKENS || p->id == PARAM_POSITIONS || p->id == PARAM_HEAD;
                bool matrix = p->kind == PARAM_MATRIX, free = p->kind == PARAM_FREE; /* gates, λ */
                assert_true(!embedding || p->kind == PARAM_EMBEDDING);
                bool want = !free && (w == 2 || matrix || (w == 0 && embedding));
                assert_true(slots[i].weight_decay == (want ? 0.3 : 0));
                assert_true(slots[i].offset == p->offset && slots[i].count == p->count);
            }
            free(slots);
            params_free(&params);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parameters_lie_one_after_the_other_on_padded_places),
        cmocka_unit_test(a_file_holds_every_number_once_under_a_name_of_its_own),
        cmocka_unit_test(tensors_have_hugging_faces_names_and_shapes),
        cmocka_unit_test(packing_and_unpacking_loses_and_adds_nothing),
        cmocka_unit_test(a_transposed_tensor_is_written_input_first),
        cmocka_unit_test(initial_values_have_the_deviation_of_their_kind),
        cmocka_unit_test(padding_is_zero_and_both_types_start_alike),
        cmocka_unit_test(initial_values_depend_on_name_and_seed_alone),
        cmocka_unit_test(decay_goes_where_decay_on_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
