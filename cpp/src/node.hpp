// The contract of a node: rows in, rows out, weights apart from state.
//
// To add a type: derive from Node in nodes.cpp (or a file of its own), read the options in a factory, and
// list the factory in `make_node`. Graph, Engine and the file format stay as they are. Two types the graph
// itself runs, because they know of time: `align` and `presence` (docs/model_file.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "affekt/model.hpp"
#include "json.hpp"

namespace affekt {

/// How output rows lie over input rows: row r is due with input row `offset + r * stride` and depends on the
/// `span` input rows up to that one. A node of another rhythm says so by Node::due and rate_change.
struct Geometry {
  std::uint64_t offset = 0, stride = 1, span = 1;
};

class SpeakerState;

class NodeState {
 public:
  virtual ~NodeState() = default;
  /// A state that goes on from here by itself; see StateOf.
  virtual std::unique_ptr<NodeState> clone() const { return std::make_unique<NodeState>(*this); }
  /// Back to the start of a recording.
  virtual void reset() noexcept {}
  /// What it has learnt of the speaker; nullptr where a node learns nothing.
  virtual SpeakerState* speaker() noexcept { return nullptr; }
};

/// Base of the state of type S, which is cloned by its copy constructor.
template <class S>
class StateOf : public NodeState {
 public:
  std::unique_ptr<NodeState> clone() const final { return std::make_unique<S>(static_cast<const S&>(*this)); }
};

/// How a node changes the rate of the samples that pass through it.
struct RateChange {
  double rate = 0;       ///< of the output, Hz; 0: unchanged
  double delay_s = 0;    ///< from an output sample's own time to the input sample that it is due with
  double context_s = 0;  ///< input older than this, counted from there, has no influence
};

class Node {
 public:
  virtual ~Node() = default;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  std::size_t width() const noexcept { return width_; }
  const Geometry& geometry() const noexcept { return geometry_; }
  /// Most rows that one call can give for `n` rows in.
  virtual std::size_t max_rows(std::size_t n) const noexcept { return n / geometry_.stride + 1; }
  /// Input row that output row `row` is due with.
  virtual std::uint64_t due(std::uint64_t row) const noexcept {
    return geometry_.offset + row * geometry_.stride;
  }
  virtual RateChange rate_change() const noexcept { return {}; }

  /// Bytes that a state takes when calls bring up to `max_rows` rows; asked before anything is allocated.
  virtual std::size_t state_bytes(std::size_t max_rows) const;
  virtual std::unique_ptr<NodeState> make_state(std::size_t max_rows) const;
  /// Takes `n` rows of every input (in[i] is (n, width of input i)) and writes the rows that are due to
  /// `out`; returns how many. The same rows in other portions give the same bits. n = 1 is the step.
  virtual std::size_t process(const float* const* in, std::size_t n, float* out,
                              NodeState& state) const noexcept = 0;
  /// Whether step_many() shares work between streams. Such a node has one input and gives a row per row.
  virtual bool steps_many() const noexcept { return false; }
  /// One row of each of `streams` streams: from in[s] to out[s], with the bits of process(). No state may
  /// occur twice.
  virtual void step_many(const float* const* in, std::size_t streams, float* const* out,
                         NodeState* const* states) const noexcept;
  /// Writes the row that is still owed when no more input will come, if the node has such; 0 or 1.
  virtual std::size_t finish(float* out, NodeState& state) const noexcept;

 protected:
  Node(std::size_t width, Geometry geometry) : width_(width), geometry_(geometry) {}

 private:
  std::size_t width_;
  Geometry geometry_;
};

/// Tensors of the file by name, remembering which were used.
class TensorTable {
 public:
  explicit TensorTable(const std::vector<TensorView>& tensors);
  /// nullptr if there is none.
  const TensorView* find(const std::string& name);
  /// Throws ModelFileError for the first tensor that no node asked for.
  void done() const;
  /// Counts `floats` that a node is about to pack; whether all of them together stay within kMaxPacked.
  bool reserve(std::size_t floats) noexcept;

 private:
  std::map<std::string_view, const TensorView*> all_, unused_;
  std::size_t packed_ = 0;
};

/// What a node comes from.
struct NodeSource {
  std::string name, type;
  Fields options;
  std::vector<std::size_t> widths;    // of the inputs
  const InputSpec* signal = nullptr;  // set when the first input is samples: a signal of the model, or one
                                      // that was resampled, filtered or referenced
  TensorTable* tensors = nullptr;
  double rate = 0;      // of the rows of the first input, Hz
  bool direct = false;  // the first input is a signal of the model itself
  int schema = 1;       // of the card

  [[noreturn]] void fail(const std::string& message) const { options.fail(message); }
  bool has(const std::string& param) const { return tensors->find(name + "." + param) != nullptr; }
  /// Values of tensor "<node>.<param>", which must have this shape; gone once the graph is built.
  std::span<const float> tensor(const std::string& param, const std::vector<std::size_t>& shape) const;
  /// Throws when weights of shape (out, in, taps), packed, would be too many; asked before they are built.
  void reserve(std::size_t out, std::size_t in, std::size_t taps) const;
};

/// The "options" object as fields; every factory but the front end's reads it through this.
Fields options_of(NodeSource& source);

/// Mean of a row, as masks and activities are judged by.
inline double row_mean(const float* x, std::size_t n) noexcept {
  double sum = 0;
  for (std::size_t c = 0; c < n; ++c) sum += x[c];
  return sum / static_cast<double>(n);
}

/// Throws ModelFileError for an unknown type, option, width, tensor or value.
std::unique_ptr<Node> make_node(NodeSource& source);

/// Upper bound for widths, and for most counts, in a card.
inline constexpr int kMaxWidth = 1 << 16;
/// Most memory that one run of a graph may take.
inline constexpr std::size_t kMaxMemory = std::size_t{1} << 30;
/// Most memory for the packed weights of a graph; packing can make them 16 times as large as in the file.
inline constexpr std::size_t kMaxPacked = std::size_t{1} << 31;
/// Largest magnitude of a sample that an engine takes; squares and sums of it stay far from overflow.
inline constexpr float kMaxSample = 1e6f;

}  // namespace affekt
