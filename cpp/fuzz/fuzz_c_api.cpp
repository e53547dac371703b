// The C interface under any sequence of calls with any handles, sizes and pointers that may be null: each
// gives a status that is known, a failure gives a message, an engine takes what it says it took, and nothing
// else happens.
#include "affekt/affekt.h"
#include "fuzz.hpp"
#include "golden.hpp"

using affekt::fuzz::Input;

namespace {

const char* const kFiles[] = {"schema2_fused.safetensors", "schema1_speaker.safetensors",
                              "schema1_utterance_int8.safetensors"};

affekt_status known(affekt_status status) {
  REQUIRE(std::strcmp(affekt_message(status), "unknown status") != 0);
  if (status != AFFEKT_OK && status != AFFEKT_NO_ESTIMATE) REQUIRE(std::strlen(affekt_last_message()) > 8);
  REQUIRE(status != AFFEKT_INTERNAL && status != AFFEKT_BUSY);
  return status;
}

/// Handles that were given out, freed ones too, as bare numbers.
struct Pool {
  std::vector<std::uintptr_t> seen;
  template <class H>
  H* pick(Input& input) {
    const auto at = input.ConsumeIntegralInRange<std::size_t>(0, seen.size() + 1);
    if (at < seen.size()) return reinterpret_cast<H*>(seen[at]);
    if (at == seen.size()) return nullptr;
    return reinterpret_cast<H*>(input.ConsumeIntegral<std::uintptr_t>());
  }
  template <class H>
  void keep(affekt_status status, H* handle) {
    REQUIRE((status == AFFEKT_OK) == (handle != nullptr));
    if (handle) seen.push_back(reinterpret_cast<std::uintptr_t>(handle));
  }
};

/// A struct whose size is right, mostly.
template <class S>
S sized(Input& input) {
  S s{};
  s.size = input.ConsumeIntegralInRange<int>(0, 7) ? sizeof(S)
                                                   : input.ConsumeIntegralInRange<std::size_t>(0, sizeof(S));
  return s;
}

double odd(Input& input) {
  return input.ConsumeBool() ? input.ConsumeFloatingPointInRange<double>(0, 20)
                             : std::bit_cast<double>(input.ConsumeIntegral<std::uint64_t>());
}

affekt_model* model(std::size_t i) {
  static affekt_model* models[std::size(kFiles)];
  if (!models[i])
    REQUIRE(affekt_model_load(affekt::test::golden_path(kFiles[i]).c_str(), &models[i]) == AFFEKT_OK);
  return models[i];
}

void ask_model(Input& input, Pool& pool) {
  const affekt_model* const m = pool.pick<affekt_model>(input);
  const auto index = input.ConsumeIntegralInRange<std::size_t>(0, 4);
  const char* text = nullptr;
  std::size_t n = 0;
  if (known(affekt_model_hash(m, &text)) == AFFEKT_OK) REQUIRE(std::strlen(text) == 64);
  if (known(affekt_model_card(m, &text)) == AFFEKT_OK) REQUIRE(text[0] == '{');
  auto spec = sized<affekt_input_spec>(input);
  if (known(affekt_model_input(m, index, &spec)) == AFFEKT_OK) REQUIRE(std::strlen(spec.name) > 0);
  auto output = sized<affekt_output_spec>(input);
  if (known(affekt_model_output(m, index, &output)) == AFFEKT_OK)
    for (std::size_t i = 0; i < output.n_labels; ++i) REQUIRE(std::strlen(output.labels[i]) > 0);
  auto timing = sized<affekt_timing>(input);
  known(affekt_model_timing(m, &timing));
  known(affekt_model_inputs(m, input.ConsumeBool() ? &n : nullptr));
  const char* const* names = nullptr;
  known(affekt_model_columns(m, input.ConsumeBool() ? &names : nullptr, input.ConsumeBool() ? &n : nullptr));
}

void push(Input& input, Pool& pool) {
  static const char* const names[] = {"audio", "eeg", "face", "", nullptr};
  affekt_engine* const engine = pool.pick<affekt_engine>(input);
  const char* const name = names[input.ConsumeIntegralInRange<int>(0, 4)];
  const double at = odd(input);
  const double* const time = input.ConsumeBool() ? &at : nullptr;
  std::size_t taken = 99;
  const bool whole = input.ConsumeBool();
  // A sample has up to 6 channels.
  const auto x = affekt::fuzz::signal<float>(input, 3000);
  const std::vector<std::int16_t> pcm(x.size(), 12);
  const std::size_t n = input.ConsumeIntegralInRange<int>(0, 15) ? x.size() / 6 : 0;
  const bool null = input.ConsumeIntegralInRange<int>(0, 15) == 0;
  const affekt_status status =
      whole ? affekt_engine_push_int16(engine, name, null ? nullptr : pcm.data(), n, time, &taken)
            : affekt_engine_push(engine, name, null ? nullptr : x.data(), n, time, &taken);
  known(status);
  REQUIRE(taken <= n);
  if (status == AFFEKT_OK) REQUIRE(taken == n);
  if (status >= AFFEKT_UNKNOWN_MODALITY) REQUIRE(taken == 0);
}

void step(Input& input, Pool& pool) {
  switch (input.ConsumeIntegralInRange<int>(0, 14)) {
    case 0: {
      auto options = sized<affekt_engine_options>(input);
      options.queue_s = input.ConsumeFloatingPointInRange<double>(-0.5, 2);
      options.reanchor_s = input.ConsumeBool() ? 0.1 : odd(input);
      options.wait_s = odd(input);
      options.dejitter_s = input.ConsumeBool() ? -1 : odd(input);
      options.adapting = input.ConsumeIntegralInRange<int>(0, 2);
      affekt_engine* engine = nullptr;
      const affekt_model* const m =
          input.ConsumeBool() ? model(input.ConsumeIntegralInRange<std::size_t>(0, std::size(kFiles) - 1))
                              : pool.pick<affekt_model>(input);
      pool.keep(known(affekt_engine_new(m, input.ConsumeBool() ? &options : nullptr, &engine)), engine);
      break;
    }
    case 1: {
      affekt_model* m = nullptr;
      pool.keep(known(affekt_engine_model(pool.pick<affekt_engine>(input), &m)), m);
      break;
    }
    case 2: {
      affekt_snapshot* snapshot = nullptr;
      pool.keep(known(affekt_engine_snapshot(pool.pick<affekt_engine>(input), &snapshot)), snapshot);
      break;
    }
    case 3:
      known(affekt_engine_restore(pool.pick<affekt_engine>(input), pool.pick<affekt_snapshot>(input)));
      break;
    case 4:
      if (input.ConsumeBool())
        known(affekt_engine_finish(pool.pick<affekt_engine>(input)));
      else
        known(affekt_engine_finish_input(pool.pick<affekt_engine>(input),
                                         input.ConsumeBool() ? "face" : "none"));
      break;
    case 5:
      known(affekt_engine_reset(pool.pick<affekt_engine>(input)));
      break;
    case 6:
      switch (input.ConsumeIntegralInRange<int>(0, 2)) {
        case 0:
          known(affekt_engine_free(pool.pick<affekt_engine>(input)));
          break;
        case 1:
          known(affekt_model_free(pool.pick<affekt_model>(input)));
          break;
        default:
          known(affekt_snapshot_free(pool.pick<affekt_snapshot>(input)));
      }
      break;
    case 7:
      ask_model(input, pool);
      break;
    case 8: {
      affekt_engine* const engine = pool.pick<affekt_engine>(input);
      std::size_t n = 0;
      auto node = sized<affekt_adaptation>(input);
      if (known(affekt_engine_adaptations(engine, &n)) != AFFEKT_OK || n == 0) break;
      if (known(affekt_engine_adaptation(engine, input.ConsumeIntegralInRange<std::size_t>(0, n), &node)) !=
          AFFEKT_OK)
        break;
      if (input.ConsumeBool()) node.count = odd(input);
      if (input.ConsumeIntegralInRange<int>(0, 7) == 0) node.width /= 2;
      if (input.ConsumeIntegralInRange<int>(0, 7) == 0) node.node = "nobody";
      known(affekt_engine_adapt(pool.pick<affekt_engine>(input), &node, 1));
      known(affekt_engine_set_adapting(engine, input.ConsumeIntegralInRange<int>(-1, 2)));
      break;
    }
    case 9: {
      auto counters = sized<affekt_counters>(input);
      double seconds = 0;
      affekt_engine* const engine = pool.pick<affekt_engine>(input);
      known(affekt_engine_counters(engine, input.ConsumeBool() ? "face" : nullptr, &counters));
      if (known(affekt_engine_latency(engine, &seconds)) == AFFEKT_OK) REQUIRE(seconds > 0);
      break;
    }
    case 10:
    case 11: {
      auto estimate = sized<affekt_estimate>(input);
      affekt_engine* const engine = pool.pick<affekt_engine>(input);
      for (int i = 0; i < 20 && known(affekt_engine_poll(engine, &estimate)) == AFFEKT_OK; ++i) {
        REQUIRE(std::isfinite(estimate.time) && estimate.n_values > 0);
        float sum = 0;
        for (std::size_t v = 0; v < estimate.n_values; ++v) sum += estimate.values[v];
        for (std::size_t v = 0; v < estimate.n_present; ++v) REQUIRE(estimate.present[v] <= 1);
        if (estimate.valid) REQUIRE(std::isfinite(sum));
      }
      break;
    }
    default:
      push(input, pool);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  Pool pool;
  affekt_engine* engine = nullptr;
  const affekt_status opened =
      affekt_engine_new(model(input.ConsumeIntegralInRange<std::size_t>(0, 2)), nullptr, &engine);
  pool.keep(opened, engine);
  for (int steps = 0; steps < 60 && input.remaining_bytes() > 0; ++steps) step(input, pool);
  for (const std::uintptr_t handle : pool.seen) {  // each dies by the call of its kind alone
    int freed = affekt_engine_free(reinterpret_cast<affekt_engine*>(handle)) == AFFEKT_OK;
    freed += affekt_model_free(reinterpret_cast<affekt_model*>(handle)) == AFFEKT_OK;
    freed += affekt_snapshot_free(reinterpret_cast<affekt_snapshot*>(handle)) == AFFEKT_OK;
    REQUIRE(freed <= 1);
  }
  return 0;
}
