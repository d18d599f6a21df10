// Threads for the CPU kernels.
//
// A call's thread does the work itself, and helper threads join it. All take small ranges of items from one counter.
// A call waits only for helpers in the middle of a range, never for one that has not begun, so a busy machine makes a
// call slower by what its cores are busy with, and no more. Helpers sleep between calls and outlive all of them.
//
// Several threads may call at once and share the helpers. A call inside an item runs on its thread alone. A child of
// fork() starts its own helpers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>

namespace dsa_fast {

// The most threads that a call may use: PyTorch's number inside PyTorch (../torch), the processor's without
// (../standalone).
int64_t num_threads();

// The items 0 .. n - 1 of a call, which its threads take in ranges.
class Items {
 public:
  Items(int64_t n, int64_t grain) : n_(n), grain_(grain) {}

  // The next range, of grain items or the last ones. False if none is left.
  bool take(int64_t* begin, int64_t* end) {
    if (next_.load(std::memory_order_relaxed) >= n_) return false;
    *begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    *end = std::min(n_, *begin + grain_);
    return *begin < n_;
  }

  // Leaves none to take.
  void drop() { next_.store(n_, std::memory_order_relaxed); }

 private:
  const int64_t n_, grain_;
  std::atomic<int64_t> next_{0};
};

// Calls work(items) on this thread and on those helpers that begin in time. Each takes items until none is left. An
// item touches item_elements elements. Throws what a work has thrown, one of several; then some items are left out.
void work_together(int64_t n, int64_t item_elements, const std::function<void(Items&)>& work);

// Fewer elements are no work for a thread: waking it and waiting for it takes as long as about half of them.
constexpr int64_t kWorthAThread = 262144;

// Calls worker(i) once for each item i < n, where worker = make_worker() is made once for each thread that takes items.
// Results must not depend on which thread has which items.
template <typename F>
void parallel_for(int64_t n, int64_t item_elements, const F& make_worker) {
  work_together(n, item_elements, [&](Items& items) {
    int64_t begin, end;
    if (!items.take(&begin, &end)) return;
    auto worker = make_worker();
    do {
      for (int64_t i = begin; i < end; ++i) worker(i);
    } while (items.take(&begin, &end));
  });
}

}  // namespace dsa_fast
