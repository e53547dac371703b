#include "kernels/causal_conv.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Sums of kFrames (of the weights: kOutputs) x kVectors vectors must fit the registers beside what they are
// made of, and each frame has a pointer of its own. Widths are often multiples of eight.
constexpr int kVectors = 2;
#if defined(__AVX512F__)
constexpr int kFrames = 8, kOutputs = 8;
#elif defined(__aarch64__)
constexpr int kFrames = 8, kOutputs = 8;
#elif defined(__AVX2__)
constexpr int kFrames = 6, kOutputs = 6;
#else
constexpr int kFrames = 4, kOutputs = 4;
#endif

template <class T>
constexpr std::size_t kPanel = kVectors* kLanes<T>;

// Steps of a sequence whose weight gradients are summed before they are added to the rest: their inputs stay
// in the first cache, and sums of sums round less.
constexpr std::size_t kSteps = 192;

template <class V>
AFFEKT_INLINE V load_some(const Element<V>* p, std::size_t n) noexcept {
  constexpr std::size_t L = sizeof(V) / sizeof(Element<V>);
  if (n >= L) return load<V>(p);
  V v{};
  for (std::size_t i = 0; i < n; ++i) v[i] = p[i];
  return v;
}

template <class V>
AFFEKT_INLINE void store_some(Element<V>* p, const V& v, std::size_t n) noexcept {
  constexpr std::size_t L = sizeof(V) / sizeof(Element<V>);
  if (n >= L) return store(p, v);
  for (std::size_t i = 0; i < n; ++i) p[i] = v[i];
}

AFFEKT_INLINE std::size_t left(std::size_t all, std::size_t done) noexcept {
  return all > done ? all - done : 0;
}

/// F frames from `f` on of one panel, whose outputs begin at `lane`.
template <int F, class T>
AFFEKT_INLINE void tile(const ConvRows<T>& conv, std::size_t f, std::size_t lane, const T* weight) noexcept {
  using V = Vec<T>;
  constexpr int N = kVectors;
  constexpr std::size_t L = kLanes<T>;
  const std::size_t in = conv.in, room = conv.out - lane;
  T* const y = conv.y + f * conv.out + lane;
  V sum[F][N];
#pragma GCC unroll 16
  for (int i = 0; i < F; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v)
      sum[i][v] = conv.bias != nullptr ? load<V>(conv.bias + lane + v * L)
                                       : load_some<V>(y + i * conv.out + v * L, left(room, v * L));
  std::size_t t[F];
  for (int i = 0; i < F; ++i) t[i] = (f + i) % conv.time;
  std::ptrdiff_t shift = conv.first;
  for (std::size_t j = 0; j < conv.taps; ++j, shift += conv.step) {
    const T* x[F];
    for (int i = 0; i < F; ++i)  // the unsigned sum is beyond `time` for steps before the sequence, too
      x[i] = t[i] + static_cast<std::size_t>(shift) < conv.time
                 ? conv.x + (f + i + static_cast<std::size_t>(shift)) * in
                 : conv.zeros;
#pragma GCC unroll 4
    for (std::size_t c = 0; c < in; ++c, weight += kPanel<T>) {
      V w[N];
      for (int v = 0; v < N; ++v) w[v] = load<V>(weight + v * L);
      for (int i = 0; i < F; ++i) {
        const V s = splat<V>(x[i][c]);
        for (int v = 0; v < N; ++v) sum[i][v] = fma(w[v], s, sum[i][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < F; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) store_some(y + i * conv.out + v * L, sum[i][v], left(room, v * L));
}

template <int F, class T>
AFFEKT_INLINE void frames(const ConvRows<T>& conv, std::size_t f, std::size_t end, std::size_t lane,
                          const T* weight) noexcept {
  for (; f + F <= end; f += F) tile<F>(conv, f, lane, weight);
  if constexpr (F > 1)
    if (f < end) frames<F - 1>(conv, f, end, lane, weight);
}

template <class T>
void rows(const ConvRows<T>& conv, std::size_t begin, std::size_t n) noexcept {
  const T* weight = conv.weight;
  for (std::size_t lane = 0; lane < conv.out; lane += kPanel<T>) {
    frames<kFrames>(conv, begin, begin + n, lane, weight);
    weight += conv.taps * conv.in * kPanel<T>;
  }
}

/// sums[F][panel] += grad^T x over n steps.
template <int F, class T>
AFFEKT_INLINE void outer(const T* x, const T* grad, std::size_t n, T* sums) noexcept {
  using V = Vec<T>;
  constexpr int N = kVectors;
  constexpr std::size_t L = kLanes<T>;
  V sum[F][N] = {};
#pragma GCC unroll 2
  for (std::size_t t = 0; t < n; ++t, x += kPanel<T>, grad += kOutputs) {
    V row[N];
    for (int v = 0; v < N; ++v) row[v] = load<V>(x + v * L);
    for (int i = 0; i < F; ++i) {
      const V s = splat<V>(grad[i]);
      for (int v = 0; v < N; ++v) sum[i][v] = fma(row[v], s, sum[i][v]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < F; ++i)
#pragma GCC unroll 4
    for (int v = 0; v < N; ++v) {
      T* const to = sums + static_cast<std::size_t>(i) * kPanel<T> + v * L;
      store(to, load<V>(to) + sum[i][v]);
    }
}

/// The same for a strip that is `count` wide.
template <int F, class T>
AFFEKT_INLINE void strip(const T* x, const T* grad, std::size_t n, std::size_t count, T* sums) noexcept {
  if (count == F) return outer<F>(x, grad, n, sums);
  if constexpr (F > 1) strip<F - 1>(x, grad, n, count, sums);
}

template <class T>
void strips(const T* x, std::size_t begin, std::size_t n, std::size_t rows, std::size_t width,
            T* to) noexcept {
  to += begin * kOutputs;
  for (std::size_t c = 0; c < width; c += kOutputs, to += rows * kOutputs) {
    const T* from = x + begin * width + c;
    if (c + kOutputs <= width) {
      for (std::size_t r = 0; r < n; ++r, from += width)
        __builtin_memcpy(to + r * kOutputs, from, kOutputs * sizeof(T));
    } else {
      for (std::size_t r = 0; r < n; ++r, from += width)
        for (std::size_t i = 0; c + i < width; ++i) to[r * kOutputs + i] = from[i];
    }
  }
}

template <class T>
void weights(const ConvWeights<T>& conv, std::size_t panel, std::size_t begin, std::size_t end) noexcept {
  alignas(64) T block[kSteps * kPanel<T>];
  const std::size_t time = conv.time, from = panel * kPanel<T>;
  const std::size_t width = conv.in - from < kPanel<T> ? conv.in - from : kPanel<T>;
  if (width < kPanel<T>) __builtin_memset(block, 0, sizeof(block));
  const std::size_t blocks = (time + kSteps - 1) / kSteps, steps = blocks ? (time + blocks - 1) / blocks : 1;
  T* const sums = conv.sums + panel * conv.taps * conv.out * kPanel<T>;
  for (std::size_t b = 0; b < conv.batch; ++b) {
    for (std::size_t u = 0; u < time; u += steps) {
      const std::size_t n = time - u < steps ? time - u : steps;
      const T* x = conv.x + (b * time + u) * conv.in + from;
      if (width == kPanel<T>) {  // a size that the compiler knows: many rows are under way at once
        for (std::size_t i = 0; i < n; ++i, x += conv.in)
          __builtin_memcpy(block + i * kPanel<T>, x, kPanel<T> * sizeof(T));
      } else {
        for (std::size_t i = 0; i < n; ++i, x += conv.in)
          __builtin_memcpy(block + i * kPanel<T>, x, width * sizeof(T));
      }
      for (std::size_t j = 0; j < conv.taps; ++j) {
        // Step i of the block meets the gradient of step u + i - shift.
        const std::ptrdiff_t to =
            static_cast<std::ptrdiff_t>(u) - conv.first - static_cast<std::ptrdiff_t>(j) * conv.step;
        const std::ptrdiff_t last = static_cast<std::ptrdiff_t>(time) - to;
        const std::size_t lo = to < 0 ? static_cast<std::size_t>(-to) : 0;
        const std::size_t hi =
            last < static_cast<std::ptrdiff_t>(n) ? (last < 0 ? 0 : static_cast<std::size_t>(last)) : n;
        if (lo >= hi) continue;
        const std::size_t row = b * time + static_cast<std::size_t>(to + static_cast<std::ptrdiff_t>(lo));
        for (std::size_t o = begin; o < end; ++o) {
          const std::size_t first = o * kOutputs, room = conv.out - first;
          strip<kOutputs>(block + lo * kPanel<T>, conv.grad + (o * conv.batch * time + row) * kOutputs,
                          hi - lo, room < kOutputs ? room : kOutputs,
                          sums + (j * conv.out + first) * kPanel<T>);
        }
      }
    }
  }
}

/// Runs f<V>(i) over [0, n): whole vectors, then single values.
template <class T, class F>
AFFEKT_INLINE void each(std::size_t n, F&& f) noexcept {
  constexpr std::size_t L = kLanes<T>;
  std::size_t i = 0;
  for (; i + L <= n; i += L) f(i, Vec<T>{});
  for (; i < n; ++i) f(i, T{});
}

template <class V>
AFFEKT_INLINE V rectified(const V& x, Element<V> slope) noexcept {
  // Without a slope nothing is left of -inf either.
  const V below = slope == 0 ? select(x < V{}, V{}, x) : x * splat<V>(slope);
  return select(x > V{}, x, below) + V{};  // -0 + 0 = 0
}

/// One well mixed word per column, from the two words of a row.
template <class W>
AFFEKT_INLINE W hash(W column, std::uint32_t low, std::uint32_t high) noexcept {
  W h = column + low;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = ((h ^ (h >> 13)) + high) * 0xc2b2ae35u;
  return h ^ (h >> 16);
}

template <class T>
void rectify(T* x, std::size_t first_row, std::size_t rows, std::size_t width, T slope,
             const Dropout<T>& dropout) noexcept {
  if (dropout.below == 0) {
    each<T>(rows * width, [&](std::size_t i, auto v) {
      using V = decltype(v);
      store<V>(x + i, rectified(load<V>(x + i), slope));
    });
    return;
  }
  constexpr std::size_t L = kLanes<T>;
  using Words = Vec<std::uint32_t, static_cast<int>(L)>;
  using Signed = std::conditional_t<sizeof(T) == 4, std::int32_t, std::int64_t>;
  Words lanes;
  for (std::size_t i = 0; i < L; ++i) lanes[i] = static_cast<std::uint32_t>(i);
  for (std::size_t r = 0; r < rows; ++r, x += width) {
    std::uint64_t key = dropout.key + (first_row + r) * 0x9e3779b97f4a7c15u;  // splitmix64
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    key ^= key >> 31;
    const auto low = static_cast<std::uint32_t>(key), high = static_cast<std::uint32_t>(key >> 32);
    std::size_t c = 0;
    for (; c + L <= width; c += L) {
      const Words h = hash<Words>(lanes + static_cast<std::uint32_t>(c), low, high);
      const auto drop = convert<Signed>(h < Words{} + dropout.below);
      const Vec<T> kept = rectified(load<Vec<T>>(x + c), slope) * splat<Vec<T>>(dropout.scale);
      store(x + c, select(drop, -Vec<T>{}, kept + Vec<T>{}));
    }
    for (; c < width; ++c) {
      const bool drop = hash(static_cast<std::uint32_t>(c), low, high) < dropout.below;
      x[c] = drop ? -T{} : rectified(x[c], slope) * dropout.scale + T{};
    }
  }
}

template <class T>
void add_rectify(const T* h, T* y, std::size_t n, T slope) noexcept {
  each<T>(n, [&](std::size_t i, auto v) {
    using V = decltype(v);
    store<V>(y + i, rectified(load<V>(y + i) + load<V>(h + i), slope));
  });
}

template <class T>
void gate(const T* grad, const T* y, T* to, std::size_t n, T slope, T scale) noexcept {
  constexpr auto dropped = static_cast<BitsOf<T>>(BitsOf<T>{1} << (8 * sizeof(T) - 1));  // the bits of -0
  each<T>(n, [&](std::size_t i, auto v) {
    using V = decltype(v);
    const V out = load<V>(y + i), g = load<V>(grad + i) * splat<V>(scale);
    const V through = select(out > V{}, g, slope == 0 ? V{} : g * splat<V>(slope));
    store<V>(to + i, select(__builtin_bit_cast(Bits<V>, out) == Bits<V>{} + dropped, V{}, through));
  });
}

template <class T>
void column_sums(const T* x, std::size_t rows, std::size_t width, T* sums) noexcept {
  constexpr std::size_t L = kLanes<T>, N = 4;  // chains of additions side by side
  std::size_t c = 0;
  for (; c + N * L <= width; c += N * L) {
    Vec<T> sum[N] = {};
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t v = 0; v < N; ++v) sum[v] += load<Vec<T>>(x + r * width + c + v * L);
    for (std::size_t v = 0; v < N; ++v) store(sums + c + v * L, sum[v]);
  }
  x += c;
  sums += c;
  each<T>(width - c, [&](std::size_t i, auto v) {
    using V = decltype(v);
    V sum{};
    for (std::size_t r = 0; r < rows; ++r) sum += load<V>(x + r * width + i);
    store<V>(sums + i, sum);
  });
}

template <class T>
constexpr CausalConvKernelsOf<T> kernels{kPanel<T>,  kOutputs,       rows<T>, strips<T>,     weights<T>,
                                         rectify<T>, add_rectify<T>, gate<T>, column_sums<T>};

}  // namespace

const CausalConvKernels causal_conv{kernels<float>, kernels<double>};

}  // namespace affekt::AFFEKT_ISA
