/* report.c: see report.h. */
#include "report.h"
#include "capacity.h"
#include "device.h"
#include "telemetry.h"
#include "../data/mixture.h"
#include "../model/optim.h"
#include "../settings/schedule.h"
#include "../settings/variant.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void describe_model(const Config *c, const Params *params) {
    char variant[128];
    variant_describe(c, variant, sizeof variant);
    printf("model: %s, %s, %lld layers, %lld wide, %lld heads (%lld kv), ffn %lld, vocabulary %lld: %.2f M parameters"
           " (%.2f M without embeddings)\n",
           config_choice("arch", c->arch), variant, (long long)c->n_layer, (long long)c->n_embd, (long long)c->n_head,
           (long long)c->n_kv_head, (long long)c->n_ffn, (long long)c->vocab_size,
           (double)params->true_elements * 1e-6, (double)params->true_elements_no_embeddings * 1e-6);
}

/* Rounding takes of F(x) what α·x is larger. A pre-type stream is √(2L) times a sublayer's output at its end, and nobody minds;
 * DeepNorm's (2L)^¼ is less. At 24 layers of 64, init-std 1/√C, keel's blocks change the stream by what they should ± 14 % (± 0.6 %
 * with fp32), pre's ± 5 % and deepnorm's ± 6 % (± 4 % and ± 3 %). */
static void describe_residual(const Config *c) {
    const double alpha = variant_shortcut(c), bits = 8;
    if (c->dtype != DTYPE_FLAG_BF16 || c->residual_dtype == RESIDUAL_FP32 || alpha <= sqrt(2.0 * (double)c->n_layer)) return;
    printf("residual: beside %s's %g·x bf16 keeps about %.0f of F(x)'s %.0f bits; --residual-dtype fp32 keeps them all\n",
           variant_placement(c)->name, alpha, fmax(bits - log2(alpha), 0), bits);
}

static void describe_fallback(void) {
    if (device_notice()) printf("%s\n", device_notice());
}

static void describe_batch(const Config *c) {
    char ranks[48] = "";
    const double tokens = (double)c->total_batch_tokens * (double)c->steps;
    static const struct {
        double size;
        const char *name;
    } UNITS[] = {{1e6, "M"}, {1e9, "B"}, {1e12, "T"}};
    const int unit = tokens >= 999.5e9 ? 2 : tokens >= 999.5e6;
    if (c->ranks > 1) snprintf(ranks, sizeof ranks, " × %lld ranks", (long long)c->ranks);
    printf("batch: %lld tokens an update = %lld sequences × %lld tokens × %lld micro-steps%s; %lld updates, %.3g %s tokens\n",
           (long long)c->total_batch_tokens, (long long)c->batch_size, (long long)c->seq_len,
           (long long)c->micro_steps, ranks, (long long)c->steps, tokens / UNITS[unit].size, UNITS[unit].name);
}

/* A period of one's own need not divide what lies behind the warmup; its last step may even be a peak. */
static void describe_restarts(const Config *c) {
    const int64_t last = schedule_end(c) - 1;
    if (c->lr_schedule != SCHEDULE_COSINE_RESTARTS || c->restart_steps == AUTO_INT) return;
    const int64_t left = (last + 1 - c->warmup_steps) % c->restart_steps;
    if (left)
        printf("schedule: ends %lld step%s into a restart of %lld, at a learning rate of %.3g, not at the final %.3g\n", (long long)left,
               left == 1 ? "" : "s", (long long)c->restart_steps, schedule_lr(c, last), c->lr * c->lr_final_frac);
}

static void describe_muon(const Config *c, const Params *params) {
    const double flops = muon_flops(c, params), others = model_flops_per_token(c, params) * (double)c->total_batch_tokens;
    if (c->optimizer != OPTIMIZER_FLAG_MUON) return;
    printf("muon: %d matrices, %.3g TFLOP of Newton–Schulz an update: %.2g %% of forward and backward\n",
           muon_matrices(c, params), flops * 1e-12, 100 * flops / others);
}

void report_run(const Config *c, const Model *model) {
    DeviceInfo info = {0};
    model->k->describe(&info);
    describe_fallback();
    describe_model(c, &model->params);
    describe_residual(c);
    describe_batch(c);
    describe_restarts(c);
    printf("device: %s, %s, %d %s; %.2f GFLOP a token (6 × matrix elements + 6·L·H·D·T for causal attention)\n",
           model->k->name, info.name, info.units,
           strcmp(model->k->device, "cpu") ? "multiprocessors" : info.units == 1 ? "thread" : "threads",
           model_flops_per_token(c, &model->params) * 1e-9);
}

/* The plan asks no data, but whoever named them wants to hear of it now. */
static void describe_absent(const char *flag, const char *data) {
    ShardSet set;
    Error error = {0};
    if (!data) return;
    if (mixture_open(&set, data, &error)) shard_set_close(&set);
    else printf("data: a run would refuse %s: %s\n", flag, error.text);
}

void report_plan(const Config *c, const Kernels *k) {
    MemoryPlan plan;
    Params params;
    model_plan(c, k, true, &plan);
    params_build(&params, c);
    describe_fallback();
    describe_model(c, &params);
    describe_residual(c);
    describe_batch(c);
    describe_restarts(c);
    describe_absent("--train-data", c->train_data);
    describe_absent("--val-data", c->val_data);
    describe_muon(c, &params);
    printf("parameters: %lld\n", (long long)params.true_elements);
    bool shared = c->ranks > 1 && c->zero == ZERO_1;
    const bool sends_copies = optimizer_staging_bytes(c, &params, k->accum) > 0; /* of gradients, in --reduce-dtype */
    char moments[64];
    snprintf(moments, sizeof moments, "%s%s", c->optimizer == OPTIMIZER_FLAG_MUON ? "one of Muon's, two of AdamW's" : "AdamW",
             shared ? ", a rank's share" : "");
    const struct {
        const char *name;
        double bytes;
        const char *help;
    } rows[] = {
        {"weights", (double)plan.weights,
         k->storage == k->accum ? "masters"
         : shared               ? "masters in halves, the lower of a rank's share"
                                : "masters in halves, of which products read the upper"},
        {"gradients", (double)plan.gradients, ""},
        {"moments", (double)plan.moments, moments},
        {"activations", (double)plan.activations, "--batch-size and --recompute change it"},
        {"workspace", (double)plan.workspace, sends_copies ? "gradients of activations, logits, scratch, a bucket to send"
                                                           : "gradients of activations, logits, scratch"},
        {"telemetry", c->stats_every ? (double)telemetry_bytes(c, k) : 0, "--stats-every"},
        {"process", capacity_process_bytes(c), "estimate: libraries, their buffers, data"},
    };
    double total = 0;
    char ranks[64] = "";
    if (c->ranks > 1)
        snprintf(ranks, sizeof ranks, " of each of %lld ranks, zero %s", (long long)c->ranks, config_choice("zero", c->zero));
    printf("memory%s (%s, recompute %s):\n", ranks, k->name, config_choice("recompute", c->recompute));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].bytes == 0) continue;
        printf("  %-12s %10.1f MB  %s\n", rows[i].name, rows[i].bytes * 1e-6, rows[i].help);
        total += rows[i].bytes;
    }
    printf("  %-12s %10.1f MB\n", "total", total * 1e-6);
    char meets[300];
    capacity_describe(c, k, total, meets, sizeof meets);
    if (meets[0]) printf("%s\n", meets);
    params_free(&params);
}
