#include "spectra.hpp"

#include <utility>

#include "launch.hpp"
#include "spectra.cuh"

namespace affekt::gpu {
namespace {

// Segments that one block adds up. Fixed, so that results do not depend on the GPU.
constexpr Wide kWelchSlice = 64;

template <class F, int... M>
const char* with_half(int half, F&& f, std::integer_sequence<int, M...>) {
  const char* problem = "no transform of this length";
  (void)((half == M && (problem = f(std::integral_constant<int, M>()), true)) || ...);
  return problem;
}

// f(half the length), a constant.
template <class F>
const char* with_transform(int length, F&& f) {
  return with_half(length / 2, f, std::integer_sequence<int, 32, 64, 128, 256, 512, 1024, 2048>());
}

}  // namespace

bool has_transform(Wide length) { return length >= 64 && length <= 4096 && (length & (length - 1)) == 0; }

template <class T>
const char* frame_rows(const FrameTask<T>& task, bool complex, Stream stream) {
  return with_transform(task.transform, [&](auto half) {
    const Wide blocks = ceil_div(task.signals * task.frames, Fourier<T, half>::frames);
    return complex ? launch({blocks}, stream, FrameRows<T, half, true>{task})
                   : launch({blocks}, stream, FrameRows<T, half, false>{task});
  });
}

Wide welch_workspace(Wide signals, Wide segments, Wide transform) {
  const Wide slices = ceil_div(segments, kWelchSlice);
  return slices > 1 ? signals * slices * (transform / 2 + 2) * static_cast<Wide>(sizeof(double)) : 0;
}

template <class T>
const char* welch_spectra(WelchTask<T> task, void* workspace, Stream stream) {
  task.slice = kWelchSlice;
  task.slices = static_cast<int>(most(Wide{1}, ceil_div(task.segments, kWelchSlice)));
  task.parts = static_cast<double*>(workspace);
  const char* problem = with_transform(task.transform, [&](auto half) {
    return launch({task.signals * task.slices}, stream, WelchSums<T, half>{task});
  });
  if (problem != nullptr || task.slices == 1) return problem;
  const int bins = task.transform / 2 + 1;
  return launch({ceil_div(task.signals * bins, WelchFinish<T>::threads)}, stream, WelchFinish<T>{task, bins});
}

template <class T>
Wide band_workspace(const BandTask<T>& task) {
  const Wide segments = task.recordings * task.channels * (task.before + task.frames) * task.fresh;
  return segments * (task.values * static_cast<Wide>(sizeof(T)) + 1);
}

template <class T>
const char* band_powers(BandTask<T> task, void* workspace, Stream stream) {
  if (task.frames == 0) return nullptr;  // the segments before the first window end beyond the signal
  const Wide segments = task.recordings * task.channels * (task.before + task.frames) * task.fresh;
  task.integrals = static_cast<T*>(workspace);
  task.whole = reinterpret_cast<unsigned char*>(task.integrals + segments * task.values);
  const char* const problem = with_transform(task.transform, [&](auto half) {
    using Kernel = BandSegments<T, half>;
    return launch({ceil_div(segments, Kernel::frames)}, stream, Kernel{task});
  });
  if (problem != nullptr) return problem;
  const Wide values = task.recordings * task.frames * task.channels * task.bands;
  return launch({ceil_div(values, BandWindows<T>::threads)}, stream, BandWindows<T>{task});
}

#define AFFEKT_SPECTRA(T)                                             \
  template const char* frame_rows(const FrameTask<T>&, bool, Stream); \
  template const char* welch_spectra(WelchTask<T>, void*, Stream);    \
  template Wide band_workspace(const BandTask<T>&);                   \
  template const char* band_powers(BandTask<T>, void*, Stream);
AFFEKT_SPECTRA(float)
AFFEKT_SPECTRA(double)
#undef AFFEKT_SPECTRA

}  // namespace affekt::gpu
