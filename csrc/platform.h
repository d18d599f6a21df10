// Differences between compilers: functions for host and device, forced inlining, the fused multiply-add.
#pragma once

#if defined(__CUDACC__)
#define DSA_FAST_HD __host__ __device__ __forceinline__
#else
#define DSA_FAST_HD inline
#endif

// For the bodies of functions that are compiled once per instruction set.
#define DSA_FAST_INLINE inline __attribute__((always_inline))

namespace dsa_fast {

// a * b + c: rounded once, or, unfused, once for the product and once for the sum.
template <bool kFused = true>
DSA_FAST_HD float multiply_add(float a, float b, float c) {
  if constexpr (!kFused) return a * b + c;
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

}  // namespace dsa_fast
