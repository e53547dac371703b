// Starts a kernel of this folder (see device.cuh), on a GPU or, with AFFEKT_EMULATE, on the CPU.
#pragma once

#include "device.cuh"

#ifndef AFFEKT_EMULATE
#include <cuda_runtime.h>
#endif

namespace affekt::gpu {

struct Grid {
  Wide x, y = 1;
};

#ifdef AFFEKT_EMULATE

template <class Kernel>
const char* launch(Grid grid, Stream, const Kernel& kernel) {
  if (grid.x > 0 && grid.y > 0)
    emulate::run(static_cast<int>(grid.x), static_cast<int>(grid.y), Kernel::threads, Kernel::shared_bytes(),
                 [&] { kernel(); });
  return nullptr;
}

template <class Kernel>
const char* unfit() {
  return nullptr;
}

#else

template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads) entry(const __grid_constant__ Kernel kernel) {
  kernel();
}

/// Null if there is code of the kernel for the current device, else what CUDA says.
template <class Kernel>
const char* unfit() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, entry<Kernel>);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

/// Null, or what went wrong.
template <class Kernel>
const char* launch(Grid grid, Stream stream, const Kernel& kernel) {
  if (grid.x <= 0 || grid.y <= 0) return nullptr;
  constexpr int bytes = Kernel::shared_bytes();
  if (bytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  void* arguments[] = {const_cast<Kernel*>(&kernel)};
  const cudaError_t error =
      cudaLaunchKernel(entry<Kernel>, dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y)),
                       dim3(Kernel::threads), arguments, bytes, stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

#endif

}  // namespace affekt::gpu
