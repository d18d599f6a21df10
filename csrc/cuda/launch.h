// Launches this folder's kernels on a GPU or, compiled as plain C++ with host_shim.h, on a CPU.
//
// A grid's y covers items (images, instances), and its x covers the elements of an item. A kernel loops, in 64 bits,
// over items and elements beyond the grid.
#pragma once

#include <algorithm>
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "host_shim.h"
#endif

#ifndef DSA_FAST_MAX_BLOCKS
#define DSA_FAST_MAX_BLOCKS 65535  // of a grid's dimension
#endif

namespace dsa_fast {

constexpr int kThreads = 256;

// A function that only kernels call; the threads of a block and, if given, how many blocks must fit on a
// multiprocessor; loops that the compiler must or must not unroll there.
#if defined(__CUDACC__)
#define DSA_FAST_DEVICE __device__ __forceinline__
#define DSA_FAST_UNROLL _Pragma("unroll")
#define DSA_FAST_NO_UNROLL _Pragma("unroll 1")
#define DSA_FAST_THREADS(...) __launch_bounds__(__VA_ARGS__)
#define DSA_FAST_DYNAMIC_SHARED(type, name)                       \
  extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(dynamic_shared)
#else
#define DSA_FAST_DEVICE inline
#define DSA_FAST_UNROLL
#define DSA_FAST_NO_UNROLL
#define DSA_FAST_THREADS(...)
#endif

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

// Returns an error and takes it off the CUDA runtime, whose next call would report it again. The runtime is linked into
// the library: nobody else does it.
inline cudaError_t cleared(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

}  // namespace dsa_fast
