/*
 * variant.c: the small computations that some variants need once a step or less (MATH.md §1.2, §3).
 */
#include "norm.h"
#include "product.h"

enum { PRODUCT_ROWS = 256 }; /* rows of W_O·W_V that exist at a time */

/* --- GPAS -------------------------------------------------------------------------------------------- */

static void gpas_act(GpasActivation activation, double g, double *value, double *slope) {
    const double leak = 0.01;
    switch (activation) {
    case GPAS_SILU: {
        double s = vm_sigmoid_f64(g);
        *value = g * s;
        *slope = s * (1 + g * (1 - s));
        return;
    }
    case GPAS_IDENTITY:
        *value = g;
        *slope = 1;
        return;
    case GPAS_RELU: /* slope 0 at 0 */
        *value = g > 0 ? g : 0;
        *slope = g > 0 ? 1 : 0;
        return;
    case GPAS_TANH:
        *value = tanh(g);
        *slope = (1 - *value) * (1 + *value);
        return;
    case GPAS_LEAKY_RELU:
        *value = g > 0 ? g : leak * g;
        *slope = g > 0 ? 1 : leak;
        return;
    }
    fail(EXIT_USAGE, "gpas_scales: there is no activation %d", (int)activation);
}

void NAME(gpas_scales)(Queue *queue, const GpasScales *args) {
    (void)queue;
    const real *gate = args->gate;
    for (int i = 0; i < args->n; i++) {
        double value = 0, slope = 0;
        gpas_act(args->activation, (double)gate[i], &value, &slope);
        ((real *)args->scale)[i] = (real)(1 - value);
        ((real *)args->slope)[i] = (real)slope;
    }
}

/* --- BHyT -------------------------------------------------------------------------------------------- */

/* Query heads that share a key-value head meet the same rows of W_V, so their columns of W_O are summed
 * first: W_O·repeat(W_V) = folded·W_V with folded [C, Hkv·D]. */
static void fold_heads(const ProductNorm *args, int64_t first, int64_t rows, real *folded) {
    int64_t width = (int64_t)args->Hkv * args->D, ld = padded(width),
            ld_o = padded((int64_t)args->H * args->D);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        const stored *w_o = (const stored *)args->w_o + (first + i) * ld_o;
        real *out = folded + i * ld;
        row_fill(out, 0, ld);
        for (int64_t head = 0; head < args->H; head++) {
            real *to = out + head * args->Hkv / args->H * args->D;
#pragma omp simd
            for (int d = 0; d < args->D; d++) to[d] += stored_get(w_o[head * args->D + d]);
        }
    }
}

typedef struct ProductSpace {
    double *squares; /* [PRODUCT_ROWS] */
    real *folded;    /* [PRODUCT_ROWS, width] */
    real *product;   /* [PRODUCT_ROWS, C] */
    real *w_v;       /* [width, C] where Storage is not `real` */
} ProductSpace;

static size_t product_bytes(int64_t width, int64_t C) {
    size_t elements = (size_t)PRODUCT_ROWS * (size_t)(padded(width) + padded(C));
    if (!STORED_IS_REAL) elements += (size_t)(width * padded(C));
    return PRODUCT_ROWS * sizeof(double) + elements * sizeof(real);
}

static ProductSpace product_space(Queue *queue, int64_t width, int64_t C) {
    ProductSpace s = {.squares = NAME(cpu_scratch)(queue, product_bytes(width, C), "product_norm")};
    s.folded = (real *)(s.squares + PRODUCT_ROWS);
    s.product = s.folded + PRODUCT_ROWS * padded(width);
    s.w_v = s.product + PRODUCT_ROWS * padded(C);
    return s;
}

size_t NAME(variant_scratch)(const Limits *limits) {
    return product_bytes((int64_t)limits->Hkv * limits->D, limits->C);
}

/* The product's factors are rounded nowhere: neither is Storage's. */
static void multiply_real(const Product *p) {
#ifdef CPU_F64
    multiply_f64(p);
#else
    multiply_f32(p);
#endif
}

void NAME(product_norm)(Queue *queue, const ProductNorm *args) {
    int64_t width = (int64_t)args->Hkv * args->D, C = args->C, ld = padded(C);
    ProductSpace s = product_space(queue, width, C);
    const stored *stored_v = (const stored *)args->w_qkv + (int64_t)(args->H + args->Hkv) * args->D * ld;
    const real *w_v = STORED_IS_REAL ? (const void *)stored_v : s.w_v;
    if (!STORED_IS_REAL)
        NAME(cast)(queue, &(Cast){.n = width * ld, .from = STORED_DTYPE, .to = REAL_DTYPE, .src = stored_v, .dst = s.w_v});
    double total = 0;
    for (int64_t first = 0; first < C; first += PRODUCT_ROWS) {
        int64_t rows = least(PRODUCT_ROWS, C - first);
        fold_heads(args, first, rows, s.folded);
        multiply_real(&(Product){.operation = "product_norm",
                                 .M = rows,
                                 .N = C,
                                 .K = width,
                                 .a = s.folded,
                                 .lda = padded(width),
                                 .b = w_v,
                                 .ldb = ld,
                                 .c = s.product,
                                 .ldc = ld});
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < rows; i++) s.squares[i] = row_sum_squares(s.product + i * ld, C);
        for (int64_t i = 0; i < rows; i++) total += s.squares[i];
    }
    *(real *)args->out = (real)(total / ((double)args->T * C));
}

/* mean(v²), or 1 where there is no v. */
static double mean_square_of(const real *v, int C) {
    return v ? row_sum_squares(v, C) / C : 1;
}

void NAME(bhyt_terms)(Queue *queue, const BhytTerms *args) {
    (void)queue;
    double s = args->s ? (double)*(const real *)args->s : 1, estimate;
    if (args->alpha_o) {
        estimate = mean_square_of(args->alpha_o, args->C);
    } else {
        double ratio = (double)*(const real *)args->lambda / args->kappa;
        estimate = (double)*(const real *)args->c * ratio * ratio * mean_square_of(args->gamma, args->C);
    }
    ((real *)args->vhat)[0] = (real)(s * s);
    ((real *)args->vhat)[1] = (real)(s * s * args->factor * estimate);
}
