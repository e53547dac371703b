#include "affekt/frontend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "tiles.hpp"

namespace affekt {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Definitions, in double.

double hz_to_mel(MelScale scale, double f) {
  switch (scale) {
    case MelScale::htk:
      return 2595.0 * std::log10(1.0 + f / 700.0);
    case MelScale::kaldi:
      return 1127.0 * std::log(1.0 + f / 700.0);
    case MelScale::slaney:
      break;
  }
  // Linear below 1 kHz, logarithmic above (Slaney's Auditory Toolbox).
  constexpr double step = 200.0 / 3.0;
  if (f < 1000.0) return f / step;
  return 1000.0 / step + std::log(f / 1000.0) / (std::log(6.4) / 27.0);
}

double mel_to_hz(MelScale scale, double m) {
  switch (scale) {
    case MelScale::htk:
      return 700.0 * (std::pow(10.0, m / 2595.0) - 1.0);
    case MelScale::kaldi:
      return 700.0 * (std::exp(m / 1127.0) - 1.0);
    case MelScale::slaney:
      break;
  }
  constexpr double step = 200.0 / 3.0;
  constexpr double knee = 1000.0 / step;
  if (m < knee) return m * step;
  return 1000.0 * std::exp((m - knee) * (std::log(6.4) / 27.0));
}

/// Mel filters with their non-zero weights only.
struct MelBank {
  std::vector<MelBand> bands;
  std::vector<double> weights;
  int empty = 0;
};

/// Weight of a triangle at `x`, left < x < right.
template <class T>
double triangle(T left, T centre, T right, T x) {
  return static_cast<double>(x <= centre ? (x - left) / (centre - left) : (right - x) / (right - centre));
}

MelBank make_mel_bank(const FrontEndOptions& o) {
  // Kaldi draws the triangles over mel, leaves out the Nyquist bin, and does all of it in single precision:
  // its weights are 1e-5 off the formula, and models trained with it expect those. The others draw them over
  // frequency.
  const bool kaldi = o.mel_scale == MelScale::kaldi;
  const auto points = static_cast<std::size_t>(o.n_mels) + 2;
  const auto bins = static_cast<std::size_t>(kaldi ? o.n_fft / 2 : o.n_fft / 2 + 1);
  std::vector<double> edge(points), at(bins), hz(points);
  if (kaldi) {
    const auto mel = [](float f) { return 1127.0f * std::log(1.0f + f / 700.0f); };
    const float low = mel(static_cast<float>(o.f_min));
    const float step = (mel(static_cast<float>(*o.f_max)) - low) / static_cast<float>(o.n_mels + 1);
    const float width = static_cast<float>(o.sample_rate) / static_cast<float>(o.n_fft);
    for (std::size_t i = 0; i < points; ++i)
      edge[i] = static_cast<double>(low + static_cast<float>(i) * step);
    for (std::size_t k = 0; k < bins; ++k) at[k] = static_cast<double>(mel(width * static_cast<float>(k)));
    for (std::size_t i = 0; i < points; ++i) hz[i] = mel_to_hz(o.mel_scale, edge[i]);
  } else {
    const double low = hz_to_mel(o.mel_scale, o.f_min), high = hz_to_mel(o.mel_scale, *o.f_max);
    for (std::size_t i = 0; i < points; ++i) {
      edge[i] = mel_to_hz(o.mel_scale, low + (high - low) * static_cast<double>(i) / (o.n_mels + 1));
    }
    for (std::size_t k = 0; k < bins; ++k) at[k] = static_cast<double>(k) * o.sample_rate / o.n_fft;
    hz = edge;
  }
  MelBank bank;
  std::size_t first = 0;  // bins below belong to no later filter
  for (std::size_t m = 0; m + 2 < points; ++m) {
    const double left = edge[m], centre = edge[m + 1], right = edge[m + 2];
    const double norm = o.mel_norm == MelNorm::slaney ? 2.0 / (hz[m + 2] - hz[m]) : 1.0;
    while (first < bins && at[first] <= left) ++first;
    MelBand band{static_cast<std::uint32_t>(first), 0, static_cast<std::uint32_t>(bank.weights.size())};
    for (std::size_t k = first; k < bins && at[k] < right; ++k) {
      const double w = kaldi ? triangle(static_cast<float>(left), static_cast<float>(centre),
                                        static_cast<float>(right), static_cast<float>(at[k]))
                             : triangle(left, centre, right, at[k]);
      bank.weights.push_back(norm * w);
      ++band.count;
    }
    if (band.count == 0) {
      ++bank.empty;
      band.bin = 0;
    }
    bank.bands.push_back(band);
  }
  return bank;
}

std::vector<double> make_dct(const FrontEndOptions& o) {
  const int n = o.n_mels;
  std::vector<double> d;
  for (int i = 0; i < o.n_mfcc; ++i) {
    double s = 2.0;
    if (o.dct_norm == DctNorm::ortho) s = std::sqrt((i == 0 ? 1.0 : 2.0) / n);
    if (o.lifter > 0) {
      const int at = o.lifter_mode == LifterMode::librosa ? i + 1 : i;
      s *= 1.0 + 0.5 * o.lifter * std::sin(std::numbers::pi * at / o.lifter);
    }
    for (int m = 0; m < n; ++m)
      d.push_back(s * unit_root(static_cast<std::uint64_t>(i) * (2 * m + 1), 4ull * n).first);
  }
  return d;
}

// ---------------------------------------------------------------------------------------------------------------
// Checks.

FrontEndOptions resolve(FrontEndOptions o) {
  constexpr double huge = 1e12;
  if (!(o.sample_rate > 0 && o.sample_rate <= huge))
    refuse("sample_rate", "a positive number of Hz", o.sample_rate);
  framing_of(o).check();
  if (!(std::abs(o.scale) > 0 && std::abs(o.scale) <= huge))
    refuse("scale", "a finite number other than 0", o.scale);
  check_range("preemphasis", o.preemphasis, 0, 1, "a number from 0 to 1");
  check_range("power", o.power, 0.001, 4, "a number from 0.001 to 4");
  check_range("n_mels", o.n_mels, 1, 1 << 16, "an integer from 1 to 65536");
  const double nyquist = o.sample_rate / 2;
  if (!o.f_max) o.f_max = nyquist;
  check_range("f_min", o.f_min, 0, nyquist, "a frequency from 0 to sample_rate / 2 = " + text(nyquist));
  if (!(*o.f_max > o.f_min && *o.f_max <= nyquist)) {
    refuse("f_max",
           "a frequency above f_min = " + text(o.f_min) + ", at most sample_rate / 2 = " + text(nyquist),
           *o.f_max);
  }
  if (!o.floor) o.floor = o.log == LogMode::none ? 0.0 : std::pow(10.0, -5.0 * o.power);
  if (o.log == LogMode::none) {
    check_range("floor", *o.floor, 0, 1e30, "a number from 0 to 1e30");
  } else {
    // Smaller ones are 0 in float32, or count as 0 where denormals are flushed.
    constexpr double smallest = std::numeric_limits<float>::min();
    check_range("floor", *o.floor, smallest, 1e30,
                "a positive number from " + text(smallest) + " to 1e30, because a logarithm follows");
  }
  if (!(o.ref > 0 && std::isfinite(o.ref))) refuse("ref", "a positive number or \"max\"", o.ref);
  if (o.log != LogMode::db && (o.ref_max || o.ref != 1.0)) {
    throw InvalidArgument("ref: expected 1 unless log is \"db\"");
  }
  if (o.top_db) {
    check_range("top_db", *o.top_db, 0, huge, "a number of dB, 0 or above, or none");
    if (o.log == LogMode::none)
      throw InvalidArgument("top_db: expected none without a logarithm, got " + text(*o.top_db));
  }
  check_range("log_shift", o.log_shift, -huge, huge, "a finite number");
  if (!(std::abs(o.log_scale) > 0 && std::abs(o.log_scale) <= huge)) {
    refuse("log_scale", "a finite number other than 0", o.log_scale);
  }
  check_range("n_mfcc", o.n_mfcc, 0, o.n_mels, "an integer from 0 to n_mels = " + std::to_string(o.n_mels));
  check_range("lifter", o.lifter, 0, huge, "a number, 0 or above");
  if (o.n_mfcc > 0 && o.log == LogMode::none)
    throw InvalidArgument("log: expected a logarithm before the DCT, got none");
  if (static_cast<double>(o.n_mfcc) * o.n_mels > 1 << 24) {
    refuse("n_mfcc", "at most 2^24 entries in the DCT matrix n_mfcc * n_mels", o.n_mfcc);
  }
  check_range("energy_floor", o.energy_floor, 0, huge, "a number, 0 or above");
  check_range("deltas", o.deltas, 0, 2, "0, 1 or 2");
  if (o.delta_width < 3 || o.delta_width % 2 == 0 || o.delta_width > 1 << 16) {
    refuse("delta_width", "an odd integer from 3 to 65535", o.delta_width);
  }
  return o;
}

// -----------------------------------------------------------------------------------------------------------------
// The plan in one type.

template <class T>
struct Kernel : TilePlan<T> {
  Kernel(const FrontEndOptions& o, const MelBank& bank)
      // The power does not depend on where in the transform the window stands.
      : TilePlan<T>(framing_of(o), make_window(o.window, o.periodic, o.win_length), o.scale, 0),
        bands(bank.bands) {
    FrontEndView<T>& v = this->view;
    for (const double w : bank.weights) weights.push_back(static_cast<T>(w));
    v.power = static_cast<T>(o.power);
    v.bands = bands.data();
    v.weights = weights.data();
    v.n_mels = bands.size();
    v.floor = static_cast<T>(*o.floor);
    v.log = o.log != LogMode::none;
    const double unit = o.log == LogMode::ln      ? 1.0
                        : o.log == LogMode::log10 ? 1.0 / std::numbers::ln10
                                                  : 20.0 / o.power / std::numbers::ln10;
    v.unit = LogScale<T>::of(unit);
    v.natural = LogScale<T>::of(1.0);
    v.ref = o.log == LogMode::db ? static_cast<T>(20.0 / o.power * std::log10(o.ref)) : T(0);
    v.shift = static_cast<T>(o.log_shift);
    v.scale = static_cast<T>(o.log_scale);
    v.n_mfcc = static_cast<std::size_t>(o.n_mfcc);
    v.dct_pitch = (v.n_mfcc + 7) / 8 * 8;
    dct.resize(v.n_mels * v.dct_pitch);
    const std::vector<double> entries = make_dct(o);
    for (std::size_t c = 0; c < v.n_mfcc; ++c) {
      for (std::size_t m = 0; m < v.n_mels; ++m)
        dct[m * v.dct_pitch + c] = static_cast<T>(entries[c * v.n_mels + m]);
    }
    v.dct = dct.data();
    v.energy = o.energy != EnergyMode::none;
    v.energy_floor = static_cast<T>(o.energy_floor);
    v.remove_dc = o.remove_dc;
    v.raw_energy = o.energy == EnergyMode::raw;
    v.windowed_energy = o.energy == EnergyMode::windowed;
    v.signal_emphasis = o.preemphasis_mode == PreemphasisMode::signal ? o.preemphasis : 0.0;
    v.frame_emphasis = o.preemphasis_mode == PreemphasisMode::frame ? o.preemphasis : 0.0;
  }

  /// The rows of `tile` -> its mel values after the logarithm, and its energies.
  void mel(Tile<T>& tile, bool windowed, std::size_t lanes) const noexcept {
    this->kernels.mel(this->view, tile.rows(), windowed, tile.scratch(), lanes);
    if (this->view.energy) this->kernels.energy(this->view, tile.energies(), lanes);
  }

  /// Mel values and energies -> `count` rows.
  template <class O>
  void rows(T* mel, const T* energies, std::size_t count, std::size_t lanes, O* out,
            std::size_t pitch) const noexcept {
    if constexpr (std::is_same_v<O, float>) {
      this->kernels.to_floats(this->view, mel, energies, count, lanes, out, pitch);
    } else {
      this->kernels.to_doubles(this->view, mel, energies, count, lanes, out, pitch);
    }
  }

  std::vector<MelBand> bands;
  std::vector<T> weights, dct;
};

}  // namespace

// -----------------------------------------------------------------------------------------------------------------

struct FrontEnd::Impl {
  explicit Impl(const FrontEndOptions& given)
      : o(resolve(given)),
        framing(framing_of(o)),
        bank(make_mel_bank(o)),
        wide(o, bank),
        in_double(wants_double(o)) {
    if (!in_double) narrow = std::make_unique<Kernel<float>>(o, bank);
    columns = static_cast<std::size_t>(o.n_mfcc > 0 ? o.n_mfcc : o.n_mels + (o.energy != EnergyMode::none));
    whole_clip = o.ref_max || o.top_db.has_value();
    float_limit = static_cast<float>(magnitude_limit<float>());
    double_limit = magnitude_limit<double>();
    if (float_limit < 1.0f) {
      refuse("scale", "a factor with which the power of full-scale samples fits float32", o.scale);
    }
  }

  /// Whether float samples are worth a transform in double. Bluestein's algorithm loses too many digits in
  /// float. In Kaldi's convention a float transform errs by up to 0.003 dB at -80 dB of the peak, as Kaldi's
  /// own does; magnitudes have no room for both within 0.005 dB.
  static bool wants_double(const FrontEndOptions& o) {
    return (o.mel_scale == MelScale::kaldi && o.power < 2.0) ||
           RealFft<float>::needs_bluestein(static_cast<std::size_t>(o.n_fft));
  }

  template <class T>
  const Kernel<T>& kernel() const {
    if constexpr (std::is_same_v<T, float>) {
      return *narrow;
    } else {
      return wide;
    }
  }

  /// Largest sample for which no step can overflow the arithmetic of T, whatever the others are.
  template <class T>
  double magnitude_limit() const {
    const double largest = static_cast<double>(std::numeric_limits<T>::max()) * 1e-3;
    double window = 0.0, band = 1.0;
    for (const double w : make_window(o.window, o.periodic, o.win_length)) window += w;
    for (const MelBand& b : bank.bands) {
      double sum = 0.0;
      for (std::size_t i = 0; i < b.count; ++i) sum += bank.weights[b.weight + i];
      band = std::max(band, sum);
    }
    // The mean and the pre-emphasis double a sample at most, each; then |X| <= gain * max |x|.
    const double gain = 4.0 * std::abs(o.scale);
    const double by_power =
        std::pow(largest / band, 1.0 / std::max(o.power, 2.0)) / (gain * std::max(window, 1.0));
    return std::min(by_power, std::sqrt(largest / o.win_length) / gain);
  }

  double limit(const float*) const { return float_limit; }
  double limit(const double*) const { return double_limit; }
  double limit(const std::int16_t*) const { return 0; }

  template <class S, class O>
  void compute(const Signals<S, O>& signals) const;
  template <class T, class S, class O>
  void run(const Signals<S, O>& signals) const;
  template <class O>
  void append_deltas(O* out, std::size_t rows) const;

  FrontEndOptions o;
  Framing framing;
  MelBank bank;
  Kernel<double> wide;
  std::unique_ptr<Kernel<float>> narrow;
  bool in_double;
  std::size_t columns = 0;  // before deltas
  bool whole_clip = false;
  float float_limit = 0;
  double double_limit = 0;
};

template <class T, class S, class O>
void FrontEnd::Impl::run(const Signals<S, O>& signals) const {
  const Kernel<T>& k = kernel<T>();
  const std::size_t lanes = k.kernels.lanes, n_mels = k.view.n_mels;
  const std::size_t pitch = columns * static_cast<std::size_t>(1 + o.deltas);
  const Tiles tiles(framing, signals.n, signals.count, lanes);
  for (std::size_t i = 0; i < signals.count; ++i) check_delta_rows(o, tiles.frames(i), signals.n[i]);
  // A clamp against the clip's maximum needs every log-mel value before the steps that follow it.
  AlignedVector<T> mels, energies;
  std::vector<T> tops;
  if (whole_clip) {
    mels.resize(tiles.size() * n_mels * lanes + 64 / sizeof(T));
    energies.resize(tiles.size() * lanes);
    tops.resize(tiles.size());
  }
  const double cost = 60.0 + 0.4 * o.n_fft * (sizeof(T) / sizeof(float));
  each_usable_tile(k, signals, cost, limit(signals.x[0]), false,
                   [&](Tile<T>& tile, std::size_t t, std::size_t i, std::size_t row, std::size_t count,
                       std::size_t used) noexcept {
                     O* out = signals.out[i] + row * pitch;
                     if (!whole_clip) prefetch(out, count * pitch);
                     k.mel(tile, tile.template windowed<S>(), used);
                     T* mel = tile.scratch().mel;
                     if (!whole_clip) return k.rows(mel, tile.energies(), count, used, out, pitch);
                     std::copy(mel, mel + n_mels * used, mels.data() + t * n_mels * lanes);
                     std::copy(tile.energies(), tile.energies() + used, energies.data() + t * lanes);
                     T top = -std::numeric_limits<T>::infinity();
                     for (std::size_t m = 0; m < n_mels * used; ++m) top = std::max(top, mel[m]);
                     tops[t] = top;
                   });
  if (whole_clip) {
    const double unit =
        o.log == LogMode::db ? 1.0 : o.power / 20.0 * (o.log == LogMode::ln ? std::numbers::ln10 : 1.0);
    std::vector<T> clip(signals.count);
    for (std::size_t i = 0; i < signals.count; ++i) {
      if (tiles.frames(i) == 0) continue;
      clip[i] = *std::max_element(tops.begin() + static_cast<std::ptrdiff_t>(tiles.first(i)),
                                  tops.begin() + static_cast<std::ptrdiff_t>(tiles.first(i + 1)));
    }
    struct None {};
    tiles.each<None>(
        cost * 0.2, [] { return None{}; },
        [&](None&, std::size_t t, std::size_t i, std::size_t row, std::size_t count) noexcept {
          const T least =
              o.top_db ? clip[i] - static_cast<T>(*o.top_db * unit) : -std::numeric_limits<T>::infinity();
          const std::size_t used = count == 1 ? 1 : lanes;
          T* mel = mels.data() + t * n_mels * lanes;
          k.kernels.clamp(mel, n_mels * used, least, o.ref_max ? clip[i] : T(0));
          k.rows(mel, energies.data() + t * lanes, count, used, signals.out[i] + row * pitch, pitch);
        });
  }
  if (o.deltas > 0) {
    for (std::size_t i = 0; i < signals.count; ++i) append_deltas(signals.out[i], tiles.frames(i));
  }
}

/// Columns [0, c) of every row -> first and second differences in columns [c, 2c) and [2c, 3c).
template <class O>
void FrontEnd::Impl::append_deltas(O* out, std::size_t rows) const {
  if (rows == 0) return;  // then `out` may be null
  const std::size_t c = columns, pitch = c * static_cast<std::size_t>(1 + o.deltas);
  const bool interp = o.delta_mode == DeltaMode::interp;
  const auto half = static_cast<std::size_t>(o.delta_width / 2);
  for (int order = 1; order <= o.deltas; ++order) {
    // HTK takes the second order from the first; Savitzky-Golay fits a parabola to the values themselves.
    const O* from = out + (interp ? 0 : static_cast<std::size_t>(order - 1) * c);
    O* to = out + static_cast<std::size_t>(order) * c;
    if constexpr (std::is_same_v<O, float>) {
      frontend_kernels().float_deltas(from, to, rows, c, pitch, half, order, interp);
    } else {
      frontend_kernels().double_deltas(from, to, rows, c, pitch, half, order, interp);
    }
  }
}

template <class S, class O>
void FrontEnd::Impl::compute(const Signals<S, O>& signals) const {
  if (signals.count == 0) return;
  if constexpr (std::is_same_v<O, float>) {
    if (!in_double) return run<float>(signals);
  }
  run<double>(signals);
}

FrontEnd::FrontEnd(const FrontEndOptions& options) : impl_(std::make_unique<const Impl>(options)) {}
FrontEnd::~FrontEnd() = default;

const FrontEndOptions& FrontEnd::options() const noexcept { return impl_->o; }
std::size_t FrontEnd::frames(std::size_t n_samples) const noexcept {
  return impl_->framing.frames(n_samples);
}
std::size_t FrontEnd::features() const noexcept {
  return impl_->columns * static_cast<std::size_t>(1 + impl_->o.deltas);
}
int FrontEnd::empty_filters() const noexcept { return impl_->bank.empty; }
std::vector<double> FrontEnd::window() const {
  return make_window(impl_->o.window, impl_->o.periodic, impl_->o.win_length);
}
std::vector<double> FrontEnd::mel_filters() const {
  const auto bins = static_cast<std::size_t>(impl_->o.n_fft / 2 + 1);
  const MelBank& bank = impl_->bank;
  std::vector<double> filters(bank.bands.size() * bins);
  for (std::size_t m = 0; m < bank.bands.size(); ++m) {
    const MelBand& band = bank.bands[m];
    for (std::size_t i = 0; i < band.count; ++i)
      filters[m * bins + band.bin + i] = bank.weights[band.weight + i];
  }
  return filters;
}
std::vector<double> FrontEnd::dct() const { return make_dct(impl_->o); }
int FrontEnd::latency_samples() const noexcept { return impl_->framing.span(); }
int FrontEnd::hop_samples() const noexcept { return impl_->o.hop_length; }

std::size_t first_non_finite(const float* x, std::size_t n) {
  return first_beyond(x, n, std::numeric_limits<float>::max());
}
std::size_t first_non_finite(const double* x, std::size_t n) {
  return first_beyond(x, n, std::numeric_limits<double>::max());
}
std::size_t FrontEnd::first_unusable(const float* x, std::size_t n) const noexcept {
  return first_beyond(x, n, impl_->float_limit);
}
std::size_t FrontEnd::first_unusable(const double* x, std::size_t n) const noexcept {
  return first_beyond(x, n, impl_->double_limit);
}

void FrontEnd::compute(const float* x, std::size_t n, float* out) const { compute(&x, &n, &out, 1); }
void FrontEnd::compute(const double* x, std::size_t n, double* out) const { compute(&x, &n, &out, 1); }
void FrontEnd::compute(const std::int16_t* x, std::size_t n, float* out) const { compute(&x, &n, &out, 1); }
void FrontEnd::compute(const float* const* x, const std::size_t* n, float* const* out,
                       std::size_t count) const {
  impl_->compute(Signals<float, float>{x, n, out, count});
}
void FrontEnd::compute(const double* const* x, const std::size_t* n, double* const* out,
                       std::size_t count) const {
  impl_->compute(Signals<double, double>{x, n, out, count});
}
void FrontEnd::compute(const std::int16_t* const* x, const std::size_t* n, float* const* out,
                       std::size_t count) const {
  impl_->compute(Signals<std::int16_t, float>{x, n, out, count});
}

bool FrontEnd::streamable(std::string* reason) const {
  const FrontEndOptions& o = impl_->o;
  std::string why;
  const auto add = [&why](bool bad, const char* text) {
    if (bad) why += (why.empty() ? "" : "; ") + std::string(text);
  };
  add(o.center, "center = true needs samples after the row's time (use center = false)");
  add(o.ref_max, "ref = \"max\" needs the maximum of the whole clip (use a fixed ref)");
  add(o.top_db.has_value(), "top_db needs the maximum of the whole clip (use floor instead)");
  add(o.deltas > 0, "deltas need rows after the row's time (use deltas = 0)");
  add(o.drop_last, "drop_last needs the end of the clip (use drop_last = false)");
  if (reason) *reason = why;
  return why.empty();
}

// -----------------------------------------------------------------------------------------------------------------
// Stream: a linear buffer that moves its remainder to the front when it runs out of room, so that every frame
// is contiguous and the moves cost a constant per sample.

struct FrontEndStream::Impl {
  Impl(std::shared_ptr<const FrontEnd> plan_, std::size_t capacity)
      : plan(std::move(plan_)), p(plan->impl_.get()) {
    hop = static_cast<std::uint64_t>(p->o.hop_length);
    span = static_cast<std::uint64_t>(p->framing.span());
    inset = static_cast<std::uint64_t>(p->framing.inset());
    limit = static_cast<std::size_t>(span) + 1 + capacity;
    buffer.resize(buffer_size(*p, capacity));
    if (p->in_double) {
      wide.emplace(p->wide);
    } else {
      narrow.emplace(*p->narrow);
    }
  }

  Impl(const Impl& other) : Impl(other.plan, other.limit - static_cast<std::size_t>(other.span) - 1) {
    buffer = other.buffer;
    begin = other.begin;
    stored = other.stored;
    rows = other.rows;
    samples = other.samples;
  }

  static std::size_t buffer_size(const FrontEnd::Impl& p, std::size_t capacity) {
    return 2 * (static_cast<std::size_t>(p.framing.span()) + 1 + capacity);
  }
  static std::size_t bytes(const FrontEnd::Impl& p, std::size_t capacity) {
    return sizeof(Impl) + buffer_size(p, capacity) * sizeof(float) +
           (p.in_double ? Tile<double>(p.wide).bytes() : Tile<float>(*p.narrow).bytes());
  }
  template <class T>
  Tile<T>& tile() noexcept {
    if constexpr (std::is_same_v<T, float>) {
      return *narrow;
    } else {
      return *wide;
    }
  }

  /// First sample that a row to come still needs; one more than its window for the pre-emphasis.
  std::uint64_t needed() const {
    const std::uint64_t start = rows * hop + inset;
    return start > 0 ? start - 1 : 0;
  }

  template <class S>
  std::size_t push(const S* x, std::size_t n) noexcept {
    std::size_t taken = 0;
    if (stored == 0 && samples < needed()) {  // between frames when the hop is longer than a frame
      taken = static_cast<std::size_t>(std::min<std::uint64_t>(n, needed() - samples));
      samples += taken;
    }
    const std::size_t more = std::min(n - taken, limit - stored);
    if (more == 0) return taken;
    if (begin + stored + more > buffer.size()) {
      std::memmove(buffer.data(), buffer.data() + begin, stored * sizeof(float));
      begin = 0;
    }
    float* to = buffer.data() + begin + stored;
    for (std::size_t i = 0; i < more; ++i) to[i] = static_cast<float>(sample(x[taken + i]));
    stored += more;
    samples += more;
    return taken + more;
  }

  std::size_t ready() const {
    return samples < rows * hop + span ? 0 : static_cast<std::size_t>((samples - span) / hop + 1 - rows);
  }

  /// `count` rows of one tile, which must be ready.
  template <class T>
  void rows_out(float* out, std::size_t count) noexcept {
    const Kernel<T>& k = p->kernel<T>();
    Tile<T>& t = tile<T>();
    for (std::size_t l = 0; l < count; ++l) {
      const std::uint64_t start = (rows + l) * hop + inset;
      t.row(l, buffer.data() + begin + (start - (samples - stored)), start == 0);
    }
    const std::size_t lanes = t.fill(count);
    k.mel(t, t.template windowed<float>(), lanes);
    k.rows(t.scratch().mel, t.energies(), count, lanes, out, p->columns);
    rows += count;
    const std::uint64_t first = samples - stored;
    if (needed() > first) {
      const auto gone = static_cast<std::size_t>(std::min<std::uint64_t>(stored, needed() - first));
      begin += gone;
      stored -= gone;
    }
  }

  template <class T>
  std::size_t next(float* out, std::size_t max_rows) noexcept {
    const std::size_t total = std::min(max_rows, ready()), lanes = p->kernel<T>().kernels.lanes;
    for (std::size_t done = 0; done < total;) {
      const std::size_t count = std::min(lanes, total - done);
      rows_out<T>(out + done * p->columns, count);
      done += count;
    }
    return total;
  }

  std::shared_ptr<const FrontEnd> plan;
  const FrontEnd::Impl* p;
  std::uint64_t hop, span, inset;
  std::size_t limit;          // samples that may wait
  std::vector<float> buffer;  // samples [samples - stored, samples) lie at `begin`
  std::size_t begin = 0, stored = 0;
  std::uint64_t rows = 0, samples = 0;
  std::optional<Tile<float>> narrow;
  std::optional<Tile<double>> wide;
};

std::size_t FrontEnd::stream_bytes(std::size_t capacity_samples) const {
  return FrontEndStream::Impl::bytes(*impl_, capacity_samples);
}

FrontEndStream::FrontEndStream(std::shared_ptr<const FrontEnd> plan, std::size_t capacity_samples) {
  if (!plan) throw InvalidArgument("plan: expected a front end, got null");
  std::string reason;
  if (!plan->streamable(&reason)) throw NotStreamable("this front end cannot stream: " + reason);
  if (capacity_samples > std::size_t{1} << 32) {
    throw InvalidArgument("capacity_samples: expected at most 4294967296, got " +
                          std::to_string(capacity_samples));
  }
  impl_ = std::make_unique<Impl>(std::move(plan), capacity_samples);
}
FrontEndStream::~FrontEndStream() = default;
FrontEndStream::FrontEndStream(const FrontEndStream& other) : impl_(std::make_unique<Impl>(*other.impl_)) {}
FrontEndStream::FrontEndStream(FrontEndStream&&) noexcept = default;
FrontEndStream& FrontEndStream::operator=(FrontEndStream&&) noexcept = default;

std::size_t FrontEndStream::push(const float* x, std::size_t n) noexcept { return impl_->push(x, n); }
std::size_t FrontEndStream::push(const std::int16_t* x, std::size_t n) noexcept { return impl_->push(x, n); }
bool FrontEndStream::next(float* row) noexcept { return next(row, 1) == 1; }
std::size_t FrontEndStream::next(float* rows, std::size_t max_rows) noexcept {
  return impl_->p->in_double ? impl_->next<double>(rows, max_rows) : impl_->next<float>(rows, max_rows);
}
std::size_t FrontEndStream::ready() const noexcept { return impl_->ready(); }
void FrontEndStream::reset() noexcept {
  impl_->begin = impl_->stored = 0;
  impl_->rows = impl_->samples = 0;
}
std::uint64_t FrontEndStream::rows() const noexcept { return impl_->rows; }
std::uint64_t FrontEndStream::samples() const noexcept { return impl_->samples; }
std::uint64_t FrontEndStream::last_sample(std::uint64_t r) const noexcept {
  return r * impl_->hop + impl_->span - 1;
}
const FrontEnd& FrontEndStream::plan() const noexcept { return *impl_->plan; }

}  // namespace affekt
