// What the contrastive ops are given, checked: the same on the CPU and on CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tensors.hpp"

namespace affekt {

inline void require_rows(const char* name, const torch::stable::Tensor& x, std::int64_t dim,
                         const torch::stable::Tensor& like) {
  if (x.dim() != 2 || x.size(1) != dim || x.scalar_type() != like.scalar_type())
    throw InvalidArgument(std::string(name) + ": expected (n, " + std::to_string(dim) +
                          ") of the embeddings' dtype, got " + shape_of(x));
}

/// One value of the embeddings' dtype, float32 at least.
inline void require_scale(const torch::stable::Tensor& scale, const torch::stable::Tensor& like) {
  using torch::headeronly::ScalarType;
  const ScalarType wanted = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  if (scale.numel() != 1 || scale.scalar_type() != wanted)
    throw InvalidArgument("scale: expected one value of the embeddings' dtype, float32 at least, got " +
                          shape_of(scale));
}

inline void require_info_nce(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                             const std::optional<torch::stable::Tensor>& negatives,
                             const torch::stable::Tensor& scale, std::int64_t shift, bool exclude,
                             bool columns, double weight) {
  if (a.dim() != 2) throw InvalidArgument("a: expected (n, dim), got " + shape_of(a));
  require_twins("b", b, "a", a);
  if (negatives) require_rows("negatives", *negatives, a.size(1), a);
  if (negatives && columns) throw InvalidArgument("negatives: expected none where both directions count");
  require_scale(scale, a);
  const std::int64_t n = a.size(0);
  if (n < 1 || shift < 0 || shift >= n || (exclude && n < 2 && !(negatives && negatives->size(0) > 0)))
    throw InvalidArgument("a: expected more rows, got " + shape_of(a));
  if (!(weight >= 0 && std::isfinite(weight)))
    throw InvalidArgument("weight: expected a finite number of at least 0, got " + std::to_string(weight));
}

/// The rows and the columns of a block of a larger matrix; either may be none.
inline void require_block(const torch::stable::Tensor& a, const torch::stable::Tensor& b,
                          const torch::stable::Tensor& scale) {
  if (a.dim() != 2) throw InvalidArgument("a: expected (n, dim), got " + shape_of(a));
  require_rows("b", b, a.size(1), a);
  require_scale(scale, a);
}

inline void require_levels(const char* name, const torch::stable::Tensor& x, std::int64_t n) {
  if (x.dim() != 1 || x.size(0) != n || x.scalar_type() != torch::headeronly::ScalarType::Double)
    throw InvalidArgument(std::string(name) + ": expected float64 (" + std::to_string(n) + "), got " +
                          shape_of(x));
}

inline void require_sup_con(const torch::stable::Tensor& z, const torch::stable::Tensor& labels,
                            const std::optional<torch::stable::Tensor>& negatives,
                            const torch::stable::Tensor& scale) {
  if (z.dim() != 2) throw InvalidArgument("z: expected (n, dim), got " + shape_of(z));
  const std::int64_t n = z.size(0);
  if (n < 1) throw InvalidArgument("z: expected at least one row, got " + shape_of(z));
  if (labels.dim() != 1 || labels.size(0) != n || labels.scalar_type() != torch::headeronly::ScalarType::Long)
    throw InvalidArgument("labels: expected int64 (" + std::to_string(n) + "), got " + shape_of(labels));
  if (negatives) require_rows("negatives", *negatives, z.size(1), z);
  require_scale(scale, z);
}

// ---- the public losses, by the private ops of a device
// ------------------------------------------------------ What they are given comes as the private ops take
// it, checked under the names that the caller knows. Gradients are not asked for: who wants them calls from
// Python, where autograd is.

/// Else InvalidArgument.
inline void require(bool fits, const char* name, const std::string& expected,
                    const torch::stable::Tensor& got) {
  if (!fits) throw InvalidArgument(std::string(name) + ": expected " + expected + ", got " + shape_of(got));
}

/// Embeddings (n, dim) of one shape with n, dim >= 1 in one dtype; 16-bit rows stay so where a device has
/// `halves`.
inline void make_rows(std::vector<std::pair<const char*, torch::stable::Tensor*>> rows, bool halves) {
  const torch::stable::Tensor first = *rows[0].second;
  bool same = true, wide = false;
  for (const auto& [name, x] : rows) {
    require(x->dim() == 2 && x->size(0) > 0 && x->size(1) > 0, name, "(n, dim), both at least 1", *x);
    require(x->size(0) == first.size(0) && x->size(1) == first.size(1), name, shape_of(first), *x);
    wide = working_dtype({{name, x}}) == torch::headeronly::ScalarType::Double || wide;
    same = same && x->scalar_type() == first.scalar_type();
  }
  const auto dtype = wide ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float;
  if (halves && same) return;
  for (const auto& [name, x] : rows) *x = as_dtype(*x, dtype);
}

/// Further candidates (k, dim) in the dtype of the embeddings.
inline std::optional<torch::stable::Tensor> make_negatives(
    const std::optional<torch::stable::Tensor>& negatives, const torch::stable::Tensor& like) {
  if (!negatives) return std::nullopt;
  require(negatives->dim() == 2 && negatives->size(1) == like.size(1), "negatives",
          "(k, " + std::to_string(like.size(1)) + ")", *negatives);
  working_dtype({{"negatives", &*negatives}});
  return as_dtype(*negatives, like.scalar_type());
}

/// 1 / temperature as the private ops take it.
inline torch::stable::Tensor make_scale(double temperature,
                                        const std::optional<torch::stable::Tensor>& learned,
                                        const torch::stable::Tensor& like) {
  const auto dtype = working_dtype({{"embeddings", &like}});
  if (learned) {
    require(learned->numel() == 1, "learned_temperature", "one value", *learned);
    working_dtype({{"learned_temperature", &*learned}});
    return call_torch("aten::reciprocal", torch::stable::reshape(as_dtype(*learned, dtype), {}));
  }
  if (!(temperature > 0 && std::isfinite(temperature)))
    throw InvalidArgument("temperature: expected a positive number, got " + std::to_string(temperature));
  torch::stable::Tensor scale = fresh({}, dtype, &like);
  return torch::stable::fill_(scale, 1 / temperature);
}

inline void require_budget(std::int64_t budget) {
  if (budget < 0)
    throw InvalidArgument("budget: expected a number of bytes, 0 or more, got " + std::to_string(budget));
}

/// affekt::info_nce_loss by the `_info_nce` of a device.
template <auto info_nce, bool cuda>
torch::stable::Tensor info_nce_loss(torch::stable::Tensor anchors, torch::stable::Tensor candidates,
                                    std::optional<torch::stable::Tensor> negatives, double temperature,
                                    std::optional<torch::stable::Tensor> learned, bool symmetric,
                                    bool positive_in_denominator, std::string reduction,
                                    std::int64_t budget) {
  make_rows({{"anchors", &anchors}, {"candidates", &candidates}}, cuda);
  negatives = make_negatives(negatives, anchors);
  if (symmetric && negatives)
    throw InvalidArgument("negatives: expected none with symmetric: they are candidates, not anchors");
  const bool mean = index_of("reduction", reduction, {"mean", "sum"}) == 0;
  require_budget(budget);
  require(positive_in_denominator || anchors.size(0) + (negatives ? negatives->size(0) : 0) > 1, "anchors",
          "at least 2 rows where the positive is not in the denominator", anchors);
  const double weight = (symmetric ? 0.5 : 1) / (mean ? static_cast<double>(anchors.size(0)) : 1);
  return std::get<0>(info_nce(anchors, candidates, negatives, make_scale(temperature, learned, anchors), 0,
                              !positive_in_denominator, symmetric, weight, budget, false, false, false));
}

/// affekt::pairwise_info_nce_loss by the `_info_nce` of a device.
template <auto info_nce, bool cuda>
torch::stable::Tensor pairwise_info_nce_loss(std::vector<torch::stable::Tensor> embeddings,
                                             std::optional<torch::stable::Tensor> present, double temperature,
                                             std::optional<torch::stable::Tensor> learned, std::string mode,
                                             std::string reduction, std::int64_t budget) {
  using torch::stable::Tensor;
  const auto modalities = static_cast<std::int64_t>(embeddings.size());
  if (modalities < 2)
    throw InvalidArgument("embeddings: expected at least 2 modalities, got " + std::to_string(modalities));
  std::vector<std::pair<const char*, Tensor*>> rows;
  for (Tensor& z : embeddings) rows.emplace_back("embeddings", &z);
  make_rows(rows, cuda);
  const bool clip = index_of("mode", mode, {"eq1", "clip", "two_view"}) == 1, views = mode == "two_view";
  const bool mean = index_of("reduction", reduction, {"mean", "sum"}) == 0;
  require_budget(budget);
  const Tensor& first = embeddings[0];
  const std::int64_t n = first.size(0), least = clip ? 1 : 2;
  require(n >= least && !(views && n % 2 != 0), "embeddings",
          views ? "an even number of rows, at least 2" : "at least " + std::to_string(least) + " rows",
          first);
  if (present) {
    require(present->scalar_type() == torch::headeronly::ScalarType::Bool && present->dim() == 2 &&
                present->size(0) == modalities && present->size(1) == n,
            "present", "bool (" + std::to_string(modalities) + ", " + std::to_string(n) + ")", *present);
    if (views) throw InvalidArgument("present: expected none for mode 'two_view'");
  }
  const Tensor scale = make_scale(temperature, learned, first);
  std::vector<std::pair<Tensor, Tensor>> pairs;
  std::int64_t anchors = 0;
  for (std::size_t one = 0; one < embeddings.size(); ++one) {
    for (std::size_t other = 0; other < one; ++other) {
      std::pair<Tensor, Tensor> pair{embeddings[other], embeddings[one]};
      if (present) {
        const Tensor both = torch::stable::unsqueeze(
            call_torch("aten::logical_and",
                       torch::stable::select(*present, 0, static_cast<std::int64_t>(other)),
                       torch::stable::select(*present, 0, static_cast<std::int64_t>(one))),
            1);
        for (Tensor* z : {&pair.first, &pair.second})
          *z = torch::stable::reshape(call_torch("aten::masked_select", *z, both), {-1, first.size(1)});
      }
      if (pair.first.size(0) < least) continue;
      anchors += pair.first.size(0);
      pairs.push_back(std::move(pair));
    }
  }
  if (anchors == 0) {
    Tensor zero = fresh({}, scale.scalar_type(), &first);
    return torch::stable::zero_(zero);
  }
  const double weight = 1 / static_cast<double>(mean ? 2 * anchors : modalities * (modalities - 1));
  std::vector<Tensor> losses;
  for (const auto& [a, b] : pairs)
    losses.push_back(std::get<0>(info_nce(a, b, std::nullopt, scale, views ? n / 2 : 0, !clip, true, weight,
                                          budget, false, false, false)));
  if (losses.size() == 1) return losses[0];
  return torch::stable::sum(call_torch("aten::stack", losses, std::int64_t{0}));
}

/// affekt::sup_con_loss by the `_sup_con` of a device.
template <auto sup_con, bool cuda>
torch::stable::Tensor sup_con_loss(torch::stable::Tensor embeddings, torch::stable::Tensor labels,
                                   std::optional<torch::stable::Tensor> negatives, double temperature,
                                   std::optional<torch::stable::Tensor> learned, std::int64_t budget) {
  using torch::headeronly::ScalarType;
  make_rows({{"embeddings", &embeddings}}, cuda);
  const ScalarType kind = labels.scalar_type();
  require(labels.dim() == 1 && labels.size(0) == embeddings.size(0) &&
              (kind == ScalarType::Long || kind == ScalarType::Int || kind == ScalarType::Short ||
               kind == ScalarType::Char || kind == ScalarType::Byte || kind == ScalarType::Bool),
          "labels", "integers (" + std::to_string(embeddings.size(0)) + ")", labels);
  require_budget(budget);
  return std::get<0>(sup_con(embeddings, as_dtype(labels, ScalarType::Long),
                             make_negatives(negatives, embeddings),
                             make_scale(temperature, learned, embeddings), budget, false, false));
}

/// affekt::nt_xent_loss by the `_sup_con` of a device.
template <auto sup_con, bool cuda>
torch::stable::Tensor nt_xent_loss(torch::stable::Tensor view_1, torch::stable::Tensor view_2,
                                   std::optional<torch::stable::Tensor> negatives, double temperature,
                                   std::optional<torch::stable::Tensor> learned, std::int64_t budget) {
  using torch::stable::Tensor;
  make_rows({{"view_1", &view_1}, {"view_2", &view_2}}, cuda);
  const std::int64_t n = view_1.size(0);
  Tensor items = fresh({2 * n}, torch::headeronly::ScalarType::Long);
  auto* const item = items.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < 2 * n; ++i) item[i] = i % n;
  const std::vector<Tensor> views{view_1, view_2};
  return sup_con_loss<sup_con, cuda>(call_torch("aten::cat", views, std::int64_t{0}),
                                     torch::stable::to(items, view_1.device()), negatives, temperature,
                                     learned, budget);
}

}  // namespace affekt
