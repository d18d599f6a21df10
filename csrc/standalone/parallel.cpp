// Plain threads, for the library that is built without PyTorch.
#include "../cpu/parallel.h"

#include <exception>
#include <thread>
#include <vector>

namespace dsa_fast {

int64_t num_threads() { return std::max<int64_t>(1, std::thread::hardware_concurrency()); }

void parallel_ranges(int64_t n, int64_t grain, const RangeBody& body) {
  const int64_t workers = std::min((n + grain - 1) / grain, num_threads());
  if (workers <= 1) {
    if (n > 0) body(0, n);
    return;
  }
  std::vector<std::exception_ptr> errors(static_cast<size_t>(workers));
  std::vector<std::thread> threads;
  for (int64_t k = 0; k < workers; ++k) {
    threads.emplace_back([&, k] {
      try {
        body(n * k / workers, n * (k + 1) / workers);
      } catch (...) {
        errors[static_cast<size_t>(k)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace dsa_fast
