// Resizing along one axis, with PyTorch's arithmetic: which input pixels an output pixel sums, with which weights.
//
// Bilinear with half-pixel centers, antialiased where the axis shrinks. A sum is a chain of multiply_add in float32,
// first weight to last. The mixture of float32 and float64 in the weights is PyTorch's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "platform.h"

namespace dsa_fast {

// The inputs start .. start + count - 1 of an output pixel, at most tap_limit(in, out) of them.
struct TapRange {
  int32_t start, count;
};

DSA_FAST_HD float resize_scale(int64_t in, int64_t out) { return static_cast<float>(in) / static_cast<float>(out); }

DSA_FAST_HD int32_t tap_limit(int64_t in, int64_t out) {
  const float scale = resize_scale(in, out);
  const float support = scale >= 1.0f ? scale : 1.0f;
  const int32_t whole = static_cast<int32_t>(support);
  return 2 * (whole + (static_cast<float>(whole) < support)) + 1;
}

// Writes the weights of output pixel i. The first and the last are not 0, unless all are.
DSA_FAST_HD TapRange resize_taps(int64_t in, int64_t out, int64_t i, float* weight) {
  const float scale = resize_scale(in, out);
  const float support = scale >= 1.0f ? scale : 1.0f;
  const float inverse = scale >= 1.0f ? static_cast<float>(1.0 / static_cast<double>(scale)) : 1.0f;
  const float center = static_cast<float>(static_cast<double>(scale) * (static_cast<double>(i) + 0.5));
  const int64_t low = static_cast<int64_t>(static_cast<double>(center - support) + 0.5);
  const int64_t high = static_cast<int64_t>(static_cast<double>(center + support) + 0.5);
  const int64_t begin = low > 0 ? low : 0;
  const int64_t end = high < in ? high : in;
  const int32_t limit = tap_limit(in, out);
  const int32_t count = end - begin < limit ? static_cast<int32_t>(end > begin ? end - begin : 0) : limit;
  float total = 0.0f;
  for (int32_t j = 0; j < count; ++j) {
    const double from_center = static_cast<double>(static_cast<float>(j + begin) - center) + 0.5;
    const float scaled = static_cast<float>(from_center * static_cast<double>(inverse));
    const float distance = scaled < 0.0f ? -scaled : scaled;
    weight[j] = distance < 1.0f ? 1.0f - distance : 0.0f;
    total += weight[j];
  }
  int32_t first = 0, last = count;
  while (first + 1 < last && weight[first] == 0.0f) ++first;
  while (first + 1 < last && weight[last - 1] == 0.0f) --last;
  for (int32_t j = first; j < last; ++j) weight[j - first] = total != 0.0f ? weight[j] / total : weight[j];
  return {static_cast<int32_t>(begin) + first, last - first};
}

// Rounds a weighted sum of bytes, which is never negative, to 0..255, ties to even.
DSA_FAST_HD float round_level(float sum) {
  const float rounded = (sum + 8388608.0f) - 8388608.0f;  // 2^23 leaves no room for a fraction
  return rounded < 255.0f ? rounded : 255.0f;             // last, or GCC does not vectorize the loops around this
}

// The nearest neighbor: the input row or column that output row or column i copies.
DSA_FAST_HD int64_t nearest(int64_t in, int64_t out, int64_t i) { return (2 * i + 1) * in / (2 * out); }

// The weights of all output pixels of an axis, on the host.
struct AxisTaps {
  int64_t limit, most = 1;      // room for weights per pixel, and the most that a pixel uses
  std::vector<TapRange> range;  // [out]
  std::vector<float> weight;    // [out, limit]

  AxisTaps(int64_t in, int64_t out)
      : limit(tap_limit(in, out)), range(static_cast<size_t>(out)), weight(static_cast<size_t>(out * limit)) {
    for (int64_t i = 0; i < out; ++i) {
      range[static_cast<size_t>(i)] = resize_taps(in, out, i, weight.data() + i * limit);
      most = std::max<int64_t>(most, range[static_cast<size_t>(i)].count);
    }
  }
};

}  // namespace dsa_fast
