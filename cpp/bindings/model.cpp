#include "bindings.hpp"

namespace affekt::bindings {

void bind_model(pybind11::module_&) {}

}  // namespace affekt::bindings
