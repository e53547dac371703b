"""Pooling over a sliding window of rows: attention, statistics, both, or a mere count."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["POOL_KINDS", "Pool"]

POOL_KINDS = ("attention_statistics", "attention", "statistics", "mean", "count")
VARIANCE_FLOOR = 1e-5


class Pool(nn.Module):
    """Summary of the last `window` rows, older rows fading with `half_life`.

    With age weights a_i = 0.5^((newest - i) / half_life) (1 where half_life is None):

    - attention: s_i = u . x_i + c, w_i = a_i exp(s_i - max s) / sum_j a_j exp(s_j - max s),
      gives sum_i w_i x_i;
    - mean: v_i = a_i / sum_j a_j, gives m = sum_i v_i x_i;
    - statistics: m and sqrt(max(sum_i v_i (x_i - m)^2, 0) + 1e-5), width 2d;
    - attention_statistics: attention, then statistics, width 3d;
    - count: sum_i a_i, width 1: how many rows the summary rests on.

    Masked rows get weight 0 everywhere. The summary is recomputed from the window, never updated from an
    earlier one, so nothing older than the window can influence it. Live, an estimate leaves at every `hop`-th
    row and once more at the end of the recording; `trace` gives all of these, `forward` only the last.

    Parameters
    ----------
    features : row width d.
    kind : see above.
    window : rows in the window, at least 1.
    half_life : rows after which a row's weight has halved, or None for no fading.
    hop : rows between live estimates.
    """

    def __init__(
        self,
        features: int,
        kind: str = "attention_statistics",
        *,
        window: int = 150,
        half_life: float | None = None,
        hop: int = 5,
    ) -> None:
        super().__init__()
        if kind not in POOL_KINDS:
            raise InputError(f"kind must be one of {', '.join(POOL_KINDS)}, got {kind!r}")
        if window < 1 or hop < 1:
            raise InputError(f"window and hop must be at least 1 row, got {window} and {hop}")
        if half_life is not None and not half_life > 0:
            raise InputError(f"half_life must be positive or None, got {half_life}")
        self.features, self.kind, self.window, self.hop = int(features), kind, int(window), int(hop)
        self.half_life = None if half_life is None else float(half_life)
        self.score = nn.Linear(features, 1) if kind.startswith("attention") else None
        if self.score is not None:
            nn.init.zeros_(self.score.weight)  # starts as the plain (faded) mean
            nn.init.zeros_(self.score.bias)

    @property
    def out_features(self) -> int:
        """Width of the summary."""
        if self.kind == "count":
            return 1
        return (
            self.features * {"attention": 1, "mean": 1, "statistics": 2, "attention_statistics": 3}[self.kind]
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, counted: Tensor | None = None) -> Tensor:
        """`(batch, time, d)`, mask `(batch, time)` -> `(batch, width)` at each recording's last valid row.

        counted : `(batch, time)`, the rows that weigh, where these are not all of the valid ones. A window
            without any gives zeros (sd: the floor).

        Raises
        ------
        InputError : a recording has no valid row.
        """
        self._check(x, mask)
        batch, time = x.shape[:2]
        if mask is None:
            newest = torch.full((batch,), time - 1, device=x.device)
        else:
            if not bool(mask.any(1).all()):
                raise InputError("mask must leave at least one valid row in every recording")
            newest = time - 1 - mask.flip(1).int().argmax(1)
        if counted is not None:
            self._check(x, counted, "counted")
        return self._summaries(x, mask if counted is None else counted, newest[:, None])[:, 0]

    def trace(self, x: Tensor, mask: Tensor | None = None, *, fast: bool = False) -> tuple[Tensor, Tensor]:
        """Every live estimate of recordings of equal length: `(batch, n, width)` and the row of each `(n,)`.

        Rows are hop - 1, 2 hop - 1, ... and the last row when it is not among them. A window without a valid
        row gives zeros (sd: the floor); the caller knows from the mask that it means nothing.

        fast : by matrix products, many times as fast where there are many windows; variances are then
            differences of moments, good to about 1e-6 of the squared range of x.
        """
        self._check(x, mask)
        time = x.shape[1]
        rows = torch.arange(time, device=x.device)[self.hop - 1 :: self.hop]
        if time % self.hop:
            rows = torch.cat([rows, torch.tensor([time - 1], device=x.device)])
        if fast:
            return self._products(x, mask, rows), rows
        return self._summaries(x, mask, rows.expand(x.shape[0], -1)), rows

    def _check(self, x: Tensor, mask: Tensor | None, name: str = "mask") -> None:
        if x.dim() != 3 or x.shape[-1] != self.features or not x.shape[1]:
            raise InputError(f"x must be (batch, time >= 1, {self.features}), got {tuple(x.shape)}")
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise InputError(
                f"{name} must be boolean {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
            )

    def _products(self, x: Tensor, mask: Tensor | None, newest: Tensor) -> Tensor:
        """Summaries of the windows that end at rows `newest` (n,) -> (batch, n, width), by products with a
        (batch, n, time) matrix of weights."""
        age = newest[:, None] - torch.arange(x.shape[1], device=x.device)
        weight = ((age >= 0) & (age < self.window)).to(x.dtype)
        if self.half_life is not None:
            weight = weight * torch.pow(0.5, age.clamp(min=0).to(x.dtype) / self.half_life)
        weight = weight.expand(x.shape[0], -1, -1)
        if mask is not None:
            weight = weight * mask[:, None].to(x.dtype)
        if self.kind == "count":
            return weight.sum(-1, keepdim=True)
        seen = (weight.sum(-1, keepdim=True) > 0).to(x.dtype)
        centre = x.detach().mean(1, keepdim=True)  # moments about a point near the data
        x = x - centre
        parts = []
        if self.score is not None:
            # Each window's own maximum: where its scores lie far below the recording's, all would underflow.
            score = self.score(x)[:, None, :, 0].masked_fill(weight == 0, torch.finfo(x.dtype).min)
            attention = _normalised(weight * (score - score.amax(-1, keepdim=True)).exp())
            parts.append((attention @ x + centre) * seen)
        if self.kind != "attention":
            share = _normalised(weight)
            mean = share @ x
            parts.append((mean + centre) * seen)
            if self.kind != "mean":
                variance = (share @ x.square() - mean.square()).clamp(min=0.0)
                parts.append((variance + VARIANCE_FLOOR).sqrt())
        return torch.cat(parts, -1)

    def _summaries(self, x: Tensor, mask: Tensor | None, newest: Tensor) -> Tensor:
        """Summaries of the windows that end at rows `newest` (batch, n) -> (batch, n, width)."""
        age = torch.arange(min(self.window, x.shape[1]) - 1, -1, -1, device=x.device)
        index = newest[..., None] - age  # (batch, n, window), oldest first
        valid = index >= 0
        index = index.clamp(min=0)
        if mask is not None:
            valid = valid & mask.gather(1, index.flatten(1)).view_as(index)
        rows = x.gather(1, index.flatten(1)[..., None].expand(-1, -1, x.shape[-1])).view(*index.shape, -1)
        weight = valid.to(x.dtype)
        if self.half_life is not None:
            weight = weight * torch.pow(0.5, age.to(x.dtype) / self.half_life)
        if self.kind == "count":
            return weight.sum(-1, keepdim=True)
        parts = []
        if self.score is not None:
            score = self.score(rows)[..., 0].masked_fill(~valid, torch.finfo(x.dtype).min)
            attention = weight * torch.exp(score - score.amax(-1, keepdim=True))
            parts.append((_normalised(attention)[..., None] * rows).sum(-2))
        if self.kind != "attention":
            share = _normalised(weight)[..., None]
            mean = (share * rows).sum(-2, keepdim=True)
            parts.append(mean[..., 0, :])
            if self.kind != "mean":
                variance = (share * (rows - mean).square()).sum(-2)
                parts.append((variance + VARIANCE_FLOOR).sqrt())
        return torch.cat(parts, -1)


def _normalised(weight: Tensor) -> Tensor:
    return weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
