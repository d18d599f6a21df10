// The machine that runs translated kernels: threads, blocks, memory, and the checks of each access.
//
// translate.py turns each kernel into a function that runs one thread up to its end or its next barrier. runtime.cpp
// stands in for the CUDA runtime: it launches these functions, in a new random order of threads each time. An access
// that a GPU would refuse, or whose result would depend on the order of threads, ends the program with a message:
//   - outside of what cudaMalloc or cudaMallocManaged gave, of the block's shared memory, or of a thread's local
//   memory;
//   - not aligned to its whole size, vectors included;
//   - a race: two threads use the same byte without a barrier between them, and one of them writes it, unless both
//     uses are atomic;
//   - a write of memory that the same launch reads as constant (ld.global.nc).
#pragma once

#include <cstddef>
#include <cstdint>

namespace dsa_fast::ptx {

struct Extent {
  uint32_t x, y, z;
};

struct Thread;

struct Kernel {
  const char* mutation;  // "" is the healthy kernel
  int arch;              // 75: compute capability 7.5
  const char* name;      // mangled
  const char* file;      // its PTX
  bool (*run)(Thread&);  // true: the thread has ended; false: it waits at a barrier
  size_t register_bytes;
  uint32_t shared_bytes;  // static
  uint32_t local_bytes;   // of a thread
  uint32_t max_threads;   // of a block
  bool by_block;          // has barriers or shared memory
};

// Enters the kernels of a file into the machine's table.
struct Registration {
  Registration(const Kernel* kernels, size_t count);
};

struct Launch {
  const Kernel* kernel;
  Extent grid, block;
  uint32_t threads;  // of a block
  void** arguments;
  uint32_t dynamic_offset;  // of dynamic shared memory, behind the static one
  uint32_t shared_bytes;    // both
  uint32_t number;          // counts from 1
};

struct Thread {
  const Launch& launch;
  Extent block, thread;  // its indexes
  uint32_t id;           // in the grid, block by block, counted from 1
  uint32_t resume;       // the barrier it waits at; 0: it has not begun
  char* registers;       // what an earlier thread left, until it writes them
  char* local;

  bool wait(uint32_t barrier) {
    resume = barrier;
    return false;
  }
  uint32_t lane() const { return (thread.x + launch.block.x * (thread.y + launch.block.y * thread.z)) % 32; }
  uint64_t local_address(uint32_t offset) const { return reinterpret_cast<uintptr_t>(local + offset); }
  uint64_t argument_address(int k) const { return reinterpret_cast<uintptr_t>(launch.arguments[k]); }
  // Between offsets in shared memory and generic addresses.
  uint64_t to_generic(uint64_t offset) const;
  uint64_t from_generic(uint64_t address) const;
};

enum class Space { kGlobal, kShared, kLocal, kParam, kGeneric };
enum class Access { kRead, kReadConstant, kWrite, kAtomic };

// Checks an access and returns where it goes.
char* checked(Thread& thread, Space space, Access access, uint64_t address, size_t bytes, int line);

// Ends the program with a message that names the kernel, the thread and the line of the PTX.
[[noreturn]] void fail(const Thread& thread, int line, const char* what);

}  // namespace dsa_fast::ptx
