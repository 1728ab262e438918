/*
 * qkv.cu: QK-norm (SDD's) and RoPE between the product and attention, forward and backward, with the column
 * sums for the gradients of α and the bias.
 *
 * Half-split rotation: dimensions i and i + D/2 of a head turn together. D/2 is a multiple of 4, so a thread
 * takes a pair of quads: four dimensions of the first half and their partners. V has no partners and is
 * copied; it is cut the same way, so that one kernel serves the whole row.
 *
 * With a norm a first kernel takes one number of each segment, a stretch of the row with one statistic (a
 * head, or the whole of q, k or v): forward its rstd, backward the mean that rmsnorm's gradient subtracts.
 * The row is then read twice, the second time partly from cache.
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

/* What the kernels need of a Qkv; direction −1 turns back. */
struct Rows {
    int64_t N, stride;
    int T, D, H, Hkv;
    bool turns;
    float direction, eps;
    const float *rope;
    const uint32_t *position;
    const float *alpha_q, *alpha_k, *alpha_v;
    float *rstd;

    __host__ __device__ int heads() const { return H + 2 * Hkv; }
    __device__ int part_of(int head) const { return head < H ? 0 : head < H + Hkv ? 1 : 2; }
    __device__ int first_head(int part) const { return part == 0 ? 0 : part == 1 ? H : H + Hkv; }
    __device__ const float *alpha_of(int part) const {
        return part == 0 ? alpha_q : part == 1 ? alpha_k : alpha_v;
    }
};

Rows rows_of(const Qkv *args, float direction) {
    Rows r;
    r.N = (int64_t)args->B * args->T;
    r.T = args->T, r.D = args->D, r.H = args->H, r.Hkv = args->Hkv;
    r.stride = row_stride((int64_t)r.heads() * args->D);
    r.turns = args->rope != NULL;
    r.direction = direction;
    r.eps = (float)args->eps;
    r.rope = static_cast<const float *>(args->rope);
    r.position = args->position;
    r.alpha_q = static_cast<const float *>(args->alpha_q);
    r.alpha_k = static_cast<const float *>(args->alpha_k);
    r.alpha_v = static_cast<const float *>(args->alpha_v);
    r.rstd = static_cast<float *>(args->rstd);
    return r;
}

/* Segments of a row, and where one lies. */
template <QkvNorm NORM> __host__ __device__ int segments_of(const Rows &r) {
    return NORM == QKV_NORM_HEAD ? r.heads() : 3;
}
template <QkvNorm NORM> __device__ __forceinline__ int segment_of(const Rows &r, int head) {
    return NORM == QKV_NORM_HEAD ? head : r.part_of(head);
}

/* α of dimension 0 of this head, or NULL where the head is copied. */
template <QkvNorm NORM> __device__ __forceinline__ const float *alpha_of(const Rows &r, int head) {
    const int part = r.part_of(head);
    const float *alpha = NORM == QKV_NORM_NONE ? NULL : r.alpha_of(part);
    return NORM == QKV_NORM_PROJECTION && alpha ? alpha + (int64_t)(head - r.first_head(part)) * r.D : alpha;
}

/* One pair of quads: dimensions i … i+3 of a head's first half, and of its second. */
struct Pair {
    float first[QUAD], second[QUAD];
};

template <typename T> __device__ __forceinline__ void load_pair(Pair &pair, const T *in, int half) {
    load_quad(pair.first, in);
    load_quad(pair.second, in + half);
}

template <typename T> __device__ __forceinline__ void store_pair(T *out, const Pair &pair, int half) {
    store_quad(out, pair.first);
    store_quad(out + half, pair.second);
}

/* A row, and its time step, which walks along: a division a row would cost as much as the rest. */
struct Step {
    int64_t n;
    int t;

    __device__ __forceinline__ Step(const Rows &r, int64_t n) : n(n), t((int)((uint32_t)n % (uint32_t)r.T)) {}
    __device__ __forceinline__ void advance(const Rows &r) {
        n++, t++;
        if (t == r.T) t = 0;
    }
};

/* Turns the pair at dimension i of a row; V stays. */
__device__ __forceinline__ void turn(Pair &pair, const Rows &r, const Step &step, int head, int i) {
    if (!r.turns || head >= r.H + r.Hkv) return;
    const int64_t position = r.position ? r.position[step.n] : step.t;
    const float *table = r.rope + position * r.D + 2 * i;
    float low[QUAD], high[QUAD]; /* cos and sin in turn */
    load_quad(low, table);
    load_quad(high, table + QUAD);
#pragma unroll
    for (int j = 0; j < QUAD; j++) {
        const float cosine = j < 2 ? low[2 * j] : high[2 * j - QUAD];
        const float sine = r.direction * (j < 2 ? low[2 * j + 1] : high[2 * j + 1 - QUAD]);
        const float a = pair.first[j], b = pair.second[j];
        pair.first[j] = a * cosine - b * sine;
        pair.second[j] = b * cosine + a * sine;
    }
}

/* --------------------------------------------------------------------------------------------------------
 * Segments
 * ------------------------------------------------------------------------------------------------------ */

/* Lanes that share a segment: a head has at most 32 pairs, a projection hundreds. */
template <QkvNorm NORM> constexpr int lanes_of = NORM == QKV_NORM_HEAD ? 8 : WARP;

/*
 * out[n·segments + s]: forward (dqkv NULL) rstd of raw's segment; backward mean(α⊙g⊙x̂) with g the gradient
 * before the rotation. 1 and 0 for a segment that is copied.
 */
template <typename S, QkvNorm NORM>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    segments_kernel(const S *__restrict__ raw, const S *__restrict__ dqkv, float *__restrict__ out, Rows r) {
    constexpr int LANES = lanes_of<NORM>;
    const int segments = segments_of<NORM>(r), lane = threadIdx.x % LANES;
    const int64_t index =
        ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES; /* take_segments: in 32 bits */
    const bool active = index < r.N * segments;                /* idle lanes stay for the exchange below */
    const int64_t n = active ? (uint32_t)index / (uint32_t)segments : 0;
    const Step step(r, n);
    const int s = (int)((uint32_t)index % (uint32_t)segments), half = r.D / 2, pairs = half / QUAD;
    const int first_head = NORM == QKV_NORM_HEAD ? s : r.first_head(s);
    const int heads = NORM == QKV_NORM_HEAD ? 1 : s == 0 ? r.H : r.Hkv;
    const bool normed = alpha_of<NORM>(r, first_head) != NULL;
    const float rstd = active && normed && dqkv ? r.rstd[index] : 1;

    float sum = 0;
    for (int p = lane; active && normed && p < heads * pairs; p += LANES) {
        const int head = first_head + p / pairs, i = p % pairs * QUAD;
        const int64_t at = n * r.stride + (int64_t)head * r.D + i;
        Pair x, g = {}, alpha;
        load_pair(x, raw + at, half);
        if (dqkv) {
            load_pair(g, dqkv + at, half);
            turn(g, r, step, head, i);
            load_pair(alpha, alpha_of<NORM>(r, head) + i, half);
        }
#pragma unroll
        for (int j = 0; j < QUAD; j++) {
            sum += dqkv ? alpha.first[j] * g.first[j] * (x.first[j] * rstd) : x.first[j] * x.first[j];
            sum += dqkv ? alpha.second[j] * g.second[j] * (x.second[j] * rstd) : x.second[j] * x.second[j];
        }
    }
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    const float mean = sum / (float)(heads * r.D);
    if (active && lane == 0) out[index] = dqkv ? mean : normed ? 1.0f / sqrtf(mean + r.eps) : 1.0f;
}

/* --------------------------------------------------------------------------------------------------------
 * Elements
 * ------------------------------------------------------------------------------------------------------ */

/*
 * Forward: out = turn(α ⊙ raw·rstd). A thread owns a pair of quads and walks down a chunk of rows. `raw` may
 * be `out`. Bytes an element: read and written once, 4 in bf16; gpt2-124m's width at 65,536 tokens: 0.60 GB,
 * floor 0.13 ms at 4.8 TB/s on an H200. Not yet measured.
 */
template <typename S, QkvNorm NORM>
__global__ void __launch_bounds__(THREADS) forward_kernel(const S *raw, S *out, Rows r, int64_t rows) {
    const int half = r.D / 2, pairs = half / QUAD, index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= r.heads() * pairs) return;
    const int head = index / pairs, i = index % pairs * QUAD, segment = segment_of<NORM>(r, head);
    const int64_t column = (int64_t)head * r.D + i;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, r.N);
    const float *alphas = alpha_of<NORM>(r, head);
    Pair alpha = {};
    if (alphas) load_pair(alpha, alphas + i, half);
    for (Step step(r, begin); step.n < end; step.advance(r)) {
        const int64_t n = step.n;
        Pair x;
        load_pair(x, raw + n * r.stride + column, half);
        if (NORM != QKV_NORM_NONE && alphas) {
            const float rstd = r.rstd[n * segments_of<NORM>(r) + segment];
#pragma unroll
            for (int j = 0; j < QUAD; j++) {
                x.first[j] = alpha.first[j] * (x.first[j] * rstd);
                x.second[j] = alpha.second[j] * (x.second[j] * rstd);
            }
        }
        turn(x, r, step, head, i);
        store_pair(out + n * r.stride + column, x, half);
    }
}

/* The same columns of two tensors of partial sums, [chunks][stride] each; NULL: not wanted. */
struct Partials {
    float *alpha, *bias;
};

/* g becomes rstd·(α⊙g − x̂·mean), dα += g⊙x̂, over four dimensions. */
__device__ __forceinline__ void rms_quad(float (&g)[QUAD], const float (&x)[QUAD], const float (&alpha)[QUAD],
                                         float rstd, float mean, float (&dalpha)[QUAD]) {
#pragma unroll
    for (int j = 0; j < QUAD; j++) {
        const float hat = x[j] * rstd;
        dalpha[j] += g[j] * hat;
        g[j] = rstd * (alpha[j] * g[j] - hat * mean);
    }
}

/* Backward, in the same walk; dqkv may be draw. With a norm raw is read too. */
template <typename S, QkvNorm NORM>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    backward_kernel(const S *dqkv, S *draw, const S *__restrict__ raw, const float *__restrict__ means,
                    Rows r, int64_t rows, Partials partials) {
    const int half = r.D / 2, pairs = half / QUAD, index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= r.heads() * pairs) return;
    const int head = index / pairs, i = index % pairs * QUAD, segment = segment_of<NORM>(r, head);
    const int64_t column = (int64_t)head * r.D + i;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, r.N);
    const float *alphas = alpha_of<NORM>(r, head);
    Pair alpha = {}, dalpha = {}, dbias = {};
    if (alphas) load_pair(alpha, alphas + i, half);
    for (Step step(r, begin); step.n < end; step.advance(r)) {
        const int64_t n = step.n, at = n * r.stride + column;
        Pair g;
        load_pair(g, dqkv + at, half);
        turn(g, r, step, head, i);
        if (NORM != QKV_NORM_NONE && alphas) {
            const int64_t statistic = n * segments_of<NORM>(r) + segment;
            const float rstd = r.rstd[statistic], mean = means[statistic];
            Pair x;
            load_pair(x, raw + at, half);
            rms_quad(g.first, x.first, alpha.first, rstd, mean, dalpha.first);
            rms_quad(g.second, x.second, alpha.second, rstd, mean, dalpha.second);
        }
#pragma unroll
        for (int j = 0; j < QUAD; j++) dbias.first[j] += g.first[j], dbias.second[j] += g.second[j];
        store_pair(draw + at, g, half);
    }
    if (partials.alpha) store_pair(partials.alpha + blockIdx.y * r.stride + column, dalpha, half);
    if (partials.bias) store_pair(partials.bias + blockIdx.y * r.stride + column, dbias, half);
}

/* Where nothing is normed and nothing turns, draw is dqkv, and in its place there is only the bias to sum: a thread owns
 * a pack of columns and walks down the same chunks. Bytes an element: 2 in bf16. */
template <typename S>
__global__ void __launch_bounds__(THREADS)
    bias_kernel(const S *__restrict__ dqkv, int64_t N, int64_t stride, int64_t rows, float *__restrict__ partial) {
    const int64_t column = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
    if (column >= stride) return;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, N);
    float sum[PACK];
    fill_pack(sum, 0);
#pragma unroll 4
    for (int64_t n = begin; n < end; n++) {
        float g[PACK];
        load_pack(g, dqkv + n * stride + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] += g[j];
    }
    store_pack(partial + blockIdx.y * stride + column, sum);
}

/* --------------------------------------------------------------------------------------------------------
 * Launches
 * ------------------------------------------------------------------------------------------------------ */

dim3 grid_of(const Rows &r, const Chunks &chunks) {
    return dim3((unsigned)ceil_div((int64_t)r.heads() * (r.D / 2 / QUAD), THREADS), chunks.count);
}

template <typename S, QkvNorm NORM>
void take_segments(Queue *queue, const Rows &r, const Storage *raw, const Storage *dqkv, float *out) {
    const int64_t blocks = ceil_div(r.N * segments_of<NORM>(r) * lanes_of<NORM>, THREADS);
    check(r.N * segments_of<NORM>(r) <= INT32_MAX - THREADS,
          "qkv on cuda: %lld rows of %d heads are more than a launch can hold", (long long)r.N, r.heads());
    LAUNCH((segments_kernel<S, NORM>), (unsigned)blocks, THREADS, 0, queue->stream,
           static_cast<const S *>(raw), static_cast<const S *>(dqkv), out, r);
}

template <typename S, QkvNorm NORM> void run_forward(Queue *queue, const Qkv *args) {
    const Rows r = rows_of(args, 1.0f);
    const Chunks chunks = split_rows(r.N);
    if constexpr (NORM != QKV_NORM_NONE) take_segments<S, NORM>(queue, r, args->raw, NULL, r.rstd);
    LAUNCH((forward_kernel<S, NORM>), grid_of(r, chunks), THREADS, 0, queue->stream,
           static_cast<const S *>(args->raw), static_cast<S *>(args->qkv), r, chunks.rows);
}

/* Scratch: two tensors of partial sums, then a number for each segment. */
size_t backward_bytes(int64_t N, int64_t heads, int64_t D) {
    return (2 * MAX_CHUNKS * (size_t)row_stride(heads * D) + (size_t)(N * heads)) * sizeof(float);
}

template <QkvNorm NORM>
void add_alpha(Queue *queue, const Rows &r, Accum *dalpha, const float *partial, int first_head, int heads,
               const Chunks &chunks) {
    const float *from = partial + (int64_t)first_head * r.D;
    if (NORM == QKV_NORM_HEAD) /* shared by the heads */
        add_columns(queue, dalpha, from, (int)chunks.count, r.stride, r.D, heads, r.D);
    else
        add_columns(queue, dalpha, from, (int)chunks.count, r.stride, (int64_t)heads * r.D);
}

template <typename S, QkvNorm NORM> void run_backward(Queue *queue, const QkvBackward *args) {
    const Qkv *forward = args->forward;
    const Rows r = rows_of(forward, -1.0f);
    const Chunks chunks = split_rows(r.N);
    float *scratch = NULL;
    if (NORM != QKV_NORM_NONE || args->dbias)
        scratch =
            static_cast<float *>(cuda_scratch(queue, backward_bytes(r.N, r.heads(), r.D), "qkv_backward"));
    Partials partials;
    partials.bias = args->dbias ? scratch : NULL;
    partials.alpha = NORM != QKV_NORM_NONE ? scratch + MAX_CHUNKS * r.stride : NULL;
    float *means = NORM != QKV_NORM_NONE ? scratch + 2 * MAX_CHUNKS * r.stride : NULL;
    if constexpr (NORM != QKV_NORM_NONE) take_segments<S, NORM>(queue, r, forward->raw, args->dqkv, means);
    LAUNCH((backward_kernel<S, NORM>), grid_of(r, chunks), THREADS, 0, queue->stream,
           static_cast<const S *>(args->dqkv), static_cast<S *>(args->draw),
           static_cast<const S *>(forward->raw), means, r, chunks.rows, partials);
    if constexpr (NORM != QKV_NORM_NONE) {
        add_alpha<NORM>(queue, r, args->dalpha_q, partials.alpha, 0, r.H, chunks);
        add_alpha<NORM>(queue, r, args->dalpha_k, partials.alpha, r.H, r.Hkv, chunks);
        add_alpha<NORM>(queue, r, args->dalpha_v, partials.alpha, r.H + r.Hkv, r.Hkv, chunks);
    }
    add_columns(queue, args->dbias, partials.bias, (int)chunks.count, r.stride, (int64_t)r.heads() * r.D);
}

/* dqkv is draw already. */
template <typename S> void run_bias(Queue *queue, const QkvBackward *args) {
    if (!args->dbias) return;
    const Rows r = rows_of(args->forward, -1.0f);
    const Chunks chunks = split_rows(r.N);
    float *partial =
        static_cast<float *>(cuda_scratch(queue, backward_bytes(r.N, r.heads(), r.D), "qkv_backward"));
    LAUNCH((bias_kernel<S>), dim3((unsigned)ceil_div(r.stride / PACK, THREADS), chunks.count), THREADS, 0,
           queue->stream, static_cast<const S *>(args->dqkv), r.N, r.stride, chunks.rows, partial);
    add_columns(queue, args->dbias, partial, (int)chunks.count, r.stride, (int64_t)r.heads() * r.D);
}

void check_qkv(const Qkv *args) {
    check(args->D >= 8 && args->D <= 256 && args->D % 8 == 0,
          "qkv on cuda: head sizes are multiples of 8 up to 256, not %d", args->D);
    check((int64_t)args->B * args->T <= INT32_MAX,
          "qkv on cuda: %d sequences of %d tokens are more than a launch can hold", args->B, args->T);
}

} // namespace

template <typename S> void qkv_forward(Queue *queue, const Qkv *args) {
    check_qkv(args);
    if (args->B == 0 || args->T == 0) return;
    if (args->norm == QKV_NORM_HEAD)
        run_forward<S, QKV_NORM_HEAD>(queue, args);
    else if (args->norm == QKV_NORM_PROJECTION)
        run_forward<S, QKV_NORM_PROJECTION>(queue, args);
    else if (args->rope || args->qkv != args->raw)
        run_forward<S, QKV_NORM_NONE>(queue, args);
}
INSTANTIATE(qkv_forward, Qkv);

template <typename S> void qkv_backward(Queue *queue, const QkvBackward *args) {
    check_qkv(args->forward);
    if (args->forward->B == 0 || args->forward->T == 0) return;
    if (args->forward->norm == QKV_NORM_HEAD)
        run_backward<S, QKV_NORM_HEAD>(queue, args);
    else if (args->forward->norm == QKV_NORM_PROJECTION)
        run_backward<S, QKV_NORM_PROJECTION>(queue, args);
    else if (args->forward->rope || args->dqkv != args->draw)
        run_backward<S, QKV_NORM_NONE>(queue, args);
    else
        run_bias<S>(queue, args);
}
INSTANTIATE(qkv_backward, QkvBackward);

size_t qkv_scratch(const Limits *limits) {
    return backward_bytes(limits->N, limits->H + 2 * limits->Hkv, limits->D);
}
