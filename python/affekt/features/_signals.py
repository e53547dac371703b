"""Signals as callers have them (NumPy, torch, nested lists) -> NumPy or the torch ops, and results back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from affekt import ops
from affekt.errors import InputError

__all__ = ["as_numpy", "by_op", "like"]


def as_numpy(samples: Any) -> np.ndarray:
    """`samples` as a NumPy array, without a copy where there is one below; the core checks the dtype."""
    if isinstance(samples, np.ndarray):
        return samples
    if _is_tensor(samples):
        return _from_torch(samples)
    try:
        return np.asarray(samples)
    except ValueError as error:
        raise InputError(
            f"samples: expected an array of shape (..., time), got {type(samples).__name__}: {error}"
        ) from None


def like(samples: Any, result: np.ndarray) -> Any:
    """`result` in the library that `samples` came from."""
    return sys.modules["torch"].from_numpy(result) if _is_tensor(samples) else result


def by_op(op: str, samples: Any, options: str, *, audio: bool = True) -> Any:
    """Result of the torch op of this name; None where `samples` need none: arrays, and plain CPU tensors.

    An op runs where a tensor wants its gradient, lies on another device, is being traced, or is inside a
    transform of `torch.func`. `audio`: int16 is taken as ``x / 32768`` and a NaN is an error; otherwise int16
    is taken as it is, and NaN is a missing sample.

    Raises
    ------
    InputError : another dtype, a 0-dimensional tensor, a sample that the op refuses.
    """
    if not _is_tensor(samples):
        return None
    torch = sys.modules["torch"]
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    transforms = () if torch.compiler.is_compiling() else torch._C._functorch.get_interpreter_stack() or ()
    if not (samples.requires_grad or samples.device.type != "cpu" or traced or transforms):
        return None
    if samples.dtype == torch.int16:
        samples = samples.float() / 32768 if audio else samples.float()
    elif samples.dtype not in (torch.float32, torch.float64):
        raise InputError(f"samples: expected dtype float32, float64 or int16, got {samples.dtype}")
    if samples.dim() == 0:
        raise InputError("samples: expected an array of shape (..., time), got 0 dimensions")
    # The ops have a rule for vmap; torch.func.grad and its like need plain torch.
    vmap = torch._C._functorch.TransformType.Vmap
    mapped = samples.is_cpu and bool(transforms) and all(each.key() == vmap for each in transforms)
    by_kernel = ops.native(samples, cuda=samples.is_cuda and ops.on_cuda(op, options))
    if not (by_kernel or (mapped and ops.available())):
        from affekt.ops import acoustic, bandpower

        usable = samples.isfinite() if audio else ~samples.isinf()
        if samples.is_cpu and not traced and not transforms and not usable.all():
            at = int((~usable).reshape(-1).int().argmax()) % samples.shape[-1]
            raise InputError(f"samples: expected finite values, got one that is not at index {at}")
        return (acoustic.REFERENCES | bandpower.REFERENCES)[op](samples, options)
    try:
        return getattr(torch.ops.affekt, op)(samples, options)
    except RuntimeError as error:
        # No fault of the samples: memory is full, or the device or a kernel failed.
        failed = isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError))
        if traced or failed or str(error).startswith("CUDA"):
            raise
        raise InputError(str(error).splitlines()[0]) from None


def _is_tensor(samples: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(samples, torch.Tensor)


def _from_torch(tensor: Any) -> np.ndarray:
    if tensor.requires_grad:
        raise InputError(
            "samples: expected a tensor without gradient (this does not differentiate), got one with "
            "requires_grad=True; pass samples.detach()"
        )
    if tensor.device.type != "cpu":
        raise InputError(f"samples: expected a CPU tensor, got one on {tensor.device}; pass samples.cpu()")
    if str(tensor.dtype) not in ("torch.float32", "torch.float64", "torch.int16"):
        raise InputError(f"samples: expected dtype float32, float64 or int16, got {tensor.dtype}")
    return tensor.numpy()
