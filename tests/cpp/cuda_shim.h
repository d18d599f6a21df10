// Just enough of CUDA for csrc/cuda to run on a CPU, one thread after another, in an order drawn anew each launch.
//
// It shows what a kernel computes, that no result depends on the order of threads, and (under the sanitizers) that no
// thread leaves its arrays. It cannot show data races that only truly parallel threads have.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#define __global__

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  explicit dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline dim3 gridDim, blockDim, blockIdx, threadIdx;

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

inline int32_t atomicMax(int32_t* address, int32_t value) {
  const int32_t old = *address;
  *address = std::max(old, value);
  return old;
}

inline int32_t atomicAdd(int32_t* address, int32_t value) {
  const int32_t old = *address;
  *address = old + value;
  return old;
}

inline int32_t atomicExch(int32_t* address, int32_t value) {
  const int32_t old = *address;
  *address = value;
  return old;
}

inline std::mt19937_64 thread_order;

template <typename... Params, typename... Args>
void run_on_cpu(void (*kernel)(Params...), dim3 grid, dim3 block, Args... args) {
  struct Thread {
    unsigned block_x, block_y, thread_x;
  };
  std::vector<Thread> threads;
  threads.reserve(static_cast<size_t>(grid.x) * grid.y * block.x);
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      for (unsigned t = 0; t < block.x; ++t) threads.push_back({x, y, t});
    }
  }
  std::shuffle(threads.begin(), threads.end(), thread_order);
  gridDim = grid;
  blockDim = block;
  for (const Thread& thread : threads) {
    blockIdx = dim3(thread.block_x, thread.block_y);
    threadIdx = dim3(thread.thread_x);
    kernel(args...);
  }
}
