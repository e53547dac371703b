// The two hottest kernels by themselves, for profilers: `hot log-mel PASSES` or `hot tcn-step PASSES` prints
// how many frames or steps it made and the seconds of processor time that they took.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <vector>

#include "affekt/frontend.hpp"
#include "affekt/tcn.hpp"

namespace {

double processor_seconds() {
  std::timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Of this standard deviation, uniform: cheap, so that it does not show in a profile.
std::vector<float> noise(std::size_t n, double deviation) {
  static std::uint32_t state = 1;
  std::vector<float> x(n);
  for (float& v : x) {
    state = state * 1664525u + 1013904223u;
    v = static_cast<float>(deviation * std::sqrt(12.0) * (state / 4294967296.0 - 0.5));
  }
  return x;
}

template <class F>
void run(int passes, std::size_t units, F&& pass) {
  const double start = processor_seconds();
  for (int i = 0; i < passes; ++i) pass();
  const double took = processor_seconds() - start;
  std::printf("%zu %.9f\n", units * static_cast<std::size_t>(passes), took);
}

// 10 s at 16 kHz; n_fft 512, window 400, hop 160, 80 mels, dB.
void log_mel(int passes) {
  const affekt::FrontEnd plan{affekt::FrontEndOptions{}};
  const std::vector<float> x = noise(160000, 0.1);
  std::vector<float> rows(plan.frames(x.size()) * plan.features());
  run(passes, plan.frames(x.size()), [&] { plan.compute(x.data(), x.size(), rows.data()); });
}

// 100 steps, one after the other, of 8 blocks of 128 channels and 3 taps.
void tcn_step(int passes) {
  constexpr int width = 128, blocks = 8, taps = 3;
  affekt::TcnOptions options;
  options.in = width;
  options.channels.assign(blocks, width);
  options.kernel_size = taps;
  std::vector<std::vector<float>> values;
  for (int i = 0; i < 2 * blocks; ++i) {
    values.push_back(noise(width * width * taps, 1 / std::sqrt(width * taps)));
    values.push_back(noise(width, 0.1));
  }
  std::vector<affekt::TcnBlockWeights> weights(blocks);
  for (std::size_t i = 0; i < blocks; ++i) {
    weights[i].conv1_weight = values[4 * i], weights[i].conv1_bias = values[4 * i + 1];
    weights[i].conv2_weight = values[4 * i + 2], weights[i].conv2_bias = values[4 * i + 3];
  }
  const affekt::Tcn tcn(options, weights);
  affekt::TcnState state = tcn.make_state();
  constexpr std::size_t steps = 100;
  const std::vector<float> rows = noise(steps * width, 1);
  std::vector<float> out(width);
  run(passes, steps, [&] {
    for (std::size_t t = 0; t < steps; ++t) tcn.process(rows.data() + t * width, 1, out.data(), state);
  });
}

}  // namespace

int main(int argc, char** argv) {
  const int passes = argc == 3 ? std::atoi(argv[2]) : 0;
  if (passes > 0 && std::strcmp(argv[1], "log-mel") == 0) return log_mel(passes), 0;
  if (passes > 0 && std::strcmp(argv[1], "tcn-step") == 0) return tcn_step(passes), 0;
  std::fprintf(stderr, "usage: %s log-mel|tcn-step PASSES\n", argv[0]);
  return 2;
}
