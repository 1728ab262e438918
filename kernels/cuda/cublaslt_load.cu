/*
 * cublaslt_load.cu: how a program without libcublasLt starts all the same.
 *
 * One executable serves machines with and without a GPU. Were the library linked, the loader would refuse to
 * start the program wherever it is missing (it comes with the toolkit, not with the driver); and where it is
 * there, mapping and relocating its half gigabyte took 0.5 s and 210 MB of every start, on a CPU too. So it is
 * opened when a GPU is, and the functions that this folder calls are defined here, each one jump to the
 * library's. The statically linked form would make the executable as large.
 */
#include "types.cuh"

#ifdef EMULATION

bool cublaslt_load(char *, size_t) {
    return true;
}

#else

#include <cublasLt.h>
#include <dlfcn.h>

namespace {

#define FUNCTIONS(X)                                                                                         \
    X(cublasLtCreate)                                                                                        \
    X(cublasLtDestroy)                                                                                       \
    X(cublasLtGetVersion)                                                                                    \
    X(cublasLtGetStatusName)                                                                                 \
    X(cublasLtGetStatusString)                                                                               \
    X(cublasLtMatmul)                                                                                        \
    X(cublasLtMatmulDescCreate)                                                                              \
    X(cublasLtMatmulDescDestroy)                                                                             \
    X(cublasLtMatmulDescSetAttribute)                                                                        \
    X(cublasLtMatrixLayoutCreate)                                                                            \
    X(cublasLtMatrixLayoutDestroy)                                                                           \
    X(cublasLtMatrixLayoutSetAttribute)                                                                      \
    X(cublasLtMatmulPreferenceCreate)                                                                        \
    X(cublasLtMatmulPreferenceDestroy)                                                                       \
    X(cublasLtMatmulPreferenceSetAttribute)                                                                  \
    X(cublasLtMatmulAlgoGetHeuristic)                                                                        \
    X(cublasLtMatmulAlgoCheck)

#define MEMBER(name) decltype(&::name) name;
struct Library {
    FUNCTIONS(MEMBER)
} library;

/* The major version is the library's binary interface, as the header had it. */
#define TEXT_OF(x)  #x
#define SONAME(major) "libcublasLt.so." TEXT_OF(major)
const char *const FILE_NAME = SONAME(CUBLAS_VER_MAJOR);

template <typename Function> bool find(void *file, const char *name, Function *function) {
    *function = reinterpret_cast<Function>(dlsym(file, name));
    return *function != NULL;
}

} // namespace

bool cublaslt_load(char *text, size_t size) {
    static void *file;
    if (file) return true;
    void *opened = dlopen(FILE_NAME, RTLD_NOW | RTLD_LOCAL);
    if (!opened) {
        snprintf(text, size, "%s cannot be loaded (%s): LD_LIBRARY_PATH must name the folder that holds it",
                 FILE_NAME, dlerror());
        return false;
    }
#define FIND(name)                                                                                           \
    if (!find(opened, #name, &library.name)) {                                                               \
        snprintf(text, size, "%s has no %s: it is not the library that this program was built for",          \
                 FILE_NAME, #name);                                                                          \
        return false;                                                                                        \
    }
    FUNCTIONS(FIND)
    file = opened;
    return true;
}

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    return library.cublasLtCreate(handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return library.cublasLtDestroy(handle);
}

size_t cublasLtGetVersion(void) {
    return library.cublasLtGetVersion();
}

const char *cublasLtGetStatusName(cublasStatus_t status) {
    return library.cublasLtGetStatusName(status);
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return library.cublasLtGetStatusString(status);
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B, cublasLtMatrixLayout_t b,
                              const void *beta, const void *C, cublasLtMatrixLayout_t c, void *D,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream) {
    return library.cublasLtMatmul(handle, operation, alpha, A, a, B, b, beta, C, c, D, d, algorithm, workspace,
                                  workspace_bytes, stream);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *operation, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    return library.cublasLtMatmulDescCreate(operation, compute, scale);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation) {
    return library.cublasLtMatmulDescDestroy(operation);
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation,
                                              cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t bytes) {
    return library.cublasLtMatmulDescSetAttribute(operation, attribute, value, bytes);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t stride) {
    return library.cublasLtMatrixLayoutCreate(layout, type, rows, columns, stride);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    return library.cublasLtMatrixLayoutDestroy(layout);
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void *value,
                                                size_t bytes) {
    return library.cublasLtMatrixLayoutSetAttribute(layout, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    return library.cublasLtMatmulPreferenceCreate(preference);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    return library.cublasLtMatmulPreferenceDestroy(preference);
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes) {
    return library.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, bytes);
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int *found) {
    return library.cublasLtMatmulAlgoGetHeuristic(handle, operation, a, b, c, d, preference, requested, results,
                                                  found);
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
    return library.cublasLtMatmulAlgoCheck(handle, operation, a, b, c, d, algorithm, result);
}

} // extern "C"

#endif
