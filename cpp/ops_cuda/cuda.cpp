#include "cuda.hpp"

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>

#include "ccc.hpp"

namespace affekt {

cudaStream_t torch_stream(std::int32_t device) {
  using Find = std::int32_t (*)(std::int32_t, void**);
  static const Find find = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr ? nullptr
                              : reinterpret_cast<Find>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  if (find == nullptr || find(device, &stream) != 0)
    throw Error("CUDA: this torch does not tell its current stream");
  return static_cast<cudaStream_t>(stream);
}

namespace {

/// Empty if the kernels can run on the current device, else why not. Starts nothing.
std::string cuda_problem() {
  if (dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD) == nullptr) return "torch has no libtorch_cuda.so";
  int devices = 0;
  cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaSuccess && devices == 0) return "there is no GPU";
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const char* const unfit = gpu::ccc_unfit();
  return unfit == nullptr ? "" : unfit;
}

}  // namespace
}  // namespace affekt

STABLE_TORCH_LIBRARY_FRAGMENT(affekt, m) { m.def("_cuda_problem() -> str"); }
STABLE_TORCH_LIBRARY_IMPL(affekt, CompositeExplicitAutograd, m) {
  m.impl("_cuda_problem", TORCH_BOX(&affekt::cuda_problem));
}
