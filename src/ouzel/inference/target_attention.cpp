// The ranker `target_attention` for a few users: their candidates read their states, and are scored.
//
// What ONNX Runtime does in 40 steps over 500 candidates, each of which writes and reads them all,
// is done here for 24 candidates at a time, in the caches nearest to the core. Everything is float32
// and every sum has an order that does not depend on who else is asked about.
//
// Legend: B users, K candidates, A actions, D dimensions, H heads, E = D / H, W places of a state, X
// hidden, F = D + 2 X + A, N rows. E, X and the events of a state are padded to whole registers of
// 16: EP, XP.

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
constexpr int64_t AT_ONCE = 24; // candidates
constexpr int64_t LINE = 16;    // floats in a cache line

enum Precision : int64_t { FP32 = 0, FP16 = 1, INT8 = 2 };

// The tables of all items and the weights. `vectors` (N, D), `lines` (N, F): a question, what the
// item gives to the gated layer, its biases. `user` (D, 2 XP), `read` (H EP, 2 XP), `score` (2 XP),
// `out` (A, XP), `trust` (A).
struct Model {
    const float *vectors;
    const float *lines;
    int64_t num_rows;
    int64_t dim;
    int64_t heads;
    int64_t window;
    int64_t hidden;
    int64_t actions;
    int64_t precision;
    const float *user;
    const float *read;
    const float *score;
    const float *out;
    const float *trust;
};

// Who is ranked: `queries` (B, D), cosines and sines (B, E / 2) of their angles, which hold the scale
// of the attention too, `events` (B) in their states, up to W, `candidates` (B, K), and the rings of
// these very users: keys (B, H, E, W), values (B, H, W, E), in int8 with scales (B, H, W) of both.
// `logits` (B, K, A) are written.
struct Ranking {
    const Model *model;
    int64_t num_users;
    int64_t num_candidates;
    const float *queries;
    const float *cosines;
    const float *sines;
    const int64_t *events;
    const int32_t *candidates;
    const void *keys;
    const float *key_scales;
    const void *values;
    const float *value_scales;
    float *logits;
};

int64_t padded(int64_t size) { return (size + LANES - 1) / LANES * LANES; }

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

// A state as floats: keys (H, E, NP) and values (H, N, EP), of its `events` only.
OUZEL_AVX512 void widen(const Model &model, const Ranking &ranking, int64_t user, int64_t events,
                        float *keys, float *values) {
    const int64_t size = model.dim / model.heads, window = model.window;
    const int64_t events_up = padded(events), size_up = padded(size);
    for (int64_t h = 0; h < model.heads; ++h) {
        const int64_t ring = user * model.heads + h;
        for (int64_t e = 0; e < size; ++e)
            for (int64_t w = 0; w < events_up; w += LANES) {
                const __mmask16 lanes = first(events - w);
                const int64_t at = (ring * size + e) * window + w;
                __m512 key = numbers(ranking.keys, at, model.precision, lanes);
                if (model.precision == INT8)
                    key = _mm512_mul_ps(
                        key, _mm512_maskz_loadu_ps(lanes, ranking.key_scales + ring * window + w));
                _mm512_store_ps(keys + (h * size + e) * events_up + w, key);
            }
        for (int64_t w = 0; w < events; ++w)
            for (int64_t e = 0; e < size_up; e += LANES) {
                const int64_t at = (ring * window + w) * size + e;
                __m512 value = numbers(ranking.values, at, model.precision, first(size - e));
                if (model.precision == INT8)
                    value = _mm512_mul_ps(
                        value, _mm512_set1_ps(ranking.value_scales[ring * window + w]));
                _mm512_store_ps(values + (h * events + w) * size_up + e, value);
            }
    }
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

OUZEL_AVX512 void rank_user(const Ranking &ranking, int64_t user, Room &room) {
    const Model &model = *ranking.model;
    const int64_t dim = model.dim, heads = model.heads, size = dim / heads, pairs = size / 2;
    const int64_t hidden = model.hidden, size_up = padded(size), hidden_up = padded(hidden);
    const int64_t events = ranking.events[user], events_up = padded(events);
    const int64_t line_size = dim + 2 * hidden + model.actions;
    float *keys = room.take(dim * events_up), *values = room.take(heads * events * size_up);
    float *unit = room.take(dim), *base = room.take(2 * hidden_up);
    float *questions = room.take(AT_ONCE * dim), *weights = room.take(AT_ONCE * events_up);
    float *reads = room.take(AT_ONCE * heads * size_up), *joined = room.take(AT_ONCE * 2 * hidden_up);
    widen(model, ranking, user, events, keys, values);

    const float *query = ranking.queries + user * dim;
    const float length = _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(inner(query, query, dim))));
    for (int64_t d = 0; d < dim; ++d) unit[d] = query[d] / length;
    product<false>(unit, dim, 1, model.user, 2 * hidden_up, 2 * hidden_up, base, 2 * hidden_up, dim);

    const float *cosines = ranking.cosines + user * pairs, *sines = ranking.sines + user * pairs;
    const int32_t *rows = ranking.candidates + user * ranking.num_candidates;
    const auto known = [&](int64_t at) -> int64_t {
        const int64_t row = rows[at];
        return row >= 0 && row < model.num_rows ? row : 0;
    };
    const auto fetch = [&](int64_t at) {
        const float *line = model.lines + known(at) * line_size;
        const float *vector = model.vectors + known(at) * dim;
        for (int64_t f = 0; f < line_size; f += LINE) _mm_prefetch(line + f, _MM_HINT_T0);
        for (int64_t d = 0; d < dim; d += LINE) _mm_prefetch(vector + d, _MM_HINT_T0);
    };
    for (int64_t at = 0; at < std::min(AT_ONCE, ranking.num_candidates); ++at) fetch(at);
    for (int64_t from = 0; from < ranking.num_candidates; from += AT_ONCE) {
        const int64_t count = std::min(AT_ONCE, ranking.num_candidates - from);
        float scores[AT_ONCE];
        for (int64_t c = 0; c < count; ++c) {
            const float *line = model.lines + known(from + c) * line_size;
            if (from + AT_ONCE + c < ranking.num_candidates) fetch(from + AT_ONCE + c);
            for (int64_t h = 0; h < heads; ++h)
                for (int64_t p = 0; p < pairs; p += LANES) {
                    const __mmask16 lanes = first(pairs - p);
                    const float *at = line + h * size + p;
                    float *to = questions + c * dim + h * size + p;
                    const __m512 one = _mm512_maskz_loadu_ps(lanes, at);
                    const __m512 other = _mm512_maskz_loadu_ps(lanes, at + pairs);
                    const __m512 cosine = _mm512_maskz_loadu_ps(lanes, cosines + p);
                    const __m512 sine = _mm512_maskz_loadu_ps(lanes, sines + p);
                    _mm512_mask_storeu_ps(
                        to, lanes, _mm512_fnmadd_ps(other, sine, _mm512_mul_ps(one, cosine)));
                    _mm512_mask_storeu_ps(
                        to + pairs, lanes, _mm512_fmadd_ps(one, sine, _mm512_mul_ps(other, cosine)));
                }
            scores[c] = inner(model.vectors + known(from + c) * dim, query, dim);
            const __m512 score = _mm512_set1_ps(scores[c] / length);
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t x = 0; x < hidden_up; x += LANES) {
                    const int64_t place = half * hidden_up + x;
                    __m512 sum = _mm512_fmadd_ps(score, _mm512_loadu_ps(model.score + place),
                                                 _mm512_load_ps(base + place));
                    sum = _mm512_add_ps(
                        sum, _mm512_maskz_loadu_ps(first(hidden - x), line + dim + half * hidden + x));
                    _mm512_store_ps(joined + c * 2 * hidden_up + place, sum);
                }
        }
        for (int64_t h = 0; h < heads; ++h) {
            product<false>(questions + h * size, dim, count, keys + h * size * events_up, events_up,
                           events_up, weights, events_up, size);
            float shares[AT_ONCE];
            for (int64_t c = 0; c < count; ++c) shares[c] = 1 / weigh(weights + c * events_up, events);
            float *read = reads + h * size_up;
            product<false>(weights, events_up, count, values + h * events * size_up, size_up,
                           size_up, read, heads * size_up, events);
            for (int64_t c = 0; c < count; ++c)
                for (int64_t e = 0; e < size_up; e += LANES) {
                    float *at = read + c * heads * size_up + e;
                    _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), _mm512_set1_ps(shares[c])));
                }
        }
        product<true>(reads, heads * size_up, count, model.read, 2 * hidden_up, 2 * hidden_up,
                      joined, 2 * hidden_up, heads * size_up);
        for (int64_t c = 0; c < count; ++c) {
            float *gates = joined + c * 2 * hidden_up;
            for (int64_t x = 0; x < hidden_up; x += LANES) {
                const __m512 gate = _mm512_load_ps(gates + x), one = _mm512_set1_ps(1.0f);
                const __m512 less = exponential(_mm512_sub_ps(_mm512_setzero_ps(), gate));
                const __m512 open = _mm512_div_ps(gate, _mm512_add_ps(one, less));
                _mm512_store_ps(gates + x, _mm512_mul_ps(open, _mm512_load_ps(gates + hidden_up + x)));
            }
            const float *bias = model.lines + known(from + c) * line_size + dim + 2 * hidden;
            float *logits = ranking.logits +
                            (user * ranking.num_candidates + from + c) * model.actions;
            for (int64_t a = 0; a < model.actions; ++a)
                logits[a] = scores[c] * model.trust[a] + bias[a] +
                            inner(gates, model.out + a * hidden_up, hidden_up);
        }
    }
}

}  // namespace

extern "C" {

int ouzel_rank_works() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma");
}

// Who was built for other layouts must not call.
int64_t ouzel_rank_bytes() { return 1000 * sizeof(Model) + sizeof(Ranking); }

// Returns 0 if there was not enough memory. `ranking` is of type Ranking: any thread may run it.
int ouzel_rank(const void *ranking) {
    thread_local Room room;
    try {
        const auto &asked = *static_cast<const Ranking *>(ranking);
        for (int64_t user = 0; user < asked.num_users; ++user) {
            room.reset();
            rank_user(asked, user, room);
        }
        return 1;
    } catch (...) {
        return 0;
    }
}

}  // extern "C"

#else

extern "C" int ouzel_rank_works() { return 0; }

#endif
