// Spectra of recordings, by Welch's method or frame by frame, of any options: an error with a message, or
// finite values that a signal has alone and in company; finite gradients, none in missing samples.
#include "affekt/bandpower.hpp"
#include "affekt/bandpower_gradient.hpp"
#include "affekt/spectrogram.hpp"
#include "fuzz.hpp"

using affekt::fuzz::Input;

namespace {

/// Signals of one length: one, and turned copies of it.
template <class T>
std::vector<std::vector<T>> signals(Input& input, std::size_t most) {
  std::vector<std::vector<T>> x{affekt::fuzz::signal<T>(input, most)};
  const std::size_t n = x[0].size();
  for (auto more = input.ConsumeIntegralInRange<std::size_t>(0, 18); more > 0; --more) {
    x.push_back(x.back());
    std::rotate(x.back().begin(), x.back().begin() + static_cast<std::ptrdiff_t>(n == 0 ? 0 : 7 % n),
                x.back().end());
  }
  return x;
}

template <class T>
void welch(Input& input, const affekt::Welch& plan) {
  auto x = signals<T>(input, 6000);
  const std::size_t rows = x.size(), n = x[0].size(), bins = plan.bins();
  for (int gaps = input.ConsumeIntegralInRange<int>(0, 3); gaps > 0 && n > 0; --gaps) {
    x[input.ConsumeIntegralInRange<std::size_t>(0, rows - 1)]
     [input.ConsumeIntegralInRange<std::size_t>(0, n - 1)] = std::numeric_limits<T>::quiet_NaN();
  }
  std::vector<const T*> from;
  for (const auto& row : x) from.push_back(row.data());
  std::vector<T> all(rows * bins), one(bins);
  std::vector<std::uint64_t> used(rows);
  plan.compute(from.data(), rows, n, all.data(), used.data());
  for (std::size_t r = 0; r < rows; ++r) {
    std::uint64_t alone = 0;
    plan.compute(&from[r], 1, n, one.data(), &alone);
    REQUIRE(alone == used[r] && alone <= plan.segments(n));
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(r * bins);
    REQUIRE(affekt::fuzz::same_bits(std::vector<T>(begin, begin + static_cast<std::ptrdiff_t>(bins)), one));
    for (const T v : one) REQUIRE(used[r] > 0 ? std::isfinite(v) && v >= 0 : std::isnan(v));
  }
  const std::vector<T> ones(bins, T(1));
  std::vector<T> gradient(n + 1);
  affekt::WelchGradient(plan.options()).compute(from[0], n, ones.data(), gradient.data());
  for (std::size_t t = 0; t < n; ++t)
    REQUIRE(std::isfinite(gradient[t]) && !(std::isnan(x[0][t]) && gradient[t] != 0));
  const std::string text = plan.options().to_json();
  REQUIRE(affekt::WelchOptions::from_json(text).to_json() == text);
}

template <class S, class T>
void spectrogram(Input& input, const affekt::Spectrogram& plan) {
  const auto x = signals<S>(input, 3000);
  const std::size_t width = plan.bins() * 2;
  std::vector<const S*> from;
  std::vector<std::size_t> lengths;
  std::vector<std::vector<T>> powers, spectra;
  std::vector<T*> to_powers, to_spectra;
  for (const auto& row : x) {
    const std::size_t n = input.ConsumeIntegralInRange<std::size_t>(0, row.size());
    from.push_back(row.data()), lengths.push_back(n);
    powers.emplace_back(plan.frames(n) * width / 2), spectra.emplace_back(plan.frames(n) * width);
  }
  for (std::size_t i = 0; i < x.size(); ++i)
    to_powers.push_back(powers[i].data()), to_spectra.push_back(spectra[i].data());
  plan.powers(from.data(), lengths.data(), to_powers.data(), x.size());
  plan.spectra(from.data(), lengths.data(), to_spectra.data(), x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::vector<T> power(powers[i].size()), spectrum(spectra[i].size());
    T* to = power.data();
    plan.powers(&from[i], &lengths[i], &to, 1);
    to = spectrum.data();
    plan.spectra(&from[i], &lengths[i], &to, 1);
    REQUIRE(affekt::fuzz::same_bits(power, powers[i]) && affekt::fuzz::same_bits(spectrum, spectra[i]));
    for (const T v : power) REQUIRE(std::isfinite(v) && v >= 0);
    for (const T v : spectrum) REQUIRE(std::isfinite(v));
  }
}

void any_welch(Input& input) {
  affekt::WelchOptions o;
  o.n_per_seg = input.ConsumeIntegralInRange<std::size_t>(0, 300);
  o.n_overlap = input.ConsumeIntegralInRange<std::size_t>(0, 300);
  o.n_fft = input.ConsumeBool() ? o.n_per_seg : input.ConsumeIntegralInRange<std::size_t>(0, 600);
  o.window = static_cast<affekt::Window>(input.ConsumeIntegralInRange<int>(0, 4));
  for (auto own = input.ConsumeBool() ? 0 : o.n_per_seg; own > 0; --own)
    o.taper.push_back(input.ConsumeFloatingPointInRange<double>(-1, 1));
  o.detrend = static_cast<affekt::Detrend>(input.ConsumeIntegralInRange<int>(0, 2));
  o.scaling = static_cast<affekt::Scaling>(input.ConsumeIntegralInRange<int>(0, 1));
  o.average = static_cast<affekt::Average>(input.ConsumeIntegralInRange<int>(0, 1));
  const affekt::Welch plan(o);
  if (input.ConsumeBool()) {
    welch<float>(input, plan);
  } else {
    welch<double>(input, plan);
  }
}

void any_spectrogram(Input& input) {
  affekt::FrontEndOptions o;
  o.n_fft = input.ConsumeIntegralInRange<int>(-1, 600);
  o.win_length = input.ConsumeBool() ? o.n_fft : input.ConsumeIntegralInRange<int>(-1, 600);
  o.hop_length = input.ConsumeIntegralInRange<int>(0, 700);
  o.window = static_cast<affekt::Window>(input.ConsumeIntegralInRange<int>(0, 4));
  o.periodic = input.ConsumeBool();
  o.center = input.ConsumeBool();
  o.pad_mode = static_cast<affekt::PadMode>(input.ConsumeIntegralInRange<int>(0, 3));
  o.drop_last = input.ConsumeBool();
  static const double powers[] = {1, 2, 0.5, 3};
  o.power = powers[input.ConsumeIntegralInRange<int>(0, 3)];
  const affekt::Spectrogram plan(o);
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      return spectrogram<float, float>(input, plan);
    case 1:
      return spectrogram<double, double>(input, plan);
    default:
      return spectrogram<std::int16_t, float>(input, plan);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  try {
    if (input.ConsumeBool()) {
      any_welch(input);
    } else {
      any_spectrogram(input);
    }
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
  }
  return 0;
}
