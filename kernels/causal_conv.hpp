// Launchers of the TCN's residual block: device memory and a stream. Results are as those of
// affekt/tcn_training.hpp, to rounding, with the same draws of dropout; nothing waits for the GPU.
#pragma once

#include "affekt/tcn_training.hpp"
#include "types.hpp"

namespace affekt::gpu {

/// Bytes of device memory that tcn_block_forward works in.
template <class T>
Wide tcn_forward_workspace(const TcnBlock<T>& block);

/// The forward pass; all pointers, those of the block too, lie in device memory. `keys`: two, where dropout
/// is above 0; those of the block are not read. `tf32`: products of float32 may be rounded to it. Three
/// launches. Returns null, or what CUDA says.
template <class T>
const char* tcn_block_forward(const TcnBlock<T>& block, const long long* keys, bool tf32, const T* x, T* h1,
                              T* h2, T* y, void* workspace, Stream stream);

/// Bytes of device memory that tcn_block_backward works in, for any gradients.
template <class T>
Wide tcn_backward_workspace(const TcnBlock<T>& block);

/// The gradients that are wanted, at most seven launches.
template <class T>
const char* tcn_block_backward(const TcnBlock<T>& block, bool tf32, const T* x, const T* h1, const T* h2,
                               const T* y, const T* grad_y, const TcnBlockGradients<T>& to, void* workspace,
                               Stream stream);

}  // namespace affekt::gpu
