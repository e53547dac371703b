// What the contrastive ops are given, checked: the same on the CPU and on CUDA.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

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
                             bool columns) {
  if (a.dim() != 2) throw InvalidArgument("a: expected (n, dim), got " + shape_of(a));
  require_twins("b", b, "a", a);
  if (negatives) require_rows("negatives", *negatives, a.size(1), a);
  if (negatives && columns) throw InvalidArgument("negatives: expected none where both directions count");
  require_scale(scale, a);
  const std::int64_t n = a.size(0);
  if (n < 1 || shift < 0 || shift >= n || (exclude && n < 2 && !(negatives && negatives->size(0) > 0)))
    throw InvalidArgument("a: expected more rows, got " + shape_of(a));
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
  if (labels.dim() != 1 || labels.size(0) != n || labels.scalar_type() != torch::headeronly::ScalarType::Long)
    throw InvalidArgument("labels: expected int64 (" + std::to_string(n) + "), got " + shape_of(labels));
  if (negatives) require_rows("negatives", *negatives, z.size(1), z);
  require_scale(scale, z);
}

}  // namespace affekt
