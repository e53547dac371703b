// What host and device code of the kernels share; no header of either.
#pragma once

struct CUstream_st;

namespace affekt::gpu {

using Wide = long long;       // sizes and offsets
using Stream = CUstream_st*;  // cudaStream_t

/// Concordance: pred and target are (groups, steps, dims), dense.
struct CccShape {
  Wide groups, steps, dims;
};

/// The values of a column that forward leaves to backward, in the order of affekt::CccColumn.
enum CccValue {
  ccc_count,
  ccc_mean_p,
  ccc_mean_y,
  ccc_loss,
  ccc_on_other,
  ccc_on_self,
  ccc_shift,
  ccc_values
};

/// What embeddings are made of. 16-bit ones have statistics, gradients of units and scalars in float32.
enum class Number { float32, float64, bfloat16, float16 };

/// A contrastive loss over rows of embeddings, dense and `dim` wide: of `a` against `b`, or, with labels, of
/// `a` against itself. Temperature is 1 / scale. Outputs that are null are not wanted.
struct Contrast {
  Number number;
  bool tf32;       // float32 products may be rounded to tf32
  Wide rows, dim;  // of a and b
  Wide extra;      // rows of `negatives`: more candidates of every row
  const void *a, *b, *negatives;
  const long long* labels;  // SupCon if not null: positives of a row are the other rows of its label
  const void* scale;        // one value: float, or double for float64
  Wide shift;               // InfoNCE: the positive of row i is row (i + shift) mod rows of b
  bool exclude;             // InfoNCE: row i of b is no candidate of row i
  bool columns;             // InfoNCE: rows of b are anchors as well
  double weight;            // InfoNCE: of a term; SupCon takes the mean over rows with a positive
  Wide budget;              // most bytes for a chunk of the gradient's matrix
  // Gradients of unit upstream; in the format of a, but float32 for float16. Scalars as `scale`.
  void *loss, *grad_a, *grad_b, *grad_scale;
};

template <class T>
struct Complex {
  T re, im;
};

// In the order of affekt::PadMode, affekt::EnergyMode and affekt::Detrend.
enum Pad { pad_constant, pad_reflect, pad_edge, pad_symmetric };
enum Energy { energy_none, energy_raw, energy_windowed };
enum Detrending { detrend_none, detrend_constant, detrend_linear };

/// Bins of a mel filter, and where its weights begin.
struct MelRange {
  int bin, count, weight;
};

/// Signals (signals, samples), dense, to rows (signals, frames, columns), or to spectra of pairs, real and
/// imaginary, (signals, frames, columns, 2): see spectra_tables.hpp, which fills in all but x, out and the
/// sizes of the signals. Pointers lie in device memory.
template <class T>
struct FrameTask {
  const T* x;
  Wide signals, samples, frames;
  int transform;     // length
  Wide hop, origin;  // position of the first sample under the window of row 0
  int width, pad;    // samples under the window
  int before;        // of spectra: zeros before them in the transform
  T signal_emphasis, frame_emphasis;
  bool remove_dc;
  int energy;
  double energy_scale, energy_least;
  const T* window;          // width, times scale / 2
  const Complex<T>* roots;  // see Fourier
  T power;                  // exponent of the magnitude
  int mels;                 // 0: the powers are the rows
  const MelRange* ranges;
  const T* weights;
  T floor;
  bool log;
  T unit, ref, shift, scale;  // y = (unit ln(max(mel, floor)) - ref + shift) scale
  int cepstra;                // 0: the mel values are the rows
  const T* dct;               // (mels, cepstra)
  int columns;
  T* out;
};

/// Signals (signals, samples), dense, to spectra (signals, bins) by Welch's method.
template <class T>
struct WelchTask {
  const T* x;
  Wide signals, samples, segments;  // segments of a signal
  int transform;                    // length
  Wide step;                        // from segment to segment
  int width, detrend;               // samples of a segment
  const T* window;                  // width, times half the root of the scale of a bin in the middle
  const Complex<T>* roots;
  Wide slice;  // segments that a block adds up
  int slices;  // of a signal
  double* parts;
  T* out;
  int* used;  // segments of each signal without NaN; may be null
};

/// Recordings (recordings, channels, samples), dense, to band power in sliding windows: power (recordings,
/// frames, channels, bands) and valid (recordings, frames, channels); the meaning of affekt::BandPower. A
/// segment that several windows hold is transformed once: window f brings its last `fresh` segments, window
/// f - windows_apart brought those that lie segments_apart before, and so on.
template <class T>
struct BandTask {
  const T* x;
  Wide recordings, channels, samples, frames;
  int transform;       // length
  Wide step, hop;      // from segment to segment, from window to window
  int width, detrend;  // samples of a segment
  Wide segments, fresh, windows_apart, segments_apart;
  Wide before;      // virtual windows before the first, whose segments later ones hold
  const T* window;  // as in WelchTask
  const Complex<T>* roots;
  int bands, values;       // integrals of a segment: the bands', then, for relative power, the total
  const MelRange* ranges;  // of the integrals
  const T* weights;
  bool log;
  T floor, unit;         // y = unit ln(max(power, floor))
  T* integrals;          // (recordings * channels, before + frames, fresh, values)
  unsigned char* whole;  // of the same segments: no sample is missing
  T* power;
  bool* valid;
};

}  // namespace affekt::gpu
