/*
 * columns.cu: the second pass over column sums: partial rows are added to a gradient, in a fixed order.
 */
#include "columns.cuh"

namespace {

/* A block owns 8 columns (32 bytes, a memory sector) and splits the partial rows into 16 stripes. */
constexpr int COLUMNS = 8, STRIPES = 16;

/* Where partial row i of `chunks` · `groups` starts. Usually there is one group, and no division. */
template <bool GROUPED>
__device__ __forceinline__ int64_t partial_row(int i, int64_t stride, int groups, int64_t group_stride) {
    return GROUPED ? i / groups * stride + i % groups * group_stride : i * stride;
}

template <bool GROUPED>
__global__ void __launch_bounds__(COLUMNS *STRIPES)
    add_columns_kernel(float *__restrict__ out, const float *__restrict__ partial, int chunks, int64_t stride,
                       int64_t columns, int groups, int64_t group_stride) {
    SHARED_ARRAY(float, sums, COLUMNS *STRIPES);
    const int64_t column = (int64_t)blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    const int stripe = threadIdx.x / COLUMNS, rows = GROUPED ? chunks * groups : chunks;
    float sum = 0;
    if (column < columns) {
#pragma unroll 8
        for (int i = stripe; i < rows; i += STRIPES)
            sum += partial[partial_row<GROUPED>(i, stride, groups, group_stride) + column];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (stripe != 0 || column >= columns) return;
    for (int i = 1; i < STRIPES; i++) sum += sums[i * COLUMNS + threadIdx.x];
    out[column] += sum;
}

} // namespace

void add_columns(Queue *queue, Accum *out, const float *partial, int chunks, int64_t stride, int64_t columns,
                 int groups, int64_t group_stride) {
    if (!out) return;
    const unsigned blocks = (unsigned)ceil_div(columns, COLUMNS);
    if (groups == 1)
        LAUNCH((add_columns_kernel<false>), blocks, COLUMNS * STRIPES, 0, queue->stream,
               static_cast<float *>(out), partial, chunks, stride, columns, groups, group_stride);
    else
        LAUNCH((add_columns_kernel<true>), blocks, COLUMNS * STRIPES, 0, queue->stream,
               static_cast<float *>(out), partial, chunks, stride, columns, groups, group_stride);
}
