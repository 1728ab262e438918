/*
 * test_collective.c: do the collectives do what kernels/kernels.h says, on every rank?
 *
 *     test_collective [ELEMENTS]        of the largest buffers; 262144 of themselves
 *
 * Started once a rank (ranks.h); one rank is allowed. Each rank runs every test, exits with the number of its
 * failures, and gives a digest of its results on stderr, the same in every run. A rank that fails a test leaves the
 * others waiting in it.
 *
 * Values are products of a sign, a power of two from 2⁻⁴ to 2³ and a full mantissa, so every rank knows all ranks'
 * values without rounding. Whatever the order, R numbers that are summed with roundings of relative size u are off by
 * at most γ·Σ|x|, γ = (R−1)u / (1−(R−1)u) (Higham, Accuracy and Stability of Numerical Algorithms, §4.2); the truth
 * here is a sum in long double, whose own error, R·2⁻⁶⁴·Σ|x|, is added.
 */
#include "ranks.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

typedef enum Op { ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST, OP_COUNT } Op;
enum { GUARD = 64, LEAST_BYTES = 4 << 20 };
static const char *const OP_NAMES[] = {"all_reduce_sum", "reduce_scatter_sum", "all_gather", "broadcast"};
static const char *const TYPE_NAMES[] = {"fp32", "fp64", "bf16"};
static const int MANTISSA_BITS[] = {23, 52, 7};

#define expect(condition)                                                                                    \
    do {                                                                                                     \
        if (!(condition)) fail_msg("rank %d: line %d: %s", here.rank, __LINE__, #condition);                 \
    } while (0)

static Ranks here;
static const Kernels *k;
static Queue *queue;
static int64_t most_elements = 1 << 18;
static size_t most_bytes;                    /* of each of these */
static unsigned char *device, *host, *again; /* on the device; pinned */
static uint64_t digest = 1;

/* ------------------------------------------------------------------------------------------------ values */

static uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* What element i of a rank's buffer holds in this draw. */
static double value(DType type, int draw, int rank, int64_t i) {
    uint64_t bits = mix(mix(((uint64_t)draw << 32) + (uint64_t)rank + 1) + (uint64_t)i * 0x9e3779b97f4a7c15u);
    double mantissa = 1 + ldexp((double)(bits >> (64 - MANTISSA_BITS[type])), -MANTISSA_BITS[type]);
    return ldexp(bits & 8 ? -mantissa : mantissa, (int)(bits & 7) - 4);
}

static void store(DType type, unsigned char *at, double exact) {
    float narrow = (float)exact;
    if (type == DTYPE_F64) memcpy(at, &exact, 8);
    if (type == DTYPE_F32) memcpy(at, &narrow, 4);
    if (type == DTYPE_BF16) memcpy(at, (unsigned char *)&narrow + 2, 2); /* little-endian: the upper half */
}

static double load(DType type, const unsigned char *at) {
    double wide = 0;
    float narrow = 0;
    if (type == DTYPE_F64) memcpy(&wide, at, 8);
    if (type == DTYPE_F32) memcpy(&narrow, at, 4);
    if (type == DTYPE_BF16) memcpy((unsigned char *)&narrow + 2, at, 2);
    return type == DTYPE_F64 ? wide : (double)narrow;
}

/* Σ over the ranks of element i, and by how much a device's sum may be off. */
static long double true_sum(DType type, int draw, int64_t i, double *bound) {
    const int additions = here.ranks - 1;
    const double u = ldexp(1, -MANTISSA_BITS[type] - 1);
    long double sum = 0, magnitude = 0;
    for (int r = 0; r < here.ranks; r++) {
        sum += value(type, draw, r, i);
        magnitude += fabs(value(type, draw, r, i));
    }
    *bound = (double)magnitude * (additions * u / (1 - additions * u) + here.ranks * ldexp(1, -64));
    return sum;
}

/* ------------------------------------------------------------------------------------------------ one call */

typedef struct Case {
    Op op;
    DType type;
    int64_t count;
    int draw;
    size_t offset; /* bytes of the buffer's start behind a multiple of 256 */
} Case;

static int64_t piece(const Case *c) {
    return c->count / here.ranks;
}

static void call(const Case *c, Queue *on, void *buffer) {
    const Collective args = {.type = c->type, .count = c->count, .buffer = buffer};
    switch (c->op) {
    case ALL_REDUCE:
        k->all_reduce_sum(on, &args);
        break;
    case REDUCE_SCATTER:
        k->reduce_scatter_sum(on, &args);
        break;
    case ALL_GATHER:
        k->all_gather(on, &args);
        break;
    default:
        k->broadcast(on, &args);
    }
}

/* This rank's buffer before the call, between guards; returns the bytes of all of it. */
static size_t fill(const Case *c, unsigned char *image) {
    const size_t element = dtype_size(c->type), bytes = GUARD + (size_t)c->count * element + GUARD;
    memset(image, 0xa5, bytes);
    for (int64_t i = 0; i < c->count; i++)
        store(c->type, image + GUARD + (size_t)i * element, value(c->type, c->draw, here.rank, i));
    return bytes;
}

/* The image to the device, the call, the image back; all in the queue, which the host then waits for. */
static void run(const Case *c, unsigned char *image, size_t bytes) {
    unsigned char *at = device + 256 + c->offset;
    k->copy(queue, at - GUARD, image, bytes, COPY_TO_DEVICE);
    call(c, queue, at);
    k->copy(queue, image, at - GUARD, bytes, COPY_TO_HOST);
    k->queue_wait(queue);
}

/* Fails the test unless element i of the result is what the operation leaves there. */
static void check_element(const Case *c, int64_t i, double found) {
    const bool ours = piece(c) && i / piece(c) == here.rank;
    double bound = 0;
    long double wanted = 0;
    if (c->op == ALL_REDUCE || (c->op == REDUCE_SCATTER && ours))
        wanted = true_sum(c->type, c->draw, i, &bound);
    else {
        const int from = c->op == BROADCAST ? 0 : c->op == ALL_GATHER ? (int)(i / piece(c)) : here.rank;
        wanted = value(c->type, c->draw, from, i);
    }
    if (!(fabsl(found - wanted) <= bound))
        fail_msg("%s of %lld %s on rank %d of %d: element %lld is %.17g, not %.17Lg within %.3g",
                 OP_NAMES[c->op], (long long)c->count, TYPE_NAMES[c->type], here.rank, here.ranks,
                 (long long)i, found, wanted, bound);
}

static void check_result(const Case *c, const unsigned char *image, size_t bytes) {
    const size_t element = dtype_size(c->type);
    for (int64_t i = 0; i < c->count; i++)
        check_element(c, i, load(c->type, image + GUARD + (size_t)i * element));
    for (size_t i = 0; i < GUARD; i++)
        if (image[i] != 0xa5 || image[bytes - 1 - i] != 0xa5)
            fail_msg("%s of %lld %s wrote outside its buffer", OP_NAMES[c->op], (long long)c->count,
                     TYPE_NAMES[c->type]);
    for (size_t i = 0; i < bytes; i++) digest = mix(digest + image[i]);
}

static void check_case(const Case *c) {
    const size_t bytes = fill(c, host);
    fill(c, again);
    run(c, host, bytes);
    check_result(c, host, bytes);
    run(c, again, bytes);
    if (memcmp(host, again, bytes))
        fail_msg("%s of %lld %s: other bits the second time", OP_NAMES[c->op], (long long)c->count,
                 TYPE_NAMES[c->type]);
}

/* The same number on all ranks, told by all_gather, whose exactness has a test of its own. */
static void check_same_everywhere(uint64_t number, const char *what) {
    uint64_t all[256] = {0};
    expect(here.ranks <= 256);
    memcpy(host, all, sizeof all);
    memcpy(host + 8 * here.rank, &number, 8);
    k->copy(queue, device, host, 8 * (size_t)here.ranks, COPY_TO_DEVICE);
    k->all_gather(queue, &(Collective){.type = DTYPE_F64, .count = here.ranks, .buffer = device});
    k->copy(queue, host, device, 8 * (size_t)here.ranks, COPY_TO_HOST);
    k->queue_wait(queue);
    memcpy(all, host, sizeof all);
    for (int r = 0; r < here.ranks; r++)
        if (all[r] != number) fail_msg("%s: rank %d has other bits than rank %d", what, r, here.rank);
}

/* ------------------------------------------------------------------------------------------------- tests */

static void values(void **state) {
    const Op op = *(const Op *)*state;
    const int64_t per_rank[] = {0, 1, 7, 1021, 4096 + 3};
    for (int type = 0; type < DTYPE_COUNT; type++) {
        for (size_t i = 0; i < sizeof per_rank / sizeof *per_rank; i++)
            check_case(&(Case){op, (DType)type, per_rank[i] * here.ranks, (int)i, 0});
        check_case(&(Case){op, (DType)type, most_elements / here.ranks * here.ranks, 9, 0});
    }
}

static void counts_need_be_no_multiple_where_nothing_is_cut(void **state) {
    (void)state;
    for (int type = 0; type < DTYPE_COUNT; type++)
        for (int64_t count = 1; count <= 2 * here.ranks + 1; count++) {
            check_case(&(Case){ALL_REDUCE, (DType)type, count, 20, 0});
            check_case(&(Case){BROADCAST, (DType)type, count, 21, 0});
        }
}

static void a_buffer_may_start_at_any_element(void **state) {
    (void)state;
    for (int op = 0; op < OP_COUNT; op++)
        for (int type = 0; type < DTYPE_COUNT; type++)
            check_case(&(Case){(Op)op, (DType)type, 33 * here.ranks, 30, 3 * dtype_size((DType)type)});
}

/* Were the bound so wide that a rank could be left out, the values' test would show nothing. */
static void the_bound_would_show_a_missing_rank(void **state) {
    (void)state;
    for (int type = 0; type < DTYPE_COUNT; type++)
        for (int r = 0; r < here.ranks; r++) {
            int seen = 0;
            for (int64_t i = 0; i < 1021; i++) {
                double bound;
                true_sum((DType)type, 3, i, &bound);
                seen += fabs(value((DType)type, 3, r, i)) > 2 * bound;
            }
            expect(seen > 100);
        }
}

static void all_ranks_get_the_same_bits(void **state) {
    (void)state;
    for (int type = 0; type < DTYPE_COUNT; type++) {
        Case c = {ALL_REDUCE, (DType)type, 5003, 40, 0};
        const size_t bytes = fill(&c, host);
        run(&c, host, bytes);
        uint64_t hash = 1;
        for (size_t i = 0; i < bytes; i++) hash = mix(hash + host[i]);
        check_same_everywhere(hash, TYPE_NAMES[type]);
    }
}

static void the_sums_of_a_step_state_add_up(void **state) {
    (void)state;
    StepState *s = (StepState *)host;
    *s = (StepState){
        .in = {.lr = 0.5, .step = 7}, .loss_sum = here.rank + 1, .sum_squares = {0.25, here.rank}};
    k->copy(queue, device, s, sizeof *s, COPY_TO_DEVICE);
    unsigned char *sums = device + offsetof(StepState, loss_sum);
    k->all_reduce_sum(queue, &(Collective){.type = DTYPE_F64, .count = 1 + CLIP_GROUPS, .buffer = sums});
    k->copy(queue, s, device, sizeof *s, COPY_TO_HOST);
    k->queue_wait(queue);
    const int n = here.ranks;
    expect(s->loss_sum == n * (n + 1) / 2);
    expect(s->sum_squares[0] == 0.25 * n && s->sum_squares[1] == n * (n - 1) / 2);
    expect(s->in.lr == 0.5 && s->in.step == 7 && s->grad_norm == 0);
}

/* Inputs come and results go on one queue, the collective runs on another, and the host waits only at the end. */
static void events_order_a_collective_among_other_work(void **state) {
    (void)state;
    Queue *other = k->queue_create(256);
    Event *filled = k->event_create(EVENT_INTERNAL), *summed = k->event_create(EVENT_INTERNAL);
    const Case c = {ALL_REDUCE, DTYPE_F32, 3001, 50, 0};
    const size_t bytes = fill(&c, host);
    unsigned char *at = device + 256;
    k->zero(queue, at - GUARD, bytes);
    k->copy(queue, at - GUARD, host, bytes, COPY_TO_DEVICE);
    k->event_record(queue, filled);
    k->event_wait(other, filled);
    call(&c, other, at);
    k->event_record(other, summed);
    k->event_wait(queue, summed);
    k->copy(queue, host, at - GUARD, bytes, COPY_TO_HOST);
    k->zero(queue, at - GUARD, bytes);
    k->event_record(queue, filled);
    k->event_host_wait(filled);
    check_result(&c, host, bytes);
    k->event_destroy(filled);
    k->event_destroy(summed);
    k->queue_destroy(other);
}

/* The graph: inputs from a device buffer that changes, the sum, a cast of it. */
static void a_captured_collective_runs_again_at_every_launch(void **state) {
    (void)state;
    if (!k->capture_begin) skip();
    enum { COUNT = 1500 };
    const size_t bytes = GUARD + 4 * COUNT + GUARD;
    unsigned char *input = device, *at = device + (1 << 20), *half = device + (2 << 20);
    Case c = {ALL_REDUCE, DTYPE_F32, COUNT, 0, 0};
    k->capture_begin(queue);
    k->copy(queue, at - GUARD, input, bytes, COPY_ON_DEVICE);
    call(&c, queue, at);
    k->cast(queue, &(Cast){.n = COUNT, .from = DTYPE_F32, .to = DTYPE_BF16, .src = at, .dst = half});
    Graph *graph = k->capture_end(queue);
    for (c.draw = 60; c.draw < 63; c.draw++) {
        fill(&c, host);
        k->copy(queue, input, host, bytes, COPY_TO_DEVICE);
        k->graph_launch(queue, graph);
        k->copy(queue, host, at - GUARD, bytes, COPY_TO_HOST);
        k->copy(queue, host + (1 << 20), half, 2 * COUNT, COPY_TO_HOST);
        k->queue_wait(queue);
        check_result(&c, host, bytes);
        for (int i = 0; i < COUNT; i++) {
            const double sum = load(DTYPE_F32, host + GUARD + 4 * i);
            const double cast = load(DTYPE_BF16, host + (1 << 20) + 2 * i);
            expect(fabs(cast - sum) <= ldexp(fabs(sum), -8));
        }
        fill(&c, host); /* the same call outside a graph comes between */
        run(&c, host, bytes);
        check_result(&c, host, bytes);
    }
    k->graph_destroy(graph);
}

static void both_tables_have_all_collectives(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        const Kernels *t = ranks_tables[i];
        expect(t->collective_open && t->collective_unique_id && t->all_reduce_sum && t->reduce_scatter_sum &&
               t->all_gather && t->broadcast);
    }
}

/* kernels/cuda/collective.cu says what they are for. The environment may have had others. */
static void the_order_of_sums_is_fixed_by_settings_of_nccl(void **state) {
    (void)state;
    if (!strcmp(k->device, "cpu")) skip();
    expect(getenv("NCCL_ALGO") && getenv("NCCL_NVLS_ENABLE") && getenv("NCCL_GRAPH_REGISTER"));
}

static void a_second_communicator_is_refused(void **state) {
    (void)state;
    unsigned char id[1024];
    char text[256] = "";
    expect(k->collective_unique_id(NULL, NULL, 0) <= sizeof id);
    k->collective_unique_id(NULL, id, k->collective_unique_id(NULL, NULL, 0));
    expect(!ranks_join(&here, here.rank, here.ranks, id, text, sizeof text));
    expect(strstr(text, "open already"));
}

/* --------------------------------------------------------------------------------------------------- main */

static void refuse_wrong_ranks(void) {
    const int wrong[][2] = {{-1, 2}, {2, 2}, {0, 0}, {3, 2}};
    unsigned char id[1024] = {0};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char text[256] = "";
        if (ranks_join(&here, wrong[i][0], wrong[i][1], id, text, sizeof text) ||
            !strstr(text, "there is no rank")) {
            fprintf(stderr, "rank %d of %d was not refused: %s\n", wrong[i][0], wrong[i][1], text);
            exit(1);
        }
    }
    char text[256] = "";
    if (k->collective_unique_id(NULL, NULL, 0) == 0) return; /* it needs none */
    if (ranks_join(&here, 0, 1, NULL, text, sizeof text) || !strstr(text, "no unique id")) exit(1);
}

int main(int argc, char **argv) {
    if (argc > 1) most_elements = atoll(argv[1]);
    most_bytes = 8 * (size_t)most_elements + 1024;
    if (most_bytes < LEAST_BYTES) most_bytes = LEAST_BYTES;
    char text[512] = "";
    if (!ranks_take_device(&here, text, sizeof text)) {
        fprintf(stderr, "%s\n", text);
        return 2;
    }
    k = here.k;
    if (!k->collective_open) {
        fprintf(stderr, "this build has no collectives: there was no nccl.h, or no mpi.h\n");
        return 2;
    }
    refuse_wrong_ranks();
    if (!ranks_meet(&here, text, sizeof text)) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    queue = k->queue_create(256);
    device = k->alloc(most_bytes);
    host = k->host_alloc(most_bytes);
    again = k->host_alloc(most_bytes);
    if (!queue || !device || !host || !again) {
        fprintf(stderr, "not enough memory for %zu bytes\n", most_bytes);
        return 1;
    }

    static const Op ops[] = {ALL_REDUCE, REDUCE_SCATTER, ALL_GATHER, BROADCAST};
#define TEST(name)                                                                                           \
    { #name, name, NULL, NULL, NULL }
#define VALUES(op)                                                                                           \
    { "values of " #op, values, NULL, NULL, (void *)&ops[op] }
    const struct CMUnitTest tests[] = {
        TEST(both_tables_have_all_collectives),
        TEST(the_bound_would_show_a_missing_rank),
        VALUES(ALL_REDUCE),
        VALUES(REDUCE_SCATTER),
        VALUES(ALL_GATHER),
        VALUES(BROADCAST),
        TEST(counts_need_be_no_multiple_where_nothing_is_cut),
        TEST(a_buffer_may_start_at_any_element),
        TEST(all_ranks_get_the_same_bits),
        TEST(the_sums_of_a_step_state_add_up),
        TEST(events_order_a_collective_among_other_work),
        TEST(a_captured_collective_runs_again_at_every_launch),
        TEST(the_order_of_sums_is_fixed_by_settings_of_nccl),
        TEST(a_second_communicator_is_refused),
    };
    const int failures =
        _cmocka_run_group_tests("collectives", tests, sizeof tests / sizeof *tests, NULL, NULL);
    fprintf(stderr, "# rank %d of %d: digest %016llx\n", here.rank, here.ranks, (unsigned long long)digest);
    k->host_release(again);
    k->host_release(host);
    k->release(device);
    k->queue_destroy(queue);
    k->close();
    return failures;
}
