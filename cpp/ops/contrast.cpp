// affekt::_info_nce and affekt::_sup_con: contrastive losses on CPU tensors, value and gradients in one call;
// and affekt::_log_sums with its gradient, the block of a matrix that others hold parts of.
//
// The matrix of cosines is made tile by tile with torch's own matrix product. A first pass over the tiles
// gives the sum of exponentials of every row and, where both directions count, of every column; a second pass
// turns each tile into the gradient of its logits and multiplies it out. Tiles stay between the passes while
// they fit the caller's bytes and are computed again beyond.
#include "affekt/losses.hpp"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "contrast_arguments.hpp"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Large enough for the matrix product to run at full speed, small enough for a tile to stay in the cache; a
// small budget makes them lower.
constexpr std::int64_t kTileRows = 512, kTileCols = 2048;
// Rows of a tile that one job takes; fixed, since the columns' sums are merged job by job.
constexpr std::int64_t kJobRows = 32;

enum class Part { both, rows_only, diagonal };  // whose sums a tile goes into

template <class T>
constexpr ScalarType dtype_of() {
  return sizeof(T) == sizeof(float) ? ScalarType::Float : ScalarType::Double;
}

// A matrix over memory of somebody else.
template <class T>
Tensor view(T* data, std::int64_t rows, std::int64_t cols, std::int64_t row_stride, std::int64_t col_stride) {
  const std::int64_t sizes[] = {rows, cols}, strides[] = {row_stride, col_stride};
  AtenTensorHandle handle = nullptr;
  const std::int32_t code =
      torch::stable::detail::to<std::int32_t>(torch::stable::detail::from(dtype_of<T>()));
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(data, 2, sizes, strides, 0, code,
                                                            aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// out = a b, or out += a b. torch's product on several threads may sum in another order; in a parallel
// region, which takes two jobs, it keeps to one.
void multiply(const Tensor& out, const Tensor& a, const Tensor& b, bool add, bool loose) {
  AOTITorchError failed = 0;
  const auto run = [&] {
    failed = add ? aoti_torch_cpu_addmm_out(out.get(), out.get(), a.get(), b.get(), 1, 1)
                 : aoti_torch_cpu_mm_out(out.get(), a.get(), b.get());
  };
  if (loose) {
    run();
  } else {
    torch::stable::parallel_for(0, 2, 1, [&](std::int64_t begin, std::int64_t) {
      if (begin == 0) run();
    });
  }
  TORCH_ERROR_CODE_CHECK(failed);
}

template <class F>
void run_rows(std::int64_t rows, std::int64_t grain, F&& f) {
  affekt::run_ranges(affekt::on_torch_threads, static_cast<std::size_t>(rows),
                     static_cast<std::size_t>(grain), [&f](std::size_t begin, std::size_t end) noexcept {
                       f(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(end));
                     });
}

// A sum whose rounding does not grow with the count (Neumaier): terms of a loss are alike, so that plain
// rounding errors would all go one way.
class Sum {
 public:
  Sum& operator+=(double x) {
    const double next = sum_ + x;
    lost_ += std::abs(sum_) >= std::abs(x) ? (sum_ - next) + x : (x - next) + sum_;
    sum_ = next;
    return *this;
  }
  operator double() const { return std::isfinite(lost_) ? sum_ + lost_ : sum_; }

 private:
  double sum_ = 0, lost_ = 0;
};

// Rows of embeddings: their unit vectors, the sums of their logits, and their gradient.
template <class T>
struct Side {
  const affekt::ContrastSteps<T>& steps = affekt::contrast_steps<T>();
  Tensor from;
  std::int64_t n, dim;
  std::vector<double> norm, sum;
  std::vector<T> most;    // running maximum of the logits, free form only
  std::vector<T> weight;  // what the second pass multiplies or subtracts
  Tensor units;           // all unit vectors, or those of two blocks where there is no room for all
  bool whole;
  T* grad = nullptr;

  Side(const Tensor& x, bool room_for_all)
      : from(affekt::dense(x)),
        n(x.size(0)),
        dim(x.size(1)),
        norm(static_cast<std::size_t>(n)),
        sum(static_cast<std::size_t>(n)),
        most(static_cast<std::size_t>(n), -std::numeric_limits<T>::infinity()),
        weight(static_cast<std::size_t>(n)),
        units(affekt::fresh({room_for_all ? n : 2 * kTileCols, dim}, dtype_of<T>())),
        whole(room_for_all) {
    if (whole) fill(0, n, units.template mutable_data_ptr<T>());
  }

  void fill(std::int64_t first, std::int64_t count, T* to) {
    run_rows(count, 256, [&](std::int64_t begin, std::int64_t end) {
      steps.unit(from.template const_data_ptr<T>() + (first + begin) * dim,
                 static_cast<std::size_t>(end - begin), static_cast<std::size_t>(dim), to + begin * dim,
                 norm.data() + first + begin);
    });
  }

  // Unit vectors of at most kTileCols rows; valid until the next call with this slot, 0 or 1.
  T* unit(std::int64_t first, std::int64_t count, std::int64_t slot = 0) {
    T* const all = units.template mutable_data_ptr<T>();
    if (whole) return all + first * dim;
    fill(first, count, all + slot * kTileCols * dim);
    return all + slot * kTileCols * dim;
  }
};

template <class T>
struct Tile {
  std::int64_t row, rows, col, cols;
  Side<T>* side;  // the columns'
  Part part;
  std::optional<Tensor> kept;
};

template <class T>
class Contrast {
 public:
  // `budget` is what the scratch memory may take: two tiles, which get a quarter of it at most, then unit
  // vectors, then tiles to keep. `loose` lets the rounding of the products depend on the number of threads.
  Contrast(double scale, std::int64_t budget, bool gradients, bool loose)
      : scale_(static_cast<T>(scale)),
        bounded_(scale <= affekt::kBoundedScale),
        gradients_(gradients),
        loose_(loose),
        budget_(budget),
        tile_rows_(std::clamp(budget / 4 / (2 * kTileCols * static_cast<std::int64_t>(sizeof(T))) / kJobRows,
                              std::int64_t{1}, kTileRows / kJobRows) *
                   kJobRows) {}

  std::int64_t tile_rows() const { return tile_rows_; }

  // Takes n rows of unit vectors out of the budget; false, and only two blocks of them, if they do not fit
  // into half of what the tiles leave.
  bool room(const Tensor& x) {
    const std::int64_t row = x.size(1) * static_cast<std::int64_t>(sizeof(T)), bytes = x.size(0) * row;
    const std::int64_t tiles = 2 * tile_rows_ * kTileCols * static_cast<std::int64_t>(sizeof(T));
    const bool fits = x.size(0) <= 2 * kTileCols || bytes <= (budget_ - tiles) / 2;
    budget_ -= fits ? bytes : 2 * kTileCols * row;
    return fits;
  }

  // Tiles of the rows [row, row + rows) against [first, side.n).
  void add_tiles(std::int64_t row, std::int64_t rows, Side<T>& side, std::int64_t first, std::int64_t last,
                 Part part) {
    for (std::int64_t col = first; col < last; col += kTileCols)
      tiles_.push_back({row, rows, col, std::min(kTileCols, last - col), &side, part, std::nullopt});
  }

  // Makes the scratch memory of both passes, once the tiles are known.
  void reserve() {
    std::int64_t widest = 0, tallest = 0;
    for (const Tile<T>& tile : tiles_) {
      widest = std::max(widest, tile.cols);
      tallest = std::max(tallest, tile.rows);
    }
    const std::int64_t jobs = (tallest + kJobRows - 1) / kJobRows;
    // Two tiles of scratch, the columns' sums of each job, and per row a norm, a sum, a maximum and a weight.
    budget_ -= static_cast<std::int64_t>(sizeof(T)) * (2 * tallest * widest + 2 * jobs * widest);
    for (const Side<T>* side : sides_) budget_ -= side->n * static_cast<std::int64_t>(16 + 2 * sizeof(T));
    scratch_ = affekt::fresh({tallest, widest}, dtype_of<T>());
    if (gradients_) logits_gradient_ = affekt::fresh({tallest, widest}, dtype_of<T>());
    col_sum_.resize(static_cast<std::size_t>(jobs * widest));
    if (!bounded_) col_max_.resize(col_sum_.size());
  }

  // First pass: on_cosines(tile, cosines) may read and change the products before they count.
  template <class F>
  void sums(Side<T>& rows, F&& on_cosines) {
    reserve();
    for (Tile<T>& tile : tiles_) {
      const std::int64_t bytes = tile.rows * tile.cols * static_cast<std::int64_t>(sizeof(T));
      if (gradients_ && bytes <= budget_) {
        budget_ -= bytes;
        tile.kept = affekt::fresh({tile.rows, tile.cols}, dtype_of<T>());
      }
      T* const at = cosines(rows, tile);
      on_cosines(tile, at);
      add_sums(rows, tile, at);
    }
  }

  // log of the sum of exp(logit) of row i.
  double log_sum(const Side<T>& side, std::size_t i) const {
    return std::log(side.sum[i]) + static_cast<double>(bounded_ ? scale_ : side.most[i]);
  }

  // What the second pass needs of row i whose log-sum-exp enters the loss with this weight.
  void set_weight(Side<T>& side, std::size_t i, double weight) {
    side.weight[i] = static_cast<T>(bounded_ ? weight / side.sum[i] : log_sum(side, i) - std::log(weight));
  }

  // The same where the weight is e^(log-sum-exp - level) and the log-sum-exp somebody else's.
  void set_level(Side<T>& side, std::size_t i, double level) const {
    side.weight[i] = static_cast<T>(bounded_ ? std::exp(static_cast<double>(scale_) - level) : level);
  }

  // Second pass over the tiles that `which` picks: adds to the gradients of both sides, before the factor
  // scale. on_gradient(tile, g) may change the gradient of the cosines.
  template <class W, class F>
  void gradients(Side<T>& rows, W&& which, bool for_rows, bool for_cols, const F& on_gradient) {
    for (Tile<T>& tile : tiles_) {
      if (!which(tile)) continue;
      T* const at = tile.kept ? tile.kept->template mutable_data_ptr<T>() : cosines(rows, tile);
      if (!tile.kept) exclude(tile, at);
      T* const g = logits_gradient_.template mutable_data_ptr<T>();
      const T* const col =
          tile.part == Part::rows_only || !columns_ ? nullptr : tile.side->weight.data() + tile.col;
      const auto cols = static_cast<std::size_t>(tile.cols);
      run_rows(tile.rows, kJobRows, [&](std::int64_t begin, std::int64_t end) {
        const T* const row = rows.weight.data() + tile.row + begin;
        const auto n = static_cast<std::size_t>(end - begin);
        const T* const in = at + begin * tile.cols;
        T* const out = g + begin * tile.cols;
        if (bounded_)
          rows.steps.bounded_gradient(in, n, cols, scale_, tile.kept.has_value(), row, col, out);
        else
          rows.steps.free_gradient(in, n, cols, scale_, row, col, out);
      });
      on_gradient(tile, g);
      const std::int64_t dim = rows.dim;
      const bool onto_cols = for_cols && tile.side->grad != nullptr && tile.part != Part::diagonal;
      if (for_rows)
        multiply(view(rows.grad + tile.row * dim, tile.rows, dim, dim, 1),
                 view(g, tile.rows, tile.cols, tile.cols, 1),
                 view(tile.side->unit(tile.col, tile.cols, 1), tile.cols, dim, dim, 1), true, loose_);
      if (onto_cols)
        multiply(view(tile.side->grad + tile.col * dim, tile.cols, dim, dim, 1),
                 view(g, tile.cols, tile.rows, 1, tile.cols),
                 view(rows.unit(tile.row, tile.rows), tile.rows, dim, dim, 1), true, loose_);
    }
  }

  // The gradient of unit vectors becomes that of the embeddings; the sum of unit . gradient before the
  // factor.
  double finish(Side<T>& side, double factor) {
    Sum total;
    std::vector<double> dots(static_cast<std::size_t>(side.n));
    for (std::int64_t first = 0; first < side.n; first += kTileCols) {
      const std::int64_t count = std::min(kTileCols, side.n - first);
      const T* const unit = side.unit(first, count);
      run_rows(count, 256, [&](std::int64_t begin, std::int64_t end) {
        side.steps.through_unit(side.grad + (first + begin) * side.dim, unit + begin * side.dim,
                                side.norm.data() + first + begin, static_cast<std::size_t>(end - begin),
                                static_cast<std::size_t>(side.dim), factor, dots.data() + first + begin);
      });
    }
    for (const double d : dots) total += d;
    return total;
  }

  void set(std::vector<Side<T>*> sides, bool columns, bool without_self) {
    sides_ = std::move(sides);
    columns_ = columns;
    without_self_ = without_self;
  }

 private:
  T* cosines(Side<T>& rows, Tile<T>& tile) {
    T* const at = (tile.kept ? *tile.kept : scratch_).template mutable_data_ptr<T>();
    const std::int64_t dim = rows.dim;
    T* const a = rows.unit(tile.row, tile.rows);
    T* const b = tile.part == Part::diagonal ? a : tile.side->unit(tile.col, tile.cols, 1);
    multiply(view(at, tile.rows, tile.cols, tile.cols, 1), view(a, tile.rows, dim, dim, 1),
             view(b, dim, tile.cols, 1, dim), false, loose_);
    return at;
  }

 public:
  // Entries whose row and column have one index take no part: their exponential is 0.
  void exclude(const Tile<T>& tile, T* at) const {
    if (!without_self_ || tile.part == Part::rows_only) return;
    for (std::int64_t i = std::max(tile.row, tile.col);
         i < std::min(tile.row + tile.rows, tile.col + tile.cols); ++i)
      at[(i - tile.row) * tile.cols + i - tile.col] = -std::numeric_limits<T>::infinity();
  }

 private:
  void add_sums(Side<T>& rows, const Tile<T>& tile, T* at) {
    exclude(tile, at);
    const bool onto_cols = columns_ && tile.part == Part::both;
    const auto cols = static_cast<std::size_t>(tile.cols);
    const std::int64_t jobs = (tile.rows + kJobRows - 1) / kJobRows;
    run_rows(jobs, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t job = begin; job < end; ++job) {
        const std::int64_t first = job * kJobRows, row = tile.row + first;
        const auto n = static_cast<std::size_t>(std::min(kJobRows, tile.rows - first));
        T* const part = at + first * tile.cols;
        T* const sum = onto_cols ? col_sum_.data() + job * tile.cols : nullptr;
        if (bounded_)
          rows.steps.bounded_sums(part, n, cols, scale_, tile.kept.has_value(), rows.sum.data() + row, sum);
        else
          rows.steps.free_sums(part, n, cols, scale_, rows.most.data() + row, rows.sum.data() + row,
                               onto_cols ? col_max_.data() + job * tile.cols : nullptr, sum);
      }
    });
    if (!onto_cols) return;
    for (std::int64_t job = 0; job < jobs; ++job) {
      for (std::size_t j = 0; j < cols; ++j) {
        const std::size_t of = static_cast<std::size_t>(job) * cols + j,
                          to = static_cast<std::size_t>(tile.col) + j;
        double& sum = tile.side->sum[to];
        if (bounded_) {
          sum += static_cast<double>(col_sum_[of]);
          continue;
        }
        T& most = tile.side->most[to];
        if (col_max_[of] > most) {
          sum *= std::exp(static_cast<double>(most - col_max_[of]));
          most = col_max_[of];
        }
        if (col_max_[of] != -std::numeric_limits<T>::infinity())
          sum += static_cast<double>(col_sum_[of]) * std::exp(static_cast<double>(col_max_[of] - most));
      }
    }
  }

  T scale_;
  bool bounded_, gradients_, loose_, columns_ = false, without_self_ = false;
  std::int64_t budget_, tile_rows_;
  std::vector<Side<T>*> sides_;
  std::vector<Tile<T>> tiles_;
  Tensor scratch_, logits_gradient_;
  std::vector<T> col_sum_, col_max_;
};

// Cuts rows [0, n) into blocks of `rows`.
template <class F>
void each_block(std::int64_t n, std::int64_t rows, F&& f) {
  for (std::int64_t row = 0; row < n; row += rows) f(row, std::min(rows, n - row));
}

double scale_value(const Tensor& scale) {
  const double value = scale.scalar_type() == ScalarType::Float
                           ? static_cast<double>(*scale.const_data_ptr<float>())
                           : *scale.const_data_ptr<double>();
  if (!(value > 0) || !std::isfinite(value))
    throw affekt::InvalidArgument("temperature: expected a positive number, got a scale 1/temperature of " +
                                  std::to_string(value));
  return value;
}

Tensor zeros_or_empty(const Tensor& like, bool wanted) {
  return wanted ? torch::stable::new_zeros(like, {like.size(0), like.size(1)})
                : affekt::fresh({0}, like.scalar_type());
}

template <class T>
Tensor scalar(double value) {
  Tensor tensor = affekt::fresh({}, dtype_of<T>());
  *tensor.template mutable_data_ptr<T>() = static_cast<T>(value);
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> info_nce(Tensor a, Tensor b, std::optional<Tensor> negatives,
                                                    Tensor scale, std::int64_t shift, bool exclude,
                                                    bool columns, double weight, std::int64_t budget,
                                                    bool for_a, bool for_b, bool loose) {
  affekt::require_info_nce(a, b, negatives, scale, shift, exclude, columns, weight);
  const double factor = scale_value(scale);
  const std::int64_t n = a.size(0);
  Tensor grad_a = zeros_or_empty(a, for_a), grad_b = zeros_or_empty(b, for_b);
  return affekt::with_dtype("a", a, [&](auto zero) {
    using T = decltype(zero);
    const bool gradients = for_a || for_b;
    Contrast<T> contrast(factor, budget, gradients, loose);
    Side<T> rows(a, contrast.room(a)), cols(b, contrast.room(b));
    std::optional<Side<T>> queue;
    std::vector<Side<T>*> sides{&rows, &cols};
    if (negatives && negatives->size(0) > 0) {
      queue.emplace(*negatives, contrast.room(*negatives));
      sides.push_back(&*queue);
    }
    contrast.set(sides, columns, exclude);
    each_block(n, contrast.tile_rows(), [&](std::int64_t row, std::int64_t count) {
      contrast.add_tiles(row, count, cols, 0, n, Part::both);
      if (queue) contrast.add_tiles(row, count, *queue, 0, queue->n, Part::rows_only);
    });

    // The positive of row i is column (i + shift) mod n.
    const auto each_positive = [&](const Tile<T>& tile, T* at, auto&& f) {
      if (tile.part == Part::rows_only) return;
      for (std::int64_t i = 0; i < tile.rows; ++i) {
        const std::int64_t j = (tile.row + i + shift) % n - tile.col;
        if (j >= 0 && j < tile.cols) f(at[i * tile.cols + j]);
      }
    };
    Sum matched;
    contrast.sums(rows, [&](const Tile<T>& tile, T* at) {
      each_positive(tile, at, [&](T& cosine) { matched += static_cast<double>(cosine); });
    });
    Sum log_sums;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
      log_sums += contrast.log_sum(rows, i) + (columns ? contrast.log_sum(cols, i) : 0);
    const double per_match = columns ? 2 : 1;
    const double loss = weight * (log_sums - per_match * factor * matched);

    double grad_scale = 0;
    if (gradients) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
        contrast.set_weight(rows, i, weight);
        if (columns) contrast.set_weight(cols, i, weight);
      }
      if (for_a) rows.grad = grad_a.template mutable_data_ptr<T>();
      if (for_b) cols.grad = grad_b.template mutable_data_ptr<T>();
      contrast.gradients(
          rows, [](const Tile<T>&) { return true; }, for_a, for_b,
          [&](const Tile<T>& tile, T* g) {
            each_positive(tile, g, [&](T& at) { at -= static_cast<T>(per_match * weight); });
          });
      if (for_b) grad_scale = contrast.finish(cols, factor);
      if (for_a) grad_scale = contrast.finish(rows, factor);
    }
    return std::make_tuple(scalar<T>(loss), grad_a, grad_b, scalar<T>(grad_scale));
  });
}

// log of the sum of exp(logit) of every row and, with `columns`, of every column; -inf where there is
// nothing.
std::tuple<Tensor, Tensor> log_sums(Tensor a, Tensor b, Tensor scale, bool exclude, bool columns,
                                    std::int64_t budget, bool loose) {
  affekt::require_block(a, b, scale);
  const double factor = scale_value(scale);
  const std::int64_t n = a.size(0), m = b.size(0);
  Tensor row_sums = affekt::fresh({n}, ScalarType::Double),
         col_sums = affekt::fresh({columns ? m : 0}, ScalarType::Double);
  return affekt::with_dtype("a", a, [&](auto zero) {
    using T = decltype(zero);
    Contrast<T> contrast(factor, budget, false, loose);
    Side<T> rows(a, contrast.room(a)), cols(b, contrast.room(b));
    contrast.set({&rows, &cols}, columns, exclude);
    each_block(n, contrast.tile_rows(), [&](std::int64_t row, std::int64_t count) {
      contrast.add_tiles(row, count, cols, 0, m, Part::both);
    });
    contrast.sums(rows, [](const Tile<T>&, T*) {});
    const auto write = [&](const Side<T>& side, Tensor& to) {
      double* const out = to.template mutable_data_ptr<double>();
      for (std::int64_t i = 0; i < to.size(0); ++i)
        out[i] = contrast.log_sum(side, static_cast<std::size_t>(i));
    };
    write(rows, row_sums);
    write(cols, col_sums);
    return std::make_tuple(row_sums, col_sums);
  });
}

// The gradient of the cosine of i and j is scale (exp(logit - row[i]) + exp(logit - col[j])).
std::tuple<Tensor, Tensor, Tensor> log_sums_bwd(Tensor a, Tensor b, Tensor scale, Tensor row,
                                                std::optional<Tensor> col, bool exclude, std::int64_t budget,
                                                bool for_a, bool for_b, bool loose) {
  affekt::require_block(a, b, scale);
  affekt::require_levels("row", row, a.size(0));
  if (col) affekt::require_levels("col", *col, b.size(0));
  const double factor = scale_value(scale);
  Tensor grad_a = zeros_or_empty(a, for_a), grad_b = zeros_or_empty(b, for_b);
  return affekt::with_dtype("a", a, [&](auto zero) {
    using T = decltype(zero);
    Contrast<T> contrast(factor, budget, true, loose);
    Side<T> rows(a, contrast.room(a)), cols(b, contrast.room(b));
    contrast.set({&rows, &cols}, col.has_value(), exclude);
    each_block(rows.n, contrast.tile_rows(), [&](std::int64_t first, std::int64_t count) {
      contrast.add_tiles(first, count, cols, 0, cols.n, Part::both);
    });
    contrast.reserve();
    const auto read = [&](const Tensor& levels, Side<T>& side) {
      const Tensor values = affekt::dense(levels);
      const double* const in = values.template const_data_ptr<double>();
      for (std::size_t i = 0; i < side.weight.size(); ++i) contrast.set_level(side, i, in[i]);
    };
    read(row, rows);
    if (col) read(*col, cols);
    if (for_a) rows.grad = grad_a.template mutable_data_ptr<T>();
    if (for_b) cols.grad = grad_b.template mutable_data_ptr<T>();
    const auto nothing = [](const Tile<T>&, T*) {};
    contrast.gradients(
        rows, [](const Tile<T>&) { return true; }, for_a, for_b, nothing);
    double grad_scale = 0;
    if (for_b) grad_scale = contrast.finish(cols, factor);
    if (for_a) grad_scale = contrast.finish(rows, factor);
    return std::make_tuple(grad_a, grad_b, scalar<T>(grad_scale));
  });
}

// Classes with at least two members, as a number for each row and -1 for rows that are alone.
std::vector<std::int64_t> classes_of(const std::int64_t* labels, std::int64_t n,
                                     std::vector<std::int64_t>& sizes) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(n)), found(static_cast<std::size_t>(n), -1);
  for (std::int64_t i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t i, std::int64_t j) { return labels[i] < labels[j]; });
  for (std::size_t first = 0; first < order.size();) {
    std::size_t end = first + 1;
    while (end < order.size() && labels[order[end]] == labels[order[first]]) ++end;
    if (end - first > 1) {
      for (std::size_t k = first; k < end; ++k)
        found[static_cast<std::size_t>(order[k])] = static_cast<std::int64_t>(sizes.size());
      sizes.push_back(static_cast<std::int64_t>(end - first));
    }
    first = end;
  }
  return found;
}

std::tuple<Tensor, Tensor, Tensor> sup_con(Tensor z, Tensor labels, std::optional<Tensor> negatives,
                                           Tensor scale, std::int64_t budget, bool for_z, bool loose) {
  affekt::require_sup_con(z, labels, negatives, scale);
  const std::int64_t n = z.size(0), dim = z.size(1);
  const double factor = scale_value(scale);
  Tensor grad = zeros_or_empty(z, for_z);
  const Tensor dense_labels = affekt::dense(labels);
  std::vector<std::int64_t> sizes;
  const std::vector<std::int64_t> classes = classes_of(dense_labels.const_data_ptr<std::int64_t>(), n, sizes);
  std::int64_t anchors = 0;
  for (const std::int64_t size : sizes) anchors += size;
  return affekt::with_dtype("z", z, [&](auto zero) {
    using T = decltype(zero);
    if (anchors == 0) return std::make_tuple(scalar<T>(0), grad, scalar<T>(0));
    const double weight = 1 / static_cast<double>(anchors);
    Contrast<T> contrast(factor, budget, for_z, loose);
    Side<T> rows(z, contrast.room(z));
    std::optional<Side<T>> queue;
    std::vector<Side<T>*> sides{&rows};
    if (negatives && negatives->size(0) > 0) {
      queue.emplace(*negatives, contrast.room(*negatives));
      sides.push_back(&*queue);
    }
    contrast.set(sides, true, true);
    // The matrix is symmetric: blocks above the diagonal serve their rows and their columns.
    each_block(n, contrast.tile_rows(), [&](std::int64_t row, std::int64_t count) {
      contrast.add_tiles(row, count, rows, row, row + count, Part::diagonal);
      contrast.add_tiles(row, count, rows, row + count, n, Part::both);
      if (queue) contrast.add_tiles(row, count, *queue, 0, queue->n, Part::rows_only);
    });
    contrast.sums(rows, [](const Tile<T>&, T*) {});

    // The mean cosine with the positives needs no pairs: u . (sum of the class - u) / (size - 1).
    const auto count = static_cast<std::int64_t>(sizes.size());
    Tensor class_sums = torch::stable::new_zeros(z, {count, dim});
    T* const class_sum = class_sums.template mutable_data_ptr<T>();
    const auto each_anchor = [&](auto&& f) {
      each_block(n, contrast.tile_rows(), [&](std::int64_t row, std::int64_t in_block) {
        const T* const unit = rows.unit(row, in_block);
        for (std::int64_t i = row; i < row + in_block; ++i) {
          const std::int64_t c = classes[static_cast<std::size_t>(i)];
          if (c >= 0)
            f(i, unit + (i - row) * dim, class_sum + c * dim,
              1 / static_cast<double>(sizes[static_cast<std::size_t>(c)] - 1));
        }
      });
    };
    each_anchor([&](std::int64_t, const T* unit, T* sum, double) {
      for (std::int64_t d = 0; d < dim; ++d) sum[d] += unit[d];
    });
    const auto width = static_cast<std::size_t>(dim);
    Sum loss;
    each_anchor([&](std::int64_t i, const T* unit, const T* sum, double share) {
      const double matched = rows.steps.dot(unit, sum, width) - rows.steps.dot(unit, unit, width);
      loss += contrast.log_sum(rows, static_cast<std::size_t>(i)) - factor * share * matched;
    });

    double grad_scale = 0;
    if (for_z) {
      T* const g = rows.grad = grad.template mutable_data_ptr<T>();
      for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i)
        contrast.set_weight(rows, i, classes[i] >= 0 ? weight : 0);
      const auto nothing = [](const Tile<T>&, T*) {};
      contrast.gradients(
          rows, [](const Tile<T>& tile) { return tile.part != Part::rows_only; }, true, true, nothing);
      // Every cosine of a positive pair counts twice, once for each of its two anchors.
      each_anchor([&](std::int64_t i, const T* unit, const T* sum, double share) {
        const T by = static_cast<T>(2 * weight * share);
        for (std::int64_t d = 0; d < dim; ++d) g[i * dim + d] -= by * (sum[d] - unit[d]);
      });
      double own = 0;  // sum of unit . gradient without the queue, where every cosine counts twice
      if (queue) {
        each_block(n, contrast.tile_rows(), [&](std::int64_t row, std::int64_t in_block) {
          const T* const unit = rows.unit(row, in_block);
          for (std::int64_t i = 0; i < in_block; ++i)
            own += rows.steps.dot(unit + i * dim, g + (row + i) * dim, width);
        });
        contrast.gradients(
            rows, [](const Tile<T>& tile) { return tile.part == Part::rows_only; }, true, false, nothing);
      }
      const double all = contrast.finish(rows, factor);
      grad_scale = queue ? all - own / 2 : all / 2;
    }
    return std::make_tuple(scalar<T>(weight * loss), grad, scalar<T>(grad_scale));
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(affekt, CPU, m) {
  m.impl("_info_nce", TORCH_BOX(&info_nce));
  m.impl("_sup_con", TORCH_BOX(&sup_con));
  m.impl("_log_sums", TORCH_BOX(&log_sums));
  m.impl("_log_sums_bwd", TORCH_BOX(&log_sums_bwd));
  m.impl("info_nce_loss", TORCH_BOX((&affekt::info_nce_loss<&info_nce, false>)));
  m.impl("pairwise_info_nce_loss", TORCH_BOX((&affekt::pairwise_info_nce_loss<&info_nce, false>)));
  m.impl("sup_con_loss", TORCH_BOX((&affekt::sup_con_loss<&sup_con, false>)));
  m.impl("nt_xent_loss", TORCH_BOX((&affekt::nt_xent_loss<&sup_con, false>)));
}
