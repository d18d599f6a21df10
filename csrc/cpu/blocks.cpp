#include "blocks.h"

#ifdef __linux__

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace dsa_fast {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

struct Block {
  void* data;
  int64_t bytes;
  bool spare;
  int64_t since;  // the number of takes when it became spare
};

void* map(int64_t bytes) {
  // Larger by a huge page, of which the parts around the aligned block go back.
  void* mapped =
      mmap(nullptr, static_cast<size_t>(bytes + kHugePage), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* first = static_cast<char*>(mapped);
  const auto before = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(first) % kHugePage);
  if (before > 0) munmap(first, static_cast<size_t>(before));
  munmap(first + before + bytes, static_cast<size_t>(kHugePage - before));
#ifdef MADV_HUGEPAGE
  madvise(first + before, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // only advice: it may fail
#endif
  return first + before;
}

int64_t limit_of_environment() {
  const char* text = std::getenv("DSA_FAST_KEEP_MIB");
  if (text == nullptr || *text == '\0') return int64_t{512} << 20;
  return std::clamp<int64_t>(std::atoll(text), 0, int64_t{1} << 40) << 20;
}

class Blocks {
 public:
  void* take(int64_t bytes) {
    bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    const std::lock_guard<std::mutex> lock(mutex_);
    ++takes_;
    // The smallest spare one that is large enough, but not twice as large.
    Block* best = nullptr;
    for (Block& block : all_) {
      const bool fits = block.spare && block.bytes >= bytes && block.bytes / 2 < bytes;
      if (fits && (best == nullptr || block.bytes < best->bytes)) best = &block;
    }
    void* data = best == nullptr ? nullptr : best->data;
    if (best != nullptr) best->spare = false;
    trim();
    if (data != nullptr) return data;
    all_.reserve(all_.size() + 1);
    data = map(bytes);
    if (data != nullptr) all_.push_back({data, bytes, false, 0});
    return data;
  }

  void give_back(void* data) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto block = std::find_if(all_.begin(), all_.end(), [&](const Block& one) { return one.data == data; });
    if (block == all_.end()) return;
    block->spare = true;
    block->since = takes_;
    trim();
  }

  BlockBytes bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    BlockBytes sum{0, 0};
    for (const Block& block : all_) {
      sum.all += block.bytes;
      sum.spare += block.spare ? block.bytes : 0;
    }
    return sum;
  }

  void before_fork() { mutex_.lock(); }
  void after_fork_in_parent() { mutex_.unlock(); }
  void after_fork_in_child() {
    drop([](const Block&) { return true; });
    mutex_.unlock();
  }

 private:
  // Gives spare blocks back to the system: those that were idle for long, and the oldest beyond the limit.
  void trim() {
    drop([&](const Block& block) { return takes_ - block.since > kIdleTakes || block.bytes > limit_; });
    for (;;) {
      int64_t bytes = 0;
      const Block* oldest = nullptr;
      for (const Block& block : all_) {
        if (!block.spare) continue;
        bytes += block.bytes;
        if (oldest == nullptr || block.since < oldest->since) oldest = &block;
      }
      if (bytes <= limit_) return;
      drop([data = oldest->data](const Block& block) { return block.data == data; });
    }
  }

  // Unmaps the spare blocks that condition(block) selects.
  template <typename F>
  void drop(const F& condition) {
    for (size_t k = 0; k < all_.size();) {
      if (all_[k].spare && condition(all_[k])) {
        munmap(all_[k].data, static_cast<size_t>(all_[k].bytes));
        all_.erase(all_.begin() + static_cast<int64_t>(k));
      } else {
        ++k;
      }
    }
  }

  const int64_t limit_ = limit_of_environment();
  std::mutex mutex_;
  std::vector<Block> all_;
  int64_t takes_ = 0;
};

// Never destroyed: tensors may outlive static objects.
Blocks& blocks() {
  static Blocks* const made = [] {
    auto* first = new Blocks;
    pthread_atfork([] { blocks().before_fork(); }, [] { blocks().after_fork_in_parent(); },
                   [] { blocks().after_fork_in_child(); });
    return first;
  }();
  return *made;
}

}  // namespace

void* take_block(int64_t bytes) { return blocks().take(bytes); }
void give_back_block(void* data) { blocks().give_back(data); }
BlockBytes block_bytes() { return blocks().bytes(); }

}  // namespace dsa_fast

#else  // elsewhere the C library's memory is used

namespace dsa_fast {

void* take_block(int64_t) { return nullptr; }
void give_back_block(void*) {}
BlockBytes block_bytes() { return {0, 0}; }

}  // namespace dsa_fast

#endif
