"""Row-wise blocks: standardisation, stacking of consecutive rows, masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["Stack", "Standardise", "lengths_to_mask"]


def lengths_to_mask(lengths: Sequence[int] | Tensor, time: int | None = None) -> Tensor:
    """Boolean `(batch, time)`: True on the first `lengths[i]` steps; `time` defaults to the longest."""
    lengths = torch.as_tensor(lengths)
    time = int(lengths.max()) if time is None else time
    return torch.arange(time, device=lengths.device) < lengths[:, None]


class Standardise(nn.Module):
    """y = (x - mean) * scale per feature, scale = 1 / sd; the identity until `set` is called.

    The statistics are buffers: they travel with the state dict and into the model file, and no gradient
    reaches them. Whoever calls `set` answers for having fitted them on training data only.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def set(self, mean: Any, sd: Any, *, floor: float = 1e-3) -> None:
        """Take per-feature mean and standard deviation; an sd below `floor` counts as `floor`."""
        mean = torch.as_tensor(mean, dtype=torch.float64)
        sd = torch.as_tensor(sd, dtype=torch.float64)
        for name, value in (("mean", mean), ("sd", sd)):
            if value.shape != self.mean.shape or not bool(torch.isfinite(value).all()):
                raise InputError(
                    f"{name} must be {self.mean.numel()} finite numbers, got {tuple(value.shape)}"
                )
        self.mean.copy_(mean)
        self.scale.copy_(1 / sd.clamp(min=floor))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale


class Stack(nn.Module):
    """Concatenate `size` consecutive rows, oldest first, at every `stride`-th row once `size` rows are there.

    Output row j holds input rows j*stride .. j*stride + size - 1, so T rows give (T - size) // stride + 1 and
    an output row depends on nothing later than the input row it ends with.
    """

    def __init__(self, size: int = 4, stride: int | None = None) -> None:
        super().__init__()
        self.size, self.stride = int(size), int(size if stride is None else stride)
        if self.size < 1 or self.stride < 1:
            raise InputError(f"size and stride must be at least 1, got {size} and {stride}")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`(batch, time, d)` -> `(batch, time', size * d)` and the mask: valid where every stacked row is."""
        if x.shape[1] < self.size:
            raise InputError(f"x must have at least {self.size} rows to stack, got {x.shape[1]}")
        rows = x.unfold(1, self.size, self.stride).transpose(2, 3).flatten(2)
        return rows, None if mask is None else mask.unfold(1, self.size, self.stride).all(-1)
