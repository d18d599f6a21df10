// Turns PyTorch's tensors into the plain arguments of densepose.h.
#pragma once

#include "../densepose.h"
#include "torch_args.h"

namespace dsa_fast {

inline Head head_of(const Tensor& tensor) {
  Head head{};
  head.data = tensor.const_data_ptr();
  copy_strides(tensor, head.stride);
  return head;
}

inline Charts charts_of(const Tensor& coarse_segm, const Tensor& fine_segm, const Tensor& u, const Tensor& v,
                        const Tensor& boxes) {
  Charts charts{};
  charts.boxes = contiguous_data<float>("boxes", boxes, ScalarType::Float, {kAny, 4});
  STD_TORCH_CHECK(coarse_segm.dim() == 4 && coarse_segm.size(1) >= 1, "dsa_fast: coarse_segm must be [N, K, h, w]",
                  got(coarse_segm));
  for (const Tensor* head : {&coarse_segm, &fine_segm, &u, &v}) {
    check_same_device(*head, boxes);
    const int64_t channels = head == &coarse_segm ? kAny : kParts + 1;
    STD_TORCH_CHECK(head->scalar_type() == coarse_segm.scalar_type() &&
                        has_shape(*head, {boxes.size(0), channels, coarse_segm.size(2), coarse_segm.size(3)}),
                    "dsa_fast: fine_segm, u and v must be [N, 25, h, w], coarse_segm [N, K, h, w], of one dtype",
                    got(*head));
  }
  charts.coarse = head_of(coarse_segm);
  charts.fine = head_of(fine_segm);
  charts.u = head_of(u);
  charts.v = head_of(v);
  charts.dtype = dtype_of(coarse_segm.scalar_type());
  STD_TORCH_CHECK(charts.dtype != DType::kUInt8 && charts.dtype != DType::kFloat64,
                  "dsa_fast: heads must be float16, bfloat16 or float32", got(coarse_segm));
  charts.N = boxes.size(0);
  charts.K = coarse_segm.size(1);
  charts.h = coarse_segm.size(2);
  charts.w = coarse_segm.size(3);
  constexpr int64_t kLimit = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(charts.h >= 1 && charts.w >= 1 && charts.h <= kLimit && charts.w <= kLimit,
                  "dsa_fast: h and w of the heads must be in 1..2^31 - 1", got(coarse_segm));
  return charts;
}

inline Tensor empty_maps(const Tensor& boxes, int64_t height, int64_t width, ScalarType dtype) {
  check_pixels(height, width);
  STD_TORCH_CHECK(dtype == ScalarType::Byte || dtype == ScalarType::Float,
                  "dsa_fast: dtype must be uint8 or float32, got ", dtype);
  return empty({boxes.size(0), 3, height, width}, dtype, boxes);
}

// fill must outlive the result.
inline WarpDensePoseArgs warp_densepose_args(const Tensor& img, const Charts& charts, const Tensor& boxes,
                                             const Tensor& image_index, int64_t size, const std::vector<double>& fill,
                                             const std::string& reduce, const Tensor& out) {
  check_same_device(img, boxes);
  check_same_device(img, image_index);
  WarpDensePoseArgs args{};
  args.img = img.const_data_ptr();
  copy_strides(img, args.img_stride);
  args.img_dtype = dtype_of(img.scalar_type());
  args.charts = charts;
  args.image_index = contiguous_data<int64_t>("image_index", image_index, ScalarType::Long, {charts.N});
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
  check_fill(fill, args.C);
  return args;
}

}  // namespace dsa_fast
