// FrontEndOptions as JSON text and as lines for people.
#include <sstream>
#include <string>

#include "option_fields.hpp"

namespace affekt {

namespace options {
namespace {

/// The mel value at 0 dB: a number, or the clip's maximum.
template <class Number, class Flag>
struct Reference {
  Number& value;
  Flag& max;
};
template <class Number, class Flag>
Reference(Number&, Flag&) -> Reference<Number, Flag>;

template <class Number, class Flag>
json write(const Reference<Number, Flag>& ref) {
  return ref.max ? json("max") : json(ref.value);
}
void read(const char* name, const json& j, const Reference<double, bool>& ref) {
  ref.max = j.is_string();
  if (!ref.max) return options::read(name, j, ref.value);
  if (j != "max") refuse(name, "a number or \"max\"", j);
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
  f("ref", Reference{o.ref, o.ref_max});
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
}  // namespace options

std::string FrontEndOptions::to_json() const {
  return options::write_fields([&](auto&& f) { options::each_field(*this, f); }).dump();
}

std::string FrontEndOptions::to_string() const {
  using options::write;
  std::ostringstream text;
  options::each_field(*this, [&](const char* name, const auto& field) {
    text << name << " = " << write(field).dump() << '\n';
  });
  return text.str();
}

FrontEndOptions FrontEndOptions::from_json(const std::string& text) {
  FrontEndOptions o;
  options::read_fields(text, "front end", [&](auto&& f) { options::each_field(o, f); });
  return o;
}

}  // namespace affekt
