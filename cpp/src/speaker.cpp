#include "speaker.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

namespace affekt {
namespace {

/// Speech (1) or silence (0) per row, from the level over an adaptive noise floor and under a decaying peak.
class ActivityNode final : public Node {
 public:
  struct Options {
    double scale = 1, margin = 9, range = 30, rise = 0.03, fall = 0.01, start = -70, least = -75;
    std::size_t smoothing = 1, hangover = 15;
  };

  ActivityNode(std::size_t in, const Options& options) : Node(1, {}), in_(in), o_(options) {}

  std::size_t state_bytes(std::size_t) const override { return o_.smoothing * sizeof(double); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(o_.smoothing);
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    const float* x = in[0];
    for (std::size_t r = 0; r < n; ++r, x += in_) out[r] = step(x, s) ? 1.0f : 0.0f;
    return n;
  }

 private:
  struct State final : StateOf<State> {
    explicit State(std::size_t smoothing) : levels(smoothing) {}
    void reset() noexcept override { count = left = 0; }
    std::vector<double> levels;  // ring
    double noise = 0, peak = 0;
    std::size_t count = 0, left = 0;  // rows so far; rows that the hangover still covers
  };

  bool step(const float* x, State& s) const noexcept {
    const double now = row_mean(x, in_) * o_.scale;
    if (!std::isfinite(now)) return false;  // must not stay in the trackers
    s.levels[s.count++ % o_.smoothing] = now;
    const std::size_t rows = std::min(s.count, o_.smoothing);
    double level = 0;
    for (std::size_t i = 0; i < rows; ++i) level += s.levels[(s.count - rows + i) % o_.smoothing];
    level /= static_cast<double>(rows);
    s.noise = s.count == 1 ? std::min(level, o_.start) : std::min(level, s.noise + o_.rise);
    s.peak = s.count == 1 ? level : std::max(level, s.peak - o_.fall);
    if (level > s.noise + o_.margin && level > s.peak - o_.range && level > o_.least)
      s.left = o_.hangover + 1;
    return s.left > 0 && s.left-- > 0;
  }

  std::size_t in_;
  Options o_;
};

/// Rows normalised by running statistics of the speaker, which are pooled with a prior.
class AdaptNode final : public Node {
 public:
  struct Options {
    double prior = 1, floor = 1e-3, least = 0.5;
    std::optional<double> half_life;
    bool variance = true;
  };

  AdaptNode(std::span<const float> mean, std::span<const float> sd, std::size_t activity,
            std::size_t speaking, const Options& options)
      : Node(mean.size(), {}),
        o_(options),
        activity_(activity),
        speaking_(speaking),
        keep_(options.half_life ? std::exp2(-1.0 / *options.half_life) : 1.0),
        mean_(mean.begin(), mean.end()),
        sd_(sd.begin(), sd.end()) {}

  std::size_t state_bytes(std::size_t) const override { return SpeakerState::bytes(width()); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<SpeakerState>(width());
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    SpeakerState& s = static_cast<SpeakerState&>(base);
    const float* x = in[0];
    for (std::size_t r = 0; r < n; ++r, x += width(), out += width()) {
      s.withheld = false;  // not the last row any more, whether this one may count or not
      if (s.adapting && counts(x, activity_ ? in[1] + r * activity_ : nullptr)) {
        if (speaking_ && row_mean(in[2] + r * speaking_, speaking_) >= 0.5)
          s.withhold(x);
        else
          s.count_row(x, keep_);
      }
      if (!s.settled) settle(s);
      for (std::size_t c = 0; c < width(); ++c)
        out[c] = static_cast<float>((x[c] - s.centre[c]) / s.spread[c]);
    }
    return n;
  }
  /// The recording ends: a row that waited for the speaker to pause counts now.
  std::size_t finish(float*, NodeState& base) const noexcept override {
    SpeakerState& s = static_cast<SpeakerState&>(base);
    if (s.adapting && s.withheld) s.count_row(s.last.data(), keep_);
    s.withheld = false;
    return 0;
  }

 private:
  bool counts(const float* x, const float* activity) const noexcept {
    if (activity && !(row_mean(activity, activity_) >= o_.least)) return false;
    // A network that overflows must not leave its infinities with the speaker.
    return std::all_of(x, x + width(), [](float v) { return std::isfinite(v); });
  }

  /// Moments of the prior and of the counted rows as one: with W = prior + n and d = (speaker's - prior
  /// mean), mean + n / W d and (prior sd^2 + n variance) / W + prior n / W^2 d^2. No difference of large
  /// squares.
  void settle(SpeakerState& s) const noexcept {
    const double n = s.count, total = o_.prior + n, share = n / total;
    for (std::size_t c = 0; c < width(); ++c) {
      const double d = n > 0 ? s.mean[c] - mean_[c] : 0.0;
      s.centre[c] = mean_[c] + share * d;
      double sd = sd_[c];
      if (o_.variance && n > 0)
        sd = std::sqrt((o_.prior * sd * sd + n * s.variance[c]) / total + o_.prior / total * share * d * d);
      s.spread[c] = std::max(sd, o_.floor);
    }
    s.settled = true;
  }

  Options o_;
  std::size_t activity_, speaking_;  // widths of the second and third input; 0 without one
  double keep_;
  std::vector<double> mean_, sd_;
};

}  // namespace

SpeakerState::SpeakerState(std::size_t width)
    : mean(width),
      variance(width),
      centre(width),
      spread(width),
      last(width),
      profile_mean_(width),
      profile_variance_(width) {}

void SpeakerState::reset() noexcept {
  count = profile_count_;
  std::copy(profile_mean_.begin(), profile_mean_.end(), mean.begin());
  std::copy(profile_variance_.begin(), profile_variance_.end(), variance.begin());
  settled = withheld = false;
}

void SpeakerState::start_from(double rows, const double* from_mean, const double* from_variance) noexcept {
  profile_count_ = rows;
  for (std::size_t c = 0; c < mean.size(); ++c) {
    profile_mean_[c] = rows > 0 ? from_mean[c] : 0.0;
    profile_variance_[c] = rows > 0 ? from_variance[c] : 0.0;
  }
  reset();
}

void SpeakerState::count_row(const float* x, double keep) noexcept {
  // Welford's update of mean and variance, the weight of earlier rows being keep * count.
  count = keep * count + 1.0;
  for (std::size_t c = 0; c < mean.size(); ++c) {
    const double d = x[c] - mean[c];
    mean[c] += d / count;
    variance[c] = std::max(0.0, variance[c] + (d * (x[c] - mean[c]) - variance[c]) / count);
  }
  settled = false;
}

void SpeakerState::withhold(const float* x) noexcept {
  std::copy(x, x + last.size(), last.begin());
  withheld = true;
}

std::unique_ptr<Node> make_activity(NodeSource& source) {
  Fields options = options_of(source);
  ActivityNode::Options o;
  const auto number = [&](const char* key, double& value, double low, double high) {
    if (options.has(key)) value = options.number(key, low, high);
  };
  const auto rows = [&](const char* key, std::size_t& value, std::int64_t low) {
    if (options.has(key)) value = static_cast<std::size_t>(options.integer(key, low, 4096));
  };
  number("scale", o.scale, 1e-6, 1e6);
  number("margin", o.margin, 0, 1e6);
  number("range", o.range, 0, 1e6);
  number("rise", o.rise, 0, 1e6);
  number("fall", o.fall, 0, 1e6);
  number("start", o.start, -1e6, 1e6);
  number("least", o.least, -1e6, 1e6);
  rows("smoothing", o.smoothing, 1);
  rows("hangover", o.hangover, 0);
  options.done();
  return std::make_unique<ActivityNode>(source.widths[0], o);
}

std::unique_ptr<Node> make_adapt(NodeSource& source) {
  Fields options = options_of(source);
  AdaptNode::Options o;
  o.prior = options.number("prior", 1e-6, 1e12);
  if (options.has("floor")) o.floor = options.number("floor", 1e-12, 1e12);
  if (options.has("least")) o.least = options.number("least", 0, 1e6);
  if (options.has("half_life") && !options.get("half_life").is_null())
    o.half_life = options.number("half_life", 1e-6, 1e12);
  if (options.has("variance")) o.variance = options.boolean("variance");
  options.done();
  const std::size_t width = source.widths[0];
  const auto mean = source.tensor("mean", {width}), sd = source.tensor("sd", {width});
  if (std::any_of(sd.begin(), sd.end(), [](float v) { return v < 0; }))
    source.fail("the tensor '" + source.name + ".sd' must not be negative");
  if (source.has("reference")) source.tensor("reference", {width});  // used where profiles are made
  return std::make_unique<AdaptNode>(mean, sd, source.widths.size() > 1 ? source.widths[1] : 0,
                                     source.widths.size() > 2 ? source.widths[2] : 0, o);
}

}  // namespace affekt
