// affekt::_ccc_fwd and affekt::_ccc_bwd: one minus the concordance correlation coefficient on CPU tensors.
#include "affekt/losses.hpp"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "ccc_arguments.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::tuple<Tensor, Tensor> ccc_fwd(Tensor pred, Tensor target, std::optional<Tensor> mask, bool pool,
                                   std::int64_t reduction, double eps, bool mixed) {
  const affekt::CccArguments given(pred, target, mask, pool);
  const affekt::CccShape& shape = given.shape;
  const Tensor &p = given.pred, &y = given.target;
  const std::size_t n = given.columns;
  Tensor columns = affekt::fresh({static_cast<std::int64_t>(n), std::int64_t{affekt::kCccColumnValues}},
                                 ScalarType::Double);
  auto* const of = static_cast<affekt::CccColumn*>(columns.mutable_data_ptr());

  Tensor loss = given.fresh_loss(reduction, pool);
  affekt::with_dtype("pred", p, [&](auto zero) {
    using T = decltype(zero);
    affekt::ccc_forward<T>(shape, p.const_data_ptr<T>(), y.const_data_ptr<T>(), given.mask, eps, mixed, of,
                           affekt::on_torch_threads);
    T* const out = loss.mutable_data_ptr<T>();
    double counted = 0, total = 0;
    for (std::size_t i = 0; i < n; ++i) {
      counted += of[i].count > 0;
      total += of[i].loss;
    }
    // The weight of a column in the result goes into its gradient here, once.
    const double weight = reduction == affekt::CccReduction::mean && counted > 0 ? 1 / counted : 1;
    for (std::size_t i = 0; i < n; ++i) {
      if (reduction == affekt::CccReduction::none) out[i] = static_cast<T>(of[i].loss);
      of[i].on_other *= weight;
      of[i].on_self *= weight;
      of[i].shift *= weight;
    }
    if (reduction != affekt::CccReduction::none) *out = static_cast<T>(total * weight);
  });
  return {loss, columns};
}

std::tuple<Tensor, Tensor> ccc_bwd(Tensor grad, Tensor pred, Tensor target, std::optional<Tensor> mask,
                                   Tensor columns, bool pool, bool for_pred, bool for_target) {
  const affekt::CccArguments given(pred, target, mask, pool);
  const affekt::CccShape& shape = given.shape;
  const Tensor &p = given.pred, &y = given.target;
  const std::size_t n = given.columns;
  const Tensor g = affekt::dense(grad), c = affekt::dense(columns);
  given.require_results(g, c);
  Tensor grad_pred = given.fresh_gradient(for_pred), grad_target = given.fresh_gradient(for_target);
  affekt::with_dtype("pred", p, [&](auto zero) {
    using T = decltype(zero);
    const T* const from = g.const_data_ptr<T>();
    std::vector<double> upstream(n);
    for (std::size_t i = 0; i < n; ++i) upstream[i] = static_cast<double>(from[g.numel() == 1 ? 0 : i]);
    affekt::ccc_backward<T>(shape, p.const_data_ptr<T>(), y.const_data_ptr<T>(), given.mask,
                            static_cast<const affekt::CccColumn*>(c.const_data_ptr()), upstream.data(),
                            for_pred ? grad_pred.mutable_data_ptr<T>() : nullptr,
                            for_target ? grad_target.mutable_data_ptr<T>() : nullptr,
                            affekt::on_torch_threads);
  });
  return {grad_pred, grad_target};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("_ccc_fwd", TORCH_BOX(&ccc_fwd));
  m.impl("_ccc_bwd", TORCH_BOX(&ccc_bwd));
  m.impl("ccc_loss", TORCH_BOX(&affekt::ccc_loss<&ccc_fwd>));
}
