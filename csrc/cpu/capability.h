// The processor's instruction sets: chosen at run time, since one library serves every machine of its architecture.
#pragma once

#include <cstdlib>
#include <cstring>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#include <immintrin.h>
#define DSA_FAST_X86 1
#define DSA_FAST_AVX2 __attribute__((target("avx2,fma")))
#define DSA_FAST_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,prefer-vector-width=512")))
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
  if (!plain && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Capability::kAvx2;
#endif
  return Capability::kPlain;
}

// The best that the processor has; DSA_FAST_CPU_CAPABILITY=plain or avx2 forbids better ones, for tests.
inline Capability capability() {
  static const Capability found = find_capability();
  return found;
}

}  // namespace dsa_fast
