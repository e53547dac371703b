// Power spectra of EEG and other slow signals: Welch's method over recordings, and band power in sliding
// windows, for whole recordings and live.
//
// Every segment of a channel is transformed once, however many windows hold it. What a live stream hands out
// has the bits of the offline call, whatever the sizes of the pushes; nor do results depend on the number of
// channels, recordings or threads. All forms take float and double; the transform runs in the type of the
// samples, except for float and lengths with a prime factor above 31, where it runs in double.
//
// A sample that is NaN is missing: the segments that hold it are left out. Infinite samples, and those so
// large that a power could overflow, are errors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/export.hpp"
#include "affekt/frontend.hpp"

namespace affekt {

enum class Detrend { none, constant, linear };
enum class Scaling { density, spectrum };
enum class Average { mean, median };
enum class Integration { trapezoid, simpson };

/// How a signal is cut into segments and each becomes a power spectrum.
struct AFFEKT_API WelchOptions {
  double sample_rate = 256;             ///< Hz
  std::size_t n_per_seg = 256;          ///< samples of a segment
  std::size_t n_overlap = 128;          ///< samples that neighbours share, < n_per_seg
  std::size_t n_fft = 256;              ///< transform length, n_per_seg to 2^20; the rest is zero
  Window window = Window::hann;         ///< periodic; ignored where `taper` has values
  std::vector<double> taper = {};       ///< n_per_seg values of a window of one's own
  Detrend detrend = Detrend::constant;  ///< what is taken off each segment: nothing, its mean, its line
  Scaling scaling = Scaling::density;   ///< unit^2/Hz, or unit^2
  Average average = Average::mean;  ///< over segments; the median is divided by its bias for an exponential
                                    ///< distribution

  /// JSON object with every field; `window` is a name or the values of `taper`.
  std::string to_json() const;
  /// Fields that are absent keep their default; n_overlap, absent or null, is half of n_per_seg, and n_fft is
  /// n_per_seg. Throws InvalidArgument at unknown fields, types or names.
  static WelchOptions from_json(const std::string& text);
};

/// Immutable plan of Welch's method; one-sided. Share it freely between threads.
///
///   P[k] = c s / (sum w^2) mean_m |sum_i w[i] d_m[i] exp(-2 pi i k i / n_fft)|^2
///
/// where d_m is segment m, detrended, c is 2 except for the bins 0 and n_fft / 2, and s is 1 / sample_rate
/// (density); for spectrum, (sum w)^2 takes the place of sample_rate sum w^2.
class AFFEKT_API Welch {
 public:
  /// Throws InvalidArgument naming the field, the expectation and the value.
  explicit Welch(const WelchOptions& options);
  ~Welch();
  Welch(const Welch&) = delete;
  Welch& operator=(const Welch&) = delete;

  const WelchOptions& options() const noexcept;
  /// n_fft / 2 + 1; bin k is at k sample_rate / n_fft Hz.
  std::size_t bins() const noexcept;
  /// Whole segments of a signal.
  std::size_t segments(std::size_t n_samples) const noexcept;
  /// The window, n_per_seg values, with the scale in it: P[k] = c mean_m |sum_i window[i] d_m[i] ...|^2.
  std::vector<double> window() const;

  /// `rows` signals of n samples, at x[r] -> out, (rows, bins()) row-major, and the number of segments that
  /// each row used; a row without any is NaN. Threads share the rows. Throws InvalidArgument at an unusable
  /// sample, and where n < n_per_seg.
  void compute(const float* const* x, std::size_t rows, std::size_t n, float* out, std::uint64_t* used) const;
  void compute(const double* const* x, std::size_t rows, std::size_t n, double* out,
               std::uint64_t* used) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

struct PowerBand {
  std::string name;
  double low = 0, high = 0;  ///< Hz, both inclusive
};

/// A window's power spectrum is that of Welch's method over its segments; bands integrate it.
struct AFFEKT_API BandPowerOptions {
  WelchOptions welch = {};       ///< `scaling` is density
  std::size_t win_length = 512;  ///< samples of a window; shortened to whole segments
  std::size_t hop_length = 64;   ///< samples between windows
  std::vector<PowerBand> bands = {{"delta", 0.3, 5}, {"theta", 5, 8},   {"alpha", 8, 12},
                                  {"beta1", 12, 18}, {"beta2", 18, 30}, {"gamma", 30, 45}};
  Integration integration = Integration::trapezoid;  ///< over the bins inside a band
  bool relative = true;                              ///< divided by the integral over `total`
  double total_low = 0;                              ///< Hz
  double total_high = -1;                            ///< Hz; negative: half the sample rate
  LogMode log = LogMode::none;                       ///< db: 10 log10
  double floor = 1e-30;                              ///< smallest value that enters a logarithm

  /// JSON object with every field: lengths `window`, `hop` and `segment` in seconds, `overlap` as a fraction
  /// of a segment, `taper` a name or values, `bands` as [name, low, high], `total` as [low, high] or null.
  std::string to_json() const;
  /// Lengths are rounded to whole samples. Fields that are absent keep their default: 2 s, 0.25 s, 1 s and
  /// half; n_fft, absent or null, is a segment. Throws InvalidArgument at unknown fields, types, names, or
  /// lengths.
  static BandPowerOptions from_json(const std::string& text);
};

template <class T>
class BandPowerStream;

/// Immutable plan of band power in sliding windows. Share it freely between threads.
class AFFEKT_API BandPower {
 public:
  /// Throws InvalidArgument naming the field, the expectation and the value.
  explicit BandPower(const BandPowerOptions& options);
  ~BandPower();
  BandPower(const BandPower&) = delete;
  BandPower& operator=(const BandPower&) = delete;

  /// With win_length shortened and every default filled in.
  const BandPowerOptions& options() const noexcept;
  std::size_t bands() const noexcept;
  /// `Welch::window`, and the integrals: value b is the sum over k of weights()[b * bins + k] P[k], the
  /// bands first, then, for relative power, the total.
  std::vector<double> window() const;
  std::vector<double> weights() const;
  /// Windows of a signal; frame f is about samples f hop_length ... f hop_length + win_length - 1.
  std::size_t frames(std::size_t n_samples) const noexcept;
  /// Memory of a BandPowerStream<float>, the plan aside.
  std::size_t stream_bytes(std::size_t channels, std::size_t capacity_samples) const noexcept;
  /// Index of the first sample that is infinite or too large; `n` if there is none.
  std::size_t first_unusable(const float* x, std::size_t n) const noexcept;
  std::size_t first_unusable(const double* x, std::size_t n) const noexcept;

  /// `recordings` of `channels` signals of n samples, at x[recording * channels + channel] -> power,
  /// (recordings, frames, channels, bands), and valid, (recordings, frames, channels): whether a segment of
  /// that window is without missing samples and, for relative power, the total is above zero; the power is
  /// NaN where it is false. Threads share the channels. Throws InvalidArgument at an unusable sample.
  void compute(const float* const* x, std::size_t recordings, std::size_t channels, std::size_t n,
               float* power, bool* valid) const;
  void compute(const double* const* x, std::size_t recordings, std::size_t channels, std::size_t n,
               double* power, bool* valid) const;

 private:
  template <class T>
  friend class BandPowerStream;
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Live band power over a shared plan, T being float or double. Nothing is allocated after construction;
/// every step is noexcept.
template <class T>
class AFFEKT_API BandPowerStream {
 public:
  /// `capacity_samples`: how many samples of each channel can wait beyond those of one window.
  BandPowerStream(std::shared_ptr<const BandPower> plan, std::size_t channels,
                  std::size_t capacity_samples = 1024);
  ~BandPowerStream();
  /// A copy goes on from here by itself.
  BandPowerStream(const BandPowerStream& other);
  BandPowerStream(BandPowerStream&&) noexcept;
  BandPowerStream& operator=(BandPowerStream&&) noexcept;

  /// Takes up to n samples of every channel and returns how many; fewer when frames wait to be fetched.
  /// Sample i of channel c is x[c * channel_stride + i * sample_stride]. One that is not usable, see
  /// BandPower::first_unusable, counts as missing.
  std::size_t push(const T* x, std::size_t n, std::ptrdiff_t channel_stride,
                   std::ptrdiff_t sample_stride = 1) noexcept;
  /// Writes the next finished frame, (channels, bands) and (channels,), if there is one.
  bool next(T* power, bool* valid) noexcept;
  /// Frames that `next` would hand out now.
  std::size_t ready() const noexcept;
  void reset() noexcept;

  std::size_t channels() const noexcept;
  /// Frames handed out and samples taken since construction or reset.
  std::uint64_t frames() const noexcept;
  std::uint64_t samples() const noexcept;
  /// Index of the last sample that a frame used.
  std::uint64_t last_sample(std::uint64_t frame) const noexcept;
  const BandPower& plan() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

extern template class BandPowerStream<float>;
extern template class BandPowerStream<double>;

}  // namespace affekt
