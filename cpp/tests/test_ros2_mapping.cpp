// The part of the ROS 2 node that knows no ROS.
#include "mapping.hpp"

#include <cmath>

#include "check.hpp"
#include "golden.hpp"

using affekt::Counters;
using affekt::Estimate;
using affekt::Model;
using affekt::test::golden_path;
using affekt_ros::Diagnostic;
using affekt_ros::Expression;
using affekt_ros::Header;
using affekt_ros::Health;
using affekt_ros::Mapping;
using affekt_ros::Stamps;

namespace {

void stamps_are_copied() {
  Stamps stamps;
  CHECK(stamps.at(1) == Header());
  // A clock of today: 1.7e9 s leave doubles 200 ns, but seconds count from the first message.
  const Header first{1'700'000'000, 999'999'999, "mic"}, second{1'700'000'001, 20'000'001, "camera"};
  CHECK_EQ(stamps.seconds(first), 0.0);
  CHECK_NEAR(stamps.seconds(second), 0.020000002, 1e-15);
  CHECK(stamps.at(0.01) == first);
  CHECK(stamps.at(0.0199) == first);
  CHECK(stamps.at(0.02) == second);  // as near as engines tell times apart
  CHECK(stamps.at(99) == second);
  CHECK(stamps.at(-1) == first);
  // Another sensor's earlier message arrives late: order of time rules, not of arrival.
  const Header between{1'700'000'001, 9'999'999, "eeg"};
  CHECK_NEAR(stamps.seconds(between), 0.01, 1e-12);
  CHECK(stamps.at(0.015) == between);
  CHECK(stamps.at(1) == second);
  for (int i = 0; i < 5000; ++i) stamps.seconds({1'700'000'002 + i, 0, "mic"});
  CHECK_EQ(stamps.at(1e9).sec, 1'700'005'001);
  CHECK_EQ(stamps.at(0).sec, 1'700'005'002 - 512);  // the oldest that is remembered
  stamps.reset();
  CHECK_EQ(stamps.seconds(second), 0.0);
}

void estimates_become_messages() {
  const auto model = Model::load(golden_path("schema1_utterance.safetensors"));
  const Mapping mapping(model);  // valence, arousal, dominance, p_calm, p_happy, p_sad
  CHECK_EQ(mapping.unmapped().size(), 1u);
  CHECK_EQ(mapping.unmapped().front(), "calm");
  const Header header{12, 34, "mic"};
  std::vector<float> values{0.25f, -0.5f, 0.75f, 0.1f, 0.7f, 0.2f};
  Estimate estimate;
  estimate.values = values;
  Expression message = mapping(estimate, header);
  CHECK(message.header == header);
  CHECK_EQ(message.expression, "happy");
  CHECK_EQ(message.valence, 0.25f);
  CHECK_EQ(message.arousal, -0.5f);
  CHECK(std::isnan(message.confidence));  // the card defines none
  estimate.confidence = 0.125f;
  CHECK_EQ(mapping(estimate, header).confidence, 0.125f);
  values = {1.5f, -7.0f, 0, 0.8f, 0.1f, 0.1f};
  message = mapping(estimate, header);
  CHECK_EQ(message.expression, "");  // no word for calm
  CHECK_EQ(message.valence, 1.0f);
  CHECK_EQ(message.arousal, -1.0f);
  values = {NAN, INFINITY, 0, 0.1f, NAN, 0.2f};
  message = mapping(estimate, header);
  CHECK(std::isnan(message.valence) && std::isnan(message.arousal));
  CHECK_EQ(message.expression, "");

  const Mapping affect_alone(Model::load(golden_path("schema2_fused.safetensors")));
  const std::vector<float> two{0.5f, 0.25f};
  estimate.values = two;
  message = affect_alone(estimate, header);
  CHECK_EQ(message.expression, "");
  CHECK_EQ(message.arousal, 0.25f);
}

void words() {
  for (const char* same : {"neutral", "happy", "asleep", "excited", "skeptical"})
    CHECK_EQ(affekt_ros::word(same), same);
  CHECK_EQ(affekt_ros::word("happiness"), "happy");
  CHECK_EQ(affekt_ros::word("fearful"), "scared");
  CHECK_EQ(affekt_ros::word("calm"), "");
  CHECK_EQ(affekt_ros::word(""), "");
}

void counters_become_diagnostics() {
  Health health("audio");
  Counters now;
  CHECK_EQ(health(now).level, Diagnostic::stale);
  now.taken = 100;
  Diagnostic status = health(now);
  CHECK_EQ(status.level, Diagnostic::ok);
  CHECK_EQ(status.message, "ok");
  CHECK_EQ(status.name, "affekt: audio");
  CHECK_EQ(status.values.size(), 9u);
  CHECK_EQ(status.values.front().first, "samples");
  CHECK_EQ(status.values.front().second, "100");
  now.taken = 200;
  now.late = 1;
  now.reanchors = 2;
  status = health(now);
  CHECK_EQ(status.level, Diagnostic::warn);
  CHECK(status.message.find("too late") != std::string::npos);
  CHECK(status.message.find("; a gap") != std::string::npos);
  now.taken = 300;  // what was is not reported again
  CHECK_EQ(health(now).level, Diagnostic::ok);
  now.taken = 400;
  now.late = 2;
  now.refused = 5;
  status = health(now);
  CHECK_EQ(status.level, Diagnostic::error);
  CHECK_EQ(status.message, "samples lost, the queue was full");
  now.rejected = 1;  // everything refused is an error and not silence
  CHECK_EQ(health(now).level, Diagnostic::error);
  CHECK_EQ(health(now).level, Diagnostic::stale);
  Counters again;  // after a reset
  again.taken = 10;
  CHECK_EQ(health(again).level, Diagnostic::ok);
}

void parameters_have_ranges() {
  for (const affekt_ros::Parameter& p : affekt_ros::parameters()) {
    for (const double fine : {p.value, p.low, p.high}) CHECK_EQ(affekt_ros::wrong_value(p.name, fine), "");
    for (const double bad :
         {p.low - 1e-3, p.high + 1e-3, static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
      const std::string message = affekt_ros::wrong_value(p.name, bad);
      CHECK(message.find(p.name) == 0);
      CHECK(message.find("expected a number in [") != std::string::npos);
    }
  }
  CHECK(affekt_ros::wrong_value("volume", 1).find("no such") != std::string::npos);
  // What the engine itself takes: no value inside the ranges is refused by it.
  const auto model = Model::load(golden_path("schema2_fused.safetensors"));
  const auto parameters = affekt_ros::parameters();
  CHECK_EQ(std::string(parameters[0].name) + " " + parameters[1].name + " " + parameters[2].name,
           "queue_s reanchor_s wait_s");
  for (int corner = 0; corner < 8; ++corner) {
    const auto value = [&](std::size_t i) {
      return corner >> i & 1 ? parameters[i].high : parameters[i].low;
    };
    affekt::Engine engine(model, affekt_ros::engine_options(value(0), value(1), value(2)));
    CHECK(engine.latency() > 0);
  }
}

}  // namespace

int main() {
  stamps_are_copied();
  estimates_become_messages();
  words();
  counters_become_diagnostics();
  parameters_have_ranges();
  return affekt::test::result();
}
