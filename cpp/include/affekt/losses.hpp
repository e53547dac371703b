// The sums and gradients of the training losses, on plain memory. The torch ops run on them; the matrix
// products of the contrastive losses stay with the caller's BLAS.
//
// Every result is bit-equal for any number of threads: sums are cut at fixed places and merged in a fixed
// order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "affekt/export.hpp"

namespace affekt {

/// Calls body(context, begin, end) on ranges that cover [0, n), none but the last shorter than grain, and
/// returns when all have ended: how a caller lends its threads.
using RunRanges = void (*)(std::size_t n, std::size_t grain,
                           void (*body)(void*, std::size_t, std::size_t) noexcept, void* context);

/// Concordance of `groups` x `dims` pairs of columns: pred and target are (groups, steps, dims), dense, and
/// `mask` (the same shape, or null) leaves out the elements where it is 0, whatever they hold.
struct CccShape {
  std::size_t groups, steps, dims;
};

/// What the forward pass leaves of one column. With upstream gradient g,
///   d loss / d p_i = g (on_other (y_i - mean_y) + on_self (p_i - mean_p) + shift)
///   d loss / d y_i = g (on_other (p_i - mean_p) + on_self (y_i - mean_y) - shift).
struct CccColumn {
  double count, mean_p, mean_y, loss, on_other, on_self, shift;
};
inline constexpr std::size_t kCccColumnValues = sizeof(CccColumn) / sizeof(double);

/// 1 - CCC of each column into columns[groups * dims], with
///   CCC = 2 cov / (var_p + var_y + (mean_p - mean_y)^2 + eps),
/// moments over n valid elements; `mixed` divides the variances by n - 1. A column without valid elements or
/// with a denominator of 0 has gradient 0, and loss 0 or 1.
template <class T>
AFFEKT_API void ccc_forward(const CccShape& shape, const T* pred, const T* target, const std::uint8_t* mask,
                            double eps, bool mixed, CccColumn* columns, RunRanges run);

/// Gradients into grad_pred and grad_target (either may be null), (groups, steps, dims); upstream holds one
/// factor per column.
template <class T>
AFFEKT_API void ccc_backward(const CccShape& shape, const T* pred, const T* target, const std::uint8_t* mask,
                             const CccColumn* columns, const double* upstream, T* grad_pred, T* grad_target,
                             RunRanges run);

}  // namespace affekt
