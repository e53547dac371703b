// Any two rates: an error with a message, or a resampler whose stream gives the bits of the whole recording,
// whatever the pushes, of the length that it states, with every result finite and the channels mixed.
#include "affekt/resampler.hpp"
#include "fuzz.hpp"

using affekt::Resampler;
using affekt::ResamplerOptions;
using affekt::ResamplerStream;
using affekt::fuzz::Input;

namespace {

double rate(Input& input) {
  static const double usual[] = {8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000, 250, 256, 0.5};
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      return usual[input.ConsumeIntegralInRange<std::size_t>(0, 11)];
    case 1:
      return input.ConsumeIntegralInRange<int>(-1, 3000);
    default:
      return input.ConsumeFloatingPointInRange<double>(-1, 1e10);
  }
}

/// Recording against stream, for samples of one type.
template <class S>
void run(Input& input, const std::shared_ptr<const Resampler>& plan, std::size_t channels) {
  // Enough for the blocks of the kernels where the filter is short.
  std::vector<std::vector<S>> x{affekt::fuzz::signal<S>(input, input.ConsumeBool() ? 300 : 20000)};
  const std::size_t n = x[0].size();
  if (plan->output_length(n) > 60000) return;
  for (std::size_t c = 1; c < channels; ++c) {
    x.push_back(x[0]);
    std::rotate(x[c].begin(), x[c].begin() + static_cast<std::ptrdiff_t>(n == 0 ? 0 : c * 7 % n), x[c].end());
  }
  std::vector<float> mix;
  for (std::size_t c = 0; c < channels; ++c) mix.push_back(input.ConsumeFloatingPointInRange<float>(-2, 2));
  std::vector<const S*> from;
  for (const auto& row : x) from.push_back(row.data());
  std::vector<float> whole(plan->output_length(n));
  float* to = whole.data();
  plan->compute(from.data(), 1, n, mix, &to);
  for (const float v : whole) REQUIRE(std::isfinite(v));
  ResamplerStream stream(plan, mix);
  for (int round = 0; round < 2; ++round) {
    stream.reset();
    std::vector<float> pieces(whole.size());
    std::size_t made = 0;
    for (std::size_t at = 0; at < n;) {
      const std::size_t some = std::min(n - at, affekt::fuzz::chunk(input, 5000) + 1);
      for (std::size_t c = 0; c < channels; ++c) from[c] = x[c].data() + at;
      REQUIRE(made + stream.most(some) <= pieces.size());
      made += stream.push(from.data(), some, pieces.data() + made);
      at += some;
    }
    REQUIRE(stream.samples() == n);
    made += stream.finish(pieces.data() + made);
    REQUIRE(made == pieces.size());
    REQUIRE(affekt::fuzz::same_bits(whole, pieces));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  ResamplerOptions options;
  options.input_rate = rate(input);
  options.output_rate = input.ConsumeBool()
                            ? rate(input)
                            : options.input_rate * input.ConsumeFloatingPointInRange<double>(1.0 / 300, 300);
  options.passband = input.ConsumeFloatingPointInRange<double>(0.45, 0.985);
  options.rejection = input.ConsumeFloatingPointInRange<double>(30, 145);
  std::shared_ptr<const Resampler> plan;
  try {
    plan = std::make_shared<const Resampler>(options);
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    return 0;
  }
  REQUIRE(plan->multiplications() > 0);
  const auto channels = input.ConsumeIntegralInRange<std::size_t>(1, 3);
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      run<float>(input, plan, channels);
      break;
    case 1:
      run<double>(input, plan, channels);
      break;
    default:
      run<std::int16_t>(input, plan, channels);
  }
  return 0;
}
