// Vectors of the instruction set that the including file is compiled for; only kernels/*.cpp include this.
//
// GCC's and Clang's vector extension gives + - * / and comparisons; what it lacks is here. `fma` is one
// rounding where the instruction set has it and two where it has not, for scalars as for vectors: the lanes
// of a vector give the bits that the scalar gives.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if !defined(AFFEKT_ISA)
#error "simd.hpp belongs to files that are compiled once per instruction set"
#endif
#define AFFEKT_INLINE [[gnu::always_inline]] inline

namespace affekt::AFFEKT_ISA {

#if defined(__AVX512F__)
inline constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr std::size_t kVectorBytes = 32;
#else
inline constexpr std::size_t kVectorBytes = 16;
#endif

/// Values of type T in the widest vector.
template <class T>
inline constexpr int kLanes = static_cast<int>(kVectorBytes / sizeof(T));

template <class T, int L>
struct VecOf {
  typedef T type __attribute__((vector_size(sizeof(T) * L)));
};
template <class T>
struct VecOf<T, 1> {
  typedef T type;
};
/// L values of type T; T itself for L = 1.
template <class T, int L = kLanes<T>>
using Vec = typename VecOf<T, L>::type;

template <class V>
struct ElementOf {
  typedef std::remove_cvref_t<decltype(std::declval<V>()[0])> type;
};
template <class V>
requires std::is_arithmetic_v<V>
struct ElementOf<V> {
  typedef V type;
};
template <class V>
using Element = typename ElementOf<V>::type;

/// From any address.
template <class V>
AFFEKT_INLINE V load(const Element<V>* p) noexcept {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
AFFEKT_INLINE void store(Element<V>* p, const V& v) noexcept {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <class V>
AFFEKT_INLINE V splat(Element<V> s) noexcept {
  if constexpr (std::is_arithmetic_v<V>) {
    return s;
  } else {
    return s - V{};  // -0.0 stays -0.0
  }
}

/// a * b + c: one rounding where the instruction set has it, else two.
template <class V>
AFFEKT_INLINE V fma(const V& a, const V& b, const V& c) noexcept {
  using T [[maybe_unused]] = Element<V>;
#if defined(__FMA__)
  if constexpr (std::is_same_v<V, float>) return __builtin_fmaf(a, b, c);
  if constexpr (std::is_same_v<V, double>) return __builtin_fma(a, b, c);
  if constexpr (std::is_same_v<T, float> && sizeof(V) == 16)
    return reinterpret_cast<V>(
        _mm_fmadd_ps(reinterpret_cast<__m128>(a), reinterpret_cast<__m128>(b), reinterpret_cast<__m128>(c)));
  if constexpr (std::is_same_v<T, double> && sizeof(V) == 16)
    return reinterpret_cast<V>(_mm_fmadd_pd(reinterpret_cast<__m128d>(a), reinterpret_cast<__m128d>(b),
                                            reinterpret_cast<__m128d>(c)));
  if constexpr (std::is_same_v<T, float> && sizeof(V) == 32)
    return reinterpret_cast<V>(_mm256_fmadd_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b),
                                               reinterpret_cast<__m256>(c)));
  if constexpr (std::is_same_v<T, double> && sizeof(V) == 32)
    return reinterpret_cast<V>(_mm256_fmadd_pd(reinterpret_cast<__m256d>(a), reinterpret_cast<__m256d>(b),
                                               reinterpret_cast<__m256d>(c)));
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float> && sizeof(V) == 64)
    return reinterpret_cast<V>(_mm512_fmadd_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b),
                                               reinterpret_cast<__m512>(c)));
  if constexpr (std::is_same_v<T, double> && sizeof(V) == 64)
    return reinterpret_cast<V>(_mm512_fmadd_pd(reinterpret_cast<__m512d>(a), reinterpret_cast<__m512d>(b),
                                               reinterpret_cast<__m512d>(c)));
#endif
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<V, float>) return __builtin_fmaf(a, b, c);
  if constexpr (std::is_same_v<V, double>) return __builtin_fma(a, b, c);
  if constexpr (std::is_same_v<T, float> && sizeof(V) == 16)
    return reinterpret_cast<V>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a),
                                         reinterpret_cast<float32x4_t>(b)));
  if constexpr (std::is_same_v<T, double> && sizeof(V) == 16)
    return reinterpret_cast<V>(vfmaq_f64(reinterpret_cast<float64x2_t>(c), reinterpret_cast<float64x2_t>(a),
                                         reinterpret_cast<float64x2_t>(b)));
#else
  return a * b + c;
#endif
#if defined(__FMA__) || defined(__aarch64__)
  if constexpr (!std::is_arithmetic_v<V>) {  // wider than a register
    V r{};
    for (std::size_t i = 0; i < sizeof(V) / sizeof(T); ++i) r[i] = fma(T{a[i]}, T{b[i]}, T{c[i]});
    return r;
  }
#endif
}

/// Whether fma rounds once.
#if defined(__FMA__) || defined(__aarch64__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif

/// mask ? a : b, lane by lane; mask is the result of a comparison.
template <class V, class M>
AFFEKT_INLINE V select(const M& mask, const V& a, const V& b) noexcept {
  return mask ? a : b;
}

template <class V, std::size_t... I>
AFFEKT_INLINE V delayed_lanes(const V& v, std::index_sequence<I...>) noexcept {
  return __builtin_shufflevector(v, v, (I == 0 ? 0 : static_cast<int>(I) - 1)...);
}
/// Lane i takes the value of lane i - 1; the first keeps its own.
template <class V>
AFFEKT_INLINE V delayed(const V& v) noexcept {
  return delayed_lanes(v, std::make_index_sequence<sizeof(V) / sizeof(Element<V>)>());
}

/// Sum of the lanes, half onto half.
template <class V>
AFFEKT_INLINE Element<V> sum_lanes(const V& v) noexcept {
  constexpr std::size_t lanes = sizeof(V) / sizeof(Element<V>);
  if constexpr (lanes == 2) {
    return v[0] + v[1];
  } else {
    Vec<Element<V>, lanes / 2> low, high;
    __builtin_memcpy(&low, &v, sizeof(low));
    __builtin_memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return sum_lanes(decltype(low)(low + high));
  }
}

/// Unsigned integers of the size of T.
template <class T>
using BitsOf = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
/// The lanes of a vector, or a scalar, as unsigned integers.
template <class V>
using Bits = Vec<BitsOf<Element<V>>, static_cast<int>(sizeof(V) / sizeof(Element<V>))>;

/// Values of T in 128 bits, the blocks within which the shuffles below stay.
template <class T>
inline constexpr int kBlock = static_cast<int>(16 / sizeof(T));

/// Out of each block of a and b, in turns: their halves `half` (0 or 1) interleaved in runs of `run` values.
template <int half, int run, class V, std::size_t... I>
AFFEKT_INLINE V zip_blocks(const V& a, const V& b, std::index_sequence<I...>) noexcept {
  constexpr std::size_t block = kBlock<Element<V>>, lanes = sizeof...(I);
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(I / block * block + I / run % 2 * lanes + I % block / (2 * run) * run + I % run +
                        half * (block / 2)))...);
}

/// Transposes the blocks of kBlock vectors: value j of a block of x[i] and value i of that block of x[j]
/// change places.
template <class V>
AFFEKT_INLINE void transpose_blocks(V* x) noexcept {
  constexpr auto lanes = std::make_index_sequence<sizeof(V) / sizeof(Element<V>)>();
  if constexpr (kBlock<Element<V>> == 2) {
    const V a = zip_blocks<0, 1>(x[0], x[1], lanes), b = zip_blocks<1, 1>(x[0], x[1], lanes);
    x[0] = a;
    x[1] = b;
  } else {
    const V a = zip_blocks<0, 1>(x[0], x[1], lanes), b = zip_blocks<1, 1>(x[0], x[1], lanes);
    const V c = zip_blocks<0, 1>(x[2], x[3], lanes), d = zip_blocks<1, 1>(x[2], x[3], lanes);
    x[0] = zip_blocks<0, 2>(a, c, lanes);
    x[1] = zip_blocks<1, 2>(a, c, lanes);
    x[2] = zip_blocks<0, 2>(b, d, lanes);
    x[3] = zip_blocks<1, 2>(b, d, lanes);
  }
}

/// Each lane as a T.
template <class T, class V>
AFFEKT_INLINE auto convert(const V& v) noexcept {
  if constexpr (std::is_arithmetic_v<V>) {
    return static_cast<T>(v);
  } else {
    return __builtin_convertvector(v, Vec<T, static_cast<int>(sizeof(V) / sizeof(Element<V>))>);
  }
}

/// While it lives, results and operands below the smallest normal number count as zero: a decaying recursion
/// would otherwise crawl through denormals. The work belongs into a function that is not inlined into the
/// scope, because the compiler does not know that arithmetic depends on this.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  AFFEKT_INLINE FlushDenormals() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  AFFEKT_INLINE ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  AFFEKT_INLINE FlushDenormals() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (1ull << 24)));
  }
  AFFEKT_INLINE ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

 private:
  std::uint64_t saved_;
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

/// The even (odd = 0) or the odd blocks of a, then of b.
template <int odd, class V, std::size_t... I>
AFFEKT_INLINE V unzip_blocks(const V& a, const V& b, std::index_sequence<I...>) noexcept {
  constexpr std::size_t block = kBlock<Element<V>>, lanes = sizeof...(I), half = lanes / 2;
  return __builtin_shufflevector(
      a, b,
      (static_cast<int>(I / half * lanes + I % half / block * (2 * block) + odd * block + I % block))...);
}

/// Transposes a square: x holds as many vectors as a vector has values, at least kBlock.
template <class V>
AFFEKT_INLINE void transpose(V* x) noexcept {
  constexpr int lanes = static_cast<int>(sizeof(V) / sizeof(Element<V>)), block = kBlock<Element<V>>;
  constexpr int groups = lanes / block;
  [[maybe_unused]] constexpr auto all = std::make_index_sequence<static_cast<std::size_t>(lanes)>();
  static_assert(groups == 1 || groups == 2 || groups == 4);
  for (int g = 0; g < groups; ++g) transpose_blocks(x + g * block);
  // Now block h of x[g * block + i] belongs at block g of x[h * block + i].
  for (int i = 0; i < block; ++i) {
    if constexpr (groups == 2) {
      const V a = x[i], b = x[block + i];
      x[i] = unzip_blocks<0>(a, b, all);
      x[block + i] = unzip_blocks<1>(a, b, all);
    } else if constexpr (groups == 4) {
      const V a = x[i], b = x[block + i], c = x[2 * block + i], d = x[3 * block + i];
      const V even_ab = unzip_blocks<0>(a, b, all), even_cd = unzip_blocks<0>(c, d, all);
      const V odd_ab = unzip_blocks<1>(a, b, all), odd_cd = unzip_blocks<1>(c, d, all);
      x[i] = unzip_blocks<0>(even_ab, even_cd, all);
      x[block + i] = unzip_blocks<0>(odd_ab, odd_cd, all);
      x[2 * block + i] = unzip_blocks<1>(even_ab, even_cd, all);
      x[3 * block + i] = unzip_blocks<1>(odd_ab, odd_cd, all);
    }
  }
}

}  // namespace affekt::AFFEKT_ISA
