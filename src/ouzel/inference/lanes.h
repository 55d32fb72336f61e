// What the kernels of this room share: registers of 16 floats, products, exponentials, cached rows.
//
// Every sum has an order that does not depend on how many rows a product has.

#pragma once

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#define OUZEL_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
// Without it the sums of a product live in memory and not in registers.
#define OUZEL_UNROLL _Pragma("GCC unroll 16")

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t LINE = 16;  // floats in a cache line

enum Precision : int64_t { FP32 = 0, FP16 = 1, INT8 = 2 };

inline int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

// Arrays that stay for the next call: what is asked of the system anew costs more than some of it.
class Room {
  public:
    float *take(int64_t count) {
        if (next_ == arrays_.size()) arrays_.emplace_back();
        std::vector<float> &array = arrays_[next_++];
        if (static_cast<int64_t>(array.size()) < count + LINE) array.resize(count + LINE);
        const auto address = reinterpret_cast<uintptr_t>(array.data());
        return reinterpret_cast<float *>((address + 63) & ~uintptr_t{63});
    }
    void reset() { next_ = 0; }

    // What is taken after `mark` is free again with `back` to it.
    size_t mark() const { return next_; }
    void back(size_t mark) { next_ = mark; }

  private:
    size_t next_ = 0;
    std::vector<std::vector<float>> arrays_;
};

// M rows by V registers of a product: c (+)= a b, over `depth`.
template <int M, int V, bool ADD>
OUZEL_AVX512 inline void tile(const float *a, int64_t a_row, const float *b, int64_t b_row,
                              float *c, int64_t c_row, int64_t depth) {
    __m512 acc[M][V];
    OUZEL_UNROLL for (int m = 0; m < M; ++m)
        OUZEL_UNROLL for (int v = 0; v < V; ++v)
            acc[m][v] = ADD ? _mm512_loadu_ps(c + m * c_row + v * LANES) : _mm512_setzero_ps();
    for (int64_t d = 0; d < depth; ++d) {
        __m512 right[V];
        OUZEL_UNROLL for (int v = 0; v < V; ++v)
            right[v] = _mm512_loadu_ps(b + d * b_row + v * LANES);
        OUZEL_UNROLL for (int m = 0; m < M; ++m) {
            const __m512 left = _mm512_set1_ps(a[m * a_row + d]);
            OUZEL_UNROLL for (int v = 0; v < V; ++v)
                acc[m][v] = _mm512_fmadd_ps(left, right[v], acc[m][v]);
        }
    }
    OUZEL_UNROLL for (int m = 0; m < M; ++m)
        OUZEL_UNROLL for (int v = 0; v < V; ++v)
            _mm512_storeu_ps(c + m * c_row + v * LANES, acc[m][v]);
}

template <int V, bool ADD>
OUZEL_AVX512 void columns(const float *a, int64_t a_row, int64_t rows, const float *b,
                          int64_t b_row, float *c, int64_t c_row, int64_t depth) {
    constexpr int M = V <= 2 ? 8 : 6;
    int64_t m = 0;
    for (; m + M <= rows; m += M)
        tile<M, V, ADD>(a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, depth);
    for (; m < rows; ++m)
        tile<1, V, ADD>(a + m * a_row, a_row, b, b_row, c + m * c_row, c_row, depth);
}

// c (rows, width) (+)= a (rows, depth) b (depth, width); the width is in whole registers.
template <bool ADD>
OUZEL_AVX512 void product(const float *a, int64_t a_row, int64_t rows, const float *b,
                          int64_t b_row, int64_t width, float *c, int64_t c_row, int64_t depth) {
    int64_t n = 0;
    for (; n + 4 * LANES <= width; n += 4 * LANES)
        columns<4, ADD>(a, a_row, rows, b + n, b_row, c + n, c_row, depth);
    for (; n + 2 * LANES <= width; n += 2 * LANES)
        columns<2, ADD>(a, a_row, rows, b + n, b_row, c + n, c_row, depth);
    for (; n < width; n += LANES)
        columns<1, ADD>(a, a_row, rows, b + n, b_row, c + n, c_row, depth);
}

OUZEL_AVX512 inline __mmask16 first(int64_t count) {
    return count >= LANES ? __mmask16(0xffff) : __mmask16((1u << count) - 1);
}

// exp(x) to one part in 10 million, 0 below -87: no numbers so small that they slow down what
// follows. Cody and Waite's reduction, then the series.
OUZEL_AVX512 inline __m512 exponential(__m512 x) {
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);
    const __m512 turns = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 8);
    __m512 rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(turns, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 5040);
    for (const float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(term));
    return _mm512_maskz_scalef_ps(counts, sum, turns);
}

OUZEL_AVX512 inline __m512 numbers(const void *from, int64_t at, int64_t precision,
                                   __mmask16 lanes) {
    if (precision == FP32)
        return _mm512_maskz_loadu_ps(lanes, static_cast<const float *>(from) + at);
    if (precision == FP16)
        return _mm512_cvtph_ps(
            _mm256_maskz_loadu_epi16(lanes, static_cast<const int16_t *>(from) + at));
    const __m128i bytes = _mm_maskz_loadu_epi8(lanes, static_cast<const int8_t *>(from) + at);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

OUZEL_AVX512 inline float inner(const float *a, const float *b, int64_t size) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t d = 0; d < size; d += LANES) {
        const __mmask16 lanes = first(size - d);
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, a + d),
                              _mm512_maskz_loadu_ps(lanes, b + d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// Turns what the columns say into weights that are still to be divided by their sum, which it returns.
OUZEL_AVX512 inline float weigh(float *logits, int64_t events) {
    __m512 most = _mm512_set1_ps(-3.4e38f);
    for (int64_t w = 0; w < events; w += LANES)
        most = _mm512_mask_max_ps(most, first(events - w), most, _mm512_loadu_ps(logits + w));
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    __m512 sum = _mm512_setzero_ps();
    for (int64_t w = 0; w < events; w += LANES) {
        __m512 weight = exponential(_mm512_sub_ps(_mm512_loadu_ps(logits + w), top));
        weight = _mm512_maskz_mov_ps(first(events - w), weight);
        _mm512_storeu_ps(logits + w, weight);
        sum = _mm512_add_ps(sum, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

inline int has_avx512() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

}  // namespace

#endif
