#include "affekt/spectrogram.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "tiles.hpp"

namespace affekt {
namespace {

FrontEndOptions checked(const FrontEndOptions& o) {
  constexpr double huge = 1e12;
  framing_of(o).check();
  if (!(std::abs(o.scale) > 0 && std::abs(o.scale) <= huge))
    refuse("scale", "a finite number other than 0", o.scale);
  check_range("power", o.power, 0.001, 4, "a number from 0.001 to 4");
  return o;
}

/// Rows of a tile beyond this many bytes are not asked for early: they would push out what it works on.
constexpr std::size_t kAhead = 36 << 10;

template <class T>
struct Plan : TilePlan<T> {
  explicit Plan(const FrontEndOptions& o)
      : TilePlan<T>(framing_of(o), make_window(o.window, o.periodic, o.win_length), o.scale,
                    static_cast<std::size_t>(framing_of(o).inset())) {
    this->view.power = static_cast<T>(o.power);
  }
};

}  // namespace

struct Spectrogram::Impl {
  explicit Impl(const FrontEndOptions& given) : o(checked(given)), framing(framing_of(o)), wide(o) {
    if (!RealFft<float>::needs_bluestein(static_cast<std::size_t>(o.n_fft)))
      narrow = std::make_unique<Plan<float>>(o);
    float_limit = static_cast<float>(limit_of<float>());
    double_limit = limit_of<double>();
    if (float_limit < 1.0f)
      refuse("scale", "a factor with which the power of full-scale samples fits float32", o.scale);
  }

  /// Largest sample for which no power can overflow T.
  template <class T>
  double limit_of() const {
    double gain = 0;
    for (const double w : make_window(o.window, o.periodic, o.win_length)) gain += std::abs(w * o.scale);
    const double largest = static_cast<double>(std::numeric_limits<T>::max()) * 1e-3;
    return std::pow(largest, 1.0 / std::max(o.power, 2.0)) / (4.0 * std::max(gain, std::abs(o.scale)));
  }

  double limit(const float*) const { return float_limit; }
  double limit(const double*) const { return double_limit; }
  double limit(const std::int16_t*) const { return 0; }

  template <bool complex, class S, class O>
  void compute(const Signals<S, O>& signals) const {
    if (signals.count == 0) return;
    if constexpr (std::is_same_v<O, float>) {
      if (narrow) return run<complex>(*narrow, signals);
    }
    run<complex>(wide, signals);
  }

  template <bool complex, class T, class S, class O>
  void run(const Plan<T>& plan, const Signals<S, O>& signals) const {
    const FrontEndView<T>& v = plan.view;
    const std::size_t columns = (complex ? 2 : 1) * v.fft.bins;
    const double cost = 60.0 + 0.4 * o.n_fft * (sizeof(T) / sizeof(float));
    each_usable_tile(plan, signals, cost, limit(signals.x[0]), complex,
                     [&](Tile<T>& tile, std::size_t, std::size_t i, std::size_t row, std::size_t count,
                         std::size_t lanes) noexcept {
                       const auto transform = complex ? plan.kernels.spectra : plan.kernels.powers;
                       O* out = signals.out[i] + row * columns;
                       const FrontEndScratch<T>& s = tile.scratch();
                       const std::size_t bytes = count * columns * sizeof(O);
                       transform(v, tile.rows(), tile.template windowed<S>(), s, lanes,
                                 {out, bytes <= kAhead ? bytes : 0});
                       if constexpr (std::is_same_v<O, float>) {
                         plan.kernels.store_floats(s.bins, columns, count, lanes, out, columns);
                       } else {
                         plan.kernels.store_doubles(s.bins, columns, count, lanes, out, columns);
                       }
                     });
  }

  FrontEndOptions o;
  Framing framing;
  Plan<double> wide;
  std::unique_ptr<Plan<float>> narrow;
  float float_limit = 0;
  double double_limit = 0;
};

Spectrogram::Spectrogram(const FrontEndOptions& options) : impl_(std::make_unique<const Impl>(options)) {}
Spectrogram::~Spectrogram() = default;

std::size_t Spectrogram::frames(std::size_t n_samples) const noexcept {
  return impl_->framing.frames(n_samples);
}
const FrontEndOptions& Spectrogram::options() const noexcept { return impl_->o; }
std::vector<double> Spectrogram::window() const {
  return make_window(impl_->o.window, impl_->o.periodic, impl_->o.win_length);
}
std::size_t Spectrogram::bins() const noexcept { return impl_->wide.view.fft.bins; }
std::size_t Spectrogram::first_unusable(const float* x, std::size_t n) const noexcept {
  return first_beyond(x, n, impl_->float_limit);
}
std::size_t Spectrogram::first_unusable(const double* x, std::size_t n) const noexcept {
  return first_beyond(x, n, impl_->double_limit);
}

#define AFFEKT_SPECTROGRAM(S, O)                                                                       \
  void Spectrogram::powers(const S* const* x, const std::size_t* n, O* const* out, std::size_t count)  \
      const {                                                                                          \
    impl_->compute<false>(Signals<S, O>{x, n, out, count});                                            \
  }                                                                                                    \
  void Spectrogram::spectra(const S* const* x, const std::size_t* n, O* const* out, std::size_t count) \
      const {                                                                                          \
    impl_->compute<true>(Signals<S, O>{x, n, out, count});                                             \
  }
AFFEKT_SPECTROGRAM(float, float)
AFFEKT_SPECTROGRAM(double, double)
AFFEKT_SPECTROGRAM(std::int16_t, float)
#undef AFFEKT_SPECTROGRAM

}  // namespace affekt
