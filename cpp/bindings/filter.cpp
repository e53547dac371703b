#include "affekt/filter.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <mutex>
#include <optional>
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

py::array_t<double> to_array(const std::vector<Section>& sections) {
  py::array_t<double> out({sections.size(), std::size_t{6}});
  auto rows = out.mutable_unchecked<2>();
  for (std::size_t i = 0; i < sections.size(); ++i) {
    const Section& s = sections[i];
    const double row[6] = {s.b0, s.b1, s.b2, 1, s.a1, s.a2};
    for (int k = 0; k < 6; ++k) rows(static_cast<py::ssize_t>(i), k) = row[k];
  }
  return out;
}

std::vector<Section> from_array(const py::array_t<double, py::array::c_style | py::array::forcecast>& sos) {
  if (sos.ndim() != 2 || sos.shape(1) != 6) {
    throw InvalidArgument("sections: expected shape (sections, 6), got " +
                          py::str(sos.attr("shape")).cast<std::string>());
  }
  std::vector<Section> sections;
  for (py::ssize_t i = 0; i < sos.shape(0); ++i) {
    const double* c = sos.data(i, 0);
    if (c[3] != 1) {
      throw InvalidArgument("sections: expected a0 = 1 in every section, got " + std::to_string(c[3]) +
                            " in section " + std::to_string(i));
    }
    sections.push_back({c[0], c[1], c[2], c[4], c[5]});
  }
  return sections;
}

template <class S>
using Result = std::conditional_t<std::is_same_v<S, double>, double, float>;

/// Names the first unusable sample among the rows that `count` says.
template <class S, class F>
[[noreturn]] void refuse(const Rows& rows, const RowPointers<S>& x, F&& counts) {
  for (std::size_t r = 0; r < rows.count(); ++r) {
    const std::size_t i = counts(r) ? Filter::first_unusable(x[r], rows.length()) : rows.length();
    if (i == rows.length()) continue;
    std::ostringstream what;
    what << "samples: expected finite values of at most ";
    if constexpr (!std::is_same_v<S, std::int16_t>) what << Filter::limit(x[r]);
    what << ", got " << x[r][i] << " at index " << rows.index(r, i);
    throw InvalidArgument(what.str());
  }
  throw Error("samples: changed while they were filtered");
}

py::array apply(const Filter& filter, const py::array& samples, bool zero_phase, bool settled) {
  const Rows rows(samples);
  return with_type(kind_of(samples), [&](auto type) -> py::array {
    using S = decltype(type);
    const std::size_t n = rows.length(), count = rows.count();
    py::array_t<Result<S>> out(rows.shape());
    const auto y = row_pointers(out, count, n);
    {
      py::gil_scoped_release release;
      const RowPointers<S> x(rows);
      const bool good =
          zero_phase ? filter.zero_phase(x.data(), y.data(), count, n)
                     : filter.causal(x.data(), y.data(), count, n, settled ? Start::settled : Start::zero);
      if (!good) refuse(rows, x, [](std::size_t) { return true; });
    }
    return out;
  });
}

/// A stream with a lock, because the interpreter's lock is released while it works. channels = 0: one signal
/// of shape (time,).
class Stream {
 public:
  Stream(std::shared_ptr<const Filter> filter, std::size_t channels, bool settled)
      : flat_(channels == 0),
        stream_(std::move(filter), flat_ ? 1 : channels, settled ? Start::settled : Start::zero) {}

  py::array push(const py::array& samples) {
    const Rows rows(samples);
    if (rows.shape().size() != (flat_ ? 1 : 2) || rows.count() != stream_.channels()) {
      throw InvalidArgument("samples: expected shape " +
                            (flat_ ? "(time,)" : "(" + std::to_string(stream_.channels()) + ", time)") +
                            ", got " + py::str(samples.attr("shape")).cast<std::string>());
    }
    return with_type(kind_of(samples), [&](auto type) -> py::array {
      using S = decltype(type);
      py::array_t<Result<S>> out(rows.shape());
      const auto y = row_pointers(out, rows.count(), rows.length());
      {
        py::gil_scoped_release release;
        const RowPointers<S> x(rows);
        const std::lock_guard lock(mutex_);
        if (!stream_.push(x.data(), y.data(), rows.length()))
          refuse(rows, x, [](std::size_t) { return true; });
      }
      return out;
    });
  }
  void reset() {
    const std::lock_guard lock(mutex_);
    stream_.reset();
  }
  std::uint64_t samples() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return stream_.samples();
  }

 private:
  bool flat_;
  FilterStream stream_;
  mutable std::mutex mutex_;
};

/// Each (channel, time) plane of the array by itself.
py::array reference(const py::array& samples, const std::optional<py::array_t<bool>>& bad) {
  if (samples.ndim() < 2) {
    throw InvalidArgument("samples: expected shape (..., channel, time), got " +
                          py::str(samples.attr("shape")).cast<std::string>());
  }
  const Rows rows(samples);
  const auto channels = static_cast<std::size_t>(samples.shape(samples.ndim() - 2));
  std::unique_ptr<bool[]> mask;
  if (bad) {
    if (bad->ndim() != 1 || static_cast<std::size_t>(bad->shape(0)) != channels) {
      throw InvalidArgument("bad: expected shape (" + std::to_string(channels) + ",), one per channel, got " +
                            py::str(bad->attr("shape")).cast<std::string>());
    }
    mask = std::make_unique<bool[]>(channels);
    for (std::size_t c = 0; c < channels; ++c) mask[c] = *bad->data(static_cast<py::ssize_t>(c));
  }
  return with_type(kind_of(samples), [&](auto type) -> py::array {
    using S = decltype(type);
    if constexpr (std::is_same_v<S, std::int16_t>) {
      throw InvalidArgument("samples: expected dtype float32 or float64, got int16");
      return {};
    } else {
      py::array_t<S> out(rows.shape());
      const auto y = row_pointers(out, rows.count(), rows.length());
      {
        py::gil_scoped_release release;
        const RowPointers<S> x(rows);
        for (std::size_t first = 0; first < rows.count(); first += channels) {
          if (!average_reference(x.data() + first, y.data() + first, mask.get(), channels, rows.length()))
            refuse(rows, x, [&](std::size_t r) { return mask == nullptr || !mask[r % channels]; });
        }
      }
      return out;
    }
  });
}

}  // namespace

void bind_filter(py::module_& m) {
  m.def(
      "butterworth",
      [](const std::string& band, int order, double low, double high, double sample_rate) {
        const std::pair<const char*, Band> bands[] = {{"lowpass", Band::lowpass},
                                                      {"highpass", Band::highpass},
                                                      {"bandpass", Band::bandpass},
                                                      {"bandstop", Band::bandstop}};
        for (const auto& [name, value] : bands)
          if (band == name) return to_array(butterworth(value, order, low, high, sample_rate));
        throw InvalidArgument("band: expected lowpass, highpass, bandpass or bandstop, got " + band);
      },
      py::arg("band"), py::arg("order"), py::arg("low"), py::arg("high"), py::arg("sample_rate"),
      "Sections (n, 6) as SciPy's butter(output='sos').");
  m.def(
      "notch",
      [](double frequency, double quality, double sample_rate) {
        return to_array(notch(frequency, quality, sample_rate));
      },
      py::arg("frequency"), py::arg("quality"), py::arg("sample_rate"), "Sections (1, 6) of a notch.");
  m.def("average_reference", &reference, py::arg("samples"), py::arg("bad") = py::none(),
        "Samples (..., channel, time) minus their mean over the channels that are not bad.");

  py::class_<Filter, std::shared_ptr<Filter>>(m, "Filter", "Immutable cascade; see affekt.features.")
      .def(py::init([](const py::array_t<double, py::array::c_style | py::array::forcecast>& sections) {
             return std::make_shared<Filter>(from_array(sections));
           }),
           py::arg("sections"), "Build from sections (n, 6).")
      .def_property_readonly(
          "sections", [](const Filter& f) { return to_array(f.sections()); }, "(n, 6), a0 = 1.")
      .def_property_readonly("padding", &Filter::padding, "Samples mirrored at each end without phase.")
      .def("apply", &apply, py::arg("samples"), py::arg("zero_phase"), py::arg("settled"),
           "Samples (..., time) of float32, float64 or int16 -> the same shape.");
  py::class_<Stream>(m, "FilterStream", "Live filter; see affekt.features.")
      .def(py::init([](std::shared_ptr<Filter> filter, std::size_t channels, bool settled) {
             return std::make_unique<Stream>(std::move(filter), channels, settled);
           }),
           py::arg("filter"), py::arg("channels"), py::arg("settled"))
      .def("push", &Stream::push, py::arg("samples"), "Samples (channel, time) -> the same shape.")
      .def("reset", &Stream::reset, py::call_guard<py::gil_scoped_release>(),
           "Back to the state after construction.")
      .def_property_readonly("samples", &Stream::samples, "Samples taken of each channel.");
}

}  // namespace affekt::bindings
