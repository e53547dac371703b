// What the node does beside ROS: stamps to seconds and back, estimates to the fields of
// hri_msgs/msg/Expression, counters to those of diagnostic_msgs/msg/DiagnosticStatus, parameters with their
// ranges. Plain C++, no ROS.
#pragma once

#include <affekt/engine.hpp>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace affekt_ros {

/// std_msgs/msg/Header.
struct Header {
  std::int32_t sec = 0;
  std::uint32_t nanosec = 0;
  std::string frame_id;
  bool operator==(const Header&) const = default;
};

/// Time of the messages for the engine, and back: an estimate carries the header of the newest message that
/// is not younger than it. Seconds count from the first message, so that none of a stamp's nanoseconds are
/// lost.
class Stamps {
 public:
  /// Remembers the header; seconds since the first one.
  double seconds(const Header& header);
  /// The header of the newest remembered message at or before `seconds`, or the oldest; a Header() before
  /// any.
  Header at(double seconds) const;
  void reset();

 private:
  struct Seen {
    double seconds = 0;
    Header header;
  };
  std::int64_t origin_ = 0;  // nanoseconds
  std::size_t count_ = 0;
  std::array<Seen, 512> ring_;
};

/// hri_msgs/msg/Expression.
struct Expression {
  Header header;
  std::string expression;  ///< one of the message's words; empty where it has none for the likeliest class
  float valence = 0, arousal = 0;  ///< in [-1, 1]; NaN where the model gives none
  float confidence = 0;            ///< in [0, 1], as the model's card defines it; NaN where it defines none
};

/// The message's word for a class of a model ("happiness" is "happy"); empty where it has none.
std::string_view word(std::string_view label);

/// From estimates of one model to messages.
class Mapping {
 public:
  explicit Mapping(std::shared_ptr<const affekt::Model> model);
  Expression operator()(const affekt::Estimate& estimate, const Header& header) const;
  /// Classes of the model that the message has no word for.
  const std::vector<std::string>& unmapped() const { return unmapped_; }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::size_t valence_ = kNone, arousal_ = kNone, first_ = 0;  // columns; first_ of the classes
  std::vector<std::string> words_;                             // per class
  std::vector<std::string> unmapped_;
};

/// diagnostic_msgs/msg/DiagnosticStatus.
struct Diagnostic {
  enum Level : std::uint8_t { ok = 0, warn = 1, error = 2, stale = 3 };
  Level level = ok;
  std::string name, message;
  std::vector<std::pair<std::string, std::string>> values;
};

/// What happened to one input since the last call.
class Health {
 public:
  explicit Health(std::string name) : name_(std::move(name)) {}
  Diagnostic operator()(const affekt::Counters& now);

 private:
  std::string name_;
  affekt::Counters before_;
};

/// A number that can be set, and where it may lie.
struct Parameter {
  const char* name;
  const char* description;
  double value, low, high;  ///< default and range, both ends included
};
std::span<const Parameter> parameters();
/// What an engine is made with, from the parameters of these names.
affekt::EngineOptions engine_options(double queue_s, double reanchor_s, double wait_s);
/// What is wrong with a value, naming the range; empty if nothing is.
std::string wrong_value(std::string_view name, double value);

}  // namespace affekt_ros
