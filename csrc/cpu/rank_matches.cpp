// rank_matches and rank_rows on the CPU; ../rank.h defines the results.
#include <algorithm>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "rank_tiles.h"

namespace dsa_fast {
namespace {

using namespace rank;

// The items of a unit of work, a multiple of every kernel's tile: few enough of long rows that no unit takes long, and
// that each thread gets some units.
int64_t items_of_a_unit(int64_t blocks, int64_t G, int64_t D) {
  constexpr int64_t kStep = 512, kMost = 4096;
  const int64_t items = std::min((int64_t{1} << 22) / D, blocks * G / (4 * num_threads()));
  return std::clamp<int64_t>(items / kStep * kStep, kStep, kMost);
}

// Adds the sign to the counts of the sorted matches behind the given item.
void count_item(const Match& item, const Match* matches, int64_t n, int32_t sign, int32_t* counts) {
  const Match* first = std::upper_bound(matches, matches + n, item, before);
  for (int64_t i = first - matches; i < n; ++i) counts[i] += sign;
}

void add_atomically(int32_t* to, int32_t value) {
  if (value != 0) __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

// The rough keys between which an item may be before or behind each of a query's matches.
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

// Compares kChunk rough keys with a query's matches: counts[i] += the number of items before match i. exact(j) returns
// item j's key and index.
template <typename Exact>
void count_chunk(const Kernels& kernel, const float* rough, float smallest, float largest, const Bounds& bounds,
                 const Match* matches, int32_t* counts, const Exact& exact) {
  const std::vector<float>&low = bounds.low, &high = bounds.high;
  const auto n = static_cast<int64_t>(low.size());
  if (n == 0 || smallest > high.back()) return;
  // All items are behind the matches below first, and before those from last on.
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

// Sorts the queries by person, so their items stay in the cache. The first item that is a match or left out identifies
// the person.
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
  parallel_for(Q, work * std::max<int64_t>(1, lists.offsets[Q] / std::max<int64_t>(1, Q)), [&] {
    return [&](int64_t at) {
      const int64_t q = order[static_cast<size_t>(at)];
      for (int64_t m = lists.offsets[q]; m < lists.offsets[q + 1]; ++m) {
        matches[static_cast<size_t>(m)] = {key(q, lists.items[m]), lists.items[m]};
      }
      std::sort(matches.begin() + lists.offsets[q], matches.begin() + lists.offsets[q + 1], before);
    };
  });
  return matches;
}

// Turns the counts of all items before each match into ranks, without the items that the query leaves out.
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

}  // namespace

void rank_matches_cpu(const RankArgs& a) {
  const int64_t Q = a.query.n, G = a.gallery.n;
  if (Q == 0 || G == 0 || a.matches.offsets[Q] == 0) return;
  const Pair sides(a.query, a.gallery, a.D, a.metric);
  const Scorer scorer(sides, a.metric, a.ignored);
  const auto key = [&](int64_t q, int64_t j) { return scorer.key(q, j); };
  const std::vector<int64_t> order = by_person(a.matches, a.left_out, Q);
  const std::vector<Match> matches = sorted_matches(a.matches, order, a.D, key);
  std::vector<int32_t> counts(matches.size(), 0);

  const int64_t block = even_block(Q, std::min(a.block, kMaxBlock));
  const int64_t blocks = (Q + block - 1) / block, items = items_of_a_unit(blocks, G, a.D);
  const int64_t ranges = (G + items - 1) / items;
  parallel_for(blocks * ranges, tile_elements(block, items, a.D), [&] {
    return [&, tiler = std::make_shared<Tiler>(scorer, block), found = std::vector<int32_t>(),
            bounds = Bounds()](int64_t unit) mutable {
      const int64_t begin = unit / ranges * block, end = std::min(begin + block, Q), range = unit % ranges;
      tiler->load(begin, end);
      const int64_t base = a.matches.offsets[begin];
      found.assign(static_cast<size_t>(a.matches.offsets[end] - base), 0);
      const int64_t tiles = items / scorer.tile(), last = std::min((range + 1) * tiles, scorer.tiles());
      for (int64_t tile = range * tiles; tile < last; ++tile) {
        tiler->run(tile, [&](int64_t q, const float* rough, const float* smallest, const float* largest) {
          const int64_t from = a.matches.offsets[q], n = a.matches.offsets[q + 1] - from;
          if (n == 0) return;
          const Match* mine = matches.data() + from;
          bounds.set(mine, n, scorer.doubt(q, tile));
          for (int64_t c = 0; c < scorer.tile() / kChunk; ++c) {
            const int64_t first = tile * scorer.tile() + c * kChunk;
            count_chunk(kernels(), rough + c * kChunk, smallest[c], largest[c], bounds, mine,
                        found.data() + (from - base), [&](int64_t j) {
                          if (n <= 512) {  // most unclear items are the matches themselves, whose keys are known
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
  parallel_for(Q, a.D, [&] {
    return [&](int64_t at) {
      const int64_t q = order[static_cast<size_t>(at)];
      finish_ranks(a.matches, a.left_out, q, matches.data(), key, counts.data(), a.ranks);
    };
  });
}

void rank_rows_cpu(const RankRowsArgs& a) {
  if (a.Q == 0 || a.matches.offsets[a.Q] == 0) return;
  const auto key = [&](int64_t q, int64_t j) { return a.distances[q * a.G + j]; };
  const std::vector<Match> matches = sorted_matches(a.matches, by_person(a.matches, a.left_out, a.Q), 1, key);
  std::vector<int32_t> counts(matches.size(), 0);
  float ones[kChunk], zeros[kChunk] = {};
  std::fill(ones, ones + kChunk, 1.0f);
  parallel_for(a.Q, a.G, [&] {
    return [&, bounds = Bounds()](int64_t q) mutable {
      const int64_t from = a.matches.offsets[q], n = a.matches.offsets[q + 1] - from;
      if (n == 0) return;
      float chunk[kChunk];
      bounds.set(matches.data() + from, n, 0.0);
      for (int64_t first = 0; first < a.G; first += kChunk) {
        const int64_t present = std::min(kChunk, a.G - first);
        const float* row = a.distances + q * a.G + first;
        std::fill(chunk + present, chunk + kChunk, kInfinity);
        for (int64_t j = 0; j < present; ++j) {
          const float distance = row[j];
          chunk[j] = a.ignored[first + j] ? kInfinity : distance;
        }
        float smallest, largest;
        kernels().finish(chunk, kChunk, ones, zeros, chunk, &smallest, &largest);
        count_chunk(kernels(), chunk, smallest, largest, bounds, matches.data() + from, counts.data() + from,
                    [&](int64_t j) {
                      // An ignored item is behind every match, even an infinitely far one.
                      const bool ranked = first + j < a.G && !a.ignored[first + j];
                      return Match{chunk[j], ranked ? first + j : a.G};
                    });
      }
      finish_ranks(a.matches, a.left_out, q, matches.data(), key, counts.data(), a.ranks);
    };
  });
}

}  // namespace dsa_fast
