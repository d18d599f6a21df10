// Threads: PyTorch's own pool inside PyTorch, plain threads in the library that is built without it.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef DSA_FAST_TORCH
#include <torch/csrc/stable/ops.h>
#else
#include <exception>
#include <thread>
#include <vector>
#endif

namespace dsa_fast {

inline int64_t num_threads() {
#ifdef DSA_FAST_TORCH
  return torch::stable::get_num_threads();
#else
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
#endif
}

// Waking threads costs as much as touching about this many elements.
constexpr int64_t kWorthAThread = 32768;

// Calls f(begin, end) on ranges that together cover [0, n) once; on several threads where it is worth it, an item
// touching item_elements elements.
template <typename F>
void parallel_for(int64_t n, int64_t item_elements, const F& f) {
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, item_elements));
#ifdef DSA_FAST_TORCH
  torch::stable::parallel_for(0, n, grain, f);
#else
  const int64_t workers = std::min((n + grain - 1) / grain, num_threads());
  if (workers <= 1) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  std::vector<std::exception_ptr> errors(static_cast<size_t>(workers));
  std::vector<std::thread> threads;
  for (int64_t k = 0; k < workers; ++k) {
    threads.emplace_back([&, k] {
      try {
        f(n * k / workers, n * (k + 1) / workers);
      } catch (...) {
        errors[static_cast<size_t>(k)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
#endif
}

}  // namespace dsa_fast
