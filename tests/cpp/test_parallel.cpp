// Tests the threads of the CPU kernels: every item is done once, and a call waits for no helper that has not begun.
#include <sys/wait.h>
#include <unistd.h>

#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

#include "../../csrc/cpu/parallel.h"
#include "scaffold.h"

namespace {

std::atomic<int64_t> threads{4};

}  // namespace

int64_t dsa_fast::num_threads() { return threads; }

namespace {

using namespace dsa_fast;
using namespace dsa_fast::test;

// Runs n items of so many elements. Returns how often each was done.
std::vector<int> times_done(int64_t n, int64_t elements) {
  std::vector<std::atomic<int>> done(static_cast<size_t>(n));
  parallel_for(n, elements, [&] { return [&](int64_t i) { ++done[static_cast<size_t>(i)]; }; });
  return {done.begin(), done.end()};
}

bool all_once(int64_t n, int64_t elements) {
  return times_done(n, elements) == std::vector<int>(static_cast<size_t>(n), 1);
}

void test_items() {
  for (const int64_t count : {1, 2, 3, 8, 2}) {
    threads = count;
    for (const int64_t n : {0, 1, 2, 3, 7, 64, 1000, 100000}) {
      for (const int64_t elements : {0, 1, 1000, 1 << 14, 1 << 20}) {
        check(all_once(n, elements), show({count, n, elements}) + ": every item once");
      }
    }
  }
}

// Each thread has its own worker, and items wait for each other: this needs all four.
void test_helpers_join() {
  threads = 4;
  std::mutex mutex;
  std::set<std::thread::id> seen;
  std::atomic<int> workers{0}, begun{0};
  parallel_for(4, kWorthAThread, [&] {
    ++workers;
    return [&](int64_t) {
      ++begun;
      while (begun < 4) std::this_thread::yield();
      const std::lock_guard<std::mutex> lock(mutex);
      seen.insert(std::this_thread::get_id());
    };
  });
  check(seen.size() == 4 && workers == 4, "four threads, each with a worker");
}

// The only helper is stuck in another call. This must return without it.
void test_nobody_waits_for_a_late_helper() {
  threads = 2;
  // The earlier tests have left more helpers: all must be stuck.
  std::atomic<int> stuck{0};
  std::atomic<bool> release{false};
  std::thread other([&] {
    threads = 8;
    parallel_for(8, kWorthAThread, [&] {
      return [&](int64_t) {
        ++stuck;
        while (!release) std::this_thread::yield();
      };
    });
  });
  while (stuck < 8) std::this_thread::yield();
  for (const int64_t count : {2, 8}) {
    threads = count;
    for (int k = 0; k < 20; ++k) check(all_once(100, kWorthAThread), "a call without helpers");
  }
  release = true;
  other.join();
  check(all_once(100, kWorthAThread), "a call after them");
}

void test_exceptions() {
  for (const int64_t count : {1, 4}) {
    threads = count;
    for (int k = 0; k < 200; ++k) {
      std::atomic<int64_t> done{0};
      refuses(
          [&] {
            parallel_for(1000, kWorthAThread, [&] {
              return [&](int64_t i) {
                if (i == 10 + k) throw std::runtime_error("item");
                ++done;
              };
            });
          },
          {"item"});
      check(done < 1000, "the rest is left out");
      refuses([&] { parallel_for(100, kWorthAThread, []() -> void (*)(int64_t) { throw std::bad_alloc(); }); },
              {"alloc"});
    }
    check(all_once(100, kWorthAThread), "a call after exceptions");
  }
}

void test_nested() {
  threads = 4;
  std::atomic<int64_t> done{0};
  parallel_for(20, kWorthAThread, [&] {
    return [&](int64_t) {
      const auto me = std::this_thread::get_id();
      parallel_for(30, kWorthAThread,
                   [&] { return [&](int64_t) { done += me == std::this_thread::get_id() ? 1 : 1000; }; });
    };
  });
  check(done == 600, "a call inside an item stays on its thread");
}

void test_many_callers() {
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int64_t k = 0; k < 8; ++k) {
    callers.emplace_back([&, k] {
      for (int64_t call = 0; call < 300; ++call) {
        threads = 1 + (k + call) % 6;
        wrong += !all_once(call % 37, kWorthAThread / (1 + call % 3));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  check(wrong == 0, "calls of many threads while their number changes");
}

// Helpers that come late find the call gone, and its memory used by another.
void test_short_calls() {
  threads = 8;
  int wrong = 0;
  for (int k = 0; k < 20000; ++k) wrong += !all_once(8, kWorthAThread);
  check(wrong == 0, "short calls");
}

void test_fork() {
#ifndef __SANITIZE_THREAD__  // it does not support threads after a fork
  threads = 4;
  std::atomic<bool> stop{false};
  std::thread other;
#ifndef __SANITIZE_ADDRESS__  // a thread that begins or works at a fork may leave its allocator locked in the child
  other = std::thread([&] {   // its calls are interrupted anywhere
    while (!stop) times_done(16, kWorthAThread);
  });
#endif
  for (int k = 0; k < 20; ++k) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(60);
      test_helpers_join();
      _exit(all_once(100, kWorthAThread) && failures == 0 ? 0 : 1);
    }
    int status = 1;
    check(child > 0 && waitpid(child, &status, 0) == child && status == 0, "a child has helpers of its own");
  }
  stop = true;
  if (other.joinable()) other.join();
#endif
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  test_items();
  test_helpers_join();
  test_exceptions();
  test_nested();
  test_many_callers();
  test_nobody_waits_for_a_late_helper();
  test_short_calls();
  test_fork();
}
