// The sums and gradients of the training losses, on plain memory. The torch ops run on them; the matrix
// products of the contrastive losses stay with the caller's BLAS.
//
// Every result is bit-equal for any number of threads: sums are cut at fixed places and merged in a fixed
// order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "affekt/export.hpp"
#include "affekt/runtime.hpp"

namespace affekt {

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

/// What a contrastive loss does to a tile of cosines: everything of it but the products.
/// A tile is (rows, cols), dense. Logits are scale * cosine, and exponentials have one of two forms:
/// - bounded, for scales up to kBoundedScale: exp(logit - scale) for rows and columns alike, one per logit;
/// - free, for any scale: about the running maximum of each row and of each column.
template <class T>
struct ContrastSteps {
  /// unit = x / max(|x|, 1e-12) and norm = that divisor, row by row; (rows, dim).
  void (*unit)(const T* x, std::size_t rows, std::size_t dim, T* unit, double* norm) noexcept;

  /// Adds the exponentials of each row to row_sum; writes those of each column to col_sum unless it is null.
  /// `keep` leaves the exponentials in the tile.
  void (*bounded_sums)(T* tile, std::size_t rows, std::size_t cols, T scale, bool keep, double* row_sum,
                       T* col_sum) noexcept;
  /// out = e (row[i] + col[j]) with the exponentials e, which `kept` finds in the tile; col may be null.
  void (*bounded_gradient)(const T* tile, std::size_t rows, std::size_t cols, T scale, bool kept,
                           const T* row, const T* col, T* out) noexcept;

  /// Carries each row's maximum logit and its sum of exp(logit - maximum) on over this tile; writes those of
  /// the tile's columns to col_max and col_sum unless these are null.
  void (*free_sums)(const T* tile, std::size_t rows, std::size_t cols, T scale, T* row_max, double* row_sum,
                    T* col_max, T* col_sum) noexcept;
  /// out = exp(logit - row[i]) + exp(logit - col[j]); col may be null.
  void (*free_gradient)(const T* tile, std::size_t rows, std::size_t cols, T scale, const T* row,
                        const T* col, T* out) noexcept;

  /// grad (rows, dim), the gradient for unit vectors before the factor, becomes the gradient for what `unit`
  /// was made from: factor (grad - unit (unit . grad)) / norm. dots[i] = unit . grad as it came.
  void (*through_unit)(T* grad, const T* unit, const double* norm, std::size_t rows, std::size_t dim,
                       double factor, double* dots) noexcept;

  /// a . b, summed in double.
  double (*dot)(const T* a, const T* b, std::size_t n) noexcept;
};
/// exp(-2 * 30) / N^2 is still far from the denormals of float32.
inline constexpr double kBoundedScale = 30;

/// For float and double.
template <class T>
const ContrastSteps<T>& contrast_steps();
template <>
AFFEKT_API const ContrastSteps<float>& contrast_steps<float>();
template <>
AFFEKT_API const ContrastSteps<double>& contrast_steps<double>();

}  // namespace affekt
