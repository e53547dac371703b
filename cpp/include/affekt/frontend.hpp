// Acoustic front end: signal in, log-mel or MFCC rows out, for whole recordings and for live streams.
//
// One plan (FrontEnd) serves both. A row that a stream hands out has the same bits as the row of the offline
// causal call, whatever the sizes of the pushes, because both run the same butterflies in the same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/export.hpp"

namespace affekt {

enum class Window { hann, hamming, povey, blackman, rectangular };
enum class MelScale { slaney, htk, kaldi };
enum class MelNorm { none, slaney };
enum class LogMode { none, db, ln, log10 };
enum class PadMode { constant, reflect, edge, symmetric };
enum class FrameSpan { n_fft, win_length };
enum class PreemphasisMode { signal, frame };
enum class EnergyMode { none, raw, windowed };
enum class DctNorm { none, ortho };
enum class LifterMode { librosa, htk };
enum class DeltaMode { interp, regression };

/// Everything that defines the features. Defaults follow librosa at 16 kHz, without centring.
///
/// Order of the steps, per frame: [signal pre-emphasis] -> cut `win_length` samples -> [remove mean] ->
/// [frame pre-emphasis] -> window -> |FFT|^power -> mel filters -> log -> [clip maximum, clamp] -> shift and
/// scale
/// -> [DCT, lifter] -> [energy] -> [deltas].
struct AFFEKT_API FrontEndOptions {
  double sample_rate = 16000;  ///< Hz
  int n_fft = 512;             ///< transform length, any integer from 1 to 2^20
  int win_length = 400;        ///< samples under the window, <= n_fft
  int hop_length = 160;        ///< samples between rows
  Window window = Window::hann;
  bool periodic = true;  ///< periodic (spectral) or symmetric window
  double scale = 1.0;    ///< multiplies the samples; 32768 gives Kaldi's integer range

  double preemphasis = 0.0;  ///< c in y[t] = x[t] - c x[t-1]; 0 switches it off
  PreemphasisMode preemphasis_mode = PreemphasisMode::signal;  ///< frame: Kaldi's, inside each frame
  bool remove_dc = false;                                      ///< subtract the mean of each frame

  /// center = false emits whole frames only, row r starting at sample r*hop. center = true: with span n_fft
  /// row r is centred on sample r*hop (librosa); with span win_length on (r + 1/2)*hop (Kaldi's snip_edges =
  /// false).
  bool center = false;
  PadMode pad_mode = PadMode::constant;  ///< what lies outside the signal when centred
  FrameSpan span = FrameSpan::n_fft;  ///< length of a frame; win_length gives Kaldi's framing, lowest latency
  bool drop_last = false;             ///< leave out the last row (Whisper)

  double power = 2.0;  ///< exponent of the magnitude, from 0.001 to 4
  int n_mels = 80;
  MelScale mel_scale = MelScale::slaney;
  MelNorm mel_norm = MelNorm::slaney;
  double f_min = 0.0;           ///< Hz
  std::optional<double> f_max;  ///< Hz; none: sample_rate / 2

  /// db: (20/power) log10(max(v, floor)/ref), so that magnitudes and powers agree; ln, log10: of max(v,
  /// floor).
  LogMode log = LogMode::db;
  /// Smallest mel value, at most 1e30 and, with a log, at least the smallest normal float (1.2e-38); none:
  /// 1e-5^power with a log, 0 without.
  std::optional<double> floor;
  double ref = 1.0;              ///< mel value at 0 dB
  bool ref_max = false;          ///< the clip's maximum is 0 dB (whole clip needed)
  std::optional<double> top_db;  ///< clamp at this many dB below the clip's maximum (whole clip needed)
  double log_shift = 0.0;        ///< y = (log + log_shift) * log_scale; Whisper: 4, 0.25
  double log_scale = 1.0;

  int n_mfcc = 0;  ///< 0: mel features
  DctNorm dct_norm = DctNorm::ortho;
  double lifter = 0.0;                           ///< L of 1 + L/2 sin(pi n / L); 0: none
  LifterMode lifter_mode = LifterMode::librosa;  ///< n counts from 1 (librosa) or from 0 (HTK, Kaldi)
  EnergyMode energy = EnergyMode::none;  ///< ln of the frame's energy: first column, or in place of c0
  double energy_floor = 0.0;

  int deltas = 0;       ///< 0, 1 or 2 orders appended (whole clip needed)
  int delta_width = 9;  ///< odd, >= 3
  DeltaMode delta_mode =
      DeltaMode::interp;  ///< librosa's Savitzky-Golay, or HTK's regression with edge replication

  /// JSON object with every field; enumerations by name, absent values as null, ref_max as "ref": "max".
  std::string to_json() const;
  /// Fields that are absent keep their default. Throws InvalidArgument at unknown fields, types or names.
  static FrontEndOptions from_json(const std::string& text);
  /// One line per field, for people.
  std::string to_string() const;
};

class FrontEndStream;

/// Immutable plan: window, transform, sparse mel filters, DCT. Share it freely between threads.
class AFFEKT_API FrontEnd {
 public:
  /// Throws InvalidArgument naming the field, the expectation and the value.
  explicit FrontEnd(const FrontEndOptions& options);
  ~FrontEnd();
  FrontEnd(const FrontEnd&) = delete;
  FrontEnd& operator=(const FrontEnd&) = delete;

  /// The options with every default filled in.
  const FrontEndOptions& options() const noexcept;
  /// Rows that a signal of `n_samples` gives; an empty signal gives none.
  std::size_t frames(std::size_t n_samples) const noexcept;
  /// Columns of a row.
  std::size_t features() const noexcept;
  /// Mel filters without any transform bin inside (n_mels is too large for n_fft); they only give the floor.
  int empty_filters() const noexcept;
  /// The tables behind the steps, in double, for those who compute the same elsewhere: the window
  /// (win_length), the mel filters (n_mels, n_fft / 2 + 1), the DCT with its lifter (n_mfcc, n_mels),
  /// row-major.
  std::vector<double> window() const;
  std::vector<double> mel_filters() const;
  std::vector<double> dct() const;

  /// Index of the first sample that is NaN, infinite or beyond this plan's limit, where a power could
  /// overflow; `n` if there is none. The limit depends on scale, power, window and filters, and is higher for
  /// double than for float. The float form holds for streams too.
  std::size_t first_unusable(const float* x, std::size_t n) const noexcept;
  std::size_t first_unusable(const double* x, std::size_t n) const noexcept;

  /// Whole signal -> `out` of (frames(n), features()), row-major. Throws InvalidArgument at an
  /// unusable sample, and where deltas need more rows than there are.
  void compute(const float* x, std::size_t n, float* out) const;
  void compute(const double* x, std::size_t n, double* out) const;
  /// 16-bit PCM, taken as x / 32768.
  void compute(const std::int16_t* x, std::size_t n, float* out) const;

  /// Many signals at once, on up to num_threads() threads: out[i] holds (frames(n[i]), features()), with the
  /// bits that each signal gives alone. Throws as above, with the number of the signal.
  void compute(const float* const* x, const std::size_t* n, float* const* out, std::size_t count) const;
  void compute(const double* const* x, const std::size_t* n, double* const* out, std::size_t count) const;
  void compute(const std::int16_t* const* x, const std::size_t* n, float* const* out,
               std::size_t count) const;

  /// Whether a FrontEndStream can run it; if not, `reason` says why.
  bool streamable(std::string* reason = nullptr) const;
  /// Samples that the first row needs: its latency. Row r is ready with sample r*hop_length +
  /// latency_samples() - 1.
  int latency_samples() const noexcept;
  int hop_samples() const noexcept;
  /// Bytes that a FrontEndStream of this capacity allocates.
  std::size_t stream_bytes(std::size_t capacity_samples) const;

 private:
  friend class FrontEndStream;
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Live front end over a shared plan. Nothing is allocated after construction; every step is noexcept.
class AFFEKT_API FrontEndStream {
 public:
  /// `capacity_samples`: how many samples can wait beyond the frame in progress. Throws NotStreamable with
  /// the reason.
  explicit FrontEndStream(std::shared_ptr<const FrontEnd> plan, std::size_t capacity_samples = 16000);
  ~FrontEndStream();
  /// A copy goes on from here by itself.
  FrontEndStream(const FrontEndStream& other);
  FrontEndStream(FrontEndStream&&) noexcept;
  FrontEndStream& operator=(FrontEndStream&&) noexcept;

  /// Takes up to `n` samples and returns how many; fewer when rows wait to be fetched by `next`. The samples
  /// must be usable: see FrontEnd::first_unusable.
  std::size_t push(const float* x, std::size_t n) noexcept;
  /// 16-bit PCM, taken as x / 32768.
  std::size_t push(const std::int16_t* x, std::size_t n) noexcept;
  /// Writes the next finished row, features() values, if there is one.
  bool next(float* row) noexcept;
  /// Up to `max_rows` finished rows at once, with the same bits; returns how many were written.
  std::size_t next(float* rows, std::size_t max_rows) noexcept;
  /// Rows that `next` would hand out now.
  std::size_t ready() const noexcept;
  /// Back to the state after construction.
  void reset() noexcept;

  /// Rows handed out and samples taken since construction or reset.
  std::uint64_t rows() const noexcept;
  std::uint64_t samples() const noexcept;
  /// Index of the last sample that row `r` used.
  std::uint64_t last_sample(std::uint64_t r) const noexcept;
  const FrontEnd& plan() const noexcept;

 private:
  friend class FrontEnd;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Index of the first sample that is NaN or infinite; `n` if there is none. Throws as isa() does.
AFFEKT_API std::size_t first_non_finite(const float* x, std::size_t n);
AFFEKT_API std::size_t first_non_finite(const double* x, std::size_t n);

}  // namespace affekt
