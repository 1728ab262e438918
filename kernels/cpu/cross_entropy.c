/*
 * cross_entropy.c: what is the loss of a chunk of logits, and its gradient? (kernels.h: CrossEntropy)
 *
 * A thread owns a row. The row is read from memory once, for its largest logit, and then stays in the
 * second-level cache (GPT-2's 50,257 floats are 196 KiB): one pass sums the exponentials and leaves them in
 * the row, one turns them into the gradient. The floor is a read and a write of the logits, and one
 * exponential an element.
 */
#include "rows.h"
#include "vmath.h"

enum { SUM_BLOCK = 1024 }; /* exponentials summed in `real` before the sum goes on in double */

static real row_max(const real *logits, int V) {
    real max = logits[0];
#pragma omp simd reduction(max : max)
    for (int v = 0; v < V; v++) max = logits[v] > max ? logits[v] : max;
    return max;
}

static double row_sum(const real *logits, real max, int V) {
    double total = 0;
    for (int begin = 0; begin < V; begin += SUM_BLOCK) {
        int end = (int)least(V, (int64_t)begin + SUM_BLOCK);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int v = begin; v < end; v++) sum += vm_exp(logits[v] - max);
        total += (double)sum;
    }
    return total;
}

/* As row_sum, and logits become their exponentials. */
static double row_exponentials(real *logits, real max, int V) {
    double total = 0;
    for (int begin = 0; begin < V; begin += SUM_BLOCK) {
        int end = (int)least(V, (int64_t)begin + SUM_BLOCK);
        real sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int v = begin; v < end; v++) {
            real e = vm_exp(logits[v] - max);
            logits[v] = e;
            sum += e;
        }
        total += (double)sum;
    }
    return total;
}

static void row_scale(real *row, real factor, int V) {
#pragma omp simd
    for (int v = 0; v < V; v++) row[v] *= factor;
}

static void cross_entropy_row(const CrossEntropy *ce, int64_t n, double scale) {
    real *logits = (real *)ce->logits + n * padded(ce->V), *losses = ce->losses;
    uint32_t target = ce->targets[n];
    if (target == TARGET_IGNORED) {
        losses[n] = 0;
        if (ce->gradient) row_fill(logits, 0, ce->V);
        return;
    }
    real max = row_max(logits, ce->V);
    double above = (double)max - (double)logits[target];
    double sum = ce->gradient ? row_exponentials(logits, max, ce->V) : row_sum(logits, max, ce->V);
    double log_sum = log(sum);
    losses[n] = (real)(log_sum + above);
    if (!ce->gradient) return;
    /* scale·(softmax·(1 + 2·z_loss·lse) − onehot) */
    double lse = log_sum + (double)max;
    row_scale(logits, (real)(scale * (1 + 2 * ce->z_loss * lse) / sum), ce->V);
    logits[target] = (real)((double)logits[target] - scale);
}

void NAME(cross_entropy)(Queue *queue, const CrossEntropy *ce) {
    (void)queue;
    for (int64_t n = 0; n < ce->N; n++)
        check(ce->targets[n] < (uint32_t)ce->V || ce->targets[n] == TARGET_IGNORED,
              "cross_entropy: target %lld is %u, the vocabulary has %d", (long long)n, ce->targets[n], ce->V);
    double scale = ce->gradient ? ce->state->in.loss_scale : 0;
#pragma omp parallel for schedule(static) if (ce->N * ce->V > SERIAL_ELEMENTS)
    for (int64_t n = 0; n < ce->N; n++) cross_entropy_row(ce, n, scale);
}
