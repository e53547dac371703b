#include "framing.hpp"

#include <cmath>
#include <cstdio>
#include <numbers>

namespace affekt {

std::string text(double v) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%g", v);
  return buffer;
}

void refuse(const char* name, const std::string& expected, double value) {
  throw InvalidArgument(std::string(name) + ": expected " + expected + ", got " + text(value));
}

void check_range(const char* name, double v, double lo, double hi, const std::string& expected) {
  if (!(v >= lo && v <= hi)) refuse(name, expected, v);
}

std::vector<double> make_window(Window window, bool periodic, int n) {
  std::vector<double> w(static_cast<std::size_t>(n), 1.0);
  const double period = periodic ? n : n - 1;
  if (n == 1 || window == Window::rectangular) return w;
  for (int i = 0; i < n; ++i) {
    const double a = 2.0 * std::numbers::pi * i / period;
    double& v = w[static_cast<std::size_t>(i)];
    switch (window) {
      case Window::hann:
        v = 0.5 - 0.5 * std::cos(a);
        break;
      case Window::hamming:
        v = 0.54 - 0.46 * std::cos(a);
        break;
      case Window::povey:
        v = std::pow(0.5 - 0.5 * std::cos(a), 0.85);
        break;
      case Window::blackman:
        v = 0.42 - 0.5 * std::cos(a) + 0.08 * std::cos(2.0 * a);
        break;
      case Window::rectangular:
        break;
    }
  }
  return w;
}

std::size_t padded_index(PadMode mode, std::int64_t i, std::int64_t n) {
  if (i >= 0 && i < n) return static_cast<std::size_t>(i);
  switch (mode) {
    case PadMode::constant:
      return kNoSample;
    case PadMode::edge:
      return static_cast<std::size_t>(i < 0 ? 0 : n - 1);
    case PadMode::reflect: {
      if (n == 1) return 0;
      const std::int64_t period = 2 * (n - 1);
      const std::int64_t r = ((i % period) + period) % period;
      return static_cast<std::size_t>(r < n ? r : period - r);
    }
    case PadMode::symmetric: {
      const std::int64_t r = ((i % (2 * n)) + 2 * n) % (2 * n);
      return static_cast<std::size_t>(r < n ? r : 2 * n - 1 - r);
    }
  }
  return kNoSample;
}

Framing framing_of(const FrontEndOptions& o) {
  return {o.n_fft, o.win_length, o.hop_length, o.center, o.span, o.pad_mode, o.drop_last};
}

void check_delta_rows(const FrontEndOptions& o, std::size_t rows, std::size_t n) {
  if (o.deltas == 0 || o.delta_mode != DeltaMode::interp || rows == 0) return;
  if (rows >= static_cast<std::size_t>(o.delta_width)) return;
  throw InvalidArgument("samples: expected enough for delta_width = " + std::to_string(o.delta_width) +
                        " rows with delta_mode \"interp\", got " + std::to_string(rows) + " rows from " +
                        std::to_string(n) + " samples");
}

void Framing::check() const {
  check_range("n_fft", n_fft, 1, 1 << 20, "an integer from 1 to 1048576");
  check_range("win_length", win_length, 1, n_fft, "an integer from 1 to n_fft = " + std::to_string(n_fft));
  check_range("hop_length", hop_length, 1, 1 << 30, "an integer from 1 to 1073741824");
}

std::size_t Framing::frames(std::size_t n) const {
  if (n == 0) return 0;
  const auto hop = static_cast<std::size_t>(hop_length);
  const auto length = static_cast<std::size_t>(span());
  std::size_t rows = 0;
  if (!center) {
    rows = n < length ? 0 : 1 + (n - length) / hop;
  } else if (frame_span == FrameSpan::n_fft) {
    rows = 1 + (n - length % 2) / hop;
  } else {
    rows = n / hop + (n % hop + hop / 2) / hop;
  }
  return drop_last && rows > 0 ? rows - 1 : rows;
}

}  // namespace affekt
