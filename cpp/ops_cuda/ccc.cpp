// affekt::_ccc_fwd and affekt::_ccc_bwd on CUDA tensors.
#include "ccc.hpp"

#include <torch/csrc/stable/library.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <tuple>

#include "ccc_arguments.hpp"
#include "cuda.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace gpu = affekt::gpu;

static_assert(gpu::ccc_values == affekt::kCccColumnValues);
static_assert(gpu::ccc_shift * sizeof(double) == offsetof(affekt::CccColumn, shift));

// The arguments, after a check that they lie where the kernels run.
affekt::CccArguments arguments(const Tensor& pred, const Tensor& target, const std::optional<Tensor>& mask,
                               bool pool) {
  affekt::require_beside("target", target, "pred", pred);
  if (mask) affekt::require_beside("mask", *mask, "pred", pred);
  return {pred, target, mask, pool};
}

gpu::CccShape shape_of(const affekt::CccArguments& given) {
  return {static_cast<gpu::Wide>(given.shape.groups), static_cast<gpu::Wide>(given.shape.steps),
          static_cast<gpu::Wide>(given.shape.dims)};
}

std::tuple<Tensor, Tensor> ccc_fwd(Tensor pred, Tensor target, std::optional<Tensor> mask, bool pool,
                                   std::int64_t reduction, double eps, bool mixed) {
  const affekt::CccArguments given = arguments(pred, target, mask, pool);
  const affekt::OnDeviceOf device(pred);
  const gpu::CccShape shape = shape_of(given);
  Tensor columns = affekt::fresh({static_cast<std::int64_t>(given.columns), std::int64_t{gpu::ccc_values}},
                                 ScalarType::Double, &pred);
  Tensor loss = given.fresh_loss(reduction, pool);
  Tensor workspace = affekt::fresh({gpu::ccc_workspace(shape)}, ScalarType::Byte, &pred);
  affekt::with_dtype("pred", pred, [&](auto zero) {
    using T = decltype(zero);
    affekt::require_launched(
        "_ccc_fwd", gpu::ccc_forward<T>(
                        shape, given.pred.const_data_ptr<T>(), given.target.const_data_ptr<T>(), given.mask,
                        eps, mixed, static_cast<int>(reduction), columns.mutable_data_ptr<double>(),
                        loss.mutable_data_ptr<T>(), workspace.mutable_data_ptr(), device.stream()));
  });
  return {loss, columns};
}

std::tuple<Tensor, Tensor> ccc_bwd(Tensor grad, Tensor pred, Tensor target, std::optional<Tensor> mask,
                                   Tensor columns, bool pool, bool for_pred, bool for_target) {
  const affekt::CccArguments given = arguments(pred, target, mask, pool);
  const affekt::OnDeviceOf device(pred);
  affekt::require_beside("grad", grad, "pred", pred);
  affekt::require_beside("columns", columns, "pred", pred);
  const Tensor g = affekt::dense(grad), c = affekt::dense(columns);
  given.require_results(g, c);
  Tensor grad_pred = given.fresh_gradient(for_pred), grad_target = given.fresh_gradient(for_target);
  affekt::with_dtype("pred", pred, [&](auto zero) {
    using T = decltype(zero);
    affekt::require_launched(
        "_ccc_bwd", gpu::ccc_backward<T>(
                        shape_of(given), given.pred.const_data_ptr<T>(), given.target.const_data_ptr<T>(),
                        given.mask, c.const_data_ptr<double>(), g.const_data_ptr<T>(), g.numel() == 1,
                        for_pred ? grad_pred.mutable_data_ptr<T>() : nullptr,
                        for_target ? grad_target.mutable_data_ptr<T>() : nullptr, device.stream()));
  });
  return {grad_pred, grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CUDA, m) {
  m.impl("_ccc_fwd", TORCH_BOX(&ccc_fwd));
  m.impl("_ccc_bwd", TORCH_BOX(&ccc_bwd));
  m.impl("ccc_loss", TORCH_BOX(&affekt::ccc_loss<&ccc_fwd>));
}
