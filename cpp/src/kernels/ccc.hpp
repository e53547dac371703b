// Sums over pairs of columns, and the affine map of their gradient.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"

namespace affekt {

/// Sums of one column about (p0, y0): n, d p, d y, d p^2 + d y^2, (d p - d y)^2.
inline constexpr std::size_t kCccSums = 5;

/// What the gradient of one side, `self`, needs of each column; `mean_*` are rounded to T and `constant`
/// makes up for it.
template <class T>
struct CccCoefficients {
  const T *mean_self, *mean_other, *on_self, *on_other, *constant;
};

/// Arrays are (steps, dims), dense; mask null or of the same shape.
template <class T>
struct CccKernelsOf {
  /// sums[k * kCccSums + ...] of column k; origin[2 k] = p0, origin[2 k + 1] = y0.
  /// Squares beyond the range of T may come out as infinite, NaN or zero.
  void (*sums)(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps, std::size_t dims,
               const double* origin, double* sums) noexcept;
  /// The same in double throughout.
  void (*exact_sums)(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps, std::size_t dims,
                     const double* origin, double* sums) noexcept;
  /// The gradient of one side. Coefficients have one value per column.
  void (*gradient)(const T* self, const T* other, const std::uint8_t* mask, std::size_t steps,
                   std::size_t dims, const CccCoefficients<T>& of, T* grad) noexcept;
};
struct CccKernels {
  CccKernelsOf<float> floats;
  CccKernelsOf<double> doubles;
};
AFFEKT_KERNELS(CccKernels, ccc)

}  // namespace affekt
