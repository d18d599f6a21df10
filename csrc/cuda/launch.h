// How the kernels of this folder are launched, on a GPU and, by tests/cpp/cuda_shim.h, on a CPU.
//
// A kernel's grid is y over items (images, instances) and x over the elements of an item. It need not cover them: a
// kernel loops, in 64 bits, over what is beyond.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "cuda_shim.h"
#endif

#ifndef DSA_FAST_MAX_BLOCKS
#define DSA_FAST_MAX_BLOCKS 65535  // of a grid's dimension
#endif

namespace dsa_fast {

constexpr int kThreads = 256;

// The loops of a kernel.
#define FOR_EACH_ITEM(b, items) for (int64_t b = blockIdx.y; b < (items); b += gridDim.y)
#define FOR_EACH_ELEMENT(k, elements)                                                           \
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < (elements); \
       k += static_cast<int64_t>(gridDim.x) * blockDim.x)

// Queues a kernel, unless there is nothing to do.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), int64_t elements, int64_t items, [[maybe_unused]] cudaStream_t stream,
            Args... args) {
  if (elements == 0 || items == 0) return;
  const int64_t blocks = (elements + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>(blocks, DSA_FAST_MAX_BLOCKS)),
                  static_cast<unsigned>(std::min<int64_t>(items, DSA_FAST_MAX_BLOCKS)));
#if defined(__CUDACC__)
  kernel<<<grid, kThreads, 0, stream>>>(args...);
#else
  run_on_cpu(kernel, grid, dim3(kThreads), args...);
#endif
}

}  // namespace dsa_fast

#ifdef DSA_FAST_TORCH
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include <optional>

namespace dsa_fast {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

// Memory for the kernels queued next on the current stream. PyTorch's allocator hands memory out in the order of the
// stream: the scratch may go before they have run.
class Scratch {
 public:
  Scratch(int64_t count, const torch::stable::Tensor& like)
      : tensor_(torch::stable::empty({count}, torch::headeronly::ScalarType::Int, std::nullopt, like.device())) {}

  int32_t* data() { return static_cast<int32_t*>(tensor_.mutable_data_ptr()); }

 private:
  torch::stable::Tensor tensor_;
};

inline void check_launch(int error) { STD_CUDA_CHECK(static_cast<cudaError_t>(error)); }

}  // namespace dsa_fast
#endif  // DSA_FAST_TORCH
