// The TCN against its definition; steps, blocks and any mixture give the same bits; nothing is allocated.
#include "affekt/tcn.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "affekt/error.hpp"
#include "allocations.hpp"
#include "check.hpp"

using affekt::InvalidArgument;
using affekt::Rectifier;
using affekt::Tcn;
using affekt::TcnBlockWeights;
using affekt::TcnOptions;

namespace {

std::mt19937 random_bits(7);

std::vector<float> noise(std::size_t n, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  std::vector<float> values(n);
  for (float& v : values) v = uniform(random_bits);
  return values;
}

struct Block {
  std::vector<float> w1, b1, w2, b2, wr, br, s1, s2, s3;
  TcnBlockWeights view() const { return {w1, b1, w2, b2, wr, br, s1, s2, s3}; }
};

struct Case {
  TcnOptions options;
  std::vector<Block> blocks;
  std::vector<TcnBlockWeights> views() const {
    std::vector<TcnBlockWeights> result;
    for (const Block& b : blocks) result.push_back(b.view());
    return result;
  }
};

Case make(int in, std::vector<int> channels, int k, Rectifier activation, std::vector<int> dilations = {},
          bool forced_residual = false, bool slope_per_channel = false) {
  Case c;
  c.options = {in, channels, k, dilations, activation, 0.1f};
  std::size_t width = in;
  for (const int out : channels) {
    const std::size_t o = out, taps = k;
    Block b;
    b.w1 = noise(o * width * taps, 1.0f / std::sqrt(static_cast<float>(width * taps)));
    b.b1 = noise(o, 0.3f);
    b.w2 = noise(o * o * taps, 1.0f / std::sqrt(static_cast<float>(o * taps)));
    b.b2 = noise(o, 0.3f);
    if (width != o || forced_residual) b.wr = noise(o * width, 0.3f), b.br = noise(o, 0.3f);
    if (activation == Rectifier::prelu) {
      const std::size_t n = slope_per_channel ? o : 1;
      b.s1 = noise(n, 0.5f), b.s2 = noise(n, 0.5f), b.s3 = noise(n, 0.5f);
    }
    c.blocks.push_back(b);
    width = o;
  }
  return c;
}

using Rows = std::vector<std::vector<double>>;

/// The definition, in double: y_t = b + sum_j sum_c W[o][c][j] x_{t - (k-1-j) d}, zeros before the start.
Rows convolve(const Rows& x, const std::vector<float>& w, const std::vector<float>& b, int k, int d) {
  Rows y;
  for (std::size_t t = 0; t < x.size(); ++t) {
    y.emplace_back(b.begin(), b.end());
    for (std::size_t o = 0; o < b.size(); ++o)
      for (int j = 0; j < k; ++j) {
        const long at = static_cast<long>(t) - static_cast<long>(k - 1 - j) * d;
        if (at < 0) continue;
        const auto& row = x[static_cast<std::size_t>(at)];
        for (std::size_t c = 0; c < row.size(); ++c)
          y[t][o] += static_cast<double>(w[(o * row.size() + c) * k + j]) * row[c];
      }
  }
  return y;
}

void rectify(Rows& x, const TcnOptions& options, const std::vector<float>& slopes) {
  for (auto& row : x)
    for (std::size_t c = 0; c < row.size(); ++c) {
      double slope = 0;
      if (options.activation == Rectifier::leaky_relu) slope = options.slope;
      if (options.activation == Rectifier::prelu) slope = slopes[slopes.size() == 1 ? 0 : c];
      if (row[c] < 0) row[c] *= slope;
    }
}

Rows reference(const Case& c, Rows x) {
  for (std::size_t l = 0; l < c.blocks.size(); ++l) {
    const Block& b = c.blocks[l];
    const int k = c.options.kernel_size, d = c.options.dilations.empty() ? 1 << l : c.options.dilations[l];
    Rows y = convolve(x, b.w1, b.b1, k, d);
    rectify(y, c.options, b.s1);
    y = convolve(y, b.w2, b.b2, k, d);
    rectify(y, c.options, b.s2);
    const Rows r = b.wr.empty() ? x : convolve(x, b.wr, b.br, 1, 1);
    for (std::size_t t = 0; t < y.size(); ++t)
      for (std::size_t o = 0; o < y[t].size(); ++o) y[t][o] += r[t][o];
    rectify(y, c.options, b.s3);
    x = y;
  }
  return x;
}

std::vector<Case> cases() {
  return {make(5, {7}, 1, Rectifier::relu),
          make(3, {3, 3}, 2, Rectifier::leaky_relu),
          make(16, {32, 32, 32, 32}, 3, Rectifier::leaky_relu),
          make(29, {32, 17, 17, 1}, 5, Rectifier::prelu),
          make(10, {10, 40}, 7, Rectifier::prelu, {3, 1}, true, true),
          make(1, {16, 33}, 3, Rectifier::relu, {1, 5})};
}

/// The same again in integers.
std::vector<Case> both() {
  std::vector<Case> all = cases();
  for (Case c : cases()) {
    c.options.arithmetic = affekt::Arithmetic::int8;
    all.push_back(c);
  }
  return all;
}

void agrees_with_definition() {
  for (const Case& c : cases()) {
    const Tcn tcn(c.options, c.views());
    const std::size_t n = 150, in = c.options.in, out = tcn.out();
    const std::vector<float> x = noise(n * in, 1.0f);
    Rows rows;
    for (std::size_t t = 0; t < n; ++t) rows.emplace_back(x.begin() + t * in, x.begin() + (t + 1) * in);
    const Rows expected = reference(c, rows);
    std::vector<float> y(n * out);
    auto state = tcn.make_state();
    tcn.process(x.data(), n, y.data(), state);
    for (std::size_t t = 0; t < n; ++t)
      for (std::size_t o = 0; o < out; ++o)
        CHECK_NEAR(y[t * out + o], expected[t][o], 1e-5 * (1 + std::abs(expected[t][o])));
  }
}

void any_chunking_gives_the_same_bits() {
  for (const Case& c : both()) {
    const Tcn tcn(c.options, c.views());
    const std::size_t n = 300, in = c.options.in, out = tcn.out();
    const std::vector<float> x = noise(n * in, 1.0f);
    std::vector<float> whole(n * out), parts(n * out);
    auto state = tcn.make_state();
    tcn.process(x.data(), n, whole.data(), state);
    for (std::size_t most : {1, 2, 5, 8, 9, 64}) {
      state.reset();
      for (std::size_t t = 0; t < n;) {
        const std::size_t m = std::min<std::size_t>(n - t, most == 1 ? 1 : random_bits() % most + 1);
        tcn.process(x.data() + t * in, m, parts.data() + t * out, state);
        t += m;
      }
      CHECK(std::memcmp(whole.data(), parts.data(), whole.size() * sizeof(float)) == 0);
    }
    // A copy of the state goes on as the original does.
    state.reset();
    tcn.process(x.data(), 100, parts.data(), state);
    auto copy = state;
    tcn.process(x.data(), 50, parts.data(), state);  // lead the original elsewhere
    tcn.process(x.data() + 100 * in, n - 100, parts.data() + 100 * out, copy);
    CHECK(std::memcmp(whole.data() + 100 * out, parts.data() + 100 * out, (n - 100) * out * sizeof(float)) ==
          0);
  }
}

/// Streams that step together, each at another time of its own, do as they do alone.
/// On a grid that int8 holds without rounding, the sums are those of float32, which are exact there too.
void integers_are_exact() {
  for (const int in : {1, 3, 4, 29, 64, 130}) {
    for (const int out : {1, 16, 33, 64, 140}) {
      Case c = make(in, {out}, 2, Rectifier::leaky_relu, {}, true);
      for (auto* zero : {&c.blocks[0].w2, &c.blocks[0].b2, &c.blocks[0].br})  // leaves W_r x
        std::fill(zero->begin(), zero->end(), 0.0f);
      c.options.slope = 0.5f;
      for (std::size_t i = 0; i < c.blocks[0].wr.size(); ++i)
        c.blocks[0].wr[i] =
            i % in == 0 ? -127.0f : static_cast<float>(static_cast<int>(random_bits() % 255) - 127);
      std::vector<float> x(11 * in);
      for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = i % in == 0 ? 127.0f : static_cast<float>(static_cast<int>(random_bits() % 255) - 127);
      for (int i = 0; i < in; ++i) x[i] = 127.0f, x[in + i] = -127.0f;
      const Tcn plain(c.options, c.views());
      c.options.arithmetic = affekt::Arithmetic::int8;
      const Tcn integer(c.options, c.views());
      std::vector<float> expected(11 * out), y(11 * out);
      auto state = plain.make_state();
      plain.process(x.data(), 11, expected.data(), state);
      state = integer.make_state();
      integer.process(x.data(), 11, y.data(), state);
      CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
    }
  }
}

void many_streams_give_the_bits_of_one() {
  for (const Case& c : both()) {
    const Tcn tcn(c.options, c.views());
    const std::size_t n = 40, in = c.options.in, out = tcn.out();
    for (std::size_t streams : {1, 2, 7, 8, 9, 20, 75}) {
      std::vector<affekt::TcnState> alone(streams, tcn.make_state());
      for (std::size_t s = 0; s < streams; ++s) {
        const std::vector<float> before = noise(s * in, 1.0f);
        std::vector<float> y(s * out);
        tcn.process(before.data(), s, y.data(), alone[s]);
      }
      std::vector<affekt::TcnState> together = alone;
      std::vector<affekt::TcnState*> states;
      for (auto& state : together) states.push_back(&state);
      for (std::size_t t = 0; t < n; ++t) {
        const std::vector<float> x = noise(streams * in, 1.0f);
        std::vector<float> y(streams * out), expected(streams * out);
        tcn.step_many(x.data(), streams, y.data(), states.data());
        for (std::size_t s = 0; s < streams; ++s)
          tcn.process(x.data() + s * in, 1, expected.data() + s * out, alone[s]);
        CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
      }
      // Rows that lie anywhere, here in the opposite order.
      const std::vector<float> x = noise(streams * in, 1.0f);
      std::vector<float> y(streams * out), expected(streams * out);
      std::vector<const float*> from;
      std::vector<float*> to;
      std::vector<affekt::TcnState*> backwards(states.rbegin(), states.rend());
      for (std::size_t s = streams; s-- > 0;) {
        from.push_back(x.data() + s * in);
        to.push_back(y.data() + s * out);
        tcn.process(x.data() + s * in, 1, expected.data() + s * out, alone[s]);
      }
      tcn.step_many(from.data(), streams, to.data(), backwards.data());
      CHECK(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
    }
  }
}

void only_the_receptive_field_matters() {
  for (const Case& c : both()) {
    const Tcn tcn(c.options, c.views());
    const std::size_t r = tcn.receptive_field(), in = c.options.in, out = tcn.out();
    const std::size_t n = r + 20;
    std::vector<float> x = noise(n * in, 1.0f), y1(n * out), y2(n * out), y3(n * out);
    auto state = tcn.make_state();
    tcn.process(x.data(), n, y1.data(), state);
    for (std::size_t i = 0; i < 20 * in; ++i) x[i] += 1.0f;  // rows 0..19: the last row's field starts at 20
    state.reset();
    tcn.process(x.data(), n, y2.data(), state);
    CHECK(std::memcmp(&y1[(n - 1) * out], &y2[(n - 1) * out], out * sizeof(float)) == 0);
    for (std::size_t i = 20 * in; i < 21 * in; ++i) x[i] += 10.0f;
    state.reset();
    tcn.process(x.data(), n, y3.data(), state);
    // With rectifiers a path may be dead, but not with slopes that never vanish.
    if (c.options.activation == Rectifier::leaky_relu)
      CHECK(std::memcmp(&y1[(n - 1) * out], &y3[(n - 1) * out], out * sizeof(float)) != 0);
  }
  CHECK_EQ(Tcn(make(29, {32, 32, 32, 32}, 5, Rectifier::relu).options,
               make(29, {32, 32, 32, 32}, 5, Rectifier::relu).views())
               .receptive_field(),
           121);
}

void steps_allocate_nothing(affekt::Arithmetic arithmetic) {
  Case c = make(80, {64, 64, 64}, 3, Rectifier::leaky_relu);
  c.options.arithmetic = arithmetic;
  const Tcn tcn(c.options, c.views());
  const std::vector<float> x = noise(200 * 80, 1.0f);
  std::vector<float> y(200 * 64);
  auto state = tcn.make_state();
  const long before = affekt::test::allocations;
  for (int t = 0; t < 200; ++t) tcn.process(x.data() + t * 80, 1, y.data() + t * 64, state);
  tcn.process(x.data(), 200, y.data(), state);
  affekt::TcnState* states[] = {&state};
  tcn.step_many(x.data(), 1, y.data(), states);
  state.reset();
  CHECK_EQ(affekt::test::allocations.load(), before);
}

void wrong_arguments_are_named() {
  const Case good = make(4, {6}, 3, Rectifier::leaky_relu);
  const auto with = [&](auto change) {
    TcnOptions options = good.options;
    change(options);
    return Tcn(options, good.views());
  };
  CHECK_THROWS(with([](TcnOptions& o) { o.in = 0; }), InvalidArgument, "in must be");
  CHECK_THROWS(with([](TcnOptions& o) { o.channels = {}; }), InvalidArgument, "number of blocks");
  CHECK_THROWS(with([](TcnOptions& o) { o.channels = {-1}; }), InvalidArgument, "channels");
  CHECK_THROWS(with([](TcnOptions& o) { o.kernel_size = 0; }), InvalidArgument, "kernel_size");
  CHECK_THROWS(with([](TcnOptions& o) { o.dilations = {0}; }), InvalidArgument, "dilations");
  CHECK_THROWS(with([](TcnOptions& o) { o.dilations = {1, 2}; }), InvalidArgument, "one per block");
  CHECK_THROWS(with([](TcnOptions& o) { o.slope = std::numeric_limits<float>::quiet_NaN(); }),
               InvalidArgument, "slope");
  CHECK_THROWS(with([](TcnOptions& o) { o.kernel_size = 4; }), InvalidArgument, "conv1.weight");
  CHECK_THROWS(with([](TcnOptions& o) { o.activation = Rectifier::prelu; }), InvalidArgument, "slope");
  Case bare = good;
  bare.blocks[0].wr.clear();
  bare.blocks[0].br.clear();
  CHECK_THROWS(Tcn(bare.options, bare.views()), InvalidArgument, "residual");
  CHECK_THROWS(Tcn(good.options, {}), InvalidArgument, "weights of 1 blocks");
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    Case odd = good;
    odd.options.arithmetic = affekt::Arithmetic::int8;
    odd.blocks[0].w2.back() = bad;
    CHECK_THROWS(Tcn(odd.options, odd.views()), InvalidArgument, "finite");
  }
  const Case far = make(64, {64}, 3, Rectifier::relu);
  TcnOptions options = far.options;
  options.dilations = {1 << 24};
  CHECK_THROWS(Tcn(options, far.views()), InvalidArgument, "1 GiB");
}

}  // namespace

int main() {
  agrees_with_definition();
  any_chunking_gives_the_same_bits();
  integers_are_exact();
  many_streams_give_the_bits_of_one();
  only_the_receptive_field_matters();
  steps_allocate_nothing(affekt::Arithmetic::float32);
  steps_allocate_nothing(affekt::Arithmetic::int8);
  wrong_arguments_are_named();
  return affekt::test::result();
}
