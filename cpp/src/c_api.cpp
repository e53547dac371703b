#include "affekt/affekt.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "affekt/runtime.hpp"

namespace affekt {
namespace {

static_assert(AFFEKT_WRONG_TYPE == static_cast<int>(Status::wrong_type),
              "the C statuses of push are those of C++");

thread_local char last_message[1024];

__attribute__((format(printf, 2, 3))) affekt_status fail(affekt_status status, const char* format,
                                                         ...) noexcept {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_message, sizeof last_message, format, arguments);
  va_end(arguments);
  return status;
}

// Handles ---------------------------------------------------------------------------------------------------

struct ModelHandle {
  static constexpr std::uintptr_t kind = 1;
  static constexpr const char* name = "model";
  using C = affekt_model;

  explicit ModelHandle(std::shared_ptr<const Model> shared) : model(std::move(shared)) {
    for (const std::string& column : model->columns()) columns.push_back(column.c_str());
    for (const OutputSpec& output : model->outputs()) {
      labels.emplace_back();
      for (const std::string& label : output.labels) labels.back().push_back(label.c_str());
    }
  }
  std::shared_ptr<const Model> model;
  std::vector<const char*> columns;              // into the model
  std::vector<std::vector<const char*>> labels;  // likewise
};

struct EngineHandle {
  static constexpr std::uintptr_t kind = 2;
  static constexpr const char* name = "engine";
  using C = affekt_engine;

  EngineHandle(std::shared_ptr<const Model> shared, const EngineOptions& options)
      : model(std::move(shared)), engine(model, options) {}
  const std::shared_ptr<const Model> model;
  Engine engine;
  std::vector<Adaptation> known;        // as affekt_engine_adaptations saw it
  std::atomic<std::uint32_t> calls{0};  // a bit per input that is being pushed, kPoll, kReplace, readers
};

struct SnapshotHandle {
  static constexpr std::uintptr_t kind = 3;
  static constexpr const char* name = "snapshot";
  using C = affekt_snapshot;

  explicit SnapshotHandle(Snapshot taken) : snapshot(std::move(taken)) {}
  Snapshot snapshot;
};

/// Objects by handle. A handle is a generation, a kind and a place in the table, so that no value whatever
/// leads to memory that is not there. Finding takes two loads; only making and freeing lock.
class Handles {
 public:
  /// 0: the table is full.
  template <class H>
  std::uintptr_t add(std::unique_ptr<H> object) noexcept {
    const std::lock_guard lock(mutex_);
    std::size_t at = free_;
    if (at != 0) {
      free_ = slots_[at].next;
    } else if (used_ + 1 < slots_.size()) {
      at = ++used_;
    } else {
      return 0;
    }
    Slot& slot = slots_[at];
    ++slot.generation;
    const std::uintptr_t handle = slot.generation << (kIndexBits + 2) | H::kind << kIndexBits | at;
    slot.object.store(object.release(), std::memory_order_relaxed);
    slot.handle.store(handle, std::memory_order_release);
    return handle;
  }

  template <class H>
  H* find(const typename H::C* handle) noexcept {
    const auto value = reinterpret_cast<std::uintptr_t>(handle);
    Slot& slot = slots_[value & (kSlots - 1)];
    if (value == 0 || (value >> kIndexBits & 3) != H::kind ||
        slot.handle.load(std::memory_order_acquire) != value)
      return nullptr;
    return static_cast<H*>(slot.object.load(std::memory_order_relaxed));
  }

  /// nullptr: not there (any more).
  template <class H>
  std::unique_ptr<H> remove(const typename H::C* handle) noexcept {
    const std::lock_guard lock(mutex_);
    std::unique_ptr<H> object(find<H>(handle));
    if (!object) return object;
    const std::size_t at = reinterpret_cast<std::uintptr_t>(handle) & (kSlots - 1);
    slots_[at].handle.store(0, std::memory_order_relaxed);
    slots_[at].next = free_;
    free_ = at;
    return object;
  }

 private:
  static constexpr unsigned kIndexBits = 14;
  static constexpr std::size_t kSlots = std::size_t{1} << kIndexBits;
  struct Slot {
    std::atomic<std::uintptr_t> handle{0};  // 0: free
    std::atomic<void*> object{nullptr};
    std::uintptr_t generation = 0;
    std::size_t next = 0;  // of the free ones
  };
  std::array<Slot, kSlots> slots_{};  // slot 0 is never used
  std::size_t used_ = 0, free_ = 0;
  std::mutex mutex_;
};

constinit Handles handles;

template <class H>
affekt_status no_handle(const typename H::C* handle) noexcept {
  return handle ? fail(AFFEKT_INVALID_HANDLE, "%s: expected the handle of one that is alive, got %p", H::name,
                       static_cast<const void*>(handle))
                : fail(AFFEKT_INVALID_HANDLE, "%s: expected a handle, got NULL", H::name);
}

affekt_status is_null(const char* argument) noexcept {
  return fail(AFFEKT_INVALID_ARGUMENT, "%s: expected a pointer, got NULL", argument);
}

/// Runs `body`, which gives a status, and turns what it throws into one.
template <class Body>
affekt_status guarded(Body&& body) noexcept {
  try {
    return body();
  } catch (const ModelFileError& error) {
    return fail(AFFEKT_MODEL_FILE, "%s", error.what());
  } catch (const Error& error) {
    return fail(AFFEKT_INVALID_ARGUMENT, "%s", error.what());
  } catch (const std::bad_alloc&) {
    return fail(AFFEKT_OUT_OF_MEMORY, "not enough memory");
  } catch (const std::exception& error) {
    return fail(AFFEKT_INTERNAL, "a fault of the library: %s", error.what());
  } catch (...) {
    return fail(AFFEKT_INTERNAL, "a fault of the library");
  }
}

template <class H>
affekt_status hand_out(std::unique_ptr<H> object, typename H::C** out) noexcept {
  const std::uintptr_t handle = handles.add(std::move(object));
  if (handle == 0) return fail(AFFEKT_OUT_OF_MEMORY, "all handles are in use: free some");
  *out = reinterpret_cast<typename H::C*>(handle);
  return AFFEKT_OK;
}

template <class H>
affekt_status release(typename H::C* handle) noexcept {
  if (!handle) return AFFEKT_OK;
  return handles.remove<H>(handle) ? AFFEKT_OK : no_handle<H>(handle);
}

// Structs ---------------------------------------------------------------------------------------------------

/// Fills `to` as far as its size goes; the rest of a larger one with zeros.
template <class S>
affekt_status fill(S* to, S from, const char* argument) noexcept {
  static_assert(std::is_trivially_copyable_v<S>);
  if (!to) return is_null(argument);
  const std::size_t size = to->size;
  if (size < sizeof(S) || size > (1u << 16))
    return fail(AFFEKT_INVALID_ARGUMENT, "%s: its size should be sizeof, %zu, got %zu", argument, sizeof(S),
                size);
  from.size = size;
  std::memcpy(to, &from, sizeof(S));
  std::memset(reinterpret_cast<char*>(to) + sizeof(S), 0, size - sizeof(S));
  return AFFEKT_OK;
}

/// Whether a struct that the caller filled has a size that is understood.
template <class S>
bool readable(const S& from) noexcept {
  return from.size == sizeof(S);
}

affekt_status to_options(const affekt_engine_options* from, EngineOptions& to) noexcept {
  if (!from) return AFFEKT_OK;
  if (!readable(*from))
    return fail(AFFEKT_INVALID_ARGUMENT,
                "options: the size should be sizeof, %zu, got %zu (begin with AFFEKT_ENGINE_OPTIONS)",
                sizeof *from, from->size);
  if (from->adapting != 0 && from->adapting != 1)
    return fail(AFFEKT_INVALID_ARGUMENT, "options: adapting must be 0 or 1, got %d",
                static_cast<int>(from->adapting));
  to.reanchor_s = from->reanchor_s;
  to.adapting = from->adapting != 0;
  // A NaN, too, which the engine refuses.
  if (!(from->queue_s < 0)) to.queue_s = from->queue_s;
  if (!(from->wait_s < 0)) to.wait_s = from->wait_s;
  if (!(from->dejitter_s < 0)) to.dejitter_s = from->dejitter_s;
  return AFFEKT_OK;
}

// Calls on an engine ----------------------------------------------------------------------------------------

constexpr std::uint32_t kPoll = 1u << kMaxInputs;
constexpr std::uint32_t kPushes = kPoll - 1;
constexpr std::uint32_t kReplace = kPoll << 1;    // its memory is given up: restore, free
constexpr std::uint32_t kReader = kReplace << 1;  // counts, from here up, the calls that only look

/// What a call is in EngineHandle::calls, and what may not be there.
struct Call {
  std::uint32_t bits, meets_not;
};
constexpr Call alone_on(std::uint32_t bits) noexcept { return {bits, bits}; }
constexpr Call kLook{kReader, kReplace};
constexpr Call kRenew{kPushes | kPoll | kReplace, ~std::uint32_t{0}};

/// Is in EngineHandle::calls while a call runs; not if one runs that it may not meet.
class Claim {
 public:
  Claim(EngineHandle& engine, Call call) noexcept : engine_(engine) {
    std::uint32_t now = engine.calls.load(std::memory_order_relaxed);
    while (!(now & call.meets_not))
      if (engine.calls.compare_exchange_weak(now, now + call.bits, std::memory_order_acquire,
                                             std::memory_order_relaxed)) {
        bits_ = call.bits;
        break;
      }
  }
  ~Claim() {
    if (bits_) engine_.calls.fetch_sub(bits_, std::memory_order_release);
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  explicit operator bool() const noexcept { return bits_ != 0; }

 private:
  EngineHandle& engine_;
  std::uint32_t bits_ = 0;
};

/// Finds the engine, claims it for `call` and runs `body` on it.
template <class Body>
affekt_status with(const affekt_engine* handle, Call call, Body&& body) noexcept {
  EngineHandle* const engine = handles.find<EngineHandle>(handle);
  if (!engine) return no_handle<EngineHandle>(handle);
  const Claim claim(*engine, call);
  if (!claim) return fail(AFFEKT_BUSY, "engine: another call on it runs that this one may not meet");
  return guarded([&] { return body(*engine); });
}

affekt_status unknown(const char* modality) noexcept {
  return fail(AFFEKT_UNKNOWN_MODALITY, "modality: %s, got %.80s", message(Status::unknown_modality),
              modality);
}

/// Which input of its model; their number: none of that name.
std::size_t input_of(const EngineHandle& engine, const char* modality) noexcept {
  const std::vector<InputSpec>& inputs = engine.model->inputs();
  return static_cast<std::size_t>(
      std::find_if(inputs.begin(), inputs.end(), [&](const InputSpec& i) { return i.name == modality; }) -
      inputs.begin());
}

template <class T>
affekt_status push(affekt_engine* handle, const char* modality, const T* samples, std::size_t n,
                   const double* time, std::size_t* taken) noexcept {
  if (taken) *taken = 0;
  EngineHandle* const found = handles.find<EngineHandle>(handle);
  if (!found) return no_handle<EngineHandle>(handle);
  if (!modality) return is_null("modality");
  if (!samples && n > 0) return fail(AFFEKT_INVALID_ARGUMENT, "samples: expected %zu samples, got NULL", n);
  const std::size_t index = input_of(*found, modality);
  // The engine counts a name that it does not know with its inputs, and so it must not meet another push.
  const Claim claim(*found, alone_on(index < found->model->inputs().size() ? 1u << index : kPushes));
  if (!claim) return fail(AFFEKT_BUSY, "engine: another push to %.80s runs", modality);
  const Status status = time ? found->engine.push(modality, samples, n, *time, taken)
                             : found->engine.push(modality, samples, n, taken);
  if (status == Status::ok) return AFFEKT_OK;
  return fail(static_cast<affekt_status>(status), "push to %.80s: %s", modality, message(status));
}

affekt_status finish(affekt_engine* handle) noexcept {
  EngineHandle* const engine = handles.find<EngineHandle>(handle);
  if (!engine) return no_handle<EngineHandle>(handle);
  const bool alone = engine->model->inputs().size() == 1;
  return with(handle, alone_on(alone ? kPushes : kPushes | kPoll), [](EngineHandle& e) -> affekt_status {
    e.engine.finish();
    return AFFEKT_OK;
  });
}

template <class Body>
affekt_status with_model(const affekt_model* handle, const void* out, const char* argument,
                         Body&& body) noexcept {
  ModelHandle* const model = handles.find<ModelHandle>(handle);
  if (!model) return no_handle<ModelHandle>(handle);
  if (!out) return is_null(argument);
  return body(*model);
}

affekt_status beyond(std::size_t index, std::size_t n, const char* what) noexcept {
  return fail(AFFEKT_INVALID_ARGUMENT, "index: there are %zu %s, got %zu (the first is 0)", n, what, index);
}

}  // namespace
}  // namespace affekt

using namespace affekt;

const char* affekt_message(affekt_status status) {
  switch (status) {
    case AFFEKT_NO_ESTIMATE:
      return "no estimate is due yet";
    case AFFEKT_INVALID_HANDLE:
      return "no handle of this kind that is alive";
    case AFFEKT_INVALID_ARGUMENT:
      return "an argument is null, out of its range or of a wrong size";
    case AFFEKT_MODEL_FILE:
      return "the model file cannot be used";
    case AFFEKT_BUSY:
      return "another call on this engine runs that this one may not meet";
    case AFFEKT_OUT_OF_MEMORY:
      return "not enough memory, or too many handles";
    case AFFEKT_INTERNAL:
      return "a fault of the library";
    default:
      return status >= 0 && status <= AFFEKT_WRONG_TYPE ? message(static_cast<Status>(status))
                                                        : "unknown status";
  }
}

const char* affekt_last_message(void) { return last_message; }
const char* affekt_version(void) { return version(); }
const char* affekt_isa(void) {
  const char* name = nullptr;
  guarded([&]() -> affekt_status {
    name = isa();
    return AFFEKT_OK;
  });
  return name;
}

affekt_status affekt_model_load(const char* path, affekt_model** model) {
  if (!path) return is_null("path");
  if (!model) return is_null("model");
  *model = nullptr;
  return guarded([&] { return hand_out(std::make_unique<ModelHandle>(Model::load(path)), model); });
}

affekt_status affekt_model_from_bytes(const void* data, size_t size, affekt_model** model) {
  if (!data) return is_null("data");
  if (!model) return is_null("model");
  *model = nullptr;
  return guarded(
      [&] { return hand_out(std::make_unique<ModelHandle>(Model::from_bytes(data, size)), model); });
}

affekt_status affekt_model_free(affekt_model* model) { return release<ModelHandle>(model); }

affekt_status affekt_model_card(const affekt_model* model, const char** card) {
  return with_model(model, card, "card", [&](ModelHandle& m) -> affekt_status {
    *card = m.model->card().c_str();
    return AFFEKT_OK;
  });
}

affekt_status affekt_model_hash(const affekt_model* model, const char** hash) {
  return with_model(model, hash, "hash", [&](ModelHandle& m) -> affekt_status {
    *hash = m.model->hash().c_str();
    return AFFEKT_OK;
  });
}

affekt_status affekt_model_inputs(const affekt_model* model, size_t* n) {
  return with_model(model, n, "n", [&](ModelHandle& m) -> affekt_status {
    *n = m.model->inputs().size();
    return AFFEKT_OK;
  });
}

affekt_status affekt_model_input(const affekt_model* model, size_t index, affekt_input_spec* spec) {
  return with_model(model, spec, "spec", [&](ModelHandle& m) -> affekt_status {
    const auto& inputs = m.model->inputs();
    if (index >= inputs.size()) return beyond(index, inputs.size(), "inputs");
    const InputSpec& input = inputs[index];
    return fill(spec,
                {0, input.name.c_str(), input.kind.c_str(), input.unit.c_str(), input.rate,
                 static_cast<std::size_t>(input.channels)},
                "spec");
  });
}

affekt_status affekt_model_outputs(const affekt_model* model, size_t* n) {
  return with_model(model, n, "n", [&](ModelHandle& m) -> affekt_status {
    *n = m.model->outputs().size();
    return AFFEKT_OK;
  });
}

affekt_status affekt_model_output(const affekt_model* model, size_t index, affekt_output_spec* spec) {
  return with_model(model, spec, "spec", [&](ModelHandle& m) -> affekt_status {
    const auto& outputs = m.model->outputs();
    if (index >= outputs.size()) return beyond(index, outputs.size(), "outputs");
    const OutputSpec& output = outputs[index];
    const std::vector<const char*>& labels = m.labels[index];
    return fill(spec,
                {0, output.name.c_str(), output.kind.c_str(), labels.data(), labels.size(), output.offset},
                "spec");
  });
}

affekt_status affekt_model_columns(const affekt_model* model, const char* const** names, size_t* n) {
  return with_model(model, names, "names", [&](ModelHandle& m) -> affekt_status {
    if (!n) return is_null("n");
    *names = m.columns.data();
    *n = m.columns.size();
    return AFFEKT_OK;
  });
}

affekt_status affekt_model_timing(const affekt_model* model, affekt_timing* timing) {
  return with_model(model, timing, "timing", [&](ModelHandle& m) {
    const Timing& t = m.model->timing();
    return fill(
        timing,
        {0, t.first_estimate_s, t.hop_s, t.context_s, t.lookahead_s, t.clock_hz, t.silence_s, t.reach_s},
        "timing");
  });
}

affekt_status affekt_model_state_bytes(const affekt_model* model, size_t* bytes) {
  return with_model(model, bytes, "bytes", [&](ModelHandle& m) -> affekt_status {
    *bytes = m.model->state_bytes();
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_new(const affekt_model* model, const affekt_engine_options* options,
                                affekt_engine** engine) {
  return with_model(model, engine, "engine", [&](ModelHandle& m) {
    *engine = nullptr;
    EngineOptions checked;
    if (const affekt_status status = to_options(options, checked); status != AFFEKT_OK) return status;
    return guarded([&] { return hand_out(std::make_unique<EngineHandle>(m.model, checked), engine); });
  });
}

affekt_status affekt_engine_open(const char* path, const affekt_engine_options* options,
                                 affekt_engine** engine) {
  if (!path) return is_null("path");
  if (!engine) return is_null("engine");
  *engine = nullptr;
  EngineOptions checked;
  if (const affekt_status status = to_options(options, checked); status != AFFEKT_OK) return status;
  return guarded(
      [&] { return hand_out(std::make_unique<EngineHandle>(Model::load(path), checked), engine); });
}

affekt_status affekt_engine_free(affekt_engine* engine) {
  if (!engine) return AFFEKT_OK;
  // No claim outlives this, or it would be given back to memory that is gone.
  const affekt_status status = with(engine, kRenew, [](EngineHandle&) -> affekt_status { return AFFEKT_OK; });
  return status == AFFEKT_OK ? release<EngineHandle>(engine) : status;
}

affekt_status affekt_engine_push(affekt_engine* engine, const char* modality, const float* samples, size_t n,
                                 const double* time, size_t* taken) {
  return push(engine, modality, samples, n, time, taken);
}
affekt_status affekt_engine_push_int16(affekt_engine* engine, const char* modality, const int16_t* samples,
                                       size_t n, const double* time, size_t* taken) {
  return push(engine, modality, samples, n, time, taken);
}

affekt_status affekt_engine_poll(affekt_engine* engine, affekt_estimate* estimate) {
  return with(engine, alone_on(kPoll), [&](EngineHandle& e) -> affekt_status {
    // The struct first: an estimate that could not be handed over would be lost.
    if (const affekt_status status = fill(estimate, {}, "estimate"); status != AFFEKT_OK) return status;
    Estimate found;
    if (!e.engine.poll(found)) return AFFEKT_NO_ESTIMATE;
    return fill(estimate,
                {0, found.time, found.sample, found.values.data(), found.values.size(),
                 found.present.empty() ? nullptr : found.present.data(), found.present.size(), found.latency,
                 found.confidence.value_or(0.0f), found.confidence.has_value(), found.valid},
                "estimate");
  });
}

affekt_status affekt_engine_finish(affekt_engine* engine) { return finish(engine); }

affekt_status affekt_engine_finish_input(affekt_engine* engine, const char* modality) {
  EngineHandle* const found = handles.find<EngineHandle>(engine);
  if (!found) return no_handle<EngineHandle>(engine);
  if (!modality) return is_null("modality");
  const std::size_t index = input_of(*found, modality);
  if (index == found->model->inputs().size()) return unknown(modality);
  return with(engine, alone_on(1u << index),
              [&](EngineHandle& e) { return static_cast<affekt_status>(e.engine.finish(modality)); });
}

affekt_status affekt_engine_reset(affekt_engine* engine) {
  return with(engine, alone_on(kPushes | kPoll), [](EngineHandle& e) -> affekt_status {
    e.engine.reset();
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_snapshot(const affekt_engine* engine, affekt_snapshot** snapshot) {
  return with(engine, alone_on(kPushes | kPoll), [&](EngineHandle& e) -> affekt_status {
    if (!snapshot) return is_null("snapshot");
    *snapshot = nullptr;
    return hand_out(std::make_unique<SnapshotHandle>(e.engine.snapshot()), snapshot);
  });
}

affekt_status affekt_engine_restore(affekt_engine* engine, const affekt_snapshot* snapshot) {
  return with(engine, kRenew, [&](EngineHandle& e) -> affekt_status {
    const SnapshotHandle* const from = handles.find<SnapshotHandle>(snapshot);
    if (!from) return no_handle<SnapshotHandle>(snapshot);
    e.engine.restore(from->snapshot);
    return AFFEKT_OK;
  });
}

affekt_status affekt_snapshot_free(affekt_snapshot* snapshot) { return release<SnapshotHandle>(snapshot); }

affekt_status affekt_engine_adaptations(affekt_engine* engine, size_t* n) {
  return with(engine, alone_on(kPoll), [&](EngineHandle& e) -> affekt_status {
    if (!n) return is_null("n");
    e.known = e.engine.adaptation();
    *n = e.known.size();
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_adaptation(affekt_engine* engine, size_t index, affekt_adaptation* adaptation) {
  return with(engine, alone_on(kPoll), [&](EngineHandle& e) -> affekt_status {
    if (index >= e.known.size())
      return beyond(index, e.known.size(), "nodes that affekt_engine_adaptations saw");
    const Adaptation& node = e.known[index];
    return fill(adaptation,
                {0, node.node.c_str(), node.count, node.mean.data(), node.variance.data(), node.mean.size()},
                "adaptation");
  });
}

affekt_status affekt_engine_adapt(affekt_engine* engine, const affekt_adaptation* profile, size_t n) {
  constexpr std::size_t kMaxNodes = 256, kMaxWidth = 65536;  // of a model file
  return with(engine, alone_on(kPoll), [&](EngineHandle& e) -> affekt_status {
    if (!profile && n > 0) return is_null("profile");
    if (n > kMaxNodes)
      return fail(AFFEKT_INVALID_ARGUMENT, "n: a model has at most %zu nodes, got %zu", kMaxNodes, n);
    std::vector<Adaptation> nodes;
    for (const affekt_adaptation& from : std::span(profile, n)) {
      if (!readable(from))
        return fail(AFFEKT_INVALID_ARGUMENT, "profile: the size of each should be sizeof, %zu, got %zu",
                    sizeof(from), from.size);
      if (!from.node) return is_null("profile: node");
      if (from.width > kMaxWidth)
        return fail(AFFEKT_INVALID_ARGUMENT, "profile: width must be at most %zu, got %zu", kMaxWidth,
                    from.width);
      if (from.width > 0 && (!from.mean || !from.variance)) return is_null("profile: mean and variance");
      nodes.push_back({from.node, from.count, std::vector<double>(from.mean, from.mean + from.width),
                       std::vector<double>(from.variance, from.variance + from.width)});
    }
    e.engine.adapt(nodes);
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_set_adapting(affekt_engine* engine, int32_t adapting) {
  return with(engine, alone_on(kPoll), [&](EngineHandle& e) -> affekt_status {
    if (adapting != 0 && adapting != 1)
      return fail(AFFEKT_INVALID_ARGUMENT, "adapting: expected 0 or 1, got %d", static_cast<int>(adapting));
    e.engine.set_adapting(adapting != 0);
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_latency(const affekt_engine* engine, double* seconds) {
  return with(engine, kLook, [&](EngineHandle& e) -> affekt_status {
    if (!seconds) return is_null("seconds");
    *seconds = e.engine.latency();
    return AFFEKT_OK;
  });
}

affekt_status affekt_engine_counters(const affekt_engine* engine, const char* modality,
                                     affekt_counters* counters) {
  return with(engine, kLook, [&](EngineHandle& e) -> affekt_status {
    if (modality && input_of(e, modality) == e.model->inputs().size()) return unknown(modality);
    const Counters c = modality ? e.engine.counters(modality) : e.engine.counters();
    return fill(counters,
                {0, c.taken, c.refused, c.rejected, c.reanchors, c.estimates, c.invalid, c.duplicates, c.late,
                 c.silences, c.overdue, c.dejittered},
                "counters");
  });
}

affekt_status affekt_engine_model(const affekt_engine* engine, affekt_model** model) {
  EngineHandle* const found = handles.find<EngineHandle>(engine);
  if (!found) return no_handle<EngineHandle>(engine);
  if (!model) return is_null("model");
  *model = nullptr;
  return guarded([&] { return hand_out(std::make_unique<ModelHandle>(found->model), model); });
}
