// Change of the sample rate by any ratio, with the channels mixed on the way: whole recordings and live.
//
// y[m] = sum_i x[i] h(m in/out - i) with a windowed sinc h, after halvings of the rate where the signal has
// much more than it needs. Ratios of more than two phases take two filters: one as sharp as asked, at the
// rate of the signal or twice that, and a short one from there to the rate that is wanted. Linear phase,
// compensated: y[0] lies at x[0]. One sum in one order per value, so a stream gives the bits of the whole
// recording for any chunking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/error.hpp"
#include "affekt/export.hpp"

namespace affekt {

struct Lines;

struct ResamplerOptions {
  double input_rate = 48000;   ///< Hz
  double output_rate = 16000;  ///< Hz, within a factor of 256 of the input
  /// Edge of what passes unchanged, as a part of half the lower rate, 0.5 to 0.98.
  double passband = 0.913;
  /// dB by which images and aliases are reduced, 40 to 140. The pass-band ripple follows: 10^(-dB/20).
  double rejection = 100;
};

/// Immutable plan: coefficients of the halvings and of the phases. Share it freely between threads.
class AFFEKT_API Resampler {
 public:
  /// Throws InvalidArgument naming the field, the expectation and the value. A ratio whose terms exceed 2^31
  /// is taken as the nearest that fits, which is off by less than 2^-52.
  explicit Resampler(const ResamplerOptions& options);

  const ResamplerOptions& options() const noexcept { return options_; }
  /// output_rate / input_rate = up() / down(), in lowest terms.
  std::uint64_t up() const noexcept { return up_; }
  std::uint64_t down() const noexcept { return down_; }
  /// Samples that `n` samples give: those that lie before the end, ceil(n up / down).
  std::size_t output_length(std::size_t n) const noexcept;
  /// Input samples beyond its own time that an output sample waits for, rounded up.
  std::size_t latency_samples() const noexcept;
  /// Multiplications per output sample, all stages together.
  double multiplications() const noexcept;
  /// Bytes of samples that a ResamplerStream holds.
  std::size_t stream_bytes() const noexcept;

  /// Index of the first sample that is NaN or beyond 1e30; `n` if there is none. Throws as isa() does.
  static std::size_t first_unusable(const float* x, std::size_t n);
  static std::size_t first_unusable(const double* x, std::size_t n);
  static std::size_t first_unusable(const std::int16_t*, std::size_t n) noexcept { return n; }

  /// `signals` results of output_length(n) samples. Result s is the sum over c of mix[c] x[s * mix.size() +
  /// c]; double is rounded to float first, int16 is taken as x / 32768. Samples must be usable. Uses up to
  /// num_threads() threads.
  void compute(const float* const* x, std::size_t signals, std::size_t n, const std::vector<float>& mix,
               float* const* y) const;
  void compute(const double* const* x, std::size_t signals, std::size_t n, const std::vector<float>& mix,
               float* const* y) const;
  void compute(const std::int16_t* const* x, std::size_t signals, std::size_t n,
               const std::vector<float>& mix, float* const* y) const;

 private:
  friend class ResamplerStream;
  template <class S>
  void compute_signals(const S* const* x, std::size_t signals, std::size_t n, const std::vector<float>& mix,
                       float* const* y) const;

  ResamplerOptions options_;
  std::uint64_t up_ = 1, down_ = 1;
  std::vector<AlignedVector<float>>
      halvings_;  // (2, pairs): zeros, taps at distance 1, 3 ... from the middle
  /// A filter in phases: result m lies at sample m step / phases.
  struct Stage {
    std::uint64_t phases = 1, step = 1;
    std::size_t rows = 1;  // of the table; fewer than phases: two neighbours are interpolated
    std::size_t taps = 0, stride = 0;
    std::size_t folds = 0;        // 0: not folded
    AlignedVector<float> table;   // (rows, stride)
    AlignedVector<float> folded;  // (phases, step, folds) of symmetric rows
    double multiplications() const noexcept;
    std::size_t room() const noexcept;  // samples that a stream holds for it
  };
  static Stage make_stage(std::uint64_t phases, std::uint64_t step, double rejection, double width,
                          double cutoff);
  std::vector<Stage> stages_;  // one, or a sharp filter and a short one that interpolates
};

/// Live resampler of one result over a shared plan. Nothing is allocated after construction.
class AFFEKT_API ResamplerStream {
 public:
  /// `mix`: weight of each input channel, 1 to 1024 values whose magnitudes add up to at most 1e6.
  ResamplerStream(std::shared_ptr<const Resampler> plan, const std::vector<float>& mix = {1.0f});

  /// Most samples that push gives for `n`, and finish for 0.
  std::size_t most(std::size_t n) const noexcept { return plan_->output_length(samples_ + n) - given_; }
  /// Takes the next `n` samples of every channel and writes the results that they finish to `y`; returns how
  /// many. The samples must be usable.
  std::size_t push(const float* const* x, std::size_t n, float* y) noexcept;
  std::size_t push(const double* const* x, std::size_t n, float* y) noexcept;
  std::size_t push(const std::int16_t* const* x, std::size_t n, float* y) noexcept;
  /// The results that are left, as if silence followed; afterwards only reset() may be called.
  std::size_t finish(float* y) noexcept;
  /// Back to the state after construction.
  void reset() noexcept;

  std::size_t channels() const noexcept { return channels_; }
  /// Samples taken and given since construction or reset.
  std::uint64_t samples() const noexcept { return samples_; }
  std::uint64_t given() const noexcept { return given_; }
  const Resampler& plan() const noexcept { return *plan_; }

 private:
  struct Halving {
    AlignedVector<float> even, odd, result;
    std::size_t evens = 0, odds = 0;  // held
    bool odd_next = false;
  };
  template <class S>
  std::size_t push_mixed(const S* const* x, std::size_t n, float* y) noexcept;
  void halve(const float* x, std::size_t n, const Lines& ahead) noexcept;
  std::size_t drain(float* y, std::size_t most, bool rest, const Lines& ahead) noexcept;

  /// Input of a stage.
  struct Held {
    AlignedVector<float> samples;
    std::size_t filled = 0, room = 0;
    std::uint64_t index = 0, fraction = 0;  // of the next result
  };

  std::shared_ptr<const Resampler> plan_;
  std::size_t channels_;
  std::vector<std::uint32_t> used_;  // channels with a weight
  std::vector<float> weights_;       // theirs
  AlignedVector<float> block_;       // mixed input
  std::vector<Halving> halvings_;
  std::vector<Held> held_;
  std::uint64_t samples_ = 0, given_ = 0;
};

}  // namespace affekt
