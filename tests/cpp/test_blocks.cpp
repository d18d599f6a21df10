// Tests the memory of large results: it is kept for the next ones, within limits, by any thread and after a fork.
#include "../../csrc/cpu/blocks.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "scaffold.h"

namespace {

using namespace dsa_fast;
using namespace dsa_fast::test;

constexpr int64_t kMiB = int64_t{1} << 20;

void fill(void* data, int64_t bytes, int value) { std::memset(data, value, static_cast<size_t>(bytes)); }

// Takes and gives back blocks of a size until idle ones are gone.
void rest() {
  for (int64_t k = 0; k <= kIdleTakes + 1; ++k) give_back_block(take_block(2 * kMiB));
}

void test_reuse() {
  void* first = take_block(40 * kMiB + 5);
  check(reinterpret_cast<uintptr_t>(first) % 64 == 0, "aligned");
  fill(first, 40 * kMiB + 5, 1);
  check(block_bytes().spare == 2 * kMiB && block_bytes().all == 44 * kMiB, "one block, in use");
  void* second = take_block(40 * kMiB);
  fill(second, 40 * kMiB, 2);
  check(second != first && *static_cast<char*>(first) == 1, "another block");
  give_back_block(first);
  check(block_bytes().spare == 44 * kMiB, "it is kept");
  void* larger = take_block(60 * kMiB);
  check(larger != first, "too small");
  give_back_block(larger);
  void* third = take_block(30 * kMiB);
  check(third == first, "the same memory");
  give_back_block(third);
  void* fourth = take_block(20 * kMiB);
  check(fourth != first, "more than half would be idle");
  give_back_block(fourth);
  give_back_block(second);
}

void test_limits() {
  rest();
  std::vector<void*> many;
  for (int k = 0; k < 8; ++k) many.push_back(take_block(100 * kMiB));
  for (void* data : many) give_back_block(data);
  check(block_bytes().spare == 500 * kMiB, "512 MiB at most, of these five");
  give_back_block(take_block(600 * kMiB));
  check(block_bytes().spare == 500 * kMiB, "a larger one is not kept");
  rest();
  check(block_bytes().spare == 2 * kMiB, "idle ones go back");
  check(take_block(int64_t{1} << 55) == nullptr, "more than there is");
}

void test_threads() {
  std::vector<std::thread> threads;
  std::vector<int> wrong(8, 0);
  for (size_t k = 0; k < wrong.size(); ++k) {
    threads.emplace_back([&, k] {
      for (int64_t call = 0; call < 100; ++call) {
        const int64_t bytes = (2 + 2 * (call % 5)) * kMiB;
        auto* data = static_cast<char*>(take_block(bytes));
        data[0] = data[bytes - 1] = static_cast<char>(k);
        std::this_thread::yield();
        wrong[k] += data[0] != static_cast<char>(k) || data[bytes - 1] != static_cast<char>(k);
        give_back_block(data);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  check(wrong == std::vector<int>(8, 0), "no block has two users");
}

void test_fork() {
  auto* mine = static_cast<char*>(take_block(4 * kMiB));
  mine[5] = 7;
  give_back_block(take_block(6 * kMiB));
  std::atomic<bool> stop{false};
  std::thread other([&] {  // its calls are interrupted anywhere
    while (!stop) give_back_block(take_block(2 * kMiB));
  });
  for (int k = 0; k < 10; ++k) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      bool good = block_bytes().spare == 0 && mine[5] == 7;
      auto* data = static_cast<char*>(take_block(6 * kMiB));
      data[0] = 1;
      give_back_block(data);
      give_back_block(mine);
      good &= block_bytes().spare >= 10 * kMiB;
      _exit(good ? 0 : 1);
    }
    int status = 1;
    check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a child has blocks of its own");
  }
  stop = true;
  other.join();
  check(mine[5] == 7, "the parent's block is its own");
  give_back_block(mine);
}

}  // namespace

void run_tests(const std::vector<std::string>& arguments) {
  give_back_block(take_block(kMiB));
  if (block_bytes().all == 0 && arguments.empty()) return;  // not on this system
  if (!arguments.empty()) {                                 // DSA_FAST_KEEP_MIB=0
    give_back_block(take_block(40 * kMiB));
    check(block_bytes().spare == 0, "nothing is kept");
    return;
  }
  rest();
  test_reuse();
  test_limits();
  test_threads();
  test_fork();
}
