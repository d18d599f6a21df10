// crop: cuts the 24 parts of a person out of a photo and resizes them to one size, without warping (the paper's CSA).
//
// The result, on every device:
//   - texel.h says which part a pixel belongs to. A part's box is the smallest one around all its pixels.
//   - Texel (r, c) of a part's image copies its box's nearest neighbor: the pixel in row (2 r + 1) h / (2 S) and
//     column (2 c + 1) w / (2 S), rounded down. h and w are the box's height and width.
//   - With mask, a texel whose pixel belongs to another part holds fill[c]. So does every texel of a part without
//     pixels.
//   - Values and fill are cast to the result's type as warp.h says.
//   - CPU and CUDA give the same bits (a NaN's payload aside), on every run.
//
// All pointers are device pointers for the CUDA function, host pointers for the CPU one, except fill (always host).
// Strides are counted in elements and may be anything, 0 included. H * W < 2^31; 1 <= S <= kMaxSize; B, C, H, W >= 0.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "resize.h"
#include "texel.h"
#include "warp.h"

namespace dsa_fast {

struct CropArgs {
  const void* img;        // [B, C, H, W]
  int64_t img_stride[4];  // of img
  DType img_dtype;
  IuvMap iuv;          // [B, 3, H, W]
  const double* fill;  // [C], on the host
  void* out;           // [B, 24, C, S, S], contiguous
  DType out_dtype;
  int64_t C, S;
  bool mask;
};

// Threaded over images.
void crop_cpu(const CropArgs& args);

// Scratch and stream as for warp_cuda.
int64_t crop_cuda_scratch(const CropArgs& args);
int crop_cuda(const CropArgs& args, int32_t* scratch, void* stream);

// ---- shared by both devices ---------------------------------------------------------------------------------------

// A box as four maxima, which start at 0: how far it reaches to the top (H - y), bottom (y + 1), left (W - x) and right
// (x + 1).
constexpr int32_t kReaches = 4;

struct CropBox {
  int32_t top, left, height, width;  // height 0: no box
};

DSA_FAST_HD CropBox crop_box(const int32_t* reach, int64_t H, int64_t W) {
  const int32_t top = static_cast<int32_t>(H) - reach[0], left = static_cast<int32_t>(W) - reach[2];
  if (reach[1] == 0) return {0, 0, 0, 0};
  return {top, left, reach[1] - top, reach[3] - left};
}

// The row or column of a box of the given extent that a texel's row or column copies.
DSA_FAST_HD int32_t crop_source(int64_t i, int32_t extent, int64_t size) {
  return static_cast<int32_t>(nearest(extent, size, i));
}

// The part of a pixel, 0..23, or -1.
template <typename T>
DSA_FAST_HD int32_t part_at(const IuvMap& map, int64_t b, int64_t y, int64_t x) {
  const T* pixel = static_cast<const T*>(map.data) + b * map.stride[0] + y * map.stride[2] + x * map.stride[3];
  return texel_of(pixel[0], pixel[map.stride[1]], pixel[2 * map.stride[1]], 1).part;
}

}  // namespace dsa_fast
