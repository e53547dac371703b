#include "mapping.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace affekt_ros {

double Stamps::seconds(const Header& header) {
  const std::int64_t ns = std::int64_t{header.sec} * 1'000'000'000 + header.nanosec;
  if (count_ == 0) origin_ = ns;
  const double since = static_cast<double>(ns - origin_) * 1e-9;
  ring_[count_++ % ring_.size()] = {since, header};
  return since;
}

Header Stamps::at(double seconds) const {
  const auto end = ring_.begin() + static_cast<std::ptrdiff_t>(std::min(count_, ring_.size()));
  const Seen* best = nullptr;
  const Seen* oldest = nullptr;
  for (auto seen = ring_.begin(); seen != end; ++seen) {
    if (!oldest || seen->seconds < oldest->seconds) oldest = &*seen;
    if (seen->seconds <= seconds + 1e-6 && (!best || seen->seconds >= best->seconds)) best = &*seen;
  }
  return best ? best->header : oldest ? oldest->header : Header();
}

void Stamps::reset() { count_ = 0; }

std::string_view word(std::string_view label) {
  // The words of hri_msgs/msg/Expression.
  static constexpr std::string_view words[] = {
      "neutral",   "angry",      "sad",       "happy",      "surprised",    "disgusted",   "scared",
      "pleading",  "vulnerable", "despaired", "guilty",     "disappointed", "embarrassed", "horrified",
      "skeptical", "annoyed",    "furious",   "suspicious", "rejected",     "bored",       "tired",
      "asleep",    "confused",   "amazed",    "excited"};
  static constexpr std::pair<std::string_view, std::string_view> others[] = {
      {"anger", "angry"},        {"sadness", "sad"},       {"happiness", "happy"},
      {"joy", "happy"},          {"fear", "scared"},       {"fearful", "scared"},
      {"afraid", "scared"},      {"disgust", "disgusted"}, {"surprise", "surprised"},
      {"boredom", "bored"},      {"tiredness", "tired"},   {"excitement", "excited"},
      {"confusion", "confused"}, {"guilt", "guilty"},      {"embarrassment", "embarrassed"}};
  for (const std::string_view w : words)
    if (w == label) return w;
  for (const auto& [name, w] : others)
    if (name == label) return w;
  return {};
}

Mapping::Mapping(std::shared_ptr<const affekt::Model> model) {
  for (const affekt::OutputSpec& output : model->outputs()) {
    for (std::size_t i = 0; i < output.labels.size(); ++i) {
      if (output.kind != "continuous") continue;
      if (output.labels[i] == "valence" && valence_ == kNone) valence_ = output.offset + i;
      if (output.labels[i] == "arousal" && arousal_ == kNone) arousal_ = output.offset + i;
    }
    if (output.kind != "categorical" || !words_.empty()) continue;  // the first one
    first_ = output.offset;
    for (const std::string& label : output.labels) {
      words_.emplace_back(word(label));
      if (words_.back().empty()) unmapped_.push_back(label);
    }
  }
}

Expression Mapping::operator()(const affekt::Estimate& estimate, const Header& header) const {
  constexpr float none = std::numeric_limits<float>::quiet_NaN();
  Expression message;
  message.header = header;
  // A value that is not finite stays NaN in the message; one beyond the scale is cut to it.
  const auto value = [&](std::size_t column) {
    if (column == kNone || !std::isfinite(estimate.values[column])) return none;
    return std::clamp(estimate.values[column], -1.0f, 1.0f);
  };
  message.valence = value(valence_);
  message.arousal = value(arousal_);
  message.confidence = estimate.confidence.value_or(none);
  if (!words_.empty()) {
    const auto p = estimate.values.subspan(first_, words_.size());
    const auto likeliest = std::max_element(p.begin(), p.end());
    if (std::all_of(p.begin(), p.end(), [](float v) { return std::isfinite(v); }))
      message.expression = words_[static_cast<std::size_t>(likeliest - p.begin())];
  }
  return message;
}

Diagnostic Health::operator()(const affekt::Counters& now) {
  Diagnostic status;
  status.name = "affekt: " + name_;
  // A reset starts the counters anew.
  if (now.taken < before_.taken || now.rejected < before_.rejected || now.refused < before_.refused)
    before_ = {};
  const auto add = [&](const char* what, std::uint64_t n, std::uint64_t before, Diagnostic::Level level,
                       const char* message) {
    status.values.emplace_back(what, std::to_string(n));
    if (n <= before || level < status.level || *message == '\0') return;
    if (level == status.level && !status.message.empty()) status.message += "; ";
    if (level > status.level) status.message.clear();
    status.level = level;
    status.message += message;
  };
  add("samples", now.taken, before_.taken, Diagnostic::ok, "");
  add("estimates", now.estimates, before_.estimates, Diagnostic::ok, "");
  add("late", now.late, before_.late, Diagnostic::warn, "samples came too late for their estimate");
  add("overdue", now.overdue, before_.overdue, Diagnostic::warn, "estimates did not wait for this input");
  add("silences", now.silences, before_.silences, Diagnostic::warn, "fell silent");
  add("reanchors", now.reanchors, before_.reanchors, Diagnostic::warn, "a gap or an overlap in the stamps");
  add("duplicates", now.duplicates, before_.duplicates, Diagnostic::warn,
      "rows with the stamp of the row before");
  add("refused", now.refused, before_.refused, Diagnostic::error, "samples lost, the queue was full");
  add("rejected", now.rejected, before_.rejected, Diagnostic::error,
      "samples refused for their content or time");
  if (now.taken == before_.taken && status.level < Diagnostic::error) {
    status.level = Diagnostic::stale;
    status.message = "no samples";
  }
  if (status.level == Diagnostic::ok) status.message = "ok";
  before_ = now;
  return status;
}

std::span<const Parameter> parameters() {
  static constexpr Parameter all[] = {
      {"queue_s", "samples that may wait for the next poll, seconds beyond wait_s", 2.0, 0.5, 60.0},
      {"reanchor_s", "difference between stamps and sample count that moves the clock, seconds", 0.1, 0.001,
       10.0},
      {"wait_s", "how far other inputs may be ahead before an estimate does without one, seconds", 0.5, 0.0,
       10.0},
      {"poll_hz", "how often estimates are asked for, per second", 50.0, 1.0, 1000.0},
      {"diagnostics_s", "seconds between diagnostics", 1.0, 0.1, 60.0},
  };
  return all;
}

affekt::EngineOptions engine_options(double queue_s, double reanchor_s, double wait_s) {
  affekt::EngineOptions options;
  options.queue_s = queue_s + wait_s;
  options.reanchor_s = reanchor_s;
  options.wait_s = wait_s;
  return options;
}

std::string wrong_value(std::string_view name, double value) {
  for (const Parameter& p : parameters()) {
    if (p.name != name) continue;
    if (value >= p.low && value <= p.high) return {};
    return std::string(name) + ": expected a number in [" + std::to_string(p.low) + ", " +
           std::to_string(p.high) + "], got " + std::to_string(value);
  }
  return std::string(name) + ": there is no such parameter";
}

}  // namespace affekt_ros
