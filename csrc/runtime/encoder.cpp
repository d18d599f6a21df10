#include "dsa_fast/encoder.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <vector>

#include "backend.h"

namespace dsa_fast {
namespace {

// The number of threads that this process may use; in a container, fewer than the machine has.
int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? std::max(CPU_COUNT(&set), 1) : 1;
}

std::string here() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&available_threads), &info) == 0 || info.dli_fname == nullptr) return ".";
  const std::filesystem::path path(info.dli_fname);
  return path.has_parent_path() ? path.parent_path().string() : ".";
}

struct Kind {
  const char *title, *library;
  bool gpu;
};

Kind find_kind(const std::string& name) {
  if (name == "tensorrt") return {"TensorRT", "libdsa_runtime_tensorrt.so", true};
  if (name == "tensorrt-rtx") return {"TensorRT-RTX", "libdsa_runtime_tensorrt_rtx.so", true};
  return {"OpenVINO", "libdsa_runtime_openvino.so", false};
}

// The library stays loaded: its threads and its device context outlive an encoder.
OpenBackend* find_backend(const std::string& path, const std::string& name) {
  const Kind kind = find_kind(name);
  const std::string folder = here(), library = folder + "/" + kind.library;
  const std::string what = path + " is of the kind " + name + ", which " + kind.title + " runs: ";
  if (!std::filesystem::exists(library)) {
    throw std::runtime_error(what + "this dsa_runtime was built without it (no " + kind.library + " in " + folder +
                             ")");
  }
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) throw std::runtime_error(what + dlerror());
  void* symbol = dlsym(handle, kOpenBackend);
  if (symbol == nullptr) throw std::runtime_error(what + dlerror());
  return reinterpret_cast<OpenBackend*>(symbol);
}

void check_pointers(const void* images, int64_t n, const void* vectors) {
  if (n < 0) throw std::invalid_argument("n must be at least 0, got " + std::to_string(n));
  if (n > 0 && (images == nullptr || vectors == nullptr))
    throw std::invalid_argument("images and vectors must not be null, got null");
}

}  // namespace

struct Encoder::State {
  Sidecar sidecar;
  int64_t batch;
  std::unique_ptr<Backend> backend;
  std::mutex mutex;  // of the back end

  int64_t image_bytes() const { return sidecar.height * sidecar.width * 3; }
};

Encoder::Encoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
Encoder::Encoder(Encoder&&) noexcept = default;
Encoder& Encoder::operator=(Encoder&&) noexcept = default;
Encoder::~Encoder() = default;

Encoder Encoder::load(const std::string& path, const EncoderOptions& options) {
  auto state = std::make_unique<State>();
  state->sidecar = read_sidecar(path);
  const Sidecar& sidecar = state->sidecar;
  const int device = choose_device(sidecar, options.device);
  state->batch = choose_batch(sidecar, options.batch);
  if (options.threads < 0) {
    throw std::invalid_argument("threads must be at least 0, got " + std::to_string(options.threads));
  }
  if (!options.precision.empty() && options.precision != "fp32" && options.precision != "bf16") {
    throw std::invalid_argument("precision must be fp32 or bf16, got " + options.precision);
  }
  if (!options.precision.empty() && find_kind(sidecar.kind).gpu) {
    throw std::invalid_argument("precision is chosen for the CPU only; an exported file of the kind " + sidecar.kind +
                                " has its own, " + sidecar.precision);
  }
  const std::string bytes = read_exported(path, sidecar);
  OpenBackend* open = find_backend(path, sidecar.kind);
  try {
    state->backend.reset(
        open({sidecar, bytes, device, state->batch, options.threads > 0 ? options.threads : available_threads(),
              options.precision.empty() ? sidecar.precision : options.precision}));
    check_ports(sidecar, state->backend->ports());
  } catch (const std::exception& error) {
    throw std::runtime_error(path + ": " + error.what());
  }
  return Encoder(std::move(state));
}

const Sidecar& Encoder::sidecar() const { return state_->sidecar; }
int64_t Encoder::height() const { return state_->sidecar.height; }
int64_t Encoder::width() const { return state_->sidecar.width; }
int64_t Encoder::dim() const { return state_->sidecar.dim; }
int64_t Encoder::batch() const { return state_->batch; }
std::string Encoder::description() const { return state_->backend->description(); }

void Encoder::embed(const uint8_t* images, int64_t n, float* vectors) {
  check_pointers(images, n, vectors);
  if (n == 0) return;
  std::vector<uint8_t> planes;
  if (state_->sidecar.layout == Layout::kNCHW) {
    const int64_t pixels = height() * width();
    planes.resize(static_cast<size_t>(n * state_->image_bytes()));
    for (int64_t i = 0; i < n; ++i) {
      const uint8_t* from = images + i * state_->image_bytes();
      uint8_t* to = planes.data() + i * state_->image_bytes();
      for (int64_t p = 0; p < pixels; ++p) {
        for (int64_t c = 0; c < 3; ++c) to[c * pixels + p] = from[3 * p + c];
      }
    }
    images = planes.data();
  }
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->backend->run(images, n, state_->batch, vectors);
  }
  for (int64_t i = 0; i < n; ++i) {
    double squares = 0;
    for (int64_t j = 0; j < dim(); ++j) {
      const auto value = static_cast<double>(vectors[i * dim() + j]);
      squares += value * value;
    }
    // Written so that NaN fails. In bf16 the engine's last division, too, is rounded to 8 bits.
    const double length = std::sqrt(squares);
    if (!(std::fabs(length - 1) < 0.02)) {
      throw std::runtime_error("the engine must give vectors of length 1, got one of length " + std::to_string(length));
    }
    for (int64_t j = 0; j < dim(); ++j) {
      vectors[i * dim() + j] = static_cast<float>(static_cast<double>(vectors[i * dim() + j]) / length);
    }
  }
}

void Encoder::enqueue(const uint8_t* images, int64_t n, float* vectors, void* stream) {
  check_pointers(images, n, vectors);
  if (n == 0) return;
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->backend->enqueue(images, n, state_->batch, vectors, stream);
}

}  // namespace dsa_fast
