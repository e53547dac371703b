// Band power: golden values, the bits of a stream, no allocation per push, missing samples, bad options.
#include "affekt/bandpower.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numbers>
#include <random>
#include <vector>

#include "affekt/runtime.hpp"
#include "allocations.hpp"
#include "check.hpp"

namespace {

using affekt::BandPower;
using affekt::BandPowerOptions;
using affekt::BandPowerStream;
using affekt::test::allocations;

template <class T>
std::vector<T> noise(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal(0.0, 20.0);
  std::vector<T> x(n);
  for (T& v : x) v = static_cast<T>(normal(random));
  return x;
}

template <class T>
std::vector<const T*> rows_of(const std::vector<T>& x, std::size_t channels) {
  std::vector<const T*> rows;
  for (std::size_t c = 0; c < channels; ++c) rows.push_back(x.data() + c * (x.size() / channels));
  return rows;
}

// Amplitudes 1 at 10 Hz and 0.5 at 24 Hz: 0.5 in 8-12 Hz, 0.125 in 18-30 Hz.
void two_sines_have_their_power() {
  BandPowerOptions o;
  o.bands = {{"alpha", 8, 12}, {"beta", 18, 30}};
  o.relative = false;
  const BandPower plan(o);
  std::vector<double> x(512);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double t = static_cast<double>(i) / 256.0;
    x[i] = std::sin(20.0 * std::numbers::pi * t) + 0.5 * std::sin(48.0 * std::numbers::pi * t);
  }
  const double* row = x.data();
  double power[2];
  bool valid = false;
  plan.compute(&row, 1, 1, x.size(), power, &valid);
  CHECK(valid);
  CHECK_NEAR(power[0], 0.5, 1e-12);
  CHECK_NEAR(power[1], 0.125, 1e-12);
}

template <class T>
void stream_has_the_bits_of_offline_and_never_allocates(const BandPowerOptions& o, std::size_t channels) {
  const auto plan = std::make_shared<const BandPower>(o);
  const std::size_t n = 5000, bands = plan->bands();
  std::vector<T> x = noise<T>(channels * n, 7);
  x[1234] = std::numeric_limits<T>::quiet_NaN();
  const std::size_t frames = plan->frames(n);
  std::vector<T> power(frames * channels * bands), live(power.size());
  const auto valid = std::make_unique<bool[]>(frames * channels);
  const auto live_valid = std::make_unique<bool[]>(frames * channels);
  plan->compute(rows_of(x, channels).data(), 1, channels, n, power.data(), valid.get());

  BandPowerStream<T> stream(plan, channels, 100);
  std::mt19937 random(3);
  const long before = allocations;
  std::size_t frame = 0;
  for (int pass = 0; pass < 2; ++pass) {
    stream.reset();
    frame = 0;
    for (std::size_t at = 0; at < n;) {
      const std::size_t want = std::min<std::size_t>(n - at, random() % 300);
      at += stream.push(x.data() + at, want, static_cast<std::ptrdiff_t>(n));
      for (std::size_t ready = stream.ready(); ready > 0; --ready, ++frame) {
        CHECK(stream.next(live.data() + frame * channels * bands, live_valid.get() + frame * channels));
        CHECK(stream.last_sample(frame) < at);
      }
      CHECK(!stream.next(live.data(), live_valid.get()));
    }
  }
  CHECK_EQ(allocations - before, 0L);
  CHECK_EQ(frame, frames);
  CHECK_EQ(stream.frames(), frames);
  CHECK_EQ(stream.samples(), n);
  CHECK(std::memcmp(live.data(), power.data(), power.size() * sizeof(T)) == 0);
  CHECK(std::memcmp(live_valid.get(), valid.get(), frames * channels) == 0);

  // Samples of all channels side by side in time, as acquisition boards give them.
  std::vector<T> interleaved(x.size());
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t i = 0; i < n; ++i) interleaved[i * channels + c] = x[c * n + i];
  }
  stream.reset();
  frame = 0;
  for (std::size_t at = 0; at < n;) {
    at += stream.push(interleaved.data() + at * channels, n - at, 1, static_cast<std::ptrdiff_t>(channels));
    while (stream.next(live.data() + frame * channels * bands, live_valid.get())) ++frame;
  }
  CHECK_EQ(frame, frames);
  CHECK(std::memcmp(live.data(), power.data(), power.size() * sizeof(T)) == 0);
}

void streams() {
  std::vector<BandPowerOptions> all(8);
  all[1].welch.average = affekt::Average::median;
  all[1].log = affekt::LogMode::db;
  all[2].welch.detrend = affekt::Detrend::linear;
  all[2].hop_length = 96;    // segments of three windows ago, and others of five
  all[3].hop_length = 1000;  // windows apart
  all[4].welch.n_fft = 509;  // prime: float runs in double
  all[4].hop_length = 50;
  all[5].win_length = 256;  // one segment
  all[5].hop_length = 1;
  all[6].welch.n_overlap = 240;  // so many segments share samples that a stream, too, moves these once
  all[7] = all[6];
  all[7].hop_length = 600;
  for (const BandPowerOptions& o : all) {
    for (const std::size_t channels : {1, 5, 16, 33}) {
      stream_has_the_bits_of_offline_and_never_allocates<float>(o, channels);
      stream_has_the_bits_of_offline_and_never_allocates<double>(o, channels);
    }
  }
}

void threads_do_not_change_the_bits() {
  affekt::WelchOptions o;
  const affekt::Welch plan(o);
  const std::size_t channels = 11, n = 20000;
  const std::vector<float> x = noise<float>(channels * n, 5);
  std::vector<float> one(channels * plan.bins()), four(one.size());
  std::vector<std::uint64_t> used(channels);
  plan.compute(rows_of(x, channels).data(), channels, n, one.data(), used.data());
  affekt::set_num_threads(4);
  plan.compute(rows_of(x, channels).data(), channels, n, four.data(), used.data());
  affekt::set_num_threads(1);
  CHECK(one == four);
  for (const std::uint64_t u : used) CHECK_EQ(u, plan.segments(n));
}

void bad_input_is_named() {
  BandPowerOptions o;
  o.bands = {{"thin", 10.1, 10.9}};
  CHECK_THROWS(BandPower(o), affekt::InvalidArgument, "two bins or more");
  affekt::WelchOptions w;
  w.n_overlap = 256;
  CHECK_THROWS(affekt::Welch(w), affekt::InvalidArgument, "n_overlap");
  CHECK_THROWS(BandPowerStream<float>(nullptr, 1), affekt::InvalidArgument, "plan");
  const auto plan = std::make_shared<const BandPower>(BandPowerOptions());
  CHECK_THROWS(BandPowerStream<float>(plan, 0), affekt::InvalidArgument, "channels");
  std::vector<float> x(600, 1.0f);
  x[599] = std::numeric_limits<float>::infinity();
  CHECK_EQ(plan->first_unusable(x.data(), 600), std::size_t{599});
  CHECK_EQ(plan->first_unusable(x.data(), 599), std::size_t{599});
  const float* row = x.data();
  std::vector<float> power(2 * plan->bands());
  bool valid[2];
  CHECK_THROWS(plan->compute(&row, 1, 1, 600, power.data(), valid), affekt::InvalidArgument,
               "at sample 599 of row 0");
}

template <class T>
void an_unusable_sample_is_an_error_wherever_it_lies() {
  BandPowerOptions o;
  o.welch.n_overlap = 240;
  o.relative = false;
  const std::size_t n = 2000;
  for (const std::size_t hop : {64, 600}) {
    o.hop_length = hop;
    const auto plan = std::make_shared<const BandPower>(o);
    for (const std::size_t channels : {1, 7, 8, 16, 24, 32}) {
      for (const std::size_t at : {0, 550, 1150, 1999}) {  // in windows, between them, behind the last
        std::vector<T> x = noise<T>(channels * n, 3);
        x[(channels - 1) * n + at] = -std::numeric_limits<T>::infinity();
        std::vector<T> power(plan->frames(n) * channels * plan->bands());
        const auto valid = std::make_unique<bool[]>(plan->frames(n) * channels);
        const std::string where =
            "at sample " + std::to_string(at) + " of row " + std::to_string(channels - 1);
        CHECK_THROWS(plan->compute(rows_of(x, channels).data(), 1, channels, n, power.data(), valid.get()),
                     affekt::InvalidArgument, where.c_str());

        // A stream cannot throw: the sample counts as missing.
        BandPowerStream<T> stream(plan, channels, n);
        CHECK_EQ(stream.push(x.data(), n, static_cast<std::ptrdiff_t>(n)), n);
        x[(channels - 1) * n + at] = std::numeric_limits<T>::quiet_NaN();
        plan->compute(rows_of(x, channels).data(), 1, channels, n, power.data(), valid.get());
        const std::size_t width = channels * plan->bands();
        std::vector<T> live(width);
        const auto live_valid = std::make_unique<bool[]>(channels);
        for (std::size_t frame = 0; stream.next(live.data(), live_valid.get()); ++frame) {
          CHECK(std::memcmp(live.data(), power.data() + frame * width, width * sizeof(T)) == 0);
          CHECK(std::memcmp(live_valid.get(), valid.get() + frame * channels, channels) == 0);
        }
        CHECK_EQ(stream.frames(), plan->frames(n));
      }
    }
  }
}

void streams_take_the_memory_that_they_say() {
  std::vector<BandPowerOptions> all(4);
  all[1].welch.average = affekt::Average::median;
  all[2].hop_length = 1;
  all[2].welch.average = affekt::Average::median;
  all[3].welch.n_overlap = 240;
  for (const BandPowerOptions& o : all) {
    for (const std::size_t channels : {4, 32}) {
      const auto plan = std::make_shared<const BandPower>(o);
      const std::size_t before = affekt::test::allocated_bytes;
      const BandPowerStream<float> stream(plan, channels, 64);
      const auto taken = static_cast<double>(affekt::test::allocated_bytes - before);
      if (!affekt::test::counts_allocations) continue;
      CHECK_NEAR(static_cast<double>(plan->stream_bytes(channels, 64)) / taken, 1.0, 0.25);
    }
  }
}

}  // namespace

int main() {
  two_sines_have_their_power();
  streams();
  threads_do_not_change_the_bits();
  bad_input_is_named();
  an_unusable_sample_is_an_error_wherever_it_lies<float>();
  an_unusable_sample_is_an_error_wherever_it_lies<double>();
  streams_take_the_memory_that_they_say();
  return affekt::test::result();
}
