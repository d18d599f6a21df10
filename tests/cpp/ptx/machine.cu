// Kernels that try the machine (test_machine.cpp): instructions, shared memory, barriers, and mistakes to be caught.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "test_machine.h"

namespace dsa_fast::test {
namespace {

// Sums each block's numbers by halves. The scale goes through static shared memory, the rest through dynamic one.
__global__ void __launch_bounds__(kMachineThreads) sum_blocks(const uint32_t* x, int n, uint32_t* sums) {
  __shared__ uint32_t scale;
  extern __shared__ __align__(16) uint32_t partial[];
  const int thread = threadIdx.x;
  const int element = blockIdx.x * blockDim.x + thread;
  partial[thread] = element < n ? x[element] : 0;
  if (thread == kMachineThreads - 1) scale = 2 + blockIdx.x;
  __syncthreads();
  for (int width = 32; width > 0; width /= 2) {
    if (thread < width && thread + width < kMachineThreads) partial[thread] += partial[thread + width];
    __syncthreads();
  }
  if (thread == 0) sums[blockIdx.x] = scale * partial[0];
}

// Counts values in shared memory: vectors, an atomic of inline assembly with a predicate of its own, a read that is not
// kept in the cache.
__global__ void histogram(const uint32_t* x, int n, int32_t* counts) {
  extern __shared__ __align__(16) int32_t bins[];
  for (int k = threadIdx.x; k < kBins / 4; k += blockDim.x) reinterpret_cast<int4*>(bins)[k] = make_int4(0, 0, 0, 0);
  __syncthreads();
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(bins));
  for (int k = threadIdx.x; k < n; k += blockDim.x) {
    uint32_t value;
    asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(value) : "l"(x + k));
    asm volatile("{.reg .pred p; setp.lt.u32 p, %1, %2; @p red.shared.add.s32 [%0], 1;}" ::"r"(address + 4 * value),
                 "r"(value), "r"(kBins)
                 : "memory");
  }
  __syncthreads();
  for (int k = threadIdx.x; k < kBins / 2; k += blockDim.x) {
    reinterpret_cast<int2*>(counts)[k] = reinterpret_cast<const int2*>(bins)[k];
  }
}

// The results of many instructions for each pair of words.
__global__ void compute(const uint32_t* a, const uint32_t* b, int n, uint32_t* out) {
  const int k = blockIdx.x * blockDim.x + threadIdx.x;
  if (k >= n) return;
  const uint32_t x = a[k], y = b[k];
  const auto sx = static_cast<int32_t>(x), sy = static_cast<int32_t>(y);
  const float fx = __uint_as_float(x), fy = __uint_as_float(y);
  const double dx = fx, dy = fy;
  uint32_t* to = out + static_cast<int64_t>(k) * kResults;
  int r = 0;
  to[r++] = x + y;
  to[r++] = x * y;
  to[r++] = __umulhi(x, y);
  to[r++] = static_cast<uint32_t>(__mulhi(sx, sy));
  to[r++] = x / (y | 1);
  to[r++] = static_cast<uint32_t>(sx % (sy | 1));
  to[r++] = x >> (y & 31);
  to[r++] = static_cast<uint32_t>(sx >> (y & 31));
  to[r++] = __byte_perm(x, y, y);
  to[r++] = __vminu2(x, y);
  to[r++] = __vmaxs2(x, y);
  to[r++] = __funnelshift_l(x, y, y);
  to[r++] = __funnelshift_rc(x, y, x);
  to[r++] = __dp4a(x, y, x);
  to[r++] = __popc(x);
  to[r++] = __clz(x & y);
  to[r++] = __brev(x);
  to[r++] = static_cast<uint32_t>((static_cast<int64_t>(sx) * sy) >> 7);
  to[r++] = __float_as_uint(fminf(fx, fy));
  to[r++] = __float_as_uint(fmaxf(fx, fy));
  to[r++] = __float_as_uint(__fmaf_rn(fx, fy, fx));
  to[r++] = __float_as_uint(fx / fy);
  to[r++] = static_cast<uint32_t>(__float2int_rz(fx));
  to[r++] = static_cast<uint32_t>(__float2int_rn(fx));
  to[r++] = __double2uint_rd(dx);
  to[r++] = __float_as_uint(static_cast<float>(dx * dy));
  to[r++] = static_cast<uint32_t>(fx < fy) | static_cast<uint32_t>(!(fx <= fy)) << 1 |
            static_cast<uint32_t>(fx != fy) << 2 | static_cast<uint32_t>(!(fx == fy)) << 3;
  to[r++] = __half_as_ushort(__float2half_rn(fx));
  to[r++] = __float_as_uint(__half2float(__ushort_as_half(static_cast<uint16_t>(y))));
  to[r++] = __bfloat16_as_ushort(__float2bfloat16_rn(fx));
  // An array whose elements are chosen at run time is in local memory.
  uint32_t kept[8];
  for (int i = 0; i < 8; ++i) kept[i] = x * i;
  for (uint32_t i = 0; i < (y & 63); ++i) kept[(x + i) & 7] ^= i;
  to[r++] = kept[y & 7] ^ kept[(x >> 3) & 7];
}

// One mistake each. `data` has room for one number per thread.
__global__ void mistake(Mistake which, uint32_t* data, int n) {
  extern __shared__ __align__(16) uint32_t shared[];
  const int t = threadIdx.x;
  if (which == Mistake::kMisaligned) {
    *reinterpret_cast<uint32_t*>(reinterpret_cast<char*>(data) + 2) = 1;
  } else if (which == Mistake::kMisalignedVector) {
    if (t == 0) *reinterpret_cast<uint2*>(data + 1) = make_uint2(1, 2);
  } else if (which == Mistake::kOutside) {
    data[t + 1] = 1;
  } else if (which == Mistake::kOutsideShared) {
    shared[t + 1] = data[t];
    data[t] = shared[t + 1];
  } else if (which == Mistake::kRaceInShared) {
    shared[t] = data[t];
    data[t] = shared[(t + 1) % n];
  } else if (which == Mistake::kRaceOfBlocks) {
    data[t] = 1;
  } else if (which == Mistake::kRaceWithAtomic) {
    if (t == 3) atomicAdd(data + 5, 1);
    if (t == 4) data[5] = 7;
  } else if (which == Mistake::kMissedBarrier) {
    if (t != 7) __syncthreads();
  } else if (which == Mistake::kWriteOfConstant) {
    uint32_t value;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(value) : "l"(data + t));
    data[t] = value + 1;
  }
}

}  // namespace

void run_sum_blocks(int blocks, int threads, size_t shared, const uint32_t* x, int n, uint32_t* sums) {
  sum_blocks<<<blocks, threads, shared>>>(x, n, sums);
}
int allow_shared_of_sum_blocks(int bytes) {
  return cudaFuncSetAttribute(sum_blocks, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
void run_histogram(const uint32_t* x, int n, int32_t* counts) {
  histogram<<<1, 96, kBins * sizeof(int32_t)>>>(x, n, counts);
}
void run_compute(const uint32_t* a, const uint32_t* b, int n, uint32_t* out) {
  compute<<<(n + 63) / 64, 64>>>(a, b, n, out);
}
void run_mistake(Mistake which, int blocks, uint32_t* data, int n) {
  mistake<<<blocks, n, n * sizeof(uint32_t)>>>(which, data, n);
}
void run_grid(unsigned x, unsigned y, unsigned z, unsigned threads) {
  mistake<<<dim3(x, y, z), threads>>>(Mistake::kNone, nullptr, 0);
}

}  // namespace dsa_fast::test
