#include "kernels/dense.hpp"

#include <algorithm>
#include <cstring>

namespace affekt::dense {

void pack(const float* weight, std::size_t out, std::size_t in, std::size_t taps, float* packed) {
  for (std::size_t first = 0; first < out; first += panel) {
    const std::size_t width = std::min(panel, padded(out) - first);
    for (std::size_t j = 0; j < taps; ++j)
      for (std::size_t c = 0; c < in; ++c)
        for (std::size_t o = first; o < first + width; ++o)
          *packed++ = o < out ? weight[(o * in + c) * taps + j] : 0.0f;
  }
}

void pack_int8(const std::int8_t* weight, std::size_t out, std::size_t in, std::size_t taps, int zero,
               unsigned char* packed) {
  const auto at = [&](std::size_t o, std::size_t c, std::size_t j) {
    return o < out && c < in ? weight[(o * in + c) * taps + j] : std::int8_t{0};
  };
  for (std::size_t first = 0; first < out; first += panel) {
    const std::size_t end = std::min(first + panel, padded(out));
    for (std::size_t j = 0; j < taps; ++j) {
      for (std::size_t o = first; o < end; ++o, packed += sizeof(std::int32_t)) {
        std::int32_t sum = 0;
        for (std::size_t c = 0; c < in; ++c) sum -= zero * at(o, c, j);
        std::memcpy(packed, &sum, sizeof(sum));
      }
      for (std::size_t group = 0; group < in; group += 4)
        for (std::size_t o = first; o < end; ++o)
          for (std::size_t c = group; c < group + 4; ++c) *packed++ = static_cast<unsigned char>(at(o, c, j));
    }
  }
}

}  // namespace affekt::dense
