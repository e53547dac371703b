// A residual block of the TCN over whole sequences, forward and backward, on plain memory: what training
// runs. The torch op runs on it; streams run on Tcn.
//
// Sequences are (batch, time, width), dense, weights as torch has them: (out, in, taps). Every result is
// bit-equal for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "affekt/export.hpp"
#include "affekt/runtime.hpp"

namespace affekt {

/// With conv(x, W, b)_t = b + sum_j W_j x_{t - (taps-1-j) dilation}, x = 0 before the first step:
///
///   h1 = drop(act(conv(x, weight1, bias1))),  h2 = drop(act(conv(h1, weight2, bias2))),
///   y = act(h2 + (residual ? residual x + residual_bias : x)),
///
/// act(v) = v > 0 ? v : slope v, slope >= 0 and finite; drop, where dropout > 0, makes a value 0 with that
/// probability and divides the others by 1 - dropout. What is dropped depends on the key, the row and the
/// column alone. Zeros in h1 and h2 that dropout made are -0, all others are +0: the backward pass tells them
/// apart by that. batch and time may be 0. Both passes throw InvalidArgument naming the field.
template <class T>
struct TcnBlock {
  std::size_t batch, time, in, out, taps, dilation;  // dilation < 2^31
  const T* weight1;
  const T* bias1;
  const T* weight2;
  const T* bias2;
  const T* residual;  // (out, in), or null, then in == out
  const T* residual_bias;
  double slope, dropout;
  std::uint64_t key1, key2;
};

template <class T>
AFFEKT_API void tcn_block_forward(const TcnBlock<T>& block, const T* x, T* h1, T* h2, T* y, RunRanges run);

/// Where the gradients go, in the shapes of what they belong to; x, or all others, may be null where nobody
/// wants them.
template <class T>
struct TcnBlockGradients {
  T* x;
  T* weight1;
  T* bias1;
  T* weight2;
  T* bias2;
  T* residual;  // these two null without one
  T* residual_bias;
};

template <class T>
AFFEKT_API void tcn_block_backward(const TcnBlock<T>& block, const T* x, const T* h1, const T* h2, const T* y,
                                   const T* grad_y, const TcnBlockGradients<T>& grads, RunRanges run);

}  // namespace affekt
