// The residual block of the TCN over whole sequences: forward and backward against a plain float64
// convolution, gradients against central differences, the same bits for any number of threads, bad blocks.
#include "affekt/tcn_training.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "affekt/error.hpp"
#include "affekt/runtime.hpp"
#include "check.hpp"
#include "parallel.hpp"
#include "tcn_reference.hpp"

namespace {

using affekt::TcnBlock;
using affekt::TcnBlockGradients;
using affekt::test::Case;
using affekt::test::Result;
using affekt::test::Shape;

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

template <class T>
void agrees_with_the_definition(double tolerance) {
  unsigned seed = 0;
  for (const Shape& s : affekt::test::kShapes) {
    const Case<T> c(s, ++seed);
    Result<T> got = run(c);
    affekt::test::check_block(c, got, tolerance);
    if (s.dropout > 0 && !got.h1.empty()) {
      double dropped = 0;
      for (const double scale : affekt::test::kept(got.h1, s.dropout)) dropped += scale == 0;
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
