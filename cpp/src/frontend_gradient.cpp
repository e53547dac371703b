#include "affekt/frontend_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "affekt/spectrogram.hpp"
#include "tiles.hpp"

namespace affekt {
namespace {

using Of = FrontEndGradient::Of;
using Values = std::vector<double>;

Framing whole_frames(const FrontEndOptions& o) {
  return {o.n_fft, o.n_fft, o.hop_length, false, FrameSpan::n_fft, o.pad_mode, false};
}

}  // namespace

struct FrontEndGradient::Impl {
  Impl(const FrontEndOptions& given, Of of_)
      : of(of_),
        o(given),
        framing(framing_of(given)),
        // The phase of a spectrum depends on where in the transform the window stands; a power does not.
        inset(of_ == Of::features ? 0 : static_cast<std::size_t>(framing.inset())),
        window(make_window(given.window, given.periodic, given.win_length)),
        forward(framing, window, given.scale, inset),
        adjoint(whole_frames(given), Values(static_cast<std::size_t>(given.n_fft), 1.0), 1.0, 0) {
    for (double& w : window) w *= o.scale;
    bins = static_cast<std::size_t>(o.n_fft / 2 + 1);
    columns = of == Of::spectra ? 2 * bins : bins;
    if (of != Of::features) return;
    const FrontEnd plan(given);
    o = plan.options();
    columns = plan.features();
    mels = static_cast<std::size_t>(o.n_mels);
    filters = plan.mel_filters();
    dct = plan.dct();
    for (std::size_t m = 0; m < mels; ++m) {
      std::size_t begin = 0, end = bins;
      while (end > 0 && filters[m * bins + end - 1] == 0) --end;
      while (begin < end && filters[m * bins + begin] == 0) ++begin;
      spans.push_back({begin, end});
    }
    has_energy = o.energy != EnergyMode::none;
    whole_clip = o.ref_max || o.top_db.has_value();
    unit = o.log == LogMode::ln ? 1.0 : 1.0 / std::numbers::ln10;
    if (o.log == LogMode::db) unit *= 20.0 / o.power;
    clip_range = o.top_db.value_or(0.0);
    if (o.log == LogMode::log10) clip_range *= o.power / 20.0;
    if (o.log == LogMode::ln) clip_range *= o.power / 20.0 * std::numbers::ln10;
  }

  struct Span {
    std::size_t begin, end;  // bins
  };

  // Rows of a few frames on the way down and up again.
  struct Work {
    explicit Work(const Impl& g)
        : lanes(g.forward.kernels.lanes),
          transform(g.forward, true),
          back(g.adjoint, true),
          centred(lanes * g.width()),
          rows(lanes * g.width()),
          sequence(lanes * static_cast<std::size_t>(g.o.n_fft)),
          grad(static_cast<std::size_t>(g.o.n_fft)),
          power(g.bins),
          mel(g.mels),
          mel_grad(g.mels),
          row_pointers(lanes),
          sequence_pointers(lanes) {}
    std::size_t lanes;
    Tile<double> transform, back;
    Values centred, rows, sequence, grad, power, mel, mel_grad;
    std::vector<const double*> row_pointers, sequence_pointers;
  };

  std::size_t width() const { return window.size(); }
  double emphasis(PreemphasisMode mode) const {
    return of == Of::features && o.preemphasis_mode == mode ? o.preemphasis : 0.0;
  }

  // Frames row ... row + count - 1 of the emphasised signal -> work.transform's bins: pairs, lanes beside
  // each other.
  void transform(Work& w, const Values& x, std::size_t row, std::size_t count) const {
    const double c = emphasis(PreemphasisMode::frame);
    const double per_gain = 1.0 / static_cast<double>(forward.view.fft.gain);
    for (std::size_t l = 0; l < w.lanes; ++l) {
      double* const y = w.centred.data() + l * width();
      double* const to = w.rows.data() + l * width();
      w.row_pointers[l] = to;
      if (l >= count) {
        std::fill(to, to + width(), 0.0);
        continue;
      }
      const std::int64_t base = framing.base(row + l);
      double sum = 0;
      for (std::size_t i = 0; i < width(); ++i) {
        const std::size_t at = place(base, i, x.size());
        y[i] = at == kNoSample ? 0.0 : x[at];
        sum += y[i];
      }
      const double mean = of == Of::features && o.remove_dc ? sum / static_cast<double>(width()) : 0.0;
      for (std::size_t i = 0; i < width(); ++i) y[i] -= mean;
      for (std::size_t i = 0; i < width(); ++i)
        to[i] = (y[i] - c * y[i > 0 ? i - 1 : 0]) * window[i] * per_gain;
    }
    forward.kernels.spectra(forward.view, w.row_pointers.data(), true, w.transform.scratch(), w.lanes, {});
  }

  std::size_t place(std::int64_t base, std::size_t i, std::size_t n) const {
    return padded_index(framing.pad_mode, base + static_cast<std::int64_t>(i), static_cast<std::int64_t>(n));
  }

  // |X|^2 of frame l into work.power.
  void powers(Work& w, std::size_t l) const {
    const double* const b = w.transform.scratch().bins;
    for (std::size_t k = 0; k < bins; ++k) {
      const double re = b[2 * k * w.lanes + l], im = b[(2 * k + 1) * w.lanes + l];
      w.power[k] = re * re + im * im;
    }
  }

  // Mel values of frame l, before the floor, from work.power.
  void mel_values(Work& w) const {
    for (std::size_t m = 0; m < mels; ++m) {
      double sum = 0;
      for (std::size_t k = spans[m].begin; k < spans[m].end; ++k)
        sum += filters[m * bins + k] * raised(w.power[k]);
      w.mel[m] = sum;
    }
  }
  double raised(double power) const { return o.power == 2 ? power : std::pow(power, o.power / 2); }
  // d |X|^p / d X over X.
  double slope(double power) const {
    if (o.power == 2) return 2;
    return power > 0 ? o.power * std::pow(power, o.power / 2 - 1) : 0.0;
  }

  double logarithm(double mel) const { return unit * std::log(std::max(mel, *o.floor)); }

  // What the maximum of a clip does to the gradient: values below `least` pass none, and each of the
  // `count` values at `top` gets `share`.
  struct Clip {
    double least = -std::numeric_limits<double>::infinity(), top = 0, share = 0;
  };

  template <class S>
  void compute(const S* x, std::size_t n, const S* grad, S* to) const {
    const std::size_t rows = framing.frames(n);
    if (of == Of::features) check_delta_rows(o, rows, n);
    if (rows == 0) {
      std::fill(to, to + n, S(0));
      return;
    }
    Values signal(x, x + n), found(n, 0.0);
    if (const double c = emphasis(PreemphasisMode::signal); c != 0)
      for (std::size_t t = n; t-- > 1;) signal[t] -= c * static_cast<double>(x[t - 1]);
    Work w(*this);
    const Values per_row = of == Of::features ? without_deltas(grad, rows) : Values();
    Clip clip;
    if (whole_clip) clip = clip_of(w, signal, rows, per_row);
    for (std::size_t row = 0; row < rows; row += w.lanes) {
      const std::size_t count = std::min(w.lanes, rows - row);
      transform(w, signal, row, count);
      for (std::size_t l = 0; l < w.lanes; ++l) {
        double* const s = w.sequence.data() + l * static_cast<std::size_t>(o.n_fft);
        w.sequence_pointers[l] = s;
        if (l >= count) {
          std::fill(s, s + o.n_fft, 0.0);
        } else if (of == Of::features) {
          down_to_bins(w, l, per_row.data() + (row + l) * base_columns(), clip, s);
        } else {
          from_spectrum(w, l, grad + (row + l) * columns, s);
        }
      }
      adjoint.kernels.spectra(adjoint.view, w.sequence_pointers.data(), false, w.back.scratch(), w.lanes, {});
      for (std::size_t l = 0; l < count; ++l)
        onto_signal(w, l, row + l, of == Of::features ? per_row.data() + (row + l) * base_columns() : nullptr,
                    found);
    }
    const double c = emphasis(PreemphasisMode::signal);
    for (std::size_t t = 0; t < n; ++t)
      to[t] = static_cast<S>(found[t] - (c != 0 && t + 1 < n ? c * found[t + 1] : 0.0));
  }

  std::size_t base_columns() const { return columns / static_cast<std::size_t>(1 + o.deltas); }

  // The gradient of the columns before the differences.
  template <class S>
  Values without_deltas(const S* grad, std::size_t rows) const {
    const std::size_t c = base_columns(), half = static_cast<std::size_t>(o.delta_width / 2);
    Values total(grad, grad + rows * columns);
    const bool interp = o.delta_mode == DeltaMode::interp;
    const double w = static_cast<double>(2 * half + 1), s2 = w * (w * w - 1.0) / 12.0,
                 s4 = s2 * (3.0 * w * w - 7.0) / 20.0;
    for (int order = o.deltas; order > 0; --order) {
      const std::size_t from = interp ? 0 : static_cast<std::size_t>(order - 1) * c;
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t mid = !interp ? r : r < half ? half : r + half >= rows ? rows - 1 - half : r;
        for (std::size_t i = 0; i <= 2 * half; ++i) {
          const double step = static_cast<double>(i) - static_cast<double>(half);
          const double weight =
              interp && order == 2 ? 2.0 * (w * step * step - s2) / (w * s4 - s2 * s2) : step / s2;
          const std::size_t at =
              std::min(rows - 1, mid + i >= half ? mid + i - half : 0);  // edge rows repeat
          for (std::size_t j = 0; j < c; ++j)
            total[at * columns + from + j] +=
                weight * total[r * columns + static_cast<std::size_t>(order) * c + j];
        }
      }
    }
    if (o.deltas == 0) return total;
    Values base(rows * c);
    for (std::size_t r = 0; r < rows; ++r)
      std::copy_n(total.begin() + static_cast<std::ptrdiff_t>(r * columns), c,
                  base.begin() + static_cast<std::ptrdiff_t>(r * c));
    return base;
  }

  // The gradient of the logarithms of one row.
  void log_gradient(const double* grad, Values& to) const {
    const auto coefficients = static_cast<std::size_t>(o.n_mfcc);
    if (coefficients == 0) {
      for (std::size_t m = 0; m < mels; ++m) to[m] = grad[m + (has_energy ? 1 : 0)] * o.log_scale;
      return;
    }
    std::fill(to.begin(), to.end(), 0.0);
    for (std::size_t c = has_energy ? 1 : 0; c < coefficients; ++c)  // the energy took the place of c0
      for (std::size_t m = 0; m < mels; ++m) to[m] += grad[c] * dct[c * mels + m] * o.log_scale;
  }

  Clip clip_of(Work& w, const Values& signal, std::size_t rows, const Values& grad) const {
    Values logs(rows * mels);
    for (std::size_t row = 0; row < rows; row += w.lanes) {
      const std::size_t count = std::min(w.lanes, rows - row);
      transform(w, signal, row, count);
      for (std::size_t l = 0; l < count; ++l) {
        powers(w, l);
        mel_values(w);
        for (std::size_t m = 0; m < mels; ++m) logs[(row + l) * mels + m] = logarithm(w.mel[m]);
      }
    }
    Clip clip;
    clip.top = *std::max_element(logs.begin(), logs.end());
    if (o.top_db) clip.least = clip.top - clip_range;
    double onto_top = 0, at_top = 0;
    for (std::size_t r = 0; r < rows; ++r) {
      log_gradient(grad.data() + r * base_columns(), w.mel_grad);
      for (std::size_t m = 0; m < mels; ++m) {
        const double value = logs[r * mels + m];
        if (value < clip.least) onto_top += w.mel_grad[m];
        if (o.ref_max) onto_top -= w.mel_grad[m];
        at_top += value == clip.top ? 1 : 0;
      }
    }
    clip.share = onto_top / at_top;
    return clip;
  }

  // Frame l: the gradient of its row -> the sequence whose transform is the gradient of its samples.
  void down_to_bins(Work& w, std::size_t l, const double* grad, const Clip& clip, double* s) const {
    powers(w, l);
    mel_values(w);
    log_gradient(grad, w.mel_grad);
    std::fill(w.grad.begin(), w.grad.begin() + static_cast<std::ptrdiff_t>(bins), 0.0);
    for (std::size_t m = 0; m < mels; ++m) {
      double g = w.mel_grad[m];
      if (whole_clip) {
        const double value = logarithm(w.mel[m]);
        if (value < clip.least) g = 0;
        if (value == clip.top) g += clip.share;
      }
      if (w.mel[m] < *o.floor) continue;
      if (o.log != LogMode::none) g *= unit / w.mel[m];
      for (std::size_t k = spans[m].begin; k < spans[m].end; ++k) w.grad[k] += g * filters[m * bins + k];
    }
    const double* const b = w.transform.scratch().bins;
    spread(s, [&](std::size_t k) {
      const double g = w.grad[k] * slope(w.power[k]);
      return std::pair{g * b[2 * k * w.lanes + l], g * b[(2 * k + 1) * w.lanes + l]};
    });
  }

  template <class S>
  void from_spectrum(Work& w, std::size_t l, const S* grad, double* s) const {
    if (of == Of::spectra) {
      spread(s, [&](std::size_t k) {
        return std::pair{static_cast<double>(grad[2 * k]), static_cast<double>(grad[2 * k + 1])};
      });
      return;
    }
    powers(w, l);
    const double* const b = w.transform.scratch().bins;
    spread(s, [&](std::size_t k) {
      const double g = static_cast<double>(grad[k]) * slope(w.power[k]);
      return std::pair{g * b[2 * k * w.lanes + l], g * b[(2 * k + 1) * w.lanes + l]};
    });
  }

  // The gradient of sample n is sum_k a_k cos(2 pi k n / N) - b_k sin(2 pi k n / N) for the gradients a, b of
  // the parts of bin k. With s_k = (a_k + b_k) / 2 and s_{N-k} = (a_k - b_k) / 2, real, it is Re S_n + Im S_n
  // for n <= N / 2, and Re S_n - Im S_n at N - n.
  template <class F>
  void spread(double* s, F&& gradient) const {
    const auto size = static_cast<std::size_t>(o.n_fft);
    for (std::size_t k = 0; k < bins; ++k) {
      const auto [a, b] = gradient(k);
      if (k == 0 || 2 * k == size) {
        s[k] = a;
      } else {
        s[k] = (a + b) / 2;
        s[size - k] = (a - b) / 2;
      }
    }
  }

  void onto_signal(Work& w, std::size_t l, std::size_t row, const double* grad, Values& signal) const {
    const auto size = static_cast<std::size_t>(o.n_fft);
    const double* const b = w.back.scratch().bins;
    for (std::size_t k = 0; k < bins; ++k) {
      const double re = b[2 * k * w.lanes + l], im = b[(2 * k + 1) * w.lanes + l];
      w.grad[k] = re + im;
      if (k > 0) w.grad[size - k] = re - im;
      if (2 * k == size) w.grad[k] = re;
    }
    // From here on in place: the gradient of the windowed samples, of the emphasised, of the centred ones.
    double* const g = w.grad.data() + inset;
    const double* const y = w.centred.data() + l * width();
    const double c = emphasis(PreemphasisMode::frame);
    double energy = 0, of_energy = 0;
    const auto emphasised = [&](std::size_t i) { return y[i] - c * y[i > 0 ? i - 1 : 0]; };
    if (has_energy) {
      const bool raw = o.energy == EnergyMode::raw;
      for (std::size_t i = 0; i < width(); ++i) {
        const double v = raw ? y[i] * o.scale : emphasised(i) * window[i];
        energy += v * v;
      }
      const double least = std::max<double>(std::numeric_limits<float>::epsilon(), o.energy_floor);
      of_energy = energy >= least ? 2.0 * grad[0] / energy : 0.0;
    }
    const bool windowed = has_energy && o.energy == EnergyMode::windowed;
    for (std::size_t i = 0; i < width(); ++i)
      g[i] = (g[i] + (windowed ? of_energy * emphasised(i) * window[i] : 0.0)) * window[i];
    if (c != 0) {
      const double first = g[0];
      for (std::size_t i = 0; i + 1 < width(); ++i) g[i] -= c * g[i + 1];
      g[0] -= c * first;
    }
    if (has_energy && !windowed)
      for (std::size_t i = 0; i < width(); ++i) g[i] += of_energy * y[i] * o.scale * o.scale;
    double mean = 0;
    if (of == Of::features && o.remove_dc) {
      for (std::size_t i = 0; i < width(); ++i) mean += g[i];
      mean /= static_cast<double>(width());
    }
    const std::int64_t base = framing.base(row);
    for (std::size_t i = 0; i < width(); ++i) {
      const std::size_t at = place(base, i, signal.size());
      if (at != kNoSample) signal[at] += g[i] - mean;
    }
  }

  Of of;
  FrontEndOptions o;
  Framing framing;
  std::size_t inset;
  Values window;  // with the scale
  TilePlan<double> forward, adjoint;
  std::size_t bins = 0, columns = 0, mels = 0;
  Values filters, dct;
  std::vector<Span> spans;
  bool has_energy = false, whole_clip = false;
  double unit = 1, clip_range = 0;
};

namespace {

/// Throws as the forward plan does.
const FrontEndOptions& checked(const FrontEndOptions& o, Of of) {
  if (of == Of::features) {
    const FrontEnd plan(o);
  } else {
    const Spectrogram plan(o);
  }
  return o;
}

}  // namespace

FrontEndGradient::FrontEndGradient(const FrontEndOptions& options, Of of)
    : impl_(std::make_unique<const Impl>(checked(options, of), of)) {}
FrontEndGradient::~FrontEndGradient() = default;
std::size_t FrontEndGradient::frames(std::size_t n_samples) const noexcept {
  return impl_->framing.frames(n_samples);
}
std::size_t FrontEndGradient::columns() const noexcept { return impl_->columns; }
void FrontEndGradient::compute(const float* x, std::size_t n, const float* grad, float* to) const {
  impl_->compute(x, n, grad, to);
}
void FrontEndGradient::compute(const double* x, std::size_t n, const double* grad, double* to) const {
  impl_->compute(x, n, grad, to);
}

}  // namespace affekt
