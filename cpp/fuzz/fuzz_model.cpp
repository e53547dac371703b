// A model file of any bytes: an error with a message, or a model that runs, live in any chunks with the bits
// of the full pass. The mutator works on the card, the header and the tensors behind a fresh hash, because
// the hash would stop almost everything else.
#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "fuzz.hpp"
#include "golden.hpp"
#include "model_parts.hpp"

using affekt::test::Json;
using affekt::test::Parts;

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

void collect(Json& value, std::vector<Json*>& all) {
  if (value.is_structured())
    for (Json& item : value) collect(item, all);
  all.push_back(&value);
}

std::string mutated(const std::string& text, std::size_t most) {
  std::string room(std::max(text.size(), most), '\0');
  std::memcpy(room.data(), text.data(), text.size());
  room.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(room.data()), text.size(), room.size()));
  return room;
}

Json other_value(std::minstd_rand& random, const Json& old, const std::vector<Json*>& all) {
  switch (random() % 5) {
    case 0: {
      static const Json poison[] = {
          nullptr,        true,      0,         1,    -1,  2,       3,  0.5, -0.0,
          1e308,          1e-320,    64,        4096, 1.5, 1 << 24, "", "x", Json::array(),
          Json::object(), INT64_MIN, UINT64_MAX};
      return poison[random() % std::size(poison)];
    }
    case 1:
      return *all[random() % all.size()];
    case 2:
      if (old.is_string()) return Json(mutated(old.get<std::string>(), 64));
      [[fallthrough]];
    case 3:
      if (old.is_number_integer()) return old.get<std::int64_t>() / 2 + static_cast<int>(random() % 5) - 1;
      if (old.is_number()) return old.get<double>() * (0.25 + static_cast<double>(random() % 8) / 2);
      [[fallthrough]];
    default:
      return static_cast<int>(random() % 33);
  }
}

void mutate(Json& document, std::minstd_rand& random) {
  std::vector<Json*> all;
  collect(document, all);
  Json& chosen = *all[random() % all.size()];
  const Json fresh = other_value(random, chosen, all);
  switch (random() % 4) {
    case 0:
      if (chosen.is_array() && !chosen.empty()) {
        if (random() % 2) {
          chosen.erase(random() % chosen.size());
        } else {
          chosen.push_back(Json(chosen[random() % chosen.size()]));
        }
        return;
      }
      if (chosen.is_object() && !chosen.empty()) {
        const auto at = std::next(chosen.begin(), static_cast<std::ptrdiff_t>(random() % chosen.size()));
        if (random() % 2) {
          chosen.erase(at);
        } else {
          chosen[mutated(at.key(), 32)] = Json(at.value());
        }
        return;
      }
      [[fallthrough]];
    default:
      chosen = fresh;
  }
}

/// Samples for input `i`: a quarter of a second, or what `x` has of it.
std::size_t samples_of(const affekt::Model& model, std::size_t i, const std::vector<float>& x) {
  const affekt::InputSpec& input = model.inputs()[i];
  const std::size_t most = x.size() / static_cast<std::size_t>(input.channels);
  return model.timing().clock_hz > 0 ? std::min(most, static_cast<std::size_t>(0.25 * input.rate)) : most;
}

/// The same for inputs that are joined on a clock.
std::vector<float> joint_full(const std::shared_ptr<const affekt::Model>& model,
                              const std::vector<float>& x) {
  affekt::FullPass pass(model);
  std::vector<float> values;
  affekt::Estimate estimate;
  for (std::size_t i = 0; i < model->inputs().size(); ++i)
    REQUIRE(pass.push(model->inputs()[i].name, x.data(), samples_of(*model, i, x)) == affekt::Status::ok);
  pass.finish();
  while (pass.poll(estimate)) {
    values.insert(values.end(), estimate.values.begin(), estimate.values.end());
    values.insert(values.end(), estimate.present.begin(), estimate.present.end());
  }
  return values;
}

std::vector<float> joint_live(const std::shared_ptr<const affekt::Model>& model, const std::vector<float>& x,
                              std::minstd_rand& random) {
  affekt::EngineOptions options;
  options.queue_s = 0.3;
  options.wait_s = std::numeric_limits<double>::infinity();
  affekt::Engine engine(model, options);
  std::vector<float> values;
  affekt::Estimate estimate;
  const auto drain = [&] {
    while (engine.poll(estimate)) {
      values.insert(values.end(), estimate.values.begin(), estimate.values.end());
      values.insert(values.end(), estimate.present.begin(), estimate.present.end());
    }
  };
  std::vector<std::size_t> at(model->inputs().size(), 0);
  for (bool left = true; left;) {
    left = false;
    for (std::size_t i = 0; i < at.size(); ++i) {
      const affekt::InputSpec& input = model->inputs()[i];
      const std::size_t n = samples_of(*model, i, x) - at[i];
      std::size_t taken = 0;
      if (n > 0)
        engine.push(input.name, x.data() + at[i] * static_cast<std::size_t>(input.channels),
                    std::min<std::size_t>(n, 1 + random() % 700), &taken);
      at[i] += taken;
      left |= taken > 0;
    }
    if (random() % 2) drain();
  }
  engine.finish();
  drain();
  return values;
}

/// The values and marks of a run in one row of numbers.
std::vector<float> full(const std::shared_ptr<const affekt::Model>& model, const std::vector<float>& x) {
  std::vector<double> times;
  std::vector<float> values;
  std::vector<std::uint8_t> valid;
  affekt::FullPass pass(model);
  REQUIRE(pass.feed(x.data(), samples_of(*model, 0, x), times, values, &valid) == affekt::Status::ok);
  pass.finish(times, values, &valid);
  REQUIRE(values.size() == times.size() * model->columns().size());
  REQUIRE(valid.size() == times.size());
  REQUIRE(std::is_sorted(times.begin(), times.end()));
  values.insert(values.end(), valid.begin(), valid.end());
  return values;
}

std::vector<float> live(const std::shared_ptr<const affekt::Model>& model, const std::vector<float>& x,
                        std::minstd_rand& random) {
  affekt::EngineOptions options;
  options.queue_s = 0.1;
  affekt::Engine engine(model, options);
  std::vector<float> values, valid;
  affekt::Estimate estimate;
  const auto drain = [&] {
    while (engine.poll(estimate)) {
      values.insert(values.end(), estimate.values.begin(), estimate.values.end());
      valid.push_back(estimate.valid);
    }
  };
  const std::string modality = model->inputs().front().name;
  const auto width = static_cast<std::size_t>(model->inputs().front().channels);
  for (std::size_t at = 0, n = samples_of(*model, 0, x); at < n;) {
    std::size_t taken = 0;
    engine.push(modality, x.data() + at * width, std::min<std::size_t>(n - at, 1 + random() % 700), &taken);
    at += taken;
    drain();
  }
  engine.finish();
  drain();
  values.insert(values.end(), valid.begin(), valid.end());
  return values;
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed) {
  std::minstd_rand random(seed);
  if (random() % 8) {
    try {
      Parts parts = affekt::test::take_apart(std::string(reinterpret_cast<const char*>(data), size));
      std::string card = parts.card.dump(-1, ' ', false, Json::error_handler_t::replace);
      switch (random() % 8) {
        case 0:
          parts.data = mutated(parts.data, parts.data.size());
          break;
        case 1:
          card = mutated(card, card.size() + 64);
          break;
        case 2:
          mutate(parts.header, random);
          break;
        default:
          for (auto times = 1 + random() % 3; times > 0; --times) mutate(parts.card, random);
          card = parts.card.dump(-1, ' ', false, Json::error_handler_t::replace);
      }
      if (parts.header.is_object()) {
        const std::string bytes = affekt::test::put_together(parts, card);
        if (bytes.size() <= max_size) {
          std::memcpy(data, bytes.data(), bytes.size());
          return bytes.size();
        }
      }
    } catch (const std::exception&) {  // no model file any more: as plain bytes
    }
  }
  return LLVMFuzzerMutate(data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::shared_ptr<const affekt::Model> model;
  try {
    model = affekt::Model::from_bytes(data, size);
  } catch (const affekt::ModelFileError& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    return 0;
  }
  for (const affekt::Tensor& tensor : model->tensors(data, size)) {
    std::size_t n = 1;
    for (const std::size_t d : tensor.shape) n *= d;
    REQUIRE(tensor.values.size() == n);
  }
  if (model->state_bytes() > (4u << 20)) return 0;  // sound, but slow to run again and again
  static const std::vector<float> x = affekt::test::as_float(affekt::test::golden_signal(2500));
  std::minstd_rand random(static_cast<unsigned>(size));
  double queues = 0;
  for (const affekt::InputSpec& input : model->inputs()) queues += input.rate * input.channels;
  if (queues > 1e7) return 0;  // likewise
  if (model->timing().clock_hz > 0) {
    REQUIRE(affekt::fuzz::same_bits(joint_full(model, x), joint_live(model, x, random)));
    return 0;
  }
  REQUIRE(affekt::fuzz::same_bits(full(model, x), live(model, x, random)));
  return 0;
}
