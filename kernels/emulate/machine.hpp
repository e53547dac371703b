// A CUDA block on the CPU, for tests: every thread of a block is a fiber, barriers and warp instructions wait
// for all that take part, asynchronous copies land at the wait and not before, and the fragments of ldmatrix
// and mma lie as the PTX ISA (sections 9.7.15 and 9.7.14, "Matrix multiply-accumulate") draws them.
//
// It proves indexing, reductions, the alignment of packs and copies, and the presence of barriers (fibers run
// in several orders); it says nothing about speed, memory models or what hardware does beyond its manual.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define AFFEKT_EMULATE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define AFFEKT_EMULATE_ASAN 1
#endif
#endif
#ifdef AFFEKT_EMULATE_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

#define AFFEKT_DEVICE inline
#define AFFEKT_BOTH inline
#define AFFEKT_UNROLL
#define AFFEKT_UNROLL_BY(n)

namespace affekt::gpu::emulate {

[[noreturn]] inline void stop(const char* what) {
  std::fprintf(stderr, "emulated block: %s\n", what);
  std::abort();
}

inline void require_aligned(const void* at, std::size_t size) {
  if (reinterpret_cast<std::uintptr_t>(at) % size != 0) stop("a pack is not aligned to its size");
}

struct Copy {
  void* to;
  const void* from;
  int valid;
};

enum class State { ready, at_barrier, in_warp, ended };

// Where a fiber, or the scheduler, goes on. swapcontext asks the kernel at every switch; jumps do not, but
// the address sanitizer does not follow them.
struct Point {
  ucontext_t context;
  jmp_buf jump;
  bool begun = false;
};

[[gnu::noinline]] inline void go(Point& from, Point& to) {
#ifdef AFFEKT_EMULATE_ASAN
  swapcontext(&from.context, &to.context);
#else
  if (_setjmp(from.jump) != 0) return;
  if (to.begun) _longjmp(to.jump, 1);
  to.begun = true;
  setcontext(&to.context);
#endif
}

struct Fiber {
  Point point;
  unsigned char* stack = nullptr;
  State state = State::ready;
  std::deque<std::vector<Copy>> groups;  // asynchronous copies, oldest group first
  std::vector<Copy> open;
  void* fake_stack = nullptr;
};

struct Warp {
  int arrived = 0, kind = 0;
  alignas(16) unsigned char slots[32][64];
};

constexpr std::size_t kStack = 128 * 1024;

/// Stack of thread i of a block; blocks run one after another and share them.
inline unsigned char* stack_of(std::size_t i) {
  static std::vector<std::unique_ptr<unsigned char[]>> stacks;
  while (stacks.size() <= i) stacks.push_back(std::make_unique_for_overwrite<unsigned char[]>(kStack));
  return stacks[i].get();
}

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  std::function<void()> body;
  Point scheduler;
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_size = 0;
  void* scheduler_fake = nullptr;
  int now = 0, x = 0, y = 0, grid_x = 1, at_barrier = 0;
  unsigned seed = 0;
};

inline Block*& block() {
  static Block* current = nullptr;
  return current;
}
/// The order in which the fibers run; tests change it, results must not.
inline unsigned& order() {
  static unsigned seed = 0;
  return seed;
}
/// Kernels started so far.
inline long& launches() {
  static long count = 0;
  return count;
}

inline void to_scheduler(bool ended = false) {
  Block& b = *block();
  Fiber& fiber = b.fibers[static_cast<std::size_t>(b.now)];
#ifdef AFFEKT_EMULATE_ASAN
  __sanitizer_start_switch_fiber(ended ? nullptr : &fiber.fake_stack, b.scheduler_stack, b.scheduler_size);
#endif
  (void)ended;
  go(fiber.point, b.scheduler);
#ifdef AFFEKT_EMULATE_ASAN
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &b.scheduler_stack, &b.scheduler_size);
#endif
}

inline void enter() {
  Block& b = *block();
#ifdef AFFEKT_EMULATE_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &b.scheduler_stack, &b.scheduler_size);
#endif
  b.body();
  Fiber& fiber = b.fibers[static_cast<std::size_t>(b.now)];
  if (!fiber.open.empty()) stop("a thread ended with copies that it never waited for");
  fiber.state = State::ended;
  to_scheduler(true);
}

inline void to_fiber(Block& b, int index) {
  Fiber& fiber = b.fibers[static_cast<std::size_t>(index)];
  b.now = index;
#ifdef AFFEKT_EMULATE_ASAN
  __sanitizer_start_switch_fiber(&b.scheduler_fake, fiber.stack, kStack);
#endif
  go(b.scheduler, fiber.point);
#ifdef AFFEKT_EMULATE_ASAN
  __sanitizer_finish_switch_fiber(b.scheduler_fake, nullptr, nullptr);
#endif
}

// Apart from `run`: getcontext returns like setjmp, which costs its function the registers.
[[gnu::noinline]] inline void begin(Fiber& fiber) {
  fiber.state = State::ready;
  fiber.groups.clear();
  ucontext_t& context = fiber.point.context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack;
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  fiber.point.begun = false;
}

template <class F>
void run(int grid_x, int grid_y, int threads, int shared_bytes, F&& body) {
  ++launches();
  Block b;
  b.fibers.resize(static_cast<std::size_t>(threads));
  b.warps.resize(static_cast<std::size_t>(threads / 32));
  b.body = body;
  b.grid_x = grid_x;
  for (std::size_t i = 0; i < b.fibers.size(); ++i) b.fibers[i].stack = stack_of(i);
  b.scheduler.begun = true;
  block() = &b;
  std::vector<int> turns(static_cast<std::size_t>(threads));
  b.seed = order();
  for (b.y = 0; b.y < grid_y; ++b.y) {
    for (b.x = 0; b.x < grid_x; ++b.x) {
      // Shared memory holds rubbish at first.
      b.shared.assign(static_cast<std::size_t>(shared_bytes), 0xff);
      b.at_barrier = 0;
      for (std::size_t i = 0; i < b.fibers.size(); ++i) {
        begin(b.fibers[i]);
        turns[i] = static_cast<int>(i);
      }
      for (;;) {
        if (order() != 0) {  // shuffle whom it takes next
          for (std::size_t i = turns.size(); i > 1; --i) {
            b.seed = b.seed * 1664525u + 1013904223u;
            std::swap(turns[i - 1], turns[(b.seed >> 8) % i]);
          }
        }
        bool moved = false, all_ended = true;
        for (const int i : turns) {
          const State state = b.fibers[static_cast<std::size_t>(i)].state;
          all_ended = all_ended && state == State::ended;
          if (state != State::ready) continue;
          to_fiber(b, i);
          moved = true;
        }
        if (all_ended) break;
        if (!moved) stop("threads wait for others that never come");
      }
    }
  }
  block() = nullptr;
}

inline int thread() { return block()->now; }

// All lanes of a warp bring a slot, the last one computes on the 32 slots, each takes its own away.
template <class Slot, class Compute>
Slot in_warp(int kind, const Slot& mine, Compute&& compute) {
  static_assert(sizeof(Slot) <= sizeof(Warp::slots[0]));
  Block& b = *block();
  const int me = b.now, lane = me % 32, first = me - lane;
  Warp& warp = b.warps[static_cast<std::size_t>(me / 32)];
  if (warp.arrived > 0 && warp.kind != kind) stop("lanes of a warp met at different instructions");
  warp.kind = kind;
  std::memcpy(warp.slots[lane], &mine, sizeof mine);
  if (++warp.arrived == 32) {
    Slot all[32];
    for (int l = 0; l < 32; ++l) std::memcpy(&all[l], warp.slots[l], sizeof(Slot));
    compute(all);
    for (int l = 0; l < 32; ++l) std::memcpy(warp.slots[l], &all[l], sizeof(Slot));
    warp.arrived = 0;
    for (int l = 0; l < 32; ++l) b.fibers[static_cast<std::size_t>(first + l)].state = State::ready;
  } else {
    b.fibers[static_cast<std::size_t>(me)].state = State::in_warp;
    to_scheduler();
  }
  Slot out;
  std::memcpy(&out, warp.slots[lane], sizeof out);
  return out;
}

inline float bits_to_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline std::uint32_t float_to_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Rounds a float to `kept` bits of fraction, to nearest: ties to even, or away from zero.
inline std::uint32_t round_fraction(float x, int kept, bool ties_away) {
  std::uint32_t bits = float_to_bits(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
  const int drop = 23 - kept;
  const std::uint32_t half = 1u << (drop - 1), odd = (bits >> drop) & 1u;
  bits += ties_away ? half : half - 1 + odd;
  return bits & ~((1u << drop) - 1);
}

inline float half_to_float(std::uint16_t h) {
  const int exponent = (h >> 10) & 31, fraction = h & 1023;
  const float sign = (h & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction != 0 ? std::nanf("") : sign * HUGE_VALF;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

inline std::uint16_t float_to_half(float x) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  if (std::isnan(x)) return static_cast<std::uint16_t>(sign | 0x7fff);
  const float size = std::fabs(x);
  if (size >= 65520.0f) return static_cast<std::uint16_t>(sign | 0x7c00);
  if (size < 6.103515625e-05f)  // denormal: whole multiples of 2^-24
    return static_cast<std::uint16_t>(sign | static_cast<int>(std::nearbyint(std::ldexp(size, 24))));
  int exponent = 0;
  std::frexp(size, &exponent);
  const auto units = static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));  // 1024 .. 2048
  return static_cast<std::uint16_t>(sign | (((exponent + 14) << 10) + (units - 1024)));
}

}  // namespace affekt::gpu::emulate

namespace affekt::gpu {

inline int thread_id() { return emulate::thread(); }
inline int block_x() { return emulate::block()->x; }
inline int block_y() { return emulate::block()->y; }
inline int blocks_x() { return emulate::block()->grid_x; }

inline void barrier() {
  emulate::Block& b = *emulate::block();
  if (++b.at_barrier == static_cast<int>(b.fibers.size())) {
    b.at_barrier = 0;
    for (emulate::Fiber& fiber : b.fibers) fiber.state = emulate::State::ready;
  } else {
    b.fibers[static_cast<std::size_t>(b.now)].state = emulate::State::at_barrier;
    emulate::to_scheduler();
  }
}

inline unsigned char* shared_memory() { return emulate::block()->shared.data(); }

template <class T>
T shuffle_xor(T value, int mask) {
  return emulate::in_warp(1, value, [mask](T* all) {
    T old[32];
    for (int l = 0; l < 32; ++l) old[l] = all[l];
    for (int l = 0; l < 32; ++l) all[l] = old[l ^ mask];
  });
}

inline float fused(float a, float b, float c) { return std::fma(a, b, c); }
inline double fused(double a, double b, double c) { return std::fma(a, b, c); }
inline float exponential(float x) { return std::exp(x); }
inline double exponential(double x) { return std::exp(x); }
inline float logarithm(float x) { return std::log(x); }
inline double logarithm(double x) { return std::log(x); }
inline float root(float x) { return std::sqrt(x); }
inline double root(double x) { return std::sqrt(x); }
inline float power_of(float x, float exponent) { return std::pow(x, exponent); }
inline double power_of(double x, double exponent) { return std::pow(x, exponent); }
inline bool negative(float x) { return std::signbit(x); }
inline bool negative(double x) { return std::signbit(x); }
template <class T>
T infinity() {
  return static_cast<T>(HUGE_VAL);
}
inline float fast_exp2(float x) { return std::exp2(x); }

inline void copy_async(void* to, const void* from, int valid) {
  if (reinterpret_cast<std::uintptr_t>(to) % 16 != 0 || reinterpret_cast<std::uintptr_t>(from) % 16 != 0)
    emulate::stop("an asynchronous copy is not aligned to 16 bytes");
  if (valid < 0 || valid > 16) emulate::stop("an asynchronous copy of fewer than 0 or more than 16 bytes");
  emulate::Block& b = *emulate::block();
  b.fibers[static_cast<std::size_t>(b.now)].open.push_back({to, from, valid});
  std::memset(to, 0xff, 16);  // rubbish until somebody waits
}
inline void end_copies() {
  emulate::Block& b = *emulate::block();
  emulate::Fiber& fiber = b.fibers[static_cast<std::size_t>(b.now)];
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
template <int N>
void wait_copies() {
  emulate::Block& b = *emulate::block();
  emulate::Fiber& fiber = b.fibers[static_cast<std::size_t>(b.now)];
  while (fiber.groups.size() > static_cast<std::size_t>(N)) {
    for (const emulate::Copy& copy : fiber.groups.front()) {
      std::memset(copy.to, 0, 16);
      if (copy.valid > 0) std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.valid));
    }
    fiber.groups.pop_front();
  }
}

namespace emulate {

struct FourRegisters {
  const void* row;
  unsigned r[4];
};

inline void load_matrices(unsigned (&r)[4], const void* row, bool transposed) {
  const FourRegisters got =
      in_warp(transposed ? 3 : 2, FourRegisters{row, {}}, [transposed](FourRegisters* all) {
        for (int q = 0; q < 4; ++q) {
          std::uint16_t matrix[8][8];
          for (int i = 0; i < 8; ++i) std::memcpy(matrix[i], all[8 * q + i].row, 16);
          for (int l = 0; l < 32; ++l) {
            const int i = l / 4, j = 2 * (l % 4);
            const std::uint32_t low = transposed ? matrix[j][i] : matrix[i][j];
            const std::uint32_t high = transposed ? matrix[j + 1][i] : matrix[i][j + 1];
            all[l].r[q] = low | high << 16;
          }
        }
      });
  for (int q = 0; q < 4; ++q) r[q] = got.r[q];
}

struct Product {
  float d[4];
  unsigned a[4], b[2];
};

// m16n8k(K): value(bits, i) is element i of a register.
template <int K, class Value>
void multiply_add(int kind, float& d0, float& d1, float& d2, float& d3, const unsigned (&a)[4], unsigned b0,
                  unsigned b1, Value value) {
  const Product got =
      in_warp(kind, Product{{d0, d1, d2, d3}, {a[0], a[1], a[2], a[3]}, {b0, b1}}, [value](Product* all) {
        constexpr int per = K / 8;  // elements of a register
        float left[16][K], right[K][8];
        for (int l = 0; l < 32; ++l) {
          const int g = l / 4, t = l % 4;
          for (int e = 0; e < per; ++e) {
            for (int q = 0; q < 4; ++q)
              left[g + 8 * (q % 2)][per * t + e + 4 * per * (q / 2)] = value(all[l].a[q], e);
            for (int q = 0; q < 2; ++q) right[per * t + e + 4 * per * q][g] = value(all[l].b[q], e);
          }
        }
        for (int l = 0; l < 32; ++l) {
          for (int q = 0; q < 4; ++q) {
            const int row = l / 4 + 8 * (q / 2), col = 2 * (l % 4) + q % 2;
            for (int k = 0; k < K; ++k) all[l].d[q] += left[row][k] * right[k][col];
          }
        }
      });
  d0 = got.d[0], d1 = got.d[1], d2 = got.d[2], d3 = got.d[3];
}

}  // namespace emulate

inline void load_matrices(unsigned (&r)[4], const void* row) { emulate::load_matrices(r, row, false); }
inline void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  emulate::load_matrices(r, row, true);
}

struct Bf16 {
  unsigned short bits;
};
struct Half {
  unsigned short bits;
};
inline float to_float(Bf16 x) { return emulate::bits_to_float(static_cast<std::uint32_t>(x.bits) << 16); }
inline float to_float(Half x) { return emulate::half_to_float(x.bits); }
inline void round_to(float x, Bf16& y) {
  y.bits = std::isnan(x) ? 0x7fff : static_cast<unsigned short>(emulate::round_fraction(x, 7, false) >> 16);
}
inline void round_to(float x, Half& y) { y.bits = emulate::float_to_half(x); }
inline unsigned to_tf32(float x) { return emulate::round_fraction(x, 10, true); }

inline void multiply_add(Bf16, float& d0, float& d1, float& d2, float& d3, const unsigned (&a)[4],
                         unsigned b0, unsigned b1) {
  emulate::multiply_add<16>(4, d0, d1, d2, d3, a, b0, b1, [](unsigned r, int e) {
    return to_float(Bf16{static_cast<unsigned short>(r >> (16 * e))});
  });
}
inline void multiply_add(Half, float& d0, float& d1, float& d2, float& d3, const unsigned (&a)[4],
                         unsigned b0, unsigned b1) {
  emulate::multiply_add<16>(5, d0, d1, d2, d3, a, b0, b1, [](unsigned r, int e) {
    return to_float(Half{static_cast<unsigned short>(r >> (16 * e))});
  });
}
inline void multiply_add(float, float& d0, float& d1, float& d2, float& d3, const unsigned (&a)[4],
                         unsigned b0, unsigned b1) {
  emulate::multiply_add<8>(6, d0, d1, d2, d3, a, b0, b1,
                           [](unsigned r, int) { return emulate::bits_to_float(r); });
}

}  // namespace affekt::gpu
