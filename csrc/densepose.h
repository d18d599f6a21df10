// warp_densepose: the warp directly from the outputs of DensePose's chart heads; and the IUV maps themselves.
//
// Each of N instances has its heads, its box and its image. chart.h says which part, u and v a pixel of the box has.
// Box pixels outside the image are skipped. The result for an instance equals that of warp.h for its image and the map
// of densepose_iuv, bit for bit on every device.
//
// An instance whose image_index is not in 0..B-1 gets no pixels.
//
// Pointers are as in warp.h. The CPU functions are threaded; their results do not depend on the number of threads. The
// CUDA functions read the boxes on the device: they queue their work and never wait.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "warp.h"

namespace dsa_fast {

struct Head {
  const void* data;   // [N, channels, h, w]
  int64_t stride[4];  // of data, in elements
};

struct Charts {
  Head coarse;         // [N, K, h, w]
  Head fine;           // [N, 25, h, w]
  Head u, v;           // [N, 25, h, w]
  DType dtype;         // of all four: kFloat16, kBFloat16 or kFloat32
  const float* boxes;  // [N, 4]: x0, y0, x1, y1 in pixels of the image, contiguous
  int64_t N, K;        // K >= 1
  int64_t h, w;        // 1 <= h, w < 2^31
};

struct WarpDensePoseArgs {
  const void* img;        // [B, C, H, W]
  int64_t img_stride[4];  // of img
  DType img_dtype;
  Charts charts;
  const int64_t* image_index;  // [N]: the image of each instance
  const double* fill;          // [C], on the host
  void* out;                   // [N, 24, C, S, S], contiguous
  DType out_dtype;
  int64_t B, C, H, W, S;
  Reduce reduce;
};

// I, u and v of each pixel of the image; 0, 0, 0 where it is background. As kFloat32: I, and u and v as they are. As
// kUInt8: I, and 255 u and 255 v rounded to the nearest (ties to even) and cut to 0..255; 0, 0, 0 where u or v is NaN.
struct DensePoseIuvArgs {
  Charts charts;
  void* out;  // [N, 3, H, W], contiguous
  DType out_dtype;
  int64_t H, W;
};

void warp_densepose_cpu(const WarpDensePoseArgs& args);
void densepose_iuv_cpu(const DensePoseIuvArgs& args);

// Scratch and streams as for warp_cuda.
int64_t warp_densepose_cuda_scratch(const WarpDensePoseArgs& args);
int warp_densepose_cuda(const WarpDensePoseArgs& args, int32_t* scratch, void* stream);
int densepose_iuv_cuda(const DensePoseIuvArgs& args, void* stream);

}  // namespace dsa_fast
