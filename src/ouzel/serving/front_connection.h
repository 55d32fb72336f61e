// A connection of the front door, with what is under way on it; its sockets; where its thread runs.

#pragma once

#include <sched.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <thread>

namespace ouzel {

// Where the thread lives: a socket that listens and does not block, a pipe for what the interpreter is
// to serve, the cores it may run on, for how long a connection may rest, and memory for known users.
struct Place {
    int64_t most_bytes;
    int64_t idle_ms;
    const int32_t *cores;
    int64_t num_cores;
    int32_t listener;
    int32_t handing;
};

struct Connection;

// One of the two sockets of a connection.
struct End {
    Connection *connection = nullptr;
    int fd = -1;
    uint32_t watched = 0;
    std::string unsent;  // what could not be written yet
    bool ended = false;  // nothing more comes from there
};

enum class Stage { IDLE, ASKED, TUNNEL };

struct Connection {
    Stage stage = Stage::IDLE;
    End client, inner;
    std::string read;            // of a request that is not whole
    int64_t rest_of_request = 0; // bytes that are still to come
    int64_t rest_of_reply = -1;  // -1: its head is not whole
    std::string reply_head;
    int64_t moved_ms = 0;        // when anything came or left, and when from or to the interpreter
    int64_t inner_ms = 0;
    bool gone = false;
};

constexpr size_t MOST_PENDING = 1 << 20;  // bytes that one side may be ahead of the other
constexpr uint64_t TURN_NS = 100000;

// The sockets of all connections, and what is to be heard of them.
class Sockets {
  public:
    ~Sockets() {
        if (poll >= 0) close(poll);
    }

    void listen_to(int fd, void *mark) {
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.ptr = mark;
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
    }

    void forget(int fd) { epoll_ctl(poll, EPOLL_CTL_DEL, fd, nullptr); }

    void add(Connection &connection, End &end, int fd) {
        end.connection = &connection;
        end.fd = fd;
        end.ended = false;
        end.watched = EPOLLIN;
        listen_to(fd, &end);
    }

    // Reads only from who has room before it, and waits to write only where something is left.
    void watch(End &end, const End &other) {
        if (end.fd < 0) return;
        const bool full = other.unsent.size() > MOST_PENDING;
        const bool busy = &end == &end.connection->client && end.connection->stage == Stage::IDLE &&
                          !end.unsent.empty();
        uint32_t wanted = end.ended || full || busy ? 0u : static_cast<uint32_t>(EPOLLIN);
        if (!end.unsent.empty()) wanted |= EPOLLOUT;
        if (wanted == end.watched) return;
        epoll_event event{};
        event.events = wanted;
        event.data.ptr = &end;
        epoll_ctl(poll, EPOLL_CTL_MOD, end.fd, &event);
        end.watched = wanted;
    }

    // A process that was forked may hold the socket too: closed alone it would still report events.
    void shut(End &end) {
        if (end.fd >= 0) {
            forget(end.fd);
            close(end.fd);
        }
        end.fd = -1;
        end.unsent.clear();
    }

    const int poll = epoll_create1(EPOLL_CLOEXEC);
};

inline void stay_on_cores(std::thread &thread, const Place &place) {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    for (int64_t i = 0; i < place.num_cores; ++i) CPU_SET(place.cores[i], &allowed);
    if (place.num_cores) pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
}

// Whoever asks for short turns is let in sooner (Linux 6.12); elsewhere nothing changes.
inline void take_short_turns() {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes{};
    attributes.size = sizeof attributes;
    attributes.runtime = TURN_NS;
    syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace ouzel
