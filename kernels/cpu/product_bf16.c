/*
 * product_bf16.c: how are matrices of bf16 multiplied? (product.h)
 *
 * By oneDNN's matmul, of which a product is a primitive made once a shape and kept: factors bf16, sums fp32, and the result
 * bf16 or, added to, fp32. Of oneDNN's ways backward takes its GEMM, which is 5 to 10 % faster than what oneDNN puts first
 * (2.6.3, two Zen 4 cores, GPT-2 124M's shapes at 1,024 tokens: 425 GFLOP/s for 348 to 418). Forward's would have all of the
 * result in fp32 beside it, twice, 400 MB for GPT-2's logits; so would its first way where the width is no multiple of 64:
 * forward therefore multiplies padding as well, which is zero, and clears what lies there afterwards, as a number that is
 * none times zero is none.
 */
#define _GNU_SOURCE
#include "product.h"

#ifdef CPU_BF16
#include <oneapi/dnnl/dnnl.h>
#include <oneapi/dnnl/dnnl_debug.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

bool multiplies_tiles;

static bool has(dnnl_cpu_isa_t instructions) {
    return (dnnl_get_effective_cpu_isa() & instructions) == instructions;
}

/* Linux keeps tile registers for the threads of a process that has asked for them. */
static bool may_use_tiles(void) {
#if defined(__linux__) && defined(__x86_64__)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return has(dnnl_cpu_isa_avx512_core_amx) && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return false;
#endif
}

/* The variable by which oneDNN leaves alone what the processor has; NULL: there is none. */
static const char *hidden_by(void) {
    static const char *const names[] = {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"};
#if defined(__x86_64__)
    for (size_t i = 0; i < 2 && __builtin_cpu_supports("avx512bf16"); i++)
        if (getenv(names[i])) return names[i];
#endif
    return NULL;
}

const char *NAME(multiply_lacks)(void) {
    static char lacks[96];
    multiplies_tiles = may_use_tiles();
    if (has(dnnl_cpu_isa_avx512_core_bf16)) return NULL;
    const char *variable = hidden_by();
    snprintf(lacks, sizeof lacks, "AVX512-BF16%s%s%s", variable ? ", which " : "", variable ? variable : "",
             variable ? " keeps from use," : "");
    return lacks;
}

const char *NAME(multiply_with)(void) {
    return multiplies_tiles ? "AVX512-BF16, AMX" : "AVX512-BF16";
}

static dnnl_engine_t engine;
static dnnl_stream_t stream;

static bool is_gemm(const_dnnl_primitive_desc_t desc) {
    const char *name = "";
    return dnnl_primitive_desc_query(desc, dnnl_query_impl_info_str, 0, &name) == dnnl_success && strncmp(name, "gemm", 4) == 0;
}

/* --- Two generations of oneDNN's C interface --------------------------------------------------------- */

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t Layout; /* a pointer */

static dnnl_status_t layout_create(Layout *layout, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_create_with_strides(layout, 2, dims, type, strides);
}
static void layout_destroy(Layout *layout) { dnnl_memory_desc_destroy(*layout); }

static dnnl_status_t memory_create(dnnl_memory_t *memory, const Layout *layout) {
    return dnnl_memory_create(memory, *layout, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t first_way(dnnl_primitive_desc_t *desc, const Layout *a, const Layout *b, const Layout *bias, const Layout *c,
                               dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(desc, engine, *a, *b, bias ? *bias : NULL, *c, attributes);
}

/* Its GEMM, or NULL where that is none of the ways. */
static dnnl_primitive_desc_t gemm_way(const Layout *a, const Layout *b, const Layout *c, dnnl_primitive_attr_t attributes) {
    dnnl_primitive_desc_t desc;
    if (first_way(&desc, a, b, NULL, c, attributes) != dnnl_success) return NULL;
    while (!is_gemm(desc))
        if (dnnl_primitive_desc_next_impl(desc) != dnnl_success) return dnnl_primitive_desc_destroy(desc), NULL;
    return desc;
}

static dnnl_status_t append_sum(dnnl_post_ops_t operations) {
    return dnnl_post_ops_append_sum(operations, 1, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t Layout; /* a struct */

static dnnl_status_t layout_create(Layout *layout, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(layout, 2, dims, type, strides);
}
static void layout_destroy(Layout *layout) { (void)layout; }

static dnnl_status_t memory_create(dnnl_memory_t *memory, const Layout *layout) {
    return dnnl_memory_create(memory, layout, engine, DNNL_MEMORY_NONE);
}

static dnnl_status_t first_way(dnnl_primitive_desc_t *desc, const Layout *a, const Layout *b, const Layout *bias, const Layout *c,
                               dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, a, b, bias, c);
    return status == dnnl_success ? dnnl_primitive_desc_create(desc, &matmul, attributes, engine, NULL) : status;
}

/* Its GEMM, or NULL where that is none of the ways. */
static dnnl_primitive_desc_t gemm_way(const Layout *a, const Layout *b, const Layout *c, dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_desc_iterator_t ways;
    if (dnnl_matmul_desc_init(&matmul, a, b, NULL, c) != dnnl_success) return NULL;
    if (dnnl_primitive_desc_iterator_create(&ways, &matmul, attributes, engine, NULL) != dnnl_success) return NULL;
    dnnl_primitive_desc_t desc = dnnl_primitive_desc_iterator_fetch(ways);
    while (desc && !is_gemm(desc)) {
        dnnl_primitive_desc_destroy(desc);
        desc = dnnl_primitive_desc_iterator_next(ways) == dnnl_success ? dnnl_primitive_desc_iterator_fetch(ways) : NULL;
    }
    dnnl_primitive_desc_iterator_destroy(ways);
    return desc;
}

static dnnl_status_t append_sum(dnnl_post_ops_t operations) { return dnnl_post_ops_append_sum(operations, 1); }
#endif

/* --- Primitives --------------------------------------------------------------------------------------- */

enum { A, B, BIAS, C, OPERANDS };
static const int ARGUMENT[OPERANDS] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST};

/* What a primitive is made for. */
typedef struct Shape {
    int64_t M, N, K, lda, ldb, ldc;
    int threads;
    bool transpose_a, transpose_b, accum, add, bias;
} Shape;

typedef struct Primitive {
    Shape shape;
    dnnl_primitive_t matmul; /* NULL: a free entry */
    dnnl_memory_t memory[OPERANDS];
} Primitive;

static void must(dnnl_status_t status, const Product *p) {
    require(status == dnnl_success, "%s: oneDNN refuses the product of [%lld,%lld] by [%lld,%lld] in bf16: %s", p->operation,
            (long long)p->M, (long long)p->K, (long long)p->K, (long long)p->N, dnnl_status2str(status));
}

static Shape shape_of(const Product *p) {
    Shape shape;
    memset(&shape, 0, sizeof shape); /* its padding too: shapes are compared as bytes */
    shape.M = p->M, shape.N = p->N, shape.K = p->K;
    shape.lda = p->lda, shape.ldb = p->ldb, shape.ldc = p->ldc;
    shape.threads = omp_get_max_threads();
    shape.transpose_a = p->transpose_a, shape.transpose_b = p->transpose_b;
    shape.accum = p->accum, shape.add = p->add, shape.bias = p->bias != NULL;
    return shape;
}

static void primitive_create(Primitive *made, const Shape *s, const Product *p) {
    const dnnl_dims_t dims[OPERANDS] = {{s->M, s->K}, {s->K, s->N}, {1, s->N}, {s->M, s->N}};
    const dnnl_dims_t strides[OPERANDS] = {{s->transpose_a ? 1 : s->lda, s->transpose_a ? s->lda : 1},
                                           {s->transpose_b ? 1 : s->ldb, s->transpose_b ? s->ldb : 1},
                                           {s->N, 1},
                                           {s->ldc, 1}};
    Layout layout[OPERANDS];
    made->shape = *s;
    for (int i = 0; i < OPERANDS; i++) {
        must(layout_create(&layout[i], dims[i], i == C && s->accum ? dnnl_f32 : dnnl_bf16, strides[i]), p);
        must(memory_create(&made->memory[i], &layout[i]), p);
    }
    dnnl_primitive_attr_t attributes;
    must(dnnl_primitive_attr_create(&attributes), p);
    if (s->add) {
        dnnl_post_ops_t operations;
        must(dnnl_post_ops_create(&operations), p);
        must(append_sum(operations), p);
        must(dnnl_primitive_attr_set_post_ops(attributes, operations), p);
        dnnl_post_ops_destroy(operations);
    }
    const bool backward = !s->transpose_b;
    dnnl_primitive_desc_t desc = backward ? gemm_way(&layout[A], &layout[B], &layout[C], attributes) : NULL;
    if (!desc) must(first_way(&desc, &layout[A], &layout[B], s->bias ? &layout[BIAS] : NULL, &layout[C], attributes), p);
    must(dnnl_primitive_create(&made->matmul, desc), p);
    dnnl_primitive_desc_destroy(desc);
    dnnl_primitive_attr_destroy(attributes);
    for (int i = 0; i < OPERANDS; i++) layout_destroy(&layout[i]);
}

static void primitive_destroy(Primitive *primitive) {
    if (!primitive->matmul) return;
    dnnl_primitive_destroy(primitive->matmul);
    for (int i = 0; i < OPERANDS; i++) dnnl_memory_destroy(primitive->memory[i]);
    primitive->matmul = NULL;
}

/* Those of a model and its validation are some thirty; the oldest makes room for one more than there is place for. */
static const Primitive *primitive_for(const Product *p) {
    enum { PLACES = 64 };
    static Primitive kept[PLACES];
    static int next;
    const Shape shape = shape_of(p);
    for (int i = 0; i < PLACES; i++)
        if (kept[i].matmul && memcmp(&kept[i].shape, &shape, sizeof shape) == 0) return &kept[i];
    if (!engine) {
        must(dnnl_engine_create(&engine, dnnl_cpu, 0), p);
        must(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), p);
    }
    Primitive *place = &kept[next];
    next = (next + 1) % PLACES;
    primitive_destroy(place);
    primitive_create(place, &shape, p);
    return place;
}

static void execute(const Product *p) {
    const Primitive *primitive = primitive_for(p);
    const void *const at[OPERANDS] = {p->a, p->b, p->bias, p->c};
    dnnl_exec_arg_t arguments[OPERANDS];
    int count = 0;
    for (int i = 0; i < OPERANDS; i++) {
        if (!at[i]) continue;
        must(dnnl_memory_set_data_handle(primitive->memory[i], (void *)(uintptr_t)at[i]), p);
        arguments[count++] = (dnnl_exec_arg_t){ARGUMENT[i], primitive->memory[i]};
    }
    must(dnnl_primitive_execute(primitive->matmul, stream, count, arguments), p);
    must(dnnl_stream_wait(stream), p);
}

/* Sets columns N … ldc − 1 of C to zero again. */
static void clear_padding(const Product *p) {
    const stored none = {0};
#pragma omp parallel for schedule(static) if (p->M > 256)
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t n = p->N; n < p->ldc; n++) ((stored *)p->c)[m * p->ldc + n] = none;
}

static void fill_bias(const Product *p) {
    const stored none = {0};
    for (int64_t m = 0; m < p->M; m++)
        for (int64_t n = 0; n < p->N; n++) ((stored *)p->c)[m * p->ldc + n] = p->bias ? ((const stored *)p->bias)[n] : none;
}

void NAME(multiply)(const Product *p) {
    if (p->M == 0 || p->N == 0) return;
    if (p->K == 0) {
        if (!p->accum) fill_bias(p);
        return;
    }
    Product whole = *p;
    const bool pads = p->transpose_b && !p->accum && p->N < p->ldc; /* rows of B, a weight's, are there up to padded(N) */
    if (pads) whole.N = p->ldc;
    execute(&whole);
    if (pads) clear_padding(p);
}
#endif
