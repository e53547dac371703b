// affekt::_tcn_block and affekt::_tcn_block_bwd: a residual block of the TCN on CPU tensors.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>

#include "affekt/tcn_training.hpp"
#include "tcn_arguments.hpp"

namespace {

using torch::stable::Tensor;

affekt::TcnOutputs tcn_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2,
                             std::optional<Tensor> residual, std::optional<Tensor> residual_bias,
                             std::optional<Tensor> keys, std::int64_t dilation, double slope, double dropout,
                             bool) {
  const affekt::TcnArguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  return affekt::tcn_outputs(
      args, bias1, bias2, residual_bias, keys,
      [](auto block, const std::int64_t* key, const auto* from, auto* h1, auto* h2, auto* y) {
        if (key != nullptr) {
          block.key1 = static_cast<std::uint64_t>(key[0]);
          block.key2 = static_cast<std::uint64_t>(key[1]);
        }
        affekt::tcn_block_forward(block, from, h1, h2, y, affekt::on_torch_threads);
      });
}

affekt::TcnGradients tcn_block_bwd(Tensor grad, Tensor x, Tensor y, Tensor h1, Tensor h2, Tensor weight1,
                                   Tensor weight2, std::optional<Tensor> residual, std::int64_t dilation,
                                   double slope, double dropout, bool for_x, bool for_weights, bool) {
  const affekt::TcnArguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  return affekt::tcn_gradients(args, grad, y, h1, h2, for_x, for_weights,
                               [](const auto& block, const auto* from, const auto* first, const auto* second,
                                  const auto* sum, const auto* of_sum, const auto& to) {
                                 affekt::tcn_block_backward(block, from, first, second, sum, of_sum, to,
                                                            affekt::on_torch_threads);
                               });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("_tcn_block", TORCH_BOX(&tcn_block));
  m.impl("_tcn_block_bwd", TORCH_BOX(&tcn_block_bwd));
  m.impl("causal_conv_block", TORCH_BOX(&affekt::causal_conv_block<&tcn_block>));
}
