// The TCN of bench_tcn.py out of affekt, called from C++ as rtneural.cpp is, with the same two functions.
#include <span>
#include <vector>

#include "affekt/tcn.hpp"

namespace {

struct Net {
  affekt::Tcn tcn;
  affekt::TcnState state = tcn.make_state();
};

}  // namespace

extern "C" {

/// As in rtneural.cpp; `fixed` says nothing here, all sizes are known at run time.
void* tcn_create(int in, int channels, int blocks, int taps, int /*fixed*/, const float* weights) {
  affekt::TcnOptions options;
  options.in = in;
  options.channels.assign(blocks, channels);
  options.kernel_size = taps;
  options.slope = 0.01f;
  std::vector<affekt::TcnBlockWeights> given(blocks);
  const auto next = [&](std::span<const float>& weight, std::span<const float>& bias, int inputs) {
    weight = {weights, static_cast<std::size_t>(channels) * inputs};
    bias = {weights + weight.size(), static_cast<std::size_t>(channels)};
    weights += weight.size() + bias.size();
  };
  for (int l = 0; l < blocks; ++l) {
    const int width = l == 0 ? in : channels;
    next(given[l].conv1_weight, given[l].conv1_bias, width * taps);
    next(given[l].conv2_weight, given[l].conv2_bias, channels * taps);
    if (width != channels) next(given[l].residual_weight, given[l].residual_bias, width);
  }
  return new Net{affekt::Tcn(options, given)};
}

void tcn_steps(void* handle, const float* rows, int count, float* out) {
  Net& net = *static_cast<Net*>(handle);
  for (int t = 0; t < count; ++t)
    net.tcn.process(rows + t * net.tcn.in(), 1, out + t * net.tcn.out(), net.state);
}
}
