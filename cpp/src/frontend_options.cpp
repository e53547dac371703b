// FrontEndOptions as JSON text and as lines for people.
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>

#include "affekt/frontend.hpp"

namespace affekt {
namespace {

using nlohmann::json;

template <class E>
struct Names;  // name of each value of an enumeration, in order
#define AFFEKT_NAMES(E, ...)                                                  \
  template <>                                                                 \
  struct Names<E> {                                                           \
    static constexpr auto values = std::to_array<const char*>({__VA_ARGS__}); \
  }
AFFEKT_NAMES(Window, "hann", "hamming", "povey", "blackman", "rectangular");
AFFEKT_NAMES(MelScale, "slaney", "htk", "kaldi");
AFFEKT_NAMES(PadMode, "constant", "reflect", "edge", "symmetric");
AFFEKT_NAMES(FrameSpan, "n_fft", "win_length");
AFFEKT_NAMES(PreemphasisMode, "signal", "frame");
AFFEKT_NAMES(LifterMode, "librosa", "htk");
AFFEKT_NAMES(DeltaMode, "interp", "regression");
// nullptr stands for JSON null (None in Python).
AFFEKT_NAMES(MelNorm, nullptr, "slaney");
AFFEKT_NAMES(LogMode, nullptr, "db", "ln", "log10");
AFFEKT_NAMES(EnergyMode, nullptr, "raw", "windowed");
AFFEKT_NAMES(DctNorm, nullptr, "ortho");
#undef AFFEKT_NAMES

[[noreturn]] void refuse(const char* name, const std::string& expected, const json& value) {
  throw InvalidArgument(std::string(name) + ": expected " + expected + ", got " +
                        value.dump(-1, ' ', true, json::error_handler_t::replace));
}

template <class E>
json write(E value) {
  const char* name = Names<E>::values[static_cast<std::size_t>(value)];
  return name ? json(name) : json(nullptr);
}
json write(double v) { return v; }
json write(int v) { return v; }
json write(bool v) { return v; }
json write(const std::optional<double>& v) { return v ? json(*v) : json(nullptr); }

template <class E>
void read(const char* name, const json& j, E& out) {
  std::string expected = "one of ";
  for (std::size_t i = 0; i < Names<E>::values.size(); ++i) {
    const char* v = Names<E>::values[i];
    if (v ? j.is_string() && j.get_ref<const std::string&>() == v : j.is_null()) {
      out = static_cast<E>(i);
      return;
    }
    expected += (i ? ", " : "") + (v ? '"' + std::string(v) + '"' : std::string("null"));
  }
  refuse(name, expected, j);
}
void read(const char* name, const json& j, double& out) {
  if (!j.is_number()) refuse(name, "a number", j);
  out = j.get<double>();
}
void read(const char* name, const json& j, int& out) {
  if (!j.is_number_integer()) refuse(name, "an integer", j);
  const bool fits = j.is_number_unsigned() ? j.get<std::uint64_t>() <= std::numeric_limits<int>::max()
                                           : j.get<std::int64_t>() >= std::numeric_limits<int>::min();
  if (!fits) refuse(name, "an integer of 32 bits", j);
  out = static_cast<int>(j.get<std::int64_t>());
}
void read(const char* name, const json& j, bool& out) {
  if (!j.is_boolean()) refuse(name, "true or false", j);
  out = j.get<bool>();
}
void read(const char* name, const json& j, std::optional<double>& out) {
  if (j.is_null()) {
    out.reset();
  } else {
    double v = 0;
    if (!j.is_number()) refuse(name, "a number or null", j);
    read(name, j, v);
    out = v;
  }
}

/// The one list of fields: calls `f(name, field)` for each, in the order of the struct.
template <class Options, class F>
void each_field(Options& o, F&& f) {
  f("sample_rate", o.sample_rate);
  f("n_fft", o.n_fft);
  f("win_length", o.win_length);
  f("hop_length", o.hop_length);
  f("window", o.window);
  f("periodic", o.periodic);
  f("scale", o.scale);
  f("preemphasis", o.preemphasis);
  f("preemphasis_mode", o.preemphasis_mode);
  f("remove_dc", o.remove_dc);
  f("center", o.center);
  f("pad_mode", o.pad_mode);
  f("span", o.span);
  f("drop_last", o.drop_last);
  f("power", o.power);
  f("n_mels", o.n_mels);
  f("mel_scale", o.mel_scale);
  f("mel_norm", o.mel_norm);
  f("f_min", o.f_min);
  f("f_max", o.f_max);
  f("log", o.log);
  f("floor", o.floor);
  f("ref", o.ref);
  f("top_db", o.top_db);
  f("log_shift", o.log_shift);
  f("log_scale", o.log_scale);
  f("n_mfcc", o.n_mfcc);
  f("dct_norm", o.dct_norm);
  f("lifter", o.lifter);
  f("lifter_mode", o.lifter_mode);
  f("energy", o.energy);
  f("energy_floor", o.energy_floor);
  f("deltas", o.deltas);
  f("delta_width", o.delta_width);
  f("delta_mode", o.delta_mode);
}

}  // namespace

std::string FrontEndOptions::to_json() const {
  json j = json::object();
  each_field(*this, [&](const char* name, const auto& field) { j[name] = write(field); });
  if (ref_max) j["ref"] = "max";
  return j.dump();
}

std::string FrontEndOptions::to_string() const {
  std::ostringstream text;
  each_field(*this, [&](const char* name, const auto& field) {
    const bool max = ref_max && std::string(name) == "ref";
    text << name << " = " << (max ? std::string("\"max\"") : write(field).dump()) << '\n';
  });
  return text.str();
}

FrontEndOptions FrontEndOptions::from_json(const std::string& text) {
  const json j = json::parse(text, nullptr, false);
  if (!j.is_object())
    throw InvalidArgument("front end options: expected a JSON object, got " + text.substr(0, 80));
  FrontEndOptions o;
  std::size_t known = 0;
  each_field(o, [&](const char* name, auto& field) {
    const auto it = j.find(name);
    if (it == j.end()) return;
    ++known;
    if (std::string(name) == "ref" && it->is_string()) {
      if (*it != "max") refuse(name, "a number or \"max\"", *it);
      o.ref_max = true;
    } else {
      read(name, *it, field);
    }
  });
  if (known != j.size()) {
    for (const auto& [key, value] : j.items()) {
      bool found = false;
      each_field(o, [&found, &k = key](const char* name, auto&) { found = found || k == name; });
      if (!found) {
        throw InvalidArgument("front end options: unknown option " +
                              json(key).dump(-1, ' ', true, json::error_handler_t::replace));
      }
    }
  }
  return o;
}

}  // namespace affekt
