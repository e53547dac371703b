// Running a model: live (Engine) or over a whole recording in bounded memory (FullPass), with the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/export.hpp"
#include "affekt/model.hpp"

namespace affekt {

/// What a call on the hot path did.
enum class Status {
  ok,
  queue_full,        ///< not everything was taken; poll, then push the rest
  unknown_modality,  ///< the model has no input of that name
  time_backwards,    ///< the time is smaller than the previous push's time; nothing was taken
  not_finite,        ///< a NaN or infinite sample or time; nothing was taken
  out_of_range,      ///< a sample beyond +-1e6, where full scale is +-1; nothing was taken
  finished,          ///< push after finish; nothing was taken
  wrong_type,        ///< int16 for an input that is no audio; nothing was taken
};

/// A sentence for people.
AFFEKT_API const char* message(Status status) noexcept;

struct Estimate {
  /// Of the last sample that it used, in the pushes' clock, seconds; of its tick, for a model with a clock.
  double time = 0;
  std::uint64_t sample = 0;       ///< index of that sample, or of the tick, since construction or reset
  std::span<const float> values;  ///< in the order of Model::columns(); valid until the next poll or reset
  /// False where the model's card says that there was nothing to judge (no speech), and when a value is not
  /// finite (weights or signal out of all proportion), or no input was there.
  bool valid = true;
  /// For a model with a clock, per input in the order of Model::inputs(), whether the estimate rests on it;
  /// else empty. As long valid as `values`.
  std::span<const std::uint8_t> present;
  std::optional<float> confidence;  ///< in [0, 1], where the model's card defines one
  double latency = 0;  ///< seconds from its time to the newest sample of any input when it was computed
};

struct EngineOptions {
  /// Samples that may wait between push and poll, in seconds, (0, 3600]; none: 10, or for a model with a
  /// clock and a finite `wait_s`, that and 1 s or 2 samples of the slowest input, whichever is longer.
  std::optional<double> queue_s = {};
  double reanchor_s = 0.1;  ///< disagreement between time stamps and sample count that moves the clock
  bool adapting = true;     ///< whether the model goes on learning how its speaker sounds, if it can
  /// For a model with a clock: how far the other inputs may be ahead, in seconds, before an estimate is given
  /// without an input that has not come to its time; none: the silence of the model's clock. Infinity waits
  /// for every input until finish(). Otherwise `queue_s` must hold as much and 2 samples of every input.
  std::optional<double> wait_s = {};
  /// Half-life, in seconds of signal, [1, 1e6], of the regression that takes jitter out of the time stamps
  /// and follows the drift of an input's clock; none: samples are counted at the nominal rate from anchor to
  /// anchor. For stamps taken when data arrive; `reanchor_s` must then be above their jitter. Not for rows.
  std::optional<double> dejitter_s = {};
};

/// What a node of type `adapt` knows of a speaker: mean and variance (1/N) of the rows that it counted, one
/// value per feature. The estimates of a model that has one come from rows normalised by these, pooled with
/// the training population's (docs/model_file.md).
struct Adaptation {
  std::string node;  ///< its name in the card
  double count = 0;  ///< rows, less what was forgotten; with 0 the others mean nothing
  std::vector<double> mean, variance;
};

/// Since construction or reset.
struct Counters {
  std::uint64_t taken = 0;      ///< samples taken
  std::uint64_t refused = 0;    ///< samples not taken because the queue was full
  std::uint64_t rejected = 0;   ///< pushes refused for their content, time or modality
  std::uint64_t reanchors = 0;  ///< times the clock moved because of a gap or an overlap
  std::uint64_t estimates = 0;  ///< of one input: those that rest on it
  std::uint64_t invalid = 0;    ///< estimates with `valid == false`
  // With a clock:
  std::uint64_t duplicates = 0;  ///< rows left out because they have the time of the row before
  std::uint64_t late = 0;        ///< samples that came after the tick of their time
  std::uint64_t silences = 0;    ///< times that an input fell silent and was masked
  std::uint64_t overdue = 0;     ///< ticks that were not waited for; of one input: because of it
  std::uint64_t dejittered = 0;  ///< stamps that went into the regression (EngineOptions::dejitter_s)
};

class Engine;

/// An engine as it was at one moment: states, queues, clocks, counters and options. Goes into any engine.
class AFFEKT_API Snapshot {
 public:
  Snapshot(const Snapshot&);
  Snapshot(Snapshot&&) noexcept;
  Snapshot& operator=(Snapshot) noexcept;
  ~Snapshot();

 private:
  friend class Engine;
  Snapshot();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A live session: push samples as they come, poll estimates as they become due. No thread of its own, no
/// lock, nothing allocated after construction, no exception after construction.
///
/// Threads: push each input from one thread, poll from one thread (one of these or another); finish, reset,
/// snapshot and restore while no other call runs, but for finish of a model with one input, which may come
/// from the thread that pushes it. counters and latency from any thread, but not during restore.
///
/// Time: the first push sets the clock. From there sample counting rules, at the model's rate (with
/// `dejitter_s` at the rate and offset that the stamps themselves tell); a push whose time differs from the
/// count by more than `reanchor_s` moves the clock for its samples and all later ones (the signal itself is
/// taken as contiguous) and is counted. At most 64 moves wait for the estimates that pass them; a move beyond
/// those is made by the first later push that finds room and still differs. Times that pushes name may not
/// decrease; those of estimates step back where the clock moves back (an overlap).
///
/// For any chunking of the pushes the values equal those of FullPass on the same samples, bit for bit; for a
/// model that adapts, from the same adaptation.
///
/// A model with a clock (docs/model_file.md) gives its estimates at multiples of the clock's period, each
/// from the newest rows of its inputs at or before that time. It is due when every input has come to that
/// time or is finished, or when one that has not is more than `wait_s` behind the one that is furthest.
/// As long as no sample comes late (Counters::late), results equal those of FullPass on the same samples and
/// times, whatever the order in which the inputs are pushed.
class AFFEKT_API Engine {
 public:
  /// Throws ModelFileError, or InvalidArgument for the options.
  explicit Engine(const std::string& path, const EngineOptions& options = {});
  explicit Engine(std::shared_ptr<const Model> model, const EngineOptions& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  /// Queues `n` samples of `modality`, the first of them at `time`; `taken` says how many fitted. Samples
  /// beyond those are not looked at. A sample is InputSpec::channels values, side by side.
  Status push(std::string_view modality, const float* samples, std::size_t n, double time,
              std::size_t* taken = nullptr) noexcept;
  /// 16-bit PCM, taken as x / 32768.
  Status push(std::string_view modality, const std::int16_t* samples, std::size_t n, double time,
              std::size_t* taken = nullptr) noexcept;
  /// Continues where the last push ended (or at 0 s).
  Status push(std::string_view modality, const float* samples, std::size_t n,
              std::size_t* taken = nullptr) noexcept;
  Status push(std::string_view modality, const std::int16_t* samples, std::size_t n,
              std::size_t* taken = nullptr) noexcept;

  /// Computes until the next estimate is due or the queue is empty; whether there is one. After finish() the
  /// last call that returns true may carry an estimate over what came since the last regular one.
  bool poll(Estimate& estimate) noexcept;
  /// No more samples will come.
  void finish() noexcept;
  /// No more samples of `modality` will come: estimates do not wait for it any more. It falls silent as any
  /// input does; from the thread that pushes it.
  Status finish(std::string_view modality) noexcept;
  /// Back to the state after construction, counters included; a model that adapts, to what adapt() set last.
  void reset() noexcept;

  /// The engine as it is now; estimates that are not polled yet stay in it.
  Snapshot snapshot() const;
  /// Back to a snapshot, of this or another engine. Throws InvalidArgument where that has another model.
  void restore(const Snapshot& snapshot);

  /// What the model knows of its speaker by now, one entry per `adapt` node; none for a model without.
  /// Samples are computed in blocks, so this may be ahead of the estimate polled last, and set_adapting()
  /// acts from the next block on. This and the next two: from the thread that polls.
  std::vector<Adaptation> adaptation() const;
  /// Sets it, for now and for every reset() to come; nodes that are not named start from their prior.
  /// Throws InvalidArgument: a node that the model does not adapt or one twice, another width, a count or
  /// variance below 0, a value that is not finite. Nothing changes then.
  void adapt(std::span<const Adaptation> profile);
  /// Whether it goes on learning; what it knows stays in use either way.
  void set_adapting(bool adapting) noexcept;

  /// Longest time, in seconds of signal, from a sample to the next estimate: look-ahead plus the signal
  /// before the first estimate or the hop between estimates, whichever is longer; with a clock, its period
  /// plus the signal from a sample to the row that shows it, of the slowest input. Computing time comes on
  /// top.
  double latency() const noexcept;
  Counters counters() const noexcept;
  /// Those of one input; all zero where there is none of that name.
  Counters counters(std::string_view modality) const noexcept;
  const Model& model() const noexcept;

 private:
  friend class EnginePool;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Many live sessions over one model, computed as one block: the networks' weights are read once for all
/// sessions that are due. Every session is an engine of its own, with the same bits.
///
/// Threads: as for Engine, session by session, but one thread polls the pool, and none polls a session
/// meanwhile; finish, reset, snapshot and restore of a session, and add(), not while the pool is polled.
class AFFEKT_API EnginePool {
 public:
  /// Throws as Engine does; `options` are those of every session.
  explicit EnginePool(const std::string& path, std::size_t sessions = 0, const EngineOptions& options = {});
  explicit EnginePool(std::shared_ptr<const Model> model, std::size_t sessions = 0,
                      const EngineOptions& options = {});
  ~EnginePool();
  EnginePool(EnginePool&&) noexcept;
  EnginePool& operator=(EnginePool&&) noexcept;

  /// One session more; its number. Whoever leaves can be followed by somebody else in the same session, after
  /// reset(). References to other sessions stay good. Allocates; the rest of the pool does not.
  std::size_t add();
  std::size_t size() const noexcept;
  /// Session `session` < size(): to push, finish, reset, take snapshots of, ... but not to move or assign.
  Engine& operator[](std::size_t session) noexcept;
  /// The next estimate of any session that is due, and which session; Engine::poll otherwise. Those of one
  /// session come in their order.
  bool poll(std::size_t& session, Estimate& estimate) noexcept;
  const Model& model() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// One recording through the same graph, in blocks: memory does not grow with its length. With a clock, what
/// was pushed of one input is kept until the others have come to its time.
class AFFEKT_API FullPass {
 public:
  /// Throws InvalidArgument. `dejitter_s` as in EngineOptions, for a model with a clock.
  explicit FullPass(std::shared_ptr<const Model> model, bool adapting = true,
                    std::optional<double> dejitter_s = {});
  ~FullPass();
  FullPass(FullPass&&) noexcept;
  FullPass& operator=(FullPass&&) noexcept;

  /// Runs `n` further samples of the model's input. Appends one time (seconds from the first sample) per
  /// estimate to `times` and one row per estimate to `values`, and 1 (Estimate::valid) or 0 to `valid` if
  /// given. A status other than ok: nothing was run. Of several inputs it takes the first alone.
  Status feed(const float* samples, std::size_t n, std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid = nullptr);
  Status feed(const std::int16_t* samples, std::size_t n, std::vector<double>& times,
              std::vector<float>& values, std::vector<std::uint8_t>* valid = nullptr);
  /// For a model with a clock, and in place of feed(): takes all of `n` samples of one input, the first at
  /// `time` (none: where the last ended, or 0 s). A status other than ok: nothing was taken.
  Status push(std::string_view modality, const float* samples, std::size_t n,
              std::optional<double> time = {});
  Status push(std::string_view modality, const std::int16_t* samples, std::size_t n,
              std::optional<double> time = {});
  /// For a model with a clock: the next estimate for which every input is there, as Engine::poll.
  bool poll(Estimate& estimate);
  /// Ends the recording, for poll().
  void finish();
  /// As Engine::counters.
  Counters counters() const noexcept;
  Counters counters(std::string_view modality) const noexcept;
  /// Ends the recording: the estimate over what came since the last regular one, if anything did.
  void finish(std::vector<double>& times, std::vector<float>& values,
              std::vector<std::uint8_t>* valid = nullptr);
  void reset() noexcept;
  /// As for Engine.
  std::vector<Adaptation> adaptation() const;
  void adapt(std::span<const Adaptation> profile);
  void set_adapting(bool adapting) noexcept;
  const Model& model() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace affekt
