#include "affekt/engine.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <type_traits>

#include "graph.hpp"

namespace affekt {
namespace {

Status check_samples(const float* x, std::size_t n) noexcept {
  bool finite = true, inside = true;
  for (std::size_t i = 0; i < n; ++i) {
    finite &= std::isfinite(x[i]);
    inside &= std::abs(x[i]) <= kMaxSample;
  }
  return !finite ? Status::not_finite : !inside ? Status::out_of_range : Status::ok;
}
Status check_samples(const std::int16_t*, std::size_t) noexcept { return Status::ok; }

float full_scale(float x) noexcept { return x; }
float full_scale(std::int16_t x) noexcept { return static_cast<float>(x) * (1.0f / 32768.0f); }

/// Fixed ring between one producer and one consumer. Positions count up for ever; the storage is a power of
/// two.
template <class T>
class Ring {
 public:
  explicit Ring(std::size_t capacity)
      : capacity_(capacity), mask_(std::bit_ceil(capacity) - 1), items_(mask_ + 1) {}

  // Producer.
  std::size_t free() const noexcept {
    return capacity_ - static_cast<std::size_t>(head_.load(std::memory_order_relaxed) -
                                                tail_.load(std::memory_order_acquire));
  }
  std::uint64_t head() const noexcept { return head_.load(std::memory_order_relaxed); }
  T& slot(std::size_t i) noexcept { return items_[(head() + i) & mask_]; }
  void publish(std::size_t n) noexcept { head_.store(head() + n, std::memory_order_release); }

  // Consumer.
  std::size_t ready() const noexcept {
    return static_cast<std::size_t>(head_.load(std::memory_order_acquire) -
                                    tail_.load(std::memory_order_relaxed));
  }
  const T* front() const noexcept { return &items_[tail_.load(std::memory_order_relaxed) & mask_]; }
  /// Items from front() on that lie side by side.
  std::size_t contiguous() const noexcept {
    return mask_ + 1 - static_cast<std::size_t>(tail_.load(std::memory_order_relaxed) & mask_);
  }
  void pop(std::size_t n) noexcept {
    tail_.store(tail_.load(std::memory_order_relaxed) + n, std::memory_order_release);
  }

  void clear() noexcept {
    head_.store(0, std::memory_order_relaxed);
    tail_.store(0, std::memory_order_relaxed);
  }

 private:
  std::size_t capacity_, mask_;
  std::vector<T> items_;
  alignas(64) std::atomic<std::uint64_t> head_{0};
  alignas(64) std::atomic<std::uint64_t> tail_{0};
};

/// From sample `index` on, time = time + (sample - index) / rate.
struct Anchor {
  std::uint64_t index = 0;
  double time = 0;
  double at(std::uint64_t sample, double rate) const noexcept {
    return time + (static_cast<double>(sample) - static_cast<double>(index)) / rate;
  }
};

/// One signal on its way from the producer to the consumer.
struct Channel {
  Channel(const InputSpec& spec, const EngineOptions& options)
      : input(spec),
        reanchor_s(options.reanchor_s),
        samples(
            std::max<std::size_t>(1, static_cast<std::size_t>(std::llround(options.queue_s * spec.rate)))),
        anchors(64) {}

  template <class T>
  Status push(const T* x, std::size_t n, const double* time, std::size_t& taken) noexcept {
    if (finished.load(std::memory_order_relaxed)) return reject(Status::finished);
    if (n > 0 && x == nullptr) return reject(Status::not_finite);
    const std::uint64_t head = samples.head();
    const double expected = started ? clock.at(head, input.rate) : 0.0;
    if (time && !std::isfinite(*time)) return reject(Status::not_finite);
    if (time && started && *time < last_time) return reject(Status::time_backwards);
    if (n == 0) return Status::ok;

    const double now = time ? *time : expected;
    // A move that finds no slot for its anchor waits for a later push. Slots come free with estimates, and
    // estimates need samples, so these are taken all the same.
    const bool move = anchors.free() > 0 && (!started || std::abs(now - expected) > reanchor_s);
    const std::size_t m = std::min(n, samples.free());
    // Only what fits is looked at, so that the time of a push is bounded by the queue and not by the caller's
    // array.
    if (const Status status = check_samples(x, m); status != Status::ok) return reject(status);
    refused.store(refused.load(std::memory_order_relaxed) + (n - m), std::memory_order_relaxed);
    if (m == 0) return Status::queue_full;
    if (move) {
      clock = {head, now};
      anchors.slot(0) = clock;
      anchors.publish(1);
      if (started) reanchors.store(reanchors.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
    last_time = started ? std::max(last_time, now) : now;
    started = true;
    for (std::size_t i = 0; i < m; ++i) samples.slot(i) = full_scale(x[i]);
    samples.publish(m);
    taken = m;
    return m == n ? Status::ok : Status::queue_full;
  }

  /// Time of `sample` for the consumer, who asks in rising order.
  double time_of(std::uint64_t sample) noexcept {
    while (anchors.ready() > 0 && anchors.front()->index <= sample) {
      reading = *anchors.front();
      anchors.pop(1);
    }
    return reading.at(sample, input.rate);
  }

  Status reject(Status status) noexcept {
    rejected.store(rejected.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return status;
  }

  void reset() noexcept {
    samples.clear();
    anchors.clear();
    started = false;
    clock = reading = {};
    last_time = 0;
    finished.store(false);
    refused.store(0);
    rejected.store(0);
    reanchors.store(0);
  }

  const InputSpec input;
  const double reanchor_s;
  Ring<float> samples;
  Ring<Anchor> anchors;
  // Producer only.
  bool started = false;
  Anchor clock;
  double last_time = 0;
  // Consumer only.
  Anchor reading;
  // Written by the producer, read by anyone.
  std::atomic<bool> finished{false};
  std::atomic<std::uint64_t> refused{0}, rejected{0}, reanchors{0};
};

}  // namespace

const char* message(Status status) noexcept {
  switch (status) {
    case Status::ok:
      return "ok";
    case Status::queue_full:
      return "the queue is full: poll, then push the rest";
    case Status::unknown_modality:
      return "the model has no input of this name";
    case Status::time_backwards:
      return "the time is smaller than the previous push's time";
    case Status::not_finite:
      return "a sample or the time is NaN or infinite";
    case Status::out_of_range:
      return "a sample lies beyond +-1e6 (full scale is +-1)";
    case Status::finished:
      return "push after finish; reset first";
  }
  return "unknown status";
}

struct Engine::Impl {
  Impl(std::shared_ptr<const Model> shared, const EngineOptions& options)
      : model(std::move(shared)), run(model->graph()) {
    for (const InputSpec& input : model->inputs())
      channels.push_back(std::make_unique<Channel>(input, options));
    run.set_adapting(options.adapting);
    // Schema 1 has no node that joins signals, so all outputs stem from the one signal there is.
    lead = channels[model->graph().vertices[model->graph().output_vertex.front()].signal].get();
  }

  Channel* find(std::string_view modality) noexcept {
    for (const auto& channel : channels)
      if (channel->input.name == modality) return channel.get();
    return nullptr;
  }

  template <class T>
  Status push(std::string_view modality, const T* x, std::size_t n, const double* time,
              std::size_t* taken) noexcept {
    std::size_t count = 0;
    Channel* channel = find(modality);
    const Status status = channel ? channel->push(x, n, time, count) : lead->reject(Status::unknown_modality);
    if (taken) *taken = count;
    return status;
  }

  bool take(Estimate& estimate) noexcept {
    if (next == rows) return false;
    estimate.sample = run.sample(next);
    estimate.time = lead->time_of(estimate.sample);
    estimate.values = {run.values(next), model->columns().size()};
    estimate.valid = run.valid(next);
    ++next;
    estimates.store(estimates.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    if (!estimate.valid)
      invalid.store(invalid.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return true;
  }

  bool poll(Estimate& estimate) noexcept {
    for (;;) {
      if (take(estimate)) return true;
      rows = next = 0;
      // Read before the queue: what was pushed before finish() is then seen below.
      const bool finished = lead->finished.load(std::memory_order_acquire);
      const std::size_t ready = lead->samples.ready();
      if (ready == 0) {
        if (!finished || drained) return false;
        drained = true;
        rows = run.finish();
        if (rows == 0) return false;
        continue;
      }
      const std::size_t n = std::min({ready, lead->samples.contiguous(), model->graph().block});
      rows = run.process(0, lead->samples.front(), n);
      lead->samples.pop(n);
    }
  }

  std::shared_ptr<const Model> model;
  GraphRun run;
  std::vector<std::unique_ptr<Channel>> channels;
  Channel* lead = nullptr;
  std::size_t rows = 0, next = 0;  // estimates of the last block, and the next to hand out
  bool drained = false;
  std::atomic<std::uint64_t> estimates{0}, invalid{0};
};

namespace {

EngineOptions checked(const EngineOptions& options) {
  if (!(options.queue_s > 0 && options.queue_s <= 3600))
    throw InvalidArgument("engine: queue_s must be in (0, 3600] seconds, got " +
                          std::to_string(options.queue_s));
  if (!(options.reanchor_s > 0 && options.reanchor_s <= 1e9))
    throw InvalidArgument("engine: reanchor_s must be in (0, 1e9] seconds, got " +
                          std::to_string(options.reanchor_s));
  return options;
}

const std::shared_ptr<const Model>& present(const std::shared_ptr<const Model>& model) {
  if (!model) throw InvalidArgument("model: expected a model, got null");
  return model;
}

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options) : Engine(Model::load(path), options) {}
Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : impl_(std::make_unique<Impl>(present(model), checked(options))) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

Status Engine::push(std::string_view modality, const float* samples, std::size_t n, double time,
                    std::size_t* taken) noexcept {
  return impl_->push(modality, samples, n, &time, taken);
}
Status Engine::push(std::string_view modality, const std::int16_t* samples, std::size_t n, double time,
                    std::size_t* taken) noexcept {
  return impl_->push(modality, samples, n, &time, taken);
}
Status Engine::push(std::string_view modality, const float* samples, std::size_t n,
                    std::size_t* taken) noexcept {
  return impl_->push(modality, samples, n, nullptr, taken);
}
Status Engine::push(std::string_view modality, const std::int16_t* samples, std::size_t n,
                    std::size_t* taken) noexcept {
  return impl_->push(modality, samples, n, nullptr, taken);
}

bool Engine::poll(Estimate& estimate) noexcept { return impl_->poll(estimate); }

void Engine::finish() noexcept {
  for (const auto& channel : impl_->channels) channel->finished.store(true, std::memory_order_release);
}

void Engine::reset() noexcept {
  for (const auto& channel : impl_->channels) channel->reset();
  impl_->run.reset();
  impl_->rows = impl_->next = 0;
  impl_->drained = false;
  impl_->estimates.store(0);
  impl_->invalid.store(0);
}

std::vector<Adaptation> Engine::adaptation() const { return impl_->run.adaptation(); }
void Engine::adapt(std::span<const Adaptation> profile) { impl_->run.adapt(profile); }
void Engine::set_adapting(bool adapting) noexcept { impl_->run.set_adapting(adapting); }

double Engine::latency() const noexcept {
  const Timing& timing = impl_->model->timing();
  return timing.lookahead_s + std::max(timing.first_estimate_s, timing.hop_s);
}

Counters Engine::counters() const noexcept {
  Counters sum;
  for (const auto& channel : impl_->channels) {
    sum.taken += channel->samples.head();
    sum.refused += channel->refused.load(std::memory_order_relaxed);
    sum.rejected += channel->rejected.load(std::memory_order_relaxed);
    sum.reanchors += channel->reanchors.load(std::memory_order_relaxed);
  }
  sum.estimates = impl_->estimates.load(std::memory_order_relaxed);
  sum.invalid = impl_->invalid.load(std::memory_order_relaxed);
  return sum;
}

const Model& Engine::model() const noexcept { return *impl_->model; }

struct FullPass::Impl {
  Impl(std::shared_ptr<const Model> shared, bool adapting)
      : model(std::move(shared)),
        run(model->graph()),
        scaled(model->graph().block),
        rate(model->inputs().front().rate) {
    run.set_adapting(adapting);
  }

  void append(std::size_t rows, std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid) {
    const std::size_t columns = model->columns().size();
    for (std::size_t i = 0; i < rows; ++i) {
      times.push_back(Anchor{}.at(run.sample(i), rate));
      values.insert(values.end(), run.values(i), run.values(i) + columns);
      if (valid) valid->push_back(run.valid(i));
    }
  }

  template <class T>
  Status feed(const T* x, std::size_t n, std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid) {
    if (finished) return Status::finished;
    if (const Status status = check_samples(x, n); status != Status::ok) return status;
    for (std::size_t at = 0; at < n;) {
      const std::size_t m = std::min(n - at, scaled.size());
      const float* block;
      if constexpr (std::is_same_v<T, float>) {
        block = x + at;
      } else {
        for (std::size_t i = 0; i < m; ++i) scaled[i] = full_scale(x[at + i]);
        block = scaled.data();
      }
      append(run.process(0, block, m), times, values, valid);
      at += m;
    }
    return Status::ok;
  }

  std::shared_ptr<const Model> model;
  GraphRun run;
  std::vector<float> scaled;
  double rate;
  bool finished = false;
};

FullPass::FullPass(std::shared_ptr<const Model> model, bool adapting)
    : impl_(std::make_unique<Impl>(present(model), adapting)) {}
FullPass::~FullPass() = default;
FullPass::FullPass(FullPass&&) noexcept = default;
FullPass& FullPass::operator=(FullPass&&) noexcept = default;

Status FullPass::feed(const float* samples, std::size_t n, std::vector<double>& times,
                      std::vector<float>& values, std::vector<std::uint8_t>* valid) {
  return impl_->feed(samples, n, times, values, valid);
}
Status FullPass::feed(const std::int16_t* samples, std::size_t n, std::vector<double>& times,
                      std::vector<float>& values, std::vector<std::uint8_t>* valid) {
  return impl_->feed(samples, n, times, values, valid);
}
void FullPass::finish(std::vector<double>& times, std::vector<float>& values,
                      std::vector<std::uint8_t>* valid) {
  if (impl_->finished) return;
  impl_->finished = true;
  impl_->append(impl_->run.finish(), times, values, valid);
}
std::vector<Adaptation> FullPass::adaptation() const { return impl_->run.adaptation(); }
void FullPass::adapt(std::span<const Adaptation> profile) { impl_->run.adapt(profile); }
void FullPass::set_adapting(bool adapting) noexcept { impl_->run.set_adapting(adapting); }
void FullPass::reset() noexcept {
  impl_->run.reset();
  impl_->finished = false;
}
const Model& FullPass::model() const noexcept { return *impl_->model; }

}  // namespace affekt
