// Stands in for the CUDA runtime: memory, errors, attributes, and launches of translated kernels (machine.h).
//
// Programs compiled by nvcc link with this in place of libcudart. Their own stubs register the kernels and pack the
// arguments. Work is done at once, whatever the stream. DSA_FAST_PTX_ARCH is 75 or 90 and selects the kernels and the
// GPU that is played: a small one of compute capability 7.5, or an H100.
#include <cuda_runtime_api.h>
#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "machine.h"

namespace dsa_fast::ptx {
namespace {

constexpr uint32_t kDefaultShared = 48 << 10;  // more must be asked for
constexpr uint32_t kMostShared = (DSA_FAST_PTX_ARCH == 75 ? 64 : 227) << 10;
constexpr int kReservedShared = DSA_FAST_PTX_ARCH == 75 ? 0 : 1024;  // of a block, by the system

// Multiprocessors; DSA_FAST_PTX_PROCESSORS says another number.
int processors() {
  const char* text = std::getenv("DSA_FAST_PTX_PROCESSORS");
  return text == nullptr ? (DSA_FAST_PTX_ARCH == 75 ? 4 : 132) : std::atoi(text);
}

// ---- errors --------------------------------------------------------------------------------------------------------

// The last error stays until cudaGetLastError takes it, whatever succeeds in between.
cudaError_t last_error = cudaSuccess;

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

std::string plain_name(const char* mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  std::string name = status == 0 ? text : mangled;
  std::free(text);
  return name;
}

// ---- races ---------------------------------------------------------------------------------------------------------

// Who used some bytes in a launch. Barriers put the uses of one block in order, by its epochs.
struct Use {
  uint32_t stamp;           // of the launch; what follows is void in others
  uint32_t writer, reader;  // the last ones; 0: none
  uint16_t write_epoch, read_epoch;
  bool atomic;    // the write was
  bool readers;   // several threads have read since the write,
  bool blocks;    // and of several blocks
  bool constant;  // read as constant
};

uint16_t epoch = 0;  // of the block that runs; 0: no barrier puts anything in order

// What is wrong with an access, or null.
const char* race(Use& use, uint32_t stamp, const Thread& t, Access access) {
  if (use.stamp != stamp) {
    use = Use{};
    use.stamp = stamp;
  }
  const auto same_block = [&](uint32_t thread) {
    return (thread - 1) / t.launch.threads == (t.id - 1) / t.launch.threads;
  };
  const auto apart = [&](uint32_t thread, uint16_t at) {
    return thread != 0 && thread != t.id && !(at < epoch && same_block(thread));
  };
  const bool writes = access == Access::kWrite || access == Access::kAtomic;
  if (!(access == Access::kAtomic && use.atomic) && apart(use.writer, use.write_epoch)) {
    return writes ? "race: another thread has written here" : "race: another thread has written what this one reads";
  }
  if (writes) {
    const bool unordered = use.blocks || (use.readers ? !(use.read_epoch < epoch && same_block(use.reader))
                                                      : apart(use.reader, use.read_epoch));
    if (unordered) return "race: another thread has read what this one writes";
    if (use.constant) return "write of what is read as constant (ld.global.nc)";
    use.writer = t.id;
    use.write_epoch = epoch;
    use.atomic = access == Access::kAtomic;
    use.reader = 0;
    use.readers = use.blocks = false;
    return nullptr;
  }
  if (access == Access::kReadConstant) {
    if (use.writer != 0) return "read as constant (ld.global.nc) of what is written";
    use.constant = true;
  }
  if (use.reader != 0 && use.reader != t.id) {
    use.readers = true;
    use.blocks = use.blocks || epoch == 0 || !same_block(use.reader);
  }
  use.reader = t.id;
  use.read_epoch = epoch;
  return nullptr;
}

// The uses of a piece of memory, in units of its narrowest access so far.
class Uses {
 public:
  explicit Uses(size_t bytes = 0) : bytes_(bytes) {}
  const char* enter(size_t offset, size_t bytes, uint32_t stamp, const Thread& t, Access access) {
    if (bytes < unit_ || unit_ == 0) refine(std::min<size_t>(bytes, 8));
    for (Use* use = uses_.get() + offset / unit_; bytes > 0; ++use, bytes -= unit_) {
      if (const char* what = race(*use, stamp, t, access)) return what;
    }
    return nullptr;
  }

 private:
  struct Free {
    void operator()(void* data) const { std::free(data); }
  };

  void refine(size_t unit) {
    const size_t count = (bytes_ + unit - 1) / unit;
    std::unique_ptr<Use[], Free> uses(static_cast<Use*>(std::calloc(count, sizeof(Use))));  // pages come when used
    for (size_t k = 0; unit_ != 0 && k < count; ++k) uses[k] = uses_[k * unit / unit_];
    uses_ = std::move(uses);
    unit_ = unit;
  }

  size_t bytes_, unit_ = 0;
  std::unique_ptr<Use[], Free> uses_;
};

// ---- memory --------------------------------------------------------------------------------------------------------

struct Allocation {
  uint64_t begin, bytes;
  Uses uses;
};

class Memory {
 public:
  void* allocate(size_t bytes) {
    void* data = nullptr;
    constexpr size_t kGap = 256;  // a step beyond the end meets no other allocation
    if (posix_memalign(&data, 256, bytes + kGap) != 0) return nullptr;
    const auto begin = reinterpret_cast<uintptr_t>(data);
    allocations_[begin] = {begin, bytes, Uses(bytes)};
    return data;
  }

  bool release(void* data) {
    const auto found = allocations_.find(reinterpret_cast<uintptr_t>(data));
    if (found == allocations_.end()) return false;
    allocations_.erase(found);
    std::fill(std::begin(recent_), std::end(recent_), nullptr);
    std::free(data);
    return true;
  }

  // The allocation that holds a byte, or null.
  Allocation* find(uint64_t address) {
    for (Allocation* allocation : recent_) {
      if (allocation != nullptr && address - allocation->begin < allocation->bytes) return allocation;
    }
    auto next = allocations_.upper_bound(address);
    if (next == allocations_.begin()) return nullptr;
    Allocation& found = std::prev(next)->second;
    if (address - found.begin >= found.bytes) return nullptr;
    recent_[turn_++ % std::size(recent_)] = &found;
    return &found;
  }

  bool holds(const void* data, size_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(data);
    const Allocation* found = find(address);
    return found != nullptr && bytes <= found->bytes - (address - found->begin);
  }

 private:
  std::map<uint64_t, Allocation> allocations_;
  Allocation* recent_[6] = {};
  size_t turn_ = 0;
};

Memory memory;
std::vector<char> shared;  // of the block that runs
Uses shared_uses;
uint32_t shared_stamp = 0;  // a new one for each block

}  // namespace

uint64_t Thread::to_generic(uint64_t offset) const { return reinterpret_cast<uintptr_t>(shared.data()) + offset; }
uint64_t Thread::from_generic(uint64_t address) const { return address - reinterpret_cast<uintptr_t>(shared.data()); }

void fail(const Thread& t, int line, const char* what) {
  std::fflush(stdout);
  std::fprintf(stderr, "PTX: %s\n  %s, block (%u, %u, %u), thread (%u, %u, %u), %s:%d\n", what,
               plain_name(t.launch.kernel->name).c_str(), t.block.x, t.block.y, t.block.z, t.thread.x, t.thread.y,
               t.thread.z, t.launch.kernel->file, line);
  std::fflush(stderr);
  std::_Exit(1);
}

char* checked(Thread& t, Space space, Access access, uint64_t address, size_t bytes, int line) {
  const auto refuse = [&](const std::string& what) {
    const char* names[] = {"read", "constant read", "write", "atomic"};
    fail(t, line,
         (std::string(names[static_cast<int>(access)]) + " of " + std::to_string(bytes) + " bytes " + what).c_str());
  };
  const auto shared_begin = reinterpret_cast<uintptr_t>(shared.data());
  const auto local_begin = reinterpret_cast<uintptr_t>(t.local);
  const bool has_local = t.launch.kernel->local_bytes > 0 && address - local_begin < t.launch.kernel->local_bytes;
  if (space == Space::kGeneric) {
    if (address - shared_begin < shared.size()) {
      space = Space::kShared;
      address -= shared_begin;
    } else {
      space = has_local ? Space::kLocal : Space::kGlobal;
    }
  }
  if (address % bytes != 0) refuse("that is not aligned");
  if (space == Space::kLocal) {
    if (!has_local || address + bytes > local_begin + t.launch.kernel->local_bytes) refuse("outside of local memory");
    return reinterpret_cast<char*>(address);
  }
  if (space == Space::kShared) {
    if (address > shared.size() || bytes > shared.size() - address) {
      refuse("at " + std::to_string(address) + " of " + std::to_string(shared.size()) + " bytes of shared memory");
    }
    if (const char* what = shared_uses.enter(address, bytes, shared_stamp, t, access)) fail(t, line, what);
    return shared.data() + address;
  }
  Allocation* found = memory.find(address);
  if (found == nullptr || bytes > found->bytes - (address - found->begin)) refuse("outside of the device's memory");
  const char* what = found->uses.enter(address - found->begin, bytes, t.launch.number, t, access);
  if (what != nullptr) fail(t, line, what);
  return reinterpret_cast<char*>(address);
}

// ---- launches ------------------------------------------------------------------------------------------------------

namespace {

struct Entry {
  const Kernel* kernel = nullptr;
  uint32_t most_dynamic = 0;  // cudaFuncAttributeMaxDynamicSharedMemorySize
  uint64_t launches = 0;
};

// Made before the objects that register kernels.
std::map<std::string, Entry>& table() {
  static std::map<std::string, Entry> entries;
  return entries;
}
std::map<const void*, std::string>& stubs() {
  static std::map<const void*, std::string> names;
  return names;
}

// The entry of a kernel's stub, or null.
Entry* entry_of(const void* stub) {
  const auto name = stubs().find(stub);
  if (name == stubs().end()) return nullptr;
  const auto entry = table().find(name->second);
  return entry == table().end() ? nullptr : &entry->second;
}

// Dynamic shared memory begins behind the static one.
uint32_t dynamic_offset(const Kernel& kernel) { return (kernel.shared_bytes + 15) / 16 * 16; }

const char* chosen_mutation() {
  const char* name = std::getenv("DSA_FAST_PTX_MUTATION");
  return name == nullptr ? "" : name;
}

class Machine {
 public:
  void run(const Launch& launch) {
    const Extent& grid = launch.grid;
    const Extent& block = launch.block;
    const uint32_t per_block = block.x * block.y * block.z;
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    if (!launch.kernel->by_block) {  // all threads of all blocks in one random order
      shared.clear();
      epoch = 0;
      std::vector<uint64_t> order = shuffled<uint64_t>(blocks * per_block);
      std::vector<char> local(launch.kernel->local_bytes + kAlign), registers(launch.kernel->register_bytes + kAlign);
      for (const uint64_t k : order) {
        Thread thread = thread_of(launch, k / per_block, static_cast<uint32_t>(k % per_block));
        thread.local = aligned(local);
        thread.registers = aligned(registers);
        launch.kernel->run(thread);
      }
      return;
    }
    for (const uint64_t k : shuffled<uint64_t>(blocks)) run_block(launch, k, per_block);
  }

 private:
  static constexpr size_t kAlign = 16;
  std::mt19937_64 rng_{20190603};
  std::vector<char> registers_;  // of a block's threads

  template <typename T>
  std::vector<T> shuffled(uint64_t n) {
    std::vector<T> order(n);
    for (uint64_t k = 0; k < n; ++k) order[k] = static_cast<T>(k);
    std::shuffle(order.begin(), order.end(), rng_);
    return order;
  }

  static char* aligned(std::vector<char>& bytes) {
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    return reinterpret_cast<char*>((address + kAlign - 1) / kAlign * kAlign);
  }

  static Thread thread_of(const Launch& launch, uint64_t block, uint32_t thread) {
    const Extent& g = launch.grid;
    const Extent& b = launch.block;
    const Extent block_at{static_cast<uint32_t>(block % g.x), static_cast<uint32_t>(block / g.x % g.y),
                          static_cast<uint32_t>(block / g.x / g.y)};
    const Extent thread_at{thread % b.x, thread / b.x % b.y, thread / b.x / b.y};
    const uint64_t id = block * b.x * b.y * b.z + thread + 1;
    return {launch, block_at, thread_at, static_cast<uint32_t>(id), 0, nullptr, nullptr};
  }

  // Runs each thread up to its next barrier, in a new random order after each barrier.
  void run_block(const Launch& launch, uint64_t block, uint32_t threads) {
    const Kernel& kernel = *launch.kernel;
    if (shared.size() != launch.shared_bytes) shared_uses = Uses(launch.shared_bytes);
    shared.assign(launch.shared_bytes, static_cast<char>(0xa5));
    ++shared_stamp;
    epoch = 1;
    const size_t register_bytes = (kernel.register_bytes + kAlign - 1) / kAlign * kAlign;
    const size_t local_bytes = (kernel.local_bytes + kAlign - 1) / kAlign * kAlign;
    registers_.resize(std::max(registers_.size(), register_bytes * threads + kAlign));
    std::vector<char> local(local_bytes * threads + kAlign);
    std::vector<Thread> all;
    all.reserve(threads);
    for (uint32_t k = 0; k < threads; ++k) {
      all.push_back(thread_of(launch, block, k));
      all.back().registers = aligned(registers_) + k * register_bytes;
      all.back().local = aligned(local) + k * local_bytes;
    }
    for (;;) {
      uint32_t ended = 0;
      const Thread* waits = nullptr;
      for (const uint32_t k : shuffled<uint32_t>(threads)) {
        if (kernel.run(all[k])) {
          ++ended;
        } else if (waits != nullptr && waits->resume != all[k].resume) {
          fail(all[k], 0, "threads of a block wait at different barriers");
        } else {
          waits = &all[k];
        }
      }
      if (ended == threads) return;
      if (ended != 0) {
        fail(*waits, 0,
             (std::to_string(ended) + " of " + std::to_string(threads) + " threads did not reach a barrier").c_str());
      }
      if (++epoch == 0) fail(*waits, 0, "more than 65535 barriers");
    }
  }
};

Machine machine;
uint64_t launches = 0;

cudaError_t launch(const void* stub, dim3 grid, dim3 block, void** arguments, size_t dynamic) {
  Entry* entry = entry_of(stub);
  if (entry == nullptr) return cudaErrorInvalidDeviceFunction;
  const Kernel& kernel = *entry->kernel;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      threads == 0 || threads > 1024 || block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (uint64_t{grid.x} * grid.y * grid.z * threads >= 0xffffffffu) {
    std::fprintf(stderr, "PTX: a grid of so many threads is not for this machine\n");
    std::exit(1);
  }
  if (threads > kernel.max_threads) return cudaErrorInvalidValue;
  if (dynamic > entry->most_dynamic) return cudaErrorInvalidValue;
  const uint32_t offset = dynamic_offset(kernel);
  ++entry->launches;
  const auto shared_bytes = dynamic == 0 ? kernel.shared_bytes : offset + static_cast<uint32_t>(dynamic);
  machine.run({&kernel,
               {grid.x, grid.y, grid.z},
               {block.x, block.y, block.z},
               static_cast<uint32_t>(threads),
               arguments,
               offset,
               shared_bytes,
               static_cast<uint32_t>(++launches)});
  return cudaSuccess;
}

// Tells what ran, when the program ends.
struct Report {
  ~Report() {
    uint64_t ran = 0;
    for (const auto& [name, entry] : table()) ran += entry.launches > 0;
    std::printf("PTX: %zu kernels, %llu of them ran, %llu launches\n", table().size(), (unsigned long long)ran,
                (unsigned long long)launches);
    for (const auto& [name, entry] : table()) {
      if (entry.launches == 0) std::printf("PTX: never ran: %s\n", plain_name(name.c_str()).c_str());
    }
  }
} report;

struct {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
} configuration;

}  // namespace

Registration::Registration(const Kernel* kernels, size_t count) {
  const std::string mutation = chosen_mutation();
  for (size_t k = 0; k < count; ++k) {
    if (kernels[k].arch != DSA_FAST_PTX_ARCH) continue;
    if (kernels[k].mutation[0] != '\0' && kernels[k].mutation != mutation) continue;
    table()[kernels[k].name] = {kernels + k, kDefaultShared - dynamic_offset(kernels[k]), 0};
  }
}

}  // namespace dsa_fast::ptx

// ---- the CUDA runtime ----------------------------------------------------------------------------------------------

using namespace dsa_fast::ptx;

extern "C" {

// What nvcc's stubs call. Those of nvcc 12 call cudaLaunchKernel.
void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, void*, void*, void*, void*, int*) {
  stubs()[stub] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t) {
  return result(launch(kernel, grid, block, arguments, shared));
}

}  // extern "C"

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  return result(launch(stub, grid, block, arguments, shared));
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() { return last_error; }

cudaError_t cudaMalloc(void** data, size_t bytes) {
  if (data == nullptr) return result(cudaErrorInvalidValue);
  *data = memory.allocate(bytes);
  return result(*data == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}
cudaError_t cudaMallocManaged(void** data, size_t bytes, unsigned) {
  return bytes == 0 ? result(cudaErrorInvalidValue) : cudaMalloc(data, bytes);
}
cudaError_t cudaFree(void* data) {
  return result(data == nullptr || memory.release(data) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) {
  if (bytes == 0) return cudaSuccess;
  if (!memory.holds(data, bytes)) return result(cudaErrorInvalidValue);
  std::memset(data, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* data, int value, size_t bytes) { return cudaMemsetAsync(data, value, bytes, nullptr); }

cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return result(cudaErrorInvalidDevice);
  static const std::map<cudaDeviceAttr, int> values{
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMultiProcessorCount, processors()},
      {cudaDevAttrMaxSharedMemoryPerBlock, kDefaultShared},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kMostShared},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, kMostShared + kReservedShared},
      {cudaDevAttrReservedSharedMemoryPerBlock, kReservedShared},
      {cudaDevAttrMaxThreadsPerMultiProcessor, DSA_FAST_PTX_ARCH == 75 ? 1024 : 2048},
      {cudaDevAttrMaxBlocksPerMultiprocessor, DSA_FAST_PTX_ARCH == 75 ? 16 : 32},
      {cudaDevAttrMaxRegistersPerBlock, 65536},
      {cudaDevAttrMaxGridDimX, 0x7fffffff},
      {cudaDevAttrMaxGridDimY, 65535},
      {cudaDevAttrMaxGridDimZ, 65535},
      {cudaDevAttrComputeCapabilityMajor, DSA_FAST_PTX_ARCH / 10},
      {cudaDevAttrComputeCapabilityMinor, DSA_FAST_PTX_ARCH % 10},
  };
  const auto found = values.find(attribute);
  if (found == values.end()) {
    std::fprintf(stderr, "PTX: device attribute %d is not known\n", static_cast<int>(attribute));
    std::exit(1);
  }
  *value = found->second;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  Entry* entry = entry_of(stub);
  if (entry == nullptr) return result(cudaErrorInvalidDeviceFunction);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || dynamic_offset(*entry->kernel) + static_cast<uint32_t>(value) > kMostShared) {
    return result(cudaErrorInvalidValue);
  }
  entry->most_dynamic = static_cast<uint32_t>(value);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "an error"; }
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaError"; }
