// The product of rank_kernels.h on processors with AMX (Intel, from Sapphire Rapids on).
//
// A feature x, a float32 of at most 1, is split in two bfloat16: high is x, rounded; low is x - high, rounded. A panel
// holds 32 rows and, for each 32 columns, 4 KiB: high of the first 16 rows and of the others, then low. A tile register
// takes items as pairs of columns, [16 pairs, 16 items, 2].
//
// Errors: |low| <= 2^-8 |x|, and high + low misses x by 2^-17 |x| at most. A product leaves out low times low and these
// remainders: (2^-16 + 2 * 2^-17) |q g|, which is 512 * 2^-24. The instruction sums 16 products twice and their sum,
// from 0, and adds that to the tile, each with a rounding. A tile gets three such sums for 32 columns. Subnormal inputs
// and results count as 0.
#include <algorithm>

#include "rank_kernels.h"

#ifdef DSA_FAST_AMX

namespace dsa_fast::rank {
namespace {

constexpr int64_t kPanel_amx = 32;  // rows, and columns multiplied together
constexpr int64_t kTile_amx = 512;
constexpr int64_t kDepth_amx = 512;
constexpr int64_t kBytes_amx = 16 * 64;  // of a tile register
using Byte = unsigned char;

double roundings_amx(int64_t D) { return 512 + 1.02 * static_cast<double>(3 * ((D + 31) / 32) + 17); }

// The columns k0 .. k0 + n - 1 of a row, scaled, n at most 32; 0 for others.
DSA_FAST_AMX void load_amx(const Side& side, int64_t row, int64_t k0, int64_t n, __m512* first, __m512* second) {
  const double scale = side.scale[static_cast<size_t>(row)];
  if (!side.rows.wide && scale >= 1e-36 && scale <= 1e36) {
    const float* from = side.narrow_row(row) + k0;
    const __m512 factor = _mm512_set1_ps(static_cast<float>(scale));
    const uint32_t mask = n >= 32 ? 0xffffffffu : (1u << n) - 1;
    *first = _mm512_mul_ps(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from), factor);
    *second = _mm512_mul_ps(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16), factor);
    return;
  }
  alignas(64) float scaled[32] = {};
  for (int64_t k = 0; k < n; ++k) {
    const double value =
        side.rows.wide ? side.wide_row(row)[k0 + k] : static_cast<double>(side.narrow_row(row)[k0 + k]);
    scaled[k] = static_cast<float>(value * scale);
  }
  *first = _mm512_load_ps(scaled);
  *second = _mm512_load_ps(scaled + 16);
}

DSA_FAST_AMX __m512 widened_amx(__m256i bfloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloat16), 16));
}

DSA_FAST_AMX void split_amx(__m512 first, __m512 second, __m512i* high, __m512i* low) {
  *high = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512 x = widened_amx(_mm512_castsi512_si256(*high)), y = widened_amx(_mm512_extracti64x4_epi64(*high, 1));
  *low = (__m512i)_mm512_cvtne2ps_pbh(_mm512_sub_ps(second, y), _mm512_sub_ps(first, x));
}

// Transposes 16 x 16 pairs in place.
DSA_FAST_AMX void transpose_amx(Byte* tile) {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = _mm512_load_si512(tile + 64 * i);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {  // lane l of r[i + c] holds column 4 l + c of the rows i .. i + 3
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i x = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), y = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
    const __m512i z = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
    const __m512i w = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
    _mm512_store_si512(tile + 64 * c, _mm512_shuffle_i32x4(x, z, 0x88));
    _mm512_store_si512(tile + 64 * (4 + c), _mm512_shuffle_i32x4(y, w, 0x88));
    _mm512_store_si512(tile + 64 * (8 + c), _mm512_shuffle_i32x4(x, z, 0xdd));
    _mm512_store_si512(tile + 64 * (12 + c), _mm512_shuffle_i32x4(y, w, 0xdd));
  }
}

template <bool kItems>
DSA_FAST_AMX void pack_amx(const Side& side, int64_t begin, int64_t count, int64_t k0, int64_t depth, float* to) {
  Byte* out = reinterpret_cast<Byte*>(to);
  for (int64_t p = 0; p < count; p += kPanel_amx) {
    for (int64_t k = 0; k < depth; k += 32, out += 4 * kBytes_amx) {
      for (int64_t r = 0; r < kPanel_amx; ++r) {
        __m512i high = _mm512_setzero_si512(), low = high;
        if (p + r < count) {
          __m512 first, second;
          load_amx(side, begin + p + r, k0 + k, std::min<int64_t>(32, depth - k), &first, &second);
          split_amx(first, second, &high, &low);
        }
        _mm512_store_si512(out + 64 * r, high);
        _mm512_store_si512(out + 2 * kBytes_amx + 64 * r, low);
      }
      if (kItems) {
        for (int64_t tile = 0; tile < 4; ++tile) transpose_amx(out + tile * kBytes_amx);
      }
    }
  }
}

struct alignas(64) Config_amx {  // eight registers of 16 rows of 64 bytes
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Config_amx kConfig_amx{};

// GCC's intrinsics do not declare the memory that they read: it must be constant, or stored before a barrier.
DSA_FAST_AMX void product_amx(int64_t depth, const float* a, int64_t rows, const float* b, int64_t columns, float* c,
                              int64_t ldc, bool add) {
  __asm__ volatile("" ::: "memory");
  _tile_loadconfig(&kConfig_amx);
  const int64_t stride = ldc * static_cast<int64_t>(sizeof(float));
  for (int64_t i = 0; i < rows; i += kPanel_amx) {
    for (int64_t j = 0; j < columns; j += kPanel_amx) {
      const Byte* x = reinterpret_cast<const Byte*>(a + i * depth);
      const Byte* y = reinterpret_cast<const Byte*>(b + j * depth);
      float* to = c + i * ldc + j;
      if (add) {
        _tile_loadd(0, to, stride);
        _tile_loadd(1, to + 16, stride);
        _tile_loadd(2, to + 16 * ldc, stride);
        _tile_loadd(3, to + 16 * ldc + 16, stride);
      } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
      }
      for (int64_t k = 0; k < depth; k += 32, x += 4 * kBytes_amx, y += 4 * kBytes_amx) {
        _tile_loadd(4, x, 64);
        _tile_loadd(5, x + kBytes_amx, 64);
        _tile_loadd(6, y + 2 * kBytes_amx, 64);
        _tile_loadd(7, y + 3 * kBytes_amx, 64);
        _tile_dpbf16ps(0, 4, 6);  // high low
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(6, y, 64);
        _tile_loadd(7, y + kBytes_amx, 64);
        _tile_dpbf16ps(0, 4, 6);  // high high
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        _tile_loadd(4, x + 2 * kBytes_amx, 64);
        _tile_loadd(5, x + 3 * kBytes_amx, 64);
        _tile_dpbf16ps(0, 4, 6);  // low high
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(0, to, stride);
      _tile_stored(1, to + 16, stride);
      _tile_stored(2, to + 16 * ldc, stride);
      _tile_stored(3, to + 16 * ldc + 16, stride);
    }
  }
  _tile_release();
}

}  // namespace

const Kernels& kernels_amx() {
  static const Kernels kernels = [] {
    Kernels all = kernels_avx512();
    all.rows = all.columns = kPanel_amx;
    all.step = 32;
    all.tile = kTile_amx;
    all.depth = kDepth_amx;
    all.pack_queries = pack_amx<false>;
    all.pack_items = pack_amx<true>;
    all.product = product_amx;
    all.roundings = roundings_amx;
    return all;
  }();
  return kernels;
}

}  // namespace dsa_fast::rank

#endif  // DSA_FAST_AMX
