/* ops_list.h: every operation of the contract with its arguments, once; and bf16 on the host. */
#ifndef OPS_LIST_H
#define OPS_LIST_H

#include "../kernels/kernels.h"

#include <string.h>

#define OPERATIONS(X)                                                                                        \
    X(embedding_forward, Embedding)                                                                          \
    X(embedding_backward, EmbeddingBackward)                                                                 \
    X(linear_forward, Linear)                                                                                \
    X(linear_backward_input, LinearBackward)                                                                 \
    X(linear_backward_weight, LinearBackward)                                                                \
    X(qkv_forward, Qkv)                                                                                      \
    X(qkv_backward, QkvBackward)                                                                             \
    X(attention_forward, Attention)                                                                          \
    X(attention_backward, AttentionBackward)                                                                 \
    X(attention_decode, AttentionDecode)                                                                     \
    X(activation_forward, Activation)                                                                        \
    X(activation_backward, ActivationBackward)                                                               \
    X(junction_forward, Junction)                                                                            \
    X(junction_backward, JunctionBackward)                                                                   \
    X(gpas_scales, GpasScales)                                                                               \
    X(product_norm, ProductNorm)                                                                             \
    X(bhyt_terms, BhytTerms)                                                                                 \
    X(cross_entropy, CrossEntropy)                                                                           \
    X(step_begin, StepBegin)                                                                                 \
    X(loss_reduce, LossReduce)                                                                               \
    X(sum_squares, SumSquares)                                                                               \
    X(step_decide, StepDecide)                                                                               \
    X(adamw, AdamW)                                                                                          \
    X(muon_momentum, MuonMomentum)                                                                           \
    X(scaled_copy, ScaledCopy)                                                                               \
    X(axpby, Axpby)                                                                                          \
    X(muon_update, MuonUpdate)                                                                               \
    X(tensor_stats, TensorStats)                                                                             \
    X(cast, Cast)                                                                                            \
    X(halves, Halves)                                                                                        \
    X(hash, Hash)

/* bf16 is the upper half of a float; to it, round to nearest, ties to even; a NaN stays one. */
static inline float bf16_to_float(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint16_t float_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

/* A master's halves (kernels.h, before AdamW). */
static inline uint16_t upper_half(float master) {
    uint32_t bits;
    memcpy(&bits, &master, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x8000u) >> 16);
}

static inline uint16_t lower_half(float master) {
    uint32_t bits;
    memcpy(&bits, &master, sizeof bits);
    return (uint16_t)bits;
}

static inline float joined_halves(uint16_t upper, uint16_t lower) {
    uint32_t bits = ((uint32_t)upper << 16) + (uint32_t)(int32_t)(int16_t)lower;
    float master;
    memcpy(&master, &bits, sizeof master);
    return master;
}

#endif
