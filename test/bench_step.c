/*
 * bench_step.c: what a training step costs beside its own matrix products, as one JSON line a measurement.
 *
 *     bench_step [PRESET [B [T [ROUNDS]]]]        default gpt2-124m 4 256 7
 *
 * Each round times one training step, the step's GEMMs called alone (same shapes, same buffers, no biases), and a
 * 2048³ product, in turn; medians are printed. ratio = step / its GEMMs; gemm_rate_share = the rate of those GEMMs
 * over the rate of the 2048³ product.
 */
#include "../src/run/device.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "bench.h"

#include <stdio.h>

enum { ROUNDS_MOST = 101, SQUARE = 2048 };

typedef struct Bench {
    Config config;
    const Kernels *k;
    Model model;
    Optimizer optimizer;
    float *a, *b, *c; /* of the square product */
    double gemm_flops;
} Bench;

static void step(Bench *b) { bench_step(&b->model, &b->optimizer); }

/* One linear layer's three products. */
static void gemms_of(Bench *b, ParamId id, int layer, int64_t N, int in, int out, const Storage *x, Storage *y,
                     Storage *dx) {
    Model *m = &b->model;
    const Param *p = params_find(&m->params, id, layer);
    size_t offset = (size_t)p->offset * dtype_size(m->k->storage);
    Linear forward = {.N = N, .in = in, .out = out, .x = x, .w = (char *)m->storage + offset, .y = y};
    LinearBackward backward = {.N = N, .in = in, .out = out, .dy = y, .x = x, .w = forward.w, .dx = dx,
                               .dw = (char *)m->grad + (size_t)p->offset * dtype_size(m->k->accum)};
    m->k->linear_forward(m->queue, &forward);
    m->k->linear_backward_weight(m->queue, &backward);
    m->k->linear_backward_input(m->queue, &backward);
    b->gemm_flops += 6.0 * (double)N * in * out;
}

static void gemms(Bench *b) {
    Model *m = &b->model;
    b->gemm_flops = 0;
    for (int l = 0; l < m->L; l++) {
        const Site *site = &m->kept.site[4 * l];
        const Block *block = &m->kept.block[l];
        gemms_of(b, PARAM_QKV, l, m->N, m->C, m->QKV, site[0].y, block->qkv, m->narrow);
        gemms_of(b, PARAM_ATTN_OUT, l, m->N, m->H * m->D, m->C, block->context, m->narrow, block->context);
        gemms_of(b, PARAM_MLP_IN, l, m->N, m->C, m->F_in, site[2].y, block->h, m->narrow);
        gemms_of(b, PARAM_MLP_OUT, l, m->N, m->F, m->C, block->act, m->narrow, m->wide);
    }
    ParamId head = params_find(&m->params, PARAM_HEAD, -1) ? PARAM_HEAD : PARAM_TOKENS;
    for (int64_t first = 0; first < m->N; first += m->head_chunk) {
        int64_t count = m->N - first < m->head_chunk ? m->N - first : m->head_chunk;
        gemms_of(b, head, -1, count, m->C, m->V, m->kept.site[4 * m->L].y, m->logits, m->narrow);
    }
    m->k->queue_wait(m->queue);
}

static void square(Bench *b) {
    b->k->linear_forward(b->model.queue,
                         &(Linear){.N = SQUARE, .in = SQUARE, .out = SQUARE, .x = b->a, .w = b->b, .y = b->c});
    b->k->queue_wait(b->model.queue);
}

static double seconds_of(Bench *b, void (*work)(Bench *)) {
    double begin = log_seconds();
    work(b);
    return log_seconds() - begin;
}

static void prepare(Bench *b, int argc, char **argv) {
    const char *preset = argc > 1 ? argv[1] : "gpt2-124m";
    char *arguments[] = {argv[0], "--preset", (char *)preset, "--batch-size", argc > 2 ? argv[2] : "4", "--seq-len",
                         argc > 3 ? argv[3] : "256"};
    config_parse(&b->config, 7, arguments, NULL);
    bench_set(&b->config, "dtype=fp32 device=cpu");
    config_resolve(&b->config, 1);
    b->k = device_open(&b->config);
    model_create(&b->model, &b->config, b->k, true);
    optimizer_create(&b->optimizer, &b->model);
    bench_fill(&b->model);
    float **squares[] = {&b->a, &b->b, &b->c};
    for (int i = 0; i < 3; i++) {
        *squares[i] = b->k->alloc(sizeof(float) * SQUARE * SQUARE);
        require(*squares[i], "out of memory");
        philox_fill_normal_f32(*squares[i], &(PhiloxFill){.name_hash = (uint64_t)i, .rows = SQUARE, .columns = SQUARE,
                                                          .stride = SQUARE, .std = 1});
    }
}

int main(int argc, char **argv) {
    static Bench b;
    threads_wait_briefly(argv);
    prepare(&b, argc, argv);
    int rounds = argc > 4 ? atoi(argv[4]) : 7;
    check(rounds > 0 && rounds <= ROUNDS_MOST, "rounds: 1 to %d", ROUNDS_MOST);
    step(&b), gemms(&b), square(&b); /* warm: pages, packing buffers, threads */
    double steps[ROUNDS_MOST], products[ROUNDS_MOST], squares[ROUNDS_MOST];
    for (int i = 0; i < rounds; i++) {
        squares[i] = seconds_of(&b, square);
        steps[i] = seconds_of(&b, step);
        products[i] = seconds_of(&b, gemms);
    }
    double ms = bench_median(steps, rounds) * 1e3, gemm_ms = bench_median(products, rounds) * 1e3;
    double square_rate = 2.0 * SQUARE * SQUARE * SQUARE / bench_median(squares, rounds);
    double gemm_rate = b.gemm_flops / (gemm_ms * 1e-3);
    printf("{\"bench\":\"step\",\"device\":\"cpu\",\"model\":\"%s\",\"B\":%d,\"T\":%d,\"ms\":%.1f,\"gemm_ms\":%.1f,"
           "\"ratio\":%.3f,\"gemm_rate_share\":%.3f,\"gemm_gflop_per_s\":%.1f,\"threads\":%d,\"rounds\":%d}\n",
           b.config.preset, b.model.B, b.model.T, ms, gemm_ms, ms / gemm_ms, gemm_rate / square_rate,
           gemm_rate * 1e-9, (int)b.config.threads, rounds);
    return 0;
}
