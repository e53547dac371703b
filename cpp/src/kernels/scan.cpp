#include "kernels/scan.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

// Whole blocks are tested without a branch, so that the loop vectorises.
template <class T>
std::size_t first_beyond(const T* x, std::size_t n, T limit) noexcept {
  constexpr std::size_t block = 1024;
  for (std::size_t start = 0; start < n; start += block) {
    const std::size_t end = n - start < block ? n : start + block;
    int bad = 0;
    for (std::size_t i = start; i < end; ++i) bad |= !(x[i] <= limit) | !(x[i] >= -limit);
    if (bad == 0) continue;
    for (std::size_t i = start; i < end; ++i) {
      if (!(x[i] <= limit) || !(x[i] >= -limit)) return i;
    }
  }
  return n;
}

}  // namespace

const ScanKernels scan{first_beyond<float>, first_beyond<double>};

}  // namespace affekt::AFFEKT_ISA
