/* test_host_path.c: does the host keep its promises to a device that works later: steps in flight, pinned buffers in
 * turn, captured steps, algorithms chosen by measuring; and does a failure name what was asked of the device? Runs over
 * the emulation, whose queues run as late as CUDA allows and whose graphs replay frozen arguments. Each promise has a
 * planted breach that must show. */
#include "../../../src/base/check.h"
#include "../../../src/data/feed.h"
#include "../../../src/model/step.h"
#include "../../../src/settings/command_line.h"
#include "../../../src/settings/resolve.h"
#include "planted.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#undef fail

enum { STEPS = 5, MICRO_STEPS = 3, MOST_EVENTS = FEED_SLOTS + STEPS_IN_FLIGHT };

/* What a run leaves, to the bit. */
typedef struct Trained {
    size_t bytes;
    void *masters;
    double loss[STEPS], norm[STEPS];
} Trained;

/* ---- a device that can be told to misbehave ---- */

static Kernels kernels;                     /* the implementation under test, with this file's wrappers */
static const Kernels *genuine;
static const Event *ignored[MOST_EVENTS];   /* events that the host does not wait for */
static int graph_launches, updates_called;
static const char *tuned = "off";           /* --gemm-tune */

static void event_host_wait(Event *event) {
    for (int i = 0; i < MOST_EVENTS; i++)
        if (ignored[i] == event) return;
    genuine->event_host_wait(event);
}

static void graph_launch(Queue *queue, Graph *graph) {
    graph_launches++;
    genuine->graph_launch(queue, graph);
}

static void adamw(Queue *queue, const AdamW *args) {
    updates_called += args->begin == 0; /* an update goes by buckets */
    genuine->adamw(queue, args);
}

static void use(const Kernels *k) {
    genuine = k;
    kernels = *k;
    kernels.event_host_wait = event_host_wait;
    kernels.graph_launch = graph_launch;
    kernels.adamw = adamw;
    memset(ignored, 0, sizeof ignored);
    graph_launches = updates_called = 0;
}

/* ---- a run of a few steps, as train_gpt takes them ---- */

typedef enum Breach { NOTHING, BATCHES_NOT_WAITED_FOR, REPORTS_NOT_WAITED_FOR } Breach;

static void breach(Breach which, const Feed *feed, const Optimizer *optimizer) {
    for (int i = 0; which == BATCHES_NOT_WAITED_FOR && i < FEED_SLOTS; i++) ignored[i] = feed->slot[i].copied;
    for (int i = 0; which == REPORTS_NOT_WAITED_FOR && i < STEPS_IN_FLIGHT; i++)
        ignored[i] = optimizer->report[i].copied;
}

static void fill(const Model *m, const struct FeedSlot *slot, int batch) {
    for (int64_t i = 0; i < m->N; i++) {
        slot->tokens[i] = (uint32_t)((batch * 7 + i * 3) % m->V);
        slot->targets[i] = (uint32_t)((batch * 7 + (i + 1) * 3) % m->V);
    }
}

static void note(Trained *out, int step, const StepState *state) {
    out->loss[step] = state->loss_sum;
    out->norm[step] = state->grad_norm;
}

static void take_steps(Step *step, Feed *feed, Trained *out) {
    Optimizer *optimizer = step->optimizer;
    for (int s = 0, report = 0, before; s < STEPS; s++) {
        StepInputs inputs = {.lr = 1e-3 * (s + 1), .loss_scale = 1.0 / (double)(MICRO_STEPS * feed->model->N),
                             .step = (uint64_t)s};
        planted_lr = inputs.lr;
        optimizer_begin(optimizer, &inputs);
        for (int micro = 0; micro < MICRO_STEPS; micro++) {
            fill(feed->model, feed_open(feed), s * MICRO_STEPS + micro);
            feed_send(feed);
            step_micro(step, true);
        }
        step_update(step);
        before = report;
        report = optimizer_report(optimizer);
        if (s > 0) note(out, s - 1, optimizer_await(optimizer, before));
        if (s == STEPS - 1) note(out, s, optimizer_await(optimizer, report));
    }
}

static Trained train(const char *graphs, const char *norm, Breach which) {
    char *argv[] = {"test",       "--arch",    "llama",   "--norm",       (char *)norm, "--n-layer",    "2",
                    "--n-embd",   "16",        "--n-head", "2",           "--n-ffn",    "24",           "--vocab-size",
                    "29",         "--seq-len", "4",       "--batch-size", "2",          "--cuda-graph", (char *)graphs,
                    "--init-std", "0.1",       "--gemm-tune", (char *)tuned};
    Config config;
    Model model;
    Optimizer optimizer;
    Feed feed;
    Step step;
    char text[256];
    Trained out = {0};
    config_parse(&config, sizeof argv / sizeof *argv, argv, NULL);
    config_resolve(&config, 1);
    assert_true(kernels.open(0, text, sizeof text));
    model_create(&model, &config, &kernels, true);
    optimizer_create(&optimizer, &model);
    out.bytes = (size_t)model.params.elements * sizeof(float);
    out.masters = must_calloc(1, out.bytes, "weights");
    params_init(&model.params, &config, DTYPE_F32, out.masters);
    model_load(&model, out.masters);
    model_refresh(&model);
    feed_create(&feed, &model);
    step_create(&step, &optimizer);
    breach(which, &feed, &optimizer);
    take_steps(&step, &feed, &out);
    model_logits(&model, 0, 3); /* a product of a shape that no step had, as samples have them: not to be measured */
    kernels.copy(model.queue, out.masters, optimizer_masters(&optimizer), out.bytes, COPY_TO_HOST);
    kernels.queue_wait(model.queue);
    step_destroy(&step);
    feed_destroy(&feed);
    optimizer_destroy(&optimizer);
    model_destroy(&model);
    return out;
}

static bool same(Trained a, Trained b) {
    bool equal = a.bytes == b.bytes && memcmp(a.masters, b.masters, a.bytes) == 0 &&
                 memcmp(a.loss, b.loss, sizeof a.loss) == 0 && memcmp(a.norm, b.norm, sizeof a.norm) == 0;
    free(a.masters);
    free(b.masters);
    return equal;
}

/* ---- promises ---- */

static void graphs_change_no_bit(void **state) {
    (void)state;
    const Kernels *const all[] = {&kernels_cuda_f32, &kernels_cuda_bf16};
    const char *const norms[] = {"rmsnorm", "bhyt"};
    for (int i = 0; i < 2; i++)
        for (int n = 0; n < 2; n++) {
            use(all[i]);
            Trained plain = train("off", norms[n], NOTHING);
            assert_int_equal(graph_launches, 0);
            assert_int_equal(updates_called, STEPS);
            updates_called = 0;
            Trained captured = train("on", norms[n], NOTHING);
            assert_int_equal(graph_launches, (STEPS - 1) * (MICRO_STEPS + 1));
            assert_int_equal(updates_called, 2); /* directly, and to be captured */
            assert_true(same(plain, captured));
        }
}

static void a_learning_rate_that_is_an_argument_is_seen(void **state) {
    (void)state;
    use(&kernels_cuda_f32);
    Trained right = train("off", "rmsnorm", NOTHING);
    kernels.adamw = planted_adamw;
    assert_true(same(right, train("off", "rmsnorm", NOTHING))); /* it is right until it is captured */
    right = train("off", "rmsnorm", NOTHING);
    assert_false(same(right, train("on", "rmsnorm", NOTHING)));
}

static void a_batch_that_is_overwritten_too_early_is_seen(void **state) {
    (void)state;
    use(&kernels_cuda_f32);
    Trained right = train("on", "rmsnorm", NOTHING);
    assert_false(same(right, train("on", "rmsnorm", BATCHES_NOT_WAITED_FOR)));
}

static void an_outcome_that_is_read_too_early_is_seen(void **state) {
    (void)state;
    use(&kernels_cuda_f32);
    Trained right = train("on", "rmsnorm", NOTHING);
    assert_false(same(right, train("on", "rmsnorm", REPORTS_NOT_WAITED_FOR)));
}

/* ---- --gemm-tune: the choice of algorithms ---- */

/* A run on a device that has just been opened, so that no plan and no choice is left from before. */
static Trained train_afresh(const char *tune, const char *choices, char **saved) {
    char text[256] = "";
    tuned = tune;
    kernels.close();
    assert_true(kernels.open(0, text, sizeof text));
    assert_true(!choices || kernels.gemm_choices_load(choices, text, sizeof text));
    Trained out = train("on", "rmsnorm", NOTHING);
    if (saved) *saved = kernels.gemm_choices_save();
    tuned = "off";
    return out;
}

static int count(const char *text, const char *word) {
    int found = 0;
    for (const char *at = text; (at = strstr(at, word)); at++) found++;
    return found;
}

/* The emulated algorithms differ in their last bits, and in their times as told. */
static void measured_algorithms_are_kept_and_obeyed(void **state) {
    (void)state;
    const Kernels *const all[] = {&kernels_cuda_f32, &kernels_cuda_bf16};
    for (int i = 0; i < 2; i++) {
        char *none, *choices, *again;
        use(all[i]);
        Trained first = train_afresh("off", NULL, &none);
        assert_null(none);
        setenv("EMU_FAST_ALGORITHM", "5", 1);
        Trained measured = train_afresh("on", NULL, &choices);
        assert_int_equal(count(choices, "\"algorithm\""), 8); /* padded to 64 × 64 or 128 × 64, each forward, to dx, and to dW twice */
        setenv("EMU_FAST_ALGORITHM", "2", 1);
        Trained obeyed = train_afresh("on", choices, &again); /* nothing is left to measure */
        unsetenv("EMU_FAST_ALGORITHM");
        assert_string_equal(choices, again);
        assert_false(memcmp(first.masters, measured.masters, first.bytes) == 0);
        assert_true(same(measured, obeyed));
        free(first.masters);
        free(choices);
        free(again);
    }
}

static char *replaced(const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    char *out = must_malloc(strlen(text) + strlen(to) + 1, "a text");
    sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void other_places_and_damage_are_refused_with_a_reason(void **state) {
    (void)state;
    const struct {
        const char *from, *to, *said;
    } cases[] = {
        {"CUDA on the host (emulation)", "NVIDIA H200", "measured on NVIDIA H200"},
        {"130000", "120400", "cuBLASLt 120400, here are CUDA on the host (emulation) and 130000"},
        {"\"gpu\"", "\"cpu\"", "'gpu'"},
        {"\"products\"", "\"product\"", "'products'"},
        {"\"m\":\t", "\"m\":\t-", "'m'"},
        {"\"bf16\"", "\"bf17\"", "bf16 or fp32"},
        {"\"transpose\":\t\"", "\"transpose\":\t\"x", "two of n and t"},
        {"\"algorithm\":\t\"", "\"algorithm\":\t\"00", "128 hexadecimal digits"},
        {"{", "[", ""},
    };
    char *choices, text[256];
    use(&kernels_cuda_bf16);
    free(train_afresh("on", NULL, &choices).masters);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *changed = replaced(choices, cases[i].from, cases[i].to);
        assert_false(kernels.gemm_choices_load(changed, text, sizeof text));
        if (!strstr(text, cases[i].said)) assert_string_equal(text, cases[i].said); /* shows both */
        free(changed);
    }
    /* Cut anywhere: refused, as nothing whole is left. */
    for (size_t length = strlen(choices) - 1; length > 2; length -= length / 7 + 1) {
        choices[length] = '\0';
        assert_false(kernels.gemm_choices_load(choices, text, sizeof text));
    }
    free(choices);
}

/* The library refuses it, and the run goes on with the first of its own. */
static void an_algorithm_that_the_library_refuses_is_not_used(void **state) {
    (void)state;
    char *choices;
    use(&kernels_cuda_bf16);
    Trained first = train_afresh("off", NULL, NULL);
    free(train_afresh("on", NULL, &choices).masters);
    for (char *at = choices; (at = strstr(at, "\"algorithm\":\t\"")); at += 14) memset(at + 14, 'f', 16);
    assert_true(same(first, train_afresh("off", choices, NULL)));
    free(choices);
}

/* ---- messages ---- */

/* What a process says that does this with a queue and 64 KB of the device; it must end with exit code 1. */
static void message_of(void (*act)(Queue *queue, char *memory), char *text, size_t size) {
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        const Kernels *k = &kernels_cuda_bf16;
        require(k->open(0, text, size), "%s", text);
        act(k->queue_create(64 << 20), k->alloc(64 << 10));
        _exit(0);
    }
    close(ends[1]);
    FILE *said = fdopen(ends[0], "r");
    text[fread(text, 1, size - 1, said)] = '\0';
    fclose(said);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) != EXIT_RUNTIME) assert_string_equal(text, "a failure"); /* shows what was said */
}

static void asks_for_an_empty_grid(Queue *queue, char *memory) {
    const Kernels *k = &kernels_cuda_bf16;
    k->step_begin(queue, &(StepBegin){.state = (StepState *)memory});
    k->qkv_forward(queue, &(Qkv){.B = 2, .T = 5, .D = 32, .raw = memory, .qkv = memory + 4096, .rope = memory});
}

/* Of operands cuBLASLt is promised what they have; of a bias it wants 16 bytes. */
static void multiplies_misaligned(Queue *queue, char *memory) {
    const Linear linear = {.N = 3, .in = 60, .out = 7, .x = memory, .w = memory + 16384, .bias = memory + 2, .y = memory + 8192};
    kernels_cuda_bf16.linear_forward(queue, &linear);
}

static void fails_after_a_graph(Queue *queue, char *memory) {
    const Kernels *k = &kernels_cuda_bf16;
    k->cast(queue, &(Cast){.n = 24, .from = DTYPE_F32, .to = DTYPE_BF16, .src = memory, .dst = memory + 4096});
    k->capture_begin(queue);
    for (int i = 0; i < 3; i++) k->step_begin(queue, &(StepBegin){.state = (StepState *)memory});
    k->graph_launch(queue, k->capture_end(queue));
    k->event_elapsed(k->event_create(EVENT_INTERNAL), k->event_create(EVENT_INTERNAL)); /* nobody recorded them */
}

static void a_failure_names_the_operations_and_their_shapes(void **state) {
    (void)state;
    const struct {
        void (*act)(Queue *, char *);
        const char *said[4];
    } cases[] = {
        {asks_for_an_empty_grid,
         {"launching (forward_kernel<S, NORM>) with grid (0, ", "cudaErrorInvalidConfiguration",
          "; in qkv_forward (B=2, T=5, H=0, Hkv=0, D=32, norm=0); queued before: step_begin"}},
        {multiplies_misaligned, {"cuBLASLt: ", "; in linear_forward (N=3, in=60, out=7)"}},
        {fails_after_a_graph,
         {"timing between two events: ",
          "; queued before: a captured graph (operations=3), step_begin, step_begin, step_begin"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[2048];
        message_of(cases[i].act, text, sizeof text);
        for (int j = 0; j < 4 && cases[i].said[j]; j++)
            if (!strstr(text, cases[i].said[j])) assert_string_equal(text, cases[i].said[j]); /* shows both */
    }
}

static int close_device(void **state) {
    (void)state;
    kernels.close();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_change_no_bit),
        cmocka_unit_test(a_learning_rate_that_is_an_argument_is_seen),
        cmocka_unit_test(a_batch_that_is_overwritten_too_early_is_seen),
        cmocka_unit_test(an_outcome_that_is_read_too_early_is_seen),
        cmocka_unit_test(measured_algorithms_are_kept_and_obeyed),
        cmocka_unit_test(other_places_and_damage_are_refused_with_a_reason),
        cmocka_unit_test(an_algorithm_that_the_library_refuses_is_not_used),
        cmocka_unit_test(a_failure_names_the_operations_and_their_shapes),
    };
    return cmocka_run_group_tests_name("the host path", tests, NULL, close_device);
}
