// Stochastic gradient descent over factor tables, one event after the other.
//
// Each step depends on the one before, so there is nothing to do at once but the entries of a
// vector; what a step costs is to fetch two or three vectors.
//
// Legend: E events, D dimensions, U users, N rows.

#include <cmath>
#include <cstdint>

namespace {

constexpr int64_t LANES = 16;

// Tables `users` (U, D) and `items` (N, D), and how far a step goes.
struct Tables {
    float *users;
    float *items;
    int64_t dim;
    float rate;
    float l2;
};

// The sum of a_d b_d, in an order that a compiler can do sixteen of at once.
inline float inner(const float *a, const float *b, int64_t dim) {
    float parts[LANES] = {};
    int64_t d = 0;
    for (; d + LANES <= dim; d += LANES)
        for (int64_t lane = 0; lane < LANES; ++lane) parts[lane] += a[d + lane] * b[d + lane];
    float sum = 0;
    for (; d < dim; ++d) sum += a[d] * b[d];
    for (int64_t lane = 0; lane < LANES; ++lane) sum += parts[lane];
    return sum;
}

}  // namespace

extern "C" {

// Who was built for another layout must not call.
int64_t ouzel_steps_bytes() { return sizeof(Tables); }

// Down the gradient of (target - user . item)^2 / 2 for each event; `scores` (E) are the inner
// products before it.
void ouzel_steps_squared(const Tables *tables, int64_t count, const int64_t *users,
                         const int64_t *rows, const float *targets, float *scores) {
    const int64_t dim = tables->dim;
    const float rate = tables->rate, keep = 1 - rate * tables->l2;
    for (int64_t e = 0; e < count; ++e) {
        float *user = tables->users + users[e] * dim, *item = tables->items + rows[e] * dim;
        scores[e] = inner(user, item, dim);
        const float step = rate * (targets[e] - scores[e]);
        for (int64_t d = 0; d < dim; ++d) {
            const float before = user[d];
            user[d] = keep * before + step * item[d];
            item[d] = keep * item[d] + step * before;
        }
    }
}

// Down the gradient of -log sigmoid(user . item - user . other) for each event; `scores` and
// `others_scores` (E) are the inner products before it. An event's two rows differ.
void ouzel_steps_ranked(const Tables *tables, int64_t count, const int64_t *users,
                        const int64_t *rows, const int64_t *others, float *scores,
                        float *other_scores) {
    const int64_t dim = tables->dim;
    const float rate = tables->rate, keep = 1 - rate * tables->l2;
    for (int64_t e = 0; e < count; ++e) {
        float *user = tables->users + users[e] * dim, *item = tables->items + rows[e] * dim;
        float *other = tables->items + others[e] * dim;
        scores[e] = inner(user, item, dim);
        other_scores[e] = inner(user, other, dim);
        const float step = rate / (1 + std::exp(scores[e] - other_scores[e]));
        for (int64_t d = 0; d < dim; ++d) {
            const float before = user[d];
            user[d] = keep * before + step * (item[d] - other[d]);
            item[d] = keep * item[d] + step * before;
            other[d] = keep * other[d] - step * before;
        }
    }
}

}  // extern "C"
