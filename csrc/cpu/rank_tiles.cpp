// Scales, norms, keys and tiles of rank_tiles.h.
#include "rank_tiles.h"

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

namespace dsa_fast::rank {
namespace {

int64_t whole(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

double largest_of(const Side& side, int64_t i) {
  double largest = 0;
  if (side.rows.wide) {
    for (int64_t k = 0; k < side.D; ++k) largest = std::max(largest, std::fabs(side.wide_row(i)[k]));
    return largest;
  }
  // Without their signs, floats have the order of their bits.
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

double power_below(double largest) {  // scales it into [0.5, 1), or a subnormal one as far as it can
  if (largest <= 0) return 1;
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0, std::min(-exponent, 1023));
}

double norm_or_one(double squares) { return squares > 0 ? std::sqrt(squares) : 1.0; }

Side open(const Rows& rows, int64_t D) {
  const auto n = static_cast<size_t>(rows.n);
  return {rows, D, std::vector<double>(n), std::vector<double>(n)};
}

template <typename F>
void for_each_row(const Side& side, const F& f) {
  parallel_for(side.rows.n, side.D, [&] { return [&](int64_t i) { f(i); }; });
}

}  // namespace

Pair::Pair(const Rows& q, const Rows& g, int64_t D, Metric metric) : query(open(q, D)), gallery(open(g, D)) {
  const std::array<Side*, 2> sides{&query, &gallery};
  double common = 0;
  if (metric == Metric::kEuclidean) {
    std::vector<double> largest(static_cast<size_t>(std::max(q.n, g.n)));
    for (Side* side : sides) {
      for_each_row(*side, [&](int64_t i) { largest[static_cast<size_t>(i)] = largest_of(*side, i); });
      for (int64_t i = 0; i < side->rows.n; ++i) common = std::max(common, largest[static_cast<size_t>(i)]);
    }
  }
  for (Side* side : sides) {
    for_each_row(*side, [&](int64_t i) {  // a row is read twice while it is in the cache
      const double largest = metric == Metric::kCosine ? largest_of(*side, i) : common;
      side->scale[static_cast<size_t>(i)] = power_below(largest);
      side->squares[static_cast<size_t>(i)] = dot(*side, i, *side, i);
    });
  }
}

Scorer::Scorer(const Pair& sides, Metric metric, const bool* ignored)
    : query_(sides.query),
      gallery_(sides.gallery),
      metric_(metric),
      tile_(kernels().tile),
      padded_(whole(gallery_.rows.n, tile_)),
      factor_(static_cast<size_t>(padded_), 0.0f),
      offset_(static_cast<size_t>(padded_), kInfinity),  // padding and ignored items are farther away than all others
      tile_norm_(static_cast<size_t>(padded_ / tile_), 0.0) {
  for (int64_t j = 0; j < gallery_.rows.n; ++j) {
    if (ignored != nullptr && ignored[j]) continue;
    const auto at = static_cast<size_t>(j);
    const double squares = gallery_.squares[at];
    factor_[at] = metric == Metric::kCosine ? static_cast<float>(-1 / norm_or_one(squares)) : -2.0f;
    offset_[at] = metric == Metric::kCosine ? 0.0f : static_cast<float>(squares);
    double& largest = tile_norm_[static_cast<size_t>(j / tile_)];
    largest = std::max(largest, std::sqrt(squares));
  }
  largest_norm_ = tile_norm_.empty() ? 0 : *std::max_element(tile_norm_.begin(), tile_norm_.end());
}

float Scorer::key(int64_t q, int64_t j) const {
  const double product = dot(query_, q, gallery_, j), squares = gallery_.squares[static_cast<size_t>(j)];
  // + 0.0f avoids minus zero.
  return static_cast<float>(metric_ == Metric::kCosine ? -(product / norm_or_one(squares)) : squares - 2 * product) +
         0.0f;
}

double Scorer::doubt(int64_t q, int64_t tile) const {
  // The 16 covers a dozen roundings outside the product: the features to float32, the factor, the key, the comparison.
  const double depth = kernels().roundings(query_.D) + 16;
  const double norm = std::sqrt(query_.squares[static_cast<size_t>(q)]);
  const double item = tile < 0 ? largest_norm_ : tile_norm_[static_cast<size_t>(tile)];
  const double size = metric_ == Metric::kCosine ? depth * norm : 2 * depth * norm * item + 16 * item * item;
  return size * 6.3e-8 /* above 2^-24 */ + static_cast<double>(query_.D) * 1e-36 /* for what underflows */;
}

void Floats::Free::operator()(float* p) const { std::free(p); }

Floats::Floats(int64_t n) {
  const size_t bytes = (static_cast<size_t>(n) * sizeof(float) + 63) / 64 * 64;
  data_.reset(static_cast<float*>(std::aligned_alloc(64, std::max<size_t>(bytes, 64))));
  if (data_ == nullptr) throw std::bad_alloc();
}

Tiler::Tiler(const Scorer& scorer, int64_t block)
    : scorer_(scorer),
      kernel_(kernels()),
      D_(scorer.query().D),
      rows_(whole(block, kernel_.rows)),
      queries_(rows_ * whole(D_, kernel_.step) + kPackSlack),
      items_(kernel_.tile * whole(std::min(kernel_.depth, D_), kernel_.step) + kPackSlack),
      tile_(rows_ * kernel_.tile),
      row_(kernel_.tile),
      extremes_(static_cast<size_t>(2 * kernel_.tile / kChunk)) {}

void Tiler::load(int64_t begin, int64_t end) {
  if (begin == begin_ && end == end_) return;
  begin_ = begin;
  end_ = end;
  used_ = whole(end - begin, kernel_.rows);
  for (int64_t k = 0; k < D_; k += kernel_.depth) {
    kernel_.pack_queries(scorer_.query(), begin, end - begin, k, std::min(kernel_.depth, D_ - k),
                         queries_.get() + k * used_);
  }
}

void Tiler::multiply(int64_t tile) {
  const int64_t first = tile * kernel_.tile, count = std::min(kernel_.tile, scorer_.gallery().rows.n - first);
  columns_ = whole(count, kernel_.columns);
  for (int64_t k = 0; k < D_; k += kernel_.depth) {
    const int64_t depth = std::min(kernel_.depth, D_ - k);
    kernel_.pack_items(scorer_.gallery(), first, count, k, depth, items_.get());
    kernel_.product(whole(depth, kernel_.step), queries_.get() + k * used_, used_, items_.get(), columns_, tile_.get(),
                    kernel_.tile, k > 0);
  }
}

void Tiler::finish(int64_t tile, int64_t q) {
  const int64_t width = kernel_.tile, first = tile * width;
  float* rough = tile_.get() + (q - begin_) * width;
  std::fill(rough + columns_, rough + width, 0.0f);
  kernel_.finish(rough, width, scorer_.factor() + first, scorer_.offset() + first, row_.get(), extremes_.data(),
                 extremes_.data() + width / kChunk);
}

int64_t even_block(int64_t Q, int64_t block) {
  const int64_t blocks = (Q + block - 1) / block, even = (Q + blocks - 1) / blocks;
  return std::min(block, whole(even, kernels().rows));
}

}  // namespace dsa_fast::rank
