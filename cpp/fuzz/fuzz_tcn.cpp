// A TCN of any small shape, in float32 or int8: blocks of any sizes and many streams at once give the bits of
// single steps, and streams over one set of weights do not disturb each other.
#include "affekt/error.hpp"
#include "affekt/tcn.hpp"
#include "fuzz.hpp"

using affekt::fuzz::Input;

namespace {

std::vector<float> noise(std::minstd_rand& random, std::size_t n, float level) {
  std::vector<float> x(n);
  for (float& v : x) v = level * (static_cast<float>(random()) / 1073741824.0f - 1);
  return x;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  affekt::TcnOptions options;
  options.in = input.ConsumeIntegralInRange<int>(0, 40);
  options.kernel_size = input.ConsumeIntegralInRange<int>(0, 5);
  options.activation = static_cast<affekt::Rectifier>(input.ConsumeIntegralInRange<int>(0, 2));
  options.arithmetic = static_cast<affekt::Arithmetic>(input.ConsumeIntegralInRange<int>(0, 1));
  std::minstd_rand random(input.ConsumeIntegral<std::uint16_t>() + 1u);
  const int levels = input.ConsumeIntegralInRange<int>(0, 4);
  const bool own_dilations = input.ConsumeBool();
  std::vector<std::vector<float>> store;
  store.reserve(64);
  const auto keep = [&](std::size_t n) -> std::span<const float> {
    return store.emplace_back(noise(random, n, 0.4f));
  };
  std::vector<affekt::TcnBlockWeights> weights;
  std::size_t width = static_cast<std::size_t>(options.in);
  const auto taps = static_cast<std::size_t>(options.kernel_size);
  for (int level = 0; level < levels; ++level) {
    const auto out = input.ConsumeIntegralInRange<std::size_t>(1, 40);
    options.channels.push_back(static_cast<int>(out));
    if (own_dilations) options.dilations.push_back(input.ConsumeIntegralInRange<int>(0, 20));
    affekt::TcnBlockWeights w;
    w.conv1_weight = keep(out * width * taps), w.conv1_bias = keep(out);
    w.conv2_weight = keep(out * out * taps), w.conv2_bias = keep(out);
    if (out != width || input.ConsumeBool())
      w.residual_weight = keep(out * width), w.residual_bias = keep(out);
    if (options.activation == affekt::Rectifier::prelu) {
      const std::size_t n = input.ConsumeBool() ? out : 1;
      w.slope1 = keep(n), w.slope2 = keep(n), w.slope3 = keep(n);
    }
    if (input.ConsumeIntegralInRange<int>(0, 63) == 0) w.conv1_bias = keep(out + 1);  // does not fit
    weights.push_back(w);
    width = out;
  }
  try {
    const affekt::Tcn tcn(options, weights);
    const auto rows = input.ConsumeIntegralInRange<std::size_t>(0, 120);
    const auto in = static_cast<std::size_t>(tcn.in()), out = static_cast<std::size_t>(tcn.out());
    const auto x = noise(random, rows * in, 1), other = noise(random, rows * in, 3);
    std::vector<float> steps(rows * out), blocks(rows * out), beside(rows * out);
    auto state = tcn.make_state(), second = tcn.make_state();
    for (std::size_t t = 0; t < rows; ++t) {
      tcn.process(x.data() + t * in, 1, steps.data() + t * out, state);
      tcn.process(other.data() + t * in, 1, beside.data() + t * out, second);
    }
    for (int round = 0; round < 2; ++round) {
      state.reset();
      for (std::size_t t = 0; t < rows;) {
        const std::size_t n = std::min(rows - t, affekt::fuzz::chunk(input, 40) + 1);
        tcn.process(x.data() + t * in, 0, blocks.data() + t * out, state);  // nothing happens
        tcn.process(x.data() + t * in, n, blocks.data() + t * out, state);
        t += n;
      }
      REQUIRE(affekt::fuzz::same_bits(steps, blocks));
    }
    // Stream s is s rows behind the first: all are at different rows, and each has the bits of one alone.
    const auto streams = input.ConsumeIntegralInRange<std::size_t>(1, 35);
    std::vector<affekt::TcnState> states(streams, tcn.make_state());
    std::vector<std::vector<float>> apart(streams);
    for (std::size_t t = 0; rows > 0 && t < rows + streams - 1; ++t) {
      std::vector<affekt::TcnState*> active;
      std::vector<std::size_t> of;
      std::vector<float> rows_in;
      for (std::size_t s = 0; s < streams; ++s) {
        if (t < s || t - s >= rows) continue;
        active.push_back(&states[s]), of.push_back(s);
        rows_in.insert(rows_in.end(), x.data() + (t - s) * in, x.data() + (t - s + 1) * in);
      }
      std::vector<float> rows_out(of.size() * out);
      tcn.step_many(rows_in.data(), of.size(), rows_out.data(), active.data());
      for (std::size_t i = 0; i < of.size(); ++i)
        apart[of[i]].insert(apart[of[i]].end(), rows_out.data() + i * out, rows_out.data() + (i + 1) * out);
    }
    for (const auto& one : apart) REQUIRE(affekt::fuzz::same_bits(steps, one));
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
  }
  return 0;
}
