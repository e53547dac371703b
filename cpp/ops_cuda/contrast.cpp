// affekt::_info_nce and affekt::_sup_con on CUDA tensors; 16-bit embeddings too, with scalars in float32.
#include "contrast.hpp"

#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "contrast_arguments.hpp"
#include "cuda.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace gpu = affekt::gpu;

gpu::Number number_of(const char* name, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return gpu::Number::float32;
    case ScalarType::Double:
      return gpu::Number::float64;
    case ScalarType::BFloat16:
      return gpu::Number::bfloat16;
    case ScalarType::Half:
      return gpu::Number::float16;
    default:
      throw affekt::InvalidArgument(std::string(name) +
                                    ": expected dtype float32, float64, bfloat16 or float16");
  }
}

// A task over dense tensors, which it keeps.
struct Task {
  gpu::Contrast task{};
  const char* op;
  Tensor a, b, negatives, scale, loss, grad_a, grad_b, grad_scale;

  Task(const char* op_, const char* name, const Tensor& of_a, const Tensor& of_b,
       const std::optional<Tensor>& extra, const Tensor& of_scale, std::int64_t budget, bool for_a,
       bool for_b, bool tf32)
      : op(op_),
        a(affekt::dense(of_a)),
        b(affekt::dense(of_b)),
        negatives(extra ? affekt::dense(*extra) : a),
        scale(affekt::dense(of_scale)),
        loss(affekt::fresh({}, scale.scalar_type(), &a)),
        grad_a(gradient(for_a)),
        grad_b(gradient(for_b)),
        grad_scale(affekt::fresh({}, scale.scalar_type(), &a)) {
    task.number = number_of(name, a);
    task.tf32 = tf32;
    task.rows = a.size(0), task.dim = a.size(1), task.extra = extra ? negatives.size(0) : 0;
    task.a = a.const_data_ptr(), task.b = b.const_data_ptr(), task.negatives = negatives.const_data_ptr();
    task.scale = scale.const_data_ptr();
    task.budget = budget;
    task.loss = loss.mutable_data_ptr();
    task.grad_a = for_a ? grad_a.mutable_data_ptr() : nullptr;
    task.grad_b = for_b ? grad_b.mutable_data_ptr() : nullptr;
    task.grad_scale = for_a || for_b ? grad_scale.mutable_data_ptr() : nullptr;
  }

  Tensor gradient(bool wanted) const {
    const ScalarType dtype = a.scalar_type() == ScalarType::Half ? ScalarType::Float : a.scalar_type();
    return wanted ? affekt::fresh({a.size(0), a.size(1)}, dtype, &a) : affekt::fresh({0}, dtype, &a);
  }

  void run(const affekt::OnDeviceOf& device) {
    if (task.grad_scale == nullptr) torch::stable::zero_(grad_scale);
    Tensor workspace = affekt::fresh({gpu::contrast_workspace(task)}, ScalarType::Byte, &a);
    affekt::require_launched(op, gpu::contrast_run(task, workspace.mutable_data_ptr(), device.stream()));
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(Tensor a, Tensor b, std::optional<Tensor> negatives,
                                                    Tensor scale, std::int64_t shift, bool exclude,
                                                    bool columns, double weight, std::int64_t budget,
                                                    bool for_a, bool for_b, bool tf32) {
  affekt::require_beside("b", b, "a", a);
  if (negatives) affekt::require_beside("negatives", *negatives, "a", a);
  affekt::require_beside("scale", scale, "a", a);
  affekt::require_info_nce(a, b, negatives, scale, shift, exclude, columns, weight);
  const affekt::OnDeviceOf device(a);
  Task given("_info_nce", "a", a, b, negatives, scale, budget, for_a, for_b, tf32);
  given.task.shift = shift, given.task.exclude = exclude, given.task.columns = columns;
  given.task.weight = weight;
  given.run(device);
  return {given.loss, given.grad_a, given.grad_b, given.grad_scale};
}

std::tuple<Tensor, Tensor, Tensor> sup_con(Tensor z, Tensor labels, std::optional<Tensor> negatives,
                                           Tensor scale, std::int64_t budget, bool for_z, bool tf32) {
  affekt::require_beside("labels", labels, "z", z);
  if (negatives) affekt::require_beside("negatives", *negatives, "z", z);
  affekt::require_beside("scale", scale, "z", z);
  affekt::require_sup_con(z, labels, negatives, scale);
  const affekt::OnDeviceOf device(z);
  const Tensor dense_labels = affekt::dense(labels);
  Task given("_sup_con", "z", z, z, negatives, scale, budget, for_z, false, tf32);
  given.task.labels = static_cast<const long long*>(dense_labels.const_data_ptr());
  given.run(device);
  return {given.loss, given.grad_a, given.grad_scale};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CUDA, m) {
  m.impl("_info_nce", TORCH_BOX(&info_nce));
  m.impl("_sup_con", TORCH_BOX(&sup_con));
  m.impl("info_nce_loss", TORCH_BOX((&affekt::info_nce_loss<&info_nce, true>)));
  m.impl("pairwise_info_nce_loss", TORCH_BOX((&affekt::pairwise_info_nce_loss<&info_nce, true>)));
  m.impl("sup_con_loss", TORCH_BOX((&affekt::sup_con_loss<&sup_con, true>)));
  m.impl("nt_xent_loss", TORCH_BOX((&affekt::nt_xent_loss<&sup_con, true>)));
}
