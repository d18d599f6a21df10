// Runs dsa_fast/image.h for the Python test of the runtime, which compares it with Pillow and PyTorch.
//
//   image_probe resize           reads int32 h, w, H, W and [h, w, 3] bytes, again and again; writes [H, W, 3] bytes
//   image_probe decode FILE...   writes int32 h, w and [h, w, 3] bytes per file; 0, 0 and a message if it is refused
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "dsa_fast/image.h"

namespace {

void put(const void* data, size_t bytes) { std::fwrite(data, 1, bytes, stdout); }

void resize_all() {
  int32_t sides[4];
  while (std::fread(sides, sizeof(sides), 1, stdin) == 1) {
    dsa_fast::Image image{sides[0], sides[1], std::vector<uint8_t>(static_cast<size_t>(sides[0]) * sides[1] * 3)};
    if (std::fread(image.pixels.data(), 1, image.pixels.size(), stdin) != image.pixels.size()) return;
    std::vector<uint8_t> resized(static_cast<size_t>(sides[2]) * sides[3] * 3);
    dsa_fast::resize(image, sides[2], sides[3], resized.data());
    put(resized.data(), resized.size());
  }
}

void decode(const char* path) {
  int32_t size[2] = {0, 0};
  try {
    const dsa_fast::Image image = dsa_fast::read_image(path);
    size[0] = static_cast<int32_t>(image.height);
    size[1] = static_cast<int32_t>(image.width);
    put(size, sizeof(size));
    put(image.pixels.data(), image.pixels.size());
  } catch (const std::exception& error) {
    put(size, sizeof(size));
    std::fprintf(stderr, "%s\n", error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string task = argc > 1 ? argv[1] : "";
  if (task == "resize") {
    resize_all();
  } else if (task == "decode") {
    for (int i = 2; i < argc; ++i) decode(argv[i]);
  } else {
    return 2;
  }
  return 0;
}
