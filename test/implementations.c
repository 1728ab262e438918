/* implementations.c: see implementations.h. A build without an implementation leaves its row out. */
#include "implementations.h"

const Implementation implementations[] = {
    {.kernels = &kernels_cpu_f64,
     .plain = &kernels_plain_f64,
     .host_memory = true,
     .openmp = true,
     .any_head_size = true},
    {.kernels = &kernels_cpu_f32,
     .plain = &kernels_plain_f32,
     .host_memory = true,
     .openmp = true,
     .any_head_size = true},
    {.kernels = &kernels_cpu_bf16,
     .plain = &kernels_plain_bf16,
     .host_memory = true,
     .openmp = true,
     .any_head_size = true},
#ifdef WITH_CUDA
    {.kernels = &kernels_cuda_f32, .plain = &kernels_plain_f32},
    {.kernels = &kernels_cuda_bf16, .plain = &kernels_plain_bf16},
#endif
#ifdef WITH_EMULATION
    {.kernels = &kernels_cuda_f32, .plain = &kernels_plain_f32, .slow = true, .host_memory = true},
    {.kernels = &kernels_cuda_bf16, .plain = &kernels_plain_bf16, .slow = true, .host_memory = true},
#endif
    /* The plain versions can be run as implementations: this tests suite and loops. */
    {.kernels = &kernels_plain_f64,
     .plain = &kernels_plain_f64,
     .host_memory = true,
     .any_head_size = true,
     .by_name_only = true},
    {.kernels = &kernels_plain_f32,
     .plain = &kernels_plain_f32,
     .host_memory = true,
     .any_head_size = true,
     .by_name_only = true},
    {.kernels = &kernels_plain_bf16,
     .plain = &kernels_plain_bf16,
     .host_memory = true,
     .any_head_size = true,
     .by_name_only = true},
};
const int n_implementations = sizeof implementations / sizeof implementations[0];
