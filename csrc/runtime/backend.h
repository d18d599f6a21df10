// A back end runs an exported file. Each is a library of its own: TensorRT and TensorRT-RTX give different classes the
// same names, and a machine without a GPU has neither.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dsa_fast/sidecar.h"

namespace dsa_fast {

// An input or output of an engine.
struct Port {
  std::string name;
  std::string dtype;           // such as "uint8"
  std::vector<int64_t> shape;  // -1: free
};

struct Ports {
  std::vector<Port> inputs, outputs;
  int64_t min_batch, max_batch;  // max_batch -1: no limit
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;
  virtual std::string precision() const = 0;  // that it computes in; int8 of a file with 8-bit convolutions
  virtual Ports ports() const = 0;

  // The functions below are called only after check_ports, by one thread at a time.

  // Embeds n images in the sidecar's layout and type, at most `batch` at once. Both pointers are to the host's memory.
  virtual void run(const void* images, int64_t n, int64_t batch, float* vectors) = 0;
  // The same, in the device's memory and in a stream's order.
  virtual void enqueue(const void* images, int64_t n, int64_t batch, float* vectors, void* stream) = 0;
};

// A back end that several threads may call. They wait for each other.
class SharedBackend {
 public:
  explicit SharedBackend(std::unique_ptr<Backend> backend) : backend_(std::move(backend)) {}

  const Backend& get() const { return *backend_; }
  void run(const void* images, int64_t n, int64_t batch, float* vectors) {
    const std::lock_guard<std::mutex> lock(mutex_);
    backend_->run(images, n, batch, vectors);
  }
  void enqueue(const void* images, int64_t n, int64_t batch, float* vectors, void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    backend_->enqueue(images, n, batch, vectors, stream);
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::mutex mutex_;
};

struct BackendRequest {
  const Sidecar& sidecar;
  std::string_view exported;  // its bytes, valid until the call returns
  int device;                 // number of the CUDA device
  int64_t batch;              // images run at once, at most
  int threads;                // >= 1
  std::string precision;      // that the CPU computes in: fp32, fp16, bf16 or int8
};

// Each back end's library exports this as dsa_fast_open_backend. Throws std::runtime_error.
using OpenBackend = Backend*(const BackendRequest& request);
constexpr const char* kOpenBackend = "dsa_fast_open_backend";

// Throws std::runtime_error if the engine differs from the sidecar; the message names the difference.
void check_ports(const Sidecar& sidecar, const Ports& ports);

// Images run at once: `batch`, or for 0 a good number within the sidecar's. Throws std::invalid_argument.
int64_t choose_batch(const Sidecar& sidecar, int64_t batch);

// The number of the CUDA device, 0 for the CPU, or std::invalid_argument if the exported file does not run there.
int choose_device(const Sidecar& sidecar, const std::string& device);

}  // namespace dsa_fast
