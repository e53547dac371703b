#include "kernels/filter.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Rows lie across lanes. A block of each row is turned into (time, lanes) doubles that stay in the
// first-level cache, and every section runs over it in place. A single row has its sections across lanes
// instead, each a few samples behind the one before it. The sum of a value is the same in both.
constexpr std::size_t kTimes = 128;
constexpr int kMostLanes = kLanes<double>;

template <class V>
AFFEKT_INLINE V section(const V* c, const V& x, const V& x1, const V& x2, const V& y1, const V& y2) noexcept {
  // y1 comes last: the wait from one sample to the next is a single multiplication and addition.
  return fma(c[3], y1, fma(c[4], y2, fma(c[2], x2, fma(c[1], x1, c[0] * x))));
}

template <class S>
AFFEKT_INLINE double sample(S x) noexcept {
  if constexpr (std::is_same_v<S, std::int16_t>) {
    return x * (1.0 / 32768);
  } else {
    return x;
  }
}

template <class S>
AFFEKT_INLINE bool within(S x, S limit) noexcept {
  if constexpr (std::is_same_v<S, std::int16_t>) return true;
  return x <= limit && x >= -limit;
}

// ---- rows across lanes

/// N sections over `n` vectors from `at` on, `step` doubles apart. history: (N + 1, 2), `in` the one before.
template <int L, int N>
AFFEKT_INLINE void run_sections(const double* coefficients, const Vec<double, L>* in, Vec<double, L>* history,
                                double* at, std::ptrdiff_t step, std::size_t n) noexcept {
  using V = Vec<double, L>;
  V c[N][5], v1[N + 1], v2[N + 1];
  for (int s = 0; s < N; ++s)
    for (int k = 0; k < 5; ++k) c[s][k] = splat<V>(coefficients[s * kCascadeStride + k]);
  v1[0] = in[0], v2[0] = in[1];
  for (int s = 0; s < N; ++s) v1[s + 1] = history[2 * s], v2[s + 1] = history[2 * s + 1];
  for (std::size_t t = 0; t < n; ++t, at += step) {
    V v = load<V>(at);
    for (int s = 0; s < N; ++s) {
      const V y = section(c[s], v, v1[s], v2[s], v1[s + 1], v2[s + 1]);
      v2[s] = v1[s], v1[s] = v;
      v = y;
    }
    v2[N] = v1[N], v1[N] = v;
    store(at, v);
  }
  for (int s = 0; s < N; ++s) history[2 * s] = v1[s + 1], history[2 * s + 1] = v2[s + 1];
}

/// The whole cascade over a block in place. history: (sections + 1, 2).
template <int L>
[[gnu::noinline]] void run_cascade(const Cascade& cascade, Vec<double, L>* history, double* at,
                                   std::ptrdiff_t step, std::size_t n) noexcept {
  using V = Vec<double, L>;
  if (n == 0) return;
  const double* last = at + static_cast<std::ptrdiff_t>(n - 1) * step;
  V in[2] = {history[0], history[1]};
  history[1] = n > 1 ? load<V>(last - step) : in[0];
  history[0] = load<V>(last);
  for (std::size_t s = 0; s < cascade.sections;) {
    const double* c = cascade.coefficients + s * kCascadeStride;
    const std::size_t left = cascade.sections - s, now = left < 4 ? left : 4;
    V* own = history + 2 * (s + 1);
    const V next[2] = {own[2 * now - 2], own[2 * now - 1]};
    if (now == 4) run_sections<L, 4>(c, in, own, at, step, n);
    if (now == 3) run_sections<L, 3>(c, in, own, at, step, n);
    if (now == 2) run_sections<L, 2>(c, in, own, at, step, n);
    if (now == 1) run_sections<L, 1>(c, in, own, at, step, n);
    in[0] = next[0], in[1] = next[1];
    s += now;
  }
}

/// Samples [begin, begin + n) of the rows -> (n, L) doubles; false where one is beyond the limit. Lanes
/// without a row repeat row 0.
template <int L, class S>
AFFEKT_INLINE bool gather(const S* const* x, std::size_t rows, std::size_t begin, std::size_t n, S limit,
                          double* to) noexcept {
  using V = Vec<double, L>;
  const S* from[L];
  for (int r = 0; r < L; ++r) from[r] = x[static_cast<std::size_t>(r) < rows ? r : 0] + begin;
  bool good = true;
  std::size_t t = 0;
  if constexpr (!std::is_same_v<S, std::int16_t>) {
    auto bad = Vec<S, L>{} != Vec<S, L>{};
    for (; t + L <= n; t += L) {
      V v[L];
      for (int r = 0; r < L; ++r) {
        const auto samples = load<Vec<S, L>>(from[r] + t);
        bad |= ~((samples <= splat<Vec<S, L>>(limit)) & (samples >= splat<Vec<S, L>>(-limit)));
        v[r] = convert<double>(samples);
      }
      transpose(v);
      for (int r = 0; r < L; ++r) store(to + (t + r) * L, v[r]);
    }
    for (int r = 0; r < L; ++r) good &= bad[r] == 0;
  }
  for (; t < n; ++t) {
    for (int r = 0; r < L; ++r) {
      good &= within(from[r][t], limit);
      to[t * L + r] = sample(from[r][t]);
    }
  }
  return good;
}

template <int L, class T>
AFFEKT_INLINE void scatter(const double* from, std::size_t n, T* const* y, std::size_t rows,
                           std::size_t begin) noexcept {
  using V = Vec<double, L>;
  std::size_t t = 0;
  for (; t + L <= n; t += L) {
    V v[L];
    for (int r = 0; r < L; ++r) v[r] = load<V>(from + (t + r) * L);
    transpose(v);
    for (std::size_t r = 0; r < L; ++r)
      if (r < rows) store(y[r] + begin + t, convert<T>(v[r]));
  }
  for (; t < n; ++t)
    for (std::size_t r = 0; r < rows; ++r) y[r][begin + t] = static_cast<T>(from[t * L + r]);
}

/// 64 sections at most.
constexpr std::size_t kMostHistory = 2 * 65;

template <int L>
AFFEKT_INLINE void settle(const Cascade& cascade, Vec<double, L> v, Vec<double, L>* history) noexcept {
  history[0] = history[1] = v;
  for (std::size_t s = 0; s < cascade.sections; ++s) {
    v = v * splat<Vec<double, L>>(cascade.coefficients[s * kCascadeStride + 5]);
    history[2 * s + 2] = history[2 * s + 3] = v;
  }
}

template <int L, class S, class T>
[[gnu::noinline]] bool causal_rows(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows,
                                   std::size_t n, double* state, S limit) noexcept {
  using V = Vec<double, L>;
  const std::size_t depth = 2 * (cascade.sections + 1);
  V history[kMostHistory];
  alignas(64) double block[kTimes * L];
  for (std::size_t k = 0; k < depth; ++k) {
    double lane[L] = {};
    for (std::size_t r = 0; r < rows; ++r) lane[r] = state[r * depth + k];
    history[k] = load<V>(lane);
  }
  bool good = true;
  for (std::size_t t = 0; t < n; t += kTimes) {
    const std::size_t m = n - t < kTimes ? n - t : kTimes;
    good &= gather<L>(x, rows, t, m, limit, block);
    run_cascade<L>(cascade, history, block, L, m);
    scatter<L>(block, m, y, rows, t);
  }
  for (std::size_t k = 0; k < depth; ++k) {
    double lane[L];
    store(lane, history[k]);
    for (std::size_t r = 0; r < rows; ++r) state[r * depth + k] = lane[r];
  }
  return good;
}

template <int L, class S, class T>
[[gnu::noinline]] bool zero_phase_rows(const Cascade& cascade, const S* const* x, T* const* y,
                                       std::size_t rows, std::size_t n, std::size_t padding, double* work,
                                       S limit) noexcept {
  using V = Vec<double, L>;
  V history[kMostHistory];
  const std::size_t all = n + 2 * padding;
  bool good = true;
  double* body = work + padding * L;
  for (std::size_t i = 0; i < padding; ++i) {
    for (std::size_t r = 0; r < L; ++r) {
      const S* row = x[r < rows ? r : 0];
      work[i * L + r] = 2 * sample(row[0]) - sample(row[padding - i]);
      body[(n + i) * L + r] = 2 * sample(row[n - 1]) - sample(row[n - 2 - i]);
    }
  }
  // Forward.
  settle<L>(cascade, load<V>(work), history);
  run_cascade<L>(cascade, history, work, L, padding);
  for (std::size_t t = 0; t < n; t += kTimes) {
    const std::size_t m = n - t < kTimes ? n - t : kTimes;
    good &= gather<L>(x, rows, t, m, limit, body + t * L);
    run_cascade<L>(cascade, history, body + t * L, L, m);
  }
  run_cascade<L>(cascade, history, body + n * L, L, padding);
  // Backward; what lies before the first sample is not needed.
  settle<L>(cascade, load<V>(work + (all - 1) * L), history);
  run_cascade<L>(cascade, history, work + (all - 1) * L, -L, padding);
  for (std::size_t end = n; end > 0;) {
    const std::size_t m = end % kTimes == 0 ? kTimes : end % kTimes;
    run_cascade<L>(cascade, history, body + (end - 1) * L, -L, m);
    end -= m;
    scatter<L>(body + end * L, m, y, rows, end);
  }
  return good;
}

// ---- one row: sections across lanes

// Samples that a section is behind the one before it: a result takes five additions, so that many samples
// must be under way for the wait from one sample to the next, which is one, to be all that there is.
constexpr std::size_t kLag = 6;
constexpr std::size_t kRowSections = 4;  // that one pass takes

/// N <= kRowSections sections over one row, x into y, which may be the same. history: (N + 1, 2), `in` the
/// one before.
template <int N, class S, class T>
[[gnu::noinline]] bool run_row(const double* coefficients, const double* in, double* history, const S* x,
                               std::ptrdiff_t x_step, T* y, std::ptrdiff_t y_step, std::size_t n,
                               S limit) noexcept {
  constexpr int L = N == 1 ? 1 : N == 2 || kMostLanes == 2 ? 2 : 4;
  constexpr int G = (N + L - 1) / L;  // vectors of sections
  using V = Vec<double, L>;
  constexpr std::size_t delay = kLag * (N - 1);
  double lanes[9][4] = {};
  for (int s = 0; s < N; ++s) {
    for (int k = 0; k < 5; ++k) lanes[k][s] = coefficients[s * kCascadeStride + k];
    lanes[5][s] = s == 0 ? in[0] : history[2 * s - 2];
    lanes[6][s] = s == 0 ? in[1] : history[2 * s - 1];
    lanes[7][s] = history[2 * s];
    lanes[8][s] = history[2 * s + 1];
  }
  V c[G][5], x1[G], x2[G], y1[G], y2[G];
  for (int g = 0; g < G; ++g) {
    for (int k = 0; k < 5; ++k) c[g][k] = load<V>(lanes[k] + g * L);
    x1[g] = load<V>(lanes[5] + g * L), x2[g] = load<V>(lanes[6] + g * L);
    y1[g] = load<V>(lanes[7] + g * L), y2[g] = load<V>(lanes[8] + g * L);
  }
  V behind[kLag][G] = {};  // the last results, that of sample t at t % kLag
  bool good = true;

  const auto step = [&](std::size_t t, V* slot, auto edge) noexcept {
    const S now = !edge || t < n ? *(x + static_cast<std::ptrdiff_t>(t) * x_step) : S{};
    good &= within(now, limit);
    V v[G], r[G];  // one lane up, the signal below
    if constexpr (L == 1) {
      v[0] = sample(now);
    } else if constexpr (L == 2) {
      v[0] = V{sample(now), slot[0][0]};
      for (int g = 1; g < G; ++g) v[g] = __builtin_shufflevector(slot[g - 1], slot[g], 1, 2);
    } else {
      v[0] = __builtin_shufflevector(slot[0], slot[0], 0, 0, 1, 2);
      v[0][0] = sample(now);
    }
    for (int g = 0; g < G; ++g) slot[g] = r[g] = section(c[g], v[g], x1[g], x2[g], y1[g], y2[g]);
    if constexpr (edge) {  // a lane works on sample t - kLag * lane, if there is one
      double keep[6][4] = {};
      for (int g = 0; g < G; ++g) {
        store(keep[0] + g * L, x1[g]), store(keep[1] + g * L, x2[g]);
        store(keep[2] + g * L, y1[g]), store(keep[3] + g * L, y2[g]);
        store(keep[4] + g * L, v[g]), store(keep[5] + g * L, r[g]);
      }
      for (std::size_t s = 0; s < N; ++s) {
        if (t < kLag * s || t - kLag * s >= n) continue;
        keep[1][s] = keep[0][s], keep[0][s] = keep[4][s];
        keep[3][s] = keep[2][s], keep[2][s] = keep[5][s];
      }
      for (int g = 0; g < G; ++g) {
        x1[g] = load<V>(keep[0] + g * L), x2[g] = load<V>(keep[1] + g * L);
        y1[g] = load<V>(keep[2] + g * L), y2[g] = load<V>(keep[3] + g * L);
      }
    } else {
      for (int g = 0; g < G; ++g) x2[g] = x1[g], x1[g] = v[g], y2[g] = y1[g], y1[g] = r[g];
    }
    if (!edge || t >= delay) {
      double last;
      if constexpr (L == 1) {
        last = r[0];
      } else {
        last = r[G - 1][(N - 1) % L];
      }
      *(y + static_cast<std::ptrdiff_t>(t - delay) * y_step) = static_cast<T>(last);
    }
  };
  static_assert(delay % kLag == 0);
  std::size_t t = 0;
  for (; t < delay; ++t) step(t, behind[t % kLag], std::true_type());
  for (; t + kLag <= n; t += kLag)
    for (std::size_t k = 0; k < kLag; ++k) step(t + k, behind[k], std::false_type());
  for (; t < n; ++t) step(t, behind[t % kLag], std::false_type());
  for (; t < n + delay; ++t) step(t, behind[t % kLag], std::true_type());

  for (int g = 0; g < G; ++g) store(lanes[7] + g * L, y1[g]), store(lanes[8] + g * L, y2[g]);
  for (int s = 0; s < N; ++s) history[2 * s] = lanes[7][s], history[2 * s + 1] = lanes[8][s];
  return good;
}

/// As run_cascade, for one row; x and y may be the same doubles. T is double where there are more than
/// kRowSections.
template <class S, class T>
bool cascade_row(const Cascade& cascade, double* history, const S* x, T* y, std::ptrdiff_t step,
                 std::size_t n, S limit) noexcept {
  if (n == 0) return true;
  const S* last = x + static_cast<std::ptrdiff_t>(n - 1) * step;
  double in[2] = {history[0], history[1]};
  history[1] = n > 1 ? sample(*(last - step)) : in[0];
  history[0] = sample(*last);
  bool good = true;
  const auto run = [&](const double* c, double* own, const auto* from, auto most, std::size_t now) noexcept {
    if (now == 4) good &= run_row<4>(c, in, own, from, step, y, step, n, most);
    if (now == 3) good &= run_row<3>(c, in, own, from, step, y, step, n, most);
    if (now == 2) good &= run_row<2>(c, in, own, from, step, y, step, n, most);
    if (now == 1) good &= run_row<1>(c, in, own, from, step, y, step, n, most);
  };
  for (std::size_t s = 0; s < cascade.sections;) {
    const double* c = cascade.coefficients + s * kCascadeStride;
    const std::size_t left = cascade.sections - s, now = left < kRowSections ? left : kRowSections;
    double* own = history + 2 * (s + 1);
    const double next[2] = {own[2 * now - 2], own[2 * now - 1]};
    if (s == 0) {
      run(c, own, x, limit, now);
    } else if constexpr (std::is_same_v<T, double>) {
      run(c, own, static_cast<const double*>(y), __builtin_inf(), now);
    }
    in[0] = next[0], in[1] = next[1];
    s += now;
  }
  return good;
}

template <class S, class T>
[[gnu::noinline]] bool causal_row(const Cascade& cascade, const S* x, T* y, std::size_t n, double* state,
                                  S limit) noexcept {
  if (cascade.sections <= kRowSections) return cascade_row(cascade, state, x, y, 1, n, limit);
  constexpr std::size_t size = 1024;
  double block[size];
  bool good = true;
  for (std::size_t t = 0; t < n; t += size) {
    const std::size_t m = n - t < size ? n - t : size;
    good &= cascade_row(cascade, state, x + t, block, 1, m, limit);
    for (std::size_t i = 0; i < m; ++i) y[t + i] = static_cast<T>(block[i]);
  }
  return good;
}

template <class S, class T>
[[gnu::noinline]] bool zero_phase_row(const Cascade& cascade, const S* x, T* y, std::size_t n,
                                      std::size_t padding, double* work, S limit) noexcept {
  double history[kMostHistory];
  const std::size_t all = n + 2 * padding;
  bool good = true;
  for (std::size_t i = 0; i < padding; ++i) {
    work[i] = 2 * sample(x[0]) - sample(x[padding - i]);
    work[padding + n + i] = 2 * sample(x[n - 1]) - sample(x[n - 2 - i]);
  }
  for (std::size_t t = 0; t < n; ++t) {
    good &= within(x[t], limit);
    work[padding + t] = sample(x[t]);
  }
  constexpr double any = __builtin_inf();
  settle<1>(cascade, work[0], history);
  cascade_row(cascade, history, work, work, 1, all, any);
  settle<1>(cascade, work[all - 1], history);
  cascade_row(cascade, history, work + all - 1, work + all - 1, -1, all - padding, any);
  for (std::size_t t = 0; t < n; ++t) y[t] = static_cast<T>(work[padding + t]);
  return good;
}

// ---- dispatch on the number of rows

template <int L, class S, class T>
bool causal_any(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
                double* state, S limit) noexcept {
  if constexpr (L > 2) {
    if (rows <= L / 2) return causal_any<L / 2>(cascade, x, y, rows, n, state, limit);
  }
  if (rows == 1) return causal_row(cascade, x[0], y[0], n, state, limit);
  return causal_rows<L>(cascade, x, y, rows, n, state, limit);
}

template <int L, class S, class T>
bool zero_phase_any(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
                    std::size_t padding, double* work, S limit) noexcept {
  if constexpr (L > 2) {
    if (rows <= L / 2) return zero_phase_any<L / 2>(cascade, x, y, rows, n, padding, work, limit);
  }
  if (rows == 1) return zero_phase_row(cascade, x[0], y[0], n, padding, work, limit);
  return zero_phase_rows<L>(cascade, x, y, rows, n, padding, work, limit);
}

template <class S, class T>
bool causal(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
            double* state, S limit) noexcept {
  const FlushDenormals flush;
  return causal_any<kMostLanes>(cascade, x, y, rows, n, state, limit);
}

template <class S, class T>
bool zero_phase(const Cascade& cascade, const S* const* x, T* const* y, std::size_t rows, std::size_t n,
                std::size_t padding, double* work, S limit) noexcept {
  const FlushDenormals flush;
  return zero_phase_any<kMostLanes>(cascade, x, y, rows, n, padding, work, limit);
}

// ---- average reference

/// Adds to sum, in order, n samples of each of K channels from x[channel[k]] + t on, and looks at them.
template <std::size_t K, class T, class I>
AFFEKT_INLINE void add_channels(const T* const* x, const std::size_t* channel, std::size_t t, std::size_t n,
                                double* sum, I& largest) noexcept {
  constexpr std::size_t L = kLanes<double>;
  using V = Vec<double, L>;
  using W = Vec<T, L>;
  using U = Vec<I, L>;
  constexpr I no_sign = std::numeric_limits<I>::max();
  const T* from[K];
  for (std::size_t k = 0; k < K; ++k) from[k] = x[channel[k]] + t;
  // Without its sign bit a value orders as an integer, and infinities and NaN come last.
  U most{};
  std::size_t i = 0;
  for (; i + L <= n; i += L) {
    V s = load<V>(sum + i);
    for (std::size_t k = 0; k < K; ++k) {
      const W v = load<W>(from[k] + i);
      const U bits = __builtin_bit_cast(U, v) & no_sign;
      most = select<U>(bits > most, bits, most);
      s = s + convert<double>(v);
    }
    store<V>(sum + i, s);
  }
  for (std::size_t l = 0; l < L; ++l) largest = most[l] > largest ? most[l] : largest;
  for (; i < n; ++i) {
    for (std::size_t k = 0; k < K; ++k) {
      const I bits = __builtin_bit_cast(I, from[k][i]) & no_sign;
      largest = bits > largest ? bits : largest;
      sum[i] += static_cast<double>(from[k][i]);
    }
  }
}

template <class T>
bool reference(const T* const* x, T* const* y, std::size_t channels, const std::size_t* good,
               std::size_t n_good, std::size_t begin, std::size_t end, T limit) noexcept {
  using I = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  constexpr std::size_t L = kLanes<double>;
  constexpr std::size_t size = 256;  // of many channels still near when the mean is taken off
  using V = Vec<double, L>;
  using W = Vec<T, L>;
  alignas(64) double mean[size];
  const double count = static_cast<double>(n_good);
  I largest = 0;
  for (std::size_t t = begin; t < end; t += size) {
    const std::size_t n = end - t < size ? end - t : size;
    for (std::size_t i = 0; i < n; ++i) mean[i] = 0;
    // A few channels at a time, one after the other: rows that lie a multiple of a page apart push each other
    // out of the cache where all of them are read at once.
    std::size_t k = 0;
    for (; k + 4 <= n_good; k += 4) add_channels<4>(x, good + k, t, n, mean, largest);
    for (; k < n_good; ++k) add_channels<1>(x, good + k, t, n, mean, largest);
    for (std::size_t i = 0; i < n; ++i) mean[i] /= count;
    for (std::size_t c = 0; c < channels; ++c) {
      const T* const from = x[c] + t;
      T* const to = y[c] + t;
      std::size_t i = 0;
      for (; i + L <= n; i += L)
        store<W>(to + i, convert<T>(V(convert<double>(load<W>(from + i)) - load<V>(mean + i))));
      for (; i < n; ++i) to[i] = static_cast<T>(static_cast<double>(from[i]) - mean[i]);
    }
  }
  return largest <= __builtin_bit_cast(I, limit);
}

}  // namespace

const FilterKernels filter{
    static_cast<std::size_t>(kMostLanes),
    {causal<float, float>, zero_phase<float, float>},
    {causal<double, double>, zero_phase<double, double>},
    {causal<std::int16_t, float>, zero_phase<std::int16_t, float>},
    reference<float>,
    reference<double>,
};

}  // namespace affekt::AFFEKT_ISA
