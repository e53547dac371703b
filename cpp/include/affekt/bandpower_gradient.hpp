// Gradients of Welch spectra and band power with respect to the signal, for training through them.
#pragma once

#include <cstddef>
#include <memory>

#include "affekt/bandpower.hpp"
#include "affekt/export.hpp"

namespace affekt {

/// Adjoint of Welch: the gradient of a loss in a spectrum -> that in the samples. Computed in double, on the
/// caller's thread; immutable, to be shared freely between threads.
///
/// Segments with a missing sample get none. Where the median is one value, that segment gets the gradient of
/// a bin; where it is the middle of two, each gets half.
class AFFEKT_API WelchGradient {
 public:
  /// Throws as Welch does.
  explicit WelchGradient(const WelchOptions& options);
  ~WelchGradient();
  WelchGradient(const WelchGradient&) = delete;
  WelchGradient& operator=(const WelchGradient&) = delete;

  std::size_t bins() const noexcept;
  /// x (n), grad (bins()) -> to (n), overwritten. The samples must be usable, as the forward call has seen.
  void compute(const float* x, std::size_t n, const float* grad, float* to) const;
  void compute(const double* x, std::size_t n, const double* grad, double* to) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Adjoint of BandPower, one channel at a time; otherwise as WelchGradient. Values below the floor of a
/// logarithm pass no gradient, nor do frames that are not valid.
class AFFEKT_API BandPowerGradient {
 public:
  /// Throws as BandPower does.
  explicit BandPowerGradient(const BandPowerOptions& options);
  ~BandPowerGradient();
  BandPowerGradient(const BandPowerGradient&) = delete;
  BandPowerGradient& operator=(const BandPowerGradient&) = delete;

  std::size_t bands() const noexcept;
  std::size_t frames(std::size_t n_samples) const noexcept;
  /// x (n) -> to (n), overwritten, for the gradient grad[f * channels * bands() + b] in band b of frame f and
  /// the forward call's valid[f * channels]: those of one channel among `channels`. Throws InvalidArgument
  /// where the segments that windows share would take more than 1 GiB; calls of several threads that take
  /// more than a sixteenth of it each run one after another.
  void compute(const float* x, std::size_t n, std::size_t channels, const float* grad, const bool* valid,
               float* to) const;
  void compute(const double* x, std::size_t n, std::size_t channels, const double* grad, const bool* valid,
               double* to) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace affekt
