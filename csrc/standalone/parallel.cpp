// The number of threads, for the library that is built without PyTorch.
#include "../cpu/parallel.h"

#include <thread>

namespace dsa_fast {

int64_t num_threads() { return std::max<int64_t>(1, std::thread::hardware_concurrency()); }

}  // namespace dsa_fast
