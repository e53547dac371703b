// Spectra of frames, fused: samples -> steps before the window -> window -> transform -> power -> mel filters
// -> logarithm -> cepstra, or -> the mean over segments (Welch), or -> integrals over bands. Neither frames
// nor spectra touch device memory, unless spectra are what is wanted.
//
// A row has the same bits whatever frames, signals or launches are beside it. A sample that is NaN or
// infinite makes the rows of its frames NaN or infinite, and no others; Welch leaves out segments with NaN,
// as affekt::Welch does, and gives NaN or infinity where a sample is infinite; so do the bands.
#pragma once

#include "fourier.cuh"

namespace affekt::gpu {

/// Where the powers of a frame lie in shared memory, beside those of other frames: lanes that take one bin of
/// every frame meet in no bank.
template <int M>
constexpr int power_pitch = M + (M >= 64 ? M / 64 : 1);

/// The sum of powers of bins, weighted.
template <class T>
AFFEKT_DEVICE T weighted(const MelRange& range, const T* powers, const T* weights) {
  const T *const power = powers + range.bin, *const weight = weights + range.weight;
  T a = 0;
  for (int i = 0; i < range.count; ++i) a = fused(power[i], weight[i], a);
  return a;
}

/// Rows of frames; the meaning of affekt::FrontEnd and affekt::Spectrogram; `complex`: its spectra. A block
/// takes neighbouring rows.
template <class T, int M, bool complex>
struct FrameRows {
  using Transform = Fourier<T, M>;
  static constexpr int threads = kFourierThreads, team = Transform::team, frames = Transform::frames;
  static constexpr int resident = sizeof(T) == 4 ? 4 : 2;
  static constexpr int pitch = power_pitch<M>;
  static constexpr int energies_at =
      most(Transform::memory * static_cast<int>(sizeof(T)), frames*(pitch + M) * static_cast<int>(sizeof(T)));
  static constexpr int shared_bytes() { return energies_at + frames * static_cast<int>(sizeof(double)); }
  FrameTask<T> task;

  /// Index into the signal of position i, which lies outside of it; negative: a zero.
  AFFEKT_DEVICE Wide padded(Wide i) const {
    const Wide n = task.samples;
    if (task.pad == pad_constant) return -1;
    if (task.pad == pad_edge) return i < 0 ? 0 : n - 1;
    const Wide period = task.pad == pad_reflect ? most(2 * (n - 1), Wide{1}) : 2 * n;
    Wide r = i % period;
    if (r < 0) r += period;
    if (r < n) return r;
    return task.pad == pad_reflect ? period - r : period - 1 - r;
  }

  /// The signal with its pre-emphasis at a position.
  AFFEKT_DEVICE T sample(const T* x, Wide i) const {
    if (i < 0 || i >= task.samples) i = padded(i);
    if (i < 0) return 0;
    return task.signal_emphasis != 0 && i > 0 ? fused(-task.signal_emphasis, x[i - 1], x[i]) : x[i];
  }

  AFFEKT_DEVICE void operator()() const {
    T* const memory = reinterpret_cast<T*>(shared_memory());
    double* const sums = reinterpret_cast<double*>(shared_memory());
    double* const energies = reinterpret_cast<double*>(shared_memory() + energies_at);
    const int f = thread_id() / team, t = thread_id() % team;
    const Wide first = static_cast<Wide>(block_x()) * frames, all = task.signals * task.frames;
    const int here = static_cast<int>(least(all - first, Wide{frames}));  // rows of this block
    const bool active = f < here;
    const Wide signal = (first + f) / task.frames, row = (first + f) % task.frames;
    const T* const x = task.x + (active ? signal * task.samples : 0);
    const Wide base = task.origin + row * task.hop;
    const int width = active ? task.width : 0;
    // Of a number of the transform, the sample under the window; spectra have it in the middle, where it
    // turns their phase, and nothing but that.
    const auto under = [&](int s) { return 2 * (t + s * team) - (complex ? task.before : 0); };
    const auto in = [&](int i) { return (!complex || i >= 0) && i < width; };

    Complex<T> v[8];
    double sum[1] = {};
    if (task.signal_emphasis == 0 && base >= 0 && base + width <= task.samples) {
      const T* const from = x + base;
      AFFEKT_UNROLL
      for (int s = 0; s < 8; ++s) {
        const int i = under(s);
        v[s].re = in(i) ? from[i] : T(0);
        v[s].im = in(i + 1) ? from[i + 1] : T(0);
      }
    } else {
      AFFEKT_UNROLL
      for (int s = 0; s < 8; ++s) {
        const int i = under(s);
        v[s].re = in(i) ? sample(x, base + i) : T(0);
        v[s].im = in(i + 1) ? sample(x, base + i + 1) : T(0);
      }
    }
    double mean = 0;
    if (!complex && task.remove_dc) {
      AFFEKT_UNROLL
      for (int s = 0; s < 8; ++s) sum[0] += static_cast<double>(v[s].re) + static_cast<double>(v[s].im);
      team_sums(sum, team, sums);
      mean = sum[0] / task.width;
      AFFEKT_UNROLL
      for (int s = 0; s < 8; ++s) {
        v[s].re = static_cast<T>(static_cast<double>(v[s].re) - mean);
        v[s].im = static_cast<T>(static_cast<double>(v[s].im) - mean);
      }
    }
    sum[0] = 0;
    AFFEKT_UNROLL
    for (int s = 0; s < 8; ++s) {
      const int i = under(s);
      const bool first_in = in(i), second_in = in(i + 1);
      Complex<T> a = v[s];
      if (!complex && task.energy == energy_raw)
        add_square(sum[0], first_in ? a.re : T(0), second_in ? a.im : T(0));
      if (!complex && task.frame_emphasis != 0 && first_in) {
        // The sample before the first is taken to equal it.
        T before = a.re;
        if (i > 0) before = static_cast<T>(static_cast<double>(sample(x, base + i - 1)) - mean);
        a = {fused(-task.frame_emphasis, before, a.re), fused(-task.frame_emphasis, a.re, a.im)};
      }
      v[s].re = first_in ? a.re * task.window[i] : T(0);
      v[s].im = second_in ? a.im * task.window[i + 1] : T(0);
      if (!complex && task.energy == energy_windowed) add_square(sum[0], v[s].re, v[s].im);
    }
    if (!complex && task.energy != energy_none) {
      team_sums(sum, team, sums);
      if (t == 0) energies[f] = sum[0] * task.energy_scale;
    }

    if constexpr (complex) {
      T* const to = task.out + (first + f) * (2 * (M + 1));
      Transform::spectrum(v, memory, task.roots, [&](int i, Complex<T> x) {
        const int k = Transform::bin(t, i);
        if (active && k >= 0) store_pack<2>(to + 2 * k, Pack<T, 2>{{x.re, x.im}});
      });
    } else {
      put_rows(v, first, here);
    }
  }

 private:
  // The rows of the block from its windowed frames.
  AFFEKT_DEVICE void put_rows(Complex<T> (&v)[8], Wide first, int here) const {
    T* const memory = reinterpret_cast<T*>(shared_memory());
    const double* const energies = reinterpret_cast<const double*>(shared_memory() + energies_at);
    const int f = thread_id() / team, t = thread_id() % team;
    T p[Transform::own];
    Transform::powers(v, memory, task.roots, p);
    AFFEKT_UNROLL
    for (int i = 0; i < Transform::own; ++i) {
      const int k = Transform::bin(t, i);
      if (k >= 0) memory[f * pitch + k] = raised(p[i]);
    }
    barrier();
    T* const out = task.out + first * task.columns;
    if (task.mels == 0) {
      for (int q = thread_id(); q < here * (M + 1); q += threads)
        out[q] = memory[q / (M + 1) * pitch + q % (M + 1)];
      return;
    }
    T* const mel = memory + frames * pitch;
    for (int q = thread_id(); q < frames * task.mels; q += threads) {
      const int of = q % frames, m = q / frames;
      mel[of * task.mels + m] = scaled(weighted(task.ranges[m], memory + of * pitch, task.weights));
    }
    barrier();
    const bool energy = task.energy != energy_none;
    for (int q = thread_id(); q < here * task.columns; q += threads) {
      const int of = q / task.columns, c = q % task.columns;
      if (energy && c == 0) {
        const double e = energies[of];
        out[q] = static_cast<T>(logarithm(e < task.energy_least ? task.energy_least : e));
      } else if (task.cepstra > 0) {
        T a = 0;
        for (int m = 0; m < task.mels; ++m)
          a = fused(mel[of * task.mels + m], task.dct[m * task.cepstra + c], a);
        out[q] = a;
      } else {
        out[q] = mel[of * task.mels + c - (energy ? 1 : 0)];
      }
    }
  }

  AFFEKT_DEVICE static void add_square(double& sum, T a, T b) {
    sum = fused(static_cast<double>(a), static_cast<double>(a), sum);
    sum = fused(static_cast<double>(b), static_cast<double>(b), sum);
  }
  AFFEKT_DEVICE T raised(T p) const {
    if (task.power == 2) return p;
    return task.power == 1 ? root(p) : power_of(p, task.power / 2);
  }
  AFFEKT_DEVICE T scaled(T mel) const {
    T y = mel < task.floor ? task.floor : mel;  // NaN stays
    if (task.log) y = fused(task.unit, logarithm(y), -task.ref);
    return (y + task.shift) * task.scale;
  }
};

/// The mean over `count` segments, of which `all` is the sum, as bin k of a one-sided spectrum.
template <class T>
AFFEKT_DEVICE void put_welch(const WelchTask<T>& task, Wide signal, int k, int bins, double all,
                             double count) {
  // The tables count every bin twice, for the negative frequencies that the outermost two have not.
  const double sides = k == 0 || k == bins - 1 ? 0.5 : 1.0;
  const double nothing = infinity<double>() - infinity<double>();
  task.out[signal * bins + k] = static_cast<T>(count > 0 ? all * sides / count : nothing);
  if (k == 0 && task.used != nullptr) task.used[signal] = static_cast<int>(count);
}

/// Detrends a segment of the task at x, windows it and gives its powers, p[i] of bin(t, i); nothing where it
/// is not `active`. Tells whether no sample is missing. All threads of the block call it; a team has a
/// segment.
template <int M, class Task, class T>
AFFEKT_DEVICE bool segment_powers(const Task& task, const T* x, bool active, T (&p)[Fourier<T, M>::own]) {
  using Transform = Fourier<T, M>;
  constexpr int team = Transform::team;
  T* const memory = reinterpret_cast<T*>(shared_memory());
  double* const sums = reinterpret_cast<double*>(shared_memory());
  const int t = thread_id() % team, width = active ? task.width : 0;
  const T middle = static_cast<T>(task.width - 1) / 2;
  // Relative to the first sample: a large offset costs no digits, a constant segment gives zeros.
  const T origin = active && task.detrend != detrend_none ? x[0] : T(0);
  Complex<T> v[8];
  T level = 0, slope = 0, missing = 0;
  AFFEKT_UNROLL
  for (int s = 0; s < 8; ++s) {
    const int i = 2 * (t + s * team);
    v[s].re = i < width ? x[i] - origin : T(0);
    v[s].im = i + 1 < width ? x[i + 1] - origin : T(0);
    missing += is_missing(i < width ? x[i] : T(0)) + is_missing(i + 1 < width ? x[i + 1] : T(0));
    level += v[s].re + v[s].im;
    slope = fused(v[s].re, static_cast<T>(i) - middle, slope);
    slope = fused(v[s].im, static_cast<T>(i + 1) - middle, slope);
  }
  double sum[3] = {static_cast<double>(missing), static_cast<double>(level), static_cast<double>(slope)};
  team_sums(sum, team, sums);
  const double n = task.width;
  const bool linear = task.detrend == detrend_linear && task.width > 1;
  level = task.detrend == detrend_none ? T(0) : static_cast<T>(sum[1] / n);
  slope = linear ? static_cast<T>(sum[2] * (12 / (n * (n * n - 1)))) : T(0);
  AFFEKT_UNROLL
  for (int s = 0; s < 8; ++s) {
    const int i = 2 * (t + s * team);
    const T at = static_cast<T>(i) - middle;
    v[s].re = i < width ? (v[s].re - fused(slope, at, level)) * task.window[i] : T(0);
    v[s].im = i + 1 < width ? (v[s].im - fused(slope, at + 1, level)) * task.window[i + 1] : T(0);
  }
  Transform::powers(v, memory, task.roots, p);
  return sum[0] == 0;
}

/// Sums of the powers of a slice of a signal's segments, over which a block goes; where a signal is one
/// slice, its spectrum.
template <class T, int M>
struct WelchSums {
  using Transform = Fourier<T, M>;
  static constexpr int threads = kFourierThreads, team = Transform::team, frames = Transform::frames;
  static constexpr int bins = M + 1;
  static constexpr int resident = sizeof(T) == 4 && M <= 512 ? 2 : 0;
  static constexpr int counts_at =
      most(Transform::memory * static_cast<int>(sizeof(T)), frames* bins* static_cast<int>(sizeof(double)));
  static constexpr int shared_bytes() { return counts_at + (frames + 1) * static_cast<int>(sizeof(double)); }
  WelchTask<T> task;

  AFFEKT_DEVICE void operator()() const {
    double* const sums = reinterpret_cast<double*>(shared_memory());
    double* const counts = reinterpret_cast<double*>(shared_memory() + counts_at);
    const int f = thread_id() / team, t = thread_id() % team;
    const Wide job = block_x(), signal = job / task.slices, from = job % task.slices * task.slice;
    const Wide to = least(from + task.slice, task.segments);
    double total[Transform::own] = {}, count = 0;
    for (Wide first = from; first < to; first += frames) {
      const bool active = first + f < to;
      T p[Transform::own];
      const T* const x = task.x + signal * task.samples + (active ? (first + f) * task.step : 0);
      if (segment_powers<M>(task, x, active, p) && active) {
        AFFEKT_UNROLL
        for (int i = 0; i < Transform::own; ++i) total[i] += static_cast<double>(p[i]);
        count += 1;
      }
    }
    AFFEKT_UNROLL
    for (int i = 0; i < Transform::own; ++i) {
      const int k = Transform::bin(t, i);
      if (k >= 0) sums[f * bins + k] = total[i];
    }
    if (t == 0) counts[f] = count;
    barrier();
    if (thread_id() == 0) {
      for (int g = 1; g < frames; ++g) count += counts[g];
      counts[frames] = count;
    }
    barrier();
    count = counts[frames];
    for (int k = thread_id(); k < bins; k += threads) {
      double all = 0;
      for (int g = 0; g < frames; ++g) all += sums[g * bins + k];
      if (task.slices == 1) {
        put_welch(task, signal, k, bins, all, count);
      } else {
        task.parts[job * (bins + 1) + k] = all;
      }
    }
    if (task.slices > 1 && thread_id() == 0) task.parts[job * (bins + 1) + bins] = count;
  }
};

/// Integrals of the powers of segments. A block takes neighbouring segments; see BandTask for which there
/// are.
template <class T, int M>
struct BandSegments {
  using Transform = Fourier<T, M>;
  static constexpr int threads = kFourierThreads, team = Transform::team, frames = Transform::frames;
  static constexpr int resident = WelchSums<T, M>::resident, pitch = power_pitch<M>;
  static constexpr int shared_bytes() {
    return most(Transform::memory, frames * pitch) * static_cast<int>(sizeof(T));
  }
  BandTask<T> task;

  AFFEKT_DEVICE void operator()() const {
    T* const memory = reinterpret_cast<T*>(shared_memory());
    const int f = thread_id() / team, t = thread_id() % team;
    const Wide per_signal = (task.before + task.frames) * task.fresh;
    const Wide first = static_cast<Wide>(block_x()) * frames,
               all = task.recordings * task.channels * per_signal;
    const Wide signal = (first + f) / per_signal, job = (first + f) % per_signal;
    const Wide start = (job / task.fresh - task.before) * task.hop +
                       (task.segments - task.fresh + job % task.fresh) * task.step;
    const bool active = first + f < all && start >= 0;
    T p[Transform::own];
    const bool whole =
        segment_powers<M>(task, task.x + (active ? signal * task.samples + start : 0), active, p);
    AFFEKT_UNROLL
    for (int i = 0; i < Transform::own; ++i) {
      const int k = Transform::bin(t, i);
      if (k >= 0) memory[f * pitch + k] = p[i];
    }
    if (t == 0 && first + f < all) task.whole[first + f] = active && whole;
    barrier();
    const int here = static_cast<int>(least(all - first, Wide{frames}));
    for (int q = thread_id(); q < here * task.values; q += threads)
      task.integrals[first * task.values + q] =
          weighted(task.ranges[q % task.values], memory + q / task.values * pitch, task.weights);
  }
};

/// Windows from the integrals of their segments. A thread takes a band of a channel.
template <class T>
struct BandWindows {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  BandTask<T> task;

  AFFEKT_DEVICE void operator()() const {
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    if (at >= task.recordings * task.frames * task.channels * task.bands) return;
    const int b = static_cast<int>(at % task.bands);
    const Wide channel = at / task.bands % task.channels,
               window = at / task.bands / task.channels % task.frames,
               recording = at / task.bands / task.channels / task.frames;
    const Wide signal = recording * task.channels + channel;
    double sum = 0, total = 0;
    Wide count = 0;
    for (Wide j = 0; j < task.segments; ++j) {
      const Wide ago = (task.segments - 1 - j) / task.segments_apart;
      const Wide fresh = j + ago * task.segments_apart - (task.segments - task.fresh);
      const Wide brought = task.before + window - ago * task.windows_apart;
      const Wide job = (signal * (task.before + task.frames) + brought) * task.fresh + fresh;
      if (task.whole[job] == 0) continue;
      const T* const integrals = task.integrals + job * task.values;
      sum += static_cast<double>(integrals[b]);
      total += static_cast<double>(integrals[task.values - 1]);
      ++count;
    }
    const bool relative = task.values > task.bands,
               good = count > 0 && (!relative || static_cast<T>(total) > 0);
    T y = static_cast<T>(sum / (relative ? total : static_cast<double>(count)));
    if (task.log) y = task.unit * logarithm(y < task.floor ? task.floor : y);
    task.power[at] = good ? y : static_cast<T>(infinity<double>() - infinity<double>());
    if (b == 0) task.valid[at / task.bands] = good;
  }
};

/// Adds up the slices. A thread takes a bin of a signal.
template <class T>
struct WelchFinish {
  static constexpr int threads = 256;
  static constexpr int shared_bytes() { return 0; }
  WelchTask<T> task;
  int bins;

  AFFEKT_DEVICE void operator()() const {
    const Wide at = static_cast<Wide>(block_x()) * threads + thread_id();
    if (at >= task.signals * bins) return;
    const Wide signal = at / bins;
    const int k = static_cast<int>(at % bins);
    double all = 0, count = 0;
    for (int s = 0; s < task.slices; ++s) {
      const double* const part = task.parts + (signal * task.slices + s) * (bins + 1);
      all += part[k];
      count += part[bins];
    }
    put_welch(task, signal, k, bins, all, count);
  }
};

}  // namespace affekt::gpu
