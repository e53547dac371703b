#include "kernels/scan.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Without its sign bit a value orders as an integer, and infinities and NaN come last: the largest of a block
// is found without a branch, so that the loop vectorises.
template <class T, class I>
std::size_t first_beyond(const T* x, std::size_t n, T limit) noexcept {
  constexpr std::size_t block = 1024;
  constexpr I no_sign = static_cast<I>(~std::uint64_t{0} >> (65 - 8 * sizeof(T)));
  const I most = __builtin_bit_cast(I, limit);
  for (std::size_t start = 0; start < n; start += block) {
    const std::size_t end = n - start < block ? n : start + block;
    I largest = 0;
    for (std::size_t i = start; i < end; ++i) {
      const I bits = __builtin_bit_cast(I, x[i]) & no_sign;
      largest = bits > largest ? bits : largest;
    }
    if (largest <= most) continue;
    for (std::size_t i = start; i < end; ++i) {
      if ((__builtin_bit_cast(I, x[i]) & no_sign) > most) return i;
    }
  }
  return n;
}

}  // namespace

const ScanKernels scan{first_beyond<float, std::int32_t>, first_beyond<double, std::int64_t>};

}  // namespace affekt::AFFEKT_ISA
