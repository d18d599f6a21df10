// Compares ranks and neighbours with plain loops and sorts that follow csrc/rank.h, and each instruction set's products
// with their bounds.
#include <cmath>
#include <limits>
#include <memory>

#include "../../csrc/cpu/rank_kernels.h"
#include "../../csrc/rank.h"
#include "asked_capability.h"
#include "scaffold.h"

namespace {

using rank::Kernels, rank::Side;

enum class Content { kNormal, kFewValues, kEqual, kWild, kSubnormal };

constexpr double kSmall = 0x1p-1062;  // of Content::kSubnormal in float64

std::vector<double> make_rows(int64_t n, int64_t D, Content content) {
  std::vector<double> rows(static_cast<size_t>(n * D));
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < n; ++i) {
    const double size = content == Content::kWild ? std::pow(10.0, static_cast<double>(rng() % 13) - 6) : 1;
    for (int64_t k = 0; k < D; ++k) {
      double& value = rows[static_cast<size_t>(i * D + k)];
      if (content == Content::kEqual) {
        value = 1;
      } else if (content == Content::kFewValues) {
        value = static_cast<double>(rng() % 3) - 1;
      } else {
        value = static_cast<double>(static_cast<float>(normal(rng) * size));
        if (content == Content::kSubnormal) value *= kSmall;
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

// The product of two rows, each times `unit`. It is most of the test's work, and nothing of what is tested: the
// sanitizers leave it alone.
__attribute__((no_sanitize("address", "undefined"))) long double dot(const double* x, const double* y, int64_t D,
                                                                     long double unit) {
  long double sum = 0;
  for (int64_t k = 0; k < D; ++k) sum += x[k] * unit * (y[k] * unit);
  return sum;
}

void run(int64_t Q, int64_t G, int64_t D, Metric metric, Content content, bool wide_query, bool wide_gallery,
         int64_t block) {
  const std::string name = "Q, G, D, metric, content, block " +
                           show({Q, G, D, static_cast<int64_t>(metric), static_cast<int64_t>(content), block});
  const std::vector<double> query = make_rows(Q, D, content), gallery = make_rows(G, D, content);
  const std::vector<float> narrow_query(query.begin(), query.end()), narrow_gallery(gallery.begin(), gallery.end());
  const Rows q_rows{wide_query ? static_cast<const void*>(query.data()) : narrow_query.data(), wide_query, Q};
  const Rows g_rows{wide_gallery ? static_cast<const void*>(gallery.data()) : narrow_gallery.data(), wide_gallery, G};

  // The cosine's keys do not depend on powers of two; without this, tiny rows' are no float32.
  const long double unit = content == Content::kSubnormal ? 1 / static_cast<long double>(kSmall) : 1;
  // Keys in long double. Rounded to float32 they equal float64's, except for accidents that the seed avoids.
  std::vector<float> keys(static_cast<size_t>(Q * G));
  for (int64_t g = 0; g < G; ++g) {
    const double* const y = gallery.data() + g * D;
    const long double squares = dot(y, y, D, unit);
    for (int64_t q = 0; q < Q; ++q) {
      const long double product = dot(query.data() + q * D, y, D, unit);
      const long double cosine = squares > 0 ? -product / std::sqrt(squares) : 0;
      keys[static_cast<size_t>(q * G + g)] =
          static_cast<float>(metric == Metric::kCosine ? cosine : squares - 2 * product) + 0.0f;
    }
  }

  const std::unique_ptr<bool[]> ignored(new bool[static_cast<size_t>(G)]());
  for (int64_t g = 0; g < G; ++g) ignored[static_cast<size_t>(g)] = rng() % 11 == 0;
  Table matches, left_out;
  std::vector<int64_t> expected;
  for (int64_t q = 0; q < Q; ++q) {
    const float* key = keys.data() + q * G;
    const uint64_t rarity = q % 3 == 0 ? 2 : 17;  // many matches, or few
    std::vector<bool> seen(static_cast<size_t>(G));
    std::vector<bool> right(static_cast<size_t>(G));
    for (int64_t g = 0; g < G; ++g) {
      if (ignored[static_cast<size_t>(g)]) continue;
      if (q % 5 != 4 && rng() % rarity == 0) {
        matches.items.push_back(g);
        right[static_cast<size_t>(g)] = true;
      } else if (rng() % 9 == 0) {
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

// No ignored item is before a match, not even before an infinitely far one.
void check_infinite_distances() {
  constexpr float kFar = std::numeric_limits<float>::infinity();
  const float distances[] = {kFar, kFar, 1, 2};
  const bool ignored[] = {true, false, false, false};
  Table matches, left_out;
  matches.items = {1};
  matches.offsets = {0, 1};
  left_out.offsets = {0, 0};
  int64_t rank = -1;
  rank_rows_cpu({distances, 1, 4, ignored, matches.lists(), left_out.lists(), &rank});
  check(rank == 3, "rank_rows, infinite distances: " + std::to_string(rank));
}

// Values of one sign that bfloat16 rounds the same way and as far as it can: the errors add up. Or any values.
std::vector<float> make_values(int64_t n, bool worst) {
  std::vector<float> values(static_cast<size_t>(n));
  std::normal_distribution<float> normal(0, 0.3f);
  for (float& value : values) value = worst ? 0.5f + 0x1p-9f - 0x1p-18f - 0x1p-24f : normal(rng);
  return values;
}

void run_product(const Kernels& kernel, const std::string& name, int64_t D, bool worst) {
  constexpr int64_t kQueries = 41, kItems = 75;
  const auto whole = [](int64_t n, int64_t of) { return (n + of - 1) / of * of; };
  const std::vector<float> q = make_values(kQueries * D, worst), g = make_values(kItems * D, worst);
  const Side query{{q.data(), false, kQueries}, D, std::vector<double>(kQueries, 1.0), {}};
  const Side items{{g.data(), false, kItems}, D, std::vector<double>(kItems, 1.0), {}};
  const int64_t rows = whole(kQueries, kernel.rows), columns = whole(kItems, kernel.columns);
  const int64_t most = whole(std::min(kernel.depth, D), kernel.step);
  struct alignas(64) Line {
    float values[16];
  };
  std::vector<Line> a(static_cast<size_t>(rows * most / 16 + 1)), b(static_cast<size_t>(columns * most / 16 + 1));
  std::vector<float> c(static_cast<size_t>(rows * columns), 7.0f);
  for (int64_t k = 0; k < D; k += kernel.depth) {
    const int64_t depth = std::min(kernel.depth, D - k);
    kernel.pack_queries(query, 0, kQueries, k, depth, a[0].values);
    kernel.pack_items(items, 0, kItems, k, depth, b[0].values);
    kernel.product(whole(depth, kernel.step), a[0].values, rows, b[0].values, columns, c.data(), columns, k > 0);
  }
  const double bound = kernel.roundings(D) * 0x1p-24;
  bool good = true;
  for (int64_t i = 0; i < kQueries; ++i) {
    for (int64_t j = 0; j < kItems; ++j) {
      long double product = 0, x = 0, y = 0;
      for (int64_t k = 0; k < D; ++k) {
        const long double u = q[static_cast<size_t>(i * D + k)], v = g[static_cast<size_t>(j * D + k)];
        product += u * v;
        x += u * u;
        y += v * v;
      }
      const long double error = std::fabs(static_cast<long double>(c[static_cast<size_t>(i * columns + j)]) - product);
      good = good && error <= static_cast<long double>(bound) * std::sqrt(x * y);
    }
  }
  check(good, "product, " + name + ", D " + std::to_string(D) + (worst ? ", worst" : ""));
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  skip_unless_capable();
  rng.seed(20170711);
  std::vector<std::pair<std::string, const Kernels*>> all{{"plain", &rank::kernels_plain()}};
#ifdef DSA_FAST_X86
  if (capability() != Capability::kPlain) all.emplace_back("avx2", &rank::kernels_avx2());
  if (capability() == Capability::kAvx512) all.emplace_back("avx512", &rank::kernels_avx512());
#endif
#ifdef DSA_FAST_AMX
  if (has_amx()) all.emplace_back("amx", &rank::kernels_amx());
#endif
  for (const auto& [name, kernel] : all) {
    for (const int64_t D : {1, 5, 32, 300, 512, 1100}) {
      for (const bool worst : {false, true}) run_product(*kernel, name, D, worst);
    }
  }
  // One item, a tile and its neighbours, a depth and its neighbours, several tiles and ranges.
  constexpr int64_t extents[][3] = {{1, 1, 1},   {3, 5, 2},     {2, 63, 7},    {5, 64, 15},    {4, 65, 16},
                                    {7, 127, 3}, {6, 128, 255}, {3, 129, 256}, {2, 70, 257},   {9, 300, 33},
                                    {15, 40, 5}, {29, 90, 40},  {3, 4200, 4},  {70, 520, 700}, {1, 600, 8200}};
  for (const auto& e : extents) {
    for (const Metric metric : {Metric::kCosine, Metric::kEuclidean}) {
      for (const Content content : {Content::kNormal, Content::kFewValues, Content::kEqual, Content::kWild}) {
        for (const int64_t block : {int64_t{1}, int64_t{4}, int64_t{1000}}) {
          const bool small = e[1] < 500;
          if (!small && block != (e[0] > 64 ? 1000 : 4)) continue;
          run(e[0], e[1], e[2], metric, content, rng() % 3 == 0, rng() % 3 == 0, block);
        }
      }
    }
  }
  for (const int64_t D : {8, 64, 700}) {
    run(9, 300, D, Metric::kCosine, Content::kSubnormal, true, true, 4);
  }
  check_infinite_distances();
}
