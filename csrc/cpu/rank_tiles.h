// Rough products of queries and items, tile by tile, as the keys of rank.h; and the exact key of one pair.
//
// A tile is made while its rows are in the cache, and used while the tile is still in the cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "parallel.h"
#include "rank_kernels.h"

namespace dsa_fast::rank {

// The rows of both sides, with their scales and norms.
struct Pair {
  Side query, gallery;

  Pair(const Rows& q, const Rows& g, int64_t D, Metric metric);
};

// The product with one gallery, as keys: exact for a pair, rough for a tile.
class Scorer {
 public:
  Scorer(const Pair& sides, Metric metric, const bool* ignored);  // ignored [G], or null

  const Side& query() const { return query_; }
  const Side& gallery() const { return gallery_; }
  const float* factor() const { return factor_.data(); }
  const float* offset() const { return offset_.data(); }
  int64_t tile() const { return tile_; }
  int64_t tiles() const { return padded_ / tile_; }

  float key(int64_t q, int64_t j) const;

  // Error bound of a rough key of the query with an item of the tile (-1: of any item).
  double doubt(int64_t q, int64_t tile) const;

 private:
  const Side& query_;
  const Side& gallery_;
  Metric metric_;
  int64_t tile_, padded_;
  std::vector<float> factor_, offset_;  // [padded]
  std::vector<double> tile_norm_;       // [padded / tile]: the largest norm of an item
  double largest_norm_;
};

// Memory that begins with a cache line.
class Floats {
 public:
  explicit Floats(int64_t n);
  float* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const;
  };
  std::unique_ptr<float, Free> data_;
};

// Makes tiles of one block of queries after the other. Each thread has one.
class Tiler {
 public:
  Tiler(const Scorer& scorer, int64_t block);

  // The block's queries begin .. end - 1, at most as many as block.
  void load(int64_t begin, int64_t end);

  // Calls f(query, rough keys [tile], smallest, largest key of each chunk) for each of the block's queries.
  template <typename F>
  void run(int64_t tile, const F& f) {
    multiply(tile);
    for (int64_t q = begin_; q < end_; ++q) {
      finish(tile, q);
      f(q, row_.get(), extremes_.data(), extremes_.data() + kernel_.tile / kChunk);
    }
  }

 private:
  void multiply(int64_t tile);           // makes tile_
  void finish(int64_t tile, int64_t q);  // makes row_ and extremes_

  const Scorer& scorer_;
  const Kernels& kernel_;
  int64_t D_, rows_;
  Floats queries_;               // [D / depth, rows / kernel.rows], panels
  Floats items_;                 // [tile / kernel.columns], panels
  Floats tile_;                  // [rows, tile], of the product
  Floats row_;                   // [tile], rough keys
  std::vector<float> extremes_;  // [2, tile / kChunk]
  int64_t begin_ = -1, end_ = -1, used_ = 0, columns_ = 0;
};

// What parallel_for is told of a block of queries with some items: their rows are copied, about 16 products take as
// long.
inline int64_t tile_elements(int64_t block, int64_t items, int64_t D) { return items * D * (1 + block / 16); }

// Blocks of queries of about equal size, of whole panels where they are large.
int64_t even_block(int64_t Q, int64_t block);

// An item and its key. Items are ranked by key, ties by index.
struct Match {
  float key;
  int64_t item;
};

inline bool before(const Match& a, const Match& b) { return a.key < b.key || (a.key == b.key && a.item < b.item); }

}  // namespace dsa_fast::rank
