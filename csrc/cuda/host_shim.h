// Just enough of CUDA to run this folder's kernels on a CPU, one thread after another, in a new order in each launch.
//
// Tests compare the results with those of the CPU kernels and check that they do not depend on the order of threads.
// The sanitizers check that no thread leaves its arrays. Data races between truly parallel threads are not detected.
//
// run_on_cpu runs every thread from begin to end, in an order that mixes the blocks: for kernels without barriers.
// run_blocks_on_cpu runs block after block, each thread as a fiber up to the next __syncthreads(), in a new
// random order after each barrier. If a barrier is missing, results differ between runs. Shared memory:
//   __shared__ float tile[64];                 // static; holds an earlier block's values
//   DSA_FAST_DYNAMIC_SHARED(float, tile);      // as many bytes as the launch asks for; garbage when a block begins
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __shared__ static
#define DSA_FAST_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(dynamic_shared)

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

// The current device, and what it offers: tests change both.
struct ShimDevice {
  int number = 0;
  int multiprocessors = 132, block_shared = 227 << 10, multiprocessor_shared = 228 << 10;
};
inline ShimDevice shim_device;

enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };
constexpr int cudaSharedmemCarveoutMaxShared = 100;

inline cudaError_t cudaGetDevice(int* device) {
  *device = shim_device.number;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount            ? shim_device.multiprocessors
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? shim_device.block_shared
                                                                  : shim_device.multiprocessor_shared;
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
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

// ---- kernels with barriers -----------------------------------------------------------------------------------------

inline unsigned char* dynamic_shared = nullptr;

// The threads of a block, each with its own stack, run in turn.
class Fibers {
 public:
  // Runs body(0) .. body(n - 1) to their ends. Aborts when some end while others wait at a barrier.
  void run(unsigned n, const std::function<void(unsigned)>& body) {
    body_ = &body;
    fibers_.clear();
    fibers_.resize(n);
    std::vector<unsigned> order(n);
    for (unsigned k = 0; k < n; ++k) {
      order[k] = k;
      Fiber& fiber = fibers_[k];
      fiber.stack.reset(new unsigned char[kStack]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, &Fibers::enter, 0);
    }
    for (unsigned running = n; running > 0;) {
      std::shuffle(order.begin(), order.end(), thread_order);
      unsigned ended = 0;
      for (const unsigned k : order) {
        resume(k);
        ended += fibers_[k].ended;
      }
      if (ended != 0 && ended != running) {
        std::fprintf(stderr, "host_shim.h: %u of %u threads did not reach a barrier\n", ended, running);
        std::abort();
      }
      running -= ended;
    }
  }

  void wait_at_barrier() {
    Fiber& fiber = fibers_[current_];
    leave(&fiber.fake_stack);
    swapcontext(&fiber.context, &scheduler_);
    arrive(fiber.fake_stack);
    threadIdx = dim3(current_);
  }

 private:
  static constexpr size_t kStack = size_t{64} << 10;

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack;
    void* fake_stack = nullptr;
    bool ended = false;
  };

  void resume(unsigned k) {
    current_ = k;
    threadIdx = dim3(k);
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fibers_[k].stack.get(), kStack);
#endif
    swapcontext(&scheduler_, &fibers_[k].context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
  }

  // Tell the address sanitizer of a switch from a fiber to the scheduler, and of one into a fiber.
  void leave([[maybe_unused]] void** fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, scheduler_stack_, scheduler_size_);
#endif
  }
  void arrive([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &scheduler_stack_, &scheduler_size_);
#endif
  }

  static void enter();

  const std::function<void(unsigned)>* body_ = nullptr;
  std::vector<Fiber> fibers_;
  ucontext_t scheduler_{};
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_size_ = 0;
  unsigned current_ = 0;
};

inline Fibers fibers;

inline void Fibers::enter() {
  Fibers& self = fibers;
  const unsigned k = self.current_;
  self.arrive(nullptr);
  (*self.body_)(k);
  self.fibers_[k].ended = true;
  self.leave(nullptr);  // this fiber's stack is not needed again
  setcontext(&self.scheduler_);
}

inline void __syncthreads() { fibers.wait_at_barrier(); }

// Runs blocks in a new random order; shared_bytes of dynamic shared memory each.
template <typename... Params, typename... Args>
void run_blocks_on_cpu(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Args... args) {
  std::vector<unsigned> order(static_cast<size_t>(grid.x) * grid.y);
  for (size_t k = 0; k < order.size(); ++k) order[k] = static_cast<unsigned>(k);
  std::shuffle(order.begin(), order.end(), thread_order);
  gridDim = grid;
  blockDim = block;
  for (const unsigned k : order) {
    // Exact size, so a sanitizer detects every access outside.
    const std::unique_ptr<unsigned char[]> shared(new unsigned char[shared_bytes]);
    std::memset(shared.get(), 0xa5, shared_bytes);
    dynamic_shared = shared.get();
    blockIdx = dim3(k % grid.x, k / grid.x);
    fibers.run(block.x, [&](unsigned) { kernel(args...); });
  }
  dynamic_shared = nullptr;
}
