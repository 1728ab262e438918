/*
 * step.cu: what happens once a step: the loss and the gradient norm, the decision to clip or skip, AdamW; and
 * conversion between types. All of it is driven by the StepState on the device, so that nothing here is an
 * argument that changes from step to step.
 */
#include "slots.cuh"

#include <math.h>

namespace {

constexpr int THREADS = 128;

/* --------------------------------------------------------------------------------------------------------
 * Begin, loss, squares
 * ------------------------------------------------------------------------------------------------------ */

__global__ void step_begin_kernel(StepState *state) {
    if (threadIdx.x != 0) return;
    state->loss_sum = 0;
    state->non_finite = 0;
    for (int group = 0; group < CLIP_GROUPS; group++) state->sum_squares[group] = 0;
}

/* One block, of as many threads as there can be, each with sixteen loads in flight: the latency of a load is nearly all
 * that this takes. */
constexpr int LOSS_THREADS = 1024;

__global__ void __launch_bounds__(LOSS_THREADS)
    loss_reduce_kernel(const float *__restrict__ losses, int64_t n, StepState *state) {
    SHARED_ARRAY(double, buffer, WARP);
    double sum[1] = {0};
#pragma unroll 16
    for (int64_t i = threadIdx.x; i < n; i += LOSS_THREADS) sum[0] += (double)losses[i];
    block_sum(sum, buffer);
    if (threadIdx.x == 0) state->loss_sum += sum[0];
}

/*
 * Σ grad² in two passes. First pass: one block a chunk of 65,536 elements; 512 floats a thread are squared
 * and added in fp32, then in fp64. Bytes: 4 an element. Where fp32 has no room for the sum (elements over 1.8e19: inf;
 * under 1e-19: their squares lose digits), the thread goes over its elements again in fp64.
 */
constexpr int64_t SQUARES_CHUNK = 65536;
constexpr float SQUARES_LEAST = 1e-30f, SQUARES_MOST = 3e38f; /* a thread's sum that fp32 holds */

__global__ void __launch_bounds__(THREADS) sum_squares_chunks(const float *__restrict__ grad, int64_t begin,
                                                              int64_t end, double *__restrict__ partial) {
    SHARED_ARRAY(double, buffer, WARP);
    const int64_t first = begin + blockIdx.x * SQUARES_CHUNK;
    const int64_t last = min(first + SQUARES_CHUNK, end);
    float sum = 0, largest = 0;
    for (int64_t i = first + threadIdx.x * PACK; i < last; i += blockDim.x * PACK) {
        float g[PACK];
        load_pack(g, grad + i);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            sum += g[j] * g[j];
            largest = fmaxf(largest, fabsf(g[j]));
        }
    }
    double total[1] = {(double)sum};
    if (largest > 0 && !(sum >= SQUARES_LEAST && sum <= SQUARES_MOST)) {
        total[0] = 0;
        for (int64_t i = first + threadIdx.x * PACK; i < last; i += blockDim.x * PACK)
            for (int j = 0; j < PACK; j++) total[0] += (double)grad[i + j] * (double)grad[i + j];
    }
    block_sum(total, buffer);
    if (threadIdx.x == 0) partial[blockIdx.x] = total[0];
}

/* Second pass: one block. Gates are a handful of vectors of one padded element each, so they are read again.
 */
__global__ void sum_squares_finish(const double *__restrict__ partial, int64_t chunks,
                                   const float *__restrict__ grad, int64_t begin, int64_t end,
                                   const ParamSlot *__restrict__ slots, int n_slots, StepState *state) {
    SHARED_ARRAY(double, buffer, 2 * WARP);
    double sum[2] = {0, 0};
    for (int64_t i = threadIdx.x; i < chunks; i += blockDim.x) sum[CLIP_ALL] += partial[i];
    for (int slot = threadIdx.x; slot < n_slots; slot += blockDim.x) {
        if (slots[slot].clip_group != CLIP_GATES) continue;
        const int64_t first = max(slots[slot].offset, begin);
        const int64_t last = min(slots[slot].offset + slots[slot].count, end);
        for (int64_t i = first; i < last; i++) sum[CLIP_GATES] += (double)grad[i] * (double)grad[i];
    }
    block_sum(sum, buffer);
    if (threadIdx.x == 0) {
        state->sum_squares[CLIP_ALL] += sum[CLIP_ALL];
        state->sum_squares[CLIP_GATES] += sum[CLIP_GATES];
    }
}

/* --------------------------------------------------------------------------------------------------------
 * The decision
 * ------------------------------------------------------------------------------------------------------ */

/* Whether value lies more than sigma population standard deviations above the full window's mean. All is
 * taken relative to the first entry: a window of equal values then has exactly that mean and no deviation. */
__device__ bool is_spike(const double *window, double value, double sigma) {
    double mean = 0, squares = 0;
#pragma unroll 8
    for (int i = 0; i < SKIP_WINDOW; i++) mean += (window[i] - window[0]) / SKIP_WINDOW;
#pragma unroll 8
    for (int i = 0; i < SKIP_WINDOW; i++) {
        const double deviation = window[i] - window[0] - mean;
        squares += deviation * deviation;
    }
    return value - window[0] - mean > sigma * sqrt(squares / SKIP_WINDOW);
}

__device__ SkipReason skip_reason(const StepState *state, double loss, double sigma) {
    if (!isfinite(loss) || !isfinite(state->grad_norm)) return SKIP_NON_FINITE;
    if (sigma <= 0 || state->window_count < SKIP_WINDOW) return SKIP_NONE;
    if (is_spike(state->loss_window, loss, sigma)) return SKIP_LOSS_SPIKE;
    if (is_spike(state->norm_window, state->grad_norm, sigma)) return SKIP_NORM_SPIKE;
    return SKIP_NONE;
}

__device__ double clip_factor(double norm, double limit, double eps) {
    return limit > 0 && norm + eps > limit ? limit / (norm + eps) : 1;
}

/* One thread: two windows of 128 doubles, once a step. */
__global__ void step_decide_kernel(StepDecide args) {
    if (threadIdx.x != 0) return;
    StepState *state = args.state;
    const double loss = state->loss_sum * state->in.loss_scale;
    state->grad_norm = sqrt(state->sum_squares[CLIP_ALL]);
    const double clip = clip_factor(state->grad_norm, args.grad_clip, args.clip_eps);
    state->gate_norm = sqrt(state->sum_squares[CLIP_GATES]) * clip;
    state->clip_scale[CLIP_ALL] = clip;
    state->clip_scale[CLIP_GATES] = clip * clip_factor(state->gate_norm, args.gate_clip, args.clip_eps);

    state->skip = skip_reason(state, loss, args.skip_sigma);
    if (state->skip != SKIP_NONE) {
        /* A spike is finite: it ends a row of steps that are not. */
        state->skips_in_a_row = state->skip == SKIP_NON_FINITE ? state->skips_in_a_row + 1 : 0;
        return;
    }
    state->skips_in_a_row = 0;
    state->applied++;
    state->bias_correction[0] = 1 - pow(args.beta1, (double)state->applied);
    state->bias_correction[1] = 1 - pow(args.beta2, (double)state->applied);
    state->loss_window[state->window_next] = loss;
    state->norm_window[state->window_next] = state->grad_norm;
    state->window_next = (state->window_next + 1) % SKIP_WINDOW;
    if (state->window_count < SKIP_WINDOW) state->window_count++;
}

/* --------------------------------------------------------------------------------------------------------
 * AdamW
 * ------------------------------------------------------------------------------------------------------ */

constexpr int64_t ADAMW_CHUNK = 4 * THREADS * PACK; /* elements a block */

/* What one update needs of the state and of the parameter that an element belongs to. */
struct AdamWFactors {
    float clip, lr, decay;
};

__device__ AdamWFactors adamw_factors(const ParamSlot &slot, const StepState *state) {
    AdamWFactors factors;
    factors.clip = (float)state->clip_scale[slot.clip_group];
    factors.lr = (float)(state->in.lr * slot.lr_scale);
    factors.decay = (float)slot.weight_decay;
    return factors;
}

/*
 * One kernel for all parameters: a block takes 4,096 consecutive elements, finds the slot of the first by binary
 * search and steps to the next slots from there. A pack of 8 never straddles two slots (offsets are multiples of
 * 64). Bytes an element: reads master, grad, m, v (16), writes master, m, v (12): 28, in halves too. Elements that are
 * lost are counted by an integer atomic, which no healthy step comes to.
 */
template <bool HALVES> __global__ void __launch_bounds__(THREADS) adamw_kernel(AdamW args) {
    StepState *state = args.state;
    if (state->skip != SKIP_NONE) return;
    unsigned long long lost = 0;
    const float beta1 = (float)args.beta1, beta2 = (float)args.beta2, eps = (float)args.eps;
    const float rest1 = (float)(1.0 - args.beta1), rest2 = (float)(1.0 - args.beta2);
    const float correct1 = (float)(1.0 / state->bias_correction[0]);
    const float correct2 = (float)(1.0 / state->bias_correction[1]);

    const int64_t first = args.begin + blockIdx.x * ADAMW_CHUNK;
    const int64_t last = min(first + ADAMW_CHUNK, args.end);
    const float *__restrict__ grad = static_cast<const float *>(args.grad);
    float *__restrict__ first_moment = static_cast<float *>(args.m);
    float *__restrict__ second_moment = static_cast<float *>(args.v);

    int slot = find_slot(args.slots, args.n_slots, first);
    AdamWFactors factors = adamw_factors(args.slots[slot], state);
    for (int64_t i = first + threadIdx.x * PACK; i < last; i += blockDim.x * PACK) {
        while (slot + 1 < args.n_slots && args.slots[slot + 1].offset <= i)
            factors = adamw_factors(args.slots[++slot], state);
        float w[PACK], g[PACK], m[PACK], v[PACK];
        load_masters<HALVES>(w, args, i);
        load_pack(g, grad + i);
        load_pack(m, first_moment + i);
        load_pack(v, second_moment + i);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            const float clipped = factors.clip * g[j];
            m[j] = beta1 * m[j] + rest1 * clipped;
            v[j] = beta2 * v[j] + rest2 * clipped * clipped;
            const float root = sqrtf(v[j] * correct2) + eps; /* 0 only with ε = 0, then padding stays zero */
            const float update = root > 0 ? m[j] * correct1 / root : 0;
            w[j] -= factors.lr * (update + factors.decay * w[j]);
            if (!isfinite(m[j]) || !isfinite(v[j]) || !is_held<HALVES>(w[j])) lost++;
        }
        if (HALVES && lost > 0)
            for (int j = 0; j < PACK; j++) w[j] = quiet(w[j]);
        store_masters<HALVES>(args, i, w);
        store_pack(first_moment + i, m);
        store_pack(second_moment + i, v);
    }
    if (lost > 0) atomicAdd(reinterpret_cast<unsigned long long *>(&state->non_finite), lost);
}

/* --------------------------------------------------------------------------------------------------------
 * Conversion
 * ------------------------------------------------------------------------------------------------------ */

template <typename To, typename From> __device__ __forceinline__ To converted(From value) {
    return from_float<To>(to_float(value));
}
template <> __device__ __forceinline__ double converted<double, double>(double value) {
    return value;
}
template <> __device__ __forceinline__ double converted<double, float>(float value) {
    return (double)value;
}
template <> __device__ __forceinline__ double converted<double, bf16>(bf16 value) {
    return (double)to_float(value);
}
template <> __device__ __forceinline__ float converted<float, double>(double value) {
    return (float)value;
}
/* By way of a float rounded to odd (cut, and its last bit set if anything was cut off), which leaves the
 * second rounding as it would have been: no double rounding. */
template <> __device__ __forceinline__ bf16 converted<bf16, double>(double value) {
    const float nearest = (float)value;
    uint32_t bits = __float_as_uint(nearest);
    if (fabs((double)nearest) > fabs(value)) bits--;
    if ((double)nearest != value) bits |= 1;
    return from_float<bf16>(__uint_as_float(bits));
}

template <typename To, typename From>
__global__ void __launch_bounds__(THREADS)
    cast_kernel(To *__restrict__ dst, const From *__restrict__ src, int64_t n) {
    const int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        dst[i] = converted<To, From>(src[i]);
}

template <typename To, typename From> void cast_as(Queue *queue, const Cast *args) {
    const int64_t blocks = ceil_div(args->n, THREADS);
    LAUNCH((cast_kernel<To, From>), (unsigned)(blocks < 65536 ? blocks : 65536), THREADS, 0, queue->stream,
           static_cast<To *>(args->dst), static_cast<const From *>(args->src), args->n);
}

template <typename From> void cast_from(Queue *queue, const Cast *args) {
    if (args->to == DTYPE_F32)
        cast_as<float, From>(queue, args);
    else if (args->to == DTYPE_BF16)
        cast_as<bf16, From>(queue, args);
    else
        cast_as<double, From>(queue, args);
}

/* A thread an element: it is not done in a step. Where S is float both sides are the same. */
template <typename S> __global__ void __launch_bounds__(THREADS) halves_kernel(Halves args) {
    const int64_t stride = (int64_t)gridDim.x * blockDim.x;
    float *__restrict__ master = static_cast<float *>(args.master);
    uint16_t *__restrict__ upper = static_cast<uint16_t *>(args.storage), *__restrict__ lower = args.lower;
    float *__restrict__ same = static_cast<float *>(args.storage);
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < args.n; i += stride) {
        if constexpr (sizeof(S) == sizeof(float)) {
            (args.join ? master : same)[i] = (args.join ? same : master)[i];
        } else if (args.join) {
            master[i] = __uint_as_float(((uint32_t)upper[i] << 16) + (uint32_t)(int32_t)(int16_t)lower[i]);
        } else {
            upper[i] = (uint16_t)upper_pair(quiet(master[i]), 0);
            if (lower) lower[i] = (uint16_t)__float_as_uint(master[i]);
        }
    }
}

} // namespace

void step_begin(Queue *queue, const StepBegin *args) {
    LAUNCH(step_begin_kernel, 1, WARP, 0, queue->stream, args->state);
}

void loss_reduce(Queue *queue, const LossReduce *args) {
    LAUNCH(loss_reduce_kernel, 1, LOSS_THREADS, 0, queue->stream, static_cast<const float *>(args->losses),
           args->N, args->state);
}

void sum_squares(Queue *queue, const SumSquares *args) {
    if (args->begin >= args->end) return;
    const unsigned chunks = chunks_of(args->end - args->begin, SQUARES_CHUNK, "sum_squares");
    double *partial = static_cast<double *>(cuda_scratch(queue, chunks * sizeof(double), "sum_squares"));
    const float *grad = static_cast<const float *>(args->grad);
    LAUNCH(sum_squares_chunks, chunks, THREADS, 0, queue->stream, grad, args->begin, args->end, partial);
    LAUNCH(sum_squares_finish, 1, THREADS, 0, queue->stream, partial, (int64_t)chunks, grad, args->begin,
           args->end, args->slots, args->n_slots, args->state);
}

void step_decide(Queue *queue, const StepDecide *args) {
    LAUNCH(step_decide_kernel, 1, WARP, 0, queue->stream, *args);
}

void adamw(Queue *queue, const AdamW *args) {
    if (args->begin >= args->end) return;
    const unsigned chunks = chunks_of(args->end - args->begin, ADAMW_CHUNK, "adamw");
    if (args->lower) LAUNCH((adamw_kernel<true>), chunks, THREADS, 0, queue->stream, *args);
    else LAUNCH((adamw_kernel<false>), chunks, THREADS, 0, queue->stream, *args);
}

void cast(Queue *queue, const Cast *args) {
    if (args->n <= 0) return;
    if (args->from == DTYPE_F32)
        cast_from<float>(queue, args);
    else if (args->from == DTYPE_BF16)
        cast_from<bf16>(queue, args);
    else
        cast_from<double>(queue, args);
}

template <typename S> void halves(Queue *queue, const Halves *args) {
    if (args->n <= 0) return;
    const int64_t blocks = ceil_div(args->n, THREADS);
    LAUNCH((halves_kernel<S>), (unsigned)(blocks < 65536 ? blocks : 65536), THREADS, 0, queue->stream, *args);
}
INSTANTIATE(halves, Halves);

size_t step_scratch(const Limits *limits) {
    return (size_t)ceil_div(limits->parameters, SQUARES_CHUNK) * sizeof(double);
}
