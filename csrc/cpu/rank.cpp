// Ranks and nearest neighbours on the CPU; ../rank.h says what the results mean.
//
// A tile of the product of a block of queries and some items is made at a time, roughly (rank_product.h), and is looked
// at while it is in the cache.
#include "../rank.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "parallel.h"
#include "rank_amx.h"
#include "rank_product.h"

namespace dsa_fast {
namespace {

constexpr int64_t kRange = 4096;  // items of a unit of work: a multiple of every kernel's tile

const Kernels& choose_kernels() {
#ifdef DSA_FAST_AMX
  if (has_amx()) return kernels_amx();
#endif
#ifdef DSA_FAST_X86
  if (capability() == Capability::kAvx512) return kernels_avx512();
  if (capability() == Capability::kAvx2) return kernels_avx2();
#endif
  return kernels_plain();
}

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

double dot(const Side& a, int64_t i, const Side& b, int64_t j) {
  const Kernels& kernel = kernels();
  const double s = a.scale[static_cast<size_t>(i)], t = b.scale[static_cast<size_t>(j)];
  if (a.rows.wide) {
    return b.rows.wide ? kernel.dot_dd(a.wide_row(i), s, b.wide_row(j), t, a.D)
                       : kernel.dot_df(a.wide_row(i), s, b.narrow_row(j), t, a.D);
  }
  return b.rows.wide ? kernel.dot_fd(a.narrow_row(i), s, b.wide_row(j), t, a.D)
                     : kernel.dot_ff(a.narrow_row(i), s, b.narrow_row(j), t, a.D);
}

double largest_of(const Side& side, int64_t i) {
  double largest = 0;
  if (side.rows.wide) {
    for (int64_t k = 0; k < side.D; ++k) largest = std::max(largest, std::fabs(side.wide_row(i)[k]));
    return largest;
  }
  // Without their signs, floats are ordered as their bits are.
  int32_t bits = 0;
  for (int64_t k = 0; k < side.D; ++k) {
    int32_t value;
    std::memcpy(&value, side.narrow_row(i) + k, sizeof(value));
    value &= 0x7fffffff;
    bits = value > bits ? value : bits;
  }
  float narrow;
  std::memcpy(&narrow, &bits, sizeof(narrow));
  return static_cast<double>(narrow);
}

double power_below(double largest) {  // brings it into [0.5, 1), or what is subnormal near to it
  if (largest <= 0) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::min(-exponent, 1023));
}

struct Pair {
  Side query, gallery;

  Pair(const Rows& q, const Rows& g, int64_t D, Metric metric) : query(open(q, D)), gallery(open(g, D)) {
    const std::array<Side*, 2> sides{&query, &gallery};
    double common = 0;
    if (metric == Metric::kEuclidean) {
      std::vector<double> largest(static_cast<size_t>(std::max(q.n, g.n)));
      for (Side* side : sides) {
        each(*side, [&](int64_t i) { largest[static_cast<size_t>(i)] = largest_of(*side, i); });
        for (int64_t i = 0; i < side->rows.n; ++i) common = std::max(common, largest[static_cast<size_t>(i)]);
      }
    }
    for (Side* side : sides) {
      each(*side, [&](int64_t i) {  // a row is read twice while it is in the cache
        const double largest = metric == Metric::kCosine ? largest_of(*side, i) : common;
        side->scale[static_cast<size_t>(i)] = power_below(largest);
        side->squares[static_cast<size_t>(i)] = dot(*side, i, *side, i);
      });
    }
  }

 private:
  static Side open(const Rows& rows, int64_t D) {
    const auto n = static_cast<size_t>(rows.n);
    return {rows, D, std::vector<double>(n), std::vector<double>(n)};
  }

  template <typename F>
  static void each(const Side& side, const F& f) {
    parallel_for(side.rows.n, side.D, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) f(i);
    });
  }
};

double norm_or_one(double squares) { return squares > 0 ? std::sqrt(squares) : 1.0; }

// ---- the product, tile by tile --------------------------------------------------------------------------------------

// The product with one gallery, as keys: exactly for a pair, and roughly for a tile.
class Scorer {
 public:
  Scorer(const Side& query, const Side& gallery, Metric metric, const bool* ignored)
      : query_(query),
        gallery_(gallery),
        metric_(metric),
        tile_(kernels().tile),
        padded_((gallery.rows.n + tile_ - 1) / tile_ * tile_),
        factor_(static_cast<size_t>(padded_), 0.0f),
        offset_(static_cast<size_t>(padded_), kInfinity),  // what is padded or ignored is farther than everything
        tile_norm_(static_cast<size_t>(padded_ / tile_), 0.0) {
    for (int64_t j = 0; j < gallery.rows.n; ++j) {
      if (ignored != nullptr && ignored[j]) continue;
      const auto at = static_cast<size_t>(j);
      const double norm = norm_or_one(gallery.squares[at]);
      factor_[at] = metric == Metric::kCosine ? static_cast<float>(-1 / norm) : -2.0f;
      offset_[at] = metric == Metric::kCosine ? 0.0f : static_cast<float>(gallery.squares[at]);
      double& largest = tile_norm_[static_cast<size_t>(j / tile_)];
      largest = std::max(largest, std::sqrt(gallery.squares[at]));
    }
    largest_norm_ = tile_norm_.empty() ? 0 : *std::max_element(tile_norm_.begin(), tile_norm_.end());
  }

  const Side& query() const { return query_; }
  const Side& gallery() const { return gallery_; }
  const float* factor() const { return factor_.data(); }
  const float* offset() const { return offset_.data(); }
  int64_t tile() const { return tile_; }
  int64_t padded() const { return padded_; }

  float key(int64_t q, int64_t j) const {
    const double product = dot(query_, q, gallery_, j), squares = gallery_.squares[static_cast<size_t>(j)];
    // + 0.0f: no minus zero.
    return static_cast<float>(metric_ == Metric::kCosine ? -(product / norm_or_one(squares)) : squares - 2 * product) +
           0.0f;
  }

  // How far a rough key of the query with an item of the tile (or any item, -1) may be from the exact one. Beside the
  // product's roundings there are a dozen others: of the features to float32, the factor, the key, the comparison.
  double doubt(int64_t q, int64_t tile) const {
    const double depth = kernels().roundings(query_.D) + 16;
    const double norm = std::sqrt(query_.squares[static_cast<size_t>(q)]);
    const double item = tile < 0 ? largest_norm_ : tile_norm_[static_cast<size_t>(tile)];
    const double size = metric_ == Metric::kCosine ? depth * norm : 2 * depth * norm * item + 16 * item * item;
    return size * 6.3e-8 /* above 2^-24 */ + static_cast<double>(query_.D) * 1e-36 /* what underflows */;
  }

 private:
  const Side& query_;
  const Side& gallery_;
  Metric metric_;
  int64_t tile_, padded_;
  std::vector<float> factor_, offset_;  // [padded]
  std::vector<double> tile_norm_;       // [padded / tile]: the largest norm of an item
  double largest_norm_;
};

struct Free {
  void operator()(float* p) const { std::free(p); }
};

class Floats {
 public:
  explicit Floats(int64_t n) {
    const size_t bytes = (static_cast<size_t>(n) * sizeof(float) + 63) / 64 * 64;
    data_.reset(static_cast<float*>(std::aligned_alloc(64, std::max<size_t>(bytes, 64))));
    if (data_ == nullptr) throw std::bad_alloc();
  }
  float* get() const { return data_.get(); }

 private:
  std::unique_ptr<float, Free> data_;
};
// Makes tiles of one block of queries after the other; one for each thread.
class Tiler {
 public:
  Tiler(const Scorer& scorer, int64_t block)
      : scorer_(scorer),
        kernel_(kernels()),
        D_(scorer.query().D),
        rows_(whole(block, kernel_.rows)),
        queries_(rows_ * whole(D_, kernel_.step)),
        items_(kernel_.tile * whole(std::min(kernel_.depth, D_), kernel_.step)),
        tile_(rows_ * kernel_.tile),
        row_(kernel_.tile),
        extremes_(static_cast<size_t>(2 * kernel_.tile / kChunk)) {}

  // The block's queries begin .. end - 1, at most as many as block.
  void load(int64_t begin, int64_t end) {
    if (begin == begin_ && end == end_) return;
    begin_ = begin;
    end_ = end;
    used_ = whole(end - begin, kernel_.rows);
    for (int64_t k = 0; k < D_; k += kernel_.depth) {
      kernel_.pack_queries(scorer_.query(), begin, end - begin, k, std::min(kernel_.depth, D_ - k),
                           queries_.get() + k * used_);
    }
  }

  // Calls f(query, rough keys [tile], smallest, largest key of each chunk) for each of the block's queries.
  template <typename F>
  void run(int64_t tile, const F& f) {
    const int64_t width = kernel_.tile, first = tile * width, count = std::min(width, scorer_.gallery().rows.n - first);
    const int64_t columns = whole(count, kernel_.columns);
    for (int64_t k = 0; k < D_; k += kernel_.depth) {
      const int64_t depth = std::min(kernel_.depth, D_ - k);
      kernel_.pack_items(scorer_.gallery(), first, count, k, depth, items_.get());
      kernel_.product(whole(depth, kernel_.step), queries_.get() + k * used_, used_, items_.get(), columns, tile_.get(),
                      width, k > 0);
    }
    float *smallest = extremes_.data(), *largest = smallest + width / kChunk;
    for (int64_t q = begin_; q < end_; ++q) {
      float* rough = tile_.get() + (q - begin_) * width;
      std::fill(rough + columns, rough + width, 0.0f);
      kernel_.finish(rough, width, scorer_.factor() + first, scorer_.offset() + first, row_.get(), smallest, largest);
      f(q, row_.get(), smallest, largest);
    }
  }

 private:
  static int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

  const Scorer& scorer_;
  const Kernels& kernel_;
  int64_t D_, rows_;
  Floats queries_;  // [D / depth, rows / kernel.rows], panels
  Floats items_;    // [tile / kernel.columns], panels
  Floats tile_;     // [rows, tile], of the product
  Floats row_;      // [tile], rough keys
  std::vector<float> extremes_;
  int64_t begin_ = -1, end_ = -1, used_ = 0;
};

// Calls f(unit, worker) for each unit once; workers take the next unit when they are free. Nothing may depend on which
// worker takes which.
template <typename F>
void parallel_units(int64_t units, int64_t unit_elements, const F& make_worker) {
  std::atomic<int64_t> next{0};
  parallel_for(std::min(units, num_threads()), unit_elements, [&](int64_t begin, int64_t) {
    (void)begin;
    auto worker = make_worker();
    for (int64_t unit = next++; unit < units; unit = next++) worker(unit);
  });
}

// ---- counting -------------------------------------------------------------------------------------------------------

struct Match {
  float key;
  int64_t item;
};

bool before(const Match& a, const Match& b) { return a.key < b.key || (a.key == b.key && a.item < b.item); }

// Adds the sign to the counts of the sorted matches that are behind the given item.
void count_item(const Match& item, const Match* matches, int64_t n, int32_t sign, int32_t* counts) {
  const Match* first = std::upper_bound(matches, matches + n, item, before);
  for (int64_t i = first - matches; i < n; ++i) counts[i] += sign;
}

void add_atomically(int32_t* to, int32_t value) {
  if (value != 0) __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

// Between which rough keys an item may be before or behind each of a query's matches.
struct Bounds {
  std::vector<float> low, high;

  void set(const Match* matches, int64_t n, double doubt) {
    low.resize(static_cast<size_t>(n));
    high.resize(static_cast<size_t>(n));
    for (size_t i = 0; i < low.size(); ++i) {
      low[i] = static_cast<float>(static_cast<double>(matches[i].key) - doubt);
      high[i] = static_cast<float>(static_cast<double>(matches[i].key) + doubt);
    }
  }
};

// One row of kChunk rough keys against a query's matches: counts[i] += how many items are before match i.
// exact(j) gives the j-th's key and index.
template <typename Exact>
void count_chunk(const Kernels& kernel, const float* rough, float smallest, float largest, const Bounds& bounds,
                 const Match* matches, int32_t* counts, const Exact& exact) {
  const std::vector<float>&low = bounds.low, &high = bounds.high;
  const auto n = static_cast<int64_t>(low.size());
  if (n == 0 || smallest > high.back()) return;
  // A chunk says nothing about the matches before all its items, and all it can about those behind.
  const int64_t first = std::lower_bound(high.begin(), high.end(), smallest) - high.begin();
  const int64_t last = std::upper_bound(low.begin() + first, low.end(), largest) - low.begin();
  for (int64_t i = last; i < n; ++i) counts[i] += kChunk;
  uint64_t unsure = kernel.count(rough, low.data() + first, high.data() + first, last - first, counts + first);
  for (; unsure != 0; unsure &= unsure - 1) {
    const int64_t j = __builtin_ctzll(unsure);
    const Match item = exact(j);
    for (int64_t i = first; i < last; ++i) {
      if (rough[j] >= low[i] && rough[j] <= high[i] && before(item, matches[i])) ++counts[i];
    }
  }
}

// The queries with those of one person together: what they are compared with stays in the cache. People are told by
// the first item that is a match or left out.
std::vector<int64_t> by_person(const Lists& matches, const Lists& left_out, int64_t Q) {
  std::vector<std::pair<int64_t, int64_t>> keys(static_cast<size_t>(Q));
  for (int64_t q = 0; q < Q; ++q) {
    int64_t first = std::numeric_limits<int64_t>::max();
    for (const Lists* lists : {&matches, &left_out}) {
      const int64_t begin = lists->offsets[q];
      if (begin < lists->offsets[q + 1]) first = std::min(first, lists->items[begin]);
    }
    keys[static_cast<size_t>(q)] = {first, q};
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int64_t> order(keys.size());
  std::transform(keys.begin(), keys.end(), order.begin(), [](const auto& key) { return key.second; });
  return order;
}

// The sorted matches of all queries, made by key(q, item).
template <typename Key>
std::vector<Match> sorted_matches(const Lists& lists, const std::vector<int64_t>& order, int64_t work, const Key& key) {
  const auto Q = static_cast<int64_t>(order.size());
  std::vector<Match> matches(static_cast<size_t>(lists.offsets[Q]));
  parallel_for(Q, work * std::max<int64_t>(1, lists.offsets[Q] / std::max<int64_t>(1, Q)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t at = begin; at < end; ++at) {
                   const int64_t q = order[static_cast<size_t>(at)];
                   for (int64_t m = lists.offsets[q]; m < lists.offsets[q + 1]; ++m) {
                     matches[static_cast<size_t>(m)] = {key(q, lists.items[m]), lists.items[m]};
                   }
                   std::sort(matches.begin() + lists.offsets[q], matches.begin() + lists.offsets[q + 1], before);
                 }
               });
  return matches;
}

// From the counts of all items before each match to ranks, without the items that a query leaves out.
template <typename Key>
void finish_ranks(const Lists& lists, const Lists& left_out, int64_t q, const Match* matches, const Key& key,
                  int32_t* counts, int64_t* ranks) {
  const int64_t begin = lists.offsets[q], n = lists.offsets[q + 1] - begin;
  if (n == 0) return;
  for (int64_t m = left_out.offsets[q]; m < left_out.offsets[q + 1]; ++m) {
    count_item({key(q, left_out.items[m]), left_out.items[m]}, matches + begin, n, -1, counts + begin);
  }
  for (int64_t i = 0; i < n; ++i) ranks[begin + i] = counts[begin + i] + 1;
}

// Blocks of about equal size, of whole panels where they are large.
int64_t even_block(int64_t Q, int64_t block) {
  const int64_t blocks = (Q + block - 1) / block, even = (Q + blocks - 1) / blocks, rows = kernels().rows;
  return std::min(block, (even + rows - 1) / rows * rows);
}

}  // namespace

void rank_matches_cpu(const RankArgs& a) {
  const int64_t Q = a.query.n, G = a.gallery.n;
  if (Q == 0 || G == 0 || a.matches.offsets[Q] == 0) return;
  const Pair sides(a.query, a.gallery, a.D, a.metric);
  const Scorer scorer(sides.query, sides.gallery, a.metric, a.ignored);
  const auto key = [&](int64_t q, int64_t j) { return scorer.key(q, j); };
  const std::vector<int64_t> order = by_person(a.matches, a.left_out, Q);
  const std::vector<Match> matches = sorted_matches(a.matches, order, a.D, key);
  std::vector<int32_t> counts(matches.size(), 0);

  const int64_t block = even_block(Q, std::min(a.block, kMaxBlock));
  const int64_t blocks = (Q + block - 1) / block, ranges = (G + kRange - 1) / kRange;
  parallel_units(blocks * ranges, block * kRange, [&] {
    return [&, tiler = std::make_shared<Tiler>(scorer, block), found = std::vector<int32_t>(),
            bounds = Bounds()](int64_t unit) mutable {
      const int64_t begin = unit / ranges * block, end = std::min(begin + block, Q), range = unit % ranges;
      tiler->load(begin, end);
      const int64_t base = a.matches.offsets[begin];
      found.assign(static_cast<size_t>(a.matches.offsets[end] - base), 0);
      const int64_t width = scorer.tile(), last = std::min((range + 1) * kRange, scorer.padded()) / width;
      for (int64_t tile = range * kRange / width; tile < last; ++tile) {
        tiler->run(tile, [&](int64_t q, const float* rough, const float* smallest, const float* largest) {
          const int64_t from = a.matches.offsets[q], n = a.matches.offsets[q + 1] - from;
          if (n == 0) return;
          const Match* mine = matches.data() + from;
          bounds.set(mine, n, scorer.doubt(q, tile));
          for (int64_t c = 0; c < scorer.tile() / kChunk; ++c) {
            const int64_t first = tile * scorer.tile() + c * kChunk;
            count_chunk(kernels(), rough + c * kChunk, smallest[c], largest[c], bounds, mine,
                        found.data() + (from - base), [&](int64_t j) {
                          if (n <= 512) {  // most doubts are about the matches themselves, whose keys are known
                            for (int64_t i = 0; i < n; ++i) {
                              if (mine[i].item == first + j) return mine[i];
                            }
                          }
                          return Match{scorer.key(q, first + j), first + j};
                        });
          }
        });
      }
      for (size_t i = 0; i < found.size(); ++i) add_atomically(&counts[static_cast<size_t>(base) + i], found[i]);
    };
  });
  parallel_for(Q, a.D, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; ++at) {
      const int64_t q = order[static_cast<size_t>(at)];
      finish_ranks(a.matches, a.left_out, q, matches.data(), key, counts.data(), a.ranks);
    }
  });
}

void rank_rows_cpu(const RankRowsArgs& a) {
  if (a.Q == 0 || a.matches.offsets[a.Q] == 0) return;
  const auto key = [&](int64_t q, int64_t j) { return a.distances[q * a.G + j]; };
  const std::vector<Match> matches = sorted_matches(a.matches, by_person(a.matches, a.left_out, a.Q), 1, key);
  std::vector<int32_t> counts(matches.size(), 0);
  parallel_for(a.Q, a.G, [&](int64_t begin, int64_t end) {
    float chunk[kChunk];
    Bounds bounds;
    for (int64_t q = begin; q < end; ++q) {
      const int64_t from = a.matches.offsets[q], n = a.matches.offsets[q + 1] - from;
      if (n == 0) continue;
      bounds.set(matches.data() + from, n, 0.0);
      for (int64_t first = 0; first < a.G; first += kChunk) {
        for (int64_t j = 0; j < kChunk; ++j) {
          chunk[j] = first + j < a.G && !a.ignored[first + j] ? key(q, first + j) : kInfinity;
        }
        const float smallest = *std::min_element(chunk, chunk + kChunk);
        const float largest = *std::max_element(chunk, chunk + kChunk);
        count_chunk(kernels(), chunk, smallest, largest, bounds, matches.data() + from, counts.data() + from,
                    [&](int64_t j) {
                      // What is ignored is behind a match that is infinitely far, too.
                      const bool ranked = first + j < a.G && !a.ignored[first + j];
                      return Match{chunk[j], ranked ? first + j : a.G};
                    });
      }
      finish_ranks(a.matches, a.left_out, q, matches.data(), key, counts.data(), a.ranks);
    }
  });
}

void nearest_cpu(const NearestArgs& a) {
  const int64_t Q = a.query.n, G = a.gallery.n;
  if (Q == 0) return;
  const Pair sides(a.query, a.gallery, a.D, a.metric);
  const Scorer scorer(sides.query, sides.gallery, a.metric, nullptr);
  // Smaller blocks than there: a query's candidates stay with one worker.
  const int64_t wanted = std::max<int64_t>(64, (Q + 4 * num_threads() - 1) / (4 * num_threads()));
  const int64_t block = even_block(Q, std::min({a.block, kMaxBlock, wanted}));
  const auto k = static_cast<size_t>(a.k);
  struct State {
    std::vector<Match> candidates;  // rough keys
    float limit = kInfinity;        // what is above is no candidate
    Match farthest{-kInfinity, 0};
  };
  parallel_units((Q + block - 1) / block, block * G, [&] {
    return [&, tiler = std::make_shared<Tiler>(scorer, block), states = std::vector<State>()](int64_t unit) mutable {
      const int64_t begin = unit * block, end = std::min(begin + block, Q);
      tiler->load(begin, end);
      states.assign(static_cast<size_t>(end - begin), State{});
      const auto shrink = [&](int64_t q, State& state) {
        auto& all = state.candidates;
        if (all.size() <= k) return;
        std::nth_element(all.begin(), all.begin() + a.k - 1, all.end(), before);
        const double limit = static_cast<double>(all[k - 1].key) + 2 * scorer.doubt(q, -1);
        state.limit = std::nextafter(static_cast<float>(limit), kInfinity);
        all.erase(std::remove_if(all.begin() + a.k, all.end(), [&](const Match& m) { return m.key > state.limit; }),
                  all.end());
      };
      for (int64_t tile = 0; tile < scorer.padded() / scorer.tile(); ++tile) {
        tiler->run(tile, [&](int64_t q, const float* rough, const float* smallest, const float* largest) {
          State& state = states[static_cast<size_t>(q - begin)];
          for (int64_t c = 0; c < scorer.tile() / kChunk; ++c) {
            const int64_t first = tile * scorer.tile() + c * kChunk, n = std::min(kChunk, G - first);
            const float* chunk = rough + c * kChunk;
            if (largest[c] >
                state.farthest.key) {  // the padding is infinite, so that largest may be more than there is
              for (int64_t j = 0; j < n; ++j) {
                if (chunk[j] > state.farthest.key) state.farthest = {chunk[j], first + j};
              }
            }
            if (smallest[c] > state.limit) continue;
            for (int64_t j = 0; j < n; ++j) {
              if (chunk[j] <= state.limit) state.candidates.push_back({chunk[j], first + j});
            }
            if (state.candidates.size() >= std::max<size_t>(4 * k, 256)) shrink(q, state);
          }
        });
      }
      for (int64_t q = begin; q < end; ++q) {
        State& state = states[static_cast<size_t>(q - begin)];
        shrink(q, state);
        for (Match& match : state.candidates) match.key = scorer.key(q, match.item);
        std::partial_sort(state.candidates.begin(), state.candidates.begin() + a.k, state.candidates.end(), before);
        int64_t* out = a.indices + q * (a.k + 1);
        for (size_t i = 0; i < k; ++i) out[i] = state.candidates[i].item;
        out[k] = state.farthest.item;
      }
    };
  });
}

void pair_distances_cpu(const PairArgs& a) {
  if (a.n == 0) return;
  const Pair sides(a.query, a.gallery, a.D, a.metric);
  // The rows are equally scaled for the Euclidean distance.
  const double unit = a.metric == Metric::kEuclidean ? 1 / sides.query.scale[0] : 1;
  parallel_for(a.n, a.D, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t q = a.query_index[i], g = a.gallery_index[i];
      const double product = dot(sides.query, q, sides.gallery, g);
      const double x = sides.query.squares[static_cast<size_t>(q)], y = sides.gallery.squares[static_cast<size_t>(g)];
      if (a.metric == Metric::kCosine) {
        a.distances[i] = x > 0 && y > 0 ? 1 - product / (std::sqrt(x) * std::sqrt(y)) : 1;
      } else {
        a.distances[i] = std::max(0.0, x + y - 2 * product) * unit * unit;
      }
    }
  });
}

}  // namespace dsa_fast

#ifdef DSA_FAST_TORCH
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace dsa_fast {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Only what memory safety needs is checked here; the messages meant for users come from Python.

Rows rows_of(const Tensor& features) {
  STD_TORCH_CHECK(features.dim() == 2 && features.is_contiguous() && features.size(1) >= 1,
                  "dsa_fast: features must be contiguous, of shape [N, D]");
  const ScalarType type = features.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "dsa_fast: features must be float32 or float64");
  return {features.const_data_ptr(), type == ScalarType::Double, features.size(0)};
}

int64_t columns_of(const Tensor& query, const Tensor& gallery) {
  STD_TORCH_CHECK(query.dim() == 2 && gallery.dim() == 2 && query.size(1) == gallery.size(1),
                  "dsa_fast: query and gallery must have the same number of columns");
  return query.size(1);
}

const int64_t* indices_of(const Tensor& tensor, int64_t limit) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.is_contiguous() && tensor.scalar_type() == ScalarType::Long,
                  "dsa_fast: indices must be contiguous int64 [N]");
  const auto* data = static_cast<const int64_t*>(tensor.const_data_ptr());
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    STD_TORCH_CHECK(data[i] >= 0 && data[i] < limit, "dsa_fast: index out of range: ", data[i]);
  }
  return data;
}

Lists lists_of(const Tensor& offsets, const Tensor& items, int64_t queries, int64_t gallery) {
  const int64_t* at = indices_of(offsets, items.size(0) + 1);
  STD_TORCH_CHECK(offsets.size(0) == queries + 1 && at[0] == 0 && at[queries] == items.size(0),
                  "dsa_fast: offsets must be [Q + 1], from 0 to the number of items");
  for (int64_t q = 0; q < queries; ++q) STD_TORCH_CHECK(at[q] <= at[q + 1], "dsa_fast: offsets must ascend");
  return {at, indices_of(items, gallery)};
}

const bool* flags_of(const Tensor& ignored, int64_t gallery) {
  STD_TORCH_CHECK(ignored.dim() == 1 && ignored.size(0) == gallery && ignored.is_contiguous() &&
                      ignored.scalar_type() == ScalarType::Bool,
                  "dsa_fast: ignored must be contiguous bool [G]");
  return static_cast<const bool*>(ignored.const_data_ptr());
}

Tensor empty_like(const Tensor& like, std::vector<int64_t> shape, ScalarType dtype) {
  return torch::stable::empty(shape, dtype, std::nullopt, like.device());
}

Metric metric_of(bool cosine) { return cosine ? Metric::kCosine : Metric::kEuclidean; }

int64_t checked_block(int64_t block) {
  STD_TORCH_CHECK(block >= 1, "dsa_fast: block must be at least 1");
  return std::min(block, kMaxBlock);
}

Tensor rank_matches_op(const Tensor& query, const Tensor& gallery, const Tensor& ignored, const Tensor& match_offsets,
                       const Tensor& match_items, const Tensor& left_offsets, const Tensor& left_items, bool cosine,
                       int64_t block) {
  const int64_t Q = query.size(0), G = gallery.size(0);
  Tensor ranks = empty_like(query, {match_items.size(0)}, ScalarType::Long);
  rank_matches_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine),
                    flags_of(ignored, G), lists_of(match_offsets, match_items, Q, G),
                    lists_of(left_offsets, left_items, Q, G), static_cast<int64_t*>(ranks.mutable_data_ptr()),
                    checked_block(block)});
  return ranks;
}

Tensor rank_rows_op(const Tensor& distances, const Tensor& ignored, const Tensor& match_offsets,
                    const Tensor& match_items, const Tensor& left_offsets, const Tensor& left_items) {
  STD_TORCH_CHECK(distances.dim() == 2 && distances.is_contiguous() && distances.scalar_type() == ScalarType::Float,
                  "dsa_fast: distances must be contiguous float32 [Q, G]");
  const int64_t Q = distances.size(0), G = distances.size(1);
  Tensor ranks = empty_like(distances, {match_items.size(0)}, ScalarType::Long);
  rank_rows_cpu({static_cast<const float*>(distances.const_data_ptr()), Q, G, flags_of(ignored, G),
                 lists_of(match_offsets, match_items, Q, G), lists_of(left_offsets, left_items, Q, G),
                 static_cast<int64_t*>(ranks.mutable_data_ptr())});
  return ranks;
}

Tensor nearest_op(const Tensor& query, const Tensor& gallery, int64_t k, bool cosine, int64_t block) {
  STD_TORCH_CHECK(k >= 1 && k <= gallery.size(0), "dsa_fast: k must be in 1..", gallery.size(0), ", got ", k);
  Tensor indices = empty_like(query, {query.size(0), k + 1}, ScalarType::Long);
  nearest_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine), k,
               static_cast<int64_t*>(indices.mutable_data_ptr()), checked_block(block)});
  return indices;
}

Tensor pair_distances_op(const Tensor& query, const Tensor& gallery, const Tensor& query_index,
                         const Tensor& gallery_index, bool cosine) {
  STD_TORCH_CHECK(query_index.size(0) == gallery_index.size(0), "dsa_fast: there must be as many indices of each");
  Tensor distances = empty_like(query, {query_index.size(0)}, ScalarType::Double);
  pair_distances_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine),
                      indices_of(query_index, query.size(0)), indices_of(gallery_index, gallery.size(0)),
                      query_index.size(0), static_cast<double*>(distances.mutable_data_ptr())});
  return distances;
}

}  // namespace
}  // namespace dsa_fast

STABLE_TORCH_LIBRARY_FRAGMENT(dsa_fast, m) {
  m.def(
      "rank_matches(Tensor query, Tensor gallery, Tensor ignored, Tensor match_offsets, Tensor match_items, "
      "Tensor left_offsets, Tensor left_items, bool cosine, int block) -> Tensor");
  m.def(
      "rank_rows(Tensor distances, Tensor ignored, Tensor match_offsets, Tensor match_items, Tensor left_offsets, "
      "Tensor left_items) -> Tensor");
  m.def("nearest(Tensor query, Tensor gallery, int k, bool cosine, int block) -> Tensor");
  m.def(
      "pair_distances(Tensor query, Tensor gallery, Tensor query_index, Tensor gallery_index, bool cosine) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(dsa_fast, CPU, m) {
  m.impl("rank_matches", TORCH_BOX(&dsa_fast::rank_matches_op));
  m.impl("rank_rows", TORCH_BOX(&dsa_fast::rank_rows_op));
  m.impl("nearest", TORCH_BOX(&dsa_fast::nearest_op));
  m.impl("pair_distances", TORCH_BOX(&dsa_fast::pair_distances_op));
}
#endif  // DSA_FAST_TORCH
