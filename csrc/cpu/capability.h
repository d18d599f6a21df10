// The processor's instruction sets, chosen at run time, so one library works on every machine of its architecture.
#pragma once

#include "../platform.h"

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
#define DSA_FAST_AMX \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,popcnt,amx-tile,amx-bf16")))
#endif
#endif

namespace dsa_fast {

enum class Capability { kPlain, kAvx2, kAvx512 };

// The best one that the processor has. For tests, DSA_FAST_CPU_CAPABILITY=plain, avx2 or avx512 sets an upper limit.
Capability capability();

#ifdef DSA_FAST_X86
inline bool has_avx2() {  // regardless of the variable
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
#endif

#ifdef DSA_FAST_AMX
// Whether the processor multiplies tiles of bfloat16, in addition to all of kAvx512.
bool has_amx();
#endif

}  // namespace dsa_fast
