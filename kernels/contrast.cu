#include "contrast.hpp"

#include <type_traits>

#include "contrast.cuh"
#include "launch.hpp"

namespace affekt::gpu {

// In: of the embeddings; E: of unit vectors and of the gradient's matrix.
template <class In, class E, template <class, bool, bool> class Kind, bool Fast>
struct ContrastPlan {
  using Sums = ContrastSums<Kind, E, Fast>;
  using Gradient = ContrastGradient<Kind, E, Fast>;
  using Value = typename Sums::Value;
  // A gradient for a unit upstream would lose its small values in fp16.
  using Out = std::conditional_t<std::is_same_v<In, Half>, float, In>;
  static constexpr Wide rows_of = Sums::Tile::rows, cols_of = Sums::Tile::cols, pack = 16 / sizeof(E);
  // Keeps probabilities over fp16's denormals; twice the largest of them stays in its range.
  static constexpr double factor = std::is_same_v<E, Half> ? 16384 : 1;

  const Contrast& c;
  bool supervised, gradients, for_a, for_b, columns;
  Wide all, pitch, pitch_g, chunk, row_tiles, col_tiles, blocks, slices;
  Wide bytes;
  E *unit_a, *unit_b, *g;
  double *inverse_a, *inverse_b, *row_top, *row_sum, *col_top, *col_sum, *positives, *pairs, *terms, *anchors;
  double *weight, *scale_part, *scale_total;
  Value *matched, *row_weight, *col_weight, *share, *of_positives, *of_pairs, *d_a, *d_b;
  ContrastSum<Value>*row_part, *col_part;

  ContrastPlan(const Contrast& task, void* base)
      : c(task),
        supervised(task.labels != nullptr),
        gradients(task.grad_a != nullptr || task.grad_b != nullptr),
        for_a(task.grad_a != nullptr),
        for_b(task.grad_b != nullptr && !supervised),
        columns(task.columns && !supervised),
        all(task.rows + task.extra) {
    pitch = ceil_div(c.dim, pack) * pack;
    pitch_g = ceil_div(all, pack) * pack;
    // No more than a copy of the embeddings in float32 takes, or than is nothing on a GPU.
    const Wide bytes_of_g = least(c.budget, most(4 * c.rows * c.dim, Wide{8} << 20));
    const Wide fit = bytes_of_g / (pitch_g * static_cast<Wide>(sizeof(E))) / rows_of * rows_of;
    chunk = least(most(fit, Wide{256}), ceil_div(c.rows, rows_of) * rows_of);
    row_tiles = chunk / rows_of, col_tiles = ceil_div(all, cols_of), blocks = ceil_div(c.rows, 256);
    // A chunk has few rows: its product with all candidates is cut along these, so that there are blocks for
    // about as many multiprocessors as GPUs have; the same number on each, for the same bits.
    slices = most(Wide{1}, least(128 / (row_tiles * ceil_div(c.dim, cols_of)), ceil_div(all, 256)));
    Workspace memory(base);
    unit_b = memory.take<E>(all * pitch);
    unit_a = supervised ? unit_b : memory.take<E>(c.rows * pitch);
    inverse_b = memory.take<double>(c.rows);
    inverse_a = supervised ? inverse_b : memory.take<double>(c.rows);
    row_top = memory.take<double>(c.rows);
    row_sum = memory.take<double>(c.rows);
    row_weight = memory.take<Value>(c.rows);
    matched = memory.take<Value>(supervised ? 0 : c.rows);
    const Wide of_columns = columns ? c.rows : 0, of_pairs_count = supervised ? c.rows : 0;
    col_top = memory.take<double>(of_columns);
    col_sum = memory.take<double>(of_columns);
    col_weight = memory.take<Value>(of_columns);
    positives = memory.take<double>(of_pairs_count);
    pairs = memory.take<double>(of_pairs_count);
    share = memory.take<Value>(of_pairs_count);
    row_part = memory.take<ContrastSum<Value>>(col_tiles * chunk);
    col_part = memory.take<ContrastSum<Value>>(columns ? row_tiles * c.rows : 0);
    of_positives = memory.take<Value>(supervised ? col_tiles * chunk : 0);
    of_pairs = memory.take<Value>(supervised ? col_tiles * chunk : 0);
    terms = memory.take<double>(2 * blocks);
    anchors = memory.take<double>(2 * blocks);
    weight = memory.take<double>(1);
    scale_total = memory.take<double>(1);
    scale_part = memory.take<double>(gradients ? row_tiles * col_tiles : 0);
    g = memory.take<E>(gradients ? chunk * pitch_g : 0);
    d_a = memory.take<Value>(for_a ? slices * chunk * c.dim : 0);
    d_b = memory.take<Value>(for_b ? c.rows * c.dim : 0);
    bytes = memory.used();
  }

  const char* run(Stream stream) {
    const char* problem = nullptr;
    const auto go = [&](Grid grid, const auto& kernel) {
      if (problem == nullptr) problem = launch(grid, stream, kernel);
    };
    const auto* const scale = static_cast<const Value*>(c.scale);
    const auto per = [](Wide count, Wide each) { return Grid{ceil_div(count, each)}; };

    const auto units_of = [&](const void* x, Wide rows, E* to, double* inverse) {
      go(per(rows, 8), ContrastUnits<In, E>{static_cast<const In*>(x), rows, c.dim, pitch, to, inverse});
    };
    if (!supervised) units_of(c.a, c.rows, unit_a, inverse_a);
    units_of(supervised ? c.a : c.b, c.rows, unit_b, inverse_b);
    units_of(c.negatives, c.extra, unit_b + c.rows * pitch, nullptr);

    const auto each_chunk = [&](const auto& f) {
      for (Wide first = 0; first < c.rows; first += chunk) {
        const Wide rows = least(chunk, c.rows - first);
        f(first, rows,
          ContrastTask<E, Value>{{unit_a + first * pitch, pitch, rows},
                                 {unit_b, pitch, all},
                                 c.dim,
                                 first,
                                 c.rows,
                                 scale,
                                 c.labels,
                                 c.shift,
                                 c.exclude || supervised},
          Grid{col_tiles, ceil_div(rows, rows_of)});
      }
    };
    each_chunk([&](Wide first, Wide rows, const auto& task, Grid tiles) {
      go(tiles, Sums{task, row_part, columns ? col_part : nullptr, matched, of_positives, of_pairs});
      go(per(rows, 256),
         ContrastMerge<Value>{row_part, col_tiles, rows, true, scale, row_top + first, row_sum + first});
      if (columns)
        go(per(c.rows, 256),
           ContrastMerge<Value>{col_part, tiles.y, c.rows, first == 0, scale, col_top, col_sum});
      if (supervised)
        go(per(rows, 256),
           ContrastAdd<Value>{of_positives, of_pairs, col_tiles, rows, positives + first, pairs + first});
    });

    const double per_match = columns ? 2 : 1;
    go({blocks}, ContrastTerms<Value>{c.rows, row_top, row_sum, supervised ? nullptr : matched, per_match,
                                      supervised ? positives : nullptr, supervised ? pairs : nullptr, scale,
                                      row_weight, supervised ? share : nullptr, terms, anchors});
    if (columns)
      go({blocks}, ContrastTerms<Value>{c.rows, col_top, col_sum, nullptr, 0, nullptr, nullptr, scale,
                                        col_weight, nullptr, terms + blocks, anchors + blocks});
    go({1}, ContrastTotal<Value>{terms, anchors, columns ? 2 * blocks : blocks, supervised ? -1 : c.weight,
                                 scale, weight, static_cast<Value*>(c.loss)});
    if (!gradients) return problem;

    const auto through = [&](const void* x, Wide first, Wide rows, const double* inverse, const Value* d,
                             Wide parts, void* to) {
      go(per(rows, 8), ContrastThrough<In, Out, Value>{
                           static_cast<const In*>(x) + first * c.dim, rows, c.dim, inverse + first, d, parts,
                           chunk * c.dim, scale, weight, factor, static_cast<Out*>(to) + first * c.dim});
    };
    // Of a slice along the candidates.
    const Wide inner_of = Product<Kind, E, true, false>::Tile::inner;
    const Wide slice = ceil_div(ceil_div(all, slices), inner_of) * inner_of;
    each_chunk([&](Wide first, Wide rows, const auto& task, Grid tiles) {
      go(tiles, Gradient{task, row_weight,
                         supervised ? row_weight
                         : columns  ? col_weight
                                    : nullptr,
                         supervised ? share : nullptr, static_cast<Value>(per_match),
                         static_cast<Value>(factor), g, pitch_g, scale_part});
      const bool last = first + rows == c.rows;
      go({1}, ContrastScale<Value>{scale_part, tiles.x * tiles.y, first == 0, scale_total, weight,
                                   last ? static_cast<Value*>(c.grad_scale) : nullptr});
      const auto grid = [&](Wide lines, Wide parts) {
        return Grid{ceil_div(c.dim, cols_of) * ceil_div(lines, rows_of), parts};
      };
      if (for_a) {
        go(grid(rows, slices),
           ContrastProduct<Kind, E, true, false>{
               {g, pitch_g, rows}, {unit_b, pitch, c.dim}, all, slice, d_a, c.dim, chunk * c.dim, false});
        through(c.a, first, rows, inverse_a, d_a, slices, c.grad_a);
      }
      if (for_b)
        go(grid(c.rows, 1), ContrastProduct<Kind, E, false, false>{{g, pitch_g, c.rows},
                                                                   {unit_a + first * pitch, pitch, c.dim},
                                                                   rows,
                                                                   rows,
                                                                   d_b,
                                                                   c.dim,
                                                                   0,
                                                                   first > 0});
    });
    if (for_b) through(c.b, 0, c.rows, inverse_b, d_b, 1, c.grad_b);
    return problem;
  }
};

namespace {

// Calls f with the plan of the task's numbers.
template <class F>
auto with_plan(const Contrast& c, void* workspace, F&& f) {
  if (c.number == Number::float64) return f(ContrastPlan<double, double, PlainTile, false>(c, workspace));
  if (c.number == Number::bfloat16) return f(ContrastPlan<Bf16, Bf16, TensorTile, true>(c, workspace));
  if (c.number == Number::float16) return f(ContrastPlan<Half, Half, TensorTile, true>(c, workspace));
  if (c.tf32) return f(ContrastPlan<float, float, TensorTile, true>(c, workspace));
  return f(ContrastPlan<float, float, PlainTile, false>(c, workspace));
}

}  // namespace

Wide contrast_workspace(const Contrast& task) {
  return with_plan(task, nullptr, [](auto plan) { return plan.bytes; });
}

const char* contrast_run(const Contrast& task, void* workspace, Stream stream) {
  return with_plan(task, workspace, [&](auto plan) { return plan.run(stream); });
}

}  // namespace affekt::gpu
