// What the fuzz targets share: reading choices from the fuzzer's bytes, and the property that fails a run.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

/// Ends the run, which libFuzzer reports with the input, unless `condition` holds.
#define REQUIRE(condition)                                                         \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

namespace affekt::fuzz {

using Input = FuzzedDataProvider;

/// Whether two rows of numbers have the same bits; any NaN equals any NaN.
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](T x, T y) {
           return std::memcmp(&x, &y, sizeof(T)) == 0 || (x != x && y != y);
         });
}

/// A signal of up to `most` values: some are the fuzzer's, the others noise of a level that it chose. Seldom
/// silence, denormals or full scale.
template <class T>
std::vector<T> signal(Input& input, std::size_t most) {
  std::vector<T> x(input.ConsumeIntegralInRange<std::size_t>(0, most));
  std::minstd_rand random(input.ConsumeIntegral<std::uint16_t>() + 1u);
  static const double levels[] = {0, 1e-42, 1e-30, 1e-3, 0.1, 0.5, 1, 1000};
  const double level = levels[input.ConsumeIntegralInRange<int>(0, 7)];
  for (T& v : x) {
    const double uniform = static_cast<double>(random()) / 2147483647.0 * 2 - 1;
    v = std::is_integral_v<T> ? static_cast<T>(uniform * 32767 * std::min(level, 1.0))
                              : static_cast<T>(uniform * level);
  }
  for (int own = input.ConsumeIntegralInRange<int>(0, 8); own > 0 && !x.empty(); --own)
    x[input.ConsumeIntegralInRange<std::size_t>(0, x.size() - 1)] =
        static_cast<T>(input.ConsumeIntegral<std::int16_t>());
  return x;
}

/// Up to `most`, small numbers as likely as large ones.
inline std::size_t chunk(Input& input, std::size_t most) {
  return input.ConsumeIntegralInRange<std::size_t>(
      0, std::min<std::size_t>(most, input.ConsumeBool() ? 9 : most));
}

}  // namespace affekt::fuzz
