// The ranker `target_attention` for a few users: their candidates read their states, and are scored.
//
// What ONNX Runtime does in 40 steps over 500 candidates, each of which writes and reads them all,
// is done here for 24 candidates at a time, in the caches nearest to the core. Everything is float32
// and every sum has an order that does not depend on who else is asked about.
//
// Legend: B users, K candidates, A actions, D dimensions, H heads, E = D / H, W places of a state, X
// hidden, F = D + 2 X + A, N rows. E, X and the events of a state are padded to whole registers of
// 16: EP, XP.

#include "lanes.h"

#if defined(__x86_64__) && defined(__GNUC__)

namespace {

constexpr int64_t AT_ONCE = 24;  // candidates

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

int ouzel_rank_works() { return has_avx512(); }

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
