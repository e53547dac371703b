"""Attention between the signals of one step, and over the steps of one signal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["CoAttention", "TemporalAttention"]


class CoAttention(nn.Module):
    """The signals of a step attend to one another; nothing passes from step to step.

    With queries, keys and values q_i, k_i, v_i of signal i, cut into `heads` parts of size s, each part gives
    ``a_i = sum_j p_ij v_j``, ``p_i = softmax over j of (q_i . k_j / sqrt(s))``. The output holds all a_i side
    by side. A signal that is not present is left out of every softmax, and its own a_i is zeros. Without
    `out_proj` and `residual_norm` it is the model file's node ``co_attention``.

    Parameters
    ----------
    widths : width of each signal's rows.
    dim : width of queries, keys and values, a multiple of `heads`.
    out_proj : a linear layer over all a_i.
    residual_norm : then y = LayerNorm(y + values).
    dropout : probability, in training only, on the outputs before the residual.

    Source: Zhang et al., "Continuous emotion recognition with audio-visual leader-follower attentive fusion",
    ABAW (2021), equations 6 to 9; after Vaswani et al., "Attention is all you need" (2017).

    >>> sum(p.numel() for p in CoAttention([128, 64]).parameters())
    18624
    """

    def __init__(
        self,
        widths: Sequence[int],
        dim: int = 32,
        *,
        heads: int = 1,
        out_proj: bool = False,
        residual_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.widths = [int(width) for width in widths]
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths must name at least one signal, each at least 1 wide, got {self.widths}")
        if dim < 1 or heads < 1 or dim % heads:
            raise InputError(f"dim must be a multiple of heads, both above 0, got {dim} and {heads}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {dropout}")
        self.dim, self.heads = int(dim), int(heads)
        self.query = nn.ModuleList(nn.Linear(width, dim) for width in self.widths)
        self.key = nn.ModuleList(nn.Linear(width, dim) for width in self.widths)
        self.value = nn.ModuleList(nn.Linear(width, dim) for width in self.widths)
        self.out_features = dim * len(self.widths)
        self.out_proj = nn.Linear(self.out_features, self.out_features) if out_proj else None
        self.norm = nn.LayerNorm(self.out_features) if residual_norm else None
        self.dropout = nn.Dropout(dropout)

    def attention(self, rows: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """p, (batch, time, heads, signals, signals): query by key. Each row sums to 1; those of signals that
        are not present are zeros.

        Parameters
        ----------
        rows : one (batch, time, width) per signal. present : (batch, time, signals) bool.
        """
        self._check(rows, present)
        query, key = self._projected(self.query, rows), self._projected(self.key, rows)
        scores = torch.einsum("btihc,btjhc->bthij", query, key) / (self.dim // self.heads) ** 0.5
        if present is None:
            return scores.softmax(-1)
        # Where no signal is present all are looked at, so that the softmax is finite; its rows become zeros.
        seen = present | ~present.any(-1, keepdim=True)
        weights = scores.masked_fill(~seen[:, :, None, None, :], float("-inf")).softmax(-1)
        return weights * present[:, :, None, :, None]

    def forward(self, rows: Sequence[Tensor], present: Tensor | None = None) -> Tensor:
        """(batch, time, dim * signals); parameters as for `attention`."""
        weights = self.attention(rows, present)
        value = self._projected(self.value, rows)
        if present is not None:
            value = value * present[..., None, None]
        out = torch.einsum("bthij,btjhc->btihc", weights, value).flatten(2)
        if self.out_proj is not None:
            out = self.out_proj(out)
        out = self.dropout(out)
        return out if self.norm is None else self.norm(out + value.flatten(2))

    def _projected(self, layers: nn.ModuleList, rows: Sequence[Tensor]) -> Tensor:
        """(batch, time, signals, heads, size)."""
        each = [layer(x) for layer, x in zip(layers, rows, strict=True)]
        return torch.stack(each, 2).unflatten(-1, (self.heads, -1))

    def _check(self, rows: Sequence[Tensor], present: Tensor | None) -> None:
        shapes = [tuple(x.shape) for x in rows]
        steps = shapes[0][:2] if shapes else ()
        if shapes != [(*steps, width) for width in self.widths]:
            wanted = ", ".join(f"(batch, time, {width})" for width in self.widths)
            raise InputError(f"rows must be {wanted}, got {shapes}")
        if present is not None and tuple(present.shape) != (*steps, len(self.widths)):
            raise InputError(
                f"present must be {(*steps, len(self.widths))}, batch, time and signals, got "
                f"{tuple(present.shape)}"
            )


class TemporalAttention(nn.Module):
    """The steps of one signal attend to one another: ``y = LayerNorm(x + softmax(q k' / sqrt(width)) v)``.

    Parameters
    ----------
    width : of the rows.
    causal : a step sees itself and the steps before it; otherwise all of them, and the model cannot run live.

    Shapes
    ------
    input and output `(batch, time, width)`; `mask` `(batch, time)` bool: steps that may be looked at. Memory
    grows with the square of time.
    """

    def __init__(self, width: int, *, causal: bool = True) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"width must be at least 1, got {width}")
        self.width, self.causal = int(width), bool(causal)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.width:
            raise InputError(f"x must be (batch, time, {self.width}), got {tuple(x.shape)}")
        time = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(1, 2) / self.width**0.5
        seen = torch.ones(time, time, dtype=torch.bool, device=x.device)
        seen = seen.tril() if self.causal else seen
        if mask is not None:
            own = torch.eye(time, dtype=torch.bool, device=x.device)  # a padded step is left with itself
            seen = seen & mask[:, None, :] | own
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return self.norm(x + weights @ self.value(x))
