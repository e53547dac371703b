// Causal dilated convolutions of whole sequences, forward and backward, and what stands between them in a
// residual block. Sequences are (batch, time, width), dense; a frame is one row of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"

namespace affekt {

/// Frames of one sequence after another: y_t = start + sum_j W_j x_{t + first + j step}, x being 0 outside of
/// its sequence.
template <class T>
struct ConvRows {
  const T* x;
  std::size_t time, in, out, taps;
  std::ptrdiff_t first, step;
  const T* weight;  // [panel][tap][input][output of the panel], outputs padded with zeros
  const T* bias;    // padded; null: start from what y holds
  const T* zeros;   // `in` of them
  T* y;
};

/// The gradient of the weights: sums[panel of inputs][tap][output][input of the panel] +=
/// sum over b, t of grad_{b, t, output} x_{b, t + first + j step, input}.
template <class T>
struct ConvWeights {
  const T* x;
  const T* grad;  // as `strips` leaves it
  std::size_t batch, time, in, out, taps;
  std::ptrdiff_t first, step;
  T* sums;
};

/// Dropout of whole tensors: the value at (row, column) is dropped where a hash of the key, the row and the
/// column is below `below` / 2^32; the others are scaled.
template <class T>
struct Dropout {
  std::uint64_t key;
  std::uint32_t below;
  T scale;
};

template <class T>
struct CausalConvKernelsOf {
  std::size_t panel;  // outputs of `rows`, inputs of `weights`, that share a pass
  std::size_t strip;  // outputs of `weights` that do

  /// Frames [begin, begin + n). Every output is one chain of fma: start, then taps, then inputs.
  void (*rows)(const ConvRows<T>& conv, std::size_t begin, std::size_t n) noexcept;

  /// `n` of `rows` rows of x, from `begin` on, to [strip of columns][row][column of the strip].
  void (*strips)(const T* x, std::size_t begin, std::size_t n, std::size_t rows, std::size_t width,
                 T* to) noexcept;

  /// Panel `panel` of the inputs, strips [begin, end) of the outputs. One order of accumulation per weight.
  void (*weights)(const ConvWeights<T>& conv, std::size_t panel, std::size_t begin, std::size_t end) noexcept;

  /// x = x > 0 ? x : slope x, then dropout. What is dropped becomes -0, no other value does.
  void (*rectify)(T* x, std::size_t first_row, std::size_t rows, std::size_t width, T slope,
                  const Dropout<T>& dropout) noexcept;

  /// y += h, rectified, never -0.
  void (*add_rectify)(const T* h, T* y, std::size_t n, T slope) noexcept;

  /// Through dropout and the rectifier that gave y: to = grad scale (y > 0 ? 1 : slope), or 0 where y is -0.
  void (*gate)(const T* grad, const T* y, T* to, std::size_t n, T slope, T scale) noexcept;

  /// sums[c] = sum over the rows of x[row][c].
  void (*column_sums)(const T* x, std::size_t rows, std::size_t width, T* sums) noexcept;
};

struct CausalConvKernels {
  CausalConvKernelsOf<float> floats;
  CausalConvKernelsOf<double> doubles;
};
AFFEKT_KERNELS(CausalConvKernels, causal_conv)

}  // namespace affekt
