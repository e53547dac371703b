#include "kernels/contrast.hpp"

#include "simd.hpp"

namespace affekt::AFFEKT_ISA {
namespace {

template <class T>
struct Exp;
template <>
struct Exp<float> {
  using Int = std::int32_t;
  static constexpr float least = -87.3f, log2e = 1.44269504f, magic = 12582912.0f;  // 1.5 * 2^23
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr int bias = 127, mantissa = 23;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln 2 / 2, Chebyshev fit: relative error of exp 1e-8.
  static constexpr float terms[] = {0.0013933652f, 0.008363182f, 0.041666467f, 0.16666576f, 0.5f};
};
template <>
struct Exp<double> {
  using Int = std::int64_t;
  static constexpr double least = -708.0, log2e = 1.4426950408889634,
                          magic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
  static constexpr int bias = 1023, mantissa = 52;
  // Taylor: the next term is below 1e-17.
  static constexpr double terms[] = {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                                     1.0 / 362880.0,     1.0 / 40320.0,     1.0 / 5040.0,     1.0 / 720.0,
                                     1.0 / 120.0,        1.0 / 24.0,        1.0 / 6.0,        0.5};
};

// exp(x) for x <= 0 or a little above, 0 below the normal numbers, NaN for NaN.
template <class T, int L>
AFFEKT_INLINE Vec<T, L> exponential(const Vec<T, L>& x) noexcept {
  using V = Vec<T, L>;
  using E = Exp<T>;
  using Bits = Vec<typename E::Int, L>;
  const V shifted = fma(x, splat<V>(E::log2e), splat<V>(E::magic));
  const V n = shifted - E::magic;
  const V r = fma(n, splat<V>(-E::ln2_low), fma(n, splat<V>(-E::ln2_high), x));
  V q = splat<V>(E::terms[0]);
  for (std::size_t i = 1; i < sizeof(E::terms) / sizeof(T); ++i) q = fma(q, r, splat<V>(E::terms[i]));
  const V mantissa = fma(r * r, q, r) + T{1};
  // The low bits of `shifted` hold n. As a factor, not added to the bits, so that NaN stays NaN.
  Bits bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + typename E::Int{E::bias}) << E::mantissa;
  V power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return select(x < splat<V>(E::least), V{}, mantissa * power);
}

template <class V>
AFFEKT_INLINE V larger(const V& a, const V& b) noexcept {  // NaN in b wins
  return select(a > b, a, b);
}

// Calls f.template operator()<L>(j) over [0, n): whole vectors, then one by one.
template <class T, class F>
AFFEKT_INLINE void along(std::size_t n, F&& f) noexcept {
  constexpr int L = kLanes<T>;
  std::size_t j = 0;
  for (; j + L <= n; j += L) f.template operator()<L>(j);
  for (; j < n; ++j) f.template operator()<1>(j);
}

template <class T>
AFFEKT_INLINE double total(const Vec<T>& v) noexcept {
  double sum = 0;
  for (int l = 0; l < kLanes<T>; ++l) sum += static_cast<double>(v[l]);
  return sum;
}

template <class T>
double dot(const T* a, const T* b, std::size_t n) noexcept {
  constexpr int L = kLanes<double>;
  Vec<double> sum{};
  double rest = 0;
  std::size_t j = 0;
  for (; j + L <= n; j += L)
    sum = fma(__builtin_convertvector(load<Vec<T, L>>(a + j), Vec<double>),
              __builtin_convertvector(load<Vec<T, L>>(b + j), Vec<double>), sum);
  for (; j < n; ++j) rest += static_cast<double>(a[j]) * static_cast<double>(b[j]);
  return total<double>(sum) + rest;
}

template <class T>
void unit(const T* x, std::size_t rows, std::size_t dim, T* to, double* norm) noexcept {
  for (std::size_t i = 0; i < rows; ++i) {
    const T* const from = x + i * dim;
    const double squares = dot(from, from, dim), root = __builtin_sqrt(squares);
    norm[i] = root < 1e-12 ? 1e-12 : root;
    const double factor = 1 / norm[i];
    for (std::size_t j = 0; j < dim; ++j)
      to[i * dim + j] = static_cast<T>(static_cast<double>(from[j]) * factor);
  }
}

// A row's sums go in vectors over stretches of columns and on in double, so that float32 holds at any width.
constexpr std::size_t kStretch = 512;

template <class T, bool Keep, bool Columns>
void bounded_sums_of(T* tile, std::size_t rows, std::size_t cols, T scale, double* row_sum,
                     T* col_sum) noexcept {
  if constexpr (Columns) {
    for (std::size_t j = 0; j < cols; ++j) col_sum[j] = 0;
  }
  for (std::size_t start = 0; start < cols; start += kStretch) {
    const std::size_t n = cols - start < kStretch ? cols - start : kStretch;
    for (std::size_t i = 0; i < rows; ++i) {
      T* const at = tile + i * cols + start;
      Vec<T> sum{};
      T rest = 0;
      along<T>(n, [&]<int L>(std::size_t j) noexcept {
        using V = Vec<T, L>;
        const V e = exponential<T, L>(fma(load<V>(at + j), splat<V>(scale), splat<V>(-scale)));
        if constexpr (Keep) store(at + j, e);
        if constexpr (Columns) store(col_sum + start + j, load<V>(col_sum + start + j) + e);
        if constexpr (L == 1)
          rest += e;
        else
          sum += e;
      });
      row_sum[i] += total<T>(sum) + static_cast<double>(rest);
    }
  }
}

template <class T>
void bounded_sums(T* tile, std::size_t rows, std::size_t cols, T scale, bool keep, double* row_sum,
                  T* col_sum) noexcept {
  if (keep && col_sum != nullptr)
    bounded_sums_of<T, true, true>(tile, rows, cols, scale, row_sum, col_sum);
  else if (keep)
    bounded_sums_of<T, true, false>(tile, rows, cols, scale, row_sum, nullptr);
  else if (col_sum != nullptr)
    bounded_sums_of<T, false, true>(tile, rows, cols, scale, row_sum, col_sum);
  else
    bounded_sums_of<T, false, false>(tile, rows, cols, scale, row_sum, nullptr);
}

template <class T, bool Kept, bool Columns>
void bounded_gradient_of(const T* tile, std::size_t rows, std::size_t cols, T scale, const T* row,
                         const T* col, T* out) noexcept {
  for (std::size_t i = 0; i < rows; ++i) {
    const T* const at = tile + i * cols;
    T* const to = out + i * cols;
    along<T>(cols, [&]<int L>(std::size_t j) noexcept {
      using V = Vec<T, L>;
      V e = load<V>(at + j), factor = splat<V>(row[i]);
      if constexpr (!Kept) e = exponential<T, L>(fma(e, splat<V>(scale), splat<V>(-scale)));
      if constexpr (Columns) factor += load<V>(col + j);
      store(to + j, e * factor);
    });
  }
}

template <class T>
void bounded_gradient(const T* tile, std::size_t rows, std::size_t cols, T scale, bool kept, const T* row,
                      const T* col, T* out) noexcept {
  if (kept && col != nullptr)
    bounded_gradient_of<T, true, true>(tile, rows, cols, scale, row, col, out);
  else if (kept)
    bounded_gradient_of<T, true, false>(tile, rows, cols, scale, row, nullptr, out);
  else if (col != nullptr)
    bounded_gradient_of<T, false, true>(tile, rows, cols, scale, row, col, out);
  else
    bounded_gradient_of<T, false, false>(tile, rows, cols, scale, row, nullptr, out);
}

template <class T>
void free_sums(const T* tile, std::size_t rows, std::size_t cols, T scale, T* row_max, double* row_sum,
               T* col_max, T* col_sum) noexcept {
  constexpr T lowest = -__builtin_inf();
  if (col_max != nullptr) {
    along<T>(cols, [&]<int L>(std::size_t j) noexcept {
      using V = Vec<T, L>;
      V most = load<V>(tile + j) * scale;
      for (std::size_t i = 1; i < rows; ++i) most = larger<V>(most, load<V>(tile + i * cols + j) * scale);
      // A column that is excluded in every row of this tile: exp(-inf - 0) = 0.
      const V about = select(most == splat<V>(lowest), V{}, most);
      V sum{};
      for (std::size_t i = 0; i < rows; ++i)
        sum += exponential<T, L>(load<V>(tile + i * cols + j) * scale - about);
      store(col_max + j, most);
      store(col_sum + j, sum);
    });
  }
  for (std::size_t i = 0; i < rows; ++i) {
    const T* const at = tile + i * cols;
    Vec<T> most = splat<Vec<T>>(row_max[i]);
    T highest = row_max[i];
    along<T>(cols, [&]<int L>(std::size_t j) noexcept {
      using V = Vec<T, L>;
      const V logit = load<V>(at + j) * scale;
      if constexpr (L == 1)
        highest = larger<V>(highest, logit);
      else
        most = larger<V>(most, logit);
    });
    for (int l = 0; l < kLanes<T>; ++l) highest = larger<T>(highest, most[l]);
    if (highest == lowest) continue;
    double sum =
        row_max[i] == lowest ? 0 : row_sum[i] * static_cast<double>(exponential<T, 1>(row_max[i] - highest));
    for (std::size_t start = 0; start < cols; start += kStretch) {
      const std::size_t n = cols - start < kStretch ? cols - start : kStretch;
      Vec<T> part{};
      T rest = 0;
      along<T>(n, [&]<int L>(std::size_t j) noexcept {
        using V = Vec<T, L>;
        const V e = exponential<T, L>(load<V>(at + start + j) * scale - splat<V>(highest));
        if constexpr (L == 1)
          rest += e;
        else
          part += e;
      });
      sum += total<T>(part) + static_cast<double>(rest);
    }
    row_max[i] = highest;
    row_sum[i] = sum;
  }
}

template <class T>
void free_gradient(const T* tile, std::size_t rows, std::size_t cols, T scale, const T* row, const T* col,
                   T* out) noexcept {
  for (std::size_t i = 0; i < rows; ++i) {
    const T* const at = tile + i * cols;
    T* const to = out + i * cols;
    along<T>(cols, [&]<int L>(std::size_t j) noexcept {
      using V = Vec<T, L>;
      const V logit = load<V>(at + j) * scale;
      V g = exponential<T, L>(logit - splat<V>(row[i]));
      if (col != nullptr) g += exponential<T, L>(logit - load<V>(col + j));
      store(to + j, g);
    });
  }
}

template <class T>
void through_unit(T* grad, const T* unit, const double* norm, std::size_t rows, std::size_t dim,
                  double factor, double* dots) noexcept {
  for (std::size_t i = 0; i < rows; ++i) {
    T* const g = grad + i * dim;
    const T* const u = unit + i * dim;
    dots[i] = dot(g, u, dim);
    // A vector below the least norm is only scaled, not normalised.
    const T along_u = static_cast<T>(norm[i] > 1e-12 ? dots[i] : 0), by = static_cast<T>(factor / norm[i]);
    along<T>(dim, [&]<int L>(std::size_t j) noexcept {
      using V = Vec<T, L>;
      store(g + j, fma(splat<V>(-along_u), load<V>(u + j), load<V>(g + j)) * by);
    });
  }
}

}  // namespace

const ContrastKernels contrast{{unit<float>, bounded_sums<float>, bounded_gradient<float>, free_sums<float>,
                                free_gradient<float>, through_unit<float>, dot<float>},
                               {unit<double>, bounded_sums<double>, bounded_gradient<double>,
                                free_sums<double>, free_gradient<double>, through_unit<double>, dot<double>}};

}  // namespace affekt::AFFEKT_ISA
