// From images to unit vectors, with a file that `dsa-fast export` wrote.
//
//   dsa_fast::Encoder encoder = dsa_fast::Encoder::load("mf.engine");
//   std::vector<uint8_t> images(n * encoder.height() * encoder.width() * 3);  // dsa_fast::resize fills it
//   std::vector<float> vectors(n * encoder.dim());
//   encoder.embed(images.data(), n, vectors.data());
//
// ONNX files run on the CPU through OpenVINO; tensorrt and tensorrt-rtx engines on a CUDA device. Each back end is a
// library in the folder of libdsa_runtime (libdsa_runtime_openvino.so, ...), loaded when an exported file needs it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dsa_fast/api.h"
#include "dsa_fast/sidecar.h"

namespace dsa_fast {

struct EncoderOptions {
  // "cpu", "cuda" or "cuda:N"; empty: the device that the kind of exported file runs on.
  std::string device;
  // Images run at once, within the sidecar's batch.min..batch.max; 0: 64 on a GPU and 32 on a CPU, or the nearest to
  // it. More images are split.
  int64_t batch = 0;
  // Threads of the CPU; 0: as many as the process may use. CUDA devices do not need it.
  int threads = 0;
  // The precision that the CPU computes in, "fp32", "fp16" or "bf16"; empty: the exported file's own. With 8-bit
  // convolutions, the other layers then use bf16 if the processor has it, as in Python.
  std::string precision;
};

class DSA_FAST_API Encoder {
 public:
  // Reads the exported file at `path` and its sidecar. Checks the one against the other, and the engine's inputs and
  // outputs against both. Throws std::runtime_error that names the difference, std::invalid_argument for an option.
  static Encoder load(const std::string& path, const EncoderOptions& options = {});

  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  const Sidecar& sidecar() const;
  int64_t height() const;  // of the images, in pixels
  int64_t width() const;
  int64_t dim() const;              // of the vectors
  int64_t batch() const;            // images run at once
  int threads() const;              // of the CPU
  std::string precision() const;    // that it computes in: fp32, fp16, bf16 or int8
  std::string description() const;  // such as "OpenVINO 2026.4.1, CPU, 2 threads, fp32"

  // images: [n, height, width, 3], uint8 RGB; vectors: [n, dim], each of length 1. Both in the host's memory; n >= 0.
  // The images are converted if the exported file takes another layout or type.
  // On a CUDA device, the copies of one batch overlap the computation of another. Several threads may call this; they
  // wait for each other. Throws std::runtime_error, also if a vector's length is not 1.
  void embed(const uint8_t* images, int64_t n, float* vectors);

  // The same on the device, in a stream's order; waits only when a batch size runs for the first time. images: in the
  // sidecar's layout and type; vectors: float32 [n, dim]; both in the memory of the encoder's CUDA device. stream: a
  // cudaStream_t that is not being captured. Throws std::runtime_error, also if the exported file runs on the CPU. Does
  // not check the vectors.
  void enqueue(const void* images, int64_t n, float* vectors, void* stream);

 private:
  struct State;
  explicit Encoder(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace dsa_fast
