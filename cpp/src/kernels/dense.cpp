#include "kernels/dense.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

using V = Vec<float>;
constexpr int L = kLanes<float>;

// Accumulators of one frame hide the latency of fma; those of several frames share each load of a weight and
// must fit the registers: 32 with AVX-512 and NEON, else 16.
#if defined(__AVX512F__)
constexpr int kStepVectors = 4, kFrames = 8, kFrameVectors = 2;
#elif defined(__aarch64__)
constexpr int kStepVectors = 8, kFrames = 8, kFrameVectors = 2;
#else
constexpr int kStepVectors = 8, kFrames = 4, kFrameVectors = 2;
#endif

struct Call {
  const DenseLayer& layer;
  const float* const* rows;
  std::size_t row_step;
  const float* const* identity;
  float* const* y;
};

/// y = x > 0 ? x : slope * x; keeps a NaN
AFFEKT_INLINE V rectified(const V& x, const float* slope) noexcept {
  return select(x > V{}, x, load<V>(slope) * x);
}

AFFEKT_INLINE void finish(const Call& call, std::size_t f, std::size_t lane, V value) noexcept {
  const DenseLayer& layer = call.layer;
  if (layer.slope) value = rectified(value, layer.slope + lane);
  if (call.identity) value = rectified(value + load<V>(call.identity[f] + lane), layer.slope_out + lane);
  float* const y = call.y[f] + lane;
  if (lane + L <= layer.out) return store(y, value);
  for (std::size_t i = 0; lane + i < layer.out; ++i) y[i] = value[i];
}

/// F frames from `f` on and N vectors of outputs from `lane` on, whose weights begin at `weight`, in a panel
/// that is `width` outputs wide.
template <int F, int N>
AFFEKT_INLINE void tile(const Call& call, std::size_t f, std::size_t lane, const float* weight,
                        std::size_t width) noexcept {
  const DenseLayer& layer = call.layer;
  V sum[F][N];
  for (int i = 0; i < F; ++i)
    for (int v = 0; v < N; ++v) sum[i][v] = load<V>(layer.bias + lane + v * L);
  const std::size_t in = layer.in;
  for (std::size_t j = 0; j < layer.taps; ++j) {
    const float* x[F];
    for (int i = 0; i < F; ++i) x[i] = call.rows[j * call.row_step + f + i];
#pragma GCC unroll 4
    for (std::size_t c = 0; c < in; ++c, weight += width) {
      V w[N];
      for (int v = 0; v < N; ++v) w[v] = load<V>(weight + v * L);
      for (int i = 0; i < F; ++i) {
        const V s = splat<V>(x[i][c]);
        for (int v = 0; v < N; ++v) sum[i][v] = fma(w[v], s, sum[i][v]);
      }
    }
  }
#pragma GCC unroll 8  // an index known at run time would send the sums through memory
  for (int i = 0; i < F; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) finish(call, f + i, lane + v * L, sum[i][v]);
}

/// All outputs of one panel, in tiles of N vectors and then of fewer.
template <int F, int N>
AFFEKT_INLINE void across(const Call& call, std::size_t f, std::size_t first, std::size_t done,
                          const float* weight, std::size_t width) noexcept {
  for (; done + N * L <= width; done += N * L) tile<F, N>(call, f, first + done, weight + done, width);
  if constexpr (N > 1)
    if (done < width) across<F, N / 2>(call, f, first, done, weight, width);
}

template <int F>
AFFEKT_INLINE void frames(const Call& call, std::size_t f, std::size_t n, std::size_t first,
                          const float* weight, std::size_t width) noexcept {
  constexpr int N = F == 1 ? kStepVectors : kFrameVectors;
  for (; f + F <= n; f += F) across<F, N>(call, f, first, 0, weight, width);
  if constexpr (F > 1)
    if (f < n) frames<F / 2>(call, f, n, first, weight, width);
}

void layer(const DenseLayer& layer, const float* const* rows, std::size_t row_step, std::size_t n,
           const float* const* identity, float* const* y) noexcept {
  const Call call{layer, rows, row_step, identity, y};
  const std::size_t padded = (layer.out + dense::block - 1) / dense::block * dense::block;
  const float* weight = layer.weight;
  for (std::size_t first = 0; first < padded; first += dense::panel) {
    const std::size_t width = padded - first < dense::panel ? padded - first : dense::panel;
    frames<kFrames>(call, 0, n, first, weight, width);
    weight += layer.taps * layer.in * width;
  }
}

}  // namespace

const DenseKernels dense_kernels{layer};

}  // namespace affekt::AFFEKT_ISA
