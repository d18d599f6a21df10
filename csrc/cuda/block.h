// Blocks that own some parts of one image and keep their texels in shared memory.
//
// An image is shared by k blocks, each of which owns 24 / k neighboring parts. Each of them reads the image's whole
// map, enters the pixels of its own parts into its table, and then writes its texels: one launch, no scratch, and every
// texel is written once. A table holds one or several planes of int32 [parts, S * S].
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../dtype.h"
#include "../texel.h"
#include "gather.h"
#include "launch.h"

namespace dsa_fast {

// ---- how many blocks -----------------------------------------------------------------------------------------------

// What the current device offers. All 0 where the runtime does not tell: no table then fits.
struct DeviceLimits {
  int device = -1;
  int multiprocessors = 0;
  int block_shared = 0;           // bytes of shared memory that a block may ask for
  int multiprocessor_shared = 0;  // bytes of shared memory of a multiprocessor
};

// Asks once a thread, as long as it stays on one device.
inline DeviceLimits device_limits() {
  thread_local DeviceLimits known;
  DeviceLimits now;
  if (cleared(cudaGetDevice(&now.device)) != cudaSuccess) return {};
  if (now.device == known.device) return known;
  const auto ask = [&](int* value, cudaDeviceAttr attribute) {
    return cleared(cudaDeviceGetAttribute(value, attribute, now.device)) == cudaSuccess;
  };
  if (!ask(&now.multiprocessors, cudaDevAttrMultiProcessorCount) ||
      !ask(&now.block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin) ||
      !ask(&now.multiprocessor_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor)) {
    return {};
  }
  return known = now;
}

// Threads of a block: few where several blocks fit on a multiprocessor, many where one must keep it busy. On a CPU
// there are fewer, so that small tests run all loops.
#if defined(__CUDACC__)
constexpr int kFewThreads = 512, kManyThreads = 1024;
#else
constexpr int kFewThreads = 16, kManyThreads = 32;
#endif

struct BlockPlan {
  int32_t blocks = 0;  // of an image: each owns 24 / blocks parts; 0: kernels without shared memory are better
  bool many_threads = false;
  size_t shared = 0;  // bytes of a block's table
};

// Chooses by the number of warp instructions on the busiest multiprocessor, as counted in compiled code for sm_90.
// `planes` are those of the table.
inline BlockPlan plan_blocks(int64_t images, int64_t pixels, int64_t size, int64_t planes) {
  const DeviceLimits limits = device_limits();
  if (images == 0 || limits.multiprocessors == 0) return {};
  const double image_count = static_cast<double>(images), multiprocessors = limits.multiprocessors;
  const double p = static_cast<double>(pixels), t = static_cast<double>(kParts * size * size);
  // What the kernels without shared memory take, and 20,000 for their two more launches.
  double least = image_count / multiprocessors * (4.8 * p + 7.0 * t) + 20000.0;
  BlockPlan best;
  for (const int32_t blocks : {1, 2, 3, 4, 6, 8, 12, 24}) {
    const int64_t shared = kParts / blocks * size * size * planes * static_cast<int64_t>(sizeof(int32_t));
    if (shared > limits.block_shared) continue;
    const double rounds = std::ceil(blocks * image_count / multiprocessors);
    // Each block looks at all pixels; each pixel is entered, and each texel written, by one.
    const double cost = rounds * (0.1 * p + (0.3 * p * static_cast<double>(planes) + 0.9 * t) / blocks);
    if (cost >= least) continue;
    least = cost;
    constexpr int64_t kReserved = 1024;  // by the system, in each block
    const bool alone = rounds == 1.0 || 2 * (shared + kReserved) > limits.multiprocessor_shared;
    best = {blocks, alone, static_cast<size_t>(shared)};
  }
  return best;
}

// Queues `kernel` with a table in shared memory; blocks.x is that of the plan.
template <auto kernel, typename... Args>
cudaError_t launch_blocks(const BlockPlan& plan, int64_t images, [[maybe_unused]] cudaStream_t stream, Args... args) {
  const int threads = plan.many_threads ? kManyThreads : kFewThreads;
  const dim3 grid(static_cast<unsigned>(plan.blocks),
                  static_cast<unsigned>(std::min<int64_t>(images, DSA_FAST_MAX_BLOCKS)));
  constexpr size_t kFree = size_t{48} << 10;  // more must be asked for, once on each device
  if (plan.shared > kFree) {
    static std::atomic<uint64_t> allowed{0};
    const DeviceLimits limits = device_limits();
    const uint64_t bit = limits.device < 64 ? uint64_t{1} << limits.device : 0;
    if ((allowed.load(std::memory_order_relaxed) & bit) == 0) {
      const auto set = [](cudaFuncAttribute attribute, int value) {
        return cleared(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value));
      };
      cudaError_t error = set(cudaFuncAttributeMaxDynamicSharedMemorySize, limits.block_shared);
      if (error != cudaSuccess) return error;
      // A hint: as many blocks on a multiprocessor as fit.
      error = set(cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
      if (error != cudaSuccess) return error;
      allowed.fetch_or(bit, std::memory_order_relaxed);
    }
  }
#if defined(__CUDACC__)
  kernel<<<grid, threads, plan.shared, stream>>>(args...);
#else
  run_blocks_on_cpu(kernel, grid, dim3(static_cast<unsigned>(threads)), plan.shared, args...);
#endif
  return cudaGetLastError();
}

// ---- words of bytes ------------------------------------------------------------------------------------------------

struct alignas(16) Words4 {
  int32_t w[4];
};

// Two neighboring results as one number, the first in its low bits.
template <typename T>
using PairBits = std::conditional_t<sizeof(T) == 1, uint16_t, std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>>;

// Two pairs: what a thread stores at once.
template <typename T>
struct alignas(2 * sizeof(PairBits<T>)) PairBits2 {
  PairBits<T> pair[2];
};

template <typename T>
DSA_FAST_HD PairBits<T> pair_of(T first, T second) {
  using Bits = PairBits<T>;
  if constexpr (std::is_same_v<T, uint8_t>) {
    return static_cast<Bits>(first | second << 8);
  } else if constexpr (std::is_same_v<T, float>) {
    return bits_of(first) | static_cast<Bits>(bits_of(second)) << 32;
  } else {
    return first.bits | static_cast<Bits>(second.bits) << 16;
  }
}

// The same for two bytes.
template <typename T>
DSA_FAST_HD PairBits<T> pair_of_bytes(uint32_t first, uint32_t second) {
  if constexpr (std::is_same_v<T, BFloat16>) {  // exact: a byte has 8 bits
    const uint32_t low = bits_of(static_cast<float>(first)), high = bits_of(static_cast<float>(second));
#if defined(__CUDA_ARCH__)
    return __byte_perm(low, high, 0x7632);
#else
    return low >> 16 | (high & 0xffff0000u);
#endif
  } else {
    return pair_of(convert<T>(static_cast<uint8_t>(first)), convert<T>(static_cast<uint8_t>(second)));
  }
}

// Where a pair holds results, and not the fill.
template <typename T>
DSA_FAST_HD PairBits<T> pair_mask(bool first, bool second) {
  using Bits = PairBits<T>;
  constexpr Bits kLow = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> (4 * sizeof(Bits)));
  return static_cast<Bits>((first ? kLow : Bits{0}) | (second ? static_cast<Bits>(~kLow) : Bits{0}));
}

template <typename T>
DSA_FAST_HD PairBits<T> either(PairBits<T> mask, PairBits<T> value, PairBits<T> fill) {
  return static_cast<PairBits<T>>((value & mask) | (fill & ~mask));
}

// Two bytes of x, the lower or the upper ones, in 16-bit lanes.
DSA_FAST_HD uint32_t spread(uint32_t x, int upper) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(x, 0, upper == 0 ? 0x4140 : 0x4342);
#else
  const uint32_t two = upper == 0 ? x : x >> 16;
  return (two & 0xff) | (two & 0xff00) << 8;
#endif
}

// The upper byte of each 16-bit lane.
DSA_FAST_HD uint32_t upper_bytes(uint32_t x) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(x, 0, 0x4341);
#else
  return x >> 8 & 0x00ff00ffu;
#endif
}

// The lesser of each 16-bit lane.
DSA_FAST_HD uint32_t lesser_lanes(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  return __vminu2(a, b);
#else
  const uint32_t low = std::min(a & 0xffff, b & 0xffff), high = std::min(a >> 16, b >> 16);
  return low | high << 16;
#endif
}

// small_texel_coordinate of two bytes in 16-bit lanes; last2 is size - 1 in both lanes.
DSA_FAST_HD uint32_t texel_coordinates(uint32_t two, uint32_t size, uint32_t last2) {
  const uint32_t x = two * size;  // below 2^16 in each lane
  return lesser_lanes(upper_bytes(x + 0x00010001u + upper_bytes(x)), last2);
}

// ---- the scan of a map of bytes ------------------------------------------------------------------------------------

// Uint8 maps whose planes can be read in words of four pixels.
struct WordMaps {
  const uint8_t* data;
  int64_t image, plane;  // strides, multiples of 4
  uint32_t words;        // of a plane
};

inline bool is_dense(const int64_t (&stride)[4], int64_t height, int64_t width) {
  return (width == 1 || stride[3] == 1) && (height == 1 || stride[2] == width);
}

inline bool is_aligned(const void* data, int64_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

// Whether planes of bytes [B, channels, H, W] can be read in words.
inline bool has_words(const void* data, const int64_t (&stride)[4], int64_t images, int64_t height, int64_t width) {
  return is_dense(stride, height, width) && is_aligned(data, 4) && height * width % 4 == 0 && stride[1] % 4 == 0 &&
         (images == 1 || stride[0] % 4 == 0);
}

// Pairs of texels, planes that begin with a word, coordinates in 16-bit lanes.
inline bool is_block_size(int64_t size) { return size % 2 == 0 && size <= kMaxSmallSize; }

// The parts of a block, each in S * S cells.
struct OwnedParts {
  uint32_t first, count;  // part numbers from 1
  uint32_t size, cells;
};

DSA_FAST_DEVICE OwnedParts owned_parts(int32_t size) {
  const uint32_t side = static_cast<uint32_t>(size), count = static_cast<uint32_t>(kParts) / gridDim.x;
  return {1 + blockIdx.x * count, count, side, side * side};
}

// Sets n words, a multiple of four.
template <int kBlockThreads>
DSA_FAST_DEVICE void clear_table(int32_t* table, uint32_t n) {
  for (uint32_t k = threadIdx.x; k < n / 4; k += kBlockThreads) {
    reinterpret_cast<Words4*>(table)[k] = Words4{{0, 0, 0, 0}};
  }
}

// A word that the multiprocessor does not read again.
DSA_FAST_DEVICE uint32_t read_word(const uint8_t* p) {
#if defined(__CUDA_ARCH__)
  uint32_t x;
  asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
#else
  return *reinterpret_cast<const uint32_t*>(p);
#endif
}

DSA_FAST_DEVICE uint32_t read_byte(const uint8_t* p) {
#if defined(__CUDA_ARCH__)
  return __ldg(p);
#else
  return *p;
#endif
}

// Whether any of the four bytes may be an owned part. Exact for bytes below 128.
DSA_FAST_HD bool any_owned(uint32_t parts, const OwnedParts& owned) {
  const uint32_t above = (parts | 0x80808080u) - owned.first * 0x01010101u;
  return (above & ~(above - owned.count * 0x01010101u) & 0x80808080u) != 0;
}

// Calls enter(word, I, U, V) for each word of an image's map that may have a pixel of an owned part. Several words of a
// thread are on their way at once.
template <int kBlockThreads, typename F>
DSA_FAST_DEVICE void scan_words(const WordMaps& maps, int64_t b, const OwnedParts& owned, const F& enter) {
  constexpr uint32_t kAtOnce = 4;
  const uint8_t* i = maps.data + b * maps.image + 4 * threadIdx.x;
  const uint8_t* u = i + maps.plane;
  const uint8_t* v = u + maps.plane;
  uint32_t w = threadIdx.x;
  DSA_FAST_NO_UNROLL
  for (; w + (kAtOnce - 1) * kBlockThreads < maps.words; w += kAtOnce * kBlockThreads) {
    uint32_t parts[kAtOnce], us[kAtOnce], vs[kAtOnce];
    DSA_FAST_UNROLL
    for (uint32_t r = 0; r < kAtOnce; ++r) {
      parts[r] = read_word(i + r * 4 * kBlockThreads);
      us[r] = read_word(u + r * 4 * kBlockThreads);
      vs[r] = read_word(v + r * 4 * kBlockThreads);
    }
    DSA_FAST_UNROLL
    for (uint32_t r = 0; r < kAtOnce; ++r) {
      if (any_owned(parts[r], owned)) enter(w + r * kBlockThreads, parts[r], us[r], vs[r]);
    }
    i += kAtOnce * 4 * kBlockThreads;
    u += kAtOnce * 4 * kBlockThreads;
    v += kAtOnce * 4 * kBlockThreads;
  }
  DSA_FAST_NO_UNROLL
  for (; w < maps.words; w += kBlockThreads) {
    const uint32_t parts = read_word(i);
    if (any_owned(parts, owned)) enter(w, parts, read_word(u), read_word(v));
    i += 4 * kBlockThreads;
    u += 4 * kBlockThreads;
    v += 4 * kBlockThreads;
  }
}

// Calls enter(k, part, cell) for a word's four pixels, k in 0..3. A pixel is the block's where part < owned.count.
template <typename F>
DSA_FAST_DEVICE void for_each_pixel(uint32_t parts, uint32_t u, uint32_t v, const OwnedParts& owned, const F& enter) {
  const uint32_t last2 = (owned.size - 1) * 0x00010001u;
  DSA_FAST_UNROLL
  for (int h = 0; h < 2; ++h) {
    const uint32_t cells = texel_coordinates(spread(u, h), owned.size, last2) * owned.size +
                           texel_coordinates(spread(v, h), owned.size, last2);
    enter(2 * h, (parts >> (16 * h) & 0xff) - owned.first, cells & 0xffff);
    enter(2 * h + 1, (parts >> (16 * h + 8) & 0xff) - owned.first, cells >> 16);
  }
}

// The address of a table as shared memory counts it, made once: the compiler makes it anew for each atomic.
DSA_FAST_DEVICE uint32_t shared_address([[maybe_unused]] const int32_t* table) {
#if defined(__CUDA_ARCH__)
  uint32_t address;
  asm volatile("mov.u32 %0, %1;" : "=r"(address) : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(table))));
  return address;
#else
  return 0;
#endif
}

// atomicMax of a table's entry where part < parts, without a branch.
DSA_FAST_DEVICE void raise_owned([[maybe_unused]] int32_t* table, [[maybe_unused]] uint32_t address, uint32_t entry,
                                 int32_t value, uint32_t part, uint32_t parts) {
#if defined(__CUDA_ARCH__)
  asm volatile("{.reg .pred p; setp.lt.u32 p, %2, %3; @p red.shared.max.s32 [%0], %1;}" ::"r"(address + 4 * entry),
               "r"(value), "r"(part), "r"(parts)
               : "memory");
#else
  if (part < parts) atomicMax(table + entry, value);
#endif
}

// ---- the gather ----------------------------------------------------------------------------------------------------

// Uint8 photos whose planes hold pixel after pixel.
struct BytePhotos {
  const uint8_t* data;
  int64_t image, plane;  // strides
};

// What write_winners can write.
using BlockTypes = Types<uint8_t, Half, BFloat16, float>;

inline int64_t bytes_of_block_type(DType dtype) {
  return BlockTypes::visit(dtype, [](auto tag) { return static_cast<int64_t>(sizeof(TypeOf<decltype(tag)>)); });
}

// The fill of up to kFillChunk channels, each twice.
template <typename Out>
struct PairFill {
  std::conditional_t<sizeof(Out) == 4, uint64_t, uint32_t> pair[kFillChunk];  // PairBits<Out>
};

template <typename Out>
PairFill<Out> pairs_of(const Fill<Out>& fill) {
  PairFill<Out> pairs;
  for (int64_t c = 0; c < kFillChunk; ++c) pairs.pair[c] = pair_of(fill.at(c), fill.at(c));
  return pairs;
}

// Calls f(texel, target) for every fourth texel of the block: four at once, target being that of the first channel.
// out is the image's [24, C, S, S].
template <int kBlockThreads, typename Out, typename F>
DSA_FAST_DEVICE void for_each_four_texels(const OwnedParts& owned, int64_t channels, Out* out, const F& f) {
  const uint32_t fours = owned.cells / 4, all = owned.count * fours;
  const uint32_t step_parts = kBlockThreads / fours, step_cells = kBlockThreads % fours;
  const int64_t part = channels * owned.cells;  // the distance to the next part
  const int64_t step = step_parts * part + 4 * step_cells, carry = part - owned.cells;
  uint32_t cell = threadIdx.x % fours;  // in units of four
  Out* target = out + (owned.first - 1 + threadIdx.x / fours) * part + 4 * cell;
  DSA_FAST_NO_UNROLL
  for (uint32_t t = threadIdx.x; t < all; t += kBlockThreads) {
    f(4 * t, target);
    target += step;
    cell += step_cells;
    if (cell >= fours) {
      cell -= fours;
      target += carry;
    }
  }
}

template <typename Out>
DSA_FAST_DEVICE void store_pairs(Out* target, PairBits<Out> low, PairBits<Out> high) {
  *reinterpret_cast<PairBits2<Out>*>(target) = PairBits2<Out>{{low, high}};
}

// Writes channels 0 <= c < kChannels or, where kChannels is 0, c_begin <= c < c_end of the block's texels from a table
// of the winners' raster indexes plus one, 0 where there is none. photo and out are the image's.
template <int kBlockThreads, int kChannels, typename Out>
DSA_FAST_DEVICE void write_winners(const int32_t* table, const OwnedParts& owned, const uint8_t* photo, int64_t plane,
                                   int64_t channels, int64_t c_begin, int64_t c_end, const PairFill<Out>& fill,
                                   Out* out) {
  for_each_four_texels<kBlockThreads>(owned, channels, out, [&](uint32_t texel, Out* target) {
    const Words4 key = *reinterpret_cast<const Words4*>(table + texel);
    const bool any = (key.w[0] | key.w[1] | key.w[2] | key.w[3]) != 0;
    PairBits<Out> low_mask = 0, high_mask = 0;
    const uint8_t* at[4];
    DSA_FAST_UNROLL
    for (int k = 0; k < 4; ++k) at[k] = photo + static_cast<uint32_t>(key.w[k] == 0 ? 0 : key.w[k] - 1);
    low_mask = pair_mask<Out>(key.w[0] != 0, key.w[1] != 0);
    high_mask = pair_mask<Out>(key.w[2] != 0, key.w[3] != 0);
    if constexpr (kChannels != 0) {
      PairBits<Out> low[kChannels], high[kChannels];
      DSA_FAST_UNROLL
      for (int c = 0; c < kChannels; ++c) low[c] = high[c] = static_cast<PairBits<Out>>(fill.pair[c]);
      if (any) {  // most texels have no pixel, and most threads of a warp share that
        uint32_t byte[kChannels][4];
        DSA_FAST_UNROLL
        for (int c = 0; c < kChannels; ++c) {
          DSA_FAST_UNROLL
          for (int k = 0; k < 4; ++k) byte[c][k] = read_byte(at[k] + c * plane);
        }
        DSA_FAST_UNROLL
        for (int c = 0; c < kChannels; ++c) {
          low[c] = either<Out>(low_mask, pair_of_bytes<Out>(byte[c][0], byte[c][1]), low[c]);
          high[c] = either<Out>(high_mask, pair_of_bytes<Out>(byte[c][2], byte[c][3]), high[c]);
        }
      }
      DSA_FAST_UNROLL
      for (int c = 0; c < kChannels; ++c) store_pairs(target + c * static_cast<int64_t>(owned.cells), low[c], high[c]);
    } else {
      for (int64_t c = c_begin; c < c_end; ++c) {
        PairBits<Out> low = static_cast<PairBits<Out>>(fill.pair[c - c_begin]), high = low;
        if (any) {
          uint32_t byte[4];
          DSA_FAST_UNROLL
          for (int k = 0; k < 4; ++k) byte[k] = read_byte(at[k] + c * plane);
          low = either<Out>(low_mask, pair_of_bytes<Out>(byte[0], byte[1]), low);
          high = either<Out>(high_mask, pair_of_bytes<Out>(byte[2], byte[3]), high);
        }
        store_pairs(target + c * static_cast<int64_t>(owned.cells), low, high);
      }
    }
  });
}

}  // namespace dsa_fast
