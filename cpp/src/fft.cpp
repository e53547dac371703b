#include "fft.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <type_traits>

#include "affekt/aligned.hpp"

namespace affekt {
namespace {

/// Whether a prime factor of n exceeds kMaxFftRadix.
bool too_prime(std::size_t n) {
  for (std::size_t p = 2; p <= kMaxFftRadix; ++p) {
    while (n % p == 0) n /= p;
  }
  return n > 1;
}

/// Radices in the order of the passes. The last is small where it can be, because real transforms fuse it
/// with the step that follows; one of 8 before one of 4 keeps the passes few.
std::vector<std::size_t> radices(std::size_t n) {
  std::vector<std::size_t> r;
  for (const std::size_t p : {31, 29, 23, 19, 17, 13, 11, 7}) {
    for (; n % p == 0; n /= p) r.push_back(p);
  }
  std::vector<std::size_t> twos;
  std::size_t log2 = 0;
  std::size_t rest = n;
  for (; rest % 2 == 0; rest /= 2) ++log2;
  const std::size_t fours = log2 % 3 == 2 ? 1 : log2 % 3 == 1 && log2 > 1 ? 2 : 0;
  for (std::size_t i = 0; i < (log2 - 2 * fours) / 3; ++i) twos.push_back(8);
  for (std::size_t i = 0; i < fours; ++i) twos.push_back(4);
  if (log2 == 1) twos.push_back(2);
  const bool last_is_two = !twos.empty() && twos.back() < 8;
  if (!last_is_two) r.insert(r.end(), twos.begin(), twos.end());
  for (const std::size_t p : {5, 3}) {
    for (; rest % p == 0; rest /= p) r.push_back(p);
  }
  if (last_is_two) r.insert(r.end(), twos.begin(), twos.end());
  return r;
}

std::size_t good_size(std::size_t at_least) {
  for (std::size_t n = at_least;; ++n) {
    std::size_t rest = n;
    for (const std::size_t p : {2, 3, 5}) {
      while (rest % p == 0) rest /= p;
    }
    if (rest == 1) return n;
  }
}

template <class T>
const FftKernelsOf<T>& kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return fft_kernels().floats;
  } else {
    return fft_kernels().doubles;
  }
}

template <class T>
void push(std::vector<T>& to, std::uint64_t k, std::uint64_t n) {
  const auto [c, s] = unit_root(k, n);
  to.push_back(static_cast<T>(c));
  to.push_back(static_cast<T>(s));
}

}  // namespace

std::pair<double, double> unit_root(std::uint64_t k, std::uint64_t n) {
  // The angle is reduced to the first octant, where cos and sin lose nothing.
  k %= n;
  const std::uint64_t octant = 8 * k / n;
  const std::uint64_t rest = 8 * k - octant * n;
  const std::uint64_t a = octant % 2 == 0 ? rest : n - rest;
  const double t = 2.0 * std::numbers::pi * static_cast<double>(a) / (8.0 * static_cast<double>(n));
  double c = std::cos(t), s = std::sin(t);
  if ((octant + 1) / 2 % 2 == 1) std::swap(c, s);  // octants 1, 2, 5, 6
  if (octant >= 2 && octant <= 5) c = -c;
  if (octant >= 4) s = -s;
  return {c, -s};
}

template <class T>
Fft<T>::Fft(std::size_t n) : order_(n) {
  const std::vector<std::size_t> all = radices(n);
  // The tables are filled before anything points into them.
  std::vector<std::size_t> twiddles_at, roots_at;
  std::size_t blocks = 1;
  for (const std::size_t radix : all) {
    const std::size_t ido = n / (blocks * radix);
    twiddles_at.push_back(tables_.size());
    if (ido > 1) {
      for (std::size_t i = 0; i < ido; ++i) {
        for (std::size_t j = 1; j < radix; ++j) push(tables_, i * j * blocks, n);
      }
    }
    roots_at.push_back(tables_.size());
    if (radix > 5 && radix != 8) {
      for (std::size_t j = 0; j < radix; ++j) push(tables_, j, radix);
    }
    passes_.push_back({radix, ido, blocks, nullptr, nullptr});
    blocks *= radix;
  }
  for (std::size_t p = 0; p < all.size(); ++p) {
    passes_[p].twiddles = tables_.data() + twiddles_at[p];
    passes_[p].roots = tables_.data() + roots_at[p];
  }
  for (std::size_t k = 0; k < n; ++k) {
    std::size_t rest = k, at = 0;
    for (const FftPass<T>& pass : passes_) {
      at += rest % pass.radix * pass.ido;
      rest /= pass.radix;
    }
    order_[k] = static_cast<std::uint32_t>(at);
  }
  view_ = {n, passes_.size(), passes_.data(), order_.data()};
}

template <class T>
bool RealFft<T>::needs_bluestein(std::size_t n) {
  return too_prime(n % 2 == 0 ? n / 2 : n);
}

template <class T>
RealFft<T>::RealFft(std::size_t n)
    : fft_(needs_bluestein(n) ? good_size(2 * (n % 2 == 0 ? n / 2 : n) - 1)
           : n % 2 == 0       ? n / 2
                              : n) {
  const bool even = n % 2 == 0;
  const std::size_t length = even ? n / 2 : n;
  const FftView<T>& transform = fft_.view();
  view_.n = n;
  view_.bins = n / 2 + 1;
  view_.length = length;
  view_.transform = transform;
  view_.values = 2 * transform.n;
  view_.gain = even ? T(2) : T(1);
  if (even) {
    for (std::size_t k = 0; k <= length / 2; ++k) push(twiddles_, k, n);
    view_.twiddles = twiddles_.data();
  }
  if (needs_bluestein(n)) {
    const std::size_t m = transform.n;
    for (std::size_t k = 0; k < length; ++k)
      push(chirp_, static_cast<std::uint64_t>(k) * k % (2 * length), 2 * length);
    // Transform of the conjugate chirp, divided by m for the inverse transform.
    kernel_.resize(2 * m);
    for (std::size_t k = 0; k < length; ++k) {
      for (const std::size_t at : {k, (m - k) % m}) {
        kernel_[2 * at] = chirp_[2 * k] / static_cast<T>(m);
        kernel_[2 * at + 1] = -chirp_[2 * k + 1] / static_cast<T>(m);
      }
    }
    kernels<T>().transform(transform, kernel_.data());
    view_.chirp = chirp_.data();
    view_.kernel = kernel_.data();
    view_.work = 2 * m;
  }
}

template <class T>
std::size_t RealFft<T>::lanes() {
  return kernels<T>().lanes;
}

template <class T>
void RealFft<T>::spectrum(const T* x, T* re, T* im, std::size_t lanes) const {
  AlignedVector<T> z(view_.values * lanes), work(view_.work * lanes);
  std::copy(x, x + view_.n * lanes, z.data());
  kernels<T>().spectrum(view_, z.data(), work.data(), re, im, lanes);
  for (std::size_t i = 0; i < view_.bins * lanes; ++i) {
    re[i] /= view_.gain;
    im[i] /= view_.gain;
  }
}

template class Fft<float>;
template class Fft<double>;
template class RealFft<float>;
template class RealFft<double>;

}  // namespace affekt
