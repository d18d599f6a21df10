// Turns PyTorch's tensors into the plain arguments of transform.h.
#pragma once

#include "../transform.h"
#include "torch_args.h"

namespace dsa_fast {

inline void check_transform_dtype(ScalarType dtype) {
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "dsa_fast: dtype must be float16, bfloat16 or float32, got ", dtype);
}

inline Tensor empty_full(const Tensor& images, const Tensor& plan, int64_t height, int64_t width, ScalarType dtype,
                         bool channels_last) {
  check_transform_dtype(dtype);
  STD_TORCH_CHECK(plan.dim() == 2, "dsa_fast: plan must have shape [B, 8]", got(plan));
  STD_TORCH_CHECK(height >= 1 && width >= 1 && width <= std::numeric_limits<int32_t>::max() / 255 / height,
                  "dsa_fast: height * width * 255 must be in 1..2^31 - 1, got ", height, " * ", width, " * 255");
  return empty({plan.size(0), 3, height, width}, dtype, images, channels_last);
}

inline Tensor empty_parts(const Tensor& images, const Tensor& plan, int64_t size, ScalarType dtype) {
  check_transform_dtype(dtype);
  if (size != 0) check_size(size);
  return empty({plan.size(0), kParts, 3, size, size}, dtype, images);
}

inline Tensor empty_grid(const Tensor& images, const Tensor& plan, int64_t height, int64_t width) {
  check_pixels(height, width);
  return empty({plan.size(0), 3, height, width}, ScalarType::Byte, images);
}

inline TransformArgs transform_args(const Tensor& images, const Tensor& iuv, const Tensor& plan,
                                    const std::optional<Tensor>& mirror, int64_t height, int64_t width, int64_t pad,
                                    int64_t size, const std::vector<double>& mean, const std::vector<double>& std,
                                    const std::string& reduce, const Tensor& full, const Tensor& dsap,
                                    const Tensor& grid, bool channels_last) {
  constexpr int64_t kLimit = int64_t{1} << 29;  // a pixel has up to twice as many weights, counted in 32 bits
  for (const Tensor* stored : {&images, &iuv}) {
    STD_TORCH_CHECK(stored->scalar_type() == ScalarType::Byte && has_shape(*stored, {kAny, 3, kAny, kAny}),
                    "dsa_fast: images and iuv must be uint8 [N, 3, h, w]", got(*stored));
    check_same_device(images, *stored);
  }
  STD_TORCH_CHECK(images.size(0) == iuv.size(0) && images.size(2) == iuv.size(2) && images.size(3) == iuv.size(3),
                  "dsa_fast: images and iuv must agree in N, h and w", got(images), " and", got(iuv));
  STD_TORCH_CHECK(images.size(2) >= 1 && images.size(3) >= 1 && images.size(2) < kLimit && images.size(3) < kLimit,
                  "dsa_fast: h and w must be in 1..2^29 - 1", got(images));
  STD_TORCH_CHECK(pad >= 0 && pad < 2 * kLimit, "dsa_fast: pad must be in 0..2^30 - 1, got ", pad);
  check_same_device(images, plan);
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "dsa_fast: mean and std must hold 3 numbers each, got ",
                  mean.size(), " and ", std.size());
  TransformArgs args{};
  args.images = static_cast<const uint8_t*>(images.const_data_ptr());
  copy_strides(images, args.image_stride);
  args.iuv = static_cast<const uint8_t*>(iuv.const_data_ptr());
  copy_strides(iuv, args.iuv_stride);
  if (mirror.has_value()) {
    check_same_device(images, *mirror);
    args.mirror = contiguous_data<uint8_t>("mirror", *mirror, ScalarType::Byte, {kParts, 2, 256, 256});
  }
  static_assert(sizeof(Plan) == 8 * sizeof(int32_t));
  args.plan = contiguous_data<Plan>("plan", plan, ScalarType::Int, {kAny, 8});
  args.full = full.mutable_data_ptr();
  args.full_dtype = dtype_of(full.scalar_type());
  args.dsap = dsap.mutable_data_ptr();
  args.dsap_dtype = dtype_of(dsap.scalar_type());
  args.grid = static_cast<uint8_t*>(grid.mutable_data_ptr());
  args.grid_h = grid.size(2);
  args.grid_w = grid.size(3);
  args.N = images.size(0);
  args.B = plan.size(0);
  args.h = images.size(2);
  args.w = images.size(3);
  args.H = height;
  args.W = width;
  args.pad = pad;
  args.S = size;
  for (int c = 0; c < 3; ++c) {
    args.mean[c] = static_cast<float>(mean[static_cast<size_t>(c)]);
    args.std[c] = static_cast<float>(std[static_cast<size_t>(c)]);
  }
  args.reduce = reduce_of(reduce);
  args.channels_last = channels_last;
  return args;
}

}  // namespace dsa_fast
