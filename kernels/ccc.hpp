// Launchers of the concordance loss: pointers to device memory and a stream. Results are as those of
// affekt/losses.hpp; nothing waits for the GPU.
#pragma once

#include "types.hpp"

namespace affekt::gpu {

/// Null if the current device can run these kernels, else what CUDA says.
const char* ccc_unfit();

/// Bytes of device memory that ccc_forward works in.
Wide ccc_workspace(const CccShape& shape);

/// Loss and columns (groups * dims, ccc_values) of pred and target; `mask`, of their shape, may be null.
/// reduction: 0 the mean over columns with a valid element, 1 the sum, 2 one loss per column. One launch for
/// small data, else two. Returns null, or what CUDA says.
template <class T>
const char* ccc_forward(const CccShape& shape, const T* pred, const T* target, const unsigned char* mask,
                        double eps, bool mixed, int reduction, double* columns, T* loss, void* workspace,
                        Stream stream);

/// Gradients, either of which may be null; upstream holds one value, or one per column. One launch.
template <class T>
const char* ccc_backward(const CccShape& shape, const T* pred, const T* target, const unsigned char* mask,
                         const double* columns, const T* upstream, bool one_upstream, T* grad_pred,
                         T* grad_target, Stream stream);

}  // namespace affekt::gpu
