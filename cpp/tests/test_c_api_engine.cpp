// The C interface against the C++ one: the same bits, nothing allocated on the hot path, and calls that may
// not meet are refused while the others go on.
#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

#include "affekt/affekt.h"
#include "affekt/engine.hpp"
#include "allocations.hpp"
#include "check.hpp"
#include "golden.hpp"

using affekt::Estimate;
using affekt::test::golden_path;

namespace {

const std::string kFused = golden_path("schema2_fused.safetensors");

std::vector<std::vector<float>> inputs(const affekt::Model& model, double seconds) {
  std::vector<std::vector<float>> x;
  std::mt19937 random(11);
  std::uniform_real_distribution<float> value(-0.5f, 0.5f);
  for (const affekt::InputSpec& input : model.inputs()) {
    x.emplace_back(static_cast<std::size_t>(seconds * input.rate) * static_cast<std::size_t>(input.channels));
    for (float& v : x.back()) v = value(random);
  }
  return x;
}

void the_bits_of_the_cpp_engine() {
  affekt::Engine engine(kFused);
  affekt_engine* other = nullptr;
  CHECK_EQ(affekt_engine_open(kFused.c_str(), nullptr, &other), AFFEKT_OK);
  const affekt::Model& model = engine.model();
  const auto x = inputs(model, 4);
  std::size_t estimates = 0;
  for (int step = 0; step <= 80; ++step) {
    for (std::size_t i = 0; i < x.size() && step < 80; ++i) {
      if (i == 1 && step >= 20 && step < 40) continue;  // a second of silence
      const affekt::InputSpec& input = model.inputs()[i];
      const auto width = static_cast<std::size_t>(input.channels);
      const auto from = static_cast<std::size_t>(step * 0.05 * input.rate);
      const auto n = static_cast<std::size_t>((step + 1) * 0.05 * input.rate) - from;
      const double time = 5 + static_cast<double>(from) / input.rate;
      CHECK(engine.push(input.name, &x[i][from * width], n, time) == affekt::Status::ok);
      CHECK_EQ(affekt_engine_push(other, input.name.c_str(), &x[i][from * width], n, &time, nullptr),
               AFFEKT_OK);
    }
    if (step == 80) {
      engine.finish();
      CHECK_EQ(affekt_engine_finish(other), AFFEKT_OK);
    }
    Estimate a;
    affekt_estimate b{};
    b.size = sizeof b;
    while (engine.poll(a)) {
      ++estimates;
      CHECK_EQ(affekt_engine_poll(other, &b), AFFEKT_OK);
      CHECK_EQ(a.time, b.time);
      CHECK_EQ(a.sample, b.sample);
      CHECK_EQ(a.valid, b.valid != 0);
      CHECK_EQ(a.latency, b.latency);
      CHECK_EQ(a.confidence.has_value(), b.has_confidence != 0);
      CHECK_EQ(a.confidence.value(), b.confidence);
      CHECK_EQ(a.values.size(), b.n_values);
      CHECK(std::memcmp(a.values.data(), b.values, a.values.size_bytes()) == 0);
      CHECK_EQ(a.present.size(), b.n_present);
      CHECK(std::memcmp(a.present.data(), b.present, b.n_present) == 0);
    }
    CHECK_EQ(affekt_engine_poll(other, &b), AFFEKT_NO_ESTIMATE);
  }
  CHECK(estimates >= 39);
  affekt_counters counters{};
  counters.size = sizeof counters;
  CHECK_EQ(affekt_engine_counters(other, "eeg", &counters), AFFEKT_OK);
  CHECK_EQ(counters.silences, 1u);
  CHECK_EQ(counters.taken, engine.counters("eeg").taken);
  CHECK_EQ(affekt_engine_free(other), AFFEKT_OK);
}

void nothing_is_allocated() {
  affekt_engine* engine = nullptr;
  CHECK_EQ(affekt_engine_open(kFused.c_str(), nullptr, &engine), AFFEKT_OK);
  const auto x = inputs(*affekt::Model::load(kFused), 2);
  affekt_estimate estimate{};
  estimate.size = sizeof estimate;
  affekt_counters counters{};
  counters.size = sizeof counters;
  int estimates = 0;
  const long before = affekt::test::allocations;
  for (int round = 0; round < 2; ++round) {
    for (std::size_t at = 0; at + 160 <= x[0].size(); at += 160) {
      affekt_engine_push(engine, "audio", &x[0][at], 160, nullptr, nullptr);
      affekt_engine_push(engine, "nothing", &x[0][at], 160, nullptr, nullptr);
      while (affekt_engine_poll(engine, &estimate) == AFFEKT_OK) ++estimates;
      affekt_engine_counters(engine, "audio", &counters);
    }
    affekt_engine_finish(engine);
    affekt_engine_push(engine, "audio", x[0].data(), 1, nullptr, nullptr);
    while (affekt_engine_poll(engine, &estimate) == AFFEKT_OK) ++estimates;
    affekt_engine_reset(engine);
  }
  CHECK_EQ(affekt::test::allocations.load(), before);
  CHECK(estimates >= 38);
  CHECK_EQ(affekt_engine_free(engine), AFFEKT_OK);
}

// Two threads push one input, one polls, one asks for what may not meet them: all goes in once or is refused,
// and each thread reads its own message.
void threads_that_should_not_meet() {
  affekt_engine* engine = nullptr;
  affekt_engine_options options = AFFEKT_ENGINE_OPTIONS;
  options.queue_s = 60;
  CHECK_EQ(affekt_engine_open(golden_path("schema1_trace.safetensors").c_str(), &options, &engine),
           AFFEKT_OK);
  std::atomic<long> taken{0}, estimates{0}, wrong{0}, busy{0};
  std::atomic<bool> go{false}, stop{false};
  const std::vector<float> x(64, 0.25f);
  std::vector<std::thread> producers;
  for (int t = 0; t < 2; ++t)
    producers.emplace_back([&] {
      while (!go) std::this_thread::yield();
      for (int done = 0; done < 1000;) {
        std::size_t n = 0;
        const affekt_status status = affekt_engine_push(engine, "audio", x.data(), x.size(), nullptr, &n);
        taken += static_cast<long>(n);
        if (status == AFFEKT_BUSY) {
          if (!std::strstr(affekt_last_message(), "another push to audio")) ++wrong;
          std::this_thread::yield();
        } else {
          if (status != AFFEKT_OK) ++wrong;
          ++done;
        }
      }
    });
  std::thread consumer([&] {
    affekt_estimate estimate{};
    estimate.size = sizeof estimate;
    while (!stop) {
      const affekt_status status = affekt_engine_poll(engine, &estimate);
      if (status == AFFEKT_OK) ++estimates;
      if (status != AFFEKT_BUSY) continue;
      ++busy;
      if (!std::strstr(affekt_last_message(), "may not meet")) ++wrong;
    }
  });
  std::thread meddler([&] {
    while (!stop) {
      affekt_snapshot* snapshot = nullptr;
      const affekt_status status = affekt_engine_snapshot(engine, &snapshot);
      if (status != AFFEKT_OK && status != AFFEKT_BUSY) ++wrong;
      if (status == AFFEKT_BUSY) ++busy;
      affekt_snapshot_free(snapshot);
      std::this_thread::yield();
    }
  });
  go = true;
  for (std::thread& t : producers) t.join();
  // Two of them do meet sooner or later: a snapshot copies a minute's queue while the other polls on.
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (busy == 0 && std::chrono::steady_clock::now() < late) std::this_thread::yield();
  stop = true;
  consumer.join();
  meddler.join();
  CHECK(busy > 0);
  affekt_estimate rest{};
  rest.size = sizeof rest;
  while (affekt_engine_poll(engine, &rest) == AFFEKT_OK) ++estimates;  // the consumer may have come too late
  affekt_counters counters{};
  counters.size = sizeof counters;
  CHECK_EQ(affekt_engine_counters(engine, nullptr, &counters), AFFEKT_OK);
  CHECK_EQ(counters.taken, static_cast<std::uint64_t>(taken.load()));
  CHECK_EQ(taken.load(), 2L * 1000 * 64);
  CHECK_EQ(wrong.load(), 0);
  CHECK(estimates > 0);
  CHECK_EQ(affekt_engine_free(engine), AFFEKT_OK);
}

// One thread restores, which puts other memory in the engine's place, while another looks and a third pushes:
// whoever looks gets the numbers of before or after, or AFFEKT_BUSY.
void looking_while_another_restores() {
  affekt_engine* engine = nullptr;
  affekt_snapshot* kept = nullptr;
  CHECK_EQ(affekt_engine_open(kFused.c_str(), nullptr, &engine), AFFEKT_OK);
  const std::vector<float> x(64, 0.25f);
  CHECK_EQ(affekt_engine_push(engine, "audio", x.data(), 64, nullptr, nullptr), AFFEKT_OK);
  CHECK_EQ(affekt_engine_snapshot(engine, &kept), AFFEKT_OK);
  std::atomic<long> wrong{0}, looked{0}, restored{0};
  std::atomic<bool> stop{false};
  double expected = 0;
  CHECK_EQ(affekt_engine_latency(engine, &expected), AFFEKT_OK);
  std::vector<std::thread> others;
  for (int t = 0; t < 2; ++t)
    others.emplace_back([&] {
      affekt_counters counters{};
      counters.size = sizeof counters;
      double seconds = 0;
      while (!stop) {
        const affekt_status status = affekt_engine_counters(engine, "audio", &counters);
        if (status == AFFEKT_OK) ++looked;
        if (status == AFFEKT_OK ? counters.taken % 64 != 0 || counters.taken == 0 : status != AFFEKT_BUSY)
          ++wrong;
        const affekt_status asked = affekt_engine_latency(engine, &seconds);
        if (asked == AFFEKT_OK ? seconds != expected : asked != AFFEKT_BUSY) ++wrong;
        std::this_thread::yield();
      }
    });
  others.emplace_back([&] {
    while (!stop) {
      const affekt_status status = affekt_engine_push(engine, "audio", x.data(), 64, nullptr, nullptr);
      if (status != AFFEKT_OK && status != AFFEKT_BUSY && status != AFFEKT_QUEUE_FULL) ++wrong;
      std::this_thread::yield();
    }
  });
  const auto late = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while ((restored < 200 || looked < 200) && std::chrono::steady_clock::now() < late) {
    const affekt_status status = affekt_engine_restore(engine, kept);
    if (status == AFFEKT_OK) ++restored;
    if (status != AFFEKT_OK && status != AFFEKT_BUSY) ++wrong;
    std::this_thread::yield();
  }
  stop = true;
  for (std::thread& t : others) t.join();
  CHECK(restored >= 200);
  CHECK(looked >= 200);
  CHECK_EQ(wrong.load(), 0);
  CHECK_EQ(affekt_snapshot_free(kept), AFFEKT_OK);
  CHECK_EQ(affekt_engine_free(engine), AFFEKT_OK);
}

}  // namespace

int main() {
  the_bits_of_the_cpp_engine();
  nothing_is_allocated();
  threads_that_should_not_meet();
  looking_while_another_restores();
  return affekt::test::result();
}
