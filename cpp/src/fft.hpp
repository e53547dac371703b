// Plans of the discrete Fourier transform, of any length: the factors, the twiddles and the order of the
// result. The passes that run them are in fft_passes.hpp, compiled per instruction set.
//
// Complex transforms work in place, by decimation in frequency: a pass of radix R over blocks of R * ido
// values leaves R blocks of ido, and bin k ends at position order[k]. Radices are 8, 4, 2, 3, 5 and any odd
// prime up to kMaxFftRadix; lengths with a larger one go through Bluestein's convolution, whose rounding
// error is several times that of the direct passes, so callers run it in double (see needs_bluestein). Real
// transforms of even length pack neighbours into one complex transform of half the length; odd ones run as
// complex.
//
// Twiddles are computed in double and rounded once to the element type T.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "affekt/export.hpp"
#include "kernels/fft.hpp"

namespace affekt {

/// exp(-2 pi i k / n) in double, right to the last bit or so.
AFFEKT_API std::pair<double, double> unit_root(std::uint64_t k, std::uint64_t n);

template <class T>
class Fft {
 public:
  /// Of n >= 1 values; n must have no prime factor above kMaxFftRadix.
  explicit Fft(std::size_t n);
  Fft(const Fft&) = delete;
  Fft& operator=(const Fft&) = delete;
  const FftView<T>& view() const { return view_; }

 private:
  std::vector<FftPass<T>> passes_;
  std::vector<T> tables_;
  std::vector<std::uint32_t> order_;
  FftView<T> view_;
};

template <class T>
class AFFEKT_API RealFft {
 public:
  explicit RealFft(std::size_t n);
  RealFft(const RealFft&) = delete;
  RealFft& operator=(const RealFft&) = delete;
  const RealFftView<T>& view() const { return view_; }

  /// Values side by side in the widest vector of this process.
  static std::size_t lanes();
  /// Spectrum of `lanes` signals, 1 or lanes(): value i of signal l at x[i * lanes + l], bin k at
  /// (re, im)[k * lanes + l]. For tests and tables: it allocates.
  void spectrum(const T* x, T* re, T* im, std::size_t lanes = 1) const;

  /// Whether length n goes through Bluestein's algorithm, which should then run in double.
  static bool needs_bluestein(std::size_t n);

 private:
  Fft<T> fft_;
  std::vector<T> chirp_, kernel_, twiddles_;
  RealFftView<T> view_;
};

extern template class Fft<float>;
extern template class Fft<double>;
extern template class AFFEKT_API RealFft<float>;
extern template class AFFEKT_API RealFft<double>;

}  // namespace affekt
