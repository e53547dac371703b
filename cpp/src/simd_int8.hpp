// Products of int8 weights and int8 inputs, summed in int32 without rounding or saturation, so that every
// instruction set gives the same integers; only kernels/*.cpp include this.
#pragma once

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {

/// kLanes<int> sums of four products each: lane o gains sum_i w[4 o + i] x[i] with w in [-127, 127]. The four
/// inputs come as bytes x[i] + kInt8Zero, x in [-127, 127]; start from -kInt8Zero * (sum of the lane's w).
#if defined(__AVX512F__)

// The unsigned operand of vpdpbusd is the input. The CPU may lack the instruction although it has the rest of
// this level: see int8_kernels() in tcn.cpp. Inline assembly, as the flags of the level do not name it.
inline constexpr int kInt8Zero = 128;
class Dots {
 public:
  AFFEKT_INLINE void start(const std::int32_t* p) noexcept { sum_ = load<Vec<std::int32_t>>(p); }
  AFFEKT_INLINE void add(const Vec<std::int8_t>& w, std::uint32_t x) noexcept {
    const Vec<std::uint32_t> inputs = splat<Vec<std::uint32_t>>(x);
    asm("vpdpbusd %2, %1, %0" : "+v"(sum_) : "v"(inputs), "v"(w));
  }
  AFFEKT_INLINE Vec<float> total() const noexcept { return __builtin_convertvector(sum_, Vec<float>); }

 private:
  Vec<std::int32_t> sum_;
};

#elif defined(__AVX2__)

// |x| times w with the sign of x: a pair is at most 2 * 127 * 127 < 2^15, so vpmaddubsw cannot saturate.
inline constexpr int kInt8Zero = 0;
class Dots {
 public:
  AFFEKT_INLINE void start(const std::int32_t* p) noexcept { sum_ = load<Vec<std::int32_t>>(p); }
  AFFEKT_INLINE void add(const Vec<std::int8_t>& w, std::uint32_t x) noexcept {
    const __m256i inputs = _mm256_set1_epi32(static_cast<int>(x));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(inputs),
                                               _mm256_sign_epi8(reinterpret_cast<const __m256i&>(w), inputs));
    sum_ += reinterpret_cast<Vec<std::int32_t>>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  AFFEKT_INLINE Vec<float> total() const noexcept { return __builtin_convertvector(sum_, Vec<float>); }

 private:
  Vec<std::int32_t> sum_;
};

#else

// Two partial sums per lane, in two vectors.
inline constexpr int kInt8Zero = 0;
class Dots {
 public:
  AFFEKT_INLINE void start(const std::int32_t* p) noexcept {
    const auto first = load<Vec<std::int32_t>>(p);
    low_ = Vec<std::int32_t>{first[0], 0, first[1], 0};
    high_ = Vec<std::int32_t>{first[2], 0, first[3], 0};
  }
  AFFEKT_INLINE void add(const Vec<std::int8_t>& w, std::uint32_t x) noexcept {
#if defined(__x86_64__)
    const auto widen = [](__m128i twice) { return _mm_srai_epi16(twice, 8); };
    const __m128i bytes = reinterpret_cast<__m128i>(w), inputs = _mm_set1_epi32(static_cast<int>(x));
    const __m128i x16 = widen(_mm_unpacklo_epi8(inputs, inputs));
    low_ += reinterpret_cast<Vec<std::int32_t>>(_mm_madd_epi16(widen(_mm_unpacklo_epi8(bytes, bytes)), x16));
    high_ += reinterpret_cast<Vec<std::int32_t>>(_mm_madd_epi16(widen(_mm_unpackhi_epi8(bytes, bytes)), x16));
#elif defined(__aarch64__)
    const int8x16_t bytes = reinterpret_cast<int8x16_t>(w);
    const int8x8_t inputs = vreinterpret_s8_u32(vdup_n_u32(x));
    low_ = reinterpret_cast<Vec<std::int32_t>>(
        vpadalq_s16(reinterpret_cast<int32x4_t>(low_), vmull_s8(vget_low_s8(bytes), inputs)));
    high_ = reinterpret_cast<Vec<std::int32_t>>(
        vpadalq_s16(reinterpret_cast<int32x4_t>(high_), vmull_s8(vget_high_s8(bytes), inputs)));
#else
    std::int8_t inputs[4];
    __builtin_memcpy(inputs, &x, 4);
    for (int i = 0; i < 8; ++i) {
      low_[i / 2] += w[i] * inputs[i % 4];
      high_[i / 2] += w[8 + i] * inputs[i % 4];
    }
#endif
  }
  AFFEKT_INLINE Vec<float> total() const noexcept {
    const Vec<std::int32_t> sum =
        __builtin_shufflevector(low_, high_, 0, 2, 4, 6) + __builtin_shufflevector(low_, high_, 1, 3, 5, 7);
    return __builtin_convertvector(sum, Vec<float>);
  }

 private:
  Vec<std::int32_t> low_, high_;
};

#endif

}  // namespace affekt::AFFEKT_ISA
