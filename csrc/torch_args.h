// From PyTorch's tensors to the plain arguments of warp.h, for the registrations at the foot of cpu/ and cuda/.
//
// Only what memory safety needs is checked here; the messages meant for users come from Python.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "warp.h"

namespace dsa_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(ScalarType type) {
  switch (type) {
    case ScalarType::Byte:
      return DType::kUInt8;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      STD_TORCH_CHECK(false, "dsa_fast: dtype must be uint8, float16, bfloat16, float32 or float64");
  }
}

inline DType float_dtype_of(ScalarType type) {
  STD_TORCH_CHECK(type != ScalarType::Byte, "dsa_fast: a gradient must have a floating point dtype");
  return dtype_of(type);
}

inline Reduce reduce_of(const std::string& reduce) {
  STD_TORCH_CHECK(reduce == "last" || reduce == "mean", "dsa_fast: reduce must be 'last' or 'mean', got '", reduce,
                  "'");
  return reduce == "last" ? Reduce::kLast : Reduce::kMean;
}

inline void check_size(int64_t size) {
  STD_TORCH_CHECK(size >= 1 && size <= kMaxSize, "dsa_fast: size must be in 1..", kMaxSize, ", got ", size);
}

inline void check_same_device(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.device() == b.device(), "dsa_fast: all tensors must be on one device");
}

inline IuvMap iuv_map(const Tensor& iuv) {
  STD_TORCH_CHECK(iuv.dim() == 4 && iuv.size(1) == 3, "dsa_fast: iuv must have shape [B, 3, H, W]");
  IuvMap map{};
  map.dtype = dtype_of(iuv.scalar_type());
  STD_TORCH_CHECK(map.dtype != DType::kFloat64, "dsa_fast: iuv must not be float64");
  map.data = iuv.const_data_ptr();
  std::copy_n(iuv.strides().data(), 4, map.stride);
  map.B = iuv.size(0);
  map.H = iuv.size(2);
  map.W = iuv.size(3);
  STD_TORCH_CHECK(map.H == 0 || map.W <= std::numeric_limits<int32_t>::max() / map.H,
                  "dsa_fast: H * W must be below 2^31");
  return map;
}

inline Tensor empty_dsap(const Tensor& img, const Tensor& iuv, int64_t size, ScalarType dtype) {
  check_size(size);
  check_same_device(img, iuv);
  STD_TORCH_CHECK(img.dim() == 4, "dsa_fast: img must have shape [B, C, H, W]");
  return torch::stable::empty({img.size(0), kParts, img.size(1), size, size}, dtype, std::nullopt, img.device());
}

inline Tensor empty_count(const Tensor& iuv, int64_t size) {
  check_size(size);
  STD_TORCH_CHECK(iuv.dim() == 4, "dsa_fast: iuv must have shape [B, 3, H, W]");
  return torch::stable::empty({iuv.size(0), kParts, size, size}, ScalarType::Int, std::nullopt, iuv.device());
}

inline Tensor empty_grad_img(const Tensor& grad, const Tensor& iuv, ScalarType dtype) {
  check_same_device(grad, iuv);
  STD_TORCH_CHECK(grad.dim() == 5 && grad.size(1) == kParts && grad.size(3) == grad.size(4),
                  "dsa_fast: grad must have shape [B, 24, C, S, S]");
  STD_TORCH_CHECK(iuv.dim() == 4, "dsa_fast: iuv must have shape [B, 3, H, W]");
  check_size(grad.size(3));
  return torch::stable::empty({iuv.size(0), grad.size(2), iuv.size(2), iuv.size(3)}, dtype, std::nullopt,
                              grad.device());
}

// fill must outlive the result.
inline WarpArgs warp_args(const Tensor& img, const Tensor& iuv, int64_t size, const std::vector<double>& fill,
                          const std::string& reduce, const Tensor& out) {
  WarpArgs args{};
  args.iuv = iuv_map(iuv);
  args.img = img.const_data_ptr();
  std::copy_n(img.strides().data(), 4, args.img_stride);
  args.img_dtype = dtype_of(img.scalar_type());
  args.fill = fill.data();
  args.out = out.mutable_data_ptr();
  args.out_dtype = dtype_of(out.scalar_type());
  args.C = img.size(1);
  args.S = size;
  args.reduce = reduce_of(reduce);
  STD_TORCH_CHECK(img.size(0) == args.iuv.B && img.size(2) == args.iuv.H && img.size(3) == args.iuv.W,
                  "dsa_fast: img and iuv must agree in B, H and W");
  STD_TORCH_CHECK(static_cast<int64_t>(fill.size()) == args.C, "dsa_fast: fill must hold one number per channel");
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
  std::copy_n(grad.strides().data(), 5, args.grad_stride);
  args.grad_dtype = float_dtype_of(grad.scalar_type());
  args.grad_img = grad_img.mutable_data_ptr();
  args.grad_img_dtype = float_dtype_of(grad_img.scalar_type());
  args.C = grad.size(2);
  args.S = grad.size(3);
  args.reduce = reduce_of(reduce);
  STD_TORCH_CHECK(grad.size(0) == args.iuv.B, "dsa_fast: grad and iuv must agree in B");
  return args;
}

}  // namespace dsa_fast
