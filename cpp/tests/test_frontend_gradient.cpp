// The gradient of the front end: against central differences and the adjoint identity <Jv, w> = <v, J'w> in
// float64, a plain transform where the result is linear, ragged sizes, threads, bad input.
#include "affekt/frontend_gradient.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <random>
#include <thread>
#include <vector>

#include "affekt/spectrogram.hpp"
#include "check.hpp"

namespace {

using affekt::FrontEnd;
using affekt::FrontEndGradient;
using affekt::FrontEndOptions;
using affekt::Spectrogram;
using Of = FrontEndGradient::Of;
using Values = std::vector<double>;

Values noise(std::size_t n, unsigned seed, double scale = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  Values x(n);
  for (double& v : x) v = scale * normal(random);
  return x;
}

double dot(const Values& a, const Values& b) {
  CHECK_EQ(a.size(), b.size());
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

Values forward(const FrontEndOptions& o, Of of, const Values& x) {
  const FrontEndGradient sizes(o, of);
  Values out(sizes.frames(x.size()) * sizes.columns());
  const double* const from = x.data();
  double* const to = out.data();
  const std::size_t n = x.size();
  if (of == Of::features)
    FrontEnd(o).compute(from, n, to);
  else if (of == Of::powers)
    Spectrogram(o).powers(&from, &n, &to, 1);
  else
    Spectrogram(o).spectra(&from, &n, &to, 1);
  return out;
}

template <class T>
std::vector<T> backward(const FrontEndGradient& plan, const std::vector<T>& x, const std::vector<T>& grad) {
  std::vector<T> to(x.size(), std::numeric_limits<T>::quiet_NaN());
  plan.compute(x.data(), x.size(), grad.data(), to.data());
  return to;
}

struct Case {
  FrontEndOptions options;
  Of of;
};

template <class F>
Case with(Of of, F&& change) {
  FrontEndOptions o;
  o.n_fft = 64, o.win_length = 50, o.hop_length = 20, o.n_mels = 12;
  change(o);
  return {o, of};
}

std::vector<Case> cases() {
  using namespace affekt;
  const auto plain = [](FrontEndOptions&) {};
  std::vector<Case> all{
      with(Of::features, plain),
      with(Of::powers, plain),
      with(Of::spectra, plain),
      with(Of::features, [](auto& o) { o.log = LogMode::none, o.power = 1; }),
      with(Of::features, [](auto& o) { o.log = LogMode::ln, o.preemphasis = 0.9, o.power = 1.5; }),
      with(Of::features, [](auto& o) { o.n_fft = 61, o.win_length = 61, o.log = LogMode::log10; }),
      with(Of::features,
           [](auto& o) {
             o.span = FrameSpan::win_length, o.remove_dc = true, o.preemphasis = 0.97;
             o.preemphasis_mode = PreemphasisMode::frame, o.log = LogMode::ln, o.scale = 3;
             o.window = Window::povey, o.periodic = false, o.mel_scale = MelScale::kaldi;
             o.mel_norm = MelNorm::none, o.n_mfcc = 7, o.lifter = 22, o.energy = EnergyMode::raw;
           }),
      with(Of::features,
           [](auto& o) {
             o.remove_dc = true, o.energy = EnergyMode::windowed, o.preemphasis = 0.5;
             o.preemphasis_mode = PreemphasisMode::frame;
           }),
      with(Of::features, [](auto& o) { o.n_mfcc = 6, o.deltas = 2, o.delta_width = 5; }),
      with(Of::features,
           [](auto& o) {
             o.deltas = 2, o.delta_width = 5, o.delta_mode = DeltaMode::regression;
             o.n_mfcc = 5, o.lifter = 4, o.lifter_mode = LifterMode::htk;
           }),
      with(Of::features, [](auto& o) { o.ref_max = true, o.log_scale = 0.25, o.log_shift = 4; }),
      with(Of::features, [](auto& o) { o.top_db = 9, o.log = LogMode::log10, o.hop_length = 33; }),
      with(Of::powers, [](auto& o) { o.n_fft = 45, o.win_length = 45, o.power = 1, o.hop_length = 70; }),
      with(Of::spectra, [](auto& o) { o.n_fft = 1, o.win_length = 1, o.hop_length = 1; }),
  };
  for (const PadMode pad : {PadMode::constant, PadMode::reflect, PadMode::edge, PadMode::symmetric}) {
    all.push_back(with(Of::features, [&](auto& o) {
      o.center = true, o.pad_mode = pad, o.drop_last = pad == PadMode::reflect;
      if (pad == PadMode::edge) o.span = FrameSpan::win_length;
    }));
    all.push_back(with(Of::spectra, [&](auto& o) { o.center = true, o.pad_mode = pad; }));
  }
  return all;
}

// Along a direction v, and for samples at the edges and in the middle alone.
void gradients_are_those_of_central_differences() {
  unsigned seed = 0;
  for (const Case& c : cases()) {
    const FrontEndGradient plan(c.options, c.of);
    for (const std::size_t n : {170, 263}) {
      const Values x = noise(n, ++seed), v = noise(n, seed + 1000);
      const Values w = noise(plan.frames(n) * plan.columns(), seed + 2000);
      const Values grad = backward(plan, x, w);
      const auto slope_along = [&](const Values& direction) {
        Values above = x, below = x;
        const double step = 1e-6;
        for (std::size_t t = 0; t < n; ++t) above[t] += step * direction[t], below[t] -= step * direction[t];
        const Values a = forward(c.options, c.of, above), b = forward(c.options, c.of, below);
        return (dot(a, w) - dot(b, w)) / (2 * step);
      };
      double size = 1e-3;
      for (const double g : grad) size = std::max(size, std::abs(g));
      CHECK_NEAR(dot(grad, v) / (size * std::sqrt(static_cast<double>(n))),
                 slope_along(v) / (size * std::sqrt(static_cast<double>(n))), 1e-6);
      for (const std::size_t t : {std::size_t{0}, std::size_t{1}, n / 2, n - 2, n - 1}) {
        Values one(n);
        one[t] = 1;
        CHECK_NEAR(grad[t] / size, slope_along(one) / size, 1e-6);
      }
    }
  }
}

// Spectra are linear in the samples: J is a plain sum over samples here, and the identity holds to rounding.
void spectra_have_their_adjoint() {
  for (const int n_fft : {60, 61}) {
    FrontEndOptions o;
    o.n_fft = n_fft, o.win_length = 48, o.hop_length = 17, o.scale = 2;
    const FrontEndGradient plan(o, Of::spectra);
    const std::size_t n = 230, rows = plan.frames(n), bins = plan.columns() / 2;
    CHECK_EQ(rows, (n - static_cast<std::size_t>(n_fft)) / 17 + 1);
    CHECK_EQ(bins, static_cast<std::size_t>(n_fft / 2 + 1));
    const Values v = noise(n, 1), w = noise(rows * 2 * bins, 2);
    double product = 0;
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t k = 0; k < bins; ++k)
        for (int i = 0; i < 48; ++i) {
          const int at = i + (n_fft - 48) / 2;  // the window sits in the middle of the frame
          const double h = 0.5 - 0.5 * std::cos(2 * std::numbers::pi * i / 48);
          const double angle = -2 * std::numbers::pi * static_cast<double>(k) * at / n_fft;
          const double y = 2 * h * v[r * 17 + static_cast<std::size_t>(at)];
          product +=
              y * (std::cos(angle) * w[2 * (r * bins + k)] + std::sin(angle) * w[2 * (r * bins + k) + 1]);
        }
    const Values anywhere = noise(n, 3);
    const double found = dot(backward(plan, anywhere, w), v);
    CHECK_NEAR(found / std::abs(product), product / std::abs(product), 1e-11);
  }
}

void float_gradients_are_those_of_double() {
  unsigned seed = 50;
  for (const Case& c : cases()) {
    const FrontEndGradient plan(c.options, c.of);
    const Values wide = noise(200, ++seed);
    const std::vector<float> x(wide.begin(), wide.end());
    const Values w = noise(plan.frames(200) * plan.columns(), seed);
    const std::vector<float> grad(w.begin(), w.end());
    const Values expected = backward(plan, Values(x.begin(), x.end()), Values(grad.begin(), grad.end()));
    const std::vector<float> found = backward(plan, x, grad);
    double size = 1e-3;
    for (const double g : expected) size = std::max(size, std::abs(g));
    for (std::size_t t = 0; t < found.size(); ++t)
      CHECK_NEAR(static_cast<double>(found[t]) / size, expected[t] / size, 1e-6);
  }
}

void signals_of_any_length_have_one() {
  for (const Case& c : cases()) {
    if (c.options.deltas > 0) continue;  // these need several rows
    const FrontEndGradient plan(c.options, c.of);
    for (const std::size_t n : {0, 1, 2, 49, 50, 63, 64, 65, 83, 84, 85, 321}) {
      const std::size_t rows = plan.frames(n);
      const Values x = noise(n, 7), grad = backward(plan, x, noise(rows * plan.columns(), 8));
      for (const double g : grad) CHECK(std::isfinite(g));
      if (rows > 0) continue;
      for (const double g : grad) CHECK_EQ(g, 0.0);  // nothing of it is heard
    }
    // Silence is at the floor everywhere, or has no slope.
    const Values silent(200);
    for (const double g : backward(plan, silent, noise(plan.frames(200) * plan.columns(), 9)))
      CHECK(std::isfinite(g));
    plan.compute(static_cast<const double*>(nullptr), 0, nullptr, nullptr);
  }
}

void values_at_the_floor_pass_nothing() {
  Case c = with(Of::features, [](auto& o) { o.floor = 1e9; });
  const FrontEndGradient plan(c.options, c.of);
  for (const double g : backward(plan, noise(300, 1), noise(plan.frames(300) * plan.columns(), 2)))
    CHECK_EQ(g, 0.0);
}

void threads_share_a_plan() {
  const Case c = with(Of::features, [](auto& o) { o.ref_max = true, o.n_mfcc = 5; });
  const FrontEndGradient plan(c.options, c.of);
  const Values x = noise(500, 1), w = noise(plan.frames(500) * plan.columns(), 2);
  const Values alone = backward(plan, x, w);
  std::vector<Values> found(4);
  std::vector<std::thread> threads;
  for (Values& to : found) threads.emplace_back([&] { to = backward(plan, x, w); });
  for (std::thread& t : threads) t.join();
  for (const Values& to : found)
    CHECK(std::memcmp(to.data(), alone.data(), alone.size() * sizeof(double)) == 0);
}

void bad_input_is_named() {
  const auto make = [](Of of, auto change) {
    FrontEndOptions o;
    change(o);
    const FrontEndGradient plan(o, of);
  };
  using affekt::InvalidArgument;
  for (const Of of : {Of::features, Of::powers, Of::spectra}) {
    CHECK_THROWS(make(of, [](auto& o) { o.n_fft = 0; }), InvalidArgument, "n_fft: expected");
    CHECK_THROWS(make(of, [](auto& o) { o.win_length = 513; }), InvalidArgument, "win_length: expected");
    CHECK_THROWS(make(of, [](auto& o) { o.hop_length = 0; }), InvalidArgument, "hop_length: expected");
    CHECK_THROWS(make(of, [](auto& o) { o.scale = std::nan(""); }), InvalidArgument, "scale: expected");
  }
  CHECK_THROWS(make(Of::features, [](auto& o) { o.n_mels = 0; }), InvalidArgument, "n_mels: expected");
  CHECK_THROWS(make(Of::features, [](auto& o) { o.delta_width = 4; }), InvalidArgument,
               "delta_width: expected");
  CHECK_THROWS(make(Of::powers, [](auto& o) { o.power = -1; }), InvalidArgument, "power: expected");
  // As the call whose gradient it is.
  const Case few = with(Of::features, [](auto& o) { o.deltas = 1; });
  const FrontEndGradient plan(few.options, few.of);
  const Values x = noise(100, 1), w(plan.frames(100) * plan.columns());
  CHECK_THROWS(backward(plan, x, w), InvalidArgument, "samples: expected enough for delta_width = 9");
}

}  // namespace

int main() {
  gradients_are_those_of_central_differences();
  spectra_have_their_adjoint();
  float_gradients_are_those_of_double();
  signals_of_any_length_have_one();
  values_at_the_floor_pass_nothing();
  threads_share_a_plan();
  bad_input_is_named();
  return affekt::test::result();
}
