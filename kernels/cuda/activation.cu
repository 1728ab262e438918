/*
 * activation.cu: GELU and SwiGLU, forward and backward, with the column sums for the bias gradient. SDD's
 * norm of the row is not there yet.
 *
 * GELU's tanh form is h·σ(2z), z = √(2/π)·(h + 0.044715·h³), the same function; σ keeps its small values to
 * full precision where 1 + tanh cancels.
 */
#include "columns.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 128;

/* Beyond ±9.9, σ(2z) is 0 or 1 to the last bit that matters, and h³ cannot overflow in backward. */
constexpr float GELU_LIMIT = 9.9f, GELU_TWICE_ROOT = 1.5957691216057308f, GELU_CUBIC = 0.044715f;

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

/* A NaN passes both comparisons and stays. */
__device__ __forceinline__ float gelu_clamped(float h) {
    return h < -GELU_LIMIT ? -GELU_LIMIT : h > GELU_LIMIT ? GELU_LIMIT : h;
}

/* exp(−2z) of a clamped h: σ(2z) is 1/(1 + that), and 1 − σ(2z) is that·σ(2z), without cancellation. */
__device__ __forceinline__ float gelu_exponential(float clamped) {
    return expf(-GELU_TWICE_ROOT * clamped * (1 + GELU_CUBIC * clamped * clamped));
}

__device__ __forceinline__ float gelu(float h) {
    return h / (1 + gelu_exponential(gelu_clamped(h)));
}

/* d(h·σ(2z))/dh = σ + h·σ(1−σ)·2z′ */
__device__ __forceinline__ float gelu_slope(float h) {
    const float value = gelu_clamped(h), exponential = gelu_exponential(value), gate = 1 / (1 + exponential);
    const float slope = GELU_TWICE_ROOT * (1 + 3 * GELU_CUBIC * value * value);
    return gate + value * slope * (exponential * gate) * gate;
}

/* One pack of a row of h: GELU's h, or SwiGLU's gate and up. Padding becomes zero because h's padding is. */
template <typename S, ActivationKind KIND>
__global__ void __launch_bounds__(THREADS)
    activation_forward_kernel(const S *__restrict__ h, S *__restrict__ y, int64_t packs, int64_t row_packs) {
    const int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < packs; i += stride) {
        float a[PACK], b[PACK];
        if constexpr (KIND == ACTIVATION_GELU) {
            load_pack(a, h + i * PACK);
#pragma unroll
            for (int j = 0; j < PACK; j++) a[j] = gelu(a[j]);
        } else {
            const int64_t at = (i / row_packs * 2 * row_packs + i % row_packs) * PACK;
            load_pack(a, h + at);
            load_pack(b, h + at + row_packs * PACK);
#pragma unroll
            for (int j = 0; j < PACK; j++) a[j] *= sigmoid(a[j]) * b[j];
        }
        store_pack(y + i * PACK, a);
    }
}

/*
 * A thread owns one pack of columns (of gate and of up) and walks down a chunk of rows. dh may be h: a thread
 * reads what it then writes. Bytes an element of y in bf16: GELU 6, SwiGLU 10; gpt2-124m at 65,536 tokens:
 * 1.2 GB, floor 0.25 ms at 4.8 TB/s on an H200. Not yet measured.
 */
template <typename S, ActivationKind KIND>
__global__ void __launch_bounds__(THREADS)
    activation_backward_kernel(const S *h, const S *dy, S *dh, float *partial, int64_t N, int64_t rows,
                               int64_t row_stride_y) {
    const int64_t column = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
    if (column >= row_stride_y) return;
    constexpr int PARTS = KIND == ACTIVATION_GELU ? 1 : 2;
    const int64_t first = blockIdx.y * rows, last = min(first + rows, N), stride = PARTS * row_stride_y;
    float sum[PARTS][PACK];
    for (int part = 0; part < PARTS; part++) fill_pack(sum[part], 0);
#pragma unroll 2
    for (int64_t n = first; n < last; n++) {
        const int64_t at = n * stride + column;
        float g[PACK], a[PACK];
        load_pack(g, dy + n * row_stride_y + column);
        load_pack(a, h + at);
        if constexpr (KIND == ACTIVATION_GELU) {
#pragma unroll
            for (int j = 0; j < PACK; j++) a[j] = g[j] * gelu_slope(a[j]);
        } else {
            float up[PACK];
            load_pack(up, h + at + row_stride_y);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float s = sigmoid(a[j]), dup = g[j] * (a[j] * s);
                a[j] = g[j] * up[j] * (s * (1 + a[j] * (1 - s)));
                up[j] = dup;
                sum[PARTS - 1][j] += dup;
            }
            store_pack(dh + at + row_stride_y, up);
        }
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[0][j] += a[j];
        store_pack(dh + at, a);
    }
    if (!partial) return;
    for (int part = 0; part < PARTS; part++)
        store_pack(partial + blockIdx.y * stride + part * row_stride_y + column, sum[part]);
}

void check_activation(const Activation *args) {
    check(args->norm == ACTIVATION_NORM_NONE, "activation on cuda: sdd is not there yet");
}

template <typename S, ActivationKind KIND> void run_forward(Queue *queue, const Activation *args) {
    const int64_t row_packs = row_stride(args->F) / PACK, packs = args->N * row_packs;
    const int64_t blocks = ceil_div(packs, THREADS);
    LAUNCH((activation_forward_kernel<S, KIND>), (unsigned)(blocks < 65536 ? blocks : 65536), THREADS, 0,
           queue->stream, static_cast<const S *>(args->h), static_cast<S *>(args->y), packs, row_packs);
}

template <typename S, ActivationKind KIND> void run_backward(Queue *queue, const ActivationBackward *args) {
    const Activation *forward = args->forward;
    const int64_t stride_y = row_stride(forward->F);
    const int64_t stride = KIND == ACTIVATION_GELU ? stride_y : 2 * stride_y;
    const Chunks chunks = split_rows(forward->N);
    float *partial = NULL;
    if (args->dbias)
        partial = static_cast<float *>(
            cuda_scratch(queue, chunks.count * stride * sizeof(float), "activation_backward"));
    LAUNCH((activation_backward_kernel<S, KIND>),
           dim3((unsigned)ceil_div(stride_y / PACK, THREADS), chunks.count), THREADS, 0, queue->stream,
           static_cast<const S *>(forward->h), static_cast<const S *>(args->dy), static_cast<S *>(args->dh),
           partial, forward->N, chunks.rows, stride_y);
    add_columns(queue, args->dbias, partial, (int)chunks.count, stride, stride);
}

} // namespace

template <typename S> void activation_forward(Queue *queue, const Activation *args) {
    check_activation(args);
    if (args->N == 0) return;
    if (args->kind == ACTIVATION_GELU)
        run_forward<S, ACTIVATION_GELU>(queue, args);
    else
        run_forward<S, ACTIVATION_SWIGLU>(queue, args);
}
INSTANTIATE(activation_forward, Activation);

template <typename S> void activation_backward(Queue *queue, const ActivationBackward *args) {
    check_activation(args->forward);
    if (args->forward->N == 0) return;
    if (args->forward->kind == ACTIVATION_GELU)
        run_backward<S, ACTIVATION_GELU>(queue, args);
    else
        run_backward<S, ACTIVATION_SWIGLU>(queue, args);
}
INSTANTIATE(activation_backward, ActivationBackward);

/* limits->F counts gate and up together, padded each. */
size_t activation_scratch(const Limits *limits) {
    return (size_t)MAX_CHUNKS * row_stride(limits->F) * sizeof(float);
}
