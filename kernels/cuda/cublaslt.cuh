/*
 * cublaslt.cuh: cuBLASLt, opened with the device: its functions without their prefix in one table.
 *
 *     CUBLASLT_CHECK(cublaslt.Create(&handle), "opening cuBLASLt");
 */
#ifndef CUBLASLT_CUH
#define CUBLASLT_CUH

#include "cuda.cuh"
#include "library.cuh"

#include <cublasLt.h>

#define CUBLASLT_FUNCTIONS(X)                                                                                \
    X(Create)                                                                                                \
    X(Destroy)                                                                                               \
    X(GetVersion)                                                                                            \
    X(GetStatusName)                                                                                         \
    X(GetStatusString)                                                                                       \
    X(Matmul)                                                                                                \
    X(MatmulDescCreate)                                                                                      \
    X(MatmulDescDestroy)                                                                                     \
    X(MatmulDescSetAttribute)                                                                                \
    X(MatrixLayoutCreate)                                                                                    \
    X(MatrixLayoutDestroy)                                                                                   \
    X(MatmulPreferenceCreate)                                                                                \
    X(MatmulPreferenceDestroy)                                                                               \
    X(MatmulPreferenceSetAttribute)                                                                          \
    X(MatmulAlgoGetHeuristic)                                                                                \
    X(MatmulAlgoCheck)

struct CublasLt {
#define MEMBER(name) LIBRARY_FUNCTION(cublasLt, name)
    CUBLASLT_FUNCTIONS(MEMBER)
#undef MEMBER
};
extern CublasLt cublaslt;

/* Fills the table; false, with one line in text, where the library is not to be had. */
bool cublaslt_load(char *text, size_t size);

/* CUDA_CHECK for a cuBLASLt call. */
#define CUBLASLT_CHECK(call, ...)                                                                            \
    do {                                                                                                     \
        cublasStatus_t cublaslt_status_ = (call);                                                            \
        if (cublaslt_status_ != CUBLAS_STATUS_SUCCESS)                                                       \
            cuda_fail("cuBLASLt", cublaslt.GetStatusName(cublaslt_status_),                                  \
                      cublaslt.GetStatusString(cublaslt_status_), #call, __VA_ARGS__);                       \
    } while (0)

#endif
