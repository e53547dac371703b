// Logarithms over a value type, for kernels/*.cpp: within 2 units in the last place of the exact value, the
// same bits for a scalar and for a lane.
#pragma once

#include <limits>

#include "log_scale.hpp"
#include "simd.hpp"

namespace affekt::AFFEKT_ISA {

/// scale.factor * ln(x) for normal positive x.
///
/// x = 2^e m with m in [sqrt(1/2), sqrt(2)); ln(1 + f) for f = m - 1 is a minimax polynomial: in f for float,
/// in (f / (2 + f))^2 for double.
template <class V>
AFFEKT_INLINE V log_normal(const V& x, const LogScale<Element<V>>& scale) noexcept {
  using T = Element<V>;
  using U = BitsOf<T>;
  constexpr bool single = sizeof(T) == 4;
  constexpr int digits = std::numeric_limits<T>::digits - 1;
  constexpr U root_half = single ? U(0x3f3504f3u) : U(0x3fe6a09e667f3bcdull);
  constexpr U one = single ? U(0x3f800000u) : U(0x3ff0000000000000ull);
  constexpr U magic = single ? U(0x4b000000u) : U(0x4330000000000000ull);  // 2^digits
  constexpr T offset = single ? T(8388608 + 127) : T(4503599627370496.0 + 1023);
  const Bits<V> bits = __builtin_bit_cast(Bits<V>, x);
  const Bits<V> shifted = bits - root_half + one;
  const Bits<V> exponent = shifted >> digits;
  const V e = __builtin_bit_cast(V, Bits<V>(exponent | magic)) - splat<V>(offset);
  const V f = __builtin_bit_cast(V, Bits<V>(bits - (exponent << digits) + one)) - splat<V>(T(1));
  const auto horner = [](const V& at, auto... c) noexcept {
    const T all[] = {static_cast<T>(c)...};
    V p = splat<V>(all[0]);
    for (std::size_t i = 1; i < sizeof...(c); ++i) p = fma<V>(p, at, splat<V>(all[i]));
    return p;
  };
  V ln;
  const V half_square = f * f * T(0.5);
  if constexpr (single) {
    const V p = horner(f, -0.0763450292016, 0.127615773485, -0.131601804621, 0.142017579979, -0.166233575354,
                       0.200012268731, -0.250008210285, 0.333333317078);
    ln = f + fma<V>(f * f * f, p, -half_square);
  } else {
    const V s = f / (f + T(2));
    const V z = s * s;
    const V p = horner(z, 0.07397974873232207314813, 0.07657025269738050244795, 0.0909178216350342207174,
                       0.1111109928657886084983, 0.142857143711940062246, 0.1999999999970733787332,
                       0.3333333333333367206425);
    ln = f - (half_square - s * (half_square + (z + z) * p));
  }
  const V rest = fma<V>(e, splat<V>(scale.rest), ln * scale.factor);
  return fma<V>(e, splat<V>(scale.ln2), rest);
}

/// scale.factor * ln(x), factor > 0, for every x: -inf at 0, inf at inf, NaN below 0 and at NaN; denormals
/// count.
template <class V>
AFFEKT_INLINE V log_any(const V& x, const LogScale<Element<V>>& scale) noexcept {
  using T = Element<V>;
  constexpr T up = sizeof(T) == 4 ? T(33554432.0) : T(18014398509481984.0);  // 2^25, 2^54
  constexpr T steps = sizeof(T) == 4 ? T(25) : T(54);
  constexpr T infinity = std::numeric_limits<T>::infinity();
  constexpr T least = std::numeric_limits<T>::min(), nan = std::numeric_limits<T>::quiet_NaN();
  const auto small = x < splat<V>(least);
  const V y = log_normal<V>(select<V>(small, x * up, x), scale);
  V out = select<V>(small, y - steps * (scale.ln2 + scale.rest), y);
  out = select<V>(x == splat<V>(infinity), x, out);
  out = select<V>(x == splat<V>(T(0)), splat<V>(-infinity), out);
  return select<V>(!(x >= splat<V>(T(0))), splat<V>(nan), out);
}

}  // namespace affekt::AFFEKT_ISA
