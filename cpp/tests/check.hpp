// The test macros: a failed check prints where and what, and the test's main() returns
// affekt::test::result().
#pragma once

#include <cstdio>
#include <exception>
#include <string>

namespace affekt::test {

inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const std::string& what) {
  ++failures();
  std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
}

// What main() returns: 0 when every check held.
inline int result() {
  if (failures() != 0) std::fprintf(stderr, "%d check(s) failed\n", failures());
  return failures() == 0 ? 0 : 1;
}

}  // namespace affekt::test

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) affekt::test::fail(__FILE__, __LINE__, "failed: " #condition); \
  } while (false)

#define CHECK_EQ(a, b)                                                                          \
  do {                                                                                          \
    const auto& check_a_ = (a);                                                                 \
    const auto& check_b_ = (b);                                                                 \
    if (!(check_a_ == check_b_)) affekt::test::fail(__FILE__, __LINE__, "differ: " #a ", " #b); \
  } while (false)

#define CHECK_NEAR(a, b, tolerance)                                                                       \
  do {                                                                                                    \
    const double check_a_ = (a), check_b_ = (b), check_d_ = check_a_ - check_b_;                          \
    if (!(check_d_ <= (tolerance) && -check_d_ <= (tolerance)))                                           \
      affekt::test::fail(__FILE__, __LINE__,                                                              \
                         #a " = " + std::to_string(check_a_) + ", " #b " = " + std::to_string(check_b_)); \
  } while (false)

// The expression must throw `type`, and its message must contain `text`.
#define CHECK_THROWS(expression, type, text)                                                         \
  do {                                                                                               \
    bool check_thrown_ = false;                                                                      \
    try {                                                                                            \
      (void)(expression);                                                                            \
    } catch (const type& error) {                                                                    \
      check_thrown_ = true;                                                                          \
      if (std::string(error.what()).find(text) == std::string::npos)                                 \
        affekt::test::fail(__FILE__, __LINE__,                                                       \
                           std::string("message lacks '") + (text) + "': " + error.what());          \
    }                                                                                                \
    if (!check_thrown_) affekt::test::fail(__FILE__, __LINE__, #expression " did not throw " #type); \
  } while (false)
