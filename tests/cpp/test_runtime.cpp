// The parts of csrc/runtime that need no engine: sidecars, checksums, contracts, images, .npy files.
#include "../../csrc/runtime/backend.h"

#include <unistd.h>
// jpeglib.h needs this before it.
#include <cstdio>

#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "../../csrc/runtime/files.h"
#include "dsa_fast/image.h"
#include "scaffold.h"

namespace {

using nlohmann::json;

// The SHA-256 of "abc" is from FIPS 180-4's examples.
json good_sidecar() {
  return json::parse(R"({"format": "dsa_fast.artifact", "format_version": 1, "kind": "onnx", "file": "mf.onnx",
    "bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    "model": {"stream": "mf", "class": "DSAReID", "backbone": "resnet50", "parameters": 7},
    "input": {"name": "images", "dtype": "uint8", "layout": "NHWC", "height": 256, "width": 128, "channels": "RGB",
              "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "output": {"name": "embeddings", "dtype": "float32", "dim": 4096, "normalized": true},
    "precision": "fp32", "batch": {"min": 1, "opt": 8, "max": 64}, "versions": {"onnx": "1.23.2"},
    "gpu": null, "compute_capabilities": null, "parity": {}})");
}

void test_sidecar() {
  const Sidecar sidecar = parse_sidecar(good_sidecar().dump(), "mf.onnx.json");
  check(sidecar.kind == "onnx" && sidecar.bytes == 3 && sidecar.model == "DSAReID, stream mf, backbone resnet50",
        "kind");
  check(sidecar.input == "images" && sidecar.layout == Layout::kNHWC, "input");
  check(sidecar.height == 256 && sidecar.width == 128 && sidecar.output == "embeddings" && sidecar.dim == 4096,
        "sides");
  check(sidecar.precision == "fp32" && sidecar.batch.min == 1 && sidecar.batch.opt == 8 && sidecar.batch.max == 64,
        "batch");
  check(sidecar.versions.at("onnx") == "1.23.2" && !sidecar.gpu && sidecar.compute_capabilities.empty(), "versions");

  json engine = good_sidecar();
  engine["kind"] = "tensorrt-rtx";
  engine["gpu"] = {{"name", "NVIDIA H100"}, {"compute_capability", "9.0"}};
  engine["compute_capabilities"] = {"8.9", "9.0"};
  engine["input"]["layout"] = "NCHW";
  const Sidecar rtx = parse_sidecar(engine.dump(), "x");
  check(rtx.gpu->compute_capability == "9.0" && rtx.compute_capabilities.size() == 2 && rtx.layout == Layout::kNCHW,
        "gpu");

  const struct {
    const char *field, *value;
    std::vector<std::string> words;
  } damages[] = {
      {"/format", "\"other\"", {"mf.onnx.json: format must be dsa_fast.artifact, got \"other\""}},
      {"/format_version", "2", {"format_version must be 1", "got 2"}},
      {"/kind", "\"coreml\"", {"kind must be onnx, tensorrt or tensorrt-rtx, got \"coreml\""}},
      {"/bytes", "0", {"bytes must be a whole number in 1..", "got 0"}},
      {"/bytes", "18446744073709551615", {"bytes must be a whole number"}},
      {"/bytes", "3.0", {"bytes must be a whole number"}},
      {"/sha256", "\"BA7816BF\"", {"sha256 must be 64 lower-case hexadecimal digits"}},
      {"/input", "[]", {"input must be an object, got []"}},
      {"/input/dtype", "\"int8\"", {"input.dtype must be uint8 or float32, got \"int8\""}},
      {"/input/channels", "\"BGR\"", {"input.channels must be RGB"}},
      {"/input/layout", "\"NC\"", {"input.layout must be NHWC or NCHW"}},
      {"/input/height", "-1", {"input.height must be a whole number in 1..16384, got -1"}},
      {"/input/width", "100000", {"input.width"}},
      {"/input/name", "\"\"", {"input.name must be a string"}},
      {"/output/dtype", "\"float16\"", {"output.dtype must be float32"}},
      {"/output/dim", "null", {"output.dim must be a whole number", "got null"}},
      {"/output/normalized", "false", {"output.normalized must be true"}},
      {"/precision", "\"fp8\"", {"precision must be fp32, fp16, bf16 or int8"}},
      {"/batch/max", "4", {"batch.max must be a whole number in 8..", "got 4"}},
      {"/batch/min", "0", {"batch.min"}},
      {"/gpu", "{\"name\": \"H100\"}", {"gpu.compute_capability is missing"}},
      {"/compute_capabilities", "[9]", {"compute_capabilities must be a list of strings, got [9]"}},
  };
  for (const auto& damage : damages) {
    json document = good_sidecar();
    document[json::json_pointer(damage.field)] = json::parse(damage.value);
    refuses([&] { parse_sidecar(document.dump(), "mf.onnx.json"); }, damage.words);
  }
  for (const char* key : {"format", "kind", "bytes", "sha256", "input", "output", "precision", "batch"}) {
    json document = good_sidecar();
    document.erase(key);
    refuses([&] { parse_sidecar(document.dump(), "s"); }, {std::string("s: ") + key + " is missing"});
  }
  refuses([] { parse_sidecar("{\"format\": ", "s"); }, {"s must be JSON"});
  refuses([] { parse_sidecar("[1]", "s"); }, {"the sidecar must be an object"});
  // Cut-off and flipped bytes cause an error or nothing.
  const std::string text = good_sidecar().dump();
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = text.substr(0, i % 2 == 0 ? text.size() : rng() % text.size());
    for (int k = 0; k < 3 && !damaged.empty(); ++k) damaged[rng() % damaged.size()] = static_cast<char>(rng());
    try {
      parse_sidecar(damaged, "s");
    } catch (const std::runtime_error&) {
    }
  }
}

void test_exported(const std::string& folder) {
  const std::string path = folder + "/mf.onnx";
  const auto put = [](const std::string& at, const std::string& bytes) {
    AtomicFile file(at);
    file.write(bytes.data(), bytes.size());
    file.commit();
  };
  refuses([&] { read_sidecar(path); }, {path + ".json cannot be read: No such file"});
  put(path + ".json", good_sidecar().dump());
  const Sidecar sidecar = read_sidecar(path);
  refuses([&] { read_exported(path, sidecar); }, {path + " cannot be read: No such file"});
  put(path, "abc");
  check(read_exported(path, sidecar) == "abc", "read_exported");
  put(path, "abd");
  refuses([&] { read_exported(path, sidecar); },
          {path + " must have the SHA-256 ba7816bf",
           "got a52d159f262b2c6ddb724a61840befc36eb30c88877a4030b65cbe86298449c9"});
  put(path, "abcd");
  refuses([&] { read_exported(path, sidecar); }, {path + " must have 3 bytes", "got 4"});
  refuses([&] { read_file(folder, 10); }, {"must be a file, got a folder"});
  refuses([&] { read_file(path, 3); }, {"must have at most 3 bytes, got 4"});
}

void test_float_inputs() {
  json description = good_sidecar();
  description["input"]["dtype"] = "float32";
  description["input"]["layout"] = "NCHW";
  description["input"]["mean"] = {0.485, 0.456, 0.406};
  description["input"]["std"] = {0.229, 0.224, 0.225};
  const Sidecar sidecar = parse_sidecar(description.dump(), "s");
  check(sidecar.input_type == InputType::kFloat32 && sidecar.mean[1] == 0.456f && sidecar.std[2] == 0.225f, "floats");
  check(sidecar.image_bytes() == 256 * 128 * 3 * 4, "image_bytes");
  Ports ports{{{"images", "float32", {-1, 3, 256, 128}}}, {{"embeddings", "float32", {-1, 4096}}}, 1, -1};
  check_ports(sidecar, ports);
  ports.inputs[0].dtype = "uint8";
  refuses([&] { check_ports(sidecar, ports); }, {"input must be float32, got uint8"});
  const auto changed = [&](const char* key, const json& value) {
    json other = description;
    other["input"][key] = value;
    return [=] { parse_sidecar(other.dump(), "s"); };
  };
  refuses(changed("layout", "NHWC"), {"input.layout must be NCHW for float32"});
  refuses(changed("mean", {0.5, 0.5}), {"input.mean must be three numbers, for R, G and B, got [0.5,0.5]"});
  refuses(changed("std", {0.2, 0.0, 0.2}), {"input.std must be three numbers"});
  refuses(changed("std", "x"), {"input.std must be three numbers"});
}

void test_contract() {
  const Sidecar sidecar = parse_sidecar(good_sidecar().dump(), "s");
  const Ports good{{{"images", "uint8", {-1, 256, 128, 3}}}, {{"embeddings", "float32", {-1, 4096}}}, 1, -1};
  check_ports(sidecar, good);
  const auto changed = [&](const std::function<void(Ports&)>& change) {
    Ports ports = good;
    change(ports);
    return [=] { check_ports(sidecar, ports); };
  };
  refuses(changed([](Ports& p) { p.inputs[0].name = "x"; }),
          {"input must be named images, as the sidecar says, got x"});
  refuses(changed([](Ports& p) { p.inputs[0].dtype = "float32"; }), {"input must be uint8, got float32"});
  refuses(changed([](Ports& p) { p.inputs[0].shape = {-1, 3, 256, 128}; }),
          {"input must have the shape [N, 256, 128, 3], as the sidecar says, got [N, 3, 256, 128]"});
  refuses(changed([](Ports& p) { p.inputs[0].shape = {}; }), {"got []"});
  refuses(changed([](Ports& p) { p.inputs.push_back(p.inputs[0]); }), {"must have one input, got 2"});
  refuses(changed([](Ports& p) { p.outputs[0].shape = {-1, 2048}; }), {"output must have the shape [N, 4096]"});
  refuses(changed([](Ports& p) { p.outputs.clear(); }), {"must have one output, got 0"});
  refuses(changed([](Ports& p) { p.max_batch = 32; }), {"must take batches of 1..64 images", "got 1..32"});
  refuses(changed([](Ports& p) { p.min_batch = 2; }), {"got 2..-1"});

  check(choose_batch(sidecar, 0) == 32 && choose_batch(sidecar, 64) == 64, "choose_batch");
  refuses([&] { choose_batch(sidecar, 65); }, {"batch must be in 1..64 for this exported file, got 65"});
  check(choose_device(sidecar, "") == 0 && choose_device(sidecar, "cpu") == 0, "choose_device");
  refuses([&] { choose_device(sidecar, "cuda"); },
          {"device must be cpu for an exported file of the kind onnx, got cuda"});
  Sidecar engine = sidecar;
  engine.kind = "tensorrt";
  check(choose_batch(engine, 0) == 64, "choose_batch, cuda");
  engine.batch = {100, 100, 200};
  check(choose_batch(engine, 0) == 100, "choose_batch, a large least batch");
  check(choose_device(engine, "cuda:12") == 12 && choose_device(engine, "") == 0, "choose_device, cuda");
  refuses([&] { choose_device(engine, "cpu"); }, {"device must be cuda for an exported file of the kind tensorrt"});
  for (const char* bad : {"cuda:", "cuda:x", "cuda:-1", "cuda:99999", "cudax", "gpu"}) {
    refuses([&] { choose_device(engine, bad); }, {"device must be cpu, cuda or cuda:N, got "});
  }
}

void test_files(const std::string& folder) {
  const auto names = [&] {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      found.push_back(entry.path().filename().string());
    return found;
  };
  const std::vector<float> rows{1, 2, 3, 4, 5, 6};
  const std::string path = folder + "/deep/er/x.npy";
  {
    NpyWriter file(path, 3);
    file.write(rows.data(), 2);
    file.close();
    check(!std::filesystem::exists(path), "a file has its name too early");
    file.commit();
  }
  const std::string bytes = read_file(path, 1000);
  check(bytes.size() == 128 + 24 && bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) == 0, "npy, size");
  check(bytes.find("'shape': (2, 3), }") != std::string::npos && bytes[127] == '\n', "npy, header");
  check(std::memcmp(bytes.data() + 128, rows.data(), 24) == 0, "npy, content");
  const std::vector<std::string> before = names();
  {
    NpyWriter file(folder + "/y.npy", 3);
    file.write(rows.data(), 2);
  }
  check(names() == before, "an unfinished file stays");
  refuses([&] { AtomicFile file(folder); }, {folder + " must be a file, got a folder"});
  refuses([&] { AtomicFile file(path + "/z.npy"); }, {"cannot be written"});
}

// ---- images ---------------------------------------------------------------------------------------------------------

// With the given APP1 markers.
std::string make_jpeg(const Image& image, const std::vector<std::string>& markers = {}) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* data = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &data, &size);
  info.image_width = static_cast<JDIMENSION>(image.width);
  info.image_height = static_cast<JDIMENSION>(image.height);
  info.input_components = 3;
  info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&info);
  jpeg_start_compress(&info, TRUE);
  for (const std::string& marker : markers) {
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(marker.data()),
                      static_cast<unsigned>(marker.size()));
  }
  while (info.next_scanline < info.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(image.pixels.data()) + info.next_scanline * image.width * 3;
    jpeg_write_scanlines(&info, &row, 1);
  }
  jpeg_finish_compress(&info);
  jpeg_destroy_compress(&info);
  std::string bytes(reinterpret_cast<char*>(data), size);
  std::free(data);
  return bytes;
}

std::string make_png(const Image& image) {
  png_image info{};
  info.version = PNG_IMAGE_VERSION;
  info.width = static_cast<png_uint_32>(image.width);
  info.height = static_cast<png_uint_32>(image.height);
  info.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = 0;
  png_image_write_to_memory(&info, nullptr, &size, 0, image.pixels.data(), 0, nullptr);
  std::string bytes(size, '\0');
  check(png_image_write_to_memory(&info, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) != 0, "make_png");
  bytes.resize(size);
  return bytes;
}

// A PNG with an eXIf chunk before its pixels, or after them.
std::string add_exif(std::string png, const std::string& exif, bool late) {
  const auto word = [](uint64_t n) {
    std::string bytes;
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(n >> shift);
    return bytes;
  };
  const std::string chunk = "eXIf" + exif;
  const uint64_t crc = crc32(0, reinterpret_cast<const Bytef*>(chunk.data()), static_cast<uInt>(chunk.size()));
  return png.insert(late ? png.size() - 12 : 33, word(exif.size()) + chunk + word(crc));
}

Image noise(int64_t height, int64_t width) { return {height, width, random_bytes(height * width * 3)}; }

void test_decoding() {
  const Image image = noise(37, 21);
  const std::string png = make_png(image), jpeg = make_jpeg(image);
  const Image same = decode_image(png, "x.png");
  check(same.height == 37 && same.width == 21 && same.pixels == image.pixels, "png");
  const Image like = decode_image(jpeg, "x.jpg");
  check(like.height == 37 && like.width == 21 && like.pixels.size() == image.pixels.size(), "jpeg");
  refuses([] { decode_image("", "x"); }, {"x must be a readable JPEG or PNG image, got: an empty file"});
  refuses([] { decode_image("GIF89a", "x"); }, {"another format"});
  refuses([&] { decode_image(png.substr(0, png.size() / 2), "x"); }, {"a file that ends early"});
  refuses([&] { decode_image(jpeg.substr(0, jpeg.size() / 2), "x"); }, {"Premature end of JPEG"});
  std::string huge = png;
  huge[16] = 0x7f;  // the width's upper byte
  refuses([&] { decode_image(huge, "x"); }, {"x must be a readable"});
  for (int i = 0; i < 600; ++i) {
    std::string damaged = i % 2 == 0 ? png : jpeg;
    for (int k = 0; k < 1 + i % 4; ++k) damaged[rng() % damaged.size()] = static_cast<char>(rng());
    if (i % 3 == 0) damaged.resize(rng() % damaged.size());
    try {
      const Image decoded = decode_image(damaged, "x");
      check(static_cast<int64_t>(decoded.pixels.size()) == decoded.height * decoded.width * 3,
            "a damaged image's size");
    } catch (const std::runtime_error&) {
    }
  }
}

// EXIF data with the orientation as the second of two tags.
std::string make_exif(bool little, uint64_t orientation, uint64_t type = 3, uint64_t count = 1) {
  std::string bytes = little ? "II" : "MM";
  const auto put = [&](uint64_t n, int width) {
    for (int i = 0; i < width; ++i) bytes += static_cast<char>(n >> 8 * (little ? i : width - 1 - i));
  };
  put(42, 2), put(8, 4), put(2, 2);
  put(0x010f, 2), put(2, 2), put(6, 4), put(38, 4);  // the maker's name, at 38
  put(0x0112, 2), put(type, 2), put(count, 4), put(orientation, type == 4 ? 4 : 2), put(0, type == 4 ? 0 : 2);
  put(0, 4);
  return bytes + std::string("maker\0", 6);
}

// The pixel of the stored image that the upright image shows at (y, x), from EXIF's definition: orientation 6 has the
// upright image's top on its right side, and so on.
std::array<int64_t, 2> stored_at(int64_t orientation, int64_t h, int64_t w, int64_t y, int64_t x) {
  switch (orientation) {
    case 2:
      return {y, w - 1 - x};
    case 3:
      return {h - 1 - y, w - 1 - x};
    case 4:
      return {h - 1 - y, x};
    case 5:
      return {x, y};
    case 6:
      return {h - 1 - x, y};
    case 7:
      return {h - 1 - x, w - 1 - y};
    case 8:
      return {x, w - 1 - y};
    default:
      return {y, x};
  }
}

void test_orientation() {
  constexpr int64_t h = 13, w = 7;
  const std::string prefix("Exif\0\0", 6), xmp("http://ns.adobe.com/xap/1.0/\0", 29);
  const Image image = noise(h, w);
  const std::string png = make_png(image);
  const Image plain_jpeg = decode_image(make_jpeg(image), "x");
  const auto is_turned = [&](const std::string& file, const Image& from, int64_t orientation, const std::string& name) {
    const Image got = decode_image(file, "x");
    bool same = got.height == (orientation >= 5 ? w : h) && got.width == (orientation >= 5 ? h : w) &&
                got.pixels.size() == from.pixels.size();
    for (int64_t i = 0; same && i < h * w; ++i) {
      const auto [y, x] = stored_at(orientation, h, w, i / got.width, i % got.width);
      same = std::memcmp(&got.pixels[size(i * 3)], &from.pixels[size((y * w + x) * 3)], 3) == 0;
    }
    check(same, name + ", orientation " + std::to_string(orientation));
  };
  for (int64_t orientation = 1; orientation <= 8; ++orientation) {
    const auto value = static_cast<uint64_t>(orientation);
    for (const bool little : {false, true}) {
      for (const uint64_t type : {3, 4}) {
        const std::string exif = make_exif(little, value, type);
        for (const bool late : {false, true}) is_turned(add_exif(png, exif, late), image, orientation, "png");
        is_turned(make_jpeg(image, {prefix + exif}), plain_jpeg, orientation, "jpeg");
        is_turned(make_jpeg(image, {prefix + prefix + exif}), plain_jpeg, orientation, "two prefixes");
        is_turned(make_jpeg(image, {prefix + exif.substr(0, 20), prefix + exif.substr(20)}), plain_jpeg, orientation,
                  "two markers");
      }
    }
    for (const char* before : {"tiff:Orientation=\"", "tiff:Orientation=1 <tiff:Orientation>"}) {
      const std::string text = xmp + before + std::to_string(orientation);
      is_turned(make_jpeg(image, {text}), plain_jpeg, orientation, "xmp");
      is_turned(make_jpeg(image, {text, prefix + make_exif(true, 1)}), plain_jpeg, 1, "xmp next to exif");
      is_turned(make_jpeg(image, {text, prefix + "no TIFF"}), plain_jpeg, 1, "xmp next to damaged exif");
    }
  }

  const std::string good = make_exif(true, 6);
  const auto changed = [&](size_t at, const std::string& bytes) {
    return std::string(good).replace(at, bytes.size(), bytes);
  };
  const struct {
    const char* name;
    std::string exif;
  } damages[] = {
      {"no data", ""},
      {"no TIFF", changed(2, "+")},
      {"mixed byte orders", changed(1, "M")},
      {"a directory at the end", changed(4, std::string("\x2c\0\0\0", 4))},
      {"a directory far outside", changed(4, "\xff\xff\xff\xff")},
      {"a directory with only its size", good.substr(0, 10)},
      {"a header that is cut off", good.substr(0, 7)},
      {"a tag that is cut off", good.substr(0, 33)},
      {"a text", changed(24, "\2")},
      {"no such type", changed(24, "\x77\x77")},
      {"no values", changed(26, std::string(1, '\0'))},
      {"values outside", changed(26, std::string("\3\0\0\0\x28", 5))},
      {"too many values", changed(26, "\xff\xff\xff\xff")},
      {"another value", changed(30, "\x9")},
      {"no value", changed(30, std::string(1, '\0'))},
      {"data of the tag before that are cut off", good.substr(0, 40)},
  };
  for (const auto& damage : damages) {
    is_turned(add_exif(png, damage.exif, false), image, 1, std::string("png, ") + damage.name);
    is_turned(make_jpeg(image, {prefix + damage.exif}), plain_jpeg, 1, std::string("jpeg, ") + damage.name);
  }
  const std::string two = make_exif(true, 44, 4, 2) + std::string("\6\0\0\0\1\0\0", 8);
  is_turned(make_jpeg(image, {prefix + two}), plain_jpeg, 6, "the first of two values");
  for (int i = 0; i < 3000; ++i) {
    std::string exif = make_exif(i % 2 == 0, 1 + rng() % 8, 1 + rng() % 16, 1 + rng() % 3);
    for (int k = 0; k < 1 + i % 4; ++k) exif[rng() % exif.size()] = static_cast<char>(rng());
    if (i % 3 == 0) exif.resize(rng() % exif.size());
    const Image decoded = decode_image(make_jpeg(image, {prefix + exif}), "x");
    check(decoded.height * decoded.width == h * w && size(h * w * 3) == decoded.pixels.size(), "a damaged EXIF");
  }
}

// Weights and sums in double, straight from the definition.
double plain(const Image& image, int64_t height, int64_t width, int64_t y, int64_t x, int64_t c) {
  const auto axis = [](int64_t in, int64_t out, int64_t i) {
    const double scale = static_cast<double>(in) / static_cast<double>(out), wide = std::max(scale, 1.0);
    std::vector<double> weight(static_cast<size_t>(in));
    double total = 0;
    for (int64_t j = 0; j < in; ++j) {
      const double at = (static_cast<double>(j) + 0.5 - scale * (static_cast<double>(i) + 0.5)) / wide;
      total += weight[static_cast<size_t>(j)] = std::max(0.0, 1 - std::fabs(at));
    }
    for (double& w : weight) w /= total;
    return weight;
  };
  const std::vector<double> rows = axis(image.height, height, y), columns = axis(image.width, width, x);
  double sum = 0;
  for (int64_t i = 0; i < image.height; ++i) {
    for (int64_t j = 0; j < image.width; ++j) {
      sum += rows[static_cast<size_t>(i)] * columns[static_cast<size_t>(j)] *
             image.pixels[static_cast<size_t>((i * image.width + j) * 3 + c)];
    }
  }
  return sum;
}

void test_resize() {
  constexpr int64_t sizes[][4] = {{1, 1, 5, 7},    {5, 7, 1, 1},   {8, 8, 8, 8},   {128, 64, 32, 16},
                                  {13, 9, 26, 18}, {26, 9, 13, 9}, {9, 13, 9, 31}, {50, 3, 7, 40},
                                  {3, 40, 50, 7},  {2, 2, 3, 3},   {40, 1, 1, 40}, {17, 19, 16, 20}};
  for (const auto& s : sizes) {
    const Image image = noise(s[0], s[1]);
    std::vector<uint8_t> resized(static_cast<size_t>(s[2] * s[3] * 3));
    resize(image, s[2], s[3], resized.data());
    double worst = 0;
    for (int64_t i = 0; i < s[2] * s[3] * 3; ++i) {
      const double right = plain(image, s[2], s[3], i / 3 / s[3], i / 3 % s[3], i % 3);
      worst = std::max(worst, std::fabs(right - resized[static_cast<size_t>(i)]));
    }
    check(worst < 0.5001, "resize " + std::to_string(s[0]) + " x " + std::to_string(s[1]) + " to " +
                              std::to_string(s[2]) + " x " + std::to_string(s[3]) + ": off by " +
                              std::to_string(worst));
  }
  Image image = noise(2, 2);
  uint8_t out[3];
  refuses([&] { resize(image, 0, 1, out); }, {"must be at least 1"});
  image.pixels.pop_back();
  refuses([&] { resize(image, 1, 1, out); }, {"must have height * width * 3 bytes"});
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  char folder[] = "/tmp/dsa_fast_test_XXXXXX";
  check(mkdtemp(folder) != nullptr, "mkdtemp");
  test_sidecar();
  test_exported(folder);
  test_float_inputs();
  test_contract();
  test_files(folder);
  test_decoding();
  test_orientation();
  test_resize();
  std::filesystem::remove_all(folder);
}
