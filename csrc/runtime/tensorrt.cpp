// Runs engines of TensorRT or TensorRT-RTX, depending on the headers at compile time.
//
// Two slots, each with its own buffers, execution contexts and stream, take batches in turn: one's copies overlap the
// other's computing. Batches up to 64 are padded to a few sizes. A size's second run and later ones are launches of one
// CUDA graph. Each graph has an execution context of its own, which is never reshaped: a graph uses its context's
// memory.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "backend.h"

#if defined(TRT_MAJOR_RTX)
#define DSA_FAST_TENSORRT_KIND "TensorRT-RTX"
#else
#define DSA_FAST_TENSORRT_KIND "TensorRT"
#endif

namespace dsa_fast {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Collects errors: TensorRT reports them to its logger only.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR) return;
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (text_.size() < 2000) text_ += (text_.empty() ? "" : "; ") + std::string(message);
    } catch (...) {  // no memory for the message
    }
  }

  [[noreturn]] void fail(const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const std::string text = what + (text_.empty() ? "" : ": " + text_);
    text_.clear();
    throw std::runtime_error(text);
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

// Selects the device for a scope, and then the caller's again.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    check(cudaGetDevice(&before_), "no CUDA device can be used");
    check(cudaSetDevice(device), ("cuda:" + std::to_string(device) + " cannot be used").c_str());
  }
  ~OnDevice() { static_cast<void>(cudaSetDevice(before_)); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

template <typename T, cudaError_t (*release)(T)>
struct Release {
  using pointer = T;
  void operator()(T value) const { static_cast<void>(release(value)); }
};
using Stream = std::unique_ptr<cudaStream_t, Release<cudaStream_t, cudaStreamDestroy>>;
using Event = std::unique_ptr<cudaEvent_t, Release<cudaEvent_t, cudaEventDestroy>>;
using Graph = std::unique_ptr<cudaGraph_t, Release<cudaGraph_t, cudaGraphDestroy>>;
using Launch = std::unique_ptr<cudaGraphExec_t, Release<cudaGraphExec_t, cudaGraphExecDestroy>>;
using DeviceBytes = std::unique_ptr<void, Release<void*, cudaFree>>;
using PinnedBytes = std::unique_ptr<void, Release<void*, cudaFreeHost>>;

DeviceBytes device_bytes(size_t bytes) {
  void* data = nullptr;
  check(cudaMalloc(&data, bytes), "the device's memory does not suffice");
  return DeviceBytes(data);
}

PinnedBytes pinned_bytes(size_t bytes) {
  void* data = nullptr;
  check(cudaMallocHost(&data, bytes), "the host's pinned memory does not suffice");
  return PinnedBytes(data);
}

const char* dtype_name(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kHALF:
      return "float16";
    case nvinfer1::DataType::kBF16:
      return "bfloat16";
    case nvinfer1::DataType::kINT8:
      return "int8";
    default:
      return "another type";
  }
}

// The sizes of dsa_fast.deploy.cuda. In larger batches, launching takes less time than the kernels.
constexpr std::array<int64_t, 12> kGraphSizes = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};

using Context = std::unique_ptr<nvinfer1::IExecutionContext>;

// A batch size that has run. Destroyed in the reverse order: the launch before its context.
struct Captured {
  Context context;
  Launch launch;  // null if the engine cannot be captured
};

struct Slot {
  Context context;  // of batches without a graph; only this one is reshaped
  Stream stream;
  Event done;                   // all work queued on the slot
  DeviceBytes images, vectors;  // of the largest batch
  PinnedBytes host_images, host_vectors;
  std::map<int64_t, Captured> graphs;  // by batch size
  // Vectors on their way to the host: `waiting` of them, for `to`.
  int64_t waiting = 0;
  float* to = nullptr;
};

class TensorRt : public Backend {
 public:
  explicit TensorRt(const BackendRequest& request)
      : sidecar_(request.sidecar), device_(request.device), on_device_(std::make_unique<OnDevice>(request.device)) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device_), "no CUDA device can be used");
    gpu_ = properties.name;
    const std::string capability = std::to_string(properties.major) + "." + std::to_string(properties.minor);
    const auto& made_for = sidecar_.compute_capabilities;
    if (!made_for.empty() && std::find(made_for.begin(), made_for.end(), capability) == made_for.end()) {
      std::string list;
      for (const std::string& each : made_for) list += (list.empty() ? "" : ", ") + each;
      throw std::runtime_error("the engine was made for compute capability " + list + ", and " + gpu_ + " has " +
                               capability);
    }
    // TensorRT decides whether it can run the engine here. This may be the reason.
    std::string hint;
    if (sidecar_.gpu && (sidecar_.gpu->compute_capability != capability || sidecar_.gpu->name != gpu_)) {
      hint = "; the engine was made on " + sidecar_.gpu->name + " (compute capability " +
             sidecar_.gpu->compute_capability + "), and this is " + gpu_ + " (" + capability + ")";
    }
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (runtime_ == nullptr) log_.fail(DSA_FAST_TENSORRT_KIND " does not start");
    engine_.reset(runtime_->deserializeCudaEngine(request.exported.data(), request.exported.size()));
    if (engine_ == nullptr) {
      const auto made_with = sidecar_.versions.find(sidecar_.kind == "tensorrt" ? "tensorrt" : "tensorrt_rtx");
      log_.fail("this " DSA_FAST_TENSORRT_KIND " (" + version() + ") does not load the engine" +
                (made_with == sidecar_.versions.end() ? "" : ", made with " + made_with->second) + hint);
    }
    on_device_.reset();
  }

  ~TensorRt() override {
    // Queued work still reads the buffers.
    for (Slot& slot : slots_) {
      if (slot.done != nullptr) static_cast<void>(cudaEventSynchronize(slot.done.get()));
    }
  }

  std::string description() const override {
    return std::string(DSA_FAST_TENSORRT_KIND) + " " + version() + ", cuda:" + std::to_string(device_) + " (" + gpu_ +
           "), " + sidecar_.precision;
  }

  Ports ports() const override {
    Ports ports{{}, {}, 1, -1};
    for (int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const nvinfer1::Dims dims = engine_->getTensorShape(name);
      Port port{name, dtype_name(engine_->getTensorDataType(name)), {dims.d, dims.d + std::max(dims.nbDims, 0)}};
      if (engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT) {
        const auto low = engine_->getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMIN);
        const auto high = engine_->getProfileShape(name, 0, nvinfer1::OptProfileSelector::kMAX);
        if (low.nbDims > 0 && high.nbDims > 0) {
          ports.min_batch = low.d[0];
          ports.max_batch = high.d[0];
        }
        ports.inputs.push_back(std::move(port));
      } else {
        ports.outputs.push_back(std::move(port));
      }
    }
    return ports;
  }

  std::string precision() const override { return sidecar_.precision; }

  void run(const void* given, int64_t n, int64_t batch, float* vectors) override {
    const OnDevice on(device_);
    prepare(batch);
    const auto* images = static_cast<const uint8_t*>(given);
    size_t turn = 0;
    try {
      for (int64_t i = 0; i < n; i += batch, turn ^= 1) {
        const int64_t count = std::min(batch, n - i);
        Slot& slot = slots_[turn];
        drain(slot);
        cudaStream_t stream = slot.stream.get();
        std::memcpy(slot.host_images.get(), images + i * sidecar_.image_bytes(),
                    static_cast<size_t>(count * sidecar_.image_bytes()));
        check(cudaMemcpyAsync(slot.images.get(), slot.host_images.get(),
                              static_cast<size_t>(count * sidecar_.image_bytes()), cudaMemcpyHostToDevice, stream),
              "the images do not reach the device");
        infer(slot, count, stream);
        check(cudaMemcpyAsync(slot.host_vectors.get(), slot.vectors.get(), static_cast<size_t>(count * vector_bytes()),
                              cudaMemcpyDeviceToHost, stream),
              "the vectors do not leave the device");
        check(cudaEventRecord(slot.done.get(), stream), "the batch cannot be waited for");
        slot.waiting = count;
        slot.to = vectors + i * sidecar_.dim;
      }
      for (size_t i = 0; i < slots_.size(); ++i, turn ^= 1) drain(slots_[turn]);
    } catch (...) {
      // The caller's memory may be gone by the next call.
      for (Slot& slot : slots_) {
        static_cast<void>(cudaStreamSynchronize(slot.stream.get()));
        slot.waiting = 0;
      }
      throw;
    }
  }

  void enqueue(const void* given, int64_t n, int64_t batch, float* vectors, void* on_stream) override {
    const OnDevice on(device_);
    prepare(batch);
    const auto* images = static_cast<const uint8_t*>(given);
    auto* stream = static_cast<cudaStream_t>(on_stream);
    Slot& slot = slots_[0];
    check(cudaStreamWaitEvent(stream, slot.done.get(), 0), "the stream cannot wait");
    try {
      for (int64_t i = 0; i < n; i += batch) {
        const int64_t count = std::min(batch, n - i);
        check(cudaMemcpyAsync(slot.images.get(), images + i * sidecar_.image_bytes(),
                              static_cast<size_t>(count * sidecar_.image_bytes()), cudaMemcpyDeviceToDevice, stream),
              "the images cannot be copied");
        infer(slot, count, stream);
        check(cudaMemcpyAsync(vectors + i * sidecar_.dim, slot.vectors.get(),
                              static_cast<size_t>(count * vector_bytes()), cudaMemcpyDeviceToDevice, stream),
              "the vectors cannot be copied");
      }
    } catch (...) {
      // Work queued before the failure still uses the slot.
      static_cast<void>(cudaEventRecord(slot.done.get(), stream));
      throw;
    }
    check(cudaEventRecord(slot.done.get(), stream), "the batch cannot be waited for");
  }

 private:
  int64_t vector_bytes() const { return sidecar_.dim * static_cast<int64_t>(sizeof(float)); }

  static std::string version() {
    return std::to_string(getInferLibMajorVersion()) + "." + std::to_string(getInferLibMinorVersion()) + "." +
           std::to_string(getInferLibPatchVersion());
  }

  Context make_context() {
#if defined(TRT_MAJOR_RTX)
    // A graph keeps the kernels that it was captured with, so the first run must already use the kernels of this shape.
    const std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine_->createRuntimeConfig());
    if (config == nullptr) log_.fail("the engine cannot be run");
    config->setDynamicShapesKernelSpecializationStrategy(nvinfer1::DynamicShapesKernelSpecializationStrategy::kEAGER);
    return Context(engine_->createExecutionContext(config.get()));
#else
    return Context(engine_->createExecutionContext());
#endif
  }

  // A context that reads and writes the slot's buffers.
  Context new_context(const Slot& slot) {
    Context context = make_context();
    if (context == nullptr) log_.fail("the engine cannot be run");
    if (!context->setTensorAddress(sidecar_.input.c_str(), slot.images.get()) ||
        !context->setTensorAddress(sidecar_.output.c_str(), slot.vectors.get())) {
      log_.fail("the engine does not take its buffers");
    }
    return context;
  }

  // The batch that n images run as: the next size of a graph, or n without a graph.
  int64_t run_size(int64_t n) const {
    for (const int64_t size : kGraphSizes) {
      if (size >= n && size >= sidecar_.batch.min && size <= sidecar_.batch.max) return size;
    }
    return std::max(n, sidecar_.batch.min);
  }

  // Makes the slots before the first run.
  void prepare(int64_t batch) {
    if (slots_[1].done != nullptr) return;
    const auto most = static_cast<size_t>(run_size(batch));
    std::array<Slot, 2> slots;
    for (Slot& slot : slots) {
      cudaStream_t stream = nullptr;
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "no CUDA stream can be made");
      slot.stream.reset(stream);
      slot.images = device_bytes(most * static_cast<size_t>(sidecar_.image_bytes()));
      slot.vectors = device_bytes(most * static_cast<size_t>(vector_bytes()));
      slot.host_images = pinned_bytes(most * static_cast<size_t>(sidecar_.image_bytes()));
      slot.host_vectors = pinned_bytes(most * static_cast<size_t>(vector_bytes()));
      check(cudaMemsetAsync(slot.images.get(), 0, most * static_cast<size_t>(sidecar_.image_bytes()), stream),
            "cudaMemsetAsync");
      cudaEvent_t event = nullptr;
      check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "no CUDA event can be made");
      slot.done.reset(event);
      check(cudaEventRecord(event, stream), "the batch cannot be waited for");
    }
    slots_ = std::move(slots);
  }

  // Waits for the slot and copies its vectors to the caller.
  void drain(Slot& slot) {
    check(cudaEventSynchronize(slot.done.get()), "the device failed");
    if (slot.waiting > 0)
      std::memcpy(slot.to, slot.host_vectors.get(), static_cast<size_t>(slot.waiting * vector_bytes()));
    slot.waiting = 0;
  }

  // From slot.images to slot.vectors in the stream's order, after all work queued on the slot before. Images beyond
  // count are old ones.
  void infer(Slot& slot, int64_t count, cudaStream_t stream) {
    const int64_t size = run_size(count);
    if (std::find(kGraphSizes.begin(), kGraphSizes.end(), size) == kGraphSizes.end()) {
      if (slot.context == nullptr) slot.context = new_context(slot);
      set_batch(*slot.context, size);
      enqueue_engine(*slot.context, stream);
      return;
    }
    const auto found = slot.graphs.find(size);
    if (found == slot.graphs.end()) {
      Captured captured{new_context(slot), nullptr};
      set_batch(*captured.context, size);
      // The first run allocates and tunes, which no graph can hold.
      enqueue_engine(*captured.context, stream);
      check(cudaStreamSynchronize(stream), "the device failed");
      captured.launch = capture(*captured.context, slot.stream.get());
      slot.graphs.emplace(size, std::move(captured));
    } else if (found->second.launch == nullptr) {
      enqueue_engine(*found->second.context, stream);
    } else {
      check(cudaGraphLaunch(found->second.launch.get(), stream), "the CUDA graph does not run");
    }
  }

  void set_batch(nvinfer1::IExecutionContext& context, int64_t n) {
    nvinfer1::Dims4 dims(n, sidecar_.height, sidecar_.width, 3);
    if (sidecar_.layout == Layout::kNCHW) dims = nvinfer1::Dims4(n, 3, sidecar_.height, sidecar_.width);
    if (!context.setInputShape(sidecar_.input.c_str(), dims)) {
      log_.fail("the engine does not take a batch of " + std::to_string(n));
    }
  }

  void enqueue_engine(nvinfer1::IExecutionContext& context, cudaStream_t stream) {
    if (!context.enqueueV3(stream)) log_.fail("the engine does not run");
  }

  // Returns null if the engine cannot be captured. It then runs without a graph.
  static Launch capture(nvinfer1::IExecutionContext& context, cudaStream_t stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "no CUDA graph can be captured");
    const bool ran = context.enqueueV3(stream);
    cudaGraph_t captured = nullptr;
    const cudaError_t status = cudaStreamEndCapture(stream, &captured);
    const Graph graph(captured);
    cudaGraphExec_t launch = nullptr;
    if (!ran || status != cudaSuccess || cudaGraphInstantiate(&launch, captured, 0) != cudaSuccess) {
      static_cast<void>(cudaGetLastError());
      return nullptr;
    }
    return Launch(launch);
  }

  Sidecar sidecar_;
  int device_;
  std::unique_ptr<OnDevice> on_device_;  // while constructing
  std::string gpu_;
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::array<Slot, 2> slots_;
};

}  // namespace
}  // namespace dsa_fast

extern "C" DSA_FAST_API dsa_fast::Backend* dsa_fast_open_backend(const dsa_fast::BackendRequest& request) {
  return new dsa_fast::TensorRt(request);
}
