// The CUDA kernels of the TCN's residual block, run on the CPU by kernels/emulate: against the block's
// definition in double, for ragged shapes and addresses; the draws of the CPU's kernels; the same bits for
// any order of threads. Nothing here ran on a GPU.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/runtime.hpp"
#include "affekt/tcn_training.hpp"
#include "causal_conv.cu"
#include "check.hpp"
#include "emulated.hpp"
#include "parallel.hpp"
#include "tcn_reference.hpp"

namespace {

namespace gpu = affekt::gpu;
using affekt::test::Case;
using affekt::test::kShapes;
using affekt::test::Result;
using affekt::test::Shape;
using affekt::test::Workspace;

constexpr long long kKeys[] = {11, 12};  // of Case

struct Options {
  bool tf32 = false;
  std::size_t misaligned = 0;  // elements
  bool for_x = true, for_weights = true;
};

/// Values at an address that is `off` elements from a multiple of 16 bytes, NaN before and behind.
template <class T>
class Room {
 public:
  Room(std::size_t n, std::size_t off)
      : off_(off), n_(n), values_(off + n + 8, std::numeric_limits<T>::quiet_NaN()) {}
  Room(const std::vector<T>& from, std::size_t off) : Room(from.size(), off) {
    std::copy(from.begin(), from.end(), data());
  }
  T* data() { return values_.data() + off_; }
  std::vector<T> taken() {
    for (std::size_t i = 0; i < values_.size(); ++i)
      if (i < off_ || i >= off_ + n_) CHECK(std::isnan(values_[i]));
    return {data(), data() + n_};
  }

 private:
  std::size_t off_, n_;
  affekt::AlignedVector<T> values_;
};

template <class T>
Result<T> emulated(const Case<T>& c, const Options& options = {}) {
  const Shape& s = c.shape;
  const std::size_t off = options.misaligned, values = s.batch * s.time * s.out;
  affekt::TcnBlock<T> block = c.block();
  Room<T> weight1(c.weight1, off), bias1(c.bias1, off), weight2(c.weight2, off), bias2(c.bias2, off),
      residual(c.residual, off), residual_bias(c.residual_bias, off), x(c.x, off), grad_y(c.grad_y, off);
  block.weight1 = weight1.data(), block.bias1 = bias1.data();
  block.weight2 = weight2.data(), block.bias2 = bias2.data();
  if (s.residual) block.residual = residual.data(), block.residual_bias = residual_bias.data();
  Room<T> h1(values, off), h2(values, off), y(values, off);
  {
    Workspace workspace(gpu::tcn_forward_workspace(block));
    CHECK(gpu::tcn_block_forward(block, s.dropout > 0 ? kKeys : nullptr, options.tf32, x.data(), h1.data(),
                                 h2.data(), y.data(), workspace.data(), nullptr) == nullptr);
  }
  const auto of_x = options.for_x ? c.x.size() : 0;
  const auto of = [&](const std::vector<T>& like) {
    return Room<T>(options.for_weights ? like.size() : 0, off);
  };
  Room<T> to_x(of_x, off), to_weight1 = of(c.weight1), to_bias1 = of(c.bias1), to_weight2 = of(c.weight2),
                           to_bias2 = of(c.bias2), to_residual = of(c.residual),
                           to_residual_bias = of(c.residual_bias);
  affekt::TcnBlockGradients<T> to{};
  if (options.for_x) to.x = to_x.data();
  if (options.for_weights) {
    to.weight1 = to_weight1.data(), to.bias1 = to_bias1.data();
    to.weight2 = to_weight2.data(), to.bias2 = to_bias2.data();
    if (s.residual) to.residual = to_residual.data(), to.residual_bias = to_residual_bias.data();
  }
  Workspace workspace(gpu::tcn_backward_workspace(block));
  CHECK(gpu::tcn_block_backward(block, options.tf32, x.data(), h1.data(), h2.data(), y.data(), grad_y.data(),
                                to, workspace.data(), nullptr) == nullptr);
  return {
      h1.taken(),       h2.taken(),         y.taken(),        to_x.taken(),        to_weight1.taken(),
      to_bias1.taken(), to_weight2.taken(), to_bias2.taken(), to_residual.taken(), to_residual_bias.taken()};
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T>
bool same(Result<T> a, Result<T> b) {
  bool all = same(a.h1, b.h1) && same(a.h2, b.h2) && same(a.y, b.y);
  for (std::size_t i = 0; i < 7; ++i) all = all && same(*a.gradients()[i], *b.gradients()[i]);
  return all;
}

template <class T>
void agrees_with_the_definition(double tolerance) {
  unsigned seed = 20;
  for (const Shape& s : kShapes) {
    const Case<T> c(s, ++seed);
    Result<T> got = emulated(c);
    affekt::test::check_block(c, got, tolerance);
    gpu::emulate::order() = seed;
    CHECK(same(got, emulated(c)));
    gpu::emulate::order() = 0;
    // An address off the 16 bytes changes how values travel, not what they are.
    CHECK(same(got, emulated(c, {.misaligned = 1})));
  }
}

// Rows beyond one slice, outputs and inputs beyond one tile.
template <class T>
void takes_more_than_a_tile_and_a_slice(double tolerance) {
  for (const Shape& s :
       {Shape{3, 400, 20, 24, 3, 4, true, 0.01, 0.2}, Shape{2, 70, 136, 140, 2, 3, true, 0, 0}}) {
    const Case<T> c(s, 7);
    Result<T> got = emulated(c);
    affekt::test::check_block(c, got, tolerance);
  }
}

void drops_what_the_cpu_drops() {
  const Case<float> c({2, 150, 8, 40, 3, 2, true, 0.1, 0.3}, 3);
  std::vector<float> h1(c.grad_y.size()), h2 = h1, y = h1;
  affekt::tcn_block_forward(c.block(), c.x.data(), h1.data(), h2.data(), y.data(), affekt::parallel_ranges);
  const Result<float> got = emulated(c);
  CHECK(affekt::test::kept(h1, 0.3) == affekt::test::kept(got.h1, 0.3));
  CHECK(affekt::test::kept(h2, 0.3) == affekt::test::kept(got.h2, 0.3));
}

void gives_what_is_wanted_and_no_more() {
  const Case<float> c({2, 60, 10, 12, 3, 2, true, 0.1, 0.3}, 4);
  const Result<float> all = emulated(c);
  CHECK(same(emulated(c, {.for_weights = false}).x, all.x));
  const Result<float> weights = emulated(c, {.for_x = false});
  CHECK(same(weights.weight1, all.weight1) && same(weights.residual_bias, all.residual_bias));
  CHECK(weights.x.empty());
  // A sequence by itself, without dropout, whose draws follow the row.
  Case<float> whole({3, 50, 6, 6, 3, 2, false, 0.01, 0}, 10), one = whole;
  const Result<float> together = emulated(whole);
  one.shape.batch = 1;
  for (std::ptrdiff_t at = 0; at < 900; at += 300) {
    one.x.assign(whole.x.begin() + at, whole.x.begin() + at + 300);
    one.grad_y.assign(whole.grad_y.begin() + at, whole.grad_y.begin() + at + 300);
    const Result<float> alone = emulated(one);
    CHECK(same(alone.y, {together.y.begin() + at, together.y.begin() + at + 300}));
    CHECK(same(alone.x, {together.x.begin() + at, together.x.begin() + at + 300}));
  }
}

// A NaN reaches the steps whose taps see it, in its sequence, and every gradient that it takes part in.
void keeps_nan_where_it_belongs() {
  Case<float> c({2, 40, 4, 4, 3, 2, false, 0.1, 0}, 5);
  const Result<float> clean = emulated(c);
  c.x[20 * 4 + 1] = std::numeric_limits<float>::quiet_NaN();
  const Result<float> got = emulated(c);
  for (std::size_t n = 0; n < 80; ++n) {
    const bool hit = n == 20 || n == 22 || n == 24;
    for (std::size_t o = 0; o < 4; ++o) {
      CHECK_EQ(std::isnan(got.h1[n * 4 + o]), hit);
      if (n < 20 || n >= 40) CHECK_EQ(got.y[n * 4 + o], clean.y[n * 4 + o]);
    }
  }
  for (std::size_t o = 0; o < 4; ++o) CHECK(std::isnan(got.weight1[(o * 4 + 1) * 3]));
}

}  // namespace

int main() {
  // Without a slope nothing is left of what is negative, -inf too; NaN stays.
  constexpr float inf = std::numeric_limits<float>::infinity();
  CHECK_EQ(gpu::rectified(-inf, 0.0f), 0.0f);
  CHECK(!std::signbit(gpu::rectified(-3.0f, 0.0f)) && std::isnan(gpu::rectified(inf - inf, 0.0f)));
  CHECK_EQ(gpu::rectified(-inf, 0.5f), -inf);
  CHECK_EQ(gpu::gated(inf, 0.0f, 0.0f, 1.0f), 0.0f);
  CHECK_EQ(gpu::gated(inf, -1.0f, 0.5f, 1.0f), inf);

  agrees_with_the_definition<double>(1e-12);
  agrees_with_the_definition<float>(1e-5);
  takes_more_than_a_tile_and_a_slice<double>(1e-12);
  takes_more_than_a_tile_and_a_slice<float>(1e-5);
  drops_what_the_cpu_drops();
  gives_what_is_wanted_and_no_more();
  keeps_nan_where_it_belongs();

  // Products of tf32 have 11 bits of each factor.
  const Case<float> c({2, 150, 20, 24, 3, 4, true, 0.01, 0.2}, 6);
  Result<float> got = emulated(c, {.tf32 = true});
  affekt::test::check_block(c, got, 4e-3);
  CHECK(!same(got, emulated(c)));

  const long before = gpu::emulate::launches();
  emulated(c);
  CHECK_EQ(gpu::emulate::launches() - before, 3 + 7);
  return affekt::test::result();
}
