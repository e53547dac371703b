// affekt::acoustic, affekt::spectrogram and affekt::stft with their gradients: the front end of libaffekt on
// CPU tensors, one signal of the batch at a time.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "affekt/frontend.hpp"
#include "affekt/frontend_gradient.hpp"
#include "affekt/spectrogram.hpp"
#include "tensors.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Of = affekt::FrontEndGradient::Of;

// The plan of an options text. Plans are immutable and cost some tables, and a program uses a few of them, so
// the last ones stay; a plan in use outlives its place here.
template <class Plan, auto... of>
std::shared_ptr<const Plan> plan_of(const std::string& options) {
  constexpr std::size_t kept = 8;
  static std::mutex mutex;
  static std::list<std::pair<std::string, std::shared_ptr<const Plan>>> plans;
  const std::lock_guard lock(mutex);
  for (auto it = plans.begin(); it != plans.end(); ++it) {
    if (it->first == options) {
      plans.splice(plans.begin(), plans, it);
      return plans.front().second;
    }
  }
  plans.emplace_front(options,
                      std::make_shared<const Plan>(affekt::FrontEndOptions::from_json(options), of...));
  if (plans.size() > kept) plans.pop_back();
  return plans.front().second;
}

// f(r) for every row of the batch on torch's threads. The first row that fails reports, whatever the threads
// do: an exception must not cross torch's C interface.
template <class F>
void each_row(std::int64_t rows, F&& f) {
  std::mutex mutex;
  std::int64_t failed = rows;
  std::exception_ptr error;
  torch::stable::parallel_for(0, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      try {
        f(static_cast<std::size_t>(r));
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

// Signals (..., time) as rows.
struct Batch {
  explicit Batch(const Tensor& signal) : dense(affekt::dense(signal)) {
    if (signal.dim() < 1)
      throw affekt::InvalidArgument("signal: expected shape (..., time), got a scalar (0 dimensions)");
    for (std::int64_t d = 0; d + 1 < dense.dim(); ++d) {
      lead.push_back(dense.size(d));
      rows *= dense.size(d);
    }
    time = static_cast<std::size_t>(dense.size(dense.dim() - 1));
  }
  Tensor dense;
  std::vector<std::int64_t> lead;
  std::int64_t rows = 1;
  std::size_t time = 0;
};

// f(samples, n, out) on every signal of (..., time) -> (..., frames, columns) of the signal's dtype, or of
// complex numbers, which f writes as pairs.
template <class Plan, class F>
Tensor forward(const Plan& plan, const Tensor& signal, std::size_t columns, bool complex, F&& f) {
  const Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    constexpr bool narrow = std::is_same_v<S, float>;
    const std::size_t frames = plan.frames(batch.time);
    std::vector<std::int64_t> shape = batch.lead;
    shape.push_back(static_cast<std::int64_t>(frames));
    shape.push_back(static_cast<std::int64_t>(columns));
    const ScalarType kind = complex  ? (narrow ? ScalarType::ComplexFloat : ScalarType::ComplexDouble)
                            : narrow ? ScalarType::Float
                                     : ScalarType::Double;
    Tensor out = torch::stable::new_empty(batch.dense, {shape.data(), shape.size()}, kind);
    if (out.numel() == 0) return out;
    const S* const from = batch.dense.template const_data_ptr<S>();
    S* const to = static_cast<S*>(out.mutable_data_ptr());
    const std::size_t size = frames * columns * (complex ? 2 : 1);
    each_row(batch.rows, [&](std::size_t r) { f(from + r * batch.time, batch.time, to + r * size); });
    return out;
  });
}

template <Of of>
Tensor backward(Tensor grad, Tensor signal, std::string options) {
  const auto plan = plan_of<affekt::FrontEndGradient, of>(options);
  const Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    const std::size_t size = plan->frames(batch.time) * plan->columns();
    if (grad.scalar_type() != signal.scalar_type() ||
        grad.numel() != batch.rows * static_cast<std::int64_t>(size))
      throw affekt::InvalidArgument(
          "grad: expected the shape of the result and the dtype of the signal, got " +
          affekt::shape_of(grad));
    const Tensor dense = affekt::dense(grad);
    Tensor out = torch::stable::empty_like(batch.dense);
    if (out.numel() == 0) return out;
    const S* const from = batch.dense.template const_data_ptr<S>();
    const S* const g = dense.template const_data_ptr<S>();
    S* const to = out.template mutable_data_ptr<S>();
    each_row(batch.rows, [&](std::size_t r) {
      plan->compute(from + r * batch.time, batch.time, g + r * size, to + r * batch.time);
    });
    return out;
  });
}

Tensor acoustic(Tensor signal, std::string options) {
  const auto plan = plan_of<affekt::FrontEnd>(options);
  return forward(*plan, signal, plan->features(), false,
                 [&](const auto* x, std::size_t n, auto* out) { plan->compute(x, n, out); });
}

Tensor spectrogram(Tensor signal, std::string options) {
  const auto plan = plan_of<affekt::Spectrogram>(options);
  return forward(*plan, signal, plan->bins(), false,
                 [&](const auto* x, std::size_t n, auto* out) { plan->powers(&x, &n, &out, 1); });
}

Tensor stft(Tensor signal, std::string options) {
  const auto plan = plan_of<affekt::Spectrogram>(options);
  return forward(*plan, signal, plan->bins(), true,
                 [&](const auto* x, std::size_t n, auto* out) { plan->spectra(&x, &n, &out, 1); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("acoustic", TORCH_BOX(&acoustic));
  m.impl("spectrogram", TORCH_BOX(&spectrogram));
  m.impl("stft", TORCH_BOX(&stft));
  m.impl("_acoustic_bwd", TORCH_BOX(&backward<Of::features>));
  m.impl("_spectrogram_bwd", TORCH_BOX(&backward<Of::powers>));
  m.impl("_stft_bwd", TORCH_BOX(&backward<Of::spectra>));
}
