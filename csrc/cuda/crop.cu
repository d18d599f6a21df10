// crop on CUDA; ../crop.h defines the results.
//
// Two launches. In the first, each pixel stores its part and widens the part's box with integer maxima, whose result
// does not depend on their order. In the second, each texel copies its pixel. The kernels use no shared memory and no
// barrier.
#include "../crop.h"

#include <algorithm>

#include "gather.h"
#include "launch.h"

namespace dsa_fast {
namespace {

template <typename T>
__global__ void label_pixels(IuvMap map,
                             int32_t* reach,    // [B, 24, 4], zeros
                             int32_t* parts) {  // [B, H * W]
  FOR_EACH_ITEM(b, map.B) {
    FOR_EACH_ELEMENT(pixel, map.H * map.W) {
      const int64_t y = pixel / map.W, x = pixel % map.W;
      const int32_t part = part_at<T>(map, b, y, x);
      parts[b * map.H * map.W + pixel] = part;
      if (part < 0) continue;
      int32_t* r = reach + (b * kParts + part) * kReaches;
      atomicMax(r, static_cast<int32_t>(map.H - y));
      atomicMax(r + 1, static_cast<int32_t>(y + 1));
      atomicMax(r + 2, static_cast<int32_t>(map.W - x));
      atomicMax(r + 3, static_cast<int32_t>(x + 1));
    }
  }
}

// Writes channels c_begin <= c < c_end of every texel. A thread owns a texel; neighbors write neighbors.
template <typename In, typename Out>
__global__ void copy_texels(CropArgs a, Fill<Out> fill, int64_t c_begin, int64_t c_end,
                            const int32_t* reach,    // [B, 24, 4]
                            const int32_t* parts) {  // [B, H * W]
  const int64_t cells = a.S * a.S;
  FOR_EACH_ITEM(b, a.iuv.B) {
    FOR_EACH_ELEMENT(t, kParts * cells) {
      const int32_t part = static_cast<int32_t>(t / cells);
      const int64_t cell = t % cells;
      const CropBox box = crop_box(reach + (b * kParts + part) * kReaches, a.iuv.H, a.iuv.W);
      const In* pixel = nullptr;
      if (box.height > 0) {
        const int64_t y = box.top + crop_source(cell / a.S, box.height, a.S);
        const int64_t x = box.left + crop_source(cell % a.S, box.width, a.S);
        if (!a.mask || parts[(b * a.iuv.H + y) * a.iuv.W + x] == part) {
          pixel = static_cast<const In*>(a.img) + b * a.img_stride[0] + y * a.img_stride[2] + x * a.img_stride[3];
        }
      }
      Out* target = static_cast<Out*>(a.out) + (b * kParts + part) * a.C * cells + cell;
      for (int64_t c = c_begin; c < c_end; ++c) {
        target[c * cells] = pixel == nullptr ? fill.at(c - c_begin) : convert<Out>(pixel[c * a.img_stride[1]]);
      }
    }
  }
}

}  // namespace

int64_t crop_cuda_scratch(const CropArgs& args) { return args.iuv.B * (kParts * kReaches + args.iuv.H * args.iuv.W); }

int crop_cuda(const CropArgs& args, int32_t* scratch, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  const int64_t reaches = args.iuv.B * kParts * kReaches;
  if (reaches == 0 || args.C == 0) return cudaSuccess;
  int32_t* parts = scratch + reaches;
  const cudaError_t error =
      cleared(cudaMemsetAsync(scratch, 0, static_cast<size_t>(reaches) * sizeof(int32_t), stream));
  if (error != cudaSuccess) return error;
  IuvTypes::visit(args.iuv.dtype, [&](auto iuv) {
    launch(label_pixels<TypeOf<decltype(iuv)>>, args.iuv.H * args.iuv.W, args.iuv.B, stream, args.iuv, scratch, parts);
  });
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    using Out = TypeOf<decltype(out)>;
    for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& fill, int64_t c_begin, int64_t c_end) {
      launch(copy_texels<TypeOf<decltype(in)>, Out>, kParts * args.S * args.S, args.iuv.B, stream, args, fill, c_begin,
             c_end, scratch, parts);
    });
  });
  return cudaGetLastError();
}

}  // namespace dsa_fast
