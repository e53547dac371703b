// The one matrix kernel behind convolutions and linear layers.
#pragma once

#include <cstddef>

#include "dispatch.hpp"

namespace affekt {

namespace dense {

/// Outputs are padded to whole blocks and packed in panels, the last one as narrow as it can be:
/// [panel][tap][input][output of the panel]. The lanes of a vector are outputs.
inline constexpr std::size_t block = 16, panel = 64;

inline constexpr std::size_t padded(std::size_t n) { return (n + block - 1) / block * block; }

/// Floats that `pack` writes for a weight of shape (out, in, taps).
inline constexpr std::size_t packed_size(std::size_t out, std::size_t in, std::size_t taps) {
  return padded(out) * in * taps;
}

/// Torch layout (out, in, taps) -> packed; missing outputs become zeros.
void pack(const float* weight, std::size_t out, std::size_t in, std::size_t taps, float* packed);

}  // namespace dense

/// y = act_out(act(bias + sum_j W_j x_j) + identity): one layer over rows of `in` values, x_j being the row
/// of tap j, oldest first. Weights lie as dense::pack leaves them.
struct DenseLayer {
  std::size_t in = 0, out = 0, taps = 1;
  const float* weight = nullptr;
  const float* bias = nullptr;       // padded
  const float* slope = nullptr;      // of the rectifier act, padded; none: act is the identity
  const float* slope_out = nullptr;  // of act_out, where there is an identity to add; padded
};

struct DenseKernels {
  /// `n` frames: rows[j * row_step + f] points to the row of tap j and frame f, identity[f] (nullptr: none to
  /// add) to padded(out) values, y[f] to room for `out`. Every output is one chain of fma, bias first, then
  /// taps, then inputs, however many frames share a pass; hence equal bits for any n.
  void (*layer)(const DenseLayer& layer, const float* const* rows, std::size_t row_step, std::size_t n,
                const float* const* identity, float* const* y) noexcept;
};
AFFEKT_KERNELS(DenseKernels, dense_kernels)

}  // namespace affekt
