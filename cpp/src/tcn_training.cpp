#include "affekt/tcn_training.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/error.hpp"
#include "kernels/causal_conv.hpp"

namespace affekt {
namespace {

// Rows that one job takes from the convolution to what follows it, in the cache; a multiple of what the
// kernels take at once. Fixed, because the sums over rows are cut here.
constexpr std::size_t kRows = 96;
// Jobs that the gradient of weights is cut into, at least. Few, as each reads its part of the inputs anew,
// from memory where they are many.
constexpr std::size_t kWeightJobs = 8;

template <class F>
void run_jobs(RunRanges run, std::size_t n, F&& f) {
  run_ranges(run, n, 1, [&f](std::size_t begin, std::size_t end) noexcept {
    for (std::size_t i = begin; i < end; ++i) f(i);
  });
}

template <class T>
const CausalConvKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>)
    return causal_conv().floats;
  else
    return causal_conv().doubles;
}

std::size_t padded(std::size_t n, std::size_t panel) { return (n + panel - 1) / panel * panel; }

// A weight (out, in, taps) packed for ConvRows, forward, or with inputs and outputs swapped, backward.
template <class T>
AlignedVector<T> packed(const T* weight, std::size_t out, std::size_t in, std::size_t taps, bool swapped,
                        RunRanges run) {
  const std::size_t panel = kernels<T>().panel;
  std::size_t step_out = in * taps, step_in = taps;
  if (swapped) {
    std::swap(out, in);
    std::swap(step_out, step_in);
  }
  AlignedVector<T> all(padded(out, panel) * in * taps);
  run_jobs(run, padded(out, panel) / panel, [&](std::size_t p) noexcept {
    T* to = all.data() + p * panel * in * taps;
    const std::size_t lanes = std::min(panel, out - p * panel);
    const T* const from = weight + p * panel * step_out;
    for (std::size_t j = 0; j < taps; ++j)
      for (std::size_t c = 0; c < in; ++c, to += panel)
        for (std::size_t o = 0; o < lanes; ++o) to[o] = from[o * step_out + c * step_in + j];
  });
  return all;
}

// Room for n values, whatever they are: to fill megabytes with zeros first costs as much as a pass over them.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::size_t n) : data_(n == 0 ? nullptr : AlignedAllocator<T>().allocate(n)) {}
  ~Scratch() {
    if (data_ != nullptr) AlignedAllocator<T>().deallocate(data_, 0);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

// One block at work: its sizes, and the convolutions of its rows.
template <class T>
class Work {
 public:
  Work(const TcnBlock<T>& block, RunRanges run)
      : block_(block), run_(run), rows_(block.batch * block.time), zeros_(std::max(block.in, block.out)) {}

  std::size_t jobs() const { return (rows_ + kRows - 1) / kRows; }
  std::size_t values() const { return rows_ * block_.out; }

  // f(first row, number of rows) for every job.
  template <class F>
  void each(F&& f) const {
    run_jobs(run_, jobs(),
             [&](std::size_t job) noexcept { f(job * kRows, std::min(kRows, rows_ - job * kRows)); });
  }

  // Bias null: adds to y. Lags of `taps` taps of the block's dilation, or with `ahead` those to come.
  ConvRows<T> conv(const T* x, std::size_t in, std::size_t out, std::size_t taps, bool ahead, const T* weight,
                   const T* bias, T* y) const {
    const auto reach = static_cast<std::ptrdiff_t>((taps - 1) * block_.dilation);
    const auto step = static_cast<std::ptrdiff_t>(block_.dilation);
    return {x,    block_.time,   in, out, taps, ahead ? reach : -reach, ahead ? -step : step, weight,
            bias, zeros_.data(), y};
  }

  // Adds up what each job left in partial[job][width].
  void merge(const std::vector<T>& partial, std::size_t width, T* sums) const {
    std::fill_n(sums, width, T(0));
    for (std::size_t job = 0; job < jobs(); ++job)
      for (std::size_t c = 0; c < width; ++c) sums[c] += partial[job * width + c];
  }

  // The gradient of a weight (out, in, taps) from the inputs of its convolution and the gradient of its
  // outputs.
  void weight_gradient(const T* x, std::size_t in, const T* grad, std::size_t taps, T* to) const {
    const std::size_t panel = kernels<T>().panel, out = block_.out;
    const std::size_t panels = padded(in, panel) / panel, strip = kernels<T>().strip;
    const std::size_t strips = padded(out, strip) / strip;
    const std::size_t each_job = (strips * panels + kWeightJobs - 1) / kWeightJobs;  // strips, if one panel
    const std::size_t some = std::min(each_job, strips), groups = padded(strips, some) / some;
    Scratch<T> turned(rows_ * strips * strip);
    each([&](std::size_t row, std::size_t n) noexcept {
      kernels<T>().strips(grad, row, n, rows_, out, turned.data());
    });
    AlignedVector<T> sums(panels * taps * out * panel);
    const ConvRows<T> lags = conv(x, in, out, taps, false, nullptr, nullptr, nullptr);
    const ConvWeights<T> sum{x,   turned.data(), block_.batch, block_.time, in,
                             out, taps,          lags.first,   lags.step,   sums.data()};
    run_jobs(run_, panels * groups, [&](std::size_t job) noexcept {
      const std::size_t begin = job % groups * some;
      kernels<T>().weights(sum, job / groups, begin, std::min(begin + some, strips));
    });
    run_jobs(run_, out, [&](std::size_t o) noexcept {
      for (std::size_t c = 0; c < in; ++c) {
        const T* const from = sums.data() + ((c / panel * taps) * out + o) * panel + c % panel;
        for (std::size_t j = 0; j < taps; ++j) to[(o * in + c) * taps + j] = from[j * out * panel];
      }
    });
  }

 private:
  const TcnBlock<T>& block_;
  RunRanges run_;
  std::size_t rows_;
  AlignedVector<T> zeros_;
};

// A bias, padded to whole panels; null stays zeros.
template <class T>
AlignedVector<T> padded_bias(const T* bias, std::size_t n) {
  AlignedVector<T> all(padded(n, kernels<T>().panel));
  if (bias != nullptr) std::copy_n(bias, n, all.begin());
  return all;
}

template <class T>
Dropout<T> dropout_of(const TcnBlock<T>& block, std::uint64_t key) {
  return {key, static_cast<std::uint32_t>(std::min(block.dropout * 4294967296.0, 4294967295.0)),
          static_cast<T>(1 / (1 - block.dropout))};
}

template <class T>
void check(const TcnBlock<T>& block) {
  const auto at_least_one = [](const char* name, std::size_t n) {
    if (n == 0) throw InvalidArgument(std::string(name) + ": expected at least 1, got 0");
  };
  at_least_one("in", block.in);
  at_least_one("out", block.out);
  at_least_one("taps", block.taps);
  if (block.dilation == 0 || block.dilation > INT32_MAX)
    throw InvalidArgument("dilation: expected from 1 to 2147483647, got " + std::to_string(block.dilation));
  if (block.weight1 == nullptr || block.weight2 == nullptr)
    throw InvalidArgument(std::string(block.weight1 == nullptr ? "weight1" : "weight2") +
                          ": expected a weight, got null");
  if (block.residual == nullptr && block.in != block.out)
    throw InvalidArgument("residual: expected a weight, as the width changes from " +
                          std::to_string(block.in) + " to " + std::to_string(block.out) + ", got null");
  if (!(block.slope >= 0 && std::isfinite(block.slope)))
    throw InvalidArgument("slope: expected a finite number of at least 0, got " +
                          std::to_string(block.slope));
  if (!(block.dropout >= 0 && block.dropout < 1))
    throw InvalidArgument("dropout: expected within [0, 1), got " + std::to_string(block.dropout));
}

}  // namespace

template <class T>
void tcn_block_forward(const TcnBlock<T>& block, const T* x, T* h1, T* h2, T* y, RunRanges run) {
  check(block);
  const CausalConvKernelsOf<T>& k = kernels<T>();
  const Work<T> work(block, run);
  const std::size_t in = block.in, out = block.out, taps = block.taps;
  const T slope = static_cast<T>(block.slope);
  const auto weight1 = packed(block.weight1, out, in, taps, false, run);
  const auto weight2 = packed(block.weight2, out, out, taps, false, run);
  const auto bias1 = padded_bias(block.bias1, out), bias2 = padded_bias(block.bias2, out);
  const ConvRows<T> first = work.conv(x, in, out, taps, false, weight1.data(), bias1.data(), h1);
  const ConvRows<T> second = work.conv(h1, out, out, taps, false, weight2.data(), bias2.data(), h2);
  const Dropout<T> drop1 = dropout_of(block, block.key1), drop2 = dropout_of(block, block.key2);
  work.each([&](std::size_t row, std::size_t n) noexcept {
    k.rows(first, row, n);
    k.rectify(h1 + row * out, row, n, out, slope, drop1);
  });
  AlignedVector<T> residual, residual_bias;
  if (block.residual != nullptr) {
    residual = packed(block.residual, out, in, 1, false, run);
    residual_bias = padded_bias(block.residual_bias, out);
  }
  const ConvRows<T> aside = work.conv(x, in, out, 1, false, residual.data(), residual_bias.data(), y);
  work.each([&](std::size_t row, std::size_t n) noexcept {
    k.rows(second, row, n);
    k.rectify(h2 + row * out, row, n, out, slope, drop2);
    if (block.residual != nullptr)
      k.rows(aside, row, n);
    else
      std::copy_n(x + row * out, n * out, y + row * out);
    k.add_rectify(h2 + row * out, y + row * out, n * out, slope);
  });
}

template <class T>
void tcn_block_backward(const TcnBlock<T>& block, const T* x, const T* h1, const T* h2, const T* y,
                        const T* grad_y, const TcnBlockGradients<T>& grads, RunRanges run) {
  check(block);
  const CausalConvKernelsOf<T>& k = kernels<T>();
  const Work<T> work(block, run);
  const std::size_t in = block.in, out = block.out, taps = block.taps;
  const T slope = static_cast<T>(block.slope), scale = dropout_of(block, 0).scale;
  const auto none = padded_bias<T>(nullptr, std::max(in, out));
  // The gradients of the sum before the last rectifier, and of what the two convolutions gave. Where x goes
  // into the sum as it is, the first of them is where the gradient of x begins.
  const bool in_place = block.residual == nullptr && grads.x != nullptr;
  const Scratch<T> own_sum(in_place ? 0 : work.values()), second(work.values()), first(work.values());
  T* const sum = in_place ? grads.x : own_sum.data();
  std::vector<T> of_sum(work.jobs() * out), of_second(work.jobs() * out), of_first(work.jobs() * out);
  work.each([&](std::size_t row, std::size_t n) noexcept {
    const std::size_t at = row * out, job = row / kRows * out;
    k.gate(grad_y + at, y + at, sum + at, n * out, slope, T(1));
    k.gate(sum + at, h2 + at, second.data() + at, n * out, slope, scale);
    k.column_sums(second.data() + at, n, out, of_second.data() + job);
    if (block.residual != nullptr) k.column_sums(sum + at, n, out, of_sum.data() + job);
  });
  {
    const auto weight2 = packed(block.weight2, out, out, taps, true, run);
    const ConvRows<T> back =
        work.conv(second.data(), out, out, taps, true, weight2.data(), none.data(), first.data());
    work.each([&](std::size_t row, std::size_t n) noexcept {
      const std::size_t at = row * out;
      k.rows(back, row, n);
      k.gate(first.data() + at, h1 + at, first.data() + at, n * out, slope, scale);
      k.column_sums(first.data() + at, n, out, of_first.data() + row / kRows * out);
    });
  }
  if (grads.x != nullptr) {
    const auto weight1 = packed(block.weight1, out, in, taps, true, run);
    AlignedVector<T> residual;
    if (block.residual != nullptr) residual = packed(block.residual, out, in, 1, true, run);
    const ConvRows<T> aside = work.conv(sum, out, in, 1, true, residual.data(), none.data(), grads.x);
    const ConvRows<T> back = work.conv(first.data(), out, in, taps, true, weight1.data(), nullptr, grads.x);
    work.each([&](std::size_t row, std::size_t n) noexcept {
      if (block.residual != nullptr) k.rows(aside, row, n);
      k.rows(back, row, n);
    });
  }
  if (grads.weight1 == nullptr) return;
  work.merge(of_first, out, grads.bias1);
  work.merge(of_second, out, grads.bias2);
  work.weight_gradient(x, in, first.data(), taps, grads.weight1);
  work.weight_gradient(h1, out, second.data(), taps, grads.weight2);
  if (block.residual == nullptr) return;
  work.merge(of_sum, out, grads.residual_bias);
  work.weight_gradient(x, in, sum, 1, grads.residual);
}

template AFFEKT_API void tcn_block_forward(const TcnBlock<float>&, const float*, float*, float*, float*,
                                           RunRanges);
template AFFEKT_API void tcn_block_forward(const TcnBlock<double>&, const double*, double*, double*, double*,
                                           RunRanges);
template AFFEKT_API void tcn_block_backward(const TcnBlock<float>&, const float*, const float*, const float*,
                                            const float*, const float*, const TcnBlockGradients<float>&,
                                            RunRanges);
template AFFEKT_API void tcn_block_backward(const TcnBlock<double>&, const double*, const double*,
                                            const double*, const double*, const double*,
                                            const TcnBlockGradients<double>&, RunRanges);

}  // namespace affekt
