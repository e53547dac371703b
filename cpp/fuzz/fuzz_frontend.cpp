// A front end of any options: an error with a message, or rows; what streams gives the rows of the whole
// signal bit for bit, whatever the pushes. Options survive their JSON form.
#include "affekt/frontend.hpp"
#include "fuzz.hpp"

using affekt::FrontEnd;
using affekt::FrontEndOptions;
using affekt::FrontEndStream;
using affekt::fuzz::Input;

namespace {

template <class E>
E pick(Input& input, E last) {
  return static_cast<E>(input.ConsumeIntegralInRange<int>(0, static_cast<int>(last)));
}

FrontEndOptions options_from(Input& input) {
  FrontEndOptions o;
  static const int lengths[] = {1, 2, 3, 16, 64, 97, 120, 256, 400, 512, 1024};
  o.n_fft = input.ConsumeBool() ? lengths[input.ConsumeIntegralInRange<int>(0, 10)]
                                : input.ConsumeIntegralInRange<int>(-2, 600);
  o.win_length = input.ConsumeBool() ? o.n_fft : input.ConsumeIntegralInRange<int>(-2, 600);
  o.hop_length = input.ConsumeIntegralInRange<int>(0, 700);
  o.window = pick(input, affekt::Window::rectangular);
  o.periodic = input.ConsumeBool();
  o.scale = input.ConsumeBool() ? 1.0 : 32768.0;
  if (input.ConsumeBool()) {
    o.preemphasis = input.ConsumeFloatingPointInRange<double>(-0.1, 1.1);
    o.preemphasis_mode = pick(input, affekt::PreemphasisMode::frame);
  }
  o.remove_dc = input.ConsumeBool();
  o.center = input.ConsumeIntegralInRange<int>(0, 3) == 0;
  o.pad_mode = pick(input, affekt::PadMode::symmetric);
  o.span = pick(input, affekt::FrameSpan::win_length);
  o.drop_last = input.ConsumeIntegralInRange<int>(0, 7) == 0;
  static const double powers[] = {1, 2, 0.5, 3};
  o.power = powers[input.ConsumeIntegralInRange<int>(0, 3)];
  o.n_mels = input.ConsumeIntegralInRange<int>(0, 130);
  o.mel_scale = pick(input, affekt::MelScale::kaldi);
  o.mel_norm = pick(input, affekt::MelNorm::slaney);
  if (input.ConsumeBool()) o.f_min = input.ConsumeFloatingPointInRange<double>(-10, 9000);
  if (input.ConsumeBool()) o.f_max = input.ConsumeFloatingPointInRange<double>(-10, 9000);
  o.log = pick(input, affekt::LogMode::log10);
  if (input.ConsumeIntegralInRange<int>(0, 7) == 0) o.top_db = 80;
  o.ref_max = input.ConsumeIntegralInRange<int>(0, 15) == 0;
  if (input.ConsumeBool()) {
    o.n_mfcc = input.ConsumeIntegralInRange<int>(0, 40);
    o.dct_norm = pick(input, affekt::DctNorm::ortho);
    o.lifter = input.ConsumeIntegralInRange<int>(-1, 30);
    o.lifter_mode = pick(input, affekt::LifterMode::htk);
  }
  o.energy = pick(input, affekt::EnergyMode::windowed);
  if (input.ConsumeIntegralInRange<int>(0, 7) == 0) {
    o.deltas = input.ConsumeIntegralInRange<int>(-1, 3);
    o.delta_width = input.ConsumeIntegralInRange<int>(1, 11);
    o.delta_mode = pick(input, affekt::DeltaMode::regression);
  }
  return o;
}

std::vector<float> streamed(const std::shared_ptr<const FrontEnd>& plan, const std::vector<float>& x,
                            Input& input) {
  FrontEndStream stream(plan, input.ConsumeIntegralInRange<std::size_t>(1, 3000));
  const std::size_t width = plan->features();
  std::vector<float> rows, some(16 * width);
  for (int round = 0; round < 2; ++round) {  // once more after a reset
    rows.clear();
    stream.reset();
    const auto drain = [&](std::size_t most) {
      const std::size_t got = most == 1 ? stream.next(some.data()) : stream.next(some.data(), most);
      rows.insert(rows.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(got * width));
      return got;
    };
    for (std::size_t at = 0; at < x.size();) {
      const std::size_t taken =
          stream.push(x.data() + at, std::min(x.size() - at, affekt::fuzz::chunk(input, 3000) + 1));
      at += taken;
      if (taken == 0) REQUIRE(stream.ready() > 0);
      if (taken == 0 || input.ConsumeBool()) drain(input.ConsumeIntegralInRange<std::size_t>(1, 16));
    }
    while (drain(16) > 0) {
    }
    REQUIRE(stream.samples() == x.size());
    REQUIRE(stream.rows() * width == rows.size());
  }
  return rows;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  if (input.ConsumeIntegralInRange<int>(0, 15) == 0) {  // the JSON form
    try {
      const FrontEndOptions o = FrontEndOptions::from_json(input.ConsumeRemainingBytesAsString());
      REQUIRE(FrontEndOptions::from_json(o.to_json()).to_json() == o.to_json());
    } catch (const affekt::InvalidArgument& error) {
      REQUIRE(std::strlen(error.what()) > 5);
    }
    return 0;
  }
  std::shared_ptr<const FrontEnd> plan;
  const FrontEndOptions options = options_from(input);
  try {
    plan = std::make_shared<const FrontEnd>(options);
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    return 0;
  }
  REQUIRE(FrontEndOptions::from_json(plan->options().to_json()).to_json() == plan->options().to_json());
  const auto x = affekt::fuzz::signal<float>(input, 4000);
  std::vector<float> whole(plan->frames(x.size()) * plan->features());
  const std::size_t bad = plan->first_unusable(x.data(), x.size());
  try {
    plan->compute(x.data(), x.size(), whole.data());
  } catch (const affekt::InvalidArgument&) {
    REQUIRE(bad < x.size() || options.deltas > 0);
    return 0;
  }
  REQUIRE(bad == x.size());
  for (const float v : whole) REQUIRE(std::isfinite(v));
  if (plan->streamable()) REQUIRE(affekt::fuzz::same_bits(whole, streamed(plan, x, input)));
  return 0;
}
