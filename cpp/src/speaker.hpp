// What a graph learns while it runs: where speech is (`activity`) and how the one who speaks sounds
// (`adapt`).
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "node.hpp"

namespace affekt {

/// State of an `adapt` node: mean and variance of the rows counted so far, and what rows are normalised by.
class SpeakerState final : public StateOf<SpeakerState> {
 public:
  explicit SpeakerState(std::size_t width);
  static std::size_t bytes(std::size_t width) { return (6 * sizeof(double) + sizeof(float)) * width; }

  /// Back to the profile.
  void reset() noexcept override;
  SpeakerState* speaker() noexcept override { return this; }
  /// Takes a profile (mean and variance of `count` rows; ignored when that is 0) now and for reset().
  void start_from(double count, const double* mean, const double* variance) noexcept;
  /// Counts a row, all earlier ones weighing `keep` of what they did (1: nothing is forgotten).
  void count_row(const float* x, double keep) noexcept;

  /// Keeps a row that counts only if the recording ends with it.
  void withhold(const float* x) noexcept;

  bool adapting = true;
  double count = 0;
  std::vector<double> mean, variance;
  // Belong to the node: derived from the above, and whether they still are.
  std::vector<double> centre, spread;
  bool settled = false;
  std::vector<float> last;  // the row withheld
  bool withheld = false;

 private:
  double profile_count_ = 0;
  std::vector<double> profile_mean_, profile_variance_;
};

std::unique_ptr<Node> make_activity(NodeSource& source);
std::unique_ptr<Node> make_adapt(NodeSource& source);

}  // namespace affekt
