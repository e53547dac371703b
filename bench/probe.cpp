// What this machine can do at best, for the derived bounds of the table: compiled and called by probe.py.
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Best rate over many short bursts, since other jobs share the machine.
template <class Burst>
double best(double seconds, double work, Burst burst) {
  double rate = 0;
  for (const double end = now() + seconds; now() < end;) {
    const double start = now();
    burst();
    const double took = now() - start;
    if (took > 0 && work / took > rate) rate = work / took;
  }
  return rate;
}

// Twelve independent chains hide the latency of a fused multiply-add (4 or 5 cycles, two units).
template <class T>
double fused(double seconds) {
  typedef T V __attribute__((vector_size(kBytes)));
  constexpr int chains = 12, repeats = 20000;
  volatile T factor = T(0.999), term = T(1e-3);
  const V a = factor - V{}, b = term - V{};
  V v[chains] = {};
  const double rate = best(seconds, 2.0 * chains * repeats * (kBytes / sizeof(T)), [&] {
    V s[chains];
    for (int j = 0; j < chains; ++j) s[j] = v[j];
    for (int i = 0; i < repeats; ++i) {
#pragma GCC unroll 12
      for (int j = 0; j < chains; ++j) s[j] = s[j] * a + b;
    }
    for (int j = 0; j < chains; ++j) v[j] = s[j];
  });
  volatile T sink = 0;
  for (int j = 0; j < chains; ++j) sink = sink + v[j][0];
  return rate;
}

}  // namespace

extern "C" {

double float32_rate(double seconds) { return fused<float>(seconds); }
double float64_rate(double seconds) { return fused<double>(seconds); }

// Operations of 8-bit dot products (a multiply and an add each); 0 where this build has no instruction for
// it.
double int8_rate(double seconds) {
#if defined(__AVX512VNNI__)
  constexpr int chains = 12, repeats = 20000;
  volatile int one = 0x01010101;
  const __m512i a = _mm512_set1_epi32(one), b = _mm512_set1_epi32(one);
  __m512i v[chains];
  for (auto& x : v) x = _mm512_setzero_si512();
  const double rate = best(seconds, 2.0 * 64 * chains * repeats, [&] {
    __m512i s[chains];
    for (int j = 0; j < chains; ++j) s[j] = v[j];
    for (int i = 0; i < repeats; ++i) {
#pragma GCC unroll 12
      for (int j = 0; j < chains; ++j) s[j] = _mm512_dpbusd_epi32(s[j], a, b);
    }
    for (int j = 0; j < chains; ++j) v[j] = s[j];
  });
  volatile int sink = 0;
  for (auto& x : v) sink = sink + _mm512_reduce_add_epi32(x);
  return rate;
#else
  (void)seconds;
  return 0;
#endif
}

// Bytes per second of reading `size` bytes again and again, or of copying half of them to the other half
// (bytes read and bytes written both count), whichever is more.
double byte_rate(std::size_t size, double seconds) {
  typedef int V __attribute__((vector_size(kBytes)));
  size = (size + 1023) / 1024 * 1024;
  char* data = static_cast<char*>(std::aligned_alloc(1024, size));
  if (!data) return 0;
  std::memset(data, 1, size);
  const std::size_t passes = size < (1u << 20) ? (1u << 20) / size : 1;
  V sum[8] = {};
  const double read = best(seconds / 2, double(size) * passes, [&] {
    for (std::size_t p = 0; p < passes; ++p) {
      V s[8];
      for (int j = 0; j < 8; ++j) s[j] = sum[j];
      const V* x = reinterpret_cast<const V*>(data);
      for (std::size_t i = 0; i < size / kBytes; i += 8) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) s[j] ^= x[i + j];
      }
      for (int j = 0; j < 8; ++j) sum[j] = s[j];
      __asm__ volatile("" ::: "memory");
    }
  });
  volatile int sink = 0;
  for (int j = 0; j < 8; ++j) sink = sink + sum[j][0];
  const double copy = best(seconds / 2, double(size) * passes, [&] {
    for (std::size_t p = 0; p < passes; ++p) {
      std::memcpy(data + size / 2, data, size / 2);
      __asm__ volatile("" ::: "memory");
    }
  });
  std::free(data);
  return read > copy ? read : copy;
}
}
