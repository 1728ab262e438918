/*
 * linear.cu: y = x·Wᵀ + bias and its two gradients, over cuBLASLt.
 *
 * cuBLASLt thinks in columns. A row-major [rows, n] matrix is, read by columns, its transpose [n, rows] with
 * the same leading dimension; so
 *
 *     forward   y  = x·Wᵀ     becomes   yᵀ [out, N]  = (Wᵀ)ᵀ · xᵀ     bias runs along D's rows
 *     input     dx = dy·W     becomes   dxᵀ [in, N]  =  Wᵀ   · dyᵀ
 *     weight    dW += dyᵀ·x   becomes   dWᵀ [in, out] += xᵀ  · (dyᵀ)ᵀ   fp32 output, beta = 1
 *
 * Sizes are passed padded: the contract keeps padding zero, so the products are the same, every dimension but
 * N is a multiple of 64, and what lands in padding is a sum of zeros. Leading dimensions are then always
 * multiples of 64 elements and operands 256-byte aligned, which the tensor cores want. (The extra work is at
 * most 63 columns: 0.1 % for a vocabulary of 50,257.)
 *
 * The algorithm is the heuristic's first for the shape; it is asked once and kept with the descriptors. Sums
 * are fp32 in every case; TF32 is used for cuda/f32 only if this file is compiled with -DALLOW_TF32. bf16
 * with fp32 output and the BIAS epilogue with a bias of the output's type are in cublasLtMatmul's table of
 * supported types, so no fallback is needed.
 *
 * Floor of a product [N,in]·[in,out] on an H200: 2·N·in·out FLOP at 990 TFLOP/s in bf16 (gpt2-124m's qkv at
 * 65,536 tokens: 0.23 ms; its bytes, 0.4 GB, 0.08 ms at 4.8 TB/s). Not yet measured: test/gpu_probe.
 */
#include "types.cuh"

#include <cublasLt.h>
#include <vector>

namespace {

/* What NVIDIA recommends as workspace on Hopper and newer; the queue's scratch area serves as it. */
constexpr size_t WORKSPACE_BYTES = 32u << 20;

#ifdef ALLOW_TF32
constexpr cublasComputeType_t F32_COMPUTE = CUBLAS_COMPUTE_32F_FAST_TF32;
#else
constexpr cublasComputeType_t F32_COMPUTE = CUBLAS_COMPUTE_32F;
#endif

/* D [m,n] = op(A) [m,k] · op(B) [k,n] (+ D if accumulate) (+ bias), by columns. Two products with equal
   members share a plan. */
struct Product {
    int64_t m, n, k;
    cudaDataType_t type, out_type; /* of A, B and bias; of D */
    bool transpose_a, transpose_b, bias, accumulate;

    bool operator==(const Product &other) const {
        return m == other.m && n == other.n && k == other.k && type == other.type &&
               out_type == other.out_type && transpose_a == other.transpose_a &&
               transpose_b == other.transpose_b && bias == other.bias && accumulate == other.accumulate;
    }
};

struct Plan {
    Product product;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
};

cublasLtHandle_t handle;
std::vector<Plan> plans; /* a run has a few dozen shapes: searched from the front */

template <typename S>
constexpr cudaDataType_t data_type = sizeof(S) == sizeof(bf16) ? CUDA_R_16BF : CUDA_R_32F;

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T &value) {
    CUBLASLT_CHECK(cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof value),
                   "describing a product (attribute %d)", (int)attribute);
}

/* Operands as they lie in memory, before op(). A's and B's leading dimensions follow: rows are padded. */
void make_descriptors(Plan *plan) {
    const Product &p = plan->product;
    const cublasComputeType_t compute = p.type == CUDA_R_32F ? F32_COMPUTE : CUBLAS_COMPUTE_32F;
    CUBLASLT_CHECK(cublasLtMatmulDescCreate(&plan->operation, compute, CUDA_R_32F), "describing a product");
    const cublasOperation_t op_a = p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t op_b = p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, op_a);
    set(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB, op_b);
    if (p.bias) {
        const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        set(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        set(plan->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, p.type);
    }
    const int64_t a_rows = p.transpose_a ? p.k : p.m, a_cols = p.transpose_a ? p.m : p.k;
    const int64_t b_rows = p.transpose_b ? p.n : p.k, b_cols = p.transpose_b ? p.k : p.n;
    CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&plan->a, p.type, a_rows, a_cols, a_rows),
                   "describing a product");
    CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&plan->b, p.type, b_rows, b_cols, b_rows),
                   "describing a product");
    CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&plan->d, p.out_type, p.m, p.n, p.m), "describing a product");
}

void choose_algorithm(Plan *plan) {
    const Product &p = plan->product;
    cublasLtMatmulPreference_t preference;
    CUBLASLT_CHECK(cublasLtMatmulPreferenceCreate(&preference), "choosing a product's algorithm");
    const uint64_t workspace = WORKSPACE_BYTES;
    CUBLASLT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                        &workspace, sizeof workspace),
                   "choosing a product's algorithm");
    cublasLtMatmulHeuristicResult_t result = {};
    int found = 0;
    CUBLASLT_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, plan->operation, plan->a, plan->b, plan->d, plan->d,
                                                  preference, 1, &result, &found),
                   "choosing an algorithm for a product of %lld × %lld × %lld", (long long)p.m,
                   (long long)p.n, (long long)p.k);
    require(found > 0 && result.state == CUBLAS_STATUS_SUCCESS,
            "cuBLASLt has no algorithm for a product of %lld × %lld × %lld", (long long)p.m, (long long)p.n,
            (long long)p.k);
    plan->algorithm = result.algo;
    plan->workspace_bytes = result.workspaceSize;
    CUBLASLT_CHECK(cublasLtMatmulPreferenceDestroy(preference), "choosing a product's algorithm");
}

/* The plan of this product, with this bias set in it. */
const Plan &plan_for(const Product &product, const void *bias) {
    for (const Plan &plan : plans) {
        if (!(plan.product == product)) continue;
        if (product.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
        return plan;
    }
    Plan plan = {};
    plan.product = product;
    make_descriptors(&plan);
    if (product.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    choose_algorithm(&plan);
    plans.push_back(plan);
    return plans.back();
}

void multiply(Queue *queue, const Product &product, const void *a, const void *b, const void *bias, void *d) {
    void *workspace = cuda_scratch(queue, WORKSPACE_BYTES, "linear");
    const Plan &plan = plan_for(product, bias);
    const float alpha = 1, beta = product.accumulate ? 1.0f : 0.0f;
    CUBLASLT_CHECK(cublasLtMatmul(handle, plan.operation, &alpha, a, plan.a, b, plan.b, &beta, d, plan.d, d,
                                  plan.d, &plan.algorithm, workspace, plan.workspace_bytes, queue->stream),
                   "a product of %lld × %lld × %lld", (long long)product.m, (long long)product.n,
                   (long long)product.k);
}

} // namespace

void linear_open(void) {
    CUBLASLT_CHECK(cublasLtCreate(&handle), "opening cuBLASLt");
}

void linear_close(void) {
    for (Plan &plan : plans) {
        CUBLASLT_CHECK(cublasLtMatrixLayoutDestroy(plan.a), "closing cuBLASLt");
        CUBLASLT_CHECK(cublasLtMatrixLayoutDestroy(plan.b), "closing cuBLASLt");
        CUBLASLT_CHECK(cublasLtMatrixLayoutDestroy(plan.d), "closing cuBLASLt");
        CUBLASLT_CHECK(cublasLtMatmulDescDestroy(plan.operation), "closing cuBLASLt");
    }
    plans.clear();
    CUBLASLT_CHECK(cublasLtDestroy(handle), "closing cuBLASLt");
}

template <typename S> void linear_forward(Queue *queue, const Linear *args) {
    Product product = {};
    product.m = row_stride(args->out), product.n = args->N, product.k = row_stride(args->in);
    product.type = product.out_type = data_type<S>;
    product.transpose_a = true;
    product.bias = args->bias != NULL;
    multiply(queue, product, args->w, args->x, args->bias, args->y);
}
INSTANTIATE(linear_forward, Linear);

template <typename S> void linear_backward_input(Queue *queue, const LinearBackward *args) {
    Product product = {};
    product.m = row_stride(args->in), product.n = args->N, product.k = row_stride(args->out);
    product.type = product.out_type = data_type<S>;
    multiply(queue, product, args->w, args->dy, NULL, args->dx);
}
INSTANTIATE(linear_backward_input, LinearBackward);

template <typename S> void linear_backward_weight(Queue *queue, const LinearBackward *args) {
    Product product = {};
    product.m = row_stride(args->in), product.n = row_stride(args->out), product.k = args->N;
    product.type = data_type<S>;
    product.out_type = CUDA_R_32F;
    product.transpose_b = true;
    product.accumulate = true;
    multiply(queue, product, args->x, args->dy, NULL, args->dw);
}
INSTANTIATE(linear_backward_weight, LinearBackward);

size_t linear_scratch(const Limits *) {
    return WORKSPACE_BYTES;
}
