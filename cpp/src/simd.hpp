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
template <>
struct ElementOf<float> {
  typedef float type;
};
template <>
struct ElementOf<double> {
  typedef double type;
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
}

/// mask ? a : b, lane by lane; mask is the result of a comparison.
template <class V, class M>
AFFEKT_INLINE V select(const M& mask, const V& a, const V& b) noexcept {
  return mask ? a : b;
}

}  // namespace affekt::AFFEKT_ISA
