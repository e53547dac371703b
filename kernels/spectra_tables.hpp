// Options of the front ends -> tasks of spectra.hpp, with the tables that these need in device memory. Host
// code over the public headers of libaffekt, for whatever holds the device's memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "affekt/bandpower.hpp"
#include "affekt/frontend.hpp"
#include "affekt/spectrogram.hpp"
#include "spectra.hpp"

namespace affekt::gpu {

/// Tables side by side, each on a boundary of 256 bytes: what goes to the device in one copy.
class Tables {
 public:
  /// Returns where the values lie.
  template <class T>
  std::size_t add(const std::vector<T>& values) {
    const std::size_t at = (bytes_.size() + 255) / 256 * 256;
    bytes_.resize(at + std::max<std::size_t>(1, values.size()) * sizeof(T));
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> bytes_;
};

template <class T>
const T* table_at(const void* device, std::size_t at) {
  return reinterpret_cast<const T*>(static_cast<const unsigned char*>(device) + at);
}

/// Values times `factor` in T.
template <class T>
std::vector<T> rounded(const std::vector<double>& values, double factor = 1) {
  std::vector<T> to;
  for (const double v : values) to.push_back(static_cast<T>(v * factor));
  return to;
}

/// The roots of unity of a transform of `length` real numbers, in the order of Fourier (fourier.cuh).
template <class T>
std::vector<Complex<T>> fourier_roots(int length) {
  const int half = length / 2;
  std::vector<Complex<T>> roots;
  const auto add = [&roots](double turns) {
    const double angle = -2 * std::numbers::pi * turns;
    roots.push_back({static_cast<T>(std::cos(angle)), static_cast<T>(std::sin(angle))});
  };
  for (int n = 1, radix = 0; n < half; n *= radix) {
    radix = std::min(8, half / n);
    for (int r = 1; r < radix && n > 1; ++r) {
      for (int j = 0; j < n; ++j) add(static_cast<double>(r) * j / (n * radix));
    }
  }
  for (int k = 0; k < half / 2; ++k) add(static_cast<double>(k) / length);
  return roots;
}

/// The rows of a dense matrix (rows, bins), each from its first to its last value that is not 0.
struct Ranges {
  std::vector<MelRange> ranges;
  std::vector<double> weights;

  Ranges(const std::vector<double>& dense, std::size_t bins) {
    for (std::size_t m = 0; m < dense.size() / bins; ++m) {
      const double* const row = dense.data() + m * bins;
      std::size_t first = 0, end = bins;
      while (first < bins && row[first] == 0) ++first;
      while (end > first && row[end - 1] == 0) --end;
      if (first == end) first = end = 0;
      ranges.push_back(
          {static_cast<int>(first), static_cast<int>(end - first), static_cast<int>(weights.size())});
      weights.insert(weights.end(), row + first, row + end);
    }
  }
};

/// What a logarithm multiplies the natural one of a power by.
inline double log_unit(LogMode log, double power) {
  return log == LogMode::ln      ? 1
         : log == LogMode::log10 ? 1 / std::numbers::ln10
                                 : 20 / power / std::numbers::ln10;
}

/// Why the kernels do not take a transform of this length; empty if they do.
inline std::string transform_unfit(std::size_t n_fft) {
  if (has_transform(static_cast<Wide>(n_fft))) return "";
  return "n_fft: expected a power of two from 64 to 4096 on a GPU, got " + std::to_string(n_fft);
}

/// Why frame_rows cannot compute the rows of FrontEnd (`mel`) or Spectrogram; empty if it can. It takes no
/// step that needs the whole clip.
inline std::string frames_unfit(const FrontEndOptions& o, bool mel) {
  const std::string problem = transform_unfit(static_cast<std::size_t>(std::max(o.n_fft, 0)));
  if (!problem.empty() || !mel) return problem;
  if (o.ref_max) return "ref: expected a number on a GPU, got \"max\"";
  if (o.top_db) return "top_db: expected none on a GPU";
  if (o.deltas > 0) return "deltas: expected 0 on a GPU, got " + std::to_string(o.deltas);
  if (o.n_mels > o.n_fft / 2) {
    return "n_mels: expected at most n_fft / 2 = " + std::to_string(o.n_fft / 2) + " on a GPU, got " +
           std::to_string(o.n_mels);
  }
  // As on the CPU: float32 has no room for the errors of its transform there.
  if (o.mel_scale == MelScale::kaldi && o.power < 2)
    return "power: expected 2 or more with mel_scale \"kaldi\" on a GPU";
  return "";
}

/// Why welch_spectra cannot compute the spectra of Welch; empty if it can.
inline std::string welch_unfit(const WelchOptions& o) {
  if (o.average != Average::mean) return "average: expected \"mean\" on a GPU";
  return transform_unfit(o.n_fft);
}

/// A plan of frame_rows.
template <class T>
class FrameTables {
 public:
  /// `mel`: the rows of FrontEnd, else of Spectrogram. Throws InvalidArgument as these do, and with the
  /// reason that frames_unfit gives.
  FrameTables(const FrontEndOptions& options, bool mel) {
    FrontEndOptions o = options;
    if (!mel) {
      const Spectrogram checked(o);
      FrontEndOptions framing;  // of the others only the window, which no other option can refuse
      framing.n_fft = o.n_fft, framing.win_length = o.win_length, framing.hop_length = o.hop_length;
      framing.window = o.window, framing.periodic = o.periodic, framing.scale = o.scale;
      framing.center = o.center, framing.pad_mode = o.pad_mode, framing.drop_last = o.drop_last;
      framing.power = o.power, framing.span = o.span;
      o = framing;
    }
    plan_ = std::make_shared<const FrontEnd>(o);
    o = plan_->options();
    const std::string problem = frames_unfit(o, mel);
    if (!problem.empty()) throw InvalidArgument(problem);

    const int span = o.span == FrameSpan::n_fft ? o.n_fft : o.win_length;
    task_.transform = o.n_fft, task_.hop = o.hop_length, task_.width = o.win_length;
    task_.origin = (span - o.win_length) / 2, task_.before = (o.n_fft - o.win_length) / 2;
    if (o.center)
      task_.origin += o.span == FrameSpan::n_fft ? -(o.n_fft / 2) : o.hop_length / 2 - o.win_length / 2;
    task_.pad = static_cast<int>(o.pad_mode);
    const bool in_signal = o.preemphasis_mode == PreemphasisMode::signal;
    task_.signal_emphasis = static_cast<T>(in_signal ? o.preemphasis : 0);
    task_.frame_emphasis = static_cast<T>(in_signal ? 0 : o.preemphasis);
    task_.remove_dc = o.remove_dc;
    task_.energy = static_cast<int>(o.energy);
    // The window on the device carries the scale and a factor of 1/2.
    task_.energy_scale = o.energy == EnergyMode::raw ? o.scale * o.scale : 4;
    task_.energy_least =
        std::max(static_cast<double>(std::numeric_limits<float>::epsilon()), o.energy_floor);  // Kaldi's
    task_.power = static_cast<T>(o.power);
    task_.columns = o.n_fft / 2 + 1;
    window_ = tables_.add(rounded<T>(plan_->window(), o.scale / 2));
    roots_ = tables_.add(fourier_roots<T>(o.n_fft));
    if (!mel) return;

    task_.mels = o.n_mels, task_.cepstra = o.n_mfcc;
    task_.floor = static_cast<T>(*o.floor);
    task_.log = o.log != LogMode::none;
    task_.unit = static_cast<T>(log_unit(o.log, o.power));
    task_.ref = o.log == LogMode::db ? static_cast<T>(20 / o.power * std::log10(o.ref)) : T(0);
    task_.shift = static_cast<T>(o.log_shift), task_.scale = static_cast<T>(o.log_scale);
    task_.columns = static_cast<int>(plan_->features());
    const Ranges filters(plan_->mel_filters(), static_cast<std::size_t>(o.n_fft / 2 + 1));
    std::vector<double> dct(static_cast<std::size_t>(o.n_mels) * static_cast<std::size_t>(o.n_mfcc));
    const std::vector<double> entries = plan_->dct();
    const auto mels = static_cast<std::size_t>(o.n_mels), cepstra = static_cast<std::size_t>(o.n_mfcc);
    for (std::size_t c = 0; c < cepstra; ++c) {
      for (std::size_t m = 0; m < mels; ++m) dct[m * cepstra + c] = entries[c * mels + m];
    }
    ranges_ = tables_.add(filters.ranges);
    weights_ = tables_.add(rounded<T>(filters.weights));
    dct_ = tables_.add(rounded<T>(dct));
  }

  const std::vector<unsigned char>& bytes() const { return tables_.bytes(); }
  std::size_t frames(std::size_t samples) const { return plan_->frames(samples); }
  std::size_t columns() const { return static_cast<std::size_t>(task_.columns); }

  /// The task, with `bytes` at `device`, of signals at x.
  FrameTask<T> task(const void* device, const T* x, Wide signals, Wide samples, T* out) const {
    FrameTask<T> task = task_;
    task.window = table_at<T>(device, window_);
    task.roots = table_at<Complex<T>>(device, roots_);
    task.ranges = table_at<MelRange>(device, ranges_);
    task.weights = table_at<T>(device, weights_);
    task.dct = table_at<T>(device, dct_);
    task.x = x, task.signals = signals, task.samples = samples, task.out = out;
    task.frames = static_cast<Wide>(frames(static_cast<std::size_t>(samples)));
    return task;
  }

 private:
  std::shared_ptr<const FrontEnd> plan_;
  Tables tables_;
  FrameTask<T> task_{};
  std::size_t window_ = 0, roots_ = 0, ranges_ = 0, weights_ = 0, dct_ = 0;
};

/// A plan of welch_spectra.
template <class T>
class WelchTables {
 public:
  /// Throws InvalidArgument as Welch does, and with the reason that welch_unfit gives.
  explicit WelchTables(const WelchOptions& o) : plan_(std::make_shared<const Welch>(o)) {
    const std::string problem = welch_unfit(o);
    if (!problem.empty()) throw InvalidArgument(problem);
    task_.transform = static_cast<int>(o.n_fft), task_.width = static_cast<int>(o.n_per_seg);
    task_.step = static_cast<Wide>(o.n_per_seg - o.n_overlap);
    task_.detrend = static_cast<int>(o.detrend);
    // Half the root of a bin's two sides.
    window_ = tables_.add(rounded<T>(plan_->window(), std::sqrt(0.5)));
    roots_ = tables_.add(fourier_roots<T>(task_.transform));
  }

  const std::vector<unsigned char>& bytes() const { return tables_.bytes(); }
  std::size_t bins() const { return plan_->bins(); }
  std::size_t segments(std::size_t samples) const { return plan_->segments(samples); }

  /// The task, with `bytes` at `device`, of signals at x; `used` may be null.
  /// Throws InvalidArgument at fewer samples than a segment has.
  WelchTask<T> task(const void* device, const T* x, Wide signals, Wide samples, T* out, int* used) const {
    if (samples < task_.width) {
      throw InvalidArgument("samples: expected at least n_per_seg = " + std::to_string(task_.width) +
                            " of them, got " + std::to_string(samples));
    }
    WelchTask<T> task = task_;
    task.window = table_at<T>(device, window_);
    task.roots = table_at<Complex<T>>(device, roots_);
    task.x = x, task.signals = signals, task.samples = samples, task.out = out, task.used = used;
    task.segments = static_cast<Wide>(segments(static_cast<std::size_t>(samples)));
    return task;
  }

 private:
  std::shared_ptr<const Welch> plan_;
  Tables tables_;
  WelchTask<T> task_{};
  std::size_t window_ = 0, roots_ = 0;
};

/// A plan of band_powers.
template <class T>
class BandTables {
 public:
  /// Throws InvalidArgument as BandPower does, and with the reason that welch_unfit gives.
  explicit BandTables(const BandPowerOptions& options) : plan_(std::make_shared<const BandPower>(options)) {
    const BandPowerOptions& o = plan_->options();
    const WelchOptions& w = o.welch;
    const std::string problem = welch_unfit(w);
    if (!problem.empty()) throw InvalidArgument(problem);
    task_.transform = static_cast<int>(w.n_fft), task_.width = static_cast<int>(w.n_per_seg);
    task_.step = static_cast<Wide>(w.n_per_seg - w.n_overlap), task_.hop = static_cast<Wide>(o.hop_length);
    task_.detrend = static_cast<int>(w.detrend);
    // Segment j of window f begins at f hop + j step, as does segment j + b of window f - a where a hop =
    // b step.
    const Wide common = std::gcd(task_.hop, task_.step);
    task_.segments = static_cast<Wide>(o.win_length - w.n_per_seg) / task_.step + 1;
    task_.windows_apart = task_.step / common, task_.segments_apart = task_.hop / common;
    task_.fresh = std::min(task_.segments, task_.segments_apart);
    task_.before = task_.windows_apart * ((task_.segments - 1) / task_.segments_apart);
    task_.bands = static_cast<int>(o.bands.size()), task_.values = task_.bands + (o.relative ? 1 : 0);
    task_.log = o.log != LogMode::none;
    task_.floor = static_cast<T>(o.floor);
    task_.unit = static_cast<T>(log_unit(o.log, 2));
    // As WelchTables; the outermost bins have no negative frequencies.
    const std::size_t bins = w.n_fft / 2 + 1;
    std::vector<double> dense = plan_->weights();
    for (std::size_t at = 0; at < dense.size(); ++at)
      if (at % bins == 0 || at % bins == bins - 1) dense[at] /= 2;
    const Ranges integrals(dense, bins);
    window_ = tables_.add(rounded<T>(plan_->window(), std::sqrt(0.5)));
    roots_ = tables_.add(fourier_roots<T>(task_.transform));
    ranges_ = tables_.add(integrals.ranges);
    weights_ = tables_.add(rounded<T>(integrals.weights));
  }

  const std::vector<unsigned char>& bytes() const { return tables_.bytes(); }
  std::size_t frames(std::size_t samples) const { return plan_->frames(samples); }
  std::size_t bands() const { return static_cast<std::size_t>(task_.bands); }

  /// The task, with `bytes` at `device`, of recordings at x.
  BandTask<T> task(const void* device, const T* x, Wide recordings, Wide channels, Wide samples, T* power,
                   bool* valid) const {
    BandTask<T> task = task_;
    task.window = table_at<T>(device, window_);
    task.roots = table_at<Complex<T>>(device, roots_);
    task.ranges = table_at<MelRange>(device, ranges_);
    task.weights = table_at<T>(device, weights_);
    task.x = x, task.recordings = recordings, task.channels = channels, task.samples = samples;
    task.frames = static_cast<Wide>(frames(static_cast<std::size_t>(samples)));
    task.power = power, task.valid = valid;
    return task;
  }

 private:
  std::shared_ptr<const BandPower> plan_;
  Tables tables_;
  BandTask<T> task_{};
  std::size_t window_ = 0, roots_ = 0, ranges_ = 0, weights_ = 0;
};

}  // namespace affekt::gpu
