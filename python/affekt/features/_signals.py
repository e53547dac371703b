"""Signals as callers have them (NumPy, torch on the CPU, nested lists) -> NumPy, and results back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from affekt.errors import InputError

__all__ = ["as_numpy", "like"]


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


def _is_tensor(samples: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(samples, torch.Tensor)


def _from_torch(tensor: Any) -> np.ndarray:
    if tensor.requires_grad:
        raise InputError(
            "samples: expected a tensor without gradient (features do not differentiate), got one with "
            "requires_grad=True; pass samples.detach()"
        )
    if tensor.device.type != "cpu":
        raise InputError(f"samples: expected a CPU tensor, got one on {tensor.device}; pass samples.cpu()")
    if str(tensor.dtype) not in ("torch.float32", "torch.float64", "torch.int16"):
        raise InputError(f"samples: expected dtype float32, float64 or int16, got {tensor.dtype}")
    return tensor.numpy()
