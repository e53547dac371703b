#include "affekt/filter.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <complex>
#include <new>
#include <numbers>
#include <sstream>
#include <string>
#include <utility>

#include "kernels/filter.hpp"
#include "kernels/scan.hpp"
#include "parallel.hpp"

namespace affekt {
namespace {

using Complex = std::complex<double>;
constexpr std::size_t kMostSections = 64;

template <class V>
std::string text(V value) {
  std::ostringstream s;
  s << value;
  return s.str();
}

void check_edge(const char* name, double value, double sample_rate) {
  if (!(value > 0) || !(value < sample_rate / 2)) {
    throw InvalidArgument(std::string(name) + ": expected Hz above 0 and below half the sample rate (" +
                          text(sample_rate / 2) + "), got " + text(value));
  }
}

void check_rate(double sample_rate) {
  if (!(sample_rate > 0) || !std::isfinite(sample_rate))
    throw InvalidArgument("sample_rate: expected a positive number of Hz, got " + text(sample_rate));
}

/// Zeros, poles and gain; of a conjugate pair both.
struct Roots {
  std::vector<Complex> zeros, poles;
  double gain = 1;
};

/// Analogue Butterworth with edges in the units of `low` and `high`.
Roots analogue(Band band, int order, double low, double high) {
  Roots prototype;
  for (int m = -order + 1; m < order; m += 2) {
    // The middle pole of an odd order is real; computed, it would carry an imaginary rounding error.
    const double angle = std::numbers::pi * m / (2.0 * order);
    prototype.poles.push_back(m == 0 ? Complex(-1) : -std::exp(Complex(0, angle)));
  }
  Roots r;
  if (band == Band::lowpass) {
    for (const Complex& p : prototype.poles) r.poles.push_back(p * high);
    r.gain = std::pow(high, order);
    return r;
  }
  if (band == Band::highpass) {
    Complex product = 1;
    for (const Complex& p : prototype.poles) {
      r.poles.push_back(low / p);
      r.zeros.push_back(0);
      product *= -p;
    }
    r.gain = (1.0 / product).real();
    return r;
  }
  const double width = high - low, centre = std::sqrt(low * high);
  Complex product = 1;
  for (const Complex& p : prototype.poles) {
    const Complex scaled = band == Band::bandpass ? p * (width / 2) : (width / 2) / p;
    const Complex root = std::sqrt(scaled * scaled - centre * centre);
    r.poles.push_back(scaled + root);
    r.poles.push_back(scaled - root);
    product *= -p;
    if (band == Band::bandpass) {
      r.zeros.push_back(0);
    } else {
      r.zeros.push_back(Complex(0, centre));
      r.zeros.push_back(Complex(0, -centre));
    }
  }
  r.gain = band == Band::bandpass ? std::pow(width, order) : (1.0 / product).real();
  return r;
}

/// s = 4 (z - 1) / (z + 1): a sample rate of 2.
Roots bilinear(const Roots& s) {
  Roots z;
  Complex up = 1, down = 1;
  for (const Complex& zero : s.zeros) z.zeros.push_back((4.0 + zero) / (4.0 - zero)), up *= 4.0 - zero;
  for (const Complex& pole : s.poles) z.poles.push_back((4.0 + pole) / (4.0 - pole)), down *= 4.0 - pole;
  z.zeros.resize(z.poles.size(), Complex(-1));
  z.gain = s.gain * (up / down).real();
  return z;
}

bool is_real(const Complex& c) { return c.imag() == 0; }

/// One root of every conjugate pair, then the real ones, each group by ascending real part.
std::vector<Complex> halves(const std::vector<Complex>& roots) {
  std::vector<Complex> upper, real;
  for (const Complex& c : roots) {
    if (std::abs(c.imag()) <= 100 * 2.2e-16 * std::abs(c)) {
      real.emplace_back(c.real());
    } else if (c.imag() > 0) {
      upper.push_back(c);
    }
  }
  const auto ascending = [](const Complex& a, const Complex& b) { return a.real() < b.real(); };
  std::stable_sort(upper.begin(), upper.end(), ascending);
  std::stable_sort(real.begin(), real.end(), ascending);
  upper.insert(upper.end(), real.begin(), real.end());
  return upper;
}

enum class Kind { any, real, complex };

/// Removes and returns the root of `kind` for which `distance` is least.
template <class F>
Complex take(std::vector<Complex>& roots, Kind kind, F&& distance) {
  std::size_t best = roots.size();
  for (std::size_t i = 0; i < roots.size(); ++i) {
    if (kind != Kind::any && is_real(roots[i]) != (kind == Kind::real)) continue;
    if (best == roots.size() || distance(roots[i]) < distance(roots[best])) best = i;
  }
  const Complex found = roots[best];
  roots.erase(roots.begin() + static_cast<std::ptrdiff_t>(best));
  return found;
}

std::pair<double, double> quadratic(const Complex& a, const Complex& b) {
  return {-(a + b).real(), (a * b).real()};
}

/// Sections from as many zeros as poles. The pole pair nearest to the unit circle takes the zeros nearest to
/// it and comes last, where it amplifies the rounding of nobody after it.
std::vector<Section> sections_of(Roots roots) {
  if (roots.poles.size() % 2 == 1) {
    roots.poles.emplace_back(0);
    roots.zeros.emplace_back(0);
  }
  std::vector<Complex> zeros = halves(roots.zeros), poles = halves(roots.poles);
  std::vector<Section> sections(roots.poles.size() / 2);
  const auto reals = [](const std::vector<Complex>& v) { return std::count_if(v.begin(), v.end(), is_real); };
  const auto off_circle = [](const Complex& c) { return std::abs(1 - std::abs(c)); };
  for (auto section = sections.rbegin(); section != sections.rend(); ++section) {
    const Complex p1 = take(poles, Kind::any, off_circle);
    const auto near = [&](const Complex& c) { return std::abs(c - p1); };
    const Complex p2 = is_real(p1) ? take(poles, Kind::real, off_circle) : std::conj(p1);
    // A last complex pole pair leaves the last two real zeros to the last two real poles.
    const bool spare = !is_real(p1) && reals(poles) == 1 && reals(zeros) == 1;
    const Complex z1 = take(zeros, spare ? Kind::complex : Kind::any, near);
    const Complex z2 = is_real(z1) ? take(zeros, Kind::real, near) : std::conj(z1);
    std::tie(section->b1, section->b2) = quadratic(z1, z2);
    std::tie(section->a1, section->a2) = quadratic(p1, p2);
  }
  sections[0].b0 *= roots.gain, sections[0].b1 *= roots.gain, sections[0].b2 *= roots.gain;
  return sections;
}

bool stable(const Section& s) { return std::abs(s.a2) < 1 && std::abs(s.a1) < 1 + s.a2; }

}  // namespace

std::vector<Section> butterworth(Band band, int order, double low, double high, double sample_rate) {
  check_rate(sample_rate);
  if (order < 1 || order > 32)
    throw InvalidArgument("order: expected an integer from 1 to 32, got " + std::to_string(order));
  const bool two = band == Band::bandpass || band == Band::bandstop;
  if (band != Band::lowpass) check_edge(two ? "low" : "frequency", low, sample_rate);
  if (band != Band::highpass) check_edge(two ? "high" : "frequency", high, sample_rate);
  if (two && !(low < high))
    throw InvalidArgument("low: expected less than high (" + text(high) + " Hz), got " + text(low));
  const auto warp = [&](double f) { return 4 * std::tan(std::numbers::pi * (2 * f / sample_rate) / 2); };
  const std::vector<Section> sections = sections_of(bilinear(analogue(band, order, warp(low), warp(high))));
  for (const Section& s : sections) {
    if (!stable(s) || !std::isfinite(s.b0 + s.b1 + s.b2)) {
      throw InvalidArgument(
          "order: expected one whose poles stay inside the unit circle for these edges, got " +
          std::to_string(order) + "; take a lower order or a wider band");
    }
  }
  return sections;
}

std::vector<Section> notch(double frequency, double quality, double sample_rate) {
  check_rate(sample_rate);
  check_edge("frequency", frequency, sample_rate);
  if (!(quality > 0) || !std::isfinite(quality))
    throw InvalidArgument("quality: expected a positive number, got " + text(quality));
  const double centre = 2 * std::numbers::pi * frequency / sample_rate;
  const double gain = 1 / (1 + std::tan(centre / quality / 2));
  const double a1 = -2 * gain * std::cos(centre);
  const Section s{gain, a1, gain, a1, 2 * gain - 1};
  if (!stable(s)) {
    throw InvalidArgument(
        "quality: expected a notch narrower than half the sample rate and wide enough for double, "
        "got " +
        text(quality));
  }
  return {s};
}

Filter::Filter(const std::vector<Section>& sections) : sections_(sections) {
  active_isa();  // an AFFEKT_ISA that this CPU lacks throws here; streams may not
  if (sections.empty() || sections.size() > kMostSections)
    throw InvalidArgument("sections: expected 1 to 64 of them, got " + std::to_string(sections.size()));
  std::size_t no_b2 = 0, no_a2 = 0;
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const Section& s = sections[i];
    for (const double c : {s.b0, s.b1, s.b2, s.a1, s.a2}) {
      if (!(std::abs(c) <= 1e6)) {
        throw InvalidArgument("sections: expected finite coefficients of at most 1e6, got " + text(c) +
                              " in section " + std::to_string(i));
      }
    }
    if (!stable(s)) {
      throw InvalidArgument("sections: expected poles inside the unit circle, got a1 = " + text(s.a1) +
                            ", a2 = " + text(s.a2) + " in section " + std::to_string(i));
    }
    no_b2 += s.b2 == 0;
    no_a2 += s.a2 == 0;
    const double gain = (s.b0 + s.b1 + s.b2) / (1 + s.a1 + s.a2);
    coefficients_.insert(coefficients_.end(), {s.b0, s.b1, s.b2, -s.a1, -s.a2, gain});
  }
  padding_ = 3 * (2 * sections.size() + 1 - std::min(no_b2, no_a2));
}

std::size_t Filter::first_unusable(const float* x, std::size_t n) {
  return scan().floats(x, n, static_cast<float>(limit(x)));
}
std::size_t Filter::first_unusable(const double* x, std::size_t n) { return scan().doubles(x, n, limit(x)); }

namespace {

const auto& kernels_for(const float*) { return filter().floats; }
const auto& kernels_for(const double*) { return filter().doubles; }
const auto& kernels_for(const std::int16_t*) { return filter().pcm; }

template <class S>
S limit_for(const S* x) {
  if constexpr (std::is_same_v<S, std::int16_t>) {
    return 0;  // every value is usable
  } else {
    return static_cast<S>(Filter::limit(x));
  }
}

/// The state in which the signal has been x0 for ever.
void settle(const Cascade& cascade, double x0, double* state) noexcept {
  state[0] = state[1] = x0;
  for (std::size_t s = 0; s < cascade.sections; ++s) {
    x0 *= cascade.coefficients[s * kCascadeStride + 5];
    state[2 * s + 2] = state[2 * s + 3] = x0;
  }
}

template <class S>
double as_double(S x) {
  return std::is_same_v<S, std::int16_t> ? x * (1.0 / 32768) : static_cast<double>(x);
}

/// body(first row, rows, thread-local doubles) for groups of rows that one kernel call takes; false if any
/// body gave false.
template <class F>
bool for_groups(std::size_t rows, std::size_t doubles, F&& body) {
  const std::size_t lanes = filter().lanes, groups = (rows + lanes - 1) / lanes;
  std::atomic<bool> good{true}, no_memory{false};
  parallel_for(groups, 1, [&](std::size_t begin, std::size_t end) noexcept {
    constexpr std::align_val_t line{64};
    auto* work =
        static_cast<double*>(::operator new(doubles * sizeof(double), line, std::nothrow));  // left unset
    if (work == nullptr) {
      no_memory = true;
      return;
    }
    for (std::size_t g = begin; g < end; ++g) {
      const std::size_t first = g * lanes;
      if (!body(first, std::min(lanes, rows - first), work)) good = false;
    }
    ::operator delete(work, line);
  });
  if (no_memory) throw std::bad_alloc();
  return good;
}

}  // namespace

template <class S, class T>
bool Filter::causal_rows(const S* const* x, T* const* y, std::size_t rows, std::size_t n, Start start) const {
  if (n == 0) return true;
  const Cascade cascade{coefficients_.data(), sections_.size()};
  const auto& kernels = kernels_for(static_cast<const S*>(nullptr));
  const S most = limit_for(static_cast<const S*>(nullptr));
  const std::size_t depth = state_doubles();
  return for_groups(rows, filter().lanes * depth, [&](std::size_t first, std::size_t count, double* state) {
    // Not settled on silence: a negative gain would make that -0.0, and a stream begins with 0.0.
    std::fill_n(state, count * depth, 0.0);
    if (start == Start::settled)
      for (std::size_t r = 0; r < count; ++r) settle(cascade, as_double(x[first + r][0]), state + r * depth);
    return kernels.causal(cascade, x + first, y + first, count, n, state, most);
  });
}

template <class S, class T>
bool Filter::zero_phase_rows(const S* const* x, T* const* y, std::size_t rows, std::size_t n) const {
  if (n == 0) return true;
  if (n <= padding_) {
    throw InvalidArgument("samples: expected more than " + std::to_string(padding_) +
                          " in time for this filter without phase, got " + std::to_string(n));
  }
  const Cascade cascade{coefficients_.data(), sections_.size()};
  const auto& kernels = kernels_for(static_cast<const S*>(nullptr));
  const S most = limit_for(static_cast<const S*>(nullptr));
  return for_groups(rows, (n + 2 * padding_) * std::bit_ceil(std::min(rows, filter().lanes)),
                    [&](std::size_t first, std::size_t count, double* work) {
                      return kernels.zero_phase(cascade, x + first, y + first, count, n, padding_, work,
                                                most);
                    });
}

bool Filter::causal(const float* const* x, float* const* y, std::size_t rows, std::size_t n,
                    Start start) const {
  return causal_rows(x, y, rows, n, start);
}
bool Filter::causal(const double* const* x, double* const* y, std::size_t rows, std::size_t n,
                    Start start) const {
  return causal_rows(x, y, rows, n, start);
}
bool Filter::causal(const std::int16_t* const* x, float* const* y, std::size_t rows, std::size_t n,
                    Start start) const {
  return causal_rows(x, y, rows, n, start);
}
bool Filter::zero_phase(const float* const* x, float* const* y, std::size_t rows, std::size_t n) const {
  return zero_phase_rows(x, y, rows, n);
}
bool Filter::zero_phase(const double* const* x, double* const* y, std::size_t rows, std::size_t n) const {
  return zero_phase_rows(x, y, rows, n);
}
bool Filter::zero_phase(const std::int16_t* const* x, float* const* y, std::size_t rows,
                        std::size_t n) const {
  return zero_phase_rows(x, y, rows, n);
}

FilterStream::FilterStream(std::shared_ptr<const Filter> filter, std::size_t channels, Start start)
    : filter_(std::move(filter)), channels_(channels), start_(start) {
  if (filter_ == nullptr) throw InvalidArgument("filter: expected one, got none");
  if (channels < 1 || channels > (1u << 20))
    throw InvalidArgument("channels: expected 1 to 1048576, got " + std::to_string(channels));
  state_.assign(channels * filter_->state_doubles(), 0.0);
}

void FilterStream::reset() noexcept {
  std::fill(state_.begin(), state_.end(), 0.0);
  samples_ = 0;
}

template <class S, class T>
bool FilterStream::push_rows(const S* const* x, T* const* y, std::size_t n) noexcept {
  for (std::size_t c = 0; c < channels_; ++c)
    if (Filter::first_unusable(x[c], n) != n) return false;
  if (n == 0) return true;
  const Cascade cascade{filter_->coefficients_.data(), filter_->sections_.size()};
  const std::size_t depth = filter_->state_doubles(), lanes = affekt::filter().lanes;
  if (samples_ == 0 && start_ == Start::settled)
    for (std::size_t c = 0; c < channels_; ++c) settle(cascade, as_double(x[c][0]), &state_[c * depth]);
  for (std::size_t c = 0; c < channels_; c += lanes) {
    kernels_for(static_cast<const S*>(nullptr))
        .causal(cascade, x + c, y + c, std::min(lanes, channels_ - c), n, &state_[c * depth],
                limit_for(static_cast<const S*>(nullptr)));
  }
  samples_ += n;
  return true;
}

bool FilterStream::push(const float* const* x, float* const* y, std::size_t n) noexcept {
  return push_rows(x, y, n);
}
bool FilterStream::push(const double* const* x, double* const* y, std::size_t n) noexcept {
  return push_rows(x, y, n);
}
bool FilterStream::push(const std::int16_t* const* x, float* const* y, std::size_t n) noexcept {
  return push_rows(x, y, n);
}

namespace {

template <class T, class F>
bool reference(F&& kernel, const T* const* x, T* const* y, const bool* bad, std::size_t channels,
               std::size_t n) {
  std::vector<std::size_t> good;
  for (std::size_t c = 0; c < channels; ++c)
    if (bad == nullptr || !bad[c]) good.push_back(c);
  if (good.empty()) {
    throw InvalidArgument("bad: expected at least one channel that is not bad, got " +
                          std::to_string(channels) + " channels, all bad");
  }
  std::atomic<bool> fine{true};
  parallel_for(n, 16384, [&](std::size_t begin, std::size_t end) noexcept {
    if (!kernel(x, y, channels, good.data(), good.size(), begin, end,
                limit_for(static_cast<const T*>(nullptr))))
      fine = false;
  });
  return fine;
}

}  // namespace

bool average_reference(const float* const* x, float* const* y, const bool* bad, std::size_t channels,
                       std::size_t n) {
  return reference(filter().reference_floats, x, y, bad, channels, n);
}
bool average_reference(const double* const* x, double* const* y, const bool* bad, std::size_t channels,
                       std::size_t n) {
  return reference(filter().reference_doubles, x, y, bad, channels, n);
}

}  // namespace affekt
