// Starts a kernel of this folder (see device.cuh), on a GPU or, with AFFEKT_EMULATE, on the CPU. With
// AFFEKT_RECORD as well it starts nothing and writes down what it would have started, for whoever compiles
// and starts kernels at run time. Launchers take their working memory piece by piece from a Workspace.
#pragma once

#include "device.cuh"

#ifdef AFFEKT_RECORD
#include <cstring>
#include <string>
#include <utility>
#include <vector>
#endif
#ifndef AFFEKT_EMULATE
#include <cuda_runtime.h>
#endif

namespace affekt::gpu {

struct Grid {
  Wide x, y = 1;
};
constexpr Wide kMostBlocksX = 2147483647, kMostBlocksY = 65535;  // CUDA's

/// Null if a launch can have so many blocks, else why not; what does not fit would start fewer.
inline const char* grid_problem(Grid grid) {
  return grid.x > kMostBlocksX || grid.y > kMostBlocksY
             ? "too much for one launch: expected at most 2147483647 x 65535 blocks"
             : nullptr;
}

#ifdef AFFEKT_RECORD

struct Recorded {
  std::string kernel;  // the type, as C++ spells it: the argument of `entry`
  Wide grid_x, grid_y;
  int threads, shared_bytes;
  std::vector<unsigned char> arguments;  // the one of `entry`, byte by byte
};

/// Where the launches of this thread go.
inline std::vector<Recorded>& recorded() {
  static thread_local std::vector<Recorded> launches;
  return launches;
}

template <class Kernel>
std::string name_of() {
  const std::string text = __PRETTY_FUNCTION__;  // "... [with Kernel = X; ...]" or "... [Kernel = X]"
  const std::size_t from = text.find("Kernel = ") + 9;
  return text.substr(from, text.find_first_of(";]", from) - from);
}

template <class Kernel>
const char* launch(Grid grid, Stream, const Kernel& kernel) {
  if (grid.x <= 0 || grid.y <= 0) return nullptr;
  if (const char* const problem = grid_problem(grid)) return problem;
  std::vector<unsigned char> bytes(sizeof kernel);
  std::memcpy(bytes.data(), &kernel, sizeof kernel);
  recorded().push_back(
      {name_of<Kernel>(), grid.x, grid.y, Kernel::threads, Kernel::shared_bytes(), std::move(bytes)});
  return nullptr;
}

template <class Kernel>
const char* unfit() {
  return nullptr;
}

#elif defined(AFFEKT_EMULATE)

template <class Kernel>
const char* launch(Grid grid, Stream, const Kernel& kernel) {
  if (const char* const problem = grid_problem(grid)) return problem;
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
  if (const char* const problem = grid_problem(grid)) return problem;
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

/// Takes pieces of device memory one after another; with a null base it counts.
class Workspace {
 public:
  explicit Workspace(void* base) : base_(static_cast<unsigned char*>(base)) {}

  template <class T>
  T* take(Wide count) {
    T* const at = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += ceil_div(count * static_cast<Wide>(sizeof(T)), 256) * 256;
    return at;
  }
  Wide used() const { return used_; }

 private:
  unsigned char* base_;
  Wide used_ = 0;
};

}  // namespace affekt::gpu
