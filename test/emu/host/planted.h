/* planted.h: a fault for test_host_path.c: AdamW with the learning rate as a kernel's argument. */
#ifndef PLANTED_H
#define PLANTED_H

#include "../../../kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the host believes to be the learning rate: it becomes an argument, and a captured argument is frozen. */
extern double planted_lr;
void planted_adamw(Queue *queue, const AdamW *args);

#ifdef __cplusplus
}
#endif
#endif
