/*
 * ops_twins.c: do two bf16 implementations round at the same places? The mode twins (ops_harness.h).
 *
 * The contract says where a number becomes bf16: where a tensor is stored. So what an implementation stores is the nearest
 * rounding of a number that is right by the rule for fp32: |stored − true| ≤ ½ ulp of bf16 + what the suite allows an fp32
 * implementation on these very numbers (twice the error of the plain loop in fp32, and 4 of fp32's ulp of the tensor's rms).
 * Two that keep to this are one ulp apart, and what fp32's sums may differ by. A number that is rounded once more on its way,
 * or cut off, is up to a whole ulp from the truth. Outputs in Accum are not rounded: theirs is the rule for fp32.
 *
 * A junction that stores u in bf16 makes the rest of it: what is true there follows from the u that the implementation itself
 * has stored. Where a machine rounds in between, the suite's usual rule for bf16 holds; rounded_between says where.
 */
#include "ops_harness.h"

#include <omp.h>
#include <stdio.h>

typedef enum Made { AT_ONCE, OF_STORED_U, ROUNDED_BETWEEN, MADE_COUNT } Made;

static const struct {
    Operation operation;
    const char *output;
} rounded_between[] = {
    /* Probabilities, and in backward the gradients of scores, are factors of a second product; tensor cores, and
     * AVX512-BF16, take both factors in bf16. */
    {OP_attention_forward, "out"},
    {OP_attention_backward, "dqkv"},
    {OP_attention_backward, "dbias"},
    {OP_attention_decode, "out"},
};

static bool rounds_between(Operation operation) {
    for (size_t i = 0; i < sizeof rounded_between / sizeof rounded_between[0]; i++)
        if (operation == rounded_between[i].operation) return true;
    return false;
}

/* So far: how often and how far the two are apart, in bf16's ulp of the larger or, where that is more, of the tensor's rms. */
static struct {
    long long outputs, elements, differ;
    double ulps;
} tally[MADE_COUNT];

static const Implementation *twin[2];

/* ---------------------------------------------------------------------------------------- one draw */

/* plain: plain/f32; narrow: plain/bf16, where that is asked for; from: the truth that follows from either's u, if any. */
typedef struct Draw {
    Image got[2], truth, plain, narrow, from[2];
    Tensor *u;
} Draw;

/* The u that this junction stores rounded, and reads again; or NULL. */
static Tensor *stored_u(Case *c) {
    if (c->main.operation != OP_junction_forward || c->residual_is_accum) return NULL;
    for (int i = 0; i < c->n_tensors; i++) {
        Tensor *t = &c->tensor[i];
        if (t->type == RESIDUAL && is_output(t) && strcmp(t->name, "y_residual") != 0) return t;
    }
    return NULL;
}

/* What the junction makes in fp64 of a u that is there. */
static void run_from(Image *image, Case *c, Tensor *u, double *stored) {
    double *declared = u->value;
    image_open(image, twin[0], truth_for(twin[0]->kernels, c, OP_junction_forward), c);
    image_upload(image, false);
    u->value = stored;
    image_update(image, u);
    u->value = declared;
    Junction again = recomputing(c->main.arguments);
    image_run(image, (Call){OP_junction_forward, &again});
    image_download(image);
}

static void draw_open(Draw *d, Case *c, Report *report) {
    case_prepare(c, twin[0]);
    run_image(&d->truth, twin[0], truth_for(twin[0]->kernels, c, c->main.operation), c, c->title, report);
    run_image(&d->plain, twin[0], &kernels_plain_f32, c, c->title, report);
    if (rounds_between(c->main.operation))
        run_image(&d->narrow, twin[0], &kernels_plain_bf16, c, c->title, report);
    for (int i = 0; i < 2; i++) run_image(&d->got[i], twin[i], twin[i]->kernels, c, c->title, report);
    d->u = stored_u(c);
    for (int i = 0; d->u && i < 2; i++) {
        double *stored = result_of(&d->got[i], d->u);
        run_from(&d->from[i], c, d->u, stored);
        free(stored);
    }
}

static void draw_close(Draw *d) {
    if (d->narrow.k) image_close(&d->narrow);
    for (int i = 0; i < 2; i++) {
        image_close(&d->got[i]);
        if (d->u) image_close(&d->from[i]);
    }
    image_close(&d->truth), image_close(&d->plain);
}

/* ---------------------------------------------------------------------------------------- one output */

static Made how_made(const Draw *d, const Case *c, const Tensor *t) {
    static const char *const of_u[] = {"y", "y_residual", "norm.mean", "norm.rstd", "mean_square_out"};
    for (size_t i = 0; i < sizeof rounded_between / sizeof rounded_between[0]; i++)
        if (c->main.operation == rounded_between[i].operation && strcmp(t->name, rounded_between[i].output) == 0)
            return ROUNDED_BETWEEN;
    for (size_t i = 0; d->u && i < sizeof of_u / sizeof of_u[0]; i++)
        if (strcmp(t->name, of_u[i]) == 0) return OF_STORED_U;
    return AT_ONCE;
}

static bool is_rounded(const Case *c, const Tensor *t) {
    return type_in(twin[0]->kernels, c, t->type) == DTYPE_BF16 && !t->exact;
}

/* The nearest to the truth of the numbers that `stored` may be the rounding of. */
static double unrounded(double stored, double truth) {
    if (!isfinite(stored) || !isfinite(truth)) return stored;
    double half = ulp(DTYPE_BF16, fmax(fmax(fabs(stored), fabs(truth)), 0x1p-126)) / 2;
    return fmin(fmax(truth, stored - half), stored + half);
}

/* The plain loop's error is that against the truth of the same u. A copy of another tensor in Storage is that other where
 * Storage is Accum. */
static void add_output(Pool *pool, const Draw *d, const Case *c, const Tensor *t, Made made, int which) {
    const Tensor *source = t->copy_of ? t->copy_of : t;
    double *got = result_of(&d->got[which], t), *own = result_of(&d->truth, source),
           *plain = made == ROUNDED_BETWEEN ? result_of(&d->narrow, t) : result_of(&d->plain, source),
           *truth = result_of(made == OF_STORED_U ? &d->from[which] : &d->truth, source);
    for (int64_t i = 0; i < tensor_count(t); i++) {
        if (isfinite(own[i])) plain[i] += truth[i] - own[i];
        if (made != ROUNDED_BETWEEN && is_rounded(c, t)) got[i] = unrounded(got[i], truth[i]);
    }
    pool_add(pool, t, got, plain, truth);
    free(got), free(own), free(plain), free(truth);
}

static void add_to_tally(const Draw *d, const Case *c, const Tensor *t, Made made) {
    int64_t count = tensor_count(t);
    if (!is_rounded(c, t) || t->only_finite) return;
    double *a = result_of(&d->got[0], t), *b = result_of(&d->got[1], t), squares = 0;
    for (int64_t i = 0; i < count; i++) squares += isfinite(a[i]) ? a[i] * a[i] : 0;
    for (int64_t i = 0; i < count; i++) {
        if ((t->ignored && t->ignored[i]) || !isfinite(a[i]) || !isfinite(b[i])) continue;
        double larger = fmax(fmax(fabs(a[i]), fabs(b[i])), sqrt(squares / (double)count));
        tally[made].elements++;
        if (a[i] == b[i]) continue;
        tally[made].differ++;
        tally[made].ulps = fmax(tally[made].ulps, fabs(a[i] - b[i]) / ulp(DTYPE_BF16, larger));
    }
    free(a), free(b);
}

/* ------------------------------------------------------------------------------------------ one case */

static void draw_twins(Case *c, Pool (*pools)[MAX_TENSORS], Made *made, Report *report) {
    Draw d = {0};
    draw_open(&d, c, report);
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        if (!is_output(t)) continue;
        made[i] = how_made(&d, c, t);
        for (int which = 0; which < 2; which++) add_output(&pools[which][i], &d, c, t, made[i], which);
        if (!report->quiet) add_to_tally(&d, c, t, made[i]);
    }
    draw_close(&d);
}

static void judge_twins(const Case *c, Pool (*pools)[MAX_TENSORS], const Made *made, Report *report) {
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        bool between = made[i] == ROUNDED_BETWEEN;
        for (int which = 0; which < 2 && pools[which][i].count; which++) {
            const Kernels *k = twin[which]->kernels;
            char name[128];
            snprintf(name, sizeof name, "%s%s", k->name,
                     !between && is_rounded(c, t) ? " before its rounding" : "");
            DType type = type_in(between ? k : &kernels_plain_f32, c, t->type);
            judge(name, type, c, t, &pools[which][i], report);
        }
        if (!report->quiet) tally[made[i]].outputs += pools[0][i].count > 0;
    }
}

static bool case_twins(const Implementation *implementation, const Family *family, int shape, int variant,
                       uint64_t seed, Report *report) {
    Pool pools[2][MAX_TENSORS] = {0};
    Made made[MAX_TENSORS] = {0};
    Case c;
    int draws = 1, threads = threads_for(twin[0], family);
    for (int draw = 0; draw < draws; draw++) {
        if (!open_for(&c, implementation, family, shape, variant, seed, draw)) {
            omp_set_num_threads(threads);
            return false;
        }
        draws = draws_of(implementation, &c);
        draw_twins(&c, pools, made, report);
        if (draw < draws - 1) case_close(&c);
    }
    judge_twins(&c, pools, made, report);
    case_close(&c);
    omp_set_num_threads(threads);
    return true;
}

void test_twins(const Implementation *first, const Implementation *second, Operation operation, uint64_t seed,
                Report *report) {
    twin[0] = first, twin[1] = second;
    for_cases(second, operation, false, seed, report, case_twins);
}

void twins_print(void) {
    static const char *const names[] = {"rounded once", "made of a u that was rounded once",
                                        "rounded between"};
    for (int i = 0; i < MADE_COUNT; i++)
        if (tally[i].outputs)
            fprintf(stderr,
                    "# twins: %lld outputs %s: %lld of %lld numbers in bf16 differ, by up to %.3g ulp\n",
                    tally[i].outputs, names[i], tally[i].differ, tally[i].elements, tally[i].ulps);
}
