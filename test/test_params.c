/*
 * test_params.c: does the table of parameters give every tensor its place, its name, its initial values and
 * its decay, and do they depend on nothing else than params.h says?
 */
#include "../src/model/params.h"
#include "../src/base/philox.h"
#include "../src/settings/resolve.h"
#include "settings.h"

#include <math.h>
#include <stdlib.h>

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
    "arch=llama placement=res-post qk-norm=projection bias=qkv n-layer=2 n-embd=64 n-head=2 head-dim=12 n-ffn=70 vocab-size=70",
    "arch=llama norm=bhyt placement=lns bhyt-lambda-final=1 n-layer=2 n-embd=64 n-head=2 vocab-size=70",
    "arch=llama placement=hybrid-first head-dim=12 n-layer=3 n-embd=64 n-head=2 n-kv-head=1 vocab-size=70",
    "arch=gpt2 placement=keel norm=layernorm n-layer=3 n-embd=64 n-head=2 vocab-size=70",
    "arch=gpt2 norm=derf placement=sandwich n-layer=2 n-embd=64 n-head=2 vocab-size=70",
};
enum { SHAPE_COUNT = sizeof SHAPES / sizeof *SHAPES };

static void configure(Config *config, const char *shape, const char *more) {
    char all[512];
    snprintf(all, sizeof all, "%s %s", shape, more);
    configure_raw(config, all);
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
    static const char *const WHERE[] = {"decay-on=matrices", "decay-on=no-embeddings", "decay-on=all", "decay-on=norms,biases,alphas"};
    for (int s = 0; s < SHAPE_COUNT; s++)
        for (int w = 0; w < 4; w++) {
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
                bool inside = matrix || p->id == PARAM_HEAD; /* an untied head is a matrix */
                bool want = !free && (w == 3 ? !matrix && !embedding : w == 2 || inside || (w == 0 && embedding));
                assert_true(slots[i].weight_decay == (want ? 0.3 : 0));
                assert_true(slots[i].offset == p->offset && slots[i].count == p->count);
            }
            free(slots);
            params_free(&params);
        }
}

/* ------------------------------------------------------------------------------------------------------
 * Initial values of the variants (MATH.md §1 to §4)
 * ---------------------------------------------------------------------------------------------------- */

/* Every matrix of a block has this deviation; `expected` says which for a piece of a parameter. */
typedef double Expected(const Config *c, const Param *p, int piece);

static void assert_matrices(const char *shape, const char *more, Expected *expected) {
    Config config;
    Params params;
    double *arena = initial(&params, &config, shape, more);
    int seen = 0;
    for (int i = 0; i < params.count; i++)
        for (int j = 0; params.list[i].kind == PARAM_MATRIX && j < params.list[i].pieces; j++, seen++)
            assert_distributed(arena, &params.list[i], j, 0, expected(&config, &params.list[i], j));
    assert_true(seen >= 5 * (int)config.n_layer);
    free(arena);
    params_free(&params);
}

/* Q and K with gain 1, V, O and the MLP with (8L)^−¼; fans of each by itself, not of the fused product. */
static double xavier(const Config *c, const Param *p, int piece) {
    bool q_or_k = p->id == PARAM_QKV && piece < 2;
    double gain = q_or_k ? 1 : pow(8.0 * (double)c->n_layer, -0.25);
    return gain * sqrt(2.0 / (p->piece[piece].rows + p->cols));
}

static double plain(const Config *c, const Param *p, int piece) {
    (void)p, (void)piece;
    return c->init_std;
}

static double plain_gpt2(const Config *c, const Param *p, int piece) {
    bool into_stream = p->id == PARAM_ATTN_OUT || p->id == PARAM_MLP_OUT;
    return plain(c, p, piece) / (into_stream ? sqrt(2.0 * (double)c->n_layer) : 1);
}

static double sdd(const Config *c, const Param *p, int piece) {
    (void)p, (void)piece;
    return c->sdd_init_scale / sqrt(2.5 * (double)c->n_embd);
}

#define WIDE_GPT2  "arch=gpt2 n-layer=3 n-embd=96 n-head=6 n-ffn=200 vocab-size=70 init-std=0.05"
#define WIDE_LLAMA "arch=llama n-layer=2 n-embd=96 n-head=6 n-kv-head=2 n-ffn=200 vocab-size=70 init-std=0.05"

static void matrices_start_with_the_deviation_of_their_variant(void **state) {
    (void)state;
    assert_matrices(WIDE_GPT2, "placement=deepnorm", xavier);
    assert_matrices(WIDE_LLAMA, "placement=deepnorm gpas=layer", xavier);
    assert_matrices(WIDE_GPT2, "placement=deepnorm deepnorm-init=off", plain_gpt2);
    assert_matrices(WIDE_LLAMA, "placement=deepnorm deepnorm-init=off gpas=layer", plain);
    assert_matrices(WIDE_GPT2, "placement=post norm=dyt gpas=sublayer", plain_gpt2);
    assert_matrices(WIDE_GPT2, "placement=lns", plain); /* no 1/√(2L) with it */
    assert_matrices(WIDE_GPT2, "placement=lns lns-init=on", plain);
    assert_matrices(WIDE_GPT2, "sdd=paper", sdd);
    assert_matrices(WIDE_LLAMA, "sdd=paper placement=deepnorm sdd-init-scale=0.1", sdd); /* SDD's own goes before */
}

/* Mean, deviation and the largest |w| of a parameter's numbers, all pieces, in units of σ. */
static void moments(const double *arena, const Param *p, double sigma, double *std, double *most, int64_t *count) {
    double squares = 0;
    *most = 0;
    *count = 0;
    for (int j = 0; j < p->pieces; j++)
        for (int r = 0; r < p->piece[j].rows; r++)
            for (int c = 0; c < p->cols; c++, ++*count) {
                double z = row_of(arena, p, j, r)[c] / sigma;
                squares += z * z;
                *most = fmax(*most, fabs(z));
            }
    *std = sqrt(squares / (double)*count);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* No number drawn again is another element's: 53 random bits are alike in one of 2^35 pairs once in 2^17 such matrices. */
static void assert_all_differ(const double *arena, const Param *p) {
    size_t count = (size_t)p->rows * (size_t)p->cols;
    double *sorted = malloc(count * sizeof *sorted);
    for (int r = 0; r < p->rows; r++) memcpy(sorted + r * p->cols, row_of(arena, p, 0, r), (size_t)p->cols * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, ascending);
    for (size_t i = 1; i < count; i++) assert_true(sorted[i - 1] != sorted[i]);
    free(sorted);
}

/* Cut at 3σ, a normal's deviation is √(1 − 6φ(3)/(2Φ(3) − 1)) = 0.98658 of σ. Of 262,144 numbers the sample's lies
 * within 5 of its own deviations, 0.7 %, of that: one failure in a million; uncut it would be at 1, and 700 of them
 * would lie beyond 3σ. */
static void released_sdd_is_cut_at_three_sigma_and_papers_is_not(void **state) {
    (void)state;
    static const char *const FORMS[] = {"sdd=paper", "sdd=released", "sdd=released sdd-init-scale=0.1"};
    for (int form = 0; form < 3; form++) {
        Config config;
        Params params;
        double *arena = initial(&params, &config,
                                "arch=llama n-layer=1 n-embd=512 n-head=8 n-ffn=512 vocab-size=16", FORMS[form]);
        double sigma = (form == 2 ? 0.1 : 1) / sqrt(2.5 * 512), std, most;
        double expected = form == 0 ? 1 : 0.98658;
        static const ParamId IDS[] = {PARAM_ATTN_OUT, PARAM_MLP_OUT};
        for (int i = 0; i < 2; i++) {
            int64_t count;
            moments(arena, params_find(&params, IDS[i], 0), sigma, &std, &most, &count);
            assert_int_equal(count, 512 * 512);
            assert_all_differ(arena, params_find(&params, IDS[i], 0));
            assert_true(fabs(std - expected) <= 5 * expected / sqrt(2.0 * (double)count));
            assert_true(form == 0 ? most > 3 : most <= 3 && most > 2.9);
        }
        free(arena);
        params_free(&params);
    }
}

static void assert_constant(const double *arena, const Params *params, ParamId id, int layer, double value) {
    const Param *p = params_find(params, id, layer);
    if (!p) fail_msg("parameter %d of layer %d is not there", (int)id, layer);
    for (int j = 0; j < p->pieces; j++)
        for (int r = 0; r < p->piece[j].rows; r++)
            if (!(fabs(row_of(arena, p, j, r)[0] - value) <= 1e-15 * fabs(value))) /* a rounding of √ and of 1/√ */
                fail_msg("%s starts at %.17g, not %.17g", p->piece[j].key, row_of(arena, p, j, r)[0], value);
}

static void vectors_and_scalars_start_at_the_value_of_their_variant(void **state) {
    (void)state;
    static const struct {
        const char *settings;
        ParamId id;
        int layer;
        double value;
    } WANT[] = {
        {"placement=lns lns-init=on", PARAM_NORM1, 0, 1},
        {"placement=lns lns-init=on", PARAM_NORM1, 2, 0.57735026918962573},
        {"placement=lns lns-init=on", PARAM_NORM2, 1, 0.70710678118654746},
        {"placement=lns lns-init=on", PARAM_FINAL, -1, 1},
        {"placement=lns", PARAM_NORM1, 2, 1},
        {"placement=pre lns-init=on", PARAM_NORM2, 2, 1},
        {"sdd=paper", PARAM_SDD_ATTN_OUT, 0, 0.57735026918962573},
        {"sdd=paper", PARAM_SDD_MLP_OUT, 2, 0.57735026918962573},
        {"sdd=paper", PARAM_Q_ALPHA, 1, 1},
        {"sdd=paper", PARAM_K_ALPHA, 1, 1},
        {"sdd=paper", PARAM_V_ALPHA, 1, 1},
        {"sdd=paper", PARAM_SDD_MLP_IN, 1, 1},
        {"sdd=released", PARAM_SDD_ATTN_OUT, 2, 0.40824829046386302},
        {"sdd=released", PARAM_SDD_MLP_OUT, 0, 0.40824829046386302},
        {"sdd=released", PARAM_SDD_CONTEXT, 1, 1},
        {"sdd=released", PARAM_SDD_MLP_IN, 1, 1},
        {"gpas=layer", PARAM_GATE, 1, 0},
        {"gpas=sublayer gpas-init=-0.25", PARAM_GATE, 2, -0.25},
        {"norm=bhyt embed-norm=on", PARAM_NORM1_SCALAR, 1, 2},
        {"norm=bhyt", PARAM_NORM2_SCALAR, 1, 1},
        {"norm=bhyt embed-norm=on", PARAM_EMBED_NORM_SCALAR, -1, 2},
        {"norm=bhyt bhyt-lambda-final=3", PARAM_FINAL_SCALAR, -1, 3},
        {"norm=bhyt-exact bhyt-lambda-attn=3 bhyt-lambda-mlp=-4 placement=sandwich", PARAM_NORM1_SCALAR, 0, 3},
        {"norm=bhyt-exact bhyt-lambda-attn=3 bhyt-lambda-mlp=-4 placement=sandwich", PARAM_INNER2_SCALAR, 0, -4},
        {"norm=dyt", PARAM_NORM1_SCALAR, 0, 0.5},
        {"norm=dyt dyt-alpha-attn=0.8 dyt-alpha-other=0.2", PARAM_NORM1_SCALAR, 1, 0.8},
        {"norm=dyt dyt-alpha-attn=0.8 dyt-alpha-other=0.2", PARAM_NORM2_SCALAR, 1, 0.2},
        {"norm=dyt dyt-alpha-attn=0.8 dyt-alpha-other=0.2", PARAM_FINAL_SCALAR, -1, 0.2},
        {"embed-scale=on", PARAM_EMBED_SCALE, -1, 8},
    };
    for (size_t w = 0; w < sizeof WANT / sizeof *WANT; w++) {
        Config config;
        Params params;
        double *arena = initial(&params, &config, "arch=llama n-layer=3 n-embd=64 n-head=2 vocab-size=70",
                                WANT[w].settings);
        assert_constant(arena, &params, WANT[w].id, WANT[w].layer, WANT[w].value);
        free(arena);
        params_free(&params);
    }
    Config config;
    Params params; /* the final norm is an rmsnorm unless it is given a λ */
    configure(&config, "arch=llama n-layer=1 n-embd=64 n-head=2 vocab-size=70", "norm=bhyt");
    params_build(&params, &config);
    assert_null(params_find(&params, PARAM_FINAL_SCALAR, -1));
    params_free(&params);
}

/* α as the authors' released code has it, or as asked for; the shift behind it 0 (arXiv 2512.10938). */
static void derf_starts_at_its_slope_and_without_a_shift(void **state) {
    (void)state;
    static const struct {
        const char *settings;
        double attn, other;
    } WANT[] = {
        {"arch=gpt2", 1, 1},
        {"arch=llama", 0.5, 0.5},
        {"arch=gpt2 derf-alpha-attn=0.8", 0.8, 1},
        {"arch=llama derf-alpha-other=-0.2 placement=sandwich", 0.5, -0.2},
    };
    for (size_t w = 0; w < sizeof WANT / sizeof *WANT; w++) {
        Config config;
        Params params;
        double *arena = initial(&params, &config, "norm=derf embed-norm=on n-layer=2 n-embd=64 n-head=2 vocab-size=70",
                                WANT[w].settings);
        const ParamId ids[] = {PARAM_EMBED_NORM_SCALAR, PARAM_NORM1_SCALAR,  PARAM_INNER1_SCALAR,
                               PARAM_NORM2_SCALAR,      PARAM_INNER2_SCALAR, PARAM_FINAL_SCALAR};
        int found = 0;
        for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
            bool attn = ids[i] == PARAM_NORM1_SCALAR || ids[i] == PARAM_INNER1_SCALAR;
            bool outside = ids[i] == PARAM_EMBED_NORM_SCALAR || ids[i] == PARAM_FINAL_SCALAR;
            const Param *p = params_find(&params, ids[i], outside ? -1 : 1);
            if (!p) continue;
            found++;
            assert_int_equal(p->pieces, 2);
            assert_true(row_of(arena, p, 0, 0)[0] == (attn ? WANT[w].attn : WANT[w].other));
            assert_true(row_of(arena, p, 1, 0)[0] == 0);
        }
        assert_int_equal(found, strstr(WANT[w].settings, "sandwich") ? 6 : 4);
        free(arena);
        params_free(&params);
    }
}

/* Gates and λ never decay; what is a vector decays with all. Gates alone have a clip of their own. */
static void variants_parameters_have_the_decay_and_clip_group_of_their_kind(void **state) {
    (void)state;
    static const struct {
        ParamId id;
        bool all; /* whether --decay-on all reaches it */
        int clip;
    } WANT[] = {
        {PARAM_GATE, false, CLIP_GATES},        {PARAM_NORM1_SCALAR, false, CLIP_ALL},
        {PARAM_INNER1_SCALAR, false, CLIP_ALL}, {PARAM_NORM1, true, CLIP_ALL},
        {PARAM_Q_ALPHA, true, CLIP_ALL},          {PARAM_SDD_CONTEXT, true, CLIP_ALL},
        {PARAM_SDD_MLP_OUT, true, CLIP_ALL},
    };
        static const char *const WHERE[] = {"decay-on=matrices", "decay-on=no-embeddings,norms", "decay-on=all",
                                        "decay-on=no-embeddings,alphas"};
    for (int where = 0; where < 4; where++)
        for (int dyt = 0; dyt < 2; dyt++) {
            Config config;
            Params params;
            char more[160];
            snprintf(more, sizeof more, "norm=%s placement=sandwich gpas=sublayer sdd=released weight-decay=0.3 %s",
                     dyt ? "dyt" : "bhyt-exact", WHERE[where]);
            configure(&config, "arch=llama n-layer=2 n-embd=64 n-head=2 vocab-size=70", more);
            params_build(&params, &config);
            ParamSlot *slots = params_slots(&params, &config);
            for (size_t w = 0; w < sizeof WANT / sizeof *WANT; w++)
                for (int layer = 0; layer < 2; layer++) {
                    const Param *p = params_find(&params, WANT[w].id, layer);
                    bool scalar = WANT[w].id == PARAM_NORM1_SCALAR || WANT[w].id == PARAM_INNER1_SCALAR;
                    bool alpha = WANT[w].id == PARAM_Q_ALPHA || WANT[w].id == PARAM_SDD_CONTEXT || WANT[w].id == PARAM_SDD_MLP_OUT;
                    bool decays = (where == 2 || where == (alpha ? 3 : 1)) &&
                                  (WANT[w].all || (dyt && scalar)); /* DyT's α is a vector like others */
                    assert_true(slots[p - params.list].weight_decay == (decays ? 0.3 : 0));
                    assert_int_equal(slots[p - params.list].clip_group, WANT[w].clip);
                }
            for (int i = 0; i < params.count; i++)
                assert_int_equal(slots[i].clip_group == CLIP_GATES, params.list[i].id == PARAM_GATE);
            free(slots);
            params_free(&params);
        }
}

/* One ε for every norm, and the embedding drawn as the matrices are (MATH.md §4); what is said overrules both. */
static void released_sdd_sets_every_epsilon_and_the_embedding(void **state) {
    (void)state;
    Config config;
    Params params;
    configure(&config, "arch=llama n-layer=2 n-embd=64 n-head=2 vocab-size=70", "sdd=released sdd-init-scale=0.1");
    assert_true(config.norm_eps == 1e-5 && config.sdd_eps == 1e-5);
    params_build(&params, &config);
    const ParamPiece *tokens = &params_find(&params, PARAM_TOKENS, -1)->piece[0];
    assert_true(fabs(tokens->init_std - 0.1 / sqrt(2.5 * 64)) < 1e-15 && tokens->init_cut == 3);
    params_free(&params);
    configure(&config, "arch=llama n-layer=2 n-embd=64 n-head=2 vocab-size=70",
              "sdd=released norm-eps=1e-6 init-std-embed=0.5");
    assert_true(config.norm_eps == 1e-6 && config.init_std_embed == 0.5);
    configure(&config, "arch=llama n-layer=2 n-embd=64 n-head=2 vocab-size=70", "sdd=paper");
    assert_true(config.norm_eps == 1e-6 && config.init_std_embed == 0.02);
}

static void hybrid_has_a_norm_before_attention_in_its_first_block_alone(void **state) {
    (void)state;
    for (int first = 0; first < 2; first++) {
        Config config;
        Params params;
        configure(&config, "arch=llama n-layer=3 n-embd=64 n-head=2 vocab-size=70", first ? "placement=hybrid-first" : "placement=hybrid");
        params_build(&params, &config);
        for (int l = 0; l < 3; l++) {
            assert_int_equal(params_find(&params, PARAM_NORM1, l) != NULL, first && l == 0);
            assert_non_null(params_find(&params, PARAM_NORM2, l));
            assert_non_null(params_find(&params, PARAM_V_ALPHA, l));
        }
        params_free(&params);
    }
}

static void variants_tensors_have_documented_names(void **state) {
    (void)state;
    static const struct {
        const char *settings, *name;
        int64_t size;
    } WANT[] = {
        {"arch=llama gpas=layer", "model.layers.1.gpas.gate", 1},
        {"arch=gpt2 gpas=sublayer", "transformer.h.0.gpas.gate", 2},
        {"arch=llama norm=bhyt", "model.layers.1.input_layernorm.lambda", 1},
        {"arch=gpt2 norm=bhyt-exact", "transformer.h.1.ln_2.lambda", 1},
        {"arch=llama norm=dyt", "model.layers.0.post_attention_layernorm.alpha", 1},
        {"arch=llama norm=derf", "model.layers.0.post_attention_layernorm.alpha", 1},
        {"arch=gpt2 norm=derf", "transformer.h.1.ln_1.shift", 1},
        {"arch=llama sdd=paper n-kv-head=1", "model.layers.0.self_attn.sdd.alpha_k", 32},
        {"arch=llama sdd=released", "model.layers.0.self_attn.sdd.alpha_q", 32},
        {"arch=llama sdd=released", "model.layers.1.self_attn.sdd.alpha_context", 64},
        {"arch=llama sdd=released n-ffn=70", "model.layers.1.mlp.sdd.alpha_gate_up", 140},
        {"arch=llama sdd=paper n-ffn=70", "model.layers.1.mlp.sdd.alpha_gate", 70},
        {"arch=gpt2 sdd=paper", "transformer.h.1.attn.sdd.alpha_o", 64},
        {"arch=gpt2 sdd=released", "transformer.h.1.mlp.sdd.alpha_down", 64},
        {"arch=llama placement=sandwich", "model.layers.1.self_attn.output_norm.weight", 64},
        {"arch=llama placement=sandwich", "model.layers.1.mlp.output_norm.weight", 64},
        {"arch=llama placement=hybrid head-dim=24", "model.layers.1.self_attn.v_norm.weight", 24},
        {"arch=llama placement=hybrid", "model.layers.1.post_attention_layernorm.weight", 64},
        {"arch=llama placement=hybrid-first", "model.layers.0.input_layernorm.weight", 64},
        {"arch=gpt2 placement=hybrid", "transformer.h.1.attn.q_norm.weight", 32},
        {"arch=llama placement=keel", "model.layers.1.input_layernorm.weight", 64},
        {"arch=llama placement=keel", "model.layers.1.attn_residual_norm.weight", 64},
        {"arch=gpt2 placement=keel", "transformer.h.1.mlp_residual_norm.bias", 64},
        {"arch=llama placement=res-post", "model.layers.1.post_attention_layernorm.weight", 64},
        {"arch=llama placement=res-post", "model.layers.1.post_feedforward_layernorm.weight", 64},
        {"arch=gpt2 placement=res-post", "transformer.h.1.mlp.output_norm.bias", 64},
        {"arch=llama qk-norm=head head-dim=24", "model.layers.1.self_attn.q_norm.weight", 24},
        {"arch=llama qk-norm=head head-dim=24", "model.layers.1.self_attn.k_norm.weight", 24},
        {"arch=llama qk-norm=projection head-dim=24 n-kv-head=1", "model.layers.1.self_attn.q_norm.weight", 48},
        {"arch=llama qk-norm=projection head-dim=24 n-kv-head=1", "model.layers.1.self_attn.k_norm.weight", 24},
        {"arch=llama bias=qkv head-dim=24 n-kv-head=1", "model.layers.1.self_attn.v_proj.bias", 24},
        {"arch=gpt2 qk-norm=head", "transformer.h.1.attn.k_norm.weight", 32},
        {"arch=gpt2 embed-norm=on", "transformer.embed_norm.weight", 64},
        {"arch=llama embed-scale=on", "model.embed_scale", 1},
    };
    for (size_t w = 0; w < sizeof WANT / sizeof *WANT; w++) {
        Config config;
        Params params;
        int count, found = 0;
        configure(&config, "n-layer=2 n-embd=64 n-head=2 vocab-size=70", WANT[w].settings);
        params_build(&params, &config);
        FileTensor *tensors = params_file_tensors(&params, &count);
        for (int i = 0; i < count; i++)
            if (strcmp(tensors[i].name, WANT[w].name) == 0) {
                found++;
                assert_true(tensors[i].dims == 1 && tensors[i].shape[0] == WANT[w].size);
            }
        if (found != 1) fail_msg("%s: %s is there %d times", WANT[w].settings, WANT[w].name, found);
        free(tensors);
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
        cmocka_unit_test(matrices_start_with_the_deviation_of_their_variant),
        cmocka_unit_test(released_sdd_is_cut_at_three_sigma_and_papers_is_not),
        cmocka_unit_test(vectors_and_scalars_start_at_the_value_of_their_variant),
        cmocka_unit_test(derf_starts_at_its_slope_and_without_a_shift),
        cmocka_unit_test(variants_parameters_have_the_decay_and_clip_group_of_their_kind),
        cmocka_unit_test(released_sdd_sets_every_epsilon_and_the_embedding),
        cmocka_unit_test(hybrid_has_a_norm_before_attention_in_its_first_block_alone),
        cmocka_unit_test(variants_tensors_have_documented_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
