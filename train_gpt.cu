/*
 * train_gpt: pretrains GPT- and LLaMA-style language models, on a GPU or a CPU, with the normalization of the
 * model chosen by flags.
 *
 * This file is the program from top to bottom: flags → device → model → data → loop. How a run gets its model and data is in
 * src/run/run.c, what else one can do with it in src/run/modes.c. What a step computes is in src/model/model.c, what a flag
 * means in src/settings/flags.c, what an operation does in kernels/kernels.h. It is C11, whatever its name says: nvcc compiles
 * only kernels/cuda.
 */
#include "src/base/output.h"
#include "src/base/threads.h"
#include "src/ranks/rendezvous.h"
#include "src/run/device.h"
#include "src/run/flags_file.h"
#include "src/run/modes.h"
#include "src/run/report.h"
#include "src/run/resume.h"
#include "src/run/smoke.h"
#include "src/run/stop.h"
#include "src/settings/command_line.h"
#include "src/settings/needs.h"
#include "src/settings/schedule.h"
#include "src/settings/usage.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { NON_FINITE_MOST = 3 }; /* in a row: the run has diverged */

static Progress progress(const Run *run) {
    const Config *c = &run->start.config;
    return (Progress){.step = run->step,
                      .windows = run->step * c->micro_steps * c->batch_size * c->ranks,
                      .epoch_windows = (int64_t)loader_windows_per_epoch(run->loader),
                      .train_data = run->train_print,
                      .val_data = run->val_print,
                      .companions = &run->tokenizer.files,
                      .doubtful = run->skips_in_a_row > 0};
}

/* The step alone says where the data go on: other data, or other batches, are another order. */
static void compare_data(const Run *run) {
    Progress now = progress(run), then = run->resumed;
    if (!run->start.resume_from[0] || (now.windows == then.windows && now.epoch_windows == then.epoch_windows)) return;
    warn("%s had used %lld windows of data with %lld in an epoch; this run goes on at window %lld with %lld in an epoch",
         run->start.resume_from, (long long)then.windows, (long long)then.epoch_windows, (long long)now.windows,
         (long long)now.epoch_windows);
}

/* What this run changes of the one that it goes on with, refused where it was not meant; the event gets it too. */
static void compare_runs(Run *run, cJSON *event) {
    const Progress now = progress(run);
    if (!run->start.resume_from[0]) return;
    run->changes = resume_compare(&(Resume){.from = run->start.resume_from, .theirs = &run->start.theirs, .ours = &run->start.config,
                                            .then = &run->resumed, .now = &now, .train_set = &run->train_set,
                                            .val_set = run->validates ? &run->validator.set : NULL}, event);
}

/* ------------------------------------------------------------------------------------------------------
 * The loop
 * ---------------------------------------------------------------------------------------------------- */

static void add_setting(const char *name, const char *value, bool is_number, void *object) {
    if (is_number) cJSON_AddNumberToObject(object, name, strtod(value, NULL));
    else cJSON_AddStringToObject(object, name, value);
}

static void print_line(void *run, const char *line) { log_print(&((Run *)run)->log, "%s", line); }

/* Takes over the event. */
static void log_start(Run *run, cJSON *event) {
    DeviceInfo info = {0};
    run->k->describe(&info);
    cJSON *flags = cJSON_AddObjectToObject(event, "flags");
    cJSON_AddStringToObject(event, "version", program_version());
    cJSON_AddStringToObject(event, "kernels", run->k->name);
    cJSON_AddStringToObject(event, "device", info.name);
    cJSON_AddNumberToObject(event, "parameters", (double)run->model.params.true_elements);
    config_visit(&run->start.config, add_setting, flags);
    if (run->start.resume_from[0]) cJSON_AddStringToObject(event, "from", run->start.resume_from);
    char started[160];
    ranks_describe(&run->start.ranks, started, sizeof started);
    if (run->start.ranks.launcher) printf("%s\n", started);
    report_run(&run->start.config, &run->model);
    const ReportedData all = {.train = &run->train_set, .loader = run->loader, .validator = run->validates ? &run->validator : NULL};
    cJSON *data = report_data(&run->start.config, &all, false);
    cJSON_AddItemToObject(event, "data", data);
    log_event(&run->log, run->start.resume_from[0] ? "resume" : "start", run->step, event);
    if (run->start.resume_from[0]) log_print(&run->log, "resumed from %s", run->start.resume_from);
    if (run->changes) log_print(&run->log, "%s", run->changes);
    char text[512];
    if (run->start.init_from.weights[0]) log_print(&run->log, "weights from %s", run->start.init_from.weights);
    if (run->start.init_from.weights[0] && init_from_notice(&run->start.init_from, text, sizeof text)) log_print(&run->log, "%s", text);
    if (run->tokenizer.notice[0]) log_print(&run->log, "%s", run->tokenizer.notice);
    needs_report(&run->start.config, run->start.argc, run->start.argv, print_line, run);
    if (run->start.config.sample_every && !run->table.count) log_print(&run->log, "--sample-every: " GENERATE_NO_TABLE);
    if (!run->start.config.out && !run->start.config.smoke) log_print(&run->log, "no --out: nothing of this run is kept");
}

static const char *last_checkpoint(const Run *run) { return run->last_checkpoint[0] ? run->last_checkpoint : "none"; }

/* Ends a run by what all ranks have found alike. Rank 0 has said why before any is gone, for whoever started them ends the
 * others then. */
static CHECK_NORETURN void end_all(Run *run, int code, const char *what, const char *why) {
    model_settle(&run->model);
    ranks_end(&run->start.ranks, run->k, code, "%s: %s; last good checkpoint: %s", what, why, last_checkpoint(run));
}

/* The same, with an event: what was saved before is all that is good of the run. */
static CHECK_NORETURN void end_badly(Run *run, int code, const char *name, const char *what, const char *why) {
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "reason", why);
    cJSON_AddStringToObject(event, "last_good", last_checkpoint(run));
    log_event(&run->log, name, run->step, event);
    log_close(&run->log);
    end_all(run, code, what, why);
}

/* The run has lost its numbers. */
static CHECK_NORETURN void end_diverged(Run *run, const char *why) {
    end_badly(run, EXIT_DIVERGED, "diverged", "training diverged", why);
}

static void check_sync(Run *run) {
    char why[640];
    Error error = {0};
    if (!run->start.config.check_sync || sync_check(&run->sync, &error)) return;
    snprintf(why, sizeof why, "after step %lld %s", (long long)run->step, error.text);
    end_badly(run, EXIT_RUNTIME, "ranks differ", "the ranks' weights differ", why);
}

/* After an update that left numbers which are none. The first tensor that has some is named; where all masters and moments
 * are finite, their copies in a narrower type are not. */
static CHECK_NORETURN void end_without_numbers(Run *run, uint64_t count) {
    char why[640];
    Error where = {0};
    if (checkpoint_is_finite(&run->optimizer, &where))
        error_set(&where, "weights beyond the range of --dtype");
    snprintf(why, sizeof why, "weights or moments are no longer finite after step %lld (%llu of them; first: %s)",
             (long long)run->step, (unsigned long long)count, where.text);
    end_diverged(run, why);
}

/* What is not finite is not written: that a checkpoint cannot be made of it is then no failure of the disk. */
static bool save(Run *run, Error *error) {
    char path[CHECKPOINT_PATH], why[640];
    Progress now = progress(run);
    Error where = {0};
    if (!checkpoint_save(&run->start.config, &run->model, &run->optimizer, &now, path, error)) {
        if (checkpoint_is_finite(&run->optimizer, &where)) return false;
        snprintf(why, sizeof why, "%s are not finite after step %lld", where.text, (long long)run->step);
        end_diverged(run, why);
    }
    memcpy(run->last_checkpoint, path, sizeof path);
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "path", path);
    log_event(&run->log, "checkpoint", run->step, event);
    log_print(&run->log, "checkpoint %s", path);
    return true;
}

static void save_on_the_way(Run *run) {
    Error error = {0};
    if (save(run, &error)) return;
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "error", error.text);
    log_event(&run->log, "checkpoint failed", run->step, event);
    log_print(&run->log, "checkpoint failed: %s; the run goes on; last good checkpoint: %s", error.text,
              last_checkpoint(run));
}

static void print_sample(Run *run) {
    Error error = {0};
    log_print(&run->log, "sample after %lld steps:", (long long)run->step);
    ranks_work_begin(&run->start.ranks, run->k, run->start.config.timeout);
    bool good = run->start.config.rank || generate_sample(&run->model, &run->table, &error); /* rank 0's */
    model_settle(&run->model);
    ranks_work_end();
    if (!ranks_agree(&run->start.ranks, run->k, good)) end_diverged(run, error.text);
}

static bool due(int64_t step, int64_t every) { return every > 0 && step % every == 0; }

/* A step that did not reach the weights; the third non-finite one in a row ends the run. */
static void report_skip(Run *run, const StepState *state, double loss) {
    static const char *const REASONS[] = {"", "non-finite loss or gradient", "loss spike", "gradient norm spike"};
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "reason", REASONS[state->skip]);
    log_event(&run->log, "skip", run->step, event);
    log_print(&run->log, "step %lld skipped: %s (loss %g, gradient norm %g)", (long long)run->step,
              REASONS[state->skip], loss, state->grad_norm);
    if (state->skips_in_a_row < NON_FINITE_MOST) return;
    char why[128];
    snprintf(why, sizeof why, "%d steps in a row had a non-finite loss or gradient", NON_FINITE_MOST);
    end_diverged(run, why);
}

/* Why this process would have the run end after this step, or NULL. Ranks must agree, so each sends its wish with the
 * next step, and all end after the one that has summed them. */
static const char *reason_to_stop(const Run *run) {
    double minutes = (log_seconds() - run->started) / 60;
    if (stop_requested()) return stop_requested();
    if (run->start.config.max_minutes > 0 && minutes >= run->start.config.max_minutes) return "--max-minutes";
    /* A run that neither keeps anything nor can tell anybody. */
    if (!run->start.config.out && run->log.mute) return "stdout cannot be written";
    return NULL;
}

/* Reads what came of the step in flight, and tells. Returns why the run should end now, or NULL. */
static const char *land(Run *run) {
    const Config *c = &run->start.config;
    const Flight flight = run->flight;
    const StepState *state = optimizer_await(&run->optimizer, flight.report);
    double loss = state->loss_sum / (double)flight.targets, now = log_seconds();
    /* From the end of the step before, where this one was waiting for it in the queue. */
    double ms = (now - (flight.begun > run->landed ? flight.begun : run->landed)) * 1e3;
    run->flight.there = false;
    run->landed = now;
    run->skips_in_a_row = state->skips_in_a_row;
    run->step++;
    if (run->step == 1) run->first_loss = loss;
    run->last_loss = loss;
    if (state->skip) report_skip(run, state, loss);
    const TrainRecord record = {.step = run->step, .loss = loss, .lr = flight.lr, .grad_norm = state->grad_norm, .ms = ms,
                                .tokens = flight.targets};
    log_train(&run->log, &record);
    summary_step(&run->summary, &record, state->skip != 0);
    if (state->non_finite) end_without_numbers(run, state->non_finite);
    if (run->telemetry && due(run->step, c->stats_every)) telemetry_write(run->telemetry, &run->log, run->step);
    char line[320];
    if (waiting_look(&run->waiting, line, sizeof line)) log_print(&run->log, "%s", line);
    if (c->ranks == 1) return reason_to_stop(run);
    return state->in.stop == 0 ? NULL : reason_to_stop(run) ? reason_to_stop(run) : "another rank was asked to";
}

/* Data that cannot be read end the run, but not what it has learned: the weights are those of its last whole step. */
static void end_without_data(Run *run, const char *flag, const char *why) {
    Error error = {0};
    bool alone = run->start.config.ranks == 1; /* the others know nothing of it, and wait elsewhere */
    if (alone && run->flight.there) land(run);
    if (alone && run->start.config.out) save(run, &error);
    log_event(&run->log, "data failed", run->step, NULL);
    log_close(&run->log);
    fail(EXIT_USAGE, "%s: %s; the run stops after step %lld; last checkpoint: %s", flag, why, (long long)run->step,
         last_checkpoint(run));
}

static void validate(Run *run) {
    Validation found;
    Error error = {0};
    if (!validator_run(&run->validator, &found, &error)) end_without_data(run, "--val-data", error.text);
    log_val(&run->log, run->step, &found);
    summary_val(&run->summary, run->step, found.loss);
    if (isfinite(found.loss)) return;
    char why[128];
    snprintf(why, sizeof why, "the validation loss after step %lld is not finite", (long long)run->step);
    end_diverged(run, why);
}

/* All ranks gather them, rank 0 looks at them. */
static void watch_masters(Run *run, void (*look)(Telemetry *, const Accum *)) {
    const Accum *masters = optimizer_masters(&run->optimizer);
    if (run->telemetry) look(run->telemetry, masters);
}

static void watch_update(Run *run) {
    optimizer_gradients(&run->optimizer);
    if (run->telemetry) telemetry_gradients(run->telemetry);
    watch_masters(run, telemetry_after);
}

/* Of all ranks and micro-steps of one update: those of padding do not count. */
static int64_t targets_of(const Run *run, int64_t step) {
    const Config *c = &run->start.config;
    const int64_t rows = c->micro_steps * c->batch_size * c->ranks;
    return (int64_t)loader_targets(run->loader, (uint64_t)(step * rows), (uint64_t)rows);
}

/* Puts one update from micro_steps batches, after `step` earlier ones, into the queue. The step in flight before it is
 * let land as late as that changes nothing: when its successor is in the queue. */
static void launch(Run *run, int64_t step, Flight *flight) {
    const Config *c = &run->start.config;
    *flight = (Flight){.there = true, .begun = log_seconds(), .lr = schedule_lr(c, step), .targets = targets_of(run, step)};
    StepInputs inputs = {.lr = flight->lr, .step = (uint64_t)step, .loss_scale = 1 / (double)flight->targets,
                         .stop = c->ranks > 1 && reason_to_stop(run) ? 1 : 0};
    if (c->bhyt_refresh > 0 && step % c->bhyt_refresh == 0) model_refresh(&run->model);
    const bool watched = due(step + 1, c->stats_every);
    if (watched) watch_masters(run, telemetry_before);
    optimizer_begin(&run->optimizer, &inputs);
    for (int64_t micro = 0; micro < c->micro_steps; micro++) {
        Error error = {0};
        if (!run_next_batch(run, feed_open(&run->feed), &error)) end_without_data(run, "--train-data", error.text);
        feed_send(&run->feed);
        step_micro(&run->stepper, micro + 1 == c->micro_steps);
    }
    step_update(&run->stepper);
    if (watched) watch_update(run);
    flight->report = optimizer_report(&run->optimizer);
}

/* Whether something reads the weights between this step and the next one. */
static bool rests_after(const Run *run, int64_t step) {
    const Config *c = &run->start.config;
    return step == c->steps || (run->validates && due(step, c->val_every)) || due(step, c->sample_every) ||
           (c->out && due(step, c->save_every)) || due(step, c->stats_every) || (c->ranks > 1 && due(step, c->check_sync));
}

/* What is due after a step that has landed, with no other in flight. */
static void rest(Run *run) {
    const Config *c = &run->start.config;
    if (due(run->step, c->check_sync)) check_sync(run);
    if (run->validates && due(run->step, c->val_every)) validate(run);
    if (due(run->step, c->sample_every)) print_sample(run);
    /* What gives no finite loss is not saved: --keep would drop the last good checkpoint for it. */
    if (c->out && due(run->step, c->save_every) && !run->skips_in_a_row) save_on_the_way(run);
}

/* Steps until there is a reason to stop. A GPU has the next one in its queue while the host reads and tells what came
 * of the last; a CPU is done with a step when it has been launched. */
static const char *take_steps(Run *run) {
    const Config *c = &run->start.config;
    const char *reason = NULL;
    bool ahead = strcmp(run->k->device, "cpu") != 0;
    for (int64_t launched = run->step; launched < c->steps && !reason;) {
        Flight next;
        launch(run, launched++, &next);
        if (run->flight.there) reason = land(run);
        run->flight = next;
        if (ahead && !rests_after(run, launched)) continue;
        reason = land(run);
        if (run->step < c->steps && !reason) rest(run);
    }
    return run->flight.there ? land(run) : reason;
}

/* A run that is at its end already, or beyond the end that it has now. Beyond it nothing at all is to do; at it the last
 * validation and save are made sure of, which a signal may have cut short. Returns whether the run is over. */
static bool is_at_its_end(const Run *run) {
    const Config *c = &run->start.config;
    if (run->step < c->steps) return false;
    printf("the run is at step %lld of --steps %lld: nothing left to do; a larger --steps goes on\n",
           (long long)run->step, (long long)c->steps);
    return run->step > c->steps;
}

static void loop(Run *run) {
    const Config *c = &run->start.config;
    const char *reason = take_steps(run);
    if (reason) log_print(&run->log, "stopping after step %lld: %s", (long long)run->step, reason);
    check_sync(run);
    bool asked = c->ranks == 1 ? stop_requested() != NULL : reason != NULL;
    if (run->validates && !asked) validate(run);
    Error error = {0};
    bool saved = !c->out || save(run, &error);
    if (c->sample_every && !asked) print_sample(run);
    cJSON *event = cJSON_CreateObject();
    cJSON_AddStringToObject(event, "reason",
                            !saved ? "the last checkpoint could not be written" : reason ? reason : "all steps done");
    const SummaryEnd end = {.config = c, .program = run->start.argv[0], .reason = reason, .step = run->step,
                            .checkpoint = run->last_checkpoint[0] ? run->last_checkpoint : NULL,
                            .seconds = log_seconds() - run->started, .bytes = generate_takes_bytes(&run->start, &run->train_set)};
    summary_event(&run->summary, &end, event);
    log_event(&run->log, "end", run->step, event);
    if (saved && !c->smoke) summary_print(&run->summary, &end, &run->log);
    if (!saved) end_all(run, EXIT_RUNTIME, "the last checkpoint could not be written", error.text);
}

/* ------------------------------------------------------------------------------------------------------
 * The run
 * ---------------------------------------------------------------------------------------------------- */

/* What a run that keeps nothing says is all there is of it. */
static void check_told(const Run *run) {
    Error error = {0};
    require(run->start.config.out || output_flush(&error), "%s, and without --out nothing else is left of the run; it stops "
            "after step %lld", error.text, (long long)run->step);
}

/* For --sample-every. */
static void open_table(Run *run) {
    Error error = {0};
    if (!run->start.config.sample_every) return;
    check(generate_table(&run->table, &run->start, &run->train_set, &error), "--sample-every: %s", error.text);
}

/* Rank 0 tells what came of the run, and so recalls what was noted of it before. */
static void begin_summary(Run *run, bool other_val_data) {
    const Config *c = &run->start.config;
    char path[PATH_SIZE];
    Error error;
    bool recalls = run->start.resume_from[0] && c->rank == 0 && c->out && path_join(path, c->out, "metrics.jsonl", &error);
    summary_begin(&run->summary, run->step, recalls ? path : NULL, other_val_data);
}

static void train(Run *run) {
    const Config *c = &run->start.config;
    tokenizer_check_vocabulary(c, run->start.resume_from[0] != '\0', true);
    run_open_model(run, true);
    if (is_at_its_end(run)) {
        optimizer_destroy(&run->optimizer);
        return;
    }
    run_check_out(run);
    run_open_training_data(run);
    run->validates = c->val_data != NULL;
    if (run->validates) run_open_validation(run);
    const Origin origin = {.resume_from = run->start.resume_from, .weights = run->start.init_from.weights};
    tokenizer_open(&run->tokenizer, c, &origin, &run->train_set, run->validates ? &run->validator.set : NULL, c->out && c->rank == 0);
    open_table(run);
    run->train_print = run_print_of(&run->train_set, "train-data");
    if (run->validates) run->val_print = run_print_of(&run->validator.set, "val-data");
    cJSON *event = cJSON_CreateObject();
    compare_runs(run, event);
    compare_data(run);
    step_create(&run->stepper, &run->optimizer);
    sync_create(&run->sync, &run->model, &run->start.ranks);
    if (c->stats_every && c->rank == 0) run->telemetry = telemetry_create(&run->model);
    DeviceInfo info = {0};
    run->k->describe(&info);
    Error error = {0};
    check(!c->out || checkpoint_can_hold(&run->optimizer, &error), "--out %s: %s", c->out, error.text);
    check(!c->out || c->rank || checkpoint_claim(c->out, &error), "--out %s", error.text);
    start_compare(&run->start, run->k, run->train_print, run->val_print);
    log_open(&run->log, c, model_flops_per_token(c, &run->model.params), info.peak_flops);
    flags_file_write(c);
    begin_summary(run, cJSON_GetObjectItemCaseSensitive(event, "val_data") != NULL);
    if (run->start.resume_from[0]) memcpy(run->last_checkpoint, run->start.resume_from, sizeof run->start.resume_from);
    log_start(run, event);
    check_sync(run);
    waiting_begin(&run->waiting, c->device == DEVICE_CPU ? (int)c->threads : 0);
    stop_as_request();
    loop(run);
    log_close(&run->log);
    summary_free(&run->summary);
    run_close_training_data(run);
    if (run->validates) validator_destroy(&run->validator);
    tokenizer_close(&run->tokenizer);
    telemetry_destroy(run->telemetry);
    sync_destroy(&run->sync);
    step_destroy(&run->stepper);
    optimizer_destroy(&run->optimizer);
    token_bytes_free(&run->table);
    free(run->train_print), free(run->val_print), free(run->changes);
    progress_free(&run->resumed);
    check_told(run);
    if (c->smoke) smoke_finish(c, run->first_loss, run->last_loss);
}

int main(int argc, char **argv) {
    static Run run;
    threads_wait_briefly(argv);
    output_open();
    run.started = log_seconds();
    stop_watch();
    /* A reader of our output that has gone, or a file at its limit, is an error to be told, not the run's end. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    start_read(&run.start, argc, argv);
    const Config *c = &run.start.config;
    run.k = device_open(&run.start.config);
    start_join(&run.start, run.k, &run.step);
    if (c->dry_run) {
        modes_plan(&run);
        return EXIT_DONE;
    }
    if (c->probe) modes_probe(&run);
    else if (config_generates(c)) modes_generate(&run);
    else if (c->eval_only) modes_evaluate(&run);
    else if (c->eval) modes_ask(&run);
    else train(&run);
    model_destroy(&run.model);
    run.k->close();
    ranks_close();
    /* A training's results are in --out: one whose terminal was closed has done what was asked. */
    if (c->smoke || c->eval_only || c->eval || config_generates(c)) output_end();
    return EXIT_DONE;
}
