#include "dsa_fast/encoder.h"

#include <dlfcn.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
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
  int threads;
  std::optional<SharedBackend> backend;
  std::vector<float> level;  // [3, 256]: a float32 input's number for each level of R, G and B

  // uint8 [n, height, width, 3] as the exported file takes them.
  void convert(const uint8_t* images, int64_t n, uint8_t* to) const {
    const int64_t pixels = sidecar.height * sidecar.width;
    const bool floats = sidecar.input_type == InputType::kFloat32;
    for (int64_t i = 0; i < n; ++i, images += 3 * pixels, to += sidecar.image_bytes()) {
      for (int64_t c = 0; c < 3; ++c) {
        if (floats) {
          float* plane = reinterpret_cast<float*>(to) + c * pixels;
          for (int64_t p = 0; p < pixels; ++p) plane[p] = level[static_cast<size_t>(256 * c + images[3 * p + c])];
        } else {
          for (int64_t p = 0; p < pixels; ++p) to[c * pixels + p] = images[3 * p + c];
        }
      }
    }
  }

  void run(const void* images, int64_t n, float* vectors) {
    backend->run(images, n, batch, vectors);
    for (int64_t i = 0; i < n; ++i) {
      double squares = 0;
      for (int64_t j = 0; j < sidecar.dim; ++j) {
        const auto value = static_cast<double>(vectors[i * sidecar.dim + j]);
        squares += value * value;
      }
      // Written so that NaN fails. In bf16 the engine's last division, too, is rounded to 8 bits.
      const double length = std::sqrt(squares);
      if (!(std::fabs(length - 1) < 0.02)) {
        throw std::runtime_error("the engine must give vectors of length 1, got one of length " +
                                 std::to_string(length));
      }
    }
  }
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
  if (!options.precision.empty() && options.precision != "fp32" && options.precision != "fp16" &&
      options.precision != "bf16") {
    throw std::invalid_argument("precision must be fp32, fp16 or bf16, got " + options.precision);
  }
  if (!options.precision.empty() && find_kind(sidecar.kind).gpu) {
    throw std::invalid_argument("precision is chosen for the CPU only; an exported file of the kind " + sidecar.kind +
                                " has its own, " + sidecar.precision);
  }
  if (sidecar.input_type == InputType::kFloat32) {
    // The arithmetic of dsa_fast.data.transforms.normalize.
    for (int c = 0; c < 3; ++c) {
      for (int value = 0; value < 256; ++value) {
        state->level.push_back((static_cast<float>(value) - sidecar.mean[c] * 255.0f) / (sidecar.std[c] * 255.0f));
      }
    }
  }
  state->threads = options.threads > 0 ? options.threads : available_threads();
  const std::string bytes = read_exported(path, sidecar);
  OpenBackend* open = find_backend(path, sidecar.kind);
  try {
    std::unique_ptr<Backend> backend(open({sidecar, bytes, device, state->batch, state->threads,
                                           options.precision.empty() ? sidecar.precision : options.precision}));
    check_ports(sidecar, backend->ports());
    state->backend.emplace(std::move(backend));
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
int Encoder::threads() const { return state_->threads; }
std::string Encoder::precision() const { return state_->backend->get().precision(); }
std::string Encoder::description() const { return state_->backend->get().description(); }

void Encoder::embed(const uint8_t* images, int64_t n, float* vectors) {
  check_pointers(images, n, vectors);
  const Sidecar& sidecar = state_->sidecar;
  if (sidecar.layout == Layout::kNHWC) {
    if (n > 0) state_->run(images, n, vectors);
    return;
  }
  // In pieces, so that the converted images need little memory.
  const int64_t piece = 4 * state_->batch;
  std::vector<uint8_t> converted(static_cast<size_t>(std::min(piece, n) * sidecar.image_bytes()));
  for (int64_t i = 0; i < n; i += piece) {
    const int64_t count = std::min(piece, n - i);
    state_->convert(images + i * sidecar.height * sidecar.width * 3, count, converted.data());
    state_->run(converted.data(), count, vectors + i * sidecar.dim);
  }
}

void Encoder::enqueue(const void* images, int64_t n, float* vectors, void* stream) {
  check_pointers(images, n, vectors);
  if (n == 0) return;
  state_->backend->enqueue(images, n, state_->batch, vectors, stream);
}

}  // namespace dsa_fast
