// The graph of a card, checked and ordered, and one run through it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/engine.hpp"
#include "affekt/model.hpp"
#include "node.hpp"

namespace affekt {

/// Immutable; any number of runs share it.
class Graph {
 public:
  /// Throws ModelFileError with the place in the card.
  Graph(const Json& card, const std::vector<TensorView>& tensors);

  static constexpr std::size_t kNoSignal = static_cast<std::size_t>(-1);
  /// Most ticks of the estimate clock that GraphRun takes before estimate() must be called.
  static constexpr std::size_t kTicks = 16;

  /// What rows are counted in: samples of an input, results of a resampler, or ticks of the estimate clock.
  struct Domain {
    double rate = 0;                // Hz
    std::size_t signal = 0;         // kNoSignal: the estimate clock
    double delay = 0, context = 0;  // of a resampler, seconds: see RateChange
  };

  /// One node in its place. Rows of `clock` are counted in `domain`: row r is due with its sample
  /// offset + r * stride and depends on the `span` samples up to it.
  struct Vertex {
    std::string name, type;
    std::unique_ptr<Node> node;
    std::vector<std::size_t> from;  // inputs: vertex + 1, or 0 for the signal itself
    std::size_t signal = 0;         // that its inputs stem from; kNoSignal: they are on the estimate clock
    std::size_t domain = 0;
    Geometry clock;
    bool sampled = false;  // its rows are samples still: resampled, filtered or referenced
    bool align = false, presence = false;
  };

  std::vector<Vertex> vertices;  // every vertex comes after its inputs
  std::vector<InputSpec> inputs;
  std::vector<Domain> domains;  // of the inputs, of resamplers, and of the clock
  bool clocked = false;         // the outputs tick with the estimate clock, domain clock_domain
  std::size_t clock_domain = 0;
  std::vector<OutputSpec> outputs;
  std::vector<std::size_t> output_vertex;  // per output
  std::size_t validity = 0;                // vertex + 1 of the node that says what is valid, or 0
  double least_validity = 0;
  std::size_t confidence = 0;  // vertex + 1 of the node that says how sure, or 0
  std::vector<std::string> columns;
  Timing timing;
  std::size_t block = 0;   // most samples of one GraphRun::process
  std::size_t memory = 0;  // bytes of one GraphRun

  /// The vertex of that name, or nullptr.
  const Vertex* find(const std::string& name) const noexcept;
  /// Most rows that vertex `v` gives in one call.
  std::vector<std::size_t> capacity() const { return capacity_for(block, nullptr); }

 private:
  void read_inputs(Fields& card);
  void read_clock(Fields& card);
  void read_nodes(Fields& card, TensorTable& tensors);
  void read_outputs(Fields& card);
  void read_timing(std::uint64_t span);
  void read_validity(Fields& card);
  void read_confidence(Fields& card);
  void check_use(const Fields& card) const;
  void check_latency(Fields& card) const;
  void plan_memory();
  std::vector<std::size_t> capacity_for(std::size_t block, double* bytes) const;
  /// Width of the rows of the first input of vertex `v`.
  std::size_t width_into(std::size_t v) const;
  /// Most rows that a call brings to vertex `v`.
  std::size_t rows_into(std::size_t v, std::size_t block, const std::vector<std::size_t>& rows) const;
  friend class GraphRun;
  int schema_ = 1;
};

/// State of one stream or recording through a graph. Nothing is allocated after construction; a copy goes on
/// from here by itself.
///
/// Without an estimate clock: process() and finish(). With one: feed() samples and pass() those up to a tick,
/// input by input, then tick(), and estimate() after at most kTicks of them. run_many() does process() or
/// estimate() of many.
class GraphRun {
 public:
  explicit GraphRun(const Graph& graph);

  /// What one of many runs of a graph computes: samples of input `signal`, or with a clock its ticks.
  struct Portion {
    GraphRun* run = nullptr;
    std::size_t signal = 0;
    const float* samples = nullptr;
    std::size_t n = 0;
    std::uint64_t first = 0;    // of the samples; set by run_many
    std::size_t estimates = 0;  // that came of it; set by run_many
  };
  /// Room for run_many() to sort what runs side by side.
  class Lanes {
   public:
    /// At least for `runs`; allocates.
    void grow(std::size_t runs);

   private:
    friend class GraphRun;
    std::vector<std::size_t> rows_;  // per run: rows of the vertex at hand
    std::vector<const float*> in_;
    std::vector<float*> out_;
    std::vector<NodeState*> states_;
  };
  /// process() or estimate() of many runs of one graph, each of which may occur once. Nodes that can take a
  /// row of every run at once do, which changes no bit.
  static void run_many(std::span<Portion> portions, Lanes& lanes) noexcept;

  /// Runs `n` <= Graph::block samples of input `signal` and returns how many estimates came of it; they stay
  /// readable until the next call.
  std::size_t process(std::size_t signal, const float* samples, std::size_t n) noexcept;
  /// Ends the recording; returns how many estimates were still owed.
  std::size_t finish() noexcept;
  void reset() noexcept;

  /// Runs `n` <= Graph::block samples of input `signal` up to its `align` nodes; all before are passed.
  void feed(std::size_t signal, const float* samples, std::size_t n) noexcept;
  /// The next tick sees the first `samples` of input `signal`, the last of which is `newest`: its `align`
  /// nodes keep the newest row of these.
  void pass(std::size_t signal, std::uint64_t samples, const float* newest) noexcept;
  /// Forgets the rows that `align` nodes keep of `signal`: they were from before it fell silent.
  void lapse(std::size_t signal) noexcept;
  /// One tick of the estimate clock, at which those inputs with alive[i] count.
  void tick(const bool* alive) noexcept;
  /// Computes the ticks; returns how many estimates came of them, readable until the next tick.
  std::size_t estimate() noexcept;
  /// Per input, whether estimate `i` rests on it.
  const std::uint8_t* present(std::size_t i) const noexcept {
    return present_.data() + (sample(i) - first_tick_) * graph_->inputs.size();
  }

  /// Values of estimate `i` of the last call, in column order.
  const float* values(std::size_t i) const noexcept { return estimates_.data() + i * graph_->columns.size(); }
  /// Whether there was something to judge and every value is finite.
  bool valid(std::size_t i) const noexcept;
  /// How sure the model is of estimate `i`, for a graph that has `confidence`.
  float confidence(std::size_t i) const noexcept { return cells_[graph_->confidence - 1].out[i]; }
  /// Index of the last sample that it used, or of its tick.
  std::uint64_t sample(std::size_t i) const noexcept {
    return cells_[graph_->output_vertex.front()].index[i];
  }

  /// Whether `adapt` nodes count rows; true at first.
  void set_adapting(bool adapting) noexcept;
  /// What each `adapt` node knows of the speaker.
  std::vector<Adaptation> adaptation() const;
  /// Sets it, for now and for reset(); nodes that are not named start from their prior. Throws
  /// InvalidArgument.
  void adapt(std::span<const Adaptation> profile);

 private:
  struct Cell {  // run-time side of a vertex
    Cell() = default;
    Cell(const Cell& other);
    Cell& operator=(const Cell&) = delete;
    Cell(Cell&&) noexcept = default;
    Cell& operator=(Cell&&) noexcept = default;

    std::unique_ptr<NodeState> state;
    AlignedVector<float> out;
    std::vector<std::uint64_t> index;         // last sample behind each row of `out`
    std::size_t rows = 0;                     // rows of `out` that are valid
    std::uint64_t consumed = 0, emitted = 0;  // rows in, regular rows out
    std::uint64_t behind = 0;                 // last sample behind the rows consumed
    std::vector<const float*> in;
    // Of an `align`: the newest row and whether there is one; per tick, whether it counted.
    std::vector<float> kept, there;
    bool keeps = false;
    std::size_t passed = 0;  // rows of the last feed() that are
  };
  void run(std::size_t v, const float* samples, std::size_t n, std::uint64_t first_sample) noexcept;
  std::size_t bring(std::size_t v, const float* samples, std::size_t n) noexcept;
  void settle(std::size_t v, std::size_t n, std::uint64_t first_sample) noexcept;
  static void run_together(std::size_t v, std::span<Portion> portions, Lanes& lanes) noexcept;
  static void run_portions(std::span<Portion> portions, Lanes* lanes) noexcept;
  std::size_t collect() noexcept;

  const Graph* graph_;
  std::vector<Cell> cells_;
  std::vector<std::uint64_t> samples_;  // per signal
  std::vector<float> estimates_;
  std::vector<std::uint8_t> present_;             // (tick, input)
  std::size_t ticks_ = 0;                         // waiting for estimate()
  std::uint64_t next_tick_ = 0, first_tick_ = 0;  // since the start; of present_
};

}  // namespace affekt
