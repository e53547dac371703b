#pragma once

#include <cstddef>

namespace affekt {

/// Expectation of the median of n values of an exponential distribution of mean 1, the even n taken as n - 1
/// (Allen, Anderson, Brady, Brown, Creighton 2012, eq. B12).
double median_bias(std::size_t n);

}  // namespace affekt
