// Tests the host shim. A kernel that needs barriers and both kinds of shared memory is right in every order of its
// threads. Without its barriers it is not. Each run draws a new order.
#include <set>

#include "../../csrc/cuda/host_shim.h"
#include "scaffold.h"

namespace {

constexpr int kThreads = 37;

// Sums each block's numbers by halves in dynamic shared memory. Its first thread scales the sum by a number that the
// last one left in static shared memory.
template <bool kBarriers>
__global__ void sum_blocks(const uint32_t* x, int n, uint32_t* sums) {
  __shared__ uint32_t scale;
  DSA_FAST_DYNAMIC_SHARED(uint32_t, partial);
  const auto sync = [] {
    if (kBarriers) __syncthreads();
  };
  const int thread = static_cast<int>(threadIdx.x);
  const int element = static_cast<int>(blockIdx.x * blockDim.x) + thread;
  partial[thread] = element < n ? x[element] : 0;
  if (thread == kThreads - 1) scale = 2 + blockIdx.x;
  sync();
  for (int width = 32; width > 0; width /= 2) {
    if (thread < width && thread + width < kThreads) partial[thread] += partial[thread + width];
    sync();
  }
  if (thread == 0) sums[blockIdx.x] = scale * partial[0];
}

__global__ void count_in_any_order(int* count, int* order) { order[threadIdx.x] = atomicAdd(count, 1); }

std::vector<uint32_t> run_sums(bool barriers, const std::vector<uint32_t>& x, unsigned blocks) {
  std::vector<uint32_t> sums(blocks);
  const auto kernel = barriers ? sum_blocks<true> : sum_blocks<false>;
  run_blocks_on_cpu(kernel, dim3(blocks), dim3(kThreads), kThreads * sizeof(uint32_t), x.data(),
                    static_cast<int>(x.size()), sums.data());
  return sums;
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  constexpr unsigned kBlocks = 5;
  std::vector<uint32_t> x(kBlocks * kThreads - 3), expected(kBlocks, 0);
  for (size_t k = 0; k < x.size(); ++k) {
    x[k] = static_cast<uint32_t>(k * k % 101);
    expected[k / kThreads] += x[k] * (2 + static_cast<uint32_t>(k / kThreads));
  }
  std::set<std::vector<uint32_t>> racy;
  std::set<std::vector<int>> orders;
  for (int run = 0; run < 20; ++run) {
    check(run_sums(true, x, kBlocks) == expected, "sums with barriers");
    racy.insert(run_sums(false, x, kBlocks));
    int count = 0;
    std::vector<int> order(kThreads);
    run_blocks_on_cpu(count_in_any_order, dim3(1), dim3(kThreads), 0, &count, order.data());
    orders.insert(order);
    check(count == kThreads, "every thread runs once");
  }
  check(racy.size() > 1, "sums without barriers differ");
  check(orders.size() > 10, "orders are drawn anew");
}
