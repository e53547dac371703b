// The one thread pool of the library.
#pragma once

#include <cstddef>

#include "affekt/export.hpp"
#include "affekt/runtime.hpp"

namespace affekt {

/// Calls body(context, begin, end) on disjoint ranges that cover [0, n), on up to num_threads() threads with
/// the caller among them, and returns when all have ended. No range but the last is shorter than `grain`. A
/// body must not throw, and what it computes for an index must not depend on the range. Threads start at the
/// first use and sleep between uses. When the pool is busy (another thread's call, or a call from inside a
/// body) everything runs on the caller; so it does in the child of a fork until its own pool has started.
AFFEKT_API void parallel_ranges(std::size_t n, std::size_t grain,
                                void (*body)(void*, std::size_t, std::size_t) noexcept, void* context);

/// The same for a callable f(begin, end) noexcept.
template <class F>
void parallel_for(std::size_t n, std::size_t grain, F&& f) {
  run_ranges(parallel_ranges, n, grain, f);
}

}  // namespace affekt
