/*
 * cross_entropy.c: what is the loss of a chunk of logits, and its gradient? (kernels.h: CrossEntropy)
 *
 * A thread owns a row. The row is read from memory once, for its largest logit, and then stays in the
 * second-level cache (GPT-2's 50,257 floats are 196 KiB): one pass sums the exponentials and leaves them in
 * the row, one turns them into the gradient. The floor is a read and a write of the logits, and one
 * exponential an element.
 *
 * In bf16 the exponentials stay in a row of `real` beside it, the thread's own, which never leaves that cache: on a Zen 4 core
 * 0.61 ns an element, as in float, where taking them a second time from the logits makes 1.0.
 */
#include "rows.h"
#include "stored.h"
#include "vmath.h"

enum { SUM_BLOCK = 1024 }; /* exponentials summed in `real` before the sum goes on in double */

/* Of the rows beside: one a thread, where Storage is too narrow for exponentials. */
static size_t room_bytes(int V) { return STORED_IS_REAL ? 0 : (size_t)(thread_limit() * padded(V)) * sizeof(real); }

size_t NAME(cross_entropy_scratch)(const Limits *limits) { return room_bytes(limits->V); }

static real row_max(const stored *logits, int V) {
    real max = stored_get(logits[0]);
#pragma omp simd reduction(max : max)
    for (int v = 0; v < V; v++) {
        real logit = stored_get(logits[v]);
        max = logit > max ? logit : max;
    }
    return max;
}

static double row_sum(const stored *logits, real max, int V) {
    double total = 0;
    for (int begin = 0; begin < V; begin += SUM_BLOCK) {
        int end = (int)least(V, (int64_t)begin + SUM_BLOCK);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int v = begin; v < end; v++) sum += exp_falling(stored_get(logits[v]) - max);
        total += (double)sum;
    }
    return total;
}

/* As row_sum, and keeps the exponentials; their row may be that of the logits. */
static double row_exponentials(real *exponentials, const stored *logits, real max, int V) {
    double total = 0;
    for (int begin = 0; begin < V; begin += SUM_BLOCK) {
        int end = (int)least(V, (int64_t)begin + SUM_BLOCK);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int v = begin; v < end; v++) {
            real e = exp_falling(stored_get(logits[v]) - max);
            exponentials[v] = e;
            sum += e;
        }
        total += (double)sum;
    }
    return total;
}

static void row_scale(stored *gradient, const real *exponentials, real factor, int V) {
#pragma omp simd
    for (int v = 0; v < V; v++) gradient[v] = stored_of(exponentials[v] * factor);
}

static void row_clear(stored *gradient, int V) {
    for (int v = 0; v < V; v++) gradient[v] = (stored){0};
}

/* `room` is a row for the exponentials where Storage is too narrow for them. */
static void cross_entropy_row(const CrossEntropy *ce, int64_t n, double scale, real *room) {
    const int64_t at = n * padded(ce->V);
    stored *logits = (stored *)ce->logits + at;
    real *losses = ce->losses, *exponentials = row_room(ce->logits, at, room);
    uint32_t target = ce->targets[n];
    if (target == TARGET_IGNORED) {
        losses[n] = 0;
        if (ce->gradient) row_clear(logits, ce->V);
        return;
    }
    real max = row_max(logits, ce->V);
    double above = (double)max - (double)stored_get(logits[target]);
    double sum = ce->gradient ? row_exponentials(exponentials, logits, max, ce->V) : row_sum(logits, max, ce->V);
    double log_sum = log(sum);
    losses[n] = (real)(log_sum + above);
    if (!ce->gradient) return;
    /* scale·(softmax·(1 + 2·z_loss·lse) − onehot) */
    double lse = log_sum + (double)max;
    real factor = (real)(scale * (1 + 2 * ce->z_loss * lse) / sum), of_target = exponentials[target] * factor;
    row_scale(logits, exponentials, factor, ce->V);
    logits[target] = stored_of((real)((double)of_target - scale));
}

void NAME(cross_entropy)(Queue *queue, const CrossEntropy *ce) {
    for (int64_t n = 0; n < ce->N; n++)
        check(ce->targets[n] < (uint32_t)ce->V || ce->targets[n] == TARGET_IGNORED,
              "cross_entropy: target %lld is %u, the vocabulary has %d", (long long)n, ce->targets[n], ce->V);
    double scale = ce->gradient ? ce->state->in.loss_scale : 0;
    real *rooms = NAME(cpu_scratch)(queue, room_bytes(ce->V), "cross_entropy");
#pragma omp parallel for schedule(static) if (ce->N * ce->V > SERIAL_ELEMENTS)
    for (int64_t n = 0; n < ce->N; n++) cross_entropy_row(ce, n, scale, rooms + omp_get_thread_num() * padded(ce->V));
}
