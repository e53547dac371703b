#include "affekt/resampler.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <numbers>
#include <numeric>
#include <sstream>
#include <string>
#include <utility>

#include "kernels/resampler.hpp"
#include "kernels/scan.hpp"
#include "parallel.hpp"

namespace affekt {
namespace {

constexpr std::size_t kBlock = 4096;       // input samples at a time
constexpr std::uint64_t kMostRows = 1024;  // phases with a row each
constexpr double kMargin = 15;             // dB of the halvings, so that their errors hardly add
constexpr std::size_t kLeastHeld = 8192, kMostHeld = 32768;  // samples that wait for a stage
constexpr std::size_t kInterpolated = 2048;  // rows otherwise: linear interpolation stays below -130 dB

void check(const char* name, double value, double low, double high) {
  if (value >= low && value <= high) return;
  std::ostringstream what;
  what << name << ": expected " << low << " to " << high << ", got " << value;
  throw InvalidArgument(what.str());
}

/// The fraction with terms up to 2^31 that is nearest to `value`, by its continued fraction.
std::pair<std::uint64_t, std::uint64_t> fraction_of(double value) {
  std::uint64_t p0 = 0, q0 = 1, p1 = 1, q1 = 0;
  double rest = value;
  for (int i = 0; i < 64; ++i) {
    const double whole = std::floor(rest);
    if (whole > 2147483648.0) break;
    const auto a = static_cast<std::uint64_t>(whole);
    const std::uint64_t p = a * p1 + p0, q = a * q1 + q0;
    if (p > (1ull << 31) || q > (1ull << 31)) break;
    p0 = p1, q0 = q1, p1 = p, q1 = q;
    if (std::abs(static_cast<double>(p) / static_cast<double>(q) - value) <= value * 2.3e-16) break;
    rest = 1 / (rest - whole);
  }
  return {p1, q1};
}

/// Modified Bessel function of order 0.
double bessel(double x) {
  double term = 1, sum = 1;
  for (int k = 1; term > 1e-17 * sum; ++k) {
    term *= (x / (2 * k)) * (x / (2 * k));
    sum += term;
  }
  return sum;
}

/// Kaiser's window and his rules for its shape and length.
struct Kaiser {
  double beta, scale;
  explicit Kaiser(double rejection)
      : beta(rejection > 50 ? 0.1102 * (rejection - 8.7)
                            : 0.5842 * std::pow(rejection - 21, 0.4) + 0.07886 * (rejection - 21)),
        scale(1 / bessel(beta)) {}
  double operator()(double x) const {  // x in [-1, 1]
    return std::abs(x) >= 1 ? 0.0 : bessel(beta * std::sqrt(1 - x * x)) * scale;
  }
  /// Taps for a transition of `width`, in parts of the sample rate.
  static double taps(double rejection, double width) {
    return (rejection - 7.95) / (2.285 * 2 * std::numbers::pi * width) + 1;
  }
};

double sinc(double x) { return x == 0 ? 1.0 : std::sin(std::numbers::pi * x) / (std::numbers::pi * x); }

AlignedVector<float> halving_taps(const Kaiser& window, double rejection, double width) {
  const auto least = static_cast<std::size_t>(std::ceil((Kaiser::taps(rejection, width) + 1) / 4));
  const std::size_t pairs = (least + kFoldsMultiple - 1) / kFoldsMultiple * kFoldsMultiple;
  std::vector<double> taps(pairs);
  for (std::size_t k = 0; k < pairs; ++k) {
    const auto at = static_cast<double>(2 * k + 1);
    taps[k] = 0.5 * sinc(at / 2) * window(at / static_cast<double>(2 * pairs));
  }
  const double sum = std::accumulate(taps.begin(), taps.end(), 0.0);
  AlignedVector<float> out(2 * pairs);
  for (std::size_t k = 0; k < pairs; ++k)
    out[pairs + k] = static_cast<float>(taps[k] * 0.25 / sum);  // 1 at 0 Hz
  return out;
}

template <class S>
Mix<S> mixer(const ResamplerKernels& kernels) {
  if constexpr (std::is_same_v<S, float>) return kernels.mix_floats;
  if constexpr (std::is_same_v<S, double>) return kernels.mix_doubles;
  if constexpr (std::is_same_v<S, std::int16_t>) return kernels.mix_pcm;
}

}  // namespace

Resampler::Resampler(const ResamplerOptions& options) : options_(options) {
  active_isa();  // an AFFEKT_ISA that this CPU lacks throws here; streams may not
  check("input_rate", options.input_rate, 1e-3, 1e9);
  check("output_rate", options.output_rate, options.input_rate / 256, options.input_rate * 256);
  check("passband", options.passband, 0.5, 0.98);
  check("rejection", options.rejection, 40, 140);
  std::tie(up_, down_) = fraction_of(options.output_rate / options.input_rate);

  // Half the rate as long as the transition, from the output's band to what would alias into it, is wide.
  const Kaiser finer(options.rejection + kMargin);
  double rate = options.input_rate;
  const double wanted = options.output_rate;
  std::uint64_t phases = up_, step = down_;
  while (rate >= 2.5 * wanted) {
    halvings_.push_back(halving_taps(finer, options.rejection + kMargin, (rate / 2 - wanted) / rate));
    rate /= 2;
    phases *= 2;
  }
  const std::uint64_t common = std::gcd(phases, step);
  phases /= common, step /= common;

  const double nyquist = std::min(rate, wanted) / 2;
  const double width = (1 - options.passband) * nyquist / rate;
  const double cutoff = (1 + options.passband) * nyquist / rate;  // in parts of half the rate
  if (phases <= 2) {
    stages_.push_back(make_stage(phases, step, options.rejection, width, cutoff));
    return;
  }
  // The sharp filter once per sample, folded and shared by all results; then what is left to do is wide.
  const std::uint64_t finer_rate = rate >= 1.2 * wanted ? 1 : 2;
  stages_.push_back(make_stage(finer_rate, 1, options.rejection, width, cutoff));
  rate *= static_cast<double>(finer_rate);
  const std::uint64_t shared = std::gcd(phases, finer_rate);
  stages_.push_back(make_stage(phases / shared, step * (finer_rate / shared), options.rejection + kMargin,
                               1 - 2 * nyquist / rate, 1));
}

Resampler::Stage Resampler::make_stage(std::uint64_t phases, std::uint64_t step, double rejection,
                                       double width, double cutoff) {
  Stage s;
  s.phases = phases, s.step = step;
  const auto least = static_cast<std::size_t>(std::ceil(Kaiser::taps(rejection, width)));
  s.taps = (least + kTapsMultiple - 1) / kTapsMultiple * kTapsMultiple;
  // The kernel takes a table with a row for every phase as exact.
  const bool exact = phases <= kMostRows || phases == kInterpolated;
  s.rows = exact ? static_cast<std::size_t>(phases) : kInterpolated;
  s.stride = s.taps + (exact ? kRowGap : 0);
  const std::size_t all = s.rows + (exact ? 0 : 1), middle = s.taps / 2;
  s.table.resize(kRowGap + all * s.stride);
  const Kaiser window(rejection);
  const auto half = static_cast<double>(middle);
  std::vector<double> row(s.taps);
  for (std::size_t r = 0; r < all; ++r) {
    const double phase = static_cast<double>(r) / static_cast<double>(s.rows);
    for (std::size_t k = 0; k < s.taps; ++k) {
      const double t = half - 1 - static_cast<double>(k) + phase;
      row[k] = cutoff * sinc(cutoff * t) * window(t / half);
    }
    const double sum = std::accumulate(row.begin(), row.end(), 0.0);
    float* to = s.table.data() + kRowGap + r * s.stride;
    for (std::size_t k = 0; k < s.taps; ++k) to[k] = static_cast<float>(row[k] / sum);
  }
  if (phases > 2 || s.taps > kMostFolded) return s;
  // Row 0 is symmetric about a tap, which is folded onto itself, and row 1/2 about the middle.
  const auto by = static_cast<std::size_t>(step);
  s.folds = (middle + by * kFoldsMultiple - 1) / (by * kFoldsMultiple) * kFoldsMultiple;
  s.folded.resize(s.rows * by * s.folds);
  for (std::size_t r = 0; r < s.rows; ++r) {
    for (std::size_t k = 0; k < middle; ++k) {
      const float c = s.table[kRowGap + r * s.stride + middle - 1 - k];
      s.folded[(r * by + k % by) * s.folds + k / by] = r == 0 && k == 0 ? c / 2 : c;
    }
  }
  return s;
}

double Resampler::Stage::multiplications() const noexcept {
  if (folds > 0) return static_cast<double>(step) * static_cast<double>(folds);
  return static_cast<double>(taps) * (rows == phases ? 1 : 2);
}

std::size_t Resampler::output_length(std::size_t n) const noexcept {
  return n / down_ * up_ + (n % down_ * up_ + down_ - 1) / down_;
}

std::size_t Resampler::latency_samples() const noexcept {
  std::size_t samples = 0;
  for (std::size_t i = stages_.size(); i-- > 0;) {
    const Stage& s = stages_[i];
    samples = s.taps / 2 + static_cast<std::size_t>((samples * s.step + s.phases - 1) / s.phases);
  }
  for (std::size_t h = halvings_.size(); h-- > 0;) samples = 2 * samples + halvings_[h].size();
  return samples;
}

double Resampler::multiplications() const noexcept {
  double count = 0, rate = 1;  // of the stage's results, over that of the output
  for (std::size_t i = stages_.size(); i-- > 0;) {
    const Stage& s = stages_[i];
    count += rate * s.multiplications();
    rate *= static_cast<double>(s.step) / static_cast<double>(s.phases);
  }
  for (std::size_t h = halvings_.size(); h-- > 0; rate *= 2)
    count += rate * static_cast<double>(halvings_[h].size() / 2 + 1);
  return count;
}

std::size_t Resampler::first_unusable(const float* x, std::size_t n) { return scan().floats(x, n, 1e30f); }
std::size_t Resampler::first_unusable(const double* x, std::size_t n) { return scan().doubles(x, n, 1e30); }

std::size_t Resampler::Stage::room() const noexcept {
  const std::uint64_t period = step * (2 * taps / step + 1) * kMostPeriods;
  return kBlock + taps + static_cast<std::size_t>(std::clamp<std::uint64_t>(period, kLeastHeld, kMostHeld));
}

std::size_t Resampler::stream_bytes() const noexcept {  // as ResamplerStream allocates
  std::size_t floats = kBlock, most = kBlock;
  for (const auto& taps : halvings_) {
    most = most / 2 + 1;
    floats += 3 * most + 3 * (taps.size() / 2) + 4 + kBefore + kAfter;
  }
  for (const Stage& stage : stages_) floats += kBefore + stage.room() + kAfter;
  return floats * sizeof(float);
}

template <class S>
void Resampler::compute_signals(const S* const* x, std::size_t signals, std::size_t n,
                                const std::vector<float>& mix, float* const* y) const {
  // The plan outlives the call, so its streams need not own it.
  const std::shared_ptr<const Resampler> plan(std::shared_ptr<const Resampler>(), this);
  if (signals == 0) return;
  { const ResamplerStream checked(plan, mix); }
  std::atomic<bool> no_memory{false};
  parallel_for(signals, 1, [&](std::size_t begin, std::size_t end) noexcept {
    try {
      ResamplerStream stream(plan, mix);
      for (std::size_t s = begin; s < end; ++s) {
        const std::size_t given = stream.push(x + s * mix.size(), n, y[s]);
        stream.finish(y[s] + given);
        stream.reset();
      }
    } catch (const std::bad_alloc&) {
      no_memory = true;
    }
  });
  if (no_memory) throw std::bad_alloc();
}

void Resampler::compute(const float* const* x, std::size_t signals, std::size_t n,
                        const std::vector<float>& mix, float* const* y) const {
  compute_signals(x, signals, n, mix, y);
}
void Resampler::compute(const double* const* x, std::size_t signals, std::size_t n,
                        const std::vector<float>& mix, float* const* y) const {
  compute_signals(x, signals, n, mix, y);
}
void Resampler::compute(const std::int16_t* const* x, std::size_t signals, std::size_t n,
                        const std::vector<float>& mix, float* const* y) const {
  compute_signals(x, signals, n, mix, y);
}

ResamplerStream::ResamplerStream(std::shared_ptr<const Resampler> plan, const std::vector<float>& mix)
    : plan_(std::move(plan)), channels_(mix.size()), block_(kBlock) {
  if (plan_.get() == nullptr) throw InvalidArgument("plan: expected one, got none");
  if (mix.empty() || mix.size() > 1024)
    throw InvalidArgument("mix: expected 1 to 1024 weights, got " + std::to_string(mix.size()));
  double sum = 0;  // beyond 1e6, the sum of usable samples could be infinite
  for (std::size_t c = 0; c < mix.size(); ++c) {
    sum += std::abs(static_cast<double>(mix[c]));
    if (!(sum <= 1e6)) {
      throw InvalidArgument("mix: expected finite weights of at most 1e6 in sum, got " +
                            std::to_string(mix[c]) + " at index " + std::to_string(c));
    }
    if (mix[c] != 0) used_.push_back(static_cast<std::uint32_t>(c)), weights_.push_back(mix[c]);
  }
  if (used_.empty()) used_ = {0}, weights_ = {0};
  std::size_t most = kBlock;
  for (const auto& taps : plan_->halvings_) {
    const std::size_t pairs = taps.size() / 2;
    most = most / 2 + 1;
    Halving h;
    h.even.resize(most + pairs + 2);
    h.odd.resize(kBefore + most + 2 * pairs + 2 + kAfter);
    h.result.resize(most);
    halvings_.push_back(std::move(h));
  }
  // As many samples as the kernel takes at once, and what results are left over wait for.
  for (const auto& stage : plan_->stages_) {
    Held h;
    h.room = stage.room();
    h.samples.resize(kBefore + h.room + kAfter);
    held_.push_back(std::move(h));
  }
  reset();
}

void ResamplerStream::reset() noexcept {
  // Silence before the start, so that the first result lies at the first sample.
  for (std::size_t h = 0; h < halvings_.size(); ++h) {
    halvings_[h].evens = 0;
    halvings_[h].odds = plan_->halvings_[h].size() / 2;
    halvings_[h].odd_next = false;
    std::fill(halvings_[h].odd.begin(), halvings_[h].odd.end(), 0.0f);
  }
  for (std::size_t i = 0; i < held_.size(); ++i) {
    Held& h = held_[i];
    std::fill(h.samples.begin(), h.samples.end(), 0.0f);
    h.filled = plan_->stages_[i].taps / 2 - 1;
    h.index = h.fraction = 0;
  }
  samples_ = given_ = 0;
  if (held_.size() + halvings_.size() == 1) return;
  // What a filter makes of the first samples begins before them, and the filter after it needs that: start
  // early enough, with zeros, and pass over what the last filter would make of them.
  const std::size_t least = plan_->latency_samples() >> halvings_.size(), early = least + 1;
  held_.back().index = early * (held_.size() > 1 ? plan_->stages_[0].phases : 1);
  if (halvings_.empty()) {
    held_[0].filled += early;
    return;
  }
  std::fill(block_.begin(), block_.end(), 0.0f);
  for (std::size_t left = early << halvings_.size(); left > 0;) {
    const std::size_t now = std::min(left, kBlock);
    halve(block_.data(), now, {});
    left -= now;
  }
}

/// `n` samples through the halvings to the input of the last stage.
void ResamplerStream::halve(const float* x, std::size_t n, const Lines& ahead) noexcept {
  const ResamplerKernels& kernels = resampler();
  for (std::size_t s = 0; s < halvings_.size(); ++s) {
    Halving& h = halvings_[s];
    float* odd = h.odd.data() + kBefore;
    const AlignedVector<float>& taps = plan_->halvings_[s];
    const std::size_t pairs = taps.size() / 2;
    if (n > 0 && h.odd_next) {
      odd[h.odds++] = *x++;
      --n;
      h.odd_next = false;
    }
    kernels.deal(x, n, h.even.data() + h.evens, odd + h.odds);
    h.evens += (n + 1) / 2;
    h.odds += n / 2;
    if (n > 0) h.odd_next = n % 2 == 1;
    const std::size_t ready = h.odds < 2 * pairs ? 0 : std::min(h.evens, h.odds - 2 * pairs + 1);
    const bool last = s + 1 == halvings_.size();
    float* to = last ? held_[0].samples.data() + kBefore + held_[0].filled : h.result.data();
    kernels.halve(taps.data(), pairs, h.even.data(), odd, ready, to, s == 0 ? ahead : Lines{});
    h.evens -= ready;
    h.odds -= ready;
    std::memmove(h.even.data(), h.even.data() + ready, h.evens * sizeof(float));
    std::memmove(odd, odd + ready, h.odds * sizeof(float));
    x = to;
    n = ready;
  }
  held_[0].filled += n;
}

/// The results whose samples are there, at most `most`; without `rest`, those left over from large blocks
/// wait as long as there is room.
std::size_t ResamplerStream::drain(float* y, std::size_t most, bool rest, const Lines& ahead) noexcept {
  const ResamplerKernels& kernels = resampler();
  std::size_t given = 0;
  for (bool again = true; again;) {
    again = false;
    for (std::size_t i = 0; i < held_.size(); ++i) {
      const Resampler::Stage& s = plan_->stages_[i];
      const PhaseTable table{s.table.data() + kRowGap,
                             s.rows,
                             s.taps,
                             s.stride,
                             s.folds > 0 ? s.folded.data() : nullptr,
                             s.folds,
                             s.phases,
                             s.step};
      Held& h = held_[i];
      Held* next = i + 1 < held_.size() ? &held_[i + 1] : nullptr;
      float* x = h.samples.data() + kBefore;
      float* to = next != nullptr ? next->samples.data() + kBefore + next->filled : y + given;
      const std::size_t room = next != nullptr ? next->room - next->filled : most - given;
      const Lines soon = i == 0 && !again ? ahead : Lines{};
      std::size_t made = kernels.phases(table, x, h.filled, h.index, h.fraction, to, room, rest, soon);
      if (made == 0 && h.room - h.filled < kBlock)
        made = kernels.phases(table, x, h.filled, h.index, h.fraction, to, room, true, {});
      const std::size_t done = std::min<std::size_t>(h.index, h.filled);
      h.filled -= done;
      h.index -= done;
      std::memmove(x, x + done, h.filled * sizeof(float));
      if (next != nullptr) {
        next->filled += made;
        again = made > 0 && made == room;
      } else {
        given += made;
      }
    }
  }
  given_ += given;
  return given;
}

template <class S>
std::size_t ResamplerStream::push_mixed(const S* const* x, std::size_t n, float* y) noexcept {
  const ResamplerKernels& kernels = resampler();
  Held& first = held_[0];
  // Samples from t on, as many as are taken before the next results; of the first channel alone.
  const auto soon = [&](std::size_t t, std::size_t count) noexcept {
    const std::size_t begin = std::min(t, n);
    return Lines{x[used_[0]] + begin, std::min(count, n - begin) * sizeof(S)};
  };
  std::size_t made = 0;
  for (std::size_t t = 0; t < n; t += kBlock) {
    const std::size_t m = std::min(kBlock, n - t);
    if (first.filled + m > first.room)
      made += drain(y + made, most(0), false, halvings_.empty() ? soon(t, first.filled) : Lines{});
    float* to = halvings_.empty() ? first.samples.data() + kBefore + first.filled : block_.data();
    mixer<S>(kernels)(x, used_.data(), weights_.data(), used_.size(), t, m, to);
    samples_ += m;
    if (halvings_.empty()) {
      first.filled += m;
    } else {
      halve(to, m, soon(t + m, kBlock));
    }
  }
  return made + drain(y + made, most(0), true, {});
}

std::size_t ResamplerStream::push(const float* const* x, std::size_t n, float* y) noexcept {
  return push_mixed(x, n, y);
}
std::size_t ResamplerStream::push(const double* const* x, std::size_t n, float* y) noexcept {
  return push_mixed(x, n, y);
}
std::size_t ResamplerStream::push(const std::int16_t* const* x, std::size_t n, float* y) noexcept {
  return push_mixed(x, n, y);
}

std::size_t ResamplerStream::finish(float* y) noexcept {
  std::size_t made = 0;
  Held& first = held_[0];
  const std::size_t n = std::min(kBlock, plan_->latency_samples() + 1);
  while (most(0) > 0) {
    float* to = halvings_.empty() ? first.samples.data() + kBefore + first.filled : block_.data();
    std::fill_n(to, n, 0.0f);
    if (halvings_.empty()) {
      first.filled += n;
    } else {
      halve(to, n, {});
    }
    made += drain(y + made, most(0), true, {});
  }
  return made;
}

}  // namespace affekt
