// The operators that run on both devices.
//
// Device is Cpu (cpu.cpp) or Cuda (cuda.cpp). It is constructed from a tensor on the device, and takes the plain
// arguments of each kernel.
#pragma once

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "crop_args.h"
#include "densepose_args.h"
#include "transform_args.h"
#include "warp_args.h"

namespace dsa_fast {

template <typename Device>
Tensor warp_op(const Tensor& img, const Tensor& iuv, int64_t size, const std::vector<double>& fill,
               const std::string& reduce, ScalarType dtype) {
  const Device device(img);
  Tensor out = empty_dsap(img, img.size(0), size, dtype);
  device.run(warp_args(img, iuv, size, fill, reduce, out));
  return out;
}

template <typename Device>
Tensor warp_count_op(const Tensor& iuv, int64_t size) {
  const Device device(iuv);
  Tensor count = empty_count(iuv, size);
  device.run(count_args(iuv, size, count));
  return count;
}

template <typename Device>
Tensor warp_backward_op(const Tensor& grad, const Tensor& iuv, const std::string& reduce, ScalarType dtype) {
  const Device device(grad);
  Tensor grad_img = empty_grad_img(grad, iuv, dtype);
  device.run(warp_backward_args(grad, iuv, reduce, grad_img));
  return grad_img;
}

template <typename Device>
Tensor crop_op(const Tensor& img, const Tensor& iuv, int64_t size, const std::vector<double>& fill, bool mask,
               ScalarType dtype) {
  const Device device(img);
  Tensor out = empty_dsap(img, img.size(0), size, dtype);
  device.run(crop_args(img, iuv, size, fill, mask, out));
  return out;
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> train_transform_op(const Tensor& images, const Tensor& iuv, const Tensor& plan,
                                                      const std::optional<Tensor>& mirror, int64_t height,
                                                      int64_t width, int64_t pad, int64_t size, int64_t grid_height,
                                                      int64_t grid_width, const std::vector<double>& mean,
                                                      const std::vector<double>& std, const std::string& reduce,
                                                      ScalarType dtype, ScalarType dsap_dtype, bool channels_last) {
  const Device device(images);
  Tensor full = empty_full(images, plan, height, width, dtype, channels_last);
  Tensor dsap = empty_parts(images, plan, size, dsap_dtype);
  Tensor grid = empty_grid(images, plan, grid_height, grid_width);
  device.run(transform_args(images, iuv, plan, mirror, height, width, pad, size, mean, std, reduce, full, dsap, grid,
                            channels_last));
  return {full, dsap, grid};
}

template <typename Device>
Tensor warp_densepose_op(const Tensor& img, const Tensor& coarse_segm, const Tensor& fine_segm, const Tensor& u,
                         const Tensor& v, const Tensor& boxes, const Tensor& image_index, int64_t size,
                         const std::vector<double>& fill, const std::string& reduce, ScalarType dtype) {
  const Device device(img);
  const Charts charts = charts_of(coarse_segm, fine_segm, u, v, boxes);
  Tensor out = empty_dsap(img, charts.N, size, dtype);
  device.run(warp_densepose_args(img, charts, boxes, image_index, size, fill, reduce, out));
  return out;
}

template <typename Device>
Tensor densepose_iuv_op(const Tensor& coarse_segm, const Tensor& fine_segm, const Tensor& u, const Tensor& v,
                        const Tensor& boxes, int64_t height, int64_t width, ScalarType dtype) {
  const Device device(boxes);
  const Charts charts = charts_of(coarse_segm, fine_segm, u, v, boxes);
  Tensor out = empty_maps(boxes, height, width, dtype);
  device.run(DensePoseIuvArgs{charts, out.mutable_data_ptr(), dtype_of(dtype), height, width});
  return out;
}

// Registers all operators for a dispatch key's library m.
template <typename Device, typename Library>
void register_ops(Library& m) {
  m.impl("warp", TORCH_BOX(&warp_op<Device>));
  m.impl("warp_detached", TORCH_BOX(&warp_op<Device>));
  m.impl("warp_count", TORCH_BOX(&warp_count_op<Device>));
  m.impl("warp_backward", TORCH_BOX(&warp_backward_op<Device>));
  m.impl("crop", TORCH_BOX(&crop_op<Device>));
  m.impl("train_transform", TORCH_BOX(&train_transform_op<Device>));
  m.impl("warp_densepose", TORCH_BOX(&warp_densepose_op<Device>));
  m.impl("warp_densepose_detached", TORCH_BOX(&warp_densepose_op<Device>));
  m.impl("densepose_iuv", TORCH_BOX(&densepose_iuv_op<Device>));
}

}  // namespace dsa_fast
