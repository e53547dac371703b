// The TCN of bench_tcn.py out of RTNeural's convolutions; built by it, with RTNeural and Eigen on the path.
// RTNeural has no residual blocks, so the sum, its 1x1 convolution and the leaky rectifier of slope 0.01 are
// written here, as its users have to.
#include <cstddef>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <RTNeural/RTNeural.h>

namespace {

using Weights = std::vector<std::vector<std::vector<float>>>;

/// Torch's (out, in, taps), newest tap last, as RTNeural wants it: newest tap first.
template <class Layer>
void set(Layer& layer, const float* weight, const float* bias, int in, int out, int taps) {
  Weights w(out, std::vector<std::vector<float>>(in, std::vector<float>(taps)));
  for (int o = 0; o < out; ++o)
    for (int i = 0; i < in; ++i)
      for (int k = 0; k < taps; ++k) w[o][i][taps - 1 - k] = weight[(o * in + i) * taps + k];
  layer.setWeights(w);
  layer.setBias(std::vector<float>(bias, bias + out));
}

struct Net {
  virtual ~Net() = default;
  /// Convolution `index`: 2 l and 2 l + 1 of block l, and 2 blocks for the residual of block 0.
  virtual void set_conv(int index, const float* weight, const float* bias) = 0;
  virtual void reset() = 0;
  virtual void steps(const float* rows, int count, float* out) = 0;
};

/// Sizes known to the compiler: RTNeural's fast form.
template <int In, int Channels, int Taps, int Dilation>
struct Block {
  using Row = Eigen::Matrix<float, Channels, 1>;
  RTNeural::Conv1DT<float, In, Channels, Taps, Dilation, 1, true> first;
  RTNeural::Conv1DT<float, Channels, Channels, Taps, Dilation, 1, true> second;
  RTNeural::Conv1DT<float, In, Channels, 1, 1> side;

  static Row leaky(const Row& x) { return x.cwiseMax(0.01f * x); }
  Row step(const Eigen::Matrix<float, In, 1>& x) {
    first.forward(x);
    second.forward(leaky(first.outs));
    const Row y = leaky(second.outs);
    if constexpr (In == Channels) {
      return leaky(y + x);
    } else {
      side.forward(x);
      return leaky(y + side.outs);
    }
  }
};

template <int In, int Channels, int Taps, class Levels>
struct Compiled;
template <int In, int Channels, int Taps, int... Level>
struct Compiled<In, Channels, Taps, std::integer_sequence<int, Level...>> : Net {
  std::tuple<Block<Level == 0 ? In : Channels, Channels, Taps, 1 << Level>...> blocks;

  template <int I>
  void set_block(int index, const float* weight, const float* bias) {
    constexpr int in = I == 0 ? In : Channels;
    auto& block = std::get<I>(blocks);
    if (index == 2 * I) set(block.first, weight, bias, in, Channels, Taps);
    if (index == 2 * I + 1) set(block.second, weight, bias, Channels, Channels, Taps);
    if (I == 0 && index == 2 * static_cast<int>(sizeof...(Level)))
      set(block.side, weight, bias, in, Channels, 1);
  }
  void set_conv(int index, const float* weight, const float* bias) override {
    (set_block<Level>(index, weight, bias), ...);
  }
  void reset() override {
    ((std::get<Level>(blocks).first.reset(), std::get<Level>(blocks).second.reset(),
      std::get<Level>(blocks).side.reset()),
     ...);
  }
  template <int I>
  auto run(const Eigen::Matrix<float, In, 1>& x) {
    if constexpr (I == 0) {
      return std::get<0>(blocks).step(x);
    } else {
      return std::get<I>(blocks).step(run<I - 1>(x));
    }
  }
  void steps(const float* rows, int count, float* out) override {
    for (int t = 0; t < count; ++t) step(rows + t * In, out + t * Channels);
  }
  void step(const float* in, float* out) {
    const Eigen::Matrix<float, In, 1> x = Eigen::Map<const Eigen::Matrix<float, In, 1>>(in);
    Eigen::Map<Eigen::Matrix<float, Channels, 1>> y(out);
    y = run<static_cast<int>(sizeof...(Level)) - 1>(x);
  }
};

/// Sizes known at run time: what a model file gives.
struct Dynamic : Net {
  using Conv = RTNeural::Conv1D<float>;
  using Row = Eigen::VectorXf;
  int in, channels, taps;
  std::vector<std::unique_ptr<Conv>> convs;
  std::unique_ptr<Conv> side;
  std::vector<Row> rows;  // input, first, second, side, output

  Dynamic(int in_, int channels_, int blocks, int taps_) : in(in_), channels(channels_), taps(taps_) {
    for (int level = 0; level < blocks; ++level) {
      convs.push_back(std::make_unique<Conv>(level == 0 ? in : channels, channels, taps, 1 << level));
      convs.push_back(std::make_unique<Conv>(channels, channels, taps, 1 << level));
    }
    if (in != channels) side = std::make_unique<Conv>(in, channels, 1, 1);
    rows = {Row(in), Row(channels), Row(channels), Row(channels), Row(channels)};
    reset();
  }
  void set_conv(int index, const float* weight, const float* bias) override {
    if (index == static_cast<int>(convs.size())) {
      if (side) set(*side, weight, bias, in, channels, 1);
    } else {
      set(*convs[index], weight, bias, index == 0 ? in : channels, channels, taps);
    }
  }
  void reset() override {
    for (auto& conv : convs) conv->reset();
    if (side) side->reset();
  }
  void steps(const float* x, int count, float* out) override {
    for (int t = 0; t < count; ++t) step(x + t * in, out + t * channels);
  }
  void step(const float* x, float* out) {
    rows[0] = Eigen::Map<const Row>(x, in);
    for (std::size_t l = 0; l < convs.size(); l += 2) {
      Row& from = rows[l == 0 ? 0 : 4];
      convs[l]->forward(from.data(), rows[1].data());
      rows[1] = rows[1].cwiseMax(0.01f * rows[1]);
      convs[l + 1]->forward(rows[1].data(), rows[2].data());
      rows[2] = rows[2].cwiseMax(0.01f * rows[2]);
      if (l == 0 && side) {
        side->forward(from.data(), rows[3].data());
        rows[2] += rows[3];
      } else {
        rows[2] += from;
      }
      rows[4] = rows[2].cwiseMax(0.01f * rows[2]);
    }
    Eigen::Map<Row> y(out, channels);
    y = rows[4];
  }
};

template <int In, int Channels, int Blocks, int Taps>
Net* compiled() {
  return new Compiled<In, Channels, Taps, std::make_integer_sequence<int, Blocks>>;
}

}  // namespace

extern "C" {

/// A network with dilations 1, 2, 4, ..., in sizes known to the compiler (`fixed`; null for sizes that are
/// not among those below) or at run time. `weights`: per block the weight and bias of both convolutions and
/// of the residual where the width changes, in torch's layout.
void* tcn_create(int in, int channels, int blocks, int taps, int fixed, const float* weights) {
  std::unique_ptr<Net> net;
  if (!fixed) net = std::make_unique<Dynamic>(in, channels, blocks, taps);
  if (fixed && in == 16 && channels == 32 && blocks == 4 && taps == 3) net.reset(compiled<16, 32, 4, 3>());
  if (fixed && in == 80 && channels == 64 && blocks == 6 && taps == 3) net.reset(compiled<80, 64, 6, 3>());
  if (fixed && in == 128 && channels == 128 && blocks == 8 && taps == 3)
    net.reset(compiled<128, 128, 8, 3>());
  if (!net) return nullptr;
  const auto next = [&](int index, int from, int n) {
    net->set_conv(index, weights, weights + channels * from * n);
    weights += channels * (from * n + 1);
  };
  for (int level = 0; level < blocks; ++level) {
    next(2 * level, level == 0 ? in : channels, taps);
    next(2 * level + 1, channels, taps);
    if (level == 0 && in != channels) next(2 * blocks, in, 1);
  }
  net->reset();
  return net.release();
}

/// `count` single steps, (count, in) to (count, channels).
void tcn_steps(void* net, const float* rows, int count, float* out) {
  static_cast<Net*>(net)->steps(rows, count, out);
}
}
