// Causal temporal convolutional network, run row by row or in blocks with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/export.hpp"

namespace affekt {

/// Rectifier of a TCN: y = x for x > 0, else slope * x.
enum class Rectifier {
  relu,        ///< slope 0
  leaky_relu,  ///< one fixed slope
  prelu,       ///< learned slopes, one or one per channel, for each of the three sites of a block
};

/// What the convolutions multiply.
enum class Arithmetic {
  float32,
  /// int8 by int8, summed exactly in int32. A weight is round(w / s) with s = max |w| / 127 of its output
  /// channel; a row that enters a convolution is round(x / s) with s = max |x| / 127 of that row (both half
  /// to even). Bias, rectifier, residual sum and the rows that go in and out stay float32.
  int8,
};

struct TcnOptions {
  int in = 1;                  ///< features per input row
  std::vector<int> channels;   ///< output channels of each block, first block first
  int kernel_size = 3;         ///< taps of both convolutions of every block
  std::vector<int> dilations;  ///< rows between taps, one per block; empty: 1, 2, 4, ...
  Rectifier activation = Rectifier::leaky_relu;
  float slope = 0.01f;  ///< of leaky_relu
  Arithmetic arithmetic = Arithmetic::float32;
};

/// Weights of one block, in torch's layout. Convolutions are (out, in, kernel_size), the residual is (out,
/// in). An empty residual means the identity, which needs in == out. Slopes have 1 or `out` values (prelu
/// only).
struct TcnBlockWeights {
  std::span<const float> conv1_weight, conv1_bias;
  std::span<const float> conv2_weight, conv2_bias;
  std::span<const float> residual_weight, residual_bias;
  std::span<const float> slope1, slope2, slope3;
};

class Tcn;

/// What a stream remembers between calls. A copy continues where the original stood.
class AFFEKT_API TcnState {
 public:
  /// Back to the start of a recording: everything before the first row is zero.
  void reset() noexcept;

 private:
  friend class Tcn;
  TcnState() = default;  // from Tcn::make_state() only: a state fits the network that made it
  AlignedVector<float> memory_;
  std::uint64_t time_ = 0;
};

/// Stack of causal residual blocks (Bai, Kolter and Koltun, 2018). Block l with dilation d_l computes
///   h = act1(b1 + sum_j W1[:, :, j] x[t - (k-1-j) d_l])
///   y = act2(b2 + sum_j W2[:, :, j] h[t - (k-1-j) d_l])
///   out = act3(y + r),  r = x[t], or b_r + W_r x[t] where there is a residual convolution,
/// with zeros before the first row at every convolution, as left padding gives. Weight norm is folded before.
///
/// Immutable and shareable between threads; each stream has a state of its own. Every output is one sum in
/// one order (bias, then taps oldest first, then input channels), so a step, a block of any size and any
/// mixture of them give the same bits.
class AFFEKT_API Tcn {
 public:
  /// Throws InvalidArgument when an option is out of range or a tensor has the wrong number of values.
  Tcn(const TcnOptions& options, std::span<const TcnBlockWeights> blocks);

  /// State of a new stream; nothing is allocated beyond it.
  TcnState make_state() const;
  std::size_t state_bytes() const noexcept;

  /// Runs `n` rows of one stream: `in` is (n, in()), `out` is (n, out()); n = 1 is one step. They may not
  /// overlap.
  void process(const float* in, std::size_t n, float* out, TcnState& state) const noexcept;

  /// One step of each of `streams` streams, which share the passes over the weights: `in` is (streams, in()),
  /// `out` is (streams, out()), states[s] points to the state of stream s. The bits are those of process();
  /// no state may occur twice.
  void step_many(const float* in, std::size_t streams, float* out, TcnState* const* states) const noexcept;
  /// The same with rows that lie anywhere: in[s] and out[s] are those of stream s.
  void step_many(const float* const* in, std::size_t streams, float* const* out,
                 TcnState* const* states) const noexcept;

  int in() const noexcept;
  int out() const noexcept;
  /// Rows that influence one output row: 1 + 2 (k-1) sum_l d_l.
  int receptive_field() const noexcept;

 private:
  struct Plan;
  std::shared_ptr<const Plan> plan_;  // copies share the weights
};

}  // namespace affekt
