// The one matrix kernel behind convolutions and linear layers.
//
// Weights are packed [output block of 16][tap][input][16]; the lanes of a vector are output channels, so each
// output is a single chain: bias, then taps, then inputs. The number of frames that share a pass and the
// width of the vectors change only what happens side by side, never that chain; hence equal bits.
#pragma once

#include <cstddef>

#include "affekt/aligned.hpp"

namespace affekt::dense {

#if defined(__AVX512F__)
inline constexpr int lanes = 16;
#elif defined(__AVX__)
inline constexpr int lanes = 8;
#else
inline constexpr int lanes = 4;
#endif
inline constexpr std::size_t block = 16;  // output channels per packed block, whatever the lanes

typedef float Vec __attribute__((vector_size(lanes * sizeof(float)), aligned(4), may_alias));
typedef int VecInt __attribute__((vector_size(lanes * sizeof(int)), aligned(4), may_alias));

inline constexpr std::size_t padded(std::size_t n) { return (n + block - 1) / block * block; }

/// Floats that `pack` writes for a weight of shape (out, in, taps).
inline constexpr std::size_t packed_size(std::size_t out, std::size_t in, std::size_t taps) {
  return padded(out) * in * taps;
}

/// Torch layout (out, in, taps) -> packed; missing output channels become zeros.
inline void pack(const float* weight, std::size_t out, std::size_t in, std::size_t taps, float* packed) {
  for (std::size_t o = 0; o < padded(out); ++o)
    for (std::size_t j = 0; j < taps; ++j)
      for (std::size_t c = 0; c < in; ++c)
        packed[((o / block * taps + j) * in + c) * block + o % block] =
            o < out ? weight[(o * in + c) * taps + j] : 0.0f;
}

/// acc[f][v] = bias + sum over taps and inputs, for F frames and N vectors that start at `lane` of one block.
/// rows[j * row_step + f] points to the input row of tap j and frame f.
template <int F, int N>
[[gnu::always_inline]] inline void accumulate(const float* weight, const float* bias,
                                              const float* const* rows, std::size_t row_step,
                                              std::size_t taps, std::size_t in, Vec (&acc)[F][N]) noexcept {
  for (int f = 0; f < F; ++f)
    for (int v = 0; v < N; ++v) acc[f][v] = *reinterpret_cast<const Vec*>(bias + v * lanes);
  for (std::size_t j = 0; j < taps; ++j) {
    const float* x[F];
    for (int f = 0; f < F; ++f) x[f] = rows[j * row_step + f];
    for (std::size_t c = 0; c < in; ++c, weight += block) {
      Vec w[N];
      for (int v = 0; v < N; ++v) w[v] = *reinterpret_cast<const Vec*>(weight + v * lanes);
      for (int f = 0; f < F; ++f) {
        const float s = x[f][c];
        for (int v = 0; v < N; ++v) acc[f][v] += w[v] * s;
      }
    }
  }
}

/// y = x > 0 ? x : slope * x
[[gnu::always_inline]] inline void rectify(Vec& x, const Vec& slope) noexcept {
  const VecInt positive = x > 0.0f;
  const Vec scaled = slope * x;
  x = reinterpret_cast<const Vec&>(
      static_cast<const VecInt&>((positive & reinterpret_cast<const VecInt&>(x)) |
                                 (~positive & reinterpret_cast<const VecInt&>(scaled))));
}

/// Runs `store(frame, output lane, acc vector)` for every vector of every output of `n` frames.
/// rows[j * row_step + f] as above; `weight` is packed, `bias` is padded to whole blocks.
template <class Store>
[[gnu::always_inline]] inline void apply(const float* weight, const float* bias, const float* const* rows,
                                         std::size_t row_step, std::size_t taps, std::size_t in,
                                         std::size_t out, std::size_t n, const Store& store) noexcept {
  constexpr int whole = static_cast<int>(block) / lanes;  // vectors per block
  constexpr int part = whole > 1 ? whole / 2 : 1;         // so that 4 frames fit the registers
  for (std::size_t o = 0; o < out; o += block) {
    const float* w = weight + o * taps * in;
    std::size_t f = 0;
    for (; f + 4 <= n; f += 4) {
      for (int h = 0; h < whole; h += part) {
        Vec acc[4][part];
        accumulate<4, part>(w + h * lanes, bias + o + h * lanes, rows + f, row_step, taps, in, acc);
        for (int i = 0; i < 4; ++i)
          for (int v = 0; v < part; ++v) store(f + i, o + (h + v) * lanes, acc[i][v]);
      }
    }
    for (; f < n; ++f) {
      Vec acc[1][whole];
      accumulate<1, whole>(w, bias + o, rows + f, row_step, taps, in, acc);
      for (int v = 0; v < whole; ++v) store(f, o + v * lanes, acc[0][v]);
    }
  }
}

}  // namespace affekt::dense
