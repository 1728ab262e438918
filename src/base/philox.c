/* philox.c: see philox.h. */
#include "philox.h"

#include <math.h>
#include <string.h>

static inline void philox_words(uint32_t c[4], uint32_t key0, uint32_t key1) {
    for (int round = 0; round < 10; round++) {
        const uint64_t product0 = (uint64_t)0xD2511F53u * c[0];
        const uint64_t product1 = (uint64_t)0xCD9E8D57u * c[2];
        const uint32_t c0 = (uint32_t)(product1 >> 32) ^ c[1] ^ key0;
        const uint32_t c2 = (uint32_t)(product0 >> 32) ^ c[3] ^ key1;
        c[0] = c0;
        c[1] = (uint32_t)product1;
        c[2] = c2;
        c[3] = (uint32_t)product0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4] = {counter[0], counter[1], counter[2], counter[3]};
    philox_words(c, key[0], key[1]);
    for (int i = 0; i < 4; i++) out[i] = c[i];
}

static inline void bits(uint64_t key, uint64_t high, uint64_t low, uint64_t *out0, uint64_t *out1) {
    uint32_t c[4] = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)};
    philox_words(c, (uint32_t)key, (uint32_t)(key >> 32));
    *out0 = (uint64_t)c[1] << 32 | c[0];
    *out1 = (uint64_t)c[3] << 32 | c[2];
}

void philox_bits(uint64_t key, uint64_t high, uint64_t low, uint64_t out[2]) {
    bits(key, high, low, &out[0], &out[1]);
}

uint64_t philox_name_hash(const char *name) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++) hash = (hash ^ *p) * 0x100000001b3u;
    return hash;
}

double philox_uniform(uint64_t seed, uint64_t name_hash, uint64_t index) {
    uint64_t word[2];
    philox_bits(seed, name_hash, index >> 1, word);
    return (double)(word[index & 1] >> 11) * 0x1p-53;
}

/*
 * The elementary functions below are plain series written with explicit fma and no branch. glibc's scalar log
 * and sincos made a fill take 17 ns an element; these vectorise (gcc 12, AVX-512: 3.1 ns). And explicit fma
 * leaves the compiler nothing to contract in one place and not in another: a fill and a single draw agree in
 * every bit, on every processor.
 */

/* log(u) for a normal u in (0, 1]: u = 2^e m with m in [√½, √2); log m = 2 artanh(s), s = (m−1)/(m+1), |s| ≤
   0.172: the first term left out, s^20/21, is at most 2.4e-17 of the sum. */
static inline double log_unit(double u) {
    uint64_t ubits, mbits;
    double m;
    memcpy(&ubits, &u, sizeof ubits);
    const int64_t e = (int64_t)(ubits - 0x3fe6a09e667f3bcdu) >> 52; /* the bits of √½ */
    mbits = ubits - ((uint64_t)e << 52);
    memcpy(&m, &mbits, sizeof m);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double series = 1.0 / 19;
    series = fma(series, z, 1.0 / 17);
    series = fma(series, z, 1.0 / 15);
    series = fma(series, z, 1.0 / 13);
    series = fma(series, z, 1.0 / 11);
    series = fma(series, z, 1.0 / 9);
    series = fma(series, z, 1.0 / 7);
    series = fma(series, z, 1.0 / 5);
    series = fma(series, z, 1.0 / 3);
    series = fma(series, z, 1.0);
    return fma((double)e, 0.693147180559945309417, 2.0 * s * series);
}

/* Sine and cosine of `turns` full turns, 0 ≤ turns < 1: the nearest quarter turn comes off exactly; the rest,
   at most π/4, goes through the Taylor series up to θ^17 and θ^16. */
static inline void sincos_turns(double turns, double *sine, double *cosine) {
    const double quarter = rint(4.0 * turns);
    const double theta = 6.283185307179586476925 * fma(-0.25, quarter, turns), z = theta * theta;
    double s = 1.0 / 355687428096000, c = 1.0 / 20922789888000;
    s = fma(s, z, -1.0 / 1307674368000), c = fma(c, z, -1.0 / 87178291200);
    s = fma(s, z, 1.0 / 6227020800), c = fma(c, z, 1.0 / 479001600);
    s = fma(s, z, -1.0 / 39916800), c = fma(c, z, -1.0 / 3628800);
    s = fma(s, z, 1.0 / 362880), c = fma(c, z, 1.0 / 40320);
    s = fma(s, z, -1.0 / 5040), c = fma(c, z, -1.0 / 720);
    s = fma(s, z, 1.0 / 120), c = fma(c, z, 1.0 / 24);
    s = fma(s, z, -1.0 / 6), c = fma(c, z, -0.5);
    s = fma(s, z, 1.0), c = fma(c, z, 1.0);
    s *= theta;
    const int64_t q = (int64_t)quarter;
    const double swapped_s = q & 1 ? c : s, swapped_c = q & 1 ? s : c;
    *sine = q & 2 ? -swapped_s : swapped_s;
    *cosine = (q + 1) & 2 ? -swapped_c : swapped_c;
}

/* The 1 added keeps the logarithm finite. */
static inline void box_muller(uint64_t word0, uint64_t word1, double *even, double *odd) {
    const double u1 = (double)(int64_t)((word0 >> 11) + 1) * 0x1p-53;
    const double u2 = (double)(int64_t)(word1 >> 11) * 0x1p-53;
    const double radius = sqrt(-2.0 * log_unit(u1));
    double sine, cosine;
    sincos_turns(u2, &sine, &cosine);
    *even = radius * cosine;
    *odd = radius * sine;
}

double philox_normal(uint64_t seed, uint64_t name_hash, uint64_t index) {
    uint64_t word[2];
    double pair[2];
    philox_bits(seed, name_hash, index >> 1, word);
    box_muller(word[0], word[1], &pair[0], &pair[1]);
    return pair[index & 1];
}

/* Elements at a time: so few that the scratch stays in the first-level cache. */
enum { CHUNK = 1024 };

/* normals[i] for the logical indices first + i, i < count ≤ CHUNK. The bits come in a loop of their own,
 * which vectorises. */
static void normal_chunk(const PhiloxFill *fill, uint64_t first, size_t count, double normals[CHUNK + 2]) {
    uint64_t word0[CHUNK / 2 + 1], word1[CHUNK / 2 + 1];
    const uint64_t block = first >> 1;
    const size_t n_blocks = (size_t)(((first + count + 1) >> 1) - block);
    for (size_t i = 0; i < n_blocks; i++) bits(fill->seed, fill->name_hash, block + i, &word0[i], &word1[i]);
    for (size_t i = 0; i < n_blocks; i++)
        box_muller(word0[i], word1[i], &normals[2 * i], &normals[2 * i + 1]);
}

/* Both storage types share this loop; a chunk never crosses a row, and each is computed by one thread alone.
 */
#define FILL_BODY(real)                                                                                      \
    const size_t chunks_per_row = (fill->columns + CHUNK - 1) / CHUNK;                                       \
    const size_t n_chunks = fill->rows * chunks_per_row;                                                     \
    _Pragma("omp parallel for schedule(static) if (n_chunks > 16)") for (size_t c = 0; c < n_chunks; c++) {  \
        const size_t row = c / chunks_per_row, column = c % chunks_per_row * CHUNK;                          \
        const size_t left = fill->columns - column, count = left < CHUNK ? left : CHUNK;                     \
        const uint64_t first = fill->first_index + (uint64_t)row * fill->columns + column;                   \
        double normals[CHUNK + 2];                                                                           \
        normal_chunk(fill, first, count, normals);                                                           \
        const double *normal = normals + (first & 1);                                                        \
        real *to = out + row * fill->stride + column;                                                        \
        for (size_t i = 0; i < count; i++) to[i] = (real)fma(fill->std, normal[i], fill->mean);              \
    }

void philox_fill_normal_f32(float *out, const PhiloxFill *fill) {
    FILL_BODY(float)
}

void philox_fill_normal_f64(double *out, const PhiloxFill *fill) {
    FILL_BODY(double)
}
