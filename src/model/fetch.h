/*
 * fetch.h: activations on the device as plain rows of doubles on the host. For probes and samples: it waits.
 */
#ifndef FETCH_H
#define FETCH_H

#include "model.h"

/* out[r·width + c] = element (first + r, c) of a [·, width] tensor of padded rows. */
void fetch_rows(const Model *model, const void *tensor, DType type, int64_t first, int64_t rows, int width,
                double *out);

/* Where row `row` of such a tensor starts. */
const void *fetch_row_address(const void *tensor, DType type, int width, int64_t row);

#endif
