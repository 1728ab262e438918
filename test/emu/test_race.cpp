/*
 * test_race.cpp: does the race checker find planted races, and is it silent on their mended twins?
 *
 * A case is a function, run in a process of its own; a racy one must end with EMU_EXIT and must have named
 * the race, a clean one must end well. Each runs under several seeds: whether two accesses are ordered does
 * not hang on the order in which they happened to run.
 */
#include "test_emu.h"

#include "cublaslt.cuh"

#include <nccl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <string>
#include <utility>

namespace {

/* ---- within a block ---------------------------------------------------------------------------------- */

template <bool barrier> __global__ void read_after_write(int *out) {
    SHARED_ARRAY(int, value, 1024);
    value[threadIdx.x] = (int)threadIdx.x;
    if (barrier) __syncthreads();
    out[threadIdx.x] = value[blockDim.x - 1 - threadIdx.x];
}

/* Right under the natural order: a thread takes its neighbour's value before the neighbour, later, changes
 * it. */
template <bool barrier> __global__ void write_after_read(int *out) {
    SHARED_ARRAY(int, value, 128);
    value[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    int next = threadIdx.x < 127 ? value[threadIdx.x + 1] : 0;
    if (barrier) __syncthreads();
    value[threadIdx.x] = -1;
    out[threadIdx.x] = next;
}

/* All warps read one word; then one of the readers writes it. */
template <bool barrier> __global__ void broadcast(int *out) {
    SHARED_ARRAY(int, total, 1);
    if (threadIdx.x == 0) total[0] = 1;
    __syncthreads();
    out[threadIdx.x] = total[0];
    if (barrier) __syncthreads();
    if (threadIdx.x == 64) total[0] = 2;
}

/* A global array of the block's own needs barriers as well. */
template <bool barrier> __global__ void global_exchange(int *work, int *out) {
    work[threadIdx.x] = 1;
    if (barrier) __syncthreads();
    out[threadIdx.x] = work[threadIdx.x ^ 64];
}

template <bool barrier> void exchange() {
    Device<int> work(128), out(128);
    LAUNCH((global_exchange<barrier>), 1, 128, 0, 0, work.at, out.at);
    synchronize();
}

/* Neighbours in a word are neighbours, not rivals. */
__global__ void halves(__nv_bfloat16 *out) {
    out[threadIdx.x] = __float2bfloat16((float)threadIdx.x);
}

void write_halves() {
    Device<__nv_bfloat16> out(128);
    LAUNCH(halves, 1, 128, 0, 0, out.at);
    synchronize();
}

/* ---- within a warp ----------------------------------------------------------------------------------- */

/* A shuffle exchanges registers and orders no memory. */
template <bool barrier> __global__ void across_lanes(int *out) {
    SHARED_ARRAY(int, value, 32);
    value[threadIdx.x] = __shfl_xor_sync(FULL, (int)threadIdx.x, 1);
    if (barrier)
        __syncwarp();
    else
        (void)__shfl_xor_sync(FULL, 1, 1);
    out[threadIdx.x] = value[threadIdx.x ^ 5];
}

/* Groups of eight lanes synchronise for themselves; reach says how far a lane looks. */
template <int reach> __global__ void across_groups(int *out) {
    SHARED_ARRAY(int, value, 32);
    value[threadIdx.x] = 1;
    __syncwarp(0xffu << threadIdx.x / 8 * 8);
    out[threadIdx.x] = value[threadIdx.x ^ reach];
}

template <bool barrier> __global__ void load_matrix(int *out) {
    SHARED_ARRAY(uint16_t, tile, 256);
    uint32_t r[4];
    for (unsigned i = threadIdx.x; i < 256; i += 32) tile[i] = (uint16_t)i;
    if (barrier) __syncwarp();
    ldmatrix_x4(r, &tile[threadIdx.x * 8]);
    out[threadIdx.x] = (int)r[0];
}

/* ---- cp.async ---------------------------------------------------------------------------------------- */

/* Two buffers in turn: the copy into a buffer must wait until all have read what it held. */
template <bool barrier> __global__ void two_buffers(int *out, const int4 *in, int tiles) {
    SHARED_ARRAY(int4, tile, 2 * 64);
    int sum = 0;
    cp_async_16(&tile[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit();
    for (int i = 0; i < tiles; i++) {
        cp_async_wait<0>();
        __syncthreads();
        int4 *here = tile + i % 2 * 64, *there = tile + (i + 1) % 2 * 64;
        if (!barrier) sum += here[(threadIdx.x + 32) % 64].x, std::swap(here, there);
        if (i + 1 < tiles) {
            cp_async_16(&there[threadIdx.x], &in[(i + 1) % 2 * 64 + threadIdx.x]);
            cp_async_commit();
        }
        if (barrier) sum += here[(threadIdx.x + 32) % 64].x;
    }
    out[threadIdx.x] = sum;
}

/* The wait is for one's own copies: the others' need a barrier behind it. */
template <bool barrier> __global__ void others_copies(int *out, const int4 *in) {
    SHARED_ARRAY(int4, tile, 64);
    cp_async_16(&tile[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit();
    cp_async_wait<0>();
    if (barrier) __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x ^ 32].x;
}

/* Integers, which no trap on poison sees. */
template <bool wait> __global__ void own_copy(int *out, const int4 *in) {
    SHARED_ARRAY(int4, tile, 64);
    cp_async_16(&tile[threadIdx.x], &in[threadIdx.x]);
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    out[threadIdx.x] = tile[threadIdx.x].x;
    cp_async_wait<0>();
}

/* ---- between blocks ---------------------------------------------------------------------------------- */

template <bool own> __global__ void blocks_write(int *out) {
    if (threadIdx.x == 0) out[own ? blockIdx.x : 0] = 1;
}

__global__ void block_produces(int *out) {
    if (blockIdx.x == 0) out[threadIdx.x] = 1;
    if (blockIdx.x == 1) out[64 + threadIdx.x] = out[threadIdx.x];
}

__global__ void fill(int *out, int value) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = value;
}

__global__ void copy(int *out, const int *in) {
    out[threadIdx.x] = in[threadIdx.x];
}

void two_launches() {
    Device<int> out(128);
    LAUNCH(fill, 1, 64, 0, 0, out.at, 1);
    LAUNCH(copy, 1, 64, 0, 0, out.at + 64, out.at);
    synchronize();
}

template <bool plain> __global__ void counts(int *out) {
    atomicAdd(&out[0], 1);
    if (plain && threadIdx.x == 63 && blockIdx.x == 1) out[1] = out[0];
}

/* ---- between streams --------------------------------------------------------------------------------- */

struct Streams {
    cudaStream_t first, second;
    cudaEvent_t event;
    Streams() {
        CUDA_CHECK(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), "test");
        CUDA_CHECK(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), "test");
        CUDA_CHECK(cudaEventCreate(&event), "test");
    }
    void order() {
        CUDA_CHECK(cudaEventRecord(event, first), "test");
        CUDA_CHECK(cudaStreamWaitEvent(second, event), "test");
    }
};

template <bool event> void kernel_then_kernel() {
    Device<int> from(64), to(64);
    Streams s;
    LAUNCH(fill, 1, 64, 0, s.first, from.at, 1);
    if (event) s.order();
    LAUNCH(copy, 1, 64, 0, s.second, to.at, from.at);
    synchronize();
}

/* The write comes second: the reader's stream has to be waited for. */
template <bool event> void read_then_write() {
    Device<int> from(std::vector<int>(64, 1)), to(64);
    Streams s;
    LAUNCH(copy, 1, 64, 0, s.first, to.at, from.at);
    if (event) s.order();
    CUDA_CHECK(cudaMemsetAsync(from.at, 0, 64 * sizeof(int), s.second), "test");
    synchronize();
}

/* An event that was recorded too early orders nothing behind it. */
template <bool late> void event_too_early() {
    Device<int> from(64), to(64);
    Streams s;
    if (!late) s.order();
    LAUNCH(fill, 1, 64, 0, s.first, from.at, 1);
    if (late) s.order();
    LAUNCH(copy, 1, 64, 0, s.second, to.at, from.at);
    synchronize();
}

/* Two branches of a graph: the second begins at the fork, before the kernel of the first, or behind that. */
template <bool late> void branch_of_a_graph() {
    Device<int> from(std::vector<int>(64, 1)), to(64);
    Streams s, back;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    CUDA_CHECK(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal), "test");
    if (!late) s.order();
    LAUNCH(fill, 1, 64, 0, s.first, from.at, 1);
    if (late) s.order();
    LAUNCH(copy, 1, 64, 0, s.second, to.at, from.at);
    CUDA_CHECK(cudaEventRecord(back.event, s.second), "test");
    CUDA_CHECK(cudaStreamWaitEvent(s.first, back.event), "test");
    CUDA_CHECK(cudaStreamEndCapture(s.first, &graph), "test");
    CUDA_CHECK(cudaGraphInstantiate(&executable, graph), "test");
    CUDA_CHECK(cudaGraphDestroy(graph), "test");
    for (int i = 0; i < 2; i++) CUDA_CHECK(cudaGraphLaunch(executable, s.first), "test");
    synchronize();
    CUDA_CHECK(cudaGraphExecDestroy(executable), "test");
}

template <bool event> void product_then_kernel() {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t square;
    Device<float> a(std::vector<float>(64, 1)), d(64), to(64);
    float one = 1, zero = 0;
    Streams s;
    CUBLASLT_CHECK(cublasLtCreate(&handle), "test");
    CUBLASLT_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "test");
    CUBLASLT_CHECK(cublasLtMatrixLayoutCreate(&square, CUDA_R_32F, 8, 8, 8), "test");
    CUBLASLT_CHECK(cublasLtMatmul(handle, desc, &one, a.at, square, a.at, square, &zero, d.at, square, d.at,
                                  square, nullptr, nullptr, 0, s.first),
                   "test");
    if (event) s.order();
    LAUNCH(copy, 1, 64, 0, s.second, reinterpret_cast<int *>(to.at), reinterpret_cast<const int *>(d.at));
    synchronize();
}

/* A communicator of one rank. */
ncclComm_t alone() {
    ncclUniqueId id;
    ncclComm_t comm = nullptr;
    assert_int_equal(ncclGetUniqueId(&id), ncclSuccess);
    assert_int_equal(ncclCommInitRank(&comm, 1, id, 0), ncclSuccess);
    return comm;
}

/* A sum over the ranks reads its buffer, and writes it. */
template <bool event> void kernel_then_sum() {
    Device<int> buffer(std::vector<int>(64, 1));
    Streams s;
    LAUNCH(fill, 1, 64, 0, s.first, buffer.at, 1);
    if (event) s.order();
    assert_int_equal(ncclAllReduce(buffer.at, buffer.at, 64, ncclFloat32, ncclSum, alone(), s.second),
                     ncclSuccess);
    synchronize();
}

template <bool event> void gather_then_kernel() {
    Device<int> from(std::vector<int>(64, 1)), buffer(64), to(64);
    Streams s;
    assert_int_equal(ncclAllGather(from.at, buffer.at, 64, ncclFloat32, alone(), s.first), ncclSuccess);
    if (event) s.order();
    LAUNCH(copy, 1, 64, 0, s.second, to.at, buffer.at);
    synchronize();
}

void default_stream_orders() {
    Device<int> from(64), to(64);
    cudaStream_t blocking;
    CUDA_CHECK(cudaStreamCreateWithFlags(&blocking, cudaStreamDefault), "test");
    LAUNCH(fill, 1, 64, 0, blocking, from.at, 1);
    LAUNCH(copy, 1, 64, 0, 0, to.at, from.at);
    LAUNCH(fill, 1, 64, 0, blocking, from.at, 2);
    synchronize();
}

/* ---- the host ---------------------------------------------------------------------------------------- */

/* A pinned buffer that is filled again while the copy out of it may still run. */
template <bool wait> void pinned_again() {
    int *pinned;
    CUDA_CHECK(cudaMallocHost(&pinned, sizeof *pinned), "test");
    Device<int> to(1);
    Streams s;
    for (int i = 0; i < 2; i++) {
        pinned[0] = i;
        CUDA_CHECK(cudaMemcpyAsync(to.at, pinned, sizeof *pinned, cudaMemcpyHostToDevice, s.first), "test");
        CUDA_CHECK(cudaEventRecord(s.event, s.first), "test");
        if (wait) CUDA_CHECK(cudaEventSynchronize(s.event), "test");
    }
    synchronize();
}

/* A result that is read before anything has waited for it. */
template <bool wait> void early_result() {
    int *pinned;
    CUDA_CHECK(cudaMallocHost(&pinned, sizeof *pinned), "test");
    Device<int> from(std::vector<int>(1, 1));
    Streams s;
    CUDA_CHECK(cudaMemcpyAsync(pinned, from.at, sizeof *pinned, cudaMemcpyDeviceToHost, s.first), "test");
    if (wait) CUDA_CHECK(cudaStreamSynchronize(s.first), "test");
    volatile int loss = pinned[0];
    (void)loss;
    synchronize();
}

/* The host waited for one stream before it queued work in the other. */
void host_orders_streams() {
    Device<int> from(64), to(64);
    Streams s;
    LAUNCH(fill, 1, 64, 0, s.first, from.at, 1);
    CUDA_CHECK(cudaStreamSynchronize(s.first), "test");
    LAUNCH(copy, 1, 64, 0, s.second, to.at, from.at);
    synchronize();
}

/* ---- the table --------------------------------------------------------------------------------------- */

struct Planted {
    const char *name;
    void (*run)();
    std::vector<const char *> said; /* empty: the clean twin */
};

template <typename T> std::vector<T> zeros(size_t count) {
    return std::vector<T>(count, T());
}

#define ON_INTS(kernel, blocks, threads)                                                                     \
    [] {                                                                                                     \
        Device<int> out(zeros<int>(1024));                                                                   \
        LAUNCH(kernel, blocks, threads, 0, 0, out.at);                                                       \
        synchronize();                                                                                       \
    }
#define ON_TILES(kernel, ...)                                                                                \
    [] {                                                                                                     \
        Device<int> out(1024);                                                                               \
        Device<int4> in(zeros<int4>(128));                                                                   \
        LAUNCH(kernel, 1, 64, 0, 0, out.at, in.at, ##__VA_ARGS__);                                           \
        synchronize();                                                                                       \
    }
#define PLANTED_AND_CLEAN(name, racy, clean, ...)                                                            \
    {name, racy, {__VA_ARGS__}}, {                                                                           \
        name ", mended", clean, {}                                                                           \
    }

const Planted cases[] = {
    PLANTED_AND_CLEAN("a missing __syncthreads", ON_INTS((read_after_write<false>), 1, 64),
                      ON_INTS((read_after_write<true>), 1, 64),
                      "kernel read_after_write<false>, block (0, 0, 0), ",
                      "race: ", "4 bytes of shared memory at test_race.cpp:", " it at test_race.cpp:",
                      "no __syncthreads between"),
    PLANTED_AND_CLEAN("a missing __syncthreads among 1024 threads",
                      ON_INTS((read_after_write<false>), 2, 1024), ON_INTS((read_after_write<true>), 1, 1024),
                      "race: ", "4 bytes of shared memory"),
    PLANTED_AND_CLEAN("a write after a read whose output is right",
                      ON_INTS((write_after_read<false>), 1, 128), ON_INTS((write_after_read<true>), 1, 128),
                      "race: writes 4 bytes of shared memory", "read it"),
    PLANTED_AND_CLEAN("a word that all warps read, then written", ON_INTS((broadcast<false>), 1, 128),
                      ON_INTS((broadcast<true>), 1, 128), "shared memory", "no __syncthreads between"),
    PLANTED_AND_CLEAN("a missing barrier in global memory", exchange<false>, exchange<true>,
                      "race: ", "4 bytes of global memory", "no __syncthreads between"),
    {"neighbouring halves of a word", write_halves, {}},

    PLANTED_AND_CLEAN("a shuffle in place of a __syncwarp", ON_INTS((across_lanes<false>), 1, 32),
                      ON_INTS((across_lanes<true>), 1, 32), "no __syncwarp or __syncthreads between"),
    PLANTED_AND_CLEAN("a partial __syncwarp", ON_INTS((across_groups<8>), 1, 32),
                      ON_INTS((across_groups<7>), 1, 32), "no __syncwarp or __syncthreads between"),
    PLANTED_AND_CLEAN("ldmatrix without a barrier", ON_INTS((load_matrix<false>), 1, 32),
                      ON_INTS((load_matrix<true>), 1, 32), "of shared memory",
                      "no __syncwarp or __syncthreads between"),

    PLANTED_AND_CLEAN("a missing barrier between cp.async buffers", ON_TILES((two_buffers<false>), 4),
                      ON_TILES((two_buffers<true>), 4), "of shared memory"),
    PLANTED_AND_CLEAN("others' cp.async without a barrier", ON_TILES((others_copies<false>)),
                      ON_TILES((others_copies<true>)), "shared memory"),
    PLANTED_AND_CLEAN("cp.async read before its wait", ON_TILES((own_copy<false>)),
                      ON_TILES((own_copy<true>)), "fills it by cp.async", "no cp_async_wait between"),

    PLANTED_AND_CLEAN("two blocks write one word", ON_INTS((blocks_write<false>), 2, 32),
                      ON_INTS((blocks_write<true>), 2, 32), "race: writes 4 bytes of global memory",
                      "blocks of one launch are unordered"),
    PLANTED_AND_CLEAN("a block reads what another writes", ON_INTS(block_produces, 2, 64), two_launches,
                      "global memory", "blocks of one launch are unordered"),
    PLANTED_AND_CLEAN("a plain read among atomic updates", ON_INTS((counts<true>), 2, 64),
                      ON_INTS((counts<false>), 2, 64), "atomically"),

    PLANTED_AND_CLEAN("a missing event wait", kernel_then_kernel<false>, kernel_then_kernel<true>,
                      "fill in another stream wrote it", "no event orders them"),
    PLANTED_AND_CLEAN("a missing event wait, write second", read_then_write<false>, read_then_write<true>,
                      "race: cudaMemsetAsync writes 256 bytes", "in another stream", "no event orders them"),
    PLANTED_AND_CLEAN("an event recorded too early", event_too_early<false>, event_too_early<true>,
                      "race: ", "no event orders them"),
    PLANTED_AND_CLEAN("branches of a graph without an event between them", branch_of_a_graph<false>, branch_of_a_graph<true>,
                      "race: ", "in another stream", "no event orders them"),
    PLANTED_AND_CLEAN("a missing event wait behind a product", product_then_kernel<false>,
                      product_then_kernel<true>, "race: ", "no event orders them"),
    PLANTED_AND_CLEAN("a missing event wait before a collective", kernel_then_sum<false>, kernel_then_sum<true>,
                      "race: ncclAllReduce", "fill in another stream wrote it", "no event orders them"),
    PLANTED_AND_CLEAN("a missing event wait behind a collective", gather_then_kernel<false>,
                      gather_then_kernel<true>, "race: ", "ncclAllGather", "no event orders them"),
    {"the default stream orders blocking streams", default_stream_orders, {}},

    PLANTED_AND_CLEAN("a pinned buffer used again", pinned_again<false>, pinned_again<true>,
                      "race: ", "the host waits for nothing between"),
    PLANTED_AND_CLEAN("a result read too early", early_result<false>, early_result<true>,
                      "race: ", "the host waits for nothing between"),
    {"the host's wait orders streams", host_orders_streams, {}},
};
const size_t CASES = sizeof cases / sizeof cases[0];

/* Runs in a child; returns its exit code (−1: a signal) and what it said. */
int run_in_child(void (*run)(), std::string *said) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        alarm(60);
        run();
        _exit(0);
    }
    close(ends[1]);
    char buffer[4096];
    for (ssize_t got; (got = read(ends[0], buffer, sizeof buffer)) > 0;) said->append(buffer, (size_t)got);
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* The clean ones (racy false) or the planted ones that did not end as they must, under seeds 0 … 3. Which of
   a race's two ends is reported depends on the seed, so the words count under seed 0 only. */
int count_wrong(bool racy) {
    int wrong = 0;
    for (uint64_t seed = 0; seed <= 3; seed++)
        for (const Planted &planted : cases) {
            if (planted.said.empty() == racy) continue;
            emu::set_seed(seed);
            std::string said;
            int exit_code = run_in_child(planted.run, &said);
            bool good = exit_code == (racy ? emu::EMU_EXIT : 0) &&
                        (!racy || said.find("race: ") != std::string::npos);
            for (const char *part : planted.said) good &= seed != 0 || said.find(part) != std::string::npos;
            if (!good)
                printf("%s, seed %d: exit code %d, said: %s\n", planted.name, (int)seed, exit_code,
                       said.c_str());
            if (racy && getenv("EMU_VERBOSE") && !seed) printf("%s: %s", planted.name, said.c_str());
            wrong += !good;
        }
    emu::set_seed(0);
    return wrong;
}

void every_planted_race_is_found(void **) {
    assert_int_equal(count_wrong(true), 0);
}

void the_mended_twins_are_silent(void **) {
    assert_int_equal(count_wrong(false), 0);
}

void both_kinds_are_there(void **) {
    size_t clean = 0;
    for (const Planted &planted : cases) clean += planted.said.empty();
    assert_true(clean > CASES / 3 && clean < CASES * 2 / 3);
}

} // namespace

int main() {
    const CMUnitTest tests[] = {
        cmocka_unit_test(every_planted_race_is_found),
        cmocka_unit_test(the_mended_twins_are_silent),
        cmocka_unit_test(both_kinds_are_there),
    };
    return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
