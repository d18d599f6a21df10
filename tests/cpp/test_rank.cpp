// Compares ranks and neighbours with plain loops and sorts, written here from csrc/rank.h's words.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/rank.h"

namespace {

using namespace dsa_fast;

int failures = 0;

void check(bool good, const std::string& what) {
  if (!good && ++failures <= 20) std::fprintf(stderr, "FAILED: %s\n", what.c_str());
}

enum class Content { kNormal, kFewValues, kEqual, kWild };

std::vector<double> make_rows(int64_t n, int64_t D, Content content, std::mt19937_64& random) {
  std::vector<double> rows(static_cast<size_t>(n * D));
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < n; ++i) {
    const double size = content == Content::kWild ? std::pow(10.0, static_cast<double>(random() % 13) - 6) : 1;
    for (int64_t k = 0; k < D; ++k) {
      double& value = rows[static_cast<size_t>(i * D + k)];
      if (content == Content::kEqual) {
        value = 1;
      } else if (content == Content::kFewValues) {
        value = static_cast<double>(random() % 3) - 1;
      } else {
        value = static_cast<double>(static_cast<float>(normal(random) * size));
      }
    }
  }
  return rows;
}

struct Table {
  std::vector<int64_t> offsets{0}, items;
  Lists lists() const { return {offsets.data(), items.data()}; }
};

bool key_before(float a, int64_t i, float b, int64_t j) { return a < b || (a == b && i < j); }

void run(int64_t Q, int64_t G, int64_t D, Metric metric, Content content, bool wide_query, bool wide_gallery,
         int64_t block, std::mt19937_64& random) {
  const std::string name = "Q " + std::to_string(Q) + ", G " + std::to_string(G) + ", D " + std::to_string(D) +
                           ", metric " + std::to_string(static_cast<int>(metric)) + ", content " +
                           std::to_string(static_cast<int>(content)) + ", block " + std::to_string(block);
  const std::vector<double> query = make_rows(Q, D, content, random), gallery = make_rows(G, D, content, random);
  const std::vector<float> narrow_query(query.begin(), query.end()), narrow_gallery(gallery.begin(), gallery.end());
  const Rows q_rows{wide_query ? static_cast<const void*>(query.data()) : narrow_query.data(), wide_query, Q};
  const Rows g_rows{wide_gallery ? static_cast<const void*>(gallery.data()) : narrow_gallery.data(), wide_gallery, G};

  // Keys in long double: rounded to float32 they are those of float64, but for accidents that the seed avoids.
  std::vector<float> keys(static_cast<size_t>(Q * G));
  for (int64_t q = 0; q < Q; ++q) {
    for (int64_t g = 0; g < G; ++g) {
      long double product = 0, squares = 0;
      for (int64_t k = 0; k < D; ++k) {
        const long double y = gallery[static_cast<size_t>(g * D + k)];
        product += query[static_cast<size_t>(q * D + k)] * y;
        squares += y * y;
      }
      const long double cosine = squares > 0 ? -product / std::sqrt(squares) : 0;
      keys[static_cast<size_t>(q * G + g)] =
          static_cast<float>(metric == Metric::kCosine ? cosine : squares - 2 * product) + 0.0f;
    }
  }

  const std::unique_ptr<bool[]> ignored(new bool[static_cast<size_t>(G)]());
  for (int64_t g = 0; g < G; ++g) ignored[static_cast<size_t>(g)] = random() % 11 == 0;
  Table matches, left_out;
  std::vector<int64_t> expected;
  for (int64_t q = 0; q < Q; ++q) {
    const float* key = keys.data() + q * G;
    const uint64_t rarity = q % 3 == 0 ? 2 : 17;  // many matches, or few
    std::vector<bool> seen(static_cast<size_t>(G));
    std::vector<bool> right(static_cast<size_t>(G));
    for (int64_t g = 0; g < G; ++g) {
      if (ignored[static_cast<size_t>(g)]) continue;
      if (q % 5 != 4 && random() % rarity == 0) {
        matches.items.push_back(g);
        right[static_cast<size_t>(g)] = true;
      } else if (random() % 9 == 0) {
        left_out.items.push_back(g);
        continue;
      }
      seen[static_cast<size_t>(g)] = true;
    }
    matches.offsets.push_back(static_cast<int64_t>(matches.items.size()));
    left_out.offsets.push_back(static_cast<int64_t>(left_out.items.size()));
    int64_t rank = 0;
    std::vector<int64_t> order(static_cast<size_t>(G));
    for (int64_t g = 0; g < G; ++g) order[static_cast<size_t>(g)] = g;
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key_before(key[a], a, key[b], b); });
    for (const int64_t g : order) {
      rank += seen[static_cast<size_t>(g)];
      if (right[static_cast<size_t>(g)]) expected.push_back(rank);
    }
  }
  std::vector<int64_t> ranks(expected.size(), -1);
  rank_matches_cpu({q_rows, g_rows, D, metric, ignored.get(), matches.lists(), left_out.lists(), ranks.data(), block});
  check(ranks == expected, "rank_matches, " + name);
  std::fill(ranks.begin(), ranks.end(), -1);
  rank_rows_cpu({keys.data(), Q, G, ignored.get(), matches.lists(), left_out.lists(), ranks.data()});
  check(ranks == expected, "rank_rows, " + name);

  const int64_t k = std::min<int64_t>(G, 7);
  std::vector<int64_t> nearest(static_cast<size_t>(Q * (k + 1)), -1);
  nearest_cpu({q_rows, g_rows, D, metric, k, nearest.data(), block});
  std::vector<int64_t> pair_q, pair_g;
  for (int64_t q = 0; q < Q; ++q) {
    const float* key = keys.data() + q * G;
    std::vector<int64_t> order(static_cast<size_t>(G));
    for (int64_t g = 0; g < G; ++g) order[static_cast<size_t>(g)] = g;
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return key_before(key[a], a, key[b], b); });
    const int64_t* got = nearest.data() + q * (k + 1);
    check(std::equal(got, got + k, order.begin()), "nearest, " + name);
    const float farthest = key[order.back()];
    const float size = std::fabs(farthest) + std::fabs(key[order.front()]) + 1e-30f;
    check(got[k] >= 0 && got[k] < G && key[got[k]] >= farthest - 1e-4f * size, "farthest, " + name);
    for (int64_t i = 0; i <= k; ++i) {
      pair_q.push_back(q);
      pair_g.push_back(got[i]);
    }
  }
  std::vector<double> distances(pair_q.size());
  pair_distances_cpu(
      {q_rows, g_rows, D, metric, pair_q.data(), pair_g.data(), static_cast<int64_t>(pair_q.size()), distances.data()});
  for (size_t i = 0; i < distances.size(); ++i) {
    long double xy = 0, xx = 0, yy = 0, dd = 0;
    for (int64_t d = 0; d < D; ++d) {
      const long double x = query[static_cast<size_t>(pair_q[i] * D + d)],
                        y = gallery[static_cast<size_t>(pair_g[i] * D + d)];
      xy += x * y;
      xx += x * x;
      yy += y * y;
      dd += (x - y) * (x - y);
    }
    const long double cosine = xx > 0 && yy > 0 ? 1 - xy / (std::sqrt(xx) * std::sqrt(yy)) : 1;
    const long double right = metric == Metric::kCosine ? cosine : dd;
    const long double room = metric == Metric::kCosine ? 1e-12L : 1e-12L * (xx + yy);
    check(std::fabs(static_cast<long double>(distances[i]) - right) <= room, "pair_distances, " + name);
  }
}

}  // namespace

int main() {
  std::mt19937_64 random(20170711);
  int cases = 0;
  // One item, a tile and its neighbours, a depth and its neighbours, several tiles and ranges.
  constexpr int64_t extents[][3] = {{1, 1, 1},   {3, 5, 2},     {2, 63, 7},    {5, 64, 15},  {4, 65, 16},
                                    {7, 127, 3}, {6, 128, 255}, {3, 129, 256}, {2, 70, 257}, {9, 300, 33},
                                    {15, 40, 5}, {29, 90, 40},  {3, 4200, 4}};
  for (const auto& e : extents) {
    for (const Metric metric : {Metric::kCosine, Metric::kEuclidean}) {
      for (const Content content : {Content::kNormal, Content::kFewValues, Content::kEqual, Content::kWild}) {
        for (const int64_t block : {int64_t{1}, int64_t{4}, int64_t{1000}}) {
          const bool small = e[1] < 1000;
          if (!small && block != 4) continue;
          run(e[0], e[1], e[2], metric, content, random() % 3 == 0, random() % 3 == 0, block, random);
          ++cases;
        }
      }
    }
  }
  std::printf("%d cases, %d failures\n", cases, failures);
  return failures == 0 ? 0 : 1;
}
