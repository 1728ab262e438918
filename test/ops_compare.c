/* ops_compare.c: are the numbers right? The modes test and grad over an operation's cases (ops_harness.h). */
#include "ops_harness.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>

enum {
    POOLED_ELEMENTS = 2000, /* so many of the smallest output are wanted … */
    MIN_DRAWS = 4,          /* one draw of few large scores, or of one sum, may be exact by luck */
    MAX_DRAWS = 12,
    TINY_DRAWS = 40, /* of cases of no more than TINY_ELEMENTS */
    TINY_ELEMENTS = 8000,
    SLOW_DRAWS = 4,
    LARGE_ELEMENTS = 25000, /* cases larger than this run in one of LARGE_EVERY variants … */
    LARGE_EVERY = 5,
    MANY_VARIANTS = 5,        /* … where there are so many */
    GRADIENT_SAMPLES = 8,     /* elements of a tensor that are differenced … */
    GRADIENT_ELEMENTS = 25000 /* … in cases no larger than this */
};

void report_failure(Report *report, const char *format, ...) {
    char line[512];
    va_list list;
    va_start(list, format);
    vsnprintf(line, sizeof line, format, list);
    va_end(list);
    if (report->look_for && !strstr(line, report->look_for)) return;
    if (report->failures++ == 0) snprintf(report->first, sizeof report->first, "%s", line);
    if (!report->quiet && report->failures <= 12) fprintf(stderr, "# %s\n", line);
}

/* --------------------------------------------------------------------------------- which cases are run */

/* All pairs of shape and variant; or so many along diagonals that each shape and each variant comes at least
 * twice, unless the family is to be run whole. */
typedef struct Selection {
    const Family *family;
    bool sample;
    uint64_t seed;
    int next;
} Selection;

static bool select_next(Selection *s, int *shape, int *variant) {
    int shapes = s->family->n_shapes, variants = s->family->n_variants, all = shapes * variants;
    int larger = shapes > variants ? shapes : variants,
        count = s->sample && !s->family->whole && 2 * larger < all ? 2 * larger : all;
    if (s->next >= count) return false;
    int i = s->next++;
    if (count == all) {
        *shape = i / variants;
        *variant = i % variants;
    } else {
        int lap = i / larger, shift = (int)(s->seed % 9973u);
        *shape = (i + (larger == shapes ? 0 : lap * (1 + shift))) % shapes;
        *variant = (i + (larger == shapes ? lap * (1 + shift) : 0)) % variants;
    }
    return true;
}

static int64_t case_elements(const Case *c) {
    int64_t all = 0;
    for (int i = 0; i < c->n_tensors; i++)
        all += c->tensor[i].stored_rows * c->tensor[i].parts * c->tensor[i].part_ld;
    return all ? all : 1;
}

bool open_for(Case *c, const Implementation *implementation, const Family *family, int shape, int variant,
              uint64_t seed, int draw) {
    case_open(c, family, shape, variant, seed, draw);
    bool left_out = !family->whole && family->n_variants >= MANY_VARIANTS &&
                    case_elements(c) > LARGE_ELEMENTS && (shape * 2 + variant) % LARGE_EVERY != 0;
    if (!c->impossible && !left_out && (!c->cpu_only || implementation->any_head_size)) return true;
    case_close(c);
    return false;
}

/* Where a checker makes launches take long: some of the cases. */
static bool sampled(const Implementation *implementation) {
    return implementation->sampled || getenv("OPS_SAMPLE");
}

/* Few draws of each case. */
static bool takes_long(const Implementation *implementation) {
    return implementation->slow || sampled(implementation);
}

void for_cases(const Implementation *implementation, Operation operation, bool sample, uint64_t seed,
               Report *report, CaseTest *test) {
    const Family *family;
    for (int i = 0; (family = family_at(i)); i++) {
        if (family->operation != operation || family->perf) continue;
        Selection selection = {.family = family, .sample = sample || sampled(implementation), .seed = seed};
        int shape, variant;
        while (!(report->look_for && report->failures) && select_next(&selection, &shape, &variant))
            report->cases += test(implementation, family, shape, variant, seed, report);
    }
}

/* ---------------------------------------------------------------------------------------------- values */

double ulp(DType type, double value) {
    int bits = type == DTYPE_F64 ? 52 : type == DTYPE_BF16 ? 7 : 23;
    return value > 0 ? ldexp(1, ilogb(value) - bits) : 0;
}

double *result_of(const Image *image, const Tensor *t) {
    double *value = malloc((size_t)(tensor_count(t) ? tensor_count(t) : 1) * sizeof *value);
    if (!value) abort();
    image_values(image, t, value);
    return value;
}

bool is_output(const Tensor *t) {
    return t->role == OUT || t->role == ADDED || t->role == INOUT;
}

/* The same value beyond the finite ones: a NaN is like any other. */
static bool alike(double a, double b) {
    return a == b || (isnan(a) && isnan(b));
}

void pool_add(Pool *pool, const Tensor *t, const double *got, const double *plain, const double *truth) {
    for (int64_t i = 0; i < tensor_count(t); i++) {
        if (t->ignored && t->ignored[i]) continue;
        double error = fabs(got[i] - truth[i]), plain_error = fabs(plain[i] - truth[i]);
        if (!isfinite(truth[i]))
            error = plain_error = alike(got[i], truth[i]) && alike(plain[i], truth[i]) ? 0 : INFINITY;
        if (isnan(error)) error = INFINITY;
        if (error > pool->error || pool->count == 0) {
            pool->error = error;
            pool->worst = i;
            pool->got = got[i];
            pool->truth = truth[i];
        }
        if (!(plain_error <= pool->plain_error)) pool->plain_error = plain_error;
        if (isfinite(truth[i])) pool->squares += truth[i] * truth[i];
        pool->nonzero +=
            truth[i] != 0; /* a row that is ignored, padding in an arena: not what the tensor is like */
        pool->count++;
    }
}

void run_image(Image *image, const Implementation *implementation, const Kernels *k, const Case *c,
               const char *title, Report *report) {
    char text[256];
    image_open(image, implementation, k, c);
    image_upload(image, false);
    image_run(image, c->main);
    image_download(image);
    if (!image_intact(image, false, text, sizeof text))
        report_failure(report, "%s %s [%s]: %s", operation_name(c->main.operation), k->name, title, text);
}

/* Values are compared on one thread: test_bits demands that more give the same bits, and many small parallel
 * regions would wait for each other on a busy machine. */
int threads_for(const Implementation *implementation, const Family *family) {
    int before = omp_get_max_threads();
    if (implementation->openmp && !family->no_bits) omp_set_num_threads(1);
    return before;
}

/* One draw of a case on the implementation, the plain version and the truth. */
static void draw_values(const Implementation *implementation, Case *c, Pool *pools, Report *report) {
    const Kernels *k = implementation->kernels;
    Image got, plain, truth;
    case_prepare(c, implementation);
    run_image(&truth, implementation, truth_for(k, c, c->main.operation), c, c->title, report);
    run_image(&plain, implementation, implementation->plain, c, c->title, report);
    run_image(&got, implementation, k, c, c->title, report);
    for (int i = 0; i < c->n_tensors; i++) {
        const Tensor *t = &c->tensor[i];
        if (!is_output(t) || (t->copy_of && k->storage == k->accum)) continue;
        double *a = result_of(&got, t), *b = result_of(&plain, t),
               *e = result_of(&truth, t->copy_of ? t->copy_of : t);
        pool_add(&pools[i], t, a, b, e);
        free(a), free(b), free(e);
    }
    image_close(&got), image_close(&plain), image_close(&truth);
}

int draws_of(const Implementation *implementation, const Case *c) {
    int64_t fewest = POOLED_ELEMENTS, most = case_elements(c) <= TINY_ELEMENTS ? TINY_DRAWS : MAX_DRAWS;
    if (takes_long(implementation)) most = SLOW_DRAWS;
    for (int i = 0; i < c->n_tensors; i++)
        if (is_output(&c->tensor[i]) && tensor_count(&c->tensor[i]) < fewest)
            fewest = tensor_count(&c->tensor[i]);
    int64_t draws = (POOLED_ELEMENTS + fewest - 1) / (fewest ? fewest : 1);
    return (int)(draws < MIN_DRAWS ? MIN_DRAWS : draws > most ? most : draws);
}

void judge(const char *name, DType type, const Case *c, const Tensor *t, const Pool *pool, Report *report) {
    double ratio = t->role == ADDED ? 3 : 2,
           rms = pool->nonzero ? sqrt(pool->squares / (double)pool->nonzero) : 0;
    double allowed = t->exact ? 0 : ratio * pool->plain_error + 4 * ulp(type, rms);
    if (t->only_finite) allowed = isfinite(pool->got) ? INFINITY : 0;
    if (allowed > 0 && isfinite(allowed) && pool->error / allowed > report->worst)
        report->worst = pool->error / allowed;
    if (pool->error <= allowed && !isinf(pool->error)) return;
    int64_t width = t->parts * t->cols;
    report_failure(
        report,
        "%s %s [%s]: %s: error %.3g, allowed %.3g = %g × %.3g of the plain loop + 4 ulp of rms %.3g; "
        "at row %lld, column %lld: %.9g, right is %.9g",
        operation_name(c->main.operation), name, c->title, t->name, pool->error, allowed, ratio,
        pool->plain_error, rms, (long long)(pool->worst / width), (long long)(pool->worst % width), pool->got,
        pool->truth);
}

static bool case_values(const Implementation *implementation, const Family *family, int shape, int variant,
                        uint64_t seed, Report *report) {
    Pool pools[MAX_TENSORS] = {0};
    Case c;
    int draws = 1, threads = threads_for(implementation, family);
    for (int draw = 0; draw < draws; draw++) {
        if (!open_for(&c, implementation, family, shape, variant, seed, draw)) {
            omp_set_num_threads(threads);
            return false;
        }
        draws = draws_of(implementation, &c);
        draw_values(implementation, &c, pools, report);
        if (draw < draws - 1) case_close(&c);
    }
    const Kernels *k = implementation->kernels;
    for (int i = 0; i < c.n_tensors; i++)
        if (pools[i].count)
            judge(k->name, type_in(k, &c, c.tensor[i].type), &c, &c.tensor[i], &pools[i], report);
    case_close(&c);
    omp_set_num_threads(threads);
    return true;
}

void test_values(const Implementation *implementation, Operation operation, uint64_t seed, Report *report) {
    for_cases(implementation, operation, false, seed, report, case_values);
}

/* ------------------------------------------------------------------------------------------------ bits */

static void fresh_run(Image *image, const Case *c) {
    image_upload(image, false);
    image_run(image, c->main);
    image_download(image);
}

/* Copies what the last run left, or compares with the copy: NULL, or the first tensor that differs. */
static void keep(const Image *image, unsigned char **kept) {
    for (int i = 0; i < image->c->n_tensors; i++) {
        if (!image->block[i]) continue;
        kept[i] = malloc(image->bytes[i] + 1);
        if (!kept[i]) abort();
        memcpy(kept[i], image->after[i] + IMAGE_GUARD, image->bytes[i]);
    }
}

static const char *differs(const Image *image, unsigned char **kept) {
    for (int i = 0; i < image->c->n_tensors; i++)
        if (image->block[i] && memcmp(kept[i], image->after[i] + IMAGE_GUARD, image->bytes[i]) != 0)
            return image->c->tensor[i].name;
    return NULL;
}

Junction recomputing(const Junction *j) {
    Junction again = *j;
    again.f = again.bias = NULL;
    again.s_in = again.s_ride = NULL;
    again.alpha = 0;
    again.sdd = again.inner = (Norm){0};
    again.x = again.u;
    again.u = NULL;
    return again;
}

/* Recompute: the same norm of the stored u, without f, gives the same bits. */
static const char *recompute_differs(Image *image, const Case *c, unsigned char **kept) {
    const Junction *first = c->main.arguments;
    if (!first->f) return NULL;
    Junction again = recomputing(first);
    for (int i = 0; i < c->n_tensors; i++) {
        const void *memory = image->block[i] ? (char *)image->block[i] + IMAGE_GUARD : NULL;
        bool made_again =
            memory && (memory == again.y || memory == again.y_residual || memory == again.norm.mean ||
                       memory == again.norm.rstd || memory == again.mean_square_out);
        if (made_again) image->k->zero(image->queue, (char *)image->block[i] + IMAGE_GUARD, image->bytes[i]);
    }
    image_run(image, (Call){OP_junction_forward, &again});
    image_download(image);
    return differs(image, kept);
}

static bool case_bits(const Implementation *implementation, const Family *family, int shape, int variant,
                      uint64_t seed, Report *report) {
    unsigned char *kept[MAX_TENSORS] = {0};
    const char *name = operation_name(family->operation),
               *implementation_name = implementation->kernels->name, *bad;
    Case c;
    Image image;
    if (!open_for(&c, implementation, family, shape, variant, seed, 0)) return false;
    case_prepare(&c, implementation);
    int threads = omp_get_max_threads(), most = implementation->openmp && !family->no_bits ? 3 : 0;
    for (int n = 1; n <= most; n++) { /* a queue of its own: scratch may depend on the number of threads */
        omp_set_num_threads(n);
        image_open(&image, implementation, implementation->kernels, &c);
        fresh_run(&image, &c);
        if (n == 1) keep(&image, kept);
        if ((bad = differs(&image, kept)))
            report_failure(report, "%s %s [%s]: %s: %d threads give other bits than one", name,
                           implementation_name, c.title, bad, n);
        image_close(&image);
    }
    omp_set_num_threads(threads);
    image_open(&image, implementation, implementation->kernels, &c);
    fresh_run(&image, &c);
    for (int i = 0; i < c.n_tensors; i++) free(kept[i]);
    keep(&image, kept);
    fresh_run(&image, &c);
    if ((bad = differs(&image, kept)))
        report_failure(report, "%s %s [%s]: %s: a second run gives other bits", name, implementation_name,
                       c.title, bad);
    if (family->operation == OP_junction_forward && (bad = recompute_differs(&image, &c, kept)))
        report_failure(report, "%s %s [%s]: %s: the recomputing call gives other bits", name,
                       implementation_name, c.title, bad);
    for (int i = 0; i < c.n_tensors; i++) free(kept[i]);
    image_close(&image);
    case_close(&c);
    return true;
}

void test_bits(const Implementation *implementation, Operation operation, uint64_t seed, Report *report) {
    for_cases(implementation, operation, true, seed, report, case_bits);
}

/* ------------------------------------------------------------------------------------------- gradients */

/* The objective of the forward pass with the case's present numbers, less what it was at first. *squares
 * becomes the sum of squares of the terms that moved: their rounding is what limits a difference. */
static double objective(Image *image, const Case *c, double *const *base, double *squares) {
    double sum = 0;
    image_run(image, c->prepare);
    for (int i = 0; i < c->n_upstream; i++) {
        const Upstream *term = &c->upstream[i];
        image_fetch(image, term->of);
        double *y = result_of(image, term->of), scale = term->scale ? term->scale->value[0] : 1, part = 0;
        for (int64_t k = 0; k < tensor_count(term->of); k++) {
            double now = scale * y[k] * term->gradient->value[k];
            part += (scale * y[k] - base[i][k]) * term->gradient->value[k];
            *squares += scale * y[k] != base[i][k] ? now * now : 0;
        }
        sum += part;
        free(y);
    }
    return sum;
}

/* Four-point central difference at element i. Each evaluation is taken relative to the unperturbed outputs,
 * so that elements which do not depend on i cancel exactly. *resolution: how far 4 ulp of each output that
 * moved, added as independent errors, can put it off. */
static double difference(Image *image, const Case *c, double *const *base, Tensor *t, int64_t i,
                         double *resolution) {
    static const double offset[4] = {1, -1, 2, -2}, coefficient[4] = {8, -8, -1, 1};
    double x = t->value[i], h = 1e-6 * (fabs(x) > 1 ? fabs(x) : 1), sum = 0, squares = 0;
    for (int k = 0; k < 4; k++) {
        volatile double moved = x + offset[k] * h;
        t->value[i] = moved;
        image_update(image, t);
        sum += coefficient[k] * objective(image, c, base, &squares);
    }
    t->value[i] = x;
    image_update(image, t);
    *resolution = 4 * 0x1p-52 * 18 / (12 * h) * sqrt(squares / 4);
    return sum / (12 * h);
}

/* The gradient of one tensor against differences at sampled elements: squares of the error, of the truth, and
 * of what the differences resolve; and how far 4 ulp of the whole gradient's rms put as many elements off: where each of those
 * sampled is zero in truth, what is left are roundings of terms that cancel. */
typedef struct GradientError {
    double error, truth, resolution, rounding;
    int64_t worst;
    double got, right;
} GradientError;

static GradientError gradient_error(Image *image, Case *c, double *const *base, const Tensor *gradient,
                                    const double *got) {
    Tensor *of = gradient->derivative_of;
    GradientError result = {0};
    double largest = -1;
    int64_t count = tensor_count(of), samples = count < GRADIENT_SAMPLES ? count : GRADIENT_SAMPLES;
    for (int64_t s = 0; s < samples; s++) {
        int64_t i = samples == count ? s : below(c, count);
        double resolution, right = gradient->factor * difference(image, c, base, of, i, &resolution);
        double start = gradient->role == ADDED ? gradient->value[i] : 0, error = fabs(got[i] - start - right);
        resolution *= gradient->factor;
        result.resolution += resolution * resolution;
        result.error += error * error;
        result.truth += right * right;
        if (error > largest || isnan(error)) {
            largest = error;
            result.worst = i;
            result.got = got[i] - start;
            result.right = right;
        }
    }
    double squares = 0;
    for (int64_t i = 0; i < count; i++) {
        double g = got[i] - (gradient->role == ADDED ? gradient->value[i] : 0);
        squares += g * g;
    }
    result.rounding = count ? 4 * 0x1p-52 * sqrt(squares / (double)count * (double)samples) : 0;
    return result;
}

static bool case_gradients(const Implementation *implementation, const Family *family, int shape, int variant,
                           uint64_t seed, Report *report) {
    Case c;
    Image backward, forward;
    double *got[MAX_TENSORS] = {0}, *base[4] = {0}, all = 0;
    GradientError errors[MAX_TENSORS] = {{0}};
    if (!open_for(&c, implementation, family, shape, variant, seed, 0)) return false;
    if (c.n_upstream == 0 || case_elements(&c) > GRADIENT_ELEMENTS) {
        case_close(&c);
        return false;
    }
    case_prepare(&c, implementation);
    run_image(&backward, implementation, implementation->kernels, &c, c.title, report);
    for (int i = 0; i < c.n_tensors; i++)
        if (c.tensor[i].derivative_of) got[i] = result_of(&backward, &c.tensor[i]);
    image_close(&backward);
    image_open(&forward, implementation, implementation->kernels, &c);
    image_upload(&forward, true);
    image_run(&forward, c.prepare);
    image_download(&forward);
    for (int i = 0; i < c.n_upstream; i++) {
        base[i] = result_of(&forward, c.upstream[i].of);
        double scale = c.upstream[i].scale ? c.upstream[i].scale->value[0] : 1;
        for (int64_t k = 0; k < tensor_count(c.upstream[i].of); k++) base[i][k] *= scale;
    }
    for (int i = 0; i < c.n_tensors; i++) {
        if (!got[i]) continue;
        errors[i] = gradient_error(&forward, &c, base, &c.tensor[i], got[i]);
        all += errors[i].truth;
    }
    for (int i = 0; i < c.n_tensors; i++) {
        if (!got[i]) continue;
        double norm = fmax(sqrt(errors[i].truth), 1e-6 * sqrt(all)), error = sqrt(errors[i].error);
        double allowed = 1e-6 * norm + sqrt(errors[i].resolution) + errors[i].rounding;
        if (!(error <= allowed))
            report_failure(report,
                           "%s %s [%s]: %s: error %.3g, allowed %.3g = 1e-6 × norm %.3g + resolution + 4 ulp; at "
                           "element %lld: %.12g, differences give %.12g",
                           operation_name(family->operation), implementation->kernels->name, c.title,
                           c.tensor[i].name, error, allowed, norm, (long long)errors[i].worst, errors[i].got,
                           errors[i].right);
        if (allowed > 0 && error / allowed > report->worst) report->worst = error / allowed;
        free(got[i]);
    }
    for (int i = 0; i < c.n_upstream; i++) free(base[i]);
    image_close(&forward);
    case_close(&c);
    return true;
}

bool operation_has_cases(Operation operation) {
    const Family *family;
    for (int i = 0; (family = family_at(i)); i++)
        if (family->operation == operation && !family->perf) return true;
    return false;
}

bool operation_has_gradients(Operation operation) {
    const Family *family;
    for (int i = 0; (family = family_at(i)); i++) {
        for (int v = 0; family->operation == operation && !family->perf && v < family->n_variants; v++) {
            Case c;
            case_open(&c, family, 0, v, 1, 0);
            bool has = c.n_upstream > 0;
            case_close(&c);
            if (has) return true;
        }
    }
    return false;
}

void test_gradients(const Implementation *implementation, Operation operation, uint64_t seed,
                    Report *report) {
    for_cases(implementation, operation, true, seed, report, case_gradients);
}
