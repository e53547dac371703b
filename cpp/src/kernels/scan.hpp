// Search for values that nothing downstream can use.
#pragma once

#include <cstddef>

#include "dispatch.hpp"

namespace affekt {

/// Index of the first value that is not within +-limit (NaN never is), or n; limit >= 0.
struct ScanKernels {
  std::size_t (*floats)(const float* x, std::size_t n, float limit) noexcept;
  std::size_t (*doubles)(const double* x, std::size_t n, double limit) noexcept;
};
AFFEKT_KERNELS(ScanKernels, scan)

}  // namespace affekt
