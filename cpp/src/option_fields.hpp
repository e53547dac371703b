// Options as JSON: names of enumerations, and fields that are read with messages that name them.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "affekt/bandpower.hpp"
#include "affekt/error.hpp"
#include "affekt/frontend.hpp"

namespace affekt::options {

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
AFFEKT_NAMES(Scaling, "density", "spectrum");
AFFEKT_NAMES(Average, "mean", "median");
AFFEKT_NAMES(Integration, "trapezoid", "simpson");
// nullptr stands for JSON null (None in Python).
AFFEKT_NAMES(MelNorm, nullptr, "slaney");
AFFEKT_NAMES(LogMode, nullptr, "db", "ln", "log10");
AFFEKT_NAMES(EnergyMode, nullptr, "raw", "windowed");
AFFEKT_NAMES(DctNorm, nullptr, "ortho");
AFFEKT_NAMES(Detrend, nullptr, "constant", "linear");
#undef AFFEKT_NAMES

inline std::string shown(const json& value) {
  return value.dump(-1, ' ', true, json::error_handler_t::replace);
}

[[noreturn]] inline void refuse(const char* name, const std::string& expected, const json& value) {
  throw InvalidArgument(std::string(name) + ": expected " + expected + ", got " + shown(value));
}

template <class E>
requires std::is_enum_v<E> json write(E value) {
  const char* name = Names<E>::values[static_cast<std::size_t>(value)];
  return name ? json(name) : json(nullptr);
}
inline json write(double v) { return v; }
inline json write(int v) { return v; }
inline json write(std::size_t v) { return v; }
inline json write(bool v) { return v; }
template <class T>
json write(const std::optional<T>& v) {
  return v ? write(*v) : json(nullptr);
}

template <class E>
requires std::is_enum_v<E>
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
inline void read(const char* name, const json& j, double& out) {
  if (!j.is_number()) refuse(name, "a number", j);
  out = j.get<double>();
}
inline void read(const char* name, const json& j, int& out) {
  if (!j.is_number_integer()) refuse(name, "an integer", j);
  const bool fits = j.is_number_unsigned() ? j.get<std::uint64_t>() <= std::numeric_limits<int>::max()
                                           : j.get<std::int64_t>() >= std::numeric_limits<int>::min();
  if (!fits) refuse(name, "an integer of 32 bits", j);
  out = static_cast<int>(j.get<std::int64_t>());
}
inline void read(const char* name, const json& j, std::size_t& out) {
  if (!j.is_number_unsigned()) refuse(name, "an integer of 0 or more", j);
  out = j.get<std::size_t>();
}
inline void read(const char* name, const json& j, bool& out) {
  if (!j.is_boolean()) refuse(name, "true or false", j);
  out = j.get<bool>();
}
inline void read(const char* name, const json& j, std::optional<double>& out) {
  if (j.is_null()) {
    out.reset();
  } else if (j.is_number()) {
    out = j.get<double>();
  } else {
    refuse(name, "a number or null", j);
  }
}
inline void read(const char* name, const json& j, std::optional<std::size_t>& out) {
  if (j.is_null()) {
    out.reset();
  } else {
    std::size_t v = 0;
    read(name, j, v);
    out = v;
  }
}

/// The object with every field of `each(f)`, which calls f(name, field) for each.
template <class Each>
json write_fields(Each&& each) {
  json j = json::object();
  each([&](const char* name, const auto& field) { j[name] = write(field); });
  return j;
}

/// Fills the fields of `each` from a JSON object; those that are absent stay. Throws InvalidArgument.
template <class Each>
void read_fields(const std::string& text, const std::string& what, Each&& each) {
  const json j = json::parse(text, nullptr, false);
  if (!j.is_object())
    throw InvalidArgument(what + " options: expected a JSON object, got " + text.substr(0, 80));
  std::size_t known = 0;
  each([&](const char* name, auto&& field) {
    const auto it = j.find(name);
    if (it == j.end()) return;
    ++known;
    read(name, *it, field);
  });
  if (known == j.size()) return;
  for (const auto& [key, value] : j.items()) {
    bool found = false;
    each([&found, &k = key](const char* name, const auto&) { found = found || k == name; });
    if (!found) throw InvalidArgument(what + " options: unknown option " + shown(key));
  }
}

}  // namespace affekt::options
