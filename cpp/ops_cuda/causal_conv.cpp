// affekt::_tcn_block and affekt::_tcn_block_bwd on CUDA tensors.
#include "causal_conv.hpp"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>

#include "cuda.hpp"
#include "tcn_arguments.hpp"

namespace {

using torch::stable::Tensor;
namespace gpu = affekt::gpu;

void require_beside_x(const Tensor& x, std::initializer_list<affekt::Named> tensors) {
  for (const auto& [name, tensor] : tensors) affekt::require_beside(name, *tensor, "x", x);
}

// Device memory of the kernels.
Tensor workspace_of(gpu::Wide bytes, const Tensor& like) {
  return affekt::fresh({bytes}, torch::headeronly::ScalarType::Byte, &like);
}

affekt::TcnOutputs tcn_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2,
                             std::optional<Tensor> residual, std::optional<Tensor> residual_bias,
                             std::optional<Tensor> keys, std::int64_t dilation, double slope, double dropout,
                             bool loose) {
  require_beside_x(x, {{"weight1", &weight1}, {"bias1", &bias1}, {"weight2", &weight2}, {"bias2", &bias2}});
  if (residual) require_beside_x(x, {{"residual", &*residual}});
  if (residual_bias) require_beside_x(x, {{"residual_bias", &*residual_bias}});
  if (keys) require_beside_x(x, {{"keys", &*keys}});
  const affekt::OnDeviceOf device(x);
  const affekt::TcnArguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  return affekt::tcn_outputs(
      args, bias1, bias2, residual_bias, keys,
      [&](const auto& block, const std::int64_t* key, const auto* from, auto* h1, auto* h2, auto* y) {
        Tensor workspace = workspace_of(gpu::tcn_forward_workspace(block), args.x);
        affekt::require_launched(
            "_tcn_block", gpu::tcn_block_forward(block, reinterpret_cast<const long long*>(key), loose, from,
                                                 h1, h2, y, workspace.mutable_data_ptr(), device.stream()));
      });
}

affekt::TcnGradients tcn_block_bwd(Tensor grad, Tensor x, Tensor y, Tensor h1, Tensor h2, Tensor weight1,
                                   Tensor weight2, std::optional<Tensor> residual, std::int64_t dilation,
                                   double slope, double dropout, bool for_x, bool for_weights, bool loose) {
  require_beside_x(
      x,
      {{"grad", &grad}, {"y", &y}, {"h1", &h1}, {"h2", &h2}, {"weight1", &weight1}, {"weight2", &weight2}});
  if (residual) require_beside_x(x, {{"residual", &*residual}});
  const affekt::OnDeviceOf device(x);
  const affekt::TcnArguments args(x, weight1, weight2, residual, dilation, slope, dropout);
  return affekt::tcn_gradients(
      args, grad, y, h1, h2, for_x, for_weights,
      [&](const auto& block, const auto* from, const auto* first, const auto* second, const auto* sum,
          const auto* of_sum, const auto& to) {
        Tensor workspace = workspace_of(gpu::tcn_backward_workspace(block), args.x);
        affekt::require_launched("_tcn_block_bwd",
                                 gpu::tcn_block_backward(block, loose, from, first, second, sum, of_sum, to,
                                                         workspace.mutable_data_ptr(), device.stream()));
      });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CUDA, m) {
  m.impl("_tcn_block", TORCH_BOX(&tcn_block));
  m.impl("_tcn_block_bwd", TORCH_BOX(&tcn_block_bwd));
  m.impl("causal_conv_block", TORCH_BOX(&affekt::causal_conv_block<&tcn_block>));
}
