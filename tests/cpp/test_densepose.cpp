// Compares the CPU and the CUDA kernels of warp_densepose, bit for bit, with a plain loop that follows csrc/chart.h,
// and with warp on the maps of that loop. The CUDA kernels run on the CPU (csrc/cuda/host_shim.h) or, built by nvcc, on
// a GPU.
#include <array>
#include <cmath>
#include <limits>
#include <memory>

#if !defined(__CUDACC__)
#include "../../csrc/cuda/host_shim.h"
#endif
#include "../../csrc/densepose.h"
#include "asked_capability.h"
#include "scaffold.h"

namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Equal bits, or two NaNs, as elements of type T.
template <typename T>
void compare(const Buffer& got, const Buffer& expected, const std::string& what) {
  for (size_t k = 0; k < expected.bytes() / sizeof(T); ++k) {
    const T a = got.data<T>()[k], b = expected.data<T>()[k];
    if (std::memcmp(&a, &b, sizeof(T)) == 0 || (std::isnan(to_float(a)) && std::isnan(to_float(b)))) continue;
    return check(false, what + ": element " + std::to_string(k) + " is " + std::to_string(to_float(a)) + ", expected " +
                            std::to_string(to_float(b)));
  }
  check(true, what);
}

enum class Content { kSmooth, kTies, kWild };

struct Case {
  int64_t N, K, h, w, B, C, H, W, S;
  DType head;
  Content content;
  bool permuted;  // heads [N, h, w, channels] and img [B, H, W, C] in memory

  std::string name() const {
    constexpr const char* contents[] = {"smooth", "ties", "wild"};
    return show({N, K, h, w, B, C, H, W, S}) + "type " + std::to_string(static_cast<int>(head)) + " " +
           contents[static_cast<int>(content)] + (permuted ? " permuted" : "");
  }
};

struct HeadValues {
  std::unique_ptr<Buffer> memory;
  Head head;
  DType dtype;

  float at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    const int64_t k = n * head.stride[0] + c * head.stride[1] + y * head.stride[2] + x * head.stride[3];
    if (dtype == DType::kFloat16) return to_float(memory->data<Half>()[k]);
    if (dtype == DType::kBFloat16) return to_float(memory->data<BFloat16>()[k]);
    return memory->data<float>()[k];
  }
};

HeadValues make_head(const Case& k, int64_t channels, bool coordinate) {
  HeadValues made{std::make_unique<Buffer>(k.N * channels * k.h * k.w * bytes_of(k.head)), {}, k.head};
  made.head.data = made.memory->data();
  const std::array<int64_t, 4> planes{channels * k.h * k.w, k.h * k.w, k.w, 1};
  const std::array<int64_t, 4> pixels{channels * k.h * k.w, 1, k.w * channels, channels};
  std::copy_n((k.permuted ? pixels : planes).data(), 4, made.head.stride);
  std::uniform_real_distribution<float> real(-0.2f, 1.2f);
  for (int64_t e = 0; e < k.N * channels * k.h * k.w; ++e) {
    float value = coordinate ? real(rng) : 5 * real(rng);
    if (k.content == Content::kTies && !coordinate) value = static_cast<float>(rng() % 3);
    if (k.content == Content::kWild && rng() % 8 == 0) {
      constexpr float odd[] = {kNaN, kInf, -kInf, 3e38f, -3e38f, 1e-40f, -0.0f, 1.0f};
      value = odd[rng() % 8];
    }
    if (k.head == DType::kFloat16) {
      made.memory->data<Half>()[e] = round_to_half(value);
    } else if (k.head == DType::kBFloat16) {
      made.memory->data<BFloat16>()[e] = round_to_bfloat16(value);
    } else {
      made.memory->data<float>()[e] = value;
    }
  }
  return made;
}

// Neighbours and weights of pixel p along one side of a head, borders repeated.
void neighbours(int64_t p, int64_t in, int64_t out, int64_t index[2], float weight[2]) {
  float at = static_cast<float>(p);
  if (in != out) {
    const float scale = static_cast<float>(in) / static_cast<float>(out);
    const float centre = scale * (static_cast<float>(p) + 0.5f);
    at = std::max(0.0f, centre - 0.5f);
  }
  index[0] = std::min(static_cast<int64_t>(std::floor(at)), in - 1);
  index[1] = in == out ? index[0] : std::min(index[0] + 1, in - 1);
  weight[1] = in == out ? 0.0f : std::min(1.0f, at - static_cast<float>(index[0]));
  weight[0] = 1.0f - weight[1];
}

float bilinear(const HeadValues& head, int64_t n, int64_t c, const Case& k, int64_t y, int64_t box_h, int64_t x,
               int64_t box_w) {
  int64_t row[2], column[2];
  float down[2], along[2], value[2];
  neighbours(y, k.h, box_h, row, down);
  neighbours(x, k.w, box_w, column, along);
  for (int j = 0; j < 2; ++j) {
    const float right = head.at(n, c, row[j], column[1]) * along[1];
    value[j] = std::fma(head.at(n, c, row[j], column[0]), along[0], right);
  }
  const float below = value[1] * down[1];
  return std::fma(value[0], down[0], below);
}

// The first channel with the highest value, a NaN being the highest of all.
int64_t best_channel(const HeadValues& head, int64_t n, int64_t channels, const Case& k, int64_t y, int64_t box_h,
                     int64_t x, int64_t box_w) {
  int64_t best = 0;
  float highest = bilinear(head, n, 0, k, y, box_h, x, box_w);
  for (int64_t c = 1; c < channels && !std::isnan(highest); ++c) {
    const float value = bilinear(head, n, c, k, y, box_h, x, box_w);
    if (value > highest || std::isnan(value)) best = c, highest = value;
  }
  return best;
}

void run(const Case& k) {
  const HeadValues coarse = make_head(k, k.K, false), fine = make_head(k, 25, false);
  const HeadValues u = make_head(k, 25, true), v = make_head(k, 25, true);
  const Buffer boxes(k.N * 16), index(k.N * 8);
  const float H = static_cast<float>(k.H), W = static_cast<float>(k.W);
  const float odd[][4] = {{0, 0, W, H},
                          {0.9f, 0.9f, 1.2f, 1.2f},
                          {-3.7f, -2.2f, W + 5, H + 9},
                          {2, 2, 1, 1},
                          {W + 1, 0, W + 9, 5},
                          {-9, -9, -1, -1},
                          {-1e9f, 0, 1e9f, H},
                          {0, kNaN, W, H},
                          {0, 0, kInf, 3},
                          {-kInf, 0, 3, 3},
                          {1, 0, 1 + static_cast<float>(k.w), static_cast<float>(k.h)},
                          {-3e38f, -3e38f, 3e38f, 3e38f}};
  std::uniform_real_distribution<float> place(-0.3f, 1.0f), extent(0.0f, 1.3f);
  for (int64_t n = 0; n < k.N; ++n) {
    float* box = boxes.data<float>() + 4 * n;
    box[0] = place(rng) * W;
    box[1] = place(rng) * H;
    box[2] = box[0] + extent(rng) * W;
    box[3] = box[1] + extent(rng) * H;
    if (n % 3 != 2) std::copy_n(odd[rng() % (sizeof(odd) / sizeof(odd[0]))], 4, box);
    index.data<int64_t>()[n] = static_cast<int64_t>(rng() % static_cast<uint64_t>(k.B + 1));  // k.B is no image
  }
  const Charts charts{coarse.head, fine.head, u.head, v.head, k.head, boxes.data<float>(), k.N, k.K, k.h, k.w};

  // The maps of the plain loop.
  const int64_t pixels = k.H * k.W;
  const Buffer expected(k.N * 3 * pixels * 4, 0), expected_bytes(k.N * 3 * pixels, 0);
  for (int64_t n = 0; n < k.N; ++n) {
    const float* box = boxes.data<float>() + 4 * n;
    const float sides[4] = {box[0], box[1], box[2] - box[0], box[3] - box[1]};
    if (std::any_of(sides, sides + 4, [](float side) { return std::isnan(side); })) continue;
    double truncated[4];
    for (int j = 0; j < 4; ++j) truncated[j] = std::clamp(std::trunc(static_cast<double>(sides[j])), -0x1p40, 0x1p40);
    const int64_t box_w = std::max<int64_t>(1, static_cast<int64_t>(truncated[2]));
    const int64_t box_h = std::max<int64_t>(1, static_cast<int64_t>(truncated[3]));
    for (int64_t y = 0; y < k.H; ++y) {
      for (int64_t x = 0; x < k.W; ++x) {
        const int64_t by = y - static_cast<int64_t>(truncated[1]), bx = x - static_cast<int64_t>(truncated[0]);
        if (by < 0 || by >= box_h || bx < 0 || bx >= box_w) continue;
        if (best_channel(coarse, n, k.K, k, by, box_h, bx, box_w) == 0) continue;
        const int64_t part = best_channel(fine, n, 25, k, by, box_h, bx, box_w);
        if (part == 0) continue;
        const float uv[2] = {bilinear(u, n, part, k, by, box_h, bx, box_w),
                             bilinear(v, n, part, k, by, box_h, bx, box_w)};
        float* pixel = expected.data<float>() + n * 3 * pixels + y * k.W + x;
        uint8_t* byte = expected_bytes.data<uint8_t>() + n * 3 * pixels + y * k.W + x;
        pixel[0] = static_cast<float>(part);
        const bool number = !std::isnan(uv[0]) && !std::isnan(uv[1]);
        if (number) byte[0] = static_cast<uint8_t>(part);
        for (int j = 0; j < 2; ++j) {
          pixel[(j + 1) * pixels] = uv[j];
          if (number)
            byte[(j + 1) * pixels] = static_cast<uint8_t>(std::nearbyint(std::clamp(uv[j] * 255.0f, 0.0f, 255.0f)));
        }
      }
    }
  }
  for (const DType type : {DType::kFloat32, DType::kUInt8}) {
    const Buffer cpu(k.N * 3 * pixels * bytes_of(type), 0x11), cuda(k.N * 3 * pixels * bytes_of(type), 0x22);
    densepose_iuv_cpu({charts, cpu.data(), type, k.H, k.W});
    check_cuda(densepose_iuv_cuda({charts, cuda.data(), type, k.H, k.W}, nullptr), "densepose_iuv_cuda");
    wait_for_device();
    if (type == DType::kFloat32) {
      compare<float>(cpu, expected, "CPU map: " + k.name());
      compare<float>(cuda, expected, "CUDA map: " + k.name());
    } else {
      compare<uint8_t>(cpu, expected_bytes, "CPU uint8 map: " + k.name());
      compare<uint8_t>(cuda, expected_bytes, "CUDA uint8 map: " + k.name());
    }
  }

  // The warp of those maps.
  std::vector<double> fill(static_cast<size_t>(k.C));
  for (double& value : fill) value = static_cast<double>(rng() % 100) - 20.5;
  for (const DType img_type : {DType::kUInt8, DType::kFloat32}) {
    const Buffer img(k.B * k.C * pixels * bytes_of(img_type));
    for (int64_t e = 0; e < k.B * k.C * pixels; ++e) {
      if (img_type == DType::kUInt8) {
        img.data<uint8_t>()[e] = static_cast<uint8_t>(rng());
      } else {
        img.data<float>()[e] = std::uniform_real_distribution<float>(-20, 280)(rng);
      }
    }
    for (const Reduce reduce : {Reduce::kLast, Reduce::kMean}) {
      const int64_t out_bytes = k.N * kParts * k.C * k.S * k.S * 4;
      const Buffer right(out_bytes), cpu(out_bytes, 0x11), cuda(out_bytes, 0x22);
      WarpDensePoseArgs args{};
      args.img = img.data();
      const std::array<int64_t, 4> planes{k.C * pixels, pixels, k.W, 1}, last{k.C * pixels, 1, k.W * k.C, k.C};
      std::copy_n((k.permuted ? last : planes).data(), 4, args.img_stride);
      args.img_dtype = img_type;
      args.charts = charts;
      args.image_index = index.data<int64_t>();
      args.fill = fill.data();
      args.out_dtype = DType::kFloat32;
      args.B = k.B;
      args.C = k.C;
      args.H = k.H;
      args.W = k.W;
      args.S = k.S;
      args.reduce = reduce;
      const Buffer nothing(3 * pixels * 4, 0);
      for (int64_t n = 0; n < k.N; ++n) {
        WarpArgs one{};
        const int64_t image = args.image_index[n];
        const bool known = image < k.B;
        one.img = img.data<char>() + (known ? image * k.C * pixels * bytes_of(img_type) : 0);
        std::copy_n(args.img_stride, 4, one.img_stride);
        one.img_dtype = img_type;
        const float* map = known ? expected.data<float>() + n * 3 * pixels : nothing.data<float>();
        one.iuv = {map, {3 * pixels, pixels, k.W, 1}, DType::kFloat32, 1, k.H, k.W};
        one.fill = fill.data();
        one.out = right.data<float>() + n * kParts * k.C * k.S * k.S;
        one.out_dtype = DType::kFloat32;
        one.C = k.C;
        one.S = k.S;
        one.reduce = reduce;
        warp_cpu(one);
      }
      const std::string what = (reduce == Reduce::kLast ? "last " : "mean ") + k.name();
      args.out = cpu.data();
      warp_densepose_cpu(args);
      compare<float>(cpu, right, "CPU: " + what);
      args.out = cuda.data();
      const Buffer scratch(4 * warp_densepose_cuda_scratch(args));
      check_cuda(warp_densepose_cuda(args, scratch.data<int32_t>(), nullptr), "warp_densepose_cuda");
      wait_for_device();
      compare<float>(cuda, right, "CUDA: " + what);
    }
  }
}

// Every pair of types of photo and result: the CUDA kernels as the CPU kernels, which Python's tests compare with a
// plain reference. Three channels have a kernel of their own.
void run_types(int64_t channels) {
  constexpr DType types[] = {DType::kUInt8, DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64};
  const Case k{3, 2, 5, 4, 2, channels, 9, 8, 4, DType::kFloat32, Content::kSmooth, false};
  const HeadValues coarse = make_head(k, k.K, false), fine = make_head(k, 25, false);
  const HeadValues u = make_head(k, 25, true), v = make_head(k, 25, true);
  const Buffer boxes(k.N * 16), index(k.N * 8);
  for (int64_t n = 0; n < k.N; ++n) {
    const float box[] = {0.5f, static_cast<float>(n) - 1, static_cast<float>(k.W), static_cast<float>(k.H)};
    std::copy_n(box, 4, boxes.data<float>() + 4 * n);
    index.data<int64_t>()[n] = n % k.B;
  }
  const std::vector<double> fill{-3.5, 0.1, 300};  // one for each channel, or more
  for (const DType img_type : types) {
    for (const DType out_type : types) {
      for (const Reduce reduce : {Reduce::kLast, Reduce::kMean}) {
        const int64_t values = k.B * k.C * k.H * k.W, bytes = k.N * kParts * k.C * k.S * k.S * bytes_of(out_type);
        const Buffer img(values * bytes_of(img_type)), expected(bytes, 0x11), got(bytes, 0x22);
        AnyTypes::visit(img_type, [&](auto tag) {
          using T = TypeOf<decltype(tag)>;
          for (int64_t e = 0; e < values; ++e) img.data<T>()[e] = convert<T>(static_cast<float>(uniform(-20, 280)));
        });
        WarpDensePoseArgs args{};
        args.img = img.data();
        const int64_t stride[] = {k.C * k.H * k.W, k.H * k.W, k.W, 1};
        std::copy_n(stride, 4, args.img_stride);
        args.img_dtype = img_type;
        args.charts = {coarse.head, fine.head, u.head, v.head, k.head, boxes.data<float>(), k.N, k.K, k.h, k.w};
        args.image_index = index.data<int64_t>();
        args.fill = fill.data();
        args.out_dtype = out_type;
        args.B = k.B, args.C = k.C, args.H = k.H, args.W = k.W, args.S = k.S;
        args.reduce = reduce;
        args.out = expected.data();
        warp_densepose_cpu(args);
        args.out = got.data();
        const Buffer scratch(4 * warp_densepose_cuda_scratch(args));
        check_cuda(warp_densepose_cuda(args, scratch.data<int32_t>(), nullptr), "warp_densepose_cuda");
        wait_for_device();
        check(std::memcmp(got.data(), expected.data(), expected.bytes()) == 0,
              "CUDA: types " + show({static_cast<int64_t>(img_type), static_cast<int64_t>(out_type)}));
      }
    }
  }
}

// Boxes whose columns threads walk in bands of all heights: on a GPU of few multiprocessors.
void run_bands() {
#if !defined(__CUDACC__)
  shim_device = {shim_device.number + 1, 4, shim_device.block_shared, shim_device.multiprocessor_shared};
#endif
  for (const DType head : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const int64_t coarse : {2, 15, 3}) run({9, coarse, 5, 6, 2, 3, 48, 75, 4, head, Content::kSmooth, false});
  }
}

}  // namespace

// With the argument "bands": only the cases which depend on the number of multiprocessors.
void run_tests(const std::vector<std::string>& arguments) {
  skip_unless_capable();
  run_bands();
  if (arguments == std::vector<std::string>{"bands"}) return;
  for (const int64_t channels : {3, 2}) run_types(channels);
  // Heads of a pixel, of odd sides, larger, much larger and smaller than the photo; photos of nothing, of a row, of a
  // column, wider than a chunk; one texel for all; more channels than a launch takes; more instances than blocks.
  constexpr int64_t extents[][9] = {
      {6, 2, 7, 5, 2, 3, 13, 11, 4},   {6, 15, 5, 6, 1, 3, 9, 14, 32}, {3, 2, 1, 1, 3, 1, 8, 8, 3},
      {3, 2, 9, 9, 1, 2, 1, 90, 2},    {3, 15, 9, 9, 1, 2, 60, 1, 1},  {1, 2, 4, 4, 1, 1, 70, 20, 1},
      {2, 2, 20, 30, 1, 3, 5, 6, 8},   {0, 2, 3, 3, 1, 3, 4, 4, 2},    {2, 2, 3, 3, 2, 0, 4, 4, 2},
      {2, 2, 3, 3, 1, 3, 0, 4, 2},     {2, 2, 3, 3, 1, 3, 4, 0, 2},    {2, 2, 3, 3, 1, 66, 4, 5, 2},
      {1, 2, 3, 4, 1, 1, 40, 150, 16}, {9, 1, 3, 3, 4, 1, 6, 6, 2},    {2, 2, 3, 200, 1, 1, 4, 40, 4}};
  for (const auto& e : extents) {
    for (const DType head : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
      for (const Content content : {Content::kSmooth, Content::kTies, Content::kWild}) {
        for (const bool permuted : {false, true}) {
          run({e[0], e[1], e[2], e[3], e[4], e[5], e[6], e[7], e[8], head, content, permuted});
        }
      }
    }
  }
}
