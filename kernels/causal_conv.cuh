// The residual block of the TCN: causal dilated convolutions as products of matrices whose left side is rows
// of a sequence, shifted tap by tap while they are fetched; bias, rectifier, dropout, residual sum and their
// gradients happen on the tile in registers. Nothing is unfolded in device memory.
//
// Sequences are (rows, width), dense, a row being a step of a sequence of `time` of them. Every output is one
// chain in one order: taps, then inputs. Weight gradients are added up over slices of rows, cut at places
// that do not depend on the GPU, and the slices in double.
#pragma once

#include "tiles.cuh"

namespace affekt::gpu {

/// sum over taps j and inputs c of W_j[o][c] x[row + first + j step][c], x being 0 outside of the sequence
/// that the row belongs to.
template <class T>
struct ConvTerm {
  const T* x;  // (rows, in); null: no term
  int in, taps;
  bool aligned;  // every row begins on a multiple of 16 bytes
  Wide first, step;
  const T* weight;  // (taps, in, outputs padded to 16 bytes): see ConvPack
};

/// What happens to a tile; pointers that are null leave their step out. First `main` and bias, then
///   forward:  h = drop(act(v)), and, for the second convolution, y = act(h + aside + (aside_bias or x));
///   backward: gated = v through the gate of h, or y = v + start + aside.
template <class T>
struct ConvTask {
  Wide rows, time;
  int out, pitch;  // of the weights, elements
  ConvTerm<T> main, aside;
  const T *bias, *aside_bias;
  const T* start;        // (rows, out): added before `aside`
  const long long* key;  // of the dropout; in device memory
  unsigned below;        // of 2^32 hashes, those that drop
  T slope, scale;
  bool rectify, rectify_sum;
  const T* gate;  // h of the forward pass
  T *h, *y;
};

template <class T>
AFFEKT_DEVICE T rectified(T x, T slope) {
  // Without a slope nothing is left of -inf either.
  const T below = slope == 0 ? (x < 0 ? T(0) : x) : x * slope;
  return (x > 0 ? x : below) + T(0);  // -0 + 0 = 0
}

/// grad scale through dropout and the rectifier that gave y; -0 is what dropout leaves.
template <class T>
AFFEKT_DEVICE T gated(T grad, T y, T slope, T scale) {
  const T g = grad * scale;
  return y == 0 && negative(y) ? T(0) : (y > 0 ? g : (slope == 0 ? T(0) : g * slope));
}

/// The draws of dropout, those of the CPU's kernels: a hash of key, row and column.
struct Draws {
  unsigned low, high;

  AFFEKT_DEVICE Draws(long long key_of_all, Wide row) {
    using Word = unsigned long long;
    Word key = static_cast<Word>(key_of_all) + static_cast<Word>(row) * 0x9e3779b97f4a7c15u;  // splitmix64
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    key ^= key >> 31;
    low = static_cast<unsigned>(key), high = static_cast<unsigned>(key >> 32);
  }
  AFFEKT_DEVICE unsigned at(int column) const {
    unsigned h = static_cast<unsigned>(column) + low;
    h = (h ^ (h >> 16)) * 0x85ebca6bu;
    h = ((h ^ (h >> 13)) + high) * 0xc2b2ae35u;
    return h ^ (h >> 16);
  }
};

/// A tile of rows x outputs of a convolution and what follows it.
template <template <class, bool, bool> class Kind, class T>
struct ConvRows {
  using Multiply = Product<Kind, T, true, false>;
  using Tile = typename Multiply::Tile;
  using Value = typename Tile::Value;
  static constexpr int threads = kTileThreads;
  static constexpr int shared_bytes() { return Multiply::shared_bytes; }
  static constexpr int pack = 16 / static_cast<int>(sizeof(T)), packs = Multiply::SliceA::length / pack;
  static constexpr int lines = Multiply::SliceA::lines * packs / threads;  // that a thread fetches
  ConvTask<T> task;
  int across;  // blocks along the outputs

  AFFEKT_DEVICE void add(Tile& tile, const ConvTerm<T>& of, const Wide (&at)[lines], Wide row,
                         Wide col) const {
    const int per_tap = static_cast<int>(ceil_div(of.in, Tile::inner));
    Multiply::loop(tile, static_cast<Wide>(of.taps) * per_tap, [&](Wide step, T* to_a, T* to_b) {
      const int tap = static_cast<int>(step / per_tap), from = static_cast<int>(step % per_tap) * Tile::inner;
      const Wide shift = of.first + tap * of.step;
      AFFEKT_UNROLL
      for (int i = 0; i < lines; ++i) {
        const int p = thread_id() + i * threads, line = p / packs, in = p % packs * pack, c = from + in;
        const Wide t = at[i] + shift;
        const int there = t >= 0 && t < task.time ? most(0, least(pack, of.in - c)) : 0;
        fetch_pack(to_a + line * Multiply::SliceA::pitch + in,
                   of.x + (there > 0 ? (row + line + shift) * of.in + c : 0), there, of.aligned);
      }
      Multiply::SliceB::fetch(to_b,
                              {of.weight + static_cast<Wide>(tap) * of.in * task.pitch, task.pitch, task.out},
                              col, from, of.in);
    });
  }

  AFFEKT_DEVICE void operator()() const {
    const Wide row = block_x() / across * static_cast<Wide>(Tile::rows);
    const Wide col = block_x() % across * static_cast<Wide>(Tile::cols);
    // The step within its sequence of every line that this thread fetches; of no row, one before all.
    Wide at[lines];
    AFFEKT_UNROLL
    for (int i = 0; i < lines; ++i) {
      const Wide n = row + (thread_id() + i * threads) / packs;
      at[i] = n < task.rows ? n % task.time : -(Wide{1} << 62);
    }
    Tile tile;
    add(tile, task.main, at, row, col);
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      const Wide n = row + Tile::row(i);
      if (n >= task.rows) continue;
      const Draws draws(task.below > 0 ? *task.key : 0, n);
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        const Wide c = col + Tile::col(j);
        if (c < task.out) between(tile.values[i][j], n, static_cast<int>(c), draws);
      }
    }
    if (task.y == nullptr) return;
    if (task.aside.x != nullptr) add(tile, task.aside, at, row, col);
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      const Wide n = row + Tile::row(i);
      if (n >= task.rows) continue;
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        const Wide c = col + Tile::col(j);
        if (c >= task.out) continue;
        const T v = static_cast<T>(tile.values[i][j]);
        task.y[n * task.out + c] = task.rectify_sum ? rectified(v, task.slope) : v;
      }
    }
  }

 private:
  AFFEKT_DEVICE void between(Value& value, Wide n, int c, const Draws& draws) const {
    const Wide at = n * task.out + c;
    T v = static_cast<T>(value);
    if (task.bias != nullptr) v += task.bias[c];
    if (task.rectify) {
      v = rectified(v, task.slope);
      if (task.below > 0) v = draws.at(c) < task.below ? -T(0) : v * task.scale + T(0);
    }
    if (task.gate != nullptr) v = gated(v, task.gate[at], task.slope, task.scale);
    if (task.h != nullptr) task.h[at] = v;
    if (task.aside_bias != nullptr) v += task.aside_bias[c];
    if (task.start != nullptr) v += task.start[at];
    value = v;
  }
};

/// A convolution of a block whose weight's gradient is wanted.
template <class T>
struct ConvGradientTerm {
  const T *x, *grad;  // (rows, in) and (rows, out): what went in, the gradient of what came out
  int in, taps;
  bool aligned_x, aligned_grad;
  Wide first, step;
  T* parts;  // (slices, taps, out, in)
};

constexpr int kConvTerms = 3;  // two convolutions and the residual

/// Parts of the gradients of weights: a block takes a tile of outputs x inputs of a tap over a slice of rows.
template <template <class, bool, bool> class Kind, class T>
struct ConvWeightParts {
  using Multiply = Product<Kind, T, false, false>;
  using Tile = typename Multiply::Tile;
  static constexpr int threads = kTileThreads;
  static constexpr int shared_bytes() { return Multiply::shared_bytes; }
  static constexpr int pack = 16 / static_cast<int>(sizeof(T)), packs = Multiply::SliceA::length / pack;
  static constexpr int lines = Multiply::SliceA::lines * packs / threads;  // that a thread fetches, of either
  static_assert(Multiply::SliceA::pitch == Multiply::SliceB::pitch && Tile::rows == Tile::cols);
  ConvGradientTerm<T> terms[kConvTerms];
  Wide rows, time, slice;
  int out, slices;

  /// Blocks that a term takes.
  AFFEKT_BOTH static Wide blocks(int out, int in, int taps, int slices) {
    return ceil_div(out, Tile::rows) * ceil_div(in, Tile::cols) * taps * slices;
  }

  AFFEKT_DEVICE void operator()() const {
    const ConvGradientTerm<T>& of = terms[block_y()];
    if (block_x() >= blocks(out, of.in, of.taps, slices)) return;
    const int down = static_cast<int>(ceil_div(out, Tile::rows)),
              across = static_cast<int>(ceil_div(of.in, Tile::cols));
    const int tile_at = block_x() % (down * across), tap = block_x() / (down * across) % of.taps,
              part = block_x() / (down * across) / of.taps;
    const int o = tile_at / across * Tile::rows, c = tile_at % across * Tile::cols;
    const Wide from = part * slice, to = least(from + slice, rows), shift = of.first + tap * of.step;
    Wide at[lines];  // the step of the row that this thread fetches next
    AFFEKT_UNROLL
    for (int i = 0; i < lines; ++i) at[i] = (from + (thread_id() + i * threads) / packs) % time;
    Tile tile;
    Multiply::loop(tile, ceil_div(to - from, Tile::inner), [&](Wide step, T* to_grad, T* to_x) {
      AFFEKT_UNROLL
      for (int i = 0; i < lines; ++i) {
        const int p = thread_id() + i * threads, line = p / packs, in = p % packs * pack;
        const Wide n = from + step * Tile::inner + line, t = at[i] + shift;
        const bool inside = n < to;
        const int there = inside ? most(0, least(pack, out - o - in)) : 0;
        const int there_x = inside && t >= 0 && t < time ? most(0, least(pack, of.in - c - in)) : 0;
        const int place = line * Multiply::SliceA::pitch + in;
        fetch_pack(to_grad + place, of.grad + (there > 0 ? n * out + o + in : 0), there, of.aligned_grad);
        fetch_pack(to_x + place, of.x + (there_x > 0 ? (n + shift) * of.in + c + in : 0), there_x,
                   of.aligned_x);
        at[i] += Tile::inner;
        if (at[i] >= time) at[i] %= time;
      }
    });
    T* const parts = of.parts + (static_cast<Wide>(part) * of.taps + tap) * out * of.in;
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        const int row = o + Tile::row(i), col = c + Tile::col(j);
        if (row < out && col < of.in)
          parts[static_cast<Wide>(row) * of.in + col] = static_cast<T>(tile.values[i][j]);
      }
    }
  }
};

/// Parts of the gradients of biases: sums of the columns of `grads` over a slice of rows. A block takes 32
/// columns, eight rows at a time.
template <class T>
struct ConvBiasParts {
  static constexpr int threads = 256, columns = 32, teams = threads / columns;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(double)); }
  const T* grads[kConvTerms];
  double* parts[kConvTerms];  // (slices, out)
  Wide rows, slice;
  int out, across;

  AFFEKT_DEVICE void operator()() const {
    double* const sums = reinterpret_cast<double*>(shared_memory());
    const int team = thread_id() / columns, c = block_x() % across * columns + thread_id() % columns;
    const Wide part = block_x() / across, to = least((part + 1) * slice, rows);
    const T* const grad = grads[block_y()];
    double sum = 0;
    for (Wide n = part * slice + team; c < out && n < to; n += teams)
      sum += static_cast<double>(grad[n * out + c]);
    sums[thread_id()] = sum;
    barrier();
    if (team != 0 || c >= out) return;
    for (int t = 1; t < teams; ++t) sum += sums[t * columns + thread_id()];
    parts[block_y()][part * out + c] = sum;
  }
};

/// The sum of parts (slices, taps, out, in), in T or in double, to (out, in, taps).
template <class T>
struct ConvSum {
  const T* parts;
  const double* wide;  // where parts are null
  T* to;
  int out, in, taps;
};

/// A thread takes a value of a sum.
template <class T>
struct ConvFinish {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  ConvSum<T> sums[2 * kConvTerms];
  int slices;

  AFFEKT_DEVICE void operator()() const {
    const ConvSum<T>& of = sums[block_y()];
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    const Wide each = static_cast<Wide>(of.out) * of.in, all = each * of.taps;
    if (at >= all) return;
    double sum = 0;
    for (int s = 0; s < slices; ++s)
      sum += of.parts != nullptr ? static_cast<double>(of.parts[s * all + at]) : of.wide[s * all + at];
    of.to[at % each * of.taps + at / each] = static_cast<T>(sum);
  }
};

/// A weight (out, in, taps) for ConvTerm, or, `swapped`, for the way back: with inputs and outputs exchanged.
template <class T>
struct ConvWeight {
  const T* weight;
  T* to;  // (taps, in, pitch)
  int out, in, taps, pitch;
  bool swapped;
};

/// A thread takes a value of what is written, zeros behind the outputs included.
template <class T>
struct ConvPack {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  ConvWeight<T> weights[kConvTerms];

  AFFEKT_DEVICE void operator()() const {
    const ConvWeight<T>& of = weights[block_y()];
    const int lines = of.swapped ? of.out : of.in, width = of.swapped ? of.in : of.out;
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    if (at >= static_cast<Wide>(of.taps) * lines * of.pitch) return;
    const int column = static_cast<int>(at % of.pitch);
    const Wide line = at / of.pitch % lines, tap = at / of.pitch / lines;
    const Wide o = of.swapped ? line : column, c = of.swapped ? column : line;
    of.to[at] = column < width ? of.weight[(o * of.in + c) * of.taps + tap] : T(0);
  }
};

/// The gradients of the residual sum and, through the second rectifier and its dropout, of the second
/// convolution. A thread takes four values.
template <class T>
struct ConvGate {
  static constexpr int threads = 256, each = 4;
  static constexpr int shared_bytes() { return 0; }
  const T *grad, *y, *h2;
  T *sum, *second;
  Wide values;
  T slope, scale;

  AFFEKT_DEVICE void operator()() const {
    const Wide first = static_cast<Wide>(block_x()) * (threads * each) + thread_id();
    AFFEKT_UNROLL
    for (int e = 0; e < each; ++e) {
      const Wide at = first + e * threads;
      if (at >= values) return;
      const T g = gated(grad[at], y[at], slope, T(1));
      sum[at] = g;
      second[at] = gated(g, h2[at], slope, scale);
    }
  }
};

}  // namespace affekt::gpu
