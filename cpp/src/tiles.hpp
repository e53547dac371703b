// Frames of signals through the kernels of kernels/frontend.hpp, a tile of neighbouring frames at a time, on
// the threads of the library; shared by the front end and the spectrograms.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "affekt/aligned.hpp"
#include "affekt/runtime.hpp"
#include "fft.hpp"
#include "framing.hpp"
#include "kernels/frontend.hpp"
#include "kernels/scan.hpp"
#include "parallel.hpp"

namespace affekt {

template <class T>
const FrontEndKernelsOf<T>& tile_kernels() {
  if constexpr (std::is_same_v<T, float>) {
    return frontend_kernels().floats;
  } else {
    return frontend_kernels().doubles;
  }
}

/// A sample at full scale 1; exact in all three cases.
inline double sample(float x) { return x; }
inline double sample(double x) { return x; }
inline double sample(std::int16_t x) { return x * (1.0 / 32768.0); }

/// Window and transform in T, with the view of them; the owner fills in the rest of the view.
template <class T>
struct TilePlan {
  TilePlan(const Framing& f, const std::vector<double>& window_, double scale, std::size_t inset)
      : framing(f), fft(static_cast<std::size_t>(f.n_fft)), wide_window(window_) {
    view.fft = fft.view();
    for (double& w : wide_window) w *= scale / static_cast<double>(view.fft.gain);
    for (const double w : wide_window) window.push_back(static_cast<T>(w));
    view.width = window.size();
    view.inset = inset;
    view.window = window.data();
    view.wide_window = wide_window.data();
    view.energy_scale = scale * scale;
    view.windowed_scale = static_cast<double>(view.fft.gain) * static_cast<double>(view.fft.gain);
    view.power = T(2);
  }
  TilePlan(const TilePlan&) = delete;
  TilePlan& operator=(const TilePlan&) = delete;

  /// Whether steps before the window are needed.
  bool careful() const {
    return view.remove_dc || view.raw_energy || view.windowed_energy || view.signal_emphasis != 0.0 ||
           view.frame_emphasis != 0.0;
  }

  Framing framing;
  RealFft<T> fft;
  std::vector<double> wide_window;
  std::vector<T> window;
  FrontEndView<T> view{};
  const FrontEndKernelsOf<T>& kernels = tile_kernels<T>();
};

/// Asks for n values to be brought near, as far as they fit there; they are needed when the work of a tile is
/// done.
template <class T>
void prefetch(const T* x, std::size_t n) noexcept {
  constexpr std::size_t room = std::size_t{1} << 18, line = 64;
  const char* at = reinterpret_cast<const char*>(x);
  const std::size_t bytes = std::min(n, room / sizeof(T)) * sizeof(T);
  for (std::size_t i = 0; i < bytes; i += line) __builtin_prefetch(at + i);
}

/// What one tile works on: its rows, and the work space of the kernels.
template <class T>
class Tile {
 public:
  /// `complex`: for spectra, whose bins have two values.
  explicit Tile(const TilePlan<T>& plan, bool complex = false) : plan_(&plan) {
    const std::size_t lanes = plan.kernels.lanes;
    const FrontEndView<T>& v = plan.view;
    std::size_t size = 0;
    const auto reserve = [&size](std::size_t bytes) {
      const std::size_t at = size;
      size += (bytes + 63) / 64 * 64;
      return at;
    };
    const std::size_t vector = 64 / sizeof(T);
    const std::size_t z = reserve(v.fft.values * lanes * sizeof(T));
    const std::size_t work = reserve(v.fft.work * lanes * sizeof(T));
    const std::size_t bins = reserve(((complex ? 2 : 1) * v.fft.bins * lanes + vector) * sizeof(T));
    const std::size_t mel = reserve((v.n_mels * lanes + vector) * sizeof(T));
    const std::size_t frame = reserve(2 * v.width * sizeof(double));
    const std::size_t edge = reserve(v.width * sizeof(double));
    const std::size_t floats = reserve((v.width + 1) * sizeof(float));
    const std::size_t rows = reserve(lanes * v.width * sizeof(T));
    const std::size_t energies = reserve(lanes * sizeof(T));
    const std::size_t pointers = reserve(lanes * sizeof(T*));
    memory_.resize(size);
    const auto at = [this](std::size_t offset) { return static_cast<void*>(memory_.data() + offset); };
    scratch_ = {static_cast<T*>(at(z)), static_cast<T*>(at(work)), static_cast<T*>(at(bins)),
                static_cast<T*>(at(mel)), static_cast<double*>(at(frame))};
    edge_ = static_cast<double*>(at(edge));
    floats_ = static_cast<float*>(at(floats));
    own_rows_ = static_cast<T*>(at(rows));
    energies_ = static_cast<T*>(at(energies));
    rows_ = static_cast<const T**>(at(pointers));
  }
  Tile(Tile&&) noexcept = default;

  std::size_t bytes() const { return memory_.size(); }

  /// Takes `width` samples from `from` on as row l; `first`: no sample comes before.
  template <class S>
  void row(std::size_t l, const S* from, bool first) noexcept {
    const FrontEndView<T>& v = plan_->view;
    T* own = own_rows_ + l * v.width;
    if constexpr (std::is_same_v<S, std::int16_t>) {
      const std::size_t before = first ? 0 : 1;
      if (std::is_same_v<T, float> && !plan_->careful()) {
        frontend_kernels().widen(from, v.width, reinterpret_cast<float*>(own));
        rows_[l] = own;
      } else {
        frontend_kernels().widen(from - before, v.width + before, floats_);
        row<float>(l, floats_ + before, first);
      }
    } else if constexpr (std::is_same_v<S, T>) {
      if (plan_->careful()) {
        prepared(l, from, first, false);
      } else {
        rows_[l] = from;
      }
    } else {
      prepared(l, from, first, false);
    }
  }

  /// Rows row ... row + count - 1 of a signal; returns the lanes in use, and whether windows are on in
  /// `windowed`.
  template <class S>
  std::size_t load(const S* x, std::size_t n, std::size_t row0, std::size_t count) noexcept {
    for (std::size_t l = 0; l < count; ++l) {
      const std::int64_t base = plan_->framing.base(row0 + l);
      if (plan_->framing.inside(base, n)) {
        row(l, x + base, base == 0);
      } else {
        edge(l, x, n, base);
      }
    }
    return fill(count);
  }

  /// Lanes without a frame repeat the last of `count`; returns the lanes in use.
  std::size_t fill(std::size_t count) noexcept {
    const std::size_t lanes = count == 1 ? 1 : plan_->kernels.lanes;
    for (std::size_t l = count; l < lanes; ++l) {
      rows_[l] = rows_[count - 1];
      energies_[l] = energies_[count - 1];
    }
    return lanes;
  }

  /// Whether rows of samples of type S have the window on already.
  template <class S>
  bool windowed() const noexcept {
    constexpr bool exact =
        std::is_same_v<S, T> || (std::is_same_v<S, std::int16_t> && std::is_same_v<T, float>);
    return plan_->careful() || !exact;
  }

  const T* const* rows() const noexcept { return rows_; }
  const FrontEndScratch<T>& scratch() const noexcept { return scratch_; }
  T* energies() noexcept { return energies_; }

 private:
  template <class S>
  void prepared(std::size_t l, const S* from, bool first, bool emphasised) noexcept {
    T* own = own_rows_ + l * plan_->view.width;
    double energy = 0;
    if constexpr (std::is_same_v<S, float>) {
      energy = plan_->kernels.from_floats(plan_->view, from, first, emphasised, scratch_.frame, own);
    } else {
      energy = plan_->kernels.from_doubles(plan_->view, from, first, emphasised, scratch_.frame, own);
    }
    energies_[l] = static_cast<T>(energy);
    rows_[l] = own;
  }

  /// A frame that reaches outside the signal.
  template <class S>
  void edge(std::size_t l, const S* x, std::size_t n, std::int64_t base) noexcept {
    const FrontEndView<T>& v = plan_->view;
    const double c = v.signal_emphasis;
    T* own = own_rows_ + l * v.width;
    const bool careful = windowed<S>();
    for (std::size_t i = 0; i < v.width; ++i) {
      const std::size_t at = padded_index(plan_->framing.pad_mode, base + static_cast<std::int64_t>(i),
                                          static_cast<std::int64_t>(n));
      double value = at == kNoSample ? 0.0 : sample(x[at]);
      if (c != 0.0 && at != kNoSample && at > 0) value -= sample(x[at - 1]) * c;
      if (careful) {
        edge_[i] = value;
      } else {
        own[i] = static_cast<T>(value);
      }
    }
    rows_[l] = own;
    if (careful) prepared(l, edge_, true, true);
  }

  const TilePlan<T>* plan_;
  AlignedVector<unsigned char> memory_;
  FrontEndScratch<T> scratch_;
  double* edge_;
  float* floats_;
  T* own_rows_;
  T* energies_;
  const T** rows_;
};

/// Signals of type S; results of type O, rows frames(n) each.
template <class S, class O>
struct Signals {
  const S* const* x;
  const std::size_t* n;
  O* const* out;
  std::size_t count;
};

inline std::size_t first_beyond(const float* x, std::size_t n, double limit) {
  return scan().floats(x, n, static_cast<float>(limit));
}
inline std::size_t first_beyond(const double* x, std::size_t n, double limit) {
  return scan().doubles(x, n, limit);
}
inline std::size_t first_beyond(const std::int16_t*, std::size_t n, double) { return n; }

/// The tiles of all signals, numbered through.
class Tiles {
 public:
  Tiles(const Framing& framing, const std::size_t* n, std::size_t count, std::size_t lanes) : lanes_(lanes) {
    first_.push_back(0);
    for (std::size_t i = 0; i < count; ++i) {
      frames_.push_back(framing.frames(n[i]));
      first_.push_back(first_.back() + (frames_.back() + lanes - 1) / lanes);
    }
  }
  std::size_t size() const { return first_.back(); }
  std::size_t first(std::size_t signal) const { return first_[signal]; }
  std::size_t frames(std::size_t signal) const { return frames_[signal]; }

  /// f(tile of its work space, number, signal, first row, rows) noexcept for every tile, on the threads of
  /// the library where there is enough to do. `cost`: nanoseconds of a row.
  template <class Work, class Make, class F>
  void each(double cost, Make&& make, F&& f) const {
    constexpr double worth_a_thread = 1e6, piece = 2e5;  // ns
    const double tile = cost * static_cast<double>(lanes_);
    const bool alone = tile * static_cast<double>(size()) < 2 * worth_a_thread;
    // At most one call of `body` per thread runs at a time, so a free place is always there.
    const std::size_t places = alone ? 1 : static_cast<std::size_t>(num_threads());
    std::vector<Work> works;
    works.reserve(places);
    for (std::size_t i = 0; i < places; ++i) works.push_back(make());
    std::vector<std::atomic<bool>> taken(places);
    const auto body = [&](std::size_t begin, std::size_t end) noexcept {
      std::size_t place = 0;
      while (taken[place].exchange(true, std::memory_order_acquire)) place = (place + 1) % places;
      std::size_t signal =
          static_cast<std::size_t>(std::upper_bound(first_.begin(), first_.end(), begin) - first_.begin()) -
          1;
      for (std::size_t t = begin; t < end; ++t) {
        while (t >= first_[signal + 1]) ++signal;
        const std::size_t row = (t - first_[signal]) * lanes_;
        f(works[place], t, signal, row, std::min(lanes_, frames_[signal] - row));
      }
      taken[place].store(false, std::memory_order_release);
    };
    if (alone) {
      body(0, size());
    } else {
      parallel_for(size(), std::max<std::size_t>(1, static_cast<std::size_t>(piece / tile)), body);
    }
  }

 private:
  std::size_t lanes_;
  std::vector<std::size_t> first_, frames_;
};

/// f(tile with its rows loaded, number, signal, first row, rows, lanes in use) noexcept for every tile of the
/// signals, as Tiles::each. Every sample is looked at once, while it is near; throws InvalidArgument where
/// one is beyond `limit`.
template <class T, class S, class O, class F>
void each_usable_tile(const TilePlan<T>& plan, const Signals<S, O>& signals, double cost, double limit,
                      bool complex, F&& f) {
  const Tiles tiles(plan.framing, signals.n, signals.count, plan.kernels.lanes);
  const auto hop = static_cast<std::size_t>(plan.framing.hop_length);
  std::atomic<bool> usable{true};
  tiles.each<Tile<T>>(
      cost, [&] { return Tile<T>(plan, complex); },
      [&](Tile<T>& tile, std::size_t t, std::size_t i, std::size_t row, std::size_t count) noexcept {
        const S* x = signals.x[i];
        const std::size_t n = signals.n[i];
        const std::size_t begin = std::min(n, row * hop);
        const std::size_t end = row + count >= tiles.frames(i) ? n : std::min(n, (row + count) * hop);
        if (first_beyond(x + begin, end - begin, limit) != end - begin) {
          usable.store(false, std::memory_order_relaxed);
          return;
        }
        prefetch(x + end, std::min(n - end, count * hop));
        f(tile, t, i, row, count, tile.load(x, n, row, count));
      });
  for (std::size_t i = 0; i < signals.count; ++i) {
    if (usable && tiles.frames(i) > 0) continue;
    const std::size_t bad = first_beyond(signals.x[i], signals.n[i], limit);
    if (bad == signals.n[i]) continue;
    throw InvalidArgument("samples: expected finite values of magnitude up to " + text(limit) + ", got " +
                          text(sample(signals.x[i][bad])) + " at index " + std::to_string(bad) +
                          (signals.count > 1 ? " of signal " + std::to_string(i) : ""));
  }
}

}  // namespace affekt
