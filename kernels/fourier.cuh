// The Fourier transform of real frames inside a block of 256 threads: 2 M samples as M complex numbers,
// Stockham's algorithm with radix 8 and a last pass of 8, 4 or 2. M / 8 threads, a team, share a frame, each
// with eight numbers in registers; between passes the numbers change threads through shared memory.
//
// Equations: Govindaraju et al., "High performance discrete Fourier transforms on graphics processors"
// (2008), for the indices; the split of a complex transform into that of real samples as in every textbook.
#pragma once

#include "device.cuh"

namespace affekt::gpu {

constexpr int kFourierThreads = 256;

template <class T>
AFFEKT_DEVICE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
AFFEKT_DEVICE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
AFFEKT_DEVICE Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {fused(a.re, b.re, -(a.im * b.im)), fused(a.re, b.im, a.im * b.re)};
}
/// a / i.
template <class T>
AFFEKT_DEVICE Complex<T> turned(Complex<T> a) {
  return {a.im, -a.re};
}

/// Transform of N numbers, `step` apart in v.
template <int N, int step, class T>
AFFEKT_DEVICE void small_transform(Complex<T>* v) {
  if constexpr (N == 2) {
    const Complex<T> a = v[0], b = v[step];
    v[0] = a + b, v[step] = a - b;
  } else if constexpr (N == 4) {
    const Complex<T> a = v[0] + v[2 * step], b = v[0] - v[2 * step];
    const Complex<T> c = v[step] + v[3 * step], d = turned(v[step] - v[3 * step]);
    v[0] = a + c, v[step] = b + d, v[2 * step] = a - c, v[3 * step] = b - d;
  } else {
    static_assert(N == 8);
    constexpr T half = static_cast<T>(0.70710678118654752440);
    Complex<T> even[4] = {v[0], v[2 * step], v[4 * step], v[6 * step]};
    Complex<T> odd[4] = {v[step], v[3 * step], v[5 * step], v[7 * step]};
    small_transform<4, 1>(even);
    small_transform<4, 1>(odd);
    odd[1] = {(odd[1].re + odd[1].im) * half, (odd[1].im - odd[1].re) * half};
    odd[2] = turned(odd[2]);
    odd[3] = {(odd[3].im - odd[3].re) * half, -(odd[3].re + odd[3].im) * half};
    AFFEKT_UNROLL
    for (int k = 0; k < 4; ++k) v[k * step] = even[k] + odd[k], v[(k + 4) * step] = even[k] - odd[k];
  }
}

/// Adds up N values over each team of a block, in one order, for all threads of the team. `memory`: N values
/// per thread. Ends with a barrier.
template <int N>
AFFEKT_DEVICE void team_sums(double (&x)[N], int team, double* memory) {
  const int me = thread_id(), t = me % team;
  AFFEKT_UNROLL
  for (int n = 0; n < N; ++n) memory[n * kFourierThreads + me] = x[n];
  for (int half = team / 2; half > 0; half /= 2) {
    barrier();
    if (t < half) {
      AFFEKT_UNROLL
      for (int n = 0; n < N; ++n) memory[n * kFourierThreads + me] += memory[n * kFourierThreads + me + half];
    }
  }
  barrier();
  AFFEKT_UNROLL
  for (int n = 0; n < N; ++n) x[n] = memory[n * kFourierThreads + me - t];
  barrier();
}

/// Roots of unity in the order in which the passes take them: for every pass but the first, of n numbers per
/// part and radix R, exp(-2 pi i r j / (n R)) for r = 1 ... R - 1 and j < n; then exp(-pi i k / M), k < M
/// / 2.
template <class T, int M>
struct Fourier {
  static constexpr int team = M / 8, frames = kFourierThreads / team;
  static constexpr int own = 9;  // bins of a thread
  /// Real parts of a frame in shared memory, the room between them included; a frame's imaginary parts follow
  /// those of all frames.
  static constexpr int pitch = M + M / 8;
  static constexpr int memory = 2 * frames * pitch;  // numbers of T, in all: 4608

  AFFEKT_BOTH static constexpr int radix(int n) { return M / n >= 8 ? 8 : M / n; }
  /// Where the roots of the pass with n numbers per part begin.
  AFFEKT_BOTH static constexpr int roots(int n) { return n <= 8 ? 0 : roots(n / 8) + 7 * (n / 8); }
  AFFEKT_BOTH static constexpr int split_roots() {
    int n = 1, at = 0;
    for (; n < M; n *= radix(n)) at += n > 1 ? (radix(n) - 1) * n : 0;
    return at;
  }

  /// Where number a of a frame lies after the pass, so that neither the lanes that write nor those that read
  /// neighbours meet in a bank.
  template <int n>
  AFFEKT_DEVICE static int place(int a) {
    constexpr int lanes = 128 / static_cast<int>(sizeof(T)), radix_n = radix(n);
    if constexpr (n >= lanes || n * radix_n == M) {
      return a;
    } else {
      return a + a / most(lanes, n * radix_n) * n;
    }
  }

  template <int n>
  AFFEKT_DEVICE static void pass(Complex<T> (&v)[8], T* re, T* im, const Complex<T>* root, int t) {
    constexpr int R = radix(n), groups = 8 / R;
    AFFEKT_UNROLL
    for (int b = 0; b < groups; ++b) {
      const int j = t + b * team;
      if constexpr (n > 1) {
        AFFEKT_UNROLL
        for (int r = 1; r < R; ++r)
          v[b + r * groups] = v[b + r * groups] * root[roots(n) + (r - 1) * n + j % n];
      }
      small_transform<R, groups>(v + b);
    }
    AFFEKT_UNROLL
    for (int b = 0; b < groups; ++b) {
      const int j = t + b * team, to = j / n * (n * R) + j % n;
      AFFEKT_UNROLL
      for (int r = 0; r < R; ++r) {
        const int at = place<n>(to + r * n);
        re[at] = v[b + r * groups].re;
        im[at] = v[b + r * groups].im;
      }
    }
    barrier();
    if constexpr (n * R < M) {
      AFFEKT_UNROLL
      for (int s = 0; s < 8; ++s) v[s] = {re[place<n>(t + s * team)], im[place<n>(t + s * team)]};
      barrier();
      pass<n * R>(v, re, im, root, t);
    }
  }

  /// The bin of power i of thread t of a team; -1: none.
  AFFEKT_DEVICE static int bin(int t, int i) {
    if (i == 8) return t == 0 ? M / 2 : -1;
    return i < 4 ? t + i * team : M - (t + (i - 4) * team);
  }

  /// v[s]: samples 2 j and 2 j + 1, j = t + s team, of the frame, halved -> put(i, X) with X of bin(t, i),
  /// for all i. All threads of the block call it, on memory that nobody uses; afterwards nobody does.
  template <class Put>
  AFFEKT_DEVICE static void spectrum(Complex<T> (&v)[8], T* memory_of_block, const Complex<T>* root,
                                     Put&& put) {
    const int f = thread_id() / team, t = thread_id() % team;
    T* const re = memory_of_block + f * pitch;
    T* const im = re + frames * pitch;
    pass<1>(v, re, im, root, t);
    const Complex<T>* const split = root + split_roots();
    AFFEKT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int k = t + i * team, mirror = (M - k) % M;
      const Complex<T> a = {re[k], im[k]}, b = {re[mirror], -im[mirror]};
      const Complex<T> even = a + b, odd = turned(a - b) * split[k];
      const Complex<T> mirrored = even - odd;
      put(i, even + odd);
      put(i + 4, Complex<T>{mirrored.re, -mirrored.im});
    }
    put(8, Complex<T>{2 * re[M / 2], -2 * im[M / 2]});
    barrier();
  }

  /// p[i]: |X|^2 of bin(t, i), else as `spectrum`.
  AFFEKT_DEVICE static void powers(Complex<T> (&v)[8], T* memory_of_block, const Complex<T>* root,
                                   T (&p)[own]) {
    spectrum(v, memory_of_block, root, [&p](int i, Complex<T> x) { p[i] = fused(x.re, x.re, x.im * x.im); });
  }
};

}  // namespace affekt::gpu
