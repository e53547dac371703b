// The schemas of the torch ops, all in one place. Names that begin with an underscore are private; public
// schemas only ever grow. Kernels register themselves from the other files of this folder, autograd and fake
// kernels from Python: the stable ABI has neither.
#include <torch/csrc/stable/library.h>

#include <string>

#include "affekt/error.hpp"

namespace {

// The version of the libaffekt that the ops run on.
std::string version() { return affekt::version(); }

}  // namespace

STABLE_TORCH_LIBRARY(affekt, m) {
  m.def("_version() -> str");
  // signal (..., time), float32 or float64; options as FrontEndOptions::to_json -> (..., frames, features).
  m.def("_frontend(Tensor signal, str options) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(affekt, CompositeExplicitAutograd, m) { m.impl("_version", TORCH_BOX(&version)); }
