// Cascades of second-order sections over several signals at once, and the average reference.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"

namespace affekt {

/// Coefficients are b0 b1 b2 -a1 -a2 gain-at-0-Hz, section by section.
struct Cascade {
  const double* coefficients;
  std::size_t sections;
};
inline constexpr std::size_t kCascadeStride = 6;

/// S: samples, T: results. `rows` is at most `lanes`; row r's state is state + r * 2 * (sections + 1): the
/// last two values of the signal, then of every section, newest first. Each function returns whether all
/// samples were within +-limit.
template <class S, class T>
struct CascadeKernels {
  bool (*causal)(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
                 double* state, S limit) noexcept;
  /// `work`: (n + 2 padding) * lanes doubles.
  bool (*zero_phase)(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
                     std::size_t padding, double* work, S limit) noexcept;
};

struct FilterKernels {
  std::size_t lanes;
  CascadeKernels<float, float> floats;
  CascadeKernels<double, double> doubles;
  CascadeKernels<std::int16_t, float> pcm;
  /// Samples [begin, end) of every channel; `good` lists the `n_good` channels of the mean.
  bool (*reference_floats)(const float* const* x, float* const* y, std::size_t channels,
                           const std::size_t* good, std::size_t n_good, std::size_t begin, std::size_t end,
                           float limit) noexcept;
  bool (*reference_doubles)(const double* const* x, double* const* y, std::size_t channels,
                            const std::size_t* good, std::size_t n_good, std::size_t begin, std::size_t end,
                            double limit) noexcept;
};
AFFEKT_KERNELS(FilterKernels, filter)

}  // namespace affekt
