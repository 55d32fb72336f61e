// `encode`, `append` and `query` of the gated transformer (`models/sequence/esasrec.py`) for a few users.
//
// A graph takes 80 to 90 nodes for what is 0.3 million multiply-adds, and copies the rings of its users
// first. Here they are read where they lie, and the weights from the nearest cache. Everything is float32
// and every sum has an order that does not depend on who else is asked about.
//
// Legend: B users, D dimensions, H heads, E = D / H, P = E / 2 channel pairs, W places of a ring, X the
// inner layer, S slots, N rows. D and X are whole registers of 16.

#include "lanes.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <cmath>

namespace {

constexpr int64_t AT_ONCE = 32;  // users whose vectors are worked on together

// Weights of a block, each (inputs, outputs): the transpose of what PyTorch keeps.
struct Block {
    const float *attention_norm;
    const float *query;
    const float *query_bias;
    const float *key_value;
    const float *key_value_bias;
    const float *out;
    const float *out_bias;
    const float *attention_gate;
    const float *attention_gate_bias;
    const float *forward_norm;
    const float *forward_gate;
    const float *forward_gate_bias;
    const float *expand;
    const float *contract;
};

// `frequencies` turn the first pairs of a head with the position, `periods_ms` the others with the clock.
struct Model {
    const Block *blocks;
    int64_t layers;
    int64_t dim;
    int64_t heads;
    int64_t window;
    int64_t inner;
    int64_t precision;
    int64_t position_period;
    int64_t num_frequencies;
    const float *frequencies;
    const int64_t *periods_ms;
    int64_t num_harmonics;
    const float *harmonics;
    const float *elapsed;
    const float *elapsed_bias;
    const float *final_norm;
    double temperature;
};

// One layer of all slots: keys (S, H, E, W), values (S, H, W, E), in int8 with scales (S, H, W).
struct Rings {
    const void *keys;
    const float *key_scales;
    const void *values;
    const float *value_scales;
};

// Where the rows of a layer go: (B, H, E), in int8 with scales (B, H).
struct Fresh {
    void *keys;
    float *key_scales;
    void *values;
    float *value_scales;
};

struct Angles {
    const float *cosines;  // (B, P)
    const float *sines;
};

OUZEL_AVX512 inline __m512 sigmoid(__m512 x) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 less = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(one, _mm512_add_ps(one, less));
}

// to = bias + from weights, for rows of `depth` and `width` numbers.
OUZEL_AVX512 void linear(const float *from, int64_t rows, int64_t depth, const float *weights,
                         const float *bias, int64_t width, float *to) {
    if (bias == nullptr) {
        product<false>(from, depth, rows, weights, width, width, to, width, depth);
        return;
    }
    for (int64_t row = 0; row < rows; ++row) std::copy(bias, bias + width, to + row * width);
    product<true>(from, depth, rows, weights, width, width, to, width, depth);
}

OUZEL_AVX512 void normed(const float *from, int64_t rows, int64_t dim, const float *weight,
                         float *to) {
    for (int64_t row = 0; row < rows; ++row, from += dim, to += dim) {
        const float size = std::sqrt(inner(from, from, dim) / static_cast<float>(dim) + 1e-6f);
        const __m512 sizes = _mm512_set1_ps(size);
        for (int64_t d = 0; d < dim; d += LANES)
            _mm512_storeu_ps(to + d, _mm512_mul_ps(_mm512_div_ps(_mm512_loadu_ps(from + d), sizes),
                                                   _mm512_loadu_ps(weight + d)));
    }
}

// x += added * sigmoid(gates)
OUZEL_AVX512 void gated(float *x, const float *added, const float *gates, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES)
        _mm512_storeu_ps(x + i, _mm512_fmadd_ps(_mm512_loadu_ps(added + i),
                                                sigmoid(_mm512_loadu_ps(gates + i)),
                                                _mm512_loadu_ps(x + i)));
}

void angles_of(const Model &model, const int64_t *positions, const int64_t *times, int64_t rows,
               float *cosines, float *sines) {
    const int64_t pairs = model.dim / model.heads / 2;
    for (int64_t row = 0; row < rows; ++row) {
        const auto wrapped = static_cast<float>(positions[row] % model.position_period);
        for (int64_t p = 0; p < pairs; ++p) {
            float angle;
            if (p < model.num_frequencies) {
                angle = wrapped * model.frequencies[p];
            } else {
                const int64_t period = model.periods_ms[p - model.num_frequencies];
                const int64_t phase = (times[row] % period + period) % period;
                const float turns = static_cast<float>(phase) / static_cast<float>(period);
                angle = turns * static_cast<float>(2 * M_PI);
            }
            cosines[row * pairs + p] = std::cos(angle);
            sines[row * pairs + p] = std::sin(angle);
        }
    }
}

// Turns each head of `x`, rows `stride` apart, by the angles of its row.
void rotate(const Model &model, float *x, int64_t stride, int64_t rows, const Angles &angles) {
    const int64_t size = model.dim / model.heads, pairs = size / 2;
    for (int64_t row = 0; row < rows; ++row) {
        const float *cosines = angles.cosines + row * pairs, *sines = angles.sines + row * pairs;
        for (int64_t h = 0; h < model.heads; ++h) {
            float *first = x + row * stride + h * size, *second = first + pairs;
            for (int64_t p = 0; p < pairs; ++p) {
                const float a = first[p], b = second[p];
                first[p] = a * cosines[p] - b * sines[p];
                second[p] = a * sines[p] + b * cosines[p];
            }
        }
    }
}

// What a ring keeps of a head's row goes to place `at` of `kept`; what it is read as stays in `row`.
OUZEL_AVX512 void keep(float *row, int64_t size, int64_t precision, void *kept, float *scales,
                       int64_t at) {
    if (precision == FP32) {
        std::copy(row, row + size, static_cast<float *>(kept) + at * size);
        return;
    }
    if (precision == FP16) {
        auto *halves = static_cast<int16_t *>(kept) + at * size;
        for (int64_t e = 0; e < size; e += LANES) {
            const __mmask16 lanes = first(size - e);
            const __m256i half = _mm512_cvtps_ph(_mm512_maskz_loadu_ps(lanes, row + e),
                                                 _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
            _mm256_mask_storeu_epi16(halves + e, lanes, half);
            _mm512_mask_storeu_ps(row + e, lanes, _mm512_cvtph_ps(half));
        }
        return;
    }
    float most = 0.0f;
    for (int64_t e = 0; e < size; ++e) most = std::max(most, std::fabs(row[e]));
    const float scale = std::max(most / 127.0f, 1e-20f);
    scales[at] = scale;
    auto *bytes = static_cast<int8_t *>(kept) + at * size;
    for (int64_t e = 0; e < size; ++e) {
        const float level = std::nearbyint(row[e] / scale);
        bytes[e] = static_cast<int8_t>(level);
        row[e] = level * scale;
    }
}

// A query (H, E) reads the ring of `slot`, in which `length` events are, and, if `own` is given, the key
// and value of one more, whose place in the ring is out of sight.
template <int64_t PRECISION>
OUZEL_AVX512 void attend(const Model &model, const Rings &rings, int64_t slot, int64_t length,
                         const float *query, const float *own_key, const float *own_value,
                         float *weights, float *read) {
    const int64_t size = model.dim / model.heads, window = model.window;
    const int64_t events = std::min(length, window);
    const float root = 1.0f / std::sqrt(static_cast<float>(size));
    for (int64_t h = 0; h < model.heads; ++h, query += size, read += size) {
        const int64_t ring = slot * model.heads + h;
        for (int64_t w = 0; w < events; w += LANES) {
            const __mmask16 lanes = first(events - w);
            __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
            for (int64_t e = 0; e < size; e += 2) {
                const int64_t at = (ring * size + e) * window + w;
                even = _mm512_fmadd_ps(_mm512_set1_ps(query[e]),
                                       numbers(rings.keys, at, PRECISION, lanes), even);
                odd = _mm512_fmadd_ps(_mm512_set1_ps(query[e + 1]),
                                      numbers(rings.keys, at + window, PRECISION, lanes), odd);
            }
            __m512 logits = _mm512_mul_ps(_mm512_add_ps(even, odd), _mm512_set1_ps(root));
            if (PRECISION == INT8)
                logits = _mm512_mul_ps(
                    logits, _mm512_maskz_loadu_ps(lanes, rings.key_scales + ring * window + w));
            _mm512_storeu_ps(weights + w, logits);
        }
        int64_t count = events;
        if (own_key != nullptr) {
            if (length >= window) weights[length % window] = -INFINITY;
            weights[count++] = inner(query, own_key + h * size, size) * root;
        }
        const float sum = weigh(weights, count);
        if (PRECISION == INT8)
            for (int64_t w = 0; w < events; ++w) weights[w] *= rings.value_scales[ring * window + w];
        for (int64_t e = 0; e < size; e += LANES) {
            const __mmask16 lanes = first(size - e);
            __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                              _mm512_setzero_ps()};
            int64_t w = 0;
            for (; w + 4 <= events; w += 4)
                OUZEL_UNROLL for (int64_t i = 0; i < 4; ++i)
                    sums[i] = _mm512_fmadd_ps(
                        _mm512_set1_ps(weights[w + i]),
                        numbers(rings.values, (ring * window + w + i) * size + e, PRECISION, lanes),
                        sums[i]);
            for (; w < events; ++w)
                sums[0] = _mm512_fmadd_ps(
                    _mm512_set1_ps(weights[w]),
                    numbers(rings.values, (ring * window + w) * size + e, PRECISION, lanes),
                    sums[0]);
            __m512 all = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]),
                                       _mm512_add_ps(sums[2], sums[3]));
            if (own_key != nullptr)
                all = _mm512_fmadd_ps(_mm512_set1_ps(weights[events]),
                                      _mm512_maskz_loadu_ps(lanes, own_value + h * size + e), all);
            _mm512_mask_storeu_ps(read + e, lanes, _mm512_div_ps(all, _mm512_set1_ps(sum)));
        }
    }
}

OUZEL_AVX512 void attend_any(const Model &model, const Rings &rings, int64_t slot, int64_t length,
                             const float *query, const float *own_key, const float *own_value,
                             float *weights, float *read) {
    const auto with = model.precision == FP32   ? attend<FP32>
                      : model.precision == FP16 ? attend<FP16>
                                                : attend<INT8>;
    with(model, rings, slot, length, query, own_key, own_value, weights, read);
}

// The rest of a block, after the attention; `x` (rows, D) is changed in place.
OUZEL_AVX512 void finish(const Model &model, const Block &block, const float *attended, float *x,
                         int64_t rows, Room &room) {
    const int64_t dim = model.dim, wide = model.inner;
    float *added = room.take(rows * dim), *gates = room.take(rows * dim);
    float *expanded = room.take(rows * 2 * wide), *opened = room.take(rows * wide);
    linear(attended, rows, dim, block.out, block.out_bias, dim, added);
    linear(x, rows, dim, block.attention_gate, block.attention_gate_bias, dim, gates);
    gated(x, added, gates, rows * dim);
    normed(x, rows, dim, block.forward_norm, added);
    linear(added, rows, dim, block.expand, nullptr, 2 * wide, expanded);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < wide; i += LANES) {
            const float *both = expanded + row * 2 * wide + i;
            const __m512 gate = _mm512_loadu_ps(both);
            const __m512 open = _mm512_mul_ps(gate, sigmoid(gate));
            _mm512_storeu_ps(opened + row * wide + i,
                             _mm512_mul_ps(open, _mm512_loadu_ps(both + wide)));
        }
    linear(opened, rows, wide, block.contract, nullptr, dim, added);
    linear(x, rows, dim, block.forward_gate, block.forward_gate_bias, dim, gates);
    gated(x, added, gates, rows * dim);
}

struct Event {
    const int64_t *rows;
    const int64_t *times;
    const int64_t *lengths;
    const int64_t *slots;
};

OUZEL_AVX512 void append(const Model &model, const Event &event, int64_t start, int64_t rows,
                         const float *table, const Rings *rings, const Fresh *fresh, float *last,
                         Room &room) {
    const int64_t dim = model.dim, size = dim / model.heads, pairs = size / 2;
    float *x = room.take(rows * dim), *norm = room.take(rows * dim);
    float *both = room.take(rows * 2 * dim), *query = room.take(rows * dim);
    float *read = room.take(rows * dim), *weights = room.take(model.window + 2 * LANES);
    float *cosines = room.take(rows * pairs), *sines = room.take(rows * pairs);
    const Angles angles{cosines, sines};
    angles_of(model, event.lengths + start, event.times + start, rows, cosines, sines);
    const auto root = static_cast<float>(std::sqrt(static_cast<double>(dim)));
    for (int64_t b = 0; b < rows; ++b)
        for (int64_t d = 0; d < dim; ++d)
            x[b * dim + d] = table[event.rows[start + b] * dim + d] * root;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const Block &block = model.blocks[layer];
        normed(x, rows, dim, block.attention_norm, norm);
        linear(norm, rows, dim, block.key_value, block.key_value_bias, 2 * dim, both);
        rotate(model, both, 2 * dim, rows, angles);
        const Fresh &to = fresh[layer];
        for (int64_t b = 0; b < rows; ++b)
            for (int64_t h = 0; h < model.heads; ++h) {
                const int64_t at = (start + b) * model.heads + h;
                float *key = both + b * 2 * dim + h * size;
                keep(key, size, model.precision, to.keys, to.key_scales, at);
                keep(key + dim, size, model.precision, to.values, to.value_scales, at);
            }
        if (layer == model.layers - 1) break;
        linear(norm, rows, dim, block.query, block.query_bias, dim, query);
        rotate(model, query, dim, rows, angles);
        for (int64_t b = 0; b < rows; ++b)
            attend_any(model, rings[layer], event.slots[start + b], event.lengths[start + b],
                       query + b * dim, both + b * 2 * dim, both + b * 2 * dim + dim, weights,
                       read + b * dim);
        finish(model, block, read, x, rows, room);
    }
    std::copy(x, x + rows * dim, last + start * dim);
}

struct History {
    const int64_t *rows;
    const int64_t *times;
    int64_t length;
    int64_t start;  // events before the first one
};

// Each event reads itself and the `window` - 1 before it: queries and `read` (L, D), keys and values
// side by side (L, 2 D). A few queries at a time, so that their logits stay in the nearest caches.
OUZEL_AVX512 void attend_all(const Model &model, const float *queries, const float *both,
                             int64_t length, float *read, Room &room) {
    const int64_t dim = model.dim, size = dim / model.heads, length_up = padded(length);
    const float root = 1.0f / std::sqrt(static_cast<float>(size));
    const int64_t line = length_up + 2 * LANES;
    float *turned = room.take(size * length_up), *logits = room.take(AT_ONCE * line);
    for (int64_t h = 0; h < model.heads; ++h) {
        const float *keys = both + h * size, *values = keys + dim;
        for (int64_t e = 0; e < size; ++e) {
            float *to = turned + e * length_up;
            for (int64_t i = 0; i < length; ++i) to[i] = keys[i * 2 * dim + e] * root;
            std::fill(to + length, to + length_up, 0.0f);
        }
        for (int64_t from = 0; from < length; from += AT_ONCE) {
            const int64_t to = std::min(from + AT_ONCE, length);
            const int64_t oldest = std::max<int64_t>(from - model.window + 1, 0) / LANES * LANES;
            product<false>(queries + from * dim + h * size, dim, to - from, turned + oldest,
                           length_up, padded(to - oldest), logits, line, size);
            float sums[AT_ONCE];
            for (int64_t i = from; i < to; ++i) {
                float *row = logits + (i - from) * line;
                const int64_t first = std::max<int64_t>(i - model.window + 1, 0) - oldest;
                std::fill(row, row + first, 0.0f);
                sums[i - from] = weigh(row + first, i + 1 - oldest - first);
                std::fill(row + i + 1 - oldest, row + to - oldest, 0.0f);
            }
            product<false>(logits, line, to - from, values + oldest * 2 * dim, 2 * dim, size,
                           read + from * dim + h * size, dim, to - oldest);
            for (int64_t i = from; i < to; ++i)
                for (int64_t e = 0; e < size; ++e) read[i * dim + h * size + e] /= sums[i - from];
        }
    }
}

// Writes the rows of one history, from place `at` on, into `fresh`.
OUZEL_AVX512 void encode(const Model &model, const History &history, int64_t at,
                         const float *table, const Fresh *fresh, float *last, Room &room) {
    const int64_t dim = model.dim, size = dim / model.heads, pairs = size / 2;
    const int64_t length = history.length;
    float *x = room.take(length * dim), *norm = room.take(length * dim);
    float *both = room.take(length * 2 * dim), *query = room.take(length * dim);
    float *read = room.take(length * dim);
    float *cosines = room.take(length * pairs), *sines = room.take(length * pairs);
    const Angles angles{cosines, sines};
    for (int64_t i = 0; i < length; ++i) {
        const int64_t position = history.start + i;
        angles_of(model, &position, history.times + i, 1, cosines + i * pairs, sines + i * pairs);
    }
    const auto root = static_cast<float>(std::sqrt(static_cast<double>(dim)));
    for (int64_t i = 0; i < length; ++i)
        for (int64_t d = 0; d < dim; ++d) x[i * dim + d] = table[history.rows[i] * dim + d] * root;
    const size_t mark = room.mark();
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const Block &block = model.blocks[layer];
        normed(x, length, dim, block.attention_norm, norm);
        linear(norm, length, dim, block.key_value, block.key_value_bias, 2 * dim, both);
        rotate(model, both, 2 * dim, length, angles);
        const Fresh &to = fresh[layer];
        for (int64_t i = 0; i < length; ++i)
            for (int64_t h = 0; h < model.heads; ++h) {
                float *key = both + i * 2 * dim + h * size;
                const int64_t place = (at + i) * model.heads + h;
                keep(key, size, model.precision, to.keys, to.key_scales, place);
                keep(key + dim, size, model.precision, to.values, to.value_scales, place);
            }
        if (layer == model.layers - 1) break;
        linear(norm, length, dim, block.query, block.query_bias, dim, query);
        rotate(model, query, dim, length, angles);
        attend_all(model, query, both, length, read, room);
        for (int64_t from = 0; from < length; from += AT_ONCE) {
            room.back(mark);
            finish(model, block, read + from * dim, x + from * dim,
                   std::min(AT_ONCE, length - from), room);
        }
        room.back(mark);
    }
    std::copy(x + (length - 1) * dim, x + length * dim, last);
}

struct Request {
    const int64_t *nows;
    const int64_t *lengths;
    const int64_t *slots;
    const float *last;          // (S, D)
    const int64_t *last_times;  // (S,)
};

OUZEL_AVX512 void query(const Model &model, const Request &request, int64_t start, int64_t rows,
                        const Rings &rings, float *vectors, Room &room) {
    const int64_t dim = model.dim, size = dim / model.heads, pairs = size / 2;
    const int64_t waves = model.num_harmonics;
    const Block &block = model.blocks[model.layers - 1];
    float *x = room.take(rows * dim), *norm = room.take(rows * dim);
    float *asked = room.take(rows * dim), *read = room.take(rows * dim);
    float *cosines = room.take(rows * pairs), *sines = room.take(rows * pairs);
    float *since = room.take(rows * 2 * waves), *weights = room.take(model.window + 2 * LANES);
    int64_t positions[AT_ONCE];
    for (int64_t b = 0; b < rows; ++b) {
        const int64_t slot = request.slots[start + b], now = request.nows[start + b];
        positions[b] = request.lengths[start + b] - 1;
        const int64_t elapsed = std::max<int64_t>(now - request.last_times[slot], 0);
        const float scaled = std::log1p(static_cast<float>(elapsed) / 1000.0f);
        for (int64_t i = 0; i < waves; ++i) {
            since[b * 2 * waves + i] = std::sin(scaled * model.harmonics[i]);
            since[b * 2 * waves + waves + i] = std::cos(scaled * model.harmonics[i]);
        }
    }
    linear(since, rows, 2 * waves, model.elapsed, model.elapsed_bias, dim, x);
    for (int64_t b = 0; b < rows; ++b)
        for (int64_t d = 0; d < dim; ++d)
            x[b * dim + d] += request.last[request.slots[start + b] * dim + d];
    angles_of(model, positions, request.nows + start, rows, cosines, sines);
    normed(x, rows, dim, block.attention_norm, norm);
    linear(norm, rows, dim, block.query, block.query_bias, dim, asked);
    rotate(model, asked, dim, rows, Angles{cosines, sines});
    for (int64_t b = 0; b < rows; ++b)
        attend_any(model, rings, request.slots[start + b], request.lengths[start + b],
                   asked + b * dim, nullptr, nullptr, weights, read + b * dim);
    finish(model, block, read, x, rows, room);
    normed(x, rows, dim, model.final_norm, norm);
    for (int64_t b = 0; b < rows; ++b) {
        const float *from = norm + b * dim;
        const float length = std::max(std::sqrt(inner(from, from, dim)), 1e-12f);
        for (int64_t d = 0; d < dim; ++d)
            vectors[(start + b) * dim + d] =
                from[d] / length / static_cast<float>(model.temperature);
    }
}

bool within(const int64_t *values, int64_t count, int64_t limit) {
    return std::all_of(values, values + count, [=](int64_t v) { return v >= 0 && v < limit; });
}

}  // namespace

extern "C" {

int ouzel_steps_work() { return has_avx512(); }

// Who was built for other layouts must not call.
int64_t ouzel_steps_bytes() { return 1001 * sizeof(Model) + sizeof(Block); }

// All return 1 when done, 0 if there was not enough memory, -1 if a row or a slot is not there.
int ouzel_append(const void *given, int64_t count, int64_t num_rows, int64_t num_slots,
                 const int64_t *rows, const int64_t *times, const int64_t *lengths,
                 const int64_t *slots, const float *table, const void *rings, const void *fresh,
                 float *last) {
    thread_local Room room;
    const auto &model = *static_cast<const Model *>(given);
    if (!within(rows, count, num_rows) || !within(slots, count, num_slots)) return -1;
    try {
        for (int64_t start = 0; start < count; start += AT_ONCE) {
            room.reset();
            append(model, Event{rows, times, lengths, slots}, start,
                   std::min(AT_ONCE, count - start), table, static_cast<const Rings *>(rings),
                   static_cast<const Fresh *>(fresh), last, room);
        }
        return 1;
    } catch (...) {
        return 0;
    }
}

// Of each history (B, L) the first lengths[b] events count.
int ouzel_encode(const void *given, int64_t count, int64_t longest, int64_t num_rows,
                 const int64_t *rows, const int64_t *times, const int64_t *lengths,
                 const int64_t *starts, const float *table, const void *fresh, float *last) {
    thread_local Room room;
    const auto &model = *static_cast<const Model *>(given);
    for (int64_t b = 0; b < count; ++b)
        if (lengths[b] < 1 || lengths[b] > longest ||
            !within(rows + b * longest, lengths[b], num_rows))
            return -1;
    try {
        for (int64_t b = 0; b < count; ++b) {
            room.reset();
            const int64_t at = b * longest;
            encode(model, History{rows + at, times + at, lengths[b], starts[b]}, at, table,
                   static_cast<const Fresh *>(fresh), last + b * model.dim, room);
        }
        return 1;
    } catch (...) {
        return 0;
    }
}

int ouzel_query(const void *given, int64_t count, int64_t num_slots, const int64_t *nows,
                const int64_t *lengths, const int64_t *slots, const float *last,
                const int64_t *last_times, const void *rings, float *vectors) {
    thread_local Room room;
    const auto &model = *static_cast<const Model *>(given);
    if (!within(slots, count, num_slots)) return -1;
    try {
        for (int64_t start = 0; start < count; start += AT_ONCE) {
            room.reset();
            query(model, Request{nows, lengths, slots, last, last_times}, start,
                  std::min(AT_ONCE, count - start), *static_cast<const Rings *>(rings), vectors,
                  room);
        }
        return 1;
    } catch (...) {
        return 0;
    }
}

}  // extern "C"

#else

extern "C" int ouzel_steps_work() { return 0; }

#endif
