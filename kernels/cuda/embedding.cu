/*
 * embedding.cu: tokens and positions become rows of the residual stream, and gradients return to the tables.
 */
#include "types.cuh"

namespace {

constexpr int THREADS = 128;

/* A block a token. Bytes: two table rows read (mostly from cache), one row written. */
template <typename S, typename R>
__global__ void __launch_bounds__(THREADS) embedding_forward_kernel(Embedding args) {
    const int n = (int)blockIdx.x, stride = (int)row_stride(args.C);
    const float scale = args.scale ? *static_cast<const float *>(args.scale) : 1.0f;
    const S *token = static_cast<const S *>(args.token_table) + (int64_t)args.tokens[n] * stride;
    const S *position = static_cast<const S *>(args.position_table);
    if (position) position += (args.position ? (int64_t)args.position[n] : n % args.T) * stride;
    R *x = static_cast<R *>(args.x) + (int64_t)n * stride;
    for (int column = (int)threadIdx.x * PACK; column < stride; column += THREADS * PACK) {
        float row[PACK], position_row[PACK];
        load_pack(row, token + column);
        fill_pack(position_row, 0);
        if (position) load_pack(position_row, position + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) row[j] = scale * row[j] + position_row[j];
        store_pack(x + column, row);
    }
}

/* The table row that token n adds to: its key, or, without keys, its time step. */
struct Keys {
    const uint32_t *keys;
    int T;

    __device__ __forceinline__ uint32_t of(int64_t n) const {
        return keys ? keys[n]
                    : (uint32_t)n % (uint32_t)T; /* tokens_of: n fits in 32 bits, which divide faster */
    }
};

/* Whether an earlier token has the same key; the whole block asks together. */
__device__ bool seen_before(Keys keys, int64_t n, uint32_t key) {
    for (int64_t first = 0; first < n; first += THREADS) {
        const int64_t m = first + threadIdx.x;
        if (__syncthreads_or(m < n && keys.of(m) == key)) return true;
    }
    return false;
}

/*
 * table[key of n] += scale·Σ dx over all tokens with that key, in the order of the tokens, without atomics
 * and without sorting: a block a token; the block of a key's first token owns the key, the others leave. It
 * looks through the tokens 128 at a time, keeps a list of those that match, and adds their rows; a thread
 * owns a pack of columns. Looking costs N²/2 comparisons a table: at 65,536 tokens 2·10⁹, from cache, under a
 * millisecond on an H200 by its instruction rate. Not yet measured.
 */
template <typename R>
__global__ void __launch_bounds__(THREADS)
    add_rows_kernel(float *__restrict__ table, const R *__restrict__ dx, Keys keys, int64_t N, int C,
                    const Accum *scale_pointer) {
    SHARED_ARRAY(int, matches, THREADS);
    SHARED_ARRAY(int, warp_counts, THREADS / WARP);
    const int64_t n = blockIdx.x, stride = row_stride(C);
    const uint32_t key = keys.of(n);
    if (seen_before(keys, n, key)) return;
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float scale = scale_pointer ? *static_cast<const float *>(scale_pointer) : 1.0f;

    for (int64_t column0 = 0; column0 < stride; column0 += THREADS * PACK) {
        const int64_t column = column0 + threadIdx.x * PACK;
        float sum[PACK];
        fill_pack(sum, 0);
        for (int64_t first = n; first < N; first += THREADS) {
            const int64_t m = first + threadIdx.x;
            const bool match = m < N && keys.of(m) == key;
            const unsigned votes = __ballot_sync(ALL_LANES, match);
            if (lane == 0) warp_counts[warp] = __popc(votes);
            __syncthreads();
            int before = 0, count = 0;
            for (int i = 0; i < THREADS / WARP; i++) {
                if (i < warp) before += warp_counts[i];
                count += warp_counts[i];
            }
            /* The list is free: all have come to the barrier above, and so have read it. */
            if (match) matches[before + __popc(votes & ((1u << lane) - 1))] = threadIdx.x;
            __syncthreads();
            if (column < stride) {
#pragma unroll 4
                for (int i = 0; i < count; i++) {
                    float row[PACK];
                    load_pack(row, dx + (first + matches[i]) * stride + column);
#pragma unroll
                    for (int j = 0; j < PACK; j++) sum[j] += row[j];
                }
            }
        }
        if (column < stride) {
            float out[PACK];
            load_pack(out, table + key * stride + column);
#pragma unroll
            for (int j = 0; j < PACK; j++) out[j] += scale * sum[j];
            store_pack(table + key * stride + column, out);
        }
    }
}

/* partial[n] = dx[n]·token row, a warp a token; padding is zero. */
template <typename S, typename R>
__global__ void __launch_bounds__(THREADS) scale_gradient_kernel(Embedding forward, const R *__restrict__ dx,
                                                                 float *__restrict__ partial, int64_t N) {
    const int64_t n = (int64_t)blockIdx.x * (THREADS / WARP) + threadIdx.x / WARP;
    const int64_t stride = row_stride(forward.C);
    if (n >= N) return;
    const S *token = static_cast<const S *>(forward.token_table) + forward.tokens[n] * stride;
    float sum = 0;
    for (int64_t column = threadIdx.x % WARP * PACK; column < stride; column += WARP * PACK) {
        float a[PACK], b[PACK];
        load_pack(a, dx + n * stride + column);
        load_pack(b, token + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += a[j] * b[j];
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) partial[n] = sum;
}

__global__ void __launch_bounds__(THREADS) add_scalar_kernel(float *out, const float *partial, int64_t n) {
    SHARED_ARRAY(double, buffer, WARP);
    double sum[1] = {0};
    for (int64_t i = threadIdx.x; i < n; i += THREADS) sum[0] += (double)partial[i];
    block_sum(sum, buffer);
    if (threadIdx.x == 0) *out = (float)((double)*out + sum[0]);
}

int64_t tokens_of(const Embedding *args) {
    const int64_t N = (int64_t)args->B * args->T;
    check(N <= INT32_MAX, "embedding: %lld tokens are more than a launch can hold", (long long)N);
    return N;
}

template <typename S, typename R> void run_forward(Queue *queue, const Embedding *args) {
    LAUNCH((embedding_forward_kernel<S, R>), (unsigned)tokens_of(args), THREADS, 0, queue->stream, *args);
}

template <typename S, typename R> void run_backward(Queue *queue, const EmbeddingBackward *args) {
    const Embedding *forward = args->forward;
    const int64_t N = tokens_of(forward);
    const R *dx = static_cast<const R *>(args->dx);
    const Keys tokens = {forward->tokens, forward->T}, positions = {forward->position, forward->T};
    if (args->dtoken_table)
        LAUNCH((add_rows_kernel<R>), (unsigned)N, THREADS, 0, queue->stream,
               static_cast<float *>(args->dtoken_table), dx, tokens, N, forward->C, forward->scale);
    if (args->dposition_table)
        LAUNCH((add_rows_kernel<R>), (unsigned)N, THREADS, 0, queue->stream,
               static_cast<float *>(args->dposition_table), dx, positions, N, forward->C,
               static_cast<const Accum *>(NULL));
    if (!args->dscale) return;
    float *partial = static_cast<float *>(cuda_scratch(queue, N * sizeof(float), "embedding_backward"));
    LAUNCH((scale_gradient_kernel<S, R>), (unsigned)ceil_div(N, THREADS / WARP), THREADS, 0, queue->stream,
           *forward, dx, partial, N);
    LAUNCH(add_scalar_kernel, 1, THREADS, 0, queue->stream, static_cast<float *>(args->dscale), partial, N);
}

} // namespace

template <typename S> void embedding_forward(Queue *queue, const Embedding *args) {
    if (tokens_of(args) == 0) return;
    if (args->residual_is_accum)
        run_forward<S, float>(queue, args);
    else
        run_forward<S, S>(queue, args);
}
INSTANTIATE(embedding_forward, Embedding);

template <typename S> void embedding_backward(Queue *queue, const EmbeddingBackward *args) {
    if (tokens_of(args->forward) == 0) return;
    if (args->forward->residual_is_accum)
        run_backward<S, float>(queue, args);
    else
        run_backward<S, S>(queue, args);
}
INSTANTIATE(embedding_backward, EmbeddingBackward);

size_t embedding_scratch(const Limits *limits) {
    return (size_t)limits->N * sizeof(float);
}
