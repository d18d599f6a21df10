#include "parallel.h"

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "capability.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define DSA_FAST_FORKS 1
#endif

namespace dsa_fast {
namespace {

// A caller whose last helper is in the middle of a range watches it for as long as sleeping and waking would take.
constexpr std::chrono::microseconds kWatch{30};

void pause() {
#ifdef DSA_FAST_X86
  _mm_pause();
#endif
}

thread_local bool working = false;  // inside a work_together of this thread

struct Call {
  const std::function<void(Items&)>& work;
  Items items;
  int64_t wanted;                // helpers that may still join
  std::atomic<int64_t> busy{0};  // helpers that have joined and not yet left
  std::exception_ptr error;
  std::condition_variable done;  // busy is 0

  // Works until no item is left. Returns what was thrown.
  std::exception_ptr run() {
    std::exception_ptr thrown;
    working = true;
    try {
      work(items);
    } catch (...) {
      thrown = std::current_exception();
      items.drop();
    }
    working = false;
    return thrown;
  }
};

// The helpers, and the calls that want some. A call is on its thread's stack: a helper finds it in the list, under the
// mutex, or not at all.
class Pool {
 public:
  void run(Call& call) {
    const int64_t wanted = call.wanted;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      calls_.push_back(&call);
      start(wanted);
    }
    wake(wanted);
    std::exception_ptr thrown = call.run();
    std::unique_lock<std::mutex> lock(mutex_);
    calls_.erase(std::find(calls_.begin(), calls_.end(), &call));
    if (call.busy.load(std::memory_order_relaxed) > 0) {
      lock.unlock();
      const auto until = std::chrono::steady_clock::now() + kWatch;
      while (call.busy.load(std::memory_order_relaxed) > 0 && std::chrono::steady_clock::now() < until) pause();
      lock.lock();  // after the last helper has let go of it
      call.done.wait(lock, [&] { return call.busy.load(std::memory_order_relaxed) == 0; });
    }
    if (!thrown) thrown = call.error;
    lock.unlock();
    if (thrown) std::rethrow_exception(thrown);
  }

 private:
  // Makes the helpers at least n, if the system lets us. Under the mutex.
  void start(int64_t n) {
    try {
      for (; helpers_ < n; ++helpers_) std::thread([this] { help(); }).detach();
    } catch (const std::system_error&) {  // the callers manage without
    }
  }

  // Each helper that joins wakes two more, so that a caller spends no time on waking many.
  void wake(int64_t wanted) {
    if (wanted > 0) wake_.notify_one();
    if (wanted > 1) wake_.notify_one();
  }

  Call* find() const {
    const auto found = std::find_if(calls_.begin(), calls_.end(), [](const Call* call) { return call->wanted > 0; });
    return found == calls_.end() ? nullptr : *found;
  }

  [[noreturn]] void help() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Call* call = nullptr;
      wake_.wait(lock, [&] { return (call = find()) != nullptr; });
      const int64_t wanted = --call->wanted;
      call->busy.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      wake(wanted);
      std::exception_ptr thrown = call->run();
      lock.lock();
      call->wanted = 0;  // nothing is left to take
      if (thrown && !call->error) call->error = std::move(thrown);
      if (call->busy.fetch_sub(1, std::memory_order_relaxed) == 1) call->done.notify_one();  // still under the mutex
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Call*> calls_;
  int64_t helpers_ = 0;
};

std::atomic<Pool*> pool{nullptr};

// Never destroyed: helpers may sleep in it when the process ends. A child of fork() has no helpers and may have a
// locked mutex, so it makes another one.
Pool& the_pool() {
  static const bool registered = [] {
#ifdef DSA_FAST_FORKS
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
#endif
    return true;
  }();
  static_cast<void>(registered);
  Pool* found = pool.load();
  if (found == nullptr) {
    auto* made = new Pool;
    if (pool.compare_exchange_strong(found, made)) return *made;
    delete made;  // another thread was faster
  }
  return *found;
}

}  // namespace

void work_together(int64_t n, int64_t item_elements, const std::function<void(Items&)>& work) {
  if (n <= 0) return;
  const int64_t worth = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, item_elements));  // items of a thread
  const int64_t threads = working ? 1 : std::min(n / worth, num_threads());
  if (threads <= 1) {
    Items items(n, n);
    return work(items);
  }
  Call call{work, Items(n, std::max<int64_t>(1, worth / 4)), threads - 1, {}, {}, {}};
  the_pool().run(call);
}

}  // namespace dsa_fast
