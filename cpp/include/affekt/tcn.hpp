// Causal temporal convolutional network, run row by row or in blocks with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
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

struct TcnOptions {
  int in = 1;                  ///< features per input row
  std::vector<int> channels;   ///< output channels of each block, first block first
  int kernel_size = 3;         ///< taps of both convolutions of every block
  std::vector<int> dilations;  ///< rows between taps, one per block; empty: 1, 2, 4, ...
  Rectifier activation = Rectifier::leaky_relu;
  float slope = 0.01f;  ///< of leaky_relu
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

  /// State of a new stream; process() allocates nothing beyond it.
  TcnState make_state() const;
  std::size_t state_bytes() const noexcept { return state_floats_ * sizeof(float); }

  /// Runs `n` rows: `in` is (n, in()), `out` is (n, out()); n = 1 is one step. They may not overlap.
  void process(const float* in, std::size_t n, float* out, TcnState& state) const noexcept;

  int in() const noexcept { return in_; }
  int out() const noexcept { return out_; }
  /// Rows that influence one output row: 1 + 2 (k-1) sum_l d_l.
  int receptive_field() const noexcept { return receptive_field_; }

  /// Rows that share one pass over the weights.
  static constexpr std::size_t tile = 8;

 private:
  struct Ring {  // rows of one convolution's input, row t at ((t & mask) * stride)
    std::size_t offset = 0, mask = 0, stride = 0;
  };
  struct Conv {
    int in = 0, out = 0, taps = 0, dilation = 1;
    std::size_t weight = 0, bias = 0, slope = 0;  // offsets into weights_
  };
  struct Block {
    Conv conv1, conv2, residual;
    bool has_residual = false;
    std::size_t slope_out = 0;
    Ring ring1, ring2;
  };
  void run_tile(std::size_t n, TcnState& state) const noexcept;

  int in_ = 0, out_ = 0, receptive_field_ = 1;
  std::vector<Block> blocks_;
  AlignedVector<float> weights_;
  std::size_t state_floats_ = 0, result_ = 0, result_stride_ = 0;
};

}  // namespace affekt
