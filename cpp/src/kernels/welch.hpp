// Power spectra of segments of signals, many at a time, and what Welch's method does with them.
#pragma once

#include <cstddef>

#include "dispatch.hpp"
#include "kernels/fft.hpp"
#include "log_scale.hpp"

namespace affekt {

/// How a segment becomes a power spectrum; C is the type of the transform.
template <class C>
struct SegmentView {
  RealFftView<C> fft;         // of n_fft values
  std::size_t samples = 0;    // of a segment, <= fft.n; the rest is zero
  const C* window = nullptr;  // fft.n values, zero from `samples` on, every factor of the power folded in
  int detrend = 0;            // 0: not, 1: the mean is removed, 2: the line of least squares
};

/// The integral over a band as a weighted sum of bins.
template <class C>
struct BandView {
  std::size_t first = 0, count = 0;
  const C* weights = nullptr;
};

/// Rows of spectra have `padded_bins` values, of which only the bins count.
constexpr std::size_t padded_bins(std::size_t bins) { return (bins + 15) / 16 * 16; }

/// T: samples and results; C: the transform, double where Bluestein needs it. `work` holds work_size values
/// and is aligned to 64 bytes. A result does not depend on what else a call computes.
template <class T, class C>
struct SegmentKernels {
  /// Adds the spectrum of the segment at x[i] to the row out[i]; rows may repeat and are added to in order.
  void (*spectra)(const SegmentView<C>& plan, const T* const* x, std::size_t n, T* const* out,
                  C* work) noexcept;
  /// Adds the spectra of all segments to sum, bin k of every lanes()-th segment at sum[k * lanes()] and so
  /// on.
  void (*sums)(const SegmentView<C>& plan, const T* const* x, std::size_t n, C* sum, C* work) noexcept;
  /// out[i][b] = the integral over band b of the spectrum of the segment at x[i].
  void (*bands)(const SegmentView<C>& plan, const BandView<C>* bands, std::size_t n_bands, const T* const* x,
                std::size_t n, T* const* out, C* work) noexcept;
  /// out[i * lanes() + l] = x[l][i] for l < lanes(), i < n; out is aligned to 64 bytes. Returns whether all
  /// of them lie within +-limit.
  bool (*interleave)(const SegmentView<C>& plan, const T* const* x, std::size_t n, T limit, C* out) noexcept;
  /// out[l][b] = the integral over band b of the segment of signal l, of lanes() signals side by side at x.
  /// Worth it where segments overlap, because each sample is moved into its lane once.
  void (*bands_beside)(const SegmentView<C>& plan, const BandView<C>* bands, std::size_t n_bands, const C* x,
                       T* const* out, C* work) noexcept;
  /// Values of the work space.
  std::size_t (*work_size)(const SegmentView<C>& plan, std::size_t n_bands) noexcept;
  /// Segments side by side.
  std::size_t (*lanes)(const SegmentView<C>& plan) noexcept;
};

template <class T>
struct RowKernels {
  /// out[k] = the sum of rows[j][k] over j, in order of j, for k < n.
  void (*sum)(const T* const* rows, std::size_t n_rows, std::size_t n, T* out) noexcept;
  /// out[k] = scale times the median of rows[j][k] over j, for k < n, a multiple of 16. `work` holds
  /// 16 * n_rows values, aligned to 64 bytes.
  void (*median)(const T* const* rows, std::size_t n_rows, std::size_t n, T scale, T* out, T* work) noexcept;
  /// out[b] = the integral over band b of one spectrum.
  void (*integrate)(const BandView<T>* bands, std::size_t n_bands, const T* spectrum, T* out) noexcept;
  /// out[r * n + k] = x[r * stride + k] / by[r] for r < rows, k < n.
  void (*divide)(const T* x, std::size_t stride, const T* by, std::size_t rows, std::size_t n,
                 T* out) noexcept;
  /// x[k] = the logarithm of the larger of x[k] and floor, a normal number, for k < n.
  void (*logarithm)(T* x, std::size_t n, T floor, const LogScale<T>& scale) noexcept;
};

struct WelchKernels {
  SegmentKernels<float, float> floats;
  SegmentKernels<float, double> floats_in_double;
  SegmentKernels<double, double> doubles;
  RowKernels<float> float_rows;
  RowKernels<double> double_rows;
};
AFFEKT_KERNELS(WelchKernels, welch_kernels)

}  // namespace affekt
