/*
 * linear.cu: y = x·Wᵀ + bias and its two gradients, over cuBLASLt.
 *
 * cuBLASLt thinks in columns. A row-major [rows, n] matrix is, read by columns, its transpose [n, rows] with
 * the same leading dimension; so
 *
 *     forward   y  = x·Wᵀ     becomes   yᵀ [out, N]  = (Wᵀ)ᵀ · xᵀ     bias runs along D's rows
 *     input     dx = dy·W     becomes   dxᵀ [in, N]  =  Wᵀ   · dyᵀ
 *     weight    dW += dyᵀ·x   becomes   dWᵀ [in, out] += xᵀ  · (dyᵀ)ᵀ   fp32 output, beta = 1; to overwrite, 0
 *
 * Sizes are passed padded: the contract keeps padding zero, so the products are the same, every dimension but
 * N is a multiple of 64, and what is written to padding is a sum of zeros. Leading dimensions are then always
 * multiples of 64 elements, and operands aligned to 256 bytes at a tensor's start, to 128 at any of its rows (bf16 rows of
 * an odd multiple of 64: the last row of an even prompt). What holds for this call's operands is what the heuristic is
 * promised. (The extra work is at most 63 columns.)
 *
 * The algorithm is the heuristic's first for the shape, or with --gemm-tune the fastest of its first eight, on the
 * operands of the shape's first product; it is asked once and kept with the descriptors. Measuring waits for the
 * queue, the one exception to the contract's rule, in the first step only. Sums
 * are fp32 in every case; TF32 is used for cuda/f32 only if this file is compiled with -DALLOW_TF32. bf16
 * with fp32 output and the BIAS epilogue with a bias of the output's type are in cublasLtMatmul's table of
 * supported types, so no fallback is needed.
 */
#include "gemm.cuh"

#include <vector>

namespace {

/* What NVIDIA recommends as workspace on Hopper and newer; the queue's scratch area serves as it. */
constexpr size_t WORKSPACE_BYTES = 32u << 20;

#ifdef ALLOW_TF32
constexpr cublasComputeType_t F32_COMPUTE = CUBLAS_COMPUTE_32F_FAST_TF32;
#else
constexpr cublasComputeType_t F32_COMPUTE = CUBLAS_COMPUTE_32F;
#endif

struct Plan {
    Product product;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
};

/* A product's operands, and what is named where it fails. */
struct Operands {
    const char *operation;
    const void *a, *b, *bias;
    void *d;
};

cublasLtHandle_t handle;
bool tuning;
std::vector<Plan> plans; /* a run has a few dozen shapes: searched from the front */

template <typename S>
constexpr cudaDataType_t data_type = sizeof(S) == sizeof(bf16) ? CUDA_R_16BF : CUDA_R_32F;

/* "linear_forward: m × n × k = …" for messages. */
struct Description {
    char text[160];

    Description(const char *operation, const Product &p) {
        snprintf(text, sizeof text, "%s: %lld × %lld, sums over %lld, %s to %s", operation, (long long)p.m,
                 (long long)p.n, (long long)p.k, p.type == CUDA_R_16BF ? "bf16" : "fp32",
                 p.out_type == CUDA_R_16BF ? "bf16" : "fp32");
    }
};

template <typename T>
void set(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, const T &value) {
    CUBLASLT_CHECK(cublaslt.MatmulDescSetAttribute(operation, attribute, &value, sizeof value),
                   "describing a product (attribute %d)", (int)attribute);
}

/* Operands as they lie in memory, before op(). A's and B's leading dimensions follow: rows are padded. */
void make_descriptors(Plan *plan) {
    const Product &p = plan->product;
    const cublasComputeType_t compute = p.type == CUDA_R_32F ? F32_COMPUTE : CUBLAS_COMPUTE_32F;
    CUBLASLT_CHECK(cublaslt.MatmulDescCreate(&plan->operation, compute, CUDA_R_32F), "describing a product");
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
    CUBLASLT_CHECK(cublaslt.MatrixLayoutCreate(&plan->a, p.type, a_rows, a_cols, a_rows),
                   "describing a product");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutCreate(&plan->b, p.type, b_rows, b_cols, b_rows),
                   "describing a product");
    CUBLASLT_CHECK(cublaslt.MatrixLayoutCreate(&plan->d, p.out_type, p.m, p.n, p.m), "describing a product");
}

void promise(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t operand, uint32_t bytes,
             const Description &what) {
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceSetAttribute(preference, operand, &bytes, sizeof bytes),
                   "choosing an algorithm for %s", what.text);
}

/* The largest power of two that divides the address, as far as anybody asks. */
uint32_t alignment_of(const void *operand) {
    const uintptr_t bits = reinterpret_cast<uintptr_t>(operand) | GEMM_ALIGNMENT;
    return (uint32_t)(bits & (0 - bits));
}

/* The heuristic's first algorithms, at most `most`. */
int ask_heuristic(const Plan &plan, const char *operation, int most, cublasLtMatmulHeuristicResult_t *results) {
    const Description what(operation, plan.product);
    cublasLtMatmulPreference_t preference;
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceCreate(&preference), "choosing an algorithm for %s", what.text);
    const uint64_t workspace = WORKSPACE_BYTES;
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                         &workspace, sizeof workspace),
                   "choosing an algorithm for %s", what.text);
    const uint32_t sums = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE; /* the contract's: pieces of a sum are added up in fp32 */
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &sums,
                                                         sizeof sums),
                   "choosing an algorithm for %s", what.text);
    const Product &p = plan.product;
    promise(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, p.align[0], what);
    promise(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, p.align[1], what);
    promise(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, p.align[2], what);
    promise(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, p.align[2], what);
    int found = 0;
    CUBLASLT_CHECK(cublaslt.MatmulAlgoGetHeuristic(handle, plan.operation, plan.a, plan.b, plan.d, plan.d,
                                                   preference, most, results, &found),
                   "choosing an algorithm for %s", what.text);
    require(found > 0 && results[0].state == CUBLAS_STATUS_SUCCESS, "cuBLASLt has no algorithm for %s", what.text);
    CUBLASLT_CHECK(cublaslt.MatmulPreferenceDestroy(preference), "choosing an algorithm for %s", what.text);
    return found;
}

void use(Plan *plan, const cublasLtMatmulHeuristicResult_t &result) {
    plan->algorithm = result.algo;
    plan->workspace_bytes = result.workspaceSize;
}

void run(Queue *queue, const Plan &plan, const Operands &on, void *workspace) {
    const float alpha = 1, beta = plan.product.accumulate ? 1.0f : 0.0f;
    CUBLASLT_CHECK(cublaslt.Matmul(handle, plan.operation, &alpha, on.a, plan.a, on.b, plan.b, &beta, on.d,
                                   plan.d, on.d, plan.d, &plan.algorithm, workspace, plan.workspace_bytes,
                                   queue->stream),
                   "%s", Description(on.operation, plan.product).text);
}

/* Milliseconds of the fastest of a few runs, after one that warms. */
float measure(Queue *queue, const Plan &plan, const Operands &on, void *workspace, cudaEvent_t begin,
              cudaEvent_t end) {
    const int RUNS = 4;
    float least = 0;
    for (int i = 0; i <= RUNS; i++) {
        float milliseconds = 0;
        CUDA_CHECK(cudaEventRecord(begin, queue->stream), "measuring %s", on.operation);
        run(queue, plan, on, workspace);
        CUDA_CHECK(cudaEventRecord(end, queue->stream), "measuring %s", on.operation);
        CUDA_CHECK(cudaEventSynchronize(end), "measuring %s", on.operation);
        CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin, end), "measuring %s", on.operation);
        if (i == 1 || (i > 1 && milliseconds < least)) least = milliseconds;
    }
    return least;
}

/* What is added to must not be added to eight times: another place serves, where there is memory for it. */
bool spare_result(Queue *queue, const Product &p, const Operands &on, void **spare) {
    *spare = NULL;
    if (!p.accumulate) return true;
    const size_t bytes = (size_t)(p.m * p.n) * sizeof(float);
    if (cudaMalloc(spare, bytes) != cudaSuccess) {
        cudaGetLastError();
        warn("--gemm-tune: no %.2f GB to measure %s in; its first algorithm serves", (double)bytes * 1e-9,
             Description(on.operation, p).text);
        return false;
    }
    CUDA_CHECK(cudaMemsetAsync(*spare, 0, bytes, queue->stream), "measuring %s", on.operation);
    return true;
}

/* Leaves the fastest algorithm in the plan, and notes it. The first of equals wins. */
void tune(Queue *queue, Plan *plan, const Operands &on, void *workspace) {
    const int MOST = 8;
    cublasLtMatmulHeuristicResult_t results[MOST] = {};
    Operands measured = on;
    void *spare;
    const int found = ask_heuristic(*plan, on.operation, MOST, results);
    use(plan, results[0]);
    if (!spare_result(queue, plan->product, on, &spare)) return;
    if (spare) measured.d = spare;
    cudaEvent_t begin, end;
    CUDA_CHECK(cudaEventCreate(&begin), "measuring %s", on.operation);
    CUDA_CHECK(cudaEventCreate(&end), "measuring %s", on.operation);
    float least = 0;
    int best = 0;
    for (int i = 0; i < found; i++) {
        if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
        use(plan, results[i]);
        const float milliseconds = measure(queue, *plan, measured, workspace, begin, end);
        if (i == 0 || milliseconds < least) least = milliseconds, best = i;
    }
    use(plan, results[best]);
    gemm_choose(plan->product, &plan->algorithm);
    CUDA_CHECK(cudaEventDestroy(begin), "measuring %s", on.operation);
    CUDA_CHECK(cudaEventDestroy(end), "measuring %s", on.operation);
    CUDA_CHECK(cudaFree(spare), "measuring %s", on.operation);
}

/* The algorithm of a file, if the library takes it for this product. */
bool use_choice(Plan *plan, const char *operation) {
    const cublasLtMatmulAlgo_t *choice = gemm_choice(plan->product);
    if (!choice) return false;
    cublasLtMatmulHeuristicResult_t result = {};
    cublasStatus_t status = cublaslt.MatmulAlgoCheck(handle, plan->operation, plan->a, plan->b, plan->d,
                                                     plan->d, choice, &result);
    if (status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= WORKSPACE_BYTES) {
        result.algo = *choice;
        use(plan, result);
        return true;
    }
    warn("gemm.json: cuBLASLt refuses the algorithm for %s: its first serves, and the bits will differ",
         Description(operation, plan->product).text);
    gemm_choose(plan->product, NULL);
    return false;
}

bool is_captured(Queue *queue) {
    cudaStreamCaptureStatus status;
    CUDA_CHECK(cudaStreamIsCapturing(queue->stream, &status), "asking whether a queue is captured");
    return status != cudaStreamCaptureStatusNone;
}

/* The plan of this product, with this bias set in it. */
const Plan &plan_for(Queue *queue, const Product &product, const Operands &on, void *workspace) {
    for (const Plan &plan : plans) {
        if (!(plan.product == product)) continue;
        if (product.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, on.bias);
        return plan;
    }
    Plan plan = {};
    plan.product = product;
    make_descriptors(&plan);
    if (product.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, on.bias);
    if (!use_choice(&plan, on.operation)) {
        cublasLtMatmulHeuristicResult_t first = {};
        if (tuning && !is_captured(queue)) {
            tune(queue, &plan, on, workspace);
        } else {
            ask_heuristic(plan, on.operation, 1, &first);
            use(&plan, first);
        }
    }
    plans.push_back(plan);
    return plans.back();
}

void multiply(Queue *queue, Product product, const Operands &on) {
    product.align[0] = alignment_of(on.a), product.align[1] = alignment_of(on.b), product.align[2] = alignment_of(on.d);
    void *workspace = cuda_scratch(queue, WORKSPACE_BYTES, on.operation);
    run(queue, plan_for(queue, product, on, workspace), on, workspace);
}

} // namespace

void linear_open(void) {
    CUBLASLT_CHECK(cublaslt.Create(&handle), "opening cuBLASLt");
}

void linear_forget_plans(void) {
    for (Plan &plan : plans) {
        CUBLASLT_CHECK(cublaslt.MatrixLayoutDestroy(plan.a), "closing cuBLASLt");
        CUBLASLT_CHECK(cublaslt.MatrixLayoutDestroy(plan.b), "closing cuBLASLt");
        CUBLASLT_CHECK(cublaslt.MatrixLayoutDestroy(plan.d), "closing cuBLASLt");
        CUBLASLT_CHECK(cublaslt.MatmulDescDestroy(plan.operation), "closing cuBLASLt");
    }
    plans.clear();
}

void linear_tune(bool tune) {
    tuning = tune;
}

void linear_close(void) {
    linear_forget_plans();
    gemm_forget_all();
    tuning = false;
    CUBLASLT_CHECK(cublaslt.Destroy(handle), "closing cuBLASLt");
}

template <typename S> void linear_forward(Queue *queue, const Linear *args) {
    Product product = {};
    product.m = row_stride(args->out), product.n = args->N, product.k = row_stride(args->in);
    product.type = product.out_type = data_type<S>;
    product.transpose_a = true;
    product.bias = args->bias != NULL;
    multiply(queue, product, {"linear_forward", args->w, args->x, args->bias, args->y});
}
INSTANTIATE(linear_forward, Linear);

template <typename S> void linear_backward_input(Queue *queue, const LinearBackward *args) {
    Product product = {};
    product.m = row_stride(args->in), product.n = args->N, product.k = row_stride(args->out);
    product.type = product.out_type = data_type<S>;
    multiply(queue, product, {"linear_backward_input", args->w, args->dy, NULL, args->dx});
}
INSTANTIATE(linear_backward_input, LinearBackward);

template <typename S> void linear_backward_weight(Queue *queue, const LinearBackward *args) {
    Product product = {};
    product.m = row_stride(args->in), product.n = row_stride(args->out), product.k = args->N;
    product.type = data_type<S>;
    product.out_type = CUDA_R_32F;
    product.transpose_b = true;
    product.accumulate = !args->overwrite;
    multiply(queue, product, {"linear_backward_weight", args->x, args->dy, NULL, args->dw});
}
INSTANTIATE(linear_backward_weight, LinearBackward);

size_t linear_scratch(const Limits *) {
    return WORKSPACE_BYTES;
}
