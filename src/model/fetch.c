/* fetch.c: see fetch.h. */
#include "fetch.h"

#include <stdlib.h>
#include <string.h>

const void *fetch_row_address(const void *tensor, DType type, int width, int64_t row) {
    return (const char *)tensor + (size_t)row * (size_t)padded(width) * dtype_size(type);
}

static double element(const void *row, DType type, int64_t i) {
    if (type == DTYPE_F64) return ((const double *)row)[i];
    if (type == DTYPE_F32) return (double)((const float *)row)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)row)[i] << 16; /* bf16: the upper half of a float */
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

void fetch_rows(const Model *model, const void *tensor, DType type, int64_t first, int64_t rows, int width,
                double *out) {
    size_t row_bytes = (size_t)width * dtype_size(type);
    void *row = must_malloc(row_bytes, "a row of a tensor");
    for (int64_t r = 0; r < rows; r++) {
        model->k->copy(model->queue, row, fetch_row_address(tensor, type, width, first + r), row_bytes, COPY_TO_HOST);
        model->k->queue_wait(model->queue);
        for (int64_t c = 0; c < width; c++) out[r * width + c] = element(row, type, c);
    }
    free(row);
}
