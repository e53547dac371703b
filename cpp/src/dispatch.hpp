// Kernels are compiled once per instruction set and chosen when the object that uses them is made.
//
// A kernel is a table of function pointers, declared in kernels/NAME.hpp:
//
//   struct ScanKernels { std::size_t (*first_beyond)(const float*, std::size_t, float) noexcept; };
//   AFFEKT_KERNELS(ScanKernels, scan)
//
// and defined in kernels/NAME.cpp, which CMake compiles once per instruction set with AFFEKT_ISA naming the
// namespace:
//
//   namespace affekt::AFFEKT_ISA {
//   namespace { ... functions, written over the types of simd.hpp ... }
//   const ScanKernels scan{first_beyond};
//   }
//
// `affekt::scan()` gives the table of this process; keep a reference to it in the object.
//
// Everything that such a file instantiates must sit in its AFFEKT_ISA namespace or be inlined: an inline
// function of another namespace (std::vector's, say) would be emitted with AVX-512 code under a name that the
// linker may give to every caller. scripts/check_symbols.py looks for such symbols.
#pragma once

#if defined(__x86_64__) && !defined(AFFEKT_ONE_ISA)
#define AFFEKT_EACH_ISA(X) X(baseline) X(avx2) X(avx512)
#else
#define AFFEKT_EACH_ISA(X) X(baseline)
#endif

namespace affekt {

enum class Isa {
#define AFFEKT_ISA_VALUE(isa) isa,
  AFFEKT_EACH_ISA(AFFEKT_ISA_VALUE)
#undef AFFEKT_ISA_VALUE
};

/// The instruction set of this process; see isa() in runtime.hpp, also for what it throws.
Isa active_isa();

#define AFFEKT_ISA_DECLARE_(isa, Table, name) \
  namespace isa {                             \
  extern const Table name;                    \
  }
#if defined(__x86_64__) && !defined(AFFEKT_ONE_ISA)
#define AFFEKT_KERNELS(Table, name)                                                            \
  AFFEKT_ISA_DECLARE_(baseline, Table, name)                                                   \
  AFFEKT_ISA_DECLARE_(avx2, Table, name)                                                       \
  AFFEKT_ISA_DECLARE_(avx512, Table, name)                                                     \
  [[maybe_unused]] inline const Table& name() {                                                \
    const Isa isa = active_isa();                                                              \
    return isa == Isa::avx512 ? avx512::name : isa == Isa::avx2 ? avx2::name : baseline::name; \
  }
#else
#define AFFEKT_KERNELS(Table, name)          \
  AFFEKT_ISA_DECLARE_(baseline, Table, name) \
  [[maybe_unused]] inline const Table& name() { return baseline::name; }
#endif

}  // namespace affekt
