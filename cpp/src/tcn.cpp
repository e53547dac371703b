#include "affekt/tcn.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "affekt/error.hpp"
#include "kernels/dense.hpp"

namespace affekt {
namespace {

constexpr std::size_t kMaxStateFloats = (std::size_t{1} << 30) / sizeof(float);
constexpr int kMaxChannels = 1 << 16, kMaxTaps = 1 << 8, kMaxBlocks = 64;
constexpr int kMaxDilation = 1 << 24;

/// Rows that share one pass over the weights.
constexpr std::size_t kTile = 8;

void check_range(const std::string& what, long long value, long long low, long long high) {
  if (value < low || value > high)
    throw InvalidArgument("tcn: " + what + " must be in [" + std::to_string(low) + ", " +
                          std::to_string(high) + "], got " + std::to_string(value));
}

void check_count(std::size_t block, const char* what, std::size_t count, std::size_t expected) {
  if (count != expected)
    throw InvalidArgument("tcn: block " + std::to_string(block) + ": " + what + " must have " +
                          std::to_string(expected) + " values, got " + std::to_string(count));
}

/// The kernels of this process for integers: those of avx512 want an instruction that its first CPUs lack.
const DenseKernels& int8_kernels() {
#if defined(__x86_64__) && !defined(AFFEKT_ONE_ISA)
  if (active_isa() == Isa::avx512 && !__builtin_cpu_supports("avx512vnni")) return avx2::dense_kernels;
#endif
  return dense_kernels();
}

/// One scale per output, s = max |w| / 127, and round(w / s).
std::vector<std::int8_t> to_int8(std::span<const float> weight, std::vector<float>& scale) {
  for (const float w : weight)
    if (!std::isfinite(w))
      throw InvalidArgument("tcn: weights must be finite to become int8, got " + std::to_string(w));
  const std::size_t columns = weight.size() / scale.size();
  std::vector<std::int8_t> values(weight.size());
  for (std::size_t o = 0; o < scale.size(); ++o) {
    const auto row = weight.subspan(o * columns, columns);
    float largest = 0;
    for (const float w : row) largest = std::max(largest, std::abs(w));
    scale[o] = largest > 1e-30f ? largest / 127.0f : 1.0f;
    for (std::size_t i = 0; i < columns; ++i)
      values[o * columns + i] =
          static_cast<std::int8_t>(std::nearbyint(static_cast<double>(row[i]) / scale[o]));
  }
  return values;
}

}  // namespace

void TcnState::reset() noexcept {
  std::fill(memory_.begin(), memory_.end(), 0.0f);
  time_ = 0;
}

struct Tcn::Plan {
  struct Ring {  // rows of one convolution's input, row t at ((t & mask) * stride)
    std::size_t offset = 0, mask = 0, stride = 0;
  };
  struct Conv {
    DenseLayer layer;
    Int8Layer int8;  // instead
    std::uint64_t dilation = 1;
  };
  struct Block {
    Conv conv1, conv2, residual;
    bool has_residual = false;
    Ring ring1, ring2;
  };
  struct Frame {  // one row of one stream
    const float* in;
    float* out;
    float* memory;
    std::uint64_t time;
  };

  Plan(const TcnOptions& options, std::span<const TcnBlockWeights> blocks);
  void run_tile(const Frame* frames, std::size_t n) const noexcept {
    // A step is short, so the loops over its frames are compiled away.
    if (arithmetic == Arithmetic::int8) return n == 1 ? run_int8(frames, 1) : run_int8(frames, n);
    n == 1 ? run_float(frames, 1) : run_float(frames, n);
  }
  [[gnu::always_inline]] inline void run_float(const Frame* frames, std::size_t n) const noexcept;
  [[gnu::always_inline]] inline void run_int8(const Frame* frames, std::size_t n) const noexcept;
  /// place(s) gives the rows of stream s, from and to.
  template <class Place>
  void step_many(std::size_t streams, const Place& place, TcnState* const* states) const noexcept;

  /// Where the row `back` rows before that of `frame` lies; before the first row, unsigned wrap-around lands
  /// on rows that are still zero.
  static float* row(const Frame& frame, const Ring& ring, std::uint64_t back) noexcept {
    return frame.memory + ring.offset + ((frame.time - back) & ring.mask) * ring.stride;
  }

  const Arithmetic arithmetic;
  const DenseKernels& kernels;
  std::size_t in = 0, out = 0;
  int receptive_field = 1;
  std::vector<Block> blocks;
  AlignedVector<float> weights;
  // Behind the rings, rows that live for one tile: scratch + (kind * kTile + frame) * scratch_stride.
  std::size_t state_floats = 0, scratch = 0, scratch_stride = 0;
};

Tcn::Plan::Plan(const TcnOptions& options, std::span<const TcnBlockWeights> given)
    : arithmetic(options.arithmetic),
      kernels(arithmetic == Arithmetic::int8 ? int8_kernels() : dense_kernels()) {
  check_range("in", options.in, 1, kMaxChannels);
  check_range("number of blocks", static_cast<long long>(options.channels.size()), 1, kMaxBlocks);
  check_range("kernel_size", options.kernel_size, 1, kMaxTaps);
  if (!options.dilations.empty() && options.dilations.size() != options.channels.size())
    throw InvalidArgument("tcn: dilations must be one per block (" + std::to_string(options.channels.size()) +
                          "), got " + std::to_string(options.dilations.size()));
  if (options.dilations.empty())
    check_range("number of blocks with dilations 2^l", static_cast<long long>(options.channels.size()), 1,
                25);
  if (given.size() != options.channels.size())
    throw InvalidArgument("tcn: expected weights of " + std::to_string(options.channels.size()) +
                          " blocks, got " + std::to_string(given.size()));
  if (!std::isfinite(options.slope)) throw InvalidArgument("tcn: slope must be finite");

  // The arena may move while it grows: what points into it is set at the end.
  std::vector<std::pair<const float**, std::size_t>> pointers;
  const auto place = [&](const float*& pointer, std::size_t floats) {
    const std::size_t at = weights.size();
    weights.resize(at + dense::padded(floats), 0.0f);
    pointers.emplace_back(&pointer, at);
    return weights.data() + at;
  };
  const auto copy = [&](const float*& pointer, std::span<const float> values) {
    std::copy(values.begin(), values.end(), place(pointer, values.size()));
  };
  const auto convolution = [&](Conv& conv, std::span<const float> weight, std::span<const float> bias,
                               std::size_t width, std::size_t outputs, std::size_t taps, int dilation) {
    conv.dilation = static_cast<std::uint64_t>(dilation);
    if (arithmetic == Arithmetic::int8) {
      conv.int8.in = width;
      conv.int8.out = outputs;
      conv.int8.taps = taps;
      std::vector<float> scale(outputs);
      const std::vector<std::int8_t> values = to_int8(weight, scale);
      const std::size_t bytes = dense::packed_int8_size(outputs, width, taps);
      dense::pack_int8(values.data(), outputs, width, taps, kernels.int8_zero,
                       reinterpret_cast<unsigned char*>(place(conv.int8.weight, bytes / sizeof(float))));
      copy(conv.int8.scale, scale);
      copy(conv.int8.bias, bias);
      return;
    }
    conv.layer.in = width;
    conv.layer.out = outputs;
    conv.layer.taps = taps;
    dense::pack(weight.data(), outputs, width, taps,
                place(conv.layer.weight, dense::packed_size(outputs, width, taps)));
    copy(conv.layer.bias, bias);
  };
  const auto slopes = [&](const float*& pointer, std::span<const float> learned, std::size_t outputs) {
    std::vector<float> values(outputs, 0.0f);
    if (options.activation == Rectifier::leaky_relu) std::fill(values.begin(), values.end(), options.slope);
    if (options.activation == Rectifier::prelu)
      for (std::size_t c = 0; c < values.size(); ++c) values[c] = learned[learned.size() == 1 ? 0 : c];
    copy(pointer, values);
  };
  const auto ring = [&](std::size_t width, int dilation) {
    const std::size_t rows = std::bit_ceil(
        static_cast<std::size_t>(options.kernel_size - 1) * static_cast<std::size_t>(dilation) + kTile);
    const std::size_t stride = arithmetic == Arithmetic::int8
                                   ? dense::padded((dense::header + dense::padded(width)) / sizeof(float))
                                   : dense::padded(width);
    Ring r{state_floats, rows - 1, stride};
    // rows < 2^35 and stride < 2^17, so neither the product nor the sum wraps before the check
    state_floats += rows * r.stride;
    if (state_floats > kMaxStateFloats)
      throw InvalidArgument(
          "tcn: the state would take more than 1 GiB; kernel_size, dilations or channels are too large");
    return r;
  };

  in = static_cast<std::size_t>(options.in);
  std::size_t width = in;
  scratch_stride = dense::padded(width);
  long long receptive = 1;
  blocks.resize(given.size());
  for (std::size_t l = 0; l < given.size(); ++l) {
    const TcnBlockWeights& b = given[l];
    check_range("channels", options.channels[l], 1, kMaxChannels);
    const int dilation = options.dilations.empty() ? 1 << l : options.dilations[l];
    check_range("dilations", dilation, 1, kMaxDilation);
    const std::size_t o = options.channels[l], k = options.kernel_size;
    check_count(l, "conv1.weight", b.conv1_weight.size(), o * width * k);
    check_count(l, "conv1.bias", b.conv1_bias.size(), o);
    check_count(l, "conv2.weight", b.conv2_weight.size(), o * o * k);
    check_count(l, "conv2.bias", b.conv2_bias.size(), o);
    scratch_stride = std::max(scratch_stride, dense::padded(o));
    Block& block = blocks[l];
    block.has_residual = !b.residual_weight.empty() || !b.residual_bias.empty();
    if (block.has_residual) {
      check_count(l, "residual.weight", b.residual_weight.size(), o * width);
      check_count(l, "residual.bias", b.residual_bias.size(), o);
    } else if (width != o) {
      throw InvalidArgument("tcn: block " + std::to_string(l) + " changes the width from " +
                            std::to_string(width) + " to " + std::to_string(o) +
                            " and so needs a residual weight");
    }
    const bool prelu = options.activation == Rectifier::prelu;
    for (const auto& slope : {b.slope1, b.slope2, b.slope3}) {
      if (!prelu) check_count(l, "slope (no prelu)", slope.size(), 0);
      if (prelu && slope.size() != 1) check_count(l, "slope (prelu)", slope.size(), o);
    }
    block.ring1 = ring(width, dilation);
    block.ring2 = ring(o, dilation);
    // In the order of use, so that the hardware's prefetch runs on from layer to layer.
    convolution(block.conv1, b.conv1_weight, b.conv1_bias, width, o, k, dilation);
    const bool integers = arithmetic == Arithmetic::int8;
    slopes(integers ? block.conv1.int8.slope : block.conv1.layer.slope, b.slope1, o);
    if (block.has_residual) convolution(block.residual, b.residual_weight, b.residual_bias, width, o, 1, 1);
    convolution(block.conv2, b.conv2_weight, b.conv2_bias, o, o, k, dilation);
    slopes(integers ? block.conv2.int8.slope : block.conv2.layer.slope, b.slope2, o);
    slopes(integers ? block.conv2.int8.slope_out : block.conv2.layer.slope_out, b.slope3, o);
    receptive += 2LL * (options.kernel_size - 1) * dilation;
    width = o;
  }
  for (const auto& [pointer, at] : pointers) *pointer = weights.data() + at;
  receptive_field = static_cast<int>(receptive);  // bounded by the rings
  out = width;
  scratch = state_floats;
  state_floats += 3 * kTile * scratch_stride;
}

inline void Tcn::Plan::run_float(const Frame* frames, std::size_t n) const noexcept {
  const float* rows[kMaxTaps * kTile];
  const auto gather = [&](const Conv& conv, const Ring& ring) {
    for (std::size_t j = 0; j < conv.layer.taps; ++j)
      for (std::size_t f = 0; f < n; ++f)
        rows[j * kTile + f] = row(frames[f], ring, (conv.layer.taps - 1 - j) * conv.dilation);
  };
  float* target[kTile];
  const float* identity[kTile];
  for (std::size_t f = 0; f < n; ++f)
    std::memcpy(row(frames[f], blocks.front().ring1, 0), frames[f].in, in * sizeof(float));
  for (std::size_t l = 0; l < blocks.size(); ++l) {
    const Block& b = blocks[l];
    gather(b.conv1, b.ring1);
    for (std::size_t f = 0; f < n; ++f) target[f] = row(frames[f], b.ring2, 0);
    kernels.layer(b.conv1.layer, rows, kTile, n, nullptr, target);

    for (std::size_t f = 0; f < n; ++f) identity[f] = row(frames[f], b.ring1, 0);
    if (b.has_residual) {
      for (std::size_t f = 0; f < n; ++f) target[f] = frames[f].memory + scratch + f * scratch_stride;
      kernels.layer(b.residual.layer, identity, kTile, n, nullptr, target);
      for (std::size_t f = 0; f < n; ++f) identity[f] = target[f];
    }
    gather(b.conv2, b.ring2);
    for (std::size_t f = 0; f < n; ++f)
      target[f] = l + 1 < blocks.size() ? row(frames[f], blocks[l + 1].ring1, 0) : frames[f].out;
    kernels.layer(b.conv2.layer, rows, kTile, n, identity, target);
  }
}

inline void Tcn::Plan::run_int8(const Frame* frames, std::size_t n) const noexcept {
  const unsigned char* rows[kMaxTaps * kTile];
  const auto gather = [&](const Conv& conv, const Ring& ring) {
    for (std::size_t j = 0; j < conv.int8.taps; ++j)
      for (std::size_t f = 0; f < n; ++f)
        rows[j * kTile + f] = reinterpret_cast<const unsigned char*>(
            row(frames[f], ring, (conv.int8.taps - 1 - j) * conv.dilation));
  };
  const auto push = [&](float* const* from, std::size_t width, const Ring& ring) {
    for (std::size_t f = 0; f < n; ++f)
      kernels.int8_row(from[f], width, reinterpret_cast<unsigned char*>(row(frames[f], ring, 0)));
  };
  float *x[kTile], *hidden[kTile], *shortcut[kTile];
  for (std::size_t f = 0; f < n; ++f) {
    x[f] = frames[f].memory + scratch + f * scratch_stride;
    hidden[f] = x[f] + kTile * scratch_stride;
    shortcut[f] = hidden[f] + kTile * scratch_stride;
    std::memcpy(x[f], frames[f].in, in * sizeof(float));
  }
  for (std::size_t l = 0; l < blocks.size(); ++l) {
    const Block& b = blocks[l];
    push(x, b.conv1.int8.in, b.ring1);
    gather(b.conv1, b.ring1);
    kernels.int8_layer(b.conv1.int8, rows, kTile, n, nullptr, hidden);
    push(hidden, b.conv1.int8.out, b.ring2);
    // The last tap is the row itself.
    if (b.has_residual)
      kernels.int8_layer(b.residual.int8, rows + (b.conv1.int8.taps - 1) * kTile, kTile, n, nullptr,
                         shortcut);
    gather(b.conv2, b.ring2);
    float* target[kTile];  // may be where the identity lies: each value is read before it is overwritten
    for (std::size_t f = 0; f < n; ++f) target[f] = l + 1 < blocks.size() ? x[f] : frames[f].out;
    kernels.int8_layer(b.conv2.int8, rows, kTile, n, b.has_residual ? shortcut : x, target);
  }
}

template <class Place>
void Tcn::Plan::step_many(std::size_t streams, const Place& place, TcnState* const* states) const noexcept {
  Frame frames[kTile];
  for (std::size_t at = 0; at < streams; at += kTile) {
    const std::size_t m = std::min(kTile, streams - at);
    for (std::size_t f = 0; f < m; ++f) {
      TcnState& state = *states[at + f];
      const auto [from, to] = place(at + f);
      frames[f] = {from, to, state.memory_.data(), state.time_++};
    }
    run_tile(frames, m);
  }
}

Tcn::Tcn(const TcnOptions& options, std::span<const TcnBlockWeights> blocks)
    : plan_(std::make_shared<const Plan>(options, blocks)) {}

int Tcn::in() const noexcept { return static_cast<int>(plan_->in); }
int Tcn::out() const noexcept { return static_cast<int>(plan_->out); }
int Tcn::receptive_field() const noexcept { return plan_->receptive_field; }
std::size_t Tcn::state_bytes() const noexcept { return plan_->state_floats * sizeof(float); }

TcnState Tcn::make_state() const {
  TcnState state;
  state.memory_.assign(plan_->state_floats, 0.0f);
  return state;
}

void Tcn::process(const float* in, std::size_t n, float* out, TcnState& state) const noexcept {
  Plan::Frame frames[kTile];
  for (std::size_t at = 0; at < n; at += kTile) {
    const std::size_t m = std::min(kTile, n - at);
    for (std::size_t f = 0; f < m; ++f)
      frames[f] = {in + (at + f) * plan_->in, out + (at + f) * plan_->out, state.memory_.data(),
                   state.time_ + f};
    plan_->run_tile(frames, m);
    state.time_ += m;
  }
}

void Tcn::step_many(const float* in, std::size_t streams, float* out,
                    TcnState* const* states) const noexcept {
  plan_->step_many(
      streams, [&](std::size_t s) { return std::pair(in + s * plan_->in, out + s * plan_->out); }, states);
}
void Tcn::step_many(const float* const* in, std::size_t streams, float* const* out,
                    TcnState* const* states) const noexcept {
  plan_->step_many(
      streams, [&](std::size_t s) { return std::pair(in[s], out[s]); }, states);
}

}  // namespace affekt
