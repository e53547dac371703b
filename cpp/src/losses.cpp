#include "affekt/losses.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/ccc.hpp"
#include "kernels/contrast.hpp"

namespace affekt {
namespace {

// Steps whose sums one job takes; fixed, so that the merge has one order.
constexpr std::size_t kChunk = std::size_t{1} << 14;
// Elements worth a thread of their own.
constexpr std::size_t kGrain = std::size_t{1} << 15;

template <class T>
const auto& ccc_kernels() {
  if constexpr (std::is_same_v<T, float>)
    return ccc().floats;
  else
    return ccc().doubles;
}

// First valid sample of each column of a group: any sample of the column makes the sums about it exact
// enough.
template <class T>
void origins(const CccShape& shape, const T* pred, const T* target, const std::uint8_t* mask,
             double* origin) {
  for (std::size_t k = 0; k < shape.dims; ++k) {
    std::size_t e = k;
    const std::size_t end = shape.steps * shape.dims;
    if (mask != nullptr) {
      while (e < end && mask[e] == 0) e += shape.dims;
    }
    origin[2 * k] = e < end ? static_cast<double>(pred[e]) : 0;
    origin[2 * k + 1] = e < end ? static_cast<double>(target[e]) : 0;
  }
}

// Whether squares in float32 may have lost too much: out of their range, with a variance below 1e-30 or none
// at all, or about an origin so far from the other samples that what differs between those drowns.
bool wants_exact(const double* sums, std::size_t dims) {
  for (std::size_t k = 0; k < dims; ++k, sums += kCccSums) {
    const double n = sums[0];
    if (n == 0) continue;
    const double spread = sums[3] - (sums[1] * sums[1] + sums[2] * sums[2]) / n;
    if (!(spread >= 1e-30 * n && spread <= 1e300 && spread >= sums[3] / 16)) return true;
  }
  return false;
}

CccColumn column_of(const double* sums, const double* origin, double eps, bool mixed) {
  const double n = sums[0];
  CccColumn column{};
  column.count = n;
  if (n == 0) return column;
  const double dp = sums[1] / n, dy = sums[2] / n;
  column.mean_p = origin[0] + dp;
  column.mean_y = origin[1] + dy;
  const double spread = sums[3] - sums[1] * dp - sums[2] * dy;
  const double differences = sums[4] - (sums[1] - sums[2]) * (dp - dy);  // squares, about their mean
  const double freedom = mixed ? std::max(n - 1, 1.0) : n;
  const double apart = (origin[0] - origin[1]) + (dp - dy);
  const double denominator = spread / freedom + apart * apart + eps;
  if (denominator == 0) {
    column.loss = 1;
    return column;
  }
  // 1 - 2 cov / denominator, over one fraction bar: small losses keep their digits.
  column.loss = (differences / n + (spread / freedom - spread / n) + (apart * apart + eps)) / denominator;
  const double ccc = (spread - differences) / n / denominator;
  column.on_other = -2 / (n * denominator);
  column.on_self = 2 * ccc / (freedom * denominator);
  column.shift = 2 * ccc * apart / (n * denominator);
  return column;
}

}  // namespace

template <class T>
void ccc_forward(const CccShape& shape, const T* pred, const T* target, const std::uint8_t* mask, double eps,
                 bool mixed, CccColumn* columns, RunRanges run) {
  const auto& kernels = ccc_kernels<T>();
  const std::size_t size = shape.steps * shape.dims, width = shape.dims * kCccSums;
  const std::size_t chunks = std::max<std::size_t>(1, (shape.steps + kChunk - 1) / kChunk);
  std::vector<double> origin(shape.groups * shape.dims * 2), parts(shape.groups * chunks * width);
  const std::size_t work = std::max<std::size_t>(1, std::min(shape.steps, kChunk) * shape.dims);
  for (std::size_t g = 0; g < shape.groups; ++g)
    origins(shape, pred + g * size, target + g * size, mask == nullptr ? nullptr : mask + g * size,
            origin.data() + g * shape.dims * 2);
  const auto sum = [&](std::size_t job, auto kernel) {
    const std::size_t g = job / chunks, first = job % chunks * kChunk;
    const std::size_t at = g * size + first * shape.dims;
    kernel(pred + at, target + at, mask == nullptr ? nullptr : mask + at,
           std::min(kChunk, shape.steps - first), shape.dims, origin.data() + g * shape.dims * 2,
           parts.data() + job * width);
  };
  run_ranges(run, shape.groups * chunks, (kGrain + work - 1) / work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t job = begin; job < end; ++job) sum(job, kernels.sums);
  });
  for (std::size_t g = 0; g < shape.groups; ++g) {
    double* const total = parts.data() + g * chunks * width;
    const auto add_chunks = [&] {
      for (std::size_t c = 1; c < chunks; ++c) {
        for (std::size_t i = 0; i < width; ++i) total[i] += total[c * width + i];
      }
    };
    add_chunks();
    if (wants_exact(total, shape.dims)) {
      for (std::size_t c = 0; c < chunks; ++c) sum(g * chunks + c, kernels.exact_sums);
      add_chunks();
    }
    for (std::size_t k = 0; k < shape.dims; ++k)
      columns[g * shape.dims + k] =
          column_of(total + k * kCccSums, origin.data() + (g * shape.dims + k) * 2, eps, mixed);
  }
}

template <class T>
void ccc_backward(const CccShape& shape, const T* pred, const T* target, const std::uint8_t* mask,
                  const CccColumn* columns, const double* upstream, T* grad_pred, T* grad_target,
                  RunRanges run) {
  const auto& kernels = ccc_kernels<T>();
  const std::size_t size = shape.steps * shape.dims, n = shape.groups * shape.dims;
  std::vector<T> values(6 * n);
  T* const of = values.data();
  T *const mean_p = of, *const mean_y = of + n, *const other = of + 2 * n, *const self = of + 3 * n;
  T *const constant_p = of + 4 * n, *const constant_y = of + 5 * n;
  for (std::size_t i = 0; i < n; ++i) {
    const CccColumn& c = columns[i];
    mean_p[i] = static_cast<T>(c.mean_p), mean_y[i] = static_cast<T>(c.mean_y);
    const double g = upstream[i], on_other = g * c.on_other, on_self = g * c.on_self;
    // What rounding took from the means, far from zero more than the data's spread, returns in the constants.
    const double lost_p = c.mean_p - static_cast<double>(mean_p[i]);
    const double lost_y = c.mean_y - static_cast<double>(mean_y[i]);
    other[i] = static_cast<T>(on_other), self[i] = static_cast<T>(on_self);
    constant_p[i] = static_cast<T>(g * c.shift - on_other * lost_y - on_self * lost_p);
    constant_y[i] = static_cast<T>(-g * c.shift - on_other * lost_p - on_self * lost_y);
  }
  const std::size_t chunks = std::max<std::size_t>(1, (shape.steps + kChunk - 1) / kChunk);
  const std::size_t work = std::max<std::size_t>(1, std::min(shape.steps, kChunk) * shape.dims);
  run_ranges(run, shape.groups * chunks, (kGrain + work - 1) / work, [&](std::size_t begin, std::size_t end) {
    for (std::size_t job = begin; job < end; ++job) {
      const std::size_t g = job / chunks, first = job % chunks * kChunk, k = g * shape.dims;
      const std::size_t at = g * size + first * shape.dims, steps = std::min(kChunk, shape.steps - first);
      const std::uint8_t* const from = mask == nullptr ? nullptr : mask + at;
      if (grad_pred != nullptr)
        kernels.gradient(pred + at, target + at, from, steps, shape.dims,
                         {mean_p + k, mean_y + k, self + k, other + k, constant_p + k}, grad_pred + at);
      if (grad_target != nullptr)
        kernels.gradient(target + at, pred + at, from, steps, shape.dims,
                         {mean_y + k, mean_p + k, self + k, other + k, constant_y + k}, grad_target + at);
    }
  });
}

#define AFFEKT_CCC(T)                                                                                    \
  template AFFEKT_API void ccc_forward(const CccShape&, const T*, const T*, const std::uint8_t*, double, \
                                       bool, CccColumn*, RunRanges);                                     \
  template AFFEKT_API void ccc_backward(const CccShape&, const T*, const T*, const std::uint8_t*,        \
                                        const CccColumn*, const double*, T*, T*, RunRanges);
AFFEKT_CCC(float)
AFFEKT_CCC(double)
#undef AFFEKT_CCC

template <>
const ContrastSteps<float>& contrast_steps<float>() {
  return contrast().floats;
}
template <>
const ContrastSteps<double>& contrast_steps<double>() {
  return contrast().doubles;
}

}  // namespace affekt
