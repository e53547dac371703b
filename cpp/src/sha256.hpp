// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace affekt {

class Sha256 {
 public:
  void update(const void* data, std::size_t size) noexcept;
  /// Lower-case hex digest of everything so far; the object is spent afterwards.
  std::string finish();

 private:
  void compress(const unsigned char* chunk) noexcept;

  std::array<std::uint32_t, 8> hash_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> buffer_{};
  std::uint64_t size_ = 0;
};

}  // namespace affekt
