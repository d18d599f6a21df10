// Memory of large results, which is kept for the next ones.
//
// The C library gets the memory of each large tensor anew from the system and gives it back at once. The system's work
// for that, a page fault and zeros for each page, takes longer than a warp. These blocks are kept instead: at most
// DSA_FAST_KEEP_MIB MiB of them (a variable read once, 512 without it, 0 keeps none), and none that kIdleTakes later
// results had no use for. They consist of huge pages where the system allows it.
//
// All functions may be called by any thread. A child of fork() keeps none of its parent's spare blocks.
#pragma once

#include <cstdint>

namespace dsa_fast {

constexpr int64_t kLargeBlock = int64_t{31} << 20;  // glibc keeps smaller ones itself, with their overhead up to 32 MiB
constexpr int64_t kIdleTakes = 16;

// A block of at least so many bytes, aligned to 64, whatever is in it. Null if there is none: use other memory.
void* take_block(int64_t bytes);

// A block that take_block returned.
void give_back_block(void* data);

// The bytes of the spare blocks, and of all.
struct BlockBytes {
  int64_t spare, all;
};
BlockBytes block_bytes();

}  // namespace dsa_fast
