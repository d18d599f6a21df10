// The operators on CUDA.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>

#include "bindings.h"

namespace dsa_fast {

Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like, bool channels_last) {
  return plain_empty(shape, dtype, like, channels_last);
}

namespace {

class Cuda {
 public:
  explicit Cuda(const Tensor& on) : guard_(on.get_device_index()), on_(on) {}

  void run(const WarpArgs& args) const { launch(args, warp_cuda_scratch, warp_cuda); }
  void run(const CountArgs& args) const { check(warp_count_cuda(args, stream())); }
  void run(const WarpBackwardArgs& args) const { launch(args, warp_backward_cuda_scratch, warp_backward_cuda); }
  void run(const CropArgs& args) const { launch(args, crop_cuda_scratch, crop_cuda); }
  void run(const TransformArgs& args) const { launch(args, train_transform_cuda_scratch, train_transform_cuda); }
  void run(const WarpDensePoseArgs& args) const { launch(args, warp_densepose_cuda_scratch, warp_densepose_cuda); }
  void run(const DensePoseIuvArgs& args) const { check(densepose_iuv_cuda(args, stream())); }

 private:
  static void check(int error) { STD_CUDA_CHECK(static_cast<cudaError_t>(error)); }

  void* stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on_.get_device_index(), &stream));
    return stream;
  }

  // PyTorch's allocator reuses memory in stream order, so the scratch can be freed before the kernels have run.
  template <typename Args>
  void launch(const Args& args, int64_t (*count)(const Args&), int (*kernels)(const Args&, int32_t*, void*)) const {
    const int64_t words = count(args);
    if (words == 0) return check(kernels(args, nullptr, stream()));
    Tensor scratch = empty({words}, ScalarType::Int, on_);
    check(kernels(args, static_cast<int32_t*>(scratch.mutable_data_ptr()), stream()));
  }

  torch::stable::accelerator::DeviceGuard guard_;
  const Tensor& on_;
};

}  // namespace
}  // namespace dsa_fast

STABLE_TORCH_LIBRARY_IMPL(dsa_fast, CUDA, m) { dsa_fast::register_ops<dsa_fast::Cuda>(m); }
