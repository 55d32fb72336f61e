// The lists that the front door makes itself: who may be answered there, and how.
//
// A list is made as the interpreter makes it, by the same kernels: the vector of the user from the state
// in the pool, the best unseen items from the index. Whatever is not at hand is not answered here.
//
// Legend: N catalogue rows, D dimensions, S slots of the pool, B users of a pass, K items of a list.

#pragma once

#include <sys/random.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "../ranking/blend.h"
#include "../retrieval/search.h"
#include "front_messages.h"
#include "front_users.h"

namespace ouzel {

constexpr int64_t MOST_PASS = 16;  // a longer pass would itself become the slowest answer

// What the lists are made of. The arrays of the pool are (S) but for last_vectors (S, D); quoted has the
// ids of all rows as JSON, that of row n from quoted_from[n] to quoted_from[n + 1]; hidden (N) counts
// only while num_hidden is not 0. `search` has what is the same for every search. Where lists are blended
// `blend` is not null, and `told` says who proposed an item by the bits of its sources; else told[1] does.
struct Lists {
    int (*query)(const void *model, int64_t count, int64_t num_slots, const int64_t *nows,
                 const int64_t *lengths, const int64_t *slots, const float *last,
                 const int64_t *last_times, const void *rings, float *vectors);
    const void *model;
    const void *rings;
    const float *last_vectors;
    const int64_t *last_times;
    const int64_t *lengths;
    const uint64_t *epochs;
    uint8_t *used;
    int64_t num_slots;
    int (*scan)(const void *search);
    const Search *search;
    int64_t least_width;
    int64_t spare;
    const char *quoted;
    const int64_t *quoted_from;
    const uint8_t *hidden;
    const int64_t *num_hidden;
    const char *model_name;  // JSON of the model's name and version
    const char *version;     // JSON of its version
    int64_t (*blending)(const void *blend, const void *asked);
    const Blend *blend;
    const char *told[1 << NUM_SOURCES];
};

inline double monotonic_ms() {
    using std::chrono::duration;
    return duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline int64_t now_ms() {
    using std::chrono::duration_cast;
    const auto since = std::chrono::system_clock::now().time_since_epoch();
    return duration_cast<std::chrono::milliseconds>(since).count();
}

// A request of a known user for n items, and where its answer is to go.
struct Wanted {
    void *from = nullptr;
    std::string id;  // of the user
    int64_t n = 10;
    double read_ms = 0;
    Known known;
    bool answered = false;
    std::string reply;  // body
    Spent spent{};
};

// Makes lists; of one thread, but for `users` and `notes`.
class ListMaker {
  public:
    explicit ListMaker(const Lists &lists, int64_t most_bytes)
        : users(most_bytes), lists_(lists), search_(*lists.search) {}

    // Answers those of whom all is at hand, at most MOST_PASS.
    void answer(Wanted *wanted, int64_t count) {
        const double begun = monotonic_ms();
        std::vector<Wanted *> asking;
        std::vector<int64_t> slots, lengths, nows;
        const int64_t now = now_ms();
        for (int64_t i = 0; i < count; ++i) {
            // What is written just now is not read; nor is what was given to somebody else.
            const int64_t slot = wanted[i].known.slot;
            epochs_[asking.size()] = load_epoch(slot);
            if (epochs_[asking.size()] & 1) continue;
            if (!users.find(wanted[i].id, wanted[i].known) || wanted[i].known.slot != slot) continue;
            asking.push_back(&wanted[i]);
            slots.push_back(slot);
            lengths.push_back(lists_.lengths[slot]);
        }
        if (asking.empty()) return;
        const int64_t asked = asking.size();
        nows.assign(asked, now);
        vectors_.resize(asked * search_.dim);
        if (lists_.query(lists_.model, asked, lists_.num_slots, nows.data(), lengths.data(),
                         slots.data(), lists_.last_vectors, lists_.last_times, lists_.rings,
                         vectors_.data()) != 1)
            return;
        std::atomic_thread_fence(std::memory_order_acquire);
        for (int64_t i = 0; i < asked; ++i) {
            lists_.used[slots[i]] = 1;
            if (load_epoch(slots[i]) != epochs_[i]) asking[i] = nullptr;
        }
        if (!finite(vectors_)) return;
        const double read = monotonic_ms();
        int64_t k = lists_.blend ? lists_.blend->breadth : 1;
        for (const Wanted *one : asking)
            if (one) k = std::max(k, one->n);
        if (!find(asking, k)) return;
        const double found = monotonic_ms();
        for (int64_t i = 0; i < asked; ++i) {
            Wanted *one = asking[i];
            if (!one) continue;
            one->spent.ms[DECODE] = static_cast<float>(begun - one->read_ms);
            one->spent.ms[STATE] = static_cast<float>(read - begun);
            one->spent.ms[SEARCH] = static_cast<float>(found - read);
            const List list = lists_.blend ? blended(*one, i, k) : as_found(i, k);
            if (!full(list, one->n)) continue;
            // As the others of a pass are written, so is their time: it is waited for.
            const double blended_at = lists_.blend ? monotonic_ms() : found;
            one->spent.ms[BLEND] = static_cast<float>(blended_at - found);
            write(*one, list, now, blended_at);
        }
    }

    bool blends() const { return lists_.blend != nullptr; }

    // Keeps of a history what a blend asks of it; of any thread.
    void remember(Known &known, const int32_t *history) const {
        if (!lists_.blend) return;
        const int64_t most = std::min(lists_.blend->last, MOST_LAST);
        known.num_last =
            last_distinct(history, known.num_events, lists_.blend->num_rows, most, known.last);
    }

    Users users;
    Notes notes;

  private:
    uint64_t load_epoch(int64_t slot) const {
        return reinterpret_cast<const std::atomic<uint64_t> *>(lists_.epochs)[slot].load(
            std::memory_order_acquire);
    }

    static bool finite(const std::vector<float> &numbers) {
        for (const float number : numbers)
            if (!std::isfinite(number)) return false;
        return true;
    }

    bool find(const std::vector<Wanted *> &asking, int64_t k) {
        const int64_t users = asking.size();
        banned_.clear();
        banned_from_.assign(1, 0);
        for (const Wanted *one : asking) {
            if (one) banned_.insert(banned_.end(), one->known.seen->begin(), one->known.seen->end());
            banned_from_.push_back(banned_.size());
        }
        const int64_t num_hidden =
            reinterpret_cast<const std::atomic<int64_t> *>(lists_.num_hidden)->load();
        masks_.assign(users, num_hidden ? lists_.hidden : nullptr);
        rows_.assign(users * k, 0);
        scores_.assign(users * k, -std::numeric_limits<float>::infinity());
        search_.queries = vectors_.data();
        search_.num_queries = users;
        search_.banned = banned_.data();
        search_.banned_from = banned_from_.data();
        search_.hidden = masks_.data();
        search_.width = std::min(search_.num_rows, std::max(lists_.least_width, lists_.spare * k));
        search_.k = k;
        search_.rows = rows_.data();
        search_.scores = scores_.data();
        return lists_.scan(&search_) != 0;
    }

    // A list of at least so many items; null: who proposed them is not told one by one.
    struct List {
        const int32_t *rows;
        const float *scores;
        int64_t length;
        const int16_t *ranks;
    };

    List as_found(int64_t place, int64_t k) const {
        return {rows_.data() + place * k, scores_.data() + place * k, k, nullptr};
    }

    List blended(const Wanted &one, int64_t place, int64_t k) {
        const int64_t reach = std::max(one.n, lists_.blend->breadth);
        const Known &known = one.known;
        blended_rows_.resize(one.n);
        blended_scores_.resize(one.n);
        blended_sources_.resize(one.n);
        blended_ranks_.resize(one.n * NUM_SOURCES);
        const bool hides = masks_[place] != nullptr;
        const Blending asked{known.last,
                             known.num_last,
                             known.num_events,
                             known.seen->data(),
                             static_cast<int64_t>(known.seen->size()),
                             masks_[place],
                             hides ? search_.num_rows : 0,
                             rows_.data() + place * k,
                             scores_.data() + place * k,
                             std::min(k, reach),
                             one.n,
                             blended_rows_.data(),
                             blended_scores_.data(),
                             blended_sources_.data(),
                             blended_ranks_.data()};
        const int64_t length = lists_.blending(lists_.blend, &asked);
        return {blended_rows_.data(), blended_scores_.data(), length, blended_ranks_.data()};
    }

    static bool full(const List &list, int64_t n) {
        if (list.length < n) return false;
        for (int64_t i = 0; i < n; ++i)
            if (list.rows[i] <= 0 || !std::isfinite(list.scores[i])) return false;
        return true;
    }

    const char *told(const List &list, int64_t place) const {
        if (!list.ranks) return lists_.told[1];
        int bits = 0;
        for (int64_t source = 0; source < NUM_SOURCES; ++source)
            bits |= (list.ranks[place * NUM_SOURCES + source] > 0) << source;
        return lists_.told[bits];
    }

    void add_quoted(std::string &text, int64_t row) const {
        const int64_t from = lists_.quoted_from[row];
        text.append(lists_.quoted + from, lists_.quoted_from[row + 1] - from);
    }

    // Twelve digits for the time, so that ids grow, and twenty at random.
    std::string request_id(int64_t now) {
        static const char digits[] = "0123456789abcdef";
        if (random_at_ + 10 > sizeof random_) {
            if (getrandom(random_, sizeof random_, 0) != sizeof random_) return "";
            random_at_ = 0;
        }
        std::string id(32, '0');
        for (int i = 11; i >= 0; --i, now >>= 4) id[i] = digits[now & 15];
        for (int i = 0; i < 10; ++i) {
            const uint8_t byte = random_[random_at_++];
            id[12 + 2 * i] = digits[byte >> 4];
            id[13 + 2 * i] = digits[byte & 15];
        }
        return id;
    }

    void write(Wanted &one, const List &list, int64_t now, double begun) {
        const std::string id = request_id(now);
        if (id.empty()) return;
        std::string &text = one.reply;
        text.clear();
        text.reserve(128 + (list.ranks ? 160 : 96) * one.n);
        text += "{\"request_id\":\"";
        text += id;
        text += "\",\"items\":[";
        for (int64_t i = 0; i < one.n; ++i) {
            text += i ? ",{\"item_id\":" : "{\"item_id\":";
            add_quoted(text, list.rows[i]);
            text += ",\"score\":";
            add_number(text, static_cast<double>(list.scores[i]));
            text += ",\"rank\":";
            add_number(text, i + 1);
            text += ',';
            text += told(list, i);
            text += '}';
        }
        text += "],\"model\":";
        text += lists_.model_name;
        text += ",\"degraded\":null,\"took_ms\":";
        const double done = monotonic_ms();
        add_ms(text, done - one.read_ms);
        text += '}';
        one.spent.ms[ENCODE] = static_cast<float>(done - begun);
        note(one, id, list.rows, now);
        one.answered = true;
    }

    // The row of an impression in the log, see `EventLog.append_shown`.
    void note(const Wanted &one, const std::string &id, const int32_t *rows, int64_t now) {
        std::string &text = shown_;
        const std::string event_id = "\"shown-" + id + "\"";
        text = "[" + event_id + ",";
        add_number(text, now);
        text += ',';
        add_number(text, one.known.user);
        text += ",\"" + id + "\",{\"type\":\"impression\",\"event_id\":" + event_id + ",\"timestamp_ms\":";
        add_number(text, now);
        text += ",\"request_id\":\"" + id + "\",\"item_ids\":[";
        for (int64_t i = 0; i < one.n; ++i) {
            if (i) text += ',';
            add_quoted(text, rows[i]);
        }
        text += "],\"model_version\":";
        text += lists_.version;
        text += ",\"user_id\":\"" + one.id + "\"}],";
        notes.add(one.spent, text);
    }

    Lists lists_;
    Search search_;
    uint64_t epochs_[MOST_PASS];
    std::vector<float> vectors_, scores_, blended_scores_;
    std::vector<int32_t> banned_, rows_, blended_rows_;
    std::vector<int8_t> blended_sources_;
    std::vector<int16_t> blended_ranks_;
    std::vector<int64_t> banned_from_;
    std::vector<const uint8_t *> masks_;
    std::string shown_;
    uint8_t random_[4000];
    size_t random_at_ = sizeof random_;
};

}  // namespace ouzel
