// Kernels of the contrastive losses, InfoNCE and supervised, without a matrix of all cosines in memory.
//
// With unit vectors u of the rows, v of the candidates (of b or a, then the extra negatives) and s = scale
// u.v:
// 1. ContrastSums: tiles of s -> sums of exponentials of each row and, where columns are anchors too, of each
//    column; one part per tile. ContrastMerge adds the parts in a fixed order, in double.
// 2. ContrastTerms, ContrastTotal: the loss, and what the gradient needs of every row and column.
// 3. ContrastGradient: tiles of s again -> G = p_row + p_column - positives, a chunk of rows at a time; and
//    the gradient of the scale.
// 4. ContrastProduct: dU = G V, dV = G^T U. ContrastThrough: gradients of unit vectors -> of embeddings.
//
// Exponentials have the two forms of affekt/losses.hpp: exp(s - scale), one for rows and columns alike, up to
// a scale of 30 (cosines are at most 1); about each row's and column's maximum beyond. The scale is read on
// the GPU.
#pragma once

#include "tiles.cuh"

namespace affekt::gpu {

constexpr double kContrastBounded = 30;
constexpr double kLog2e = 1.4426950408889634;

template <class Value>
AFFEKT_DEVICE bool contrast_bounded(const Value* scale) {
  return static_cast<double>(*scale) <= kContrastBounded;
}

// Sum over the warp, in a fixed order, for all lanes.
AFFEKT_DEVICE double warp_sum(double x) {
  AFFEKT_UNROLL
  for (int mask = 16; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Sum over a block of `threads` threads, for thread 0, through memory for as many values.
AFFEKT_DEVICE double block_sum(double x, int threads, double* memory) {
  const int me = thread_id();
  memory[me] = x;
  for (int half = threads / 2; half > 0; half /= 2) {
    barrier();
    if (me < half) memory[me] += memory[me + half];
  }
  barrier();
  const double sum = memory[0];
  barrier();
  return sum;
}

/// unit = x / max(|x|, 1e-12), rounded to E; inverse[row] is what x is multiplied by. A warp takes a row.
template <class In, class E>
struct ContrastUnits {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  const In* x;
  Wide rows, dim, pitch;
  E* unit;
  double* inverse;  // or null

  AFFEKT_DEVICE void operator()() const {
    const Wide row = static_cast<Wide>(block_x()) * (threads / 32) + thread_id() / 32;
    if (row >= rows) return;
    const In* const from = x + row * dim;
    double square = 0;
    for (Wide d = thread_id() % 32; d < dim; d += 32) {
      const auto v = static_cast<double>(to_float(from[d]));
      square = fused(v, v, square);
    }
    const double norm = root(warp_sum(square)), by = 1 / (norm < 1e-12 ? 1e-12 : norm);
    for (Wide d = thread_id() % 32; d < dim; d += 32) {
      const auto v = to_float(from[d]);
      using V = decltype(to_float(E{}));
      round_to(static_cast<V>(static_cast<double>(v) * by), unit[row * pitch + d]);
    }
    if (inverse != nullptr && thread_id() % 32 == 0) inverse[row] = by;
  }
};

/// What both passes over the tiles know.
template <class E, class Value>
struct ContrastTask {
  Operand<E> a, b;        // unit vectors of the chunk's rows, and of all candidates
  Wide dim, first, rows;  // the chunk begins at row `first` of `rows`
  const Value* scale;
  const long long* labels;
  Wide shift;
  bool exclude;

  /// Whether the candidate counts in the sums of the row, both inside the matrix.
  AFFEKT_DEVICE bool counts(Wide row, Wide col) const { return !(exclude && row == col); }
  AFFEKT_DEVICE Wide positive_of(Wide row) const {
    return row + shift < rows ? row + shift : row + shift - rows;
  }
  /// Whether they are a pair of SupCon.
  AFFEKT_DEVICE bool alike(long long label, Wide row, Wide col) const {
    return col < rows && col != row && labels[col] == label;
  }
};

/// exp(scale (cosine - 1)).
template <class E, bool Fast>
struct ContrastExponential;
template <class Value>
struct ContrastExponential<Value, false> {
  Value scale;
  AFFEKT_DEVICE explicit ContrastExponential(Value scale_) : scale(scale_) {}
  AFFEKT_DEVICE Value bounded(Value cosine) const { return exponential(scale * (cosine - 1)); }
  AFFEKT_DEVICE Value about(Value cosine, Value top) const { return exponential(fused(scale, cosine, -top)); }
};
template <>
struct ContrastExponential<float, true> {
  float scale, base;
  AFFEKT_DEVICE explicit ContrastExponential(float scale_)
      : scale(scale_), base(scale_ * static_cast<float>(kLog2e)) {}
  AFFEKT_DEVICE float bounded(float cosine) const { return fast_exp2(fused(base, cosine, -base)); }
  AFFEKT_DEVICE float about(float cosine, float top) const {
    return fast_exp2(fused(scale, cosine, -top) * static_cast<float>(kLog2e));
  }
};

/// A sum of exponentials, sum * exp(top).
template <class Value>
struct ContrastSum {
  Value top, sum;

  AFFEKT_DEVICE void merge(const ContrastSum& with) {
    if (with.top == -infinity<Value>()) return;
    if (with.top > top) {
      sum *= exponential(top - with.top);
      top = with.top;
    }
    sum = fused(with.sum, exponential(with.top - top), sum);
  }
};

template <template <class, bool, bool> class Kind, class E, bool Fast>
struct ContrastSums {
  using Multiply = Product<Kind, E, true, true>;
  using Tile = typename Multiply::Tile;
  using Value = typename Tile::Value;
  static constexpr int threads = kTileThreads;
  static constexpr int line = Tile::rows + 8;  // of a table of parts in shared memory
  static_assert(Tile::rows == Tile::cols);
  static constexpr int table = 16 * line;
  static constexpr int shared_bytes() {
    return most(Multiply::shared_bytes, 2 * table * static_cast<int>(sizeof(Value)));
  }
  ContrastTask<E, Value> task;
  // Parts: of rows (tiles of columns, chunk), of columns (tiles of rows in the chunk, rows).
  ContrastSum<Value>*row_part, *col_part;  // col_part may be null
  Value* matched;                          // InfoNCE: cosine with the positive, of each row
  Value *positives, *pairs;                // SupCon: sum of the positive cosines, their number; like row_part

  // Adds what 16 threads hold of each line of the tile and gives it to put(line, sum).
  template <class Index, class Put>
  AFFEKT_DEVICE void add_parts(const Value (&mine)[Tile::ni], int part, const Index& index,
                               const Put& put) const {
    Value* const memory = reinterpret_cast<Value*>(shared_memory());
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) memory[part * line + index(i)] = mine[i];
    barrier();
    for (int r = thread_id(); r < Tile::rows; r += threads) {
      Value sum = 0;
      for (int p = 0; p < 16; ++p) sum += memory[p * line + r];
      put(r, sum);
    }
    barrier();
  }
  template <class Index, class Put>
  AFFEKT_DEVICE void merge_parts(const ContrastSum<Value> (&mine)[Tile::ni], int part, const Index& index,
                                 const Put& put) const {
    Value* const memory = reinterpret_cast<Value*>(shared_memory());
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      memory[part * line + index(i)] = mine[i].top;
      memory[table + part * line + index(i)] = mine[i].sum;
    }
    barrier();
    for (int r = thread_id(); r < Tile::rows; r += threads) {
      ContrastSum<Value> sum{-infinity<Value>(), 0};
      for (int p = 0; p < 16; ++p) sum.merge({memory[p * line + r], memory[table + p * line + r]});
      put(r, sum);
    }
    barrier();
  }

  AFFEKT_DEVICE void operator()() const {
    static_assert(Tile::ni == Tile::nj);
    const Wide row = static_cast<Wide>(block_y()) * Tile::rows,
               col = static_cast<Wide>(block_x()) * Tile::cols;
    const Wide chunk = task.a.outer, all = task.b.outer;
    Tile tile;
    Multiply::run(tile, task.a, task.b, row, col, task.dim);
    const auto row_at = [&](int i) { return row + Tile::row(i); };
    const auto col_at = [&](int j) { return col + Tile::col(j); };
    const auto counts = [&](int i, int j) {
      return row_at(i) < chunk && col_at(j) < all && task.counts(task.first + row_at(i), col_at(j));
    };
    const auto put_row = [&](int r, const ContrastSum<Value>& sum) {
      if (row + r < chunk) row_part[static_cast<Wide>(block_x()) * chunk + row + r] = sum;
    };
    const auto put_col = [&](int c, const ContrastSum<Value>& sum) {
      if (col + c < task.rows) col_part[static_cast<Wide>(block_y()) * task.rows + col + c] = sum;
    };

    if (task.labels == nullptr) {
      AFFEKT_UNROLL
      for (int i = 0; i < Tile::ni; ++i) {
        const Wide at = task.first + row_at(i), positive = task.positive_of(at);
        AFFEKT_UNROLL
        for (int j = 0; j < Tile::nj; ++j) {
          if (row_at(i) < chunk && col_at(j) == positive) matched[at] = tile.values[i][j];
        }
      }
    } else {
      Value of[Tile::ni] = {}, number[Tile::ni] = {};
      AFFEKT_UNROLL
      for (int i = 0; i < Tile::ni; ++i) {
        if (row_at(i) >= chunk) continue;
        const Wide at = task.first + row_at(i);
        const long long label = task.labels[at];
        AFFEKT_UNROLL
        for (int j = 0; j < Tile::nj; ++j) {
          if (!task.alike(label, at, col_at(j))) continue;
          of[i] += tile.values[i][j];
          number[i] += 1;
        }
      }
      const auto put = [&](Value* to) {
        return [to, row, chunk](int r, Value sum) {
          if (row + r < chunk) to[static_cast<Wide>(block_x()) * chunk + row + r] = sum;
        };
      };
      add_parts(of, Tile::row_part(), Tile::row, put(positives));
      add_parts(number, Tile::row_part(), Tile::row, put(pairs));
    }

    const ContrastExponential<Value, Fast> e(*task.scale);
    if (contrast_bounded(task.scale)) {
      Value of_row[Tile::ni] = {}, of_col[Tile::nj] = {};
      AFFEKT_UNROLL
      for (int i = 0; i < Tile::ni; ++i) {
        AFFEKT_UNROLL
        for (int j = 0; j < Tile::nj; ++j) {
          const Value x = counts(i, j) ? e.bounded(tile.values[i][j]) : Value(0);
          of_row[i] += x;
          of_col[j] += x;
        }
      }
      add_parts(of_row, Tile::row_part(), Tile::row, [&](int r, Value sum) {
        put_row(r, {*task.scale, sum});
      });
      if (col_part != nullptr)
        add_parts(of_col, Tile::col_part(), Tile::col, [&](int c, Value sum) {
          put_col(c, {*task.scale, sum});
        });
      return;
    }
    // The threads' own maxima first, then their sums about them: n exponentials for n values.
    ContrastSum<Value> of[Tile::ni];
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      of[i] = {-infinity<Value>(), 0};
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        if (counts(i, j)) of[i].top = most(of[i].top, e.scale * tile.values[i][j]);
      }
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        if (counts(i, j)) of[i].sum += e.about(tile.values[i][j], of[i].top);
      }
    }
    merge_parts(of, Tile::row_part(), Tile::row, put_row);
    if (col_part == nullptr) return;
    AFFEKT_UNROLL
    for (int j = 0; j < Tile::nj; ++j) {
      of[j] = {-infinity<Value>(), 0};
      AFFEKT_UNROLL
      for (int i = 0; i < Tile::ni; ++i) {
        if (counts(i, j)) of[j].top = most(of[j].top, e.scale * tile.values[i][j]);
      }
      AFFEKT_UNROLL
      for (int i = 0; i < Tile::ni; ++i) {
        if (counts(i, j)) of[j].sum += e.about(tile.values[i][j], of[j].top);
      }
    }
    merge_parts(of, Tile::col_part(), Tile::col, put_col);
  }
};

/// Adds parts to sums, in double and in the order of the parts; `fresh` sums begin with them. A thread takes
/// one.
template <class Value>
struct ContrastMerge {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  const ContrastSum<Value>* part;  // (parts, count)
  Wide parts, count;
  bool fresh;
  const Value* scale;
  double *top, *sum;  // (count)

  AFFEKT_DEVICE void operator()() const {
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    if (at >= count) return;
    ContrastSum<double> all{-infinity<double>(), 0};
    if (!fresh) all = {top[at], sum[at]};
    if (contrast_bounded(scale)) {
      for (Wide p = 0; p < parts; ++p) all.sum += static_cast<double>(part[p * count + at].sum);
      all.top = static_cast<double>(*scale);
    } else {
      for (Wide p = 0; p < parts; ++p)
        all.merge(
            {static_cast<double>(part[p * count + at].top), static_cast<double>(part[p * count + at].sum)});
    }
    top[at] = all.top;
    sum[at] = all.sum;
  }
};

/// SupCon: plain sums of parts.
template <class Value>
struct ContrastAdd {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  const Value *positives, *pairs;  // (parts, count)
  Wide parts, count;
  double *of_positives, *of_pairs;  // (count)

  AFFEKT_DEVICE void operator()() const {
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    if (at >= count) return;
    double sum = 0, number = 0;
    for (Wide p = 0; p < parts; ++p) {
      sum += static_cast<double>(positives[p * count + at]);
      number += static_cast<double>(pairs[p * count + at]);
    }
    of_positives[at] = sum;
    of_pairs[at] = number;
  }
};

/// The terms of the loss, one sum per block, and the weights of the gradient: a row's p is bounded
/// exponential x weight, or exp(s - weight). A row that is no anchor has a weight that makes p 0.
template <class Value>
struct ContrastTerms {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(double)); }
  Wide count;
  const double *top, *sum;
  const Value* matched;             // InfoNCE rows, or null
  double per_match;                 // times that a positive counts
  const double *positives, *pairs;  // SupCon, or null
  const Value* scale;
  Value *weight, *share;    // share: SupCon, 1 / pairs
  double *terms, *anchors;  // (blocks)

  AFFEKT_DEVICE void operator()() const {
    auto* const memory = reinterpret_cast<double*>(shared_memory());
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    const bool bounded = contrast_bounded(scale);
    double term = 0, anchor = 0;
    if (at < count) {
      const double log_sum = top[at] + logarithm(sum[at]), number = pairs == nullptr ? 1 : pairs[at];
      if (number > 0) {
        anchor = 1;
        term = log_sum;
        if (matched != nullptr)
          term -= per_match * static_cast<double>(*scale) * static_cast<double>(matched[at]);
        if (pairs != nullptr) term -= static_cast<double>(*scale) * positives[at] / number;
        weight[at] = static_cast<Value>(bounded ? 1 / sum[at] : log_sum);
      } else {
        weight[at] = bounded ? Value(0) : infinity<Value>();
      }
      if (share != nullptr) share[at] = number > 0 ? static_cast<Value>(1 / number) : Value(0);
    }
    const double all = block_sum(term, threads, memory), of_anchors = block_sum(anchor, threads, memory);
    if (thread_id() == 0) {
      terms[block_x()] = all;
      anchors[block_x()] = of_anchors;
    }
  }
};

/// Adds the terms of all blocks. weight[0]: of a term in the loss; below 0 the mean over the anchors is asked
/// for. NaN, and with it the gradients, where the scale is no positive number.
template <class Value>
struct ContrastTotal {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(double)); }
  const double *terms, *anchors;
  Wide count;
  double of_term;
  const Value* scale;
  double* weight;
  Value* loss;

  AFFEKT_DEVICE void operator()() const {
    auto* const memory = reinterpret_cast<double*>(shared_memory());
    double term = 0, anchor = 0;
    for (Wide i = thread_id(); i < count; i += threads) {
      term += terms[i];
      anchor += anchors[i];
    }
    term = block_sum(term, threads, memory);
    anchor = block_sum(anchor, threads, memory);
    if (thread_id() != 0) return;
    const bool fits = *scale > 0 && *scale < infinity<Value>();
    const double of_all = of_term >= 0 ? of_term : anchor > 0 ? 1 / anchor : 0;
    *weight = fits ? of_all : infinity<double>() - infinity<double>();
    *loss = static_cast<Value>(*weight * term);
  }
};

template <template <class, bool, bool> class Kind, class E, bool Fast>
struct ContrastGradient {
  using Multiply = Product<Kind, E, true, true>;
  using Tile = typename Multiply::Tile;
  using Value = typename Tile::Value;
  static constexpr int threads = kTileThreads, pack = 16 / static_cast<int>(sizeof(E));
  static constexpr int line = Tile::cols + pack;
  static constexpr int shared_bytes() {
    return most(Multiply::shared_bytes, Tile::rows * line * static_cast<int>(sizeof(E)));
  }
  ContrastTask<E, Value> task;
  const Value *row_weight, *col_weight;  // col_weight: of the first `rows` candidates, or null
  const Value* share;                    // SupCon, or null
  Value per_match;                       // InfoNCE
  Value factor;                          // that keeps a narrow format out of its smallest numbers
  E* gradient;                           // (chunk, pitch)
  Wide pitch;
  double* scale_part;  // (blocks): sum of gradient x cosine

  AFFEKT_DEVICE void operator()() const {
    const Wide row = static_cast<Wide>(block_y()) * Tile::rows,
               col = static_cast<Wide>(block_x()) * Tile::cols;
    const Wide chunk = task.a.outer, all = task.b.outer;
    Tile tile;
    Multiply::run(tile, task.a, task.b, row, col, task.dim);
    const ContrastExponential<Value, Fast> e(*task.scale);
    const bool bounded = contrast_bounded(task.scale);
    E* const memory = reinterpret_cast<E*>(shared_memory());
    Value of_col[Tile::nj];
    AFFEKT_UNROLL
    for (int j = 0; j < Tile::nj; ++j) {
      const Wide c = col + Tile::col(j);
      of_col[j] = col_weight != nullptr && c < task.rows ? col_weight[c]
                  : bounded                              ? Value(0)
                                                         : infinity<Value>();
    }
    Value of_scale = 0;
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      const Wide r = row + Tile::row(i), at = task.first + r;
      const bool inside = r < chunk;
      const Value of_row = inside ? row_weight[at] : Value(0);
      const Wide positive = inside ? task.positive_of(at) : -1;
      const long long label = inside && task.labels != nullptr ? task.labels[at] : 0;
      const Value pair = inside && share != nullptr ? 2 * share[at] : Value(0);
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        const Wide c = col + Tile::col(j);
        const Value cosine = tile.values[i][j];
        Value g = 0;
        if (inside && c < all) {
          if (task.counts(at, c))
            g = bounded ? e.bounded(cosine) * (of_row + of_col[j])
                        : e.about(cosine, of_row) + e.about(cosine, of_col[j]);
          if (task.labels == nullptr) {
            if (c == positive) g -= per_match;
          } else if (task.alike(label, at, c)) {
            g -= pair;
          }
          // Every cosine among the rows of SupCon is there twice.
          of_scale = fused(task.labels != nullptr && c < task.rows ? g / 2 : g, cosine, of_scale);
        }
        round_to(g * factor, memory[Tile::row(i) * line + Tile::col(j)]);
      }
    }
    barrier();
    for (int p = thread_id(); p < Tile::rows * (Tile::cols / pack); p += threads) {
      const int r = p / (Tile::cols / pack), c = p % (Tile::cols / pack) * pack;
      if (row + r < chunk && col + c < pitch)
        store_pack<pack>(gradient + (row + r) * pitch + col + c, load_pack<pack>(memory + r * line + c));
    }
    barrier();
    const double sum =
        block_sum(static_cast<double>(of_scale), threads, reinterpret_cast<double*>(shared_memory()));
    if (thread_id() == 0) scale_part[static_cast<Wide>(block_y()) * blocks_x() + block_x()] = sum;
  }
};

/// total (+)= the sum of the parts; with `out` the gradient of the scale, once all are in.
template <class Value>
struct ContrastScale {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(double)); }
  const double* part;
  Wide count;
  bool fresh;
  double* total;
  const double* weight;
  Value* out;  // or null

  AFFEKT_DEVICE void operator()() const {
    double sum = 0;
    for (Wide i = thread_id(); i < count; i += threads) sum += part[i];
    sum = block_sum(sum, threads, reinterpret_cast<double*>(shared_memory()));
    if (thread_id() != 0) return;
    if (!fresh) sum += *total;
    *total = sum;
    if (out != nullptr) *out = static_cast<Value>(*weight * sum);
  }
};

/// out (+)= A B, (rows, cols) with `pitch`. Blocks are numbered through in x, the tiles of one row after
/// another; in y they take a slice of the inner index each, and leave parts of the sum.
template <template <class, bool, bool> class Kind, class E, bool InnerA, bool InnerB>
struct ContrastProduct {
  using Multiply = Product<Kind, E, InnerA, InnerB>;
  using Tile = typename Multiply::Tile;
  using Value = typename Tile::Value;
  static constexpr int threads = kTileThreads;
  static constexpr int shared_bytes() { return Multiply::shared_bytes; }
  Operand<E> a, b;
  Wide inner, slice;  // slice: a multiple of Tile::inner, or all
  Value* out;
  Wide pitch, part;  // from line to line, from part to part
  bool add;

  AFFEKT_DEVICE void operator()() const {
    const Wide begin = static_cast<Wide>(block_y()) * slice;
    const auto from = [begin](const Operand<E>& of, bool inner_first) {
      return Operand<E>{of.data + begin * (inner_first ? 1 : of.pitch), of.pitch, of.outer};
    };
    const Wide across = ceil_div(b.outer, Tile::cols), block = block_x();
    const Wide row = block / across * Tile::rows, col = block % across * Tile::cols;
    Tile tile;
    const Wide here = most(Wide{0}, least(slice, inner - begin));
    Multiply::run(tile, from(a, InnerA), from(b, InnerB), row, col, here);
    Value* const into = out + static_cast<Wide>(block_y()) * part;
    AFFEKT_UNROLL
    for (int i = 0; i < Tile::ni; ++i) {
      AFFEKT_UNROLL
      for (int j = 0; j < Tile::nj; ++j) {
        const Wide r = row + Tile::row(i), c = col + Tile::col(j);
        if (r >= a.outer || c >= b.outer) continue;
        Value& to = into[r * pitch + c];
        to = add ? to + tile.values[i][j] : tile.values[i][j];
      }
    }
  }
};

/// Gradient of unit vectors -> of what they were made from: by (g - u (u . g)) / |x|. A warp takes a row.
template <class In, class Out, class Value>
struct ContrastThrough {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  const In* x;
  Wide rows, dim;
  const double* inverse;
  const Value* gradient;  // (parts, rows, dim), to be added up
  Wide parts, part;       // from part to part
  const Value* scale;
  const double* weight;
  double factor;  // of `gradient`, to be taken out
  Out* out;

  AFFEKT_DEVICE void operator()() const {
    const Wide row = static_cast<Wide>(block_x()) * (threads / 32) + thread_id() / 32;
    if (row >= rows) return;
    const double by = inverse[row], all = *weight * static_cast<double>(*scale) / factor * by;
    const auto at = [&](Wide d) {
      double sum = 0;
      for (Wide p = 0; p < parts; ++p) sum += static_cast<double>(gradient[p * part + row * dim + d]);
      return sum;
    };
    double dot = 0;
    for (Wide d = thread_id() % 32; d < dim; d += 32)
      dot = fused(static_cast<double>(to_float(x[row * dim + d])) * by, at(d), dot);
    dot = warp_sum(dot);
    for (Wide d = thread_id() % 32; d < dim; d += 32) {
      const double unit = static_cast<double>(to_float(x[row * dim + d])) * by;
      round_to(static_cast<Value>(all * (at(d) - unit * dot)), out[row * dim + d]);
    }
  }
};

}  // namespace affekt::gpu
