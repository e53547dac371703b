// affekt::acoustic, affekt::spectrogram, affekt::stft, affekt::welch and affekt::band_power on CUDA tensors,
// forward; for gradients the reference in plain torch runs on the device.
#include "spectra.hpp"

#include <torch/csrc/stable/library.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda.hpp"
#include "signals.hpp"
#include "spectra_tables.hpp"
#include "tensors.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
namespace gpu = affekt::gpu;

void require_done(const char* op, cudaError_t error) {
  affekt::require_launched(op, error == cudaSuccess ? nullptr : cudaGetErrorString(error));
}

/// A plan with its tables on the device, for as long as the process lives: a CUDA graph that somebody
/// captured reads them whenever it is replayed.
template <class Plan>
struct OnDevice {
  OnDevice(Plan made, const char* op, cudaStream_t stream) : plan(std::move(made)) {
    const std::vector<unsigned char>& bytes = plan.bytes();
    require_done(op, cudaMalloc(&memory, bytes.size()));
    cudaError_t error = cudaMemcpyAsync(memory, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    if (error != cudaSuccess) cudaFree(memory);
    require_done(op, error);
  }

  Plan plan;
  void* memory = nullptr;
};

/// The plan that make() gives, for this key and device.
template <class Plan, class Make>
const OnDevice<Plan>& on_device(const char* op, const std::string& key, const Tensor& like,
                                cudaStream_t stream, Make&& make) {
  using Key = std::pair<std::string, std::int32_t>;
  static std::mutex mutex;
  static auto& plans = *new std::map<Key, std::unique_ptr<const OnDevice<Plan>>>;  // outlives CUDA
  const std::lock_guard lock(mutex);
  auto& held = plans[Key{key, like.get_device_index()}];
  if (held == nullptr) held = std::make_unique<const OnDevice<Plan>>(make(), op, stream);
  return *held;
}

/// An uninitialised result (lead, sizes), of the signals' dtype unless `dtype` is given.
Tensor result(const Tensor& like, std::vector<std::int64_t> shape, std::initializer_list<std::size_t> sizes,
              std::optional<ScalarType> dtype = std::nullopt) {
  for (const std::size_t size : sizes) shape.push_back(static_cast<std::int64_t>(size));
  return torch::stable::new_empty(like, {shape.data(), shape.size()}, dtype);
}

enum class Of { features, powers, spectra };

/// (..., time) -> (..., frames, columns).
template <Of of>
Tensor rows(Tensor signal, std::string options) {
  constexpr const char* op = of == Of::features ? "acoustic" : of == Of::powers ? "spectrogram" : "stft";
  const affekt::OnDeviceOf device(signal);
  const affekt::Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using T = decltype(zero);
    using Plan = gpu::FrameTables<T>;
    constexpr bool mel = of == Of::features;
    const auto& held =
        on_device<Plan>(op, (mel ? "mel " : "powers ") + options, signal, device.stream(),
                        [&] { return Plan(affekt::FrontEndOptions::from_json(options), mel); });
    const Plan& plan = held.plan;
    std::optional<ScalarType> dtype;
    if (of == Of::spectra)
      dtype = sizeof(T) == sizeof(float) ? ScalarType::ComplexFloat : ScalarType::ComplexDouble;
    Tensor out = result(batch.dense, batch.lead, {plan.frames(batch.time), plan.columns()}, dtype);
    if (out.numel() == 0) return out;
    const auto task = plan.task(held.memory, batch.dense.template const_data_ptr<T>(), batch.rows,
                                static_cast<gpu::Wide>(batch.time), static_cast<T*>(out.mutable_data_ptr()));
    affekt::require_launched(op, gpu::frame_rows(task, of == Of::spectra, device.stream()));
    return out;
  });
}

/// (..., time) -> (..., bins).
Tensor welch(Tensor signal, std::string options) {
  const affekt::OnDeviceOf device(signal);
  const affekt::Batch batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using T = decltype(zero);
    using Plan = gpu::WelchTables<T>;
    const auto& held = on_device<Plan>("welch", options, signal, device.stream(),
                                       [&] { return Plan(affekt::WelchOptions::from_json(options)); });
    const Plan& plan = held.plan;
    Tensor out = result(batch.dense, batch.lead, {plan.bins()});
    const auto samples = static_cast<gpu::Wide>(batch.time);
    const auto task = plan.task(held.memory, batch.dense.template const_data_ptr<T>(), batch.rows, samples,
                                out.template mutable_data_ptr<T>(), nullptr);
    if (out.numel() == 0) return out;
    Tensor workspace = affekt::fresh({gpu::welch_workspace(batch.rows, task.segments, task.transform)},
                                     ScalarType::Byte, &batch.dense);
    affekt::require_launched("welch",
                             gpu::welch_spectra(task, workspace.mutable_data_ptr(), device.stream()));
    return out;
  });
}

/// (..., channels, time) -> (..., frames, channels, bands) and (..., frames, channels).
std::tuple<Tensor, Tensor> band_power(Tensor signal, std::string options) {
  const affekt::OnDeviceOf device(signal);
  const affekt::Recordings batch(signal);
  return affekt::with_dtype("signal", signal, [&](auto zero) {
    using T = decltype(zero);
    using Plan = gpu::BandTables<T>;
    const auto& held = on_device<Plan>("band_power", options, signal, device.stream(),
                                       [&] { return Plan(affekt::BandPowerOptions::from_json(options)); });
    const Plan& plan = held.plan;
    const std::size_t frames = plan.frames(batch.time), channels = static_cast<std::size_t>(batch.channels);
    Tensor power = result(batch.dense, batch.lead, {frames, channels, plan.bands()});
    Tensor valid = result(batch.dense, batch.lead, {frames, channels}, ScalarType::Bool);
    if (power.numel() == 0) return std::make_tuple(power, valid);
    const auto task =
        plan.task(held.memory, batch.dense.template const_data_ptr<T>(), batch.count, batch.channels,
                  static_cast<gpu::Wide>(batch.time), power.template mutable_data_ptr<T>(),
                  static_cast<bool*>(valid.mutable_data_ptr()));
    Tensor workspace = affekt::fresh({gpu::band_workspace(task)}, ScalarType::Byte, &batch.dense);
    affekt::require_launched("band_power",
                             gpu::band_powers(task, workspace.mutable_data_ptr(), device.stream()));
    return std::make_tuple(power, valid);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CUDA, m) {
  m.impl("acoustic", TORCH_BOX(&rows<Of::features>));
  m.impl("spectrogram", TORCH_BOX(&rows<Of::powers>));
  m.impl("stft", TORCH_BOX(&rows<Of::spectra>));
  m.impl("welch", TORCH_BOX(&welch));
  m.impl("band_power", TORCH_BOX(&band_power));
}
