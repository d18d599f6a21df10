// Element types and the casts between them. They give the same bits on host and device, except for the sign and the
// payload of a NaN: a GPU casts to and from 16 bits in hardware.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "platform.h"

namespace dsa_fast {

struct Half {
  uint16_t bits;  // IEEE 754 binary16
};
struct BFloat16 {
  uint16_t bits;  // the upper half of a binary32
};

enum class DType : int32_t { kUInt8, kFloat16, kBFloat16, kFloat32, kFloat64 };

// ---- bits ----------------------------------------------------------------------------------------------------------

DSA_FAST_HD uint32_t bits_of(float x) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
#endif
}

DSA_FAST_HD float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
#endif
}

// ---- to float32 / float64 (exact, except float64 -> float32) -------------------------------------------------------

DSA_FAST_HD float to_float(uint8_t x) { return static_cast<float>(x); }
DSA_FAST_HD float to_float(float x) { return x; }
DSA_FAST_HD float to_float(double x) { return static_cast<float>(x); }
DSA_FAST_HD float to_float(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }
DSA_FAST_HD float to_float(Half x) {
#if defined(__CUDA_ARCH__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
  return value;
#else
  const uint32_t sign = (x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu;
  const uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0x1fu) return float_of(sign | 0x7f800000u | (mantissa << 13));  // infinity, NaN
  if (exponent != 0) return float_of(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-08f;  // subnormal: units of 2^-24
  return float_of(sign | bits_of(magnitude));
#endif
}

// The precision that a value is summed and divided in: float32, or float64 for float64.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
DSA_FAST_HD Wide<T> widen(T x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return to_float(x);
  }
}

// The type that values are summed in, exactly for bytes; and the mean of a sum.
template <typename T>
using SumOf = std::conditional_t<std::is_same_v<T, uint8_t>, int64_t, Wide<T>>;

template <typename T>
DSA_FAST_HD SumOf<T> to_sum(T x) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return x;
  } else {
    return widen(x);
  }
}

template <typename T>
DSA_FAST_HD Wide<T> mean_of(SumOf<T> sum, int32_t count) {
  return static_cast<Wide<T>>(sum) / static_cast<Wide<T>>(count);
}

// ---- value casts (never a rescale) ---------------------------------------------------------------------------------

DSA_FAST_HD BFloat16 round_to_bfloat16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t f = bits_of(x);
  if ((f & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((f >> 16 & 0x8000u) | 0x7fc0u)};  // NaN
  return {static_cast<uint16_t>((f + 0x7fffu + (f >> 16 & 1u)) >> 16)};
#endif
}

DSA_FAST_HD Half round_to_half(float x) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return {bits};
#else
  const uint32_t f = bits_of(x);
  const uint32_t sign = f >> 16 & 0x8000u;
  const uint32_t magnitude = f & 0x7fffffffu;
  uint32_t h;
  if (magnitude > 0x7f800000u) {
    h = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    h = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is a multiple of 2^-24, float32's spacing in [0.5, 1): the sum rounds.
    h = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    h = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | h)};
#endif
}

// To the nearest integer, ties to even, saturating; NaN gives 0.
template <typename F>
DSA_FAST_HD uint8_t round_to_uint8(F x) {
  if (!(x > F(0))) return 0;
  if (x >= F(255)) return 255;
  // 2^(mantissa bits) leaves no room for a fraction: adding it rounds, without libm.
  constexpr F kShift = std::is_same_v<F, double> ? F(4503599627370496.0) : F(8388608.0);
  return static_cast<uint8_t>((x + kShift) - kShift);
}

// float64 reaches float16 and bfloat16 through float32, as in PyTorch's own cast.
template <typename To, typename From>
DSA_FAST_HD To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<To, double>) {
    return static_cast<double>(to_float(x));
  } else if constexpr (std::is_same_v<To, float>) {
    return to_float(x);
  } else if constexpr (std::is_same_v<To, Half>) {
    return round_to_half(to_float(x));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return round_to_bfloat16(to_float(x));
  } else {
    static_assert(std::is_same_v<To, uint8_t>, "no such element type");
    return round_to_uint8(widen(x));
  }
}

// ---- run-time type -> compile-time type ----------------------------------------------------------------------------

template <typename T>
struct TypeTag {
  using type = T;
};

template <typename T>
constexpr DType kDTypeOf = std::is_same_v<T, uint8_t>    ? DType::kUInt8
                           : std::is_same_v<T, Half>     ? DType::kFloat16
                           : std::is_same_v<T, BFloat16> ? DType::kBFloat16
                           : std::is_same_v<T, double>   ? DType::kFloat64
                                                         : DType::kFloat32;

template <typename Tag>
using TypeOf = typename Tag::type;

template <typename T, typename... Others>
struct Types {
  // Calls f with the TypeTag of dtype, which must be one of the types.
  template <typename F>
  static auto visit(DType dtype, const F& f) {
    if constexpr (sizeof...(Others) == 0) {
      return f(TypeTag<T>{});
    } else {
      return dtype == kDTypeOf<T> ? f(TypeTag<T>{}) : Types<Others...>::visit(dtype, f);
    }
  }

  // Calls f with the TypeTags of both.
  template <typename F>
  static auto visit(DType first, DType second, const F& f) {
    return visit(first, [&](auto a) { return visit(second, [&](auto b) { return f(a, b); }); });
  }
};

using AnyTypes = Types<uint8_t, Half, BFloat16, double, float>;
using IuvTypes = Types<uint8_t, Half, BFloat16, float>;
using NetworkTypes = Types<Half, BFloat16, float>;           // of what a network takes and gives
using GradientTypes = Types<Half, BFloat16, double, float>;  // never an integer

}  // namespace dsa_fast
