#include "affekt/bandpower.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
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

/// All rows of a signal as pointers to T; what lies apart in memory or is of another type is copied.
template <class T>
class RowPointers {
 public:
  RowPointers(const Rows& rows, Kind kind) : copies_(rows.count()) {
    at_.reserve(rows.count());
    std::vector<std::int16_t> integers;
    std::vector<double> doubles;
    std::vector<float> floats;
    for (std::size_t r = 0; r < rows.count(); ++r) {
      if (kind == Kind::i16) {
        convert(rows.row(r, integers), rows.length(), r);
      } else if (kind == Kind::f32) {
        take(rows, r, floats);
      } else {
        take(rows, r, doubles);
      }
    }
  }
  const T* const* data() const { return at_.data(); }

 private:
  template <class S>
  void convert(const S* x, std::size_t n, std::size_t r) {
    copies_[r].assign(x, x + n);
    at_.push_back(copies_[r].data());
  }
  template <class S>
  void take(const Rows& rows, std::size_t r, std::vector<S>& scratch) {
    if constexpr (std::is_same_v<S, T>) {
      at_.push_back(rows.row(r, copies_[r]));
    } else {
      convert(rows.row(r, scratch), rows.length(), r);
    }
  }

  std::vector<std::vector<T>> copies_;
  std::vector<const T*> at_;
};

template <class T>
py::tuple psd(const Welch& plan, const Rows& rows, Kind kind) {
  std::vector<py::ssize_t> shape(rows.shape().begin(), rows.shape().end() - 1);
  py::array_t<std::uint64_t> used(shape);
  shape.push_back(static_cast<py::ssize_t>(plan.bins()));
  py::array_t<T> out(shape);
  T* to = out.mutable_data();
  std::uint64_t* counts = used.mutable_data();
  {
    const py::gil_scoped_release release;
    const RowPointers<T> x(rows, kind);
    plan.compute(x.data(), rows.count(), rows.length(), to, counts);
  }
  return py::make_tuple(out, used);
}

template <class T>
py::tuple band_power(const BandPower& plan, const Rows& rows, Kind kind) {
  std::vector<py::ssize_t> shape(rows.shape().begin(), rows.shape().end() - 2);
  std::size_t recordings = 1;
  for (const py::ssize_t extent : shape) recordings *= static_cast<std::size_t>(extent);
  const auto channels = static_cast<std::size_t>(rows.shape()[rows.shape().size() - 2]);
  shape.push_back(static_cast<py::ssize_t>(plan.frames(rows.length())));
  shape.push_back(static_cast<py::ssize_t>(channels));
  py::array_t<bool> valid(shape);
  shape.push_back(static_cast<py::ssize_t>(plan.bands()));
  py::array_t<T> power(shape);
  T* to = power.mutable_data();
  bool* flags = valid.mutable_data();
  {
    const py::gil_scoped_release release;
    const RowPointers<T> x(rows, kind);
    plan.compute(x.data(), recordings, channels, rows.length(), to, flags);
  }
  return py::make_tuple(power, valid);
}

/// A stream with a lock, because the interpreter's lock is released while it works.
template <class T>
class Stream {
 public:
  Stream(std::shared_ptr<const BandPower> plan, std::size_t channels, std::size_t capacity)
      : stream_(std::move(plan), channels, capacity) {}

  py::tuple push(const py::array& samples) {
    const Kind kind = kind_of(samples);
    const Rows rows(samples);
    const std::size_t channels = stream_.channels(), bands = stream_.plan().bands();
    if (rows.shape().size() != 2 || rows.count() != channels) {
      std::ostringstream text;
      text << "samples: expected shape (" << channels << ", time), got (";
      for (const py::ssize_t n : rows.shape()) text << n << (&n == &rows.shape().back() ? "" : ", ");
      text << ")";
      throw InvalidArgument(text.str());
    }
    std::vector<T> power;
    std::unique_ptr<bool[]> valid;
    std::size_t frames = 0;
    {
      const py::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      const RowPointers<T> x(rows, kind);
      const std::size_t n = rows.length();
      chunk_.resize(channels * n);
      for (std::size_t c = 0; c < channels; ++c) {
        // The copy is looked at, because another thread may write to the original.
        std::copy(x.data()[c], x.data()[c] + n, chunk_.data() + c * n);
        check(chunk_.data() + c * n, n, c);
      }
      frames = stream_.plan().frames(static_cast<std::size_t>(stream_.samples()) + n) -
               static_cast<std::size_t>(stream_.frames());
      power.resize(frames * channels * bands);
      valid.reset(new bool[frames * channels]);
      T* to = power.data();
      bool* flags = valid.get();
      for (std::size_t at = 0; at < n;) {
        at += stream_.push(chunk_.data() + at, n - at, static_cast<std::ptrdiff_t>(n));
        for (; stream_.next(to, flags); to += channels * bands) flags += channels;
      }
    }
    py::array_t<T> rows_out({frames, channels, bands});
    std::copy(power.begin(), power.end(), rows_out.mutable_data());
    py::array_t<bool> flags_out({frames, channels});
    std::copy(valid.get(), valid.get() + frames * channels, flags_out.mutable_data());
    return py::make_tuple(rows_out, flags_out);
  }

  void reset() {
    const std::lock_guard lock(mutex_);
    stream_.reset();
  }
  std::uint64_t frames() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return stream_.frames();
  }
  std::uint64_t samples() const {
    const py::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    return stream_.samples();
  }
  std::uint64_t last_sample(std::uint64_t frame) const { return stream_.last_sample(frame); }

 private:
  void check(const T* x, std::size_t n, std::size_t channel) const {
    const std::size_t bad = stream_.plan().first_unusable(x, n);
    if (bad == n) return;
    std::ostringstream text;
    text << "samples: expected finite values whose power does not overflow, or NaN where one is missing, got "
         << x[bad] << " at index (" << channel << ", " << bad << ")";
    throw InvalidArgument(text.str());
  }

  BandPowerStream<T> stream_;
  std::vector<T> chunk_;  // (channels, time)
  mutable std::mutex mutex_;
};

template <class T>
void bind_stream(py::module_& m, const char* name) {
  py::class_<Stream<T>>(m, name, "Live band power; see affekt.features.")
      .def(py::init([](std::shared_ptr<BandPower> plan, std::size_t channels, std::size_t capacity) {
             return std::make_unique<Stream<T>>(std::move(plan), channels, capacity);
           }),
           py::arg("plan"), py::arg("channels"), py::arg("capacity"))
      .def("push", &Stream<T>::push, py::arg("samples"),
           "Samples (channels, time) -> the frames they finish (k, channels, bands), and whether they are "
           "valid (k, channels).")
      .def("reset", &Stream<T>::reset, py::call_guard<py::gil_scoped_release>(),
           "Back to the state after construction.")
      .def_property_readonly("frames", &Stream<T>::frames, "Frames handed out.")
      .def_property_readonly("samples", &Stream<T>::samples, "Samples taken.")
      .def("last_sample", &Stream<T>::last_sample, py::arg("frame"),
           "Index of the last sample that a frame used.");
}

}  // namespace

void bind_bandpower(py::module_& m) {
  py::class_<Welch>(m, "Welch", "Immutable plan of Welch's method; see affekt.features.")
      .def(py::init([](const std::string& options) {
             return std::make_unique<Welch>(WelchOptions::from_json(options));
           }),
           py::arg("options"))
      .def_property_readonly(
          "options", [](const Welch& plan) { return plan.options().to_json(); }, "Every option, as JSON.")
      .def_property_readonly("bins", &Welch::bins, "n_fft // 2 + 1.")
      .def_property_readonly(
          "window", [](const Welch& plan) { return table(plan.window(), 0); },
          "(n_per_seg,), the root of the power's scale in it.")
      .def("segments", &Welch::segments, py::arg("n_samples"), "Whole segments of a signal.")
      .def(
          "compute",
          [](const Welch& plan, const py::array& samples) {
            const Kind kind = kind_of(samples);
            const Rows rows(samples);
            return kind == Kind::f64 ? psd<double>(plan, rows, kind) : psd<float>(plan, rows, kind);
          },
          py::arg("samples"),
          "Samples (..., time) -> spectra (..., bins) and the segments that each used (...).");

  py::class_<BandPower, std::shared_ptr<BandPower>>(m, "BandPower",
                                                    "Immutable plan of band power; see affekt.features.")
      .def(py::init([](const std::string& options) {
             return std::make_shared<BandPower>(BandPowerOptions::from_json(options));
           }),
           py::arg("options"))
      .def_property_readonly(
          "options", [](const BandPower& plan) { return plan.options().to_json(); }, "Every option, as JSON.")
      .def_property_readonly(
          "window", [](const BandPower& plan) { return table(plan.window(), 0); },
          "(n_per_seg,), the root of the power's scale in it.")
      .def_property_readonly(
          "weights",
          [](const BandPower& plan) {
            return table(plan.weights(), static_cast<int>(plan.options().welch.n_fft / 2 + 1));
          },
          "(bands, bins) of the integrals; for relative power, those of the total come last.")
      .def_property_readonly(
          "win_length", [](const BandPower& plan) { return plan.options().win_length; },
          "Samples of a window, whole segments.")
      .def_property_readonly(
          "hop_length", [](const BandPower& plan) { return plan.options().hop_length; },
          "Samples between windows.")
      .def("frames", &BandPower::frames, py::arg("n_samples"), "Windows of a signal.")
      .def(
          "compute",
          [](const BandPower& plan, const py::array& samples) {
            const Kind kind = kind_of(samples);
            const Rows rows(samples);
            if (rows.shape().size() < 2)
              throw InvalidArgument("samples: expected shape (..., channels, time), got (" +
                                    std::to_string(rows.length()) + ",)");
            return kind == Kind::f64 ? band_power<double>(plan, rows, kind)
                                     : band_power<float>(plan, rows, kind);
          },
          py::arg("samples"),
          "Samples (..., channels, time) -> power (..., frames, channels, bands) and whether it is valid "
          "(..., frames, channels).");

  bind_stream<float>(m, "BandPowerStream32");
  bind_stream<double>(m, "BandPowerStream64");
}

}  // namespace affekt::bindings
