// PTX's instructions as C++ functions (docs.nvidia.com/cuda/parallel-thread-execution). Included by translated kernels.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "machine.h"

namespace dsa_fast::ptx {

// ---- registers: unsigned integers that hold any type's bits -------------------------------------------------------

template <typename T, typename Raw>
inline T from_bits(Raw raw) {
  static_assert(sizeof(T) == sizeof(Raw));
  T value;
  std::memcpy(&value, &raw, sizeof(T));
  return value;
}

// A narrower value fills the register by its type's sign.
template <typename Raw, typename T>
inline Raw to_register(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    static_assert(sizeof(T) == sizeof(Raw));
    return from_bits<Raw>(value);
  } else {
    return static_cast<Raw>(value);
  }
}

// ---- memory --------------------------------------------------------------------------------------------------------

template <typename T, int kCount, Space kSpace, Access kAccess = Access::kRead>
inline std::array<T, kCount> load(Thread& t, uint64_t address, int line) {
  std::array<T, kCount> values;
  const char* from;
  if constexpr (kSpace == Space::kParam) {  // checked when it was translated
    from = reinterpret_cast<const char*>(address);
  } else {
    from = checked(t, kSpace, kAccess, address, sizeof(values), line);
  }
  std::memcpy(&values, from, sizeof(values));
  return values;
}

template <typename T, int kCount, Space kSpace>
inline std::array<T, kCount> load_constant(Thread& t, uint64_t address, int line) {
  return load<T, kCount, kSpace, Access::kReadConstant>(t, address, line);
}

template <typename T, int kCount, Space kSpace>
inline void store(Thread& t, uint64_t address, const std::array<T, kCount>& values, int line) {
  std::memcpy(checked(t, kSpace, Access::kWrite, address, sizeof(values), line), &values, sizeof(values));
}

enum class Atomic { kAdd, kMax, kMin, kExch, kCas, kAnd, kOr, kXor };

// Returns the old value. For kCas, `value` is what must be there and `other` what replaces it.
template <Atomic kOperation, typename T, Space kSpace>
inline T atomic(Thread& t, uint64_t address, int line, T value, T other = T()) {
  char* at = checked(t, kSpace, Access::kAtomic, address, sizeof(T), line);
  T old, result = value;
  std::memcpy(&old, at, sizeof(T));
  if constexpr (kOperation == Atomic::kAdd) {
    if constexpr (std::is_integral_v<T>) {
      using Unsigned = std::make_unsigned_t<T>;
      result = static_cast<T>(static_cast<Unsigned>(old) + static_cast<Unsigned>(value));
    } else {
      result = old + value;
    }
  } else if constexpr (kOperation == Atomic::kMax) {
    result = std::max(old, value);
  } else if constexpr (kOperation == Atomic::kMin) {
    result = std::min(old, value);
  } else if constexpr (kOperation == Atomic::kCas) {
    result = old == value ? other : old;
  } else if constexpr (kOperation == Atomic::kAnd) {
    result = old & value;
  } else if constexpr (kOperation == Atomic::kOr) {
    result = old | value;
  } else if constexpr (kOperation == Atomic::kXor) {
    result = old ^ value;
  }
  std::memcpy(at, &result, sizeof(T));
  return old;
}

// ---- arithmetic: integers wrap -------------------------------------------------------------------------------------

template <typename T>
struct Halves {};  // two 16-bit numbers in a word

// What an operator's operands are, as C++.
template <typename T>
struct Operand {
  using type = T;
};
template <typename Half>
struct Operand<Halves<Half>> {
  using type = uint32_t;
};
template <typename T>
using OperandOf = typename Operand<T>::type;

template <typename T>
constexpr bool kReal = std::is_floating_point_v<T>;

template <typename T>
using Wrapping = std::conditional_t<sizeof(T) <= 4, uint32_t, uint64_t>;

template <typename T, typename F>
inline uint32_t each_half(uint32_t a, uint32_t b, const F& f) {
  const auto low = static_cast<uint16_t>(f(static_cast<T>(a), static_cast<T>(b)));
  const auto high = static_cast<uint16_t>(f(static_cast<T>(a >> 16), static_cast<T>(b >> 16)));
  return low | static_cast<uint32_t>(high) << 16;
}

template <typename T>
struct IsHalves : std::false_type {};
template <typename Half>
struct IsHalves<Halves<Half>> : std::true_type {
  using half = Half;
};

template <typename T>
inline OperandOf<T> add(OperandOf<T> a, OperandOf<T> b) {
  if constexpr (IsHalves<T>::value) {
    return each_half<typename IsHalves<T>::half>(a, b, [](int x, int y) { return x + y; });
  } else if constexpr (kReal<T>) {
    return a + b;
  } else {
    return static_cast<T>(static_cast<Wrapping<T>>(a) + static_cast<Wrapping<T>>(b));
  }
}
template <typename T>
inline T sub(T a, T b) {
  if constexpr (kReal<T>) return a - b;
  return static_cast<T>(static_cast<Wrapping<T>>(a) - static_cast<Wrapping<T>>(b));
}
template <typename T>
inline T mul_real(T a, T b) {
  return a * b;
}
template <typename T>
inline T mul_lo(T a, T b) {
  return static_cast<T>(static_cast<Wrapping<T>>(a) * static_cast<Wrapping<T>>(b));
}
template <typename T>
inline auto mul_wide(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, std::conditional_t<sizeof(T) == 2, int32_t, int64_t>,
                                  std::conditional_t<sizeof(T) == 2, uint32_t, uint64_t>>;
  static_assert(sizeof(T) == 2 || sizeof(T) == 4);
  return static_cast<Wide>(static_cast<Wide>(a) * static_cast<Wide>(b));
}
template <typename T>
inline T mul_hi(T a, T b) {
  using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
  return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> (8 * sizeof(T)));
}
// By zero, integers give garbage on a GPU: here all bits set.
template <typename T>
inline T divide(T a, T b) {
  if constexpr (!kReal<T>) {
    if (b == 0) return static_cast<T>(-1);
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return sub<T>(0, a);
  }
  return static_cast<T>(a / b);
}
template <typename T>
inline T rem(T a, T b) {
  if (b == 0) return a;
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}
template <typename T>
inline T fma(T a, T b, T c) {
  return std::fma(a, b, c);
}
template <typename T>
inline T neg(T a) {
  if constexpr (kReal<T>) return -a;
  return sub<T>(0, a);
}
template <typename T>
inline T magnitude(T a) {
  if constexpr (kReal<T>) return std::fabs(a);
  return a < 0 ? neg(a) : a;
}
template <typename T>
inline T rcp(T a) {
  return T(1) / a;
}
template <typename T>
inline T sqrt(T a) {
  return std::sqrt(a);
}
template <typename T>
inline T copysign(T sign, T value) {
  return std::copysign(value, sign);
}

// Of real numbers: a NaN loses, and -0 is below 0.
template <typename T>
inline OperandOf<T> min(OperandOf<T> a, OperandOf<T> b) {
  if constexpr (IsHalves<T>::value) {
    return each_half<typename IsHalves<T>::half>(a, b, [](auto x, auto y) { return std::min(x, y); });
  } else {
    if constexpr (kReal<T>) {
      if (a != a) return b;
      if (b != b) return a;
      if (a == b) return std::signbit(a) ? a : b;
    }
    return b < a ? b : a;
  }
}
template <typename T>
inline OperandOf<T> max(OperandOf<T> a, OperandOf<T> b) {
  if constexpr (IsHalves<T>::value) {
    return each_half<typename IsHalves<T>::half>(a, b, [](auto x, auto y) { return std::max(x, y); });
  } else {
    if constexpr (kReal<T>) {
      if (a != a) return b;
      if (b != b) return a;
      if (a == b) return std::signbit(a) ? b : a;
    }
    return a < b ? b : a;
  }
}
template <typename T>
inline T sad(T a, T b, T c) {
  return add<T>(c, a < b ? sub<T>(b, a) : sub<T>(a, b));
}

// ---- bits ----------------------------------------------------------------------------------------------------------

template <typename T>
inline T bit_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <typename T>
inline T bit_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <typename T>
inline T bit_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <typename T>
inline T bit_not(T a) {
  if constexpr (std::is_same_v<T, bool>) return !a;
  return static_cast<T>(~a);
}
template <typename T>
inline T cnot(T a) {
  return a == 0 ? 1 : 0;
}
template <typename T>
inline T shl(T a, uint32_t n) {
  return n >= 8 * sizeof(T) ? T(0) : static_cast<T>(static_cast<Wrapping<T>>(a) << n);
}
template <typename T>
inline T shr(T a, uint32_t n) {
  if (n < 8 * sizeof(T)) return static_cast<T>(a >> n);
  return std::is_signed_v<T> && a < 0 ? static_cast<T>(-1) : T(0);
}
inline uint64_t joined(uint32_t low, uint32_t high) { return static_cast<uint64_t>(high) << 32 | low; }
inline uint32_t funnel_l_wrap(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>(joined(low, high) << (n % 32) >> 32);
}
inline uint32_t funnel_r_wrap(uint32_t low, uint32_t high, uint32_t n) {
  return static_cast<uint32_t>(joined(low, high) >> (n % 32));
}
inline uint32_t funnel_l_clamp(uint32_t low, uint32_t high, uint32_t n) {
  return n >= 32 ? low : funnel_l_wrap(low, high, n);
}
inline uint32_t funnel_r_clamp(uint32_t low, uint32_t high, uint32_t n) {
  return n >= 32 ? high : funnel_r_wrap(low, high, n);
}
// Each nibble of `selector` chooses a byte of b:a, or, with its highest bit, that byte's sign eight times.
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    const uint32_t nibble = selector >> (4 * k) & 15;
    uint32_t byte = static_cast<uint32_t>(joined(a, b) >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    result |= byte << (8 * k);
  }
  return result;
}
template <typename T>
inline T bfe(T a, uint32_t position, uint32_t length) {
  position &= 255;
  length = std::min<uint32_t>(length & 255, 8 * sizeof(T));
  if (length == 0) return 0;
  constexpr uint32_t kBits = 8 * sizeof(T);
  const T shifted = shr<T>(a, position);
  if (position + length >= kBits) return shifted;
  return shr<T>(shl<T>(shifted, kBits - length), kBits - length);
}
template <typename T>
inline T insert_bits(T a, T b, uint32_t position, uint32_t length) {
  position &= 255;
  length &= 255;
  const T mask = shl<T>(length >= 8 * sizeof(T) ? static_cast<T>(-1) : static_cast<T>((T(1) << length) - 1), position);
  return (b & ~mask) | (shl<T>(a, position) & mask);
}
template <int kTable>
inline uint32_t logic_3(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int k = 0; k < 8; ++k) {
    if (kTable >> k & 1) result |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
  }
  return result;
}
template <typename T>
inline uint32_t popc(T a) {
  return static_cast<uint32_t>(__builtin_popcountll(static_cast<std::make_unsigned_t<T>>(a)));
}
template <typename T>
inline uint32_t clz(T a) {
  uint32_t count = 0;
  for (uint32_t bit = 8 * sizeof(T); bit-- > 0 && !(a >> bit & 1);) ++count;
  return count;
}
template <typename T>
inline T brev(T a) {
  T result = 0;
  for (uint32_t bit = 0; bit < 8 * sizeof(T); ++bit) result |= T(a >> bit & 1) << (8 * sizeof(T) - 1 - bit);
  return result;
}
template <bool kFirstSigned, bool kSecondSigned>
inline uint32_t dot_4(uint32_t a, uint32_t b, uint32_t c) {
  for (int k = 0; k < 32; k += 8) {
    const int32_t x = kFirstSigned ? int32_t{static_cast<int8_t>(a >> k)} : static_cast<int32_t>(a >> k & 255);
    const int32_t y = kSecondSigned ? int32_t{static_cast<int8_t>(b >> k)} : static_cast<int32_t>(b >> k & 255);
    c += static_cast<uint32_t>(x * y);
  }
  return c;
}

// ---- comparisons: those that end in u are true for a NaN -----------------------------------------------------------

template <typename T>
inline bool compare_num(T a, T b) {
  return a == a && b == b;
}
template <typename T>
inline bool compare_nan(T a, T b) {
  return !compare_num(a, b);
}
template <typename T>
inline bool compare_eq(T a, T b) {
  return a == b;
}
template <typename T>
inline bool compare_ne(T a, T b) {  // false for a NaN, unlike C++'s
  return a < b || b < a;
}
template <typename T>
inline bool compare_lt(T a, T b) {
  return a < b;
}
template <typename T>
inline bool compare_le(T a, T b) {
  return a <= b;
}
template <typename T>
inline bool compare_gt(T a, T b) {
  return a > b;
}
template <typename T>
inline bool compare_ge(T a, T b) {
  return a >= b;
}
template <typename T>
inline bool compare_equ(T a, T b) {
  return !compare_ne(a, b);
}
template <typename T>
inline bool compare_neu(T a, T b) {
  return !(a == b);
}
template <typename T>
inline bool compare_ltu(T a, T b) {
  return !(a >= b);
}
template <typename T>
inline bool compare_leu(T a, T b) {
  return !(a > b);
}
template <typename T>
inline bool compare_gtu(T a, T b) {
  return !(a <= b);
}
template <typename T>
inline bool compare_geu(T a, T b) {
  return !(a < b);
}
// Of unsigned integers.
template <typename T>
inline bool compare_lo(T a, T b) {
  return a < b;
}
template <typename T>
inline bool compare_ls(T a, T b) {
  return a <= b;
}
template <typename T>
inline bool compare_hi(T a, T b) {
  return a > b;
}
template <typename T>
inline bool compare_hs(T a, T b) {
  return a >= b;
}

// ---- conversions ---------------------------------------------------------------------------------------------------

enum class Rounding { kNone, kNearest, kZero, kDown, kUp };

// From real numbers to integers: saturates, and a NaN gives 0.
template <typename To, typename From, Rounding kRounding, bool kSaturated>
inline To cvt(From x) {
  if constexpr (kReal<From>) {
    From rounded = x;
    if constexpr (kRounding == Rounding::kNearest) rounded = std::nearbyint(x);
    if constexpr (kRounding == Rounding::kZero && !(kReal<To> && sizeof(To) < sizeof(From))) rounded = std::trunc(x);
    if constexpr (kRounding == Rounding::kDown) rounded = std::floor(x);
    if constexpr (kRounding == Rounding::kUp) rounded = std::ceil(x);
    if constexpr (kReal<To>) {
      static_assert(kRounding == Rounding::kNone || sizeof(To) == sizeof(From), "how it rounds is not known");
      const To result = static_cast<To>(rounded);
      return !kSaturated ? result : !(result > 0) ? To(0) : result > 1 ? To(1) : result;
    } else {
      constexpr auto kLow = std::numeric_limits<To>::min(), kHigh = std::numeric_limits<To>::max();
      if (x != x) return 0;
      if (static_cast<long double>(rounded) <= static_cast<long double>(kLow)) return kLow;
      if (static_cast<long double>(rounded) >= static_cast<long double>(kHigh)) return kHigh;
      return static_cast<To>(rounded);
    }
  } else if constexpr (kReal<To>) {
    static_assert(kRounding == Rounding::kNone, "how it rounds is not known");
    return static_cast<To>(x);
  } else if constexpr (kSaturated) {
    const __int128 low = std::numeric_limits<To>::min(), high = std::numeric_limits<To>::max();
    return static_cast<To>(std::clamp<__int128>(x, low, high));
  } else {
    return static_cast<To>(x);
  }
}

// 16-bit floating point, kExponent bits of it the exponent. Rounds to the nearest, ties to even; a NaN is 0x7fff.
template <int kExponent>
struct Float {
  static constexpr int kMantissa = 15 - kExponent, kBias = (1 << (kExponent - 1)) - 1;

  static float value(uint16_t bits) {
    const int exponent = bits >> kMantissa & ((1 << kExponent) - 1), mantissa = bits & ((1 << kMantissa) - 1);
    float magnitude;
    if (exponent == (1 << kExponent) - 1) {
      magnitude = mantissa == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    } else {
      magnitude =
          static_cast<float>(exponent == 0 ? std::ldexp(mantissa, 1 - kBias - kMantissa)
                                           : std::ldexp(mantissa + (1 << kMantissa), exponent - kBias - kMantissa));
    }
    return bits >> 15 ? -magnitude : magnitude;
  }

  static uint16_t bits(float x) {
    if (x != x) return 0x7fff;
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    constexpr uint16_t kInfinity = ((1 << kExponent) - 1) << kMantissa;
    if (std::isinf(x)) return sign | kInfinity;
    if (x == 0) return sign;
    int exponent;
    std::frexp(x, &exponent);                      // |x| in [2^(exponent - 1), 2^exponent)
    exponent = std::max(exponent - 1, 1 - kBias);  // subnormal numbers share the smallest
    const double units = std::nearbyint(std::ldexp(std::fabs(static_cast<double>(x)), kMantissa - exponent));
    // A unit more than the mantissa holds carries into the exponent, and beyond the largest into infinity.
    const double pattern = units + std::ldexp(exponent + kBias - 1, kMantissa);
    return sign | static_cast<uint16_t>(std::min<double>(pattern, kInfinity));
  }
};
using Float16 = Float<5>;
using BFloat16 = Float<8>;

}  // namespace dsa_fast::ptx
