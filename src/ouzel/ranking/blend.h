// What the kernel of blend.cpp is given, for whoever calls it in compiled code.
//
// Legend: N catalogue rows, S sessions, P postings, I items of all sessions, R rows of a popular list,
// K items of the model's list, F rows banned, T results.

#pragma once

#include <cstdint>

namespace ouzel {

constexpr int64_t NUM_SOURCES = 4;     // the model, neighbours, what is popular, what is so lately
constexpr int64_t NUM_FEATURES = 3;
constexpr int64_t MOST_LAST = 9;       // items of a history that neighbours are looked for by
constexpr int64_t LONGEST_LIST = 1024; // of a source
constexpr int64_t BLEND_LAYOUT = 2;    // changes with what the structs below hold

// The same for every list. postings (P) are session numbers, ascending, those of row n from
// postings_from[n] to postings_from[n + 1] (N + 1); session_rows (I) the rows of sessions, those of
// session s from sessions_from[s] to sessions_from[s + 1]; idf (N). Of both popular lists: rows and
// scores (R), best first, and whether that is all of the list. weights (2, 4, 3): of every history, of
// short ones. minus_log (LONGEST_LIST): -log of the ranks from 1. `breadth` is how many each source
// proposes.
struct Blend {
    int64_t num_rows;
    const int64_t *postings_from;
    const int32_t *postings;
    const int64_t *sessions_from;
    const int32_t *session_rows;
    const float *idf;
    int64_t recent;
    int64_t neighbours;
    int64_t last;
    const int32_t *popular_rows[2];
    const float *popular_scores[2];
    int64_t num_popular[2];
    int64_t whole[2];
    const double *weights;
    const float *minus_log;
    int64_t breadth;
};

// One list: the history's rows, oldest first, of which the newest few count, and how many events it
// has; rows (F) that may not be shown, sorted; a mask (N) of what nobody may see, or null; the model's
// list (K), best first. Written are `most` (T) rows, scores, the first source that proposes each, and
// the ranks (T, 4) that they gave it, 0: it did not propose it. K is at most LONGEST_LIST.
struct Blending {
    const int32_t *history;
    int64_t num_history;
    int64_t num_events;
    const int32_t *banned;
    int64_t num_banned;
    const uint8_t *hidden;
    int64_t num_hidden;
    const int32_t *found_rows;
    const float *found_scores;
    int64_t num_found;
    int64_t most;
    int32_t *rows;
    float *scores;
    int8_t *sources;
    int16_t *ranks;
};

// Who was built for other structs must not call.
inline int64_t blend_layout() {
    return 1000 * BLEND_LAYOUT + 10 * static_cast<int64_t>(sizeof(Blend)) +
           static_cast<int64_t>(sizeof(Blending));
}

// Writes the newest distinct rows of a history, at most `last`, oldest first; returns how many.
inline int64_t last_distinct(const int32_t *history, int64_t length, int64_t num_rows, int64_t last,
                             int32_t *rows) {
    int64_t count = 0;
    for (int64_t i = length - 1; i >= 0 && count < last; --i) {
        const int32_t row = history[i];
        bool fresh = 0 < row && row < num_rows;
        for (int64_t j = 0; fresh && j < count; ++j) fresh = rows[j] != row;
        if (fresh) rows[count++] = row;
    }
    for (int64_t i = 0; i < count / 2; ++i) {
        const int32_t row = rows[i];
        rows[i] = rows[count - 1 - i];
        rows[count - 1 - i] = row;
    }
    return count;
}

}  // namespace ouzel
