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

/* --------------------------------------------------------------------------------------------------------
 * Tokens in the order of their keys: a stable radix sort, nine bits at a time, the lowest first. Where an
 * element comes to lie depends on the keys alone, not on which block or thread is first.
 * ------------------------------------------------------------------------------------------------------ */

constexpr int DIGIT_BITS = 9, DIGITS = 1 << DIGIT_BITS;
constexpr int SORT_CHUNK = DIGITS; /* elements, and threads, of a block: a thread has an element, and a digit */

__device__ __forceinline__ int digit_of(uint32_t key, int shift) {
    return (int)(key >> shift & (DIGITS - 1));
}

/* counts[digit · chunks + chunk]: how many elements of a chunk have that digit. A block a chunk. */
__global__ void __launch_bounds__(SORT_CHUNK)
    histogram_kernel(const uint32_t *__restrict__ keys, int64_t N, int shift, int *__restrict__ counts) {
    SHARED_ARRAY(int, bins, DIGITS);
    const int64_t n = (int64_t)blockIdx.x * SORT_CHUNK + threadIdx.x;
    bins[threadIdx.x] = 0;
    __syncthreads();
    if (n < N) atomicAdd(&bins[digit_of(keys[n], shift)], 1); /* of integers: any order gives the same */
    __syncthreads();
    counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = bins[threadIdx.x];
}

/* The sum over the lanes before this one. */
__device__ __forceinline__ int warp_exclusive_scan(int value) {
    const int lane = threadIdx.x % WARP;
    int sum = value;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        const int other = __shfl_up_sync(ALL_LANES, sum, distance);
        if (lane >= distance) sum += other;
    }
    return sum - value;
}

/* Each digit's counts become what the chunks before have of it, and totals[digit] their sum. A warp a digit. */
__global__ void __launch_bounds__(WARP)
    scan_kernel(int *__restrict__ counts, int chunks, int *__restrict__ totals) {
    int *row = counts + (int64_t)blockIdx.x * chunks;
    int total = 0;
    for (int first = 0; first < chunks; first += WARP) {
        const int i = first + (int)threadIdx.x, value = i < chunks ? row[i] : 0,
                  before = warp_exclusive_scan(value);
        if (i < chunks) row[i] = total + before;
        total += __shfl_sync(ALL_LANES, before + value, WARP - 1);
    }
    if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

/* Keys, and the token that each belongs to; order NULL: as they lie. */
struct Sorted {
    uint32_t *keys, *order;
};

/* Scatters a chunk's elements to where they belong by this digit: behind those of smaller digits, those of earlier chunks,
 * and those of this chunk before them. */
__global__ void __launch_bounds__(SORT_CHUNK)
    scatter_kernel(Sorted to, Sorted from, int64_t N, int shift, const int *__restrict__ before,
                   const int *__restrict__ totals) {
    SHARED_ARRAY(int, digits, SORT_CHUNK);
    SHARED_ARRAY(int, starts, DIGITS);
    SHARED_ARRAY(int, warp_sums, SORT_CHUNK / WARP);
    const int thread = (int)threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    const int64_t n = (int64_t)blockIdx.x * SORT_CHUNK + thread;
    const uint32_t key = n < N ? from.keys[n] : 0;
    const int digit = digit_of(key, shift);
    digits[thread] = digit;

    const int total = totals[thread], sum = warp_exclusive_scan(total);
    if (lane == WARP - 1) warp_sums[warp] = sum + total;
    __syncthreads();
    int start = sum + before[(int64_t)thread * gridDim.x + blockIdx.x];
    for (int i = 0; i < warp; i++) start += warp_sums[i];
    starts[thread] = start;
    __syncthreads();

    if (n >= N) return;
    int rank = 0;
    for (int i = 0; i < thread; i++) rank += digits[i] == digit;
    const int64_t at = starts[digit] + rank;
    to.keys[at] = key;
    to.order[at] = from.order ? from.order[n] : (uint32_t)n;
}

/* Scratch: two orders to go to and fro, and the counts. */
size_t sort_bytes(int64_t N) {
    return (4 * (size_t)N + (size_t)DIGITS * (size_t)ceil_div(N, SORT_CHUNK) + DIGITS) * sizeof(uint32_t);
}

/* The N tokens in the order of their keys, each below `end`, and of equal ones in their own; in scratch. */
Sorted sort_tokens(Queue *queue, const uint32_t *keys, int64_t N, int64_t end) {
    uint32_t *scratch = static_cast<uint32_t *>(cuda_scratch(queue, sort_bytes(N), "embedding_backward"));
    const unsigned chunks = (unsigned)ceil_div(N, SORT_CHUNK);
    Sorted from = {const_cast<uint32_t *>(keys), NULL}; /* only read */
    Sorted to = {scratch, scratch + N}, other = {scratch + 2 * N, scratch + 3 * N};
    int *counts = reinterpret_cast<int *>(scratch + 4 * N), *totals = counts + (int64_t)DIGITS * chunks;
    for (int shift = 0; shift == 0 || (end - 1) >> shift > 0; shift += DIGIT_BITS) {
        LAUNCH(histogram_kernel, chunks, SORT_CHUNK, 0, queue->stream, from.keys, N, shift, counts);
        LAUNCH(scan_kernel, DIGITS, WARP, 0, queue->stream, counts, (int)chunks, totals);
        LAUNCH(scatter_kernel, chunks, SORT_CHUNK, 0, queue->stream, to, from, N, shift, counts, totals);
        from = to;
        to = other, other = from;
    }
    return from;
}

/* --------------------------------------------------------------------------------------------------------
 * Gradients of the tables: table[key] += scale·Σ dx over all tokens with that key, in the order of the tokens
 * ------------------------------------------------------------------------------------------------------ */

/* Adds rows of dx, a pack of each, in their order: of `count` tokens, the i-th of which is token(i). */
template <typename R, typename Token>
__device__ __forceinline__ void add_rows(float (&sum)[PACK], const R *__restrict__ dx, int64_t stride,
                                         int64_t column, int count, Token token) {
#pragma unroll 8
    for (int i = 0; i < count; i++) {
        float row[PACK];
        load_pack(row, dx + token(i) * stride + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] += row[j];
    }
}

__device__ __forceinline__ void add_to_table(float *row, const float (&sum)[PACK], float scale) {
    float out[PACK];
    load_pack(out, row);
#pragma unroll
    for (int j = 0; j < PACK; j++) out[j] += scale * sum[j];
    store_pack(row, out);
}

/* A block an entry of the order: that of a key's first token owns the key, the others exit. It takes up to 128 tokens
 * at a time; a thread owns a pack of columns. */
template <typename R>
__global__ void __launch_bounds__(THREADS)
    add_sorted_rows_kernel(float *__restrict__ table, const R *__restrict__ dx, Sorted sorted, int64_t N, int C,
                           const Accum *scale_pointer) {
    SHARED_ARRAY(uint32_t, tokens, THREADS);
    const int64_t entry = blockIdx.x, stride = row_stride(C);
    const uint32_t key = sorted.keys[entry];
    if (entry > 0 && sorted.keys[entry - 1] == key) return;
    const float scale = scale_pointer ? *static_cast<const float *>(scale_pointer) : 1.0f;
    for (int64_t column0 = 0; column0 < stride; column0 += THREADS * PACK) {
        const int64_t column = column0 + threadIdx.x * PACK;
        float sum[PACK];
        fill_pack(sum, 0);
        int count = THREADS;
        for (int64_t first = entry; count == THREADS; first += THREADS) {
            const int64_t n = first + threadIdx.x;
            const bool match = n < N && sorted.keys[n] == key;
            __syncthreads(); /* the list may still be read */
            if (match) tokens[threadIdx.x] = sorted.order[n];
            count = __syncthreads_count(match);
            if (column < stride)
                add_rows(sum, dx, stride, column, count, [&](int i) { return (int64_t)tokens[i]; });
        }
        if (column < stride) add_to_table(table + key * stride + column, sum, scale);
    }
}

/* Without positions of their own, tokens have their time steps: t, T + t, … A block a time step. */
template <typename R>
__global__ void __launch_bounds__(THREADS)
    add_time_steps_kernel(float *__restrict__ table, const R *__restrict__ dx, int B, int T, int C) {
    const int64_t t = blockIdx.x, stride = row_stride(C);
    for (int64_t column = threadIdx.x * PACK; column < stride; column += THREADS * PACK) {
        float sum[PACK];
        fill_pack(sum, 0);
        add_rows(sum, dx, stride, column, B, [&](int i) { return (int64_t)i * T + t; });
        add_to_table(table + t * stride + column, sum, 1);
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

/* table[key of n] += scale·dx[n], by the order of the keys. */
template <typename R>
void add_by_key(Queue *queue, Accum *table, const R *dx, const uint32_t *keys, int64_t end,
                const Embedding *forward, const Accum *scale) {
    const int64_t N = tokens_of(forward);
    const Sorted sorted = sort_tokens(queue, keys, N, end);
    LAUNCH((add_sorted_rows_kernel<R>), (unsigned)N, THREADS, 0, queue->stream, static_cast<float *>(table), dx,
           sorted, N, forward->C, scale);
}

template <typename S, typename R> void run_backward(Queue *queue, const EmbeddingBackward *args) {
    const Embedding *forward = args->forward;
    const int64_t N = tokens_of(forward), any_position = (int64_t)UINT32_MAX + 1;
    const R *dx = static_cast<const R *>(args->dx);
    if (args->dtoken_table)
        add_by_key(queue, args->dtoken_table, dx, forward->tokens, forward->V, forward, forward->scale);
    if (args->dposition_table && forward->position)
        add_by_key(queue, args->dposition_table, dx, forward->position, any_position, forward,
                   static_cast<const Accum *>(NULL));
    else if (args->dposition_table)
        LAUNCH((add_time_steps_kernel<R>), (unsigned)forward->T, THREADS, 0, queue->stream,
               static_cast<float *>(args->dposition_table), dx, forward->B, forward->T, forward->C);
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
    return sort_bytes(limits->N);
}
