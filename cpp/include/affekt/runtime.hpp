// What the library runs on: the instruction set that its kernels use and the threads that it may start.
#pragma once

#include <cstddef>
#include <type_traits>

#include "affekt/export.hpp"

namespace affekt {

/// The instruction set of the kernels in this process: "baseline" (SSE2 or NEON), "avx2" (with FMA) or
/// "avx512" (F, BW, DQ, VL). The widest that the CPU has, or a narrower one that the environment variable
/// AFFEKT_ISA names; chosen once. Results are bit-equal within one instruction set and differ between two by
/// rounding. Throws InvalidArgument if AFFEKT_ISA names none or one that the CPU lacks.
AFFEKT_API const char* isa();

/// The most threads, the caller's included, that one call may use: 1 until set_num_threads or the environment
/// variable AFFEKT_NUM_THREADS says more. Results never depend on it. Live engines always run on their
/// caller. Throws InvalidArgument if AFFEKT_NUM_THREADS is not a number in [1, 1024].
AFFEKT_API int num_threads();

/// `n` in [1, 1024], else InvalidArgument. Takes effect at the next call.
AFFEKT_API void set_num_threads(int n);

/// Calls body(context, begin, end) on ranges that cover [0, n), none but the last shorter than grain, and
/// returns when all have ended: how a caller lends its threads.
using RunRanges = void (*)(std::size_t n, std::size_t grain,
                           void (*body)(void*, std::size_t, std::size_t) noexcept, void* context);

/// `run` on a callable f(begin, end), which must not throw.
template <class F>
void run_ranges(RunRanges run, std::size_t n, std::size_t grain, F&& f) {
  run(
      n, grain,
      [](void* context, std::size_t begin, std::size_t end) noexcept {
        (*static_cast<std::remove_reference_t<F>*>(context))(begin, end);
      },
      const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace affekt
