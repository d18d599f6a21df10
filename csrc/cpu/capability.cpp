#include "capability.h"

#include <cstdlib>
#include <string_view>

#ifdef DSA_FAST_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dsa_fast {
namespace {

[[maybe_unused]] bool limited_to(std::string_view name) {
  const char* limit = std::getenv("DSA_FAST_CPU_CAPABILITY");
  return limit != nullptr && limit == name;
}

Capability find_capability() {
#ifdef DSA_FAST_X86
  if (limited_to("plain")) return Capability::kPlain;
  if (!limited_to("avx2") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return Capability::kAvx512;
  }
  if (has_avx2()) return Capability::kAvx2;
#endif
  return Capability::kPlain;
}

#ifdef DSA_FAST_AMX
bool find_amx() {
  if (limited_to("avx512") || capability() != Capability::kAvx512) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0 || (a & (1u << 5)) == 0) return false;  // AVX-512 for bfloat16
  // Linux enables the tile state on request, for all threads of the process.
  constexpr long kAskFor = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kAskFor, kTileData) == 0;
}
#endif

}  // namespace

Capability capability() {
  static const Capability found = find_capability();
  return found;
}

#ifdef DSA_FAST_AMX
bool has_amx() {
  static const bool found = find_amx();
  return found;
}
#endif

}  // namespace dsa_fast
