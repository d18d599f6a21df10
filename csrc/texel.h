// Pixel -> texel: the only code that defines where a labeled pixel goes.
//
// A pixel carries a body part i in 1..24 and a surface coordinate (u, v) in [0, 1]. Each part has an S x S image;
// the pixel belongs to row min(floor(u * S), S - 1) and column min(floor(v * S), S - 1) of part i's image.
// Everything that is not a part is background and has no texel.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "platform.h"

namespace dsa_fast {

constexpr int32_t kParts = 24;
// Keeps every index within one image's maps (kParts * S * S) in 32 bits.
constexpr int64_t kMaxSize = 4096;

struct Texel {
  int32_t part;  // 0..23: DensePose's part minus one; -1: background
  int32_t cell;  // row * S + column, in 0..S*S-1
};

// 8-bit maps, as in the files: u = U / 255, in integer arithmetic.
DSA_FAST_HD int32_t texel_coordinate(uint8_t u, int32_t size) {
  const int32_t k = static_cast<int32_t>(u) * size / 255;
  return k < size ? k : size - 1;
}

// The same for size <= kMaxSmallSize, in 16 bits and without a division: compilers vectorize it well.
constexpr int32_t kMaxSmallSize = 255;
DSA_FAST_HD uint16_t small_texel_coordinate(uint8_t u, int32_t size) {
  const auto x = static_cast<uint16_t>(u * static_cast<uint16_t>(size));
  const auto k = static_cast<uint16_t>(static_cast<uint16_t>(x + 1 + (x >> 8)) >> 8);  // x / 255
  return k < static_cast<uint16_t>(size) ? k : static_cast<uint16_t>(size - 1);
}

// Real-valued maps, in float32; u must not be NaN.
DSA_FAST_HD int32_t texel_coordinate(float u, int32_t size) {
  const float clamped = u < 0.0f ? 0.0f : (u > 1.0f ? 1.0f : u);
  // The product is not negative: truncation is floor.
  const int32_t k = static_cast<int32_t>(clamped * static_cast<float>(size));
  return k < size ? k : size - 1;
}

DSA_FAST_HD Texel texel_of(uint8_t i, uint8_t u, uint8_t v, int32_t size) {
  if (i < 1 || i > kParts) return {-1, 0};
  return {static_cast<int32_t>(i) - 1, texel_coordinate(u, size) * size + texel_coordinate(v, size)};
}

DSA_FAST_HD Texel texel_of(float i, float u, float v, int32_t size) {
  // Written so that a NaN anywhere fails a comparison and falls through to background.
  if (!(i >= 1.0f && i <= static_cast<float>(kParts)) || !(u == u) || !(v == v)) return {-1, 0};
  const int32_t part = static_cast<int32_t>(i);
  if (static_cast<float>(part) != i) return {-1, 0};
  return {part - 1, texel_coordinate(u, size) * size + texel_coordinate(v, size)};
}

DSA_FAST_HD Texel texel_of(Half i, Half u, Half v, int32_t size) {
  return texel_of(to_float(i), to_float(u), to_float(v), size);
}

DSA_FAST_HD Texel texel_of(BFloat16 i, BFloat16 u, BFloat16 v, int32_t size) {
  return texel_of(to_float(i), to_float(u), to_float(v), size);
}

}  // namespace dsa_fast
