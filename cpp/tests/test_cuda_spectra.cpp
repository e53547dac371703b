// The CUDA kernels of the front ends, run on the CPU by kernels/emulate: against plain sums in double, and
// against libaffekt's own front ends for every step around the transform; the same bits for any order of
// threads and any signals beside. Nothing here ran on a GPU.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "emulated.hpp"
#include "spectra.cu"
#include "spectra_tables.hpp"

namespace {

namespace gpu = affekt::gpu;
using affekt::FrontEndOptions;
using affekt::WelchOptions;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::vector<double> noise(std::size_t n, unsigned seed, double size = 0.3) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0, size);
  std::vector<double> x(n);
  // Multiples of 2^-16, so that float and double see the same samples.
  for (double& v : x) v = std::nearbyint(normal(random) * 65536) / 65536;
  return x;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) {
  return std::vector<T>(x.begin(), x.end());
}

template <class T>
std::vector<T> of_signal(const std::vector<T>& all, std::size_t s, std::size_t signals) {
  const auto size = static_cast<std::ptrdiff_t>(all.size() / signals),
             from = static_cast<std::ptrdiff_t>(s) * size;
  return {all.begin() + from, all.begin() + from + size};
}

template <class A>
bool same_bits(const A& a, const A& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof a[0]) == 0);
}

// (signals, frames, columns) of the emulated kernel; memory beyond the result stays as it was.
template <class T>
std::vector<T> rows_of(const FrontEndOptions& o, bool mel, const std::vector<T>& x, std::size_t signals) {
  const gpu::FrameTables<T> tables(o, mel);
  const std::size_t samples = x.size() / signals;
  const std::size_t size = signals * tables.frames(samples) * tables.columns();
  std::vector<T> out(size + 100, static_cast<T>(kNaN));
  const auto task = tables.task(tables.bytes().data(), x.data(), static_cast<gpu::Wide>(signals),
                                static_cast<gpu::Wide>(samples), out.data());
  CHECK(gpu::frame_rows(task, false, nullptr) == nullptr);
  for (std::size_t i = size; i < out.size(); ++i) CHECK(std::isnan(out[i]));
  out.resize(size);
  return out;
}

// Largest difference relative to the largest value.
template <class T>
double apart(const std::vector<T>& ours, const std::vector<double>& theirs) {
  if (ours.size() != theirs.size()) return kNaN;
  double worst = 0, largest = 1e-30;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double d = std::abs(static_cast<double>(ours[i]) - theirs[i]);
    if (!(d <= worst)) worst = d;
    largest = std::max(largest, std::abs(theirs[i]));
  }
  return worst / largest;
}

template <class T>
void check_transforms(double tolerance) {
  for (const int n_fft : {64, 128, 256, 512, 1024, 2048, 4096}) {
    FrontEndOptions o;
    o.n_fft = n_fft, o.win_length = n_fft - n_fft / 8 + 1, o.hop_length = n_fft / 2 + 3;
    o.span = affekt::FrameSpan::win_length;
    const std::vector<double> x = noise(static_cast<std::size_t>(o.win_length + 2 * o.hop_length + 1), 7);
    const std::vector<double> window = affekt::FrontEnd(o).window();
    std::vector<double> expected;
    for (int r = 0; r < 3; ++r) {
      for (int k = 0; k <= n_fft / 2; ++k) {
        double re = 0, im = 0;
        for (int i = 0; i < o.win_length; ++i) {
          const double v =
              x[static_cast<std::size_t>(r * o.hop_length + i)] * window[static_cast<std::size_t>(i)];
          const double angle =
              2 * std::numbers::pi * static_cast<double>(static_cast<long>(i) * k % n_fft) / n_fft;
          re += v * std::cos(angle), im -= v * std::sin(angle);
        }
        expected.push_back(re * re + im * im);
      }
    }
    const double error = apart(rows_of<T>(o, false, as<T>(x), 1), expected);
    if (!(error <= tolerance))
      affekt::test::fail(__FILE__, __LINE__, std::to_string(n_fft) + ": " + std::to_string(error));
  }
}

// Complex spectra against those of libaffekt, in double.
template <class T>
void check_spectra(double tolerance) {
  unsigned seed = 40;
  for (const int n_fft : {64, 128, 256, 512, 1024, 2048, 4096}) {
    FrontEndOptions o;
    o.n_fft = n_fft, o.win_length = n_fft - n_fft / 8 + 1, o.hop_length = n_fft / 2 + 3;
    o.center = true, o.pad_mode = affekt::PadMode::reflect;
    const affekt::Spectrogram plan(o);
    constexpr std::size_t signals = 2;
    const auto samples = static_cast<std::size_t>(3 * n_fft + 1);
    const std::vector<double> x = noise(signals * samples, ++seed);
    const std::size_t size = plan.frames(samples) * plan.bins() * 2;
    std::vector<double> expected(signals * size);
    const double* const rows[] = {x.data(), x.data() + samples};
    const std::size_t lengths[] = {samples, samples};
    double* const to[] = {expected.data(), expected.data() + size};
    plan.spectra(rows, lengths, to, signals);
    const gpu::FrameTables<T> tables(o, false);
    const std::vector<T> narrow = as<T>(x);
    std::vector<T> got(signals * size + 10, T(7));
    const auto task = tables.task(tables.bytes().data(), narrow.data(), signals,
                                  static_cast<gpu::Wide>(samples), got.data());
    CHECK(gpu::frame_rows(task, true, nullptr) == nullptr);
    for (std::size_t i = signals * size; i < got.size(); ++i) CHECK_EQ(got[i], T(7));
    got.resize(signals * size);
    const double error = apart(got, expected);
    if (!(error <= tolerance))
      affekt::test::fail(__FILE__, __LINE__, std::to_string(n_fft) + ": " + std::to_string(error));
  }
}

// Options that take every branch of the kernel.
std::vector<FrontEndOptions> variants() {
  std::vector<FrontEndOptions> all(1);
  const auto add = [&all]() -> FrontEndOptions& { return all.emplace_back(); };
  for (const auto pad : {affekt::PadMode::constant, affekt::PadMode::reflect, affekt::PadMode::edge,
                         affekt::PadMode::symmetric}) {
    FrontEndOptions& o = add();
    o.center = true, o.pad_mode = pad, o.n_mels = 40, o.log = affekt::LogMode::log10;
    o.log_shift = 4, o.log_scale = 0.25;
  }
  {
    FrontEndOptions& o = add();  // Kaldi's
    o.mel_scale = affekt::MelScale::kaldi, o.mel_norm = affekt::MelNorm::none, o.f_min = 20;
    o.window = affekt::Window::povey, o.periodic = false, o.scale = 32768, o.preemphasis = 0.97;
    o.preemphasis_mode = affekt::PreemphasisMode::frame, o.remove_dc = true, o.center = true;
    o.span = affekt::FrameSpan::win_length, o.pad_mode = affekt::PadMode::symmetric;
    o.energy = affekt::EnergyMode::raw, o.n_mels = 23, o.n_mfcc = 13, o.lifter = 22;
    o.lifter_mode = affekt::LifterMode::htk, o.log = affekt::LogMode::ln, o.floor = 1.2e-7;
  }
  {
    FrontEndOptions& o = add();
    o.n_fft = 256, o.win_length = 200, o.hop_length = 80, o.sample_rate = 8000, o.n_mels = 32;
    o.preemphasis = 0.95, o.power = 1, o.energy = affekt::EnergyMode::windowed, o.ref = 0.5;
  }
  {
    FrontEndOptions& o = add();
    o.n_fft = 1024, o.win_length = 1024, o.hop_length = 1500, o.power = 1.5, o.log = affekt::LogMode::none;
    o.drop_last = true, o.window = affekt::Window::hamming, o.n_mels = 128;
  }
  {
    FrontEndOptions& o = add();
    o.n_fft = 64, o.win_length = 50, o.hop_length = 7, o.n_mels = 20, o.n_mfcc = 20, o.f_max = 7000;
    o.remove_dc = true, o.preemphasis = 0.5, o.energy = affekt::EnergyMode::windowed;
    o.preemphasis_mode = affekt::PreemphasisMode::frame;
  }
  return all;
}

template <class T>
void check_variants(double tolerance) {
  unsigned seed = 0;
  for (const FrontEndOptions& o : variants()) {
    const affekt::FrontEnd plan(o);
    // One sample, repeated, is a line, beside which the rounding of float32 shows.
    for (const std::size_t samples : {sizeof(T) == 4 ? 41u : 1u, 333u, 3001u}) {
      constexpr std::size_t signals = 3;
      const std::vector<double> x = noise(signals * samples, ++seed);
      std::vector<double> expected(signals * plan.frames(samples) * plan.features());
      for (std::size_t s = 0; s < signals; ++s)
        plan.compute(x.data() + s * samples, samples, expected.data() + s * expected.size() / signals);
      const std::vector<T> got = rows_of<T>(o, true, as<T>(x), signals);
      const double error = apart(got, expected);
      if (!(error <= tolerance))
        affekt::test::fail(__FILE__, __LINE__, o.to_json() + ": " + std::to_string(error));
      gpu::emulate::order() = seed;
      CHECK(same_bits(got, rows_of<T>(o, true, as<T>(x), signals)));
      gpu::emulate::order() = 0;
      // A signal alone has the bits that it has among others.
      CHECK(same_bits(of_signal(got, 1, signals), rows_of<T>(o, true, of_signal(as<T>(x), 1, signals), 1)));
    }
  }
}

template <class T>
struct Spectrum {
  std::vector<T> power;
  std::vector<int> used;
};

template <class T>
Spectrum<T> welch_of(const WelchOptions& o, const std::vector<T>& x, std::size_t signals) {
  const gpu::WelchTables<T> tables(o);
  const std::size_t samples = x.size() / signals, segments = tables.segments(samples);
  Spectrum<T> got{std::vector<T>(signals * tables.bins() + 50, T(7)), std::vector<int>(signals + 1, -5)};
  const auto n = static_cast<gpu::Wide>(signals);
  affekt::test::Workspace workspace(
      gpu::welch_workspace(n, static_cast<gpu::Wide>(segments), static_cast<gpu::Wide>(o.n_fft)));
  const auto task = tables.task(tables.bytes().data(), x.data(), n, static_cast<gpu::Wide>(samples),
                                got.power.data(), got.used.data());
  CHECK(gpu::welch_spectra(task, workspace.data(), nullptr) == nullptr);
  for (std::size_t i = signals * tables.bins(); i < got.power.size(); ++i) CHECK_EQ(got.power[i], T(7));
  CHECK_EQ(got.used.back(), -5);
  got.power.resize(signals * tables.bins());
  got.used.pop_back();
  return got;
}

// Room for the numbers of segments, in the integers that Welch counts them in.
template <class Count>
std::vector<Count> counts(void (affekt::Welch::*)(const double* const*, std::size_t, std::size_t, double*,
                                                  Count*) const,
                          std::size_t n) {
  return std::vector<Count>(n);
}

template <class T>
void check_welch(double tolerance) {
  struct Case {
    std::size_t n_per_seg, n_overlap, n_fft, samples;
    affekt::Detrend detrend;
    affekt::Scaling scaling;
  };
  using affekt::Detrend;
  using affekt::Scaling;
  const Case cases[] = {
      {256, 128, 256, 256, Detrend::constant, Scaling::density},
      {256, 128, 256, 6000, Detrend::constant, Scaling::density},
      {200, 50, 512, 12000, Detrend::linear, Scaling::spectrum},  // 80 segments: two slices
      {64, 63, 64, 400, Detrend::none, Scaling::density},         // 337 segments
      {1, 0, 64, 70, Detrend::linear, Scaling::density},
      {4096, 1000, 4096, 9000, Detrend::constant, Scaling::density},
      {1000, 0, 1024, 3999, Detrend::linear, Scaling::density},
  };
  unsigned seed = 100;
  for (const Case& c : cases) {
    WelchOptions o;
    o.n_per_seg = c.n_per_seg, o.n_overlap = c.n_overlap, o.n_fft = c.n_fft;
    o.detrend = c.detrend, o.scaling = c.scaling;
    if (c.n_per_seg == 1) o.window = affekt::Window::rectangular;
    if (c.n_per_seg == 1000) {
      for (std::size_t i = 0; i < c.n_per_seg; ++i) o.taper.push_back(0.2 + static_cast<double>(i % 7));
    }
    const affekt::Welch plan(o);
    constexpr std::size_t signals = 3;
    std::vector<double> x = noise(signals * c.samples, ++seed, 3.0);
    for (std::size_t i = 0; i < c.samples; ++i) x[c.samples + i] += 1000;  // an offset
    if (plan.segments(c.samples) > 3) x[2 * c.samples + c.samples / 2] = kNaN;
    std::vector<double> expected(signals * plan.bins());
    auto used = counts(&affekt::Welch::compute, signals);
    const double* const rows[] = {x.data(), x.data() + c.samples, x.data() + 2 * c.samples};
    plan.compute(rows, signals, c.samples, expected.data(), used.data());
    const Spectrum<T> got = welch_of<T>(o, as<T>(x), signals);
    for (std::size_t s = 0; s < signals; ++s) {
      CHECK_EQ(got.used[s], static_cast<int>(used[s]));
      const double error = apart(of_signal(got.power, s, signals), of_signal(expected, s, signals));
      if (!(error <= tolerance)) {
        affekt::test::fail(
            __FILE__, __LINE__,
            std::to_string(c.n_per_seg) + ", signal " + std::to_string(s) + ": " + std::to_string(error));
      }
    }
    gpu::emulate::order() = seed;
    const Spectrum<T> again = welch_of<T>(o, as<T>(x), signals);
    gpu::emulate::order() = 0;
    CHECK(same_bits(got.power, again.power));
    CHECK(same_bits(of_signal(got.power, 1, signals),
                    welch_of<T>(o, of_signal(as<T>(x), 1, signals), 1).power));
  }
  // A constant signal has no power, one without a whole segment free of NaN none to speak of.
  WelchOptions o;
  const std::vector<T> flat(1000, T(3.3));
  for (const T p : welch_of<T>(o, flat, 1).power) CHECK_EQ(p, T(0));
  std::vector<T> gone(300, T(1));
  gone[130] = static_cast<T>(kNaN);
  const Spectrum<T> none = welch_of<T>(o, gone, 1);
  CHECK_EQ(none.used[0], 0);
  for (const T p : none.power) CHECK(std::isnan(p));
}

template <class T>
struct Bands {
  std::vector<T> power;
  std::vector<char> valid;
};

// (recordings, frames, channels, bands) of the emulated kernel.
template <class T>
Bands<T> bands_of(const affekt::BandPowerOptions& o, const std::vector<T>& x, std::size_t recordings,
                  std::size_t channels) {
  const gpu::BandTables<T> tables(o);
  const std::size_t samples = x.size() / recordings / channels;
  const std::size_t windows = recordings * channels * tables.frames(samples);
  Bands<T> got{std::vector<T>(windows * tables.bands() + 20, T(-7)), std::vector<char>(windows + 20, 5)};
  const auto task = tables.task(tables.bytes().data(), x.data(), static_cast<gpu::Wide>(recordings),
                                static_cast<gpu::Wide>(channels), static_cast<gpu::Wide>(samples),
                                got.power.data(), reinterpret_cast<bool*>(got.valid.data()));
  affekt::test::Workspace workspace(gpu::band_workspace(task));
  CHECK(gpu::band_powers(task, workspace.data(), nullptr) == nullptr);
  for (std::size_t i = windows * tables.bands(); i < got.power.size(); ++i) CHECK_EQ(got.power[i], T(-7));
  for (std::size_t i = windows; i < got.valid.size(); ++i) CHECK_EQ(static_cast<int>(got.valid[i]), 5);
  got.power.resize(windows * tables.bands());
  got.valid.resize(windows);
  return got;
}

template <class T>
void check_bands(double tolerance) {
  struct Case {
    std::size_t segment, overlap, n_fft, window, hop;
    bool relative;
    affekt::LogMode log;
    affekt::Detrend detrend;
  };
  using affekt::Detrend;
  using affekt::LogMode;
  const Case cases[] = {
      {256, 128, 256, 512, 64, true, LogMode::none, Detrend::constant},  // segments of windows that lie apart
      {64, 32, 64, 300, 128, false, LogMode::none, Detrend::linear},     // hops of whole segments
      {128, 127, 128, 160, 1, true, LogMode::db, Detrend::constant},     // steps of one sample
      {100, 0, 256, 400, 900, false, LogMode::ln, Detrend::none},        // windows with gaps between
      {90, 60, 128, 300, 50, true, LogMode::log10, Detrend::constant},   // neither divides the other
      {1000, 500, 4096, 1000, 333, false, LogMode::none, Detrend::constant},  // a window of one segment
  };
  unsigned seed = 300;
  for (const Case& c : cases) {
    affekt::BandPowerOptions o;
    o.welch.n_per_seg = c.segment, o.welch.n_overlap = c.overlap, o.welch.n_fft = c.n_fft;
    o.welch.detrend = c.detrend, o.win_length = c.window, o.hop_length = c.hop;
    o.relative = c.relative, o.log = c.log;
    o.bands = {{"low", 0, 20}, {"middle", 20, 60}, {"high", 60, 128}};  // bins lie up to 4 Hz apart
    const affekt::BandPower plan(o);
    constexpr std::size_t recordings = 2, channels = 3;
    const std::size_t samples = 2500, windows = plan.frames(samples);
    std::vector<double> x = noise(recordings * channels * samples, ++seed, 3.0);
    for (std::size_t i = 0; i < samples; ++i) x[samples + i] += 50;    // an offset
    for (std::size_t i = 0; i < samples; ++i) x[2 * samples + i] = 1;  // nothing but a constant
    x[3 * samples + 1200] = kNaN;
    std::vector<const double*> rows;
    for (std::size_t r = 0; r < recordings * channels; ++r) rows.push_back(x.data() + r * samples);
    std::vector<double> expected(recordings * windows * channels * plan.bands());
    std::vector<char> valid(recordings * windows * channels);
    plan.compute(rows.data(), recordings, channels, samples, expected.data(),
                 reinterpret_cast<bool*>(valid.data()));
    const Bands<T> got = bands_of<T>(o, as<T>(x), recordings, channels);
    CHECK(got.valid == valid);
    // A logarithm of what is nothing but rounding is compared nowhere: only where there is power.
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool constant = i / plan.bands() % channels == 2 && i / plan.bands() / channels < windows;
      if (constant) continue;
      CHECK_EQ(std::isnan(got.power[i]), std::isnan(expected[i]));
      if (std::isnan(expected[i])) continue;
      worst = std::max(worst, std::abs(static_cast<double>(got.power[i]) - expected[i]));
      largest = std::max(largest, std::abs(expected[i]));
    }
    if (!(worst <= tolerance * largest)) {
      affekt::test::fail(__FILE__, __LINE__,
                         std::to_string(c.segment) + ": " + std::to_string(worst / largest));
    }
    gpu::emulate::order() = seed;
    CHECK(same_bits(got.power, bands_of<T>(o, as<T>(x), recordings, channels).power));
    gpu::emulate::order() = 0;
    // A recording alone has the bits that it has among others.
    CHECK(same_bits(of_signal(got.power, 1, recordings),
                    bands_of<T>(o, of_signal(as<T>(x), 1, recordings), 1, channels).power));
  }
  affekt::BandPowerOptions o;
  CHECK_EQ(bands_of<T>(o, std::vector<T>(100), 1, 2).power.size(), 0u);  // shorter than a window
}

}  // namespace

int main() {
  check_spectra<float>(2e-6);
  check_spectra<double>(1e-13);
  check_bands<float>(2e-5);
  check_bands<double>(1e-11);
  check_transforms<float>(2e-6);
  check_transforms<double>(1e-13);
  check_variants<float>(2e-5);
  check_variants<double>(1e-11);
  check_welch<float>(2e-5);
  check_welch<double>(1e-11);

  // A NaN spoils the rows of its frames alone.
  FrontEndOptions o;
  std::vector<float> x = as<float>(noise(2000, 3));
  const std::vector<float> clean = rows_of<float>(o, true, x, 1);
  x[800] = static_cast<float>(kNaN);
  const std::vector<float> spoilt = rows_of<float>(o, true, x, 1);
  for (std::size_t r = 0; r * 80 < clean.size(); ++r) {
    // The window of row r covers 400 samples from 160 r + 56 on.
    const bool hit = 160 * r + 56 <= 800 && 800 < 160 * r + 456;
    for (std::size_t m = 0; m < 80; ++m) {
      CHECK_EQ(std::isnan(spoilt[r * 80 + m]), hit);
      if (!hit) CHECK_EQ(spoilt[r * 80 + m], clean[r * 80 + m]);
    }
  }

  // One launch for rows; one for spectra, two where signals are long.
  const auto launches = [](auto&& run) {
    const long before = gpu::emulate::launches();
    run();
    return gpu::emulate::launches() - before;
  };
  CHECK_EQ(launches([&] { rows_of<float>(o, true, x, 2); }), 1);
  CHECK_EQ(launches([&] { welch_of<float>({}, x, 2); }), 1);
  const affekt::BandPowerOptions of_bands;
  CHECK_EQ(launches([&] { bands_of<float>(of_bands, x, 1, 2); }), 2);
  CHECK_EQ(launches([&] { welch_of<float>({}, std::vector<float>(9000, 1.0f), 1); }), 2);
  // More blocks than a launch can have: nothing starts, where fewer would if the count were cut to 32 bits.
  const gpu::FrameTables<float> plan(o, true);
  const gpu::Wide many = gpu::Wide{1} << 40;
  const auto far = plan.task(plan.bytes().data(), x.data(), many, 4000, nullptr);
  CHECK_EQ(launches([&] { CHECK(gpu::frame_rows(far, false, nullptr) != nullptr); }), 0);
  // Nothing in, nothing out.
  CHECK_EQ(rows_of<float>(o, true, std::vector<float>(10), 2).size(), 0u);

  // What the kernels do not take is refused, with the reason.
  const auto refused = [](auto&& change, const char* why) {
    FrontEndOptions bad;
    change(bad);
    CHECK_THROWS(gpu::FrameTables<float>(bad, true), affekt::InvalidArgument, why);
  };
  refused([](auto& b) { b.n_fft = 400; }, "n_fft: expected a power of two from 64 to 4096 on a GPU, got 400");
  refused([](auto& b) { b.n_fft = 8192; }, "got 8192");
  refused([](auto& b) { b.ref_max = true; }, "ref");
  refused([](auto& b) { b.top_db = 80; }, "top_db");
  refused([](auto& b) { b.deltas = 1; }, "deltas");
  refused([](auto& b) { b.n_mels = 257; }, "n_mels: expected at most n_fft / 2 = 256");
  refused([](auto& b) { b.mel_scale = affekt::MelScale::kaldi, b.power = 1; }, "power");
  refused([](auto& b) { b.hop_length = 0; }, "hop_length");
  WelchOptions bad;
  bad.average = affekt::Average::median;
  CHECK_THROWS(gpu::WelchTables<float>(bad), affekt::InvalidArgument, "average");
  affekt::BandPowerOptions bands;
  bands.welch.average = affekt::Average::median;
  CHECK_THROWS(gpu::BandTables<float>(bands), affekt::InvalidArgument, "average");
  return affekt::test::result();
}
