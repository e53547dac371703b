#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <optional>

#include "affekt/error.hpp"
#include "affekt/frontend.hpp"
#include "affekt/tcn.hpp"
#include "dense_rows.hpp"
#include "node.hpp"
#include "node_types.hpp"
#include "speaker.hpp"

namespace affekt {
namespace {

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text;
  for (const std::size_t d : shape) text += (text.empty() ? "(" : ", ") + std::to_string(d);
  return text + ")";
}

/// samples -> feature rows. Behind a filter or a mix samples may be anything; a row over one that cannot be
/// used is NaN, because logarithm and floor would make a number like any other of it.
class FrontEndNode final : public Node {
 public:
  FrontEndNode(std::shared_ptr<const FrontEnd> plan, bool direct)
      : Node(plan->features(), rows_of(*plan)), plan_(std::move(plan)), direct_(direct) {}

  std::size_t state_bytes(std::size_t max_rows) const override { return plan_->stream_bytes(max_rows); }
  std::unique_ptr<NodeState> make_state(std::size_t max_rows) const override {
    return std::make_unique<State>(plan_, max_rows);
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& state) const noexcept override {
    State& s = static_cast<State&>(state);
    FrontEndStream& stream = s.stream;
    std::size_t rows = 0;
    for (std::size_t at = 0; at < n;) {
      std::size_t m = n - at;
      if (!direct_ && (m = plan_->first_unusable(in[0] + at, m)) == 0) {  // alone, after all rows before it
        m = 1;
        s.unusable = stream.samples() + 1;
      }
      const std::size_t taken = stream.push(in[0] + at, m);
      const std::size_t before = rows;
      while (stream.next(out + rows * width())) {
        const std::uint64_t end = stream.last_sample(stream.rows() - 1) + 1;
        if (s.unusable > 0 && s.unusable <= end && s.unusable + geometry().span > end)
          std::fill_n(out + rows * width(), width(), std::numeric_limits<float>::quiet_NaN());
        ++rows;
      }
      at += taken;
      if (taken == 0 && rows == before) break;  // cannot happen: a full stream has rows to give
    }
    return rows;
  }

 private:
  struct State final : StateOf<State> {
    State(const std::shared_ptr<const FrontEnd>& plan, std::size_t capacity) : stream(plan, capacity) {}
    void reset() noexcept override {
      stream.reset();
      unusable = 0;
    }
    FrontEndStream stream;
    std::uint64_t unusable = 0;  // the number of the last sample that could not be used, from 1
  };
  static Geometry rows_of(const FrontEnd& plan) {
    const auto frame = static_cast<std::uint64_t>(plan.latency_samples());
    const FrontEndOptions& o = plan.options();
    const bool before = o.preemphasis != 0 && o.preemphasis_mode == PreemphasisMode::signal;
    return {frame - 1, static_cast<std::uint64_t>(plan.hop_samples()), frame + (before ? 1 : 0)};
  }
  std::shared_ptr<const FrontEnd> plan_;
  bool direct_;
};

/// y = (x - mean) * scale
class StandardiseNode final : public Node {
 public:
  StandardiseNode(std::span<const float> mean, std::span<const float> scale)
      : Node(mean.size(), {}), mean_(mean.begin(), mean.end()), scale_(scale.begin(), scale.end()) {}

  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    const float* x = in[0];
    for (std::size_t r = 0; r < n; ++r, x += width(), out += width())
      for (std::size_t c = 0; c < width(); ++c) out[c] = (x[c] - mean_[c]) * scale_[c];
    return n;
  }

 private:
  std::vector<float> mean_, scale_;
};

/// `size` consecutive rows side by side, oldest first, every `stride` rows
class StackNode final : public Node {
 public:
  StackNode(std::size_t in, std::size_t size, std::size_t stride)
      : Node(in * size, {size - 1, stride, size}), in_(in), size_(size), stride_(stride) {}

  std::size_t state_bytes(std::size_t) const override { return width() * sizeof(float); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(width());
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& state = static_cast<State&>(base);
    std::size_t rows = 0;
    for (std::size_t r = 0; r < n; ++r) {
      std::memcpy(state.ring.data() + state.count % size_ * in_, in[0] + r * in_, in_ * sizeof(float));
      ++state.count;
      if (state.count < size_ || (state.count - size_) % stride_ != 0) continue;
      const std::size_t first = state.count % size_;  // the oldest row of the ring
      float* row = out + rows++ * width();
      std::memcpy(row, state.ring.data() + first * in_, (size_ - first) * in_ * sizeof(float));
      std::memcpy(row + (size_ - first) * in_, state.ring.data(), first * in_ * sizeof(float));
    }
    return rows;
  }

 private:
  struct State final : StateOf<State> {
    explicit State(std::size_t floats) : ring(floats, 0.0f) {}
    void reset() noexcept override { count = 0; }
    std::vector<float> ring;
    std::uint64_t count = 0;
  };
  std::size_t in_, size_, stride_;
};

class TcnNode final : public Node {
 public:
  explicit TcnNode(Tcn tcn)
      : Node(static_cast<std::size_t>(tcn.out()), {0, 1, static_cast<std::uint64_t>(tcn.receptive_field())}),
        tcn_(std::move(tcn)) {}

  std::size_t state_bytes(std::size_t) const override { return tcn_.state_bytes(); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override { return std::make_unique<State>(tcn_); }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& state) const noexcept override {
    tcn_.process(in[0], n, out, static_cast<State&>(state).tcn);
    return n;
  }
  bool steps_many() const noexcept override { return true; }
  void step_many(const float* const* in, std::size_t streams, float* const* out,
                 NodeState* const* states) const noexcept override {
    TcnState* own[256];
    for (std::size_t at = 0; at < streams; at += std::size(own)) {
      const std::size_t m = std::min(std::size(own), streams - at);
      for (std::size_t s = 0; s < m; ++s) own[s] = &static_cast<State*>(states[at + s])->tcn;
      tcn_.step_many(in + at, m, out + at, own);
    }
  }

 private:
  struct State final : StateOf<State> {
    explicit State(const Tcn& network) : tcn(network.make_state()) {}
    void reset() noexcept override { tcn.reset(); }
    TcnState tcn;
  };
  Tcn tcn_;
};

/// Weighted summary of the last `window` rows, every `hop` rows; with a second input, a mask, of those that
/// count. Computed anew from the window each time, oldest row first, so that nothing older leaves a trace,
/// not even by rounding.
class PoolNode final : public Node {
 public:
  enum Kind {
    count = 0,
    mean = 1,
    statistics = 2,
    attention = 4,
    attention_statistics = attention | statistics
  };

  PoolNode(Kind kind, std::size_t in, std::size_t window, std::size_t hop, std::optional<double> half_life,
           std::span<const float> score, float score_bias, std::size_t mask)
      : Node(kind == count                  ? 1
             : kind == attention_statistics ? 3 * in
             : kind == statistics           ? 2 * in
                                            : in,
             {hop - 1, hop, window}),
        kind_(kind),
        in_(in),
        window_(window),
        hop_(hop),
        mask_(mask),
        score_bias_(score_bias),
        score_(score.begin(), score.end()),
        decay_(half_life ? std::log(2.0) / *half_life : 0.0) {}

  std::size_t state_bytes(std::size_t) const override {
    return window_ * (in_ * sizeof(float) + 2 * sizeof(double) + 1) + 2 * in_ * sizeof(double);
  }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(window_, in_);
  }

  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    std::size_t rows = 0;
    for (std::size_t r = 0; r < n; ++r) {
      const float* x = in[0] + r * in_;
      const std::size_t at = s.count % window_;
      std::memcpy(s.rows.data() + at * in_, x, in_ * sizeof(float));
      if (kind_ & attention) {
        double score = score_bias_;
        for (std::size_t c = 0; c < in_; ++c) score += static_cast<double>(score_[c]) * x[c];
        s.scores[at] = score;
      }
      s.counted[at] = mask_ == 0 || row_mean(in[1] + r * mask_, mask_) >= 0.5;
      if (++s.count % hop_ == 0) summarise(s, out + rows++ * width());
    }
    return rows;
  }
  std::size_t finish(float* out, NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    if (s.count % hop_ == 0) return 0;
    summarise(s, out);
    return 1;
  }

 private:
  struct State final : StateOf<State> {
    State(std::size_t window, std::size_t in)
        : rows(window * in), scores(window), weights(window), sum(in), square(in), counted(window) {}
    void reset() noexcept override { count = 0; }
    std::vector<float> rows;
    std::vector<double> scores, weights, sum, square;
    std::vector<unsigned char> counted;  // whether the mask lets a row count
    std::uint64_t count = 0;
  };

  /// Calls visit(age order index 0 = oldest, ring position) over the window.
  template <class Visit>
  void over_window(const State& s, const Visit& visit) const noexcept {
    const std::size_t rows = static_cast<std::size_t>(std::min<std::uint64_t>(s.count, window_));
    std::size_t at = s.count <= window_ ? 0 : s.count % window_;
    for (std::size_t i = 0; i < rows; ++i) {
      visit(rows - 1 - i, at);
      if (++at == window_) at = 0;
    }
  }

  /// weights = exp(log weight - max) / sum, with the decay as a term of the logarithm so that no sum can
  /// vanish; all 0 where no row counts
  void weigh(State& s, bool scored) const noexcept {
    const auto logarithm = [&](std::size_t age, std::size_t at) {
      return (scored ? s.scores[at] : 0.0) - decay_ * static_cast<double>(age);
    };
    double largest = -std::numeric_limits<double>::infinity(), total = 0;
    over_window(s, [&](std::size_t age, std::size_t at) {
      if (s.counted[at]) largest = std::max(largest, logarithm(age, at));
    });
    over_window(s, [&](std::size_t age, std::size_t at) {
      total += s.weights[at] = s.counted[at] ? std::exp(logarithm(age, at) - largest) : 0.0;
    });
    if (total == 0) return;
    over_window(s, [&](std::size_t, std::size_t at) { s.weights[at] /= total; });
  }

  void weighted_mean(State& s) const noexcept {
    std::fill(s.sum.begin(), s.sum.end(), 0.0);
    over_window(s, [&](std::size_t, std::size_t at) {
      const double w = s.weights[at];
      const float* x = s.rows.data() + at * in_;
      for (std::size_t c = 0; c < in_; ++c) s.sum[c] += w * x[c];
    });
  }

  void summarise(State& s, float* out) const noexcept {
    if (kind_ == count) {
      double total = 0;
      over_window(s, [&](std::size_t age, std::size_t at) {
        if (s.counted[at]) total += std::exp(-decay_ * static_cast<double>(age));
      });
      *out = static_cast<float>(total);
      return;
    }
    if (kind_ & attention) {
      weigh(s, true);
      weighted_mean(s);
      for (std::size_t c = 0; c < in_; ++c) *out++ = static_cast<float>(s.sum[c]);
    }
    if (!(kind_ & (mean | statistics))) return;
    weigh(s, false);
    weighted_mean(s);
    for (std::size_t c = 0; c < in_; ++c) *out++ = static_cast<float>(s.sum[c]);
    if (!(kind_ & statistics)) return;
    std::fill(s.square.begin(), s.square.end(), 0.0);
    over_window(s, [&](std::size_t, std::size_t at) {
      const double w = s.weights[at];
      const float* x = s.rows.data() + at * in_;
      for (std::size_t c = 0; c < in_; ++c) {
        const double d = x[c] - s.sum[c];
        s.square[c] += w * (d * d);
      }
    });
    for (std::size_t c = 0; c < in_; ++c)
      *out++ = static_cast<float>(std::sqrt(std::max(s.square[c], 0.0) + 1e-5));
  }

  Kind kind_;
  std::size_t in_, window_, hop_, mask_;  // mask_: its width, 0 without one
  double score_bias_;
  std::vector<float> score_;
  double decay_;
};

/// y = W x + b
class LinearNode final : public Node {
 public:
  LinearNode(std::size_t in, std::size_t out, std::span<const float> weight, std::span<const float> bias)
      : Node(out, {}), layer_(in, out, weight, bias) {}

  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    layer_.run(in[0], n, out);
    return n;
  }

 private:
  DenseRows layer_;
};

class ActivationNode final : public Node {
 public:
  enum Kind { identity, relu, leaky_relu, tanh, sigmoid, softmax, clip };

  ActivationNode(std::size_t width, Kind kind, double a, double b)
      : Node(width, {}), kind_(kind), a_(static_cast<float>(a)), b_(static_cast<float>(b)) {}

  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    const float* x = in[0];
    const std::size_t count = n * width();
    switch (kind_) {
      case identity:
        std::copy(x, x + count, out);
        break;
      case relu:
        for (std::size_t i = 0; i < count; ++i) out[i] = x[i] < 0 ? 0.0f : x[i];  // keeps a NaN visible
        break;
      case leaky_relu:
        for (std::size_t i = 0; i < count; ++i) out[i] = x[i] > 0 ? x[i] : a_ * x[i];
        break;
      case tanh:
        for (std::size_t i = 0; i < count; ++i) out[i] = std::tanh(x[i]);
        break;
      case sigmoid:
        for (std::size_t i = 0; i < count; ++i) out[i] = 1.0f / (1.0f + std::exp(-x[i]));
        break;
      case clip:
        for (std::size_t i = 0; i < count; ++i) out[i] = x[i] < a_ ? a_ : x[i] > b_ ? b_ : x[i];
        break;
      case softmax:
        for (std::size_t r = 0; r < n; ++r, x += width(), out += width()) soft(x, out);
        break;
    }
    return n;
  }

 private:
  void soft(const float* x, float* out) const noexcept {
    const float largest = *std::max_element(x, x + width());
    double total = 0;
    for (std::size_t c = 0; c < width(); ++c) total += std::exp((static_cast<double>(x[c]) - largest) / a_);
    for (std::size_t c = 0; c < width(); ++c)
      out[c] = static_cast<float>(std::exp((static_cast<double>(x[c]) - largest) / a_) / total);
  }
  Kind kind_;
  float a_, b_;
};

/// Mean of the inputs' rows, value by value
class AverageNode final : public Node {
 public:
  AverageNode(std::size_t width, std::size_t inputs) : Node(width, {}), inputs_(inputs) {}

  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    for (std::size_t i = 0; i < n * width(); ++i) {
      double sum = 0;
      for (std::size_t k = 0; k < inputs_; ++k) sum += in[k][i];
      out[i] = static_cast<float>(sum / static_cast<double>(inputs_));
    }
    return n;
  }

 private:
  std::size_t inputs_;
};

// Factories: options and tensors of a card -> node
// ----------------------------------------------------------------

std::unique_ptr<Node> make_front_end(NodeSource& source) {
  if (!source.signal || source.signal->kind != "audio")
    source.fail("its input must be an audio signal of the model");
  if (source.widths[0] != 1)
    source.fail("takes one channel, got " + std::to_string(source.widths[0]) + "; resample with a mix first");
  const Json& json = source.options.get("options");
  std::shared_ptr<const FrontEnd> plan;
  try {
    const FrontEndOptions options = FrontEndOptions::from_json(json.dump());
    // The front end takes far more; a file that nobody vouches for gets what no real model exceeds.
    if (options.n_fft > 1 << 17 || options.n_mels > 1 << 12)
      source.fail("n_fft must be at most 131072 and n_mels at most 4096 in a model file");
    if (static_cast<double>(options.n_mfcc) * options.n_mels > 1 << 20)
      source.fail("n_mfcc * n_mels must be at most 1048576 in a model file");
    plan = std::make_shared<const FrontEnd>(options);
  } catch (const InvalidArgument& error) {
    source.fail(error.what());
  }
  if (plan->options().sample_rate != source.rate)
    source.fail("sample_rate " + std::to_string(plan->options().sample_rate) +
                " differs from the input's rate " + std::to_string(source.rate));
  std::string reason;
  if (!plan->streamable(&reason)) source.fail("cannot run live: " + reason);
  if (plan->features() > static_cast<std::size_t>(kMaxWidth)) source.fail("has too many features");
  // An infinity would come out of a tanh or a softmax as a number like any other.
  if (plan->first_unusable(&kMaxSample, 1) == 0)
    source.fail("scale and power overflow for samples that the engine accepts (up to 1e6)");
  return std::make_unique<FrontEndNode>(std::move(plan), source.direct);
}

std::unique_ptr<Node> make_standardise(NodeSource& source) {
  options_of(source).done();
  const std::size_t width = source.widths[0];
  const auto mean = source.tensor("mean", {width}), scale = source.tensor("scale", {width});
  return std::make_unique<StandardiseNode>(mean, scale);
}

std::unique_ptr<Node> make_stack(NodeSource& source) {
  Fields options = options_of(source);
  const auto size = static_cast<std::size_t>(options.integer("size", 1, kMaxWidth));
  const auto stride = static_cast<std::size_t>(options.integer("stride", 1, kMaxWidth));
  options.done();
  if (size * source.widths[0] > static_cast<std::size_t>(kMaxWidth))
    source.fail("gives rows of " + std::to_string(size * source.widths[0]) + " values, more than " +
                std::to_string(kMaxWidth));
  return std::make_unique<StackNode>(source.widths[0], size, stride);
}

std::unique_ptr<Node> make_tcn(NodeSource& source) {
  Fields options = options_of(source);
  TcnOptions tcn;
  tcn.in = static_cast<int>(source.widths[0]);
  tcn.channels = options.integers("channels", 1, kMaxWidth, 64);
  tcn.kernel_size = static_cast<int>(options.integer("kernel_size", 1, 256));
  if (options.has("dilations")) tcn.dilations = options.integers("dilations", 1, 1 << 24, 64);
  const std::string activation = options.text("activation", {"relu", "leaky_relu", "prelu"});
  tcn.activation = activation == "relu"         ? Rectifier::relu
                   : activation == "leaky_relu" ? Rectifier::leaky_relu
                                                : Rectifier::prelu;
  if (options.has("slope")) tcn.slope = static_cast<float>(options.number("slope", -1e6, 1e6));
  const bool int8 = options.has("arithmetic") && options.text("arithmetic", {"float32", "int8"}) == "int8";
  if (int8) tcn.arithmetic = Arithmetic::int8;
  options.done();
  const auto reserve = [&](std::size_t out, std::size_t in, std::size_t taps) {
    source.reserve(out, int8 ? in / 4 + 2 : in, taps);
  };
  std::vector<TcnBlockWeights> blocks;
  std::size_t in = source.widths[0];
  const auto k = static_cast<std::size_t>(tcn.kernel_size);
  for (std::size_t l = 0; l < tcn.channels.size(); ++l) {
    const auto out = static_cast<std::size_t>(tcn.channels[l]);
    const std::string prefix = std::to_string(l) + ".";
    reserve(out, in, k);
    reserve(out, out, k);
    TcnBlockWeights b;
    b.conv1_weight = source.tensor(prefix + "conv1.weight", {out, in, k});
    b.conv1_bias = source.tensor(prefix + "conv1.bias", {out});
    b.conv2_weight = source.tensor(prefix + "conv2.weight", {out, out, k});
    b.conv2_bias = source.tensor(prefix + "conv2.bias", {out});
    if (in != out || source.has(prefix + "residual.weight") || source.has(prefix + "residual.bias")) {
      reserve(out, in, 1);
      b.residual_weight = source.tensor(prefix + "residual.weight", {out, in});
      b.residual_bias = source.tensor(prefix + "residual.bias", {out});
    }
    if (tcn.activation == Rectifier::prelu) {
      const auto slope = [&](const std::string& param) {
        const TensorView* found = source.tensors->find(source.name + "." + prefix + param);
        const bool shared = found && found->shape == std::vector<std::size_t>{1};
        return source.tensor(prefix + param, {shared ? 1 : out});
      };
      b.slope1 = slope("slope1");
      b.slope2 = slope("slope2");
      b.slope3 = slope("slope3");
    }
    blocks.push_back(b);
    in = out;
  }
  try {
    return std::make_unique<TcnNode>(Tcn(tcn, blocks));
  } catch (const InvalidArgument& error) {
    source.fail(error.what());
  }
}

std::unique_ptr<Node> make_pool(NodeSource& source) {
  Fields options = options_of(source);
  const std::string kind =
      options.text("kind", {"attention_statistics", "attention", "statistics", "mean", "count"});
  const auto window = static_cast<std::size_t>(options.integer("window", 1, 1 << 24));
  const auto hop = static_cast<std::size_t>(options.integer("hop", 1, 1 << 24));
  std::optional<double> half_life;
  if (options.has("half_life") && !options.get("half_life").is_null())
    half_life = options.number("half_life", 1e-6, 1e12);
  options.done();
  const std::size_t width = source.widths[0];
  if (3 * width > static_cast<std::size_t>(kMaxWidth)) source.fail("has too many values per row");
  const bool scored = kind == "attention" || kind == "attention_statistics";
  std::span<const float> score;
  float bias = 0;
  if (scored) {
    score = source.tensor("score.weight", {1, width});
    bias = source.tensor("score.bias", {1})[0];
  }
  const PoolNode::Kind value = kind == "attention_statistics" ? PoolNode::attention_statistics
                               : kind == "attention"          ? PoolNode::attention
                               : kind == "statistics"         ? PoolNode::statistics
                               : kind == "count"              ? PoolNode::count
                                                              : PoolNode::mean;
  const std::size_t mask = source.widths.size() > 1 ? source.widths[1] : 0;
  return std::make_unique<PoolNode>(value, width, window, hop, half_life, score, bias, mask);
}

std::unique_ptr<Node> make_linear(NodeSource& source) {
  Fields options = options_of(source);
  const auto units = static_cast<std::size_t>(options.integer("units", 1, kMaxWidth));
  options.done();
  const std::size_t in = source.widths[0];
  source.reserve(units, in, 1);
  const auto weight = source.tensor("weight", {units, in}), bias = source.tensor("bias", {units});
  return std::make_unique<LinearNode>(in, units, weight, bias);
}

std::unique_ptr<Node> make_activation(NodeSource& source) {
  Fields options = options_of(source);
  const std::string kind =
      options.text("kind", {"identity", "relu", "leaky_relu", "tanh", "sigmoid", "softmax", "clip"});
  static const std::map<std::string, ActivationNode::Kind> kinds = {
      {"identity", ActivationNode::identity},
      {"relu", ActivationNode::relu},
      {"leaky_relu", ActivationNode::leaky_relu},
      {"tanh", ActivationNode::tanh},
      {"sigmoid", ActivationNode::sigmoid},
      {"softmax", ActivationNode::softmax},
      {"clip", ActivationNode::clip}};
  double a = 0, b = 0;
  if (kind == "leaky_relu") a = options.has("slope") ? options.number("slope", -1e6, 1e6) : 0.01;
  if (kind == "softmax") a = options.has("temperature") ? options.number("temperature", 1e-6, 1e6) : 1.0;
  if (kind == "clip") {
    a = options.number("min", -1e30, 1e30);
    b = options.number("max", -1e30, 1e30);
    if (a > b) source.fail("clip: 'min' must not exceed 'max'");
  }
  options.done();
  return std::make_unique<ActivationNode>(source.widths[0], kinds.at(kind), a, b);
}

std::unique_ptr<Node> make_average(NodeSource& source) {
  options_of(source).done();
  for (const std::size_t width : source.widths)
    if (width != source.widths[0])
      source.fail("its inputs must be equally wide, got " + std::to_string(source.widths[0]) + " and " +
                  std::to_string(width) + " values");
  return std::make_unique<AverageNode>(source.widths[0], source.widths.size());
}

}  // namespace

std::size_t Node::state_bytes(std::size_t) const { return 0; }
std::unique_ptr<NodeState> Node::make_state(std::size_t) const { return std::make_unique<NodeState>(); }
std::size_t Node::finish(float*, NodeState&) const noexcept { return 0; }
void Node::step_many(const float* const* in, std::size_t streams, float* const* out,
                     NodeState* const* states) const noexcept {
  for (std::size_t s = 0; s < streams; ++s) process(&in[s], 1, out[s], *states[s]);
}

TensorTable::TensorTable(const std::vector<TensorView>& tensors) {
  for (const TensorView& tensor : tensors) unused_.emplace(tensor.name, &tensor);
  all_ = unused_;
}

const TensorView* TensorTable::find(const std::string& name) {
  const auto it = all_.find(name);
  if (it == all_.end()) return nullptr;
  unused_.erase(name);
  return it->second;
}

void TensorTable::done() const {
  if (!unused_.empty())
    throw ModelFileError("tensor " + brief(unused_.begin()->first) + " belongs to no node");
}

bool TensorTable::reserve(std::size_t floats) noexcept {
  packed_ += floats;  // each at most 2^41, of which a graph has fewer than 2^16
  return packed_ <= kMaxPacked / sizeof(float);
}

void NodeSource::reserve(std::size_t out, std::size_t in, std::size_t taps) const {
  if (!tensors->reserve(dense::packed_size(out, in, taps)))
    fail("the weights up to this node would take more than " + std::to_string(kMaxPacked >> 30) +
         " GiB in memory, where outputs are padded to multiples of " + std::to_string(dense::block));
}

std::span<const float> NodeSource::tensor(const std::string& param,
                                          const std::vector<std::size_t>& shape) const {
  const TensorView* found = tensors->find(name + "." + param);
  if (!found) fail("the tensor '" + name + "." + param + "' of shape " + shape_text(shape) + " is missing");
  if (found->shape != shape)
    fail("the tensor '" + name + "." + param + "' must have shape " + shape_text(shape) + ", got " +
         shape_text(found->shape));
  return found->values;
}

Fields options_of(NodeSource& source) {
  return Fields(source.options.object("options"), source.options.where());
}

std::unique_ptr<Node> make_node(NodeSource& source) {
  struct Type {
    std::unique_ptr<Node> (*make)(NodeSource&);
    std::size_t least = 1, most = 1;  // inputs
    const char* takes = "one input";
    int schema = 1;  // the first that has it
  };
  static const std::map<std::string, Type> types = {
      {"front_end", {make_front_end}},
      {"standardise", {make_standardise}},
      {"stack", {make_stack}},
      {"tcn", {make_tcn}},
      {"pool", {make_pool, 1, 2, "one or two inputs"}},
      {"linear", {make_linear}},
      {"activation", {make_activation}},
      {"average", {make_average, 2, kMaxInputs, "2 to 16 inputs"}},
      {"activity", {make_activity}},
      {"adapt", {make_adapt, 1, 3, "one to three inputs"}},
      {"resample", {make_resample, 1, 1, "one input", 2}},
      {"filter", {make_filter, 1, 1, "one input", 2}},
      {"reference", {make_reference, 1, 1, "one input", 2}},
      {"band_power", {make_band_power, 1, 1, "one input", 2}},
      {"align", {make_align, 1, 1, "one input", 2}},
      {"presence", {make_presence, 1, 1, "one input", 2}},
      {"gate", {make_gate, 2, 2, "two inputs", 2}},
      {"concat", {make_concat, 2, kMaxInputs, "2 to 16 inputs", 2}},
      {"co_attention", {make_co_attention, 2, kMaxInputs, "2 to 16 inputs", 2}},
      {"smooth", {make_smooth, 1, 1, "one input", 2}}};
  const auto it = types.find(source.type);
  if (it == types.end() || it->second.schema > source.schema)
    source.fail("unknown node type " + brief(std::string_view(source.type)));
  const Type& type = it->second;
  if (const std::size_t count = source.widths.size(); count < type.least || count > type.most)
    source.fail(std::string("takes ") + type.takes + ", got " + std::to_string(count));
  return type.make(source);
}

}  // namespace affekt
