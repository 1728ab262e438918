/*
 * hash.cu: are these the bits that another rank has? (kernels.h)
 *
 * Reads 4 bytes a word, once every many steps. A sum modulo 2^64 has no order: each warp adds its own atomically.
 */
#include "types.cuh"

namespace {

constexpr int THREADS = 128;
constexpr int64_t BLOCKS_MOST = 1024; /* 4,096 additions to one number, whatever the size */

/* Of word i: a bijection of the 64 bits that the word and its number make (splitmix64's last steps, Steele, Lea and Flood
 * 2014), so that one word that differs always shows. */
__device__ __forceinline__ unsigned long long mix(uint32_t word, int64_t i) {
    unsigned long long x = (unsigned long long)i << 32 | word;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

__global__ void __launch_bounds__(THREADS) hash_kernel(const uint32_t *__restrict__ words, int64_t n, unsigned long long *out) {
    const int64_t stride = (int64_t)gridDim.x * blockDim.x;
    unsigned long long sum = 0;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) sum += mix(words[i], i);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) atomicAdd(out, sum);
}

} // namespace

void hash(Queue *queue, const Hash *args) {
    CUDA_CHECK(cudaMemsetAsync(args->out, 0, sizeof *args->out, queue->stream), "hash");
    if (args->n == 0) return;
    const int64_t blocks = ceil_div(args->n, THREADS);
    LAUNCH(hash_kernel, (unsigned)(blocks < BLOCKS_MOST ? blocks : BLOCKS_MOST), THREADS, 0, queue->stream,
           static_cast<const uint32_t *>(args->words), args->n, reinterpret_cast<unsigned long long *>(args->out));
}
