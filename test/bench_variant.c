/*
 * bench_variant.c: what a variant's training step costs over that of pre + rmsnorm, as one JSON line a variant.
 *
 *     bench_variant [PAIRS [PRESET [B [T]]]]        default 9 llama-130m 4 256: 12 layers, 768 wide
 *
 * Steps of the plain model and of the variant are timed in turn, the order within a pair alternating; `ratio` is the
 * median over the pairs, [low, high] its interval of at least 95 % confidence (order statistics: no distribution is
 * assumed). The first line compares the plain model with a second copy of itself (A/A): what the machine alone does.
 * `within` says whether low is at most `bound`. `junction_bytes` is what the junctions of a step must move a token
 * and sublayer: each tensor that the contract has them read or write, counted once.
 */
#include "../src/run/device.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "bench.h"

#include <stdio.h>
#include <string.h>

enum { PAIRS_MOST = 201 };

typedef struct Variant {
    const char *name;
    double bound; /* 0: none */
    const char *settings;
} Variant;

static const Variant VARIANTS[] = {
    {"pre again (A/A)", 0, ""},
    {"gpas", 1.01, "gpas=layer"},
    {"lns", 1.01, "placement=lns"},
    {"dyt", 1.01, "norm=dyt"},
    {"derf", 0, "norm=derf"},
    {"bhyt-exact", 0, "norm=bhyt-exact"},
    {"bhyt", 1.02, "norm=bhyt"},
    {"bhyt refresh 0", 1.01, "norm=bhyt bhyt-refresh=0"},
    {"sandwich", 1.05, "placement=sandwich"},
    {"post", 0, "placement=post"},
    {"deepnorm", 0, "placement=deepnorm"},
    {"keel", 0, "placement=keel"},
    {"hybrid", 0, "placement=hybrid"},
    {"sdd paper", 1.12, "sdd=paper"},
    {"sdd released", 1.12, "sdd=released"},
};
enum { COUNT = sizeof VARIANTS / sizeof *VARIANTS };

/* A model of its own: config, memory, weights. */
typedef struct Subject {
    Config config;
    Model model;
    Optimizer optimizer;
} Subject;

/* ------------------------------------------------------------------------------------------------------
 * Bytes: the model's junction calls, looked at instead of run
 * ---------------------------------------------------------------------------------------------------- */

static double counted_bytes;
static const Kernels *counted_kernels;

static void count_tensor(const void *tensor, int64_t elements, DType type) {
    if (tensor) counted_bytes += (double)elements * (double)dtype_size(type);
}

static DType stream_type(const Junction *j) {
    return j->residual_is_accum ? counted_kernels->accum : counted_kernels->storage;
}

static void count_statistics(const Junction *j) {
    const Norm *norms[] = {&j->norm, &j->sdd, &j->inner};
    for (int i = 0; i < 3; i++) {
        bool has_mean = norms[i]->kind == NORM_LAYERNORM, has_rstd = norms[i]->kind && norms[i]->kind != NORM_DYT && norms[i]->kind != NORM_DERF;
        count_tensor(has_mean ? norms[i]->mean : NULL, j->N, counted_kernels->accum);
        count_tensor(has_rstd ? norms[i]->rstd : NULL, j->N, counted_kernels->accum);
    }
}

static void count_forward(Queue *queue, const Junction *j) {
    (void)queue;
    int64_t elements = j->N * padded(j->C);
    count_tensor(j->x, elements, stream_type(j));
    count_tensor(j->f, elements, counted_kernels->storage);
    count_tensor(j->u, elements, stream_type(j));
    count_tensor(j->y, elements, counted_kernels->storage);
    count_tensor(j->y_residual, elements, stream_type(j));
    count_tensor(j->mean_square_in, j->N, counted_kernels->accum);
    count_tensor(j->mean_square_out, j->N, counted_kernels->accum);
    count_statistics(j);
}

static void count_backward(Queue *queue, const JunctionBackward *b) {
    (void)queue;
    const Junction *j = b->forward;
    int64_t elements = j->N * padded(j->C);
    bool needs_u = j->norm.kind != NORM_NONE || (b->dgate && !j->post), inner = j->sdd.kind || j->inner.kind;
    count_tensor(b->dy, elements, counted_kernels->storage);
    count_tensor(b->dresidual_in, elements, stream_type(j));
    count_tensor(needs_u ? (j->f ? j->u : j->x) : NULL, elements, stream_type(j));
    count_tensor(b->dgate && j->post ? j->x : NULL, elements, stream_type(j));
    count_tensor(inner ? j->f : NULL, elements, counted_kernels->storage);
    count_tensor(b->dresidual_out, elements, stream_type(j));
    count_tensor(b->df, elements, counted_kernels->storage);
    count_tensor(b->dmean_square_in, j->N, counted_kernels->accum);
    count_tensor(b->dmean_square_out, j->N, counted_kernels->accum);
    count_statistics(j);
}

/* Bytes a token and sublayer, forward and backward. */
static double junction_bytes(Subject *subject) {
    Kernels counting = *subject->model.k;
    counted_kernels = subject->model.k;
    counted_bytes = 0;
    counting.junction_forward = count_forward;
    counting.junction_backward = count_backward;
    subject->model.k = &counting;
    bench_step(&subject->model, &subject->optimizer);
    subject->model.k = counted_kernels;
    return counted_bytes / (double)subject->model.N / (2.0 * subject->model.L);
}

/* ------------------------------------------------------------------------------------------------------
 * Time
 * ---------------------------------------------------------------------------------------------------- */

static void open_subject(Subject *subject, const Variant *variant, const Config *base) {
    subject->config = *base;
    bench_set(&subject->config, variant->settings);
    config_resolve(&subject->config, 1);
    const Kernels *k = device_open(&subject->config);
    model_create(&subject->model, &subject->config, k, true);
    optimizer_create(&subject->optimizer, &subject->model);
    bench_fill(&subject->model);
}

static void close_subject(Subject *subject) {
    optimizer_destroy(&subject->optimizer);
    model_destroy(&subject->model);
}

static double seconds_of_step(Subject *subject) {
    double begin = log_seconds();
    bench_step(&subject->model, &subject->optimizer);
    return log_seconds() - begin;
}

static void measure(Subject *plain, const Variant *variant, const Config *base, int pairs) {
    static Subject subject;
    double ratios[PAIRS_MOST], plain_ms[PAIRS_MOST], ms[PAIRS_MOST];
    open_subject(&subject, variant, base);
    seconds_of_step(&subject), seconds_of_step(plain); /* warm */
    for (int i = 0; i < pairs; i++) {
        bool plain_first = i % 2 == 0;
        if (plain_first) plain_ms[i] = seconds_of_step(plain) * 1e3;
        ms[i] = seconds_of_step(&subject) * 1e3;
        if (!plain_first) plain_ms[i] = seconds_of_step(plain) * 1e3;
        ratios[i] = ms[i] / plain_ms[i];
    }
    double bytes = junction_bytes(&subject), ratio = bench_median(ratios, pairs);
    int rank = bench_interval_rank(pairs);
    double low = ratios[rank - 1], high = ratios[pairs - rank];
    printf("{\"bench\":\"variant\",\"device\":\"cpu\",\"model\":\"%s\",\"B\":%d,\"T\":%d,\"variant\":\"%s\",", base->preset,
           subject.model.B, subject.model.T, variant->name);
    printf("\"ms\":%.1f,\"plain_ms\":%.1f,\"ratio\":%.4f,\"low\":%.4f,\"high\":%.4f,", bench_median(ms, pairs),
           bench_median(plain_ms, pairs), ratio, low, high);
    if (variant->bound > 0) printf("\"bound\":%.2f,\"within\":%s,", variant->bound, low <= variant->bound ? "true" : "false");
    printf("\"junction_bytes\":%.0f,\"pairs\":%d,\"threads\":%d}\n", bytes, pairs, (int)subject.config.threads);
    fflush(stdout);
    close_subject(&subject);
}

int main(int argc, char **argv) {
    static Subject plain;
    threads_wait_briefly(argv);
    int pairs = argc > 1 ? atoi(argv[1]) : 9;
    check(pairs >= 6 && pairs <= PAIRS_MOST, "pairs: 6 (fewer give no interval of 95 %%) to %d", PAIRS_MOST);
    char *arguments[] = {argv[0], "--preset", argc > 2 ? argv[2] : "llama-130m", "--batch-size", argc > 3 ? argv[3] : "4",
                         "--seq-len", argc > 4 ? argv[4] : "256", "--dtype", "fp32", "--device", "cpu"};
    Config base;
    config_parse(&base, sizeof arguments / sizeof *arguments, arguments, NULL);
    open_subject(&plain, &VARIANTS[0], &base);
    for (int i = 0; i < COUNT; i++) measure(&plain, &VARIANTS[i], &base, pairs);
    close_subject(&plain);
    return 0;
}
