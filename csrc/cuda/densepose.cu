// warp_densepose on CUDA; ../densepose.h defines the results.
//
// A thread reads one pixel of a box at a time. It computes the number of pixels in the box itself, so the host need not
// wait for the boxes. Threads race for a texel, but only in ways whose result does not depend on their order:
//   last: atomicMax of the pixels' raster indexes leaves each texel its winner; a gather then writes every texel once.
//   mean: the pixels of a texel are chained, in the order of the race. The thread that gathers the texel sorts the
//         chain before it sums floating point values.
// The kernels use no shared memory and no barrier.
#include "../densepose.h"

#include <algorithm>

#include "../chart.h"
#include "gather.h"
#include "launch.h"

namespace dsa_fast {
namespace {

// Threads for an instance's box, which may be as large as its image but is mostly much smaller. In a large box, a
// thread takes several pixels. Few blocks are idle.
constexpr int64_t kBoxThreads = int64_t{256} * kThreads;

struct ChartPixel {
  int32_t part;  // 0 is background
  float u, v;
};

// A pixel's value in one channel of one instance's head.
template <typename T>
DSA_FAST_HD float resampled(const T* channel, const Head& head, const Sample& y, const Sample& x) {
  const T* above = channel + y.i0 * head.stride[2];
  const T* below = channel + y.i1 * head.stride[2];
  const int64_t left = x.i0 * head.stride[3], right = x.i1 * head.stride[3];
  return blend(blend(to_float(above[left]), x.w0, to_float(above[right]), x.w1), y.w0,
               blend(to_float(below[left]), x.w0, to_float(below[right]), x.w1), y.w1);
}

template <typename T>
DSA_FAST_HD const T* instance_of(const Head& head, int64_t n) {
  return static_cast<const T*>(head.data) + n * head.stride[0];
}

template <typename T>
DSA_FAST_HD ChartPixel read_pixel(const Charts& charts, int64_t n, const Sample& y, const Sample& x) {
  const T* coarse = instance_of<T>(charts.coarse, n);
  const float background = resampled(coarse, charts.coarse, y, x);
  bool person = false;
  for (int64_t c = 1; c < charts.K; ++c) {
    person |= beats(resampled(coarse + c * charts.coarse.stride[1], charts.coarse, y, x), background);
  }
  if (!person) return {0, 0.0f, 0.0f};
  const T* fine = instance_of<T>(charts.fine, n);
  float highest = resampled(fine, charts.fine, y, x);
  int32_t part = 0;
  for (int32_t c = 1; c < kFineChannels; ++c) {
    const float value = resampled(fine + c * charts.fine.stride[1], charts.fine, y, x);
    if (beats(value, highest)) {
      highest = value;
      part = c;
    }
  }
  if (part == 0) return {0, 0.0f, 0.0f};
  return {part, resampled(instance_of<T>(charts.u, n) + part * charts.u.stride[1], charts.u, y, x),
          resampled(instance_of<T>(charts.v, n) + part * charts.v.stride[1], charts.v, y, x)};
}

// entry[n, texel], starting at -1: the last raster index (kLast) or the head of the chain (kMean) of its pixels.
// chain[n, pixel], for kMean: the next pixel on the same texel; -1 ends it.
template <typename T>
__global__ void label_charts(Charts charts, int64_t height, int64_t width, int64_t images, int32_t size, Reduce reduce,
                             const int64_t* image_index,  // [N]
                             int32_t* entry,              // [N, 24 * S * S]
                             int32_t* chain) {            // [N, H * W] or null
  const int32_t cells = size * size;
  FOR_EACH_ITEM(n, charts.N) {
    if (image_index[n] < 0 || image_index[n] >= images) continue;
    const Box box = box_of(charts.boxes + 4 * n);
    const Visible rows = visible(box.y, box.h, height), columns = visible(box.x, box.w, width);
    const uint32_t across = static_cast<uint32_t>(columns.end - columns.begin);
    FOR_EACH_ELEMENT(k, (rows.end - rows.begin) * across) {
      const int64_t row = rows.begin + static_cast<uint32_t>(k) / across;
      const int64_t column = columns.begin + static_cast<uint32_t>(k) % across;
      const ChartPixel pixel =
          read_pixel<T>(charts, n, sample_of(row, charts.h, box.h), sample_of(column, charts.w, box.w));
      const Texel texel = texel_of(static_cast<float>(pixel.part), pixel.u, pixel.v, size);
      if (texel.part < 0) continue;
      int32_t* target = entry + n * kParts * cells + texel.part * cells + texel.cell;
      const int32_t raster = static_cast<int32_t>((box.y + row) * width + box.x + column);
      if (reduce == Reduce::kLast) {
        atomicMax(target, raster);
      } else {
        chain[n * height * width + raster] = atomicExch(target, raster);
      }
    }
  }
}

// A thread owns a pixel of a map and reads its box. Neighbors write neighbors.
template <typename T, typename Out>
__global__ void write_maps(Charts charts, int64_t height, int64_t width,
                           Out* out) {  // [N, 3, H, W]
  const int64_t pixels = height * width;
  FOR_EACH_ITEM(n, charts.N) {
    const Box box = box_of(charts.boxes + 4 * n);
    FOR_EACH_ELEMENT(k, pixels) {
      const int64_t row = static_cast<uint32_t>(k) / static_cast<uint32_t>(width) - box.y;
      const int64_t column = static_cast<uint32_t>(k) % static_cast<uint32_t>(width) - box.x;
      ChartPixel pixel{0, 0.0f, 0.0f};
      if (row >= 0 && row < box.h && column >= 0 && column < box.w) {
        pixel = read_pixel<T>(charts, n, sample_of(row, charts.h, box.h), sample_of(column, charts.w, box.w));
      }
      Out* target = out + 3 * pixels * n + k;
      if constexpr (std::is_same_v<Out, float>) {
        target[0] = static_cast<float>(pixel.part);
        target[pixels] = pixel.u;
        target[2 * pixels] = pixel.v;
      } else {
        const bool number = pixel.u == pixel.u && pixel.v == pixel.v;
        target[0] = static_cast<uint8_t>(number ? pixel.part : 0);
        target[pixels] = quantized(number ? pixel.u : 0.0f);
        target[2 * pixels] = quantized(number ? pixel.v : 0.0f);
      }
    }
  }
}

// Merge sort: in place, and n log n even where all pixels meet in one texel. Returns the first pixel.
DSA_FAST_HD int32_t sort_chain(int32_t first, int32_t* next) {
  for (int64_t length = 1;; length *= 2) {  // of the sorted runs
    int32_t left = first, last = -1;
    int64_t merges = 0;
    first = -1;
    while (left >= 0) {
      ++merges;
      int32_t right = left;
      int64_t left_count = 0;
      while (left_count < length && right >= 0) {
        ++left_count;
        right = next[right];
      }
      int64_t right_count = length;
      while (left_count > 0 || (right_count > 0 && right >= 0)) {
        const bool take_left = left_count > 0 && (right_count == 0 || right < 0 || left < right);
        const int32_t pixel = take_left ? left : right;
        if (take_left) {
          left = next[left];
          --left_count;
        } else {
          right = next[right];
          --right_count;
        }
        if (last >= 0) {
          next[last] = pixel;
        } else {
          first = pixel;
        }
        last = pixel;
      }
      left = right;
    }
    if (last >= 0) next[last] = -1;
    if (merges <= 1) return first;
  }
}

// Writes channels c_begin <= c < c_end of every texel. A thread owns a texel; neighbors write neighbors.
template <typename In, typename Out>
__global__ void gather_texels(Photo photos, int64_t instances, int32_t size, Reduce reduce, Fill fill, int64_t c_begin,
                              int64_t c_end,
                              const int64_t* image_index,  // [N]
                              int32_t* entry,              // [N, 24 * S * S]
                              int32_t* chain,              // [N, H * W] or null
                              Out* out) {                  // [N, 24, C, S, S]
  const int32_t cells = size * size;
  const int32_t texels = kParts * cells;
  FOR_EACH_ITEM(n, instances) {
    const int64_t image = image_index[n];
    int32_t* next = chain == nullptr ? nullptr : chain + n * photos.H * photos.W;
    FOR_EACH_ELEMENT(t, texels) {
      int32_t first = entry[n * texels + t];
      const int64_t part = static_cast<int32_t>(t) / cells;
      Out* target = out + (n * kParts + part) * photos.C * cells + static_cast<int32_t>(t) % cells;
      // Sums of integers do not depend on their order; the first launch sorts for all channels.
      if (reduce == Reduce::kMean && !std::is_same_v<In, uint8_t> && c_begin == 0 && first >= 0) {
        first = sort_chain(first, next);
        entry[n * texels + t] = first;
      }
      for (int64_t c = c_begin; c < c_end; ++c) {
        if (first < 0) {
          target[c * cells] = convert<Out>(fill.value[c - c_begin]);
        } else if (reduce == Reduce::kLast) {
          target[c * cells] = convert<Out>(pixel_value<In>(photos, image, c, first));
        } else {
          SumOf<In> sum = 0;
          int32_t count = 0;
          for (int32_t pixel = first; pixel >= 0; pixel = next[pixel]) {
            sum += to_sum(pixel_value<In>(photos, image, c, pixel));
            ++count;
          }
          target[c * cells] = convert<Out>(mean_of<In>(sum, count));
        }
      }
    }
  }
}

int64_t texels_of(const WarpDensePoseArgs& args) { return kParts * args.S * args.S; }

}  // namespace

int64_t warp_densepose_cuda_scratch(const WarpDensePoseArgs& args) {
  const int64_t chain = args.reduce == Reduce::kMean ? args.H * args.W : 0;
  return args.charts.N * (texels_of(args) + chain);
}

int warp_densepose_cuda(const WarpDensePoseArgs& args, int32_t* scratch, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int64_t instances = args.charts.N, texels = texels_of(args);
  if (instances == 0) return cudaSuccess;
  const int32_t size = static_cast<int32_t>(args.S);
  int32_t* entry = scratch;
  int32_t* chain = args.reduce == Reduce::kMean ? scratch + instances * texels : nullptr;
  const cudaError_t error =
      cudaMemsetAsync(entry, 0xff, sizeof(int32_t) * static_cast<size_t>(instances * texels), stream);  // -1
  if (error != cudaSuccess) return error;
  NetworkTypes::visit(args.charts.dtype, [&](auto tag) {
    launch(label_charts<TypeOf<decltype(tag)>>, std::min(args.H * args.W, kBoxThreads), instances, stream, args.charts,
           args.H, args.W, args.B, size, args.reduce, args.image_index, entry, chain);
  });
  Photo photos{args.img, {}, args.B, args.C, args.H, args.W};
  std::copy_n(args.img_stride, 4, photos.stride);
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    using Out = TypeOf<decltype(out)>;
    for_each_channel_chunk(args.fill, args.C, [&](const Fill& fill, int64_t c_begin, int64_t c_end) {
      launch(gather_texels<TypeOf<decltype(in)>, Out>, texels, instances, stream, photos, instances, size, args.reduce,
             fill, c_begin, c_end, args.image_index, entry, chain, static_cast<Out*>(args.out));
    });
  });
  return cudaGetLastError();
}

int densepose_iuv_cuda(const DensePoseIuvArgs& args, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  NetworkTypes::visit(args.charts.dtype, [&](auto tag) {
    using T = TypeOf<decltype(tag)>;
    const auto run = [&](auto kernel, auto* out) {
      launch(kernel, args.H * args.W, args.charts.N, stream, args.charts, args.H, args.W, out);
    };
    if (args.out_dtype == DType::kUInt8) {
      run(write_maps<T, uint8_t>, static_cast<uint8_t*>(args.out));
    } else {
      run(write_maps<T, float>, static_cast<float*>(args.out));
    }
  });
  return cudaGetLastError();
}

}  // namespace dsa_fast
