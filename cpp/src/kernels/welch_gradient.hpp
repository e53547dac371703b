// Spectra of segments of signals side by side, and their adjoint.
#pragma once

#include <cstddef>

#include "dispatch.hpp"
#include "kernels/welch.hpp"

namespace affekt {

struct WelchGradientKernels {
  /// Segments side by side.
  std::size_t lanes;
  /// Values of the work space, which is aligned to 64 bytes.
  std::size_t (*work_size)(const SegmentView<double>& plan) noexcept;
  /// The segments at x[l], l < lanes, without their trend and under the window: bin k of segment l is
  /// re[k * lanes + l] + i im[k * lanes + l]. Its scale is that of the window times fft.gain.
  void (*spectra)(const SegmentView<double>& plan, const double* const* x, double* re, double* im,
                  double* work) noexcept;
  /// The gradient of sum_k gain[k] (re[k]^2 + im[k]^2) / 2 in the samples of segment l, with the gain of lane
  /// l at gain[k * lanes + l], is added to to[l], one lane after another; a null pointer is passed over.
  void (*adjoint)(const SegmentView<double>& plan, const double* re, const double* im, const double* gain,
                  double* const* to, double* work) noexcept;
};
AFFEKT_KERNELS(WelchGradientKernels, welch_gradient)

}  // namespace affekt
