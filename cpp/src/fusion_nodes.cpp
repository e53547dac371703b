#include "node_types.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "affekt/error.hpp"
#include "dense_rows.hpp"

namespace affekt {
namespace {

/// Rows as they are. The graph fills the rows of an `align` itself, and shows a `presence` whether those of
/// its input were there.
class CopyNode final : public Node {
 public:
  explicit CopyNode(std::size_t width) : Node(width, {}) {}
  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    std::copy(in[0], in[0] + n * width(), out);
    return n;
  }
};

/// x where the mean of the mask row is at least 0.5, else zeros
class GateNode final : public Node {
 public:
  GateNode(std::size_t width, std::size_t mask) : Node(width, {}), mask_(mask) {}
  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    for (std::size_t r = 0; r < n; ++r, out += width()) {
      if (row_mean(in[1] + r * mask_, mask_) >= 0.5) {
        std::copy_n(in[0] + r * width(), width(), out);
      } else {
        std::fill_n(out, width(), 0.0f);
      }
    }
    return n;
  }

 private:
  std::size_t mask_;
};

/// The inputs' rows side by side
class ConcatNode final : public Node {
 public:
  ConcatNode(std::size_t width, std::vector<std::size_t> widths)
      : Node(width, {}), widths_(std::move(widths)) {}
  std::size_t process(const float* const* in, std::size_t n, float* out, NodeState&) const noexcept override {
    for (std::size_t r = 0; r < n; ++r)
      for (std::size_t i = 0; i < widths_.size(); ++i)
        out = std::copy_n(in[i] + r * widths_[i], widths_[i], out);
    return n;
  }

 private:
  std::vector<std::size_t> widths_;
};

/// Attention between the modalities of one row; nothing passes from row to row.
class CoAttentionNode final : public Node {
 public:
  /// `projections`: per modality one layer that gives query, key and value side by side.
  CoAttentionNode(std::vector<DenseRows> projections, std::size_t dim, std::size_t heads, bool masked)
      : Node(projections.size() * dim, {}),
        projections_(std::move(projections)),
        dim_(dim),
        heads_(heads),
        masked_(masked) {}

  std::size_t state_bytes(std::size_t) const override { return floats() * sizeof(float); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(floats());
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    const std::size_t modalities = projections_.size();
    for (std::size_t at = 0; at < n; at += kTile) {
      const std::size_t m = std::min(kTile, n - at);
      for (std::size_t i = 0; i < modalities; ++i)
        projections_[i].run(in[i] + at * projections_[i].in(), m, s.qkv.data() + i * kTile * 3 * dim_);
      for (std::size_t r = 0; r < m; ++r) {
        const float* const mask = masked_ ? in[modalities] + (at + r) * modalities : nullptr;
        attend(s.qkv.data() + r * 3 * dim_, mask, out + (at + r) * width());
      }
    }
    return n;
  }

 private:
  static constexpr std::size_t kTile = 8;
  struct State final : StateOf<State> {
    explicit State(std::size_t n) : qkv(n) {}
    std::vector<float> qkv;  // (modality, row of the tile, 3 dim)
  };
  std::size_t floats() const { return projections_.size() * kTile * 3 * dim_; }

  /// qkv: of the row of modality 0; those of the others follow at a tile's distance.
  void attend(const float* qkv, const float* mask, float* out) const noexcept {
    const std::size_t modalities = projections_.size(), step = kTile * 3 * dim_, size = dim_ / heads_;
    const double scale = 1.0 / std::sqrt(static_cast<double>(size));
    const auto there = [&](std::size_t i) { return !mask || mask[i] >= 0.5f; };
    double weight[kMaxInputs];
    for (std::size_t i = 0; i < modalities; ++i, out += dim_) {
      if (!there(i)) {
        std::fill_n(out, dim_, 0.0f);
        continue;
      }
      for (std::size_t h = 0; h < heads_; ++h) {
        const float* const query = qkv + i * step + h * size;
        double largest = -INFINITY, total = 0;
        for (std::size_t j = 0; j < modalities; ++j) {
          if (!there(j)) continue;
          const float* const key = qkv + j * step + dim_ + h * size;
          double score = 0;
          for (std::size_t c = 0; c < size; ++c) score += static_cast<double>(query[c]) * key[c];
          weight[j] = score * scale;
          largest = std::max(largest, weight[j]);
        }
        for (std::size_t j = 0; j < modalities; ++j)
          if (there(j)) total += weight[j] = std::exp(weight[j] - largest);
        for (std::size_t c = 0; c < size; ++c) {
          double sum = 0;
          for (std::size_t j = 0; j < modalities; ++j)
            if (there(j)) sum += weight[j] * qkv[j * step + 2 * dim_ + h * size + c];
          out[h * size + c] = static_cast<float>(sum / total);
        }
      }
    }
  }

  std::vector<DenseRows> projections_;
  std::size_t dim_, heads_;
  bool masked_;
};

/// Low-pass over rows, value by value: exponential, or One-Euro (Casiez, Roussel and Vogel, 2012)
class SmoothNode final : public Node {
 public:
  struct Options {
    double rate = 0;
    double time_constant = 0;  // exponential; 0: One-Euro
    double min_cutoff = 0, beta = 0, derivative_cutoff = 1;
  };
  SmoothNode(std::size_t width, const Options& options)
      : Node(width, {}),
        o_(options),
        ema_(options.time_constant > 0 ? -std::expm1(-1.0 / (options.rate * options.time_constant)) : 0.0),
        speed_(share(options.derivative_cutoff)) {}

  std::size_t state_bytes(std::size_t) const override { return 2 * width() * sizeof(double) + width(); }
  std::unique_ptr<NodeState> make_state(std::size_t) const override {
    return std::make_unique<State>(width());
  }
  std::size_t process(const float* const* in, std::size_t n, float* out,
                      NodeState& base) const noexcept override {
    State& s = static_cast<State&>(base);
    const float* x = in[0];
    for (std::size_t r = 0; r < n; ++r, x += width(), out += width())
      for (std::size_t c = 0; c < width(); ++c) out[c] = step(x[c], s, c);
    return n;
  }

 private:
  struct State final : StateOf<State> {
    explicit State(std::size_t width) : value(width), speed(width), begun(width) {}
    void reset() noexcept override {
      std::fill(speed.begin(), speed.end(), 0.0);
      std::fill(begun.begin(), begun.end(), 0);
    }
    std::vector<double> value, speed;
    std::vector<unsigned char> begun;
  };
  /// Weight of a new value in a first-order low-pass of that cut-off, Hz.
  double share(double cutoff) const noexcept {
    const double tau = 1.0 / (2.0 * std::numbers::pi * cutoff);
    return 1.0 / (1.0 + tau * o_.rate);
  }
  float step(float x, State& s, std::size_t c) const noexcept {
    if (!std::isfinite(x)) return x;  // must be seen, and must not stay
    double& value = s.value[c];
    if (!s.begun[c]) {
      s.begun[c] = 1;
      value = x;
    } else if (o_.time_constant > 0) {
      value += ema_ * (x - value);
    } else {
      s.speed[c] += speed_ * ((x - value) * o_.rate - s.speed[c]);
      value += share(o_.min_cutoff + o_.beta * std::abs(s.speed[c])) * (x - value);
    }
    return static_cast<float>(value);
  }
  Options o_;
  double ema_, speed_;
};

}  // namespace

std::unique_ptr<Node> make_align(NodeSource& source) {
  options_of(source).done();
  return std::make_unique<CopyNode>(source.widths[0]);
}

std::unique_ptr<Node> make_presence(NodeSource& source) {
  options_of(source).done();
  return std::make_unique<CopyNode>(1);
}

std::unique_ptr<Node> make_gate(NodeSource& source) {
  options_of(source).done();
  return std::make_unique<GateNode>(source.widths[0], source.widths[1]);
}

std::unique_ptr<Node> make_concat(NodeSource& source) {
  options_of(source).done();
  std::size_t width = 0;
  for (const std::size_t w : source.widths) width += w;
  if (width > static_cast<std::size_t>(kMaxWidth))
    source.fail("gives rows of " + std::to_string(width) + " values, more than " + std::to_string(kMaxWidth));
  return std::make_unique<ConcatNode>(width, source.widths);
}

std::unique_ptr<Node> make_co_attention(NodeSource& source) {
  Fields options = options_of(source);
  const auto dim = static_cast<std::size_t>(options.integer("dim", 1, 4096));
  const auto heads = static_cast<std::size_t>(options.has("heads") ? options.integer("heads", 1, 4096) : 1);
  const bool masked = options.has("masked") && options.boolean("masked");
  options.done();
  if (dim % heads != 0) source.fail("'dim' must be a multiple of 'heads'");
  const std::size_t modalities = source.widths.size() - (masked ? 1 : 0);
  if (modalities < 2) source.fail("needs at least 2 modalities");
  if (masked && source.widths.back() != modalities)
    source.fail("its last input, the mask, must have one value for each of the " +
                std::to_string(modalities) + " modalities, got " + std::to_string(source.widths.back()));
  std::vector<DenseRows> projections;
  for (std::size_t i = 0; i < modalities; ++i) {
    const std::size_t in = source.widths[i];
    source.reserve(3 * dim, in, 1);
    std::vector<float> weight, bias;
    for (const char* part : {".query", ".key", ".value"}) {
      const std::string prefix = std::to_string(i) + part;
      const auto w = source.tensor(prefix + ".weight", {dim, in});
      const auto b = source.tensor(prefix + ".bias", {dim});
      weight.insert(weight.end(), w.begin(), w.end());
      bias.insert(bias.end(), b.begin(), b.end());
    }
    projections.emplace_back(in, 3 * dim, weight, bias);
  }
  return std::make_unique<CoAttentionNode>(std::move(projections), dim, heads, masked);
}

std::unique_ptr<Node> make_smooth(NodeSource& source) {
  Fields options = options_of(source);
  SmoothNode::Options o;
  o.rate = source.rate;
  if (options.text("kind", {"exponential", "one_euro"}) == "exponential") {
    o.time_constant = options.number("time_constant", 1e-6, 1e9);
  } else {
    o.min_cutoff = options.number("min_cutoff", 1e-6, 1e6);
    o.beta = options.number("beta", 0, 1e9);
    if (options.has("derivative_cutoff"))
      o.derivative_cutoff = options.number("derivative_cutoff", 1e-6, 1e6);
  }
  options.done();
  return std::make_unique<SmoothNode>(source.widths[0], o);
}

}  // namespace affekt
