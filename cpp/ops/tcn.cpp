// affekt::_tcn_block and affekt::_tcn_block_bwd: a residual block of the TCN on CPU tensors.
#include "affekt/tcn_training.hpp"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <tuple>

#include "tensors.hpp"

namespace {

using torch::stable::Tensor;

std::size_t size_of(const Tensor& tensor, std::int64_t d) { return static_cast<std::size_t>(tensor.size(d)); }

void require_shape(const char* name, const Tensor& tensor, const Tensor& like,
                   std::initializer_list<std::int64_t> sizes) {
  bool same =
      tensor.dim() == static_cast<std::int64_t>(sizes.size()) && tensor.scalar_type() == like.scalar_type();
  std::string text;
  for (std::size_t d = 0; d < sizes.size(); ++d) {
    same = same && tensor.size(static_cast<std::int64_t>(d)) == sizes.begin()[d];
    text += (d == 0 ? "" : ", ") + std::to_string(sizes.begin()[d]);
  }
  if (!same)
    throw affekt::InvalidArgument(std::string(name) + ": expected (" + text + ") of the dtype of x, got " +
                                  affekt::shape_of(tensor));
}

// What both directions take; dense.
struct Arguments {
  Arguments(const Tensor& x_, const Tensor& weight1_, const Tensor& weight2_,
            const std::optional<Tensor>& residual_, std::int64_t dilation_, double slope_, double dropout_)
      : x(affekt::dense(x_)),
        weight1(affekt::dense(weight1_)),
        weight2(affekt::dense(weight2_)),
        residual(residual_ ? affekt::dense(*residual_) : x),
        has_residual(residual_),
        dilation(dilation_),
        slope(slope_),
        dropout(dropout_) {
    if (x.dim() != 3)
      throw affekt::InvalidArgument("x: expected (batch, time, width), got " + affekt::shape_of(x));
    if (weight1.dim() != 3 || weight1.numel() == 0)
      throw affekt::InvalidArgument("weight1: expected (out, in, taps), got " + affekt::shape_of(weight1));
    const std::int64_t out = weight1.size(0), in = x.size(2), taps = weight1.size(2);
    require_shape("weight1", weight1, x, {out, in, taps});
    require_shape("weight2", weight2, x, {out, out, taps});
    if (has_residual)
      require_shape("residual", residual, x, {out, in, 1});
    else if (in != out)
      throw affekt::InvalidArgument("residual: expected a weight, as the width changes from " +
                                    std::to_string(in) + " to " + std::to_string(out));
    if (dilation < 1 || dilation > INT32_MAX)
      throw affekt::InvalidArgument("dilation: expected from 1 to 2147483647, got " +
                                    std::to_string(dilation));
    if (!(slope >= 0))
      throw affekt::InvalidArgument("slope: expected at least 0, got " + std::to_string(slope));
    if (!(dropout >= 0 && dropout < 1))
      throw affekt::InvalidArgument("dropout: expected within [0, 1), got " + std::to_string(dropout));
  }

  // (batch, time, out)
  Tensor sequence() const { return affekt::fresh({x.size(0), x.size(1), weight1.size(0)}, x.scalar_type()); }

  template <class T>
  affekt::TcnBlock<T> block() const {
    affekt::TcnBlock<T> b{};
    b.batch = size_of(x, 0);
    b.time = size_of(x, 1);
    b.in = size_of(x, 2);
    b.out = size_of(weight1, 0);
    b.taps = size_of(weight1, 2);
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

std::tuple<Tensor, Tensor, Tensor> tcn_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2,
                                             Tensor bias2, std::optional<Tensor> residual,
                                             std::optional<Tensor> residual_bias, std::optional<Tensor> keys,
                                             std::int64_t dilation, double slope, double dropout) {
  const Arguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  const std::int64_t out = args.weight1.size(0);
  require_shape("bias1", bias1, args.x, {out});
  require_shape("bias2", bias2, args.x, {out});
  if (residual.has_value() != residual_bias.has_value())
    throw affekt::InvalidArgument("residual_bias: expected one beside residual, and none without");
  if (residual_bias) require_shape("residual_bias", *residual_bias, args.x, {out});
  if (dropout > 0 && !keys) throw affekt::InvalidArgument("keys: expected two, as dropout is above 0");
  if (keys && (keys->scalar_type() != torch::headeronly::ScalarType::Long || keys->numel() != 2))
    throw affekt::InvalidArgument("keys: expected two of int64, got " + affekt::shape_of(*keys));
  const Tensor b1 = affekt::dense(bias1), b2 = affekt::dense(bias2);
  const Tensor rb = residual_bias ? affekt::dense(*residual_bias) : b1, k = keys ? affekt::dense(*keys) : b1;
  Tensor y = args.sequence(), h1 = args.sequence(), h2 = args.sequence();
  affekt::with_dtype("x", args.x, [&](auto zero) {
    using T = decltype(zero);
    affekt::TcnBlock<T> block = args.block<T>();
    block.bias1 = b1.const_data_ptr<T>();
    block.bias2 = b2.const_data_ptr<T>();
    block.residual_bias = residual_bias ? rb.const_data_ptr<T>() : nullptr;
    if (keys) {
      const auto* const key = static_cast<const std::int64_t*>(k.const_data_ptr());
      block.key1 = static_cast<std::uint64_t>(key[0]);
      block.key2 = static_cast<std::uint64_t>(key[1]);
    }
    affekt::tcn_block_forward<T>(block, args.x.const_data_ptr<T>(), h1.mutable_data_ptr<T>(),
                                 h2.mutable_data_ptr<T>(), y.mutable_data_ptr<T>(), affekt::on_torch_threads);
  });
  return {y, h1, h2};
}

Tensor causal_conv_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2,
                         std::optional<Tensor> residual, std::optional<Tensor> residual_bias,
                         std::int64_t dilation, double slope, double dropout, std::optional<Tensor> keys) {
  return std::get<0>(
      tcn_block(x, weight1, bias1, weight2, bias2, residual, residual_bias, keys, dilation, slope, dropout));
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> tcn_block_bwd(
    Tensor grad, Tensor x, Tensor y, Tensor h1, Tensor h2, Tensor weight1, Tensor weight2,
    std::optional<Tensor> residual, std::int64_t dilation, double slope, double dropout, bool for_x,
    bool for_weights) {
  const Arguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  const std::int64_t batch = args.x.size(0), time = args.x.size(1), out = args.weight1.size(0);
  require_shape("grad", grad, args.x, {batch, time, out});
  require_shape("y", y, args.x, {batch, time, out});
  require_shape("h1", h1, args.x, {batch, time, out});
  require_shape("h2", h2, args.x, {batch, time, out});
  const Tensor g = affekt::dense(grad), y_ = affekt::dense(y), h1_ = affekt::dense(h1),
               h2_ = affekt::dense(h2);
  // A gradient that nobody asked for is an empty tensor.
  const auto like = [&](const Tensor& tensor, bool asked) {
    return asked ? torch::stable::empty_like(tensor) : affekt::fresh({0}, args.x.scalar_type());
  };
  const auto bias = [&](bool asked) { return affekt::fresh({asked ? out : 0}, args.x.scalar_type()); };
  const bool aside = for_weights && args.has_residual;
  Tensor grad_x = like(args.x, for_x), grad_weight1 = like(args.weight1, for_weights),
         grad_bias1 = bias(for_weights), grad_weight2 = like(args.weight2, for_weights),
         grad_bias2 = bias(for_weights), grad_residual = like(args.residual, aside),
         grad_residual_bias = bias(aside);
  affekt::with_dtype("x", args.x, [&](auto zero) {
    using T = decltype(zero);
    affekt::TcnBlockGradients<T> to{};
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
    affekt::tcn_block_backward<T>(args.block<T>(), args.x.const_data_ptr<T>(), h1_.const_data_ptr<T>(),
                                  h2_.const_data_ptr<T>(), y_.const_data_ptr<T>(), g.const_data_ptr<T>(), to,
                                  affekt::on_torch_threads);
  });
  return {grad_x, grad_weight1, grad_bias1, grad_weight2, grad_bias2, grad_residual, grad_residual_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("_tcn_block", TORCH_BOX(&tcn_block));
  m.impl("_tcn_block_bwd", TORCH_BOX(&tcn_block_bwd));
  m.impl("causal_conv_block", TORCH_BOX(&causal_conv_block));
}
