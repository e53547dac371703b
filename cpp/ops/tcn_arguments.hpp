// What the ops of the TCN's residual block are given, checked: the same on the CPU and on CUDA.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>

#include "affekt/tcn_training.hpp"
#include "tensors.hpp"

namespace affekt {

/// What both directions take; dense.
struct TcnArguments {
  using Tensor = torch::stable::Tensor;

  TcnArguments(const Tensor& x_, const Tensor& weight1_, const Tensor& weight2_,
               const std::optional<Tensor>& residual_, std::int64_t dilation_, double slope_, double dropout_)
      : x(dense(x_)),
        weight1(dense(weight1_)),
        weight2(dense(weight2_)),
        residual(residual_ ? dense(*residual_) : x),
        has_residual(residual_),
        dilation(dilation_),
        slope(slope_),
        dropout(dropout_) {
    if (x.dim() != 3) throw InvalidArgument("x: expected (batch, time, width), got " + shape_of(x));
    if (weight1.dim() != 3 || weight1.numel() == 0)
      throw InvalidArgument("weight1: expected (out, in, taps), got " + shape_of(weight1));
    const std::int64_t out = weight1.size(0), in = x.size(2), taps = weight1.size(2);
    require("weight1", weight1, {out, in, taps});
    require("weight2", weight2, {out, out, taps});
    if (has_residual)
      require("residual", residual, {out, in, 1});
    else if (in != out)
      throw InvalidArgument("residual: expected a weight, as the width changes from " + std::to_string(in) +
                            " to " + std::to_string(out));
    if (dilation < 1 || dilation > INT32_MAX)
      throw InvalidArgument("dilation: expected from 1 to 2147483647, got " + std::to_string(dilation));
    if (!(slope >= 0 && slope < HUGE_VAL))
      throw InvalidArgument("slope: expected at least 0 and finite, got " + std::to_string(slope));
    if (!(dropout >= 0 && dropout < 1))
      throw InvalidArgument("dropout: expected within [0, 1), got " + std::to_string(dropout));
  }

  void require(const char* name, const Tensor& tensor, std::initializer_list<std::int64_t> sizes) const {
    bool same =
        tensor.dim() == static_cast<std::int64_t>(sizes.size()) && tensor.scalar_type() == x.scalar_type();
    std::string text;
    for (std::size_t d = 0; d < sizes.size(); ++d) {
      same = same && tensor.size(static_cast<std::int64_t>(d)) == sizes.begin()[d];
      text += (d == 0 ? "" : ", ") + std::to_string(sizes.begin()[d]);
    }
    if (!same)
      throw InvalidArgument(std::string(name) + ": expected (" + text + ") of the dtype of x, got " +
                            shape_of(tensor));
  }

  /// (batch, time, out).
  Tensor sequence() const { return fresh({x.size(0), x.size(1), weight1.size(0)}, x.scalar_type(), &x); }
  void require_sequence(const char* name, const Tensor& tensor) const {
    require(name, tensor, {x.size(0), x.size(1), weight1.size(0)});
  }

  template <class T>
  TcnBlock<T> block() const {
    const auto size_of = [](const Tensor& tensor, std::int64_t d) {
      return static_cast<std::size_t>(tensor.size(d));
    };
    TcnBlock<T> b{};
    b.batch = size_of(x, 0), b.time = size_of(x, 1), b.in = size_of(x, 2);
    b.out = size_of(weight1, 0), b.taps = size_of(weight1, 2);
    b.dilation = static_cast<std::size_t>(dilation);
    b.weight1 = weight1.const_data_ptr<T>();
    b.weight2 = weight2.const_data_ptr<T>();
    b.residual = has_residual ? residual.const_data_ptr<T>() : nullptr;
    b.slope = slope;
    b.dropout = dropout;
    return b;
  }

  Tensor x, weight1, weight2, residual;
  bool has_residual;
  std::int64_t dilation;
  double slope, dropout;
};

using TcnOutputs = std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

/// The op _tcn_block: run(block, keys or null, x, h1, h2, y) computes it.
template <class Run>
TcnOutputs tcn_outputs(const TcnArguments& args, const torch::stable::Tensor& bias1,
                       const torch::stable::Tensor& bias2,
                       const std::optional<torch::stable::Tensor>& residual_bias,
                       const std::optional<torch::stable::Tensor>& keys, Run&& run) {
  using torch::stable::Tensor;
  const std::int64_t out = args.weight1.size(0);
  args.require("bias1", bias1, {out});
  args.require("bias2", bias2, {out});
  if (args.has_residual != residual_bias.has_value())
    throw InvalidArgument("residual_bias: expected one beside residual, and none without");
  if (residual_bias) args.require("residual_bias", *residual_bias, {out});
  if (args.dropout > 0 && !keys) throw InvalidArgument("keys: expected two, as dropout is above 0");
  if (keys && (keys->scalar_type() != torch::headeronly::ScalarType::Long || keys->numel() != 2))
    throw InvalidArgument("keys: expected two of int64, got " + shape_of(*keys));
  const Tensor b1 = dense(bias1), b2 = dense(bias2);
  const Tensor rb = residual_bias ? dense(*residual_bias) : b1, k = keys ? dense(*keys) : b1;
  Tensor y = args.sequence(), h1 = args.sequence(), h2 = args.sequence();
  with_dtype("x", args.x, [&](auto zero) {
    using T = decltype(zero);
    TcnBlock<T> block = args.block<T>();
    block.bias1 = b1.const_data_ptr<T>();
    block.bias2 = b2.const_data_ptr<T>();
    block.residual_bias = residual_bias ? rb.const_data_ptr<T>() : nullptr;
    run(block, keys ? static_cast<const std::int64_t*>(k.const_data_ptr()) : nullptr,
        args.x.const_data_ptr<T>(), h1.mutable_data_ptr<T>(), h2.mutable_data_ptr<T>(),
        y.mutable_data_ptr<T>());
  });
  return {y, h1, h2};
}

using TcnGradients =
    std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
               torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

/// The op _tcn_block_bwd: run(block, x, h1, h2, y, grad, gradients) computes it. A gradient that nobody asked
/// for is an empty tensor.
template <class Run>
TcnGradients tcn_gradients(const TcnArguments& args, const torch::stable::Tensor& grad,
                           const torch::stable::Tensor& y, const torch::stable::Tensor& h1,
                           const torch::stable::Tensor& h2, bool for_x, bool for_weights, Run&& run) {
  using torch::stable::Tensor;
  args.require_sequence("grad", grad);
  args.require_sequence("y", y);
  args.require_sequence("h1", h1);
  args.require_sequence("h2", h2);
  const std::int64_t out = args.weight1.size(0);
  const Tensor g = dense(grad), y_ = dense(y), h1_ = dense(h1), h2_ = dense(h2);
  const auto none = [&] { return fresh({0}, args.x.scalar_type(), &args.x); };
  const auto like = [&](const Tensor& tensor, bool asked) {
    return asked ? torch::stable::empty_like(tensor) : none();
  };
  const auto bias = [&](bool asked) { return asked ? fresh({out}, args.x.scalar_type(), &args.x) : none(); };
  const bool aside = for_weights && args.has_residual;
  Tensor grad_x = like(args.x, for_x), grad_weight1 = like(args.weight1, for_weights),
         grad_bias1 = bias(for_weights), grad_weight2 = like(args.weight2, for_weights),
         grad_bias2 = bias(for_weights), grad_residual = like(args.residual, aside),
         grad_residual_bias = bias(aside);
  with_dtype("x", args.x, [&](auto zero) {
    using T = decltype(zero);
    TcnBlockGradients<T> to{};
    if (for_x) to.x = grad_x.mutable_data_ptr<T>();
    if (for_weights) {
      to.weight1 = grad_weight1.mutable_data_ptr<T>();
      to.bias1 = grad_bias1.mutable_data_ptr<T>();
      to.weight2 = grad_weight2.mutable_data_ptr<T>();
      to.bias2 = grad_bias2.mutable_data_ptr<T>();
    }
    if (aside) {
      to.residual = grad_residual.mutable_data_ptr<T>();
      to.residual_bias = grad_residual_bias.mutable_data_ptr<T>();
    }
    run(args.block<T>(), args.x.const_data_ptr<T>(), h1_.const_data_ptr<T>(), h2_.const_data_ptr<T>(),
        y_.const_data_ptr<T>(), g.const_data_ptr<T>(), to);
  });
  return {grad_x, grad_weight1, grad_bias1, grad_weight2, grad_bias2, grad_residual, grad_residual_bias};
}

/// The public op, over a _tcn_block.
template <auto tcn_block>
torch::stable::Tensor causal_conv_block(torch::stable::Tensor x, torch::stable::Tensor weight1,
                                        torch::stable::Tensor bias1, torch::stable::Tensor weight2,
                                        torch::stable::Tensor bias2,
                                        std::optional<torch::stable::Tensor> residual,
                                        std::optional<torch::stable::Tensor> residual_bias,
                                        std::int64_t dilation, double slope, double dropout,
                                        std::optional<torch::stable::Tensor> keys) {
  return std::get<0>(tcn_block(x, weight1, bias1, weight2, bias2, residual, residual_bias, keys, dilation,
                               slope, dropout, false));
}

}  // namespace affekt
