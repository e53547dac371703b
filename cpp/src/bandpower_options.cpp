// WelchOptions and BandPowerOptions as JSON text.
#include <algorithm>
#include <cmath>

#include "framing.hpp"
#include "option_fields.hpp"

namespace affekt {

namespace options {
namespace {

/// A window by its name or by its values.
template <class Name, class Values>
struct Taper {
  Name& window;
  Values& values;
};
template <class Name, class Values>
Taper(Name&, Values&) -> Taper<Name, Values>;

template <class Name, class Values>
json write(const Taper<Name, Values>& taper) {
  return taper.values.empty() ? options::write(taper.window) : json(taper.values);
}
void read(const char* name, const json& j, const Taper<Window, std::vector<double>>& taper) {
  if (!j.is_array()) return options::read(name, j, taper.window);
  if (j.empty()) refuse(name, "a name or the values of a segment's window", j);
  taper.values.clear();
  for (const json& value : j) options::read(name, value, taper.values.emplace_back());
}

/// Fields of options that are kept in another form than their text.
struct WelchText {
  WelchOptions o;
  std::optional<std::size_t> n_overlap, n_fft;
};

struct Edges {
  std::vector<PowerBand> bands;
};
json write(const Edges& edges) {
  json j = json::array();
  for (const PowerBand& band : edges.bands) j.push_back(json::array({band.name, band.low, band.high}));
  return j;
}
void read(const char* name, const json& j, Edges& edges) {
  const std::string expected = "an array of [name, low, high]";
  if (!j.is_array()) refuse(name, expected, j);
  edges.bands.clear();
  for (const json& band : j) {
    if (!(band.is_array() && band.size() == 3 && band[0].is_string())) refuse(name, expected, j);
    PowerBand& to = edges.bands.emplace_back();
    to.name = band[0].get<std::string>();
    options::read(name, band[1], to.low);
    options::read(name, band[2], to.high);
  }
}

struct Total {
  double low, high;
};
json write(const Total& total) { return json::array({total.low, total.high}); }
void read(const char* name, const json& j, Total& total) {
  total = {0.0, -1.0};
  if (j.is_null()) return;
  if (!(j.is_array() && j.size() == 2)) refuse(name, "[low, high] in Hz, or null", j);
  options::read(name, j[0], total.low);
  options::read(name, j[1], total.high);
}

struct BandPowerText {
  BandPowerOptions o;
  Edges bands;
  double window = 2.0, hop = 0.25, segment = 1.0;  // seconds
  double overlap = 0.5;                            // of a segment
  std::optional<std::size_t> n_fft;
  Total total{0.0, -1.0};
};

template <class Text, class F>
void each_welch_field(Text& text, F&& f) {
  auto& o = text.o;
  f("sample_rate", o.sample_rate);
  f("window", Taper{o.window, o.taper});
  f("n_per_seg", o.n_per_seg);
  f("n_overlap", text.n_overlap);
  f("n_fft", text.n_fft);
  f("detrend", o.detrend);
  f("scaling", o.scaling);
  f("average", o.average);
}

template <class Text, class F>
void each_band_power_field(Text& text, F&& f) {
  auto& o = text.o;
  f("sample_rate", o.welch.sample_rate);
  f("bands", text.bands);
  f("window", text.window);
  f("hop", text.hop);
  f("segment", text.segment);
  f("overlap", text.overlap);
  f("n_fft", text.n_fft);
  f("taper", Taper{o.welch.window, o.welch.taper});
  f("detrend", o.welch.detrend);
  f("average", o.welch.average);
  f("integration", o.integration);
  f("relative", o.relative);
  f("total", text.total);
  f("log", o.log);
  f("floor", o.floor);
}

/// Seconds as whole samples.
std::size_t samples(const char* name, double seconds, double rate) {
  const double length = seconds * rate;
  if (!(length > 0.5 && length <= 4294967296.0))
    affekt::refuse(name, "seconds that are 1 to 4294967296 samples at " + text(rate) + " Hz", seconds);
  return static_cast<std::size_t>(std::max(1.0, std::nearbyint(length)));
}

}  // namespace
}  // namespace options

std::string WelchOptions::to_json() const {
  const options::WelchText text{*this, n_overlap, n_fft};
  return options::write_fields([&](auto&& f) { options::each_welch_field(text, f); }).dump();
}

WelchOptions WelchOptions::from_json(const std::string& text) {
  options::WelchText t;
  options::read_fields(text, "Welch", [&](auto&& f) { options::each_welch_field(t, f); });
  t.o.n_overlap = t.n_overlap.value_or(t.o.n_per_seg / 2);
  t.o.n_fft = t.n_fft.value_or(t.o.n_per_seg);
  return t.o;
}

std::string BandPowerOptions::to_json() const {
  const double rate = welch.sample_rate;
  const auto seconds = [&](std::size_t n) { return static_cast<double>(n) / rate; };
  const options::BandPowerText text{
      *this,
      {bands},
      seconds(win_length),
      seconds(hop_length),
      seconds(welch.n_per_seg),
      static_cast<double>(welch.n_overlap) / static_cast<double>(welch.n_per_seg),
      welch.n_fft,
      {total_low, total_high < 0.0 ? rate / 2.0 : total_high}};
  return options::write_fields([&](auto&& f) { options::each_band_power_field(text, f); }).dump();
}

BandPowerOptions BandPowerOptions::from_json(const std::string& text) {
  options::BandPowerText t;
  t.bands.bands = t.o.bands;
  options::read_fields(text, "band power", [&](auto&& f) { options::each_band_power_field(t, f); });
  BandPowerOptions o = t.o;
  const double rate = o.welch.sample_rate;
  if (!(rate >= 1e-9 && rate <= 1e9)) refuse("sample_rate", "a positive number of Hz from 1e-9 to 1e9", rate);
  o.win_length = options::samples("window", t.window, rate);
  o.hop_length = options::samples("hop", t.hop, rate);
  o.welch.n_per_seg = options::samples("segment", t.segment, rate);
  if (!(t.overlap >= 0.0 && t.overlap < 1.0))
    refuse("overlap", "a fraction from 0 to less than 1", t.overlap);
  if (o.win_length < o.welch.n_per_seg)
    refuse("window", "no less than a segment, which is " + affekt::text(t.segment) + " s", t.window);
  const double shared = std::nearbyint(t.overlap * static_cast<double>(o.welch.n_per_seg));
  o.welch.n_overlap = std::min(static_cast<std::size_t>(shared), o.welch.n_per_seg - 1);
  o.welch.n_fft = t.n_fft.value_or(o.welch.n_per_seg);
  o.bands = t.bands.bands;
  o.total_low = t.total.low;
  o.total_high = t.total.high;
  return o;
}

}  // namespace affekt
