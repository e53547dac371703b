#include "bindings.hpp"

namespace affekt::bindings {

void bind_frontend(pybind11::module_&) {}

}  // namespace affekt::bindings
