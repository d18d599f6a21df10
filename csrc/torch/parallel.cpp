// The number of threads that PyTorch was told to use.
#include "../cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace dsa_fast {

int64_t num_threads() { return torch::stable::get_num_threads(); }

}  // namespace dsa_fast
