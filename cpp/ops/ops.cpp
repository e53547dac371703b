// Registration of the torch ops. Names that begin with an underscore are private; public schemas only grow.
#include <torch/csrc/stable/library.h>

#include <string>

#include "affekt/error.hpp"

namespace {

// The version of the libaffekt that the ops run on.
std::string version() { return affekt::version(); }

}  // namespace

STABLE_TORCH_LIBRARY(affekt, m) { m.def("_version() -> str"); }

STABLE_TORCH_LIBRARY_IMPL(affekt, CompositeExplicitAutograd, m) { m.impl("_version", TORCH_BOX(&version)); }
