// Compares three ways of computing the training transform, bit for bit: the CPU kernel, the CUDA kernels (run on the
// CPU, csrc/cuda/host_shim.h), and a plain loop that follows csrc/transform.h.
#include <array>
#include <cmath>
#include <map>

#include "../../csrc/transform.h"
#include "asked_capability.h"
#include "scaffold.h"

namespace {

struct Case {
  int64_t N, B, h, w, H, W, pad, S;
  DType full, dsap;
  Reduce reduce;
  bool channels_last, permuted, table;
  bool one_texel = false;
  bool wild = false;  // plans far outside
  int64_t grid_h = 0, grid_w = 0;

  std::string name() const {
    return (reduce == Reduce::kLast ? "last " : "mean ") + show({N, B, h, w, H, W, pad, S}) + "dtypes " +
           std::to_string(static_cast<int>(full)) + " " + std::to_string(static_cast<int>(dsap)) +
           (channels_last ? ", channels last" : "") + (permuted ? ", permuted" : "") + (table ? ", table" : "") +
           (one_texel ? ", one texel" : "") + (wild ? ", wild" : "") + " grid " + show({grid_h, grid_w});
  }
};

// The weights of all input pixels for output pixel i, most of them 0.
std::vector<float> weights_of(int64_t in, int64_t out, int64_t i) {
  const float scale = static_cast<float>(in) / static_cast<float>(out);
  const float inverse = scale >= 1 ? static_cast<float>(1.0 / scale) : 1.0f;
  const float center = static_cast<float>(scale * (static_cast<double>(i) + 0.5));
  std::vector<float> weight;
  float total = 0;
  for (int64_t j = 0; j < in; ++j) {
    const double from_center = static_cast<double>(static_cast<float>(j) - center) + 0.5;
    weight.push_back(std::max(0.0f, 1.0f - std::fabs(static_cast<float>(from_center * inverse))));
    total += weight.back();
  }
  for (float& value : weight) value /= total;
  return weight;
}

float sum_of(const std::vector<float>& weight, const std::vector<float>& value) {
  float sum = 0;
  for (size_t j = 0; j < weight.size(); ++j) {
    if (weight[j] != 0) sum = std::fma(value[j], weight[j], sum);
  }
  return sum;
}

// Of the exact length: a sanitizer sees every step outside.
DeviceVector<unsigned char> encode(const std::vector<float>& values, DType dtype) {
  DeviceVector<unsigned char> bytes(values.size() * (dtype == DType::kFloat32 ? 4 : 2));
  for (size_t k = 0; k < values.size(); ++k) {
    if (dtype == DType::kFloat32) {
      std::memcpy(bytes.data() + 4 * k, &values[k], 4);
    } else {
      const uint16_t bits =
          dtype == DType::kFloat16 ? round_to_half(values[k]).bits : round_to_bfloat16(values[k]).bits;
      std::memcpy(bytes.data() + 2 * k, &bits, 2);
    }
  }
  return bytes;
}

void run(const Case& k) {
  const int64_t pixels = k.h * k.w;
  std::array<int64_t, 4> stride{3 * pixels, pixels, k.w, 1};
  if (k.permuted) stride = {3 * pixels, 1, 3, 3 * k.h};  // [N, w, h, 3] in memory
  const DeviceVector<uint8_t> images = random_device_bytes(k.N * 3 * pixels);
  const DeviceVector<uint8_t> mirror = random_device_bytes(k.table ? 24 * 65536 * 2 : 0);
  DeviceVector<uint8_t> iuv(images.size());
  const auto at = [&](int64_t n, int64_t c, int64_t y, int64_t x) {
    return size(n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3]);
  };
  for (int64_t n = 0; n < k.N; ++n) {
    for (int64_t y = 0; y < k.h; ++y) {
      for (int64_t x = 0; x < k.w; ++x) {
        iuv[at(n, 0, y, x)] = static_cast<uint8_t>(k.one_texel ? 1 : below(3) == 0 ? below(256) : below(25));
        for (int c = 1; c < 3; ++c) iuv[at(n, c, y, x)] = static_cast<uint8_t>(k.one_texel ? 127 : below(256));
      }
    }
  }
  DeviceVector<Plan> plans;
  for (int64_t b = 0; b < k.B; ++b) {
    Plan plan{};
    plan.index = static_cast<int32_t>(below(k.N));
    plan.top = static_cast<int32_t>(below(2 * k.pad + 1));
    plan.left = static_cast<int32_t>(below(2 * k.pad + 1));
    plan.flip = static_cast<int32_t>(below(2));
    plan.erase_height = static_cast<int32_t>(below(k.H + 1));
    plan.erase_width = static_cast<int32_t>(below(k.W + 1));
    plan.erase_top = static_cast<int32_t>(below(k.H - plan.erase_height + 1));
    plan.erase_left = static_cast<int32_t>(below(k.W - plan.erase_width + 1));
    if (k.wild) {
      const int32_t odd[] = {INT32_MIN, -7, -1, 3, 50, INT32_MAX};
      for (int32_t* value : {&plan.index, &plan.top, &plan.left, &plan.erase_top, &plan.erase_left, &plan.erase_height,
                             &plan.erase_width}) {
        if (below(3) == 0) *value = odd[below(6)];
      }
    }
    plans.push_back(plan);
  }

  TransformArgs args{};
  args.images = images.data();
  args.iuv = iuv.data();
  std::copy_n(stride.data(), 4, args.image_stride);
  std::copy_n(stride.data(), 4, args.iuv_stride);
  args.mirror = k.table ? mirror.data() : nullptr;
  args.plan = plans.data();
  args.full_dtype = k.full;
  args.dsap_dtype = k.dsap;
  args.N = k.N, args.B = k.B, args.h = k.h, args.w = k.w, args.H = k.H, args.W = k.W, args.pad = k.pad, args.S = k.S;
  for (int c = 0; c < 3; ++c) {
    args.mean[c] = 120.5f + static_cast<float>(c);
    args.std[c] = 55.25f - static_cast<float>(c);
  }
  args.reduce = k.reduce;
  args.channels_last = k.channels_last;
  args.grid_h = k.grid_h, args.grid_w = k.grid_w;

  // The plain loop.
  const int64_t cells = k.S * k.S;
  std::vector<float> full(size(k.B * 3 * k.H * k.W)), dsap(size(k.B * kParts * 3 * cells));
  std::vector<uint8_t> map(size(k.B * 3 * k.H * k.W));  // resized, mirrored and cropped; not erased
  for (int64_t b = 0; b < k.B; ++b) {
    const Plan& plan = plans[size(b)];
    if (plan.index < 0 || plan.index >= k.N) continue;
    struct Pixel {
      std::array<float, 3> level;
    };
    std::map<std::pair<int64_t, int64_t>, std::vector<Pixel>> landed;  // (part, cell) -> its pixels in raster order
    for (int64_t y = 0; y < k.H; ++y) {
      for (int64_t x = 0; x < k.W; ++x) {
        const int64_t row = y + plan.top - k.pad, cropped = x + plan.left - k.pad;
        if (row < 0 || row >= k.H || cropped < 0 || cropped >= k.W) continue;
        const int64_t column = plan.flip ? k.W - 1 - cropped : cropped;
        const std::vector<float> vertical = weights_of(k.h, k.H, row), horizontal = weights_of(k.w, k.W, column);
        Pixel pixel{};
        for (int64_t c = 0; c < 3; ++c) {
          std::vector<float> rows;
          for (int64_t i = 0; i < k.h; ++i) {
            std::vector<float> line;
            for (int64_t j = 0; j < k.w; ++j) line.push_back(images[at(plan.index, c, i, j)]);
            rows.push_back(vertical[size(i)] != 0 ? sum_of(horizontal, line) : 0);
          }
          const float level = std::nearbyint(std::min(255.0f, sum_of(vertical, rows)));
          pixel.level[size(c)] = level;
          const bool gone = y >= plan.erase_top && y < int64_t{plan.erase_top} + plan.erase_height &&
                            x >= plan.erase_left && x < int64_t{plan.erase_left} + plan.erase_width;
          const int64_t to = k.channels_last ? ((b * k.H + y) * k.W + x) * 3 + c : ((b * 3 + c) * k.H + y) * k.W + x;
          full[size(to)] = gone ? 0 : (level - args.mean[c]) / args.std[c];
        }
        const auto label_y = static_cast<int64_t>(
            std::floor((static_cast<double>(row) + 0.5) * static_cast<double>(k.h) / static_cast<double>(k.H)));
        const auto label_x = static_cast<int64_t>(
            std::floor((static_cast<double>(column) + 0.5) * static_cast<double>(k.w) / static_cast<double>(k.W)));
        int64_t i = iuv[at(plan.index, 0, label_y, label_x)];
        int64_t u = iuv[at(plan.index, 1, label_y, label_x)], v = iuv[at(plan.index, 2, label_y, label_x)];
        const bool part = i >= 1 && i <= 24;
        if (part && plan.flip) {
          const int64_t was = i;
          if (was > 2) i = was % 2 ? was + 1 : was - 1;
          if (k.table) {
            const uint8_t* uv = mirror.data() + (was - 1) * 2 * 65536 + v * 256 + u;
            u = uv[0], v = uv[65536];
          } else if (was <= 2) {
            v = 255 - v;
          } else if (was <= 6 || was >= 23) {
            u = 255 - u;
          }
        }
        for (const auto& [c, value] : {std::pair{0, i}, std::pair{1, u}, std::pair{2, v}}) {
          map[size(((b * 3 + c) * k.H + y) * k.W + x)] = static_cast<uint8_t>(value);
        }
        if (!part || k.S == 0) continue;
        const int64_t cell = std::min(u * k.S / 255, k.S - 1) * k.S + std::min(v * k.S / 255, k.S - 1);
        landed[{i - 1, cell}].push_back(pixel);
      }
    }
    for (const auto& [texel, found] : landed) {
      for (size_t c = 0; c < 3; ++c) {
        float level = found.back().level[c];
        if (k.reduce == Reduce::kMean) {
          int64_t sum = 0;
          for (const Pixel& pixel : found) sum += static_cast<int64_t>(pixel.level[c]);
          level = static_cast<float>(sum) / static_cast<float>(found.size());
        }
        dsap[size(((b * kParts + texel.first) * 3) * cells + texel.second) + c * size(cells)] =
            (level - args.mean[c]) / args.std[c];
      }
    }
  }
  DeviceVector<uint8_t> expected_grid;
  for (int64_t plane = 0; plane < 3 * k.B; ++plane) {
    for (int64_t i = 0; i < k.grid_h; ++i) {
      for (int64_t j = 0; j < k.grid_w; ++j) {
        const int64_t y = (2 * i + 1) * k.H / (2 * k.grid_h), x = (2 * j + 1) * k.W / (2 * k.grid_w);
        expected_grid.push_back(map[size((plane * k.H + y) * k.W + x)]);
      }
    }
  }
  const DeviceVector<unsigned char> expected_full = encode(full, k.full), expected_dsap = encode(dsap, k.dsap);

  for (const bool cuda : {false, true}) {
    DeviceVector<unsigned char> got_full(expected_full.size(), 0xa5), got_dsap(expected_dsap.size(), 0x5a);
    args.full = got_full.data();
    args.dsap = got_dsap.data();
    DeviceVector<uint8_t> got_grid(expected_grid.size(), 0xc3);
    args.grid = got_grid.data();
    if (cuda) {
      DeviceVector<int32_t> scratch(size(train_transform_cuda_scratch(args)), 0x77777777);
      check_cuda(train_transform_cuda(args, scratch.data(), nullptr), "train_transform_cuda");
      wait_for_device();
    } else {
      train_transform_cpu(args);
    }
    const std::string device = cuda ? "CUDA " : "CPU ";
    check(got_full == expected_full, device + "full image: " + k.name());
    check(got_dsap == expected_dsap, device + "part images: " + k.name());
    check(got_grid == expected_grid, device + "grid: " + k.name());
  }
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  skip_unless_capable();
  constexpr DType types[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32};
  for (const Reduce reduce : {Reduce::kLast, Reduce::kMean}) {
    for (const DType full : types) {
      for (const DType dsap : types) {
        for (const bool channels_last : {false, true}) {
          run({3, 4, 5, 7, 10, 9, 2, 3, full, dsap, reduce, channels_last, channels_last, false});
        }
      }
    }
    // Awkward extents: single pixels, enlarging and shrinking, no padding and more than the picture, one texel and
    // more texels than pixels, more images than blocks.
    constexpr int64_t extents[][8] = {
        {1, 1, 1, 1, 1, 1, 0, 1},    {2, 3, 1, 1, 7, 5, 3, 2}, {1, 2, 9, 1, 1, 9, 0, 4},   {2, 2, 16, 8, 32, 16, 4, 8},
        {2, 2, 13, 9, 13, 9, 5, 64}, {3, 9, 4, 3, 8, 6, 1, 2}, {1, 2, 31, 23, 8, 6, 1, 5}, {1, 2, 6, 40, 12, 4, 2, 3},
        {1, 3, 3, 4, 5, 33, 40, 4},  {2, 0, 4, 4, 4, 4, 1, 2}, {1, 1, 2, 2, 70, 17, 0, 1}, {1, 2, 5, 3, 5, 600, 7, 2}};
    for (const auto& e : extents) {
      const Case base{e[0],   e[1],  e[2],  e[3], e[4], e[5], e[6], e[7], DType::kFloat32, DType::kFloat32,
                      reduce, false, false, false};
      run(base);
      Case other = base;
      other.grid_h = 3, other.grid_w = 5;
      other.permuted = other.channels_last = true;
      other.one_texel = true;
      run(other);
      other = base;
      other.grid_h = e[4], other.grid_w = e[5];
      other.S = 0;
      other.wild = true;
      other.full = DType::kBFloat16;
      run(other);
    }
    // Part images or a grid or both, with a mirror table.
    for (const int64_t S : {0, 8}) {
      for (const int64_t grid : {0, 1, 40}) {
        run({2, 4, 8, 6, 16, 12, 2, S, DType::kFloat32, DType::kFloat16, reduce, false, false, true, false, false, grid,
             grid});
      }
    }
  }
}
