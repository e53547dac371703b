// Resampler: chunks of any size give the same bits without allocation; latency, lengths, bad input.
#include "affekt/resampler.hpp"

#include <cmath>
#include <cstring>
#include <memory>
#include <numbers>
#include <random>
#include <vector>

#include "allocations.hpp"
#include "check.hpp"

using affekt::InvalidArgument;
using affekt::Resampler;
using affekt::ResamplerOptions;
using affekt::ResamplerStream;

namespace {

const ResamplerOptions cases[] = {{48000, 16000}, {44100, 16000}, {16000, 48000}, {192000, 16000},
                                  {44100, 44101}, {250, 256},     {32000, 16000}};

void chunks_give_the_same_bits_without_allocation() {
  std::mt19937 bits(3);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> left(9000), right(9000);
  for (float& v : left) v = normal(bits);
  for (float& v : right) v = normal(bits);
  const std::vector<float> mix{0.5f, 0.5f};
  for (const ResamplerOptions& options : cases) {
    const auto plan = std::make_shared<Resampler>(options);
    std::vector<float> whole(plan->output_length(9000)), live(whole.size() + 1);
    const float* x[] = {left.data(), right.data()};
    float* y[] = {whole.data()};
    plan->compute(x, 1, 9000, mix, y);
    ResamplerStream stream(plan, mix);
    std::size_t made = 0;
    const long before = affekt::test::allocations;
    for (std::size_t t = 0, n = 1; t < 9000; t += n, n = n * 7 % 1301 + 1) {
      if (n > 9000 - t) n = 9000 - t;
      CHECK(stream.most(n) + made <= whole.size());
      made += stream.push(x, n, live.data() + made);
      x[0] += n, x[1] += n;
    }
    made += stream.finish(live.data() + made);
    CHECK_EQ(affekt::test::allocations - before, 0L);
    CHECK_EQ(made, whole.size());
    CHECK_EQ(stream.given(), whole.size());
    CHECK(std::memcmp(whole.data(), live.data(), whole.size() * sizeof(float)) == 0);
  }
}

void a_result_waits_no_longer_than_the_latency() {
  for (const ResamplerOptions& options : cases) {
    const auto plan = std::make_shared<Resampler>(options);
    ResamplerStream stream(plan);
    const float one = 1;
    const float* x = &one;
    std::vector<float> y(1000);
    for (std::size_t t = 0; stream.given() == 0; ++t) {
      CHECK(t <= plan->latency_samples());
      stream.push(&x, 1, y.data());
    }
    CHECK(stream.samples() + 8 > plan->latency_samples());
  }
}

void tones_stay_in_place() {
  const Resampler plan({44100, 16000});
  std::vector<float> x(22050);
  for (std::size_t t = 0; t < x.size(); ++t)
    x[t] = static_cast<float>(std::sin(2 * std::numbers::pi * 7000 * static_cast<double>(t) / 44100));
  std::vector<float> y(plan.output_length(x.size()));
  const float* from[] = {x.data()};
  float* to[] = {y.data()};
  plan.compute(from, 1, x.size(), {1.0f}, to);
  for (std::size_t m = 500; m < y.size() - 500; ++m)
    CHECK_NEAR(y[m], std::sin(2 * std::numbers::pi * 7000 * static_cast<double>(m) / 16000), 2e-5);
}

void bad_arguments_are_named() {
  CHECK_THROWS(Resampler({0, 16000}), InvalidArgument, "input_rate: ");
  CHECK_THROWS(Resampler({16000, 1}), InvalidArgument, "output_rate: ");
  CHECK_THROWS(Resampler({16000, std::nan("")}), InvalidArgument, "output_rate: ");
  CHECK_THROWS(Resampler({48000, 16000, 0.99, 100}), InvalidArgument, "passband: ");
  CHECK_THROWS(Resampler({48000, 16000, 0.9, 200}), InvalidArgument, "rejection: ");
  CHECK_THROWS(ResamplerStream(nullptr), InvalidArgument, "plan: ");
  const auto plan = std::make_shared<Resampler>(ResamplerOptions{});
  CHECK_THROWS(ResamplerStream(plan, {}), InvalidArgument, "mix: ");
  CHECK_THROWS(ResamplerStream(plan, {1, std::nanf("")}), InvalidArgument, "mix: ");
}

}  // namespace

int main() {
  chunks_give_the_same_bits_without_allocation();
  a_result_waits_no_longer_than_the_latency();
  tones_stay_in_place();
  bad_arguments_are_named();
  return affekt::test::result();
}
