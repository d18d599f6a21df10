#include "backend.h"

#include <algorithm>
#include <stdexcept>

namespace dsa_fast {
namespace {

std::string show(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + (i == 0 && shape[i] < 0 ? "N" : std::to_string(shape[i]));
  }
  return text + "]";
}

// The batch may be free or fixed; the other sides are the sidecar's.
void check_port(const char* what, const std::vector<Port>& ports, const Port& expected) {
  if (ports.size() != 1) {
    throw std::runtime_error("the engine must have one " + std::string(what) + ", got " + std::to_string(ports.size()));
  }
  const Port& port = ports.front();
  if (port.name != expected.name) {
    throw std::runtime_error("the engine's " + std::string(what) + " must be named " + expected.name +
                             ", as the sidecar says, got " + port.name);
  }
  if (port.dtype != expected.dtype) {
    throw std::runtime_error("the engine's " + std::string(what) + " must be " + expected.dtype + ", got " +
                             port.dtype);
  }
  if (port.shape.size() != expected.shape.size() ||
      !std::equal(port.shape.begin() + 1, port.shape.end(), expected.shape.begin() + 1)) {
    throw std::runtime_error("the engine's " + std::string(what) + " must have the shape " + show(expected.shape) +
                             ", as the sidecar says, got " + show(port.shape));
  }
}

bool runs_on_gpu(const Sidecar& sidecar) { return sidecar.kind == "tensorrt" || sidecar.kind == "tensorrt-rtx"; }

}  // namespace

void check_ports(const Sidecar& sidecar, const Ports& ports) {
  std::vector<int64_t> images{-1, sidecar.height, sidecar.width, 3};
  if (sidecar.layout == Layout::kNCHW) images = {-1, 3, sidecar.height, sidecar.width};
  const char* type = sidecar.input_type == InputType::kUint8 ? "uint8" : "float32";
  check_port("input", ports.inputs, {sidecar.input, type, images});
  check_port("output", ports.outputs, {sidecar.output, "float32", {-1, sidecar.dim}});
  if (ports.min_batch > sidecar.batch.min || (ports.max_batch >= 0 && ports.max_batch < sidecar.batch.max)) {
    throw std::runtime_error("the engine must take batches of " + std::to_string(sidecar.batch.min) + ".." +
                             std::to_string(sidecar.batch.max) + " images, as the sidecar says, got " +
                             std::to_string(ports.min_batch) + ".." + std::to_string(ports.max_batch));
  }
}

int64_t choose_batch(const Sidecar& sidecar, int64_t batch) {
  // The same as in Python's Encoder. Larger batches are not faster, and on a CPU they do not fit the caches.
  if (batch == 0)
    return std::max(sidecar.batch.min, std::min(sidecar.batch.max, int64_t{runs_on_gpu(sidecar) ? 64 : 32}));
  if (batch < sidecar.batch.min || batch > sidecar.batch.max) {
    throw std::invalid_argument("batch must be in " + std::to_string(sidecar.batch.min) + ".." +
                                std::to_string(sidecar.batch.max) + " for this exported file, got " +
                                std::to_string(batch));
  }
  return batch;
}

int choose_device(const Sidecar& sidecar, const std::string& device) {
  const bool gpu = runs_on_gpu(sidecar);
  int number = 0;
  const bool cuda = device.rfind("cuda", 0) == 0;
  if (cuda && device != "cuda") {
    const std::string digits = device.size() > 5 && device[4] == ':' ? device.substr(5) : "";
    if (digits.empty() || digits.size() > 3 || digits.find_first_not_of("0123456789") != std::string::npos) {
      throw std::invalid_argument("device must be cpu, cuda or cuda:N, got " + device);
    }
    number = std::stoi(digits);
  } else if (!cuda && device != "cpu" && !device.empty()) {
    throw std::invalid_argument("device must be cpu, cuda or cuda:N, got " + device);
  }
  if (!device.empty() && cuda != gpu) {
    throw std::invalid_argument("device must be " + std::string(gpu ? "cuda" : "cpu") +
                                " for an exported file of the kind " + sidecar.kind + ", got " + device);
  }
  return number;
}

}  // namespace dsa_fast
