// Search of int8 item codes: every inner product of a few queries, then the best of them exactly.
//
// One reading of the codes serves eight queries. Codes lie in blocks of 16 items, four dimensions
// of an item beside each other, which is what vpdpbusd (AVX-512 VNNI) multiplies: 64 products of
// unsigned with signed bytes, summed in 16 lanes of 32 bits; no lane overflows below 66,000
// dimensions. Sums are integers, so which rows are found depends on nothing but their codes.
//
// Legend: N rows (row 0 is padding), D dimensions, G = D / 4 rounded up, B queries, K results,
// W rows that are scored exactly.

#if defined(__x86_64__) && defined(__GNUC__)

#include "search.h"

#include <immintrin.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <limits>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#define OUZEL_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
// Without it the sums of a block live in memory and not in registers: three times slower.
#define OUZEL_UNROLL _Pragma("GCC unroll 16")

namespace {

using ouzel::Search;

constexpr int LANES = 16;
constexpr float LARGEST = 127;
constexpr int GROUP_BYTES = 64;   // 16 items, four dimensions each
// Where a smaller share is hidden, a query reads as many lists as if nothing were.
constexpr double FEW_HIDDEN = 0.01;
// Less than this times as much to be seen in the nearest lists as in all is not by chance.
constexpr double FEW_NEAR = 0.25;
constexpr int AHEAD_BYTES = 2048; // what is read next: pages end the processor's own foresight

struct Found {
    int32_t sum;
    int32_t row;
};

bool better(const Found &a, const Found &b) {
    return a.sum != b.sum ? a.sum > b.sum : a.row < b.row;
}

// The best W rows of one query. `banned` is sorted; `place_rows` tells the row at each place of the
// codes, and null that they are the same.
class Best {
  public:
    Best(int64_t width, int64_t num_rows, const int32_t *banned, const int32_t *banned_end,
         const uint8_t *hidden, const int32_t *place_rows)
        : width_(width), num_rows_(num_rows), banned_(banned), banned_end_(banned_end),
          hidden_(hidden), place_rows_(place_rows) {
        found_.reserve(4 * width + 4 * LANES);
    }

    // Only a sum above it can matter.
    int32_t mark() const { return mark_; }

    void offer(const int32_t *sums, uint32_t lanes, int64_t first_place) {
        for (; lanes; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            const int64_t place = first_place + lane;
            const int64_t row = place_rows_ ? place_rows_[place] : place;
            if (row > 0 && row < num_rows_ && !(hidden_ && hidden_[row]) && !is_banned(row))
                found_.push_back({sums[lane], static_cast<int32_t>(row)});
        }
        if (static_cast<int64_t>(found_.size()) >= 4 * width_) shrink();
    }

    const std::vector<Found> &finish() {
        shrink();
        return found_;
    }

  private:
    bool is_banned(int64_t row) {
        if (place_rows_) return std::binary_search(banned_, banned_end_, row);
        // Rows rise with their places: what is behind stays behind.
        while (banned_ != banned_end_ && *banned_ < row) ++banned_;
        return banned_ != banned_end_ && *banned_ == row;
    }

    void shrink() {
        if (static_cast<int64_t>(found_.size()) <= width_) return;
        std::nth_element(found_.begin(), found_.begin() + (width_ - 1), found_.end(), better);
        found_.resize(width_);
        // Who comes later with an equal sum loses: without lists that is the higher row.
        mark_ = found_.back().sum;
    }

    int64_t width_, num_rows_;
    const int32_t *banned_, *banned_end_;
    const uint8_t *hidden_;
    const int32_t *place_rows_;
    int32_t mark_ = std::numeric_limits<int32_t>::min();
    std::vector<Found> found_;
};

// Q queries against S neighbouring blocks at a time: enough sums under way to hide latencies.
template <int Q, int S>
OUZEL_VNNI void scan(const uint8_t *codes, int64_t first_block, int64_t end_block, int64_t groups,
                     const int32_t *queries, Best *best) {
    std::vector<int32_t> packed(Q > 1 ? groups * Q : 0);  // side by side, what is read together
    if (Q > 1)
        for (int64_t g = 0; g < groups; ++g)
            for (int q = 0; q < Q; ++q) packed[g * Q + q] = queries[q * groups + g];
    const int32_t *read = Q > 1 ? packed.data() : queries;
    int32_t marks[Q];
    for (int q = 0; q < Q; ++q) marks[q] = best[q].mark();
    const int64_t block_bytes = groups * GROUP_BYTES;
    alignas(64) int32_t sums[LANES];
    for (int64_t block = first_block; block < end_block; block += S) {
        __m512i acc[Q][S];
        OUZEL_UNROLL for (int q = 0; q < Q; ++q)
            OUZEL_UNROLL for (int s = 0; s < S; ++s) acc[q][s] = _mm512_setzero_si512();
        const uint8_t *block_at = codes + block * block_bytes;
        for (int64_t g = 0; g < groups; ++g) {
            __m512i code[S];
            OUZEL_UNROLL for (int s = 0; s < S; ++s) {
                const uint8_t *at = block_at + s * block_bytes + g * GROUP_BYTES;
                _mm_prefetch(at + AHEAD_BYTES, _MM_HINT_T0);
                code[s] = _mm512_loadu_si512(at);
            }
            const int32_t *query = read + g * Q;
            OUZEL_UNROLL for (int q = 0; q < Q; ++q)
                OUZEL_UNROLL for (int s = 0; s < S; ++s)
                    acc[q][s] =
                        _mm512_dpbusd_epi32(acc[q][s], code[s], _mm512_set1_epi32(query[q]));
        }
        OUZEL_UNROLL for (int q = 0; q < Q; ++q)
            OUZEL_UNROLL for (int s = 0; s < S; ++s) {
                const __m512i mark = _mm512_set1_epi32(marks[q]);
                const __mmask16 lanes = _mm512_cmpgt_epi32_mask(acc[q][s], mark);
                if (__builtin_expect(lanes != 0, 0)) {
                    _mm512_store_si512(sums, acc[q][s]);
                    best[q].offer(sums, lanes, (block + s) * LANES);
                    marks[q] = best[q].mark();
                }
            }
    }
}

// One query against the blocks of a list, of which there may be any number.
void scan_list(const Search &search, int64_t first_block, int64_t end_block, int64_t groups,
               const int32_t *query, Best *best) {
    const int64_t whole = first_block + (end_block - first_block) / 4 * 4;
    scan<1, 4>(search.codes, first_block, whole, groups, query, best);
    if (whole < end_block) scan<1, 1>(search.codes, whole, end_block, groups, query, best);
}

// In a fixed order of additions, in 16 sums that fill one register.
float inner(const float *a, const float *b, int64_t dim) {
    float sums[LANES] = {0};
    for (int64_t d = 0; d + LANES <= dim; d += LANES)
        for (int i = 0; i < LANES; ++i) sums[i] += a[d + i] * b[d + i];
    for (int64_t d = dim - dim % LANES; d < dim; ++d) sums[d % LANES] += a[d] * b[d];
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
    return sums[0];
}

OUZEL_VNNI float wide_inner(const float *a, const float *b, int64_t dim) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t d = 0; d < dim; d += LANES) {
        const __mmask16 lanes = dim - d >= LANES ? 0xffff : (1u << (dim - d)) - 1;
        sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, a + d),
                              _mm512_maskz_loadu_ps(lanes, b + d), sum);
    }
    return _mm512_reduce_add_ps(sum);
}

float largest_of(const std::vector<float> &values) {
    float largest = 0;
    for (const float value : values) largest = std::max(largest, std::abs(value));
    return std::max(largest, std::numeric_limits<float>::min());
}

// The code of a query times scale, of which the largest entry is made 127.
void encode_query(const float *query, const float *scale, int64_t dim, std::vector<float> &scaled,
                  int8_t *codes) {
    scaled.assign(query, query + dim);
    const float length = largest_of(scaled);
    for (int64_t d = 0; d < dim; ++d) scaled[d] = scaled[d] / length * scale[d];
    const float longest = largest_of(scaled);
    for (int64_t d = 0; d < dim; ++d)
        codes[d] = static_cast<int8_t>(std::nearbyint(scaled[d] / longest * LARGEST));
}

using Scored = std::vector<std::pair<float, int32_t>>;

// How many rows of lists may be seen.
int64_t shown(const Search &search, const uint8_t *hidden, const Scored &lists, int64_t from,
              int64_t to) {
    int64_t count = 0;
    for (int64_t i = from; i < to; ++i) {
        const int32_t list = lists[i].second;
        const int64_t end = search.starts[list + 1] * LANES;
        for (int64_t place = search.starts[list] * LANES; place < end; ++place) {
            const int32_t row = search.place_rows[place];
            count += row > 0 && !hidden[row];
        }
    }
    return count;
}

// How many lists to read where a mask hides rows, with as many of the best in front: more where they
// hold too little that may be seen, and all where that is hidden which is near, for what is left may
// lie anywhere.
int64_t masked_probes(const Search &search, const uint8_t *hidden, int64_t probes, Scored &lists) {
    const int64_t rows = search.num_rows - 1;
    const int64_t masked = std::count_if(hidden + 1, hidden + search.num_rows,
                                         [](uint8_t one) { return one != 0; });
    if (masked < FEW_HIDDEN * rows) return probes;
    const double wanted = static_cast<double>(probes) * rows / search.num_lists;
    int64_t seen = shown(search, hidden, lists, 0, probes);
    if (seen < FEW_NEAR * wanted * (1.0 - static_cast<double>(masked) / rows))
        return search.num_lists;
    while (seen < wanted && probes < search.num_lists) {
        const int64_t counted = probes;
        probes = std::min(2 * probes, search.num_lists);
        std::nth_element(lists.begin() + counted, lists.begin() + probes - 1, lists.end());
        seen += shown(search, hidden, lists, counted, probes);
    }
    return probes;
}

// The lists that a query reads, the best first: what follows has less to beat.
void nearest_lists(const Search &search, const float *query, const uint8_t *hidden,
                   Scored &lists) {
    const float length = std::sqrt(wide_inner(query, query, search.dim));
    lists.resize(search.num_lists);
    for (int64_t list = 0; list < search.num_lists; ++list) {
        const float near = wide_inner(search.centres + list * search.dim, query, search.dim);
        lists[list] = {-(near + length * search.reaches[list]), static_cast<int32_t>(list)};
    }
    int64_t probes = std::clamp<int64_t>(search.probes, 1, search.num_lists);
    std::nth_element(lists.begin(), lists.begin() + probes - 1, lists.end());
    if (hidden) probes = masked_probes(search, hidden, probes, lists);
    std::sort(lists.begin(), lists.begin() + probes);
    lists.resize(probes);
}

void run(const Search &search) {
    const int64_t groups = (search.dim + 3) / 4;
    std::vector<Best> best;
    best.reserve(search.num_queries);
    for (int64_t b = 0; b < search.num_queries; ++b)
        best.emplace_back(search.width, search.num_rows, search.banned + search.banned_from[b],
                          search.banned + search.banned_from[b + 1], search.hidden[b],
                          search.place_rows);
    std::vector<int32_t> codes(search.num_queries * groups);
    std::vector<float> scaled;
    int64_t b = 0;
    for (; b < search.num_queries; ++b)
        encode_query(search.queries + b * search.dim, search.scale, search.dim, scaled,
                     reinterpret_cast<int8_t *>(codes.data() + b * groups));
    b = 0;
    const auto queries = [&](int64_t from) { return codes.data() + from * groups; };
    // Each query has lists of its own, so they share no reading.
    Scored lists;
    for (; search.place_rows && b < search.num_queries; ++b) {
        const int64_t first = search.ranges_from ? search.ranges_from[b] : 0;
        const int64_t last = search.ranges_from ? search.ranges_from[b + 1] : 0;
        for (int64_t i = first; i < last; ++i)
            scan_list(search, search.ranges[2 * i], search.ranges[2 * i + 1], groups, queries(b),
                      &best[b]);
        if (first < last) continue;
        nearest_lists(search, search.queries + b * search.dim, search.hidden[b], lists);
        for (const auto &[near, list] : lists)
            scan_list(search, search.starts[list], search.starts[list + 1], groups, queries(b),
                      &best[b]);
    }
    for (; b + 8 <= search.num_queries; b += 8)
        scan<8, 2>(search.codes, 0, search.num_blocks, groups, queries(b), &best[b]);
    for (; b + 4 <= search.num_queries; b += 4)
        scan<4, 4>(search.codes, 0, search.num_blocks, groups, queries(b), &best[b]);
    for (; b + 2 <= search.num_queries; b += 2)
        scan<2, 4>(search.codes, 0, search.num_blocks, groups, queries(b), &best[b]);
    for (; b < search.num_queries; ++b)
        scan<1, 4>(search.codes, 0, search.num_blocks, groups, queries(b), &best[b]);
    std::vector<std::pair<float, int32_t>> exact;
    for (b = 0; b < search.num_queries; ++b) {
        exact.clear();
        const float *query = search.queries + b * search.dim;
        const std::vector<Found> &candidates = best[b].finish();
        // They lie anywhere: asked for all at once, memory answers many times sooner.
        for (const Found &found : candidates)
            for (int64_t d = 0; d < search.dim; d += LANES)
                __builtin_prefetch(search.vectors + found.row * search.dim + d);
        for (const Found &found : candidates) {
            const float *vector = search.vectors + found.row * search.dim;
            exact.emplace_back(-inner(vector, query, search.dim), found.row);
        }
        const int64_t kept = std::min<int64_t>(search.k, exact.size());
        std::partial_sort(exact.begin(), exact.begin() + kept, exact.end());
        for (int64_t i = 0; i < kept; ++i) {
            search.rows[b * search.k + i] = exact[i].second;
            search.scores[b * search.k + i] = -exact[i].first;
        }
    }
}

// No exception may leave for a caller in another language.
bool runs(const Search &search) noexcept {
    try {
        run(search);
        return true;
    } catch (...) {
        return false;
    }
}

// Something to do beside the interpreter, a search for one: gives 0 if there was not enough memory.
struct Task {
    int (*function)(const void *);
    const void *arguments;
};

// A thread that does tasks in their order, and writes a byte to `done` after each: 0, or 1 if it
// failed.
class Worker {
  public:
    explicit Worker(int done) : done_(done), thread_([this] { work(); }) {}

    ~Worker() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            stopping_ = true;
        }
        changed_.notify_one();
        thread_.join();
    }

    void stay_on(const int32_t *cores, int64_t num_cores) {
#ifdef __linux__
        cpu_set_t allowed;
        CPU_ZERO(&allowed);
        for (int64_t i = 0; i < num_cores; ++i) CPU_SET(cores[i], &allowed);
        pthread_setaffinity_np(thread_.native_handle(), sizeof allowed, &allowed);
#endif
    }

    void submit(const Task &task) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            waiting_.push_back(task);
        }
        changed_.notify_one();
    }

  private:
    void work() {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
            if (waiting_.empty()) return;
            const Task task = waiting_.front();
            waiting_.pop_front();
            lock.unlock();
            const char failed = task.function(task.arguments) ? 0 : 1;
            while (write(done_, &failed, 1) < 0 && errno == EINTR) {
            }
        }
    }

    int done_;
    bool stopping_ = false;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<Task> waiting_;
    std::thread thread_;
};

}  // namespace

extern "C" {

int ouzel_scan_works() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

// Who was built for another layout of a search must not call.
int64_t ouzel_scan_bytes() { return 5 * sizeof(Search); }

// Returns 0 if there was not enough memory.
int ouzel_scan(const void *search) { return runs(*static_cast<const Search *>(search)); }

// Returns null if the system gives no thread.
void *ouzel_worker_start(int done, const int32_t *cores, int64_t num_cores) {
    try {
        auto *worker = new Worker(done);
        if (num_cores) worker->stay_on(cores, num_cores);
        return worker;
    } catch (...) {
        return nullptr;
    }
}

// What the arguments point to must stay until the byte has come. Returns 0 if it was not taken.
int ouzel_worker_submit(void *worker, int (*function)(const void *), const void *arguments) {
    try {
        static_cast<Worker *>(worker)->submit({function, arguments});
        return 1;
    } catch (...) {
        return 0;
    }
}

// Returns after the tasks submitted before.
void ouzel_worker_stop(void *worker) { delete static_cast<Worker *>(worker); }

}  // extern "C"

#else

extern "C" int ouzel_scan_works() { return 0; }

#endif
