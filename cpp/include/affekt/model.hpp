// A trained model as read from a model file: an immutable graph that any number of engines share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/export.hpp"

namespace affekt {

class Graph;

/// Most inputs of a node, and of a model.
inline constexpr std::size_t kMaxInputs = 16;

/// One signal that the model listens to.
struct InputSpec {
  std::string name;  ///< the modality's name in Engine::push
  std::string kind;  ///< "audio"; "signal": any other, at a steady rate; "rows": features, each with its time
  std::string unit;  ///< "full scale" for audio: samples in [-1, 1]
  double rate = 0;   ///< Hz; of rows the nominal one
  int channels = 1;  ///< values of a sample, side by side; of rows the features
};

/// One group of values of an estimate.
struct OutputSpec {
  std::string name;
  std::string kind;                 ///< "continuous", or "categorical": probabilities that sum to 1
  std::vector<std::string> labels;  ///< one per value
  std::size_t offset = 0;           ///< of the first value among all values of an estimate
};

/// When estimates come and what they depend on, derived from the graph.
struct Timing {
  double first_estimate_s = 0;  ///< signal needed before the first regular estimate
  double hop_s = 0;             ///< signal between estimates
  double context_s = 0;    ///< signal older than this, counted from the estimate's time, has no influence
  double lookahead_s = 0;  ///< signal after its own time that an estimate waits for; 0, since all is causal
  double clock_hz = 0;     ///< rate of the clock that several inputs are joined on; 0 without one
  double silence_s = 0;    ///< with a clock: an input without samples for longer is masked
  double reach_s = 0;      ///< with a clock: signal from a sample to the row that shows it, slowest input
};

struct TensorView {
  std::string name;
  std::vector<std::size_t> shape;
  std::span<const float> values;  ///< row-major
};

/// One tensor of a model file.
struct Tensor {
  std::string name;
  std::vector<std::size_t> shape;
  std::vector<float> values;  ///< row-major, dequantised
};

/// A model file of schema 1 or 2, checked as a whole at load: container, hash, card, graph, every tensor's
/// shape. Loading never executes anything from the file.
class AFFEKT_API Model {
 public:
  /// Throws ModelFileError with the path and the reason.
  static std::shared_ptr<const Model> load(const std::string& path);
  /// The same from memory. Throws ModelFileError.
  static std::shared_ptr<const Model> from_bytes(const void* data, std::size_t size);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  /// The card's JSON text as stored.
  const std::string& card() const noexcept;
  /// The file's SHA-256 (lower-case hex): over card and tensors, so that it names this very model.
  const std::string& hash() const noexcept;
  const std::vector<InputSpec>& inputs() const noexcept;
  const std::vector<OutputSpec>& outputs() const noexcept;
  /// One name per value of an estimate: the labels of continuous outputs, "p_" + label of categorical ones.
  const std::vector<std::string>& columns() const noexcept;
  const Timing& timing() const noexcept;
  /// The weights, read again from the file that the model came from: it keeps them in its own packed form
  /// only. Throws ModelFileError: the file cannot be read, or holds another model by now.
  std::vector<Tensor> tensors(const std::string& path) const;
  /// The same from memory. Throws ModelFileError.
  std::vector<Tensor> tensors(const void* data, std::size_t size) const;
  /// Bytes that one engine or full pass over this model allocates besides its queue.
  std::size_t state_bytes() const noexcept;

  /// For the library itself.
  const Graph& graph() const noexcept;

 private:
  Model();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace affekt
