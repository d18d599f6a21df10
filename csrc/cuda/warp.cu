// warp on CUDA; ../warp.h defines the results.
//
// Uint8 photos and maps take one launch of blocks that keep their texels in shared memory (block.h). All else takes
// several launches over a table in scratch memory.
//
// Threads race for a texel, but only through integer maxima and sums, whose result does not depend on their order:
//   last: atomicMax of the pixels' raster indexes leaves each texel its winner; a gather then writes every texel once.
//   mean of bytes in shared memory: integer sums and counts.
//   mean in scratch memory: each texel lists its pixels in its own segment. The position of a segment and the order
//         within it depend on the race; floating point segments are sorted before they are summed.
#include "../warp.h"

#include <algorithm>

#include "block.h"
#include "gather.h"
#include "launch.h"

namespace dsa_fast {
namespace {

// ---- in shared memory ----------------------------------------------------------------------------------------------

// kChannels: as for write_winners.
template <int kBlockThreads, int kChannels, typename Out>
__global__ void DSA_FAST_THREADS(kBlockThreads, kManyThreads / kBlockThreads)
    warp_last(WordMaps maps, BytePhotos photos, int64_t images, int32_t size, int64_t channels, int64_t c_begin,
              int64_t c_end, PairFill<Out> fill,
              Out* out) {  // [B, 24, C, S, S]
  DSA_FAST_DYNAMIC_SHARED(int32_t, table);
  const uint32_t address = shared_address(table);
  const OwnedParts owned = owned_parts(size);
  FOR_EACH_ITEM(b, images) {
    clear_table<kBlockThreads>(table, owned.count * owned.cells);
    __syncthreads();
    scan_words<kBlockThreads>(maps, b, owned, [&](uint32_t word, uint32_t parts, uint32_t u, uint32_t v) {
      for_each_pixel(parts, u, v, owned, [&](int k, uint32_t part, uint32_t cell) {
        raise_owned(table, address, part * owned.cells + cell, static_cast<int32_t>(4 * word + 1) + k, part,
                    owned.count);
      });
    });
    __syncthreads();
    write_winners<kBlockThreads, kChannels>(table, owned, photos.data + b * photos.image, photos.plane, channels,
                                            c_begin, c_end, fill, out + b * kParts * channels * owned.cells);
    __syncthreads();
  }
}

constexpr int kMeanChannels = 3;  // at most

template <int kBlockThreads, typename Out>
__global__ void DSA_FAST_THREADS(kBlockThreads, kManyThreads / kBlockThreads)
    warp_mean(WordMaps maps, BytePhotos photos, int64_t images, int32_t size, int32_t channels, PairFill<Out> fill,
              Out* out) {                   // [B, 24, C, S, S]
  DSA_FAST_DYNAMIC_SHARED(int32_t, table);  // a plane of sums for each channel, and one of counts
  const OwnedParts owned = owned_parts(size);
  const uint32_t texels = owned.count * owned.cells;
  const int32_t* counts = table + channels * texels;
  FOR_EACH_ITEM(b, images) {
    clear_table<kBlockThreads>(table, (static_cast<uint32_t>(channels) + 1) * texels);
    __syncthreads();
    const uint8_t* photo = photos.data + b * photos.image;
    scan_words<kBlockThreads>(maps, b, owned, [&](uint32_t word, uint32_t parts, uint32_t u, uint32_t v) {
      uint32_t values[kMeanChannels];
      DSA_FAST_UNROLL
      for (int c = 0; c < kMeanChannels; ++c) {
        values[c] = c < channels ? read_word(photo + c * photos.plane + 4 * static_cast<int64_t>(word)) : 0;
      }
      for_each_pixel(parts, u, v, owned, [&](int k, uint32_t part, uint32_t cell) {
        if (part >= owned.count) return;
        int32_t* sums = table + part * owned.cells + cell;
        DSA_FAST_UNROLL
        for (int c = 0; c < kMeanChannels; ++c) {
          if (c < channels) atomicAdd(sums + c * texels, static_cast<int32_t>(values[c] >> (8 * k) & 0xff));
        }
        atomicAdd(sums + channels * texels, 1);
      });
    });
    __syncthreads();
    Out* image_out = out + b * kParts * channels * owned.cells;
    for_each_four_texels<kBlockThreads>(owned, channels, image_out, [&](uint32_t texel, Out* target) {
      const Words4 count = *reinterpret_cast<const Words4*>(counts + texel);
      const bool any = (count.w[0] | count.w[1] | count.w[2] | count.w[3]) != 0;
      const PairBits<Out> low_mask = pair_mask<Out>(count.w[0] != 0, count.w[1] != 0);
      const PairBits<Out> high_mask = pair_mask<Out>(count.w[2] != 0, count.w[3] != 0);
      for (int c = 0; c < channels; ++c) {
        PairBits<Out> low = static_cast<PairBits<Out>>(fill.pair[c]), high = low;
        if (any) {
          const Words4 sum = *reinterpret_cast<const Words4*>(table + c * texels + texel);
          const auto mean = [&](int k) {  // a sum may have 32 bits
            return convert<Out>(static_cast<float>(static_cast<uint32_t>(sum.w[k])) / static_cast<float>(count.w[k]));
          };
          low = either<Out>(low_mask, pair_of(mean(0), mean(1)), low);
          high = either<Out>(high_mask, pair_of(mean(2), mean(3)), high);
        }
        store_pairs(target + c * static_cast<int64_t>(owned.cells), low, high);
      }
    });
    __syncthreads();
  }
}

// How blocks share the images; no blocks where the kernels below must do it.
BlockPlan plan_of(const WarpArgs& args) {
  const IuvMap& map = args.iuv;
  const int64_t pixels = map.H * map.W;
  const bool last = args.reduce == Reduce::kLast;
  if (args.img_dtype != DType::kUInt8 || map.dtype != DType::kUInt8 || args.out_dtype == DType::kFloat64 ||
      args.C == 0 || !is_block_size(args.S) || !has_words(map.data, map.stride, map.B, map.H, map.W)) {
    return {};
  }
  if (!is_aligned(args.out, 4 * bytes_of_block_type(args.out_dtype))) return {};
  if (last) {
    if (!is_dense(args.img_stride, map.H, map.W)) return {};
    return plan_blocks(map.B, pixels, args.S, 1);
  }
  constexpr int64_t kPixels = int64_t{1} << 24;  // their sum has 32 bits
  if (args.C > kMeanChannels || pixels > kPixels || !has_words(args.img, args.img_stride, map.B, map.H, map.W)) {
    return {};
  }
  return plan_blocks(map.B, pixels, args.S, args.C + 1);
}

template <typename Out>
cudaError_t run_blocks(const WarpArgs& args, const BlockPlan& plan, cudaStream_t stream) {
  const IuvMap& map = args.iuv;
  const WordMaps maps{static_cast<const uint8_t*>(map.data), map.stride[0], map.stride[1],
                      static_cast<uint32_t>(map.H * map.W / 4)};
  const BytePhotos photos{static_cast<const uint8_t*>(args.img), args.img_stride[0], args.img_stride[1]};
  const int32_t size = static_cast<int32_t>(args.S);
  Out* out = static_cast<Out*>(args.out);
  cudaError_t error = cudaSuccess;
  for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& chunk, int64_t c_begin, int64_t c_end) {
    const PairFill<Out> fill = pairs_of(chunk);
    const auto launch = [&](auto threads) {
      constexpr int kBlockThreads = decltype(threads)::value;
      if (args.reduce == Reduce::kMean) {
        return launch_blocks<warp_mean<kBlockThreads, Out>>(plan, map.B, stream, maps, photos, map.B, size,
                                                            static_cast<int32_t>(args.C), fill, out);
      }
      if (args.C == 3) {
        return launch_blocks<warp_last<kBlockThreads, 3, Out>>(plan, map.B, stream, maps, photos, map.B, size, args.C,
                                                               c_begin, c_end, fill, out);
      }
      return launch_blocks<warp_last<kBlockThreads, 0, Out>>(plan, map.B, stream, maps, photos, map.B, size, args.C,
                                                             c_begin, c_end, fill, out);
    };
    if (error != cudaSuccess) return;
    error = plan.many_threads ? launch(std::integral_constant<int, kManyThreads>{})
                              : launch(std::integral_constant<int, kFewThreads>{});
  });
  return error;
}

// ---- in scratch memory ---------------------------------------------------------------------------------------------

// entry[b, texel]: the last raster index (kLast; starts at -1) or the number (kMean; starts at 0) of its pixels.
// texel_map[b, pixel], where wanted: the pixel's texel, -1 for background.
template <typename T>
__global__ void label_pixels(IuvMap map, int32_t size, Reduce reduce,
                             int32_t* entry,        // [B, 24 * S * S]
                             int32_t* texel_map) {  // [B, H * W] or null
  const int32_t cells = size * size;
  const int64_t pixels = map.H * map.W;
  FOR_EACH_ITEM(b, map.B) {
    FOR_EACH_ELEMENT(pixel, pixels) {
      const uint32_t y = static_cast<uint32_t>(pixel) / static_cast<uint32_t>(map.W);
      const uint32_t x = static_cast<uint32_t>(pixel) % static_cast<uint32_t>(map.W);
      const T* i = static_cast<const T*>(map.data) + b * map.stride[0] + y * map.stride[2] + x * map.stride[3];
      const Texel texel = texel_of(i[0], i[map.stride[1]], i[2 * map.stride[1]], size);
      const int32_t t = texel.part < 0 ? -1 : texel.part * cells + texel.cell;
      if (texel_map != nullptr) texel_map[b * pixels + pixel] = t;
      if (t < 0) continue;
      int32_t* target = entry + b * kParts * cells + t;
      if (reduce == Reduce::kLast) {
        atomicMax(target, static_cast<int32_t>(pixel));
      } else {
        atomicAdd(target, 1);
      }
    }
  }
}

// Writes channels c_begin <= c < c_end of every texel. A thread owns a texel; neighbors write neighbors.
template <typename In, typename Out>
__global__ void gather_last(Photo photo, int32_t size, Fill<Out> fill, int64_t c_begin, int64_t c_end,
                            const int32_t* winner,  // [B, 24 * S * S]
                            Out* out) {             // [B, 24, C, S, S]
  const int32_t cells = size * size;
  const int32_t texels = kParts * cells;
  FOR_EACH_ITEM(b, photo.B) {
    FOR_EACH_ELEMENT(t, texels) {
      const int32_t pixel = winner[b * texels + t];
      const int64_t part = static_cast<int32_t>(t) / cells;
      Out* target = out + (b * kParts + part) * photo.C * cells + static_cast<int32_t>(t) % cells;
      if (pixel < 0) {
        for (int64_t c = c_begin; c < c_end; ++c) target[c * cells] = fill.at(c - c_begin);
      } else {
        const In* from = pixel_of<In>(photo, b, pixel);
        for (int64_t c = c_begin; c < c_end; ++c) target[c * cells] = convert<Out>(from[c * photo.stride[1]]);
      }
    }
  }
}

// Gives each texel that has pixels a segment of its image's list of slots; next[b, texel] is its first slot.
__global__ void allot_segments(int64_t images, int32_t texels,
                               const int32_t* count,  // [B, 24 * S * S]
                               int32_t* cursor,       // [B], zeros
                               int32_t* next) {       // [B, 24 * S * S]
  FOR_EACH_ITEM(b, images) {
    FOR_EACH_ELEMENT(t, texels) {
      const int32_t n = count[b * texels + t];
      if (n > 0) next[b * texels + t] = atomicAdd(cursor + b, n);
    }
  }
}

// Lists each pixel in its texel's segment; next[b, texel] then is the segment's end.
__global__ void list_pixels(int64_t images, int64_t pixels, int32_t texels,
                            const int32_t* texel_map,  // [B, H * W]
                            int32_t* next,             // [B, 24 * S * S]
                            int32_t* slots) {          // [B, H * W]
  FOR_EACH_ITEM(b, images) {
    FOR_EACH_ELEMENT(pixel, pixels) {
      const int32_t t = texel_map[b * pixels + pixel];
      if (t >= 0) slots[b * pixels + atomicAdd(next + b * texels + t, 1)] = static_cast<int32_t>(pixel);
    }
  }
}

// Heapsort: in place, and n log n even where all pixels meet in one texel.
DSA_FAST_HD void sort_ascending(int32_t* x, int32_t n) {
  for (int32_t start = n / 2, end = n; end > 1;) {
    if (start > 0) {
      --start;  // still making the heap
    } else {
      --end;  // the largest goes behind it
      const int32_t largest = x[0];
      x[0] = x[end];
      x[end] = largest;
    }
    const int32_t value = x[start];
    int64_t root = start;
    for (int64_t child; (child = 2 * root + 1) < end; root = child) {
      if (child + 1 < end && x[child + 1] > x[child]) ++child;
      if (x[child] <= value) break;
      x[root] = x[child];
    }
    x[root] = value;
  }
}

// Puts every segment into raster order.
__global__ void sort_segments(int64_t images, int64_t pixels, int32_t texels,
                              const int32_t* count,  // [B, 24 * S * S]
                              const int32_t* next,   // [B, 24 * S * S]
                              int32_t* slots) {      // [B, H * W]
  FOR_EACH_ITEM(b, images) {
    FOR_EACH_ELEMENT(t, texels) {
      const int32_t n = count[b * texels + t];
      if (n > 1) sort_ascending(slots + b * pixels + (next[b * texels + t] - n), n);
    }
  }
}

template <typename In, typename Out>
__global__ void gather_mean(Photo photo, int32_t size, Fill<Out> fill, int64_t c_begin, int64_t c_end,
                            const int32_t* count,  // [B, 24 * S * S]
                            const int32_t* next,   // [B, 24 * S * S]
                            const int32_t* slots,  // [B, H * W]
                            Out* out) {            // [B, 24, C, S, S]
  const int32_t cells = size * size;
  const int32_t texels = kParts * cells;
  const int64_t pixels = photo.H * photo.W;
  FOR_EACH_ITEM(b, photo.B) {
    FOR_EACH_ELEMENT(t, texels) {
      const int32_t n = count[b * texels + t];
      const int32_t* segment = n == 0 ? slots : slots + b * pixels + (next[b * texels + t] - n);
      const int64_t part = static_cast<int32_t>(t) / cells;
      Out* target = out + (b * kParts + part) * photo.C * cells + static_cast<int32_t>(t) % cells;
      if (n == 0) {
        for (int64_t c = c_begin; c < c_end; ++c) target[c * cells] = fill.at(c - c_begin);
        continue;
      }
      for (int64_t first = c_begin; first < c_end; first += kAtOnce) {
        SumOf<In> sum[kAtOnce] = {};
        for (int32_t k = 0; k < n; ++k) {
          const In* from = pixel_of<In>(photo, b, segment[k]);
          DSA_FAST_UNROLL
          for (int64_t c = 0; c < kAtOnce; ++c) {
            if (first + c < c_end) sum[c] += to_sum(from[(first + c) * photo.stride[1]]);
          }
        }
        DSA_FAST_UNROLL
        for (int64_t c = 0; c < kAtOnce; ++c) {
          if (first + c < c_end) target[(first + c) * cells] = convert<Out>(mean_of<In>(sum[c], n));
        }
      }
    }
  }
}

struct DsapGrad {
  const void* data;  // [B, 24, C, S, S]
  int64_t stride[5];
};

template <typename Grad, typename Img>
__global__ void gather_backward(DsapGrad grad, Reduce reduce, int64_t images, int64_t channels, int64_t pixels,
                                int32_t size,
                                const int32_t* entry,      // [B, 24 * S * S]: the winner, or the count
                                const int32_t* texel_map,  // [B, H * W]
                                Img* grad_img) {           // [B, C, H, W]
  const int32_t cells = size * size;
  const bool last = reduce == Reduce::kLast;
  FOR_EACH_ITEM(b, images) {
    FOR_EACH_ELEMENT(pixel, pixels) {
      const int32_t t = texel_map[b * pixels + pixel];
      const int32_t n = t < 0 ? 0 : entry[b * kParts * cells + t];
      Img* target = grad_img + b * channels * pixels + pixel;
      if (t < 0 || (last && n != pixel)) {
        for (int64_t c = 0; c < channels; ++c) target[c * pixels] = convert<Img>(0.0f);
        continue;
      }
      const int32_t cell = t % cells;
      const Grad* from = static_cast<const Grad*>(grad.data) + b * grad.stride[0] + t / cells * grad.stride[1] +
                         cell / size * grad.stride[3] + cell % size * grad.stride[4];
      for (int64_t c = 0; c < channels; ++c) {
        const Grad value = from[c * grad.stride[2]];
        target[c * pixels] = last ? convert<Img>(value) : convert<Img>(widen(value) / static_cast<Wide<Grad>>(n));
      }
    }
  }
}

int64_t texels_of(int64_t size) { return kParts * size * size; }

cudaError_t label(const IuvMap& map, int64_t size, Reduce reduce, int32_t* entry, int32_t* texel_map,
                  cudaStream_t stream) {
  const size_t bytes = sizeof(int32_t) * static_cast<size_t>(map.B * texels_of(size));
  if (bytes > 0) {
    const int start = reduce == Reduce::kLast ? 0xff : 0;  // -1 or 0
    const cudaError_t error = cleared(cudaMemsetAsync(entry, start, bytes, stream));
    if (error != cudaSuccess) return error;
  }
  IuvTypes::visit(map.dtype, [&](auto tag) {
    launch(label_pixels<TypeOf<decltype(tag)>>, map.H * map.W, map.B, stream, map, static_cast<int32_t>(size), reduce,
           entry, texel_map);
  });
  return cudaGetLastError();
}

}  // namespace

int64_t warp_cuda_scratch(const WarpArgs& args) {
  if (plan_of(args).blocks > 0) return 0;
  const int64_t texels = texels_of(args.S);
  if (args.reduce == Reduce::kLast) return args.iuv.B * texels;        // winner
  return args.iuv.B * (2 * texels + 2 * args.iuv.H * args.iuv.W + 1);  // count, next, texel map, slots, cursor
}

int warp_cuda(const WarpArgs& args, int32_t* scratch, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int64_t images = args.iuv.B;
  const int64_t pixels = args.iuv.H * args.iuv.W;
  const int32_t texels = static_cast<int32_t>(texels_of(args.S));
  const int32_t size = static_cast<int32_t>(args.S);
  const BlockPlan plan = plan_of(args);
  if (plan.blocks > 0) {
    return BlockTypes::visit(args.out_dtype,
                             [&](auto out) { return run_blocks<TypeOf<decltype(out)>>(args, plan, stream); });
  }
  Photo photo{args.img, {}, images, args.C, args.iuv.H, args.iuv.W};
  std::copy_n(args.img_stride, 4, photo.stride);

  if (args.reduce == Reduce::kLast) {
    int32_t* winner = scratch;
    const cudaError_t error = label(args.iuv, args.S, args.reduce, winner, nullptr, stream);
    if (error != cudaSuccess) return error;
    AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
      using Out = TypeOf<decltype(out)>;
      for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& fill, int64_t c_begin, int64_t c_end) {
        launch(gather_last<TypeOf<decltype(in)>, Out>, texels, images, stream, photo, size, fill, c_begin, c_end,
               winner, static_cast<Out*>(args.out));
      });
    });
    return cudaGetLastError();
  }

  int32_t* count = scratch;
  int32_t* next = count + images * texels;
  int32_t* texel_map = next + images * texels;
  int32_t* slots = texel_map + images * pixels;
  int32_t* cursor = slots + images * pixels;
  cudaError_t error = label(args.iuv, args.S, args.reduce, count, texel_map, stream);
  if (error != cudaSuccess) return error;
  if (images > 0) {
    error = cleared(cudaMemsetAsync(cursor, 0, sizeof(int32_t) * static_cast<size_t>(images), stream));
    if (error != cudaSuccess) return error;
  }
  launch(allot_segments, texels, images, stream, images, texels, count, cursor, next);
  launch(list_pixels, pixels, images, stream, images, pixels, texels, texel_map, next, slots);
  if (args.img_dtype != DType::kUInt8) {  // sums of integers do not depend on their order
    launch(sort_segments, texels, images, stream, images, pixels, texels, count, next, slots);
  }
  AnyTypes::visit(args.img_dtype, args.out_dtype, [&](auto in, auto out) {
    using Out = TypeOf<decltype(out)>;
    for_each_channel_chunk<Out>(args.fill, args.C, [&](const Fill<Out>& fill, int64_t c_begin, int64_t c_end) {
      launch(gather_mean<TypeOf<decltype(in)>, Out>, texels, images, stream, photo, size, fill, c_begin, c_end, count,
             next, slots, static_cast<Out*>(args.out));
    });
  });
  return cudaGetLastError();
}

int warp_count_cuda(const CountArgs& args, void* stream) {
  return label(args.iuv, args.S, Reduce::kMean, args.count, nullptr, static_cast<cudaStream_t>(stream));
}

int64_t warp_backward_cuda_scratch(const WarpBackwardArgs& args) {
  return args.iuv.B * (texels_of(args.S) + args.iuv.H * args.iuv.W);  // winner or count, texel map
}

int warp_backward_cuda(const WarpBackwardArgs& args, int32_t* scratch, void* stream_handle) {
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  const int64_t images = args.iuv.B;
  const int64_t pixels = args.iuv.H * args.iuv.W;
  int32_t* entry = scratch;
  int32_t* texel_map = entry + images * texels_of(args.S);
  const cudaError_t error = label(args.iuv, args.S, args.reduce, entry, texel_map, stream);
  if (error != cudaSuccess) return error;
  DsapGrad dsap_grad{args.grad, {}};
  std::copy_n(args.grad_stride, 5, dsap_grad.stride);
  GradientTypes::visit(args.grad_dtype, args.grad_img_dtype, [&](auto grad, auto img) {
    using Img = TypeOf<decltype(img)>;
    launch(gather_backward<TypeOf<decltype(grad)>, Img>, pixels, images, stream, dsap_grad, args.reduce, images, args.C,
           pixels, static_cast<int32_t>(args.S), entry, texel_map, static_cast<Img*>(args.grad_img));
  });
  return cudaGetLastError();
}

}  // namespace dsa_fast
