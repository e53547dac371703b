// The residual block of the TCN by its definition, in double, for the tests of everything that computes it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <string>
#include <vector>

#include "affekt/tcn_training.hpp"
#include "check.hpp"

namespace affekt::test {

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
inline double gate(double value, double slope) { return value > 0 ? 1 : slope; }

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

/// What both passes gave, against the reference.
template <class T>
void check_block(const Case<T>& c, Result<T>& got, double tolerance) {
  Result<double> expected = reference(c, got);
  check_close("h1", got.h1, expected.h1, tolerance);
  check_close("h2", got.h2, expected.h2, tolerance);
  check_close("y", got.y, expected.y, tolerance);
  const char* const names[] = {"x", "weight1", "bias1", "weight2", "bias2", "residual", "residual_bias"};
  for (std::size_t i = 0; i < 7; ++i)
    check_close(names[i], *got.gradients()[i], *expected.gradients()[i], tolerance);
}

// Ragged panels, jobs that end inside a sequence, lags from before the start, and dilations beyond it.
inline const std::vector<Shape> kShapes = {
    {3, 37, 5, 7, 3, 4, true, 0.01, 0},  {2, 130, 16, 16, 3, 1, false, 0, 0},
    {1, 1, 1, 1, 1, 1, false, 0.3, 0},   {2, 100, 33, 17, 5, 8, true, 0.01, 0.3},
    {1, 5, 3, 9, 2, 1000, true, 1.5, 0}, {2, 6, 20, 20, 3, 2147483647, false, 0.01, 0.5},
    {1, 97, 3, 40, 2, 30, true, 0, 0.2}, {5, 39, 18, 18, 4, 2, false, 0.2, 0},
    {0, 10, 4, 4, 3, 1, false, 0.01, 0}, {2, 0, 4, 6, 3, 2, true, 0.01, 0.1},
    {0, 0, 1, 1, 1, 1, false, 0.01, 0},
};

}  // namespace affekt::test
