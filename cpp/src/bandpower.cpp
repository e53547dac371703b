#include "affekt/bandpower.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <numbers>
#include <numeric>
#include <optional>
#include <sstream>
#include <type_traits>

#include "affekt/aligned.hpp"
#include "fft.hpp"
#include "framing.hpp"
#include "kernels/scan.hpp"
#include "kernels/welch.hpp"
#include "median_bias.hpp"
#include "parallel.hpp"

namespace affekt {
namespace {

template <class T, class C>
const SegmentKernels<T, C>& segment_kernels() {
  if constexpr (std::is_same_v<T, double>) {
    return welch_kernels().doubles;
  } else if constexpr (std::is_same_v<C, double>) {
    return welch_kernels().floats_in_double;
  } else {
    return welch_kernels().floats;
  }
}

template <class T>
const RowKernels<T>& row_kernels() {
  if constexpr (std::is_same_v<T, double>) {
    return welch_kernels().double_rows;
  } else {
    return welch_kernels().float_rows;
  }
}

/// Index of the first value that is NaN or beyond +-limit, or n.
std::size_t first_odd(const float* x, std::size_t n, float limit) { return scan().floats(x, n, limit); }
std::size_t first_odd(const double* x, std::size_t n, double limit) { return scan().doubles(x, n, limit); }

/// Index of the first value beyond +-limit, or n; `nan_end` becomes the index after the last NaN before it.
template <class T>
std::size_t first_beyond(const T* x, std::size_t n, T limit, std::size_t* nan_end) noexcept {
  std::size_t at = 0;
  for (;;) {
    at += first_odd(x + at, n - at, limit);
    if (at == n || !std::isnan(x[at])) return at;
    while (at < n && std::isnan(x[at])) ++at;
    *nan_end = at;
  }
}

/// Follows one channel from its start, so that every sample is looked at once.
struct Scanner {
  std::uint64_t scanned = 0, nan_end = 0;

  /// Takes the samples up to index `to` of a channel whose sample `origin` is at x; false if one of them is
  /// beyond +-limit.
  template <class T>
  bool advance(const T* x, std::uint64_t origin, std::uint64_t to, T limit) noexcept {
    scanned = std::max(scanned, origin);
    if (to <= scanned) return true;
    const std::size_t n = static_cast<std::size_t>(to - scanned);
    std::size_t end = 0;
    const bool good = first_beyond(x + (scanned - origin), n, limit, &end) == n;
    if (end > 0) nan_end = scanned + end;
    scanned = to;
    return good;
  }
  /// The samples up to index `to` have been looked at and are usable.
  void skip(std::uint64_t to) noexcept { scanned = std::max(scanned, to); }
};

/// A window and its scale, in one type of transform.
template <class T, class C>
struct Segments {
  RealFft<C> fft;
  std::vector<C> window;
  SegmentView<C> view;
  const SegmentKernels<T, C>& kernels = segment_kernels<T, C>();
  std::vector<std::vector<C>> weights;
  std::vector<BandView<C>> bands;

  Segments(const WelchOptions& o, const std::vector<double>& taper) : fft(o.n_fft) {
    for (const double w : taper) window.push_back(static_cast<C>(w / static_cast<double>(fft.view().gain)));
    window.resize(o.n_fft, C(0));
    view = {fft.view(), o.n_per_seg, window.data(), static_cast<int>(o.detrend)};
  }

  void add_band(std::size_t first, const std::vector<double>& w) {
    weights.emplace_back(w.begin(), w.end());
    bands.push_back({first, w.size(), weights.back().data()});
  }
};

/// Spectra of segments of T; the transform runs in T or, where that loses precision, in double.
template <class T>
class Spectra {
 public:
  Spectra(const WelchOptions& o, const std::vector<double>& taper) {
    if (std::is_same_v<T, float> && RealFft<T>::needs_bluestein(o.n_fft)) {
      wide_.emplace(o, taper);
    } else {
      own_.emplace(o, taper);
    }
    double sum = 0.0;
    for (const double w : taper) sum += std::abs(w);
    // Bounds of what a detrended sample, a bin, and sums of bins and segments make of the largest sample.
    limit_ = static_cast<T>(std::sqrt(static_cast<double>(std::numeric_limits<T>::max())) /
                            (1e6 * std::max(1.0, sum)));
  }

  void add_band(std::size_t first, const std::vector<double>& weights) {
    if (own_) own_->add_band(first, weights);
    if (wide_) wide_->add_band(first, weights);
  }

  T limit() const { return limit_; }
  std::size_t work_bytes() const {
    return own_ ? own_->kernels.work_size(own_->view, own_->bands.size()) * sizeof(T)
                : wide_->kernels.work_size(wide_->view, wide_->bands.size()) * sizeof(double);
  }
  void spectra(const T* const* x, std::size_t n, T* const* out, std::byte* work) const noexcept {
    if (own_) {
      own_->kernels.spectra(own_->view, x, n, out, reinterpret_cast<T*>(work));
    } else {
      wide_->kernels.spectra(wide_->view, x, n, out, reinterpret_cast<double*>(work));
    }
  }
  /// Bytes of the sums of `sums`, and how many segments they take side by side.
  std::size_t sum_bytes() const {
    return own_ ? own_->fft.view().bins * lanes() * sizeof(T)
                : wide_->fft.view().bins * lanes() * sizeof(double);
  }
  std::size_t lanes() const {
    return own_ ? own_->kernels.lanes(own_->view) : wide_->kernels.lanes(wide_->view);
  }
  /// Adds the spectra of n segments to total, by way of `sum`.
  void sums(const T* const* x, std::size_t n, double* total, std::byte* sum, std::byte* work) const noexcept {
    if (own_) {
      sums_of(*own_, x, n, total, sum, work);
    } else {
      sums_of(*wide_, x, n, total, sum, work);
    }
  }
  void bands(const T* const* x, std::size_t n, T* const* out, std::byte* work) const noexcept {
    if (own_) {
      own_->kernels.bands(own_->view, own_->bands.data(), own_->bands.size(), x, n, out,
                          reinterpret_cast<T*>(work));
    } else {
      wide_->kernels.bands(wide_->view, wide_->bands.data(), wide_->bands.size(), x, n, out,
                           reinterpret_cast<double*>(work));
    }
  }
  /// The kernels of these names; the segments that `bands_beside` takes begin at a row of what `interleave`
  /// made.
  bool interleave(const T* const* x, std::size_t n, std::byte* out) const noexcept {
    return own_ ? own_->kernels.interleave(own_->view, x, n, limit_, reinterpret_cast<T*>(out))
                : wide_->kernels.interleave(wide_->view, x, n, limit_, reinterpret_cast<double*>(out));
  }
  void bands_beside(const std::byte* from, T* const* out, std::byte* work) const noexcept {
    if (own_) {
      own_->kernels.bands_beside(own_->view, own_->bands.data(), own_->bands.size(),
                                 reinterpret_cast<const T*>(from), out, reinterpret_cast<T*>(work));
    } else {
      wide_->kernels.bands_beside(wide_->view, wide_->bands.data(), wide_->bands.size(),
                                  reinterpret_cast<const double*>(from), out,
                                  reinterpret_cast<double*>(work));
    }
  }
  /// Bytes of a row of what `interleave` makes.
  std::size_t row_bytes() const { return lanes() * (own_ ? sizeof(T) : sizeof(double)); }

 private:
  template <class C>
  void sums_of(const Segments<T, C>& s, const T* const* x, std::size_t n, double* total, std::byte* sum,
               std::byte* work) const noexcept {
    const std::size_t bins = s.fft.view().bins, side = lanes();
    C* of_lanes = reinterpret_cast<C*>(sum);
    std::fill(of_lanes, of_lanes + bins * side, C(0));
    s.kernels.sums(s.view, x, n, of_lanes, reinterpret_cast<C*>(work));
    for (std::size_t k = 0; k < bins; ++k) {
      double all = 0.0;
      for (std::size_t l = 0; l < side; ++l) all += static_cast<double>(of_lanes[k * side + l]);
      total[k] += all;
    }
  }

  std::optional<Segments<T, T>> own_;
  std::optional<Segments<T, double>> wide_;
  T limit_;
};

void check(const WelchOptions& o) {
  if (!(o.sample_rate >= 1e-9 && o.sample_rate <= 1e9))
    refuse("sample_rate", "a positive number of Hz from 1e-9 to 1e9", o.sample_rate);
  if (o.n_per_seg < 1 || o.n_per_seg > (1u << 20))
    refuse("n_per_seg", "a number of samples from 1 to 1048576", o.n_per_seg);
  if (o.n_overlap >= o.n_per_seg)
    refuse("n_overlap", "less than n_per_seg = " + std::to_string(o.n_per_seg) + " samples", o.n_overlap);
  if (o.n_fft < o.n_per_seg || o.n_fft > (1u << 20)) {
    refuse("n_fft", "a length from n_per_seg = " + std::to_string(o.n_per_seg) + " to 1048576", o.n_fft);
  }
  if (!o.taper.empty()) {
    if (o.taper.size() != o.n_per_seg) {
      refuse("window", std::to_string(o.n_per_seg) + " values, one per sample of a segment", o.taper.size());
    }
    for (const double w : o.taper) {
      if (!(std::abs(w) <= 1e30)) refuse("window", "finite values, at most 1e30", w);
    }
  }
}

/// The window times the root of the scale of a two-sided bin, twice.
std::vector<double> scaled_window(const WelchOptions& o) {
  std::vector<double> w =
      o.taper.empty() ? make_window(o.window, true, static_cast<int>(o.n_per_seg)) : o.taper;
  double sum = 0.0, squares = 0.0;
  for (const double v : w) {
    sum += v;
    squares += v * v;
  }
  const double norm = o.scaling == Scaling::density ? o.sample_rate * squares : sum * sum;
  if (!(norm >= 1e-60)) {
    refuse("window", o.scaling == Scaling::density ? "values other than zero" : "a sum other than zero",
           o.scaling == Scaling::density ? squares : sum);
  }
  for (double& v : w) v *= std::sqrt(2.0 / norm);
  return w;
}

/// The same for a two-sided bin once.
std::vector<double> one_sided(std::vector<double> window) {
  for (double& v : window) v *= std::sqrt(0.5);
  return window;
}

std::size_t whole_segments(const WelchOptions& o, std::size_t n) {
  return n < o.n_per_seg ? 0 : (n - o.n_per_seg) / (o.n_per_seg - o.n_overlap) + 1;
}

/// What median_bias(n) is more than median_bias(n - 1), n > 1.
double median_bias_step(std::size_t n) {
  return n % 2 == 1 ? 1.0 / static_cast<double>(n) - 1.0 / static_cast<double>(n - 1) : 0.0;
}

}  // namespace

double median_bias(std::size_t n) {
  double bias = 1.0;
  for (std::size_t i = 2; i <= n; ++i) bias += median_bias_step(i);
  return bias;
}

namespace {

/// Weights of the samples of an evenly spaced function, `step` apart, in its integral.
std::vector<double> integration_weights(Integration rule, std::size_t n, double step) {
  std::vector<double> w(n, 0.0);
  if (rule == Integration::trapezoid || n == 2) {
    for (std::size_t i = 0; i < n; ++i) w[i] = i == 0 || i + 1 == n ? 0.5 * step : step;
    return w;
  }
  const std::size_t odd = n % 2 == 1 ? n : n - 1;
  for (std::size_t i = 0; i < odd; ++i)
    w[i] = step / 3.0 * (i == 0 || i + 1 == odd ? 1.0 : i % 2 == 1 ? 4.0 : 2.0);
  if (n % 2 == 0) {  // the last interval, from the parabola through the last three points (Cartwright)
    w[n - 1] += step * 5.0 / 12.0;
    w[n - 2] += step * 2.0 / 3.0;
    w[n - 3] -= step / 12.0;
  }
  return w;
}

/// What a thread found wrong, kept until all have ended.
class Trouble {
 public:
  static constexpr std::size_t none = static_cast<std::size_t>(-1);
  void out_of_memory() noexcept { memory_ = true; }
  /// A row with an unusable sample.
  void row(std::size_t r) noexcept {
    std::size_t before = row_;
    while (r < before && !row_.compare_exchange_weak(before, r)) {
    }
  }

  template <class T>
  void raise(const T* const* x, std::size_t n, T limit) const {
    if (memory_) throw std::bad_alloc();
    if (row_ == none) return;
    std::size_t nan_end = 0;
    const std::size_t i = first_beyond(x[row_], n, limit, &nan_end);
    if (i == n) throw Error("samples: changed while they were transformed");
    std::ostringstream text;
    text << "samples: expected values within +-" << limit << ", or NaN where one is missing, got "
         << x[row_][i] << " at sample " << i << " of row " << row_;
    throw InvalidArgument(text.str());
  }

 private:
  std::atomic<bool> memory_{false};
  std::atomic<std::size_t> row_{none};
};

}  // namespace

// ---- Welch
// -------------------------------------------------------------------------------------------------

struct Welch::Impl {
  WelchOptions o;
  std::size_t bins;
  Spectra<float> floats;
  Spectra<double> doubles;

  explicit Impl(const WelchOptions& options)
      : o((check(options), options)),
        bins(o.n_fft / 2 + 1),
        floats(o, scaled_window(o)),
        doubles(o, scaled_window(o)) {}

  const Spectra<float>& spectra(float) const { return floats; }
  const Spectra<double>& spectra(double) const { return doubles; }

  template <class T>
  void compute(const T* const* x, std::size_t rows, std::size_t n, T* out, std::uint64_t* used) const;
};

namespace {

/// The work of one thread of Welch::compute. The mean of a signal with many segments is summed lane by lane;
/// several signals with few segments each share the lanes, and their spectra are added up one by one.
template <class T>
class WelchRows {
 public:
  static constexpr std::size_t kBlock =
      4096;  // segments that are summed in T before their sum joins a double

  WelchRows(const WelchOptions& o, const Spectra<T>& spectra, std::size_t n)
      : o_(o),
        spectra_(spectra),
        n_(n),
        segments_(whole_segments(o, n)),
        step_(o.n_per_seg - o.n_overlap),
        bins_(o.n_fft / 2 + 1),
        width_(padded_bins(bins_)),
        together_(rows_together(o, spectra, segments_)),
        median_(o.average == Average::median),
        work_(spectra.work_bytes()),
        total_(bins_) {
    if (median_ || together_ > 1) spectra_of_.resize((median_ ? segments_ : together_) * width_);
    if (!median_ && together_ == 1) sum_.resize(spectra.sum_bytes());
    if (median_) sorting_.resize(16 * segments_);
    x_.reserve(std::min(segments_, kBlock) * together_);
    out_.reserve(x_.capacity());
    rows_.reserve(median_ ? segments_ : 0);
  }

  /// More than one where the segments of one would leave lanes empty.
  static std::size_t rows_together(const WelchOptions& o, const Spectra<T>& spectra, std::size_t segments) {
    return o.average == Average::mean && segments < spectra.lanes() ? 64 / segments : 1;
  }

  /// Rows [first, last) of x.
  void run(const T* const* x, std::size_t first, std::size_t last, T* out, std::uint64_t* used,
           Trouble& trouble) noexcept {
    for (std::size_t r = first; r < last; r += together_) {
      if (together_ > 1) {
        several(x, r, std::min(last, r + together_), out, used, trouble);
      } else {
        one(x, r, out + r * bins_, used[r], trouble);
      }
    }
  }

 private:
  /// Whether the segment at `at` is without missing samples.
  bool whole(const Scanner& scanner, const T* at, std::size_t start) const noexcept {
    return scanner.nan_end <= start || first_odd(at, o_.n_per_seg, spectra_.limit()) == o_.n_per_seg;
  }

  void one(const T* const* x, std::size_t r, T* out, std::uint64_t& used, Trouble& trouble) noexcept {
    used = 0;
    rows_.clear();
    std::fill(total_.begin(), total_.end(), 0.0);
    Scanner scanner;
    for (std::size_t from = 0; from < segments_; from += kBlock) {
      const std::size_t to = std::min(segments_, from + kBlock);
      const std::size_t end = to == segments_ ? n_ : (to - 1) * step_ + o_.n_per_seg;
      if (!scanner.advance(x[r], 0, end, spectra_.limit())) return trouble.row(r);
      x_.clear();
      out_.clear();
      for (std::size_t s = from; s < to; ++s) {
        const T* at = x[r] + s * step_;
        if (!whole(scanner, at, s * step_)) continue;
        x_.push_back(at);
        if (median_) {
          T* row = spectra_of_.data() + rows_.size() * width_;
          std::fill(row, row + width_, T(0));
          rows_.push_back(row);
          out_.push_back(row);
        }
      }
      used += x_.size();
      if (x_.empty()) continue;
      if (median_) {
        spectra_.spectra(x_.data(), x_.size(), out_.data(), work_.data());
      } else {
        spectra_.sums(x_.data(), x_.size(), total_.data(), sum_.data(), work_.data());
      }
    }
    if (median_ && used > 0) {
      const T scale = static_cast<T>(1.0 / median_bias(used));
      T* middle = spectra_of_.data();
      row_kernels<T>().median(rows_.data(), used, width_, scale, middle, sorting_.data());
      finish(middle, 1, out);
    } else {
      finish(total_.data(), used, out);
    }
  }

  void several(const T* const* x, std::size_t first, std::size_t last, T* out, std::uint64_t* used,
               Trouble& trouble) noexcept {
    x_.clear();
    out_.clear();
    std::fill(spectra_of_.begin(), spectra_of_.end(), T(0));
    for (std::size_t r = first; r < last; ++r) {
      Scanner scanner;
      if (!scanner.advance(x[r], 0, n_, spectra_.limit())) return trouble.row(r);
      used[r] = 0;
      for (std::size_t s = 0; s < segments_; ++s) {
        const T* at = x[r] + s * step_;
        if (!whole(scanner, at, s * step_)) continue;
        ++used[r];
        x_.push_back(at);
        out_.push_back(spectra_of_.data() + (r - first) * width_);
      }
    }
    if (!x_.empty()) spectra_.spectra(x_.data(), x_.size(), out_.data(), work_.data());
    for (std::size_t r = first; r < last; ++r)
      finish(spectra_of_.data() + (r - first) * width_, used[r], out + r * bins_);
  }

  /// The sum over `n` segments -> a row of the result.
  template <class S>
  void finish(const S* sum, std::uint64_t n, T* out) const noexcept {
    if (n == 0) {
      std::fill(out, out + bins_, std::numeric_limits<T>::quiet_NaN());
      return;
    }
    for (std::size_t k = 0; k < bins_; ++k)
      out[k] = static_cast<T>(static_cast<double>(sum[k]) / static_cast<double>(n));
    out[0] *= T(0.5);  // the ends of the spectrum stand for themselves alone
    if (o_.n_fft % 2 == 0) out[bins_ - 1] *= T(0.5);
  }

  const WelchOptions& o_;
  const Spectra<T>& spectra_;
  std::size_t n_, segments_, step_, bins_, width_, together_;
  bool median_;
  AlignedVector<std::byte> work_, sum_;
  AlignedVector<T> spectra_of_, sorting_;
  std::vector<double> total_;
  std::vector<const T*> x_, rows_;
  std::vector<T*> out_;
};

}  // namespace

template <class T>
void Welch::Impl::compute(const T* const* x, std::size_t rows, std::size_t n, T* out,
                          std::uint64_t* used) const {
  if (n < o.n_per_seg)
    refuse("samples", "at least n_per_seg = " + std::to_string(o.n_per_seg) + " of them", n);
  const Spectra<T>& spectra_of = spectra(T());
  Trouble trouble;
  parallel_for(rows, WelchRows<T>::rows_together(o, spectra_of, whole_segments(o, n)),
               [&](std::size_t first, std::size_t last) noexcept {
                 try {
                   WelchRows<T> work(o, spectra_of, n);
                   work.run(x, first, last, out, used, trouble);
                 } catch (const std::bad_alloc&) {
                   trouble.out_of_memory();
                 }
               });
  trouble.raise(x, n, spectra_of.limit());
}

Welch::Welch(const WelchOptions& options) : impl_(std::make_unique<Impl>(options)) {}
Welch::~Welch() = default;
const WelchOptions& Welch::options() const noexcept { return impl_->o; }
std::size_t Welch::bins() const noexcept { return impl_->bins; }
std::vector<double> Welch::window() const { return one_sided(scaled_window(impl_->o)); }
std::size_t Welch::segments(std::size_t n_samples) const noexcept {
  return whole_segments(impl_->o, n_samples);
}
void Welch::compute(const float* const* x, std::size_t rows, std::size_t n, float* out,
                    std::uint64_t* used) const {
  impl_->compute(x, rows, n, out, used);
}
void Welch::compute(const double* const* x, std::size_t rows, std::size_t n, double* out,
                    std::uint64_t* used) const {
  impl_->compute(x, rows, n, out, used);
}

// ---- band power
// --------------------------------------------------------------------------------------------

namespace {

/// Which segments a window holds, and which of them an earlier window has already.
///
/// Segment j of window f starts at f hop + j step, as does segment j + b of window f - a where a hop = b
/// step. So window f brings n_new segments, the last ones; window f - a (perhaps a virtual one, before the
/// first) has brought the others.
struct Sharing {
  static constexpr std::size_t kMostSegments = std::size_t{1} << 22;
  std::size_t samples = 0, step = 0, hop = 0;
  std::size_t segments = 0;  // of a window
  std::size_t span = 0;      // samples of a window
  std::size_t n_new = 0;
  std::size_t back = 0;  // how many windows ago the oldest segment came
  struct Source {
    std::size_t back, k;  // the window that brought it, and its place among that window's new ones
  };
  std::vector<Source> sources;  // of each segment

  explicit Sharing(const BandPowerOptions& o)
      : samples(o.welch.n_per_seg), step(samples - o.welch.n_overlap), hop(o.hop_length) {
    segments = whole_segments(o.welch, o.win_length);
    if (segments > kMostSegments) {
      refuse("win_length", "a window of at most " + std::to_string(kMostSegments) + " segments",
             static_cast<double>(segments));
    }
    span = (segments - 1) * step + samples;
    const std::size_t common = std::gcd(hop, step);
    const std::size_t a = step / common, b = hop / common;
    n_new = std::min(segments, b);
    for (std::size_t j = 0; j < segments; ++j) {
      const std::size_t times = (segments - 1 - j) / b;
      sources.push_back({a * times, j + b * times - (segments - n_new)});
    }
    back = sources.front().back;
  }

  /// First sample of new segment k of window v; negative for segments before the start.
  std::int64_t start(std::int64_t v, std::size_t k) const {
    return v * static_cast<std::int64_t>(hop) + static_cast<std::int64_t>((segments - n_new + k) * step);
  }
  std::int64_t first_window() const { return -static_cast<std::int64_t>(back); }
  /// Samples of all new segments of `block` windows.
  std::size_t reach(std::size_t block) const { return (block - 1) * hop + (n_new - 1) * step + samples; }
  std::size_t frames(std::size_t n) const { return n < span ? 0 : (n - span) / hop + 1; }
};

void check(BandPowerOptions& o) {
  check(o.welch);
  if (o.welch.scaling != Scaling::density)
    throw InvalidArgument("scaling: expected density for band power, got spectrum");
  if (o.win_length < o.welch.n_per_seg || o.win_length > (std::size_t{1} << 32)) {
    refuse("win_length",
           "a number of samples from n_per_seg = " + std::to_string(o.welch.n_per_seg) + " to 4294967296",
           o.win_length);
  }
  if (o.hop_length < 1 || o.hop_length > (std::size_t{1} << 32))
    refuse("hop_length", "a number of samples from 1 to 4294967296", o.hop_length);
  const double nyquist = o.welch.sample_rate / 2.0;
  if (o.total_high < 0.0) o.total_high = nyquist;
  if (o.bands.empty()) refuse("bands", "one or more", 0);
  if (o.bands.size() > 4096) refuse("bands", "at most 4096", o.bands.size());
  if (!(o.floor >= static_cast<double>(std::numeric_limits<float>::min()) && o.floor <= 1e30))
    refuse("floor", "a number from 1.2e-38 to 1e30", o.floor);
}

struct BandPlan {
  BandPowerOptions o;
  Sharing sharing;
  Spectra<float> floats;
  Spectra<double> doubles;
  std::size_t bins, n_values;  // n_values: the bands and, for relative power, the total
  bool median;
  // Weights of each band in both types, for spectra that are medians.
  std::vector<std::vector<float>> float_weights;
  std::vector<std::vector<double>> double_weights;
  std::vector<BandView<float>> float_bands;
  std::vector<BandView<double>> double_bands;
  std::vector<double> bias;  // of the median of so many segments

  explicit BandPlan(BandPowerOptions options)
      : o((check(options), std::move(options))),
        sharing(o),
        floats(o.welch, scaled_window(o.welch)),
        doubles(o.welch, scaled_window(o.welch)),
        bins(o.welch.n_fft / 2 + 1),
        n_values(o.bands.size() + (o.relative ? 1 : 0)),
        median(o.welch.average == Average::median) {
    o.win_length = sharing.span;
    for (const PowerBand& band : integrals()) add(band);
    if (median) {
      for (std::size_t n = 0; n <= sharing.segments; ++n)
        bias.push_back(n < 2 ? 1.0 : bias.back() + median_bias_step(n));
    }
  }

  const Spectra<float>& spectra(float) const { return floats; }
  const Spectra<double>& spectra(double) const { return doubles; }
  const BandView<float>* bands(float) const { return float_bands.data(); }
  const BandView<double>* bands(double) const { return double_bands.data(); }
  /// The bands and, for relative power, the total.
  std::vector<PowerBand> integrals() const {
    std::vector<PowerBand> all = o.bands;
    if (o.relative) all.push_back({"total", o.total_low, o.total_high});
    return all;
  }
  /// Values that are kept of each segment.
  std::size_t width() const { return median ? padded_bins(bins) : n_values; }

  /// Throws where the segments that windows share would take too much memory.
  void check_memory(std::size_t channels, std::size_t block, std::size_t value_bytes) const {
    constexpr double most = 1 << 30;
    const double bytes = static_cast<double>((sharing.back + block) * sharing.n_new) *
                         static_cast<double>(channels * width() * value_bytes);
    if (bytes <= most) return;
    refuse("win_length",
           "windows whose segments take at most 1 GiB for " + std::to_string(channels) + " channels",
           static_cast<double>(o.win_length));
  }

  /// First bin and weights of the integral of a one-sided spectrum.
  std::pair<std::size_t, std::vector<double>> integral(const PowerBand& band) const {
    const double rate = o.welch.sample_rate, step = rate / static_cast<double>(o.welch.n_fft);
    const std::string name = "bands: " + (band.name.empty() ? "a band" : '"' + band.name + '"');
    std::ostringstream edges;
    edges << band.low << " to " << band.high << " Hz";
    if (!(band.low >= 0.0 && band.low < band.high && band.high <= rate / 2.0 * (1.0 + 1e-9)))
      throw InvalidArgument(name + ": expected edges with 0 <= low < high <= half the sample rate, got " +
                            edges.str());
    // An edge that is a bin's frequency but for rounding takes the bin in.
    const double slack = 1e-9 * static_cast<double>(o.welch.n_fft);
    const auto first = static_cast<std::size_t>(std::max(0.0, std::ceil(band.low / step - slack)));
    const auto last = static_cast<std::size_t>(
        std::min(static_cast<double>(bins - 1), std::floor(band.high / step + slack)));
    if (last < first + 1) {
      std::ostringstream expected;
      expected << "two bins or more inside, which are " << step
               << " Hz apart (longer segments or n_fft help)";
      throw InvalidArgument(name + ": expected " + expected.str() + ", got " + edges.str());
    }
    return {first, integration_weights(o.integration, last - first + 1, step)};
  }

  void add(const PowerBand& band) {
    auto [first, w] = integral(band);
    // The bins at 0 and half the sample rate stand for themselves alone.
    if (first == 0) w.front() *= 0.5;
    if (o.welch.n_fft % 2 == 0 && first + w.size() == bins) w.back() *= 0.5;
    if (!median) {
      floats.add_band(first, w);
      doubles.add_band(first, w);
      return;
    }
    float_weights.emplace_back(w.begin(), w.end());
    double_weights.push_back(w);
    float_bands.push_back({first, w.size(), float_weights.back().data()});
    double_bands.push_back({first, w.size(), double_weights.back().data()});
  }

  template <class T>
  void compute(const T* const* x, std::size_t recordings, std::size_t channels, std::size_t n, T* power,
               bool* valid) const;
};

/// Band power of some channels, window after window, `block` of them at most at a time. It holds the values
/// of the segments that windows to come share, and nothing grows with the length of the signal.
template <class T>
class Windows {
 public:
  Windows(const BandPlan& plan, std::size_t channels, std::size_t block)
      : plan_(plan),
        spectra_(plan.spectra(T())),
        sharing_(plan.sharing),
        channels_(channels),
        width_(plan.width()),
        slots_(sharing_.back + block),
        scanners_(channels),
        work_(spectra_.work_bytes()),
        ring_(slots_ * sharing_.n_new * channels * width_),
        whole_(slots_ * sharing_.n_new * channels),
        all_(slots_ * sharing_.n_new),
        sums_(std::max(channels * width_, padded_bins(plan.bins))),
        values_(plan.median ? channels * plan.n_values : 0),
        by_(channels),
        x_(block * sharing_.n_new * channels),
        out_(x_.size()),
        rows_(sharing_.segments),
        usable_(sharing_.segments),
        flags_(sharing_.segments),
        log_(LogScale<T>::of(plan.o.log == LogMode::ln   ? 1.0
                             : plan.o.log == LogMode::db ? 10.0 / std::numbers::ln10
                                                         : 1.0 / std::numbers::ln10)) {
    if (plan.median) sorting_.resize(16 * sharing_.segments);
    if (const std::size_t rows = beside_rows(plan, channels, block); rows > 0) {
      together_ = spectra_.lanes();
      row_bytes_ = spectra_.row_bytes();
      beside_.resize(rows * row_bytes_);
      nowhere_.resize(width_);
    }
  }

  /// Samples of each channel to lie side by side, 0 for none: where that moves most samples into their lanes
  /// once instead of again and again, and where they then fit the second cache.
  static std::size_t beside_rows(const BandPlan& plan, std::size_t channels, std::size_t block) {
    constexpr std::size_t most_bytes = 256 * 1024;
    const Sharing& sharing = plan.sharing;
    const std::size_t most =
        std::min(block * sharing.n_new * sharing.samples / 2, most_bytes / plan.spectra(T()).row_bytes());
    if (plan.median || channels % plan.spectra(T()).lanes() != 0 || sharing.hop >= most) return 0;
    return sharing.reach(block) <= most ? sharing.reach(block) : 0;
  }

  void reset() noexcept { std::fill(scanners_.begin(), scanners_.end(), Scanner{}); }

  static constexpr std::size_t fine = static_cast<std::size_t>(-1);
  /// Windows [v0, v1), at most a block of them and each after the last; sample `origin` of channel c is at
  /// x[c]. Frame f, if it is not virtual, goes to power + f frame_stride and valid + f valid_stride. Returns
  /// a channel with an unusable sample, or `fine`.
  std::size_t run(const T* const* x, std::uint64_t origin, std::int64_t v0, std::int64_t v1, T* power,
                  std::size_t frame_stride, bool* valid, std::size_t valid_stride) noexcept {
    const auto begin = static_cast<std::uint64_t>(std::max<std::int64_t>(0, sharing_.start(v0, 0)));
    const std::int64_t end =
        (v1 - 1) * static_cast<std::int64_t>(sharing_.hop) + static_cast<std::int64_t>(sharing_.span);
    if (end > 0) {
      const std::size_t bad = together_ > 0
                                  ? segments_beside(x, origin, begin, static_cast<std::uint64_t>(end), v0, v1)
                                  : segments(x, origin, begin, static_cast<std::uint64_t>(end), v0, v1);
      if (bad != fine) return bad;
    }
    for (std::int64_t f = std::max<std::int64_t>(v0, 0); f < v1; ++f) {
      const auto at = static_cast<std::size_t>(f);
      emit(f, power + at * frame_stride, valid + at * valid_stride);
    }
    return fine;
  }

  /// After `run` has met an unusable sample of channel c: takes those among its n samples from `origin` on
  /// for missing, so that `run` may be called again.
  void mend(std::size_t c, T* x, std::size_t n) noexcept {
    for (std::size_t i = 0; i < n; ++i) {
      if (!(std::abs(x[i]) <= spectra_.limit())) x[i] = std::numeric_limits<T>::quiet_NaN();
    }
    scanners_[c].scanned = 0;
  }

  /// Bytes of what it holds, which may be more than there are.
  static double bytes(const BandPlan& plan, std::size_t channels, std::size_t block) {
    const Sharing& sharing = plan.sharing;
    const auto wide = static_cast<double>(plan.width()), n = static_cast<double>(channels);
    const double slots = static_cast<double>((sharing.back + block) * sharing.n_new);
    const double waiting = static_cast<double>(block * sharing.n_new), of = sizeof(T);
    return slots * (n * (wide * of + 1) + 1) +
           static_cast<double>(sharing.segments) * (2 * sizeof(T*) + 16 * of) + waiting * n * 2 * sizeof(T*) +
           (n + 1) * (wide + static_cast<double>(plan.bins + 16)) * of +
           static_cast<double>(plan.spectra(T()).work_bytes()) +
           static_cast<double>(beside_rows(plan, channels, block) * plan.spectra(T()).row_bytes());
  }

 private:
  std::size_t slot(std::int64_t v) const noexcept {
    return static_cast<std::size_t>(v - sharing_.first_window()) % slots_;
  }
  /// Place of new segment k of the window in a slot.
  std::size_t place(std::size_t slot, std::size_t k) const noexcept { return slot * sharing_.n_new + k; }

  /// f(place, first sample) of every new segment of windows [v0, v1).
  template <class F>
  void each_segment(std::int64_t v0, std::int64_t v1, F&& f) const noexcept {
    std::size_t in = slot(v0);
    for (std::int64_t v = v0; v < v1; ++v, in = in + 1 == slots_ ? 0 : in + 1) {
      for (std::size_t k = 0; k < sharing_.n_new; ++k) {
        const std::int64_t start = sharing_.start(v, k);
        if (start >= 0) f(place(in, k), static_cast<std::uint64_t>(start));
      }
    }
  }

  /// The row of a segment of channel c; none where a sample of it is missing.
  T* row(std::size_t to, std::size_t c, const T* at, bool all_whole) noexcept {
    T* row = ring_.data() + (to * channels_ + c) * width_;
    const bool whole = all_whole || first_odd(at, sharing_.samples, spectra_.limit()) == sharing_.samples;
    whole_[to * channels_ + c] = whole;
    all_[to] = (c == 0 || all_[to] != 0) && whole;
    if (!whole || plan_.median) std::fill(row, row + width_, T(0));
    return whole ? row : nullptr;
  }

  /// The values of the new segments of windows [v0, v1), whose samples are [begin, end); returns as `run`.
  std::size_t segments(const T* const* x, std::uint64_t origin, std::uint64_t begin, std::uint64_t end,
                       std::int64_t v0, std::int64_t v1) noexcept {
    std::size_t n = 0;
    for (std::size_t c = 0; c < channels_; ++c) {
      if (!scanners_[c].advance(x[c], origin, end, spectra_.limit())) return c;
      const bool all_whole = scanners_[c].nan_end <= begin;
      each_segment(v0, v1, [&](std::size_t to, std::uint64_t start) noexcept {
        const T* at = x[c] + (start - origin);
        T* out = row(to, c, at, all_whole);
        if (out == nullptr) return;
        x_[n] = at;
        out_[n++] = out;
      });
    }
    if (n > 0 && plan_.median) spectra_.spectra(x_.data(), n, out_.data(), work_.data());
    if (n > 0 && !plan_.median) spectra_.bands(x_.data(), n, out_.data(), work_.data());
    return fine;
  }

  /// The same, `together_` channels at a time side by side.
  std::size_t segments_beside(const T* const* x, std::uint64_t origin, std::uint64_t begin, std::uint64_t end,
                              std::int64_t v0, std::int64_t v1) noexcept {
    const auto n = static_cast<std::size_t>(end - begin);
    for (std::size_t first = 0; first < channels_; first += together_) {
      for (std::size_t l = 0; l < together_; ++l) x_[l] = x[first + l] + (begin - origin);
      const bool usable = spectra_.interleave(x_.data(), n, beside_.data());
      bool all_whole = true;
      for (std::size_t l = 0; l < together_; ++l) {
        Scanner& scanner = scanners_[first + l];
        // What lies between windows was not moved, so it is still to be looked at.
        if (!scanner.advance(x[first + l], origin, usable ? begin : end, spectra_.limit())) return first + l;
        if (usable) scanner.skip(end);
        all_whole = all_whole && scanner.nan_end <= begin;
      }
      each_segment(v0, v1, [&](std::size_t to, std::uint64_t start) noexcept {
        const auto at = static_cast<std::size_t>(start - begin);
        for (std::size_t l = 0; l < together_; ++l) {
          out_[l] = row(to, first + l, x_[l] + at, all_whole);
          if (out_[l] == nullptr) out_[l] = nowhere_.data();
        }
        spectra_.bands_beside(beside_.data() + at * row_bytes_, out_.data(), work_.data());
      });
    }
    return fine;
  }

  void emit(std::int64_t f, T* power, bool* valid) noexcept {
    const RowKernels<T>& kernels = row_kernels<T>();
    const std::size_t n_bands = plan_.o.bands.size(), here = slot(f);
    bool all_whole = true;
    for (std::size_t j = 0; j < sharing_.segments; ++j) {
      const Sharing::Source& s = sharing_.sources[j];
      const std::size_t at = place(here >= s.back ? here - s.back : here + slots_ - s.back, s.k);
      rows_[j] = ring_.data() + at * channels_ * width_;
      flags_[j] = whole_.data() + at * channels_;
      all_whole = all_whole && all_[at] != 0;
    }
    if (!plan_.median) kernels.sum(rows_.data(), rows_.size(), channels_ * width_, sums_.data());
    for (std::size_t c = 0; c < channels_; ++c) {
      std::size_t count = sharing_.segments;
      if (plan_.median || !all_whole) {
        count = 0;
        for (std::size_t j = 0; j < sharing_.segments; ++j) {
          if (flags_[j][c] != 0) usable_[count++] = rows_[j] + c * width_;
        }
      }
      T* const values = plan_.median ? values_.data() + c * plan_.n_values : nullptr;
      if (plan_.median && count > 0) {
        kernels.median(usable_.data(), count, width_, static_cast<T>(1.0 / plan_.bias[count]), sums_.data(),
                       sorting_.data());
        kernels.integrate(plan_.bands(T()), plan_.n_values, sums_.data(), values);
      }
      const T* const from = plan_.median ? values : sums_.data() + c * width_;
      valid[c] = count > 0 && (!plan_.o.relative || from[n_bands] > T(0));
      by_[c] = !valid[c] ? T(1) : plan_.o.relative ? from[n_bands] : static_cast<T>(plan_.median ? 1 : count);
    }
    kernels.divide(plan_.median ? values_.data() : sums_.data(), plan_.n_values, by_.data(), channels_,
                   n_bands, power);
    if (plan_.o.log != LogMode::none)
      kernels.logarithm(power, channels_ * n_bands, static_cast<T>(plan_.o.floor), log_);
    for (std::size_t c = 0; c < channels_; ++c) {
      T* to = power + c * n_bands;
      if (!valid[c]) std::fill(to, to + n_bands, std::numeric_limits<T>::quiet_NaN());
    }
  }

  const BandPlan& plan_;
  const Spectra<T>& spectra_;
  const Sharing& sharing_;
  std::size_t channels_, width_, slots_;
  std::vector<Scanner> scanners_;
  AlignedVector<std::byte> work_;
  AlignedVector<T> ring_;            // (slot, new segment, channel, width)
  std::vector<std::uint8_t> whole_;  // (slot, new segment, channel): no sample is missing
  std::vector<std::uint8_t> all_;    // (slot, new segment): in no channel
  AlignedVector<T> sums_, values_, by_, sorting_;
  std::vector<const T*> x_;
  std::vector<T*> out_;
  std::size_t together_ = 0, row_bytes_ = 0;  // channels side by side, 0 if none are; a sample of them
  AlignedVector<std::byte> beside_;           // (sample, channel)
  std::vector<T> nowhere_;                    // the row of segments that do not count
  std::vector<const T*> rows_, usable_;       // of the segments of a window
  std::vector<const std::uint8_t*> flags_;
  LogScale<T> log_;
};

template <class T>
void BandPlan::compute(const T* const* x, std::size_t recordings, std::size_t channels, std::size_t n,
                       T* power, bool* valid) const {
  const std::size_t frames = sharing.frames(n);
  // Some channels at a time write neighbouring values and may lie side by side; blocks of windows fill lanes.
  const std::size_t together =
      std::min(std::max<std::size_t>(channels, 1), std::max<std::size_t>(8, spectra(T()).lanes()));
  const std::size_t groups = (channels + together - 1) / together;
  const std::size_t block =
      std::max<std::size_t>(1, 256 / (std::min<std::size_t>(together, 8) * sharing.n_new));
  const T limit = spectra(T()).limit();
  if (frames > 0) check_memory(together, block, sizeof(T));
  Trouble trouble;
  parallel_for(recordings * groups, 1, [&](std::size_t begin, std::size_t end) noexcept {
    try {
      std::optional<Windows<T>> windows;
      std::size_t width = 0;
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t recording = i / groups, first = i % groups * together;
        const std::size_t here = std::min(together, channels - first);
        if (frames > 0) {  // else there is no use for their memory
          if (!windows || here != width) windows.emplace(*this, here, block);
          width = here;
          windows->reset();
        }
        const std::size_t row = recording * channels + first;
        const std::size_t base = recording * frames * channels + first;
        for (std::int64_t v = sharing.first_window(); frames > 0 && v < static_cast<std::int64_t>(frames);) {
          const std::int64_t to =
              std::min(v + static_cast<std::int64_t>(block), static_cast<std::int64_t>(frames));
          const std::size_t bad = windows->run(x + row, 0, v, to, power + base * o.bands.size(),
                                               channels * o.bands.size(), valid + base, channels);
          if (bad != Windows<T>::fine) {
            trouble.row(row + bad);
            break;
          }
          v = to;
        }
        // What no window holds is looked at all the same.
        for (std::size_t c = 0; c < here; ++c) {
          const std::size_t done = frames == 0 ? 0 : (frames - 1) * sharing.hop + sharing.span;
          std::size_t nan_end = 0;
          if (first_beyond(x[row + c] + done, n - done, limit, &nan_end) != n - done) trouble.row(row + c);
        }
      }
    } catch (const std::bad_alloc&) {
      trouble.out_of_memory();
    }
  });
  trouble.raise(x, n, limit);
}

}  // namespace

struct BandPower::Impl : BandPlan {
  using BandPlan::BandPlan;
};

BandPower::BandPower(const BandPowerOptions& options) : impl_(std::make_unique<Impl>(options)) {}
BandPower::~BandPower() = default;
const BandPowerOptions& BandPower::options() const noexcept { return impl_->o; }
std::size_t BandPower::bands() const noexcept { return impl_->o.bands.size(); }
std::vector<double> BandPower::window() const { return one_sided(scaled_window(impl_->o.welch)); }
std::vector<double> BandPower::weights() const {
  std::vector<double> all(impl_->n_values * impl_->bins, 0.0);
  auto row = all.begin();
  for (const PowerBand& band : impl_->integrals()) {
    const auto [first, w] = impl_->integral(band);
    std::copy(w.begin(), w.end(), row + static_cast<std::ptrdiff_t>(first));
    row += static_cast<std::ptrdiff_t>(impl_->bins);
  }
  return all;
}
std::size_t BandPower::frames(std::size_t n_samples) const noexcept {
  return impl_->sharing.frames(n_samples);
}
std::size_t BandPower::first_unusable(const float* x, std::size_t n) const noexcept {
  std::size_t nan_end = 0;
  return first_beyond(x, n, impl_->floats.limit(), &nan_end);
}
std::size_t BandPower::first_unusable(const double* x, std::size_t n) const noexcept {
  std::size_t nan_end = 0;
  return first_beyond(x, n, impl_->doubles.limit(), &nan_end);
}
std::size_t BandPower::stream_bytes(std::size_t channels, std::size_t capacity_samples) const noexcept {
  const double buffer = static_cast<double>(impl_->sharing.span) + static_cast<double>(capacity_samples);
  const double all = Windows<float>::bytes(*impl_, channels, 1) +
                     static_cast<double>(channels) * (buffer * sizeof(float) + 64);
  return static_cast<std::size_t>(std::min(all, 1e18));
}
void BandPower::compute(const float* const* x, std::size_t recordings, std::size_t channels, std::size_t n,
                        float* power, bool* valid) const {
  impl_->compute(x, recordings, channels, n, power, valid);
}
void BandPower::compute(const double* const* x, std::size_t recordings, std::size_t channels, std::size_t n,
                        double* power, bool* valid) const {
  impl_->compute(x, recordings, channels, n, power, valid);
}

// ---- live
// --------------------------------------------------------------------------------------------------

template <class T>
struct BandPowerStream<T>::Impl {
  std::shared_ptr<const BandPower> plan;
  const Sharing& sharing;
  std::size_t channels, capacity;
  Windows<T> windows;
  AlignedVector<T> buffer;  // (channel, capacity)
  std::vector<const T*> x;
  std::uint64_t start = 0;  // index of the first sample in the buffer
  std::uint64_t total = 0;  // samples taken
  std::int64_t window;      // the next to compute, virtual ones first

  Impl(std::shared_ptr<const BandPower> p, std::size_t n, std::size_t waiting)
      : plan(std::move(p)),
        sharing(plan->impl_->sharing),
        channels(n),
        capacity(sharing.span + waiting),
        windows(*plan->impl_, n, 1),
        buffer(channels * capacity),
        window(sharing.first_window()) {
    for (std::size_t c = 0; c < channels; ++c) x.push_back(buffer.data() + c * capacity);
  }
  Impl(const Impl& other)
      : plan(other.plan),
        sharing(other.sharing),
        channels(other.channels),
        capacity(other.capacity),
        windows(other.windows),
        buffer(other.buffer),
        start(other.start),
        total(other.total),
        window(other.window) {
    for (std::size_t c = 0; c < channels; ++c) x.push_back(buffer.data() + c * capacity);
  }

  std::uint64_t frames() const noexcept {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(window, 0));
  }
  std::uint64_t end_of(std::uint64_t frame) const noexcept { return frame * sharing.hop + sharing.span; }
  /// First sample that a window to come needs.
  std::uint64_t needed() const noexcept {
    return static_cast<std::uint64_t>(std::max<std::int64_t>(sharing.start(window, 0), 0));
  }

  std::size_t push(const T* from, std::size_t n, std::ptrdiff_t channel_stride,
                   std::ptrdiff_t sample_stride) noexcept {
    std::size_t skipped = 0;
    if (needed() > total) {  // between windows that lie apart
      skipped = static_cast<std::size_t>(std::min<std::uint64_t>(n, needed() - total));
      total += skipped;
      start = total;
      from += static_cast<std::ptrdiff_t>(skipped) * sample_stride;
      n -= skipped;
    }
    auto held = static_cast<std::size_t>(total - start);
    if (n > capacity - held && needed() > start) {
      const auto drop = static_cast<std::size_t>(needed() - start);
      for (std::size_t c = 0; c < channels; ++c) {
        T* at = buffer.data() + c * capacity;
        std::copy(at + drop, at + held, at);
      }
      start += drop;
      held -= drop;
    }
    n = std::min(n, capacity - held);
    for (std::size_t c = 0; c < channels; ++c) {
      T* to = buffer.data() + c * capacity + held;
      const T* at = from + static_cast<std::ptrdiff_t>(c) * channel_stride;
      if (sample_stride == 1) {
        std::copy(at, at + n, to);
      } else {
        for (std::size_t i = 0; i < n; ++i) to[i] = at[static_cast<std::ptrdiff_t>(i) * sample_stride];
      }
    }
    total += n;
    return skipped + n;
  }

  bool next(T* power, bool* valid) noexcept {
    const std::uint64_t frame = frames();
    if (total < end_of(frame)) return false;
    for (;; ++window) {
      const bool real = window >= 0;
      // Strides of 0: the frame goes to where the caller says.
      for (std::size_t bad;
           (bad = windows.run(x.data(), start, window, window + 1, power, 0, valid, 0)) != Windows<T>::fine;)
        windows.mend(bad, buffer.data() + bad * capacity, static_cast<std::size_t>(total - start));
      if (real) break;
    }
    ++window;
    return true;
  }
};

template <class T>
BandPowerStream<T>::BandPowerStream(std::shared_ptr<const BandPower> plan, std::size_t channels,
                                    std::size_t capacity_samples) {
  if (plan == nullptr) throw InvalidArgument("plan: expected a band power plan, got none");
  if (channels < 1 || channels > 65536) refuse("channels", "a number from 1 to 65536", channels);
  if (capacity_samples < 1 || capacity_samples > (std::size_t{1} << 32))
    refuse("capacity", "a number of samples from 1 to 4294967296", capacity_samples);
  plan->impl_->check_memory(channels, 1, sizeof(T));
  impl_ = std::make_unique<Impl>(std::move(plan), channels, capacity_samples);
}
template <class T>
BandPowerStream<T>::~BandPowerStream() = default;
template <class T>
BandPowerStream<T>::BandPowerStream(const BandPowerStream& other)
    : impl_(std::make_unique<Impl>(*other.impl_)) {}
template <class T>
BandPowerStream<T>::BandPowerStream(BandPowerStream&&) noexcept = default;
template <class T>
BandPowerStream<T>& BandPowerStream<T>::operator=(BandPowerStream&&) noexcept = default;
template <class T>
std::size_t BandPowerStream<T>::push(const T* x, std::size_t n, std::ptrdiff_t channel_stride,
                                     std::ptrdiff_t sample_stride) noexcept {
  return impl_->push(x, n, channel_stride, sample_stride);
}
template <class T>
bool BandPowerStream<T>::next(T* power, bool* valid) noexcept {
  return impl_->next(power, valid);
}
template <class T>
std::size_t BandPowerStream<T>::ready() const noexcept {
  const std::uint64_t frame = impl_->frames();
  if (impl_->total < impl_->end_of(frame)) return 0;
  return static_cast<std::size_t>((impl_->total - impl_->end_of(frame)) / impl_->sharing.hop + 1);
}
template <class T>
void BandPowerStream<T>::reset() noexcept {
  impl_->windows.reset();
  impl_->start = impl_->total = 0;
  impl_->window = impl_->sharing.first_window();
}
template <class T>
std::size_t BandPowerStream<T>::channels() const noexcept {
  return impl_->channels;
}
template <class T>
std::uint64_t BandPowerStream<T>::frames() const noexcept {
  return impl_->frames();
}
template <class T>
std::uint64_t BandPowerStream<T>::samples() const noexcept {
  return impl_->total;
}
template <class T>
std::uint64_t BandPowerStream<T>::last_sample(std::uint64_t frame) const noexcept {
  return impl_->end_of(frame) - 1;
}
template <class T>
const BandPower& BandPowerStream<T>::plan() const noexcept {
  return *impl_->plan;
}

template class BandPowerStream<float>;
template class BandPowerStream<double>;

}  // namespace affekt
