// affekt::welch and affekt::band_power with their gradients: the plans of libaffekt on CPU tensors.
#include <torch/csrc/stable/library.h>

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <tuple>
#include <vector>

#include "affekt/bandpower.hpp"
#include "affekt/bandpower_gradient.hpp"
#include "signals.hpp"
#include "tensors.hpp"

namespace {

using affekt::Batch;
using affekt::Recordings;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class Plan>
auto welch_plan(const std::string& options) {
  return affekt::plan_of<Plan, affekt::WelchOptions>(options);
}
template <class Plan>
auto band_plan(const std::string& options) {
  return affekt::plan_of<Plan, affekt::BandPowerOptions>(options);
}

template <class S>
std::vector<const S*> rows_of(const Batch& batch) {
  std::vector<const S*> rows;
  const S* const x = batch.dense.template const_data_ptr<S>();
  for (std::int64_t r = 0; r < batch.rows; ++r) rows.push_back(x + static_cast<std::size_t>(r) * batch.time);
  return rows;
}

Tensor empty(const Batch& batch, const std::vector<std::int64_t>& shape, ScalarType kind) {
  return torch::stable::new_empty(batch.dense, {shape.data(), shape.size()}, kind);
}

// f(first, count) on parts of n items on torch's threads. Where one fails, f runs on all, so that the message
// is that of the whole.
template <class F>
void in_parts(std::int64_t n, F&& f) {
  std::atomic<bool> failed = n == 0;  // nothing is checked all the same
  torch::stable::parallel_for(0, n, 1, [&](std::int64_t begin, std::int64_t end) {
    try {
      f(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    } catch (...) {
      failed = true;
    }
  });
  if (failed) f(0, static_cast<std::size_t>(n));
}

void check_grad(const Tensor& grad, const Tensor& signal, std::size_t size) {
  if (grad.scalar_type() == signal.scalar_type() && grad.numel() == static_cast<std::int64_t>(size)) return;
  throw affekt::InvalidArgument("grad: expected the shape of the result and the dtype of the signal, got " +
                                affekt::shape_of(grad));
}

Tensor welch(Tensor signal, std::string options) {
  const auto plan = welch_plan<affekt::Welch>(options);
  const Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    std::vector<std::int64_t> shape = batch.lead;
    shape.push_back(static_cast<std::int64_t>(plan->bins()));
    Tensor out = empty(batch, shape, signal.scalar_type());
    S* const to = out.template mutable_data_ptr<S>();
    const std::vector<const S*> rows = rows_of<S>(batch);
    std::vector<std::uint64_t> used(rows.size());
    in_parts(batch.rows, [&](std::size_t first, std::size_t count) {
      plan->compute(rows.data() + first, count, batch.time, to + first * plan->bins(), used.data() + first);
    });
    return out;
  });
}

Tensor welch_bwd(Tensor grad, Tensor signal, std::string options) {
  const auto plan = welch_plan<affekt::WelchGradient>(options);
  const Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    check_grad(grad, signal, static_cast<std::size_t>(batch.rows) * plan->bins());
    const Tensor dense = affekt::dense(grad);
    Tensor out = torch::stable::empty_like(batch.dense);
    const std::vector<const S*> rows = rows_of<S>(batch);
    const S* const g = dense.template const_data_ptr<S>();
    S* const to = out.template mutable_data_ptr<S>();
    affekt::each_row(batch.rows, [&](std::size_t r) {
      plan->compute(rows[r], batch.time, g + r * plan->bins(), to + r * batch.time);
    });
    return out;
  });
}

std::tuple<Tensor, Tensor> band_power(Tensor signal, std::string options) {
  const auto plan = band_plan<affekt::BandPower>(options);
  const Recordings batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    const std::size_t frames = plan->frames(batch.time), channels = static_cast<std::size_t>(batch.channels);
    Tensor power = empty(batch, batch.shape({frames, channels, plan->bands()}), signal.scalar_type());
    Tensor valid = empty(batch, batch.shape({frames, channels}), ScalarType::Bool);
    S* const to = power.template mutable_data_ptr<S>();
    bool* const flags = static_cast<bool*>(valid.mutable_data_ptr());
    const std::vector<const S*> rows = rows_of<S>(batch);
    const std::size_t size = frames * channels;
    in_parts(batch.count, [&](std::size_t first, std::size_t count) {
      plan->compute(rows.data() + first * channels, count, channels, batch.time,
                    to + first * size * plan->bands(), flags + first * size);
    });
    return std::make_tuple(power, valid);
  });
}

Tensor band_power_bwd(Tensor grad, Tensor valid, Tensor signal, std::string options) {
  const auto plan = band_plan<affekt::BandPowerGradient>(options);
  const Recordings batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using S = decltype(zero);
    const std::size_t channels = static_cast<std::size_t>(batch.channels), bands = plan->bands();
    const std::size_t size = plan->frames(batch.time) * channels;
    check_grad(grad, signal, static_cast<std::size_t>(batch.count) * size * bands);
    if (valid.scalar_type() != ScalarType::Bool ||
        valid.numel() != batch.count * static_cast<std::int64_t>(size))
      throw affekt::InvalidArgument("valid: expected that of the result, got " + affekt::shape_of(valid));
    const Tensor dense = affekt::dense(grad), dense_valid = affekt::dense(valid);
    Tensor out = torch::stable::empty_like(batch.dense);
    const std::vector<const S*> rows = rows_of<S>(batch);
    const S* const g = dense.template const_data_ptr<S>();
    const bool* const flags = static_cast<const bool*>(dense_valid.const_data_ptr());
    S* const to = out.template mutable_data_ptr<S>();
    affekt::each_row(batch.rows, [&](std::size_t r) {
      const std::size_t recording = r / channels, channel = r % channels, at = recording * size + channel;
      plan->compute(rows[r], batch.time, channels, g + at * bands, flags + at, to + r * batch.time);
    });
    return out;
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("welch", TORCH_BOX(&welch));
  m.impl("_welch_bwd", TORCH_BOX(&welch_bwd));
  m.impl("band_power", TORCH_BOX(&band_power));
  m.impl("_band_power_bwd", TORCH_BOX(&band_power_bwd));
}
