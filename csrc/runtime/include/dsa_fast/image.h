// Images, from files to the size that a network takes: the same pixels as Pillow and dsa_fast.data.transforms.resize.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dsa_fast/api.h"

namespace dsa_fast {

struct Image {
  int64_t height = 0, width = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3], RGB
};

// Pixels in someone's memory. The strides are in bytes and may be negative: BGR pixels are RGB ones with a step of -1.
struct ImageView {
  const uint8_t* pixels = nullptr;  // red of the first pixel
  int64_t height = 0, width = 0;
  int64_t row = 0, column = 3, channel = 1;  // strides
};

// Decodes a JPEG or PNG and turns it upright. Errors show `name`. As in Pillow's convert("RGB"), transparency is
// dropped and 16-bit colours keep their upper 8 bits. As in dsa_fast.image, 16-bit gray is scaled from 0..65535 to
// 0..255. As in Pillow's exif_transpose, the orientation comes from EXIF or, in a JPEG without it, from XMP. Damaged
// EXIF is ignored. Throws std::runtime_error, also for more than 2^26 pixels; the environment variable
// DSA_FAST_MAX_PIXELS sets another limit.
DSA_FAST_API Image decode_image(std::string_view file, const std::string& name);

// The same from a file.
DSA_FAST_API Image read_image(const std::string& path);

// Bilinear, antialiased along a side that shrinks, rounded to nearest even: `to` is [height, width, 3], uint8. Throws
// std::invalid_argument if a side is below 1 or the image does not have height * width * 3 bytes.
DSA_FAST_API void resize(const Image& image, int64_t height, int64_t width, uint8_t* to);
DSA_FAST_API void resize(const ImageView& image, int64_t height, int64_t width, uint8_t* to);

}  // namespace dsa_fast
