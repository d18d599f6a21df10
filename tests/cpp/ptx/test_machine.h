// The launches of machine.cu.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsa_fast::test {

constexpr int kMachineThreads = 37, kBins = 64, kResults = 31;

enum class Mistake {
  kNone,
  kMisaligned,
  kMisalignedVector,
  kOutside,
  kOutsideShared,
  kRaceInShared,
  kRaceOfBlocks,
  kRaceWithAtomic,
  kMissedBarrier,
  kWriteOfConstant,
};

void run_sum_blocks(int blocks, int threads, size_t shared, const uint32_t* x, int n, uint32_t* sums);
int allow_shared_of_sum_blocks(int bytes);
void run_histogram(const uint32_t* x, int n, int32_t* counts);
void run_compute(const uint32_t* a, const uint32_t* b, int n, uint32_t* out);  // out [n, kResults]
void run_mistake(Mistake which, int blocks, uint32_t* data, int n);
void run_grid(unsigned x, unsigned y, unsigned z, unsigned threads);

}  // namespace dsa_fast::test
