/* cublaslt_load.cu: see cublaslt.cuh. The emulated one is linked. */
#include "cublaslt.cuh"

#ifdef EMULATION

#define LINKED(name) cublasLt##name,
CublasLt cublaslt = {CUBLASLT_FUNCTIONS(LINKED)};

bool cublaslt_load(char *, size_t) {
    return true;
}

#else

CublasLt cublaslt;

bool cublaslt_load(char *text, size_t size) {
    if (cublaslt.Create) return true;
    Library library = {LIBRARY_FILE("libcublasLt", CUBLAS_VER_MAJOR), text, size, NULL};
    CublasLt found = {};
#define FIND(name) &&library.find("cublasLt" #name, &found.name)
    if (!(library.open() CUBLASLT_FUNCTIONS(FIND))) return false;
    cublaslt = found;
    return true;
}

#endif
