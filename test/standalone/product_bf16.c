/* product_bf16.c: without oneDNN there are no products of bf16. See kernels/cpu/product.h. */
#include "../../kernels/cpu/product.h"

const char *NAME(multiply_lacks)(void) { return "oneDNN"; }

void NAME(multiply)(const Product *p) { fail(EXIT_RUNTIME, "%s: there are no products of bf16 without oneDNN", p->operation); }
