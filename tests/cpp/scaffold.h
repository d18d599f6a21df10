// What the tests share: main, counted checks, random numbers, and memory that the CPU and the GPU see.
//
// A test is one source file. It includes this and defines run_tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <initializer_list>
#include <random>
#include <string>
#include <vector>

#if defined(__CUDACC__)  // the CUDA kernels run on a GPU or on the machine in ptx/
#include <cuda_runtime.h>
#endif

#include "../../csrc/dtype.h"

namespace dsa_fast::test {

// ---- checks --------------------------------------------------------------------------------------------------------

inline int64_t checks = 0, failures = 0;

inline void check(bool good, const std::string& what) {
  ++checks;
  if (good) return;
  if (++failures <= 20) std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  static const bool stop = std::getenv("DSA_FAST_STOP_AT_FAILURE") != nullptr;
  if (stop) std::_Exit(1);
}

// The call must throw, with all these words in its message.
template <typename F>
void refuses(const F& call, const std::vector<std::string>& words) {
  std::string message = "nothing was thrown";
  try {
    call();
  } catch (const std::exception& error) {
    message = error.what();
  }
  for (const std::string& word : words) check(message.find(word) != std::string::npos, "'" + word + "' in: " + message);
}

inline void check_cuda(int error, const char* what) {
  if (error == 0) return;
  std::fprintf(stderr, "%s: CUDA error %d\n", what, error);
  std::exit(1);
}

inline void wait_for_device() {
#if defined(__CUDACC__)
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
#endif
}

// The start of a case's name.
inline std::string show(std::initializer_list<int64_t> extents) {
  std::string text;
  for (const int64_t extent : extents) text += std::to_string(extent) + " ";
  return text;
}

// ---- random numbers, the same in each run --------------------------------------------------------------------------

inline std::mt19937_64 rng(20190603);

inline int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(rng); }
inline double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(rng); }

inline std::vector<uint8_t> random_bytes(int64_t n) {
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& value : bytes) value = static_cast<uint8_t>(rng());
  return bytes;
}

// ---- memory --------------------------------------------------------------------------------------------------------

inline size_t size(int64_t n) { return static_cast<size_t>(n); }

inline int64_t bytes_of(DType dtype) {
  return AnyTypes::visit(dtype, [](auto tag) { return static_cast<int64_t>(sizeof(TypeOf<decltype(tag)>)); });
}

// Memory of the exact size that the device sees too: a sanitizer, or the machine in ptx/, sees every step outside.
inline void* allocate(size_t bytes) {
  void* data = nullptr;
#if defined(__CUDACC__)
  check_cuda(cudaMallocManaged(&data, std::max<size_t>(bytes, 1)), "cudaMallocManaged");
#else
  if (posix_memalign(&data, 64, bytes) != 0) std::abort();  // aligned like PyTorch's memory
#endif
  return data;
}

inline void release(void* data) {
#if defined(__CUDACC__)
  cudaFree(data);
#else
  std::free(data);
#endif
}

class Buffer {
 public:
  explicit Buffer(int64_t bytes, unsigned char garbage = 0xa5) : data_(allocate(size(bytes))), bytes_(size(bytes)) {
    if (bytes_ > 0) std::memset(data_, garbage, bytes_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { release(data_); }
  template <typename T = void>
  T* data() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

template <typename T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <typename Other>
  explicit DeviceAllocator(const DeviceAllocator<Other>&) {}
  T* allocate(size_t n) { return static_cast<T*>(test::allocate(n * sizeof(T))); }
  void deallocate(T* data, size_t) { release(data); }
  bool operator==(const DeviceAllocator&) const { return true; }
  bool operator!=(const DeviceAllocator&) const { return false; }
};

// What a kernel reads or writes.
template <typename T>
using DeviceVector = std::vector<T, DeviceAllocator<T>>;

inline DeviceVector<uint8_t> random_device_bytes(int64_t n) {
  const std::vector<uint8_t> bytes = random_bytes(n);
  return {bytes.begin(), bytes.end()};
}

}  // namespace dsa_fast::test

using namespace dsa_fast;
using namespace dsa_fast::test;

void run_tests(const std::vector<std::string>& arguments);

int main(int argc, char** argv) {
#if defined(__CUDACC__)
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
#endif
  run_tests({argv + 1, argv + argc});
  std::printf("%lld checks, %lld failures\n", static_cast<long long>(checks), static_cast<long long>(failures));
  return failures == 0 && checks > 0 ? 0 : 1;
}
