#include "kernels/frontend.hpp"

#include "fft_passes.hpp"
#include "logarithm.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

/// Frames in a tile.
template <class T>
inline constexpr int kTile = kLanes<T>;

template <class V>
AFFEKT_INLINE V at_least(const V& v, const V& bound) noexcept {
  return select<V>(v < bound, bound, v);
}

/// f(vector) on n values in place, the array being padded to whole vectors. The bits do not depend on what
/// lies beside a value.
template <class T, class F>
AFFEKT_INLINE void each(T* x, std::size_t n, F&& f) noexcept {
  using V = Vec<T>;
  for (std::size_t i = 0; i < n; i += kLanes<T>) store<V>(x + i, f(load<V>(x + i)));
}

/// n values of S as values of A.
template <class A, class S>
AFFEKT_INLINE Vec<A> wide(const S* x) noexcept {
  return convert<A>(load<Vec<S, kLanes<A>>>(x));
}

/// Sum of f(x[i]) over [0, n) in double: four vectors in turns, then their lanes, then the tail.
template <class S, class F>
AFFEKT_INLINE double sum(std::size_t n, const S* x, F&& f) noexcept {
  using V = Vec<double>;
  constexpr std::size_t L = kLanes<double>;
  V a[4] = {};
  std::size_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    for (std::size_t j = 0; j < 4; ++j) a[j] = a[j] + f(wide<double>(x + i + j * L));
  }
  for (; i + L <= n; i += L) a[0] = a[0] + f(wide<double>(x + i));
  double total = sum_lanes(V((a[0] + a[1]) + (a[2] + a[3])));
  for (; i < n; ++i) total += f(static_cast<double>(x[i]));
  return total;
}

/// (x[i] - mean) - c (x[i - 1] - mean), weighted, for i < n: put(i, vector or scalar). The sample before the
/// first is taken to equal it.
template <class A, class S, class F>
AFFEKT_INLINE void emphasise(std::size_t n, const S* x, double mean, double c, const A* weights,
                             F&& put) noexcept {
  using V = Vec<A>;
  constexpr std::size_t L = kLanes<A>;
  // What is left of the mean, of the very factor that is used and in two parts where A is float: rounding
  // either would leave an offset.
  const A back = static_cast<A>(-c);
  const double rest = mean * (1.0 + static_cast<double>(back));
  const A high = static_cast<A>(rest);
  const A low = static_cast<A>(rest - static_cast<double>(high));
  const auto one = [&]<class U>(const U& now, const U& before, const U& weight) noexcept {
    return ((fma<U>(before, splat<U>(back), now) - splat<U>(high)) - splat<U>(low)) * weight;
  };
  std::size_t i = 0;
  if (n >= L) {
    const V now = wide<A>(x);
    put(0, one(now, delayed(now), load<V>(weights)));
    for (i = L; i + L <= n; i += L) put(i, one(wide<A>(x + i), wide<A>(x + i - 1), load<V>(weights + i)));
  }
  for (; i < n; ++i) put(i, one(static_cast<A>(x[i]), static_cast<A>(x[i > 0 ? i - 1 : 0]), weights[i]));
}

template <class S, class T>
AFFEKT_INLINE double prepared_row(const FrontEndView<T>& v, const S* x, double* frame, T* row) noexcept {
  // With one rounding for the difference to the sample before, floats lose no more there than by the window.
  using A = std::conditional_t<kFused && sizeof(S) == sizeof(T), T, double>;
  const A* weights;
  if constexpr (std::is_same_v<A, T>) {
    weights = v.window;
  } else {
    weights = v.wide_window;
  }
  const std::size_t n = v.width;
  const double c = v.frame_emphasis;
  double mean = 0, energy = 0;
  if (v.remove_dc) mean = sum(n, x, [](const auto& a) noexcept { return a; }) / static_cast<double>(n);
  if (v.raw_energy)
    energy = v.energy_scale * sum(n, x, [mean](const auto& a) noexcept { return (a - mean) * (a - mean); });
  emphasise(n, x, mean, c, weights, [row](std::size_t i, const auto& a) noexcept {
    const auto b = convert<T>(a);
    store<std::remove_cvref_t<decltype(b)>>(row + i, b);
  });
  if (v.windowed_energy) {
    emphasise(n, x, mean, c, v.wide_window, [frame](std::size_t i, const auto& a) noexcept {
      store<std::remove_cvref_t<decltype(a)>>(frame + i, a);
    });
    energy = v.windowed_scale * sum(n, frame, [](const auto& a) noexcept { return a * a; });
  }
  return energy;
}

template <class S, class T>
double prepare(const FrontEndView<T>& v, const S* x, bool first, bool emphasised, double* frame,
               T* row) noexcept {
  const double c = v.signal_emphasis;
  if (emphasised || c == 0.0) return prepared_row(v, x, frame, row);
  using V = Vec<double>;
  constexpr std::size_t L = kLanes<double>;
  double* y = frame + v.width;
  y[0] = static_cast<double>(x[0]) - (first ? 0.0 : static_cast<double>(x[-1]) * c);
  std::size_t i = 1;
  for (; i + L <= v.width; i += L) store<V>(y + i, wide<double>(x + i) - wide<double>(x + i - 1) * c);
  for (; i < v.width; ++i) y[i] = static_cast<double>(x[i]) - static_cast<double>(x[i - 1]) * c;
  return prepared_row(v, y, frame, row);
}

/// Squares of at most 32 bytes change between frames side by side and rows: the shuffles of wider ones take
/// longer than twice as many loads and stores.
template <class T, int L>
inline constexpr int square_side = L * sizeof(T) > 32 ? static_cast<int>(32 / sizeof(T)) : L;

/// Rows into z, side by side; asks for two lines per square.
template <int L, class T>
AFFEKT_INLINE void load_rows(const FrontEndView<T>& v, const T* const* rows, bool windowed, T* z,
                             Asking& ahead) noexcept {
  const std::size_t n = v.width;
  const auto put_one = [&](std::size_t i) noexcept {
    const T w = windowed ? T(1) : v.window[i];
    for (int l = 0; l < L; ++l) z[(v.inset + i) * L + static_cast<std::size_t>(l)] = rows[l][i] * w;
  };
  for (std::size_t i = 0; i < v.inset * L; ++i) z[i] = T(0);
  std::size_t i = 0;
  if constexpr (L > 1) {
    constexpr int side = square_side<T, L>;
    using V = Vec<T, side>;
    const auto squares = [&]<bool weigh>(std::bool_constant<weigh>) noexcept {
      for (i = 0; i + side <= n; i += side) {
        for (int first = 0; first < L; first += side) {
          V x[side];
          for (int l = 0; l < side; ++l) x[l] = load<V>(rows[first + l] + i);
          ahead.one();
          ahead.one();
          transpose(x);
          T* to = z + (v.inset + i) * L + static_cast<std::size_t>(first);
          for (int j = 0; j < side; ++j) store<V>(to + j * L, weigh ? V(x[j] * v.window[i + j]) : x[j]);
        }
      }
    };
    windowed ? squares(std::false_type()) : squares(std::true_type());
  }
  for (; i < n; ++i) put_one(i);
  for (i = (v.inset + n) * L; i < v.fft.n * L; ++i) z[i] = T(0);
}

template <class T>
AFFEKT_INLINE void raise(T* p, std::size_t n, T power) noexcept {
  // |X|^2 -> |X|^power
  if (power == T(1)) {
    for (std::size_t i = 0; i < n; ++i) p[i] = __builtin_sqrt(p[i]);
  } else if (power != T(2)) {
    for (std::size_t i = 0; i < n; ++i) p[i] = __builtin_pow(p[i], power / T(2));
  }
}

template <int L, class T>
void tile_powers(const FrontEndView<T>& v, const T* const* rows, bool windowed, const FrontEndScratch<T>& s,
                 const Lines& ahead) noexcept {
  using V = Vec<T, L>;
  Asking asking(ahead);
  load_rows<L>(v, rows, windowed, s.z, asking);
  V* p = reinterpret_cast<V*>(s.bins);
  real_fft<V>(v.fft, reinterpret_cast<V*>(s.z), reinterpret_cast<V*>(s.work),
              [p](std::size_t k, const V& r, const V& i) noexcept { p[k] = fma<V>(r, r, i * i); });
  raise(s.bins, v.fft.bins * L, v.power);
}

template <int L, class T>
void tile_mel(const FrontEndView<T>& v, const T* const* rows, bool windowed,
              const FrontEndScratch<T>& s) noexcept {
  using V = Vec<T, L>;
  tile_powers<L>(v, rows, windowed, s, {});
  const V* p = reinterpret_cast<const V*>(s.bins);
  V* mel = reinterpret_cast<V*>(s.mel);
  for (std::size_t m = 0; m < v.n_mels; ++m) {
    const MelBand band = v.bands[m];
    const T* w = v.weights + band.weight;
    const V* q = p + band.bin;
    V a{};
    for (std::uint32_t i = 0; i < band.count; ++i) a = fma<V>(q[i], splat<V>(w[i]), a);
    mel[m] = a;
  }
  using W = Vec<T>;
  const W floor = splat<W>(v.floor), ref = splat<W>(v.ref);
  if (v.log) {
    const LogScale<T> unit = v.unit;
    each(s.mel, v.n_mels * L,
         [&](const W& x) noexcept { return log_normal<W>(at_least(x, floor), unit) - ref; });
  } else {
    each(s.mel, v.n_mels * L, [&](const W& x) noexcept { return at_least(x, floor); });
  }
}

template <class T>
void mel(const FrontEndView<T>& v, const T* const* rows, bool windowed, const FrontEndScratch<T>& s,
         std::size_t lanes) noexcept {
  lanes == 1 ? tile_mel<1>(v, rows, windowed, s) : tile_mel<kTile<T>>(v, rows, windowed, s);
}

template <class T>
void energy(const FrontEndView<T>& v, T* x, std::size_t n) noexcept {
  constexpr T epsilon = std::numeric_limits<float>::epsilon();  // Kaldi's
  const LogScale<T> natural = v.natural;
  for (std::size_t i = 0; i < n; ++i)
    x[i] = log_normal<T>(at_least<T>(at_least<T>(x[i], epsilon), v.energy_floor), natural);
}

template <class T>
void clamp(T* x, std::size_t n, T least, T zero) noexcept {
  using V = Vec<T>;
  each(x, n, [&](const V& a) noexcept { return at_least(a, splat<V>(least)) - splat<V>(zero); });
}

/// `columns` vectors -> as many values of each of `count` rows.
template <int L, class T, class O>
AFFEKT_INLINE void store_rows(const T* x, std::size_t columns, std::size_t count, O* out,
                              std::size_t pitch) noexcept {
  constexpr std::size_t side = square_side<O, L>;
  if constexpr (side >= kBlock<O> && side > 1) {
    using V = Vec<T, static_cast<int>(side)>;
    using W = Vec<O, static_cast<int>(side)>;
    const auto squares = [&](std::size_t first, auto rows) noexcept {
      const auto square = [&](std::size_t at) noexcept {
        W y[side];
        for (std::size_t j = 0; j < side; ++j) y[j] = convert<O>(load<V>(x + (at + j) * L + first));
        transpose(y);
        for (std::size_t l = 0; l < rows; ++l) store<W>(out + (first + l) * pitch + at, y[l]);
      };
      std::size_t c = 0;
      for (; c + side <= columns; c += side) square(c);
      if (c < columns) square(columns - side);  // overlaps the one before
    };
    if (columns >= side) {
      std::size_t first = 0;
      // The number is a constant, so that the rows stay in registers.
      for (; first + side <= count; first += side)
        squares(first, std::integral_constant<std::size_t, side>());
      if (first < count) squares(first, count - first);
      return;
    }
  }
  for (std::size_t l = 0; l < count; ++l) {
    for (std::size_t i = 0; i < columns; ++i) out[l * pitch + i] = static_cast<O>(x[i * L + l]);
  }
}

/// Rows of cepstra: one sum per column over the mel values, in their order.
template <int L, class T, class O>
AFFEKT_INLINE void cepstra(const FrontEndView<T>& v, const T* mel, std::size_t count, O* out,
                           std::size_t pitch) noexcept {
  using V = Vec<T, L>;
  constexpr std::size_t together = 8;
  for (std::size_t c = 0; c < v.n_mfcc; c += together) {
    const std::size_t n = v.n_mfcc - c < together ? v.n_mfcc - c : together;
    alignas(64) V sums[together] = {};
    const T* d = v.dct + c;
    for (std::size_t m = 0; m < v.n_mels; ++m, d += v.dct_pitch) {
      const V a = load<V>(mel + m * L);
      for (std::size_t j = 0; j < together; ++j) sums[j] = fma<V>(a, splat<V>(d[j]), sums[j]);
    }
    store_rows<L>(reinterpret_cast<const T*>(sums), n, count, out + c, pitch);
  }
}

template <int L, class T, class O>
void tile_rows(const FrontEndView<T>& v, T* mel, const T* energy, std::size_t count, O* out,
               std::size_t pitch) noexcept {
  if (v.shift != T(0) || v.scale != T(1)) {
    using W = Vec<T>;
    each(mel, v.n_mels * L, [&](const W& x) noexcept { return (x + v.shift) * v.scale; });
  }
  if (v.n_mfcc > 0) {
    cepstra<L>(v, mel, count, out, pitch);
  } else {
    store_rows<L>(mel, v.n_mels, count, out + (v.energy ? 1 : 0), pitch);
  }
  if (v.energy) {
    for (std::size_t l = 0; l < count; ++l) out[l * pitch] = static_cast<O>(energy[l]);
  }
}

template <class T, class O>
void rows(const FrontEndView<T>& v, T* mel, const T* energy, std::size_t count, std::size_t lanes, O* out,
          std::size_t pitch) noexcept {
  lanes == 1 ? tile_rows<1>(v, mel, energy, count, out, pitch)
             : tile_rows<kTile<T>>(v, mel, energy, count, out, pitch);
}

template <class T>
void powers(const FrontEndView<T>& v, const T* const* rows, bool windowed, const FrontEndScratch<T>& s,
            std::size_t lanes, const Lines& ahead) noexcept {
  lanes == 1 ? tile_powers<1>(v, rows, windowed, s, ahead)
             : tile_powers<kTile<T>>(v, rows, windowed, s, ahead);
}

template <int L, class T>
void tile_spectra(const FrontEndView<T>& v, const T* const* rows, bool windowed, const FrontEndScratch<T>& s,
                  const Lines& ahead) noexcept {
  using V = Vec<T, L>;
  Asking asking(ahead);
  load_rows<L>(v, rows, windowed, s.z, asking);
  V* p = reinterpret_cast<V*>(s.bins);
  real_fft<V>(v.fft, reinterpret_cast<V*>(s.z), reinterpret_cast<V*>(s.work),
              [p, &asking](std::size_t k, const V& r, const V& i) noexcept {
                p[2 * k] = r;
                p[2 * k + 1] = i;
                asking.one();
              });
}

template <class T>
void spectra(const FrontEndView<T>& v, const T* const* rows, bool windowed, const FrontEndScratch<T>& s,
             std::size_t lanes, const Lines& ahead) noexcept {
  lanes == 1 ? tile_spectra<1>(v, rows, windowed, s, ahead)
             : tile_spectra<kTile<T>>(v, rows, windowed, s, ahead);
}

template <class T, class O>
void store_tile(const T* x, std::size_t columns, std::size_t count, std::size_t lanes, O* out,
                std::size_t pitch) noexcept {
  lanes == 1 ? store_rows<1>(x, columns, count, out, pitch)
             : store_rows<kTile<T>>(x, columns, count, out, pitch);
}

void widen(const std::int16_t* x, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<float>(x[i]) * (1.0f / 32768.0f);
}

/// f(column) on every column: vectors of doubles, then the rest.
template <class O, class F>
AFFEKT_INLINE void each_column(const O* from, O* to, std::size_t c, F&& f) noexcept {
  constexpr std::size_t L = kLanes<double>;
  std::size_t i = 0;
  for (; i + L <= c; i += L)
    store<Vec<O, kLanes<double>>>(
        to + i,
        __builtin_convertvector(f([from, i](std::size_t at) noexcept { return wide<double>(from + at + i); }),
                                Vec<O, kLanes<double>>));
  for (; i < c; ++i)
    to[i] =
        static_cast<O>(f([from, i](std::size_t at) noexcept { return static_cast<double>(from[at + i]); }));
}

template <class O>
void deltas(const O* from, O* to, std::size_t n, std::size_t c, std::size_t pitch, std::size_t half,
            int order, bool interp) noexcept {
  const double w = static_cast<double>(2 * half + 1);
  const double s2 = w * (w * w - 1.0) / 12.0;         // sum of i^2, i = -half ... half
  const double s4 = s2 * (3.0 * w * w - 7.0) / 20.0;  // sum of i^4
  const double by_first = 1.0 / s2, by_second = 2.0 / (w * s4 - s2 * s2);
  for (std::size_t r = 0; r < n; ++r) {
    // Near the ends the polynomial of the first or last whole window is evaluated off its centre; the
    // regression repeats the edge rows.
    const std::size_t mid = !interp ? r : r < half ? half : r + half >= n ? n - 1 - half : r;
    const auto after = [&](std::size_t i) noexcept { return (mid + i < n ? mid + i : n - 1) * pitch; };
    const auto before = [&](std::size_t i) noexcept { return (mid > i ? mid - i : 0) * pitch; };
    if (order == 1 || !interp) {
      each_column(from, to + r * pitch, c, [&](auto&& value) noexcept {
        auto d = value(after(1)) - value(before(1));
        for (std::size_t i = 2; i <= half; ++i)
          d = d + (value(after(i)) - value(before(i))) * static_cast<double>(i);
        return d * by_first;
      });
    } else {
      // Second derivative of the least-squares parabola: 2 (w sum i^2 y - s2 sum y) / (w s4 - s2^2).
      each_column(from, to + r * pitch, c, [&](auto&& value) noexcept {
        auto d = value(mid * pitch) * -s2;
        for (std::size_t i = 1; i <= half; ++i)
          d = d + (value(after(i)) + value(before(i))) * (w * static_cast<double>(i * i) - s2);
        return d * by_second;
      });
    }
  }
}

template <class T>
constexpr FrontEndKernelsOf<T> table() noexcept {
  FrontEndKernelsOf<T> t{kTile<T>,  prepare<float, T>, prepare<double, T>,   mel<T>,
                         energy<T>, clamp<T>,          rows<T, float>,       nullptr,
                         powers<T>, spectra<T>,        store_tile<T, float>, nullptr};
  if constexpr (sizeof(T) == sizeof(double)) {
    t.to_doubles = rows<T, double>;
    t.store_doubles = store_tile<T, double>;
  }
  return t;
}

}  // namespace

const FrontEndKernels frontend_kernels{table<float>(), table<double>(), widen, deltas<float>, deltas<double>};

}  // namespace affekt::AFFEKT_ISA
