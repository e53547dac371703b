#include "affekt/resampler.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <mutex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace affekt::bindings {
namespace {

using Weights = py::array_t<float, py::array::c_style | py::array::forcecast>;

std::string shape_text(const py::array& array) { return py::str(array.attr("shape")).cast<std::string>(); }

template <class S>
void check_usable(const Rows& rows, const RowPointers<S>& x) {
  for (std::size_t r = 0; r < rows.count(); ++r) {
    const std::size_t i = Resampler::first_unusable(x[r], rows.length());
    if (i == rows.length()) continue;
    std::ostringstream what;
    what << "samples: expected finite values of at most 1e30, got " << x[r][i] << " at index "
         << rows.index(r, i);
    throw InvalidArgument(what.str());
  }
}

/// mix: (results, channels). No channel axis where the weights are empty.
py::array compute(const Resampler& plan, const py::array& samples, const Weights& mix) {
  return with_type(kind_of(samples), [&](auto type) -> py::array {
    using S = decltype(type);
    const Rows rows(samples);
    std::vector<py::ssize_t> shape(rows.shape().begin(), rows.shape().end() - 1);
    std::vector<float> weights{1.0f};
    if (mix.size() > 0) {
      if (mix.ndim() != 1 || shape.empty() || shape.back() != mix.shape(0))
        throw InvalidArgument("mix: expected one weight for each channel of samples " + shape_text(samples) +
                              ", got shape " + shape_text(mix));
      weights.assign(mix.data(), mix.data() + mix.size());
      shape.pop_back();
    }
    const std::size_t n = rows.length(), signals = rows.count() / weights.size();
    const std::size_t length = plan.output_length(n);
    shape.push_back(static_cast<py::ssize_t>(length));
    py::array_t<float> out(shape);
    const auto y = row_pointers(out, signals, length);
    {
      py::gil_scoped_release release;
      const RowPointers<S> x(rows);
      check_usable(rows, x);
      plan.compute(x.data(), signals, n, weights, y.data());
    }
    return out;
  });
}

/// A stream with a lock, because the interpreter's lock is released while it works. One result per row of
/// `mix`.
class Stream {
 public:
  Stream(const std::shared_ptr<const Resampler>& plan, const Weights& mix, bool flat_in, bool flat_out)
      : flat_in_(flat_in), flat_out_(flat_out) {
    if (mix.ndim() != 2 || mix.shape(0) < 1 || (flat_out && mix.shape(0) != 1) ||
        (flat_in && mix.shape(1) != 1))
      throw InvalidArgument(std::string("mix: expected shape (") + (flat_out ? "1" : "results") + ", " +
                            (flat_in ? "1" : "channels") + "), got " + shape_text(mix));
    const float* row = mix.data();
    for (py::ssize_t r = 0; r < mix.shape(0); ++r, row += mix.shape(1))
      streams_.emplace_back(plan, std::vector<float>(row, row + mix.shape(1)));
  }

 private:
  // Above its use: clang 14 does not find it from a lambda within a generic one otherwise.
  /// Runs `work`, which takes n samples, on scratch rows, then copies what it made into an array of that
  /// size.
  template <class F>
  py::array gather(std::size_t n, F&& work) {
    std::size_t made = 0, most = 0;
    std::unique_ptr<float[]> scratch;
    {
      py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      most = streams_[0].most(n);
      scratch.reset(new float[streams_.size() * most]);
      std::vector<float*> y;
      for (std::size_t r = 0; r < streams_.size(); ++r) y.push_back(scratch.get() + r * most);
      made = work(y);
    }
    std::vector<std::size_t> shape{made};
    if (!flat_out_) shape.insert(shape.begin(), streams_.size());
    py::array_t<float> out(shape);
    for (std::size_t r = 0; r < streams_.size(); ++r)
      std::copy_n(scratch.get() + r * most, made, out.mutable_data() + r * made);
    return out;
  }

 public:
  py::array push(const py::array& samples) {
    const std::size_t channels = streams_[0].channels();
    return with_type(kind_of(samples), [&](auto type) -> py::array {
      using S = decltype(type);
      const Rows rows(samples);
      if (rows.shape().size() != (flat_in_ ? 1 : 2) || rows.count() != channels) {
        throw InvalidArgument("samples: expected shape " +
                              (flat_in_ ? "(time,)" : "(" + std::to_string(channels) + ", time)") + ", got " +
                              shape_text(samples));
      }
      return gather(rows.length(), [&](const std::vector<float*>& y) {
        const RowPointers<S> x(rows);
        check_usable(rows, x);
        std::size_t made = 0;
        for (std::size_t r = 0; r < y.size(); ++r) made = streams_[r].push(x.data(), rows.length(), y[r]);
        return made;
      });
    });
  }

  py::array finish() {
    return gather(0, [&](const std::vector<float*>& y) {
      std::size_t made = 0;
      for (std::size_t r = 0; r < y.size(); ++r) made = streams_[r].finish(y[r]);
      return made;
    });
  }

  void reset() {
    const std::lock_guard lock(mutex_);
    for (ResamplerStream& stream : streams_) stream.reset();
  }
  std::uint64_t samples() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return streams_[0].samples();
  }

 private:
  bool flat_in_, flat_out_;
  std::vector<ResamplerStream> streams_;
  mutable std::mutex mutex_;
};

}  // namespace

void bind_resampler(py::module_& m) {
  py::class_<Resampler, std::shared_ptr<Resampler>>(m, "Resampler", "Immutable plan; see affekt.features.")
      .def(py::init([](double input_rate, double output_rate, double passband, double rejection) {
             return std::make_shared<Resampler>(
                 ResamplerOptions{input_rate, output_rate, passband, rejection});
           }),
           py::arg("input_rate"), py::arg("output_rate"), py::arg("passband"), py::arg("rejection"))
      .def_property_readonly(
          "ratio", [](const Resampler& r) { return std::make_pair(r.up(), r.down()); },
          "(up, down) in lowest terms.")
      .def_property_readonly("latency_samples", &Resampler::latency_samples,
                             "Input samples that a result waits for.")
      .def_property_readonly("multiplications", &Resampler::multiplications, "Per result.")
      .def("output_length", &Resampler::output_length, py::arg("n"), "Samples that n samples give.")
      .def("compute", &compute, py::arg("samples"), py::arg("mix"),
           "Samples (..., time), or (..., channel, time) with weights (channel,) -> (..., time), float32.");
  py::class_<Stream>(m, "ResamplerStream", "Live resampler; see affekt.features.")
      .def(py::init([](const std::shared_ptr<Resampler>& plan, const Weights& mix, bool flat_in,
                       bool flat_out) { return std::make_unique<Stream>(plan, mix, flat_in, flat_out); }),
           py::arg("plan"), py::arg("mix"), py::arg("flat_in"), py::arg("flat_out"))
      .def("push", &Stream::push, py::arg("samples"), "Samples -> the results that they finish.")
      .def("finish", &Stream::finish, "The results that are left.")
      .def("reset", &Stream::reset, py::call_guard<py::gil_scoped_release>(),
           "Back to the state after construction.")
      .def_property_readonly("samples", &Stream::samples, "Samples taken of each channel.");
}

}  // namespace affekt::bindings
