/*
 * columns.cu: the second pass over column sums: partial rows are added to a gradient, in a fixed order.
 */
#include "columns.cuh"

namespace {

/* A block owns 8 columns (32 bytes, a memory sector) and splits the partial rows into 16 stripes. */
constexpr int COLUMNS = 8, STRIPES = 16;

__global__ void __launch_bounds__(COLUMNS *STRIPES)
    add_columns_kernel(float *__restrict__ out, const float *__restrict__ partial, int chunks, int64_t stride,
                       int64_t columns, int groups, int64_t group_stride) {
    SHARED_ARRAY(float, sums, COLUMNS *STRIPES);
    const int64_t column = (int64_t)blockIdx.x * COLUMNS + threadIdx.x % COLUMNS;
    const int stripe = threadIdx.x / COLUMNS;
    float sum = 0;
    if (column < columns)
        for (int i = stripe; i < chunks * groups; i += STRIPES)
            sum += partial[i / groups * stride + i % groups * group_stride + column];
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
    LAUNCH(add_columns_kernel, (unsigned)ceil_div(columns, COLUMNS), COLUMNS * STRIPES, 0, queue->stream,
           static_cast<float *>(out), partial, chunks, stride, columns, groups, group_stride);
}
