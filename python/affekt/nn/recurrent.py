"""Stacked LSTMs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["LSTM"]


class LSTM(nn.Module):
    """LSTM layers of falling width, one after the other, with dropout behind each.

    Parameters
    ----------
    in_features : width of an input row.
    sizes : units of each layer.
    dropout : probability, in training only, behind each layer.
    bidirectional : read each sequence from both ends, with half of a layer's outputs from either (sizes are
        then per direction). Not causal: such a model cannot run live.

    Shapes
    ------
    input `(batch, time, in_features)`, output `(batch, time, out_features)`; `mask` `(batch, time)`, valid
    steps first, matters to the backward direction alone: it starts at the last valid step.

    Reference: Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).

    >>> sum(p.numel() for p in LSTM(192, [96, 48]).parameters())
    139392
    """

    def __init__(
        self, in_features: int, sizes: Sequence[int], *, dropout: float = 0.0, bidirectional: bool = False
    ) -> None:
        super().__init__()
        sizes = [int(size) for size in sizes]
        if in_features < 1 or not sizes or min(sizes) < 1:
            raise InputError(f"in_features and sizes must be at least 1, got {in_features} and {sizes}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {dropout}")
        self.in_features, self.sizes, self.bidirectional = int(in_features), sizes, bool(bidirectional)
        ways = 2 if bidirectional else 1
        widths = [self.in_features, *(ways * size for size in sizes)]
        self.layers = nn.ModuleList(
            nn.LSTM(a, size, batch_first=True, bidirectional=self.bidirectional)
            for a, size in zip(widths, sizes, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.out_features = widths[-1]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.in_features:
            raise InputError(f"x must be (batch, time, {self.in_features}), got {tuple(x.shape)}")
        time = x.shape[1]
        lengths = None
        if mask is not None and self.bidirectional:
            lengths = mask.sum(1).clamp(min=1).cpu()
        for layer in self.layers:
            if lengths is None:
                x = layer(x)[0]
            else:
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                x = nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=time)[0]
            x = self.dropout(x)
        return x
