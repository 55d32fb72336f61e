// Where messages of HTTP end, in the plainest cases; what the plainest request for a list asks; answers.
//
// Whatever is not plain is said to be so, however right it may be: then it is for the interpreter.
//
// References:
//   RFC 9112, section 6.

#pragma once

#include <time.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

namespace ouzel {

constexpr int64_t MOST_N = 500;  // items of a list
constexpr int64_t MOST_LENGTH = int64_t{1} << 40;  // sums of it and a head do not overflow

inline void add_number(std::string &text, double value) {
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    text.append(digits, end - digits);
}

inline void add_number(std::string &text, int64_t value) {
    char digits[24];
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    text.append(digits, end - digits);
}

inline void add_ms(std::string &text, double value) {
    char digits[48];
    const auto end =
        std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed, 3).ptr;
    text.append(digits, end - digits);
}

// The steps of an answer; lists are blended only if that was learned.
enum Step { DECODE, STATE, SEARCH, BLEND, ENCODE, NUM_STEPS };

// What they took, in milliseconds.
struct Spent {
    float ms[NUM_STEPS];
};

// Writes whole answers; of one thread.
class Replies {
  public:
    // `body` with its head. It holds until the next call.
    const std::string &reply(const std::string &body, const Spent &spent, bool blended) {
        text_ = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        add_number(text_, static_cast<int64_t>(body.size()));
        text_ += "\r\nserver-timing: T;dur=";
        add_ms(text_, spent.ms[DECODE]);
        text_ += ", P;dur=";
        add_ms(text_, spent.ms[STATE]);
        text_ += ", A;dur=";
        add_ms(text_, spent.ms[SEARCH] + spent.ms[BLEND] + spent.ms[ENCODE]);
        static const char *const names[] = {"T-decode", "P-state", "A-search", "A-blend", "A-encode"};
        for (int i = 0; i < NUM_STEPS; ++i) {
            if (i == BLEND && !blended) continue;
            text_ += ", ";
            text_ += names[i];
            text_ += ";dur=";
            add_ms(text_, spent.ms[i]);
        }
        text_ += "\r\nx-content-type-options: nosniff\r\ncache-control: no-store\r\ndate: ";
        text_ += date();
        text_ += "\r\n\r\n";
        text_ += body;
        return text_;
    }

  private:
    const std::string &date() {
        const time_t second = time(nullptr);
        if (second != dated_) {
            char text[64];
            tm parts;
            gmtime_r(&second, &parts);
            strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
            date_ = text;
            dated_ = second;
        }
        return date_;
    }

    std::string text_, date_;
    time_t dated_ = 0;
};

// Whether a line begins with a name in lower case.
inline bool names(std::string_view line, std::string_view name) {
    if (line.size() < name.size()) return false;
    for (size_t i = 0; i < name.size(); ++i) {
        const char letter = line[i];
        if (('A' <= letter && letter <= 'Z' ? letter + 32 : letter) != name[i]) return false;
    }
    return true;
}

// What a head says of its body: its length, -1 if nothing, -2 if it takes more than that to tell.
inline int64_t told_length(std::string_view head) {
    int64_t length = -1;
    // Lone ends of lines and the like: parsers disagree on what they end.
    for (size_t i = 0; i < head.size(); ++i) {
        const auto byte = static_cast<unsigned char>(head[i]);
        if (byte >= 0x20 || byte == '\t') continue;
        const bool end = (byte == '\r' && i + 1 < head.size() && head[i + 1] == '\n') ||
                         (byte == '\n' && i > 0 && head[i - 1] == '\r');
        if (!end) return -2;
    }
    size_t at = head.find("\r\n");
    while (at != std::string_view::npos && at + 2 < head.size()) {
        const size_t end = head.find("\r\n", at + 2);
        if (end == std::string_view::npos) return -2;
        const std::string_view line = head.substr(at + 2, end - at - 2);
        at = end;
        if (!line.empty() && (line[0] == ' ' || line[0] == '\t')) return -2;
        for (const char *name : {"transfer-encoding:", "upgrade:", "expect:"})
            if (names(line, name)) return -2;
        if (names(line, "connection:") && !names(line, "connection: keep-alive")) return -2;
        if (!names(line, "content-length:")) continue;
        const char *from = line.data() + 15, *to = line.data() + line.size();
        while (from < to && *from == ' ') ++from;
        if (length >= 0 || from == to || *from == '-') return -2;
        const auto found = std::from_chars(from, to, length);
        if (found.ec != std::errc() || found.ptr != to || length > MOST_LENGTH) return -2;
    }
    return length;
}

// The length of the request that begins here, head and body, 0 if that is not to be told.
inline int64_t request_length(std::string_view data) {
    const size_t end = data.find("\r\n\r\n");
    if (end == std::string_view::npos) return 0;
    const std::string_view head = data.substr(0, end + 4);
    const std::string_view line = head.substr(0, head.find("\r\n"));
    const std::string_view method = line.substr(0, line.find(' '));
    bool known = false;
    for (const char *name : {"GET", "POST", "PUT", "PATCH", "DELETE"}) known |= method == name;
    const std::string_view version = " HTTP/1.1";
    if (!known || line.size() < version.size() ||
        line.substr(line.size() - version.size()) != version)
        return 0;
    const int64_t length = told_length(head);
    return length < -1 ? 0 : static_cast<int64_t>(head.size()) + std::max<int64_t>(length, 0);
}

// The length of the body behind the head of a reply, -1 if that is not to be told.
inline int64_t body_length_of_reply(std::string_view head) {
    const std::string_view status = head.substr(0, 12);
    if (status.size() < 12 || status.substr(0, 9) != "HTTP/1.1 " || status[9] == '1') return -1;
    const std::string_view code = status.substr(9);
    if (code == "204" || code == "304") return -1;
    const int64_t length = told_length(head);
    return length < 0 ? -1 : length;
}

// Reads {"user_id": "...", "n": 10}; false if it is anything else, however right.
inline bool plain_request(std::string_view text, std::string &id, int64_t &n) {
    size_t at = 0;
    const auto skip = [&] {
        while (at < text.size() && std::strchr(" \t\r\n", text[at]) && text[at]) ++at;
    };
    const auto take = [&](char wanted) {
        skip();
        const bool there = at < text.size() && text[at] == wanted;
        at += there;
        return there;
    };
    const auto word = [&](std::string_view &found) {
        if (!take('"')) return false;
        const size_t from = at;
        while (at < text.size() && text[at] != '"') {
            // Escapes, and bytes that may not be there, are somebody else's business.
            if (text[at] == '\\' || static_cast<unsigned char>(text[at]) < 0x20) return false;
            ++at;
        }
        found = text.substr(from, at - from);
        return at++ < text.size();
    };
    bool named = false, counted = false;
    n = 10;
    if (!take('{')) return false;
    do {
        std::string_view key, value;
        if (!word(key) || !take(':')) return false;
        skip();
        if (key == "user_id" && !named) {
            if (!word(value)) return false;
            id.assign(value);
            named = true;
        } else if (key == "n" && !counted) {
            const char *from = text.data() + at;
            const auto read = std::from_chars(from, text.data() + text.size(), n);
            if (read.ec != std::errc() || *from == '-' || *from == '0') return false;
            at += read.ptr - from;
            counted = true;
        } else {
            return false;
        }
    } while (take(','));
    if (!take('}')) return false;
    skip();
    return named && !id.empty() && at == text.size() && 1 <= n && n <= MOST_N;
}

constexpr size_t MOST_HEADS = 512;        // as many as short.py remembers
constexpr int64_t LONGEST_BODY = 1 << 16;  // of a request that is answered here

// Heads that were let in, with the length of the body behind them; the oldest gives way. Any thread may ask.
class Heads {
  public:
    void put(std::string head, int64_t body) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (bodies_.find(head) == bodies_.end()) {
            if (order_.size() >= MOST_HEADS) {
                bodies_.erase(order_.front());
                order_.pop_front();
            }
            order_.push_back(head);
        }
        bodies_[std::move(head)] = body;
    }

    // -1 if the head is not among them, or its body too long.
    int64_t body(std::string_view head) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = bodies_.find(std::string(head));
        return found == bodies_.end() || found->second > LONGEST_BODY ? -1 : found->second;
    }

  private:
    std::mutex mutex_;
    std::unordered_map<std::string, int64_t> bodies_;
    std::deque<std::string> order_;
};

}  // namespace ouzel
