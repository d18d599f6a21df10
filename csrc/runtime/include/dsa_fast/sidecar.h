// The sidecar of an exported file: NAME.onnx.json describes NAME.onnx. `dsa-fast export` writes both.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dsa_fast/api.h"

namespace dsa_fast {

enum class Layout { kNHWC, kNCHW };
enum class InputType { kUint8, kFloat32 };

struct Sidecar {
  std::string kind;    // onnx, tensorrt or tensorrt-rtx
  int64_t bytes;       // of the exported file
  std::string sha256;  // of the exported file, 64 lower-case hexadecimal digits
  std::string model;   // such as "DSAReID, stream mf, backbone resnet50"

  // Images, RGB [N, height, width, 3] or [N, 3, height, width]: uint8, or float32 (value / 255 - mean) / std.
  std::string input;
  InputType input_type;
  Layout layout;
  int64_t height, width;
  float mean[3], std[3];  // of R, G, B in 0..1; an 8-bit input is normalized in the graph

  // Unit vectors, float32 [N, dim].
  std::string output;
  int64_t dim;

  std::string precision;  // fp32, fp16, bf16 or int8
  struct {
    int64_t min, opt, max;
  } batch;  // images that the exported file takes at once

  std::map<std::string, std::string> versions;  // of the packages that made it
  struct Gpu {
    std::string name, compute_capability;  // such as "9.0"
  };
  std::optional<Gpu> gpu;                         // that it was made on and for, if any
  std::vector<std::string> compute_capabilities;  // that it was made for; empty: its kind's default

  // Of one image, as the exported file takes it.
  int64_t image_bytes() const { return height * width * 3 * (input_type == InputType::kUint8 ? 1 : 4); }
};

// Reads a sidecar's text. Throws std::runtime_error that shows `name`, the field, the rule and the value.
DSA_FAST_API Sidecar parse_sidecar(std::string_view text, const std::string& name);

// Reads the sidecar of the exported file at `path`, `path`.json. Throws std::runtime_error, also if it is missing.
DSA_FAST_API Sidecar read_sidecar(const std::string& path);

// The bytes of the exported file at `path`. Throws std::runtime_error if their number or SHA-256 is not the sidecar's.
DSA_FAST_API std::string read_exported(const std::string& path, const Sidecar& sidecar);

}  // namespace dsa_fast
