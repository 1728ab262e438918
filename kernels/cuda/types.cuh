/*
 * types.cuh: what the kernels of this folder share: the two storage types behind one source, packs of eight
 * elements, sums over a row, the queue, and the list of operations.
 *
 * Every operation is a function template over the storage type S (float or bf16) and, where the residual
 * stream is touched, kernels over its type R (S, or float). A file instantiates its operations once for both
 * (INSTANTIATE below), and backend.cu puts the two sets into the two tables. Accum is float in both.
 *
 * Memory moves in packs: 8 consecutive elements that start at a multiple of 8 of a row, so 16 bytes of bf16
 * or twice 16 bytes of float (or in half packs of 4, where D/2 of a head is a multiple of no more). The contract makes that safe: tensors start at multiples of 256 bytes and rows
 * are padded to 64 elements. Inside a kernel everything is float; store_pack rounds to nearest even.
 */
#ifndef TYPES_CUH
#define TYPES_CUH

#include "cuda.cuh"
#include "../kernels.h"

#include <type_traits>

typedef __nv_bfloat16 bf16;

/* The stream that a queue is, and the scratch area that its operations share, one after the other. */
struct Queue {
    cudaStream_t stream;
    void *scratch; /* 256-byte aligned device memory */
    size_t scratch_bytes;
};

/* The queue's scratch area, which stays the queue's: what lies there is lost to the next operation. Exit 1, with
 * `operation` named, where it holds fewer bytes. */
void *cuda_scratch(Queue *queue, size_t bytes, const char *operation);

/* --------------------------------------------------------------------------------------------------------
 * Elements and packs
 * ------------------------------------------------------------------------------------------------------ */

constexpr int PACK = 8, HALF_PACK = 4;
constexpr int WARP = 32;

/* How a value that is known when a kernel is launched becomes a template argument: dispatch_…(value, launch) calls the
 * lambda `launch` with one of these, whose operator() (or type) is a constant:
 *
 *     dispatch_head_size(D, [&](auto D, auto M_TILES) { run_forward<D(), M_TILES()>(queue, args); });
 */
template <auto VALUE> using Constant = std::integral_constant<decltype(VALUE), VALUE>;
template <typename T> struct Type { using type = T; };

/* Blocks a multiprocessor for __launch_bounds__, where ptxas would else spill for the sake of one more. */
constexpr int NO_SPILLS = 1;
constexpr unsigned ALL_LANES = 0xffffffffu;

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
__host__ __device__ inline int64_t row_stride(int64_t n) {
    return (n + 63) / 64 * 64;
} /* padded() on both */

__device__ __forceinline__ float to_float(float value) {
    return value;
}
__device__ __forceinline__ float to_float(bf16 value) {
    return __bfloat162float(value);
}

template <typename T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float value) {
    return __float2bfloat16(value);
}

template <int COUNT> struct alignas(COUNT * sizeof(bf16)) Bf16Pack { bf16 element[COUNT]; };

__device__ __forceinline__ void load_pack(float (&out)[PACK], const float *in) {
    const float4 low = *reinterpret_cast<const float4 *>(in);
    const float4 high = *reinterpret_cast<const float4 *>(in + 4);
    out[0] = low.x, out[1] = low.y, out[2] = low.z, out[3] = low.w;
    out[4] = high.x, out[5] = high.y, out[6] = high.z, out[7] = high.w;
}

__device__ __forceinline__ void load_pack(float (&out)[HALF_PACK], const float *in) {
    const float4 half = *reinterpret_cast<const float4 *>(in);
    out[0] = half.x, out[1] = half.y, out[2] = half.z, out[3] = half.w;
}

template <int COUNT> __device__ __forceinline__ void load_pack(float (&out)[COUNT], const bf16 *in) {
    static_assert(COUNT == PACK || COUNT == HALF_PACK, "16 or 8 bytes");
    const Bf16Pack<COUNT> pack = *reinterpret_cast<const Bf16Pack<COUNT> *>(in);
#pragma unroll
    for (int i = 0; i < COUNT; i++) out[i] = __bfloat162float(pack.element[i]);
}

/* __stwb stores as any store does, but 16 bytes at once: of a plain one the compiler makes four of 4 bytes where it cannot
 * follow the values (nvcc 13.0 did in AdamW's copy and in the activation). */
__device__ __forceinline__ void store_pack(float *out, const float (&in)[PACK]) {
    __stwb(reinterpret_cast<float4 *>(out), make_float4(in[0], in[1], in[2], in[3]));
    __stwb(reinterpret_cast<float4 *>(out + 4), make_float4(in[4], in[5], in[6], in[7]));
}

/* Two bf16 in 32 bits, the lower first: one instruction rounds both. */
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&pair);
}

__device__ __forceinline__ void store_pack(bf16 *out, const float (&in)[PACK]) {
    const uint4 words = {pack_bf16(in[0], in[1]), pack_bf16(in[2], in[3]), pack_bf16(in[4], in[5]),
                         pack_bf16(in[6], in[7])};
    __stwb(reinterpret_cast<uint4 *>(out), words);
}

__device__ __forceinline__ void store_pack(float *out, const float (&in)[HALF_PACK]) {
    *reinterpret_cast<float4 *>(out) = make_float4(in[0], in[1], in[2], in[3]);
}

__device__ __forceinline__ void store_pack(bf16 *out, const float (&in)[HALF_PACK]) {
    Bf16Pack<HALF_PACK> half;
#pragma unroll
    for (int i = 0; i < HALF_PACK; i++) half.element[i] = __float2bfloat16(in[i]);
    *reinterpret_cast<Bf16Pack<HALF_PACK> *>(out) = half;
}

/* The pack as it will be read back from a tensor of type T, two elements an instruction. */
template <typename T> __device__ __forceinline__ void round_pack(float (&pack)[PACK]) {
    if constexpr (sizeof(T) == sizeof(bf16)) {
#pragma unroll
        for (int i = 0; i < PACK; i += 2) {
            const uint32_t pair = pack_bf16(pack[i], pack[i + 1]);
            pack[i] = __uint_as_float(pair << 16), pack[i + 1] = __uint_as_float(pair & 0xffff0000u);
        }
    }
}

__device__ __forceinline__ void fill_pack(float (&out)[PACK], float value) {
#pragma unroll
    for (int i = 0; i < PACK; i++) out[i] = value;
}

/* Zeroes what lies past the end of a row of C. */
__device__ __forceinline__ void clear_padding(float (&pack)[PACK], int column, int C) {
    if (column + PACK <= C) return;
#pragma unroll
    for (int i = 0; i < PACK; i++) pack[i] = column + i < C ? pack[i] : 0;
}

/* --------------------------------------------------------------------------------------------------------
 * Sums. The order is fixed by the number of threads, and every thread of the warp or block gets the same
 * bits.
 * ------------------------------------------------------------------------------------------------------ */

template <typename T> __device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

/* Sums `COUNT` values at once over a block of one dimension, at the price of one exchange; all its threads
 * call. `buffer` is shared memory for COUNT · 32 values of T. */
template <int COUNT, typename T> __device__ __forceinline__ void block_sum(T (&value)[COUNT], T *buffer) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = warp_sum(value[i]);
    if (warps == 1) return;
    __syncthreads(); /* the buffer may still be read from the call before */
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) buffer[i * WARP + warp] = value[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < COUNT; i++) value[i] = warp_sum(lane < warps ? buffer[i * WARP + lane] : T(0));
}

/* --------------------------------------------------------------------------------------------------------
 * The operations of this folder (kernels.h says what each takes and gives; they queue work and return), and the
 * bytes of scratch that each file needs for the largest shapes of a run
 * ------------------------------------------------------------------------------------------------------ */

template <typename S> void embedding_forward(Queue *, const Embedding *);
template <typename S> void embedding_backward(Queue *, const EmbeddingBackward *);
template <typename S> void linear_forward(Queue *, const Linear *);
template <typename S> void linear_backward_input(Queue *, const LinearBackward *);
template <typename S> void linear_backward_weight(Queue *, const LinearBackward *);
template <typename S> void attention_forward(Queue *, const Attention *);
template <typename S> void attention_backward(Queue *, const AttentionBackward *);
template <typename S> void attention_decode(Queue *, const AttentionDecode *);
template <typename S> void qkv_forward(Queue *, const Qkv *);
template <typename S> void qkv_backward(Queue *, const QkvBackward *);
template <typename S> void activation_forward(Queue *, const Activation *);
template <typename S> void activation_backward(Queue *, const ActivationBackward *);
template <typename S> void cross_entropy(Queue *, const CrossEntropy *);
template <typename S> void junction_forward(Queue *, const Junction *);
template <typename S> void junction_backward(Queue *, const JunctionBackward *);
template <typename S> void product_norm(Queue *, const ProductNorm *);
void adamw(Queue *, const AdamW *);
void muon_momentum(Queue *, const MuonMomentum *);
template <typename S> void scaled_copy(Queue *, const ScaledCopy *);
template <typename S> void axpby(Queue *, const Axpby *);
void muon_update(Queue *, const MuonUpdate *);
void gpas_scales(Queue *, const GpasScales *);
void bhyt_terms(Queue *, const BhytTerms *);
void step_begin(Queue *, const StepBegin *);
void loss_reduce(Queue *, const LossReduce *);
void sum_squares(Queue *, const SumSquares *);
void step_decide(Queue *, const StepDecide *);
void tensor_stats(Queue *, const TensorStats *);
void cast(Queue *, const Cast *);
template <typename S> void halves(Queue *, const Halves *);
void hash(Queue *, const Hash *);

#define INSTANTIATE(operation, Arguments)                                                                    \
    template void operation<float>(Queue *, const Arguments *);                                              \
    template void operation<bf16>(Queue *, const Arguments *)

/* Attention on tensor cores, in bf16 (FlashAttention-2, Dao 2023), after attention.cu has checked the shape: false, and
 * nothing queued, where there is no kernel for the head size. With only_new [B] (device), forward leaves the sequences alone
 * of which that is not 0. The scratch in bytes. */
bool attention_forward_mma(Queue *queue, const Attention *args, const uint32_t *only_new);
bool attention_backward_mma(Queue *queue, const AttentionBackward *args);
size_t attention_mma_scratch(const Limits *limits);
size_t attention_decode_scratch(const Limits *limits);

size_t embedding_scratch(const Limits *limits);
size_t linear_scratch(const Limits *limits);
size_t qkv_scratch(const Limits *limits);
size_t activation_scratch(const Limits *limits);
size_t attention_scratch(const Limits *limits);
size_t junction_scratch(const Limits *limits);
size_t variant_scratch(const Limits *limits);
size_t stats_scratch(const Limits *limits);
size_t step_scratch(const Limits *limits);

/* cuBLASLt's handle, made and taken down with the device. */
void linear_open(void);
void linear_close(void);
void linear_forget_plans(void); /* algorithms are chosen anew */
void linear_tune(bool tune);    /* whether to measure for shapes that have no plan yet */

#endif
