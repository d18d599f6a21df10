// The part of TensorRT that csrc/runtime/tensorrt.cpp uses. The engine's "file" is a ShimEngine, and its network
// returns the unit vector of an image's first bytes.
#pragma once

#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "cuda_runtime_api.h"

struct ShimEngine {
  int64_t min, max, pixels, dim;
  bool capturable;
};
inline int shim_runs = 0;      // of the engine, not counting graphs
inline int shim_contexts = 0;  // made
// A context that a graph was captured from was reshaped or run, or a graph was launched that outlived its context.
inline int shim_misuses = 0;

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kUINT8, kBF16 };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : int32_t { kMIN, kOPT, kMAX };
struct Dims {
  int32_t nbDims;
  int64_t d[8];
};
struct Dims4 : Dims {
  Dims4(int64_t a, int64_t b, int64_t c, int64_t e) : Dims{4, {a, b, c, e}} {}
};
class ILogger {
 public:
  enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

class IExecutionContext {
 public:
  explicit IExecutionContext(const ShimEngine& engine) : engine_(engine) { ++shim_contexts; }
  ~IExecutionContext() { *alive_ = false; }
  bool setInputShape(const char*, const Dims& dims) {
    if (captured_) ++shim_misuses;
    n_ = dims.d[0];
    return n_ >= engine_.min && n_ <= engine_.max;
  }
  bool setTensorAddress(const char* name, void* data) {
    (std::string(name) == "images" ? images_ : vectors_) = data;
    return true;
  }
  bool enqueueV3(cudaStream_t stream) {
    if (stream->capturing != nullptr && !engine_.capturable) return false;
    if (captured_) ++shim_misuses;
    if (stream->capturing == nullptr) ++shim_runs;
    captured_ = captured_ || stream->capturing != nullptr;
    const ShimEngine engine = engine_;
    const int64_t n = n_;
    const auto* images = static_cast<const uint8_t*>(images_);
    auto* vectors = static_cast<float*>(vectors_);
    const std::shared_ptr<bool> alive = alive_;
    stream->ask([=] {
      if (!*alive) ++shim_misuses;
      for (int64_t i = 0; i < n; ++i) {
        double squares = 0;
        for (int64_t j = 0; j < engine.dim; ++j) squares += std::pow(images[i * engine.pixels + j] + 1.0, 2);
        for (int64_t j = 0; j < engine.dim; ++j) {
          vectors[i * engine.dim + j] = static_cast<float>((images[i * engine.pixels + j] + 1.0) / std::sqrt(squares));
        }
      }
    });
    return true;
  }

 private:
  ShimEngine engine_;
  int64_t n_ = 0;
  bool captured_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  void *images_ = nullptr, *vectors_ = nullptr;
};

class ICudaEngine {
 public:
  explicit ICudaEngine(const ShimEngine& engine) : engine_(engine) {}
  int32_t getNbIOTensors() const { return 2; }
  const char* getIOTensorName(int32_t i) const { return i == 0 ? "images" : "embeddings"; }
  TensorIOMode getTensorIOMode(const char* name) const {
    return std::string(name) == "images" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(const char* name) const {
    return std::string(name) == "images" ? DataType::kUINT8 : DataType::kFLOAT;
  }
  Dims getTensorShape(const char* name) const {
    return std::string(name) == "images" ? Dims{4, {-1, 4, engine_.pixels / 12, 3}} : Dims{2, {-1, engine_.dim}};
  }
  Dims getProfileShape(const char* name, int32_t, OptProfileSelector which) const {
    Dims dims = getTensorShape(name);
    dims.d[0] = which == OptProfileSelector::kMIN ? engine_.min : engine_.max;
    return dims;
  }
  IExecutionContext* createExecutionContext() const { return new IExecutionContext(engine_); }

 private:
  ShimEngine engine_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& log) : log_(log) {}
  ICudaEngine* deserializeCudaEngine(const void* data, size_t size) {
    ShimEngine engine;
    if (size != sizeof(engine)) {
      log_.log(ILogger::Severity::kERROR, "the magic tag differs");
      log_.log(ILogger::Severity::kWARNING, "only a warning");
      return nullptr;
    }
    std::memcpy(&engine, data, size);
    return new ICudaEngine(engine);
  }

 private:
  ILogger& log_;
};
inline IRuntime* createInferRuntime(ILogger& log) { return new IRuntime(log); }

}  // namespace nvinfer1

inline int32_t getInferLibMajorVersion() { return 11; }
inline int32_t getInferLibMinorVersion() { return 1; }
inline int32_t getInferLibPatchVersion() { return 0; }
