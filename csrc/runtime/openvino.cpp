// Runs exported ONNX files on the CPU through OpenVINO.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <openvino/openvino.hpp>
#include <stdexcept>

#include "backend.h"

namespace dsa_fast {
namespace {

Port port_of(const ov::Output<const ov::Node>& output) {
  Port port{output.get_any_name(), output.get_element_type().to_string(), {}};
  if (port.dtype == "u8") port.dtype = "uint8";
  if (port.dtype == "f32") port.dtype = "float32";
  if (output.get_partial_shape().rank().is_static()) {
    for (const ov::Dimension& side : output.get_partial_shape()) {
      port.shape.push_back(side.is_static() ? side.get_length() : -1);
    }
  }
  return port;
}

std::string precision_name(const ov::element::Type& type) {
  return type == ov::element::bf16 ? "bf16" : type == ov::element::f16 ? "fp16" : "fp32";
}

// One for the process, never destroyed. OpenVINO's CPU plugin gives the thread that makes it another signal stack, and
// frees that when it is destroyed. A thread that is left with a freed stack, by a second plugin or because another
// thread destroys it, ends the process at the next signal.
ov::Core& the_core() {
  static auto* const core = new ov::Core;
  return *core;
}

class OpenVino : public Backend {
 public:
  explicit OpenVino(const BackendRequest& request) : sidecar_(request.sidecar) {
    // From the bytes that were checked, not from the file, which may have changed.
    const auto model = the_core().read_model(std::string(request.exported), ov::Tensor());
    const auto side = model->input(0).get_partial_shape();
    if (side.rank().is_static() && side.rank().get_length() > 0) {
      fixed_ = side[0].is_static() ? side[0].get_length() : 0;
    }
    compiled_ = the_core().compile_model(model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                         ov::hint::inference_precision(compute_type(request.precision)),
                                         ov::inference_num_threads(request.threads));
    infer_ = compiled_.create_infer_request();
    // The end of the graph, too, runs in that precision.
    rescale_ = compiled_.get_property(ov::hint::inference_precision) != ov::element::f32;
  }

  std::string description() const override {
    const ov::Version version = ov::get_openvino_version();
    const std::string build = version.buildNumber;
    return "OpenVINO " + build.substr(0, build.find('-')) + ", CPU, " +
           std::to_string(compiled_.get_property(ov::inference_num_threads)) + " threads, " +
           precision_name(compiled_.get_property(ov::hint::inference_precision));
  }

  std::string precision() const override {
    if (sidecar_.precision == "int8") return "int8";
    return precision_name(compiled_.get_property(ov::hint::inference_precision));
  }

  Ports ports() const override {
    Ports ports{{}, {}, std::max<int64_t>(fixed_, 1), fixed_ > 0 ? fixed_ : -1};
    for (const auto& input : compiled_.inputs()) ports.inputs.push_back(port_of(input));
    for (const auto& output : compiled_.outputs()) ports.outputs.push_back(port_of(output));
    return ports;
  }

  void run(const void* images, int64_t n, int64_t batch, float* vectors) override {
    ov::Shape shape{0, static_cast<size_t>(sidecar_.height), static_cast<size_t>(sidecar_.width), 3};
    if (sidecar_.layout == Layout::kNCHW) shape = {0, 3, shape[1], shape[2]};
    const auto type = sidecar_.input_type == InputType::kUint8 ? ov::element::u8 : ov::element::f32;
    const auto bytes = static_cast<size_t>(sidecar_.image_bytes());
    for (int64_t i = 0; i < n; i += batch) {
      const int64_t count = std::min(batch, n - i);
      const auto* given = static_cast<const uint8_t*>(images) + static_cast<size_t>(i) * bytes;
      shape[0] = static_cast<size_t>(std::max({count, fixed_, sidecar_.batch.min}));
      if (shape[0] == static_cast<size_t>(count)) {
        // In place: the network only reads its input.
        infer_.set_input_tensor(ov::Tensor(type, shape, const_cast<uint8_t*>(given)));
      } else {
        // Zeros stand for missing images.
        ov::Tensor input(type, shape);
        std::memset(input.data(), 0, input.get_byte_size());
        std::memcpy(input.data(), given, static_cast<size_t>(count) * bytes);
        infer_.set_input_tensor(input);
      }
      infer_.infer();
      const ov::Tensor output = infer_.get_output_tensor();
      const size_t needed = static_cast<size_t>(count * sidecar_.dim) * sizeof(float);
      if (output.get_byte_size() < needed) throw std::runtime_error("the engine gave fewer vectors than it got images");
      std::memcpy(vectors + i * sidecar_.dim, output.data<float>(), needed);
      if (rescale_) rescale(vectors + i * sidecar_.dim, count);
    }
  }

  void enqueue(const void*, int64_t, int64_t, float*, void*) override {
    throw std::runtime_error("enqueue needs an exported file that runs on a CUDA device, got one of the kind " +
                             sidecar_.kind);
  }

 private:
  // To length 1, with the same arithmetic as Python's Encoder.
  void rescale(float* vectors, int64_t count) const {
    for (float* vector = vectors; vector < vectors + count * sidecar_.dim; vector += sidecar_.dim) {
      double squares = 0;
      for (int64_t j = 0; j < sidecar_.dim; ++j) squares += static_cast<double>(vector[j]) * vector[j];
      const double length = std::sqrt(squares);
      for (int64_t j = 0; j < sidecar_.dim; ++j) vector[j] = static_cast<float>(vector[j] / length);
    }
  }

  // The same type as in Python's Encoder, so both return the same vectors. If the processor does not have the requested
  // type, OpenVINO silently computes in bfloat16.
  ov::element::Type compute_type(const std::string& precision) {
    const auto capabilities = the_core().get_property("CPU", ov::device::capabilities);
    const auto has = [&](const char* name) {
      return std::find(capabilities.begin(), capabilities.end(), name) != capabilities.end();
    };
    if (precision == "fp16") return has("FP16") ? ov::element::f16 : ov::element::f32;
    if (precision == "int8") return has("BF16") ? ov::element::bf16 : ov::element::f32;
    return precision == "bf16" ? ov::element::bf16 : ov::element::f32;
  }

  Sidecar sidecar_;
  ov::CompiledModel compiled_;
  ov::InferRequest infer_;
  int64_t fixed_ = 0;  // the network's batch, 0 if it is free
  bool rescale_ = false;
};

}  // namespace
}  // namespace dsa_fast

extern "C" DSA_FAST_API dsa_fast::Backend* dsa_fast_open_backend(const dsa_fast::BackendRequest& request) {
  return new dsa_fast::OpenVino(request);
}
