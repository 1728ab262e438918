/* test_emu.h: what the emulation's tests share. test_emu.cpp: it computes what a GPU would.
   test_emu_streams.cpp: work is late and in any allowed order. test_emu_cublaslt.cpp: products.
   test_emu_faults*.cpp: every promised fault. */
#ifndef TEST_EMU_H
#define TEST_EMU_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}
#undef fail /* check.h has a function of this name */

#include "ptx.cuh"

const unsigned FULL = 0xffffffffu;

/* Device memory with the contents of a host vector, or fresh. */
template <typename T> struct Device {
    T *at = nullptr;
    size_t count;
    explicit Device(size_t count) : count(count) { CUDA_CHECK(cudaMalloc(&at, count * sizeof(T)), "test"); }
    explicit Device(const std::vector<T> &host) : Device(host.size()) {
        CUDA_CHECK(cudaMemcpy(at, host.data(), count * sizeof(T), cudaMemcpyHostToDevice), "test");
    }
    ~Device() { CUDA_CHECK(cudaFree(at), "test"); }
    Device(const Device &) = delete;
    Device &operator=(const Device &) = delete;
    std::vector<T> host() const {
        std::vector<T> out(count);
        CUDA_CHECK(cudaMemcpy(out.data(), at, count * sizeof(T), cudaMemcpyDeviceToHost), "test");
        return out;
    }
};

static inline void synchronize() {
    CUDA_CHECK(cudaDeviceSynchronize(), "test");
}

/* Runs the rest of a test under each seed; 0 last, so that it is what remains. */
template <typename Test> void for_seeds(int count, Test test) {
    for (int seed = count; seed >= 0; seed--) {
        emu::set_seed((uint64_t)seed);
        test(seed);
    }
}

/* A breach of one rule, in a process of its own: how that must end, and what stderr must have said. */
struct Fault {
    const char *name;
    void (*break_rule)();
    int exit_code;
    std::vector<const char *> said;
};

const int EMU = emu::EMU_EXIT;

template <typename T> struct Fresh : Device<T> {
    Fresh() : Device<T>(64) {}
};

/* Two blocks, waited for. */
#define RUN(kernel, block, shared, ...)                                                                      \
    do {                                                                                                     \
        LAUNCH(kernel, 2, block, shared, 0, ##__VA_ARGS__);                                                  \
        synchronize();                                                                                       \
    } while (0)

extern const Fault thread_faults[];
extern const size_t thread_fault_count;

extern const struct CMUnitTest stream_tests[], cublaslt_tests[], fault_tests[];
extern const size_t stream_test_count, cublaslt_test_count, fault_test_count;

#endif
