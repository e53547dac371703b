#include "kernels/fft.hpp"

#include "fft_passes.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

template <class T>
void transform(const FftView<T>& plan, T* z) noexcept {
  complex_fft<T>(plan, z);
}

template <class V, class T>
void side_by_side(const RealFftView<T>& plan, T* z, T* work, T* re, T* im) noexcept {
  constexpr std::size_t lanes = sizeof(V) / sizeof(T);
  real_fft<V>(plan, reinterpret_cast<V*>(z), reinterpret_cast<V*>(work), [&](std::size_t k, V r, V i) {
    store<V>(re + k * lanes, r);
    store<V>(im + k * lanes, i);
  });
}

template <class T>
void spectrum(const RealFftView<T>& plan, T* z, T* work, T* re, T* im, std::size_t lanes) noexcept {
  if (lanes == 1) {
    side_by_side<T>(plan, z, work, re, im);
  } else {
    side_by_side<Vec<T>>(plan, z, work, re, im);
  }
}

}  // namespace

const FftKernels fft_kernels{{transform<float>, spectrum<float>, kLanes<float>},
                             {transform<double>, spectrum<double>, kLanes<double>}};

}  // namespace affekt::AFFEKT_ISA
