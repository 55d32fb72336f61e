// Whom the front door knows, and what it notes of what it did; both are asked and changed by any thread.

#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "../ranking/blend.h"
#include "front_messages.h"

namespace ouzel {

constexpr size_t MOST_NOTED_BYTES = 64 << 20;

struct Known {
    int64_t user;
    int64_t slot;
    std::shared_ptr<const std::vector<int32_t>> seen;  // rows, sorted, each once
    int64_t num_events;                                // of the history that the model knows
    int64_t num_last;
    int32_t last[MOST_LAST];  // its newest distinct rows, oldest first
};

// Who can be answered: users whose state in the pool is current, by id. Any thread may ask and change.
class Users {
  public:
    explicit Users(int64_t most_bytes) : most_bytes_(most_bytes) {}

    void put(const char *id, int64_t length, const Known &known) {
        const std::lock_guard<std::mutex> lock(mutex_);
        erase(known.user);
        const int64_t bytes = cost(length, known);
        while (bytes_ + bytes > most_bytes_ && !by_id_.empty()) erase(by_id_.begin()->second.user);
        bytes_ += bytes;
        std::string name(id, length);
        ids_[known.user] = name;
        by_id_[std::move(name)] = known;
    }

    void drop(int64_t user) {
        const std::lock_guard<std::mutex> lock(mutex_);
        erase(user);
    }

    bool knows(int64_t user) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return ids_.find(user) != ids_.end();
    }

    bool find(const std::string &id, Known &known) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = by_id_.find(id);
        if (found == by_id_.end()) return false;
        known = found->second;
        return true;
    }

  private:
    static int64_t cost(int64_t length, const Known &known) {
        return 256 + sizeof(Known) + 2 * length + static_cast<int64_t>(known.seen->size() * sizeof(int32_t));
    }

    void erase(int64_t user) {
        const auto named = ids_.find(user);
        if (named == ids_.end()) return;
        const auto found = by_id_.find(named->second);
        if (found != by_id_.end()) {
            bytes_ -= cost(found->first.size(), found->second);
            by_id_.erase(found);
        }
        ids_.erase(named);
    }

    std::mutex mutex_;
    int64_t most_bytes_, bytes_ = 0;
    std::unordered_map<std::string, Known> by_id_;
    std::unordered_map<int64_t, std::string> ids_;
};

// What was answered since somebody last looked: how long it took, and what was shown, for the log.
class Notes {
  public:
    void add(const Spent &spent, const std::string &shown) {
        const std::lock_guard<std::mutex> lock(mutex_);
        spent_.push_back(spent);
        if (shown_.size() + shown.size() > MOST_NOTED_BYTES) {
            ++dropped_;
            return;
        }
        shown_ += shown;
        ++num_shown_;
    }

    // Gives what there is until the next call; the counts are of answers, of lists, and of lists that
    // were dropped since the beginning.
    void take(const Spent **spent, const char **shown, int64_t *bytes, int64_t counts[3]) {
        const std::lock_guard<std::mutex> lock(mutex_);
        taken_spent_.swap(spent_);
        spent_.clear();
        taken_shown_.swap(shown_);
        shown_.clear();
        *spent = taken_spent_.data();
        *shown = taken_shown_.data();
        *bytes = static_cast<int64_t>(taken_shown_.size());
        counts[0] = static_cast<int64_t>(taken_spent_.size());
        counts[1] = num_shown_;
        counts[2] = dropped_;
        num_shown_ = 0;
    }

  private:
    std::mutex mutex_;
    std::vector<Spent> spent_, taken_spent_;
    std::string shown_, taken_shown_;
    int64_t num_shown_ = 0, dropped_ = 0;
};

}  // namespace ouzel
