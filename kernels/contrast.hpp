// Launcher of the contrastive losses: device memory and a stream. The same losses as affekt::_info_nce and
// affekt::_sup_con on the CPU; nothing waits for the GPU.
#pragma once

#include "types.hpp"

namespace affekt::gpu {

/// Bytes of device memory, aligned to 256, that contrast_run works in: the unit vectors, the gradients of
/// unit vectors, a chunk of the gradient's matrix (256 rows of it at least) and some values per row. The
/// chunk is within the budget, and within the bytes of `rows` x `dim` floats or 8 MiB, whichever is more: 4 N
/// D floats are enough for all and for the gradients of 16-bit embeddings.
Wide contrast_workspace(const Contrast& task);

/// Loss and gradients. Returns null, or what CUDA says.
const char* contrast_run(const Contrast& task, void* workspace, Stream stream);

}  // namespace affekt::gpu
