/*
 * bench_generate.c: what a variant costs in generation over pre + rmsnorm, as one JSON line a variant and batch.
 *
 *     bench_generate [PAIRS [PRESET [PROMPT [TOKENS [BATCH…]]]]]      default 9 llama-130m 256 16 1 8
 *
 * Prompts of PROMPT tokens go through the model one by one, then TOKENS steps add a token to each of BATCH texts. Plain model
 * and variant take turns at each prompt and each step, the order alternating; a ratio is the median over the pairs of the
 * variant's time over the plain one's, [low, high] its interval of at least 95 % confidence. The first line compares the plain
 * model with a second copy of itself (A/A): what the machine alone does. All are fp32 but one, "bf16", the plain model in bf16, where this
 * machine takes that. memory_bound_tokens_per_s is what decoding would reach if reading the weights once a step, at
 * read_gb_per_s, the rate of a plain reading between the pairs, were all of it.
 */
#include "../src/run/device.h"
#include "../src/settings/command_line.h"
#include "../src/settings/resolve.h"
#include "bench.h"

#include <stdio.h>
#include <string.h>

enum { PAIRS_MOST = 201, BATCH_MOST = 64 };

typedef struct Variant {
    const char *name, *settings;
} Variant;

static const Variant VARIANTS[] = {
    {"pre again (A/A)", ""},        {"gpas", "gpas=layer"},           {"lns", "placement=lns"}, {"dyt", "norm=dyt"},
    {"bhyt-exact", "norm=bhyt-exact"}, {"bhyt", "norm=bhyt"},         {"sandwich", "placement=sandwich"},
    {"post", "placement=post"},     {"deepnorm", "placement=deepnorm"}, {"sdd paper", "sdd=paper"},
    {"sdd released", "sdd=released"}, {"bf16", "dtype=bf16"},
};
enum { COUNT = sizeof VARIANTS / sizeof *VARIANTS };

typedef struct Subject {
    Config config;
    Model model;
} Subject;

typedef struct Work {
    int batch, prompt, tokens;
    uint32_t *text; /* [prompt + tokens] */
} Work;

typedef struct Times {
    double prefill[PAIRS_MOST], decode[PAIRS_MOST];
} Times;

static bool takes_bf16(void) {
    char text[256];
    return kernels_cpu_bf16.open(0, text, sizeof text);
}

static void open_subject(Subject *subject, const Variant *variant, const Config *base, int batch) {
    subject->config = *base;
    bench_set(&subject->config, variant->settings);
    config_resolve(&subject->config, 1);
    model_create(&subject->model, &subject->config, device_open(&subject->config), false);
    bench_weights(&subject->model);
    model_open_cache(&subject->model, batch);
}

/* Bytes of weights that a step of generation reads: matrices, and the head's rows. */
static double weight_bytes(const Model *model) {
    const ParamId head = params_find(&model->params, PARAM_HEAD, -1) ? PARAM_HEAD : PARAM_TOKENS;
    double elements = 0;
    for (int i = 0; i < model->params.count; i++) {
        const Param *p = &model->params.list[i];
        if (p->kind == PARAM_MATRIX || p->id == head) elements += (double)p->rows * (double)padded(p->cols);
    }
    return elements * (double)dtype_size(model->k->storage);
}

static double seconds_of_prompt(Subject *subject, const Work *work, int place) {
    const double begin = log_seconds();
    model_prefill(&subject->model, place, work->text, work->prompt, 0);
    return log_seconds() - begin;
}

static double seconds_of_step(Subject *subject, const Work *work, int at) {
    uint32_t tokens[BATCH_MOST], lengths[BATCH_MOST];
    for (int b = 0; b < work->batch; b++) tokens[b] = work->text[at], lengths[b] = (uint32_t)at;
    const double begin = log_seconds();
    model_decode(&subject->model, work->batch, tokens, lengths);
    return log_seconds() - begin;
}

/* Two models side by side, prompt by prompt and step by step, so that what else the machine does meets both. */
static void run(Subject *const both[2], const Work *work, double prefill[2], double decode[2]) {
    for (int i = 0; i < 2; i++) prefill[i] = decode[i] = 0;
    for (int b = 0; b < work->batch; b++)
        for (int i = 0; i < 2; i++) prefill[(i + b) % 2] += seconds_of_prompt(both[(i + b) % 2], work, b);
    for (int t = 0; t < work->tokens; t++)
        for (int i = 0; i < 2; i++) decode[(i + t) % 2] += seconds_of_step(both[(i + t) % 2], work, work->prompt + t);
}

static void print_ratio(const char *name, const double *times, const double *plain, int pairs, double tokens) {
    double ratios[PAIRS_MOST], ours[PAIRS_MOST], theirs[PAIRS_MOST];
    for (int i = 0; i < pairs; i++) ratios[i] = times[i] / plain[i], ours[i] = times[i], theirs[i] = plain[i];
    const double ratio = bench_median(ratios, pairs);
    const int rank = bench_interval_rank(pairs);
    printf(",\"%s_tokens_per_s\":%.1f,\"plain_%s_tokens_per_s\":%.1f,\"%s_ratio\":%.4f,\"%s_low\":%.4f,\"%s_high\":%.4f", name,
           tokens / bench_median(ours, pairs), name, tokens / bench_median(theirs, pairs), name, ratio, name, ratios[rank - 1],
           name, ratios[pairs - rank]);
}

static void measure(Subject *plain, const Variant *variant, const Config *base, int pairs, const Work *work) {
    static Subject subject;
    static Times times, plain_times;
    double prefill[2], decode[2], read_rates[PAIRS_MOST];
    open_subject(&subject, variant, base, work->batch);
    for (int i = -1; i < pairs; i++) { /* once to warm up */
        const int first = i & 1;
        Subject *const both[2] = {first ? &subject : plain, first ? plain : &subject};
        run(both, work, prefill, decode);
        if (i < 0) continue;
        read_rates[i] = bench_read_rate();
        plain_times.prefill[i] = prefill[first], plain_times.decode[i] = decode[first];
        times.prefill[i] = prefill[!first], times.decode[i] = decode[!first];
    }
    const double read_rate = bench_median(read_rates, pairs);
    printf("{\"bench\":\"generate\",\"device\":\"cpu\",\"dtype\":\"%s\",\"model\":\"%s\",\"B\":%d,\"prompt\":%d,\"tokens\":%d,"
           "\"variant\":\"%s\"",
           config_choice("dtype", subject.config.dtype), base->preset, work->batch, work->prompt, work->tokens, variant->name);
    print_ratio("prefill", times.prefill, plain_times.prefill, pairs, (double)work->batch * work->prompt);
    print_ratio("decode", times.decode, plain_times.decode, pairs, (double)work->batch * work->tokens);
    printf(",\"memory_bound_tokens_per_s\":%.1f,\"read_gb_per_s\":%.2f,\"pairs\":%d,\"threads\":%d}\n",
           work->batch * read_rate / weight_bytes(&subject.model), read_rate * 1e-9, pairs, (int)subject.config.threads);
    fflush(stdout);
    model_destroy(&subject.model);
}

static void measure_batch(const Config *base, int pairs, const Work *work) {
    static Subject plain;
    open_subject(&plain, &VARIANTS[0], base, work->batch);
    for (int i = 0; i < COUNT; i++)
        if (!strstr(VARIANTS[i].settings, "bf16") || takes_bf16()) measure(&plain, &VARIANTS[i], base, pairs, work);
    model_destroy(&plain.model);
}

static int number(int argc, char **argv, int i, int fallback) { return argc > i ? atoi(argv[i]) : fallback; }

int main(int argc, char **argv) {
    threads_wait_briefly(argv);
    const int pairs = number(argc, argv, 1, 9), prompt = number(argc, argv, 3, 256), tokens = number(argc, argv, 4, 16);
    check(pairs >= 6 && pairs <= PAIRS_MOST, "pairs: 6 (fewer give no interval of 95 %%) to %d", PAIRS_MOST);
    check(prompt > 0 && tokens > 0, "a prompt and its continuation have at least a token each");
    for (int i = 5; i < (argc > 5 ? argc : 7); i++) {
        const int batch = number(argc, argv, i, i == 5 ? 1 : 8);
        check(batch >= 1 && batch <= BATCH_MOST, "a batch of 1 to %d", BATCH_MOST);
        char length[16], rows[16];
        snprintf(length, sizeof length, "%d", prompt + tokens);
        snprintf(rows, sizeof rows, "%d", batch);
        char *arguments[] = {argv[0], "--preset", argc > 2 ? argv[2] : "llama-130m", "--batch-size", rows,
                             "--seq-len", length, "--dtype", "fp32", "--device", "cpu"};
        Config base;
        config_parse(&base, sizeof arguments / sizeof *arguments, arguments, NULL);
        Work work = {.batch = batch, .prompt = prompt, .tokens = tokens};
        work.text = must_malloc((size_t)(prompt + tokens) * sizeof *work.text, "tokens");
        for (int t = 0; t < prompt + tokens; t++) work.text[t] = (uint32_t)(t * 7919 % 256);
        measure_batch(&base, pairs, &work);
        free(work.text);
    }
    return 0;
}
