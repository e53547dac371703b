#include "ccc.hpp"

#include <cstdint>
#include <initializer_list>

#include "ccc.cuh"
#include "launch.hpp"

namespace affekt::gpu {

struct CccCut {
  Wide slice;
  int slices;
  bool wide;
  Wide blocks_across;
};

namespace {

// Elements that one team takes. Slices are cut at fixed places, whatever the GPU, so that results are too.
constexpr Wide kSlice = Wide{1} << 14;
constexpr Wide kSliceBackward = Wide{1} << 12;
// What one block does alone faster than two launches do.
constexpr Wide kSmall = Wide{1} << 14, kSmallGroups = 64;

// `lanes`: elements that a thread takes at once.
CccCut cut(const CccShape& shape, Wide elements, int team, int lanes) {
  CccCut c{};
  c.wide = shape.dims > team;
  const Wide across = c.wide ? static_cast<Wide>(team) * lanes : most(shape.dims, Wide{1});
  // A multiple of 16 steps keeps the alignment of the vectors from slice to slice.
  c.slice = ceil_div(most(elements / across, Wide{16}), 16) * 16;
  // No more slices than one wave of blocks needs.
  c.slice = most(c.slice, ceil_div(ceil_div(shape.steps, 1024), 16) * 16);
  c.slices = static_cast<int>(most(Wide{1}, ceil_div(shape.steps, c.slice)));
  c.blocks_across = c.wide ? ceil_div(shape.dims, across) : 1;
  return c;
}

// Elements that fit 16 bytes, if all windows begin on such a boundary and, where columns are many, all steps.
template <class T>
int vector_of(const CccShape& shape, int team, std::initializer_list<const void*> values,
              const unsigned char* mask) {
  constexpr int lanes = 16 / sizeof(T);
  for (const void* p : values) {
    if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) return 1;
  }
  if (mask != nullptr && reinterpret_cast<std::uintptr_t>(mask) % lanes != 0) return 1;
  if (shape.groups > 1 && shape.steps * shape.dims % lanes != 0) return 1;
  if (shape.dims > team && shape.dims % lanes != 0) return 1;
  return lanes;
}

}  // namespace

const char* ccc_unfit() { return unfit<CccFinish<float>>(); }

Wide ccc_workspace(const CccShape& shape) {
  const CccCut c = cut(shape, kSlice, 128, 1);
  return shape.groups * shape.dims * c.slices * static_cast<Wide>(sizeof(CccMoments)) + 16;
}

template <class T>
const char* ccc_forward(const CccShape& shape, const T* pred, const T* target, const unsigned char* mask,
                        double eps, bool mixed, int reduction, double* columns, T* loss, void* workspace,
                        Stream stream) {
  CccForward<T> of{shape,
                   pred,
                   target,
                   mask,
                   most(shape.steps, Wide{1}),
                   1,
                   false,
                   static_cast<CccMoments*>(workspace),
                   columns,
                   loss,
                   eps,
                   mixed,
                   reduction};
  if (shape.groups * shape.dims == 0 || shape.steps == 0) {
    // Columns without elements: no part is written, and none is read.
    of.slices = 0;
    return launch({1}, stream, CccFinish<T>{of});
  }
  if (shape.groups <= kSmallGroups && shape.groups * shape.steps * shape.dims <= kSmall && shape.dims <= 32) {
    int team = CccSmall<T>::threads;
    while (team > 32 && CccSmall<T>::threads / team < shape.groups) team /= 2;
    return launch({1}, stream, CccSmall<T>{of, team});
  }
  const int lanes = vector_of<T>(shape, CccSums<T, 1>::threads, {pred, target}, mask);
  // The slices do not depend on the alignment, so neither does the memory they need.
  const CccCut c = cut(shape, kSlice, CccSums<T, 1>::threads, 1);
  of.slice = c.slice, of.slices = c.slices, of.wide = c.wide;
  const Wide across = c.wide ? ceil_div(shape.dims, Wide{CccSums<T, 1>::threads} * lanes) : 1;
  const Grid grid{shape.groups * c.slices * across};
  const char* const error = lanes > 1 ? launch(grid, stream, CccSums<T, 16 / sizeof(T)>{of, across})
                                      : launch(grid, stream, CccSums<T, 1>{of, across});
  return error != nullptr ? error : launch({1}, stream, CccFinish<T>{of});
}

template <class T>
const char* ccc_backward(const CccShape& shape, const T* pred, const T* target, const unsigned char* mask,
                         const double* columns, const T* upstream, bool one_upstream, T* grad_pred,
                         T* grad_target, Stream stream) {
  if (shape.groups * shape.dims * shape.steps == 0) return nullptr;
  const int lanes =
      vector_of<T>(shape, CccBackward<T, 1>::threads, {pred, target, grad_pred, grad_target}, mask);
  const CccCut c = cut(shape, kSliceBackward, CccBackward<T, 1>::threads, lanes);
  const Grid grid{shape.groups * c.slices * c.blocks_across};
  const auto start = [&](auto kernel) {
    kernel.shape = shape, kernel.pred = pred, kernel.target = target, kernel.mask = mask;
    kernel.columns = columns, kernel.upstream = upstream, kernel.one_upstream = one_upstream;
    kernel.slice = c.slice, kernel.slices = c.slices, kernel.wide = c.wide;
    kernel.across = c.blocks_across;
    kernel.grad_pred = grad_pred, kernel.grad_target = grad_target;
    return launch(grid, stream, kernel);
  };
  return lanes > 1 ? start(CccBackward<T, 16 / sizeof(T)>{}) : start(CccBackward<T, 1>{});
}

#define AFFEKT_CCC(T)                                                                                       \
  template const char* ccc_forward(const CccShape&, const T*, const T*, const unsigned char*, double, bool, \
                                   int, double*, T*, void*, Stream);                                        \
  template const char* ccc_backward(const CccShape&, const T*, const T*, const unsigned char*,              \
                                    const double*, const T*, bool, T*, T*, Stream);
AFFEKT_CCC(float)
AFFEKT_CCC(double)
#undef AFFEKT_CCC

}  // namespace affekt::gpu
