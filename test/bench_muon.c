/*
 * bench_muon.c: what an update of Muon costs beside the step that it ends, by count and on this CPU, as one JSON line.
 *
 *     bench_muon [PRESET [TOKENS [ROUNDS]]]        default gpt2-124m 524288 3
 *
 * share = the products of Newton–Schulz over those of forward and backward on so many tokens, both counted: what it costs where
 * all of them go at one rate. ms is the measured update of its matrices, momentum and copies included; adamw_ms that of AdamW
 * on the same ones.
 */
#include "../src/run/device.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "bench.h"

#include <stdio.h>

enum { ROUNDS_MOST = 101 };

/* The median of some updates of a model of which only the blocks are large. */
static double median_ms(const Config *config, const Kernels *k, int rounds) {
    static Model model;
    static Optimizer optimizer;
    double seconds[ROUNDS_MOST];
    model_create(&model, config, k, true);
    optimizer_create(&optimizer, &model);
    bench_fill(&model);
    bench_step(&model, &optimizer); /* gradients that are none of zero, and all pages */
    for (int i = 0; i < rounds; i++) {
        const double begin = log_seconds();
        optimizer_update(&optimizer);
        k->queue_wait(model.queue);
        seconds[i] = log_seconds() - begin;
    }
    optimizer_destroy(&optimizer);
    model_destroy(&model);
    return bench_median(seconds, rounds) * 1e3;
}

int main(int argc, char **argv) {
    Config config;
    Params params;
    threads_wait_briefly(argv);
    char *arguments[] = {argv[0], "--preset", argc > 1 ? argv[1] : "gpt2-124m", "--batch-size", "1", "--seq-len", "64"};
    const double tokens = argc > 2 ? atof(argv[2]) : 524288;
    const int rounds = argc > 3 ? atoi(argv[3]) : 3;
    check(rounds > 0 && rounds <= ROUNDS_MOST && tokens >= 1, "tokens: 1 or more; rounds: 1 to %d", ROUNDS_MOST);
    config_parse(&config, 3, arguments, NULL); /* the preset's own sequences: attention counts, too */
    bench_set(&config, "optimizer=muon device=cpu dtype=fp32");
    config_resolve(&config, 1);
    params_build(&params, &config);
    const double flops = muon_flops(&config, &params), step = model_flops_per_token(&config, &params) * tokens;
    const int matrices = muon_matrices(&config, &params);
    params_free(&params);

    config_parse(&config, 7, arguments, NULL);
    bench_set(&config, "optimizer=muon device=cpu dtype=fp32 vocab-size=256");
    config_resolve(&config, 1);
    const Kernels *k = device_open(&config);
    const double muon_ms = median_ms(&config, k, rounds);
    bench_set(&config, "optimizer=adamw");
    const double adamw_ms = median_ms(&config, k, rounds);
    printf("{\"bench\":\"muon\",\"device\":\"cpu\",\"model\":\"%s\",\"tokens\":%.0f,\"matrices\":%d,\"tflop\":%.4f,"
           "\"share\":%.5f,\"ms\":%.1f,\"adamw_ms\":%.1f,\"gflop_per_s\":%.1f,\"threads\":%d,\"rounds\":%d}\n",
           config.preset, tokens, matrices, flops * 1e-12, flops / step, muon_ms, adamw_ms, flops / (muon_ms * 1e-3) * 1e-9,
           (int)config.threads, rounds);
    return 0;
}
