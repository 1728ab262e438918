/*
 * cublaslt.cpp: the emulated cuBLASLt: what it accepts (include/cublasLt.h lists it), and the product itself.
 *
 * Operands become fp32 once; every element of D is an fp32 sum over k in order, alpha and beta are applied in
 * fp32 and the result is rounded once, when it is stored. Where a preference lets the pieces of a sum be added up in D's type,
 * every algorithm does that.
 */
#include "cublasLt.h"
#include "cuda_bf16.h"
#include "runtime.h"

#include <stdlib.h>
#include <unistd.h>
#include <algorithm>
#include <vector>

struct cublasLtContext {
    int unused;
};

struct cublasLtMatmulDescOpaque_t {
    int32_t compute, scale, pointer_mode, op_a, op_b, op_c;
    uint32_t epilogue;
    const void *bias;
    int64_t bias_batch_stride;
    int32_t bias_type;
};

struct cublasLtMatrixLayoutOpaque_t {
    uint32_t type, order;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batches;
    int64_t batch_stride;
};

struct cublasLtMatmulPreferenceOpaque_t {
    uint64_t max_workspace;
    uint32_t alignment[4]; /* of A, B, C, D in bytes */
    uint32_t reductions;   /* mask of cublasLtReductionScheme_t */
};

namespace {

using namespace emu;
typedef cublasLtMatmulDescOpaque_t Desc;
typedef cublasLtMatrixLayoutOpaque_t Layout;
typedef cublasLtMatmulPreferenceOpaque_t Preference;

const uint64_t ALGORITHM_MAGIC = 0x656d752d6c742031u;
const int ALGORITHMS = 8;
const size_t WORKSPACE = 1 << 20; /* what every algorithm but the first says it needs */

const char *reason = ""; /* why the last problem was refused */

cublasStatus_t refuse(cublasStatus_t status, const char *why) {
    reason = why;
    return status;
}
cublasStatus_t unsupported(const char *why) {
    return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
}
cublasStatus_t invalid(const char *why) {
    return refuse(CUBLAS_STATUS_INVALID_VALUE, why);
}

size_t type_bytes(uint32_t type) {
    return type == CUDA_R_16BF ? 2 : 4;
}
bool has_bias(const Desc &desc) {
    return desc.epilogue & CUBLASLT_EPILOGUE_BIAS;
}
bool same_layout(const Layout &x, const Layout &y) {
    return x.type == y.type && x.order == y.order && x.rows == y.rows && x.cols == y.cols && x.ld == y.ld &&
           x.batches == y.batches && x.batch_stride == y.batch_stride;
}

cublasStatus_t check_types(const Desc &desc, const Layout &a, const Layout &b, const Layout &c,
                           const Layout &d) {
    if (desc.compute != CUBLAS_COMPUTE_32F && desc.compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return unsupported("the emulation computes in CUBLAS_COMPUTE_32F only");
    if (desc.scale != CUDA_R_32F) return unsupported("CUBLAS_COMPUTE_32F takes alpha and beta in CUDA_R_32F");
    if (desc.pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return unsupported("alpha and beta must be on the host");
    if (a.type != b.type) return unsupported("A and B differ in type");
    if (c.type != d.type) return unsupported("C and D differ in type");
    bool bf16_in = a.type == CUDA_R_16BF, f32_in = a.type == CUDA_R_32F;
    bool bf16_out = d.type == CUDA_R_16BF, f32_out = d.type == CUDA_R_32F;
    if (!(bf16_in && (bf16_out || f32_out)) && !(f32_in && f32_out))
        return unsupported("supported are bf16 → bf16, bf16 → fp32 and fp32 → fp32");
    switch (desc.epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_RELU:
    case CUBLASLT_EPILOGUE_GELU:
        break;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_RELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
        if (!desc.bias) return invalid("the epilogue needs a bias pointer before the heuristic is asked");
        if (reinterpret_cast<uintptr_t>(desc.bias) % 16) return invalid("the bias is not 16-byte aligned");
        if (desc.bias_type != -1 && (uint32_t)desc.bias_type != d.type)
            return unsupported("the bias must have D's type");
        if (desc.bias_batch_stride) return unsupported("the emulation has one bias for all batches");
        break;
    default:
        return unsupported("the emulation has no epilogue with an auxiliary matrix or a bias gradient");
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_layout(const Layout &x) {
    if (x.order != CUBLASLT_ORDER_COL) return unsupported("matrices are in column order");
    if (!x.rows || !x.cols) return invalid("a matrix without elements");
    if (x.ld < 0 || (uint64_t)x.ld < x.rows) return invalid("a leading dimension below the number of rows");
    if (x.batches < 1) return invalid("a batch count below 1");
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t check_problem(const Desc &desc, const Layout &a, const Layout &b, const Layout &c,
                             const Layout &d) {
    cublasStatus_t status = check_types(desc, a, b, c, d);
    for (const Layout *layout : {&a, &b, &c, &d})
        if (status == CUBLAS_STATUS_SUCCESS) status = check_layout(*layout);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (desc.op_a < CUBLAS_OP_N || desc.op_a > CUBLAS_OP_T || desc.op_b < CUBLAS_OP_N ||
        desc.op_b > CUBLAS_OP_T || desc.op_c != CUBLAS_OP_N)
        return unsupported("A and B are taken plain or transposed, C plain");
    if (!same_layout(c, d)) return unsupported("C and D must have the same layout");
    if (a.batches != d.batches || b.batches != d.batches) return invalid("batch counts differ");
    uint64_t k = desc.op_a ? a.rows : a.cols;
    if ((desc.op_a ? a.cols : a.rows) != d.rows || (desc.op_b ? b.rows : b.cols) != d.cols ||
        (desc.op_b ? b.cols : b.rows) != k)
        return invalid("the shapes of A, B and D do not fit together");
    return CUBLAS_STATUS_SUCCESS;
}

/* What an algorithm is bound to: FNV-1a over everything but pointers. */
uint64_t fingerprint(const Desc &desc, const Layout &a, const Layout &b, const Layout &c, const Layout &d) {
    std::vector<uint64_t> words = {(uint64_t)desc.compute, (uint64_t)desc.op_a, (uint64_t)desc.op_b,
                                   desc.epilogue};
    for (const Layout *x : {&a, &b, &c, &d})
        words.insert(words.end(), {x->type, x->rows, x->cols, (uint64_t)x->ld, (uint64_t)x->batches,
                                   (uint64_t)x->batch_stride});
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint64_t word : words) hash = (hash ^ word) * 0x100000001b3u, hash ^= hash >> 29;
    return hash;
}

/* The roughest of those that are allowed. In place needs no workspace, so that the first algorithm can have it. */
uint64_t reduction_scheme(uint32_t allowed, bool has_workspace) {
    if (has_workspace && (allowed & CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)) return CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    if (allowed & CUBLASLT_REDUCTION_SCHEME_INPLACE) return CUBLASLT_REDUCTION_SCHEME_INPLACE;
    return has_workspace ? allowed & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : 0;
}

bool rounds_pieces(uint64_t scheme) {
    return scheme & (CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE);
}

/* Algorithm i has i + 1 pieces, and where they are rounded at least a few. */
int pieces_of(uint64_t algorithm, uint64_t scheme) {
    if (scheme == CUBLASLT_REDUCTION_SCHEME_NONE) return 1;
    return (int)algorithm + (rounds_pieces(scheme) ? 4 : 1);
}

/* Whether a heuristic can have given this for a problem with that fingerprint. */
cublasStatus_t check_algorithm(const cublasLtMatmulAlgo_t &algo, uint64_t problem) {
    if (algo.data[0] != ALGORITHM_MAGIC || algo.data[1] >= (uint64_t)ALGORITHMS ||
        algo.data[4] != (algo.data[1] ? WORKSPACE : 0) || algo.data[5] > CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE)
        return invalid("an algorithm that no heuristic gave");
    if (algo.data[2] != problem) return invalid("an algorithm that was found for another problem");
    return CUBLAS_STATUS_SUCCESS;
}

/* EMU_FAST_ALGORITHM=i: every other one takes a millisecond longer, so that measuring finds it. */
void take_time(uint64_t algorithm) {
    const char *fast = getenv("EMU_FAST_ALGORITHM");
    if (fast && strtoull(fast, nullptr, 10) != algorithm) usleep(1000);
}

/* A whole matrix of the batch as fp32, packed by columns, transposed if asked; a fault on poison. */
std::vector<float> read_matrix(const char *name, const void *base, const Layout &layout, int64_t batch,
                               bool transpose) {
    std::vector<float> out(layout.rows * layout.cols);
    for (uint64_t col = 0; col < layout.cols; col++)
        for (uint64_t row = 0; row < layout.rows; row++) {
            size_t at = (size_t)(batch * layout.batch_stride) + col * (size_t)layout.ld + row;
            float value;
            bool poison;
            if (layout.type == CUDA_R_16BF) {
                uint16_t bits = static_cast<const uint16_t *>(base)[at];
                poison = bits == POISON_BF16;
                value = poison ? 0.0f : bf16_to_float(bits);
            } else {
                uint32_t bits;
                memcpy(&bits, static_cast<const float *>(base) + at, 4);
                poison = bits == POISON;
                memcpy(&value, &bits, 4);
            }
            if (poison)
                fault("cublasLtMatmul: %s[row %llu, column %llu] of batch %lld is uninitialised", name,
                      (unsigned long long)row, (unsigned long long)col, (long long)batch);
            out[transpose ? row * layout.cols + col : col * layout.rows + row] = value;
        }
    return out;
}

#if defined(__clang__)
#define VECTORISED
#else
#define VECTORISED __attribute__((optimize("O3")))
#endif

/* out [m, n] += a [m, k] · b [k, n] for columns of k from..to, all packed by columns. */
VECTORISED void accumulate(float *out, const float *a, const float *b, size_t m, size_t n, size_t k,
                           size_t from, size_t to) {
    const size_t tile = 256; /* rows at a time: the tile of a stays in cache across columns of out */
    for (size_t row = 0; row < m; row += tile) {
        size_t rows = std::min(tile, m - row);
        for (size_t col = 0; col < n; col++) {
            float *sum = out + col * m + row;
            const float *factor = b + col * k;
            for (size_t i = from; i < to; i++) {
                const float *column = a + i * m + row, f = factor[i];
                for (size_t r = 0; r < rows; r++) sum[r] += column[r] * f;
            }
        }
    }
}

float activate(uint32_t epilogue, float x) {
    if (epilogue & CUBLASLT_EPILOGUE_RELU) return x > 0.0f ? x : 0.0f;
    if (epilogue & CUBLASLT_EPILOGUE_GELU)
        return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
    return x;
}

float to_bf16_and_back(float x) {
    return bf16_to_float(float_to_bf16(x));
}

struct Problem {
    Desc desc;
    Layout a, b, d;
    float alpha, beta;
    const void *A, *B, *C;
    void *D;
    uint64_t algorithm;
    int pieces;
    bool rounds_pieces; /* to D's type, and their sums */
};

void multiply_batch(const Problem &p, int64_t batch) {
    size_t m = p.d.rows, n = p.d.cols, k = p.desc.op_a ? p.a.rows : p.a.cols;
    std::vector<float> a = read_matrix("A", p.A, p.a, batch, p.desc.op_a == CUBLAS_OP_T);
    std::vector<float> b = read_matrix("B", p.B, p.b, batch, p.desc.op_b == CUBLAS_OP_T);
    std::vector<float> c, bias, sum(m * n, 0.0f), piece;
    if (p.beta != 0.0f) c = read_matrix("C", p.C, p.d, batch, false);
    if (has_bias(p.desc))
        bias = read_matrix("bias", p.desc.bias, {p.d.type, 0, m, 1, (int64_t)m, 1, 0}, 0, false);
    for (int i = 0; i < p.pieces; i++) {
        piece.assign(m * n, 0.0f);
        accumulate(piece.data(), a.data(), b.data(), m, n, k, k * (size_t)i / (size_t)p.pieces,
                   k * (size_t)(i + 1) / (size_t)p.pieces);
        const bool rounds = p.rounds_pieces && p.d.type == CUDA_R_16BF;
        for (size_t j = 0; j < m * n; j++) sum[j] = rounds ? to_bf16_and_back(sum[j] + to_bf16_and_back(piece[j])) : sum[j] + piece[j];
    }
    for (size_t col = 0; col < n; col++)
        for (size_t row = 0; row < m; row++) {
            float x = p.alpha * sum[col * m + row];
            if (!c.empty()) x += p.beta * c[col * m + row];
            if (!bias.empty()) x += bias[row];
            x = activate(p.desc.epilogue, x);
            size_t at = (size_t)(batch * p.d.batch_stride) + col * (size_t)p.d.ld + row;
            if (p.d.type == CUDA_R_16BF)
                static_cast<uint16_t *>(p.D)[at] = float_to_bf16(x);
            else
                static_cast<float *>(p.D)[at] = x;
        }
}

void require_matrix(const char *name, const void *base, const Layout &x) {
    int64_t last_batch = (int64_t)(x.batches - 1) * x.batch_stride;
    size_t elements = (size_t)last_batch + (size_t)(x.cols - 1) * (size_t)x.ld + x.rows;
    char operation[64];
    snprintf(operation, sizeof operation, "cublasLtMatmul, %s", name);
    require_device_range(base, elements * type_bytes(x.type), operation);
}

bool aligned(const void *pointer, uint64_t alignment) {
    return reinterpret_cast<uintptr_t>(pointer) % alignment == 0;
}

} // namespace

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
    *found = 0;
    if (!handle || !desc || !a || !b || !c || !d || !preference || requested < 1)
        return invalid("a missing argument");
    cublasStatus_t status = check_problem(*desc, *a, *b, *c, *d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    for (int i = 0; i < std::min(requested, ALGORITHMS); i++) {
        size_t workspace = i ? WORKSPACE : 0;
        if (workspace > preference->max_workspace) break;
        uint64_t alignments = 0;
        for (int operand = 0; operand < 4; operand++)
            alignments |= (uint64_t)std::min(preference->alignment[operand], 256u) << 16 * operand;
        cublasLtMatmulHeuristicResult_t &result = results[(*found)++];
        result = cublasLtMatmulHeuristicResult_t();
        result.algo = {
            {ALGORITHM_MAGIC, (uint64_t)i, fingerprint(*desc, *a, *b, *c, *d), alignments, workspace,
             reduction_scheme(preference->reductions, workspace > 0)}};
        result.workspaceSize = workspace;
        result.wavesCount = 1.0f;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo, cublasLtMatmulHeuristicResult_t *result) {
    if (!handle || !desc || !a || !b || !c || !d || !algo || !result) return invalid("a missing argument");
    cublasStatus_t status = check_problem(*desc, *a, *b, *c, *d);
    if (status == CUBLAS_STATUS_SUCCESS) status = check_algorithm(*algo, fingerprint(*desc, *a, *b, *c, *d));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    result->workspaceSize = algo->data[4]; /* the algorithm in it is left as it is, as NVIDIA has it */
    result->state = CUBLAS_STATUS_SUCCESS;
    result->wavesCount = 1.0f;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
    if (!handle || !desc || !alpha || !beta || !A || !a || !B || !b || !C || !c || !D || !d)
        return invalid("a missing argument");
    cublasStatus_t status = check_problem(*desc, *a, *b, *c, *d);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    cublasLtMatmulAlgo_t chosen = {
        {ALGORITHM_MAGIC, 0, fingerprint(*desc, *a, *b, *c, *d), 0x0100010001000100u, 0, CUBLASLT_REDUCTION_SCHEME_NONE}};
    if (algo) {
        status = check_algorithm(*algo, chosen.data[2]);
        if (status != CUBLAS_STATUS_SUCCESS) return status;
        chosen = *algo;
    }
    const void *operands[4] = {A, B, C, D};
    for (int i = 0; i < 4; i++)
        if (!aligned(operands[i], chosen.data[3] >> 16 * i & 0xffff))
            return invalid("an operand is less aligned than the preference promised (256 bytes unless set)");
    size_t needed = chosen.data[4];
    if (needed && (!workspace || workspace_bytes < needed))
        return invalid("a workspace below what the algorithm needs");
    if (workspace && !aligned(workspace, 256)) return invalid("the workspace is not 256-byte aligned");

    Lock lock;
    Problem p = {*desc,
                 *a,
                 *b,
                 *d,
                 *static_cast<const float *>(alpha),
                 *static_cast<const float *>(beta),
                 A,
                 B,
                 C,
                 D,
                 chosen.data[1],
                 pieces_of(chosen.data[1], chosen.data[5]),
                 rounds_pieces(chosen.data[5])};
    require_matrix("A", A, *a);
    require_matrix("B", B, *b);
    require_matrix("D", D, *d);
    if (p.beta != 0.0f) require_matrix("C", C, *c);
    if (has_bias(*desc))
        require_device_range(desc->bias, d->rows * type_bytes(d->type), "cublasLtMatmul, bias");
    if (needed) require_device_range(workspace, needed, "cublasLtMatmul, workspace");
    queue_work("cublasLtMatmul", stream, [=] {
        take_time(p.algorithm);
        if (needed) poison_fill(workspace, needed);
        for (int64_t batch = 0; batch < p.d.batches; batch++) multiply_batch(p, batch);
    });
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- descriptors ------------------------------------------------------------------------------------- */

namespace {
/* Stores an attribute whose size must be the member's. */
template <typename T> cublasStatus_t store(T &member, const void *value, size_t bytes) {
    if (!value || bytes != sizeof member) return invalid("an attribute of the wrong size");
    memcpy(&member, value, sizeof member);
    return CUBLAS_STATUS_SUCCESS;
}
} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new cublasLtContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) {
    return 130000;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *desc = new Desc{compute, scale, 0, 0, 0, 0, CUBLASLT_EPILOGUE_DEFAULT, nullptr, 0, -1};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return store(desc->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return store(desc->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return store(desc->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return store(desc->op_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return store(desc->op_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSC:
        return store(desc->op_c, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return store(desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return store(desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        return store(desc->bias_batch_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return store(desc->bias_type, value, bytes);
    default:
        return unsupported("a product's attribute that the emulation does not know");
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *layout = new Layout{(uint32_t)type, CUBLASLT_ORDER_COL, rows, cols, ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return store(layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return store(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return store(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return store(layout->cols, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return store(layout->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return store(layout->batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return store(layout->batch_stride, value, bytes);
    default:
        return unsupported("a matrix's attribute that the emulation does not know");
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new Preference{0, {256, 256, 256, 256}, CUBLASLT_REDUCTION_SCHEME_MASK};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return store(preference->max_workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return store(preference->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return store(preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return store(preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return store(preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return store(preference->alignment[3], value, bytes);
    default:
        return unsupported("a preference that the emulation does not know");
    }
}

const char *cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    default:
        return "CUBLAS_STATUS_UNKNOWN";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : reason;
}
