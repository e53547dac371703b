// affekt._core: converts, checks and releases the GIL; no logic of its own.
#include <pybind11/pybind11.h>

#include <cstring>
#include <exception>

#include "affekt/error.hpp"
#include "affekt/runtime.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace {

// The exception tree lives in affekt.errors; C++ exceptions map onto it when they cross into Python.
void translate(std::exception_ptr p) {
  const auto raise = [](const char* name, const char* what) {
    const py::object type = py::module_::import("affekt.errors").attr(name);
    // A message may quote a path, and a path need not be UTF-8.
    const auto text = py::reinterpret_steal<py::object>(
        PyUnicode_DecodeUTF8(what, static_cast<py::ssize_t>(std::strlen(what)), "backslashreplace"));
    PyErr_SetObject(type.ptr(), text.ptr());
  };
  try {
    if (p) std::rethrow_exception(p);
  } catch (const affekt::InvalidArgument& e) {
    raise("InputError", e.what());
  } catch (const affekt::ModelFileError& e) {
    raise("ModelFileError", e.what());
  } catch (const affekt::NotStreamable& e) {
    raise("NotStreamableError", e.what());
  } catch (const affekt::Error& e) {
    raise("AffektError", e.what());
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.doc() = "Native core of affekt.";
  m.attr("__version__") = affekt::version();
  py::register_exception_translator(&translate);
  affekt::isa();  // a wrong AFFEKT_ISA or AFFEKT_NUM_THREADS is an error of the import, not of a later call
  affekt::num_threads();
  m.def("isa", &affekt::isa);
  m.def("num_threads", &affekt::num_threads);
  m.def("set_num_threads", &affekt::set_num_threads, py::arg("n"));
  affekt::bindings::bind_bandpower(m);
  affekt::bindings::bind_filter(m);
  affekt::bindings::bind_frontend(m);
  affekt::bindings::bind_gpu(m);
  affekt::bindings::bind_model(m);
  affekt::bindings::bind_resampler(m);
}
