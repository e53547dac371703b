// Each binding unit registers its part of affekt._core through one of these functions.
#pragma once

#include <pybind11/pybind11.h>

namespace affekt::bindings {

void bind_bandpower(pybind11::module_& m);
void bind_filter(pybind11::module_& m);
void bind_frontend(pybind11::module_& m);
void bind_gpu(pybind11::module_& m);
void bind_model(pybind11::module_& m);
void bind_resampler(pybind11::module_& m);

}  // namespace affekt::bindings
