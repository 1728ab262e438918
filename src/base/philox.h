/*
 * philox.h: random numbers that depend on what they are for, and on nothing else.
 *
 * Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps
 * a 128-bit counter and a 64-bit key to 128 random bits, without any state. Here
 *
 *     key     = the run's seed                                 (low word first)
 *     counter = index/2 in the low 64 bits, name hash in the high 64 bits
 *
 * and the name is what the numbers are for, for example "h.3.attn.c_proj.weight". An element's value is a
 * function of (seed, name, logical index): it does not know about ranks, devices, padding, threads, or the
 * order in which tensors are filled. Two consecutive indices share one block of bits.
 *
 * A name is hashed with 64-bit FNV-1a (offset basis 0xcbf29ce484222325, prime 0x100000001b3, one byte at a
 * time, without the terminating NUL). Among 10,000 names two collide with probability 3e-12.
 *
 * philox_uniform and philox_normal draw on the same bits: use one of them per name, not both.
 */
#ifndef PHILOX_H
#define PHILOX_H

#include <stddef.h>
#include <stdint.h>

/* The bare generator, with Random123's order of the words. */
void philox4x32_10(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* 128 bits as two words: counter = (high, low), key = key. */
void philox_bits(uint64_t key, uint64_t high, uint64_t low, uint64_t out[2]);

uint64_t philox_name_hash(const char *name);

/* Uniform in [0, 1), a multiple of 2^-53. */
double philox_uniform(uint64_t seed, uint64_t name_hash, uint64_t index);

/* Standard normal, by Box and Muller in double from two 53-bit uniforms: an even index takes the cosine, the
   odd index after it the sine. Never beyond ±8.58, since the radius comes from a uniform ≥ 2^-53. */
double philox_normal(uint64_t seed, uint64_t name_hash, uint64_t index);

/* A matrix to be filled: element (row, column) lies at out[row * stride + column] and has the logical index
   first_index + row * columns + column. What lies between columns and stride is left alone. */
typedef struct PhiloxFill {
    uint64_t seed, name_hash, first_index;
    size_t rows, columns, stride; /* stride ≥ columns, in elements */
    double mean, std;
} PhiloxFill;

/* out = mean + std * philox_normal(index), computed in double, rounded once. Runs on all OpenMP threads; the
   bits do not depend on how many there are, and equal those of philox_normal element by element. */
void philox_fill_normal_f32(float *out, const PhiloxFill *fill);
void philox_fill_normal_f64(double *out, const PhiloxFill *fill);

#endif
