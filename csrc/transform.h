// train_transform: turns stored people into the inputs of a training step, in one pass.
//
// The result, on every device:
//   - The stored photo is resized to H x W (resize.h), columns before rows, and rounded to 8 bits, ties to even. With
//     flip, it is mirrored. Pixel (y, x) of the result is pixel (y + top - pad, x + left - pad) of that photo: its
//     (value - mean) / std in float32, and 0 outside the photo and in the erased box. All are cast to the result's
//     type.
//   - The stored map is resized by nearest neighbor: row y reads row (2 y + 1) h / (2 H), rounded down; columns
//     likewise. It is mirrored (mirrored_label below) and cropped like the photo. Outside is background.
//   - The part images are the warp (warp.h) of the resized, mirrored and cropped photo by that map, before erasing.
//     Reduce::kLast copies the last pixel in raster order. Reduce::kMean divides the sum of the 8-bit values by their
//     number in float32. Then (value - mean) / std in float32, cast to the result's type. Untouched texels are 0.
//   - The grid is the resized, mirrored and cropped map, resized again by nearest neighbor, to grid_h x grid_w.
//   Mirroring
//     changes labels in 1..24 only. Outside the map all three values are 0.
//   - CPU and CUDA give the same bits, on every run, for any number of threads.
//
// Resizing sums with fused multiply-adds. PyTorch's own resizing on CPUs gives the same for up to five weights a sum
// (growing, or shrinking by up to 2). In longer sums PyTorch's compilers leave some products unfused: about one value
// in 100,000 then rounds to a neighboring level.
//
// All pointers are device pointers for the CUDA function, host pointers for the CPU one. Strides are counted in
// elements and may be anything, 0 included. h, w >= 1; H, W >= 1; H * W * 255 < 2^31; h, w < 2^29; pad < 2^30;
// S <= kMaxSize; grid_h * grid_w < 2^31. No part images are made if S is 0, and no grid if grid_h or grid_w is 0.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "resize.h"
#include "texel.h"
#include "warp.h"

namespace dsa_fast {

// One image's draws; in memory, a row of eight int32.
struct Plan {
  int32_t index;  // of the stored person; outside 0..N-1 all results are 0 (the CPU operator refuses it)
  int32_t top, left;
  int32_t flip;  // 0 or 1
  int32_t erase_top, erase_left, erase_height, erase_width;
};

struct TransformArgs {
  const uint8_t* images;    // [N, 3, h, w]
  int64_t image_stride[4];  // of images
  const uint8_t* iuv;       // [N, 3, h, w]: I, U, V
  int64_t iuv_stride[4];    // of iuv
  const uint8_t* mirror;    // [24, 2, 256, 256], contiguous: mirrored U and V at [I - 1, 0 or 1, V, U]; or null
  const Plan* plan;         // [B]
  void* full;               // [B, 3, H, W], or [B, H, W, 3] where channels_last is set; contiguous
  DType full_dtype;         // kFloat16, kBFloat16 or kFloat32
  void* dsap;               // [B, 24, 3, S, S], contiguous
  DType dsap_dtype;         // likewise
  uint8_t* grid;            // [B, 3, grid_h, grid_w], contiguous: I, U, V
  int64_t N, B, h, w, H, W, pad, S, grid_h, grid_w;
  float mean[3], std[3];  // of 0..255
  Reduce reduce;
  bool channels_last;
};

// Threaded over images.
void train_transform_cpu(const TransformArgs& args);

// Scratch and stream as for warp_cuda. Three launches.
int64_t train_transform_cuda_scratch(const TransformArgs& args);
int train_transform_cuda(const TransformArgs& args, int32_t* scratch, void* stream);

// ---- shared by both devices ---------------------------------------------------------------------------------------

DSA_FAST_HD float normalized(float value, float mean, float std) { return (value - mean) / std; }

DSA_FAST_HD bool erased(const Plan& plan, int64_t y, int64_t x) {
  const int64_t below = y - plan.erase_top, right = x - plan.erase_left;
  return below >= 0 && below < plan.erase_height && right >= 0 && right < plan.erase_width;
}

struct Label {
  uint8_t i, u, v;
};

// The label of a pixel of the mirrored picture; label.i must be in 1..24. Parts 1 and 2 have no partner, 3 and 4 are
// partners, and so on. Without a table, (u, v) becomes (u, 1 - v) for 1 and 2, (1 - u, v) for 3..6, 23 and 24.
DSA_FAST_HD Label mirrored_label(Label label, const uint8_t* mirror) {
  const bool torso = label.i <= 2;
  const uint8_t partner = static_cast<uint8_t>(torso ? label.i : label.i + (label.i % 2 == 1 ? 1 : -1));
  if (mirror != nullptr) {
    const uint8_t* uv = mirror + (label.i - 1) * 2 * 65536 + label.v * 256 + label.u;
    return {partner, uv[0], uv[65536]};
  }
  const bool along_u = (label.i >= 3 && label.i <= 6) || label.i >= 23;
  return {partner, static_cast<uint8_t>(along_u ? 255 - label.u : label.u),
          static_cast<uint8_t>(torso ? 255 - label.v : label.v)};
}

// The row of the stored map that row i of the grid shows; -1 outside.
DSA_FAST_HD int64_t grid_row(const TransformArgs& a, const Plan& plan, int64_t i) {
  const int64_t row = nearest(a.H, a.grid_h, i) + plan.top - a.pad;
  return row >= 0 && row < a.H ? nearest(a.h, a.H, row) : -1;
}

// The column of the stored map that column j of the grid shows; -1 outside.
DSA_FAST_HD int64_t grid_column(const TransformArgs& a, const Plan& plan, int64_t j) {
  const int64_t cropped = nearest(a.W, a.grid_w, j) + plan.left - a.pad;
  if (cropped < 0 || cropped >= a.W) return -1;
  return nearest(a.w, a.W, plan.flip != 0 ? a.W - 1 - cropped : cropped);
}

// Writes one cell of image b's grid, which shows this row and column of the stored map.
DSA_FAST_HD void write_cell(const TransformArgs& a, const Plan& plan, int64_t b, int64_t cell, int64_t row,
                            int64_t column) {
  Label label{0, 0, 0};
  if (row >= 0 && column >= 0 && plan.index >= 0 && plan.index < a.N) {
    const uint8_t* at = a.iuv + plan.index * a.iuv_stride[0] + row * a.iuv_stride[2] + column * a.iuv_stride[3];
    label = {at[0], at[a.iuv_stride[1]], at[2 * a.iuv_stride[1]]};
    if (plan.flip != 0 && label.i >= 1 && label.i <= kParts) label = mirrored_label(label, a.mirror);
  }
  const int64_t cells = a.grid_h * a.grid_w;
  uint8_t* to = a.grid + 3 * b * cells + cell;
  to[0] = label.i;
  to[cells] = label.u;
  to[2 * cells] = label.v;
}

}  // namespace dsa_fast
