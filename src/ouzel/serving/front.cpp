// The front door of a server: a thread that holds the connections and answers the plainest requests.
//
// A connection either waits for a request (IDLE), or one of its requests is with the interpreter, which
// has an end of a socket pair for it (ASKED), or all that comes goes there and back until one of both
// hangs up (TUNNEL). What is answered here is a whole request whose head the interpreter has let in
// before, to the letter, and whose user is known (front_users.h). All else is passed on as it came, so
// HTTP has one implementation, and an answer that is not made here is made there.
//
// References:
//   RFC 9112, for where messages end.

#if defined(__linux__) && defined(__x86_64__) && defined(__GNUC__)

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <unordered_set>

#include "front_connection.h"
#include "front_lists.h"
#include "front_messages.h"

namespace {

using namespace ouzel;

constexpr size_t AT_ONCE = 1 << 16;        // bytes read in one go
constexpr int64_t SWEEP_MS = 100;
constexpr int64_t SOON_MS = 200;           // for how long a body may follow its head
constexpr size_t MOST_EVENTS = 128;
constexpr int64_t INNER_MS = 30000;         // for how long the interpreter keeps an end unused
constexpr int64_t UNREAD_MS = 60000;        // for how long nobody may take the last of an answer

class Front {
  public:
    Front(const Lists &lists, const Place &place)
        : maker(lists, place.most_bytes), place_(place), listener_(place.listener) {
        waking_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    }

    ~Front() {
        if (waking_ >= 0) close(waking_);
    }

    bool start() {
        if (sockets_.poll < 0 || waking_ < 0) return false;
        sockets_.listen_to(waking_, &waking_);
        sockets_.listen_to(listener_, &listener_);
        thread_ = std::thread([this] { run(); });
        stay_on_cores(thread_, place_);
        return true;
    }

    // Nobody new comes in, and who waits for nothing is let go; after that nothing is answered here.
    void leave() {
        leaving_ = true;
        wake();
        for (int waited = 0; !left_ && waited < 1000; ++waited) usleep(1000);
    }

    void stop() {
        stopping_ = true;
        wake();
        if (thread_.joinable()) thread_.join();
    }

    void let_in(const char *head, int64_t size, int64_t body) {
        heads_.put(std::string(head, size), body);
    }

    ListMaker maker;
    std::atomic<int64_t> answered{0}, passed_on{0}, open{0};

  private:
    void wake() {
        const uint64_t one = 1;
        while (write(waking_, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }

    void remove(Connection &connection) {
        if (connection.gone) return;
        sockets_.shut(connection.client);
        sockets_.shut(connection.inner);
        connection.gone = true;
        removed_.push_back(&connection);
    }

    void run() {
        take_short_turns();
        epoll_event events[MOST_EVENTS];
        int64_t swept = now();
        double last_ms = 0;
        while (last_ms == 0 || last_ms > monotonic_ms()) {
            const int count = epoll_wait(sockets_.poll, events, MOST_EVENTS, SWEEP_MS);
            read_ms_ = monotonic_ms();
            for (int i = 0; i < count; ++i) handle(events[i]);
            answer();
            if (leaving_ && listener_ >= 0) close_door();
            if (now() - swept >= SWEEP_MS) {
                sweep();
                swept = now();
            }
            for (Connection *connection : removed_) {
                connections_.erase(connection);
                delete connection;
            }
            removed_.clear();
            open = static_cast<int64_t>(connections_.size());
            if (leaving_ && listener_ < 0) left_ = true;
            if (stopping_ && connections_.empty()) break;
            if (stopping_ && last_ms == 0) last_ms = monotonic_ms() + 1000;
        }
        for (Connection *connection : connections_) {
            sockets_.shut(connection->client);
            sockets_.shut(connection->inner);
            delete connection;
        }
        connections_.clear();
    }

    void handle(const epoll_event &event) {
        if (event.data.ptr == &waking_) {
            uint64_t count;
            while (read(waking_, &count, sizeof count) > 0) {
            }
        } else if (event.data.ptr == &listener_) {
            accept_all();
        } else {
            End &end = *static_cast<End *>(event.data.ptr);
            Connection &connection = *end.connection;
            if (connection.gone || end.fd < 0) return;
            if (end.ended && event.events & (EPOLLHUP | EPOLLERR)) {
                remove(connection);  // nobody is there; it would be reported for ever
                return;
            }
            if (event.events & EPOLLOUT) flush(end);
            if (!connection.gone && end.fd >= 0 && event.events & ~EPOLLOUT) receive(end);
            settle(connection);
        }
    }

    // After the answers of this turn: who asked in time has one.
    void close_door() {
        sockets_.forget(listener_);
        listener_ = -1;
        for (Connection *connection : connections_)
            if (connection->stage == Stage::IDLE) {
                finish(*connection);
                settle(*connection);
            }
    }

    void accept_all() {
        for (;;) {
            const int fd = accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd < 0) {
                // Out of descriptors: those who wait are asked in again with the next sweep.
                if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                    sockets_.forget(listener_);
                    full_ = true;
                }
                return;
            }
            const int one = 1;
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
            auto *connection = new Connection;
            connection->moved_ms = now();
            connections_.insert(connection);
            sockets_.add(*connection, connection->client, fd);
        }
    }

    void receive(End &end) {
        Connection &connection = *end.connection;
        static thread_local char bytes[AT_ONCE];
        const ssize_t size = recv(end.fd, bytes, sizeof bytes, 0);
        if (size < 0) {
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return;
            if (&end == &connection.inner)
                from_inner(connection, {});  // what it has said is still for the client
            else
                remove(connection);
            return;
        }
        connection.moved_ms = now();
        if (&end == &connection.inner) connection.inner_ms = connection.moved_ms;
        const std::string_view data(bytes, static_cast<size_t>(size));
        if (&end == &connection.inner) {
            from_inner(connection, data);
        } else if (size == 0) {
            from_client_ended(connection);
        } else if (connection.stage == Stage::IDLE) {
            connection.read.append(data);
            begin(connection, true);
        } else {
            if (connection.stage == Stage::ASKED) {
                connection.rest_of_request -= size;
                if (connection.rest_of_request < 0) connection.stage = Stage::TUNNEL;
            }
            send_on(connection.inner, data);
        }
    }

    void from_client_ended(Connection &connection) {
        connection.client.ended = true;
        if (connection.stage == Stage::IDLE && connection.read.empty()) {
            finish(connection);
            return;
        }
        if (connection.stage == Stage::IDLE) pass_on(connection);
        if (!connection.gone && connection.inner.unsent.empty())
            shutdown(connection.inner.fd, SHUT_WR);
    }

    // Closes when what is written has left.
    void finish(Connection &connection) {
        connection.inner.ended = connection.client.ended = true;
        sockets_.shut(connection.inner);
        if (connection.client.unsent.empty()) remove(connection);
    }

    // A request has come, or a part of one; `wait`: of one that may be answered here when it is whole.
    void begin(Connection &connection, bool wait) {
        const std::string_view data = connection.read;
        const size_t end = data.find("\r\n\r\n");
        const int64_t body = end == std::string_view::npos ? -1 : heads_.body(data.substr(0, end + 4));
        if (body >= 0) {
            const int64_t missing = static_cast<int64_t>(end) + 4 + body - data.size();
            if (missing > 0 && wait) return;
            Wanted wanted;
            wanted.from = &connection;
            wanted.read_ms = read_ms_;
            if (missing == 0 && !leaving_ &&
                plain_request(data.substr(end + 4), wanted.id, wanted.n) &&
                maker.users.find(wanted.id, wanted.known)) {
                wanted_.push_back(std::move(wanted));
                return;
            }
        }
        pass_on(connection);
    }

    void pass_on(Connection &connection) {
        if (connection.inner.fd < 0 && !open_inner(connection)) {
            remove(connection);
            return;
        }
        ++passed_on;
        connection.inner_ms = now();
        const int64_t length = request_length(connection.read);
        connection.rest_of_request = length - static_cast<int64_t>(connection.read.size());
        const bool simple = length > 0 && connection.rest_of_request >= 0;
        connection.stage = simple ? Stage::ASKED : Stage::TUNNEL;
        connection.rest_of_reply = -1;
        connection.reply_head.clear();
        send_on(connection.inner, connection.read);
        connection.read.clear();
    }

    // The interpreter is told of its end by a number that is written to a pipe.
    bool open_inner(Connection &connection) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) return false;
        const int32_t theirs = pair[1];
        if (write(place_.handing, &theirs, sizeof theirs) != sizeof theirs) {
            close(pair[0]);
            close(pair[1]);
            return false;
        }
        sockets_.add(connection, connection.inner, pair[0]);
        return true;
    }

    void from_inner(Connection &connection, std::string_view data) {
        if (data.empty()) {
            connection.inner.ended = true;
            sockets_.shut(connection.inner);
            if (connection.stage != Stage::IDLE || leaving_) finish(connection);
            return;
        }
        send_on(connection.client, data);
        if (connection.gone || connection.stage != Stage::ASKED) return;
        if (connection.rest_of_reply < 0) {
            connection.reply_head.append(data);
            const size_t end = connection.reply_head.find("\r\n\r\n");
            if (end == std::string::npos) {
                if (connection.reply_head.size() > AT_ONCE) connection.stage = Stage::TUNNEL;
                return;
            }
            const std::string_view head(connection.reply_head.data(), end + 4);
            const int64_t length = body_length_of_reply(head);
            if (length < 0) {
                connection.stage = Stage::TUNNEL;
                return;
            }
            connection.rest_of_reply =
                length - static_cast<int64_t>(connection.reply_head.size() - head.size());
        } else {
            connection.rest_of_reply -= data.size();
        }
        if (connection.rest_of_reply > 0) return;
        const bool over = connection.rest_of_reply == 0 && connection.rest_of_request == 0;
        connection.stage = over ? Stage::IDLE : Stage::TUNNEL;
        if (over && (leaving_ || connection.client.ended)) finish(connection);
    }

    void answer() {
        for (size_t start = 0; start < wanted_.size(); start += MOST_PASS) {
            const int64_t count = std::min<int64_t>(MOST_PASS, wanted_.size() - start);
            try {
                maker.answer(wanted_.data() + start, count);
            } catch (const std::bad_alloc &) {
                // Who has no answer yet is passed on.
            }
            for (size_t i = start; i < start + count; ++i) {
                Connection &connection = *static_cast<Connection *>(wanted_[i].from);
                if (connection.gone) continue;
                if (wanted_[i].answered) {
                    ++answered;
                    connection.read.clear();
                    send_reply(connection, wanted_[i]);
                } else {
                    pass_on(connection);
                }
                if (!connection.gone) settle(connection);
            }
        }
        wanted_.clear();
    }

    void send_reply(Connection &connection, const Wanted &wanted) {
        send_on(connection.client, replies_.reply(wanted.reply, wanted.spent, maker.blends()));
    }

    void send_on(End &end, std::string_view data) {
        if (end.fd < 0) return;
        if (end.unsent.empty()) {
            const ssize_t sent = send(end.fd, data.data(), data.size(), MSG_NOSIGNAL);
            if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
                broken(end);
                return;
            }
            data.remove_prefix(sent > 0 ? sent : 0);
        }
        end.unsent.append(data);
    }

    void flush(End &end) {
        const ssize_t sent = send(end.fd, end.unsent.data(), end.unsent.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) broken(end);
            return;
        }
        end.unsent.erase(0, sent);
        end.connection->moved_ms = now();
        Connection &connection = *end.connection;
        if (!end.unsent.empty()) return;
        if (&end == &connection.inner && connection.client.ended) shutdown(end.fd, SHUT_WR);
        if (&end == &connection.client && connection.inner.fd < 0 && connection.client.ended)
            remove(connection);
    }

    // Nobody takes what is sent there. What the interpreter has said is still for the client.
    void broken(End &end) {
        Connection &connection = *end.connection;
        if (&end == &connection.client) {
            remove(connection);
        } else {
            end.unsent.clear();
        }
    }

    void settle(Connection &connection) {
        if (connection.gone) return;
        sockets_.watch(connection.client, connection.inner);
        sockets_.watch(connection.inner, connection.client);
    }

    void sweep() {
        if (full_ && listener_ >= 0) {
            sockets_.listen_to(listener_, &listener_);
            full_ = false;
        }
        const int64_t at = now();
        for (Connection *connection : connections_) {
            if (connection->gone) continue;
            const int64_t still = at - connection->moved_ms;
            if (still >= UNREAD_MS && connection->inner.fd < 0 &&
                !connection->client.unsent.empty()) {
                remove(*connection);
                continue;
            }
            if (connection->stage != Stage::IDLE) continue;
            // Before uvicorn does, so that no request meets an end that is being closed.
            if (connection->inner.fd >= 0 && at - connection->inner_ms >= INNER_MS &&
                connection->inner.unsent.empty())
                sockets_.shut(connection->inner);
            if (!connection->read.empty() && still >= SOON_MS) {
                begin(*connection, false);
                settle(*connection);
            } else if (still >= place_.idle_ms && connection->client.unsent.empty()) {
                finish(*connection);
            }
        }
        answer();
    }

    static int64_t now() { return static_cast<int64_t>(monotonic_ms()); }

    Place place_;
    Sockets sockets_;
    int waking_ = -1, listener_;
    std::atomic<bool> leaving_{false}, left_{false}, stopping_{false};
    bool full_ = false;
    std::thread thread_;
    Heads heads_;
    std::unordered_set<Connection *> connections_;
    std::vector<Connection *> removed_;
    std::vector<Wanted> wanted_;
    double read_ms_ = 0;
    Replies replies_;
};

}  // namespace

extern "C" {

// Who was built for another layout must not call.
int64_t ouzel_front_bytes() {
    return 1000 * sizeof(ouzel::Lists) + 100 * sizeof(Place) + 10 * sizeof(ouzel::Search) +
           sizeof(ouzel::Spent) + ouzel::blend_layout();
}

// Serves from a thread of its own; null if there is none.
void *ouzel_front_start(const void *lists, const void *place) {
    try {
        auto front = std::make_unique<Front>(*static_cast<const ouzel::Lists *>(lists),
                                             *static_cast<const Place *>(place));
        return front->start() ? front.release() : nullptr;
    } catch (...) {
        return nullptr;
    }
}

void ouzel_front_leave(void *front) { static_cast<Front *>(front)->leave(); }

void ouzel_front_stop(void *front) { static_cast<Front *>(front)->stop(); }

void ouzel_front_free(void *front) { delete static_cast<Front *>(front); }

// Returns 0 if there was not enough memory.
int ouzel_front_let_in(void *front, const char *head, int64_t size, int64_t body) {
    try {
        static_cast<Front *>(front)->let_in(head, size, body);
        return 1;
    } catch (...) {
        return 0;
    }
}

// `history` is what the model knows of it, oldest first. Returns 0 if there was not enough memory; then
// the user is not known.
int ouzel_front_put(void *front, const char *id, int64_t length, int64_t user, int64_t slot,
                    const int32_t *seen, int64_t num_seen, const int32_t *history,
                    int64_t num_events) {
    try {
        auto rows = std::make_shared<const std::vector<int32_t>>(seen, seen + num_seen);
        ouzel::Known known{user, slot, std::move(rows), num_events, 0, {}};
        ListMaker &maker = static_cast<Front *>(front)->maker;
        maker.remember(known, history);
        maker.users.put(id, length, known);
        return 1;
    } catch (...) {
        static_cast<Front *>(front)->maker.users.drop(user);
        return 0;
    }
}

int ouzel_front_knows(void *front, int64_t user) {
    return static_cast<Front *>(front)->maker.users.knows(user);
}

void ouzel_front_drop(void *front, int64_t user) {
    static_cast<Front *>(front)->maker.users.drop(user);
}

// Counts: answered and passed on since the beginning, connections now; then those of Notes::take.
void ouzel_front_take(void *front, const void **spent, const char **shown, int64_t *bytes,
                      int64_t *counts) {
    auto *it = static_cast<Front *>(front);
    counts[0] = it->answered;
    counts[1] = it->passed_on;
    counts[2] = it->open;
    it->maker.notes.take(reinterpret_cast<const ouzel::Spent **>(spent), shown, bytes, counts + 3);
}

}  // extern "C"

#else

extern "C" long long ouzel_front_bytes() { return 0; }

#endif
