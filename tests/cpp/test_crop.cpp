// Compares three ways of cropping, bit for bit: the CPU kernel, the CUDA kernels (run on the CPU,
// csrc/cuda/host_shim.h), and a plain loop that follows csrc/crop.h.
#include <cmath>
#include <limits>

#include "../../csrc/crop.h"
#include "scaffold.h"

namespace {

struct Case {
  int64_t B, C, H, W, S;
  bool real_map, mask, permuted, float_img;
  int foreground;  // of 4 pixels

  std::string name() const {
    return show({B, C, H, W, S}) + (real_map ? "float map " : "") + (mask ? "mask " : "") +
           (permuted ? "permuted " : "") + (float_img ? "float img " : "") + std::to_string(foreground);
  }
};

void run(const Case& k) {
  const int64_t pixels = k.H * k.W;
  // Of the exact length: a sanitizer sees every step outside.
  const DeviceVector<uint8_t> img = random_device_bytes(k.B * k.C * pixels);
  DeviceVector<uint8_t> iuv(size(k.B * 3 * pixels));
  DeviceVector<float> real_img(img.size()), real_iuv(iuv.size());
  const auto at = [&](int64_t channels, int64_t b, int64_t c, int64_t y, int64_t x) {
    return size(k.permuted ? ((b * k.W + x) * k.H + y) * channels + c : ((b * channels + c) * k.H + y) * k.W + x);
  };
  for (size_t n = 0; n < img.size(); ++n) real_img[n] = static_cast<float>(img[n]) * 1.5f - 30.0f;
  for (int64_t b = 0; b < k.B; ++b) {
    for (int64_t y = 0; y < k.H; ++y) {
      for (int64_t x = 0; x < k.W; ++x) {
        const int64_t part = below(4) < k.foreground ? 1 + below(6) * 4 : below(3) == 0 ? 25 + below(200) : 0;
        iuv[at(3, b, 0, y, x)] = static_cast<uint8_t>(part);
        real_iuv[at(3, b, 0, y, x)] = static_cast<float>(part);
        for (int c = 1; c < 3; ++c) {
          iuv[at(3, b, c, y, x)] = static_cast<uint8_t>(below(256));
          const bool nan = k.real_map && below(10) == 0;
          real_iuv[at(3, b, c, y, x)] = nan ? std::numeric_limits<float>::quiet_NaN() : 0.5f;
        }
      }
    }
  }
  const std::vector<double> fill = [&] {
    std::vector<double> values;
    for (int64_t c = 0; c < k.C; ++c) values.push_back(static_cast<double>(3 * c) + 0.25);
    return values;
  }();
  CropArgs args{};
  args.img = k.float_img ? static_cast<const void*>(real_img.data()) : img.data();
  args.img_dtype = k.float_img ? DType::kFloat32 : DType::kUInt8;
  args.iuv.data = k.real_map ? static_cast<const void*>(real_iuv.data()) : iuv.data();
  args.iuv.dtype = k.real_map ? DType::kFloat32 : DType::kUInt8;
  args.iuv.B = k.B, args.iuv.H = k.H, args.iuv.W = k.W;
  const auto set_stride = [&](int64_t channels, int64_t* stride) {
    const int64_t planar[] = {channels * pixels, pixels, k.W, 1};
    const int64_t mixed[] = {channels * pixels, 1, channels, k.H * channels};
    std::copy_n(k.permuted ? mixed : planar, 4, stride);
  };
  set_stride(k.C, args.img_stride);
  set_stride(3, args.iuv.stride);
  args.fill = fill.data();
  args.out_dtype = DType::kFloat32;
  args.C = k.C, args.S = k.S, args.mask = k.mask;

  std::vector<float> expected(size(k.B * 24 * k.C * k.S * k.S));
  for (int64_t b = 0; b < k.B; ++b) {
    std::vector<int> part_of(size(pixels));
    for (int64_t y = 0; y < k.H; ++y) {
      for (int64_t x = 0; x < k.W; ++x) {
        const int part = iuv[at(3, b, 0, y, x)];
        const bool nan =
            k.real_map && (std::isnan(real_iuv[at(3, b, 1, y, x)]) || std::isnan(real_iuv[at(3, b, 2, y, x)]));
        part_of[size(y * k.W + x)] = part <= 24 && !nan ? part : 0;
      }
    }
    for (int part = 1; part <= 24; ++part) {
      int64_t top = k.H, bottom = -1, left = k.W, right = -1;
      for (int64_t y = 0; y < k.H; ++y) {
        for (int64_t x = 0; x < k.W; ++x) {
          if (part_of[size(y * k.W + x)] != part) continue;
          top = std::min(top, y), bottom = std::max(bottom, y), left = std::min(left, x), right = std::max(right, x);
        }
      }
      for (int64_t c = 0; c < k.C; ++c) {
        for (int64_t r = 0; r < k.S; ++r) {
          for (int64_t q = 0; q < k.S; ++q) {
            float value = static_cast<float>(fill[size(c)]);
            if (bottom >= 0) {
              const int64_t y = top + (2 * r + 1) * (bottom + 1 - top) / (2 * k.S);
              const int64_t x = left + (2 * q + 1) * (right + 1 - left) / (2 * k.S);
              if (!k.mask || part_of[size(y * k.W + x)] == part) {
                value = k.float_img ? real_img[at(k.C, b, c, y, x)] : static_cast<float>(img[at(k.C, b, c, y, x)]);
              }
            }
            expected[size((((b * 24 + part - 1) * k.C + c) * k.S + r) * k.S + q)] = value;
          }
        }
      }
    }
  }
  const size_t bytes = expected.size() * sizeof(float);
  DeviceVector<float> got(expected.size(), -1.0f);
  args.out = got.data();
  crop_cpu(args);
  check(bytes == 0 || std::memcmp(got.data(), expected.data(), bytes) == 0, "cpu: " + k.name());
  for (int again = 0; again < 2; ++again) {  // the order of threads is drawn anew
    std::fill(got.begin(), got.end(), -1.0f);
    DeviceVector<int32_t> scratch(size(crop_cuda_scratch(args)), -1515870811);
    check_cuda(crop_cuda(args, scratch.data(), nullptr), "crop_cuda");
    wait_for_device();
    check(bytes == 0 || std::memcmp(got.data(), expected.data(), bytes) == 0, "cuda: " + k.name());
  }
}

// Every pair of types: as the CPU kernel, which Python's tests compare with a plain reference.
void run_types() {
  constexpr DType types[] = {DType::kUInt8, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
  constexpr DType map_types[] = {DType::kUInt8, DType::kFloat16, DType::kBFloat16, DType::kFloat32};
  constexpr int64_t B = 2, C = 3, H = 6, W = 5, S = 3, pixels = H * W, out = B * 24 * C * S * S;
  const std::vector<double> fill{-3.5, 0.1, 300};
  const auto put = [](const Buffer& buffer, int64_t k, DType dtype, float value) {
    AnyTypes::visit(dtype, [&](auto tag) {
      using T = TypeOf<decltype(tag)>;
      buffer.data<T>()[k] = convert<T>(value);
    });
  };
  for (const DType img_type : types) {
    for (const DType out_type : types) {
      for (const DType map_type : map_types) {
        const Buffer img(B * C * pixels * bytes_of(img_type)), iuv(B * 3 * pixels * bytes_of(map_type));
        const Buffer expected(out * bytes_of(out_type), 0x11), got(out * bytes_of(out_type), 0x22);
        for (int64_t k = 0; k < B * C * pixels; ++k) put(img, k, img_type, static_cast<float>(uniform(-20, 280)));
        for (int64_t k = 0; k < B * 3 * pixels; ++k) put(iuv, k, map_type, static_cast<float>(below(27)));
        CropArgs args{};
        args.img = img.data();
        args.img_dtype = img_type;
        args.iuv = {iuv.data(), {3 * pixels, pixels, W, 1}, map_type, B, H, W};
        const int64_t stride[] = {C * pixels, pixels, W, 1};
        std::copy_n(stride, 4, args.img_stride);
        args.fill = fill.data();
        args.out_dtype = out_type;
        args.C = C, args.S = S, args.mask = true;
        args.out = expected.data();
        crop_cpu(args);
        args.out = got.data();
        const Buffer scratch(4 * crop_cuda_scratch(args));
        check_cuda(crop_cuda(args, scratch.data<int32_t>(), nullptr), "crop_cuda");
        wait_for_device();
        check(std::memcmp(got.data(), expected.data(), expected.bytes()) == 0,
              "cuda: types " + show({static_cast<int64_t>(img_type), static_cast<int64_t>(map_type),
                                     static_cast<int64_t>(out_type)}));
      }
    }
  }
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  run_types();
  for (const bool real_map : {false, true}) {
    for (const bool mask : {true, false}) {
      for (const bool permuted : {false, true}) {
        for (const bool float_img : {false, true}) {
          for (const int foreground : {0, 1, 4}) {
            run({2, 3, 7, 5, 4, real_map, mask, permuted, float_img, foreground});
          }
        }
      }
    }
  }
  run({1, 70, 9, 30, 3, false, true, false, false, 2});  // more channels than one launch takes
  run({3, 1, 40, 33, 16, false, true, true, false, 2});
  run({2, 3, 1, 1, 5, false, true, false, false, 4});
  run({0, 3, 4, 4, 2, false, true, false, false, 2});
  run({2, 0, 4, 4, 2, false, true, false, false, 2});
  run({2, 3, 0, 4, 2, false, true, false, false, 2});
}
