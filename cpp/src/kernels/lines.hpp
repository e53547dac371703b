// Memory that a kernel is told of before it is needed.
#pragma once

#include <cstddef>

namespace affekt {

/// `bytes` from `at` on; none by default. A kernel that takes Lines asks for them while it works, so that
/// they are near when it is done.
struct Lines {
  const void* at = nullptr;
  std::size_t bytes = 0;
};

/// Asks for Lines one at a time, in between other work: many at once would hold that work up.
class Asking {
 public:
  [[gnu::always_inline]] explicit Asking(const Lines& l) noexcept
      : at_(static_cast<const char*>(l.at)), left_(l.bytes) {}
  [[gnu::always_inline]] void one() noexcept {
    if (left_ == 0) return;
    __builtin_prefetch(at_);
    const std::size_t line = left_ < 64 ? left_ : 64;
    at_ += line;
    left_ -= line;
  }

 private:
  const char* at_;
  std::size_t left_;
};

}  // namespace affekt
