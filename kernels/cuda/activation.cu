/*
 * activation.cu: GELU and SwiGLU, with SDD's norm of the row before them where asked, forward and backward,
 * with the column sums for the gradients of α and the bias.
 *
 * With a norm a first kernel takes each row's statistic: forward its rstd, backward the mean that rmsnorm's
 * gradient subtracts. The row is then read twice.
 *
 * GELU's tanh form is h·σ(2z), z = √(2/π)·(h + 0.044715·h³), the same function; σ keeps its small values to
 * full precision where 1 + tanh cancels. The GELU of the definition is h·½·erfc(−h/√2), for the same reason.
 */
#include "columns.cuh"
#include "elementary.cuh"

namespace {

constexpr int THREADS = 128;

/* Beyond ±9.9, σ(2z) is 0 or 1 to the last bit that matters, and h³ cannot overflow in backward. */
constexpr float GELU_LIMIT = 9.9f, GELU_TWICE_ROOT = 1.5957691216057308f, GELU_CUBIC = 0.044715f;

/* A NaN passes both comparisons and stays. */
__device__ __forceinline__ float gelu_clamped(float h) {
    return h < -GELU_LIMIT ? -GELU_LIMIT : h > GELU_LIMIT ? GELU_LIMIT : h;
}

/* exp(−2z) of a clamped h: σ(2z) is 1/(1 + that), and 1 − σ(2z) is that·σ(2z), without cancellation. */
template <typename S> __device__ __forceinline__ float gelu_exponential(float clamped) {
    return exponential<S>(-GELU_TWICE_ROOT * clamped * (1 + GELU_CUBIC * clamped * clamped));
}

template <typename S> __device__ __forceinline__ float gelu(float h) {
    return quotient<S>(h, 1 + gelu_exponential<S>(gelu_clamped(h)));
}

/* d(h·σ(2z))/dh = σ + h·σ(1−σ)·2z′ */
template <typename S> __device__ __forceinline__ float gelu_slope(float h) {
    const float value = gelu_clamped(h), power = gelu_exponential<S>(value), gate = quotient<S>(1, 1 + power);
    const float slope = GELU_TWICE_ROOT * (1 + 3 * GELU_CUBIC * value * value);
    return gate + value * slope * (power * gate) * gate;
}

constexpr float ROOT_HALF = 0.70710678118654752f, NORMAL_DENSITY = 0.39894228040143268f; /* the latter of 0: 1/√(2π) */

/* Φ(h) of the normal distribution. */
__device__ __forceinline__ float normal_share(float h) {
    return 0.5f * erfcf(-ROOT_HALF * h);
}

/* d(h·Φ(h))/dh = Φ(h) + h·φ(h); where h² overflows the density is 0, as it should be. */
template <typename S> __device__ __forceinline__ float gelu_exact_slope(float h) {
    return normal_share(h) + h * (NORMAL_DENSITY * exponential<S>(-0.5f * h * h));
}

/* exp(−a) of SwiGLU's gate: σ(a) is 1/(1 + that), and 1 − σ(a) is that·σ(a), without cancellation. Held below where σ would be 0
 * and their product none; a NaN's σ is lost, but backward multiplies by a. */
template <typename S> __device__ __forceinline__ float silu_exponential(float a) {
    return fminf(exponential<S>(-a), 0x1p100f);
}

/* y in the place of a: a GELU of a, or SwiGLU of the gate a and b. */
template <typename S, ActivationKind KIND>
__device__ __forceinline__ void activate(float (&a)[PACK], const float (&b)[PACK]) {
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        if constexpr (KIND == ACTIVATION_GELU)
            a[j] = gelu<S>(a[j]);
        else if constexpr (KIND == ACTIVATION_GELU_EXACT)
            a[j] = a[j] * normal_share(a[j]);
        else
            a[j] = a[j] * sigmoid<S>(a[j]) * b[j];
    }
}

/* The gradients at a and b, in their places, from g at y. */
template <typename S, ActivationKind KIND>
__device__ __forceinline__ void activate_backward(float (&a)[PACK], float (&b)[PACK],
                                                  const float (&g)[PACK]) {
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        if constexpr (KIND == ACTIVATION_GELU) {
            a[j] = g[j] * gelu_slope<S>(a[j]);
        } else if constexpr (KIND == ACTIVATION_GELU_EXACT) {
            a[j] = g[j] * gelu_exact_slope<S>(a[j]);
        } else {
            const float power = silu_exponential<S>(a[j]), s = quotient<S>(1, 1 + power), db = g[j] * (a[j] * s);
            a[j] = g[j] * b[j] * (s * (1 + a[j] * (power * s)));
            b[j] = db;
        }
    }
}

/* What the kernels need of an Activation. Of a row of h the parts (SwiGLU's gate and up, or the whole) lie `part` elements
 * apart. */
struct ActivationParams {
    int64_t N, part;
    int F, parts, statistics; /* statistics of a row: one a part, or one for all */
    float eps;
    const float *alpha; /* laid out as a row of h */
    float *rstd;        /* [N, statistics] */

    __device__ int64_t stride() const { return parts * part; }
};

template <ActivationKind KIND> ActivationParams params_of(const Activation *args) {
    ActivationParams params;
    params.N = args->N, params.F = args->F, params.part = row_stride(args->F);
    params.parts = KIND == ACTIVATION_SWIGLU ? 2 : 1;
    params.statistics = args->norm == ACTIVATION_NORM_EACH ? params.parts : 1;
    params.eps = (float)args->eps;
    params.alpha = static_cast<const float *>(args->alpha);
    params.rstd = static_cast<float *>(args->rstd);
    return params;
}

/* h of one pack of every part, and with a norm α ⊙ h·rstd in `normed`; else normed is h. */
template <typename S, int PARTS, bool NORMED>
__device__ __forceinline__ void load_parts(float (&h)[PARTS][PACK], float (&normed)[2][PACK], const S *tensor,
                                           const ActivationParams &params, int64_t n, int64_t column) {
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        load_pack(h[p], tensor + n * PARTS * params.part + p * params.part + column);
        float alpha[PACK];
        if constexpr (NORMED) load_pack(alpha, params.alpha + p * params.part + column);
        const float rstd = NORMED ? params.rstd[n * params.statistics + p % params.statistics] : 1;
#pragma unroll
        for (int j = 0; j < PACK; j++) normed[p][j] = NORMED ? alpha[j] * (h[p][j] * rstd) : h[p][j];
    }
}

/*
 * A warp to each row. out[n·statistics + s]: forward (dy NULL) rstd of the row; backward mean(α⊙g⊙x̂) with g
 * the gradient at the normed row.
 */
template <typename S, ActivationKind KIND>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    statistics_kernel(const S *__restrict__ h, const S *__restrict__ dy, float *__restrict__ out,
                      ActivationParams params) {
    constexpr int PARTS = KIND == ACTIVATION_SWIGLU ? 2 : 1;
    const int64_t n = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    if (n >= params.N) return; /* a whole warp */
    float sum[2] = {0, 0};
    for (int64_t column = threadIdx.x % WARP * PACK; column < params.F; column += WARP * PACK) {
        float x[PARTS][PACK], normed[2][PACK], g[PACK];
        if (dy) {
            load_parts<S, PARTS, true>(x, normed, h, params, n, column);
            load_pack(g, dy + n * params.part + column);
            activate_backward<S, KIND>(normed[0], normed[1], g);
        } else {
            load_parts<S, PARTS, false>(x, normed, h, params, n, column);
        }
#pragma unroll
        for (int p = 0; p < PARTS; p++) {
            float alpha[PACK];
            const float rstd = dy ? params.rstd[n * params.statistics + p % params.statistics] : 1;
            if (dy) load_pack(alpha, params.alpha + p * params.part + column);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                sum[p] += dy ? alpha[j] * normed[p][j] * (x[p][j] * rstd) : x[p][j] * x[p][j];
        }
    }
    if (params.statistics == 1) sum[0] += sum[1];
    const float width = (float)params.F * (float)(PARTS / params.statistics);
    for (int s = 0; s < params.statistics; s++) {
        const float mean = warp_sum(sum[s]) / width;
        if (threadIdx.x % WARP == 0)
            out[n * params.statistics + s] = dy ? mean : 1.0f / sqrtf(mean + params.eps);
    }
}

/* Rows whose loads a thread has in flight before it uses one. SwiGLU has two or three loads a row, which are enough. */
template <ActivationKind KIND> constexpr int rows_at_once = KIND == ACTIVATION_SWIGLU ? 1 : 2;

/* y of one pack of ROWS rows from n on, all of whose loads are in flight before the first is used. */
template <typename S, ActivationKind KIND, bool NORMED, int ROWS>
__device__ __forceinline__ void rows_forward(const S *__restrict__ h, S *__restrict__ y,
                                             const ActivationParams &params, int64_t n, int64_t column) {
    constexpr int PARTS = KIND == ACTIVATION_SWIGLU ? 2 : 1;
    float x[ROWS][PARTS][PACK], normed[ROWS][2][PACK];
#pragma unroll
    for (int k = 0; k < ROWS; k++) load_parts<S, PARTS, NORMED>(x[k], normed[k], h, params, n + k, column);
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        activate<S, KIND>(normed[k][0], normed[k][1]);
        store_pack(y + (n + k) * params.part + column, normed[k][0]);
    }
}

/* A thread owns one pack of columns and loops over a chunk of rows, as in backward. Padding becomes zero because h's
 * padding is. */
template <typename S, ActivationKind KIND, bool NORMED>
__global__ void __launch_bounds__(THREADS)
    activation_forward_kernel(const S *__restrict__ h, S *__restrict__ y, ActivationParams params,
                              int64_t rows) {
    constexpr int ROWS = rows_at_once<KIND>;
    const int64_t column = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
    if (column >= params.part) return;
    const int64_t first = blockIdx.y * rows, last = min(first + rows, params.N);
    int64_t n = first;
#pragma unroll(ROWS == 1 ? 4 : 1)
    for (; n + ROWS <= last; n += ROWS) rows_forward<S, KIND, NORMED, ROWS>(h, y, params, n, column);
    if (ROWS > 1 && n < last) rows_forward<S, KIND, NORMED, 1>(h, y, params, n, column);
}

/* What a thread sums over its rows, of one pack of columns of each part. */
template <int PARTS> struct ColumnSums {
    float alpha[PARTS][PACK], bias[PARTS][PACK];
};

/* h's gradient at one pack of row n, in the place of d, which was the normed row; x: h itself. */
template <typename S, ActivationKind KIND, bool NORMED, int PARTS>
__device__ __forceinline__ void
row_gradient(float (&d)[2][PACK], const float (&x)[PARTS][PACK], const float (&g)[PACK], const float *means,
             const ActivationParams &params, int64_t n, int64_t column, ColumnSums<PARTS> &sums) {
    activate_backward<S, KIND>(d[0], d[1], g);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        if constexpr (NORMED) {
            const int64_t statistic = n * params.statistics + p % params.statistics;
            const float rstd = params.rstd[statistic], mean = means[statistic];
            float alpha[PACK];
            load_pack(alpha, params.alpha + p * params.part + column);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float hat = x[p][j] * rstd;
                sums.alpha[p][j] += d[p][j] * hat;
                d[p][j] = rstd * (alpha[j] * d[p][j] - hat * mean);
            }
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) sums.bias[p][j] += d[p][j];
    }
}

/* ROWS rows from n on. All are loaded before the first is stored: dh may be h, so that the compiler may move no load over
 * a store. */
template <typename S, ActivationKind KIND, bool NORMED, int ROWS, int PARTS>
__device__ __forceinline__ void rows_backward(const S *h, const S *dy, S *dh, const float *means,
                                              const ActivationParams &params, int64_t n, int64_t column,
                                              ColumnSums<PARTS> &sums) {
    float x[ROWS][PARTS][PACK], d[ROWS][2][PACK], g[ROWS][PACK];
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        load_pack(g[k], dy + (n + k) * params.part + column);
        load_parts<S, PARTS, NORMED>(x[k], d[k], h, params, n + k, column);
    }
#pragma unroll
    for (int k = 0; k < ROWS; k++) {
        row_gradient<S, KIND, NORMED>(d[k], x[k], g[k], means, params, n + k, column, sums);
#pragma unroll
        for (int p = 0; p < PARTS; p++)
            store_pack(dh + (n + k) * params.stride() + p * params.part + column, d[k][p]);
    }
}

/*
 * A thread owns one pack of columns (of gate and of up) and loops over a chunk of rows. dh may be h: a thread reads
 * what it then writes. Bytes an element of y in bf16: GELU 6, SwiGLU 10.
 */
template <typename S, ActivationKind KIND, bool NORMED>
__global__ void __launch_bounds__(THREADS)
    activation_backward_kernel(const S *h, const S *dy, S *dh, const float *__restrict__ means,
                               ActivationParams params, int64_t rows, AlphaBiasPartials partials) {
    constexpr int PARTS = KIND == ACTIVATION_SWIGLU ? 2 : 1, ROWS = rows_at_once<KIND>;
    const int64_t column = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
    if (column >= params.part) return;
    const int64_t first = blockIdx.y * rows, last = min(first + rows, params.N);
    ColumnSums<PARTS> sums;
#pragma unroll
    for (int p = 0; p < PARTS; p++) fill_pack(sums.bias[p], 0), fill_pack(sums.alpha[p], 0);
    int64_t n = first;
#pragma unroll(ROWS == 1 ? 2 : 1)
    for (; n + ROWS <= last; n += ROWS)
        rows_backward<S, KIND, NORMED, ROWS>(h, dy, dh, means, params, n, column, sums);
    if (ROWS > 1 && n < last) rows_backward<S, KIND, NORMED, 1>(h, dy, dh, means, params, n, column, sums);
#pragma unroll
    for (int p = 0; p < PARTS; p++) {
        const int64_t at = blockIdx.y * params.stride() + p * params.part + column;
        if (NORMED && partials.alpha) store_pack(partials.alpha + at, sums.alpha[p]);
        if (partials.bias) store_pack(partials.bias + at, sums.bias[p]);
    }
}

template <typename S, ActivationKind KIND>
void launch_statistics(Queue *queue, const ActivationParams &params, const Storage *h, const Storage *dy,
                       float *out) {
    const int64_t blocks = ceil_div(params.N, THREADS / WARP);
    check(blocks <= INT32_MAX, "activation on cuda: %lld rows are more than a launch can hold",
          (long long)params.N);
    LAUNCH((statistics_kernel<S, KIND>), (unsigned)blocks, THREADS, 0, queue->stream,
           static_cast<const S *>(h), static_cast<const S *>(dy), out, params);
}

template <typename S, ActivationKind KIND, bool NORMED>
void run_forward(Queue *queue, const Activation *args) {
    const ActivationParams params = params_of<KIND>(args);
    const Chunks chunks =
        split_rows(params.N, 8, 65535); /* of few rows, while the grid holds as many chunks */
    if constexpr (NORMED) launch_statistics<S, KIND>(queue, params, args->h, NULL, params.rstd);
    LAUNCH((activation_forward_kernel<S, KIND, NORMED>),
           dim3((unsigned)ceil_div(params.part / PACK, THREADS), chunks.count), THREADS, 0, queue->stream,
           static_cast<const S *>(args->h), static_cast<S *>(args->y), params, chunks.rows);
}

/* Scratch: two tensors of partial sums, then at most two numbers a row. */
size_t backward_bytes(int64_t N, int64_t stride) {
    return (2 * MAX_CHUNKS * (size_t)stride + 2 * (size_t)N) * sizeof(float);
}

template <typename S, ActivationKind KIND, bool NORMED>
void run_backward(Queue *queue, const ActivationBackward *args) {
    const Activation *forward = args->forward;
    const ActivationParams params = params_of<KIND>(forward);
    const int64_t stride = params.parts * params.part;
    const Chunks chunks = split_rows(params.N);
    float *scratch = NULL;
    if (NORMED || args->dbias)
        scratch = static_cast<float *>(
            cuda_scratch(queue, backward_bytes(params.N, stride), "activation_backward"));
    AlphaBiasPartials partials;
    partials.bias = args->dbias ? scratch : NULL;
    partials.alpha = NORMED ? scratch + MAX_CHUNKS * stride : NULL;
    float *means = NORMED ? scratch + 2 * MAX_CHUNKS * stride : NULL;
    if constexpr (NORMED) launch_statistics<S, KIND>(queue, params, forward->h, args->dy, means);
    LAUNCH((activation_backward_kernel<S, KIND, NORMED>),
           dim3((unsigned)ceil_div(params.part / PACK, THREADS), chunks.count), THREADS, 0, queue->stream,
           static_cast<const S *>(forward->h), static_cast<const S *>(args->dy), static_cast<S *>(args->dh),
           means, params, chunks.rows, partials);
    add_columns(queue, NORMED ? args->dalpha : NULL, partials.alpha, (int)chunks.count, stride, stride);
    add_columns(queue, args->dbias, partials.bias, (int)chunks.count, stride, stride);
}

template <ActivationKind KIND, typename Launch> void dispatch_normed(const Activation *args, Launch launch) {
    if (args->norm != ACTIVATION_NORM_NONE)
        launch(Constant<KIND>(), Constant<true>());
    else
        launch(Constant<KIND>(), Constant<false>());
}

/* Calls launch(KIND, NORMED), both constants. */
template <typename Launch> void dispatch_activation(const Activation *args, Launch launch) {
    if (args->kind == ACTIVATION_GELU)
        dispatch_normed<ACTIVATION_GELU>(args, launch);
    else if (args->kind == ACTIVATION_GELU_EXACT)
        dispatch_normed<ACTIVATION_GELU_EXACT>(args, launch);
    else
        dispatch_normed<ACTIVATION_SWIGLU>(args, launch);
}

} // namespace

template <typename S> void activation_forward(Queue *queue, const Activation *args) {
    if (args->N == 0) return;
    dispatch_activation(args, [&](auto kind, auto normed) { run_forward<S, kind(), normed()>(queue, args); });
}
INSTANTIATE(activation_forward, Activation);

template <typename S> void activation_backward(Queue *queue, const ActivationBackward *args) {
    if (args->forward->N == 0) return;
    dispatch_activation(args->forward,
                        [&](auto kind, auto normed) { run_backward<S, kind(), normed()>(queue, args); });
}
INSTANTIATE(activation_backward, ActivationBackward);

/* limits->F counts gate and up together, padded each. */
size_t activation_scratch(const Limits *limits) {
    return backward_bytes(limits->N, row_stride(limits->F));
}
