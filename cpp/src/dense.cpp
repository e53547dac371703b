#include "kernels/dense.hpp"

#include <algorithm>

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

}  // namespace affekt::dense
