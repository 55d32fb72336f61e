// What the kernel of scan.cpp is given, for whoever calls it in compiled code.
//
// Legend: N rows (row 0 is padding), D dimensions, G = D / 4 rounded up, B queries, K results, C lists.

#pragma once

#include <cstdint>

namespace ouzel {

// What a search is given: codes (blocks, G, 16, 4) uint8, the number of blocks a multiple of 4, and
// what a step of them is worth (D) float32; vectors (N, D) and queries (B, D) float32. The rows banned for
// query b are those from banned_from[b] to banned_from[b + 1], sorted; so are those where
// hidden[b] (N), unless it is null, is not 0. It writes rows and scores
// (B, K), best first, ties by lower row; where fewer are found the rest stays as it is.
// Where codes lie in lists, place_rows (blocks x 16) has the row at each place, 0 for none, and
// query b looks at the ranges from ranges_from[b] to ranges_from[b + 1] alone: the first block of
// each and the one behind its last. Who is given none, nobody if ranges_from is
// null, reads the `probes` lists in which most is to be expected: by their centres (C, D), how far
// they reach beyond these (C), and the blocks at which they start (C + 1). Without lists all of that
// is null.
struct Search {
    const uint8_t *codes;
    int64_t num_blocks;
    const float *vectors;
    int64_t num_rows;
    int64_t dim;
    const float *scale;
    const float *queries;
    int64_t num_queries;
    const int32_t *banned;
    const int64_t *banned_from;
    const uint8_t *const *hidden;
    int64_t width;
    int64_t k;
    int32_t *rows;
    float *scores;
    const int32_t *place_rows;
    const int64_t *ranges;
    const int64_t *ranges_from;
    const float *centres;
    const float *reaches;
    const int64_t *starts;
    int64_t num_lists;
    int64_t probes;
};

}  // namespace ouzel
