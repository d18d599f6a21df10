// Threads of PyTorch's own pool.
#include "../cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace dsa_fast {

int64_t num_threads() { return torch::stable::get_num_threads(); }

void parallel_ranges(int64_t n, int64_t grain, const RangeBody& body) {
  torch::stable::parallel_for(0, n, grain, body);
}

}  // namespace dsa_fast
