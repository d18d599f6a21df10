// Ranks of the right matches, and nearest neighbors, without a distance matrix.
//
// The result:
//   - The key of a query q and an item g orders the items by distance. It is computed in float64 and rounded to
//     float32, where q and g are first scaled by powers of two (exactly):
//       cosine:    -(q . g) / |g|, and 0 for g = 0
//       euclidean: |g|^2 - 2 q . g
//   - Items with equal keys are ordered by their index, lowest first.
//   - Ranks and neighbors follow this order exactly. A fast product, about as accurate as float32, ranks the items that
//     are certain within its error bound. For the others, the exact key is computed. The result does not depend on the
//     number of threads, the block size or the processor's instruction set.
//   - All features must be finite.
//
// Memory: at most 4 * (kMaxBlock + 512) * (D + 512) bytes for each thread, and 24 bytes for each row.
#pragma once

#include <cstdint>

namespace dsa_fast {

enum class Metric : int32_t { kCosine, kEuclidean };

struct Rows {
  const void* data;  // [n, D], contiguous; float64 where wide, otherwise float32
  bool wide;
  int64_t n;
};

// The right matches of each query, and the items left out of its ranking alone. Items of query q are
// items[offsets[q]] .. items[offsets[q + 1] - 1]. No item appears twice for a query.
struct Lists {
  const int64_t* offsets;  // [Q + 1], ascending from 0
  const int64_t* items;    // [offsets[Q]], each in 0..G-1
};

constexpr int64_t kMaxBlock = 2048;  // queries handled together

struct RankArgs {
  Rows query, gallery;  // [Q, D], [G, D]
  int64_t D;            // >= 1
  Metric metric;
  const bool* ignored;  // [G]: left out of all rankings; never in a list
  Lists matches, left_out;
  int64_t* ranks;  // [matches.offsets[Q]]: each query's ranks, from 1, ascending
  int64_t block;   // queries handled together, in 1..kMaxBlock; changes no result
};

void rank_matches_cpu(const RankArgs& args);

// The same from given distances, which are compared as they are. NaN is not allowed.
struct RankRowsArgs {
  const float* distances;  // [Q, G], contiguous
  int64_t Q, G;
  const bool* ignored;  // [G]
  Lists matches, left_out;
  int64_t* ranks;  // as in RankArgs
};

void rank_rows_cpu(const RankRowsArgs& args);

// The k nearest items of each query in the order of the keys, and one of the farthest: the one with the largest fast
// product, the lower index of equal ones.
struct NearestArgs {
  Rows query, gallery;
  int64_t D;
  Metric metric;
  int64_t k;         // 1..G
  int64_t* indices;  // [Q, k + 1], the last column the farthest
  int64_t block;     // as in RankArgs
};

void nearest_cpu(const NearestArgs& args);

// Distances of pairs of rows in float64: 1 - cos (1 where one of them is 0), or the squared Euclidean distance.
struct PairArgs {
  Rows query, gallery;
  int64_t D;
  Metric metric;
  const int64_t* query_index;    // [n]
  const int64_t* gallery_index;  // [n]
  int64_t n;
  double* distances;  // [n]
};

void pair_distances_cpu(const PairArgs& args);

}  // namespace dsa_fast
