#include "kernels/resampler.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

constexpr int L = kLanes<float>;
using V = Vec<float>;

// The one order of a result's sum: product k goes onto partial sum k mod 8, and these are added as
// ((0+4) + (2+6)) + ((1+5) + (3+7)), which stays the same if all are numbered from another start. Alone, a
// result has its partial sums across lanes. In bulk, results one period apart, which share a row of the
// table, lie across lanes, and rows of samples i mod 8 belong to the same partial sum of all of them. Folded
// results have one sum, and always lie across lanes.
constexpr std::size_t kSums = kTapsMultiple;
static_assert(kSums == 8);

// Samples of as many periods as there are lanes, transposed: (rows, lanes).
constexpr std::size_t kScratch = 16384;

// Vectors of results side by side: enough sums to hide the wait for each, few enough for the registers.
constexpr int kWide = 2;

// -0 from a sum of nothing but underflow becomes 0, however many zeros were added to it.
template <class U>
AFFEKT_INLINE U settled(const U& v) noexcept {
  return v + splat<U>(0.0f);
}

// ---- one result by itself

using Four = Vec<float, 4>;
#if defined(__AVX2__)
using Sums = Vec<float, 8>;
/// The sums of four results.
AFFEKT_INLINE Four add_up(const Sums (*s)[1]) noexcept {
  const Sums a = s[0][0], b = s[1][0], c = s[2][0], d = s[3][0];
  const Sums ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                  __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  const Sums cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                  __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
  const Sums all = __builtin_shufflevector(ab, cd, 0, 1, 8, 9, 4, 5, 12, 13) +
                   __builtin_shufflevector(ab, cd, 2, 3, 10, 11, 6, 7, 14, 15);
  return __builtin_shufflevector(all, all, 0, 4, 2, 6) + __builtin_shufflevector(all, all, 1, 5, 3, 7);
}
#else
using Sums = Four;
AFFEKT_INLINE Four add_up(const Sums (*s)[2]) noexcept {
  const Four a = s[0][0] + s[0][1], b = s[1][0] + s[1][1], c = s[2][0] + s[2][1], d = s[3][0] + s[3][1];
  const Four ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
  const Four cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
  return __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
}
#endif
constexpr std::size_t kParts = kSums * sizeof(float) / sizeof(Sums);

/// Four results, each with its samples and its row; `interpolated`: `rest` of the way to the next row.
template <bool interpolated>
AFFEKT_INLINE Four dots(const float* const* row, const float* const* x, std::size_t taps, std::size_t stride,
                        const float* rest) noexcept {
  constexpr std::size_t lanes = sizeof(Sums) / sizeof(float);
  Sums s[4][kParts] = {};
  for (std::size_t t = 0; t < taps; t += kSums) {
    for (std::size_t i = 0; i < kParts; ++i) {
      const std::size_t at = t + i * lanes;
      for (int r = 0; r < 4; ++r) {
        Sums c = load<Sums>(row[r] + at);
        if constexpr (interpolated) c = fma(splat<Sums>(rest[r]), load<Sums>(row[r] + stride + at) - c, c);
        s[r][i] = fma(c, load<Sums>(x[r] + at), s[r][i]);
      }
    }
  }
  return settled(add_up(s));
}

struct Walk {
  std::uint64_t whole, part, phases;
  AFFEKT_INLINE explicit Walk(const PhaseTable& table) noexcept
      : whole(table.step / table.phases), part(table.step % table.phases), phases(table.phases) {}
  AFFEKT_INLINE void next(std::uint64_t& index, std::uint64_t& fraction) const noexcept {
    index += whole;
    fraction += part;
    if (fraction >= phases) fraction -= phases, ++index;
  }
};

template <bool interpolated>
[[gnu::noinline]] void single(const PhaseTable& table, const float* x, std::uint64_t& index,
                              std::uint64_t& fraction, float* y, std::size_t n) noexcept {
  const Walk walk(table);
  const double scale = 1.0 / static_cast<double>(table.phases);
  for (std::size_t m = 0; m < n; m += 4) {
    const std::size_t now = n - m < 4 ? n - m : 4;
    const float *row[4], *at[4];
    float rest[4];
    for (std::size_t r = 0; r < 4; ++r) {
      if (r >= now) {
        row[r] = row[0], at[r] = at[0], rest[r] = rest[0];
        continue;
      }
      std::uint64_t number = fraction;
      if constexpr (interpolated) {
        const std::uint64_t position = fraction * table.rows;
        number = position / table.phases;
        rest[r] = static_cast<float>(static_cast<double>(position % table.phases) * scale);
      }
      row[r] = table.coefficients + number * table.stride;
      at[r] = x + index;
      walk.next(index, fraction);
    }
    const Four four = dots<interpolated>(row, at, table.taps, table.stride, rest);
    if (now == 4) {
      store(y + m, four);
    } else {
      for (std::size_t r = 0; r < now; ++r) y[m + r] = four[r];
    }
  }
}

// ---- results of W * L periods at once

template <std::size_t... I, class U>
AFFEKT_INLINE auto joined(const U& a, const U& b, std::index_sequence<I...>) noexcept {
  return __builtin_shufflevector(a, b, static_cast<int>(I)...);
}

/// Four values from each of x, x + apart ... one after the other.
template <int n>
AFFEKT_INLINE Vec<float, n> load_fours(const float* x, std::size_t apart) noexcept {
  if constexpr (n == 4) {
    return load<Four>(x);
  } else {
    return joined(load_fours<n / 2>(x, apart), load_fours<n / 2>(x + n / 8 * apart, apart),
                  std::make_index_sequence<n>());
  }
}

/// to[i][lane] = x[lane * apart + i] for `rows`, a multiple of 4.
template <int W>
AFFEKT_INLINE void lay_out(const float* x, std::size_t apart, std::size_t rows, float* to) noexcept {
  for (std::size_t i = 0; i < rows; i += 4) {
    for (int w = 0; w < W; ++w) {
      V v[4];
      for (std::size_t k = 0; k < 4; ++k)
        v[k] = load_fours<L>(x + (static_cast<std::size_t>(w * L) + k) * apart + i, 4 * apart);
      transpose_blocks(v);
      for (std::size_t k = 0; k < 4; ++k) store(to + ((i + k) * W + w) * L, v[k]);
    }
  }
}

/// Results q ... q + 3 of every lane; a lane has `own` results in y, all lanes together n.
template <int W>
AFFEKT_INLINE void hand_out(V (*v)[W], std::size_t q, std::size_t own, std::size_t n, float* y) noexcept {
  for (int w = 0; w < W; ++w) {
    V four[4] = {v[0][w], v[1][w], v[2][w], v[3][w]};
    transpose_blocks(four);
    for (std::size_t b = 0; b < L / 4; ++b) {
      for (std::size_t k = 0; k < 4; ++k) {
        const std::size_t at = (static_cast<std::size_t>(w * L) + 4 * b + k) * own + q;
        const float* from = reinterpret_cast<const float*>(four + k) + 4 * b;
        if (q + 4 <= own && at + 4 <= n) {
          __builtin_memcpy(y + at, from, 4 * sizeof(float));
        } else {
          for (std::size_t i = 0; q + i < own && at + i < n && i < 4; ++i) y[at + i] = from[i];
        }
      }
    }
  }
}

/// The partial sums of rows first, first + 8 ... of four results.
template <int W>
AFFEKT_INLINE void partial(const float* rows, const float* const* c, std::size_t first, std::size_t n,
                           V (*s)[W]) noexcept {
  for (int q = 0; q < 4; ++q)
    for (int w = 0; w < W; ++w) s[q][w] = V{};
  for (std::size_t i = first; i < n; i += kSums) {
    V t[W];
    for (int w = 0; w < W; ++w) t[w] = load<V>(rows + (i * W + static_cast<std::size_t>(w)) * L);
    for (int q = 0; q < 4; ++q) {
      const V h = splat<V>(c[q][i]);
      for (int w = 0; w < W; ++w) s[q][w] = fma(h, t[w], s[q][w]);
    }
  }
}

template <int W>
AFFEKT_INLINE void onto(V (*a)[W], V (*b)[W]) noexcept {
  for (int q = 0; q < 4; ++q)
    for (int w = 0; w < W; ++w) a[q][w] += b[q][w];
}

/// Four results of every lane: c, where the coefficients of each lie, counted from the first row.
template <int W>
AFFEKT_INLINE void four_results(const float* rows, const float* const* c, std::size_t n,
                                V (*result)[W]) noexcept {
  V part[2][4][W], four[4][W], one[4][W];
  for (std::size_t odd = 0; odd < 2; ++odd) {
    partial<W>(rows, c, odd, n, part[odd]);
    partial<W>(rows, c, odd + 4, n, one);
    onto<W>(part[odd], one);
    partial<W>(rows, c, odd + 2, n, four);
    partial<W>(rows, c, odd + 6, n, one);
    onto<W>(four, one);
    onto<W>(part[odd], four);
  }
  for (int q = 0; q < 4; ++q)
    for (int w = 0; w < W; ++w) result[q][w] = settled(part[0][q][w] + part[1][q][w]);
}

/// `periods` of the table's periods in each of W * L lanes.
template <int W>
[[gnu::noinline]] void bulk(const PhaseTable& table, const float* x, std::uint64_t fraction,
                            std::size_t periods, float* y) noexcept {
  constexpr std::size_t most_rows = kScratch / (W * L);
  alignas(64) float scratch[kScratch];
  const Walk walk(table);
  const std::size_t own = periods * table.phases, apart = periods * table.step;
  std::size_t begin = 0, end = 0;  // samples of each lane in scratch
  std::uint64_t index = 0;
  for (std::size_t q = 0; q < own; q += 4) {
    std::size_t at[4];
    const float* c[4];
    for (std::size_t r = 0; r < 4; ++r) {
      at[r] = q + r < own ? index : at[r - 1];
      c[r] = q + r < own ? table.coefficients + fraction * table.stride : c[r - 1];
      if (q + r < own) walk.next(index, fraction);
    }
    for (std::size_t r = 0; r < 4; ++r) c[r] -= at[r] - at[0];
    const std::size_t n = (at[3] - at[0] + table.taps + kSums - 1) / kSums * kSums;
    if (at[0] + n > end) {
      begin = at[0];
      const std::size_t left = apart + table.taps + kRowGap - begin;
      end = begin + (left < most_rows ? left : most_rows) / 4 * 4;
      lay_out<W>(x + begin, apart, end - begin, scratch);
    }
    V result[4][W];
    four_results<W>(scratch + (at[0] - begin) * W * L, c, n, result);
    hand_out<W>(result, q, own, W * L * own, y);
  }
}

// ---- symmetric rows, L lanes

/// Product k of each of Q results; c times the sum of two rows. A row serves every result in turn: one of
/// `low` and one of `high` are new per product.
template <int Q, int k>
AFFEKT_INLINE void fold(float c, const float* down, const float* up, V* low, V* high, V* s) noexcept {
  const V h = splat<V>(c);
  for (int q = 0; q < Q; ++q) s[q] = fma(h, low[(q - k + Q) % Q] + high[(q + k) % Q], s[q]);
  low[Q - 1 - k] = load<V>(down);
  high[k] = load<V>(up);
}

/// Products first, first + 1 ... of a round.
template <int Q, int... k>
AFFEKT_INLINE void folds(const float* c, const float* down, const float* up, std::ptrdiff_t far, V* low,
                         V* high, V* s, std::integer_sequence<int, k...>) noexcept {
  (fold<Q, k>(c[k], down - k * far, up + k * far, low, high, s), ...);
}

/// Q results of every lane, `step` rows apart: the products of c with the sums of two rows, of which one goes
/// down from a and the other up from b, in `step` rounds of `n` products.
template <int Q>
AFFEKT_INLINE void folded_results(const float* a, const float* b, const float* c, std::size_t step,
                                  std::size_t n, V* s) noexcept {
  const auto far = static_cast<std::ptrdiff_t>(step) * L;
  for (int q = 0; q < Q; ++q) s[q] = V{};
  for (std::size_t round = 0; round < step; ++round, a -= L, b += L) {
    V low[Q], high[Q];
    for (int q = 0; q < Q; ++q) low[q] = load<V>(a + q * far), high[q] = load<V>(b + q * far);
    const float* down = a - far;
    const float* up = b + Q * far;
    std::size_t i = 0;
    for (; i + Q <= n; i += Q, c += Q, down -= Q * far, up += Q * far)
      folds<Q>(c, down, up, far, low, high, s, std::make_integer_sequence<int, Q>());
    if (i < n) {
      folds<Q>(c, down, up, far, low, high, s, std::make_integer_sequence<int, kFoldsMultiple>());
      c += kFoldsMultiple;
    }
  }
  for (int q = 0; q < Q; ++q) s[q] = settled(s[q]);
}

// Results of a lane at once: enough sums to hide the wait for each, few enough for the registers.
constexpr int kTile = L == 16 ? 8 : 4;

/// Rows of samples that `periods` of a lane take, with those that the last round loads in vain.
AFFEKT_INLINE std::size_t folded_rows(const PhaseTable& table, std::size_t periods) noexcept {
  return ((2 * table.folds + (periods + kTile - 1) / kTile * kTile + 2) * table.step + 3) / 4 * 4;
}

/// Results of Q periods of every lane from period q on.
template <int Q>
AFFEKT_INLINE void folded_periods(const PhaseTable& table, const float* middle, std::uint64_t fraction,
                                  std::size_t q, std::size_t own, std::size_t n, float* y) noexcept {
  const Walk walk(table);
  V s[2][Q];
  std::uint64_t index = q * table.step;
  for (std::size_t p = 0; p < table.phases; ++p) {
    const float* a = middle + index * L;
    folded_results<Q>(a, a + fraction * L, table.folded + fraction * table.step * table.folds, table.step,
                      table.folds, s[p]);
    walk.next(index, fraction);
  }
  for (std::size_t f = 0; f < Q * table.phases; f += 4) {
    V four[4][1];
    for (std::size_t k = 0; k < 4; ++k) four[k][0] = table.phases == 1 ? s[0][f + k] : s[k % 2][(f + k) / 2];
    hand_out<1>(four, q * table.phases + f, own, n, y);
  }
}

/// n results, `periods` in each of L lanes, asking for `lines` with every tile. What lies around the samples
/// must be finite.
[[gnu::noinline]] void folded(const PhaseTable& table, const float* x, std::uint64_t fraction,
                              std::size_t periods, float* y, std::size_t n, Asking& asking,
                              std::size_t lines) noexcept {
  alignas(64) float scratch[kScratch];
  const std::size_t half = table.taps / 2, before = table.step * (table.folds + 1) - half;
  const std::size_t own = periods * table.phases;
  const auto ask = [&](std::size_t from) noexcept {
    if ((L - 1) * own + from >= n) return;
    for (std::size_t l = 0; l < L; ++l) __builtin_prefetch(y + l * own + from);
  };
  ask(0);
  lay_out<1>(x - before, periods * table.step, folded_rows(table, periods), scratch);
  const float* middle = scratch + (before + half - 1) * L;
  std::size_t q = 0;
  const auto before_tile = [&] {
    ask((q + kTile) * table.phases);  // where the next one writes
    for (std::size_t i = 0; i < lines; ++i) asking.one();
  };
  for (; q + 4 < periods && kTile > 4; q += kTile) {
    before_tile();
    folded_periods<kTile>(table, middle, fraction, q, own, n, y);
  }
  for (; q < periods; q += 4) {
    before_tile();
    folded_periods<4>(table, middle, fraction, q, own, n, y);
  }
}

/// n results of a folded table, the first at x.
void folded_all(const PhaseTable& table, const float* x, std::uint64_t fraction, float* y, std::size_t n,
                const Lines& ahead) noexcept {
  constexpr std::size_t rows = kScratch / L;
  if (n == 0) return;
  Asking asking(ahead);
  const std::size_t lines = ahead.bytes / 64 * kTile * L * table.phases / n + 1;
  for (std::size_t m = 0; m < n;) {
    std::size_t periods = ((n - m + table.phases - 1) / table.phases + L - 1) / L;
    if (folded_rows(table, periods) > rows)
      periods = (rows - folded_rows(table, 0)) / table.step / kTile * kTile;
    const std::size_t some = L * periods * table.phases, now = some < n - m ? some : n - m;
    folded(table, x, fraction, periods, y + m, now, asking, lines);
    m += now;
    x += L * periods * table.step;
  }
}

// ---- all of them

std::size_t phases(const PhaseTable& table, const float* x, std::size_t filled, std::uint64_t& index,
                   std::uint64_t& fraction, float* y, std::size_t most, bool rest,
                   const Lines& ahead) noexcept {
  if (index + table.taps > filled) return 0;
  const std::uint64_t last = filled - table.taps - index;  // sample where a result may start
  const std::size_t ready = ((last + 1) * table.phases - 1 - fraction) / table.step + 1;
  const std::size_t n = ready < most ? ready : most;
  if (table.rows != table.phases) {
    single<true>(table, x, index, fraction, y, n);
    return n;
  }
  std::size_t m = 0;
  if (table.folded != nullptr) {
    folded_all(table, x + index, fraction, y, n, ahead);
    const std::uint64_t position = fraction + n * table.step;
    index += position / table.phases;
    fraction = position % table.phases;
    return n;
  }
  const std::size_t period = table.phases, long_enough = 2 * table.taps / table.step;
  while (n - m >= L * period && table.taps + 2 * kRowGap <= kScratch / L) {
    const bool wide = n - m >= kWide * L * period && table.taps + 2 * kRowGap <= kScratch / (kWide * L);
    const std::size_t lanes = (wide ? kWide : 1) * L;
    std::size_t periods = (n - m) / (lanes * period);
    if (periods > long_enough) periods = long_enough > 0 ? long_enough : 1;
    if (wide) {
      bulk<kWide>(table, x + index, fraction, periods, y + m);
    } else {
      bulk<1>(table, x + index, fraction, periods, y + m);
    }
    m += lanes * periods * period;
    index += lanes * periods * table.step;
  }
  if (!rest) return m;
  single<false>(table, x, index, fraction, y + m, n - m);
  return n;
}

void halve(const float* taps, std::size_t pairs, const float* even, const float* odd, std::size_t n, float* y,
           const Lines& ahead) noexcept {
  const PhaseTable table{nullptr, 1, 2 * pairs, 0, taps, pairs, 1, 1};
  folded_all(table, odd, 1, y, n, ahead);
  std::size_t i = 0;
  for (; i + L <= n; i += L) store(y + i, fma(splat<V>(0.5f), load<V>(even + i), load<V>(y + i)));
  for (; i < n; ++i) y[i] = fma(0.5f, even[i], y[i]);
}

template <class U, class S>
AFFEKT_INLINE U samples(const S* x) noexcept {
  constexpr int n = static_cast<int>(sizeof(U) / sizeof(float));
  if constexpr (std::is_same_v<S, float>) {
    return load<U>(x);
  } else if constexpr (std::is_same_v<S, double>) {
    float lanes[n];
    for (int i = 0; i < n; ++i) lanes[i] = static_cast<float>(x[i]);
    return load<U>(lanes);
  } else {
    return convert<float>(load<Vec<S, n>>(x)) * splat<U>(1.0f / 32768);
  }
}

template <class U, class S>
AFFEKT_INLINE U mixed(const S* const* x, const std::uint32_t* used, const float* weights,
                      std::size_t channels, std::size_t at) noexcept {
  U s = splat<U>(weights[0]) * samples<U>(x[used[0]] + at);
  for (std::size_t c = 1; c < channels; ++c) s = fma(splat<U>(weights[c]), samples<U>(x[used[c]] + at), s);
  return s;
}

template <class S>
void mix(const S* const* x, const std::uint32_t* used, const float* weights, std::size_t channels,
         std::size_t begin, std::size_t n, float* y) noexcept {
  std::size_t i = 0;
  for (; i + L <= n; i += L) store(y + i, mixed<V>(x, used, weights, channels, begin + i));
  for (; i < n; ++i) y[i] = mixed<float>(x, used, weights, channels, begin + i);
}

void deal(const float* x, std::size_t n, float* even, float* odd) noexcept {
  for (std::size_t i = 0; i < n / 2; ++i) even[i] = x[2 * i], odd[i] = x[2 * i + 1];
  if (n % 2 == 1) even[n / 2] = x[n - 1];
}

}  // namespace

const ResamplerKernels resampler{phases, halve, mix<float>, mix<double>, mix<std::int16_t>, deal};

}  // namespace affekt::AFFEKT_ISA
