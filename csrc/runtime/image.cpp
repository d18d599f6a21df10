#include "dsa_fast/image.h"

#include <png.h>
// jpeglib.h needs these before it.
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "../cpu/capability.h"
#include "../resize.h"
#include "files.h"

namespace dsa_fast {
namespace {

constexpr int64_t kLargestFile = int64_t{1} << 30;
constexpr int64_t kLargestImage = int64_t{1} << 40;  // pixels
constexpr const char* kLimit = "DSA_FAST_MAX_PIXELS";

constexpr const char* kTooManyPixels = "too many pixels for the memory";

// ---- JPEG and PNG ---------------------------------------------------------------------------------------------------
// Both libraries report errors with longjmp. The functions that it leaves or returns to have no objects with
// destructors.

[[noreturn]] void refuse(const std::string& name, const char* reason) {
  throw std::runtime_error(name + " must be a readable JPEG or PNG image, got: " + reason);
}

// The most pixels that a file may have, and how an error shows it.
struct Limit {
  int64_t most = int64_t{1} << 26;
  std::string shown;
};

// As in dsa_fast.image: 2^26 pixels, or what the environment variable says.
Limit read_limit() {
  Limit limit;
  if (const char* given = std::getenv(kLimit)) {
    limit.most = 0;
    for (const char* digit = given; *digit != '\0' && limit.most >= 0; ++digit) {
      limit.most = *digit < '0' || *digit > '9' ? -1 : std::min(10 * limit.most + (*digit - '0'), kLargestImage);
    }
    if (limit.most < 1)
      throw std::runtime_error(kLimit + (" must be a number of pixels, got '" + std::string(given)) + "'");
  }
  limit.shown = std::to_string(limit.most);
  for (size_t place = limit.shown.size(); place > 3;) limit.shown.insert(place -= 3, ",");
  return limit;
}

// Returns whether the size is good, else writes the reason.
bool check_size(int64_t height, int64_t width, const Limit& limit, char* reason, size_t bytes) {
  if (height < 1 || width < 1) {
    std::snprintf(reason, bytes, "an image without pixels");
    return false;
  }
  if (height <= limit.most / width) return true;
  std::snprintf(reason, bytes, "it has %lld x %lld pixels, and %s (an environment variable) allows %s",
                static_cast<long long>(width), static_cast<long long>(height), kLimit, limit.shown.c_str());
  return false;
}

struct JpegErrors {
  jpeg_error_mgr manager;  // the first member: libjpeg gives a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void jpeg_fail(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  errors->manager.format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

// A file that ends early is an error, as in Pillow. Other damage is not.
void jpeg_message(j_common_ptr info, int level) {
  if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) jpeg_fail(info);
}

// The parts of a file that may say how to turn the image.
struct Metadata {
  std::vector<uint8_t> exif, xmp;
};

bool starts_with(const uint8_t* data, size_t size, std::string_view prefix) {
  return size >= prefix.size() && std::memcmp(data, prefix.data(), prefix.size()) == 0;
}

constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);

// The functions that grow a vector run inside the region that errors jump out of: the caller owns the vector.

bool append(std::vector<uint8_t>* to, const uint8_t* data, size_t size) noexcept {
  try {
    to->insert(to->end(), data, data + size);
  } catch (const std::bad_alloc&) {
    return false;
  }
  return true;
}

// Pillow joins the EXIF of several markers and takes the last XMP.
bool take_markers(const jpeg_saved_marker_ptr first, Metadata* metadata) noexcept {
  for (auto marker = first; marker != nullptr; marker = marker->next) {
    const uint8_t* data = marker->data;
    const size_t size = marker->data_length;
    bool taken = true;
    if (starts_with(data, size, kExif)) {
      taken = append(&metadata->exif, data + kExif.size(), size - kExif.size());
    } else if (starts_with(data, size, kXmp)) {
      metadata->xmp.clear();
      taken = append(&metadata->xmp, data + kXmp.size(), size - kXmp.size());
    }
    if (!taken) return false;
  }
  return true;
}

bool allocate(Image* image, int64_t height, int64_t width) noexcept {
  try {
    image->pixels.resize(static_cast<size_t>(height * width * 3));
  } catch (const std::exception&) {  // bad_alloc, or length_error
    return false;
  }
  image->height = height;
  image->width = width;
  return true;
}

int times_255th(int a, int b) {  // a * b / 255, rounded
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

// Returns the error's text, or an empty one. `row` is scratch, which the caller owns for the same reason.
const char* decode_jpeg(const uint8_t* data, size_t size, const Limit& limit, Image* image, Metadata* metadata,
                        std::vector<uint8_t>* row, JpegErrors* errors) {
  jpeg_decompress_struct info;
  info.err = jpeg_std_error(&errors->manager);
  errors->manager.error_exit = jpeg_fail;
  errors->manager.emit_message = jpeg_message;
  errors->message[0] = '\0';
  jpeg_create_decompress(&info);
  if (setjmp(errors->jump) != 0) {
    jpeg_destroy_decompress(&info);
    return errors->message;
  }
  const auto stop = [&](const char* reason) {
    jpeg_destroy_decompress(&info);
    return reason;
  };
  jpeg_mem_src(&info, data, size);
  jpeg_save_markers(&info, JPEG_APP0 + 1, 0xffff);
  jpeg_read_header(&info, TRUE);
  if (!check_size(info.image_height, info.image_width, limit, errors->message, sizeof(errors->message))) {
    return stop(errors->message);
  }
  if (!take_markers(info.marker_list, metadata)) return stop("too little memory");
  const bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  if (!allocate(image, info.image_height, info.image_width)) return stop(kTooManyPixels);
  if (cmyk) row->resize(static_cast<size_t>(image->width) * 4);  // far smaller than what was just allocated
  jpeg_start_decompress(&info);
  while (info.output_scanline < info.output_height) {
    uint8_t* to = image->pixels.data() + static_cast<size_t>(info.output_scanline) * info.output_width * 3;
    JSAMPROW line = cmyk ? row->data() : to;
    jpeg_read_scanlines(&info, &line, 1);
    // Such files hold 255 - c, 255 - m, ... Pillow converts to RGB like this.
    for (size_t x = 0; cmyk && x < info.output_width; ++x) {
      for (size_t c = 0; c < 3; ++c) {
        const int white = line[4 * x + 3];
        to[3 * x + c] = static_cast<uint8_t>(std::max(white - times_255th(255 - line[4 * x + c], white), 0));
      }
    }
  }
  jpeg_finish_decompress(&info);
  return stop("");
}

struct PngSource {
  const uint8_t* data;
  size_t size;
  char message[256];
};

void png_fail(png_structp png, png_const_charp message) {
  auto* source = static_cast<PngSource*>(png_get_error_ptr(png));
  std::snprintf(source->message, sizeof(source->message), "%s", message);
  png_longjmp(png, 1);
}

void png_ignore(png_structp, png_const_charp) {}

void png_take(png_structp png, png_bytep to, size_t size) {
  auto* source = static_cast<PngSource*>(png_get_io_ptr(png));
  if (size > source->size) png_error(png, "a file that ends early");
  std::memcpy(to, source->data, size);
  source->data += size;
  source->size -= size;
}

const char* decode_png(PngSource* source, const Limit& limit, Image* image, Metadata* metadata,
                       std::vector<png_bytep>* rows) {
  png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, source, png_fail, png_ignore);
  png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
  if (info == nullptr) {
    png_destroy_read_struct(&png, nullptr, nullptr);
    return "too little memory";
  }
  if (setjmp(png_jmpbuf(png)) != 0) {
    png_destroy_read_struct(&png, &info, nullptr);
    return source->message;
  }
  png_set_read_fn(png, source, png_take);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
  png_read_info(png, info);
  const int64_t height = png_get_image_height(png, info), width = png_get_image_width(png, info);
  if (!check_size(height, width, limit, source->message, sizeof(source->message))) png_longjmp(png, 1);
  const int color = png_get_color_type(png, info);
  if ((color & PNG_COLOR_MASK_COLOR) == 0) {
    if (color == PNG_COLOR_TYPE_GRAY) png_set_scale_16(png);  // to the nearest; the others keep their upper 8 bits
    png_set_expand_gray_1_2_4_to_8(png);
    png_set_gray_to_rgb(png);
  }
  if (color == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
  if (color != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png);
  png_set_strip_alpha(png);
  png_set_interlace_handling(png);
  png_read_update_info(png, info);
  if (png_get_rowbytes(png, info) != static_cast<size_t>(width) * 3) png_error(png, "an unknown pixel format");
  if (!allocate(image, height, width)) png_error(png, kTooManyPixels);
  rows->resize(static_cast<size_t>(height));
  for (int64_t y = 0; y < height; ++y) (*rows)[static_cast<size_t>(y)] = image->pixels.data() + y * width * 3;
  png_read_image(png, rows->data());
  png_read_end(png, info);  // an eXIf chunk may follow the pixels
#ifdef PNG_eXIf_SUPPORTED
  png_bytep exif = nullptr;
  png_uint_32 exif_size = 0;
  if (png_get_eXIf_1(png, info, &exif_size, &exif) != 0 && !append(&metadata->exif, exif, exif_size)) {
    png_error(png, "too little memory");
  }
#else
  static_cast<void>(metadata);
#endif
  png_destroy_read_struct(&png, &info, nullptr);
  return "";
}

// ---- the orientation ------------------------------------------------------------------------------------------------

// EXIF data, which are a small TIFF file. Every read is checked: the offsets in them may lead anywhere.
class Tiff {
 public:
  explicit Tiff(const std::vector<uint8_t>& exif) : data_(exif.data()), size_(exif.size()) {
    // Some writers put the prefix into a PNG or put it twice into a JPEG. As in Pillow, one more is skipped.
    if (starts_with(data_, size_, kExif)) {
      data_ += kExif.size();
      size_ -= kExif.size();
    }
    if (size_ < 8) return;
    little_ = data_[0] == 'I';
    // Pillow also takes the 42 in the wrong byte order.
    valid_ = (data_[0] == 'I' || data_[0] == 'M') && data_[0] == data_[1] && data_[2] + data_[3] == 42 &&
             (data_[2] == 0 || data_[3] == 0);
  }

  bool empty() const { return size_ == 0; }

  // The tag's first value: 0 if there is no such tag, 1 also if that is no whole number, or if the data are no TIFF.
  uint64_t orientation() const {
    constexpr uint64_t kTag = 0x0112;
    // The bytes of a value of each type; 0: no such type.
    constexpr uint8_t kBytes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};
    constexpr uint32_t kWhole = 1u << 3 | 1u << 4 | 1u << 6 | 1u << 8 | 1u << 9 | 1u << 13 | 1u << 16;
    if (!valid_) return 1;
    const uint64_t directory = number(4, 4);
    if (!has(directory, 2)) return 0;
    const uint64_t tags = number(directory, 2);
    uint64_t total = 0;
    for (uint64_t i = 0; i < tags; ++i) {
      const uint64_t entry = directory + 2 + 12 * i;
      if (!has(entry, 12)) return 0;
      const uint64_t type = number(entry + 2, 2), count = number(entry + 4, 4);
      if (type >= sizeof(kBytes)) continue;
      const uint64_t bytes = count * kBytes[type];
      if (bytes == 0) continue;
      uint64_t value = entry + 8;
      if (bytes > 4) {
        // As in Pillow, a tag with more data than there are is skipped, and one whose data are cut off ends the list.
        total += bytes;
        if (total > size_) continue;
        value = number(value, 4);
        if (!has(value, bytes)) return 0;
      }
      if (number(entry, 2) == kTag)
        return (kWhole >> type & 1) != 0 ? std::max<uint64_t>(number(value, kBytes[type]), 1) : 1;
    }
    return 0;
  }

 private:
  bool has(uint64_t at, uint64_t bytes) const { return at <= size_ && bytes <= size_ - at; }

  uint64_t number(uint64_t at, uint64_t bytes) const {
    uint64_t result = 0;
    for (uint64_t i = 0; i < bytes; ++i) result = result << 8 | data_[at + (little_ ? bytes - 1 - i : i)];
    return result;
  }

  const uint8_t* data_;
  size_t size_;
  bool little_ = false, valid_ = false;
};

// The attribute or element tiff:Orientation, 0 without one.
uint64_t xmp_orientation(std::string_view xmp) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = xmp.find(kName); at != xmp.npos; at = xmp.find(kName, at + 1)) {
    std::string_view rest = xmp.substr(at + kName.size());
    if (rest.substr(0, 2) == "=\"") {
      rest.remove_prefix(2);
    } else if (rest.substr(0, 1) == ">") {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return static_cast<uint64_t>(rest[0] - '0');
  }
  return 0;
}

// Damaged EXIF turns nothing. XMP counts only where EXIF does not have the tag, as in Pillow.
uint64_t orientation_of(const Metadata& metadata) {
  const Tiff tiff(metadata.exif);
  const uint64_t found = tiff.empty() ? 0 : tiff.orientation();
  if (found != 0) return found;
  return xmp_orientation({reinterpret_cast<const char*>(metadata.xmp.data()), metadata.xmp.size()});
}

// Turns an image as the orientation says; false if there is too little memory.
bool turn(Image* image, uint64_t orientation) noexcept {
  if (orientation < 2 || orientation > 8) return true;
  const bool swap = orientation >= 5;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const int64_t h = image->height, w = image->width;
  const int64_t row = from_bottom ? -w * 3 : w * 3, column = from_right ? -3 : 3;  // steps in the stored image
  const int64_t down = swap ? column : row, across = swap ? row : column;          // and in the turned one
  Image turned;
  if (!allocate(&turned, swap ? w : h, swap ? h : w)) return false;
  const uint8_t* first = image->pixels.data() + ((from_bottom ? h - 1 : 0) * w + (from_right ? w - 1 : 0)) * 3;
  uint8_t* to = turned.pixels.data();
  for (int64_t y = 0; y < turned.height; ++y) {
    for (int64_t x = 0; x < turned.width; ++x, to += 3) std::memcpy(to, first + y * down + x * across, 3);
  }
  *image = std::move(turned);
  return true;
}

// ---- the resize -----------------------------------------------------------------------------------------------------

// Like PyTorch, fuses multiply-adds only if the processor can.

// One row of pixels, uint8 [in, 3] -> float [out, 3].
template <bool kFused>
DSA_FAST_INLINE void across_body(const uint8_t* row, const AxisTaps& taps, float* out) {
  const auto width = static_cast<int64_t>(taps.range.size());
  for (int64_t x = 0; x < width; ++x) {
    const auto [first, count] = taps.range[static_cast<size_t>(x)];
    const float* weight = taps.weight.data() + x * taps.limit;
    const uint8_t* pixel = row + int64_t{first} * 3;
    float red = 0, green = 0, blue = 0;
    for (int64_t j = 0; j < count; ++j) {
      red = multiply_add<kFused>(static_cast<float>(pixel[3 * j]), weight[j], red);
      green = multiply_add<kFused>(static_cast<float>(pixel[3 * j + 1]), weight[j], green);
      blue = multiply_add<kFused>(static_cast<float>(pixel[3 * j + 2]), weight[j], blue);
    }
    out[3 * x] = red;
    out[3 * x + 1] = green;
    out[3 * x + 2] = blue;
  }
}

// `count` rows of n numbers, weighted -> uint8 [n]; sum [n] is scratch.
template <bool kFused>
DSA_FAST_INLINE void down_body(const float* rows, int64_t n, const float* weight, int64_t count, float* sum,
                               uint8_t* to) {
  std::fill(sum, sum + n, 0.0f);
  for (int64_t j = 0; j < count; ++j) {
    const float* row = rows + j * n;
    for (int64_t x = 0; x < n; ++x) sum[x] = multiply_add<kFused>(row[x], weight[j], sum[x]);
  }
  for (int64_t x = 0; x < n; ++x) to[x] = static_cast<uint8_t>(round_level(sum[x]));
}

struct Resizer {
  void (*across)(const uint8_t* row, const AxisTaps& taps, float* out);
  void (*down)(const float* rows, int64_t n, const float* weight, int64_t count, float* sum, uint8_t* to);
};

#define DSA_FAST_RESIZER(name, target, fused)                                                                          \
  target void across_##name(const uint8_t* row, const AxisTaps& taps, float* out) {                                    \
    across_body<fused>(row, taps, out);                                                                                \
  }                                                                                                                    \
  target void down_##name(const float* rows, int64_t n, const float* weight, int64_t count, float* sum, uint8_t* to) { \
    down_body<fused>(rows, n, weight, count, sum, to);                                                                 \
  }

#ifdef __FP_FAST_FMAF
DSA_FAST_RESIZER(plain, , true)
#else
DSA_FAST_RESIZER(plain, , false)
#endif
#ifdef DSA_FAST_X86
DSA_FAST_RESIZER(fma, DSA_FAST_AVX2, true)
#endif

Resizer choose_resizer() {
#ifdef DSA_FAST_X86
  if (has_avx2()) return {across_fma, down_fma};
#endif
  return {across_plain, down_plain};
}

}  // namespace

Image decode_image(std::string_view file, const std::string& name) {
  const Limit limit = read_limit();
  Image image;
  Metadata metadata;
  const auto* data = reinterpret_cast<const uint8_t*>(file.data());
  std::string reason;
  if (file.size() >= 3 && std::memcmp(data, "\xff\xd8\xff", 3) == 0) {
    JpegErrors errors;
    std::vector<uint8_t> row;
    reason = decode_jpeg(data, file.size(), limit, &image, &metadata, &row, &errors);
  } else if (file.size() >= 8 && std::memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0) {
    PngSource source{data, file.size(), ""};
    std::vector<png_bytep> rows;
    reason = decode_png(&source, limit, &image, &metadata, &rows);
  } else {
    reason = file.empty() ? "an empty file" : "another format";
  }
  if (reason.empty() && !turn(&image, orientation_of(metadata))) reason = kTooManyPixels;
  if (!reason.empty()) refuse(name, reason.c_str());
  return image;
}

Image read_image(const std::string& path) { return decode_image(read_file(path, kLargestFile), path); }

void resize(const Image& image, int64_t height, int64_t width, uint8_t* to) {
  if (static_cast<int64_t>(image.pixels.size()) != image.height * image.width * 3) {
    throw std::invalid_argument("an image must have height * width * 3 bytes, " +
                                std::to_string(image.height * image.width * 3) + ", got " +
                                std::to_string(image.pixels.size()));
  }
  resize(ImageView{image.pixels.data(), image.height, image.width, image.width * 3}, height, width, to);
}

void resize(const ImageView& image, int64_t height, int64_t width, uint8_t* to) {
  const int64_t h = image.height, w = image.width;
  for (const auto& [rows, columns] : {std::pair(h, w), std::pair(height, width)}) {
    if (rows >= 1 && columns >= 1 && rows <= kLargestImage / columns) continue;
    throw std::invalid_argument("the sides of an image must be at least 1, with at most 2^40 pixels, got " +
                                std::to_string(rows) + " x " + std::to_string(columns));
  }
  const bool packed = image.column == 3 && image.channel == 1;
  const auto pack = [&](int64_t y, uint8_t* row) {
    const uint8_t* from = image.pixels + y * image.row;
    if (packed) {
      std::memcpy(row, from, static_cast<size_t>(w * 3));
      return;
    }
    for (int64_t x = 0; x < w; ++x, from += image.column) {
      for (int64_t c = 0; c < 3; ++c) row[3 * x + c] = from[c * image.channel];
    }
  };
  if (h == height && w == width) {
    for (int64_t y = 0; y < h; ++y) pack(y, to + y * w * 3);
    return;
  }
  static const Resizer resizer = choose_resizer();
  // Along the rows first, then across them.
  const AxisTaps across(w, width), down(h, height);
  const int64_t n = width * 3;
  std::vector<float> wide(static_cast<size_t>(h * n)), sum(static_cast<size_t>(n));
  std::vector<uint8_t> line(packed ? 0 : static_cast<size_t>(w * 3));
  for (int64_t y = 0; y < h; ++y) {
    if (!packed) pack(y, line.data());
    resizer.across(packed ? image.pixels + y * image.row : line.data(), across, wide.data() + y * n);
  }
  for (int64_t y = 0; y < height; ++y) {
    const auto [first, count] = down.range[static_cast<size_t>(y)];
    resizer.down(wide.data() + first * n, n, down.weight.data() + y * down.limit, count, sum.data(), to + y * n);
  }
}

}  // namespace dsa_fast
