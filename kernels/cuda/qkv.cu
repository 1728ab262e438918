/*
 * qkv.cu: RoPE on queries and keys, forward and backward, with the column sums for the bias gradient. QK-norm
 * (SDD's) is not there yet.
 *
 * Half-split rotation: dimensions i and i + D/2 of a head turn together. D/2 is a multiple of 4, so a thread
 * takes a pair of quads: four dimensions of the first half and their partners. V has no partners and is
 * copied; it is cut the same way, so that one kernel serves the whole row.
 */
#include "columns.cuh"

namespace {

constexpr int THREADS = 128, QUAD = 4;

struct alignas(8) Bf16Quad {
    bf16 element[QUAD];
};

__device__ __forceinline__ void load_quad(float (&out)[QUAD], const float *in) {
    const float4 quad = *reinterpret_cast<const float4 *>(in);
    out[0] = quad.x, out[1] = quad.y, out[2] = quad.z, out[3] = quad.w;
}

__device__ __forceinline__ void load_quad(float (&out)[QUAD], const bf16 *in) {
    const Bf16Quad quad = *reinterpret_cast<const Bf16Quad *>(in);
#pragma unroll
    for (int i = 0; i < QUAD; i++) out[i] = to_float(quad.element[i]);
}

__device__ __forceinline__ void store_quad(float *out, const float (&in)[QUAD]) {
    *reinterpret_cast<float4 *>(out) = make_float4(in[0], in[1], in[2], in[3]);
}

__device__ __forceinline__ void store_quad(bf16 *out, const float (&in)[QUAD]) {
    Bf16Quad quad;
#pragma unroll
    for (int i = 0; i < QUAD; i++) quad.element[i] = from_float<bf16>(in[i]);
    *reinterpret_cast<Bf16Quad *>(out) = quad;
}

/* What the kernel needs of a Qkv; direction −1 turns back. */
struct Rotation {
    int64_t N, stride;
    int T, D, heads, rotated; /* heads of a row, and how many of them turn */
    float direction;
    const float *rope;
    const uint32_t *position;
};

Rotation rotation_of(const Qkv *args, float direction) {
    Rotation r;
    r.N = (int64_t)args->B * args->T;
    r.T = args->T, r.D = args->D;
    r.heads = args->H + 2 * args->Hkv;
    r.rotated = args->rope ? args->H + args->Hkv : 0;
    r.stride = row_stride((int64_t)r.heads * args->D);
    r.direction = direction;
    r.rope = static_cast<const float *>(args->rope);
    r.position = args->position;
    return r;
}

/*
 * A thread owns a pair of quads and walks down a chunk of rows. `in` may be `out`. Bytes an element: read and
 * written once, 4 in bf16; gpt2-124m's width at 65,536 tokens: 0.60 GB, floor 0.13 ms at 4.8 TB/s on an H200.
 * Not yet measured.
 */
template <typename S>
__global__ void __launch_bounds__(THREADS)
    rotate_kernel(const S *in, S *out, float *partial, Rotation r, int64_t rows) {
    const int pairs = r.D / 2 / QUAD; /* of a head */
    const int index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= r.heads * pairs) return;
    const int head = index / pairs, i = index % pairs * QUAD, half = r.D / 2;
    const int64_t column = (int64_t)head * r.D + i;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, r.N);
    const bool turns = head < r.rotated;
    float first_sum[QUAD] = {0}, second_sum[QUAD] = {0};
    for (int64_t n = begin; n < end; n++) {
        const int64_t at = n * r.stride + column;
        float first[QUAD], second[QUAD];
        load_quad(first, in + at);
        load_quad(second, in + at + half);
        if (turns) {
            const int64_t position = r.position ? r.position[n] : n % r.T;
            const float *table = r.rope + position * r.D + 2 * i;
            float low[QUAD], high[QUAD]; /* cos and sin in turn */
            load_quad(low, table);
            load_quad(high, table + QUAD);
#pragma unroll
            for (int j = 0; j < QUAD; j++) {
                const float cosine = j < 2 ? low[2 * j] : high[2 * j - QUAD];
                const float sine = r.direction * (j < 2 ? low[2 * j + 1] : high[2 * j + 1 - QUAD]);
                const float a = first[j], b = second[j];
                first[j] = a * cosine - b * sine;
                second[j] = b * cosine + a * sine;
            }
        }
#pragma unroll
        for (int j = 0; j < QUAD; j++) first_sum[j] += first[j], second_sum[j] += second[j];
        store_quad(out + at, first);
        store_quad(out + at + half, second);
    }
    if (!partial) return;
    store_quad(partial + blockIdx.y * r.stride + column, first_sum);
    store_quad(partial + blockIdx.y * r.stride + column + half, second_sum);
}

template <typename S>
void rotate(Queue *queue, const Rotation &r, const Storage *in, Storage *out, float *partial,
            const Chunks &chunks) {
    const int64_t threads = (int64_t)r.heads * (r.D / 2 / QUAD);
    LAUNCH((rotate_kernel<S>), dim3((unsigned)ceil_div(threads, THREADS), chunks.count), THREADS, 0,
           queue->stream, static_cast<const S *>(in), static_cast<S *>(out), partial, r, chunks.rows);
}

void check_qkv(const Qkv *args) {
    check(args->norm == QKV_NORM_NONE, "qkv on cuda: sdd is not there yet");
    check(args->D >= 8 && args->D <= 256 && args->D % 8 == 0,
          "qkv on cuda: head sizes are multiples of 8 up to 256, not %d", args->D);
}

} // namespace

template <typename S> void qkv_forward(Queue *queue, const Qkv *args) {
    check_qkv(args);
    const Rotation r = rotation_of(args, 1.0f);
    if (r.N == 0 || (!args->rope && args->qkv == args->raw)) return;
    rotate<S>(queue, r, args->raw, args->qkv, NULL, split_rows(r.N));
}
INSTANTIATE(qkv_forward, Qkv);

template <typename S> void qkv_backward(Queue *queue, const QkvBackward *args) {
    check_qkv(args->forward);
    const Rotation r = rotation_of(args->forward, -1.0f);
    if (r.N == 0) return;
    const Chunks chunks = split_rows(r.N);
    float *partial = NULL;
    if (args->dbias)
        partial = static_cast<float *>(
            cuda_scratch(queue, chunks.count * r.stride * sizeof(float), "qkv_backward"));
    rotate<S>(queue, r, args->dqkv, args->draw, partial, chunks);
    add_columns(queue, args->dbias, partial, (int)chunks.count, r.stride, (int64_t)r.heads * r.D);
}
INSTANTIATE(qkv_backward, QkvBackward);

size_t qkv_scratch(const Limits *limits) {
    return (size_t)MAX_CHUNKS * row_stride((int64_t)(limits->H + 2 * limits->Hkv) * limits->D) *
           sizeof(float);
}
