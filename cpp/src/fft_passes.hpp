// Fourier transforms over a value type, for kernels/*.cpp: they run the plans of fft.hpp.
//
// V is a scalar or a vector whose lanes hold independent signals; every lane goes through the operations of
// the scalar in the same order, so a transform has the same bits alone and in company. Arrays of V must be
// aligned as V is.
#pragma once

#include "kernels/fft.hpp"
#include "simd.hpp"

namespace affekt::AFFEKT_ISA {

template <class V>
struct Complex {
  V r, i;
};
template <class V>
AFFEKT_INLINE Complex<V> operator+(const Complex<V>& a, const Complex<V>& b) noexcept {
  return {a.r + b.r, a.i + b.i};
}
template <class V>
AFFEKT_INLINE Complex<V> operator-(const Complex<V>& a, const Complex<V>& b) noexcept {
  return {a.r - b.r, a.i - b.i};
}
/// a - i b and a + i b.
template <class V>
AFFEKT_INLINE Complex<V> minus_i(const Complex<V>& a, const Complex<V>& b) noexcept {
  return {a.r + b.i, a.i - b.r};
}
template <class V>
AFFEKT_INLINE Complex<V> plus_i(const Complex<V>& a, const Complex<V>& b) noexcept {
  return {a.r - b.i, a.i + b.r};
}
/// a + s b for a real s.
template <class V>
AFFEKT_INLINE Complex<V> axpy(const Complex<V>& a, Element<V> s, const Complex<V>& b) noexcept {
  return {fma<V>(splat<V>(s), b.r, a.r), fma<V>(splat<V>(s), b.i, a.i)};
}
template <class V>
AFFEKT_INLINE Complex<V> rotate(const Complex<V>& a, const Element<V>* w) noexcept {
  const V c = splat<V>(w[0]), s = splat<V>(w[1]);
  return {fma<V>(a.r, c, -(a.i * s)), fma<V>(a.r, s, a.i * c)};
}
template <class V>
AFFEKT_INLINE Complex<V> get(const V* z, std::size_t at) noexcept {
  return {z[2 * at], z[2 * at + 1]};
}
template <class V>
AFFEKT_INLINE void put(V* z, std::size_t at, const Complex<V>& a) noexcept {
  z[2 * at] = a.r;
  z[2 * at + 1] = a.i;
}

/// Transform of R values in place.
template <int R, class V>
AFFEKT_INLINE void butterfly(Complex<V>* x) noexcept {
  using T = Element<V>;
  static_assert(R == 2 || R == 3 || R == 4 || R == 5 || R == 8);
  if constexpr (R == 2) {
    const Complex<V> a = x[0];
    x[0] = a + x[1];
    x[1] = a - x[1];
  } else if constexpr (R == 3) {
    constexpr T s60 = static_cast<T>(0.86602540378443864676372317075293618);
    const Complex<V> sum = x[1] + x[2], difference = x[1] - x[2];
    const Complex<V> mid = axpy(x[0], T(-0.5), sum);
    const Complex<V> d{difference.r * s60, difference.i * s60};
    x[0] = x[0] + sum;
    x[1] = minus_i(mid, d);
    x[2] = plus_i(mid, d);
  } else if constexpr (R == 4) {
    const Complex<V> a = x[0] + x[2], b = x[0] - x[2], p = x[1] + x[3], q = x[1] - x[3];
    x[0] = a + p;
    x[1] = minus_i(b, q);
    x[2] = a - p;
    x[3] = plus_i(b, q);
  } else if constexpr (R == 5) {
    constexpr T c1 = static_cast<T>(0.30901699437494742410229341718281906);
    constexpr T c2 = static_cast<T>(-0.80901699437494742410229341718281906);
    constexpr T s1 = static_cast<T>(0.95105651629515357211643933337938214);
    constexpr T s2 = static_cast<T>(0.58778525229247312916870595463907277);
    const Complex<V> s14 = x[1] + x[4], s23 = x[2] + x[3], d14 = x[1] - x[4], d23 = x[2] - x[3];
    const Complex<V> a = axpy(axpy(x[0], c1, s14), c2, s23), b = axpy(axpy(x[0], c2, s14), c1, s23);
    const Complex<V> p = axpy({d14.r * s1, d14.i * s1}, s2, d23);
    const Complex<V> q = axpy({d14.r * s2, d14.i * s2}, -s1, d23);
    x[0] = x[0] + s14 + s23;
    x[1] = minus_i(a, p);
    x[2] = minus_i(b, q);
    x[3] = plus_i(b, q);
    x[4] = plus_i(a, p);
  } else {
    constexpr T c = static_cast<T>(0.70710678118654752440084436210484904);
    Complex<V> e[4] = {x[0], x[2], x[4], x[6]}, o[4] = {x[1], x[3], x[5], x[7]};
    butterfly<4>(e);
    butterfly<4>(o);
    x[0] = e[0] + o[0];
    x[4] = e[0] - o[0];
    const Complex<V> o1{o[1].r + o[1].i, o[1].i - o[1].r};  // (1 - i) o[1]
    x[1] = axpy(e[1], c, o1);
    x[5] = axpy(e[1], -c, o1);
    x[2] = minus_i(e[2], o[2]);
    x[6] = plus_i(e[2], o[2]);
    const Complex<V> o3{o[3].i - o[3].r, -(o[3].i + o[3].r)};  // (-1 - i) o[3]
    x[3] = axpy(e[3], c, o3);
    x[7] = axpy(e[3], -c, o3);
  }
}

/// Values as they lie there, for passes that do not prepare their input.
struct AsTheyAre {
  template <class V>
  AFFEKT_INLINE V operator()(std::size_t, const V& v) const noexcept {
    return v;
  }
};

/// `prepare(i, v)` stands for value i of z; only the first pass, of one block, may be given one.
template <int R, class V, class T, class Prepare = AsTheyAre>
void pass(const FftPass<T>& p, V* z, const Prepare& prepare = {}) noexcept {
  const std::size_t ido = p.ido;
  for (std::size_t k = 0; k < p.blocks; ++k, z += 2 * R * ido) {
    for (std::size_t i = 0; i < ido; ++i) {
      const T* w = p.twiddles + i * 2 * (R - 1);  // none where ido is 1
      Complex<V> x[R];
      for (int b = 0; b < R; ++b) {
        const std::size_t at = 2 * (i + static_cast<std::size_t>(b) * ido);
        x[b] = {prepare(at, z[at]), prepare(at + 1, z[at + 1])};
      }
      butterfly<R>(x);
      put(z, i, x[0]);
      for (int j = 1; j < R; ++j) {
        const Complex<V> y = ido == 1 ? x[j] : rotate(x[j], w + 2 * (j - 1));
        put(z, i + static_cast<std::size_t>(j) * ido, y);
      }
    }
  }
}

/// Odd radix: outputs j and R - j share the sums over symmetric pairs of inputs.
template <class V, class T>
void odd_pass(const FftPass<T>& p, V* z) noexcept {
  const std::size_t radix = p.radix, ido = p.ido, pairs = radix / 2;
  for (std::size_t k = 0; k < p.blocks; ++k, z += 2 * radix * ido) {
    for (std::size_t i = 0; i < ido; ++i) {
      const T* w = p.twiddles + i * 2 * (radix - 1);
      const auto out = [&](std::size_t j, const Complex<V>& y) {
        put(z, i + j * ido, ido == 1 ? y : rotate(y, w + 2 * (j - 1)));
      };
      Complex<V> sum[kMaxFftRadix / 2], difference[kMaxFftRadix / 2];
      const Complex<V> first = get(z, i);
      Complex<V> all = first;
      for (std::size_t b = 0; b < pairs; ++b) {
        const Complex<V> lo = get(z, i + (b + 1) * ido), hi = get(z, i + (radix - 1 - b) * ido);
        sum[b] = lo + hi;
        difference[b] = lo - hi;
        all = all + sum[b];
      }
      put(z, i, all);
      for (std::size_t j = 1; j <= pairs; ++j) {
        Complex<V> even = first;   // from the cosines
        Complex<V> odd{V{}, V{}};  // from the sines
        std::size_t at = 0;
        for (std::size_t b = 0; b < pairs; ++b) {
          at += j;
          if (at >= radix) at -= radix;
          even = axpy(even, p.roots[2 * at], sum[b]);
          odd = axpy(odd, p.roots[2 * at + 1], difference[b]);
        }
        out(j, plus_i(even, odd));
        out(radix - j, minus_i(even, odd));
      }
    }
  }
}

/// Whether `pass` has the radix.
constexpr bool is_small(std::size_t radix) { return radix <= 5 || radix == 8; }

/// The first pass of those of a small radix, its input prepared as it is read.
template <class V, class T, class Prepare>
AFFEKT_INLINE void run_first_pass(const FftPass<T>& p, V* z, const Prepare& prepare) noexcept {
  switch (p.radix) {
    case 2:
      return pass<2>(p, z, prepare);
    case 3:
      return pass<3>(p, z, prepare);
    case 4:
      return pass<4>(p, z, prepare);
    case 5:
      return pass<5>(p, z, prepare);
    default:
      return pass<8>(p, z, prepare);
  }
}

/// Passes first ... n_passes - 1.
template <class V, class T>
AFFEKT_INLINE void run_passes(const FftView<T>& plan, std::size_t first, std::size_t n_passes,
                              V* z) noexcept {
  for (std::size_t i = first; i < n_passes; ++i) {
    const FftPass<T>& p = plan.passes[i];
    switch (p.radix) {
      case 2:
        pass<2>(p, z);
        break;
      case 3:
        pass<3>(p, z);
        break;
      case 4:
        pass<4>(p, z);
        break;
      case 5:
        pass<5>(p, z);
        break;
      case 8:
        pass<8>(p, z);
        break;
      default:
        odd_pass(p, z);
    }
  }
}

/// Complex transform of z in place; bin k ends at plan.order[k].
template <class V, class T>
AFFEKT_INLINE void complex_fft(const FftView<T>& plan, V* z) noexcept {
  run_passes(plan, 0, plan.n_passes, z);
}

/// Bluestein: a convolution with a chirp. The result lies in `work`, bin k at plan.transform.order[k].
template <class V, class T>
void bluestein(const RealFftView<T>& plan, V* z, V* work) noexcept {
  const FftView<T>& fft = plan.transform;
  for (std::size_t k = 0; k < plan.length; ++k) put(z, k, rotate(get(z, k), plan.chirp + 2 * k));
  for (std::size_t k = 2 * plan.length; k < 2 * fft.n; ++k) z[k] = V{};
  complex_fft(fft, z);
  // Inverse transform: the forward one with real and imaginary parts exchanged.
  for (std::size_t k = 0; k < fft.n; ++k) {
    const Complex<V> x = rotate(get(z, fft.order[k]), plan.kernel + 2 * fft.order[k]);
    put(work, k, {x.i, x.r});
  }
  complex_fft(fft, work);
  for (std::size_t k = 0; k < plan.length; ++k) {
    const std::size_t at = fft.order[k];
    const Complex<V> x = get(work, at);
    put(work, at, rotate<V>({x.i, x.r}, plan.chirp + 2 * k));
  }
}

/// Bins k and n/2 - k, twice, from those of the packed transform.
template <class V, class T, class Sink>
AFFEKT_INLINE void unpack(const RealFftView<T>& plan, std::size_t k, const Complex<V>& a, const Complex<V>& b,
                          Sink&& sink) noexcept {
  const Complex<V> even{a.r + b.r, a.i - b.i};
  const Complex<V> odd = rotate<V>({a.i + b.i, b.r - a.r}, plan.twiddles + 2 * k);
  sink(k, even.r + odd.r, even.i + odd.i);
  sink(plan.length - k, even.r - odd.r, odd.i - even.i);
}
template <class V, class T, class Sink>
AFFEKT_INLINE void unpack_ends(const RealFftView<T>& plan, const Complex<V>& a, Sink&& sink) noexcept {
  const V first = a.r + a.i, last = a.r - a.i;
  sink(0, first + first, V{});
  sink(plan.length, last + last, V{});
}

/// The last pass of a packed transform, of radix R, together with the separation into real bins: the blocks
/// of bins k + j m and m - k + j m (m = length / R) hold each other's partners.
template <int R, class V, class T, class Sink>
void last_pass(const RealFftView<T>& plan, const V* z, Sink&& sink) noexcept {
  const std::uint32_t* order = plan.transform.order;
  const std::size_t m = plan.length / R;
  const auto block = [&](std::size_t k, Complex<V>* x) {
    const V* from = z + 2 * order[k];
    for (int b = 0; b < R; ++b) x[b] = {from[2 * b], from[2 * b + 1]};
    butterfly<R>(x);
  };
  for (std::size_t k = 1; 2 * k < m; ++k) {
    Complex<V> x[R], y[R];
    block(k, x);
    block(m - k, y);
    for (int j = 0; 2 * j < R; ++j)
      unpack(plan, k + static_cast<std::size_t>(j) * m, x[j], y[R - 1 - j], sink);
    for (int j = 0; 2 * j < R - 1; ++j)
      unpack(plan, m - k + static_cast<std::size_t>(j) * m, y[j], x[R - 1 - j], sink);
  }
  Complex<V> x[R];
  block(0, x);
  unpack_ends(plan, x[0], sink);
  for (int j = 1; 2 * j <= R; ++j) unpack(plan, static_cast<std::size_t>(j) * m, x[j], x[R - j], sink);
  if (m % 2 == 0) {
    block(m / 2, x);
    for (int j = 0; 2 * j < R; ++j)
      unpack(plan, m / 2 + static_cast<std::size_t>(j) * m, x[j], x[R - 1 - j], sink);
  }
}

/// Spectrum of the n values in z, times plan.gain: sink(k, re, im) is called for every bin k < plan.bins, in
/// any order, the middle one perhaps twice with the same values. z holds plan.values entries and is
/// overwritten, as is `work` of plan.work entries. Value i of the signal is prepare(i, z[i]), applied where
/// the transform reads it first, which spares a walk through z.
template <class V, class T, class Sink, class Prepare = AsTheyAre>
AFFEKT_INLINE void real_fft(const RealFftView<T>& plan, V* z, V* work, Sink&& sink,
                            const Prepare& prepare = {}) noexcept {
  const FftView<T>& fft = plan.transform;
  const V* result = z;
  constexpr bool prepares = !std::is_same_v<Prepare, AsTheyAre>;
  const bool early =
      plan.twiddles != nullptr && plan.chirp == nullptr && fft.n_passes > 1 && is_small(fft.passes[0].radix);
  if (prepares && !early) {
    for (std::size_t i = 0; i < plan.n; ++i) z[i] = prepare(i, z[i]);
  }
  if (plan.twiddles == nullptr) {  // odd length: neighbours move apart, from the end on
    for (std::size_t i = plan.n; i-- > 0;) {
      const V x = z[i];
      z[2 * i] = x;
      z[2 * i + 1] = V{};
    }
  }
  if (plan.chirp != nullptr) {
    bluestein(plan, z, work);
    result = work;
  } else if (plan.twiddles == nullptr) {
    complex_fft(fft, z);
  } else {
    const std::size_t before = fft.n_passes > 0 ? fft.n_passes - 1 : 0;
    if (prepares && early) run_first_pass(fft.passes[0], z, prepare);
    run_passes(fft, prepares && early ? 1 : 0, before, z);
    switch (fft.n_passes > 0 ? fft.passes[before].radix : 1) {
      case 2:
        return last_pass<2>(plan, z, sink);
      case 3:
        return last_pass<3>(plan, z, sink);
      case 4:
        return last_pass<4>(plan, z, sink);
      case 5:
        return last_pass<5>(plan, z, sink);
      case 8:
        return last_pass<8>(plan, z, sink);
      case 1:
        break;
      default:
        odd_pass(fft.passes[before], z);
    }
  }
  if (plan.twiddles == nullptr) {
    for (std::size_t k = 0; k < plan.bins; ++k) {
      const Complex<V> x = get(result, fft.order[k]);
      sink(k, x.r, x.i);
    }
    return;
  }
  unpack_ends(plan, get(result, fft.order[0]), sink);
  for (std::size_t k = 1; 2 * k <= plan.length; ++k)
    unpack(plan, k, get(result, fft.order[k]), get(result, fft.order[plan.length - k]), sink);
}

}  // namespace affekt::AFFEKT_ISA
