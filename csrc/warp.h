// warp: copies each labeled pixel of a photo to its place in the 24 part images (DSAP).
//
// The result, on every device:
//   - texel.h defines the texel of a pixel. Background has none.
//   - Several pixels on one texel: Reduce::kLast keeps the last in raster order (y, then x). Reduce::kMean averages:
//     uint8 values are summed as integers, then float32(sum) / float32(count); float16, bfloat16 and float32 values
//     are summed in float32 in raster order, float64 in float64, then divided by the count in that precision.
//   - A texel without pixels has the value fill[c].
//   - Values and fill are cast to the result's type, not rescaled: to the nearest, ties to even; into uint8
//     saturating, NaN giving 0.
//   - CPU and CUDA give the same bits (a NaN's sign and payload aside), on every run.
//
// All pointers are device pointers for the CUDA functions, host pointers for the CPU ones, except fill (always host).
// Strides are counted in elements and may be anything, 0 included. H * W < 2^31; 1 <= S <= kMaxSize; B, C, H, W >= 0.
#pragma once

#include <cstdint>

#include "dtype.h"
#include "texel.h"

namespace dsa_fast {

enum class Reduce : int32_t { kLast, kMean };

struct IuvMap {
  const void* data;   // [B, 3, H, W]: I, U, V
  int64_t stride[4];  // of data
  DType dtype;        // kUInt8, kFloat16, kBFloat16 or kFloat32
  int64_t B, H, W;
};

struct WarpArgs {
  const void* img;        // [B, C, H, W]
  int64_t img_stride[4];  // of img
  DType img_dtype;
  IuvMap iuv;          // [B, 3, H, W]
  const double* fill;  // [C], on the host
  void* out;           // [B, 24, C, S, S], contiguous
  DType out_dtype;
  int64_t C, S;
  Reduce reduce;
};

// count[b, p, r, c]: how many pixels land on the texel.
struct CountArgs {
  IuvMap iuv;      // [B, 3, H, W]
  int32_t* count;  // [B, 24, S, S], contiguous
  int64_t S;
};

// The transpose of warp: kLast gives the winner its texel's gradient and the others 0; kMean gives each pixel its
// texel's gradient / count. Every pixel reads one texel; nothing is summed.
struct WarpBackwardArgs {
  const void* grad;        // [B, 24, C, S, S]
  int64_t grad_stride[5];  // of grad
  DType grad_dtype;        // a float type
  IuvMap iuv;              // [B, 3, H, W]
  void* grad_img;          // [B, C, H, W], contiguous
  DType grad_img_dtype;    // a float type
  int64_t C, S;
  Reduce reduce;
};

void warp_cpu(const WarpArgs& args);
void warp_count_cpu(const CountArgs& args);
void warp_backward_cpu(const WarpBackwardArgs& args);

// The CPU functions are threaded. kLast allocates nothing. kMean keeps sums and counts of one image per thread, the
// backward one map of an image's texels per thread.
//
// On CUDA, kMean of float values sorts each texel's pixels in one thread. That is fast for the few pixels per texel in
// real maps, and slow if all pixels of an image share one texel.
//
// The CUDA functions queue their work on a cudaStream_t of the current device and return a cudaError_t. They never wait
// and allocate nothing: scratch is device memory, as many int32 as the _scratch function returns for the same arguments
// (null where that is 0: uint8 photos and maps with the texels in shared memory take none).
int64_t warp_cuda_scratch(const WarpArgs& args);
int64_t warp_backward_cuda_scratch(const WarpBackwardArgs& args);
int warp_cuda(const WarpArgs& args, int32_t* scratch, void* stream);
int warp_count_cuda(const CountArgs& args, void* stream);
int warp_backward_cuda(const WarpBackwardArgs& args, int32_t* scratch, void* stream);

}  // namespace dsa_fast
