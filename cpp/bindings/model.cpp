// Model, Engine and FullPass for Python. Calls that compute release the GIL; a mutex per direction keeps
// threads that share one object apart, which the C++ engine leaves to its caller.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <mutex>
#include <optional>
#include <string>

#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "affekt/tcn.hpp"
#include "bindings.hpp"

namespace py = pybind11;

namespace affekt::bindings {
namespace {

template <class T>
using Signal = py::array_t<T, py::array::c_style>;
using ModelPtr = std::shared_ptr<const Model>;

/// How many samples there are for that input, or an error: (time,) for one channel, else (time, channels).
template <class T>
std::size_t check_signal(const Signal<T>& samples, const InputSpec* input) {
  if (!input || input->channels == 1) {
    if (samples.ndim() != 1)
      throw InvalidArgument("samples: expected one dimension (time,), got " + std::to_string(samples.ndim()));
  } else if (samples.ndim() != 2 || samples.shape(1) != input->channels) {
    throw InvalidArgument("samples: expected shape (time, " + std::to_string(input->channels) + "), got " +
                          std::to_string(samples.ndim()) + " dimensions" +
                          (samples.ndim() == 2 ? ", the last of " + std::to_string(samples.shape(1)) : ""));
  }
  return static_cast<std::size_t>(samples.shape(0));
}

/// The place of an input in the model, or how many there are.
std::size_t input_index(const Model& model, const std::string& modality) {
  const auto& inputs = model.inputs();
  return static_cast<std::size_t>(
      std::find_if(inputs.begin(), inputs.end(), [&](const InputSpec& i) { return i.name == modality; }) -
      inputs.begin());
}

[[noreturn]] void refuse(Status status, const std::string& detail) {
  throw InvalidArgument(std::string(message(status)) + detail);
}

/// Which sample a status is about.
std::string culprit(Status status, const float* x, std::size_t n) {
  if (status != Status::not_finite && status != Status::out_of_range) return "";
  for (std::size_t i = 0; i < n; ++i)
    if (status == Status::not_finite ? !std::isfinite(x[i]) : !(std::abs(x[i]) <= 1e6f))
      return ": sample " + std::to_string(i) + " is " + std::to_string(x[i]);
  return "";
}
std::string culprit(Status, const std::int16_t*, std::size_t) { return ""; }

std::string listed(const Model& model) {
  std::string names;
  for (const InputSpec& input : model.inputs()) names += (names.empty() ? "" : ", ") + input.name;
  return names;
}

using PyAdaptation = std::tuple<std::string, double, std::vector<double>, std::vector<double>>;

py::list known(const std::vector<Adaptation>& adaptation) {
  py::list list;
  for (const Adaptation& a : adaptation)
    list.append(py::make_tuple(
        a.node, a.count, py::array_t<double>(static_cast<py::ssize_t>(a.mean.size()), a.mean.data()),
        py::array_t<double>(static_cast<py::ssize_t>(a.variance.size()), a.variance.data())));
  return list;
}

std::vector<Adaptation> as_profile(const std::vector<PyAdaptation>& entries) {
  std::vector<Adaptation> profile;
  for (const auto& [node, count, mean, variance] : entries) profile.push_back({node, count, mean, variance});
  return profile;
}

struct PyEngine {
  PyEngine(ModelPtr model, const EngineOptions& options)
      : PyEngine(std::make_shared<Engine>(std::move(model), options), std::make_shared<std::mutex>()) {}
  /// A session of a pool has the pool's mutex for polling.
  PyEngine(std::shared_ptr<Engine> session, std::shared_ptr<std::mutex> shared)
      : owned(std::move(session)), poll_mutex(std::move(shared)), engine(*owned), polling(*poll_mutex) {}

  template <class T>
  std::size_t push(const std::string& modality, const Signal<T>& samples, std::optional<double> time) {
    const Model& model = engine.model();
    const std::size_t input = input_index(model, modality);
    const bool known = input < model.inputs().size();
    const std::size_t n = check_signal(samples, known ? &model.inputs()[input] : nullptr);
    const T* x = samples.data();
    std::size_t taken = 0;
    Status status;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(pushing[known ? input : 0]);
      status = time ? engine.push(modality, x, n, *time, &taken) : engine.push(modality, x, n, &taken);
    }
    if (status == Status::ok || status == Status::queue_full) return taken;
    // Asked anew: restore() may have brought another model of the same content.
    if (!known) refuse(status, ": '" + modality + "'; it listens to: " + listed(engine.model()));
    if (time && (!std::isfinite(*time) || status == Status::time_backwards || std::abs(*time) > 4e9))
      refuse(status, ": time is " + std::to_string(*time));
    refuse(status, culprit(status, x, static_cast<std::size_t>(samples.size())));
  }

  py::object poll() {
    bool due;
    Estimate estimate;
    std::vector<float> values;
    std::vector<std::uint8_t> present;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(polling);
      due = engine.poll(estimate);
      if (due) {
        values.assign(estimate.values.begin(), estimate.values.end());
        present.assign(estimate.present.begin(), estimate.present.end());
      }
    }
    if (!due) return py::none();
    py::list there;
    for (const std::uint8_t p : present) there.append(p != 0);
    return py::make_tuple(estimate.time, estimate.sample,
                          py::array_t<float>(static_cast<py::ssize_t>(values.size()), values.data()),
                          estimate.valid, there, estimate.confidence, estimate.latency);
  }

  /// Keeps every other call out while it lives, in the one order that all take.
  struct Alone {
    explicit Alone(PyEngine& engine) : of(engine) {
      for (std::mutex& m : of.pushing) m.lock();
      of.polling.lock();
    }
    ~Alone() {
      of.polling.unlock();
      for (std::mutex& m : of.pushing) m.unlock();
    }
    PyEngine& of;
  };

  void finish(const std::optional<std::string>& modality) {
    Status status = Status::ok;
    {
      const py::gil_scoped_release release;
      const Alone alone(*this);
      if (modality) {
        status = engine.finish(*modality);
      } else {
        engine.finish();
      }
    }
    if (status != Status::ok)
      refuse(status, ": '" + *modality + "'; it listens to: " + listed(engine.model()));
  }
  void reset() {
    const py::gil_scoped_release release;
    const Alone alone(*this);
    engine.reset();
  }
  Snapshot snapshot() {
    const py::gil_scoped_release release;
    const Alone alone(*this);
    return engine.snapshot();
  }
  void restore(const Snapshot& snapshot) {
    std::optional<py::gil_scoped_release> release(std::in_place);
    const Alone alone(*this);
    // Replaces what counters(), latency() and the start of push() look at with the GIL alone. Nobody waits
    // for the mutexes while holding the GIL, so taking it back here cannot block.
    release.reset();
    engine.restore(snapshot);
  }
  py::list adaptation() {
    std::vector<Adaptation> now;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(polling);
      now = engine.adaptation();
    }
    return known(now);
  }
  void adapt(const std::vector<PyAdaptation>& entries) {
    const std::vector<Adaptation> profile = as_profile(entries);
    const py::gil_scoped_release release;
    const std::scoped_lock lock(polling);
    engine.adapt(profile);
  }
  void set_adapting(bool adapting) {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(polling);
    engine.set_adapting(adapting);
  }

  const std::shared_ptr<Engine> owned;
  const std::shared_ptr<std::mutex> poll_mutex;
  Engine& engine;
  std::array<std::mutex, kMaxInputs> pushing;  // per input
  std::mutex& polling;
};

/// Estimates that one poll of a pool gives at most, times its sessions.
constexpr std::size_t kMostPerSession = 1024;

/// Engines of one pool. The sessions' handles keep the pool alive, and there is one handle per session, which
/// has its mutexes.
struct PyPool {
  PyPool(ModelPtr model, const EngineOptions& options)
      : pool(std::make_shared<EnginePool>(std::move(model), 0, options)) {}

  std::shared_ptr<PyEngine> add() {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(*polling);
    Engine& session = (*pool)[pool->add()];
    return std::make_shared<PyEngine>(std::shared_ptr<Engine>(pool, &session), polling);
  }

  /// All that is due, as long as pushes do not outrun it: (session, time, sample, values, valid, present,
  /// confidence, latency), a row each.
  py::tuple poll() {
    std::vector<std::int64_t> sessions;
    std::vector<std::uint64_t> samples;
    std::vector<double> times, latencies;
    std::vector<float> values, confidence;
    std::vector<std::uint8_t> valid, present;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(*polling);
      std::size_t session = 0;
      Estimate estimate;
      // A call ends, whatever is pushed meanwhile; the next one goes on where this one was.
      const std::size_t most = kMostPerSession * std::max<std::size_t>(1, pool->size());
      while (sessions.size() < most && pool->poll(session, estimate)) {
        sessions.push_back(static_cast<std::int64_t>(session));
        times.push_back(estimate.time);
        samples.push_back(estimate.sample);
        values.insert(values.end(), estimate.values.begin(), estimate.values.end());
        valid.push_back(estimate.valid);
        present.insert(present.end(), estimate.present.begin(), estimate.present.end());
        if (estimate.confidence) confidence.push_back(*estimate.confidence);
        latencies.push_back(estimate.latency);
      }
    }
    const auto rows = static_cast<py::ssize_t>(times.size());
    const auto columns = static_cast<py::ssize_t>(pool->model().columns().size());
    const py::ssize_t inputs =
        pool->model().timing().clock_hz > 0 ? static_cast<py::ssize_t>(pool->model().inputs().size()) : 0;
    return py::make_tuple(
        py::array_t<std::int64_t>(rows, sessions.data()), py::array_t<double>(rows, times.data()),
        py::array_t<std::uint64_t>(rows, samples.data()), py::array_t<float>({rows, columns}, values.data()),
        py::array_t<bool>(rows, reinterpret_cast<const bool*>(valid.data())),
        py::array_t<bool>({rows, inputs}, reinterpret_cast<const bool*>(present.data())),
        py::array_t<float>(static_cast<py::ssize_t>(confidence.size()), confidence.data()),
        py::array_t<double>(rows, latencies.data()));
  }

  std::shared_ptr<EnginePool> pool;
  std::shared_ptr<std::mutex> polling = std::make_shared<std::mutex>();
};

struct PyFullPass {
  PyFullPass(ModelPtr model, bool adapting, std::optional<double> dejitter_s)
      : pass(std::move(model), adapting, dejitter_s) {}

  py::tuple result(const std::vector<double>& times, const std::vector<float>& values,
                   const std::vector<std::uint8_t>& valid) const {
    const auto rows = static_cast<py::ssize_t>(times.size());
    const auto columns = static_cast<py::ssize_t>(pass.model().columns().size());
    return py::make_tuple(py::array_t<double>(rows, times.data()),
                          py::array_t<float>({rows, columns}, values.data()),
                          py::array_t<bool>(rows, reinterpret_cast<const bool*>(valid.data())));
  }

  template <class T>
  py::tuple feed(const Signal<T>& samples) {
    const std::size_t n = check_signal(samples, &pass.model().inputs().front());
    const T* x = samples.data();
    std::vector<double> times;
    std::vector<float> values;
    std::vector<std::uint8_t> valid;
    Status status;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(running);
      status = pass.feed(x, n, times, values, &valid);
    }
    if (status != Status::ok) refuse(status, culprit(status, x, static_cast<std::size_t>(samples.size())));
    return result(times, values, valid);
  }

  template <class T>
  void push(const std::string& modality, const Signal<T>& samples, std::optional<double> time) {
    const Model& model = pass.model();
    const std::size_t input = input_index(model, modality);
    if (input == model.inputs().size())
      refuse(Status::unknown_modality, ": '" + modality + "'; it listens to: " + listed(model));
    const std::size_t n = check_signal(samples, &model.inputs()[input]);
    const T* x = samples.data();
    Status status;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(running);
      status = pass.push(modality, x, n, time);
    }
    if (status == Status::ok) return;
    if (time && (!std::isfinite(*time) || status == Status::time_backwards || std::abs(*time) > 4e9))
      refuse(status, ": time is " + std::to_string(*time));
    refuse(status, culprit(status, x, static_cast<std::size_t>(samples.size())));
  }

  /// With a clock: the estimates that are due; `end`: no more samples come.
  py::tuple drain(bool end) {
    std::vector<double> times;
    std::vector<float> values, confidence;
    std::vector<std::uint8_t> valid, present;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(running);
      if (end) pass.finish();
      Estimate estimate;
      while (pass.poll(estimate)) {
        times.push_back(estimate.time);
        values.insert(values.end(), estimate.values.begin(), estimate.values.end());
        valid.push_back(estimate.valid);
        present.insert(present.end(), estimate.present.begin(), estimate.present.end());
        if (estimate.confidence) confidence.push_back(*estimate.confidence);
      }
    }
    const auto rows = static_cast<py::ssize_t>(times.size());
    const auto inputs = static_cast<py::ssize_t>(pass.model().inputs().size());
    return result(times, values, valid) +
           py::make_tuple(py::array_t<bool>({rows, inputs}, reinterpret_cast<const bool*>(present.data())),
                          py::array_t<float>(static_cast<py::ssize_t>(confidence.size()), confidence.data()));
  }

  py::tuple finish() {
    std::vector<double> times;
    std::vector<float> values;
    std::vector<std::uint8_t> valid;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(running);
      pass.finish(times, values, &valid);
    }
    return result(times, values, valid);
  }
  void reset() {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(running);
    pass.reset();
  }
  py::list adaptation() {
    std::vector<Adaptation> now;
    {
      const py::gil_scoped_release release;
      const std::scoped_lock lock(running);
      now = pass.adaptation();
    }
    return known(now);
  }
  void adapt(const std::vector<PyAdaptation>& entries) {
    const std::vector<Adaptation> profile = as_profile(entries);
    const py::gil_scoped_release release;
    const std::scoped_lock lock(running);
    pass.adapt(profile);
  }

  FullPass pass;
  std::mutex running;
};

/// A TCN of its own with one or more streams.
struct PyTcn {
  using Tensor = py::array_t<float, py::array::c_style | py::array::forcecast>;

  PyTcn(const TcnOptions& options, const std::vector<std::map<std::string, Tensor>>& weights,
        std::size_t streams)
      : tcn(options, blocks(weights)), states(checked(streams), tcn.make_state()) {
    for (TcnState& state : states) pointers.push_back(&state);
  }
  static std::size_t checked(std::size_t streams) {
    if (streams >= 1 && streams <= 1 << 16) return streams;
    throw InvalidArgument("streams: expected 1 to 65536, got " + std::to_string(streams));
  }

  static std::vector<TcnBlockWeights> blocks(const std::vector<std::map<std::string, Tensor>>& weights) {
    std::vector<TcnBlockWeights> result;
    for (const auto& tensors : weights) {
      TcnBlockWeights block;
      const std::map<std::string, std::span<const float>*> slots = {
          {"conv1.weight", &block.conv1_weight},
          {"conv1.bias", &block.conv1_bias},
          {"conv2.weight", &block.conv2_weight},
          {"conv2.bias", &block.conv2_bias},
          {"residual.weight", &block.residual_weight},
          {"residual.bias", &block.residual_bias},
          {"slope1", &block.slope1},
          {"slope2", &block.slope2},
          {"slope3", &block.slope3}};
      for (const auto& [name, tensor] : tensors) {
        const auto slot = slots.find(name);
        if (slot == slots.end()) throw InvalidArgument("tcn: unknown tensor '" + name + "'");
        *slot->second = {tensor.data(), static_cast<std::size_t>(tensor.size())};
      }
      result.push_back(block);
    }
    return result;
  }

  py::object process(const py::array& rows, std::size_t stream) {
    if (stream >= states.size())
      throw InvalidArgument("stream: expected less than " + std::to_string(states.size()) + ", got " +
                            std::to_string(stream));
    return run(rows, -1, [&](const float* from, std::size_t n, float* to) {
      tcn.process(from, n, to, states[stream]);
    });
  }
  py::object step_many(const py::array& rows) {
    return run(
        rows, static_cast<py::ssize_t>(states.size()),
        [&](const float* from, std::size_t n, float* to) { tcn.step_many(from, n, to, pointers.data()); });
  }

  /// `expected` rows, or any number for -1. A step takes about as long as a call from Python, so this way
  /// round a conversion: the dtype is compared by address first, the result made without a shape on the heap,
  /// and for one row the GIL kept, which takes longer to give away and get back.
  template <class F>
  py::object run(const py::array& rows, py::ssize_t expected, const F& compute) {
    const bool floats = py::detail::array_proxy(rows.ptr())->descr == float32.ptr() ||
                        py::isinstance<py::array_t<float>>(rows);
    if (!floats || !(rows.flags() & py::array::c_style) || rows.ndim() != 2 || rows.shape(1) != tcn.in() ||
        (expected >= 0 && rows.shape(0) != expected))
      refuse_rows(rows, expected);
    const Py_intptr_t shape[2] = {rows.shape(0), tcn.out()};
    const auto& numpy = py::detail::npy_api::get();
    const auto out = py::reinterpret_steal<py::object>(numpy.PyArray_NewFromDescr_(
        numpy.PyArray_Type_, float32.inc_ref().ptr(), 2, shape, nullptr, nullptr, 0, nullptr));
    if (!out) throw py::error_already_set();
    const auto* from = static_cast<const float*>(rows.data());
    auto* to = reinterpret_cast<float*>(py::detail::array_proxy(out.ptr())->data);
    const auto n = static_cast<std::size_t>(shape[0]);
    if (n == 1) {
      const std::unique_lock lock(running, std::try_to_lock);
      if (lock) {
        compute(from, n, to);
        return out;
      }
    }
    const py::gil_scoped_release release;
    const std::scoped_lock lock(running);
    compute(from, n, to);
    return out;
  }
  [[noreturn]] void refuse_rows(const py::array& rows, py::ssize_t expected) const {
    const bool ordered = rows.flags() & py::array::c_style;
    const py::object first = expected < 0 ? py::object(py::str("time")) : py::object(py::int_(expected));
    throw InvalidArgument(
        py::str("rows: expected C-contiguous float32 of shape ({}, {}), got {} of shape {}{}")
            .format(first, tcn.in(), rows.dtype(), rows.attr("shape"), ordered ? "" : ", not contiguous")
            .cast<std::string>());
  }
  void reset() {
    const py::gil_scoped_release release;
    const std::scoped_lock lock(running);
    for (TcnState& state : states) state.reset();
  }

  Tcn tcn;
  std::vector<TcnState> states;
  std::vector<TcnState*> pointers;
  const py::dtype float32 = py::dtype::of<float>();
  std::mutex running;
};

py::dict describe(const InputSpec& input) {
  py::dict d;
  d["name"] = input.name;
  d["kind"] = input.kind;
  d["unit"] = input.unit;
  d["rate"] = input.rate;
  d["channels"] = input.channels;
  return d;
}

py::dict describe(const OutputSpec& output) {
  py::dict d;
  d["name"] = output.name;
  d["kind"] = output.kind;
  d["labels"] = output.labels;
  d["offset"] = output.offset;
  return d;
}

template <class Spec>
py::list describe(const std::vector<Spec>& specs) {
  py::list list;
  for (const Spec& spec : specs) list.append(describe(spec));
  return list;
}

py::dict arrays(const std::vector<Tensor>& tensors) {
  py::dict d;
  for (const Tensor& t : tensors) {
    const std::vector<py::ssize_t> shape(t.shape.begin(), t.shape.end());
    d[py::str(t.name)] = py::array_t<float>(shape, t.values.data());
  }
  return d;
}

py::dict timing(const Timing& t) {
  py::dict d;
  d["first_estimate_s"] = t.first_estimate_s;
  d["hop_s"] = t.hop_s;
  d["context_s"] = t.context_s;
  d["lookahead_s"] = t.lookahead_s;
  if (t.clock_hz > 0) {
    d["clock_hz"] = t.clock_hz;
    d["silence_s"] = t.silence_s;
    d["reach_s"] = t.reach_s;
  }
  return d;
}

py::dict counters(const Counters& c, bool clocked) {
  py::dict d;
  d["taken"] = c.taken;
  d["refused"] = c.refused;
  d["rejected"] = c.rejected;
  d["reanchors"] = c.reanchors;
  d["dejittered"] = c.dejittered;
  d["estimates"] = c.estimates;
  d["invalid"] = c.invalid;
  if (clocked) {
    d["duplicates"] = c.duplicates;
    d["late"] = c.late;
    d["silences"] = c.silences;
    d["overdue"] = c.overdue;
  }
  return d;
}

}  // namespace

void bind_model(py::module_& m) {
  m.attr("MAX_INPUTS") = kMaxInputs;
  // The holder cannot say "const", and nothing here changes a model.
  using Holder = std::shared_ptr<Model>;
  const auto open = [](const ModelPtr& model) { return std::const_pointer_cast<Model>(model); };
  py::class_<Model, Holder>(m, "Model")
      .def_static(
          "load",
          [open](const std::string& path) {
            const py::gil_scoped_release release;
            return open(Model::load(path));
          },
          py::arg("path"))
      .def_static(
          "from_bytes",
          [open](const py::bytes& content) {
            const std::string_view view = content;
            const py::gil_scoped_release release;
            return open(Model::from_bytes(view.data(), view.size()));
          },
          py::arg("content"))
      .def_property_readonly("hash", [](const Model& self) { return self.hash(); })
      .def_property_readonly("card", [](const Model& self) { return self.card(); })
      .def_property_readonly("columns", [](const Model& self) { return self.columns(); })
      .def_property_readonly("inputs", [](const Model& self) { return describe(self.inputs()); })
      .def_property_readonly("outputs", [](const Model& self) { return describe(self.outputs()); })
      .def_property_readonly("timing", [](const Model& self) { return timing(self.timing()); })
      .def_property_readonly("state_bytes", &Model::state_bytes)
      .def(
          "tensors", [](const Model& self, const std::string& path) { return arrays(self.tensors(path)); },
          py::arg("path"))
      .def(
          "tensors_from_bytes",
          [](const Model& self, const py::bytes& content) {
            const std::string_view view = content;
            return arrays(self.tensors(view.data(), view.size()));
          },
          py::arg("content"));

  py::class_<Snapshot>(m, "Snapshot");
  py::class_<PyEngine, std::shared_ptr<PyEngine>>(m, "Engine")
      .def(py::init([](const Holder& model, std::optional<double> queue_s, double reanchor_s, bool adapting,
                       std::optional<double> wait_s, std::optional<double> dejitter_s) {
             return std::make_shared<PyEngine>(
                 model, EngineOptions{queue_s, reanchor_s, adapting, wait_s, dejitter_s});
           }),
           py::arg("model"), py::arg("queue_s") = py::none(),
           py::arg("reanchor_s") = EngineOptions{}.reanchor_s, py::arg("adapting") = EngineOptions{}.adapting,
           py::arg("wait_s") = py::none(), py::arg("dejitter_s") = py::none())
      .def("push", &PyEngine::push<float>, py::arg("modality"), py::arg("samples").noconvert(),
           py::arg("time") = py::none())
      .def("push", &PyEngine::push<std::int16_t>, py::arg("modality"), py::arg("samples").noconvert(),
           py::arg("time") = py::none())
      .def("poll", &PyEngine::poll)
      .def("finish", &PyEngine::finish, py::arg("modality") = py::none())
      .def("reset", &PyEngine::reset)
      .def("adaptation", &PyEngine::adaptation)
      .def("adapt", &PyEngine::adapt, py::arg("profile"))
      .def("set_adapting", &PyEngine::set_adapting, py::arg("adapting"))
      .def("latency", [](const PyEngine& self) { return self.engine.latency(); })
      .def(
          "counters",
          [](const PyEngine& self, const std::optional<std::string>& modality) {
            const Engine& engine = self.engine;
            return counters(modality ? engine.counters(*modality) : engine.counters(),
                            engine.model().timing().clock_hz > 0);
          },
          py::arg("modality") = py::none())
      .def("snapshot", &PyEngine::snapshot)
      .def("restore", &PyEngine::restore, py::arg("snapshot"));

  py::class_<PyPool>(m, "EnginePool")
      .def(py::init([](const Holder& model, std::optional<double> queue_s, double reanchor_s, bool adapting,
                       std::optional<double> wait_s, std::optional<double> dejitter_s) {
             return std::make_unique<PyPool>(
                 model, EngineOptions{queue_s, reanchor_s, adapting, wait_s, dejitter_s});
           }),
           py::arg("model"), py::arg("queue_s") = py::none(),
           py::arg("reanchor_s") = EngineOptions{}.reanchor_s, py::arg("adapting") = EngineOptions{}.adapting,
           py::arg("wait_s") = py::none(), py::arg("dejitter_s") = py::none())
      .def("add", &PyPool::add)
      .def("poll", &PyPool::poll);

  py::class_<PyFullPass>(m, "FullPass")
      .def(py::init([](const Holder& model, bool adapting, std::optional<double> dejitter_s) {
             return std::make_unique<PyFullPass>(model, adapting, dejitter_s);
           }),
           py::arg("model"), py::arg("adapting") = true, py::arg("dejitter_s") = py::none())
      .def("feed", &PyFullPass::feed<float>, py::arg("samples").noconvert())
      .def("feed", &PyFullPass::feed<std::int16_t>, py::arg("samples").noconvert())
      .def("push", &PyFullPass::push<float>, py::arg("modality"), py::arg("samples").noconvert(),
           py::arg("time") = py::none())
      .def("push", &PyFullPass::push<std::int16_t>, py::arg("modality"), py::arg("samples").noconvert(),
           py::arg("time") = py::none())
      .def("drain", &PyFullPass::drain, py::arg("end"))
      .def("finish", &PyFullPass::finish)
      .def("reset", &PyFullPass::reset)
      .def("adaptation", &PyFullPass::adaptation)
      .def("adapt", &PyFullPass::adapt, py::arg("profile"));

  py::class_<PyTcn>(m, "Tcn")
      .def(py::init([](int in, const std::vector<int>& channels, int kernel_size,
                       const std::vector<int>& dilations, const std::string& activation, float slope,
                       const std::vector<std::map<std::string, PyTcn::Tensor>>& weights,
                       const std::string& arithmetic, std::size_t streams) {
             TcnOptions options{in, channels, kernel_size, dilations, Rectifier::relu, slope};
             if (activation == "leaky_relu") {
               options.activation = Rectifier::leaky_relu;
             } else if (activation == "prelu") {
               options.activation = Rectifier::prelu;
             } else if (activation != "relu") {
               throw InvalidArgument("activation: expected relu, leaky_relu or prelu, got '" + activation +
                                     "'");
             }
             if (arithmetic == "int8") {
               options.arithmetic = Arithmetic::int8;
             } else if (arithmetic != "float32") {
               throw InvalidArgument("arithmetic: expected float32 or int8, got '" + arithmetic + "'");
             }
             return std::make_unique<PyTcn>(options, weights, streams);
           }),
           py::arg("in_features"), py::arg("channels"), py::kw_only(), py::arg("kernel_size"),
           py::arg("dilations"), py::arg("activation"), py::arg("slope"), py::arg("weights"),
           py::arg("arithmetic") = "float32", py::arg("streams") = 1)
      .def("process", &PyTcn::process, py::arg("rows").noconvert(), py::arg("stream") = 0)
      .def("step_many", &PyTcn::step_many, py::arg("rows").noconvert())
      .def("reset", &PyTcn::reset)
      .def_property_readonly("receptive_field", [](const PyTcn& self) { return self.tcn.receptive_field(); });
}

}  // namespace affekt::bindings
