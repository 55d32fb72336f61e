// The kernel of ranking/blending.py: a blended list from the model's list and the history.
//
// It is the arithmetic of VMISkNN.candidates, PopularSource.candidates and BlendSources, to the bit:
// votes are integers, and sums of scores are added in the order of sources and features.
//
// References:
//   Kersbergen, Sprangers, Schelter, "Serenade", SIGMOD 2022 (VMIS-kNN).

#include "blend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

namespace {

using namespace ouzel;

constexpr int64_t MATCH_REACH = 10;
constexpr int64_t OUT_OF_REACH = -2;
constexpr uint32_t SIGN = uint32_t{1} << 31;
constexpr int32_t BANNED = INT32_MIN / 2;  // votes on top of it stay far below 0

struct Item {
    int32_t row;
    int8_t source;
    int16_t ranks[NUM_SOURCES];
    double score;
};

// A list of one source, best first.
struct Proposed {
    std::vector<int32_t> rows;
    std::vector<float> scores;

    void clear() {
        rows.clear();
        scores.clear();
    }

    void add(int32_t row, float score) {
        rows.push_back(row);
        scores.push_back(score);
    }
};

// Of one thread; its arrays over all rows are as they were after every list.
class Blender {
  public:
    int64_t run(const Blend &blend, const Blending &asked) {
        try {
            return blended(blend, asked);
        } catch (...) {
            // Whatever is marked in them is forgotten with them.
            votes_.clear();
            places_.clear();
            throw;
        }
    }

  private:
    // A session met on the way, with its place in the order and its vote.
    struct Met {
        int64_t key, vote;
    };

    __attribute__((noinline)) int64_t blended(const Blend &blend, const Blending &asked) {
        const auto size = static_cast<size_t>(blend.num_rows);
        if (votes_.size() < size) votes_.resize(size, 0);
        if (places_.size() < size) places_.resize(size, 0);
        items_.clear();
        const double shortness = std::sqrt(static_cast<double>(std::max<int64_t>(1, asked.num_events)));
        for (int64_t i = 0; i < NUM_SOURCES * NUM_FEATURES; ++i)
            weights_[i] = blend.weights[i] + blend.weights[NUM_SOURCES * NUM_FEATURES + i] / shortness;
        of_model(asked);
        if (proposed_.rows.empty()) return 0;
        unite(blend, 0);
        ban(blend, asked, BANNED);
        of_neighbours(blend, asked);
        unite(blend, 1);
        bool whole = true;
        for (int64_t list = 0; list < 2; ++list) {
            whole = of_popular(blend, asked, list) && whole;
            unite(blend, 2 + list);
        }
        ban(blend, asked, 0);
        if (!whole) {
            for (const Item &item : items_) places_[item.row] = 0;
            return OUT_OF_REACH;
        }
        return write(asked);
    }

    void of_model(const Blending &asked) {
        proposed_.clear();
        for (int64_t i = 0; i < asked.num_found; ++i) {
            if (!std::isfinite(asked.found_scores[i]) || asked.found_rows[i] < 0) continue;
            proposed_.add(asked.found_rows[i], asked.found_scores[i]);
            // An item may have come after the neighbours and the popular lists were made.
            const auto needed = static_cast<size_t>(asked.found_rows[i]) + 1;
            if (places_.size() < needed) places_.resize(needed, 0);
        }
    }

    void ban(const Blend &blend, const Blending &asked, int32_t votes) {
        for (int64_t i = 0; i < asked.num_banned; ++i)
            if (0 <= asked.banned[i] && asked.banned[i] < blend.num_rows) votes_[asked.banned[i]] = votes;
    }

    static bool hidden(const Blending &asked, int32_t row) {
        return asked.hidden && row < asked.num_hidden && asked.hidden[row];
    }

    // The newest sessions with any of `count` rows, each with the vote that it would have.
    void find_neighbours(const Blend &blend, const int32_t *rows, int64_t count) {
        int64_t at[MOST_LAST], from[MOST_LAST], newest[MOST_LAST];
        for (int64_t i = 0; i < count; ++i) {
            from[i] = blend.postings_from[rows[i]];
            at[i] = blend.postings_from[rows[i] + 1] - 1;
            newest[i] = at[i] >= from[i] ? blend.postings[at[i]] : -1;
        }
        met_.clear();
        sessions_.clear();
        // From the newest session back, without branches: which list holds one is not to be guessed.
        for (int64_t age = 0; age < blend.recent; ++age) {
            int64_t session = -1;
            for (int64_t i = 0; i < count; ++i) session = newest[i] > session ? newest[i] : session;
            if (session < 0) break;
            int64_t overlap = 0, place = 0;
            for (int64_t i = 0; i < count; ++i) {
                const bool there = newest[i] == session;
                overlap += there ? i + 1 : 0;
                place = there ? i + 1 : place;
                at[i] -= there;
                const int32_t next = blend.postings[at[i] > 0 ? at[i] : 0];
                newest[i] = at[i] >= from[i] ? next : -1;
            }
            // Greater for a larger overlap, then for a newer session.
            met_.push_back({overlap << 32 | (INT32_MAX - age),
                            overlap * (MATCH_REACH - (count + 1 - place))});
            sessions_.push_back(session);
        }
        if (static_cast<int64_t>(met_.size()) > blend.neighbours)
            std::nth_element(met_.begin(), met_.begin() + blend.neighbours, met_.end(),
                             [](const Met &one, const Met &other) { return one.key > other.key; });
    }

    void of_neighbours(const Blend &blend, const Blending &asked) {
        proposed_.clear();
        int32_t rows[MOST_LAST];
        const int64_t count = last_distinct(asked.history, asked.num_history, blend.num_rows,
                                            std::min(blend.last, MOST_LAST), rows);
        if (!count) return;
        find_neighbours(blend, rows, count);
        const int64_t voting = std::min<int64_t>(met_.size(), blend.neighbours);
        int64_t touched = 0, most = 0;
        for (int64_t i = 0; i < voting; ++i) {
            const int64_t session = session_of(met_[i]);
            most += blend.sessions_from[session + 1] - blend.sessions_from[session];
        }
        touched_.resize(most);
        int32_t *const votes = votes_.data(), *const rows_touched = touched_.data();
        for (int64_t i = 0; i < voting; ++i) {
            const int64_t session = session_of(met_[i]);
            const auto vote = static_cast<int32_t>(met_[i].vote);
            const int32_t *row = blend.session_rows + blend.sessions_from[session];
            const int32_t *const end = blend.session_rows + blend.sessions_from[session + 1];
            for (; row < end; ++row) {
                // Without a branch: whether a row is new is not to be guessed.
                rows_touched[touched] = *row;
                touched += votes[*row] == 0;
                votes[*row] += vote;
            }
        }
        touched_.resize(touched);
        const double scale = 1.0 / static_cast<double>(count * MATCH_REACH);
        ordered_.clear();
        for (const int32_t row : touched_) {
            const auto score = static_cast<float>(votes_[row] * scale * blend.idf[row]);
            votes_[row] = 0;
            if (score > 0 && !hidden(asked, row)) ordered_.push_back(key_of(row, score));
        }
        keep_best(blend.breadth);
        for (const uint64_t key : ordered_) {
            const auto bits = static_cast<uint32_t>(key >> 32);
            float score;
            std::memcpy(&score, &bits, sizeof score);
            proposed_.add(INT32_MAX - static_cast<int32_t>(key & INT32_MAX), score);
        }
    }

    // Leaves the `most` greatest keys, the greatest first.
    void keep_best(int64_t most) {
        if (static_cast<int64_t>(ordered_.size()) > most) {
            std::nth_element(ordered_.begin(), ordered_.begin() + most, ordered_.end(),
                             std::greater<>());
            ordered_.resize(most);
        }
        std::sort(ordered_.begin(), ordered_.end(), std::greater<>());
    }

    int64_t session_of(const Met &met) const { return sessions_[INT32_MAX - (met.key & INT32_MAX)]; }

    // Greater for a greater score, which is positive, then for a lower row.
    static uint64_t key_of(int32_t row, float score) {
        uint32_t bits;
        std::memcpy(&bits, &score, sizeof bits);
        return static_cast<uint64_t>(bits) << 32 | static_cast<uint32_t>(INT32_MAX - row);
    }

    // Returns whether the list has as many as are wanted, or ends.
    bool of_popular(const Blend &blend, const Blending &asked, int64_t list) {
        proposed_.clear();
        const int32_t *rows = blend.popular_rows[list];
        for (int64_t i = 0; i < blend.num_popular[list]; ++i) {
            if (static_cast<int64_t>(proposed_.rows.size()) >= blend.breadth) return true;
            if (votes_[rows[i]] < 0 || hidden(asked, rows[i])) continue;
            proposed_.add(rows[i], blend.popular_scores[list][i]);
        }
        return blend.whole[list] || static_cast<int64_t>(proposed_.rows.size()) >= blend.breadth;
    }

    void unite(const Blend &blend, int64_t source) {
        const std::vector<float> &scores = proposed_.scores;
        const double *weights = weights_ + source * NUM_FEATURES;
        const float last = scores.empty() ? 0 : scores.back();
        const float width = scores.empty() ? 0 : scores.front() - last;
        for (size_t i = 0; i < scores.size(); ++i) {
            const int32_t row = proposed_.rows[i];
            int32_t &place = places_[row];
            if (!place) {
                items_.push_back({row, static_cast<int8_t>(source), {}, 0.0});
                place = static_cast<int32_t>(items_.size());
            }
            Item &item = items_[place - 1];
            item.ranks[source] = static_cast<int16_t>(i + 1);
            item.score += weights[0];
            item.score += weights[1] * static_cast<double>(blend.minus_log[i]);
            item.score += weights[2] * static_cast<double>(width > 0 ? (scores[i] - last) / width : 0);
        }
    }

    int64_t write(const Blending &asked) {
        ordered_.clear();
        for (const Item &item : items_) {
            // Added to 0, -0 is 0. Bits of negative numbers fall as these rise.
            const float score = static_cast<float>(item.score) + 0.0f;
            uint32_t bits;
            std::memcpy(&bits, &score, sizeof bits);
            bits = bits & SIGN ? ~bits : bits | SIGN;
            ordered_.push_back(static_cast<uint64_t>(bits) << 32 |
                               static_cast<uint32_t>(INT32_MAX - item.row));
        }
        keep_best(asked.most);
        const auto count = static_cast<int64_t>(ordered_.size());
        for (int64_t i = 0; i < count; ++i) {
            const int32_t row = INT32_MAX - static_cast<int32_t>(ordered_[i] & INT32_MAX);
            const Item &item = items_[places_[row] - 1];
            asked.rows[i] = row;
            asked.scores[i] = static_cast<float>(item.score);
            asked.sources[i] = item.source;
            std::memcpy(asked.ranks + i * NUM_SOURCES, item.ranks, sizeof item.ranks);
        }
        for (const Item &item : items_) places_[item.row] = 0;
        return count;
    }

    double weights_[NUM_SOURCES * NUM_FEATURES];
    std::vector<int32_t> votes_, places_, touched_;
    std::vector<Met> met_;
    std::vector<int64_t> sessions_;
    std::vector<uint64_t> ordered_;
    std::vector<Item> items_;
    Proposed proposed_;
};

}  // namespace

extern "C" {

int64_t ouzel_blend_layout() { return ouzel::blend_layout(); }

// Returns the length of the list, 0 if the model proposes nothing, -1 if there was not enough memory,
// OUT_OF_REACH if a popular list that is not whole has too few that may be shown.
int64_t ouzel_blend(const void *blend, const void *asked) {
    try {
        thread_local Blender blender;
        return blender.run(*static_cast<const ouzel::Blend *>(blend),
                           *static_cast<const ouzel::Blending *>(asked));
    } catch (...) {
        return -1;
    }
}

}  // extern "C"
