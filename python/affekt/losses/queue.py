"""A queue of past embeddings as extra negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["NegativeQueue"]


class NegativeQueue(nn.Module):
    """The last `size` embeddings, first in first out; begins empty, never filled with noise.

    Parameters
    ----------
    size : most rows that are kept, at least 1.
    dim : features of a row, at least 1.

    `queue()` returns the rows so far, `(k, dim)` with k <= size, as a copy without gradient: pass it as
    ``negatives`` of a contrastive loss, then `push` the batch. Order is not defined. The rows are part of the
    state dict, so a resumed run goes on with them.

    Reference: K. He et al., "Momentum contrast for unsupervised visual representation learning" (2020).

    >>> queue = NegativeQueue(3, 2)
    >>> queue.push(torch.ones(2, 2))
    >>> queue().shape
    torch.Size([2, 2])
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        for name, value in (("size", size), ("dim", dim)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        self.rows: Tensor
        self.pushed: Tensor
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        return self.rows[: int(self.pushed)].clone()

    @torch.no_grad()
    def push(self, embeddings: Tensor) -> None:
        """Append `(n, dim)` rows, detached; the oldest make room.

        Raises
        ------
        InputError : another shape.
        """
        size, dim = self.rows.shape
        if embeddings.dim() != 2 or embeddings.shape[1] != dim:
            raise InputError(f"embeddings must be (n, {dim}), got {tuple(embeddings.shape)}")
        skipped = max(0, len(embeddings) - size)
        first = int(self.pushed) + skipped
        at = torch.arange(first, first + len(embeddings) - skipped, device=self.rows.device) % size
        self.rows[at] = embeddings[skipped:].to(self.rows)
        self.pushed += len(embeddings)

    def extra_repr(self) -> str:
        return f"{self.rows.shape[0]}, {self.rows.shape[1]}"
