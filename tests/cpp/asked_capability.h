// For tests that are run once with each instruction set.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string_view>

#if !defined(__CUDACC__)
#include "../../csrc/cpu/capability.h"
#endif

namespace dsa_fast::test {

// Ends the test if DSA_FAST_CPU_CAPABILITY names what the processor does not have: the kernels would take the code for
// the next lower instruction set, which a test of its own runs.
inline void skip_unless_capable() {
#if !defined(__CUDACC__)
  const char* asked = std::getenv("DSA_FAST_CPU_CAPABILITY");
  if (asked == nullptr) return;
  [[maybe_unused]] const std::string_view name = asked;
  bool there = name == "plain";
#ifdef DSA_FAST_X86
  there = there || (name == "avx2" && capability() != Capability::kPlain);
  there = there || (name == "avx512" && capability() == Capability::kAvx512);
#endif
#ifdef DSA_FAST_AMX
  there = there || (name == "amx" && has_amx());
#endif
  if (there) return;
  std::printf("skipped: the processor has no %s\n", asked);
  std::exit(77);
#endif
}

}  // namespace dsa_fast::test
