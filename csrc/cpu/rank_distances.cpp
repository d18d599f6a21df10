// pair_distances on the CPU; ../rank.h defines the results.
#include <algorithm>
#include <cmath>

#include "rank_tiles.h"

namespace dsa_fast {

void pair_distances_cpu(const PairArgs& a) {
  if (a.n == 0) return;
  const rank::Pair sides(a.query, a.gallery, a.D, a.metric);
  // For the Euclidean distance, all rows have the same scale.
  const double unit = a.metric == Metric::kEuclidean ? 1 / sides.query.scale[0] : 1;
  parallel_for(a.n, a.D, [&] {
    return [&](int64_t i) {
      const int64_t q = a.query_index[i], g = a.gallery_index[i];
      const double product = rank::dot(sides.query, q, sides.gallery, g);
      const double x = sides.query.squares[static_cast<size_t>(q)], y = sides.gallery.squares[static_cast<size_t>(g)];
      if (a.metric == Metric::kCosine) {
        a.distances[i] = x > 0 && y > 0 ? 1 - product / (std::sqrt(x) * std::sqrt(y)) : 1;
      } else {
        a.distances[i] = std::max(0.0, x + y - 2 * product) * unit * unit;
      }
    };
  });
}

}  // namespace dsa_fast
