// DensePose's chart heads -> the part, u and v of a pixel: the only code that defines how a head is read.
//
// A head is a small map (112 x 112, say) stretched over an instance's box. A box is x, y, w, h = x0, y0, x1 - x0,
// y1 - y0 computed in float32 and truncated toward zero, w and h at least 1; a box with a NaN lies outside every
// image. At pixel (x, y) of the box
//   each channel is resampled bilinearly, pixel centers at half integers, borders repeated (align_corners=False);
//   the part is the fine channel with the highest value where any coarse channel is higher than coarse channel 0, and
//     0 (background) elsewhere; ties go to the first channel; a NaN is higher than every number;
//   u and v are those of the part's channel; they may be outside [0, 1].
// detectron2's converter does the same with PyTorch's interpolate. The arithmetic is specified exactly because ties and
// floors depend on every bit: float32, along x first, then along y, each as fma(a, w0, round(b * w1)). These are
// the bits of the CPU kernel of PyTorch 2.15 for contiguous heads, with AVX2, for boxes with w + h > 128; its other
// kernels round differently in the last bits.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "texel.h"

namespace dsa_fast {

constexpr int32_t kFineChannels = kParts + 1;

struct Box {
  int64_t x, y, w, h;
};

// Truncates, and clamps so that the sum of two does not overflow.
DSA_FAST_HD int64_t truncated(float x) {
  constexpr float kFar = 1099511627776.0f;  // 2^40
  return static_cast<int64_t>(x < -kFar ? -kFar : (x > kFar ? kFar : x));
}

DSA_FAST_HD Box box_of(const float* xyxy) {
  const float w = xyxy[2] - xyxy[0], h = xyxy[3] - xyxy[1];
  const bool number = xyxy[0] == xyxy[0] && xyxy[1] == xyxy[1] && w == w && h == h;
  if (!number) return {-2, -2, 1, 1};
  const int64_t width = truncated(w), height = truncated(h);
  return {truncated(xyxy[0]), truncated(xyxy[1]), width < 1 ? 1 : width, height < 1 ? 1 : height};
}

// The pixels begin <= p < end of a side of a box, counted from its edge, that are in the image.
struct Visible {
  int64_t begin, end;
};

DSA_FAST_HD Visible visible(int64_t edge, int64_t length, int64_t image) {
  const int64_t begin = edge < 0 ? -edge : 0;
  const int64_t end = edge + length > image ? image - edge : length;
  return {begin, end < begin ? begin : end};
}

// The inputs and weights of pixel p, for a side of `out` pixels and a head's side of `in`.
struct Sample {
  int32_t i0, i1;
  float w0, w1;
};

DSA_FAST_HD Sample sample_of(int64_t p, int64_t in, int64_t out) {
  if (in == out) return {static_cast<int32_t>(p), static_cast<int32_t>(p), 1.0f, 0.0f};
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float centre = scale * (static_cast<float>(p) + 0.5f);
  const float at = centre > 0.5f ? centre - 0.5f : 0.0f;
  const int64_t floor = static_cast<int64_t>(at);
  const int64_t i0 = floor < in - 1 ? floor : in - 1;
  const float fraction = at - static_cast<float>(i0);
  const float w1 = fraction < 1.0f ? fraction : 1.0f;
  return {static_cast<int32_t>(i0), static_cast<int32_t>(i0 < in - 1 ? i0 + 1 : i0), 1.0f - w1, w1};
}

DSA_FAST_HD float blend(float a, float w0, float b, float w1) { return multiply_add(a, w0, b * w1); }

// The byte of an IUV map: 255 u, to the nearest, ties to even, in 0..255.
DSA_FAST_HD uint8_t quantized(float u) { return round_to_uint8(u * 255.0f); }

// Whether a later channel's value beats the best one so far.
DSA_FAST_HD bool beats(float value, float best) { return !(value <= best) && best == best; }

}  // namespace dsa_fast
