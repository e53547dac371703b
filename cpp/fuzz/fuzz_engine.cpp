// The live engine under any sequence of pushes, polls and resets: what it took, it computes with the bits of
// the full pass; what it refuses, it refuses whole and counts. Profiles of a speaker are taken or refused.
#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "fuzz.hpp"
#include "golden.hpp"

using affekt::Engine;
using affekt::FullPass;
using affekt::Status;
using affekt::fuzz::Input;

namespace {

const std::shared_ptr<const affekt::Model>& model(int i) {
  static const char* const names[] = {"utterance", "trace", "speaker", "utterance_int8", "ensemble"};
  static std::shared_ptr<const affekt::Model> models[5];
  if (!models[i])
    models[i] =
        affekt::Model::load(affekt::test::golden_path(std::string("schema1_") + names[i] + ".safetensors"));
  return models[i];
}

struct Run {
  std::vector<float> taken;          // samples since the last reset
  std::vector<float> values, valid;  // estimates since the last reset
};

void check(Input& input, const Run& run, FullPass& pass) {
  std::vector<double> times;
  std::vector<float> values;
  std::vector<std::uint8_t> valid;
  const std::size_t n = run.taken.size();
  for (std::size_t at = 0; at < n;) {
    const std::size_t some = std::min(n - at, affekt::fuzz::chunk(input, 9000) + 1);
    REQUIRE(pass.feed(run.taken.data() + at, some, times, values, &valid) == Status::ok);
    const float bad = std::numeric_limits<float>::infinity();
    REQUIRE(pass.feed(&bad, 1, times, values, &valid) != Status::ok);  // nothing happens
    at += some;
  }
  pass.finish(times, values, &valid);
  REQUIRE(affekt::fuzz::same_bits(values, run.values));
  REQUIRE(affekt::fuzz::same_bits(std::vector<float>(valid.begin(), valid.end()), run.valid));
}

double odd_number(Input& input) {
  switch (input.ConsumeIntegralInRange<int>(0, 7)) {
    case 0:
      return std::bit_cast<double>(input.ConsumeIntegral<std::uint64_t>());
    case 1:
      return 0;
    default:
      return input.ConsumeFloatingPointInRange<double>(-4, 100);
  }
}

/// Gives both a profile: both take it, or both refuse it and stay as they are.
void adapt(Input& input, Engine& engine, FullPass& pass) {
  std::vector<affekt::Adaptation> profile = engine.adaptation();
  for (affekt::Adaptation& node : profile) {
    if (input.ConsumeIntegralInRange<int>(0, 15) == 0) node.node = input.ConsumeRandomLengthString(8);
    if (input.ConsumeIntegralInRange<int>(0, 15) == 0) node.mean.push_back(0);
    node.count = odd_number(input);
    for (double& v : node.mean) v = odd_number(input);
    for (double& v : node.variance) v = odd_number(input);
  }
  if (!profile.empty() && input.ConsumeIntegralInRange<int>(0, 15) == 0) profile.push_back(profile.front());
  bool taken[2] = {true, true};
  try {
    engine.adapt(profile);
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    taken[0] = false;
  }
  try {
    pass.adapt(profile);
  } catch (const affekt::InvalidArgument&) {
    taken[1] = false;
  }
  REQUIRE(taken[0] == taken[1]);
}

template <class T>
void push(Engine& engine, Run& run, const std::vector<T>& x, double scale, const double* time) {
  const auto before = engine.counters();
  std::size_t taken = 99;
  const Status status = time ? engine.push("audio", x.data(), x.size(), *time, &taken)
                             : engine.push("audio", x.data(), x.size(), &taken);
  REQUIRE(taken <= x.size());
  REQUIRE(std::strlen(affekt::message(status)) > 1);
  for (std::size_t i = 0; i < taken; ++i)
    run.taken.push_back(static_cast<float>(static_cast<double>(x[i]) * scale));
  const auto after = engine.counters();
  REQUIRE(after.taken - before.taken == taken);
  switch (status) {
    case Status::ok:
      REQUIRE(taken == x.size());
      break;
    case Status::queue_full:
      REQUIRE(after.refused - before.refused == x.size() - taken);
      break;
    default:
      REQUIRE(taken == 0 && after.rejected == before.rejected + 1);
  }
}

void poll(Engine& engine, Run& run, std::size_t most) {
  affekt::Estimate estimate;
  for (std::size_t i = 0; i < most && engine.poll(estimate); ++i) {
    REQUIRE(std::isfinite(estimate.time));
    REQUIRE(estimate.values.size() == engine.model().columns().size());
    run.values.insert(run.values.end(), estimate.values.begin(), estimate.values.end());
    run.valid.push_back(estimate.valid);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  const auto m = model(input.ConsumeIntegralInRange<int>(0, 4));
  affekt::EngineOptions options;
  options.queue_s = input.ConsumeIntegralInRange<int>(1, 50) / 100.0;
  options.adapting = input.ConsumeBool();
  if (input.ConsumeBool()) options.dejitter_s = input.ConsumeIntegralInRange<int>(1, 1000000);
  Engine engine(m, options);
  FullPass pass(m, options.adapting);
  if (input.ConsumeBool()) adapt(input, engine, pass);
  Run run;
  for (int steps = 0; steps < 60 && input.remaining_bytes() > 0; ++steps) {
    const double time = input.ConsumeBool() ? input.ConsumeIntegral<std::int32_t>() / 1000.0
                                            : static_cast<double>(run.taken.size()) / 8000.0;
    const double* at = input.ConsumeBool() ? nullptr : &time;
    switch (input.ConsumeIntegralInRange<int>(0, 9)) {
      case 0:
      case 1:
        push(engine, run, affekt::fuzz::signal<std::int16_t>(input, 2000), 1.0 / 32768, at);
        break;
      case 2:
      case 3:
        push(engine, run, affekt::fuzz::signal<float>(input, 2000), 1, at);
        break;
      case 4: {  // something that no signal holds
        auto x = affekt::fuzz::signal<float>(input, 100);
        x.push_back(std::bit_cast<float>(input.ConsumeIntegral<std::uint32_t>()));
        push(engine, run, x, 1, at);
        break;
      }
      case 5: {
        const double odd = std::bit_cast<double>(input.ConsumeIntegral<std::uint64_t>());
        push(engine, run, affekt::fuzz::signal<float>(input, 10), 1, &odd);
        break;
      }
      case 6: {
        const std::string name = input.ConsumeRandomLengthString(8);
        std::size_t taken = 99;
        const float x = 0;
        if (name != "audio") {
          REQUIRE(engine.push(name, &x, 1, &taken) == Status::unknown_modality && taken == 0);
        }
        break;
      }
      case 7:
        engine.reset();
        run = Run();
        break;
      default:
        poll(engine, run, input.ConsumeIntegralInRange<std::size_t>(1, 5));
    }
  }
  engine.finish();
  poll(engine, run, static_cast<std::size_t>(-1));
  affekt::Estimate estimate;
  REQUIRE(!engine.poll(estimate));
  const float x = 0;
  std::size_t taken = 99;
  REQUIRE(engine.push("audio", &x, 1, &taken) == Status::finished && taken == 0);
  check(input, run, pass);
  return 0;
}
