// A fast, rough product of a block of rows with another, and an exact one of a pair of rows, for ranks on the CPU.
//
// Rows come scaled by powers of two (Side). pack copies some of them into panels; product multiplies panels. Each
// instruction set has its own struct Kernels. All but AMX sum float32 products. AMX multiplies bfloat16 only, but
// sixteen times as many at once. There a row is the sum of two bfloat16 rows, its rounded values and their remainders,
// and a product keeps three of the four pairs. Kernels::roundings bounds the error of either.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "../rank.h"
#include "capability.h"

namespace dsa_fast::rank {

constexpr int64_t kChunk = 64;  // items whose ranks are counted together
constexpr int64_t kPackSlack = 8;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Some rows and the powers of two that scale them, so that no sum overflows. For the cosine, which does not change,
// each row has its own; otherwise all rows share one.
struct Side {
  Rows rows;
  int64_t D;
  std::vector<double> scale;    // [n]
  std::vector<double> squares;  // [n]: the squared norms of the scaled rows

  const float* narrow_row(int64_t i) const { return static_cast<const float*>(rows.data) + i * D; }
  const double* wide_row(int64_t i) const { return static_cast<const double*>(rows.data) + i * D; }
};

// Copies rows begin .. begin + count - 1 of the side into panels, for the columns k0 .. k0 + depth - 1. The rest of the
// last panel, and of a step of columns, is 0. May write kPackSlack numbers behind the last panel.
using Pack = void (*)(const Side& side, int64_t begin, int64_t count, int64_t k0, int64_t depth, float* to);
// c[r * ldc + j] (+)= the sum over k < depth of the products of row r of a and row j of b, which are packed. rows,
// columns and depth are multiples of the kernel's.
using Product = void (*)(int64_t depth, const float* a, int64_t rows, const float* b, int64_t columns, float* c,
                         int64_t ldc, bool add);
// key[j] = x[j] * factor[j] + offset[j] for n items; smallest and largest [n / kChunk] of each chunk.
using Finish = void (*)(const float* x, int64_t n, const float* factor, const float* offset, float* key,
                        float* smallest, float* largest);
// For kChunk values and n bounds: counts[i] += how many values are below low[i]. Returns a bit per value, set if it is
// in some low[i] .. high[i].
using Count = uint64_t (*)(const float* x, const float* low, const float* high, int64_t n, int32_t* counts);
// The sum of the products in float64, in an order that all versions share.
template <typename Q, typename G>
using Dot = double (*)(const Q* q, double q_scale, const G* g, double g_scale, int64_t n);

struct Kernels {
  int64_t rows, columns;  // of the panels of queries, of items
  int64_t step;           // a panel holds this many columns of the features together
  int64_t tile, depth;    // items, and products per element, that go through the cache together
  Pack pack_queries, pack_items;
  Product product;
  double (*roundings)(int64_t D);  // how far a product may be from the exact one, in 2^-24 of the rows' norms
  Finish finish;
  Count count;
  Dot<float, float> dot_ff;
  Dot<float, double> dot_fd;
  Dot<double, float> dot_df;
  Dot<double, double> dot_dd;
};

const Kernels& kernels_plain();
#ifdef DSA_FAST_X86
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif
#ifdef DSA_FAST_AMX
const Kernels& kernels_amx();
#endif

// The best of these that the processor has.
const Kernels& kernels();

// The exact product of row i of a with row j of b.
double dot(const Side& a, int64_t i, const Side& b, int64_t j);

}  // namespace dsa_fast::rank
