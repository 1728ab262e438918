/*
 * junction_backward.cu: the residual junction, backward: the gradient of the norm, the residual gradient, the
 * sublayer's output gradient, and the column sums for γ, β, the bias and the gate, in one pass over memory.
 *
 * Column sums without atomics: the rows are split over at most 512 blocks, by their number alone; each block
 * adds up its own rows in registers (a thread owns eight columns) and leaves partial sums in scratch, which
 * columns.cuh adds in order.
 */
#include "junction.cuh"
#include "columns.cuh"

namespace {

constexpr int COLUMN_SUMS = 3; /* dgamma, dbeta, dbias */

/* Rows that a block has in flight at once, by its width: narrow ones need two for enough loads under way. */
struct Narrow {
    static constexpr int THREADS = 256, BLOCKS = 2, ROWS = 2; /* up to 2,048 channels */
};
struct Middle {
    static constexpr int THREADS = 512, BLOCKS = 1, ROWS = 1;
};
struct Wide {
    static constexpr int THREADS = 1024, BLOCKS = 1, ROWS = 1;
};

/* [COLUMN_SUMS][blocks][row_stride(C)], then [blocks] of the gate. */
struct Partials {
    float *columns, *gate;
    int64_t stride;

    __device__ float *row(int which, int block, int blocks) const {
        return columns + ((int64_t)which * blocks + block) * stride;
    }
};

/*
 * Bytes a row: reads u, dy and dresidual_in, writes dresidual_out (and df where it differs): 8·C in bf16, and
 * 16·C with fp32 residual and a bf16 df. gpt2-124m at 65,536 tokens in bf16: 0.40 GB, floor 0.084 ms at
 * 4.8 TB/s on an H200; the partial sums add 2 %. Not yet measured.
 */
template <typename S, typename R, NormKind NORM, typename Width>
__global__ void __launch_bounds__(Width::THREADS, Width::BLOCKS)
    junction_backward_kernel(JunctionBackward args, Junction forward, int64_t rows_a_block,
                             Partials partials) {
    constexpr int ROWS = Width::ROWS;
    SHARED_ARRAY(float, buffer, 2 * ROWS * WARP);
    const int C = forward.C, column = threadIdx.x * PACK;
    const bool active = column < C;
    const int64_t first = blockIdx.x * rows_a_block, last = min(first + rows_a_block, forward.N);
    const float scale_out = scalar_or(forward.s_out, 1), scale = output_scale_of(forward.norm);
    const R *u_tensor = static_cast<const R *>(forward.f ? forward.u : forward.x);
    const float *means = static_cast<const float *>(forward.norm.mean);
    const float *rstds = static_cast<const float *>(forward.norm.rstd);
    const float channels = (float)C;

    float gamma[PACK], dgamma[PACK], dbeta[PACK], dbias[PACK], dgate = 0;
    fill_pack(gamma, 0), fill_pack(dgamma, 0), fill_pack(dbeta, 0), fill_pack(dbias, 0);
    if (active) load_pack_or(gamma, NORM == NORM_NONE ? NULL : forward.norm.gamma, column, 1);

    for (int64_t row0 = first; row0 < last; row0 += ROWS) {
        float u[ROWS][PACK], dy[ROWS][PACK], dresidual[ROWS][PACK];
        float mean[ROWS], rstd[ROWS], sums[2 * ROWS]; /* Σ g and Σ g⊙x̂ of each row */
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t row = row0 + k, at = row * row_stride(C) + column;
            fill_pack(u[k], 0), fill_pack(dy[k], 0), fill_pack(dresidual[k], 0);
            mean[k] = 0, rstd[k] = 1;
            if (row >= last) continue;
            if constexpr (NORM == NORM_LAYERNORM) mean[k] = means[row];
            if constexpr (NORM != NORM_NONE) rstd[k] = rstds[row];
            if (!active) continue;
            load_pack(u[k], u_tensor + at);
            if (args.dy) load_pack(dy[k], static_cast<const S *>(args.dy) + at);
            if (args.dresidual_in) load_pack(dresidual[k], static_cast<const R *>(args.dresidual_in) + at);
        }
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            sums[2 * k] = sums[2 * k + 1] = 0;
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                dy[k][i] *= scale;
                sums[2 * k] += gamma[i] * dy[k][i];
                sums[2 * k + 1] += gamma[i] * dy[k][i] * ((scale_out * u[k][i] - mean[k]) * rstd[k]);
            }
        }
        if constexpr (NORM != NORM_NONE) block_sum(sums, buffer);
#pragma unroll
        for (int k = 0; k < ROWS; k++) {
            const int64_t row = row0 + k, at = row * row_stride(C) + column;
            if (row >= last || !active) continue;
            const float mean_g = NORM == NORM_LAYERNORM ? sums[2 * k] / channels : 0;
            const float mean_gx = NORM == NORM_NONE ? 0 : sums[2 * k + 1] / channels;
            const float dmean_square =
                args.dmean_square_in ? 2 * static_cast<const float *>(args.dmean_square_in)[row] / channels
                                     : 0;
#pragma unroll
            for (int i = 0; i < PACK; i++) {
                const float r = scale_out * u[k][i], x_hat = (r - mean[k]) * rstd[k];
                float dr = rstd[k] * (gamma[i] * dy[k][i] - mean_g - x_hat * mean_gx);
                dr = column + i < C ? dr + dresidual[k][i] + dmean_square * r : 0;
                if constexpr (NORM != NORM_NONE) dgamma[i] += dy[k][i] * x_hat;
                if constexpr (NORM == NORM_LAYERNORM) dbeta[i] += dy[k][i];
                dbias[i] += dr;
                dgate += dr * u[k][i];
                dresidual[k][i] = dr;
            }
            if (args.dresidual_out) store_pack(static_cast<R *>(args.dresidual_out) + at, dresidual[k]);
            if (args.df) store_pack(static_cast<S *>(args.df) + at, dresidual[k]);
        }
    }
    if (active) {
        if (args.norm.dgamma) store_pack(partials.row(0, blockIdx.x, gridDim.x) + column, dgamma);
        if (args.norm.dbeta) store_pack(partials.row(1, blockIdx.x, gridDim.x) + column, dbeta);
        if (args.dbias) store_pack(partials.row(2, blockIdx.x, gridDim.x) + column, dbias);
    }
    if (args.dgate) {
        float sum[1] = {dgate};
        block_sum(sum, buffer);
        if (threadIdx.x == 0) partials.gate[blockIdx.x] = sum[0];
    }
}

/* dgate += −slope · Σ dr⊙u, by one warp. */
__global__ void add_gate(JunctionBackward args, Partials partials, int blocks) {
    float sum = 0;
    for (int block = threadIdx.x; block < blocks; block += WARP) sum += partials.gate[block];
    sum = warp_sum(sum);
    if (threadIdx.x == 0) *static_cast<float *>(args.dgate) -= scalar_or(args.gate_slope, 1) * sum;
}

size_t partial_bytes(int64_t C) {
    return (size_t)(COLUMN_SUMS * row_stride(C) + 1) * MAX_CHUNKS * sizeof(float);
}

template <typename S> struct RunBackward {
    Queue *queue;
    const JunctionBackward *args;

    template <typename R, NormKind NORM, typename Width>
    void launch(const Chunks &chunks, unsigned threads, const Partials &partials) {
        LAUNCH((junction_backward_kernel<S, R, NORM, Width>), chunks.count, threads, 0, queue->stream, *args,
               *args->forward, chunks.rows, partials);
    }

    template <typename R, NormKind NORM> void operator()() {
        const Junction &forward = *args->forward;
        const Chunks chunks = split_rows(forward.N, Narrow::ROWS);
        const int64_t stride = row_stride(forward.C);
        Partials partials;
        partials.columns =
            static_cast<float *>(cuda_scratch(queue, partial_bytes(forward.C), "junction_backward"));
        partials.stride = stride;
        partials.gate = partials.columns + (int64_t)COLUMN_SUMS * chunks.count * stride;

        const unsigned threads = (unsigned)(ceil_div(stride / PACK, WARP) * WARP);
        if (threads <= Narrow::THREADS)
            launch<R, NORM, Narrow>(chunks, threads, partials);
        else if (threads <= Middle::THREADS)
            launch<R, NORM, Middle>(chunks, threads, partials);
        else
            launch<R, NORM, Wide>(chunks, threads, partials);
        Accum *const outs[COLUMN_SUMS] = {args->norm.dgamma, args->norm.dbeta, args->dbias};
        for (int i = 0; i < COLUMN_SUMS; i++)
            add_columns(queue, outs[i], partials.columns + i * (int64_t)chunks.count * stride, chunks.count,
                        stride, forward.C);
        if (args->dgate) LAUNCH(add_gate, 1, WARP, 0, queue->stream, *args, partials, (int)chunks.count);
    }
};

} // namespace

template <typename S> void junction_backward(Queue *queue, const JunctionBackward *args) {
    check_junction(args->forward);
    check(!args->sdd.dgamma && !args->inner.dgamma && !args->inner.dbeta && !args->norm.dscalar,
          "junction_backward on cuda: gradients of sdd, inner norms, dyt and bhyt are not there yet");
    check(!args->dmean_square_out, "junction_backward on cuda: bhyt's passed-on statistic is not there yet");
    if (args->forward->N == 0) return;
    dispatch_junction<S>(args->forward, RunBackward<S>{queue, args});
}
INSTANTIATE(junction_backward, JunctionBackward);

size_t junction_scratch(const Limits *limits) {
    return partial_bytes(limits->C);
}
