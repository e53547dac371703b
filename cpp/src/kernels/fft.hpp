// The plans of fft.hpp as kernels see them, and transforms of arrays. Kernels with transforms inside include
// fft_passes.hpp instead of calling these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"

namespace affekt {

inline constexpr std::size_t kMaxFftRadix = 31;

template <class T>
struct FftPass {
  std::size_t radix, ido, blocks;  // radix * ido * blocks is the length
  const T* twiddles;  // for each i < ido the pairs w(i * j), j = 1 ... radix - 1; none where ido = 1
  const T* roots;     // of unity, radix pairs; for 7 and radices above 8
};

/// A complex transform. Value k lies at z[2 k] (real part) and z[2 k + 1]; bin k ends at order[k].
template <class T>
struct FftView {
  std::size_t n = 0;
  std::size_t n_passes = 0;
  const FftPass<T>* passes = nullptr;
  const std::uint32_t* order = nullptr;
};

/// A real transform; its input is n values in order of time.
template <class T>
struct RealFftView {
  std::size_t n = 0;
  std::size_t bins = 0;         // n / 2 + 1
  std::size_t length = 0;       // of the complex transform: n / 2 if n is even, n if odd
  FftView<T> transform;         // of `length`, or of Bluestein's convolution
  const T* chirp = nullptr;     // `length` pairs; null without Bluestein
  const T* kernel = nullptr;    // transform of the conjugate chirp, in the order of `transform`
  const T* twiddles = nullptr;  // even n: pairs exp(-2 pi i k / n), k <= n / 4
  std::size_t values = 0;       // entries of the array that is transformed, >= n
  std::size_t work = 0;         // entries of the work space; 0 without Bluestein
  T gain = T(1);                // the result is `gain` times the spectrum: fold 1 / gain into the window
};

template <class T>
struct FftKernelsOf {
  /// In place, bin k at order[k].
  void (*transform)(const FftView<T>& plan, T* z) noexcept;
  /// Spectrum times `gain` of `lanes` signals side by side, 1 or as many as the widest vector holds: value i
  /// of signal l at z[i * lanes + l], bin k at (re, im)[k * lanes + l]. z and work are aligned to 64 bytes.
  void (*spectrum)(const RealFftView<T>& plan, T* z, T* work, T* re, T* im, std::size_t lanes) noexcept;
  std::size_t lanes;
};
struct FftKernels {
  FftKernelsOf<float> floats;
  FftKernelsOf<double> doubles;
};
AFFEKT_KERNELS(FftKernels, fft_kernels)

}  // namespace affekt
