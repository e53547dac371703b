// The acoustic front end: frames side by side through window, transform, mel filters, logarithm and DCT.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"
#include "kernels/fft.hpp"
#include "kernels/lines.hpp"
#include "log_scale.hpp"

namespace affekt {

struct MelBand {
  std::uint32_t bin, count, weight;  // first bin; number of bins; place of the first weight
};

/// A plan as the kernels see it. T is the type of the transform.
template <class T>
struct FrontEndView {
  RealFftView<T> fft;
  std::size_t width, inset;   // samples under the window, and zeros before them in the transform
  const T* window;            // window * scale / fft.gain
  const double* wide_window;  // the same in double
  T power;                    // exponent of the magnitude

  const MelBand* bands;
  const T* weights;
  std::size_t n_mels;
  T floor;
  bool log;
  LogScale<T> unit;  // of the logarithm
  T ref;             // subtracted after it
  T shift, scale;    // y = (log + shift) * scale
  const T* dct;      // mel m and column c at m * dct_pitch + c; the pitch is n_mfcc in whole eights
  std::size_t n_mfcc, dct_pitch;
  bool energy;  // comes before the mel values, or in place of c0
  T energy_floor;
  LogScale<T> natural;

  // The steps before the window.
  bool remove_dc, raw_energy, windowed_energy;
  double energy_scale;    // of the raw energy
  double windowed_scale;  // of the energy under `wide_window`
  double signal_emphasis, frame_emphasis;
};

/// Work space of a tile of L frames, aligned to 64 bytes.
template <class T>
struct FrontEndScratch {
  T* z;           // fft.values * L
  T* work;        // fft.work * L
  T* bins;        // fft.bins * L, twice that for `spectra`, one vector more
  T* mel;         // n_mels * L, one vector more
  double* frame;  // 2 width
};

template <class T>
struct FrontEndKernelsOf {
  /// Frames in a tile. `lanes` below is this or 1, with the same bits.
  std::size_t lanes;
  /// Samples -> a windowed row of `width` values for `mel`; the energy in the result. `first`: no sample
  /// comes before. `emphasised`: the pre-emphasis over the signal is done.
  double (*from_floats)(const FrontEndView<T>&, const float* x, bool first, bool emphasised, double* frame,
                        T* row) noexcept;
  double (*from_doubles)(const FrontEndView<T>&, const double* x, bool first, bool emphasised, double* frame,
                         T* row) noexcept;
  /// Rows of `width` values, windowed or not -> scratch.mel: mel values after the logarithm, mel m of frame l
  /// at m * lanes + l.
  void (*mel)(const FrontEndView<T>&, const T* const* rows, bool windowed, const FrontEndScratch<T>& scratch,
              std::size_t lanes) noexcept;
  /// n energies to their logarithms.
  void (*energy)(const FrontEndView<T>&, T* energy, std::size_t n) noexcept;
  /// mel = max(mel, least) - zero for n values.
  void (*clamp)(T* mel, std::size_t n, T least, T zero) noexcept;
  /// Mel values and energies of a tile -> `count` rows, `pitch` apart; `mel` is overwritten. Rows of doubles
  /// come from doubles alone: the pointer is null for floats.
  void (*to_floats)(const FrontEndView<T>&, T* mel, const T* energy, std::size_t count, std::size_t lanes,
                    float* out, std::size_t pitch) noexcept;
  void (*to_doubles)(const FrontEndView<T>&, T* mel, const T* energy, std::size_t count, std::size_t lanes,
                     double* out, std::size_t pitch) noexcept;
  /// The same rows -> scratch.bins: |X|^power of each bin, or the pair of its parts.
  void (*powers)(const FrontEndView<T>&, const T* const* rows, bool windowed,
                 const FrontEndScratch<T>& scratch, std::size_t lanes, const Lines& ahead) noexcept;
  void (*spectra)(const FrontEndView<T>&, const T* const* rows, bool windowed,
                  const FrontEndScratch<T>& scratch, std::size_t lanes, const Lines& ahead) noexcept;
  /// Column c of frame l at c * lanes + l -> `count` rows, `pitch` apart.
  void (*store_floats)(const T* x, std::size_t columns, std::size_t count, std::size_t lanes, float* out,
                       std::size_t pitch) noexcept;
  void (*store_doubles)(const T* x, std::size_t columns, std::size_t count, std::size_t lanes, double* out,
                        std::size_t pitch) noexcept;
};

struct FrontEndKernels {
  FrontEndKernelsOf<float> floats;
  FrontEndKernelsOf<double> doubles;
  /// x / 32768.
  void (*widen)(const std::int16_t* x, std::size_t n, float* out) noexcept;
  /// One order of differences: `c` columns of `n` rows, pitch apart. interp: Savitzky-Golay of `order` 1 or 2
  /// over 2 half + 1 rows; else HTK's regression.
  void (*float_deltas)(const float* from, float* to, std::size_t n, std::size_t c, std::size_t pitch,
                       std::size_t half, int order, bool interp) noexcept;
  void (*double_deltas)(const double* from, double* to, std::size_t n, std::size_t c, std::size_t pitch,
                        std::size_t half, int order, bool interp) noexcept;
};
AFFEKT_KERNELS(FrontEndKernels, frontend_kernels)

}  // namespace affekt
