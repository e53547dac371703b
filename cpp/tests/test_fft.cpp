// The Fourier transform against the sum of its definition, alone and side by side.
#include "fft.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <vector>

#include "check.hpp"

namespace {

template <class T>
std::vector<T> noise(std::size_t n) {
  std::mt19937 random(static_cast<unsigned>(n));
  std::uniform_real_distribution<double> uniform(-1.0, 1.0);
  std::vector<T> x(n);
  for (T& v : x) v = static_cast<T>(uniform(random));
  return x;
}

// Largest error over the largest bin.
template <class T>
double transform_error(std::size_t n) {
  const affekt::RealFft<T> fft(n);
  const std::size_t bins = fft.view().bins;
  const std::vector<T> x = noise<T>(n);
  std::vector<T> re(bins), im(bins);
  fft.spectrum(x.data(), re.data(), im.data());
  double worst = 0.0, peak = 0.0;
  for (std::size_t k = 0; k < bins; ++k) {
    double r = 0.0, i = 0.0;
    for (std::size_t t = 0; t < n; ++t) {
      const auto [c, s] = affekt::unit_root(static_cast<std::uint64_t>(k) * t, n);
      r += static_cast<double>(x[t]) * c;
      i += static_cast<double>(x[t]) * s;
    }
    worst = std::max(worst, std::hypot(r - static_cast<double>(re[k]), i - static_cast<double>(im[k])));
    peak = std::max(peak, std::hypot(r, i));
  }
  return worst / peak;
}

// Every signal gives the same bits alone and beside others.
template <class T>
bool same_in_company(std::size_t n) {
  const affekt::RealFft<T> fft(n);
  const std::size_t lanes = affekt::RealFft<T>::lanes(), bins = fft.view().bins;
  const std::vector<T> x = noise<T>(n * lanes);
  std::vector<T> re(bins * lanes), im(re), one(n), one_re(bins), one_im(bins);
  fft.spectrum(x.data(), re.data(), im.data(), lanes);
  for (std::size_t l = 0; l < lanes; ++l) {
    for (std::size_t i = 0; i < n; ++i) one[i] = x[i * lanes + l];
    fft.spectrum(one.data(), one_re.data(), one_im.data());
    for (std::size_t k = 0; k < bins; ++k) {
      if (std::memcmp(&one_re[k], &re[k * lanes + l], sizeof(T)) != 0) return false;
      if (std::memcmp(&one_im[k], &im[k * lanes + l], sizeof(T)) != 0) return false;
    }
  }
  return true;
}

void check_length(std::size_t n) {
  CHECK(transform_error<float>(n) < 2e-6);
  CHECK(transform_error<double>(n) < 2e-14);
  CHECK(same_in_company<float>(n));
  CHECK(same_in_company<double>(n));
}

void roots_of_unity() {
  for (const std::uint64_t n : {1, 2, 3, 7, 8, 12, 64, 1000}) {
    for (std::uint64_t k = 0; k < 2 * n; ++k) {
      const auto [c, s] = affekt::unit_root(k, n);
      const double angle = -2.0 * 3.14159265358979323846 * static_cast<double>(k) / static_cast<double>(n);
      CHECK(std::abs(c - std::cos(angle)) < 4e-15);
      CHECK(std::abs(s - std::sin(angle)) < 4e-15);
    }
  }
}

}  // namespace

int main() {
  roots_of_unity();
  for (std::size_t n = 1; n <= 130; ++n) check_length(n);
  for (const std::size_t n :
       {251, 256, 400, 441, 480, 509, 512, 625, 640, 961, 1000, 1009, 1018, 1024, 1536, 2048})
    check_length(n);
  return affekt::test::result();
}
