#include "kernels/welch.hpp"

#include "fft_passes.hpp"
#include "logarithm.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Lanes hold independent segments: of one channel, of many, in any mixture.
constexpr std::size_t kRun = 16;  // samples between two steps of the long sums

/// A sum that does not lose what is small beside it (Kahan), because a segment may be a million samples long.
template <class V>
struct LongSum {
  V total{}, lost{};
  AFFEKT_INLINE void add(const V& x) noexcept {
    const V y = x - lost;
    const V t = total + y;
    lost = (t - total) - y;
    total = t;
  }
};

/// a - b, with the same bits, on the units that multiply: loading has many additions and no products, for
/// which many cores have units of their own.
template <class V>
class Difference {
 public:
  AFFEKT_INLINE Difference() noexcept : one_(splat<V>(Element<V>(1))) {
#if defined(__FMA__)
    asm("" : "+v"(one_));  // else the compiler sees through it
#elif defined(__aarch64__)
    asm("" : "+w"(one_));
#endif
  }
  AFFEKT_INLINE V operator()(const V& a, const V& b) const noexcept {
    if constexpr (kFused) return fma<V>(a, one_, -b);
    return a - b;
  }

 private:
  V one_;
};

template <class V, class T>
AFFEKT_INLINE V load_one(const T* const* x, std::size_t i) noexcept {
  V v{};
  for (std::size_t l = 0; l < sizeof(V) / sizeof(Element<V>); ++l) v[l] = static_cast<Element<V>>(x[l][i]);
  return v;
}

/// Segments that lie apart, one pointer to each.
template <class V, class T>
struct Apart {
  const T* const* x;

  AFFEKT_INLINE V one(std::size_t i) const noexcept { return load_one<V>(x, i); }
  /// Samples i ... i + kRun - 1 of each segment, one vector per sample.
  AFFEKT_INLINE void run(std::size_t i, V* rows) const noexcept {
    using C = Element<V>;
    if constexpr (std::is_same_v<T, C>) {
      constexpr std::size_t lanes = sizeof(V) / sizeof(C);
      for (std::size_t part = 0; part < kRun; part += lanes) {
        for (std::size_t l = 0; l < lanes; ++l) rows[part + l] = load<V>(x[l] + i + part);
        transpose(rows + part);
      }
    } else {
      for (std::size_t s = 0; s < kRun; ++s) rows[s] = one(i + s);
    }
  }
};

/// Segments whose samples lie side by side, as `interleave` puts them.
template <class V>
struct Beside {
  const V* x;

  AFFEKT_INLINE V one(std::size_t i) const noexcept { return x[i]; }
  AFFEKT_INLINE void run(std::size_t i, V* rows) const noexcept {
    for (std::size_t s = 0; s < kRun; ++s) rows[s] = x[i + s];
  }
};

/// What turns a loaded sample into one of the detrended and windowed segment.
template <class V>
struct Trend {
  V origin{};         // the first sample
  V mean{}, slope{};  // of the line mean + slope (i - middle), without the first sample
  Element<V> middle{};
};

/// The trend that is to be taken off segments, a line or a mean; `keep(i, v)` is told what the trend belongs
/// to. What is detrended is taken relative to its first sample, so that a large offset costs no precision and
/// a constant segment gives exact zeros.
template <class V, class From, class C, class Keep>
AFFEKT_INLINE Trend<V> trend_of(const SegmentView<C>& plan, const From& x, bool line,
                                const Keep& keep) noexcept {
  const std::size_t n = plan.samples, whole = n / kRun * kRun;
  Trend<V> trend;
  V rows[kRun];
  trend.origin = x.one(0);
  const C middle = static_cast<C>(n - 1) * C(0.5);
  LongSum<V> sum, moment;  // of x and of x (i - middle)
  const Difference<V> difference;
  for (std::size_t i = 0; i < whole; i += kRun) {
    x.run(i, rows);
    V s0{}, s1{}, m{};
    for (std::size_t s = 0; s < kRun; ++s) {
      rows[s] = difference(rows[s], trend.origin);
      keep(i + s, rows[s]);
      (s % 2 == 0 ? s0 : s1) += rows[s];
    }
    sum.add(s0 + s1);
    if (line) {
      for (std::size_t s = 0; s < kRun; ++s) m = fma<V>(rows[s], splat<V>(static_cast<C>(i + s) - middle), m);
      moment.add(m);
    }
  }
  for (std::size_t i = whole; i < n; ++i) {
    const V v = x.one(i) - trend.origin;
    keep(i, v);
    sum.add(v);
    moment.add(v * (static_cast<C>(i) - middle));
  }
  trend.mean = sum.total / static_cast<C>(n);
  if (line && n > 1) {
    // The sum of (i - middle)^2 is n (n^2 - 1) / 12.
    const C size = static_cast<C>(n);
    trend.slope = moment.total * (C(12) / (size * (size * size - C(1))));
    trend.middle = middle;
  }
  return trend;
}

/// z = the segments, and the trend that is to be taken off them.
template <class V, class From, class C>
Trend<V> load_segments(const SegmentView<C>& plan, const From& x, V* z) noexcept {
  const std::size_t n = plan.samples, whole = n / kRun * kRun;
  for (std::size_t i = n; i < plan.fft.n; ++i) z[i] = V{};
  if (plan.detrend == 0) {
    for (std::size_t i = 0; i < whole; i += kRun) x.run(i, z + i);
    for (std::size_t i = whole; i < n; ++i) z[i] = x.one(i);
    return {};
  }
  return trend_of<V>(plan, x, plan.detrend == 2, [z](std::size_t i, const V& v) noexcept { z[i] = v; });
}

/// Vectors of C for a transform: half as wide where two arrays of the widest would not fit the first cache.
template <class C>
bool narrow(const SegmentView<C>& plan) noexcept {
  return plan.fft.values * kVectorBytes > 24 * 1024;
}
template <class C>
using Narrow = Vec<C, (kLanes<C> > kBlock<C> ? kLanes<C> / 2 : kLanes<C>)>;

template <class V>
struct Work {
  using C = Element<V>;
  static constexpr std::size_t lanes = sizeof(V) / sizeof(C);
  V *z, *fft, *power, *bands;
  Work(const SegmentView<C>& plan, C* at) noexcept
      : z(reinterpret_cast<V*>(at)),
        fft(z + plan.fft.values),
        power(fft + plan.fft.work),
        bands(power + padded_bins(plan.fft.bins)) {}
};

template <class C>
std::size_t work_size(const SegmentView<C>& plan, std::size_t n_bands) noexcept {
  return (plan.fft.values + plan.fft.work + padded_bins(plan.fft.bins) + n_bands) *
         static_cast<std::size_t>(kLanes<C>);
}

template <class C>
std::size_t lanes(const SegmentView<C>& plan) noexcept {
  return narrow(plan) ? Work<Narrow<C>>::lanes : Work<Vec<C>>::lanes;
}

// The transforms are functions of their own, and know nothing of where the segments come from: most of this
// file's code is in them, and would otherwise be there once for every caller.

/// work.power = the power of the segments in work.z less their trend.
template <class V, class C>
[[gnu::noinline]] void transform(const SegmentView<C>& plan, const Trend<V>& off,
                                 const Work<V>& work) noexcept {
  const C* w = plan.window;
  const auto sink = [out = work.power](std::size_t k, const V& re, const V& im) noexcept {
    out[k] = fma<V>(re, re, im * im);
  };
  const Trend<V> trend = off;
  if (plan.detrend == 2) {
    real_fft<V>(plan.fft, work.z, work.fft, sink, [trend, w](std::size_t i, const V& v) noexcept {
      const V line = fma<V>(trend.slope, splat<V>(static_cast<C>(i) - trend.middle), trend.mean);
      return (v - line) * w[i];
    });
  } else {
    real_fft<V>(plan.fft, work.z, work.fft, sink,
                [mean = trend.mean, w](std::size_t i, const V& v) noexcept { return (v - mean) * w[i]; });
  }
}

/// work.power = the power of the segments of x, as long as the transform, less their first sample and mean.
template <class V, class C>
[[gnu::noinline]] void transform(const SegmentView<C>& plan, const Beside<V>& x,
                                 const Work<V>& work) noexcept {
  const Trend<V> trend = trend_of<V>(plan, x, false, [](std::size_t, const V&) noexcept {});
  const auto sink = [out = work.power](std::size_t k, const V& re, const V& im) noexcept {
    out[k] = fma<V>(re, re, im * im);
  };
  real_fft<V>(plan.fft, work.z, work.fft, sink,
              [from = x.x, trend, w = plan.window](std::size_t i, const V&) noexcept {
                return ((from[i] - trend.origin) - trend.mean) * w[i];
              });
}

/// work.power = the power of the segments of x, lane by lane.
template <class V, class From, class C>
AFFEKT_INLINE void power(const SegmentView<C>& plan, const From& x, const Work<V>& work) noexcept {
  if constexpr (std::is_same_v<From, Beside<V>>) {
    if (plan.detrend == 1 && plan.samples == plan.fft.n) return transform(plan, x, work);
  }
  transform(plan, load_segments<V>(plan, x, work.z), work);
}

/// f(work, i, n) for every n <= lanes segments from i on, when their power is there; the last of them fills
/// the lanes left.
template <class V, class T, class C, class F>
AFFEKT_INLINE void each_power(const SegmentView<C>& plan, const T* const* x, std::size_t n, C* at,
                              F&& f) noexcept {
  const Work<V> work(plan, at);
  for (std::size_t i = 0; i < n; i += Work<V>::lanes) {
    const std::size_t here = n - i < Work<V>::lanes ? n - i : Work<V>::lanes;
    const T* from[Work<V>::lanes];
    for (std::size_t l = 0; l < Work<V>::lanes; ++l) from[l] = x[i + (l < here ? l : here - 1)];
    power(plan, Apart<V, T>{from}, work);
    f(work, i, here);
  }
}
template <class T, class C, class F>
AFFEKT_INLINE void each_power(const SegmentView<C>& plan, const T* const* x, std::size_t n, C* at,
                              F&& f) noexcept {
  if (narrow(plan)) {
    each_power<Narrow<C>>(plan, x, n, at, f);
  } else {
    each_power<Vec<C>>(plan, x, n, at, f);
  }
}

template <class T, class C>
void spectra(const SegmentView<C>& plan, const T* const* x, std::size_t n, T* const* out, C* at) noexcept {
  const std::size_t bins = plan.fft.bins;
  each_power(plan, x, n, at, [&](const auto& work, std::size_t i, std::size_t here) noexcept {
    constexpr std::size_t lanes = std::remove_cvref_t<decltype(work)>::lanes;
    const C* from = reinterpret_cast<const C*>(work.power);
    for (std::size_t l = 0; l < here; ++l) {
      T* to = out[i + l];
      for (std::size_t k = 0; k < bins; ++k) to[k] += static_cast<T>(from[k * lanes + l]);
    }
  });
}

template <class T, class C>
void sums(const SegmentView<C>& plan, const T* const* x, std::size_t n, C* sum, C* at) noexcept {
  const std::size_t bins = plan.fft.bins;
  each_power(plan, x, n, at, [&](const auto& work, std::size_t, std::size_t here) noexcept {
    using V = std::remove_cvref_t<decltype(*work.power)>;
    constexpr std::size_t lanes = std::remove_cvref_t<decltype(work)>::lanes;
    if (here < lanes) {
      for (std::size_t k = 0; k < bins; ++k) {
        for (std::size_t l = here; l < lanes; ++l) reinterpret_cast<C*>(work.power + k)[l] = C(0);
      }
    }
    for (std::size_t k = 0; k < bins; ++k)
      store<V>(sum + k * lanes, load<V>(sum + k * lanes) + work.power[k]);
  });
}

/// The weighted sum of a band's bins; V is a scalar or holds many spectra side by side.
template <class V, class C>
AFFEKT_INLINE V integral(const BandView<C>& band, const V* spectrum) noexcept {
  const V* x = spectrum + band.first;
  const C* w = band.weights;
  V s[4] = {};
  std::size_t k = 0;
  for (; k + 4 <= band.count; k += 4) {
    for (std::size_t j = 0; j < 4; ++j) s[j] = fma<V>(x[k + j], splat<V>(w[k + j]), s[j]);
  }
  for (; k < band.count; ++k) s[k % 4] = fma<V>(x[k], splat<V>(w[k]), s[k % 4]);
  return (s[0] + s[1]) + (s[2] + s[3]);
}

/// The bands of work.power, of its first n lanes.
template <class V, class T, class C>
AFFEKT_INLINE void put_bands(const Work<V>& work, const BandView<C>* band, std::size_t n_bands, std::size_t n,
                             T* const* out) noexcept {
  for (std::size_t b = 0; b < n_bands; ++b) work.bands[b] = integral(band[b], work.power);
  const C* from = reinterpret_cast<const C*>(work.bands);
  for (std::size_t l = 0; l < n; ++l) {
    for (std::size_t b = 0; b < n_bands; ++b) out[l][b] = static_cast<T>(from[b * Work<V>::lanes + l]);
  }
}

template <class T, class C>
void bands(const SegmentView<C>& plan, const BandView<C>* band, std::size_t n_bands, const T* const* x,
           std::size_t n, T* const* out, C* at) noexcept {
  each_power(plan, x, n, at, [&](const auto& work, std::size_t i, std::size_t here) noexcept {
    put_bands(work, band, n_bands, here, out + i);
  });
}

template <class V, class T>
bool interleave_lanes(const T* const* x, std::size_t n, Element<V> limit, Element<V>* to) noexcept {
  // Without its sign bit a value orders as an integer, and infinities and NaN come last.
  using I = std::conditional_t<sizeof(limit) == 4, std::int32_t, std::int64_t>;
  using W = Vec<I, static_cast<int>(sizeof(V) / sizeof(I))>;
  constexpr I no_sign = std::numeric_limits<I>::max();
  const Apart<V, T> from{x};
  V* out = reinterpret_cast<V*>(to);
  W largest{};
  const auto look = [&](const V& v) noexcept {
    const W bits = __builtin_bit_cast(W, v) & no_sign;
    largest = select<W>(bits > largest, bits, largest);
  };
  std::size_t i = 0;
  for (; i + kRun <= n; i += kRun) {
    from.run(i, out + i);
    for (std::size_t s = 0; s < kRun; ++s) look(out[i + s]);
  }
  for (; i < n; ++i) {
    out[i] = from.one(i);
    look(out[i]);
  }
  bool usable = true;
  for (std::size_t l = 0; l < sizeof(V) / sizeof(I); ++l)
    usable = usable && largest[l] <= __builtin_bit_cast(I, limit);
  return usable;
}
template <class T, class C>
bool interleave(const SegmentView<C>& plan, const T* const* x, std::size_t n, T limit, C* out) noexcept {
  return narrow(plan) ? interleave_lanes<Narrow<C>>(x, n, static_cast<C>(limit), out)
                      : interleave_lanes<Vec<C>>(x, n, static_cast<C>(limit), out);
}

template <class V, class T, class C>
AFFEKT_INLINE void bands_of_lanes(const SegmentView<C>& plan, const BandView<C>* band, std::size_t n_bands,
                                  const C* x, T* const* out, C* at) noexcept {
  const Work<V> work(plan, at);
  power(plan, Beside<V>{reinterpret_cast<const V*>(x)}, work);
  put_bands(work, band, n_bands, Work<V>::lanes, out);
}
template <class T, class C>
void bands_beside(const SegmentView<C>& plan, const BandView<C>* band, std::size_t n_bands, const C* x,
                  T* const* out, C* at) noexcept {
  if (narrow(plan)) {
    bands_of_lanes<Narrow<C>>(plan, band, n_bands, x, out, at);
  } else {
    bands_of_lanes<Vec<C>>(plan, band, n_bands, x, out, at);
  }
}

template <class T>
constexpr std::size_t kWide = static_cast<std::size_t>(kLanes<T>);

/// Sum of n_rows > 0 values: sums of some neighbours first, because windows may have millions of segments.
template <class V, class F>
AFFEKT_INLINE V sum_of(std::size_t n_rows, const F& row) noexcept {
  constexpr std::size_t block = 256;
  V total{};
  for (std::size_t j = 0; j < n_rows;) {
    const std::size_t end = n_rows - j < block ? n_rows : j + block;
    const bool first = j == 0;
    V s = row(j++);
    for (; j < end; ++j) s = s + row(j);
    total = first ? s : total + s;
  }
  return total;
}
template <class T>
void sum(const T* const* rows, std::size_t n_rows, std::size_t n, T* out) noexcept {
  using V = Vec<T>;
  std::size_t k = 0;
  for (; k + kWide<T> <= n; k += kWide<T>)
    store<V>(out + k, sum_of<V>(n_rows, [&](std::size_t j) noexcept { return load<V>(rows[j] + k); }));
  for (; k < n; ++k) out[k] = sum_of<T>(n_rows, [&](std::size_t j) noexcept { return rows[j][k]; });
}

/// Sorts n vectors lane by lane: Batcher's network of any size (Knuth, volume 3, 5.2.2, algorithm M).
template <class V>
void sort(V* x, std::size_t n) noexcept {
  std::size_t top = 1;
  while (top < n) top *= 2;
  for (std::size_t p = top / 2; p > 0; p /= 2) {
    std::size_t q = top / 2, r = 0, d = p;
    for (;;) {
      for (std::size_t i = 0; i + d < n; ++i) {
        if ((i & p) != r) continue;
        const V a = x[i], b = x[i + d];
        x[i] = select<V>(b < a, b, a);
        x[i + d] = select<V>(b < a, a, b);
      }
      if (q == p) break;
      d = q - p;
      q /= 2;
      r = p;
    }
  }
}

template <class T>
void median(const T* const* rows, std::size_t n_rows, std::size_t n, T scale, T* out, T* work) noexcept {
  using V = Vec<T>;
  V* x = reinterpret_cast<V*>(work);
  for (std::size_t k = 0; k < n; k += kWide<T>) {
    for (std::size_t j = 0; j < n_rows; ++j) x[j] = load<V>(rows[j] + k);
    sort(x, n_rows);
    const V middle = (x[(n_rows - 1) / 2] + x[n_rows / 2]) * T(0.5);
    store<V>(out + k, middle * scale);
  }
}

template <class T>
void integrate(const BandView<T>* band, std::size_t n_bands, const T* spectrum, T* out) noexcept {
  for (std::size_t b = 0; b < n_bands; ++b) out[b] = integral(band[b], spectrum);
}

template <class T>
void divide(const T* x, std::size_t stride, const T* by, std::size_t rows, std::size_t n, T* out) noexcept {
  using V = Vec<T, kBlock<T>>;
  constexpr std::size_t block = kBlock<T>;
  for (std::size_t r = 0; r < rows; ++r, x += stride, out += n) {
    std::size_t k = 0;
    for (; k + block <= n; k += block) store<V>(out + k, load<V>(x + k) / by[r]);
    for (; k < n; ++k) out[k] = x[k] / by[r];
  }
}

template <class T>
void logarithm(T* x, std::size_t n, T floor, const LogScale<T>& scale) noexcept {
  using V = Vec<T>;
  const auto log = [&](auto& v) noexcept {
    using U = std::remove_reference_t<decltype(v)>;
    const U least = splat<U>(floor);
    v = log_normal<U>(select<U>(v < least, least, v), scale);
  };
  std::size_t k = 0;
  for (; k + kWide<T> <= n; k += kWide<T>) {
    V v = load<V>(x + k);
    log(v);
    store<V>(x + k, v);
  }
  for (; k < n; ++k) log(x[k]);
}

template <class T, class C>
constexpr SegmentKernels<T, C> segment_kernels_of{
    spectra<T, C>, sums<T, C>, bands<T, C>, interleave<T, C>, bands_beside<T, C>, work_size<C>, lanes<C>};
template <class T>
constexpr RowKernels<T> row_kernels_of{sum<T>, median<T>, integrate<T>, divide<T>, logarithm<T>};

}  // namespace

const WelchKernels welch_kernels{segment_kernels_of<float, float>, segment_kernels_of<float, double>,
                                 segment_kernels_of<double, double>, row_kernels_of<float>,
                                 row_kernels_of<double>};

}  // namespace affekt::AFFEKT_ISA
