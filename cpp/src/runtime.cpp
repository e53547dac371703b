#include "affekt/runtime.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>

#include "affekt/error.hpp"
#include "dispatch.hpp"
#include "parallel.hpp"

namespace affekt {
namespace {

constexpr const char* kIsaNames[] = {
#define AFFEKT_ISA_NAME(isa) #isa,
    AFFEKT_EACH_ISA(AFFEKT_ISA_NAME)
#undef AFFEKT_ISA_NAME
};

Isa widest() noexcept {
#if defined(__x86_64__) && !defined(AFFEKT_ONE_ISA)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  return Isa::avx2;
#else
  return Isa::baseline;
#endif
}

Isa choose() {
  const Isa most = widest();
  const char* name = std::getenv("AFFEKT_ISA");
  if (name == nullptr || *name == '\0') return most;
  std::string has;
  for (int i = 0; i <= static_cast<int>(most); ++i) {
    if (std::strcmp(name, kIsaNames[i]) == 0) return static_cast<Isa>(i);
    has += (i ? ", " : "") + std::string(kIsaNames[i]);
  }
  throw InvalidArgument("AFFEKT_ISA: expected one of those that this CPU and this build have (" + has +
                        "), got \"" + name + "\"");
}

constexpr int kMaxThreads = 1024;

int threads_of_environment() {
  const char* text = std::getenv("AFFEKT_NUM_THREADS");
  if (text == nullptr || *text == '\0') return 1;
  int n = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, n);
  if (error != std::errc() || stop != end || n < 1 || n > kMaxThreads)
    throw InvalidArgument("AFFEKT_NUM_THREADS: expected a whole number in [1, 1024], got \"" +
                          std::string(text) + "\"");
  return n;
}

std::atomic<int>& threads() {
  static std::atomic<int> n{threads_of_environment()};
  return n;
}

// Workers wait for a job; its ranges are handed out by a counter. One job runs at a time.
class Pool {
 public:
  /// Whether the job ran; not so if the pool is busy.
  bool run(std::size_t n, std::size_t step, int most, void (*body)(void*, std::size_t, std::size_t) noexcept,
           void* context) {
    std::unique_lock busy(busy_, std::try_to_lock);
    if (!busy) return false;
    {
      const std::lock_guard lock(mutex_);
      n_ = n;
      step_ = step;
      body_ = body;
      context_ = context;
      next_.store(0, std::memory_order_relaxed);
      grow(most - 1);
      open_ = std::min(workers_, most - 1);
      ++job_;
    }
    wake_.notify_all();
    work();
    std::unique_lock lock(mutex_);
    open_ = 0;  // who has not begun by now need not
    done_.wait(lock, [this] { return running_ == 0; });
    return true;
  }

 private:
  // Called with mutex_ held. A thread that cannot be had is done without.
  void grow(int most) {
    while (workers_ < most) {
      try {
        std::thread([this] { wait(); }).detach();
      } catch (const std::system_error&) {
        return;
      }
      ++workers_;
    }
  }

  void wait() {
    std::uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return job_ != seen; });
      seen = job_;
      if (open_ == 0) continue;
      --open_;
      ++running_;
      lock.unlock();
      work();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  void work() noexcept {
    for (;;) {
      const std::size_t begin = next_.fetch_add(step_, std::memory_order_relaxed);
      if (begin >= n_) return;
      body_(context_, begin, n_ - begin < step_ ? n_ : begin + step_);
    }
  }

  std::mutex busy_, mutex_;
  std::condition_variable wake_, done_;
  int workers_ = 0, open_ = 0, running_ = 0;
  std::uint64_t job_ = 0;
  std::size_t n_ = 0, step_ = 1;
  std::atomic<std::size_t> next_{0};
  void (*body_)(void*, std::size_t, std::size_t) noexcept = nullptr;
  void* context_ = nullptr;
};

// Never destroyed: its threads sleep until the process ends. The child of a fork has none of them, and
// perhaps locks that nobody will open, so it gets a new one.
std::atomic<Pool*> g_pool{nullptr};
std::once_flag g_fork_handler;

Pool& pool() {
  std::call_once(g_fork_handler, [] { pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr); }); });
  Pool* p = g_pool.load();
  if (p == nullptr) {
    auto* made = new Pool;
    if (g_pool.compare_exchange_strong(p, made)) return *made;
    delete made;
  }
  return *p;
}

}  // namespace

Isa active_isa() {
  static const Isa isa = choose();
  return isa;
}

const char* isa() { return kIsaNames[static_cast<int>(active_isa())]; }

int num_threads() { return threads().load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads)
    throw InvalidArgument("n: expected a number of threads in [1, 1024], got " + std::to_string(n));
  threads().store(n, std::memory_order_relaxed);
}

void parallel_ranges(std::size_t n, std::size_t grain, void (*body)(void*, std::size_t, std::size_t) noexcept,
                     void* context) {
  if (n == 0) return;
  grain = std::max<std::size_t>(grain, 1);
  const std::size_t pieces = (n - 1) / grain + 1;
  const int most = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(num_threads()), pieces));
  if (most > 1) {
    // Four pieces a thread even out what a busy core delays.
    const std::size_t step = std::max(grain, (n - 1) / (static_cast<std::size_t>(most) * 4) + 1);
    if (pool().run(n, step, most, body, context)) return;
  }
  body(context, 0, n);
}

}  // namespace affekt
