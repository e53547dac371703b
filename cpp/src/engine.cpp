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
  const T* front() const noexcept { return at(tail_.now()); }
  /// The item at `position`, and how many from there on lie side by side.
  const T* at(std::uint64_t position) const noexcept { return &items_[(position & mask_) * width_]; }
  std::size_t contiguous(std::uint64_t position) const noexcept {
    return mask_ + 1 - static_cast<std::size_t>(position & mask_);
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

/// From sample `index` on, time = time + (sample - index) / rate * stretch.
struct Anchor {
  std::uint64_t index = 0;
  double time = 0, stretch = 1;
  double at(std::uint64_t sample, double rate) const noexcept {
    return time + (static_cast<double>(sample) - static_cast<double>(index)) / rate * stretch;
  }
};

/// Offset and drift of an input's clock: recursive least squares of the stamps against the sample count, in
/// which a stamp's weight halves every `half_life` seconds of signal.
class Regression {
 public:
  Regression(double rate, double half_life) : rate_(rate), half_life_(half_life) {}

  /// Counts anew from `stamp`; what is known of the drift stays.
  void start(std::uint64_t index, double stamp) noexcept {
    if (n_ > 0) {
      known_uu_ += uu_ - u_ * u_ / n_;
      known_uv_ += uv_ - u_ * v_ / n_;
    }
    base_ = {index, stamp};
    last_ = index;
    n_ = 1;
    u_ = v_ = uu_ = uv_ = 0;
  }
  void add(std::uint64_t index, double stamp) noexcept {
    const double step = static_cast<double>(index - last_) / rate_;
    uu_ += step * (step * n_ - 2 * u_);
    uv_ -= step * v_;
    u_ -= step * n_;
    const double decay = std::exp2(-step / half_life_);
    for (double* sum : {&n_, &u_, &v_, &uu_, &uv_, &known_uu_, &known_uv_}) *sum *= decay;
    n_ += 1;
    v_ += stamp - base_.at(index, rate_);
    last_ = index;
  }
  /// From the last stamp on.
  Anchor line() const noexcept {
    const double uu = uu_ + known_uu_ + kStiff, uv = uv_ + known_uv_;
    const double drift = std::clamp((n_ * uv - u_ * v_) / (n_ * uu - u_ * u_), -kMaxDrift, kMaxDrift);
    return {last_, base_.at(last_, rate_) + (v_ - drift * u_) / n_, 1 + drift};
  }
  void reset() noexcept { *this = Regression(rate_, half_life_); }

 private:
  /// Before any stamp the drift is 0 with a deviation of 1e-4, for stamps with one of 10 ms: s^2.
  static constexpr double kStiff = (1e-2 / 1e-4) * (1e-2 / 1e-4);
  static constexpr double kMaxDrift = 0.01;
  double rate_, half_life_;
  Anchor base_;
  std::uint64_t last_ = 0;
  // Weighted sums over the stamps since start(): u seconds of signal from the last one (so not above 0), v
  // seconds after the count from base_. From before: what they said of the drift.
  double n_ = 0, u_ = 0, v_ = 0, uu_ = 0, uv_ = 0, known_uu_ = 0, known_uv_ = 0;
};
/// Least distance of two anchors that a regression lays, seconds of signal: they are kept in a queue.
constexpr double kGrain = 0.05;

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
    const double guess = std::floor((until - anchor.at(first, rate)) * rate / anchor.stretch) + 1;
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
        dejitter(options.dejitter_s && !rows),
        width(static_cast<std::size_t>(spec.channels)),
        grain(std::max<std::uint64_t>(1, static_cast<std::uint64_t>(kGrain * spec.rate))),
        samples(
            std::max<std::size_t>(1, static_cast<std::size_t>(std::llround(*options.queue_s * spec.rate))),
            width),
        anchors(rows ? std::max<std::size_t>(64, static_cast<std::size_t>(*options.queue_s * spec.rate) + 1)
                : dejitter ? 64 + samples.free() / grain + 1
                           : 64),
        regression(spec.rate, options.dejitter_s.value_or(1.0)) {}

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
    // Once: a poll meanwhile makes room for samples that the first look has not seen.
    const std::size_t room = growing ? n : samples.free();
    if (rows && time && started && std::abs(*time - course.anchor.at(head - 1, input.rate)) <= kSlack) {
      if (const Status status = check_samples(x, std::min(n, 1 + room) * width); status != Status::ok)
        return reject(status);
      duplicates.add(1);
      x += width;
      time = nullptr;
      taken = 1;
      if (--n == 0) return Status::ok;
    }

    const double now = time ? *time : expected;
    const bool moved = started && std::abs(now - expected) > reanchor_s;
    const bool anew = !started || moved;
    bool move = anew || (rows && now != expected);
    Anchor next{head, now};
    Regression fitted = regression;  // as it will be if a sample is taken
    if (dejitter && (anew || time)) {
      anew ? fitted.start(head, now) : fitted.add(head, now);
      next = fitted.line();
      move |= head - course.anchor.index >= grain;
    }
    if (growing) {
      samples.grow(n);
      anchors.grow(1);
    }
    std::size_t m = std::min(n, room);
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
      course.turn(next);
      *anchors.slot(0) = course.anchor;
      anchors.publish(1);
      if (moved) reanchors.add(1);
    }
    if (dejitter && (anew ? move : time != nullptr)) {  // a move that found no room is yet to come
      regression = fitted;
      if (!anew) dejittered.add(1);
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
    regression.reset();
    last_time = 0;
    fed = 0;
    last = kNever;
    mark.store(kNever);
    begin.store(0);
    finished.store(false);
    for (Shared<std::uint64_t>* counter :
         {&refused, &rejected, &reanchors, &dejittered, &duplicates, &late, &silences, &overdue, &estimates})
      counter->store(0);
  }

  const InputSpec input;
  const double reanchor_s;
  const bool clocked, rows, growing, dejitter;
  const std::size_t width;
  const std::uint64_t grain;  // samples
  Ring<float> samples;
  Ring<Anchor> anchors;
  // Producer only.
  bool started = false;
  Course course;
  Regression regression;
  double last_time = 0;
  // Consumer only.
  Course reading;
  std::uint64_t fed = 0;  // samples whose rows are computed; not below the queue's tail
  double last = kNever;   // time of the last sample computed
  bool alive = false;     // whether it counted at the last tick
  Shared<std::uint64_t> late{0}, silences{0}, overdue{0}, estimates{0};
  // Written by the producer, read by anyone.
  Shared<bool> finished{false};
  Shared<double> begin{0}, mark{kNever};
  Shared<std::uint64_t> refused{0}, rejected{0}, reanchors{0}, dejittered{0}, duplicates{0};
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
      const double items = room(*options.queue_s * input.rate);
      bytes += items * input.channels * sizeof(float);
      if (input.kind == "rows") bytes += items * sizeof(Anchor);
    }
    if (bytes > most)
      throw InvalidArgument("engine: queue_s of " + std::to_string(*options.queue_s) + " s would take " +
                            std::to_string(bytes / (1 << 20)) + " MiB, more than 4096");
    // An input can be ahead of another by its queue and no more; beyond that nothing would ever be overdue.
    if (clocked && !growing && std::isfinite(wait_s))
      for (const InputSpec& input : model->inputs())
        if (wait_s + 2 / input.rate > *options.queue_s)
          throw InvalidArgument(
              "engine: queue_s must be at least wait_s (by default the silence of the clock) and 2 samples "
              "of every input, " +
              std::to_string(wait_s + 2 / input.rate) + " s, got " + std::to_string(*options.queue_s));
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
      GraphRun::Portion portion;
      switch (prepare(portion)) {
        case Due::nothing:
          return false;
        case Due::given:
          break;
        case Due::portion:
          portion.estimates = clocked ? run.estimate() : run.process(lead, portion.samples, portion.n);
          settle(portion);
      }
    }
  }

  /// What there is for the run to do: nothing, `portion`, or something that came of finish() and is done.
  enum class Due { nothing, portion, given };
  Due prepare(GraphRun::Portion& portion) noexcept {
    rows = next = 0;
    portion = {&run, lead};
    if (!clocked) return prepare_lead(portion);
    return advance() ? Due::portion : Due::nothing;
  }
  /// After `portion` was run.
  void settle(const GraphRun::Portion& portion) noexcept {
    rows = portion.estimates;
    if (!clocked) channels[lead].samples.pop(portion.n);
  }

  Due prepare_lead(GraphRun::Portion& portion) noexcept {
    Channel& from = channels[lead];
    // Read before the queue: what was pushed before finish() is then seen below.
    const bool finished = from.finished.load(std::memory_order_acquire);
    const std::size_t ready = from.samples.ready();
    pushed = from.samples.tail() + ready;
    if (ready == 0) {
      if (!finished || drained) return Due::nothing;
      drained = true;
      rows = run.finish();
      return rows > 0 ? Due::given : Due::nothing;
    }
    portion.n = std::min({ready, from.samples.contiguous(from.samples.tail()), model->graph().block});
    portion.samples = from.samples.front();
    return Due::portion;
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

  /// Lays what is due of up to kTicks ticks, the samples up to them run; false: no tick is.
  bool advance() noexcept {
    double begin = std::numeric_limits<double>::infinity();
    newest = kNever;
    bool all = true;
    for (std::size_t i = 0; i < channels.size(); ++i) {
      // Before the mark, and the mark before the samples: all that these stand for is then seen.
      ended[i] = channels[i].finished.load(std::memory_order_acquire);
      marks[i] = channels[i].mark.load(std::memory_order_acquire);
      all &= ended[i] || marks[i] > kNever;
      newest = std::max(newest, marks[i]);
      if (marks[i] > kNever) begin = std::min(begin, channels[i].begin.now());
    }
    if (newest == kNever) return false;
    if (!running) {
      if (!all && !(newest > begin + wait_s)) return false;
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
        if (ended[i] || marks[i] >= time - kSlack) continue;
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
        if (!ended[i] && marks[i] < time - kSlack) from.overdue.add(1);
      }
      if (!any) {
        if (!skip()) break;
        continue;
      }
      overdues.add(overdue ? 1 : 0);
      if (ticks == 0) batch = given;
      numbers[ticks++] = number++;
      ++given;
      run.tick(alive.data());
    }
    return ticks > 0;
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
    const double passed = time_of(number - 1) + kSlack;  // before the first tick: it would be an earlier one
    for (std::size_t n; (n = from.due(until)) > 0;) {
      const std::uint64_t first = from.samples.tail();
      if (from.reading.at(first, from.input.rate) - from.last > silence_s + kSlack) run.lapse(i);
      from.late.add(from.reading.count(first, n, passed, from.input.rate));
      from.reading.pass(first + n - 1, from.input.rate);
      from.last = from.reading.at(first + n - 1, from.input.rate);
      while (n > 0) {
        const std::uint64_t tail = from.samples.tail();
        if (from.fed == tail) {
          // Rows do not depend on the ticks: where all samples are there, blocks run ahead of them.
          const std::size_t m = from.growing ? from.samples.ready() : n;
          from.fed += std::min({m, from.samples.contiguous(tail), model->graph().block});
          run.feed(i, from.samples.at(tail), static_cast<std::size_t>(from.fed - tail));
        }
        const std::size_t m = std::min(n, static_cast<std::size_t>(from.fed - tail));
        run.pass(i, tail + m, from.samples.at(tail + m - 1));
        from.samples.pop(m);
        n -= m;
      }
    }
  }

  void finish() noexcept {
    for (Channel& channel : channels) channel.finished.store(true, std::memory_order_release);
  }
  Status finish(std::string_view modality) noexcept {
    Channel* channel = find(modality);
    if (!channel) return channels[lead].reject(Status::unknown_modality);
    channel->finished.store(true, std::memory_order_release);
    return Status::ok;
  }

  void reset() noexcept {
    for (Channel& channel : channels) channel.reset();
    run.reset();
    rows = next = 0;
    drained = running = false;
    given = batch = pushed = 0;
    for (Shared<std::uint64_t>* counter : {&estimates, &invalid, &overdues}) counter->store(0);
  }

  static Counters counters(const Channel& c) noexcept {
    return {c.samples.head(),   c.refused.now(), c.rejected.now(), c.reanchors.now(), c.estimates.now(), 0,
            c.duplicates.now(), c.late.now(),    c.silences.now(), c.overdue.now(),   c.dejittered.now()};
  }
  Counters counters() const noexcept {
    Counters sum;
    for (const Channel& channel : channels) {
      const Counters c = counters(channel);
      sum.taken += c.taken;
      sum.refused += c.refused;
      sum.rejected += c.rejected;
      sum.reanchors += c.reanchors;
      sum.dejittered += c.dejittered;
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
  bool running = false;
  std::int64_t number = 0;
  std::uint64_t given = 0, batch = 0;
  std::array<std::int64_t, Graph::kTicks> numbers{};
  std::array<double, kMaxInputs> marks{};
  std::array<bool, kMaxInputs> ended{};
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

EngineOptions checked(EngineOptions options, const Model& model) {
  if (options.wait_s && !(*options.wait_s >= 0))
    throw InvalidArgument("engine: wait_s must be a number of seconds not below 0, got " +
                          std::to_string(*options.wait_s));
  const Timing& timing = model.timing();
  // Where estimates wait for the input that is behind, the others' queues hold that much and a second.
  const double wait = options.wait_s.value_or(timing.silence_s);
  const bool waits = timing.clock_hz > 0 && std::isfinite(wait);
  double spare = 1;
  for (const InputSpec& input : model.inputs()) spare = std::max(spare, 2 / input.rate);
  if (!options.queue_s) options.queue_s = waits ? std::min(wait + spare, 3600.0) : 10.0;
  if (!(*options.queue_s > 0 && *options.queue_s <= 3600))
    throw InvalidArgument("engine: queue_s must be in (0, 3600] seconds, got " +
                          std::to_string(*options.queue_s));
  if (options.dejitter_s && !(*options.dejitter_s >= 1 && *options.dejitter_s <= 1e6))
    throw InvalidArgument("engine: dejitter_s must be in [1, 1e6] seconds, got " +
                          std::to_string(*options.dejitter_s));
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
    : impl_(new Impl{Session(present(model), checked(options, *present(model)), false)}) {}
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
Status Engine::finish(std::string_view modality) noexcept { return impl_->session.finish(modality); }
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

struct EnginePool::Impl {
  std::shared_ptr<const Model> model;
  EngineOptions options;
  std::vector<std::unique_ptr<Engine>> engines;
  GraphRun::Lanes lanes;
  std::vector<GraphRun::Portion> portions;  // of the sessions in `busy`
  std::vector<Session*> busy;
  std::size_t next = 0;  // session whose estimates are handed out
};

EnginePool::EnginePool(const std::string& path, std::size_t sessions, const EngineOptions& options)
    : EnginePool(Model::load(path), sessions, options) {}
EnginePool::EnginePool(std::shared_ptr<const Model> model, std::size_t sessions, const EngineOptions& options)
    : impl_(new Impl{present(model), checked(options, *present(model)), {}, {}, {}, {}}) {
  while (impl_->engines.size() < sessions) add();
}
EnginePool::~EnginePool() = default;
EnginePool::EnginePool(EnginePool&&) noexcept = default;
EnginePool& EnginePool::operator=(EnginePool&&) noexcept = default;

std::size_t EnginePool::add() {
  Impl& p = *impl_;
  const std::size_t sessions = p.engines.size() + 1;
  auto engine = std::make_unique<Engine>(p.model, p.options);
  p.lanes.grow(sessions);
  p.portions.resize(std::max(p.portions.size(), sessions));
  p.busy.resize(std::max(p.busy.size(), sessions));
  p.engines.push_back(std::move(engine));
  return sessions - 1;
}

bool EnginePool::poll(std::size_t& session, Estimate& estimate) noexcept {
  Impl& p = *impl_;
  for (;;) {
    for (; p.next < p.engines.size(); ++p.next) {
      if (!p.engines[p.next]->impl_->session.take(estimate)) continue;
      session = p.next;
      return true;
    }
    p.next = 0;
    std::size_t busy = 0;
    bool due = false;
    for (const std::unique_ptr<Engine>& engine : p.engines) {
      Session& s = engine->impl_->session;
      if (s.next != s.rows) {  // polled by itself meanwhile: those come first
        due = true;
        continue;
      }
      const Session::Due found = s.prepare(p.portions[busy]);
      due |= found != Session::Due::nothing;
      if (found == Session::Due::portion) p.busy[busy++] = &s;
    }
    if (!due) return false;
    GraphRun::run_many({p.portions.data(), busy}, p.lanes);
    for (std::size_t i = 0; i < busy; ++i) p.busy[i]->settle(p.portions[i]);
  }
}

std::size_t EnginePool::size() const noexcept { return impl_->engines.size(); }
Engine& EnginePool::operator[](std::size_t session) noexcept { return *impl_->engines[session]; }
const Model& EnginePool::model() const noexcept { return *impl_->model; }

struct FullPass::Impl {
  Impl(std::shared_ptr<const Model> shared, bool adapting, std::optional<double> dejitter_s)
      : model(std::move(shared)) {
    if (model->graph().clocked) {
      EngineOptions options;
      options.queue_s = 1e-3;  // they grow
      options.adapting = adapting;
      options.wait_s = std::numeric_limits<double>::infinity();
      options.dejitter_s = dejitter_s;
      joined.emplace(model, checked(options, *model), true);
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

FullPass::FullPass(std::shared_ptr<const Model> model, bool adapting, std::optional<double> dejitter_s)
    : impl_(std::make_unique<Impl>(present(model), adapting, dejitter_s)) {}
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
