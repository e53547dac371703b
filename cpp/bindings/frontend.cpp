#include "affekt/frontend.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace affekt::bindings {
namespace {

template <class S>
void check_usable(const FrontEnd& plan, const S* x, std::size_t n, const Rows& rows, std::size_t r) {
  const std::size_t bad = plan.first_unusable(x, n);
  if (bad == n) return;
  std::ostringstream what;
  what << "samples: expected finite values" << (std::isfinite(x[bad]) ? " whose power does not overflow" : "")
       << ", got " << x[bad] << " at index " << rows.index(r, bad);
  throw InvalidArgument(what.str());
}
void check_usable(const FrontEnd&, const std::int16_t*, std::size_t, const Rows&, std::size_t) {}

template <class S, class O>
py::array compute(const FrontEnd& plan, const Rows& rows) {
  const std::size_t frames = plan.frames(rows.length()), width = plan.features();
  std::vector<py::ssize_t> shape(rows.shape().begin(), rows.shape().end() - 1);
  shape.push_back(static_cast<py::ssize_t>(frames));
  shape.push_back(static_cast<py::ssize_t>(width));
  py::array_t<O> out(shape);
  O* to = out.mutable_data();
  {
    py::gil_scoped_release release;
    std::vector<S> copy;
    for (std::size_t r = 0; r < rows.count(); ++r) {
      const S* x = rows.row<S>(r, copy);
      check_usable(plan, x, rows.length(), rows, r);
      plan.compute(x, rows.length(), to + r * frames * width);
    }
  }
  return out;
}

py::array compute(const FrontEnd& plan, const py::array& samples) {
  const Kind kind = kind_of(samples);
  const Rows rows(samples);
  switch (kind) {
    case Kind::f32:
      return compute<float, float>(plan, rows);
    case Kind::f64:
      return compute<double, double>(plan, rows);
    case Kind::i16:
      break;
  }
  return compute<std::int16_t, float>(plan, rows);
}

/// A stream with a lock, because the interpreter's lock is released while it works.
class Stream {
 public:
  Stream(std::shared_ptr<const FrontEnd> plan, std::size_t capacity) : stream_(std::move(plan), capacity) {}

  py::array push(const py::array& samples) {
    const Kind kind = kind_of(samples);
    const Rows rows(samples);
    if (rows.shape().size() != 1) {
      throw InvalidArgument("samples: expected shape (time,), got " + std::to_string(rows.shape().size()) +
                            " dimensions");
    }
    switch (kind) {
      case Kind::f32:
        return take<float>(rows);
      case Kind::f64:
        return take<double>(rows);
      case Kind::i16:
        break;
    }
    return take<std::int16_t>(rows);
  }

  void reset() {
    const std::lock_guard lock(mutex_);
    stream_.reset();
  }
  std::uint64_t rows() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return stream_.rows();
  }
  std::uint64_t samples() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return stream_.samples();
  }
  std::uint64_t last_sample(std::uint64_t row) const { return stream_.last_sample(row); }

 private:
  template <class S>
  py::array take(const Rows& input) {
    std::vector<float> rows;
    const std::size_t n = input.length(), width = stream_.plan().features();
    {
      py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      std::vector<S> copy;
      const S* x = input.row<S>(0, copy);
      check_usable(stream_.plan(), x, n, input, 0);
      rows.resize((stream_.plan().frames(stream_.samples() + n) - stream_.rows()) * width);
      if constexpr (std::is_same_v<S, double>) {
        const std::vector<float> rounded(x, x + n);
        check_usable(stream_.plan(), rounded.data(), n, input,
                     0);  // a finite double may lie beyond the range of float
        drain(rounded.data(), n, rows.data());
      } else {
        drain(x, n, rows.data());
      }
    }
    py::array_t<float> out({rows.size() / width, width});
    std::copy(rows.begin(), rows.end(), out.mutable_data());
    return out;
  }

  template <class S>
  void drain(const S* x, std::size_t n, float* rows) {
    for (std::size_t at = 0; at < n;) {
      at += stream_.push(x + at, n - at);
      rows += stream_.next(rows, stream_.ready()) * stream_.plan().features();
    }
  }

  FrontEndStream stream_;
  mutable std::mutex mutex_;
};

}  // namespace

void bind_frontend(py::module_& m) {
  py::class_<FrontEnd, std::shared_ptr<FrontEnd>>(m, "FrontEnd",
                                                  "Immutable acoustic front end; see affekt.features.")
      .def(py::init([](const std::string& options) {
             return std::make_shared<FrontEnd>(FrontEndOptions::from_json(options));
           }),
           py::arg("options"), "Build the plan from a JSON object of options.")
      .def_property_readonly(
          "options", [](const FrontEnd& f) { return f.options().to_json(); },
          "The options as JSON, every default filled in.")
      .def_property_readonly("features", &FrontEnd::features, "Columns of a row.")
      .def_property_readonly("empty_filters", &FrontEnd::empty_filters,
                             "Mel filters without a transform bin.")
      .def_property_readonly("latency_samples", &FrontEnd::latency_samples,
                             "Samples that the first row needs.")
      .def_property_readonly(
          "not_streamable",
          [](const FrontEnd& f) {
            std::string reason;
            f.streamable(&reason);
            return reason;
          },
          "Why the front end cannot stream; empty if it can.")
      .def("frames", &FrontEnd::frames, py::arg("n_samples"), "Rows that a signal of n_samples gives.")
      .def(
          "compute", [](const FrontEnd& f, const py::array& samples) { return compute(f, samples); },
          py::arg("samples"),
          "Samples (..., time) of float32, float64 or int16 -> rows (..., frames, features).");

  py::class_<Stream>(m, "FrontEndStream", "Live front end; see affekt.features.")
      .def(py::init([](std::shared_ptr<FrontEnd> plan, std::size_t capacity) {
             return std::make_unique<Stream>(std::move(plan), capacity);
           }),
           py::arg("plan"), py::arg("capacity"))
      .def("push", &Stream::push, py::arg("samples"),
           "Samples (time,) -> the rows they finish (k, features).")
      .def("reset", &Stream::reset, py::call_guard<py::gil_scoped_release>(),
           "Back to the state after construction.")
      .def_property_readonly("rows", &Stream::rows, "Rows handed out.")
      .def_property_readonly("samples", &Stream::samples, "Samples taken.")
      .def("last_sample", &Stream::last_sample, py::arg("row"), "Index of the last sample that a row used.");
}

}  // namespace affekt::bindings
