// From PyTorch's tensors to the plain arguments of densepose.h, for the registrations at the foot of cpu/ and cuda/.
//
// Only what memory safety needs is checked here; the messages meant for users come from Python.
#pragma once

#include "densepose.h"
#include "torch_args.h"

namespace dsa_fast {

inline Head head_of(const Tensor& tensor) {
  Head head{};
  head.data = tensor.const_data_ptr();
  std::copy_n(tensor.strides().data(), 4, head.stride);
  return head;
}

inline Charts charts_of(const Tensor& coarse_segm, const Tensor& fine_segm, const Tensor& u, const Tensor& v,
                        const Tensor& boxes) {
  STD_TORCH_CHECK(
      boxes.dim() == 2 && boxes.size(1) == 4 && boxes.scalar_type() == ScalarType::Float && boxes.is_contiguous(),
      "dsa_fast: boxes must be float32 [N, 4], contiguous");
  STD_TORCH_CHECK(coarse_segm.dim() == 4 && coarse_segm.size(1) >= 1, "dsa_fast: coarse_segm must be [N, K, h, w]");
  for (const Tensor* head : {&coarse_segm, &fine_segm, &u, &v}) {
    check_same_device(*head, boxes);
    STD_TORCH_CHECK(head->dim() == 4 && head->scalar_type() == coarse_segm.scalar_type() &&
                        head->size(0) == boxes.size(0) && head->size(2) == coarse_segm.size(2) &&
                        head->size(3) == coarse_segm.size(3) && (head == &coarse_segm || head->size(1) == kParts + 1),
                    "dsa_fast: fine_segm, u and v must be [N, 25, h, w], coarse_segm [N, K, h, w], of one dtype");
  }
  Charts charts{};
  charts.coarse = head_of(coarse_segm);
  charts.fine = head_of(fine_segm);
  charts.u = head_of(u);
  charts.v = head_of(v);
  charts.dtype = dtype_of(coarse_segm.scalar_type());
  STD_TORCH_CHECK(charts.dtype != DType::kUInt8 && charts.dtype != DType::kFloat64,
                  "dsa_fast: heads must be float16, bfloat16 or float32");
  charts.boxes = static_cast<const float*>(boxes.const_data_ptr());
  charts.N = boxes.size(0);
  charts.K = coarse_segm.size(1);
  charts.h = coarse_segm.size(2);
  charts.w = coarse_segm.size(3);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(charts.h >= 1 && charts.w >= 1 && charts.h <= kLimit && charts.w <= kLimit,
                  "dsa_fast: heads must have at least one pixel");
  return charts;
}

inline void check_pixels(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height >= 0 && width >= 0 && (height == 0 || width <= std::numeric_limits<int32_t>::max() / height),
                  "dsa_fast: H * W must be below 2^31");
}

inline Tensor empty_parts(const Tensor& img, const Charts& charts, int64_t size, ScalarType dtype) {
  check_size(size);
  STD_TORCH_CHECK(img.dim() == 4, "dsa_fast: img must have shape [B, C, H, W]");
  return torch::stable::empty({charts.N, kParts, img.size(1), size, size}, dtype, std::nullopt, img.device());
}

inline Tensor empty_maps(const Tensor& boxes, int64_t height, int64_t width, ScalarType dtype) {
  check_pixels(height, width);
  STD_TORCH_CHECK(dtype == ScalarType::Byte || dtype == ScalarType::Float, "dsa_fast: maps are uint8 or float32");
  return torch::stable::empty({boxes.size(0), 3, height, width}, dtype, std::nullopt, boxes.device());
}

// fill must outlive the result.
inline WarpDensePoseArgs warp_densepose_args(const Tensor& img, const Charts& charts, const Tensor& boxes,
                                             const Tensor& image_index, int64_t size, const std::vector<double>& fill,
                                             const std::string& reduce, const Tensor& out) {
  check_same_device(img, boxes);
  check_same_device(img, image_index);
  STD_TORCH_CHECK(image_index.dim() == 1 && image_index.size(0) == charts.N &&
                      image_index.scalar_type() == ScalarType::Long && image_index.is_contiguous(),
                  "dsa_fast: image_index must be int64 [N], contiguous");
  WarpDensePoseArgs args{};
  args.img = img.const_data_ptr();
  std::copy_n(img.strides().data(), 4, args.img_stride);
  args.img_dtype = dtype_of(img.scalar_type());
  args.charts = charts;
  args.image_index = static_cast<const int64_t*>(image_index.const_data_ptr());
  args.fill = fill.data();
  args.out = out.mutable_data_ptr();
  args.out_dtype = dtype_of(out.scalar_type());
  args.B = img.size(0);
  args.C = img.size(1);
  args.H = img.size(2);
  args.W = img.size(3);
  args.S = size;
  args.reduce = reduce_of(reduce);
  check_pixels(args.H, args.W);
  STD_TORCH_CHECK(static_cast<int64_t>(fill.size()) == args.C, "dsa_fast: fill must hold one number per channel");
  return args;
}

inline DensePoseIuvArgs densepose_iuv_args(const Charts& charts, const Tensor& out) {
  return {charts, out.mutable_data_ptr(), dtype_of(out.scalar_type()), out.size(2), out.size(3)};
}

}  // namespace dsa_fast
