/*
 * qkv.cu: QK-norm (SDD's) and RoPE between the product and attention, forward and backward, with the column
 * sums for the gradients of α and the bias.
 *
 * Half-split rotation: dimensions i and i + D/2 of a head rotate together. D/2 is a multiple of 4, so a thread
 * takes a pair of half packs: four dimensions of the first half and their partners. V has no partners and is
 * copied; it is cut the same way, so that one kernel serves the whole row.
 *
 * With a norm a first kernel takes one number of each segment, a stretch of the row with one statistic (a
 * head, or the whole of q, k or v): forward its rstd, backward the mean that rmsnorm's gradient subtracts.
 * The row is then read twice, the second time partly from cache.
 */
#include "columns.cuh"

namespace {

constexpr int THREADS = 128;

/* What the kernels need of a Qkv; direction −1 rotates back. */
struct QkvParams {
    int64_t N, stride;
    int T, D, H, Hkv;
    bool rotates;
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

QkvParams params_of(const Qkv *args, float direction) {
    QkvParams params;
    params.N = (int64_t)args->B * args->T;
    params.T = args->T, params.D = args->D, params.H = args->H, params.Hkv = args->Hkv;
    params.stride = row_stride((int64_t)params.heads() * args->D);
    params.rotates = args->rope != NULL;
    params.direction = direction;
    params.eps = (float)args->eps;
    params.rope = static_cast<const float *>(args->rope);
    params.position = args->position;
    params.alpha_q = static_cast<const float *>(args->alpha_q);
    params.alpha_k = static_cast<const float *>(args->alpha_k);
    params.alpha_v = static_cast<const float *>(args->alpha_v);
    params.rstd = static_cast<float *>(args->rstd);
    return params;
}

/* Segments of a row, and where one lies. */
template <QkvNorm NORM> __host__ __device__ int segments_of(const QkvParams &params) {
    return NORM == QKV_NORM_HEAD ? params.heads() : 3;
}
template <QkvNorm NORM> __device__ __forceinline__ int segment_of(const QkvParams &params, int head) {
    return NORM == QKV_NORM_HEAD ? head : params.part_of(head);
}

/* α of dimension 0 of this head, or NULL where the head is copied. */
template <QkvNorm NORM> __device__ __forceinline__ const float *alpha_of(const QkvParams &params, int head) {
    const int part = params.part_of(head);
    const float *alpha = NORM == QKV_NORM_NONE ? NULL : params.alpha_of(part);
    return NORM == QKV_NORM_PROJECTION && alpha ? alpha + (int64_t)(head - params.first_head(part)) * params.D
                                                : alpha;
}

/* A pair of half packs: dimensions i … i+3 of a head's first half, and of its second. */
struct Pair {
    float first[HALF_PACK], second[HALF_PACK];
};

template <typename T> __device__ __forceinline__ void load_pair(Pair &pair, const T *in, int half) {
    load_pack(pair.first, in);
    load_pack(pair.second, in + half);
}

template <typename T> __device__ __forceinline__ void store_pair(T *out, const Pair &pair, int half) {
    store_pack(out, pair.first);
    store_pack(out + half, pair.second);
}

/* A row, and its time step, which is counted along: a division a row would cost as much as the rest. */
struct RowIterator {
    int64_t n;
    int t;

    __device__ __forceinline__ RowIterator(const QkvParams &params, int64_t n)
        : n(n), t((int)((uint32_t)n % (uint32_t)params.T)) {}
    __device__ __forceinline__ void advance(const QkvParams &params) {
        n++, t++;
        if (t == params.T) t = 0;
    }
};

/* Rotates the pair at dimension i of a row; V stays. */
__device__ __forceinline__ void rotate(Pair &pair, const QkvParams &params, const RowIterator &row, int head,
                                       int i) {
    if (!params.rotates || head >= params.H + params.Hkv) return;
    const int64_t position = params.position ? params.position[row.n] : row.t;
    const float *table = params.rope + position * params.D + 2 * i;
    float low[HALF_PACK], high[HALF_PACK]; /* cos and sin in turn */
    load_pack(low, table);
    load_pack(high, table + HALF_PACK);
#pragma unroll
    for (int j = 0; j < HALF_PACK; j++) {
        const float cosine = j < 2 ? low[2 * j] : high[2 * j - HALF_PACK];
        const float sine = params.direction * (j < 2 ? low[2 * j + 1] : high[2 * j + 1 - HALF_PACK]);
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
    segments_kernel(const S *__restrict__ raw, const S *__restrict__ dqkv, float *__restrict__ out,
                    QkvParams params) {
    constexpr int LANES = lanes_of<NORM>;
    const int segments = segments_of<NORM>(params), lane = threadIdx.x % LANES;
    const int64_t index =
        ((int64_t)blockIdx.x * THREADS + threadIdx.x) / LANES; /* launch_segments: in 32 bits */
    const bool active = index < params.N * segments;           /* idle lanes stay for the exchange below */
    const int64_t n = active ? (uint32_t)index / (uint32_t)segments : 0;
    const RowIterator row(params, n);
    const int s = (int)((uint32_t)index % (uint32_t)segments), half = params.D / 2, pairs = half / HALF_PACK;
    const int first_head = NORM == QKV_NORM_HEAD ? s : params.first_head(s);
    const int heads = NORM == QKV_NORM_HEAD ? 1 : s == 0 ? params.H : params.Hkv;
    const bool normed = alpha_of<NORM>(params, first_head) != NULL;
    const float rstd = active && normed && dqkv ? params.rstd[index] : 1;

    float sum = 0;
    for (int p = lane; active && normed && p < heads * pairs; p += LANES) {
        const int head = first_head + p / pairs, i = p % pairs * HALF_PACK;
        const int64_t at = n * params.stride + (int64_t)head * params.D + i;
        Pair x, g = {}, alpha;
        load_pair(x, raw + at, half);
        if (dqkv) {
            load_pair(g, dqkv + at, half);
            rotate(g, params, row, head, i);
            load_pair(alpha, alpha_of<NORM>(params, head) + i, half);
        }
#pragma unroll
        for (int j = 0; j < HALF_PACK; j++) {
            sum += dqkv ? alpha.first[j] * g.first[j] * (x.first[j] * rstd) : x.first[j] * x.first[j];
            sum += dqkv ? alpha.second[j] * g.second[j] * (x.second[j] * rstd) : x.second[j] * x.second[j];
        }
    }
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    const float mean = sum / (float)(heads * params.D);
    if (active && lane == 0) out[index] = dqkv ? mean : normed ? 1.0f / sqrtf(mean + params.eps) : 1.0f;
}

/* --------------------------------------------------------------------------------------------------------
 * Elements
 * ------------------------------------------------------------------------------------------------------ */

/*
 * Forward: out = rotate(α ⊙ raw·rstd). A thread owns a pair of half packs and loops over a chunk of rows. `raw`
 * may be `out`. Bytes an element: read and written once, 4 in bf16.
 */
template <typename S, QkvNorm NORM>
__global__ void __launch_bounds__(THREADS)
    forward_kernel(const S *raw, S *out, QkvParams params, int64_t rows) {
    const int half = params.D / 2, pairs = half / HALF_PACK, index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= params.heads() * pairs) return;
    const int head = index / pairs, i = index % pairs * HALF_PACK, segment = segment_of<NORM>(params, head);
    const int64_t column = (int64_t)head * params.D + i;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, params.N);
    const float *alphas = alpha_of<NORM>(params, head);
    Pair alpha = {};
    if (alphas) load_pair(alpha, alphas + i, half);
    for (RowIterator row(params, begin); row.n < end; row.advance(params)) {
        const int64_t n = row.n;
        Pair x;
        load_pair(x, raw + n * params.stride + column, half);
        if (NORM != QKV_NORM_NONE && alphas) {
            const float rstd = params.rstd[n * segments_of<NORM>(params) + segment];
#pragma unroll
            for (int j = 0; j < HALF_PACK; j++) {
                x.first[j] = alpha.first[j] * (x.first[j] * rstd);
                x.second[j] = alpha.second[j] * (x.second[j] * rstd);
            }
        }
        rotate(x, params, row, head, i);
        store_pair(out + n * params.stride + column, x, half);
    }
}

/* g becomes rstd·(α⊙g − x̂·mean), dα += g⊙x̂, over four dimensions. */
__device__ __forceinline__ void rms_backward(float (&g)[HALF_PACK], const float (&x)[HALF_PACK],
                                             const float (&alpha)[HALF_PACK], float rstd, float mean,
                                             float (&dalpha)[HALF_PACK]) {
#pragma unroll
    for (int j = 0; j < HALF_PACK; j++) {
        const float hat = x[j] * rstd;
        dalpha[j] += g[j] * hat;
        g[j] = rstd * (alpha[j] * g[j] - hat * mean);
    }
}

/* Backward, in the same loop; dqkv may be draw. With a norm raw is read too. */
template <typename S, QkvNorm NORM>
__global__ void __launch_bounds__(THREADS, NO_SPILLS)
    backward_kernel(const S *dqkv, S *draw, const S *__restrict__ raw, const float *__restrict__ means,
                    QkvParams params, int64_t rows, AlphaBiasPartials partials) {
    const int half = params.D / 2, pairs = half / HALF_PACK, index = blockIdx.x * THREADS + threadIdx.x;
    if (index >= params.heads() * pairs) return;
    const int head = index / pairs, i = index % pairs * HALF_PACK, segment = segment_of<NORM>(params, head);
    const int64_t column = (int64_t)head * params.D + i;
    const int64_t begin = blockIdx.y * rows, end = min(begin + rows, params.N);
    const float *alphas = alpha_of<NORM>(params, head);
    Pair alpha = {}, dalpha = {}, dbias = {};
    if (alphas) load_pair(alpha, alphas + i, half);
    for (RowIterator row(params, begin); row.n < end; row.advance(params)) {
        const int64_t n = row.n, at = n * params.stride + column;
        Pair g;
        load_pair(g, dqkv + at, half);
        rotate(g, params, row, head, i);
        if (NORM != QKV_NORM_NONE && alphas) {
            const int64_t statistic = n * segments_of<NORM>(params) + segment;
            const float rstd = params.rstd[statistic], mean = means[statistic];
            Pair x;
            load_pair(x, raw + at, half);
            rms_backward(g.first, x.first, alpha.first, rstd, mean, dalpha.first);
            rms_backward(g.second, x.second, alpha.second, rstd, mean, dalpha.second);
        }
#pragma unroll
        for (int j = 0; j < HALF_PACK; j++) dbias.first[j] += g.first[j], dbias.second[j] += g.second[j];
        store_pair(draw + at, g, half);
    }
    if (partials.alpha) store_pair(partials.alpha + blockIdx.y * params.stride + column, dalpha, half);
    if (partials.bias) store_pair(partials.bias + blockIdx.y * params.stride + column, dbias, half);
}

/* Where nothing is normed and nothing rotates, draw is dqkv, and in its place there is only the bias to sum: a thread owns
 * a pack of columns and loops over the same chunks. Bytes an element: 2 in bf16. */
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

dim3 grid_of(const QkvParams &params, const Chunks &chunks) {
    return dim3((unsigned)ceil_div((int64_t)params.heads() * (params.D / 2 / HALF_PACK), THREADS),
                chunks.count);
}

template <typename S, QkvNorm NORM>
void launch_segments(Queue *queue, const QkvParams &params, const Storage *raw, const Storage *dqkv,
                     float *out) {
    const int64_t blocks = ceil_div(params.N * segments_of<NORM>(params) * lanes_of<NORM>, THREADS);
    check(params.N * segments_of<NORM>(params) <= INT32_MAX - THREADS,
          "qkv on cuda: %lld rows of %d heads are more than a launch can hold", (long long)params.N,
          params.heads());
    LAUNCH((segments_kernel<S, NORM>), (unsigned)blocks, THREADS, 0, queue->stream,
           static_cast<const S *>(raw), static_cast<const S *>(dqkv), out, params);
}

template <typename S, QkvNorm NORM> void run_forward(Queue *queue, const Qkv *args) {
    const QkvParams params = params_of(args, 1.0f);
    const Chunks chunks = split_rows(params.N);
    if constexpr (NORM != QKV_NORM_NONE)
        launch_segments<S, NORM>(queue, params, args->raw, NULL, params.rstd);
    LAUNCH((forward_kernel<S, NORM>), grid_of(params, chunks), THREADS, 0, queue->stream,
           static_cast<const S *>(args->raw), static_cast<S *>(args->qkv), params, chunks.rows);
}

/* Scratch: two tensors of partial sums, then a number for each segment. */
size_t backward_bytes(int64_t N, int64_t heads, int64_t D) {
    return (2 * MAX_CHUNKS * (size_t)row_stride(heads * D) + (size_t)(N * heads)) * sizeof(float);
}

template <QkvNorm NORM>
void add_alpha(Queue *queue, const QkvParams &params, Accum *dalpha, const float *partial, int first_head,
               int heads, const Chunks &chunks) {
    const float *from = partial + (int64_t)first_head * params.D;
    if (NORM == QKV_NORM_HEAD) /* shared by the heads */
        add_columns(queue, dalpha, from, (int)chunks.count, params.stride, params.D, heads, params.D);
    else
        add_columns(queue, dalpha, from, (int)chunks.count, params.stride, (int64_t)heads * params.D);
}

template <typename S, QkvNorm NORM> void run_backward(Queue *queue, const QkvBackward *args) {
    const Qkv *forward = args->forward;
    const QkvParams params = params_of(forward, -1.0f);
    const Chunks chunks = split_rows(params.N);
    float *scratch = NULL;
    if (NORM != QKV_NORM_NONE || args->dbias)
        scratch = static_cast<float *>(
            cuda_scratch(queue, backward_bytes(params.N, params.heads(), params.D), "qkv_backward"));
    AlphaBiasPartials partials;
    partials.bias = args->dbias ? scratch : NULL;
    partials.alpha = NORM != QKV_NORM_NONE ? scratch + MAX_CHUNKS * params.stride : NULL;
    float *means = NORM != QKV_NORM_NONE ? scratch + 2 * MAX_CHUNKS * params.stride : NULL;
    if constexpr (NORM != QKV_NORM_NONE)
        launch_segments<S, NORM>(queue, params, forward->raw, args->dqkv, means);
    LAUNCH((backward_kernel<S, NORM>), grid_of(params, chunks), THREADS, 0, queue->stream,
           static_cast<const S *>(args->dqkv), static_cast<S *>(args->draw),
           static_cast<const S *>(forward->raw), means, params, chunks.rows, partials);
    if constexpr (NORM != QKV_NORM_NONE) {
        add_alpha<NORM>(queue, params, args->dalpha_q, partials.alpha, 0, params.H, chunks);
        add_alpha<NORM>(queue, params, args->dalpha_k, partials.alpha, params.H, params.Hkv, chunks);
        add_alpha<NORM>(queue, params, args->dalpha_v, partials.alpha, params.H + params.Hkv, params.Hkv,
                        chunks);
    }
    add_columns(queue, args->dbias, partials.bias, (int)chunks.count, params.stride,
                (int64_t)params.heads() * params.D);
}

/* dqkv is draw already. */
template <typename S> void run_bias(Queue *queue, const QkvBackward *args) {
    if (!args->dbias) return;
    const QkvParams params = params_of(args->forward, -1.0f);
    const Chunks chunks = split_rows(params.N);
    float *partial = static_cast<float *>(
        cuda_scratch(queue, backward_bytes(params.N, params.heads(), params.D), "qkv_backward"));
    LAUNCH((bias_kernel<S>), dim3((unsigned)ceil_div(params.stride / PACK, THREADS), chunks.count), THREADS,
           0, queue->stream, static_cast<const S *>(args->dqkv), params.N, params.stride, chunks.rows,
           partial);
    add_columns(queue, args->dbias, partial, (int)chunks.count, params.stride,
                (int64_t)params.heads() * params.D);
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
