// Inner loops of the resampler.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dispatch.hpp"
#include "kernels/lines.hpp"

namespace affekt {

/// Result m is the product of row `fraction rows / phases` with the samples from `index` on; then fraction
/// grows by `step`, and index by 1 for every `phases` in it; step < 2.5 phases. With fewer rows than phases
/// the table has one row more, and two neighbours are interpolated.
struct PhaseTable {
  const float* coefficients;       // row r from r * stride on
  std::size_t rows, taps, stride;  // taps: a multiple of kTapsMultiple; kRowGap zeros around every row
  const float* folded;             // of one or two phases, whose rows are symmetric, else null:
  std::size_t folds;               // (phases, step, folds), the product of two samples by their distance
  std::uint64_t phases, step;
};
inline constexpr std::size_t kTapsMultiple = 8;
inline constexpr std::size_t kRowGap = 16;
inline constexpr std::size_t kFoldsMultiple = 4;
/// The longest rows that are folded; folded_rows() of them fit the kernel's memory.
inline constexpr std::size_t kMostFolded = 896;
/// Most periods across lanes.
inline constexpr std::size_t kMostPeriods = 32;
/// Finite values that `phases` may read before the first sample and after the last, without effect.
inline constexpr std::size_t kBefore = 16, kAfter = 256;

template <class S>
using Mix = void (*)(const S* const* x, const std::uint32_t* used, const float* weights, std::size_t channels,
                     std::size_t begin, std::size_t n, float* y) noexcept;

struct ResamplerKernels {
  /// Results while their samples are among the first `filled`, at most `most`; returns how many. Without
  /// `rest`, only as many as fill the lanes, where that is faster.
  std::size_t (*phases)(const PhaseTable& table, const float* x, std::size_t filled, std::uint64_t& index,
                        std::uint64_t& fraction, float* y, std::size_t most, bool rest,
                        const Lines& ahead) noexcept;
  /// y[i] = even[i] / 2 + sum_k c[k] (odd[i + pairs - 1 - k] + odd[i + pairs + k]) with c = taps + pairs: (2,
  /// pairs) as in PhaseTable, without results in phase 0. Around the odd samples lie finite values as in
  /// `phases`.
  void (*halve)(const float* taps, std::size_t pairs, const float* even, const float* odd, std::size_t n,
                float* y, const Lines& ahead) noexcept;
  /// y[i] = sum_c weights[c] x[used[c]][begin + i]
  Mix<float> mix_floats;
  Mix<double> mix_doubles;
  Mix<std::int16_t> mix_pcm;
  /// x[0], x[2] ... to even, x[1], x[3] ... to odd.
  void (*deal)(const float* x, std::size_t n, float* even, float* odd) noexcept;
};
AFFEKT_KERNELS(ResamplerKernels, resampler)

}  // namespace affekt
