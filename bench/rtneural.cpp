// The TCN of bench_tcn.py out of RTNeural's convolutions; built by it, with RTNeural and Eigen on the path.
#include <RTNeural/RTNeural.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace {

struct Conv {
  Conv(int in, int out, int taps, int dilation, const float*& weights)
      : layer(in, out, taps, dilation), y(static_cast<std::size_t>(out)) {
    std::vector<std::vector<std::vector<float>>> w(
        out, std::vector<std::vector<float>>(in, std::vector<float>(taps)));
    for (auto& output : w)
      for (auto& input : output)
        for (auto tap = input.rbegin(); tap != input.rend(); ++tap) *tap = *weights++;  // newest first
    layer.setWeights(w);
    layer.setBias(std::vector<float>(weights, weights + out));
    weights += out;
    layer.reset();
  }
  RTNeural::Conv1D<float> layer;
  Eigen::VectorXf y;
};

struct Block {
  std::unique_ptr<Conv> conv1, conv2, residual;
};

struct Net {
  int in, out;
  float slope;
  std::vector<Block> blocks;
  Eigen::VectorXf x;
};

template <class V>
void rectify(V& v, float slope) {
  v = (v.array() > 0.0f).select(v.array(), slope * v.array()).matrix();
}

}  // namespace

extern "C" void* tcn_create(int in, int channels, int blocks, int taps, const float* weights, float slope) {
  auto net = std::make_unique<Net>();
  net->in = in;
  net->out = channels;
  net->slope = slope;
  net->x.resize(std::max(in, channels));
  int width = in;
  for (int l = 0; l < blocks; ++l) {
    Block b;
    b.conv1 = std::make_unique<Conv>(width, channels, taps, 1 << l, weights);
    b.conv2 = std::make_unique<Conv>(channels, channels, taps, 1 << l, weights);
    if (width != channels) b.residual = std::make_unique<Conv>(width, channels, 1, 1, weights);
    net->blocks.push_back(std::move(b));
    width = channels;
  }
  return net.release();
}

extern "C" void tcn_steps(void* handle, const float* rows, int count, float* out) {
  Net& net = *static_cast<Net*>(handle);
  for (int t = 0; t < count; ++t, rows += net.in, out += net.out) {
    std::copy(rows, rows + net.in, net.x.data());
    for (Block& b : net.blocks) {
      b.conv1->layer.forward(net.x.data(), b.conv1->y.data());
      rectify(b.conv1->y, net.slope);
      b.conv2->layer.forward(b.conv1->y.data(), b.conv2->y.data());
      rectify(b.conv2->y, net.slope);
      if (b.residual) {
        b.residual->layer.forward(net.x.data(), b.residual->y.data());
        net.x.head(net.out) = b.conv2->y + b.residual->y;
      } else {
        net.x.head(net.out) += b.conv2->y;
      }
      rectify(net.x, net.slope);
    }
    std::copy(net.x.data(), net.x.data() + net.out, out);
  }
}
