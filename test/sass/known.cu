/*
 * known.cu: small kernels whose counts are known from what is written here. test_sass.py compiles them for sm_90
 * and holds the gate's method to them. Nothing runs.
 */

constexpr int THREADS = 128;

/* One load of 4 bytes a round, used at once. */
__global__ void one_load(const float *__restrict__ x, float *__restrict__ y, int n) {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS) y[i] = 2 * x[i];
}

/* Four loads of 16 bytes a round, all in flight before the first is used. */
__global__ void four_loads(const float4 *__restrict__ x, float4 *__restrict__ y, int n) {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const float4 a = x[i], b = x[i + n], c = x[i + 2 * n], d = x[i + 3 * n];
        y[i] = make_float4(a.x + b.x + c.x + d.x, a.y + b.y + c.y + d.y, a.z * b.z * c.z * d.z, a.w - d.w);
    }
}

/* Two rounds are one; the second's load must wait for the first's store, which may have changed it. */
__global__ void two_rounds_aliased(const float *x, float *y, int n) {
#pragma unroll 2
    for (int i = threadIdx.x; i < n; i += THREADS) y[i] = 2 * x[i];
}

/* The same where it need not. */
__global__ void two_rounds(const float *__restrict__ x, float *__restrict__ y, int n) {
#pragma unroll 2
    for (int i = threadIdx.x; i < n; i += THREADS) y[i] = 2 * x[i];
}

/* Two copies of 16 bytes to shared memory a round, waited for at its end. */
__global__ void copies(const float4 *__restrict__ x, float4 *__restrict__ y, int n) {
    __shared__ float4 staged[2 * THREADS]; /* 4,096 bytes */
    const unsigned to = (unsigned)__cvta_generic_to_shared(staged + threadIdx.x);
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + i) : "memory");
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + 16 * THREADS), "l"(x + i + n) : "memory");
        asm volatile("cp.async.commit_group;\n\tcp.async.wait_group 0;" ::: "memory");
        const float4 a = staged[threadIdx.x], b = staged[threadIdx.x + THREADS];
        y[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
    }
}

/* Six products a round of the inner loop, in the middle of an outer one that has two of its own. */
__device__ __forceinline__ void product(float (&c)[4], unsigned a, unsigned b) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %4, %4, %4}, {%5, %5}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a), "r"(b));
}

__global__ void nested(const unsigned *__restrict__ x, float *__restrict__ y, int n, int m) {
    float c[4] = {};
#pragma unroll 1
    for (int i = 0; i < n; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) product(c, i, k);
#pragma unroll 1
        for (int j = 0; j < m; j++) {
#pragma unroll
            for (int k = 0; k < 6; k++) product(c, j, k);
        }
        y[i] = c[0] + c[1] + c[2] + c[3] + (float)x[i];
    }
}

/* What few rounds do (forty divisions and a second store) is not on the way through the first store. */
__global__ void seldom(const float *__restrict__ x, float *__restrict__ y, double *__restrict__ z, int n) {
#pragma unroll 1
    for (int i = threadIdx.x; i < n; i += THREADS) {
        const float value = x[i];
        y[i] = 2 * value;
        if (value > 1e30f) {
            double sum = value;
#pragma unroll
            for (int k = 0; k < 40; k++) sum += 1 / (sum + k);
            z[i] = sum;
        }
    }
}

/* 32 registers a thread, and 96 values that live at once: they go through local memory. */
__global__ void __launch_bounds__(1024, 2) spilling(const float *__restrict__ x, float *__restrict__ y, int n) {
    float value[96];
#pragma unroll
    for (int k = 0; k < 96; k++) value[k] = x[k * n + threadIdx.x];
#pragma unroll 1
    for (int i = 0; i < n; i++) {
#pragma unroll
        for (int k = 0; k < 96; k++) value[k] = value[k] * value[(k + 1) % 96] + 1;
    }
#pragma unroll
    for (int k = 0; k < 96; k++) y[k * n + threadIdx.x] = value[k];
}

/* No loop, eight values a thread. */
__global__ void straight(const float4 *__restrict__ x, float4 *__restrict__ y) {
    const int i = 2 * threadIdx.x;
    const float4 a = x[i], b = x[i + 1];
    y[i] = b, y[i + 1] = a;
}
