#include "kernels/dense.hpp"

#include "simd_int8.hpp"

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

/// What a tile works on; by value, because a store of a vector may alias whatever lies behind a reference.
template <class Layer, class Row>
struct Call {
  Layer layer;
  const Row* const* rows;
  std::size_t row_step;
  const float* const* identity;
  float* const* y;
};
using FloatCall = Call<DenseLayer, float>;
using Int8Call = Call<Int8Layer, unsigned char>;

/// y = x > 0 ? x : slope * x; keeps a NaN
AFFEKT_INLINE V rectified(const V& x, const float* slope) noexcept {
  return select(x > V{}, x, load<V>(slope) * x);
}

/// N vectors of outputs of frame f, from `lane` on, become its y.
template <int N, class Call>
AFFEKT_INLINE void finish(const Call& call, std::size_t f, std::size_t lane, V (&value)[N]) noexcept {
  const auto& layer = call.layer;
  if (layer.slope) {
#pragma GCC unroll 8  // an index known at run time would send the values through memory
    for (int v = 0; v < N; ++v) value[v] = rectified(value[v], layer.slope + lane + v * L);
  }
  if (call.identity) {
    const float* const identity = call.identity[f] + lane;
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v)
      value[v] = rectified(value[v] + load<V>(identity + v * L), layer.slope_out + lane + v * L);
  }
  float* const y = call.y[f] + lane;
  if (lane + N * L <= layer.out) {
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) store(y + v * L, value[v]);
  } else {
    alignas(64) float values[N * L];
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) store(values + v * L, value[v]);
    for (std::size_t i = 0; lane + i < layer.out; ++i) y[i] = values[i];
  }
}

/// F frames from `f` on and N vectors of outputs from `lane` on, whose weights begin at `weight`, in a panel
/// that is `width` outputs wide.
template <int F, int N>
AFFEKT_INLINE void tile(const FloatCall& call, std::size_t f, std::size_t lane, const float* weight,
                        std::size_t width) noexcept {
  const DenseLayer& layer = call.layer;
  V sum[F][N];
  for (int i = 0; i < F; ++i)
    for (int v = 0; v < N; ++v) sum[i][v] = load<V>(layer.bias + lane + v * L);
  const std::size_t in = layer.in;
  for (std::size_t j = 0; j < layer.taps; ++j) {
    const float* x[F];
    for (int i = 0; i < F; ++i) x[i] = call.rows[j * call.row_step + f + i];
    const auto add = [&](std::size_t c) {
      V w[N];
      for (int v = 0; v < N; ++v) w[v] = load<V>(weight + v * L);
      for (int i = 0; i < F; ++i) {
        const V s = splat<V>(x[i][c]);
        for (int v = 0; v < N; ++v) sum[i][v] = fma(w[v], s, sum[i][v]);
      }
      weight += width;
    };
    std::size_t c = 0;
    for (; c + 4 <= in; c += 4) {
      add(c);
      add(c + 1);
      add(c + 2);
      add(c + 3);
    }
    for (; c < in; ++c) add(c);
  }
#pragma GCC unroll 8  // as above
  for (int i = 0; i < F; ++i) finish(call, f + i, lane, sum[i]);
}

/// The same in integers; `weight` counts in units of four bytes.
template <int F, int N>
AFFEKT_INLINE void tile(const Int8Call& call, std::size_t f, std::size_t lane, const float* weight,
                        std::size_t width) noexcept {
  const Int8Layer& layer = call.layer;
  V sum[F][N] = {};
  const std::size_t groups = (layer.in + 3) / 4;
  for (std::size_t j = 0; j < layer.taps; ++j) {
    const unsigned char* x[F];
    float scale[F];
    Dots dots[F][N];
    for (int i = 0; i < F; ++i) {
      x[i] = call.rows[j * call.row_step + f + i];
      __builtin_memcpy(&scale[i], x[i], sizeof(float));
      x[i] += dense::header;
      for (int v = 0; v < N; ++v) dots[i][v].start(reinterpret_cast<const std::int32_t*>(weight) + v * L);
    }
    weight += width;
#pragma GCC unroll 4
    for (std::size_t g = 0; g < groups; ++g, weight += width) {
      Vec<std::int8_t> w[N];
      for (int v = 0; v < N; ++v)
        w[v] = load<Vec<std::int8_t>>(reinterpret_cast<const std::int8_t*>(weight + v * L));
      for (int i = 0; i < F; ++i) {
        std::uint32_t four;
        __builtin_memcpy(&four, x[i] + 4 * g, sizeof(four));
        for (int v = 0; v < N; ++v) dots[i][v].add(w[v], four);
      }
    }
    for (int i = 0; i < F; ++i)
      for (int v = 0; v < N; ++v) sum[i][v] = fma(dots[i][v].total(), splat<V>(scale[i]), sum[i][v]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < F; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < N; ++v) {
      const std::size_t at = lane + v * L;
      sum[i][v] = fma(sum[i][v], load<V>(layer.scale + at), load<V>(layer.bias + at));
    }
    finish(call, f + i, lane, sum[i]);
  }
}

/// All outputs of one panel, in tiles of N vectors and then of fewer.
template <int F, int N, class Call>
AFFEKT_INLINE void across(const Call& call, std::size_t f, std::size_t first, std::size_t done,
                          const float* weight, std::size_t width) noexcept {
  for (; done + N * L <= width; done += N * L) tile<F, N>(call, f, first + done, weight + done, width);
  if constexpr (N > 1)
    if (done < width) across<F, N / 2>(call, f, first, done, weight, width);
}

template <int F, class Call>
AFFEKT_INLINE void frames(const Call& call, std::size_t f, std::size_t n, std::size_t first,
                          const float* weight, std::size_t width) noexcept {
  constexpr int registers = std::is_same_v<Call, Int8Call> ? sizeof(Dots) / sizeof(V) : 1;  // of a sum
  constexpr int N = (F == 1 ? kStepVectors : kFrameVectors) / registers;
  for (; f + F <= n; f += F) across<F, N>(call, f, first, 0, weight, width);
  if constexpr (F > 1)
    if (f < n) frames<F / 2>(call, f, n, first, weight, width);
}

/// Apart, so that a step does not set up their registers.
template <class Call>
[[gnu::noinline]] void many_frames(const Call& given, std::size_t n, std::size_t first, const float* weight,
                                   std::size_t width) noexcept {
  const Call call = given;
  frames<kFrames>(call, 0, n, first, weight, width);
}

/// One frame across a panel whose width is known to the compiler, as are the strides then.
template <int width, class Call>
[[gnu::noinline]] void one_frame(const Call& given, std::size_t first, const float* weight) noexcept {
  const Call call = given;
  frames<1>(call, 0, 1, first, weight, width);
}

/// All panels, of which each output takes `column` times four bytes.
template <class Call>
AFFEKT_INLINE void panels(const Call& call, std::size_t n, std::size_t column) noexcept {
  const std::size_t padded = (call.layer.out + dense::block - 1) / dense::block * dense::block;
  const float* weight = call.layer.weight;
  for (std::size_t first = 0; first < padded; first += dense::panel) {
    const std::size_t width = padded - first < dense::panel ? padded - first : dense::panel;
    if (n != 1) {
      many_frames(call, n, first, weight, width);
    } else if (width == 64) {
      one_frame<64>(call, first, weight);
    } else if (width == 48) {
      one_frame<48>(call, first, weight);
    } else if (width == 32) {
      one_frame<32>(call, first, weight);
    } else {
      one_frame<16>(call, first, weight);
    }
    weight += column * width;
  }
}

void layer(const DenseLayer& layer, const float* const* rows, std::size_t row_step, std::size_t n,
           const float* const* identity, float* const* y) noexcept {
  panels(FloatCall{layer, rows, row_step, identity, y}, n, layer.taps * layer.in);
}

void int8_layer(const Int8Layer& layer, const unsigned char* const* rows, std::size_t row_step, std::size_t n,
                const float* const* identity, float* const* y) noexcept {
  panels(Int8Call{layer, rows, row_step, identity, y}, n, layer.taps * ((layer.in + 3) / 4 + 1));
}

void int8_row(const float* x, std::size_t in, unsigned char* row) noexcept {
  // Without their signs, floats are in the order of their bits, infinities and then NaN at the end.
  std::int32_t top_bits = 0;
  for (std::size_t c = 0; c < in; ++c) {
    std::int32_t bits;
    __builtin_memcpy(&bits, x + c, sizeof(bits));
    bits &= 0x7fffffff;
    top_bits = bits > top_bits ? bits : top_bits;
  }
  float top;
  __builtin_memcpy(&top, &top_bits, sizeof(top));
  const bool finite = top_bits < 0x7f800000, silent = top < 1e-30f;
  const float scale = !finite ? __builtin_nanf("") : silent ? 0.0f : top / 127.0f;
  const float inverse = !finite || silent ? 0.0f : 127.0f / top;
  __builtin_memcpy(row, &scale, sizeof(scale));
  row += dense::header;
  // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the lowest byte.
  for (std::size_t c = 0; c < in; ++c) {
    const float shifted = x[c] * inverse + 12582912.0f;
    std::uint32_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof(bits));
    row[c] = static_cast<unsigned char>(bits + kInt8Zero);
  }
}

}  // namespace

const DenseKernels dense_kernels{layer, int8_layer, int8_row, kInt8Zero};

}  // namespace affekt::AFFEKT_ISA
