// crop on the CPU; ../crop.h defines the results.
#include "../crop.h"

#include <algorithm>
#include <vector>

#include "parallel.h"

namespace dsa_fast {
namespace {

// Writes each pixel's part (0..23, or -1) to parts [H, W], and the parts' extents (crop.h) to reach [24, 4].
template <typename T>
void label_image(const IuvMap& map, int64_t b, int8_t* parts, int32_t* reach) {
  std::fill_n(reach, kParts * kReaches, 0);
  for (int64_t y = 0; y < map.H; ++y) {
    for (int64_t x = 0; x < map.W; ++x) {
      const int32_t part = part_at<T>(map, b, y, x);
      parts[y * map.W + x] = static_cast<int8_t>(part);
      if (part < 0) continue;
      int32_t* r = reach + part * kReaches;
      r[0] = std::max(r[0], static_cast<int32_t>(map.H - y));
      r[1] = std::max(r[1], static_cast<int32_t>(y + 1));
      r[2] = std::max(r[2], static_cast<int32_t>(map.W - x));
      r[3] = std::max(r[3], static_cast<int32_t>(x + 1));
    }
  }
}

template <typename In, typename Out>
void copy_image(const CropArgs& a, int64_t b, const int8_t* parts, const int32_t* reach,
                std::vector<int32_t>& columns) {
  const int64_t H = a.iuv.H, W = a.iuv.W, cells = a.S * a.S;
  const In* img = static_cast<const In*>(a.img) + b * a.img_stride[0];  // [C, H, W]
  for (int32_t p = 0; p < kParts; ++p) {
    const CropBox box = crop_box(reach + p * kReaches, H, W);
    Out* out = static_cast<Out*>(a.out) + (b * kParts + p) * a.C * cells;  // [C, S, S]
    for (int64_t c = 0; box.height > 0 && c < a.S; ++c) {
      columns[static_cast<size_t>(c)] = box.left + crop_source(c, box.width, a.S);
    }
    for (int64_t channel = 0; channel < a.C; ++channel, out += cells) {
      const Out fill = convert<Out>(a.fill[channel]);
      if (box.height == 0) {
        std::fill_n(out, cells, fill);
        continue;
      }
      for (int64_t r = 0; r < a.S; ++r) {
        const int64_t y = box.top + crop_source(r, box.height, a.S);
        const In* row = img + channel * a.img_stride[1] + y * a.img_stride[2];
        const int8_t* labels = parts + y * W;
        for (int64_t c = 0; c < a.S; ++c) {
          const int32_t x = columns[static_cast<size_t>(c)];
          out[r * a.S + c] = a.mask && labels[x] != p ? fill : convert<Out>(row[x * a.img_stride[3]]);
        }
      }
    }
  }
}

}  // namespace

void crop_cpu(const CropArgs& args) {
  const auto label = IuvTypes::visit(args.iuv.dtype, [](auto tag) { return &label_image<TypeOf<decltype(tag)>>; });
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    const int64_t pixels = args.iuv.H * args.iuv.W;
    parallel_for(args.iuv.B, pixels + kParts * args.C * args.S * args.S, [&] {
      return
          [&, parts = std::vector<int8_t>(static_cast<size_t>(pixels)), reach = std::vector<int32_t>(kParts * kReaches),
           columns = std::vector<int32_t>(static_cast<size_t>(args.S))](int64_t b) mutable {
            label(args.iuv, b, parts.data(), reach.data());
            copy_image<TypeOf<decltype(in)>, TypeOf<decltype(out)>>(args, b, parts.data(), reach.data(), columns);
          };
    });
  });
}

}  // namespace dsa_fast
