// affekt::acoustic, affekt::spectrogram and affekt::stft with their gradients: the front end of libaffekt on
// CPU tensors, one signal of the batch at a time.
#include <torch/csrc/stable/library.h>

#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "affekt/frontend.hpp"
#include "affekt/frontend_gradient.hpp"
#include "affekt/spectrogram.hpp"
#include "signals.hpp"
#include "tensors.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using affekt::Batch;
using Of = affekt::FrontEndGradient::Of;

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
    affekt::each_row(batch.rows, [&](std::size_t r) { f(from + r * batch.time, batch.time, to + r * size); });
    return out;
  });
}

template <Of of>
Tensor backward(Tensor grad, Tensor signal, std::string options) {
  const auto plan = affekt::plan_of<affekt::FrontEndGradient, affekt::FrontEndOptions, of>(options);
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
    affekt::each_row(batch.rows, [&](std::size_t r) {
      plan->compute(from + r * batch.time, batch.time, g + r * size, to + r * batch.time);
    });
    return out;
  });
}

Tensor acoustic(Tensor signal, std::string options) {
  const auto plan = affekt::plan_of<affekt::FrontEnd, affekt::FrontEndOptions>(options);
  return forward(*plan, signal, plan->features(), false,
                 [&](const auto* x, std::size_t n, auto* out) { plan->compute(x, n, out); });
}

Tensor spectrogram(Tensor signal, std::string options) {
  const auto plan = affekt::plan_of<affekt::Spectrogram, affekt::FrontEndOptions>(options);
  return forward(*plan, signal, plan->bins(), false,
                 [&](const auto* x, std::size_t n, auto* out) { plan->powers(&x, &n, &out, 1); });
}

Tensor stft(Tensor signal, std::string options) {
  const auto plan = affekt::plan_of<affekt::Spectrogram, affekt::FrontEndOptions>(options);
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
