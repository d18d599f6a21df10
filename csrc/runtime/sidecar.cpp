#include "dsa_fast/sidecar.h"

#include <openssl/evp.h>

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "files.h"

namespace dsa_fast {
namespace {

using nlohmann::json;

constexpr int64_t kLargestSidecar = 16 << 20;
constexpr int64_t kLargestSide = 1 << 14;  // pixels of an input, and numbers of a vector
constexpr int64_t kLargestBatch = 1 << 20;
constexpr int64_t kLargestExported = int64_t{1} << 40;

// Reads the fields of one object, and knows their names for the errors.
class Fields {
 public:
  Fields(const json& object, std::string file, std::string name)
      : object_(object), file_(std::move(file)), name_(std::move(name)) {
    if (!object.is_object()) throw std::runtime_error(file_ + ": " + title() + " must be an object" + got(object));
  }

  const json& at(const char* key) const {
    const auto found = object_.find(key);
    if (found == object_.end()) throw std::runtime_error(file_ + ": " + field(key) + " is missing");
    return *found;
  }

  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  Fields object(const char* key) const { return Fields(at(key), file_, field(key)); }

  std::string text(const char* key) const {
    const json& value = at(key);
    if (!value.is_string() || value.get_ref<const std::string&>().empty())
      fail(key, "must be a string that is not empty", value);
    return value.get<std::string>();
  }

  std::string one_of(const char* key, std::initializer_list<const char*> choices) const {
    const std::string value = text(key);
    std::string rule = "must be";
    for (const char* choice : choices) {
      if (value == choice) return value;
      rule += (choice == *choices.begin() ? " " : choice == *(choices.end() - 1) ? " or " : ", ") + std::string(choice);
    }
    fail(key, rule, at(key));
  }

  int64_t number(const char* key, int64_t low, int64_t high) const {
    const json& value = at(key);
    // An unsigned number may be beyond int64.
    if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX) ||
        value.get<int64_t>() < low || value.get<int64_t>() > high) {
      fail(key, "must be a whole number in " + std::to_string(low) + ".." + std::to_string(high), value);
    }
    return value.get<int64_t>();
  }

  // Three numbers, for R, G and B.
  void three(const char* key, double low, double high, float* to) const {
    const json& value = at(key);
    bool good = value.is_array() && value.size() == 3;
    for (size_t c = 0; good && c < 3; ++c) {
      good = value[c].is_number() && value[c].get<double>() >= low && value[c].get<double>() <= high;
      if (good) to[c] = value[c].get<float>();
    }
    if (!good) fail(key, "must be three numbers, for R, G and B", value);
  }

  [[noreturn]] void fail(const char* key, const std::string& rule, const json& value) const {
    throw std::runtime_error(file_ + ": " + field(key) + " " + rule + got(value));
  }

  const json& raw() const { return object_; }

 private:
  std::string title() const { return name_.empty() ? "the sidecar" : name_; }
  std::string field(const char* key) const { return name_.empty() ? key : name_ + "." + key; }
  static std::string got(const json& value) {
    std::string shown = value.dump(-1, ' ', false, json::error_handler_t::replace);
    if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
    return ", got " + shown;
  }

  const json& object_;
  std::string file_, name_;
};

std::string sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
    throw std::runtime_error("libcrypto computes no SHA-256");
  }
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    text += "0123456789abcdef"[digest[i] >> 4];
    text += "0123456789abcdef"[digest[i] & 15];
  }
  return text;
}

}  // namespace

Sidecar parse_sidecar(std::string_view text, const std::string& name) {
  json document;
  try {
    document = json::parse(text);
  } catch (const json::exception& error) {
    throw std::runtime_error(name + " must be JSON: " + error.what());
  }
  const Fields fields(document, name, "");
  fields.one_of("format", {"dsa_fast.artifact"});
  const json& version = fields.at("format_version");
  if (version != 1) fields.fail("format_version", "must be 1, the one that this version of dsa_fast reads", version);

  Sidecar sidecar{};
  sidecar.kind = fields.one_of("kind", {"onnx", "tensorrt", "tensorrt-rtx"});
  sidecar.bytes = fields.number("bytes", 1, kLargestExported);
  sidecar.sha256 = fields.text("sha256");
  if (sidecar.sha256.size() != 64 || sidecar.sha256.find_first_not_of("0123456789abcdef") != std::string::npos) {
    fields.fail("sha256", "must be 64 lower-case hexadecimal digits", fields.at("sha256"));
  }
  if (fields.has("model")) {
    const Fields model = fields.object("model");
    for (const char* key : {"class", "stream", "backbone"}) {
      if (!model.has(key)) continue;
      sidecar.model += (sidecar.model.empty() ? "" : ", " + std::string(key) + " ") + model.text(key);
    }
  }

  const Fields input = fields.object("input");
  sidecar.input = input.text("name");
  const bool bytes = input.one_of("dtype", {"uint8", "float32"}) == "uint8";
  sidecar.input_type = bytes ? InputType::kUint8 : InputType::kFloat32;
  input.one_of("channels", {"RGB"});
  sidecar.layout = input.one_of("layout", {"NHWC", "NCHW"}) == "NHWC" ? Layout::kNHWC : Layout::kNCHW;
  if (!bytes) {
    if (sidecar.layout != Layout::kNCHW) input.fail("layout", "must be NCHW for float32", input.at("layout"));
    input.three("mean", -1, 1, sidecar.mean);
    input.three("std", 1e-3, 10, sidecar.std);
  }
  sidecar.height = input.number("height", 1, kLargestSide);
  sidecar.width = input.number("width", 1, kLargestSide);

  const Fields output = fields.object("output");
  sidecar.output = output.text("name");
  output.one_of("dtype", {"float32"});
  sidecar.dim = output.number("dim", 1, kLargestSide);
  if (output.at("normalized") != true) {
    output.fail("normalized", "must be true: the vectors have length 1", output.at("normalized"));
  }

  sidecar.precision = fields.one_of("precision", {"fp32", "fp16", "bf16", "int8"});
  const Fields batch = fields.object("batch");
  sidecar.batch.min = batch.number("min", 1, kLargestBatch);
  sidecar.batch.opt = batch.number("opt", sidecar.batch.min, kLargestBatch);
  sidecar.batch.max = batch.number("max", sidecar.batch.opt, kLargestBatch);

  if (fields.has("versions")) {
    for (const auto& [key, value] : fields.object("versions").raw().items()) {
      if (value.is_string()) sidecar.versions[key] = value.get<std::string>();
    }
  }
  if (fields.has("gpu")) {
    const Fields gpu = fields.object("gpu");
    sidecar.gpu = {gpu.text("name"), gpu.text("compute_capability")};
  }
  if (fields.has("compute_capabilities")) {
    const json& list = fields.at("compute_capabilities");
    for (const json& item : list) {
      if (!list.is_array() || !item.is_string()) fields.fail("compute_capabilities", "must be a list of strings", list);
      sidecar.compute_capabilities.push_back(item.get<std::string>());
    }
  }
  return sidecar;
}

Sidecar read_sidecar(const std::string& path) {
  const std::string name = path + ".json";
  return parse_sidecar(read_file(name, kLargestSidecar), name);
}

std::string read_exported(const std::string& path, const Sidecar& sidecar) {
  std::string bytes = read_file(path, kLargestExported);
  if (static_cast<int64_t>(bytes.size()) != sidecar.bytes) {
    throw std::runtime_error(path + " must have " + std::to_string(sidecar.bytes) +
                             " bytes, as its sidecar says, got " + std::to_string(bytes.size()) +
                             ": it is damaged, or this is another file's sidecar");
  }
  const std::string digest = sha256(bytes);
  if (digest != sidecar.sha256) {
    throw std::runtime_error(path + " must have the SHA-256 " + sidecar.sha256 + ", as its sidecar says, got " +
                             digest + ": it is damaged, or this is another file's sidecar");
  }
  return bytes;
}

}  // namespace dsa_fast
