// The products of rank_kernels.h in float32.
#include "rank_kernels.h"

#include <algorithm>
#include <type_traits>

namespace dsa_fast::rank {
namespace {

constexpr int64_t kTile = 128;   // a multiple of kChunk and of every kernel's columns
constexpr int64_t kDepth = 256;  // products summed before their sum is added to the others

// Every element is a sum of sums of kDepth products each, at any position.
double roundings_of_sums(int64_t D) { return static_cast<double>(std::min(kDepth, D) + D / kDepth); }

DSA_FAST_INLINE void finish_body(const float* x, int64_t n, const float* factor, const float* offset, float* key,
                                 float* smallest, float* largest) {
  for (int64_t c = 0; c < n / kChunk; ++c) {
    const float* chunk = x + c * kChunk;
    float* to = key + c * kChunk;
    const float* f = factor + c * kChunk;
    const float* o = offset + c * kChunk;
    float low[16], high[16];
    for (int j = 0; j < 16; ++j) {
      low[j] = kInfinity;
      high[j] = -kInfinity;
    }
    for (int64_t i = 0; i < kChunk; i += 16) {
      for (int64_t j = 0; j < 16; ++j) {
        const float value = chunk[i + j] * f[i + j] + o[i + j];
        to[i + j] = value;
        low[j] = value < low[j] ? value : low[j];
        high[j] = value > high[j] ? value : high[j];
      }
    }
    smallest[c] = *std::min_element(low, low + 16);
    largest[c] = *std::max_element(high, high + 16);
  }
}

DSA_FAST_INLINE uint64_t count_body(const float* x, const float* low, const float* high, int64_t n, int32_t* counts) {
  uint64_t unsure = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t below = 0, at_most = 0;
    for (int64_t j = 0; j < kChunk; ++j) {
      below += x[j] < low[i];
      at_most += x[j] <= high[i];
    }
    counts[i] += below;
    if (below == at_most) continue;
    for (int64_t j = 0; j < kChunk; ++j) unsure |= static_cast<uint64_t>(x[j] >= low[i] && x[j] <= high[i]) << j;
  }
  return unsure;
}

#ifdef DSA_FAST_X86
// The same, with the values in registers.
DSA_FAST_AVX512 uint64_t count_avx512(const float* x, const float* low, const float* high, int64_t n, int32_t* counts) {
  const __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + 16);
  const __m512 x2 = _mm512_loadu_ps(x + 32), x3 = _mm512_loadu_ps(x + 48);
  uint64_t unsure = 0;
  for (int64_t i = 0; i < n; ++i) {
    const __m512 l = _mm512_set1_ps(low[i]), h = _mm512_set1_ps(high[i]);
    const __mmask32 below0 =
        _mm512_kunpackw(_mm512_cmp_ps_mask(x1, l, _CMP_LT_OQ), _mm512_cmp_ps_mask(x0, l, _CMP_LT_OQ));
    const __mmask32 below1 =
        _mm512_kunpackw(_mm512_cmp_ps_mask(x3, l, _CMP_LT_OQ), _mm512_cmp_ps_mask(x2, l, _CMP_LT_OQ));
    const __mmask32 most0 =
        _mm512_kunpackw(_mm512_cmp_ps_mask(x1, h, _CMP_LE_OQ), _mm512_cmp_ps_mask(x0, h, _CMP_LE_OQ));
    const __mmask32 most1 =
        _mm512_kunpackw(_mm512_cmp_ps_mask(x3, h, _CMP_LE_OQ), _mm512_cmp_ps_mask(x2, h, _CMP_LE_OQ));
    const __mmask64 below = _mm512_kunpackd(below1, below0), most = _mm512_kunpackd(most1, most0);
    counts[i] += static_cast<int32_t>(_mm_popcnt_u64(below));
    unsure |= most & ~below;
  }
  return unsure;
}
#endif

// Adds the products of whole blocks of 32 to sums [32], product k to sum k % 32. Returns where it stopped.
template <typename Product>
DSA_FAST_INLINE int64_t add_blocks(double* sums, int64_t n, const Product& product) {
  int64_t k = 0;
  for (; k + 32 <= n; k += 32) {
    for (int64_t j = 0; j < 32; ++j) sums[j] += product(k + j);
  }
  return k;
}

#ifdef DSA_FAST_X86
// The same sums: a product of two float32 values is exact in float64, and fusing it with the sum changes nothing.
DSA_FAST_AVX512 int64_t add_blocks_avx512(double* sums, int64_t n, const float* q, const float* g) {
  __m512d sum[4];
  for (int j = 0; j < 4; ++j) sum[j] = _mm512_loadu_pd(sums + 8 * j);
  int64_t k = 0;
  for (; k + 32 <= n; k += 32) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512d x = __builtin_convertvector(_mm256_loadu_ps(q + k + 8 * j), __m512d);
      const __m512d y = __builtin_convertvector(_mm256_loadu_ps(g + k + 8 * j), __m512d);
      sum[j] = _mm512_fmadd_pd(x, y, sum[j]);
    }
  }
  for (int j = 0; j < 4; ++j) _mm512_storeu_pd(sums + 8 * j, sum[j]);
  return k;
}
#else
int64_t add_blocks_avx512(double*, int64_t, const float*, const float*) { return 0; }  // never called
#endif

template <bool kAvx512 = false, typename Q, typename G>
DSA_FAST_INLINE double dot_body(const Q* q, double q_scale, const G* g, double g_scale, int64_t n) {
  // Products of float32 values are exact and far from float64's limits: they are scaled at the end.
  constexpr bool kLate = std::is_same_v<Q, float> && std::is_same_v<G, float>;
  double sums[32] = {};
  const auto product = [&](int64_t k) {
    if constexpr (kLate) return static_cast<double>(q[k]) * static_cast<double>(g[k]);
    return (static_cast<double>(q[k]) * q_scale) * (static_cast<double>(g[k]) * g_scale);
  };
  int64_t k = 0;
  if constexpr (kAvx512 && kLate) {
    k = add_blocks_avx512(sums, n, q, g);
  } else {
    k = add_blocks(sums, n, product);
  }
  for (int64_t j = 0; k + j < n; ++j) sums[j] += product(k + j);
  for (int64_t width = 16; width > 0; width /= 2) {
    for (int64_t j = 0; j < width; ++j) sums[j] += sums[j + width];
  }
  return kLate ? sums[0] * q_scale * g_scale : sums[0];
}

// Whether a row's scale is a float32.
bool narrow_scale(double scale) { return scale >= 1e-36 && scale <= 1e36; }

// Copies one row, scaled, to every width-th number.
void pack_row(const Side& side, int64_t row, int64_t k0, int64_t depth, int64_t width, float* to) {
  const double scale = side.scale[static_cast<size_t>(row)];
  if (side.rows.wide) {
    const double* from = side.wide_row(row) + k0;
    for (int64_t k = 0; k < depth; ++k) to[k * width] = static_cast<float>(from[k] * scale);
    return;
  }
  const float* from = side.narrow_row(row) + k0;
  if (narrow_scale(scale)) {
    const auto narrow = static_cast<float>(scale);
    for (int64_t k = 0; k < depth; ++k) to[k * width] = from[k] * narrow;
  } else {
    for (int64_t k = 0; k < depth; ++k) to[k * width] = static_cast<float>(static_cast<double>(from[k]) * scale);
  }
}

// Panels of width rows each, [panels, depth, width]. whole_panel(row, to) may make one, or return false.
template <int64_t width, typename F>
DSA_FAST_INLINE void pack_panels(const Side& side, int64_t begin, int64_t count, int64_t k0, int64_t depth, float* to,
                                 const F& whole_panel) {
  for (int64_t p = 0; p < count; p += width, to += depth * width) {
    const int64_t rows = std::min(width, count - p);
    if (rows == width && whole_panel(begin + p, to)) continue;
    for (int64_t r = 0; r < rows; ++r) pack_row(side, begin + p + r, k0, depth, width, to + r);
    for (int64_t r = rows; r < width; ++r) {
      for (int64_t k = 0; k < depth; ++k) to[k * width + r] = 0;
    }
  }
}

template <int64_t width>
void pack_plain(const Side& side, int64_t begin, int64_t count, int64_t k0, int64_t depth, float* to) {
  pack_panels<width>(side, begin, count, k0, depth, to, [](int64_t, float*) { return false; });
}

#ifdef DSA_FAST_X86
// Packs n <= 8 rows, eight columns at once. Fewer than eight rows write into the numbers behind theirs.
template <int64_t n, int64_t width>
DSA_FAST_AVX2 void pack_eight(const Side& side, int64_t row, int64_t k0, int64_t depth, float* to) {
  const float* from[8];
  for (int64_t r = 0; r < 8; ++r) from[r] = side.narrow_row(row + (r < n ? r : 0)) + k0;
  const auto scale_of = [&](int64_t r) {
    return static_cast<float>(side.scale[static_cast<size_t>(row + (r < n ? r : 0))]);
  };
  __m256 scale[4];  // of rows r and r + 4
  for (int64_t r = 0; r < 4; ++r) scale[r] = _mm256_set_m128(_mm_set1_ps(scale_of(r + 4)), _mm_set1_ps(scale_of(r)));
  int64_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    __m256 x[4];
#pragma GCC unroll 4
    for (int64_t r = 0; r < 4; ++r) {
      x[r] = _mm256_mul_ps(_mm256_loadu2_m128(from[r + 4] + k, from[r] + k), scale[r]);
    }
    const __m256 a = _mm256_unpacklo_ps(x[0], x[1]), b = _mm256_unpackhi_ps(x[0], x[1]);
    const __m256 c = _mm256_unpacklo_ps(x[2], x[3]), d = _mm256_unpackhi_ps(x[2], x[3]);
    _mm256_storeu_ps(to + k * width, _mm256_shuffle_ps(a, c, 0x44));
    _mm256_storeu_ps(to + (k + 1) * width, _mm256_shuffle_ps(a, c, 0xee));
    _mm256_storeu_ps(to + (k + 2) * width, _mm256_shuffle_ps(b, d, 0x44));
    _mm256_storeu_ps(to + (k + 3) * width, _mm256_shuffle_ps(b, d, 0xee));
  }
  for (int64_t r = 0; r < n; ++r) {
    for (int64_t j = k; j < depth; ++j) to[j * width + r] = from[r][j] * scale_of(r);
  }
}

// The groups of eight rows of a panel, from the r-th row on.
template <int64_t r, int64_t width>
DSA_FAST_AVX2 void pack_groups(const Side& side, int64_t row, int64_t k0, int64_t depth, float* to) {
  if constexpr (r < width) {
    pack_groups<r + 8, width>(side, row, k0, depth, to);  // first: the last group may write too far
    pack_eight<std::min<int64_t>(8, width - r), width>(side, row + r, k0, depth, to + r);
  }
}

template <int64_t width>
DSA_FAST_AVX2 void pack_avx2(const Side& side, int64_t begin, int64_t count, int64_t k0, int64_t depth, float* to) {
  pack_panels<width>(side, begin, count, k0, depth, to, [&](int64_t row, float* panel) {
    const double* scale = side.scale.data() + row;
    if (side.rows.wide || !std::all_of(scale, scale + width, narrow_scale)) return false;
    pack_groups<0, width>(side, row, k0, depth, panel);
    return true;
  });
}
#endif

using Multiply = void (*)(int64_t depth, const float* a, const float* b, float* c, int64_t ldc, bool add);

// A Product, made from one of single panels.
template <Multiply multiply, int64_t kRows, int64_t kColumns>
void product_of_panels(int64_t depth, const float* a, int64_t rows, const float* b, int64_t columns, float* c,
                       int64_t ldc, bool add) {
  for (int64_t j = 0; j < columns; j += kColumns) {
    for (int64_t i = 0; i < rows; i += kRows) multiply(depth, a + i * depth, b + j * depth, c + i * ldc + j, ldc, add);
  }
}

// The functions above, compiled for one instruction set.
#define DSA_FAST_KERNELS(name, target)                                                                         \
  target void finish_##name(const float* x, int64_t n, const float* f, const float* o, float* key, float* low, \
                            float* high) {                                                                     \
    finish_body(x, n, f, o, key, low, high);                                                                   \
  }                                                                                                            \
  target double dot_ff_##name(const float* q, double qs, const float* g, double gs, int64_t n) {               \
    return dot_body<kAvx512_##name>(q, qs, g, gs, n);                                                          \
  }                                                                                                            \
  target double dot_fd_##name(const float* q, double qs, const double* g, double gs, int64_t n) {              \
    return dot_body(q, qs, g, gs, n);                                                                          \
  }                                                                                                            \
  target double dot_df_##name(const double* q, double qs, const float* g, double gs, int64_t n) {              \
    return dot_body(q, qs, g, gs, n);                                                                          \
  }                                                                                                            \
  target double dot_dd_##name(const double* q, double qs, const double* g, double gs, int64_t n) {             \
    return dot_body(q, qs, g, gs, n);                                                                          \
  }                                                                                                            \
  constexpr Kernels kKernels_##name{kRows_##name,                                                              \
                                    kColumns_##name,                                                           \
                                    1,                                                                         \
                                    kTile,                                                                     \
                                    kDepth,                                                                    \
                                    kPack_##name<kRows_##name>,                                                \
                                    kPack_##name<kColumns_##name>,                                             \
                                    product_of_panels<multiply_##name, kRows_##name, kColumns_##name>,         \
                                    roundings_of_sums,                                                         \
                                    finish_##name,                                                             \
                                    count_##name,                                                              \
                                    dot_ff_##name,                                                             \
                                    dot_fd_##name,                                                             \
                                    dot_df_##name,                                                             \
                                    dot_dd_##name};

constexpr int64_t kRows_plain = 4, kColumns_plain = 8;
template <int64_t width>
constexpr Pack kPack_plain = pack_plain<width>;
constexpr bool kAvx512_plain = false;

void multiply_plain(int64_t depth, const float* a, const float* b, float* c, int64_t ldc, bool add) {
  float sum[kRows_plain][kColumns_plain] = {};
  for (int64_t k = 0; k < depth; ++k, a += kRows_plain, b += kColumns_plain) {
    for (int64_t r = 0; r < kRows_plain; ++r) {
      for (int64_t j = 0; j < kColumns_plain; ++j) sum[r][j] += a[r] * b[j];
    }
  }
  for (int64_t r = 0; r < kRows_plain; ++r) {
    for (int64_t j = 0; j < kColumns_plain; ++j) c[r * ldc + j] = add ? c[r * ldc + j] + sum[r][j] : sum[r][j];
  }
}

uint64_t count_plain(const float* x, const float* low, const float* high, int64_t n, int32_t* counts) {
  return count_body(x, low, high, n, counts);
}

DSA_FAST_KERNELS(plain, )

#ifdef DSA_FAST_X86
constexpr int64_t kRows_avx2 = 6, kColumns_avx2 = 16;
template <int64_t width>
constexpr Pack kPack_avx2 = pack_avx2<width>;
constexpr bool kAvx512_avx2 = false;

DSA_FAST_AVX2 void multiply_avx2(int64_t depth, const float* a, const float* b, float* c, int64_t ldc, bool add) {
  __m256 sum[kRows_avx2][2];
#pragma GCC unroll 6
  for (int r = 0; r < kRows_avx2; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  for (int64_t k = 0; k < depth; ++k, a += kRows_avx2, b += kColumns_avx2) {
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
#pragma GCC unroll 6
    for (int r = 0; r < kRows_avx2; ++r) {
      const __m256 x = _mm256_broadcast_ss(a + r);
      sum[r][0] = _mm256_fmadd_ps(x, b0, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(x, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < kRows_avx2; ++r) {
    for (int j = 0; j < 2; ++j) {
      float* to = c + r * ldc + 8 * j;
      _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), sum[r][j]) : sum[r][j]);
    }
  }
}

constexpr int64_t kRows_avx512 = 14, kColumns_avx512 = 32;
template <int64_t width>
constexpr Pack kPack_avx512 = pack_avx2<width>;
constexpr bool kAvx512_avx512 = true;

DSA_FAST_AVX512 void multiply_avx512(int64_t depth, const float* a, const float* b, float* c, int64_t ldc, bool add) {
  __m512 sum[kRows_avx512][2];
#pragma GCC unroll 14
  for (int r = 0; r < kRows_avx512; ++r) {
    sum[r][0] = sum[r][1] = _mm512_setzero_ps();
    _mm_prefetch(reinterpret_cast<const char*>(c + r * ldc), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(c + r * ldc + 16), _MM_HINT_T0);
  }
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k, a += kRows_avx512, b += kColumns_avx512) {
    const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
    _mm_prefetch(reinterpret_cast<const char*>(a + 16 * kRows_avx512), _MM_HINT_T0);
#pragma GCC unroll 14
    for (int r = 0; r < kRows_avx512; ++r) {
      const __m512 x = _mm512_set1_ps(a[r]);
      sum[r][0] = _mm512_fmadd_ps(x, b0, sum[r][0]);
      sum[r][1] = _mm512_fmadd_ps(x, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows_avx512; ++r) {
    for (int j = 0; j < 2; ++j) {
      float* to = c + r * ldc + 16 * j;
      _mm512_storeu_ps(to, add ? _mm512_add_ps(_mm512_loadu_ps(to), sum[r][j]) : sum[r][j]);
    }
  }
}

DSA_FAST_AVX2 uint64_t count_avx2(const float* x, const float* low, const float* high, int64_t n, int32_t* counts) {
  return count_body(x, low, high, n, counts);
}

DSA_FAST_KERNELS(avx2, DSA_FAST_AVX2)
DSA_FAST_KERNELS(avx512, DSA_FAST_AVX512)
#endif  // DSA_FAST_X86

const Kernels& choose_kernels() {
#ifdef DSA_FAST_AMX
  if (has_amx()) return kernels_amx();
#endif
#ifdef DSA_FAST_X86
  if (capability() == Capability::kAvx512) return kKernels_avx512;
  if (capability() == Capability::kAvx2) return kKernels_avx2;
#endif
  return kKernels_plain;
}

}  // namespace

const Kernels& kernels_plain() { return kKernels_plain; }
#ifdef DSA_FAST_X86
const Kernels& kernels_avx2() { return kKernels_avx2; }
const Kernels& kernels_avx512() { return kKernels_avx512; }
#endif

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

}  // namespace dsa_fast::rank
