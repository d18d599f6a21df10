// warp on the CPU; ../warp.h defines the results.
#include "../warp.h"

#include <algorithm>
#include <vector>

#include "units.h"
#include "warp_bytes.h"

namespace dsa_fast {
namespace {

// A foreground pixel of one row, and its texel.
struct Hit {
  int32_t x;
  Texel texel;
};

constexpr int64_t kChunk = 256;  // pixels of a row looked at together; their hits stay in the first-level cache

// Writes the pixels x0 <= x < x1 of row y whose part is in [part_begin, part_end) to hits, in order; returns how many.
template <typename T>
int64_t collect_hits(const IuvMap& map, int64_t b, int64_t y, int64_t x0, int64_t x1, int32_t size, int32_t part_begin,
                     int32_t part_end, Hit* hits) {
  const T* row = static_cast<const T*>(map.data) + b * map.stride[0] + y * map.stride[2];
  const T* i = row;
  const T* u = row + map.stride[1];
  const T* v = row + 2 * map.stride[1];
  const int64_t step = map.stride[3];
  int64_t n = 0;
  for (int64_t x = x0; x < x1; ++x) {
    const Texel texel = texel_of(i[x * step], u[x * step], v[x * step], size);
    if (texel.part >= part_begin && texel.part < part_end) hits[n++] = {static_cast<int32_t>(x), texel};
  }
  return n;
}

using CollectHits = decltype(&collect_hits<float>);

CollectHits collect_hits_for(DType iuv_dtype) {
  return IuvTypes::visit(iuv_dtype, [](auto tag) -> CollectHits { return &collect_hits<TypeOf<decltype(tag)>>; });
}

// Calls f(y, hits, n) for all hits of the unit, in raster order.
template <typename F>
void for_each_hits(const IuvMap& map, CollectHits collect, const Unit& unit, int64_t size, const F& f) {
  Hit hits[kChunk];
  for (int64_t y = 0; y < map.H; ++y) {
    for (int64_t x0 = 0; x0 < map.W; x0 += kChunk) {
      const int64_t n = collect(map, unit.b, y, x0, std::min(x0 + kChunk, map.W), static_cast<int32_t>(size),
                                unit.part_begin, unit.part_end, hits);
      if (n > 0) f(y, hits, n);
    }
  }
}

template <typename In, typename Out>
void warp_last(const WarpArgs& a) {
  const CollectHits collect = collect_hits_for(a.iuv.dtype);
  const int64_t cells = a.S * a.S;
  const int64_t plane = a.C * cells;  // of one part
  parallel_units(a.iuv.B, a.iuv.H * a.iuv.W, plane, [&] {
    return [&](const Unit& unit) {
      Out* out = static_cast<Out*>(a.out) + unit.b * kParts * plane;  // [24, C, S, S]
      for (int32_t p = unit.part_begin; p < unit.part_end; ++p) {
        for (int64_t c = 0; c < a.C; ++c) {
          std::fill_n(out + p * plane + c * cells, cells, convert<Out>(a.fill[c]));
        }
      }
      const In* img = static_cast<const In*>(a.img) + unit.b * a.img_stride[0];  // [C, H, W]
      for_each_hits(a.iuv, collect, unit, a.S, [&](int64_t y, const Hit* hits, int64_t n) {
        for (int64_t c = 0; c < a.C; ++c) {
          const In* row = img + c * a.img_stride[1] + y * a.img_stride[2];
          Out* channel = out + c * cells;
          for (int64_t k = 0; k < n; ++k) {
            channel[hits[k].texel.part * plane + hits[k].texel.cell] = convert<Out>(row[hits[k].x * a.img_stride[3]]);
          }
        }
      });
    };
  });
}

template <typename In, typename Out>
void warp_mean(const WarpArgs& a) {
  using Sum = SumOf<In>;
  const CollectHits collect = collect_hits_for(a.iuv.dtype);
  const int64_t cells = a.S * a.S;
  const int64_t plane = a.C * cells;
  parallel_units(a.iuv.B, a.iuv.H * a.iuv.W, plane, [&] {
    return [&, sum = std::vector<Sum>(),    // [parts of the unit, C, S, S]
            count = std::vector<int32_t>()  // [parts of the unit, S, S]
    ](const Unit& unit) mutable {
      const int64_t parts = unit.part_end - unit.part_begin;
      sum.assign(static_cast<size_t>(parts * plane), Sum(0));
      count.assign(static_cast<size_t>(parts * cells), 0);
      const In* img = static_cast<const In*>(a.img) + unit.b * a.img_stride[0];
      for_each_hits(a.iuv, collect, unit, a.S, [&](int64_t y, const Hit* hits, int64_t n) {
        for (int64_t k = 0; k < n; ++k) {
          ++count[static_cast<size_t>((hits[k].texel.part - unit.part_begin) * cells + hits[k].texel.cell)];
        }
        for (int64_t c = 0; c < a.C; ++c) {
          const In* row = img + c * a.img_stride[1] + y * a.img_stride[2];
          Sum* channel = sum.data() + c * cells;
          for (int64_t k = 0; k < n; ++k) {
            channel[(hits[k].texel.part - unit.part_begin) * plane + hits[k].texel.cell] +=
                to_sum(row[hits[k].x * a.img_stride[3]]);
          }
        }
      });
      Out* out = static_cast<Out*>(a.out) + (unit.b * kParts + unit.part_begin) * plane;
      for (int64_t p = 0; p < parts; ++p) {
        for (int64_t c = 0; c < a.C; ++c) {
          const Out fill = convert<Out>(a.fill[c]);
          const int32_t* n = count.data() + p * cells;
          const Sum* total = sum.data() + (p * a.C + c) * cells;
          Out* channel = out + (p * a.C + c) * cells;
          for (int64_t k = 0; k < cells; ++k) {
            channel[k] = n[k] == 0 ? fill : convert<Out>(mean_of<In>(total[k], n[k]));
          }
        }
      }
    };
  });
}

template <typename Grad, typename Img>
void backward(const WarpBackwardArgs& a) {
  const CollectHits collect = collect_hits_for(a.iuv.dtype);
  const int64_t cells = a.S * a.S;
  const int64_t pixels = a.iuv.H * a.iuv.W;
  const bool last = a.reduce == Reduce::kLast;
  parallel_for(a.iuv.B, (a.C + 2) * pixels + kParts * cells, [&] {
    // [24, S, S]: the winner, or the count
    return [&, map = std::vector<int32_t>(static_cast<size_t>(kParts * cells))](int64_t b) mutable {
      const Unit unit{b, 0, kParts};
      std::fill(map.begin(), map.end(), 0);
      for_each_hits(a.iuv, collect, unit, a.S, [&](int64_t y, const Hit* hits, int64_t n) {
        for (int64_t k = 0; k < n; ++k) {
          int32_t& entry = map[static_cast<size_t>(hits[k].texel.part * cells + hits[k].texel.cell)];
          entry = last ? static_cast<int32_t>(y * a.iuv.W + hits[k].x) : entry + 1;
        }
      });
      Img* grad_img = static_cast<Img*>(a.grad_img) + b * a.C * pixels;            // [C, H, W]
      const Grad* grad = static_cast<const Grad*>(a.grad) + b * a.grad_stride[0];  // [24, C, S, S]
      std::fill_n(grad_img, a.C * pixels, convert<Img>(0.0f));
      for_each_hits(a.iuv, collect, unit, a.S, [&](int64_t y, const Hit* hits, int64_t n) {
        for (int64_t k = 0; k < n; ++k) {
          const Texel texel = hits[k].texel;
          const int32_t entry = map[static_cast<size_t>(texel.part * cells + texel.cell)];
          const int64_t pixel = y * a.iuv.W + hits[k].x;
          if (last && entry != pixel) continue;
          const Grad* from = grad + texel.part * a.grad_stride[1] + texel.cell / a.S * a.grad_stride[3] +
                             texel.cell % a.S * a.grad_stride[4];
          for (int64_t c = 0; c < a.C; ++c) {
            const Grad value = from[c * a.grad_stride[2]];
            grad_img[c * pixels + pixel] =
                last ? convert<Img>(value) : convert<Img>(widen(value) / static_cast<Wide<Grad>>(entry));
          }
        }
      });
    };
  });
}

}  // namespace

void warp_cpu(const WarpArgs& args) {
  if (warp_bytes_can(args)) return warp_bytes(args);
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    using In = TypeOf<decltype(in)>;
    using Out = TypeOf<decltype(out)>;
    args.reduce == Reduce::kLast ? warp_last<In, Out>(args) : warp_mean<In, Out>(args);
  });
}

void warp_count_cpu(const CountArgs& args) {
  const CollectHits collect = collect_hits_for(args.iuv.dtype);
  const int64_t cells = args.S * args.S;
  parallel_units(args.iuv.B, args.iuv.H * args.iuv.W, cells, [&] {
    return [&](const Unit& unit) {
      int32_t* count = args.count + unit.b * kParts * cells;  // [24, S, S]
      std::fill(count + unit.part_begin * cells, count + unit.part_end * cells, 0);
      for_each_hits(args.iuv, collect, unit, args.S, [&](int64_t, const Hit* hits, int64_t n) {
        for (int64_t k = 0; k < n; ++k) ++count[hits[k].texel.part * cells + hits[k].texel.cell];
      });
    };
  });
}

void warp_backward_cpu(const WarpBackwardArgs& args) {
  GradientTypes::visit(args.grad_dtype, args.grad_img_dtype,
                       [&](auto grad, auto img) { backward<TypeOf<decltype(grad)>, TypeOf<decltype(img)>>(args); });
}

}  // namespace dsa_fast
