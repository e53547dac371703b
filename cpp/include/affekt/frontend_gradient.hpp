// Gradients of the acoustic front end with respect to the signal, for training through it.
#pragma once

#include <cstddef>
#include <memory>

#include "affekt/export.hpp"
#include "affekt/frontend.hpp"

namespace affekt {

/// Adjoint of FrontEnd, or of Spectrogram: the gradient of a loss in the results -> that in the samples.
/// Computed in double, on the caller's thread; immutable, to be shared freely between threads.
///
/// Values that are clamped (floor, top_db) pass no gradient; of several that are the clip's maximum, each
/// passes its share.
class AFFEKT_API FrontEndGradient {
 public:
  enum class Of { features, powers, spectra };

  /// Of FrontEnd(options), Spectrogram(options).powers or .spectra; throws as those do.
  FrontEndGradient(const FrontEndOptions& options, Of of);
  ~FrontEndGradient();
  FrontEndGradient(const FrontEndGradient&) = delete;
  FrontEndGradient& operator=(const FrontEndGradient&) = delete;

  std::size_t frames(std::size_t n_samples) const noexcept;
  /// Values of a row: features, bins, or twice the bins.
  std::size_t columns() const noexcept;
  /// x (n), grad (frames(n), columns()) -> to (n), overwritten. The samples must be usable, as the forward
  /// call has seen. Throws InvalidArgument where deltas need more rows than there are.
  void compute(const float* x, std::size_t n, const float* grad, float* to) const;
  void compute(const double* x, std::size_t n, const double* grad, double* to) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace affekt
