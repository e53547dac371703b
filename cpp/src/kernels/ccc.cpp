#include "kernels/ccc.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Where sums go in double: those of differences from the first sample hold 1e-6 at any length and offset.
template <class T, int L>
AFFEKT_INLINE Vec<double, L> wide(const T* from) noexcept {
  if constexpr (L == 1)
    return static_cast<double>(*from);
  else
    return __builtin_convertvector(load<Vec<T, L>>(from), Vec<double, L>);
}

// Whole-lane masks of the mask's bytes, for values of type T.
template <class T, int L>
AFFEKT_INLINE auto valid(const std::uint8_t* mask) noexcept {
  if constexpr (L == 1) {
    return *mask != 0;
  } else {
    using Bits = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;
    return __builtin_convertvector(load<Vec<std::uint8_t, L>>(mask), Vec<Bits, L>) != Vec<Bits, L>{};
  }
}

template <int L>
struct Sums {
  Vec<double, L> n{}, p{}, y{}, pp{}, yy{}, py{};

  template <bool Masked, class T>
  AFFEKT_INLINE void add(const T* p_at, const T* y_at, const std::uint8_t* mask, const Vec<double, L>& p0,
                         const Vec<double, L>& y0) noexcept {
    using V = Vec<double, L>;
    V dp = wide<T, L>(p_at) - p0, dy = wide<T, L>(y_at) - y0;
    if constexpr (Masked) {
      const auto on = valid<double, L>(mask);
      dp = select(on, dp, V{});
      dy = select(on, dy, V{});
      n += select(on, splat<V>(1.0), V{});
    }
    p += dp;
    y += dy;
    pp = fma(dp, dp, pp);
    yy = fma(dy, dy, yy);
    py = fma(dp, dy, py);
  }

  AFFEKT_INLINE void into(double* out, std::size_t lane) const noexcept {
    const auto of = [&](const Vec<double, L>& v) noexcept {
      if constexpr (L == 1)
        return v;
      else
        return v[lane];
    };
    const double squares = of(pp) + of(yy);
    out[0] += of(n), out[1] += of(p), out[2] += of(y), out[3] += squares, out[4] += squares - 2 * of(py);
  }
};

// Elements whole ... end - 1, one by one.
template <class T, int dims, bool Masked>
void sums_of_rest(const T* p, const T* y, const std::uint8_t* mask, std::size_t whole, std::size_t end,
                  const double* origin, double* out) noexcept {
  for (std::size_t e = whole; e < end; ++e) {
    const std::size_t k = e % dims;
    Sums<1> one;
    one.template add<Masked>(p + e, y + e, Masked ? mask + e : nullptr, origin[2 * k], origin[2 * k + 1]);
    one.into(out + k * kCccSums, 0);
  }
}

// Few columns, `dims` of them: K vectors, a multiple, hold whole steps, so lane l of vector j always meets
// column (j L + l) mod dims.
template <class T, int dims, int K, bool Masked>
void sums_interleaved(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps,
                      const double* origin, double* out) noexcept {
  constexpr int L = kLanes<double>;
  using V = Vec<double, L>;
  V p0[K], y0[K];
  Sums<L> sums[K];
  for (int j = 0; j < K; ++j) {
    for (int l = 0; l < L; ++l) {
      p0[j][l] = origin[2 * ((j * L + l) % dims)];
      y0[j][l] = origin[2 * ((j * L + l) % dims) + 1];
    }
  }
  const std::size_t whole = steps * dims / (L * K) * (L * K), end = steps * dims;
  for (std::size_t e = 0; e < whole; e += L * K) {
    for (int j = 0; j < K; ++j)
      sums[j].template add<Masked>(p + e + j * L, y + e + j * L, Masked ? mask + e + j * L : nullptr, p0[j],
                                   y0[j]);
  }
  for (int j = 0; j < K; ++j) {
    for (int l = 0; l < L; ++l)
      sums[j].into(out + ((j * L + l) % dims) * kCccSums, static_cast<std::size_t>(l));
  }
  sums_of_rest<T, dims, Masked>(p, y, mask, whole, end, origin, out);
}

// The same for float32, twice as fast: blocks are summed in float about each lane's first sample of the
// block, which is near the others, and moved to the common origin in double. A lane adds up to `block`
// values, so sums are good to some 1e-7 of themselves, and the squares of the differences, small where the
// loss is, likewise. Squares beyond the range of float give infinity or zero; callers look.
template <int dims, int K, bool Masked>
void sums_in_blocks(const float* p, const float* y, const std::uint8_t* mask, std::size_t steps,
                    const double* origin, double* out) noexcept {
  constexpr int L = kLanes<float>;
  constexpr std::size_t period = L * K, block = 32;
  using V = Vec<float, L>;
  using D = Vec<double, L>;
  D p0[K], y0[K], n[K] = {}, sum_p[K] = {}, sum_y[K] = {}, squares[K] = {}, apart[K] = {};
  for (int j = 0; j < K; ++j) {
    for (int l = 0; l < L; ++l) {
      p0[j][l] = origin[2 * ((j * L + l) % dims)];
      y0[j][l] = origin[2 * ((j * L + l) % dims) + 1];
    }
  }
  const std::size_t end = steps * dims, whole = end / period * period;
  for (std::size_t e = 0; e < whole;) {
    V near_p[K], near_y[K], count[K] = {}, dp[K] = {}, dy[K] = {}, pp[K] = {}, yy[K] = {}, dd[K] = {};
    for (int j = 0; j < K; ++j) {
      near_p[j] = load<V>(p + e + j * L), near_y[j] = load<V>(y + e + j * L);
      if constexpr (Masked) {
        const auto on = valid<float, L>(mask + e + j * L);
        near_p[j] = select(on, near_p[j], __builtin_convertvector(p0[j], V));
        near_y[j] = select(on, near_y[j], __builtin_convertvector(y0[j], V));
      }
    }
    const std::size_t stop = whole - e < block * period ? whole : e + block * period;
    const std::size_t rounds = (stop - e) / period;
    for (; e < stop; e += period) {
      for (int j = 0; j < K; ++j) {
        V a = load<V>(p + e + j * L) - near_p[j], b = load<V>(y + e + j * L) - near_y[j];
        if constexpr (Masked) {
          const auto on = valid<float, L>(mask + e + j * L);
          a = select(on, a, V{});
          b = select(on, b, V{});
          count[j] += select(on, splat<V>(1.0f), V{});
        }
        const V d = a - b;
        dp[j] += a;
        dy[j] += b;
        pp[j] = fma<V>(a, a, pp[j]);
        yy[j] = fma<V>(b, b, yy[j]);
        dd[j] = fma<V>(d, d, dd[j]);
      }
    }
    for (int j = 0; j < K; ++j) {
      // No function gives a D, which may be wider than any register.
      const V times = Masked ? count[j] : splat<V>(static_cast<float>(rounds));
      const D c = __builtin_convertvector(times, D);
      const D sp = __builtin_convertvector(dp[j], D), sy = __builtin_convertvector(dy[j], D);
      const D a = __builtin_convertvector(near_p[j], D) - p0[j];
      const D b = __builtin_convertvector(near_y[j], D) - y0[j], d = a - b;
      n[j] += c;
      sum_p[j] += sp + c * a;
      sum_y[j] += sy + c * b;
      squares[j] += (__builtin_convertvector(pp[j], D) + __builtin_convertvector(yy[j], D)) +
                    (2.0 * (a * sp + b * sy) + c * (a * a + b * b));
      apart[j] += __builtin_convertvector(dd[j], D) + (2.0 * (d * (sp - sy)) + c * (d * d));
    }
  }
  for (int j = 0; j < K; ++j) {
    for (int l = 0; l < L; ++l) {
      double* const to = out + ((j * L + l) % dims) * kCccSums;
      to[0] += n[j][l], to[1] += sum_p[j][l], to[2] += sum_y[j][l], to[3] += squares[j][l];
      to[4] += apart[j][l];
    }
  }
  sums_of_rest<float, dims, Masked>(p, y, mask, whole, end, origin, out);
}

// Many columns: L of them at a time, down the steps.
template <class T, int L, bool Masked>
AFFEKT_INLINE void sums_of_columns(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps,
                                   std::size_t dims, const double* origin, double* out) noexcept {
  Vec<double, L> p0, y0;
  if constexpr (L == 1) {
    p0 = origin[0], y0 = origin[1];
  } else {
    for (int l = 0; l < L; ++l) p0[l] = origin[2 * l], y0[l] = origin[2 * l + 1];
  }
  Sums<L> sums;
  for (std::size_t t = 0; t < steps; ++t)
    sums.template add<Masked>(p + t * dims, y + t * dims, Masked ? mask + t * dims : nullptr, p0, y0);
  for (int l = 0; l < L; ++l) sums.into(out + l * kCccSums, static_cast<std::size_t>(l));
}

template <class T, int dims, int K, bool Masked, bool exact>
AFFEKT_INLINE void sums_of_few(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps,
                               const double* origin, double* out) noexcept {
  if constexpr (std::is_same_v<T, float> && !exact)
    sums_in_blocks<dims, K, Masked>(p, y, mask, steps, origin, out);
  else
    sums_interleaved<T, dims, K, Masked>(p, y, mask, steps, origin, out);
}

template <class T, bool Masked, bool exact>
void sums_any(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps, std::size_t dims,
              const double* origin, double* out) noexcept {
  constexpr int L = kLanes<double>;
  for (std::size_t i = 0; i < dims * kCccSums; ++i) out[i] = 0;
  if (dims == 1) {
    sums_of_few<T, 1, 2, Masked, exact>(p, y, mask, steps, origin, out);
  } else if (dims == 2) {
    sums_of_few<T, 2, 2, Masked, exact>(p, y, mask, steps, origin, out);
  } else if (dims == 3) {
    sums_of_few<T, 3, 3, Masked, exact>(p, y, mask, steps, origin, out);
  } else {
    std::size_t k = 0;
    for (; k + L <= dims; k += L)
      sums_of_columns<T, L, Masked>(p + k, y + k, Masked ? mask + k : nullptr, steps, dims, origin + 2 * k,
                                    out + k * kCccSums);
    for (; k < dims; ++k)
      sums_of_columns<T, 1, Masked>(p + k, y + k, Masked ? mask + k : nullptr, steps, dims, origin + 2 * k,
                                    out + k * kCccSums);
  }
  if constexpr (!Masked) {
    for (std::size_t k = 0; k < dims; ++k) out[k * kCccSums] = static_cast<double>(steps);
  }
}

template <class T, bool exact>
void sums(const T* p, const T* y, const std::uint8_t* mask, std::size_t steps, std::size_t dims,
          const double* origin, double* out) noexcept {
  if (mask != nullptr)
    sums_any<T, true, exact>(p, y, mask, steps, dims, origin, out);
  else
    sums_any<T, false, exact>(p, y, nullptr, steps, dims, origin, out);
}

// The coefficients of L neighbouring elements.
template <class T, int L>
struct Map {
  using V = Vec<T, L>;
  V mean_self, mean_other, on_self, on_other, constant;

  AFFEKT_INLINE Map(const CccCoefficients<T>& of, std::size_t c) noexcept
      : mean_self(load<V>(of.mean_self + c)),
        mean_other(load<V>(of.mean_other + c)),
        on_self(load<V>(of.on_self + c)),
        on_other(load<V>(of.on_other + c)),
        constant(load<V>(of.constant + c)) {}

  template <bool Masked>
  AFFEKT_INLINE void apply(const T* self, const T* other, const std::uint8_t* mask, std::size_t e,
                           T* grad) const noexcept {
    const V ds = load<V>(self + e) - mean_self, d = load<V>(other + e) - mean_other;
    V g = fma<V>(on_other, d, fma<V>(on_self, ds, constant));
    if constexpr (Masked) g = select(valid<T, L>(mask + e), g, V{});
    store<V>(grad + e, g);
  }
};

// `of` repeats with `period`, a multiple of dims.
template <class T, bool Masked>
void gradient_periodic(const T* self, const T* other, const std::uint8_t* mask, std::size_t n,
                       std::size_t period, const CccCoefficients<T>& of, T* grad) noexcept {
  constexpr std::size_t L = kLanes<T>;
  for (std::size_t start = 0; start < n; start += period) {
    const std::size_t size = n - start < period ? n - start : period;
    std::size_t c = 0;
    for (; c + L <= size; c += L)
      Map<T, kLanes<T>>(of, c).template apply<Masked>(self, other, mask, start + c, grad);
    for (; c < size; ++c) Map<T, 1>(of, c).template apply<Masked>(self, other, mask, start + c, grad);
  }
}

// The same with a period of K vectors, which stay in registers.
template <class T, bool Masked, std::size_t... K>
void gradient_few(const T* self, const T* other, const std::uint8_t* mask, std::size_t n,
                  const CccCoefficients<T>& of, T* grad, std::index_sequence<K...>) noexcept {
  constexpr std::size_t L = kLanes<T>, period = sizeof...(K) * L;
  const Map<T, kLanes<T>> maps[] = {{of, K * L}...};
  std::size_t e = 0;
  for (; e + period <= n; e += period)
    (maps[K].template apply<Masked>(self, other, mask, e + K * L, grad), ...);
  for (std::size_t c = 0; e < n; ++e, ++c)
    Map<T, 1>(of, c).template apply<Masked>(self, other, mask, e, grad);
}

template <class T, bool Masked>
void gradient_any(const T* self, const T* other, const std::uint8_t* mask, std::size_t steps,
                  std::size_t dims, const CccCoefficients<T>& of, T* grad) noexcept {
  constexpr std::size_t L = kLanes<T>;
  const std::size_t n = steps * dims;
  if (dims > 8 || dims >= L) return gradient_periodic<T, Masked>(self, other, mask, n, dims, of, grad);
  // Fewer columns than a vector holds: repeat the coefficients, so that vectors span steps.
  T repeated[5][8 * L];
  const T* from[5] = {of.mean_self, of.mean_other, of.on_self, of.on_other, of.constant};
  const std::size_t period = dims * L;
  for (int i = 0; i < 5; ++i) {
    for (std::size_t c = 0; c < period; ++c) repeated[i][c] = from[i][c % dims];
  }
  const CccCoefficients<T> use{repeated[0], repeated[1], repeated[2], repeated[3], repeated[4]};
  switch (dims) {
    case 1:
      return gradient_few<T, Masked>(self, other, mask, n, use, grad, std::make_index_sequence<1>());
    case 2:
      return gradient_few<T, Masked>(self, other, mask, n, use, grad, std::make_index_sequence<2>());
    case 3:
      return gradient_few<T, Masked>(self, other, mask, n, use, grad, std::make_index_sequence<3>());
    default:
      return gradient_periodic<T, Masked>(self, other, mask, n, period, use, grad);
  }
}

template <class T>
void gradient(const T* self, const T* other, const std::uint8_t* mask, std::size_t steps, std::size_t dims,
              const CccCoefficients<T>& of, T* grad) noexcept {
  if (mask != nullptr)
    gradient_any<T, true>(self, other, mask, steps, dims, of, grad);
  else
    gradient_any<T, false>(self, other, nullptr, steps, dims, of, grad);
}

}  // namespace

const CccKernels ccc{{sums<float, false>, sums<float, true>, gradient<float>},
                     {sums<double, true>, sums<double, true>, gradient<double>}};

}  // namespace affekt::AFFEKT_ISA
