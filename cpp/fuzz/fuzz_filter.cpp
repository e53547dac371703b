// A recursive filter of any design and samples of any type: an error with a message, or a filter whose stream
// gives the bits of the whole recording, whatever the pushes; forward and backward, a channel in company has
// the bits of the channel alone.
#include "affekt/filter.hpp"
#include "fuzz.hpp"

using affekt::Filter;
using affekt::FilterStream;
using affekt::Start;
using affekt::fuzz::Input;

namespace {

std::vector<affekt::Section> design(Input& input) {
  const double rate = input.ConsumeFloatingPointInRange<double>(-1, 1000);
  const double low = input.ConsumeFloatingPointInRange<double>(-1, 300);
  const double high = input.ConsumeFloatingPointInRange<double>(-1, 500);
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      return affekt::notch(low, high, rate);
    case 1: {
      std::vector<affekt::Section> sections(input.ConsumeIntegralInRange<std::size_t>(0, 4));
      for (auto& s : sections)
        for (double* v : {&s.b0, &s.b1, &s.b2, &s.a1, &s.a2})
          *v = input.ConsumeFloatingPointInRange<double>(-2, 2);
      return sections;
    }
    default:
      return affekt::butterworth(static_cast<affekt::Band>(input.ConsumeIntegralInRange<int>(0, 3)),
                                 input.ConsumeIntegralInRange<int>(-1, 33), low, high, rate);
  }
}

/// Samples of S in, T out.
template <class S, class T>
void run(Input& input, const std::shared_ptr<const Filter>& filter) {
  const auto channels = input.ConsumeIntegralInRange<std::size_t>(1, 20);
  const Start start = input.ConsumeBool() ? Start::zero : Start::settled;
  std::vector<std::vector<S>> x{affekt::fuzz::signal<S>(input, 600)};
  const std::size_t n = x[0].size();
  for (std::size_t c = 1; c < channels; ++c) {
    x.push_back(x[0]);
    std::rotate(x[c].begin(), x[c].begin() + static_cast<std::ptrdiff_t>(n == 0 ? 0 : c * 7 % n), x[c].end());
  }
  std::vector<std::vector<T>> whole(channels, std::vector<T>(n)), pieces = whole;
  std::vector<const S*> from;
  std::vector<T*> to;
  for (std::size_t c = 0; c < channels; ++c) from.push_back(x[c].data()), to.push_back(whole[c].data());
  REQUIRE(filter->causal(from.data(), to.data(), channels, n, start));
  FilterStream stream(filter, channels, start);
  for (int round = 0; round < 2; ++round) {
    stream.reset();
    for (std::size_t at = 0; at < n;) {
      const std::size_t some = std::min(n - at, affekt::fuzz::chunk(input, 300) + 1);
      for (std::size_t c = 0; c < channels; ++c) from[c] = x[c].data() + at, to[c] = pieces[c].data() + at;
      REQUIRE(stream.push(from.data(), to.data(), some));
      at += some;
    }
    REQUIRE(stream.samples() == n);
    for (std::size_t c = 0; c < channels; ++c) REQUIRE(affekt::fuzz::same_bits(whole[c], pieces[c]));
  }
  if constexpr (!std::is_integral_v<S>) {
    // A sample that nothing can use: nothing is taken.
    const S bad = std::numeric_limits<S>::quiet_NaN();
    std::vector<T> out(1);
    std::vector<const S*> bads(channels, &bad);
    std::vector<T*> outs(channels, out.data());
    REQUIRE(!stream.push(bads.data(), outs.data(), 1));
    REQUIRE(stream.samples() == n);
  }
  for (std::size_t c = 0; c < channels; ++c) from[c] = x[c].data(), to[c] = whole[c].data();
  try {
    REQUIRE(filter->zero_phase(from.data(), to.data(), channels, n));
    for (std::size_t c = 0; c < channels; ++c) {
      T* alone = pieces[c].data();
      REQUIRE(filter->zero_phase(&from[c], &alone, 1, n));
      REQUIRE(affekt::fuzz::same_bits(whole[c], pieces[c]));
    }
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(n <= filter->padding() && std::strlen(error.what()) > 10);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input input(data, size);
  std::shared_ptr<const Filter> filter;
  try {
    filter = std::make_shared<const Filter>(design(input));
  } catch (const affekt::InvalidArgument& error) {
    REQUIRE(std::strlen(error.what()) > 10);
    return 0;
  }
  switch (input.ConsumeIntegralInRange<int>(0, 2)) {
    case 0:
      run<float, float>(input, filter);
      break;
    case 1:
      run<double, double>(input, filter);
      break;
    default:
      run<std::int16_t, float>(input, filter);
  }
  return 0;
}
