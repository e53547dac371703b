#include "affekt/frontend.hpp"

#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <sstream>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "affekt/spectrogram.hpp"
#include "arrays.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace affekt::bindings {
namespace {

template <class Plan, class S>
void check_usable(const Plan& plan, const S* x, std::size_t n, const std::string& where, const Rows& rows,
                  std::size_t r) {
  if constexpr (!std::is_same_v<S, std::int16_t>) {
    const std::size_t bad = plan.first_unusable(x, n);
    if (bad == n) return;
    std::ostringstream what;
    what << where << ": expected finite values"
         << (std::isfinite(x[bad]) ? " whose power does not overflow" : "") << ", got " << x[bad]
         << " at index " << rows.index(r, bad);
    throw InvalidArgument(what.str());
  }
}

/// Pointers to every row of the arrays, as the core takes them.
template <class S>
struct Pointers {
  std::vector<const S*> x;
  std::vector<std::size_t> n;
  std::vector<std::pair<const Rows*, std::size_t>> row;
  std::list<std::vector<S>> copies;

  void add(const Rows& rows) {
    for (std::size_t r = 0; r < rows.count(); ++r) {
      std::vector<S> copy;
      x.push_back(rows.row<S>(r, copy));
      if (!copy.empty()) copies.push_back(std::move(copy));
      n.push_back(rows.length());
      row.emplace_back(&rows, r);
    }
  }
};

/// run(x, n, out, count) with `where(i)` as the name of signal i in what it throws; without the interpreter's
/// lock.
template <class Plan, class S, class O, class Run, class Where>
void run_all(const Plan& plan, const Pointers<S>& in, const std::vector<O*>& out, Run&& run, Where&& where) {
  const py::gil_scoped_release release;
  try {
    run(in.x.data(), in.n.data(), out.data(), in.x.size());
  } catch (const InvalidArgument&) {
    for (std::size_t i = 0; i < in.x.size(); ++i)
      check_usable(plan, in.x[i], in.n[i], where(i), *in.row[i].first, in.row[i].second);
    throw;
  }
}

/// The array that the caller gave for a result, or a new one.
template <class E>
py::array result_array(const py::object& out, const std::vector<py::ssize_t>& shape) {
  if (out.is_none()) return py::array_t<E>(shape);
  const auto refuse = [&](const std::string& got) {
    throw InvalidArgument("out: expected a writeable, C-contiguous array of shape " +
                          py::str(py::tuple(py::cast(shape))).cast<std::string>() + " and dtype " +
                          py::str(py::dtype::of<E>()).cast<std::string>() + ", got " + got);
  };
  if (!py::isinstance<py::array>(out))
    refuse(py::str(py::type::of(out).attr("__name__")).cast<std::string>());
  auto array = py::reinterpret_borrow<py::array>(out);
  const bool fits = static_cast<std::size_t>(array.ndim()) == shape.size() &&
                    std::equal(shape.begin(), shape.end(), array.shape());
  if (!fits || !py::isinstance<py::array_t<E, py::array::c_style>>(array) || !array.writeable()) {
    refuse("shape " + py::str(array.attr("shape")).cast<std::string>() + ", dtype " +
           py::str(array.dtype()).cast<std::string>() +
           (array.flags() & py::array::c_style ? "" : ", not contiguous") +
           (array.writeable() ? "" : ", read-only"));
  }
  return array;
}

/// f(S{}, O{}) with the types of samples and of results that belong to a kind.
template <class F>
auto with_types(Kind kind, F&& f) {
  switch (kind) {
    case Kind::f32:
      return f(float{}, float{});
    case Kind::f64:
      return f(double{}, double{});
    case Kind::i16:
      break;
  }
  return f(std::int16_t{}, float{});
}

/// Samples (..., time) -> (..., frames, width) of E<O>, where `parts` values of O make an E.
template <template <class> class E, class Plan, class Run>
py::array compute(const Plan& plan, const py::array& samples, const py::object& out, std::size_t width,
                  std::size_t parts, Run&& run) {
  const Kind kind = kind_of(samples);
  const Rows rows(samples);
  const std::size_t frames = plan.frames(rows.length());
  std::vector<py::ssize_t> shape(rows.shape().begin(), rows.shape().end() - 1);
  shape.push_back(static_cast<py::ssize_t>(frames));
  shape.push_back(static_cast<py::ssize_t>(width));
  return with_types(kind, [&](auto s, auto o) -> py::array {
    using S = decltype(s);
    using O = decltype(o);
    py::array result = result_array<E<O>>(out, shape);
    if (!out.is_none() && py::module_::import("numpy").attr("may_share_memory")(samples, out).cast<bool>())
      throw InvalidArgument(
          "out: expected an array apart from samples, got one that shares memory with them");
    Pointers<S> in;
    in.add(rows);
    std::vector<O*> to;
    for (std::size_t r = 0; r < rows.count(); ++r)
      to.push_back(static_cast<O*>(result.mutable_data()) + r * frames * width * parts);
    run_all(plan, in, to, run, [](std::size_t) { return std::string("samples"); });
    return result;
  });
}

template <class T>
using Plain = T;

/// Signals (time,) of one dtype and any lengths -> their rows.
py::list compute_batch(const FrontEnd& plan, const std::vector<py::array>& signals) {
  py::list results;
  if (signals.empty()) return results;
  const auto name = [](std::size_t i) { return "signals[" + std::to_string(i) + "]"; };
  std::vector<Rows> rows;
  const Kind kind = kind_of(signals[0]);
  for (std::size_t i = 0; i < signals.size(); ++i) {
    rows.emplace_back(signals[i]);
    if (kind_of(signals[i]) != kind) {
      throw InvalidArgument(name(i) + ": expected dtype " + py::str(signals[0].dtype()).cast<std::string>() +
                            " as the others, got " + py::str(signals[i].dtype()).cast<std::string>());
    }
    if (signals[i].ndim() != 1) {
      throw InvalidArgument(name(i) + ": expected shape (time,), got " + std::to_string(signals[i].ndim()) +
                            " dimensions");
    }
  }
  with_types(kind, [&](auto s, auto o) {
    using S = decltype(s);
    using O = decltype(o);
    Pointers<S> in;
    std::vector<O*> to;
    for (const Rows& r : rows) {
      in.add(r);
      py::array_t<O> one({plan.frames(r.length()), plan.features()});
      to.push_back(one.mutable_data());
      results.append(std::move(one));
    }
    run_all(
        plan, in, to, [&](auto... a) { plan.compute(a...); }, name);
  });
  return results;
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
    // Short pushes keep the interpreter's lock, which costs more to pass on than they take. Whoever waits for
    // this stream does so without it, and whoever holds this stream may take it back.
    constexpr std::size_t few = 1600;
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) {
      const py::gil_scoped_release release;
      lock.lock();
    }
    std::vector<S> copy;
    const std::size_t n = input.length(), width = stream_.plan().features();
    const S* x = input.row<S>(0, copy);
    check_usable(stream_.plan(), x, n, "samples", input, 0);
    std::vector<float> rounded;
    if constexpr (std::is_same_v<S, double>) {
      rounded.assign(x, x + n);  // a finite double may lie beyond the range of float
      check_usable(stream_.plan(), rounded.data(), n, "samples", input, 0);
    }
    py::array_t<float> out({stream_.plan().frames(stream_.samples() + n) - stream_.rows(), width});
    float* to = out.mutable_data();
    std::optional<py::gil_scoped_release> release;
    if (n > few) release.emplace();
    if constexpr (std::is_same_v<S, double>) {
      drain(rounded.data(), n, to);
    } else {
      drain(x, n, to);
    }
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
      .def_property_readonly(
          "window", [](const FrontEnd& f) { return table(f.window(), 0); }, "(win_length), float64.")
      .def_property_readonly(
          "mel_filters", [](const FrontEnd& f) { return table(f.mel_filters(), f.options().n_fft / 2 + 1); },
          "(n_mels, n_fft / 2 + 1), float64.")
      .def_property_readonly(
          "dct", [](const FrontEnd& f) { return table(f.dct(), f.options().n_mels); },
          "The DCT with its lifter, (n_mfcc, n_mels), float64.")
      .def("frames", &FrontEnd::frames, py::arg("n_samples"), "Rows that a signal of n_samples gives.")
      .def(
          "compute",
          [](const FrontEnd& f, const py::array& samples, const py::object& out) {
            return compute<Plain>(f, samples, out, f.features(), 1, [&](auto... a) { f.compute(a...); });
          },
          py::arg("samples"), py::arg("out") = py::none(),
          "Samples (..., time) of float32, float64 or int16 -> rows (..., frames, features).")
      .def("compute_batch", &compute_batch, py::arg("signals"),
           "Signals (time,) of one dtype -> their rows (frames, features).");

  py::class_<Spectrogram>(m, "Spectrogram", "Immutable plan of a transform; see affekt.features.")
      .def(py::init([](const std::string& options) {
             return std::make_unique<Spectrogram>(FrontEndOptions::from_json(options));
           }),
           py::arg("options"), "Build the plan from a JSON object of options.")
      .def_property_readonly(
          "options", [](const Spectrogram& f) { return f.options().to_json(); },
          "The options as JSON, every default filled in.")
      .def_property_readonly("bins", &Spectrogram::bins, "Columns of a row.")
      .def_property_readonly(
          "window", [](const Spectrogram& f) { return table(f.window(), 0); }, "(win_length), float64.")
      .def("frames", &Spectrogram::frames, py::arg("n_samples"), "Rows that a signal of n_samples gives.")
      .def(
          "powers",
          [](const Spectrogram& f, const py::array& samples, const py::object& out) {
            return compute<Plain>(f, samples, out, f.bins(), 1, [&](auto... a) { f.powers(a...); });
          },
          py::arg("samples"), py::arg("out") = py::none(), "Samples (..., time) -> (..., frames, bins).")
      .def(
          "spectra",
          [](const Spectrogram& f, const py::array& samples, const py::object& out) {
            return compute<std::complex>(f, samples, out, f.bins(), 2, [&](auto... a) { f.spectra(a...); });
          },
          py::arg("samples"), py::arg("out") = py::none(),
          "Samples (..., time) -> complex (..., frames, bins).");

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
