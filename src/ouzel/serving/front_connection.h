// A connection of the front door, with what is under way on it.

#pragma once

#include <cstdint>
#include <string>

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
    int64_t moved_ms = 0;
    bool gone = false;
};

}  // namespace ouzel
