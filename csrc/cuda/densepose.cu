// warp_densepose on CUDA; ../densepose.h defines the results.
//
// A thread walks down a column of a box and keeps the heads' rows around it, blended along x, in registers. It computes
// the number of pixels in the box itself, so the host need not wait for the boxes. Threads race for a texel, but only
// in ways whose result does not depend on their order:
//   last: atomicMax of the pixels' raster indexes leaves each texel its winner; a gather then writes every texel once.
//   mean: the pixels of a texel are chained, in the order of the race. The thread that gathers the texel sorts the
//         chain before it sums floating point values.
// The kernels use no shared memory and no barrier.
#include "../densepose.h"

#include <algorithm>
#include <limits>

#include "../chart.h"
#include "block.h"
#include "gather.h"
#include "launch.h"

namespace dsa_fast {
namespace {

// Rows of a column that a thread walks, at most: enough to use each of a head's rows several times. Fewer where a GPU
// would have few threads: a walk of one row takes twice the instructions for it, but no thread waits for 15 others.
constexpr uint32_t kBand = 16;
// Threads for an instance's box, which may be as large as its image but is mostly much smaller. In a large box, a
// thread walks several columns. Few blocks are idle.
constexpr int64_t kBoxThreads = int64_t{64} * kThreads;

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

// The two rows of a head around a pixel, blended along x, kept while a thread walks down a column. Channels count at
// compile time, so that they stay in registers.
template <typename T, int kChannels>
struct HeadRows {
  int32_t above_row = -1, below_row = -1;
  float above[kChannels], below[kChannels];

  DSA_FAST_DEVICE void load(const Head& head, const T* instance, int32_t row, const Sample& x, float* into) {
    const T* left = instance + row * head.stride[2] + x.i0 * head.stride[3];
    const T* right = instance + row * head.stride[2] + x.i1 * head.stride[3];
    DSA_FAST_UNROLL
    for (int c = 0; c < kChannels; ++c) {
      into[c] = blend(to_float(left[c * head.stride[1]]), x.w0, to_float(right[c * head.stride[1]]), x.w1);
    }
  }

  DSA_FAST_DEVICE void move_to(const Head& head, const T* instance, const Sample& y, const Sample& x) {
    if (y.i0 == above_row && y.i1 == below_row) return;
    if (y.i0 == below_row) {
      DSA_FAST_UNROLL
      for (int c = 0; c < kChannels; ++c) above[c] = below[c];
    } else {
      load(head, instance, y.i0, x, above);
    }
    above_row = y.i0;
    below_row = y.i1;
    if (y.i1 == y.i0) {
      DSA_FAST_UNROLL
      for (int c = 0; c < kChannels; ++c) below[c] = above[c];
    } else {
      load(head, instance, y.i1, x, below);
    }
  }

  DSA_FAST_DEVICE float at(int c, const Sample& y) const { return blend(above[c], y.w0, below[c], y.w1); }
};

// read_pixel for the pixels of a column, from top to bottom. kCoarse is K, or 0 for any K: the coarse head is then read
// anew for each pixel.
template <typename T, int kCoarse>
struct Column {
  HeadRows<T, kCoarse == 0 ? 1 : kCoarse> coarse;
  HeadRows<T, kFineChannels> fine;

  DSA_FAST_DEVICE bool is_person(const Charts& charts, int64_t n, const Sample& y, const Sample& x) {
    const T* instance = instance_of<T>(charts.coarse, n);
    bool person = false;
    if constexpr (kCoarse == 0) {
      const float background = resampled(instance, charts.coarse, y, x);
      for (int64_t c = 1; c < charts.K; ++c) {
        person |= beats(resampled(instance + c * charts.coarse.stride[1], charts.coarse, y, x), background);
      }
    } else {
      coarse.move_to(charts.coarse, instance, y, x);
      const float background = coarse.at(0, y);
      DSA_FAST_UNROLL
      for (int c = 1; c < kCoarse; ++c) person |= beats(coarse.at(c, y), background);
    }
    return person;
  }

  DSA_FAST_DEVICE ChartPixel read(const Charts& charts, int64_t n, const Sample& y, const Sample& x) {
    if (!is_person(charts, n, y, x)) return {0, 0.0f, 0.0f};
    fine.move_to(charts.fine, instance_of<T>(charts.fine, n), y, x);
    float highest = fine.at(0, y);
    int32_t part = 0;
    DSA_FAST_UNROLL
    for (int c = 1; c < kFineChannels; ++c) {
      const float value = fine.at(c, y);
      const bool better = beats(value, highest);
      highest = better ? value : highest;
      part = better ? c : part;
    }
    if (part == 0) return {0, 0.0f, 0.0f};
    return {part, resampled(instance_of<T>(charts.u, n) + part * charts.u.stride[1], charts.u, y, x),
            resampled(instance_of<T>(charts.v, n) + part * charts.v.stride[1], charts.v, y, x)};
  }
};

// entry[n, texel]: for kLast the last raster index of its pixels plus one, starting at 0; for kMean the head of their
// chain, starting at -1. chain[n, pixel], for kMean: the next pixel on the same texel; -1 ends it.
// share: the threads of an instance that keep the GPU busy.
template <typename T, int kCoarse>
__global__ void DSA_FAST_THREADS(kThreads) label_charts(Charts charts, int64_t height, int64_t width, int64_t images,
                                                        int32_t size, Reduce reduce, uint32_t share,
                                                        const int64_t* image_index,  // [N]
                                                        int32_t* entry,              // [N, 24 * S * S]
                                                        int32_t* chain) {            // [N, H * W] or null
  const int32_t cells = size * size;
  FOR_EACH_ITEM(n, charts.N) {
    if (image_index[n] < 0 || image_index[n] >= images) continue;
    const Box box = box_of(charts.boxes + 4 * n);
    const Visible rows = visible(box.y, box.h, height), columns = visible(box.x, box.w, width);
    const uint32_t down = static_cast<uint32_t>(rows.end - rows.begin);
    const uint32_t across = static_cast<uint32_t>(columns.end - columns.begin);
    const uint32_t wanted = (down * across + share - 1) / share;
    const uint32_t height_of_band = wanted < 1 ? 1 : (wanted < kBand ? wanted : kBand);
    FOR_EACH_ELEMENT(k, int64_t{(down + height_of_band - 1) / height_of_band} * across) {
      const int64_t band = rows.begin + static_cast<uint32_t>(k) / across * height_of_band;
      const int64_t band_end = band + height_of_band < rows.end ? band + height_of_band : rows.end;
      const int64_t column = columns.begin + static_cast<uint32_t>(k) % across;
      const Sample x = sample_of(column, charts.w, box.w);
      Column<T, kCoarse> walk;
      for (int64_t row = band; row < band_end; ++row) {
        const ChartPixel pixel = walk.read(charts, n, sample_of(row, charts.h, box.h), x);
        const Texel texel = texel_of(static_cast<float>(pixel.part), pixel.u, pixel.v, size);
        if (texel.part < 0) continue;
        int32_t* target = entry + n * kParts * cells + texel.part * cells + texel.cell;
        const int32_t raster = static_cast<int32_t>((box.y + row) * width + box.x + column);
        if (reduce == Reduce::kLast) {
          atomicMax(target, raster + 1);
        } else {
          chain[n * height * width + raster] = atomicExch(target, raster);
        }
      }
    }
  }
}

// The gather of uint8 photos by winners: a block writes its parts as in block.h, from a table in scratch memory.
template <int kChannels, typename Out>
__global__ void DSA_FAST_THREADS(kThreads, 2)
    gather_winners(BytePhotos photos, int64_t images, int64_t instances, int32_t size, int64_t channels,
                   int64_t c_begin, int64_t c_end, PairFill<Out> fill,
                   const int64_t* image_index,  // [N]
                   const int32_t* entry,        // [N, 24 * S * S]
                   Out* out) {                  // [N, 24, C, S, S]
  const OwnedParts owned = owned_parts(size);
  FOR_EACH_ITEM(n, instances) {
    const int64_t image = image_index[n] < 0 || image_index[n] >= images ? 0 : image_index[n];  // without winners
    write_winners<kThreads, kChannels>(entry + (n * kParts + owned.first - 1) * owned.cells, owned,
                                       photos.data + image * photos.image, photos.plane, channels, c_begin, c_end, fill,
                                       out + n * kParts * channels * owned.cells);
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
__global__ void gather_texels(Photo photos, int64_t instances, int32_t size, Reduce reduce, Fill<Out> fill,
                              int64_t c_begin, int64_t c_end,
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
      int32_t first = entry[n * texels + t] - (reduce == Reduce::kLast ? 1 : 0);
      const int64_t part = static_cast<int32_t>(t) / cells;
      Out* target = out + (n * kParts + part) * photos.C * cells + static_cast<int32_t>(t) % cells;
      // Sums of integers do not depend on their order; the first launch sorts for all channels.
      if (reduce == Reduce::kMean && !std::is_same_v<In, uint8_t> && c_begin == 0 && first >= 0) {
        first = sort_chain(first, next);
        entry[n * texels + t] = first;
      }
      if (first < 0) {
        for (int64_t c = c_begin; c < c_end; ++c) target[c * cells] = fill.at(c - c_begin);
        continue;
      }
      if (reduce == Reduce::kLast) {
        const In* from = pixel_of<In>(photos, image, first);
        for (int64_t c = c_begin; c < c_end; ++c) target[c * cells] = convert<Out>(from[c * photos.stride[1]]);
        continue;
      }
      for (int64_t begin = c_begin; begin < c_end; begin += kAtOnce) {
        SumOf<In> sum[kAtOnce] = {};
        int32_t count = 0;
        for (int32_t pixel = first; pixel >= 0; pixel = next[pixel]) {
          const In* from = pixel_of<In>(photos, image, pixel);
          DSA_FAST_UNROLL
          for (int64_t c = 0; c < kAtOnce; ++c) {
            if (begin + c < c_end) sum[c] += to_sum(from[(begin + c) * photos.stride[1]]);
          }
          ++count;
        }
        DSA_FAST_UNROLL
        for (int64_t c = 0; c < kAtOnce; ++c) {
          if (begin + c < c_end) target[(begin + c) * cells] = convert<Out>(mean_of<In>(sum[c], count));
        }
      }
    }
  }
}

int64_t texels_of(const WarpDensePoseArgs& args) { return kParts * args.S * args.S; }

// Whether gather_winners can write the result.
bool has_block_gather(const WarpDensePoseArgs& args, const int32_t* entry) {
  return args.reduce == Reduce::kLast && args.img_dtype == DType::kUInt8 && args.out_dtype != DType::kFloat64 &&
         is_block_size(args.S) && is_dense(args.img_stride, args.H, args.W) && is_aligned(entry, sizeof(Words4)) &&
         is_aligned(args.out, 4 * bytes_of_block_type(args.out_dtype));
}

void label(const WarpDensePoseArgs& args, int32_t* entry, int32_t* chain, cudaStream_t stream) {
  if (args.charts.N == 0) return;
  // At 128 registers, two blocks fit on a multiprocessor.
  const int64_t busy = int64_t{2} * kThreads * device_limits().multiprocessors;
  const int64_t share = std::clamp<int64_t>(busy / args.charts.N, 1, std::numeric_limits<int32_t>::max());
  const int64_t walks = std::min((args.H + kBand - 1) / kBand * args.W, kBoxThreads);  // of a box like its image
  const int64_t threads = std::min(args.H * args.W, std::max(walks, share));
  NetworkTypes::visit(args.charts.dtype, [&](auto tag) {
    using T = TypeOf<decltype(tag)>;
    const auto run = [&](auto kernel) {
      launch(kernel, threads, args.charts.N, stream, args.charts, args.H, args.W, args.B, static_cast<int32_t>(args.S),
             args.reduce, static_cast<uint32_t>(share), args.image_index, entry, chain);
    };
    if (args.charts.K == 2) {  // detectron2's models have 2 or 15
      run(label_charts<T, 2>);
    } else if (args.charts.K == 15) {
      run(label_charts<T, 15>);
    } else {
      run(label_charts<T, 0>);
    }
  });
}

void gather(const WarpDensePoseArgs& args, int32_t* entry, int32_t* chain, cudaStream_t stream) {
  const int64_t instances = args.charts.N;
  const int32_t size = static_cast<int32_t>(args.S);
  if (has_block_gather(args, entry)) {
    const BytePhotos photos{static_cast<const uint8_t*>(args.img), args.img_stride[0], args.img_stride[1]};
    BlockTypes::visit(args.out_dtype, [&](auto tag) {
      using Out = TypeOf<decltype(tag)>;
      for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& fill, int64_t c_begin, int64_t c_end) {
        launch(args.C == 3 ? gather_winners<3, Out> : gather_winners<0, Out>, kParts * kThreads, instances, stream,
               photos, args.B, instances, size, args.C, c_begin, c_end, pairs_of(fill), args.image_index, entry,
               static_cast<Out*>(args.out));
      });
    });
    return;
  }
  Photo photos{args.img, {}, args.B, args.C, args.H, args.W};
  std::copy_n(args.img_stride, 4, photos.stride);
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    using Out = TypeOf<decltype(out)>;
    for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& fill, int64_t c_begin, int64_t c_end) {
      launch(gather_texels<TypeOf<decltype(in)>, Out>, texels_of(args), instances, stream, photos, instances, size,
             args.reduce, fill, c_begin, c_end, args.image_index, entry, chain, static_cast<Out*>(args.out));
    });
  });
}

}  // namespace

int64_t warp_densepose_cuda_scratch(const WarpDensePoseArgs& args) {
  const int64_t chain = args.reduce == Reduce::kMean ? args.H * args.W : 0;
  return args.charts.N * (texels_of(args) + chain);
}

int warp_densepose_cuda(const WarpDensePoseArgs& args, int32_t* scratch, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int64_t entries = args.charts.N * texels_of(args);
  if (entries == 0) return cudaSuccess;
  const bool last = args.reduce == Reduce::kLast;
  int32_t* chain = last ? nullptr : scratch + entries;
  const cudaError_t error =
      cleared(cudaMemsetAsync(scratch, last ? 0 : 0xff, sizeof(int32_t) * static_cast<size_t>(entries), stream));
  if (error != cudaSuccess) return error;
  label(args, scratch, chain, stream);
  gather(args, scratch, chain, stream);
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
