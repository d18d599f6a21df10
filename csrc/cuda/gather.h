// Photos and fills, for the kernels that gather pixels into texels.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../dtype.h"

namespace dsa_fast {

struct Photo {
  const void* data;   // [B, C, H, W]
  int64_t stride[4];  // of data, in elements
  int64_t B, C, H, W;
};

// Where a pixel's first channel is; pixel is a raster index, y * W + x.
template <typename In>
DSA_FAST_HD const In* pixel_of(const Photo& photo, int64_t b, int32_t pixel) {
  const uint32_t y = static_cast<uint32_t>(pixel) / static_cast<uint32_t>(photo.W);
  const uint32_t x = static_cast<uint32_t>(pixel) - y * static_cast<uint32_t>(photo.W);
  return static_cast<const In*>(photo.data) + b * photo.stride[0] + y * photo.stride[2] + x * photo.stride[3];
}

constexpr int64_t kFillChunk =
    64;  // channels of a launch: their fill, cast on the host, travels with the kernel's arguments

template <typename Out>
struct Fill {
  // In 32 bits or more: compilers copy arrays of smaller elements from the arguments to local memory.
  using Stored = std::conditional_t<std::is_same_v<Out, double>, double, uint32_t>;
  Stored stored[kFillChunk];

  DSA_FAST_HD void set(int64_t c, Out value) {
    if constexpr (std::is_same_v<Out, double> || std::is_same_v<Out, uint8_t>) {
      stored[c] = value;
    } else if constexpr (std::is_same_v<Out, float>) {
      stored[c] = bits_of(value);
    } else {
      stored[c] = value.bits;
    }
  }
  DSA_FAST_HD Out at(int64_t c) const {
    if constexpr (std::is_same_v<Out, double>) {
      return stored[c];
    } else if constexpr (std::is_same_v<Out, uint8_t>) {
      return static_cast<uint8_t>(stored[c]);
    } else if constexpr (std::is_same_v<Out, float>) {
      return float_of(stored[c]);
    } else {
      return Out{static_cast<uint16_t>(stored[c])};
    }
  }
};

// Calls f(chunk, c_begin, c_end) for chunks of channels that together cover [0, channels); fill is on the host.
template <typename Out, typename F>
void for_each_channel_chunk(const double* fill, int64_t channels, const F& f) {
  for (int64_t c_begin = 0; c_begin < channels; c_begin += kFillChunk) {
    const int64_t c_end = std::min(c_begin + kFillChunk, channels);
    Fill<Out> chunk{};
    for (int64_t c = c_begin; c < c_end; ++c) chunk.set(c - c_begin, convert<Out>(fill[c]));
    f(chunk, c_begin, c_end);
  }
}

constexpr int kAtOnce = 4;  // channels of a mean that are summed in one walk over the pixels

}  // namespace dsa_fast
