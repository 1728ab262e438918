/* product_bf16.c: without oneDNN there are no products of bf16: see kernels/cpu/product.h. */
#include "../../kernels/cpu/product.h"

const char *NAME(multiply_lacks)(void) { return "a matrix product of bf16 (this build is one without oneDNN)"; }

void NAME(multiply)(const Product *p) { fail(EXIT_RUNTIME, "%s: %s", p->operation, NAME(multiply_lacks)()); }
