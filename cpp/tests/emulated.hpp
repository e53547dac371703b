// What the tests of emulated kernels share.
#pragma once

#include <cstddef>

#include "affekt/aligned.hpp"
#include "check.hpp"
#include "types.hpp"

namespace affekt::test {

/// Memory of this many bytes and not one more, full of NaN.
class Workspace {
 public:
  explicit Workspace(gpu::Wide bytes) : bytes_(static_cast<std::size_t>(bytes)), all_(bytes_ + 512, 0xff) {}
  void* data() { return all_.data(); }
  ~Workspace() {
    for (std::size_t i = bytes_; i < all_.size(); ++i) CHECK_EQ(static_cast<int>(all_[i]), 0xff);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

 private:
  std::size_t bytes_;
  affekt::AlignedVector<unsigned char> all_;
};

}  // namespace affekt::test
