/* linear.h: products of few rows, apart from the libraries' (few_rows.c). */
#ifndef LINEAR_H
#define LINEAR_H

#include "cpu.h"

enum { FEW_ROWS = 8 }; /* up to so many rows of x a product is bound by reading W */

/* linear_forward for 1 to FEW_ROWS rows. */
void NAME(linear_few_rows)(const Linear *args);

#endif
