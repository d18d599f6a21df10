#include "warp_bytes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "capability.h"
#include "units.h"

namespace dsa_fast {
namespace {

constexpr int64_t kChannels = 3;  // they fit into a word, next to the mark
constexpr uint32_t kMark = 1u << 24;
constexpr int64_t kChunk = 64;    // pixels of a row handled together
constexpr int64_t kBlock = 1024;  // texels spread together; their channels stay in the first-level cache
constexpr int kGroup = 16;        // texels that share a flag: whether they have sums
constexpr int64_t kStreamBytes = int64_t{4} << 20;  // results from this size on are written past the caches

// GCC's and clang's portable vectors.
typedef uint32_t Ints4 __attribute__((vector_size(16)));

// The sums of a texel's pixels by channel, and of their marks: the number of pixels.
struct Sums {
  Ints4 values;
};

// The memory that a thread keeps. All words, sums and flags are 0 between images.
struct Scratch {
  std::vector<uint32_t> words;  // [texels of the unit + 1], the last for all other pixels
  std::vector<Sums> sums;       // likewise
  std::vector<uint8_t> summed;  // [groups of texels]: whether there are sums in it
};

// ---- the result's types --------------------------------------------------------------------------------------------

// An unsigned integer as wide as the type.
template <typename Out>
using Bits = std::conditional_t<
    sizeof(Out) == 1, uint8_t,
    std::conditional_t<sizeof(Out) == 2, uint16_t, std::conditional_t<sizeof(Out) == 4, uint32_t, uint64_t>>>;

template <typename Out>
DSA_FAST_INLINE Bits<Out> bits_in(Out x) {
  Bits<Out> bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}

// Takes bits that arithmetic has widened.
template <typename Out, typename Wider>
DSA_FAST_INLINE void put_bits(Out* to, Wider wider) {
  const auto bits = static_cast<Bits<Out>>(wider);
  std::memcpy(to, &bits, sizeof(bits));
}

// The bits of convert<Out>(x), in a form that compilers vectorize: no type rounds a byte.
template <typename Out>
DSA_FAST_INLINE Bits<Out> bits_of_byte(uint32_t x) {
  if constexpr (std::is_same_v<Out, uint8_t>) {
    return static_cast<uint8_t>(x);
  } else if constexpr (std::is_same_v<Out, double>) {
    return bits_in(static_cast<double>(static_cast<int32_t>(x)));
  } else {
    const uint32_t bits = bits_of(static_cast<float>(static_cast<int32_t>(x)));
    if constexpr (std::is_same_v<Out, float>) return bits;
    if constexpr (std::is_same_v<Out, BFloat16>) return static_cast<uint16_t>(bits >> 16);
    if constexpr (std::is_same_v<Out, Half>) return static_cast<uint16_t>(x == 0 ? 0 : (bits - 0x38000000u) >> 13);
  }
}

// ---- one unit ------------------------------------------------------------------------------------------------------

DSA_FAST_INLINE const uint8_t* row_of(const uint8_t* from, int64_t step, int64_t n, uint8_t* buffer) {
  if (step == 1) return from;
  for (int64_t k = 0; k < n; ++k) buffer[k] = from[k * step];
  return buffer;
}

struct Range {
  int64_t begin, end;
};

// The pixels of a whole chunk from its first to its last part, in steps of eight; empty if all is background.
DSA_FAST_INLINE Range find_foreground(const uint8_t* i) {
  uint32_t any = 0;  // bit k: one of the k-th eight pixels is not background
  for (int64_t k = 0; k < kChunk / 8; ++k) {
    uint64_t eight;
    std::memcpy(&eight, i + 8 * k, sizeof(eight));
    any |= static_cast<uint32_t>(eight != 0) << k;
  }
  if (any == 0) return {0, 0};
  return {8 * __builtin_ctz(any), 8 * (32 - __builtin_clz(any))};
}

// The texel of each of a chunk's pixels within the unit; `texels` for pixels outside the unit or without a texel.
DSA_FAST_INLINE void find_texels(const uint8_t* i, const uint8_t* u, const uint8_t* v, int64_t n, int32_t size,
                                 uint32_t before, uint32_t texels, uint32_t* texel) {
  const auto cells = static_cast<uint32_t>(size * size);
  uint16_t cell[kChunk];
  for (int64_t k = 0; k < n; ++k) {
    cell[k] = static_cast<uint16_t>(small_texel_coordinate(u[k], size) * size + small_texel_coordinate(v[k], size));
  }
  for (int64_t k = 0; k < n; ++k) {
    // Parts before the unit's, 0 among them, wrap around to large numbers.
    const uint32_t t = i[k] * cells + cell[k] - before;
    texel[k] = t < texels ? t : texels;
  }
}

template <Reduce kReduce>
DSA_FAST_INLINE void scan_chunk(const uint8_t* const* iuv, const uint8_t* const* img, int64_t n, Range foreground,
                                int32_t size, uint32_t before, uint32_t texels, Scratch& scratch) {
  uint32_t texel[kChunk], word[kChunk];
  find_texels(iuv[0], iuv[1], iuv[2], n, size, before, texels, texel);
  for (int64_t k = 0; k < n; ++k) {
    word[k] = kMark | static_cast<uint32_t>(img[0][k]) | static_cast<uint32_t>(img[1][k]) << 8 |
              static_cast<uint32_t>(img[2][k]) << 16;
  }
  if constexpr (kReduce == Reduce::kLast) {
    uint32_t* words = scratch.words.data();
    for (int64_t k = foreground.begin; k < foreground.end; ++k) words[texel[k]] = word[k];
  } else {
    Sums* sums = scratch.sums.data();
    uint8_t* summed = scratch.summed.data();
    for (int64_t k = foreground.begin; k < foreground.end; ++k) {
      sums[texel[k]].values += (word[k] >> Ints4{0, 8, 16, 24}) & 255;
      summed[texel[k] / kGroup] = 1;
    }
  }
}

template <Reduce kReduce>
DSA_FAST_INLINE void scan(const WarpArgs& a, const Unit& unit, uint32_t texels, Scratch& scratch) {
  const auto size = static_cast<int32_t>(a.S);
  const auto before = static_cast<uint32_t>((unit.part_begin + 1) * size * size);  // part 1's texels begin at S * S
  const uint8_t* map = static_cast<const uint8_t*>(a.iuv.data) + unit.b * a.iuv.stride[0];
  const uint8_t* photo = static_cast<const uint8_t*>(a.img) + unit.b * a.img_stride[0];
  uint8_t buffers[6][kChunk];
  for (int64_t y = 0; y < a.iuv.H; ++y) {
    for (int64_t x = 0; x < a.iuv.W; x += kChunk) {
      const int64_t n = std::min(kChunk, a.iuv.W - x);
      const uint8_t *iuv[3], *img[3];
      const auto iuv_row = [&](int64_t c) {
        return row_of(map + c * a.iuv.stride[1] + y * a.iuv.stride[2] + x * a.iuv.stride[3], a.iuv.stride[3], n,
                      buffers[c]);
      };
      iuv[0] = iuv_row(0);
      const Range foreground = n == kChunk ? find_foreground(iuv[0]) : Range{0, n};
      if (foreground.begin == foreground.end) continue;
      iuv[1] = iuv_row(1);
      iuv[2] = iuv_row(2);
      for (int64_t c = 0; c < kChannels; ++c) {  // missing channels repeat the last one
        img[c] = row_of(photo + std::min(c, a.C - 1) * a.img_stride[1] + y * a.img_stride[2] + x * a.img_stride[3],
                        a.img_stride[3], n, buffers[3 + c]);
      }
      if (n == kChunk) {
        scan_chunk<kReduce>(iuv, img, kChunk, foreground, size, before, texels, scratch);
      } else {
        scan_chunk<kReduce>(iuv, img, n, foreground, size, before, texels, scratch);
      }
    }
  }
}

template <int kShift, typename Out>
DSA_FAST_INLINE void spread_channel(const uint32_t* __restrict words, int64_t n, Out fill, Out* __restrict to) {
  const Bits<Out> empty = bits_in(fill);
  for (int64_t k = 0; k < n; ++k) {
    // Selects with masks, because `?` would prevent vectorization of the conversion.
    const auto there = static_cast<Bits<Out>>(words[k] == 0 ? 0 : -1);
    put_bits(to + k, (bits_of_byte<Out>(words[k] >> kShift & 255) & there) | (empty & ~there));
  }
}

template <typename Out>
DSA_FAST_INLINE void spread_words(uint32_t* words, int64_t n, int64_t channels, const Out* fill, Out* to,
                                  int64_t to_stride) {
  spread_channel<0>(words, n, fill[0], to);
  if (channels > 1) spread_channel<8>(words, n, fill[1], to + to_stride);
  if (channels > 2) spread_channel<16>(words, n, fill[2], to + 2 * to_stride);
  std::memset(words, 0, sizeof(uint32_t) * static_cast<size_t>(n));
}

// The same as convert<Out>(mean) for a mean of bytes.
template <typename Out>
DSA_FAST_INLINE Out convert_mean(float mean) {
  if constexpr (std::is_same_v<Out, uint8_t>) {
    constexpr float kShift = 8388608.0f;  // as in round_to_uint8, without its limits
    return static_cast<uint8_t>(static_cast<int32_t>((mean + kShift) - kShift));
  } else {
    return convert<Out>(mean);
  }
}

// Of n <= kGroup texels.
template <typename Out>
DSA_FAST_INLINE void spread_group(Sums* sums, int64_t n, int64_t channels, const Out* fill, Out* to,
                                  int64_t to_stride) {
  float sum[kChannels][kGroup], number[kGroup];
#pragma GCC unroll 1  // GCC would unroll them and then not vectorize them
  for (int64_t k = 0; k < n; ++k) {
    for (int64_t c = 0; c < kChannels; ++c) sum[c][k] = static_cast<float>(static_cast<int32_t>(sums[k].values[c]));
    number[k] = static_cast<float>(static_cast<int32_t>(sums[k].values[kChannels]));
  }
  for (int64_t c = 0; c < channels; ++c) {
    const Bits<Out> empty = bits_in(fill[c]);
#pragma GCC unroll 1
    for (int64_t k = 0; k < n; ++k) {
      const float mean = sum[c][k] / (number[k] < 1 ? 1 : number[k]);
      const auto there = static_cast<Bits<Out>>(bits_of(number[k]) == 0 ? 0 : -1);
      put_bits(to + c * to_stride + k, (bits_in(convert_mean<Out>(mean)) & there) | (empty & ~there));
    }
  }
  std::memset(static_cast<void*>(sums), 0, sizeof(Sums) * static_cast<size_t>(n));
}

// sums and summed are the unit's; texels begin <= t < end of it are spread.
template <typename Out>
DSA_FAST_INLINE void spread_sums(Sums* sums, const uint8_t* summed, int64_t begin, int64_t end, int64_t channels,
                                 const Out* fill, Out* to, int64_t to_stride) {
  for (int64_t c = 0; c < channels; ++c) std::fill_n(to + c * to_stride, end - begin, fill[c]);
  for (int64_t group = begin / kGroup; group * kGroup < end; ++group) {
    if (summed[group] == 0) continue;
    const int64_t first = std::max(begin, group * kGroup), last = std::min(end, (group + 1) * kGroup);
    if (last - first == kGroup) {
      spread_group(sums + first, kGroup, channels, fill, to + first - begin, to_stride);
    } else {
      spread_group(sums + first, last - first, channels, fill, to + first - begin, to_stride);
    }
  }
}

// Copies past the caches, from and to 16-byte aligned memory, a multiple of 16 bytes. Null if the CPU cannot.
using Stream = void (*)(void* to, const void* from, int64_t bytes);

#ifdef DSA_FAST_X86
void stream_sse2(void* to, const void* from, int64_t bytes) {
  auto* out = static_cast<__m128i*>(to);
  const auto* in = static_cast<const __m128i*>(from);
  for (int64_t k = 0; k < bytes / 16; ++k) _mm_stream_si128(out + k, _mm_load_si128(in + k));
}
#endif

// Ends a thread's work: others see its streamed results before they learn that it is done.
struct Fence {
  bool needed;

  ~Fence() {
#ifdef DSA_FAST_X86
    if (needed) _mm_sfence();
#endif
  }
};

// Null also for a result that fits into a cache, or whose channels do not begin with cache lines.
Stream choose_stream([[maybe_unused]] const WarpArgs& a, [[maybe_unused]] int64_t channel_bytes) {
#ifdef DSA_FAST_X86
  const bool aligned = reinterpret_cast<uintptr_t>(a.out) % 64 == 0 && channel_bytes % 64 == 0;
  if (aligned && a.iuv.B * kParts * a.C * channel_bytes >= kStreamBytes) return stream_sse2;
#endif
  return nullptr;
}

template <typename Out, Reduce kReduce>
DSA_FAST_INLINE void unit_body(const WarpArgs& a, const Unit& unit, Stream stream, const Out* fill, Scratch& scratch) {
  const int64_t cells = a.S * a.S;
  const int64_t texels = (unit.part_end - unit.part_begin) * cells;
  if constexpr (kReduce == Reduce::kLast) {
    scratch.words.resize(static_cast<size_t>(texels + 1));
  } else {
    scratch.sums.resize(static_cast<size_t>(texels + 1));
    scratch.summed.resize(static_cast<size_t>(texels / kGroup + 1));
  }
  scan<kReduce>(a, unit, static_cast<uint32_t>(texels), scratch);
  Out* out = static_cast<Out*>(a.out) + (unit.b * kParts + unit.part_begin) * a.C * cells;
  alignas(64) Out buffer[kChannels * kBlock];
  for (int64_t part = 0; part < unit.part_end - unit.part_begin; ++part) {
    for (int64_t begin = 0; begin < cells; begin += kBlock) {
      const int64_t n = std::min(kBlock, cells - begin);
      const int64_t texel = part * cells + begin;
      Out* target = out + part * a.C * cells + begin;
      Out* to = stream ? buffer : target;
      const int64_t to_stride = stream ? kBlock : cells;
      if constexpr (kReduce == Reduce::kLast) {
        spread_words(scratch.words.data() + texel, n, a.C, fill, to, to_stride);
      } else {
        spread_sums(scratch.sums.data(), scratch.summed.data(), texel, texel + n, a.C, fill, to, to_stride);
      }
      for (int64_t c = 0; stream && c < a.C; ++c) {
        stream(target + c * cells, buffer + c * kBlock, n * static_cast<int64_t>(sizeof(Out)));
      }
    }
  }
  if constexpr (kReduce == Reduce::kLast) {
    scratch.words.back() = 0;
  } else {
    scratch.sums.back() = Sums{};
    std::fill(scratch.summed.begin(), scratch.summed.end(), uint8_t{0});
  }
}

// The function above, compiled for one instruction set.
#define DSA_FAST_UNIT(name, target)                                                                                \
  template <typename Out, Reduce kReduce>                                                                          \
  target void unit_##name(const WarpArgs& a, const Unit& unit, Stream stream, const Out* fill, Scratch& scratch) { \
    unit_body<Out, kReduce>(a, unit, stream, fill, scratch);                                                       \
  }

DSA_FAST_UNIT(plain, )
#ifdef DSA_FAST_X86
DSA_FAST_UNIT(avx2, DSA_FAST_AVX2)
DSA_FAST_UNIT(avx512, DSA_FAST_AVX512)
#endif

template <typename Out>
using RunUnit = void (*)(const WarpArgs& a, const Unit& unit, Stream stream, const Out* fill, Scratch& scratch);

template <typename Out, Reduce kReduce>
RunUnit<Out> choose_unit() {
#ifdef DSA_FAST_X86
  if (capability() == Capability::kAvx512) return unit_avx512<Out, kReduce>;
  if (capability() == Capability::kAvx2) return unit_avx2<Out, kReduce>;
#endif
  return unit_plain<Out, kReduce>;
}

template <typename Out>
void run(const WarpArgs& a) {
  const RunUnit<Out> run_unit =
      a.reduce == Reduce::kLast ? choose_unit<Out, Reduce::kLast>() : choose_unit<Out, Reduce::kMean>();
  const Stream stream = choose_stream(a, a.S * a.S * static_cast<int64_t>(sizeof(Out)));
  Out fill[kChannels] = {};
  for (int64_t c = 0; c < a.C; ++c) fill[c] = convert<Out>(a.fill[c]);
  parallel_units(a.iuv.B, a.iuv.H * a.iuv.W, a.C * a.S * a.S, [&] {
    return [&, scratch = Scratch(), fence = Fence{stream != nullptr}](const Unit& unit) mutable {
      run_unit(a, unit, stream, fill, scratch);
    };
  });
}

}  // namespace

bool warp_bytes_can(const WarpArgs& a) {
  return a.img_dtype == DType::kUInt8 && a.iuv.dtype == DType::kUInt8 && a.C >= 1 && a.C <= kChannels &&
         a.S <= kMaxSmallSize && a.iuv.H * a.iuv.W <= std::numeric_limits<int32_t>::max() / 255;
}

void warp_bytes(const WarpArgs& a) {
  AnyTypes::visit(a.out_dtype, [&](auto tag) { run<TypeOf<decltype(tag)>>(a); });
}

}  // namespace dsa_fast
