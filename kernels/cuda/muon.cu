/*
 * muon.cu: what Muon does around its matrix products: momentum and update over the arenas, a matrix into and out of
 * Newton–Schulz, the sums of its polynomial.
 *
 * Bytes an element: momentum reads 12 and writes 8, the update reads 8 and writes 4, a copy moves 6 in bf16
 * and 8 in fp32, axpby 6 or 12. A matrix of n elements and lesser side m takes 5·(4 + 2·m/larger side)·m·n FLOP in products;
 * its passes beside them are some 60 bytes an element in bf16, which from m of some hundreds on is little beside the products.
 */
#include "slots.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 128;
constexpr int64_t CHUNK = 4 * THREADS * PACK; /* elements a block */

__device__ void count_lost(StepState *state, unsigned long long lost) {
    if (lost > 0) atomicAdd(reinterpret_cast<unsigned long long *>(&state->non_finite), lost);
}

/* --------------------------------------------------------------------------------------------------------
 * Over the arenas. As in AdamW a pack of 8 never straddles two slots.
 * ------------------------------------------------------------------------------------------------------ */

__global__ void __launch_bounds__(THREADS) muon_momentum_kernel(MuonMomentum args) {
    StepState *state = args.state;
    if (state->skip != SKIP_NONE) return;
    unsigned long long lost = 0;
    const float momentum = (float)args.momentum, rest = (float)(1.0 - args.momentum);
    const int64_t first = args.begin + blockIdx.x * CHUNK, last = min(first + CHUNK, args.end);
    const float *__restrict__ grad = static_cast<const float *>(args.grad);
    float *__restrict__ moment = static_cast<float *>(args.m);
    float *__restrict__ out = static_cast<float *>(args.out);

    int slot = find_slot(args.slots, args.n_slots, first);
    for (int64_t i = first + threadIdx.x * PACK; i < last; i += blockDim.x * PACK) {
        while (slot + 1 < args.n_slots && args.slots[slot + 1].offset <= i) slot++;
        float m[PACK], g[PACK], nesterov[PACK] = {};
        if (args.slots[slot].optimizer == OPTIMIZER_MUON) {
            const float clip = (float)state->clip_scale[args.slots[slot].clip_group];
            load_pack(g, grad + i);
            load_pack(m, moment + i);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float clipped = clip * g[j];
                m[j] += rest * (clipped - m[j]);
                nesterov[j] = clipped + momentum * (m[j] - clipped);
                if (!isfinite(m[j])) lost++;
            }
            store_pack(moment + i, m);
        }
        store_pack(out + i, nesterov);
    }
    count_lost(state, lost);
}

template <bool HALVES> __global__ void __launch_bounds__(THREADS) muon_update_kernel(MuonUpdate args) {
    StepState *state = args.state;
    if (state->skip != SKIP_NONE) return;
    unsigned long long lost = 0;
    const int64_t first = args.begin + blockIdx.x * CHUNK, last = min(first + CHUNK, args.end);
    const float *__restrict__ direction = static_cast<const float *>(args.direction);

    int slot = find_slot(args.slots, args.n_slots, first);
    for (int64_t i = first + threadIdx.x * PACK; i < last; i += blockDim.x * PACK) {
        while (slot + 1 < args.n_slots && args.slots[slot + 1].offset <= i) slot++;
        if (args.slots[slot].optimizer != OPTIMIZER_MUON) continue;
        const float lr = (float)(state->in.lr * args.slots[slot].lr_scale), decay = (float)args.slots[slot].weight_decay;
        float w[PACK], d[PACK];
        load_masters<HALVES>(w, args, i);
        load_pack(d, direction + i);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            w[j] -= lr * (d[j] + decay * w[j]);
            if (!is_held<HALVES>(w[j])) lost++;
        }
        if (HALVES && lost > 0)
            for (int j = 0; j < PACK; j++) w[j] = quiet(w[j]);
        store_masters<HALVES>(args, i, w);
    }
    count_lost(state, lost);
}

/* --------------------------------------------------------------------------------------------------------
 * Into and out of Newton–Schulz
 * ------------------------------------------------------------------------------------------------------ */

__device__ __forceinline__ float factor_of(const ScaledCopy &args) {
    return (float)(args.sum_squares ? args.scale / fmax(sqrt(*args.sum_squares), args.eps) : args.scale);
}

/* A thread a pack; what is padding in src, and so 0, is 0 in dst. */
template <typename From, typename To>
__global__ void __launch_bounds__(THREADS) scaled_rows_kernel(ScaledCopy args, int64_t packs) {
    const int64_t pack = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (pack >= packs) return;
    const float factor = factor_of(args);
    float value[PACK];
    load_pack(value, static_cast<const From *>(args.src) + pack * PACK);
#pragma unroll
    for (int j = 0; j < PACK; j++) value[j] *= factor;
    clear_padding(value, (int)(pack * PACK % row_stride(args.cols)), args.cols);
    store_pack(static_cast<To *>(args.dst) + pack * PACK, value);
}

/* A block a tile of 32 × 32, by way of shared memory, so that both sides are read and written along rows. */
constexpr int TILE = 32, TILE_ROWS = THREADS / TILE;

template <typename From, typename To>
__global__ void __launch_bounds__(THREADS) scaled_columns_kernel(ScaledCopy args, int64_t tiles_across) {
    SHARED_ARRAY(float, tile, TILE *(TILE + 1));
    const From *src = static_cast<const From *>(args.src);
    To *dst = static_cast<To *>(args.dst);
    const int64_t row = blockIdx.x / tiles_across * TILE, column = blockIdx.x % tiles_across * TILE;
    const int x = threadIdx.x % TILE, y = threadIdx.x / TILE;
    const int64_t src_stride = row_stride(args.cols), dst_stride = row_stride(args.rows);
    const float factor = factor_of(args);
    for (int r = y; r < TILE && row + r < args.rows; r += TILE_ROWS)
        if (column + x < args.cols) tile[r * (TILE + 1) + x] = factor * to_float(src[(row + r) * src_stride + column + x]);
    __syncthreads();
    for (int c = y; c < TILE && column + c < args.cols; c += TILE_ROWS)
        if (row + x < args.rows) dst[(column + c) * dst_stride + row + x] = from_float<To>(tile[x * (TILE + 1) + c]);
}

template <typename From, typename To> void copy_scaled(Queue *queue, const ScaledCopy *args) {
    if (args->transpose) {
        const int64_t across = ceil_div(args->cols, TILE), down = ceil_div(args->rows, TILE);
        LAUNCH((scaled_columns_kernel<From, To>), (unsigned)(across * down), THREADS, 0, queue->stream, *args, across);
    } else {
        const int64_t packs = args->rows * row_stride(args->cols) / PACK;
        LAUNCH((scaled_rows_kernel<From, To>), chunks_of(packs, THREADS, "scaled_copy"), THREADS, 0, queue->stream, *args,
               packs);
    }
}

template <typename S>
__global__ void __launch_bounds__(THREADS) axpby_kernel(float a, float b, const S *__restrict__ x, S *__restrict__ y, int64_t n) {
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
    if (i >= n) return;
    float from[PACK], to[PACK];
    load_pack(from, x + i);
    load_pack(to, y + i);
#pragma unroll
    for (int j = 0; j < PACK; j++) to[j] = a * from[j] + b * to[j];
    store_pack(y + i, to);
}

} // namespace

void muon_momentum(Queue *queue, const MuonMomentum *args) {
    if (args->begin >= args->end) return;
    LAUNCH(muon_momentum_kernel, chunks_of(args->end - args->begin, CHUNK, "muon_momentum"), THREADS, 0, queue->stream, *args);
}

void muon_update(Queue *queue, const MuonUpdate *args) {
    if (args->begin >= args->end) return;
    const unsigned chunks = chunks_of(args->end - args->begin, CHUNK, "muon_update");
    if (args->lower) LAUNCH((muon_update_kernel<true>), chunks, THREADS, 0, queue->stream, *args);
    else LAUNCH((muon_update_kernel<false>), chunks, THREADS, 0, queue->stream, *args);
}

template <typename S> void scaled_copy(Queue *queue, const ScaledCopy *args) {
    if (args->rows <= 0 || args->cols <= 0) return;
    if (args->narrow) copy_scaled<float, S>(queue, args);
    else copy_scaled<S, float>(queue, args);
}
INSTANTIATE(scaled_copy, ScaledCopy);

template <typename S> void axpby(Queue *queue, const Axpby *args) {
    if (args->n <= 0) return;
    LAUNCH((axpby_kernel<S>), chunks_of(args->n, THREADS * PACK, "axpby"), THREADS, 0, queue->stream, (float)args->a,
           (float)args->b, static_cast<const S *>(args->x), static_cast<S *>(args->y), args->n);
}
INSTANTIATE(axpby, Axpby);
