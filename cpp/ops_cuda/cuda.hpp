// What the CUDA ops share: torch's device and stream, and errors of CUDA as exceptions.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <string>

#include "affekt/error.hpp"

namespace affekt {

/// torch's current stream on this device. LibTorch 2.10 has it in its CUDA library alone, which the process
/// has loaded if it has CUDA tensors; linking to it would tie this library to one build of torch.
cudaStream_t torch_stream(std::int32_t device);

/// Makes the device of a tensor the current one until it ends.
class OnDeviceOf {
 public:
  explicit OnDeviceOf(const torch::stable::Tensor& tensor)
      : device_(tensor.get_device_index()), guard_(device_), stream_(torch_stream(device_)) {}
  cudaStream_t stream() const { return stream_; }

 private:
  std::int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

/// A kernel may not meet memory of another device.
inline void require_beside(const char* name, const torch::stable::Tensor& tensor, const char* other_name,
                           const torch::stable::Tensor& other) {
  if (!tensor.is_cuda() || tensor.get_device_index() != other.get_device_index())
    throw InvalidArgument(std::string(name) + ": expected the device of " + other_name);
}

/// Throws what a launcher answered, unless it is null.
inline void require_launched(const char* op, const char* problem) {
  if (problem != nullptr) throw Error(std::string("CUDA, in ") + op + ": " + problem);
}

}  // namespace affekt
