// Recursive filters for many channels: design, whole recordings (causal or zero-phase), live streams; and the
// average reference.
//
// Everything is a cascade of second-order sections computed in double, whatever the samples are:
//   y_s[t] = b0 x + b1 x[t-1] + b2 x[t-2] - a1 y_s[t-1] - a2 y_s[t-2],   x = y_(s-1), y_(-1) the signal.
// The state is the last two values before the first and after every section. One sum in one order per value,
// so a stream gives the bits of the whole recording for any chunking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/error.hpp"
#include "affekt/export.hpp"

namespace affekt {

/// y = b0 x + b1 x[t-1] + b2 x[t-2] - a1 y[t-1] - a2 y[t-2]; one row of SciPy's `sos` without a0 = 1.
struct Section {
  double b0 = 1, b1 = 0, b2 = 0, a1 = 0, a2 = 0;
};

enum class Band { lowpass, highpass, bandpass, bandstop };

/// Digital Butterworth filter by the bilinear transform with prewarped edges, -3 dB at `low` and `high` (Hz).
/// `order` is that of the low-pass prototype, 1 to 32: bandpass and bandstop have twice as many poles.
/// lowpass uses `high` alone, highpass `low` alone. Sections are ordered and paired as SciPy's
/// butter(output="sos") does: nearest zero to each pole, poles nearest to the unit circle last. Throws
/// InvalidArgument unless 0 < low < high < sample_rate / 2 and the poles stay inside the unit circle in
/// double.
AFFEKT_API std::vector<Section> butterworth(Band band, int order, double low, double high,
                                            double sample_rate);

/// Zero at `frequency` (Hz), bandwidth frequency / quality at -3 dB; SciPy's iirnotch.
AFFEKT_API std::vector<Section> notch(double frequency, double quality, double sample_rate);

/// What came before the first sample.
enum class Start {
  zero,    ///< silence
  settled  ///< the first sample since ever, so that a constant offset gives no transient
};

/// Immutable cascade; share it freely between threads.
class AFFEKT_API Filter {
 public:
  /// 1 to 64 sections. Throws InvalidArgument at coefficients that are not finite or above 1e6, and at poles
  /// on or outside the unit circle.
  explicit Filter(const std::vector<Section>& sections);

  const std::vector<Section>& sections() const noexcept { return sections_; }

  /// Values up to this magnitude may be filtered: 1e30 for float, 1e250 for double.
  static double limit(const float*) noexcept { return 1e30; }
  static double limit(const double*) noexcept { return 1e250; }
  /// Index of the first sample that is NaN or beyond the limit; `n` if there is none. Throws as isa() does.
  static std::size_t first_unusable(const float* x, std::size_t n);
  static std::size_t first_unusable(const double* x, std::size_t n);
  static std::size_t first_unusable(const std::int16_t*, std::size_t n) noexcept { return n; }

  /// Filters `rows` signals of `n` samples forward in time, x[r] into y[r]; y[r] may be x[r]. int16 is taken
  /// as x / 32768. Values below the smallest normal number count as zero. False if a sample is unusable: `y`
  /// is then unspecified. Uses up to num_threads() threads.
  [[nodiscard]] bool causal(const float* const* x, float* const* y, std::size_t rows, std::size_t n,
                            Start start) const;
  [[nodiscard]] bool causal(const double* const* x, double* const* y, std::size_t rows, std::size_t n,
                            Start start) const;
  [[nodiscard]] bool causal(const std::int16_t* const* x, float* const* y, std::size_t rows, std::size_t n,
                            Start start) const;

  /// Forward, then backward in time: no phase, the squared magnitude. The signal is continued at both ends by
  /// `padding()` samples mirrored through the end point, 2 x[0] - x[i], and each pass starts settled; SciPy's
  /// sosfiltfilt. Throws InvalidArgument unless n > padding() or n == 0.
  [[nodiscard]] bool zero_phase(const float* const* x, float* const* y, std::size_t rows,
                                std::size_t n) const;
  [[nodiscard]] bool zero_phase(const double* const* x, double* const* y, std::size_t rows,
                                std::size_t n) const;
  [[nodiscard]] bool zero_phase(const std::int16_t* const* x, float* const* y, std::size_t rows,
                                std::size_t n) const;
  /// Samples that zero_phase adds at each end: 3 (2 sections + 1 - coefficients that are 0 at the end of all
  /// numerators or denominators, whichever are fewer).
  std::size_t padding() const noexcept { return padding_; }

 private:
  friend class FilterStream;
  template <class S, class T>
  bool causal_rows(const S* const* x, T* const* y, std::size_t rows, std::size_t n, Start start) const;
  template <class S, class T>
  bool zero_phase_rows(const S* const* x, T* const* y, std::size_t rows, std::size_t n) const;
  std::size_t state_doubles() const noexcept { return 2 * (sections_.size() + 1); }

  std::vector<Section> sections_;
  AlignedVector<double> coefficients_;  // b0 b1 b2 -a1 -a2 gain-at-0-Hz, section by section
  std::size_t padding_ = 0;
};

/// Live filter of `channels` signals over a shared cascade. Nothing is allocated after construction.
class AFFEKT_API FilterStream {
 public:
  FilterStream(std::shared_ptr<const Filter> filter, std::size_t channels, Start start);

  /// Takes the next `n` samples of every channel; x[c] into y[c], which may be the same. False, and nothing
  /// is taken, if a sample is unusable.
  bool push(const float* const* x, float* const* y, std::size_t n) noexcept;
  bool push(const double* const* x, double* const* y, std::size_t n) noexcept;
  bool push(const std::int16_t* const* x, float* const* y, std::size_t n) noexcept;
  /// Back to the state after construction.
  void reset() noexcept;

  std::size_t channels() const noexcept { return channels_; }
  /// Samples taken of each channel since construction or reset.
  std::uint64_t samples() const noexcept { return samples_; }

 private:
  template <class S, class T>
  bool push_rows(const S* const* x, T* const* y, std::size_t n) noexcept;

  std::shared_ptr<const Filter> filter_;
  std::size_t channels_;
  Start start_;
  AlignedVector<double> state_;
  std::uint64_t samples_ = 0;
};

/// y[c] = x[c] - mean over the good channels, sample by sample, the mean in double; y[c] may be x[c]. bad[c]
/// leaves channel c out of the mean (it is referenced all the same and may hold anything); nullptr: none is
/// bad. False if a good channel has an unusable sample (see Filter::limit). Throws InvalidArgument if every
/// channel is bad.
[[nodiscard]] AFFEKT_API bool average_reference(const float* const* x, float* const* y, const bool* bad,
                                                std::size_t channels, std::size_t n);
[[nodiscard]] AFFEKT_API bool average_reference(const double* const* x, double* const* y, const bool* bad,
                                                std::size_t channels, std::size_t n);

}  // namespace affekt
