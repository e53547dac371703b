#include "affekt/bandpower_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <mutex>
#include <numbers>
#include <numeric>
#include <utility>
#include <vector>

#include "affekt/aligned.hpp"
#include "fft.hpp"
#include "framing.hpp"
#include "kernels/scan.hpp"
#include "kernels/welch_gradient.hpp"
#include "median_bias.hpp"

namespace affekt {
namespace {

using Values = std::vector<double>;

/// Segments side by side, there and back.
struct Segments {
  Segments(const WelchOptions& o, Values window_) : fft(o.n_fft), window(std::move(window_)) {
    for (double& w : window) w /= fft.view().gain;
    window.resize(o.n_fft, 0.0);
    view = {fft.view(), o.n_per_seg, window.data(), static_cast<int>(o.detrend)};
    bins = view.fft.bins;
    twice.assign(bins, 2.0);
    twice.front() = 1.0;
    if (o.n_fft % 2 == 0) twice.back() = 1.0;
  }

  RealFft<double> fft;
  Values window;
  SegmentView<double> view;
  std::size_t bins;
  Values twice;  // how often a bin of the one-sided spectrum stands for one of the two-sided
  const WelchGradientKernels& kernels = welch_gradient();
  std::size_t lanes = kernels.lanes;
};

/// Spectra of some segments, and what flows back into them: lane l of value k at k * lanes + l.
struct Group {
  explicit Group(const Segments& s)
      : re(s.bins * s.lanes), im(re.size()), gain(re.size()), x(s.lanes), to(s.lanes) {}

  AlignedVector<double> re, im, gain;
  std::vector<const double*> x;
  std::vector<double*> to;  // null: a lane without a segment
  // Of band power: what windows take of each segment, lane after lane, integrals or, for medians, powers, and
  // the gradient that comes back into it.
  Values parts, flow;
};

/// A signal in double, its gradient, and where samples are missing.
template <class S>
struct Signal {
  Signal(const S* x, std::size_t n) : values(x, x + n), found(n, 0.0), complete(whole(0, n)) {}
  bool whole(std::size_t start, std::size_t length) const {
    return scan().doubles(values.data() + start, length, std::numeric_limits<double>::max()) == length;
  }
  bool usable(std::size_t start, std::size_t length) const { return complete || whole(start, length); }
  void store(S* to) const {
    for (std::size_t i = 0; i < found.size(); ++i) to[i] = static_cast<S>(found[i]);
  }

  Values values, found;
  bool complete;
};

/// Values with their places.
using Ranked = std::vector<std::pair<double, std::size_t>>;

/// The places of the one or two values in the middle of `values`, which is reordered.
std::pair<std::size_t, std::size_t> middle_of(Ranked& values) {
  const std::size_t n = values.size();
  const auto half = values.begin() + static_cast<std::ptrdiff_t>(n / 2);
  std::nth_element(values.begin(), half, values.end());
  const std::size_t high = half->second;
  return {n % 2 == 1 ? high : std::max_element(values.begin(), half)->second, high};
}

/// What of each of n rows is their median, value by value: shares[i * width + k] is 1 for the row in the
/// middle, 1/2 for each of two, else 0. `rank` holds `width` values.
void median_shares(const double* const* rows, std::size_t n, std::size_t width, double* shares,
                   Ranked& ranked, double* rank) {
  if (n <= 16) {  // by counting, without branches
    const double low = static_cast<double>((n - 1) / 2), high = static_cast<double>(n / 2);
    for (std::size_t i = 0; i < n; ++i, shares += width) {
      const double* const own = rows[i];
      std::fill(rank, rank + width, 0.0);
      for (std::size_t j = 0; j < n; ++j) {
        const double* const other = rows[j];
        if (j < i) {  // of equal ones the first comes first
          for (std::size_t k = 0; k < width; ++k) rank[k] += other[k] <= own[k] ? 1.0 : 0.0;
        } else if (j > i) {
          for (std::size_t k = 0; k < width; ++k) rank[k] += other[k] < own[k] ? 1.0 : 0.0;
        }
      }
      for (std::size_t k = 0; k < width; ++k)
        shares[k] = (rank[k] == low ? 0.5 : 0.0) + (rank[k] == high ? 0.5 : 0.0);
    }
    return;
  }
  std::fill(shares, shares + n * width, 0.0);
  ranked.resize(n);
  for (std::size_t k = 0; k < width; ++k) {
    for (std::size_t i = 0; i < n; ++i) ranked[i] = {rows[i][k], i};
    const auto [low, high] = middle_of(ranked);
    shares[low * width + k] += 0.5;
    shares[high * width + k] += 0.5;
  }
}

}  // namespace

// ---- Welch
// -------------------------------------------------------------------------------------------------

struct WelchGradient::Impl {
  explicit Impl(const Welch& plan) : o(plan.options()), segments(o, plan.window()) {}

  template <class S>
  void compute(const S* x, std::size_t n, const S* grad, S* to) const {
    Signal<S> signal(x, n);
    std::vector<std::size_t> starts;
    const std::size_t step = o.n_per_seg - o.n_overlap;
    for (std::size_t at = 0; at + o.n_per_seg <= n; at += step)
      if (signal.usable(at, o.n_per_seg)) starts.push_back(at);
    if (!starts.empty()) {
      Values flow(segments.bins);  // into |X|^2 of a segment, times two
      const double bias = o.average == Average::median ? median_bias(starts.size()) : 1.0;
      for (std::size_t k = 0; k < flow.size(); ++k)
        flow[k] = 2.0 * segments.twice[k] * static_cast<double>(grad[k]) / bias;
      if (o.average == Average::median) {
        through_median(signal, starts, flow);
      } else {
        through_mean(signal, starts, flow);
      }
    }
    signal.store(to);
  }

  /// f(group, first, count) for all segments, when their spectra are there.
  template <class S, class F>
  void each_group(Signal<S>& signal, const std::vector<std::size_t>& starts, F&& f) const {
    const std::size_t lanes = segments.lanes;
    Group group(segments);
    AlignedVector<double> work(segments.kernels.work_size(segments.view));
    for (std::size_t first = 0; first < starts.size(); first += lanes) {
      const std::size_t count = std::min(lanes, starts.size() - first);
      for (std::size_t l = 0; l < lanes; ++l) {
        const std::size_t at = starts[first + std::min(l, count - 1)];
        group.x[l] = signal.values.data() + at;
        group.to[l] = l < count ? signal.found.data() + at : nullptr;
      }
      segments.kernels.spectra(segments.view, group.x.data(), group.re.data(), group.im.data(), work.data());
      f(group, first, count, work.data());
    }
  }

  void back(const Group& group, double* work) const {
    segments.kernels.adjoint(segments.view, group.re.data(), group.im.data(), group.gain.data(),
                             group.to.data(), work);
  }

  template <class S>
  void through_mean(Signal<S>& signal, const std::vector<std::size_t>& starts, const Values& flow) const {
    const std::size_t lanes = segments.lanes;
    const double share = 1.0 / static_cast<double>(starts.size());
    each_group(signal, starts, [&](Group& group, std::size_t first, std::size_t, double* work) {
      for (std::size_t i = 0; first == 0 && i < group.gain.size(); ++i)
        group.gain[i] = flow[i / lanes] * share;
      back(group, work);
    });
  }

  template <class S>
  void through_median(Signal<S>& signal, const std::vector<std::size_t>& starts, const Values& flow) const {
    const std::size_t lanes = segments.lanes, bins = segments.bins;
    Values powers(bins * starts.size());  // bin by bin
    each_group(signal, starts, [&](Group& group, std::size_t first, std::size_t count, double*) {
      for (std::size_t k = 0; k < bins; ++k) {
        for (std::size_t l = 0; l < count; ++l) {
          const double re = group.re[k * lanes + l], im = group.im[k * lanes + l];
          powers[k * starts.size() + first + l] = re * re + im * im;
        }
      }
    });
    std::vector<std::pair<std::size_t, std::size_t>> middle;
    Ranked ranked(starts.size());
    for (std::size_t k = 0; k < bins; ++k) {
      for (std::size_t s = 0; s < ranked.size(); ++s) ranked[s] = {powers[k * ranked.size() + s], s};
      middle.push_back(middle_of(ranked));
    }
    each_group(signal, starts, [&](Group& group, std::size_t first, std::size_t count, double* work) {
      for (std::size_t k = 0; k < bins; ++k) {
        const auto [low, high] = middle[k];
        for (std::size_t l = 0; l < count; ++l) {
          const double share = (low == first + l ? 0.5 : 0.0) + (high == first + l ? 0.5 : 0.0);
          group.gain[k * lanes + l] = share * flow[k];
        }
      }
      back(group, work);
    });
  }

  WelchOptions o;
  Segments segments;
};

WelchGradient::WelchGradient(const WelchOptions& options)
    : impl_(std::make_unique<const Impl>(Welch(options))) {}
WelchGradient::~WelchGradient() = default;
std::size_t WelchGradient::bins() const noexcept { return impl_->segments.bins; }
void WelchGradient::compute(const float* x, std::size_t n, const float* grad, float* to) const {
  impl_->compute(x, n, grad, to);
}
void WelchGradient::compute(const double* x, std::size_t n, const double* grad, double* to) const {
  impl_->compute(x, n, grad, to);
}

// ---- band power
// --------------------------------------------------------------------------------------------

struct BandPowerGradient::Impl {
  explicit Impl(const BandPowerOptions& options)
      : plan(options), o(plan.options()), segments(o.welch, plan.window()) {
    const std::size_t step = o.welch.n_per_seg - o.welch.n_overlap, common = std::gcd(o.hop_length, step);
    windows_apart = step / common;
    places_apart = o.hop_length / common;
    per_window = (o.win_length - o.welch.n_per_seg) / step + 1;
    fresh = std::min(per_window, places_apart);
    behind = windows_apart * ((per_window - 1) / places_apart);
    n_values = o.bands.size() + (o.relative ? 1 : 0);
    const Values weights = plan.weights();
    for (std::size_t b = 0; b < n_values; ++b) {
      Integral& integral = integrals.emplace_back();
      const double* const row = weights.data() + b * segments.bins;
      while (row[integral.first] == 0.0) ++integral.first;
      for (std::size_t k = integral.first; k < segments.bins; ++k)
        integral.weights.push_back(row[k] * segments.twice[k]);
      while (integral.weights.back() == 0.0) integral.weights.pop_back();
    }
    unit = o.log == LogMode::ln   ? 1.0
           : o.log == LogMode::db ? 10.0 / std::numbers::ln10
                                  : 1.0 / std::numbers::ln10;
  }

  struct Integral {
    std::size_t first = 0;
    Values weights;  // of |X|^2
  };

  /// The work on one channel. Segments have numbers: window v brings the segments v fresh ... v fresh + fresh
  /// - 1, counted from the first window, `behind` ones before the signal; the others of a window an earlier
  /// one has brought. Groups of neighbours wait in a ring until no window needs them.
  template <class S>
  struct Channel {
    Channel(const Impl& g_, const S* x, std::size_t n)
        : g(g_),
          s(g.segments),
          signal(x, n),
          frames(g.plan.frames(n)),
          size(((g.behind + 1) * g.fresh + s.lanes - 1) / s.lanes + 1),
          width(g.median() ? s.bins : g.n_values),
          work(s.kernels.work_size(s.view)),
          u(g.n_values),
          sums(g.n_values),
          lane_sums(s.lanes) {
      if (frames == 0) return;
      constexpr double most = 1 << 30;
      const double bytes = static_cast<double>(size) *
                           static_cast<double>((3 * s.bins + 2 * width) * s.lanes * sizeof(double));
      if (bytes > most)
        refuse("win_length", "windows whose segments take at most 1 GiB",
               static_cast<double>(g.o.win_length));
      if (bytes > most / 16) alone = std::unique_lock(large);
      for (std::size_t i = 0; i < size; ++i) {
        Group& group = ring.emplace_back(s);
        group.parts.resize(width * s.lanes);
        group.flow.resize(width * s.lanes);
      }
    }

    void run(std::size_t channels, const S* grad, const bool* valid) {
      const std::size_t all = (frames + g.behind) * g.fresh;
      for (std::size_t f = 0; f < frames; ++f) {
        while (loaded * s.lanes < (f + g.behind + 1) * g.fresh) load(all);
        if (valid[f * channels]) window(f, grad + f * channels * g.o.bands.size());
      }
      for (std::size_t q = loaded > size ? loaded - size : 0; q < loaded; ++q) retire(ring[q % size]);
    }

    void load(std::size_t all) {
      Group& group = ring[loaded % size];
      if (loaded >= size) retire(group);
      const std::size_t step = g.o.welch.n_per_seg - g.o.welch.n_overlap, length = g.o.welch.n_per_seg;
      for (std::size_t l = 0; l < s.lanes; ++l) {
        const std::size_t number = loaded * s.lanes + l, v = number / g.fresh, k = number % g.fresh;
        const std::size_t at = v * g.o.hop_length + (g.per_window - g.fresh + k) * step;
        const std::size_t before = g.behind * g.o.hop_length;
        const bool inside = number < all && at >= before && signal.usable(at - before, length);
        group.x[l] = signal.values.data() + (inside ? at - before : 0);
        group.to[l] = inside ? signal.found.data() + (at - before) : nullptr;
      }
      s.kernels.spectra(s.view, group.x.data(), group.re.data(), group.im.data(), work.data());
      ++loaded;
      std::fill(group.flow.begin(), group.flow.end(), 0.0);
      AlignedVector<double>& power = group.gain;  // until gradients come back
      for (std::size_t i = 0; i < power.size(); ++i)
        power[i] = group.re[i] * group.re[i] + group.im[i] * group.im[i];
      if (g.median()) {
        for (std::size_t k = 0; k < s.bins; ++k)
          for (std::size_t l = 0; l < s.lanes; ++l) group.parts[l * width + k] = power[k * s.lanes + l];
        return;
      }
      for (std::size_t b = 0; b < width; ++b) {
        const Integral& integral = g.integrals[b];
        std::fill(lane_sums.begin(), lane_sums.end(), 0.0);
        const double* from = power.data() + integral.first * s.lanes;
        for (const double w : integral.weights)
          for (std::size_t l = 0; l < s.lanes; ++l) lane_sums[l] += w * *from++;
        for (std::size_t l = 0; l < s.lanes; ++l) group.parts[l * width + b] = lane_sums[l];
      }
    }

    /// All gradients have arrived.
    void retire(Group& group) {
      if (g.median()) {
        for (std::size_t k = 0; k < s.bins; ++k)
          for (std::size_t l = 0; l < s.lanes; ++l) group.gain[k * s.lanes + l] = group.flow[l * width + k];
      } else {
        std::fill(group.gain.begin(), group.gain.end(), 0.0);
        for (std::size_t b = 0; b < width; ++b) {
          const Integral& integral = g.integrals[b];
          for (std::size_t l = 0; l < s.lanes; ++l) lane_sums[l] = 2.0 * group.flow[l * width + b];
          double* to = group.gain.data() + integral.first * s.lanes;
          for (const double w : integral.weights)
            for (std::size_t l = 0; l < s.lanes; ++l) *to++ += w * lane_sums[l];
        }
      }
      s.kernels.adjoint(s.view, group.re.data(), group.im.data(), group.gain.data(), group.to.data(),
                        work.data());
    }

    void window(std::size_t f, const S* grad) {
      usable.clear();
      for (std::size_t j = 0; j < g.per_window; ++j) {
        const std::size_t times = (g.per_window - 1 - j) / g.places_apart;
        const std::size_t v = f + g.behind - g.windows_apart * times;
        const std::size_t number = v * g.fresh + j + g.places_apart * times - (g.per_window - g.fresh);
        Group& group = ring[number / s.lanes % size];
        const std::size_t l = number % s.lanes;
        if (group.to[l] != nullptr)
          usable.push_back({group.parts.data() + l * width, group.flow.data() + l * width});
      }
      if (usable.empty()) return;
      if (g.median()) {
        through_median(grad);
        return;
      }
      std::fill(sums.begin(), sums.end(), 0.0);
      for (const auto& [parts, flow] : usable)
        for (std::size_t b = 0; b < width; ++b) sums[b] += parts[b];
      if (!g.into_sums(grad, sums, static_cast<double>(usable.size()), u)) return;
      for (const auto& [parts, flow] : usable)
        for (std::size_t b = 0; b < width; ++b) flow[b] += u[b];
    }

    void through_median(const S* grad) {
      const double scale = 1.0 / median_bias(usable.size());
      rows.clear();
      for (const auto& [parts, flow] : usable) rows.push_back(parts);
      shares.resize(usable.size() * width);
      spectrum.resize(width);
      median_shares(rows.data(), rows.size(), width, shares.data(), ranked, spectrum.data());
      std::fill(spectrum.begin(), spectrum.end(), 0.0);
      for (std::size_t i = 0; i < rows.size(); ++i)
        for (std::size_t k = 0; k < width; ++k) spectrum[k] += scale * shares[i * width + k] * rows[i][k];
      for (std::size_t b = 0; b < g.n_values; ++b) {
        const Integral& integral = g.integrals[b];
        sums[b] = std::inner_product(integral.weights.begin(), integral.weights.end(),
                                     spectrum.begin() + static_cast<std::ptrdiff_t>(integral.first), 0.0);
      }
      if (!g.into_sums(grad, sums, 1.0, u)) return;
      std::fill(spectrum.begin(), spectrum.end(), 0.0);  // now its gradient
      for (std::size_t b = 0; b < g.n_values; ++b) {
        const Integral& integral = g.integrals[b];
        for (std::size_t i = 0; i < integral.weights.size(); ++i)
          spectrum[integral.first + i] += 2.0 * scale * u[b] * integral.weights[i];
      }
      for (std::size_t i = 0; i < rows.size(); ++i) {
        double* const flow = usable[i].second;
        for (std::size_t k = 0; k < width; ++k) flow[k] += shares[i * width + k] * spectrum[k];
      }
    }

    const Impl& g;
    const Segments& s;
    Signal<S> signal;
    std::size_t frames, size, loaded = 0;
    std::size_t width;  // parts of a segment
    // Channels that take a large part of the limit wait for each other, so that it holds for all threads.
    static inline std::mutex large;
    std::unique_lock<std::mutex> alone;
    std::vector<Group> ring;
    AlignedVector<double> work;
    std::vector<std::pair<const double*, double*>> usable;  // parts and flow of the segments of a window
    std::vector<const double*> rows;
    Values u, sums, lane_sums, spectrum, shares;
    Ranked ranked;
  };

  /// The gradient of the bands of a window -> that of the sums of its `count` segments; false if there is
  /// none, or no number for it.
  template <class S>
  bool into_sums(const S* grad, const Values& sums, double count, Values& u) const {
    const std::size_t bands = o.bands.size();
    const double by = o.relative ? sums[bands] : count;
    if (!(by > 1e-290)) return false;
    double of_total = 0.0;
    for (std::size_t b = 0; b < bands; ++b) {
      const double value = sums[b] / by;
      double g = static_cast<double>(grad[b]);
      if (o.log != LogMode::none) g = value >= o.floor ? g * unit / value : 0.0;
      u[b] = g / by;
      of_total -= g * value / by;
    }
    if (o.relative) u[bands] = of_total;
    return true;
  }

  bool median() const { return o.welch.average == Average::median; }

  template <class S>
  void compute(const S* x, std::size_t n, std::size_t channels, const S* grad, const bool* valid,
               S* to) const {
    Channel<S> channel(*this, x, n);
    channel.run(channels, grad, valid);
    channel.signal.store(to);
  }

  BandPower plan;
  BandPowerOptions o;
  Segments segments;
  // Segment j of window f is segment j + places_apart of window f - windows_apart.
  std::size_t windows_apart, places_apart, per_window, fresh, behind;
  std::size_t n_values;
  std::vector<Integral> integrals;
  double unit;
};

BandPowerGradient::BandPowerGradient(const BandPowerOptions& options)
    : impl_(std::make_unique<const Impl>(options)) {}
BandPowerGradient::~BandPowerGradient() = default;
std::size_t BandPowerGradient::bands() const noexcept { return impl_->o.bands.size(); }
std::size_t BandPowerGradient::frames(std::size_t n_samples) const noexcept {
  return impl_->plan.frames(n_samples);
}
void BandPowerGradient::compute(const float* x, std::size_t n, std::size_t channels, const float* grad,
                                const bool* valid, float* to) const {
  impl_->compute(x, n, channels, grad, valid, to);
}
void BandPowerGradient::compute(const double* x, std::size_t n, std::size_t channels, const double* grad,
                                const bool* valid, double* to) const {
  impl_->compute(x, n, channels, grad, valid, to);
}

}  // namespace affekt
