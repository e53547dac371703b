// An engine of several inputs on one clock, under any stamps (gaps, overlaps, jitter, far away, no time at
// all), any order and sizes of pushes, inputs that end early, snapshots: where no sample came late it gives
// the bits of the full pass over what it took, and with one that waits for every input none is late. What it
// refuses, it refuses whole and counts; ticks only rise; an input that counts on is never stopped for good by
// those that do not come.
#include <string>

#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "fuzz.hpp"
#include "golden.hpp"

using affekt::Engine;
using affekt::FullPass;
using affekt::InputSpec;
using affekt::Status;
using affekt::fuzz::Input;

namespace {

const std::shared_ptr<const affekt::Model>& model() {
  static const auto fused = affekt::Model::load(affekt::test::golden_path("schema2_fused.safetensors"));
  return fused;
}

struct Push {
  std::size_t input;
  std::optional<double> time;
  std::vector<float> samples;
};

struct Heard {
  std::vector<double> times;
  std::vector<float> values, confidence, valid, present;
};

struct Run {
  std::vector<Push> taken;  // since the last reset, in their order
  Heard heard;
  std::vector<std::size_t> samples = std::vector<std::size_t>(model()->inputs().size());
  // What the next sample's time would be, and the last stamp.
  std::vector<double> next = std::vector<double>(model()->inputs().size());
  std::vector<double> stamp = std::vector<double>(model()->inputs().size());
  bool jumped = false;  // whether an audio or EEG clock moved
};

/// Hears up to `most` estimates of either.
template <class From>
bool hear(From& from, Heard& heard, std::size_t most) {
  const double rate = model()->timing().clock_hz;
  affekt::Estimate e;
  for (std::size_t i = 0; i < most; ++i) {
    if (!from.poll(e)) return true;
    REQUIRE(std::abs(e.time * rate - std::round(e.time * rate)) < 1e-3);
    REQUIRE(heard.times.empty() || e.time > heard.times.back());
    REQUIRE(e.values.size() == model()->columns().size());
    REQUIRE(e.present.size() == model()->inputs().size());
    REQUIRE(std::any_of(e.present.begin(), e.present.end(), [](auto p) { return p; }) || !e.valid);
    REQUIRE(e.latency >= 0 && std::isfinite(e.latency));
    heard.times.push_back(e.time);
    heard.values.insert(heard.values.end(), e.values.begin(), e.values.end());
    heard.present.insert(heard.present.end(), e.present.begin(), e.present.end());
    heard.valid.push_back(e.valid);
    heard.confidence.push_back(e.confidence.value_or(-1));
  }
  return false;
}

std::optional<double> stamp(Input& input, const Run& run, std::size_t which) {
  switch (input.ConsumeIntegralInRange<int>(0, 15)) {
    case 0:  // an overlap, which goes back on the count but not on the last stamp
      return run.stamp[which] + input.ConsumeIntegralInRange<int>(0, 300) / 1000.0;
    case 1:
    case 2:  // a gap
      return run.next[which] + input.ConsumeIntegralInRange<int>(0, 3000) / 1000.0;
    case 3:  // anywhere
      return input.ConsumeIntegral<std::int32_t>() / 1000.0;
    case 4:
      return std::bit_cast<double>(input.ConsumeIntegral<std::uint64_t>());
    case 5:
    case 6:
    case 7:
    case 8:  // jitter
      return run.next[which] + input.ConsumeIntegralInRange<int>(-60, 60) / 1000.0;
    case 9:
    case 10:
    case 11:
      return run.next[which];
    default:
      return {};
  }
}

void push(Input& input, Engine& engine, Run& run, bool steady) {
  const std::size_t which = input.ConsumeIntegralInRange<std::size_t>(0, run.next.size() - 1);
  const InputSpec& spec = model()->inputs()[which];
  const std::size_t width = static_cast<std::size_t>(spec.channels);
  const std::size_t most = std::max<std::size_t>(8, static_cast<std::size_t>(spec.rate / 4));
  std::vector<float> x = affekt::fuzz::signal<float>(input, most);
  const std::size_t n = x.size();
  for (std::size_t i = 0; i < n * (width - 1); ++i) x.push_back(x[i] * 0.5f);
  std::optional<double> time = stamp(input, run, which);
  if (n > 0 && input.ConsumeIntegralInRange<int>(0, 31) == 0)
    x.back() = std::bit_cast<float>(input.ConsumeIntegral<std::uint32_t>());
  // Dry, so that only what the clock holds back takes room.
  const bool dry = input.ConsumeBool() && hear(engine, run.heard, static_cast<std::size_t>(-1));

  const auto before = engine.counters(spec.name);
  std::size_t taken = 99;
  const Status status =
      time ? engine.push(spec.name, x.data(), n, *time, &taken) : engine.push(spec.name, x.data(), n, &taken);
  const auto after = engine.counters(spec.name);
  REQUIRE(taken <= n);
  REQUIRE(after.taken + after.duplicates - before.taken - before.duplicates == taken);
  run.jumped |= spec.kind != "rows" && after.reanchors > 0;
  switch (status) {
    case Status::ok:
      REQUIRE(taken == n);
      break;
    case Status::queue_full:
      REQUIRE(taken < n && after.refused - before.refused == n - taken);
      REQUIRE(!(dry && steady && !run.jumped && spec.kind != "rows" && taken == 0));
      break;
    default:
      REQUIRE(taken == 0 || after.duplicates > before.duplicates);
      REQUIRE(after.rejected == before.rejected + 1);
  }
  if (taken == 0) return;
  x.resize(taken * width);
  if (time) run.stamp[which] = *time;
  run.next[which] = time.value_or(run.next[which]) + static_cast<double>(taken) / spec.rate;
  run.samples[which] += taken;
  run.taken.push_back({which, time, std::move(x)});
}

/// The full pass over what was taken gives the same, whatever the order of the inputs.
void check(Input& input, const Run& run, const affekt::EngineOptions& options) {
  FullPass pass(model(), options.adapting, options.dejitter_s);
  Heard heard;
  const bool in_order = input.ConsumeBool(), polls = input.ConsumeBool();
  for (std::size_t which = 0; which < (in_order ? 1 : run.next.size()); ++which)
    for (const Push& p : run.taken) {
      if (!in_order && p.input != which) continue;
      const InputSpec& spec = model()->inputs()[p.input];
      const std::size_t n = p.samples.size() / static_cast<std::size_t>(spec.channels);
      REQUIRE(pass.push(spec.name, p.samples.data(), n, p.time) == Status::ok);
      if (polls) hear(pass, heard, 3);
    }
  pass.finish();
  hear(pass, heard, static_cast<std::size_t>(-1));
  REQUIRE(affekt::fuzz::same_bits(heard.times, run.heard.times));
  REQUIRE(affekt::fuzz::same_bits(heard.values, run.heard.values));
  REQUIRE(affekt::fuzz::same_bits(heard.present, run.heard.present));
  REQUIRE(affekt::fuzz::same_bits(heard.valid, run.heard.valid));
  REQUIRE(affekt::fuzz::same_bits(heard.confidence, run.heard.confidence));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A session takes many pushes, and the fuzzer is slow to find long inputs: where its bytes end, which are
  // read from the back, noise goes on that follows from the first of them.
  std::vector<std::uint8_t> bytes(300);
  std::minstd_rand random(size > 0 ? data[0] + 1u : 1u);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 8);
  bytes.insert(bytes.end(), data, data + size);
  Input input(bytes.data(), bytes.size());
  affekt::EngineOptions options;
  const bool waits = input.ConsumeBool();
  const double wait = waits ? 0 : input.ConsumeIntegralInRange<int>(0, 1500) / 1000.0;
  options.wait_s = waits ? std::numeric_limits<double>::infinity() : wait;
  options.queue_s = wait + 0.08 + input.ConsumeIntegralInRange<int>(1, 3000) / 1000.0;
  if (input.ConsumeBool()) options.dejitter_s = input.ConsumeIntegralInRange<int>(1, 1000);
  Engine engine(model(), options);
  Run run;
  for (int steps = 0; steps < 120 && input.remaining_bytes() > 0; ++steps) {
    switch (input.ConsumeIntegralInRange<int>(0, 31)) {
      case 0:
        engine.reset();
        run = Run();
        break;
      case 1: {
        const auto& inputs = model()->inputs();
        const auto which = input.ConsumeIntegralInRange<std::size_t>(0, inputs.size() - 1);
        REQUIRE(engine.finish(inputs[which].name) == Status::ok);
        break;
      }
      case 2: {
        Engine other(model());
        other.restore(engine.snapshot());
        engine = std::move(other);
        break;
      }
      case 3:
      case 4:
      case 5:
      case 6:
        hear(engine, run.heard, input.ConsumeIntegralInRange<std::size_t>(1, 40));
        break;
      default:
        push(input, engine, run, !waits && !options.dejitter_s);
    }
  }
  engine.finish();
  REQUIRE(hear(engine, run.heard, static_cast<std::size_t>(-1)));
  affekt::Estimate estimate;
  REQUIRE(!engine.poll(estimate));
  const auto all = engine.counters();
  REQUIRE(all.estimates == run.heard.times.size());
  REQUIRE(!waits || all.late == 0);
  for (std::size_t i = 0; i < run.samples.size(); ++i) {
    const auto c = engine.counters(model()->inputs()[i].name);
    REQUIRE(c.taken + c.duplicates == run.samples[i]);
    REQUIRE(c.estimates <= all.estimates);
  }
  if (all.late == 0) check(input, run, options);
  return 0;
}
