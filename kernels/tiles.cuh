// One main loop for all matrix products: a block makes a tile of C = A B from slices of A and B that cp.async
// brings into a ring of stages in shared memory, and leaves the tile in registers for the caller's epilogue.
//
// A is (rows, inner) and B (inner, cols). Either may lie with the inner index contiguous (rows of
// embeddings), or with the outer one (a transposed operand): InnerA, InnerB.
#pragma once

#include "device.cuh"

namespace affekt::gpu {

/// An operand in device memory: `outer` lines along the rows or columns of C, `pitch` elements from line to
/// line of what is contiguous. Data and pitch are multiples of 16 bytes.
template <class E>
struct Operand {
  const E* data;
  Wide pitch;
  Wide outer;
};

constexpr int kTileThreads = 256, kTileStages = 4;

/// How 256 threads hold a tile: `values[i][j]` is the element (row(i), col(j)) of it. 16 threads hold parts
/// of a row, 16 hold parts of a column: `row_part` and `col_part` number them.
///
/// Plain multiply-adds, for float and double: what an operand has contiguous is read 16 bytes at a time.
template <class T, bool InnerA, bool InnerB>
struct PlainTile {
  using Element = T;
  using Value = T;
  static constexpr int pack = 16 / static_cast<int>(sizeof(T));
  static constexpr int rows = 16 * pack * 2, cols = rows, inner = 64 / static_cast<int>(sizeof(T));
  static constexpr int ni = rows / 16, nj = cols / 16;
  Value values[ni][nj] = {};

  AFFEKT_DEVICE static int spread(bool inner_first, int thread, int i) {
    return inner_first ? thread + 16 * i : thread * pack + i % pack + 16 * pack * (i / pack);
  }
  AFFEKT_DEVICE static int row(int i) { return spread(InnerA, thread_id() / 16, i); }
  AFFEKT_DEVICE static int col(int j) { return spread(InnerB, thread_id() % 16, j); }
  AFFEKT_DEVICE static int row_part() { return thread_id() % 16; }
  AFFEKT_DEVICE static int col_part() { return thread_id() / 16; }

  // The elements [outer(i)][k .. k + pack) of this thread.
  template <bool Inner, int N>
  AFFEKT_DEVICE static void read(T (&to)[N][pack], const T* slice, int pitch, int thread, int k) {
    AFFEKT_UNROLL
    for (int i = 0; i < N; i += Inner ? 1 : pack) {
      if (Inner) {
        const auto got = load_pack<pack>(slice + spread(true, thread, i) * pitch + k);
        AFFEKT_UNROLL
        for (int e = 0; e < pack; ++e) to[i][e] = got.at[e];
      } else {
        AFFEKT_UNROLL
        for (int e = 0; e < pack; ++e) {
          const auto got = load_pack<pack>(slice + (k + e) * pitch + spread(false, thread, i));
          AFFEKT_UNROLL
          for (int o = 0; o < pack; ++o) to[i + o][e] = got.at[o];
        }
      }
    }
  }

  AFFEKT_DEVICE void add(const T* a, int pitch_a, const T* b, int pitch_b) {
    AFFEKT_UNROLL
    for (int k = 0; k < inner; k += pack) {
      T left[ni][pack], right[nj][pack];
      read<InnerA>(left, a, pitch_a, thread_id() / 16, k);
      read<InnerB>(right, b, pitch_b, thread_id() % 16, k);
      AFFEKT_UNROLL
      for (int e = 0; e < pack; ++e) {
        AFFEKT_UNROLL
        for (int i = 0; i < ni; ++i) {
          AFFEKT_UNROLL
          for (int j = 0; j < nj; ++j) values[i][j] = fused(left[i][e], right[j][e], values[i][j]);
        }
      }
    }
  }
};

/// Tensor cores, for bf16, fp16 and, with float, tf32: 2 x 4 warps of 64 x 32.
template <class E, bool InnerA, bool InnerB>
struct TensorTile {
  using Element = E;
  using Value = float;
  static constexpr int rows = 128, cols = 128, inner = 64 / static_cast<int>(sizeof(E));
  static constexpr int ni = 8, nj = 8;
  Value values[ni][nj] = {};

  AFFEKT_DEVICE static int warp() { return thread_id() / 32; }
  AFFEKT_DEVICE static int lane() { return thread_id() % 32; }
  AFFEKT_DEVICE static int row(int i) { return warp() / 4 * 64 + i / 2 * 16 + i % 2 * 8 + lane() / 4; }
  AFFEKT_DEVICE static int col(int j) { return warp() % 4 * 32 + j / 2 * 8 + lane() % 4 * 2 + j % 2; }
  AFFEKT_DEVICE static int row_part() { return warp() % 4 * 4 + lane() % 4; }
  AFFEKT_DEVICE static int col_part() { return warp() / 4 * 8 + lane() / 4; }

  // Fragments of 16 rows of A, or of 16 columns of B, at inner index k: registers in the order of A; for B,
  // those of the first 8 columns are 0 and 1. The 16-bit formats take 16 inner indices at a time, tf32
  // takes 8.
  template <bool Inner, bool OfA>
  AFFEKT_DEVICE static void read(unsigned (&to)[4], const E* slice, int pitch, int outer, int k) {
    // Which of the two 8 x 8 halves a register belongs to: for A rows change first, for B the inner index
    // does.
    if constexpr (sizeof(E) == 2) {
      const int q = lane() / 8, first = q % 2 * 8, second = q / 2 * 8, in = lane() % 8;
      const int o = outer + (OfA ? first : second), at = k + (OfA ? second : first);
      if (Inner)
        load_matrices(to, slice + (o + in) * pitch + at);
      else
        load_matrices_transposed(to, slice + (at + in) * pitch + o);
    } else {
      AFFEKT_UNROLL
      for (int q = 0; q < 4; ++q) {
        const int o = outer + (OfA ? q % 2 : q / 2) * 8 + lane() / 4,
                  at = k + (OfA ? q / 2 : q % 2) * 4 + lane() % 4;
        to[q] = to_tf32(Inner ? slice[o * pitch + at] : slice[at * pitch + o]);
      }
    }
  }

  AFFEKT_DEVICE void add(const E* a, int pitch_a, const E* b, int pitch_b) {
    constexpr int step = sizeof(E) == 2 ? 16 : 8;
    AFFEKT_UNROLL
    for (int k = 0; k < inner; k += step) {
      unsigned left[4][4], right[2][4];
      AFFEKT_UNROLL
      for (int i = 0; i < 4; ++i) read<InnerA, true>(left[i], a, pitch_a, warp() / 4 * 64 + i * 16, k);
      AFFEKT_UNROLL
      for (int j = 0; j < 2; ++j) read<InnerB, false>(right[j], b, pitch_b, warp() % 4 * 32 + j * 16, k);
      AFFEKT_UNROLL
      for (int i = 0; i < 4; ++i) {
        AFFEKT_UNROLL
        for (int j = 0; j < 4; ++j) {
          auto &up = values[2 * i], &down = values[2 * i + 1];
          multiply_add(E{}, up[2 * j], up[2 * j + 1], down[2 * j], down[2 * j + 1], left[i],
                       right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
};

/// Brings 16 bytes of elements into shared memory, of which the first `there` come from `from` and the others
/// are 0; in the background where both addresses are multiples of 16.
template <class E>
AFFEKT_DEVICE void fetch_pack(E* to, const E* from, int there, bool aligned) {
  if (aligned) {
    copy_async(to, from, there * static_cast<int>(sizeof(E)));
    return;
  }
  AFFEKT_UNROLL
  for (int e = 0; e < 16 / static_cast<int>(sizeof(E)); ++e) to[e] = e < there ? from[e] : E(0);
}

/// A slice of an operand in shared memory: lines of what is contiguous, padded so that neither ldmatrix nor
/// plain reads of a column of fragments meet one bank twice.
template <class E, int Outer, int InnerSize, bool Inner>
struct Slice {
  static constexpr int lines = Inner ? Outer : InnerSize, length = Inner ? InnerSize : Outer;
  static constexpr int pitch = length + (sizeof(E) == 4 && !Inner ? 32 : 16) / static_cast<int>(sizeof(E));
  static constexpr int elements = lines * pitch;

  /// Starts the copies of the slice at (outer, inner); beyond the operand's ends there are zeros.
  AFFEKT_DEVICE static void fetch(E* to, const Operand<E>& of, Wide outer, Wide at, Wide inner_size) {
    constexpr int pack = 16 / static_cast<int>(sizeof(E)), packs = length / pack;
    const Wide first_line = Inner ? outer : at, first = Inner ? at : outer;
    const Wide all_lines = Inner ? of.outer : inner_size, all = Inner ? inner_size : of.outer;
    static_assert(lines * packs % kTileThreads == 0);
    AFFEKT_UNROLL
    for (int p = thread_id(); p < lines * packs; p += kTileThreads) {
      const Wide line = first_line + p / packs, from = first + p % packs * pack;
      const Wide there = line < all_lines ? most(Wide{0}, least(Wide{pack}, all - from)) : 0;
      copy_async(to + p / packs * pitch + p % packs * pack,
                 of.data + (there > 0 ? line * of.pitch + from : 0),
                 static_cast<int>(there) * static_cast<int>(sizeof(E)));
    }
  }
};

/// The product of a tile type with its stages.
template <template <class, bool, bool> class Kind, class E, bool InnerA, bool InnerB>
struct Product {
  using Tile = Kind<E, InnerA, InnerB>;
  using SliceA = Slice<E, Tile::rows, Tile::inner, InnerA>;
  using SliceB = Slice<E, Tile::cols, Tile::inner, InnerB>;
  static constexpr int stage = SliceA::elements + SliceB::elements;
  static constexpr int shared_bytes = kTileStages * stage * static_cast<int>(sizeof(E));

  /// tile += the sum over the steps of A B, whose slices fetch(step, to_a, to_b) starts to bring, step after
  /// step; the shared memory is free when it returns.
  template <class Fetch>
  AFFEKT_DEVICE static void loop(Tile& tile, Wide steps, Fetch&& fetch_slices) {
    E* const memory = reinterpret_cast<E*>(shared_memory());
    const auto fetch = [&](Wide step) {
      if (step < steps) {
        E* const to = memory + step % kTileStages * stage;
        fetch_slices(step, to, to + SliceA::elements);
      }
      end_copies();  // an empty group keeps the count
    };
    for (int s = 0; s < kTileStages - 1; ++s) fetch(s);
    for (Wide step = 0; step < steps; ++step) {
      wait_copies<kTileStages - 2>();
      barrier();  // the slice is there for all, and the one before it is read by all
      fetch(step + kTileStages - 1);
      const E* const from = memory + step % kTileStages * stage;
      tile.add(from, SliceA::pitch, from + SliceA::elements, SliceB::pitch);
    }
    wait_copies<0>();
    barrier();
  }

  /// tile += A B for rows from `row` and columns from `col`; the shared memory is free when it returns.
  AFFEKT_DEVICE static void run(Tile& tile, const Operand<E>& a, const Operand<E>& b, Wide row, Wide col,
                                Wide inner_size) {
    loop(tile, ceil_div(inner_size, Tile::inner), [&](Wide step, E* to_a, E* to_b) {
      SliceA::fetch(to_a, a, row, step * Tile::inner, inner_size);
      SliceB::fetch(to_b, b, col, step * Tile::inner, inner_size);
    });
  }
};

}  // namespace affekt::gpu
