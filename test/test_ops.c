/*
 * test_ops.c: does every operation of every implementation do what kernels/kernels.h says?
 *
 *     test_ops [test|bits|grad|twins|perf] [--implementation NAME] [--operation NAME] [--seed N] [--list] [--self-test]
 *
 * test   numbers against fp64 within what the plain loop needs, memory left alone, the same bits each time
 * bits   only the last of these: every case, without the time that the fp64 truth takes
 * grad   fp64 gradients against differences of the forward pass
 * twins  cpu/bf16 and cuda/bf16 against each other: rounded at the same places; a line where the build lacks one
 * perf   times, as JSON lines
 * Without a mode: test and grad; and, unless an implementation or operation is named, the self-test, which
 * breaks operations on purpose and demands that the suite notices. One cmocka test per operation,
 * implementation and kind (values, bits, gradients); CMOCKA_MESSAGE_OUTPUT=TAP for machines. Exit code: 0, or
 * the number of failures.
 */
#include "ops_harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

typedef enum Kind {
    KIND_VALUES,
    KIND_BITS,
    KIND_GRADIENTS,
    KIND_TWINS,
    KIND_MEMORY,
    KIND_SEQUENCE,
    KIND_BROKEN
} Kind;

typedef struct Item {
    Kind kind;
    const Implementation *implementation, *twin;
    Operation operation;
    uint64_t seed;
    const Broken *broken;
    const char *absent; /* why its device cannot be used, or NULL */
    char name[128];
} Item;

typedef struct Options {
    bool test, bits, grad, twins, perf, list, self_test;
    const char *implementation;
    int operation; /* −1: all */
    uint64_t seed;
} Options;

enum { MAX_ITEMS = 2048 };
static Item items[MAX_ITEMS];
static int n_items;

static void add(Item item, const char *what, const char *kind) {
    if (n_items == MAX_ITEMS) abort();
    items[n_items] = item;
    snprintf(items[n_items].name, sizeof items[n_items].name, "%s: %s%s%s",
             item.implementation ? item.implementation->kernels->name : "suite", what, *kind ? ", " : "",
             kind);
    n_items++;
}

/* -------------------------------------------------------------------------------------------- one test */

static void run_broken(const Broken *broken, uint64_t seed, Report *report) {
    static const struct {
        const Kernels *good, *plain;
    } of_kind[] = {[BROKEN_VALUES] = {&kernels_cpu_f32, &kernels_plain_f32},
                   [BROKEN_BITS] = {&kernels_cpu_f32, &kernels_plain_f32},
                   [BROKEN_GRADIENTS] = {&kernels_cpu_f64, &kernels_plain_f64},
                   [BROKEN_TWINS] = {&kernels_cpu_bf16, &kernels_plain_bf16}};
    const Kernels *good = of_kind[broken->kind].good;
    char text[256];
    if (!operation_present(good, broken->operation) || !good->open(0, text, sizeof text)) skip();
    Kernels tried[2] = {*good, broken->wrap(good)};
    Implementation whole = {.kernels = good, .host_memory = true};
    Report found;
    for (int i = 0; i < 2; i++) {
        Implementation implementation = {.kernels = &tried[i],
                                         .plain = of_kind[broken->kind].plain,
                                         .slow = true,
                                         .sampled = true,
                                         .host_memory = true,
                                         .any_head_size = true};
        found = (Report){.quiet = true, .look_for = broken->sign};
        if (broken->kind == BROKEN_VALUES) test_values(&implementation, broken->operation, seed, &found);
        if (broken->kind == BROKEN_BITS) test_bits(&implementation, broken->operation, seed, &found);
        if (broken->kind == BROKEN_GRADIENTS)
            test_gradients(&implementation, broken->operation, seed, &found);
        if (broken->kind == BROKEN_TWINS)
            test_twins(&whole, &implementation, broken->operation, seed, &found);
        if (i == 0 && found.failures) {
            fprintf(stderr, "# %s is broken by itself, so nothing can be told of \"%s\"\n",
                    operation_name(broken->operation), broken->what);
            skip();
        }
    }
    report->cases = found.cases;
    if (found.failures == 0) report_failure(report, "the suite did not notice: %s", broken->what);
    if (found.failures && getenv("OPS_VERBOSE")) fprintf(stderr, "# noticed: %s\n", found.first);
}

static void run_item(void **state) {
    const Item *item = *state;
    Report report = {0};
    clock_t start = clock();
    if (item->absent) {
        fprintf(stderr, "# %s: %s\n", item->name, item->absent);
        skip();
    }
    bool operation = item->implementation && item->kind != KIND_MEMORY && item->kind != KIND_SEQUENCE;
    if (operation && (!operation_present(item->implementation->kernels, item->operation) ||
                      (item->twin && !operation_present(item->twin->kernels, item->operation)))) {
        fprintf(stderr, "# %s: not there yet\n", item->name);
        skip();
    }
    switch (item->kind) {
    case KIND_VALUES:
        test_values(item->implementation, item->operation, item->seed, &report);
        break;
    case KIND_BITS:
        test_bits(item->implementation, item->operation, item->seed, &report);
        break;
    case KIND_GRADIENTS:
        test_gradients(item->implementation, item->operation, item->seed, &report);
        break;
    case KIND_TWINS:
        test_twins(item->twin, item->implementation, item->operation, item->seed, &report);
        break;
    case KIND_MEMORY:
        test_memory(item->implementation, &report);
        break;
    case KIND_SEQUENCE:
        test_step_sequence(item->implementation, item->seed, &report);
        break;
    case KIND_BROKEN:
        run_broken(item->broken, item->seed, &report);
        break;
    }
    if (getenv("OPS_VERBOSE"))
        fprintf(stderr, "# %s: %d cases, worst %.2f of what is allowed, %.2f s\n", item->name, report.cases,
                report.worst, (double)(clock() - start) / CLOCKS_PER_SEC);
    if (report.cases == 0) fail_msg("no case was run");
    if (report.failures)
        fail_msg("%d failures in %d cases; first: %s", report.failures, report.cases, report.first);
}

/* ------------------------------------------------------------------------------------- which tests run */

static bool wanted(const Options *options, const Implementation *implementation) {
    return options->implementation ? strcmp(options->implementation, implementation->kernels->name) == 0
                                   : !implementation->by_name_only;
}

static void add_implementation(const Options *options, const Implementation *implementation,
                               const char *absent) {
    const Kernels *k = implementation->kernels;
    Item item = {.implementation = implementation, .seed = options->seed, .absent = absent};
    for (int op = 0; op < OP_COUNT; op++) {
        if (options->operation >= 0 && options->operation != op) continue;
        item.operation = (Operation)op;
        bool cases = operation_has_cases(item.operation);
        item.kind = KIND_VALUES;
        if (cases && options->test) add(item, operation_name(item.operation), "values");
        item.kind = KIND_BITS;
        if (cases && (options->test || options->bits)) add(item, operation_name(item.operation), "bits");
        if (options->grad && k->storage == DTYPE_F64 && operation_has_gradients(item.operation)) {
            item.kind = KIND_GRADIENTS;
            add(item, operation_name(item.operation), "gradients");
        }
    }
    bool all = options->operation < 0;
    item.kind = KIND_MEMORY;
    if ((options->test || options->bits) && all) add(item, "memory, queues and events", "");
    item.kind = KIND_SEQUENCE; /* the only test of step_decide, which means nothing in one call */
    if (!(options->test || options->bits) || !(all || options->operation == OP_step_decide)) return;
    if (k->step_begin && k->loss_reduce && k->sum_squares && k->step_decide && k->adamw)
        add(item, "many steps", "");
}

static int implementation_called(const char *name) {
    int i = 0;
    while (i < n_implementations && strcmp(implementations[i].kernels->name, name) != 0) i++;
    return i;
}

/* `absent`: why the device of an implementation that is not open cannot be used. */
static void add_twins(const Options *options, const bool *opened, char (*absent)[256]) {
    int first = implementation_called("cpu/bf16"), second = implementation_called("cuda/bf16");
    if (first == n_implementations || second == n_implementations) {
        fprintf(stderr, "# twins: skipped: this build has no %s\n",
                first == n_implementations ? "cpu/bf16" : "cuda/bf16");
        return;
    }
    Item item = {.kind = KIND_TWINS,
                 .implementation = &implementations[second],
                 .twin = &implementations[first],
                 .seed = options->seed,
                 .absent = !opened[first]    ? absent[first]
                           : !opened[second] ? absent[second]
                                             : NULL};
    for (int op = 0; op < OP_COUNT; op++) {
        item.operation = (Operation)op;
        if ((options->operation < 0 || options->operation == op) && operation_has_cases(item.operation))
            add(item, operation_name(item.operation), "twins");
    }
}

static int run_all(const Options *options) {
    enum { MOST = 16 };
    static char absent[MOST][256];
    bool opened[MOST] = {false};
    for (int i = 0; i < n_implementations && i < MOST; i++) {
        const Implementation *implementation = &implementations[i];
        if (!wanted(options, implementation)) continue;
        bool open = opened[i] = implementation->kernels->open(0, absent[i], sizeof absent[i]);
        if (options->perf && !open)
            fprintf(stderr, "test_ops: %s: %s\n", implementation->kernels->name, absent[i]);
        for (int op = 0; options->perf && open && op < OP_COUNT; op++)
            if (options->operation < 0 || options->operation == op)
                measure(implementation, (Operation)op, options->seed);
        add_implementation(options, implementation, open ? NULL : absent[i]);
    }
    if (options->twins) add_twins(options, opened, absent);
    for (int i = 0; options->self_test && i < n_broken_operations; i++)
        add((Item){.kind = KIND_BROKEN, .seed = options->seed, .broken = &broken_operations[i]}, "notices",
            broken_operations[i].what);
    static struct CMUnitTest tests[MAX_ITEMS];
    for (int i = 0; i < n_items; i++) {
        tests[i] =
            (struct CMUnitTest){.name = items[i].name, .test_func = run_item, .initial_state = &items[i]};
        if (options->list) printf("%s\n", items[i].name);
    }
    if (options->list || n_items == 0) return 0;
    int failed = _cmocka_run_group_tests("operations", tests, (size_t)n_items, NULL, NULL);
    if (options->twins) twins_print();
    for (int i = 0; i < MOST; i++)
        if (opened[i]) implementations[i].kernels->close();
    return failed;
}

/* ------------------------------------------------------------------------------------------- the flags */

static int usage(const char *wrong) {
    if (wrong) fprintf(stderr, "test_ops: %s\n", wrong);
    fprintf(stderr, "usage: test_ops [test|bits|grad|twins|perf] [--implementation NAME] [--operation NAME] "
                    "[--seed N] [--list] [--self-test]\nimplementations:");
    for (int i = 0; i < n_implementations; i++) fprintf(stderr, " %s", implementations[i].kernels->name);
    fprintf(stderr, "\noperations:");
    for (int op = 0; op < OP_COUNT; op++) fprintf(stderr, " %s", operation_name((Operation)op));
    fprintf(stderr, "\n");
    return 2;
}

static int operation_called(const char *name) {
    int op = 0;
    while (op < OP_COUNT && strcmp(operation_name((Operation)op), name) != 0) op++;
    return op;
}

int main(int argc, char **argv) {
    Options options = {.operation = -1, .seed = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "test") == 0)
            options.test = true;
        else if (strcmp(argv[i], "bits") == 0)
            options.bits = true;
        else if (strcmp(argv[i], "grad") == 0)
            options.grad = true;
        else if (strcmp(argv[i], "twins") == 0)
            options.twins = true;
        else if (strcmp(argv[i], "perf") == 0)
            options.perf = true;
        else if (strcmp(argv[i], "--list") == 0)
            options.list = true;
        else if (strcmp(argv[i], "--self-test") == 0)
            options.self_test = true;
        else if (!value)
            return usage("unknown argument, or one without its value");
        else if (strcmp(argv[i], "--implementation") == 0)
            options.implementation = argv[++i];
        else if (strcmp(argv[i], "--operation") == 0)
            options.operation = operation_called(argv[++i]);
        else if (strcmp(argv[i], "--seed") == 0)
            options.seed = strtoull(argv[++i], NULL, 10);
        else
            return usage("unknown argument");
    }
    if (options.implementation && implementation_called(options.implementation) == n_implementations)
        return usage("no such implementation in this build");
    if (options.implementation && options.twins) return usage("twins are two implementations");
    if (options.operation == OP_COUNT) return usage("no such operation");
    if (!options.test && !options.bits && !options.grad && !options.twins && !options.perf &&
        !options.self_test) {
        options.test = options.grad = true;
        options.self_test = !options.implementation && options.operation < 0;
    }
    return run_all(&options);
}
