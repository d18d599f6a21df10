// The processor's instruction sets: chosen at run time, since one library serves every machine of its architecture.
#pragma once

#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#include <immintrin.h>
#define DSA_FAST_X86 1
#define DSA_FAST_AVX2 __attribute__((target("avx2,fma,f16c")))
#ifdef __clang__
#define DSA_FAST_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt")))
#else
#define DSA_FAST_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,popcnt,prefer-vector-width=512")))
#endif
#if defined(__x86_64__) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define DSA_FAST_AMX \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,popcnt,amx-tile,amx-bf16")))
#endif
#endif

// For the bodies of functions that are compiled once for each instruction set.
#define DSA_FAST_INLINE inline __attribute__((always_inline))

namespace dsa_fast {

enum class Capability { kPlain, kAvx2, kAvx512 };

inline Capability find_capability() {
#ifdef DSA_FAST_X86
  const char* limit = std::getenv("DSA_FAST_CPU_CAPABILITY");
  const bool plain = limit != nullptr && std::strcmp(limit, "plain") == 0;
  const bool avx2 = limit != nullptr && std::strcmp(limit, "avx2") == 0;
  if (!plain && !avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Capability::kAvx512;
  }
  if (!plain && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return Capability::kAvx2;
  }
#endif
  return Capability::kPlain;
}

// The best that the processor has; DSA_FAST_CPU_CAPABILITY=plain, avx2 or avx512 forbids better ones, for tests.
inline Capability capability() {
  static const Capability found = find_capability();
  return found;
}

#ifdef DSA_FAST_AMX
inline bool find_amx() {
  const char* limit = std::getenv("DSA_FAST_CPU_CAPABILITY");
  if (limit != nullptr && std::strcmp(limit, "avx512") == 0) return false;
  if (capability() != Capability::kAvx512) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & (1u << 5)) == 0) return false;  // AVX-512 for bfloat16
  // Linux lends the tiles' state to processes that ask, all their threads together.
  constexpr long kAskFor = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}

// Whether the processor multiplies tiles of bfloat16, beside all of kAvx512.
inline bool has_amx() {
  static const bool found = find_amx();
  return found;
}
#endif

}  // namespace dsa_fast
