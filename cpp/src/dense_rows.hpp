// A linear layer over rows that lie one after the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>

#include "affekt/aligned.hpp"
#include "kernels/dense.hpp"

namespace affekt {

/// y = W x + b, with the same bits for any number of rows at once
class DenseRows {
 public:
  /// `weight` is (out, in) and `bias` (out).
  DenseRows(std::size_t in, std::size_t out, std::span<const float> weight, std::span<const float> bias)
      : in_(in), out_(out), weight_(dense::packed_size(out, in, 1)), bias_(dense::padded(out), 0.0f) {
    dense::pack(weight.data(), out, in, 1, weight_.data());
    std::copy(bias.begin(), bias.end(), bias_.begin());
  }

  std::size_t in() const noexcept { return in_; }
  void run(const float* x, std::size_t n, float* out) const noexcept {
    constexpr std::size_t tile = 8;
    const DenseLayer layer{.in = in_, .out = out_, .weight = weight_.data(), .bias = bias_.data()};
    for (std::size_t at = 0; at < n; at += tile) {
      const std::size_t m = std::min(tile, n - at);
      const float* rows[tile];
      float* y[tile];
      for (std::size_t f = 0; f < m; ++f) {
        rows[f] = x + (at + f) * in_;
        y[f] = out + (at + f) * out_;
      }
      kernels_->layer(layer, rows, tile, m, nullptr, y);
    }
  }

 private:
  const DenseKernels* kernels_ = &dense_kernels();
  std::size_t in_, out_;
  AlignedVector<float> weight_, bias_;
};

}  // namespace affekt
