// A back end runs an exported file. Each is a library of its own: TensorRT and TensorRT-RTX give different classes the
// same names, and a machine without a GPU has neither.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
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
  virtual Ports ports() const = 0;

  // The functions below are called only after check_ports, by one thread at a time.

  // Embeds n images in the sidecar's layout, at most `batch` at once. Both pointers are to the host's memory.
  virtual void run(const uint8_t* images, int64_t n, int64_t batch, float* vectors) = 0;
  // The same, in the device's memory and in a stream's order.
  virtual void enqueue(const uint8_t* images, int64_t n, int64_t batch, float* vectors, void* stream) = 0;
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

// Images run at once: `batch`, or the sidecar's largest for 0. Throws std::invalid_argument.
int64_t choose_batch(const Sidecar& sidecar, int64_t batch);

// The number of the CUDA device, 0 for the CPU, or std::invalid_argument if the exported file does not run there.
int choose_device(const Sidecar& sidecar, const std::string& device);

}  // namespace dsa_fast
