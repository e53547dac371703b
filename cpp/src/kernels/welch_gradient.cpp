#include "kernels/welch_gradient.hpp"

#include "fft_passes.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

using V = Vec<double>;
constexpr std::size_t kSide = static_cast<std::size_t>(kLanes<double>);

std::size_t work_size(const SegmentView<double>& plan) noexcept {
  return (plan.fft.values + plan.fft.work + plan.fft.n) * kSide;
}

/// Takes the mean or the line of least squares off n vectors: a projection, so its own adjoint.
void detrended(const SegmentView<double>& plan, V* z) noexcept {
  if (plan.detrend == 0) return;
  const std::size_t n = plan.samples;
  const double size = static_cast<double>(n), middle = (size - 1.0) * 0.5;
  V even{}, odd{}, moment{};
  for (std::size_t i = 0; i < n; ++i) (i % 2 == 0 ? even : odd) += z[i];
  const V mean = (even + odd) / size;
  if (plan.detrend == 1 || n == 1) {
    for (std::size_t i = 0; i < n; ++i) z[i] -= mean;
    return;
  }
  for (std::size_t i = 0; i < n; ++i)
    moment = fma<V>(z[i] - mean, splat<V>(static_cast<double>(i) - middle), moment);
  // The sum of (i - middle)^2 is n (n^2 - 1) / 12.
  const V slope = moment * (12.0 / (size * (size * size - 1.0)));
  for (std::size_t i = 0; i < n; ++i) z[i] -= fma<V>(slope, splat<V>(static_cast<double>(i) - middle), mean);
}

void spectra(const SegmentView<double>& plan, const double* const* x, double* re, double* im,
             double* work) noexcept {
  V* const z = reinterpret_cast<V*>(work);
  const std::size_t n = plan.samples, whole = n / kSide * kSide;
  const auto one = [x](std::size_t i) noexcept {
    V v{};
    for (std::size_t l = 0; l < kSide; ++l) v[l] = x[l][i];
    return v;
  };
  // Relative to the first sample, so that a large offset costs no precision.
  const V origin = plan.detrend == 0 ? V{} : one(0);
  for (std::size_t i = 0; i < whole; i += kSide) {
    V rows[kSide];
    for (std::size_t l = 0; l < kSide; ++l) rows[l] = load<V>(x[l] + i);
    transpose(rows);
    for (std::size_t s = 0; s < kSide; ++s) z[i + s] = rows[s] - origin;
  }
  for (std::size_t i = whole; i < n; ++i) z[i] = one(i) - origin;
  detrended(plan, z);
  for (std::size_t i = 0; i < n; ++i) z[i] = z[i] * plan.window[i];
  for (std::size_t i = n; i < plan.fft.n; ++i) z[i] = V{};
  real_fft<V>(plan.fft, z, z + plan.fft.values, [re, im](std::size_t k, const V& r, const V& i) noexcept {
    store<V>(re + k * kSide, r);
    store<V>(im + k * kSide, i);
  });
}

/// With the gradients a_k, b_k of the parts of bin k, that of value n is sum_k a_k cos(2 pi k n / N) - b_k
/// sin(2 pi k n / N). For the real sequence s_k = (a_k + b_k) / 2, s_{N-k} = (a_k - b_k) / 2 of spectrum S it
/// is Re S_n + Im S_n for n <= N / 2, and Re S_n - Im S_n at N - n.
void adjoint(const SegmentView<double>& plan, const double* re, const double* im, const double* gain,
             double* const* to, double* work) noexcept {
  V* const z = reinterpret_cast<V*>(work);
  V* const y = z + plan.fft.values + plan.fft.work;
  const std::size_t size = plan.fft.n, n = plan.samples, whole = n / kSide * kSide;
  for (std::size_t k = 0; k < plan.fft.bins; ++k) {
    const V g = load<V>(gain + k * kSide);
    const V a = load<V>(re + k * kSide) * g, b = load<V>(im + k * kSide) * g;
    if (k == 0 || 2 * k == size) {
      z[k] = a;
    } else {
      z[k] = (a + b) * 0.5;
      z[size - k] = (a - b) * 0.5;
    }
  }
  real_fft<V>(plan.fft, z, z + plan.fft.values, [y, size](std::size_t k, const V& r, const V& i) noexcept {
    if (k > 0) y[size - k] = r - i;
    y[k] = r + i;
  });
  for (std::size_t i = 0; i < n; ++i) y[i] = y[i] * plan.window[i];
  detrended(plan, y);
  for (std::size_t i = 0; i < whole; i += kSide) transpose(y + i);
  for (std::size_t l = 0; l < kSide; ++l) {
    double* const out = to[l];
    if (out == nullptr) continue;
    for (std::size_t i = 0; i < whole; i += kSide) store<V>(out + i, load<V>(out + i) + y[i + l]);
    for (std::size_t i = whole; i < n; ++i) out[i] += y[i][l];
  }
}

}  // namespace

const WelchGradientKernels welch_gradient{kSide, work_size, spectra, adjoint};

}  // namespace affekt::AFFEKT_ISA
