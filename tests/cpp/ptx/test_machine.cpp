// Tests the machine that runs compiled kernels: its instructions, the limits of launches, how errors stay, and that it
// ends the program for each kind of mistake.
#include "test_machine.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <limits>

#include "../scaffold.h"

namespace {

constexpr int kThreads = kMachineThreads;

// ---- shared memory and barriers ------------------------------------------------------------------------------------

void test_sums() {
  constexpr int kBlocks = 5;
  DeviceVector<uint32_t> x(kBlocks * kThreads - 3), sums(kBlocks);
  std::vector<uint32_t> expected(kBlocks, 0);
  for (size_t k = 0; k < x.size(); ++k) {
    x[k] = static_cast<uint32_t>(rng());
    expected[k / kThreads] += x[k] * (2 + static_cast<uint32_t>(k / kThreads));
  }
  for (int again = 0; again < 10; ++again) {
    std::fill(sums.begin(), sums.end(), 0);
    run_sum_blocks(kBlocks, kThreads, kThreads * sizeof(uint32_t), x.data(), static_cast<int>(x.size()), sums.data());
    check(std::equal(sums.begin(), sums.end(), expected.begin()), "sums of blocks");
  }
}

void test_histogram() {
  DeviceVector<uint32_t> x(1000);
  DeviceVector<int32_t> counts(kBins);
  std::vector<int32_t> expected(kBins);
  for (uint32_t& value : x) {
    value = static_cast<uint32_t>(below(kBins + 9));  // those beyond are not counted
    if (value < kBins) ++expected[value];
  }
  run_histogram(x.data(), static_cast<int>(x.size()), counts.data());
  check(std::equal(counts.begin(), counts.end(), expected.begin()), "histogram");
}

// ---- instructions --------------------------------------------------------------------------------------------------

uint16_t half_of(uint32_t x, int k) { return static_cast<uint16_t>(x >> (16 * k)); }

uint32_t byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  uint32_t result = 0;
  for (int k = 0; k < 4; ++k) {
    result |= static_cast<uint32_t>(bytes >> (8 * (selector >> (4 * k) & 7)) & 255) << (8 * k);
  }
  return result;
}

int32_t saturated(double x, bool nearest) {  // NaN: 0
  if (std::isnan(x)) return 0;
  const double whole = nearest ? std::nearbyint(x) : std::trunc(x);
  return static_cast<int32_t>(std::min(2147483647.0, std::max(-2147483648.0, whole)));
}

// NaNs have many patterns.
bool same_float(uint32_t got, float expected) {
  return std::isnan(expected) ? std::isnan(float_of(got)) : got == bits_of(expected);
}

void test_instructions() {
  DeviceVector<uint32_t> a, b;
  const float odd[] = {0.0f,
                       -0.0f,
                       1.0f,
                       -1.0f,
                       0.5f,
                       2.5f,
                       -3.5f,
                       65504.0f,
                       65520.0f,
                       6e-8f,
                       3e-8f,
                       1e-40f,
                       3e38f,
                       -3e38f,
                       2147483648.0f,
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  for (const float x : odd) {
    for (const float y : odd) a.push_back(bits_of(x)), b.push_back(bits_of(y));
  }
  for (int k = 0; k < 3000; ++k) {
    a.push_back(static_cast<uint32_t>(rng()));
    b.push_back(k % 3 == 0 ? a.back() ^ static_cast<uint32_t>(below(4)) : static_cast<uint32_t>(rng()));
    if (k % 5 == 0)
      a.back() = (a.back() & 0x807fffffu) | static_cast<uint32_t>(95 + below(60)) << 23;  // float16's range
  }
  const auto n = static_cast<int>(a.size());
  DeviceVector<uint32_t> out(a.size() * kResults);
  run_compute(a.data(), b.data(), n, out.data());
  for (int k = 0; k < n; ++k) {
    const uint32_t x = a[size(k)], y = b[size(k)];
    const auto sx = static_cast<int32_t>(x), sy = static_cast<int32_t>(y), divisor = sy | 1;
    const float fx = float_of(x), fy = float_of(y);
    const uint32_t* got = out.data() + size(k) * kResults;
    int r = 0;
    const auto is = [&](uint32_t expected, const char* what) {
      check(got[r++] == expected, std::string(what) + " of " + show({x, y}));
    };
    const auto is_float = [&](float expected, const char* what) {
      check(same_float(got[r++], expected), std::string(what) + " of " + show({x, y}));
    };
    is(x + y, "sum");
    is(x * y, "product");
    is(static_cast<uint32_t>((uint64_t{x} * y) >> 32), "high product");
    is(static_cast<uint32_t>((int64_t{sx} * sy) >> 32), "high signed product");
    is(x / (y | 1), "quotient");
    is(divisor == -1 ? 0 : static_cast<uint32_t>(sx % divisor), "remainder");
    is(x >> (y & 31), "shift");
    is(static_cast<uint32_t>(sx >> (y & 31)), "signed shift");
    is(byte_perm(x, y, y & 0x7777u), "permutation");
    is(std::min(half_of(x, 0), half_of(y, 0)) | static_cast<uint32_t>(std::min(half_of(x, 1), half_of(y, 1))) << 16,
       "minima");
    const auto larger = [&](int h) {
      return static_cast<uint16_t>(std::max(static_cast<int16_t>(half_of(x, h)), static_cast<int16_t>(half_of(y, h))));
    };
    is(larger(0) | static_cast<uint32_t>(larger(1)) << 16, "maxima");
    const uint64_t joined = static_cast<uint64_t>(y) << 32 | x;
    is(static_cast<uint32_t>(joined << (y & 31) >> 32), "funnel shift to the left");
    is(static_cast<uint32_t>(joined >> std::min<uint32_t>(x, 32)), "funnel shift to the right");
    uint32_t dot = x;
    for (int shift = 0; shift < 32; shift += 8) dot += (x >> shift & 255) * (y >> shift & 255);
    is(dot, "dot product");
    is(static_cast<uint32_t>(__builtin_popcount(x)), "number of bits");
    is((x & y) == 0 ? 32 : static_cast<uint32_t>(__builtin_clz(x & y)), "leading zeros");
    uint32_t reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (x >> bit & 1) << (31 - bit);
    is(reversed, "reversed bits");
    is(static_cast<uint32_t>((int64_t{sx} * sy) >> 7), "wide product");
    const auto extreme = [&](bool low) {
      if (std::isnan(fx)) return fy;
      if (std::isnan(fy)) return fx;
      if (fx == fy) return std::signbit(fx) == low ? fx : fy;
      return (fx < fy) == low ? fx : fy;
    };
    is_float(extreme(true), "float minimum");
    is_float(extreme(false), "float maximum");
    is_float(std::fma(fx, fy, fx), "fused product");
    is_float(fx / fy, "float quotient");
    is(static_cast<uint32_t>(saturated(fx, false)), "truncation");
    is(static_cast<uint32_t>(saturated(fx, true)), "rounding");
    is(std::isnan(fx) ? 0 : static_cast<uint32_t>(std::min(4294967295.0, std::max(0.0, std::floor(double{fx})))),
       "floor");
    is_float(static_cast<float>(double{fx} * double{fy}), "double product");
    is(static_cast<uint32_t>(fx < fy) | static_cast<uint32_t>(!(fx <= fy)) << 1 | static_cast<uint32_t>(fx != fy) << 2 |
           static_cast<uint32_t>(!(fx == fy)) << 3,
       "comparisons");
    const auto half = static_cast<uint16_t>(got[r++]), bfloat = static_cast<uint16_t>(got[r + 1]);
    const float of_half = float_of(got[r++]);
    ++r;
    check(std::isnan(fx) ? half == 0x7fff : half == round_to_half(fx).bits, "float16 of " + show({x}));
    check(std::isnan(fx) ? bfloat == 0x7fff : bfloat == round_to_bfloat16(fx).bits, "bfloat16 of " + show({x}));
    check(same_float(bits_of(of_half), to_float(Half{half_of(y, 0)})), "float32 of " + show({half_of(y, 0)}));
    uint32_t kept[8];
    for (uint32_t i = 0; i < 8; ++i) kept[i] = x * i;
    for (uint32_t i = 0; i < (y & 63); ++i) kept[(x + i) & 7] ^= i;
    is(kept[y & 7] ^ kept[(x >> 3) & 7], "local memory");
    check(r == kResults, "the number of results");
  }
}

// ---- limits and errors ---------------------------------------------------------------------------------------------

void test_limits() {
  DeviceVector<uint32_t> x(kThreads, 1), sums(1);
  const auto sum = [&](size_t shared) { run_sum_blocks(1, kThreads, shared, x.data(), kThreads, sums.data()); };
  const auto error = [](const char* what, int expected) {
    check(cudaPeekAtLastError() == expected, std::string(what) + ": the error is seen");
    check(cudaGetLastError() == expected, std::string(what) + ": and taken");
    check(cudaGetLastError() == cudaSuccess, std::string(what) + ": once");
  };
  sum(48 << 10);
  error("48 KB of shared memory beside a static word", cudaErrorInvalidValue);
  sum((48 << 10) - 16);
  error("almost 48 KB of shared memory", cudaSuccess);
  int most = 0, default_most = 0;
  cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0);
  cudaDeviceGetAttribute(&default_most, cudaDevAttrMaxSharedMemoryPerBlock, 0);
  check(default_most == 48 << 10 && most > default_most, "attributes of shared memory");
  check(allow_shared_of_sum_blocks(most) == cudaErrorInvalidValue, "static memory counts too");
  error("too much shared memory", cudaErrorInvalidValue);
  check(allow_shared_of_sum_blocks(most - 16) == cudaSuccess, "shared memory that was asked for");
  sum(size(most) - 16);
  error("all shared memory", cudaSuccess);
  check(sums[0] == 2 * kThreads, "a sum with all shared memory");
  sum(size(most));
  error("more than all shared memory", cudaErrorInvalidValue);

  run_sum_blocks(1, kThreads + 1, 4 * (kThreads + 1), x.data(), kThreads, sums.data());
  error("more threads than its bounds", cudaErrorInvalidValue);
  run_grid(1, 65535, 1, 1);
  error("a high grid", cudaSuccess);
  const unsigned bad[][4] = {{0, 1, 1, 1},           {1, 65536, 1, 1}, {1, 1, 65536, 1},
                             {0x80000000u, 1, 1, 1}, {1, 1, 1, 1025},  {1, 1, 1, 0}};
  for (const auto& g : bad) {
    run_grid(g[0], g[1], g[2], g[3]);
    sum(kThreads * sizeof(uint32_t));  // it succeeds, and the error stays
    error("a bad grid", cudaErrorInvalidConfiguration);
  }
  std::vector<char> host(16);
  check(cudaMemsetAsync(nullptr, 0, 16, nullptr) == cudaErrorInvalidValue, "memset of nothing");
  error("memset of nothing", cudaErrorInvalidValue);
  check(cudaMemsetAsync(sums.data(), 0, sums.size() * 4 + 1, nullptr) == cudaErrorInvalidValue, "memset beyond an end");
  error("memset beyond an end", cudaErrorInvalidValue);
}

// ---- mistakes ------------------------------------------------------------------------------------------------------

// What a program that makes a mistake says before it ends; "" if it does not end with an error.
std::string message_of(Mistake which, int blocks, bool host_memory) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) std::abort();
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(pipe_ends[1], STDERR_FILENO);
    constexpr int kNumbers = 64;
    DeviceVector<uint32_t> device(kNumbers);
    std::vector<uint32_t> host(kNumbers);
    run_mistake(which, blocks, host_memory ? host.data() : device.data(), kNumbers);
    _exit(0);
  }
  close(pipe_ends[1]);
  std::string text;
  char buffer[512];
  for (ssize_t n; (n = read(pipe_ends[0], buffer, sizeof(buffer))) > 0;) text.append(buffer, static_cast<size_t>(n));
  close(pipe_ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 1 ? text : "";
}

void test_mistakes() {
  const auto says = [](Mistake which, const char* words, int blocks = 1, bool host_memory = false) {
    const std::string message = message_of(which, blocks, host_memory);
    check(message.find(words) != std::string::npos, "'" + std::string(words) + "' in: " + message);
    check(message.find("mistake") != std::string::npos, "the kernel's name in: " + message);
  };
  says(Mistake::kMisaligned, "write of 4 bytes that is not aligned");
  says(Mistake::kMisalignedVector, "write of 8 bytes that is not aligned");
  says(Mistake::kOutside, "write of 4 bytes outside of the device's memory");
  says(Mistake::kOutside, "outside of the device's memory", 1, true);
  says(Mistake::kOutsideShared, "write of 4 bytes at 256 of 256 bytes of shared memory");
  says(Mistake::kRaceInShared, "race: another thread has");
  says(Mistake::kRaceOfBlocks, "race: another thread has written here", 2);
  says(Mistake::kRaceWithAtomic, "race: another thread has written here");
  says(Mistake::kMissedBarrier, "did not reach a barrier");
  says(Mistake::kWriteOfConstant, "write of what is read as constant");
  check(message_of(Mistake::kNone, 1, false).empty(), "no mistake");
  check(message_of(Mistake::kRaceOfBlocks, 1, false).empty(), "no race within a block");
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  test_sums();
  test_histogram();
  test_instructions();
  test_limits();
  test_mistakes();
}
