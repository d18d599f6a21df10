// Threads: PyTorch's own pool inside PyTorch (../torch/parallel.cpp), plain threads without it (../standalone).
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace dsa_fast {

using RangeBody = std::function<void(int64_t begin, int64_t end)>;

int64_t num_threads();

// Calls body(begin, end) on ranges that together cover [0, n) once, of at least grain items where threads share them.
void parallel_ranges(int64_t n, int64_t grain, const RangeBody& body);

// Waking threads costs as much as touching about this many elements.
constexpr int64_t kWorthAThread = 32768;

// Calls f(begin, end) in the same way, on several threads if that is worth it. An item touches item_elements elements.
template <typename F>
void parallel_for(int64_t n, int64_t item_elements, const F& f) {
  parallel_ranges(n, std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, item_elements)), std::cref(f));
}

}  // namespace dsa_fast
