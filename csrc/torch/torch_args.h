// Turns PyTorch's tensors into the plain arguments of the kernels: code shared by all operators.
//
// These checks keep memory safe. Python raises the errors meant for users.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "../texel.h"
#include "../warp.h"

namespace dsa_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kAny = -1;

template <typename Sizes>
std::string show(ScalarType dtype, const Sizes& sizes) {
  std::string text;
  for (const int64_t n : sizes) text += (text.empty() ? "" : ", ") + (n == kAny ? "*" : std::to_string(n));
  return std::string(torch::headeronly::toString(dtype)) + " [" + text + "]";
}

// The end of an error: ", got Float [2, 3, 4]".
inline std::string got(const Tensor& tensor) {
  return ", got " + show(tensor.scalar_type(), tensor.sizes()) + (tensor.is_contiguous() ? "" : ", not contiguous");
}

inline bool has_shape(const Tensor& tensor, std::initializer_list<int64_t> shape) {
  return tensor.dim() == static_cast<int64_t>(shape.size()) &&
         std::equal(shape.begin(), shape.end(), tensor.sizes().begin(),
                    [](int64_t wanted, int64_t n) { return wanted == n || wanted == kAny; });
}

// The data of a contiguous tensor of one dtype and shape.
template <typename T>
const T* contiguous_data(const char* name, const Tensor& tensor, ScalarType dtype,
                         std::initializer_list<int64_t> shape) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.is_contiguous() && has_shape(tensor, shape),
                  "dsa_fast: ", name, " has another shape, dtype or layout: it must be contiguous ", show(dtype, shape),
                  got(tensor));
  return static_cast<const T*>(tensor.const_data_ptr());
}

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
      STD_TORCH_CHECK(false, "dsa_fast: dtype must be uint8, float16, bfloat16, float32 or float64, got ", type);
  }
}

inline Reduce reduce_of(const std::string& reduce) {
  STD_TORCH_CHECK(reduce == "last" || reduce == "mean", "dsa_fast: reduce must be 'last' or 'mean', got '", reduce,
                  "'");
  return reduce == "last" ? Reduce::kLast : Reduce::kMean;
}

inline void check_size(int64_t size) {
  STD_TORCH_CHECK(size >= 1 && size <= kMaxSize, "dsa_fast: size must be in 1..", kMaxSize, ", got ", size);
}

inline void check_pixels(int64_t height, int64_t width) {
  STD_TORCH_CHECK(height >= 0 && width >= 0 && (height == 0 || width <= std::numeric_limits<int32_t>::max() / height),
                  "dsa_fast: H * W must be below 2^31, got ", height, " * ", width);
}

inline void check_same_device(const Tensor& a, const Tensor& b) {
  STD_TORCH_CHECK(a.device() == b.device(), "dsa_fast: all tensors must be on one device, got two");
}

inline void check_fill(const std::vector<double>& fill, int64_t channels) {
  STD_TORCH_CHECK(static_cast<int64_t>(fill.size()) == channels,
                  "dsa_fast: fill must hold one number per channel, got ", fill.size(), " for ", channels);
}

template <int64_t dims>
void copy_strides(const Tensor& tensor, int64_t (&stride)[dims]) {
  std::copy_n(tensor.strides().data(), dims, stride);
}

// On like's device, in memory of PyTorch. torch::stable::empty looks the operator up by its name and boxes its
// arguments at each call: the contiguous results, which every operator has, do without.
inline Tensor plain_empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like, bool channels_last) {
  const auto device = like.device();
  if (channels_last) {
    return torch::stable::empty(shape, dtype, std::nullopt, device, std::nullopt,
                                torch::headeronly::MemoryFormat::ChannelsLast);
  }
  std::vector<int64_t> stride(shape.size(), 1);
  for (size_t k = shape.size(); k-- > 1;) stride[k - 1] = stride[k] * std::max<int64_t>(shape[k], 1);
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()), shape.data(), stride.data(),
                                                  static_cast<int32_t>(dtype), static_cast<int32_t>(device.type()),
                                                  static_cast<int32_t>(device.index()), &made));
  return Tensor(made);
}

// Each library has its own: the CPU's keeps the memory of large results.
Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like, bool channels_last = false);

}  // namespace dsa_fast
