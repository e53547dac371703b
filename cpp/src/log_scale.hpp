// The unit of a logarithm, as the kernels of logarithm.hpp take it.
#pragma once

namespace affekt {

/// factor * ln(2^e m) = e * (ln2 + rest) + factor * ln(m), where ln2 + rest is factor * ln(2) to twice the
/// digits of T. Factor 1 gives natural logarithms, 1 / ln(10) decimal ones.
template <class T>
struct LogScale {
  T ln2, rest, factor;

  static LogScale of(double factor) {
    const double whole = 0.69314718055994530941723212145817657 * factor;
    const auto high = static_cast<T>(whole);
    return {high, static_cast<T>(whole - static_cast<double>(high)), static_cast<T>(factor)};
  }
};

}  // namespace affekt
