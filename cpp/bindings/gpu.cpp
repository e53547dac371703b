// The launchers of kernels/, recorded: what to start on a GPU, for affekt.cupy, which compiles the kernels at
// run time. Addresses are those of device memory; nothing here touches them.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define AFFEKT_EMULATE
#define AFFEKT_RECORD
#include "bindings.hpp"
#include "causal_conv.cu"
#include "ccc.cu"
#include "contrast.cu"
#include "spectra.cu"
#include "spectra_tables.hpp"

namespace py = pybind11;

namespace affekt::bindings {
namespace {

using Address = std::uintptr_t;
using gpu::Wide;

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// (kernel, (grid x, grid y), threads, bytes of shared memory, argument) of every launch that run() makes.
using Launch = std::tuple<std::string, std::pair<Wide, Wide>, int, int, py::bytes>;
template <class Run>
std::vector<Launch> launches(Run&& run) {
  gpu::recorded().clear();
  const char* const problem = run();
  if (problem != nullptr) throw Error(problem);
  std::vector<Launch> all;
  for (const gpu::Recorded& r : gpu::recorded()) {
    all.emplace_back(r.kernel, std::pair{r.grid_x, r.grid_y}, r.threads, r.shared_bytes,
                     py::bytes(reinterpret_cast<const char*>(r.arguments.data()), r.arguments.size()));
  }
  gpu::recorded().clear();
  return all;
}

py::bytes bytes_of(const std::vector<unsigned char>& bytes) {
  return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

/// A plan in float32 and in float64.
template <template <class> class Tables, class Options, class... More>
struct Plan {
  Tables<float> narrow;
  Tables<double> wide;
  explicit Plan(const Options& o, More... more) : narrow(o, more...), wide(o, more...) {}

  template <class F>
  auto with(bool in_double, F&& f) const {
    return in_double ? f(wide, double()) : f(narrow, float());
  }
  py::bytes tables(bool in_double) const {
    return with(in_double, [](const auto& t, auto) { return bytes_of(t.bytes()); });
  }
};

using Frames = Plan<gpu::FrameTables, FrontEndOptions, bool>;
using Spectra = Plan<gpu::WelchTables, WelchOptions>;
using Bands = Plan<gpu::BandTables, BandPowerOptions>;

gpu::Contrast contrast_of(const std::string& number, bool tf32, Wide rows, Wide dim, Wide extra, Address a,
                          Address b, Address negatives, Address labels, Address scale, Wide shift,
                          bool exclude, bool columns, double weight, Wide budget, Address loss,
                          Address grad_a, Address grad_b, Address grad_scale) {
  gpu::Contrast c{};
  c.number = number == "float64"    ? gpu::Number::float64
             : number == "bfloat16" ? gpu::Number::bfloat16
             : number == "float16"  ? gpu::Number::float16
                                    : gpu::Number::float32;
  c.tf32 = tf32, c.rows = rows, c.dim = dim, c.extra = extra;
  c.a = at<void>(a), c.b = at<void>(b), c.negatives = at<void>(negatives);
  c.labels = at<const long long>(labels), c.scale = at<void>(scale);
  c.shift = shift, c.exclude = exclude, c.columns = columns, c.weight = weight, c.budget = budget;
  c.loss = at<void>(loss), c.grad_a = at<void>(grad_a), c.grad_b = at<void>(grad_b);
  c.grad_scale = at<void>(grad_scale);
  return c;
}

template <class T>
std::vector<Launch> ccc(const gpu::CccShape& shape, Address pred, Address target, Address mask, double eps,
                        bool mixed, int reduction, Address columns, Address loss, Address workspace) {
  return launches([&] {
    return gpu::ccc_forward<T>(shape, at<T>(pred), at<T>(target), at<unsigned char>(mask), eps, mixed,
                               reduction, at<double>(columns), at<T>(loss), at<void>(workspace), nullptr);
  });
}

template <class T>
std::vector<Launch> ccc_gradient(const gpu::CccShape& shape, Address pred, Address target, Address mask,
                                 Address columns, Address upstream, bool one, Address grad_pred,
                                 Address grad_target) {
  return launches([&] {
    return gpu::ccc_backward<T>(shape, at<T>(pred), at<T>(target), at<unsigned char>(mask),
                                at<double>(columns), at<T>(upstream), one, at<T>(grad_pred),
                                at<T>(grad_target), nullptr);
  });
}

using Addresses = std::vector<Address>;

// Sizes, as TcnBlock has them, and the addresses of weights and biases.
struct TcnSizes {
  std::vector<std::size_t> sizes;  // batch, time, in, out, taps, dilation
  Addresses weights;               // weight1, bias1, weight2, bias2, residual, residual_bias
  double slope, dropout;

  template <class T>
  TcnBlock<T> block() const {
    const auto& n = sizes;
    const auto weight = [this](std::size_t i) { return at<T>(weights.at(i)); };
    return {n.at(0),   n.at(1),   n.at(2),   n.at(3),   n.at(4), n.at(5), weight(0), weight(1),
            weight(2), weight(3), weight(4), weight(5), slope,   dropout, 0,         0};
  }
};

template <class T>
std::pair<Wide, std::vector<Launch>> tcn_block(const TcnSizes& given, bool tf32, Address keys, Address x,
                                               const Addresses& out, Address workspace) {
  const TcnBlock<T> block = given.block<T>();
  return {gpu::tcn_forward_workspace(block), launches([&] {
            return gpu::tcn_block_forward(block, at<const long long>(keys), tf32, at<T>(x), at<T>(out.at(0)),
                                          at<T>(out.at(1)), at<T>(out.at(2)), at<void>(workspace), nullptr);
          })};
}

template <class T>
std::pair<Wide, std::vector<Launch>> tcn_block_gradient(const TcnSizes& given, bool tf32, Address x,
                                                        const Addresses& out, Address grad,
                                                        const Addresses& to, Address workspace) {
  const TcnBlock<T> block = given.block<T>();
  const auto gradient = [&to](std::size_t i) { return at<T>(to.at(i)); };
  return {gpu::tcn_backward_workspace(block), launches([&] {
            return gpu::tcn_block_backward(
                block, tf32, at<T>(x), at<T>(out.at(0)), at<T>(out.at(1)), at<T>(out.at(2)), at<T>(grad),
                {gradient(0), gradient(1), gradient(2), gradient(3), gradient(4), gradient(5), gradient(6)},
                at<void>(workspace), nullptr);
          })};
}

}  // namespace

void bind_gpu(py::module_& m) {
  m.def(
      "gpu_unfit",
      [](const std::string& op, const std::string& options) {
        if (op == "welch") return gpu::welch_unfit(Welch(WelchOptions::from_json(options)).options());
        if (op == "band_power")
          return gpu::welch_unfit(BandPower(BandPowerOptions::from_json(options)).options().welch);
        if (op != "acoustic" && op != "spectrogram" && op != "stft") return op + ": has no kernel for GPUs";
        return gpu::frames_unfit(FrontEnd(FrontEndOptions::from_json(options)).options(), op == "acoustic");
      },
      py::arg("op"), py::arg("options"));

  m.def(
      "gpu_ccc_workspace",
      [](Wide groups, Wide steps, Wide dims) {
        return std::pair{gpu::ccc_workspace({groups, steps, dims}), static_cast<int>(gpu::ccc_values)};
      },
      py::arg("groups"), py::arg("steps"), py::arg("dims"));
  m.def(
      "gpu_ccc",
      [](Wide groups, Wide steps, Wide dims, bool in_double, Address pred, Address target, Address mask,
         double eps, bool mixed, int reduction, Address columns, Address loss, Address workspace) {
        return (in_double ? ccc<double> : ccc<float>)({groups, steps, dims}, pred, target, mask, eps, mixed,
                                                      reduction, columns, loss, workspace);
      },
      py::arg("groups"), py::arg("steps"), py::arg("dims"), py::kw_only(), py::arg("in_double"),
      py::arg("pred"), py::arg("target"), py::arg("mask"), py::arg("eps"), py::arg("mixed"),
      py::arg("reduction"), py::arg("columns"), py::arg("loss"), py::arg("workspace"));
  m.def(
      "gpu_ccc_gradient",
      [](Wide groups, Wide steps, Wide dims, bool in_double, Address pred, Address target, Address mask,
         Address columns, Address upstream, bool one_upstream, Address grad_pred, Address grad_target) {
        return (in_double ? ccc_gradient<double> : ccc_gradient<float>)({groups, steps, dims}, pred, target,
                                                                        mask, columns, upstream, one_upstream,
                                                                        grad_pred, grad_target);
      },
      py::arg("groups"), py::arg("steps"), py::arg("dims"), py::kw_only(), py::arg("in_double"),
      py::arg("pred"), py::arg("target"), py::arg("mask"), py::arg("columns"), py::arg("upstream"),
      py::arg("one_upstream"), py::arg("grad_pred"), py::arg("grad_target"));

  // (bytes of workspace, launches); with a workspace of 0 there are none.
  m.def(
      "gpu_contrast",
      [](const std::string& number, bool tf32, Wide rows, Wide dim, Wide extra, Address a, Address b,
         Address negatives, Address labels, Address scale, Wide shift, bool exclude, bool columns,
         double weight, Wide budget, Address loss, Address grad_a, Address grad_b, Address grad_scale,
         Address workspace) {
        const gpu::Contrast c =
            contrast_of(number, tf32, rows, dim, extra, a, b, negatives, labels, scale, shift, exclude,
                        columns, weight, budget, loss, grad_a, grad_b, grad_scale);
        std::vector<Launch> all;
        if (workspace != 0) {
          all = launches([&] { return gpu::contrast_run(c, at<void>(workspace), nullptr); });
        }
        return std::pair{gpu::contrast_workspace(c), all};
      },
      py::kw_only(), py::arg("number"), py::arg("tf32"), py::arg("rows"), py::arg("dim"), py::arg("extra"),
      py::arg("a"), py::arg("b"), py::arg("negatives"), py::arg("labels"), py::arg("scale"), py::arg("shift"),
      py::arg("exclude"), py::arg("columns"), py::arg("weight"), py::arg("budget"), py::arg("loss"),
      py::arg("grad_a"), py::arg("grad_b"), py::arg("grad_scale"), py::arg("workspace"));

  // outputs: h1, h2, y; the bytes of the workspace beside the launches.
  m.def(
      "gpu_tcn_block",
      [](std::vector<std::size_t> sizes, Addresses weights, double slope, double dropout, bool in_double,
         bool tf32, Address keys, Address x, const Addresses& outputs, Address workspace) {
        const TcnSizes given{std::move(sizes), std::move(weights), slope, dropout};
        return (in_double ? tcn_block<double> : tcn_block<float>)(given, tf32, keys, x, outputs, workspace);
      },
      py::kw_only(), py::arg("sizes"), py::arg("weights"), py::arg("slope"), py::arg("dropout"),
      py::arg("in_double"), py::arg("tf32"), py::arg("keys"), py::arg("x"), py::arg("outputs"),
      py::arg("workspace"));
  m.def(
      "gpu_tcn_block_gradient",
      [](std::vector<std::size_t> sizes, Addresses weights, double slope, double dropout, bool in_double,
         bool tf32, Address x, const Addresses& outputs, Address grad, const Addresses& gradients,
         Address workspace) {
        const TcnSizes given{std::move(sizes), std::move(weights), slope, dropout};
        return (in_double ? tcn_block_gradient<double>
                          : tcn_block_gradient<float>)(given, tf32, x, outputs, grad, gradients, workspace);
      },
      py::kw_only(), py::arg("sizes"), py::arg("weights"), py::arg("slope"), py::arg("dropout"),
      py::arg("in_double"), py::arg("tf32"), py::arg("x"), py::arg("outputs"), py::arg("grad"),
      py::arg("gradients"), py::arg("workspace"));

  py::class_<Frames>(m, "GpuFrames")
      .def(py::init([](const std::string& options, bool mel) {
             return std::make_unique<Frames>(FrontEndOptions::from_json(options), mel);
           }),
           py::arg("options"), py::arg("mel"))
      .def(
          "shape",
          [](const Frames& p, std::size_t samples) {
            return std::pair{p.wide.frames(samples), p.wide.columns()};
          },
          py::arg("samples"))
      .def("tables", &Frames::tables, py::arg("in_double"))
      .def(
          "launches",
          [](const Frames& p, bool in_double, Address tables, Address x, Wide signals, Wide samples,
             Address out, bool complex) {
            return p.with(in_double, [&](const auto& t, auto zero) {
              using T = decltype(zero);
              const auto task = t.task(at<void>(tables), at<T>(x), signals, samples, at<T>(out));
              return launches([&] { return gpu::frame_rows(task, complex, nullptr); });
            });
          },
          py::kw_only(), py::arg("in_double"), py::arg("tables"), py::arg("x"), py::arg("signals"),
          py::arg("samples"), py::arg("out"), py::arg("complex") = false);

  py::class_<Bands>(m, "GpuBands")
      .def(py::init([](const std::string& options) {
             return std::make_unique<Bands>(BandPowerOptions::from_json(options));
           }),
           py::arg("options"))
      .def(
          "shape",
          [](const Bands& p, std::size_t samples) {
            return std::pair{p.wide.frames(samples), p.wide.bands()};
          },
          py::arg("samples"))
      .def("tables", &Bands::tables, py::arg("in_double"))
      .def(
          "workspace",
          [](const Bands& p, bool in_double, Wide recordings, Wide channels, Wide samples) {
            return p.with(in_double, [&](const auto& t, auto) {
              return gpu::band_workspace(
                  t.task(nullptr, nullptr, recordings, channels, samples, nullptr, nullptr));
            });
          },
          py::arg("in_double"), py::arg("recordings"), py::arg("channels"), py::arg("samples"))
      .def(
          "launches",
          [](const Bands& p, bool in_double, Address tables, Address x, Wide recordings, Wide channels,
             Wide samples, Address power, Address valid, Address workspace) {
            return p.with(in_double, [&](const auto& t, auto zero) {
              using T = decltype(zero);
              const auto task = t.task(at<void>(tables), at<T>(x), recordings, channels, samples,
                                       at<T>(power), at<bool>(valid));
              return launches([&] { return gpu::band_powers(task, at<void>(workspace), nullptr); });
            });
          },
          py::kw_only(), py::arg("in_double"), py::arg("tables"), py::arg("x"), py::arg("recordings"),
          py::arg("channels"), py::arg("samples"), py::arg("power"), py::arg("valid"), py::arg("workspace"));

  py::class_<Spectra>(m, "GpuWelch")
      .def(py::init([](const std::string& options) {
             return std::make_unique<Spectra>(WelchOptions::from_json(options));
           }),
           py::arg("options"))
      .def_property_readonly("bins", [](const Spectra& p) { return p.wide.bins(); })
      .def("tables", &Spectra::tables, py::arg("in_double"))
      .def(
          "workspace",
          [](const Spectra& p, Wide signals, std::size_t samples) {
            return gpu::welch_workspace(signals, static_cast<Wide>(p.wide.segments(samples)),
                                        2 * static_cast<Wide>(p.wide.bins() - 1));
          },
          py::arg("signals"), py::arg("samples"))
      .def(
          "launches",
          [](const Spectra& p, bool in_double, Address tables, Address x, Wide signals, Wide samples,
             Address out, Address used, Address workspace) {
            return p.with(in_double, [&](const auto& t, auto zero) {
              using T = decltype(zero);
              const auto task =
                  t.task(at<void>(tables), at<T>(x), signals, samples, at<T>(out), at<int>(used));
              return launches([&] { return gpu::welch_spectra(task, at<void>(workspace), nullptr); });
            });
          },
          py::kw_only(), py::arg("in_double"), py::arg("tables"), py::arg("x"), py::arg("signals"),
          py::arg("samples"), py::arg("out"), py::arg("used"), py::arg("workspace"));
}

}  // namespace affekt::bindings
