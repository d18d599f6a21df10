// train_transform on CUDA; ../transform.h defines the results.
//
// Three launches. The first computes the resize weights, which all images share, clears the texels and fills the grid.
// The second makes each pixel of the full images and enters it into its texel, only with integer maxima and sums, whose
// result does not depend on their order. The third makes each texel again from the stored bytes of its winner, because
// that pixel may be erased in the full image; it is left out if there are no part images. The kernels use no shared
// memory and no barrier.
#include "../transform.h"

#include <algorithm>

#include "launch.h"

namespace dsa_fast {
namespace {

// The weights along one axis.
struct Axis {
  int64_t in, out;
  int32_t limit;
  TapRange* range;   // [out]
  int32_t* nearest;  // [out]: the map's row or column
  float* weight;     // [out, limit]
};

DSA_FAST_HD void fill_axis(const Axis& axis, int64_t i) {
  axis.range[i] = resize_taps(axis.in, axis.out, i, axis.weight + i * axis.limit);
  axis.nearest[i] = static_cast<int32_t>(nearest(axis.in, axis.out, i));
}

// The int32 that a texel needs: its winner, or the sums of its pixels' three levels and their number.
constexpr int64_t entries_of(Reduce reduce) { return reduce == Reduce::kLast ? 1 : 4; }

__global__ void prepare(TransformArgs a, Axis vertical, Axis horizontal, int64_t entries, int32_t empty,
                        int32_t* entry) {  // [B, entries]
  FOR_EACH_ITEM(b, a.B) {
    FOR_EACH_ELEMENT(k, entries) entry[b * entries + k] = empty;
    const Plan plan = a.plan[b];
    FOR_EACH_ELEMENT(cell, a.grid_h * a.grid_w) {
      const int64_t row = static_cast<uint32_t>(cell) / static_cast<uint32_t>(a.grid_w);
      const int64_t column = static_cast<uint32_t>(cell) % static_cast<uint32_t>(a.grid_w);
      write_cell(a, plan, b, cell, grid_row(a, plan, row), grid_column(a, plan, column));
    }
    if (b == 0) {
      FOR_EACH_ELEMENT(i, vertical.out + horizontal.out) {
        i < vertical.out ? fill_axis(vertical, i) : fill_axis(horizontal, i - vertical.out);
      }
    }
  }
}

// A pixel of the result in the resized photo.
struct Place {
  int64_t row, column;
  bool inside;
};

DSA_FAST_HD Place place_of(const TransformArgs& a, const Plan& plan, int64_t y, int64_t x) {
  const int64_t row = y + plan.top - a.pad;
  const int64_t cropped = x + plan.left - a.pad;
  const bool inside = row >= 0 && row < a.H && cropped >= 0 && cropped < a.W && plan.index >= 0 && plan.index < a.N;
  return {row, plan.flip != 0 ? a.W - 1 - cropped : cropped, inside};
}

struct Levels {
  float c[3];
};

DSA_FAST_HD Levels resized(const TransformArgs& a, const Axis& vertical, const Axis& horizontal, int32_t index,
                           const Place& place) {
  const TapRange rows = vertical.range[place.row];
  const TapRange columns = horizontal.range[place.column];
  const float* row_weight = vertical.weight + place.row * vertical.limit;
  const float* column_weight = horizontal.weight + place.column * horizontal.limit;
  const uint8_t* photo = a.images + index * a.image_stride[0] + columns.start * a.image_stride[3];
  float sum[3] = {0.0f, 0.0f, 0.0f};
  for (int32_t j = 0; j < rows.count; ++j) {
    const uint8_t* row = photo + (rows.start + j) * a.image_stride[2];
    float part[3] = {0.0f, 0.0f, 0.0f};
    for (int32_t k = 0; k < columns.count; ++k) {
      const uint8_t* pixel = row + k * a.image_stride[3];
      const float weight = column_weight[k];
      for (int c = 0; c < 3; ++c) {
        part[c] = multiply_add(static_cast<float>(pixel[c * a.image_stride[1]]), weight, part[c]);
      }
    }
    for (int c = 0; c < 3; ++c) sum[c] = multiply_add(part[c], row_weight[j], sum[c]);
  }
  Levels levels;
  for (int c = 0; c < 3; ++c) levels.c[c] = round_level(sum[c]);
  return levels;
}

// The texel of a pixel of the result, as part * S * S + cell; -1: background.
DSA_FAST_HD int32_t texel_at(const TransformArgs& a, const Axis& vertical, const Axis& horizontal, const Plan& plan,
                             const Place& place) {
  const uint8_t* at = a.iuv + plan.index * a.iuv_stride[0] + vertical.nearest[place.row] * a.iuv_stride[2] +
                      horizontal.nearest[place.column] * a.iuv_stride[3];
  Label label{at[0], 0, 0};
  if (label.i < 1 || label.i > kParts) return -1;
  label.u = at[a.iuv_stride[1]];
  label.v = at[2 * a.iuv_stride[1]];
  if (plan.flip != 0) label = mirrored_label(label, a.mirror);
  const int32_t size = static_cast<int32_t>(a.S);
  const Texel texel = texel_of(label.i, label.u, label.v, size);
  return texel.part * size * size + texel.cell;
}

// Whether the pixel to the right or below copies the same stored label. It then wins the texel in any case.
DSA_FAST_HD bool has_later_copy(const TransformArgs& a, const Axis& vertical, const Axis& horizontal, const Plan& plan,
                                int64_t y, int64_t x, const Place& place) {
  if (x + 1 < a.W) {
    const Place right = place_of(a, plan, y, x + 1);
    if (right.inside && horizontal.nearest[right.column] == horizontal.nearest[place.column]) return true;
  }
  if (y + 1 < a.H) {
    const Place below = place_of(a, plan, y + 1, x);
    if (below.inside && vertical.nearest[below.row] == vertical.nearest[place.row]) return true;
  }
  return false;
}

template <typename Out>
__global__ void show_pixels(TransformArgs a, Axis vertical, Axis horizontal, int32_t texels,
                            int32_t* entry,  // [B, 24 * S * S] or [B, 24 * S * S, 4]
                            Out* full) {     // [B, 3, H, W] or [B, H, W, 3]
  const int64_t pixels = a.H * a.W;
  FOR_EACH_ITEM(b, a.B) {
    const Plan plan = a.plan[b];
    FOR_EACH_ELEMENT(pixel, pixels) {
      const int64_t y = static_cast<uint32_t>(pixel) / static_cast<uint32_t>(a.W);
      const int64_t x = static_cast<uint32_t>(pixel) % static_cast<uint32_t>(a.W);
      const Place place = place_of(a, plan, y, x);
      Levels levels{};
      const bool shown = place.inside && !erased(plan, y, x);
      const int32_t texel = place.inside && texels > 0 ? texel_at(a, vertical, horizontal, plan, place) : -1;
      if (shown || (texel >= 0 && a.reduce == Reduce::kMean)) {
        levels = resized(a, vertical, horizontal, plan.index, place);
      }
      for (int c = 0; c < 3; ++c) {
        const float value = shown ? normalized(levels.c[c], a.mean[c], a.std[c]) : 0.0f;
        full[a.channels_last ? (b * pixels + pixel) * 3 + c : (b * 3 + c) * pixels + pixel] = convert<Out>(value);
      }
      if (texel < 0) continue;
      if (a.reduce == Reduce::kMean) {
        int32_t* target = entry + (b * texels + texel) * 4;
        for (int c = 0; c < 3; ++c) atomicAdd(target + c, static_cast<int32_t>(levels.c[c]));
        atomicAdd(target + 3, 1);
      } else if (!has_later_copy(a, vertical, horizontal, plan, y, x, place)) {
        atomicMax(entry + b * texels + texel, static_cast<int32_t>(pixel));
      }
    }
  }
}

// A thread owns a texel; neighbors write neighbors.
template <typename Out>
__global__ void show_texels(TransformArgs a, Axis vertical, Axis horizontal, int32_t texels,
                            const int32_t* entry,  // [B, 24 * S * S] or [B, 24 * S * S, 4]
                            Out* dsap) {           // [B, 24, 3, S, S]
  const int32_t cells = texels / kParts;
  FOR_EACH_ITEM(b, a.B) {
    const Plan plan = a.plan[b];
    FOR_EACH_ELEMENT(t, texels) {
      const int64_t part = static_cast<int32_t>(t) / cells;
      Out* target = dsap + (b * kParts + part) * 3 * cells + static_cast<int32_t>(t) % cells;
      Levels levels{};
      bool touched;
      if (a.reduce == Reduce::kMean) {
        const int32_t* sums = entry + (b * texels + t) * 4;
        touched = sums[3] > 0;
        if (touched) {
          for (int c = 0; c < 3; ++c) levels.c[c] = static_cast<float>(sums[c]) / static_cast<float>(sums[3]);
        }
      } else {
        const int32_t pixel = entry[b * texels + t];
        touched = pixel >= 0;
        if (touched) {
          const int64_t y = static_cast<uint32_t>(pixel) / static_cast<uint32_t>(a.W);
          const int64_t x = static_cast<uint32_t>(pixel) % static_cast<uint32_t>(a.W);
          levels = resized(a, vertical, horizontal, plan.index, place_of(a, plan, y, x));
        }
      }
      for (int c = 0; c < 3; ++c) {
        target[c * cells] = convert<Out>(touched ? normalized(levels.c[c], a.mean[c], a.std[c]) : 0.0f);
      }
    }
  }
}

int64_t axis_scratch(int64_t in, int64_t out) { return out * (3 + tap_limit(in, out)); }

Axis axis_in(int32_t* scratch, int64_t in, int64_t out) {
  static_assert(sizeof(TapRange) == 2 * sizeof(int32_t) && sizeof(float) == sizeof(int32_t));
  return {in,
          out,
          tap_limit(in, out),
          reinterpret_cast<TapRange*>(scratch),
          scratch + 2 * out,
          reinterpret_cast<float*>(scratch + 3 * out)};
}

}  // namespace

int64_t train_transform_cuda_scratch(const TransformArgs& args) {
  return axis_scratch(args.h, args.H) + axis_scratch(args.w, args.W) +
         args.B * kParts * args.S * args.S * entries_of(args.reduce);
}

int train_transform_cuda(const TransformArgs& args, int32_t* scratch, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int32_t texels = static_cast<int32_t>(kParts * args.S * args.S);
  const int64_t entries = texels * entries_of(args.reduce);
  const Axis vertical = axis_in(scratch, args.h, args.H);
  scratch += axis_scratch(args.h, args.H);
  const Axis horizontal = axis_in(scratch, args.w, args.W);
  int32_t* entry = scratch + axis_scratch(args.w, args.W);
  const int64_t elements = std::max({entries, args.H + args.W, args.grid_h * args.grid_w});
  launch(prepare, elements, args.B, stream, args, vertical, horizontal, entries, args.reduce == Reduce::kLast ? -1 : 0,
         entry);
  NetworkTypes::visit(args.full_dtype, [&](auto tag) {
    using Out = TypeOf<decltype(tag)>;
    launch(show_pixels<Out>, args.H * args.W, args.B, stream, args, vertical, horizontal, texels, entry,
           static_cast<Out*>(args.full));
  });
  NetworkTypes::visit(args.dsap_dtype, [&](auto tag) {
    using Out = TypeOf<decltype(tag)>;
    launch(show_texels<Out>, texels, args.B, stream, args, vertical, horizontal, texels, entry,
           static_cast<Out*>(args.dsap));
  });
  return cudaGetLastError();
}

}  // namespace dsa_fast
