// csrc/runtime/tensorrt.cpp on the CPU, with tensorrt_shim/ in place of TensorRT and CUDA: batches, the two slots,
// graphs, waiting, errors.
#include "../../csrc/runtime/tensorrt.cpp"
#include "scaffold.h"

namespace {

constexpr int64_t kPixels = 4 * 2 * 3, kDim = 5;

struct Case {
  ShimEngine engine;
  Sidecar sidecar{};
  std::unique_ptr<Backend> backend;

  Case(int64_t min, int64_t max, bool capturable, int64_t batch) : engine{min, max, kPixels, kDim, capturable} {
    sidecar.kind = "tensorrt";
    sidecar.input = "images";
    sidecar.output = "embeddings";
    sidecar.height = 4;
    sidecar.width = 2;
    sidecar.dim = kDim;
    sidecar.batch = {min, min, max};
    open(batch, std::string_view(reinterpret_cast<const char*>(&engine), sizeof(engine)), 0);
  }

  void open(int64_t batch, std::string_view exported, int device) {
    backend.reset(dsa_fast_open_backend({sidecar, exported, device, batch, 1, "fp32"}));
  }
};

bool right(const std::vector<uint8_t>& images, const std::vector<float>& vectors) {
  for (size_t i = 0; i < vectors.size() / kDim; ++i) {
    double squares = 0;
    for (size_t j = 0; j < kDim; ++j) squares += std::pow(images[i * kPixels + j] + 1.0, 2);
    for (size_t j = 0; j < kDim; ++j) {
      if (std::fabs(vectors[i * kDim + j] - (images[i * kPixels + j] + 1.0) / std::sqrt(squares)) > 1e-6) return false;
    }
  }
  return true;
}

void test_runs(int64_t min, int64_t max, bool capturable, int64_t batch) {
  const std::string name = "profile " + std::to_string(min) + ".." + std::to_string(max) + ", batch " +
                           std::to_string(batch) + (capturable ? "" : ", no graphs");
  Case test(min, max, capturable, batch);
  check_ports(test.sidecar, test.backend->ports());
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  for (const int64_t n : {int64_t{1}, int64_t{2}, batch, batch + 1, 5 * batch - 1, 5 * batch, int64_t{3}}) {
    const std::vector<uint8_t> images = random_bytes(n * kPixels);
    std::vector<float> vectors(static_cast<size_t>(n * kDim));
    std::vector<uint8_t> given = images;
    test.backend->run(given.data(), n, batch, vectors.data());
    check(right(images, vectors), "run of " + std::to_string(n) + ", " + name);
    // Two calls on a stream, without waiting in between.
    std::vector<float> first(vectors.size()), second(vectors.size());
    const std::vector<uint8_t> others = random_bytes(n * kPixels);
    test.backend->enqueue(images.data(), n, batch, first.data(), stream);
    test.backend->enqueue(others.data(), n, batch, second.data(), stream);
    // And one from the host in the meantime.
    std::fill(vectors.begin(), vectors.end(), 0.0f);
    test.backend->run(images.data(), n, batch, vectors.data());
    check(right(images, vectors), "run of " + std::to_string(n) + " during a stream's, " + name);
    cudaStreamSynchronize(stream);
    check(right(images, first) && right(others, second), "enqueue of " + std::to_string(n) + ", " + name);
  }
  test.backend.reset();
  cudaStreamDestroy(stream);
}

void test_graphs() {
  Case test(1, 4, true, 4);
  std::vector<float> vectors(8 * kDim);
  const std::vector<uint8_t> images = random_bytes(8 * kPixels);
  test.backend->run(images.data(), 8, 4, vectors.data());
  shim_runs = shim_launches = 0;
  for (int i = 0; i < 10; ++i) test.backend->run(images.data(), 8, 4, vectors.data());
  check(shim_runs == 0 && shim_launches == 20, "graphs are launched");
  check(test.backend->description() == "TensorRT 11.1.0, cuda:0 (Shim), ", test.backend->description());
}

void test_errors() {
  Case test(1, 4, true, 4);
  refuses([&] { test.open(4, "damaged", 0); },
          {"this TensorRT (11.1.0) does not load the engine: the magic tag differs"});
  test.sidecar.versions["tensorrt"] = "10.1.0";
  test.sidecar.gpu = {"NVIDIA A100", "8.0"};
  refuses(
      [&] { test.open(4, "damaged", 0); },
      {"does not load the engine, made with 10.1.0; the engine was made on NVIDIA A100 (compute capability 8.0), and "
       "this is Shim (9.0): the magic tag differs"});
  test.sidecar.compute_capabilities = {"8.6", "8.9"};
  refuses([&] { test.open(4, "damaged", 0); }, {"was made for compute capability 8.6, 8.9, and Shim has 9.0"});
  refuses([&] { test.open(4, "damaged", 1); }, {"cuda:1 cannot be used: no device"});
  shim_devices = 0;
  refuses([&] { test.open(4, "damaged", 0); }, {"no CUDA device can be used: no device"});
  shim_devices = 1;
  // An engine that takes fewer images than its sidecar promises.
  Case small(1, 2, true, 2);
  small.sidecar.batch.max = 4;
  refuses([&] { check_ports(small.sidecar, small.backend->ports()); }, {"must take batches of 1..4 images"});
  const std::vector<uint8_t> images = random_bytes(3 * kPixels);
  std::vector<float> vectors(3 * kDim);
  refuses([&] { small.backend->run(images.data(), 3, 3, vectors.data()); }, {"does not take a batch of 3"});
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  refuses([&] { small.backend->enqueue(images.data(), 3, 3, vectors.data(), stream); }, {"does not take a batch of 3"});
  small.backend.reset();
  cudaStreamDestroy(stream);
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  for (const bool capturable : {true, false}) {
    test_runs(1, 8, capturable, 8);
    test_runs(1, 8, capturable, 3);
    test_runs(1, 1, capturable, 1);
    test_runs(4, 8, capturable, 8);
    test_runs(4, 4, capturable, 4);
  }
  test_graphs();
  test_errors();
}
