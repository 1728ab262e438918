/* test_emu_cublaslt.cpp: the emulated cuBLASLt multiplies, and refuses what NVIDIA does not document. */
#include "test_emu.h"

#include "cublaslt.cuh"

#include <math.h>

namespace {

typedef __nv_bfloat16 bf16;

cublasLtHandle_t handle() {
    static cublasLtHandle_t made;
    if (!made) CUBLASLT_CHECK(cublasLtCreate(&made), "test");
    return made;
}

/* A product of small integers, so that fp32 sums are exact and one expected value holds for every order. */
struct Case {
    cudaDataType in, out;
    bool ta, tb, bias;
    float alpha, beta;
    int batches;
    uint64_t m = 7, n = 5, k = 19;
    cublasLtMatmulDesc_t desc = nullptr;
    cublasLtMatrixLayout_t a = nullptr, b = nullptr, d = nullptr;
    cublasLtMatmulPreference_t preference = nullptr;
    cublasLtMatmulHeuristicResult_t results[8] = {};
    int found = 0;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

    void open() {
        CUBLASLT_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "test");
        set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)(ta ? CUBLAS_OP_T : CUBLAS_OP_N));
        set(CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)(tb ? CUBLAS_OP_T : CUBLAS_OP_N));
        layout(&a, in, ta ? k : m, ta ? m : k);
        layout(&b, in, tb ? n : k, tb ? k : n);
        layout(&d, out, m, n);
        CUBLASLT_CHECK(cublasLtMatmulPreferenceCreate(&preference), "test");
        uint64_t workspace = 1 << 20;
        CUBLASLT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference,
                                                            CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                            &workspace, sizeof workspace),
                       "test");
        CUBLASLT_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                            &reductions, sizeof reductions),
                       "test");
    }
    template <typename T> void set(cublasLtMatmulDescAttributes_t attribute, T value) {
        CUBLASLT_CHECK(cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof value), "test");
    }
    void layout(cublasLtMatrixLayout_t *made, cudaDataType type, uint64_t rows, uint64_t cols) {
        CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(made, type, rows, cols, (int64_t)rows + 3), "test");
        int64_t stride = (int64_t)((rows + 3) * cols);
        CUBLASLT_CHECK(
            cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batches, 4), "test");
        CUBLASLT_CHECK(
            cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, 8),
            "test");
    }
    void use_bias(const void *pointer) {
        set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS);
        set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, pointer);
    }
    cublasStatus_t ask(int requested = 8) {
        return cublasLtMatmulAlgoGetHeuristic(handle(), desc, a, b, d, d, preference, requested, results,
                                              &found);
    }
    cublasStatus_t run(const void *A, const void *B, void *D, int algorithm, void *workspace) {
        return cublasLtMatmul(handle(), desc, &alpha, A, a, B, b, &beta, D, d, D, d, &results[algorithm].algo,
                              workspace, results[algorithm].workspaceSize, nullptr);
    }
    void close() {
        CUBLASLT_CHECK(cublasLtMatmulDescDestroy(desc), "test");
        for (cublasLtMatrixLayout_t made : {a, b, d})
            CUBLASLT_CHECK(cublasLtMatrixLayoutDestroy(made), "test");
        CUBLASLT_CHECK(cublasLtMatmulPreferenceDestroy(preference), "test");
    }
};

template <typename T> std::vector<T> integers(size_t count, int seed) {
    std::vector<T> out(count);
    for (size_t i = 0; i < count; i++) out[i] = (float)((int)((i * 31 + (size_t)seed * 17) % 13) - 6);
    return out;
}

template <typename In, typename Out> void check_product(Case c) {
    c.open();
    uint64_t lda = (c.ta ? c.k : c.m) + 3, ldb = (c.tb ? c.n : c.k) + 3, ldd = c.m + 3;
    uint64_t stride_a = lda * (c.ta ? c.m : c.k), stride_b = ldb * (c.tb ? c.k : c.n), stride_d = ldd * c.n;
    std::vector<In> a = integers<In>(stride_a * (uint64_t)c.batches, 1),
                    b = integers<In>(stride_b * (uint64_t)c.batches, 2);
    std::vector<Out> d = integers<Out>(stride_d * (uint64_t)c.batches, 3), bias = integers<Out>(c.m, 4);
    Device<In> da(a), db(b);
    Device<Out> dbias(bias);
    Device<unsigned char> workspace(1 << 20);
    if (c.bias) c.use_bias(dbias.at);
    assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(c.found, 8);
    for (int algorithm = 0; algorithm < 8; algorithm += 3) {
        Device<Out> dd(d);
        CUBLASLT_CHECK(c.run(da.at, db.at, dd.at, algorithm, workspace.at), "test");
        std::vector<Out> got = dd.host();
        for (uint64_t i = 0; i < d.size(); i++) {
            uint64_t batch = i / stride_d, col = i % stride_d / ldd, row = i % ldd;
            float want = (float)d[i]; /* padding stays as it was */
            if (row < c.m) {
                float sum = 0;
                for (uint64_t k = 0; k < c.k; k++)
                    sum += (float)a[batch * stride_a + (c.ta ? row * lda + k : k * lda + row)] *
                           (float)b[batch * stride_b + (c.tb ? k * ldb + col : col * ldb + k)];
                want = c.alpha * sum + c.beta * (float)d[i] + (c.bias ? (float)bias[row] : 0);
            }
            assert_true((float)got[i] == (float)(Out)want);
        }
    }
    c.close();
}

void products_agree_with_the_definition(void **) {
    for (int bits = 0; bits < 16; bits++) {
        bool ta = bits & 1, tb = bits & 2, bias = bits & 4, more = bits & 8;
        float alpha = more ? 0.5f : 1, beta = more ? 1 : 0;
        int batches = more ? 3 : 1;
        check_product<float, float>({CUDA_R_32F, CUDA_R_32F, ta, tb, bias, alpha, beta, batches});
        check_product<bf16, bf16>({CUDA_R_16BF, CUDA_R_16BF, ta, tb, bias, alpha, beta, batches});
        check_product<bf16, float>({CUDA_R_16BF, CUDA_R_32F, ta, tb, bias, alpha, beta, batches});
    }
}

/* Terms of bf16 whose sum is exact in fp32; four pieces of it, and their sums, are not in bf16. */
void pieces_of_a_sum_lose_bits_where_the_preference_lets_them(void **) {
    const struct {
        uint32_t reductions;
        bool exact, exact_first; /* all algorithms; the first, which has no workspace */
    } cases[] = {{CUBLASLT_REDUCTION_SCHEME_MASK, false, false},
                 {CUBLASLT_REDUCTION_SCHEME_INPLACE, false, false},
                 {CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, false, true},
                 {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, true, true},
                 {CUBLASLT_REDUCTION_SCHEME_NONE, true, true}};
    for (const auto &wanted : cases) {
        Case c = {CUDA_R_16BF, CUDA_R_16BF, true, false, false, 1, 0, 1, 1, 1, 256};
        c.reductions = wanted.reductions;
        c.open();
        assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
        std::vector<bf16> terms(512);
        float sum = 0;
        for (int i = 0; i < 256; i++) terms[(size_t)i] = (float)(i * 53 % 101) / 64, sum += (float)terms[(size_t)i];
        Device<bf16> x(terms), ones(std::vector<bf16>(512, 1.0f)), d(16);
        Device<unsigned char> workspace(1 << 20);
        const float want = (float)(bf16)sum;
        bool all = true;
        for (int i = 0; i < c.found; i++) {
            CUBLASLT_CHECK(c.run(x.at, ones.at, d.at, i, workspace.at), "test");
            const bool exact = (float)d.host()[0] == want;
            if (i == 0) assert_int_equal(exact, wanted.exact_first);
            all = all && exact;
        }
        assert_int_equal(all, wanted.exact);
        c.close();
    }
}

/* Runs `change` on a good problem and expects the heuristic to refuse it for the reason. */
template <typename Change> void expect_refusal(cublasStatus_t status, const char *reason, Change change) {
    Case c = {CUDA_R_16BF, CUDA_R_16BF, false, false, false, 1, 0, 1};
    c.open();
    assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
    change(c);
    assert_int_equal(c.ask(), status);
    assert_int_equal(c.found, 0);
    if (!strstr(cublasLtGetStatusString(status), reason))
        assert_string_equal(cublasLtGetStatusString(status), reason); /* shows both */
    c.close();
}

void undocumented_problems_are_refused_with_a_reason(void **) {
    const cublasStatus_t NO = CUBLAS_STATUS_NOT_SUPPORTED, BAD = CUBLAS_STATUS_INVALID_VALUE;
    auto retype = [](cublasLtMatrixLayout_t layout, uint32_t type) {
        CUBLASLT_CHECK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_TYPE, &type, 4),
                       "test");
    };
    Device<float> vector(std::vector<float>(16, 0));
    char *misaligned = reinterpret_cast<char *>(vector.at) + 4;
    expect_refusal(NO, "A and B differ", [&](Case &c) { retype(c.a, CUDA_R_32F); });
    expect_refusal(NO, "supported are", [&](Case &c) { retype(c.a, CUDA_R_32F), retype(c.b, CUDA_R_32F); });
    expect_refusal(NO, "supported are", [&](Case &c) { retype(c.a, CUDA_R_16F), retype(c.b, CUDA_R_16F); });
    expect_refusal(NO, "D's type", [&](Case &c) {
        c.use_bias(vector.at);
        c.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)CUDA_R_32F);
    });
    expect_refusal(BAD, "bias pointer", [](Case &c) { c.use_bias(nullptr); });
    expect_refusal(BAD, "16-byte aligned", [&](Case &c) { c.use_bias(misaligned); });
    for (uint32_t epilogue :
         {CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_BGRADB})
        expect_refusal(NO, "epilogue", [=](Case &c) { c.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue); });
    expect_refusal(NO, "CUBLAS_COMPUTE_32F",
                   [](Case &c) { c.set(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, (int32_t)CUBLAS_COMPUTE_16F); });
    expect_refusal(BAD, "fit together", [](Case &c) {
        uint64_t rows = 6;
        CUBLASLT_CHECK(cublasLtMatrixLayoutSetAttribute(c.a, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, 8), "test");
    });
    expect_refusal(NO, "column order", [](Case &c) {
        int32_t order = CUBLASLT_ORDER_ROW;
        CUBLASLT_CHECK(cublasLtMatrixLayoutSetAttribute(c.a, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, 4),
                       "test");
    });
}

void broken_promises_are_refused_at_the_product(void **) {
    Case c = {CUDA_R_32F, CUDA_R_32F, false, false, false, 1, 0, 1}, other = c;
    other.k = 20;
    c.open();
    other.open();
    assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(other.ask(), CUBLAS_STATUS_SUCCESS);
    Device<float> x(std::vector<float>(512, 1)), d(512), workspace(1 << 18);
    assert_int_equal(c.run(x.at + 1, x.at, d.at, 0, nullptr),
                     CUBLAS_STATUS_INVALID_VALUE); /* alignment promised: 256 */
    assert_int_equal(c.run(x.at, x.at, d.at, 1, nullptr),
                     CUBLAS_STATUS_INVALID_VALUE); /* workspace missing */
    assert_int_equal(c.run(x.at, x.at, d.at, 1, workspace.at + 1), CUBLAS_STATUS_INVALID_VALUE);
    c.results[0] = other.results[0];
    assert_int_equal(c.run(x.at, x.at, d.at, 0, nullptr),
                     CUBLAS_STATUS_INVALID_VALUE); /* another problem's algorithm */
    c.close();
    other.close();
}

/* As a file would bring it back: checked for its problem, and for no other. */
void an_algorithm_that_was_kept_is_checked(void **) {
    Case c = {CUDA_R_32F, CUDA_R_32F, false, false, false, 1, 0, 1}, other = c;
    other.k = 20;
    c.open();
    other.open();
    assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
    auto recheck = [](const Case &x, const cublasLtMatmulAlgo_t &algorithm, cublasLtMatmulHeuristicResult_t *result) {
        return cublasLtMatmulAlgoCheck(handle(), x.desc, x.a, x.b, x.d, x.d, &algorithm, result);
    };
    for (int i = 0; i < 8; i++) {
        cublasLtMatmulHeuristicResult_t result = {};
        assert_int_equal(recheck(c, c.results[i].algo, &result), CUBLAS_STATUS_SUCCESS);
        assert_int_equal(result.workspaceSize, c.results[i].workspaceSize);
        assert_int_equal(recheck(other, c.results[i].algo, &result), CUBLAS_STATUS_INVALID_VALUE);
        c.results[i].algo.data[0] ^= 1;
        assert_int_equal(recheck(c, c.results[i].algo, &result), CUBLAS_STATUS_INVALID_VALUE);
    }
    c.close();
    other.close();
}

void an_algorithm_overwrites_its_workspace(void **) {
    Case c = {CUDA_R_32F, CUDA_R_32F, false, false, false, 1, 0, 1};
    c.open();
    assert_int_equal(c.ask(), CUBLAS_STATUS_SUCCESS);
    Device<float> x(std::vector<float>(512, 1)), d(512), workspace(std::vector<float>(1 << 18, 5));
    CUBLASLT_CHECK(c.run(x.at, x.at, d.at, 1, workspace.at), "test");
    assert_true(isnan(workspace.host()[100]));
    c.close();
}

} // namespace

const struct CMUnitTest cublaslt_tests[] = {
    cmocka_unit_test(products_agree_with_the_definition),
    cmocka_unit_test(pieces_of_a_sum_lose_bits_where_the_preference_lets_them),
    cmocka_unit_test(undocumented_problems_are_refused_with_a_reason),
    cmocka_unit_test(broken_promises_are_refused_at_the_product),
    cmocka_unit_test(an_algorithm_that_was_kept_is_checked),
    cmocka_unit_test(an_algorithm_overwrites_its_workspace),
};
const size_t cublaslt_test_count = sizeof cublaslt_tests / sizeof cublaslt_tests[0];
