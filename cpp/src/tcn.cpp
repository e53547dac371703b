#include "affekt/tcn.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "affekt/error.hpp"
#include "dense.hpp"

namespace affekt {
namespace {

constexpr std::size_t kMaxStateFloats = (std::size_t{1} << 30) / sizeof(float);
constexpr int kMaxChannels = 1 << 16, kMaxTaps = 1 << 8, kMaxBlocks = 64;
constexpr int kMaxDilation = 1 << 24;

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

}  // namespace

void TcnState::reset() noexcept {
  std::fill(memory_.begin(), memory_.end(), 0.0f);
  time_ = 0;
}

Tcn::Tcn(const TcnOptions& options, std::span<const TcnBlockWeights> blocks) {
  check_range("in", options.in, 1, kMaxChannels);
  check_range("number of blocks", static_cast<long long>(options.channels.size()), 1, kMaxBlocks);
  check_range("kernel_size", options.kernel_size, 1, kMaxTaps);
  if (!options.dilations.empty() && options.dilations.size() != options.channels.size())
    throw InvalidArgument("tcn: dilations must be one per block (" + std::to_string(options.channels.size()) +
                          "), got " + std::to_string(options.dilations.size()));
  if (options.dilations.empty())
    check_range("number of blocks with dilations 2^l", static_cast<long long>(options.channels.size()), 1,
                25);
  if (blocks.size() != options.channels.size())
    throw InvalidArgument("tcn: expected weights of " + std::to_string(options.channels.size()) +
                          " blocks, got " + std::to_string(blocks.size()));
  if (!std::isfinite(options.slope)) throw InvalidArgument("tcn: slope must be finite");

  const auto place = [this](std::size_t floats) {
    const std::size_t at = weights_.size();
    weights_.resize(at + dense::padded(floats), 0.0f);
    return at;
  };
  const auto copy = [&](std::span<const float> values) {
    const std::size_t at = place(values.size());
    std::copy(values.begin(), values.end(), weights_.begin() + static_cast<std::ptrdiff_t>(at));
    return at;
  };
  const auto convolution = [&](std::span<const float> weight, std::span<const float> bias, int in, int out,
                               int taps, int dilation) {
    Conv conv{in, out, taps, dilation, 0, 0, 0};
    conv.weight = place(dense::packed_size(out, in, taps));
    dense::pack(weight.data(), out, in, taps, weights_.data() + conv.weight);
    conv.bias = copy(bias);
    return conv;
  };
  const auto slopes = [&](std::span<const float> learned, int out) {
    std::vector<float> values(static_cast<std::size_t>(out), 0.0f);
    if (options.activation == Rectifier::leaky_relu) std::fill(values.begin(), values.end(), options.slope);
    if (options.activation == Rectifier::prelu)
      for (std::size_t c = 0; c < values.size(); ++c) values[c] = learned[learned.size() == 1 ? 0 : c];
    return copy(values);
  };
  const auto ring = [&](int width, int dilation) {
    const std::size_t rows = std::bit_ceil(
        static_cast<std::size_t>(options.kernel_size - 1) * static_cast<std::size_t>(dilation) + tile);
    Ring r{state_floats_, rows - 1, dense::padded(static_cast<std::size_t>(width))};
    // rows < 2^35 and stride < 2^17, so neither the product nor the sum wraps before the check
    state_floats_ += rows * r.stride;
    if (state_floats_ > kMaxStateFloats)
      throw InvalidArgument(
          "tcn: the state would take more than 1 GiB; kernel_size, dilations or channels are too large");
    return r;
  };

  in_ = options.in;
  int width = in_;
  long long receptive = 1;
  for (std::size_t l = 0; l < blocks.size(); ++l) {
    const TcnBlockWeights& b = blocks[l];
    const int out = options.channels[l], taps = options.kernel_size;
    check_range("channels", out, 1, kMaxChannels);
    const int dilation = options.dilations.empty() ? 1 << l : options.dilations[l];
    check_range("dilations", dilation, 1, kMaxDilation);
    const std::size_t o = out, i = width, k = taps;
    check_count(l, "conv1.weight", b.conv1_weight.size(), o * i * k);
    check_count(l, "conv1.bias", b.conv1_bias.size(), o);
    check_count(l, "conv2.weight", b.conv2_weight.size(), o * o * k);
    check_count(l, "conv2.bias", b.conv2_bias.size(), o);
    Block block;
    block.has_residual = !b.residual_weight.empty() || !b.residual_bias.empty();
    if (block.has_residual) {
      check_count(l, "residual.weight", b.residual_weight.size(), o * i);
      check_count(l, "residual.bias", b.residual_bias.size(), o);
    } else if (width != out) {
      throw InvalidArgument("tcn: block " + std::to_string(l) + " changes the width from " +
                            std::to_string(width) + " to " + std::to_string(out) +
                            " and so needs a residual weight");
    }
    const bool prelu = options.activation == Rectifier::prelu;
    for (const auto& slope : {b.slope1, b.slope2, b.slope3}) {
      if (!prelu) check_count(l, "slope (no prelu)", slope.size(), 0);
      if (prelu && slope.size() != 1) check_count(l, "slope (prelu)", slope.size(), o);
    }
    block.ring1 = ring(width, dilation);
    block.ring2 = ring(out, dilation);
    block.conv1 = convolution(b.conv1_weight, b.conv1_bias, width, out, taps, dilation);
    block.conv2 = convolution(b.conv2_weight, b.conv2_bias, out, out, taps, dilation);
    if (block.has_residual)
      block.residual = convolution(b.residual_weight, b.residual_bias, width, out, 1, 1);
    block.conv1.slope = slopes(b.slope1, out);
    block.conv2.slope = slopes(b.slope2, out);
    block.slope_out = slopes(b.slope3, out);
    blocks_.push_back(block);
    receptive += 2LL * (taps - 1) * dilation;
    width = out;
  }
  receptive_field_ = static_cast<int>(receptive);  // bounded by the rings
  out_ = width;
  result_ = state_floats_;
  result_stride_ = dense::padded(static_cast<std::size_t>(out_));
  state_floats_ += tile * result_stride_;
}

TcnState Tcn::make_state() const {
  TcnState state;
  state.memory_.assign(state_floats_, 0.0f);
  return state;
}

void Tcn::process(const float* in, std::size_t n, float* out, TcnState& state) const noexcept {
  const std::size_t width = in_, result = out_;
  const Ring& first = blocks_.front().ring1;
  while (n > 0) {
    const std::size_t m = std::min(n, tile);
    float* memory = state.memory_.data();
    for (std::size_t f = 0; f < m; ++f)
      std::memcpy(memory + first.offset + ((state.time_ + f) & first.mask) * first.stride, in + f * width,
                  width * sizeof(float));
    run_tile(m, state);
    for (std::size_t f = 0; f < m; ++f)
      std::memcpy(out + f * result, memory + result_ + f * result_stride_, result * sizeof(float));
    state.time_ += m;
    in += m * width;
    out += m * result;
    n -= m;
  }
}

void Tcn::run_tile(std::size_t n, TcnState& state) const noexcept {
  using dense::Vec;
  float* const memory = state.memory_.data();
  const std::uint64_t t = state.time_;
  const auto row = [&](const Ring& ring, std::uint64_t time) {
    return memory + ring.offset + (time & ring.mask) * ring.stride;
  };
  const float* rows[kMaxTaps * tile];
  const auto gather = [&](const Conv& conv, const Ring& ring) {
    for (std::size_t j = 0; j < static_cast<std::size_t>(conv.taps); ++j) {
      const std::uint64_t back =
          static_cast<std::uint64_t>(conv.taps - 1 - static_cast<int>(j)) * conv.dilation;
      // Unsigned wrap-around before the first row lands on rows that are still zero.
      for (std::size_t f = 0; f < n; ++f) rows[j * tile + f] = row(ring, t + f - back);
    }
  };
  for (std::size_t l = 0; l < blocks_.size(); ++l) {
    const Block& b = blocks_[l];
    float* target[tile];
    const float* identity[tile];
    const float* w = weights_.data();

    gather(b.conv1, b.ring1);
    for (std::size_t f = 0; f < n; ++f) target[f] = row(b.ring2, t + f);
    dense::apply(w + b.conv1.weight, w + b.conv1.bias, rows, tile, b.conv1.taps, b.conv1.in, b.conv1.out, n,
                 [&](std::size_t f, std::size_t lane, Vec value) {
                   dense::rectify(value, *reinterpret_cast<const Vec*>(w + b.conv1.slope + lane));
                   *reinterpret_cast<Vec*>(target[f] + lane) = value;
                 });

    for (std::size_t f = 0; f < n; ++f) {
      target[f] =
          l + 1 < blocks_.size() ? row(blocks_[l + 1].ring1, t + f) : memory + result_ + f * result_stride_;
      identity[f] = row(b.ring1, t + f);
    }
    if (b.has_residual) {
      dense::apply(w + b.residual.weight, w + b.residual.bias, identity, tile, 1, b.residual.in,
                   b.residual.out, n, [&](std::size_t f, std::size_t lane, const Vec& value) {
                     *reinterpret_cast<Vec*>(target[f] + lane) = value;
                   });
      for (std::size_t f = 0; f < n; ++f) identity[f] = target[f];
    }
    gather(b.conv2, b.ring2);
    dense::apply(w + b.conv2.weight, w + b.conv2.bias, rows, tile, b.conv2.taps, b.conv2.in, b.conv2.out, n,
                 [&](std::size_t f, std::size_t lane, Vec value) {
                   dense::rectify(value, *reinterpret_cast<const Vec*>(w + b.conv2.slope + lane));
                   value += *reinterpret_cast<const Vec*>(identity[f] + lane);
                   dense::rectify(value, *reinterpret_cast<const Vec*>(w + b.slope_out + lane));
                   *reinterpret_cast<Vec*>(target[f] + lane) = value;
                 });
  }
}

}  // namespace affekt
