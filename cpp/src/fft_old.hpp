// Discrete Fourier transform of any length, written once over a value type.
//
// V is a scalar (float, double) or a GCC/Clang vector of them whose lanes hold independent signals; every
// lane goes through the same operations in the same order as the scalar does, so a transform has the same
// bits alone and in company. Twiddles are computed in double and rounded once to the element type T.
//
// Complex transform: autosort (Stockham) passes of radix 4, 2, 3, 5 and any odd prime, split real/imaginary
// arrays. Lengths with a prime factor above `kMaxRadix` go through Bluestein's convolution; its rounding
// error is several times that of the direct passes, so callers run it in double (see needs_bluestein). Real
// transform: even lengths pack neighbours into one complex transform of half the length; odd ones run as
// complex.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numbers>
#include <utility>
#include <vector>

namespace affekt::detail {

/// exp(-2 pi i k / n) in double, with the angle reduced to the first octant so that it is right to the last
/// bit or so.
inline std::pair<double, double> unit_root(std::uint64_t k, std::uint64_t n) {
  k %= n;
  std::uint64_t k8 = 8 * k;
  const auto cs = [n](std::uint64_t a) {  // cos and sin of 2 pi a / (8 n), a <= n
    const double t = 2.0 * std::numbers::pi * static_cast<double>(a) / (8.0 * static_cast<double>(n));
    return std::pair<double, double>{std::cos(t), std::sin(t)};
  };
  const std::uint64_t octant = k8 / n;
  const std::uint64_t rest = k8 - octant * n;
  double c = 0;
  double s = 0;
  switch (octant) {
    case 0: {
      auto [a, b] = cs(rest);
      c = a;
      s = b;
      break;
    }
    case 1: {
      auto [a, b] = cs(n - rest);
      c = b;
      s = a;
      break;
    }
    case 2: {
      auto [a, b] = cs(rest);
      c = -b;
      s = a;
      break;
    }
    case 3: {
      auto [a, b] = cs(n - rest);
      c = -a;
      s = b;
      break;
    }
    case 4: {
      auto [a, b] = cs(rest);
      c = -a;
      s = -b;
      break;
    }
    case 5: {
      auto [a, b] = cs(n - rest);
      c = -b;
      s = -a;
      break;
    }
    case 6: {
      auto [a, b] = cs(rest);
      c = b;
      s = -a;
      break;
    }
    default: {
      auto [a, b] = cs(n - rest);
      c = a;
      s = -b;
      break;
    }
  }
  return {c, -s};
}

template <class T>
class ComplexFft {
 public:
  static constexpr std::size_t kMaxRadix = 31;

  explicit ComplexFft(std::size_t n) : n_(n) {
    std::size_t rest = n;
    while (rest % 4 == 0) rest = take(rest, 4);
    while (rest % 2 == 0) rest = take(rest, 2);
    for (std::size_t p = 3; p * p <= rest; p += 2) {
      while (rest % p == 0) rest = take(rest, p);
    }
    if (rest > 1) take(rest, rest);
    std::size_t l1 = 1;
    for (Pass& pass : passes_) {
      const std::size_t ido = n / (l1 * pass.radix);
      pass.twiddle = tw_re_.size();
      for (std::size_t j = 1; j < pass.radix; ++j) {
        for (std::size_t i = 0; i < ido; ++i) push_root(j * l1 * i, n);
      }
      pass.roots = tw_re_.size();
      if (pass.radix > 5) {
        for (std::size_t j = 0; j < pass.radix; ++j) push_root(j, pass.radix);
      }
      l1 *= pass.radix;
    }
  }

  static bool needs_bluestein(std::size_t n) {
    for (std::size_t p = 2; p * p <= n; ++p) {
      while (n % p == 0) n /= p;
      if (p > kMaxRadix && n > 1) return true;
    }
    return n > kMaxRadix;
  }

  std::size_t size() const { return n_; }

  /// Forward transform of (re, im); (wre, wim) is work space of the same size. The result lies in the pair of
  /// pointers that comes back: one or the other.
  template <class V>
  std::pair<V*, V*> forward(V* re, V* im, V* wre, V* wim) const {
    std::size_t l1 = 1;
    for (const Pass& pass : passes_) {
      const std::size_t ido = n_ / (l1 * pass.radix);
      const T* tr = tw_re_.data() + pass.twiddle;
      const T* ti = tw_im_.data() + pass.twiddle;
      switch (pass.radix) {
        case 2:
          pass2(ido, l1, re, im, wre, wim, tr, ti);
          break;
        case 3:
          pass3(ido, l1, re, im, wre, wim, tr, ti);
          break;
        case 4:
          pass4(ido, l1, re, im, wre, wim, tr, ti);
          break;
        case 5:
          pass5(ido, l1, re, im, wre, wim, tr, ti);
          break;
        default:
          pass_odd(pass.radix, ido, l1, re, im, wre, wim, tr, ti, tw_re_.data() + pass.roots,
                   tw_im_.data() + pass.roots);
      }
      std::swap(re, wre);
      std::swap(im, wim);
      l1 *= pass.radix;
    }
    return {re, im};
  }

 private:
  struct Pass {
    std::size_t radix, twiddle = 0, roots = 0;
  };

  std::size_t take(std::size_t rest, std::size_t radix) {
    passes_.push_back({radix});
    return rest / radix;
  }

  void push_root(std::size_t k, std::size_t n) {
    const auto [c, s] = unit_root(k, n);
    tw_re_.push_back(static_cast<T>(c));
    tw_im_.push_back(static_cast<T>(s));
  }

  // Every pass reads c(i, b, k) at i + ido*(b + radix*k) and writes h(i, k, j) at i + ido*(k + l1*j):
  // h(i, k, j) = w(j*l1*i/n) * sum_b c(i, b, k) w(j*b/radix).
  template <class V>
  static inline void put(V* hr, V* hi, std::size_t at, V r, V m, T wr, T wi) {
    hr[at] = r * wr - m * wi;
    hi[at] = r * wi + m * wr;
  }

  template <class V>
  static void pass2(std::size_t ido, std::size_t l1, const V* __restrict cr, const V* __restrict ci,
                    V* __restrict hr, V* __restrict hi, const T* tr, const T* ti) {
    const std::size_t s = ido * l1;
    for (std::size_t k = 0; k < l1; ++k) {
      for (std::size_t i = 0; i < ido; ++i) {
        const std::size_t a = i + ido * 2 * k;
        const std::size_t h = i + ido * k;
        const V r0 = cr[a], i0 = ci[a], r1 = cr[a + ido], i1 = ci[a + ido];
        hr[h] = r0 + r1;
        hi[h] = i0 + i1;
        if (ido == 1) {
          hr[h + s] = r0 - r1;
          hi[h + s] = i0 - i1;
        } else {
          put<V>(hr, hi, h + s, r0 - r1, i0 - i1, tr[i], ti[i]);
        }
      }
    }
  }

  template <class V>
  static void pass3(std::size_t ido, std::size_t l1, const V* __restrict cr, const V* __restrict ci,
                    V* __restrict hr, V* __restrict hi, const T* tr, const T* ti) {
    const T half = T(0.5);
    const T s60 = static_cast<T>(0.86602540378443864676372317075293618);
    const std::size_t s = ido * l1;
    for (std::size_t k = 0; k < l1; ++k) {
      for (std::size_t i = 0; i < ido; ++i) {
        const std::size_t a = i + ido * 3 * k;
        const std::size_t h = i + ido * k;
        const V r0 = cr[a], i0 = ci[a];
        const V rs = cr[a + ido] + cr[a + 2 * ido], is = ci[a + ido] + ci[a + 2 * ido];
        const V rd = (cr[a + ido] - cr[a + 2 * ido]) * s60, id = (ci[a + ido] - ci[a + 2 * ido]) * s60;
        hr[h] = r0 + rs;
        hi[h] = i0 + is;
        const V rm = r0 - rs * half, im = i0 - is * half;
        put<V>(hr, hi, h + s, rm + id, im - rd, tr[i], ti[i]);
        put<V>(hr, hi, h + 2 * s, rm - id, im + rd, tr[i + ido], ti[i + ido]);
      }
    }
  }

  template <class V>
  static void pass4(std::size_t ido, std::size_t l1, const V* __restrict cr, const V* __restrict ci,
                    V* __restrict hr, V* __restrict hi, const T* tr, const T* ti) {
    const std::size_t s = ido * l1;
    for (std::size_t k = 0; k < l1; ++k) {
      for (std::size_t i = 0; i < ido; ++i) {
        const std::size_t a = i + ido * 4 * k;
        const std::size_t h = i + ido * k;
        const V ar = cr[a] + cr[a + 2 * ido], ai = ci[a] + ci[a + 2 * ido];
        const V br = cr[a] - cr[a + 2 * ido], bi = ci[a] - ci[a + 2 * ido];
        const V pr = cr[a + ido] + cr[a + 3 * ido], pi = ci[a + ido] + ci[a + 3 * ido];
        const V qr = cr[a + ido] - cr[a + 3 * ido], qi = ci[a + ido] - ci[a + 3 * ido];
        hr[h] = ar + pr;
        hi[h] = ai + pi;
        if (ido == 1) {
          hr[h + s] = br + qi;
          hi[h + s] = bi - qr;
          hr[h + 2 * s] = ar - pr;
          hi[h + 2 * s] = ai - pi;
          hr[h + 3 * s] = br - qi;
          hi[h + 3 * s] = bi + qr;
        } else {
          put<V>(hr, hi, h + s, br + qi, bi - qr, tr[i], ti[i]);
          put<V>(hr, hi, h + 2 * s, ar - pr, ai - pi, tr[i + ido], ti[i + ido]);
          put<V>(hr, hi, h + 3 * s, br - qi, bi + qr, tr[i + 2 * ido], ti[i + 2 * ido]);
        }
      }
    }
  }

  template <class V>
  static void pass5(std::size_t ido, std::size_t l1, const V* __restrict cr, const V* __restrict ci,
                    V* __restrict hr, V* __restrict hi, const T* tr, const T* ti) {
    const T c1 = static_cast<T>(0.30901699437494742410229341718281906);
    const T c2 = static_cast<T>(-0.80901699437494742410229341718281906);
    const T s1 = static_cast<T>(0.95105651629515357211643933337938214);
    const T s2 = static_cast<T>(0.58778525229247312916870595463907277);
    const std::size_t s = ido * l1;
    for (std::size_t k = 0; k < l1; ++k) {
      for (std::size_t i = 0; i < ido; ++i) {
        const std::size_t a = i + ido * 5 * k;
        const std::size_t h = i + ido * k;
        const V r0 = cr[a], i0 = ci[a];
        const V r14 = cr[a + ido] + cr[a + 4 * ido], i14 = ci[a + ido] + ci[a + 4 * ido];
        const V r23 = cr[a + 2 * ido] + cr[a + 3 * ido], i23 = ci[a + 2 * ido] + ci[a + 3 * ido];
        const V d14r = cr[a + ido] - cr[a + 4 * ido], d14i = ci[a + ido] - ci[a + 4 * ido];
        const V d23r = cr[a + 2 * ido] - cr[a + 3 * ido], d23i = ci[a + 2 * ido] - ci[a + 3 * ido];
        hr[h] = r0 + r14 + r23;
        hi[h] = i0 + i14 + i23;
        const V ar = r0 + r14 * c1 + r23 * c2, ai = i0 + i14 * c1 + i23 * c2;
        const V br = r0 + r14 * c2 + r23 * c1, bi = i0 + i14 * c2 + i23 * c1;
        const V pr = d14i * s1 + d23i * s2, pi = d14r * s1 + d23r * s2;
        const V qr = d14i * s2 - d23i * s1, qi = d14r * s2 - d23r * s1;
        put<V>(hr, hi, h + s, ar + pr, ai - pi, tr[i], ti[i]);
        put<V>(hr, hi, h + 2 * s, br + qr, bi - qi, tr[i + ido], ti[i + ido]);
        put<V>(hr, hi, h + 3 * s, br - qr, bi + qi, tr[i + 2 * ido], ti[i + 2 * ido]);
        put<V>(hr, hi, h + 4 * s, ar - pr, ai + pi, tr[i + 3 * ido], ti[i + 3 * ido]);
      }
    }
  }

  // Odd prime radix: outputs j and p-j share the sums over symmetric pairs of inputs.
  template <class V>
  static void pass_odd(std::size_t p, std::size_t ido, std::size_t l1, const V* __restrict cr,
                       const V* __restrict ci, V* __restrict hr, V* __restrict hi, const T* tr, const T* ti,
                       const T* root_re, const T* root_im) {
    const std::size_t s = ido * l1;
    for (std::size_t k = 0; k < l1; ++k) {
      for (std::size_t i = 0; i < ido; ++i) {
        const std::size_t a = i + ido * p * k;
        const std::size_t h = i + ido * k;
        V r0 = cr[a], i0 = ci[a];
        for (std::size_t b = 1; b < p; ++b) {
          r0 = r0 + cr[a + b * ido];
          i0 = i0 + ci[a + b * ido];
        }
        hr[h] = r0;
        hi[h] = i0;
        for (std::size_t j = 1; 2 * j < p; ++j) {
          V er = cr[a], ei = ci[a];      // even part, from the cosines
          V odr = er * T(0), odi = odr;  // odd part, from the sines
          std::size_t w = 0;
          for (std::size_t b = 1; 2 * b < p; ++b) {
            w += j;
            if (w >= p) w -= p;
            const std::size_t lo = a + b * ido, hi_at = a + (p - b) * ido;
            er = er + (cr[lo] + cr[hi_at]) * root_re[w];
            ei = ei + (ci[lo] + ci[hi_at]) * root_re[w];
            odr = odr + (cr[lo] - cr[hi_at]) * root_im[w];
            odi = odi + (ci[lo] - ci[hi_at]) * root_im[w];
          }
          const std::size_t t = i + (j - 1) * ido, u = i + (p - j - 1) * ido;
          put<V>(hr, hi, h + j * s, er - odi, ei + odr, tr[t], ti[t]);
          put<V>(hr, hi, h + (p - j) * s, er + odi, ei - odr, tr[u], ti[u]);
        }
      }
    }
  }

  std::size_t n_;
  std::vector<Pass> passes_;
  std::vector<T> tw_re_, tw_im_;
};

/// Any length as a circular convolution with a chirp, over a transform whose length has small factors only.
template <class T>
class BluesteinFft {
 public:
  explicit BluesteinFft(std::size_t n) : n_(n), conv_(good_size(2 * n - 1)) {
    const std::size_t m = conv_.size();
    for (std::size_t k = 0; k < n; ++k) {
      const auto [c, s] = unit_root((static_cast<std::uint64_t>(k) * k) % (2 * n), 2 * n);
      chirp_re_.push_back(static_cast<T>(c));
      chirp_im_.push_back(static_cast<T>(s));
    }
    // Transform of the conjugate chirp, divided by m for the inverse transform.
    std::vector<T> re(m), im(m), wre(m), wim(m);
    for (std::size_t k = 0; k < n; ++k) {
      const T r = chirp_re_[k] / static_cast<T>(m), i = -chirp_im_[k] / static_cast<T>(m);
      re[k] = r;
      im[k] = i;
      if (k > 0) {
        re[m - k] = r;
        im[m - k] = i;
      }
    }
    const auto [fr, fi] = conv_.forward(re.data(), im.data(), wre.data(), wim.data());
    kernel_re_.assign(fr, fr + m);
    kernel_im_.assign(fi, fi + m);
  }

  std::size_t padded_size() const { return conv_.size(); }

  /// As ComplexFft::forward; the four arrays have padded_size() entries.
  template <class V>
  std::pair<V*, V*> forward(V* re, V* im, V* wre, V* wim) const {
    const std::size_t m = conv_.size();
    for (std::size_t k = 0; k < n_; ++k) rotate(re[k], im[k], chirp_re_[k], chirp_im_[k]);
    for (std::size_t k = n_; k < m; ++k) {
      re[k] = V{};
      im[k] = V{};
    }
    auto [fr, fi] = conv_.forward(re, im, wre, wim);
    V* or_ = fr == re ? wre : re;
    V* oi = fi == im ? wim : im;
    for (std::size_t k = 0; k < m; ++k) rotate(fr[k], fi[k], kernel_re_[k], kernel_im_[k]);
    // Inverse transform: the forward one with real and imaginary parts exchanged.
    auto [gi, gr] = conv_.forward(fi, fr, oi, or_);
    for (std::size_t k = 0; k < n_; ++k) rotate(gr[k], gi[k], chirp_re_[k], chirp_im_[k]);
    return {gr, gi};
  }

 private:
  template <class V>
  static void rotate(V& re, V& im, T c, T s) {
    const V r = re * c - im * s;
    im = re * s + im * c;
    re = r;
  }

  static std::size_t good_size(std::size_t at_least) {
    for (std::size_t n = at_least;; ++n) {
      std::size_t rest = n;
      for (const std::size_t p : {2, 3, 5}) {
        while (rest % p == 0) rest /= p;
      }
      if (rest == 1) return n;
    }
  }

  std::size_t n_;
  ComplexFft<T> conv_;
  std::vector<T> chirp_re_, chirp_im_, kernel_re_, kernel_im_;
};

/// Spectrum of n real values: bins 0 ... n/2.
template <class T>
class RealFft {
 public:
  explicit RealFft(std::size_t n) : n_(n), half_(n % 2 == 0 ? n / 2 : n) {
    if (ComplexFft<T>::needs_bluestein(half_)) {
      bluestein_ = std::make_unique<BluesteinFft<T>>(half_);
    } else {
      direct_ = std::make_unique<ComplexFft<T>>(half_);
    }
    if (n % 2 == 0) {
      for (std::size_t k = 0; k <= half_ / 2; ++k) {
        const auto [c, s] = unit_root(k, n);
        tw_re_.push_back(static_cast<T>(c));
        tw_im_.push_back(static_cast<T>(s));
      }
    }
  }

  /// Whether length n goes through Bluestein's algorithm, which should then run in double.
  static bool needs_bluestein(std::size_t n) {
    return ComplexFft<T>::needs_bluestein(n % 2 == 0 ? n / 2 : n);
  }

  std::size_t size() const { return n_; }
  std::size_t bins() const { return n_ / 2 + 1; }
  /// Even length: value j of the signal goes to (j even ? re : im)[j / 2]. Odd length: to re[j], with im
  /// zero.
  bool packed() const { return n_ % 2 == 0; }
  std::size_t packed_size() const { return half_; }
  /// Entries of each of the four arrays that spectrum() needs.
  std::size_t work_size() const {
    const std::size_t c = bluestein_ ? bluestein_->padded_size() : half_;
    return c > bins() ? c : bins();
  }

  /// Spectrum of the values packed in (re, im). The result lies in the pair that comes back: (re, im) or
  /// (wre, wim).
  template <class V>
  std::pair<V*, V*> spectrum(V* re, V* im, V* wre, V* wim) const {
    const auto [zr, zi] =
        bluestein_ ? bluestein_->forward(re, im, wre, wim) : direct_->forward(re, im, wre, wim);
    if (n_ % 2 != 0) return {zr, zi};
    V* xr = zr == re ? wre : re;
    V* xi = zi == im ? wim : im;
    const T half = T(0.5);
    xr[0] = zr[0] + zi[0];
    xr[half_] = zr[0] - zi[0];
    xi[0] = zr[0] * T(0);
    xi[half_] = xi[0];
    for (std::size_t k = 1; 2 * k <= half_; ++k) {
      const std::size_t j = half_ - k;
      const V er = (zr[k] + zr[j]) * half, ei = (zi[k] - zi[j]) * half;
      const V odr = (zi[k] + zi[j]) * half, odi = (zr[j] - zr[k]) * half;
      const V tr = odr * tw_re_[k] - odi * tw_im_[k], ti = odr * tw_im_[k] + odi * tw_re_[k];
      xr[k] = er + tr;
      xi[k] = ei + ti;
      xr[j] = er - tr;
      xi[j] = ti - ei;
    }
    return {xr, xi};
  }

 private:
  std::size_t n_, half_;
  std::unique_ptr<ComplexFft<T>> direct_;
  std::unique_ptr<BluesteinFft<T>> bluestein_;
  std::vector<T> tw_re_, tw_im_;
};

}  // namespace affekt::detail
