#include "kernels/resampler.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

constexpr int L = kLanes<float>;
using V = Vec<float>;
// Partial sums per result, to hide the wait for each.
constexpr int kSums = kTapsMultiple / L > 1 ? static_cast<int>(kTapsMultiple / L) : 2;

/// Halves are added until one value is left.
template <class U>
AFFEKT_INLINE float sum(const U& v) noexcept {
  constexpr int n = static_cast<int>(sizeof(U) / sizeof(float));
  if constexpr (n == 4) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    Vec<float, n / 2> a, b;
    __builtin_memcpy(&a, &v, sizeof(a));
    __builtin_memcpy(&b, reinterpret_cast<const char*>(&v) + sizeof(a), sizeof(b));
    return sum<Vec<float, n / 2>>(a + b);
  }
}

/// The products of L taps from t on, onto sum i of each of K results.
template <int K>
AFFEKT_INLINE void add(const float* row, const float* const* x, std::size_t t, int i,
                       V (*s)[kSums]) noexcept {
  const V c = load<V>(row + t);
  for (int k = 0; k < K; ++k) s[k][i] = fma(c, load<V>(x[k] + t), s[k][i]);
}

/// y[k] = row . x[k] for K results that share a row.
template <int K>
AFFEKT_INLINE void dot(const float* row, const float* const* x, std::size_t taps, float* y) noexcept {
  V s[K][kSums] = {};
  constexpr std::size_t together = kSums * L;
  std::size_t t = 0;
  for (; t + together <= taps; t += together)
    for (int i = 0; i < kSums; ++i) add<K>(row, x, t + i * L, i, s);
  if constexpr (together > kTapsMultiple)
    if (t < taps) add<K>(row, x, t, 0, s);
  for (int k = 0; k < K; ++k) {
    for (int n = kSums / 2; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) s[k][i] += s[k][i + n];
    y[k] = sum<V>(s[k][0]);
  }
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

std::size_t phases(const PhaseTable& table, const float* x, std::size_t filled, std::uint64_t& index,
                   std::uint64_t& fraction, float* y, std::size_t most) noexcept {
  const Walk walk(table);
  std::size_t m = 0;
  if (table.rows == table.phases) {
    // Results `phases` apart share a row; four together read it once.
    constexpr std::size_t together = 4;
    const std::uint64_t period = table.step;
    while (table.phases <= 8) {
      const std::uint64_t last = index + (together - 1) * period +
                                 (fraction + (table.phases - 1) * walk.part) / table.phases +
                                 (table.phases - 1) * walk.whole;
      if (m + together * table.phases > most || last + table.taps > filled) break;
      for (std::uint64_t p = 0; p < table.phases; ++p) {
        const float* at[together];
        float result[together];
        for (std::size_t k = 0; k < together; ++k) at[k] = x + index + k * period;
        dot<together>(table.coefficients + fraction * table.taps, at, table.taps, result);
        for (std::size_t k = 0; k < together; ++k) y[m + k * table.phases + p] = result[k];
        walk.next(index, fraction);
      }
      m += together * table.phases;
      index += (together - 1) * period;
    }
    for (; m < most && index + table.taps <= filled; ++m) {
      const float* at = x + index;
      dot<1>(table.coefficients + fraction * table.taps, &at, table.taps, y + m);
      walk.next(index, fraction);
    }
    return m;
  }
  const double scale = 1.0 / static_cast<double>(table.phases);
  for (; m < most && index + table.taps <= filled; ++m) {
    const std::uint64_t position = fraction * table.rows, row = position / table.phases;
    const auto rest = static_cast<float>(static_cast<double>(position % table.phases) * scale);
    const float* at = x + index;
    float low, high;
    dot<1>(table.coefficients + row * table.taps, &at, table.taps, &low);
    dot<1>(table.coefficients + (row + 1) * table.taps, &at, table.taps, &high);
    y[m] = fma(rest, high - low, low);
    walk.next(index, fraction);
  }
  return m;
}

template <class U>
AFFEKT_INLINE U halved(const float* taps, std::size_t pairs, const float* even, const float* odd) noexcept {
  U s = load<U>(even) * splat<U>(0.5f);
  const float* before = odd + pairs - 1;
  const float* after = odd + pairs;
  for (std::size_t k = 0; k < pairs; ++k)
    s = fma(splat<U>(taps[k]), load<U>(before - k) + load<U>(after + k), s);
  return s;
}

void halve(const float* taps, std::size_t pairs, const float* even, const float* odd, std::size_t n,
           float* y) noexcept {
  constexpr std::size_t several = 4;  // sums at once, to hide the wait for each
  std::size_t i = 0;
  for (; i + several * L <= n; i += several * L) {
    V s[several];
    for (std::size_t j = 0; j < several; ++j) s[j] = load<V>(even + i + j * L) * splat<V>(0.5f);
    const float* before = odd + i + pairs - 1;
    const float* after = odd + i + pairs;
    for (std::size_t k = 0; k < pairs; ++k) {
      const V c = splat<V>(taps[k]);
      for (std::size_t j = 0; j < several; ++j)
        s[j] = fma(c, load<V>(before + j * L - k) + load<V>(after + j * L + k), s[j]);
    }
    for (std::size_t j = 0; j < several; ++j) store(y + i + j * L, s[j]);
  }
  for (; i + L <= n; i += L) store(y + i, halved<V>(taps, pairs, even + i, odd + i));
  for (; i < n; ++i) y[i] = halved<float>(taps, pairs, even + i, odd + i);
}

template <class U, class S>
AFFEKT_INLINE U samples(const S* x) noexcept {
  constexpr int n = static_cast<int>(sizeof(U) / sizeof(float));
  if constexpr (std::is_same_v<S, float>) {
    return load<U>(x);
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

const ResamplerKernels resampler{phases, halve, mix<float>, mix<std::int16_t>, deal};

}  // namespace affekt::AFFEKT_ISA
