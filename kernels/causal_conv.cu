#include "causal_conv.hpp"

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "causal_conv.cuh"
#include "launch.hpp"

namespace affekt::gpu {
namespace {

// Rows whose part of a weight's gradient one block adds up. The cuts depend on the shape alone, so that
// results do not depend on the GPU.
constexpr Wide kRowsOfSlice = 512, kMostSlices = 64;

Wide slice_of(Wide rows) { return most(kRowsOfSlice, ceil_div(rows, kMostSlices)); }

template <class T>
int padded(std::size_t width) {
  constexpr std::size_t pack = 16 / sizeof(T);
  return static_cast<int>((width + pack - 1) / pack * pack);
}

template <class T>
bool is_aligned(const T* x, int width) {
  return reinterpret_cast<std::uintptr_t>(x) % 16 == 0 &&
         static_cast<std::size_t>(width) * sizeof(T) % 16 == 0;
}

}  // namespace

// The sizes of a block, and its launches.
template <class T>
struct ConvPlan {
  const TcnBlock<T>& block;
  bool tf32;
  Stream stream;
  int in = static_cast<int>(block.in), out = static_cast<int>(block.out), taps = static_cast<int>(block.taps);
  Wide time = static_cast<Wide>(block.time), rows = static_cast<Wide>(block.batch) * time;
  Wide dilation = static_cast<Wide>(block.dilation);
  Wide slice = slice_of(rows), slices = ceil_div(rows, slice);

  // The weights packed for either way, one after another.
  struct Packed {
    T *weight1, *weight2, *residual;
  };
  Packed packed(Workspace& pieces, bool back) const {
    const auto take = [&](std::size_t from, std::size_t to, std::size_t of_taps) {
      const std::size_t lines = back ? to : from, width = back ? from : to;
      return pieces.take<T>(static_cast<Wide>(of_taps * lines) * padded<T>(width));
    };
    T* const weight1 = take(block.in, block.out, block.taps);
    T* const weight2 = take(block.out, block.out, block.taps);
    return {weight1, weight2, take(block.in, block.out, 1)};
  }
  const char* pack(const Packed& to, bool back) const {
    const int pitch_in = padded<T>(block.in), pitch_out = padded<T>(block.out);
    ConvPack<T> kernel{};
    kernel.weights[0] = {block.weight1, to.weight1, out, in, taps, back ? pitch_in : pitch_out, back};
    kernel.weights[1] = {block.weight2, to.weight2, out, out, taps, pitch_out, back};
    kernel.weights[2] = {block.residual, to.residual, out, in, 1, back ? pitch_in : pitch_out, back};
    Wide largest = 0;
    for (const ConvWeight<T>& w : kernel.weights)
      largest = most(largest, static_cast<Wide>(w.taps) * (back ? w.out : w.in) * w.pitch);
    const Wide blocks = ceil_div(largest, ConvPack<T>::threads);
    return launch({blocks, block.residual != nullptr ? 3 : 2}, stream, kernel);
  }

  // A task without anything yet that follows the products.
  ConvTask<T> task(int width) const {
    ConvTask<T> task{};
    task.rows = rows, task.time = time, task.out = width,
    task.pitch = padded<T>(static_cast<std::size_t>(width));
    task.slope = static_cast<T>(block.slope), task.scale = static_cast<T>(1 / (1 - block.dropout));
    return task;
  }
  ConvTerm<T> term(const T* x, int width, int of_taps, bool back, const T* weight) const {
    const Wide far = (of_taps - 1) * dilation;
    return {x, width, of_taps, is_aligned(x, width), back ? far : -far, back ? -dilation : dilation, weight};
  }
  ConvGradientTerm<T> gradient(const T* x, int width, const T* grad, int of_taps, T* parts) const {
    const ConvTerm<T> lags = term(x, width, of_taps, false, nullptr);
    return {x, grad, width, of_taps, lags.aligned, is_aligned(grad, out), lags.first, lags.step, parts};
  }

  template <class F>
  const char* with_kind(F&& f) const {
    if constexpr (std::is_same_v<T, float>) {
      if (tf32) return f.template operator()<TensorTile>();
    }
    return f.template operator()<PlainTile>();
  }
  const char* run(const ConvTask<T>& task) const {
    return with_kind([&]<template <class, bool, bool> class Kind>() {
      using Kernel = ConvRows<Kind, T>;
      const Wide across = ceil_div(task.out, Kernel::Tile::cols);
      return launch({ceil_div(rows, Kernel::Tile::rows) * across}, stream,
                    Kernel{task, static_cast<int>(across)});
    });
  }
  const char* run(const ConvGradientTerm<T> (&terms)[kConvTerms], int count) const {
    return with_kind([&]<template <class, bool, bool> class Kind>() {
      using Kernel = ConvWeightParts<Kind, T>;
      Kernel kernel{};
      Wide blocks = 0;
      for (int i = 0; i < count; ++i) {
        kernel.terms[i] = terms[i];
        blocks = most(blocks, Kernel::blocks(out, terms[i].in, terms[i].taps, static_cast<int>(slices)));
      }
      kernel.rows = rows, kernel.time = time, kernel.slice = slice;
      kernel.out = out, kernel.slices = static_cast<int>(slices);
      return launch({blocks, count}, stream, kernel);
    });
  }
};

// What the backward pass keeps in its workspace.
template <class T>
struct ConvMemory {
  typename ConvPlan<T>::Packed packed;
  T *sum, *second, *first;
  T* parts[kConvTerms];
  double* bias_parts[kConvTerms];

  ConvMemory(const ConvPlan<T>& conv, Workspace& pieces) : packed(conv.packed(pieces, true)) {
    const Wide values = conv.rows * conv.out;
    sum = pieces.take<T>(values), second = pieces.take<T>(values), first = pieces.take<T>(values);
    const Wide inputs[] = {static_cast<Wide>(conv.in) * conv.taps, static_cast<Wide>(conv.out) * conv.taps,
                           conv.in};
    for (int i = 0; i < kConvTerms; ++i) {
      const bool there = i < 2 || conv.block.residual != nullptr;
      parts[i] = pieces.take<T>(there ? conv.slices * conv.out * inputs[i] : 0);
      bias_parts[i] = pieces.take<double>(there ? conv.slices * conv.out : 0);
    }
  }
};

template <class T>
Wide tcn_forward_workspace(const TcnBlock<T>& block) {
  Workspace pieces(nullptr);
  ConvPlan<T>{block, false, nullptr}.packed(pieces, false);
  return pieces.used();
}

template <class T>
const char* tcn_block_forward(const TcnBlock<T>& block, const long long* keys, bool tf32, const T* x, T* h1,
                              T* h2, T* y, void* workspace, Stream stream) {
  const ConvPlan<T> conv{block, tf32, stream};
  if (conv.rows == 0) return nullptr;
  Workspace pieces(workspace);
  const auto packed = conv.packed(pieces, false);
  const char* problem = conv.pack(packed, false);
  if (problem != nullptr) return problem;

  ConvTask<T> first = conv.task(conv.out);
  first.rectify = true;
  const double below = block.dropout * 4294967296.0;
  first.below = below < 4294967295.0 ? static_cast<unsigned>(below) : 4294967295u;
  ConvTask<T> second = first;
  first.main = conv.term(x, conv.in, conv.taps, false, packed.weight1);
  first.bias = block.bias1, first.key = keys, first.h = h1;
  problem = conv.run(first);
  if (problem != nullptr) return problem;

  second.main = conv.term(h1, conv.out, conv.taps, false, packed.weight2);
  second.bias = block.bias2, second.key = keys == nullptr ? nullptr : keys + 1, second.h = h2;
  second.y = y, second.rectify_sum = true;
  if (block.residual != nullptr) {
    second.aside = conv.term(x, conv.in, 1, false, packed.residual);
    second.aside_bias = block.residual_bias;
  } else {
    second.start = x;
  }
  return conv.run(second);
}

template <class T>
Wide tcn_backward_workspace(const TcnBlock<T>& block) {
  Workspace pieces(nullptr);
  const ConvMemory<T> kept(ConvPlan<T>{block, false, nullptr}, pieces);
  return pieces.used();
}

template <class T>
const char* tcn_block_backward(const TcnBlock<T>& block, bool tf32, const T* x, const T* h1, const T* h2,
                               const T* y, const T* grad_y, const TcnBlockGradients<T>& to, void* workspace,
                               Stream stream) {
  const ConvPlan<T> conv{block, tf32, stream};
  Workspace pieces(workspace);
  ConvMemory<T> kept(conv, pieces);
  const bool aside = block.residual != nullptr;
  const char* problem = nullptr;
  const auto next = [&problem](auto&& run) {
    if (problem == nullptr) problem = run();
  };
  if (conv.rows > 0) {
    next([&] { return conv.pack(kept.packed, true); });
    next([&] {
      const Wide values = conv.rows * conv.out;
      const T slope = static_cast<T>(block.slope), scale = static_cast<T>(1 / (1 - block.dropout));
      return launch({ceil_div(values, ConvGate<T>::threads * ConvGate<T>::each)}, stream,
                    ConvGate<T>{grad_y, y, h2, kept.sum, kept.second, values, slope, scale});
    });
    next([&] {
      ConvTask<T> task = conv.task(conv.out);
      task.main = conv.term(kept.second, conv.out, conv.taps, true, kept.packed.weight2);
      task.gate = h1, task.h = kept.first;
      return conv.run(task);
    });
    if (to.x != nullptr) {
      next([&] {
        ConvTask<T> task = conv.task(conv.in);
        task.main = conv.term(kept.first, conv.out, conv.taps, true, kept.packed.weight1);
        task.y = to.x;
        if (aside)
          task.aside = conv.term(kept.sum, conv.out, 1, true, kept.packed.residual);
        else
          task.start = kept.sum;
        return conv.run(task);
      });
    }
  }
  if (to.weight1 == nullptr) return problem;

  const int count = aside ? 3 : 2;
  const T* const grads[kConvTerms] = {kept.first, kept.second, kept.sum};
  next([&] {
    const ConvGradientTerm<T> terms[kConvTerms] = {
        conv.gradient(x, conv.in, grads[0], conv.taps, kept.parts[0]),
        conv.gradient(h1, conv.out, grads[1], conv.taps, kept.parts[1]),
        conv.gradient(x, conv.in, grads[2], 1, kept.parts[2])};
    return conv.run(terms, count);
  });
  next([&] {
    using Kernel = ConvBiasParts<T>;
    const Wide across = ceil_div(conv.out, Kernel::columns);
    Kernel kernel{};
    for (int i = 0; i < count; ++i) kernel.grads[i] = grads[i], kernel.parts[i] = kept.bias_parts[i];
    kernel.rows = conv.rows, kernel.slice = conv.slice;
    kernel.out = conv.out, kernel.across = static_cast<int>(across);
    return launch({conv.slices * across, count}, stream, kernel);
  });
  next([&] {
    ConvFinish<T> kernel{};
    T* const weights[] = {to.weight1, to.weight2, to.residual};
    T* const biases[] = {to.bias1, to.bias2, to.residual_bias};
    const int inputs[] = {conv.in, conv.out, conv.in}, all_taps[] = {conv.taps, conv.taps, 1};
    Wide largest = 0;
    for (int i = 0; i < count; ++i) {
      kernel.sums[2 * i] = {kept.parts[i], nullptr, weights[i], conv.out, inputs[i], all_taps[i]};
      kernel.sums[2 * i + 1] = {nullptr, kept.bias_parts[i], biases[i], conv.out, 1, 1};
      largest = most(largest, static_cast<Wide>(conv.out) * inputs[i] * all_taps[i]);
    }
    kernel.slices = static_cast<int>(conv.slices);
    return launch({ceil_div(largest, ConvFinish<T>::threads), 2 * count}, stream, kernel);
  });
  return problem;
}

#define AFFEKT_CAUSAL_CONV(T)                                                                               \
  template Wide tcn_forward_workspace(const TcnBlock<T>&);                                                  \
  template const char* tcn_block_forward(const TcnBlock<T>&, const long long*, bool, const T*, T*, T*, T*,  \
                                         void*, Stream);                                                    \
  template Wide tcn_backward_workspace(const TcnBlock<T>&);                                                 \
  template const char* tcn_block_backward(const TcnBlock<T>&, bool, const T*, const T*, const T*, const T*, \
                                          const T*, const TcnBlockGradients<T>&, void*, Stream);
AFFEKT_CAUSAL_CONV(float)
AFFEKT_CAUSAL_CONV(double)
#undef AFFEKT_CAUSAL_CONV

}  // namespace affekt::gpu
