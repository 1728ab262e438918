/* test_emu.cpp: emulated kernels compute what the same kernels compute on a GPU, whatever the seed. */
#include "test_emu.h"
#include "elementary.cuh"

#include <float.h>
#include <math.h>
#include <algorithm>

namespace {

/* ---- indices, barriers ------------------------------------------------------------------------------- */

__global__ void count_visits(unsigned *visits) {
    unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    atomicAdd(&visits[block * blockDim.x * blockDim.y * blockDim.z + thread], 1u);
}

void every_thread_of_every_block_runs_once(void **) {
    for_seeds(4, [](int) {
        dim3 grid(5, 3, 2), block(4, 8, 3);
        Device<unsigned> visits(std::vector<unsigned>(5 * 3 * 2 * 4 * 8 * 3, 0));
        LAUNCH(count_visits, grid, block, 0, 0, visits.at);
        for (unsigned count : visits.host()) assert_int_equal(count, 1);
    });
}

/* Block-wide exclusive prefix sum: wrong at once if a barrier does not hold. */
__global__ void prefix_sum(int *values) {
    SHARED_ARRAY(int, buffer, 1024);
    int own = values[threadIdx.x];
    buffer[threadIdx.x] = own;
    __syncthreads();
    for (unsigned step = 1; step < blockDim.x; step *= 2) {
        int left = threadIdx.x >= step ? buffer[threadIdx.x - step] : 0;
        __syncthreads();
        buffer[threadIdx.x] += left;
        __syncthreads();
    }
    values[threadIdx.x] = buffer[threadIdx.x] - own;
}

void barriers_hold_under_every_seed(void **) {
    for_seeds(8, [](int) {
        std::vector<int> in(1024);
        for (int i = 0; i < 1024; i++) in[i] = i * i % 31 - 7;
        Device<int> values(in);
        LAUNCH(prefix_sum, 1, 1024, 0, 0, values.at);
        std::vector<int> out = values.host();
        for (int i = 0, sum = 0; i < 1024; sum += in[i++]) assert_int_equal(out[i], sum);
    });
}

/* The canary: thread 0 of the last warp writes what the first warp reads, with no barrier between. */
__global__ void race(int *out) {
    SHARED_ARRAY(int, flag, 1);
    if (threadIdx.x == 0) flag[0] = 0;
    __syncthreads();
    if (threadIdx.x == 96) flag[0] = 1;
    if (threadIdx.x == 0) out[0] = flag[0];
}

void a_missing_barrier_shows_under_some_seed(void **) {
    bool seen[2] = {false, false};
    for_seeds(20, [&](int) {
        Device<int> out(1);
        LAUNCH(race, 1, 128, 0, 0, out.at);
        seen[out.host()[0]] = true;
    });
    assert_true(seen[0] && seen[1]);
}

__global__ void block_votes(int *out) {
    int x = (int)threadIdx.x;
    int any = __syncthreads_or(x == 77), none = __syncthreads_or(x > 1000);
    int all = __syncthreads_and(x >= 0), not_all = __syncthreads_and(x != 3);
    int count = __syncthreads_count(x % 3 == 0);
    out[x] = any + 2 * none + 4 * all + 8 * not_all + 16 * count;
}

void block_votes_reach_every_thread(void **) {
    for_seeds(4, [](int) {
        Device<int> out(96);
        LAUNCH(block_votes, 1, 96, 0, 0, out.at);
        for (int got : out.host()) assert_int_equal(got, 1 + 4 + 16 * 32);
    });
}

/* ---- exchanges within a warp ------------------------------------------------------------------------- */

__global__ void shuffles(int *out, int argument, int width) {
    int lane = (int)threadIdx.x, *mine = out + lane * 4;
    mine[0] = __shfl_sync(FULL, lane, argument, width);
    mine[1] = __shfl_up_sync(FULL, lane, (unsigned)argument, width);
    mine[2] = __shfl_down_sync(FULL, lane, (unsigned)argument, width);
    mine[3] = __shfl_xor_sync(FULL, lane, argument, width);
}

void shuffles_follow_their_definition(void **) {
    for_seeds(2, [](int) {
        for (int width = 1; width <= 32; width *= 2)
            for (int argument = 0; argument < 32; argument += 3) {
                Device<int> out(32 * 4);
                LAUNCH(shuffles, 1, 32, 0, 0, out.at, argument, width);
                std::vector<int> got = out.host();
                for (int lane = 0; lane < 32; lane++) {
                    int first = lane / width * width, last = first + width - 1;
                    assert_int_equal(got[lane * 4], first + argument % width);
                    assert_int_equal(got[lane * 4 + 1], lane - argument < first ? lane : lane - argument);
                    assert_int_equal(got[lane * 4 + 2], lane + argument > last ? lane : lane + argument);
                    assert_int_equal(got[lane * 4 + 3], (lane ^ argument) > last ? lane : lane ^ argument);
                }
            }
    });
}

/* Groups of eight lanes go their own ways, a different number of times, then meet. */
__global__ void groups(float *out) {
    unsigned lane = threadIdx.x, group = lane / 8, mask = 0xffu << group * 8;
    double value = lane;
    for (unsigned i = 0; i <= group; i++) value += __shfl_xor_sync(mask, value, 1);
    __syncwarp();
    out[lane] = (float)__shfl_sync(FULL, value, 31 - (int)lane);
}

void partial_masks_meet_their_own_lanes_only(void **) {
    for_seeds(6, [](int) {
        Device<float> out(32);
        LAUNCH(groups, 1, 32, 0, 0, out.at);
        std::vector<float> got = out.host();
        for (int lane = 0; lane < 32; lane++) {
            int from = 31 - lane;
            double value = from, other = from ^ 1;
            for (int i = 0; i <= from / 8; i++) value = other = value + other;
            assert_true(got[lane] == (float)value);
        }
    });
}

__global__ void warp_votes(unsigned *out) {
    unsigned lane = threadIdx.x, *mine = out + lane * 6;
    mine[0] = __ballot_sync(FULL, lane % 3 == 0);
    mine[1] = (unsigned)__any_sync(FULL, lane == 9) | (unsigned)__any_sync(FULL, lane == 99) << 1;
    mine[2] = (unsigned)__all_sync(FULL, 1) | (unsigned)__all_sync(FULL, lane != 9) << 1;
    mine[3] = __reduce_add_sync(FULL, lane);
    mine[4] = (unsigned)__reduce_min_sync(FULL, (int)lane - 7);
    mine[5] = __reduce_max_sync(FULL, lane * 3);
}

void warp_votes_and_reductions(void **) {
    Device<unsigned> out(32 * 6);
    LAUNCH(warp_votes, 1, 32, 0, 0, out.at);
    std::vector<unsigned> got = out.host();
    for (int lane = 0; lane < 32; lane++) {
        const unsigned want[6] = {0x49249249u, 1, 1, 496, (unsigned)-7, 93};
        for (int i = 0; i < 6; i++) assert_int_equal(got[lane * 6 + i], want[i]);
    }
}

/* ---- tensor-core twins ------------------------------------------------------------------------------- */

/* C = A·B for one 16×16 and one 16×8 tile, with B as rows of n (trans) or of k (plain), by x4 or x2 loads. */
template <bool transposed, bool x4>
__global__ void mma_tile(float *c, const __nv_bfloat16 *a, const __nv_bfloat16 *b) {
    SHARED_MEMORY(__nv_bfloat16, shared);
    __nv_bfloat16 *a_tile = shared, *b_tile = shared + 256;
    const unsigned lane = threadIdx.x;
    for (unsigned i = lane; i < 256; i += 32) a_tile[i] = a[i];
    for (unsigned i = lane; i < 128; i += 32) b_tile[i] = b[i];
    for (unsigned i = 128 + lane; i < 256; i += 32) b_tile[i] = 0.0f;
    __syncthreads();
    uint32_t af[4], bf[2], wide[4];
    ldmatrix_x4(af, &a_tile[lane % 16 * 16 + lane / 16 * 8]);
    /* B: 16 rows of 8 when stored by k, 8 rows of 16 when stored by n. */
    const __nv_bfloat16 *row =
        transposed ? &b_tile[lane % 16 * 8] : &b_tile[lane % 8 * 16 + lane / 8 % 2 * 8];
    if (x4) {
        if (transposed)
            ldmatrix_x4_trans(wide, row);
        else
            ldmatrix_x4(wide, row);
        bf[0] = wide[0], bf[1] = wide[1];
    } else if (transposed)
        ldmatrix_x2_trans(bf, row);
    else
        ldmatrix_x2(bf, row);
    float sum[4] = {1, 1, 1, 1};
    mma_m16n8k16_bf16(sum, af, bf, sum);
    const unsigned g = lane / 4, t = lane % 4 * 2;
    c[g * 8 + t] = sum[0], c[g * 8 + t + 1] = sum[1];
    c[(g + 8) * 8 + t] = sum[2], c[(g + 8) * 8 + t + 1] = sum[3];
}

template <bool transposed, bool x4> void check_mma() {
    std::vector<__nv_bfloat16> a(256), b(128);
    for (int i = 0; i < 256; i++) a[i] = (float)(i * 37 % 101 - 50);
    for (int i = 0; i < 128; i++) b[i] = (float)(i * 53 % 97 - 48);
    Device<__nv_bfloat16> da(a), db(b);
    Device<float> c(128);
    LAUNCH((mma_tile<transposed, x4>), 1, 32, 1024, 0, c.at, da.at, db.at);
    std::vector<float> got = c.host();
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 8; n++) {
            float want = 1; /* small integers: every order of summation gives the same bits */
            for (int k = 0; k < 16; k++)
                want += (float)a[m * 16 + k] * (float)b[transposed ? k * 8 + n : n * 16 + k];
            assert_true(got[m * 8 + n] == want);
        }
}

void ldmatrix_and_mma_give_the_plain_product(void **) {
    for_seeds(3, [](int) {
        check_mma<false, false>();
        check_mma<false, true>();
        check_mma<true, false>();
        check_mma<true, true>();
    });
}

/* Row m of D is c[m] plus the products of a[m] (A's row, by k) with `factor`. */
__global__ void mma_rows(float *d, const float *c, const __nv_bfloat16 *a, __nv_bfloat16 factor) {
    const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4 * 2;
    uint32_t af[4], bf[2];
    for (unsigned i = 0; i < 4; i++) memcpy(&af[i], &a[(g + i % 2 * 8) * 16 + t + i / 2 * 8], 4);
    const __nv_bfloat16 two[2] = {factor, factor};
    memcpy(&bf[0], two, 4), memcpy(&bf[1], two, 4);
    float sum[4] = {c[g], c[g], c[g + 8], c[g + 8]};
    mma_m16n8k16_bf16(sum, af, bf, sum);
    for (unsigned i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + t + i % 2] = sum[i];
}

/* Products of one size, for k in [first, first + count). */
struct Products {
    float size;
    int first, count;
};

/* The largest exponent's 24 bits of fraction are kept, 8 products at a time; all else is cut off (mma.cpp). */
void mma_sums_as_roughly_as_compute_capability_8(void **) {
    const float ulp = ldexpf(1, -23), factor = ldexpf(1, -8), denormal = ldexpf(1, -149);
    const struct {
        float c;
        Products products[3];
        float want;
    } rows[16] = {
        {1, {{0.75f * ulp, 0, 16}}, 1 + 8 * ulp}, /* half an ulp each */
        {-1, {{-0.75f * ulp, 0, 16}}, -1 - 8 * ulp},
        {1, {{1.5f * ulp, 0, 1}}, 1 + ulp},
        {-1, {{-1.5f * ulp, 0, 1}}, -1 - ulp},
        {1, {{0.5f * ulp, 0, 2}}, 1 + ulp}, /* one bit more than fp32 has, */
        {1, {{0.5f * ulp, 7, 2}}, 1},       /* but not from one half of k to the other */
        {1, {{0.25f * ulp, 0, 16}}, 1},
        {-1, {{1, 0, 1}, {0.25f * ulp, 1, 7}}, 0},
        {0, {{1, 0, 1}, {-1, 7, 1}, {0.25f * ulp, 8, 1}}, 0.25f * ulp},
        {0, {{0.25f * ulp, 0, 1}, {1, 8, 1}, {-1, 15, 1}}, 0},
        {3 * denormal, {{1024 * denormal, 0, 3}}, 3075 * denormal},
        {0, {{0, 0, 16}}, 0},
        {FLT_MAX, {{ldexpf(1, 104), 0, 1}}, INFINITY},
        {INFINITY, {{1, 0, 16}}, INFINITY},
        {1, {{-INFINITY, 7, 2}}, -INFINITY},
        {-INFINITY, {{INFINITY, 0, 1}}, NAN},
    };
    std::vector<__nv_bfloat16> a(256);
    std::vector<float> c(16);
    for (int m = 0; m < 16; m++) {
        c[m] = rows[m].c;
        for (int k = 0; k < 16; k++) a[m * 16 + k] = 0.0f;
        for (const Products &products : rows[m].products)
            for (int k = 0; k < products.count; k++) a[m * 16 + products.first + k] = products.size / factor;
    }
    Device<__nv_bfloat16> da(a);
    Device<float> dc(c), d(128);
    LAUNCH(mma_rows, 1, 32, 0, 0, d.at, dc.at, da.at, factor);
    std::vector<float> got = d.host();
    for (int i = 0; i < 128; i++) {
        const float want = rows[i / 8].want;
        const bool same = got[i] == want || (isnan(got[i]) && isnan(want));
        if (!same) print_error("row %d, column %d: %.9g for %.9g\n", i / 8, i % 8, got[i], want);
        assert_true(same);
    }
}

/* The fragments themselves, against the table in the PTX manual, written here as positions. */
__global__ void fragments(uint32_t *out) {
    SHARED_ARRAY(uint16_t, tile, 256);
    const unsigned lane = threadIdx.x;
    for (unsigned i = lane; i < 256; i += 32) tile[i] = (uint16_t)i;
    __syncthreads();
    uint32_t plain[4], turned[4];
    ldmatrix_x4(plain, &tile[lane * 8]);
    ldmatrix_x4_trans(turned, &tile[lane * 8]);
    for (int i = 0; i < 4; i++) out[lane * 8 + i] = plain[i], out[lane * 8 + 4 + i] = turned[i];
}

void ldmatrix_fills_the_documented_registers(void **) {
    Device<uint32_t> out(256);
    LAUNCH(fragments, 1, 32, 0, 0, out.at);
    std::vector<uint32_t> got = out.host();
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            unsigned base = matrix * 64, row = lane / 4, col = lane % 4 * 2;
            assert_int_equal(got[lane * 8 + matrix], (base + row * 8 + col) | (base + row * 8 + col + 1)
                                                                                  << 16);
            assert_int_equal(got[lane * 8 + 4 + matrix], (base + col * 8 + row) | (base + (col + 1) * 8 + row)
                                                                                      << 16);
        }
}

/* ---- cp.async ---------------------------------------------------------------------------------------- */

/* Three groups in flight; after each wait, out gets the first word of every group's place as it is then. */
__global__ void pipeline(uint32_t *out, const uint32_t *in) {
    SHARED_ARRAY(uint4, place, 3);
    for (int i = 0; i < 3; i++) {
        cp_async_16(&place[i], in + 4 * i, i != 1);
        cp_async_commit();
    }
    const uint32_t *words = &place[0].x;
    for (int i = 0; i < 3; i++) out[i] = words[4 * i];
    cp_async_wait<2>();
    for (int i = 0; i < 3; i++) out[3 + i] = words[4 * i];
    cp_async_wait<0>();
    for (int i = 0; i < 3; i++) out[6 + i] = words[4 * i];
}

void asynchronous_copies_arrive_at_their_wait_and_not_before(void **) {
    Device<uint32_t> in(std::vector<uint32_t>{10, 11, 12, 13, 20, 21, 22, 23, 30, 31, 32, 33}), out(9);
    LAUNCH(pipeline, 1, 1, 0, 0, out.at, in.at);
    const uint32_t P = emu::POISON, want[9] = {P, P, P, 10, P, P, 10, 0, 30};
    std::vector<uint32_t> got = out.host();
    for (int i = 0; i < 9; i++) assert_int_equal(got[i], want[i]);
}

/* ---- memory ------------------------------------------------------------------------------------------ */

__global__ void read_shared(uint32_t *out) {
    SHARED_ARRAY(uint32_t, fixed, 8);
    SHARED_MEMORY(uint32_t, dynamic);
    if (threadIdx.x < 8) {
        out[blockIdx.x * 16 + threadIdx.x] = fixed[threadIdx.x];
        out[blockIdx.x * 16 + 8 + threadIdx.x] = dynamic[threadIdx.x];
        fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
    }
}

void fresh_memory_is_poison_and_shared_memory_again_for_every_block(void **) {
    Device<uint32_t> device(33);
    for (uint32_t word : device.host()) assert_int_equal(word, emu::POISON);
    Device<uint32_t> out(64);
    LAUNCH(read_shared, 4, 32, 32, 0, out.at);
    for (uint32_t word : out.host()) assert_int_equal(word, emu::POISON);
    float as_float;
    memcpy(&as_float, &emu::POISON, 4);
    assert_true(isnan(as_float));
}

void who_asked_for_48_kilobytes_has_static_arrays_beside_them(void **) {
    Device<uint32_t> out(16);
    ALLOW_SHARED_MEMORY(read_shared, 48 * 1024);
    LAUNCH(read_shared, 1, 32, 48 * 1024, 0, out.at);
    for (uint32_t word : out.host()) assert_int_equal(word, emu::POISON);
}

/* Genuine NaNs and infinities are data, not faults. */
__global__ void invalid_operations(float *out, const float *in) {
    out[0] = in[0] - in[0];
    out[1] = in[0] * in[1];
    out[2] = in[2] < in[1] ? 1.0f : 0.0f;
    out[3] = fmaxf(in[2], 5.0f);
    out[4] = in[2] + 1.0f;
}

void genuine_nans_pass(void **) {
    Device<float> in(std::vector<float>{INFINITY, 0.0f, NAN}), out(5);
    LAUNCH(invalid_operations, 1, 1, 0, 0, out.at, in.at);
    std::vector<float> got = out.host();
    assert_true(isnan(got[0]) && isnan(got[1]) && got[2] == 0.0f && got[3] == 5.0f && isnan(got[4]));
}

#if defined(__x86_64__)
/* What fills memory with poison leaves it in a register, too. */
__global__ void invalid_beside_poison(float *out, const float *in) {
    asm volatile("movd %0, %%xmm15\n\tpshufd $0, %%xmm15, %%xmm15" : : "r"(emu::POISON) : "xmm15");
    out[0] = in[0] - in[0];
    out[1] = in[1] < in[0] ? 1.0f : 0.0f;
    out[2] = sqrtf(in[2]);
}

void poison_that_an_instruction_does_not_read_is_no_fault(void **) {
    for (int i = 0; i < 3; i++) {
        std::vector<float> values(3, 1.0f);
        values[(size_t)i] = i == 0 ? INFINITY : i == 1 ? NAN : -1.0f;
        Device<float> in(values), out(3);
        LAUNCH(invalid_beside_poison, 1, 1, 0, 0, out.at, in.at);
        assert_true(isnan(out.host()[0]) == (i == 0) && isnan(out.host()[2]) == (i == 2));
    }
}
#endif

__global__ void atomics(int *integer, unsigned *wide) {
    atomicAdd(&integer[0], (int)threadIdx.x);
    atomicMax(&integer[1], (int)(threadIdx.x * 7 % 64));
    atomicMin(&integer[2], -(int)threadIdx.x);
    atomicOr(&wide[0], 1u << threadIdx.x % 32);
    if (atomicCAS(&wide[1], 0u, threadIdx.x + 1) == 0u) atomicExch(&integer[3], 42);
}

void integer_atomics(void **) {
    for_seeds(3, [](int) {
        Device<int> integer(std::vector<int>{0, 0, 0, 0});
        Device<unsigned> wide(std::vector<unsigned>{0, 0});
        LAUNCH(atomics, 2, 64, 0, 0, integer.at, wide.at);
        std::vector<int> got = integer.host();
        assert_int_equal(got[0], 2 * 63 * 64 / 2);
        assert_int_equal(got[1], 63);
        assert_int_equal(got[2], -63);
        assert_int_equal(got[3], 42);
        assert_int_equal(wide.host()[0], FULL);
    });
}

/* ---- what must not compile --------------------------------------------------------------------------- */

template <typename T, typename = void> struct can_add : std::false_type {};
template <typename T>
struct can_add<T, std::void_t<decltype(std::declval<T>() + std::declval<T>())>> : std::true_type {};
template <typename T, typename = void> struct can_add_atomically : std::false_type {};
template <typename T>
struct can_add_atomically<T, std::void_t<decltype(atomicAdd((T *)nullptr, T()))>> : std::true_type {};

static_assert(can_add<float>::value && !can_add<__nv_bfloat16>::value, "bf16 arithmetic compiles");
static_assert(can_add_atomically<int>::value && !can_add_atomically<float>::value, "float atomics compile");
#ifdef __shared__
#error "plain __shared__ compiles"
#endif

/* ---- numbers ----------------------------------------------------------------------------------------- */

float from_bits(uint32_t bits) {
    return __uint_as_float(bits);
}

/* Between any two neighbouring bf16: just below the middle, the middle, just above. */
void bf16_rounds_to_nearest_even(void **) {
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t bits = 0; bits < 0x7f80; bits++) {
            uint32_t base = sign << 31 | bits << 16, even = bits & 1 ? bits + 1 : bits;
            assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(from_bits(base))), sign << 15 | bits);
            assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(from_bits(base | 0x7fff))),
                             sign << 15 | bits);
            assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(from_bits(base | 0x8000))),
                             sign << 15 | even);
            assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(from_bits(base | 0x8001))),
                             sign << 15 | (bits + 1));
            assert_true(__bfloat162float(__ushort_as_bfloat16((unsigned short)(sign << 15 | bits))) ==
                        from_bits(base));
        }
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(NAN)), 0x7fff);
    assert_int_equal(__bfloat16_as_ushort(__float2bfloat16(-INFINITY)), 0xff80);
}

/* A double just beside the middle of two bf16 is a float in the middle: rounding twice would go wrong. */
void doubles_become_bf16_with_one_rounding(void **) {
    double middle = 1.0 + 1.0 / 256, hair = ldexp(1.0, -45);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(middle)), 0x3f80);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(middle + hair)), 0x3f81);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(middle - hair)), 0x3f80);
    middle += 1.0 / 128;
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(middle)), 0x3f82);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(middle - hair)), 0x3f81);
    assert_int_equal(__bfloat16_as_ushort(__double2bfloat16(-middle + hair)), 0xbf81);
}

/* The largest of |got − true| in units of 2^-24 of the true value, over `allowed`; of arguments 2^-30 to 2^6, both signs. */
template <typename Test> double worst_of(Test test) {
    double worst = 0;
    for (int i = 0; i < 36 * 2000; i++) {
        const float x = (float)exp2(-30 + i / 2000.0) * (i % 2 ? -1.0f : 1.0f);
        worst = std::max(worst, test(x));
    }
    return worst;
}

double error_of(float got, double truth, double allowed) {
    return fabs((double)got / truth - 1) * 0x1p24 / allowed;
}

void assert_between(double least, double value, double most) {
    if (!(value >= least && value <= most)) print_error("%g is not between %g and %g\n", value, least, most);
    assert_true(value >= least && value <= most);
}

/* As far off as the documentation lets them be, and no farther: 2 and 1 ulp, of 1 to 2 units each, and the rounding of
 * the exact value, half an ulp more. */
void approximations_err_as_much_as_they_may(void **) {
    assert_between(3.5, worst_of([](float x) { return error_of(exp2_approx(x), exp2((double)x), 1); }), 5.01);
    assert_between(1.9, worst_of([](float x) { return error_of(reciprocal_approx(x), 1 / (double)x, 1); }), 3.01);
    assert_true(exp2_approx(0) == 1 && exp2_approx(-INFINITY) == 0 && exp2_approx(INFINITY) == INFINITY);
    assert_true(exp2_approx(-126.5f) == 0 && reciprocal_approx(1e-39f) == INFINITY && reciprocal_approx(INFINITY) == 0);
    assert_true(isnan(exp2_approx(NAN)) && isnan(reciprocal_approx(NAN)));
}

/* elementary.cuh's promises for bf16. */
void elementary_functions_keep_their_bounds(void **) {
    typedef __nv_bfloat16 Coarse;
    const double least = 0.3; /* of a bound: one that nothing comes near says nothing */
    assert_between(least, worst_of([](float x) {
                       return error_of(exponential<Coarse>(x), exp((double)x), 5 + 2 * fabs((double)x));
                   }), 1);
    assert_between(least, worst_of([](float x) { return error_of(quotient<Coarse>(3, x), 3 / (double)x, 4); }), 1);
    assert_between(least, worst_of([](float x) {
                       return error_of(hyperbolic_tangent<Coarse>(x).value, tanh((double)x), 128);
                   }), 1);
    assert_between(least, worst_of([](float x) {
                       const double fall = 1 / cosh((double)x);
                       return fabsf(x) > 40 ? 0 : error_of(hyperbolic_tangent<Coarse>(x).slope, fall * fall, 10 + 4 * fabs((double)x));
                   }), 1);
    assert_between(least, worst_of([](float x) {
                       const double square = (double)x * (double)x;
                       return square > 80 ? 0 : error_of(error_function<Coarse>(x).slope, M_2_SQRTPI * exp(-square), 8 + 3 * square);
                   }), 1);
    const Squash top = error_function<Coarse>(1e30f), bottom = error_function<Coarse>(-INFINITY);
    assert_true(top.value == 1 && top.slope == 0 && bottom.value == -1 && bottom.slope == 0);
    assert_true(isnan(error_function<Coarse>(NAN).value) && isnan(error_function<Coarse>(NAN).slope));
    const Squash right = hyperbolic_tangent<Coarse>(1e30f), left = hyperbolic_tangent<Coarse>(-INFINITY);
    assert_true(right.value == 1 && right.slope == 0 && left.value == -1 && left.slope == 0);
    assert_true(isnan(hyperbolic_tangent<Coarse>(NAN).value) && isnan(sigmoid<Coarse>(NAN)));
    assert_true(sigmoid<Coarse>(-1e30f) == 0 && fabsf(sigmoid<Coarse>(1e30f) - 1) <= 0x1p-23f);
}

void min_and_max_of_any_types(void **) {
    assert_int_equal(min(3, 2u), 2);
    assert_true(max(1.0f, NAN) == 1.0f);
}

const struct CMUnitTest own_tests[] = {
    cmocka_unit_test(every_thread_of_every_block_runs_once),
    cmocka_unit_test(barriers_hold_under_every_seed),
    cmocka_unit_test(a_missing_barrier_shows_under_some_seed),
    cmocka_unit_test(block_votes_reach_every_thread),
    cmocka_unit_test(shuffles_follow_their_definition),
    cmocka_unit_test(partial_masks_meet_their_own_lanes_only),
    cmocka_unit_test(warp_votes_and_reductions),
    cmocka_unit_test(ldmatrix_and_mma_give_the_plain_product),
    cmocka_unit_test(mma_sums_as_roughly_as_compute_capability_8),
    cmocka_unit_test(ldmatrix_fills_the_documented_registers),
    cmocka_unit_test(asynchronous_copies_arrive_at_their_wait_and_not_before),
    cmocka_unit_test(fresh_memory_is_poison_and_shared_memory_again_for_every_block),
    cmocka_unit_test(who_asked_for_48_kilobytes_has_static_arrays_beside_them),
    cmocka_unit_test(genuine_nans_pass),
#if defined(__x86_64__)
    cmocka_unit_test(poison_that_an_instruction_does_not_read_is_no_fault),
#endif
    cmocka_unit_test(integer_atomics),
    cmocka_unit_test(bf16_rounds_to_nearest_even),
    cmocka_unit_test(doubles_become_bf16_with_one_rounding),
    cmocka_unit_test(approximations_err_as_much_as_they_may),
    cmocka_unit_test(elementary_functions_keep_their_bounds),
    cmocka_unit_test(min_and_max_of_any_types),
};

} // namespace

int main() {
    std::vector<CMUnitTest> tests(std::begin(own_tests), std::end(own_tests));
    tests.insert(tests.end(), stream_tests, stream_tests + stream_test_count);
    tests.insert(tests.end(), cublaslt_tests, cublaslt_tests + cublaslt_test_count);
    tests.insert(tests.end(), fault_tests, fault_tests + fault_test_count);
    return _cmocka_run_group_tests("emulation", tests.data(), tests.size(), NULL, NULL);
}
