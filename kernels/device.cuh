// What the kernels of this folder use of the machine: threads, barriers, shared memory, asynchronous copies
// and matrix instructions. Device code includes no header of the host, so that NVRTC takes it as it is. With
// AFFEKT_EMULATE the same bodies are compiled for the CPU, where emulate/machine.hpp plays the machine.
//
// A kernel is a struct of its arguments with `threads`, `shared_bytes()` and `operator()() const`, which
// every thread runs; `launch` in launch.hpp starts it.
#pragma once

#include "types.hpp"

#ifdef AFFEKT_EMULATE

#include "emulate/machine.hpp"

#else

#define AFFEKT_DEVICE __device__ __forceinline__
#define AFFEKT_BOTH __host__ __device__ inline
#define AFFEKT_UNROLL _Pragma("unroll")
#define AFFEKT_PRAGMA(text) _Pragma(#text)
#define AFFEKT_UNROLL_BY(n) AFFEKT_PRAGMA(unroll n)

namespace affekt::gpu {

AFFEKT_DEVICE int thread_id() { return static_cast<int>(threadIdx.x); }
AFFEKT_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
AFFEKT_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
AFFEKT_DEVICE int blocks_x() { return static_cast<int>(gridDim.x); }
AFFEKT_DEVICE void barrier() { __syncthreads(); }

AFFEKT_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return bytes;
}

template <class T>
AFFEKT_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

AFFEKT_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
AFFEKT_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }
AFFEKT_DEVICE float exponential(float x) { return expf(x); }
AFFEKT_DEVICE double exponential(double x) { return exp(x); }
AFFEKT_DEVICE float logarithm(float x) { return logf(x); }
AFFEKT_DEVICE double logarithm(double x) { return log(x); }
AFFEKT_DEVICE float root(float x) { return sqrtf(x); }
AFFEKT_DEVICE double root(double x) { return sqrt(x); }
AFFEKT_DEVICE float power_of(float x, float exponent) { return powf(x, exponent); }
AFFEKT_DEVICE double power_of(double x, double exponent) { return pow(x, exponent); }

/// Whether the sign is set: of -0 it is.
AFFEKT_DEVICE bool negative(float x) { return __float_as_int(x) < 0; }
AFFEKT_DEVICE bool negative(double x) { return __double_as_longlong(x) < 0; }

template <class T>
AFFEKT_DEVICE T infinity() {
  return static_cast<T>(__longlong_as_double(0x7ff0000000000000));
}

/// 2^x, of a relative error of some 2^-22.
AFFEKT_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

AFFEKT_DEVICE unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

/// Copies 16 bytes into shared memory in the background, of which the first `valid` come from `from` and the
/// others are 0. Both addresses are multiples of 16.
AFFEKT_DEVICE void copy_async(void* to, const void* from, int valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid)
               : "memory");
}
/// Ends a group of copies; `wait_copies<N>` returns when at most the last N groups are under way.
AFFEKT_DEVICE void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
AFFEKT_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Four 8 x 8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8.
AFFEKT_DEVICE void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
AFFEKT_DEVICE void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// 16-bit floats as their bits: no header of CUDA is needed for them.
struct Bf16 {
  unsigned short bits;
};
struct Half {
  unsigned short bits;
};

AFFEKT_DEVICE float to_float(Bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
AFFEKT_DEVICE float to_float(Half x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
AFFEKT_DEVICE void round_to(float x, Bf16& y) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
AFFEKT_DEVICE void round_to(float x, Half& y) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x)); }
AFFEKT_DEVICE unsigned to_tf32(float x) {
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

/// d += a b on one warp: m16n8k16 for 16-bit values, m16n8k8 for tf32. The value picks the format.
#define AFFEKT_MULTIPLY_ADD(T, shape, format)                                                           \
  AFFEKT_DEVICE void multiply_add(T, float& d0, float& d1, float& d2, float& d3, const unsigned(&a)[4], \
                                  unsigned b0, unsigned b1) {                                           \
    asm volatile("mma.sync.aligned." shape ".row.col.f32." format "." format                            \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                 \
                 : "+f"(d0), "+f"(d1), "+f"(d2), "+f"(d3)                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                       \
  }
AFFEKT_MULTIPLY_ADD(Bf16, "m16n8k16", "bf16")
AFFEKT_MULTIPLY_ADD(Half, "m16n8k16", "f16")
AFFEKT_MULTIPLY_ADD(float, "m16n8k8", "tf32")
#undef AFFEKT_MULTIPLY_ADD

/// Blocks that a multiprocessor is to hold at least: `resident` of a kernel that would take more registers
/// than it gains from. 0: the compiler's choice.
template <class Kernel>
constexpr int resident_of() {
  if constexpr (requires { Kernel::resident; }) return Kernel::resident;
  return 0;
}

/// What is started on the GPU.
template <class Kernel>
__global__ void __launch_bounds__(Kernel::threads, resident_of<Kernel>())
    entry(const __grid_constant__ Kernel kernel) {
  kernel();
}

}  // namespace affekt::gpu

#endif

namespace affekt::gpu {

AFFEKT_DEVICE float to_float(float x) { return x; }
AFFEKT_DEVICE double to_float(double x) { return x; }
AFFEKT_DEVICE void round_to(float x, float& y) { y = x; }
AFFEKT_DEVICE void round_to(double x, double& y) { y = x; }

/// N neighbours that are read and written at once; aligned to their size.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <int N, class T>
AFFEKT_DEVICE Pack<T, N> load_pack(const T* from) {
#ifdef AFFEKT_EMULATE
  emulate::require_aligned(from, sizeof(Pack<T, N>));
#endif
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
AFFEKT_DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
#ifdef AFFEKT_EMULATE
  emulate::require_aligned(to, sizeof(Pack<T, N>));
#endif
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

template <class T>
AFFEKT_BOTH constexpr T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
AFFEKT_BOTH constexpr T most(T a, T b) {
  return a > b ? a : b;
}
AFFEKT_BOTH constexpr Wide ceil_div(Wide a, Wide b) { return (a + b - 1) / b; }

/// 1 for NaN, else 0.
template <class T>
AFFEKT_DEVICE T is_missing(T x) {
  return x != x ? T(1) : T(0);
}

}  // namespace affekt::gpu
