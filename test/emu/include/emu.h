/*
 * emu.h: what the emulated CUDA headers (cuda_runtime.h, cuda_bf16.h, cublasLt.h, emu_ptx.h) ask of the
 * engine.
 *
 * Kernels and host code never include this; they include the CUDA headers of this folder. The engine:
 *   block.cpp      a block's threads as fibers: barriers, exchanges within a warp, divergence
 *   shared.cpp     shared memory, the asynchronous copies into it, and matrices from it
 *   mma.cpp        the tensor cores' product of fragments, and how roughly they sum
 *   trap.cpp       faults: what is printed, signals, reads of poison
 *   memory.cpp     device and pinned host memory, poison, the device's properties and errors
 *   stream.cpp     streams and events as lazy queues; launches
 *   graph.cpp      captures and graphs
 *   cublaslt.cpp   the matrix product
 *
 * Every breach of CUDA's rules ends the process: one line "emu: kernel K, block (x, y, z), thread (x, y, z):
 * …" to stderr (without kernel and thread where host code is at fault) and exit code EMU_EXIT.
 */
#ifndef EMU_H
#define EMU_H

#include <stddef.h>
#include <stdint.h>
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "vector_types.h"

struct CUstream_st;

namespace emu {

enum { EMU_EXIT = 70 };

/* The device's limits, those of compute capability 9.0. */
enum {
    WARP = 32,
    MAX_THREADS = 1024,
    MAX_BLOCK_Z = 64,
    MAX_GRID_X = 2147483647,
    MAX_GRID_YZ = 65535,
    SHARED_DEFAULT = 48 * 1024,
    SHARED_OPTIN = 227 * 1024,
    MAX_ARGUMENTS = 32764
};

/* ---- where device code is -------------------------------------------------------------------------- */

/* A CUDA thread as device code sees it; null outside kernels. */
struct Thread {
    uint3 index;
    unsigned linear, lane, warp;
};
extern Thread *current;
extern uint3 block_index;
extern dim3 block_size, grid_size;

/* A line of device code: passed by default arguments, so that it names the caller. */
struct Site {
    const char *file;
    int line;
};
#define EMU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* Prints where and what, and ends the process with EMU_EXIT. Callable from anywhere. */
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, naming another thread than the running one. */
[[noreturn]] void fault_at(const Thread *thread, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* ---- barriers and exchanges ------------------------------------------------------------------------ */

enum class Vote { NONE, OR, AND, COUNT };
/* __syncthreads and its voting forms: waits for the whole block at the same line; returns the vote's result.
 */
int block_barrier(Vote vote, int value, Site site);

/* Waits until every lane of mask calls with the same operation, mask and line; then the last to arrive calls
   complete(payloads, mask) once: payloads[lane] is that lane's pointer, null for lanes outside mask. */
typedef void (*Complete)(void *const *payloads, unsigned mask);
void warp_collective(const char *operation, unsigned mask, void *payload, Complete complete, Site site);
/* Like fault(), for a complete() function: names lane's thread of the running warp. */
[[noreturn]] void fault_lane(unsigned lane, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- memory ------------------------------------------------------------------------------------------ */

/* Fresh memory holds this: as float and as bf16 a signalling NaN that no arithmetic produces. */
const uint32_t POISON = 0x7fa07fa0u;
const uint16_t POISON_BF16 = 0x7fa0u;
void poison_fill(void *memory, size_t bytes);
[[noreturn]] void poison_fault(const char *what);

void *dynamic_shared();
void *static_shared(const void *key, const char *name, size_t bytes);
/* The pointer's offset in the block's shared memory; a fault if [pointer, pointer + bytes) is not all in it.
 */
uint32_t shared_offset(const void *pointer, size_t bytes, const char *operation);
/* A fault unless the range lies in one live device allocation. */
void require_device_range(const void *pointer, size_t bytes, const char *operation);
/* A fault unless the address is a multiple. For accesses that g++ would not check by itself. */
void require_aligned(const void *pointer, size_t alignment, const char *operation);

void async_copy_start(void *shared, const void *global, size_t bytes, bool copy);
void async_copy_commit();
void async_copy_wait(int pending);

/* ---- launches and streams ---------------------------------------------------------------------------- */

/* Checks the configuration (a launch error that cudaGetLastError reports, if it is wrong), then queues the
   kernel. body runs one thread of it. */
void queue_kernel(const char *name, const void *function, size_t argument_bytes, dim3 grid, dim3 block,
                  size_t shared, CUstream_st *stream, std::function<void()> body);
/* Queues any other device work under a name. Work that waits for something outside this process says by `ready`
   whether that has come: it is asked once the work is the next of its stream, again and again until it says yes.
   number: the work's place in the order of queueing. */
void queue_work(const char *name, CUstream_st *stream, std::function<void()> work,
                std::function<bool(uint64_t number)> ready = nullptr);

/* A fault if an argument leads to memory that a kernel cannot reach: a pointer that is neither null nor in
   (or just behind) a live allocation of device or pinned memory; and, where AddressSanitizer can tell, a
   pointer to the host's heap, stack or globals inside a struct. */
void check_argument(const char *kernel, size_t index, const void *argument, size_t bytes, bool is_pointer);

/* A struct's padding is what the stack held before, which may look like a pointer. */
template <typename Argument> void check_without_padding(const char *kernel, size_t index, Argument argument) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
    __builtin_clear_padding(&argument);
#endif
#endif
    check_argument(kernel, index, &argument, sizeof argument, std::is_pointer<Argument>::value);
}

template <typename Tuple, size_t... index>
void check_arguments([[maybe_unused]] const char *kernel, [[maybe_unused]] const Tuple &arguments,
                     std::index_sequence<index...>) {
    (check_without_padding<std::tuple_element_t<index, Tuple>>(kernel, index, std::get<index>(arguments)), ...);
}

/* The arguments are converted to the parameters' types and copied now; every thread gets its own copy of
 * them. */
template <typename... Parameters, typename... Arguments>
void launch(const char *name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            CUstream_st *stream, Arguments &&...arguments) {
    static_assert(sizeof...(Parameters) == sizeof...(Arguments),
                  "a launch needs as many arguments as the kernel");
    std::tuple<Parameters...> frozen(std::forward<Arguments>(arguments)...);
    check_arguments(name, frozen, std::index_sequence_for<Parameters...>());
    queue_kernel(name, reinterpret_cast<const void *>(kernel), (sizeof(Parameters) + ... + 0), grid, block,
                 shared, stream, [kernel, frozen] { std::apply(kernel, frozen); });
}

/* Seed of every order that CUDA leaves open. EMU_SEED of the environment at the start; 0 is the natural
 * order. */
void set_seed(uint64_t seed);
/* A number below bound from the seeded generator; 0 if the seed is 0. */
unsigned random_below(unsigned bound);
extern uint64_t seed;

/* ---- between the engine's files ---------------------------------------------------------------------- */

struct Grid {
    const char *kernel;
    dim3 grid, block;
    size_t dynamic_shared;
    size_t shared_limit; /* static and dynamic together */
    const std::function<void()> *body;
};
extern const Grid *running; /* null while no kernel runs */
void run_grid(const Grid &grid);
void shared_begin(const Grid &grid);
void shared_block_begin();
void shared_block_end();
void shared_end();
size_t async_copies_pending(unsigned linear);
void async_copies_reset(unsigned linear);
void traps_begin(); /* around device work: signals become faults */
void traps_end();
void traps_on();                   /* in the running fiber: arithmetic on poison is a fault */
void device_visible(bool visible); /* AddressSanitizer: host code must not touch device memory */

} // namespace emu

#endif
