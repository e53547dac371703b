// The thread pool and the choice of the instruction set.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "affekt/bandpower.hpp"
#include "affekt/error.hpp"
#include "affekt/filter.hpp"
#include "affekt/frontend.hpp"
#include "affekt/losses.hpp"
#include "affekt/resampler.hpp"
#include "affekt/runtime.hpp"
#include "affekt/tcn_training.hpp"
#include "check.hpp"
#include "parallel.hpp"

// ThreadSanitizer does not follow a fork of several threads; nor does qemu-user, which the build says.
#if defined(__SANITIZE_THREAD__)
#define AFFEKT_TEST_NO_FORK
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define AFFEKT_TEST_NO_FORK
#endif
#endif

namespace {

// How often each index of [0, n) was visited, and the shortest range but the last.
std::vector<int> visits(std::size_t n, std::size_t grain) {
  std::vector<std::atomic<int>> counts(n);
  affekt::parallel_for(n, grain, [&](std::size_t begin, std::size_t end) noexcept {
    CHECK(begin < end && end <= n);
    CHECK(end == n || end - begin >= grain);
    for (std::size_t i = begin; i < end; ++i) counts[i].fetch_add(1);
  });
  return {counts.begin(), counts.end()};
}

void covers_every_index_once() {
  for (const int threads : {1, 2, 3, 8}) {
    affekt::set_num_threads(threads);
    CHECK_EQ(affekt::num_threads(), threads);
    for (const std::size_t n : {0, 1, 2, 7, 100, 1001})
      for (const std::size_t grain : {0, 1, 3, 64, 5000}) CHECK_EQ(visits(n, grain), std::vector<int>(n, 1));
  }
}

void callers_at_once_and_calls_within_calls() {
  affekt::set_num_threads(4);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([] {
      for (int i = 0; i < 50; ++i) CHECK_EQ(visits(97, 2), std::vector<int>(97, 1));
    });
  for (std::thread& t : callers) t.join();
  std::atomic<int> inner{0};
  affekt::parallel_for(8, 1, [&](std::size_t begin, std::size_t end) noexcept {
    for (std::size_t i = begin; i < end; ++i)
      affekt::parallel_for(
          8, 1, [&](std::size_t b, std::size_t e) noexcept { inner.fetch_add(static_cast<int>(e - b)); });
  });
  CHECK_EQ(inner.load(), 64);
}

#if !defined(AFFEKT_TEST_NO_FORK)
void works_in_the_child_of_a_fork() {
  affekt::set_num_threads(3);
  CHECK_EQ(visits(100, 1), std::vector<int>(100, 1));
  const pid_t child = fork();
  if (child == 0) _exit(visits(100, 1) == std::vector<int>(100, 1) ? 0 : 1);
  int status = -1;
  CHECK_EQ(waitpid(child, &status, 0), child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

#if !defined(AFFEKT_TEST_NO_FORK)
/// Whether `make` throws InvalidArgument in a process whose AFFEKT_ISA names nothing. Before any other test,
/// because the choice is made once.
template <class F>
bool refuses_unknown_isa(F&& make) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("AFFEKT_ISA", "mmx", 1);
    try {
      make();
    } catch (const affekt::InvalidArgument& error) {
      _exit(std::string(error.what()).find("\"mmx\"") == std::string::npos ? 2 : 0);
    }
    _exit(1);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void plans_refuse_an_unknown_isa() {
  CHECK(refuses_unknown_isa([] { affekt::isa(); }));
  CHECK(refuses_unknown_isa([] {
    affekt::FilterStream stream(std::make_shared<affekt::Filter>(affekt::notch(50, 30, 1000)), 1,
                                affekt::Start::zero);
    float x = 1, *y = &x;
    stream.push(&y, &y, 1);
  }));
  CHECK(refuses_unknown_isa([] {
    affekt::ResamplerStream stream(
        std::make_shared<affekt::Resampler>(affekt::ResamplerOptions{.input_rate = 48000}), {1.0f});
  }));
  CHECK(refuses_unknown_isa([] { affekt::FrontEnd plan(affekt::FrontEndOptions{}); }));
  CHECK(refuses_unknown_isa([] { affekt::Welch plan(affekt::WelchOptions{}); }));
  // Calls that need no plan.
  const float x = 1;
  const double wide = 1;
  CHECK(refuses_unknown_isa([&] { (void)affekt::first_non_finite(&x, 1); }));
  CHECK(refuses_unknown_isa([&] { (void)affekt::first_non_finite(&wide, 1); }));
  CHECK(refuses_unknown_isa([&] { (void)affekt::Filter::first_unusable(&x, 1); }));
  CHECK(refuses_unknown_isa([&] { (void)affekt::Filter::first_unusable(&wide, 1); }));
  CHECK(refuses_unknown_isa([&] { (void)affekt::Resampler::first_unusable(&x, 1); }));
  CHECK(refuses_unknown_isa([&] { (void)affekt::Resampler::first_unusable(&wide, 1); }));
  CHECK(refuses_unknown_isa([] { (void)affekt::contrast_steps<float>(); }));
  CHECK(refuses_unknown_isa([&] {
    affekt::CccColumn column;
    affekt::ccc_forward({1, 1, 1}, &x, &x, nullptr, 0.0, false, &column, affekt::parallel_ranges);
  }));
  CHECK(refuses_unknown_isa([&] {
    float h1 = 0, h2 = 0, y = 0;
    affekt::tcn_block_forward(
        affekt::TcnBlock<float>{1, 1, 1, 1, 1, 1, &x, &x, &x, &x, nullptr, nullptr, 0, 0, 0, 0}, &x, &h1, &h2,
        &y, affekt::parallel_ranges);
  }));
}
#endif

void refuses_bad_numbers() {
  affekt::set_num_threads(2);
  for (const int n : {0, -1, 1025})
    CHECK_THROWS(affekt::set_num_threads(n), affekt::InvalidArgument, "[1, 1024], got " + std::to_string(n));
  CHECK_EQ(affekt::num_threads(), 2);
}

void names_the_instruction_set() {
  const std::string isa = affekt::isa();
  CHECK(isa == "baseline" || isa == "avx2" || isa == "avx512");
  const char* asked = std::getenv("AFFEKT_ISA");
  if (asked != nullptr && *asked != '\0') CHECK_EQ(isa, asked);
}

}  // namespace

int main() {
#if !defined(AFFEKT_TEST_NO_FORK)
  plans_refuse_an_unknown_isa();
#endif
  names_the_instruction_set();
  covers_every_index_once();
  callers_at_once_and_calls_within_calls();
#if !defined(AFFEKT_TEST_NO_FORK)
  works_in_the_child_of_a_fork();
#endif
  refuses_bad_numbers();
  return affekt::test::result();
}
