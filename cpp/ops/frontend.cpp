// affekt::_frontend: the acoustic front end of libaffekt on CPU tensors, one row of the batch at a time.
#include "affekt/frontend.hpp"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The plan of an options text. Plans are immutable and cost some tables, and a program uses a few of them, so
// the last ones stay; a plan in use outlives its place here.
std::shared_ptr<const affekt::FrontEnd> plan_of(const std::string& options) {
  constexpr std::size_t kept = 8;
  static std::mutex mutex;
  static std::list<std::pair<std::string, std::shared_ptr<const affekt::FrontEnd>>> plans;
  const std::lock_guard lock(mutex);
  for (auto it = plans.begin(); it != plans.end(); ++it) {
    if (it->first == options) {
      plans.splice(plans.begin(), plans, it);
      return plans.front().second;
    }
  }
  plans.emplace_front(options,
                      std::make_shared<const affekt::FrontEnd>(affekt::FrontEndOptions::from_json(options)));
  if (plans.size() > kept) plans.pop_back();
  return plans.front().second;
}

template <class S>
void compute(const affekt::FrontEnd& plan, const Tensor& signal, Tensor& out, std::int64_t rows,
             std::int64_t time) {
  const S* from = signal.const_data_ptr<S>();
  S* to = out.mutable_data_ptr<S>();
  const auto n = static_cast<std::size_t>(time);
  const std::size_t size = plan.frames(n) * plan.features();
  // The first row that fails reports, whatever the threads do: an exception must not cross torch's C
  // interface.
  std::mutex mutex;
  std::int64_t failed = rows;
  std::exception_ptr error;
  torch::stable::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      try {
        plan.compute(from + r * time, n, to + static_cast<std::size_t>(r) * size);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (r < failed) {
          failed = r;
          error = std::current_exception();
        }
        return;
      }
    }
  });
  if (error) std::rethrow_exception(error);
}

Tensor frontend(Tensor signal, std::string options) {
  const auto plan = plan_of(options);
  if (signal.dim() < 1)
    throw affekt::InvalidArgument("signal: expected shape (..., time), got a scalar (0 dimensions)");
  const ScalarType dtype = signal.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    throw affekt::InvalidArgument("signal: expected dtype float32 or float64");
  const Tensor dense = torch::stable::contiguous(signal);
  std::vector<std::int64_t> shape;
  std::int64_t rows = 1;
  for (std::int64_t d = 0; d + 1 < dense.dim(); ++d) {
    shape.push_back(dense.size(d));
    rows *= dense.size(d);
  }
  const std::int64_t time = dense.size(dense.dim() - 1);
  shape.push_back(static_cast<std::int64_t>(plan->frames(static_cast<std::size_t>(time))));
  shape.push_back(static_cast<std::int64_t>(plan->features()));
  Tensor out = torch::stable::new_empty(dense, {shape.data(), shape.size()});
  if (rows == 0 || out.numel() == 0) return out;
  if (dtype == ScalarType::Float)
    compute<float>(*plan, dense, out, rows, time);
  else
    compute<double>(*plan, dense, out, rows, time);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) { m.impl("_frontend", TORCH_BOX(&frontend)); }
