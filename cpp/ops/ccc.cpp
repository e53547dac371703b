// affekt::_ccc_fwd and affekt::_ccc_bwd: one minus the concordance correlation coefficient on CPU tensors.
#include "affekt/losses.hpp"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "tensors.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum Reduction : std::int64_t { mean, sum, none };

affekt::CccShape shape_of_columns(const Tensor& pred, bool pool) {
  if (pred.dim() != 2 && pred.dim() != 3)
    throw affekt::InvalidArgument("pred: expected (batch, time) or (batch, time, dims), got " +
                                  affekt::shape_of(pred));
  const auto batch = static_cast<std::size_t>(pred.size(0)), time = static_cast<std::size_t>(pred.size(1));
  const std::size_t dims = pred.dim() == 3 ? static_cast<std::size_t>(pred.size(2)) : 1;
  if (pool) return {1, batch * time, dims};
  return {batch, time, dims};
}

// Bytes of the mask, dense and of the shape of pred, or null; `kept` holds what they belong to.
const std::uint8_t* bytes_of(const std::optional<Tensor>& mask, const Tensor& pred, Tensor& kept) {
  if (!mask) return nullptr;
  bool same = mask->dim() == pred.dim();
  for (std::int64_t d = 0; same && d < pred.dim(); ++d) same = mask->size(d) == pred.size(d);
  if (!same || mask->scalar_type() != ScalarType::Bool)
    throw affekt::InvalidArgument("mask: expected bool " + affekt::shape_of(pred) + ", got " +
                                  affekt::shape_of(*mask));
  kept = affekt::dense(*mask);
  return static_cast<const std::uint8_t*>(kept.const_data_ptr());
}

std::tuple<Tensor, Tensor> ccc_fwd(Tensor pred, Tensor target, std::optional<Tensor> mask, bool pool,
                                   std::int64_t reduction, double eps, bool mixed) {
  affekt::require_twins("target", target, "pred", pred);
  if (reduction < mean || reduction > none)
    throw affekt::InvalidArgument("reduction: expected 0 (mean), 1 (sum) or 2 (none), got " +
                                  std::to_string(reduction));
  const affekt::CccShape shape = shape_of_columns(pred, pool);
  const Tensor p = affekt::dense(pred), y = affekt::dense(target);
  Tensor kept = p;
  const std::uint8_t* const bytes = bytes_of(mask, pred, kept);
  const std::size_t n = shape.groups * shape.dims;
  Tensor columns = affekt::fresh({static_cast<std::int64_t>(n), std::int64_t{affekt::kCccColumnValues}},
                                 ScalarType::Double);
  auto* const of = static_cast<affekt::CccColumn*>(columns.mutable_data_ptr());

  const ScalarType dtype = p.scalar_type();
  const auto groups = static_cast<std::int64_t>(shape.groups), dims = static_cast<std::int64_t>(shape.dims);
  const bool by_dim = reduction == none && pred.dim() == 3, by_group = reduction == none && !pool;
  Tensor loss = by_dim && by_group ? affekt::fresh({groups, dims}, dtype)
                : by_dim           ? affekt::fresh({dims}, dtype)
                : by_group         ? affekt::fresh({groups}, dtype)
                                   : affekt::fresh({}, dtype);
  affekt::with_dtype("pred", p, [&](auto zero) {
    using T = decltype(zero);
    affekt::ccc_forward<T>(shape, p.const_data_ptr<T>(), y.const_data_ptr<T>(), bytes, eps, mixed, of,
                           affekt::on_torch_threads);
    T* const out = loss.mutable_data_ptr<T>();
    double counted = 0, total = 0;
    for (std::size_t i = 0; i < n; ++i) {
      counted += of[i].count > 0;
      total += of[i].loss;
    }
    // The weight of a column in the result goes into its gradient here, once.
    const double weight = reduction == mean && counted > 0 ? 1 / counted : 1;
    for (std::size_t i = 0; i < n; ++i) {
      if (reduction == none) out[i] = static_cast<T>(of[i].loss);
      of[i].on_other *= weight;
      of[i].on_self *= weight;
      of[i].shift *= weight;
    }
    if (reduction != none) *out = static_cast<T>(total * weight);
  });
  return {loss, columns};
}

std::tuple<Tensor, Tensor> ccc_bwd(Tensor grad, Tensor pred, Tensor target, std::optional<Tensor> mask,
                                   Tensor columns, bool pool, bool for_pred, bool for_target) {
  affekt::require_twins("target", target, "pred", pred);
  const affekt::CccShape shape = shape_of_columns(pred, pool);
  const Tensor p = affekt::dense(pred), y = affekt::dense(target);
  const Tensor g = affekt::dense(grad), c = affekt::dense(columns);
  Tensor kept = p;
  const std::uint8_t* const bytes = bytes_of(mask, pred, kept);
  const std::size_t n = shape.groups * shape.dims;
  if (c.scalar_type() != ScalarType::Double ||
      c.numel() != static_cast<std::int64_t>(n * affekt::kCccColumnValues))
    throw affekt::InvalidArgument("columns: expected what _ccc_fwd returned, got " + affekt::shape_of(c));
  if (g.scalar_type() != p.scalar_type() || (g.numel() != 1 && g.numel() != static_cast<std::int64_t>(n)))
    throw affekt::InvalidArgument("grad: expected the shape and dtype of the loss, got " +
                                  affekt::shape_of(g));
  // A gradient that nobody asked for is an empty tensor.
  const auto sized = [&](bool asked) {
    return asked ? torch::stable::empty_like(p) : affekt::fresh({0}, p.scalar_type());
  };
  Tensor grad_pred = sized(for_pred), grad_target = sized(for_target);
  affekt::with_dtype("pred", p, [&](auto zero) {
    using T = decltype(zero);
    const T* const from = g.const_data_ptr<T>();
    std::vector<double> upstream(n);
    for (std::size_t i = 0; i < n; ++i) upstream[i] = static_cast<double>(from[g.numel() == 1 ? 0 : i]);
    affekt::ccc_backward<T>(shape, p.const_data_ptr<T>(), y.const_data_ptr<T>(), bytes,
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
}
