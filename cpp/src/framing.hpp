// How a signal is cut into frames: window, placement, padding; shared by the front end and the spectrograms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "affekt/frontend.hpp"

namespace affekt {

/// A number as messages show it.
std::string text(double v);
[[noreturn]] void refuse(const char* name, const std::string& expected, double value);
void check_range(const char* name, double v, double lo, double hi, const std::string& expected);

std::vector<double> make_window(Window window, bool periodic, int length);

/// Stands for a zero outside the signal.
inline constexpr std::size_t kNoSample = static_cast<std::size_t>(-1);
/// Index into a signal of n samples that stands for position i; kNoSample: a zero.
std::size_t padded_index(PadMode mode, std::int64_t i, std::int64_t n);

struct Framing {
  int n_fft, win_length, hop_length;
  bool center;
  FrameSpan frame_span;
  PadMode pad_mode;
  bool drop_last;

  /// Throws InvalidArgument where a length is out of range.
  void check() const;
  /// Samples of a frame, the zeros around a shorter window included.
  int span() const { return frame_span == FrameSpan::n_fft ? n_fft : win_length; }
  /// Samples of a frame before its window.
  int inset() const { return (span() - win_length) / 2; }
  std::size_t frames(std::size_t n) const;
  /// Position of the first sample under the window of frame r.
  std::int64_t base(std::size_t r) const {
    std::int64_t origin = 0;
    if (center) origin = frame_span == FrameSpan::n_fft ? -(n_fft / 2) : hop_length / 2 - win_length / 2;
    return origin + static_cast<std::int64_t>(r) * hop_length + inset();
  }
  bool inside(std::int64_t at, std::size_t n) const {
    return at >= 0 && static_cast<std::size_t>(at) + static_cast<std::size_t>(win_length) <= n;
  }
};

Framing framing_of(const FrontEndOptions& o);

/// Throws InvalidArgument where the differences need more rows than the `rows` of n samples.
void check_delta_rows(const FrontEndOptions& o, std::size_t rows, std::size_t n);

}  // namespace affekt
