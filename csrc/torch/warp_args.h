// Turns PyTorch's tensors into the plain arguments of warp.h.
#pragma once

#include "torch_args.h"

namespace dsa_fast {

inline DType gradient_dtype_of(ScalarType type) {
  STD_TORCH_CHECK(type != ScalarType::Byte, "dsa_fast: a gradient must have a floating point dtype, got ", type);
  return dtype_of(type);
}

inline IuvMap iuv_map(const Tensor& iuv) {
  STD_TORCH_CHECK(has_shape(iuv, {kAny, 3, kAny, kAny}), "dsa_fast: iuv must have shape [B, 3, H, W]", got(iuv));
  IuvMap map{};
  map.dtype = dtype_of(iuv.scalar_type());
  STD_TORCH_CHECK(map.dtype != DType::kFloat64, "dsa_fast: iuv must not be float64", got(iuv));
  map.data = iuv.const_data_ptr();
  copy_strides(iuv, map.stride);
  map.B = iuv.size(0);
  map.H = iuv.size(2);
  map.W = iuv.size(3);
  check_pixels(map.H, map.W);
  return map;
}

// [B, 24, C, S, S]
inline Tensor empty_dsap(const Tensor& img, int64_t images, int64_t size, ScalarType dtype) {
  check_size(size);
  STD_TORCH_CHECK(img.dim() == 4, "dsa_fast: img must have shape [B, C, H, W]", got(img));
  return empty({images, kParts, img.size(1), size, size}, dtype, img);
}

inline Tensor empty_count(const Tensor& iuv, int64_t size) {
  check_size(size);
  STD_TORCH_CHECK(iuv.dim() == 4, "dsa_fast: iuv must have shape [B, 3, H, W]", got(iuv));
  return empty({iuv.size(0), kParts, size, size}, ScalarType::Int, iuv);
}

inline Tensor empty_grad_img(const Tensor& grad, const Tensor& iuv, ScalarType dtype) {
  check_same_device(grad, iuv);
  STD_TORCH_CHECK(has_shape(grad, {kAny, kParts, kAny, kAny, kAny}) && grad.size(3) == grad.size(4),
                  "dsa_fast: grad must have shape [B, 24, C, S, S]", got(grad));
  STD_TORCH_CHECK(iuv.dim() == 4, "dsa_fast: iuv must have shape [B, 3, H, W]", got(iuv));
  check_size(grad.size(3));
  return empty({iuv.size(0), grad.size(2), iuv.size(2), iuv.size(3)}, dtype, grad);
}

// fill must outlive the result.
inline WarpArgs warp_args(const Tensor& img, const Tensor& iuv, int64_t size, const std::vector<double>& fill,
                          const std::string& reduce, const Tensor& out) {
  check_same_device(img, iuv);
  WarpArgs args{};
  args.iuv = iuv_map(iuv);
  args.img = img.const_data_ptr();
  copy_strides(img, args.img_stride);
  args.img_dtype = dtype_of(img.scalar_type());
  args.fill = fill.data();
  args.out = out.mutable_data_ptr();
  args.out_dtype = dtype_of(out.scalar_type());
  args.C = img.size(1);
  args.S = size;
  args.reduce = reduce_of(reduce);
  STD_TORCH_CHECK(img.size(0) == args.iuv.B && img.size(2) == args.iuv.H && img.size(3) == args.iuv.W,
                  "dsa_fast: img and iuv must agree in B, H and W", got(img), " and", got(iuv));
  check_fill(fill, args.C);
  return args;
}

inline CountArgs count_args(const Tensor& iuv, int64_t size, const Tensor& count) {
  return {iuv_map(iuv), static_cast<int32_t*>(count.mutable_data_ptr()), size};
}

inline WarpBackwardArgs warp_backward_args(const Tensor& grad, const Tensor& iuv, const std::string& reduce,
                                           const Tensor& grad_img) {
  WarpBackwardArgs args{};
  args.iuv = iuv_map(iuv);
  args.grad = grad.const_data_ptr();
  copy_strides(grad, args.grad_stride);
  args.grad_dtype = gradient_dtype_of(grad.scalar_type());
  args.grad_img = grad_img.mutable_data_ptr();
  args.grad_img_dtype = gradient_dtype_of(grad_img.scalar_type());
  args.C = grad.size(2);
  args.S = grad.size(3);
  args.reduce = reduce_of(reduce);
  STD_TORCH_CHECK(grad.size(0) == args.iuv.B, "dsa_fast: grad and iuv must agree in B", got(grad), " and", got(iuv));
  return args;
}

}  // namespace dsa_fast
