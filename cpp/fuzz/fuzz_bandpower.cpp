// Sliding band power of any options: an error with a message, or frames that a stream gives bit for bit,
// whatever the pushes and with missing samples; finite gradients, none in missing samples; options that are
// the same after their text.
#include "affekt/bandpower.hpp"
#include "affekt/bandpower_gradient.hpp"
#include "fuzz.hpp"

using affekt::BandPower;
using affekt::fuzz::Input;

namespace {

template <class T>
void run(Input& input, const std::shared_ptr<const BandPower>& plan) {
  const auto channels = input.ConsumeIntegralInRange<std::size_t>(1, 17);
  std::vector<T> x = affekt::fuzz::signal<T>(input, 20000);  // (time, channels)
  const std::size_t n = x.size() / channels;
  for (int gaps = input.ConsumeIntegralInRange<int>(0, 3); gaps > 0 && !x.empty(); --gaps)
    x[input.ConsumeIntegralInRange<std::size_t>(0, x.size() - 1)] = std::numeric_limits<T>::quiet_NaN();
  std::vector<std::vector<T>> apart(channels, std::vector<T>(n + 1));
  std::vector<const T*> rows;
  for (std::size_t c = 0; c < channels; ++c) {
    for (std::size_t t = 0; t < n; ++t) apart[c][t] = x[t * channels + c];
    rows.push_back(apart[c].data());
  }
  const std::size_t width = channels * plan->bands(), frames = plan->frames(n);
  std::vector<T> whole(frames * width + 1), pieces;
  std::vector<std::uint8_t> marks;
  const auto valid = std::make_unique<bool[]>(frames * channels + 1);
  if (n > 0 && input.ConsumeIntegralInRange<int>(0, 7) == 0) {  // one unusable sample, anywhere
    T& hit = apart[input.ConsumeIntegralInRange<std::size_t>(0, channels - 1)]
                  [input.ConsumeIntegralInRange<std::size_t>(0, n - 1)];
    const T kept = hit;
    hit = input.ConsumeBool() ? std::numeric_limits<T>::infinity() : -std::numeric_limits<T>::max();
    bool refused = false;
    try {
      plan->compute(rows.data(), 1, channels, n, whole.data(), valid.get());
    } catch (const affekt::InvalidArgument&) {
      refused = true;
    }
    REQUIRE(refused);
    hit = kept;
  }
  plan->compute(rows.data(), 1, channels, n, whole.data(), valid.get());
  whole.resize(frames * width);
  const std::vector<T> ones(frames * width + 1, T(1));
  std::vector<T> gradient(n + 1);
  affekt::BandPowerGradient(plan->options())
      .compute(rows[0], n, channels, ones.data(), valid.get(), gradient.data());
  for (std::size_t t = 0; t < n; ++t)
    REQUIRE(std::isfinite(gradient[t]) && !(std::isnan(rows[0][t]) && gradient[t] != 0));
  affekt::BandPowerStream<T> stream(plan, channels, input.ConsumeIntegralInRange<std::size_t>(1, 500));
  std::vector<T> frame(width);
  const auto mark = std::make_unique<bool[]>(channels);
  const auto drain = [&] {
    while (stream.next(frame.data(), mark.get())) {
      pieces.insert(pieces.end(), frame.begin(), frame.end());
      marks.insert(marks.end(), mark.get(), mark.get() + channels);
    }
  };
  for (int round = 0; round < 2; ++round) {
    pieces.clear(), marks.clear();
    stream.reset();
    for (std::size_t at = 0; at < n;) {
      const std::size_t some = std::min(n - at, affekt::fuzz::chunk(input, 700) + 1);
      const std::size_t taken =
          stream.push(x.data() + at * channels, some, 1, static_cast<std::ptrdiff_t>(channels));
      REQUIRE(taken > 0 || stream.ready() > 0);
      at += taken;
      if (taken == 0 || input.ConsumeBool()) drain();
    }
    drain();
    REQUIRE(affekt::fuzz::same_bits(whole, pieces));
    REQUIRE(std::equal(marks.begin(), marks.end(), valid.get()));
    REQUIRE(stream.samples() == n && stream.frames() == frames);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  affekt::BandPowerOptions o;
  o.welch.n_per_seg = input.ConsumeIntegralInRange<std::size_t>(0, 130);
  o.welch.n_overlap = input.ConsumeIntegralInRange<std::size_t>(0, 130);
  o.welch.n_fft = input.ConsumeBool() ? o.welch.n_per_seg : input.ConsumeIntegralInRange<std::size_t>(0, 300);
  o.welch.window = static_cast<affekt::Window>(input.ConsumeIntegralInRange<int>(0, 4));
  o.welch.detrend = static_cast<affekt::Detrend>(input.ConsumeIntegralInRange<int>(0, 2));
  o.welch.average = static_cast<affekt::Average>(input.ConsumeIntegralInRange<int>(0, 1));
  o.win_length = input.ConsumeIntegralInRange<std::size_t>(0, 600);
  o.hop_length = input.ConsumeIntegralInRange<std::size_t>(0, 300);
  o.integration = static_cast<affekt::Integration>(input.ConsumeIntegralInRange<int>(0, 1));
  o.relative = input.ConsumeBool();
  o.log = static_cast<affekt::LogMode>(input.ConsumeIntegralInRange<int>(0, 3));
  std::shared_ptr<const BandPower> plan;
  try {
    plan = std::make_shared<const BandPower>(o);
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    return 0;
  }
  const std::string text = plan->options().to_json();
  REQUIRE(affekt::BandPowerOptions::from_json(text).to_json() == text);
  if (input.ConsumeBool()) {
    run<float>(input, plan);
  } else {
    run<double>(input, plan);
  }
  return 0;
}
