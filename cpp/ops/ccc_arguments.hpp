// What the ops of the concordance loss are given, checked: the same on the CPU and on CUDA.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "affekt/losses.hpp"
#include "tensors.hpp"

namespace affekt {

struct CccReduction {
  enum Value : std::int64_t { mean, sum, none };
};

struct CccArguments {
  CccShape shape{};
  std::size_t columns = 0;
  torch::stable::Tensor pred, target, kept;  // dense; `kept` is what `mask` points into
  const std::uint8_t* mask = nullptr;        // of the shape of pred, or null

  CccArguments(const torch::stable::Tensor& pred_, const torch::stable::Tensor& target_,
               const std::optional<torch::stable::Tensor>& mask_, bool pool)
      : pred(dense(pred_)), target(dense(target_)), kept(pred) {
    require_twins("target", target_, "pred", pred_);
    if (pred.dim() != 2 && pred.dim() != 3)
      throw InvalidArgument("pred: expected (batch, time) or (batch, time, dims), got " + shape_of(pred));
    const auto batch = static_cast<std::size_t>(pred.size(0)), time = static_cast<std::size_t>(pred.size(1));
    shape = {pool ? 1 : batch, pool ? batch * time : time,
             pred.dim() == 3 ? static_cast<std::size_t>(pred.size(2)) : 1};
    columns = shape.groups * shape.dims;
    if (!mask_) return;
    bool same = mask_->dim() == pred.dim() && mask_->scalar_type() == torch::headeronly::ScalarType::Bool;
    for (std::int64_t d = 0; same && d < pred.dim(); ++d) same = mask_->size(d) == pred.size(d);
    if (!same) throw InvalidArgument("mask: expected bool " + shape_of(pred) + ", got " + shape_of(*mask_));
    kept = per_step(*mask_) ? spread(*mask_) : dense(*mask_);
    mask = static_cast<const std::uint8_t*>(kept.const_data_ptr());
  }

  /// Whether a mask on the CPU is one of (batch, time) that all dims share.
  static bool per_step(const torch::stable::Tensor& mask) {
    return mask.dim() == 3 && mask.size(2) > 1 && mask.stride(2) == 0 && mask.stride(1) == 1 &&
           mask.stride(0) == mask.size(1) && mask.device().is_cpu();
  }
  /// A copy of it for every dim; torch's takes longer than the loss.
  static torch::stable::Tensor spread(const torch::stable::Tensor& mask) {
    const auto steps = static_cast<std::size_t>(mask.size(0) * mask.size(1));
    const auto dims = static_cast<std::size_t>(mask.size(2));
    torch::stable::Tensor all = fresh({mask.size(0), mask.size(1), mask.size(2)}, mask.scalar_type(), &mask);
    const auto* from = static_cast<const std::uint8_t*>(mask.const_data_ptr());
    auto* to = static_cast<std::uint8_t*>(all.mutable_data_ptr());
    if (dims == 2) {  // valence and arousal
      for (std::size_t i = 0; i < steps; ++i) to[2 * i] = to[2 * i + 1] = from[i];
    } else {
      for (std::size_t i = 0; i < steps; ++i, to += dims) std::memset(to, from[i], dims);
    }
    return all;
  }

  /// For one value, or one per column that stays apart.
  torch::stable::Tensor fresh_loss(std::int64_t reduction, bool pool) const {
    if (reduction < CccReduction::mean || reduction > CccReduction::none)
      throw InvalidArgument("reduction: expected 0 (mean), 1 (sum) or 2 (none), got " +
                            std::to_string(reduction));
    const auto dtype = pred.scalar_type();
    const auto groups = static_cast<std::int64_t>(shape.groups), dims = static_cast<std::int64_t>(shape.dims);
    const bool apart = reduction == CccReduction::none, by_dim = apart && pred.dim() == 3,
               by_group = apart && !pool;
    return by_dim && by_group ? fresh({groups, dims}, dtype, &pred)
           : by_dim           ? fresh({dims}, dtype, &pred)
           : by_group         ? fresh({groups}, dtype, &pred)
                              : fresh({}, dtype, &pred);
  }

  /// A gradient that nobody asked for is an empty tensor.
  torch::stable::Tensor fresh_gradient(bool asked) const {
    return asked ? torch::stable::empty_like(pred) : fresh({0}, pred.scalar_type(), &pred);
  }

  void require_results(const torch::stable::Tensor& grad, const torch::stable::Tensor& of_columns) const {
    const auto n = static_cast<std::int64_t>(columns);
    if (of_columns.scalar_type() != torch::headeronly::ScalarType::Double ||
        of_columns.numel() != n * static_cast<std::int64_t>(kCccColumnValues))
      throw InvalidArgument("columns: expected what _ccc_fwd returned, got " + shape_of(of_columns));
    if (grad.scalar_type() != pred.scalar_type() || (grad.numel() != 1 && grad.numel() != n))
      throw InvalidArgument("grad: expected the shape and dtype of the loss, got " + shape_of(grad));
  }
};

/// affekt::ccc_loss by the `_ccc_fwd` of a device.
template <auto forward>
torch::stable::Tensor ccc_loss(torch::stable::Tensor pred, torch::stable::Tensor target,
                               std::optional<torch::stable::Tensor> mask, std::string over,
                               std::string reduction, double eps, std::string bias) {
  const auto dtype = working_dtype({{"pred", &pred}, {"target", &target}});
  pred = as_dtype(pred, dtype);
  if (mask && mask->dim() == 2 && pred.dim() == 3 && mask->size(0) == pred.size(0) &&
      mask->size(1) == pred.size(1)) {  // one for all dims
    const std::vector<std::int64_t> sizes{pred.size(0), pred.size(1), pred.size(2)};
    mask = call_torch("aten::expand", torch::stable::unsqueeze(*mask, 2), sizes, false);
  }
  const bool pool = index_of("over", over, {"time", "batch"}) == 1;
  const bool mixed = index_of("bias", bias, {"population", "mixed"}) == 1;
  const std::int64_t how = index_of("reduction", reduction, {"mean", "sum", "none"});
  return std::get<0>(forward(pred, as_dtype(target, dtype), mask, pool, how, eps, mixed));
}

}  // namespace affekt
