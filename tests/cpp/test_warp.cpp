// Compares three ways of computing a warp, bit for bit: the CPU kernels, the CUDA kernels, and a plain loop that
// follows csrc/warp.h. The CUDA kernels run on the CPU (csrc/cuda/host_shim.h) or, built by nvcc, on a GPU.
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>

#include "../../csrc/warp.h"
#include "asked_capability.h"
#include "scaffold.h"
#if !defined(__CUDACC__)
#include "../../csrc/cuda/host_shim.h"
#endif

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// ---- element types, from their definitions and not from dtype.h ----------------------------------------------------

double decode16_by_definition(uint16_t bits, int exponent_bits) {
  const int mantissa_bits = 15 - exponent_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? kNaN : sign * kInf;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

double decode16(uint16_t bits, int exponent_bits) {
  static const auto table_of = [](int exponent_bits) {
    std::vector<double> table(0x10000);
    for (uint32_t k = 0; k < 0x10000; ++k) table[k] = decode16_by_definition(static_cast<uint16_t>(k), exponent_bits);
    return table;
  };
  static const std::vector<double> half = table_of(5), bfloat = table_of(8);
  return (exponent_bits == 5 ? half : bfloat)[bits];
}

// The nearest 16-bit number, ties to the even pattern, by bisection over all positive ones.
uint16_t encode16(double x, int exponent_bits) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const uint16_t infinity = static_cast<uint16_t>(((1 << exponent_bits) - 1) << (15 - exponent_bits));
  if (std::isnan(x)) return static_cast<uint16_t>(infinity | (1 << (14 - exponent_bits)));
  const double magnitude = std::fabs(x);
  uint16_t low = 0, high = infinity;  // decode(low) <= magnitude
  while (high - low > 1) {
    const uint16_t middle = static_cast<uint16_t>((low + high) / 2);
    (decode16(middle, exponent_bits) <= magnitude ? low : high) = middle;
  }
  const double below = decode16(low, exponent_bits);
  // Above the largest finite number, the exponents count as if they went on.
  const double above = high == infinity ? 2 * below - decode16(static_cast<uint16_t>(low - 1), exponent_bits)
                                        : decode16(high, exponent_bits);
  const double to_low = magnitude - below, to_high = above - magnitude;
  const bool up = to_high < to_low || (to_high == to_low && (low & 1)) || (magnitude == kInf);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

double load(const void* data, int64_t k, DType dtype) {
  switch (dtype) {
    case DType::kUInt8:
      return static_cast<const uint8_t*>(data)[k];
    case DType::kFloat16:
      return decode16(static_cast<const uint16_t*>(data)[k], 5);
    case DType::kBFloat16:
      return decode16(static_cast<const uint16_t*>(data)[k], 8);
    case DType::kFloat32:
      return static_cast<const float*>(data)[k];
    default:
      return static_cast<const double*>(data)[k];
  }
}

void store(void* data, int64_t k, DType dtype, double x) {
  switch (dtype) {
    case DType::kUInt8:
      static_cast<uint8_t*>(data)[k] =
          std::isnan(x) ? 0 : static_cast<uint8_t>(std::nearbyint(std::clamp(x, 0.0, 255.0)));
      break;
    case DType::kFloat16:
      static_cast<uint16_t*>(data)[k] = encode16(static_cast<float>(x), 5);
      break;
    case DType::kBFloat16:
      static_cast<uint16_t*>(data)[k] = encode16(static_cast<float>(x), 8);
      break;
    case DType::kFloat32:
      static_cast<float*>(data)[k] = static_cast<float>(x);
      break;
    default:
      static_cast<double*>(data)[k] = x;
  }
}

const char* name_of(DType dtype) {
  constexpr const char* names[] = {"uint8", "float16", "bfloat16", "float32", "float64"};
  return names[static_cast<int>(dtype)];
}

// Equal bits, or two NaNs.
bool same(const void* a, const void* b, int64_t k, DType dtype) {
  const int64_t bytes = bytes_of(dtype);
  if (std::memcmp(static_cast<const char*>(a) + k * bytes, static_cast<const char*>(b) + k * bytes, size(bytes)) == 0) {
    return true;
  }
  return std::isnan(load(a, k, dtype)) && std::isnan(load(b, k, dtype));
}

void compare(const Buffer& got, const Buffer& expected, DType dtype, const std::string& what) {
  const int64_t n = static_cast<int64_t>(expected.bytes()) / bytes_of(dtype);
  int64_t k = 0;
  while (k < n && same(got.data(), expected.data(), k, dtype)) ++k;
  check(k == n,
        what + (k == n ? ""
                       : ": element " + std::to_string(k) + " is " + std::to_string(load(got.data(), k, dtype)) +
                             ", expected " + std::to_string(load(expected.data(), k, dtype))));
}

void compare_counts(const Buffer& got, const Buffer& expected, const std::string& what) {
  check(std::memcmp(got.data(), expected.data(), expected.bytes()) == 0, what);
}

// ---- a case --------------------------------------------------------------------------------------------------------

enum class Content { kRandom, kPatches, kOneTexel, kEmpty, kFull, kWild };

struct Case {
  int64_t B, C, H, W, S;
  DType img, iuv, out;
  Reduce reduce;
  Content content;
  bool permuted;  // img [B, H, W, C] and iuv [B, W, H, 3] in memory, gradients [B, 24, S, S, C]

  std::string name() const {
    constexpr const char* contents[] = {"random", "patches", "one texel", "empty", "full", "wild"};
    return (reduce == Reduce::kLast ? "last " : "mean ") + show({B, C, H, W, S}) + name_of(img) + " " + name_of(iuv) +
           " -> " + name_of(out) + ", " + contents[static_cast<int>(content)] + (permuted ? ", permuted" : "");
  }
};

// A pixel's texel by csrc/texel.h: part * S * S + row * S + column, or -1.
int64_t expected_texel(const IuvMap& map, int64_t b, int64_t y, int64_t x, int64_t S) {
  double value[3];
  for (int c = 0; c < 3; ++c) {
    const int64_t offset = b * map.stride[0] + c * map.stride[1] + y * map.stride[2] + x * map.stride[3];
    value[c] = load(map.data, offset, map.dtype);
    if (std::isnan(value[c])) return -1;
  }
  if (value[0] < 1 || value[0] > 24 || value[0] != std::floor(value[0])) return -1;
  int64_t at[2];
  for (int c = 0; c < 2; ++c) {
    if (map.dtype == DType::kUInt8) {
      at[c] = static_cast<int64_t>(value[c + 1]) * S / 255;
    } else {
      const float product = static_cast<float>(std::clamp(value[c + 1], 0.0, 1.0)) * static_cast<float>(S);
      at[c] = static_cast<int64_t>(std::floor(product));
    }
    at[c] = std::min(at[c], S - 1);
  }
  return ((static_cast<int64_t>(value[0]) - 1) * S + at[0]) * S + at[1];
}

void run(const Case& k) {
  const int64_t pixels = k.H * k.W, texels = kParts * k.S * k.S, cells = k.S * k.S;

  // The map.
  Buffer iuv(k.B * 3 * pixels * bytes_of(k.iuv));
  IuvMap map{iuv.data(), {3 * pixels, pixels, k.W, 1}, k.iuv, k.B, k.H, k.W};
  if (k.permuted) std::copy_n(std::array<int64_t, 4>{3 * pixels, 1, 3, 3 * k.H}.data(), 4, map.stride);
  const double top = k.iuv == DType::kUInt8 ? 255 : 1;
  bool inside = false;
  for (int64_t b = 0; b < k.B; ++b) {
    for (int64_t y = 0; y < k.H; ++y) {
      for (int64_t x = 0; x < k.W; ++x) {
        if (below(30) == 0) inside = !inside;
        double value[3] = {static_cast<double>(below(25)), uniform(0, top), uniform(0, top)};
        if (k.content == Content::kPatches && !inside) value[0] = 0;
        if (k.content == Content::kOneTexel) value[0] = 24, value[1] = value[2] = top;
        if (k.content == Content::kEmpty) value[0] = 0;
        if (k.content == Content::kFull) value[0] = static_cast<double>(1 + below(24));
        if (k.content == Content::kWild && k.iuv != DType::kUInt8) {
          const double parts[] = {-1, 0, 1, 2.5, 24, 25, 1e30, -1e30, kNaN, kInf, -kInf};
          const double coordinates[] = {-0.1, -0.0, 0, 1e-40, 0.5, 0.999999, 1, 1.2, 1e30, -1e30, kNaN, kInf, -kInf};
          if (below(2)) value[0] = parts[below(11)];
          if (below(2)) value[1] = coordinates[below(13)];
          if (below(2)) value[2] = coordinates[below(13)];
        } else if (k.content == Content::kWild) {
          value[0] = static_cast<double>(below(256));
        }
        for (int c = 0; c < 3; ++c) {
          store(iuv.data(), b * map.stride[0] + c * map.stride[1] + y * map.stride[2] + x * map.stride[3], k.iuv,
                value[c]);
        }
      }
    }
  }

  // The photo, and a gradient of the result. Wild ones hold hard cases for casts and sums.
  const auto fill_with_numbers = [&](const Buffer& buffer, DType dtype) {
    const auto n = static_cast<int64_t>(buffer.bytes()) / bytes_of(dtype);
    const double odd[] = {kNaN,  kInf,    -kInf, -0.0, 1e-7,   3e-8,  6.1e-5,
                          65504, 65519.9, 65520, 1e30, 3.4e38, 1e-42, -300};
    for (int64_t e = 0; e < n; ++e) {
      double x = dtype == DType::kUInt8 ? static_cast<double>(below(256)) : uniform(-20, 280);
      if (k.content == Content::kWild && dtype != DType::kUInt8 && below(4) == 0) x = odd[below(14)];
      if (dtype != DType::kUInt8 && below(3) == 0) x = std::floor(x) + 0.5;  // ties
      store(buffer.data(), e, dtype, x);
    }
  };
  Buffer img(k.B * k.C * pixels * bytes_of(k.img));
  fill_with_numbers(img, k.img);
  std::vector<double> fill(static_cast<size_t>(k.C));
  for (double& value : fill) value = below(5) == 0 ? kNaN : uniform(-50, 300);

  const auto out_bytes = k.B * texels * k.C * bytes_of(k.out);
  Buffer expected(out_bytes), cpu(out_bytes, 0x11), cuda(out_bytes, 0x22);
  WarpArgs args{};
  args.img = img.data();
  std::copy_n(std::array<int64_t, 4>{k.C * pixels, pixels, k.W, 1}.data(), 4, args.img_stride);
  if (k.permuted) std::copy_n(std::array<int64_t, 4>{k.C * pixels, 1, k.W * k.C, k.C}.data(), 4, args.img_stride);
  args.img_dtype = k.img;
  args.iuv = map;
  args.fill = fill.data();
  args.out_dtype = k.out;
  args.C = k.C;
  args.S = k.S;
  args.reduce = k.reduce;

  // The plain loop.
  const auto img_at = [&](int64_t b, int64_t c, int64_t pixel) {
    return load(img.data(),
                b * args.img_stride[0] + c * args.img_stride[1] + pixel / k.W * args.img_stride[2] +
                    pixel % k.W * args.img_stride[3],
                k.img);
  };
  Buffer expected_count(4 * k.B * texels, 0);
  for (int64_t b = 0; b < k.B; ++b) {
    std::map<int64_t, std::vector<int64_t>> landed;  // texel -> its pixels in raster order
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int64_t t = expected_texel(map, b, pixel / k.W, pixel % k.W, k.S);
      if (t >= 0) landed[t].push_back(pixel);
    }
    for (int64_t t = 0; t < texels; ++t) {
      const auto found = landed.find(t);
      for (int64_t c = 0; c < k.C; ++c) {
        double value = fill[static_cast<size_t>(c)];
        if (found != landed.end() && k.reduce == Reduce::kLast) {
          value = img_at(b, c, found->second.back());
        } else if (found != landed.end()) {
          const auto n = static_cast<double>(found->second.size());
          if (k.img == DType::kFloat64) {
            double sum = 0;
            for (int64_t pixel : found->second) sum += img_at(b, c, pixel);
            value = sum / n;
          } else {
            float sum = 0;  // of integers it is exact here
            for (int64_t pixel : found->second) sum += static_cast<float>(img_at(b, c, pixel));
            value = sum / static_cast<float>(n);
          }
        }
        store(expected.data(), ((b * kParts + t / cells) * k.C + c) * cells + t % cells, k.out, value);
      }
      if (found != landed.end()) {
        expected_count.data<int32_t>()[b * texels + t] = static_cast<int32_t>(found->second.size());
      }
    }
  }

  args.out = cpu.data();
  warp_cpu(args);
  compare(cpu, expected, k.out, "CPU: " + k.name());
  args.out = cuda.data();
  {
    const Buffer scratch(4 * warp_cuda_scratch(args));
    check_cuda(warp_cuda(args, scratch.data<int32_t>(), nullptr), "warp_cuda");
    wait_for_device();
  }
  compare(cuda, expected, k.out, "CUDA: " + k.name());

  Buffer count(4 * k.B * texels), cuda_count(4 * k.B * texels);
  warp_count_cpu({map, count.data<int32_t>(), k.S});
  compare_counts(count, expected_count, "CPU count: " + k.name());
  check_cuda(warp_count_cuda({map, cuda_count.data<int32_t>(), k.S}, nullptr), "warp_count_cuda");
  wait_for_device();
  compare_counts(cuda_count, expected_count, "CUDA count: " + k.name());

  if (k.img == DType::kUInt8 || k.out == DType::kUInt8) return;
  Buffer grad(out_bytes);
  fill_with_numbers(grad, k.out);
  const auto img_bytes = k.B * k.C * pixels * bytes_of(k.img);
  Buffer expected_grad(img_bytes), cpu_grad(img_bytes, 0x33), cuda_grad(img_bytes, 0x44);
  WarpBackwardArgs back{};
  back.grad = grad.data();
  std::copy_n(std::array<int64_t, 5>{texels * k.C, k.C * cells, cells, k.S, 1}.data(), 5, back.grad_stride);
  if (k.permuted) {
    std::copy_n(std::array<int64_t, 5>{texels * k.C, k.C * cells, 1, k.S * k.C, k.C}.data(), 5, back.grad_stride);
  }
  back.grad_dtype = k.out;
  back.iuv = map;
  back.grad_img_dtype = k.img;
  back.C = k.C;
  back.S = k.S;
  back.reduce = k.reduce;
  for (int64_t b = 0; b < k.B; ++b) {
    std::vector<int64_t> last(static_cast<size_t>(texels), -1);
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int64_t t = expected_texel(map, b, pixel / k.W, pixel % k.W, k.S);
      if (t >= 0) last[static_cast<size_t>(t)] = pixel;
    }
    for (int64_t pixel = 0; pixel < pixels; ++pixel) {
      const int64_t t = expected_texel(map, b, pixel / k.W, pixel % k.W, k.S);
      for (int64_t c = 0; c < k.C; ++c) {
        double value = 0;
        if (t >= 0) {
          const int64_t cell = t % cells;
          value = load(grad.data(),
                       b * back.grad_stride[0] + t / cells * back.grad_stride[1] + c * back.grad_stride[2] +
                           cell / k.S * back.grad_stride[3] + cell % k.S * back.grad_stride[4],
                       k.out);
          const int32_t n = expected_count.data<int32_t>()[b * texels + t];
          if (k.reduce == Reduce::kLast) {
            if (last[static_cast<size_t>(t)] != pixel) value = 0;
          } else if (k.out == DType::kFloat64) {
            value /= n;
          } else {
            value = static_cast<float>(value) / static_cast<float>(n);
          }
        }
        store(expected_grad.data(), (b * k.C + c) * pixels + pixel, k.img, value);
      }
    }
  }
  back.grad_img = cpu_grad.data();
  warp_backward_cpu(back);
  compare(cpu_grad, expected_grad, k.img, "CPU backward: " + k.name());
  back.grad_img = cuda_grad.data();
  const Buffer scratch(4 * warp_backward_cuda_scratch(back));
  check_cuda(warp_backward_cuda(back, scratch.data<int32_t>(), nullptr), "warp_backward_cuda");
  wait_for_device();
  compare(cuda_grad, expected_grad, k.img, "CUDA backward: " + k.name());
}

// ---- the kernels that keep texels in shared memory
// -------------------------------------------------------------------

// Makes the kernels see a device with these multiprocessors and bytes of shared memory. A GPU stays what it is.
void set_device([[maybe_unused]] int multiprocessors, [[maybe_unused]] int shared) {
#if !defined(__CUDACC__)
  shim_device = {shim_device.number + 1, multiprocessors, shared, shared + 1024};
#endif
}

// Bytes in planes [B, C, H, W] with gaps between rows, planes and images, some way into a buffer.
struct Planes {
  std::unique_ptr<Buffer> memory;
  const uint8_t* data;
  int64_t stride[4];

  bool has_dense_planes(int64_t H, int64_t W) const { return (W == 1 || stride[3] == 1) && (H == 1 || stride[2] == W); }
  bool has_words(int64_t B, int64_t H, int64_t W) const {
    return has_dense_planes(H, W) && H * W % 4 == 0 && stride[1] % 4 == 0 && (B == 1 || stride[0] % 4 == 0) &&
           reinterpret_cast<uintptr_t>(data) % 4 == 0;
  }
};

Planes make_planes(int64_t B, int64_t C, int64_t H, int64_t W, bool map) {
  const auto gap = [](int64_t odds) { return below(odds) == 0 ? below(9) : 4 * below(2); };
  Planes made;
  made.stride[3] = below(16) == 0 ? 2 : 1;
  made.stride[2] = W * made.stride[3] + (below(8) == 0 ? 4 : 0);
  made.stride[1] = H * made.stride[2] + gap(8);
  made.stride[0] = below(6) == 0 ? 0 : C * made.stride[1] + gap(8);
  const int64_t shift = gap(6);
  const int64_t last =
      (B - 1) * made.stride[0] + (C - 1) * made.stride[1] + (H - 1) * made.stride[2] + (W - 1) * made.stride[3];
  made.memory = std::make_unique<Buffer>(shift + last + 1);
  uint8_t* data = made.memory->data<uint8_t>();
  std::copy_n(random_bytes(shift + last + 1).data(), shift + last + 1, data);
  made.data = data + shift;
  const int64_t kind = below(4), part = 1 + below(24);
  for (int64_t b = 0; map && b < B; ++b) {
    for (int64_t y = 0; y < H; ++y) {
      for (int64_t x = 0; x < W; ++x) {
        uint8_t* i = data + shift + b * made.stride[0] + y * made.stride[2] + x * made.stride[3];
        if (kind == 0) continue;  // any byte
        *i = static_cast<uint8_t>(kind == 1 ? below(26) : kind == 2 ? part : below(3) == 0 ? 1 + below(24) : 0);
        if (kind == 2) i[made.stride[1]] = i[2 * made.stride[1]] = 255;  // all on one texel
      }
    }
  }
  return made;
}

// Bytes of every extent and layout, on devices of every size: as on the CPU, and without scratch where it can be.
void test_blocks() {
  constexpr int devices[][2] = {{132, 227 << 10}, {1, 64 << 10}, {7, 48 << 10}, {3000, 99 << 10}};
  constexpr DType types[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kUInt8, DType::kFloat64};
  constexpr int64_t channels[] = {3, 3, 3, 1, 2, 4, 5, 66};
  int64_t without_scratch = 0;
  for (int run = 0; run < 400; ++run) {
    const int* device = devices[below(4)];
    set_device(device[0], device[1]);
    const int64_t C = channels[below(8)], B = 1 + below(C > 5 ? 2 : 5), H = 1 + below(30);
    const int64_t W = below(3) == 0 ? 1 + below(50) : 4 * (1 + below(15));
    const int64_t S = below(5) == 0 ? 1 + below(40) : 2 * (1 + below(20));
    const Reduce reduce = below(2) == 0 ? Reduce::kLast : Reduce::kMean;
    const DType type = types[below(9) % 5];
    const Planes img = make_planes(B, C, H, W, false), iuv = make_planes(B, 3, H, W, true);
    std::vector<double> fill(size(C));
    for (double& value : fill) value = below(6) == 0 ? kNaN : uniform(-50, 300);
    const int64_t bytes = B * kParts * C * S * S * bytes_of(type);
    const int64_t shift = below(6) == 0 ? bytes_of(type) * (1 + below(4)) : 0;
    const Buffer expected(bytes, 0x11), got(shift + bytes, 0x22);
    WarpArgs args{};
    args.img = img.data;
    std::copy_n(img.stride, 4, args.img_stride);
    args.img_dtype = DType::kUInt8;
    args.iuv = {iuv.data, {}, DType::kUInt8, B, H, W};
    std::copy_n(iuv.stride, 4, args.iuv.stride);
    args.fill = fill.data();
    args.out = expected.data();
    args.out_dtype = type;
    args.C = C;
    args.S = S;
    args.reduce = reduce;
    warp_cpu(args);
    args.out = got.data<char>() + shift;
    const bool last = reduce == Reduce::kLast;
    const std::string what = std::string(last ? "last" : "mean") + " of bytes " + show({B, C, H, W, S, device[0]}) +
                             name_of(type) + ", run " + std::to_string(run);
    const int64_t words = warp_cuda_scratch(args);
    const bool blocks = iuv.has_words(B, H, W) && S % 2 == 0 && type != DType::kFloat64 &&
                        reinterpret_cast<uintptr_t>(args.out) % size(4 * bytes_of(type)) == 0 &&
                        (last ? img.has_dense_planes(H, W) : C <= 3 && img.has_words(B, H, W));
#if !defined(__CUDACC__)  // a GPU may have less shared memory
    check(blocks == (words == 0), what + ": scratch of " + std::to_string(words));
#endif
    without_scratch += blocks;
    const Buffer scratch(4 * words);
    check_cuda(warp_cuda(args, scratch.data<int32_t>(), nullptr), "warp_cuda");
    wait_for_device();
    check(std::memcmp(args.out, expected.data(), expected.bytes()) == 0, what);
    for (int64_t k = 0; k < shift; ++k) check(got.data<uint8_t>()[k] == 0x22, what + ": a byte before the result");
  }
  check(without_scratch > 100, "enough runs without scratch");

#if !defined(__CUDACC__)
  // Only the extents decide, and the device.
  const auto takes_blocks = [](int64_t B, int64_t H, int64_t W, int64_t S, Reduce reduce) {
    WarpArgs args{};
    args.img_dtype = args.iuv.dtype = DType::kUInt8;
    args.out_dtype = DType::kBFloat16;
    args.C = 3;
    args.S = S;
    args.reduce = reduce;
    const int64_t stride[] = {3 * H * W, H * W, W, 1};
    std::copy_n(stride, 4, args.img_stride);
    std::copy_n(stride, 4, args.iuv.stride);
    args.iuv.B = B;
    args.iuv.H = H;
    args.iuv.W = W;
    return warp_cuda_scratch(args) == 0;
  };
  set_device(132, 227 << 10);
  for (const Reduce reduce : {Reduce::kLast, Reduce::kMean}) {
    for (const int64_t B : {1, 2, 33, 64, 128, 256, 4096}) {
      for (const int64_t S : {2, 8, 32, 64}) {
        check(takes_blocks(B, 256, 128, S, reduce), "blocks for " + show({B, S}));
      }
    }
    check(!takes_blocks(1, 4096, 4096, 32, reduce), "one large photo needs all multiprocessors");
    check(!takes_blocks(64, 256, 128, 254, reduce), "a part must fit");
    check(!takes_blocks(64, 256, 128, 256, reduce), "coordinates must have 8 bits");
    check(!takes_blocks(64, 256, 128, 31, reduce), "texels are written in pairs");
  }
  check(takes_blocks(64, 256, 128, 240, Reduce::kLast), "the largest part");
  set_device(0, 0);
  check(!takes_blocks(64, 256, 128, 32, Reduce::kLast), "a device that tells nothing");
  set_device(132, 227 << 10);
#endif
}

// Every 16-bit number survives the way to float32 and back, and float32 numbers in between round correctly.
void test_casts() {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    const double half = decode16(b, 5), bfloat = decode16(b, 8);
    const std::string pattern = "pattern " + std::to_string(bits);
    check(std::isnan(half) ? std::isnan(to_float(Half{b}))
                           : to_float(Half{b}) == half && round_to_half(to_float(Half{b})).bits == b,
          "float16 " + pattern);
    check(std::isnan(bfloat) ? std::isnan(to_float(BFloat16{b}))
                             : to_float(BFloat16{b}) == bfloat && round_to_bfloat16(to_float(BFloat16{b})).bits == b,
          "bfloat16 " + pattern);
  }
  for (int k = 0; k < 100000; ++k) {
    uint32_t bits = static_cast<uint32_t>(rng());
    if (k % 2) bits = (bits & 0x80001fffu) | ((0x33000000u + bits % 0x15000000u) & 0x7fffe000u);  // float16's range
    if (k % 4 == 1) bits = (bits & ~0x1fffu) | 0x1000u;                                           // its ties
    const float x = float_of(bits);
    if (std::isnan(x)) continue;
    check(round_to_half(x).bits == encode16(x, 5), "float32 " + std::to_string(bits) + " to float16");
    check(round_to_bfloat16(x).bits == encode16(x, 8), "float32 " + std::to_string(bits) + " to bfloat16");
  }
}

// The two ways to a byte's texel agree.
void test_small_sizes() {
  for (int32_t size = 1; size <= kMaxSmallSize; ++size) {
    for (int u = 0; u < 256; ++u) {
      const auto byte = static_cast<uint8_t>(u);
      check(small_texel_coordinate(byte, size) == texel_coordinate(byte, size), "texel of " + show({size, u}));
    }
  }
}

// The next call does not report an error that one has returned.
void test_an_error_is_told_once() {
#if defined(__CUDACC__)
  const Buffer map(3 * 4, 1), count(kParts * 4 * 4);
  CountArgs args{{map.data(), {12, 4, 2, 1}, DType::kUInt8, 1, 2, 2}, nullptr, 2};
  check(warp_count_cuda(args, nullptr) != cudaSuccess, "counts at no address");
  check(cudaPeekAtLastError() == cudaSuccess, "the error is taken off the runtime");
  args.count = count.data<int32_t>();
  check(warp_count_cuda(args, nullptr) == cudaSuccess, "the next call is healthy");
  wait_for_device();
#endif
}

}  // namespace

// With the argument "bytes": only the cases which depend on the processor's instruction set.
void run_tests(const std::vector<std::string>& arguments) {
  skip_unless_capable();
  // Bytes have code of their own for each instruction set; all other types are "other_types".
  const std::string only = arguments.empty() ? "" : arguments[0];
  const auto run_case = [&](const Case& k) {
    const bool bytes = k.img == DType::kUInt8 && k.iuv == DType::kUInt8;
    if (only.empty() || bytes == (only == "bytes")) run(k);
  };
  if (only != "bytes") {
    test_casts();
    test_small_sizes();
    test_an_error_is_told_once();
    test_blocks();
  }

  constexpr DType types[] = {DType::kUInt8, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
  constexpr DType map_types[] = {DType::kUInt8, DType::kFloat16, DType::kBFloat16, DType::kFloat32};
  constexpr Content contents[] = {Content::kRandom, Content::kPatches, Content::kOneTexel,
                                  Content::kEmpty,  Content::kFull,    Content::kWild};
  for (const Reduce reduce : {Reduce::kLast, Reduce::kMean}) {
    for (const DType img : types) {  // every pair of types
      for (const DType out : types) {
        run_case({2, 3, 7, 9, 3, img, DType::kUInt8, out, reduce, Content::kRandom, false});
        run_case({2, 3, 7, 9, 3, img, DType::kFloat32, out, reduce, Content::kWild, true});
      }
    }
    for (const DType iuv : map_types) {  // every kind of map
      for (const Content content : contents) {
        run_case({2, 2, 5, 6, 4, DType::kFloat32, iuv, DType::kFloat32, reduce, content, false});
        run_case({1, 1, 9, 5, 1, DType::kUInt8, iuv, DType::kUInt8, reduce, content, true});
      }
    }
    // Awkward extents: single pixels, odd widths, rows longer than a chunk, none of something, more than one launch's
    // channels, more images than blocks.
    constexpr int64_t extents[][5] = {{1, 3, 1, 1, 1},   {1, 3, 1, 1, 64},   {3, 1, 1, 7, 2},   {1, 3, 13, 1, 5},
                                      {1, 2, 3, 700, 8}, {1, 3, 37, 41, 32}, {2, 3, 16, 8, 64}, {0, 3, 4, 4, 2},
                                      {2, 0, 4, 4, 2},   {2, 3, 0, 4, 2},    {2, 3, 4, 0, 2},   {1, 65, 4, 5, 2},
                                      {1, 130, 3, 3, 1}, {9, 1, 4, 3, 2},    {1, 3, 90, 31, 1}};
    for (const auto& e : extents) {
      for (const Content content : {Content::kRandom, Content::kPatches, Content::kFull, Content::kOneTexel}) {
        run_case({e[0], e[1], e[2], e[3], e[4], DType::kUInt8, DType::kUInt8, DType::kFloat32, reduce, content, false});
        run_case({e[0], e[1], e[2], e[3], e[4], DType::kUInt8, DType::kUInt8, DType::kBFloat16, reduce, content, true});
        run_case(
            {e[0], e[1], e[2], e[3], e[4], DType::kFloat32, DType::kFloat32, DType::kBFloat16, reduce, content, true});
      }
    }
    for (int64_t size = 1; size <= 64; ++size) {
      run_case({1, 1 + size % 4, 3, 75, size, DType::kUInt8, DType::kUInt8, types[size % 5], reduce, Content::kPatches,
                size % 7 == 0});
    }
    // Results too large for a cache, of which each channel begins with a cache line, or not.
    run_case({15, 3, 9, 150, 32, DType::kUInt8, DType::kUInt8, DType::kFloat32, reduce, Content::kPatches, false});
    run_case({60, 3, 3, 70, 31, DType::kUInt8, DType::kUInt8, DType::kUInt8, reduce, Content::kFull, false});
    // The largest size of the small ones, and the first beyond.
    run_case({1, 1, 5, 70, 255, DType::kUInt8, DType::kUInt8, DType::kFloat16, reduce, Content::kRandom, false});
    run_case({1, 1, 5, 70, 256, DType::kUInt8, DType::kUInt8, DType::kUInt8, reduce, Content::kRandom, false});
  }
}
