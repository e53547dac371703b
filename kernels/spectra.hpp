// Launchers of the front ends: device memory and a stream. The same rows as affekt::FrontEnd,
// affekt::Spectrogram, affekt::Welch and affekt::BandPower; nothing waits for the GPU. Tasks are made by
// spectra_tables.hpp.
#pragma once

#include "types.hpp"

namespace affekt::gpu {

/// Lengths of transforms that the kernels have: powers of two from 64 to 4096.
bool has_transform(Wide length);

/// Rows of all signals, or their spectra, in one launch. Returns null, or what CUDA says.
template <class T>
const char* frame_rows(const FrameTask<T>& task, bool complex, Stream stream);

/// Bytes of device memory that `welch` works in: parts of a signal of more than 64 segments.
Wide welch_workspace(Wide signals, Wide segments, Wide transform);

/// Spectra of all signals, in one launch, or two where signals are long. Sets slices and parts of the task.
template <class T>
const char* welch_spectra(WelchTask<T> task, void* workspace, Stream stream);

/// Bytes of device memory that band_powers works in.
template <class T>
Wide band_workspace(const BandTask<T>& task);

/// Band power of all recordings, in two launches. Sets integrals and whole of the task.
template <class T>
const char* band_powers(BandTask<T> task, void* workspace, Stream stream);

}  // namespace affekt::gpu
