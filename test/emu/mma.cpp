/*
 * mma.cpp: the tensor cores' product of fragments, summed as roughly as the roughest that runs our kernels.
 *
 * PTX promises single precision and no order. What the cores do is measured: "Numerical behavior of NVIDIA tensor
 * cores" (Fasi, Higham, Mikaitis, Pranesh; PeerJ Computer Science 7:e330, 2021), and bit by bit "MMA-Sim" (Xie and
 * others, arXiv:2511.10909, 2025). A block of products, exact, and what they are added to are shifted to the largest
 * exponent among them; what falls below the last bit of fraction is cut off; the sum of what is left is exact, and cut
 * off to fp32. Compute capability 8.x, the first that has bf16, does it for 8 products at a time with 24 bits of
 * fraction; 9.0 and 10.0 for all 16, with 25. Here it is 8.x.
 */
#include "emu.h"

#include <float.h>
#include <math.h>
#include <string.h>
#include <algorithm>

namespace emu {

namespace {

const int M = 16, N = 8, K = 16, BLOCK = 8, FRACTION = 24;

struct Lane {
    float *d;
    const uint32_t *a, *b;
    const float *c;
};

/* The power of two that x's exponent says, a denormal number's being the smallest; infinite for what is not finite. */
inline float power_of(float x) {
    uint32_t bits;
    float power;
    memcpy(&bits, &x, 4);
    bits &= 0x7f800000u;
    memcpy(&power, &bits, 4);
    return std::max(power, FLT_MIN);
}

inline float toward_zero(double x) {
    float nearest = (float)x;
    uint32_t bits;
    memcpy(&bits, &nearest, 4);
    bits -= fabs((double)nearest) > fabs(x) && fabsf(nearest) <= FLT_MAX;
    memcpy(&nearest, &bits, 4);
    return nearest;
}

/* What the tensor cores read, each with its exponent's power of two. */
struct Operands {
    float a[M][K], b[K][N], a_power[M][K], b_power[K][N];
};

/* d += the products of row m of A and column n of B, for k in [from, from + BLOCK). Infinities and NaN spread as
 * everywhere. */
void add_block(float *d, const Operands &o, int m, int n, int from) {
    double most = power_of(*d), plain = *d;
    for (int k = from; k < from + BLOCK; k++) {
        most = std::max(most, (double)o.a_power[m][k] * (double)o.b_power[k][n]);
        plain += (double)o.a[m][k] * (double)o.b[k][n];
    }
    const double scale = (1 << FRACTION) / most;
    if (scale > 0) {
        int32_t sum = (int32_t)(*d * scale);
        for (int k = from; k < from + BLOCK; k++) sum += (int32_t)((double)o.a[m][k] * (double)o.b[k][n] * scale);
        *d = toward_zero(sum / scale);
    } else {
        *d = (float)plain;
    }
}

/* The same for 4 columns at once, in fp32: false where a number that counts is too large or small for that. */
bool add_block_of_usual_size(float *d, const Operands &o, int m, int n, int from) {
    typedef float Floats __attribute__((vector_size(16)));
    typedef int32_t Ints __attribute__((vector_size(16)));
    Floats before, b, power, most;
    memcpy(&before, d, sizeof before);
    for (int i = 0; i < 4; i++) most[i] = power_of(d[i]);
    for (int k = from; k < from + BLOCK; k++) {
        memcpy(&power, &o.b_power[k][n], sizeof power);
        power *= o.a_power[m][k];
        most = power > most ? power : most;
    }
    for (int i = 0; i < 4; i++)
        if (most[i] < 0x1p-100f || most[i] > 0x1p100f) return false;
    const Floats scale = (float)(1 << FRACTION) / most;
    Ints sum = __builtin_convertvector(before * scale, Ints);
    for (int k = from; k < from + BLOCK; k++) {
        memcpy(&b, &o.b[k][n], sizeof b);
        sum += __builtin_convertvector(o.a[m][k] * b * scale, Ints);
    }
    const Floats nearest = __builtin_convertvector(sum, Floats);
    const Ints back = __builtin_convertvector(nearest, Ints), too_far = sum < 0 ? back < sum : back > sum; /* -1 where so */
    const Floats cut = (Floats)((Ints)nearest + too_far) / scale;
    memcpy(d, &cut, sizeof cut);
    return true;
}

inline float read(uint32_t pair, unsigned half, unsigned lane, const char *operand) {
    uint32_t bits = half ? pair & 0xffff0000u : pair << 16;
    if (bits >> 16 == POISON_BF16) fault_lane(lane, "mma reads uninitialised memory in %s", operand);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

void complete(void *const *payloads, unsigned) {
    Operands o;
    float d[M][N];
    for (unsigned lane = 0; lane < WARP; lane++) {
        const Lane *self = static_cast<const Lane *>(payloads[lane]);
        const unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++)
            for (unsigned half = 0; half < 2; half++) {
                const float value = read(self->a[i], half, lane, "A");
                const unsigned row = g + i % 2 * 8, k = t + i / 2 * 8 + half;
                o.a[row][k] = value, o.a_power[row][k] = power_of(value);
            }
        for (unsigned i = 0; i < 2; i++)
            for (unsigned half = 0; half < 2; half++) {
                const float value = read(self->b[i], half, lane, "B");
                const unsigned k = t + i * 8 + half;
                o.b[k][g] = value, o.b_power[k][g] = power_of(value);
            }
        for (unsigned i = 0; i < 4; i++) {
            uint32_t bits;
            memcpy(&bits, &self->c[i], 4);
            if (bits == POISON) fault_lane(lane, "mma reads uninitialised memory in C");
            d[g + i / 2 * 8][t + i % 2] = self->c[i];
        }
    }
    for (int from = 0; from < K; from += BLOCK)
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n += 4)
                if (!add_block_of_usual_size(&d[m][n], o, m, n, from))
                    for (int i = 0; i < 4; i++) add_block(&d[m][n + i], o, m, n + i, from);
    for (unsigned lane = 0; lane < WARP; lane++) {
        float *out = static_cast<const Lane *>(payloads[lane])->d;
        for (unsigned i = 0; i < 4; i++) out[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
    }
}

} // namespace

void mma_m16n8k16(float *d, const uint32_t *a, const uint32_t *b, const float *c, Site site) {
    Lane lane = {d, a, b, c};
    warp_collective("mma.m16n8k16", 0xffffffffu, &lane, complete, site);
}

} // namespace emu
