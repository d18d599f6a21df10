// csrc/runtime/tensorrt.cpp on the CPU, with tensorrt_shim/ in place of TensorRT and CUDA: batches, the two slots,
// graphs, waiting, errors.
#include <atomic>
#include <thread>
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
    sidecar.input_type = InputType::kUint8;
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

// Batches of all sizes: few graphs, each with a context of its own, and the sizes above 64 share one.
void test_contexts() {
  Case test(1, 100, true, 100);
  shim_contexts = shim_runs = shim_launches = 0;
  for (int round = 0; round < 3; ++round) {
    for (int64_t n = 1; n <= 100; ++n) {
      const std::vector<uint8_t> images = random_bytes(n * kPixels);
      std::vector<float> vectors(static_cast<size_t>(n * kDim));
      test.backend->run(images.data(), n, 100, vectors.data());
      check(right(images, vectors), "a batch of " + std::to_string(n) + ", round " + std::to_string(round));
    }
  }
  check(shim_contexts == 13, "contexts: " + std::to_string(shim_contexts));
  check(shim_runs == 12 + 3 * 36, "runs without a graph: " + std::to_string(shim_runs));
  check(shim_launches == 3 * 64 - 12, "launches: " + std::to_string(shim_launches));
}

// Several threads share an encoder's back end, each with its own sizes, and the device's stream in between.
void test_threads(bool capturable) {
  Case test(1, 16, capturable, 7);
  dsa_fast::SharedBackend shared(std::move(test.backend));
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, 0);
  std::atomic<int> wrong{0};
  std::vector<std::vector<uint8_t>> given;  // random_bytes is not for several threads
  for (int i = 0; i < 8 * 20; ++i) given.push_back(random_bytes((1 + i % 19) * kPixels));
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) {
        const std::vector<uint8_t>& images = given[static_cast<size_t>(8 * i + t)];
        std::vector<float> vectors(images.size() / kPixels * kDim);
        shared.run(images.data(), static_cast<int64_t>(images.size()) / kPixels, 7, vectors.data());
        if (!right(images, vectors)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(wrong == 0, "threads: " + std::to_string(wrong) + " wrong results");
  cudaStreamDestroy(stream);
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

void run_tests(const std::vector<std::string>& only) {
  test_threads(true);
  test_threads(false);
  if (!only.empty()) return;  // under the thread sanitizer
  for (const bool capturable : {true, false}) {
    test_runs(1, 8, capturable, 8);
    test_runs(1, 8, capturable, 3);
    test_runs(1, 1, capturable, 1);
    test_runs(4, 8, capturable, 8);
    test_runs(4, 4, capturable, 4);
  }
  test_graphs();
  test_contexts();
  test_errors();
  check(shim_misuses == 0, "misuses of contexts: " + std::to_string(shim_misuses));
}
