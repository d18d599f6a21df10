// Turns PyTorch's tensors into the plain arguments of crop.h.
#pragma once

#include "../crop.h"
#include "warp_args.h"

namespace dsa_fast {

// fill must outlive the result.
inline CropArgs crop_args(const Tensor& img, const Tensor& iuv, int64_t size, const std::vector<double>& fill,
                          bool mask, const Tensor& out) {
  const WarpArgs warp = warp_args(img, iuv, size, fill, "last", out);
  CropArgs args{};
  args.img = warp.img;
  std::copy_n(warp.img_stride, 4, args.img_stride);
  args.img_dtype = warp.img_dtype;
  args.iuv = warp.iuv;
  args.fill = warp.fill;
  args.out = warp.out;
  args.out_dtype = warp.out_dtype;
  args.C = warp.C;
  args.S = warp.S;
  args.mask = mask;
  return args;
}

}  // namespace dsa_fast
