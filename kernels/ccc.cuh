// Concordance of pairs of columns, forward and backward: what affekt::ccc_forward and ccc_backward of
// affekt/losses.hpp give, up to rounding.
//
// Forward reads the data once. A thread sums about the first valid element that it meets, in double; its sums
// become means and centred squares, which merge in a fixed order: lanes, threads of a team, slices of a
// window. So results are the same bits in every run and hold at any distance from zero. Backward is affine in
// the data: one read, one write.
#pragma once

#include "device.cuh"

namespace affekt::gpu {

/// Count, means and centred squares of a part of a column.
struct CccMoments {
  double n, mean_p, mean_y, pp, yy, py;

  AFFEKT_DEVICE void merge(const CccMoments& with) {
    if (with.n == 0) return;
    if (n == 0) {
      *this = with;
      return;
    }
    const double all = n + with.n, share = with.n / all, by = n * share;
    const double dp = with.mean_p - mean_p, dy = with.mean_y - mean_y;
    mean_p = fused(dp, share, mean_p);
    mean_y = fused(dy, share, mean_y);
    pp += fused(dp * dp, by, with.pp);
    yy += fused(dy * dy, by, with.yy);
    py += fused(dp * dy, by, with.py);
    n = all;
  }
};

/// How a team of threads goes through `steps` x `dims` elements: V neighbours at a time, so that every lane
/// stays in one column.
template <int V>
struct CccWalk {
  Wide at, stride, end;  // elements
  Wide column;           // of lane 0
  int dims;  // lanes beyond the last column go on at column 0; where a thread owns its columns, none is
             // beyond

  /// `wide`: a thread owns V columns, from `first` on; else the team owns all of them.
  AFFEKT_DEVICE CccWalk(int thread, int team, Wide steps, Wide dims_, bool wide, Wide first)
      : end(steps * dims_), dims(static_cast<int>(dims_)) {
    if (wide) {
      column = first + static_cast<Wide>(thread) * V;
      at = column < dims_ ? column : end;
      stride = dims_;
    } else {
      const int active = team - team % dims;
      at = thread < active ? static_cast<Wide>(thread) * V : end;
      column = static_cast<Wide>(thread) * V % dims_;
      stride = static_cast<Wide>(active) * V;
    }
  }
  AFFEKT_DEVICE Wide column_of(int lane) const { return (column + lane) % dims; }
};

/// Whether V neighbours of the mask count.
template <int V>
AFFEKT_DEVICE Pack<unsigned char, V> valid_of(const unsigned char* mask, Wide at) {
  if (mask != nullptr) return load_pack<V>(mask + at);
  Pack<unsigned char, V> all;
  AFFEKT_UNROLL
  for (int l = 0; l < V; ++l) all.at[l] = 1;
  return all;
}

/// What all launches of forward know.
template <class T>
struct CccForward {
  CccShape shape;
  const T *pred, *target;
  const unsigned char* mask;  // or null
  Wide slice;                 // steps of a window that one team takes
  int slices;                 // of a window
  bool wide;                  // more columns than a team has lanes
  CccMoments* parts;          // (groups * dims, slices)
  double* columns;            // (groups * dims, ccc_values)
  T* loss;
  double eps;
  bool mixed;
  int reduction;  // 0 mean, 1 sum, 2 none

  /// Moments of one slice of a window into `parts`, by a team; `scratch` holds V moments of each of its
  /// threads.
  template <int V>
  AFFEKT_DEVICE void sum(Wide group, int at_slice, int thread, int team, Wide first_column,
                         CccMoments* scratch) const {
    const Wide from = at_slice * slice, dims = shape.dims;
    const Wide steps = group < shape.groups ? least(slice, shape.steps - from) : 0;
    const Wide offset = (group * shape.steps + from) * dims;
    const CccWalk<V> walk(thread, team, steps, dims, wide, first_column);
    double n[V] = {}, p0[V] = {}, y0[V] = {}, p[V] = {}, y[V] = {}, pp[V] = {}, yy[V] = {}, py[V] = {};
    const auto add = [&](int l, T pred_at, T target_at) {
      if (n[l] == 0) {
        p0[l] = static_cast<double>(pred_at);
        y0[l] = static_cast<double>(target_at);
      }
      const double dp = static_cast<double>(pred_at) - p0[l], dy = static_cast<double>(target_at) - y0[l];
      n[l] += 1;
      p[l] += dp;
      y[l] += dy;
      pp[l] = fused(dp, dp, pp[l]);
      yy[l] = fused(dy, dy, yy[l]);
      py[l] = fused(dp, dy, py[l]);
    };
    const T *const of_pred = pred + offset, *const of_target = target + offset;
    const unsigned char* const of_mask = mask == nullptr ? nullptr : mask + offset;
    Wide e = walk.at;
    AFFEKT_UNROLL_BY(4)
    for (; e + V <= walk.end; e += walk.stride) {
      const auto a = load_pack<V>(of_pred + e), b = load_pack<V>(of_target + e);
      const auto valid = valid_of<V>(of_mask, e);
      AFFEKT_UNROLL
      for (int l = 0; l < V; ++l) {
        if (valid.at[l] != 0) add(l, a.at[l], b.at[l]);
      }
    }
    AFFEKT_UNROLL
    for (int l = 0; l < V; ++l) {
      if (e + l < walk.end && (of_mask == nullptr || of_mask[e + l] != 0))
        add(l, of_pred[e + l], of_target[e + l]);
      const double by = n[l] > 0 ? 1 / n[l] : 0;
      scratch[thread * V + l] = {n[l],
                                 fused(p[l], by, p0[l]),
                                 fused(y[l], by, y0[l]),
                                 pp[l] - p[l] * p[l] * by,
                                 yy[l] - y[l] * y[l] * by,
                                 py[l] - p[l] * y[l] * by};
    }
    if (wide) {
      for (int l = 0; l < V && walk.column + l < dims && steps > 0; ++l)
        parts[(group * dims + walk.column + l) * slices + at_slice] = scratch[thread * V + l];
      return;
    }
    // Entry i of the scratch is of column i mod dims.
    const int of_dims = static_cast<int>(dims), entries = (team - team % of_dims) * V,
              rows = entries / of_dims;
    int half = 1;
    while (half < rows) half *= 2;
    for (half /= 2; half > 0; half /= 2) {
      barrier();
      for (int i = thread; i < half * of_dims; i += team) {
        if (i + half * of_dims < entries) scratch[i].merge(scratch[i + half * of_dims]);
      }
    }
    barrier();
    for (int k = thread; k < of_dims && steps > 0; k += team)
      parts[(group * dims + k) * slices + at_slice] = scratch[k];
  }

  /// The moments of a whole column become what backward needs.
  AFFEKT_DEVICE void put(Wide at, const CccMoments& m) const {
    double* const column = columns + at * ccc_values;
    const double n = m.n;
    double loss_at = 0, on_other = 0, on_self = 0, shift = 0;
    if (n > 0) {
      const double freedom = mixed ? most(n - 1, 1.0) : n, apart = m.mean_p - m.mean_y;
      const double denominator = (m.pp + m.yy) / freedom + apart * apart + eps;
      loss_at = 1;
      if (denominator != 0) {
        const double ccc = 2 * (m.py / n) / denominator;
        loss_at = 1 - ccc;
        on_other = -2 / (n * denominator);
        on_self = 2 * ccc / (freedom * denominator);
        shift = 2 * ccc * apart / (n * denominator);
      }
    }
    column[ccc_count] = n;
    column[ccc_mean_p] = m.mean_p;
    column[ccc_mean_y] = m.mean_y;
    column[ccc_loss] = loss_at;
    column[ccc_on_other] = on_other;
    column[ccc_on_self] = on_self;
    column[ccc_shift] = shift;
  }

  /// Merges the slices of every column and reduces over the columns: one block of `threads` threads, whose
  /// shared memory holds one set of moments each.
  AFFEKT_DEVICE void finish(int threads) const {
    auto* const scratch = reinterpret_cast<CccMoments*>(shared_memory());
    const Wide all = shape.groups * shape.dims;
    const int me = thread_id();
    int lanes = 1;  // threads that share a column
    while (lanes < 32 && lanes < slices) lanes *= 2;
    const int each = threads / lanes;
    for (Wide first = 0; first < all; first += each) {
      const Wide at = first + me / lanes;
      CccMoments m{};
      if (at < all) {
        for (int s = me % lanes; s < slices; s += lanes) m.merge(parts[at * slices + s]);
      }
      scratch[me] = m;
      for (int half = lanes / 2; half > 0; half /= 2) {
        barrier();
        if (me % lanes < half) scratch[me].merge(scratch[me + half]);
      }
      if (at < all && me % lanes == 0) put(at, scratch[me]);
      barrier();
    }
    auto* const total = reinterpret_cast<double*>(shared_memory());
    double counted = 0, sum_of = 0;
    for (Wide i = me; i < all; i += threads) {
      counted += columns[i * ccc_values + ccc_count] > 0 ? 1 : 0;
      sum_of += columns[i * ccc_values + ccc_loss];
    }
    total[2 * me] = counted;
    total[2 * me + 1] = sum_of;
    for (int half = threads / 2; half > 0; half /= 2) {
      barrier();
      if (me < half) {
        total[2 * me] += total[2 * (me + half)];
        total[2 * me + 1] += total[2 * (me + half) + 1];
      }
    }
    barrier();
    // The weight of a column in the result goes into its gradient here, once.
    const double weight = reduction == 0 && total[0] > 0 ? 1 / total[0] : 1;
    for (Wide i = me; i < all; i += threads) {
      double* const column = columns + i * ccc_values;
      if (reduction == 2) loss[i] = static_cast<T>(column[ccc_loss]);
      column[ccc_on_other] *= weight;
      column[ccc_on_self] *= weight;
      column[ccc_shift] *= weight;
    }
    if (reduction != 2 && me == 0) *loss = static_cast<T>(total[1] * weight);
  }
};

/// First of two launches: a block is a team and takes one slice of a window, of all columns or, where these
/// are many, of some: one of `across` parts, which lie next to each other in x.
template <class T, int V>
struct CccSums {
  static constexpr int threads = 128;
  static constexpr int shared_bytes() { return threads * V * static_cast<int>(sizeof(CccMoments)); }
  CccForward<T> of;
  Wide across;

  AFFEKT_DEVICE void operator()() const {
    const Wide job = block_x() / across, part = block_x() % across;
    of.template sum<V>(job / of.slices, static_cast<int>(job % of.slices), thread_id(), threads,
                       part * threads * V, reinterpret_cast<CccMoments*>(shared_memory()));
  }
};

template <class T>
struct CccFinish {
  static constexpr int threads = 512;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(CccMoments)); }
  CccForward<T> of;

  AFFEKT_DEVICE void operator()() const { of.finish(threads); }
};

/// Small data, all in one launch: the teams of one block take a window each, then finish.
template <class T>
struct CccSmall {
  static constexpr int threads = 512;
  static constexpr int shared_bytes() { return threads * static_cast<int>(sizeof(CccMoments)); }
  CccForward<T> of;
  int team;  // threads of a window, a power of two, 32 at least

  AFFEKT_DEVICE void operator()() const {
    auto* const scratch = reinterpret_cast<CccMoments*>(shared_memory());
    const int me = thread_id(), mine = me / team, teams = threads / team;
    for (Wide first = 0; first < of.shape.groups; first += teams) {
      of.template sum<1>(first + mine, 0, me % team, team, 0, scratch + mine * team);
      barrier();
    }
    of.finish(threads);
  }
};

template <class T, int V>
struct CccBackward {
  static constexpr int threads = 128;
  static constexpr int shared_bytes() { return 0; }
  CccShape shape;
  const T *pred, *target;
  const unsigned char* mask;
  const double* columns;
  const T* upstream;
  bool one_upstream;  // for all columns
  Wide slice;
  int slices;
  bool wide;
  Wide across;                 // as in CccSums
  T *grad_pred, *grad_target;  // either may be null

  AFFEKT_DEVICE void operator()() const {
    const Wide job = block_x() / across, part = block_x() % across;
    const Wide group = job / slices, from = job % slices * slice, dims = shape.dims;
    const Wide offset = (group * shape.steps + from) * dims;
    const CccWalk<V> walk(thread_id(), threads, least(slice, shape.steps - from), dims, wide,
                          part * threads * V);
    if (walk.at >= walk.end) return;
    T mean_p[V], mean_y[V], other[V], self[V], on_p[V], on_y[V];
    AFFEKT_UNROLL
    for (int l = 0; l < V; ++l) {
      const Wide at = group * dims + walk.column_of(l);
      const double* const c = columns + at * ccc_values;
      const double g = static_cast<double>(upstream[one_upstream ? 0 : at]);
      const double by_other = g * c[ccc_on_other], by_self = g * c[ccc_on_self], shift = g * c[ccc_shift];
      mean_p[l] = static_cast<T>(c[ccc_mean_p]);
      mean_y[l] = static_cast<T>(c[ccc_mean_y]);
      // What rounding took from the means, far from zero more than the data's spread, returns in the
      // constants.
      const double lost_p = c[ccc_mean_p] - static_cast<double>(mean_p[l]);
      const double lost_y = c[ccc_mean_y] - static_cast<double>(mean_y[l]);
      other[l] = static_cast<T>(by_other);
      self[l] = static_cast<T>(by_self);
      on_p[l] = static_cast<T>(shift - by_other * lost_y - by_self * lost_p);
      on_y[l] = static_cast<T>(-shift - by_other * lost_p - by_self * lost_y);
    }
    const auto gradient = [&](int l, bool valid, T p, T y, T& to_p, T& to_y) {
      const T dp = p - mean_p[l], dy = y - mean_y[l];
      to_p = valid ? fused(other[l], dy, fused(self[l], dp, on_p[l])) : T(0);
      to_y = valid ? fused(other[l], dp, fused(self[l], dy, on_y[l])) : T(0);
    };
    const T *const of_pred = pred + offset, *const of_target = target + offset;
    const unsigned char* const of_mask = mask == nullptr ? nullptr : mask + offset;
    Wide e = walk.at;
    AFFEKT_UNROLL_BY(2)
    for (; e + V <= walk.end; e += walk.stride) {
      const auto a = load_pack<V>(of_pred + e), b = load_pack<V>(of_target + e);
      const auto valid = valid_of<V>(of_mask, e);
      Pack<T, V> to_p, to_y;
      AFFEKT_UNROLL
      for (int l = 0; l < V; ++l) gradient(l, valid.at[l] != 0, a.at[l], b.at[l], to_p.at[l], to_y.at[l]);
      if (grad_pred != nullptr) store_pack<V>(grad_pred + offset + e, to_p);
      if (grad_target != nullptr) store_pack<V>(grad_target + offset + e, to_y);
    }
    for (int l = 0; l < V; ++l) {
      if (e + l >= walk.end) break;
      T to_p, to_y;
      gradient(l, of_mask == nullptr || of_mask[e + l] != 0, of_pred[e + l], of_target[e + l], to_p, to_y);
      if (grad_pred != nullptr) grad_pred[offset + e + l] = to_p;
      if (grad_target != nullptr) grad_target[offset + e + l] = to_y;
    }
  }
};

}  // namespace affekt::gpu
