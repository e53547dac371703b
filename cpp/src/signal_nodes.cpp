#include "node_types.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>

#include "affekt/bandpower.hpp"
#include "affekt/error.hpp"
#include "affekt/filter.hpp"
#include "affekt/resampler.hpp"

namespace affekt {
namespace {

constexpr std::size_t kPiece = 256;  // samples that are turned from interleaved to planar at once
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// A piece of a signal, channel after channel.
class Planes {
 public:
  explicit Planes(std::size_t channels) : channels_(channels), values_(channels * kPiece) {}
  static std::size_t bytes(std::size_t channels) {
    return channels * (kPiece * sizeof(float) + sizeof(float*));
  }
  void read(const float* x, std::size_t n) noexcept {
    for (std::size_t c = 0; c < channels_; ++c)
      for (std::size_t i = 0; i < n; ++i) values_[c * kPiece + i] = x[i * channels_ + c];
  }
  void write(float* y, std::size_t n) const noexcept {
    for (std::size_t c = 0; c < channels_; ++c)
      for (std::size_t i = 0; i < n; ++i) y[i * channels_ + c] = values_[c * kPiece + i];
  }
  float* plane(std::size_t c) noexcept { return values_.data() + c * kPiece; }

 private:
  std::size_t channels_;
  AlignedVector<float> values_;
};

/// Another sample rate. A result leaves with a sample that its number alone decides, however the stream
/// underneath hands them out.
class ResampleNode final : public Node {
 public:
  ResampleNode(std::shared_ptr<const Resampler> plan, std::size_t channels, std::vector<float> mix)
      : Node(mix.empty() ? channels : 1, {}),
        plan_(std::move(plan)),
        mix_(std::move(mix)),
        channels_(channels),
        up_(plan_->up()),
        down_(plan_->down()),
        late_(plan_->latency_samples()) {}

  std::size_t max_rows(std::size_t n) const noexcept override {
    return static_cast<std::size_t>(
               std::ceil(static_cast<double>(n) * static_cast<double>(up_) / static_cast<double>(down_))) +
           2;
  }
  std::uint64_t due(std::uint64_t row) const noexcept override {  // floor(row down / up), without overflow
    return row / up_ * down_ + row % up_ * down_ / up_ + late_;
  }
  RateChange rate_change() const noexcept override {
    const ResamplerOptions& o = plan_->options();
    const double late = static_cast<double>(late_) / o.input_rate;
    return {o.output_rate, late, 2 * late};
  }
  std::size_t state_bytes(std::size_t) const override {
    const std::size_t mix = mix_.size() * (sizeof(float) + sizeof(std::uint32_t));
    return Planes::bytes(channels_) + width() * (waiting() * sizeof(float) + plan_->stream_bytes() + mix);
  }
  std::unique_ptr<NodeState> make_state(std::size_t) const override { return std::make_unique<State>(*this); }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    std::size_t rows = 0;
    for (std::size_t at = 0; at < n; at += kPiece) {
      const std::size_t m = std::min(kPiece, n - at);
      s.planes.read(in[0] + at * channels_, m);
      s.taken += m;
      for (std::size_t k = 0; k < width(); ++k) {
        std::vector<float>& held = s.waiting[k];
        const float* const* x = mix_.empty() ? &s.x[k] : s.x.data();
        const std::size_t made = s.streams[k].push(x, m, held.data() + s.held);
        if (k + 1 == width()) s.held += made;
      }
      std::size_t ready = 0;
      while (ready < s.held && due(s.given + ready) < s.taken) ++ready;
      for (std::size_t k = 0; k < width(); ++k) {
        float* const held = s.waiting[k].data();
        for (std::size_t r = 0; r < ready; ++r) out[(rows + r) * width() + k] = held[r];
        std::memmove(held, held + ready, (s.held - ready) * sizeof(float));
      }
      s.given += ready;
      s.held -= ready;
      rows += ready;
    }
    return rows;
  }

 private:
  struct State final : StateOf<State> {
    explicit State(const ResampleNode& node) : planes(node.channels_) {
      for (std::size_t c = 0; c < node.channels_; ++c) x.push_back(planes.plane(c));
      for (std::size_t k = 0; k < node.width(); ++k) {
        streams.emplace_back(node.plan_, node.mix_.empty() ? std::vector<float>{1.0f} : node.mix_);
        waiting.emplace_back(node.waiting());
      }
    }
    State(const State& other)
        : StateOf<State>(other),
          planes(other.planes),
          streams(other.streams),
          waiting(other.waiting),
          held(other.held),
          taken(other.taken),
          given(other.given) {
      for (std::size_t c = 0; c < other.x.size(); ++c) x.push_back(planes.plane(c));
    }
    void reset() noexcept override {
      for (ResamplerStream& stream : streams) stream.reset();
      held = 0;
      taken = given = 0;
    }
    Planes planes;
    std::vector<const float*> x;
    std::vector<ResamplerStream> streams;
    std::vector<std::vector<float>> waiting;  // results before their time, per output channel
    std::size_t held = 0;
    std::uint64_t taken = 0, given = 0;
  };
  /// Room for the results of one piece and for those before their time.
  std::size_t waiting() const noexcept { return max_rows(kPiece + static_cast<std::size_t>(late_)) + 8; }

  std::shared_ptr<const Resampler> plan_;
  std::vector<float> mix_;  // empty: every channel by itself
  std::size_t channels_;
  std::uint64_t up_, down_, late_;
};

/// Second-order sections over every channel. A row with a value that cannot be filtered gives NaN and leaves
/// the state alone.
class FilterNode final : public Node {
 public:
  FilterNode(std::shared_ptr<const Filter> filter, std::size_t width, Start start)
      : Node(width, {}), filter_(std::move(filter)), start_(start) {}

  std::size_t state_bytes(std::size_t) const override {
    return Planes::bytes(width()) + width() * 2 * (filter_->sections().size() + 1) * sizeof(double);
  }
  std::unique_ptr<NodeState> make_state(std::size_t) const override { return std::make_unique<State>(*this); }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    for (std::size_t at = 0; at < n;) {
      const float* x = in[0] + at * width();
      const std::size_t most = std::min(kPiece, n - at);
      const std::size_t m = Filter::first_unusable(x, most * width()) / width();
      if (m == 0) {
        std::fill_n(out + at * width(), width(), kNaN);
        ++at;
        continue;
      }
      s.planes.read(x, m);
      const bool usable = s.stream.push(s.x.data(), s.y.data(), m);
      s.planes.write(out + at * width(), m);
      if (!usable) std::fill_n(out + at * width(), m * width(), kNaN);  // cannot be: they were looked at
      at += m;
    }
    return n;
  }

 private:
  struct State final : StateOf<State> {
    explicit State(const FilterNode& node)
        : planes(node.width()), stream(node.filter_, node.width(), node.start_) {
      point(node.width());
    }
    State(const State& other) : StateOf<State>(other), planes(other.planes), stream(other.stream) {
      point(other.x.size());
    }
    void point(std::size_t channels) {
      for (std::size_t c = 0; c < channels; ++c) {
        x.push_back(planes.plane(c));
        y.push_back(planes.plane(c));
      }
    }
    void reset() noexcept override { stream.reset(); }
    Planes planes;
    FilterStream stream;
    std::vector<const float*> x;
    std::vector<float*> y;
  };
  std::shared_ptr<const Filter> filter_;
  Start start_;
};

/// y_c = x_c - mean over the channels, the mean in double
class ReferenceNode final : public Node {
 public:
  explicit ReferenceNode(std::size_t width) : Node(width, {}) {}

  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    const float* x = in[0];
    for (std::size_t r = 0; r < n; ++r, x += width(), out += width()) {
      const double mean = row_mean(x, width());
      for (std::size_t c = 0; c < width(); ++c) out[c] = static_cast<float>(x[c] - mean);
    }
    return n;
  }
};

/// Band power of every channel in sliding windows
class BandPowerNode final : public Node {
 public:
  BandPowerNode(std::shared_ptr<const BandPower> plan, std::size_t channels, bool bands_first, float missing)
      : Node(channels * plan->bands(), rows_of(*plan)),
        plan_(std::move(plan)),
        channels_(channels),
        bands_first_(bands_first),
        missing_(missing) {}

  std::size_t state_bytes(std::size_t) const override {
    return plan_->stream_bytes(channels_, kPiece) + channels_ * (plan_->bands() + 1) * sizeof(float);
  }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(plan_, channels_);
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    const auto stride = static_cast<std::ptrdiff_t>(channels_);
    std::size_t rows = 0;
    for (std::size_t at = 0; at < n;) {
      const std::size_t m = std::min(kPiece, n - at);
      const float* x = in[0] + at * channels_;
      const std::size_t taken = s.stream.push(x, m, 1, stride);
      const std::size_t before = rows;
      while (s.stream.next(s.power.data(), s.valid.get())) lay(s, out + rows++ * width());
      at += taken;
      if (taken == 0 && rows == before) break;  // cannot happen: a full stream has windows to give
    }
    return rows;
  }

 private:
  struct State final : StateOf<State> {
    State(const std::shared_ptr<const BandPower>& plan, std::size_t channels)
        : stream(plan, channels, kPiece),
          power(channels * plan->bands()),
          valid(std::make_unique<bool[]>(channels)) {}
    State(const State& other)
        : StateOf<State>(other),
          stream(other.stream),
          power(other.power),
          valid(std::make_unique<bool[]>(stream.channels())) {}
    void reset() noexcept override { stream.reset(); }
    BandPowerStream<float> stream;
    std::vector<float> power;
    std::unique_ptr<bool[]> valid;
  };
  static Geometry rows_of(const BandPower& plan) {
    const BandPowerOptions& o = plan.options();
    return {o.win_length - 1, o.hop_length, o.win_length};
  }
  void lay(const State& s, float* out) const noexcept {
    const std::size_t bands = plan_->bands();
    for (std::size_t c = 0; c < channels_; ++c)
      for (std::size_t b = 0; b < bands; ++b)
        out[bands_first_ ? b * channels_ + c : c * bands + b] =
            s.valid[c] ? s.power[c * bands + b] : missing_;
  }
  std::shared_ptr<const BandPower> plan_;
  std::size_t channels_;
  bool bands_first_;
  float missing_;
};

/// Rows of numbers, `width` each.
std::vector<std::vector<double>> number_rows(Fields& options, const char* key, std::size_t width,
                                             std::size_t most) {
  std::vector<std::vector<double>> rows;
  const Json& list = options.array(key);
  for (const Json& item : list) {
    const bool sound = item.is_array() && item.size() == width &&
                       std::all_of(item.begin(), item.end(), [](const Json& v) { return v.is_number(); });
    if (!sound)
      options.fail(std::string(key) + " must list arrays of " + std::to_string(width) + " numbers, got " +
                   brief(item));
    rows.push_back(item.get<std::vector<double>>());
  }
  if (rows.empty() || rows.size() > most)
    options.fail(std::string(key) + " must list 1 to " + std::to_string(most) + " arrays, got " +
                 std::to_string(rows.size()));
  return rows;
}

}  // namespace

std::unique_ptr<Node> make_resample(NodeSource& source) {
  if (!source.direct || source.signal->kind == "rows")
    source.fail("its input must be a signal of the model itself, not of kind rows");
  Fields options = options_of(source);
  ResamplerOptions o;
  o.input_rate = source.rate;
  o.output_rate = options.number("rate", 0.01, 1e6);
  if (options.has("passband")) o.passband = options.number("passband", 0.5, 0.98);
  if (options.has("rejection")) o.rejection = options.number("rejection", 40, 140);
  std::vector<float> mix;
  if (options.has("mix")) {
    const Json& list = options.array("mix");
    for (const Json& item : list) {
      if (!item.is_number()) options.fail("'mix' must list numbers, got " + brief(item));
      mix.push_back(item.get<float>());
    }
    if (mix.size() != source.widths[0])
      options.fail("'mix' must have one weight for each of the " + std::to_string(source.widths[0]) +
                   " channels, got " + std::to_string(mix.size()));
  }
  options.done();
  try {
    auto plan = std::make_shared<const Resampler>(o);
    ResamplerStream(plan, mix.empty() ? std::vector<float>{1.0f} : mix);  // refuses a mix out of range
    if (source.widths[0] > 1024) source.fail("takes at most 1024 channels");
    return std::make_unique<ResampleNode>(std::move(plan), source.widths[0], std::move(mix));
  } catch (const InvalidArgument& error) {
    source.fail(error.what());
  }
}

std::unique_ptr<Node> make_filter(NodeSource& source) {
  Fields options = options_of(source);
  std::vector<Section> sections;
  for (const std::vector<double>& row : number_rows(options, "sections", 5, 64))
    sections.push_back({row[0], row[1], row[2], row[3], row[4]});
  const bool settled = !options.has("start") || options.text("start", {"zero", "settled"}) == "settled";
  options.done();
  try {
    return std::make_unique<FilterNode>(std::make_shared<const Filter>(sections), source.widths[0],
                                        settled ? Start::settled : Start::zero);
  } catch (const InvalidArgument& error) {
    source.fail(error.what());
  }
}

std::unique_ptr<Node> make_reference(NodeSource& source) {
  options_of(source).done();
  if (source.widths[0] < 2) source.fail("needs at least 2 channels");
  return std::make_unique<ReferenceNode>(source.widths[0]);
}

std::unique_ptr<Node> make_band_power(NodeSource& source) {
  if (!source.signal)
    source.fail("its input must be a signal of the model, as it comes or resampled, filtered or referenced");
  Fields options = options_of(source);
  const bool bands_first = options.has("order") && options.text("order", {"channel", "band"}) == "band";
  const float missing =
      options.has("missing") ? static_cast<float>(options.number("missing", -1e30, 1e30)) : kNaN;
  Json plain = source.options.object("options");  // the rest are those of the plan
  plain.erase("order");
  plain.erase("missing");
  if (!plain.contains("sample_rate")) plain["sample_rate"] = source.rate;
  try {
    const BandPowerOptions o = BandPowerOptions::from_json(plain.dump());
    if (o.welch.sample_rate != source.rate)
      source.fail("sample_rate " + std::to_string(o.welch.sample_rate) + " differs from the input's rate " +
                  std::to_string(source.rate));
    auto plan = std::make_shared<const BandPower>(o);
    if (source.widths[0] * plan->bands() > static_cast<std::size_t>(kMaxWidth))
      source.fail("gives rows of more than " + std::to_string(kMaxWidth) + " values");
    if (plan->options().win_length * source.widths[0] > std::size_t{1} << 26)
      source.fail("a window of all channels has more than 2^26 samples");
    return std::make_unique<BandPowerNode>(std::move(plan), source.widths[0], bands_first, missing);
  } catch (const InvalidArgument& error) {
    source.fail(error.what());
  }
}

}  // namespace affekt
