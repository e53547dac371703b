"""The acoustic front end as a module."""

from __future__ import annotations

import json

import torch
from torch import Tensor, nn

from affekt import ops
from affekt.errors import InputError
from affekt.features import LogMel, Mfcc

__all__ = ["Acoustic"]


class Acoustic(nn.Module):
    """Log-mel or MFCC rows of audio inside a model: differentiable, scriptable, exportable.

    Parameters
    ----------
    features : a `LogMel` or `Mfcc`, whose options hold all there is to know.

    Shapes
    ------
    input `(batch, time)` samples, output `(batch, frames, features)`.

    Raises
    ------
    InputError : `features` is something else.

    `torch.jit.script` needs the op library, as does the program that loads the script: see `affekt.ops`.

    >>> mel = Acoustic(LogMel(sample_rate=16000, n_mels=40))
    >>> mel(torch.zeros(2, 16000)).shape
    torch.Size([2, 97, 40])
    """

    def __init__(self, features: LogMel | Mfcc) -> None:
        super().__init__()
        if not isinstance(features, (LogMel, Mfcc)):
            raise InputError(f"features: expected a LogMel or Mfcc, got {type(features).__name__}")
        self.options = json.dumps(features.options)
        self._features = features
        ops.available()  # registers the op that a script refers to

    def forward(self, signal: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            rows: Tensor = torch.ops.affekt.acoustic(signal, self.options)
            return rows
        return self._eager(signal)

    @torch.jit.unused
    def _eager(self, signal: Tensor) -> Tensor:
        rows: Tensor = self._features(signal)
        return rows

    def extra_repr(self) -> str:
        return repr(self._features)
