#include "affekt/frontend.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numbers>
#include <type_traits>
#include <utility>
#include <vector>

#include "fft_old.hpp"
#include "kernels/scan.hpp"

namespace affekt {
namespace {

// ---------------------------------------------------------------------------------------------------------------
// Lanes: offline, L frames go side by side through vectors of L values; live, one frame goes alone.

template <class T, int L>
struct Lanes {
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
};
template <class T>
struct Lanes<T, 1> {
  typedef T type;
};
#if defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T, int L, class F>
inline void each_lane(typename Lanes<T, L>::type& v, F&& f) {
  if constexpr (L == 1) {
    v = f(v);
  } else {
    for (int l = 0; l < L; ++l) v[l] = f(v[l]);
  }
}

template <class T, int L>
inline typename Lanes<T, L>::type at_least(typename Lanes<T, L>::type v, T bound) {
  if constexpr (L == 1) {
    return v < bound ? bound : v;
  } else {
    const typename Lanes<T, L>::type b = bound - typename Lanes<T, L>::type{};
    return v < b ? b : v;
  }
}

/// The elements of an array of vectors; a vector type may alias its element type.
template <class T, class V>
inline T* element(V* v) {
  return reinterpret_cast<T*>(v);
}

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

std::vector<double> make_window(const FrontEndOptions& o) {
  const int n = o.win_length;
  std::vector<double> w(static_cast<std::size_t>(n), 1.0);
  const double period = o.periodic ? n : n - 1;
  if (n == 1 || o.window == Window::rectangular) return w;
  for (int i = 0; i < n; ++i) {
    const double a = 2.0 * std::numbers::pi * i / period;
    double& v = w[static_cast<std::size_t>(i)];
    switch (o.window) {
      case Window::hann:
        v = 0.5 - 0.5 * std::cos(a);
        break;
      case Window::hamming:
        v = 0.54 - 0.46 * std::cos(a);
        break;
      case Window::povey:
        v = std::pow(0.5 - 0.5 * std::cos(a), 0.85);
        break;
      case Window::blackman:
        v = 0.42 - 0.5 * std::cos(a) + 0.08 * std::cos(2.0 * a);
        break;
      case Window::rectangular:
        break;
    }
  }
  return w;
}

/// Mel filters with their non-zero weights only.
struct MelBank {
  struct Band {
    std::size_t bin, count, weight;
  };
  std::vector<Band> bands;
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
    MelBank::Band band{first, 0, bank.weights.size()};
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
      d.push_back(s * detail::unit_root(static_cast<std::uint64_t>(i) * (2 * m + 1), 4ull * n).first);
  }
  return d;
}

// ---------------------------------------------------------------------------------------------------------------
// Checks.

std::string text(double v) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", v);
  return buffer;
}

[[noreturn]] void refuse(const char* name, const std::string& expected, double value) {
  throw InvalidArgument(std::string(name) + ": expected " + expected + ", got " + text(value));
}

void check_range(const char* name, double v, double lo, double hi, const std::string& expected) {
  if (!(v >= lo && v <= hi)) refuse(name, expected, v);
}

FrontEndOptions resolve(FrontEndOptions o) {
  constexpr double huge = 1e12;
  constexpr int longest = 1 << 20;
  if (!(o.sample_rate > 0 && o.sample_rate <= huge))
    refuse("sample_rate", "a positive number of Hz", o.sample_rate);
  check_range("n_fft", o.n_fft, 1, longest, "an integer from 1 to 1048576");
  check_range("win_length", o.win_length, 1, o.n_fft,
              "an integer from 1 to n_fft = " + std::to_string(o.n_fft));
  check_range("hop_length", o.hop_length, 1, 1 << 30, "an integer from 1 to 1073741824");
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

/// Index into a signal of n samples that stands for position i outside it; npos: a zero.
constexpr std::size_t npos = static_cast<std::size_t>(-1);
std::size_t padded_index(PadMode mode, std::int64_t i, std::int64_t n) {
  if (i >= 0 && i < n) return static_cast<std::size_t>(i);
  switch (mode) {
    case PadMode::constant:
      return npos;
    case PadMode::edge:
      return static_cast<std::size_t>(i < 0 ? 0 : n - 1);
    case PadMode::reflect: {
      if (n == 1) return 0;
      const std::int64_t period = 2 * (n - 1);
      const std::int64_t r = ((i % period) + period) % period;
      return static_cast<std::size_t>(r < n ? r : period - r);
    }
    case PadMode::symmetric: {
      const std::int64_t r = ((i % (2 * n)) + 2 * n) % (2 * n);
      return static_cast<std::size_t>(r < n ? r : 2 * n - 1 - r);
    }
  }
  return npos;
}

/// A sample at full scale 1; exact in all three cases.
inline double sample(float x) { return x; }
inline double sample(double x) { return x; }
inline double sample(std::int16_t x) { return x * (1.0 / 32768.0); }

}  // namespace

// -----------------------------------------------------------------------------------------------------------------
// One frame, or L of them, from samples to a row. All arithmetic in T.

template <class T>
struct Kernel {
  explicit Kernel(const FrontEndOptions& o, const MelBank& bank)
      : fft(static_cast<std::size_t>(o.n_fft)), bands(bank.bands) {
    window = make_window(o);
    for (double& w : window) w *= o.scale;
    for (const double w : bank.weights) weights.push_back(static_cast<T>(w));
    for (const double d : make_dct(o)) dct.push_back(static_cast<T>(d));
    width = static_cast<std::size_t>(o.win_length);
    floor = static_cast<T>(*o.floor);
    energy_scale = o.scale * o.scale;
    energy_floor = static_cast<T>(o.energy_floor);
    scale = static_cast<T>(o.log_scale);
    shift = static_cast<T>(o.log_shift);
    db = static_cast<T>(20.0 / o.power);
    ref = static_cast<T>(20.0 / o.power * std::log10(o.ref));
    power = static_cast<T>(o.power);
  }

  template <int L>
  using V = typename Lanes<T, L>::type;
  template <int L>
  using D = typename Lanes<double, L>::type;

  template <int L>
  static inline V<L> narrow(const D<L>& v) {
    if constexpr (L == 1) {
      return static_cast<T>(v);
    } else {
      return __builtin_convertvector(v, V<L>);
    }
  }

  /// Entries of type D<L> that Scratch needs; a row may hold the energy besides the mel values.
  std::size_t scratch_size() const { return width + 4 * fft.work_size() + 2 * bands.size() + 1; }

  template <int L>
  struct Scratch {
    D<L>* frame;
    V<L>*re, *im, *wre, *wim, *mel, *row;
    Scratch(const Kernel& k, D<L>* memory) : frame(memory) {
      const std::size_t w = k.fft.work_size();
      re = reinterpret_cast<V<L>*>(frame + k.width);
      im = re + w;
      wre = im + w;
      wim = wre + w;
      mel = wim + w;
      row = mel + k.bands.size();
    }
  };

  /// s.frame holds the samples -> s.re and s.im hold the windowed frame as the transform wants it; the
  /// frame's energy in the result. In double, so that a sample is rounded to T once, whatever the steps
  /// before.
  template <int L>
  V<L> prepare(const FrontEndOptions& o, const Scratch<L>& s) const {
    D<L>* x = s.frame;
    D<L> mean{};
    if (o.remove_dc) {
      for (std::size_t i = 0; i < width; ++i) mean = mean + x[i];
      mean = mean / static_cast<double>(width);
    }
    D<L> energy{};
    if (o.energy == EnergyMode::raw) {
      for (std::size_t i = 0; i < width; ++i) energy = energy + (x[i] - mean) * (x[i] - mean);
      energy = energy * energy_scale;
    }
    const double c = o.preemphasis_mode == PreemphasisMode::frame ? o.preemphasis : 0.0;
    if (o.remove_dc || c != 0.0) {
      D<L> before = x[0] - mean;
      for (std::size_t i = 0; i < width; ++i) {
        const D<L> now = x[i] - mean;
        x[i] = now - before * c;
        before = now;
      }
    }
    if (o.energy == EnergyMode::windowed) {
      for (std::size_t i = 0; i < width; ++i) energy = energy + (x[i] * window[i]) * (x[i] * window[i]);
    }
    const std::size_t half = fft.packed_size();
    const std::size_t stride = fft.packed() ? 2 : 1;
    for (std::size_t j = 0; j < half; ++j) {
      const std::size_t i = stride * j;
      s.re[j] = i < width ? narrow<L>(x[i] * window[i]) : V<L>{};
      s.im[j] = stride == 2 && i + 1 < width ? narrow<L>(x[i + 1] * window[i + 1]) : V<L>{};
    }
    return narrow<L>(energy);
  }

  /// s.frame holds the samples -> s.mel holds the mel values after the log (row without DCT), energy in the
  /// result.
  template <int L>
  V<L> mel(const FrontEndOptions& o, const Scratch<L>& s) const {
    V<L> energy = prepare<L>(o, s);
    const auto [re, im] = fft.spectrum(s.re, s.im, s.wre, s.wim);
    V<L>* p = re;
    for (std::size_t k = 0; k < fft.bins(); ++k) p[k] = re[k] * re[k] + im[k] * im[k];
    if (power == T(1)) {
      for (std::size_t k = 0; k < fft.bins(); ++k) each_lane<T, L>(p[k], [](T v) { return std::sqrt(v); });
    } else if (power != T(2)) {
      const T e = power / T(2);
      for (std::size_t k = 0; k < fft.bins(); ++k) each_lane<T, L>(p[k], [e](T v) { return std::pow(v, e); });
    }
    for (std::size_t m = 0; m < bands.size(); ++m) {
      const T* w = weights.data() + bands[m].weight;
      const V<L>* q = p + bands[m].bin;
      V<L> v{};
      for (std::size_t i = 0; i < bands[m].count; ++i) v = v + q[i] * w[i];
      v = at_least<T, L>(v, floor);
      switch (o.log) {
        case LogMode::none:
          break;
        case LogMode::db:
          each_lane<T, L>(v, [](T a) { return std::log10(a); });
          v = v * db - ref;
          break;
        case LogMode::ln:
          each_lane<T, L>(v, [](T a) { return std::log(a); });
          break;
        case LogMode::log10:
          each_lane<T, L>(v, [](T a) { return std::log10(a); });
          break;
      }
      s.mel[m] = v;
    }
    if (o.energy != EnergyMode::none) {
      energy = at_least<T, L>(at_least<T, L>(energy, std::numeric_limits<float>::epsilon()), energy_floor);
      each_lane<T, L>(energy, [](T a) { return std::log(a); });
    }
    return energy;
  }

  /// s.mel and the energy -> s.row; returns the number of columns.
  template <int L>
  std::size_t finish(const FrontEndOptions& o, const Scratch<L>& s, V<L> energy) const {
    const std::size_t n_mels = bands.size();
    if (shift != T(0) || scale != T(1)) {
      for (std::size_t m = 0; m < n_mels; ++m) s.mel[m] = (s.mel[m] + shift) * scale;
    }
    std::size_t column = 0;
    if (o.n_mfcc == 0) {
      if (o.energy != EnergyMode::none) s.row[column++] = energy;
      for (std::size_t m = 0; m < n_mels; ++m) s.row[column++] = s.mel[m];
      return column;
    }
    for (; column < static_cast<std::size_t>(o.n_mfcc); ++column) {
      const T* d = dct.data() + column * n_mels;
      V<L> v{};
      for (std::size_t m = 0; m < n_mels; ++m) v = v + s.mel[m] * d[m];
      s.row[column] = v;
    }
    if (o.energy != EnergyMode::none) s.row[0] = energy;
    return column;
  }

  detail::RealFft<T> fft;
  std::vector<MelBank::Band> bands;
  std::vector<double> window;
  std::vector<T> weights, dct;
  std::size_t width;
  double energy_scale;
  T floor, energy_floor, scale, shift, db, ref, power;
};

// -----------------------------------------------------------------------------------------------------------------

struct FrontEnd::Impl {
  explicit Impl(const FrontEndOptions& given)
      : o(resolve(given)), bank(make_mel_bank(o)), wide(o, bank), in_double(wants_double(o)) {
    if (!in_double) narrow = std::make_unique<Kernel<float>>(o, bank);
    span = o.span == FrameSpan::n_fft ? o.n_fft : o.win_length;
    inset = (span - o.win_length) / 2;
    columns = static_cast<std::size_t>(o.n_mfcc > 0 ? o.n_mfcc : o.n_mels + (o.energy != EnergyMode::none));
    whole_clip = o.ref_max || o.top_db.has_value();
    emphasis = o.preemphasis_mode == PreemphasisMode::signal && o.preemphasis != 0.0;
    float_limit = static_cast<float>(magnitude_limit<float>());
    double_limit = magnitude_limit<double>();
    if (float_limit < 1.0f) {
      refuse("scale", "a factor with which the power of full-scale samples fits float32", o.scale);
    }
  }

  /// Whether float samples are worth a transform in double. Bluestein's algorithm loses too many digits in
  /// float. Kaldi's filters have no unit area and take fractions of a bin, so that a float transform errs by
  /// up to 0.004 dB at -80 dB of the peak, on top of the 0.003 dB of Kaldi's own.
  static bool wants_double(const FrontEndOptions& o) {
    return o.mel_scale == MelScale::kaldi ||
           detail::RealFft<float>::needs_bluestein(static_cast<std::size_t>(o.n_fft));
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
    for (const double w : make_window(o)) window += w;
    for (const MelBank::Band& b : bank.bands) {
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

  /// Position of the first sample of frame r's span.
  std::int64_t origin() const {
    if (!o.center) return 0;
    return o.span == FrameSpan::n_fft ? -static_cast<std::int64_t>(o.n_fft / 2)
                                      : o.hop_length / 2 - static_cast<std::int64_t>(o.win_length / 2);
  }

  std::size_t frames(std::size_t n) const {
    if (n == 0) return 0;
    const auto hop = static_cast<std::size_t>(o.hop_length);
    const auto length = static_cast<std::size_t>(span);
    std::size_t rows = 0;
    if (!o.center) {
      rows = n < length ? 0 : 1 + (n - length) / hop;
    } else if (o.span == FrameSpan::n_fft) {
      const std::size_t odd = length % 2;
      rows = 1 + (n - odd) / hop;
    } else {
      rows = n / hop + (n % hop + hop / 2) / hop;
    }
    return o.drop_last && rows > 0 ? rows - 1 : rows;
  }

  template <class T, class S, class O>
  void run(const S* x, std::size_t n, O* out) const;
  template <class S>
  void cut(const S* from, bool first, double* to, std::size_t lanes) const;
  template <class S>
  void gather(const S* x, std::size_t n, std::size_t r, double* to, std::size_t lanes) const;
  template <class O>
  void append_deltas(O* out, std::size_t rows) const;

  FrontEndOptions o;
  MelBank bank;
  Kernel<double> wide;
  std::unique_ptr<Kernel<float>> narrow;
  bool in_double;
  int span = 0, inset = 0;
  std::size_t columns = 0;  // before deltas
  bool whole_clip = false;
  bool emphasis = false;
  float float_limit = 0;
  double double_limit = 0;
};

/// `width` consecutive samples, pre-emphasised if asked, into one lane; `first`: nothing comes before them.
template <class S>
void FrontEnd::Impl::cut(const S* from, bool first, double* to, std::size_t lanes) const {
  const std::size_t width = static_cast<std::size_t>(o.win_length);
  if (!emphasis) {
    for (std::size_t i = 0; i < width; ++i) to[i * lanes] = sample(from[i]);
    return;
  }
  const double c = o.preemphasis;
  double before = first ? 0.0 : sample(from[-1]);
  for (std::size_t i = 0; i < width; ++i) {
    const double now = sample(from[i]);
    to[i * lanes] = now - before * c;
    before = now;
  }
}

/// The frame of row r, which may reach outside the signal, into one lane.
template <class S>
void FrontEnd::Impl::gather(const S* x, std::size_t n, std::size_t r, double* to, std::size_t lanes) const {
  const std::size_t width = static_cast<std::size_t>(o.win_length);
  const std::int64_t base = origin() + static_cast<std::int64_t>(r) * o.hop_length + inset;
  if (base >= 0 && static_cast<std::size_t>(base) + width <= n) return cut(x + base, base == 0, to, lanes);
  const double c = o.preemphasis;
  for (std::size_t i = 0; i < width; ++i) {
    const std::size_t at =
        padded_index(o.pad_mode, base + static_cast<std::int64_t>(i), static_cast<std::int64_t>(n));
    double v = at == npos ? 0.0 : sample(x[at]);
    if (emphasis && at != npos && at > 0) v = v - sample(x[at - 1]) * c;
    to[i * lanes] = v;
  }
}

template <class T, class S, class O>
void FrontEnd::Impl::run(const S* x, std::size_t n, O* out) const {
  constexpr int L = kVectorBytes / static_cast<int>(sizeof(T));
  using V = typename Lanes<T, L>::type;
  const Kernel<T>& k = kernel<T>();
  const std::size_t rows = frames(n);
  const std::size_t pitch = columns * static_cast<std::size_t>(1 + o.deltas);
  if (rows == 0) return;
  if (o.deltas > 0 && o.delta_mode == DeltaMode::interp && rows < static_cast<std::size_t>(o.delta_width)) {
    throw InvalidArgument("samples: expected enough for delta_width = " + std::to_string(o.delta_width) +
                          " rows with delta_mode \"interp\", got " + std::to_string(rows) + " rows from " +
                          std::to_string(n) + " samples");
  }
  std::vector<typename Lanes<double, L>::type> memory(k.scratch_size());
  const typename Kernel<T>::template Scratch<L> s(k, memory.data());
  const std::size_t n_mels = k.bands.size();

  // A clamp against the clip's maximum needs every log-mel value before the steps that follow it.
  std::vector<V> mels, energies;
  T top = -std::numeric_limits<T>::infinity();
  if (whole_clip) {
    mels.resize((rows + L - 1) / L * n_mels);
    energies.resize((rows + L - 1) / L);
  }
  const auto store = [&](std::size_t row, std::size_t count, V energy) {
    const std::size_t width = k.template finish<L>(o, s, energy);
    for (std::size_t l = 0; l < count; ++l) {
      O* to = out + (row + l) * pitch;
      for (std::size_t c = 0; c < width; ++c) to[c] = static_cast<O>(s.row[c][l]);
    }
  };
  for (std::size_t row = 0; row < rows; row += L) {
    const std::size_t count = std::min<std::size_t>(L, rows - row);
    // Lanes without a frame repeat the last one.
    for (std::size_t l = 0; l < L; ++l)
      gather(x, n, row + std::min(l, count - 1), element<double>(s.frame) + l, L);
    const V energy = k.template mel<L>(o, s);
    if (!whole_clip) {
      store(row, count, energy);
      continue;
    }
    std::copy(s.mel, s.mel + n_mels, mels.begin() + static_cast<std::ptrdiff_t>(row / L * n_mels));
    energies[row / L] = energy;
    for (std::size_t m = 0; m < n_mels; ++m) {
      for (std::size_t l = 0; l < L; ++l) top = std::max(top, s.mel[m][l]);
    }
  }
  if (whole_clip) {
    const double unit =
        o.log == LogMode::db ? 1.0 : o.power / 20.0 * (o.log == LogMode::ln ? std::numbers::ln10 : 1.0);
    const T least = o.top_db ? top - static_cast<T>(*o.top_db * unit) : -std::numeric_limits<T>::infinity();
    const T zero = o.ref_max ? top : T(0);
    for (std::size_t row = 0; row < rows; row += L) {
      for (std::size_t m = 0; m < n_mels; ++m) {
        s.mel[m] = at_least<T, L>(mels[row / L * n_mels + m], least) - zero;
      }
      store(row, std::min<std::size_t>(L, rows - row), energies[row / L]);
    }
  }
  if (o.deltas > 0) append_deltas(out, rows);
}

/// Columns [0, c) of every row -> first and second differences in columns [c, 2c) and [2c, 3c).
template <class O>
void FrontEnd::Impl::append_deltas(O* out, std::size_t rows) const {
  const std::size_t c = columns, pitch = c * static_cast<std::size_t>(1 + o.deltas);
  const auto n = static_cast<std::ptrdiff_t>(rows);
  const std::ptrdiff_t half = o.delta_width / 2;
  const double w = o.delta_width;
  const double s2 = w * (w * w - 1.0) / 12.0;         // sum of i^2, i = -half ... half
  const double s4 = s2 * (3.0 * w * w - 7.0) / 20.0;  // sum of i^4
  for (int order = 1; order <= o.deltas; ++order) {
    for (std::size_t f = 0; f < c; ++f) {
      const bool regression = o.delta_mode == DeltaMode::regression;
      // HTK takes the second order from the first; Savitzky-Golay fits a parabola to the values themselves.
      const O* from = out + (regression ? static_cast<std::size_t>(order - 1) * c : 0) + f;
      O* to = out + static_cast<std::size_t>(order) * c + f;
      const auto value = [&](std::ptrdiff_t r) {
        return static_cast<double>(from[static_cast<std::size_t>(r) * pitch]);
      };
      for (std::ptrdiff_t r = 0; r < n; ++r) {
        double d = 0;
        if (regression) {
          for (std::ptrdiff_t i = 1; i <= half; ++i) {
            d += static_cast<double>(i) *
                 (value(std::min(n - 1, r + i)) - value(std::max<std::ptrdiff_t>(0, r - i)));
          }
          d /= s2;
        } else {
          // Near the ends the polynomial of the first or last whole window is evaluated off its centre.
          const std::ptrdiff_t mid = std::clamp(r, half, n - 1 - half);
          if (order == 1) {
            for (std::ptrdiff_t i = 1; i <= half; ++i)
              d += static_cast<double>(i) * (value(mid + i) - value(mid - i));
            d /= s2;
          } else {
            double sum = 0;
            for (std::ptrdiff_t i = -half; i <= half; ++i) {
              sum += value(mid + i);
              d += static_cast<double>(i * i) * value(mid + i);
            }
            // Second derivative of the least-squares parabola: 2 (w sum i^2 y - s2 sum y) / (w s4 - s2^2).
            d = 2.0 * (w * d - s2 * sum) / (w * s4 - s2 * s2);
          }
        }
        to[static_cast<std::size_t>(r) * pitch] = static_cast<O>(d);
      }
    }
  }
}

FrontEnd::FrontEnd(const FrontEndOptions& options) : impl_(std::make_unique<const Impl>(options)) {}
FrontEnd::~FrontEnd() = default;

const FrontEndOptions& FrontEnd::options() const noexcept { return impl_->o; }
std::size_t FrontEnd::frames(std::size_t n_samples) const noexcept { return impl_->frames(n_samples); }
std::size_t FrontEnd::features() const noexcept {
  return impl_->columns * static_cast<std::size_t>(1 + impl_->o.deltas);
}
int FrontEnd::empty_filters() const noexcept { return impl_->bank.empty; }
int FrontEnd::latency_samples() const noexcept { return impl_->span; }
int FrontEnd::hop_samples() const noexcept { return impl_->o.hop_length; }

namespace {
std::size_t beyond(const float* x, std::size_t n, float limit) { return scan().floats(x, n, limit); }
std::size_t beyond(const double* x, std::size_t n, double limit) { return scan().doubles(x, n, limit); }

template <class S>
void check(const S* x, std::size_t n, S limit) {
  const std::size_t bad = beyond(x, n, limit);
  if (bad == n) return;
  throw InvalidArgument("samples: expected finite values of magnitude up to " +
                        text(static_cast<double>(limit)) + ", got " + text(static_cast<double>(x[bad])) +
                        " at index " + std::to_string(bad));
}
}  // namespace

std::size_t first_non_finite(const float* x, std::size_t n) noexcept {
  return beyond(x, n, std::numeric_limits<float>::max());
}
std::size_t first_non_finite(const double* x, std::size_t n) noexcept {
  return beyond(x, n, std::numeric_limits<double>::max());
}
std::size_t FrontEnd::first_unusable(const float* x, std::size_t n) const noexcept {
  return beyond(x, n, impl_->float_limit);
}
std::size_t FrontEnd::first_unusable(const double* x, std::size_t n) const noexcept {
  return beyond(x, n, impl_->double_limit);
}

void FrontEnd::compute(const float* x, std::size_t n, float* out) const {
  check(x, n, impl_->float_limit);
  if (impl_->in_double) {
    impl_->run<double>(x, n, out);
  } else {
    impl_->run<float>(x, n, out);
  }
}

void FrontEnd::compute(const std::int16_t* x, std::size_t n, float* out) const {
  if (impl_->in_double) {
    impl_->run<double>(x, n, out);
  } else {
    impl_->run<float>(x, n, out);
  }
}

void FrontEnd::compute(const double* x, std::size_t n, double* out) const {
  check(x, n, impl_->double_limit);
  impl_->run<double>(x, n, out);
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
    span = static_cast<std::uint64_t>(p->span);
    limit = static_cast<std::size_t>(span) + 1 + capacity;
    buffer.resize(buffer_size(*p, capacity));
    scratch.resize(scratch_size(*p));
  }

  using Wide = Lanes<double, kVectorBytes / 4>::type;  // as wide as either kind of kernel wants
  static std::size_t buffer_size(const FrontEnd::Impl& p, std::size_t capacity) {
    return 2 * (static_cast<std::size_t>(p.span) + 1 + capacity);
  }
  static std::size_t scratch_size(const FrontEnd::Impl& p) {
    return p.in_double ? p.wide.scratch_size() : p.narrow->scratch_size();
  }
  static std::size_t bytes(const FrontEnd::Impl& p, std::size_t capacity) {
    return sizeof(Impl) + buffer_size(p, capacity) * sizeof(float) + scratch_size(p) * sizeof(Wide);
  }

  /// First sample that a row to come still needs; one more than its window for the pre-emphasis.
  std::uint64_t needed() const {
    const std::uint64_t start = rows * hop + static_cast<std::uint64_t>(p->inset);
    return start > 0 ? start - 1 : 0;
  }

  template <class S>
  std::size_t push(const S* x, std::size_t n) {
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

  /// `count` <= L rows, which must be ready.
  template <class T, int L>
  void rows_out(float* out, std::size_t count) {
    using V = typename Lanes<T, L>::type;
    const Kernel<T>& k = p->kernel<T>();
    const typename Kernel<T>::template Scratch<L> s(
        k, reinterpret_cast<typename Lanes<double, L>::type*>(scratch.data()));
    for (std::size_t l = 0; l < L; ++l) {
      const std::uint64_t start =
          (rows + std::min(l, count - 1)) * hop + static_cast<std::uint64_t>(p->inset);
      const float* from = buffer.data() + begin + (start - (samples - stored));
      p->cut(from, start == 0, element<double>(s.frame) + l, static_cast<std::size_t>(L));
    }
    const V energy = k.template mel<L>(p->o, s);
    const std::size_t width = k.template finish<L>(p->o, s, energy);
    const T* row = element<T>(s.row);
    for (std::size_t l = 0; l < count; ++l) {
      for (std::size_t c = 0; c < width; ++c) out[l * width + c] = static_cast<float>(row[c * L + l]);
    }
    rows += count;
    const std::uint64_t first = samples - stored;
    if (needed() > first) {
      const auto gone = static_cast<std::size_t>(std::min<std::uint64_t>(stored, needed() - first));
      begin += gone;
      stored -= gone;
    }
  }

  template <class T>
  std::size_t next(float* out, std::size_t max_rows) {
    constexpr int L = kVectorBytes / static_cast<int>(sizeof(T));
    const std::size_t total = std::min(max_rows, ready());
    for (std::size_t done = 0; done < total;) {
      const std::size_t count = std::min<std::size_t>(L, total - done);
      if (count == 1) {
        rows_out<T, 1>(out + done * p->columns, 1);
      } else {
        rows_out<T, L>(out + done * p->columns, count);
      }
      done += count;
    }
    return total;
  }

  std::shared_ptr<const FrontEnd> plan;
  const FrontEnd::Impl* p;
  std::uint64_t hop, span;
  std::size_t limit;          // samples that may wait
  std::vector<float> buffer;  // samples [samples - stored, samples) lie at `begin`
  std::size_t begin = 0, stored = 0;
  std::uint64_t rows = 0, samples = 0;
  std::vector<Wide> scratch;
};

std::size_t FrontEnd::stream_bytes(std::size_t capacity_samples) const noexcept {
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
