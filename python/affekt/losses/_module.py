"""The module twin of a loss: its options, kept and shown."""

from __future__ import annotations

from typing import Any

from torch import nn


class LossModule(nn.Module):
    """Keeps the options of a loss function and shows them."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items())
