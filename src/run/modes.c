/* modes.c: see modes.h. */
#include "modes.h"
#include "../base/output.h"
#include "../data/fingerprint.h"
#include "../settings/command_line.h"
#include "../settings/needs.h"
#include "device.h"
#include "eval_items.h"
#include "probe.h"
#include "report.h"

#include <math.h>
#include <stdlib.h>

static void need_weights(const Run *run, const char *mode) {
    check(run->start.resume_from[0] || run->start.config.init_from, "%s needs weights: --resume RUN or --init-from FILE", mode);
}

static void say(void *unused, const char *line) {
    (void)unused;
    warn("%s", line);
}

/* That nothing says the weights' model, or which flags do nothing: on stderr, as stdout holds a mode's result and nothing else, and once
 * nothing can be refused any more. (What trains says it among its first lines.) */
static void say_notice(const Run *run) {
    char text[512];
    if (run->start.init_from.weights[0] && init_from_notice(&run->start.init_from, text, sizeof text)) warn("%s", text);
    needs_report(&run->start.config, run->start.argc, run->start.argv, say, NULL);
}

/* And that this is not the device that one might have expected. */
static void say_all(const Run *run) {
    if (device_notice()) warn("%s", device_notice());
    say_notice(run);
}

void modes_plan(const Run *run) {
    say_notice(run);
    report_plan(&run->start.config, run->k);
    output_end();
}

void modes_evaluate(Run *run) {
    need_weights(run, "--eval-only");
    check(run->start.config.val_data, "--eval-only needs --val-data");
    tokenizer_check_vocabulary(&run->start.config, run->start.resume_from[0] != '\0', false);
    run_open_model(run, false);
    run_open_validation(run);
    tokenizer_check_validation(&run->start.config, &run->validator.set, run->resumed.train_data);
    free(run_print_of(&run->validator.set, "val-data")); /* are these the shards that their list tells of? */
    Validation found;
    Error error = {0};
    check(validator_run(&run->validator, &found, &error), "--val-data: %s", error.text);
    say_all(run);
    cJSON_Delete(report_data(&run->start.config, &(ReportedData){.validator = &run->validator}, true));
    printf("val loss %.6f nats/token over %lld tokens\nperplexity %.6g", found.loss, (long long)found.tokens,
           validation_perplexity(&found));
    if (found.bytes > 0) printf(", %.6f bits/byte over %.0f bytes", validation_bits_per_byte(&found), found.bytes);
    printf("\n");
    if (!isfinite(found.loss)) fail(EXIT_DIVERGED, "--eval-only: the loss is not finite: these weights have diverged");
    validator_destroy(&run->validator);
}

/* Nobody's metrics but those of an --out that is named here. */
void modes_ask(Run *run) {
    const Start *start = &run->start;
    need_weights(run, "--eval");
    TokenBytes table;
    Error error = {0};
    check(generate_table(&table, start, NULL, &error), "--eval: %s", error.text);
    char tokenizer[SHA256_HEX];
    tokenizer_of_weights(&(Origin){.resume_from = start->resume_from, .weights = start->init_from.weights}, tokenizer);
    Evaluation *evaluation = evaluation_open(&start->config, &table, tokenizer);
    bool logs = config_peek(start->argc, start->argv, "out") != NULL;
    run_open_model(run, false);
    say_all(run);
    if (logs) log_open(&run->log, &start->config, 0, 0);
    evaluation_run(evaluation, &run->model, logs ? &run->log : NULL, run->step);
    if (logs) log_close(&run->log);
    token_bytes_free(&table);
}

/* What a batch took, on stderr: stdout holds the texts. */
static void say_cost(const DecodeCost *cost) {
    char line[160] = "";
    if (cost->new_seconds > 0)
        snprintf(line, sizeof line, "; then %lld tokens at %.1f tokens/s", (long long)cost->new_tokens,
                 (double)cost->new_tokens / cost->new_seconds);
    warn("%lld tokens of prompts at %.1f tokens/s%s", (long long)cost->prompt_tokens,
         (double)cost->prompt_tokens / cost->prompt_seconds, line);
}

void modes_generate(Run *run) {
    Config *c = &run->start.config;
    const char *flag = c->generate_file ? "--generate-file" : c->generate ? "--generate" : "--generate-tokens";
    TokenBytes table;
    Prompts prompts;
    DecodeCost cost;
    Error error = {0};
    need_weights(run, flag);
    check(generate_table(&table, &run->start, NULL, &error), "%s: %s", flag, error.text);
    check(prompts_read(&prompts, c, &table, &error), "%s", error.text);
    if ((size_t)c->batch_size > prompts.count) c->batch_size = (int64_t)prompts.count;
    run_open_model(run, false);
    say_all(run);
    if (!table.count) warn(GENERATE_NO_TABLE);
    const bool good = c->generate_file ? generate_lines(&run->model, &table, &prompts, &cost, &error)
                                       : generate_text(&run->model, &table, &prompts, &error);
    if (!good) fail(EXIT_DIVERGED, "%s: %s", flag, error.text);
    if (c->generate_file) say_cost(&cost);
    prompts_free(&prompts);
    token_bytes_free(&table);
}

/* A probe replaces an earlier one, and nothing that it is made of. */
static void check_probe_is_no_input(const Run *run) {
    const char *path = run->start.config.probe, *weights = run->start.init_from.weights, *resume = run->start.resume_from;
    const bool is_model = paths_are_one(path, weights) || checkpoint_stands_in(path, weights) || checkpoint_stands_in(path, resume);
    check(!is_model, "--probe %s: it is a file of the model that it is to tell of", path);
    for (size_t i = 0; i < run->train_set.n_shards; i++)
        check(!paths_are_one(path, run->train_set.shards[i].path), "--probe %s: it is a file of --train-data", path);
}

void modes_probe(Run *run) {
    Error error = {0};
    check(probe_can_write(run->start.config.probe, &error), "--probe %s", error.text);
    run_open_model(run, true);
    run_open_training_data(run);
    check_probe_is_no_input(run);
    const struct FeedSlot *batch = feed_open(&run->feed);
    check(run_next_batch(run, batch, &error), "--train-data: %s", error.text);
    say_all(run);
    require(probe_write(&run->optimizer, batch, run->start.config.probe, &error), "--probe: %s", error.text);
    run_close_training_data(run);
    optimizer_destroy(&run->optimizer);
}
