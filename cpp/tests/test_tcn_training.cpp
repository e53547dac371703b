// The residual block of the TCN over whole sequences: forward and backward against a plain float64
// convolution, gradients against central differences, the same bits for any number of threads, bad blocks.
#include "affekt/tcn_training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/runtime.hpp"
#include "check.hpp"
#include "parallel.hpp"

namespace {

using affekt::TcnBlock;
using affekt::TcnBlockGradients;
using Values = std::vector<double>;

struct Shape {
  std::size_t batch, time, in, out, taps, dilation;
  bool residual;
  double slope, dropout;
};

// Weights, biases, input and upstream gradient of a block in T; in double, the same numbers.
template <class T>
struct Case {
  Shape shape;
  std::vector<T> x, weight1, bias1, weight2, bias2, residual, residual_bias, grad_y;

  Case(const Shape& s, unsigned seed) : shape(s) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<T>& to, std::size_t n, double scale) {
      for (std::size_t i = 0; i < n; ++i)
        to.push_back(static_cast<T>(static_cast<float>(scale * normal(random))));
    };
    fill(x, s.batch * s.time * s.in, 1);
    fill(weight1, s.out * s.in * s.taps, 1 / std::sqrt(static_cast<double>(s.in * s.taps)));
    fill(bias1, s.out, 0.2);
    fill(weight2, s.out * s.out * s.taps, 1 / std::sqrt(static_cast<double>(s.out * s.taps)));
    fill(bias2, s.out, 0.2);
    fill(grad_y, s.batch * s.time * s.out, 1);
    if (!s.residual) return;
    fill(residual, s.out * s.in, 1 / std::sqrt(static_cast<double>(s.in)));
    fill(residual_bias, s.out, 0.2);
  }

  TcnBlock<T> block() const {
    return {shape.batch,
            shape.time,
            shape.in,
            shape.out,
            shape.taps,
            shape.dilation,
            weight1.data(),
            bias1.data(),
            weight2.data(),
            bias2.data(),
            shape.residual ? residual.data() : nullptr,
            shape.residual ? residual_bias.data() : nullptr,
            shape.slope,
            shape.dropout,
            11,
            12};
  }
};

// Everything that the two passes give.
template <class T>
struct Result {
  std::vector<T> h1, h2, y, x, weight1, bias1, weight2, bias2, residual, residual_bias;
  std::vector<std::vector<T>*> gradients() {
    return {&x, &weight1, &bias1, &weight2, &bias2, &residual, &residual_bias};
  }
};

template <class T>
Result<T> run(const Case<T>& c, bool for_x = true, bool for_weights = true) {
  const Shape& s = c.shape;
  const std::size_t values = s.batch * s.time * s.out;
  const T poison = std::numeric_limits<T>::quiet_NaN();
  Result<T> r;
  r.h1.assign(values, poison), r.h2 = r.y = r.h1;
  const TcnBlock<T> block = c.block();
  affekt::tcn_block_forward(block, c.x.data(), r.h1.data(), r.h2.data(), r.y.data(), affekt::parallel_ranges);
  const auto room = [&](std::vector<T>& to, const std::vector<T>& like, bool wanted) {
    to.assign(wanted ? like.size() : 0, poison);
    return wanted && !like.empty() ? to.data() : nullptr;
  };
  const TcnBlockGradients<T> to{room(r.x, c.x, for_x),
                                room(r.weight1, c.weight1, for_weights),
                                room(r.bias1, c.bias1, for_weights),
                                room(r.weight2, c.weight2, for_weights),
                                room(r.bias2, c.bias2, for_weights),
                                room(r.residual, c.residual, for_weights),
                                room(r.residual_bias, c.residual_bias, for_weights)};
  affekt::tcn_block_backward(block, c.x.data(), r.h1.data(), r.h2.data(), r.y.data(), c.grad_y.data(), to,
                             affekt::parallel_ranges);
  return r;
}

// y[b, t, o] = bias[o] + sum_j sum_c weight[o, c, j] x[b, t - (taps - 1 - j) dilation, c], nothing faster.
template <class T>
Values conv(const Shape& s, const Values& x, std::size_t in, const std::vector<T>& weight, std::size_t taps,
            const std::vector<T>& bias) {
  Values y(s.batch * s.time * s.out);
  for (std::size_t b = 0; b < s.batch; ++b)
    for (std::size_t t = 0; t < s.time; ++t)
      for (std::size_t o = 0; o < s.out; ++o) {
        double sum = static_cast<double>(bias[o]);
        for (std::size_t j = 0; j < taps; ++j) {
          const std::size_t lag = (taps - 1 - j) * s.dilation;
          if (lag > t) continue;
          for (std::size_t c = 0; c < in; ++c)
            sum += static_cast<double>(weight[(o * in + c) * taps + j]) * x[(b * s.time + t - lag) * in + c];
        }
        y[(b * s.time + t) * s.out + o] = sum;
      }
  return y;
}

// The adjoint of conv: grad_x, grad_weight and grad_bias grow.
template <class T>
void conv_back(const Shape& s, const Values& x, std::size_t in, const std::vector<T>& weight,
               std::size_t taps, const Values& grad, Values& grad_x, Values& grad_weight, Values& grad_bias) {
  for (std::size_t b = 0; b < s.batch; ++b)
    for (std::size_t t = 0; t < s.time; ++t)
      for (std::size_t o = 0; o < s.out; ++o) {
        const double g = grad[(b * s.time + t) * s.out + o];
        grad_bias[o] += g;
        for (std::size_t j = 0; j < taps; ++j) {
          const std::size_t lag = (taps - 1 - j) * s.dilation;
          if (lag > t) continue;
          for (std::size_t c = 0; c < in; ++c) {
            const std::size_t w = (o * in + c) * taps + j, at = (b * s.time + t - lag) * in + c;
            grad_x[at] += g * static_cast<double>(weight[w]);
            grad_weight[w] += g * x[at];
          }
        }
      }
}

// What a rectifier multiplies by, from the sign of what it gave.
double gate(double value, double slope) { return value > 0 ? 1 : slope; }

// 0 where dropout made a zero, 1 / (1 - dropout) elsewhere.
template <class T>
Values kept(const std::vector<T>& h, double dropout) {
  Values scale;
  for (const T v : h) scale.push_back(v == 0 && std::signbit(v) ? 0 : 1 / (1 - dropout));
  return scale;
}

// The block by its definition, in double. What is dropped, and which side of a rectifier a value is on, it
// takes from `got`: both turn on a rounding, and the values themselves are checked.
template <class T>
Result<double> reference(const Case<T>& c, const Result<T>& got) {
  const Shape& s = c.shape;
  const Values x(c.x.begin(), c.x.end());
  const Values kept1 = kept(got.h1, s.dropout), kept2 = kept(got.h2, s.dropout);
  Result<double> r;
  r.h1 = conv(s, x, s.in, c.weight1, s.taps, c.bias1);
  for (std::size_t i = 0; i < r.h1.size(); ++i)
    r.h1[i] = kept1[i] * (r.h1[i] > 0 ? r.h1[i] : s.slope * r.h1[i]);
  r.h2 = conv(s, r.h1, s.out, c.weight2, s.taps, c.bias2);
  for (std::size_t i = 0; i < r.h2.size(); ++i)
    r.h2[i] = kept2[i] * (r.h2[i] > 0 ? r.h2[i] : s.slope * r.h2[i]);
  r.y = s.residual ? conv(s, x, s.in, c.residual, 1, c.residual_bias) : x;
  for (std::size_t i = 0; i < r.y.size(); ++i) {
    r.y[i] += r.h2[i];
    r.y[i] = r.y[i] > 0 ? r.y[i] : s.slope * r.y[i];
  }
  r.x.resize(c.x.size()), r.weight1.resize(c.weight1.size()), r.bias1.resize(s.out);
  r.weight2.resize(c.weight2.size()), r.bias2.resize(s.out);
  r.residual.resize(c.residual.size()), r.residual_bias.resize(c.residual_bias.size());
  Values of_sum, of_second, of_first(r.h1.size());
  for (std::size_t i = 0; i < r.y.size(); ++i) {
    of_sum.push_back(static_cast<double>(c.grad_y[i]) * gate(static_cast<double>(got.y[i]), s.slope));
    of_second.push_back(of_sum[i] * kept2[i] * gate(static_cast<double>(got.h2[i]), s.slope));
  }
  conv_back(s, r.h1, s.out, c.weight2, s.taps, of_second, of_first, r.weight2, r.bias2);
  for (std::size_t i = 0; i < of_first.size(); ++i)
    of_first[i] *= kept1[i] * gate(static_cast<double>(got.h1[i]), s.slope);
  conv_back(s, x, s.in, c.weight1, s.taps, of_first, r.x, r.weight1, r.bias1);
  if (s.residual)
    conv_back(s, x, s.in, c.residual, 1, of_sum, r.x, r.residual, r.residual_bias);
  else
    for (std::size_t i = 0; i < r.x.size(); ++i) r.x[i] += of_sum[i];
  return r;
}

// Within `tolerance` of the largest value.
template <class T>
void check_close(const char* what, const std::vector<T>& got, const Values& expected, double tolerance) {
  CHECK_EQ(got.size(), expected.size());
  double largest = 1e-3, worst = 0;
  for (const double v : expected) largest = std::max(largest, std::abs(v));
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double off = std::abs(static_cast<double>(got[i]) - expected[i]);
    worst = off <= worst ? worst : off;  // NaN is the worst
  }
  if (!(worst <= tolerance * largest))
    affekt::test::fail(
        __FILE__, __LINE__,
        std::string(what) + " is off by " + std::to_string(worst / largest) + " of its largest");
}

// Ragged panels, jobs that end inside a sequence, lags from before the start, and dilations beyond it.
const std::vector<Shape> kShapes = {
    {3, 37, 5, 7, 3, 4, true, 0.01, 0},  {2, 130, 16, 16, 3, 1, false, 0, 0},
    {1, 1, 1, 1, 1, 1, false, 0.3, 0},   {2, 100, 33, 17, 5, 8, true, 0.01, 0.3},
    {1, 5, 3, 9, 2, 1000, true, 1.5, 0}, {2, 6, 20, 20, 3, 2147483647, false, 0.01, 0.5},
    {1, 97, 3, 40, 2, 30, true, 0, 0.2}, {5, 39, 18, 18, 4, 2, false, 0.2, 0},
    {0, 10, 4, 4, 3, 1, false, 0.01, 0}, {2, 0, 4, 6, 3, 2, true, 0.01, 0.1},
    {0, 0, 1, 1, 1, 1, false, 0.01, 0},
};

template <class T>
void agrees_with_the_definition(double tolerance) {
  unsigned seed = 0;
  for (const Shape& s : kShapes) {
    const Case<T> c(s, ++seed);
    Result<T> got = run(c);
    Result<double> expected = reference(c, got);
    check_close("h1", got.h1, expected.h1, tolerance);
    check_close("h2", got.h2, expected.h2, tolerance);
    check_close("y", got.y, expected.y, tolerance);
    const char* const names[] = {"x", "weight1", "bias1", "weight2", "bias2", "residual", "residual_bias"};
    for (std::size_t i = 0; i < 7; ++i)
      check_close(names[i], *got.gradients()[i], *expected.gradients()[i], tolerance);
    if (s.dropout > 0 && !got.h1.empty()) {
      double dropped = 0;
      for (const double scale : kept(got.h1, s.dropout)) dropped += scale == 0;
      const double n = static_cast<double>(got.h1.size());
      CHECK_NEAR(dropped / n, s.dropout, 5 * std::sqrt(s.dropout * (1 - s.dropout) / n));
    }
    if (s.dropout == 0)
      for (const T v : got.h1) CHECK(!(v == 0 && std::signbit(v)));
  }
}

// The reference above shares its formulas with the code; this does not.
void gradients_are_those_of_central_differences() {
  Case<double> c({2, 9, 3, 4, 3, 2, true, 0.1, 0}, 5);
  Result<double> r = run(c);
  const auto loss = [&] {
    const Result<double> now = run(c);
    double sum = 0;
    for (std::size_t i = 0; i < now.y.size(); ++i) sum += now.y[i] * c.grad_y[i];
    return sum;
  };
  std::vector<double>* const inputs[] = {&c.x,     &c.weight1,  &c.bias1,        &c.weight2,
                                         &c.bias2, &c.residual, &c.residual_bias};
  for (std::size_t k = 0; k < 7; ++k) {
    for (std::size_t i = 0; i < inputs[k]->size(); ++i) {
      double& at = (*inputs[k])[i];
      const double before = at, step = 1e-6;
      at = before + step;
      const double above = loss();
      at = before - step;
      const double below = loss();
      at = before;
      CHECK_NEAR((*r.gradients()[k])[i], (above - below) / (2 * step), 1e-7);
    }
  }
}

template <class T>
void any_number_of_threads_and_any_batch_give_the_same_bits() {
  const Shape s{4, 211, 24, 40, 3, 4, true, 0.01, 0.2};
  const Case<T> c(s, 9);
  std::vector<Result<T>> results;
  for (const int threads : {1, 3}) {
    affekt::set_num_threads(threads);
    results.push_back(run(c));
  }
  const auto same = [](const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
  };
  CHECK(same(results[0].h1, results[1].h1) && same(results[0].h2, results[1].h2));
  CHECK(same(results[0].y, results[1].y));
  for (std::size_t i = 0; i < 7; ++i) CHECK(same(*results[0].gradients()[i], *results[1].gradients()[i]));
  // What nobody wants changes nothing of the rest.
  CHECK(same(run(c, true, false).x, results[0].x));
  CHECK(same(run(c, false, true).weight1, results[0].weight1));
  CHECK(same(run(c, false, true).residual, results[0].residual));
  // A sequence by itself, without dropout, whose draws follow the row.
  Case<T> whole({4, 50, 6, 6, 3, 2, false, 0.01, 0}, 10), one = whole;
  const Result<T> all = run(whole);
  one.shape.batch = 1;
  for (std::size_t b = 0; b < 4; ++b) {
    const auto at = static_cast<std::ptrdiff_t>(b * 300);
    one.x.assign(whole.x.begin() + at, whole.x.begin() + at + 300);
    one.grad_y.assign(whole.grad_y.begin() + at, whole.grad_y.begin() + at + 300);
    const Result<T> alone = run(one);
    CHECK(same(alone.y, {all.y.begin() + at, all.y.begin() + at + 300}));
    CHECK(same(alone.x, {all.x.begin() + at, all.x.begin() + at + 300}));
  }
}

void bad_blocks_are_named() {
  const auto run_with = [](auto change) {
    const Case<float> c({1, 4, 3, 3, 2, 1, false, 0.01, 0}, 1);
    TcnBlock<float> block = c.block();
    change(block);
    std::vector<float> h1(12), h2(12), y(12), grad(12);
    TcnBlockGradients<float> to{};
    to.x = grad.data();
    bool backward_too = false;
    try {
      affekt::tcn_block_backward(block, c.x.data(), h1.data(), h2.data(), y.data(), c.grad_y.data(), to,
                                 affekt::parallel_ranges);
    } catch (const affekt::InvalidArgument&) {
      backward_too = true;
    }
    CHECK(backward_too);
    affekt::tcn_block_forward(block, c.x.data(), h1.data(), h2.data(), y.data(), affekt::parallel_ranges);
  };
  const double nan = std::nan(""), infinite = std::numeric_limits<double>::infinity();
  using affekt::InvalidArgument;
  CHECK_THROWS(run_with([](auto& b) { b.in = 0; }), InvalidArgument, "in: expected at least 1, got 0");
  CHECK_THROWS(run_with([](auto& b) { b.out = 0; }), InvalidArgument, "out: expected at least 1, got 0");
  CHECK_THROWS(run_with([](auto& b) { b.taps = 0; }), InvalidArgument, "taps: expected at least 1, got 0");
  CHECK_THROWS(run_with([](auto& b) { b.dilation = 0; }), InvalidArgument, "dilation: expected");
  CHECK_THROWS(run_with([](auto& b) { b.dilation = std::size_t{1} << 31; }), InvalidArgument,
               "dilation: expected from 1 to 2147483647, got 2147483648");
  CHECK_THROWS(run_with([](auto& b) { b.out = 2; }), InvalidArgument, "residual: expected a weight");
  CHECK_THROWS(run_with([](auto& b) { b.weight1 = nullptr; }), InvalidArgument, "weight1");
  CHECK_THROWS(run_with([](auto& b) { b.weight2 = nullptr; }), InvalidArgument, "weight2");
  for (const double slope : {-0.1, nan, infinite})
    CHECK_THROWS(run_with([&](auto& b) { b.slope = slope; }), InvalidArgument, "slope: expected");
  for (const double dropout : {-0.1, 1.0, nan})
    CHECK_THROWS(run_with([&](auto& b) { b.dropout = dropout; }), InvalidArgument, "dropout: expected");
}

}  // namespace

int main() {
  affekt::set_num_threads(2);
  agrees_with_the_definition<double>(1e-12);
  agrees_with_the_definition<float>(1e-5);
  gradients_are_those_of_central_differences();
  any_number_of_threads_and_any_batch_give_the_same_bits<float>();
  any_number_of_threads_and_any_batch_give_the_same_bits<double>();
  bad_blocks_are_named();
  return affekt::test::result();
}
