// The one matrix kernel behind convolutions and linear layers.
#pragma once

#include <cstddef>
#include <cstdint>

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

/// A row of int8 inputs: its scale as a float, then from `header` on the bytes, padded(in) of them.
inline constexpr std::size_t header = 16;

/// Bytes that `pack_int8` writes, and what it does: [panel][tap] of one int32 per output, -zero * (sum of the
/// output's weights of this tap), and [group of 4 inputs][output][input of the group] of int8. Missing inputs
/// and outputs become zeros.
inline constexpr std::size_t packed_int8_size(std::size_t out, std::size_t in, std::size_t taps) {
  return padded(out) * taps * (sizeof(std::int32_t) + (in + 3) / 4 * 4);
}
void pack_int8(const std::int8_t* weight, std::size_t out, std::size_t in, std::size_t taps, int zero,
               unsigned char* packed);

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

/// The same with integer products, x_j = scale of its row * int8 and W = scale of the output * int8:
/// bias + scale * sum_j scale_j (sum over inputs, exact).
struct Int8Layer {
  std::size_t in = 0, out = 0, taps = 1;
  const float* weight = nullptr;  // bytes as dense::pack_int8 leaves them
  const float* scale = nullptr;   // this and the rest padded
  const float* bias = nullptr;
  const float* slope = nullptr;
  const float* slope_out = nullptr;
};

struct DenseKernels {
  /// `n` frames: rows[j * row_step + f] points to the row of tap j and frame f, identity[f] (nullptr: none to
  /// add) to padded(out) values, y[f] to room for `out`. Every output is one chain of fma, bias first, then
  /// taps, then inputs, however many frames share a pass; hence equal bits for any n.
  void (*layer)(const DenseLayer& layer, const float* const* rows, std::size_t row_step, std::size_t n,
                const float* const* identity, float* const* y) noexcept;

  /// The same for rows of int8.
  void (*int8_layer)(const Int8Layer& layer, const unsigned char* const* rows, std::size_t row_step,
                     std::size_t n, const float* const* identity, float* const* y) noexcept;

  /// Writes x[0..in) as a row of int8: scale = max |x| / 127, q = x / scale rounded half to even. A row whose
  /// largest value is below 1e-30 becomes zeros; one that is not finite gets the scale NaN.
  void (*int8_row)(const float* x, std::size_t in, unsigned char* row) noexcept;

  int int8_zero;  // the byte that stands for 0
};
AFFEKT_KERNELS(DenseKernels, dense_kernels)

}  // namespace affekt
