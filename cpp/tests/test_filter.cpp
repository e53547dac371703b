// Filters: the definition in long double, chunks of any size, no allocation while streaming, bad input.
#include "affekt/filter.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "allocations.hpp"
#include "check.hpp"

using affekt::Band;
using affekt::Filter;
using affekt::FilterStream;
using affekt::InvalidArgument;
using affekt::Section;
using affekt::Start;

namespace {

using Rows = std::vector<std::vector<float>>;

Rows noise(std::size_t rows, std::size_t n) {
  std::mt19937 bits(5);
  std::normal_distribution<float> normal(5000, 20);
  Rows x(rows, std::vector<float>(n));
  for (auto& row : x)
    for (float& v : row) v = normal(bits);
  return x;
}

template <class R>
auto pointers(R& rows) {
  std::vector<decltype(rows[0].data())> at;
  for (auto& row : rows) at.push_back(row.data());
  return at;
}

std::vector<long double> definition(const std::vector<Section>& sections, const std::vector<float>& x) {
  std::vector<long double> v(x.begin(), x.end());
  for (const Section& s : sections) {
    long double x1 = 0, x2 = 0, y1 = 0, y2 = 0;
    for (long double& value : v) {
      const long double y = s.b0 * value + s.b1 * x1 + s.b2 * x2 - s.a1 * y1 - s.a2 * y2;
      x2 = x1, x1 = value, y2 = y1, y1 = y;
      value = y;
    }
  }
  return v;
}

void causal_follows_the_definition() {
  for (const int order : {1, 2, 3, 5, 8}) {
    for (const std::size_t rows : {1, 2, 3, 5, 8, 11}) {
      const auto filter = Filter(affekt::butterworth(Band::bandpass, order, 1, 40, 256));
      const Rows x = noise(rows, 300);
      Rows y(rows, std::vector<float>(300));
      CHECK(filter.causal(pointers(x).data(), pointers(y).data(), rows, 300, Start::zero));
      for (std::size_t r = 0; r < rows; ++r) {
        const auto wanted = definition(filter.sections(), x[r]);
        for (std::size_t t = 0; t < 300; ++t)
          CHECK_NEAR(y[r][t], static_cast<double>(wanted[t]), 1e-3);  // 5000 in float
      }
    }
  }
}

void chunks_give_the_same_bits_without_allocation() {
  const auto filter = std::make_shared<Filter>(affekt::butterworth(Band::bandpass, 4, 1, 40, 256));
  for (const std::size_t channels : {1, 3, 8, 33}) {
    const Rows x = noise(channels, 1000);
    Rows whole(channels, std::vector<float>(1000)), live = whole;
    CHECK(filter->causal(pointers(x).data(), pointers(whole).data(), channels, 1000, Start::settled));
    FilterStream stream(filter, channels, Start::settled);
    auto from = pointers(x);
    auto to = pointers(live);
    const long before = affekt::test::allocations;
    for (std::size_t t = 0, n = 1; t < 1000; t += n, n = n % 37 + 1) {
      if (n > 1000 - t) n = 1000 - t;
      CHECK(stream.push(from.data(), to.data(), n));
      for (std::size_t c = 0; c < channels; ++c) from[c] += n, to[c] += n;
    }
    CHECK_EQ(affekt::test::allocations - before, 0L);
    CHECK_EQ(stream.samples(), 1000u);
    for (std::size_t c = 0; c < channels; ++c)
      CHECK(std::memcmp(whole[c].data(), live[c].data(), 1000 * sizeof(float)) == 0);
  }
}

void zero_phase_is_symmetric_in_time() {
  const Filter filter(affekt::butterworth(Band::lowpass, 4, 0, 20, 256));
  Rows x(3, std::vector<float>(801)), y = x;
  x[0][400] = x[1][400] = x[2][400] = 1;
  CHECK(filter.zero_phase(pointers(x).data(), pointers(y).data(), 3, 801));
  for (std::size_t t = 0; t < 300; ++t) CHECK_NEAR(y[1][400 - t], y[1][400 + t], 1e-7);
  CHECK(y[1][400] > 0.1f);
  CHECK_THROWS((void)filter.zero_phase(pointers(x).data(), pointers(y).data(), 3, filter.padding()),
               InvalidArgument, "samples: expected more than");
}

void unusable_samples_take_nothing() {
  const auto filter = std::make_shared<Filter>(affekt::notch(50, 30, 256));
  FilterStream stream(filter, 2, Start::settled);
  Rows x = noise(2, 10), y = x;
  x[1][7] = std::numeric_limits<float>::quiet_NaN();
  CHECK(!stream.push(pointers(x).data(), pointers(y).data(), 10));
  CHECK_EQ(stream.samples(), 0u);
  CHECK(!filter->causal(pointers(x).data(), pointers(y).data(), 2, 10, Start::zero));
  CHECK(!affekt::average_reference(pointers(x).data(), pointers(y).data(), nullptr, 2, 10));
  const bool bad[2] = {false, true}, all[2] = {true, true};
  CHECK(affekt::average_reference(pointers(x).data(), pointers(y).data(), bad, 2, 10));
  CHECK_EQ(y[0][3], 0.0f);
  CHECK_THROWS((void)affekt::average_reference(pointers(x).data(), pointers(y).data(), all, 2, 10),
               InvalidArgument, "bad: ");
}

void bad_designs_are_named() {
  CHECK_THROWS(affekt::butterworth(Band::bandpass, 4, 40, 1, 256), InvalidArgument, "low: ");
  CHECK_THROWS(affekt::butterworth(Band::lowpass, 0, 0, 10, 256), InvalidArgument, "order: ");
  CHECK_THROWS(affekt::butterworth(Band::lowpass, 4, 0, 10, -1), InvalidArgument, "sample_rate: ");
  CHECK_THROWS(affekt::notch(50, -1, 256), InvalidArgument, "quality: ");
  CHECK_THROWS(Filter({}), InvalidArgument, "sections: ");
  CHECK_THROWS(Filter({Section{1, 0, 0, 0, 1}}), InvalidArgument, "unit circle");
  CHECK_THROWS(FilterStream(nullptr, 1, Start::zero), InvalidArgument, "filter: ");
}

}  // namespace

int main() {
  causal_follows_the_definition();
  chunks_give_the_same_bits_without_allocation();
  zero_phase_is_symmetric_in_time();
  unusable_samples_take_nothing();
  bad_designs_are_named();
  return affekt::test::result();
}
