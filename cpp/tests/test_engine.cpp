// The live engine: same bits as the full pass for any chunking, time policy, statuses, two threads, no
// allocation.
#include "affekt/engine.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

#include "affekt/error.hpp"
#include "allocations.hpp"
#include "check.hpp"
#include "golden.hpp"

using affekt::Engine;
using affekt::EngineOptions;
using affekt::Estimate;
using affekt::FullPass;
using affekt::InvalidArgument;
using affekt::Model;
using affekt::ModelFileError;
using affekt::Status;
using affekt::test::as_float;
using affekt::test::golden_path;
using affekt::test::golden_signal;

namespace {

const char* const kFiles[] = {"schema1_utterance.safetensors", "schema1_trace.safetensors",
                              "schema1_speaker.safetensors", "schema1_utterance_int8.safetensors",
                              "schema1_ensemble.safetensors"};

std::shared_ptr<const Model> utterance() {
  static const auto model = Model::load(golden_path(kFiles[0]));
  return model;
}

struct Result {
  std::vector<double> times;
  std::vector<float> values;
  std::vector<std::uint8_t> valid;
  bool operator==(const Result& other) const {
    return times == other.times && valid == other.valid && values.size() == other.values.size() &&
           std::memcmp(values.data(), other.values.data(), values.size() * sizeof(float)) == 0;
  }
};

template <class T>
Result full(const std::shared_ptr<const Model>& model, const std::vector<T>& x) {
  Result r;
  FullPass pass(model);
  CHECK(pass.feed(x.data(), x.size(), r.times, r.values, &r.valid) == Status::ok);
  pass.finish(r.times, r.values, &r.valid);
  return r;
}

void drain(Engine& engine, Result& r) {
  Estimate estimate;
  while (engine.poll(estimate)) {
    for (const float value : estimate.values) CHECK(std::isfinite(value));
    r.valid.push_back(estimate.valid);
    r.times.push_back(estimate.time);
    r.values.insert(r.values.end(), estimate.values.begin(), estimate.values.end());
  }
}

void any_chunking_equals_the_full_pass() {
  std::mt19937 random(3);
  for (const char* file : kFiles) {
    const auto model = Model::load(golden_path(file));
    const auto pcm = golden_signal(20000);
    const auto x = as_float(pcm);
    const Result expected = full(model, x);
    CHECK(expected.times.size() > 20);
    CHECK(full(model, pcm) == expected);

    Engine engine(model, {0.25, 0.1});  // a queue of 2000 samples, so that pushes meet a full one
    for (const std::size_t most : {1, 7, 160, 1999, 5000}) {
      Result r;
      engine.reset();
      for (std::size_t at = 0; at < x.size();) {
        const std::size_t n = std::min<std::size_t>(x.size() - at, 1 + random() % most);
        std::size_t taken = 99;
        const Status status = random() % 2 ? engine.push("audio", x.data() + at, n, &taken)
                                           : engine.push("audio", pcm.data() + at, n, &taken);
        CHECK(status == (taken == n ? Status::ok : Status::queue_full));
        at += taken;
        if (taken < n || random() % 3 == 0) drain(engine, r);
      }
      engine.finish();
      drain(engine, r);
      CHECK(r == expected);
      CHECK_EQ(engine.counters().taken, x.size());
      CHECK_EQ(engine.counters().estimates, r.times.size());
      CHECK_EQ(engine.counters().reanchors, 0u);
    }
    // The full pass in pieces, and once more after a reset.
    FullPass pass(model);
    for (const std::size_t most : {1, 300, 20000}) {
      Result r;
      pass.reset();
      for (std::size_t at = 0; at < x.size();) {
        const std::size_t n = std::min<std::size_t>(x.size() - at, 1 + random() % most);
        pass.feed(x.data() + at, n, r.times, r.values, &r.valid);
        at += n;
      }
      pass.finish(r.times, r.values, &r.valid);
      CHECK(r == expected);
    }
  }
}

void what_is_learnt_can_be_taken_and_given() {
  const auto model = Model::load(golden_path(kFiles[2]));
  const auto x = as_float(golden_signal(20000));
  FullPass first(model);
  Result fresh, known, r;
  first.feed(x.data(), x.size(), fresh.times, fresh.values, &fresh.valid);
  first.finish(fresh.times, fresh.values, &fresh.valid);
  CHECK(std::count(fresh.valid.begin(), fresh.valid.end(), 0) > 2);
  const auto profile = first.adaptation();
  CHECK_EQ(profile.size(), 2u);
  CHECK_EQ(profile[0].node, "rows");
  CHECK_EQ(profile[1].mean.size(), 15u);
  CHECK(profile[0].count > 50);

  // From a profile: another result, the same for engine and pass, again after a reset, and the profile stays.
  FullPass again(model, false);
  Engine engine(model);
  again.adapt(profile);
  engine.adapt(profile);
  engine.set_adapting(false);
  for (int round = 0; round < 2; ++round) {
    known = r = {};
    again.feed(x.data(), x.size(), known.times, known.values, &known.valid);
    again.finish(known.times, known.values, &known.valid);
    CHECK(engine.push("audio", x.data(), x.size()) == Status::ok);
    engine.finish();
    drain(engine, r);
    CHECK(r == known);
    CHECK(r.values != fresh.values);
    CHECK(engine.adaptation()[1].mean == profile[1].mean);
    CHECK(engine.adaptation()[1].variance == profile[1].variance);
    again.reset();
    engine.reset();
  }
  again.adapt({});  // forgets
  CHECK(again.adaptation()[0].count == 0);

  const auto expect = [&](const char* text, auto change) {
    auto wrong = profile;
    change(wrong);
    CHECK_THROWS(engine.adapt(wrong), InvalidArgument, text);
    CHECK(engine.adaptation()[1].mean == profile[1].mean);
  };
  using Profile = std::vector<affekt::Adaptation>;
  expect("adapts no such node", [](Profile& p) { p[0].node = "pool"; });
  expect("adapts no such node", [](Profile& p) { p[0].node = "nobody"; });
  expect("appears twice", [](Profile& p) { p[1] = p[0]; });
  expect("must have 15 values, got 14", [](Profile& p) { p[1].mean.pop_back(); });
  expect("must have 8 values, got 0", [](Profile& p) { p[0].variance.clear(); });
  expect("count must be", [](Profile& p) { p[0].count = -1; });
  expect("count must be", [](Profile& p) { p[0].count = NAN; });
  expect("mean must be finite", [](Profile& p) { p[0].mean[3] = INFINITY; });
  expect("not below 0", [](Profile& p) { p[0].variance[3] = -1e-9; });
  Engine plain(utterance());
  CHECK(plain.adaptation().empty());
  CHECK_THROWS(plain.adapt(profile), InvalidArgument, "adapts no such node");
}

void older_audio_than_the_context_has_no_influence() {
  const auto model = utterance();
  auto x = as_float(golden_signal(20000));
  const Result a = full(model, x);
  const std::size_t changed = 6000;
  for (std::size_t i = 0; i < changed; ++i) x[i] = -0.7f * x[i] + 0.1f;
  const Result b = full(model, x);
  const std::size_t columns = model->columns().size();
  const auto context = static_cast<long>(std::llround(model->timing().context_s * 8000));
  bool before = false;
  std::size_t after = 0;
  for (std::size_t r = 0; r < a.times.size(); ++r) {
    const bool same =
        std::memcmp(&a.values[r * columns], &b.values[r * columns], columns * sizeof(float)) == 0;
    const long oldest = std::lround(a.times[r] * 8000) - context + 1;  // first sample that may matter
    if (oldest >= static_cast<long>(changed)) {
      CHECK(same);
      ++after;
    } else {
      before |= !same;
    }
  }
  CHECK(before);
  CHECK(after > 3);
}

void finish_gives_what_is_owed() {
  const auto model = utterance();
  const auto x = as_float(golden_signal(20000));
  for (std::size_t n : {0, 1, 255, 256, 600, 736, 737, 895, 896, 1056, 20000}) {
    const Result r = full(model, std::vector<float>(x.begin(), x.begin() + static_cast<long>(n)));
    // 256-sample frames every 80; 3 of them every 2; a summary every 3 of those, and of the rest at the end
    const std::size_t frames = n < 256 ? 0 : (n - 256) / 80 + 1;
    const std::size_t stacks = frames < 3 ? 0 : (frames - 3) / 2 + 1;
    CHECK_EQ(r.times.size(), (stacks + 2) / 3);
    if (stacks > 0) CHECK_NEAR(r.times.back(), (255 + 80 * 2 + 160 * (stacks - 1)) / 8000.0, 1e-12);
  }
}

void statuses() {
  Engine engine(utterance());
  const std::vector<float> x(800, 0.1f);
  std::size_t taken = 7;
  CHECK(engine.push("audio", x.data(), 800, 5.0, &taken) == Status::ok);
  CHECK_EQ(taken, 800u);
  CHECK(engine.push("video", x.data(), 800, 5.1, &taken) == Status::unknown_modality);
  CHECK_EQ(taken, 0u);
  CHECK(engine.push("audio", x.data(), 800, 4.9) == Status::time_backwards);
  CHECK(engine.push("audio", x.data(), 800, std::nan("")) == Status::not_finite);
  CHECK(engine.push("audio", x.data(), 800, std::numeric_limits<double>::infinity()) == Status::not_finite);
  for (const float bad : {NAN, INFINITY, -INFINITY, 2e6f}) {
    std::vector<float> y = x;
    y[799] = bad;
    CHECK(engine.push("audio", y.data(), 800, 5.1) ==
          (bad == 2e6f ? Status::out_of_range : Status::not_finite));
  }
  CHECK(engine.push("audio", static_cast<const float*>(nullptr), 0, 5.1) == Status::ok);
  CHECK(engine.push("audio", static_cast<const float*>(nullptr), 3, 5.1) == Status::not_finite);
  CHECK_EQ(engine.counters().taken, 800u);
  CHECK_EQ(engine.counters().rejected, 9u);
  // A second that does not fit: 10 s of queue hold 80000 samples.
  const std::vector<float> minute(60 * 8000, 0.0f);
  CHECK(engine.push("audio", minute.data(), minute.size(), &taken) == Status::queue_full);
  CHECK_EQ(taken, 80000u - 800u);
  CHECK(engine.push("audio", minute.data(), minute.size(), &taken) == Status::queue_full);
  CHECK_EQ(taken, 0u);
  engine.finish();
  CHECK(engine.push("audio", x.data(), 800, 90.0) == Status::finished);
  Result r;
  drain(engine, r);
  CHECK(!r.times.empty());
  Estimate estimate;
  CHECK(!engine.poll(estimate));
  engine.reset();
  CHECK(!engine.poll(estimate));
  CHECK_EQ(engine.counters().rejected, 0u);
  CHECK(engine.push("audio", x.data(), 800, 1.0) == Status::ok);
  for (int s = 0; s <= static_cast<int>(Status::wrong_type); ++s)
    CHECK(std::strlen(affekt::message(static_cast<Status>(s))) >= 2);
  CHECK_NEAR(engine.latency(), 736 / 8000.0, 1e-12);  // until the first estimate; the hop is 480
}

void time_policy() {
  const auto model = utterance();
  const auto x = as_float(golden_signal(16000));
  const auto run = [&](auto time_of) {  // pushes of 100 ms
    Engine engine(model);
    Result r;
    for (std::size_t i = 0; i < 20; ++i) {
      CHECK(engine.push("audio", x.data() + i * 800, 800, time_of(static_cast<double>(i) * 0.1)) ==
            Status::ok);
      if (i % 3 == 0) drain(engine, r);
    }
    engine.finish();
    drain(engine, r);
    return std::pair(r, engine.counters().reanchors);
  };
  const Result plain = full(model, x);
  // An offset moves every time and nothing else; jitter below the threshold moves nothing.
  auto [shifted, n0] = run([](double t) { return 100.0 + t; });
  CHECK(shifted.values == plain.values);
  CHECK_EQ(n0, 0u);
  for (std::size_t i = 0; i < plain.times.size(); ++i)
    CHECK_NEAR(shifted.times[i], 100.0 + plain.times[i], 1e-9);
  auto [jittered, n1] = run([](double t) { return t > 0.95 ? t + 0.05 : t; });
  CHECK(jittered == plain);
  CHECK_EQ(n1, 0u);
  // A gap of 3 s at 1 s: samples before keep their times, samples from there on move by it.
  auto [gap, n2] = run([](double t) { return t > 0.95 ? t + 3 : t; });
  CHECK(gap.values == plain.values);
  CHECK_EQ(n2, 1u);
  for (std::size_t i = 0; i < plain.times.size(); ++i)
    CHECK_NEAR(gap.times[i], plain.times[i] + (plain.times[i] > 0.99999 ? 3 : 0), 1e-9);
  // Moves beyond those that the engine can keep are made late; their samples are taken all the same.
  Engine engine(model);
  for (int i = 0; i < 200; ++i) CHECK(engine.push("audio", x.data(), 10, i) == Status::ok);
  CHECK_EQ(engine.counters().taken, 2000u);
  CHECK_EQ(engine.counters().reanchors, 63u);
  Result late;
  drain(engine, late);
  CHECK(!late.times.empty());
  CHECK(engine.push("audio", x.data(), 800, 200.0) == Status::ok);
  CHECK_EQ(engine.counters().reanchors, 64u);
  const std::size_t before = late.times.size();
  drain(engine, late);
  CHECK(late.times.size() > before);
  CHECK(late.times.back() > 200 && late.times.back() < 200.1);
}

void two_threads() {
  const auto model = utterance();
  const auto x = as_float(golden_signal(40000));
  const Result expected = full(model, x);
  Engine engine(model, {0.05, 0.1});
  Result r;
  std::thread producer([&] {
    for (std::size_t at = 0; at < x.size();) {
      std::size_t taken = 0;
      engine.push("audio", x.data() + at, std::min<std::size_t>(x.size() - at, 333), &taken);
      if (taken == 0) std::this_thread::yield();
      at += taken;
    }
    engine.finish();
  });
  // The estimate at the end is owed, so its arrival says that all came through.
  while (r.times.size() < expected.times.size()) {
    drain(engine, r);
    std::this_thread::yield();
  }
  producer.join();
  drain(engine, r);
  CHECK(r == expected);
}

void sessions_share_a_model() {
  const auto model = utterance();
  std::vector<std::thread> threads;
  std::vector<Result> results(3);
  for (std::size_t i = 0; i < results.size(); ++i)
    threads.emplace_back([&, i] { results[i] = full(model, as_float(golden_signal(8000))); });
  for (std::thread& t : threads) t.join();
  CHECK(results[0] == results[1]);
  CHECK(results[0] == results[2]);
}

void the_hot_path_allocates_nothing() {
  for (const char* file : kFiles) {
    Engine engine(golden_path(file));
    const auto pcm = golden_signal(16000);
    const auto x = as_float(pcm);
    Estimate estimate;
    int estimates = 0;
    const long before = affekt::test::allocations;
    for (int round = 0; round < 2; ++round) {
      for (std::size_t at = 0; at + 160 <= x.size(); at += 160) {
        if (at % 320) {
          engine.push("audio", x.data() + at, 160, static_cast<double>(at) / 8000);
        } else {
          engine.push("audio", pcm.data() + at, 160, static_cast<double>(at) / 8000);
        }
        while (engine.poll(estimate)) ++estimates;
      }
      engine.push("nothing", x.data(), 1);
      engine.finish();
      while (engine.poll(estimate)) ++estimates;
      engine.reset();
    }
    CHECK_EQ(affekt::test::allocations.load(), before);
    CHECK(estimates > 50);
  }
}

// Several inputs on one clock
// ---------------------------------------------------------------------------------

std::shared_ptr<const Model> fused() {
  static const auto model = Model::load(golden_path("schema2_fused.safetensors"));
  return model;
}

/// Noise for input `i` of the model, as samples side by side.
std::vector<float> noise(std::size_t i, double seconds) {
  const auto& input = fused()->inputs()[i];
  std::mt19937 random(static_cast<unsigned>(40 + i));
  std::uniform_real_distribution<float> value(-0.5f, 0.5f);
  std::vector<float> x(static_cast<std::size_t>(seconds * input.rate) *
                       static_cast<std::size_t>(input.channels));
  for (float& v : x) v = value(random);
  return x;
}

struct Joint {
  std::vector<double> times;
  std::vector<float> values;
  std::vector<std::uint8_t> present;
  void take(const Estimate& e) {
    times.push_back(e.time);
    for (const float v : e.values) CHECK(std::isfinite(v));
    values.insert(values.end(), e.values.begin(), e.values.end());
    values.push_back(e.confidence.value());
    present.insert(present.end(), e.present.begin(), e.present.end());
  }
  bool operator==(const Joint&) const = default;
};

Joint joint_full(const std::vector<std::vector<float>>& x) {
  FullPass pass(fused());
  Joint r;
  Estimate e;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto& input = fused()->inputs()[i];
    CHECK(pass.push(input.name, x[i].data(), x[i].size() / static_cast<std::size_t>(input.channels)) ==
          Status::ok);
  }
  pass.finish();
  while (pass.poll(e)) r.take(e);
  CHECK_EQ(pass.counters().late, 0u);
  return r;
}

std::vector<std::vector<float>> all_noise(double seconds) {
  std::vector<std::vector<float>> x;
  for (std::size_t i = 0; i < fused()->inputs().size(); ++i) x.push_back(noise(i, seconds));
  return x;
}

void producers_of_their_own_and_a_full_queue() {
  const auto x = all_noise(8);
  const Joint expected = joint_full(x);
  CHECK(expected.times.size() >= 80);
  EngineOptions options;
  options.queue_s = 0.15;
  options.wait_s = std::numeric_limits<double>::infinity();
  Engine engine(fused(), options);
  std::atomic<std::size_t> left = x.size();
  std::vector<std::thread> producers;
  for (std::size_t i = 0; i < x.size(); ++i)
    producers.emplace_back([&, i] {
      const auto& input = fused()->inputs()[i];
      const auto width = static_cast<std::size_t>(input.channels);
      std::mt19937 random(static_cast<unsigned>(i));
      for (std::size_t at = 0; at < x[i].size() / width;) {
        const std::size_t n = std::min<std::size_t>(x[i].size() / width - at, 1 + random() % 97);
        std::size_t taken = 0;
        engine.push(input.name, x[i].data() + at * width, n, &taken);
        if (taken == 0) std::this_thread::yield();
        at += taken;
      }
      --left;
    });
  Joint r;
  Estimate e;
  while (left > 0) {
    while (engine.poll(e)) r.take(e);
    std::this_thread::yield();
  }
  for (std::thread& t : producers) t.join();
  engine.finish();
  while (engine.poll(e)) r.take(e);
  CHECK(r == expected);
  CHECK_EQ(engine.counters().late, 0u);
  CHECK_EQ(engine.counters("face").estimates, r.times.size());
}

void inputs_on_a_clock_allocate_nothing() {
  const auto x = all_noise(4);
  Engine engine(fused());
  Estimate e;
  int estimates = 0, invalid = 0;
  const long before = affekt::test::allocations;
  for (int round = 0; round < 2; ++round) {
    for (int step = 0; step < 80; ++step) {  // 50 ms each; the face rests for a second
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto& input = fused()->inputs()[i];
        const auto width = static_cast<std::size_t>(input.channels);
        const auto from = static_cast<std::size_t>(step * 0.05 * input.rate);
        const auto to = static_cast<std::size_t>((step + 1) * 0.05 * input.rate);
        if (i == 2 && step >= 30 && step < 50) continue;
        engine.push(input.name, x[i].data() + from * width, to - from,
                    static_cast<double>(from) / input.rate);
      }
      while (engine.poll(e)) {
        ++estimates;
        invalid += !e.valid;
      }
    }
    engine.finish();
    while (engine.poll(e)) ++estimates;
    CHECK_EQ(engine.counters("face").silences, 1u);
    CHECK_EQ(engine.counters("nothing").taken, 0u);
    engine.reset();
  }
  CHECK_EQ(affekt::test::allocations.load(), before);
  CHECK(estimates >= 78);
  CHECK_EQ(invalid, 0);
}

/// Pushes 50 ms of every input to a session: its own stretch of the signals.
void feed(Engine& engine, const std::vector<std::vector<float>>& x, int step, int offset) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto& input = engine.model().inputs()[i];
    const auto width = static_cast<std::size_t>(input.channels);
    const auto at = [&](int s) { return static_cast<std::size_t>(s * 0.05 * input.rate); };
    const std::size_t from = at(step + offset), n = at(step + offset + 1) - from;
    engine.push(input.name, x[i].data() + from * width, n, static_cast<double>(at(step)) / input.rate);
  }
}

void a_pool_gives_the_bits_of_its_sessions_and_allocates_nothing() {
  const auto x = all_noise(6);
  const int sessions = 11, steps = 60;
  std::vector<Joint> alone(sessions), together(sessions);
  EngineOptions options;
  options.dejitter_s = 30;
  for (int s = 0; s < sessions; ++s) {
    Engine engine(fused(), options);
    Estimate e;
    for (int step = 0; step < steps; ++step) {
      feed(engine, x, step, 3 * s);
      while (engine.poll(e)) alone[s].take(e);
    }
    engine.finish();
    while (engine.poll(e)) alone[s].take(e);
    CHECK(alone[s].times.size() >= 28);
    CHECK(s == 0 || !(alone[s] == alone[0]));
  }
  affekt::EnginePool pool(fused(), sessions - 1, options);
  CHECK_EQ(pool.add(), static_cast<std::size_t>(sessions - 1));
  CHECK_EQ(pool.size(), static_cast<std::size_t>(sessions));
  for (Joint& r : together) {  // so that what is counted below is the pool's
    r.times.reserve(1000);
    r.values.reserve(10000);
    r.present.reserve(10000);
  }
  std::size_t session = 0;
  Estimate e;
  const long before = affekt::test::allocations;
  for (int step = 0; step < steps; ++step) {
    for (int s = 0; s < sessions; ++s) feed(pool[s], x, step, 3 * s);
    if (step % 7 == 3) {  // one polled by itself, in part: the rest is not lost
      if (pool[2].poll(e)) together[2].take(e);
    }
    if (step % (step < 30 ? 1 : 9) == 0)
      while (pool.poll(session, e)) together[session].take(e);
  }
  for (int s = 0; s < sessions; ++s) pool[s].finish();
  while (pool.poll(session, e)) together[session].take(e);
  CHECK_EQ(affekt::test::allocations.load(), before);
  for (int s = 0; s < sessions; ++s) {
    CHECK(together[s] == alone[s]);
    CHECK_EQ(pool[s].counters().estimates, alone[s].times.size());
  }
  // One starts again while the others stay where they are.
  pool[4].reset();
  Joint again;
  for (int step = 0; step < steps; ++step) {
    feed(pool[4], x, step, 12);
    while (pool.poll(session, e)) {
      CHECK_EQ(session, 4u);
      again.take(e);
    }
  }
  pool[4].finish();
  while (pool.poll(session, e)) again.take(e);
  CHECK(again == alone[4]);
}

void a_pool_of_any_model() {
  for (const char* file : kFiles) {
    const auto model = Model::load(golden_path(file));
    const auto x = as_float(golden_signal(16000));
    const std::size_t sessions = 9, block = 700;
    affekt::EnginePool pool(model, sessions);
    std::vector<Result> alone(sessions), together(sessions);
    for (std::size_t s = 0; s < sessions; ++s)
      alone[s] = full(model, std::vector<float>(x.begin() + static_cast<long>(100 * s), x.end()));
    Estimate e;
    std::size_t session = 0;
    const auto poll = [&] {
      while (pool.poll(session, e)) {
        together[session].times.push_back(e.time);
        together[session].valid.push_back(e.valid);
        together[session].values.insert(together[session].values.end(), e.values.begin(), e.values.end());
      }
    };
    for (std::size_t at = 0; at < x.size(); at += block) {
      for (std::size_t s = 0; s < sessions; ++s) {
        const std::size_t from = at + 100 * s;
        if (from >= x.size()) continue;
        CHECK(pool[s].push("audio", x.data() + from, std::min(block, x.size() - from)) == Status::ok);
      }
      if (at % 3 == 0) poll();
    }
    for (std::size_t s = 0; s < sessions; ++s) pool[s].finish();
    poll();
    for (std::size_t s = 0; s < sessions; ++s) CHECK(together[s] == alone[s]);
  }
  CHECK_THROWS(affekt::EnginePool(std::shared_ptr<const Model>()), InvalidArgument, "model");
  CHECK_THROWS(affekt::EnginePool(utterance(), 1, {0.0}), InvalidArgument, "queue_s");
  affekt::EnginePool empty(utterance());
  std::size_t session = 7;
  Estimate e;
  CHECK(!empty.poll(session, e));
}

void snapshots_of_any_model() {
  for (const char* file : kFiles) {
    const auto model = Model::load(golden_path(file));
    const auto x = as_float(golden_signal(16000));
    const Result expected = full(model, x);
    Engine engine(model), other(model);
    Result r;
    engine.push("audio", x.data(), 7001);
    Estimate e;
    for (int i = 0; i < 5 && engine.poll(e); ++i) {
      r.times.push_back(e.time);
      r.valid.push_back(e.valid);
      r.values.insert(r.values.end(), e.values.begin(), e.values.end());
    }
    const affekt::Snapshot kept = engine.snapshot();
    engine.push("audio", x.data(), 5000);
    while (engine.poll(e)) continue;
    for (Engine* to : {&engine, &other}) {
      Result again = r;
      to->restore(kept);
      CHECK_EQ(to->counters().taken, 7001u);
      CHECK(to->push("audio", x.data() + 7001, x.size() - 7001) == Status::ok);
      to->finish();
      drain(*to, again);
      CHECK(again == expected);
    }
  }
  Engine engine(utterance()), stranger(fused());
  CHECK_THROWS(stranger.restore(engine.snapshot()), InvalidArgument, "not of an engine over this model");
}

void a_far_jump_of_the_clock_is_no_flood() {
  Engine engine(fused());
  const auto x = all_noise(1);
  std::size_t estimates = 0;
  for (const double start : {0.0, 3e9}) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto& input = fused()->inputs()[i];
      CHECK(engine.push(input.name, x[i].data(), x[i].size() / static_cast<std::size_t>(input.channels),
                        start) == Status::ok);
    }
    Estimate e;
    while (engine.poll(e)) ++estimates;
  }
  CHECK(estimates > 15 && estimates < 30);
  CHECK(engine.push("face", x[2].data(), 1, 5e9) == Status::out_of_range);
  const std::int16_t pcm = 0;
  CHECK(engine.push("eeg", &pcm, 0) == Status::wrong_type);
}

void wrong_construction() {
  const auto with = [](double queue_s, double reanchor_s) {
    return Engine(utterance(), {queue_s, reanchor_s});
  };
  CHECK_THROWS(with(0, 0.1), InvalidArgument, "queue_s");
  CHECK_THROWS(with(1e9, 0.1), InvalidArgument, "queue_s");
  CHECK_THROWS(with(NAN, 0.1), InvalidArgument, "queue_s");
  CHECK_THROWS(with(1, -1), InvalidArgument, "reanchor_s");
  EngineOptions jitter;
  for (const double bad : {0.0, 0.5, -1.0, 2e6, static_cast<double>(NAN)}) {
    jitter.dejitter_s = bad;
    CHECK_THROWS(Engine(utterance(), jitter), InvalidArgument, "dejitter_s");
  }
  CHECK_THROWS(Engine(std::shared_ptr<const Model>()), InvalidArgument, "model");
  CHECK_THROWS(FullPass(std::shared_ptr<const Model>()), InvalidArgument, "model");
  CHECK_THROWS(Engine(golden_path("none")), std::exception, "none");
  Engine tiny(utterance(), {1e-9, 0.1});  // still one sample
  const float x = 0;
  CHECK(tiny.push("audio", &x, 1) == Status::ok);
  CHECK(tiny.push("audio", &x, 1) == Status::queue_full);
}

}  // namespace

int main() {
  any_chunking_equals_the_full_pass();
  what_is_learnt_can_be_taken_and_given();
  older_audio_than_the_context_has_no_influence();
  finish_gives_what_is_owed();
  statuses();
  time_policy();
  two_threads();
  sessions_share_a_model();
  the_hot_path_allocates_nothing();
  producers_of_their_own_and_a_full_queue();
  inputs_on_a_clock_allocate_nothing();
  a_pool_gives_the_bits_of_its_sessions_and_allocates_nothing();
  a_pool_of_any_model();
  snapshots_of_any_model();
  a_far_jump_of_the_clock_is_no_flood();
  wrong_construction();
  return affekt::test::result();
}
