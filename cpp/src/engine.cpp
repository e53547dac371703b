#include "affekt/engine.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
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

constexpr double kNever = -std::numeric_limits<double>::infinity();
/// Two times this close are one where ticks and samples are compared: stamps are rounded.
constexpr double kSlack = 1e-6;
/// Samples stamped before the last one count as this much after it, so that no tick is decided twice.
constexpr double kStep = 3 * kSlack;
/// Largest time in a model with a clock, seconds: there, doubles still tell kSlack apart.
constexpr double kMaxTime = 4e9;

/// An atomic that a snapshot can copy while nobody writes it.
template <class T>
struct Shared : std::atomic<T> {
  Shared(T value = {}) noexcept : std::atomic<T>(value) {}
  Shared(const Shared& other) noexcept : std::atomic<T>(other.load(std::memory_order_relaxed)) {}
  Shared& operator=(const Shared&) = delete;
  using std::atomic<T>::operator=;
  T now() const noexcept { return this->load(std::memory_order_relaxed); }
  /// For the one thread that writes it.
  void add(T n) noexcept { this->store(now() + n, std::memory_order_relaxed); }
};

/// Fixed ring of items of `width` values between one producer and one consumer. Positions count up for ever;
/// the storage is a power of two.
template <class T>
class Ring {
 public:
  explicit Ring(std::size_t capacity, std::size_t width = 1)
      : capacity_(capacity), mask_(std::bit_ceil(capacity) - 1), width_(width), items_((mask_ + 1) * width) {}

  // Producer.
  std::size_t free() const noexcept {
    return capacity_ - static_cast<std::size_t>(head_.now() - tail_.load(std::memory_order_acquire));
  }
  std::uint64_t head() const noexcept { return head_.now(); }
  T* slot(std::size_t i) noexcept { return &items_[((head() + i) & mask_) * width_]; }
  void publish(std::size_t n) noexcept { head_.store(head() + n, std::memory_order_release); }
  /// Room for `n` items more; for rings whose both ends are on one thread.
  void grow(std::size_t n) {
    if (free() >= n) return;
    Ring larger(std::max(2 * capacity_, capacity_ - free() + n), width_);
    for (std::uint64_t i = tail_.now(); i < head(); ++i)
      std::copy_n(&items_[(i & mask_) * width_], width_, &larger.items_[(i & larger.mask_) * width_]);
    capacity_ = larger.capacity_;
    mask_ = larger.mask_;
    items_ = std::move(larger.items_);
  }

  // Consumer.
  std::size_t ready() const noexcept {
    return static_cast<std::size_t>(head_.load(std::memory_order_acquire) - tail_.now());
  }
  std::uint64_t tail() const noexcept { return tail_.now(); }
  const T* front() const noexcept { return &items_[(tail_.now() & mask_) * width_]; }
  /// Items from front() on that lie side by side.
  std::size_t contiguous() const noexcept {
    return mask_ + 1 - static_cast<std::size_t>(tail_.now() & mask_);
  }
  void pop(std::size_t n) noexcept { tail_.store(tail_.now() + n, std::memory_order_release); }

  void clear() noexcept {
    head_.store(0, std::memory_order_relaxed);
    tail_.store(0, std::memory_order_relaxed);
  }

 private:
  std::size_t capacity_, mask_, width_;
  std::vector<T> items_;
  alignas(64) Shared<std::uint64_t> head_{0};
  alignas(64) Shared<std::uint64_t> tail_{0};
};

/// From sample `index` on, time = time + (sample - index) / rate.
struct Anchor {
  std::uint64_t index = 0;
  double time = 0;
  double at(std::uint64_t sample, double rate) const noexcept {
    return time + (static_cast<double>(sample) - static_cast<double>(index)) / rate;
  }
};

/// The times of an input's samples in the order in which they are counted on the estimate clock: those of its
/// anchors, but never backwards. Producer and consumer each have one and come to the same times.
struct Course {
  Anchor anchor;
  double mark = kNever;   // no sample to come has a time up to here
  double floor = kNever;  // mark when the anchor came

  void turn(const Anchor& next) noexcept {
    floor = mark;
    anchor = next;
  }
  double at(std::uint64_t sample, double rate) const noexcept {
    return std::max(anchor.at(sample, rate), floor + kStep);
  }
  void pass(std::uint64_t sample, double rate) noexcept {
    if (const double time = anchor.at(sample, rate); time > floor + kStep) mark = time;
  }
  /// How many of the `n` samples from `first` on have a time up to `until`.
  std::size_t count(std::uint64_t first, std::size_t n, double until, double rate) const noexcept {
    if (floor + kStep > until) return 0;
    const double guess = std::floor((until - anchor.at(first, rate)) * rate) + 1;
    std::size_t k = guess <= 0 ? 0 : guess >= static_cast<double>(n) ? n : static_cast<std::size_t>(guess);
    while (k > 0 && anchor.at(first + k - 1, rate) > until) --k;
    while (k < n && anchor.at(first + k, rate) <= until) ++k;
    return k;
  }
};

/// One input on its way from the producer to the consumer.
struct Channel {
  Channel(const InputSpec& spec, const EngineOptions& options, const Timing& timing, bool grow)
      : input(spec),
        reanchor_s(options.reanchor_s),
        clocked(timing.clock_hz > 0),
        rows(spec.kind == "rows"),
        growing(grow),
        width(static_cast<std::size_t>(spec.channels)),
        samples(std::max<std::size_t>(1, static_cast<std::size_t>(std::llround(options.queue_s * spec.rate))),
                width),
        anchors(rows ? std::max<std::size_t>(64, static_cast<std::size_t>(options.queue_s * spec.rate) + 1)
                     : 64) {}

  template <class T>
  Status push(const T* x, std::size_t n, const double* time, std::size_t& taken) {
    if (finished.load(std::memory_order_relaxed)) return reject(Status::finished);
    if (std::is_same_v<T, std::int16_t> && input.kind != "audio") return reject(Status::wrong_type);
    if (n > 0 && x == nullptr) return reject(Status::not_finite);
    const std::uint64_t head = samples.head();
    const double expected = started ? course.anchor.at(head, input.rate) : 0.0;
    if (time && !std::isfinite(*time)) return reject(Status::not_finite);
    if (time && clocked && std::abs(*time) > kMaxTime) return reject(Status::out_of_range);
    if (time && started && *time < last_time) return reject(Status::time_backwards);
    if (n == 0) return Status::ok;
    if (rows && time && started && std::abs(*time - course.anchor.at(head - 1, input.rate)) <= kSlack) {
      if (const Status status = check_samples(x, std::min(n, 1 + samples.free()) * width);
          status != Status::ok)
        return reject(status);
      duplicates.add(1);
      x += width;
      time = nullptr;
      taken = 1;
      if (--n == 0) return Status::ok;
    }

    const double now = time ? *time : expected;
    const bool moved = started && std::abs(now - expected) > reanchor_s;
    bool move = !started || moved || (rows && now != expected);
    if (growing) {
      samples.grow(n);
      anchors.grow(1);
    }
    std::size_t m = std::min(n, samples.free());
    if (move && anchors.free() == 0) {
      // With a clock, anchors come free as samples do. Without, they come free with estimates, which need
      // samples: these are taken all the same, and a later push makes the move.
      if (clocked) m = 0;
      move = false;
    }
    // Only what fits is looked at, so that the time of a push is bounded by the queue and not by the caller's
    // array.
    if (const Status status = check_samples(x, m * width); status != Status::ok) return reject(status);
    refused.add(n - m);
    if (m == 0) return Status::queue_full;
    if (move) {
      course.turn({head, now});
      *anchors.slot(0) = course.anchor;
      anchors.publish(1);
      if (moved) reanchors.add(1);
    }
    // Stamps alone: what follows on without one may be cut anywhere, by the caller or by a full queue.
    if (!started || time) last_time = now;
    for (std::size_t i = 0; i < m; ++i) {
      T const* from = x + i * width;
      float* to = samples.slot(i);
      for (std::size_t c = 0; c < width; ++c) to[c] = full_scale(from[c]);
    }
    samples.publish(m);
    course.pass(head + m - 1, input.rate);
    if (!started) begin.store(now, std::memory_order_relaxed);
    started = true;
    mark.store(course.mark, std::memory_order_release);
    taken += m;
    return m == n ? Status::ok : Status::queue_full;
  }

  /// Time of `sample` for the consumer, who asks in rising order.
  double time_of(std::uint64_t sample) noexcept {
    while (anchors.ready() > 0 && anchors.front()->index <= sample) {
      reading.anchor = *anchors.front();
      anchors.pop(1);
    }
    return reading.anchor.at(sample, input.rate);
  }

  /// How many of the samples that wait belong to one anchor and have a time up to `until`. The anchor is then
  /// `reading`.
  std::size_t due(double until) noexcept {
    std::size_t n = samples.ready();  // before the anchors: theirs are then seen
    const std::uint64_t first = samples.tail();
    if (n > 0 && anchors.ready() > 0 && anchors.front()->index == first) {
      reading.turn(*anchors.front());
      anchors.pop(1);
    }
    if (anchors.ready() > 0)
      n = static_cast<std::size_t>(std::min<std::uint64_t>(n, anchors.front()->index - first));
    return reading.count(first, n, until, input.rate);
  }
  /// Time of the next sample that waits; there must be one.
  double next_time() const noexcept {
    const std::uint64_t first = samples.tail();
    if (anchors.ready() == 0 || anchors.front()->index != first) return reading.at(first, input.rate);
    Course turned = reading;
    turned.turn(*anchors.front());
    return turned.at(first, input.rate);
  }

  Status reject(Status status) noexcept {
    rejected.add(1);
    return status;
  }

  void reset() noexcept {
    samples.clear();
    anchors.clear();
    started = alive = false;
    course = reading = {};
    last_time = 0;
    last = kNever;
    mark.store(kNever);
    begin.store(0);
    finished.store(false);
    for (Shared<std::uint64_t>* counter :
         {&refused, &rejected, &reanchors, &duplicates, &late, &silences, &overdue, &estimates})
      counter->store(0);
  }

  const InputSpec input;
  const double reanchor_s;
  const bool clocked, rows, growing;
  const std::size_t width;
  Ring<float> samples;
  Ring<Anchor> anchors;
  // Producer only.
  bool started = false;
  Course course;
  double last_time = 0;
  // Consumer only.
  Course reading;
  double last = kNever;  // time of the last sample computed
  bool alive = false;    // whether it counted at the last tick
  Shared<std::uint64_t> late{0}, silences{0}, overdue{0}, estimates{0};
  // Written by the producer, read by anyone.
  Shared<bool> finished{false};
  Shared<double> begin{0}, mark{kNever};
  Shared<std::uint64_t> refused{0}, rejected{0}, reanchors{0}, duplicates{0};
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
      return "a sample lies beyond +-1e6 (full scale is +-1), or a time beyond +-4e9 s";
    case Status::finished:
      return "push after finish; reset first";
    case Status::wrong_type:
      return "int16 samples are for audio; this input takes float";
  }
  return "unknown status";
}

namespace {

/// Queues, clocks and one run: what an engine is, and a full pass over a model with a clock.
struct Session {
  Session(std::shared_ptr<const Model> shared, const EngineOptions& options, bool growing)
      : model(std::move(shared)),
        run(model->graph()),
        clocked(model->graph().clocked),
        wait_s(options.wait_s.value_or(model->timing().silence_s)),
        silence_s(model->timing().silence_s),
        clock_hz(model->timing().clock_hz) {
    constexpr double most = 4.0 * (1u << 30);
    double bytes = 0;
    const auto room = [](double items) {  // what a Ring makes of it
      return static_cast<double>(std::bit_ceil(static_cast<std::size_t>(items) + 1));
    };
    for (const InputSpec& input : model->inputs()) {
      const double items = room(options.queue_s * input.rate);
      bytes += items * input.channels * sizeof(float);
      if (input.kind == "rows") bytes += items * sizeof(Anchor);
    }
    if (bytes > most)
      throw InvalidArgument("engine: queue_s of " + std::to_string(options.queue_s) + " s would take " +
                            std::to_string(bytes / (1 << 20)) + " MiB, more than 4096");
    // An input can be ahead of another by its queue and no more; beyond that nothing would ever be overdue.
    if (clocked && !growing && std::isfinite(wait_s))
      for (const InputSpec& input : model->inputs())
        if (wait_s + 2 / input.rate > options.queue_s)
          throw InvalidArgument(
              "engine: queue_s must be at least wait_s (by default the silence of the clock) and 2 samples "
              "of every input, " +
              std::to_string(wait_s + 2 / input.rate) + " s, got " + std::to_string(options.queue_s));
    channels.reserve(model->inputs().size());
    for (const InputSpec& input : model->inputs())
      channels.emplace_back(input, options, model->timing(), growing);
    run.set_adapting(options.adapting);
    // Without a clock no node joins inputs, so all outputs stem from the one that there is.
    if (!clocked) lead = model->graph().vertices[model->graph().output_vertex.front()].signal;
  }

  Channel* find(std::string_view modality) noexcept {
    for (Channel& channel : channels)
      if (channel.input.name == modality) return &channel;
    return nullptr;
  }

  template <class T>
  Status push(std::string_view modality, const T* x, std::size_t n, const double* time, std::size_t* taken) {
    std::size_t count = 0;
    Channel* channel = find(modality);
    const Status status =
        channel ? channel->push(x, n, time, count) : channels[lead].reject(Status::unknown_modality);
    if (taken) *taken = count;
    return status;
  }

  bool take(Estimate& estimate) noexcept {
    if (next == rows) return false;
    estimate.sample = run.sample(next);
    estimate.values = {run.values(next), model->columns().size()};
    estimate.valid = run.valid(next);
    if (clocked) {
      estimate.time = time_of(numbers[estimate.sample - batch]);
      estimate.present = {run.present(next), channels.size()};
      estimate.latency = std::max(0.0, newest - estimate.time);
      for (std::size_t i = 0; i < channels.size(); ++i) channels[i].estimates.add(estimate.present[i]);
    } else {
      Channel& from = channels[lead];
      estimate.time = from.time_of(estimate.sample);
      estimate.present = {};
      estimate.latency = static_cast<double>(pushed - 1 - estimate.sample) / from.input.rate;
      from.estimates.add(1);
    }
    estimate.confidence.reset();
    if (model->graph().confidence != 0) estimate.confidence = run.confidence(next);
    ++next;
    estimates.add(1);
    if (!estimate.valid) invalid.add(1);
    return true;
  }

  bool poll(Estimate& estimate) noexcept {
    for (;;) {
      if (take(estimate)) return true;
      rows = next = 0;
      if (!(clocked ? advance() : advance_lead())) return false;
    }
  }

  /// Runs a block of the one input; false: there is nothing to run.
  bool advance_lead() noexcept {
    Channel& from = channels[lead];
    // Read before the queue: what was pushed before finish() is then seen below.
    const bool finished = from.finished.load(std::memory_order_acquire);
    const std::size_t ready = from.samples.ready();
    pushed = from.samples.tail() + ready;
    if (ready == 0) {
      if (!finished || drained) return false;
      drained = true;
      rows = run.finish();
      return rows > 0;
    }
    const std::size_t n = std::min({ready, from.samples.contiguous(), model->graph().block});
    rows = run.process(lead, from.samples.front(), n);
    from.samples.pop(n);
    return true;
  }

  // With a clock ------------------------------------------------------------------------------------------

  double time_of(std::int64_t tick) const noexcept { return static_cast<double>(tick) / clock_hz; }
  /// The first tick that a sample of that time can count at.
  std::int64_t tick_from(double time) const noexcept {
    auto first = static_cast<std::int64_t>(std::ceil((time - kSlack) * clock_hz));
    while (time_of(first) + kSlack < time) ++first;
    while (time_of(first - 1) + kSlack >= time) --first;
    return first;
  }

  /// Runs what is due of up to kTicks ticks; false: no tick is.
  bool advance() noexcept {
    bool finished = true;
    double begin = std::numeric_limits<double>::infinity();
    newest = kNever;
    bool all = true;
    for (std::size_t i = 0; i < channels.size(); ++i) {
      // Before the mark, and the mark before the samples: all that these stand for is then seen.
      finished &= channels[i].finished.load(std::memory_order_acquire);
      marks[i] = channels[i].mark.load(std::memory_order_acquire);
      all &= marks[i] > kNever;
      newest = std::max(newest, marks[i]);
      if (marks[i] > kNever) begin = std::min(begin, channels[i].begin.now());
    }
    if (newest == kNever) return false;
    if (!running) {
      if (!all && !finished && !(newest > begin + wait_s)) return false;
      number = tick_from(begin);
      origin = begin;
      running = true;
    }
    std::size_t ticks = 0;
    while (ticks < Graph::kTicks) {
      const double time = time_of(number);
      bool due = time <= newest + kSlack, overdue = false;
      for (std::size_t i = 0; i < channels.size(); ++i) {
        consume(i, time + kSlack);
        if (marks[i] >= time - kSlack || finished) continue;
        due &= newest > std::max(marks[i], origin) + wait_s;
        overdue = true;
      }
      if (!due) break;
      std::array<bool, kMaxInputs> alive{};
      bool any = false;
      for (std::size_t i = 0; i < channels.size(); ++i) {
        Channel& from = channels[i];
        alive[i] = time - from.last <= silence_s + kSlack;
        any |= alive[i];
        if (from.alive && !alive[i]) {
          from.silences.add(1);
          run.lapse(i);
        }
        from.alive = alive[i];
        if (overdue && !finished && marks[i] < time - kSlack) from.overdue.add(1);
      }
      if (!any) {
        if (!skip()) break;
        continue;
      }
      overdues.add(overdue ? 1 : 0);
      if (ticks == 0) batch = given;
      numbers[ticks++] = number++;
      ++given;
      ticked = true;
      run.tick(alive.data());
    }
    if (ticks == 0) return false;
    rows = run.estimate();
    return true;
  }

  /// Nothing is alive: on to the tick of the next sample of any input; false: none waits.
  bool skip() noexcept {
    double sample = std::numeric_limits<double>::infinity();
    for (const Channel& from : channels)
      if (from.samples.ready() > 0) sample = std::min(sample, from.next_time());
    if (!std::isfinite(sample)) return false;
    number = std::max(number + 1, tick_from(sample));
    return true;
  }

  /// Runs the samples of input `i` that wait and have a time up to `until`.
  void consume(std::size_t i, double until) noexcept {
    Channel& from = channels[i];
    const double passed = ticked ? time_of(number - 1) + kSlack : kNever;
    for (std::size_t n; (n = from.due(until)) > 0;) {
      const std::uint64_t first = from.samples.tail();
      if (from.reading.at(first, from.input.rate) - from.last > silence_s + kSlack) run.lapse(i);
      from.late.add(from.reading.count(first, n, passed, from.input.rate));
      from.reading.pass(first + n - 1, from.input.rate);
      from.last = from.reading.at(first + n - 1, from.input.rate);
      while (n > 0) {
        const std::size_t m = std::min({n, from.samples.contiguous(), model->graph().block});
        run.feed(i, from.samples.front(), m);
        from.samples.pop(m);
        n -= m;
      }
    }
  }

  void finish() noexcept {
    for (Channel& channel : channels) channel.finished.store(true, std::memory_order_release);
  }

  void reset() noexcept {
    for (Channel& channel : channels) channel.reset();
    run.reset();
    rows = next = 0;
    drained = running = ticked = false;
    given = batch = pushed = 0;
    for (Shared<std::uint64_t>* counter : {&estimates, &invalid, &overdues}) counter->store(0);
  }

  static Counters counters(const Channel& c) noexcept {
    return {c.samples.head(),   c.refused.now(), c.rejected.now(), c.reanchors.now(), c.estimates.now(), 0,
            c.duplicates.now(), c.late.now(),    c.silences.now(), c.overdue.now()};
  }
  Counters counters() const noexcept {
    Counters sum;
    for (const Channel& channel : channels) {
      const Counters c = counters(channel);
      sum.taken += c.taken;
      sum.refused += c.refused;
      sum.rejected += c.rejected;
      sum.reanchors += c.reanchors;
      sum.duplicates += c.duplicates;
      sum.late += c.late;
      sum.silences += c.silences;
    }
    sum.estimates = estimates.now();
    sum.invalid = invalid.now();
    sum.overdue = overdues.now();
    return sum;
  }
  Counters counters(std::string_view modality) const noexcept {
    for (const Channel& channel : channels)
      if (channel.input.name == modality) return counters(channel);
    return {};
  }

  std::shared_ptr<const Model> model;
  GraphRun run;
  std::vector<Channel> channels;
  const bool clocked;
  const double wait_s, silence_s, clock_hz;
  std::size_t lead = 0;
  std::size_t rows = 0, next = 0;  // estimates of the last block, and the next to hand out
  bool drained = false;
  std::uint64_t pushed = 0;  // samples that were there when the last block was computed
  // With a clock: the next tick as a multiple of its period; ticks given; those of the last block.
  bool running = false, ticked = false;
  std::int64_t number = 0;
  std::uint64_t given = 0, batch = 0;
  std::array<std::int64_t, Graph::kTicks> numbers{};
  std::array<double, kMaxInputs> marks{};
  double newest = kNever, origin = 0;
  Shared<std::uint64_t> estimates{0}, invalid{0}, overdues{0};
};

}  // namespace

struct Engine::Impl {
  Session session;
};
struct Snapshot::Impl {
  Session session;
};

Snapshot::Snapshot() = default;
Snapshot::Snapshot(const Snapshot& other)
    : impl_(other.impl_ ? std::make_unique<Impl>(*other.impl_) : nullptr) {}
Snapshot::Snapshot(Snapshot&&) noexcept = default;
Snapshot& Snapshot::operator=(Snapshot other) noexcept {
  impl_.swap(other.impl_);
  return *this;
}
Snapshot::~Snapshot() = default;

namespace {

EngineOptions checked(const EngineOptions& options) {
  if (!(options.queue_s > 0 && options.queue_s <= 3600))
    throw InvalidArgument("engine: queue_s must be in (0, 3600] seconds, got " +
                          std::to_string(options.queue_s));
  if (!(options.reanchor_s > 0 && options.reanchor_s <= 1e9))
    throw InvalidArgument("engine: reanchor_s must be in (0, 1e9] seconds, got " +
                          std::to_string(options.reanchor_s));
  if (options.wait_s && !(*options.wait_s >= 0))
    throw InvalidArgument("engine: wait_s must be a number of seconds not below 0, got " +
                          std::to_string(*options.wait_s));
  return options;
}

const std::shared_ptr<const Model>& present(const std::shared_ptr<const Model>& model) {
  if (!model) throw InvalidArgument("model: expected a model, got null");
  return model;
}

}  // namespace

Engine::Engine(const std::string& path, const EngineOptions& options) : Engine(Model::load(path), options) {}
Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : impl_(new Impl{Session(present(model), checked(options), false)}) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;

Status Engine::push(std::string_view modality, const float* samples, std::size_t n, double time,
                    std::size_t* taken) noexcept {
  return impl_->session.push(modality, samples, n, &time, taken);
}
Status Engine::push(std::string_view modality, const std::int16_t* samples, std::size_t n, double time,
                    std::size_t* taken) noexcept {
  return impl_->session.push(modality, samples, n, &time, taken);
}
Status Engine::push(std::string_view modality, const float* samples, std::size_t n,
                    std::size_t* taken) noexcept {
  return impl_->session.push(modality, samples, n, nullptr, taken);
}
Status Engine::push(std::string_view modality, const std::int16_t* samples, std::size_t n,
                    std::size_t* taken) noexcept {
  return impl_->session.push(modality, samples, n, nullptr, taken);
}

bool Engine::poll(Estimate& estimate) noexcept { return impl_->session.poll(estimate); }
void Engine::finish() noexcept { impl_->session.finish(); }
void Engine::reset() noexcept { impl_->session.reset(); }

Snapshot Engine::snapshot() const {
  Snapshot snapshot;
  snapshot.impl_ = std::unique_ptr<Snapshot::Impl>(new Snapshot::Impl{impl_->session});
  return snapshot;
}
void Engine::restore(const Snapshot& snapshot) {
  if (!snapshot.impl_ || snapshot.impl_->session.model->hash() != model().hash())
    throw InvalidArgument("snapshot: it is not of an engine over this model");
  impl_ = std::unique_ptr<Impl>(new Impl{snapshot.impl_->session});
}

std::vector<Adaptation> Engine::adaptation() const { return impl_->session.run.adaptation(); }
void Engine::adapt(std::span<const Adaptation> profile) { impl_->session.run.adapt(profile); }
void Engine::set_adapting(bool adapting) noexcept { impl_->session.run.set_adapting(adapting); }

double Engine::latency() const noexcept {
  const Timing& timing = model().timing();
  if (timing.clock_hz > 0) return timing.lookahead_s + timing.hop_s + timing.reach_s;
  return timing.lookahead_s + std::max(timing.first_estimate_s, timing.hop_s);
}

Counters Engine::counters() const noexcept { return impl_->session.counters(); }
Counters Engine::counters(std::string_view modality) const noexcept {
  return impl_->session.counters(modality);
}
const Model& Engine::model() const noexcept { return *impl_->session.model; }

struct FullPass::Impl {
  Impl(std::shared_ptr<const Model> shared, bool adapting) : model(std::move(shared)) {
    if (model->graph().clocked) {
      EngineOptions options;
      options.queue_s = 1e-3;  // they grow
      options.adapting = adapting;
      options.wait_s = std::numeric_limits<double>::infinity();
      joined.emplace(model, options, true);
    } else {
      alone.emplace(model->graph());
      alone->set_adapting(adapting);
      scaled.resize(model->graph().block * static_cast<std::size_t>(model->inputs().front().channels));
    }
  }

  GraphRun& run() noexcept { return joined ? joined->run : *alone; }

  void append(std::size_t rows, std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid) {
    const std::size_t columns = model->columns().size();
    for (std::size_t i = 0; i < rows; ++i) {
      times.push_back(Anchor{}.at(alone->sample(i), model->inputs().front().rate));
      values.insert(values.end(), alone->values(i), alone->values(i) + columns);
      if (valid) valid->push_back(alone->valid(i));
    }
  }
  void append_joined(std::vector<double>& times, std::vector<float>& values,
                     std::vector<std::uint8_t>* valid) {
    Estimate estimate;
    while (joined->poll(estimate)) {
      times.push_back(estimate.time);
      values.insert(values.end(), estimate.values.begin(), estimate.values.end());
      if (valid) valid->push_back(estimate.valid);
    }
  }

  template <class T>
  Status push(std::string_view modality, const T* x, std::size_t n, std::optional<double> time) {
    if (!joined) return Status::unknown_modality;
    Channel* const channel = joined->find(modality);
    if (channel && !finished)  // all or nothing
      if (const Status status = check_samples(x, x ? n * channel->width : 0); status != Status::ok)
        return channel->reject(status);
    std::size_t taken = 0;
    return joined->push(modality, x, n, time ? &*time : nullptr, &taken);
  }

  template <class T>
  Status feed(const T* x, std::size_t n, std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid) {
    if (finished) return Status::finished;
    if (joined) {
      const Status status = push(model->inputs().front().name, x, n, {});
      if (status == Status::ok) append_joined(times, values, valid);
      return status;
    }
    const std::size_t width = static_cast<std::size_t>(model->inputs().front().channels);
    if (std::is_same_v<T, std::int16_t> && model->inputs().front().kind != "audio") return Status::wrong_type;
    if (const Status status = check_samples(x, n * width); status != Status::ok) return status;
    for (std::size_t at = 0; at < n;) {
      const std::size_t m = std::min(n - at, model->graph().block);
      const float* block;
      if constexpr (std::is_same_v<T, float>) {
        block = x + at * width;
      } else {
        for (std::size_t i = 0; i < m * width; ++i) scaled[i] = full_scale(x[at * width + i]);
        block = scaled.data();
      }
      append(alone->process(0, block, m), times, values, valid);
      at += m;
    }
    return Status::ok;
  }

  void finish() noexcept {
    finished = true;
    if (joined) joined->finish();
  }

  std::shared_ptr<const Model> model;
  std::optional<Session> joined;  // with a clock
  std::optional<GraphRun> alone;  // without
  std::vector<float> scaled;
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
Status FullPass::push(std::string_view modality, const float* samples, std::size_t n,
                      std::optional<double> time) {
  return impl_->push(modality, samples, n, time);
}
Status FullPass::push(std::string_view modality, const std::int16_t* samples, std::size_t n,
                      std::optional<double> time) {
  return impl_->push(modality, samples, n, time);
}
bool FullPass::poll(Estimate& estimate) { return impl_->joined && impl_->joined->poll(estimate); }
void FullPass::finish() { impl_->finish(); }
void FullPass::finish(std::vector<double>& times, std::vector<float>& values,
                      std::vector<std::uint8_t>* valid) {
  if (impl_->finished) return;
  impl_->finish();
  if (impl_->joined) {
    impl_->append_joined(times, values, valid);
  } else {
    impl_->append(impl_->alone->finish(), times, values, valid);
  }
}
std::vector<Adaptation> FullPass::adaptation() const { return impl_->run().adaptation(); }
void FullPass::adapt(std::span<const Adaptation> profile) { impl_->run().adapt(profile); }
void FullPass::set_adapting(bool adapting) noexcept { impl_->run().set_adapting(adapting); }
void FullPass::reset() noexcept {
  if (impl_->joined) {
    impl_->joined->reset();
  } else {
    impl_->alone->reset();
  }
  impl_->finished = false;
}
Counters FullPass::counters() const noexcept {
  return impl_->joined ? impl_->joined->counters() : Counters{};
}
Counters FullPass::counters(std::string_view modality) const noexcept {
  return impl_->joined ? impl_->joined->counters(modality) : Counters{};
}
const Model& FullPass::model() const noexcept { return *impl_->model; }

}  // namespace affekt
