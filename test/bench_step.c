/*
 * bench_step.c: what a training step costs beside its own matrix products, as one JSON line a type of numbers.
 *
 *     bench_step [PRESET [B [T [ROUNDS [DTYPE]]]]]        default gpt2-124m 4 256 7, fp32 and, where it is taken here, bf16
 *
 * Each round times a 2048³ product, one training step and the step's GEMMs called alone (same shapes, same buffers, no
 * biases), of one type and then of the other; medians are printed. ratio = step / its GEMMs; gemm_rate_share = the rate of
 * those GEMMs over the rate of the 2048³ product; step_vs_fp32 = fp32's step over this one's, the median of the rounds.
 * Both models are in memory at once. peak_mb is the resident memory of a process that has taken a step in one type and done
 * nothing else; planned_mb what --dry-run adds up.
 */
#include "../src/run/capacity.h"
#include "../src/run/device.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS_MOST = 101, SQUARE = 2048, TYPES_MOST = 2 };

typedef struct Bench {
    Config config;
    const Kernels *k;
    Model model;
    Optimizer optimizer;
    void *a, *b, *c; /* of the square product */
    double gemm_flops;
    double peak_bytes;
    double steps[ROUNDS_MOST], products[ROUNDS_MOST], squares[ROUNDS_MOST];
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

/* A model in one type, and its first step. */
static void prepare(Bench *b, int argc, char **argv, const char *dtype) {
    const char *preset = argc > 1 ? argv[1] : "gpt2-124m";
    char settings[64];
    char *arguments[] = {argv[0], "--preset", (char *)preset, "--batch-size", argc > 2 ? argv[2] : "4", "--seq-len",
                         argc > 3 ? argv[3] : "256"};
    config_parse(&b->config, 7, arguments, NULL);
    snprintf(settings, sizeof settings, "dtype=%s device=cpu", dtype);
    bench_set(&b->config, settings);
    config_resolve(&b->config, 1);
    b->k = device_open(&b->config);
    model_create(&b->model, &b->config, b->k, true);
    optimizer_create(&b->optimizer, &b->model);
    bench_fill(&b->model);
    step(b);
}

/* 2048² numbers of the storage type. */
static void *square_matrix(const Bench *b, uint64_t seed) {
    const size_t n = (size_t)SQUARE * SQUARE;
    float *numbers = must_malloc(n * sizeof *numbers, "a matrix");
    philox_fill_normal_f32(numbers, &(PhiloxFill){.name_hash = seed, .rows = SQUARE, .columns = SQUARE, .stride = SQUARE,
                                                  .std = 1});
    void *matrix = b->k->alloc(n * dtype_size(b->k->storage));
    require(matrix, "out of memory");
    b->k->cast(b->model.queue,
               &(Cast){.n = (int64_t)n, .from = DTYPE_F32, .to = b->k->storage, .src = numbers, .dst = matrix});
    b->k->queue_wait(b->model.queue);
    free(numbers);
    return matrix;
}

/* Peak resident bytes of a process that takes one step; 0 where this machine does not take the type. It is another process,
 * begun before this one has threads. */
static double peak_of_step(int argc, char **argv, const char *dtype) {
    enum { REFUSED = 100 };
    static Bench alone;
    struct rusage usage;
    char text[256];
    int status;
    const pid_t pid = fork();
    require(pid >= 0, "no second process can be started");
    if (pid == 0) {
        if (strcmp(dtype, "bf16") == 0 && !kernels_cpu_bf16.open(0, text, sizeof text)) _exit(REFUSED);
        prepare(&alone, argc, argv, dtype);
        _exit(0);
    }
    require(wait4(pid, &status, 0, &usage) == pid, "a process of this one's cannot be waited for");
    if (WIFEXITED(status) && WEXITSTATUS(status) == REFUSED) return 0;
    if (status) exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    return (double)usage.ru_maxrss * 1024;
}

static double planned_bytes(const Bench *b) {
    MemoryPlan plan;
    model_plan(&b->config, b->k, true, &plan);
    return (double)(plan.weights + plan.gradients + plan.moments + plan.activations + plan.workspace) +
           capacity_process_bytes(&b->config);
}

static void measure(Bench *const types[], int count, int rounds) {
    for (int i = 0; i < count; i++) {
        Bench *b = types[i];
        b->a = square_matrix(b, 0), b->b = square_matrix(b, 1), b->c = square_matrix(b, 2);
        gemms(b), square(b); /* warm: pages, packing buffers, threads */
    }
    for (int r = 0; r < rounds; r++) {
        for (int i = 0; i < count; i++) {
            types[i]->squares[r] = seconds_of(types[i], square);
            types[i]->steps[r] = seconds_of(types[i], step);
            types[i]->products[r] = seconds_of(types[i], gemms);
        }
    }
}

/* Sorts its times. */
static void print(Bench *b, const char *dtype, double vs_fp32, int rounds) {
    double ms = bench_median(b->steps, rounds) * 1e3, gemm_ms = bench_median(b->products, rounds) * 1e3;
    double square_rate = 2.0 * SQUARE * SQUARE * SQUARE / bench_median(b->squares, rounds);
    double gemm_rate = b->gemm_flops / (gemm_ms * 1e-3);
    printf("{\"bench\":\"step\",\"device\":\"cpu\",\"dtype\":\"%s\",\"model\":\"%s\",\"B\":%d,\"T\":%d,\"ms\":%.1f,"
           "\"gemm_ms\":%.1f,\"ratio\":%.3f,\"gemm_rate_share\":%.3f,\"gemm_gflop_per_s\":%.1f,\"square_gflop_per_s\":%.1f",
           dtype, b->config.preset, b->model.B, b->model.T, ms, gemm_ms, ms / gemm_ms, gemm_rate / square_rate,
           gemm_rate * 1e-9, square_rate * 1e-9);
    if (vs_fp32 > 0) printf(",\"step_vs_fp32\":%.3f", vs_fp32);
    printf(",\"peak_mb\":%.0f,\"planned_mb\":%.0f,\"threads\":%d,\"rounds\":%d}\n", b->peak_bytes * 1e-6,
           planned_bytes(b) * 1e-6, (int)b->config.threads, rounds);
}

int main(int argc, char **argv) {
    static Bench benches[TYPES_MOST];
    const char *const dtypes[TYPES_MOST] = {argc > 5 ? argv[5] : "fp32", "bf16"};
    Bench *const types[TYPES_MOST] = {&benches[0], &benches[1]};
    const int rounds = argc > 4 ? atoi(argv[4]) : 7;
    int count = argc > 5 ? 1 : TYPES_MOST;
    double times_as_fast[ROUNDS_MOST];
    threads_wait_briefly(argv);
    check(rounds > 0 && rounds <= ROUNDS_MOST, "rounds: 1 to %d", ROUNDS_MOST);
    for (int i = 0; i < count; i++) types[i]->peak_bytes = peak_of_step(argc, argv, dtypes[i]);
    if (count == TYPES_MOST && types[1]->peak_bytes == 0) count = 1;
    for (int i = 0; i < count; i++) prepare(types[i], argc, argv, dtypes[i]);
    measure(types, count, rounds);
    for (int r = 0; r < rounds; r++) times_as_fast[r] = types[0]->steps[r] / types[count - 1]->steps[r];
    print(types[0], dtypes[0], 0, rounds);
    if (count == TYPES_MOST) print(types[1], dtypes[1], bench_median(times_as_fast, rounds), rounds);
    return 0;
}
