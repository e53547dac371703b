// Short-time Fourier transform of whole signals: complex spectra, or powers of their magnitude.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "affekt/export.hpp"
#include "affekt/frontend.hpp"

namespace affekt {

/// Immutable plan: window and transform. Share it freely between threads.
///
/// X_r[k] = sum_i h_i x[r hop + i - o] exp(-2 pi j i k / n_fft), i = 0 ... n_fft - 1, with the window h in
/// the middle of the n_fft samples of a frame and o = n_fft / 2 where frames are centred, else 0. float and
/// 16-bit samples are transformed in float, or in double where a prime factor of n_fft above 31 asks for it.
class AFFEKT_API Spectrogram {
 public:
  /// Of the options, n_fft, win_length, hop_length, window, periodic, scale, center, pad_mode, drop_last and
  /// power count. Throws InvalidArgument naming the field, the expectation and the value.
  explicit Spectrogram(const FrontEndOptions& options);
  ~Spectrogram();
  Spectrogram(const Spectrogram&) = delete;
  Spectrogram& operator=(const Spectrogram&) = delete;

  /// Rows that a signal of `n_samples` gives; an empty signal gives none.
  std::size_t frames(std::size_t n_samples) const noexcept;
  /// Columns of a row: n_fft / 2 + 1.
  std::size_t bins() const noexcept;

  /// As FrontEnd::options and FrontEnd::window.
  const FrontEndOptions& options() const noexcept;
  std::vector<double> window() const;

  /// As FrontEnd::first_unusable.
  std::size_t first_unusable(const float* x, std::size_t n) const noexcept;
  std::size_t first_unusable(const double* x, std::size_t n) const noexcept;

  /// |X|^power of `count` signals on up to num_threads() threads: out[i] holds (frames(n[i]), bins()). Throws
  /// InvalidArgument at an unusable sample.
  void powers(const float* const* x, const std::size_t* n, float* const* out, std::size_t count) const;
  void powers(const double* const* x, const std::size_t* n, double* const* out, std::size_t count) const;
  void powers(const std::int16_t* const* x, const std::size_t* n, float* const* out, std::size_t count) const;
  /// X as pairs of real and imaginary part: out[i] holds (frames(n[i]), bins(), 2).
  void spectra(const float* const* x, const std::size_t* n, float* const* out, std::size_t count) const;
  void spectra(const double* const* x, const std::size_t* n, double* const* out, std::size_t count) const;
  void spectra(const std::int16_t* const* x, const std::size_t* n, float* const* out,
               std::size_t count) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace affekt
